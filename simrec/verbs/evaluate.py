"""How well a recommender finds, beside what learns nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from simrec.contracts import Codes, Dtype, Images, Notice
from simrec.errors import PluginError, TrainingError
from simrec.recommender import Recommender, silent

if TYPE_CHECKING:
    from simrec.evaluation import Exam
    from simrec.index import Index


@dataclass(frozen=True)
class Evaluation:
    """Figures of a recommender and of the baselines beside it.

    how: "test" (the test split's pictures as queries), "leave-one-out" or "reconstruction" (no labels). rows: a
    name, the numbers and bytes of a code, and figures by name (see `simrec.evaluation.Exam.figures`); the
    recommender's own row is first, those of raw pixels and, where its plugin is there, of PCA are last. stress: for
    each perturbation of the queries a "name" and P@10 by row name, "as they are" first; empty unless asked for.
    """

    name: str
    encoder: str
    how: str
    queries: int
    catalogue: int
    reduced: bool
    rows: tuple[dict[str, Any], ...]
    stress: tuple[dict[str, Any], ...]

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def evaluate(
    recommender: Recommender,
    *,
    stress: bool = False,
    noise: float | None = None,
    data_dir: Path | None = None,
    notice: Notice = silent,
) -> Evaluation:
    """How well a recommender finds items of the query's class, beside raw pixels and PCA of the same dimension.

    The queries are its test split, else its own catalogue, each item left out of its own answer. stress: ask again
    with the queries perturbed, noise: and with that share of their pixels wrong (see `simrec.perturbations`). Raises
    what `Recommender.pictures` raises for the test split, RequestError for a share that is not in 0..1.
    """
    from simrec import evaluation as figures
    from simrec.compression import sparsity
    from simrec.index import BITS, Index

    record, catalogue = recommender.manifest.encoder, recommender._record()
    changes = _perturbations(stress, noise)
    images = recommender.catalogue.thumbnails()
    how, asked, exam = _exam(recommender, images, data_dir, notice)
    if how == "leave-one-out" and catalogue.source == record.trained_on.source:
        notice(
            f"{recommender.name} was trained on these very pictures: others are found less well than these figures say."
        )

    def row(name: str, index: Index, queries: Codes, size: int, *, clusters: bool = True) -> dict[str, Any]:
        described = {"name": name, "numbers": queries.shape[1], "bytes": size}
        if how == "reconstruction":
            return described
        nmi = {"NMI": exam.clustering(index)} if clusters else {}
        return {**described, **exam.figures(index, queries), **nmi}

    queries, codes = recommender.encode(asked), recommender.codes
    sizes = {"float32": 4 * record.dim, "int8": record.dim, "binary": BITS // 8}
    smaller: tuple[Dtype, ...] = ("int8", "binary") if catalogue.dtype == "float32" else ()
    raw = Index(figures.pixels(images), "cosine")
    pixels = row("raw pixels", raw, figures.pixels(asked), images[0].size)
    rows = [
        row(recommender.name, recommender.index, queries, sizes[catalogue.dtype]),
        *(row(f"  as {d}", Index(codes, record.metric, d), queries, sizes[d], clusters=False) for d in smaller),
        pixels,
    ]
    rebuilt = recommender.decode(queries) if record.decodes else None
    rows[0]["MSE"] = None if rebuilt is None else float(figures.squared_errors(rebuilt, asked).mean())
    rows[0]["zeros"] = sparsity(queries)
    rows[0]["ms"] = milliseconds(lambda image: recommender.index.search(recommender.encode(image), 10), asked)
    pixels["MSE"] = 0.0
    try:
        pca, metric = figures.principal_components(images, record.dim)
    except (PluginError, TrainingError) as error:
        notice(f"PCA is left out: {error}")
    else:
        components = pca.encode(asked)
        rows.append(row("PCA", Index(pca.encode(images), metric), components, components[0].nbytes))
        rows[-1]["MSE"] = float(figures.squared_errors(pca.decode(components), asked).mean())

    stressed = []
    if changes and how != "reconstruction":
        clean = {"name": "as they are", recommender.name: rows[0]["P@10"], "raw pixels": pixels["P@10"]}
        stressed = [clean, *_stressed(recommender, raw, asked, exam, changes)]
    return Evaluation(
        recommender.name, record.title, how, len(asked), len(images), catalogue.reduced, tuple(rows), tuple(stressed)
    )


def milliseconds(look_up: Callable[[Images], object], images: Images, repeats: int = 200) -> float:
    """The median time of looking up one of images (n, h, w, c), in a process that is warm."""
    times = []
    for row in range(min(len(images), repeats + 10)):
        begun = time.perf_counter()
        look_up(images[row : row + 1])
        times.append(time.perf_counter() - begun)
    return float(np.median(times[10:] or times) * 1000)


def _exam(recommender: Recommender, images: Images, data_dir: Path | None, notice: Notice) -> tuple[str, Images, Exam]:
    """How a catalogue of those images is evaluated, the queries, and what is asked."""
    from simrec.evaluation import Exam

    record, labels = recommender._record(), [item.label for item in recommender.catalogue.all()]
    how, asked, asked_labels = "leave-one-out", images, labels
    if record.test and record.labelled:
        test = recommender.pictures(record.test, data_dir, notice)
        how, asked, asked_labels = "test", test.images, list(test.labels)
    elif not record.labelled or len(images) < 2:
        how = "reconstruction"
    return how, asked, Exam.of_labels(asked_labels, labels, leave_one_out=how == "leave-one-out")


def _perturbations(stress: bool, noise: float | None) -> dict[str, Callable[[Images], Images]]:
    """Those asked for, by name."""
    from simrec.perturbations import PERTURBATIONS, check_share, noisy

    changes = dict(PERTURBATIONS) if stress else {}
    if noise is not None:
        check_share(noise)
        changes[f"noise on {noise:.0%} of the pixels"] = lambda images: noisy(images, noise)
    return changes


def _stressed(
    recommender: Recommender, raw: Index, asked: Images, exam: Exam,
    changes: Mapping[str, Callable[[Images], Images]],
) -> list[dict[str, Any]]:  # fmt: skip
    """P@10 of queries changed so, those of the recommender and of raw pixels."""
    from simrec.evaluation import pixels

    rows = []
    for name, change in changes.items():
        queries = change(asked)
        mine = exam.figures(recommender.index, recommender.encode(queries))
        theirs = exam.figures(raw, pixels(queries))
        rows.append({"name": name, recommender.name: mine["P@10"], "raw pixels": theirs["P@10"]})
    return rows
