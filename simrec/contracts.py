"""What crosses the borders of simrec, in numpy alone: what a plugin author reads first.

A picture becomes `Images`, an encoder turns those into `Codes`, and codes that lie near each other belong to
items that look alike. A plugin names its encoders with `EncoderSpec`; each follows the `Encoder` protocol. It names
its sources of pictures with `SourceSpec`; each follows the `Source` protocol and gives `Pictures`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, Self, get_args, runtime_checkable

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

Notice = Callable[[str], None]
"""Told, in a line each, what the person at the prompt should know and no error is."""


@dataclass(frozen=True)
class ImageSpec:
    """What an encoder wants to be fed.

    size: height and width in pixels. channels: 1 (grey) or 3 (RGB). recipe: how any picture gets there,
    "fashion" or "photo" (see `simrec.images`). Raises ValueError for any other.
    """

    size: int = 28
    channels: int = 1
    recipe: Recipe = "fashion"

    def __post_init__(self) -> None:
        if not 1 <= self.size <= 4096 or self.channels not in (1, 3) or self.recipe not in get_args(Recipe):
            raise ValueError(
                f"no pictures of {self.size} pixels, {self.channels} channels and recipe {self.recipe!r}: there are "
                f"1 to 4,096 pixels, 1 or 3 channels, and {' or '.join(get_args(Recipe))}"
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of one image."""
        return (self.size, self.size, self.channels)

    @property
    def batch(self) -> int:
        """How many images to compute on at once: few large ones, whose layers take many times their memory."""
        return max(1, min(512, 2**23 // (self.size**2 * self.channels)))


@dataclass(frozen=True)
class EncoderSpec:
    """One encoder that a plugin offers.

    name: what people type (`simrec train NAME`). summary: one line for lists. factory: "package.module:Class",
    imported only when the encoder is used. metric: how its codes are compared. explanation: about two sentences that
    someone who owns a shop and trains no networks understands. api: the contract's version.

    Raises PluginError for a field that cannot be right.
    """

    kind: ClassVar[str] = "encoder"

    name: str
    summary: str
    factory: str
    metric: Metric = "cosine"
    api: int = API
    explanation: str = ""

    def __post_init__(self) -> None:
        _check(self)
        if self.metric not in ("cosine", "l2"):
            raise PluginError(f"encoder {self.name!r}: metric {self.metric!r} must be 'cosine' or 'l2'")


@dataclass(frozen=True)
class SourceSpec:
    """One source of pictures that a plugin offers: a data set, or a kind of place where pictures are.

    name: what people type, alone or with a text of the source's own after a colon (`--data NAME`, `--data NAME:TEXT`).
    summary: one line for lists. factory: "package.module:function", a `Source`, imported only when the source is used.
    api: the contract's version.

    Raises PluginError for a field that cannot be right.
    """

    kind: ClassVar[str] = "source"

    name: str
    summary: str
    factory: str
    api: int = API

    def __post_init__(self) -> None:
        _check(self)


def _check(spec: EncoderSpec | SourceSpec) -> None:
    what = f"{spec.kind} {spec.name!r}"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", spec.name):
        raise PluginError(f"{what}: a name is made of letters, digits, '.', '_' and '-'")
    module, colon, attribute = spec.factory.partition(":")
    if not (module and colon and attribute):
        raise PluginError(f"{what}: factory {spec.factory!r} must read 'package.module:name'")
    if spec.api != API:
        raise PluginError(
            f"{what} was written for contract {spec.api}, this simrec has {API}: "
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


@dataclass(frozen=True)
class Pictures:
    """A loaded source.

    name: what to type to load it again, from any folder. images: uint8 (n, h, w, c). ids: stable, one an image, no two
    the same. sources: where each came from (a file's path, or the data set's name). labels: one an image, "" for none.
    test: the name of the split to test on, a source too. reduced: whether this stands in for a larger set that could
    not be had.
    """

    name: str
    images: Images
    ids: tuple[str, ...]
    sources: tuple[str, ...]
    labels: tuple[str, ...]
    test: str | None = None
    reduced: bool = False

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def labelled(self) -> bool:
        """Whether any picture has a label."""
        return any(self.labels)

    @property
    def digest(self) -> str:
        """SHA-256 of the pixels and their shape, in order."""
        return hashlib.sha256(repr(self.images.shape).encode() + self.images.tobytes()).hexdigest()

    def where(self, chosen: NDArray[np.bool_]) -> Pictures:
        """The pictures at which a mask (n,) is true, under the same name."""
        return self.rows(np.flatnonzero(chosen).tolist())

    def rows(self, rows: Sequence[int]) -> Pictures:
        """The pictures in those rows, in that order, under the same name."""
        return replace(
            self,
            images=self.images[list(rows)],
            ids=tuple(self.ids[row] for row in rows),
            sources=tuple(self.sources[row] for row in rows),
            labels=tuple(self.labels[row] for row in rows),
        )


class Source(Protocol):
    """What the factory of a `SourceSpec` is: a function that loads pictures."""

    def __call__(self, text: str, spec: ImageSpec, *, data_dir: Path | None, notice: Notice) -> Pictures:
        """The pictures, as an encoder with that spec is fed them (`simrec.images` gets any picture there).

        text: what was typed after the name and its colon, "" for nothing. data_dir: where the person said the data
        set's files are. notice: told what was left out or is downloaded. Raises DataError when the pictures are not
        to be had, RequestError for a text that means nothing.
        """
        ...
