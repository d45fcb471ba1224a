"""Codes and items as files for apps downstream: .npy with JSON lines beside it, .parquet, .csv."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from simrec.arrays import to_npy
from simrec.catalogue import Item
from simrec.contracts import Codes
from simrec.errors import RequestError
from simrec.files import replacing


def write(path: Path, codes: Codes, items: Sequence[Item], encoder: str) -> list[Path]:
    """Writes codes (n, dim) with the id, label and source of each row; `encoder` says who made them.

    The ending chooses the format. `.npy` holds the codes alone, float32; the items lie beside it as `.items.jsonl`,
    a line a row. `.parquet` has a fixed-size list column, and the encoder in the schema's metadata too.
    Returns the files written. Raises RequestError for another ending.
    """
    writers = {".npy": _npy, ".parquet": _parquet, ".csv": _csv}
    if path.suffix.lower() not in writers:
        raise RequestError(f"{path}: the file's ending must be .npy, .parquet or .csv")
    return writers[path.suffix.lower()](path, codes, items, encoder)


def _npy(path: Path, codes: Codes, items: Sequence[Item], encoder: str) -> list[Path]:
    beside = path.with_suffix(".items.jsonl")
    with replacing(path) as file, replacing(beside) as lines:
        file.write(to_npy(codes))
        for item in items:
            lines.write((json.dumps(_row(item, encoder), ensure_ascii=False) + "\n").encode())
    return [path, beside]


def _csv(path: Path, codes: Codes, items: Sequence[Item], encoder: str) -> list[Path]:
    with replacing(path) as file:
        text = io.TextIOWrapper(file, "utf-8", newline="", write_through=True)
        table = csv.writer(text)
        table.writerow(["id", "label", "source", "encoder", *(f"code_{i}" for i in range(codes.shape[1]))])
        for item, code in zip(items, codes, strict=True):
            # repr of a float32 is the shortest text that reads back as the same float32.
            table.writerow([*_row(item, encoder).values(), *map(str, code)])
        text.detach()
    return [path]


def _parquet(path: Path, codes: Codes, items: Sequence[Item], encoder: str) -> list[Path]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [_row(item, encoder) for item in items]
    columns: dict[str, Any] = {name: pa.array([row[name] for row in rows]) for name in ("id", "label", "source")}
    columns["code"] = pa.FixedSizeListArray.from_arrays(pa.array(codes.ravel(), pa.float32()), codes.shape[1])
    table = pa.table(columns).replace_schema_metadata({"simrec.encoder": encoder})
    with replacing(path) as file:
        pq.write_table(table, file)
    return [path]


def _row(item: Item, encoder: str) -> dict[str, str]:
    return {"id": item.id, "label": item.label, "source": item.source, "encoder": encoder}
