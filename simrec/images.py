"""Any picture to what an encoder is fed, by recipe: uint8 (size, size, channels).

`fashion` does what the makers of Fashion-MNIST did to shop photos (Xiao, Rasul, Vollgraf 2017, arXiv:1708.07747,
section 2): trim the edges within 5 % of the corner pixels' colour, resize the longest edge to the canvas, sharpen
(Gaussian, radius and sigma 1), centre, negate, 8-bit grey: the item is light on black. `photo` is the whole picture
in colour, letterboxed. A grey picture that already has the canvas's size goes through `fashion` bit for bit.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageOps

from simrec import picture_files
from simrec.contracts import Images, ImageSpec, Rebuilt
from simrec.errors import ImageError

TRIM = 0.05
"""How far from the corner's colour still counts as background, as a share of the largest RGB distance."""

FINE = 1024
"""Pixels. A longest edge of at least twice that is averaged down first, which saves memory and time."""

BAND = 250_000
"""Pixels that are compared with the background at a time."""

SHARPEN = ImageFilter.UnsharpMask(radius=1, percent=100, threshold=0)


def read(file: Path | BinaryIO, spec: ImageSpec, name: str | None = None) -> Images:
    """One picture file as images (1, size, size, channels).

    name: what to call the file in an error. Raises ImageError for one that cannot be read or would take too much memory
    or time (see `simrec.picture_files`).
    """
    with picture_files.opened(file, name or str(file)) as picture:
        return prepare(picture, spec)[np.newaxis]


def of_picture(picture: Image.Image | NDArray[np.uint8], spec: ImageSpec, name: str) -> Images:
    """A Pillow picture, or an array uint8 (h, w) or (h, w, 3), as images (1, size, size, channels).

    It is prepared as a file of it would be. name: what to call it in an error. Raises ImageError for one of no pixels,
    and for one that Pillow has opened but can't read.
    """
    with picture_files.explained(name):
        if isinstance(picture, np.ndarray):
            picture = Image.fromarray(picture)
        if not picture.width * picture.height:
            raise ImageError(f"{name}: it has no pixels: give one that has")
        return prepare(picture_files.flattened(picture), spec)[np.newaxis]


def rounded(rebuilt: Rebuilt) -> Images:
    """Pictures (n, h, w, c) in 0..1, as decoders give them, as images; what is beyond is cut off."""
    images: Images = np.rint(np.clip(rebuilt, 0, 1) * 255).astype(np.uint8)
    return images


def prepare(picture: Image.Image, spec: ImageSpec) -> NDArray[np.uint8]:
    """An upright picture in grey ("L") or colour ("RGB") by the spec's recipe: uint8 (size, size, channels)."""
    if spec.recipe == "fashion":
        if picture.mode == "L" and picture.size == (spec.size, spec.size):
            return _with_channels(np.asarray(picture), spec.channels)
        return _with_channels(_fashion(picture, spec.size), spec.channels)
    fitted = ImageOps.pad(picture, (spec.size, spec.size), Image.Resampling.LANCZOS, color="white")
    return _with_channels(np.asarray(fitted.convert("RGB" if spec.channels == 3 else "L")), spec.channels)


def _with_channels(pixels: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
    if pixels.ndim == 2:
        pixels = pixels[:, :, np.newaxis]
    return np.ascontiguousarray(np.repeat(pixels, channels, axis=2) if pixels.shape[2] != channels else pixels)


def _fashion(picture: Image.Image, size: int) -> NDArray[np.uint8]:
    picture = picture.reduce(max(1, max(picture.size) // FINE)).convert("RGB")
    pixels = np.asarray(picture)
    corners = pixels[[0, 0, -1, -1], [0, -1, 0, -1]]
    background = np.median(corners, axis=0)
    item = picture.crop(_item_box(pixels, background))
    longest = max(item.size)
    scaled = tuple(max(1, round(edge * size / longest)) for edge in item.size)
    # BOX averages the pixels that the makers' subsampling skipped: the same picture with less noise.
    item = item.resize((scaled[0], scaled[1]), Image.Resampling.BOX if longest >= size else Image.Resampling.BICUBIC)
    item = item.filter(SHARPEN)
    canvas = Image.new("RGB", (size, size), tuple(int(c) for c in background))
    # Where a pixel is left over the makers gave it to the top and the left, as ImageMagick's centring does.
    canvas.paste(item, (size // 2 - scaled[0] // 2, size // 2 - scaled[1] // 2))
    grey = np.asarray(canvas.convert("L"))
    backdrop = int(Image.new("RGB", (1, 1), tuple(int(c) for c in background)).convert("L").getpixel((0, 0)))  # type: ignore[arg-type]
    return _light_on_black(grey, backdrop)


def _light_on_black(grey: NDArray[np.uint8], backdrop: int) -> NDArray[np.uint8]:
    # The backdrop of a photo is seldom quite white (or black): it becomes 0, the far end stays 255.
    distance = (backdrop - grey.astype(np.float32)) if backdrop >= 128 else (grey.astype(np.float32) - backdrop)
    reach = backdrop if backdrop >= 128 else 255 - backdrop
    light: NDArray[np.uint8] = np.clip(np.rint(distance * (255 / reach)), 0, 255).astype(np.uint8)
    return light


def _item_box(pixels: NDArray[np.uint8], background: NDArray[np.float64]) -> tuple[int, int, int, int]:
    height, width = pixels.shape[:2]
    step = max(1, BAND // width)  # in bands: numbers with a decimal point take many times the picture's memory
    rows, columns = np.zeros(height, bool), np.zeros(width, bool)
    for top in range(0, height, step):
        distance = pixels[top : top + step].astype(np.float32) - background.astype(np.float32)
        item = np.sqrt((distance**2).sum(axis=2)) > TRIM * 255 * np.sqrt(3)
        rows[top : top + step] = item.any(axis=1)
        columns |= item.any(axis=0)
    if not rows.any():
        return (0, 0, width, height)
    top, bottom = np.flatnonzero(rows)[[0, -1]]
    left, right = np.flatnonzero(columns)[[0, -1]]
    return (int(left), int(top), int(right) + 1, int(bottom) + 1)
