"""safetensors: the codes as the tensor `code`, the record in the header."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np

from simrec.contracts import ExportRecord, Origin
from simrec.exporters.content import NUMBERS, codes
from simrec.exporters.files import Beside

DTYPES = {"float32": "F32", "float16": "F16", "int8": "I8"}
"""What safetensors calls the dtypes."""


def write(target: str | BinaryIO, table: Any, origin: Origin) -> Sequence[str]:
    """`.safetensors`: `code` (n, dim), the record under `simrec` in its metadata; beside it the other columns as JSON
    lines, a line a row.
    """
    beside = Beside(target, table, record=False)
    length = -(-len(_header(origin.widest)) // 8) * 8
    with beside.writing(seek=True) as (file, add):
        file.write(struct.pack("<Q", length) + bytes(length))
        for batch in table:
            file.write(codes(batch).data)
            add(batch)
        file.seek(8)
        file.write(_header(origin.finished()).ljust(length))
        return beside.finish(origin)


def _header(record: ExportRecord) -> bytes:
    shape = [record.count or 0, record.dim]
    end = math.prod(shape) * np.dtype(NUMBERS[record.dtype]).itemsize
    tensor = {"dtype": DTYPES[record.dtype], "shape": shape, "data_offsets": [0, end]}
    return json.dumps({"__metadata__": {"simrec": record.to_bytes().decode()}, "code": tensor}).encode()
