"""What was tried in training beside what the built-in encoders do: each a network for `validation.py --variant`.

All stand on the default network; what they gave stands in README.md.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from simrec.learning.networks import SphereNetwork


class Unaligned(SphereNetwork):
    """Without the alignment of pictures by their moments."""

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        self.encoder[0].alignment = nn.Identity()


class Consistency(SphereNetwork):
    """A fed picture's code is drawn towards the code of the picture as it was, which gets no gradient."""

    WEIGHT = 50.0

    def loss(self, x: Tensor, *rest: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        """What the code fails to tell, and the mean squared distance of the two codes."""
        fed = self.bottleneck(self.fed(x))
        told, parts = self.told(fed, x, *rest)
        with torch.no_grad():
            clean = self.bottleneck(x)
        apart = F.mse_loss(fed, clean)
        return told + self.WEIGHT * apart, {**parts, "apart": apart.detach()}


class TwoViews(SphereNetwork):
    """Two views of each picture, both told; a subclass says what their codes should be to each other."""

    def loss(self, x: Tensor, *rest: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        """What the first view's code fails to tell, and the term of the two."""
        one, other = self.bottleneck(self.fed(x)), self.bottleneck(self.fed(x))
        told, parts = self.told(one, x, *rest)
        term = self.term(one, other)
        return told + term, {**parts, "term": term.detach()}

    @abstractmethod
    def term(self, one: Tensor, other: Tensor) -> Tensor:
        """From codes (n, dim) of both views, weighted."""


class Contrastive(TwoViews):
    """SimCLR's NT-Xent on a projected code (Chen et al. 2020, arXiv:2002.05709), temperature 0.2."""

    WEIGHT = 10.0

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        self.projection = nn.Sequential(nn.Linear(settings.dim, 128), nn.ReLU(), nn.Linear(128, 64))

    def term(self, one: Tensor, other: Tensor) -> Tensor:
        """The cross-entropy of finding each view's twin among all others."""
        both = F.normalize(self.projection(torch.cat([one, other])), dim=1)
        near = both @ both.T / 0.2
        near.fill_diagonal_(float("-inf"))
        twin = torch.arange(len(both), device=both.device).roll(len(one))
        return self.WEIGHT * F.cross_entropy(near, twin)


class Barlow(TwoViews):
    """Barlow Twins' cross-correlation on the code (Zbontar et al. 2021, arXiv:2103.03230), lambda 0.005."""

    WEIGHT = 0.5

    def term(self, one: Tensor, other: Tensor) -> Tensor:
        """How far the cross-correlation of the two is from the identity."""
        one, other = (F.batch_norm(z, None, None, training=True) for z in (one, other))
        correlation = one.T @ other / len(one)
        alike = ((correlation.diagonal() - 1) ** 2).sum()
        redundant = (correlation**2).sum() - (correlation.diagonal() ** 2).sum()
        return self.WEIGHT * (alike + 0.005 * redundant)


class VICReg(TwoViews):
    """Variance, invariance, covariance on the code (Bardes, Ponce, LeCun 2022, arXiv:2105.04906), 25 : 25 : 1."""

    WEIGHT = 0.2

    def term(self, one: Tensor, other: Tensor) -> Tensor:
        """The three terms."""
        spread = sum((1 - (z.var(0) + 1e-4).sqrt()).clamp_min(0).mean() for z in (one, other))
        shared = torch.zeros((), device=one.device)
        for z in (one, other):
            covariance = torch.cov(z.T)
            shared = shared + ((covariance**2).sum() - (covariance.diagonal() ** 2).sum()) / z.shape[1]
        return self.WEIGHT * (25 * F.mse_loss(one, other) + 25 * spread + shared)


class Teacher(SphereNetwork):
    """A moving average of the encoder says what a predictor is to make of the other view's code (Grill et al. 2020,
    arXiv:2006.07733), momentum 0.99.
    """

    WEIGHT = 50.0

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        dim = settings.dim
        self.predictor = nn.Sequential(nn.Linear(dim, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Linear(256, dim))
        self.teacher = copy.deepcopy(self.encoder).requires_grad_(False)

    def loss(self, x: Tensor, *rest: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        """What a view's code fails to tell, and how far its prediction is from the teacher's code of the other view."""
        one = self.bottleneck(self.fed(x))
        told, parts = self.told(one, x, *rest)
        with torch.no_grad():
            if self.training:
                for slow, fast in zip(self.teacher.parameters(), self.encoder.parameters(), strict=True):
                    slow.lerp_(fast, 0.01)
            other = F.normalize(self.teacher(self.fed(x)), dim=1)
        missed = 1 - (F.normalize(self.predictor(one), dim=1) * other).sum(1).mean()
        return told + self.WEIGHT * missed, {**parts, "missed": missed.detach()}


VARIANTS: Mapping[str, type[SphereNetwork]] = {
    "unaligned": Unaligned,
    "consistency": Consistency,
    "contrastive": Contrastive,
    "barlow": Barlow,
    "vicreg": VICReg,
    "teacher": Teacher,
}
