"""Measures what a recommender loses if test pictures look like shop photos: its P@10 for each kind of photo.

    python tests/benchmarks/shop_photos.py --index quickstart [-n 2000] [--recipe-version 1]

Each test picture is scaled up to 400 pixels, made dark on white, moved off centre, and saved as a grey JPEG, a coloured
JPEG, and a PNG with a transparent background; then it is looked up like any file. For version 2 of the recipe it also
prints the cosine between its codes and version 1's: the mean and the first percentile.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable

import numpy as np
from PIL import Image

import simrec
from simrec import images
from simrec.contracts import ImageSpec
from simrec.evaluation import ranking_figures
from simrec.index import Index
from simrec.sources import fashion_mnist
from simrec.sources.load import load

SIDE, WIDE, TALL = 400, 560, 500


def placed(picture: np.ndarray, rng: np.random.Generator) -> tuple[Image.Image, tuple[int, int]]:
    """A test picture (28, 28), enlarged, and its position on the photo."""
    large = Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return large, (int(rng.integers(WIDE - SIDE)), int(rng.integers(TALL - SIDE)))


def grey_jpeg(picture: np.ndarray, rng: np.random.Generator) -> bytes:
    large, corner = placed(picture, rng)
    photo = Image.new("L", (WIDE, TALL), 255)
    photo.paste(large.point(lambda v: 255 - v), corner)
    return saved(photo, "JPEG", quality=85)


def coloured_jpeg(picture: np.ndarray, rng: np.random.Generator) -> bytes:
    """The picture as ink of one colour: white without ink, the full colour with most ink."""
    large, corner = placed(picture, rng)
    ink = np.asarray(large, np.float32)[:, :, None] / 255
    colour = rng.uniform(0, 90, 3).astype(np.float32)
    photo = Image.new("RGB", (WIDE, TALL), "white")
    photo.paste(Image.fromarray((255 - ink * (255 - colour)).astype(np.uint8)), corner)
    return saved(photo, "JPEG", quality=85)


def transparent_png(picture: np.ndarray, rng: np.random.Generator) -> bytes:
    """Black ink whose opacity is the picture."""
    large, corner = placed(picture, rng)
    photo = Image.new("LA", (WIDE, TALL), (0, 0))
    photo.paste(Image.merge("LA", (Image.new("L", large.size, 0), large)), corner)
    return saved(photo, "PNG")


def saved(photo: Image.Image, kind: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    photo.save(buffer, kind, **options)
    return buffer.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--index", default="quickstart")
    parser.add_argument("-n", type=int, default=2000)
    parser.add_argument("--recipe-version", type=int, choices=(1, 2), help="default: the encoder's own")
    given = parser.parse_args()
    recommender = simrec.open(given.index)
    version = given.recipe_version or recommender.manifest.encoder.input.version
    test = load("fashion-mnist:test", ImageSpec(), notice=print)
    found = np.array([fashion_mnist.LABELS.index(item.label) for item in recommender.catalogue.all()])
    asked = np.array([fashion_mnist.LABELS.index(label) for label in test.labels[: given.n]])
    index = Index(recommender.codes, recommender.manifest.encoder.metric)

    def figures(codes: np.ndarray) -> float:
        return ranking_figures(found[index.search(codes, 10)[0]], asked)["P@10"]

    original = figures(recommender.encode(test.images[: given.n]))
    print(f"{given.index}, {given.n:,} queries among {len(found):,} items, version {version} of the recipe")
    print(f"{'original':<18} P@10 {original:.4f}")
    kinds: list[Callable[[np.ndarray, np.random.Generator], bytes]] = [grey_jpeg, coloured_jpeg, transparent_png]
    for kind in kinds:
        rng = np.random.default_rng(0)
        files = [kind(picture[:, :, 0], rng) for picture in test.images[: given.n]]

        def codes(version: int, files: list[bytes] = files) -> np.ndarray:
            spec = ImageSpec(version=version)
            return recommender.encode(np.concatenate([images.read(io.BytesIO(file), spec, "it") for file in files]))

        ours = codes(version)
        value = figures(ours)
        print(f"{kind.__name__:<18} P@10 {value:.4f}   {100 * (value - original):+.1f} points", end="")
        if version != 1:
            first = codes(1)
            cosines = (ours * first).sum(axis=1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(first, axis=1)
            print(f"   cosine {cosines.mean():.4f}, {np.quantile(cosines, 0.01):.4f}", end="")
        print()


if __name__ == "__main__":
    main()
