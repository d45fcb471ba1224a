"""NumPy's own files: .npy, an array of the codes, and .npz, an array for each column."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, BinaryIO

from simrec.contracts import Origin
from simrec.exporters.content import NUMBERS, codes
from simrec.exporters.files import Beside


def write(target: str | BinaryIO, table: Any, origin: Origin) -> Sequence[str]:
    """`.npy`: the codes alone, (n, dim); beside it the other columns as JSON lines, a line a row, and the record."""
    kind, count, dim = NUMBERS[origin.record.dtype], origin.record.count, origin.record.dim
    beside = Beside(target, table)
    with beside.writing(seek=count is None) as (file, add):
        file.write(header(kind, (count or 0, dim)))
        for batch in table:
            file.write(codes(batch).data)
            add(batch)
        if count is None:
            file.seek(0)
            file.write(header(kind, (origin.content()[0], dim)))
        return beside.finish(origin)


def header(kind: str, shape: tuple[int, ...]) -> bytes:
    """The header of a .npy, of one length whatever the numbers are: see numpy.lib.format."""
    said = repr({"descr": kind, "fortran_order": False, "shape": shape}).ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(said)) + said.encode()
