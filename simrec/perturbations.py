"""Changes pictures as real ones differ from those in a data set: images in, images out."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image

from simrec.contracts import Images
from simrec.errors import RequestError

DIAGONALS = ((1, 1), (-1, 1), (1, -1), (-1, -1))


def mirrored(images: Images) -> Images:
    """Left and right swapped."""
    return images[:, :, ::-1].copy()


def shifted(images: Images) -> Images:
    """Moved by 2 of 28 pixels along both axes, along the four diagonals in turn; what moves out is lost."""

    def move(picture: Image.Image, number: int) -> Image.Image:
        across, down = (step * max(1, round(picture.width / 14)) for step in DIAGONALS[number % 4])
        return picture.transform(picture.size, Image.Transform.AFFINE, (1, 0, -across, 0, 1, -down))

    return _each(images, move)


def scaled(images: Images) -> Images:
    """At 85 % of the size, centred."""

    def shrink(picture: Image.Image, _: int) -> Image.Image:
        out = (1 - 1 / 0.85) * picture.width / 2  # where the corner comes from
        transform = (1 / 0.85, 0, out, 0, 1 / 0.85, out)
        return picture.transform(picture.size, Image.Transform.AFFINE, transform, Image.Resampling.BILINEAR)

    return _each(images, shrink)


def rotated(images: Images) -> Images:
    """Turned by 8 degrees, one to the left, the next to the right."""
    return _each(images, lambda picture, number: picture.rotate(-8 if number % 2 else 8, Image.Resampling.BILINEAR))


def darkened(images: Images) -> Images:
    """Each pixel at 60 % of its value."""
    darker: Images = np.rint(images * np.float32(0.6)).astype(np.uint8)
    return darker


def check_share(share: float) -> None:
    """Raises RequestError for a share of the pixels that is not in 0..1."""
    if not 0 <= share <= 1:
        raise RequestError(f"noise on {share:g} of the pixels: a share is from 0 to 1")


def noisy(images: Images, share: float, seed: int = 0) -> Images:
    """Salt and pepper: a share of the pixels, drawn with the seed, turns black or white at random, in all channels.

    Raises RequestError for a share that is not in 0..1.
    """
    check_share(share)
    chosen, drawn = np.random.default_rng(seed).random((2, *images.shape[:3], 1))
    return np.where(chosen < share, np.where(drawn < 0.5, np.uint8(0), np.uint8(255)), images)


PERTURBATIONS: Mapping[str, Callable[[Images], Images]] = {
    "mirrored": mirrored,
    "shifted by 2 pixels": shifted,
    "scaled to 85 %": scaled,
    "rotated by 8 degrees": rotated,
    "darkened by 40 %": darkened,
}
"""Functions by name. Each changes images (n, h, w, c) and keeps their shape; what moves in from outside is black."""


def _each(images: Images, change: Callable[[Image.Image, int], Image.Image]) -> Images:
    out = np.empty_like(images)
    for number, image in enumerate(images):
        picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
        out[number] = np.asarray(change(picture, number)).reshape(image.shape)
    return out
