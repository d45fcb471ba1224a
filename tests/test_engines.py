"""Engines keep their contract, with the real databases."""

from __future__ import annotations

import multiprocessing
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import killed_pushes
import pytest
from killed_pushes import KINDS, MOMENTS, engine
from test_base_installation import error, hiding

from simrec.contracts import Engine
from simrec.engine_testing import EngineCheck, drawn, engine_checks, read, same, table_of, write

pytestmark = pytest.mark.external


def _postgresql(request: pytest.FixtureRequest, _: Path) -> str:
    return f"{request.getfixturevalue('postgres')}#"


def _lancedb(_: pytest.FixtureRequest, folder: Path) -> str:
    return f"lancedb://{folder}#"


def _qdrant(_: pytest.FixtureRequest, folder: Path) -> str:
    return f"qdrant://{folder}#"


def _qdrant_edge(_: pytest.FixtureRequest, folder: Path) -> str:
    return f"qdrant-edge://{folder}#"


PLACES = {"postgresql": _postgresql, "lancedb": _lancedb, "qdrant": _qdrant, "qdrant-edge": _qdrant_edge}
"""Gives the address of a new database; a table's name completes it."""


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a database; a table's name completes it."""
    return PLACES[request.param](request, tmp_path / "data base")


@pytest.fixture
def opened(place: str) -> Callable[[str], Engine]:
    """Opens the table of a name."""
    return lambda table: engine(place + table)


@pytest.mark.parametrize("check", engine_checks(), ids=str)
def test_keeps_the_contract(check: EngineCheck, opened: Callable[[str], Engine]) -> None:
    check(opened)


@pytest.mark.parametrize("place", [name for name in PLACES if name != "qdrant-edge"], indirect=True)
def test_processes_that_are_forked_while_a_table_is_open_answer_at_the_same_time(place: str) -> None:
    table = table_of()
    rows = drawn(table, 50)

    def asked(opened: Engine) -> None:
        for _ in range(20):
            same(read(opened, previews=True), rows)

    with closing(engine(f"{place}forked")) as opened:
        write(opened, table, rows)
        forked = multiprocessing.get_context("fork")
        processes = [forked.Process(target=asked, args=(opened,)) for _ in range(2)]
        for process in processes:
            process.start()
        try:
            asked(opened)
            for process in processes:
                process.join(60)
            assert [process.exitcode for process in processes] == [0, 0]
            asked(opened)
        finally:
            for process in processes:
                process.kill()
                process.join()


def held(place: str, opened: Engine) -> set[str]:
    """Everything in a database: names of tables, files, or points of a generation."""
    if place.startswith("postgresql"):
        import psycopg

        with psycopg.connect(place.rstrip("#")) as connection:
            named = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
            return {name for (name,) in named}
    if place.startswith("qdrant"):
        from qdrant_client import models

        with opened._client() as client:  # type: ignore[attr-defined]
            names = {one.name for one in client.get_collections().collections}
            return names | {
                f"{name} {point.id} {point.payload}"
                for name in names
                for point in client.scroll(name, models.Filter(), limit=10**6, with_payload=["simrec_from"])[0]
            }
    folder = Path(place.partition("://")[2].rstrip("#"))
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def settled(place: str) -> None:
    """Waits until a server has finished what a killed process asked for."""
    if place.startswith("postgresql"):
        import psycopg

        others = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'simrec'"
        with psycopg.connect(place.rstrip("#"), autocommit=True) as connection:
            for _ in range(1000):
                if connection.execute(others).fetchone() == (0,):
                    return
                connection.execute("SELECT pg_sleep(0.01)")
        raise AssertionError("it goes on and on")


@pytest.mark.long
@pytest.mark.parametrize("place", [name for name in PLACES if name != "qdrant-edge"], indirect=True)
@pytest.mark.parametrize("kind", KINDS)
def test_a_push_that_is_killed_leaves_the_old_rows_and_the_next_one_clears_up(place: str, kind: str) -> None:
    (before, old), (table, new, removed) = killed_pushes.states(kind)
    gone = {row.item.id for row in new} | set(removed) if kind != "all rows" else {row.item.id for row in old}
    after = [row for row in old if row.item.id not in gone] + new
    for number, moment in enumerate(MOMENTS):
        address = f"{place}killed_{KINDS.index(kind)}_{number}"
        with closing(engine(address)) as opened:
            write(opened, before, old)
            there = held(place, opened)
        program = [sys.executable, killed_pushes.__file__, address, kind, moment]
        assert subprocess.run(program, check=False).returncode == -signal.SIGKILL
        settled(place)
        with closing(engine(address)) as opened:
            found = read(opened, previews=True)
            if moment in MOMENTS[:2] or opened.table == before and len(found) == len(old):
                assert opened.table == before
                same(found, old)
                left = held(place, opened) - there
            else:
                assert opened.table == table
                same(found, after)
                left = set()
            opened.apply(table, [new], removed, replace=kind == "all rows")
            same(read(opened, previews=True), after)
            assert not left & held(place, opened)


@pytest.mark.parametrize(
    ("address", "module", "extra"),
    [
        ("postgresql://localhost/db#items", "psycopg", "pgvector"),
        ("lancedb:///folder#items", "lancedb", "lancedb"),
        ("qdrant://localhost#items", "qdrant_client", "qdrant"),
    ],
    ids=["postgresql", "lancedb", "qdrant"],
)
def test_the_extra_that_an_engine_needs_is_named(address: str, module: str, extra: str, tmp_path: Path) -> None:
    said = error(hiding(tmp_path / "base", (module,))("index", "push", "demo", address))
    assert said.endswith(f"needs {module}, which is not installed: pip install 'simrec[{extra}]'")
