"""A catalogue in a database table, reached through an engine: see `simrec.contracts.Engine`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from hashlib import blake2b, sha256
from itertools import islice
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import msgspec
import numpy as np
from numpy.typing import NDArray

from simrec.catalogue import tables
from simrec.catalogue.engines import HeldEngine
from simrec.catalogue.known import Known, Nearest
from simrec.catalogue.tables import Columns
from simrec.contracts import Codes, Engine, EngineSpec, Entry, Hit, Item, Notice, Row, Table, Value
from simrec.errors import RequestError, StoreError
from simrec.faults import blamed_on
from simrec.manifest import CatalogueRecord, EncoderRecord, SegmentRecord
from simrec.streams import chunks

if TYPE_CHECKING:
    from PIL.Image import Image

    from simrec.catalogue.building import New
    from simrec.catalogue.fields import Kind
    from simrec.catalogue.segment import Segment
    from simrec.catalogue.where import Where
    from simrec.contracts.filters import Condition
    from simrec.index import Index

SECRETS = ("pass", "key", "secret", "token")
"""A setting in an address whose name contains one of these is a secret: its value is never kept."""

DIGEST = 32
"""Figures of a row's digest: the first half of SHA-256."""

AT_ONCE = 1000
"""How many rows are written, or read by their ids, at a time."""

FIRST = 4096
"""`spread` chooses among so many items: all items of a large table would take seconds."""

MEASURED = 300
"""About how many items' distances to their nearest neighbours are measured."""


def is_address(text: str) -> bool:
    """Whether a text looks like the address of a table, NAME://PLACE#TABLE."""
    return "://" in text


def without_secrets(address: str) -> str:
    """An address as it may be kept and shown."""
    parts = urlsplit(address)
    user, at, place = parts.netloc.rpartition("@")
    settings = [
        (name, value)
        for name, value in parse_qsl(parts.query, keep_blank_values=True)
        if not any(secret in name.lower() for secret in SECRETS)
    ]
    shown = f"{parts.scheme}://{user.partition(':')[0]}{at}{place}{parts.path}"  # urlunsplit would drop an empty place
    return f"{shown}{'?' if settings else ''}{urlencode(settings)}{'#' if parts.fragment else ''}{parts.fragment}"


def opened(address: str, notice: Notice) -> HeldEngine:
    """The engine for an address, with its answers checked.

    Raises RequestError if no plugin offers one, and what the engine raises.
    """
    from simrec import host

    name = address.partition("://")[0]
    offers = host.discover()
    known = offers.names(EngineSpec)
    if name not in known:
        offers.check_loaded(name)
        raise RequestError(
            f"{without_secrets(address)}: no engine is called {name!r}: there is {', '.join(sorted(known)) or 'none'}"
            f"{offers.hidden}"
        )
    offer = offers.find(EngineSpec, name)
    factory = host.imported(offer)
    with blamed_on(str(offer)):
        engine = factory(address, notice=notice)
    return HeldEngine(engine, str(offer))


def row_of(item: Item, code: NDArray[np.float32], preview: bytes, table: Table) -> Row:
    """An item as a row of a table. code (dim,): as the encoder gave it."""
    length = float(np.linalg.norm(code)) if table.metric == "cosine" else 1.0
    return kept(item, code / length if length > 0 else code, length, preview, table)


def kept(item: Item, code: NDArray[np.float32], length: float, preview: bytes, table: Table) -> Row:
    """An item as a row of a table; see `Row`."""
    return rows_of([item], code[np.newaxis], [length], [preview], table)[0]


def intact(row: Row, table: Table) -> bool:
    """Whether a row that a table gave is what was written."""
    again = kept(row.item, row.code, row.length, row.preview, table)
    return row.digest in (again.digest, _first_digest(again))


def _first_digest(row: Row) -> str:
    """The digest that tables got from simrec until November 2026; a push writes such rows again."""
    item, fields = row.item, dict(sorted(row.item.fields.items()))
    texts = (item.id, item.source, item.label, item.stamp, item.content, item.origin, f"{fields!r}{row.length!r}")
    data = "\0".join(texts).encode("utf-8", "surrogatepass") + row.code.tobytes() + row.preview
    return blake2b(data, digest_size=16).hexdigest()


def rows_of(
    items: Sequence[Item], codes: Codes, lengths: Sequence[float], previews: Sequence[bytes], table: Table
) -> list[Row]:
    """Rows with fields of the table's types, codes (n, dim) rounded to its dtype, and digests of all that."""
    makers: dict[str, Callable[[Any], Value]] = {"int64": int, "double": float, "string": str}
    columns = [(name, makers[kind]) for name, kind in sorted(table.fields.items())]
    encode = msgspec.msgpack.Encoder().encode
    codes = codes.astype(np.float16 if table.dtype == "float16" else np.float32).astype("<f4")
    data, size, rows = codes.tobytes(), 4 * table.dim, []
    numbers = (data[start : start + size] for start in range(0, len(data), size))
    for item, code, number, length, preview in zip(items, codes, numbers, lengths, previews, strict=True):
        id_, source, label, held, stamp, content, origin = item
        fields = {
            name: make(value) for name, make in columns if (value := held.get(name)) is not None and value == value
        }
        texts = (id_, source, label, stamp, content, origin, fields, length)
        try:
            described = encode(texts)
        except UnicodeEncodeError:  # a path with bytes that are no text
            described = repr(texts).encode("utf-8", "surrogatepass")
        digest = sha256(described + number + preview).hexdigest()[:DIGEST]
        if fields != held:
            item = Item(id_, source, label, fields, stamp, content, origin)
        rows.append(Row(item, code, length, preview, digest))
    return rows


class RemoteCatalogue:
    """The items of a table; any number of threads may use it.

    Every method raises StoreError if the database doesn't answer, or if its table is another encoder's.
    """

    by_pixels = False
    segments: Sequence[Segment] = ()

    def __init__(self, name: str, record: CatalogueRecord, encoder: EncoderRecord, engine: HeldEngine) -> None:
        self.name, self.record, self.encoder, self.engine = name, record, encoder, engine
        table = engine.table
        if table is None:
            raise StoreError(f"{record.engine}: there is no such table: 'simrec index push' makes it")
        if table.digest != encoder.digest:
            raise StoreError(
                f"{record.engine}: its codes are from encoder {table.encoder}, but {name} has {encoder.title}: "
                f"'simrec index push' the right catalogue there again, with --replace"
            )
        self.table = table

    def hold(self) -> None:
        """Does nothing: a table needs nothing opened before another generation replaces this one."""

    def __len__(self) -> int:
        return len(self.engine)

    @cached_property
    def index(self) -> Index:
        """The codes of all items in memory, ready to be searched by row, in the order of `all`."""
        return self.chosen()

    @property
    def kinds(self) -> dict[str, Kind | None]:
        """The columns that a filter can use, with their types: see `LocalCatalogue.kinds`."""
        return {**self.table.fields, "id": "string", "label": "string"}

    @property
    def fields(self) -> dict[str, type[int] | type[float] | type[str]]:
        """The items' fields: names and types."""
        types: dict[Kind, type[int] | type[float] | type[str]] = {"int64": int, "double": float, "string": str}
        return {name: types[kind] for name, kind in self.table.fields.items()}

    def where(self, text: str) -> Where:
        """The filter that a person typed: see `simrec.catalogue.where`. Raises RequestError if it isn't a filter."""
        from simrec.catalogue import where

        return where.parsed(text, self.kinds)

    def _condition(self, text: str | None) -> Condition | None:
        from simrec.contracts import masks

        return None if text is None else masks.fitted(self.where(text).condition, self.kinds.get)

    def search(
        self, codes: Codes, n: int, *, without: Collection[str] = (), where: str | None = None
    ) -> list[list[Hit]]:
        """The n nearest items of each code (m, dim): see `LocalCatalogue.search`."""
        answers = self.engine.search(codes, n + len(without), self._condition(where))
        return [
            [
                Hit(self._full(item), distance, float(self.scores(np.float32(distance))))
                for item, distance in nearest
                if item.id not in without
            ][:n]
            for nearest in answers
        ]

    def nearest(self, codes: Codes, n: int, *, where: str | None = None) -> Nearest:
        """The n nearest items of each code (m, dim), fewer if there are no more. A row is a digest of an id."""
        answers = self.engine.search(codes, n, self._condition(where))
        longest = max(map(len, answers), default=0)
        rows = np.full((len(answers), longest), -1, np.int64)
        distances = np.full((len(answers), longest), np.inf, np.float32)
        items: dict[int, Item] = {}
        for place, nearest in enumerate(answers):
            for rank, (item, distance) in enumerate(nearest):
                row = _number(item.id)
                rows[place, rank], distances[place, rank], items[row] = row, distance, self._full(item)
        return Nearest(rows, distances, lambda wanted: [items[row] for row in wanted])

    def scores(self, distances: Any) -> Any:
        """Scores, higher for better items: see `simrec.index.Searchable`."""
        if self.table.metric == "cosine":
            return np.subtract(1, distances, dtype=np.float32)
        return np.divide(1, 1 + distances, dtype=np.float32)

    def items(self, ids: Sequence[str]) -> list[Item]:
        """The items with those ids, in that order; an id that isn't there is left out."""
        items = {row.item.id: self._full(row.item) for row in self._rows(ids, codes=False)}
        return [items[id_] for id_ in ids if id_ in items]

    def code(self, id_: str) -> Codes | None:
        """The stored code (1, dim) of an item, None if there is no such item."""
        return next((_codes([row]) for row in self._rows([id_])), None)

    def copies_of(self, contents: Sequence[str]) -> list[frozenset[str]]:
        """The ids of the items whose pictures have each content."""
        ids: dict[str, set[str]] = {}
        for start in range(0, len(contents), AT_ONCE):
            some = [content for content in contents[start : start + AT_ONCE] if content]
            for rows in self.engine.rows(contents=some, codes=False) if some else ():
                for row in rows:
                    ids.setdefault(row.item.content, set()).add(row.item.id)
        return [frozenset(ids.get(content, ())) for content in contents]

    def picture(self, id_: str) -> Image | None:
        """The preview of an item, or None."""
        from simrec.catalogue import previews

        data = self.preview(id_)
        try:
            return None if data is None else previews.opened(data, previews.EDGE)
        except ValueError as error:
            raise StoreError(f"{self.record.engine}: the preview of {id_!r}: {error}: push it again") from error

    def preview(self, id_: str) -> bytes | None:
        """The preview of an item as a JPEG or PNG file, or None."""
        from simrec.catalogue import previews

        data = next((row.preview for row in self._rows([id_], codes=False, previews=True)), b"")
        return None if data in (b"", previews.NONE) else data

    def all(self, where: str | None = None) -> Iterator[Item]:
        """The items that match a filter, by id; without one, all items."""
        for rows in self.engine.rows(self._condition(where), codes=False):
            yield from (self._full(row.item) for row in rows)

    def matching(self, where: str) -> int:
        """How many items match a filter. Raises RequestError if none does."""
        condition = self._condition(where)
        assert condition is not None
        count = self.engine.count(condition)
        if not count:
            raise RequestError(f"{self.name}: no item matches {where!r:.200}: widen the filter")
        return count

    def chosen(self, where: str | None = None, without: Collection[int] = ()) -> Index:
        """The codes of the items that `all` gives, in memory, numbered in that order. without: places in it to leave
        out.
        """
        from simrec.index import Index

        index, start = Index(np.empty((0, self.table.dim), np.float32), self.table.metric), 0
        for _, codes in self.batches(where):
            index.add(codes[[row for row in range(len(codes)) if start + row not in without]] if without else codes)
            start += len(codes)
        return index

    def batches(self, where: str | None = None) -> Iterator[tuple[list[Item], Codes]]:
        """The items that match a filter, or all, with their codes (n, dim)."""
        for rows in self.engine.rows(self._condition(where)):
            yield [self._full(row.item) for row in rows], _codes(rows)

    def record_batches(self, columns: Columns, where: str | None = None, rows: int = AT_ONCE) -> Iterator[Any]:
        """The items as pyarrow RecordBatches: see `LocalCatalogue.record_batches`; an item without a preview has an
        empty one.
        """
        schema, codes = tables.schema(columns, self.kinds, self.table.dim), "code" in columns
        none = np.empty((0, self.table.dim), np.float32)
        for batch in self.engine.rows(self._condition(where), codes=codes, previews="preview" in columns):
            for some in chunks(batch, rows):
                items, previews = [row.item for row in some], [row.preview for row in some]
                yield tables.batch(items, previews, _codes(some) if codes else none, columns, schema)

    def whole(self) -> Iterator[tuple[list[Item], Codes, NDArray[np.float32], list[bytes]]]:
        """Every item with its fields, code, the code's length, and preview: see `LocalCatalogue.whole`."""
        for rows in self.engine.rows(previews=True):
            items, lengths = [self._full(row.item) for row in rows], [row.length for row in rows]
            codes = np.stack([row.code for row in rows])
            yield items, codes, np.array(lengths, np.float32), [row.preview for row in rows]

    @cached_property
    def codes(self) -> Codes:
        """All codes (n, dim) in memory, in the order of `all`."""
        return np.concatenate([np.empty((0, self.table.dim), np.float32), *(codes for _, codes in self.batches())])

    @cached_property
    def _listed(self) -> tuple[list[Item], dict[str, int]]:
        items = list(self.all())
        return items, {item.id: row for row, item in enumerate(items)}

    def known(self) -> Iterator[Known]:
        """Every item, for comparing; the table is read only once."""
        origins = {source.name: number for number, source in enumerate(self.record.sources)}
        for row, item in enumerate(self._listed[0]):
            yield self._known(row, item, origins)

    def known_item(self, id_: str) -> Known | None:
        """The item with that id, or None."""
        items, places = self._listed
        return self._known(places[id_], items[places[id_]]) if id_ in places else None

    def known_copy(self, content: str) -> Known | None:
        """An item with that content, or None."""
        (ids,) = self.copies_of([content])
        return self.known_item(min(ids)) if ids else None

    def fields_of(self, item: Known) -> dict[str, Value]:
        """The fields of an item."""
        return dict(self._listed[0][item.row].fields)

    def columns_of(self, segment: int) -> dict[str, list[Value]]:
        """The fields of the items, by row."""
        items = self._listed[0]
        return {name: [item.fields.get(name) for item in items] for name in self.table.fields}

    def spread(self, n: int, where: str | None = None) -> list[Item]:
        """n items at equal steps through the first FIRST (by id) of those that match a filter, or of all; fewer if
        there are no more.
        """
        first = list(islice(self.all(where), FIRST))
        return [first[place] for place in np.linspace(0, len(first) - 1, min(n, len(first))).astype(np.int64)]

    def places(self, where: str) -> Iterator[tuple[int, int]]:
        """The segment's number, which is 0, and the row of each item that matches a filter."""
        places = self._listed[1]
        yield from ((0, places[item.id]) for item in self.all(where))

    def _full(self, item: Item) -> Item:
        """The item with all of the catalogue's fields, as a local catalogue gives them: None for empty ones."""
        return item._replace(fields={name: item.fields.get(name) for name in self.table.fields})

    def _known(self, row: int, item: Item, origins: Mapping[str, int] | None = None) -> Known:
        origins = origins or {source.name: number for number, source in enumerate(self.record.sources)}
        origin = origins.get(item.origin, 0)
        return Known(0, row, item.id, origin, item.source, item.label, item.stamp, item.content)

    def _rows(self, ids: Sequence[str], *, codes: bool = True, previews: bool = False) -> Iterator[Row]:
        for start in range(0, len(ids), AT_ONCE):
            for rows in self.engine.rows(ids=ids[start : start + AT_ONCE], codes=codes, previews=previews):
                yield from rows


class RemoteRevision:
    """Changes to a table, like `Revision`; `finish` writes them."""

    def __init__(self, catalogue: RemoteCatalogue) -> None:
        self._catalogue = catalogue
        self._items: list[Item] = catalogue._listed[0]
        self._gone: set[str] = set()
        self._fields: dict[str, Mapping[str, Value]] = {}
        self._copies: list[tuple[str, Entry, int, bool]] = []

    def remove(self, segment: int, row: int) -> None:
        """Removes the item in that row."""
        self._gone.add(self._items[row].id)

    def update(self, segment: int, row: int, fields: Mapping[str, Value]) -> None:
        """Sets these fields of the item in that row; its other fields stay."""
        self._fields[self._items[row].id] = fields

    def copy(self, segment: int, row: int, entry: Entry, origin: int, *, same: bool = True) -> None:
        """Gives another entry the code and the preview of that row: see `Revision.copy`."""
        self._copies.append((self._items[row].id, entry, origin, same))

    @property
    def count(self) -> int:
        """Items that stay or are copied."""
        return len(self._items) - len(self._gone) + len(self._copies)

    def finish(
        self, writer: Any, coding: Any, roots: Any, new: Iterable[New] = (), coming: int = 0,
        new_kinds: Mapping[str, Kind] | None = None, progress: Callable[[int], None] = lambda done: None,
    ) -> tuple[SegmentRecord, ...]:  # fmt: skip
        """Makes all changes in the database, or none; there are no segments."""
        from simrec.catalogue.fields import kinds, merged

        table = self._catalogue.table
        fields = merged(table.fields, new_kinds or {})
        fields = kinds([*self._fields.values(), *(entry.fields for _, entry, *_ in self._copies)], fields)
        table = replace(table, fields=fields)
        put = {entry.id for _, entry, *_ in self._copies}
        gone = sorted(self._gone - put)
        engine = self._catalogue.engine
        engine.apply(table, self._rows(table, new, progress), gone, replace=False)
        engine.check_holds(table, self.count + coming)
        self._catalogue.table = table
        return ()

    def distances(self) -> tuple[float, ...]:
        """Quantiles of the distances from a sample of items to their nearest neighbours: see `Revision.distances`."""
        return nearest_distances(self._catalogue.engine)

    def _rows(self, table: Table, new: Iterable[New], progress: Callable[[int], None]) -> Iterator[list[Row]]:
        from simrec.catalogue.revising import PICTURE_FIELDS

        sources, done = self._catalogue.record.sources, 0
        for start in range(0, len(self._copies), AT_ONCE):
            some = self._copies[start : start + AT_ONCE]
            held = self._held({id_ for id_, *_ in some})
            rows = []
            for id_, entry, origin, same in some:
                row = held[id_]
                fields = {k: v for k, v in row.item.fields.items() if same or k in PICTURE_FIELDS}
                item = Item(
                    entry.id, entry.source, entry.label, {**fields, **entry.fields}, entry.stamp, row.item.content,
                    sources[origin].name,
                )  # fmt: skip
                rows.append(kept(item, row.code, row.length, row.preview, table))
            yield rows
        changed = [id_ for id_ in self._fields if id_ not in self._gone]
        for start in range(0, len(changed), AT_ONCE):
            rows = []
            for id_, row in self._held(set(changed[start : start + AT_ONCE])).items():
                item = row.item._replace(fields={**row.item.fields, **self._fields[id_]})
                rows.append(kept(item, row.code, row.length, row.preview, table))
            yield rows
        for part in new:
            yield [
                row_of(
                    Item(entry.id, entry.source, entry.label, entry.fields, entry.stamp, content, sources[origin].name),
                    code,
                    preview,
                    table,
                )  # fmt: skip
                for entry, origin, content, preview, code in zip(
                    part.entries, part.origins, part.contents, part.previews, part.codes, strict=True
                )
            ]
            done += len(part)
            progress(done)

    def _held(self, ids: set[str]) -> dict[str, Row]:
        return {row.item.id: row for row in self._catalogue._rows(sorted(ids), previews=True)}


def _codes(rows: Sequence[Row]) -> Codes:
    """The codes (n, dim) of rows as the encoder gave them."""
    lengths = np.array([row.length for row in rows], np.float32)
    codes: Codes = np.stack([row.code for row in rows]) * lengths[:, np.newaxis]
    return codes


def nearest_distances(engine: Engine) -> tuple[float, ...]:
    """Quantiles of the distances from some items to their nearest neighbours; empty for fewer than two items."""
    from simrec.catalogue.revising import QUANTILES

    count = len(engine)
    if count < 2:
        return ()
    step, place, sample = -(-count // MEASURED), 0, []
    for rows in engine.rows():
        sample += [row for number, row in enumerate(rows, place) if number % step == 0]
        place += len(rows)
    answers = engine.search(np.stack([row.code for row in sample]), 2)
    nearest = [
        next((distance for item, distance in two if item.id != row.item.id), two[-1][1])
        for row, two in zip(sample, answers, strict=True)
    ]  # fmt: skip
    quantiles = np.quantile(np.array(nearest, np.float64), np.linspace(0, 1, QUANTILES))
    return tuple(float(value) for value in quantiles)


def _number(id_: str) -> int:
    """A number that stands for an id, the same in any process. Two of a million ids share a number in one of 10,000,000
    catalogues.
    """
    return int.from_bytes(blake2b(id_.encode("utf-8", "surrogatepass"), digest_size=8).digest()) >> 1
