"""`simrec compress` and `simrec decompress`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from simrec.cli.terminal import Session, format_option, index_option, png, say, table
from simrec.errors import DataError, quantity

REPORTED = 10_000
"""Maximum number of test pictures for measuring compression."""


@click.command()
@click.argument("sources", nargs=-1, metavar="[SOURCE]...")
@index_option("demo-sparse")
@click.option(
    "--bits", type=click.IntRange(2, 8), default=8, show_default=True, help="Bits per number before entropy coding."
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
    help="The container to write; with --report, the .png to draw.",
)  # fmt: skip
@click.option("--report", is_flag=True, help="Compare 2 to 8 bits with PNG, JPEG and WebP on test pictures.")
@format_option
@click.pass_obj
def compress(
    session: Session, sources: tuple[str, ...], name: str, bits: int, output: Path | None, report: bool,
    form: str,
) -> None:  # fmt: skip
    """Store pictures in a few bytes each.

    Their codes are quantised and entropy-coded.
    A SOURCE is a picture, a folder of pictures, or a data set. 'simrec decompress' with the same encoder turns the
    codes back into pictures: you get what the encoder kept, not the pictures bit for bit.
    """
    if report:
        if sources:
            raise click.UsageError("--report takes no SOURCE: it measures on test pictures.")
        _report(session, name, png(output), form)
        return
    if not sources or output is None:
        raise click.UsageError("Name what to compress and, with -o, the file to write (or use --report).")
    import numpy as np

    from simrec.files import replacing

    opened = session.open(name)
    loaded = [opened.pictures(source, notice=session.notice) for source in sources]
    data = opened.compress(np.concatenate([pictures.images for pictures in loaded]), bits)
    with replacing(output) as file:
        file.write(data)
    count = sum(map(len, loaded))
    session.notice(f"Compressed {quantity(count, 'picture')} to {len(data):,} bytes: {output}")


@click.command()
@click.argument("container", type=click.Path(path_type=Path, dir_okay=False))
@index_option()
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, file_okay=False), metavar="FOLDER", required=True,
    help="The folder to write; it must not exist, or be empty.",
)  # fmt: skip
@click.pass_obj
def decompress(session: Session, container: Path, name: str | None, output: Path) -> None:
    """Turn a container of codes back into pictures.

    They are PNG files, numbered in the order in which they were compressed.
    Without --index, simrec finds the recommender whose encoder made the codes.
    """
    from simrec import files, library
    from simrec.compression import LARGEST
    from simrec.files import making
    from simrec.images import as_picture

    try:
        with files.opened(container) as file:
            data = files.read(file, LARGEST)
    except OSError as error:
        raise DataError(f"{container}: cannot be read ({error.strerror}): name a container of codes") from error
    opened = library.open(name, session.home) if name else library.maker_of(data, str(container), session.home)
    images = opened.decompress(data, str(container))
    with making(output) as folder:
        for number, image in enumerate(images):
            as_picture(image).save(folder / f"{number:05d}.png")
    session.notice(f"Decompressed {quantity(len(images), 'picture')} with {opened.name}: {output}")


def _report(session: Session, name: str, output: Path | None, form: str) -> None:
    from simrec import sheets
    from simrec.files import replacing
    from simrec.verbs import decode as verb

    opened = session.open(name)
    images = opened.examples(REPORTED).images
    with session.counting() as progress:
        rows = verb.rates(opened, images, progress)
    if form == "json":
        say(json.dumps(rows, indent=1))
    else:
        cells = [(row["name"], f"{row['bits']:,.0f}", f"{row['bits'] / 8:,.1f}", f"{row['MSE']:.4f}") for row in rows]
        table(["", "bits a picture", "bytes", "MSE"], cells, title=f"{opened.name}: {len(images):,} pictures")
    if output:
        with replacing(output) as file:
            sheets.rate_distortion(rows, f"{opened.manifest.encoder.name}: {len(images):,} pictures").save(file, "PNG")
        session.notice(f"Drawn: {output}")
