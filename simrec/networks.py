"""The layers that the built-in encoders are made of, for any picture size and number of channels."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ConvEncoder(nn.Sequential):
    """Pictures (n, channels, size, size) to features (n, hidden).

    3x3 convolutions, each halving height and width at once (early strides are what keeps this fast on a CPU), with
    batch norm and ReLU; then one linear layer.
    """

    def __init__(self, size: int, channels: int, widths: Sequence[int], hidden: int) -> None:
        layers: list[nn.Module] = []
        for before, after in pairwise((channels, *widths)):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
            size = (size + 1) // 2
        layers += [nn.Flatten(), nn.Linear(widths[-1] * size * size, hidden), nn.ReLU()]
        super().__init__(*layers)


class MLP(nn.Sequential):
    """Linear layers of the given widths, ReLU between them, none after the last."""

    def __init__(self, widths: Sequence[int]) -> None:
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU()]
        super().__init__(*layers[:-1])


class PictureDecoder(nn.Module):
    """Codes (n, dim) to picture logits (n, channels, size, size) by linear layers; their sigmoid is the picture."""

    def __init__(self, dim: int, hidden: Sequence[int], size: int, channels: int) -> None:
        super().__init__()
        self.shape = (channels, size, size)
        self.layers = MLP((dim, *hidden, channels * size * size))

    def forward(self, code: Tensor) -> Tensor:
        """(n, dim) to (n, channels, size, size)."""
        flat: Tensor = self.layers(code)
        return flat.unflatten(1, self.shape)


class Whitening(nn.Module):
    """Centres codes and divides each principal axis by its standard deviation to some power, fitted once.

    power 0 only centres, 1 whitens wholly (Kessy, Lewin, Strimmer 2018, arXiv:1512.00809); between them, axes of
    little variance gain weight without their noise taking over. Before `fit_to` it changes nothing.
    """

    mean: Tensor
    matrix: Tensor

    def __init__(self, dim: int, power: float) -> None:
        super().__init__()
        self.power = power
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("matrix", torch.eye(dim))

    def forward(self, code: Tensor) -> Tensor:
        """(n, dim) to (n, dim)."""
        return (code - self.mean) @ self.matrix

    def fit_to(self, codes: Tensor) -> None:
        """Takes mean and principal axes from codes (n, dim)."""
        exact = codes.double().cpu()
        mean = exact.mean(0)
        variances, axes = torch.linalg.eigh(torch.cov((exact - mean).T))
        # An axis without variance (a dead unit) must not be blown up.
        scale = variances.clamp_min(variances.max() * 1e-4 + 1e-12) ** (-self.power / 2)
        matrix = (axes * scale) @ axes.T
        self.mean.copy_(mean)
        self.matrix.copy_(matrix)


def on_sphere(code: Tensor) -> Tensor:
    """Codes (n, dim) scaled to length 1, on which cosine and L2 agree about who is nearer."""
    return F.normalize(code, dim=1, eps=1e-6)


def bernoulli_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Negative log-likelihood in nats, summed over a picture's pixels: (n, ...) and (n, ...) to (n,)."""
    return F.binary_cross_entropy_with_logits(logits, target, reduction="none").flatten(1).sum(1)


def salt_and_pepper(pictures: Tensor, share: float, generator: torch.Generator | None = None) -> Tensor:
    """Pictures in 0..1 with a share of the pixels each replaced by a draw from Beta(1/2, 1/2).

    That distribution is the arcsine law, so sin^2 of a uniform angle samples it. All channels of a pixel together.
    """
    n, _, height, width = pictures.shape
    place = generator.device if generator else pictures.device
    drawn = torch.rand((2, n, 1, height, width), generator=generator, device=place).to(pictures.device)
    noise = torch.sin(drawn[1] * (torch.pi / 2)) ** 2
    return torch.where(drawn[0] < share, noise, pictures)


def glorot(module: nn.Module) -> None:
    """Glorot-uniform weights and zero biases in every linear and convolutional layer, as Keras begins."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
