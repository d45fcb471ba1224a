"""For choosing settings: trains an encoder on the first 50,000 train pictures and looks up the last 10,000 in them.

    python tests/benchmarks/validation.py plain --set epochs=8 --set dim=32 --seed 0
    python tests/benchmarks/validation.py plain --variant contrastive     # a network of variants.py
    python tests/benchmarks/validation.py plain --search                  # other ways to search the same codes

prints the figures of `simrec evaluate --stress` on that split, and the rates of `simrec compress --report`. It doesn't
use the test pictures.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import faiss
import numpy as np
from variants import VARIANTS

from simrec import evaluation, host, settings
from simrec.compression import BITS, CodeModel
from simrec.contracts import Codes, EncoderSpec, ImageSpec, Progress
from simrec.index import Index
from simrec.perturbations import PERTURBATIONS
from simrec.sources import fashion_mnist
from simrec.sources.load import load

HELD_OUT = 10_000


def show(at: Progress) -> None:
    if at.step == at.steps:
        print(f"  epoch {at.epoch}/{at.epochs}: loss {at.loss:.4g}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoder")
    parser.add_argument("--preset", default="default")
    parser.add_argument("--set", dest="changes", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--variant", choices=VARIANTS)
    parser.add_argument("--search", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()

    pictures = load("fashion-mnist", ImageSpec(), notice=print)
    labels = np.array([fashion_mnist.LABELS.index(label) for label in pictures.labels])
    images, held_out = pictures.images[:-HELD_OUT], pictures.images[-HELD_OUT:]
    offer = host.discover().find(EncoderSpec, given.encoder)
    kind = host.encoder_class(offer)
    if given.variant:
        kind = type("Tried", (kind,), {"networks": {**kind.networks, "conv": VARIANTS[given.variant]}})
    changes = dict(text.split("=", 1) for text in given.changes)
    encoder = kind(settings.choose(kind.presets, given.preset, changes, given.encoder))
    begun, cpu = time.perf_counter(), time.process_time()
    encoder.fit(images, validation=held_out[:1000], seed=given.seed, device="auto", progress=show, stop=lambda: False)
    seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu

    catalogue = encoder.encode(images)
    index = Index(catalogue, offer.spec.metric)

    exam = evaluation.Exam(labels[-HELD_OUT:], labels[:-HELD_OUT], tuple(fashion_mnist.LABELS), leave_one_out=False)

    def figures(codes: Codes) -> dict[str, float]:
        return evaluation.ranking_figures(exam.neighbour_labels(index, codes), exam.query_labels)

    codes = encoder.encode(held_out)
    clean = figures(codes)
    words = [given.encoder, *([given.variant] if given.variant else []), *given.changes]
    print(f"{' '.join(words)}, {encoder.dim} numbers, seed {given.seed}: {told(clean)}")
    sparse = (np.abs(codes) < 1e-3 * np.abs(codes).max(axis=1, keepdims=True)).mean()
    error = evaluation.squared_errors(encoder.decode(codes), held_out).mean()
    print(f"  {seconds:.0f} s, {cpu:.0f} CPU s; MSE {error:.4f}; {sparse:.0%} of a code's entries near zero")
    model = CodeModel.fit(catalogue)
    rates = []
    for bits in BITS:
        levels = model.levels(codes, bits)
        error = evaluation.squared_errors(encoder.decode(model.codes(levels, bits)), held_out).mean()
        rates.append(f"{32 * len(model.encoded(levels, bits)) / len(codes):.0f}/{error:.4f}")
    print(f"  bits a picture/MSE, {BITS[0]} to {BITS[-1]} bits a number: {' '.join(rates)}", flush=True)
    for name, perturb in PERTURBATIONS.items():
        change = figures(encoder.encode(perturb(held_out)))["P@10"] - clean["P@10"]
        print(f"  {name}: {100 * change:+.1f} points of P@10")
    if given.search:
        search(codes, catalogue, labels[-HELD_OUT:], labels[:-HELD_OUT])


def told(figures: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in figures.items())


def search(queries: Codes, catalogue: Codes, asked: Any, labels: Any) -> None:
    """Prints the figures of other ways to search the same codes, by cosine and without labels."""
    queries, catalogue = queries.copy(), catalogue.copy()
    faiss.normalize_L2(queries)
    faiss.normalize_L2(catalogue)
    exact = Index(catalogue, "cosine")

    def averaged(codes: Codes, own: bool, n: int) -> Codes:
        """Each code averaged with its nearest items' codes, weighted by the cubed cosine."""
        rows, distances = exact.search(codes, n + own)
        weights = (1 - distances) ** 3
        mean = (catalogue[rows] * weights[..., None]).sum(1) + (0 if own else codes)
        return np.asarray(mean, np.float32)

    ways = {
        "as it is": (queries, catalogue),
        "queries averaged with their 3 nearest items": (averaged(queries, False, 3), catalogue),
        "items averaged with their 5 nearest": (queries, averaged(catalogue, True, 5)),
    }
    for name, (asking, items) in ways.items():
        found, _ = Index(items, "cosine").search(asking, evaluation.DEPTH)
        print(f"  {name}: {told(evaluation.ranking_figures(labels[found], asked))}")
    print(f"  re-ranked: {told(evaluation.ranking_figures(labels[reranked(exact, queries, catalogue)], asked))}")


def reranked(index: Index, queries: Codes, catalogue: Codes, n: int = 20, weight: float = 0.3) -> Any:
    """The first 100 items after k-reciprocal re-ranking (Zhong et al. 2017, arXiv:1701.08398), without its query
    expansion: by a weighted sum of the distance and the Jaccard distance of the sets of n reciprocal nearest items.
    """
    near, distances = index.search(queries, evaluation.DEPTH)
    items, item_distances = index.search(catalogue, n + 1)
    reach = item_distances[:, -1]  # how far an item's n nearest lie
    order = np.empty_like(near)
    for q in range(len(queries)):
        own = near[q, :n][distances[q, :n] <= reach[near[q, :n]]]  # these would have the query among their n
        shared = np.isin(items[near[q]], own).sum(axis=1)
        jaccard = 1 - shared / (n + 1 + len(own) - shared)
        order[q] = near[q][np.argsort((1 - weight) * jaccard + weight * distances[q], kind="stable")]
    return order


if __name__ == "__main__":
    main()
