"""The plain autoencoder, as a simrec plugin."""

from simrec.contracts import EncoderSpec
from simrec.hookspecs import hookimpl


@hookimpl
def simrec_encoders() -> list[EncoderSpec]:
    """One encoder: plain."""
    return [
        EncoderSpec(
            name="plain",
            summary="Rebuilds the picture from a short code, and nothing more.",
            factory="simrec_plain.model:Plain",
            metric="cosine",
            explanation=(
                "It describes each picture by a few dozen numbers and learns to draw the picture again from them "
                "alone, so items whose numbers are close look alike. Start with this one: it is the simplest, and the "
                "others are variations of it."
            ),
        )
    ]
