"""Browsing a catalogue: what its fields hold, some of its items, their pictures, and what the encoder makes of them."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from simrec.contracts import Item
from simrec.errors import ImageError, RequestError
from simrec.home import default, roots
from simrec.recommender import Recommender
from simrec.verbs.looking import Upload

if TYPE_CHECKING:
    from PIL.Image import Image

CHOICES = 40
"""A field with up to so many different texts is one to choose from."""

COUNTED = 1000
"""A field with more different texts than this holds free text; counting stops there."""

LARGEST = 2048
"""Maximum longest edge of an original that is shown, in pixels."""


@dataclass
class Facet:
    """What a field holds. kind: "number", with its smallest and largest value; "choice", with its texts, the most
    frequent first, and how many items have each; or "text", which has too many different texts.
    """

    name: str
    kind: str
    whole: bool = False
    least: float | None = None
    most: float | None = None
    choices: list[tuple[str, int]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        described: dict[str, Any] = {"name": self.name, "kind": self.kind}
        if self.kind == "number":
            described |= {"whole": self.whole, "least": self.least, "most": self.most}
        if self.kind == "choice":
            described["choices"] = [{"value": value, "count": count} for value, count in self.choices]
        return described


def facets(opened: Recommender) -> list[Facet]:
    """What a catalogue can be filtered by: its labels, then its fields. Reads every item's fields once.

    Leaves out fields in which no item has a value, or all items have the same one.
    """
    catalogue = opened.catalogue
    fields = [name for name in catalogue.fields if name not in ("id", "label")]
    columns: dict[str, str | None] = {"label": None, **{f"field_{number}": name for number, name in enumerate(fields)}}
    counting = [_Counting("label", "string"), *(_Counting(name, catalogue.kinds[name] or "") for name in fields)]
    for batch in catalogue.record_batches(columns, None):
        for one, column in zip(counting, batch.columns, strict=True):
            one.add(column)
    return [facet for one in counting if (facet := one.facet()) is not None]


class _Counting:
    """Finds out what a column holds, batch by batch."""

    def __init__(self, name: str, kind: str) -> None:
        self._name, self._kind = name, kind
        self._texts: Counter[str] = Counter()
        self._least, self._most = np.inf, -np.inf

    def add(self, column: Any) -> None:
        import pyarrow.compute as pc

        if self._kind == "string":
            if len(self._texts) <= COUNTED:
                for pair in pc.value_counts(column).to_pylist():
                    if pair["values"]:
                        self._texts[pair["values"]] += pair["counts"]
            return
        if self._kind == "double":
            column = column.filter(pc.is_finite(column))
        ends = pc.min_max(column).as_py()
        if ends["min"] is not None:
            self._least, self._most = min(self._least, ends["min"]), max(self._most, ends["max"])

    def facet(self) -> Facet | None:
        if self._kind == "string":
            if len(self._texts) < 2:
                return None
            if len(self._texts) > CHOICES:
                return Facet(self._name, "text")
            return Facet(self._name, "choice", choices=self._texts.most_common())
        if not self._least < self._most:
            return None
        return Facet(self._name, "number", self._kind == "int64", self._least, self._most)


def item(opened: Recommender, id_: str) -> Item:
    """The item with that id. Raises RequestError if there is none."""
    for one in opened.catalogue.items([id_]):
        return one
    raise RequestError(f"no item {id_!r:.200} in {opened.name}: 'simrec export {opened.name} -o items.csv' lists them")


def original(opened: Recommender, id_: str, edge: int, home: Path | None = None) -> bytes | None:
    """An item's picture file, read again, as a JPEG or PNG file without metadata whose longest edge is at most `edge`.

    None if it doesn't lie below one of the user's own folders (see `simrec.home.roots`), is gone or has changed. Raises
    RequestError if there is no such item.
    """
    from simrec import images

    picture = _original(item(opened, id_), edge, home)
    return None if picture is None else images.preview(picture, edge)


@dataclass(frozen=True)
class Views:
    """What the encoder makes of a picture, as PNG files. seen: the encoder's input. rebuilt: the picture decoded from
    the code, None without a decoder. difference: where that is too light (red) or too dark (blue). error: the mean
    squared error of its pixels in 0..1.
    """

    seen: bytes
    rebuilt: bytes | None = None
    difference: bytes | None = None
    error: float | None = None


def views_of_item(opened: Recommender, id_: str, home: Path | None = None, crop: str | None = None) -> Views:
    """What the encoder makes of an item's picture: of its file if that can be read again, else of its preview.

    crop: the part to take. Raises RequestError if there is no such item or part, ImageError if the item has no picture,
    and for a part beyond it.
    """
    from simrec import images

    one = item(opened, id_)
    if crop is not None:
        query = opened.read(f"id:{id_}", crop=crop, shown=0)
        assert query.images is not None
        return _views(opened, query.images)
    picture = _original(one, LARGEST, home) or opened.catalogue.picture(id_)
    if picture is None:
        raise ImageError(f"{id_:.200}: its code came without a picture")
    return _views(opened, images.of_picture(picture, opened.manifest.encoder.input, id_))


def views_of_upload(opened: Recommender, upload: Upload) -> Views:
    """What the encoder makes of an uploaded picture. Raises ImageError if it isn't a picture."""
    query = opened.read(upload.data, crop=upload.crop, shown=0, name=upload.name)
    assert query.images is not None
    return _views(opened, query.images)


def _original(one: Item, edge: int, home: Path | None) -> Image | None:
    from simrec.originals import Originals

    return Originals(roots(home or default()), edge).picture(one)


def _views(opened: Recommender, seen: NDArray[np.uint8]) -> Views:
    """seen: (1, h, w, c)."""
    from simrec import images
    from simrec.verbs.decode import reconstructed

    if not opened.manifest.encoder.decodes:
        return Views(_png(seen[0]))
    rebuilt = reconstructed(opened, seen)
    pixels = images.rounded(rebuilt.pictures)[0]
    return Views(_png(seen[0]), _png(pixels), _png(_difference(seen[0], pixels)), float(rebuilt.errors[0]))


def _difference(seen: NDArray[np.uint8], rebuilt: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The difference of two images (h, w, c) as colours (h, w, 3): white where they are equal."""
    change = rebuilt.astype(np.float32).mean(axis=2) - seen.astype(np.float32).mean(axis=2)
    lighter, darker = np.clip(change, 0, None), np.clip(-change, 0, None)
    coloured = np.stack([255 - darker, 255 - lighter - darker * 0.6, 255 - lighter], axis=2)
    rounded: NDArray[np.uint8] = np.clip(coloured, 0, 255).astype(np.uint8)
    return rounded


def _png(pixels: NDArray[np.uint8]) -> bytes:
    from simrec.images import as_picture

    file = io.BytesIO()
    as_picture(pixels).save(file, "PNG")
    return file.getvalue()


def spread(opened: Recommender, n: int, where: str | None = None) -> Sequence[Item]:
    """n items from all over a catalogue, or from those that match a filter; fewer if there are no more."""
    return opened.catalogue.spread(n, where)
