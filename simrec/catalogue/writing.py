"""Writing a segment: see `simrec.catalogue.segment` for its files."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import sqlite3
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from simrec.arrays import to_npy
from simrec.catalogue import previews, segment
from simrec.catalogue.fields import Kind, write
from simrec.contracts import Codes, Dtype, Entry, Metric, Value
from simrec.manifest import SegmentRecord
from simrec.store import Writer

if TYPE_CHECKING:
    from simrec.catalogue.building import New
    from simrec.catalogue.segment import Row, Segment
    from simrec.index import Index


@dataclass(frozen=True)
class Kept:
    """How the segments of a catalogue keep codes and fields.

    sample: codes (k, dim) from which ranges and medians are taken, the same for all segments. like: an index that has
    them already; replaces the sample. kinds: the fields' types. roots: those of the catalogue's sources.
    """

    dim: int
    metric: Metric
    dtype: Dtype
    sample: Codes
    kinds: Mapping[str, Kind]
    roots: Sequence[str | None]
    like: Index | None = None


class SegmentWriter:
    """Writes a segment, some rows at a time; keeps its codes in memory until the end."""

    def __init__(self, writer: Writer, kept: Kept) -> None:
        from simrec.index import Index

        self._writer, self._kept = writer, kept
        self._folder = writer.new("segments")
        with _as_os_error():
            self._table = self._new_table()
        self._previews = writer.path(f"{self._folder}/previews.bin").open("xb")
        empty = np.empty((0, kept.dim), np.float32)
        trained = Index(empty, kept.metric, kept.dtype, trained=kept.sample)
        self._index = trained if kept.like is None else kept.like.emptied()
        self._lengths: list[NDArray[np.float32]] = []
        self._fields: list[Mapping[str, Value]] = []

    def _new_table(self) -> sqlite3.Connection:
        table = sqlite3.connect(self._writer.path(f"{self._folder}/items.sqlite"), isolation_level=None)
        for setting in ("journal_mode", "synchronous"):  # the file is used only once it is complete
            table.execute(f"PRAGMA {setting} = OFF")
        table.execute("BEGIN")
        table.execute(segment.SCHEMA)
        return table

    def __len__(self) -> int:
        return len(self._index)

    def add(self, new: New) -> None:
        """Adds rows."""
        self._add_items(new.entries, new.origins, new.contents, new.previews)
        if self._keeps_lengths:
            self._lengths.append(np.linalg.norm(new.codes, axis=1))
        self._index.add(new.codes)

    def copy(self, other: Segment, rows: Sequence[Row], entries: Sequence[Entry], origins: Sequence[int]) -> None:
        """Adds rows of another segment of the same catalogue under new entries; codes and previews are copied as they
        are.
        """
        numbers = [row.number for row in rows]
        self._add_items(entries, origins, [row.item.content for row in rows], [other.preview(row) for row in rows])
        if self._keeps_lengths:
            self._lengths.append(other.lengths(numbers))
        self._index.add_packed(other.index.packed(numbers))

    @property
    def _keeps_lengths(self) -> bool:
        return self._kept.metric == "cosine" and self._kept.dtype == "float32"

    def _add_items(
        self, entries: Sequence[Entry], origins: Sequence[int], contents: Sequence[str], pictures: Sequence[bytes]
    ) -> None:
        rows = []
        described = zip(entries, origins, contents, pictures, strict=True)
        for number, (entry, origin, content, given) in enumerate(described, len(self)):
            preview = given or previews.NONE
            crc = zlib.crc32(preview)
            source = segment.inside(entry.source, self._kept.roots[origin])
            texts = (entry.id, source, entry.label, entry.stamp, content)
            place = (self._previews.tell(), len(preview), crc)
            checksum = segment.checksum(texts, crc, origin)
            rows.append((number, entry.id, origin, *texts[1:4], bytes.fromhex(content), *place, checksum))
            self._previews.write(preview)
        with _as_os_error():
            self._table.executemany(f"INSERT INTO items VALUES ({', '.join('?' * 11)})", rows)
        if self._kept.kinds:
            self._fields += [entry.fields for entry in entries]

    def finish(self) -> SegmentRecord:
        """Finishes the files; returns their record for the manifest."""
        codes = self._index.to_bytes()
        with _as_os_error():
            self._table.execute(segment.INDEX)
            self._table.execute(f"PRAGMA application_id = {segment.place_of(self._folder)}")
            self._table.execute(f"PRAGMA user_version = {segment.mark_of(hashlib.sha256(codes).hexdigest())}")
            self._table.execute("COMMIT")
            self._table.close()
        self._previews.close()
        self._writer.write(f"{self._folder}/codes.faiss", codes)
        if self._lengths:
            self._writer.write(f"{self._folder}/lengths.npy", to_npy(np.concatenate(self._lengths)))
        fields = None
        if self._kept.kinds:
            fields = f"{self._writer.new('fields')}.arrow"
            write(self._writer.path(fields), self._fields, self._kept.kinds)
        return SegmentRecord(self._folder, len(self), fields=fields)


@contextlib.contextmanager
def _as_os_error() -> Iterator[None]:
    """Turns SQLite's error for a file that can't be written into the OSError that other files raise."""
    try:
        yield
    except sqlite3.OperationalError as error:
        full = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_FULL
        raise OSError(errno.ENOSPC if full else errno.EIO, str(error)) from error
