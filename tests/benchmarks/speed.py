"""How fast and how small simrec is, each command beside what it is compared with, in one run.

    python tests/benchmarks/speed.py [--index quickstart] [--train]

Processes are timed in turn (A, B, A, B, ...) and their medians compared, so that a machine that slows down slows
both. --train measures the peak memory of training the default encoder for one epoch on Fashion-MNIST too.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

# What is measured inside this process is imported after the child processes were: a child's peak memory counts from
# before it became another program, so this one must be small until then.
if TYPE_CHECKING:
    import numpy as np

    import simrec

RUNS = 9

LOOKUPS = 2000

PICTURE = """
import sys
from PIL import Image
import simrec
from simrec import datasets
from simrec.contracts import ImageSpec
images = datasets.load("fashion-mnist:test", ImageSpec(), notice=print).images
Image.fromarray(images[0, :, :, 0]).save(sys.argv[1])
"""


def run(*words: str) -> tuple[float, float]:
    """A process's wall seconds and peak memory in MB."""
    begun = time.perf_counter()
    process = subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, words
    return time.perf_counter() - begun, usage.ru_maxrss / 1024


def cold(shoe: Path) -> None:
    commands = {
        "import torch": ("-c", "import torch"),
        "simrec similar FILE": ("-m", "simrec", "similar", str(shoe), "--index", "demo"),
        "simrec --help": ("-m", "simrec", "--help"),
    }
    for words in commands.values():
        run(*words)  # from a warm disk cache
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for _ in range(RUNS):
        for name, words in commands.items():
            runs[name].append(run(*words))
    torch = statistics.median(seconds for seconds, _ in runs["import torch"])
    for name, measured in runs.items():
        seconds = statistics.median(s for s, _ in measured)
        memory = max(m for _, m in measured)
        print(
            f"{name:<22} {seconds * 1000:6.0f} ms   {seconds / torch:6.1%} of import torch   {memory:5.0f} MB at most"
        )


def warm(recommender: simrec.Recommender, images: np.ndarray) -> None:
    import numpy as np

    from simrec.index import Index
    from simrec.recommender import Query

    many = np.concatenate([images] * 6)
    recommender.encode(images)
    begun = time.perf_counter()
    codes = recommender.encode(many)
    print(f"encoding {len(many):,} pictures: {len(many) / (time.perf_counter() - begun):,.0f} pictures/s")
    metric = recommender.manifest.encoder.metric
    index = Index(codes + np.random.default_rng(0).normal(0, 0.01, codes.shape).astype(np.float32), metric)
    search = []
    for image in images[:LOOKUPS]:
        begun = time.perf_counter()
        index.search(recommender.encoder.encode(image[np.newaxis]), 10)
        search.append(time.perf_counter() - begun)
    print(f"encoding and searching one of {len(index):,}: median {statistics.median(search) * 1000:.2f} ms")
    whole = []
    for row in range(LOOKUPS):
        query = Query("", images[row : row + 1], frozenset())
        begun = time.perf_counter()
        recommender.similar(query, 10)
        whole.append(time.perf_counter() - begun)
    items = len(recommender.index)
    print(
        f"similar(), items read too, {recommender.name} of {items:,}: median {statistics.median(whole) * 1000:.2f} ms"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--index", default="demo")
    parser.add_argument("--train", action="store_true")
    given = parser.parse_args()
    print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}, median of {RUNS} runs")
    with tempfile.TemporaryDirectory() as folder:
        shoe = Path(folder) / "shoe.png"
        run("-c", PICTURE, str(shoe))
        cold(shoe)
        if given.train:
            seconds, memory = run("-m", "simrec", "--home", folder, "train", "plain", "--epochs", "1")
            print(f"simrec train plain --epochs 1: {seconds:.0f} s, {memory:.0f} MB")

    import simrec
    from simrec import datasets
    from simrec.contracts import ImageSpec

    warm(simrec.open(given.index), datasets.load("fashion-mnist:test", ImageSpec(), notice=print).images)


if __name__ == "__main__":
    main()
