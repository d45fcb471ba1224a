"""The base classes of the torch encoders: an author writes layers, `code` and `loss`; the rest is here."""

from __future__ import annotations

import contextlib
import json
import tempfile
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from simrec.contracts import Codes, History, Images, ImageSpec, Progress, Rebuilt, Recipe, setting
from simrec.errors import ImageError, PluginError, TrainingError
from simrec.learning import onnx_export, training
from simrec.learning.networks import Network
from simrec.settings import from_json, to_json

SAMPLE = 10_000
"""About how many training pictures' codes `Autoencoder.finish` gets: more wouldn't change what it fits."""

PROBE = 64
"""How many pictures the exported graphs are checked on."""


@dataclass(frozen=True, kw_only=True)
class AutoencoderSettings:
    """The settings of every autoencoder; a plugin adds its own fields."""

    size: int = setting(28, "height and width of a picture, in pixels")
    channels: int = setting(1, "1 for grey, 3 for RGB")
    recipe: Recipe = setting("fashion", "how a picture is prepared: fashion, photo (letterboxed), crop or squash")
    dim: int = setting(32, "numbers in a code")
    epochs: int = setting(15, "maximum number of passes over the pictures")
    batch_size: int = setting(512, "maximum pictures per step; fewer if an epoch would have under 24 steps")
    optimizer: Literal["adamw", "adam"] = setting("adamw", "adamw, or adam with Keras's epsilon")
    learning_rate: float = setting(2e-3, "the largest step size")
    weight_decay: float = setting(0.01, "how strongly AdamW pulls weights towards zero")
    schedule: Literal["onecycle", "constant"] = setting("onecycle", "how the step size changes")
    patience: int = setting(0, "epochs without a better validation loss before stopping; 0 trains them all")

    def __post_init__(self) -> None:
        for name in ("size", "channels", "dim", "epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be 1 or more")
        if self.size < 8:
            raise ValueError(f"size is {self.size}: it must be 8 or more")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate is {self.learning_rate}: it must be more than 0")
        if self.channels not in (1, 3):
            raise ValueError(f"channels is {self.channels}: it must be 1 (grey) or 3 (RGB)")


@dataclass(frozen=True, kw_only=True)
class ConvSettings(AutoencoderSettings):
    """The settings of an autoencoder made of `networks.ConvEncoder` and `networks.PictureDecoder`.

    The article's networks don't use `stem` and the settings from `edges` on.
    """

    dim: int = setting(64, "numbers in a code")
    epochs: int = setting(6, "maximum number of passes over the pictures")
    stem: int = setting(0, "channels of a first convolution that keeps the size; 0 for none")
    widths: tuple[int, ...] = setting((64, 128), "channels of the convolutions")
    hidden: int = setting(256, "units between the convolutions and the code")
    decoder: tuple[int, ...] = setting((256, 512), "units of the decoder's hidden layers")
    edges: int = setting(128, "numbers that describe a picture's edges; a code must predict them beside the picture")
    edge_weight: float = setting(25.0, "weight of an edge number's squared error against a nat of the picture")
    shift: float = setting(0.12, "how far an input picture moves at most, as a share of its size; the target stays")
    scale: float = setting(0.2, "how much smaller an input picture gets at most, as a share; larger by a third of it")
    rotate: float = setting(10.0, "how far an input picture turns at most, in degrees")
    light: float = setting(0.4, "how much darker an input picture gets at most, as a share; brighter by half of it")
    whitening: float = setting(0.5, "how far trained codes are whitened: 0 only centres them, 1 is full whitening")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("hidden", "edges"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be 1 or more")
        if self.stem < 0:
            raise ValueError(f"stem is {self.stem}: it must be 0 or more")
        for name in ("shift", "scale", "light"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be 0 or more and less than 1")
        for name in ("widths", "decoder"):
            if not getattr(self, name) or min(getattr(self, name)) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it takes numbers of 1 or more, with commas between")


@torch.no_grad()
def _decode(self: Any, codes: Codes) -> Rebuilt:
    """Codes (n, dim) to pictures (n, h, w, c) in 0..1."""
    if codes.ndim != 2 or codes.shape[1] != self.dim:
        raise PluginError(
            f"codes are {codes.shape}, this decoder takes (n, {self.dim}): use the encoder they came from"
        )
    self.eval()
    out = np.empty((len(codes), *self.input.shape), np.float32)
    batch = self.input.batch
    for start in range(0, len(codes), batch):
        picture: Tensor = self.picture(torch.tensor(codes[start : start + batch], dtype=torch.float32))
        out[start : start + batch] = picture.permute(0, 2, 3, 1).numpy()
    return out


class TorchEncoder(nn.Module, ABC):
    """An encoder made of torch layers; see `simrec.contracts.Encoder` for the contract of its methods.

    A subclass sets `Settings`, which has `size`, `channels`, `recipe` and `dim`, and `presets`, makes its layers in
    `__init__`, and implements `code` and `learn`. If it also implements `picture(code)`, codes (n, dim) to pictures
    (n, c, h, w) in 0..1, it gets `decode` and so has a decoder.
    """

    Settings: ClassVar[type[Any]]
    presets: ClassVar[Mapping[str, Any]]
    decode: Callable[[Codes], Rebuilt]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if hasattr(cls, "picture"):
            cls.decode = _decode  # type: ignore[assignment]

    def __init__(self, settings: Any) -> None:
        super().__init__()
        self.settings = settings
        self.input = ImageSpec(settings.size, settings.channels, settings.recipe)
        self.dim: int = settings.dim
        self._probe = _synthetic(self.input)
        self._traced: Any = None

    @abstractmethod
    def code(self, x: Tensor) -> Tensor:
        """Pictures (n, c, h, w) in 0..1 to codes (n, dim); deterministic, each picture by itself."""

    @abstractmethod
    def learn(
        self,
        images: Images,
        validation: Images,
        *,
        seed: int,
        device: torch.device,
        progress: Callable[[Progress], None],
        stop: Callable[[], bool],
    ) -> History:
        """Called by `fit` after the layers got fresh weights: learns from images (n, h, w, c), and ends on the CPU."""

    def spread(self, x: Tensor) -> Tensor | None:
        """Pictures (n, c, h, w) in 0..1 to log-variances (n, dim), if a code is the mean of a normal distribution.

        New codes are then drawn from the standard normal. Returns None, as here, for other codes.
        """
        return None

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
        """Learns from fresh weights drawn with the seed."""
        for given in (images, validation):
            self._check(given)
        place = training.pick_device(device)
        torch.manual_seed(seed)
        self.load_state_dict(type(self)(self.settings).state_dict())
        self._probe = images[:PROBE].copy()
        return self.learn(images, validation, seed=seed, device=place, progress=progress, stop=stop)

    def encode(self, images: Images) -> Codes:
        """Images (n, h, w, c) to codes (n, dim)."""
        return self._in_batches(self.code, images)

    def log_variances(self, images: Images) -> Codes | None:
        """Images (n, h, w, c) to the log-variances (n, dim) of codes that are means; None for other codes."""
        return self._in_batches(self.spread, images) if self.variational else None

    @property
    def variational(self) -> bool:
        """Whether codes are the means of normal distributions."""
        self.eval()
        with torch.no_grad():
            return self.spread(torch.zeros(1, self.input.channels, self.input.size, self.input.size)) is not None

    def save(self, folder: Path) -> None:
        """Writes weights.safetensors (with the settings), encoder.onnx and decoder.onnx.

        Raises TrainingError if the graphs and the network disagree, or if codes are random or not finite.
        """
        self.eval()
        tensors = {name: tensor.contiguous() for name, tensor in self.state_dict().items()}
        save_file(tensors, folder / "weights.safetensors", {"settings": json.dumps(to_json(self.settings))})
        self._export(folder)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The encoder that `save` wrote there."""
        with safe_open(folder / "weights.safetensors", framework="pt") as file:
            settings = from_json(cls.Settings, json.loads(file.metadata()["settings"]))
            model = cls(settings)
            model.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
        model.eval()
        return model

    def summary(self) -> str:
        """The network as lines of text: layer, output shape, parameters."""
        rows: list[tuple[str, str, int]] = []

        def note(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
            def hook(layer: nn.Module, _: Any, out: Tensor) -> None:
                kind = type(layer).__name__
                rows.append((f"{name} ({kind})", " x ".join(map(str, out.shape[1:])), _parameters(layer)))

            return hook

        leaves = [(n, m) for n, m in self.named_modules() if n and not list(m.children())]
        hooks = [leaf.register_forward_hook(note(name)) for name, leaf in leaves]
        code = self.encode(np.zeros((1, *self.input.shape), np.uint8))
        if hasattr(self, "decode"):
            self.decode(code)
        for hook in hooks:
            hook.remove()
        wide = max(len(name) for name, _, _ in rows)
        lines = [f"{name:<{wide}}  {shape:>14}  {count:>9,}" for name, shape, count in rows]
        return "\n".join([*lines, f"{'total':<{wide}}  {'':>14}  {_parameters(self):>9,} parameters"])

    def _export(self, folder: Path) -> None:
        self._check_codes()
        traced, self._traced = self._traced, None
        try:
            if traced:
                # Traced before training: the new weights fit into it, unless Python numbers have changed as well.
                with contextlib.suppress(TrainingError):
                    onnx_export.write(traced, self, folder)
                    onnx_export.check(self, folder, self._probe)
                    return
            self._traced = onnx_export.trace(self)
            onnx_export.write(self._traced, self, folder)
            onnx_export.check(self, folder, self._probe)
        except onnx_export.NotExportable as error:
            for name in ("encoder.onnx", "decoder.onnx"):
                (folder / name).unlink(missing_ok=True)
            warnings.warn(f"no ONNX graph, so looking up needs this plugin ({error})", stacklevel=3)

    def _check_codes(self) -> None:
        """Raises TrainingError if `code` gives numbers that aren't finite, or others the second time."""
        codes, again = self.encode(self._probe), self.encode(self._probe)
        if not np.isfinite(codes).all():
            raise TrainingError(
                "code() gives NaN or infinite numbers: nothing was saved; look for a division by zero, or a square "
                "root or logarithm, in its layers"
            )
        if np.abs(codes - again).max(initial=0) > onnx_export.TOLERANCE:
            raise TrainingError(
                "code() gives the same pictures other codes the second time: nothing was saved; leave out what it "
                "draws at random"
            )

    @torch.no_grad()
    def _in_batches(self, compute: Callable[[Tensor], Any], images: Images) -> Codes:
        self._check(images)
        self.eval()
        out = np.empty((len(images), self.dim), np.float32)
        for start in range(0, len(images), self.input.batch):
            x = torch.tensor(images[start : start + self.input.batch]).permute(0, 3, 1, 2).float() / 255
            out[start : start + self.input.batch] = compute(x).numpy()
        return out

    def _check(self, images: Images) -> None:
        if images.dtype != np.uint8 or images.shape[1:] != self.input.shape:
            raise ImageError(
                f"images are {images.dtype} {images.shape}, this encoder takes uint8 (n, {self.input.size}, "
                f"{self.input.size}, {self.input.channels}): set size and channels, or prepare the images"
            )


class Autoencoder(TorchEncoder):
    """A torch encoder that is trained by gradient descent; its settings are `AutoencoderSettings`.

    A subclass sets `Settings` and `presets`, makes its layers in `__init__`, and implements `code` and `loss`, and
    `picture` if it has a decoder.
    """

    micro_batch: int | None = None
    """For how many pictures a CPU computes gradients at once, if a whole batch's activations don't fit into its cache;
    they are summed over the batch. None for the whole batch, which batch norm needs.
    """

    @abstractmethod
    def loss(self, *examples: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        """A batch of `examples` to the mean loss per picture, and its named parts."""

    def prepare(self, images: Tensor) -> None:
        """Called once before training with the training pictures, uint8 (n, c, h, w), to fit what `examples` needs."""

    def examples(self, images: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        """The rows from which batches are drawn, made once before training: here, the pictures themselves.

        images: uint8 (n, c, h, w). Returns tensors of n rows; `loss` gets uint8 ones as floats in 0..1.
        """
        return (images,)

    def augment(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Changes a batch's pictures in ways that shouldn't change a code: here, not at all. Called for each training
        batch.

        images: the first of `examples`, (n, c, h, w) in 0..1, on the training device; the generator is there too.
        Validation pictures are not augmented.
        """
        return images

    def finish(self, codes: Tensor) -> None:
        """Called once after training with the codes (n, dim) of training pictures, to fit what depends on them."""

    def learn(
        self,
        images: Images,
        validation: Images,
        *,
        seed: int,
        device: torch.device,
        progress: Callable[[Progress], None],
        stop: Callable[[], bool],
    ) -> History:
        """Trains. Exports once before the first epoch, so that a network whose graph disagrees fails now, not at the
        end.
        """
        with tempfile.TemporaryDirectory() as folder:
            self._export(Path(folder))
        history = training.run(self, images, validation, seed=seed, device=device, progress=progress, stop=stop)
        some = images[:: max(1, len(images) // SAMPLE)]
        self.finish(torch.from_numpy(self.encode(some)))
        return history


class NetworkAutoencoder(Autoencoder):
    """An autoencoder whose setting `network` chooses one of several networks.

    A subclass sets `Settings`, `presets` and `networks`, a `simrec.learning.networks.Network` class for each value.
    """

    networks: ClassVar[Mapping[str, type[Network]]]

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        self.network = self.networks[settings.network](settings)
        self.dim = self.network.dim
        self.micro_batch = self.network.micro_batch

    def code(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to (n, dim)."""
        return self.network.code(x)

    def picture(self, code: Tensor) -> Tensor:
        """(n, dim) to (n, c, h, w)."""
        return self.network.picture(code)

    def loss(self, *examples: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The network's."""
        return self.network.loss(*examples)

    def spread(self, x: Tensor) -> Tensor | None:
        """The network's."""
        return self.network.spread(x)

    def prepare(self, images: Tensor) -> None:
        """The network's."""
        self.network.prepare(images)

    def examples(self, images: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        """The network's."""
        return self.network.examples(images, generator)

    def finish(self, codes: Tensor) -> None:
        """The network's."""
        self.network.finish(codes)


def _synthetic(spec: ImageSpec) -> Images:
    return np.random.default_rng(0).integers(0, 256, (PROBE, *spec.shape), dtype=np.uint8)


def _parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
