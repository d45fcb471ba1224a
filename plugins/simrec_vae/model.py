"""The variational autoencoder (Kingma, Welling 2014, arXiv:1312.6114; preset `article`: Keras's of 2018)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from simrec.autoencoder import Autoencoder, AutoencoderSettings
from simrec.contracts import setting
from simrec.networks import MLP, ConvEncoder, PictureDecoder, bernoulli_loss, glorot


@dataclass(frozen=True, kw_only=True)
class VAESettings(AutoencoderSettings):
    """Settings of the variational autoencoder."""

    backbone: Literal["conv", "mlp"] = setting("conv", "conv: stride-2 convolutions; mlp: one linear layer, the article's")
    widths: tuple[int, ...] = setting((32, 64, 128), "channels of the convolutions")
    hidden: int = setting(512, "units before the mean and log-variance")
    decoder: tuple[int, ...] = setting((512, 1024), "units of the decoder's hidden layers")
    beta: float = setting(0.03, "weight of the KL divergence; weak, about 1/dim, makes codes that find better")


class VAE(Autoencoder):
    """Bernoulli likelihood and a normal prior; a picture's code is the mean, never a sample."""

    Settings = VAESettings
    presets: ClassVar[Mapping[str, VAESettings]] = {
        "default": VAESettings(),
        "article": VAESettings(
            backbone="mlp", hidden=500, decoder=(500,), dim=10, beta=1.0, epochs=500, patience=10,
            batch_size=2048, optimizer="adam", learning_rate=1e-3, schedule="constant",
        ),
    }  # fmt: skip

    def __init__(self, settings: VAESettings) -> None:
        super().__init__(settings)
        s = settings
        self.body: nn.Module
        if s.backbone == "mlp":
            self.body = nn.Sequential(nn.Flatten(), MLP((s.channels * s.size**2, s.hidden)), nn.ReLU())
        else:
            self.body = ConvEncoder(s.size, s.channels, s.widths, s.hidden)
        self.mean = nn.Linear(s.hidden, s.dim)
        self.log_variance = nn.Linear(s.hidden, s.dim)
        self.decoder = PictureDecoder(s.dim, s.decoder, s.size, s.channels)
        if s.backbone == "mlp":
            glorot(self)

    def code(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to the means, (n, dim)."""
        mean: Tensor = self.mean(self.body(x))
        return mean

    def picture(self, code: Tensor) -> Tensor:
        """(n, dim) to (n, c, h, w)."""
        out: Tensor = self.decoder(code)
        return out.sigmoid()

    def loss(self, x: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:  # type: ignore[override]
        """-ELBO with the KL weighted by beta, nats per picture."""
        features = self.body(x)
        mean, log_variance = self.mean(features), self.log_variance(features)
        sample = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        rebuilt = bernoulli_loss(self.decoder(sample), x).mean()
        divergence = (mean**2 + log_variance.exp() - 1 - log_variance).sum(1).mean() / 2
        parts = {"rebuilt": rebuilt.detach(), "divergence": divergence.detach()}
        return rebuilt + self.settings.beta * divergence, parts
