"""Filters in DataFusion's SQL. LanceDB takes them as one text, so every value is written as a literal.

DataFusion compares texts by their bytes, which in UTF-8 means by code points; within quotes, a doubled quote is the
only escape. It treats 0.0 and -0.0 as different, so neither a table nor a filter has the latter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from simrec.contracts.engines import Kind
from simrec.contracts.filters import AllOf, Among, AnyOf, Compared, ComparedColumns, Condition, Empty, Like

SWAPPED = {"=": "=", "<>": "<>", "<": ">", "<=": ">=", ">": "<", ">=": "<="}


def to_sql(condition: Condition, columns: Mapping[str, str], kinds: Mapping[str, Kind]) -> str:
    """The condition as SQL. columns, kinds: the table's, by field, with "id" and "label"."""
    if isinstance(condition, AllOf | AnyOf):
        if not condition.parts:
            return "true" if isinstance(condition, AllOf) else "false"
        parts = [to_sql(part, columns, kinds) for part in condition.parts]
        return f"({(' AND ' if isinstance(condition, AllOf) else ' OR ').join(parts)})"
    if isinstance(condition, ComparedColumns):
        left, right, operator = condition.left, condition.right, condition.operator
        if (kinds[left], kinds[right]) == ("double", "int64"):
            left, right, operator = right, left, SWAPPED[operator]  # type: ignore[assignment]
        if (kinds[left], kinds[right]) == ("int64", "double"):
            return _mixed(named(columns[left]), operator, named(columns[right]))
        return f"{named(columns[left])} {operator} {named(columns[right])}"
    column = named(columns[condition.column])
    if isinstance(condition, Empty):
        return f"{column} IS {'NOT ' if condition.negated else ''}NULL"
    if isinstance(condition, Compared):
        return f"{column} {condition.operator} {literal(condition.value)}"
    if isinstance(condition, Among):
        held = f"IN ({', '.join(map(literal, condition.values))})"
    else:
        assert isinstance(condition, Like)
        pattern = condition.pattern.replace("\\", "\\\\")  # a backslash makes the next character stand for itself
        held = f"ILIKE {literal(pattern)}"
    # DataFusion simplifies `x NOT IN (1) OR x NOT IN (2)` to true, which is wrong for NULL.
    return f"({column} NOT {held} AND {column} IS NOT NULL)" if condition.negated else f"{column} {held}"


def _mixed(whole: str, operator: str, double: str) -> str:
    """An exact comparison of whole numbers with doubles. Converting a whole number to a double rounds it, but never
    past another double. So rounding can hide a difference only where the two are equal, and there the double is whole.
    If it is too large for a whole number of 64 bits, TRY_CAST gives NULL.
    """
    rounded, exact = f"CAST({whole} AS DOUBLE)", f"TRY_CAST({double} AS BIGINT)"
    beyond = f" OR {double} >= {literal(2.0**63)}" if operator in ("<", "<=", "<>") else ""
    level = f"({rounded} = {double} AND ({whole} {operator} {exact}{beyond}))"
    return level if operator == "=" else f"({rounded} {operator.rstrip('=')} {double} OR {level})"


def named(name: str) -> str:
    """A column's name, quoted; simrec's column names have no backticks."""
    return f"`{name}`"


def literal(value: str | int | float) -> str:
    """A value of a column's type, as a literal."""
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    if isinstance(value, int):
        return str(value) if value >= 0 else f"CAST('{value}' AS BIGINT)"  # -2**63 would be read as a double
    return repr(value + 0.0) if math.isfinite(value) else f"CAST('{value}' AS DOUBLE)"
