"""A convolutional autoencoder: two convolutions make the code, two linear layers rebuild the picture from it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from simrec.contracts import setting
from simrec.learning.autoencoder import Autoencoder, AutoencoderSettings


@dataclass(frozen=True, kw_only=True)
class ConvSettings(AutoencoderSettings):
    """Settings of the autoencoder; size, channels, dim, epochs and more are inherited."""

    epochs: int = setting(6, "maximum number of passes over the pictures")
    width: int = setting(32, "channels of the first convolution; the second has twice as many")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width < 1:
            raise ValueError(f"width is {self.width}: it must be 1 or more")


class ConvAutoencoder(Autoencoder):
    """Rebuilds a picture from its code; the loss is the squared error, summed over the pixels."""

    Settings = ConvSettings
    presets: ClassVar[Mapping[str, ConvSettings]] = {"default": ConvSettings(), "wide": ConvSettings(width=64)}

    def __init__(self, settings: ConvSettings) -> None:
        super().__init__(settings)
        channels, size, width = settings.channels, settings.size, settings.width
        side = -(-size // 4)  # each convolution halves it, rounding up
        self.encoder = nn.Sequential(
            nn.Conv2d(channels, width, 3, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.ReLU(),
            nn.Flatten(), nn.Linear(2 * width * side**2, settings.dim),
            nn.BatchNorm1d(settings.dim, affine=False),  # cosines compare centred codes best
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Linear(settings.dim, 512), nn.ReLU(), nn.Linear(512, channels * size**2), nn.Sigmoid(),
            nn.Unflatten(1, (channels, size, size)),
        )  # fmt: skip

    def code(self, x: Tensor) -> Tensor:
        """Pictures (n, c, h, w) in 0..1 to codes (n, dim)."""
        code: Tensor = self.encoder(x)
        return code

    def picture(self, code: Tensor) -> Tensor:
        """Codes (n, dim) to pictures (n, c, h, w) in 0..1."""
        picture: Tensor = self.decoder(code)
        return picture

    def loss(self, *examples: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Pictures (n, c, h, w) to the mean loss per picture, and its parts by name."""
        (x,) = examples
        error = (self.picture(self.code(x)) - x).square().sum((1, 2, 3)).mean()
        return error, {"pixels": error.detach()}
