"""The rows that match a condition, computed with pyarrow: for segments, and for what databases can't express."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from simrec.contracts.filters import (
    AllOf,
    Among,
    AnyOf,
    Compared,
    ComparedColumns,
    Condition,
    Empty,
    Like,
    Operator,
)

Columns: TypeAlias = Callable[[str], Any]
"""Gives a column by its name: an Array or ChunkedArray of int64, double, string or a dictionary of strings."""

Number: TypeAlias = int | float

_COMPARED: dict[str, Callable[[Any, Any], Any]] = {
    "=": pc.equal, "<>": pc.not_equal, "<": pc.less, "<=": pc.less_equal, ">": pc.greater, ">=": pc.greater_equal,
}  # fmt: skip


def mask(condition: Condition, column: Columns, rows: int) -> NDArray[np.bool_]:
    """Which rows match a condition, (rows,). column: gives the columns that the condition uses."""
    arrays: dict[str, Any] = {}

    def known(name: str) -> Any:
        if name not in arrays:
            array = column(name)
            arrays[name] = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
            if len(array) != rows:
                raise ValueError(f"a column of {len(array):,} rows, not {rows:,}")
        return arrays[name]

    return _mask(condition, known, rows)


def _mask(condition: Condition, column: Columns, rows: int) -> NDArray[np.bool_]:
    if isinstance(condition, AllOf | AnyOf):
        joined = np.logical_and if isinstance(condition, AllOf) else np.logical_or
        mask = np.full(rows, isinstance(condition, AllOf))
        for part in condition.parts:
            joined(mask, _mask(part, column, rows), out=mask)
        return mask
    held = _held(condition, column)
    known: NDArray[np.bool_] = (
        held if isinstance(held, np.ndarray) else held.fill_null(False).to_numpy(zero_copy_only=False)
    )
    return known


def _held(condition: Compared | ComparedColumns | Among | Like | Empty, column: Columns) -> Any:
    """Whether each row matches: a BooleanArray, null where that is unknown, or a numpy array if all are known."""
    if isinstance(condition, ComparedColumns):
        return _of_columns(condition.operator, column(condition.left), column(condition.right))
    array = column(condition.column)
    if isinstance(condition, Empty):
        return pc.is_valid(array) if condition.negated else pc.is_null(array)
    if isinstance(condition, Compared):
        value, operator = condition.value, condition.operator
        if isinstance(value, str):
            return _of_texts(array, lambda texts: _COMPARED[operator](texts, pa.scalar(value)))
        return _of_numbers(operator, array, value)
    if isinstance(condition, Like):
        plain = re.sub("%+", "%", condition.pattern.replace("\\", "\\\\"))
        matches = _of_texts(array, lambda texts: pc.match_like(texts, plain, ignore_case=True))
    elif isinstance(condition.values[0], str):
        wanted = pa.array(condition.values, pa.string())
        matches = _of_texts(array, lambda texts: _or_null(texts, pc.is_in(texts, value_set=wanted)))
    else:
        matches = _among_numbers(array, [value for value in condition.values if not isinstance(value, str)])
    if not condition.negated:
        return matches
    return ~matches if isinstance(matches, np.ndarray) else pc.invert(matches)


def fitted(condition: Condition, kinds: Callable[[str], str | None]) -> Condition:
    """The same condition with every number converted to its column's type, so that databases compare exactly.

    kinds: gives a column's type ("int64", "double" or "string"), or None if it has no values.
    """
    if isinstance(condition, AllOf | AnyOf):
        return type(condition)(tuple(fitted(part, kinds) for part in condition.parts))
    if isinstance(condition, Compared):
        kind = kinds(condition.column)
        if kind is None:
            return AnyOf(())
        if isinstance(condition.value, str):
            return condition
        sign, near = (_among_whole if kind == "int64" else _among_doubles)(condition.operator, condition.value)
        if near is None:
            return Empty(condition.column, negated=True) if sign == "true" else AnyOf(())
        return Compared(condition.column, sign, near)  # type: ignore[arg-type]
    if isinstance(condition, Among):
        kind, values = kinds(condition.column), condition.values
        if kind is None:
            return AnyOf(())
        if kind != "string":
            among = _among_whole if kind == "int64" else _among_doubles
            near_ones = [among("=", value)[1] for value in values if not isinstance(value, str)]
            values = tuple(value for value in near_ones if value is not None)
        if not values:
            return Empty(condition.column, negated=True) if condition.negated else AnyOf(())
        return Among(condition.column, values, condition.negated)
    if isinstance(condition, ComparedColumns) and None in (kinds(condition.left), kinds(condition.right)):
        return AnyOf(())
    if isinstance(condition, Like) and kinds(condition.column) is None:
        return AnyOf(())
    return condition


def _nothing(array: Any) -> bool:
    """Whether a column has no value at all, and so may be of any type."""
    return bool(array.null_count == len(array))


def _unknown(array: Any) -> Any:
    return pa.nulls(len(array), pa.bool_())


def _or_null(array: Any, matches: Any) -> Any:
    """The result, null where the array is null."""
    return matches if array.null_count == 0 else pc.if_else(pc.is_valid(array), matches, pa.scalar(None, pa.bool_()))


def _everywhere(array: Any, held: bool) -> Any:
    """The same truth for every row that has a value, null for the others."""
    return _or_null(array, pa.array(np.full(len(array), held)))


def _of_texts(array: Any, test: Callable[[Any], Any]) -> Any:
    """Tests texts; in a dictionary array, each distinct text only once."""
    if _nothing(array):
        return _unknown(array)
    if not isinstance(array, pa.DictionaryArray):
        return test(array)
    held = test(array.dictionary).to_numpy(zero_copy_only=False)
    true = np.flatnonzero(held)
    if len(true) == 0:
        return _everywhere(array, False)
    if len(true) == 1:
        return pc.equal(array.indices, pa.scalar(int(true[0]), array.indices.type))
    if array.null_count:
        return pc.take(pa.array(held), array.indices)
    return np.take(held, array.indices.to_numpy())  # several times as fast


def _of_numbers(operator: Operator, array: Any, number: Number) -> Any:
    """Compares numbers with one number, exactly, whether they are whole or not."""
    if _nothing(array):
        return _unknown(array)
    whole = array.type == pa.int64()
    sign, near = (_among_whole if whole else _among_doubles)(operator, number)
    if near is None:
        return _everywhere(array, sign == "true")
    return _COMPARED[sign](array, pa.scalar(near, array.type))


def _among_whole(operator: str, number: Number) -> tuple[str, int | None]:
    """The same comparison with a whole number of 64 bits; "true" or "false" if the result is the same for all."""
    if isinstance(number, int):
        return operator, number
    if number.is_integer() and -(2.0**63) <= number < 2.0**63:
        return operator, int(number)
    if operator in ("=", "<>"):
        return ("true" if operator == "<>" else "false"), None
    if not -(2.0**63) <= number < 2.0**63:
        return ("true" if (number > 0) == (operator in ("<", "<=")) else "false"), None
    below = int(np.floor(number))  # less than it is less than or equal to the whole number below
    return ("<=", below) if operator in ("<", "<=") else (">", below)


def _among_doubles(operator: str, number: Number) -> tuple[str, float | None]:
    """The same comparison with a double; "true" or "false" if the result is the same for all."""
    near = float(number)
    if isinstance(number, float) or int(near) == number:
        return operator, near
    if operator in ("=", "<>"):
        return ("true" if operator == "<>" else "false"), None
    if operator in ("<", "<="):
        return ("<=" if near < number else "<"), near
    return (">=" if near > number else ">"), near


def _among_numbers(array: Any, numbers: Sequence[Number]) -> Any:
    if _nothing(array) or not numbers:
        return _unknown(array)
    whole = array.type == pa.int64()
    wanted: list[Number] = []
    for number in numbers:
        near = (_among_whole if whole else _among_doubles)("=", number)[1]
        if near is not None:
            wanted += [near] if whole or near else [0.0, -0.0]  # equal, but different in a hash table
    return _or_null(array, pc.is_in(array, value_set=pa.array(wanted, array.type)))


def _of_columns(operator: Operator, left: Any, right: Any) -> Any:
    if _nothing(left) or _nothing(right):
        return _unknown(left)
    left, right = (a.dictionary_decode() if isinstance(a, pa.DictionaryArray) else a for a in (left, right))
    if left.type == right.type:
        return _COMPARED[operator](left, right)
    if left.type == pa.int64():
        order = _order(left, right)
    else:
        order = -_order(right, left)
    compared = _COMPARED[operator](pa.array(order), pa.scalar(0, pa.int8()))
    return _or_null(left, _or_null(right, compared))


def _order(whole: Any, doubles: Any) -> NDArray[np.int8]:
    """-1, 0 or 1 where a whole number is less than, equal to or greater than the double beside it.

    Converting a whole number to a double rounds it, but never past another double. So rounding can hide a difference
    only where the two are equal, and there the double is whole.
    """
    integers, others = whole.fill_null(0).to_numpy(), doubles.fill_null(0.0).to_numpy()
    rounded = integers.astype(np.float64)
    order: NDArray[np.int8] = (rounded > others).astype(np.int8) - (rounded < others).astype(np.int8)
    level = rounded == others
    largest = level & (others >= 2.0**63)  # one more than a whole number of 64 bits can be
    exact = np.where(level & ~largest, others, 0).astype(np.int64)
    order[level] = (integers[level] > exact[level]).astype(np.int8) - (integers[level] < exact[level]).astype(np.int8)
    order[largest] = -1
    return order
