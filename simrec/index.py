"""Nearest neighbours among codes: the only file that imports faiss."""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from simrec.contracts import Codes, Dtype, Metric
from simrec.errors import StoreError
from simrec.streams import CORES, queued, spread

# Read when FAISS is loaded. By default its waiting threads spin, and take the cores from threads that have work to do:
# beside other programs on two cores, 10,000 queries over 60,000 codes take 2.7 s with this setting and 6.1 s without.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import faiss  # noqa: E402

BITS = 64
"""Bits of a binary code, whatever dim is."""

FEWEST, MOST = 64, 1024
"""How many queries a core gets at a time: with fewer, each query costs more, as every code is read for so few; with
more, cores wait for the last one. FAISS would divide them between OpenMP's threads, which wait for each other all the
time, and long if other programs use their cores."""

LARGE = 1 << 25
"""A catalogue with at least this many bytes of codes has its segments searched in parallel, even for one query. Smaller
ones are read before another thread has woken up."""

PRODUCT = 4
"""For at least so many queries, cosines are computed as one product of matrices: for 64 queries over 60,000 codes of 64
numbers that takes a quarter of the time, for a single query three times as long. FAISS 1.15 would do so from 2,000 on.
Euclidean distances are rounded more that way, as they come from the difference of two large numbers, so for them
FAISS's own threshold stays."""

ROTATED = 1 << 14
"""How many codes are rotated at a time."""

SAMPLE = 1 << 18
"""Maximum number of codes that ranges and medians are computed from."""

GATHERED = 50
"""If a filter leaves at most one row in so many, their codes are copied and searched alone; otherwise FAISS skips the
other rows. Copying costs more per row, skipping costs something for every row: they are even at 2 to 5 % of the rows,
for 10 to 512 dimensions."""


PASSED, LONGEST = 5, 1000
"""If a filter leaves more than one row in PASSED, and the answer has at most LONGEST rows, all rows are searched for a
longer answer, and rows that don't match are left out of it: FAISS is slowest if it skips every second row, as no
processor can predict which. With a million codes, of which half match, that takes twice as long as searching all."""


_PRODUCT: int = faiss.cvar.distance_compute_blas_threshold


class Searchable(Protocol):
    """Codes (n, dim) that can be searched: one `Index`, or those of several segments as `Together`."""

    metric: Metric

    def __len__(self) -> int: ...

    @property
    def codes(self) -> Codes:
        """The codes as kept, (n, dim): scaled to length 1 if the metric is cosine, rounded by the dtype.

        float32 codes in a single file are mapped into memory, read-only.
        """
        ...

    def search(self, codes: Codes, n: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The n rows nearest to each query code (m, dim): rows (m, k) and distances (m, k), nearest first.

        k is n, or the number of rows that can be found if that is less. A distance is 1 - cosine, or Euclidean; for
        binary codes it is the share of the 64 bits that differ. Raises StoreError if codes in the index aren't numbers.
        """
        ...

    def scores(self, distances: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scores, higher is better: the cosine, 1 / (1 + distance), or the share of the 64 bits that agree."""
        ...


class Index:
    """Codes (n, dim), kept as one dtype; every query is compared with all of them. Rows are numbered as given.

    float32 finds the exact neighbours. int8 keeps each number in one byte, with ranges computed from the codes (FAISS's
    8-bit scalar quantiser). binary keeps 64 bits: the signs of a random rotation, around the medians (Charikar 2002,
    doi:10.1145/509907.509965). Ranges and medians come from the first codes, or from `trained`: distances can only be
    compared between codes that were kept with the same ones.
    """

    def __init__(self, codes: Codes, metric: Metric, dtype: Dtype = "float32", *, trained: Codes | None = None) -> None:
        self.metric, self.dtype = metric, dtype
        self._mapped: Codes | None = None
        self._removed: NDArray[np.int64] = np.empty(0, np.int64)
        self._faiss = _empty(codes.shape[1], metric, dtype)
        learned_from = codes if trained is None else trained
        if len(learned_from):  # without codes there are no ranges or medians
            step = -(-len(learned_from) // SAMPLE)
            self._faiss.train(_comparable(learned_from[::step], metric))
        self.add(codes)

    def add(self, codes: Codes) -> None:
        """Adds codes (n, dim)."""
        if not len(codes):
            return
        if self.dtype == "binary":
            self._faiss.add_sa_codes(self._bits(_comparable(codes, self.metric)))
        else:
            self._faiss.add(_comparable(codes, self.metric))

    def _bits(self, codes: Codes) -> NDArray[np.uint8]:
        """Codes (n, dim) as binary ones, (n, BITS / 8).

        A median is some code's own number. FAISS rotates with a product of matrices, whose last bit depends on the
        codes beside it, so that code would have either bit: a build that goes on would differ from one that wasn't
        interrupted.
        """
        rotation = faiss.vector_to_array(self._faiss.rrot.A).reshape(BITS, -1)
        medians = faiss.vector_to_array(self._faiss.thresholds)
        parts = np.split(codes, range(ROTATED, len(codes), ROTATED))
        bits = [np.einsum("ij,kj->ik", part, rotation) >= medians for part in parts]
        return np.packbits(np.concatenate(bits), axis=1, bitorder="little")

    def emptied(self) -> Index:
        """An empty index with the same ranges or medians."""
        empty = Index.__new__(Index)
        empty.metric, empty.dtype, empty._removed = self.metric, self.dtype, np.empty(0, np.int64)
        empty._mapped = None
        empty._faiss = _empty(self._faiss.d, self.metric, self.dtype)
        if self.dtype == "int8":
            faiss.copy_array_to_vector(faiss.vector_to_array(self._faiss.sq.trained), empty._faiss.sq.trained)
        if self.dtype == "binary":
            faiss.copy_array_to_vector(faiss.vector_to_array(self._faiss.thresholds), empty._faiss.thresholds)
            faiss.copy_array_to_vector(faiss.vector_to_array(self._faiss.rrot.A), empty._faiss.rrot.A)
        empty._faiss.is_trained = True
        return empty

    @property
    def count(self) -> int:
        """How many rows can be found."""
        return len(self) - len(self._removed)

    @property
    def rows(self) -> NDArray[np.int64]:
        """The rows that can be found, in order."""
        return np.delete(np.arange(len(self)), self._removed)

    def without(self, removed: NDArray[np.int64]) -> Index:
        """The same codes, without these rows (in order): they are never found."""
        other = Index.__new__(Index)
        other.metric, other.dtype, other._removed, other._faiss = self.metric, self.dtype, removed, self._faiss
        other._mapped = self._mapped
        return other

    def packed(self, rows: Sequence[int] | NDArray[np.int64]) -> NDArray[np.uint8]:
        """The codes of those rows as kept, byte for byte, (n, bytes of a code)."""
        packed: NDArray[np.uint8] = np.take(self._packed, np.asarray(rows, np.int64), axis=0)
        return packed

    def add_packed(self, codes: NDArray[np.uint8]) -> None:
        """Adds codes from `packed` of an index with the same ranges or medians."""
        if len(codes):
            self._faiss.add_sa_codes(np.ascontiguousarray(codes))

    @classmethod
    def opened(
        cls, data: mmap.mmap | bytes, path: Path, count: int, dim: int, metric: Metric, dtype: Dtype,
        removed: NDArray[np.int64] | None = None,
    ) -> Index:  # fmt: skip
        """Opens an index of codes (count, dim) from a file that `to_bytes` wrote, mapped into memory.

        data: the file's contents, which are checked before FAISS opens its path. removed: rows that are never found.
        Raises ValueError for any other file.
        """
        check_layout(data, count, dim, metric, dtype)
        self = cls.__new__(cls)
        self.metric, self.dtype = metric, dtype
        self._removed = np.empty(0, np.int64) if removed is None else removed
        try:
            self._faiss = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
        except RuntimeError as error:
            raise ValueError(f"FAISS cannot load it: {error}") from error
        size = 4 * count * dim if dtype == "float32" else 0
        self._mapped = np.frombuffer(data, "<f4", offset=len(data) - size).reshape(count, dim) if size else None
        return self

    def to_bytes(self) -> memoryview:
        """The index's bytes, for us to write: faiss.write_index can report success on a full disk.

        Raises StoreError if `opened` could not read them, because this FAISS writes another layout.
        """
        data = faiss.serialize_index(self._faiss).data
        try:
            check_layout(data, len(self), self._faiss.d, self.metric, self.dtype)
        except ValueError as error:
            raise StoreError(
                f"codes.faiss: FAISS {faiss.__version__} writes a layout that this simrec doesn't read ({error}): "
                f"'pip install faiss-cpu==1.15.1'"
            ) from error
        return data

    def __len__(self) -> int:
        return int(self._faiss.ntotal)

    @property
    def size(self) -> int:
        """Bytes of all its codes."""
        return len(self) * int(self._faiss.code_size)

    @property
    def codes(self) -> Codes:
        """See `Searchable`; includes rows that were removed."""
        return self.some_codes(0, len(self)) if self._mapped is None else self._mapped

    def some_codes(self, start: int, count: int) -> Codes:
        """The codes of those rows as kept, (count, dim)."""
        if isinstance(self._faiss, faiss.IndexLSH):
            kept: Codes = self._faiss.sa_decode(self._packed[start : start + count].copy())
        else:
            kept = self._faiss.reconstruct_n(start, count)
        return kept

    def search(
        self, codes: Codes, n: int, rows: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """See `Searchable`; rows: a mask (len(self),) of the rows that may be found, by default all.

        Removed rows are never found.
        """
        codes = _comparable(codes, self.metric)
        wanted = self._there if rows is None else rows if self._there is None else rows & self._there

        many = self.metric == "cosine" or codes.size > _PRODUCT
        product = PRODUCT * codes.shape[1] if many else _PRODUCT

        def nearest(some: Codes) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
            threads = faiss.omp_get_max_threads()
            faiss.omp_set_num_threads(1)  # in this thread, which may be the caller's and have other work for OpenMP
            faiss.cvar.distance_compute_blas_threshold = product  # counts the numbers of all queries
            try:
                return self._nearest(some, n) if wanted is None else self._nearest_among(wanted, some, n)
            finally:
                faiss.omp_set_num_threads(threads)

        nearness, numbers = _divided(nearest, codes)
        if (numbers < 0).any() or np.isnan(nearness).any():  # FAISS's answer if codes aren't numbers
            raise StoreError(
                "codes.faiss: its codes are not numbers: 'simrec index build NAME --from-scratch' makes it again"
            )
        if isinstance(self._faiss, faiss.IndexLSH):
            return numbers, nearness / np.float32(BITS)
        # Rounding can take either a hair below zero.
        distances = np.maximum(1 - nearness if self.metric == "cosine" else nearness, 0)
        return numbers, distances if self.metric == "cosine" else np.sqrt(distances)

    def _nearest(self, codes: Codes, n: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        if not len(self):
            return _none(len(codes))
        nearest: tuple[NDArray[np.float32], NDArray[np.int64]] = self._faiss.search(codes, min(n, len(self)))
        return nearest

    def _nearest_among(
        self, wanted: NDArray[np.bool_], codes: Codes, n: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """What FAISS finds among the rows in a mask."""
        count = int(np.count_nonzero(wanted))
        if count == 0:
            return _none(len(codes))
        if isinstance(self._faiss, faiss.IndexLSH):  # it takes no selector
            return self._nearest_bits(self._faiss.sa_encode(codes), np.flatnonzero(wanted), n)
        n = min(n, count)
        if count * PASSED > len(self) and n <= LONGEST:
            wide = self._nearest(codes, 2 * n * len(self) // count + 2 * n)
            if (kept := _first_of(*wide, wanted, n)) is not None:
                return kept
        if count * GATHERED > len(self):
            bitmap, parameters = cast(Any, faiss.IDSelectorBitmap), cast(Any, faiss.SearchParameters)
            selector = bitmap(np.packbits(wanted, bitorder="little"))  # it keeps the array
            nearness, numbers = self._faiss.search(codes, n, params=parameters(sel=selector))
            return nearness, numbers
        chosen = np.flatnonzero(wanted)
        few = self.emptied()
        few.add_packed(self.packed(chosen))
        nearness, places = few._faiss.search(codes, n)
        return nearness, np.where(places < 0, -1, chosen[places])

    def _nearest_bits(
        self, packed: NDArray[np.uint8], rows: NDArray[np.int64], n: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The rows, among some, whose binary codes differ in the fewest bits from packed queries (m, 8), and in how
        many.
        """
        bits, places = faiss.knn_hamming(packed, self.packed(rows), min(n, len(rows)))
        return bits.astype(np.float32), rows[places]

    @cached_property
    def _there(self) -> NDArray[np.bool_] | None:
        """The rows that weren't removed, None for all of them."""
        if not len(self._removed):
            return None
        there = np.ones(len(self), np.bool_)
        there[self._removed] = False
        return there

    @property
    def _packed(self) -> NDArray[np.uint8]:
        """The codes as FAISS keeps them, (n, bytes of a code)."""
        size = self._faiss.code_size
        packed: NDArray[np.uint8] = faiss.rev_swig_ptr(self._faiss.codes.data(), len(self) * size)
        return packed.reshape(len(self), size)

    def search_packed(self, packed: NDArray[np.uint8], n: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Like `search`, for queries that are kept codes: see `packed`."""
        if self.dtype != "binary":
            return self.search(self._faiss.sa_decode(packed), n)
        # Bits can't be turned back into a query that would get the same bits again.
        bits, rows = self._nearest_bits(packed, self.rows, n)
        return rows, bits / np.float32(BITS)

    def scores(self, distances: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `Searchable`."""
        if self.metric == "cosine" or self.dtype == "binary":
            return np.subtract(1, distances, dtype=np.float32)
        return np.divide(1, 1 + distances, dtype=np.float32)


class Together:
    """The indexes of segments (at least one) as a single index: their rows are numbered one after the other."""

    def __init__(self, indexes: Sequence[Index]) -> None:
        self.metric, self._indexes = indexes[0].metric, indexes
        self._starts = np.cumsum([0, *(len(index) for index in indexes)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def codes(self) -> Codes:
        """See `Searchable`."""
        codes = [index.codes for index in self._indexes]
        return codes[0] if len(codes) == 1 else np.concatenate(codes)

    def search(
        self, codes: Codes, n: int, rows: Sequence[NDArray[np.bool_]] | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """See `Searchable`; rows: for each segment a mask of the rows that may be found, by default all."""
        masks = [None] * len(self._indexes) if rows is None else rows

        def searched(number: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
            return self._indexes[number].search(codes, n, masks[number])

        numbers = range(len(self._indexes))
        # `Index.search` itself divides more than FEWEST queries.
        parallel = len(codes) <= FEWEST and sum(index.size for index in self._indexes) >= LARGE
        return self._nearest(spread(searched, numbers) if parallel else list(map(searched, numbers)), n)

    def search_rows(self, rows: NDArray[np.int64], n: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The n rows nearest to the codes in some rows, including those rows themselves: see `Searchable.search`."""
        segments = np.searchsorted(self._starts, rows, side="right") - 1
        packed = np.concatenate(
            [
                self._indexes[number].packed([row - self._starts[number]])
                for number, row in zip(segments, rows, strict=True)
            ]
        )
        return self._nearest([index.search_packed(packed, n) for index in self._indexes], n)

    def _nearest(
        self, answers: Sequence[tuple[NDArray[np.int64], NDArray[np.float32]]], n: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The n nearest of the rows that all indexes found."""
        if len(answers) == 1:
            return answers[0]
        rows = np.concatenate([rows + start for (rows, _), start in zip(answers, self._starts, strict=False)], axis=1)
        distances = np.concatenate([distances for _, distances in answers], axis=1)
        nearest = np.argsort(distances, axis=1, kind="stable")[:, :n]
        return np.take_along_axis(rows, nearest, axis=1), np.take_along_axis(distances, nearest, axis=1)

    def scores(self, distances: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `Searchable`."""
        return self._indexes[0].scores(distances)


class Chosen:
    """Some rows of the segments' indexes as one index; numbered from 0, in order."""

    def __init__(self, together: Together, rows: Sequence[NDArray[np.bool_]]) -> None:
        self.metric, self._together, self._rows = together.metric, together, rows
        self._numbers = np.cumsum(np.concatenate(rows)) - 1

    def __len__(self) -> int:
        return int(self._numbers[-1]) + 1

    @property
    def codes(self) -> Codes:
        """See `Searchable`."""
        return self._together.codes[np.concatenate(self._rows)]

    def search(self, codes: Codes, n: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """See `Searchable`."""
        rows, distances = self._together.search(codes, n, self._rows)
        return self._numbers[rows], distances

    def scores(self, distances: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `Searchable`."""
        return self._together.scores(distances)


def _first_of(
    nearness: NDArray[np.float32], numbers: NDArray[np.int64], wanted: NDArray[np.bool_], n: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]] | None:
    """The first n of each query's nearest rows that are in a mask; None if a query has fewer."""
    hits = wanted[numbers]
    if (np.count_nonzero(hits, axis=1) < n).any():
        return None
    places = np.argsort(~hits, axis=1, kind="stable")[:, :n]
    return np.take_along_axis(nearness, places, axis=1), np.take_along_axis(numbers, places, axis=1)


def _divided(
    nearest: Callable[[Codes], tuple[NDArray[np.float32], NDArray[np.int64]]], codes: Codes
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Finds what is nearest to codes, on all cores."""
    if len(codes) <= FEWEST:
        return nearest(codes)
    size = min(MOST, max(FEWEST, -(-len(codes) // CORES)))
    pieces = [codes[start : start + size] for start in range(0, len(codes), size)]
    nearness, numbers = zip(*queued(nearest, pieces), strict=True)
    return np.concatenate(nearness), np.concatenate(numbers)


def _none(queries: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    return np.empty((queries, 0), np.float32), np.empty((queries, 0), np.int64)


def check_layout(data: mmap.mmap | bytes | memoryview, count: int, dim: int, metric: Metric, dtype: Dtype) -> None:
    """Raises ValueError for anything but the bytes in which FAISS keeps codes (count, dim) of that dtype.

    FAISS itself opens whatever a file names, even other files, and allocates whatever sizes the file says. So each
    field of simrec's three index classes must have the only value, or the only length, that is possible.
    """
    place = 0
    for field in _layout(count, dim, metric, dtype):
        size = field if isinstance(field, int) else len(field)
        if isinstance(field, bytes) and data[place : place + size] != field:
            raise ValueError(f"not {count:,} codes of {dim} numbers as {dtype}: byte {place} begins another field")
        place += size
    if place != len(data):
        raise ValueError(f"{len(data):,} bytes where {count:,} codes of {dim} numbers as {dtype} take {place:,}")


def flat_header(count: int, dim: int, metric: Metric) -> bytes:
    """The beginning of an IndexFlat of codes (count, dim); their numbers follow, float32, code by code."""
    fields = list(_layout(count, dim, metric, "float32"))[:-1]
    unused = struct.pack("<qq", 1 << 20, 1 << 20)
    return b"".join(field if isinstance(field, bytes) else unused for field in fields)


def learned(data: mmap.mmap | bytes | memoryview, dim: int, metric: Metric, dtype: Dtype) -> bytes:
    """The ranges or medians in a file with a checked layout: segments can be compared only if theirs are equal."""
    parts, place = [], 0
    *fields, _ = _layout(0, dim, metric, dtype)
    for field in fields:
        size = field if isinstance(field, int) else len(field)
        if isinstance(field, int) and field != 16:  # those 16 bytes mean nothing
            parts.append(bytes(data[place : place + size]))
        place += size
    return b"".join(parts)


def _layout(count: int, dim: int, metric: Metric, dtype: Dtype) -> Iterable[bytes | int]:
    """The fields of such a file: for each field its bytes, or their number."""
    inner = metric == "cosine"
    kind = {"float32": b"IxFI" if inner else b"IxF2", "int8": b"IxSQ", "binary": b"IxHe"}[dtype]
    # Two unused numbers, whether it is trained, and the metric: IndexLSH has only one.
    common = struct.pack(
        "<iq8x8x?i", dim, count, True, faiss.METRIC_INNER_PRODUCT if inner and dtype != "binary" else 1
    )
    width = {"float32": dim, "int8": dim, "binary": BITS // 8}[dtype]
    fields: list[bytes | int] = [kind, common[:12], 16, common[28:]]
    if dtype == "int8":
        fields += [struct.pack("<iifQQQ", faiss.ScalarQuantizer.QT_8bit, 0, 0, dim, dim, 2 * dim), 8 * dim]
    if dtype == "binary":
        fields += [struct.pack("<i??Q", BITS, True, True, BITS), 4 * BITS, struct.pack("<i", BITS // 8), b"rrot"]
        fields += [struct.pack("<?Q", False, BITS * dim), 4 * BITS * dim, struct.pack("<Q", 0)]
        fields += [struct.pack("<ii?", dim, BITS, True)]
    return [*fields, struct.pack("<Q", count * width), count * width * (4 if dtype == "float32" else 1)]


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
