"""`simrec evaluate --all`: compares encoders on the same pictures, and uses trained recommenders as they are."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import simrec
from simrec import host
from simrec.cli import cli
from simrec.sources.load import Pictures
from simrec.verbs.leaderboard import FIGURES, Leaderboard
from simrec.verbs.train import Plan

PLUGIN = '''
from dataclasses import dataclass
from pathlib import Path
import numpy as np
from simrec.contracts import EncoderSpec, Epoch, History, ImageSpec, setting
from simrec.hookspecs import hookimpl

@dataclass(frozen=True)
class Settings:
    dim: int = setting(DIM, "numbers in a code")

class Projection:
    """A random projection, another one for each seed."""

    Settings, input, presets = Settings, ImageSpec(), {"default": Settings()}

    def __init__(self, settings):
        self.settings, self.dim = settings, settings.dim

    def fit(self, images, *, validation, seed, device, progress, stop):
        self.matrix = np.random.default_rng(seed).standard_normal((784, self.dim)).astype(np.float32)
        return History((Epoch(1, 0.0, 0.0, {}, 0.0),), 1, "finished")

    def encode(self, images):
        return images.reshape(len(images), 784).astype(np.float32) @ self.matrix

    def save(self, folder):
        np.save(folder / "matrix.npy", self.matrix)

    @classmethod
    def load(cls, folder):
        matrix = np.load(Path(folder) / "matrix.npy")
        encoder = cls(Settings(matrix.shape[1]))
        encoder.matrix = matrix
        return encoder

class Broken(Projection):
    def fit(self, *_, **__):
        raise ValueError("the loss went up and away")

@hookimpl
def simrec_encoders():
    return [
        EncoderSpec("projection", "A random projection.", "board_plugin:Projection"),
        EncoderSpec("broken", "It cannot be trained.", "board_plugin:Broken"),
    ]
'''


def install(folder: Path, dim: int, version: str = "1.0") -> None:
    """Installs the plugin like pip, with that many numbers in a code by default."""
    info = folder / "board_plugin.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: board-plugin\nVersion: {version}\n")
    (info / "entry_points.txt").write_text("[simrec]\nboard-plugin = board_plugin\n")
    (folder / "board_plugin.py").write_text(PLUGIN.replace("DIM", str(dim)))
    # Python takes bytecode for current if the source's size and its second are the same.
    shutil.rmtree(folder / "__pycache__", ignore_errors=True)


def forget() -> None:
    host._discover.cache_clear()
    sys.modules.pop("board_plugin", None)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the plugin is installed; beside it only pca is loaded. Training finds it too."""
    folder = tmp_path / "site"
    install(folder, 3)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]).strip(os.pathsep))
    monkeypatch.setenv("SIMREC_PLUGINS", "pca,board-plugin")
    forget()
    yield folder
    forget()


@dataclass(frozen=True)
class Outcome:
    status: int
    out: str
    err: str

    @property
    def rows(self) -> dict[str, Any]:
        """The standings in a JSON answer by encoder, in order."""
        return {row["encoder"]: row for row in json.loads(self.out)["standings"]}


def evaluate(*words: object) -> Outcome:
    done = CliRunner().invoke(cli, ["evaluate", "--all", *map(str, words)], standalone_mode=False)
    if done.exception:
        raise done.exception
    return Outcome(done.return_value, done.stdout, done.stderr)


def commits(home: Path) -> set[str]:
    """All generations of all recommenders: there is one more if something is trained or indexed again."""
    return {str(path.relative_to(home)) for path in home.glob("*/generations/*")}


@pytest.mark.usefixtures("site")
@pytest.mark.long
def test_missing_encoders_are_trained_once_and_a_failing_one_stops_no_other(
    photos: Path, own_home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = evaluate("--data", photos, "--format", "json")
    assert before.status == 0
    assert list(before.rows) == ["raw pixels"]
    assert json.loads(before.out)["not_trained"] == {"broken": [0], "pca": [0], "projection": [0]}
    assert "broken (seed 0), pca (seed 0), projection (seed 0) (--train trains them)" in before.err

    done = evaluate("--data", photos, "--train", "--seeds", 2, "--format", "json")
    assert done.status == 1
    (error,) = [line for line in done.err.splitlines() if line.startswith("Error: ")]
    assert error.startswith("Error: broken: seed 0 was not trained (exit status 1)")
    assert "encoder 'broken' (board-plugin 1.0) failed: ValueError: the loss went up and away" in capfd.readouterr().err
    rows = done.rows
    assert set(rows) == {"raw pixels", "pca", "projection"}
    ranking = [row["MAP@100"]["mean"] for row in rows.values()]
    assert ranking == sorted(ranking, reverse=True)
    assert rows["projection"]["seeds"] == [0, 1]
    assert rows["projection"]["bytes"] == 12  # three float32

    # The figures are those of `evaluate NAME`, and the spread is theirs.
    singles = [simrec.evaluate(simrec.open(name)).rows[0] for name in rows["projection"]["recommenders"]]
    for figure in ("P@1", "P@10", "MAP@100", "10-NN"):
        values = [single[figure] for single in singles]
        expected = {"mean": statistics.mean(values), "deviation": statistics.stdev(values)}
        assert rows["projection"][figure] == pytest.approx(expected)
    assert rows["projection"]["P@10"]["deviation"] > 0
    assert rows["pca"]["P@10"]["deviation"] == 0  # chance has no part in it
    assert rows["raw pixels"]["seconds"] == {"mean": None, "deviation": None}
    pixels = next(r for r in simrec.evaluate(simrec.open(rows["pca"]["recommenders"][0])).rows
                  if r["name"] == "raw pixels")  # fmt: skip
    assert rows["raw pixels"]["MAP@100"]["mean"] == pytest.approx(pixels["MAP@100"])

    there = commits(own_home)
    again = evaluate("--data", photos, "--train", "--seeds", 2)
    assert commits(own_home) == there
    assert all(name in again.out for name in rows)

    markdown = evaluate("--data", photos, "--seeds", 2, "--format", "markdown").out.splitlines()
    assert markdown[0] == f"{photos}: each of 40 items looked up among the others"
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown[2:]]
    assert lines[0] == ["encoder", "seeds", "bytes", "P@1", "P@10", "MAP@100", "10-NN", "look-up ms", "training s"]
    assert {len(line) for line in lines} == {len(lines[0])}
    assert [line[0] for line in lines[2:]] == list(rows)
    (cells,) = [line for line in lines if line[0] == "projection"]
    p10 = rows["projection"]["P@10"]
    assert cells[4] == f"{p10['mean']:.3f} ± {p10['deviation']:.4f}"


def test_only_a_finished_run_of_the_default_preset_on_these_pictures_is_compared(
    site: Path, photos: Path, pictures: Pictures
) -> None:
    def named() -> list[str]:
        forget()
        return [run.name for run in Leaderboard(str(photos), notice=print).runs("projection", [0]).values()]

    def make(name: str, **given: Any) -> None:
        simrec.train(Plan("projection", **given), name=name, source=str(photos))
        simrec.build(name)

    make("a-other-settings", changes={"dim": "4"})
    make("b-other-seed", seed=7)
    simrec.train("projection", name="c-not-indexed", source=str(photos))
    simrec.build("d-other-codes", str(photos), encoder="c-not-indexed", dtype="int8")
    assert named() == []
    make("mine")
    assert named() == ["mine"]  # whoever trained it

    install(site, 5)
    assert named() == []  # the plugin's default is another now
    install(site, 3)
    assert named() == ["mine"]
    install(site, 3, "2.0")
    assert named() == []  # the plugin's version is another, so its codes may be
    install(site, 3)
    assert named() == ["mine"]
    Image.fromarray(np.ascontiguousarray(pictures.images[0, :, :, 0])).save(photos / "Bag" / "new.png")
    assert named() == []  # the folder has a picture that its catalogue lacks


@pytest.mark.usefixtures("site")
def test_a_training_without_its_catalogue_is_indexed_and_not_repeated(
    photos: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIMREC_PLUGINS", "pca")
    name = Leaderboard(str(photos), notice=print).own_name("pca", 0)
    simrec.train("pca", name=name, source=str(photos))
    done = evaluate("--data", photos, "--train", "--format", "json")
    assert done.status == 0
    assert "Training pca" not in done.err
    assert done.rows["pca"]["recommenders"] == [name]
    assert len(commits(own_home)) == 2


def test_a_training_by_another_version_of_the_plugin_is_repeated(site: Path, photos: Path) -> None:
    board = Leaderboard(str(photos), notice=print)
    simrec.train("projection", name=board.own_name("projection", 0), source=str(photos))
    assert board.unindexed("projection", 0)
    install(site, 3, "2.0")
    forget()
    assert not board.unindexed("projection", 0)


@pytest.mark.usefixtures("site")
@pytest.mark.long
@pytest.mark.slow
def test_test_pictures_are_the_queries_where_a_source_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIMREC_PLUGINS", "pca")
    done = evaluate("--data", "fashion-mnist:small", "--train", "--format", "json")
    answer = json.loads(done.out)
    assert (answer["how"], answer["queries"], answer["catalogue"], answer["reduced"]) == ("test", 2000, 8000, True)
    assert all(done.rows["pca"][figure]["mean"] > 0 for figure in FIGURES)


def test_options_of_the_leaderboard_are_refused_without_it() -> None:
    for words in (["--train"], ["--seeds", "3"], ["--data", "x"], ["--format", "markdown"], ["--all", "demo"]):
        done = subprocess.run(
            [sys.executable, "-m", "simrec", "evaluate", *words], capture_output=True, text=True, check=False
        )
        assert done.returncode == 2
        assert "--all" in done.stderr
