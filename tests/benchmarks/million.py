"""Measures a catalogue of many items: building it from a stream, killing that half-way, looking up, refreshing.

    python tests/benchmarks/million.py [-n 1000000] [--encoder demo] [--folder FOLDER]

The pictures are made on demand: a test picture of Fashion-MNIST, moved by a few pixels and darkened, so that no two are
the same. The source comes from a plugin that this script installs into its own folder. A catalogue of 10,000 items is
built beside the large one, and cold look-ups in both are timed in turns.

--folder builds from a folder of picture files instead.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SMALL = 10_000

RUNS = 11

PLUGIN = '''
from collections.abc import Iterator, Sequence

import numpy as np

from simrec.contracts import Entry, SourceSpec
from simrec.hookspecs import hookimpl


class Stream:
    """text: how many pictures; "1000,fields": with a number evenly from 0 to 1 and a text each."""

    test = None
    reduced = False

    def __init__(self, text, *, data_dir, notice):
        from simrec.contracts import ImageSpec
        from simrec.sources.load import load

        count, _, fields = text.partition(",")
        self.name, self.count, self.fields = f"many:{text}", int(count), bool(fields)
        self.pictures = load("fashion-mnist:test", ImageSpec(), notice=notice).images

    def entries(self) -> Iterator[Entry]:
        for number in range(self.count):
            mixed = number * 2654435761 % 2**32  # spreads the numbers evenly, in no order
            fields = {"x": mixed / 2**32, "kind": f"{'abcdefgh'[mixed % 8]}{number % 97}"} if self.fields else {}
            yield Entry(f"{number:07d}", "many", stamp="1", fields=fields)

    def read(self, entries: Sequence[Entry], spec):
        from simrec.reading import batch

        numbers = np.array([int(entry.id) for entry in entries])
        images = self.pictures[numbers % len(self.pictures)]
        turn = numbers // len(self.pictures)
        moved = np.stack([np.roll(image, (t % 5, t // 5 % 5), (0, 1)) for image, t in zip(images, turn)])
        dark = (1 - 0.03 * (turn // 25))[:, None, None, None]
        return batch(entries, (moved * dark).astype(np.uint8), spec)


@hookimpl
def simrec_sources():
    return [SourceSpec("many", "As many pictures as you like.", "simrec_many:Stream")]
'''


def installed(folder: Path, name: str = "many", plugin: str = PLUGIN) -> None:
    """Writes a plugin as an installation would."""
    module = f"simrec_{name.replace('-', '_')}"
    (folder / f"{module}.py").write_text(plugin)
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[simrec]\n{name} = {module}\n")


def memory(process: subprocess.Popen[bytes]) -> int:
    """A process's memory in bytes, without mapped files."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon")), 0)


class Machine:
    """Runs simrec in separate processes, with a home and the plugin."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            **os.environ,
            "SIMREC_HOME": str(folder / "home"),
            "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]),
        }

    def run(self, *words: str, until: float | None = None) -> tuple[float, int, str]:
        """Seconds, peak memory in bytes (without mapped files), and stderr; until: seconds after which to kill it."""
        begun, most = time.perf_counter(), 0
        with (self.folder / "stderr").open("wb") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", "simrec", *words], env=self.environment, stdout=subprocess.DEVNULL, stderr=errors
            )
            while process.poll() is None:
                most = max(most, memory(process))
                if until is not None and time.perf_counter() - begun > until:
                    process.send_signal(signal.SIGKILL)
                time.sleep(0.005)
        said = (self.folder / "stderr").read_text()
        assert process.returncode == (0 if until is None else -9), said
        return time.perf_counter() - begun, most, said


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=1_000_000)
    parser.add_argument("--encoder", default="demo")
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        installed(folder)
        machine = Machine(folder)
        source = str(given.folder.absolute()) if given.folder else f"many:{given.n}"
        words = ("index", "build", "large", source, "--encoder", given.encoder)

        seconds, most, _ = machine.run(*words)
        print(f"index build of {source}: {seconds:.0f} s, {most / 1e6:.0f} MB of memory, ", end="")
        print(f"{size(folder / 'home' / 'large') / 1e6:.0f} MB on disk")

        again = ("index", "build", "again", *words[3:])
        machine.run(*again, until=seconds / 2)
        rest, _, said = machine.run(*again)
        print(f"killed after {seconds / 2:.0f} s, ended in {rest:.0f} s more: {said.splitlines()[0]}")
        same = [
            [path.read_bytes() for path in sorted((folder / "home" / name / "segments").rglob("codes.faiss"))]
            for name in ("large", "again")
        ]
        print(f"the codes of both, byte for byte: {'the same' if sorted(same[0]) == sorted(same[1]) else 'OTHERS'}")

        machine.run("index", "build", "small", f"many:{SMALL}", "--encoder", given.encoder)
        cold(machine, folder)
        shared(machine, folder)


def cold(machine: Machine, folder: Path) -> None:
    """Times cold look-ups of a file among few and among many items, in turns."""
    from PIL import Image

    import simrec

    shoe, demo = folder / "shoe.png", simrec.open("demo")
    Image.fromarray(demo.originals(demo.catalogue.at([7]))[0, :, :, 0]).save(shoe)
    runs: dict[str, list[tuple[float, int]]] = {"small": [], "large": []}
    for _ in range(RUNS):
        for name, measured in runs.items():
            seconds, most, _ = machine.run("similar", str(shoe), "--index", name)
            measured.append((seconds, most))
    medians = {name: statistics.median(seconds for seconds, _ in measured) for name, measured in runs.items()}
    ratio = statistics.median(b[0] / a[0] for a, b in zip(runs["small"], runs["large"], strict=True))
    most = max(bytes_ for _, bytes_ in runs["large"])
    print(
        f"cold similar: {medians['small'] * 1000:.0f} ms among few, {medians['large'] * 1000:.0f} ms among many, ",
        end="",
    )
    print(f"ratio {ratio:.2f}; {most / 1e6:.0f} MB of its own among many")


def shared(machine: Machine, folder: Path) -> None:
    """Lets 8 threads look up in a recommender while it is built again and refreshed."""
    import simrec

    with simrec.open("small", folder / "home") as opened:
        items = opened.catalogue.at(range(0, SMALL, 50))
        queries = [f"id:{item.id}" for item in items]
        before = opened.generation.name
        wrong: list[str] = []
        ending = threading.Event()

        def ask() -> int:
            done = 0
            while not ending.is_set():
                for query in queries:
                    if len(opened.similar(query, 5)) != 5:
                        wrong.append(query)
                    done += 1
            return done

        with ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(ask) for _ in range(8)]
            for _ in range(3):
                machine.run("index", "build", "small", f"many:{SMALL}", "--encoder", "demo", "--from-scratch")
            refreshed = opened.refresh()
            time.sleep(1)
            ending.set()
            done = sum(future.result() for future in asked)
        print(
            f"8 threads looked up {done:,} items while it was built three times: {len(wrong)} wrong; refreshed: "
            f"{refreshed}, generation {before} to {opened.generation.name}"
        )


if __name__ == "__main__":
    main()
