"""Reads exports back. A file may come from anyone: its claims are checked before memory is taken for them."""

from __future__ import annotations

import csv
import json
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import IO, Any, BinaryIO

import msgspec
import numpy as np
from numpy.typing import NDArray

from simrec.catalogue.tables import coded
from simrec.contracts import ExportRecord
from simrec.contracts.exporters import RECORD
from simrec.errors import DataError, VersionError, reason
from simrec.exporters.content import NUMBERS
from simrec.exporters.files import items_path, record_path
from simrec.files import opened, read

LARGEST = 8 << 20
"""Maximum bytes of a record, or of a header with one."""

LONGEST = 4 << 20
"""Maximum bytes of a line, without its code."""

BATCH = 8 << 20
"""About how many bytes of codes (float32) a batch holds."""

_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)


class _Item(msgspec.Struct):
    """The part of a line of items that is read."""

    id: str


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Turns whatever goes wrong in reading a file into a DataError of one line."""
    import pyarrow as pa

    errors: tuple[type[Exception], ...] = (OSError, ValueError, EOFError, KeyError, TypeError, RuntimeError)
    errors += (OverflowError, struct.error, zlib.error, zipfile.BadZipFile, csv.Error, pa.ArrowException)
    try:
        yield
    except errors as error:
        why = getattr(error, "strerror", None) or (str(error) if type(error) is ValueError else reason(error))
        why = " ".join(why.split())[:300]
        raise DataError(f"{path}: cannot be read as an export ({why}): export it again") from error


def parsed(data: bytes, path: str) -> ExportRecord:
    """The record in a file's metadata.

    Raises ValueError for an invalid record, VersionError for one from a newer simrec.
    """
    if len(data) > LARGEST:
        raise ValueError(f"a record of {len(data):,} bytes")
    values = json.loads(data)
    if not isinstance(values, dict) or type(values.get("version")) is not int:
        raise ValueError("its record is not one of simrec's")
    if values["version"] > RECORD:
        raise VersionError(
            f"{path}: its record has version {values['version']}, newer than the {RECORD} that this simrec reads: "
            f"upgrade simrec"
        )
    if unknown := set(values) - {known.name for known in fields(ExportRecord)}:
        raise ValueError(f"its record has an unknown field {min(unknown)[:100]!r}")
    record = msgspec.convert(values, ExportRecord)
    if not (1 <= record.dim <= 1 << 20 and record.count is not None and 0 <= record.count <= 1 << 48):
        raise ValueError(f"its record says {record.count} codes of {record.dim} numbers")
    if not all(map(_DIGEST.fullmatch, (record.digest, record.encoder_digest, record.recipe_digest))):
        raise ValueError("its record lacks a digest")
    if (record.dtype == "int8") != (record.scale is not None) or not 0 < (record.scale or 1) < 1e30:
        raise ValueError(f"its record has the scale {record.scale} for {record.dtype}")
    if len(set(record.columns)) < len(record.columns) or "code" not in record.columns:
        raise ValueError("its record names a column twice, or no code")
    return record


def beside(path: str) -> ExportRecord:
    """The record beside a file whose format has no room for it."""
    with reading(path):
        try:
            with opened(record_path(path)) as file:
                return parsed(read(file, LARGEST), path)
        except FileNotFoundError as error:
            raise missing(path, f"there is no {record_path(path).name} beside it") from error


def missing(path: str, why: str) -> DataError:
    """The error for a file without a record."""
    return DataError(
        f"{path}: doesn't say which encoder made its codes ({why}): use a file that 'simrec export' wrote, with the "
        f"files beside it"
    )


def rows_at_once(record: ExportRecord) -> int:
    """How many rows a batch has."""
    return max(1, min(1 << 16, BATCH // (4 * record.dim)))


def numbers(file: IO[bytes], record: ExportRecord) -> Iterator[NDArray[Any]]:
    """The codes (n, dim) in a file, one after the other from its current position to its end, in batches.

    Raises ValueError if there are more or fewer than the record says.
    """
    kind, left = np.dtype(NUMBERS[record.dtype]), record.count or 0
    while left:
        rows = min(left, rows_at_once(record))
        data = file.read(rows * record.dim * kind.itemsize)
        if len(data) != rows * record.dim * kind.itemsize:
            raise ValueError(f"it is cut short: {left:,} of its {record.count:,} codes are missing")
        left -= rows
        yield np.frombuffer(data, kind).reshape(rows, record.dim)
    if file.read(1):
        raise ValueError(f"it has more than the {record.count:,} codes that its record says")


def from_texts(texts: Any, record: ExportRecord) -> NDArray[Any]:
    """The codes (n, dim) in a pyarrow array of n * dim numbers as texts."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = pa.int8() if record.dtype == "int8" else pa.float32()
    numbers: NDArray[Any] = pc.cast(texts, kind).to_numpy(zero_copy_only=False)
    return numbers.astype(NUMBERS[record.dtype]).reshape(-1, record.dim)


def split(texts: Sequence[str], record: ExportRecord) -> NDArray[Any]:
    """The codes (n, dim) in texts such as "[0.1,0.2]". Raises ValueError for a code of another length."""
    import pyarrow as pa
    import pyarrow.compute as pc

    inside = pc.utf8_trim(pa.array(texts, pa.string()), "[] ")
    parts = pc.split_pattern(inside, ",")
    if len(texts) and set(pc.list_value_length(parts).to_pylist()) != {record.dim}:
        raise ValueError(f"a code of other than {record.dim} numbers")
    return from_texts(parts.flatten(), record)


def batch(ids: Sequence[str] | None, codes: NDArray[Any]) -> Any:
    """A pyarrow RecordBatch of codes (n, dim), and of ids if there are any."""
    import pyarrow as pa

    columns = {} if ids is None else {"id": pa.array(ids, pa.string())}
    return pa.record_batch({**columns, "code": coded(codes)})


def lines(file: BinaryIO, record: ExportRecord) -> Iterator[bytes]:
    """The lines of a file. Raises ValueError for a line that is too long or isn't UTF-8."""
    most = LONGEST + 32 * record.dim
    while line := file.readline(most + 1):
        if len(line) > most:
            raise ValueError(f"a line of more than {most:,} bytes")
        line.decode()
        yield line


def with_items(path: str, record: ExportRecord, codes: Iterator[NDArray[Any]]) -> Iterator[Any]:
    """Codes as batches, with their ids from the JSON lines beside the file, if there are any."""
    if "id" not in record.columns:
        for some in codes:
            yield batch(None, some)
        return
    decoder, place = msgspec.json.Decoder(_Item), items_path(path)
    with reading(str(place)), opened(place) as file:
        ids = (decoder.decode(line).id for line in lines(file, record))
        for some in codes:
            some_ids = list(islice(ids, len(some)))
            if len(some_ids) < len(some):
                raise ValueError(f"it has fewer lines than there are codes in {path}")
            yield batch(some_ids, some)
        if next(ids, None) is not None:
            raise ValueError(f"it has more lines than there are codes in {path}")


def size(file: BinaryIO) -> int:
    """The size of an open file in bytes."""
    return os.fstat(file.fileno()).st_size


def path_of(path: str) -> Path:
    """The path, after checking that a regular file is there. Raises OSError."""
    with opened(Path(path)):
        return Path(path)
