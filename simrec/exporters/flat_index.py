"""FAISS: an IndexFlat, whose rows are numbered in the order of the export."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, BinaryIO

from simrec.contracts import Origin
from simrec.exporters.content import codes
from simrec.exporters.files import Beside


def write(target: str | BinaryIO, table: Any, origin: Origin) -> Sequence[str]:
    """`.faiss`: an IndexFlatIP of codes of length 1 where the metric is cosine, else an IndexFlatL2; beside it the
    other columns as JSON lines, a line a row, and the record.
    """
    from simrec.index import flat_header

    record, beside = origin.record, Beside(target, table)
    with beside.writing(seek=record.count is None) as (file, add):
        file.write(flat_header(record.count or 0, record.dim, record.metric))
        for batch in table:
            file.write(codes(batch).data)
            add(batch)
        if record.count is None:
            file.seek(0)
            file.write(flat_header(origin.content()[0], record.dim, record.metric))
        return beside.finish(origin)
