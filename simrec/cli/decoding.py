"""`simrec reconstruct`, `simrec denoise` and `simrec generate`: codes turned into pictures to look at."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from simrec.cli.terminal import (
    Session,
    data_dir_option,
    fail,
    format_option,
    index_option,
    say,
    seed_option,
    sheet_option,
    table,
)
from simrec.errors import SimrecError

if TYPE_CHECKING:
    from simrec.contracts import Images
    from simrec.recommender import Recommender
    from simrec.verbs.decode import Denoised

SHOWN = 10
"""How many test pictures are used if no picture is named."""

REPORTED = 10_000
"""Maximum number of test pictures for measuring denoising."""


@dataclass(frozen=True)
class Named:
    """The pictures to work on: their names, images (n, h, w, c), and whether others could not be read."""

    names: tuple[str, ...]
    images: Images
    failed: bool = False


@click.command()
@click.argument("pictures", nargs=-1, metavar="[PICTURE]...")
@index_option()
@sheet_option
@format_option
@click.pass_obj
def reconstruct(session: Session, pictures: tuple[str, ...], name: str | None, output: Path | None, form: str) -> int:
    """Show what the code keeps of pictures.

    Each picture is encoded and decoded again, and the loss is measured.
    A PICTURE is a picture file, '-' for standard input, or id:ITEM for an item of the catalogue. Without one: ten test
    pictures. MSE: mean squared error of the pixels in 0..1. SSIM: structural similarity, 1 for identical pictures.
    """
    from simrec.images import rounded
    from simrec.verbs.decode import reconstructed

    opened = session.open(name)
    queries = read(opened, pictures)
    made = reconstructed(opened, queries.images)
    rows: list[dict[str, Any]] = [
        {"picture": picture, "MSE": float(error), "SSIM": float(similarity)}
        for picture, error, similarity in zip(queries.names, made.errors, made.similarities, strict=True)
    ]
    if form == "json":
        say(json.dumps(rows, indent=1, ensure_ascii=False))
    else:
        cells = [(row["picture"], f"{row['MSE']:.4f}", f"{row['SSIM']:.3f}") for row in rows]
        if len(cells) > 1:
            cells.append(("mean", f"{made.errors.mean():.4f}", f"{made.similarities.mean():.3f}"))
        table(["", "MSE", "SSIM"], cells, title=f"{opened.name}: {opened.manifest.encoder.dim} numbers")
    if output:
        captions = [(f"MSE {row['MSE']:.4f}", f"SSIM {row['SSIM']:.3f}") for row in rows]
        versions = {"original": (queries.images, [(picture, "") for picture in queries.names])}
        versions["reconstruction"] = (rounded(made.pictures), captions)
        draw(session, output, versions, f"{opened.manifest.encoder.name}: originals and reconstructions")
    return 1 if queries.failed else 0


@click.command()
@click.argument("pictures", nargs=-1, metavar="[PICTURE]...")
@index_option("demo-restore")
@sheet_option
@click.option(
    "--noise",
    type=float,
    default=0.2,
    show_default=True,
    help="Add noise to this share of the pixels first; 0: the pictures are noisy already.",
)
@seed_option("The seed of the noise.")
@click.option("--report", is_flag=True, help="Compare with filters that don't learn, on test pictures.")
@format_option
@click.pass_obj
def denoise(
    session: Session, pictures: tuple[str, ...], name: str, output: Path | None, noise: float, seed: int,
    report: bool, form: str,
) -> int:  # fmt: skip
    """Remove noise from pictures.

    Each picture is encoded and decoded again; the code keeps the picture and drops the noise.
    A PICTURE is a picture file, '-' for standard input, or id:ITEM for an item of the catalogue. Without one: ten test
    pictures. Noise is salt and pepper: pixels that turn black or white at random. PSNR: peak signal-to-noise ratio.
    """
    from simrec.images import rounded
    from simrec.verbs import decode as verb

    if report and (pictures or output):
        raise click.UsageError("--report takes no PICTURE and draws nothing: it measures on test pictures.")
    opened = session.open(name)
    if report:
        figures = verb.denoising(opened, opened.examples(REPORTED).images, noise, seed)
        if form == "json":
            say(json.dumps(figures, indent=1))
        else:
            table(["", "PSNR (dB)"], [(row["name"], f"{row['PSNR']:.1f}") for row in figures])
        return 0
    queries = read(opened, pictures)
    made = verb.denoised(opened, queries.images, noise, seed)
    names, cleaned = [(picture, "") for picture in queries.names], rounded(made.cleaned)
    versions = {"given": (made.noisy, names), "denoised": (cleaned, [("", "")] * len(names))}
    if noise:
        _print_ratios(queries.names, made, form)
        versions = {
            "clean": (queries.images, names),
            "noisy": (made.noisy, [(f"{ratio:.1f} dB", "") for ratio in made.before]),
            "denoised": (cleaned, [(f"{ratio:.1f} dB", "") for ratio in made.after]),
        }
    if output:
        draw(session, output, versions, f"{opened.manifest.encoder.name}: denoised")
    return 1 if queries.failed else 0


def _print_ratios(names: Sequence[str], made: Denoised, form: str) -> None:
    """Prints each picture's PSNR, noisy and denoised."""
    rows = list(zip(names, made.before, made.after, strict=True))
    if form == "json":
        named = [{"picture": picture, "before": noisy, "after": denoised} for picture, noisy, denoised in rows]
        say(json.dumps(named, indent=1, ensure_ascii=False))
    else:
        cells = [(picture, f"{noisy:.1f}", f"{denoised:.1f}") for picture, noisy, denoised in rows]
        table(["PSNR (dB)", "noisy", "denoised"], cells)


@click.command()
@index_option("demo-generate")
@click.option(
    "-n", "--number", type=click.IntRange(1, 10_000), default=64, show_default=True, help="How many pictures."
)
@sheet_option
@seed_option("The same seed draws the same pictures.")
@click.option("--between", nargs=2, metavar="PICTURE PICTURE", help="Draw the steps from one picture to another.")
@click.option("--around", metavar="PICTURE", help="Draw variations of a picture.")
@click.option("--report", is_flag=True, help="Measure how good drawn pictures are.")
@format_option
@data_dir_option
@click.pass_obj
def generate(
    session: Session, name: str, number: int, output: Path | None, seed: int,
    between: tuple[str, str] | None, around: str | None, report: bool, form: str, data_dir: Path | None,
) -> None:  # fmt: skip
    """Draw new pictures.

    A PICTURE is a picture file, '-' for standard input, or id:ITEM for an item of the catalogue. --report measures
    precision (how many drawn pictures look real) and recall (how many real ones look like a drawn one) against test
    pictures, and for a variational encoder its -ELBO in nats per picture.
    """
    import numpy as np

    from simrec import sheets
    from simrec.files import replacing
    from simrec.images import rounded
    from simrec.verbs import decode as verb

    if sum([bool(between), bool(around), report]) > 1:
        raise click.UsageError("Choose one of --between, --around and --report.")
    if (output is None) != report:
        raise click.UsageError("Name the FILE.png to draw with -o; --report draws nothing.")
    opened = session.open(name)
    if report:
        rows = verb.generation(opened, seed=seed, data_dir=data_dir, notice=session.notice)
        if form == "json":
            say(json.dumps(rows, indent=1))
        else:
            columns = ("precision", "recall", "-ELBO")
            cells = [[row["name"], *("-" if row[c] is None else f"{row[c]:.3f}" for c in columns)] for row in rows]
            table(["", *columns], cells)
        return
    assert output is not None
    kind = opened.manifest.encoder.name
    if between:
        ends = [read(opened, [picture]).images for picture in between]
        pictures = np.concatenate([ends[0], rounded(opened.between(ends[0], ends[1], number)), ends[1]])
        title = f"{kind}: from one picture to another"
    elif around:
        queries = read(opened, [around]).images
        pictures = np.concatenate([queries, rounded(opened.around(queries, number, seed=seed))])
        title = f"{kind}: a picture and variations of it"
    else:
        pictures, title = rounded(opened.generate(number, seed)), f"{kind}: {number} new pictures"
    with replacing(output) as file:
        sheets.mosaic(pictures, title).save(file, "PNG")
    session.notice(f"Drawn: {output}")


def read(opened: Recommender, pictures: Sequence[str]) -> Named:
    """The named pictures, or test pictures if none is named. Of several, reports those that can't be read."""
    import numpy as np

    if not pictures:
        examples = opened.examples(SHOWN)
        return Named(
            tuple(label or id_ for label, id_ in zip(examples.labels, examples.ids, strict=True)), examples.images
        )
    queries, failed = [], False
    for text in pictures:
        try:
            queries.append(opened.read(sys.stdin.buffer if text == "-" else text, shown=False))
        except SimrecError as error:
            if len(pictures) == 1:
                raise
            failed = True
            fail(error)
    if not queries:
        sys.exit(1)
    return Named(
        tuple(query.name for query in queries), np.concatenate([opened.images(query) for query in queries]), failed
    )


def draw(session: Session, output: Path, versions: dict[str, tuple[Images, list[tuple[str, str]]]], title: str) -> None:
    """Draws each version's pictures and their captions in a row of its own."""
    from simrec import sheets
    from simrec.files import replacing

    rows = [
        [sheets.Tile(image, lines) for image, lines in zip(images, captions, strict=True)]
        for images, captions in versions.values()
    ]
    with replacing(output) as file:
        sheets.comparison_sheet(list(zip(*rows, strict=True)), list(versions), title).save(file, "PNG")
    session.notice(f"Drawn: {output}")
