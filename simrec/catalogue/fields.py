"""The fields of a segment's items: columns of whole numbers, decimal numbers or texts in an Arrow stream beside it.

A file is written once and mapped into memory; another one takes its place when fields change, and codes stay.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from simrec.contracts import Value

Kind = Literal["int64", "double", "string"]

LARGEST = 1000
"""Columns, at most."""

LOOKED_AT = 4096
"""Texts of a column that say whether most of them are different."""


def kinds(rows: Iterable[Mapping[str, Value]], before: Mapping[str, Kind] | None = None) -> dict[str, Kind]:
    """What each column must be to hold the values of all rows; before: of other rows of the same catalogue.

    Whole numbers and decimal ones together are decimal; a column that has texts and numbers is all texts.
    """
    found: dict[str, Kind] = dict(before or {})
    for row in rows:
        for name, value in row.items():
            if value is None:
                found.setdefault(name, "int64")
                continue
            kind: Kind = "string"
            if isinstance(value, int) and -(2**63) <= value < 2**63:
                kind = "int64"
            elif isinstance(value, int | float):
                kind = "double"
            if name in found and "string" in (kind, found[name]):
                # An empty column may still become anything; of one with numbers the texts are theirs.
                kind = "string"
            elif name in found and "double" in (kind, found[name]):
                kind = "double"
            found[name] = kind
    return found


def write(path: Path, rows: Sequence[Mapping[str, Value]], columns: Mapping[str, Kind]) -> None:
    """The file with those columns, a row each; a number that is none (NaN) becomes nothing."""
    _write(path, {name: [row.get(name) for row in rows] for name in columns}, columns)


def _write(path: Path, values: Mapping[str, Sequence[Value]], columns: Mapping[str, Kind]) -> None:
    import pyarrow as pa

    table = pa.table({name: array(values[name], kind) for name, kind in columns.items()})
    # As a stream: its messages can be looked at one by one before anything is made of them.
    with path.open("wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)


def array(values: Sequence[Value], kind: Kind) -> Any:
    """Values of a column as a pyarrow Array; a number that is none (NaN) becomes nothing."""
    import pyarrow as pa

    make: Any = {"int64": int, "double": float, "string": str}[kind]
    made = [None if value is None or value != value else make(value) for value in values]
    return pa.array(made, pa.type_for_alias(kind))


def merged(first: Mapping[str, Kind], second: Mapping[str, Kind]) -> dict[str, Kind]:
    """What columns must be to hold what either of two sets of rows has."""
    examples: dict[Kind, Value] = {"int64": 0, "double": 0.5, "string": ""}
    return kinds([{name: examples[kind] for name, kind in second.items()}], first)


def revise(
    path: Path, before: Columns | None, rows: int, changes: Mapping[int, Mapping[str, Value]],
    columns: Mapping[str, Kind],
) -> None:  # fmt: skip
    """The file with those columns of a segment with so many rows: what it had, and what changes, by row."""
    values: dict[str, Sequence[Value]] = {}
    for name in columns:
        column: list[Value] = before.values(name) if before and name in before.kinds else [None] * rows
        for row, fields in changes.items():
            if name in fields:
                column[row] = fields[name]
        values[name] = column
    _write(path, values, columns)


class Columns:
    """The fields of a segment with so many rows, in a file that may have come from anyone.

    Raises ValueError for one that `write` doesn't write.
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
        """A column as a pyarrow Array; one of texts that repeat as a DictionaryArray. Raises KeyError for another."""
        if name not in self._columns:
            self._columns[name] = compact(self._table.column(name))
        return self._columns[name]

    def some(self, name: str, start: int, count: int) -> Any:
        """Those rows of a column as a pyarrow Array."""
        return self._table.column(name).slice(start, count).combine_chunks()

    @property
    def kinds(self) -> dict[str, Kind]:
        """What each column holds, by its name."""
        return {field.name: str(field.type) for field in self._table.schema}  # type: ignore[misc]

    def values(self, name: str) -> list[Value]:
        """A column, a value for each row."""
        found: list[Value] = self._table.column(name).to_pylist()
        return found

    def rows(self, rows: Sequence[int]) -> list[dict[str, Value]]:
        """The fields of those rows."""
        import pyarrow as pa

        found: list[dict[str, Value]] = self._table.take(pa.array(rows, pa.int64())).to_pylist()
        return found


def compact(column: Any) -> Any:
    """A column (Array or ChunkedArray) as one Array, texts that repeat as a dictionary, which is asked faster."""
    import pyarrow as pa
    import pyarrow.compute as pc

    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    first = array[:LOOKED_AT]
    repeats = array.type == pa.string() and 2 * pc.count_distinct(first).as_py() <= len(first)
    return array.dictionary_encode() if repeats else array


def messages(file: Any) -> tuple[Any, Iterator[Any]]:
    """The schema and the record batches of an Arrow stream in a mapped file, which may have come from anyone.

    Raises ValueError, also while batches are taken, for what isn't uncompressed record batches after a schema;
    pyarrow's errors and StopIteration for what is no stream.
    """
    import pyarrow as pa

    coming = pa.ipc.MessageReader.open_stream(file)
    first = coming.read_next_message()
    if first.type != "schema":  # pyarrow would read any other as one, and crash
        raise ValueError("it doesn't begin with a schema")
    schema = pa.ipc.read_schema(first)
    return schema, _batches(coming, schema)


def _batches(messages: Any, schema: Any) -> Iterator[Any]:
    """The batches of a stream, which point into its file. Raises ValueError for one that would have to be unpacked."""
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
    """Whether a message says that its batch is compressed, which could be any number of bytes.

    pyarrow doesn't tell. The message is a flatbuffer (arrow/format/Message.fbs): its table `Message` has the batch as
    its third field, and the table `RecordBatch` has `compression` as its fourth.
    """
    (root,) = struct.unpack_from("<I", metadata, 0)
    place = flatbuffer_field(metadata, root, 2)
    (offset,) = struct.unpack_from("<I", metadata, place)
    return place == 0 or flatbuffer_field(metadata, place + offset, 3) != 0


def flatbuffer_field(metadata: memoryview, table: int, number: int) -> int:
    """Where a field of a flatbuffer's table stands, 0 where it has none. Raises struct.error beyond its end."""
    (back,) = struct.unpack_from("<i", metadata, table)
    (size,) = struct.unpack_from("<H", metadata, table - back)
    if 4 + 2 * number >= size:
        return 0
    (offset,) = struct.unpack_from("<H", metadata, table - back + 4 + 2 * number)
    return table + int(offset) if offset else 0
