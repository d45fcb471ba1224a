"""Principal components, as a simrec plugin."""

from simrec.contracts import EncoderSpec
from simrec.hookspecs import hookimpl


@hookimpl
def simrec_encoders() -> list[EncoderSpec]:
    """One encoder: pca."""
    return [
        EncoderSpec(
            name="pca",
            summary="Principal components of the pixels: seconds to train, the baseline of every evaluation.",
            factory="simrec_pca.model:PCA",
            metric="l2",
        )
    ]
