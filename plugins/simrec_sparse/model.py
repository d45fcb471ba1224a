"""The sparse autoencoder: a penalty keeps most numbers of a code at zero."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from simrec.contracts import setting
from simrec.learning.autoencoder import ConvSettings, NetworkAutoencoder
from simrec.learning.networks import ArticleMLP, Network, SphereNetwork, Whitening


@dataclass(frozen=True, kw_only=True)
class SparseSettings(ConvSettings):
    """Settings of the sparse autoencoder.

    Its codes should hold pictures in few bits: they keep where an item lies, and edges count less than in the other
    encoders.
    """

    network: Literal["conv", "mlp"] = setting("conv", "conv: code on a sphere; mlp: the article's, widths as layers")
    penalty: float = setting(2.0, "weight of a code's L1 norm; mlp: of the inner layers', summed over a batch")
    edge_weight: float = setting(5.0, "weight of an edge number's squared error against a nat of the picture")
    shift: float = setting(0.04, "how far an input picture moves at most, as a share of its size; the target stays")
    scale: float = setting(0.07, "how much smaller an input picture gets at most, as a share; larger by a third of it")
    rotate: float = setting(3.0, "how far an input picture turns at most, in degrees")


class SparseSphere(SphereNetwork):
    """A ReLU code on a sphere, where the L1 norm is smallest if most numbers are zero."""

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        self.encoder.append(nn.ReLU())
        self.whitening = Whitening(settings.dim, settings.whitening, rotate=False)

    def loss(self, x: Tensor, *rest: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The loss of the code's predictions, plus its L1 norm."""
        code = self.bottleneck(self.fed(x))
        loss, parts = self.prediction_loss(code, x, *rest)
        penalty = self.settings.penalty * code.sum(1).mean()
        return loss + penalty, {**parts, "penalty": penalty.detach()}


class SparseArticleMLP(ArticleMLP):
    """The 2018 article's penalty: on the second and third hidden layers and the code, summed over the batch."""

    def loss(self, x: Tensor, *rest: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Mean squared error per pixel, and the penalty."""
        activations, last = [], x
        for layer in self.encoder:
            last = layer(last)
            if isinstance(layer, nn.ReLU | nn.Sigmoid):
                activations.append(last)
        rebuilt = F.mse_loss(self.decoder(last), x)
        penalty = self.settings.penalty * torch.stack([a.abs().sum() for a in activations[1:]]).sum()
        return rebuilt + penalty, {"rebuilt": rebuilt.detach(), "penalty": penalty.detach()}


class Sparse(NetworkAutoencoder):
    """Codes in which most numbers are zero. Preset `article`: the 2018 article's network."""

    Settings = SparseSettings
    networks: ClassVar[Mapping[str, type[Network]]] = {"conv": SparseSphere, "mlp": SparseArticleMLP}
    presets: ClassVar[Mapping[str, SparseSettings]] = {
        "default": SparseSettings(),
        "photo": SparseSettings(size=64, channels=3, recipe="photo", epochs=40),
        "article": SparseSettings(
            network="mlp", widths=(2000, 500, 500), decoder=(500, 500, 2000), dim=10, epochs=200, patience=10,
            batch_size=2048, optimizer="adam", learning_rate=1e-3, schedule="constant", penalty=10e-10,
        ),
    }  # fmt: skip
