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
            explanation=(
                "It is shown pictures with speckles and learns to draw them without, so its numbers change little when "
                "a photo is grainy or scratched. Take it when your pictures are poor; its preset restore is made to "
                "clean them."
            ),
        )
    ]
