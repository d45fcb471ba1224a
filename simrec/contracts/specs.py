"""What a plugin's hooks return: frozen Specs, which name the code behind them without importing it."""

from __future__ import annotations

import re
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, ClassVar

from simrec.contracts.arrays import CodeDtype, Metric
from simrec.errors import PluginError

API = 3
"""The version of this contract."""

OLDEST = {"encoder": 2, "source": 2, "exporter": 3, "engine": 3}
"""The oldest contract that a plugin of each kind may be written for; that kind's contract hasn't changed since."""

CHANGES = {
    1: "since contract 2 a source lists entries and reads them in batches, and ImageSpec has a version",
    2: "since contract 3 an exporter writes a table of Arrow record batches, not items and codes, and an engine is a "
    "table in a database",
}
"""What changed after each older contract, for the authors of plugins that were written for it."""


@dataclass(frozen=True)
class EncoderSpec:
    """One encoder that a plugin offers.

    name: what people type (`simrec train NAME`). summary: one line for lists. factory: "package.module:Class",
    imported only when the encoder is used. metric: how its codes are compared. explanation: about two sentences for
    someone who owns a shop and doesn't train networks. api: the contract's version.

    Raises PluginError for an invalid field.
    """

    kind: ClassVar[str] = "encoder"

    name: str
    summary: str
    factory: str
    metric: Metric = "cosine"
    api: int = API
    explanation: str = ""

    def __post_init__(self) -> None:
        _check(self)
        if self.metric not in ("cosine", "l2"):
            raise PluginError(f"encoder {self.name!r}: metric {self.metric!r} must be 'cosine' or 'l2'")


@dataclass(frozen=True)
class SourceSpec:
    """One source of pictures that a plugin offers: a data set, or a kind of place that has pictures.

    name: what people type, alone or followed by a colon and a text that the source understands (`--data NAME`, `--data
    NAME:TEXT`). summary: one line for lists. factory: "package.module:name", an `OpenSource`, imported only when the
    source is used. api: the contract's version.

    Raises PluginError for an invalid field.
    """

    kind: ClassVar[str] = "source"

    name: str
    summary: str
    factory: str
    api: int = API

    def __post_init__(self) -> None:
        _check(self)


@dataclass(frozen=True)
class ExporterSpec:
    """One export format for items and their codes: a file format, or a place in another program.

    name: what people type. summary: one line for lists. factory: "package.module:name", an `Exporter`, imported only
    when it is used. endings: of the files that it writes, such as ".parquet"; empty if it doesn't write files. api: the
    contract's version. reader: "package.module:name", a `ReadExport`, if `simrec verify` can read the files; else "".
    dtypes: what it can write codes as. texts: whether it can write each code as one text (`--codes text`). unit:
    whether codes whose metric is cosine must have a length of 1 there. preview: whether it needs the column `preview`.
    streams: whether its target may also be a binary stream, such as standard output.

    Raises PluginError for an invalid field.
    """

    kind: ClassVar[str] = "exporter"

    name: str
    summary: str
    factory: str
    endings: tuple[str, ...] = ()
    api: int = API
    reader: str = ""
    dtypes: tuple[CodeDtype, ...] = ("float32", "float16", "int8")
    texts: bool = False
    unit: bool = False
    preview: bool = False
    streams: bool = False

    def __post_init__(self) -> None:
        _check(self)
        if self.reader:
            _check_factory(self, "reader", self.reader)
        for ending in self.endings:
            if not isinstance(ending, str) or not re.fullmatch(r"(\.[a-z0-9]+)+", ending):
                raise PluginError(f"exporter {self.name!r}: ending {ending!r} must read like '.parquet', in lower case")


@dataclass(frozen=True)
class EngineSpec:
    """One kind of database that a catalogue can live in, outside simrec's own files.

    name: what an address begins with (`NAME://...`). summary: one line for lists. factory: "package.module:name", an
    `OpenEngine`, imported only when it is used. api: the contract's version.

    Raises PluginError for an invalid field.
    """

    kind: ClassVar[str] = "engine"

    name: str
    summary: str
    factory: str
    api: int = API

    def __post_init__(self) -> None:
        _check(self)


Spec = EncoderSpec | SourceSpec | ExporterSpec | EngineSpec


def _check(spec: Spec) -> None:
    what = f"{spec.kind} {spec.name!r:.100}"
    for one in fields(spec):
        value, wanted = getattr(spec, one.name), str if one.default is MISSING else type(one.default)
        if not isinstance(value, wanted):
            raise PluginError(f"{what}: its {one.name} is {type(value).__name__}, not {wanted.__name__}")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", spec.name):
        raise PluginError(f"{what}: a name is made of letters, digits, '.', '_' and '-'")
    _check_factory(spec, "factory", spec.factory)
    if not OLDEST[spec.kind] <= spec.api <= API:
        changed = f" ({CHANGES[spec.api]})" if spec.api in CHANGES else ""
        raise PluginError(
            f"{what} was written for contract {spec.api}, this simrec has {API}{changed}: "
            f"install the plugin's release for this simrec"
        )


def _check_factory(spec: Spec, name: str, text: str) -> None:
    module, colon, attribute = text.partition(":")
    if not (module and colon and attribute):
        raise PluginError(f"{spec.kind} {spec.name!r}: {name} {text!r} must read 'package.module:name'")


def setting(default: Any, doc: str) -> Any:
    """A field of an encoder's settings, with its default and its line of documentation.

    >>> @dataclass(frozen=True)
    ... class Settings:
    ...     dim: int = setting(32, "numbers in a code")
    """
    return field(default=default, metadata={"doc": doc})
