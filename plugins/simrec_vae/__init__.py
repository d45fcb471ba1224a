"""The variational autoencoder, as a simrec plugin."""

from simrec.contracts import EncoderSpec
from simrec.hookspecs import hookimpl


@hookimpl
def simrec_encoders() -> list[EncoderSpec]:
    """One encoder: vae."""
    return [
        EncoderSpec(
            name="vae",
            summary="Rebuilds the picture from a code that is a normal distribution; can draw new ones.",
            factory="simrec_vae.model:VAE",
            metric="cosine",
        )
    ]
