"""A torchvision backbone as an encoder: it doesn't train layers, it only learns which directions of features to keep.

Weights named `default` are torchvision's own. Its cache holds .pth files; simrec reads such files only there, and with
`weights_only`, which runs no code.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision import models
from torchvision.models import feature_extraction

from simrec.contracts import Epoch, History, Images, Progress, Recipe, setting
from simrec.errors import RequestError, TrainingError, reason, suggestion
from simrec.learning.autoencoder import TorchEncoder

SAMPLE = 2_000
"""Maximum number of pictures for computing the directions: several times the numbers in a code."""

BACKBONES = tuple(
    name for name in models.list_models(module=models) if not name.startswith(("densenet", "googlenet", "inception"))
)
"""The available networks, except those with unusual weight names or inputs."""


@dataclass(frozen=True, kw_only=True)
class TorchvisionSettings:
    """Settings of a torchvision backbone."""

    size: int = setting(224, "height and width of a picture, in pixels")
    channels: int = setting(3, "1 for grey, 3 for RGB")
    recipe: Recipe = setting("photo", "how a picture is prepared: fashion, photo (letterboxed), crop or squash")
    dim: int = setting(64, "numbers in a code; no more than the backbone has features")
    backbone: str = setting("mobilenet_v3_small", "a classification network of torchvision.models")
    weights: str = setting("default", "default: torchvision's, downloaded once; random; or a .safetensors file")
    layer: str = setting("", "the layer or node that gives the features; empty: the last before the classifier")
    whitening: float = setting(0.5, "how far features are whitened: 0 only centres them, 1 is full whitening")

    def __post_init__(self) -> None:
        for name in ("size", "dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be 1 or more")
        if self.channels not in (1, 3):
            raise ValueError(f"channels is {self.channels}: it must be 1 (grey) or 3 (RGB)")
        if not 0 <= self.whitening <= 1:
            raise ValueError(f"whitening is {self.whitening}: it must be from 0 to 1")
        if self.backbone not in BACKBONES:
            raise ValueError(f"no backbone {self.backbone!r}: {suggestion(self.backbone, BACKBONES)}")


class Torchvision(TorchEncoder):
    """The features of a network that was trained to name what is in a photo, reduced to their main directions.

    Whitening the principal components of such features follows Jégou, Chum 2012 (doi:10.1007/978-3-642-33709-3_55).
    """

    Settings = TorchvisionSettings
    presets: ClassVar[Mapping[str, TorchvisionSettings]] = {"default": TorchvisionSettings()}

    shift: Tensor
    scale: Tensor
    mean: Tensor
    matrix: Tensor

    def __init__(self, settings: TorchvisionSettings) -> None:
        super().__init__(settings)
        self.layer, self.backbone = _backbone(settings.backbone, settings.layer)
        fed = models.get_model_weights(settings.backbone).DEFAULT.transforms()
        self.register_buffer("shift", torch.tensor(fed.mean).reshape(3, 1, 1))
        self.register_buffer("scale", 1 / torch.tensor(fed.std).reshape(3, 1, 1))
        try:
            with torch.no_grad():
                count = self.eval().features(torch.zeros(1, *self.input.shape).permute(0, 3, 1, 2)).shape[1]
        except Exception as error:  # for pictures that are too small, a network's layers can raise anything
            raise RequestError(
                f"{settings.backbone} takes no pictures of size {settings.size}: {reason(error)}"
            ) from error
        if self.dim > count:
            raise RequestError(f"{settings.backbone} has {count} features: set dim to {count} or less")
        self.register_buffer("mean", torch.zeros(count))
        self.register_buffer("matrix", torch.eye(count, self.dim))

    def features(self, x: Tensor) -> Tensor:
        """Pictures (n, c, h, w) in 0..1 to features (n, f), averaged over places if the layer has places."""
        x = (x.expand(-1, 3, -1, -1) - self.shift) * self.scale
        features: Tensor = self.backbone(x)[self.layer]
        return features.flatten(2).mean(2) if features.ndim > 2 else features

    def code(self, x: Tensor) -> Tensor:
        """(n, c, h, w) in 0..1 to (n, dim)."""
        return (self.features(x) - self.mean) @ self.matrix

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
        """Loads the weights that the settings name, and computes the main directions of a sample's features, in one
        epoch.

        The losses are the shares of the features' variance that a code does not hold. Raises TrainingError if the
        weights aren't available or are another network's, if there are fewer than two pictures, or if they all look the
        same.
        """
        begun = time.perf_counter()
        if len(images) < 2:
            raise TrainingError(f"learning needs at least 2 pictures, not {len(images)}")
        if self.settings.weights != "random":
            _load(self.backbone, self.settings.backbone, self.settings.weights)
        self.eval().to(device)
        sample = images[:: max(1, len(images) // SAMPLE)][:SAMPLE]
        steps = -(-len(sample) // self.input.batch) + 1
        exact = self._all_features(
            # As long as no direction is known, a code holds nothing of the variance.
            sample,
            device,
            lambda step: progress(Progress(1, 1, step, steps, loss=1.0, validation_loss=None)),
        )
        held_out = self._all_features(validation[:: max(1, len(validation) // SAMPLE)], device, lambda _: None)
        self.to("cpu")

        mean = exact.mean(0)
        variances, axes = torch.linalg.eigh(torch.cov((exact - mean).T).reshape(len(mean), -1))
        if not variances[-1] > 0:
            raise TrainingError(
                f"the features of {len(sample)} pictures are all the same: give other pictures or weights"
            )
        variances, axes = variances.flip(0)[: self.dim], axes.flip(1)[:, : self.dim]
        # Don't blow up a direction without variance (there can be fewer pictures than features). The common factor
        # doesn't change cosines; it gives the widest direction a variance of 1 at any scale of the features.
        relative = (variances / variances[0]).clamp_min(1e-4) ** (-self.settings.whitening / 2)
        self.mean.copy_(mean)
        self.matrix.copy_(axes * relative / variances[0].sqrt())

        losses = [_lost(features - mean, axes) for features in (exact, held_out if len(held_out) else exact)]
        progress(Progress(1, 1, steps, steps, loss=losses[0], validation_loss=None))
        epoch = Epoch(1, losses[0], losses[1], {}, time.perf_counter() - begun)
        return History((epoch,), kept=1, ended="interrupted" if stop() else "finished")

    def summary(self) -> str:
        """The backbone in one line."""
        count = sum(p.numel() for p in self.backbone.parameters())
        return (
            f"{self.settings.backbone} up to {self.layer!r}, {count:,} parameters, weights {self.settings.weights}: "
            f"{len(self.mean)} features, reduced to a code of {self.dim} numbers."
        )

    @torch.no_grad()
    def _all_features(self, images: Images, device: torch.device, done: Callable[[int], None]) -> Tensor:
        """Images (n, h, w, c) to features float64 (n, f) on the CPU. done: called with each batch's number, from 1."""
        batches = []
        for step, start in enumerate(range(0, len(images), self.input.batch), 1):
            some = torch.from_numpy(np.ascontiguousarray(images[start : start + self.input.batch])).to(device)
            batches.append(self.features(some.permute(0, 3, 1, 2).float() / 255).cpu().double())
            done(step)
        return torch.cat(batches) if batches else torch.zeros(0, len(self.mean)).double()


def _lost(centred: Tensor, axes: Tensor) -> float:
    """The share of the variance of features (n, f) that axes (f, dim) do not hold."""
    return max(0.0, 1 - float((centred @ axes).square().sum() / centred.square().sum()))


def _backbone(name: str, layer: str) -> tuple[str, nn.Module]:
    """A network with random weights, up to a node, and the node's name."""
    network = models.get_model(name, weights=None)
    nodes = feature_extraction.get_graph_node_names(network)[1]
    if layer and not any(f"{node}.".startswith(f"{layer}.") for node in nodes):
        known = {*nodes, *(child for child, _ in network.named_children())}
        raise RequestError(f"{name} has no layer {layer!r}: {suggestion(layer, known)}")
    if not layer:
        head = [child for child, _ in network.named_children()][-1]
        first = next(i for i, node in enumerate(nodes) if node.partition(".")[0] == head)
        # Don't take a flattened layer, in which places are features: the one before can be averaged over places.
        layer = [node for node in nodes[:first] if not node.startswith("flatten")][-1]
    return layer, feature_extraction.create_feature_extractor(network, [layer])


def _load(backbone: nn.Module, name: str, weights: str) -> None:
    """Fills a backbone with weights; leaves out those of layers that it doesn't have, such as the classifier."""
    state = _default_weights(name) if weights == "default" else _file_weights(Path(weights).expanduser())
    wanted = backbone.state_dict()
    for key, tensor in wanted.items():
        if key not in state or state[key].shape != tensor.shape:
            raise TrainingError(f"weights {weights}: {key!r} doesn't fit {name}: name the backbone they belong to")
    backbone.load_state_dict({key: state[key] for key in wanted})


def _default_weights(name: str) -> Mapping[str, Tensor]:
    """torchvision's own weights from its cache; downloaded if they are not there yet."""
    url = models.get_model_weights(name).DEFAULT.url
    try:
        state: Mapping[str, Tensor] = torch.hub.load_state_dict_from_url(
            url, progress=False, check_hash=True, weights_only=True
        )
    except Exception as error:  # from the network, the disk, or a file that is not what it should be
        cache = Path(torch.hub.get_dir(), "checkpoints")
        raise TrainingError(
            f"the weights of {name} can neither be read in {cache} nor downloaded ({reason(error)}): put {url} there, "
            f"or name a file with --set weights=FILE.safetensors"
        ) from error
    return state


def _file_weights(path: Path) -> Mapping[str, Tensor]:
    if path.suffix != ".safetensors":
        raise TrainingError(
            f"weights {path}: must be default, random or a .safetensors file; one that torch saved becomes one with "
            f"safetensors.torch.save_file(torch.load(FILE, weights_only=True), 'weights.safetensors')"
        )
    try:
        return load_file(path)
    except Exception as error:  # safetensors' exceptions share no base class with the disk's
        raise TrainingError(f"weights {path}: cannot be read ({reason(error)}): name another file") from error
