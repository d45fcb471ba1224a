"""Arrow's file format (IPC, Feather version 2): a table, the record in its schema's metadata."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import IO, Any, BinaryIO

from simrec.contracts import Origin
from simrec.exporters.files import writing, written


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
