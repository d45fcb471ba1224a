"""What crosses the borders of simrec, in numpy alone: what a plugin author reads first.

A picture becomes `Images`, an encoder turns those into `Codes`, and codes that lie near each other belong to items that
look alike. A plugin names its encoders with `EncoderSpec`; each follows the `Encoder` protocol. It names its sources of
pictures with `SourceSpec`; each follows the `Source` protocol.
"""

from simrec.contracts.arrays import Codes, Dtype, Images, ImageSpec, Metric, Notice, Rebuilt, Recipe
from simrec.contracts.encoders import Decoder, Encoder, Epoch, FittedEncoder, History, Progress, Summarised, Variational
from simrec.contracts.sources import Pictures, Source
from simrec.contracts.specs import API, EncoderSpec, SourceSpec, setting

__all__ = [
    "API", "Codes", "Decoder", "Dtype", "Encoder", "EncoderSpec", "Epoch", "FittedEncoder", "History", "ImageSpec",
    "Images", "Metric", "Notice", "Pictures", "Progress", "Rebuilt", "Recipe", "Source", "SourceSpec", "Summarised",
    "Variational", "setting",
]  # fmt: skip
