"""One segment of a catalogue: immutable files, rows numbered from 0.

    codes.faiss     the codes (see `simrec.index`)
    lengths.npy     float32 (n,): what each code was divided by; only for cosine with dtype float32
    items.sqlite    a row for each item: id, source, label, stamp, content, and where its preview is
    previews.bin    the previews, one after the other

Large files are mapped into memory and not read as a whole, so each row of the table and each preview has its own
checksum: a damaged page is an error, never another item's data.
"""

from __future__ import annotations

import contextlib
import json
import math
import mmap
import os
import sqlite3
import threading
import weakref
import zlib
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote_from_bytes

import numpy as np
from msgspec.json import Decoder
from numpy.typing import NDArray

from simrec.arrays import from_npy
from simrec.catalogue import previews
from simrec.contracts import Codes, Item, Value
from simrec.errors import StoreError
from simrec.manifest import Manifest, SegmentRecord
from simrec.store import Generation

if TYPE_CHECKING:
    from PIL.Image import Image

    from simrec.catalogue.fields import Columns, Kind
    from simrec.index import Index

NO_PLACE = 0
"""The `application_id` of tables that an older simrec wrote: see `place_of`."""

_HEADER = 1000
"""Maximum bytes of a .npy file's header."""

LARGEST_VALUE = 1 << 20
"""Maximum bytes of an id, a source, a label or a row."""

STEPS = 200
"""Maximum steps of SQLite's virtual machine per item in a query; our slowest query takes a dozen."""

VALUES = 500
"""Maximum number of values in one query."""

LISTED = 1 << 14
"""How many rows `Segment.listed` reads at a time, and `Segment.texts` at most."""

_NUMBERS, _TEXTS = Decoder(list[int]), Decoder(list[str])

SCHEMA = """
CREATE TABLE items (
    row INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    origin INTEGER NOT NULL,
    source TEXT NOT NULL,
    label TEXT NOT NULL,
    stamp TEXT NOT NULL,
    content BLOB NOT NULL,
    start INTEGER NOT NULL,
    length INTEGER NOT NULL,
    preview INTEGER NOT NULL,
    checksum INTEGER NOT NULL
)
"""
"""origin: which of the catalogue's sources listed the item. source: for a picture file below that source's root, its
path relative to the root. preview: the checksum (CRC-32) of the preview's bytes. checksum: see `checksum`.
"""

INDEX = "CREATE INDEX by_content ON items (content)"

_SCHEMA_3 = SCHEMA.replace("    origin INTEGER NOT NULL,\n", "")
"""The schema of formats 3 and 4: one source, whose items have whole paths."""

_SCHEMA_2 = """
CREATE TABLE items (
    row INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    source TEXT NOT NULL,
    label TEXT NOT NULL,
    pixels BLOB NOT NULL,
    segment TEXT NOT NULL,
    start INTEGER NOT NULL,
    length INTEGER NOT NULL
)
"""
"""The schema of formats 1 and 2: no stamp, and for the content a digest of the encoder's input."""

_TABLES = {
    5: {("table", "items", SCHEMA.strip()), ("index", "by_content", INDEX)},
    3: {("table", "items", _SCHEMA_3.strip()), ("index", "by_content", INDEX)},
    2: {("table", "items", _SCHEMA_2.strip()), ("index", "by_pixels", "CREATE INDEX by_pixels ON items (pixels)")},
}
"""All that an items.sqlite may hold, beside the index that SQLite makes itself. A view or trigger would run when the
table is read."""

_COLUMNS = {
    5: "row, id, origin, source, label, stamp, lower(hex(content)), start, length, preview, checksum",
    3: "row, id, 0, source, label, stamp, lower(hex(content)), start, length, preview, checksum",
    2: "row, id, 0, source, label, '', lower(hex(pixels)), start, length, -1, -1",
}

_CONTENT = {5: "content", 3: "content", 2: "pixels"}

_Values = str | int | list[bytes]
"""The value or values of a query."""

_KINDS = (int, str, int, str, str, str, str, int, int, int, int)

_STORED = dict.fromkeys(("start", "length", "preview", "checksum"), "integer") | {"stamp": "text", "content": "blob"}
"""How SQLite stores columns that aren't ids, sources and labels."""

_PLACE = itemgetter(0, 7, 8, 9)
"""Picks from a selected row its number, and its preview's start, length and checksum."""


class Row(NamedTuple):
    """A row of a segment. start, length, preview: where its preview is, and its checksum. origin: see SCHEMA."""

    number: int
    item: Item
    origin: int
    start: int
    length: int
    preview: int


class Segment:
    """A segment of a generation, open for reading from several threads. Its methods raise StoreError if its files are
    damaged.

    The files may come from anyone: the table must be one that simrec writes, a query may take no more steps than its
    number of items needs, and every value must fit its column.
    """

    def __init__(self, generation: Generation, record: SegmentRecord) -> None:
        self._generation, self.record = generation, record
        catalogue = generation.manifest.catalogue
        assert catalogue is not None
        self._encoder, self._dtype, self._sources = generation.manifest.encoder, catalogue.dtype, catalogue.sources
        self._asking = threading.Lock()  # SQLite limits steps per connection, and all threads share one
        self._read: dict[str, Any] = {}

    def __len__(self) -> int:
        return self.record.rows

    def hold(self) -> None:
        """Opens the table, so that it can be read when its file is gone; errors are raised when it is read."""
        with contextlib.suppress(StoreError):
            self._connection  # noqa: B018

    @cached_property
    def index(self) -> Index:
        """An index of its codes."""
        # Imported where it is used: on macOS faiss and torch in one process can crash, and training imports this file.
        from simrec.index import Index

        name, record = self._codes, self._encoder
        try:
            return Index.opened(
                self._generation.mapped(name), self._generation.path(name), len(self), record.dim, record.metric,
                self._dtype, self.removed,
            )  # fmt: skip
        except ValueError as error:
            raise self._generation.damaged(name, str(error)) from error

    @cached_property
    def learned(self) -> bytes:
        """The ranges or medians that its codes were kept with."""
        from simrec.index import learned

        self.index  # noqa: B018 - it checks the layout
        return learned(self._generation.mapped(self._codes), self._encoder.dim, self._encoder.metric, self._dtype)

    @cached_property
    def removed(self) -> NDArray[np.int64]:
        """The rows that are no longer there, in order."""
        name = self.record.removed
        if name is None:
            return np.empty(0, np.int64)
        try:
            data = self._generation.read(name, 8 * len(self) + _HEADER)
            rows: NDArray[np.int64] = from_npy(data, np.int64, (None,))
            if len(rows) and not (rows[0] >= 0 and rows[-1] < len(self) and (np.diff(rows) > 0).all()):
                raise ValueError("rows that don't exist or aren't in order")
        except ValueError as error:
            raise self._generation.damaged(name, str(error)) from error
        return rows

    def check_codes(self) -> None:
        """Reads all its codes. Raises StoreError if they are not what was written."""
        self._generation.path(self._codes, whole=True)

    def codes(self, start: int, count: int) -> Codes:
        """The codes of those rows as the encoder gave them, (count, dim), as far as the dtype keeps them."""
        codes = self.index.some_codes(start, count)
        if (lengths := self._lengths) is not None:
            with np.errstate(all="ignore"):  # codes that aren't numbers are an error below
                codes = codes * lengths[start : start + count, np.newaxis]
        if not np.isfinite(codes).all():
            raise self._generation.damaged(self._codes, "its codes are not numbers")
        return codes

    def mapped(self) -> Codes | None:
        """All its codes as the encoder gave them, (n, dim), mapped into memory and read-only.

        None if the file doesn't hold them so: for cosine, for other dtypes than float32, and if rows were removed.
        """
        if self._dtype != "float32" or self._encoder.metric == "cosine" or len(self.removed):
            return None
        codes = self.index.codes
        for start in range(0, len(codes), LISTED):
            if not np.isfinite(codes[start : start + LISTED]).all():
                raise self._generation.damaged(self._codes, "its codes are not numbers")
        return codes

    def lengths(self, numbers: Sequence[int]) -> NDArray[np.float32]:
        """What the codes of those rows were divided by, (n,); 1 if they weren't."""
        if (lengths := self._lengths) is None:
            return np.ones(len(numbers), np.float32)
        kept: NDArray[np.float32] = lengths[list(numbers)]
        return kept

    @cached_property
    def _lengths(self) -> NDArray[np.float32] | None:
        """What each code was divided by, None if none was."""
        if self._dtype != "float32" or self._encoder.metric != "cosine":
            return None
        old = self.record.format == 2  # it has the codes themselves beside the index
        name = f"{self.record.folder}/{'codes.npy' if old else 'lengths.npy'}"
        shape = (len(self), self._encoder.dim) if old else (len(self),)
        try:
            kept = from_npy(self._generation.read(name, 4 * math.prod(shape) + _HEADER), np.float32, shape)
            lengths: NDArray[np.float32] = np.linalg.norm(kept, axis=1) if old else kept
            if not (np.isfinite(lengths) & (lengths >= 0)).all():
                raise ValueError("lengths that no code can have")
        except ValueError as error:
            raise self._generation.damaged(name, str(error)) from error
        return lengths

    def rows(self, numbers: Sequence[int]) -> list[Row]:
        """Those rows, in that order."""
        return self._rows_of(self._numbered(numbers))

    def items(self, numbers: Sequence[int]) -> list[Item]:
        """The items in those rows, in that order, without their fields; faster than `rows`."""
        return self._items_of(self._numbered(numbers))

    def _numbered(self, numbers: Sequence[int]) -> list[tuple[Any, ...]]:
        # As one JSON list: SQLite limits the number of values.
        wanted = json.dumps([int(number) for number in numbers])
        records = {
            values[0]: values for values in self._selected("row IN (SELECT value FROM json_each(?))", wanted, None)
        }
        for number in numbers:
            if number not in records:
                raise self._damaged(f"it has no row {number}")
        return [records[number] for number in numbers]

    def with_id(self, id_: str) -> Row | None:
        """The row of the item with that id, None if there is none or it was removed."""
        return next(iter(self._there(self._select("id = ?", id_))), None)

    def with_contents(self, contents: Sequence[str]) -> list[Row]:
        """The rows of items, without removed ones, whose pictures have one of those contents."""
        rows: list[Row] = []
        for start in range(0, len(contents), VALUES):
            some = [bytes.fromhex(content) for content in contents[start : start + VALUES]]
            rows += self._select(f"{_CONTENT[self.record.format]} IN ({', '.join('?' * len(some))})", some)
        return self._there(rows)

    def batches(self, size: int = 4096) -> Iterator[list[Row]]:
        """All rows, including removed ones, some at a time."""
        for start in range(0, len(self), size):
            count = min(size, len(self) - start)
            rows = self._select("row >= ? ORDER BY row", start, limit=count)
            if [row.number for row in rows] != list(range(start, start + count)):
                raise self._damaged(f"it lacks one of the rows {start} to {start + count - 1}")
            yield rows

    def listed(self) -> Iterator[tuple[int, str, int, str, str, str, str]]:
        """All rows, including removed ones: row, id, origin, source, label, stamp and content. `batches` gives more of
        each row, and takes longer.
        """
        roots = [record.root for record in self._sources]
        self._generation.path(self._items, whole=True)  # the whole file's digest is faster than each row's
        for start in range(0, len(self), LISTED):
            count = min(LISTED, len(self) - start)
            records = self._selected("row >= ? ORDER BY row", start, count)
            self._check(records)
            for values in records:
                number, id_, origin, source, label, stamp, content, *_ = values
                yield number, id_, origin, placed(source, roots[origin]), label, stamp, content

    def texts(self, start: int, count: int, names: Sequence[str]) -> dict[str, Any]:
        """The ids, labels or sources of those rows as pyarrow Arrays, by name.

        Meant for reading all rows: it checks the table's file as a whole, which is faster than row by row.
        """
        import pyarrow as pa

        self._generation.path(self._items, whole=True)
        self._others  # noqa: B018 - which checks the columns that aren't read
        parts: dict[str, list[Any]] = {name: [] for name in names}
        done, some = 0, LISTED
        while done < count:
            some = min(some, count - done)
            part = self._some_texts(start + done, some, names)
            if part is None:
                if some == 1:
                    raise self._damaged(f"row {start + done} is too long")
                some //= 2
                continue
            for name, texts in part.items():
                parts[name].append(texts)
            done += some
        return {name: pa.chunked_array(some, pa.string()).combine_chunks() for name, some in parts.items()}

    @cached_property
    def _others(self) -> None:
        """Raises StoreError if columns that `texts` doesn't read hold what no column of simrec's does."""
        if self.record.format < 3:
            return
        odd = [f"typeof({name}) <> '{kind}'" for name, kind in _STORED.items()]
        if self.record.format > 3:
            odd.append(f"typeof(origin) <> 'integer' OR origin NOT BETWEEN 0 AND {len(self._sources) - 1}")
        with self._explained(), self._cursor(f"SELECT row FROM items WHERE {' OR '.join(odd)} LIMIT 1") as cursor:
            row = cursor.fetchone()
        if row is not None:
            raise self._damaged(f"row {row[0]!r:.100} can't be a row of it")

    def _some_texts(self, start: int, count: int, names: Sequence[str]) -> dict[str, Any] | None:
        """See `texts`; None if that is more than SQLite returns at once.

        SQLite returns each column as one JSON list, which is faster than row by row too.
        """
        import pyarrow as pa

        roots = [record.root for record in self._sources]
        several = "source" in names and len(roots) > 1 and self.record.format > 3
        lists = ", ".join(f"json_group_array({name})" for name in ("row", *(["origin"] if several else []), *names))
        with self._explained():
            try:
                with self._cursor(
                    f"SELECT {lists} FROM items WHERE row >= ? AND row < ?", start, start + count
                ) as answer:
                    rows, *columns = answer.fetchone()
            except sqlite3.DataError:
                return None
        try:
            if _NUMBERS.decode(rows) != list(range(start, start + count)):
                raise ValueError(f"it lacks one of the rows {start} to {start + count - 1}, or they aren't in order")
            origins = _NUMBERS.decode(columns.pop(0)) if several else None
            if origins and set(origins) - set(range(len(roots))):
                raise ValueError(f"one of the rows {start} to {start + count - 1} has no source")
            texts = {name: _TEXTS.decode(column) for name, column in zip(names, columns, strict=True)}
        except ValueError as error:  # msgspec's errors are ValueErrors too
            raise self._damaged(str(error)) from error
        arrays = {name: pa.array(some, pa.string()) for name, some in texts.items()}
        if "source" in arrays:
            arrays["source"] = _all_placed(arrays["source"], origins, roots)
        return arrays

    def whole(self, size: int = 4096) -> Iterator[tuple[list[int], list[Item], list[bytes]]]:
        """All rows except removed ones, some at a time: their numbers, items with fields, and previews."""
        removed = set(self.removed.tolist())
        names, roots = zip(*((one.name, one.root) for one in self._sources), strict=True)
        self._generation.path(self._items, whole=True)  # the whole file's digest is faster than each row's
        for start in range(0, len(self), size):
            records = self._selected("row >= ? ORDER BY row", start, min(size, len(self) - start))
            self._check(records)
            if removed:
                records = [values for values in records if values[0] not in removed]
            numbers = [values[0] for values in records]
            shown = self._kept(map(_PLACE, records))
            items = [
                Item(
                    id_, source if roots[origin] is None else placed(source, roots[origin]), label, fields, stamp,
                    content, names[origin],
                )
                for (_, id_, origin, source, label, stamp, content, _, _, _, _), fields in zip(
                    records, self.fields(numbers), strict=True
                )
            ]  # fmt: skip
            yield numbers, items, shown

    def fields(self, numbers: Sequence[int]) -> list[dict[str, Value]]:
        """The fields of those rows."""
        return self.columns.rows(numbers) if self.columns else [{} for _ in numbers]

    @property
    def kinds(self) -> dict[str, Kind]:
        """What its fields hold, by name."""
        return self.columns.kinds if self.columns else {}

    def column(self, name: str) -> Any:
        """The ids, the labels or a field of all rows as a pyarrow Array, see `Columns.column`; None if it has none."""
        if name in ("id", "label"):
            return self._texts(name)
        return self.columns.column(name) if name in self.kinds and self.columns else None

    def _texts(self, name: str) -> Any:
        """The table's ids or labels, by row; null for no text."""
        import pyarrow as pa

        from simrec.catalogue.fields import compact

        if name not in self._read:
            left = self._generation.manifest.files[self._items].size
            texts: list[str | None] = []
            with self._explained(), self._cursor(f"SELECT row, {name} FROM items ORDER BY row") as cursor:
                for row, text in cursor:
                    left -= len(text) if isinstance(text, str) else left + 1
                    if left < 0 or row != len(texts):
                        raise self._damaged(f"its {name}s are not what was written")
                    texts.append(text or None)
            if len(texts) != len(self):
                raise self._damaged(f"it has {len(texts):,} rows of {len(self):,}")
            self._read[name] = compact(pa.array(texts, pa.string()))
        return self._read[name]

    @cached_property
    def columns(self) -> Columns | None:
        """Its fields, None if it has none."""
        name = self.record.fields
        if name is None:
            return None
        from simrec.catalogue.fields import Columns

        try:
            # Read as a whole: its values have no checksums of their own.
            return Columns(self._generation.path(name, whole=True), len(self))
        except ValueError as error:
            raise self._generation.damaged(name, str(error)) from error

    def preview(self, row: Row) -> bytes:
        """The preview of one of its rows, as a JPEG or PNG file."""
        return self._kept([(row.number, row.start, row.length, row.preview)])[0]

    def _kept(self, places: Iterable[tuple[int, int, int, int]]) -> list[bytes]:
        """Previews, given the row, start, length and checksum of each."""
        data, shown = self._previews, []
        for number, start, length, checksum in places:
            preview = data[start : start + length]
            if len(preview) != length or (zlib.crc32(preview) != checksum != -1):
                name = f"{self.record.folder}/{self._previews_name}"
                raise self._generation.damaged(name, f"the preview of row {number} is not what was written")
            shown.append(preview)
        return shown

    def picture(self, row: Row) -> Image:
        """The preview of one of its rows, decoded."""
        edge = previews.EDGE if self.record.format > 2 else self._encoder.input.size
        try:
            return previews.opened(self.preview(row), edge)
        except ValueError as error:
            raise self._generation.damaged(
                f"{self.record.folder}", f"the preview of row {row.number}: {error}"
            ) from error

    @cached_property
    def _previews(self) -> mmap.mmap | bytes:
        return self._generation.mapped(f"{self.record.folder}/{self._previews_name}")

    @property
    def _previews_name(self) -> str:
        return "previews.bin" if self.record.format > 2 else "thumbnails-000001.bin"

    @property
    def _codes(self) -> str:
        return f"{self.record.folder}/{'codes.faiss' if self.record.format > 2 else 'index.faiss'}"

    @property
    def _items(self) -> str:
        return f"{self.record.folder}/items.sqlite"

    @cached_property
    def _connection(self) -> sqlite3.Connection:
        self._generation.check_there(self._items)  # SQLite would wait for a pipe
        path = (self._generation.recommender / self._items).absolute()
        try:
            # By its bytes: SQLite takes a path as UTF-8, which a folder's name needn't be.
            connection = sqlite3.connect(
                f"file:{quote_from_bytes(os.fsencode(path))}?mode=ro&immutable=1", uri=True, check_same_thread=False
            )
        except sqlite3.Error as error:
            raise self._damaged(str(error)) from error
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LARGEST_VALUE)
        # By itself it would stay open until the garbage collector runs: it and its cache refer to each other.
        weakref.finalize(self, connection.close).atexit = False
        return connection

    @cached_property
    def _table(self) -> sqlite3.Connection:
        """The connection, after checking that the file is a table that simrec writes."""
        self._generation.path(self._items)  # it checks a small file's digest
        with self._explained():
            self._connection.execute("PRAGMA trusted_schema = OFF")
            held = set(self._connection.execute("SELECT type, name, sql FROM sqlite_schema"))
            if held != _TABLES[self.record.format] | {("index", "sqlite_autoindex_items_1", None)}:
                raise self._damaged(f"it holds other tables: {', '.join(sorted(str(n) for _, n, _ in held))}")
            codes = self._generation.manifest.files.get(self._codes)
            if self.record.format > 3 and codes is not None:
                (place,) = self._connection.execute("PRAGMA application_id").fetchone()
                (mark,) = self._connection.execute("PRAGMA user_version").fetchone()
                if mark != mark_of(codes.sha256) or place not in (place_of(self.record.folder), NO_PLACE):
                    raise self._damaged("it is another segment's")
            last = self._connection.execute("SELECT max(row) FROM items").fetchone()[0]
            if last != len(self) - 1:
                raise self._damaged(f"its last row is {last}, of {len(self):,} items")
        return self._connection

    def _select(self, condition: str, value: _Values, limit: int | None = None) -> list[Row]:
        return self._rows_of(self._selected(condition, value, limit))

    def _selected(self, condition: str, value: _Values, limit: int | None) -> list[tuple[Any, ...]]:
        most = len(self) + 1 if limit is None else limit
        sql = f"SELECT {_COLUMNS[self.record.format]} FROM items WHERE {condition}"
        with self._explained(), self._cursor(sql, *(value if isinstance(value, list) else [value])) as cursor:
            return cursor.fetchmany(most)

    @contextlib.contextmanager
    def _cursor(self, sql: str, *values: str | int | bytes) -> Iterator[sqlite3.Cursor]:
        """A query's result, to be read in the block, in no more steps than its number of items needs."""
        table, left = self._table, STEPS * (len(self) + 1000)
        batch = 10_000

        def ended() -> bool:
            nonlocal left
            left -= batch
            return left < 0

        with self._asking:
            table.set_progress_handler(ended, batch)
            yield table.execute(sql, values)

    def _check(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Raises StoreError if one of them can't be a row of the table."""
        if not self._fit(rows):
            odd = next(values for values in rows if not self._fit([values]))
            raise self._damaged(f"{odd!r:.100} can't be a row of it")

    def _fit(self, rows: Sequence[tuple[Any, ...]]) -> bool:
        """Whether all rows fit the table; checks column by column, which is faster than row by row."""
        if not rows:
            return True
        columns = list(zip(*rows, strict=True))
        if any(set(map(type, column)) != {kind} for column, kind in zip(columns, _KINDS, strict=True)):
            return False
        bounds = ((0, 0, len(self) - 1), (2, 0, len(self._sources) - 1), (8, 1, self._largest_preview))
        return min(columns[7]) >= 0 and all(
            least <= min(columns[place]) and max(columns[place]) <= most for place, least, most in bounds
        )

    def _rows_of(self, rows: Sequence[tuple[Any, ...]]) -> list[Row]:
        return [
            Row(number, item, origin, start, length, preview)
            for item, (number, _, origin, _, _, _, _, start, length, preview, _) in zip(
                self._items_of(rows), rows, strict=True
            )
        ]

    def _items_of(self, rows: Sequence[tuple[Any, ...]]) -> list[Item]:
        self._check(rows)
        sources, items, version = self._sources, [], self.record.format
        for number, id_, origin, source, label, stamp, content, _, _, preview, kept in rows:
            if version > 2:
                texts = (id_, source, label, stamp, content)
                if kept != checksum(texts, preview, origin if version > 3 else None):
                    raise self._damaged(f"row {number} is not what was written")
            record = sources[origin]
            items.append(Item(id_, placed(source, record.root), label, {}, stamp, content, record.name))
        return items

    @property
    def _largest_preview(self) -> int:
        return previews.LARGEST if self.record.format > 2 else 1 << 28

    def _there(self, rows: list[Row]) -> list[Row]:
        return [row for row in rows if row.number not in self.removed] if len(self.removed) else rows

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, sqlite3.Warning, OverflowError, UnicodeDecodeError) as error:
            raise self._damaged(str(error)) from error

    def _damaged(self, why: str) -> StoreError:
        return self._generation.damaged(self._items, why)


def mark_of(sha256: str) -> int:
    """The `user_version` of a table of format 5, which ties it to its segment: the beginning of the digest of the codes
    beside it.
    """
    return int(sha256[:7], 16)


def place_of(folder: str) -> int:
    """The `application_id` of a table, which ties it to its segment's folder: segments can have the same codes,
    especially binary ones of a few items.
    """
    return zlib.crc32(folder.encode()) >> 1 or 1


def checksum(texts: Sequence[str], preview: int, origin: int | None) -> int:
    """The CRC-32 of a row: its texts, each after its length, its preview's checksum and its origin."""
    id_, source, label, stamp, content = texts
    data = (  # a single text for speed: every item of an answer is checked
        f"{len(id_)}:{id_}{len(source)}:{source}{len(label)}:{label}{len(stamp)}:{stamp}{len(content)}:{content}"
    )
    end = "" if origin is None else f" {origin}"
    return zlib.crc32(f"{data}{preview}{end}".encode("utf-8", "surrogatepass"))


def placed(source: str, root: str | None) -> str:
    """The path of an item's picture file: the inverse of `inside`."""
    return source if root is None or os.path.isabs(source) else f"{root.rstrip('/')}/{source}"  # noqa: PTH117 - quick


def _all_placed(sources: Any, origins: Sequence[int] | None, roots: Sequence[str | None]) -> Any:
    """`placed` for a pyarrow Array of texts; origins: None if all are from the first source."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if origins is None and os.name != "nt" and not pc.any(pc.starts_with(sources, "/")).as_py():
        return sources if roots[0] is None else pc.binary_join_element_wise(roots[0].rstrip("/"), sources, "/")
    pairs = zip(sources.to_pylist(), origins or [0] * len(sources), strict=True)
    return pa.array([placed(source, roots[origin]) for source, origin in pairs], pa.string())


def inside(source: str, root: str | None) -> str:
    """What the table keeps of an item's path: the part below its source's root, if it lies there."""
    return source if root is None else source.removeprefix(f"{root.rstrip('/')}/")


def opened(generation: Generation) -> list[Segment]:
    """The segments of a generation's catalogue, in order. Raises StoreError if they don't belong together."""
    manifest: Manifest = generation.manifest
    assert manifest.catalogue is not None
    segments = [Segment(generation, record) for record in manifest.catalogue.segments]
    rows = sum(len(one) - len(one.removed) for one in segments)
    if rows != manifest.catalogue.count:
        raise StoreError(
            f"{generation.recommender}: its segments have {rows:,} rows, for {manifest.catalogue.count:,} items: "
            f"'simrec index build {generation.recommender.name} --from-scratch' makes it again, with its encoder"
        )
    return segments
