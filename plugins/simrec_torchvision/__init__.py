"""The backbones of torchvision, as a simrec plugin."""

from simrec.contracts import EncoderSpec
from simrec.hookspecs import hookimpl


@hookimpl
def simrec_encoders() -> list[EncoderSpec]:
    """One encoder: torchvision."""
    return [
        EncoderSpec(
            name="torchvision",
            summary="What a vision network that was trained on photos sees in a picture, in few numbers.",
            factory="simrec_torchvision.model:Torchvision",
            metric="cosine",
            explanation=(
                "It looks at a photo with a network that has already learned from a million photos what things look "
                "like, and keeps the most informative part of what that network sees. Use it for photos in colour; it "
                "needs only a few of your own, but downloads the network once."
            ),
        )
    ]
