"""A recommender's manifest: its contents, and the upgrade from each older version.

The types below define what a manifest may contain. Reading checks it against them, because it may come from anyone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from functools import cache, cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from msgspec import Meta, ValidationError, convert

from simrec.contracts import Dtype, ImageSpec, Metric
from simrec.contracts.encoders import Ended
from simrec.errors import StoreError, VersionError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FORMAT = "simrec"
VERSION = 5

POOL = 3
"""Since this version a recommender is a pool of files; before, each generation had a folder of its own."""

LARGEST = 16_000_000
"""Maximum size of a manifest in bytes."""

LIBRARIES = ("simrec", "numpy", "faiss-cpu", "onnxruntime", "Pillow", "torch", "onnx", "onnxscript")
"""A manifest keeps the versions of these libraries, for later questions."""

LEVELS = 8
"""How deep an encoder's settings may be nested."""

_PART = r"(?!\.{1,2}(/|\Z))[\w .()+,=@~-]{1,100}"
"""The names that a plugin may give files and folders: no '..', and nothing that leads out of the folder on any system.
"""

_OLD = r"gens/\d{6,}-[0-9a-f]{8}"
"""The folder of a generation that a simrec of format 1 or 2 wrote."""

FILE = (
    rf"(encoder/[0-9a-f]{{8,64}}(/{_PART}){{1,8}}"
    r"|segments/[0-9a-f]{8,64}/(codes\.faiss|items\.sqlite|previews\.bin|lengths\.npy)"
    r"|fields/[0-9a-f]{8,64}\.arrow|removed/[0-9a-f]{8,64}\.npy"
    rf"|{_OLD}/(index\.faiss|items\.sqlite|codes\.npy|thumbnails-\d{{6}}\.bin|encoder(/{_PART}){{1,8}}))"
)
"""A file's path within the recommender's folder: see `simrec.store`."""

Text = Annotated[str, Meta(pattern=r"^[^\ud800-\udfff]*\Z", max_length=10_000)]
Place = Annotated[str, Meta(pattern=r"^[^\ud800-\udc7f\udd00-\udfff]*\Z", max_length=100_000)]
"""A text with a path in it; bytes that aren't UTF-8 are escaped as Python does it."""

Count = Annotated[int, Meta(ge=0, le=2**48)]
Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\Z", max_length=200)]
FileName = Annotated[str, Meta(pattern=rf"^{FILE}\Z", max_length=1000)]
EncoderFolder = Annotated[str, Meta(pattern=rf"^(encoder/[0-9a-f]{{8,64}}|{_OLD}/encoder)\Z")]
SegmentFolder = Annotated[str, Meta(pattern=rf"^(segments/[0-9a-f]{{8,64}}|{_OLD})\Z")]
Provider = Annotated[str, Meta(pattern=r"^\S[^\ud800-\udfff]*\Z", max_length=1000)]
Instant = Annotated[str, Meta(pattern=r"^\d{4}-\d\d-\d\dT[0-9:.+-]+\Z")]


def _with_dtype(values: dict[str, Any], place: str) -> dict[str, Any]:
    """1 to 2: catalogues may keep their codes in other types than float32."""
    catalogue = values["catalogue"]
    return {**values, "catalogue": catalogue and {**catalogue, "dtype": "float32"}}


def _with_segments(values: dict[str, Any], place: str) -> dict[str, Any]:
    """2 to 3: file names start at the recommender's folder, recipes have versions, catalogues have segments."""
    encoder, catalogue = values["encoder"], values["catalogue"]
    if catalogue:
        thumbnails = catalogue["segments"]
        if not isinstance(thumbnails, list) or len(thumbnails) != 1 or thumbnails[0] != "thumbnails-000001.bin":
            raise ValueError("its thumbnails are not in the one file that a simrec of format 2 wrote")
        segment = {"folder": place, "rows": catalogue["count"], "format": 2, "fields": None, "removed": None}
        catalogue = {**catalogue, "segments": [segment] if catalogue["count"] else []}
    return {
        **values,
        "encoder": {**encoder, "folder": f"{place}/encoder", "input": {**encoder["input"], "version": 1}},
        "catalogue": catalogue,
        "files": {f"{place}/{name}": record for name, record in values["files"].items()},
    }


def _with_interpolation(values: dict[str, Any], place: str) -> dict[str, Any]:
    """3 to 4: recipes say how they resample and how much they crop."""
    encoder = values["encoder"]
    if unknown := {"interpolation", "crop_pct"} & set(encoder["input"]):
        raise ValueError(f"an unknown field {min(unknown)!r}")
    return {
        **values,
        "encoder": {**encoder, "input": {**encoder["input"], "interpolation": "lanczos", "crop_pct": 1.0}},
    }


def _with_sources(values: dict[str, Any], place: str) -> dict[str, Any]:
    """4 to 5: a catalogue may have several sources, and a generation says what it changed."""
    catalogue = values["catalogue"]
    if catalogue:
        if unknown := {"sources", "distances", "measured", "engine"} & set(catalogue):
            raise ValueError(f"an unknown field {min(unknown)!r}")
        others = {name: value for name, value in catalogue.items() if name not in ("source", "test", "reduced")}
        source = {"name": catalogue["source"], "root": None}
        source |= {"test": catalogue["test"], "reduced": catalogue["reduced"]}
        catalogue = {**others, "sources": [source], "distances": [], "measured": 0, "engine": ""}
    if "change" in values:
        raise ValueError("an unknown field 'change'")
    return {**values, "catalogue": catalogue, "change": None}


UPGRADES: dict[int, Callable[[dict[str, Any], str], dict[str, Any]]] = {
    1: _with_dtype, 2: _with_segments, 3: _with_interpolation, 4: _with_sources,
}  # fmt: skip
"""One function per step from each older version to the next; the second argument is the generation's folder."""


@dataclass(frozen=True)
class TrainedOn:
    """What an encoder learned from: the source, how many pictures, their digest, and the split to test on.

    test: None if there is none, "" in manifests of an older simrec, which did not record it.
    """

    source: Place
    count: Count
    digest: Digest
    test: Place | None = ""


@dataclass(frozen=True)
class Results:
    """How a training went: see `simrec.contracts.History`; losses are those of the epoch that was kept.

    zeros: the share of the codes' numbers that are close to zero, None from an older simrec. seconds: the training's.
    """

    epochs: Annotated[int, Meta(ge=1)]
    kept: Annotated[int, Meta(ge=1)]
    ended: Ended
    loss: float
    validation_loss: float
    seconds: float
    zeros: float | None = None


@dataclass(frozen=True)
class EncoderRecord:
    """The encoder in a recommender.

    provider: its distribution ("name version"). runtime: "onnx" (encoder.onnx encodes) or "plugin" (the provider does).
    settings: JSON values. digest: of its files and its image recipe. command: what made it. folder: where its files are
    within the recommender's folder.
    """

    name: Name
    provider: Provider
    factory: Text
    runtime: Literal["onnx", "plugin"]
    metric: Metric
    dim: Annotated[int, Meta(ge=1, le=2**20)]
    input: ImageSpec
    preset: Text
    settings: Annotated[Mapping[Text, Any], Meta(max_length=1000)]
    seed: int
    decodes: bool
    digest: Digest
    trained_on: TrainedOn
    results: Results
    command: Place
    folder: EncoderFolder

    @property
    def title(self) -> str:
        """A description for errors and exports: name, preset, code size, first digits of the digest."""
        return f"{self.name}/{self.preset}-{self.dim}@{self.digest[:12]}"


@dataclass(frozen=True)
class SegmentRecord:
    """A segment of a catalogue: see `simrec.catalogue.segment`.

    folder: where its files are within the recommender's folder. rows: how many it has, removed ones included. format:
    the manifest version when it was written. fields, removed: the files with its columns and with its removed rows.
    """

    folder: SegmentFolder
    rows: Annotated[int, Meta(ge=1, le=2**40)]
    format: Literal[2, 3, 5] = 5
    fields: FileName | None = None
    removed: FileName | None = None


@dataclass(frozen=True)
class SourceRecord:
    """A source of a catalogue. name: what to type to open it again. root: the folder that its items' paths start from,
    None if they are absolute. test: its test split, or None. reduced: whether it was cut down.
    """

    name: Place
    root: Place | None
    test: Place | None
    reduced: bool


@dataclass(frozen=True)
class CatalogueRecord:
    """The catalogue in a recommender.

    sources: where its items come from; an item refers to one by its position. count: of items. labelled: whether they
    have labels. encoder: the digest of the encoder that made its codes. dtype: how it keeps them. distances: quantiles
    of the distances from its items to their nearest neighbours, evenly spaced from smallest to largest; empty if they
    were not measured. measured: how many items there were then. engine: the address of the table that holds the items,
    without a password; "" if they are in segments.
    """

    sources: Annotated[tuple[SourceRecord, ...], Meta(min_length=1, max_length=1000)]
    count: Count
    labelled: bool
    encoder: Digest
    dtype: Dtype
    segments: Annotated[tuple[SegmentRecord, ...], Meta(max_length=1000)]
    distances: Annotated[tuple[float, ...], Meta(max_length=1001)] = ()
    measured: Count = 0
    engine: Place = ""

    @cached_property
    def quantiles(self) -> NDArray[np.float64] | None:
        """`distances` as an array; None if they are missing or invalid."""
        import numpy as np

        known = np.asarray(self.distances, np.float64)
        return known if len(known) > 1 and np.isfinite(known).all() and (np.diff(known) >= 0).all() else None

    @property
    def source(self) -> str:
        """The names of its sources, in one text."""
        return ", ".join(source.name for source in self.sources)

    @property
    def test(self) -> str | None:
        """The test split of its only source; None if it has none, or if there are several sources."""
        return self.sources[0].test if len(self.sources) == 1 else None

    @property
    def reduced(self) -> bool:
        """Whether one of its sources was cut down."""
        return any(source.reduced for source in self.sources)


@dataclass(frozen=True)
class ChangeRecord:
    """What a generation changed. command: what made it, such as "index sync". note: for a person, or "".

    added, changed, removed, renamed: how many items.
    """

    command: Name
    note: Place = ""
    added: Count = 0
    changed: Count = 0
    removed: Count = 0
    renamed: Count = 0


@dataclass(frozen=True)
class FileRecord:
    """A file of a recommender: its size in bytes and the SHA-256 of its contents."""

    size: Count
    sha256: Digest


@dataclass(frozen=True)
class Manifest:
    """A generation's manifest. files: by their path within the recommender's folder. libraries: {name: version}.

    change: what it changed, None in manifests of an older simrec.
    """

    encoder: EncoderRecord
    catalogue: CatalogueRecord | None
    created: Instant
    libraries: Annotated[Mapping[Text, Text], Meta(max_length=1000)]
    change: ChangeRecord | None = None
    files: Mapping[FileName, FileRecord] = field(default_factory=dict)

    @classmethod
    def new(cls, encoder: EncoderRecord, catalogue: CatalogueRecord | None, change: ChangeRecord) -> Self:
        """A manifest with the current time and the versions of the libraries."""
        return cls(encoder, catalogue, datetime.now(UTC).isoformat(timespec="seconds"), _libraries(), change)

    def with_files(self, files: Mapping[str, FileRecord]) -> Self:
        """The same with its files filled in."""
        return replace(self, files=files)

    def to_json(self) -> dict[str, Any]:
        """As JSON values, format and version first."""
        return {"format": FORMAT, "version": VERSION, **asdict(self)}

    @classmethod
    def from_bytes(cls, data: bytes, where: str, remedy: str, place: str = "") -> Self:
        """From the file's contents, of this version or an older one.

        where and remedy: for error messages. place: the folder of a generation of an older format.

        Raises VersionError for a newer version, StoreError for anything that isn't a manifest.
        """
        try:
            values = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise StoreError(f"{where}: not a manifest in JSON ({_first_line(error)}): {remedy}") from error
        if not isinstance(values, dict) or values.get("format") != FORMAT or type(values.get("version")) is not int:
            raise StoreError(f"{where}: not a simrec manifest: {remedy}")
        version: int = values["version"]
        if version > VERSION:
            raise VersionError(
                f"{where}: format {version} is newer than the {VERSION} this simrec reads: upgrade simrec"
            )
        try:
            if (version < POOL) != bool(place):
                raise ValueError(f"format {version} in a folder of another format")
            while version < VERSION:
                values = UPGRADES[version](values, place)
                version += 1
            _check_levels(values, LEVELS)
            _check_fields(values)
            return convert(values, cls)
        # An upgrade step can raise any of these for something that isn't a manifest.
        except (ValidationError, KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
            raise StoreError(f"{where}: damaged manifest ({_first_line(error)}): {remedy}") from error


def file_name(name: str) -> bool:
    """Whether a manifest may list a file with that name."""
    return re.fullmatch(FILE, name) is not None


def _check_fields(values: dict[str, Any]) -> None:
    """Raises ValueError if a part of a manifest has an unknown field, which `convert` would ignore."""
    encoder = values["encoder"]
    parts: tuple[tuple[type, Iterable[str]], ...] = (
        (Manifest, set(values) - {"format", "version"}),
        (EncoderRecord, encoder),
        (ImageSpec, encoder["input"]),
        (TrainedOn, encoder["trained_on"]),
        (Results, encoder["results"]),
        (ChangeRecord, values["change"] or ()),
        (CatalogueRecord, values["catalogue"] or ()),
        *((SourceRecord, source) for source in (values["catalogue"] or {"sources": ()})["sources"]),
        *((SegmentRecord, segment) for segment in (values["catalogue"] or {"segments": ()})["segments"]),
    )
    for cls, part in parts:
        if unknown := sorted(set(part) - {known.name for known in fields(cls)}):
            raise ValueError(f"an unknown field {unknown[0][:100]!r}")
    if missing := {known.name for known in fields(ImageSpec)} - set(encoder["input"]):  # they have defaults
        raise ValueError(f"encoder.input lacks {', '.join(sorted(missing))}")


@cache
def _libraries() -> Mapping[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:  # an installation that only looks things up has no torch
            continue
    return versions


def _check_levels(values: object, levels: int) -> None:
    """Raises ValueError for JSON values nested deeper than that, or too long for any setting."""
    if isinstance(values, str) and len(values) > 100_000:
        raise ValueError(f"a text of {len(values):,} characters")
    if isinstance(values, dict | list):
        if levels == 0:
            raise ValueError(f"nested deeper than {LEVELS} levels")
        for value in values.values() if isinstance(values, dict) else values:
            _check_levels(value, levels - 1)


def _first_line(error: BaseException) -> str:
    said = re.sub(r"matching regex '.*'", "that simrec writes", str(error), flags=re.DOTALL)
    return (said.splitlines() or [type(error).__name__])[0][:300]
