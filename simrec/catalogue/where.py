"""Filters: one small SQL expression over an item's fields, such as `price < 20 AND category IN ('shoes', 'bags')`.

    condition   column = <> != < <= > >= value, or the other way round, or two columns
                column IN (value, ...), column BETWEEN value AND value, column LIKE 'pattern', column IS NULL
                NOT IN, NOT BETWEEN, NOT LIKE, IS NOT NULL
                NOT condition, condition AND condition, condition OR condition, (condition)
    value       a number, or a text in single quotes ('it''s')
    column      a name exactly as the catalogue has it, upper and lower case included; "in double quotes" if it isn't a
                plain word

One meaning everywhere, which is SQL's:

- An item without a value in a column has NULL there; so does `label` for an item without a label. Comparing with NULL
gives "unknown". NOT unknown is unknown; AND is false if either side is false; OR is true if either side is true. Only
items for which the whole condition is true are found. So `NOT price < 20` finds no item without a price, and `x IN (1,
NULL)` is true or unknown. - Numbers and texts don't mix: comparing one with the other is an error. A column in which no
item has a value can be compared with both; the result is unknown. - Numbers compare without rounding: 9007199254740993
is not 9007199254740992.0, and no whole number equals 2.5. A whole number in an expression is exact up to 64 bits; any
other number is the nearest double, as in a decimal column, so `price = 0.1` finds what a list wrote as 0.1. - Texts
compare by code points, so 'Z' < 'a', and 'Shoe' = 'shoe' is false. - LIKE ignores case in all alphabets and compares
the whole text: % stands for any number of characters, _ for one. Every other character, even a backslash, stands for
itself; there is no ESCAPE.

An expression may come from anyone: its length, nesting and number of conditions are bounded, and only tokens and nodes
of the grammar above are accepted and evaluated.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from sqlglot import exp
from sqlglot.dialects.dialect import Dialect
from sqlglot.errors import ParseError, TokenError
from sqlglot.tokens import Token, TokenType  # type: ignore[attr-defined]

from simrec.catalogue.fields import Kind
from simrec.contracts import masks
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
from simrec.contracts.masks import Columns
from simrec.errors import RequestError

LONGEST = 10_000
"""Maximum characters of an expression."""

NESTED = 20
"""Maximum levels of parentheses, NOT and minus signs. sqlglot's parser recurses: 20 levels take 450 of Python's 1,000
frames, and in a compiled parser a stack overflow isn't an exception but a crash."""

CONDITIONS = 200
"""Maximum number of comparisons: each costs a pass over its column."""

LONGEST_PATTERN = 500
"""Maximum characters of a LIKE's pattern, which becomes an automaton."""

NAMED = 10
"""Maximum number of columns that an error lists."""

Number: TypeAlias = int | float

_SQL = Dialect.get_or_raise(None)
"""sqlglot's own dialect: '' and "" stand for a quote within quotes, and a backslash is an ordinary character."""

_WORDS = {
    TokenType.AND, TokenType.OR, TokenType.NOT, TokenType.IN, TokenType.BETWEEN, TokenType.LIKE, TokenType.IS,
    TokenType.NULL,
}  # fmt: skip

_SIGNS = {
    TokenType.L_PAREN, TokenType.R_PAREN, TokenType.COMMA, TokenType.DASH, TokenType.EQ, TokenType.NEQ, TokenType.LT,
    TokenType.LTE, TokenType.GT, TokenType.GTE, TokenType.STRING, TokenType.NUMBER,
}  # fmt: skip

_ENDS = {TokenType.IDENTIFIER, TokenType.STRING, TokenType.NUMBER, TokenType.NULL, TokenType.R_PAREN}
"""What can stand before AND and OR."""

_OPERATORS: dict[type[exp.Expression], Operator] = {
    exp.EQ: "=", exp.NEQ: "<>", exp.LT: "<", exp.LTE: "<=", exp.GT: ">", exp.GTE: ">=",
}  # fmt: skip

_TURNED: dict[Operator, Operator] = {"=": "=", "<>": "<>", "<": ">", "<=": ">=", ">": "<", ">=": "<="}

_NEGATED: dict[Operator, Operator] = {"=": "<>", "<>": "=", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}

_ARGUMENTS: dict[type[exp.Expression], set[str]] = {
    **dict.fromkeys((*_OPERATORS, exp.And, exp.Or, exp.Is), {"this", "expression"}),
    exp.Like: {"this", "expression", "negate"},
    exp.In: {"this", "expressions"},
    exp.Between: {"this", "low", "high"},
    exp.Not: {"this"},
    exp.Paren: {"this"},
    exp.Neg: {"this"},
    exp.Column: {"this"},
    exp.Literal: {"this", "is_string"},
    exp.Null: set(),
}
"""The nodes that a tree may have, and the arguments that each may have."""

_GRAMMAR = "there are = <> < <= > >=, AND, OR, NOT, IN, BETWEEN, LIKE, IS NULL and parentheses"

_NUMBER = re.compile(r"\d+(\.\d*)?([eE][+-]?\d+)?", re.ASCII)


@dataclass(frozen=True)
class Where:
    """A filter, parsed and checked; see `parsed`.

    text: as it was typed. columns: those that it uses. condition: its meaning, without NOT.
    """

    text: str
    columns: frozenset[str]
    condition: Condition = field(repr=False)

    def mask(self, column: Columns, rows: int) -> NDArray[np.bool_]:
        """The rows for which it is true, (rows,).

        column: gives each of `columns`, with `rows` rows. A column of only nulls may have any type; a column of texts
        in the catalogue must be of texts here.
        """
        return masks.mask(self.condition, column, rows)


def parsed(text: str, kinds: Mapping[str, Kind | None]) -> Where:
    """The filter that a person typed.

    kinds: the types of all columns, None for a column in which no item has a value. Raises RequestError, one line, for
    anything outside this module's grammar, for an unknown column, and for comparing a number with a text.
    """
    reading = _Reading(text, kinds)
    try:
        tree = reading.tree()
        condition = reading.condition(tree)
    except RecursionError:
        raise reading.refused("it is nested too deeply: write it with fewer parentheses") from None
    return Where(text, frozenset(reading.columns), condition)


class _Reading:
    """Reads an expression. kinds: the catalogue's columns and their types."""

    def __init__(self, text: str, kinds: Mapping[str, Kind | None]) -> None:
        self._text, self._kinds = text, kinds
        self._conditions = 0
        self.columns: set[str] = set()

    def refused(self, why: str) -> RequestError:
        """The error for an expression that isn't accepted."""
        shown = repr(self._text)
        return RequestError(f"filter {shown if len(shown) <= 100 else shown[:97] + '...'}: {why}")

    def tree(self) -> exp.Expression:
        """The tree that sqlglot parses, after each token was checked."""
        if len(self._text) > LONGEST:
            raise self.refused(f"it has {len(self._text):,} characters: {LONGEST:,} is the limit, so shorten it")
        try:
            tokens = self._checked(_SQL.tokenize(self._text))
            if not tokens and self._text.strip():
                raise self.refused("comments aren't allowed: leave them out")
            trees = _SQL.parser().parse_into(exp.Condition, tokens, self._text)
        except TokenError as error:
            raise self.refused("a quote isn't closed: close it, and write '' for one within a text") from error
        except ParseError as error:
            detail = error.errors[0] if error.errors else {}
            near = f" near {detail['highlight']!r}" if detail.get("highlight") else ""
            raise self.refused(f"it cannot be read{near}: write it like price < 20 AND colour = 'red'") from error
        if len(trees) != 1 or not isinstance(trees[0], exp.Expression):
            raise self.refused("it is empty: write a condition, such as price < 20")
        return trees[0]

    def _checked(self, tokens: Sequence[Token]) -> list[Token]:
        """The tokens, with every column's name quoted, so that the parser can't take it for anything else."""
        checked: list[Token] = []
        levels: list[int] = []  # one for each open parenthesis, plus the signs before it
        signs = 0
        for place, token in enumerate(tokens):
            before = checked[-1].token_type if checked else None
            if token.comments:
                raise self.refused("comments aren't allowed: leave them out")
            if token.token_type in _SIGNS or (token.token_type in _WORDS and token.text.isalpha()):
                if token.token_type in (TokenType.AND, TokenType.OR) and before not in _ENDS:
                    raise self.refused(f"{token.text} has nothing before it: write a condition there")
                checked.append(token)
            else:
                self._check_name(token, before, tokens[place + 1] if place + 1 < len(tokens) else None)
                checked.append(Token(TokenType.IDENTIFIER, token.text, token.line, token.col, token.start, token.end))
            if token.token_type is TokenType.L_PAREN:
                levels.append(signs + 1)
            elif token.token_type is TokenType.R_PAREN and levels:
                levels.pop()
            signs = signs + 1 if token.token_type in (TokenType.NOT, TokenType.DASH) else 0
            if sum(levels) + signs > NESTED:
                raise self.refused(f"it is nested deeper than {NESTED} levels: write it with fewer parentheses")
        return checked

    def _check_name(self, token: Token, before: TokenType | None, after: Token | None) -> None:
        """Raises RequestError for a token that isn't a column's name."""
        name, quoted = token.text, token.token_type is TokenType.IDENTIFIER
        called = after is not None and after.token_type is TokenType.L_PAREN
        if not quoted and not re.fullmatch(r"\w+", name):
            if token.token_type is TokenType.SEMICOLON:
                raise self.refused("it has a semicolon: write one condition only")
            remedy = "write 0.5 with its zero, and a column's name in double quotes" if name == "." else _GRAMMAR
            raise self.refused(f"{name!r} isn't allowed: {remedy}")
        if name in self._kinds and not called:
            return
        if token.token_type is TokenType.SELECT:
            raise self.refused("a subquery isn't allowed: list the values, as in IN ('shoes', 'bags')")
        if called:
            raise self.refused(f"{name}( is a function, which isn't allowed: compare columns with values")
        if name.upper() == "ESCAPE" and before is TokenType.STRING:
            raise self.refused("ESCAPE isn't allowed: _ stands for any one character, also for an underscore")
        value = quoted or before not in (None, TokenType.L_PAREN, TokenType.AND, TokenType.OR, TokenType.NOT)
        text = f", and a text stands in single quotes: {_quoted(name)}" if value else ""
        raise self.refused(f"there is no column {name!r}: {self._likely(name)}{text}")

    def _likely(self, name: str) -> str:
        """Which column an unknown name may mean."""
        by_fold = {known.casefold(): known for known in self._kinds}
        if close := get_close_matches(name.casefold(), by_fold, n=1):
            known = by_fold[close[0]]
            return f"did you mean {known if known.isidentifier() else _double_quoted(known)}?"
        names = sorted(self._kinds)
        more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
        return f"there is {', '.join(names[:NAMED])}{more}" if names else "there is none"

    def condition(self, node: exp.Expression, negated: bool = False) -> Condition:
        """The condition under which a node is true; negated: under which it is false. With NULL it is neither."""
        self._check_node(node)
        if isinstance(node, exp.Paren):
            return self.condition(node.this, negated)
        if isinstance(node, exp.Not):
            return self.condition(node.this, not negated)
        if isinstance(node, exp.And | exp.Or):
            return self._joined(node, negated)
        self._conditions += 1
        if self._conditions > CONDITIONS:
            raise self.refused(f"it has more than {CONDITIONS} comparisons: list values as in id IN ('a', 'b')")
        if isinstance(node, exp.In):
            return self._in(node, negated)
        if isinstance(node, exp.Between):
            low = self._comparison(">=", node.this, node.args["low"], negated)
            high = self._comparison("<=", node.this, node.args["high"], negated)
            return AnyOf((low, high)) if negated else AllOf((low, high))
        if isinstance(node, exp.Like):
            return self._like(node, negated)
        if isinstance(node, exp.Is):
            if not isinstance(node.expression, exp.Null):
                raise self.refused("IS goes with NULL or NOT NULL: write = for values")
            return Empty(self._column(node.this), negated)
        if type(node) in _OPERATORS:
            return self._comparison(_OPERATORS[type(node)], node.this, node.expression, negated)
        raise self._no_condition(node)

    def _check_node(self, node: exp.Expression) -> None:
        if type(node) not in _ARGUMENTS:
            raise self.refused(f"{node.sql()[:50]!r} isn't allowed: compare columns with values, as in price < 20")
        if other := {name for name, value in node.args.items() if value} - _ARGUMENTS[type(node)]:
            raise self.refused(f"{node.key.upper()} has something that isn't allowed ({', '.join(sorted(other))})")

    def _no_condition(self, node: exp.Expression) -> RequestError:
        return self.refused(f"{node.sql()[:50]} is not a condition: compare it, as in price < 20 or colour = 'red'")

    def _joined(self, node: exp.And | exp.Or, negated: bool) -> Condition:
        """A chain of ANDs or ORs of any length."""
        kind, parts = type(node), []
        left: exp.Expression = node
        while type(left) is kind:
            self._check_node(left)
            parts.append(left.expression)
            left = left.this
        conditions = tuple(self.condition(part, negated) for part in (left, *reversed(parts)))
        return AllOf(conditions) if (kind is exp.And) != negated else AnyOf(conditions)

    def _column(self, node: exp.Expression) -> str:
        node = _inner(node)
        self._check_node(node)
        if not isinstance(node, exp.Column):
            raise self.refused(f"{node.sql()[:50]} is not a column: put a column's name there")
        self.columns.add(node.name)
        return node.name

    def _value(self, node: exp.Expression) -> str | Number:
        """The value of a literal: a text, a whole number of 64 bits, or a double."""
        node = _inner(node)
        self._check_node(node)
        negative = isinstance(node, exp.Neg)
        literal = _inner(node.this) if negative else node
        self._check_node(literal)
        if isinstance(literal, exp.Null):
            raise self.refused("a comparison with NULL never holds: write IS NULL or IS NOT NULL")
        if not isinstance(literal, exp.Literal) or (negative and literal.is_string):
            raise self.refused(f"{node.sql()[:50]} is not a value: write a number, or a text in single quotes")
        if literal.is_string:
            return str(literal.this)
        said = f"{'-' if negative else ''}{literal.this}"
        if not _NUMBER.fullmatch(literal.this):
            raise self.refused(f"{said[:50]} is not a number")
        if literal.this.isdigit() and len(literal.this) < 20 and -(2**63) <= int(said) < 2**63:
            return int(said)
        if not np.isfinite(float(said)):
            raise self.refused(f"{said[:50]} is larger than numbers can be")
        return float(said)

    def _check_kinds(self, name: str, value: str | Number, operator: Operator = "=") -> None:
        kind = self._kinds[name]
        if kind is not None and (kind == "string") != isinstance(value, str):
            if isinstance(value, str):
                raise self.refused(f"{name} holds numbers and {_quoted(value)[:50]} is a text: write a number")
            # Texts in the order of the alphabet are rarely what is meant: '100' < '20'.
            quotes = f"write '{value}' in single quotes to compare texts, or " if operator in ("=", "<>") else ""
            raise self.refused(
                f"{name} holds texts and {value} is a number: {quotes}make all values of {name} numbers like 1234.50"
            )

    def _comparison(self, operator: Operator, left: exp.Expression, right: exp.Expression, negated: bool) -> Condition:
        left, right = _inner(left), _inner(right)
        if not isinstance(left, exp.Column) and isinstance(right, exp.Column):
            operator, left, right = _TURNED[operator], right, left
        operator = _NEGATED[operator] if negated else operator
        name = self._column(left)
        if isinstance(right, exp.Column):
            other = self._column(right)
            kinds = (self._kinds[name], self._kinds[other])
            if None not in kinds and (kinds[0] == "string") != (kinds[1] == "string"):
                raise self.refused(f"one of {name} and {other} holds numbers, the other texts: they can't be compared")
            return ComparedColumns(name, operator, other)
        value = self._value(right)
        self._check_kinds(name, value, operator)
        return Compared(name, operator, value)

    def _in(self, node: exp.In, negated: bool) -> Condition:
        name = self._column(node.this)
        if not node.expressions:
            raise self.refused("IN goes with a list of values in parentheses, as in IN ('shoes', 'bags')")
        listed = [part for part in map(_inner, node.expressions) if not isinstance(part, exp.Null)]
        values = [self._value(part) for part in listed]
        for value in values:
            self._check_kinds(name, value)
        if not values or (negated and len(listed) < len(node.expressions)):
            return AnyOf(())  # with NULL in the list, NOT IN is false or unknown, so it finds nothing
        return Among(name, tuple(values), negated)

    def _like(self, node: exp.Like, negated: bool) -> Condition:
        name, pattern = self._column(node.this), self._value(node.expression)
        if not isinstance(pattern, str) or self._kinds[name] not in ("string", None):
            raise self.refused("LIKE compares a column of texts with a text in single quotes: use = for numbers")
        if len(pattern) > LONGEST_PATTERN:
            raise self.refused(f"LIKE's text has {len(pattern):,} characters: {LONGEST_PATTERN} is the limit")
        return Like(name, pattern, bool(node.args.get("negate")) != negated)


def _inner(node: exp.Expression) -> exp.Expression:
    """The node inside any parentheses."""
    while isinstance(node, exp.Paren):
        node = node.this
    return node


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _double_quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'
