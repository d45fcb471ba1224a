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
                "It sees pictures with speckles and learns to draw them without, so its numbers change little if a "
                "photo is grainy or scratched. Use it if your pictures are poor; its preset restore is made to clean "
                "them."
            ),
        )
    ]
