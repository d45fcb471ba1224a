"""Principal component analysis of raw pixels: implements the protocol of `simrec.contracts` with numpy alone."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

from simrec.contracts import Codes, Epoch, History, Images, ImageSpec, Progress, Rebuilt, Recipe, setting
from simrec.errors import ImageError, PluginError, TrainingError

SAMPLE = 10_000
"""Maximum number of pictures for computing the axes: more wouldn't change them."""

LARGE_SAMPLE = 2_000
"""The same for pictures with more than `SAMPLE` numbers."""


@dataclass(frozen=True, kw_only=True)
class PCASettings:
    """Settings of the principal components."""

    size: int = setting(28, "height and width of a picture, in pixels")
    channels: int = setting(1, "1 for grey, 3 for RGB")
    recipe: Recipe = setting("fashion", "how a picture is prepared: fashion, photo (letterboxed), crop or squash")
    dim: int = setting(32, "maximum numbers in a code; few pictures, or pictures of few pixels, have fewer axes")

    def __post_init__(self) -> None:
        for name in ("size", "dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be 1 or more")
        if self.channels not in (1, 3):
            raise ValueError(f"channels is {self.channels}: it must be 1 (grey) or 3 (RGB)")


class PCA:
    """A code is a picture's position along the directions in which the training pictures vary most."""

    Settings = PCASettings
    presets: ClassVar[Mapping[str, PCASettings]] = {"default": PCASettings()}

    def __init__(self, settings: PCASettings) -> None:
        self.settings = settings
        self.input = ImageSpec(settings.size, settings.channels, settings.recipe)
        self._learned(np.zeros(0, np.float32), np.zeros((settings.dim, 0), np.float32))

    def _learned(self, mean: NDArray[np.float32], axes: NDArray[np.float32]) -> None:
        """mean (pixels,), axes (dim, pixels), orthonormal; without pixels, nothing is learned yet."""
        self.mean = mean
        self.axes = axes
        self.dim = len(axes)

    def fit(
        self,
        images: Images,
        *,
        validation: Images,
        seed: int = 0,
        device: str = "auto",
        progress: Callable[[Progress], None] = lambda _: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> History:
        """Computes mean and axes from the pictures, in one epoch; seed and device make no difference.

        The losses are mean squared errors of pixels in 0..1. Raises TrainingError for fewer than two pictures, or
        pictures that are all the same.
        """
        self._check(images)
        self._check(validation)
        begun = time.perf_counter()
        sample, mean, axes = _components(images, self.settings.dim)
        self._learned(mean, axes)
        loss = self._error(sample)
        progress(Progress(epoch=1, epochs=1, step=1, steps=1, loss=loss, validation_loss=None))
        held_out = validation[:: max(1, len(validation) // LARGE_SAMPLE)]
        epoch = Epoch(1, loss, self._error(held_out) if len(held_out) else loss, {}, time.perf_counter() - begun)
        return History((epoch,), kept=1, ended="interrupted" if stop() else "finished")

    def encode(self, images: Images) -> Codes:
        """Images (n, h, w, c) to codes (n, dim)."""
        self._check(images)
        self._check_learned()
        codes = np.empty((len(images), self.dim), np.float32)
        batch = self.input.batch
        for start in range(0, len(images), batch):
            codes[start : start + batch] = (_pixels(images[start : start + batch]) - self.mean) @ self.axes.T
        return codes

    def decode(self, codes: Codes) -> Rebuilt:
        """Codes (n, dim) to pictures (n, h, w, c) in 0..1."""
        self._check_learned()
        if codes.ndim != 2 or codes.shape[1] != self.dim:
            raise PluginError(
                f"codes are {codes.shape}, this decoder takes (n, {self.dim}): use the encoder they came from"
            )
        rebuilt: Rebuilt = np.clip(codes @ self.axes + self.mean, 0, 1).astype(np.float32)
        return rebuilt.reshape(len(codes), *self.input.shape)

    def save(self, folder: Path) -> None:
        """Writes weights.safetensors, which also holds the settings."""
        self._check_learned()
        metadata = {"settings": json.dumps(asdict(self.settings))}
        save_file(
            {"mean": self.mean, "axes": np.ascontiguousarray(self.axes)}, folder / "weights.safetensors", metadata
        )

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The encoder that `save` wrote there."""
        with safe_open(folder / "weights.safetensors", framework="np") as file:
            pca = cls(PCASettings(**json.loads(file.metadata()["settings"])))
            pca._learned(file.get_tensor("mean"), file.get_tensor("axes"))
        return pca

    def _check_learned(self) -> None:
        if not self.mean.size:
            raise PluginError("this PCA has learned nothing yet: fit or load it first")

    def _error(self, images: Images) -> float:
        difference = self.decode(self.encode(images)).reshape(len(images), -1) - _pixels(images)
        return float(np.mean(difference**2, dtype=np.float64))

    def _check(self, images: Images) -> None:
        if images.dtype != np.uint8 or images.shape[1:] != self.input.shape:
            raise ImageError(
                f"images are {images.dtype} {images.shape}, this encoder takes uint8 (n, {self.input.size}, "
                f"{self.input.size}, {self.input.channels}): set size and channels, or prepare the images"
            )


def _components(images: Images, dim: int) -> tuple[Images, NDArray[np.float32], NDArray[np.float32]]:
    """The sample of pictures, their mean (pixels,) and at most dim axes (k, pixels), the widest first."""
    if len(images) < 2:
        raise TrainingError(f"principal components need at least 2 pictures, not {len(images)}")
    most = SAMPLE if images[0].size <= SAMPLE else LARGE_SAMPLE
    sample = images[:: max(1, len(images) // most)][:most]
    if (sample == sample[0]).all():
        raise TrainingError(f"{len(images)} pictures that are all the same have no principal components: give others")
    centred = _pixels(sample).astype(np.float64)
    mean = centred.mean(axis=0)
    centred -= mean
    if centred.shape[1] <= len(centred):
        _, vectors = np.linalg.eigh(centred.T @ centred)
        axes = vectors[:, ::-1].T
    else:
        values, vectors = np.linalg.eigh(centred @ centred.T)  # fewer pictures than pixels: the smaller matrix
        keep = values > values[-1] * 1e-9
        axes = ((centred.T @ vectors[:, keep]) / np.sqrt(values[keep])).T[::-1]
    return sample, mean.astype(np.float32), axes[:dim].astype(np.float32)


def _pixels(images: Images) -> NDArray[np.float32]:
    """Images (n, h, w, c) to (n, h * w * c), 0..1."""
    return images.reshape(len(images), -1).astype(np.float32) / np.float32(255)
