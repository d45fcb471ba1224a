"""Queries and matches: turns whatever people have of one or several pictures into a query."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias, cast

import msgspec
import numpy as np
from msgspec.structs import replace as changed
from numpy.typing import NDArray

from simrec.catalogue import Catalogue
from simrec.contracts import Batch, Codes, Images, Item, Metric, Value
from simrec.errors import RequestError
from simrec.home import SHIPPED, default, roots
from simrec.manifest import EncoderRecord
from simrec.originals import Originals

if TYPE_CHECKING:
    from PIL.Image import Image as PictureOfPillow

    from simrec.images import Crop, Read

SHOWN = 128
"""Default longest edge, in pixels, of the picture that people see of a query."""

NOTHING = 1e-6
"""Minimum length of a combined direction: directions that cancel out leave less."""


class Match(msgspec.Struct, frozen=True, gc=False):  # a batch has a hundred thousand, and a dataclass takes longer
    """One answer: better ones have a higher score and a lower distance (see `simrec.index`).

    percentile: the per cent of the catalogue's items that are farther from their nearest neighbour than this match is
    from the query; None if the catalogue was too small to measure that, or if an older simrec made it. alike: how many
    near-duplicates of the item were left out of the answer; None unless asked for.
    """

    query: str
    rank: int
    item: Item
    score: float
    distance: float
    percentile: float | None = None
    alike: int | None = None

    @property
    def id(self) -> str:
        """The item's id."""
        return self.item.id

    @property
    def label(self) -> str:
        """The item's label, "" for none."""
        return self.item.label

    @property
    def source(self) -> str:
        """Where the item comes from: its file's path, or a data set's name."""
        return self.item.source

    @property
    def fields(self) -> Mapping[str, Value]:
        """What else is known about the item."""
        return self.item.fields

    @property
    def path(self) -> Path | None:
        """The item's picture file; None if it comes from a data set."""
        from simrec.sources.files import path_of

        return path_of(self.source) if Path(self.source).is_absolute() else None

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "query": self.query, "rank": self.rank, "id": self.id, "score": self.score, "distance": self.distance,
            "percentile": self.percentile, "label": self.label, "source": self.source,
            **({} if self.alike is None else {"alike": self.alike}),
            **({"fields": dict(self.fields)} if self.fields else {}),
        }  # fmt: skip


class Query(msgspec.Struct, frozen=True):
    """A picture to look up, a part of one, or several combined.

    images: the encoder's input, (1, h, w, c); None for a whole item and for a code. own: the ids of the queried item
    and its exact copies, which its answer leaves out. copies: how many of them are copies. code: (1, dim), if it is
    known already; encoder: the digest of the encoder that made it. picture: for people to see, a JPEG or PNG file; None
    if there are only numbers. parts: the queries that this one combines. weight: how much it counts as such a part.
    unlike: whether it is the part that answers should not look like. file: the picture file that a source read it from,
    and stamp: the file's (see `simrec.contracts.Entry`); "" if its picture is as large as it needs to be.
    """

    name: str
    images: Images | None
    own: frozenset[str] = frozenset()
    copies: int = 0
    code: Codes | None = None
    encoder: str = ""
    picture: bytes | None = None
    parts: tuple[Query, ...] = ()
    weight: float = 1.0
    unlike: bool = False
    file: str = ""
    stamp: str = ""


QueryLike: TypeAlias = "str | Path | bytes | BinaryIO | PictureOfPillow | NDArray[Any] | Query"
"""What can be looked up: a path, "id:ITEM", the bytes of a picture file, an open file, a Pillow picture, an array uint8
(h, w) or (h, w, c), a code (dim,) of floats, or a query that was read before."""


@dataclass(frozen=True)
class Reader:
    """Turns what people look up into queries for one encoder and, if there is one, its catalogue.

    name: the recommender's. home: where the user's own folders are remembered, by default the user's home.
    """

    name: str
    encoder: EncoderRecord
    catalogue: Catalogue | None
    home: Path | None = None

    def read(
        self, queries: Sequence[object], *, crop: Crop | None = None, with_copies: bool = False, shown: int = 0,
        name: str = "",
    ) -> list[Query]:  # fmt: skip
        """The query for each: see `Recommender.read`. Looks for the copies of all of them in one go."""
        if crop is None and not shown and (ready := self._ready(queries)):
            from simrec import images

            return self._of_images(["array"] * len(queries), *images.of_ready(ready, self.encoder.input), with_copies)
        made: list[Query | None] = []
        pictures: list[tuple[str, Read]] = []
        for query in queries:
            known = query if isinstance(query, Query) else self._without_picture(query, crop, with_copies, shown)
            made.append(known)
            if known is None:
                pictures.append(self._picture(query, crop, shown, name))
        own = self._copies([read for _, read in pictures])
        of_pictures = iter(
            Query(
                name, read.image[np.newaxis], frozenset() if with_copies else ids, max(0, len(ids) - 1),
                picture=read.preview or None,
            )
            for (name, read), ids in zip(pictures, own, strict=True)
        )  # fmt: skip
        return [next(of_pictures) if query is None else query for query in made]

    def of_batch(self, batch: Batch, *, with_copies: bool = False) -> list[Query]:
        """The queries for pictures that a source has read, named by their ids."""
        names = [entry.id for entry in batch.entries]
        queries = self._of_images(names, batch.images, batch.contents, with_copies, batch.previews)
        return [
            changed(query, file=entry.source, stamp=entry.stamp) if Path(entry.source).is_absolute() else query
            for query, entry in zip(queries, batch.entries, strict=True)
        ]

    def _of_images(
        self, names: Sequence[str], images: Images, contents: Sequence[str], with_copies: bool,
        pictures: Sequence[bytes] = (),
    ) -> list[Query]:  # fmt: skip
        """The queries for images (n, h, w, c) with these names, contents and, for people to see, pictures."""
        own = self._own_of(list(contents), images)
        return [
            Query(
                name, images[row : row + 1], frozenset() if with_copies else ids, max(0, len(ids) - 1),
                picture=pictures[row] if pictures else None,
            )
            for row, (name, ids) in enumerate(zip(names, own, strict=True))
        ]  # fmt: skip

    def _ready(self, queries: Sequence[object]) -> list[NDArray[np.uint8]]:
        """The arrays, if all queries are arrays that need no preparing; else nothing."""
        pictures = [one for one in queries if type(one) is np.ndarray and one.dtype == np.uint8]
        if len(pictures) < len(queries):
            return []
        arrays = [one[:, :, 0] if one.shape[2:] == (1,) else one for one in pictures]
        from simrec import images

        return arrays if all(images.ready(one, self.encoder.input) for one in arrays) else []

    def _without_picture(self, query: object, crop: Crop | None, with_copies: bool, shown: int) -> Query | None:
        """The query for something that has a code already; None for a picture."""
        if isinstance(query, str) and query.startswith("id:"):
            return self._part(query, crop, with_copies, shown) if crop else self._item(query, with_copies, shown)
        dim = self.encoder.dim
        if isinstance(query, np.ndarray) and query.dtype.kind == "f" and query.shape in ((dim,), (1, dim)):
            with np.errstate(over="ignore"):
                code = query.astype(np.float32, copy=False)
            if not np.isfinite(code).all():
                raise RequestError("a code has numbers that are infinite or NaN: give one that the encoder made")
            return Query("code", None, code=code.reshape(1, dim), encoder=self.encoder.digest)
        return None

    def _item(self, query: str, with_copies: bool, shown: int) -> Query:
        if self.catalogue is None:
            raise no_catalogue(self.name)
        items = self.catalogue.items([query[3:]])
        if not items:
            raise RequestError(
                f"no item {query[3:]!r} in {self.name}: 'simrec export {self.name} -o items.csv' lists the ids"
            )
        itself = frozenset([items[0].id])
        alike = itself.union(*self.catalogue.copies_of([items[0].content]))
        return Query(
            query, None, itself if with_copies else alike, len(alike) - 1, self.catalogue.code(items[0].id),
            self.encoder.digest, self.catalogue.preview(items[0].id) if shown else None,
        )  # fmt: skip

    def _part(self, query: str, crop: Crop, with_copies: bool, shown: int) -> Query:
        """A part of an item's picture: from its file if that may be read again, else from its preview."""
        from simrec import images

        whole = self._item(query, with_copies, 0)
        assert self.catalogue is not None
        (item,) = self.catalogue.items([query[3:]])
        path = Originals(roots(self.home or default()), 0).path(item)
        if path is not None:
            read = _of_file(path, query, self.encoder, crop, shown)
        elif not crop.per_cent:
            raise RequestError(
                f"{query}: its file can't be read, and its preview has another size: give the part in per cent, such "
                f"as 10%,0%,90%,50%"
            )
        elif (preview := self.catalogue.picture(item.id)) is None:
            raise RequestError(f"{query}: it has no picture to take a part of: name a picture file")
        else:
            read = images.of_picture_with_preview(preview, self.encoder.input, query, shown=shown, crop=crop)
        return changed(whole, images=read.image[np.newaxis], code=None, encoder="", picture=read.preview or None)

    def _copies(self, reads: Sequence[Read]) -> list[frozenset[str]]:
        """The ids of each picture's exact copies in the catalogue."""
        if not reads or self.catalogue is None:
            return [frozenset()] * len(reads)
        return self._own_of([read.content for read in reads], [read.image for read in reads])

    def _own_of(self, contents: list[str], images: Sequence[NDArray[np.uint8]] | Images) -> list[frozenset[str]]:
        if self.catalogue is None:
            return [frozenset()] * len(contents)
        if self.catalogue.by_pixels:
            contents = [blake2b(image.tobytes(), digest_size=8).hexdigest() for image in images]
        return self.catalogue.copies_of(contents)

    def _picture(self, query: object, crop: Crop | None, shown: int, name: str) -> tuple[str, Read]:
        """The name of a picture that isn't an item's, and what was read from it."""
        from PIL import Image

        from simrec import images

        spec = self.encoder.input
        if isinstance(query, str | os.PathLike):
            called = os.fsdecode(query)
            if not called:
                raise RequestError("an empty text is no picture: give the path of a picture file, or 'id:ITEM'")
            return called, _of_file(Path(called), called, self.encoder, crop, shown)
        if isinstance(query, bytes | bytearray | memoryview):
            called = name or "bytes"
            return called, _of_file(bytes(query), called, self.encoder, crop, shown)
        if isinstance(query, Image.Image):
            return "picture", images.of_picture_with_preview(query, spec, "the picture", shown=shown, crop=crop)
        if isinstance(query, np.ndarray):
            if query.dtype.kind == "f" and query.ndim == 2 and query.shape[1] == self.encoder.dim:
                raise RequestError(
                    f"an array {query.dtype} {query.shape} is several codes, not a query: give a list of them, as "
                    f"list(codes) makes it"
                )
            if query.dtype != np.uint8 or query.ndim not in (2, 3) or query.shape[2:] not in ((), (1,), (3,)):
                raise RequestError(
                    f"an array {query.dtype} {query.shape} is not a picture: give uint8 (h, w), (h, w, 1) or "
                    f"(h, w, 3), or a code of floats ({self.encoder.dim},)"
                )
            pixels = query.squeeze(2) if query.shape[2:] == (1,) else query
            return "array", images.of_picture_with_preview(pixels, spec, "the array", shown=shown, crop=crop)
        if hasattr(query, "read"):
            called = name or ("standard input" if query is getattr(sys.stdin, "buffer", None) else "the open file")
            return "-", _of_file(_read(cast(BinaryIO, query), called), called, self.encoder, crop, shown)
        raise RequestError(
            f"{type(query).__name__} is not a query: give a path, bytes, an open file, a Pillow picture, an array "
            f"uint8 (h, w, c), 'id:ITEM', or a list of these"
        )


def combined(
    queries: Sequence[Query], codes: Codes, weights: Sequence[float], less: int, metric: Metric, encoder: str
) -> Query:
    """Combines several queries into one: the mean of their directions, or of their codes if the metric isn't cosine.

    codes (n, dim): of the queries; the last `less` of them are what answers should not look like. The query moves away
    from those, by as much as they are away from the others' mean. Measured with clothing photos and `photo`: 69 % of
    the first five answers are still of the first picture's kind, and 1 % instead of 4 % of the other's; for the mean of
    two pictures less the second, 70 % and 3 % instead of 38 % and 38 %. weights: of the queries before the last `less`.
    encoder: the digest of the encoder that made the codes.

    Raises RequestError for invalid weights, and if the directions cancel out.
    """
    wanted = len(queries) - less
    if len(weights) != wanted or not all(0 < weight <= LARGEST_WEIGHT for weight in weights):
        raise RequestError(
            f"weights {list(weights)!s:.100} for {wanted} pictures: give each a number above 0, at most "
            f"{LARGEST_WEIGHT:,}"
        )
    points = codes.astype(np.float64)
    if metric == "cosine":
        points /= np.maximum(np.linalg.norm(points, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    code = np.average(points[:wanted], axis=0, weights=weights)
    if less:
        code += code - points[wanted:].mean(axis=0)
    name = " + ".join(query.name for query in queries[:wanted])
    name += "".join(f" - {query.name}" for query in queries[wanted:])
    if metric == "cosine" and np.linalg.norm(code) < NOTHING:
        raise RequestError(f"{name:.200}: together they cancel out, and nothing is left: leave one out")
    own = frozenset().union(*(query.own for query in queries))
    parts = [changed(query, weight=weight, unlike=False) for query, weight in zip(queries, weights, strict=False)]
    parts += [changed(query, weight=1.0, unlike=True) for query in queries[wanted:]]
    return Query(
        name, None, own, sum(query.copies for query in queries), code.astype(np.float32)[np.newaxis], encoder,
        parts=tuple(parts),
    )  # fmt: skip


LARGEST_WEIGHT = 1000
"""The largest weight of a picture in a combined query."""


def no_catalogue(name: str) -> RequestError:
    """The error for a recommender of that name that has no catalogue."""
    if name in SHIPPED:
        return RequestError(f"{name} has only an encoder: run 'simrec index build NEW FOLDER --encoder {name}'")
    return RequestError(f"{name} has no catalogue yet: run 'simrec index build {name}'")


def _read(file: BinaryIO, called: str) -> bytes:
    """The bytes of an open file. Raises RequestError for one that can't be read."""
    from simrec.picture_files import LARGEST_FILE

    try:
        data = file.read(LARGEST_FILE + 1)
        if not data and hasattr(file, "seekable") and file.seekable() and file.tell():
            raise RequestError(f"{called}: is at its end, with nothing left to read: go back with seek(0)")
    except (OSError, ValueError) as error:  # a closed file raises ValueError
        raise RequestError(f"{called}: cannot be read ({error}): open it for reading, in binary mode") from error
    if not isinstance(data, bytes | bytearray):
        raise RequestError(f"{called}: gives {type(data).__name__}, not bytes: open it in binary mode")
    return bytes(data)


def _of_file(file: Path | bytes, name: str, encoder: EncoderRecord, crop: Crop | None, shown: int) -> Read:
    """What is read from a picture file. A shown picture larger than a preview is decoded separately, so that the
    encoder's input doesn't depend on what people see.
    """
    from simrec import images

    def opened() -> Path | BinaryIO:
        return io.BytesIO(file) if isinstance(file, bytes) else file

    small = 0 < shown <= images.PREVIEW
    read = images.read_with_preview(opened(), encoder.input, name, shown=small, crop=crop)
    return replace(read, preview=images.shown(opened(), name, shown, crop)) if shown and not small else read
