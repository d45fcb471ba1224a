"""JSON lines: one object per row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from simrec.contracts import ExportRecord, Origin
from simrec.exporters import reading
from simrec.exporters.content import parts
from simrec.exporters.files import record_path, writing, written
from simrec.files import opened
from simrec.streams import chunks


def write(target: str | BinaryIO, table: Any, origin: Origin) -> Sequence[str]:
    """`.jsonl`: all columns, the code as a list of numbers; the record beside it."""
    record_at = record_path(target if isinstance(target, str) else "-")
    with writing(target, record_at) as (file, record):
        for batch in parts(table):
            file.write(lines(batch))
        record.write(origin.finished().to_bytes() + b"\n")
    return written(target, record_at)


def lines(batch: Any) -> bytes:
    """A pyarrow RecordBatch as JSON lines."""
    from simrec.exporters.delimited import code_texts

    names = batch.schema.names
    columns = [
        [msgspec.Raw(text.encode()) for text in code_texts(column).to_pylist()]
        if name == "code"
        else column.to_pylist()
        for name, column in zip(names, batch.columns, strict=True)
    ]
    return msgspec.json.Encoder().encode_lines(
        [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
    )


class _Row(msgspec.Struct):
    """The parts of a line that are read."""

    code: msgspec.Raw
    id: str = ""


def read(path: str) -> tuple[ExportRecord, Iterator[Any]]:
    """See `ReadExport`."""
    record = reading.beside(path)
    return record, _rows(path, record)


def _rows(path: str, record: ExportRecord) -> Iterator[Any]:
    decoder = msgspec.json.Decoder(_Row)
    with reading.reading(path), opened(Path(path)) as file:
        for some in chunks(reading.lines(file, record), reading.rows_at_once(record)):
            rows = [decoder.decode(line) for line in some]
            ids = [row.id for row in rows] if "id" in record.columns else None
            yield reading.batch(ids, reading.split([bytes(row.code).decode() for row in rows], record))
