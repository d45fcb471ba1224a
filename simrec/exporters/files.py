"""Codes and items as files for other programs: .npy with JSON lines beside it, .parquet, .csv, written as a stream."""

from __future__ import annotations

import csv
import io
import json
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from simrec.contracts import Codes, Item, Origin
from simrec.files import replacing

Batches = Iterable[tuple[Sequence[Item], Codes]]

NAMES = ("id", "label", "source", "encoder")
"""The columns that every item has."""


def npy(target: str, batches: Batches, origin: Origin) -> Sequence[str]:
    """`.npy` with the codes alone, float32 (n, dim); the items lie beside it as `.items.jsonl`, a line a row."""
    path, count = Path(target), 0
    beside = path.with_suffix(".items.jsonl")
    with replacing(path) as file, replacing(beside) as lines:
        file.write(_npy_header(0, origin.dim))
        for items, codes in batches:
            file.write(np.ascontiguousarray(codes, "<f4").tobytes())
            for item in items:
                row = {**_row(item, origin.encoder), **({"fields": dict(item.fields)} if item.fields else {})}
                lines.write((json.dumps(row, ensure_ascii=False) + "\n").encode())
            count += len(items)
        file.seek(0)
        file.write(_npy_header(count, origin.dim))
    return [str(path), str(beside)]


def csv_(target: str, batches: Batches, origin: Origin) -> Sequence[str]:
    """`.csv`: id, label, source, encoder, the fields, and a column for each number of a code."""
    with replacing(Path(target)) as file:
        text = io.TextIOWrapper(file, "utf-8", newline="", write_through=True)
        table = csv.writer(text)
        names = [*NAMES, *(named(field) for field in origin.fields), *(f"code_{i}" for i in range(origin.dim))]
        table.writerow(names)
        for items, codes in batches:
            for item, code in zip(items, codes, strict=True):
                # str of a float32 is the shortest text that reads back as the same float32.
                fields = (item.fields.get(name) for name in origin.fields)
                table.writerow([*_row(item, origin.encoder).values(), *fields, *map(str, code)])
        text.detach()
    return [target]


def parquet(target: str, batches: Batches, origin: Origin) -> Sequence[str]:
    """`.parquet`: id, label, source, the fields and a fixed-size list column `code`; the encoder in the schema's
    metadata.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = [("id", pa.string()), ("label", pa.string()), ("source", pa.string())]
    types = {int: pa.int64(), float: pa.float64(), str: pa.string()}
    fields = [(name, types[kind]) for name, kind in origin.fields.items()]
    schema = pa.schema(
        [
            *columns,
            *((named(name), kind) for name, kind in fields),
            ("code", pa.list_(pa.float32(), origin.dim)),
        ],
        metadata={"simrec.encoder": origin.encoder},
    )
    with replacing(Path(target)) as file, pq.ParquetWriter(file, schema) as writer:
        for items, codes in batches:
            rows = [_row(item, origin.encoder) for item in items]
            arrays: dict[str, Any] = {name: pa.array([row[name] for row in rows], kind) for name, kind in columns}
            for name, kind in fields:
                arrays[named(name)] = pa.array([item.fields.get(name) for item in items], kind)
            arrays["code"] = pa.FixedSizeListArray.from_arrays(pa.array(codes.ravel(), pa.float32()), origin.dim)
            writer.write_table(pa.table(arrays, schema=schema))
    return [target]


def named(field: str) -> str:
    """The column of a field: its name, unless the export has a column of that name already."""
    return f"field_{field}" if field in (*NAMES, "code") or field.startswith("code_") else field


def _npy_header(count: int, dim: int) -> bytes:
    """The header of a .npy of float32 (count, dim), of one length whatever the count: see numpy.lib.format."""
    said = repr({"descr": "<f4", "fortran_order": False, "shape": (count, dim)}).ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(said)) + said.encode()


def _row(item: Item, encoder: str) -> dict[str, str]:
    return dict(zip(NAMES, (item.id, item.label, item.source, encoder), strict=True))
