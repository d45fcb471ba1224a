"""A recommender, open for asking: one encoder and one catalogue.

Nothing here imports torch: everything runs on ONNX Runtime, unless the encoder could not be exported.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Self, TypeAlias, cast, overload

import numpy as np
from numpy.typing import NDArray

from simrec import store
from simrec.arrays import from_npy
from simrec.catalogue import Catalogue
from simrec.contracts import Codes, FittedEncoder, Images, Notice, Pictures, Rebuilt
from simrec.errors import DataError, PluginError, RequestError, StoreError
from simrec.faults import blamed_on, decoded, encoded
from simrec.manifest import CatalogueRecord
from simrec.onnx_encoder import OnnxEncoder
from simrec.sources.load import load, test_split

if TYPE_CHECKING:
    from PIL.Image import Image as PictureOfPillow

    from simrec.compression import CodeModel
    from simrec.contracts import EncoderSpec
    from simrec.generation import Mixture
    from simrec.host import Offer
    from simrec.index import Index

BATCH = 4096
"""Pictures that are encoded or decoded between two reports of progress."""


def silent(*_: Any) -> None:
    """The default for progress and notices."""


@dataclass(frozen=True)
class Match:
    """One answer: score is higher the better, distance lower (see `simrec.index`)."""

    query: str
    rank: int
    id: str
    score: float
    distance: float
    label: str
    source: str


@dataclass(frozen=True)
class Query:
    """A picture to look up, (1, h, w, c).

    own: the rows that are that very item or an exact copy of it, which are left out of its answer. copies: how many of
    them are copies.
    """

    name: str
    images: Images
    own: frozenset[int]
    copies: int = 0


Asked: TypeAlias = "str | Path | bytes | BinaryIO | PictureOfPillow | NDArray[np.uint8] | Query"
"""What can be looked up: a path, "id:ITEM", the bytes of a picture file, an open one, a Pillow picture, an array uint8
(h, w) or (h, w, c), or a query that was read before."""


class Recommender:
    """One recommender, open for asking, from as many threads as you like.

    All its answers come from the generation that was live when it was opened.
    """

    def __init__(self, folder: Path) -> None:
        self.name = folder.name
        self.folder = folder
        self.generation = store.current(folder)
        self.manifest = self.generation.manifest
        record, catalogue = self.manifest.encoder, self.manifest.catalogue
        if not any(name.startswith("encoder/") for name in self.manifest.files):
            raise StoreError(f"{folder}: its manifest lists no file of its encoder: {store.COPY}")
        if catalogue and catalogue.encoder != record.digest:
            raise StoreError(
                f"{folder}: its codes were made by encoder {catalogue.encoder[:12]}, but it holds {record.title}: "
                f"'simrec index build {folder.name}' makes them again"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Lets go of what it has opened; it opens it again when it is asked again."""
        for name in ("encoder", "catalogue", "index", "codes", "prior", "code_model"):
            self.__dict__.pop(name, None)

    @cached_property
    def encoder(self) -> FittedEncoder:
        """The encoder: its ONNX graphs, or the plugin's own class where they could not be made."""
        record = self.manifest.encoder
        if record.runtime == "onnx":
            return OnnxEncoder(record.input, record.dim, lambda name: self.generation.read(f"encoder/{name}"))
        from simrec import host

        folder = self.generation.check_folder("encoder")
        kind = host.encoder_class(self._offer)
        with blamed_on(self._culprit):
            fitted: FittedEncoder = kind.load(folder)
            return fitted

    @cached_property
    def _offer(self) -> Offer[EncoderSpec]:
        """What makes its encoder where that is a plugin: the distribution it was trained with and no other."""
        from simrec import host

        record = self.manifest.encoder
        distribution = record.provider.split()[0]
        try:
            return host.discover_only(distribution).encoder(record.name)
        except PluginError as error:
            raise PluginError(
                f"{self.name}: its encoder is {record.name!r} of {record.provider}: {error}: install {distribution}"
            ) from error

    @property
    def _culprit(self) -> str:
        """Whose fault it is when codes are not what they should be."""
        record = self.manifest.encoder
        return f"encoder {record.title}" if record.runtime == "onnx" else str(self._offer)

    @cached_property
    def catalogue(self) -> Catalogue:
        """Its items. Raises RequestError when none were indexed yet."""
        self._record()
        return Catalogue(self.generation)

    @cached_property
    def index(self) -> Index:
        """Its codes, ready to be searched. Raises RequestError when none were indexed yet."""
        # Imported where it is used: on macOS faiss and torch in one process can crash, and training comes through here.
        from simrec.index import Index

        record, metric = self._record(), self.manifest.encoder.metric
        with self._checking("index.faiss") as data:
            return Index.from_bytes(data, record.count, self.manifest.encoder.dim, metric, record.dtype)

    @cached_property
    def codes(self) -> Codes:
        """The catalogue's codes (n, dim), rows in catalogue order, as far as its dtype keeps them.

        Raises RequestError when none were indexed yet.
        """
        record = self._record()
        if record.dtype == "float32":
            with self._checking("codes.npy") as data:
                codes: Codes = from_npy(data, np.float32, (record.count, self.manifest.encoder.dim))
        else:
            codes = self.index.codes
        if not np.isfinite(codes).all():
            raise self.generation.damaged(
                "codes.npy" if record.dtype == "float32" else "index.faiss", "its codes are not numbers"
            )
        return codes

    def read(self, query: Asked, *, with_copies: bool = False) -> Query:
        """A query from whatever people have of a picture: see `Asked`.

        Its answer leaves out the item itself and its exact copies; with_copies: only the item that was named by its id.

        Raises ImageError for what is no picture, RequestError for an id that is not in the catalogue and for anything
        that is none of these.
        """
        if isinstance(query, Query):
            return query
        if isinstance(query, str) and query.startswith("id:"):
            row = self.catalogue.row_of(query[3:])
            if row is None:
                raise RequestError(
                    f"no item {query[3:]!r} in {self.name}: 'simrec export {self.name} -o items.csv' lists the ids"
                )
            picture = self.catalogue.thumbnails([row])
            alike = frozenset([row, *self.catalogue.rows_like(picture[0])])
            return Query(query, picture, frozenset([row]) if with_copies else alike, len(alike) - 1)
        name, picture = self._image(query)
        alike = frozenset(self.catalogue.rows_like(picture[0]) if self.manifest.catalogue else [])
        return Query(name, picture, frozenset() if with_copies else alike, max(0, len(alike) - 1))

    def _image(self, query: object) -> tuple[str, Images]:
        """The name and the image (1, h, w, c) of a picture that is no item's."""
        from PIL import Image

        from simrec import images

        spec = self.manifest.encoder.input
        if isinstance(query, str | Path):
            return str(query), images.read(Path(query), spec)
        if isinstance(query, bytes | bytearray):
            return "bytes", images.read(io.BytesIO(query), spec, "bytes")
        if isinstance(query, Image.Image):
            return "picture", images.of_picture(query, spec, "the picture")
        if isinstance(query, np.ndarray):
            if query.dtype != np.uint8 or query.ndim not in (2, 3) or query.shape[2:] not in ((), (1,), (3,)):
                raise RequestError(
                    f"an array {query.dtype} {query.shape} is no picture: give uint8 (h, w), (h, w, 1) or (h, w, 3)"
                )
            grey = query.shape[2:] == (1,)
            return "array", images.of_picture(query.squeeze(2) if grey else query, spec, "the array")
        if hasattr(query, "read"):
            return "-", images.read(cast(BinaryIO, query), spec, "standard input")
        raise RequestError(
            f"{type(query).__name__} is no query: give a path, bytes, an open file, a Pillow picture, an array uint8 "
            f"(h, w, c), 'id:ITEM', or a list of these"
        )

    @overload
    def similar(self, query: Asked, n: int = 10) -> list[Match]: ...

    @overload
    def similar(self, query: list[Asked] | tuple[Asked, ...], n: int = 10) -> list[list[Match]]: ...

    def similar(self, query: Asked | list[Asked] | tuple[Asked, ...], n: int = 10) -> list[Match] | list[list[Match]]:
        """The n items most similar to a picture, best first, without that item itself; of a list, a list for each.

        A list goes through encoder and index as one batch. Raises RequestError when nothing was indexed yet and for n
        under 1, and what `read` raises.
        """
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise RequestError(f"{n!r} items cannot be asked for: n is a whole number from 1 on")
        if isinstance(query, list | tuple):
            return self._similar([self.read(one) for one in query], n)
        return self._similar([self.read(query)], n)[0]

    def _similar(self, queries: Sequence[Query], n: int) -> list[list[Match]]:
        if not queries:
            return []
        codes = self.encode(np.concatenate([query.images for query in queries]))
        rows, distances = self.index.search(codes, n + max(len(query.own) for query in queries))
        near = [
            [(int(row), distance) for row, distance in zip(found, far, strict=True) if int(row) not in query.own][:n]
            for query, found, far in zip(queries, rows, distances, strict=True)
        ]
        wanted = sorted({row for found in near for row, _ in found})
        items = dict(zip(wanted, self.catalogue.items(wanted), strict=True))
        answers = []
        for query, found in zip(queries, near, strict=True):
            scores = self.index.scores(np.array([distance for _, distance in found], np.float32))
            answers.append(
                [
                    Match(
                        query.name, rank, items[row].id, float(score), float(far), items[row].label, items[row].source
                    )
                    for rank, ((row, far), score) in enumerate(zip(found, scores, strict=True), 1)
                ]
            )
        return answers

    def thumbnails(self, matches: Sequence[Match]) -> Images:
        """What the encoder saw of those items, (n, h, w, c)."""
        rows = [self.catalogue.row_of(match.id) for match in matches]
        return self.catalogue.thumbnails([row for row in rows if row is not None])

    def encode(self, images: Images, progress: Callable[[int], None] = silent) -> Codes:
        """Images (n, h, w, c), as the encoder's input says, to codes (n, dim). progress: told how many are done.

        Raises RequestError for what is no array, PluginError, naming the encoder, when it gives anything but finite
        float32 codes of that shape.
        """
        if not isinstance(images, np.ndarray):
            raise RequestError(
                f"encode takes images as an array uint8 (n, h, w, c), not {type(images).__name__}: read files with "
                f"Recommender.pictures"
            )
        dim = self.manifest.encoder.dim
        out = np.empty((len(images), dim), np.float32)
        for start in range(0, len(images), BATCH):
            out[start : start + BATCH] = encoded(self.encoder, images[start : start + BATCH], dim, self._culprit)
            progress(min(start + BATCH, len(images)))
        return out

    def decode(self, codes: Codes) -> Rebuilt:
        """Codes (n, dim) to pictures (n, h, w, c) in 0..1. Raises RequestError for an encoder without a decoder."""
        self._check_decodes()
        return decoded(self.encoder, codes, self.manifest.encoder.input.shape, self._culprit)

    def reconstruct(self, images: Images) -> Rebuilt:
        """Images (n, h, w, c) through the code and back, 0..1. Raises RequestError for an encoder without a decoder."""
        self._check_decodes()
        return self.decode(self.encode(images))

    def compress(self, images: Images, bits: int = 8) -> bytes:
        """Images (n, h, w, c) as a container of their codes, each number in 2 to 8 bits before entropy coding.

        See `simrec.compression`. Raises RequestError for other bits and for an encoder without a decoder.
        """
        from simrec.compression import BITS, LARGEST, Container

        if bits not in BITS:
            raise RequestError(f"{bits} bits a number: there is {BITS[0]} to {BITS[-1]}")
        if images.size > LARGEST:
            raise RequestError(f"{len(images):,} pictures are too many for one container: compress them in parts")
        model, record = self.code_model, self.manifest.encoder
        words = model.encoded(model.levels(self.encode(images), bits), bits)
        if len(images) > model.most(len(words), bits):
            raise RequestError(f"{len(images):,} pictures are too much alike for one container: compress them in parts")
        return Container(bits, record.dim, record.input.shape, len(images), record.digest, words).to_bytes()

    def decompress(self, data: bytes, name: str = "the container") -> Images:
        """The pictures (n, h, w, c) of what `compress` gave; name: what to call it in an error.

        Raises DataError when it is cut short, altered, or another encoder's.
        """
        from simrec.compression import LARGEST, Container
        from simrec.images import rounded

        container, record = Container.from_bytes(data, name), self.manifest.encoder
        if container.digest != record.digest:
            raise DataError(
                f"{name}: its codes are of encoder {container.digest[:12]}, but {self.name} holds {record.title}: "
                f"name the recommender that made it with --index"
            )
        if (container.dim, container.shape) != (record.dim, record.input.shape):
            raise DataError(
                f"{name}: its codes of {container.dim} numbers, for pictures of {container.shape}, are not what "
                f"{record.title} writes: compress the pictures again"
            )
        if container.count * prod(container.shape) > LARGEST:
            raise DataError(f"{name}: says that it holds {container.count:,} pictures, more than simrec puts into one")
        try:
            levels = self.code_model.decoded(container.words, container.count, container.bits)
        except ValueError as error:
            raise DataError(f"{name}: cannot be decoded ({error}): compress the pictures again") from error
        images = np.empty((len(levels), *container.shape), np.uint8)
        for start in range(0, len(levels), BATCH):
            part = slice(start, start + BATCH)
            images[part] = rounded(self.decode(self.code_model.codes(levels[part], container.bits)))
        return images

    def generate(self, n: int, seed: int = 0) -> Rebuilt:
        """n new pictures (n, h, w, c) in 0..1, the same for the same seed, from codes drawn from `prior`."""
        return self.decode(self.prior.sample(n, seed))

    def between(self, first: Images, last: Images, n: int) -> Rebuilt:
        """n pictures (n, h, w, c) in 0..1 on the way from one image (1, h, w, c) to another, their own codes' included.

        Raises RequestError for an encoder without a decoder.
        """
        self._check_decodes()
        start, end = self.encode(np.concatenate([first, last]))
        return self.decode(start + np.linspace(0, 1, n, dtype=np.float32)[:, np.newaxis] * (end - start))

    def around(self, image: Images, n: int, spread: float = 0.5, seed: int = 0) -> Rebuilt:
        """n variations (n, h, w, c) in 0..1 of an image (1, h, w, c); spread: how far; 1: as far as `prior` goes."""
        return self.decode(self.prior.around(self.encode(image)[0], n, spread, seed))

    @cached_property
    def prior(self) -> Mixture:
        """What new codes are drawn from: the standard normal for a variational encoder, else a mixture fitted to codes.

        Raises RequestError for an encoder that cannot draw.
        """
        from simrec.generation import Mixture

        with self._learned_of_codes("prior.npz") as data:
            return Mixture.from_bytes(data, self.manifest.encoder.dim)

    @cached_property
    def code_model(self) -> CodeModel:
        """What codes are quantised and entropy-coded with. Raises RequestError for an encoder that cannot compress."""
        from simrec.compression import CodeModel

        with self._learned_of_codes("code_model.npz") as data:
            return CodeModel.from_bytes(data, self.manifest.encoder.dim)

    def pictures(self, source: str, data_dir: Path | None = None, notice: Notice = silent) -> Pictures:
        """A source, loaded the way this encoder is fed."""
        return load(source, self.manifest.encoder.input, data_dir=data_dir, notice=notice)

    def examples(self, n: int) -> Pictures:
        """n pictures, or as many as there are, to show what the encoder does with them, one of each class in turn.

        They are test pictures of what it was trained on; without a test split, items of the catalogue. Raises
        RequestError when there are neither.
        """
        trained_on = self.manifest.encoder.trained_on
        test = test_split(trained_on.source) if trained_on.test == "" else trained_on.test
        if test:
            pictures = self.pictures(test)
        elif self.manifest.catalogue:
            items = list(self.catalogue.all())
            ids, sources, labels = zip(*((item.id, item.source, item.label) for item in items), strict=True)
            pictures = Pictures(self.name, self.catalogue.thumbnails(), ids, sources, labels)
        else:
            raise RequestError(f"{self.name} has neither test pictures nor a catalogue: name a picture")
        seen: Counter[str] = Counter()
        turns = []
        for row, label in enumerate(pictures.labels):
            turns.append((seen[label], label, row))
            seen[label] += 1
        return pictures.rows([row for _, _, row in sorted(turns)[:n]])

    def describe(self) -> dict[str, Any]:
        """What `index show` says, as JSON values."""
        size = sum(file.size for file in self.manifest.files.values())
        described = {
            "name": self.name,
            "folder": str(self.folder.absolute()),
            "generation": self.generation.folder.name,
            "bytes": size,
            **self.manifest.to_json(),
        }
        del described["files"]
        return described

    @contextmanager
    def _learned_of_codes(self, file: str) -> Iterator[bytes]:
        """A file that training wrote of how codes are distributed, to be read in the block."""
        self._check_decodes()
        if f"encoder/{file}" not in self.manifest.files:
            raise RequestError(f"{self.name}: it was trained by an older simrec, which saved no {file}: train it again")
        with self._checking(f"encoder/{file}") as data:
            yield data

    @contextmanager
    def _checking(self, file: str) -> Iterator[bytes]:
        """A file's contents, to be read in the block. Raises StoreError, naming it, where that raises a ValueError."""
        data = self.generation.read(file)
        try:
            yield data
        except ValueError as error:
            raise self.generation.damaged(file, str(error)) from error

    def _check_decodes(self) -> None:
        if not self.manifest.encoder.decodes:
            raise RequestError(f"{self.name}: its encoder {self.manifest.encoder.title} has no decoder: use another")

    def _record(self) -> CatalogueRecord:
        if self.manifest.catalogue is None:
            raise RequestError(f"{self.name} has no catalogue yet: run 'simrec index build {self.name}'")
        return self.manifest.catalogue
