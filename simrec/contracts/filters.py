"""A filter as an engine gets it: parsed, checked and without NOT, to be said in the language of a database.

Of every condition an item either is found or isn't: one that compares finds no item that has nothing in its column.
What each means is written in `simrec.catalogue.where`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Operator = Literal["=", "<>", "<", "<=", ">", ">="]


@dataclass(frozen=True)
class AllOf:
    """Items that every part finds; of no parts, all items."""

    parts: tuple[Condition, ...]


@dataclass(frozen=True)
class AnyOf:
    """Items that a part finds; of no parts, none."""

    parts: tuple[Condition, ...]


@dataclass(frozen=True)
class Compared:
    """Items whose column compares so with a value. Texts compare by their code points."""

    column: str
    operator: Operator
    value: str | int | float


@dataclass(frozen=True)
class ComparedColumns:
    """Items of which two columns compare so; both hold texts, or both numbers."""

    left: str
    operator: Operator
    right: str


@dataclass(frozen=True)
class Among:
    """Items whose column has one of these values; negated: another one."""

    column: str
    values: tuple[str | int | float, ...]
    negated: bool = False


@dataclass(frozen=True)
class Like:
    """Items whose column of texts, in capitals or not, is like a pattern; negated: has a text that isn't.

    % stands for any characters, _ for one, every other character for itself.
    """

    column: str
    pattern: str
    negated: bool = False


@dataclass(frozen=True)
class Empty:
    """Items that have nothing in a column; negated: something."""

    column: str
    negated: bool = False


Condition: TypeAlias = AllOf | AnyOf | Compared | ComparedColumns | Among | Like | Empty
