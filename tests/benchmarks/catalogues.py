"""Measures what syncing a catalogue, adding to it, filtered look-ups and many look-ups cost.

    python tests/benchmarks/catalogues.py [sync] [add] [filter] [batch] [--large 1000000] [--encoder demo]

sync: `simrec index sync` of 100,000 unchanged files, in its own process. add: adds 1,000 JPEG files to a catalogue of
60,000 (the mean of 50 times, in process) and to one of --large items, compared with building the 60,000. filter:
look-ups with expressions that weren't used before, by the share of items that match, compared with unfiltered ones.
batch: 10,000 pictures in memory looked up among 60,000 by that recommender's encoder, compared with encoding them and
FAISS alone.

The pictures are Fashion-MNIST's: see million.py for where a million come from. The other codes are `demo`'s.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import million
import numpy as np
from PIL import Image

import simrec
from simrec import library
from simrec.contracts import ImageSpec
from simrec.home import default
from simrec.sources.load import load
from simrec.verbs import index

SYNCED, BUILT, ADDED, ADDS, ASKED = 100_000, 60_000, 1_000, 50, 10_000

SHARES = (0.0001, 0.01, 0.1, 0.5, 0.9, 1.0)

RUNS = 15

SYNC = """
import re
from pathlib import Path
from simrec.cli import cli
cli.main(["index", "sync", "synced"], standalone_mode=False)
print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""
"""A sync in its own process, then its peak memory in kilobytes."""


def silent(text: str) -> None:
    """Ignores notices."""


def files(folder: Path, count: int, seed: int, ending: str = "jpg") -> None:
    """Writes so many different small picture files, a thousand per folder."""
    rng = np.random.default_rng(seed)
    pictures = load("fashion-mnist:test", ImageSpec(), notice=silent).images[:, :, :, 0]
    for number in range(count):
        place = folder / f"{number // 1000:04d}"
        place.mkdir(parents=True, exist_ok=True)
        picture = pictures[number % len(pictures)].copy()
        picture[:2, :4] = rng.integers(0, 256, (2, 4))  # no two files are the same
        Image.fromarray(picture).save(place / f"{seed}-{number:06d}.{ending}")


def timed(action: Callable[[], object], runs: int = 1) -> float:
    """The median time of some runs, in seconds."""
    taken = []
    for _ in range(runs):
        begun = time.perf_counter()
        action()
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


def sync(folder: Path) -> None:
    files(folder / "synced", SYNCED, 1, "png")
    simrec.build("synced", str(folder / "synced"), encoder="demo")
    seconds, memory = [], 0.0
    for _ in range(3):
        begun = time.perf_counter()
        said, peak = subprocess.run([sys.executable, "-c", SYNC], stdout=subprocess.PIPE, text=True).stdout.splitlines()
        seconds.append(time.perf_counter() - begun)
        memory = max(memory, float(peak))
    print(f"sync of {SYNCED:,} unchanged files: {statistics.median(seconds):.2f} s, {memory / 1000:.0f} MB ({said})")


def adding(name: str, folder: Path, times: int, seed: int) -> float:
    """The mean seconds for adding 1,000 files, merging included."""
    taken = 0.0
    for number in range(times):
        place = folder / f"{name}-{number}"
        files(place, ADDED, seed + number)
        taken += timed(lambda place=place: index.add(name, str(place)))
    return taken / times


def add(folder: Path, large: int) -> None:
    files(folder / "shop", BUILT, 2)
    whole = timed(lambda: simrec.build("shop", str(folder / "shop"), encoder="demo"))
    mean = adding("shop", folder, ADDS, 1000)
    print(f"building {BUILT:,} JPEGs: {whole:.1f} s; adding {ADDED:,}: {mean:.2f} s, 1/{whole / mean:.0f} of it")
    if large:
        made(folder, large)
        much = adding(f"many-{large}", folder, ADDS, 2000)
        print(f"adding {ADDED:,} to {large:,}: {much:.2f} s, {much / mean:.2f} of adding to {BUILT:,}")


def made(folder: Path, count: int) -> None:
    """Builds a catalogue of so many items with fields, unless it exists."""
    if not (folder / "home" / f"many-{count}").exists():
        simrec.build(f"many-{count}", f"many:{count},fields", encoder="demo")


def filtered(folder: Path, large: int) -> None:
    for count in (BUILT, large):
        if not count:
            continue
        made(folder, count)
        opened = simrec.open(f"many-{count}")
        query = opened.read("id:0000000")

        def asked(where: str, opened: simrec.Recommender = opened, query: object = query) -> float:
            return timed(lambda: opened.similar(query, 10, where=where))

        asked("x < 0.5 AND kind LIKE 'a%'")
        plain = timed(lambda opened=opened, query=query: opened.similar(query, 10), RUNS)
        print(f"{count:,} items: unfiltered {1000 * plain:.2f} ms", end="")
        for share in SHARES:
            taken = [asked(f"x <= {share + number / 1e9:.9f}") for number in range(RUNS)]
            print(f", {share:.2%} {1000 * statistics.median(taken):.2f}", end="")
        taken = [asked(f"kind LIKE '%{number}' OR kind IN ('a1', 'b{number}')") for number in range(RUNS)]
        print(f", LIKE and IN {1000 * statistics.median(taken):.2f}")


def batch(encoder: str) -> None:
    simrec.build("train", "fashion-mnist", encoder=encoder)
    opened = simrec.open("train")
    pictures = list(load("fashion-mnist:test", ImageSpec(), notice=silent).images[:ASKED])
    opened.similar(pictures[:100], 10)
    images = np.stack(pictures)

    def bare() -> None:
        opened.index.search(opened.encode(images), 10)

    alone, asked = [], []
    for _ in range(3):  # in turns
        alone.append(timed(bare))
        asked.append(timed(lambda: opened.similar(pictures, 10)))
    rate = ASKED / statistics.median(asked)
    share = statistics.median(alone) / statistics.median(asked)
    print(f"{ASKED:,} queries over 60,000: {rate:,.0f} a second, {share:.2f} of encoding and searching alone")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=["sync", "add", "filter", "batch", []])
    parser.add_argument("--large", type=int, default=1_000_000)
    parser.add_argument("--encoder", default="demo", help="a recommender's name or folder, for the batch")
    given = parser.parse_args()
    parts = given.parts or ["sync", "add", "filter", "batch"]
    encoder = library.find(given.encoder, default()).absolute()  # the home changes below
    gc.set_threshold(100_000, 50, 100)  # as the command line does
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ["SIMREC_HOME"] = str(folder / "home")
        million.installed(folder)  # before plugins are looked for
        sys.path.insert(0, str(folder))
        if "sync" in parts:
            sync(folder)
        if "filter" in parts:
            filtered(folder, given.large)
        if "add" in parts:
            add(folder, given.large)
        if "batch" in parts:
            batch(str(encoder))


if __name__ == "__main__":
    main()
