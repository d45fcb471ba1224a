"""Answers queries: finds the nearest items and narrows them down."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import compress, count, islice, repeat
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from simrec.catalogue import Catalogue
from simrec.contracts import Codes, Item, Value
from simrec.errors import RequestError, suggestion
from simrec.queries import Match, Query
from simrec.streams import chunks

if TYPE_CHECKING:
    from simrec.contracts import Filter

MOST = 100_000
"""Maximum number of items that are looked at for one distinct or grouped answer."""

MORE = 4
"""If there weren't enough items, the next try asks for so many times as many."""

AT_ONCE = 1 << 19
"""About how many items are searched for at a time, for all queries together."""

READ = 256
"""How many items are read at a time for a distinct or grouped answer."""

STRANGE = 1.0
"""A query is strange if its best match has a percentile under this: nearly every item is nearer to its own nearest
neighbour.

With 341 clothing photos by `photo`, none of 124 other clothing photos is under it, but 91 of 100 Fashion-MNIST pictures
and 12 of 17 photos of other things are. How badly a decoder rebuilds a picture adds nothing: with 60,000 items of
Fashion-MNIST by `demo`, 40 % of the clothing photos under it and 34 % of the others are rebuilt worse than 99 % of its
test pictures, and of the 17 photos, the farthest away (the moon) is rebuilt best.
"""


class Wishes(TypedDict, total=False):
    """The fields of `Narrowing`, as keyword arguments of `Recommender.similar`."""

    where: Filter | None
    min_score: float | None
    min_percentile: float | None
    distinct: bool
    group_by: str | None


@dataclass(frozen=True)
class Narrowing:
    """Which of the nearest items are answers.

    where: items that match a filter. min_score, min_percentile: items that are at least so near. distinct: only the
    nearest of items that are near-duplicates of each other; `alike` counts the others. group_by: only the nearest item
    for each value of that field, and all items without a value.

    Near-duplicates have the same file, or previews that `simrec.near_duplicates` takes for the same photo.
    """

    where: Filter | None = None
    min_score: float | None = None
    min_percentile: float | None = None
    distinct: bool = False
    group_by: str | None = None

    @property
    def quick(self) -> bool:
        """Whether the answer is the nearest items, so that nothing more need be searched or compared."""
        return self.where is None and not self.distinct and self.group_by is None

    def check(self, catalogue: Catalogue, name: str) -> None:
        """Raises RequestError for an unknown field, and for a percentile if the catalogue has none.

        name: the recommender's.
        """
        if self.group_by is not None:
            check_fields([self.group_by], catalogue, name)
        if self.min_percentile is not None and catalogue.record.quantiles is None:
            raise RequestError(
                f"{name}: has no percentiles, as its catalogue is too small or an older simrec made it: ask for a "
                f"minimum score instead, or run 'simrec index build {name} --from-scratch'"
            )


def check_fields(fields: Sequence[str], catalogue: Catalogue, name: str) -> None:
    """Raises RequestError for a field that the items of a catalogue don't have; name: the recommender's."""
    kinds = catalogue.kinds
    for field in fields:
        if field not in kinds:
            raise RequestError(f"no field {field!r} in {name}: {suggestion(field, kinds)}")


def value_of(item: Item, field: str) -> Value:
    """The value of an item's field; its id and label count as fields."""
    if field == "id":
        return item.id
    return item.label or None if field == "label" else item.fields.get(field)


def columns(fields: Iterable[str], taken: Container[str]) -> dict[str, str]:
    """The column for each field in a table of answers: named like the field, or field_NAME where `taken`, the table's
    other columns, has that name. An item's id and label are other columns already and get none.
    """
    names = [name for name in dict.fromkeys(fields) if name not in ("id", "label")]
    columns = {}
    for name in names:
        column = name
        while column in taken or (column != name and column in names):
            column = f"field_{column}"
        columns[name] = column
    return columns


def answers(
    catalogue: Catalogue, queries: Sequence[Query], codes: Codes, n: int, narrowing: Narrowing
) -> list[list[Match]]:
    """The n nearest items to each query, best first, without the query's own items; fewer only if there are no more.

    codes: the queries', (m, dim). For a distinct or grouped answer at most MOST items are looked at.
    """
    if narrowing.distinct or narrowing.group_by is not None:
        return _chosen(catalogue, queries, codes, n, narrowing)
    if not queries:
        return []
    near = _NearEnough(catalogue, codes, n + max(len(query.own) for query in queries), narrowing)
    items = near.nearest.items()
    answered = []
    for query, (rows, distances, scores, known) in zip(queries, near.columns(), strict=True):
        nearest = [items[row] for row in rows]
        columns: list[Iterable[Any]] = [nearest, scores, distances, known]
        if query.own:
            others = [item.id not in query.own for item in nearest]
            columns = [compress(column, others) for column in columns]
        answered.append(list(islice(map(Match, repeat(query.name), count(1), *columns), n)))
    return answered


def percentiles(known: NDArray[np.float64], distances: NDArray[np.float32]) -> NDArray[np.float64]:
    """The share of a distribution, in per cent, that is larger than each distance; known: its quantiles, evenly spaced
    from its smallest value to its largest.
    """
    shares: NDArray[np.float64] = np.interp(distances, known, np.linspace(100, 0, len(known)))
    return shares


def percentiles_in(catalogue: Catalogue, distances: NDArray[np.float32]) -> NDArray[np.float64] | None:
    """`percentiles` among the distances from a catalogue's items to their nearest neighbours; None if it has none."""
    known = catalogue.record.quantiles
    return None if known is None else percentiles(known, distances)


def strange(query: Query, matches: Sequence[Match], narrowing: Narrowing) -> bool:
    """Whether a query looks like nothing in the catalogue: even its best match is farther away than nearly every
    item's nearest neighbour. False if that isn't known, because a filter left out some of the items.
    """
    if query.own or not matches or matches[0].percentile is None or narrowing.where is not None:
        return False
    return matches[0].percentile < STRANGE


class _NearEnough:
    """The nearest items to some codes, as far as they are near enough."""

    def __init__(self, catalogue: Catalogue, codes: Codes, n: int, narrowing: Narrowing) -> None:
        self.nearest = catalogue.nearest(codes, n, where=narrowing.where)
        distances = self.nearest.distances
        self._scores = catalogue.scores(distances)
        self._percentiles = percentiles_in(catalogue, distances)
        near = self.nearest.rows >= 0
        if narrowing.min_score is not None:
            near &= self._scores >= narrowing.min_score
        if narrowing.min_percentile is not None and self._percentiles is not None:
            near &= self._percentiles >= narrowing.min_percentile
        self._near = None if near.all() else near.sum(axis=1).tolist()

    def columns(self) -> Iterator[tuple[list[int], list[float], list[float], list[float | None]]]:
        """Each query's rows with their distances, scores and percentiles, nearest first."""
        rows, distances = self.nearest.rows, self.nearest.distances
        unknown = [[None] * rows.shape[1]] * len(rows)
        known = unknown if self._percentiles is None else self._percentiles.tolist()
        columns = zip(rows.tolist(), distances.tolist(), self._scores.tolist(), known, strict=True)
        if self._near is None:
            return columns
        return ((a[:k], b[:k], c[:k], d[:k]) for (a, b, c, d), k in zip(columns, self._near, strict=True))

    def each(self) -> Iterator[list[tuple[int, float, float, float | None]]]:
        """Each query's rows with their distances, scores and percentiles, nearest first."""
        return (list(zip(*columns, strict=True)) for columns in self.columns())


def _chosen(
    catalogue: Catalogue, queries: Sequence[Query], codes: Codes, n: int, narrowing: Narrowing
) -> list[list[Match]]:
    """Distinct or grouped answers: asks for more and more items until n of them count."""
    choices = [_Choice(catalogue, query, n, narrowing) for query in queries]
    open_, size = list(range(len(queries))), n
    while open_:
        size = min(MORE * size + max(len(queries[place].own) for place in open_), MOST)
        for some in chunks(open_, max(1, AT_ONCE // size)):
            near = _NearEnough(catalogue, codes[some], size, narrowing)
            for place, nearest in zip(some, near.each(), strict=True):
                choices[place].take(nearest, near.nearest.at)
                choices[place].ended |= len(nearest) < size or size == MOST
        open_ = [place for place in open_ if not choices[place].ended]
    return [choice.matches for choice in choices]


class _Choice:
    """The answer to one query, as it grows."""

    def __init__(self, catalogue: Catalogue, query: Query, n: int, narrowing: Narrowing) -> None:
        self.matches: list[Match] = []
        self.ended = False
        self._catalogue, self._query, self._n, self._narrowing = catalogue, query, n, narrowing
        self._seen: set[int] = set()
        self._groups: set[Value] = set()
        self._details: list[NDArray[np.float32]] = []

    def take(
        self, nearest: Sequence[tuple[int, float, float, float | None]], at: Callable[[Sequence[int]], list[Item]]
    ) -> None:
        """Chooses from rows with distance, score and percentile, nearest first; skips rows that it has already seen.
        at: gives the items of some rows.
        """
        new = [one for one in nearest if one[0] not in self._seen]
        self._seen.update(one[0] for one in new)
        for start in range(0, len(new), READ):
            some = new[start : start + READ]
            items = at([row for row, *_ in some])
            for item, (_, distance, score, percentile) in zip(items, some, strict=True):
                if self.ended:
                    return
                if item.id not in self._query.own:
                    self._consider(item, distance, score, percentile)

    def _consider(self, item: Item, distance: float, score: float, percentile: float | None) -> None:
        field = self._narrowing.group_by
        group = None if field is None else value_of(item, field)
        if group in self._groups:
            return
        details: NDArray[np.float32] | None = None
        if self._narrowing.distinct:
            same, details = self._same_as(item)
            if same is not None:
                match = self.matches[same]
                self.matches[same] = replace(match, alike=(match.alike or 0) + 1)
                return
        alike = 0 if self._narrowing.distinct else None
        self.matches.append(Match(self._query.name, len(self.matches) + 1, item, score, distance, percentile, alike))
        if group is not None:
            self._groups.add(group)
        if details is not None:
            self._details.append(details)
        self.ended = len(self.matches) == self._n

    def _same_as(self, item: Item) -> tuple[int | None, NDArray[np.float32] | None]:
        """The place of the match that an item is a near-duplicate of, or else None and the item's own details."""
        from simrec import near_duplicates

        for place, match in enumerate(self.matches):
            if item.content and item.content == match.item.content:
                return place, None
        picture = self._catalogue.picture(item.id)
        if picture is None:  # its code came without a picture
            return None, None
        details = near_duplicates.details(picture)
        for place, other in enumerate(self._details):
            if near_duplicates.same(details, other):
                return place, None
        return None, details
