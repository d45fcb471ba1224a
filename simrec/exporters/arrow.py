"""Arrow's file format (IPC, Feather version 2): a table, with the record in its schema's metadata."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import IO, Any, BinaryIO

from simrec.catalogue.fields import flatbuffer_field, messages
from simrec.contracts import ExportRecord, Origin
from simrec.exporters.content import check_schema
from simrec.exporters.files import arrow_stream, writing, written
from simrec.exporters.reading import missing, parsed, path_of, reading


def write(target: str | BinaryIO, table: Any, origin: Origin) -> Sequence[str]:
    """`.arrow`: every column, the code as a list of fixed size."""
    import pyarrow as pa

    room = origin.widest.to_bytes()
    schema = table.schema.with_metadata({"simrec": room})
    with writing(target, seek=True) as (file,):
        with arrow_stream(target, file) as stream, pa.ipc.new_file(stream, schema) as writer:
            for batch in table:
                writer.write_batch(batch)
        _replace(file, room, origin.finished().to_bytes(len(room)))
    return written(target)


def _replace(file: IO[bytes], before: bytes, after: bytes) -> None:
    """Replaces the schema's metadata, in the file's first message and in its footer, by as many bytes: the rows' count
    and digest are known only now.
    """
    end = file.seek(0, 2)
    file.seek(8)
    _, length = struct.unpack("<iI", file.read(8))  # the first message's length
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
        starts = [file.tell()]
        for batch in batches:
            batch.validate(full=True)
            yield batch
            starts.append(file.tell())
        _check_footer(file, schema, starts)


def _check_footer(file: Any, schema: Any, starts: list[int]) -> None:
    """Raises ValueError if the footer, which other programs use, disagrees with the stream, which has been read.

    starts: where each batch begins in the file, and where the last one ends.
    """
    import pyarrow as pa

    end = file.size() - 10
    (length,) = struct.unpack("<I", file.read_at(4, end))
    if file.tell() + length != end:
        raise ValueError("there is more or less than a footer behind its batches")
    footer = memoryview(file.read_at(length, end - length))
    (root,) = struct.unpack_from("<I", footer, 0)
    # arrow/format/File.fbs: the schema, which begins with the order of bytes; the blocks of dictionaries; of batches
    orders = flatbuffer_field(footer, _followed(footer, flatbuffer_field(footer, root, 1)), 0)
    if orders and struct.unpack_from("<h", footer, orders) != (0,):
        raise ValueError("its footer names another order of bytes")
    dictionaries, place = (flatbuffer_field(footer, root, number) for number in (2, 3))
    if dictionaries and struct.unpack_from("<I", footer, _followed(footer, dictionaries)) != (0,):
        raise ValueError("its footer names dictionaries")
    blocks_at = _followed(footer, place) if place else 0
    (count,) = struct.unpack_from("<I", footer, blocks_at) if place else (0,)
    if count != len(starts) - 1:
        raise ValueError(f"its footer names {count:,} batches of {len(starts) - 1:,}")
    blocks = [struct.unpack_from("<qi4xq", footer, blocks_at + 4 + 24 * number) for number in range(count)]
    # A batch's head is a mark, its own length, and as many bytes.
    heads = [8 + struct.unpack("<i", file.read_at(4, start + 4))[0] for start in starts[:-1]]
    if blocks != [(at, head, end - at - head) for at, head, end in zip(starts, heads, starts[1:], strict=False)]:
        raise ValueError("its footer names batches in other places")
    if not pa.ipc.open_file(file).schema.equals(schema, check_metadata=True):
        raise ValueError("its footer has another schema")


def _followed(footer: memoryview, place: int) -> int:
    """Where the offset at a place leads. Raises struct.error beyond the data."""
    (offset,) = struct.unpack_from("<I", footer, place)
    return place + int(offset)


def _opened(file: Any) -> tuple[Any, Iterator[Any]]:
    """The schema and the batches of a file: a stream between a mark and a footer."""
    size = file.size()
    if size < 18 or file.read_at(8, 0) != b"ARROW1\0\0" or file.read_at(6, size - 6) != b"ARROW1":
        raise ValueError("it doesn't begin and end as an Arrow file does")
    file.seek(8)
    return messages(file)
