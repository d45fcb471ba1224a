"""Checks what a plugin's source lists and reads: each fault is a PluginError that names the plugin and the entry."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from math import isfinite
from pathlib import Path
from types import NoneType
from typing import Any, TypeGuard, cast

import numpy as np
from msgspec.msgpack import encode as _encode

from simrec.contracts import Batch, Entry, ImageSpec, Value
from simrec.errors import DataError, ImageError, PluginError

LARGEST_WHOLE = 2**63
"""Whole numbers must be smaller, and not smaller than its negative: a catalogue keeps 64 bits."""

LONGEST_FIELDS = 2_000_000
"""Maximum characters of an item's fields together. In a build each item is a line of JSON, whose length is limited."""

_CONTENT = re.compile("[0-9a-f]{32}")

_PLAIN = {str, int, float, NoneType}

_Whole = (int, np.integer, np.bool_)
_Decimal = (float, np.floating)


def are_contents(values: Sequence[object]) -> bool:
    """Whether each value is a digest as `simrec.contracts.content` makes them."""
    return all(isinstance(value, str) and _CONTENT.fullmatch(value) for value in values)


class Checks:
    """The checks of one source. culprit: how a sentence names its plugin."""

    def __init__(self, culprit: str) -> None:
        self._culprit = culprit

    def attributes(self, source: Any) -> tuple[str, str | None, bool, str | None]:
        """The source's name, test, reduced and root; a root that is a Path becomes a text."""
        name, test, reduced, root = source.name, source.test, source.reduced, getattr(source, "root", None)
        root = str(root) if isinstance(root, Path) else root
        for what, value, kinds, wanted in (
            ("name", name, (str,), "a text"),
            ("test", test, (str, NoneType), "a text or None"),
            ("reduced", reduced, (bool,), "True or False"),
            ("root", root, (str, NoneType), "a text or None"),
        ):
            if not isinstance(value, kinds):
                raise self._fault(f"has a {what} that is {type(value).__name__}, not {wanted}")
        return name, test, reduced, root

    def entries(self, listed: Sequence[object]) -> Sequence[Entry]:
        """Some entries of the source's list. Numbers and texts of numpy become Python's, truth values 1 and 0, and NaN
        and infinities None.
        """
        return listed if _are_plain(listed) else [self._entry(entry) for entry in listed]

    def batch(self, batch: object, entries: Sequence[Entry], spec: ImageSpec) -> Batch:
        """What the source read of those entries."""
        if not isinstance(batch, Batch):
            raise self._fault(f"returned {type(batch).__name__}, not a Batch")
        for name in ("entries", "previews", "contents", "errors", "fields"):
            values = getattr(batch, name)
            if not isinstance(values, Sequence) or isinstance(values, str | bytes):
                raise self._fault(f"returned {name} that are {type(values).__name__}, not a list")
        images, count = batch.images, len(batch.entries)
        if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.shape != (count, *spec.shape):
            there = f"{images.dtype} {images.shape}" if isinstance(images, np.ndarray) else type(images).__name__
            raise self._fault(f"returned images that are {there} for {count} entries, not uint8 {(count, *spec.shape)}")
        if not len(batch.previews) == len(batch.contents) == count:
            raise self._fault("returned no preview or no content for some entries")
        if len(batch.fields) not in (0, count):
            raise self._fault(f"returned fields of {len(batch.fields)} of {count} entries")
        if not are_contents(batch.contents):
            raise self._fault("returned contents that simrec.contracts.content did not make")
        self._check_complete(batch, entries)
        self._check_previews(batch)
        if not _are_plain_fields(batch.fields):
            pairs = zip(batch.entries, batch.fields, strict=True)
            read = [self._fields(fields, f"read the entry {entry.id!r:.100}", entry.id) for entry, fields in pairs]
            return replace(batch, fields=read)
        return batch

    def _check_complete(self, batch: Batch, entries: Sequence[Entry]) -> None:
        """Each entry must have been read or have an error, in the given order."""
        places = {entry.id: place for place, entry in enumerate(entries)}

        def place_of(entry: object) -> int:
            """An entry's place among the given ones, -1 if it isn't one of them."""
            place = places.get(entry.id, -1) if isinstance(entry, Entry) else -1
            return place if place >= 0 and (entry is entries[place] or entry == entries[place]) else -1

        read = [place_of(entry) for entry in batch.entries]
        if -1 in read or read != sorted(set(read)):
            raise self._fault("returned other entries than those it was given, or in another order")
        handled = set(read)
        for error in batch.errors:
            if not isinstance(error, tuple) or len(error) != 2 or not isinstance(error[1], ImageError):
                raise self._fault(f"returned the error {error!r:.100}, which is not an Entry with its ImageError")
            place = place_of(error[0])
            if place < 0:
                raise self._fault(f"returned an error for {_named(error[0])}, which is not an entry that it was given")
            if place in handled:
                raise self._fault(f"returned an error for {_named(error[0])}, which it also read or named before")
            handled.add(place)
        for place, entry in enumerate(entries):
            if place not in handled:
                raise self._fault(f"returned neither a picture nor an error for {_named(entry)}")

    def _check_previews(self, batch: Batch) -> None:
        from simrec.catalogue import previews

        for entry, preview in zip(batch.entries, batch.previews, strict=True):
            why = f"is {type(preview).__name__}, not bytes"
            if isinstance(preview, bytes):
                if len(preview) <= previews.LARGEST:
                    try:
                        previews.check(preview)
                        continue
                    except ValueError as error:
                        why = f"is no preview ({error})"
                else:
                    why = f"has more than {previews.LARGEST:,} bytes"
            raise self._fault(f"returned a preview of {_named(entry)} that {why}", "make it with simrec.reading")

    def _entry(self, entry: object) -> Entry:
        if not isinstance(entry, Entry):
            raise self._fault(f"listed {type(entry).__name__}, which is no Entry")
        where = f"listed the entry {entry.id!r:.100}"
        id_, source, label, stamp = (
            self._text(getattr(entry, name), name, where) for name in ("id", "source", "label", "stamp")
        )
        if not id_:
            raise self._fault("listed an entry whose id is empty")
        return Entry(id_, source, label, stamp, self._fields(entry.fields, where, id_))

    def _fields(self, fields: object, where: str, id_: str) -> dict[str, Value]:
        if not isinstance(fields, Mapping):
            raise self._fault(f"{where}, whose fields are {type(fields).__name__}, not a dict")
        kept: dict[str, Value] = {}
        for name, value in fields.items():
            text = self._text(name, "field's name", where)
            kept[text] = self._value(value, text, where)
        if sum(len(value) for value in kept.values() if isinstance(value, str)) > LONGEST_FIELDS:
            raise DataError(f"{id_:.100}: its fields have more than {LONGEST_FIELDS:,} characters: shorten them")
        return kept

    def _value(self, value: object, name: str, where: str) -> Value:
        if value is None:
            return None
        if isinstance(value, str):
            return self._text(value, f"field {name!r:.100}", where)
        if isinstance(value, _Whole):
            whole = int(value)
            if not -LARGEST_WHOLE <= whole < LARGEST_WHOLE:
                raise self._fault(f"{where}, whose field {name!r:.100} has more than 64 bits", "make it a text")
            return whole
        if isinstance(value, _Decimal):
            return float(value) if isfinite(value) else None
        raise self._fault(f"{where}, whose field {name!r:.100} is {type(value).__name__}, not a text, a number or None")

    def _text(self, value: object, name: str, where: str) -> str:
        if not isinstance(value, str):
            raise self._fault(f"{where}, whose {name} is {type(value).__name__}, not a text")
        text = str.__str__(value)  # of its base class: an Enum would give its name
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise self._fault(f"{where}, whose {name} is no UTF-8 ({error.reason})") from error
        return text

    def _fault(self, what: str, remedy: str = "fix the plugin") -> PluginError:
        return PluginError(f"{self._culprit} {what}: {remedy}")


def _are_plain(listed: Sequence[object]) -> TypeGuard[Sequence[Entry]]:
    """Whether these are entries that can be kept as they are.

    It tests many at a time, which takes a fraction of the time; False doesn't mean that something is wrong.
    """
    if set(map(type, listed)) != {Entry}:
        return False
    entries = cast(Sequence[Entry], listed)
    texts = [text for entry in entries for text in (entry.id, entry.source, entry.label, entry.stamp)]
    if set(map(type, texts)) != {str} or not all(texts[::4]) or not _is_utf8(texts):
        return False
    return _are_plain_fields([entry.fields for entry in entries])


def _are_plain_fields(rows: Sequence[Any]) -> bool:
    """The same for the fields of items."""
    if not {dict}.issuperset(map(type, rows)):
        return False
    names = set(chain.from_iterable(rows))
    values = list(chain.from_iterable(map(dict.values, rows)))
    kinds = set(map(type, values))
    if not {str}.issuperset(map(type, names)) or not _is_utf8(names) or not kinds <= _PLAIN:
        return False
    if int in kinds:
        wholes = [value for value in values if type(value) is int]
        if min(wholes) < -LARGEST_WHOLE or max(wholes) >= LARGEST_WHOLE:
            return False
    if float in kinds and not all(map(isfinite, [value for value in values if type(value) is float])):
        return False
    return str not in kinds or _is_utf8(values)


def _is_utf8(values: Collection[Value]) -> bool:
    """Whether texts can be kept, together with numbers; msgspec encodes them faster than Python would."""
    try:
        return len(_encode(values)) <= LONGEST_FIELDS
    except UnicodeEncodeError:
        return False


def _named(entry: object) -> str:
    return f"{entry.id!r:.100}" if isinstance(entry, Entry) else type(entry).__name__
