"""The arrays that simrec and plugins exchange, and the images that an encoder takes. Uses numpy only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.uint8]
"""uint8 (n, height, width, channels), 0..255."""

Codes = NDArray[np.float32]
"""float32 (n, dim)."""

Rebuilt = NDArray[np.float32]
"""float32 (n, height, width, channels), 0..1: the pictures that a decoder makes from codes."""

Metric = Literal["cosine", "l2"]

Dtype = Literal["float32", "int8", "binary"]
"""How a catalogue keeps its codes: four bytes a number, one byte a number, or 64 bits a code."""

CodeDtype = Literal["float32", "float16", "int8"]
"""How an export writes the numbers of codes."""

Recipe = Literal["fashion", "photo", "crop", "squash"]

Interpolation = Literal["lanczos", "bicubic", "bilinear"]

Notice = Callable[[str], None]
"""Receives one-line messages that aren't errors."""


@dataclass(frozen=True)
class ImageSpec:
    """The images that an encoder takes.

    size: height and width in pixels. channels: 1 (grey) or 3 (RGB). recipe: how any picture is prepared (see
    `simrec.images`): "fashion"; "photo", the whole picture letterboxed; "crop", its middle; "squash", stretched.
    version: of the recipe; an encoder keeps the one it was trained with. interpolation: the filter that the last three
    resample with. crop_pct: the share of the shortest edge that "crop" keeps; a vision model that takes 224 pixels of
    256 has 0.875. Raises ValueError for any other value.
    """

    size: int = 28
    channels: int = 1
    recipe: Recipe = "fashion"
    version: int = 2
    interpolation: Interpolation = "lanczos"
    crop_pct: float = 1.0

    def __post_init__(self) -> None:
        if not 1 <= self.size <= 4096 or self.channels not in (1, 3) or self.recipe not in get_args(Recipe):
            raise ValueError(
                f"no pictures of {self.size} pixels, {self.channels} channels and recipe {self.recipe!r}: there are "
                f"1 to 4,096 pixels, 1 or 3 channels, and {' or '.join(get_args(Recipe))}"
            )
        if self.version not in (1, 2):
            raise ValueError(f"no version {self.version} of the recipe {self.recipe!r}: there are 1 and 2")
        if self.interpolation not in get_args(Interpolation):
            raise ValueError(
                f"no interpolation {self.interpolation!r}: there is {' or '.join(get_args(Interpolation))}"
            )
        if self.crop_pct != 1 and (self.recipe != "crop" or not 0.1 <= self.crop_pct <= 1):
            raise ValueError(f"crop_pct {self.crop_pct}: it is from 0.1 to 1, and 1 for all recipes but 'crop'")

    @property
    def digest(self) -> str:
        """SHA-256 of all its fields: two encoders with the same digest prepare pictures in the same way."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of one image."""
        return (self.size, self.size, self.channels)

    @property
    def batch(self) -> int:
        """How many images to compute at once: fewer large ones, whose layers take many times their memory."""
        return max(1, min(512, 2**23 // (self.size**2 * self.channels)))
