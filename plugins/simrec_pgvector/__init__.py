"""Catalogues in PostgreSQL, with the extension pgvector, as a simrec plugin."""

from simrec.contracts import EngineSpec
from simrec.hookspecs import hookimpl


@hookimpl
def simrec_engines() -> list[EngineSpec]:
    """One engine: postgresql://USER@HOST/DATABASE#TABLE."""
    return [
        EngineSpec(
            name="postgresql",
            summary="Tables of PostgreSQL with pgvector: postgresql://USER@HOST/DATABASE#TABLE.",
            factory="simrec_pgvector.engine:Postgres",
        )
    ]
