"""JSON lines: an object a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, BinaryIO

import msgspec

from simrec.contracts import Origin
from simrec.exporters.files import record_path, writing, written


def write(target: str | BinaryIO, table: Any, origin: Origin) -> Sequence[str]:
    """`.jsonl`: every column, the code as a list of numbers; the record beside it."""
    beside = record_path(target if isinstance(target, str) else "-")
    with writing(target, beside) as (file, record):
        for batch in table:
            file.write(lines(batch))
        record.write(origin.finished().to_bytes() + b"\n")
    return written(target, beside)


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
