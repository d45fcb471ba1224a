"""What plugins are written against, using numpy only: plugin authors, start reading here.

A source lists entries and reads their pictures into `Images`; an encoder turns those into `Codes`; items that look
alike have codes that are close. A plugin's hooks return specs, each of which names code that follows a protocol:
`EncoderSpec` an `Encoder`, `SourceSpec` a `Source`, `ExporterSpec` an `Exporter`, `EngineSpec` an `Engine`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from simrec.contracts.arrays import (
    CodeDtype,
    Codes,
    Dtype,
    Images,
    ImageSpec,
    Interpolation,
    Metric,
    Notice,
    Rebuilt,
    Recipe,
)
from simrec.contracts.encoders import (
    Checked,
    Decoder,
    Encoder,
    Epoch,
    FittedEncoder,
    History,
    Progress,
    Sampled,
    Summarised,
    Variational,
)
from simrec.contracts.items import Hit, Item
from simrec.contracts.sources import Batch, Digested, Entry, OpenSource, Source, Value, content
from simrec.contracts.specs import API, EncoderSpec, EngineSpec, ExporterSpec, SourceSpec, Spec, setting

if TYPE_CHECKING:
    from simrec.contracts.engines import Engine, Filter, OpenEngine, Row, Table
    from simrec.contracts.exporters import Exporter, ExportRecord, Origin, ReadExport

__all__ = [
    "API", "Batch", "Checked", "CodeDtype", "Codes", "Decoder", "Digested", "Dtype", "Encoder", "EncoderSpec", "Engine",
    "EngineSpec", "Entry", "Epoch", "ExportRecord", "Exporter", "ExporterSpec", "Filter", "FittedEncoder", "History",
    "Hit", "ImageSpec", "Images", "Interpolation", "Item", "Metric", "Notice", "OpenEngine", "OpenSource", "Origin",
    "Progress", "ReadExport", "Rebuilt", "Recipe", "Row", "Sampled", "Source", "SourceSpec", "Spec", "Summarised",
    "Table", "Value", "Variational", "content", "setting",
]  # fmt: skip

_PLACES = {
    **dict.fromkeys(("Engine", "Filter", "OpenEngine", "Row", "Table"), "simrec.contracts.engines"),
    **dict.fromkeys(("ExportRecord", "Exporter", "Origin", "ReadExport"), "simrec.contracts.exporters"),
}
"""Imported only when used, because look-ups don't need them: each dataclass takes half a millisecond to make."""


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'simrec.contracts' has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)
