"""`simrec index build`, `list` and `show`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from simrec.cli.duplicates import duplicates
from simrec.cli.terminal import Session, data_dir_option, fail, say, table
from simrec.errors import StoreError, quantity

if TYPE_CHECKING:
    from simrec.contracts import Dtype

format_option = click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="How to print it.",
)


strict_option = click.option(
    "--strict", is_flag=True, help="Stop with an error at the first picture that can't be read."
)
unread_option = click.option(
    "--unread", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
    help="Write a line for each picture that can't be read, with the reason, to this file.",
)  # fmt: skip
discard_option = click.option("--discard", is_flag=True, help="Throw away what an interrupted build has finished.")
yes_option = click.option("--yes", is_flag=True, help="Go ahead even if this removes more than half of the items.")


@click.group()
def index() -> None:
    """Build catalogues and see what is there."""


index.add_command(duplicates)


@index.command()
@click.argument("name")
@click.argument("source", required=False)
@click.option("--encoder", metavar="OTHER", help="Use the encoder of this recommender.")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "int8", "binary"]),
    help="How codes are stored: int8 takes a quarter of float32 (the default), binary 64 bits a code.",
)
@click.option("--replace", is_flag=True, help="Replace the catalogue even if it was built from another source.")
@click.option("--from-scratch", is_flag=True, help="Encode everything again, even what hasn't changed.")
@yes_option
@strict_option
@unread_option
@discard_option
@data_dir_option
@click.pass_obj
def build(
    session: Session, name: str, source: str | None, encoder: str | None, dtype: Dtype | None, replace: bool,
    from_scratch: bool, yes: bool, strict: bool, unread: Path | None, discard: bool, data_dir: Path | None,
) -> None:  # fmt: skip
    """Make the pictures of SOURCE the catalogue of NAME.

    SOURCE is a folder of pictures (sub-folders are labels), a list of pictures (.csv), an export (.parquet or .arrow),
    or a source that 'simrec plugins list' names. Without it, NAME is built from the same source as before, else from
    what the encoder was trained on. The codes of an export are used as they are if the same encoder made them.

    A catalogue that exists is synced, as by 'simrec index sync'; with another --encoder, everything is encoded again.
    Ctrl-C keeps what is finished: run the same command again to go on from there.
    """
    from simrec.verbs.build import build as verb
    from simrec.verbs.encoding import Unread

    with session.counting() as progress:
        built = verb(
            name, source, encoder=encoder, dtype=dtype, replace=replace, from_scratch=from_scratch, yes=yes,
            discard=discard, unread=Unread(strict, unread), data_dir=data_dir, home_folder=session.home,
            progress=progress, notice=session.notice,
        )  # fmt: skip
    catalogue = built.manifest.catalogue
    assert catalogue is not None
    session.notice(f"Indexed {quantity(catalogue.count, 'item')} of {catalogue.source} in {built.folder}.")
    session.notice(f"Next: {session.simrec} similar PICTURE --index {built.name}")


@index.command("list")
@format_option
@click.pass_obj
def list_(session: Session, form: str) -> int:
    """List the recommenders, yours and the shipped ones."""
    from simrec import library

    errors: list[StoreError] = []
    described = [opened.describe() for opened in library.listing(session.home, errors.append)]
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
@click.option("--all", "everything", is_flag=True, help="Show every field of its manifest.")
@format_option
@click.pass_obj
def show(session: Session, name: str, everything: bool, form: str) -> None:
    """Show what a recommender is made of.

    That is its encoder and how it was trained, its catalogue and the versions that wrote them.
    """
    from simrec import library

    described = library.open(name, session.home).describe(fields=True)
    if form == "json":
        say(json.dumps(described, indent=1, ensure_ascii=False))
    else:
        rows = _flat(described) if everything else _summary(described)
        table(["", ""], [[key, str(value)] for key, value in rows])


def _summary(d: dict[str, Any]) -> list[tuple[str, Any]]:
    """The parts of `Recommender.describe` that a person wants to see first."""
    encoder, catalogue = d["encoder"], d["catalogue"]
    trained, picture = encoder["trained_on"], encoder["input"]
    items = f"{catalogue['count']:,} of {catalogue['source']}" if catalogue else "no catalogue yet"
    return [
        ("name", d["name"]),
        ("folder", d["folder"]),
        ("encoder", f"{encoder['name']}/{encoder['preset']} of {encoder['provider']}"),
        ("codes", f"{encoder['dim']} numbers, compared by {encoder['metric']}"),
        ("pictures", f"{picture['size']} x {picture['size']}, {picture['channels']} channels, {picture['recipe']}"),
        ("trained on", f"{trained['count']:,} pictures of {trained['source']}, seed {encoder['seed']}"),
        ("decodes", "yes" if encoder["decodes"] else "no"),
        ("items", items),
        ("fields", _fields(catalogue["fields"]) if catalogue else "-"),
        ("kept as", catalogue["dtype"] if catalogue else "-"),
        *([("kept in", catalogue["engine"])] if catalogue and catalogue["engine"] else []),
        ("size", f"{d['bytes'] / 1e6:.1f} MB"),
        ("made", f"{d['created'][:10]} by: {encoder['command']}"),
    ]


def _fields(fields: dict[str, str] | None) -> str:
    if fields is None:
        return "unknown: its database doesn't tell"
    words = {"int": "whole numbers", "float": "numbers", "str": "texts"}
    return ", ".join(f"{name} ({words[kind]})" for name, kind in fields.items()) or "none"


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, value in values.items():
        rows += _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", value)]
    return rows
