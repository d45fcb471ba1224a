"""The denoising autoencoder: it gets pictures with wrong pixels and rebuilds the right ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from simrec.contracts import setting
from simrec.learning.autoencoder import ConvSettings, NetworkAutoencoder
from simrec.learning.networks import Network, SphereNetwork, glorot, salt_and_pepper


@dataclass(frozen=True, kw_only=True)
class DenoisingSettings(ConvSettings):
    """Settings of the denoising autoencoder."""

    network: Literal["conv", "wide", "pooled"] = setting(
        "conv", "conv: code on a sphere; wide: a code that keeps where things are; pooled: the article's"
    )
    noise: float = setting(0.2, "share of wrong pixels; conv: the largest share, wide: the average")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.noise <= 1:
            raise ValueError(f"noise is {self.noise}: it must be from 0 to 1")
        places = ((self.size + 1) // 2) ** 2
        if self.network == "wide" and self.dim % places:
            raise ValueError(f"dim is {self.dim}: a wide code of {self.size} pixels needs a multiple of {places}")


class DenoisingSphere(SphereNetwork):
    """Gets new noise at every step, from none up to the setting's share, so that it knows clean pictures too."""

    def fed(self, x: Tensor) -> Tensor:
        """Pictures (n, c, h, w) with noise."""
        share = self.settings.noise * torch.rand(len(x), 1, 1, 1, device=x.device)
        return salt_and_pepper(super().fed(x), share, soft=True)


class WideNetwork(Network):
    """Convolutions at half a picture's size, with a code of that size: some numbers for each place, which restoring
    needs and looking up doesn't. A code of 32 numbers cannot hold a clean picture, let alone clean a noisy one.

    settings: `widths` and `decoder` are the channels of the 3x3 convolutions before and after the code.
    """

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        s = settings
        side = (s.size + 1) // 2
        each = s.dim // side**2
        self.encoder = nn.Sequential(
            *_convolution(3 * s.channels, s.widths[0], 5, stride=2),
            *(layer for pair in pairwise(s.widths) for layer in _convolution(*pair, 3)),
            nn.Conv2d(s.widths[-1], each, 1), nn.Flatten(),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Unflatten(1, (each, side, side)),
            *(layer for pair in pairwise((each, *s.decoder)) for layer in _convolution(*pair, 3)),
            nn.ConvTranspose2d(s.decoder[-1], s.channels, 4, 2, padding=1),
        )  # fmt: skip

    def code(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to (n, dim)."""
        # A pixel that is neither black nor white is not noise: tell the network, so that it needn't learn that.
        sure = ((x > 0) & (x < 1)).float()
        code: Tensor = self.encoder(torch.cat([x, x * sure, sure], 1))
        return code

    def picture(self, code: Tensor) -> Tensor:
        """(n, dim) to (n, c, h, w) in 0..1."""
        out: Tensor = self.decoder(code)[:, :, : self.settings.size, : self.settings.size]
        return out.sigmoid()

    def loss(self, x: Tensor, *rest: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Mean squared error per pixel of the clean picture; the amount of noise changes each time."""
        share = 2 * self.settings.noise * torch.rand(len(x), 1, 1, 1, device=x.device)
        rebuilt = F.mse_loss(self.picture(self.code(salt_and_pepper(x, share))), x)
        return rebuilt, {"rebuilt": rebuilt.detach()}


def _convolution(before: int, after: int, size: int, stride: int = 1) -> Iterator[nn.Module]:
    yield nn.Conv2d(before, after, size, stride, padding=size // 2, bias=False)
    yield nn.BatchNorm2d(after)
    yield nn.ReLU()


class PooledNetwork(Network):
    """The 2018 article's network: 3x3 convolutions of 64, 32, 16 channels, each followed by 2x2 max pooling; then
    convolutions of 16, 32, 64 channels, each followed by 2x2 upsampling, and one to the picture. Its noise is drawn
    once, before training.
    """

    micro_batch = 128  # with a batch of 2,048, one layer's output takes 411 MB; in pieces an epoch takes half the time

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
        # The article's third convolution is "valid", which leads from 4 * 4 to 14 and so to 28 in the end; if that
        # falls short of the size it is padded, and any excess is cut off.
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
        """The clean pictures and the same pictures with noise."""
        return images, salt_and_pepper(images.float() / 255, self.settings.noise, generator, soft=True)

    def loss(self, x: Tensor, *rest: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Mean squared error per pixel of the clean picture."""
        (noisy,) = rest
        rebuilt = F.mse_loss(self.rebuild(self.code(noisy)), x)
        return rebuilt, {"rebuilt": rebuilt.detach()}


class Denoising(NetworkAutoencoder):
    """Codes that wrong pixels hardly change. Presets: `restore`, to clean pictures; `article`, the 2018 article's."""

    Settings = DenoisingSettings
    networks: ClassVar[Mapping[str, type[Network]]] = {
        "conv": DenoisingSphere,
        "wide": WideNetwork,
        "pooled": PooledNetwork,
    }
    presets: ClassVar[Mapping[str, DenoisingSettings]] = {
        "default": DenoisingSettings(),
        "restore": DenoisingSettings(
            network="wide", dim=1568, widths=(32, 32, 32), decoder=(32, 32, 32), epochs=5, batch_size=128,
            learning_rate=1e-2,
        ),
        "photo": DenoisingSettings(size=64, channels=3, recipe="photo", epochs=40),
        "article": DenoisingSettings(
            network="pooled", dim=256, epochs=500, patience=10, batch_size=2048, optimizer="adam",
            learning_rate=1e-3, schedule="constant",
        ),
    }  # fmt: skip
