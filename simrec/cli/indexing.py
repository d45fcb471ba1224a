"""`simrec index build`, `list` and `show`; `simrec encode` and `simrec export`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from simrec.cli.terminal import Session, data_dir_option, fail, say, table
from simrec.errors import StoreError

if TYPE_CHECKING:
    from simrec.contracts import Dtype

_format = click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="How to print it.",
)


@click.group()
def index() -> None:
    """Build catalogues and see what is there."""


@index.command()
@click.argument("name")
@click.argument("source", required=False)
@click.option("--encoder", metavar="OTHER", help="Make NAME new, around the encoder of this trained recommender.")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "int8", "binary"]),
    help="How codes are kept: int8 takes a quarter of float32 (the default), binary 64 bits a code.",
)
@data_dir_option
@click.pass_obj
def build(
    session: Session, name: str, source: str | None, encoder: str | None, dtype: Dtype | None, data_dir: Path | None
) -> None:
    """Encode the pictures of SOURCE and make them the catalogue of NAME.

    SOURCE is a folder of pictures, labels as sub-folders, or a source that 'simrec plugins list' names; without it,
    the one that NAME was built from before, else what the encoder was trained on.
    """
    from simrec import recommender as verbs

    with session.counting() as progress:
        built = verbs.build(
            name, source, encoder=encoder, dtype=dtype, data_dir=data_dir, home_folder=session.home, progress=progress,
            notice=session.notice,
        )  # fmt: skip
    catalogue = built.manifest.catalogue
    assert catalogue is not None
    session.notice(f"Indexed {catalogue.count:,} items of {catalogue.source} in {built.folder}.")
    session.notice(f"Next: {session.simrec} similar PICTURE --index {built.name}")


@index.command("list")
@_format
@click.pass_obj
def list_(session: Session, form: str) -> int:
    """What recommenders there are, yours and the shipped ones."""
    from simrec import recommender as verbs

    errors: list[StoreError] = []
    described = [opened.describe() for opened in verbs.listing(session.home, errors.append)]
    for error in errors:
        fail(error)
    if form == "json":
        say(json.dumps(described, indent=1, ensure_ascii=False))
        return 1 if errors else 0
    table(
        ["name", "encoder", "numbers", "items", "catalogue", "MB", "created", "folder"],
        [
            [
                d["name"], f"{d['encoder']['name']}/{d['encoder']['preset']}", str(d["encoder"]["dim"]),
                f"{d['catalogue']['count']:,}" if d["catalogue"] else "-",
                d["catalogue"]["source"] if d["catalogue"] else "none",
                f"{d['bytes'] / 1e6:.1f}", d["created"][:10], d["folder"],
            ]
            for d in described
        ],
    )  # fmt: skip
    return 1 if errors else 0


@index.command()
@click.argument("name")
@_format
@click.pass_obj
def show(session: Session, name: str, form: str) -> None:
    """What a recommender is made of: encoder, training, catalogue, versions."""
    from simrec import recommender as verbs

    described = verbs.open(name, session.home).describe()
    if form == "json":
        say(json.dumps(described, indent=1, ensure_ascii=False))
    else:
        table(["", ""], [[key, str(value)] for key, value in _flat(described)])


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, value in values.items():
        rows += _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", value)]
    return rows


@click.command()
@click.argument("source")
@click.option("--index", "name", metavar="NAME", required=True, help="The recommender whose encoder to use.")
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="FILE",
    help="A .npy, .parquet or .csv file, or '-': .npy on standard output.",
)
@data_dir_option
@click.pass_obj
def encode(session: Session, source: str, name: str, output: str, data_dir: Path | None) -> None:
    """Write the codes of SOURCE's pictures, float32, one row a picture, without indexing them.

    As `export` writes a catalogue's: .npy with the pictures' names beside it as JSON lines, .parquet or .csv.
    """
    from simrec import exports
    from simrec import recommender as verbs
    from simrec.arrays import to_npy
    from simrec.catalogue import Item

    opened = verbs.open(name, session.home)
    pictures = opened.pictures(source, data_dir, session.notice)
    with session.counting() as progress:
        codes = opened.encode(pictures.images, lambda done: progress("encoding", done, len(pictures)))
    if output == "-":
        sys.stdout.buffer.write(to_npy(codes))
        return
    items = [
        Item(row, *named) for row, named in enumerate(zip(pictures.ids, pictures.sources, pictures.labels, strict=True))
    ]
    written = exports.write(Path(output), codes, items, opened.manifest.encoder.title)
    session.notice(f"Wrote {codes.shape[0]:,} codes of {codes.shape[1]} numbers: {' and '.join(map(str, written))}.")


@click.command()
@click.argument("name")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), required=True, metavar="FILE",
    help="A .npy, .parquet or .csv file.",
)  # fmt: skip
@click.pass_obj
def export(session: Session, name: str, output: Path) -> None:
    """Write a catalogue's codes with their ids and labels, for other programs.

    .npy holds the codes alone, its items beside it as JSON lines; .parquet and .csv hold both.
    """
    from simrec import recommender as verbs

    written = verbs.open(name, session.home).export(output)
    session.notice(f"Wrote {' and '.join(str(path) for path in written)}.")
