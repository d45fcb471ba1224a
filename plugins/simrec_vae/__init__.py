"""The variational autoencoder, as a simrec plugin."""

from simrec.contracts import EncoderSpec
from simrec.hookspecs import hookimpl


@hookimpl
def simrec_encoders() -> list[EncoderSpec]:
    """One encoder: vae."""
    return [
        EncoderSpec(
            name="vae",
            summary="Rebuilds the picture from a code that is a normal distribution; can draw new pictures.",
            factory="simrec_vae.model:VAE",
            metric="cosine",
            explanation=(
                "It describes each picture by a small cloud of numbers instead of one exact point, so every point in "
                "between stands for some picture, too. Use it if you also want to draw new items that nobody has made "
                "yet, with its preset generate."
            ),
        )
    ]
