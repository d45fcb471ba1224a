"""Where settings are chosen: an encoder trained on the first 50,000 train pictures, the last 10,000 looked up in them.

    python tests/benchmarks/validation.py plain --set epochs=8 --set dim=32 --seed 0

prints the figures of `simrec evaluate` on that split. The test pictures play no part.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from simrec import datasets, evaluation, host, settings
from simrec.contracts import ImageSpec, Progress

HELD_OUT = 10_000


def show(at: Progress) -> None:
    if at.step == at.steps:
        print(f"  epoch {at.epoch}/{at.epochs}: loss {at.loss:.4g}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoder")
    parser.add_argument("--preset", default="default")
    parser.add_argument("--set", dest="changes", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()

    pictures = datasets.load("fashion-mnist", ImageSpec(), notice=print)
    labels = np.array([datasets.LABELS.index(label) for label in pictures.labels])
    images, held_out = pictures.images[:-HELD_OUT], pictures.images[-HELD_OUT:]
    offer = host.discover().encoder(given.encoder)
    kind = host.encoder_class(offer)
    changes = dict(text.split("=", 1) for text in given.changes)
    encoder = kind(settings.choose(kind.presets, given.preset, changes, given.encoder))
    begun, cpu = time.perf_counter(), time.process_time()
    encoder.fit(images, validation=held_out[:1000], seed=given.seed, device="auto", progress=show, stop=lambda: False)
    seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
    figures = evaluation.retrieval(
        encoder.encode(held_out), encoder.encode(images), offer.spec.metric, labels[-HELD_OUT:], labels[:-HELD_OUT],
        leave_one_out=False,
    )  # fmt: skip
    told = "  ".join(f"{name} {value:.4f}" for name, value in figures.items())
    codes = encoder.encode(held_out)
    sparse = (np.abs(codes) < 1e-3 * np.abs(codes).max(axis=1, keepdims=True)).mean()
    error = evaluation.squared_error(encoder.decode(codes), held_out)
    print(f"{given.encoder} {encoder.dim} {given.changes} seed {given.seed}: {told}")
    print(f"  {seconds:.0f} s, {cpu:.0f} CPU s; MSE {error:.4f}; {sparse:.0%} of a code's entries near zero")


if __name__ == "__main__":
    main()
