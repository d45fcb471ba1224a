"""Compares what a source lists with what a catalogue holds: finds what is new, changed, renamed and gone.

A file with the same stamp (size and modification time) is the same file; otherwise the digest of its contents decides.
So files that were touched, moved or copied aren't encoded again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from simrec.catalogue.known import Known
from simrec.contracts import Entry, Value
from simrec.errors import DataError
from simrec.streams import chunks

if TYPE_CHECKING:
    from simrec.catalogue import Catalogue

LOOKED_UP = 1000
"""How many entries `addition` looks up at a time."""

Contents = Callable[[Sequence[Entry]], Sequence[str | None]]
"""The digests of entries' pictures: see `simrec.contracts.Digested`."""


@dataclass
class Difference:
    """What must change so that a catalogue holds what a source lists.

    added, changed: entries whose pictures must be encoded, the changed ones with the item that they replace. copied:
    new entries with the same picture as an item, whose code they share. renamed: entries with the item that they were.
    touched: the same picture with another stamp or path; relabelled: with another label. fields: items with the fields
    that changed. removed: items whose entry is gone. foreign: entries with the id of another source's item, see
    `settle`. numbers: columns of texts for which the source gives numbers. unchanged: how many entries didn't change.
    """

    added: list[Entry] = field(default_factory=list)
    changed: list[tuple[Entry, Known]] = field(default_factory=list)
    copied: list[tuple[Entry, Known]] = field(default_factory=list)
    renamed: list[tuple[Entry, Known]] = field(default_factory=list)
    touched: list[tuple[Entry, Known]] = field(default_factory=list)
    relabelled: list[tuple[Entry, Known]] = field(default_factory=list)
    fields: list[tuple[Known, Mapping[str, Value]]] = field(default_factory=list)
    removed: list[Known] = field(default_factory=list)
    foreign: list[tuple[Entry, Known]] = field(default_factory=list)
    numbers: set[str] = field(default_factory=set)
    unchanged: int = 0

    @property
    def encoded(self) -> list[Entry]:
        """The entries whose pictures must be encoded."""
        return [*self.added, *(entry for entry, _ in self.changed)]

    @property
    def nothing_else(self) -> bool:
        """Whether encoding is all there is to do, without even a new stamp to record."""
        return not (self.copied or self.renamed or self.touched or self.relabelled or self.fields or self.removed)


def addition(entries: Iterable[Entry], catalogue: Catalogue, contents: Contents) -> Difference:
    """What a new source adds. The cost grows with the source, not with the catalogue.

    Raises DataError for an id that an item already has.
    """
    result = Difference()
    for some in chunks(entries, LOOKED_UP):
        for entry in some:
            if (item := catalogue.known_item(entry.id)) is not None:
                raise _taken(catalogue, entry, item)
        for entry, content in zip(some, contents(some), strict=True):
            alike = None if content is None else catalogue.known_copy(content)
            if alike is None:
                result.added.append(entry)
            else:
                result.copied.append((entry, alike))
    return result


def _taken(catalogue: Catalogue, entry: Entry, item: Known) -> DataError:
    names = catalogue.record.sources
    return DataError(
        f"{entry.source}: an item of {names[item.origin].name} already has its id {entry.id!r}: rename one of the two, "
        f"or list the new ones in a CSV file with other ids"
    )


def settle(differences: Mapping[int, Difference], catalogue: Catalogue, contents: Callable[[int], Contents]) -> None:
    """Settles which source has an item that moved from one to another. found: the differences by the source's number.

    contents: gives each source's. Raises DataError for an id that two sources list.
    """
    gone = {item.id for one in differences.values() for item in one.removed}
    new: set[str] = set()
    for one in differences.values():
        for entry, item in one.foreign:
            if item.id not in gone:
                raise _taken(catalogue, entry, item)
        for entry in [*one.added, *(entry for entry, _ in [*one.copied, *one.renamed, *one.foreign])]:
            if entry.id in new:
                raise DataError(f"{entry.source}: another source has its id {entry.id!r} too: rename one of the two")
            new.add(entry.id)
    for number, one in differences.items():
        # Files of different sources can have one stamp, or none.
        doubtful = [pair for pair in one.foreign if (pair[0].stamp, pair[0].source) != (pair[1].stamp, pair[1].source)]
        digests = contents(number)([entry for entry, _ in doubtful]) if doubtful else []
        one.changed += [pair for pair, digest in zip(doubtful, digests, strict=True) if digest != pair[1].content]
        changed = {entry.id for entry, _ in one.changed}
        one.renamed += [pair for pair in one.foreign if pair[0].id not in changed]
    moved = {item.id for one in differences.values() for _, item in one.foreign}
    for one in differences.values():
        one.removed = [item for item in one.removed if item.id not in moved]


def difference(
    entries: Iterable[Entry], catalogue: Catalogue, origin: int, contents: Contents
) -> Difference:  # fmt: skip
    """Compares what a source lists with the items that came from it. origin: the source's number.

    contents: called only for entries that may have an item's picture.
    """
    known = {item.id: item for item in catalogue.known()}
    own = {id_ for id_, item in known.items() if item.origin == origin}
    result, new, doubtful = Difference(), [], []
    columns = FieldsOf(catalogue)
    for entry in entries:
        item = known.get(entry.id)
        if item is None:
            new.append(entry)
            continue
        if item.origin != origin:
            result.foreign.append((entry, item))
            continue
        own.discard(entry.id)
        if item.stamp != entry.stamp:
            doubtful.append((entry, item))
        else:
            _sort(result, entry, item, columns, same_stamp=True)
    for (entry, item), content in zip(doubtful, contents([entry for entry, _ in doubtful]), strict=True):
        if content is not None and content == item.content:
            _sort(result, entry, item, columns, same_stamp=False)
        else:
            result.changed.append((entry, item))
    gone = {id_: known[id_] for id_ in known if id_ in own}
    _sort_new(result, new, gone, known, contents)
    result.removed = list(gone.values())
    result.numbers = columns.numbers
    return result


def _sort(result: Difference, entry: Entry, item: Known, columns: FieldsOf, *, same_stamp: bool) -> None:
    """Sorts in an entry whose picture hasn't changed."""
    changes = columns.changes(entry.fields, item)
    if entry.label != item.label:
        result.relabelled.append((entry, item))
    elif not same_stamp or entry.source != item.source:
        result.touched.append((entry, item))
        result.unchanged += 1
    elif changes:
        result.fields.append((item, changes))
    else:
        result.unchanged += 1


def _sort_new(
    result: Difference, new: Sequence[Entry], gone: dict[str, Known], known: Mapping[str, Known], contents: Contents
) -> None:
    """Sorts in entries with new ids; takes items that were renamed out of `gone`."""
    sizes = {_size(item.stamp) for item in known.values()} - {""}
    maybe = [entry for entry in new if _size(entry.stamp) in sizes]
    digests = dict(zip((entry.id for entry in maybe), contents(maybe), strict=True))
    by_content: dict[str, list[Known]] = defaultdict(list)
    if any(digests.values()):
        wanted = set(digests.values())
        for item in known.values():
            if item.content in wanted:
                by_content[item.content].append(item)
    for entry in new:
        alike = by_content.get(digests.get(entry.id) or "", [])
        moved = next((item for item in alike if item.id in gone), None)
        if moved is not None:
            del gone[moved.id]
            result.renamed.append((entry, moved))
        elif alike:
            result.copied.append((entry, alike[0]))
        else:
            result.added.append(entry)


def _size(stamp: str) -> str:
    """The size in a file's stamp, which renaming and touching don't change; "" for other stamps."""
    size, dash, _ = stamp.partition("-")
    return size if dash and size.isdigit() else ""


class FieldsOf:
    """The fields of a catalogue's items, kept in memory after the first use.

    numbers: columns of texts for which `changes` was given numbers.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self.numbers: set[str] = set()
        self._columns: dict[int, dict[str, list[Value]]] = {}

    def of(self, item: Known) -> dict[str, Value]:
        """The fields of an item."""
        return {name: values[item.row] for name, values in self._held(item.segment).items()}

    def _held(self, segment: int) -> dict[str, list[Value]]:
        if segment not in self._columns:
            self._columns[segment] = self._catalogue.columns_of(segment)
        return self._columns[segment]

    def changes(self, fields: Mapping[str, Value], item: Known) -> dict[str, Value]:
        """Those of an entry's fields that the item lacks or has with other values."""
        if not fields:
            return {}
        held, row = self._held(item.segment), item.row
        changes = {}
        for name, value in fields.items():
            before = held[name][row] if name in held else None
            if before == value:
                continue
            if isinstance(before, str) and isinstance(value, int | float):
                self.numbers.add(name)
            # In a column with numbers and texts, the numbers are kept as texts.
            if None in (before, value) or str(before) != str(value):
                changes[name] = value
        return changes
