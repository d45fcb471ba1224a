"""What crosses the borders of simrec, in numpy alone: what a plugin author reads first.

A source lists entries and reads their pictures; a picture becomes `Images`, an encoder turns those into `Codes`, and
codes that lie near each other belong to items that look alike. A plugin's hooks return specs, each of which names code
that follows a protocol: `EncoderSpec` an `Encoder`, `SourceSpec` a `Source`, `ExporterSpec` an `Exporter`, `EngineSpec`
a `Catalogue`.
"""

from simrec.contracts.arrays import Codes, Dtype, Images, ImageSpec, Metric, Notice, Rebuilt, Recipe
from simrec.contracts.encoders import Decoder, Encoder, Epoch, FittedEncoder, History, Progress, Summarised, Variational
from simrec.contracts.engines import (
    Added,
    Catalogue,
    Change,
    Changed,
    Counts,
    Filter,
    Hit,
    Item,
    OpenCatalogue,
    Removed,
    Renamed,
)
from simrec.contracts.exporters import Exporter, Origin
from simrec.contracts.sources import Batch, Entry, OpenSource, Source, Value, content
from simrec.contracts.specs import API, EncoderSpec, EngineSpec, ExporterSpec, SourceSpec, Spec, setting

__all__ = [
    "API", "Added", "Batch", "Catalogue", "Change", "Changed", "Codes", "Counts", "Decoder", "Dtype", "Encoder",
    "EncoderSpec", "EngineSpec", "Entry", "Epoch", "Exporter", "ExporterSpec", "Filter", "FittedEncoder", "History",
    "Hit", "ImageSpec", "Images", "Item", "Metric", "Notice", "OpenCatalogue", "OpenSource", "Origin", "Progress",
    "Rebuilt", "Recipe", "Removed", "Renamed", "Source", "SourceSpec", "Spec", "Summarised", "Value", "Variational",
    "content", "setting",
]  # fmt: skip
