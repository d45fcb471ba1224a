"""Measures simrec's speed and memory, each command beside its yardstick, in one run.

    python tests/benchmarks/speed.py [--index quickstart] [--train]
    python tests/benchmarks/speed.py --beside OTHER [--photos FOLDER]
    python tests/benchmarks/speed.py --decoding FOLDER

Processes are timed in turn (A, B, A, B, ...) and their medians compared, so that a machine that slows down slows
both. --train also measures the peak memory of training the default encoder for one epoch on Fashion-MNIST. --beside
compares with another checkout of simrec, pair by pair: a cold look-up, and with --photos how many files of a folder
both read per second. --decoding scales up to 3,000 JPEGs of a folder to 400 x 533 pixels. It compares reading them, and
building a catalogue of them with demo's encoder, with Pillow's decoding alone, at the scale that the preview needs, on
two threads. Bytecode is written and used again, as with an installed package.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

# Modules that are measured in this process are imported after the child processes have run: a child's peak memory
# includes that of this process before the child runs its own program, so this process must be small until then.
if TYPE_CHECKING:
    import numpy as np

    import simrec

CHECKOUT = Path(__file__).resolve().parents[2]

RUNS = 9

PAIRS = 25

PHOTOS = 3000

LOOKUPS = 2000

PICTURE = """
import sys
from PIL import Image
import simrec
from simrec.sources.load import load
from simrec.contracts import ImageSpec
images = load("fashion-mnist:test", ImageSpec(), notice=print).images
Image.fromarray(images[0, :, :, 0]).save(sys.argv[1])
"""


READING = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from simrec import images
from simrec.contracts import ImageSpec
paths = sorted(path for path in Path(sys.argv[1]).rglob("*") if path.suffix == ".jpg")
with ThreadPoolExecutor(2) as pool:
    for _ in pool.map(lambda path: images.read(path, ImageSpec()), paths):
        pass
"""


def run(*words: str, checkout: Path = CHECKOUT) -> tuple[float, float]:
    """A process's wall seconds and peak memory in MB; checkout: which simrec it imports."""
    begun = time.perf_counter()
    paths = os.pathsep.join(map(str, (checkout, checkout / "plugins")))
    process = subprocess.Popen(
        [sys.executable, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=checkout,
        env={**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": ""},
    )  # fmt: skip
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


def beside(other: Path, shoe: Path, photos: Path | None) -> None:
    """Compares this checkout with another, each pair in one order and then in the other."""
    commands = {"simrec similar FILE": ("-m", "simrec", "similar", str(shoe), "--index", "demo")}
    if photos:
        commands["reading a folder"] = ("-c", READING, str(photos.absolute()))
    for name, words in commands.items():
        checkouts = [CHECKOUT, other.absolute()]
        ratios, seconds = [], []
        for pair in range(PAIRS if "similar" in name else RUNS):
            took = {checkout: run(*words, checkout=checkout)[0] for checkout in checkouts[:: 1 if pair % 2 else -1]}
            ratios.append(took[checkouts[0]] / took[checkouts[1]])
            seconds.append(took[checkouts[0]])
        print(
            f"{name:<22} {statistics.median(seconds):6.3f} s   {statistics.median(ratios):5.3f} of {other.name}'s "
            f"(quartiles {' to '.join(f'{q:.3f}' for q in statistics.quantiles(ratios, n=4)[::2])})"
        )


def decoding(photos: Path, folder: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from PIL import Image

    import simrec
    from simrec import images
    from simrec.contracts import ImageSpec

    found = sorted(path for path in photos.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    paths: list[Path] = []
    (folder / "photos").mkdir()
    for path in found[:: max(1, len(found) // PHOTOS)][:PHOTOS]:
        paths.append(folder / "photos" / f"{len(paths)}.jpg")
        Image.open(path).convert("RGB").resize((400, 533)).save(paths[-1], quality=85)

    def alone(path: Path) -> None:
        with Image.open(path) as picture:
            picture.draft(None, (96, 128))
            picture.load()

    def threads(reader: Callable[[Path], object]) -> Callable[[], None]:
        def read() -> None:
            with ThreadPoolExecutor(2) as pool:
                list(pool.map(reader, paths))

        return read

    def build() -> None:
        shutil.rmtree(folder / "home", ignore_errors=True)  # else it would find that nothing has changed
        simrec.build("photos", str(folder / "photos"), encoder="demo", home_folder=folder / "home")

    build()  # imports what it needs, and starts the processes that decode
    ways = {
        "Pillow alone": threads(alone),
        "index build": build,
        "reading, threads alone": threads(lambda path: images.read_with_preview(path, ImageSpec())),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(5):
        for name, way in ways.items():
            begun = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - begun)
    print(f"{len(paths)} JPEGs of 400 x 533 pixels, two threads")
    for name, took in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(seconds["Pillow alone"], took, strict=True))
        print(f"{name:<22} {len(paths) / statistics.median(took):6.0f} files/s   {ratio:5.3f} of Pillow alone")


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
        query = Query("", images[row : row + 1])
        begun = time.perf_counter()
        recommender.similar(query, 10)
        whole.append(time.perf_counter() - begun)
    items = len(recommender.index)
    print(
        f"similar(), items read too, {recommender.name} of {items:,}: median {statistics.median(whole) * 1000:.2f} ms"
    )


def shared(recommender: simrec.Recommender, images: np.ndarray) -> None:
    """Looks up in one recommender with one thread and with eight, in turns, and prints how much faster eight are."""
    from concurrent.futures import ThreadPoolExecutor

    pictures = [image[:, :, 0] for image in images[:400]]
    rates: dict[int, list[float]] = {1: [], 8: []}
    for _ in range(RUNS):
        for count, measured in rates.items():
            with ThreadPoolExecutor(count) as pool:
                begun = time.perf_counter()
                list(pool.map(recommender.similar, pictures))
                measured.append(len(pictures) / (time.perf_counter() - begun))
    gain = statistics.median(b / a for a, b in zip(rates[1], rates[8], strict=True))
    one, eight = (statistics.median(measured) for measured in rates.values())
    print(f"look-ups of arrays: {one:,.0f}/s in one thread, {eight:,.0f}/s in eight, a gain of {gain:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--index", default="demo")
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--beside", type=Path, metavar="OTHER")
    parser.add_argument("--photos", type=Path, metavar="FOLDER")
    parser.add_argument("--decoding", type=Path, metavar="FOLDER")
    given = parser.parse_args()
    print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}, median of {RUNS} runs")
    with tempfile.TemporaryDirectory() as folder:
        if given.decoding:
            decoding(given.decoding, Path(folder))
            return
        shoe = Path(folder) / "shoe.png"
        run("-c", PICTURE, str(shoe))
        if given.beside:
            beside(given.beside, shoe, given.photos)
            return
        cold(shoe)
        if given.train:
            seconds, memory = run("-m", "simrec", "--home", folder, "train", "plain", "--epochs", "1")
            print(f"simrec train plain --epochs 1: {seconds:.0f} s, {memory:.0f} MB")

    import simrec
    from simrec.contracts import ImageSpec
    from simrec.sources.load import load

    images = load("fashion-mnist:test", ImageSpec(), notice=print).images
    warm(simrec.open(given.index), images)
    shared(simrec.open(given.index), images)


if __name__ == "__main__":
    main()
