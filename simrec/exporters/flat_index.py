"""FAISS: an IndexFlat with its rows in the order of the export."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from numpy.typing import NDArray

from simrec.contracts import ExportRecord, Origin
from simrec.exporters.content import codes
from simrec.exporters.files import Beside
from simrec.exporters.reading import beside, numbers, reading, with_items
from simrec.files import opened


def write(target: str | BinaryIO, table: Any, origin: Origin) -> Sequence[str]:
    """`.faiss`: an IndexFlatIP of codes of length 1 if the metric is cosine, else an IndexFlatL2; beside it the other
    columns as JSON lines, one line per row, and the record.
    """
    from simrec.index import flat_header

    record, rest = origin.record, Beside(target, table)
    with rest.writing(seek=record.count is None) as (file, add):
        file.write(flat_header(record.count or 0, record.dim, record.metric))
        for batch in table:
            file.write(codes(batch).data)
            add(batch)
        if record.count is None:
            file.seek(0)
            file.write(flat_header(origin.content()[0], record.dim, record.metric))
        return rest.finish(origin)


def read(path: str) -> tuple[ExportRecord, Iterator[Any]]:
    """See `ReadExport`; FAISS doesn't open the file."""
    record = beside(path)
    return record, with_items(path, record, _codes(path, record))


def _codes(path: str, record: ExportRecord) -> Iterator[NDArray[Any]]:
    from simrec.index import check_layout, flat_header

    with reading(path), opened(Path(path)) as file:
        if record.dtype != "float32":
            raise ValueError(f"its record says {record.dtype}, which an IndexFlat doesn't hold")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            check_layout(data, record.count or 0, record.dim, record.metric, "float32")
        file.seek(len(flat_header(0, record.dim, record.metric)))
        yield from numbers(file, record)
