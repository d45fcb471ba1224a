"""Any picture to what an encoder is fed, by recipe: uint8 (size, size, channels).

`fashion` does what the makers of Fashion-MNIST did to shop photos (Xiao, Rasul, Vollgraf 2017, arXiv:1708.07747,
section 2): trim the edges within 5 % of the corner pixels' colour, resize the longest edge to the canvas, sharpen
(Gaussian, radius and sigma 1), centre, negate, 8-bit grey: the item is light on black. `photo` is the whole picture
in colour, letterboxed. A grey picture that already has the canvas's size goes through `fashion` bit for bit.
"""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageOps, UnidentifiedImageError

from simrec.contracts import Images, ImageSpec, Rebuilt
from simrec.errors import ImageError

LARGEST = 100_000_000
"""Pixels. A picture of more is refused before it is decoded: at 3 bytes each that is 300 MB of memory."""

LARGEST_FILE = 3 * LARGEST
"""Bytes. A file of more is refused unread: the largest picture takes no more without any compression."""

TRIM = 0.05
"""How far from the corner's colour still counts as background, as a share of the largest RGB distance."""

FINE = 1024
"""Pixels. A longest edge of at least twice that is averaged down first, which saves memory and time."""

SHARPEN = ImageFilter.UnsharpMask(radius=1, percent=100, threshold=0)


def read(file: Path | BinaryIO, spec: ImageSpec, name: str | None = None) -> Images:
    """One picture file as images (1, size, size, channels).

    name: what to call the file in an error. Raises ImageError for one that is missing, empty, cut short, too large
    or no picture.
    """
    called = name or str(file)
    try:
        data = _bytes_of(file)
    except OSError as error:
        raise ImageError(f"{called}: cannot be read ({error.strerror}): name a picture file") from error
    if not data:
        raise ImageError(f"{called}: the file is empty: name a picture file")
    if len(data) > LARGEST_FILE:
        raise ImageError(f"{called}: more than {LARGEST_FILE // 1_000_000} MB: name a smaller picture file")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of bombs and odd metadata; the checks below are stricter
        try:
            with Image.open(io.BytesIO(data)) as picture:
                if picture.width * picture.height > LARGEST:
                    raise ImageError(
                        f"{called}: {picture.width} x {picture.height} pixels are too many: "
                        f"scale it down to {LARGEST // 1_000_000} million pixels or fewer"
                    )
                picture.load()
                return prepare(picture, spec)[np.newaxis]
        except UnidentifiedImageError:
            raise ImageError(f"{called}: not a picture: name a PNG, JPEG, WebP, GIF, TIFF or BMP file") from None
        except Image.DecompressionBombError:
            raise ImageError(f"{called}: too many pixels: scale it down") from None
        except (ImageError, MemoryError):
            raise
        # Decoders meet a damaged file with many exceptions (OSError, SyntaxError, struct.error, RuntimeError, ...).
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ImageError(f"{called}: damaged or cut short ({reason}): save it again") from error


def _bytes_of(file: Path | BinaryIO) -> bytes:
    """The file's contents, but never much more than LARGEST_FILE."""
    if not isinstance(file, Path):
        return file.read(LARGEST_FILE + 1)
    with file.open("rb") as opened:
        size = os.fstat(opened.fileno()).st_size  # of a pipe 0
        return opened.read(min(size or LARGEST_FILE, LARGEST_FILE) + 1)


def rounded(rebuilt: Rebuilt) -> Images:
    """Pictures (n, h, w, c) in 0..1, as decoders give them, as images; what is beyond is cut off."""
    images: Images = np.rint(np.clip(rebuilt, 0, 1) * 255).astype(np.uint8)
    return images


def prepare(picture: Image.Image, spec: ImageSpec) -> NDArray[np.uint8]:
    """An opened picture by the spec's recipe: uint8 (size, size, channels)."""
    if spec.recipe == "fashion" and picture.mode == "L" and picture.size == (spec.size, spec.size):
        return _with_channels(np.asarray(picture), spec.channels)
    upright = _rgb_on_white(ImageOps.exif_transpose(picture))
    if spec.recipe == "fashion":
        return _with_channels(_fashion(upright, spec.size), spec.channels)
    fitted = ImageOps.pad(upright, (spec.size, spec.size), Image.Resampling.LANCZOS, color="white")
    return _with_channels(np.asarray(fitted if spec.channels == 3 else fitted.convert("L")), spec.channels)


def _with_channels(pixels: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
    if pixels.ndim == 2:
        pixels = pixels[:, :, np.newaxis]
    return np.ascontiguousarray(np.repeat(pixels, channels, axis=2) if pixels.shape[2] != channels else pixels)


def _fashion(picture: Image.Image, size: int) -> NDArray[np.uint8]:
    picture = picture.reduce(max(1, max(picture.size) // FINE))
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
    distance = np.sqrt(((pixels.astype(np.float32) - background.astype(np.float32)) ** 2).sum(axis=2))
    item = distance > TRIM * 255 * np.sqrt(3)
    rows, columns = np.flatnonzero(item.any(axis=1)), np.flatnonzero(item.any(axis=0))
    if not len(rows):
        return (0, 0, pixels.shape[1], pixels.shape[0])
    return (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)


def _rgb_on_white(picture: Image.Image) -> Image.Image:
    if picture.mode == "F" or picture.mode.startswith("I"):
        values = np.asarray(picture, dtype=np.float64)
        if not np.isfinite(values).all():
            raise ValueError("it has pixels that are not numbers")
        top = (
            1.0
            if picture.mode == "F" and values.max(initial=0) <= 1
            else 255.0
            if values.max(initial=0) <= 255
            else 65535.0
        )
        picture = Image.fromarray(np.clip(values * (255 / top), 0, 255).astype(np.uint8))
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        rgba = picture.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return picture.convert("RGB")
