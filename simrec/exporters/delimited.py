"""CSV: one line per row, with each code as one text or with a column for each of its numbers."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from simrec.contracts import ExportRecord, Origin
from simrec.errors import RequestError
from simrec.exporters import reading
from simrec.exporters.content import parts
from simrec.exporters.files import record_path, writing, written
from simrec.files import opened
from simrec.streams import chunks


def write(target: str | BinaryIO, table: Any, origin: Origin) -> Sequence[str]:
    """`.csv`: all columns, the code in columns `code_0`, `code_1`, ... or as a text in `code`; the record beside it.

    Raises RequestError for previews.
    """
    if "preview" in table.schema.names:
        raise RequestError("preview: a .csv holds numbers and texts: leave it out, or write a .parquet")
    record_at = record_path(target if isinstance(target, str) else "-")
    with writing(target, record_at) as (file, record):
        text = io.TextIOWrapper(file, "utf-8", newline="", write_through=True)
        lines = csv.writer(text)
        lines.writerow(_header(table.schema))
        for batch in parts(table):
            lines.writerows(_rows(batch))
        text.detach()
        record.write(origin.finished().to_bytes() + b"\n")
    return written(target, record_at)


def numbers(column: Any) -> list[str]:
    """The numbers of a pyarrow array of codes, one after the other, as the shortest texts that read back the same."""
    import pyarrow as pa
    import pyarrow.compute as pc

    texts: list[str] = pc.cast(column.flatten(), pa.string()).to_pylist()
    return texts


def code_texts(column: Any) -> Any:
    """Each code of a pyarrow array as a text, "[0.1,0.2]", as JSON and pgvector read it; texts stay as they are."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if column.type == pa.string():
        return column
    size = column.type.list_size
    listed = pa.FixedSizeListArray.from_arrays(pc.cast(column.flatten(), pa.string()), size)
    joined = pc.binary_join(listed.cast(pa.list_(pa.string())), ",")
    return pc.binary_join_element_wise("[", joined, "]", "")


def _header(schema: Any) -> Iterator[str]:
    import pyarrow as pa

    for field in schema:
        if pa.types.is_fixed_size_list(field.type):
            yield from (f"{field.name}_{number}" for number in range(field.type.list_size))
        else:
            yield field.name


def _rows(batch: Any) -> Iterator[list[Any]]:
    import pyarrow as pa

    columns: list[list[list[Any]]] = []
    for column in batch.columns:
        if pa.types.is_fixed_size_list(column.type):
            size, texts = column.type.list_size, numbers(column)
            columns.append([texts[start : start + size] for start in range(0, len(texts), size)])
        else:
            columns.append([[value] for value in column.to_pylist()])
    return ([value for cells in row for value in cells] for row in zip(*columns, strict=True))


def read(path: str) -> tuple[ExportRecord, Iterator[Any]]:
    """See `ReadExport`."""
    record = reading.beside(path)
    return record, _read_rows(path, record)


@contextmanager
def _long_fields(characters: int) -> Iterator[None]:
    """Raises csv's limit, which is too short for codes as texts; it holds for the whole process."""
    before = csv.field_size_limit(characters)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _read_rows(path: str, record: ExportRecord) -> Iterator[Any]:
    import pyarrow as pa

    with _long_fields(reading.LONGEST + 32 * record.dim), reading.reading(path), opened(Path(path)) as file:
        lines = csv.reader((line.decode() for line in reading.lines(file, record)), strict=True)
        header = next(lines, [])
        text = header == list(record.columns)
        spread = [f"code_{number}" for number in range(record.dim)]
        place = record.columns.index("code")
        if not text and header != [*record.columns[:place], *spread, *record.columns[place + 1 :]]:
            raise ValueError("its first line names other columns than its record")
        id_ = header.index("id") if "id" in header else None
        for some in chunks(lines, reading.rows_at_once(record)):
            if {len(cells) for cells in some} != {len(header)}:
                raise ValueError(f"a line of other than {len(header):,} values")
            ids = None if id_ is None else [cells[id_] for cells in some]
            if text:
                codes = reading.split([cells[place] for cells in some], record)
            else:
                parts = [part for cells in some for part in cells[place : place + record.dim]]
                codes = reading.from_texts(pa.array(parts, pa.string()), record)
            yield reading.batch(ids, codes)
