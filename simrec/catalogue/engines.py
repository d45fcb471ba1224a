"""Checks what a plugin's engine does: each fault is a PluginError that names the plugin."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import isfinite
from typing import Any

import numpy as np

from simrec.contracts import Codes, Engine, Item, Row, Table
from simrec.contracts.filters import Condition
from simrec.errors import PluginError, quantity
from simrec.faults import blamed_on

MEMBERS = ("table", "__len__", "search", "count", "rows", "digests", "apply", "close")
"""What an engine must have."""


class HeldEngine:
    """An engine whose answers are all checked. Errors that it raises on purpose pass unchanged.

    culprit: how a sentence names its plugin.
    """

    def __init__(self, engine: Any, culprit: str) -> None:
        if missing := [name for name in MEMBERS if not hasattr(type(engine), name)]:
            raise PluginError(
                f"{culprit} returned {type(engine).__name__}, which has no {', '.join(missing)}: fix the plugin"
            )
        self._engine: Engine = engine
        self._culprit = culprit
        self._dim = 0  # of the table, as it was last read; 0 before that

    @property
    def table(self) -> Table | None:
        """See `simrec.contracts.Engine`."""
        with blamed_on(self._culprit):
            table = self._engine.table
        if not isinstance(table, Table | None):
            raise self._fault(f"says that its table is {type(table).__name__}, not a Table or None")
        self._dim = table.dim if table else 0
        return table

    @property
    def one_process(self) -> bool:
        """See `simrec.contracts.Engine`."""
        with blamed_on(self._culprit):
            return bool(getattr(self._engine, "one_process", False))

    def __len__(self) -> int:
        with blamed_on(self._culprit):
            return len(self._engine)

    def search(
        self, codes: Codes, n: int, where: Condition | None = None, *, exact: bool = False
    ) -> list[list[tuple[Item, float]]]:
        """See `simrec.contracts.Engine`."""
        with blamed_on(self._culprit):
            answers = self._engine.search(codes, n, where, exact=exact)
        if not isinstance(answers, Sequence) or len(answers) != len(codes):
            count = quantity(len(answers), "list") if isinstance(answers, Sequence) else type(answers).__name__
            raise self._fault(
                f"answered a search for {quantity(len(codes), 'code')} with {count}, not with a list for each"
            )
        for hits in answers:
            if not isinstance(hits, Sequence) or not all(map(_is_hit, hits)):
                raise self._fault("answered a search with something else than pairs of an Item and a finite distance")
            distances = [distance for _, distance in hits]
            if distances != sorted(distances):
                raise self._fault("answered a search with items that are not in the order of their distances")
            if len({item.id for item, _ in hits}) < len(hits) or len(hits) > n:
                raise self._fault(f"answered a search for {quantity(n, 'item')} with more, or with one of them twice")
        return answers

    def count(self, where: Condition) -> int:
        """See `simrec.contracts.Engine`."""
        with blamed_on(self._culprit):
            count = self._engine.count(where)
        if not isinstance(count, int) or count < 0:
            raise self._fault(f"counted {count!r:.100} items, which is no whole number")
        return count

    def rows(
        self, where: Condition | None = None, *, ids: Sequence[str] | None = None,
        contents: Sequence[str] | None = None, codes: bool = True, previews: bool = False,
    ) -> Iterator[Sequence[Row]]:  # fmt: skip
        """See `simrec.contracts.Engine`."""
        with blamed_on(self._culprit):
            for rows in self._engine.rows(where, ids=ids, contents=contents, codes=codes, previews=previews):
                if not isinstance(rows, Sequence) or not all(map(_is_row, rows)):
                    raise self._fault(f"gave {type(rows).__name__} where a list of Rows was due")
                if codes and self._dim and any(len(row.code) != self._dim for row in rows):
                    raise self._fault(f"gave codes that don't have the {self._dim} numbers of its table")
                yield rows

    def digests(self) -> Iterator[tuple[str, str]]:
        """See `simrec.contracts.Engine`."""
        with blamed_on(self._culprit):
            for pair in self._engine.digests():
                if not isinstance(pair, tuple) or [type(text) for text in pair] != [str, str]:
                    raise self._fault(f"gave {pair!r:.100} where an id and its digest were due")
                yield pair

    def apply(self, table: Table, rows: Iterable[Sequence[Row]], removed: Iterable[str], *, replace: bool) -> None:
        """See `simrec.contracts.Engine`. Errors of `rows` and `removed` pass unchanged."""
        given = [_Given(rows), _Given(removed)]
        try:
            with blamed_on(self._culprit):
                self._engine.apply(table, *given, replace=replace)
        except PluginError:
            for one in given:
                if one.error is not None:  # the engine, or its library, may have wrapped it in an error of its own
                    raise one.error from None
            raise
        if not all(one.ended for one in given):
            raise self._fault("wrote a change without reading all of it")

    def check_holds(self, table: Table, count: int) -> None:
        """Raises PluginError if that isn't the table, or if it doesn't have so many rows, after a change."""
        there = self.table
        if there is None or there.digest != table.digest:
            raise self._fault("wrote a change, but its table isn't there")
        if len(self) != count:
            raise self._fault(f"wrote a change, but its table has {len(self):,} rows, not {count:,}")

    def close(self) -> None:
        """See `simrec.contracts.Engine`."""
        with blamed_on(self._culprit):
            self._engine.close()

    def _fault(self, what: str) -> PluginError:
        return PluginError(f"{self._culprit} {what}: fix the plugin")


class _Given:
    """What an engine reads while it writes. error: what reading it raised. ended: whether it was read to its end."""

    def __init__(self, values: Iterable[Any]) -> None:
        self._values = values
        self.ended = False
        self.error: BaseException | None = None

    def __iter__(self) -> Iterator[Any]:
        try:
            yield from self._values
        except GeneratorExit:
            raise
        except BaseException as error:
            self.error = error
            raise
        self.ended = True


def _is_hit(hit: object) -> bool:
    """Whether it is an item with a finite distance."""
    if not isinstance(hit, tuple) or len(hit) != 2 or not isinstance(hit[0], Item):
        return False
    return isinstance(hit[1], float | int | np.floating) and isfinite(hit[1])


def _is_row(row: object) -> bool:
    """Whether it is a row with an item, a code, or an empty one, and bytes of a preview."""
    return (
        isinstance(row, Row)
        and isinstance(row.item, Item)
        and isinstance(row.code, np.ndarray)
        and row.code.dtype == np.float32
        and row.code.ndim == 1
        and isinstance(row.preview, bytes)
    )
