"""The distribution of an encoder's codes, from which new codes are drawn."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
from numpy.typing import NDArray

from simrec.arrays import from_npz, to_npz
from simrec.contracts import Codes

COMPONENTS = 10
"""Maximum number of mixture components."""

SAMPLE = 5_000
"""About how many codes a mixture is fitted to; more take longer and gain little."""

EACH = 50
"""Minimum number of pictures per component."""

WIDEST = 128
"""Codes with up to so many numbers get full covariances; in longer ones, the numbers vary independently."""


@dataclass(frozen=True)
class Mixture:
    """A mixture of k normal distributions of codes.

    weights (k,), summing to 1. means (k, dim). factors: standard deviations (k, dim), or the Cholesky factors of the
    covariances (k, dim, dim).
    """

    weights: NDArray[np.float64]
    means: NDArray[np.float32]
    factors: NDArray[np.float32]

    @classmethod
    def standard_normal(cls, dim: int) -> Self:
        """The prior of a variational autoencoder."""
        return cls(np.ones(1), np.zeros((1, dim), np.float32), np.ones((1, dim), np.float32))

    @classmethod
    def normal(cls, codes: Codes) -> Self:
        """One normal distribution with the mean and covariance of codes (n, dim), n at least 2."""
        covariance = np.cov(codes.astype(np.float64).T) + 1e-9 * np.eye(codes.shape[1])
        factor = np.linalg.cholesky(covariance).astype(np.float32)
        return cls(np.ones(1), codes.mean(axis=0, keepdims=True), factor[np.newaxis])

    @classmethod
    def fit(cls, codes: Codes, seed: int = 0) -> Self:
        """Fits a mixture to codes (n, dim), n at least 1, by expectation maximisation."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.mixture import GaussianMixture

        exact = codes[:: max(1, len(codes) // SAMPLE)].astype(np.float64)
        full = codes.shape[1] <= WIDEST
        # A thousandth of the codes' mean variance keeps components from shrinking onto a few codes.
        least = max(float(exact.var(axis=0).mean()) / 1000, 1e-9)
        if len(codes) < 2:
            return cls(np.ones(1), codes[:1], np.full((1, codes.shape[1]), np.sqrt(least), np.float32))
        model = GaussianMixture(
            min(COMPONENTS, max(1, len(codes) // EACH)), covariance_type="full" if full else "diag", reg_covar=least,
            random_state=seed, max_iter=20, tol=1e-2, init_params="k-means++",
        )  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a nearly converged mixture draws as well
            model.fit(exact)
        factors = np.linalg.cholesky(model.covariances_) if full else np.sqrt(model.covariances_)
        return cls(model.weights_, model.means_.astype(np.float32), factors.astype(np.float32))

    @classmethod
    def from_bytes(cls, data: bytes, dim: int) -> Self:
        """The mixture of codes (n, dim) that `to_bytes` wrote. Raises ValueError for anything else."""
        mixture = cls(
            **from_npz(
                data,
                {"weights": (np.float64, (None,)), "means": (np.float32, (None, dim)), "factors": (np.float32, None)},
            )
        )
        components = len(mixture.weights)
        if mixture.means.shape != (components, dim) or mixture.factors.shape not in (
            (components, dim),
            (components, dim, dim),
        ):
            raise ValueError(f"{components} weights, means {mixture.means.shape} and factors {mixture.factors.shape}")
        if not all((np.abs(array) < 1e15).all() for array in (mixture.weights, mixture.means, mixture.factors)):
            raise ValueError("its numbers are not what any codes have")
        if (mixture.weights < 0).any() or not 0 < mixture.weights.sum() < np.inf:
            raise ValueError("its weights are not shares of a whole")
        return mixture

    def to_bytes(self) -> bytes:
        """As a compressed .npz file."""
        return to_npz(**{field.name: getattr(self, field.name) for field in fields(self)})

    def sample(self, n: int, seed: int = 0) -> Codes:
        """n codes (n, dim)."""
        generator = np.random.default_rng(seed)
        chosen = generator.choice(len(self.weights), n, p=self.weights / self.weights.sum())
        return self.means[chosen] + self._deviations(chosen, generator)

    def around(self, code: NDArray[np.float32], n: int, spread: float, seed: int = 0) -> Codes:
        """n codes (n, dim) near a code (dim,): the code plus `spread` times draws from the nearest component."""
        nearest = np.full(n, ((self.means - code) ** 2).sum(axis=1).argmin())
        return code + np.float32(spread) * self._deviations(nearest, np.random.default_rng(seed))

    def _deviations(self, chosen: NDArray[np.intp], generator: np.random.Generator) -> Codes:
        """Draws from the chosen components (n,), less their means."""
        drawn = generator.standard_normal((len(chosen), self.means.shape[1])).astype(np.float32)
        for component in np.unique(chosen):
            own, factor = chosen == component, self.factors[component]
            drawn[own] = drawn[own] * factor if factor.ndim == 1 else drawn[own] @ factor.T
        return drawn
