"""The plain autoencoder: a code on a sphere that the picture is rebuilt from (preset `article`: Keras's of 2018)."""

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
class PlainSettings(AutoencoderSettings):
    """Settings of the plain autoencoder."""

    backbone: Literal["conv", "mlp"] = setting("conv", "conv: stride-2 convolutions, code on a sphere; mlp: the article's")
    widths: tuple[int, ...] = setting((32, 64, 128), "channels of the convolutions, or units of the linear layers")
    hidden: int = setting(512, "units between the convolutions and the code")
    decoder: tuple[int, ...] = setting((512, 1024), "units of the decoder's hidden layers")


class Plain(Autoencoder):
    """Bernoulli loss from a code on a sphere; with backbone mlp, squared error from a sigmoid code."""

    Settings = PlainSettings
    presets: ClassVar[Mapping[str, PlainSettings]] = {
        "default": PlainSettings(),
        "article": PlainSettings(
            backbone="mlp", widths=(2000, 500, 500), decoder=(500, 500, 2000), dim=10, epochs=500, patience=10,
            batch_size=2048, optimizer="adam", learning_rate=1e-3, schedule="constant",
        ),
    }  # fmt: skip

    def __init__(self, settings: PlainSettings) -> None:
        super().__init__(settings)
        s = settings
        self.article = s.backbone == "mlp"
        self.encoder: nn.Module
        if self.article:
            self.encoder = nn.Sequential(nn.Flatten(), MLP((s.channels * s.size**2, *s.widths, s.dim)), nn.Sigmoid())
        else:
            self.encoder = nn.Sequential(
                ConvEncoder(s.size, s.channels, s.widths, s.hidden), nn.Linear(s.hidden, s.dim)
            )
        self.decoder = PictureDecoder(s.dim, s.decoder, s.size, s.channels)
        if self.article:
            glorot(self)

    def code(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to (n, dim)."""
        code: Tensor = self.encoder(x)
        return code if self.article else on_sphere(code)

    def picture(self, code: Tensor) -> Tensor:
        """(n, dim) to (n, c, h, w)."""
        out: Tensor = self.decoder(code)
        return out.clamp(0, 1) if self.article else out.sigmoid()

    def loss(self, x: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:  # type: ignore[override]
        """Squared error per pixel for the article, else nats per picture."""
        out = self.decoder(self.code(x))
        rebuilt = torch.nn.functional.mse_loss(out, x) if self.article else bernoulli_loss(out, x).mean()
        return rebuilt, {"rebuilt": rebuilt.detach()}
