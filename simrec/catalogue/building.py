"""Builds a catalogue from a stream: first parts, which survive an interruption, then segments made from them.

    building/plan.json    what is built: the source, the encoder, how codes are kept
    building/built        see `simrec.store.BUILT`
    building/000001/      a part: codes.f32, items.jsonl, previews.bin, and when it is finished part.json

A part ends after SECONDS or ROWS, at the end of a batch, so an interruption costs no more than that. The next build
keeps the parts whose entries the source still lists, unchanged and in that order, and continues after them: this gives
the same batches, the same codes and the same catalogue. At the end, parts become segments; where a segment ends doesn't
depend on the parts.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shlex
import shutil
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Annotated, BinaryIO

import numpy as np
from msgspec import Meta, ValidationError, convert
from msgspec.json import Decoder, Encoder
from numpy.typing import NDArray

from simrec.catalogue import previews
from simrec.catalogue.fields import LARGEST as LARGEST_FIELDS
from simrec.catalogue.fields import Kind, merged
from simrec.catalogue.fields import kinds as fields_kinds
from simrec.contracts import Batch, Codes, Dtype, Entry, ImageSpec, Metric
from simrec.errors import DataError, StoreError
from simrec.faults import LARGEST as LARGEST_NUMBER
from simrec.files import clear, explained, opened_below, read
from simrec.streams import chunks

SECONDS = 20.0
"""A part ends after so many seconds."""

ROWS = 1 << 16
"""A part ends after so many rows."""

ADDED = 4096
"""How many rows are added to a segment at a time."""

LARGEST_RECORD = 16_000_000
"""Maximum bytes of a part.json."""

LARGEST_TEXTS = 100_000
"""Maximum characters of an item's id, source, label and stamp together; a row in a table holds a megabyte."""

LARGEST_LINE = 1 << 24
"""Maximum bytes of a line in items.jsonl."""


@dataclass(frozen=True)
class Plan:
    """What to build. A build continues an interrupted one only if it has the same plan.

    command: "build", or the command that adds to an existing catalogue. sources: with their roots. encoder: its digest.
    provider: the distribution that encodes ("name version").
    """

    command: str
    sources: Sequence[tuple[str, str | None]]
    encoder: str
    input: ImageSpec
    dim: int
    metric: Metric
    dtype: Dtype
    provider: str


@dataclass(frozen=True)
class PartRecord:
    """part.json. entries: how many of the source's entries it covers; digest: of these in order. rows: how many could
    be read; skipped: the sources of the others, with reasons. labelled: whether any has a label. kinds: their fields'
    types.
    """

    entries: Annotated[int, Meta(ge=1, le=1 << 24)]
    digest: str
    rows: Annotated[int, Meta(ge=0)]
    labelled: bool
    kinds: Annotated[Mapping[str, Kind], Meta(max_length=LARGEST_FIELDS)]
    skipped: Sequence[tuple[str, str]]


_CONTENT = re.compile(r"[0-9a-f]{32}", re.ASCII)

_Line = tuple[Entry, int, str, int, int]
"""A line of items.jsonl: an entry, the number of the source that listed it, its content, and the length and checksum of
its preview.
"""

Listed = tuple[int, Entry]
"""The number of the plan's source that listed an entry, and the entry."""


class Part:
    """A finished part. Its methods raise StoreError if its files are damaged."""

    def __init__(self, folder: Path, record: PartRecord) -> None:
        self.folder, self.record = folder, record

    def open(self, name: str) -> BinaryIO:
        """One of its files, open for reading."""
        try:
            return opened_below(self.folder, name)
        except OSError as error:
            raise self.damaged(str(error)) from error

    def damaged(self, why: str) -> StoreError:
        """The error for a part that isn't what was written."""
        return StoreError(f"{self.folder}: damaged ({why}): add --discard to build without it")

    def codes(self, dim: int) -> NDArray[np.float32]:
        """Its codes (rows, dim), mapped into memory."""
        if not self.record.rows:
            return np.empty((0, dim), np.float32)
        with self.open("codes.f32") as file:
            if os.fstat(file.fileno()).st_size != self.record.rows * dim * 4:
                raise self.damaged("its codes are cut short")
            return np.memmap(file, np.float32, "r", shape=(self.record.rows, dim))

    def rows(self) -> Iterator[tuple[Entry, int, str, bytes]]:
        """Its entries, each with its source's number, content and preview."""
        decoder, count = Decoder(_Line), 0
        with self.open("items.jsonl") as lines, self.open("previews.bin") as shown:
            while line := lines.readline(LARGEST_LINE):
                try:
                    entry, origin, content, length, checksum = decoder.decode(line)
                    preview = shown.read(min(max(length, 0), previews.LARGEST))
                    previews.check(preview)
                    if len(preview) != length or zlib.crc32(preview) != checksum:
                        raise ValueError("a preview is not what was written")
                except ValueError as error:  # msgspec raises ValueErrors too
                    raise self.damaged(str(error)) from error
                count += 1
                yield entry, origin, content, preview
        if count != self.record.rows:
            raise self.damaged(f"{count:,} items of {self.record.rows:,}")


@dataclass(frozen=True)
class New:
    """New items: their entries, their sources' numbers, the digests of their picture files, their previews (b"" for
    none) and codes (n, dim).
    """

    entries: Sequence[Entry]
    origins: Sequence[int]
    contents: Sequence[str]
    previews: Sequence[bytes]
    codes: Codes

    def __len__(self) -> int:
        return len(self.entries)

    def some(self, start: int, stop: int) -> New:
        """The items from `start` to `stop`."""
        part = slice(start, stop)
        return New(
            self.entries[part], self.origins[part], self.contents[part], self.previews[part], self.codes[part]
        )  # fmt: skip


class Building:
    """A build in a recommender's folder; its writer holds the lock."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.folder, self.plan = folder / "building", plan
        self.parts: list[Part] = []
        self._part: _PartWriter | None = None

    def begin(self, *, discard: bool) -> None:
        """Finds what an interrupted build has finished. discard: throw it away.

        Raises StoreError if that build had another plan.
        """
        if discard:
            shutil.rmtree(self.folder, ignore_errors=True)
        plan = json.loads(json.dumps(asdict(self.plan)))
        old = self._found_plan()
        if old is not None and {"provider": self.plan.provider, **old} != plan:  # an older simrec kept no provider
            by = old.get("provider", self.plan.provider)
            of_another = "" if by == self.plan.provider else f" by {by}"[:100]
            raise StoreError(
                f"{self.folder}: holds what an interrupted {_described(old, self.folder.parent.name)}{of_another} has "
                f"finished: run that one again to finish it, or add --discard to throw it away"
            )
        with explained(self.folder, making=[self.folder]):
            if old is None:
                shutil.rmtree(self.folder, ignore_errors=True)
                self.folder.mkdir()
                try:
                    _write(self.folder / "plan.json", json.dumps(plan).encode())
                except BaseException:
                    shutil.rmtree(self.folder, ignore_errors=True)
                    raise
            for path in sorted(self.folder.iterdir()):
                record = self._found_part(path) if path.name == _name(len(self.parts)) else None
                if record is not None:
                    self.parts.append(Part(path, record))
                elif path.name != "plan.json":
                    clear(path)

    def resumed(self, listed: Iterator[Listed]) -> Iterator[Listed]:
        """The entries that aren't in a finished part yet.

        A part that is damaged, or whose entries the source now lists differently, is thrown away with all later parts.
        """
        for place, part in enumerate(self.parts):
            run = list(islice(listed, part.record.entries))
            if _digest([entry for _, entry in run]) != part.record.digest or not self._holds(part, run):
                for other in self.parts[place:]:
                    clear(other.folder)
                del self.parts[place:]
                return chain(run, listed)
        return listed

    def _holds(self, part: Part, run: Sequence[Listed]) -> bool:
        """Whether a part's entries are among these, in the same order, and its codes are valid numbers."""
        listed = ((origin, entry.id, entry.source, entry.label, entry.stamp) for origin, entry in run)
        kinds: dict[str, Kind] = {}
        try:
            if part.record.rows + len(part.record.skipped) != len(run):
                return False
            for entry, origin, content, _ in part.rows():
                known = (origin, entry.id, entry.source, entry.label, entry.stamp)
                if not _CONTENT.fullmatch(content) or known not in listed:
                    return False
                if entry.fields:
                    kinds = fields_kinds([entry.fields], kinds)
            codes = part.codes(self.plan.dim)
            return kinds == part.record.kinds and bool((np.abs(codes) <= LARGEST_NUMBER).all())  # False for NaN
        except StoreError:
            return False

    @property
    def rows(self) -> int:
        """How many items the finished parts hold."""
        return sum(part.record.rows for part in self.parts)

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """The sources of entries in the finished parts that could not be read, with reasons."""
        return [tuple_ for part in self.parts for tuple_ in part.record.skipped]

    @property
    def labelled(self) -> bool:
        """Whether any item in the finished parts has a label."""
        return any(part.record.labelled for part in self.parts)

    def add(self, entries: Sequence[Entry], origin: int, batch: Batch, codes: Codes) -> None:
        """Writes the result of reading some entries of one source. codes (n, dim): of the batch's images."""
        with explained(self.folder, making=[self.folder]):
            if self._part is None:
                self._part = _PartWriter(self.folder / _name(len(self.parts)))
            self._part.add(entries, origin, batch, codes)
            if self._part.full:
                self.finish_part()

    def finish_part(self) -> None:
        """Finishes the current part, so that the next build finds it."""
        if self._part is not None:
            part, self._part = self._part, None
            with explained(self.folder, making=[self.folder]):
                self.parts.append(Part(part.folder, part.finish()))

    def stop(self) -> None:
        """Ends a build early: finishes the current part and keeps all parts, unless they are empty."""
        try:
            self.finish_part()
        except StoreError:  # a full disk, which also ended the build
            shutil.rmtree(self.folder / _name(len(self.parts)), ignore_errors=True)
        if not self.rows:
            self.end()

    @property
    def kinds(self) -> dict[str, Kind]:
        """The types of the fields of the items in the finished parts."""
        kinds: dict[str, Kind] = {}
        for part in self.parts:
            kinds = merged(kinds, part.record.kinds)
        return kinds

    def stream(self) -> Iterator[New]:
        """All items of the finished parts with their codes, in batches."""
        for part in self.parts:
            codes, place = part.codes(self.plan.dim), 0
            for some in chunks(part.rows(), ADDED):
                entries, origins, contents, shown = zip(*some, strict=True)
                yield New(entries, origins, contents, shown, codes[place : place + len(some)])
                place += len(some)

    def sample(self) -> Codes:
        """An even sample of all parts' codes, for ranges and medians; empty for float32, which needs none."""
        from simrec.index import SAMPLE

        if self.plan.dtype == "float32" or not self.rows:
            return np.empty((0, self.plan.dim), np.float32)
        codes = _Codes([part.codes(self.plan.dim) for part in self.parts])
        step = max(1, -(-self.rows // SAMPLE))
        return np.concatenate([codes[row : row + step * ADDED][::step] for row in range(0, self.rows, step * ADDED)])

    def end(self) -> None:
        """Deletes the parts, which are in a catalogue now."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _found_plan(self) -> dict[str, object] | None:
        """The plan of the interrupted build, None if there is none to continue."""
        try:
            with opened_below(self.folder, "plan.json") as file:
                plan = json.loads(read(file, LARGEST_RECORD))
        except (OSError, ValueError, RecursionError):
            return None
        return plan if isinstance(plan, dict) else None

    def _found_part(self, folder: Path) -> PartRecord | None:
        try:
            with opened_below(folder, "part.json") as file:
                return convert(json.loads(read(file, LARGEST_RECORD)), PartRecord)
        except (OSError, ValueError, RecursionError, ValidationError):
            return None


class _Codes:
    """The codes of several parts as one array, mapped into memory."""

    def __init__(self, parts: Sequence[NDArray[np.float32]]) -> None:
        self._parts = parts

    def __getitem__(self, rows: slice) -> Codes:
        start, parts = 0, []
        for part in self._parts:
            inside = part[max(0, rows.start - start) : max(0, rows.stop - start)]
            if len(inside):
                parts.append(inside)
            start += len(part)
        return np.concatenate(parts)


class _PartWriter:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        clear(folder)
        folder.mkdir()
        self._files = {name: (folder / name).open("xb") for name in ("codes.f32", "items.jsonl", "previews.bin")}
        self._begun = time.monotonic()
        self._hash = hashlib.sha256()
        self._entries = self._rows = 0
        self._labelled = False
        self._kinds: dict[str, Kind] = {}
        self._skipped: list[tuple[str, str]] = []
        self._encoder = Encoder()

    @property
    def full(self) -> bool:
        return self._rows >= ROWS or time.monotonic() - self._begun >= SECONDS

    def add(self, entries: Sequence[Entry], origin: int, batch: Batch, codes: Codes) -> None:
        for entry in entries:
            if len(entry.id) + len(entry.source) + len(entry.label) + len(entry.stamp) > LARGEST_TEXTS:
                raise DataError(f"{entry.id:.100}: its texts are longer than {LARGEST_TEXTS:,} characters: cut them")
        _add_to(self._hash, entries)
        self._entries += len(entries)
        self._rows += len(batch.entries)
        self._labelled = self._labelled or any(entry.label for entry in batch.entries)
        read = batch.entries
        if batch.fields:
            pairs = zip(read, batch.fields, strict=True)
            read = [replace(entry, fields={**entry.fields, **details, **entry.fields}) for entry, details in pairs]
        if any(entry.fields for entry in read):
            self._kinds = fields_kinds((entry.fields for entry in read), self._kinds)
            if len(self._kinds) > LARGEST_FIELDS:
                raise DataError(f"more than {LARGEST_FIELDS:,} fields: leave some columns out")
        self._skipped += [(entry.source, str(error)) for entry, error in batch.errors]
        self._files["codes.f32"].write(np.ascontiguousarray(codes, np.float32).tobytes())
        lines = [
            self._encoder.encode((entry, origin, content, len(preview), zlib.crc32(preview))) + b"\n"
            for entry, content, preview in zip(read, batch.contents, batch.previews, strict=True)
        ]
        self._files["items.jsonl"].write(b"".join(lines))
        self._files["previews.bin"].write(b"".join(batch.previews))

    def finish(self) -> PartRecord:
        with contextlib.ExitStack() as closing:
            for file in self._files.values():
                closing.enter_context(file)
            for file in self._files.values():
                file.flush()
                os.fsync(file.fileno())
        record = PartRecord(
            self._entries, self._hash.hexdigest(), self._rows, self._labelled, self._kinds, self._skipped
        )
        _write(self.folder / "part.json", json.dumps(asdict(record)).encode())
        return record


def _described(plan: Mapping[str, object], name: str) -> str:
    """The command that had a plan, for people; it may come from an older simrec. name: the recommender's."""
    sources = plan.get("sources")
    listed = sources if isinstance(sources, list) else [[plan.get("source")]]
    named = [shlex.quote(str(one[0])) for one in listed if isinstance(one, list) and one]
    command = str(plan.get("command", "build"))
    if command == "index.sync":
        return f"'simrec index sync {name}'"
    if command == "index.add":
        return f"'simrec index add {name} {named[-1] if named else ''}'"[:300]
    return f"'simrec index build {name}' of {', '.join(named)}"[:300]


def _name(number: int) -> str:
    return f"{number + 1:06d}"


def _digest(entries: Sequence[Entry]) -> str:
    sha256 = hashlib.sha256()
    _add_to(sha256, entries)
    return sha256.hexdigest()


def _add_to(sha256: hashlib._Hash, entries: Sequence[Entry]) -> None:
    """Adds entries to a digest, which doesn't depend on how many are added at a time."""
    for entry in entries:
        fields = sorted(entry.fields.items()) if entry.fields else ()
        sha256.update(
            repr((entry.id, entry.source, entry.label, entry.stamp, fields)).encode("utf-8", "backslashreplace")
        )


def _write(path: Path, data: bytes) -> None:
    """Writes a file that is complete or not there."""
    temporary = path.with_suffix(".new")
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    with temporary.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
