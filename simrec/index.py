"""Nearest neighbours among codes: the only file that imports faiss."""

from __future__ import annotations

import struct
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
        self.metric, self._dtype = metric, dtype
        self._faiss = _empty(codes.shape[1], metric, dtype)
        comparable = _comparable(codes, metric)
        if len(codes):  # of no codes there is nothing to take ranges or medians from
            self._faiss.train(comparable)
        self._faiss.add(comparable)

    @classmethod
    def from_bytes(cls, data: bytes, count: int, dim: int, metric: Metric, dtype: Dtype) -> Index:
        """The index of codes (count, dim) that `to_bytes` gave. Raises ValueError for anything else."""
        _check_layout(data, count, dim, metric, dtype)
        self = cls.__new__(cls)
        self.metric, self._dtype = metric, dtype
        try:
            self._faiss = faiss.deserialize_index(np.frombuffer(data, np.uint8))
        except RuntimeError as error:
            raise ValueError(f"FAISS cannot load it: {error}") from error
        return self

    def to_bytes(self) -> bytes:
        """For a file of our own writing: faiss.write_index can report success on a full disk.

        Raises StoreError for what `from_bytes` would not read, as a FAISS that writes in another layout gives.
        """
        data = faiss.serialize_index(self._faiss).tobytes()
        try:
            _check_layout(data, len(self), self._faiss.d, self.metric, self._dtype)
        except ValueError as error:
            raise StoreError(
                f"index.faiss: FAISS {faiss.__version__} writes a layout that this simrec doesn't read ({error}): "
                f"'pip install faiss-cpu==1.15.1'"
            ) from error
        return bytes(data)

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
        the share of the 64 bits that differ. Raises StoreError for an index of codes that are not numbers.
        """
        found, rows = self._faiss.search(_comparable(codes, self.metric), min(n, len(self)))
        if (rows < 0).any() or np.isnan(found).any():  # what FAISS says of codes that are not numbers
            raise StoreError("index.faiss: it holds codes that are not numbers: 'simrec index build' makes it again")
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


def _check_layout(data: bytes, count: int, dim: int, metric: Metric, dtype: Dtype) -> None:
    """Raises ValueError for anything but the bytes in which FAISS keeps codes (count, dim) as the dtype says.

    FAISS itself opens whatever a file names, other files among it, and takes memory for whatever sizes it says. So each
    field that simrec's three classes have is held to the one value, or the one length, that it can have.
    """
    inner = metric == "cosine"
    kind = {"float32": b"IxFI" if inner else b"IxF2", "int8": b"IxSQ", "binary": b"IxHe"}[dtype]
    # Two numbers that mean nothing, whether it is trained, and the metric, for which IndexLSH has but one.
    common = struct.pack(
        "<iq8x8x?i", dim, count, True, faiss.METRIC_INNER_PRODUCT if inner and dtype != "binary" else 1
    )
    width = {"float32": dim, "int8": dim, "binary": BITS // 8}[dtype]
    fields: list[bytes | int] = [kind, common[:12], 16, common[28:]]  # of each the bytes it has, or how many
    if dtype == "int8":
        fields += [struct.pack("<iifQQQ", faiss.ScalarQuantizer.QT_8bit, 0, 0, dim, dim, 2 * dim), 8 * dim]
    if dtype == "binary":
        fields += [struct.pack("<i??Q", BITS, True, True, BITS), 4 * BITS, struct.pack("<i", BITS // 8), b"rrot"]
        fields += [struct.pack("<?Q", False, BITS * dim), 4 * BITS * dim, struct.pack("<Q", 0)]
        fields += [struct.pack("<ii?", dim, BITS, True)]
    fields += [struct.pack("<Q", count * width), count * width * (4 if dtype == "float32" else 1)]
    place = 0
    for field in fields:
        size = field if isinstance(field, int) else len(field)
        if isinstance(field, bytes) and data[place : place + size] != field:
            raise ValueError(f"not {count:,} codes of {dim} numbers as {dtype}: byte {place} begins another field")
        place += size
    if place != len(data):
        raise ValueError(f"{len(data):,} bytes where {count:,} codes of {dim} numbers as {dtype} take {place:,}")


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
