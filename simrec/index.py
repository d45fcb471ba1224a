"""Exact nearest neighbours among codes: the only file that imports faiss."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from simrec.contracts import Codes, Metric
from simrec.errors import StoreError


class Index:
    """Codes (n, dim), searched exactly; rows are numbered as they were given."""

    def __init__(self, codes: Codes, metric: Metric) -> None:
        self.metric = metric
        self._faiss: Any = (
            faiss.IndexFlatIP(codes.shape[1]) if metric == "cosine" else faiss.IndexFlatL2(codes.shape[1])
        )
        self._faiss.add(_comparable(codes, metric))

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

    def search(self, codes: Codes, n: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The n nearest rows of each query code (m, dim): rows (m, k) and distances (m, k), nearest first.

        k is n or the number of items, if that is less. A distance is 1 - cosine, or Euclidean.
        """
        found, rows = self._faiss.search(_comparable(codes, self.metric), min(n, len(self)))
        # Rounding can take either a hair below zero.
        distances = np.maximum(1 - found if self.metric == "cosine" else found, 0)
        return rows, distances if self.metric == "cosine" else np.sqrt(distances)


def scores(distances: NDArray[np.float32], metric: Metric) -> NDArray[np.float32]:
    """Higher is better: the cosine, or 1 / (1 + distance)."""
    if metric == "cosine":
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


def _comparable(codes: Codes, metric: Metric) -> Codes:
    codes = np.array(codes, np.float32, order="C")
    if metric == "cosine":
        faiss.normalize_L2(codes)
    return codes
