"""A filter as an engine gets it: parsed, checked and without NOT, for translation into a database's language.

An item either matches a condition or it doesn't: items with an empty column match no comparison.
`simrec.catalogue.where` says what each condition means.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Operator = Literal["=", "<>", "<", "<=", ">", ">="]


@dataclass(frozen=True)
class AllOf:
    """Items that match every part; without parts, all items."""

    parts: tuple[Condition, ...]


@dataclass(frozen=True)
class AnyOf:
    """Items that match any part; without parts, none."""

    parts: tuple[Condition, ...]


@dataclass(frozen=True)
class Compared:
    """Items whose column compares with a value in this way. Texts compare by code points."""

    column: str
    operator: Operator
    value: str | int | float


@dataclass(frozen=True)
class ComparedColumns:
    """Items whose two columns compare in this way; both hold texts, or both numbers."""

    left: str
    operator: Operator
    right: str


@dataclass(frozen=True)
class Among:
    """Items whose column has one of these values; negated: a value that isn't one of them."""

    column: str
    values: tuple[str | int | float, ...]
    negated: bool = False


@dataclass(frozen=True)
class Like:
    """Items whose text matches a pattern, ignoring case; negated: whose text doesn't match.

    % stands for any characters, _ for one character, every other character for itself.
    """

    column: str
    pattern: str
    negated: bool = False


@dataclass(frozen=True)
class Empty:
    """Items whose column is empty; negated: not empty."""

    column: str
    negated: bool = False


Condition: TypeAlias = AllOf | AnyOf | Compared | ComparedColumns | Among | Like | Empty
