"""What an encoder is: it turns images into codes, and perhaps codes into images again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, Self, runtime_checkable

from simrec.contracts.arrays import Codes, Images, ImageSpec, Rebuilt


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
class FittedEncoder(Protocol):
    """What is needed of an encoder to look things up: its plugin's class, or its ONNX graphs."""

    input: ImageSpec
    dim: int

    def encode(self, images: Images) -> Codes:
        """Images (n, h, w, c) to codes (n, dim): deterministic, each image by itself, n = 0 included.

        Leaves `images` as it was. Raises ImageError for another shape or dtype.
        """
        ...


@runtime_checkable
class Encoder(FittedEncoder, Protocol):
    """What every encoder that a plugin offers is, torch or not.

    Class attributes: `Settings`, a frozen dataclass in which each field has a default and a line of doc
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

        Calls `progress` after each step; asks `stop` after each epoch and, told True, ends there with the best
        encoder so far. Raises ImageError for pictures of another shape.
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
class Sampled(Protocol):
    """What an encoder also has when it learns from a few pictures as well as from all.

    sample: how many are enough; no more are read for it.
    """

    sample: int


@runtime_checkable
class Checked(Protocol):
    """What an encoder also has when its settings can be found wrong before any picture is read."""

    def check(self) -> None:
        """Raises RequestError or TrainingError for what `fit` would fail at anyway: a file that isn't there, say."""
        ...


@runtime_checkable
class Summarised(Protocol):
    """What an encoder also has when training shall begin with a description of it."""

    def summary(self) -> str:
        """Some lines of text: layers, output shapes, numbers of parameters."""
        ...
