"""Finds duplicate items in a catalogue: identical files, identical pictures, near-duplicates."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from simrec import near_duplicates
from simrec.answers import Narrowing, percentiles_in
from simrec.catalogue import LocalCatalogue, previews
from simrec.contracts import Item
from simrec.recommender import Recommender, silent

NEIGHBOURS = 10
"""How many neighbours are compared with each item; duplicates beyond these are found through them."""

BLOCK = 1024
"""How many items' neighbours are searched at a time."""

Kind = Literal["identical files", "identical pictures", "near-duplicates"]


@dataclass(frozen=True)
class Group:
    """At least two duplicate items, in the order of the catalogue.

    kind: "identical files" have the same bytes, "identical pictures" the same preview, "near-duplicates" show the same
    photo, or are as close as the threshold demands; a mixed group has the loosest of these.
    """

    kind: Kind
    items: tuple[Item, ...]

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "kind": self.kind,
            "items": [{"id": item.id, "label": item.label, "source": item.source} for item in self.items],
        }


def duplicates(
    opened: Recommender, percentile: float | None = None, progress: Callable[[str, int, int], None] = silent
) -> list[Group]:
    """The groups of duplicate items, the largest first.

    percentile: two items are near-duplicates if they are closer than this per cent of items are to their nearest
    neighbours. Without it, `simrec.near_duplicates` decides whether the previews of an item and its NEIGHBOURS nearest
    ones show the same photo. progress: called with a stage, how many items are done, and of how many.

    Raises RequestError if nothing was indexed yet, and for a percentile if distances were not measured.
    """
    catalogue = opened.segments
    Narrowing(min_percentile=percentile).check(catalogue, opened.name)
    looks = _Looks.of(catalogue, percentile is None, progress)
    sets = _Sets(len(looks.rows))
    for first, second in _equal(looks.contents):
        sets.join(first, second)
    for first, second in _equal(looks.previews):
        if not sets.joined(first, second) and _same_bytes(catalogue, looks, first, second):
            sets.join(first, second)
    for first, second in _near(catalogue, looks, percentile, sets, progress):
        sets.join(first, second)
    groups = [
        Group(looks.kind(places, catalogue.by_pixels), tuple(catalogue.at(looks.rows[places].tolist())))
        for places in sets.groups()
    ]
    return sorted(groups, key=lambda group: -len(group.items))


@dataclass(frozen=True)
class _Looks:
    """What is known about each item: its row in the catalogue (n,), the digest of its file (n,), its preview's checksum
    and length in one number (n,), and the coarse details of its preview (n, d); d is 0 if they aren't needed.
    """

    rows: NDArray[np.int64]
    contents: NDArray[np.bytes_]
    previews: NDArray[np.int64]
    details: NDArray[np.float16]

    @classmethod
    def of(cls, catalogue: LocalCatalogue, detailed: bool, progress: Callable[[str, int, int], None]) -> _Looks:
        """Reads every item once."""
        count, done, start = len(catalogue), 0, 0
        side = near_duplicates.COARSE
        rows, contents, shown = np.empty(count, np.int64), np.empty(count, "S16"), np.empty(count, np.int64)
        details = np.zeros((count, 2 * side * (side - 1) if detailed else 0), np.float16)
        for one in catalogue.segments:
            removed = set(one.removed.tolist())
            for some in one.batches(BLOCK):
                for row in some:
                    if row.number not in removed:
                        rows[done] = start + row.number
                        contents[done] = bytes.fromhex(row.item.content)
                        # Without a preview, or without a checksum as in old formats, an item matches no other.
                        own = row.preview in (-1, previews.NOTHING)
                        shown[done] = -1 - done if own else (row.preview << 24) + row.length
                        if detailed:
                            details[done] = near_duplicates.details(one.picture(row), side)
                        done += 1
                progress("looking", done, count)
            start += len(one)
        return cls(rows, contents, shown, details)

    def kind(self, places: Sequence[int], by_pixels: bool) -> Kind:
        """The kind of duplicates that the items in some places are."""
        if (self.contents[places] == self.contents[places[0]]).all():
            return "identical pictures" if by_pixels else "identical files"
        same = (self.previews[places] == self.previews[places[0]]).all()
        return "identical pictures" if same else "near-duplicates"


def _equal(keys: NDArray[Any]) -> Iterator[tuple[int, int]]:
    """Pairs of places with equal keys."""
    order = np.argsort(keys, kind="stable")
    same = keys[order[1:]] == keys[order[:-1]]
    yield from zip(order[:-1][same].tolist(), order[1:][same].tolist(), strict=True)


def _near(
    catalogue: LocalCatalogue, looks: _Looks, percentile: float | None, sets: _Sets,
    progress: Callable[[str, int, int], None],
) -> Iterator[tuple[int, int]]:  # fmt: skip
    """Pairs of places whose items are near-duplicates."""
    count, different = len(looks.rows), set[tuple[int, int]]()
    for start in range(0, count, BLOCK):
        places = np.arange(start, min(start + BLOCK, count))
        nearest, distances = catalogue.index.search_rows(looks.rows[places], min(count, NEIGHBOURS + 1))
        others = np.searchsorted(looks.rows, nearest)
        if percentile is None:
            cosines = np.einsum("id,ijd->ij", looks.details[places], looks.details[others], dtype=np.float32)
            near = cosines >= near_duplicates.ALIKE
        else:
            shares = percentiles_in(catalogue, distances)
            assert shares is not None
            near = shares >= percentile
        for row, column in np.argwhere(near).tolist():
            first, second = sorted((start + row, int(others[row, column])))
            if sets.joined(first, second) or (first, second) in different:
                continue
            if percentile is not None or _same(catalogue, looks, first, second):
                yield first, second
            else:
                different.add((first, second))
        progress("comparing", int(places[-1]) + 1, count)


def _same(catalogue: LocalCatalogue, looks: _Looks, first: int, second: int) -> bool:
    """Whether the previews of the items in two places show the same photo."""
    one, other = (catalogue.picture(item.id) for item in catalogue.at(looks.rows[[first, second]].tolist()))
    return one is not None and other is not None and near_duplicates.same_photo(one, other)


def _same_bytes(catalogue: LocalCatalogue, looks: _Looks, first: int, second: int) -> bool:
    one, other = (catalogue.preview(item.id) for item in catalogue.at(looks.rows[[first, second]].tolist()))
    return one == other


class _Sets:
    """Groups of places: disjoint sets."""

    def __init__(self, count: int) -> None:
        self._parents = list(range(count))

    def _first(self, place: int) -> int:
        parents = self._parents
        while parents[place] != place:
            parents[place] = parents[parents[place]]
            place = parents[place]
        return place

    def joined(self, first: int, second: int) -> bool:
        """Whether two places are in one group."""
        return self._first(first) == self._first(second)

    def join(self, first: int, second: int) -> None:
        """Merges the groups of two places."""
        one, other = self._first(first), self._first(second)
        self._parents[max(one, other)] = min(one, other)

    def groups(self) -> list[list[int]]:
        """The groups with at least two places, in the order of their first places."""
        groups: dict[int, list[int]] = defaultdict(list)
        for place in range(len(self._parents)):
            groups[self._first(place)].append(place)
        return [places for places in groups.values() if len(places) > 1]
