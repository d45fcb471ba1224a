"""Draws a map of a catalogue, on which each item lies close to the items that look like it."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO, cast

import numpy as np
from numpy.typing import NDArray

from simrec.answers import check_fields, value_of
from simrec.catalogue import Catalogue, LocalCatalogue
from simrec.contracts import Codes, Metric, Notice, Value
from simrec.errors import NotInstalledError, PluginError, RequestError, StoreError, needs, reason
from simrec.files import replacing, temporary
from simrec.maps import SIDE, Colouring, Map, Tiles, edge, levels, write
from simrec.recommender import Recommender, silent

if TYPE_CHECKING:
    from PIL.Image import Image

    from simrec.index import Searchable

Method = Literal["auto", "pacmap", "pca"]

ENDINGS = (".html", ".htm", ".png")

MOST = 200_000
"""Maximum number of items in a map."""

FEWEST = 3
"""Minimum number of items in a map."""

FEW = 50
"""Fewer items than this are placed by principal components: the other methods need neighbours."""

NEIGHBOURS = 10
"""How many neighbours an item's panel shows."""

COPIES = 200
"""Maximum number of exact copies of an item that are skipped in the search for its neighbours."""

BLOCK = 1024
"""How many items' neighbours are searched, and how many pictures are read, at a time."""

FIELDS = 8_000_000
"""About how many characters of field values a page holds: further fields are left out."""

VALUE = 120
"""How many characters of a field's value are shown beside an item."""

NOTE = (
    "Items that look alike to the encoder lie side by side. The distance between two groups, their sizes and which way "
    "is up mean little: the codes have {dim} numbers, and no flat map can keep all of their distances."
)


@dataclass(frozen=True)
class Wishes:
    """What a map should be like.

    where: only items that match this filter. label: the field that colours the items. number: maximum number of items,
    drawn evenly. method: how they are placed; "auto" is PaCMAP if it is installed, else the principal components.
    title: the heading, by default the recommender's name. size: width and height of a PNG in pixels.
    """

    where: str | None = None
    label: str = "label"
    number: int | None = None
    method: Method = "auto"
    title: str = ""
    size: int = 3000


@dataclass(frozen=True)
class _Items:
    """The items of a map, with their codes (n, dim) as the catalogue keeps them. total: how many there are to map."""

    ids: list[str]
    values: list[Value]
    contents: list[str]
    fields: dict[str, list[Value]]
    codes: Codes
    total: int


def draw(
    recommender: Recommender, target: Path, wishes: Wishes | None = None, *,
    progress: Callable[[str, int, int], None] = silent, notice: Notice = silent,
) -> int:  # fmt: skip
    """Draws a catalogue's map, a page (.html) or a picture (.png). Returns how many items are in it.

    The same catalogue, wishes and library versions give the same file. progress: called with a stage, how many items
    are done, and of how many (0 if that isn't known).

    Raises RequestError for another ending, an unknown field, an invalid filter, and fewer than FEWEST items;
    NotInstalledError for a method whose package is missing; StoreError if the file can't be written, in which case an
    existing file stays.
    """
    wishes = wishes or Wishes()
    ending = target.suffix.lower()
    if ending not in ENDINGS:
        raise RequestError(f"{target}: a map is a page or a picture: name a file that ends in .html or .png")
    method = _method(wishes.method, notice)
    catalogue = recommender.catalogue
    check_fields([wishes.label], catalogue, recommender.name)
    with replacing(target) as file:
        items = _read(recommender, wishes, notice, progress)
        count = len(items.ids)
        if count < FEW and method != "pca":
            method = "pca"
            notice(f"{count} items are too few for any method but pca: placed by their principal components.")
        neighbours, scores = _neighbours(recommender, items, wishes.where, progress)
        codes = _comparable(items.codes, recommender.manifest.encoder.metric)
        places = _fitted(_placed(codes, neighbours, method, progress))
        popular = np.bincount(neighbours[neighbours >= 0].ravel(), minlength=count)
        progress("arranging", 0, 0)
        dim = recommender.manifest.encoder.dim
        drawn = Map(
            wishes.title or recommender.name, _facts(recommender, items, wishes, method),
            [NOTE.format(dim=dim), "The neighbours in an item's panel are its nearest by all of these numbers."],
            items.ids, wishes.label, items.values, Colouring.of(items.values), places,
            levels(places, popular.astype(np.int64)), neighbours, scores, items.fields,
        )  # fmt: skip
        if ending == ".png":
            from simrec.posters import Poster

            poster = Poster(drawn, wishes.size)
            for place, picture in _pictures(catalogue, items, wishes.where, set(poster.cells), progress):
                poster.put(place, picture)
            poster.finished().save(file, "PNG")
        else:
            with temporary() as (spool, explaining), explaining:
                tiles = Tiles(spool, _edge(catalogue, items))
                for place, picture in _pictures(catalogue, items, wishes.where, None, progress):
                    tiles.put(place, picture)
                write(file, drawn, tiles, progress)
    return count


def _method(method: Method, notice: Notice) -> Literal["pacmap", "pca"]:
    if method == "auto":
        if find_spec("pacmap"):
            return "pacmap"
        notice("Placed by the principal components: pip install 'simrec[map]' gives a map with clearer groups.")
        return "pca"
    if method == "pacmap" and not find_spec("pacmap"):
        raise NotInstalledError(f"--method pacmap {needs('pacmap')}")
    return method


def _facts(recommender: Recommender, items: _Items, wishes: Wishes, method: str) -> list[str]:
    count = len(items.ids)
    some = f"{count:,} items" if count == items.total else f"{count:,} of {items.total:,} items"
    only = [f"only {wishes.where}"] if wishes.where else []
    named = {"pacmap": "PaCMAP", "pca": "principal components"}[method]
    return [some, *only, f"encoder {recommender.manifest.encoder.title.partition('@')[0]}", f"placed by {named}"]


def _read(
    recommender: Recommender, wishes: Wishes, notice: Notice, progress: Callable[[str, int, int], None]
) -> _Items:
    """Reads all items, or an even sample."""
    catalogue, where = recommender.catalogue, wishes.where
    total = len(catalogue) if where is None else catalogue.matching(where)
    wanted = min(total, wishes.number or MOST, MOST)
    drawn = set(np.linspace(0, total - 1, wanted).round().astype(np.int64).tolist())
    names = list(catalogue.fields)
    ids, values, contents = list[str](), list[Value](), list[str]()
    fields: dict[str, list[Value]] = {name: [] for name in names if name != wishes.label}
    codes, seen = list[Codes](), 0
    for items, some in catalogue.batches(where):
        rows = [row for row in range(len(items)) if seen + row in drawn]
        seen += len(items)
        for item in (items[row] for row in rows):
            ids.append(item.id)
            values.append(value_of(item, wishes.label))
            contents.append(item.content)
            for name, column in fields.items():
                value = item.fields.get(name)
                column.append(value[:VALUE] if isinstance(value, str) else value)
        codes.append(some[rows])
        progress("reading", seen, total)
    if len(ids) < FEWEST:
        raise RequestError(
            f"{recommender.name}: a map needs at least {FEWEST} items, and there are {len(ids)}: widen the filter, or "
            f"add pictures with 'simrec index add'"
        )
    if len(ids) < total:
        notice(f"The map has {len(ids):,} of {total:,} items, drawn evenly.")
    return _Items(ids, values, contents, _within(fields, notice), np.concatenate(codes), total)


def _within(fields: dict[str, list[Value]], notice: Notice) -> dict[str, list[Value]]:
    """The first fields that have any value, as many as fit into a page."""
    kept, room, left = dict[str, list[Value]](), FIELDS, list[str]()
    for name, column in fields.items():
        if all(value is None for value in column):
            continue
        room -= sum(len(str(value)) + 3 for value in column)
        if room < 0:
            left.append(name)
        else:
            kept[name] = column
    if left:
        notice(f"The page has no room for the fields {', '.join(left)}.")
    return kept


def _neighbours(
    recommender: Recommender, items: _Items, where: str | None, progress: Callable[[str, int, int], None]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The nearest items (n, k) of each item by their codes, without itself and its exact copies, and their scores (n,
    k); -1 and 0 if there are no more. `similar` gives the same, except for items whose distances agree to seven digits.
    """
    searchable, count = _searchable(recommender, items, where), len(items.ids)
    k = min(NEIGHBOURS, count - 1)
    _, same = np.unique(np.array(items.contents), return_inverse=True)
    same = np.where(np.array(items.contents) == "", -1 - np.arange(count), same)
    copies = np.bincount(same[same >= 0], minlength=1)
    neighbours, scores = np.full((count, k), -1, np.int32), np.zeros((count, k), np.float32)
    for start in range(0, count, BLOCK):
        part = slice(start, min(start + BLOCK, count))
        own = same[part, np.newaxis]
        more = min(int(np.where(own < 0, 1, copies[np.maximum(own, 0)]).max()), COPIES)
        rows, distances = searchable.search(items.codes[part], min(count, k + more))
        own_rows = np.arange(part.start, part.stop)[:, np.newaxis]
        others = (rows != own_rows) & (same[rows] != own)
        first = np.argsort(~others, axis=1, kind="stable")[:, :k]
        there = np.take_along_axis(others, first, axis=1)
        neighbours[part, : first.shape[1]] = np.where(there, np.take_along_axis(rows, first, axis=1), -1)
        near = searchable.scores(np.take_along_axis(distances, first, axis=1))
        scores[part, : first.shape[1]] = np.where(there, near, 0)
        progress("finding neighbours", part.stop, count)
    return neighbours, scores


def _searchable(recommender: Recommender, items: _Items, where: str | None) -> Searchable:
    """An index of the items' codes: the catalogue's own if the map has all of its items."""
    from simrec.index import Index

    catalogue = recommender.catalogue
    if isinstance(catalogue, LocalCatalogue) and len(items.ids) == items.total:
        return catalogue.chosen(where)
    return Index(items.codes, recommender.manifest.encoder.metric)


def _comparable(codes: Codes, metric: Metric) -> Codes:
    """Codes (n, dim) for which the Euclidean distance agrees with the metric."""
    if metric != "cosine":
        return codes
    lengths = np.linalg.norm(codes, axis=1, keepdims=True)
    comparable: Codes = codes / np.maximum(lengths, np.float32(1e-12))
    return comparable


def _placed(
    codes: Codes, neighbours: NDArray[np.int32], method: str, progress: Callable[[str, int, int], None]
) -> NDArray[np.float64]:
    """Places (n, 2) for codes (n, dim), always with the same seed."""
    progress("placing", 0, 0)
    if method == "pca" or codes.shape[1] <= 2:
        return _principal(codes)
    try:
        with _quiet(method, lambda done, total: progress("placing", done, total)):
            placed = _by_pacmap(codes, neighbours)
    except MemoryError:
        raise
    except Exception as error:  # these libraries have many dependencies, a compiler among them
        raise PluginError(f"--method {method} failed: {reason(error)}: --method pca needs no other package") from error
    return _principal(placed)  # turns the map so that it is wider than high, like screens


def _principal(points: Any) -> NDArray[np.float64]:
    """The first two principal components (n, 2) of points (n, d)."""
    centred = points.astype(np.float64) - points.mean(axis=0, dtype=np.float64)
    _, axes = np.linalg.eigh(centred.T @ centred)
    axes = axes[:, ::-1][:, :2]
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), range(axes.shape[1])])  # always choose the same direction
    points = centred @ axes
    return np.pad(points, ((0, 0), (0, 2 - points.shape[1])))


def _by_pacmap(codes: Codes, neighbours: NDArray[np.int32]) -> NDArray[np.float32]:
    """Places by PaCMAP (Wang et al. 2021, arXiv:2012.04456), from the neighbours that are already known."""
    from pacmap import PaCMAP

    count, k = neighbours.shape
    ones = np.repeat(np.arange(count, dtype=np.int32), k)
    others = neighbours.ravel()
    others = np.where(others < 0, (ones + 1) % count, others)  # it needs k neighbours of each item, even of copies
    pairs = np.stack([ones, others], axis=1).astype(np.int32)
    mapper = PaCMAP(n_neighbors=k, pair_neighbors=pairs, random_state=0, verbose=True)
    return cast("NDArray[np.float32]", mapper.fit_transform(codes, init="pca"))


@contextmanager
def _quiet(library: str, progress: Callable[[int, int], None]) -> Iterator[None]:
    """Silences what a library prints and warns about in the block, and passes on its progress."""
    loggers = [logging.getLogger(name) for name in (library, f"{library}.{library}")]
    states = [one.disabled for one in loggers]
    with warnings.catch_warnings(), redirect_stdout(cast(TextIO, _Listener(progress))):
        warnings.simplefilter("ignore")
        for one in loggers:
            one.disabled = True
        try:
            yield
        finally:
            for one, state in zip(loggers, states, strict=True):
                one.disabled = state


class _Listener:
    """Standard output while a library works: reads PaCMAP's progress, which takes 450 steps."""

    def __init__(self, progress: Callable[[int, int], None]) -> None:
        self._progress = progress

    def write(self, text: str) -> int:
        """Receives what is printed."""
        if match := re.match(r"Iteration: +(\d+)", text):
            self._progress(int(match[1]), 450)
        return len(text)

    def flush(self) -> None:
        """Does nothing: there is no buffer."""


def _fitted(points: NDArray[np.float64]) -> NDArray[np.uint16]:
    """Places in whole units: as large as SIDE allows, centred, with a small margin."""
    low, high = points.min(axis=0), points.max(axis=0)
    scale = 0.96 * (SIDE - 1) / max(float((high - low).max()), 1e-30)
    units = (points - (low + high) / 2) * scale * [1, -1] + (SIDE - 1) / 2
    return cast("NDArray[np.uint16]", np.clip(np.rint(units), 0, SIDE - 1).astype(np.uint16))


def _edge(catalogue: Catalogue, items: _Items) -> int:
    """The longest edge of the pictures in pixels: at most that of the largest in a sample of previews."""
    most = edge(len(items.ids))
    sample = items.ids[:: max(1, len(items.ids) // 50)][:50]
    sizes = [max(picture.size) for id_ in sample if (picture := catalogue.picture(id_))]
    return min(most, max(sizes, default=most))


def _pictures(
    catalogue: Catalogue, items: _Items, where: str | None, only: set[int] | None,
    progress: Callable[[str, int, int], None],
) -> Iterator[tuple[int, Image]]:  # fmt: skip
    """Items' numbers and previews, as they are read. only: numbers of items to read, None for all.

    Raises StoreError for a damaged preview.
    """
    from simrec.catalogue import previews

    places = {id_: place for place, id_ in enumerate(items.ids) if only is None or place in only}
    done = 0
    for batch in catalogue.record_batches({"id": None, "preview": None}, where, BLOCK):
        ids: Sequence[str] = batch.column("id").to_pylist()
        wanted = [(row, places[id_]) for row, id_ in enumerate(ids) if id_ in places]
        column = batch.column("preview")
        for row, place in wanted:
            try:
                yield place, previews.opened(column[row].as_py() or previews.NONE)
            except ValueError as error:
                raise StoreError(
                    f"{catalogue.name}: the preview of {ids[row]!r:.200} is damaged ({error}): 'simrec index verify "
                    f"{catalogue.name}' says what helps"
                ) from error
        done += len(wanted)
        progress("reading pictures", done, len(places))
