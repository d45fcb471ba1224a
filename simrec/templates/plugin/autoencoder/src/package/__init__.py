"""$name, as a simrec plugin."""

from simrec.contracts import EncoderSpec
from simrec.hookspecs import hookimpl


@hookimpl
def simrec_encoders() -> list[EncoderSpec]:
    """One encoder: $name."""
    return [
        EncoderSpec(
            name="$name",
            summary="A small convolutional autoencoder: rebuilds the picture from a short code.",
            factory="$package.model:ConvAutoencoder",
            metric="cosine",
            explanation=(
                "It describes each picture by 32 numbers and learns to draw the picture again from them alone. "
                "Items whose numbers are close look alike."
            ),
        )
    ]
