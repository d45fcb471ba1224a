"""Reading and encoding what sources list, for a build or a change: what both are told, and how they go on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from simrec import store
from simrec.catalogue.building import Building, Listed
from simrec.contracts import Batch, Codes, Entry, Notice
from simrec.home import default, remember_root
from simrec.manifest import EncoderRecord, SourceRecord
from simrec.recommender import Recommender, silent
from simrec.sources.load import Held, LeftOut, at_once
from simrec.streams import ahead, chunks


@dataclass(frozen=True)
class Unread:
    """What to do about pictures that can't be read. strict: the first one is an error. list: a file for all of them."""

    strict: bool = False
    list: Path | None = None


@dataclass(frozen=True)
class Context:
    """Who is told what happens, and where recommenders and data sets are.

    progress: told a stage, how much is done, and of how much, 0 while that isn't known.
    """

    progress: Callable[[str, int, int], None] = silent
    notice: Notice = silent
    home: Path | None = None
    data_dir: Path | None = None


@contextmanager
def keeping(building: Building, notice: Notice) -> Iterator[None]:
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


def encode(
    building: Building, listed: Iterator[Listed], sources: dict[int, Held], origin: Recommender, left_out: LeftOut,
    context: Context, every: Callable[[], Iterable[object]],
) -> None:  # fmt: skip
    """Adds to a build what its finished parts don't have yet: one thread reads, one encodes, this one writes.

    sources: by their numbers. every: all that is listed, to be counted beside the work.
    """
    spec = origin.manifest.encoder.input
    entries = building.resumed(listed)
    if building.rows:
        context.notice(f"Going on where a build was interrupted: {building.rows:,} items are not encoded again.")
    for place, reason in building.skipped:
        left_out.say(place, reason)
    done = sum(part.record.entries for part in building.parts)
    with _counted(every, context.progress) as total:
        context.progress("encoding", done, total[0])
        read = (
            (number, chunk, sources[number].read(chunk, spec))
            for number, group in groupby(entries, key=lambda one: one[0])
            for chunk in chunks((entry for _, entry in group), at_once(spec))
        )
        with ahead(read) as batches, ahead(_encoded(batches, origin)) as results:
            for number, chunk, batch, codes in results:
                left_out.add(batch.errors)
                building.add(chunk, number, batch, codes)
                done += len(chunk)
                context.progress("encoding", done, total[0])
        building.finish_part()
        context.progress("encoding", done, done)


def _encoded(
    batches: Iterator[tuple[int, Sequence[Entry], Batch]], origin: Recommender
) -> Iterator[tuple[int, Sequence[Entry], Batch, Codes]]:
    for number, chunk, batch in batches:
        yield number, chunk, batch, origin.encode(batch.images)


@contextmanager
def _counted(every: Callable[[], Iterable[object]], progress: object) -> Iterator[list[int]]:
    """How many there are, counted beside the work where someone wants to know; 0 until then."""
    total, ended = [0], threading.Event()

    def work() -> None:
        with suppress(Exception):  # the build itself says what is wrong with the source
            count = 0
            for _ in every():
                count += 1
                if ended.is_set():
                    return
            total[0] = count

    thread = threading.Thread(target=work, daemon=True)
    if progress is not silent:
        thread.start()
    try:
        yield total
    finally:
        ended.set()
        if thread.ident is not None:
            thread.join()


def source_record(source: Held) -> SourceRecord:
    """What a manifest says of a source."""
    return SourceRecord(source.name, source.root, source.test, source.reduced)


def remember(context: Context, source: Held) -> None:
    """Sheets may draw from a folder that this user has named: not from one that only a recommender names, which may
    have come from anyone.
    """
    if source.root is not None:
        remember_root(context.home or default(), source.root)


def kept_encoder(writer: store.Writer, origin: Recommender, folder: Path) -> EncoderRecord:
    """Names the encoder's files again, or takes them over from another recommender; what the manifest says of it."""
    record = origin.manifest.encoder
    if origin.folder.resolve() == folder.resolve():
        writer.keep(origin.generation, record.folder)
        return record
    # The weights stay with the recommender that was trained: the ONNX graphs are all that answering needs.
    needless = frozenset(["weights.safetensors"] if record.runtime == "onnx" else [])
    to = writer.new("encoder")
    writer.copy(origin.generation, record.folder, to, without=needless)
    return replace(record, folder=to)


def no_codes(encoder: EncoderRecord) -> Codes:
    """None of an encoder's codes, (0, dim)."""
    import numpy as np

    return np.empty((0, encoder.dim), np.float32)
