"""NumPy's .npz: one array per column."""

from __future__ import annotations

import re
import struct
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from simrec.contracts import ExportRecord, Origin
from simrec.errors import RequestError
from simrec.exporters.content import NUMBERS, codes
from simrec.exporters.files import writing, written
from simrec.exporters.npy import header
from simrec.exporters.reading import LARGEST as LARGEST_RECORD
from simrec.exporters.reading import batch as reread
from simrec.exporters.reading import missing, numbers, parsed, reading, size
from simrec.exporters.spool import spooled
from simrec.files import opened

RECORD = "simrec.json"
"""The member that holds the record."""

LARGEST = 1 << 30
"""Maximum bytes of an array of texts, in which each text takes as much room as the longest."""


def write(target: str | BinaryIO, table: Any, origin: Origin) -> Sequence[str]:
    """`.npz`: one array per column, `code` (n, dim), and the record as `simrec.json`.

    A missing whole number becomes NaN and makes its column float64; a missing text becomes "". Raises RequestError for
    texts that would take more than LARGEST bytes.
    """
    if "preview" in table.schema.names:
        raise RequestError("preview: a .npz holds numbers and texts: leave it out, or write a .parquet")
    seen = _Seen(table.schema.names)
    with spooled(table.schema, seen.all(table)) as again, writing(target) as (file,):
        finished = origin.finished()
        count = finished.count or 0
        with zipfile.ZipFile(file, "w", allowZip64=True) as archive:
            for name in table.schema.names:
                kind = NUMBERS[finished.dtype] if name == "code" else seen.kind(table.schema.field(name), count)
                entry = zipfile.ZipInfo(f"{name}.npy")
                entry.compress_type = zipfile.ZIP_DEFLATED if kind.startswith("<U") else zipfile.ZIP_STORED
                shape = (count, finished.dim) if name == "code" else (count,)
                with archive.open(entry, "w", force_zip64=True) as member:
                    member.write(header(kind, shape))
                    for batch in again():
                        numbers = codes(batch) if name == "code" else _array(batch.column(name), kind)
                        member.write(np.ascontiguousarray(numbers).data)
            archive.writestr(RECORD, finished.to_bytes())
    return written(target)


class _Seen:
    """What must be known about all rows before the first is written: how long texts are, which values are missing."""

    def __init__(self, names: Sequence[str]) -> None:
        self._longest, self._missing = dict.fromkeys(names, 0), dict.fromkeys(names, False)

    def all(self, table: Any) -> Iterator[Any]:
        """The batches of a table, inspected on their way."""
        import pyarrow as pa
        import pyarrow.compute as pc

        for batch in table:
            for name, column in zip(batch.schema.names, batch.columns, strict=True):
                self._missing[name] = self._missing[name] or column.null_count > 0
                if column.type == pa.string():
                    longest = pc.max(pc.utf8_length(column)).as_py() or 0
                    self._longest[name] = max(self._longest[name], longest)
            yield batch

    def kind(self, field: Any, count: int) -> str:
        """numpy's name for the type of a column."""
        if str(field.type) != "string":
            return "<i8" if str(field.type) == "int64" and not self._missing[field.name] else "<f8"
        longest = max(1, self._longest[field.name])
        if 4 * longest * count > LARGEST:
            raise RequestError(
                f"{field.name}: in a .npz each of the {count:,} texts takes the room of the longest, {longest:,} "
                f"characters: leave it out with --columns, or write a .parquet"
            )
        return f"<U{longest}"


def _array(column: Any, kind: str) -> NDArray[Any]:
    if kind.startswith("<U"):
        return np.array(["" if text is None else text for text in column.to_pylist()], kind)
    array: NDArray[Any] = column.to_numpy(zero_copy_only=False)
    return array.astype(kind)


def read(path: str) -> tuple[ExportRecord, Iterator[Any]]:
    """See `ReadExport`."""
    with reading(path), opened(Path(path)) as file, _archive(file) as archive:
        if RECORD not in archive.namelist():
            raise missing(path, f"no {RECORD} in it")
        with archive.open(RECORD) as member:
            record = parsed(member.read(LARGEST_RECORD + 1), path)
        if sorted(archive.namelist()) != sorted([RECORD, *(f"{name}.npy" for name in record.columns)]):
            raise ValueError("it holds other arrays than its record names")
    return record, _rows(path, record)


def _rows(path: str, record: ExportRecord) -> Iterator[Any]:
    with reading(path), opened(Path(path)) as file, _archive(file) as archive:
        if archive.getinfo("code.npy").compress_type != zipfile.ZIP_STORED:
            raise ValueError("its codes are compressed, which simrec doesn't do")
        expected = header(NUMBERS[record.dtype], (record.count or 0, record.dim))
        with archive.open("code.npy") as member:
            if member.read(len(expected)) != expected:
                raise ValueError(f"its codes are not an array {record.dtype} {(record.count, record.dim)}")
            if "id" not in record.columns:
                for some in numbers(member, record):
                    yield reread(None, some)
                return
            with archive.open("id.npy") as ids:
                width = _width(ids, record.count or 0)
                for some in numbers(member, record):
                    yield reread([id_ for length in _parts(len(some), width) for id_ in _ids(ids, length, width)], some)


def _archive(file: BinaryIO) -> zipfile.ZipFile:
    """The archive in a file. Raises ValueError if its list of members, which is read at once, is too long."""
    end = size(file)
    file.seek(max(0, end - 76))
    tail = file.read()
    place = tail.rfind(b"PK\5\6")
    if place < 0 or len(tail) - place != 22:
        raise ValueError("it doesn't end as an archive does")
    (length,) = struct.unpack("<I", tail[place + 12 : place + 16])
    if length > LARGEST_RECORD and tail[:4] == b"PK\6\6":  # the list of a large file, which simrec keeps as short
        length = struct.unpack("<Q", tail[40:48])[0]
    if length > LARGEST_RECORD:
        raise ValueError(f"its list of members takes {length:,} bytes")
    return zipfile.ZipFile(file)


def _width(member: IO[bytes], count: int) -> int:
    """How many characters each text in an array has. Reads the array's header; count: of the texts."""
    match = re.search(rb"'<U(\d{1,7})'", start := member.read(len(header("<U1", (count,)))))
    width = int(match[1]) if match else 0
    if not width or start != header(f"<U{width}", (count,)) or 4 * width * count > LARGEST:
        raise ValueError(f"its ids are not an array of {count:,} texts")
    return width


def _parts(rows: int, width: int) -> Iterator[int]:
    """Divides rows into parts of at most a few megabytes; gives the number of rows in each."""
    step = max(1, (1 << 22) // (4 * width))
    return (min(step, rows - start) for start in range(0, rows, step))


def _ids(member: IO[bytes], rows: int, width: int) -> list[str]:
    data = member.read(4 * width * rows)
    if len(data) != 4 * width * rows:
        raise ValueError("its ids are cut short")
    ids: list[str] = np.frombuffer(data, f"<U{width}").tolist()
    return ids
