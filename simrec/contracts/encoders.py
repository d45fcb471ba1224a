"""What an encoder is: it turns images into codes, and some encoders turn codes back into images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, Self, runtime_checkable

from simrec.contracts.arrays import Codes, Images, ImageSpec, Rebuilt

Ended = Literal["finished", "converged", "interrupted"]
"""How a training ended: after all epochs, by early stopping, or because `stop` returned True."""


@dataclass(frozen=True)
class Progress:
    """The state of a training, reported after every step.

    epoch and step count from 1. loss: mean over the epoch so far. validation_loss: that of the previous epoch, None in
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
    """One finished epoch: losses are means per image, `parts` are the terms of the loss, time is in seconds."""

    epoch: int
    loss: float
    validation_loss: float
    parts: Mapping[str, float]
    seconds: float


@dataclass(frozen=True)
class History:
    """How a training went.

    kept: the epoch whose weights were kept.
    """

    epochs: tuple[Epoch, ...]
    kept: int
    ended: Ended


@runtime_checkable
class FittedEncoder(Protocol):
    """The part of an encoder that look-ups need: the plugin's class has it, and so do its ONNX graphs."""

    input: ImageSpec
    dim: int

    def encode(self, images: Images) -> Codes:
        """Images (n, h, w, c) to codes (n, dim): deterministic, each image by itself, also for n = 0.

        Leaves `images` unchanged. Raises ImageError for another shape or dtype.
        """
        ...


@runtime_checkable
class Encoder(FittedEncoder, Protocol):
    """What every encoder from a plugin has, with torch or without.

    Class attributes: `Settings`, a frozen dataclass in which each field has a default and a line of documentation
    (`setting`); `presets`, named settings, "default" among them.
    """

    Settings: ClassVar[type[Any]]
    presets: ClassVar[Mapping[str, Any]]
    settings: Any

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

        Calls `progress` after each step and `stop` after each epoch; if `stop` returns True, ends there with the best
        encoder so far. Raises ImageError for pictures of another shape.
        """
        ...

    def save(self, folder: Path) -> None:
        """Writes all that `load` needs, but no code, into a folder that is this encoder's own.

        If it also writes encoder.onnx (and, with a decoder, decoder.onnx: see `simrec.onnx_encoder` for their inputs
        and outputs), looking up needs neither this plugin nor its libraries.
        """
        ...

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The encoder that `save` wrote there: equal settings, equal codes."""
        ...


@runtime_checkable
class Decoder(Protocol):
    """What an encoder also has if its codes can be turned back into pictures.

    It makes `simrec reconstruct`, `compress`, `denoise` and `generate` work; other encoders leave `decode` out.
    """

    def decode(self, codes: Codes) -> Rebuilt:
        """Codes (n, dim) to pictures (n, h, w, c) in 0..1, also for n = 0.

        Raises PluginError, or another of `simrec.errors`, for codes of another length.
        """
        ...


@runtime_checkable
class Variational(Protocol):
    """What an encoder also has if its codes are means of normal distributions, as in a VAE.

    New codes are then drawn from the standard normal instead of a mixture fitted to codes; with a decoder, -ELBO is
    measured too. Other encoders leave both members out, or return False and None.
    """

    @property
    def variational(self) -> bool:
        """Whether codes are the means of normal distributions."""
        ...

    def log_variances(self, images: Images) -> Codes | None:
        """Images (n, h, w, c) to the log-variances (n, dim) of those distributions; None for other codes."""
        ...


@runtime_checkable
class Sampled(Protocol):
    """What an encoder also has if it learns as well from a sample as from all pictures.

    sample: how many pictures are enough; no more are read.
    """

    sample: int


@runtime_checkable
class Checked(Protocol):
    """What an encoder also has if it can find wrong settings before any picture is read."""

    def check(self) -> None:
        """Raises RequestError or TrainingError if `fit` would fail anyway, for example for a missing file."""
        ...


@runtime_checkable
class Summarised(Protocol):
    """What an encoder also has if training should begin with a description of it."""

    def summary(self) -> str:
        """Some lines of text: layers, output shapes, numbers of parameters."""
        ...
