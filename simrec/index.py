"""Nearest neighbours among codes: the only file that imports faiss."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from simrec.contracts import Codes, Dtype, Metric
from simrec.errors import StoreError

BITS = 64
"""Of a binary code, whatever dim is."""


class Index:
    """Codes (n, dim), kept as a dtype says and compared with every query; rows are numbered as they were given.

    float32 finds the exact neighbours. int8 keeps each number in one byte, its range taken from the codes (FAISS's
    8-bit scalar quantiser). binary keeps 64 bits: the signs of a random rotation, around the medians (Charikar 2002,
    doi:10.1145/509907.509965).
    """

    def __init__(self, codes: Codes, metric: Metric, dtype: Dtype = "float32") -> None:
        self.metric = metric
        self._faiss = _empty(codes.shape[1], metric, dtype)
        comparable = _comparable(codes, metric)
        if len(codes):  # of no codes there is nothing to take ranges or medians from
            self._faiss.train(comparable)
        self._faiss.add(comparable)

    @classmethod
    def from_bytes(cls, data: bytes, metric: Metric) -> Index:
        """The index that `to_bytes` gave. Raises StoreError for anything else."""
        self = cls.__new__(cls)
        self.metric = metric
        try:
            self._faiss = faiss.deserialize_index(np.frombuffer(data, np.uint8))
        except RuntimeError as error:
            raise StoreError(f"index.faiss: FAISS cannot load it ({error}): build the index anew") from error
        return self

    def to_bytes(self) -> bytes:
        """For a file of our own writing: faiss.write_index can report success on a full disk."""
        data: NDArray[np.uint8] = faiss.serialize_index(self._faiss)
        return data.tobytes()

    def __len__(self) -> int:
        return int(self._faiss.ntotal)

    @property
    def codes(self) -> Codes:
        """What is kept of the codes, (n, dim): of a length of 1 where the metric is cosine, rounded by the dtype."""
        if isinstance(self._faiss, faiss.IndexLSH):
            packed = faiss.vector_to_array(self._faiss.codes).reshape(len(self), -1)
            kept: Codes = self._faiss.sa_decode(packed)
        else:
            kept = self._faiss.reconstruct_n(0, len(self))
        return kept

    def search(self, codes: Codes, n: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The n nearest rows of each query code (m, dim): rows (m, k) and distances (m, k), nearest first.

        k is n or the number of items, if that is less. A distance is 1 - cosine, or Euclidean; of binary codes it is
        the share of the 64 bits that differ.
        """
        found, rows = self._faiss.search(_comparable(codes, self.metric), min(n, len(self)))
        if isinstance(self._faiss, faiss.IndexLSH):
            return rows, found / np.float32(BITS)
        # Rounding can take either a hair below zero.
        distances = np.maximum(1 - found if self.metric == "cosine" else found, 0)
        return rows, distances if self.metric == "cosine" else np.sqrt(distances)

    def scores(self, distances: NDArray[np.float32]) -> NDArray[np.float32]:
        """Higher is better: the cosine, 1 / (1 + distance), or the share of the 64 bits that agree."""
        if self.metric == "cosine" or isinstance(self._faiss, faiss.IndexLSH):
            return np.subtract(1, distances, dtype=np.float32)
        return np.divide(1, 1 + distances, dtype=np.float32)


def kmeans(codes: Codes, clusters: int, metric: Metric, seed: int = 0) -> NDArray[np.int64]:
    """The cluster (n,) of each code (n, dim): Lloyd's algorithm, the best of three starts."""
    points = _comparable(codes, metric)
    model: Any = faiss.Kmeans(
        points.shape[1], clusters, niter=25, nredo=3, seed=seed, spherical=metric == "cosine",
        min_points_per_centroid=1, max_points_per_centroid=len(points),
    )  # fmt: skip
    model.train(points)
    assigned: NDArray[np.int64] = model.index.search(points, 1)[1][:, 0]
    return assigned


def _empty(dim: int, metric: Metric, dtype: Dtype) -> Any:
    inner = metric == "cosine"
    if dtype == "binary":
        return faiss.IndexLSH(dim, BITS, True, True)
    if dtype == "int8":
        kind = faiss.METRIC_INNER_PRODUCT if inner else faiss.METRIC_L2
        return faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_8bit, kind)
    return faiss.IndexFlatIP(dim) if inner else faiss.IndexFlatL2(dim)


def _comparable(codes: Codes, metric: Metric) -> Codes:
    codes = np.array(codes, np.float32, order="C")
    if metric == "cosine":
        faiss.normalize_L2(codes)
    return codes
