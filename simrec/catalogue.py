"""The items that a recommender answers with: ids, sources, labels, thumbnails.

Items are rows of an SQLite table, opened read-only. A thumbnail is what the encoder saw, as PNG (lossless, with its
own checksum), in a segment beside it; the table says where.
"""

from __future__ import annotations

import hashlib
import io
import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from simrec.contracts import Images, Pictures
from simrec.errors import StoreError
from simrec.store import Generation, Writer

SEGMENT = "thumbnails-000001.bin"

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
    """The items of one generation, open for reading."""

    def __init__(self, generation: Generation) -> None:
        self._generation = generation

    def items(self, rows: Sequence[int]) -> list[Item]:
        """The items in those rows, in that order."""
        found = {item.row: item for item in self._select(f"WHERE row IN {_AMONG}", [_listed(rows)])}
        return [found[int(row)] for row in rows]

    def all(self) -> Iterator[Item]:
        """Every item, by row."""
        return self._select("ORDER BY row", [])

    def row_of(self, id_: str) -> int | None:
        """The row of an id, None when there is no such item."""
        return next((row for (row,) in self._query("SELECT row FROM items WHERE id = ?", [id_])), None)

    def rows_like(self, image: NDArray[np.uint8]) -> list[int]:
        """The rows of the items whose pixels are exactly those of an image (h, w, c)."""
        return [row for (row,) in self._query("SELECT row FROM items WHERE pixels = ?", [_pixels(image)])]

    def thumbnails(self, rows: Sequence[int] | None = None) -> Images:
        """What the encoder saw, (n, h, w, c): of those rows in that order, or of all."""
        columns = "SELECT row, segment, start, length FROM items"
        if rows is None:
            places = {row: (s, a, n) for row, s, a, n in self._query(f"{columns} ORDER BY row", [])}
            rows = list(places)
        else:
            found = self._query(f"{columns} WHERE row IN {_AMONG}", [_listed(rows)])
            places = {row: (s, a, n) for row, s, a, n in found}
        images = []
        for row in rows:
            name, start, length = places[int(row)]
            images.append(_from_png(self._segments[name][start : start + length].tobytes(), name))
        return np.stack(images) if images else np.empty((0, 0, 0, 0), np.uint8)

    @cached_property
    def _segments(self) -> dict[str, NDArray[np.uint8]]:
        """Open from the first question on, so that they can be read when the generation is gone."""
        record = self._generation.manifest.catalogue
        assert record is not None
        return {name: np.memmap(self._generation.path(name), np.uint8, "r") for name in record.segments}

    @cached_property
    def _connection(self) -> sqlite3.Connection:
        self._generation.read("items.sqlite")  # checks size and digest
        path = self._generation.path("items.sqlite").absolute()
        return sqlite3.connect(f"file:{quote(str(path))}?mode=ro&immutable=1", uri=True)

    def _query(self, sql: str, values: list[Any]) -> Iterable[Any]:
        return self._connection.execute(sql, values)

    def _select(self, rest: str, values: list[Any]) -> Iterator[Item]:
        return (Item(*fields) for fields in self._query(f"SELECT row, id, source, label FROM items {rest}", values))


def _listed(rows: Sequence[int]) -> str:
    return json.dumps([int(row) for row in rows])


def _table(rows: list[tuple[Any, ...]]) -> bytes:
    """The table as the bytes of an SQLite file, so that it is written, synced and checked like any other."""
    connection = sqlite3.connect(":memory:")
    try:
        connection.execute(_SCHEMA)
        connection.executemany("INSERT INTO items VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
        connection.execute("CREATE INDEX by_pixels ON items (pixels)")
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


def _from_png(data: bytes, segment: str) -> NDArray[np.uint8]:
    from PIL import Image

    try:
        Image.open(io.BytesIO(data)).verify()  # the checksums; decoding alone passes over them
        pixels = np.asarray(Image.open(io.BytesIO(data)))
    except (OSError, SyntaxError, ValueError) as error:
        raise StoreError(f"{segment}: a thumbnail is damaged ({error}): build the index anew") from error
    return pixels if pixels.ndim == 3 else pixels[:, :, np.newaxis]
