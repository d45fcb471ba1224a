"""The steps of `simrec.recipes` in numpy alone: only decoding the file uses Pillow.

Written from simrec/data/recipes/README.md and not from `simrec.images`, so that each can check the other.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
"""(height, width, channels)."""


class Picture:
    """What the steps work on. background: what `trim` found."""

    def __init__(self, pixels: Pixels, orientation: int = 1) -> None:
        self.pixels, self.orientation = pixels, orientation
        self.background = np.zeros(3)


def prepared(file: Path | bytes, steps: list[dict[str, Any]]) -> Pixels:
    """The encoder's input for a picture file, (size, size, channels)."""
    picture = decoded(file, steps[0])
    run(picture, steps[1:])
    return picture.pixels


def run(picture: Picture, steps: list[dict[str, Any]]) -> None:
    for step in steps:
        globals()[f"_{step['step']}"](picture, step)


def decoded(file: Path | bytes, step: dict[str, Any]) -> Picture:
    """A file's pixels, grey, grey and alpha, colour, or colour and alpha, in 8 bits."""
    with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as opened:
        if opened.format == "JPEG":
            scale = max(1, max(opened.size) // kept(opened.size, step["jpeg"]["keep"]))
            divisor = max(divisor for divisor in step["jpeg"]["divisors"] if divisor <= scale)
            opened.draft(None, (max(1, opened.width // divisor), max(1, opened.height // divisor)))
        opened.seek(step["frame"])
        palette = "RGBA" if "transparency" in opened.info else "RGB"
        pixels = np.asarray(opened.convert(palette) if opened.mode == "P" else opened)
        orientation = opened.getexif().get(274, 1)
    return Picture(pixels[:, :, np.newaxis] if pixels.ndim == 2 else pixels, orientation)


def kept(size: tuple[int, ...], keep: dict[str, Any]) -> int:
    """Minimum longest edge, in pixels."""
    longest, shortest = max(size), min(size)
    edge = longest if keep["pixels"] is None else keep["pixels"]
    if keep["edge"] == "shortest" and keep["pixels"] is not None:
        edge = -(-edge * longest // shortest)
    large = keep["large"]
    return min(edge, large["pixels"]) if large and size[0] * size[1] > large["over"] else edge


def _lay_on(picture: Picture, step: dict[str, Any]) -> None:
    pixels = picture.pixels
    if pixels.shape[2] in (1, 3):
        return
    colours = np.repeat(pixels[:, :, :1], 3, axis=2) if pixels.shape[2] == 2 else pixels[:, :, :3]
    alpha = pixels[:, :, -1:].astype(int)
    mixed = colours * alpha + np.array(step["colour"]) * (255 - alpha)
    picture.pixels = ((mixed + 127) // 255).astype(np.uint8)


def _reduce(picture: Picture, step: dict[str, Any]) -> None:
    height, width, channels = picture.pixels.shape
    factor = max(1, max(width, height) // kept((width, height), step["keep"]))
    sums = picture.pixels.astype(np.int64)
    counts = np.ones((height, width, 1), np.int64)
    for axis, length in ((0, height), (1, width)):
        starts = np.arange(0, length, factor)
        sums, counts = np.add.reduceat(sums, starts, axis), np.add.reduceat(counts, starts, axis)
    picture.pixels = ((sums + counts // 2) * ((1 << step["shift"]) // counts) >> step["shift"]).astype(np.uint8)


def _turn(picture: Picture, step: dict[str, Any]) -> None:
    if turn := step["exif"].get(str(picture.orientation)):
        if turn["transpose"]:
            picture.pixels = picture.pixels.transpose(1, 0, 2)
        if turn["flip_x"]:
            picture.pixels = picture.pixels[:, ::-1]
        if turn["flip_y"]:
            picture.pixels = picture.pixels[::-1]


def _choose(picture: Picture, step: dict[str, Any]) -> None:
    height, width, channels = picture.pixels.shape
    facts = {"width": width, "height": height, "grey": channels == 1}
    run(picture, next(case["steps"] for case in step["cases"] if case["when"].items() <= facts.items()))


def _trim(picture: Picture, step: dict[str, Any]) -> None:
    pixels = picture.pixels
    corners = np.sort(pixels[[0, 0, -1, -1], [0, -1, 0, -1]].astype(float), axis=0)
    middle = (corners[1] + corners[2]) / 2
    picture.background = np.broadcast_to(np.floor(middle), 3)
    assert step["background"] == {**step["background"], "pixels": "corners", "statistic": "median"}
    apart = np.abs(pixels - (np.floor(middle) if step["background"]["rounding"] == "floor" else middle))
    apart = np.broadcast_to(apart, (*apart.shape[:2], 3))  # grey counts as three channels
    far = {"sum": apart.sum(axis=2), "euclidean": np.sqrt((apart**2).sum(axis=2))}[step["distance"]]
    rows, columns = (np.flatnonzero((far > step["more_than"]).any(axis)) for axis in (1, 0))
    if len(rows):
        picture.pixels = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _grey(picture: Picture, step: dict[str, Any]) -> None:
    if picture.pixels.shape[2] == 3:
        weighted = (picture.pixels * np.array(step["weights"])).sum(axis=2) + (1 << step["shift"] - 1)
        picture.pixels = (weighted >> step["shift"]).astype(np.uint8)[:, :, np.newaxis]


def _resize(picture: Picture, step: dict[str, Any]) -> None:
    height, width, _ = picture.pixels.shape
    to_width, to_height = step["width"], step["height"]
    boxes = [(0.0, float(width)), (0.0, float(height))]
    kernel = step["kernel"]
    if step["fit"] == "contain":
        long, short = max(width, height), min(width, height)
        if long < step["width"] and "kernel_enlarging" in step:
            kernel = step["kernel_enlarging"]
        size = step["width"]
        other = round({"short / long * size": short / long * size, "short * size / long": short * size / long}[
            step["other_edge"]
        ])  # fmt: skip
        other = max(step["least"], other)
        to_width, to_height = (size, other) if width >= height else (other, size)
    if step["fit"] == "cover":
        boxes = []
        for length in (width, height):
            scaled = step["shortest"] * length // min(width, height)
            start = round((scaled - step["width"]) / 2)
            ends = (start * length / scaled, (start + step["width"]) * length / scaled)
            boxes.append((float(np.float32(ends[0])), float(np.float32(ends[1]))))
    bits = step["coefficient_bits"]
    across = _weights(width, boxes[0], to_width, kernel, bits)
    down = _weights(height, boxes[1], to_height, kernel, bits)
    pixels = picture.pixels.astype(np.float64)
    for axes, weights in (("hwc,xw->hxc", across), ("hwc,yh->ywc", down)):
        sums = np.einsum(axes, pixels, weights, optimize=True)  # of whole numbers, so exact
        pixels = np.clip((sums.astype(np.int64) + (1 << bits - 1)) >> bits, 0, 255).astype(np.float64)
    picture.pixels = pixels.astype(np.uint8)


def _weights(length: int, box: tuple[float, float], to: int, kernel: dict[str, Any], bits: int) -> NDArray[np.float64]:
    """The weight of each pixel of a line in each pixel of the resized line, (to, length)."""
    weights = np.zeros((to, length))
    scale = float(np.float32(box[1]) - np.float32(box[0])) / to if to else 1.0
    widened = max(scale, 1.0)
    support = kernel["support"] * widened
    for place in range(to):
        centre = box[0] + (place + 0.5) * scale
        first, last = max(0, int(centre - support + 0.5)), min(length, int(centre + support + 0.5))
        values = _kernel(kernel, (np.arange(first, last) - centre + 0.5) * (1 / widened))
        values /= np.cumsum(values)[-1]  # one after the other: np.sum adds them in another order
        weights[place, first:last] = np.trunc(np.where(values < 0, -0.5, 0.5) + values * (1 << bits))
    return weights


def _kernel(kernel: dict[str, Any], x: NDArray[np.float64]) -> NDArray[np.float64]:
    name, far = kernel["name"], np.abs(x)
    if name == "box":
        return ((x > -0.5) & (x <= 0.5)).astype(float)
    if name == "bilinear":
        return np.maximum(0, 1 - far)
    if name == "lanczos":
        return np.where((x >= -3) & (x < 3), np.sinc(x) * np.sinc(x / 3), 0)
    a = kernel["a"]
    near = ((a + 2) * far - (a + 3)) * far * far + 1
    return np.where(far < 1, near, np.where(far < 2, (((far - 5) * far + 8) * far - 4) * a, 0))


def _sharpen(picture: Picture, step: dict[str, Any]) -> None:
    left, middle, right = step["weights"]
    blurred = picture.pixels.astype(np.int64)
    for axis in (1, 0):
        for _ in range(step["passes"]):
            edged = np.pad(blurred, [(1, 1) if at == axis else (0, 0) for at in range(3)], mode="edge")
            before, here, after = (np.take(edged, range(at, at + blurred.shape[axis]), axis) for at in range(3))
            blurred = (left * before + middle * here + right * after + (1 << step["shift"] - 1)) >> step["shift"]
    difference = (picture.pixels - blurred) * step["percent"]
    picture.pixels = np.clip(picture.pixels + np.trunc(difference / 100), 0, 255).astype(np.uint8)


def _negate(picture: Picture, step: dict[str, Any]) -> None:
    weights, shift = step["backdrop"]["weights"], step["backdrop"]["shift"]
    backdrop = (int(picture.background @ np.array(weights)) + (1 << shift - 1)) >> shift
    light = backdrop >= step["light_from"]
    reach = backdrop if light else 255 - backdrop
    far = (backdrop - picture.pixels.astype(np.float32)) * (1 if light else -1)
    picture.pixels = np.clip(np.rint(far * np.float32(255 / reach)), 0, 255).astype(np.uint8)


def _place(picture: Picture, step: dict[str, Any]) -> None:
    height, width, channels = picture.pixels.shape
    colour = picture.background if step["colour"] == "background" else np.array(step["colour"])
    canvas = np.empty((step["height"], step["width"], channels), np.uint8)
    canvas[:] = colour[:channels]
    left, top = (
        {
            "half_even((size - length) / 2)": round((size - length) / 2),
            "floor(size / 2) - floor(length / 2)": size // 2 - length // 2,
        }[step["at"]]
        for size, length in ((step["width"], width), (step["height"], height))
    )
    canvas[top : top + height, left : left + width] = picture.pixels
    picture.pixels = canvas


def _array(picture: Picture, step: dict[str, Any]) -> None:
    _, *shape = step["shape"]
    assert (step["dtype"], step["order"]) == ("uint8", ["n", "height", "width", "channels"])
    picture.pixels = np.ascontiguousarray(np.broadcast_to(picture.pixels, shape))
