"""The fields of a segment's items: columns of whole numbers, decimal numbers or texts in an Arrow stream beside it.

A file is written once and mapped into memory. When fields change, a new file replaces it; the codes stay.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from simrec.contracts import Value

Kind = Literal["int64", "double", "string"]

LARGEST = 1000
"""Maximum number of columns."""

FEW = 500
"""Up to this many values are read one by one. It saves a cold look-up from importing pyarrow.compute, and pandas, which
pyarrow imports to make an array, if it is installed. More values are read faster at once.
"""

LOOKED_AT = 4096
"""How many texts of a column decide whether most of its texts differ."""


def kinds(rows: Iterable[Mapping[str, Value]], before: Mapping[str, Kind] | None = None) -> dict[str, Kind]:
    """The type that each column needs for the values of all rows. before: the types from other rows of the catalogue.

    Whole and decimal numbers together are decimal; a column with texts and numbers is texts.
    """
    types: dict[str, Kind] = dict(before or {})
    for row in rows:
        for name, value in row.items():
            if value is None:
                types.setdefault(name, "int64")
                continue
            kind: Kind = "string"
            if isinstance(value, int) and -(2**63) <= value < 2**63:
                kind = "int64"
            elif isinstance(value, int | float):
                kind = "double"
            if name in types and "string" in (kind, types[name]):
                # In a column of numbers and texts, the numbers become texts.
                kind = "string"
            elif name in types and "double" in (kind, types[name]):
                kind = "double"
            types[name] = kind
    return types


def write(path: Path, rows: Sequence[Mapping[str, Value]], columns: Mapping[str, Kind]) -> None:
    """Writes a file with those columns; NaN becomes an empty value."""
    _write(path, {name: [row.get(name) for row in rows] for name in columns}, columns)


def _write(path: Path, values: Mapping[str, Sequence[Value]], columns: Mapping[str, Kind]) -> None:
    import pyarrow as pa

    table = pa.table({name: array(values[name], kind) for name, kind in columns.items()})
    # As a stream, so that a reader can check its messages one by one before using them.
    with path.open("wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)


def array(values: Sequence[Value], kind: Kind) -> Any:
    """Values of a column as a pyarrow Array; NaN becomes an empty value."""
    import pyarrow as pa

    make: Any = {"int64": int, "double": float, "string": str}[kind]
    made = [None if value is None or value != value else make(value) for value in values]
    return pa.array(made, pa.type_for_alias(kind))


def merged(first: Mapping[str, Kind], second: Mapping[str, Kind]) -> dict[str, Kind]:
    """The types that columns need for the values of both of two sets of rows."""
    examples: dict[Kind, Value] = {"int64": 0, "double": 0.5, "string": ""}
    return kinds([{name: examples[kind] for name, kind in second.items()}], first)


def revise(
    path: Path, before: Columns | None, rows: int, changes: Mapping[int, Mapping[str, Value]],
    columns: Mapping[str, Kind],
) -> None:  # fmt: skip
    """Writes the file of a segment's columns again, with changes by row. rows: how many rows the segment has."""
    values: dict[str, Sequence[Value]] = {}
    for name in columns:
        column: list[Value] = before.values(name) if before and name in before.kinds else [None] * rows
        for row, fields in changes.items():
            if name in fields:
                column[row] = fields[name]
        values[name] = column
    _write(path, values, columns)


class Columns:
    """The fields of a segment with `rows` rows, in a file that may come from anyone.

    Raises ValueError for a file that `write` can't have written.
    """

    def __init__(self, path: Path, rows: int) -> None:
        import pyarrow as pa

        try:
            with pa.memory_map(str(path)) as file:
                schema, batches = messages(file)
                kinds = {str(field.type) for field in schema} - {"int64", "double", "string"}
                extended = schema.metadata or any(field.metadata for field in schema)
                if kinds or extended or not 0 < len(schema) <= LARGEST or len(set(schema.names)) < len(schema):
                    raise ValueError(f"columns that simrec doesn't write: {', '.join(sorted(kinds))[:100]}")
                self._table = pa.Table.from_batches(list(batches), schema)
                self._table.validate(full=True)
        except (pa.ArrowException, OSError, EOFError, StopIteration, struct.error) as error:
            raise ValueError(str(error) or "no Arrow stream") from error
        if len(self._table) != rows:
            raise ValueError(f"{len(self._table):,} rows of {rows:,}")
        self._columns: dict[str, Any] = {}

    @property
    def empty(self) -> set[str]:
        """The columns that have no value in any row."""
        return {name for name in self.kinds if self._table.column(name).null_count == len(self._table)}

    def column(self, name: str) -> Any:
        """A column as a pyarrow Array, or a DictionaryArray if its texts repeat. Raises KeyError for an unknown one."""
        if name not in self._columns:
            self._columns[name] = compact(self._table.column(name))
        return self._columns[name]

    def some(self, name: str, start: int, count: int) -> Any:
        """`count` rows of a column from `start` on, as a pyarrow Array."""
        return self._table.column(name).slice(start, count).combine_chunks()

    @property
    def kinds(self) -> dict[str, Kind]:
        """Each column's type, by name."""
        return {field.name: str(field.type) for field in self._table.schema}  # type: ignore[misc]

    def values(self, name: str) -> list[Value]:
        """A column as a list, one value per row."""
        column: list[Value] = self._table.column(name).to_pylist()
        return column

    def rows(self, rows: Sequence[int]) -> list[dict[str, Value]]:
        """The fields of those rows."""
        columns = list(zip(self._table.column_names, self._table.columns, strict=True))
        if len(rows) * len(columns) <= FEW:
            return [{name: column[row].as_py() for name, column in columns} for row in rows]
        import pyarrow as pa

        fields: list[dict[str, Value]] = self._table.take(pa.array(rows, pa.int64())).to_pylist()
        return fields


def compact(column: Any) -> Any:
    """A column (Array or ChunkedArray) as one Array; texts that repeat become a dictionary, which filters faster."""
    import pyarrow as pa
    import pyarrow.compute as pc

    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    first = array[:LOOKED_AT]
    repeats = array.type == pa.string() and 2 * pc.count_distinct(first).as_py() <= len(first)
    return array.dictionary_encode() if repeats else array


def messages(file: Any) -> tuple[Any, Iterator[Any]]:
    """The schema and the record batches of an Arrow stream in a mapped file, which may come from anyone.

    Raises ValueError, also while batches are read, for anything but a schema and uncompressed record batches; raises
    pyarrow's errors and StopIteration for data that isn't a stream.
    """
    import pyarrow as pa

    coming = pa.ipc.MessageReader.open_stream(file)
    first = coming.read_next_message()
    if first.type != "schema":  # pyarrow would read any other message as a schema, and crash
        raise ValueError("it doesn't begin with a schema")
    schema = pa.ipc.read_schema(first)
    return schema, _batches(coming, schema)


def _batches(messages: Any, schema: Any) -> Iterator[Any]:
    """The batches of a stream, which point into its file. Raises ValueError for a compressed batch."""
    import pyarrow as pa

    while True:
        try:
            message = messages.read_next_message()
        except StopIteration:
            return
        if message.type != "record batch" or _compressed(memoryview(message.metadata)):
            raise ValueError("it is compressed, or has other messages than batches")
        yield pa.ipc.read_record_batch(message, schema)


def _compressed(metadata: memoryview) -> bool:
    """Whether a message's batch is compressed; it could unpack to any size.

    pyarrow doesn't say. The message is a flatbuffer (arrow/format/Message.fbs): its table `Message` has the batch as
    its third field, and the table `RecordBatch` has `compression` as its fourth.
    """
    (root,) = struct.unpack_from("<I", metadata, 0)
    place = flatbuffer_field(metadata, root, 2)
    (offset,) = struct.unpack_from("<I", metadata, place)
    return place == 0 or flatbuffer_field(metadata, place + offset, 3) != 0


def flatbuffer_field(metadata: memoryview, table: int, number: int) -> int:
    """The position of a field of a flatbuffer's table, 0 if it is missing. Raises struct.error beyond the data."""
    (back,) = struct.unpack_from("<i", metadata, table)
    (size,) = struct.unpack_from("<H", metadata, table - back)
    if 4 + 2 * number >= size:
        return 0
    (offset,) = struct.unpack_from("<H", metadata, table - back + 4 + 2 * number)
    return table + int(offset) if offset else 0
