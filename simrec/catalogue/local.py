"""The items that a recommender answers with: ids, sources, labels, thumbnails.

Items are rows of an SQLite table, opened read-only. A thumbnail is what the encoder saw, as PNG (lossless, with its
own checksum), in a segment beside it; the table says where.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import sqlite3
import struct
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import quote_from_bytes

import numpy as np
from numpy.typing import NDArray

from simrec.contracts import Images, Pictures
from simrec.errors import StoreError
from simrec.store import Generation, Writer

SEGMENT = "thumbnails-000001.bin"

LARGEST_THUMBNAIL = 1 << 28
"""Bytes of the largest thumbnail."""

LARGEST_VALUE = 1 << 20
"""Bytes of the longest id, source, label or row."""

_SCHEMA = """
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

_INDEX = "CREATE INDEX by_pixels ON items (pixels)"

_TABLES = {
    ("table", "items", _SCHEMA.strip()),
    ("index", "by_pixels", _INDEX),
    ("index", "sqlite_autoindex_items_1", None),
}
"""All that an items.sqlite holds. A view or trigger would be run by whoever asks the table."""

STEPS = 200
"""Of SQLite's machine, for each item, that a question may take; the longest takes a dozen."""

_AMONG = "(SELECT value FROM json_each(?))"
"""Among rows given as one JSON list: SQLite takes only so many values one by one."""


@dataclass(frozen=True)
class Item:
    """One item; label is "" where there is none."""

    row: int
    id: str
    source: str
    label: str


def write(writer: Writer, pictures: Pictures, progress: Callable[[int], None]) -> tuple[str, ...]:
    """Stages the items of a catalogue, rows as the pictures are ordered; returns its thumbnail segments."""
    segment, rows = bytearray(), []
    for row, image in enumerate(pictures.images):
        png = _png(image)
        rows.append(
            (row, pictures.ids[row], pictures.sources[row], pictures.labels[row], _pixels(image), SEGMENT,
             len(segment), len(png))
        )  # fmt: skip
        segment += png
        if row % 512 == 511:
            progress(row + 1)
    writer.write(SEGMENT, segment)
    writer.write("items.sqlite", _table(rows))
    return (SEGMENT,)


class Catalogue:
    """The items of one generation, open for reading. Whatever is asked raises StoreError where its files are damaged.

    They may have come from anyone: the table is one that simrec writes, a question takes no longer than one about so
    many items can, and what is read of an item is what its columns say.
    """

    def __init__(self, generation: Generation) -> None:
        record = generation.manifest.catalogue
        assert record is not None
        self._generation = generation
        self._record = record
        self._shape = generation.manifest.encoder.input.shape
        self._asking = threading.Lock()  # SQLite's limit on a question is the connection's, which all threads share

    def items(self, rows: Sequence[int]) -> list[Item]:
        """The items in those rows, in that order."""
        found = {item.row: item for item in self._select(f"WHERE row IN {_AMONG}", [_listed(rows)])}
        return [self._there(found, int(row)) for row in rows]

    def all(self) -> Iterator[Item]:
        """Every item, by row."""
        row = -1
        for row, item in enumerate(self._select("ORDER BY row", [])):
            if item.row != row:
                raise self._damaged("items.sqlite", f"it has no row {row}")
            yield item
        if row != self._record.count - 1:
            raise self._damaged("items.sqlite", f"{row + 1:,} rows, of {self._record.count:,} items")

    def row_of(self, id_: str) -> int | None:
        """The row of an id, None when there is no such item."""
        return next((row for (row,) in self._query("SELECT row FROM items WHERE id = ?", [id_], (int,))), None)

    def rows_like(self, image: NDArray[np.uint8]) -> list[int]:
        """The rows of the items whose pixels are exactly those of an image (h, w, c)."""
        found = self._query("SELECT row FROM items WHERE pixels = ?", [_pixels(image)], (int,))
        return [row for (row,) in found]

    def thumbnails(self, rows: Sequence[int] | None = None) -> Images:
        """What the encoder saw, (n, h, w, c): of those rows in that order, or of all."""
        columns, kinds = "SELECT row, segment, start, length FROM items", (int, str, int, int)
        if rows is None:
            places = {row: place for row, *place in self._query(f"{columns} ORDER BY row", [], kinds)}
            rows = range(len(places))
        else:
            found = self._query(f"{columns} WHERE row IN {_AMONG}", [_listed(rows)], kinds)
            places = {row: place for row, *place in found}
        images = np.empty((len(rows), *self._shape), np.uint8)
        for number, row in enumerate(rows):
            segment, start, length = self._there(places, int(row))
            if segment not in self._segments or start < 0 or not 0 < length <= LARGEST_THUMBNAIL:
                raise self._damaged("items.sqlite", f"row {row} has no thumbnail")
            png = self._segments[segment][start : start + length].tobytes()
            try:
                images[number] = _from_png(png, self._shape)
            except ValueError as error:
                raise self._damaged(segment, f"the thumbnail of row {row}: {error}") from error
        return images

    @cached_property
    def _segments(self) -> dict[str, NDArray[np.uint8]]:
        """Open from the first question on, so that they can be read when the generation is gone."""
        return {name: self._mapped(name) for name in self._record.segments}

    def _mapped(self, name: str) -> NDArray[np.uint8]:
        with self._generation.open(name) as file:
            try:
                return np.memmap(file, np.uint8, "r")
            except ValueError as error:  # it is empty
                raise self._damaged(name, str(error)) from error

    @cached_property
    def _connection(self) -> sqlite3.Connection:
        self._generation.read("items.sqlite")  # checks size and digest
        path = self._generation.path("items.sqlite").absolute()
        # By its bytes: SQLite takes a path as UTF-8, which a folder's name needn't be.
        connection = sqlite3.connect(
            f"file:{quote_from_bytes(os.fsencode(path))}?mode=ro&immutable=1", uri=True, check_same_thread=False
        )
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LARGEST_VALUE)
        return connection

    @cached_property
    def _table(self) -> sqlite3.Connection:
        """The connection, once the file was seen to be a table of simrec's."""
        with self._explained():
            self._connection.execute("PRAGMA trusted_schema = OFF")
            held = set(self._connection.execute("SELECT type, name, sql FROM sqlite_schema"))
            if held != _TABLES:
                raise self._damaged(
                    "items.sqlite", f"it holds other tables: {', '.join(sorted(str(n) for _, n, _ in held))}"
                )
            last = self._connection.execute("SELECT max(row) FROM items").fetchone()[0]
            if last != (self._record.count - 1 if self._record.count else None):
                raise self._damaged("items.sqlite", f"its last row is {last}, of {self._record.count:,} items")
        return self._connection

    def _query(self, sql: str, values: list[Any], kinds: tuple[type, ...]) -> list[Any]:
        """The rows that answer a question; kinds: of their columns."""
        table, left = self._table, STEPS * (self._record.count + 1000)
        batch = 10_000

        def ended() -> bool:
            nonlocal left
            left -= batch
            return left < 0

        with self._explained(), self._asking:
            table.set_progress_handler(ended, batch)
            rows = table.execute(sql, values).fetchmany(self._record.count + 1)
        for row in rows:
            if tuple(map(type, row)) != kinds:
                raise self._damaged("items.sqlite", f"{row!r:.100} is no row of it")
        return rows

    def _select(self, rest: str, values: list[Any]) -> Iterator[Item]:
        found = self._query(f"SELECT row, id, source, label FROM items {rest}", values, (int, str, str, str))
        return (Item(*fields) for fields in found)

    def _there(self, found: Mapping[int, Any], row: int) -> Any:
        if row not in found:
            raise self._damaged("items.sqlite", f"it has no row {row}")
        return found[row]

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, sqlite3.Warning, OverflowError, UnicodeDecodeError) as error:
            raise self._damaged("items.sqlite", str(error)) from error

    def _damaged(self, name: str, why: str) -> StoreError:
        return self._generation.damaged(name, why)


def _listed(rows: Sequence[int]) -> str:
    return json.dumps([int(row) for row in rows])


def _table(rows: list[tuple[Any, ...]]) -> bytes:
    """The table as the bytes of an SQLite file, so that it is written, synced and checked like any other."""
    connection = sqlite3.connect(":memory:")
    try:
        connection.execute(_SCHEMA)
        connection.executemany("INSERT INTO items VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
        connection.execute(_INDEX)
        connection.commit()
        return connection.serialize()
    finally:
        connection.close()


def _pixels(image: NDArray[np.uint8]) -> bytes:
    return hashlib.blake2b(image.tobytes(), digest_size=8).digest()


def _png(image: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(buffer, "PNG")
    return buffer.getvalue()


def _from_png(data: bytes, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """A thumbnail of that shape (h, w, c). Raises ValueError for anything that `_png` doesn't write."""
    from PIL import Image

    # Its header, before anything is made of the size that it says; Pillow would take the last of several.
    if data[:8] != b"\x89PNG\r\n\x1a\n" or data[16:24] != struct.pack(">2I", shape[1], shape[0]):
        raise ValueError(f"no PNG of {shape[1]} x {shape[0]} pixels")
    chunks = _chunks(data)
    if chunks[0] != b"IHDR" or chunks[-1] != b"IEND" or set(chunks[1:-1]) != {b"IDAT"}:
        raise ValueError("it has other chunks than a thumbnail")
    try:
        Image.open(io.BytesIO(data), formats=["PNG"]).verify()  # the checksums; decoding alone passes over them
        pixels = np.asarray(Image.open(io.BytesIO(data), formats=["PNG"]))
    except Exception as error:  # decoders meet a damaged file with many exceptions
        raise ValueError(str(error)) from error
    if pixels.dtype != np.uint8 or pixels.size != np.prod(shape):
        raise ValueError(f"it has other pixels than {shape}")
    return pixels.reshape(shape)


def _chunks(png: bytes) -> list[bytes]:
    """The names of a PNG's chunks, in order. Raises ValueError when they don't end where the file does."""
    names, place = [], 8
    while place + 12 <= len(png):
        (length,) = struct.unpack(">I", png[place : place + 4])
        names.append(png[place + 4 : place + 8])
        place += 12 + length
    if place != len(png) or not names:
        raise ValueError("it is cut short, or longer than it says")
    return names
