"""`simrec plugins new`: the plugin installs, keeps the contract and is found; a refused one leaves nothing."""

from __future__ import annotations

import importlib
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from click.testing import CliRunner

import simrec
from simrec import host, scaffold
from simrec.cli import cli
from simrec.contracts import EncoderSpec
from simrec.errors import RequestError, SimrecError
from simrec.testing import check_encoder


@pytest.fixture
def fresh_host() -> Iterator[None]:
    """Makes simrec look for plugins again, in the test and after it."""
    host._discover.cache_clear()
    yield
    host._discover.cache_clear()


def install(project: Path) -> None:
    """Installs it like an editable installation: the metadata of pyproject.toml beside the code."""
    told = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    info = project / "src" / f"{told['name'].replace('-', '_')}-{told['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {told['name']}\nVersion: {told['version']}\n")
    points = [f"{name} = {module}\n" for name, module in told["entry-points"]["simrec"].items()]
    (info / "entry_points.txt").write_text("[simrec]\n" + "".join(points))
    importlib.invalidate_caches()
    host._discover.cache_clear()


@pytest.mark.usefixtures("fresh_host")
@pytest.mark.parametrize("kind", scaffold.KINDS)
def test_a_new_plugin_is_found_and_keeps_the_contract(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"new-{kind}"
    done = CliRunner().invoke(cli, ["plugins", "new", name, "--kind", kind])
    assert done.exit_code == 0, done.output
    assert Path(name, "tests", f"test_new_{kind}.py").is_file()
    assert f"simrec train {name}" in done.stderr
    assert all(Path(line).is_file() for line in done.stdout.splitlines())
    monkeypatch.syspath_prepend(str(Path(name, "src").absolute()))
    install(Path(name))
    offer = host.discover().find(EncoderSpec, name)
    assert offer.provider == f"{name} 0.1.0"
    assert offer.spec.explanation.count(". ") == 1
    assert host.encoder_class(offer).presets["default"]
    if kind == "numpy":  # the other takes 15 seconds of torch: `.ci/run` runs the written tests of both
        results = check_encoder(offer.spec)
        assert [result for result in results if result.outcome == "failed"] == []
        assert {result.name: result.outcome for result in results}["onnx"] == "not applicable"


@pytest.mark.usefixtures("fresh_host")
@pytest.mark.parametrize(("kind", "setting"), [("autoencoder", "width"), ("numpy", "cells")])
def test_a_new_plugin_refuses_settings_that_make_no_sense_by_their_name(
    kind: str, setting: str, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scaffold.write(f"strict-{kind}", kind, Path("strict"))
    monkeypatch.syspath_prepend(str(Path("strict/src").absolute()))
    install(Path("strict"))
    with pytest.raises(RequestError, match=f"{setting}.* must be 1 or more"):
        simrec.train(simrec.Plan(f"strict-{kind}", changes={setting: "-3"}), source=str(photos))


@pytest.mark.usefixtures("fresh_host")
def test_a_new_numpy_encoder_trains_indexes_and_answers_at_once(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scaffold.write("at-once", "numpy", Path("at-once"))
    monkeypatch.syspath_prepend(str(Path("at-once/src").absolute()))
    install(Path("at-once"))
    simrec.train("at-once", name="mine", source=str(photos))
    query = next(photos.glob("Bag/*.png"))
    assert simrec.build("mine").similar(query, n=1)[0].label == "Bag"


@pytest.mark.parametrize("kind", scaffold.KINDS)
def test_what_is_written_says_its_name_and_holds_no_placeholder(kind: str) -> None:
    for path in scaffold.write("my-own", kind, Path("somewhere")):
        text = Path("somewhere", path).read_text()
        assert "$" not in text, path
        assert "my-own" in text or "my_own" in text or path.name == "model.py", path
        assert "package" not in str(path)
    needs = tomllib.loads(Path("somewhere/pyproject.toml").read_text())["project"]["dependencies"]
    extra = "[train]" if kind == "autoencoder" else ""  # torch is no dependency of simrec alone
    assert needs == [f"simrec{extra}>={version('simrec')}"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("plain", f"it is an encoder of simrec {version('simrec')}"),
        ("json", "there is a Python module 'json'"),
        ("simrec-pca", "there is a Python module 'simrec_pca'"),
        ("class", "cannot name a package"),
        ("My-Own", "cannot name a package"),
        ("2d", "cannot name a package"),
        ("my-", "cannot name a package"),
        ("../mine", "cannot name a package"),
        ("", "cannot name a package"),
    ],
)
def test_an_invalid_or_taken_name_is_refused_and_nothing_written(name: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=expected) as raised:
        scaffold.write(name, "numpy", Path("there"))
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_stays_as_it_is(tmp_path: Path) -> None:
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("mine")
    with pytest.raises(SimrecError, match="mine: this folder is not empty"):
        scaffold.write("mine", "numpy", Path("mine"))
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "notes.txt"]


def test_the_current_folder_is_refused_for_a_plugin(tmp_path: Path) -> None:
    with pytest.raises(SimrecError, match="this is the folder you are in: name a new one"):
        scaffold.write("mine", "numpy", Path())
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_and_an_unrelated_one_with_the_packages_name_do_no_harm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    Path("mine").mkdir()
    assert len(scaffold.write("mine", "numpy", Path("mine"))) == 5


def test_a_half_written_plugin_is_taken_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    templates = tmp_path / "templates"
    for part, text in (("shared", "whole"), ("numpy", "$nobody_knows")):
        (templates / part).mkdir(parents=True)
        (templates / part / "file.txt").write_text(text)
    monkeypatch.setattr(scaffold, "TEMPLATES", templates)
    with pytest.raises(KeyError):
        scaffold.write("mine", "numpy", Path("mine"))
    assert [path.name for path in tmp_path.iterdir()] == ["templates"]
