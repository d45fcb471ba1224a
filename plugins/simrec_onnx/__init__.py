"""Any vision model in an ONNX file as an encoder, as a simrec plugin."""

from simrec.contracts import EncoderSpec
from simrec.hookspecs import hookimpl


@hookimpl
def simrec_encoders() -> list[EncoderSpec]:
    """One encoder: onnx."""
    return [
        EncoderSpec(
            name="onnx",
            summary="What a vision model in an ONNX file sees in a picture (CLIP, SigLIP2, DINOv2 ...).",
            factory="simrec_onnx.model:Onnx",
            metric="cosine",
            explanation=(
                "It looks at your photos through a vision model that somebody else has trained and that you have as a "
                "file, and keeps the most informative part of what that model sees. Use it if you know a model that is "
                "good at your kind of pictures; it is as fast as that model."
            ),
        )
    ]
