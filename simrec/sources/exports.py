"""Exports as sources: files of codes that simrec wrote, recognised by their metadata."""

from __future__ import annotations

from pathlib import Path

from simrec.files import opened

ENDINGS = (".parquet", ".arrow")
"""Formats from which a catalogue can be built: they hold ids and fields with their types."""


def is_export(source: str) -> bool:
    """Whether a source is the path of an export. A .parquet without an export's record is a list."""
    path = Path(source)
    if not source.lower().endswith(ENDINGS) or not path.is_file():
        return False
    if path.suffix.lower() == ".arrow":
        return True  # no other source ends in this
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with opened(path) as file:
            return b"simrec" in (pq.read_metadata(file).metadata or {})
    except (OSError, pa.ArrowException):  # reading it as a list reports the error
        return False
