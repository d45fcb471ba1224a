"""NumPy's .npz: an array for each column."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from simrec.contracts import Origin
from simrec.errors import RequestError
from simrec.exporters.content import NUMBERS, codes
from simrec.exporters.files import writing, written
from simrec.exporters.npy import header
from simrec.exporters.spool import spooled

RECORD = "simrec.json"
"""The member that holds the record."""

LARGEST = 1 << 30
"""Bytes of the largest array of texts, each of which takes as much room as the longest."""


def write(target: str | BinaryIO, table: Any, origin: Origin) -> Sequence[str]:
    """`.npz`: an array for each column, `code` of (n, dim), and the record as `simrec.json`.

    A whole number that isn't there makes its column float64, with NaN for it; a text that isn't there is "". Raises
    RequestError for texts that would take more than LARGEST bytes.
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
    """What has to be known of all rows before the first is written: how long texts are, which values are missing."""

    def __init__(self, names: Sequence[str]) -> None:
        self._longest, self._missing = dict.fromkeys(names, 0), dict.fromkeys(names, False)

    def all(self, table: Any) -> Iterator[Any]:
        """The batches of a table, looked at as they go by."""
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
        """What numpy calls a column's values."""
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
