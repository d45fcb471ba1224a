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
            explanation=(
                "It finds the few ways in which your pictures differ most, pixel by pixel, and describes each picture "
                "by how much of each it has. It trains in seconds, and the other encoders have to beat it; if you move "
                "or turn a picture, it sees a different one."
            ),
        )
    ]
