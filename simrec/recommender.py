"""The verbs, as a Python API; the command line and every other face call only these.

A `Recommender` is opened to be asked; `train` and `build` make one. Nothing here imports torch: training imports the
one plugin it needs, and all else runs on ONNX Runtime unless the encoder could not be exported.
"""

from __future__ import annotations

import json
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from simrec import datasets, home, store
from simrec.arrays import from_npy, to_npy
from simrec.catalogue import Catalogue, Item
from simrec.catalogue import write as write_catalogue
from simrec.contracts import Codes, Dtype, History, Images, Notice, Pictures, Progress, Rebuilt
from simrec.errors import DataError, PluginError, RequestError, StoreError, TrainingError
from simrec.faults import blamed_on, decoded, encoded
from simrec.manifest import CatalogueRecord, EncoderRecord, Manifest, Results, TrainedOn, file_name
from simrec.onnx_encoder import OnnxEncoder
from simrec.onnx_graph import check as check_graph

if TYPE_CHECKING:
    from simrec.compression import CodeModel
    from simrec.contracts import EncoderSpec
    from simrec.evaluation import Exam
    from simrec.generation import Mixture
    from simrec.host import Offer
    from simrec.index import Index

LIBRARIES = ("simrec", "numpy", "faiss-cpu", "onnxruntime", "Pillow", "torch", "onnx", "onnxscript")

SAMPLE = 10_000
"""Training pictures, about, whose codes tell how the encoder's codes are distributed."""

BATCH = 4096
"""Pictures that are encoded or decoded between two reports of progress."""

HELD_OUT = 10
"""Of a source without a test split, every tenth picture is kept from the training to validate it."""


def _silent(*_: Any) -> None:
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
    """A picture to look up, (1, h, w, c), and the rows that are that very item."""

    name: str
    images: Images
    own: frozenset[int]


class Recommender:
    """One recommender, open for asking; all its answers come from the generation that was live when it was opened."""

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

    @cached_property
    def encoder(self) -> Any:
        """The encoder: its ONNX graphs, or the plugin's own class where they could not be made."""
        record = self.manifest.encoder
        if record.runtime == "onnx":
            return OnnxEncoder(record.input, record.dim, lambda name: self.generation.read(f"encoder/{name}"))
        from simrec import host

        folder = self.generation.check_folder("encoder")
        kind = host.encoder_class(self._offer)
        with blamed_on(self._culprit):
            return kind.load(folder)

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

    def read(self, query: str | Path | BinaryIO) -> Query:
        """A query from a file, an open binary file, or "id:ITEM".

        Raises ImageError for a file that is no picture, RequestError for an id that is not in the catalogue.
        """
        from simrec import images

        if isinstance(query, str) and query.startswith("id:"):
            row = self.catalogue.row_of(query[3:])
            if row is None:
                raise RequestError(
                    f"no item {query[3:]!r} in {self.name}: 'simrec export {self.name} -o items.csv' lists the ids"
                )
            return Query(query, self.catalogue.thumbnails([row]), frozenset([row]))
        if isinstance(query, str | Path):
            picture = images.read(Path(query), self.manifest.encoder.input)
            name = str(query)
        else:
            name = "-"
            picture = images.read(query, self.manifest.encoder.input, "standard input")
        own = self.catalogue.rows_like(picture[0]) if self.manifest.catalogue else []
        return Query(name, picture, frozenset(own))

    def similar(self, query: str | Path | BinaryIO | Query, n: int = 10) -> list[Match]:
        """The n items most similar to a picture, best first, without that item itself.

        Raises RequestError when nothing was indexed yet, and what `read` raises.
        """
        asked = query if isinstance(query, Query) else self.read(query)
        rows, distances = self.index.search(self.encode(asked.images), n + len(asked.own))
        near = [(int(r), d) for r, d in zip(rows[0], distances[0], strict=True) if int(r) not in asked.own][:n]
        items = self.catalogue.items([row for row, _ in near])
        found = self.index.scores(np.array([d for _, d in near], np.float32))
        return [
            Match(asked.name, rank, item.id, float(score), float(distance), item.label, item.source)
            for rank, (item, score, (_, distance)) in enumerate(zip(items, found, near, strict=True), 1)
        ]

    def thumbnails(self, matches: Sequence[Match]) -> Images:
        """What the encoder saw of those items, (n, h, w, c)."""
        rows = [self.catalogue.row_of(match.id) for match in matches]
        return self.catalogue.thumbnails([row for row in rows if row is not None])

    def encode(self, images: Images, progress: Callable[[int], None] = _silent) -> Codes:
        """Images (n, h, w, c), as the encoder's input says, to codes (n, dim). progress: told how many are done.

        Raises PluginError, naming the encoder, when it gives anything but finite float32 codes of that shape.
        """
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

    def pictures(self, source: str, data_dir: Path | None = None, notice: Notice = _silent) -> Pictures:
        """A source, loaded the way this encoder is fed."""
        return datasets.load(source, self.manifest.encoder.input, data_dir=data_dir, notice=notice)

    def examples(self, n: int) -> Pictures:
        """n pictures, or as many as there are, to show what the encoder does with them, one of each class in turn.

        They are test pictures of what it was trained on; without a test split, items of the catalogue. Raises
        RequestError when there are neither.
        """
        trained_on = self.manifest.encoder.trained_on
        test = datasets.test_split(trained_on.source) if trained_on.test == "" else trained_on.test
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

    def export(self, path: Path) -> list[Path]:
        """Writes the catalogue's codes with ids and labels to .npy, .parquet or .csv; returns the files."""
        from simrec import exports

        return exports.write(path, self.codes, list(self.catalogue.all()), self.manifest.encoder.title)

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


def open(name: str | None = None, home_folder: Path | None = None) -> Recommender:  # noqa: A001
    """Opens a recommender by name or path; without one, the user's only one, else the shipped `demo`.

    Raises RequestError when there is none of that name, StoreError when it is damaged or newer than this simrec.
    """
    place = home_folder or home.default()
    if name is None:
        name = default_name(place)
    return Recommender(home.find(name, place))


def maker_of(data: bytes, name: str, home_folder: Path | None = None) -> Recommender:
    """The recommender whose encoder made a container of codes; name: what to call the container in an error.

    Raises DataError when there is none, or when it is no container.
    """
    from simrec.compression import Container

    digest = Container.from_bytes(data, name).digest
    for recommender in listing(home_folder, _silent):
        if recommender.manifest.encoder.digest == digest:
            return recommender
    raise DataError(
        f"{name}: its codes are of encoder {digest[:12]}, which no recommender here holds: "
        f"bring the recommender that made it and name it with --index"
    )


def default_name(place: Path) -> str:
    """The recommender meant when none is named: the only one with a catalogue in that home, else "demo"."""
    own = []
    for name in home.own(place):
        with suppress(StoreError):  # a damaged one answers nothing; naming it says why
            if store.current(place / name).manifest.catalogue:
                own.append(name)
    return own[0] if len(own) == 1 else "demo"


def train(
    encoder: str,
    *,
    name: str | None = None,
    preset: str = "default",
    changes: Mapping[str, str] | None = None,
    source: str = "fashion-mnist",
    seed: int = 0,
    device: str = "auto",
    data_dir: Path | None = None,
    home_folder: Path | None = None,
    replace_catalogue: bool = False,
    command: str = "simrec.train",
    started: Callable[[Any, Pictures], None] = _silent,
    progress: Callable[[Progress], None] = _silent,
    stop: Callable[[], bool] = lambda: False,
    notice: Notice = _silent,
) -> tuple[Recommender, History]:
    """Trains an encoder and commits it under a name (by default its own).

    changes: settings as texts. source: see `simrec.datasets`. started: called with the encoder and the pictures just
    before the first epoch. The same seed on the same machine gives the same weights.

    Raises RequestError for an encoder, preset, setting or name that cannot be, PluginError for a broken plugin,
    DataError for the source, TrainingError for the training, StoreError when it cannot be written or when the name
    has a catalogue and `replace_catalogue` is not set. Whatever is raised, what was there before still is.
    """
    from simrec import host, settings
    from simrec.compression import CodeModel, sparsity

    plugins = host.discover()
    for failure in plugins.failures:
        notice(str(failure))
    offer = plugins.encoder(encoder)
    kind = host.encoder_class(offer)
    chosen = settings.choose(kind.presets, preset, changes or {}, encoder)
    place = home_folder or home.default()
    folder = place / home.check_name(name or encoder)
    _check_replaceable(folder, replace_catalogue)
    with blamed_on(str(offer)):
        model = kind(chosen)
        spec, dim = model.input, model.dim
    pictures = datasets.load(source, spec, data_dir=data_dir, notice=notice)
    learned, held_out = _validation(pictures, spec, data_dir, notice)
    with store.Writer(folder) as writer:
        _check_replaceable(folder, replace_catalogue)  # one may have been built while the pictures were loaded
        begun = time.perf_counter()
        with blamed_on(str(offer)):  # the encoder's own summary may be shown
            started(model, learned)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with blamed_on(str(offer)):
                history = model.fit(
                    learned.images, validation=held_out.images, seed=seed, device=device, progress=progress, stop=stop
                )
                files = _saved(model, str(offer))
            if not isinstance(history, History) or not 1 <= history.kept <= len(history.epochs):
                raise PluginError(f"{offer} kept no epoch of its training: fix its fit")
            codes = encoded(model, learned.images[:: max(1, len(learned) // SAMPLE)], dim, str(offer))
        if hasattr(model, "decode"):
            files["code_model.npz"] = CodeModel.fit(codes).to_bytes()
            files["prior.npz"] = _prior(model, codes).to_bytes()
        for text in sorted({str(w.message) for w in caught if w.category is UserWarning}):
            notice(text)
        files["history.json"] = json.dumps(_history(history), indent=1).encode()
        for file, data in files.items():
            writer.write(f"encoder/{file}", data)
        record = EncoderRecord(
            name=encoder,
            provider=offer.provider,
            factory=offer.spec.factory,
            runtime="onnx" if "encoder.onnx" in files else "plugin",
            metric=offer.spec.metric,
            dim=dim,
            input=spec,
            preset=preset,
            settings=settings.to_json(chosen),
            seed=seed,
            decodes=hasattr(model, "decode"),
            digest=_digest(files, spec),
            trained_on=TrainedOn(pictures.name, len(learned), learned.digest, pictures.test),
            results=Results(
                epochs=len(history.epochs),
                kept=history.kept,
                ended=history.ended,
                loss=history.epochs[history.kept - 1].loss,
                validation_loss=history.epochs[history.kept - 1].validation_loss,
                zeros=sparsity(codes),
                seconds=round(time.perf_counter() - begun, 1),
            ),
            command=command,
        )
        writer.commit(Manifest(record, None, _now(), _libraries()))
    return Recommender(folder), history


def build(
    name: str,
    source: str | None = None,
    *,
    encoder: str | None = None,
    dtype: Dtype | None = None,
    data_dir: Path | None = None,
    home_folder: Path | None = None,
    progress: Callable[[str, int, int], None] = _silent,
    notice: Notice = _silent,
) -> Recommender:
    """Encodes a source and commits it as the catalogue of a recommender.

    source: by default the one it was built from before, else what the encoder was trained on. encoder: the recommender
    whose encoder to take, for a new one; by default the one that `name` has. dtype: how codes are kept (see
    `simrec.index`); by default as they were before, else float32. progress: told a stage ("encoding", "thumbnails"),
    how many pictures are done, and of how many.

    Raises RequestError or StoreError when the recommender is not there, is a shipped one or has another encoder;
    DataError and ImageError for the source. Whatever is raised, the catalogue before still answers.
    """
    place = home_folder or home.default()
    folder = place / home.check_name(name)
    if not store.exists(folder) and encoder is None:
        if name in home.SHIPPED:
            raise RequestError(f"{name} is shipped and read-only: 'simrec index build NEW SOURCE --encoder {name}'")
        home.find(name, place)
    origin = Recommender(home.find(encoder or name, place))
    record = origin.manifest.encoder
    before = store.current(folder).manifest if store.exists(folder) else None
    if before and before.encoder.digest != record.digest:
        raise StoreError(
            f"{folder}: has encoder {before.encoder.title}, not {record.title} of {origin.name}: choose another name"
        )
    if source is None:
        source = before.catalogue.source if before and before.catalogue else record.trained_on.source
    if dtype is None:
        dtype = before.catalogue.dtype if before and before.catalogue else "float32"
    pictures = origin.pictures(source, data_dir, notice)
    from simrec.index import Index

    with store.Writer(folder) as writer:
        codes = origin.encode(pictures.images, lambda done: progress("encoding", done, len(pictures)))
        segments = write_catalogue(writer, pictures, lambda done: progress("thumbnails", done, len(pictures)))
        progress("thumbnails", len(pictures), len(pictures))
        if dtype == "float32":  # the others are asked for because they are small
            writer.write("codes.npy", to_npy(codes))
        writer.write("index.faiss", Index(codes, record.metric, dtype).to_bytes())
        # The weights stay with the recommender that was trained: the ONNX graphs are all that answering needs.
        borrowed = record.runtime == "onnx" and origin.folder.resolve() != folder.resolve()
        needless = frozenset(["encoder/weights.safetensors"] if borrowed else [])
        writer.keep(origin.generation, "encoder/", without=needless)
        catalogue = CatalogueRecord(
            source=pictures.name,
            count=len(pictures),
            labelled=pictures.labelled,
            test=pictures.test,
            reduced=pictures.reduced,
            encoder=record.digest,
            dtype=dtype,
            segments=segments,
        )
        writer.commit(Manifest(record, catalogue, _now(), _libraries()))
    return Recommender(folder)


@dataclass(frozen=True)
class Evaluation:
    """Figures of a recommender and of the baselines beside it.

    how: "test" (the test split's pictures as queries), "leave-one-out" or "reconstruction" (no labels). rows: a
    name, the numbers and bytes of a code, and figures by name (see `simrec.evaluation.Exam.figures`); the
    recommender's own row is first, those of raw pixels and, where its plugin is there, of PCA are last. stress: for
    each perturbation of the queries a "name" and P@10 by row name, "as they are" first; empty unless asked for.
    """

    name: str
    encoder: str
    how: str
    queries: int
    catalogue: int
    reduced: bool
    rows: tuple[dict[str, Any], ...]
    stress: tuple[dict[str, Any], ...]

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def evaluate(
    recommender: Recommender,
    *,
    stress: bool = False,
    noise: float | None = None,
    data_dir: Path | None = None,
    notice: Notice = _silent,
) -> Evaluation:
    """How well a recommender finds items of the query's class, beside raw pixels and PCA of the same dimension.

    The queries are its test split, else its own catalogue, each item left out of its own answer. stress: ask again
    with the queries perturbed, noise: and with that share of their pixels wrong (see `simrec.perturbations`). Raises
    what `Recommender.pictures` raises for the test split, RequestError for a share that is not in 0..1.
    """
    from simrec import evaluation as figures
    from simrec.compression import sparsity
    from simrec.index import BITS, Index

    record, catalogue = recommender.manifest.encoder, recommender._record()
    changes = _perturbations(stress, noise)
    images = recommender.catalogue.thumbnails()
    how, asked, exam = _exam(recommender, images, data_dir, notice)

    def row(name: str, index: Index, queries: Codes, size: int, *, clusters: bool = True) -> dict[str, Any]:
        described = {"name": name, "numbers": queries.shape[1], "bytes": size}
        if how == "reconstruction":
            return described
        nmi = {"NMI": exam.clustering(index)} if clusters else {}
        return {**described, **exam.figures(index, queries), **nmi}

    queries, codes = recommender.encode(asked), recommender.codes
    sizes = {"float32": 4 * record.dim, "int8": record.dim, "binary": BITS // 8}
    smaller: tuple[Dtype, ...] = ("int8", "binary") if catalogue.dtype == "float32" else ()
    raw = Index(figures.pixels(images), "cosine")
    pixels = row("raw pixels", raw, figures.pixels(asked), images[0].size)
    rows = [
        row(recommender.name, recommender.index, queries, sizes[catalogue.dtype]),
        *(row(f"  as {d}", Index(codes, record.metric, d), queries, sizes[d], clusters=False) for d in smaller),
        pixels,
    ]
    rebuilt = recommender.decode(queries) if record.decodes else None
    rows[0]["MSE"] = None if rebuilt is None else float(figures.squared_errors(rebuilt, asked).mean())
    rows[0]["zeros"] = sparsity(queries)
    rows[0]["ms"] = milliseconds(lambda image: recommender.index.search(recommender.encode(image), 10), asked)
    pixels["MSE"] = 0.0
    try:
        pca, metric = figures.principal_components(images, record.dim)
    except (PluginError, TrainingError) as error:
        notice(f"PCA is left out: {error}")
    else:
        components = pca.encode(asked)
        rows.append(row("PCA", Index(pca.encode(images), metric), components, components[0].nbytes))
        rows[-1]["MSE"] = float(figures.squared_errors(pca.decode(components), asked).mean())

    stressed = []
    if changes and how != "reconstruction":
        clean = {"name": "as they are", recommender.name: rows[0]["P@10"], "raw pixels": pixels["P@10"]}
        stressed = [clean, *_stressed(recommender, raw, asked, exam, changes)]
    return Evaluation(
        recommender.name, record.title, how, len(asked), len(images), catalogue.reduced, tuple(rows), tuple(stressed)
    )


def rates(
    recommender: Recommender, images: Images, progress: Callable[[str, int, int], None] = _silent
) -> list[dict[str, Any]]:
    """What compressing images (n, h, w, c) costs and loses, with 2 to 8 bits a number and in common picture formats.

    Each row has a "name", the "bits" of a picture (the container's, divided by n) and the "MSE" of its pixels in 0..1.
    progress: told a name, how many pictures are done, and of how many. Raises what `Recommender.compress` raises.
    """
    from simrec.compression import BITS, picture_formats
    from simrec.evaluation import squared_errors

    rows: list[dict[str, Any]] = []
    for bits in BITS:
        data = recommender.compress(images, bits)
        rebuilt = recommender.decompress(data).astype(np.float32) / np.float32(255)
        error = float(squared_errors(rebuilt, images).mean())
        rows.append({"name": f"simrec, {bits} bits", "bits": 8 * len(data) / len(images), "MSE": error})
        progress("compressing", bits - BITS[0] + 1, len(BITS))
    return rows + picture_formats(images, lambda name, done: progress(name, done, len(images)))


def denoising(recommender: Recommender, images: Images, share: float, seed: int = 0) -> list[dict[str, Any]]:
    """How well noise is cleaned from images (n, h, w, c): rows with a "name" and the "PSNR" in decibels.

    share: of the pixels that are wrong (see `simrec.perturbations.noisy`). The rows: the noisy pictures, the
    recommender's reconstructions of them, and what filters make of them. PSNR is of the mean squared error of all.
    Raises RequestError for an encoder without a decoder.
    """
    from simrec import evaluation
    from simrec.perturbations import noisy

    wrong = noisy(images, share, seed)
    cleaned = {"noisy": evaluation.pixels(wrong), recommender.name: recommender.reconstruct(wrong)}
    return [
        {"name": name, "PSNR": float(evaluation.signal_to_noise(evaluation.squared_errors(pictures, images).mean()))}
        for name, pictures in (cleaned | evaluation.filtered(wrong)).items()
    ]


def generation(
    recommender: Recommender, n: int = 10_000, seed: int = 0, *, data_dir: Path | None = None, notice: Notice = _silent
) -> list[dict[str, Any]]:
    """How good n drawn pictures are: rows with a "name", "precision" and "recall", and "-ELBO" where there is one.

    Precision and recall (see `simrec.evaluation.precision_and_recall`) are beside test pictures, in a space that is no
    encoder's own: 64 principal components of the train pixels. Beside the recommender: a normal distribution of as many
    principal components as its codes have numbers. -ELBO in nats a test picture. Raises DataError when the train
    pictures cannot be had, RequestError when there are no test pictures or the encoder cannot draw, PluginError where
    the encoder `pca` is missing.
    """
    from simrec import evaluation
    from simrec.generation import Mixture
    from simrec.images import rounded

    record = recommender.manifest.encoder
    test = recommender.examples(n).images
    train = recommender.pictures(record.trained_on.source, data_dir, notice).images
    (space, _), (pca, _) = (evaluation.principal_components(train, dim) for dim in (64, record.dim))
    drawn = {
        recommender.name: recommender.generate(n, seed),
        "PCA + normal": pca.decode(Mixture.normal(pca.encode(train)).sample(n, seed)),
    }
    rows = []
    for name, samples in drawn.items():
        features = space.encode(rounded(samples))
        precision, recall = evaluation.precision_and_recall(features, space.encode(test))
        rows.append({"name": name, "precision": precision, "recall": recall, "-ELBO": None})
    if getattr(recommender.encoder, "variational", False):
        rows[0]["-ELBO"] = evaluation.negative_elbo(recommender.encoder, test, seed)
    return rows


def listing(
    home_folder: Path | None = None, unreadable: Callable[[StoreError], None] | None = None
) -> list[Recommender]:
    """The user's recommenders, then the shipped ones of other names.

    unreadable: told of each that is damaged or newer than this simrec; without it the first one is raised.
    """
    place = home_folder or home.default()
    own = home.names(place)
    shipped = [name for name in home.names(home.shipped()) if name not in own]
    opened = []
    for folder in [*(place / name for name in own), *(home.shipped() / name for name in shipped)]:
        try:
            opened.append(Recommender(folder))
        except StoreError as error:
            if unreadable is None:
                raise
            unreadable(error)
    return opened


def milliseconds(look_up: Callable[[Images], object], images: Images, repeats: int = 200) -> float:
    """The median time of looking up one of images (n, h, w, c), in a process that is warm."""
    times = []
    for row in range(min(len(images), repeats + 10)):
        begun = time.perf_counter()
        look_up(images[row : row + 1])
        times.append(time.perf_counter() - begun)
    return float(np.median(times[10:] or times) * 1000)


def _check_replaceable(folder: Path, replace_catalogue: bool) -> None:
    if store.exists(folder) and store.current(folder).manifest.catalogue and not replace_catalogue:
        raise StoreError(
            f"{folder}: has a catalogue, which another encoder could not answer for: add --replace, or --name"
        )


def _validation(pictures: Pictures, spec: Any, data_dir: Path | None, notice: Notice) -> tuple[Pictures, Pictures]:
    """What to learn from, and what to validate on: the test split, else every tenth picture, kept from learning."""
    if pictures.test:
        return pictures, datasets.load(pictures.test, spec, data_dir=data_dir, notice=notice)
    rows = np.arange(len(pictures)) % HELD_OUT == HELD_OUT - 1
    if len(pictures) < HELD_OUT:
        raise DataError(f"{pictures.name}: {len(pictures)} pictures are too few to train on: give at least {HELD_OUT}")
    return pictures.where(~rows), pictures.where(rows)


def _saved(model: Any, culprit: str) -> dict[str, bytes]:
    """What the encoder saves into a folder of its own, of which it may know nothing but the path.

    Raises PluginError, naming the culprit, for what nobody would open again: odd names, graphs that simrec doesn't run.
    """
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder))
        files = {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(Path(folder).rglob("*"))
            if path.is_file()
        }
    for name, data in files.items():
        if not file_name(f"encoder/{name}"):
            raise PluginError(f"{culprit} saved a file {name!r}: call it by letters, digits, '.', '_' and '-'")
        if name in ("encoder.onnx", "decoder.onnx"):
            try:
                check_graph(data)
            except ValueError as error:
                raise PluginError(f"{culprit} saved a graph {name} that simrec doesn't run: {error}") from error
    return files


def _prior(model: Any, codes: Codes) -> Mixture:
    """What new codes of an encoder are drawn from; codes (n, dim): those of training pictures."""
    from simrec.generation import Mixture

    return Mixture.standard_normal(model.dim) if getattr(model, "variational", False) else Mixture.fit(codes)


def _digest(files: Mapping[str, bytes], spec: Any) -> str:
    """Of an encoder: what it computes (not how its training went) and how pictures are prepared for it."""
    parts = [f"{name} {sha256(data).hexdigest()}" for name, data in sorted(files.items()) if name != "history.json"]
    return sha256("\n".join([*parts, json.dumps(asdict(spec), sort_keys=True)]).encode()).hexdigest()


def _history(history: History) -> dict[str, Any]:
    epochs = [{**asdict(epoch), "parts": dict(epoch.parts)} for epoch in history.epochs]
    return {"kept": history.kept, "ended": history.ended, "epochs": epochs}


def _exam(recommender: Recommender, images: Images, data_dir: Path | None, notice: Notice) -> tuple[str, Images, Exam]:
    """How a catalogue of those images is evaluated, the queries, and what is asked."""
    from simrec.evaluation import Exam

    record, labels = recommender._record(), [item.label for item in recommender.catalogue.all()]
    how, asked, asked_labels = "leave-one-out", images, labels
    if record.test and record.labelled:
        test = recommender.pictures(record.test, data_dir, notice)
        how, asked, asked_labels = "test", test.images, list(test.labels)
    elif not record.labelled or len(images) < 2:
        how = "reconstruction"
    return how, asked, Exam.of_labels(asked_labels, labels, leave_one_out=how == "leave-one-out")


def _perturbations(stress: bool, noise: float | None) -> dict[str, Callable[[Images], Images]]:
    """Those asked for, by name."""
    from simrec.perturbations import PERTURBATIONS, check_share, noisy

    changes = dict(PERTURBATIONS) if stress else {}
    if noise is not None:
        check_share(noise)
        changes[f"noise on {noise:.0%} of the pixels"] = lambda images: noisy(images, noise)
    return changes


def _stressed(
    recommender: Recommender, raw: Index, asked: Images, exam: Exam,
    changes: Mapping[str, Callable[[Images], Images]],
) -> list[dict[str, Any]]:  # fmt: skip
    """P@10 of queries changed so, those of the recommender and of raw pixels."""
    from simrec.evaluation import pixels

    rows = []
    for name, change in changes.items():
        queries = change(asked)
        mine = exam.figures(recommender.index, recommender.encode(queries))
        theirs = exam.figures(raw, pixels(queries))
        rows.append({"name": name, recommender.name: mine["P@10"], "raw pixels": theirs["P@10"]})
    return rows


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _libraries() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # a host that only looks things up has no torch
            continue
    return found


__all__ = [
    "Evaluation", "Item", "Match", "Query", "Recommender", "build", "default_name", "denoising", "evaluate",
    "generation", "listing", "maker_of", "milliseconds", "open", "rates", "train",
]  # fmt: skip
