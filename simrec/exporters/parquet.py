"""Parquet: a table, with the record in the footer's metadata."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from simrec.contracts import ExportRecord, Origin
from simrec.exporters.content import check_schema
from simrec.exporters.files import arrow_stream, writing, written
from simrec.exporters.parquet_footer import codecs
from simrec.exporters.reading import missing, parsed, reading, rows_at_once
from simrec.files import opened
from simrec.streams import chunks

GROUPED = 32
"""How many batches make a row group."""

ENCODED = 1 << 16
"""How many values are encoded at a time: with pyarrow's default of 1,024, codes take a quarter longer."""

CODECS = {"UNCOMPRESSED", "SNAPPY"}
"""How columns may be compressed: with these, a page can't unpack to much more than the file holds."""


def write(target: str | BinaryIO, table: Any, origin: Origin) -> Sequence[str]:
    """`.parquet`: all columns, the code as a list of fixed size, with a checksum per page."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    # Codes look random: neither a dictionary nor compression makes them smaller, and both take time. Dictionaries and
    # minimum and maximum values of texts that differ in every row take time too.
    alike = [name for name in table.schema.names if name not in ("id", "source", "preview", "code")]
    kinds = {name: "none" if name in ("code", "preview") else "snappy" for name in table.schema.names}
    compression = {"code.list.element" if name == "code" else name: kind for name, kind in kinds.items()}
    with (
        writing(target) as (file,),
        arrow_stream(target, file) as stream,
        pq.ParquetWriter(
            stream, table.schema, use_dictionary=alike or False, write_statistics=alike or False,
            compression=compression, write_page_checksum=True, write_batch_size=ENCODED,
        ) as writer,
    ):  # fmt: skip
        for some in chunks(table, GROUPED):
            group = pa.Table.from_batches(some)
            writer.write_table(group, row_group_size=max(1, len(group)))
        writer.add_key_value_metadata({"simrec": origin.finished().to_bytes().decode()})
    return written(target)


def read(path: str) -> tuple[ExportRecord, Iterator[Any]]:
    """See `ReadExport`; with all its columns."""
    import pyarrow.parquet as pq

    with reading(path), opened(Path(path)) as file:
        if others := codecs(file) - CODECS:
            raise ValueError(f"it is compressed as {', '.join(others)}, which simrec doesn't do")
        said = (pq.read_metadata(file).metadata or {}).get(b"simrec")
        if said is None:
            raise missing(path, "no 'simrec' in its metadata")
        return (record := parsed(said, path)), _rows(path, record)


def _rows(path: str, record: ExportRecord) -> Iterator[Any]:
    import pyarrow.parquet as pq

    with reading(path), opened(Path(path)) as file:
        table = pq.ParquetFile(file, page_checksum_verification=True)
        check_schema(table.schema_arrow, record)
        if table.metadata.num_rows != record.count:
            raise ValueError(f"it has {table.metadata.num_rows:,} rows, its record says {record.count:,}")
        for number in range(table.num_row_groups):  # one by one: it would hold several at once in memory
            yield from table.iter_batches(rows_at_once(record), row_groups=[number])
