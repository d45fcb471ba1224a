"""Catalogues: sources in, a recommender with its codes out; and kept in step with them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from dataclasses import replace as replace_fields
from functools import partial
from itertools import groupby
from pathlib import Path

from simrec import library, store
from simrec.catalogue import LocalCatalogue
from simrec.catalogue.building import Building, Listed, New, Plan
from simrec.catalogue.comparing import Difference, FieldsOf, Known, addition, difference, known_item, known_items
from simrec.catalogue.revising import Coding, Revision
from simrec.contracts import Batch, Codes, Dtype, Entry, Notice, Value
from simrec.errors import DataError, RequestError, StoreError
from simrec.manifest import CatalogueRecord, ChangeRecord, EncoderRecord, Manifest, SourceRecord
from simrec.recommender import Recommender, silent
from simrec.sources.load import READ, Held, LeftOut, at_once, open_source
from simrec.streams import ahead, chunks

DRIFT = 0.1
"""The share by which a catalogue grows or shrinks before its items' distances are measured again."""

FILE_FIELDS = {"folder", "name", "bytes", "modified", "width", "height"}
"""The fields that picture files give by themselves."""


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


@dataclass(frozen=True)
class Outcome:
    """What a change did to a catalogue, in items; unreadable: pictures that could not be read. items: how many there
    are now.
    """

    recommender: Recommender
    items: int
    added: int = 0
    changed: int = 0
    removed: int = 0
    renamed: int = 0
    unchanged: int = 0
    unreadable: int = 0

    def __str__(self) -> str:
        counts = [(self.added, "added"), (self.changed, "changed"), (self.removed, "removed")]
        counts += [(self.renamed, "renamed"), (self.unchanged, "unchanged"), (self.unreadable, "unreadable")]
        return ", ".join(f"{count:,} {what}" for count, what in counts)


def build(
    name: str,
    source: str | None = None,
    *,
    encoder: str | None = None,
    dtype: Dtype | None = None,
    replace: bool = False,
    from_scratch: bool = False,
    yes: bool = False,
    discard: bool = False,
    unread: Unread | None = None,
    data_dir: Path | None = None,
    home_folder: Path | None = None,
    progress: Callable[[str, int, int], None] = silent,
    notice: Notice = silent,
) -> Recommender:
    """Encodes a source and commits it as the catalogue of a recommender; one that is there already is synced.

    Reading, encoding and writing go on at the same time, and nothing needs all pictures in memory. A build that is
    interrupted leaves what it has finished; the next one of the same source and encoder goes on from there.

    source: by default the ones it was built from before, else what the encoder was trained on. encoder: the recommender
    whose encoder to take; by default the one that `name` has, else a shipped one that suits the source. A catalogue of
    another encoder is encoded again, with its ids and fields. dtype: how codes are kept (see `simrec.index`); by
    default as they were before, else float32. replace: whether another source's catalogue may go. from_scratch: encodes
    everything, even what hasn't changed. yes: see `sync`. discard: throws away what an interrupted build has finished.
    progress: told a stage ("encoding", "writing"), how many pictures are done, and of how many, 0 while that isn't
    known.

    Raises RequestError or StoreError when the recommender is not there, is a shipped one, or has another source's
    catalogue; DataError and ImageError for the source. Whatever is raised, the catalogue before still answers.
    """
    context = Context(progress, notice, home_folder, data_dir)
    place = home_folder or library.default()
    folder = place / library.check_name(name)
    unread = unread or Unread()
    origin = _origin(name, source, encoder, place, notice)
    before = store.current(folder, hold=False).manifest if store.exists(folder) else None
    catalogue = before.catalogue if before else None
    other = before is not None and before.encoder.digest != origin.manifest.encoder.digest
    if before and other and not catalogue:
        raise StoreError(
            f"{folder}: has encoder {before.encoder.title}, not {origin.manifest.encoder.title} of {origin.name}: "
            f"choose another name"
        )
    sources = [source] if source is not None else [one.name for one in catalogue.sources] if catalogue else None
    sources = sources or [origin.manifest.encoder.trained_on.source]
    opened = [open_source(one, data_dir=data_dir, notice=notice) for one in sources]
    coming = ", ".join(one.name for one in opened)
    if catalogue and catalogue.source != coming and not replace:
        raise StoreError(
            f"{folder}: has a catalogue of {catalogue.source}: add --replace to give it up for "
            f"{opened[0].name}, 'simrec index add {name} {source}' to have both, or choose another name"
        )
    built: Recommender | None = None
    again = bool(catalogue and other and catalogue.source == coming)
    if again:
        notice(f"{name}: encoded again with {origin.manifest.encoder.title}; what it has answers until that is done.")
    same = catalogue is not None and catalogue.source == coming and dtype in (None, catalogue.dtype)
    if catalogue and same and not other and not from_scratch and _revisable(catalogue, name, notice):
        outcome = sync(name, yes=yes, discard=discard, unread=unread, context=context)
        notice(f"{name}: {outcome}.")
        built = outcome.recommender
    kept_as: Dtype = dtype or (catalogue.dtype if catalogue else "float32")
    built = built or _built(folder, origin, opened, kept_as, discard, unread, context, again=again)
    if source is not None:
        _remember(context, opened[0])
    return built


def sync(
    name: str,
    source: str | None = None,
    *,
    root: Path | None = None,
    dry_run: bool = False,
    yes: bool = False,
    discard: bool = False,
    unread: Unread | None = None,
    context: Context | None = None,
) -> Outcome:
    """Makes a catalogue what its sources are now; only new and changed pictures are read and encoded.

    source: one of its sources, by default all; a catalogue of one source may get another in its place. root: where the
    folder of its only source lies now. dry_run: only says what it would do. yes: whether more than half of a source's
    items may go. discard, unread: see `build`.

    Raises RequestError and StoreError when there is no such catalogue, or when too much would go; DataError for the
    source. Whatever is raised, the catalogue before still answers.
    """
    context, unread = context or Context(), unread or Unread()
    folder = _own(name, context)
    records = list(_record(folder, name).sources)
    chosen = list(range(len(records)))
    opened: Held | None = None
    if source is not None or root is not None:
        text = source if root is None else _moved(records, source, root)
        assert text is not None
        opened = open_source(text, data_dir=context.data_dir, notice=context.notice)
        same = [number for number in chosen if records[number].name == opened.name]
        if root is not None:
            same = [number for number in chosen if _elsewhere(records[number], root) == text]
        if not same and len(records) > 1:
            raise RequestError(
                f"{opened.name}: no source of {name}, which has {', '.join(one.name for one in records)}: "
                f"'simrec index add {name} {text}' adds it"
            )
        chosen = same or [0]
        records[chosen[0]] = _source_record(opened)
    change = _Change(folder, records, chosen, "index.sync", dry_run, yes, discard, unread, context)
    outcome = change.made()
    if opened is not None and not dry_run:
        _remember(context, opened)
    return outcome


def add(
    name: str, source: str, *, discard: bool = False, unread: Unread | None = None, context: Context | None = None
) -> Outcome:
    """Adds a source to a catalogue. Raises DataError, before anything is written, where one of its ids is taken."""
    context, unread = context or Context(), unread or Unread()
    folder = _own(name, context)
    records = list(_record(folder, name).sources)
    opened = open_source(source, data_dir=context.data_dir, notice=context.notice)
    if opened.name in (one.name for one in records):
        raise RequestError(f"{opened.name}: {name} has this source already: 'simrec index sync {name}' follows it")
    records.append(_source_record(opened))
    change = _Change(folder, records, [len(records) - 1], "index.add", False, True, discard, unread, context)
    outcome = change.made()
    _remember(context, opened)
    return outcome


def remove(
    name: str, ids: Sequence[str] = (), *, where: str | None = None, yes: bool = False, context: Context | None = None
) -> Outcome:
    """Removes items, those with some ids and those that an expression is true of; yes: even if they are more than half.

    Their pictures stay where they are, so the next sync would add them again. Raises RequestError for an id that isn't
    there and when there is nothing to remove.
    """
    context = context or Context()
    folder = _own(name, context)
    with store.Writer(folder) as writer:
        before = Recommender(folder)
        _check_revisable(before.catalogue, name)
        revision = Revision(before.catalogue)
        known = {id_: known_item(before.catalogue, id_) for id_ in ids}
        if missing := [id_ for id_, item in known.items() if item is None]:
            raise RequestError(f"no item {missing[0]!r} in {name}: 'simrec export {name} -o items.csv' lists the ids")
        rows = {(item.segment, item.row) for item in known.values() if item is not None}
        matching = set() if where is None else set(before.catalogue.places(where))
        if 2 * len(matching) > len(before.catalogue) and not yes:
            raise RequestError(
                f"{name}: {len(matching):,} of its {len(before.catalogue):,} items match, more than half: add --yes to "
                f"remove them"
            )
        if not rows | matching:
            raise RequestError(f"{name}: nothing to remove: no item matches")
        for segment, row in rows | matching:
            revision.remove(segment, row)
        change = ChangeRecord("index.remove", removed=len(rows | matching))
        return _committed(writer, before, revision, before.manifest.catalogue, change, context)


def set_fields(name: str, source: str, *, context: Context | None = None) -> Outcome:
    """Gives items the fields that a list has for their ids, without touching pictures; others keep what they have.

    Raises DataError for the list, RequestError where none of its ids is an item.
    """
    from simrec.sources.lists import rows_of

    context = context or Context()
    folder = _own(name, context)
    with store.Writer(folder) as writer:
        before = Recommender(folder)
        _check_revisable(before.catalogue, name)
        known = {item.id: item for item in known_items(before.catalogue)}
        revision, unknown, changed = Revision(before.catalogue), 0, 0
        for id_, fields in rows_of(source, context.notice):
            item = known.get(id_)
            if item is None:
                unknown += 1
            elif fields:
                revision.update(item.segment, item.row, fields)
                changed += 1
        if not changed:
            raise RequestError(
                f"{source}: none of its {unknown:,} ids is an item of {name}: its column 'id' names them"
            )
        if unknown:
            context.notice(f"{source}: {unknown:,} of its ids are no items of {name}: passed over.")
        change = ChangeRecord("index.fields", source, changed=changed)
        return _committed(writer, before, revision, before.manifest.catalogue, change, context)


def changes(name: str, *, home_folder: Path | None = None, stop: threading.Event | None = None) -> Iterator[None]:
    """Waits for files to change below the sources of a catalogue, until `stop` is set; yields after each burst.

    Raises RequestError where watchfiles is not installed, and for a catalogue of no folder or list.
    """
    try:
        from watchfiles import watch
    except ImportError as error:
        raise RequestError("watchfiles, which --watch needs, is not installed: pip install 'simrec[watch]'") from error
    folder = (home_folder or library.default()) / name
    roots = [one.root for one in _record(folder, name).sources if one.root is not None]
    if not roots:
        raise RequestError(f"{name} has no folder or list to watch: run 'simrec index sync {name}' now and then")
    own = folder.resolve()

    def outside(_: object, path: str) -> bool:
        return not Path(path).is_relative_to(own)  # a home may lie among the pictures

    for _ in watch(*roots, watch_filter=outside, debounce=1000, stop_event=stop):
        yield


@dataclass(frozen=True)
class _Change:
    """Some sources of a catalogue, to be brought up to date.

    records: all sources that it will have. chosen: the numbers of those to look at.
    """

    folder: Path
    records: Sequence[SourceRecord]
    chosen: Sequence[int]
    command: str
    dry_run: bool
    yes: bool
    discard: bool
    unread: Unread
    context: Context

    def made(self) -> Outcome:
        if self.dry_run:
            before = self._before()
            found = [self._compared(before.catalogue, number) for number in self.chosen]
            return self._outcome(before, found, 0, before.manifest.catalogue.count)  # type: ignore[union-attr]
        with store.Writer(self.folder) as writer:
            before = self._before()
            found = [self._compared(before.catalogue, number) for number in self.chosen]
            return self._written(writer, before, found)

    def _before(self) -> Recommender:
        """The recommender, as if its catalogue had the coming sources already."""
        before = Recommender(self.folder)
        _check_revisable(before.catalogue, before.name)
        return before.with_sources(tuple(self.records))

    def _compared(self, catalogue: LocalCatalogue, number: int) -> Difference:
        record, source = self.records[number], self._opened(number)
        entries = _told(source.entries(), self.context.progress)
        contents = partial(_contents, source, self.context.progress)
        if self.command == "index.add":
            return addition(entries, catalogue, contents)
        found = difference(entries, catalogue, number, contents)
        held = len(found.removed) + found.unchanged + len(found.changed) + len(found.renamed)
        held += len(found.relabelled) + len(found.fields)
        if 2 * len(found.removed) > held and not self.yes:
            raise StoreError(
                f"{record.name}: {len(found.removed):,} of its {held:,} items are gone, more than half: look whether "
                f"the disk is there, or add --yes to remove them from {self.folder.name}"
            )
        return found

    def _written(self, writer: store.Writer, before: Recommender, found: Sequence[Difference]) -> Outcome:
        catalogue, context = before.catalogue, self.context
        record, encoder = before.manifest.catalogue, before.manifest.encoder
        assert record is not None
        listed = [
            (number, entry) for number, one in zip(self.chosen, found, strict=True) for entry in one.encoded
        ]  # fmt: skip
        left_out = LeftOut(context.notice, self.unread.strict)
        sources = [(one.name, one.root) for one in self.records]
        plan = Plan(self.command, sources, encoder.digest, encoder.input, encoder.dim, encoder.metric, record.dtype)
        building = Building(self.folder, plan)
        building.begin(discard=self.discard)
        if listed:
            opened = {number: self._opened(number) for number in self.chosen}
            with _keeping(building, context.notice):
                _encode(building, iter(listed), opened, before, left_out, context, lambda: listed)
        else:
            building.resumed(iter(()))  # what an interrupted one has finished isn't listed any more
        left_out.end(self.unread.list)
        live = store.current(self.folder, hold=False).manifest.catalogue
        if not building.rows and all(one.nothing_else for one in found) and live == record:
            building.end()
            return replace_fields(self._outcome(before, found, left_out.count, record.count), added=0, changed=0)
        revision = Revision(catalogue)
        changed = {entry.id: item for one in found for entry, item in one.changed}
        read = {entry.id for part in building.parts for entry, *_ in part.rows()} if changed else set()
        for id_ in changed.keys() & read:
            revision.remove(changed[id_].segment, changed[id_].row)
        for number, one in zip(self.chosen, found, strict=True):
            for entry, item in [*one.renamed, *one.touched, *one.relabelled]:
                revision.copy(item.segment, item.row, entry, number)
                revision.remove(item.segment, item.row)
            for entry, item in one.copied:
                revision.copy(item.segment, item.row, entry, number, same=False)
            for item, fields in one.fields:
                revision.update(item.segment, item.row, fields)
            for item in one.removed:
                revision.remove(item.segment, item.row)
        new = _with_fields_kept(building.stream(), changed, catalogue)
        outcome = self._outcome(before, found, left_out.count, revision.count + building.rows)
        outcome = replace_fields(
            outcome, added=outcome.added - left_out.count + len(changed.keys() - read),
            changed=outcome.changed - len(changed.keys() - read),
        )  # fmt: skip
        note = "" if live and live.sources == tuple(self.records) else f"of {self.records[self.chosen[0]].name}"
        change = ChangeRecord(self.command, note, outcome.added, outcome.changed, outcome.removed, outcome.renamed)
        coming = replace_fields(
            record, sources=tuple(self.records), labelled=record.labelled or building.labelled
            or any(entry.label for one in found for entry, _ in [*one.relabelled, *one.copied, *one.renamed]),
        )  # fmt: skip
        made = _committed(writer, before, revision, coming, change, context, building, new)
        return replace_fields(outcome, recommender=made.recommender, items=made.items)

    def _opened(self, number: int) -> Held:
        record = self.records[number]
        if record.root is not None and not Path(record.root).exists():
            raise DataError(
                f"{record.root}: is not there, so nothing was changed: look whether its disk is, or say where it lies "
                f"now: 'simrec index sync {self.folder.name} --root FOLDER'"
            )
        return open_source(record.name, data_dir=self.context.data_dir, notice=self.context.notice)

    def _outcome(self, before: Recommender, found: Sequence[Difference], unreadable: int, items: int) -> Outcome:
        return Outcome(
            before, items,
            added=sum(len(one.added) + len(one.copied) for one in found),
            changed=sum(len(one.changed) + len(one.relabelled) + len(one.fields) for one in found),
            removed=sum(len(one.removed) for one in found),
            renamed=sum(len(one.renamed) for one in found),
            unchanged=sum(one.unchanged for one in found),
            unreadable=unreadable,
        )  # fmt: skip


def _own(name: str, context: Context) -> Path:
    """The folder of a recommender that may be changed. Raises RequestError when there is none of that name."""
    place = context.home or library.default()
    library.check_changeable(name, place)
    return place / name


def _record(folder: Path, name: str) -> CatalogueRecord:
    """What the live manifest says of the catalogue. Raises RequestError when there is none."""
    record = store.current(folder, hold=False).manifest.catalogue
    if record is None:
        raise RequestError(f"{name} has no catalogue yet: run 'simrec index build {name}'")
    return record


def _moved(records: Sequence[SourceRecord], source: str | None, root: Path) -> str:
    """What a source is called now that its folder lies elsewhere: the named one, the only one, or the only one whose
    folder is gone.
    """
    rooted = [one for one in records if one.root is not None and source in (None, one.name, one.root)]
    gone = [one for one in rooted if not Path(str(one.root)).exists()]
    chosen = rooted if len(rooted) == 1 else gone
    if len(chosen) != 1:
        names = ", ".join(one.name for one in records)
        raise RequestError(f"--root {root}: which source is there now? Name it before --root: {names}")
    return _elsewhere(chosen[0], root)


def _elsewhere(record: SourceRecord, root: Path) -> str:
    """The name of a source whose root is another folder."""
    return record.name.replace(record.root or "\0", root.absolute().as_posix(), 1)


def _source_record(source: Held) -> SourceRecord:
    return SourceRecord(source.name, source.root, source.test, source.reduced)


def _revisable(record: CatalogueRecord, name: str, notice: Notice) -> bool:
    """Whether a catalogue can be changed in part; says so where not."""
    if any(segment.format == 2 for segment in record.segments):
        notice(f"{name}: an older simrec wrote its catalogue: everything is encoded again.")
        return False
    return True


def _check_revisable(catalogue: LocalCatalogue, name: str) -> None:
    if catalogue.by_pixels:
        raise RequestError(f"{name}: an older simrec wrote its catalogue: run 'simrec index build {name}' first")


def _remember(context: Context, source: Held) -> None:
    """Sheets may draw from a folder that this user has named: not from one that only a recommender names, which may
    have come from anyone.
    """
    if source.root is not None:
        library.remember_root(context.home or library.default(), source.root)


def _told(entries: Iterable[Entry], progress: Callable[[str, int, int], None]) -> Iterator[Entry]:
    """The entries, counted for whoever follows."""
    count = 0
    for count, entry in enumerate(entries, 1):
        if not count % 1000:
            progress("comparing", count, 0)
        yield entry
    progress("comparing", count, count)


def _contents(source: Held, progress: Callable[[str, int, int], None], entries: Sequence[Entry]) -> list[str | None]:
    """The digests of entries' files, which can take a while."""
    found: list[str | None] = []
    for some in chunks(entries, READ):
        found += source.contents(some)
        progress("reading files", len(found), len(entries))
    return found


def _with_fields_kept(new: Iterator[New], changed: dict[str, Known], catalogue: LocalCatalogue) -> Iterator[New]:
    """What was encoded; an item that changed keeps the fields that its source doesn't give."""
    for some in new:
        entries = list(some.entries)
        for place, entry in enumerate(entries):
            if (item := changed.get(entry.id)) is not None:
                (held,) = catalogue.segments[item.segment].fields([item.row])
                entries[place] = replace_fields(entry, fields={**held, **entry.fields})
        yield replace_fields(some, entries=entries)


def _committed(
    writer: store.Writer, before: Recommender, revision: Revision, record: CatalogueRecord | None, change: ChangeRecord,
    context: Context, building: Building | None = None, new: Iterable[New] = (),
) -> Outcome:  # fmt: skip
    """Makes a revision the live generation."""
    assert record is not None
    encoder, coming = before.manifest.encoder, building.rows if building else 0
    writer.keep(before.generation, encoder.folder)
    count = revision.count + coming
    coding = Coding(encoder.dim, encoder.metric, record.dtype, building.sample() if building else _none(encoder))
    segments = revision.finish(
        writer, coding, [one.root for one in record.sources], new, coming, building.kinds if building else {},
        lambda done: context.progress("writing", done, coming),
    )  # fmt: skip
    distances, measured = record.distances, record.measured
    if abs(count - measured) > DRIFT * measured:
        distances, measured = revision.distances(), count
    made = replace_fields(
        record, count=count, labelled=record.labelled and count > 0, segments=segments, distances=distances,
        measured=measured,
    )  # fmt: skip
    writer.commit(Manifest.new(encoder, made, change), built=building is not None)
    counts = {name: getattr(change, name) for name in ("added", "changed", "removed", "renamed")}
    return Outcome(Recommender(before.folder), count, **counts)


def _none(encoder: EncoderRecord) -> Codes:
    import numpy as np

    return np.empty((0, encoder.dim), np.float32)


def _built(
    folder: Path, origin: Recommender, sources: Sequence[Held], dtype: Dtype, discard: bool, unread: Unread,
    context: Context, *, again: bool = False,
) -> Recommender:  # fmt: skip
    """A catalogue of everything that some sources list; again: of the items that it has already, with their fields."""
    record = origin.manifest.encoder
    left_out = LeftOut(context.notice, unread.strict)
    roots = [(one.name, one.root) for one in sources]
    command = "encode" if again else "build"
    with store.Writer(folder) as writer:  # before the pictures are read, which can take hours
        held = Recommender(folder).catalogue if again else None
        kept = _kept_encoder(writer, origin, folder)  # before hours of encoding: one of its files may be damaged
        plan = Plan(command, roots, record.digest, record.input, record.dim, record.metric, dtype)
        building = Building(folder, plan)
        building.begin(discard=discard)
        with _keeping(building, context.notice):
            listed = _items(held) if held else _with_fields_of(folder, _listed(sources))
            every = held.all if held else lambda: (entry for one in sources for entry in one.entries())
            _encode(building, listed, dict(enumerate(sources)), origin, left_out, context, every)
            if not building.rows:
                raise DataError(
                    f"{sources[0].name}: none of its {left_out.count:,} pictures can be read: {left_out.first}"
                )
        left_out.end(unread.list)
        revision = Revision(None)
        coding = Coding(record.dim, record.metric, dtype, building.sample())
        segments = revision.finish(
            writer, coding, [one.root for one in sources], building.stream(), building.rows, building.kinds,
            lambda done: context.progress("writing", done, building.rows),
        )  # fmt: skip
        made = CatalogueRecord(
            sources=tuple(_source_record(one) for one in sources),
            count=building.rows,
            labelled=building.labelled,
            encoder=record.digest,
            dtype=dtype,
            segments=segments,
            distances=revision.distances(),
            measured=building.rows,
        )
        change = ChangeRecord("index.build", added=0 if again else building.rows, changed=building.rows if again else 0)
        writer.commit(Manifest.new(kept, made, change), built=True)
    return Recommender(folder)


def _listed(sources: Sequence[Held]) -> Iterator[Listed]:
    """The entries of all sources. Raises DataError for an id that two of them have."""
    seen: set[int] = set()
    for number, source in enumerate(sources):
        for entry in source.entries():
            if len(sources) > 1:  # within one it looks itself
                if hash(entry.id) in seen:
                    raise DataError(
                        f"{source.name}: the id {entry.id!r} is in another source too: rename one of the two"
                    )
                seen.add(hash(entry.id))
            yield number, entry


def _with_fields_of(folder: Path, listed: Iterator[Listed]) -> Iterator[Listed]:
    """The entries; those that are items already keep the fields that no source gives, as `set_fields` set them."""
    kept: dict[str, dict[str, Value]] = {}
    with suppress(StoreError, RequestError):  # a damaged catalogue is built from what there is
        catalogue = Recommender(folder).catalogue
        names = {name for one in catalogue.segments for name in one.kinds} - FILE_FIELDS
        held = FieldsOf(catalogue)
        for item in known_items(catalogue) if names else ():
            fields = held.of(item)
            kept[item.id] = {name: fields[name] for name in names & fields.keys() if fields[name] is not None}
    for number, entry in listed:
        if extra := kept.get(entry.id):
            entry = replace_fields(entry, fields={**extra, **entry.fields})
        yield number, entry


def _items(catalogue: LocalCatalogue) -> Iterator[Listed]:
    """A catalogue's items as entries, with all their fields, source by source."""
    for origin in sorted({item.origin for item in known_items(catalogue)}):
        for one in catalogue.segments:
            removed = set(one.removed.tolist())
            for rows in one.batches():
                there = [row for row in rows if row.number not in removed and row.origin == origin]
                for row, fields in zip(there, one.fields([row.number for row in there]), strict=True):
                    yield origin, Entry(row.item.id, row.item.source, row.item.label, row.item.stamp, fields)


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
