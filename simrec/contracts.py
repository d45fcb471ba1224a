"""What crosses the borders of simrec, in numpy alone: what a plugin author reads first.

A picture becomes `Images`, an encoder turns those into `Codes`, and codes that lie near each other belong to
items that look alike. A plugin names its encoders with `EncoderSpec`; each follows the `Encoder` protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from simrec.errors import PluginError

Images = NDArray[np.uint8]
"""uint8 (n, height, width, channels), 0..255."""

Codes = NDArray[np.float32]
"""float32 (n, dim)."""

Rebuilt = NDArray[np.float32]
"""float32 (n, height, width, channels), 0..1: what a decoder makes of codes."""

Metric = Literal["cosine", "l2"]

Dtype = Literal["float32", "int8", "binary"]
"""How a catalogue keeps its codes: four bytes a number, one byte a number, or 64 bits a code."""

Recipe = Literal["fashion", "photo"]

API = 1
"""The version of this contract."""


@dataclass(frozen=True)
class ImageSpec:
    """What an encoder wants to be fed.

    size: height and width in pixels. channels: 1 (grey) or 3 (RGB). recipe: how any picture gets there,
    "fashion" or "photo" (see `simrec.images`).
    """

    size: int = 28
    channels: int = 1
    recipe: Recipe = "fashion"

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of one image."""
        return (self.size, self.size, self.channels)


@dataclass(frozen=True)
class EncoderSpec:
    """One encoder that a plugin offers.

    name: what people type (`simrec train NAME`). summary: one line for lists. factory: "package.module:Class",
    imported only when the encoder is used. metric: how its codes are compared. api: the contract's version.

    Raises PluginError for a field that cannot be right.
    """

    name: str
    summary: str
    factory: str
    metric: Metric = "cosine"
    api: int = API

    def __post_init__(self) -> None:
        module, colon, attribute = self.factory.partition(":")
        if not (module and colon and attribute):
            raise PluginError(f"encoder {self.name!r}: factory {self.factory!r} must read 'package.module:Class'")
        if self.metric not in ("cosine", "l2"):
            raise PluginError(f"encoder {self.name!r}: metric {self.metric!r} must be 'cosine' or 'l2'")
        if self.api != API:
            raise PluginError(
                f"encoder {self.name!r} was written for contract {self.api}, this simrec has {API}: "
                f"install the plugin's release for this simrec"
            )


def setting(default: Any, doc: str) -> Any:
    """A field of an encoder's settings: its default and its line of doc.

    >>> @dataclass(frozen=True)
    ... class Settings:
    ...     dim: int = setting(32, "numbers in a code")
    """
    return field(default=default, metadata={"doc": doc})


@dataclass(frozen=True)
class Progress:
    """Where a training stands, reported after every step.

    epoch and step count from 1. loss: mean over the epoch so far. validation_loss: of the epoch before, None in
    the first.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    validation_loss: float | None


@dataclass(frozen=True)
class Epoch:
    """One finished epoch: losses are means per image, `parts` what the loss is made of, time in seconds."""

    epoch: int
    loss: float
    validation_loss: float
    parts: Mapping[str, float]
    seconds: float


@dataclass(frozen=True)
class History:
    """How a training went.

    kept: the epoch whose weights were kept. ended: "finished" (all epochs), "converged" (early stopping) or
    "interrupted" (`stop` asked for it).
    """

    epochs: tuple[Epoch, ...]
    kept: int
    ended: Literal["finished", "converged", "interrupted"]


@runtime_checkable
class Encoder(Protocol):
    """What every encoder is, torch or not.

    Class attributes: `Settings`, a frozen dataclass in which each field has a default and a line of doc
    (`setting`); `presets`, named settings, "default" among them.
    """

    Settings: ClassVar[type[Any]]
    presets: ClassVar[Mapping[str, Any]]
    settings: Any
    input: ImageSpec
    dim: int

    def __init__(self, settings: Any) -> None: ...

    def fit(
        self,
        images: Images,
        *,
        validation: Images,
        seed: int,
        device: str,
        progress: Callable[[Progress], None],
        stop: Callable[[], bool],
    ) -> History:
        """Learns from pictures alone; the same seed on the same machine gives the same encoder.

        Calls `progress` after each step; asks `stop` after each epoch and, told True, ends there with the best
        encoder so far. Raises ImageError for pictures of another shape.
        """
        ...

    def encode(self, images: Images) -> Codes:
        """Images (n, h, w, c) to codes (n, dim): deterministic, each image by itself, n = 0 included.

        Leaves `images` as it was. Raises ImageError for another shape or dtype.
        """
        ...

    def save(self, folder: Path) -> None:
        """Writes all that `load` needs into a folder that is this encoder's own, code that would be run not among it.

        If it also writes encoder.onnx (and, with a decoder, decoder.onnx: see `simrec.onnx_encoder` for what goes in
        and out), looking up needs neither this plugin nor its libraries.
        """
        ...

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The encoder that `save` wrote there: equal settings, equal codes."""
        ...


@runtime_checkable
class Decoder(Protocol):
    """What an encoder also has when its codes can be turned back into pictures.

    With it there is reconstructing, compressing, denoising and generating; without it, leave `decode` out.
    """

    def decode(self, codes: Codes) -> Rebuilt:
        """Codes (n, dim) to pictures (n, h, w, c) in 0..1, n = 0 included.

        Raises PluginError, or another of `simrec.errors`, for codes of another length.
        """
        ...


@runtime_checkable
class Variational(Protocol):
    """What an encoder also has when its codes are the means of normal distributions, as those of a VAE are.

    New codes are then drawn from the standard normal instead of a mixture fitted to codes, and with a decoder -ELBO
    is measured. Others leave both out, or say False and None.
    """

    @property
    def variational(self) -> bool:
        """Whether codes are the means of normal distributions."""
        ...

    def log_variances(self, images: Images) -> Codes | None:
        """Images (n, h, w, c) to the log-variances (n, dim) of those distributions; None for other codes."""
        ...


@runtime_checkable
class Summarised(Protocol):
    """What an encoder also has when training shall begin with a description of it."""

    def summary(self) -> str:
        """Some lines of text: layers, output shapes, numbers of parameters."""
        ...
