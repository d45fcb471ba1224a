"""An image recipe as data: every step and number from a picture file to an encoder's image.

`simrec.images` does these steps with Pillow. This module describes them for a program in another language that runs the
encoder's graph: simrec/data/recipes/README.md explains each step, and the files beside it show the results.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from PIL import Image

from simrec import images, picture_files
from simrec.contracts import ImageSpec

Step = dict[str, Any]
"""JSON values: the name of the step in "step", and its numbers."""

KERNELS: dict[str, dict[str, Any]] = {
    "lanczos": {"name": "lanczos", "support": 3},
    "bicubic": {"name": "bicubic", "support": 2, "a": -0.5},
    "bilinear": {"name": "bilinear", "support": 1},
    "box": {"name": "box", "support": 0.5},
}
"""Pillow's filters (Resample.c). support: how many pixels count to each side, before the scale widens the filter."""

COEFFICIENT_BITS = 22
"""Fraction bits of a filter's coefficients, which are whole numbers (PRECISION_BITS in Resample.c)."""

GREY: Step = {"step": "grey", "weights": [19595, 38470, 7471], "shift": 16}
"""How Pillow turns a colour into grey (L24 in Convert.c)."""

_FLIPS = {
    Image.Transpose.FLIP_LEFT_RIGHT: (False, True, False),
    Image.Transpose.FLIP_TOP_BOTTOM: (False, False, True),
    Image.Transpose.ROTATE_180: (False, True, True),
    Image.Transpose.TRANSPOSE: (True, False, False),
    Image.Transpose.ROTATE_270: (True, True, False),
    Image.Transpose.ROTATE_90: (True, False, True),
    Image.Transpose.TRANSVERSE: (True, True, True),
}
"""Each as three truths: rows become columns, then left becomes right, then top becomes bottom."""


def steps(spec: ImageSpec) -> list[Step]:
    """The steps that turn any picture file into the image that an encoder with this spec takes, first to last."""
    return [*_reading(spec), *_preparing(spec), {
        "step": "array", "dtype": "uint8", "order": ["n", "height", "width", "channels"], "shape": ["n", *spec.shape],
    }]  # fmt: skip


def _reading(spec: ImageSpec) -> list[Step]:
    """The steps from the file to an upright picture in grey or colour."""
    enough = images.needed(spec)
    pixels = None if enough is None else enough.pixels
    edge = "shortest" if enough and enough.shortest else "longest"

    def keep(of_large: int) -> dict[str, Any]:
        return {"edge": edge, "pixels": pixels, "large": {"over": picture_files.ORDINARY, "pixels": of_large}}

    turns = {
        str(orientation): dict(zip(("transpose", "flip_x", "flip_y"), _FLIPS[turn], strict=True))
        for orientation, turn in picture_files.TURNS.items()
    }
    return [
        {
            "step": "decode", "frame": 0, "colour_profile": "ignored",
            "jpeg": {"divisors": [1, 2, 4, 8], "keep": keep(2 * picture_files.KEPT)},
        },
        {"step": "lay_on", "colour": [255, 255, 255]},
        {"step": "reduce", "keep": keep(picture_files.KEPT), "shift": 24},
        {"step": "turn", "exif": turns},
    ]  # fmt: skip


def _preparing(spec: ImageSpec) -> list[Step]:
    """The steps from an upright picture to the canvas."""
    square = {"width": spec.size, "height": spec.size}
    if spec.recipe == "fashion":
        # A colour picture of the canvas's size is prepared as in version 1.
        cases = [{"when": {**square, "grey": True}, "steps": []}, {"when": square, "steps": _fashion_1(spec)}]
        if spec.version == 1:
            cases = [cases[0], {"when": {}, "steps": _fashion_1(spec)}]
        else:
            cases.append({"when": {}, "steps": _fashion_2(spec)})
        return [{"step": "choose", "cases": cases}]
    kernel = {"kernel": KERNELS[spec.interpolation], "coefficient_bits": COEFFICIENT_BITS}
    grey = [] if spec.channels == 3 else [GREY]
    if spec.recipe == "squash":
        return [{"step": "resize", "fit": "stretch", **square, **kernel}, *grey]
    if spec.recipe == "crop":
        shortest = round(spec.size / spec.crop_pct)
        return [{"step": "resize", "fit": "cover", "shortest": shortest, **square, **kernel}, *grey]
    return [
        {"step": "resize", "fit": "contain", "other_edge": "short / long * size", "least": 0, **square, **kernel},
        {"step": "place", **square, "colour": [255, 255, 255], "at": "half_even((size - length) / 2)"},
        *grey,
    ]


def _fashion_2(spec: ImageSpec) -> list[Step]:
    return [
        _trim("floor", "sum", images.TRIM * 255 * 3),
        GREY,
        _item(spec),
        _sharpen(),
        _negate(),
        _centre(spec, [0]),
    ]


def _fashion_1(spec: ImageSpec) -> list[Step]:
    return [
        {"step": "reduce", "keep": {"edge": "longest", "pixels": images.FINE, "large": None}, "shift": 24},
        _trim("none", "euclidean", images.TRIM * 255 * math.sqrt(3)),
        _item(spec),
        _sharpen(),
        _centre(spec, "background"),
        GREY,
        _negate(),
    ]


def _trim(rounding: str, distance: str, more_than: float) -> Step:
    """Crops the picture to the box of all pixels that differ from the background by more than `more_than`."""
    background = {"pixels": "corners", "statistic": "median", "rounding": rounding}
    return {"step": "trim", "background": background, "distance": distance, "more_than": more_than}


def _item(spec: ImageSpec) -> Step:
    return {
        "step": "resize", "fit": "contain", "other_edge": "short * size / long", "least": 1, "width": spec.size,
        "height": spec.size, "kernel": KERNELS["box"], "kernel_enlarging": KERNELS["bicubic"],
        "coefficient_bits": COEFFICIENT_BITS,
    }  # fmt: skip


def _sharpen() -> Step:
    """Pillow's UnsharpMask: subtracts a Gaussian blur, made of three box blurs of this radius (BoxBlur.c)."""
    passes, shift = 3, 24
    variance = images.SHARPEN.radius**2 / passes
    assert variance < 2 / 3  # else there would be more than three weights
    radius = variance / (2 * (1 - variance))
    middle = int(np.float32(2**shift) / np.float32(2 * radius + 1))
    side = (2**shift - middle) // 2
    return {
        "step": "sharpen", "weights": [side, middle, side], "shift": shift, "passes": passes,
        "percent": images.SHARPEN.percent,
    }  # fmt: skip


def _negate() -> Step:
    """Light on black: the background's grey becomes 0, and the grey farthest from it 255."""
    return {"step": "negate", "light_from": 128, "backdrop": {"weights": GREY["weights"], "shift": GREY["shift"]}}


def _centre(spec: ImageSpec, colour: str | list[int]) -> Step:
    at = "floor(size / 2) - floor(length / 2)"
    return {"step": "place", "width": spec.size, "height": spec.size, "colour": colour, "at": at}
