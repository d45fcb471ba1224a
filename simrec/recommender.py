"""An open recommender: one encoder and one catalogue.

Nothing here imports torch: everything runs on ONNX Runtime, unless the encoder could not be exported.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from copy import copy
from dataclasses import replace
from functools import cached_property, partial
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, Unpack, cast, overload

import numpy as np

from simrec import store
from simrec.answers import Narrowing, Wishes, answers
from simrec.catalogue import Catalogue, LocalCatalogue
from simrec.contracts import Codes, Entry, FittedEncoder, Images, Item, Notice, Rebuilt
from simrec.display import Display
from simrec.errors import DataError, ImageError, PluginError, RequestError, SimrecError, StoreError, quantity
from simrec.faults import blamed_on, decoded, encoded
from simrec.files import PathText
from simrec.home import databases, default, home_of, roots
from simrec.manifest import CatalogueRecord, Manifest, SourceRecord
from simrec.onnx_encoder import OnnxEncoder
from simrec.queries import SHOWN, Match, Query, QueryLike, Reader, combined, no_catalogue
from simrec.reports import Answer
from simrec.streams import ahead, chunks, turns

if TYPE_CHECKING:
    from simrec.compression import CodeModel
    from simrec.contracts import EncoderSpec
    from simrec.generation import Mixture
    from simrec.host import Offer
    from simrec.images import Crop
    from simrec.index import Searchable
    from simrec.sources.load import Pictures

BATCH = 4096
"""How many pictures are encoded or decoded between two reports of progress."""

TOGETHER = 1 << 10
"""Maximum number of queries that are answered at a time, while the next ones are read and encoded."""

SECONDS = 1.0
"""How long a source's queries are collected before they are answered: FAISS is much faster with many at a time."""

LARGEST_ANSWER = 1 << 20
"""About how many items the answers to these queries have together."""


def silent(*_: Any) -> None:
    """The default for progress and notices."""


class _State:
    """One generation and what has been opened of it. home: knows which databases are the user's own."""

    def __init__(self, generation: store.Generation, home: Path | None) -> None:
        self.generation, self.home = generation, home
        self.manifest: Manifest = generation.manifest
        self.name = generation.recommender.name
        record, catalogue = self.manifest.encoder, self.manifest.catalogue
        if not any(name.startswith(f"{record.folder}/") for name in self.manifest.files):
            raise StoreError(f"{generation.recommender}: its manifest lists no file of its encoder: {store.COPY}")
        if catalogue and catalogue.encoder != record.digest:
            raise StoreError(
                f"{generation.recommender}: its codes are from encoder {catalogue.encoder[:12]}, but it has "
                f"{record.title}: 'simrec index build {self.name} --from-scratch' makes them again"
            )

    def hold(self) -> None:
        """Opens what couldn't be opened later, when another generation has replaced this one."""
        if self.manifest.catalogue and not self.manifest.catalogue.engine:
            try:
                self.catalogue.hold()
            except StoreError:  # raised again when the catalogue is used
                self.__dict__.pop("catalogue", None)

    @cached_property
    def encoder(self) -> FittedEncoder:
        record = self.manifest.encoder
        if record.runtime == "onnx":
            return OnnxEncoder(record.input, record.dim, self.encoder_reader())
        from simrec import host

        folder = self.generation.check_folder(record.folder)
        kind = host.encoder_class(self._offer)
        with blamed_on(self.culprit):
            fitted: FittedEncoder = kind.load(folder)
            return fitted

    def encoder_reader(self) -> Callable[[str], bytes]:
        """Gives the bytes of the encoder's files by name.

        It doesn't refer to this object, which keeps the encoder: files close when nothing refers to them any more.
        """
        generation, folder = self.generation, self.manifest.encoder.folder
        return lambda name: generation.read(f"{folder}/{name}")

    @cached_property
    def _offer(self) -> Offer[EncoderSpec]:
        """The plugin that its encoder is from: the distribution it was trained with and no other."""
        from simrec import host
        from simrec.contracts import EncoderSpec

        record = self.manifest.encoder
        distribution = record.provider.split()[0]
        try:
            return host.discover_only(distribution).find(EncoderSpec, record.name)
        except PluginError as error:
            raise PluginError(
                f"{self.name}: its encoder is {record.name!r} of {record.provider}: {error}: install {distribution}"
            ) from error

    @property
    def provider(self) -> str:
        """The distribution that encodes ("name version"): the one it was trained with, or its plugin as installed now.

        Raises PluginError if the encoder runs in its plugin, which isn't there.
        """
        record = self.manifest.encoder
        return record.provider if record.runtime == "onnx" else self._offer.provider

    @property
    def culprit(self) -> str:
        """What to name in an error about wrong codes: the encoder or its plugin."""
        record = self.manifest.encoder
        return f"encoder {record.title}" if record.runtime == "onnx" else str(self._offer)

    @property
    def record(self) -> CatalogueRecord:
        """The manifest's record of the catalogue. Raises RequestError if there is no catalogue yet."""
        if self.manifest.catalogue is None:
            raise no_catalogue(self.name)
        return self.manifest.catalogue

    @property
    def only_computes(self) -> bool:
        """Whether a look-up waits for no database and no plugin's encoder."""
        return not self.record.engine and self.manifest.encoder.runtime == "onnx"

    @cached_property
    def catalogue(self) -> Catalogue:
        if not self.record.engine:
            return LocalCatalogue(self.generation)
        from simrec.catalogue import remote

        home = self.home or default()
        if self.record.engine not in databases(home):  # the recommender may come from a stranger, who chose the address
            raise RequestError(
                f"{self.name}: its items are in {self.record.engine}, which you haven't named yet: if it is yours, run "
                f"'simrec index connect {self.name} {self.record.engine}'"
            )
        engine = remote.opened(self.record.engine, silent)
        return remote.RemoteCatalogue(self.name, self.record, self.manifest.encoder, engine)

    def close(self) -> None:
        """Closes the connections to a database, if there are any."""
        catalogue = self.__dict__.get("catalogue")
        if catalogue is not None and not isinstance(catalogue, LocalCatalogue):
            catalogue.engine.close()

    @property
    def reader(self) -> Reader:
        """Reads queries for this generation."""
        catalogue = self.catalogue if self.manifest.catalogue else None
        return Reader(self.name, self.manifest.encoder, catalogue, self.home)

    def encode(self, images: Images, progress: Callable[[int], None] = silent) -> Codes:
        dim = self.manifest.encoder.dim
        out = np.empty((len(images), dim), np.float32)
        for start in range(0, len(images), BATCH):
            out[start : start + BATCH] = encoded(self.encoder, images[start : start + BATCH], dim, self.culprit)
            progress(min(start + BATCH, len(images)))
        return out

    def decode(self, codes: Codes) -> Rebuilt:
        self.check_decodes()
        return decoded(self.encoder, codes, self.manifest.encoder.input.shape, self.culprit)

    @cached_property
    def prior(self) -> Mixture:
        from simrec.generation import Mixture

        with self._learned_of_codes("prior.npz") as data:
            return Mixture.from_bytes(data, self.manifest.encoder.dim)

    @cached_property
    def code_model(self) -> CodeModel:
        from simrec.compression import CodeModel

        with self._learned_of_codes("code_model.npz") as data:
            return CodeModel.from_bytes(data, self.manifest.encoder.dim)

    @contextmanager
    def _learned_of_codes(self, file: str) -> Iterator[bytes]:
        """The bytes of a file that training wrote about the distribution of codes, to be parsed in the block."""
        self.check_decodes()
        name = f"{self.manifest.encoder.folder}/{file}"
        if name not in self.manifest.files:
            raise RequestError(f"{self.name}: it was trained by an older simrec, which saved no {file}: train it again")
        data = self.generation.read(name)
        try:
            yield data
        except ValueError as error:
            raise self.generation.damaged(name, str(error)) from error

    def check_decodes(self) -> None:
        """Raises RequestError for an encoder without a decoder."""
        if not self.manifest.encoder.decodes:
            raise RequestError(f"{self.name}: its encoder {self.manifest.encoder.title} has no decoder: use another")


class Recommender:
    """An open recommender. Any number of threads may use it.

    All its answers come from the generation that was live when it was opened or last refreshed, whatever is built
    meanwhile.

    hold: whether to open its files now, or when they are first needed, which fails once a newer generation has replaced
    them. home: knows which databases are the user's own, by default the user's home.

    A pickled one opens its folder again where it is unpickled, and answers from the generation that is live then.
    """

    def __init__(self, folder: PathText, *, hold: bool = True, home: PathText | None = None) -> None:
        self.folder = Path(folder)
        self.name = self.folder.name
        self._home = None if home is None else home_of(home)
        self._now = self._live(hold=hold)

    def __repr__(self) -> str:
        catalogue = self.manifest.catalogue
        items = quantity(catalogue.count, "item") if catalogue else "no catalogue"
        return f"<Recommender {self.name}: {items}, encoder {self.manifest.encoder.title}>"

    def __reduce__(self) -> tuple[Any, ...]:
        opened = partial(type(self), home=self._home and self._home.absolute())
        return opened, (self.folder.absolute(),)

    def __copy__(self) -> Self:
        other = self.__class__.__new__(self.__class__)
        other.__dict__.update(self.__dict__)
        return other

    def _live(self, *, hold: bool) -> _State:
        state = _State(store.current(self.folder, hold=hold), self._home)
        if hold:
            state.hold()
        return state

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Closes its files; further use opens them again, as long as they exist.

        What other threads have begun to look up goes on, and files stay open until that is done; so do the files of a
        `catalogue`, an `index` or `codes` that you keep.
        """
        before, generation = self._now, self._now.generation
        self._now = _State(store.Generation(self.folder, generation.name, generation.manifest), self._home)
        before.close()

    def with_sources(self, sources: tuple[SourceRecord, ...]) -> Self:
        """The same recommender with other sources in its manifest, such as moved folders: see `index.sync`."""
        generation, record = self._now.generation, self._now.record
        manifest = replace(generation.manifest, catalogue=replace(record, sources=sources))
        other = self.__class__.__new__(self.__class__)
        other.name, other.folder, other._home = self.name, self.folder, self._home
        other._now = _State(store.Generation(self.folder, generation.name, manifest), self._home)
        other._now.generation.hold()
        return other

    def pinned(self) -> Self:
        """The same recommender, which stays with the current generation when this one is refreshed.

        It costs nothing: use it for whatever takes several steps, such as encoding first and looking up later.
        """
        return copy(self)

    def refresh(self) -> bool:
        """Answers from the newest generation from now on; returns whether there was a newer one.

        If there is none, it only reads a small file. Answers that other threads are working on come from the generation
        they began with. Raises StoreError if the newest one can't be read; the one before goes on answering.
        """
        before = self._now
        if store.current_name(self.folder) == before.generation.name:
            return False
        now = self._live(hold=True)
        same = (before.manifest.encoder.digest, before.manifest.encoder.folder)
        if (now.manifest.encoder.digest, now.manifest.encoder.folder) == same and "encoder" in before.__dict__:
            now.__dict__["encoder"] = before.encoder
            if isinstance(before.encoder, OnnxEncoder):  # else it would keep the files of the generation before open
                before.encoder.read = now.encoder_reader()
        self._now = now
        return True

    @property
    def generation(self) -> store.Generation:
        """The generation that answers."""
        return self._now.generation

    @property
    def manifest(self) -> Manifest:
        """That generation's manifest."""
        return self._now.manifest

    @property
    def encoder(self) -> FittedEncoder:
        """The encoder: its ONNX graphs, or the plugin's own class if it has none."""
        return self._now.encoder

    @property
    def provider(self) -> str:
        """The distribution that encodes ("name version"): the one it was trained with or, without ONNX graphs, its
        plugin as installed now. Raises PluginError if that isn't there.
        """
        return self._now.provider

    @property
    def upgraded(self) -> str:
        """A sentence about its plugin, if that encodes and has another version than in the manifest; else ""."""
        before, now = self.manifest.encoder.provider, ""
        with suppress(PluginError):  # raised when the encoder is used
            now = self.provider
        if now in ("", before):
            return ""
        return (
            f"{self.name}: its codes were made by {before}, and {now} is installed: if it encodes differently, answers "
            f"to pictures are wrong until 'simrec index build {self.name} --from-scratch'."
        )

    @property
    def catalogue(self) -> Catalogue:
        """Its items. Raises RequestError if there is no catalogue yet."""
        return self._now.catalogue

    @property
    def segments(self) -> LocalCatalogue:
        """Its items if they are in its own files. Raises RequestError if they are in a database."""
        catalogue = self._now.catalogue
        if not isinstance(catalogue, LocalCatalogue):
            raise RequestError(
                f"{self.name}: its items are in {catalogue.record.engine}: "
                f"'simrec index pull {self.name} --as OTHER' brings them here first"
            )
        return catalogue

    @property
    def index(self) -> Searchable:
        """An index of its codes, by row. Raises RequestError if there is no catalogue yet."""
        return self._now.catalogue.index

    @property
    def codes(self) -> Codes:
        """The catalogue's codes (n, dim), rows in catalogue order, as far as its dtype keeps them; read-only.

        They are mapped into memory if the catalogue has one segment, dtype float32 and the metric l2. For cosine,
        `index.codes` is mapped: the codes divided by their lengths.

        Raises RequestError if there is no catalogue yet.
        """
        return self._now.catalogue.codes

    def to_arrow(self, where: str | None = None) -> Any:
        """The catalogue as a pyarrow.Table in memory, one row per item in catalogue order.

        Its columns are `id`, `label` and `source`, the items' fields (int64, double or string) and `code`, a fixed-size
        list of float32, as the encoder gave it. A field with the name of another column is called field_NAME. where:
        only items that match this filter.

        Raises RequestError if there is no catalogue yet, and for an invalid filter.
        """
        import pyarrow as pa

        from simrec.catalogue import tables

        catalogue = self._now.catalogue
        columns = tables.usual(tuple(catalogue.fields))
        schema = tables.schema(columns, catalogue.kinds, self._now.manifest.encoder.dim)
        return pa.Table.from_batches(catalogue.record_batches(columns, where), schema)

    def to_pandas(self, where: str | None = None) -> Any:
        """The catalogue as a pandas.DataFrame: the columns of `to_arrow`, each code an array float32 (dim,).

        Raises RequestError if pandas isn't installed, and what `to_arrow` raises.
        """
        if find_spec("pandas") is None:
            raise RequestError("to_pandas needs pandas, which is not installed: pip install pandas")
        return self.to_arrow(where).to_pandas()

    def read(
        self, query: QueryLike, *, crop: Crop | str | Sequence[int] | None = None, with_copies: bool = False,
        shown: int = SHOWN, name: str = "",
    ) -> Query:  # fmt: skip
        """Reads a query from a picture in any form: see `QueryLike`.

        The answer leaves out the item itself and its exact copies; with_copies: only an item that was named by its id.
        crop: look up only this part of the picture: its left, top, right and bottom edges in pixels, or as a text in
        per cent ("10%,0%,90%,50%"); the part of an item is taken from its file if that lies below the user's own
        folders, else from its preview. shown: longest edge in pixels of the query's `picture`, which is shown to
        people; 0 for none. name: what to call a picture that is given as bytes.

        Raises ImageError for what isn't a picture and for a part beyond it, RequestError for an id that isn't in the
        catalogue and for any other kind of query.
        """
        reader = self._now.reader
        return reader.read([query], crop=_crop(crop), with_copies=with_copies, shown=shown, name=name)[0]

    def combined(
        self, queries: Sequence[QueryLike], *, weights: Sequence[float] | None = None, less: Sequence[QueryLike] = ()
    ) -> Query:
        """Several pictures as one query: the mean of their directions, or of their codes unless the metric is cosine.

        weights: one per picture, by default 1. less: what the answer should not look like: the query moves away from
        these, as far as they are from the others' mean. The answer leaves out all of them and their exact copies.

        Raises RequestError without queries and for invalid weights, and what `read` raises.
        """
        if isinstance(queries, str):  # which is a sequence too: of letters
            raise RequestError(f"{queries:.100}: give the queries as a list")
        if not queries:
            raise RequestError("no pictures to combine: give one at least")
        now = self._now
        read = now.reader.read([*queries, *less])
        given = [1.0] * len(queries) if weights is None else weights
        record = now.manifest.encoder
        return combined(read, self._codes_of(now, read), given, len(less), record.metric, record.digest)

    @overload  # a text is also a sequence of texts, but the first that fits counts
    def similar(  # type: ignore[overload-overlap]
        self, query: QueryLike, n: int = 10, **wishes: Unpack[Wishes]
    ) -> Answer: ...

    @overload
    def similar(self, query: Sequence[QueryLike], n: int = 10, **wishes: Unpack[Wishes]) -> list[Answer]: ...

    def similar(
        self, query: QueryLike | Sequence[QueryLike], n: int = 10, **wishes: Unpack[Wishes]
    ) -> Answer | list[Answer]:
        """The n items most similar to a picture, best first, without that item itself; for a list, an answer for each.

        An answer is a list, which a notebook shows as a row of pictures.

        A list goes through encoder and index in large batches. wishes: which items may be answers, as keywords: see
        `simrec.answers.Narrowing`.

        Raises RequestError if there is no catalogue yet, for n under 1 and for invalid wishes, and what `read` raises.
        """
        now = self._now
        n, narrowing = _whole(n), self._narrowing(now, wishes)
        if not isinstance(query, Sequence) or isinstance(query, str | bytes | bytearray | memoryview | Item):
            if not isinstance(query, np.ndarray):  # a disk or a network may keep it waiting
                (query,) = now.reader.read([query])
            with turns() if now.only_computes and narrowing.quick else nullcontext():
                one = now.reader.read([query])
                (matches,) = answers(now.catalogue, one, self._codes_of(now, one), n, narrowing)
            return Answer(matches, self._display)
        parts = chunks(query, max(1, min(TOGETHER, LARGEST_ANSWER // n)))
        queries = ((read, self._codes_of(now, read)) for part in parts if (read := now.reader.read(part)))
        results: list[list[Match]] = []
        with ahead(queries) if len(query) > TOGETHER else nullcontext(queries) as stream:
            for read, codes in stream:
                results += answers(now.catalogue, read, codes, n, narrowing)
        return [Answer(matches, self._display) for matches in results]

    def _display(self, edge: int) -> Display:
        """A display for answers with pictures of that longest edge, in pixels."""
        return Display(self.catalogue, roots(self._home or default()), edge)

    def similar_to(
        self, source: PathText, n: int = 10, *, with_copies: bool = False, data_dir: PathText | None = None,
        progress: Callable[[int, int], None] = silent, notice: Notice = silent,
        unreadable: Callable[[ImageError], None] | None = None, **wishes: Unpack[Wishes],
    ) -> Iterator[tuple[Query, Answer]]:  # fmt: skip
        """The n items most similar to each picture of a source, one query after the other, as they are read.

        A query's name is its entry's id. with_copies: see `read`. progress: called with how many pictures were read,
        and of how many. unreadable: called with the error of each picture that can't be read; without it, the first
        such error is raised at the end, when the others have been answered.

        Raises what `similar` and `simrec.sources.load.open_source` raise.
        """
        from simrec.sources.load import at_once, open_source

        now = self._now
        n, narrowing, reader, spec = _whole(n), self._narrowing(now, wishes), now.reader, now.manifest.encoder.input
        opened = open_source(source, data_dir=data_dir, notice=notice)
        total = 0 if progress is silent else sum(1 for _ in opened.entries())
        errors: list[ImageError] = []

        done, read, codes, begun = 0, list[Query](), list[Codes](), time.monotonic()

        def answered() -> Iterator[tuple[Query, Answer]]:
            if read:
                results = answers(now.catalogue, read, np.concatenate(codes), n, narrowing)
                yield from zip(read, (Answer(matches, self._display) for matches in results), strict=True)

        batches = (opened.read(chunk, spec) for chunk in chunks(opened.entries(), at_once(spec)))
        with ahead(batches) as stream:
            for batch in stream:
                for _, error in batch.errors:
                    (unreadable or errors.append)(error)
                queries = reader.of_batch(batch, with_copies=with_copies)
                read += queries
                codes.append(self._codes_of(now, queries))
                if len(read) >= TOGETHER or time.monotonic() > begun + SECONDS:
                    yield from answered()
                    read, codes, begun = [], [], time.monotonic()
                done += len(queries) + len(batch.errors)
                progress(done, total)
        yield from answered()
        if errors:
            raise errors[0]

    def _narrowing(self, now: _State, wishes: Wishes) -> Narrowing:
        """The wishes, checked. Raises RequestError for invalid ones, and if there is no catalogue yet."""
        if unknown := wishes.keys() - Narrowing.__dataclass_fields__.keys():
            raise TypeError(
                f"there is no wish {min(unknown)!r}, only {', '.join(Narrowing.__dataclass_fields__)}; `read` takes a "
                f"part of a picture, and `combined` several pictures"
            )
        narrowing = Narrowing(**wishes)
        narrowing.check(now.catalogue, self.name)
        return narrowing

    def _codes_of(self, now: _State, queries: Sequence[Query]) -> Codes:
        """The codes (m, dim) of queries; those of pictures go through the encoder as one batch."""
        codes = np.empty((len(queries), now.manifest.encoder.dim), np.float32)
        pictures = [row for row, query in enumerate(queries) if query.code is None]
        for row, query in enumerate(queries):
            if query.code is not None:
                if query.encoder != now.manifest.encoder.digest:
                    raise RequestError(f"{query.name}: its code is from another encoder: read the query again")
                codes[row] = query.code
        if pictures:
            images = np.concatenate([cast(Images, queries[row].images) for row in pictures])
            codes[pictures] = now.encode(images)
        return codes

    def images(self, query: Query) -> Images:
        """The encoder's input for a query, (1, h, w, c); an item's picture is read again from its source.

        Raises RequestError for a code, DataError for an item whose picture is no longer there.
        """
        if query.images is not None:
            return query.images
        if not query.name.startswith("id:"):
            raise RequestError(f"{query.name}: a code has no picture: name a picture")
        return self.originals(self.catalogue.items([query.name[3:]]))

    def originals(self, items: Sequence[Item], notice: Notice = silent, data_dir: PathText | None = None) -> Images:
        """The encoder's input for items, (n, h, w, c), read again from the catalogue's source.

        Raises DataError if one of their pictures is no longer there.
        """
        images, unread = self.readable_originals(items, notice, data_dir)
        if unread:
            raise DataError(f"{next(iter(unread.values()))!s:.500} (it is an item of {self.name})")
        return images

    def readable_originals(
        self,
        items: Sequence[Item],
        notice: Notice = silent,
        data_dir: PathText | None = None,
        progress: Callable[[int], None] = silent,
    ) -> tuple[Images, dict[int, ImageError]]:
        """The encoder's input for those items that can be read again from the catalogue's source, (n, h, w, c), and
        why others can't, by their places among the items. progress: called with how many are done.

        Raises DataError if a source is no longer there.
        """
        from simrec.sources.load import READ, open_source

        spec = self.manifest.encoder.input
        images, unread, done = np.empty((len(items), *spec.shape), np.uint8), dict[int, ImageError](), 0
        for origin in dict.fromkeys(item.origin for item in items):
            self._check_there(origin)
            source = open_source(origin, data_dir=data_dir, notice=notice)
            for rows in chunks((row for row, item in enumerate(items) if item.origin == origin), READ):
                entries = [Entry(item.id, item.source, item.label, item.stamp) for item in (items[row] for row in rows)]
                batch = source.read(entries, spec)
                errors = {entry.id: error for entry, error in batch.errors}
                unread |= {row: errors[items[row].id] for row in rows if items[row].id in errors}
                images[[row for row in rows if row not in unread]] = batch.images
                done += len(rows)
                progress(done)
        return images[[row for row in range(len(items)) if row not in unread]] if unread else images, unread

    def _check_there(self, origin: str) -> None:
        """Raises DataError if the folder or list of a source isn't there, which a copied recommender doesn't bring."""
        catalogue = self.manifest.catalogue
        for source in catalogue.sources if catalogue else ():
            if source.name == origin and source.root is not None and not Path(source.root).exists():
                raise DataError(
                    f"{source.root}: is not there, so the pictures of {self.name} can't be read again: check that its "
                    f"disk is there, or say where it is now: 'simrec index sync {self.name} --root FOLDER'"
                )

    def encode(self, images: Images, progress: Callable[[int], None] = silent) -> Codes:
        """Encodes images (n, h, w, c), as the encoder's input says, to codes (n, dim). progress: called with how many
        are done.

        Raises RequestError for what isn't an array; PluginError, with the encoder's name, if it gives anything but
        finite float32 codes of that shape.
        """
        if not isinstance(images, np.ndarray):
            raise RequestError(
                f"encode takes images as an array uint8 (n, h, w, c), not {type(images).__name__}: read files with "
                f"Recommender.pictures"
            )
        return self._now.encode(images, progress)

    def decode(self, codes: Codes) -> Rebuilt:
        """Decodes codes (n, dim) to pictures (n, h, w, c) in 0..1. Raises RequestError for an encoder without a
        decoder.
        """
        return self._now.decode(codes)

    def reconstruct(self, images: Images) -> Rebuilt:
        """Encodes images (n, h, w, c) and decodes the codes to 0..1. Raises RequestError for an encoder without a
        decoder.
        """
        now = self._now
        now.check_decodes()
        return now.decode(now.encode(images))

    def compress(self, images: Images, bits: int = 8) -> bytes:
        """Packs the codes of images (n, h, w, c) into a container, each number in 2 to 8 bits before entropy coding.

        See `simrec.compression`. Raises RequestError for other bits and for an encoder without a decoder.
        """
        from simrec.compression import BITS, LARGEST, Container

        if bits not in BITS:
            raise RequestError(f"{bits} bits per number: choose {BITS[0]} to {BITS[-1]}")
        if images.size > LARGEST:
            raise RequestError(f"{len(images):,} pictures are too many for one container: compress them in parts")
        now = self._now
        model, record = now.code_model, now.manifest.encoder
        words = model.encoded(model.levels(now.encode(images), bits), bits)
        if len(images) > model.most(len(words), bits):
            raise RequestError(f"{len(images):,} pictures are too similar for one container: compress them in parts")
        return Container(bits, record.dim, record.input.shape, len(images), record.digest, words).to_bytes()

    def decompress(self, data: bytes, name: str = "the container") -> Images:
        """Decodes a container from `compress` to pictures (n, h, w, c); name: what to call it in an error.

        Raises DataError if it is cut short, altered, or from another encoder.
        """
        from simrec.compression import LARGEST, Container
        from simrec.images import rounded

        now = self._now
        container, record = Container.from_bytes(data, name), now.manifest.encoder
        if container.digest != record.digest:
            raise DataError(
                f"{name}: its codes are from encoder {container.digest[:12]}, but {self.name} has {record.title}: "
                f"use --index with the recommender that made it"
            )
        if (container.dim, container.shape) != (record.dim, record.input.shape):
            raise DataError(
                f"{name}: its codes of {container.dim} numbers, for pictures of {container.shape}, are not what "
                f"{record.title} writes: compress the pictures again"
            )
        if container.count * prod(container.shape) > LARGEST:
            raise DataError(f"{name}: says that it holds {container.count:,} pictures, more than simrec puts into one")
        try:
            levels = now.code_model.decoded(container.words, container.count, container.bits)
        except ValueError as error:
            raise DataError(f"{name}: cannot be decoded ({error}): compress the pictures again") from error
        images = np.empty((len(levels), *container.shape), np.uint8)
        for start in range(0, len(levels), BATCH):
            part = slice(start, start + BATCH)
            images[part] = rounded(now.decode(now.code_model.codes(levels[part], container.bits)))
        return images

    def generate(self, n: int, seed: int = 0) -> Rebuilt:
        """n new pictures (n, h, w, c) in 0..1, the same for the same seed, from codes drawn from `prior`."""
        now = self._now
        return now.decode(now.prior.sample(n, seed))

    def between(self, first: Images, last: Images, n: int) -> Rebuilt:
        """n pictures (n, h, w, c) in 0..1 on the way from one image (1, h, w, c) to another, including both ends.

        Raises RequestError for an encoder without a decoder.
        """
        now = self._now
        now.check_decodes()
        start, end = now.encode(np.concatenate([first, last]))
        return now.decode(start + np.linspace(0, 1, n, dtype=np.float32)[:, np.newaxis] * (end - start))

    def around(self, image: Images, n: int, spread: float = 0.5, seed: int = 0) -> Rebuilt:
        """n variations (n, h, w, c) in 0..1 of an image (1, h, w, c); spread: how far; 1: as far as `prior` goes."""
        now = self._now
        return now.decode(now.prior.around(now.encode(image)[0], n, spread, seed))

    @property
    def prior(self) -> Mixture:
        """The distribution that new codes are drawn from: the standard normal for a variational encoder, else a mixture
        fitted to codes.

        Raises RequestError for an encoder that cannot generate.
        """
        return self._now.prior

    @property
    def code_model(self) -> CodeModel:
        """The model that quantises and entropy-codes codes. Raises RequestError for an encoder that cannot compress."""
        return self._now.code_model

    def pictures(self, source: PathText, data_dir: PathText | None = None, notice: Notice = silent) -> Pictures:
        """Loads a source as input for this encoder."""
        from simrec.sources.load import load

        return load(source, self.manifest.encoder.input, data_dir=data_dir, notice=notice)

    def examples(self, n: int) -> Pictures:
        """Up to n example pictures for the encoder, one of each class in turn.

        They are test pictures of what it was trained on; without a test split, items of the catalogue. Raises
        RequestError if there are neither.
        """
        from simrec.sources.load import Pictures, test_split

        trained_on = self.manifest.encoder.trained_on
        test = test_split(trained_on.source) if trained_on.test == "" else trained_on.test
        if test:
            pictures = self.pictures(test)
            return pictures.rows(_in_turns(pictures.labels)[:n])
        if not self.manifest.catalogue:
            raise RequestError(f"{self.name} has neither test pictures nor a catalogue: name a picture")
        items = list(self.catalogue.all())
        chosen = [items[row] for row in _in_turns([item.label for item in items])[:n]]
        ids, sources, labels = zip(*((item.id, item.source, item.label) for item in chosen), strict=True)
        return Pictures(self.name, self.originals(chosen), ids, sources, labels)

    def describe(self, *, fields: bool = False) -> dict[str, Any]:
        """What `index show` says, as JSON values. fields: also say what the items' fields hold, which opens them."""
        size = sum(file.size for file in self.manifest.files.values())
        described = {
            "name": self.name,
            "folder": str(self.folder.absolute()),
            "generation": self.generation.name,
            "bytes": size,
            **self.manifest.to_json(),
        }
        del described["files"]
        if self.manifest.catalogue:
            described["catalogue"]["source"] = self.manifest.catalogue.source
            described["catalogue"]["segments"] = len(self.manifest.catalogue.segments)
            if fields:
                described["catalogue"]["fields"] = self._fields()
            del described["catalogue"]["distances"]
        return described

    def _fields(self) -> dict[str, str] | None:
        """The names of its items' fields and what they hold; None if the database can't say."""
        try:
            return {name: kind.__name__ for name, kind in self._now.catalogue.fields.items()}
        except SimrecError:
            if not self._now.record.engine:
                raise
            return None


def _whole(n: object) -> int:
    """A number of items. Raises RequestError for anything but a whole number from 1 on."""
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or not 1 <= n < 2**31:
        raise RequestError(f"cannot find {n!r} items: n is a whole number from 1 on")
    return int(n)


def _crop(crop: Crop | str | Sequence[int] | None) -> Crop | None:
    if crop is None:
        return None
    from simrec.images import Crop

    return crop if isinstance(crop, Crop) else Crop.of(crop)


def _in_turns(labels: Sequence[str]) -> list[int]:
    """The rows in a new order: one of each label in turn."""
    seen: Counter[str] = Counter()
    turns = []
    for row, label in enumerate(labels):
        turns.append((seen[label], label, row))
        seen[label] += 1
    return [row for _, _, row in sorted(turns)]
