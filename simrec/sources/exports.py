"""Exports as sources: files of codes that simrec wrote, known by what they say of themselves."""

from __future__ import annotations

from pathlib import Path

from simrec.files import opened

ENDINGS = (".parquet", ".arrow")
"""Formats from which a catalogue can be built: they hold ids and fields with their types."""


def is_export(source: str) -> bool:
    """Whether a person typed the path of an export. Without its record a .parquet is a list."""
    path = Path(source)
    if not source.lower().endswith(ENDINGS) or not path.is_file():
        return False
    if path.suffix.lower() == ".arrow":
        return True  # which is nothing else
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with opened(path) as file:
            return b"simrec" in (pq.read_metadata(file).metadata or {})
    except (OSError, pa.ArrowException):  # a list that can't be read says so itself
        return False
