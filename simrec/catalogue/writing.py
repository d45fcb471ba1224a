"""Writing a segment: see `simrec.catalogue.segment` for its files."""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simrec.arrays import to_npy
from simrec.catalogue import segment
from simrec.catalogue.fields import Kind, write
from simrec.contracts import Codes, Dtype, Entry, Metric, Value
from simrec.manifest import SegmentRecord
from simrec.store import Writer


@dataclass(frozen=True)
class Kept:
    """How the segments of a catalogue keep codes and fields.

    sample: codes (k, dim) that ranges and medians are taken from, the same for all segments. kinds: of the fields.
    """

    dim: int
    metric: Metric
    dtype: Dtype
    sample: Codes
    kinds: Mapping[str, Kind]


class SegmentWriter:
    """Writes a segment, some rows at a time; its codes are in memory until the end."""

    def __init__(self, writer: Writer, kept: Kept) -> None:
        from simrec.index import Index

        self._writer, self._kept = writer, kept
        self._folder = writer.new("segments")
        self._table = sqlite3.connect(writer.path(f"{self._folder}/items.sqlite"), isolation_level=None)
        for setting in ("journal_mode", "synchronous"):  # the file counts only once it is whole
            self._table.execute(f"PRAGMA {setting} = OFF")
        self._table.execute("BEGIN")
        self._table.execute(segment.SCHEMA)
        self._previews = writer.path(f"{self._folder}/previews.bin").open("xb")
        empty = np.empty((0, kept.dim), np.float32)
        self._index = Index(empty, kept.metric, kept.dtype, trained=kept.sample)
        self._lengths: list[NDArray[np.float32]] = []
        self._fields: list[Mapping[str, Value]] = []

    def __len__(self) -> int:
        return len(self._index)

    def add(self, entries: Sequence[Entry], contents: Sequence[str], pictures: Sequence[bytes], codes: Codes) -> None:
        """Adds rows: entries, the digests of their pictures' files, their previews and codes (n, dim)."""
        rows = []
        for number, (entry, content, preview) in enumerate(zip(entries, contents, pictures, strict=True), len(self)):
            crc = zlib.crc32(preview)
            texts = (entry.id, entry.source, entry.label, entry.stamp, content)
            place = (self._previews.tell(), len(preview), crc)
            rows.append((number, *texts[:4], bytes.fromhex(content), *place, segment.checksum(texts, crc)))
            self._previews.write(preview)
        self._table.executemany(f"INSERT INTO items VALUES ({', '.join('?' * 10)})", rows)
        if self._kept.kinds:
            self._fields += [entry.fields for entry in entries]
        if self._kept.metric == "cosine" and self._kept.dtype == "float32":
            self._lengths.append(np.linalg.norm(codes, axis=1))
        self._index.add(codes)

    def finish(self) -> SegmentRecord:
        """Ends the files; what the manifest says of them."""
        self._table.execute(segment.INDEX)
        self._table.execute("COMMIT")
        self._table.close()
        self._previews.close()
        self._writer.write(f"{self._folder}/codes.faiss", self._index.to_bytes())
        if self._lengths:
            self._writer.write(f"{self._folder}/lengths.npy", to_npy(np.concatenate(self._lengths)))
        fields = None
        if self._kept.kinds:
            fields = f"{self._writer.new('fields')}.arrow"
            write(self._writer.path(fields), self._fields, self._kept.kinds)
        return SegmentRecord(self._folder, len(self), fields=fields)
