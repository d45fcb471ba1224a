"""Catalogues in LanceDB, as a simrec plugin."""

from simrec.contracts import EngineSpec
from simrec.hookspecs import hookimpl


@hookimpl
def simrec_engines() -> list[EngineSpec]:
    """One engine: lancedb:///FOLDER#TABLE, and lancedb://s3/BUCKET/FOLDER#TABLE."""
    return [
        EngineSpec(
            name="lancedb",
            summary="Tables of LanceDB in a folder, lancedb:///FOLDER#TABLE, or on S3, lancedb://s3/BUCKET/FOLDER#TABLE.",
            factory="simrec_lancedb.engine:Lance",
        )
    ]
