"""NumPy's .npy: an array of the codes."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from numpy.typing import NDArray

from simrec.contracts import ExportRecord, Origin
from simrec.exporters.content import NUMBERS, codes
from simrec.exporters.files import Beside
from simrec.exporters.reading import beside, numbers, reading, with_items
from simrec.files import opened


def write(target: str | BinaryIO, table: Any, origin: Origin) -> Sequence[str]:
    """`.npy`: only the codes, (n, dim); beside it the other columns as JSON lines, one line per row, and the record."""
    kind, count, dim = NUMBERS[origin.record.dtype], origin.record.count, origin.record.dim
    rest = Beside(target, table)
    with rest.writing(seek=count is None) as (file, add):
        file.write(header(kind, (count or 0, dim)))
        for batch in table:
            file.write(codes(batch).data)
            add(batch)
        if count is None:
            file.seek(0)
            file.write(header(kind, (origin.content()[0], dim)))
        return rest.finish(origin)


def read(path: str) -> tuple[ExportRecord, Iterator[Any]]:
    """See `ReadExport`."""
    record = beside(path)
    return record, with_items(path, record, _codes(path, record))


def _codes(path: str, record: ExportRecord) -> Iterator[NDArray[Any]]:
    with reading(path), opened(Path(path)) as file:
        expected = header(NUMBERS[record.dtype], (record.count or 0, record.dim))
        if file.read(len(expected)) != expected:
            raise ValueError(f"it doesn't begin as an array {record.dtype} {(record.count, record.dim)}")
        yield from numbers(file, record)


def header(kind: str, shape: tuple[int, ...]) -> bytes:
    """The header of a .npy, which has the same length for all shapes: see numpy.lib.format."""
    said = repr({"descr": kind, "fortran_order": False, "shape": shape}).ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(said)) + said.encode()
