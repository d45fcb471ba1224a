"""Measures how well a recommender finds items, compared with raw pixels and PCA."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from simrec.contracts import Codes, Dtype, Images, Item, Notice
from simrec.errors import DataError, PluginError, TrainingError, quantity
from simrec.recommender import Recommender, silent

if TYPE_CHECKING:
    from simrec.evaluation import Exam
    from simrec.index import Index, Searchable

RAW = "raw pixels"
"""The name of the row of raw pixels."""


@dataclass(frozen=True)
class Evaluation:
    """Figures of a recommender and of the baselines.

    how: "test" (the test split's pictures are the queries), "leave-one-out" or "reconstruction" (no labels). rows: a
    name, the numbers and bytes of a code, and figures by name (see `simrec.evaluation.Exam.figures`); the recommender's
    own row is first, those of raw pixels and, if its plugin is there, of PCA are last. stress: for each perturbation of
    the queries a "name" and P@10 by row name, "as they are" first. near_duplicates: at least
    how many queries have the same photo, saved again, as their first neighbour (see `simrec.near_duplicates`); None
    unless `how` is "leave-one-out". where: the filter that the catalogue's items match, None for all items.
    """

    name: str
    encoder: str
    how: str
    queries: int
    catalogue: int
    reduced: bool
    rows: tuple[dict[str, Any], ...]
    stress: tuple[dict[str, Any], ...]
    near_duplicates: int | None = None
    where: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def evaluate(
    recommender: Recommender,
    *,
    where: str | None = None,
    stress: bool = False,
    noise: float | None = None,
    data_dir: Path | None = None,
    progress: Callable[[str, int, int], None] = silent,
    notice: Notice = silent,
) -> Evaluation:
    """Measures how well a recommender finds items of the query's class, compared with raw pixels and PCA of the same
    dimension.

    The queries are its test split, or its own catalogue with each item left out of its own answer. The pictures of both
    are read again from their sources; items whose picture can't be read are left out, with a notice. where: as if the
    catalogue held only the items that match this filter; test pictures of classes that none of them has are left out.
    stress: repeat with the queries perturbed; noise: and with noise on this share of their pixels (see
    `simrec.perturbations`). progress: called with a stage, how many pictures are done and how many there are.

    Raises what `Recommender.pictures` raises for the test split, DataError if a source or all pictures are no longer
    there, RequestError for a share that is not in 0..1, for an invalid filter and if nothing matches.
    """
    changes = _perturbations(stress, noise)
    test = _test(recommender, where, data_dir, progress, notice)
    raw = _pixel_index(test.images)
    codes = recommender.encode(test.queries, lambda done: progress("encoding", done, len(test.queries)))
    rows = [*_own_rows(recommender, test, codes), _pixel_row(raw, test), *_component_rows(recommender, test, notice)]
    stressed = []
    if changes and test.how != "reconstruction":
        pixels = next(row for row in rows if row["name"] == RAW)
        clean = {"name": "as they are", recommender.name: rows[0]["P@10"], RAW: pixels["P@10"]}
        stressed = [clean, *_stressed(recommender, raw, test, changes, progress)]
    copies = _near_duplicates(recommender, test, codes) if test.how == "leave-one-out" else None
    if copies:
        scored = np.count_nonzero(test.exam.query_labels >= 0)
        notice(
            f"{recommender.name}: at least {copies:,} of the {scored:,} queries have a near-duplicate (the same photo "
            f"again) as their first neighbour, which flatters these figures."
        )
    record = recommender.manifest.catalogue
    assert record is not None
    return Evaluation(
        recommender.name, recommender.manifest.encoder.title, test.how, len(test.queries), len(test.images),
        record.reduced, tuple(rows), tuple(stressed), copies, where,
    )  # fmt: skip


@dataclass(frozen=True)
class _Test:
    """The test in an evaluation: how (see `Evaluation`), the items' pictures (n, h, w, c), an index of their codes, the
    queries (m, h, w, c), and the right answers. unread: places, among the items that match `where`, of those that are
    left out.
    """

    how: str
    where: str | None
    unread: Sequence[int]
    items: Sequence[Item]
    index: Searchable
    images: Images
    queries: Images
    exam: Exam

    def row(self, name: str, index: Searchable, codes: Codes, size: int, *, clusters: bool = True) -> dict[str, Any]:
        """The figures of an index and of the queries' codes (m, dim); size: of a code in bytes."""
        described = {"name": name, "numbers": codes.shape[1], "bytes": size}
        if self.how == "reconstruction":
            return described
        nmi = {"NMI": self.exam.clustering(index)} if clusters else {}
        return {**described, **self.exam.figures(index, codes), **nmi}


def _test(
    recommender: Recommender,
    where: str | None,
    data_dir: Path | None,
    progress: Callable[[str, int, int], None],
    notice: Notice,
) -> _Test:
    """The test, with the test split's pictures as queries; without a test split or labels, the catalogue's own."""
    from simrec.evaluation import Exam

    if where is not None:
        recommender.catalogue.matching(where)  # raises if nothing matches
    items = list(recommender.catalogue.all(where))
    images, unread = recommender.readable_originals(
        items, notice, data_dir, lambda done: progress("reading", done, len(items))
    )
    if len(unread) == len(items):
        raise DataError(f"{recommender.name}: none of its pictures can be read again: {unread[0]!s:.500}")
    if unread:
        left_out = quantity(len(unread), "item is", "items are")
        notice(f"{left_out} left out, because the picture can't be read again: {next(iter(unread.values()))!s:.500}")
        items = [item for row, item in enumerate(items) if row not in unread]
    record, trained_on = recommender.manifest.catalogue, recommender.manifest.encoder.trained_on
    assert record is not None
    labels = [item.label for item in items]
    how, queries, query_labels = "leave-one-out", images, labels
    split = recommender.pictures(record.test, data_dir, notice) if record.test and any(labels) else None
    if split and where is not None:
        split = split.where(np.isin(split.labels, sorted(set(labels) - {""})))
    if split:
        how, queries, query_labels = "test", split.images, list(split.labels)
    elif not any(labels) or len(images) < 2:
        how = "reconstruction"
    elif record.source == trained_on.source:
        notice(f"{recommender.name} was trained on these very pictures: for other pictures the figures would be lower.")
    exam = Exam.of_labels(query_labels, labels, leave_one_out=how == "leave-one-out")
    return _Test(how, where, list(unread), items, recommender.catalogue.chosen(where, unread), images, queries, exam)


def _own_rows(recommender: Recommender, test: _Test, codes: Codes) -> list[dict[str, Any]]:
    """The recommender's row and, if its codes are float32, rows of the smaller ways to keep them.

    codes: of the queries (m, dim).
    """
    from simrec.compression import sparsity
    from simrec.evaluation import squared_errors
    from simrec.index import BITS, Index

    record, catalogue = recommender.manifest.encoder, recommender.manifest.catalogue
    assert catalogue is not None
    sizes = {"float32": 4 * record.dim, "int8": record.dim, "binary": BITS // 8}
    own = test.row(recommender.name, test.index, codes, sizes[catalogue.dtype])
    own["MSE"] = None
    if record.decodes:
        own["MSE"] = float(squared_errors(recommender.decode(codes), test.queries).mean())
    own["zeros"] = sparsity(codes)
    own["ms"] = milliseconds(lambda image: test.index.search(recommender.encode(image), 10), test.queries)
    rows, smaller = [own], cast(tuple[Dtype, ...], ("int8", "binary") if catalogue.dtype == "float32" else ())
    for dtype in smaller:
        kept = np.concatenate([part for _, part in recommender.catalogue.batches(test.where)])
        kept = np.delete(kept, test.unread, axis=0)
        index = Index(kept, record.metric, dtype)
        rows.append(test.row(f"  as {dtype}", index, codes, sizes[dtype], clusters=False))
    return rows


def _near_duplicates(recommender: Recommender, test: _Test, codes: Codes) -> int:
    """How many labelled items have the same photo, saved again, as their first neighbour.

    codes: of the items (n, dim). Only two previews are in memory at a time.
    """
    from simrec.evaluation import neighbours
    from simrec.near_duplicates import same_photo

    catalogue, items = recommender.catalogue, test.items
    nearest = neighbours(test.index, codes, 1, leave_one_out=True)[:, 0]
    count = 0
    for row in np.flatnonzero(test.exam.query_labels >= 0).tolist():
        one, other = items[row], items[nearest[row]]
        if one.content and one.content == other.content:
            count += 1
        else:
            pictures = catalogue.picture(one.id), catalogue.picture(other.id)
            count += bool(pictures[0] and pictures[1] and same_photo(pictures[0], pictures[1]))
    return count


def _pixel_index(images: Images) -> Index:
    from simrec.evaluation import pixels
    from simrec.index import Index

    return Index(pixels(images), "cosine")


def _pixel_row(raw: Index, test: _Test) -> dict[str, Any]:
    """The row of raw pixels."""
    from simrec.evaluation import pixels

    return {**test.row(RAW, raw, pixels(test.queries), test.images[0].size), "MSE": 0.0}


def _component_rows(recommender: Recommender, test: _Test, notice: Notice) -> list[dict[str, Any]]:
    """The row of PCA with as many numbers; no row, and a notice, if PCA isn't available."""
    from simrec.evaluation import principal_components, squared_errors
    from simrec.index import Index

    try:
        pca, metric = principal_components(test.images, recommender.manifest.encoder.dim)
    except (PluginError, TrainingError) as error:
        notice(f"PCA is left out: {error}")
        return []
    codes = pca.encode(test.queries)
    row = test.row("PCA", Index(pca.encode(test.images), metric), codes, codes[0].nbytes)
    return [{**row, "MSE": float(squared_errors(pca.decode(codes), test.queries).mean())}]


def milliseconds(look_up: Callable[[Images], object], images: Images, repeats: int = 200) -> float:
    """The median time of looking up one of images (n, h, w, c), in a warm process."""
    times = []
    for row in range(min(len(images), repeats + 10)):
        begun = time.perf_counter()
        look_up(images[row : row + 1])
        times.append(time.perf_counter() - begun)
    return float(np.median(times[10:] or times) * 1000)


def _perturbations(stress: bool, noise: float | None) -> dict[str, Callable[[Images], Images]]:
    """The requested perturbations, by name."""
    from simrec.perturbations import PERTURBATIONS, check_share, noisy

    changes = dict(PERTURBATIONS) if stress else {}
    if noise is not None:
        check_share(noise)
        changes[f"noise on {noise:.0%} of the pixels"] = lambda images: noisy(images, noise)
    return changes


def _stressed(
    recommender: Recommender, raw: Index, test: _Test, changes: Mapping[str, Callable[[Images], Images]],
    progress: Callable[[str, int, int], None],
) -> list[dict[str, Any]]:  # fmt: skip
    """P@10 of the recommender and of raw pixels, for queries with each change."""
    from simrec.evaluation import pixels

    rows: list[dict[str, Any]] = []
    count, total = len(test.queries), len(changes) * len(test.queries)

    def report(done: int) -> None:
        progress("stress", len(rows) * count + done, total)

    for name, change in changes.items():
        queries = change(test.queries)
        codes = recommender.encode(queries, report)
        mine = test.exam.figures(test.index, codes)
        theirs = test.exam.figures(raw, pixels(queries))
        rows.append({"name": name, recommender.name: mine["P@10"], RAW: theirs["P@10"]})
    return rows
