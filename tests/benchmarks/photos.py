"""Measures how well recommenders find photos of the same kind, compared with raw pixels and colour histograms.

    python tests/benchmarks/photos.py FOLDER                            # all shipped encoders and all of yours
    python tests/benchmarks/photos.py FOLDER --index mine demo --queries validation
    python tests/benchmarks/photos.py FOLDER --index mine --stress --same --bootstrap mine demo
    python tests/benchmarks/photos.py FOLDER --index mine --yardstick MODEL.onnx --markdown
    python tests/benchmarks/photos.py FOLDER --index mine --build

FOLDER holds labelled photos. If it has sub-folders train, validation and test with a folder for each class, the test
photos are looked up among the others, or with --queries validation the validation photos among the train photos.
Otherwise its sub-folders are the classes, and every fifth photo is looked up among the others. Labels only score. A
public data set with these splits, in the public domain (CC0), is alexeygrigorev/clothing-dataset-small on GitHub: 3,781
photos of clothes in ten classes.

Photos per second: from files to codes, decoding included, on all cores, once decoders are running and the encoder is
loaded. --yardstick measures a bare loop in the same run: Pillow decodes in threads, and ONNX Runtime runs a float model
on the letterboxed photos.

--stress changes the queries, and prints how many points of P@10 that costs. --same looks for the same photo: each query
is cropped to 85 % in a corner, its channels are multiplied by 0.8 to 1.2, it is saved as a JPEG of quality 40, and must
find its original among all photos (R@1). --bootstrap A B compares two recommenders on 2,000 resamples of the queries.
--build measures `simrec index build` instead, compared with decoding alone and the encoder's graph alone.
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

from simrec import images, library, picture_files
from simrec.contracts import Batch, Codes, Entry, ImageSpec, Metric, Source
from simrec.errors import ImageError, SimrecError
from simrec.evaluation import Exam, pixels, ranking_figures
from simrec.index import Index
from simrec.reading import ALONE
from simrec.recommender import Recommender
from simrec.sources.files import path_of
from simrec.sources.load import READ, open_source
from simrec.streams import ahead, chunks

CORES = os.cpu_count() or 1

SPLITS = ("train", "validation", "test")

CHANGED = 64
"""How many photos are changed at a time."""

EDGE = 1024
"""Minimum longest edge of a photo before it is changed, in pixels."""

DRAWS = 2000

SMALL = ImageSpec(64, 3, "photo")
"""The images in which raw pixels are compared."""

SHADES = 4
"""Bins per channel of the colour histograms."""

Change = Callable[[Image.Image, np.random.Generator], Image.Image]


# The photos.


@dataclass(frozen=True)
class Photos:
    """Photos to look up, and those to look them up among."""

    source: Source
    catalogue: Sequence[Entry]
    queries: Sequence[Entry]


def listed(folder: Path, queries: str | None) -> Photos:
    """The photos of a folder; queries: the split to look up, "test" if there are splits."""
    source = open_source(str(folder), notice=partial(print, file=sys.stderr))
    entries = list(source.entries())
    if {entry.label for entry in entries} >= set(SPLITS):
        asked = queries or "test"
        among = SPLITS[: SPLITS.index(asked)]
        inside = [replace(entry, label=entry.id.split("/")[1]) for entry in entries if entry.id.count("/") > 1]
        parts = {split: [entry for entry in inside if entry.id.startswith(f"{split}/")] for split in SPLITS}
        return Photos(source, [entry for split in among for entry in parts[split]], parts[asked])
    if queries:
        sys.exit(f"{folder}: has no sub-folders {', '.join(SPLITS)}: leave --queries out")
    if not any(entry.label for entry in entries):
        sys.exit(f"{folder}: labels are needed: put each class into a sub-folder")
    return Photos(source, [entry for row, entry in enumerate(entries) if row % 5], entries[::5])


# What is compared.


@dataclass(frozen=True)
class Contender:
    """Something that makes codes (n, dim) from photos read by a spec. recommender: None for a baseline."""

    name: str
    spec: ImageSpec
    metric: Metric
    codes: Callable[[Batch], Codes]
    recommender: Recommender | None = None


def of_recommender(recommender: Recommender) -> Contender:
    """A recommender's encoder as a contender."""
    record = recommender.manifest.encoder
    return Contender(
        recommender.name, record.input, record.metric, lambda batch: recommender.encode(batch.images), recommender
    )


def histograms(batch: Batch) -> Codes:
    """The square roots of how often each of 4x4x4 colours occurs: their distance is Hellinger's."""
    codes = np.empty((len(batch.previews), SHADES**3), np.float32)
    for row, preview in enumerate(batch.previews):
        shades = np.asarray(Image.open(io.BytesIO(preview)).convert("RGB")).reshape(-1, 3) // (256 // SHADES)
        counts = np.bincount(shades @ np.array([SHADES**2, SHADES, 1]), minlength=SHADES**3)
        codes[row] = np.sqrt(counts / counts.sum())
    return codes


BASELINES = (
    Contender("raw pixels", SMALL, "cosine", lambda batch: pixels(batch.images)),
    Contender("colour histogram", SMALL, "l2", histograms),
)


def contenders(names: Sequence[str] | None) -> list[Contender]:
    """The named recommenders, or else one for each encoder, yours and the shipped ones; then the baselines."""
    if names:
        opened = [library.open(name) for name in dict.fromkeys(names)]
    else:
        found = library.listing(unreadable=lambda error: print(f"left out {error}", file=sys.stderr))
        opened = list({recommender.manifest.encoder.digest: recommender for recommender in found[::-1]}.values())[::-1]
    return [*map(of_recommender, opened), *BASELINES]


# Codes.


def encoded(contender: Contender, source: Source, entries: Sequence[Entry]) -> tuple[Codes, list[Entry]]:
    """The codes of photos, and the photos that could be read; each is decoded once, as a stream."""
    codes, kept = [], []
    with ahead(source.read(chunk, contender.spec) for chunk in chunks(entries, READ)) as batches:
        for batch in batches:
            for _, error in batch.errors:
                print(f"left out {error}", file=sys.stderr)
            codes.append(contender.codes(batch))
            kept += batch.entries
    return np.concatenate(codes), kept


def changed(contender: Contender, entries: Sequence[Entry], changes: Sequence[Change]) -> Iterator[list[Codes]]:
    """The codes of photos (n, dim) for each change, some photos at a time; each is decoded once."""

    def read(numbered: tuple[int, Entry]) -> list[images.Read]:
        number, entry = numbered
        enough = picture_files.Enough(max(EDGE, 2 * contender.spec.size))
        with picture_files.opened(path_of(entry.source), entry.source, enough) as picture:
            photo = picture.convert("RGB")
        return [
            images.of_picture_with_preview(
                change(photo, np.random.default_rng([0, number])), contender.spec, entry.source
            )
            for change in changes
        ]

    with ThreadPoolExecutor(CORES) as pool:
        for some in chunks(enumerate(entries), CHANGED):
            reads = list(pool.map(read, some))
            yield [
                contender.codes(
                    Batch(
                        [entry for _, entry in some], np.stack([one.image for one in column]),
                        [one.preview for one in column], [one.content for one in column],
                    )
                )
                for column in zip(*reads, strict=True)
            ]  # fmt: skip


def all_changed(contender: Contender, entries: Sequence[Entry], changes: Sequence[Change]) -> list[Codes]:
    """The codes of all photos (n, dim), for each change."""
    return [np.concatenate(parts) for parts in zip(*changed(contender, entries, changes), strict=True)]


# Changes.


def saved(photo: Image.Image, quality: int) -> Image.Image:
    """The photo after saving it as a JPEG of that quality."""
    file = io.BytesIO()
    photo.save(file, "JPEG", quality=quality)
    file.seek(0)
    return Image.open(file).convert("RGB")


def cropped(photo: Image.Image, share: float, across: float = 0.5, down: float = 0.5) -> Image.Image:
    """That share of the photo's width and height; across, down: how much of the rest is cut off on the left and top."""
    width, height = (max(1, round(length * share)) for length in photo.size)
    left, top = round((photo.width - width) * across), round((photo.height - height) * down)
    return photo.crop((left, top, left + width, top + height))


def recoloured(photo: Image.Image, gains: np.ndarray) -> Image.Image:
    """The photo with each channel multiplied by one of three gains."""
    return Image.fromarray(np.clip(np.rint(np.asarray(photo) * gains), 0, 255).astype(np.uint8))


def found_again(photo: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The same photo in another light, cropped to a corner, saved again."""
    across, down = rng.integers(0, 2, 2)
    gains = rng.uniform(0.8, 1.2, 3)
    return saved(recoloured(cropped(photo, 0.85, across, down), gains), 40)


STRESS: Mapping[str, Change] = {
    "mirrored": lambda photo, _: ImageOps.mirror(photo),
    "cropped to 80 %": lambda photo, _: cropped(photo, 0.8),
    "turned by 8 degrees": lambda photo, _: photo.rotate(8, Image.Resampling.BICUBIC, fillcolor="white"),
    "JPEG quality 30": lambda photo, _: saved(photo, 30),
    "darkened by 40 %": lambda photo, _: photo.point(lambda value: value * 0.6),
}


# Figures.


@dataclass(frozen=True)
class Result:
    """A contender's results. hits: P@10 of each query. lost: points of P@10 lost by each change."""

    name: str
    numbers: int
    figures: Mapping[str, float]
    hits: np.ndarray
    per_second: float
    lost: Mapping[str, float]
    same: float | None


def measured(contender: Contender, photos: Photos, *, stress: bool, same: bool) -> Result:
    """Measures all results of a contender."""
    warm_up = [*photos.catalogue, *photos.queries][: ALONE + READ]
    encoded(contender, photos.source, warm_up)
    begun = time.perf_counter()
    catalogue, items = encoded(contender, photos.source, photos.catalogue)
    queries, asked = encoded(contender, photos.source, photos.queries)
    per_second = (len(items) + len(asked)) / (time.perf_counter() - begun)
    exam = Exam.of_labels([e.label for e in asked], [e.label for e in items], leave_one_out=False)
    index = Index(catalogue, contender.metric)
    found = exam.neighbour_labels(index, queries)
    lost, again = {}, None
    if stress:
        clean, *others = all_changed(contender, asked, [lambda photo, _: photo, *STRESS.values()])
        before = ranking_figures(exam.neighbour_labels(index, clean), exam.query_labels)["P@10"]
        for name, codes in zip(STRESS, others, strict=True):
            lost[name] = 100 * (
                ranking_figures(exam.neighbour_labels(index, codes), exam.query_labels)["P@10"] - before
            )
    if same:
        (codes,) = all_changed(contender, asked, [found_again])
        everything = Index(np.concatenate([catalogue, queries]), contender.metric)
        own = len(catalogue) + np.arange(len(queries))
        again = float((everything.search(codes, 1)[0][:, 0] == own).mean())
    hits = (found[:, :10] == exam.query_labels[:, np.newaxis]).mean(axis=1)
    figures = ranking_figures(found, exam.query_labels)
    return Result(contender.name, queries.shape[1], figures, hits, per_second, lost, again)


def bootstrapped(a: np.ndarray, b: np.ndarray) -> tuple[float, float, float]:
    """The difference of two means over the same queries, and its 95 % interval."""
    difference = a - b
    drawn = np.random.default_rng(0).integers(len(difference), size=(DRAWS, len(difference)))
    low, high = np.quantile(difference[drawn].mean(axis=1), [0.025, 0.975])
    return float(difference.mean()), float(low), float(high)


# Yardsticks.


def bare_loop(model: Path, entries: Sequence[Entry]) -> float:
    """Photos per second of a model on photos letterboxed to its input, decoded by Pillow in threads."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    feed = session.get_inputs()[0]
    many, *shape = feed.shape
    first = shape[0] == 3  # channels first
    sides = [side for side in (shape[1:] if first else shape[:2]) if isinstance(side, int)]
    size = sides[0] if sides else 224
    kind = {"tensor(float16)": np.float16, "tensor(uint8)": np.uint8}.get(feed.type, np.float32)

    def decoded(entry: Entry) -> np.ndarray:
        with Image.open(path_of(entry.source)) as picture:
            picture.draft("RGB", (2 * size, 2 * size))
            fitted = ImageOps.pad(picture.convert("RGB"), (size, size), Image.Resampling.BILINEAR, color="white")
        photo = np.asarray(fitted)
        if kind is not np.uint8:
            photo = (photo * np.float32(1 / 127.5) - np.float32(1)).astype(kind)
        return photo.transpose(2, 0, 1) if first else photo

    step = many if isinstance(many, int) else 32
    with ThreadPoolExecutor(CORES) as pool:

        def run(some: Sequence[Entry]) -> int:
            done = 0
            with ahead(np.stack(list(pool.map(decoded, chunk))) for chunk in chunks(some, step)) as batches:
                for batch in batches:
                    if len(batch) == step or step != many:  # a model with a fixed batch takes no smaller one
                        session.run(None, {feed.name: batch})
                        done += len(batch)
            return done

        run(entries[: 2 * step])
        begun = time.perf_counter()
        return run(entries) / (time.perf_counter() - begun)


def decode(path: Path, spec: ImageSpec) -> None:
    """Decodes one file by the encoder's recipe, in a separate process."""
    with suppress(ImageError):
        images.read(path, spec)


def graph_alone(recommender: Recommender, source: Source, entries: Sequence[Entry]) -> float | None:
    """Photos per second of its encoder's graph in ONNX Runtime, on decoded photos; None without a graph."""
    record = recommender.manifest.encoder
    if record.runtime != "onnx":
        return None
    session = onnxruntime.InferenceSession(
        recommender.generation.read(f"{record.folder}/encoder.onnx"), providers=["CPUExecutionProvider"]
    )
    arrays = source.read(entries[:READ], record.input).images
    feed, step = session.get_inputs()[0].name, record.input.batch
    session.run(["codes"], {feed: arrays[:step]})
    begun, done = time.perf_counter(), 0
    while done < len(entries):
        for start in range(0, len(arrays), step):
            session.run(["codes"], {feed: arrays[start : start + step]})
        done += len(arrays)
    return done / (time.perf_counter() - begun)


# Building.


def anonymous(process: int) -> int:
    """Memory of a process and its children in bytes, without mapped files; 0 if the system has no RssAnon."""
    sizes: dict[int, int] = {}
    children: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/status"):
        with suppress(OSError):
            lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
            own = int(status.parent.name)
            sizes[own] = 1024 * int(lines.get("RssAnon", "0").split()[0])
            children.setdefault(int(lines["PPid"]), []).append(own)
    family = [process]
    for one in family:
        family += children.get(one, [])
    return sum(sizes.get(one, 0) for one in family)


def run(words: Sequence[str]) -> tuple[float, int]:
    """A simrec command's seconds, and the peak memory of it and its decoders together."""
    begun = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "simrec", *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    most, ended = 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not ended.wait(0.2):
            most = max(most, anonymous(process.pid))

    watching = threading.Thread(target=watch)
    watching.start()
    _, errors = process.communicate()
    took = time.perf_counter() - begun
    ended.set()
    watching.join()
    if process.returncode:
        sys.exit(f"simrec {' '.join(words)}:\n{errors}")
    return took, most


def building(recommender: Recommender, photos: Photos, runs: int) -> list[str]:
    """A row: `simrec index build` of the catalogue's photos, in turns with decoding alone and the graph alone."""
    entries, spec = photos.catalogue, recommender.manifest.encoder.input
    rates: dict[str, list[float]] = {"build": [], "decoding": [], "graph": []}
    most = 0
    with tempfile.TemporaryDirectory() as folder:
        home, photo_list = Path(folder) / "home", Path(folder) / "photos.csv"
        with photo_list.open("w", newline="") as file:
            csv.writer(file).writerows([("path", "id", "label"), *((e.source, e.id, e.label) for e in entries)])
        encoder = str(recommender.folder.absolute())
        command = ["--home", str(home), "index", "build", "photos", str(photo_list), "--encoder", encoder]
        # Spawned: a forked process could hang on locks that it inherits from threads.
        with ProcessPoolExecutor(CORES, get_context("spawn")) as pool:
            decoding = partial(decode, spec=spec)
            paths = [path_of(entry.source) for entry in entries]
            list(pool.map(decoding, paths, chunksize=16))  # also brings the files into the system's cache
            for _ in range(runs):
                begun = time.perf_counter()
                list(pool.map(decoding, paths, chunksize=16))
                rates["decoding"].append(len(paths) / (time.perf_counter() - begun))
                graph = graph_alone(recommender, photos.source, entries)
                rates["graph"] += [] if graph is None else [graph]
                seconds, memory = run(command)
                rates["build"].append(len(paths) / seconds)
                most = max(most, memory)
    medians = {name: statistics.median(some) for name, some in rates.items() if some}
    slower = min(medians[name] for name in ("decoding", "graph") if name in medians)
    return [
        recommender.name, f"{medians['build']:,.0f}", f"{medians['decoding']:,.0f}",
        f"{medians['graph']:,.0f}" if "graph" in medians else "-", f"{medians['build'] / slower:.2f}",
        f"{most / 2**20:,.0f}" if most else "-",
    ]  # fmt: skip


# Printing.


def show(header: Sequence[str], rows: Sequence[Sequence[str]], *, markdown: bool) -> None:
    """A table, as Markdown or aligned."""
    if markdown:
        print(f"| {' | '.join(header)} |", "|---" * len(header) + "|", sep="\n")
        print("\n".join(f"| {' | '.join(row)} |" for row in rows))
    else:
        widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
        for row in (header, *rows):
            first, *others = zip(row, widths, strict=True)
            print(first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others), sep="  ")
    print()


def score(value: float) -> str:
    return f"{value:.3f}".lstrip("0") if value < 1 else "1"


def main() -> None:
    given = parsed()
    names = given.index
    if names and given.bootstrap:
        names = [*names, *(n for n in given.bootstrap if n not in {b.name for b in BASELINES})]
    photos, compared = listed(given.folder, given.queries), contenders(names)
    if unknown := set(given.bootstrap or ()) - {contender.name for contender in compared}:
        sys.exit(f"--bootstrap: there is no {' and no '.join(sorted(unknown))} among those compared")
    print(f"{len(photos.queries):,} photos looked up among {len(photos.catalogue):,}; {CORES} cores\n")
    if given.build:
        rows = [building(c.recommender, photos, given.runs) for c in compared if c.recommender]
        header = ["index build", "files/s", "decoding alone", "graph alone", "of the slower", "peak memory, MB"]
        show(header, rows, markdown=given.markdown)
        return
    results = []
    for contender in compared:
        print(contender.name, "...", file=sys.stderr, flush=True)
        results.append(measured(contender, photos, stress=given.stress, same=given.same))
    keys = ("P@1", "P@10", "MAP@100")
    header = ["codes", "numbers", *keys, *(["R@1, same photo"] if given.same else []), "photos/s"]
    rows = [
        [
            result.name, str(result.numbers), *(score(result.figures[key]) for key in keys),
            *([score(result.same)] if result.same is not None else []), f"{result.per_second:,.0f}",
        ]
        for result in results
    ]  # fmt: skip
    show(header, rows, markdown=given.markdown)
    if given.yardstick:
        rate = bare_loop(given.yardstick, [*photos.catalogue, *photos.queries])
        print(f"A bare loop with {given.yardstick.name}: {rate:,.0f} photos/s\n")
    if given.stress:
        lost = [[r.name, *(f"{points:+.1f}" for points in r.lost.values())] for r in results]
        show(["points of P@10, queries", *STRESS], lost, markdown=given.markdown)
    if given.bootstrap:
        by_name: dict[str, Any] = {result.name: result.hits for result in results}
        one, other = given.bootstrap
        mean, low, high = bootstrapped(by_name[one], by_name[other])
        print(
            f"P@10 of {one} less that of {other}: {100 * mean:+.1f} points, 95 % interval {100 * low:+.1f} to "
            f"{100 * high:+.1f} ({DRAWS:,} draws of the queries, seed 0)"
        )


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--index", nargs="+", metavar="NAME")
    parser.add_argument("--queries", choices=("test", "validation"))
    parser.add_argument("--stress", action="store_true")
    parser.add_argument("--same", action="store_true")
    parser.add_argument("--bootstrap", nargs=2, metavar=("A", "B"))
    parser.add_argument("--yardstick", type=Path, metavar="MODEL.onnx")
    parser.add_argument("--build", action="store_true")
    parser.add_argument("--runs", type=int, default=3, help="how often --build measures; it prints the median")
    parser.add_argument("--markdown", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        main()
    except SimrecError as error:
        sys.exit(f"Error: {error}")
