"""Filters in PostgreSQL's SQL, every value bound.

Columns of texts are compared by their bytes (the collation "C"), which in UTF-8 is by code points.
"""

from __future__ import annotations

from typing import Any

from psycopg import sql

from simrec.contracts.filters import AllOf, Among, AnyOf, Compared, ComparedColumns, Condition, Empty, Like

OPERATORS = {"=": "=", "<>": "<>", "<": "<", "<=": "<=", ">": ">", ">=": ">="}


def to_sql(condition: Condition, columns: dict[str, str], folding: str) -> tuple[sql.Composable, list[Any]]:
    """The condition and its values. columns: of the table, by fields. folding: the collation that knows capitals."""
    values: list[Any] = []
    return _sql(condition, columns, folding, values), values


def _sql(condition: Condition, columns: dict[str, str], folding: str, values: list[Any]) -> sql.Composable:
    if isinstance(condition, AllOf | AnyOf):
        if not condition.parts:
            return sql.SQL("TRUE" if isinstance(condition, AllOf) else "FALSE")
        parts = [_sql(part, columns, folding, values) for part in condition.parts]
        return sql.SQL("({})").format(sql.SQL(" AND " if isinstance(condition, AllOf) else " OR ").join(parts))
    if isinstance(condition, ComparedColumns):
        return sql.SQL("{} {} {}").format(
            named(columns[condition.left]), sql.SQL(OPERATORS[condition.operator]), named(columns[condition.right])
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
    collation = sql.Identifier(folding)
    like = sql.SQL("{} COLLATE {} {}ILIKE %s ESCAPE ''")
    return like.format(column, collation, sql.SQL("NOT " if condition.negated else ""))


def named(name: str) -> sql.Composable:
    """A column's name, quoted; psycopg takes a single % for a value's place."""
    return sql.Identifier(name.replace("%", "%%"))
