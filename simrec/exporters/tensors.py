"""safetensors: the codes as the tensor `code`, with the record in the header."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from simrec.contracts import ExportRecord, Origin
from simrec.exporters.content import NUMBERS, codes
from simrec.exporters.files import Beside
from simrec.exporters.reading import LARGEST, missing, numbers, parsed, reading, with_items
from simrec.files import opened

DTYPES = {"float32": "F32", "float16": "F16", "int8": "I8"}
"""safetensors' names for the dtypes."""


def write(target: str | BinaryIO, table: Any, origin: Origin) -> Sequence[str]:
    """`.safetensors`: `code` (n, dim), with the record under `simrec` in its metadata; beside it the other columns as
    JSON lines, one line per row.
    """
    rest = Beside(target, table, record=False)
    length = -(-len(_header(origin.widest)) // 8) * 8
    with rest.writing(seek=True) as (file, add):
        file.write(struct.pack("<Q", length) + bytes(length))
        for batch in table:
            file.write(codes(batch).data)
            add(batch)
        file.seek(8)
        file.write(_header(origin.finished()).ljust(length))
        return rest.finish(origin)


def read(path: str) -> tuple[ExportRecord, Iterator[Any]]:
    """See `ReadExport`."""
    with reading(path), opened(Path(path)) as file:
        header, _ = _head(file)
        metadata = header.get("__metadata__")
        if not isinstance(metadata, dict) or not isinstance(metadata.get("simrec"), str):
            raise missing(path, "no 'simrec' in its metadata")
        record = parsed(metadata["simrec"].encode(), path)
        if header != json.loads(_header(record)):
            raise ValueError("its header names other tensors than its record")
    return record, with_items(path, record, _codes(path, record))


def _codes(path: str, record: ExportRecord) -> Iterator[NDArray[Any]]:
    with reading(path), opened(Path(path)) as file:
        _, place = _head(file)
        file.seek(place)
        yield from numbers(file, record)


def _head(file: BinaryIO) -> tuple[dict[str, Any], int]:
    """The header of a file, and where its tensors begin."""
    (length,) = struct.unpack("<Q", file.read(8))
    if length > 2 * LARGEST:
        raise ValueError(f"a header of {length:,} bytes")
    header = json.loads(file.read(length))
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    return header, 8 + length


def _header(record: ExportRecord) -> bytes:
    shape = [record.count or 0, record.dim]
    end = math.prod(shape) * np.dtype(NUMBERS[record.dtype]).itemsize
    tensor = {"dtype": DTYPES[record.dtype], "shape": shape, "data_offsets": [0, end]}
    return json.dumps({"__metadata__": {"simrec": record.to_bytes().decode()}, "code": tensor}).encode()
