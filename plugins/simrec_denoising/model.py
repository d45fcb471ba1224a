"""The denoising autoencoder: fed wrong pixels, it rebuilds the right ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from simrec.autoencoder import ConvSettings, NetworkAutoencoder
from simrec.contracts import setting
from simrec.networks import Network, SphereNetwork, glorot, salt_and_pepper


@dataclass(frozen=True, kw_only=True)
class DenoisingSettings(ConvSettings):
    """Settings of the denoising autoencoder."""

    network: Literal["conv", "pooled"] = setting("conv", "conv: code on a sphere; pooled: the article's")
    noise: float = setting(0.2, "share of the pixels that are wrong; conv: at most, another for each picture")


class DenoisingSphere(SphereNetwork):
    """Fed new noise at every step, from none to as much as the setting says, so that clean pictures are known too."""

    def fed(self, x: Tensor) -> Tensor:
        """(n, c, h, w), noisy."""
        share = self.settings.noise * torch.rand(len(x), 1, 1, 1, device=x.device)
        return salt_and_pepper(super().fed(x), share)


class PooledNetwork(Network):
    """The 2018 article's: 3x3 convolutions of 64, 32, 16 channels, each followed by 2x2 max pooling; then
    convolutions of 16, 32, 64 channels, each followed by 2x2 upsampling, and one to the picture. Its noise is drawn
    once, before training.
    """

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        channels, size = settings.channels, settings.size
        layers: list[nn.Module] = []
        for before, after in ((channels, 64), (64, 32), (32, 16)):
            # Keras's "same" pooling keeps an odd last row or column: 28, 14, 7, 4.
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True)]
            size = (size + 1) // 2
        self.encoder = nn.Sequential(*layers, nn.Flatten())
        self.dim = 16 * size * size
        # The article's third convolution is "valid", which brings 4 * 4 to 14 and so to 28 in the end; where that
        # falls short of the size it is padded, and what is over is cut off.
        padding = 0 if 2 * (4 * size - 2) >= settings.size else 1
        self.decoder = nn.Sequential(
            nn.Unflatten(1, (16, size, size)),
            nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Upsample(scale_factor=2.0),
            nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.Upsample(scale_factor=2.0),
            nn.Conv2d(32, 64, 3, padding=padding), nn.ReLU(), nn.Upsample(scale_factor=2.0),
            nn.Conv2d(64, channels, 3, padding=1),
        )  # fmt: skip
        glorot(self)

    def code(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to (n, dim)."""
        code: Tensor = self.encoder(x)
        return code

    def picture(self, code: Tensor) -> Tensor:
        """(n, dim) to (n, c, h, w) in 0..1."""
        return self.rebuild(code).clamp(0, 1)

    def rebuild(self, code: Tensor) -> Tensor:
        """(n, dim) to (n, c, h, w), not yet cut to 0..1."""
        out: Tensor = self.decoder(code)
        return out[:, :, : self.settings.size, : self.settings.size]

    def examples(self, images: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        """The clean pictures and their noisy twins."""
        return images, salt_and_pepper(images.float() / 255, self.settings.noise, generator)

    def loss(self, x: Tensor, *rest: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Mean squared error per pixel of the clean picture."""
        (noisy,) = rest
        rebuilt = F.mse_loss(self.rebuild(self.code(noisy)), x)
        return rebuilt, {"rebuilt": rebuilt.detach()}


class Denoising(NetworkAutoencoder):
    """Codes that wrong pixels change little. Preset `article`: the 2018 article's network."""

    Settings = DenoisingSettings
    networks: ClassVar[Mapping[str, type[Network]]] = {"conv": DenoisingSphere, "pooled": PooledNetwork}
    presets: ClassVar[Mapping[str, DenoisingSettings]] = {
        "default": DenoisingSettings(),
        "article": DenoisingSettings(
            network="pooled", dim=256, epochs=500, patience=10, batch_size=2048, optimizer="adam",
            learning_rate=1e-3, schedule="constant",
        ),
    }  # fmt: skip
