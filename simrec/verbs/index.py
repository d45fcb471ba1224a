"""Keeps catalogues up to date with their sources, and changes them by hand."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import replace as replace_fields
from functools import partial
from pathlib import Path

from simrec import library, store
from simrec.catalogue import Catalogue, LocalCatalogue
from simrec.catalogue.building import Building, New, Plan
from simrec.catalogue.comparing import Contents, Difference, FieldsOf, addition, difference, settle
from simrec.catalogue.known import Known
from simrec.catalogue.remote import RemoteRevision
from simrec.catalogue.revising import Coding, Revision
from simrec.contracts import Entry, Value
from simrec.errors import DataError, EmptyError, RequestError, StoreError
from simrec.files import PathText, typed
from simrec.home import default, home_of
from simrec.manifest import CatalogueRecord, ChangeRecord, Manifest, SourceRecord
from simrec.recommender import Recommender
from simrec.sources.load import READ, Held, LeftOut, open_source
from simrec.streams import chunks
from simrec.verbs.encoding import Context, Unread, check_upgrade, encode, keeping, no_codes, remember, source_record

OF_FILE = ("bytes", "modified")
"""Fields that describe a picture's file. An item keeps them, with its picture, if the new file can't be read."""

DRIFT = 0.1
"""Items' distances are measured again after a catalogue has grown or shrunk by this share."""


@dataclass(frozen=True)
class Outcome:
    """What a change did to a catalogue, in numbers of items. unreadable: pictures that could not be read. items: how
    many there are now.
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


def sync(
    name: str,
    source: PathText | None = None,
    *,
    root: PathText | None = None,
    dry_run: bool = False,
    yes: bool = False,
    discard: bool = False,
    unread: Unread | None = None,
    context: Context | None = None,
) -> Outcome:
    """Brings a catalogue up to date with its sources; only new and changed pictures are read and encoded.

    source: one of its sources, by default all; a catalogue with a single source may get another one instead. root:
    where the folder of its only source lies now. dry_run: only report what would change. yes: whether more than half of
    a source's items may be removed. discard, unread: see `build`.

    Raises RequestError and StoreError if there is no such catalogue, or if too much would be removed; DataError for the
    source. After any error, the previous catalogue still answers.
    """
    context, unread = context or Context(), unread or Unread()
    source = None if source is None else typed(source, "a source")
    root = None if root is None else Path(typed(root, "a folder"))
    folder = _own(name, context)
    records = list(_record(folder, name).sources)
    chosen = list(range(len(records)))
    opened: Held | None = None
    if root is not None:
        chosen = [_moved(records, source, root)]
        opened = open_source(_elsewhere(records[chosen[0]], root), data_dir=context.data_dir, notice=context.notice)
        records[chosen[0]] = source_record(opened)
    elif source is not None:
        opened = open_source(source, data_dir=context.data_dir, notice=context.notice)
        same = [number for number in chosen if records[number].name == opened.name]
        if not same and len(records) > 1:
            raise RequestError(
                f"{opened.name}: not a source of {name}, which has {', '.join(one.name for one in records)}: "
                f"'simrec index add {name} {source}' adds it"
            )
        chosen = same or [0]
        records[chosen[0]] = source_record(opened)
    if opened is not None:
        opened.check_name(context.data_dir)
    change = _Change(folder, records, chosen, "index.sync", dry_run, yes, discard, unread, context)
    outcome = change.made()
    if opened is not None and not dry_run:
        remember(context, opened)
    return outcome


def add(
    name: str, source: PathText, *, discard: bool = False, unread: Unread | None = None, context: Context | None = None
) -> Outcome:
    """Adds a source to a catalogue. Raises DataError, before anything is written, if one of its ids is taken."""
    context, unread = context or Context(), unread or Unread()
    folder = _own(name, context)
    records = list(_record(folder, name).sources)
    opened = open_source(source, data_dir=context.data_dir, notice=context.notice)
    if opened.name in (one.name for one in records):
        raise RequestError(f"{opened.name}: {name} already has this source: 'simrec index sync {name}' updates it")
    opened.check_name(context.data_dir)
    records.append(source_record(opened))
    change = _Change(folder, records, [len(records) - 1], "index.add", False, True, discard, unread, context)
    outcome = change.made()
    remember(context, opened)
    return outcome


def remove(
    name: str, ids: Sequence[str] = (), *, where: str | None = None, yes: bool = False, context: Context | None = None
) -> Outcome:
    """Removes the items with some ids (ID, or id:ID) and those that match a filter. yes: even if these are more than
    half.

    Their pictures stay where they are, so the next sync would add them again. Raises RequestError for an unknown id and
    if there is nothing to remove.
    """
    if isinstance(ids, str):  # which is a sequence too: of one-letter ids
        raise RequestError(f"{ids!r:.100}: give ids as a list, such as [{ids!r:.100}]")
    context = context or Context()
    folder = _own(name, context)
    with store.Writer(folder) as writer:
        before = Recommender(folder, home=context.home)
        _check_revisable(before.catalogue, name)
        revision = _revision(before.catalogue)
        known = {id_: before.catalogue.known_item(id_) for id_ in ids}
        for id_ in [id_ for id_, item in known.items() if item is None and id_.startswith("id:")]:
            known[id_] = before.catalogue.known_item(id_.removeprefix("id:"))  # as queries name items
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


def set_fields(name: str, source: PathText, *, context: Context | None = None) -> Outcome:
    """Sets items' fields from a list that has their ids, without touching pictures; other items and fields stay.

    Raises DataError for the list, RequestError if none of its ids is an item's.
    """
    from simrec.sources.lists import rows_of

    context, source = context or Context(), typed(source, "a list of fields")
    folder = _own(name, context)
    with store.Writer(folder) as writer:
        before = Recommender(folder, home=context.home)
        _check_revisable(before.catalogue, name)
        known = {item.id: item for item in before.catalogue.known()}
        revision, columns = _revision(before.catalogue), FieldsOf(before.catalogue)
        unknown = listed = changed = 0
        for id_, fields in rows_of(source, context.notice):
            item = known.get(id_)
            if item is None:
                unknown += 1
            elif not fields:
                raise RequestError(f"{source}: it has ids and no other column: add a column for each field")
            else:
                listed += 1
                if changes := columns.changes(fields, item):
                    revision.update(item.segment, item.row, changes)
                    changed += 1
        if not listed:
            raise RequestError(
                f"{source}: none of its {unknown:,} ids is an item of {name}: its column 'id' names them"
            )
        if unknown:
            context.notice(f"{source}: {unknown:,} of its ids are not in {name}, and were skipped.")
        if not changed:
            return Outcome(before, len(known), unchanged=len(known))
        if isinstance(revision, Revision):
            revision.numbers = columns.numbers
        change = ChangeRecord("index.fields", source, changed=changed)
        made = _committed(writer, before, revision, before.manifest.catalogue, change, context)
        for column in sorted(columns.numbers):
            if made.recommender.catalogue.kinds[column] == "string":
                context.notice(
                    f"{name}: column {column!r:.100} is still text, because other values of it are texts: make all of "
                    f"them numbers like 1234.50 to compare them."
                )
        return replace_fields(made, unchanged=len(known) - changed)


def changes(name: str, *, home_folder: PathText | None = None, stop: threading.Event | None = None) -> Iterator[bool]:
    """Waits for files to change below the sources of a catalogue, until `stop` is set; yields True after each burst,
    and False after a few seconds without a change.

    Raises RequestError if watchfiles is not installed, and for a catalogue without a folder or list.
    """
    try:
        from watchfiles import watch
    except ImportError as error:
        raise RequestError("watchfiles, which --watch needs, is not installed: pip install 'simrec[watch]'") from error
    folder = home_of(home_folder) / name

    def watched() -> list[str]:
        return [one.root for one in _record(folder, name).sources if one.root is not None]

    roots = watched()
    if not roots:
        raise RequestError(f"{name} has no folder or list to watch: run 'simrec index sync {name}' now and then")
    own = folder.resolve()

    def outside(_: object, path: str) -> bool:
        return not Path(path).is_relative_to(own)  # the home may be among the pictures

    while roots:
        for changes in watch(*roots, watch_filter=outside, debounce=1000, stop_event=stop, yield_on_timeout=True):
            yield bool(changes)
            before, roots = roots, watched()
            if roots != before:
                break
        else:
            return


@dataclass(frozen=True)
class _Change:
    """Brings some sources of a catalogue up to date.

    records: all sources that it will have. chosen: the numbers of those to compare.
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
            differences = self._compared(before.catalogue)
            return self._outcome(before, differences, 0, before.manifest.catalogue.count)  # type: ignore[union-attr]
        with store.Writer(self.folder) as writer:
            before = self._before()
            differences = self._compared(before.catalogue)
            return self._written(writer, before, differences)

    def _before(self) -> Recommender:
        """The recommender, as if its catalogue already had the new sources."""
        before = Recommender(self.folder, home=self.context.home)
        _check_revisable(before.catalogue, before.name)
        if isinstance(before.catalogue, LocalCatalogue):
            before.catalogue.index  # noqa: B018 - raises for missing codes, which a sync without changes doesn't read
        return before.with_sources(tuple(self.records))

    def _compared(self, catalogue: Catalogue) -> list[Difference]:
        """What must change, for each chosen source."""
        if self.command == "index.add":
            source = self._opened(self.chosen[0])
            return [addition(self._entries(source), catalogue, self._contents(source))]
        compared, empty = {}, {}
        for number in self.chosen:
            root = self.records[number].root
            if root is not None and not Path(root).exists() and number not in {one.origin for one in catalogue.known()}:
                compared[number] = Difference()  # all its items have moved to other sources
                continue
            source = self._opened(number)
            try:
                compared[number] = difference(self._entries(source), catalogue, number, self._contents(source))
                _check_listed(source, compared[number])
            except EmptyError as error:
                compared[number], empty[number] = difference((), catalogue, number, self._contents(source)), error
        settle(compared, catalogue, lambda number: self._contents(self._opened(number)))
        for number, one in compared.items():
            if one.removed and number in empty:
                raise empty[number]
            held = len(one.removed) + one.unchanged + len(one.changed) + len(one.renamed)
            held += len(one.relabelled) + len(one.fields)
            if 2 * len(one.removed) > held and not self.yes:
                raise StoreError(
                    f"{self.records[number].name}: {len(one.removed):,} of its {held:,} items are gone, more than "
                    f"half: check that the disk is there, or add --yes to remove them from {self.folder.name}"
                )
        return [compared[number] for number in self.chosen]

    def _entries(self, source: Held) -> Iterator[Entry]:
        return _counted(source.entries(), self.context.progress)

    def _contents(self, source: Held) -> Contents:
        return partial(_contents, source, self.context.progress)

    def _written(self, writer: store.Writer, before: Recommender, differences: Sequence[Difference]) -> Outcome:
        catalogue, context = before.catalogue, self.context
        record, encoder = before.manifest.catalogue, before.manifest.encoder
        assert record is not None
        listed = [
            (number, entry) for number, one in zip(self.chosen, differences, strict=True) for entry in one.encoded
        ]  # fmt: skip
        changed = {entry.id: (entry, item) for one in differences for entry, item in one.changed}
        left_out = LeftOut(context.notice, self.unread.strict, frozenset(changed))
        sources = [(one.name, one.root) for one in self.records]
        if listed:
            check_upgrade(before, context)
        provider = before.provider if listed else encoder.provider
        plan = Plan(
            self.command, sources, encoder.digest, encoder.input, encoder.dim, encoder.metric, record.dtype, provider
        )  # fmt: skip
        building = Building(self.folder, plan)
        building.begin(discard=self.discard)
        if listed:
            opened = {number: self._opened(number) for number in dict(listed)}
            with keeping(building, context.notice):
                encode(building, iter(listed), opened, before, left_out, context, lambda: listed)
        else:
            building.resumed(iter(()))  # nothing is listed any more of what an interrupted build has finished
        left_out.end(self.unread.list)
        live = store.current(self.folder, hold=False).manifest.catalogue
        read = {entry.id for part in building.parts for entry, *_ in part.rows()} if changed else set()
        unread = [pair for id_, pair in changed.items() if id_ not in read]
        kept, numbers = _fields_kept_up(catalogue, unread)
        if not building.rows and not kept and all(one.nothing_else for one in differences) and live == record:
            building.end()
            return replace_fields(self._outcome(before, differences, left_out.count, record.count), added=0, changed=0)
        revision = self._revision(catalogue, differences)
        if isinstance(revision, Revision):
            revision.numbers = numbers.union(*(one.numbers for one in differences))
        for id_ in changed.keys() & read:
            revision.remove(changed[id_][1].segment, changed[id_][1].row)
        for item, fields in kept:
            revision.update(item.segment, item.row, fields)
        new = _with_fields_kept(building.stream(), {id_: item for id_, (_, item) in changed.items()}, catalogue)
        outcome = self._outcome(before, differences, left_out.count, revision.count + building.rows)
        outcome = replace_fields(
            outcome, added=outcome.added - left_out.count + len(unread),
            changed=outcome.changed - len(unread) + len(kept),
        )  # fmt: skip
        note = "" if live and live.sources == tuple(self.records) else f"of {self.records[self.chosen[0]].name}"
        change = ChangeRecord(self.command, note, outcome.added, outcome.changed, outcome.removed, outcome.renamed)
        coming = replace_fields(
            record, sources=tuple(self.records), labelled=record.labelled or building.labelled
            or any(entry.label for one in differences for entry, _ in [*one.relabelled, *one.copied, *one.renamed]),
        )  # fmt: skip
        made = _committed(writer, before, revision, coming, change, context, building, new)
        return replace_fields(outcome, recommender=made.recommender, items=made.items)

    def _revision(self, catalogue: Catalogue, differences: Sequence[Difference]) -> Revision | RemoteRevision:
        """A revision with all that needs no encoding."""
        revision = _revision(catalogue)
        for number, one in zip(self.chosen, differences, strict=True):
            for entry, item in [*one.renamed, *one.touched, *one.relabelled]:
                revision.copy(item.segment, item.row, entry, number)
                revision.remove(item.segment, item.row)
            for entry, item in one.copied:
                revision.copy(item.segment, item.row, entry, number, same=False)
            for item, fields in one.fields:
                revision.update(item.segment, item.row, fields)
            for item in one.removed:
                revision.remove(item.segment, item.row)
        return revision

    def _opened(self, number: int) -> Held:
        record = self.records[number]
        if record.root is not None and not Path(record.root).exists():
            raise DataError(
                f"{record.root}: is not there, so nothing was changed: check that its disk is there, or say where it "
                f"is now: 'simrec index sync {self.folder.name} --root FOLDER'"
            )
        return open_source(record.name, data_dir=self.context.data_dir, notice=self.context.notice)

    def _outcome(self, before: Recommender, differences: Sequence[Difference], unreadable: int, items: int) -> Outcome:
        return Outcome(
            before, items,
            added=sum(len(one.added) + len(one.copied) for one in differences),
            changed=sum(len(one.changed) + len(one.relabelled) + len(one.fields) for one in differences),
            removed=sum(len(one.removed) for one in differences),
            renamed=sum(len(one.renamed) for one in differences),
            unchanged=sum(one.unchanged for one in differences),
            unreadable=unreadable,
        )  # fmt: skip


def _own(name: str, context: Context) -> Path:
    """The folder of a recommender that may be changed. Raises RequestError if there is none of that name."""
    place = context.home or default()
    library.check_changeable(name, place)
    return place / name


def _record(folder: Path, name: str) -> CatalogueRecord:
    """The live manifest's record of the catalogue. Raises RequestError if there is none."""
    record = store.current(folder, hold=False).manifest.catalogue
    if record is None:
        raise RequestError(f"{name} has no catalogue yet: run 'simrec index build {name}'")
    return record


def _moved(records: Sequence[SourceRecord], source: str | None, root: Path) -> int:
    """The number of the source whose folder has moved: the named source, the only one, or the only one whose folder is
    gone.
    """
    named = {source, source and Path(source.removeprefix("list:").removeprefix("folder:")).absolute().as_posix()}
    rooted = [
        number for number, one in enumerate(records)
        if one.root is not None and (source is None or named & {one.name, one.name.removeprefix("list:"), one.root})
    ]  # fmt: skip
    gone = [number for number in rooted if not Path(str(records[number].root)).exists()]
    chosen = rooted if len(rooted) == 1 else gone
    if len(chosen) != 1:
        names = ", ".join(one.name for one in records)
        raise RequestError(f"--root {root}: which source is there now? Name it before --root: {names}")
    return chosen[0]


def _elsewhere(record: SourceRecord, root: Path) -> str:
    """The name that a source has with another folder as its root."""
    return record.name.replace(record.root or "\0", root.absolute().as_posix(), 1)


def _revision(catalogue: Catalogue) -> Revision | RemoteRevision:
    return Revision(catalogue) if isinstance(catalogue, LocalCatalogue) else RemoteRevision(catalogue)


def _check_revisable(catalogue: Catalogue, name: str) -> None:
    if catalogue.by_pixels:
        raise RequestError(f"{name}: an older simrec wrote its catalogue: run 'simrec index build {name}' first")


def _check_listed(source: Held, difference: Difference) -> None:
    """Raises DataError if items seem to be gone only because their folder can't be read."""
    below = tuple(f"{folder}/" for folder in source.unlisted)
    if any(item.source.startswith(below) for item in [*difference.removed, *(item for _, item in difference.renamed)]):
        raise DataError(
            f"{source.unlisted[0]}: this folder cannot be read, so nothing was changed: allow yourself to read it"
        )


def _counted(entries: Iterable[Entry], progress: Callable[[str, int, int], None]) -> Iterator[Entry]:
    """The entries, reporting how many there are so far."""
    count = 0
    for count, entry in enumerate(entries, 1):
        if not count % 1000:
            progress("comparing", count, 0)
        yield entry
    progress("comparing", count, count)


def _contents(source: Held, progress: Callable[[str, int, int], None], entries: Sequence[Entry]) -> list[str | None]:
    """The digests of entries' files; reports progress, because this can take a while."""
    contents: list[str | None] = []
    for some in chunks(entries, READ):
        contents += source.contents(some)
        progress("reading files", len(contents), len(entries))
    return contents


def _with_fields_kept(new: Iterator[New], changed: dict[str, Known], catalogue: Catalogue) -> Iterator[New]:
    """The newly encoded items; an item that changed keeps the fields that its source doesn't give."""
    for some in new:
        entries = list(some.entries)
        for place, entry in enumerate(entries):
            if (item := changed.get(entry.id)) is not None:
                entries[place] = replace_fields(entry, fields={**catalogue.fields_of(item), **entry.fields})
        yield replace_fields(some, entries=entries)


def _fields_kept_up(
    catalogue: Catalogue, unread: Sequence[tuple[Entry, Known]]
) -> tuple[list[tuple[Known, Mapping[str, Value]]], set[str]]:
    """The changed fields of items whose pictures couldn't be read, and the columns of texts that got numbers."""
    columns = FieldsOf(catalogue)
    kept: list[tuple[Known, Mapping[str, Value]]] = []
    for entry, item in unread:
        given = {name: value for name, value in entry.fields.items() if name not in OF_FILE}
        if changes := columns.changes(given, item):
            kept.append((item, changes))
    return kept, columns.numbers


def _committed(
    writer: store.Writer, before: Recommender, revision: Revision | RemoteRevision, record: CatalogueRecord | None,
    change: ChangeRecord, context: Context, building: Building | None = None, new: Iterable[New] = (),
) -> Outcome:  # fmt: skip
    """Makes a revision the live generation."""
    assert record is not None
    encoder, coming = before.manifest.encoder, building.rows if building else 0
    kinds = before.catalogue.kinds
    writer.keep(before.generation, encoder.folder)
    count = revision.count + coming
    coding = Coding(encoder.dim, encoder.metric, record.dtype, building.sample() if building else no_codes(encoder))
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
    after = Recommender(before.folder, home=context.home)
    for column, kind in after.catalogue.kinds.items():
        if kind == "string" and kinds.get(column) in ("int64", "double"):
            context.notice(
                f"{before.name}: column {column!r:.100} held numbers; it is kept as text from now on, because some of "
                f"its new values are texts."
            )
    counts = {name: getattr(change, name) for name in ("added", "changed", "removed", "renamed")}
    return Outcome(after, count, **counts)
