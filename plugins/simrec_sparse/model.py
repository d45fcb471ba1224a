"""The sparse autoencoder: a penalty keeps most numbers of a code at zero (preset `article`: Keras's of 2018)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from simrec.autoencoder import Autoencoder, AutoencoderSettings
from simrec.contracts import setting
from simrec.networks import MLP, ConvEncoder, PictureDecoder, bernoulli_loss, glorot, on_sphere


@dataclass(frozen=True, kw_only=True)
class SparseSettings(AutoencoderSettings):
    """Settings of the sparse autoencoder."""

    dim: int = setting(64, "numbers in a code")
    backbone: Literal["conv", "mlp"] = setting("conv", "conv: stride-2 convolutions, code on a sphere; mlp: the article's")
    widths: tuple[int, ...] = setting((32, 64, 128), "channels of the convolutions, or units of the linear layers")
    hidden: int = setting(512, "units between the convolutions and the code")
    decoder: tuple[int, ...] = setting((512, 1024), "units of the decoder's hidden layers")
    penalty: float = setting(2.0, "weight of the L1 norm (of a code; mlp: of the inner layers, summed over a batch)")


class Sparse(Autoencoder):
    """A ReLU code on a sphere with an L1 penalty, which on a sphere is least where few numbers are not zero."""

    Settings = SparseSettings
    presets: ClassVar[Mapping[str, SparseSettings]] = {
        "default": SparseSettings(),
        # 10e-10, on the second and third hidden layers and the code, summed over the batch as Keras did in 2018.
        "article": SparseSettings(
            backbone="mlp", widths=(2000, 500, 500), decoder=(500, 500, 2000), dim=10, epochs=200, patience=10,
            batch_size=2048, optimizer="adam", learning_rate=1e-3, schedule="constant", penalty=10e-10,
        ),
    }  # fmt: skip

    def __init__(self, settings: SparseSettings) -> None:
        super().__init__(settings)
        s = settings
        self.article = s.backbone == "mlp"
        if self.article:
            self.encoder = nn.Sequential(
                nn.Flatten(), *MLP((s.channels * s.size**2, *s.widths, s.dim)), nn.Sigmoid()
            )
        else:
            self.encoder = nn.Sequential(
                ConvEncoder(s.size, s.channels, s.widths, s.hidden), nn.Linear(s.hidden, s.dim), nn.ReLU()
            )
        self.decoder = PictureDecoder(s.dim, s.decoder, s.size, s.channels)
        if self.article:
            glorot(self)

    def code(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to (n, dim), no number below zero."""
        code: Tensor = self.encoder(x)
        return code if self.article else on_sphere(code)

    def picture(self, code: Tensor) -> Tensor:
        """(n, dim) to (n, c, h, w)."""
        out: Tensor = self.decoder(code)
        return out.clamp(0, 1) if self.article else out.sigmoid()

    def loss(self, x: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:  # type: ignore[override]
        """The rebuilding error plus the penalty."""
        if self.article:
            active, activations = x, []
            for layer in self.encoder:
                active = layer(active)
                if isinstance(layer, nn.ReLU | nn.Sigmoid):
                    activations.append(active)
            rebuilt = torch.nn.functional.mse_loss(self.decoder(active), x)
            penalty = self.settings.penalty * sum(a.abs().sum() for a in activations[1:])
        else:
            code = self.code(x)
            rebuilt = bernoulli_loss(self.decoder(code), x).mean()
            penalty = self.settings.penalty * code.abs().sum(1).mean()
        return rebuilt + penalty, {"rebuilt": rebuilt.detach(), "penalty": penalty.detach()}
