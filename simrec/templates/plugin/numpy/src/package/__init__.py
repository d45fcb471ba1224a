"""$name, as a simrec plugin."""

from simrec.contracts import EncoderSpec
from simrec.hookspecs import hookimpl


@hookimpl
def simrec_encoders() -> list[EncoderSpec]:
    """One encoder: $name."""
    return [
        EncoderSpec(
            name="$name",
            summary="Oriented gradients: how strong the edges are, in each direction and part of a picture.",
            factory="$package.model:OrientedGradients",
            metric="cosine",
            explanation=(
                "It measures in each part of a picture how strong the edges are and which way they run. "
                "It finds items with similar outlines and folds, whatever their colours."
            ),
        )
    ]
