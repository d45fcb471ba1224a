"""Translates filters to PostgreSQL's SQL; all values are bound.

Texts are compared by their bytes (the collation "C"), which in UTF-8 means by code points.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, LiteralString

from psycopg import sql

from simrec.contracts.engines import Kind
from simrec.contracts.filters import AllOf, Among, AnyOf, Compared, ComparedColumns, Condition, Empty, Like

OPERATORS = {"=": "=", "<>": "<>", "<": "<", "<=": "<=", ">": ">", ">=": ">="}

SWAPPED = {"=": "=", "<>": "<>", "<": ">", "<=": ">=", ">": "<", ">=": "<="}

MIXED: LiteralString = """CASE
    WHEN {left} IS NULL OR {right} IS NULL THEN FALSE
    WHEN {left}::float8 <> {right} THEN {left}::float8 {operator} {right}
    WHEN {right} < 9223372036854775808 THEN {left} {operator} {right}::bigint
    ELSE {beyond} END"""
"""Compares a whole number with a double, exactly. The whole number is rounded to a double, but never past another
double: rounding can hide a difference only if both are equal, and then the double is whole.
"""


def to_sql(
    condition: Condition, columns: dict[str, str], kinds: Mapping[str, Kind], folding: str
) -> tuple[sql.Composable, list[Any]]:
    """The condition in SQL, and its values. columns, kinds: the table's, by field. folding: the collation that knows
    capitals, or "casefold" if PostgreSQL has a function for that.
    """
    values: list[Any] = []
    return _sql(condition, columns, kinds, folding, values), values


def _sql(
    condition: Condition, columns: dict[str, str], kinds: Mapping[str, Kind], folding: str, values: list[Any]
) -> sql.Composable:
    if isinstance(condition, AllOf | AnyOf):
        if not condition.parts:
            return sql.SQL("TRUE" if isinstance(condition, AllOf) else "FALSE")
        parts = [_sql(part, columns, kinds, folding, values) for part in condition.parts]
        return sql.SQL("({})").format(sql.SQL(" AND " if isinstance(condition, AllOf) else " OR ").join(parts))
    if isinstance(condition, ComparedColumns):
        left, right, operator = condition.left, condition.right, OPERATORS[condition.operator]
        if (kinds[left], kinds[right]) == ("double", "int64"):
            left, right, operator = right, left, SWAPPED[operator]
        form = "{left} {operator} {right}"
        if (kinds[left], kinds[right]) == ("int64", "double"):
            form = MIXED
        beyond = sql.SQL("TRUE" if operator in ("<", "<=", "<>") else "FALSE")
        return sql.SQL(form).format(
            left=named(columns[left]), right=named(columns[right]), operator=sql.SQL(operator), beyond=beyond
        )
    column = named(columns[condition.column])
    if isinstance(condition, Empty):
        return sql.SQL("{} IS {}NULL").format(column, sql.SQL("NOT " if condition.negated else ""))
    if isinstance(condition, Compared):
        values.append(condition.value)
        return sql.SQL("{} {} %s").format(column, sql.SQL(OPERATORS[condition.operator]))
    if isinstance(condition, Among):
        values.append(list(condition.values))
        return sql.SQL("{} <> ALL(%s)" if condition.negated else "{} = ANY(%s)").format(column)
    assert isinstance(condition, Like)
    values.append(condition.pattern)
    negated = sql.SQL("NOT " if condition.negated else "")
    if folding == "casefold":
        like = sql.SQL("casefold({} COLLATE pg_c_utf8) {}LIKE casefold(%s COLLATE pg_c_utf8) ESCAPE ''")
        return like.format(column, negated)
    like = sql.SQL("{} COLLATE {} {}ILIKE %s ESCAPE ''")
    return like.format(column, sql.Identifier(folding), negated)


def named(name: str) -> sql.Composable:
    """A column's name, quoted; % is doubled, because psycopg takes a single one as a placeholder."""
    return sql.Identifier(name.replace("%", "%%"))
