"""Parquet: a table, the record in the footer's metadata."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, BinaryIO

from simrec.contracts import Origin
from simrec.exporters.files import writing, written


def write(target: str | BinaryIO, table: Any, origin: Origin) -> Sequence[str]:
    """`.parquet`: every column, the code as a list of fixed size, under a checksum a page; a row group a batch."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    # Codes are as good as random: neither a dictionary nor compression makes them smaller, and both take time.
    others = [name for name in table.schema.names if name != "code"]
    kinds = {name: "none" if name in ("code", "preview") else "snappy" for name in table.schema.names}
    leaf = "code.list.element"
    compression = {leaf if name == "code" else name: kind for name, kind in kinds.items()}
    with (
        writing(target) as (file,),
        pq.ParquetWriter(
            pa.PythonFile(file, mode="w"), table.schema, use_dictionary=[n for n in others if n != "preview"] or False,
            compression=compression, write_statistics=others or False, write_page_checksum=True,
        ) as writer,
    ):  # fmt: skip
        for batch in table:
            writer.write_batch(batch, row_group_size=len(batch))
        writer.add_key_value_metadata({"simrec": origin.finished().to_bytes().decode()})
    return written(target)
