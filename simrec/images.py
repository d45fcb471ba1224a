"""Turns any picture into an encoder's image by a recipe, uint8 (size, size, channels), and into a preview for people.

`fashion` does what the makers of Fashion-MNIST did to shop photos (Xiao, Rasul, Vollgraf 2017, arXiv:1708.07747,
section 2): trim the edges within 5 % of the corner pixels' colour, resize the longest edge to the canvas, sharpen
(Gaussian, radius and sigma 1), centre, negate, 8-bit grey: the item is light on black. A grey picture that already has
the canvas's size goes through `fashion` bit for bit.

The others take the picture in colour, in the three ways that vision models expect. `photo` is the whole picture,
letterboxed on white; `crop` is the square in its middle, with `crop_pct` of the shortest edge; `squash` is the whole
picture with both edges scaled to the canvas. All resample with the spec's `interpolation`, whose filter is widened by
the scale (antialiasing), as in Pillow: "lanczos" (support of 3 pixels), "bicubic" (a = -0.5) or "bilinear".

Version 1 works on all the pixels. Version 2 decodes a picture only as large as it needs, several times the canvas. Its
`fashion` trims what is within 5 % of the corners' colour, averaged over the channels, then works in grey. A picture of
the canvas's size gives the same pixels in both versions.
"""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageFilter

from simrec import picture_files
from simrec.contracts import Images, ImageSpec, Rebuilt, content
from simrec.errors import ImageError, RequestError
from simrec.picture_files import WHOLE, Enough

TRIM = 0.05
"""How far from the corner's colour still counts as background, as a share of the largest RGB distance."""

FINE = 1024
"""Pixels. A picture whose longest edge is at least twice that is averaged down first, which saves memory and time."""

BAND = 250_000
"""How many pixels are compared with the background at a time."""

PREVIEW = 128
"""Maximum longest edge of a preview, in pixels."""

LOSSLESS = 4096
"""Maximum bytes of a preview that is kept as a PNG."""

MARGIN = 8
"""Version 2 of `fashion` keeps at least this many times its canvas of a picture's longest edge, because the item may
fill a small part of it, and its edges are found to a whole pixel. For 120 JPEGs of 375 to 2,000 pixels made from test
pictures, the images' mean correlation with version 1's is 0.983 with 4 and 0.989 with 8; one in 20 is below 0.90 and
0.95."""

SHARPEN = ImageFilter.UnsharpMask(radius=1, percent=100, threshold=0)


_NUMBER = re.compile(r"\d{1,6}")
_PER_CENT = re.compile(r"(\d{1,3}(?:\.\d{1,6})?)%")


@dataclass(frozen=True)
class Crop:
    """A part of an upright picture: its edges in pixels, or in per cent of the picture's width and height."""

    left: float
    top: float
    right: float
    bottom: float
    per_cent: bool = False

    @classmethod
    def of(cls, edges: str | Sequence[int]) -> Crop:
        """From "LEFT,TOP,RIGHT,BOTTOM", whole pixels or per cent ("10%,0%,90%,50%"), or from four whole numbers.

        Raises RequestError for anything else, and for a part without pixels.
        """
        text = edges if isinstance(edges, str) else ",".join(str(edge) for edge in edges)
        parts = [part.strip() for part in text.split(",")]
        if len(parts) == 4 and all(map(_NUMBER.fullmatch, parts)):
            left, top, right, bottom = map(float, parts)
            crop = cls(left, top, right, bottom)
        elif len(parts) == 4 and all(map(_PER_CENT.fullmatch, parts)):
            left, top, right, bottom = (float(part[:-1]) for part in parts)
            crop = cls(left, top, right, bottom, per_cent=True)
        else:
            raise RequestError(
                f"{text!r:.100} is not a part of a picture: give left, top, right and bottom in pixels, such as "
                f"40,0,300,200, or in per cent, such as 10%,0%,90%,50%"
            )
        if not (crop.left < crop.right and crop.top < crop.bottom):
            raise RequestError(f"{crop} is empty: the right edge lies right of the left one, the bottom below the top")
        if crop.per_cent and max(crop.right, crop.bottom) > 100:
            raise RequestError(f"{crop} is beyond the picture, which ends at 100 %")
        return crop

    def __str__(self) -> str:
        sign = "%" if self.per_cent else ""
        return ",".join(f"{edge:g}{sign}" for edge in (self.left, self.top, self.right, self.bottom))

    def cut(self, picture: Image.Image, whole: tuple[int, int]) -> Image.Image:
        """That part of an upright picture, which may have been scaled down from the size `whole`.

        Raises ImageError if it is beyond the picture.
        """
        width, height = (100, 100) if self.per_cent else whole
        if self.right > width or self.bottom > height:
            raise ImageError(f"the part {self} is beyond the picture, which has {whole[0]} x {whole[1]} pixels")
        across, down = picture.width / width, picture.height / height
        left, top = int(self.left * across), int(self.top * down)
        right, bottom = max(left + 1, round(self.right * across)), max(top + 1, round(self.bottom * down))
        return picture.crop((left, top, right, bottom))


@dataclass(frozen=True)
class Read:
    """What decoding a picture file once gives.

    image: the encoder's input, (size, size, channels). preview: for people to see, a JPEG or PNG whose longest edge is
    at most PREVIEW, or b"" without one. content: a digest of the file's bytes, see
    `simrec.picture_files.digest`. size: width and height of the whole picture, upright; (0, 0) if not known.
    """

    image: NDArray[np.uint8]
    preview: bytes
    content: str
    size: tuple[int, int] = (0, 0)


def read(file: Path | BinaryIO, spec: ImageSpec, name: str | None = None) -> Images:
    """One picture file as images (1, size, size, channels).

    name: what errors call the file. Raises ImageError for a file that cannot be read or would take too much memory or
    time (see `simrec.picture_files`).
    """
    with picture_files.opened(file, name or str(file), needed(spec)) as picture:
        return prepare(picture, spec)[np.newaxis]


def read_with_preview(
    file: Path | BinaryIO, spec: ImageSpec, name: str | None = None, *, shown: bool = True, crop: Crop | None = None
) -> Read:
    """One picture file as an image, a preview and a digest; the file is read and decoded once.

    name: what errors call the file. shown: whether to make the preview. crop: the part to take. Raises ImageError as
    `read` does, and for a part that is beyond the picture.
    """
    called = name or str(file)
    enough = None if crop else needed(spec)
    with picture_files.contents(file, called) as data, picture_files.decoded(data, called, enough) as picture:
        size = picture.info[WHOLE]
        part = _part(picture, crop, size, called)
        return Read(prepare(part, spec), preview(part) if shown else b"", picture_files.digest(data), size)


def shown(file: Path | BinaryIO, name: str, edge: int, crop: Crop | None = None) -> bytes:
    """One picture file, or a part of it, for people to see: see `preview`. Raises ImageError as `read` does."""
    with picture_files.opened(file, name, None if crop else Enough(edge)) as picture:
        return preview(_part(picture, crop, picture.info[WHOLE], name), edge)


def of_picture(
    picture: Image.Image | NDArray[np.uint8], spec: ImageSpec, name: str, crop: Crop | None = None
) -> Images:
    """A Pillow picture, or an array uint8 (h, w) or (h, w, 3), as images (1, size, size, channels).

    It is prepared as its file would be. name: what errors call it. crop: the part to take. Raises ImageError for a
    picture without pixels, and for one that Pillow has opened but can't read.
    """
    if isinstance(picture, np.ndarray) and crop is None and ready(picture, spec):
        return _with_channels(picture, spec.channels)[np.newaxis]
    with picture_files.explained(name):
        return prepare(_flattened(picture, None if crop else needed(spec), name, crop), spec)[np.newaxis]


def of_picture_with_preview(
    picture: Image.Image | NDArray[np.uint8], spec: ImageSpec, name: str, *, shown: int = PREVIEW,
    crop: Crop | None = None,
) -> Read:  # fmt: skip
    """A Pillow picture or an array as an image, a preview and a digest of its pixels: see `of_picture`.

    shown: the preview's longest edge in pixels, 0 for none.
    """
    image = of_picture(picture, spec, name, crop)[0]
    with picture_files.explained(name):
        seen = b""
        if shown:
            seen = preview(_flattened(picture, None if crop else Enough(shown), name, crop), shown)
        return Read(image, seen, content(picture.tobytes()))


def _flattened(
    picture: Image.Image | NDArray[np.uint8], enough: Enough | None, name: str, crop: Crop | None
) -> Image.Image:
    """A picture, or a part of it, in grey or colour."""
    if isinstance(picture, np.ndarray):
        picture = Image.fromarray(picture)
    if not picture.width * picture.height:
        raise ImageError(f"{name}: it has no pixels: give one that has")
    whole = picture.size[::-1] if picture_files.sideways(picture) else picture.size
    return _part(picture_files.flattened(picture, enough), crop, whole, name)


def _part(picture: Image.Image, crop: Crop | None, whole: tuple[int, int], called: str) -> Image.Image:
    if crop is None:
        return picture
    try:
        return crop.cut(picture, whole)
    except ImageError as error:
        raise ImageError(f"{called}: {error}") from error


def ready(pixels: NDArray[np.uint8], spec: ImageSpec) -> bool:
    """Whether an array is already an encoder's image, except for the axis of its channels."""
    return spec.recipe == "fashion" and pixels.shape == (spec.size, spec.size)


def of_ready(pictures: Sequence[NDArray[np.uint8]], spec: ImageSpec) -> tuple[Images, list[str]]:
    """`ready` arrays as images (n, size, size, channels), and the digests of their pixels."""
    pixels = np.concatenate(pictures).reshape(-1, spec.size, spec.size)  # several times as fast as np.stack
    return np.repeat(pixels[..., np.newaxis], spec.channels, axis=3), [content(picture.tobytes()) for picture in pixels]


def needed(spec: ImageSpec) -> Enough | None:
    """How many pixels the recipe and the preview need; None for all of them.

    `fashion` needs more than its canvas, because the item may fill a small part of the picture. The others need twice
    the canvas, for their filter; `crop` and `squash` need it along the shortest edge.
    """
    if spec.version == 1:
        return None
    if spec.recipe == "fashion":
        return Enough(max(PREVIEW, spec.size, min(MARGIN * spec.size, FINE)))
    pixels = max(PREVIEW, round(2 * spec.size / spec.crop_pct))
    return Enough(pixels, shortest=spec.recipe != "photo")


def as_picture(image: NDArray[np.uint8]) -> Image.Image:
    """An image (h, w, c) as a Pillow picture, grey where c is 1."""
    return Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)


def preview(picture: Image.Image, edge: int = PREVIEW) -> bytes:
    """A picture for people to see: scaled down to `edge`, as a JPEG, or as a PNG if it is small."""
    longest = max(picture.size)
    buffer = io.BytesIO()
    if longest > edge:
        width, height = (max(1, round(length * edge / longest)) for length in picture.size)
        picture = picture.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=1)
    else:
        picture = picture.copy()
    picture.info = {}  # the file's comments and colour profile, which would be saved too
    if longest <= edge:
        picture.save(buffer, "PNG")
        if buffer.tell() <= LOSSLESS:
            return buffer.getvalue()
        buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def rounded(rebuilt: Rebuilt) -> Images:
    """Pictures (n, h, w, c) in 0..1 from a decoder, as images; values beyond that are cut off."""
    images: Images = np.rint(np.clip(rebuilt, 0, 1) * 255).astype(np.uint8)
    return images


def prepare(picture: Image.Image, spec: ImageSpec) -> NDArray[np.uint8]:
    """An upright picture in grey ("L") or colour ("RGB") by the spec's recipe: uint8 (size, size, channels)."""
    if spec.recipe == "fashion":
        if picture.mode == "L" and picture.size == (spec.size, spec.size):
            return _with_channels(np.asarray(picture), spec.channels)
        first = spec.version == 1 or picture.size == (spec.size, spec.size)
        return _with_channels((_fashion_1 if first else _fashion_2)(picture, spec.size), spec.channels)
    square, kernel = (spec.size, spec.size), Image.Resampling[spec.interpolation.upper()]
    if spec.recipe == "photo":
        fitted = _letterboxed(picture, spec.size, kernel)
    else:
        fitted = _resized(picture, square, kernel, _centre(picture.size, spec) if spec.recipe == "crop" else None)
    return _with_channels(np.asarray(fitted.convert("RGB" if spec.channels == 3 else "L")), spec.channels)


def _letterboxed(picture: Image.Image, size: int, kernel: Image.Resampling) -> Image.Image:
    """The whole picture in the middle of a white square; a very thin picture may leave only the square."""
    width, height = picture.size
    if width > height:
        width, height = size, round(height / width * size)
    else:
        width, height = round(width / height * size), size
    square = Image.new(picture.mode, (size, size), "white")
    if width and height:
        square.paste(
            _resized(picture, (width, height), kernel), (round((size - width) / 2), round((size - height) / 2))
        )
    return square


def _resized(
    picture: Image.Image, size: tuple[int, int], kernel: Image.Resampling,
    box: tuple[float, float, float, float] | None = None,
) -> Image.Image:  # fmt: skip
    """The picture, or a box of it, with all lines resized first, then all columns.

    By itself Pillow 13 starts with the columns if a picture is tall. Its pixels then differ by a few levels, so the
    code of such a photo differs from that with an older Pillow (by `photo`, their cosine is .998).
    """
    left, top, right, bottom = box or (0, 0, *picture.size)
    lines = picture.resize((size[0], picture.height), kernel, (left, 0, right, picture.height))
    return lines.resize(size, kernel, (0, top, size[0], bottom))


def _centre(size: tuple[int, int], spec: ImageSpec) -> tuple[float, float, float, float]:
    """The box that `crop` keeps of a picture of that width and height.

    Models' own processors scale the shortest edge and cut whole pixels out of the result; the box is where those pixels
    were before scaling.
    """
    shortest = round(spec.size / spec.crop_pct)
    starts, ends = [], []
    for edge in size:
        scaled = int(shortest * edge / min(size))
        start = round((scaled - spec.size) / 2)
        starts.append(start * edge / scaled)
        ends.append((start + spec.size) * edge / scaled)
    return (starts[0], starts[1], ends[0], ends[1])


def _with_channels(pixels: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
    if pixels.ndim == 2:
        pixels = pixels[:, :, np.newaxis]
    return np.ascontiguousarray(np.repeat(pixels, channels, axis=2) if pixels.shape[2] != channels else pixels)


def _fashion_1(picture: Image.Image, size: int) -> NDArray[np.uint8]:
    picture = picture.reduce(max(1, max(picture.size) // FINE)).convert("RGB")
    pixels = np.asarray(picture)
    corners = pixels[[0, 0, -1, -1], [0, -1, 0, -1]]
    background = np.median(corners, axis=0)
    item = picture.crop(_item_box(pixels, background))
    longest = max(item.size)
    scaled = tuple(max(1, round(edge * size / longest)) for edge in item.size)
    # BOX averages the pixels that the makers' subsampling skipped: the same picture with less noise.
    kernel = Image.Resampling.BOX if longest >= size else Image.Resampling.BICUBIC
    item = _resized(item, (scaled[0], scaled[1]), kernel)
    item = item.filter(SHARPEN)
    canvas = Image.new("RGB", (size, size), tuple(int(c) for c in background))
    # An odd pixel goes to the top and the left, as in the makers' pictures (ImageMagick's centring).
    canvas.paste(item, (size // 2 - scaled[0] // 2, size // 2 - scaled[1] // 2))
    grey = np.asarray(canvas.convert("L"))
    backdrop = int(Image.new("RGB", (1, 1), tuple(int(c) for c in background)).convert("L").getpixel((0, 0)))  # type: ignore[arg-type]
    return _light_on_black(grey, backdrop)


def _fashion_2(picture: Image.Image, size: int) -> NDArray[np.uint8]:
    background = _background(picture)
    box = _item_box_2(picture, background)
    item = picture.crop(box) if box else picture
    if item.mode != "L":  # converting copies
        item = item.convert("L")
    longest = max(item.size)
    width, height = (max(1, round(length * size / longest)) for length in item.size)
    item = _resized(item, (width, height), Image.Resampling.BOX if longest >= size else Image.Resampling.BICUBIC)
    red, green, blue = background
    backdrop = (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16  # as Pillow makes grey of a colour
    left, top = size // 2 - width // 2, size // 2 - height // 2
    canvas = np.zeros((size, size), np.uint8)
    canvas[top : top + height, left : left + width] = _negative(backdrop)[np.asarray(item.filter(SHARPEN))]
    return canvas


def _background(picture: Image.Image) -> tuple[int, int, int]:
    """The median colour of the corners."""
    pixels: Any = picture.load()
    right, bottom = picture.width - 1, picture.height - 1
    corners = [pixels[0, 0], pixels[right, 0], pixels[0, bottom], pixels[right, bottom]]
    if picture.mode == "L":
        corners = [(grey, grey, grey) for grey in corners]
    red, green, blue = ((values[1] + values[2]) // 2 for values in map(sorted, zip(*corners, strict=True)))
    return red, green, blue


def _item_box_2(picture: Image.Image, background: tuple[int, int, int]) -> tuple[int, int, int, int] | None:
    """The box of pixels that differ from the background by more than TRIM, averaged over channels; None if none do."""
    if picture.mode == "L":
        least, most = max(0, background[0] - int(TRIM * 255)), min(255, background[0] + int(TRIM * 255))
        other = np.asarray(picture) - np.uint8(least) > most - least  # below least it wraps around
        return Image.fromarray(other.view(np.uint8)).getbbox()
    away = ImageChops.difference(picture, Image.new("RGB", picture.size, background))
    return away.convert("L", (1, 1, 1, -3 * TRIM * 255)).getbbox()


@functools.cache
def _negative(backdrop: int) -> NDArray[np.uint8]:
    """What each grey becomes on black, (256,)."""
    return _light_on_black(np.arange(256, dtype=np.uint8), backdrop)


def _light_on_black(grey: NDArray[np.uint8], backdrop: int) -> NDArray[np.uint8]:
    # A photo's backdrop is rarely pure white (or black): it becomes 0, the far end stays 255.
    distance = (backdrop - grey.astype(np.float32)) if backdrop >= 128 else (grey.astype(np.float32) - backdrop)
    reach = backdrop if backdrop >= 128 else 255 - backdrop
    light: NDArray[np.uint8] = np.clip(np.rint(distance * (255 / reach)), 0, 255).astype(np.uint8)
    return light


def _item_box(pixels: NDArray[np.uint8], background: NDArray[np.float64]) -> tuple[int, int, int, int]:
    height, width = pixels.shape[:2]
    step = max(1, BAND // width)  # in bands, because floats take several times the picture's memory
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
