"""Arrow's file format (IPC, Feather version 2): a table, the record in its schema's metadata."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import IO, Any, BinaryIO

from simrec.catalogue.fields import messages
from simrec.contracts import ExportRecord, Origin
from simrec.exporters.content import check_schema
from simrec.exporters.files import writing, written
from simrec.exporters.reading import missing, parsed, path_of, reading


def write(target: str | BinaryIO, table: Any, origin: Origin) -> Sequence[str]:
    """`.arrow`: every column, the code as a list of fixed size."""
    import pyarrow as pa

    room = origin.widest.to_bytes()
    schema = table.schema.with_metadata({"simrec": room})
    with writing(target, seek=True) as (file,):
        with pa.ipc.new_file(pa.PythonFile(file, mode="w"), schema) as writer:
            for batch in table:
                writer.write_batch(batch)
        _replace(file, room, origin.finished().to_bytes(len(room)))
    return written(target)


def _replace(file: IO[bytes], before: bytes, after: bytes) -> None:
    """Replaces the schema's metadata, which stands in the file's first message and in its footer, by as many bytes:
    what it says of the rows is only known now.
    """
    end = file.seek(0, 2)
    file.seek(8)
    _, length = struct.unpack("<iI", file.read(8))  # of the first message
    file.seek(end - 10)
    (footer,) = struct.unpack("<I", file.read(4))
    for start, size in ((16, length), (end - 10 - footer, footer)):
        file.seek(start)
        place = file.read(size).index(before)
        file.seek(start + place)
        file.write(after)
    file.seek(0, 2)


def read(path: str) -> tuple[ExportRecord, Iterator[Any]]:
    """See `ReadExport`; with all its columns."""
    import pyarrow as pa

    with reading(path), pa.memory_map(str(path_of(path))) as file:
        schema, _ = _opened(file)
        if b"simrec" not in (schema.metadata or {}):
            raise missing(path, "no 'simrec' in its metadata")
        return (record := parsed(schema.metadata[b"simrec"], path)), _rows(path, record)


def _rows(path: str, record: ExportRecord) -> Iterator[Any]:
    import pyarrow as pa

    with reading(path), pa.memory_map(str(path_of(path))) as file:
        schema, batches = _opened(file)
        check_schema(schema, record)
        for batch in batches:
            batch.validate(full=True)
            yield batch
        end = file.size() - 10
        (footer,) = struct.unpack("<I", file.read_at(4, end))
        if footer > end - file.tell() or schema.metadata[b"simrec"] not in file.read_at(footer, end - footer):
            raise ValueError("its footer says something else than its schema")
        if file.tell() + footer != end:
            raise ValueError("there is more between its batches and its footer")


def _opened(file: Any) -> tuple[Any, Iterator[Any]]:
    """The schema and the batches of a file, which lie in it as a stream, between a mark and a footer."""
    size = file.size()
    if size < 18 or file.read_at(8, 0) != b"ARROW1\0\0" or file.read_at(6, size - 6) != b"ARROW1":
        raise ValueError("it doesn't begin and end as an Arrow file does")
    file.seek(8)
    return messages(file)
