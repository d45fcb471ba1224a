"""The sparse autoencoder, as a simrec plugin."""

from simrec.contracts import EncoderSpec
from simrec.hookspecs import hookimpl


@hookimpl
def simrec_encoders() -> list[EncoderSpec]:
    """One encoder: sparse."""
    return [
        EncoderSpec(
            name="sparse",
            summary="Rebuilds the picture from a code in which most numbers are zero.",
            factory="simrec_sparse.model:Sparse",
            metric="cosine",
            explanation=(
                "It describes each picture as plain does, but with as few numbers as possible; all others stay at "
                "zero. Use it if you want to see which few numbers two items have in common."
            ),
        )
    ]
