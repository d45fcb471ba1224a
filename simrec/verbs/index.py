"""Catalogues: a source in, a recommender with its codes out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from dataclasses import replace as replace_fields
from pathlib import Path

from simrec import library, store
from simrec.catalogue.building import Building, Plan
from simrec.contracts import Batch, Codes, Dtype, Entry, Notice, Source
from simrec.errors import DataError, RequestError, StoreError
from simrec.files import replacing
from simrec.manifest import CatalogueRecord, EncoderRecord, Manifest
from simrec.recommender import Recommender, silent
from simrec.sources.load import LeftOut, at_once, open_source
from simrec.streams import ahead, chunks


@dataclass(frozen=True)
class Unread:
    """What to do about pictures that can't be read. strict: the first one is an error. list: a file for all of them."""

    strict: bool = False
    list: Path | None = None


def build(
    name: str,
    source: str | None = None,
    *,
    encoder: str | None = None,
    dtype: Dtype | None = None,
    replace: bool = False,
    discard: bool = False,
    unread: Unread | None = None,
    data_dir: Path | None = None,
    home_folder: Path | None = None,
    progress: Callable[[str, int, int], None] = silent,
    notice: Notice = silent,
) -> Recommender:
    """Encodes a source and commits it as the catalogue of a recommender.

    Reading, encoding and writing go on at the same time, and nothing needs all pictures in memory. A build that is
    interrupted leaves what it has finished; the next one of the same source and encoder goes on from there.

    source: by default the one it was built from before, else what the encoder was trained on. encoder: the recommender
    whose encoder to take, for a new one; by default the one that `name` has, else a shipped one that suits the source.
    dtype: how codes are kept (see `simrec.index`); by default as they were before, else float32. replace: whether
    another source's catalogue may go. discard: throws away what an interrupted build has finished. progress: told a
    stage ("encoding", "writing"), how many pictures are done, and of how many, 0 while that isn't known.

    Raises RequestError or StoreError when the recommender is not there, is a shipped one or has another encoder, or
    another source's catalogue; DataError and ImageError for the source. Whatever is raised, the catalogue before still
    answers.
    """
    place = home_folder or library.default()
    folder = place / library.check_name(name)
    origin = _origin(name, source, encoder, place, notice)
    record, catalogue = origin.manifest.encoder, _catalogue_before(folder, origin)
    unread = unread or Unread()
    left_out = LeftOut(notice, unread.strict)
    if source is None:
        source = catalogue.source if catalogue else record.trained_on.source
    if dtype is None:
        dtype = catalogue.dtype if catalogue else "float32"
    with store.Writer(folder) as writer:  # before the pictures are read, which can take hours
        opened = open_source(source, data_dir=data_dir, notice=notice)
        if catalogue and catalogue.source != opened.name and not replace:
            raise StoreError(
                f"{folder}: has a catalogue of {catalogue.source}: add --replace to give it up for "
                f"{opened.name}, or choose another name"
            )
        kept = _kept_encoder(writer, origin, folder)  # before hours of encoding: one of its files may be damaged
        building = Building(folder, Plan(opened.name, record.digest, record.input, record.dim, record.metric, dtype))
        building.begin(discard=discard)
        with _keeping(building, notice):
            _encode(building, opened, origin, left_out, progress, notice)
            if not building.rows:
                raise DataError(f"{opened.name}: none of its {left_out.count:,} pictures can be read: {left_out.first}")
        if unread.list:
            _write_list(unread.list, left_out.lines)
        left_out.end()
        segments = building.segments(writer, lambda done: progress("writing", done, building.rows))
        made = CatalogueRecord(
            source=opened.name,
            count=building.rows,
            labelled=building.labelled,
            test=opened.test,
            reduced=opened.reduced,
            encoder=record.digest,
            dtype=dtype,
            segments=segments,
        )
        writer.commit(Manifest.new(kept, made))
        building.end()
    return Recommender(folder)


def _origin(name: str, source: str | None, encoder: str | None, place: Path, notice: Notice) -> Recommender:
    """The recommender whose encoder is taken."""
    if encoder is None and not store.exists(place / name):
        if name in library.SHIPPED:
            raise RequestError(f"{name} is shipped and read-only: 'simrec index build NEW SOURCE --encoder {name}'")
        if source is None:
            library.check_there(name, place)
        else:
            encoder = library.ready_for(source)
            notice(f"{name} is new: it takes the encoder {encoder!r}, which comes along (--encoder OTHER).")
            return Recommender(library.shipped() / encoder)
    return Recommender(library.find_encoder(encoder, place) if encoder else library.find(name, place))


def _catalogue_before(folder: Path, origin: Recommender) -> CatalogueRecord | None:
    """The catalogue that is there already. Raises StoreError when it is one of another encoder."""
    if not store.exists(folder):
        return None
    before, record = store.current(folder, hold=False).manifest, origin.manifest.encoder
    if before.encoder.digest != record.digest:
        raise StoreError(
            f"{folder}: has encoder {before.encoder.title}, not {record.title} of {origin.name}: choose another name"
        )
    return before.catalogue


@contextmanager
def _keeping(building: Building, notice: Notice) -> Iterator[None]:
    """Whatever ends the block early, what was finished until then is found again by the next build."""
    try:
        yield
    except BaseException:
        building.stop()
        if building.rows:
            notice(
                f"What was encoded is kept, {building.rows:,} items: the same command goes on from there "
                f"(--discard throws it away)."
            )
        raise


def _encode(
    building: Building, source: Source, origin: Recommender, left_out: LeftOut,
    progress: Callable[[str, int, int], None], notice: Notice,
) -> None:  # fmt: skip
    """Adds to a build what its finished parts don't have yet: one thread reads, one encodes, this one writes."""
    spec = origin.manifest.encoder.input
    entries = building.resumed(source.entries())
    if building.rows:
        notice(f"Going on where a build was interrupted: {building.rows:,} items are not encoded again.")
    for place, reason in building.skipped:
        left_out.say(place, reason)
    done = sum(part.record.entries for part in building.parts)
    with _counted(source, progress) as total:
        progress("encoding", done, total[0])
        read = ((chunk, source.read(chunk, spec)) for chunk in chunks(entries, at_once(spec)))
        with ahead(read) as batches, ahead(_encoded(batches, origin)) as results:
            for chunk, batch, codes in results:
                left_out.add(batch.errors)
                building.add(chunk, batch, codes)
                done += len(chunk)
                progress("encoding", done, total[0])
        building.finish_part()
        progress("encoding", done, done)


def _encoded(
    batches: Iterator[tuple[Sequence[Entry], Batch]], origin: Recommender
) -> Iterator[tuple[Sequence[Entry], Batch, Codes]]:
    for chunk, batch in batches:
        yield chunk, batch, origin.encode(batch.images)


@contextmanager
def _counted(source: Source, progress: object) -> Iterator[list[int]]:
    """How many entries a source has, counted beside the work where someone wants to know; 0 until then."""
    total, ended = [0], threading.Event()

    def work() -> None:
        try:
            count = 0
            for _ in source.entries():
                count += 1
                if ended.is_set():
                    return
            total[0] = count
        except Exception:  # the build itself says what is wrong with the source
            return

    thread = threading.Thread(target=work, daemon=True)
    if progress is not silent:
        thread.start()
    try:
        yield total
    finally:
        ended.set()
        if thread.ident is not None:
            thread.join()


def _kept_encoder(writer: store.Writer, origin: Recommender, folder: Path) -> EncoderRecord:
    """Names the encoder's files again, or takes them over from another recommender; what the manifest says of it."""
    record = origin.manifest.encoder
    if origin.folder.resolve() == folder.resolve():
        writer.keep(origin.generation, record.folder)
        return record
    # The weights stay with the recommender that was trained: the ONNX graphs are all that answering needs.
    needless = frozenset(["weights.safetensors"] if record.runtime == "onnx" else [])
    to = writer.new("encoder")
    writer.copy(origin.generation, record.folder, to, without=needless)
    return replace_fields(record, folder=to)


def _write_list(path: Path, lines: Sequence[str]) -> None:
    with replacing(path) as file:
        file.write("".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape"))
