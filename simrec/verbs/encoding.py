"""Reads and encodes what sources list, for builds and changes alike."""

from __future__ import annotations

import errno
import os
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from simrec import store
from simrec.catalogue.building import Building, Listed
from simrec.contracts import Batch, Codes, Entry, Notice
from simrec.errors import PluginError, SimrecError, quantity
from simrec.files import explained, typed
from simrec.home import default, remember_root
from simrec.manifest import EncoderRecord, SourceRecord
from simrec.recommender import Recommender, silent
from simrec.sources.load import Held, LeftOut, at_once, open_source
from simrec.streams import ahead, chunks

CHECKED = 16
"""How many items are encoded again if the plugin that encodes was upgraded."""


@dataclass(frozen=True)
class Unread:
    """What to do about pictures that can't be read. strict: stop at the first one. list: a file that names them all.

    Raises StoreError if that file can't be written, because it is written only after everything has been encoded.
    """

    strict: bool = False
    list: Path | None = None

    def __post_init__(self) -> None:
        if self.list is not None:
            with explained(self.list, "name a file in a folder you can write to"):
                if self.list.is_dir():
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
                tempfile.TemporaryFile(dir=self.list.parent).close()


@dataclass(frozen=True)
class Context:
    """Where progress and notices go, and where recommenders and data sets are.

    progress: called with a stage, how much is done, and of how much (0 while that isn't known). home, data_dir: paths,
    also as texts.
    """

    progress: Callable[[str, int, int], None] = silent
    notice: Notice = silent
    home: Path | None = None
    data_dir: Path | None = None

    def __post_init__(self) -> None:
        for name in ("home", "data_dir"):
            if (place := getattr(self, name)) is not None:
                object.__setattr__(self, name, Path(typed(place, f"a folder for {name}")))


@contextmanager
def keeping(building: Building, notice: Notice) -> Iterator[None]:
    """If anything ends the block early, keeps what was finished for the next build."""
    try:
        yield
    except BaseException:
        building.stop()
        if building.rows:
            notice(
                f"{building.rows:,} encoded items are kept: run the same command again to go on from there "
                f"(--discard throws them away)."
            )
        raise


def encode(
    building: Building, listed: Iterator[Listed], sources: dict[int, Held], origin: Recommender, left_out: LeftOut,
    context: Context, every: Callable[[], Iterable[object]],
) -> None:  # fmt: skip
    """Adds to a build what its finished parts don't have yet: one thread reads, one encodes, this one writes.

    sources: by number. every: lists everything again, to count it during the work.
    """
    spec = origin.manifest.encoder.input
    entries = building.resumed(listed)
    if building.rows:
        context.notice(
            f"Continuing an interrupted build: {quantity(building.rows, 'item is', 'items are')} not encoded again."
        )
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
    """Counts the entries during the work, if someone wants to know; the yielded list holds 0 until then."""
    total, ended = [0], threading.Event()

    def work() -> None:
        with suppress(Exception):  # the build itself reports what is wrong with the source
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


def check_upgrade(before: Recommender, context: Context) -> None:
    """Raises PluginError if the encoder runs in its plugin, which was upgraded and encodes the catalogue's items
    differently now; gives a notice if that can't be found out.

    It encodes some items again whose pictures are still what they were. A picture must be found much closer to an item
    than items are to each other.
    """
    import numpy as np

    record, upgraded = before.manifest.catalogue, before.upgraded
    if not upgraded or record is None:
        return
    items = before.catalogue.spread(CHECKED)
    contents, images = {item.id: item.content for item in items}, []
    for origin in dict.fromkeys(item.origin for item in items):
        entries = [Entry(one.id, one.source, one.label, one.stamp) for one in items if one.origin == origin]
        with suppress(SimrecError):  # the source is gone
            opened = open_source(origin, data_dir=context.data_dir, notice=silent)
            batch = opened.read(entries, before.manifest.encoder.input)
            for entry, image, content in zip(batch.entries, batch.images, batch.contents, strict=True):
                if content == contents[entry.id]:
                    images.append(image)
    if not images:
        context.notice(upgraded)
        return
    distance = np.median(before.catalogue.nearest(before.encode(np.stack(images)), 1).distances)
    apart = np.median(record.distances) if record.distances else 0.0
    if distance > max(apart / 10, 1e-5):
        raise PluginError(
            f"{before.name}: its codes were made by {before.manifest.encoder.provider}, and {before.provider} encodes "
            f"differently: 'simrec index build {before.name} --from-scratch' encodes all again, or install the other"
        )


def source_record(source: Held) -> SourceRecord:
    """A source's record for the manifest."""
    return SourceRecord(source.name, source.root, source.test, source.reduced)


def remember(context: Context, source: Held) -> None:
    """Remembers that this user has named the source's folder, so that sheets may show pictures from it.

    A folder that only a recommender names doesn't count: the recommender may come from anyone.
    """
    if source.root is not None:
        remember_root(context.home or default(), source.root)


def kept_encoder(writer: store.Writer, origin: Recommender, folder: Path) -> EncoderRecord:
    """Keeps the encoder's files, or copies them from another recommender; returns its record for the manifest."""
    record = origin.manifest.encoder
    if origin.folder.resolve() == folder.resolve():
        writer.keep(origin.generation, record.folder)
        return record
    # The weights stay with the recommender that was trained: answering needs only the ONNX graphs.
    needless = frozenset(["weights.safetensors"] if record.runtime == "onnx" else [])
    to = writer.new("encoder")
    writer.copy(origin.generation, record.folder, to, without=needless)
    return replace(record, folder=to)


def no_codes(encoder: EncoderRecord) -> Codes:
    """An empty array of an encoder's codes, (0, dim)."""
    import numpy as np

    return np.empty((0, encoder.dim), np.float32)
