"""Learns a linear code that agrees between changed copies of a picture and between neighbours, in numpy.

A picture and its copy, or a copy of a neighbour, should have similar codes, while each number of a code varies and no
two vary together (VICReg: Bardes, Ponce, LeCun 2022, arXiv:2105.04906).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simrec.contracts import Images
from simrec_onnx.axes import Axes, Features, nearest

HIDDEN = 512
"""Units of the two layers between a code and the loss; they aren't needed after training."""

EPOCHS, BATCH, RATE = 60, 256, 1e-3

BESIDE = 0.5
"""How often the other picture of a pair is a neighbour."""

SMALLEST, LIGHT = 0.7, 0.2
"""How far a copy may differ: the smallest share of a picture's edges that it shows, and how far its light changes."""

Copied = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Some views of pictures: the number of a copy (0 is the picture itself), and the picture's row; (n,) each."""


def changed(images: Images, first: int, seed: int, number: int) -> Images:
    """A copy of each of images (n, h, w, c): a part of the picture, enlarged, in another light, mirrored or not.

    White margins stay. The seed, the copy's number and the picture's row decide how it differs. first: the row of the
    first image. Number 0 gives the images themselves.
    """
    if number == 0:
        return images
    copies = images.copy()
    for row, copy in enumerate(copies, first):
        rng = np.random.default_rng([seed, number, row])
        down, across = (_inside(copy, axis) for axis in (0, 1))
        copy[down, across] = _part(copy[down, across], rng)
    return copies


def steps(count: int) -> int:
    """How many steps `agreeing` takes with `count` pictures."""
    return EPOCHS * (count // min(BATCH, count))


def agreeing(
    start: Axes,
    seen: Sequence[Features],
    *,
    seed: int = 0,
    beside: float = BESIDE,
    step: Callable[[], None] = lambda: None,
    stop: Callable[[], bool] = lambda: False,
) -> Axes:
    """Learns axes, starting from others, for codes with as many numbers.

    seen: features (n, f) of at least two pictures, then those of a copy of each, and so on. beside: see BESIDE. step:
    called after each step. stop: called after each epoch; True ends it.
    """
    known = np.stack([start.centred(features) for features in seen])
    near = nearest(known[0])
    size = np.square(known[0]).mean() ** -0.5
    scale = np.square(start.codes(seen[0])).mean() ** -0.5
    known *= size
    rng = np.random.default_rng(seed)
    head = start.matrix * (scale / size)
    weights = [head, _drawn(rng, head.shape[1], HIDDEN), _drawn(rng, HIDDEN, HIDDEN)]
    count, batch = len(near), min(BATCH, len(near))
    descent = _Adam(weights, steps(count))
    for _ in range(EPOCHS):
        order = rng.permutation(count)
        for at in range(0, count - batch + 1, batch):
            one, other = pairs(order[at : at + batch], near, len(known), beside, rng)
            descent.step(_slopes(weights, known[one], known[other]))
            step()
        if stop():
            break
    return Axes(start.mean, head * (size / scale), (known[0].mean(axis=0) @ head) / scale, start.unit)


def pairs(
    rows: NDArray[np.int64], near: NDArray[np.int64], copies: int, beside: float, rng: np.random.Generator
) -> tuple[Copied, Copied]:
    """For some rows, the pairs that should agree: a copy of each picture, and another copy of it or of a neighbour.

    near (n, k): the neighbours' rows. copies: how many there are, including the picture itself. beside: see BESIDE.
    """
    one = rng.integers(copies, size=len(rows))
    other = (one + rng.integers(1, max(2, copies), len(rows))) % copies
    neighbours = near[rows, rng.integers(near.shape[1], size=len(rows))]
    return (one, rows), (other, np.where(rng.random(len(rows)) < beside, neighbours, rows))


def vicreg(one: Features, other: Features) -> tuple[float, list[Features]]:
    """The loss of pairs of vectors (n, d), with the paper's weights, and its gradient for each of the two."""
    count, width = one.shape
    apart = one - other
    loss = 25 * np.square(apart).mean()
    slopes = [50 / apart.size * apart, -50 / apart.size * apart]
    for vectors, slope in zip((one, other), slopes, strict=True):
        centred = vectors - vectors.mean(axis=0)
        covariance = centred.T @ centred / (count - 1)
        spread = np.sqrt(covariance.diagonal() + 1e-4)
        loss += 12.5 * np.maximum(1 - spread, 0).mean()
        np.fill_diagonal(covariance, 0)
        loss += np.square(covariance).sum() / width
        covariance *= 4
        np.fill_diagonal(covariance, -12.5 * (spread < 1) / spread)
        slope += centred @ covariance / (width * (count - 1))
    return float(loss), slopes


def _slopes(weights: Sequence[Features], one: Features, other: Features) -> list[Features]:
    """The gradients of the loss of pairs of features (n, f) for a head's weights (f, dim) and those of two layers.

    The layers have no biases, because the loss doesn't depend on them: batch normalisation removes the first one's.
    """
    head, inner, outer = weights
    passes = []
    for features in (one, other):
        codes = features @ head
        inside = codes @ inner
        spread = np.sqrt(inside.var(axis=0) + 1e-5)
        passes.append((features, codes, (inside - inside.mean(axis=0)) / spread, spread))
    _, slopes = vicreg(*(np.maximum(normal, 0) @ outer for _, _, normal, _ in passes))
    gradients = [np.zeros_like(array) for array in weights]
    for (features, codes, normal, spread), slope in zip(passes, slopes, strict=True):
        gradients[2] += np.maximum(normal, 0).T @ slope
        back = (slope @ outer.T) * (normal > 0)
        back = (back - back.mean(axis=0) - normal * (back * normal).mean(axis=0)) / spread
        gradients[1] += codes.T @ back
        gradients[0] += features.T @ (back @ inner.T)
    return gradients


class _Adam:
    """Adam (Kingma, Ba 2015, arXiv:1412.6980), changing weights in place; the rate falls from RATE to 0 as a cosine."""

    def __init__(self, weights: Sequence[Features], steps: int) -> None:
        self.weights, self.steps, self.done = weights, steps, 0
        self.means = [np.zeros_like(array) for array in weights]
        self.squares = [np.zeros_like(array) for array in weights]

    def step(self, slopes: Sequence[Features]) -> None:
        rate = RATE * (1 + math.cos(math.pi * self.done / self.steps)) / 2
        self.done += 1
        for array, slope, mean, square in zip(self.weights, slopes, self.means, self.squares, strict=True):
            mean += 0.1 * (slope - mean)
            square += 0.001 * (np.square(slope) - square)
            size = np.sqrt(square / (1 - 0.999**self.done)) + 1e-8
            array -= (rate / (1 - 0.9**self.done)) * mean / size


def _drawn(rng: np.random.Generator, inputs: int, outputs: int) -> Features:
    return rng.uniform(-1, 1, (inputs, outputs)).astype(np.float32) * np.float32(inputs**-0.5)


def _inside(image: NDArray[np.uint8], axis: int) -> slice:
    """Where the picture is inside its white margins, which are equally wide."""
    inside = np.flatnonzero((image < 255).any(axis=(1 - axis, 2)))
    margin = min(inside[0], len(image) - 1 - inside[-1]) if len(inside) else 0
    return slice(margin, image.shape[axis] - margin)


def _part(picture: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[Any]:
    """A part of a picture (h, w, c), as large as the whole, in another light, mirrored or not."""
    from PIL import Image

    height, width, channels = picture.shape
    share, across, down, mirrored = rng.uniform(SMALLEST, 1), *rng.random(3)
    left, top = (1 - share) * across * width, (1 - share) * down * height
    box = (left, top, min(width, left + share * width), min(height, top + share * height))
    light = rng.uniform(1 - LIGHT, 1 + LIGHT, channels)
    scaled = [
        np.asarray(Image.fromarray(picture[:, :, channel]).resize((width, height), Image.Resampling.BICUBIC, box))
        for channel in range(channels)
    ]
    part = np.clip(np.rint(np.stack(scaled, axis=2) * light), 0, 255)
    return part[:, ::-1] if mirrored < 0.5 else part
