"""The variational autoencoder (Kingma, Welling 2014, arXiv:1312.6114)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from simrec.contracts import setting
from simrec.learning.autoencoder import ConvSettings, NetworkAutoencoder
from simrec.learning.networks import MLP, Network, PictureDecoder, SphereNetwork, bernoulli_loss, glorot


@dataclass(frozen=True, kw_only=True)
class VAESettings(ConvSettings):
    """Settings of the variational autoencoder."""

    network: Literal["conv", "deep", "mlp"] = setting(
        "conv", "conv: convolutions; deep: linear layers with widths as units; mlp: one hidden layer, the article's"
    )
    beta: float = setting(0.1, "weight of the KL divergence; with a small weight, codes find better")


class VariationalNetwork(SphereNetwork):
    """Its codes are not on a sphere but means of normal distributions."""

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        self.encoder[-1] = nn.Linear(settings.hidden, 2 * settings.dim)

    def bottleneck(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to the means, (n, dim)."""
        return self.distribution(x)[0]

    def distribution(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(n, c, h, w) to means and log-variances, (n, dim) each."""
        mean, log_variance = self.encoder(x).chunk(2, dim=1)
        return mean, log_variance

    def loss(self, x: Tensor, *rest: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The loss of predictions from a sample of the code, plus the KL divergence weighted by beta."""
        mean, log_variance = self.distribution(self.fed(x))
        loss, parts = self.prediction_loss(sample(mean, log_variance), x, *rest)
        divergence = kl_divergence(mean, log_variance)
        return loss + self.settings.beta * divergence, {**parts, "divergence": divergence.detach()}


class ArticleVAE(Network):
    """The 2018 article's network: one hidden ReLU layer each way."""

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        s = settings
        self.body = nn.Sequential(nn.Flatten(), MLP((s.channels * s.size**2, s.hidden)), nn.ReLU())
        self.mean = nn.Linear(s.hidden, s.dim)
        self.log_variance = nn.Linear(s.hidden, s.dim)
        self.decoder = PictureDecoder(s.dim, s.decoder, s.size, s.channels)
        glorot(self)

    def code(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to the means, (n, dim)."""
        mean: Tensor = self.mean(self.body(x))
        return mean

    def spread(self, x: Tensor) -> Tensor | None:
        """(n, c, h, w) to log-variances (n, dim)."""
        log_variance: Tensor = self.log_variance(self.body(x))
        return log_variance

    def picture(self, code: Tensor) -> Tensor:
        """(n, dim) to (n, c, h, w) in 0..1."""
        logits: Tensor = self.decoder(code)
        return logits.sigmoid()

    def loss(self, x: Tensor, *rest: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        """-ELBO in nats per picture, the KL divergence weighted by beta."""
        features = self.body(x)
        mean, log_variance = self.mean(features), self.log_variance(features)
        rebuilt = bernoulli_loss(self.decoder(sample(mean, log_variance)), x)
        divergence = kl_divergence(mean, log_variance)
        parts = {"rebuilt": rebuilt.detach(), "divergence": divergence.detach()}
        return rebuilt + self.settings.beta * divergence, parts


class DeepVAE(ArticleVAE):
    """The same with layers of the settings' widths, and batch norm before each ReLU."""

    def __init__(self, settings: Any) -> None:
        Network.__init__(self, settings)
        s = settings
        self.body = nn.Sequential(
            nn.Flatten(), MLP((s.channels * s.size**2, *s.widths), norm=True), nn.BatchNorm1d(s.widths[-1]), nn.ReLU()
        )
        self.mean = nn.Linear(s.widths[-1], s.dim)
        self.log_variance = nn.Linear(s.widths[-1], s.dim)
        self.decoder = PictureDecoder(s.dim, s.decoder, s.size, s.channels, norm=True)


def sample(mean: Tensor, log_variance: Tensor) -> Tensor:
    """One draw per row from normal distributions (n, dim), in a way that lets gradients through."""
    return mean + torch.randn_like(mean) * (log_variance / 2).exp()


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """The divergence from the standard normal distribution in nats, summed over dim, averaged over the batch."""
    return (mean**2 + log_variance.exp() - 1 - log_variance).sum(1).mean() / 2


class VAE(NetworkAutoencoder):
    """A picture's code is the mean, never a sample. Presets: `generate`, to draw pictures; `article`, from 2018."""

    Settings = VAESettings
    networks: ClassVar[Mapping[str, type[Network]]] = {
        "conv": VariationalNetwork,
        "deep": DeepVAE,
        "mlp": ArticleVAE,
    }
    presets: ClassVar[Mapping[str, VAESettings]] = {
        "default": VAESettings(),
        "generate": VAESettings(
            network="deep", widths=(512, 256), decoder=(256, 512), dim=10, beta=1.0, epochs=30, batch_size=256,
            learning_rate=5e-3,
        ),
        "photo": VAESettings(size=64, channels=3, recipe="photo", epochs=40),
        "article": VAESettings(
            network="mlp", hidden=500, decoder=(500,), dim=10, beta=1.0, epochs=500, patience=10,
            batch_size=2048, optimizer="adam", learning_rate=1e-3, schedule="constant",
        ),
    }  # fmt: skip
