"""Learns which directions of features a code keeps, from features alone, in numpy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh, solve

from simrec.errors import TrainingError

Features = NDArray[np.float32]
"""float32 (n, f)."""

NEIGHBOURS = 10
"""How many nearest pictures a picture's features move towards. Any number from 5 to 20 finds as well."""

RIDGE = 0.3
"""The regression's ridge penalty, as a share of the features' mean variance; .03 finds as well."""


@dataclass(frozen=True)
class Axes:
    """A code is (x - mean) @ matrix - shift; with `unit`, x - mean is first scaled to length 1.

    mean (f,), matrix (f, dim), shift (dim,), all float32.
    """

    mean: Features
    matrix: Features
    shift: Features
    unit: bool

    def codes(self, features: Features) -> Features:
        """Features (n, f) to codes (n, dim)."""
        codes: Features = self.centred(features) @ self.matrix - self.shift
        return codes

    def centred(self, features: Features) -> Features:
        """Features (n, f) as they are before the multiplication with the matrix."""
        centred: Features = features - self.mean
        return _unit(centred) if self.unit else centred


def learned(features: Features, dim: int, *, smoothing: float = 0.0, whitening: float = 0.0) -> Axes:
    """At most dim axes of features (n, f): principal ones, or smoothed ones if smoothing is over 0.

    Raises TrainingError for features that are all the same, or not finite.
    """
    if not np.isfinite(features).all():
        raise TrainingError("the model gives numbers that are not finite for these pictures: use another model")
    if smoothing:
        return smoothed_axes(features, dim, smoothing, whitening)
    return principal_axes(features, dim, whitening)


def principal_axes(features: Features, dim: int, whitening: float = 0.0) -> Axes:
    """The widest axes of features (n, f), at most dim; orthonormal unless they are whitened.

    whitening: how far the axes' variances are made equal, 0 not at all, 1 fully (Jégou, Chum 2012,
    doi:10.1007/978-3-642-33709-3_55). Raises TrainingError for features that are all the same.
    """
    exact = features.astype(np.float64)
    mean = exact.mean(axis=0)
    exact -= mean
    count, width = exact.shape
    wide = width > count  # fewer pictures than features: the smaller matrix has the same axes
    products = exact @ exact.T if wide else exact.T @ exact
    kept = min(dim, len(products))
    values, vectors = eigh(products, subset_by_index=(len(products) - kept, len(products) - 1))
    if not values[-1] > 1e-9 * max(1e-9, float(np.square(features, dtype=np.float64).sum())):
        raise TrainingError(f"the features of {count:,} pictures are all the same: give other pictures")
    telling = values > values[-1] * 1e-9
    values, vectors = values[telling][::-1], vectors[:, telling][:, ::-1]
    axes = exact.T @ vectors / np.sqrt(values) if wide else vectors
    # The common factor doesn't change cosines. Don't blow up an axis without variance.
    axes = axes * np.maximum(values / values[0], 1e-4) ** (-whitening / 2)
    return Axes(mean.astype(np.float32), axes.astype(np.float32), np.zeros(len(values), np.float32), unit=False)


def smoothed_axes(features: Features, dim: int, smoothing: float, whitening: float = 0.0) -> Axes:
    """At most dim axes along which pictures are closer to their neighbours.

    Each picture's features (n, f), centred and of length 1, are added to those of its nearest others. A ridge
    regression learns to predict the sum from the picture alone, and the principal axes of its predictions are kept:
    what neighbours share then counts more, and what tells them apart counts less. This is one step of smoothing over
    the graph of neighbours, made linear (locality preserving projections, He, Niyogi 2003, are the limit of many
    steps).

    smoothing: from 0, the features as they are, to 1, the prediction alone. Raises TrainingError for features that are
    all the same.
    """
    mean = features.mean(axis=0)
    unit = _unit(features - mean)
    targets, exact = _shared(unit, unit, itself=True), unit.astype(np.float64)
    width = exact.shape[1]
    held_back = RIDGE * len(exact) / width * np.eye(width)
    weights = solve(exact.T @ exact + held_back, exact.T @ targets, assume_a="pos")
    size = np.sqrt(np.square(weights).sum() / width)
    weights = smoothing * weights + (1 - smoothing) * size * np.eye(width)
    axes = principal_axes((exact @ weights).astype(np.float32), dim, whitening)
    return Axes(mean, (weights @ axes.matrix).astype(np.float32), axes.mean @ axes.matrix, unit=True)


def lost(axes: Axes, features: Features, known: Features) -> float:
    """The share of variance that codes of features (n, f) do not hold; `known` features (m, f) teach the rebuilding.

    With principal axes it is the features' own variance, with smoothed axes that of what they share with their nearest
    known ones.
    """
    teaching, taught = axes.codes(known).astype(np.float64), _targets(axes, known, known)
    weights = np.linalg.lstsq(teaching, taught, rcond=None)[0]
    wanted = _targets(axes, features, known)
    rest = wanted - axes.codes(features) @ weights
    return float(np.square(rest).sum() / max(np.square(wanted).sum(), 1e-30))


def nearest(features: Features) -> NDArray[np.int64]:
    """The rows of each picture's nearest others by cosine of features (n, f): (n, k), k at most NEIGHBOURS."""
    unit = _unit(features)
    parts = [_nearest(unit[start : start + 1000], unit, first=start) for start in range(0, len(unit), 1000)]
    return np.concatenate(parts)


def _targets(axes: Axes, features: Features, known: Features) -> NDArray[np.float64]:
    """What codes of features (n, f) should hold, (n, f)."""
    centred = features - axes.mean
    if not axes.unit:
        return centred.astype(np.float64)
    return _shared(_unit(centred), _unit(known - axes.mean), itself=known is features)


def _shared(unit: Features, known: Features, *, itself: bool) -> NDArray[np.float64]:
    """Rows (n, f) of length 1, each added to its nearest among known rows (m, f), and scaled to length 1 again."""
    sums: NDArray[np.float64] = unit.astype(np.float64)
    for start in range(0, len(unit), 1000):
        near = _nearest(unit[start : start + 1000], known, first=start if itself else None)
        sums[start : start + 1000] += known[near].sum(axis=1)
    sums /= np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
    return sums


def _nearest(unit: Features, known: Features, first: int | None) -> NDArray[np.int64]:
    """The known rows (m, f) nearest to rows (n, f). first: if not None, these are the known rows from there on."""
    alike = unit @ known.T
    if first is not None:
        alike[np.arange(len(alike)), np.arange(first, first + len(alike))] = -np.inf
    near = min(NEIGHBOURS, len(known) - (first is not None))
    return np.argpartition(-alike, max(0, near - 1), axis=1)[:, :near]


def _unit(vectors: Features) -> Features:
    scaled: Features = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.float32(1e-12))
    return scaled
