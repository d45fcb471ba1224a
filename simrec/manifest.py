"""What a recommender says of itself: the contents of manifest.json, and the step from each older version."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, Self

from simrec.contracts import Dtype, ImageSpec, Metric
from simrec.errors import StoreError, VersionError

FORMAT = "simrec"
VERSION = 2


def _with_dtype(values: dict[str, Any]) -> dict[str, Any]:
    """1 to 2: catalogues may keep their codes otherwise than as float32."""
    catalogue = values["catalogue"]
    return {**values, "catalogue": catalogue and {**catalogue, "dtype": "float32"}}


UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _with_dtype}
"""From each older version to the next: one function a step."""


@dataclass(frozen=True)
class EncoderRecord:
    """The encoder in a recommender.

    provider: the distribution ("name version") it came from. runtime: "onnx" (encoder.onnx answers) or "plugin" (the
    provider does). settings: JSON values. digest: of its files and its image recipe. trained_on: the source, the split
    to test on (None without one), how many pictures, and their digest. results: figures of the training (losses,
    epochs, seconds). command: what made it.
    """

    name: str
    provider: str
    factory: str
    runtime: Literal["onnx", "plugin"]
    metric: Metric
    dim: int
    input: ImageSpec
    preset: str
    settings: Mapping[str, Any]
    seed: int
    decodes: bool
    digest: str
    trained_on: Mapping[str, Any]
    results: Mapping[str, Any]
    command: str

    @property
    def title(self) -> str:
        """For errors and exports: name, preset, size of a code, first figures of the digest."""
        return f"{self.name}/{self.preset}-{self.dim}@{self.digest[:12]}"


@dataclass(frozen=True)
class CatalogueRecord:
    """The catalogue in a recommender: its source, its number of items, whether they have labels, its test split
    (None where there is none), whether the source was cut down, the digest of the encoder that made its codes, and how
    it keeps them.
    """

    source: str
    count: int
    labelled: bool
    test: str | None
    reduced: bool
    encoder: str
    dtype: Dtype
    segments: tuple[str, ...]


@dataclass(frozen=True)
class Manifest:
    """manifest.json: files are {path: {"size": bytes, "sha256": hex}}, libraries are {name: version}."""

    encoder: EncoderRecord
    catalogue: CatalogueRecord | None
    created: str
    libraries: Mapping[str, str]
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def with_files(self, files: Mapping[str, Mapping[str, Any]]) -> Self:
        """The same with its files filled in."""
        return replace(self, files=files)

    def to_json(self) -> dict[str, Any]:
        """As JSON values, format and version first."""
        return {"format": FORMAT, "version": VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, values: dict[str, Any], where: str) -> Self:
        """From JSON values of this version or an older one.

        Raises VersionError for a newer one, StoreError for anything else.
        """
        version = values.get("version")
        if values.get("format") != FORMAT or not isinstance(version, int):
            raise StoreError(f"{where}: not a simrec manifest: delete its folder and make it anew")
        if version > VERSION:
            raise VersionError(
                f"{where}: format {version} is newer than the {VERSION} this simrec reads: upgrade simrec"
            )
        try:
            while version < VERSION:
                values = UPGRADES[version](values)
                version += 1
            encoder, catalogue = values["encoder"], values["catalogue"]
            return cls(
                encoder=EncoderRecord(**{**encoder, "input": ImageSpec(**encoder["input"])}),
                catalogue=catalogue and CatalogueRecord(**{**catalogue, "segments": tuple(catalogue["segments"])}),
                created=values["created"],
                libraries=values["libraries"],
                files=values["files"],
            )
        except (KeyError, TypeError) as error:
            raise StoreError(f"{where}: damaged manifest ({error}): delete its folder and make it anew") from error
