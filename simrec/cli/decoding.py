"""What a decoder is good for: `simrec reconstruct`, `denoise`, `compress`, `decompress`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from simrec.cli.terminal import Session, table
from simrec.errors import DataError, SimrecError

if TYPE_CHECKING:
    from simrec.contracts import Images, Rebuilt
    from simrec.recommender import Recommender

SHOWN = 10
"""Test pictures that stand in where no picture is named."""

REPORTED = 10_000
"""Test pictures at most that compression is measured on."""


@dataclass(frozen=True)
class Named:
    """Pictures that were asked for: their names, images (n, h, w, c), and whether others could not be read."""

    names: tuple[str, ...]
    images: Images
    failed: bool = False


def index_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """--index: whose encoder it is."""
    return click.option("--index", "name", metavar="NAME", help="Which recommender's encoder: a name or a folder.")(
        command
    )


def format_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """--format for figures."""
    return click.option(
        "--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True
    )(command)  # fmt: skip


def _png(path: Path | None) -> Path | None:
    if path and path.suffix.lower() != ".png":
        raise click.BadParameter(f"{str(path)!r} must end in .png", param_hint="-o")
    return path


def sheet_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """-o: where the pictures are drawn."""
    return click.option(
        "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE.png",
        callback=lambda context, parameter, path: _png(path), help="Draw the pictures there.",
    )(command)  # fmt: skip


@click.command()
@click.argument("pictures", nargs=-1, metavar="[PICTURE]...")
@index_option
@sheet_option
@format_option
@click.pass_obj
def reconstruct(session: Session, pictures: tuple[str, ...], name: str | None, output: Path | None, form: str) -> int:
    """Send pictures through the code and back, and measure what was lost.

    A PICTURE is a picture file, '-' for standard input, or id:ITEM for an item of the catalogue. Without one: ten test
    pictures. MSE: mean squared error of the pixels in 0..1. SSIM: structural similarity, 1 for the same picture.
    """
    from simrec import evaluation

    opened = opened_for_decoding(session, name)
    asked = read(opened, pictures)
    rebuilt = opened.reconstruct(asked.images)
    errors = evaluation.squared_errors(rebuilt, asked.images)
    similarities = evaluation.structural_similarities(rebuilt, asked.images)
    rows: list[dict[str, Any]] = [
        {"picture": picture, "MSE": float(error), "SSIM": float(similarity)}
        for picture, error, similarity in zip(asked.names, errors, similarities, strict=True)
    ]
    if form == "json":
        click.echo(json.dumps(rows, indent=1, ensure_ascii=False))
    else:
        cells = [(row["picture"], f"{row['MSE']:.4f}", f"{row['SSIM']:.3f}") for row in rows]
        if len(cells) > 1:
            cells.append(("mean", f"{errors.mean():.4f}", f"{similarities.mean():.3f}"))
        table(["", "MSE", "SSIM"], cells, title=f"{opened.name}: {opened.manifest.encoder.dim} numbers")
    if output:
        captions = [(f"MSE {row['MSE']:.4f}", f"SSIM {row['SSIM']:.3f}") for row in rows]
        versions = {"original": (asked.images, [(picture, "") for picture in asked.names])}
        versions["reconstruction"] = (drawable(rebuilt), captions)
        draw(session, output, versions, f"{opened.manifest.encoder.name}: originals and reconstructions")
    return 1 if asked.failed else 0


@click.command()
@click.argument("pictures", nargs=-1, metavar="[PICTURE]...")
@index_option
@sheet_option
@click.option(
    "--noise",
    type=float,
    default=0.2,
    show_default=True,
    help="Share of the pixels that are made wrong; 0: the pictures are noisy as they are.",
)
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Of the noise.")
@click.option("--report", is_flag=True, help="Measure on test pictures, beside filters that learn nothing.")
@format_option
@click.pass_obj
def denoise(
    session: Session, pictures: tuple[str, ...], name: str | None, output: Path | None, noise: float, seed: int,
    report: bool, form: str,
) -> int:  # fmt: skip
    """Clean pictures of noise: through the code, which keeps what pictures have and noise has not.

    A PICTURE is a picture file, '-' for standard input, or id:ITEM for an item of the catalogue. Without one: ten test
    pictures. Noise is salt and pepper: pixels that are black or white as it happens. PSNR: peak signal-to-noise ratio.
    """
    from simrec import recommender as verbs
    from simrec.perturbations import noisy

    if report and (pictures or output):
        raise click.UsageError("--report takes no PICTURE and draws nothing: it measures on test pictures.")
    opened = opened_for_decoding(session, name)
    if report:
        figures = verbs.denoising(opened, opened.examples(REPORTED).images, noise, seed)
        if form == "json":
            click.echo(json.dumps(figures, indent=1))
        else:
            table(["", "PSNR (dB)"], [(row["name"], f"{row['PSNR']:.1f}") for row in figures])
        return 0
    asked = read(opened, pictures)
    wrong = noisy(asked.images, noise, seed)
    cleaned = opened.reconstruct(wrong)
    names = [(picture, "") for picture in asked.names]
    versions = {"given": (wrong, names), "denoised": (drawable(cleaned), [("", "")] * len(names))}
    if noise:
        before, after = _ratios(asked, wrong, cleaned, form)
        versions = {
            "clean": (asked.images, names),
            "noisy": (wrong, [(f"{ratio:.1f} dB", "") for ratio in before]),
            "denoised": (drawable(cleaned), [(f"{ratio:.1f} dB", "") for ratio in after]),
        }
    if output:
        draw(session, output, versions, f"{opened.manifest.encoder.name}: denoised")
    return 1 if asked.failed else 0


def _ratios(asked: Named, wrong: Images, cleaned: Rebuilt, form: str) -> tuple[list[float], list[float]]:
    """Prints and returns each picture's PSNR, noisy and denoised."""
    from simrec import evaluation

    before, after = (
        evaluation.signal_to_noise(evaluation.squared_errors(version, asked.images)).tolist()
        for version in (evaluation.pixels(wrong), cleaned)
    )
    rows = list(zip(asked.names, before, after, strict=True))
    if form == "json":
        named = [{"picture": picture, "before": noisy, "after": denoised} for picture, noisy, denoised in rows]
        click.echo(json.dumps(named, indent=1, ensure_ascii=False))
    else:
        cells = [(picture, f"{noisy:.1f}", f"{denoised:.1f}") for picture, noisy, denoised in rows]
        table(["PSNR (dB)", "noisy", "denoised"], cells)
    return before, after


@click.command()
@click.argument("sources", nargs=-1, metavar="[SOURCE]...")
@index_option
@click.option(
    "--bits", type=click.IntRange(2, 8), default=8, show_default=True, help="Of a number, before entropy coding."
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
    help="The container to write; with --report a .png to draw.",
)  # fmt: skip
@click.option("--report", is_flag=True, help="Compress test pictures with 2 to 8 bits, beside PNG, JPEG and WebP.")
@format_option
@click.pass_obj
def compress(
    session: Session, sources: tuple[str, ...], name: str | None, bits: int, output: Path | None, report: bool,
    form: str,
) -> None:  # fmt: skip
    """Keep pictures in a few bytes each: their codes, quantised and entropy-coded.

    A SOURCE is a picture, a folder of pictures, or a data set. 'simrec decompress' with the same encoder turns the
    codes back into pictures; they are what the encoder keeps of them, not the pictures bit for bit.
    """
    if report:
        if sources:
            raise click.UsageError("--report takes no SOURCE: it measures on test pictures.")
        _report(session, name, _png(output), form)
        return
    if not sources or output is None:
        raise click.UsageError("Name what to compress and, with -o, the file to write (or ask for the --report).")
    import numpy as np

    from simrec.store import replacing

    opened = opened_for_decoding(session, name)
    loaded = [opened.pictures(source, notice=session.notice) for source in sources]
    data = opened.compress(np.concatenate([pictures.images for pictures in loaded]), bits)
    with replacing(output) as file:
        file.write(data)
    count = sum(map(len, loaded))
    session.notice(f"Compressed {count:,} pictures to {len(data):,} bytes: {output}")


@click.command()
@click.argument("container", type=click.Path(path_type=Path, dir_okay=False))
@index_option
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, file_okay=False), metavar="FOLDER", required=True,
    help="The folder to make; it must not be there, or be empty.",
)  # fmt: skip
@click.pass_obj
def decompress(session: Session, container: Path, name: str | None, output: Path) -> None:
    """Turn a container of codes back into pictures, PNG files numbered in the order they were compressed in.

    Without --index, the recommender whose encoder made the codes is looked for.
    """
    from simrec import recommender as verbs
    from simrec import sheets
    from simrec.store import making

    try:
        data = container.read_bytes()
    except OSError as error:
        raise DataError(f"{container}: cannot be read ({error.strerror}): name a container of codes") from error
    opened = verbs.open(name, session.home) if name else verbs.maker_of(data, str(container), session.home)
    images = opened.decompress(data, str(container))
    with making(output) as folder:
        for number, image in enumerate(images):
            sheets.picture(image).save(folder / f"{number:05d}.png")
    session.notice(f"Decompressed {len(images):,} pictures with {opened.name}: {output}")


def _report(session: Session, name: str | None, output: Path | None, form: str) -> None:
    from simrec import recommender as verbs
    from simrec import sheets
    from simrec.store import replacing

    opened = opened_for_decoding(session, name)
    images = opened.examples(REPORTED).images
    with session.counting() as progress:
        rows = verbs.rates(opened, images, progress)
    if form == "json":
        click.echo(json.dumps(rows, indent=1))
    else:
        cells = [(row["name"], f"{row['bits']:,.0f}", f"{row['bits'] / 8:,.1f}", f"{row['MSE']:.4f}") for row in rows]
        table(["", "bits a picture", "bytes", "MSE"], cells, title=f"{opened.name}: {len(images):,} pictures")
    if output:
        with replacing(output) as file:
            sheets.rate_distortion(rows, f"{opened.manifest.encoder.name}: {len(images):,} pictures").save(file, "PNG")
        session.notice(f"Drawn: {output}")


def opened_for_decoding(session: Session, name: str | None) -> Recommender:
    """The recommender of that name; without one, the one that would answer a look-up."""
    from simrec import home
    from simrec import recommender as verbs

    if name is None:
        name = verbs.default_name(session.home or home.default())
        session.notice(f"No --index named: taking {name!r}.")
    return verbs.open(name, session.home)


def read(opened: Recommender, pictures: Sequence[str]) -> Named:
    """The pictures named, of several those that can be read, the others reported; test pictures if none is named."""
    import numpy as np

    if not pictures:
        examples = opened.examples(SHOWN)
        return Named(
            tuple(label or id_ for label, id_ in zip(examples.labels, examples.ids, strict=True)), examples.images
        )
    queries, failed = [], False
    for text in pictures:
        try:
            queries.append(opened.read(sys.stdin.buffer if text == "-" else text))
        except SimrecError as error:
            if len(pictures) == 1:
                raise
            failed = True
            click.echo(f"Error: {error}", err=True)
    if not queries:
        sys.exit(1)
    return Named(tuple(query.name for query in queries), np.concatenate([query.images for query in queries]), failed)


def drawable(rebuilt: Rebuilt) -> Images:
    """Pictures in 0..1 as images."""
    import numpy as np

    images: Images = np.rint(np.clip(rebuilt, 0, 1) * 255).astype(np.uint8)
    return images


def draw(session: Session, output: Path, versions: dict[str, tuple[Images, list[tuple[str, str]]]], title: str) -> None:
    """Draws each version's pictures, with their lines of text, in a row of its own."""
    from simrec import sheets
    from simrec.store import replacing

    rows = [
        [sheets.Tile(image, lines) for image, lines in zip(images, captions, strict=True)]
        for images, captions in versions.values()
    ]
    with replacing(output) as file:
        sheets.comparison_sheet(list(zip(*rows, strict=True)), list(versions), title).save(file, "PNG")
    session.notice(f"Drawn: {output}")
