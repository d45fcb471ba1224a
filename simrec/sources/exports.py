"""Exports as sources: files of codes that simrec wrote, recognised by their metadata."""

from __future__ import annotations

import re
from pathlib import Path

from simrec.errors import DataError
from simrec.files import opened

ENDINGS = (".parquet", ".arrow")
"""Formats from which a catalogue can be built: they hold ids and fields with their types."""

OTHERS = (".npy", ".npz", ".csv", ".jsonl", ".safetensors", ".faiss", ".lance", ".tsv")
"""The other formats of an export."""

RECORD = ".simrec.json"
"""What the name of the file beside an export adds, which holds the record if the format has no room for it."""

ENDS = 1 << 16
"""How many bytes at a file's beginning and end are searched for its record."""

_PATH = re.compile(rb'(?<![\w/ .-])path"?\s*[:,;\t\r\n]')
"""The column that a list has, and no export, in a file's first line."""


def is_export(source: str) -> bool:
    """Whether a source is the path of an export that a catalogue can be built from. A .parquet without an export's
    record is a list.
    """
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


def check_has_pictures(source: str) -> None:
    """Raises DataError for an export, which has no pictures to read, and says how a catalogue is built from it."""
    if is_export(source):
        raise DataError(
            f"{source}: this is an export of codes, not of pictures: 'simrec index build NAME {source}' makes a "
            f"catalogue from it, and makes it again when the export has changed"
        )
    if _is_other_export(source):
        raise DataError(
            f"{source}: this is an export of codes, not of pictures: a catalogue can be built from one that ends in "
            f"{' or '.join(ENDINGS)}: 'simrec export NAME -o {Path(source).with_suffix(ENDINGS[0])}'"
        )


def _is_other_export(source: str) -> bool:
    """Whether a source is the path of an export that no catalogue can be built from."""
    path = Path(source)
    if not source.lower().endswith(OTHERS) or _PATH.search(_ends(path).partition(b"\n")[0] + b"\n"):
        return False
    if (path / "_versions").is_dir():  # a Lance table
        return True
    return any(b"encoder_digest" in _ends(place) for place in (Path(f"{source}{RECORD}"), path))


def _ends(path: Path) -> bytes:
    """The first and last bytes of a file; none of what can't be read."""
    try:
        with opened(path) as file:
            head = file.read(ENDS)
            file.seek(max(0, file.seek(0, 2) - ENDS))
            return head + file.read(ENDS)
    except OSError:
        return b""
