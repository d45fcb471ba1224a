"""Measures how well codes find items of the same class: arrays in, numbers out. Labels are used nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from simrec import host
from simrec.contracts import Codes, EncoderSpec, Images, Metric, Rebuilt
from simrec.faults import collapsed
from simrec.index import Index, Searchable, kmeans
from simrec.sources.fashion_mnist import LABELS

DEPTH = 100
"""How many neighbours are looked at: MAP@100 needs that many."""


@dataclass(frozen=True)
class Exam:
    """A test of a catalogue: the classes of its queries, query_labels (m,), and of its items, labels (n,).

    Classes are numbers, -1 for none: a query without a class is not scored, an item without one is never a hit.
    classes: their names. leave_one_out: the queries are the catalogue's own items, row by row, and each is left out of
    its own answer.
    """

    query_labels: NDArray[np.int64]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    leave_one_out: bool

    @classmethod
    def of_labels(cls, query_labels: Sequence[str], labels: Sequence[str], *, leave_one_out: bool) -> Self:
        """Takes the labels of the queries and of the items, "" for none."""
        known = {label: i for i, label in enumerate(LABELS)}  # these keep their order, others are sorted
        classes = sorted({*query_labels, *labels} - {""}, key=lambda label: (known.get(label, len(known)), label))
        numbers = {label: number for number, label in enumerate(classes)}
        queries, items = (np.array([numbers.get(label, -1) for label in some]) for some in (query_labels, labels))
        return cls(queries, items, tuple(classes), leave_one_out)

    def neighbour_labels(self, index: Searchable, queries: Codes) -> NDArray[np.int64]:
        """The classes of the items that an index finds for queries (m, dim): (m, k), nearest first.

        If all its codes are the same, items are drawn at random: they would come in the catalogue's order, which often
        follows the classes.
        """
        if collapsed(index.codes):
            drawn: NDArray[np.int64] = np.random.default_rng(0).choice(self.labels, (len(queries), DEPTH))
            return drawn
        return self.labels[neighbours(index, queries, DEPTH, leave_one_out=self.leave_one_out)]

    def figures(self, index: Searchable, queries: Codes) -> dict[str, Any]:
        """`ranking_figures` of queries (m, dim), P@10 by class, and the most confused pairs.

        "classes" holds the classes of the queries. "confused" holds at most ten pairs: a "query" class, an "answer"
        class, and the "share" of the first ten answers to the one that are of the other.
        """
        labels = self.neighbour_labels(index, queries)
        shares = confusion(labels, self.query_labels, len(self.classes))
        numbered = list(enumerate(self.classes))
        pairs: list[dict[str, Any]] = [
            {"query": query, "answer": answer, "share": float(shares[i, j])}
            for i, query in numbered
            for j, answer in numbered
            if i != j and shares[i, j] > 0
        ]
        return {
            **ranking_figures(labels, self.query_labels),
            "classes": {label: float(shares[i, i]) for i, label in numbered if (self.query_labels == i).any()},
            "confused": sorted(pairs, key=lambda pair: pair["share"], reverse=True)[:10],
        }

    def clustering(self, index: Searchable) -> float:
        """How well clusters of the index's codes agree with the classes; see `clustering`."""
        return clustering(index.codes, self.labels, index.metric)


def neighbours(index: Searchable, queries: Codes, n: int, *, leave_one_out: bool) -> NDArray[np.int64]:
    """Rows (m, k) of the k <= n nearest items; with leave_one_out query i is not among its own."""
    if not leave_one_out:
        return index.search(queries, n)[0]
    rows, _ = index.search(queries, n + 1)
    own = rows == np.arange(len(rows))[:, np.newaxis]
    # With many equal pictures a query can be missing from its own neighbours; then drop the last one.
    own[~own.any(axis=1), -1] = True
    others: NDArray[np.int64] = rows[~own].reshape(len(rows), -1)
    return others


def ranking_figures(neighbour_labels: NDArray[np.int64], query_labels: NDArray[np.int64]) -> dict[str, float]:
    """Figures from the labels of the neighbours (m, k), nearest first, and of the queries (m,); skips label -1.

    P@k is the mean share of hits in the first k. MAP@100 averages the precision at each hit's rank over a query's hits
    in the first 100 (0 for a query without a hit), then over queries. 10-NN predicts the most frequent label of the
    first 10, the lowest of several.
    """
    neighbour_labels, query_labels = neighbour_labels[query_labels >= 0], query_labels[query_labels >= 0]
    hits = neighbour_labels == query_labels[:, np.newaxis]
    ranks = np.arange(1, hits.shape[1] + 1)
    precision = hits.cumsum(axis=1) / ranks
    average = (precision * hits).sum(axis=1) / np.maximum(hits.sum(axis=1), 1)
    largest = int(max(neighbour_labels.max(), query_labels.max()))
    votes = np.zeros((len(neighbour_labels), largest + 2), np.int64)  # the last column is label -1's
    for column in neighbour_labels[:, :10].T:
        np.add.at(votes, (np.arange(len(neighbour_labels)), column), 1)
    return {
        **{f"P@{k}": float(precision[:, min(k, hits.shape[1]) - 1].mean()) for k in (1, 10, 100)},
        "MAP@100": float(average.mean()),
        "10-NN": float((votes.argmax(axis=1) == query_labels).mean()),
    }


def confusion(
    neighbour_labels: NDArray[np.int64], query_labels: NDArray[np.int64], classes: int
) -> NDArray[np.float64]:
    """The share of each class among the first ten answers to each class: (classes, classes).

    Takes the labels of the neighbours (m, k), nearest first, and of the queries (m,). The diagonal is P@10 by class. An
    answer without a label counts for no class; the row of a class without queries is NaN.
    """
    counts = np.zeros((classes + 1, classes + 1))  # the last ones are label -1's
    first = neighbour_labels[:, :10]
    np.add.at(counts, (query_labels[:, np.newaxis], first), 1)
    with np.errstate(invalid="ignore"):
        shares: NDArray[np.float64] = (counts / counts.sum(axis=1, keepdims=True))[:-1, :-1]
    return shares


def clustering(codes: Codes, labels: NDArray[np.int64], metric: Metric) -> float:
    """Normalised mutual information (arithmetic mean) of the labels and k-means, with as many clusters as classes."""
    codes, labels = codes[labels >= 0], labels[labels >= 0]
    clusters = kmeans(codes, len(np.unique(labels)), metric)
    table = np.zeros((clusters.max() + 1, labels.max() + 1))
    np.add.at(table, (clusters, labels), 1)
    joint = table / table.sum()
    rows, columns = joint.sum(axis=1), joint.sum(axis=0)
    some = joint > 0
    mutual = float((joint[some] * np.log(joint[some] / np.outer(rows, columns)[some])).sum())
    mean = (_entropy(rows) + _entropy(columns)) / 2
    return mutual / mean if mean else 1.0


def pixels(images: Images) -> Codes:
    """Raw pixels as codes: images (n, h, w, c) to (n, h * w * c), 0..1."""
    codes: Codes = images.reshape(len(images), -1).astype(np.float32) / np.float32(255)
    return codes


def principal_components(images: Images, dim: int) -> tuple[Any, Metric]:
    """The baseline with `dim` numbers: the encoder `pca`, fitted to images, and its metric.

    Raises PluginError if its plugin is missing, switched off or broken, TrainingError for images that have no principal
    components.
    """
    offer = host.discover().find(EncoderSpec, "pca")
    kind = host.encoder_class(offer)
    _, size, _, channels = images.shape
    pca = kind(kind.Settings(size=size, channels=channels, dim=dim))
    pca.fit(images, validation=images[:0])
    return pca, offer.spec.metric


def squared_errors(rebuilt: NDArray[np.float32], images: Images) -> NDArray[np.float64]:
    """Mean squared error of each picture's pixels (n,), pixels in 0..1; rebuilt has as many numbers as images."""
    difference = rebuilt.reshape(len(images), -1) - pixels(images)
    errors: NDArray[np.float64] = np.mean(difference**2, axis=1, dtype=np.float64)
    return errors


def signal_to_noise(squared_error: Any) -> Any:
    """PSNR in decibels of one or several mean squared errors; pixels are in 0..1, so the peak is 1."""
    with np.errstate(divide="ignore"):
        return -10 * np.log10(squared_error)


def filtered(images: Images) -> dict[str, Rebuilt]:
    """Noisy images (n, h, w, c), cleaned by filters that don't learn: pictures in 0..1 by the filter's name.

    These are the median of 3x3 pixels, and non-local means (Buades, Coll, Morel 2005, doi:10.5201/ipol.2011.bcm_nlm)
    with patches of 5x5 within 7 pixels and h 0.2, which was best on noisy train pictures.
    """
    from scipy.ndimage import median_filter
    from skimage import restoration

    noisy = pixels(images).reshape(images.shape)
    means: Any = restoration.denoise_nl_means
    return {
        "median 3x3": median_filter(noisy, size=(1, 3, 3, 1)),
        "non-local means": np.stack([means(image, 5, 7, 0.2, channel_axis=-1) for image in noisy]).astype(np.float32),
    }


def precision_and_recall(samples: Codes, real: Codes, k: int = 3) -> tuple[float, float]:
    """The share of samples (m, d) that look real, and of real ones (n, d) that look like a sample, by their features.

    A set's manifold is everything as close to one of its points as that point's k-th neighbour (Kynkäänniemi et al.
    2019, arXiv:1904.06991).
    """

    def inside(points: Codes, manifold: Codes) -> float:
        radii = Index(manifold, "l2").search(manifold, k + 1)[1][:, -1]  # the first is the point itself
        squares = (manifold**2).sum(axis=1)
        count = 0
        for start in range(0, len(points), 1000):
            some = points[start : start + 1000]
            distances = (some**2).sum(axis=1, keepdims=True) - 2 * some @ manifold.T + squares
            count += int((distances <= radii**2).any(axis=1).sum())
        return count / len(points)

    return inside(samples, real), inside(real, samples)


def negative_elbo(encoder: Any, images: Images, seed: int = 0) -> float:
    """-ELBO of images (n, h, w, c) in nats per picture: Bernoulli pixels, one sample per picture (arXiv:1312.6114).

    encoder: one whose codes are means, with `log_variances`.
    """
    means, log_variances = encoder.encode(images), encoder.log_variances(images)
    drawn = np.random.default_rng(seed).standard_normal(means.shape).astype(np.float32)
    rebuilt = encoder.decode(means + drawn * np.exp(log_variances / 2)).reshape(len(images), -1)
    rebuilt = np.clip(rebuilt, 1e-7, 1 - 1e-7)  # a float32 sigmoid can reach 0 and 1
    x = pixels(images)
    missed = -(x * np.log(rebuilt) + (1 - x) * np.log1p(-rebuilt)).sum(axis=1)
    divergence = (means**2 + np.exp(log_variances) - 1 - log_variances).sum(axis=1) / 2
    return float((missed + divergence).mean(dtype=np.float64))


def structural_similarities(rebuilt: Rebuilt, images: Images) -> NDArray[np.float64]:
    """SSIM of each picture (n,), 1 for identical ones (Wang et al. 2004, doi:10.1109/TIP.2003.819861).

    rebuilt (n, h, w, c) in 0..1, images (n, h, w, c). Windows of 7x7 pixels with equal weights.
    """
    from skimage import metrics

    ssim: Any = metrics.structural_similarity
    originals = pixels(images).reshape(images.shape)
    pairs = zip(rebuilt, originals, strict=True)
    return np.array([ssim(a, b, data_range=1.0, channel_axis=-1) for a, b in pairs], np.float64)


def _entropy(shares: NDArray[np.float64]) -> float:
    some = shares[shares > 0]
    return float(-(some * np.log(some)).sum())
