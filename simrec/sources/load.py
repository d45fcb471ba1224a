"""Finds the source that a person names: a folder, a list, a data set, or what a plugin offers.

A name is `fashion-mnist`, `fashion-mnist:test`, a plugin's `name:text`, or the path of a folder, picture or list.
`folder:PATH` is always a path, even if a source has that name. Labels are kept for showing and scoring only; no
training sees them.
"""

from __future__ import annotations

import hashlib
import inspect
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field, replace
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simrec.contracts import API, Batch, Entry, Images, ImageSpec, Notice, Source, SourceSpec
from simrec.errors import DataError, EmptyError, ImageError, PluginError, SimrecError, quantity
from simrec.faults import blamed_on
from simrec.files import PathText, replacing, typed
from simrec.sources.checking import Checks, are_contents
from simrec.sources.exports import check_has_pictures
from simrec.streams import ahead, chunks

LISTS = (".csv", ".tsv", ".jsonl", ".parquet")
"""Endings of lists of pictures."""

READ = 256
"""How many entries are read at a time. It must not change within a build: codes depend on it in their last bit."""

CHECKED = 64
"""How many entries of a listing are checked at a time."""

LARGEST_BATCH = 16 << 20
"""About how many bytes the images of a batch may take: several batches are in memory at once."""

_NAME = re.compile(r"[\w.-]{1,100}")
"""What may be a source's name, rather than a path of several folders."""

SAID = 20
"""How many unreadable pictures are named one by one; further ones are only counted, by reason."""


@dataclass(frozen=True)
class Pictures:
    """Pictures of a source in memory.

    name: what to type to load them again, from any folder. images: uint8 (n, h, w, c). ids, sources, labels: those of
    their entries. test: the name of the source to test on. reduced: whether this stands in for a larger data set that
    wasn't available. total: how many entries the source lists; these were drawn from them.
    """

    name: str
    images: Images
    ids: tuple[str, ...]
    sources: tuple[str, ...]
    labels: tuple[str, ...]
    test: str | None = None
    reduced: bool = False
    total: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def labelled(self) -> bool:
        """Whether any picture has a label."""
        return any(self.labels)

    @property
    def digest(self) -> str:
        """SHA-256 of the pixels and their shape, in order."""
        return hashlib.sha256(repr(self.images.shape).encode() + self.images.tobytes()).hexdigest()

    def where(self, chosen: NDArray[np.bool_]) -> Pictures:
        """The pictures where a mask (n,) is true, under the same name."""
        return self.rows(np.flatnonzero(chosen).tolist())

    def rows(self, rows: Sequence[int]) -> Pictures:
        """The pictures in those rows, in that order, under the same name."""
        return replace(
            self,
            images=self.images[list(rows)],
            ids=tuple(self.ids[row] for row in rows),
            sources=tuple(self.sources[row] for row in rows),
            labels=tuple(self.labels[row] for row in rows),
        )


def at_once(spec: ImageSpec) -> int:
    """How many entries to read at a time for an encoder: READ, or fewer if its images are large."""
    return max(16, min(READ, LARGEST_BATCH // math.prod(spec.shape)))


def open_source(source: PathText, *, data_dir: PathText | None = None, notice: Notice) -> Held:
    """Opens the source that a person typed, and checks it against its contract as it is used.

    data_dir: where to look for a data set's files first. notice: receives one-line messages for the person. Raises
    DataError if the source isn't available, PluginError, which names the distribution, if its plugin is broken.
    """
    from simrec import host

    source, data_dir = typed(source, "a source"), data_dir if data_dir is None else Path(data_dir)
    check_has_pictures(source)
    plugins = host.discover()
    name, _, text = source.partition(":")
    # Without a colon, even "folder" is a path: that of a folder with this name.
    if name not in plugins.names(SourceSpec) or source == "folder":
        is_list = source.lower().endswith(LISTS)
        if plugins.hidden and not is_list and _NAME.fullmatch(name) and not Path(source).exists():
            plugins.check_loaded(name)
            raise DataError(
                f"no source {source!r}: name a folder of pictures, a picture, or one of 'simrec plugins list'"
                f"{plugins.hidden}"
            )
        name, text = "list" if is_list else "folder", source
    offer = plugins.find(SourceSpec, name)
    factory = host.imported(offer)
    with blamed_on(str(offer)):
        if "spec" in inspect.signature(factory).parameters:
            raise PluginError(
                f"{offer} was written for contract 1, this simrec has {API}: its {offer.spec.factory} must take text, "
                f"data_dir and notice, and return a source with entries() and read(): see simrec.contracts.Source"
            )
        opened = factory(text, data_dir=data_dir, notice=notice)
    return Held(opened, str(offer))


class Held:
    """A source whose answers are all checked."""

    def __init__(self, source: Any, culprit: str) -> None:
        self._source, self._culprit = source, culprit
        self._checks = Checks(culprit)
        with blamed_on(culprit):  # each may be a property
            needed = ("name", "test", "reduced", "entries", "read")
            if missing := [name for name in needed if not hasattr(source, name)]:
                raise PluginError(
                    f"{culprit} returned {type(source).__name__}, which has no {', '.join(missing)}: fix the plugin"
                )
            self.name, self.test, self.reduced, self.root = self._checks.attributes(source)
        # simrec's own sources list what they should; checking that would take a tenth of the time of a sync.
        self._own = type(source).__module__.startswith("simrec.sources.")

    def entries(self) -> Iterator[Entry]:
        """The source's entries, checked one by one; no id comes twice."""
        seen: set[int] = set()  # of hashes, which take a fraction of the ids' memory
        with blamed_on(self._culprit):
            for some in chunks(self._source.entries(), CHECKED):
                entries = some if self._own else self._checks.entries(some)
                hashes = {hash(entry.id) for entry in entries}
                if len(hashes) < len(entries) or not seen.isdisjoint(hashes):
                    raise self._listed_twice(entries, seen)
                seen |= hashes
                yield from entries
        if not seen:
            raise EmptyError(f"{self.name}: no pictures in this source: name another")

    def check_name(self, data_dir: Path | None) -> None:
        """Raises PluginError if the source's name doesn't open it again, as a catalogue's sync will do."""
        if self._own:
            return
        try:
            name = open_source(self.name, data_dir=data_dir, notice=lambda _: None).name
        except SimrecError as error:
            raise PluginError(f"{self._culprit} is named {self.name!r}, which can't open it again: {error}") from error
        if name != self.name:
            raise PluginError(f"{self._culprit} is named {self.name!r}, which opens {name!r}: fix the plugin")

    def _listed_twice(self, entries: Sequence[Entry], before: set[int]) -> DataError:
        """The error for the first of these entries whose id was there before. before: the hashes of earlier ids."""
        seen = set(before)
        for entry in entries:
            if hash(entry.id) in seen:
                break
            seen.add(hash(entry.id))
        places = f" ({self._source.places_of(entry.id)})" if hasattr(self._source, "places_of") else ""
        return DataError(
            f"{self.name}: the id {entry.id!r:.100} is there more than once{places}: give each item its own, or list "
            f"it once"
        )

    @property
    def unlisted(self) -> list[str]:
        """The sub-folders that could not be listed the last time, so that what is below them isn't known."""
        return sorted(getattr(self._source, "unlisted", ()))

    def read(self, entries: Sequence[Entry], spec: ImageSpec) -> Batch:
        """Reads entries from the source and checks the batch: each entry has been read or has an error."""
        with blamed_on(self._culprit):
            return self._checks.batch(self._source.read(entries, spec), entries, spec)

    def contents(self, entries: Sequence[Entry]) -> list[str | None]:
        """See `Digested`; None for all entries if the source doesn't offer it."""
        if not hasattr(self._source, "contents"):
            return [None] * len(entries)
        with blamed_on(self._culprit):
            contents = list(self._source.contents(entries))
        if len(contents) != len(entries) or not are_contents([one for one in contents if one is not None]):
            raise PluginError(f"{self._culprit} returned contents that simrec.contracts.content did not make: fix it")
        return contents


@dataclass
class LeftOut:
    """The pictures of a source that could not be read: reports them as they come, counts them, sums them up at the end.

    strict: raise an error for the first one. kept: ids of items that stay as they are if their picture can't be read.
    count: how many pictures there are; stayed: how many of them are such items'.
    """

    notice: Notice
    strict: bool = False
    kept: Set[str] = frozenset()
    count: int = 0
    stayed: int = 0
    first: str = ""
    reasons: Counter[str] = field(default_factory=Counter)
    lines: list[str] = field(default_factory=list)

    def add(self, errors: Iterable[tuple[Entry, ImageError]]) -> None:
        """Counts some. If strict, raises ImageError for the first one."""
        for entry, error in errors:
            if self.strict:
                raise error
            self.say(entry.source, " ".join(str(error).splitlines()), kept=entry.id in self.kept)

    def say(self, source: str, error: str, *, kept: bool = False) -> None:
        """Counts one. error: its one-line message. kept: whether an item stays."""
        self.count += 1
        self.stayed += kept
        self.first = self.first or error
        self.reasons[error.removeprefix(f"{source}: ").partition(": ")[0].partition(" (")[0]] += 1
        self.lines.append(error)
        if self.count <= SAID:
            self.notice(f"kept the old picture of {error}" if kept else f"left out {error}")

    def end(self, file: Path | None = None) -> None:
        """Sums up those that were not reported one by one. file: where to write all of them, one line each."""
        if file:
            with replacing(file) as list_:
                list_.write("".join(f"{line}\n" for line in self.lines).encode("utf-8", "surrogateescape"))
        if self.count > SAID:
            kinds = ", ".join(f"{count:,} {reason}" for reason, count in self.reasons.most_common(10))
            gone = self.count - self.stayed
            parts = [f"left out {quantity(gone, 'picture')}"] if gone else []
            parts += [f"kept {quantity(self.stayed, 'old picture')}"] if self.stayed else []
            self.notice(f"{' and '.join(parts)} in all: {kinds}")


def load(
    source: PathText, spec: ImageSpec, *, data_dir: PathText | None = None, notice: Notice, memory: int | None = None
) -> Pictures:
    """The pictures of a source in memory, prepared for an encoder with that spec.

    memory: bytes that they may take; from a larger source, as many as fit are drawn evenly. Raises DataError if there
    are none, and what `open_source` raises.
    """
    return collected(open_source(source, data_dir=data_dir, notice=notice), spec, notice=notice, memory=memory)


def collected(
    source: Source,
    spec: ImageSpec,
    *,
    notice: Notice,
    memory: int | None = None,
    strict: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Pictures:
    """The pictures of an open source: see `load`. progress: called with how many were read, of how many."""
    total = sum(1 for _ in source.entries())
    room = total if memory is None else max(1, min(total, memory // int(np.prod(spec.shape))))
    images = np.empty((room, *spec.shape), np.uint8)
    chosen = (row * room // total != (row - 1) * room // total for row in range(total))
    left_out = LeftOut(notice, strict)
    read: list[Entry] = []
    batches = (source.read(chunk, spec) for chunk in chunks(compress(source.entries(), chosen), READ))
    done = 0
    with ahead(batches) as stream:
        for batch in stream:
            left_out.add(batch.errors)
            if len(read) + len(batch.entries) > room:
                raise DataError(f"{source.name}: it grew while it was read: try again")
            images[len(read) : len(read) + len(batch.entries)] = batch.images
            read += batch.entries
            done += len(batch.entries) + len(batch.errors)
            progress(done, room)
    left_out.end()
    if not read:
        raise DataError(f"{source.name}: none of its {total:,} pictures can be read: {left_out.first}")
    return Pictures(
        name=source.name,
        images=images[: len(read)],
        ids=tuple(entry.id for entry in read),
        sources=tuple(entry.source for entry in read),
        labels=tuple(entry.label for entry in read),
        test=source.test,
        reduced=source.reduced,
        total=total,
    )


def test_split(source: str) -> str | None:
    """The name of the split for testing what was trained on that source, or None."""
    return {"fashion-mnist": "fashion-mnist:test", "fashion-mnist:small": "fashion-mnist:small-test"}.get(source)
