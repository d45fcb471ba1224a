"""Variants of training that were tried: each is a network for `validation.py --variant`.

All build on the default network; README.md has the results.
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
    """The default network without the alignment of pictures by their moments."""

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        self.encoder[0].alignment = nn.Identity()


class Consistency(SphereNetwork):
    """Pulls the code of an augmented picture towards the code of the original, which gets no gradient."""

    WEIGHT = 50.0

    def loss(self, x: Tensor, *rest: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The loss of rebuilding from the code, and the mean squared distance of the two codes."""
        fed = self.bottleneck(self.fed(x))
        loss, parts = self.prediction_loss(fed, x, *rest)
        with torch.no_grad():
            clean = self.bottleneck(x)
        apart = F.mse_loss(fed, clean)
        return loss + self.WEIGHT * apart, {**parts, "apart": apart.detach()}


class TwoViews(SphereNetwork):
    """Encodes two views of each picture and rebuilds the first; a subclass says how the two codes should relate."""

    def loss(self, x: Tensor, *rest: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The loss of rebuilding the first view from its code, and the term of both codes."""
        one, other = self.bottleneck(self.fed(x)), self.bottleneck(self.fed(x))
        loss, parts = self.prediction_loss(one, x, *rest)
        term = self.term(one, other)
        return loss + term, {**parts, "term": term.detach()}

    @abstractmethod
    def term(self, one: Tensor, other: Tensor) -> Tensor:
        """The weighted loss of the codes (n, dim) of both views."""


class Contrastive(TwoViews):
    """SimCLR's NT-Xent on a projected code (Chen et al. 2020, arXiv:2002.05709), temperature 0.2."""

    WEIGHT = 10.0

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        self.projection = nn.Sequential(nn.Linear(settings.dim, 128), nn.ReLU(), nn.Linear(128, 64))

    def term(self, one: Tensor, other: Tensor) -> Tensor:
        """The cross-entropy of finding each view's partner among all others."""
        both = F.normalize(self.projection(torch.cat([one, other])), dim=1)
        near = both @ both.T / 0.2
        near.fill_diagonal_(float("-inf"))
        twin = torch.arange(len(both), device=both.device).roll(len(one))
        return self.WEIGHT * F.cross_entropy(near, twin)


class Barlow(TwoViews):
    """Barlow Twins' cross-correlation on the code (Zbontar et al. 2021, arXiv:2103.03230), lambda 0.005."""

    WEIGHT = 0.5

    def term(self, one: Tensor, other: Tensor) -> Tensor:
        """How far the cross-correlation of both codes is from the identity."""
        one, other = (F.batch_norm(z, None, None, training=True) for z in (one, other))
        correlation = one.T @ other / len(one)
        alike = ((correlation.diagonal() - 1) ** 2).sum()
        redundant = (correlation**2).sum() - (correlation.diagonal() ** 2).sum()
        return self.WEIGHT * (alike + 0.005 * redundant)


class VICReg(TwoViews):
    """Variance, invariance, covariance on the code (Bardes, Ponce, LeCun 2022, arXiv:2105.04906), 25 : 25 : 1."""

    WEIGHT = 0.2

    def term(self, one: Tensor, other: Tensor) -> Tensor:
        """The sum of the three terms."""
        spread = sum((1 - (z.var(0) + 1e-4).sqrt()).clamp_min(0).mean() for z in (one, other))
        shared = torch.zeros((), device=one.device)
        for z in (one, other):
            covariance = torch.cov(z.T)
            shared = shared + ((covariance**2).sum() - (covariance.diagonal() ** 2).sum()) / z.shape[1]
        return self.WEIGHT * (25 * F.mse_loss(one, other) + 25 * spread + shared)


class Teacher(SphereNetwork):
    """BYOL: a predictor must predict, from one view's code, the other view's code by a moving average of the encoder
    (Grill et al. 2020, arXiv:2006.07733), momentum 0.99.
    """

    WEIGHT = 50.0

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        dim = settings.dim
        self.predictor = nn.Sequential(nn.Linear(dim, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Linear(256, dim))
        self.teacher = copy.deepcopy(self.encoder).requires_grad_(False)

    def loss(self, x: Tensor, *rest: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The loss of rebuilding from one view's code, and how far its prediction is from the teacher's other code."""
        one = self.bottleneck(self.fed(x))
        loss, parts = self.prediction_loss(one, x, *rest)
        with torch.no_grad():
            if self.training:
                for slow, fast in zip(self.teacher.parameters(), self.encoder.parameters(), strict=True):
                    slow.lerp_(fast, 0.01)
            other = F.normalize(self.teacher(self.fed(x)), dim=1)
        missed = 1 - (F.normalize(self.predictor(one), dim=1) * other).sum(1).mean()
        return loss + self.WEIGHT * missed, {**parts, "missed": missed.detach()}


VARIANTS: Mapping[str, type[SphereNetwork]] = {
    "unaligned": Unaligned,
    "consistency": Consistency,
    "contrastive": Contrastive,
    "barlow": Barlow,
    "vicreg": VICReg,
    "teacher": Teacher,
}
