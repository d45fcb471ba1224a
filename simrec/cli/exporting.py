"""`simrec encode`, `simrec export` and `simrec verify`."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from simrec.cli.terminal import Session, data_dir_option, draw_inputs, say, show_input_option, stdout

if TYPE_CHECKING:
    from simrec.contracts import CodeDtype
    from simrec.verbs.export import Wishes

SHOWN = 24
"""How many pictures `encode --show-input` draws: the first ones."""

OPTIONS = (
    click.option(
        "-o", "--output", required=True, metavar="FILE",
        help="The file to write. Its ending sets the format: .parquet, .arrow, .npy, .npz, .csv, .jsonl, .safetensors, "
        ".faiss, .lance, .tsv for TensorBoard, or a plugin's. '-' is standard output.",
    ),
    click.option("--format", "form", metavar="NAME", help="The format, whatever the file's ending."),
    click.option("--where", metavar="EXPR", help="Only items that match, such as \"price < 20 AND colour = 'red'\"."),
    click.option("--columns", metavar="A,B,...", help="Which columns, such as id,price,code; 'preview' is one too."),
    click.option("--normalize", is_flag=True, help="Divide each code by its length."),
    click.option(
        "--dtype", type=click.Choice(["float32", "float16", "int8"]), default="float32", show_default=True,
        help="The type of the codes' numbers; the file keeps the scale of int8.",
    ),
    click.option(
        "--codes", type=click.Choice(["numbers", "text"]), default="numbers", show_default=True,
        help="In a .csv: one column per number, or one column [0.1,0.2,...] as pgvector reads it.",
    ),
)  # fmt: skip


def export_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options of an export; the command gets them as `output` and `wishes`."""

    @wraps(command)
    def wished(
        *args: Any, form: str | None, where: str | None, columns: str | None, normalize: bool, dtype: CodeDtype,
        codes: str, **others: Any,
    ) -> Any:  # fmt: skip
        from simrec.verbs.export import Wishes

        chosen = None if columns is None else [name.strip() for name in columns.split(",")]
        return command(*args, wishes=Wishes(form, where, chosen, normalize, dtype, codes == "text"), **others)

    for option in reversed(OPTIONS):
        wished = option(wished)
    return wished


def _target(output: str) -> Path | BinaryIO:
    return stdout().buffer if output == "-" else Path(output)


@click.command()
@click.argument("source")
@click.option("--index", "name", metavar="NAME", required=True, help="The recommender whose encoder to use.")
@export_options
@show_input_option
@data_dir_option
@click.pass_obj
def encode(
    session: Session, source: str, name: str, output: str, wishes: Wishes, show_input: Path | None,
    data_dir: Path | None,
) -> None:  # fmt: skip
    """Write the codes of SOURCE's pictures to a file.

    The file has one row per picture, as `export` writes it for a catalogue; nothing is indexed. Columns are id, label,
    source, a list's other columns, and the code. Standard output is .npy unless --format says otherwise.
    """
    from simrec import library
    from simrec.verbs.export import encode as verb
    from simrec.verbs.export import inputs

    opened = library.open(name, session.home)
    if show_input:
        images, names = inputs(opened, source, SHOWN, data_dir=data_dir, notice=session.notice)
        draw_inputs(session, opened, list(zip(images, names, strict=True)), show_input)
    with session.counting() as progress:
        written = verb(
            opened, source, _target(output), wishes, data_dir=data_dir, progress=progress, notice=session.notice
        )
    if written:
        session.notice(f"Wrote the codes of {source}: {' and '.join(map(str, written))}.")


@click.command()
@click.argument("name")
@export_options
@click.pass_obj
def export(session: Session, name: str, output: str, wishes: Wishes) -> None:
    """Write a catalogue's codes to a file for other programs.

    Columns are id, label, source, the items' fields, and the code. Each file says which encoder made its codes, in its
    own metadata or in FILE.simrec.json beside it; 'simrec verify' checks it. Formats that hold only codes (.npy,
    .safetensors, .faiss) keep the other columns beside them as JSON lines. Standard output is jsonl unless --format
    says otherwise.

    A FILE that ends in .onnx is the encoder itself, without items: a graph that also says how pictures are prepared.
    """
    from simrec import library
    from simrec.verbs.encoder import encoder
    from simrec.verbs.export import Wishes
    from simrec.verbs.export import export as verb

    opened, target = library.open(name, session.home), _target(output)
    if isinstance(target, Path) and target.suffix.lower() == ".onnx":
        if wishes != Wishes():
            raise click.UsageError(f"{output} is the encoder itself, without items: leave the other options out")
        written = encoder(opened, target)
    else:
        with session.counting() as progress:
            written = verb(opened, target, wishes, progress=progress)
    if written:
        session.notice(f"Wrote {' and '.join(map(str, written))}.")


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--index", "name", metavar="NAME", help="Also check that it is from this recommender's encoder.")
@click.pass_obj
def verify(session: Session, file: Path, name: str | None) -> None:
    """Check that an exported file is complete and unaltered.

    FILE is what 'simrec export' or 'simrec encode' wrote: codes, or an encoder in a .onnx.
    """
    from simrec import library
    from simrec.verbs.encoder import verify_encoder
    from simrec.verbs.verify import verify as verb

    opened = library.open(name, session.home) if name else None
    if file.suffix.lower() == ".onnx":
        said = verify_encoder(file, opened)
        say(f"{file}: whole: encoder {said['encoder']}, whose codes have {said['dim']} numbers")
        return
    with session.counting() as progress:
        record = verb(file, opened, progress=progress)
    length = ", of length 1" if record.normalised else ""
    say(
        f"{file}: whole: {record.count:,} codes of {record.dim} numbers ({record.dtype}{length}) of encoder "
        f"{record.encoder}"
    )
