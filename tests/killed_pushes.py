"""A push to a table that dies. It runs in its own process, because killing a process ends all its threads."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from threading import Thread, Timer

from simrec.contracts import Engine, Row, Table
from simrec.engine_testing import drawn, table_of

COUNT = 600
"""Rows of a table."""

ENGINES = {
    "postgresql": "simrec_pgvector.engine:Postgres",
    "lancedb": "simrec_lancedb.engine:Lance",
    "qdrant": "simrec_qdrant.engine:Qdrant",
    "qdrant-edge": "qdrant_edge_client:QdrantEdge",
}
"""The engines, by the beginning of their addresses."""

KINDS = ("some rows", "other columns", "all rows")

MOMENTS = ("while it reads", "when it has read all", "1", "10", "40", "100")
"""When a push dies; numbers are milliseconds after it has read everything."""

WRITTEN = "when a file of rows is there"
"""When a push to LanceDB dies, too."""


def engine(address: str) -> Engine:
    """The engine of an address."""
    module, _, name = ENGINES[address.partition(":")[0]].partition(":")
    opened: Engine = getattr(import_module(module), name)(address, notice=print)
    return opened


def states(kind: str) -> tuple[tuple[Table, list[Row]], tuple[Table, list[Row], list[str]]]:
    """The state before a push, and what is pushed: a table, its rows, and ids to remove."""
    table = table_of()
    old = drawn(table, COUNT)
    if kind == "some rows":
        new = drawn(table, COUNT + 50, seed=1)[COUNT - 150 :]
        return (table, old), (table, new, [row.item.id for row in old[:100]])
    wider = replace(table, fields={**table.fields, "new": "string"})
    new = drawn(table, COUNT, seed=1)[: 150 if kind == "other columns" else COUNT]
    new = [row._replace(item=row.item._replace(fields={**row.item.fields, "new": "x"})) for row in new]
    return (table, old), (wider, new, [])


def push(address: str, kind: str, moment: str | None = None) -> None:
    """Pushes to an engine; the process is killed at that moment."""
    _, (table, new, removed) = states(kind)

    def rows() -> Iterator[Sequence[Row]]:
        for start in range(0, len(new), 50):
            yield new[start : start + 50]
            if moment == MOMENTS[0] and start >= len(new) // 2:
                _die()

    def gone() -> Iterator[str]:
        yield from removed
        if moment == MOMENTS[1]:
            _die()
        if moment == WRITTEN:
            folder, _, table = address.removeprefix("lancedb://").partition("#")
            Thread(target=_die_with_a_file, args=[Path(folder, f"{table}.lance", "data")]).start()
        elif moment:
            Timer(int(moment) / 1000, _die).start()

    engine(address).apply(table, rows(), gone(), replace=kind == "all rows")
    if moment:
        _die()


def _die_with_a_file(folder: Path) -> None:
    there = len(list(folder.glob("*.lance")))
    while len(list(folder.glob("*.lance"))) == there:
        pass
    _die()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    push(*sys.argv[1:])
