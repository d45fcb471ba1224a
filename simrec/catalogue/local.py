"""A catalogue in local files: segments, searched together, minus the removed rows.

An item's row is its place in the catalogue of one generation: the rows of the first segment, then those of the next.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from simrec.catalogue import segment, tables
from simrec.catalogue.known import Known, Nearest
from simrec.catalogue.segment import Row, Segment
from simrec.catalogue.tables import Columns
from simrec.contracts import Codes, Hit, Item, Value
from simrec.errors import RequestError, StoreError
from simrec.store import Generation

if TYPE_CHECKING:
    from PIL.Image import Image

    from simrec.catalogue.fields import Kind
    from simrec.catalogue.where import Where
    from simrec.index import Searchable, Together


READ = 1 << 16
"""About how many items stay in memory after they were read."""


class LocalCatalogue:
    """The catalogue of one generation; any number of threads may use it.

    Every method raises StoreError if the files that it needs are damaged.
    """

    def __init__(self, generation: Generation) -> None:
        record = generation.manifest.catalogue
        assert record is not None
        self.generation, self.record, self.name = generation, record, generation.recommender.name
        self.segments: Sequence[Segment] = segment.opened(generation)
        self._read: dict[int, Item] = {}
        self._starts = [0]
        for one in self.segments:
            self._starts.append(self._starts[-1] + len(one))

    def hold(self) -> None:
        """Opens everything now that couldn't be opened after another generation has replaced this one."""
        for one in self.segments:
            one.hold()

    def __len__(self) -> int:
        return self.record.count

    @cached_property
    def index(self) -> Together:
        """The codes of all segments, ready to be searched by row."""
        from simrec.index import Index, Together

        if not self.segments:
            empty = np.empty((0, self.generation.manifest.encoder.dim), np.float32)
            return Together([Index(empty, self.generation.manifest.encoder.metric)])
        first, *others = self.segments
        for other in others:
            if self.record.dtype != "float32" and other.learned != first.learned:
                raise StoreError(
                    f"{self.generation.recommender}: two of its segments keep codes in different ways, so they can't "
                    f"be compared: run 'simrec index build {self.generation.recommender.name} --from-scratch'"
                )
        return Together([one.index for one in self.segments])

    @cached_property
    def kinds(self) -> dict[str, Kind | None]:
        """The columns that a filter can use, with their types; None for a column in which no item has a value.

        `id` and `label` are among them; they hide fields with these names.
        """
        from simrec.catalogue.fields import merged

        names: dict[str, None] = {}
        kinds: dict[str, Kind] = {}
        for one in self.segments:
            names |= dict.fromkeys(one.kinds)
            empty = one.columns.empty if one.columns else ()
            kinds = merged(kinds, {name: kind for name, kind in one.kinds.items() if name not in empty})
        return {**names, **kinds, "id": "string", "label": "string"}

    @property
    def fields(self) -> dict[str, type[int] | type[float] | type[str]]:
        """The items' fields: names and types."""
        types: dict[Kind, type[int] | type[float] | type[str]] = {"int64": int, "double": float, "string": str}
        names = dict.fromkeys(name for one in self.segments for name in one.kinds)
        return {name: types[self.kinds[name] or "int64"] for name in names}

    def where(self, text: str) -> Where:
        """The filter that a person typed: see `simrec.catalogue.where`. Raises RequestError if it isn't a filter."""
        from simrec.catalogue import where

        return where.parsed(text, self.kinds)

    def masks(self, text: str) -> list[NDArray[np.bool_]]:
        """The rows of each segment that match a filter; they may include removed rows."""
        filter_ = self.where(text)
        return [filter_.mask(partial(self._column, one), len(one)) for one in self.segments]

    def _column(self, one: Segment, name: str) -> Any:
        """A segment's column in the catalogue's type: empty if the segment lacks it, texts if other segments have
        texts.
        """
        import pyarrow as pa

        column = one.column(name)
        if column is None:
            return pa.nulls(len(one))
        if self.kinds[name] == "string" and column.type in (pa.int64(), pa.float64()):
            return pa.array([None if value is None else str(value) for value in column.to_pylist()], pa.string())
        return column

    def search(
        self, codes: Codes, n: int, *, without: Collection[str] = (), where: str | None = None
    ) -> list[list[Hit]]:
        """The n nearest items of each code (m, dim), nearest first.

        without: ids that are left out of every answer. where: finds only items that match this filter, n of them if
        that many exist.
        """
        nearest = self.nearest(codes, n + len(without), where=where)
        scores = self.scores(nearest.distances).tolist()
        answers = zip(nearest.rows.tolist(), nearest.distances.tolist(), scores, strict=True)
        items = nearest.items()
        return [
            [
                Hit(item, distance, score)
                for row, distance, score in zip(*answer, strict=True)
                if (item := items[row]).id not in without
            ][:n]
            for answer in answers
        ]

    def nearest(self, codes: Codes, n: int, *, where: str | None = None) -> Nearest:
        """The n nearest items of each code (m, dim), fewer if there are no more. where: see `search`."""
        masks = None if where is None or not self.segments else self.masks(where)
        return Nearest(*self.index.search(codes, n, masks), self.at)

    def scores(self, distances: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scores, higher for better items: see `simrec.index.Searchable`."""
        return self.index.scores(distances)

    def at(self, rows: Sequence[int]) -> list[Item]:
        """The items in those rows, in that order, with their fields."""
        read = list(map(self._read.get, rows))
        if None not in read:
            return cast(list[Item], read)
        by_row = {row: item for row, item in zip(rows, read, strict=True) if item is not None}
        places: dict[int, list[int]] = defaultdict(list)
        for row in rows:
            if row not in by_row:
                places[bisect_right(self._starts, row) - 1].append(row)
        for number, some in places.items():
            one = self.segments[number]
            local = [row - self._starts[number] for row in some]
            items = one.items(local)
            if one.columns:
                pairs = zip(items, one.fields(local), strict=True)
                items = [item._replace(fields=fields) for item, fields in pairs]
            by_row.update(zip(some, items, strict=True))
        if len(self._read) > READ:
            self._read = {}
        self._read.update(by_row)
        return [by_row[row] for row in rows]

    def items(self, ids: Sequence[str]) -> list[Item]:
        """The items with those ids, in that order; an id that isn't there is left out."""
        return [_with_fields(*place) for id_ in ids if (place := self._find(id_))]

    def code(self, id_: str) -> Codes | None:
        """The stored code (1, dim) of an item, None if there is no such item."""
        place = self._find(id_)
        return None if place is None else place[1].codes(place[0].number, 1)

    def copies_of(self, contents: Sequence[str]) -> list[frozenset[str]]:
        """The ids of items whose pictures have each content. Formats 1 and 2 use another digest: see `by_pixels`."""
        ids: dict[str, set[str]] = defaultdict(set)
        for one in self.segments:
            for row in one.with_contents(contents):
                ids[row.item.content].add(row.item.id)
        return [frozenset(ids.get(content, ())) for content in contents]

    @property
    def by_pixels(self) -> bool:
        """Whether an item's content is a digest of the encoder's image, as in formats 1 and 2."""
        return any(record.format == 2 for record in self.record.segments)

    def known(self) -> Iterator[Known]:
        """Every item, segment by segment."""
        for number, one in enumerate(self.segments):
            removed = set(one.removed.tolist())
            for row, id_, origin, source, label, stamp, content in one.listed():
                if row not in removed:
                    yield Known(number, row, id_, origin, source, label, stamp, content)

    def known_item(self, id_: str) -> Known | None:
        """The item with that id, or None."""
        for number in reversed(range(len(self.segments))):
            if (row := self.segments[number].with_id(id_)) is not None:
                return _known(number, row)
        return None

    def known_copy(self, content: str) -> Known | None:
        """An item with that content, or None."""
        for number, one in enumerate(self.segments):
            for row in one.with_contents([content]):
                return _known(number, row)
        return None

    def fields_of(self, item: Known) -> dict[str, Value]:
        """The fields of an item."""
        (held,) = self.segments[item.segment].fields([item.row])
        return held

    def columns_of(self, segment: int) -> dict[str, list[Value]]:
        """The fields of a segment's items, by row."""
        columns = self.segments[segment].columns
        return {name: columns.values(name) for name in columns.kinds} if columns else {}

    def all(self, where: str | None = None) -> Iterator[Item]:
        """The items that match a filter, by row; without one, all items."""
        for items, _ in self._batches(where, codes=False):
            yield from items

    def matching(self, where: str) -> int:
        """How many items match a filter. Raises RequestError if none does."""
        count = sum(int(np.count_nonzero(rows)) for rows in self._wanted(where))
        if not count:
            raise RequestError(f"{self.generation.recommender.name}: no item matches {where!r:.200}: widen the filter")
        return count

    def spread(self, n: int, where: str | None = None) -> list[Item]:
        """n items at equal steps through those that match a filter, or through all; fewer if there are no more."""
        wanted = [start + np.flatnonzero(rows) for start, rows in zip(self._starts, self._wanted(where), strict=False)]
        there = np.concatenate([np.empty(0, np.int64), *wanted])
        places = np.linspace(0, len(there) - 1, min(n, len(there))).astype(np.int64)
        return self.at(there[places].tolist())

    def places(self, where: str) -> Iterator[tuple[int, int]]:
        """The segment's number and the row of each item that matches a filter."""
        for number, rows in enumerate(self._wanted(where)):
            yield from ((number, int(row)) for row in np.flatnonzero(rows))

    def chosen(self, where: str | None = None, without: Collection[int] = ()) -> Searchable:
        """The codes of the items that `all` gives, numbered in that order. without: places in it to leave out."""
        from simrec.index import Chosen

        if where is None and not without and not any(len(one.removed) for one in self.segments):
            return self.index
        wanted = np.concatenate(self._wanted(where))
        wanted[np.flatnonzero(wanted)[list(without)]] = False
        return Chosen(self.index, np.split(wanted, self._starts[1:-1]))

    def batches(self, where: str | None = None) -> Iterator[tuple[list[Item], Codes]]:
        """The items that match a filter, or all, with their codes (n, dim): the encoder's, as exact as the dtype
        allows.
        """
        return self._batches(where, codes=True)

    def schema(self, columns: Columns) -> Any:
        """The pyarrow Schema of `record_batches`."""
        return tables.schema(columns, self.kinds, self.generation.manifest.encoder.dim)

    def record_batches(self, columns: Columns, where: str | None = None, rows: int = 4096) -> Iterator[Any]:
        """The items that match a filter, or all, as pyarrow RecordBatches of at most `rows` rows, without an object per
        item. Codes are the encoder's, as exact as the dtype allows.
        """
        schema = self.schema(columns)
        for one, wanted in zip(self.segments, self._wanted(where), strict=True):
            for start in range(0, len(one), rows):
                there = np.flatnonzero(wanted[start : start + rows])
                if len(there):
                    count = min(rows, len(one) - start)
                    yield self._record_batch(one, start, None if len(there) == count else there, count, columns, schema)

    def _record_batch(
        self, one: Segment, start: int, there: NDArray[np.int64] | None, count: int, columns: Columns, schema: Any
    ) -> Any:
        """`count` rows of a segment from `start` on. there: which of these to take, None for all."""
        import pyarrow as pa

        texts = [name for name, field in columns.items() if field is None and name in ("id", "label", "source")]
        own: dict[str, Any] = {**one.texts(start, count, texts)} if texts else {}
        if "code" in columns:
            own["code"] = tables.coded(one.codes(start, count))
        if "preview" in columns:
            numbers = range(count) if there is None else there.tolist()
            previews: list[bytes | None] = [None] * count
            for row in one.rows([start + number for number in numbers]):
                previews[row.number - start] = one.preview(row)
            own["preview"] = previews
        arrays = []
        for name, field in columns.items():
            type_ = schema.field(name).type
            array = own[name] if field is None else self._some(one, field, start, count, type_)
            array = array if isinstance(array, pa.Array) else pa.array(array, type_)
            arrays.append(array if there is None else array.take(pa.array(there)))
        return pa.record_batch(arrays, schema=schema)

    def _some(self, one: Segment, name: str, start: int, count: int, type_: Any) -> Any:
        """Some rows of a field in the catalogue's type, see `_column`."""
        import pyarrow as pa

        if one.columns is None or name not in one.kinds:
            return pa.nulls(count, type_)
        column = one.columns.some(name, start, count)
        if type_ == pa.string() and column.type != type_:
            return [None if value is None else str(value) for value in column.to_pylist()]
        return column.cast(type_, safe=False)

    @cached_property
    def codes(self) -> Codes:
        """All codes (n, dim), by row, read-only: mapped into memory if a single segment has them all as the encoder
        gave them, else a copy.
        """
        if len(self.segments) == 1 and (mapped := self.segments[0].mapped()) is not None:
            return mapped
        parts = [np.empty((0, self.generation.manifest.encoder.dim), np.float32)]
        for one in self.segments:
            parts.append(np.delete(one.codes(0, len(one)), one.removed, axis=0))
        codes = np.concatenate(parts)
        codes.flags.writeable = False  # the next caller gets the same array
        return codes

    def picture(self, id_: str) -> Image | None:
        """The preview of an item, None if there is no such item or it has none."""
        place = self._shown(id_)
        return None if place is None else place[1].picture(place[0])

    def preview(self, id_: str) -> bytes | None:
        """The preview of an item as a JPEG or PNG file, None if there is no such item or it has none."""
        place = self._shown(id_)
        return None if place is None else place[1].preview(place[0])

    def _shown(self, id_: str) -> tuple[Row, Segment] | None:
        from simrec.catalogue import previews

        place = self._find(id_)
        return None if place is None or place[0].preview == previews.NOTHING else place

    def _find(self, id_: str) -> tuple[Row, Segment] | None:
        # The newest first: an item that changed is in a newer segment too.
        return next(((row, one) for one in self.segments[::-1] if (row := one.with_id(id_)) is not None), None)

    def _wanted(self, where: str | None) -> list[NDArray[np.bool_]]:
        """The rows of each segment that aren't removed and match a filter."""
        masks = [np.ones(len(one), np.bool_) for one in self.segments] if where is None else self.masks(where)
        wanted = []
        for one, mask in zip(self.segments, masks, strict=True):
            there = mask.copy()
            there[one.removed] = False
            wanted.append(there)
        return wanted

    def whole(self) -> Iterator[tuple[list[Item], Codes, NDArray[np.float32], list[bytes]]]:
        """Every item with its fields, stored code (n, dim), the length it was divided by (n,) and its preview, a JPEG
        or PNG file.
        """
        for one in self.segments:
            for numbers, items, previews in one.whole():
                if numbers:
                    start, count = numbers[0], numbers[-1] - numbers[0] + 1
                    codes = one.index.some_codes(start, count)
                    if len(numbers) < count:
                        codes = codes[np.array(numbers) - start]
                    yield items, codes, one.lengths(numbers), previews

    def _batches(self, where: str | None = None, *, codes: bool) -> Iterator[tuple[list[Item], Codes]]:
        for one, wanted in zip(self.segments, self._wanted(where), strict=True):
            for rows in one.batches():
                there = [place for place, row in enumerate(rows) if wanted[row.number]]
                numbers = [rows[place].number for place in there]
                items = [
                    rows[place].item._replace(fields=fields) if fields else rows[place].item
                    for place, fields in zip(there, one.fields(numbers), strict=True)
                ]
                yield items, one.codes(rows[0].number, len(rows))[there] if codes else np.empty(0, np.float32)


def _known(segment: int, row: Row) -> Known:
    item = row.item
    return Known(segment, row.number, item.id, row.origin, item.source, item.label, item.stamp, item.content)


def _with_fields(row: Row, one: Segment) -> Item:
    (fields,) = one.fields([row.number])
    return row.item._replace(fields=fields) if fields else row.item
