"""Measures what writing a catalogue's codes to files costs, compared with pyarrow and numpy alone in the same run.

    python tests/benchmarks/exports.py [-n 1000000] [--rounds 3]

The catalogue has random codes of 64 numbers in four segments, each with an id, a label, a source and a price. Every
measurement has its own process. "Alone" means that the arrays are already in memory: `np.save`, with or without a file
of JSON lines beside it, and `pq.write_table` of the same columns, as anyone would call them. All wait for the disk
(fsync). Memory is a process's peak, without mapped files.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from million import memory

from simrec import host, library, store
from simrec.catalogue.building import New
from simrec.catalogue.writing import Kept, SegmentWriter
from simrec.contracts import Entry
from simrec.manifest import CatalogueRecord, ChangeRecord, Manifest, SourceRecord
from simrec.recommender import Recommender
from simrec.verbs.export import Wishes, export
from simrec.verbs.verify import verify

SEGMENTS, DIM, ADDED = 4, 64, 10_000

ALONE = {"npy, codes alone": "npy alone", "npy": "npy and JSON lines alone", "parquet": "parquet alone"}
"""The yardstick for each export."""

OTHERS = ("arrow", "npz", "safetensors", "faiss", "csv", "jsonl", "verify parquet")


def made(folder: Path, count: int) -> None:
    """Builds a recommender with so many items."""
    demo = Recommender(library.shipped() / "demo")
    rng, records = np.random.default_rng(0), []
    with store.Writer(folder) as writer:
        to = writer.new("encoder")
        writer.copy(demo.generation, demo.manifest.encoder.folder, to)
        for segment in range(SEGMENTS):
            one = SegmentWriter(
                writer, Kept(DIM, "cosine", "float32", np.empty((0, DIM), np.float32), {"price": "double"}, ["/photos"])
            )
            for start in range(segment * count // SEGMENTS, (segment + 1) * count // SEGMENTS, ADDED):
                numbers = range(start, min(start + ADDED, (segment + 1) * count // SEGMENTS))
                entries = [
                    Entry(f"{n // 1000:04d}/{n:07d}.jpg", f"/photos/{n // 1000:04d}/{n:07d}.jpg", f"kind {n % 97}",
                          fields={"price": n % 1000 / 10})
                    for n in numbers
                ]  # fmt: skip
                codes = rng.standard_normal((len(entries), DIM), np.float32)
                many = len(entries)
                one.add(New(entries, [0] * many, [f"{n:032x}" for n in numbers], [b"preview"] * many, codes))
            records.append(one.finish())
        source = SourceRecord("/photos", "/photos", None, False)
        encoder = replace(demo.manifest.encoder, folder=to)
        catalogue = CatalogueRecord((source,), count, True, encoder.digest, "float32", tuple(records))
        writer.commit(Manifest.new(encoder, catalogue, ChangeRecord("index.build", added=count)))


def synced(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def action(name: str, home: Path) -> Callable[[], object]:
    """The function to time; everything that it needs is imported, opened or in memory when this returns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    out = home / "out"
    pa.array(["which imports pandas, where it is there"])
    host.discover()
    if not name.endswith("alone") or name == "npy, codes alone":
        opened = Recommender(home / "many")
        opened.catalogue  # noqa: B018 - opens it
        if name == "npy, codes alone":
            return lambda: export(opened, out / "codes.npy", Wishes(columns=["code"]))
        if name.startswith("verify"):
            return lambda: verify(out / "many.parquet", opened)
        return lambda: export(opened, out / f"many.{name}")

    read = pq.read_table(out / "many.parquet")
    codes = read["code"].combine_chunks().flatten().to_numpy().reshape(-1, DIM).copy()
    columns = {column: read[column].combine_chunks() for column in ("id", "label", "source", "price")}
    rows = read.drop_columns("code").to_pylist() if "JSON" in name else []

    def npy() -> None:
        np.save(out / "alone.npy", codes)
        synced(out / "alone.npy")
        if rows:
            with (out / "alone.jsonl").open("w") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows)
            synced(out / "alone.jsonl")

    def parquet() -> None:
        code = pa.FixedSizeListArray.from_arrays(pa.array(codes.ravel()), DIM)
        pq.write_table(pa.table({**columns, "code": code}), out / "alone.parquet")
        synced(out / "alone.parquet")

    return parquet if name == "parquet alone" else npy


def measured(name: str, home: Path) -> tuple[float, int]:
    """The seconds that it takes in its own process, and the process's peak memory."""
    command = [sys.executable, __file__, "--one", name, "--home", str(home)]
    process, most = subprocess.Popen(command, stdout=subprocess.PIPE), 0
    while process.poll() is None:
        most = max(most, memory(process))
        time.sleep(0.005)
    assert process.stdout is not None and process.returncode == 0, name
    return float(process.stdout.read()), most


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--home", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        run = action(given.one, given.home)
        begun = time.perf_counter()
        run()
        print(time.perf_counter() - begun)
        return
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        (home / "out").mkdir()
        made(home / "many", given.n)
        measured("parquet", home)  # the yardsticks read their arrays from it
        names = [name for pair in ALONE.items() for name in pair]
        found: dict[str, list[tuple[float, int]]] = {name: [] for name in names}
        for _ in range(given.rounds):
            for name in names:
                found[name].append(measured(name, home))
        seconds = {name: statistics.median(one for one, _ in some) for name, some in found.items()}
        print(f"{given.n:,} codes of {DIM} numbers, medians of {given.rounds}:")
        for name, alone in ALONE.items():
            most = max(bytes_ for _, bytes_ in found[name])
            print(
                f"  {name:20}{seconds[name]:6.2f} s, {most / 1e6:4.0f} MB; {alone:26}{seconds[alone]:6.2f} s: "
                f"{seconds[alone] / seconds[name]:.2f} of its speed"
            )
        for name in OTHERS:
            taken, most = measured(name, home)
            print(f"  {name:20}{taken:6.2f} s, {most / 1e6:4.0f} MB")


if __name__ == "__main__":
    main()
