"""Changes a catalogue: rows go, come or get other fields; this makes the segments that follow from that.

Adding writes a new segment, removing writes a list of rows, changing does both; so the cost grows with the change. At
most SEGMENTS stay: the smallest neighbours are merged, and a segment that has lost over a fifth of its rows is written
again. Rows are copied with their stored codes, byte for byte.
"""

from __future__ import annotations

import mmap
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from simrec.arrays import to_npy
from simrec.catalogue.building import ADDED, New
from simrec.catalogue.fields import Kind, kinds, merged, revise
from simrec.catalogue.local import LocalCatalogue
from simrec.catalogue.segment import Row, Segment
from simrec.catalogue.writing import Kept, SegmentWriter
from simrec.contracts import Codes, Dtype, Entry, Metric, Value
from simrec.manifest import SegmentRecord
from simrec.store import Generation, Writer

if TYPE_CHECKING:
    from simrec.index import Index, Together

SEGMENT_ROWS = 1 << 17
"""Minimum rows per segment if new items make more than one segment."""

SEGMENTS = 8
"""Maximum number of segments: a look-up searches each of them."""

AT_ONCE = 4
"""Maximum number of segments that one change adds, to leave room for later ones."""

SPARSE = 5
"""A segment is written again if more than one in so many of its rows was removed."""

MEASURED = 1000
"""Maximum number of items whose distance to their nearest neighbour is measured."""

QUANTILES = 201
"""How many quantiles of these distances are kept."""

PICTURE_FIELDS = ("width", "height")
"""Fields that reading a picture gives: see `simrec.reading`."""

_NEW = -1
"""Stands for the new items among the numbers of segments."""


@dataclass(frozen=True)
class Coding:
    """How a catalogue keeps codes. sample: (k, dim), for ranges and medians if there are none yet."""

    dim: int
    metric: Metric
    dtype: Dtype
    sample: Codes


@dataclass(frozen=True)
class _Copy:
    """A row whose code and preview another entry gets. same: see `Revision.copy`."""

    row: int
    entry: Entry
    origin: int
    same: bool


class Revision:
    """Changes to a generation's catalogue, None for a new catalogue; `finish` writes them.

    numbers: columns of texts that become columns of numbers if every text is one.
    """

    def __init__(self, before: LocalCatalogue | None) -> None:
        self._segments: Sequence[Segment] = before.segments if before else ()
        self._generation: Generation | None = before.generation if before else None
        self._gone: dict[int, set[int]] = defaultdict(set)
        self._fields: dict[int, dict[int, Mapping[str, Value]]] = defaultdict(dict)
        self._copies: dict[int, list[_Copy]] = defaultdict(list)
        self._indexes: list[Callable[[], Index]] = []
        self.numbers: Set[str] = frozenset()

    def remove(self, segment: int, row: int) -> None:
        """Removes the item in that row."""
        self._gone[segment].add(row)

    def update(self, segment: int, row: int, fields: Mapping[str, Value]) -> None:
        """Sets these fields of the item in that row; its other fields stay."""
        self._fields[segment][row] = fields

    def copy(self, segment: int, row: int, entry: Entry, origin: int, *, same: bool = True) -> None:
        """Gives another entry, from the source with number `origin`, the code and the preview of that row.

        same: whether it is the same item. If so, it keeps fields that the entry lacks; if not, only the picture's own.
        """
        self._copies[segment].append(_Copy(row, entry, origin, same))

    @property
    def count(self) -> int:
        """Items that stay or are copied."""
        stay = sum(len(one) - len(self._gone_of(number)) for number, one in enumerate(self._segments))
        return stay + sum(map(len, self._copies.values()))

    def finish(
        self,
        writer: Writer,
        coding: Coding,
        roots: Sequence[str | None],
        new: Iterable[New] = (),
        coming: int = 0,
        new_kinds: Mapping[str, Kind] | None = None,
        progress: Callable[[int], None] = lambda done: None,
    ) -> tuple[SegmentRecord, ...]:
        """Stages new files and keeps the others; returns the segments' records for the manifest.

        roots: those of the catalogue's sources. new, coming, new_kinds: newly encoded items, how many, and the types of
        their fields. progress: called with the number of rows written. Raises StoreError if something can't be read or
        written.
        """
        like = self._segments[0].index if self._segments else None
        columns = self._kinds(new_kinds or {})
        kept = Kept(coding.dim, coding.metric, coding.dtype, coding.sample, columns, roots, like)
        copied = sum(map(len, self._copies.values()))
        size = max(SEGMENT_ROWS, -(-(coming + copied) // AT_ONCE))
        records: list[SegmentRecord] = []
        written = 0
        for group in self._groups(coming + copied, size):
            if group == [_NEW] or len(group) > 1 or self._sparse(group[0]):
                rows = self._written(group, new, size)
                one = None
                for segment_rows in rows:
                    with writer.explained():
                        one = one or SegmentWriter(writer, kept)
                        segment_rows(one)
                        written += ADDED
                        progress(min(written, coming + copied))
                        if group == [_NEW] and len(one) >= size:
                            records.append(self._ended(one, writer, kept))
                            one = None
                if one is not None:
                    records.append(self._ended(one, writer, kept))
            else:
                records.append(self._carried(group[0], writer, columns))
        return tuple(records)

    def distances(self) -> tuple[float, ...]:
        """Quantiles of the distances from a sample of items to their nearest neighbours; empty for fewer than two
        items.

        Call it after `finish`.
        """
        from simrec.index import Together

        indexes = [index for opened in self._indexes if (index := opened()).count]
        if sum(index.count for index in indexes) < 2:
            return ()
        return nearest_distances(Together(indexes), indexes)

    def _kinds(self, new: Mapping[str, Kind]) -> dict[str, Kind]:
        """The types that the columns of all segments need from now on."""
        columns: dict[str, Kind] = {}
        for one in self._segments:
            columns = merged(columns, one.kinds)
        columns = merged(columns, new)
        for changes in self._fields.values():
            columns = kinds(changes.values(), columns)
        for copies in self._copies.values():
            columns = kinds((copy.entry.fields for copy in copies), columns)
        for name in self.numbers:
            if columns.get(name) == "string" and (kind := self._number_kind(name, new)):
                columns[name] = kind
        return columns

    def _number_kind(self, name: str, new: Mapping[str, Kind]) -> Kind | None:
        """The type of a column whose texts are all numbers, as Python writes them; None if one is not."""
        types: dict[str, Kind] = {name: new[name]} if name in new else {}
        for segment, one in enumerate(self._segments):
            column = one.columns.values(name) if one.columns and name in one.kinds else [None] * len(one)
            gone, changes = self._gone_of(segment), self._fields[segment]
            values = [changes.get(row, {}).get(name, value) for row, value in enumerate(column) if row not in gone]
            for copy in self._copies[segment]:
                values.append(copy.entry.fields.get(name, column[copy.row] if copy.same else None))
            types = kinds(({name: _number(value)} for value in values), types)
        return None if types.get(name) == "string" else types.get(name)

    def _gone_of(self, number: int) -> set[int]:
        """The removed rows of a segment."""
        return self._gone[number] | set(self._segments[number].removed.tolist())

    def _sparse(self, number: int) -> bool:
        return len(self._gone_of(number)) * SPARSE > len(self._segments[number])

    def _groups(self, coming: int, size: int) -> list[list[int]]:
        """Groups of segments that are merged into one each, by number, in order; _NEW may become several segments."""
        groups, sizes = [], []
        for number, one in enumerate(self._segments):
            if left := len(one) - len(self._gone_of(number)):
                groups.append([number])
                sizes.append(left)
        if coming:
            groups.append([_NEW])
            sizes.append(coming)
        while len(groups) + (-(-coming // size) - 1 if groups[-1:] == [[_NEW]] else 0) > SEGMENTS:
            together = [first + second for first, second in zip(sizes, sizes[1:], strict=False)]
            least = together.index(min(together))
            groups[least : least + 2] = [groups[least] + groups[least + 1]]
            sizes[least : least + 2] = [together[least]]
        return groups

    def _written(
        self, group: Sequence[int], new: Iterable[New], size: int
    ) -> Iterator[Callable[[SegmentWriter], None]]:
        """Functions that add the rows of a group to a segment, some at a time; none crosses the end of a segment."""
        for number in group:
            if number != _NEW:
                yield from self._moved(number)
                continue
            for source, copies in self._copies.items():
                for start in range(0, len(copies), ADDED):
                    yield self._copying(self._segments[source], copies[start : start + ADDED])
            place = sum(map(len, self._copies.values()))
            for some in new:
                start = 0
                while start < len(some):
                    stop = min(len(some), start + size - place % size)
                    yield partial(SegmentWriter.add, new=some.some(start, stop))
                    place += stop - start
                    start = stop

    def _moved(self, number: int) -> Iterator[Callable[[SegmentWriter], None]]:
        one, gone, changes = self._segments[number], self._gone_of(number), self._fields[number]
        one.check_codes()  # a damaged file must not get a new digest
        for rows in one.batches(ADDED):
            there = [row for row in rows if row.number not in gone]
            fields = one.fields([row.number for row in there])
            entries = [
                _entry_of(row, {**held, **changes.get(row.number, {})})
                for row, held in zip(there, fields, strict=True)
            ]  # fmt: skip
            origins = [row.origin for row in there]
            if there:
                yield partial(SegmentWriter.copy, other=one, rows=there, entries=entries, origins=origins)

    def _copying(self, one: Segment, copies: Sequence[_Copy]) -> Callable[[SegmentWriter], None]:
        numbers = [copy.row for copy in copies]
        rows, fields = one.rows(numbers), one.fields(numbers)
        entries = []
        for copy, held in zip(copies, fields, strict=True):
            kept = held if copy.same else {name: value for name, value in held.items() if name in PICTURE_FIELDS}
            entries.append(replace(copy.entry, fields={**kept, **copy.entry.fields}))
        origins = [copy.origin for copy in copies]
        return partial(SegmentWriter.copy, other=one, rows=rows, entries=entries, origins=origins)

    def _ended(self, one: SegmentWriter, writer: Writer, kept: Kept) -> SegmentRecord:
        with writer.explained():
            record = one.finish()
        path = writer.path(f"{record.folder}/codes.faiss")
        self._indexes.append(partial(_index, path, record.rows, kept))
        return record

    def _carried(self, number: int, writer: Writer, columns: Mapping[str, Kind]) -> SegmentRecord:
        """Keeps a segment, with its removed rows and changed fields."""
        assert self._generation is not None
        one, changes = self._segments[number], self._fields[number]
        record, gone = one.record, sorted(self._gone_of(number))
        writer.keep(self._generation, record.folder)
        if len(gone) > len(one.removed):
            removed = f"{writer.new('removed')}.npy"
            writer.write(removed, to_npy(np.array(gone, np.int64)))
            record = replace(record, removed=removed)
        elif record.removed:
            writer.keep_file(self._generation, record.removed)
        if changes or one.kinds != columns:
            fields = f"{writer.new('fields')}.arrow"
            emptied = {row: dict.fromkeys(columns) for row in gone}  # they may hold texts in a column of numbers
            with writer.explained():
                revise(writer.path(fields), one.columns, len(one), {**changes, **emptied}, columns)
            record = replace(record, fields=fields)
        elif record.fields:
            writer.keep_file(self._generation, record.fields)
        self._indexes.append(lambda: one.index.without(np.array(gone, np.int64)))
        return record


def nearest_distances(together: Together, indexes: Sequence[Index]) -> tuple[float, ...]:
    """Quantiles of the distances from evenly drawn items to their nearest neighbours."""
    rows: list[NDArray[np.int64]] = []
    start = 0
    for index in indexes:
        rows.append(start + index.rows)
        start += len(index)
    there = np.concatenate(rows)
    chosen = there[:: -(-len(there) // MEASURED)]
    nearest_rows, distances = together.search_rows(chosen, 2)
    # The item itself comes first, unless there are exact copies of it.
    nearest = np.where(nearest_rows[:, 0] == chosen, distances[:, 1], distances[:, 0])
    quantiles = np.quantile(nearest.astype(np.float64), np.linspace(0, 1, QUANTILES))
    return tuple(float(value) for value in quantiles)


def _index(path: Path, rows: int, kept: Kept) -> Index:
    """Opens the index in a file that was just written."""
    from simrec.index import Index

    with path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        held = Path(f"/proc/self/fd/{file.fileno()}")  # FAISS can't open paths that aren't UTF-8
        return Index.opened(data, held if held.exists() else path, rows, kept.dim, kept.metric, kept.dtype)


def _number(value: Value) -> Value:
    """The number of 64 bits that Python writes as this text; any other value as it is."""
    if isinstance(value, str):
        for make in (int, float):
            with suppress(ValueError):
                number = make(value)
                if str(number) == value and -(2**63) <= number < 2**63:
                    return number
    return value


def _entry_of(row: Row, fields: Mapping[str, Value]) -> Entry:
    item = row.item
    return Entry(item.id, item.source, item.label, item.stamp, fields)
