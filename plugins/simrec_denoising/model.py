"""The denoising autoencoder: fed wrong pixels, it rebuilds the right ones (preset `article`: Keras's of 2018)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from simrec.autoencoder import Autoencoder, AutoencoderSettings
from simrec.contracts import setting
from simrec.networks import ConvEncoder, PictureDecoder, bernoulli_loss, glorot, on_sphere, salt_and_pepper


@dataclass(frozen=True, kw_only=True)
class DenoisingSettings(AutoencoderSettings):
    """Settings of the denoising autoencoder."""

    backbone: Literal["conv", "pooled"] = setting("conv", "conv: stride-2, code on a sphere; pooled: the article's")
    widths: tuple[int, ...] = setting((32, 64, 128), "channels of the convolutions")
    hidden: int = setting(512, "units between the convolutions and the code")
    decoder: tuple[int, ...] = setting((512, 1024), "units of the decoder's hidden layers")
    noise: float = setting(0.2, "share of the pixels that are wrong")


class PooledEncoder(nn.Sequential):
    """The article's encoder: 3x3 convolutions of 64, 32, 16 channels, each followed by 2x2 max pooling."""

    def __init__(self, channels: int) -> None:
        layers: list[nn.Module] = []
        for before, after in ((channels, 64), (64, 32), (32, 16)):
            # Keras's "same" pooling keeps an odd last row or column: 28, 14, 7, 4.
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True)]
        super().__init__(*layers, nn.Flatten())


class UpsamplingDecoder(nn.Module):
    """The article's decoder: convolutions of 16, 32, 64 channels with 2x2 upsampling after each, then the picture.

    The third is "valid" (no padding), which brings 16 to 14 and so 28; where that would fall short of `size` it is
    padded, and what is over is cut off.
    """

    def __init__(self, size: int, channels: int) -> None:
        super().__init__()
        self.size = size
        self.inner = inner_size(size)
        valid = 2 * (4 * self.inner - 2) >= size
        self.convolutions = nn.ModuleList(
            [nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1), nn.Conv2d(32, 64, 3, padding=0 if valid else 1)]
        )
        self.last = nn.Conv2d(64, channels, 3, padding=1)

    def forward(self, code: Tensor) -> Tensor:
        """(n, 16 * inner * inner) to (n, channels, size, size)."""
        x = code.unflatten(1, (16, self.inner, self.inner))
        for convolution in self.convolutions:
            x = F.interpolate(torch.relu(convolution(x)), scale_factor=2.0, mode="nearest")
        out: Tensor = self.last(x)
        return out[:, :, : self.size, : self.size]


def inner_size(size: int) -> int:
    """Height and width after three poolings that keep odd edges."""
    for _ in range(3):
        size = (size + 1) // 2
    return size


class Denoising(Autoencoder):
    """Fed new noise at every step; in the article's preset, noise drawn once before training."""

    Settings = DenoisingSettings
    presets: ClassVar[Mapping[str, DenoisingSettings]] = {
        "default": DenoisingSettings(),
        "article": DenoisingSettings(
            backbone="pooled", dim=256, epochs=500, patience=10, batch_size=2048, optimizer="adam",
            learning_rate=1e-3, schedule="constant",
        ),
    }  # fmt: skip

    def __init__(self, settings: DenoisingSettings) -> None:
        super().__init__(settings)
        s = settings
        self.article = s.backbone == "pooled"
        self.encoder: nn.Module
        self.decoder: nn.Module
        if self.article:
            self.dim = 16 * inner_size(s.size) ** 2
            self.encoder = PooledEncoder(s.channels)
            self.decoder = UpsamplingDecoder(s.size, s.channels)
            glorot(self)
        else:
            self.encoder = nn.Sequential(
                ConvEncoder(s.size, s.channels, s.widths, s.hidden), nn.Linear(s.hidden, s.dim)
            )
            self.decoder = PictureDecoder(s.dim, s.decoder, s.size, s.channels)

    def code(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to (n, dim)."""
        code: Tensor = self.encoder(x)
        return code if self.article else on_sphere(code)

    def picture(self, code: Tensor) -> Tensor:
        """(n, dim) to (n, c, h, w)."""
        out: Tensor = self.decoder(code)
        return out.clamp(0, 1) if self.article else out.sigmoid()

    def examples(self, images: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        """The clean pictures, for the article with their noisy twins."""
        if not self.article:
            return (images,)
        return images, salt_and_pepper(images.float() / 255, self.settings.noise, generator)

    def loss(self, x: Tensor, noisy: Tensor | None = None) -> tuple[Tensor, Mapping[str, Tensor]]:  # type: ignore[override]
        """Squared error per pixel for the article, else nats per picture, against the clean picture."""
        if noisy is None:
            noisy = salt_and_pepper(x, self.settings.noise)
        out = self.decoder(self.code(noisy))
        rebuilt = F.mse_loss(out, x) if self.article else bernoulli_loss(out, x).mean()
        return rebuilt, {"rebuilt": rebuilt.detach()}
