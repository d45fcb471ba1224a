"""Catalogues in Qdrant, as a simrec plugin."""

from simrec.contracts import EngineSpec
from simrec.hookspecs import hookimpl


@hookimpl
def simrec_engines() -> list[EngineSpec]:
    """Two engines, which connect to a server in two ways: qdrant://HOST:PORT#NAME and qdrant-https://HOST#NAME."""
    return [
        EngineSpec(
            name="qdrant",
            summary="Collections of Qdrant: qdrant://HOST:PORT#NAME, or qdrant:///FOLDER#NAME for some thousand items.",
            factory="simrec_qdrant.engine:Qdrant",
        ),
        EngineSpec(
            name="qdrant-https",
            summary="Collections of Qdrant behind TLS: qdrant-https://HOST:PORT#NAME, with the key in QDRANT_API_KEY.",
            factory="simrec_qdrant.engine:Qdrant",
        ),
    ]
