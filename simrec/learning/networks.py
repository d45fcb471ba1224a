"""The layers of the built-in encoders, for any picture size and number of channels."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class OrientedGradients(nn.Module):
    """Pictures (n, c, h, w) in 0..1 to the energy of their edges in each direction, (n, 4, h // 2, w // 2).

    Histograms of oriented gradients (Dalal, Triggs 2005, doi:10.1109/CVPR.2005.177), softly binned: where edges lie and
    how they run says more about an item than its brightness, and a strong contrast counts little more than a weak one.
    No parameters; each result has a mean square of 1.
    """

    directions = 4

    @classmethod
    def numbers(cls, size: int) -> int:
        """How many numbers of a picture of that size `EdgeTarget` uses."""
        return cls.directions * min(size // 2, EdgeTarget.CELLS) ** 2

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to (n, 4, h // 2, w // 2)."""
        grey = _root(x).mean(1, keepdim=True)
        across = F.pad(grey, (1, 1, 0, 0))
        across = across[..., 2:] - across[..., :-2]
        down = F.pad(grey, (0, 0, 1, 1))
        down = down[..., 2:, :] - down[..., :-2, :]
        angles = [math.pi * k / self.directions for k in range(self.directions)]
        energy = torch.cat([(across * math.cos(a) + down * math.sin(a)).abs() for a in angles], 1)
        # A pixel's energy goes mostly to the best direction: the cube over the sum of squares.
        energy = energy**3 / ((energy**2).sum(1, keepdim=True) + 1e-4)
        return _unit_energy(_root(F.avg_pool2d(energy, 4, 2, padding=1)))


class Alignment(nn.Module):
    """Pictures (n, c, h, w) moved and scaled so that their light has always the same centre and the same spread.

    Normalisation by moments (Hu 1962, doi:10.1109/TIT.1962.1057692): it then matters little where an item lies in its
    picture and how large it is. No parameters. A blank picture stays blank; scales stay within 0.6 and 1.3.
    """

    SPREAD = 0.58
    """The root mean square distance of light from the centre after scaling; a picture reaches from -1 to 1. It is
    slightly less than in most items of Fashion-MNIST, so that items aren't cut off when they are moved and enlarged.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to (n, c, h, w)."""
        light = _root(x).mean(1)
        down, across = light.sum(2), light.sum(1)  # (n, h) and (n, w)
        middles, variances = zip(*map(_moments, (down, across)), strict=True)
        scale = (sum(variances).sqrt() / self.SPREAD).clamp(0.6, 1.3)
        to_rows, to_columns = (
            _interpolation(scale * _places(line) + middle) for line, middle in zip((down, across), middles, strict=True)
        )
        aligned: Tensor = to_rows[:, None] @ x @ to_columns[:, None].transpose(2, 3)
        return aligned


class ConvEncoder(nn.Module):
    """Pictures (n, channels, size, size) to features (n, hidden).

    First the picture is aligned; then come its oriented gradients, and the picture itself at half its size; 3x3
    convolutions with batch norm and ReLU, one with `stem` channels (none if that is 0), then those of `widths`, each of
    which halves height and width, because early strides keep this fast on a CPU; one linear layer, batch norm, ReLU.
    """

    def __init__(self, size: int, channels: int, stem: int, widths: Sequence[int], hidden: int) -> None:
        super().__init__()
        self.alignment = Alignment()
        self.gradients = OrientedGradients()
        layers: list[nn.Module] = []
        size //= 2
        before = OrientedGradients.directions + channels
        for after, stride in [*([(stem, 1)] if stem else []), *((width, 2) for width in widths)]:
            layers += [nn.Conv2d(before, after, 3, stride, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
            before, size = after, (size + stride - 1) // stride
        layers += [nn.Flatten(), nn.Linear(widths[-1] * size * size, hidden, bias=False)]
        self.layers = nn.Sequential(*layers, nn.BatchNorm1d(hidden), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to (n, hidden)."""
        # No gradient is needed here: no layer with weights comes before.
        with torch.no_grad():
            x = self.alignment(x)
            fixed = torch.cat([self.gradients(x), _unit_energy(F.avg_pool2d(_root(x), 2))], 1)
        features: Tensor = self.layers(fixed)
        return features


class MLP(nn.Sequential):
    """Linear layers of the given widths with ReLU between them; norm: batch norm before each ReLU."""

    def __init__(self, widths: Sequence[int], *, norm: bool = False) -> None:
        layers: list[nn.Module] = []
        for before, after in pairwise(widths[:-1]):
            layers += [nn.Linear(before, after, bias=not norm), *([nn.BatchNorm1d(after)] if norm else []), nn.ReLU()]
        super().__init__(*layers, nn.Linear(widths[-2], widths[-1]))


class PictureDecoder(nn.Module):
    """Linear layers from codes (n, dim) to pictures (n, channels, size, size) and `extra` more numbers (n, extra)."""

    def __init__(
        self, dim: int, hidden: Sequence[int], size: int, channels: int, *, extra: int = 0, norm: bool = False
    ) -> None:
        super().__init__()
        self.shape = (channels, size, size)
        self.layers = MLP((dim, *hidden, channels * size * size + extra), norm=norm)

    def forward(self, code: Tensor) -> Tensor:
        """(n, dim) to (n, channels, size, size), without the extra numbers."""
        return self.both(code)[0]

    def both(self, code: Tensor) -> tuple[Tensor, Tensor]:
        """(n, dim) to (n, channels, size, size) and (n, extra)."""
        out: Tensor = self.layers(code)
        pixels = math.prod(self.shape)
        return out[:, :pixels].reshape(-1, *self.shape), out[:, pixels:]


class PrincipalTarget:
    """Features of a picture reduced to a few numbers, which a code must predict.

    Their principal components are partly whitened, scaled to the same length, and then to an overall variance of 1.
    """

    SAMPLE = 10_000
    """How many pictures the components are computed from: more wouldn't change them."""

    def __init__(self, features: Tensor, numbers: int) -> None:
        """Computes the components from features float32 (n, f)."""
        self.mean = features.mean(0)
        variances, axes = torch.linalg.eigh(torch.cov(features.T).cpu().double())
        scale = variances[-numbers:].clamp_min(float(variances[-1]) * 1e-6 + 1e-12) ** -0.25
        self.axes = (axes[:, -numbers:] * scale).float().to(features.device)
        self.scale = 1.0
        self.scale = 1 / max(float(self.of(features).std()), 1e-6)  # features of blank pictures don't vary

    def of(self, features: Tensor) -> Tensor:
        """Features (n, f) to float32 (n, numbers)."""
        return F.normalize((features - self.mean) @ self.axes, dim=1) * self.scale


class EdgeTarget:
    """What a code must predict beside the picture: its oriented gradients, as a `PrincipalTarget`.

    The gradients of a picture and of its mirror image are averaged, so that it doesn't matter which way an item faces.
    MaskFeat too predicts such features instead of pixels (Wei et al. 2022, arXiv:2112.09133).
    """

    CELLS = 14
    """Maximum rows and columns of gradients: those of a 28-pixel picture; larger pictures' gradients are averaged."""

    def __init__(self, images: Tensor, numbers: int) -> None:
        """Computes the components from images uint8 (n, c, h, w)."""
        sample = images[:: max(1, len(images) // PrincipalTarget.SAMPLE)]
        self.target = PrincipalTarget(torch.cat(list(_mirrored_gradients(sample))), numbers)

    def __call__(self, images: Tensor) -> Tensor:
        """Images uint8 (n, c, h, w) to float32 (n, numbers)."""
        return torch.cat([self.target.of(features) for features in _mirrored_gradients(images)])


class Whitening(nn.Module):
    """Centres codes and divides each principal axis by its standard deviation to some power; fitted once.

    power: 0 only centres, 1 whitens fully (ZCA: Kessy, Lewin, Strimmer 2018, arXiv:1512.00809); in between, axes with
    little variance gain weight without their noise taking over. rotate: if False, scales a code's own numbers and
    leaves the mean, so that zeros stay zeros. Before `fit_to` it changes nothing.
    """

    mean: Tensor
    matrix: Tensor
    back: Tensor

    def __init__(self, dim: int, power: float, *, rotate: bool = True) -> None:
        super().__init__()
        self.power = power
        self.rotate = rotate
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("matrix", torch.eye(dim))
        self.register_buffer("back", torch.eye(dim))

    def forward(self, code: Tensor) -> Tensor:
        """(n, dim) to (n, dim)."""
        return (code - self.mean) @ self.matrix

    def inverse(self, code: Tensor) -> Tensor:
        """Undoes `forward`."""
        return code @ self.back + self.mean

    def fit_to(self, codes: Tensor) -> None:
        """Computes mean and axes from codes (n, dim)."""
        exact = codes.cpu().double()
        covariance = torch.cov(exact.T).reshape(exact.shape[1], -1)  # for codes of one number it is a scalar
        if self.rotate:
            mean, (variances, axes) = exact.mean(0), torch.linalg.eigh(covariance)
        else:
            mean, variances, axes = torch.zeros(len(covariance)), covariance.diagonal(), torch.eye(len(covariance))
        # Don't blow up an axis without variance (a dead unit).
        scale = variances.clamp_min(float(variances.max()) * 1e-4 + 1e-12) ** (-self.power / 2)
        axes = axes.double()
        self.mean.copy_(mean)
        self.matrix.copy_((axes * scale) @ axes.T)
        self.back.copy_((axes / scale) @ axes.T)


class Network(nn.Module, ABC):
    """A network that an encoder's settings can choose (`simrec.learning.autoencoder.NetworkAutoencoder`).

    A subclass makes its layers and implements `code`, `picture` and `loss`, which mean the same as in `Autoencoder`.
    """

    micro_batch: int | None = None
    """See `simrec.learning.autoencoder.Autoencoder`."""

    def __init__(self, settings: Any) -> None:
        super().__init__()
        self.settings = settings
        self.dim: int = settings.dim

    @abstractmethod
    def code(self, x: Tensor) -> Tensor:
        """(n, c, h, w) in 0..1 to (n, dim)."""

    @abstractmethod
    def picture(self, code: Tensor) -> Tensor:
        """(n, dim) to (n, c, h, w) in 0..1."""

    @abstractmethod
    def loss(self, x: Tensor, *rest: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        """A batch of `examples` to the mean loss per picture and its named parts."""

    def spread(self, x: Tensor) -> Tensor | None:
        """See `simrec.learning.autoencoder.Autoencoder`; None unless codes are means."""
        return None

    def prepare(self, images: Tensor) -> None:
        """Called once before training with the training pictures, uint8 (n, c, h, w)."""

    def examples(self, images: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        """The rows from which batches are drawn."""
        return (images,)

    def finish(self, codes: Tensor) -> None:
        """Called once after training with the training pictures' codes (n, dim)."""


class SphereNetwork(Network):
    """A convolutional encoder, a code on a sphere, and a linear decoder to the picture and its edges.

    settings: a `simrec.learning.autoencoder.ConvSettings`. The decoder is trained on the bottleneck; the code is the
    partly whitened bottleneck, and `picture` undoes the whitening.
    """

    target: EdgeTarget

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        s = settings
        self.edges = min(s.edges, OrientedGradients.numbers(s.size))
        self.encoder = nn.Sequential(
            ConvEncoder(s.size, s.channels, s.stem, s.widths, s.hidden), nn.Linear(s.hidden, s.dim)
        )
        self.decoder = PictureDecoder(
            s.dim, s.decoder, s.size, s.channels, extra=self.edges + self.more_numbers(), norm=True
        )
        self.whitening = Whitening(s.dim, s.whitening)

    def more_numbers(self) -> int:
        """How many numbers a code must predict beside the picture and its edges: targets of `prediction_loss`."""
        return 0

    def bottleneck(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to (n, dim)."""
        out: Tensor = self.encoder(x)
        return on_sphere(out)

    def code(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to (n, dim)."""
        code: Tensor = self.whitening(self.bottleneck(x))
        return code

    def picture(self, code: Tensor) -> Tensor:
        """(n, dim) to (n, c, h, w) in 0..1."""
        logits: Tensor = self.decoder(self.whitening.inverse(code))
        return logits.sigmoid()

    def prepare(self, images: Tensor) -> None:
        """Fits the edge target."""
        self.target = EdgeTarget(images, self.edges)

    def examples(self, images: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Pictures (n, c, h, w) and the edge numbers to predict for each, (n, edges)."""
        return images, self.target(images)

    def fed(self, x: Tensor) -> Tensor:
        """The encoder's input for pictures (n, c, h, w): in training, each is changed at random."""
        s = self.settings
        return jitter(x, s.shift, s.scale, s.rotate, s.light) if self.training else x

    def loss(self, x: Tensor, *rest: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        """How badly the code predicts the picture, in nats, and its edges."""
        return self.prediction_loss(self.bottleneck(self.fed(x)), x, *rest)

    def prediction_loss(self, bottleneck: Tensor, x: Tensor, *targets: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The loss of a bottleneck (n, dim) in predicting pictures (n, c, h, w) and edges (n, edges)."""
        (edges,) = targets
        logits, predicted = self.decoder.both(bottleneck)
        rebuilt, missed = bernoulli_loss(logits, x), squared_loss(predicted, edges)
        total = rebuilt + self.settings.edge_weight * missed
        return total, {"rebuilt": rebuilt.detach(), "edges": missed.detach()}

    def finish(self, codes: Tensor) -> None:
        """Fits the whitening."""
        self.whitening.fit_to(codes)


class ArticleMLP(Network):
    """The 2018 article's linear network: ReLU layers, a sigmoid code, ReLU layers, a linear output, squared error."""

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        s = settings
        self.encoder = nn.Sequential(nn.Flatten(), *MLP((s.channels * s.size**2, *s.widths, s.dim)), nn.Sigmoid())
        self.decoder = PictureDecoder(s.dim, s.decoder, s.size, s.channels)
        glorot(self)

    def code(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to (n, dim)."""
        code: Tensor = self.encoder(x)
        return code

    def picture(self, code: Tensor) -> Tensor:
        """(n, dim) to (n, c, h, w), cut to 0..1."""
        out: Tensor = self.decoder(code)
        return out.clamp(0, 1)

    def loss(self, x: Tensor, *rest: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Mean squared error per pixel."""
        rebuilt = F.mse_loss(self.decoder(self.code(x)), x)
        return rebuilt, {"rebuilt": rebuilt.detach()}


def on_sphere(code: Tensor) -> Tensor:
    """Codes (n, dim) scaled to length sqrt(dim), so that a number is about 1 whatever dim is.

    On a sphere, cosine and L2 rank neighbours in the same way.
    """
    unit: Tensor = F.normalize(code, dim=1, eps=1e-6)
    return unit * math.sqrt(code.shape[1])


def bernoulli_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Negative log-likelihood in nats, summed over a picture's pixels, averaged over the batch."""
    return F.binary_cross_entropy_with_logits(logits, target, reduction="sum") / len(target)


def squared_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Squared error, summed over the numbers (n, k) of a row, averaged over the batch."""
    return F.mse_loss(predicted, target, reduction="sum") / len(target)


def jitter(pictures: Tensor, shift: float, scale: float, rotate: float, light: float) -> Tensor:
    """Pictures (n, c, h, w), each changed at random in ways that should not change a code.

    shift: move by at most this share of the size. scale: shrink by at most this share, enlarge by at most a third of
    it, because an item fills most of its picture. rotate: turn by at most so many degrees. light: darken by at most
    this share, brighten by at most half of it. Half are mirrored. What moves in from outside is black, the background
    of the fashion recipe.
    """
    n, place = len(pictures), pictures.device

    def either_way(most: float, *shape: int) -> Tensor:
        return most * (2 * torch.rand(n, *shape, device=place) - 1)

    angle = torch.deg2rad(either_way(rotate))
    factor = 1 / (1 - scale / 3 + either_way(scale * 2 / 3))  # from 1 - scale to 1 + scale / 3
    mirror = torch.where(torch.rand(n, device=place) < 0.5, -1.0, 1.0)
    transform = torch.zeros(n, 2, 3, device=place)
    transform[:, 0, 0], transform[:, 0, 1] = factor * mirror * angle.cos(), -factor * angle.sin()
    transform[:, 1, 0], transform[:, 1, 1] = factor * mirror * angle.sin(), factor * angle.cos()
    transform[:, :, 2] = 2 * either_way(shift, 2)  # the sampling grid runs from -1 to 1
    grid = F.affine_grid(transform, list(pictures.shape), align_corners=False)
    moved = F.grid_sample(pictures, grid, align_corners=False)
    lit: Tensor = moved * (1 - light / 4 + either_way(light * 3 / 4, 1, 1, 1))
    return lit.clamp(0, 1)


def salt_and_pepper(
    pictures: Tensor, share: float | Tensor, generator: torch.Generator | None = None, *, soft: bool = False
) -> Tensor:
    """Pictures in 0..1 with a share of the pixels turned black or white at random; all channels of a pixel together.

    share: for all pictures, or (n, 1, 1, 1). soft: draw each such pixel from Beta(1/2, 1/2) instead, which is rarely
    grey. That distribution is the arcsine law, so sin^2 of a uniform angle samples it.
    """
    n, _, height, width = pictures.shape
    place = generator.device if generator else pictures.device
    drawn = torch.rand((2, n, 1, height, width), generator=generator, device=place).to(pictures.device)
    noise = torch.sin(drawn[1] * (torch.pi / 2)) ** 2
    return torch.where(drawn[0] < share, noise if soft else noise.round(), pictures)


def glorot(module: nn.Module) -> None:
    """Sets Glorot-uniform weights and zero biases in every linear and convolutional layer, like Keras."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def _places(line: Tensor) -> Tensor:
    """The centres of the pixels (m,) in rows (n, m), which reach from -1 to 1."""
    size = line.shape[1]
    return (torch.arange(size, device=line.device) + 0.5) * (2 / size) - 1


def _moments(line: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance (n, 1) of the position of light in rows of pixels (n, m)."""
    places, total = _places(line), line.sum(1, keepdim=True).clamp_min(1e-3)
    middle = (line * places).sum(1, keepdim=True) / total
    return middle, (line * (places - middle) ** 2).sum(1, keepdim=True) / total


def _interpolation(places: Tensor) -> Tensor:
    """Weights (n, m, m) that interpolate rows of m pixels at places (n, m), linearly between neighbours.

    These are matrices because `grid_sample` is slower in ONNX Runtime.
    """
    size = places.shape[1]
    pixels = (places + 1) * (size / 2) - 0.5
    return (1 - (pixels[:, :, None] - torch.arange(size, device=places.device)).abs()).clamp_min(0)


def _root(x: Tensor) -> Tensor:
    return x.clamp_min(0).sqrt()


def _unit_energy(x: Tensor) -> Tensor:
    """Each of (n, c, h, w) scaled to a mean square of 1; blank ones stay blank."""
    return x / (x**2).mean((1, 2, 3), keepdim=True).sqrt().clamp_min(1e-3)


def _mirrored_gradients(images: Tensor) -> Iterator[Tensor]:
    """uint8 (n, c, h, w) to (m, `OrientedGradients.numbers`), batch by batch, each row of length 1.

    The average of a picture's gradients and those of its mirror image, in which an edge at 45 degrees is at 135.
    """
    gradients = OrientedGradients()
    mirrored = [-k % gradients.directions for k in range(gradients.directions)]
    batch = 512  # more would not fit into a CPU's cache
    for start in range(0, len(images), batch):
        with torch.no_grad():
            one = gradients(images[start : start + batch].float() / 255)
            both = one + one[:, mirrored].flip(3)
            if max(both.shape[2:]) > EdgeTarget.CELLS:
                both = F.adaptive_avg_pool2d(both, EdgeTarget.CELLS)
            yield F.normalize(both.flatten(1), dim=1)
