"""The denoising autoencoder, as a simrec plugin."""

from simrec.contracts import EncoderSpec
from simrec.hookspecs import hookimpl


@hookimpl
def simrec_encoders() -> list[EncoderSpec]:
    """One encoder: denoising."""
    return [
        EncoderSpec(
            name="denoising",
            summary="Rebuilds the clean picture from one with wrong pixels.",
            factory="simrec_denoising.model:Denoising",
            metric="cosine",
        )
    ]
