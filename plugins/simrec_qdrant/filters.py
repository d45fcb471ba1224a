"""Translates filters for Qdrant. What it can't express is checked item by item: LIKE, the order of texts, comparing two
columns, and whole numbers that a double can't hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qdrant_client import models

from simrec.contracts.engines import Kind
from simrec.contracts.filters import AllOf, Among, AnyOf, ComparedColumns, Condition, Empty, Like
from simrec_qdrant.points import halves, parts_of

RANGES = {"<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}

EXACT = 2**53
"""Whole numbers up to this one compare correctly with a range's bounds, which are doubles."""

NONE = models.HasIdCondition(has_id=[])
"""A condition that nothing matches."""


def split(
    condition: Condition, keys: Mapping[str, str], kinds: Mapping[str, Kind]
) -> tuple[list[Any], Condition | None]:
    """Qdrant conditions that find all items that may match, and what must be checked afterwards, None for nothing.

    keys, kinds: the payload's, by column.
    """
    said = _said(condition, keys, kinds)
    if said is not None:
        return [said], None
    if not isinstance(condition, AllOf):
        return [], condition
    parts = [split(part, keys, kinds) for part in condition.parts]
    left = tuple(rest for _, rest in parts if rest is not None)
    return [one for some, _ in parts for one in some], left[0] if len(left) == 1 else AllOf(left)


def columns_of(condition: Condition) -> set[str]:
    """The columns that a condition uses."""
    if isinstance(condition, AllOf | AnyOf):
        return {column for part in condition.parts for column in columns_of(part)}
    if isinstance(condition, ComparedColumns):
        return {condition.left, condition.right}
    return {condition.column}


def _said(condition: Condition, keys: Mapping[str, str], kinds: Mapping[str, Kind]) -> Any:
    """The same as a single Qdrant condition, None if there is none."""
    if isinstance(condition, AllOf | AnyOf):
        parts = [_said(part, keys, kinds) for part in condition.parts]
        if None in parts:
            return None
        if isinstance(condition, AllOf):
            return _all(*parts)
        return _any(*parts) if parts else NONE
    if isinstance(condition, ComparedColumns | Like):
        return None
    key, kind = keys[condition.column], kinds[condition.column]
    if isinstance(condition, Empty):
        empty = models.IsEmptyCondition(is_empty=models.PayloadField(key=parts_of(key, kind)[0]))
        return models.Filter(must_not=[empty]) if condition.negated else empty
    if isinstance(condition, Among):
        return _among(key, kind, condition.values, condition.negated)
    value, operator = condition.value, condition.operator
    if operator in ("=", "<>"):
        return _among(key, kind, [value], operator == "<>")
    if isinstance(value, str) or kind == "int64" and not -EXACT < value < EXACT:
        return None
    if kind == "int64":
        return _ranged(key, operator, int(value))
    (high, low), (first, last) = parts_of(key, kind), halves(value)
    return _any(_ranged(high, operator.rstrip("="), first), _all(_one(high, first), _ranged(low, operator, last)))


def _among(key: str, kind: Kind, values: Sequence[Any], negated: bool) -> Any:
    if kind != "double":
        return _others(key, *values) if negated else _one(key, *values)
    high, low = parts_of(key, kind)
    if negated:
        return _all(*(_any(_others(high, first), _others(low, last)) for first, last in map(halves, values)))
    return _any(*(_all(_one(high, first), _one(low, last)) for first, last in map(halves, values)))


def _all(*parts: Any) -> models.Filter:
    return models.Filter(must=list(parts))


def _any(*parts: Any) -> models.Filter:
    return models.Filter(should=list(parts))


def _one(key: str, *values: Any) -> models.FieldCondition:
    """A condition: one of these values."""
    return models.FieldCondition(key=key, match=models.MatchAny(any=list(values)))


def _others(key: str, *values: Any) -> models.FieldCondition:
    """A condition: a value that is none of these."""
    return models.FieldCondition(key=key, match=models.MatchExcept(**{"except": list(values)}))


def _ranged(key: str, operator: str, value: int) -> models.FieldCondition:
    return models.FieldCondition(key=key, range=models.Range(**{RANGES[operator]: value}))
