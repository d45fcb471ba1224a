"""The content of an export: a digest that shows whether ids and codes are those that were written, in any format."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simrec.contracts import ExportRecord

NUMBERS: dict[str, str] = {"float32": "<f4", "float16": "<f2", "int8": "|i1"}
"""numpy's names for the dtypes, as they are written."""

NUMBERS_AT_ONCE = 1 << 18
"""How many numbers become Python objects at a time: about 20 MB of texts."""


class Content:
    """The rows added so far, in batches of any size: how many, and their digest.

    The digest is the SHA-256 of three others: of the lengths of the ids in bytes (uint32), of their bytes in UTF-8, and
    of the codes' numbers, all little-endian and in the order of the rows. Without ids, the first two are of nothing.
    """

    def __init__(self) -> None:
        self.count = 0
        self._lengths, self._ids, self._codes = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()

    def add(self, batch: Any) -> None:
        """Adds the rows of a pyarrow RecordBatch with a column `code`, and perhaps `id`."""
        self.count += len(batch)
        if "id" in batch.schema.names:
            offsets, data = texts(batch.column("id"))
            self._lengths.update(np.diff(offsets).astype("<u4").tobytes())
            self._ids.update(data)
        self._codes.update(np.ascontiguousarray(codes(batch)).data)

    @property
    def digest(self) -> str:
        """The digest in hexadecimal."""
        return hashlib.sha256(b"".join(one.digest() for one in (self._lengths, self._ids, self._codes))).hexdigest()


def codes(batch: Any) -> NDArray[Any]:
    """The codes (n, dim) of a pyarrow RecordBatch, little-endian as they are written."""
    column = batch.column("code")
    numbers: NDArray[Any] = column.flatten().to_numpy(zero_copy_only=True)
    return numbers.astype(numbers.dtype.newbyteorder("<"), copy=False).reshape(len(column), column.type.list_size)


def parts(table: Any) -> Iterator[Any]:
    """The pyarrow RecordBatches of a table, cut so that each has few enough numbers to become Python objects."""
    for batch in table:
        kind = batch.schema.field("code").type
        rows = max(1, NUMBERS_AT_ONCE // getattr(kind, "list_size", 1 << 6))
        yield from (batch.slice(start, rows) for start in range(0, len(batch), rows))


def texts(column: Any) -> tuple[NDArray[np.int32], memoryview]:
    """The bytes of a pyarrow array of texts, and where each text begins in them, (n + 1,), in this order: starts,
    bytes.
    """
    _, offsets, data = column.buffers()
    if not len(column):
        return np.zeros(1, np.int32), memoryview(b"")
    places = np.frombuffer(offsets, np.int32)[column.offset : column.offset + len(column) + 1]
    return places, memoryview(data or b"")[places[0] : places[-1]]


def check_schema(schema: Any, record: ExportRecord) -> None:
    """Raises ValueError for a table whose columns don't match an export's record."""
    import pyarrow as pa

    if list(schema.names) != list(record.columns):
        raise ValueError("it has other columns than its record names")
    if schema.field("code").type != pa.list_(pa.type_for_alias(record.dtype), record.dim):
        raise ValueError(f"its codes are {schema.field('code').type}, not {record.dim} numbers as {record.dtype}")
    own = {"id": {"string"}, "label": {"string"}, "source": {"string"}, "preview": {"binary"}}
    for field in schema:
        if field.name != "code" and str(field.type) not in own.get(field.name, {"string", "int64", "double"}):
            raise ValueError(f"its column {field.name[:100]!r} holds {str(field.type)[:100]}")
