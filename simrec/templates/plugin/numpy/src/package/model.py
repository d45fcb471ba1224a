"""Oriented gradients pooled over cells, after Dalal, Triggs 2005 (doi:10.1109/CVPR.2005.177), in numpy alone."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar, Self

import numpy as np

from simrec.contracts import Codes, Epoch, History, Images, ImageSpec, Progress, Recipe, setting
from simrec.errors import ImageError


@dataclass(frozen=True, kw_only=True)
class GradientSettings:
    """Settings of the oriented gradients."""

    size: int = setting(28, "height and width of a picture, in pixels")
    channels: int = setting(1, "1 for grey, 3 for RGB")
    recipe: Recipe = setting("fashion", "how a picture is prepared: fashion, photo (letterboxed), crop or squash")
    cells: int = setting(7, "cells along each side of a picture")
    angles: int = setting(4, "directions that are told apart in a cell")

    def __post_init__(self) -> None:
        if not (self.angles >= 1 <= self.cells <= self.size and self.channels in (1, 3)):
            raise ValueError("angles and cells must be 1 or more, cells at most size, and channels 1 or 3")


class OrientedGradients:
    """A code holds the strength of edges in each cell and direction, minus the training pictures' mean."""

    Settings = GradientSettings
    presets: ClassVar[Mapping[str, GradientSettings]] = {"default": GradientSettings()}

    def __init__(self, settings: GradientSettings) -> None:
        self.settings = settings
        self.input = ImageSpec(settings.size, settings.channels, settings.recipe)
        self.dim = settings.cells**2 * settings.angles
        self.mean = np.zeros(self.dim, np.float32)

    def fit(
        self, images: Images, *, validation: Images, seed: int, device: str,
        progress: Callable[[Progress], None], stop: Callable[[], bool],
    ) -> History:  # fmt: skip
        """Learns the mean code, in one epoch; the losses are the variances of codes around it."""
        begun, self.mean = time.perf_counter(), np.zeros(self.dim, np.float32)
        self.mean = self.encode(images).mean(axis=0)
        loss, held_out = (float(np.square(self.encode(some)).mean()) for some in (images, validation))
        progress(Progress(epoch=1, epochs=1, step=1, steps=1, loss=loss, validation_loss=None))
        epoch = Epoch(1, loss, held_out, {}, time.perf_counter() - begun)
        return History((epoch,), kept=1, ended="interrupted" if stop() else "finished")

    def encode(self, images: Images) -> Codes:
        """Images (n, h, w, c) to codes (n, dim)."""
        if images.dtype != np.uint8 or images.shape[1:] != self.input.shape:
            raise ImageError(f"images are {images.dtype} {images.shape}: prepare them, as uint8, for {self.input}")
        codes = np.empty((len(images), self.dim), np.float32)
        for start in range(0, len(images), self.input.batch):
            codes[start : start + self.input.batch] = self._strengths(images[start : start + self.input.batch])
        return codes - self.mean

    def _strengths(self, images: Images) -> Codes:
        down, right = np.gradient(images.mean(axis=3, dtype=np.float32) / 255, axis=(1, 2))
        angles = np.arange(self.settings.angles, dtype=np.float32) * np.float32(np.pi / self.settings.angles)
        edges = np.abs(right[..., None] * np.cos(angles) + down[..., None] * np.sin(angles))  # (n, h, w, angles)
        starts = np.arange(self.settings.cells) * self.settings.size // self.settings.cells
        pooled = np.add.reduceat(np.add.reduceat(edges, starts, axis=1), starts, axis=2)  # (n, cells, cells, angles)
        codes: Codes = np.sqrt(pooled).reshape(len(images), self.dim)
        return codes

    def save(self, folder: Path) -> None:
        """Writes settings.json and mean.npy."""
        (folder / "settings.json").write_text(json.dumps(asdict(self.settings)))
        np.save(folder / "mean.npy", self.mean)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The encoder that `save` wrote there."""
        encoder = cls(GradientSettings(**json.loads((folder / "settings.json").read_text())))
        encoder.mean = np.load(folder / "mean.npy")
        return encoder
