"""Items as Qdrant points: their ids and payloads.

Qdrant keeps payloads as JSON and reads one double in ten as its neighbour (serde_json without float_roundtrip, in
qdrant-edge-py 0.9). So a field of doubles has two more keys, for the halves of a whole number that has the same order
as the double: filters compare these, and reading makes the double from them.
"""

from __future__ import annotations

import base64
import math
import re
import struct
import uuid
from collections.abc import Callable, Iterable
from hashlib import blake2b
from typing import Any

import numpy as np

from simrec.contracts import Item, Row, Table, Value
from simrec.contracts.engines import Kind
from simrec.errors import RequestError

ITEM = ("id", "source", "stamp", "content", "origin")

OWN = (*ITEM, "label", "length", "preview", "digest", "simrec_from", "simrec_until")
"""Keys that every point has; a field with such a name gets another one."""

NEVER = 2**53
"""simrec_until of a point that nothing has replaced: whole and exact as a double, since filters compare doubles."""

_PLAIN = re.compile(r"[A-Za-z]\w{0,62}", re.ASCII)


def id_of(item: str, slot: int) -> str:
    """The id of one of an item's two points, 0 or 1."""
    data = f"{slot} {item}".encode("utf-8", "surrogatepass")
    return str(uuid.UUID(bytes=blake2b(data, digest_size=16).digest()))


def fields_of(table: Table) -> dict[str, str]:
    """The keys of the fields. Qdrant would read a name that isn't a plain word as a path."""
    keys = {}
    for field in table.fields:
        plain = _PLAIN.fullmatch(field) and field not in OWN and not field.startswith(("field_", "simrec_"))
        digest = blake2b(field.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
        keys[field] = field if plain else f"field_{digest}"
    return keys


def keys_of(table: Table) -> dict[str, str]:
    """The keys of the columns that a filter can use."""
    return {**fields_of(table), "id": "id", "label": "label"}


def kinds_of(table: Table) -> dict[str, Kind]:
    """The types of these columns."""
    return {**table.fields, "id": "string", "label": "string"}


def parts_of(key: str, kind: Kind) -> list[str]:
    """The keys that hold a column's values."""
    return [f"simrec_high_{key}", f"simrec_low_{key}"] if kind == "double" else [key]


def shown(table: Table) -> list[str]:
    """The keys that make up an item."""
    keys = fields_of(table)
    return [*ITEM, "label", *(part for field, kind in table.fields.items() for part in parts_of(keys[field], kind))]


def halves(number: float) -> tuple[int, int]:
    """Two whole numbers of 32 bits that, compared in order, sort as doubles do."""
    (bits,) = struct.unpack(">Q", struct.pack(">d", number + 0.0))  # -0.0 is 0.0
    bits ^= 2**64 - 1 if bits >> 63 else 2**63
    return bits >> 32, bits & 2**32 - 1


def whole(high: int, low: int) -> float:
    """The double with these halves."""
    bits = high << 32 | low
    bits ^= 2**63 if bits >> 63 else 2**64 - 1
    (number,) = struct.unpack(">d", struct.pack(">Q", bits))
    return float(number)


def value_of(payload: dict[str, Any], key: str, kind: Kind) -> Value:
    """A value in a payload, or None."""
    parts = [payload.get(part) for part in parts_of(key, kind)]
    if None in parts:
        return None
    value: Value = whole(*parts) if kind == "double" else parts[0]  # type: ignore[arg-type]
    return value


def payload_of(row: Row, table: Table, number: int) -> dict[str, Any]:
    """A row as a payload that is visible from generation `number` on. Raises RequestError for what JSON can't hold."""
    item = row.item
    payload = {
        **{name: getattr(item, name) for name in ITEM}, **({"label": item.label} if item.label else {}),
        "length": repr(row.length), "preview": base64.b64encode(row.preview).decode(), "digest": row.digest,
        "simrec_from": number, "simrec_until": NEVER,
    }  # fmt: skip
    for field, key in fields_of(table).items():
        value = item.fields.get(field)
        if isinstance(value, int | float) and table.fields[field] == "double":
            payload |= zip(parts_of(key, "double"), halves(value), strict=True)
        if value is not None and not (isinstance(value, float) and math.isinf(value)):
            payload[key] = value
    for key, value in payload.items():
        if isinstance(value, str) and not encodable([value]):
            raise RequestError(f"item {item.id!r:.100}: Qdrant can't keep its {key}, {value!r:.100}: change it")
    return payload


def item_of(payload: dict[str, Any], table: Table) -> Item:
    """The item in a payload."""
    keys = fields_of(table)
    fields = {field: value_of(payload, keys[field], kind) for field, kind in table.fields.items()}
    held = {field: value for field, value in fields.items() if value is not None}
    return Item(**{name: payload[name] for name in ITEM}, label=payload.get("label", ""), fields=held)


def row_of(point: Any, table: Table) -> Row:
    """The row in a point."""
    code = np.array(point.vector["code"] if point.vector else (), np.float32)
    payload = point.payload
    preview = base64.b64decode(payload.get("preview", ""))
    return Row(item_of(payload, table), code, float(payload["length"]), preview, payload["digest"])


def converted(row: Row, table: Table) -> Row:
    """A row in another table's types."""
    makers: dict[Kind, Callable[[Any], Value]] = {"int64": int, "double": float, "string": str}
    fields = {
        field: makers[table.fields[field]](value) for field, value in row.item.fields.items() if field in table.fields
    }
    code = row.code.astype(np.float16 if table.dtype == "float16" else np.float32).astype(np.float32)
    return row._replace(item=row.item._replace(fields=fields), code=code)


def encodable(texts: Iterable[str]) -> list[str]:
    """The texts that are valid Unicode; no point has others."""
    return [text for text in texts if text.isascii() or not re.search("[\ud800-\udfff]", text)]
