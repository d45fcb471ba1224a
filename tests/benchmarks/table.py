"""Prints the README's table of encoders; trains, indexes and measures what isn't finished yet.

    python tests/benchmarks/table.py
    python tests/benchmarks/table.py --only plain --only article-vae

Each run is a recommender in its own folder (--runs). A finished run is used as it is, unless its settings are no longer
the preset's, so an interrupted table goes on where it stopped. The default presets are trained with three seeds, the
long ones with one. Test pictures are looked up among the train pictures; they influence nothing but the article's early
stopping.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import platformdirs

from simrec import host, settings
from simrec.contracts import EncoderSpec
from simrec.errors import SimrecError
from simrec.recommender import Recommender

FIGURES = ("P@1", "P@10", "P@100", "MAP@100", "10-NN")


@dataclass(frozen=True)
class Row:
    """One line of the table: an encoder with a preset, changes to it, the seeds to train it with, and whether to
    perturb the queries too.
    """

    title: str
    encoder: str
    preset: str = "default"
    changes: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2)
    stress: bool = False

    def name(self, seed: int) -> str:
        """The recommender's name."""
        return f"{self.title.replace(' ', '-').replace(',', '')}-{seed}"


ROWS = (
    Row("plain", "plain", stress=True),
    Row("vae", "vae"),
    Row("sparse", "sparse"),
    Row("denoising", "denoising"),
    Row("plain best", "plain", "best", seeds=(0,)),
    Row("plain 10", "plain", changes=("dim=10",)),
    Row("article vae", "vae", "article", seeds=(0,)),
    Row("article plain", "plain", "article", seeds=(0,)),
    Row("article sparse", "sparse", "article", seeds=(0,)),
    Row("article denoising, 40 epochs", "denoising", "article", changes=("epochs=40",), seeds=(0,)),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=platformdirs.user_cache_path("simrec") / "table")
    parser.add_argument("--only", action="append", metavar="ROW", help="a row's title, with - for a space")
    parser.add_argument("--seed", type=int, action="append", help="only these seeds")
    parser.add_argument("--print", action="store_true", dest="finished_only", help="only what was measured before")
    given = parser.parse_args()
    slugs = {row.title.replace(" ", "-").replace(",", ""): row for row in ROWS}
    unknown = set(given.only or ()) - set(slugs)
    if unknown:
        parser.error(f"no row {', '.join(sorted(unknown))}: choose from {', '.join(slugs)}")
    rows = [row for slug, row in slugs.items() if not given.only or slug in given.only]

    given.runs.mkdir(parents=True, exist_ok=True)
    lines, baselines, stressed = [], {}, []
    for row in rows:
        runs = []
        for seed in row.seeds:
            if given.seed and seed not in given.seed:
                continue
            if given.finished_only and not (given.runs / f"{row.name(seed)}.json").exists():
                continue
            if not finished(given.runs, row, seed):
                train(given.runs, row, seed)
            runs.append(measured(given.runs, row.name(seed), stress=row.stress))
        if not runs:
            continue
        evaluations, results = [run[0] for run in runs], [run[1] for run in runs]
        lines.append(line(row.title, evaluations, 0, results))
        if row.stress:
            lines += [line(f"{row.title} as {dtype}", evaluations, i) for i, dtype in enumerate(("int8", "binary"), 1)]
            stressed += perturbed(row.title, evaluations)
        for figures in evaluations[0]["rows"]:
            if figures["name"] in ("raw pixels", "PCA"):
                baselines[f"{figures['name']} {figures['numbers']}"] = figures
    print(f"\n{machine()}\n")
    print(f"| codes | numbers | bytes | {' | '.join(FIGURES)} | epochs | minutes | seeds |")
    print("|---" * (len(FIGURES) + 6) + "|")
    print("\n".join(lines))
    for name, figures in baselines.items():
        cells = [str(figures["numbers"]), str(figures["bytes"]), *(short(figures[key]) for key in FIGURES)]
        print(f"| {name.rsplit(' ', 1)[0]} | {' | '.join(cells)} | | | |")
    print("\n".join(stressed))


def finished(runs: Path, row: Row, seed: int) -> bool:
    """Whether that run exists, is finished, and has the preset's current settings."""
    try:
        record = Recommender(runs / row.name(seed)).manifest.encoder
    except SimrecError:
        return False
    kind = host.encoder_class(host.discover().find(EncoderSpec, row.encoder))
    wanted = settings.choose(kind.presets, row.preset, dict(c.split("=", 1) for c in row.changes), row.encoder)
    same = record.settings == json.loads(json.dumps(settings.to_json(wanted))) and record.seed == seed
    return same and record.results.ended != "interrupted"


def train(runs: Path, row: Row, seed: int) -> None:
    """Trains it and builds its catalogue of the 60,000 train pictures."""
    name = row.name(seed)
    changes = [word for change in row.changes for word in ("--set", change)]
    words = ["--preset", row.preset, *changes, "--seed", str(seed), "--name", name, "--replace"]
    simrec(runs, "train", row.encoder, *words)


def measured(runs: Path, name: str, *, stress: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """A run's evaluation, which is measured only once, and its manifest's results."""
    opened = Recommender(runs / name)
    if opened.manifest.catalogue is None:
        simrec(runs, "index", "build", name)
        opened = Recommender(runs / name)
    kept = runs / f"{name}.json"
    if kept.exists():
        evaluation = json.loads(kept.read_bytes())
        if evaluation["encoder"] == opened.manifest.encoder.title:
            return evaluation, dict(opened.manifest.encoder.results)
    answer = simrec(runs, "evaluate", name, *(["--stress"] if stress else []), "--format", "json")
    kept.write_text(json.dumps(json.loads(answer)[0], indent=1))
    return measured(runs, name, stress=stress)


def simrec(runs: Path, *words: str) -> str:
    """The standard output of one simrec command; ends the script with the command's own status if it fails."""
    print("$ simrec", *words, file=sys.stderr, flush=True)
    command = [sys.executable, "-P", "-m", "simrec", "--home", str(runs), *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout


def line(title: str, evaluations: Sequence[dict[str, Any]], number: int, results: Sequence[dict[str, Any]] = ()) -> str:
    """A row of the table, from that row of the evaluations: the mean over the seeds and, for several, their standard
    deviation.
    """
    own = [evaluation["rows"][number] for evaluation in evaluations]
    cells = [str(own[0]["numbers"]), str(own[0]["bytes"])]
    for key in FIGURES:
        values = [figures[key] for figures in own]
        spread = f" ± {short(statistics.stdev(values), 4)}" if len(values) > 1 else ""
        cells.append(f"{short(statistics.mean(values))}{spread}")
    if results:
        cells.append("/".join(sorted({str(result["epochs"]) for result in results})))
        cells.append(f"{min(result['seconds'] for result in results) / 60:.1f}")  # others may have shared the machine
    else:
        cells += ["", ""]
    return f"| {title} | {' | '.join(cells)} | {len(own)} |"


def perturbed(title: str, evaluations: Sequence[dict[str, Any]]) -> list[str]:
    """A table of how many points of P@10 perturbed queries cost, the mean over the seeds."""
    lines = ["", f"| queries | {title} | raw pixels |", "|---|---|---|"]
    for number, row in enumerate(evaluations[0]["stress"]):
        cells = []
        for name in (None, "raw pixels"):  # None: the recommender's own name
            lost = [
                100 * (run["stress"][number][name or run["name"]] - run["stress"][0][name or run["name"]])
                for run in evaluations
            ]
            cells.append(f"{statistics.mean(lost):+.1f}")
        lines.append(f"| {row['name']} | {' | '.join(cells)} |")
    return lines


def short(value: float, digits: int = 3) -> str:
    """.870 for 0.8701."""
    return f"{value:.{digits}f}".lstrip("0")


def machine() -> str:
    """The machine and the versions, in one line."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    model = models[0].split(":")[1].strip() if models else platform.processor()
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "faiss-cpu", "onnxruntime", "numpy"))
    return f"{model}, {os.cpu_count()} cores; Python {platform.python_version()}, {libraries}"


if __name__ == "__main__":
    main()
