"""What a network trained on photos sees in yours, as a simrec plugin."""

from simrec.contracts import EncoderSpec
from simrec.hookspecs import hookimpl


@hookimpl
def simrec_encoders() -> list[EncoderSpec]:
    """One encoder: photo."""
    return [
        EncoderSpec(
            name="photo",
            summary="What a network that comes with simrec and knows photos sees in a picture: nothing to train.",
            factory="simrec_photo.model:Photo",
            metric="cosine",
            explanation=(
                "It looks at your photos through a small network that has seen more than a million photos of all kinds "
                "and comes with simrec. Use it for photos in colour: it needs no training and no graphics card, and "
                "finds the same kind of thing in the same kind of colours."
            ),
        )
    ]
