"""What works, and what simrec says, if it is installed without the extra `train`: torch is hidden from it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from test_plugins import PIXELS

import simrec
from simrec.errors import TRAINING
from simrec.sources import fashion_mnist

HIDING = """
import importlib.machinery as machinery

find = machinery.PathFinder.find_spec

def find_spec(name, path=None, target=None):
    return None if name.partition(".")[0] in {hidden} else find(name, path, target)

machinery.PathFinder.find_spec = find_spec
"""

Command = Callable[..., subprocess.CompletedProcess[str]]


def hiding(folder: Path, hidden: tuple[str, ...]) -> Command:
    """Runs simrec, and each process that it starts, as if those modules weren't installed."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(HIDING.replace("{hidden}", repr(hidden)))
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "simrec", *words], env={**os.environ, "PYTHONPATH": path},
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    return run


@pytest.fixture
def base(tmp_path: Path) -> Command:
    """simrec without any of the extra `train`."""
    return hiding(tmp_path / "base", TRAINING)


def error(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of a command that failed."""
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    return line


def needs(module: str) -> str:
    return f"needs {module}, which is not installed: pip install 'simrec[train]'"


def needing_torch(folder: Path, name: str, *, where: str) -> None:
    """Installs a third-party plugin that imports torch in its package, in its class's module, or in its `fit`."""
    info = folder / f"{name}-0.5.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.5\n")
    (info / "entry_points.txt").write_text(f"[simrec]\n{name} = {name}\n")
    spec = f"EncoderSpec('{name}', 'It needs torch.', '{name}_model:Pixels')"
    hook = f"@hookimpl\ndef simrec_encoders():\n    return [{spec}]\n"
    package = "from simrec.contracts import EncoderSpec\nfrom simrec.hookspecs import hookimpl\n" + hook
    model = PIXELS.replace("return History(", "import torch\n        return History(") if where == "fit" else PIXELS
    (folder / f"{name}.py").write_text("import torch\n" * (where == "package") + package)
    (folder / f"{name}_model.py").write_text("import torch\n" * (where == "class") + model)


def test_only_the_extra_train_brings_torch() -> None:
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]

    def names(requirements: list[str]) -> set[str]:
        return {re.split(r"[<>=]", requirement)[0] for requirement in requirements}

    assert not names(project["dependencies"]) & set(TRAINING)
    assert names(project["optional-dependencies"]["train"]) == set(TRAINING)
    assert "simrec[hub,serve,terminal,train,watch]" in names(project["optional-dependencies"]["test"])


@pytest.mark.parametrize("module", ["starlette", "uvicorn", "python_multipart"])
def test_serve_without_its_extra_is_one_line(tmp_path: Path, module: str) -> None:
    said = error(hiding(tmp_path / "hidden", (module,))("serve"))
    assert said == f"Error: serve needs {module}, which is not installed: pip install 'simrec[serve]'"


def test_help_similar_and_the_list_of_plugins_dont_mention_torch(base: Command, shoe: Path) -> None:
    for words in (("--help",), ("similar", str(shoe), "--index", "demo"), ("plugins", "list")):
        done = base(*words)
        assert (done.returncode, done.stderr) == (0, ""), words
    assert "Broken" not in done.stdout
    assert "vae" in done.stdout


@pytest.mark.long
def test_pca_trains_answers_rebuilds_and_exports(base: Command, photos: Path) -> None:
    query = str(next(photos.glob("Bag/*.png")))
    for words in (
        ("train", "pca", "--data", str(photos), "--name", "mine"),
        ("index", "build", "mine"),
        ("reconstruct", query, "--index", "mine", "-o", "r.png"),
        ("generate", "-n", "4", "--index", "mine", "-o", "g.png"),
        ("denoise", query, "--index", "mine", "-o", "d.png"),
        ("compress", query, "--index", "mine", "-o", "bag.simrec"),
        ("decompress", "bag.simrec", "-o", "back"),
        ("export", "mine", "-o", "mine.parquet"),
        ("evaluate", "mine", "--stress"),
        ("similar", query, "--index", "mine", "-n", "1", "--format", "json"),
    ):
        done = base("--quiet", *words)
        assert (done.returncode, done.stderr) == (0, ""), words
    matches, _ = json.JSONDecoder().raw_decode(done.stdout)
    assert matches[0]["label"] == "Bag"
    assert all(Path(name).stat().st_size for name in ("r.png", "g.png", "d.png", "bag.simrec", "mine.parquet"))
    mine = simrec.open("mine")
    assert mine.manifest.encoder.decodes


@pytest.mark.parametrize("encoder", ["plain", "sparse", "denoising", "vae", "torchvision"])
def test_an_encoder_that_needs_torch_is_one_line_before_any_picture_is_read(base: Command, encoder: str) -> None:
    said = error(base("train", encoder))
    assert said.startswith(f"Error: encoder '{encoder}' (simrec ")
    assert said.endswith(needs("torch"))
    assert not fashion_mnist.cache().exists()  # where the train pictures would have been downloaded to


@pytest.mark.parametrize("words", [("plugins", "show", "vae"), ("plugins", "check", "vae")])
def test_what_is_asked_about_such_an_encoder_is_the_same_line(base: Command, words: tuple[str, ...]) -> None:
    said = error(base(*words))
    assert said.startswith("Error: encoder 'vae' (simrec ")
    assert said.endswith(needs("torch"))


def test_quickstart_ends_before_it_downloads_anything(base: Command) -> None:
    assert error(base("quickstart")) == f"Error: encoder 'plain' {needs('torch')}"
    assert not fashion_mnist.cache().exists()


@pytest.mark.long
def test_the_leaderboard_trains_what_it_can_and_says_why_not_the_others(
    base: Command, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIMREC_PLUGINS", "pca,plain,vae")
    done = base("evaluate", "--all", "--train", "--data", str(photos))
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if "Error" in line]
    assert [line.split(": ")[1] for line in errors] == ["plain", "vae"]
    assert all(line.endswith(needs("torch")) for line in errors)
    assert re.search(r"^ *pca ", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("where", ["package", "class", "fit"])
def test_another_plugin_that_needs_torch_is_named_with_the_remedy(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    needing_torch(tmp_path / "site", "other", where=where)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")]))
    done = hiding(tmp_path / "base", TRAINING)("--quiet", "train", "other", "--data", str(photos))
    said = error(done)
    assert "(other 0.5)" in said
    assert needs("torch") in said


@pytest.mark.long
def test_a_recommender_that_runs_on_such_a_plugin_is_the_same_line(
    tmp_path: Path, shoe: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needing_torch(tmp_path / "site", "other", where="class")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")]))
    with_torch, without = hiding(tmp_path / "all", ()), hiding(tmp_path / "base", TRAINING)
    assert with_torch("train", "other", "--data", str(photos)).returncode == 0
    assert with_torch("index", "build", "other").returncode == 0
    assert (
        error(without("similar", str(shoe), "--index", "other"))
        == f"Error: encoder 'other' (other 0.5) {needs('torch')}"
    )


def test_torch_without_onnxscript_is_an_error_before_training(tmp_path: Path, photos: Path) -> None:
    done = hiding(tmp_path / "torch", ("onnxscript",))("--quiet", "train", "plain", "--data", str(photos))
    assert error(done).endswith(needs("onnxscript"))
