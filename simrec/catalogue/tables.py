"""Items as Arrow tables: their columns, and entries as record batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from simrec.catalogue.fields import Kind, array
from simrec.contracts import Codes, Entry, Item

Columns = Mapping[str, str | None]
"""Each column's name, and the field in it; None for an item's own `id`, `label`, `source`, `preview` (a JPEG or PNG
file) or `code`, a list of fixed size of float32."""


OWN = ("id", "label", "source")
"""The columns that every item has, beside its code."""


def named(fields: Sequence[str]) -> dict[str, str | None]:
    """The column for each field: named like the field, unless an export has another column with that name."""
    taken, columns = {*OWN, "code", "preview"}, dict[str, str | None]()
    free = {name for name in fields if name not in taken and not name.startswith("code_")}
    for name in fields:
        column = name
        while name not in free and (column in taken | free | columns.keys() or column.startswith("code_")):
            column = f"field_{column}"
        columns[column] = name
    return columns


def usual(fields: Sequence[str]) -> dict[str, str | None]:
    """The columns of a table of items with those fields: their own, the fields, the code."""
    return {**dict.fromkeys(OWN), **named(fields), "code": None}


def schema(columns: Columns, kinds: Mapping[str, Kind | None], dim: int) -> Any:
    """The pyarrow Schema of a table. kinds: the fields' types, None for a field without any value."""
    import pyarrow as pa

    own = {"preview": pa.binary(), "code": pa.list_(pa.float32(), dim)}
    return pa.schema(
        [
            pa.field(name, own.get(name, pa.string()), nullable=False)
            if field is None
            else pa.field(name, pa.type_for_alias(kinds[field] or "int64"))
            for name, field in columns.items()
        ]
    )


def coded(codes: Any) -> Any:
    """Codes (n, dim) as a pyarrow array of lists of fixed size."""
    import pyarrow as pa

    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(codes).ravel()), codes.shape[1])


def batch(
    entries: Sequence[Entry | Item], previews: Sequence[bytes], codes: Codes, columns: Columns, schema: Any
) -> Any:
    """Entries or items, their previews and codes (n, dim) as a pyarrow RecordBatch."""
    import pyarrow as pa

    arrays = []
    for name, field in columns.items():
        if field is not None:
            kind: Kind = str(schema.field(name).type)  # type: ignore[assignment]
            arrays.append(array([entry.fields.get(field) for entry in entries], kind))
        elif name == "code":
            arrays.append(coded(codes))
        else:
            values = previews if name == "preview" else [getattr(entry, name) for entry in entries]
            arrays.append(pa.array(values, schema.field(name).type))
    return pa.record_batch(arrays, schema=schema)
