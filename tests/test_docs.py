"""The README and the guide for plugin authors match simrec: commands, options, pictures, hooks, checks, code.

`python tests/test_docs.py` writes the guide's table of checks again.
"""

from __future__ import annotations

import inspect
import json
import re
import shlex
import sys
import tomllib
from importlib import import_module
from pathlib import Path
from string import Template
from typing import Any

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from test_plugins import HOOKS, example

from simrec import host, scaffold
from simrec.cli import cli
from simrec.contracts import EncoderSpec, ImageSpec
from simrec.errors import DataError, RequestError
from simrec.recommender import Recommender
from simrec.sources.load import collected
from simrec.testing import CHECKS, check_encoder
from simrec.verbs.export import Wishes, export

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
FIGURES = (ROOT / "tests" / "benchmarks" / "README.md").read_text()
GUIDE = (ROOT / "plugins" / "README.md").read_text()
SNIPPETS = re.findall(r"^```python\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[str]:
    """The simrec commands in a text, without their comments."""
    found = re.findall(r"^    (?:.*&& )?(simrec [a-z-].*)$", text, re.MULTILINE)
    return sorted({line.split("#")[0].strip() for line in found})


COMMANDS = commands(README)


@pytest.mark.parametrize("line", sorted({*COMMANDS, *commands(GUIDE)}))
def test_every_command_in_the_readme_and_the_guide_parses(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    command: click.Command = cli
    words = [word for word in shlex.split(line)[1:] if word != "--debug"]
    if "|" in words:
        words = words[: words.index("|")]
    context = click.Context(cli)
    while isinstance(command, click.Group):
        found = command.get_command(context, words[0])
        assert found is not None, words[0]
        command, words = found, words[1:]
    command.make_context("simrec", words)


@pytest.mark.parametrize("name", [None, "index", "plugins"])
def test_the_list_of_commands_cuts_no_summary(name: str | None) -> None:
    group, context = cli, click.Context(cli)
    if name is not None:
        found = cli.get_command(context, name)
        assert isinstance(found, click.Group)
        group = found
    shown = CliRunner().invoke(group, ["--help"], obj=None, terminal_width=80).output
    names = group.list_commands(context)
    assert names and all(f"  {name} " in shown for name in names)
    assert "..." not in shown.partition("Commands:")[2]


def test_every_command_stands_in_the_readme() -> None:
    for name in cli.list_commands(click.Context(cli)):
        assert any(line.startswith(f"simrec {name}") for line in COMMANDS), name


def test_the_readme_can_be_read_in_one_sitting() -> None:
    assert len(README.splitlines()) <= 150


@pytest.mark.parametrize("folder", [ROOT, ROOT / "tests" / "benchmarks"], ids=["README", "figures"])
def test_the_pictures_are_there(folder: Path) -> None:
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", (folder / "README.md").read_text())
    assert pictures
    for picture in pictures:
        assert (folder / picture).is_file(), picture


def test_the_readmes_python_runs(photos: Path, shoe: Path) -> None:
    Image.open(shoe).save("shoe.jpg")
    blocks = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert blocks
    for block in blocks:
        found: dict[str, Any] = {}
        exec(block, found)
        assert found["codes"].shape == (40, 64)
        assert [len(matches) for matches in found["both"]] == [10, 10]


def test_the_benchmarks_that_are_named_are_there() -> None:
    scripts = re.findall(r"python\s(tests/benchmarks/\S+\.py)", README + FIGURES)
    assert scripts
    for script in scripts:
        assert (ROOT / script).is_file(), script


def test_the_readmes_installation_commands_name_extras_that_exist() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = re.findall(r"pip install (?:-e )?'\.\[(\w+)\]'", README)
    assert {"train", "test"} <= set(named) <= set(extras)


# The guide for authors of plugins.


def table_of_checks() -> str:
    rows = [f"| `{check.name}` | {check.contract} |" for check in CHECKS]
    return "\n".join(["| check | the contract |", "|---|---|", *rows])


CHECKS_IN_GUIDE = re.compile(r"(<!-- checks: [^>]* -->\n)(.*?)(\n?<!-- end of checks -->)", re.DOTALL)


def test_the_guides_contract_is_that_of_the_checks() -> None:
    (found,) = CHECKS_IN_GUIDE.findall(GUIDE)
    assert found[1] == table_of_checks(), "run: python tests/test_docs.py"


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_stands_in_the_guide_with_its_signature_and_example(hook: str) -> None:
    signature = str(inspect.signature(HOOKS[hook])).replace("'", "")
    assert f"### `{hook}{signature}`\n" in GUIDE
    assert example(hook) in [re.sub(r"\n\n+", "\n", text) for text in SNIPPETS]


def test_what_the_guide_shows_of_a_new_plugin_is_what_is_written() -> None:
    for file in ("__init__.py", "model.py"):
        template = (scaffold.TEMPLATES / "autoencoder" / "src" / "package" / file).read_text()
        assert Template(template).substitute(name="mine", package="mine") in SNIPPETS
    written = scaffold.write("mine", "autoencoder", Path("mine"))
    assert {f"mine/{path.as_posix()}" for path in written} == set(
        re.findall(r"^    (mine/\S+)(?:  |$)", GUIDE, re.MULTILINE)
    )
    (entry_point,) = re.findall(r"^```toml\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
    assert entry_point in Path("mine/pyproject.toml").read_text()


def test_the_settings_that_the_guide_changes_are_those_of_the_new_plugin() -> None:
    model = (scaffold.TEMPLATES / "autoencoder" / "src" / "package" / "model.py").read_text()
    changed = {key for line in commands(GUIDE) for key in re.findall(r"--set (\w+)=", line)}
    presets = {preset for line in commands(GUIDE) for preset in re.findall(r"--preset (\w+)", line)}
    assert changed and all(f"    {key}: int = setting(" in model for key in changed)
    assert presets and all(f'"{preset}": ' in model for preset in presets)


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_every_snippet_of_the_guide_runs(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {"EncoderSpec": EncoderSpec, "__name__": "snippet"}
    sys.modules["snippet"] = type(sys)("snippet")  # where dataclasses look for their own
    try:
        exec(compile(SNIPPETS[number], f"snippet {number}", "exec"), names)
    finally:
        del sys.modules["snippet"]
    assert capsys.readouterr().out == ""  # what is checked in one of them has no failure


def snippet(holding: str) -> str:
    (found,) = [text for text in SNIPPETS if holding in text]
    return found


def test_the_guides_pretrained_encoder_keeps_the_contract(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site" / "pretrained"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "model.py").write_text(snippet("class Pretrained("))
    monkeypatch.syspath_prepend(str(package.parent))
    results = check_encoder(EncoderSpec("pretrained", "", "pretrained.model:Pretrained"))
    assert [result for result in results if result.outcome == "failed"] == []
    assert "passed" in {result.outcome for result in results if result.name == "onnx"}
    kind = import_module("pretrained.model").Pretrained
    with pytest.raises(RequestError, match="nowhere.safetensors: no such file"):
        kind(kind.Settings(weights="nowhere.safetensors")).check()


def test_the_guides_source_lists_and_reads_and_says_when_there_is_nothing(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: dict[str, Any] = {}
    exec(snippet("class Shop:"), names)

    def opened(text: str, data_dir: Path | None = None) -> Any:
        return names["Shop"](text, data_dir=data_dir, notice=print)

    photos.rename("our-shop")
    Path("our-shop/Bag").rename("our-shop/winter")
    every = collected(opened(""), ImageSpec(), notice=print)
    assert every.images.shape == (40, 28, 28, 1)
    assert (len(set(every.ids)), set(every.labels)) == (40, {"Trouser", "winter", "Sneaker", "Dress"})
    assert len(list(opened("winter").entries())) == 10
    assert np.array_equal(every.images[0, :, :, 0], np.asarray(Image.open(every.sources[0])))
    with pytest.raises(RequestError, match="our-shop has no 'summer'"):
        opened("summer")
    with pytest.raises(DataError, match="no pictures there"):
        list(opened("", Path("home")).entries())
    given = opened("winter", Path("our-shop").absolute())
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    for name in (every.name, given.name):  # as a sync from another folder opens it, without --data-dir
        again = opened(name.removeprefix("our-shop:"))
        assert (again.name, again.folder) == (name, given.folder)
    assert len(list(again.entries())) == 10


def test_the_guides_exporter_writes_what_the_catalogue_holds(
    tmp_path: Path, demo: Recommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site" / "my_package"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "arff.py").write_text(snippet("def write("))
    monkeypatch.syspath_prepend(str(package.parent))
    names: dict[str, Any] = {}
    exec(snippet("def simrec_exporters"), names)
    (spec,) = names["simrec_exporters"]()
    monkeypatch.setattr(host, "_discover", lambda *_: host.Host((host.Offer(spec, "mine 1.0"),), (), ()))
    assert export(demo, tmp_path / "demo.arff", Wishes(where="label = 'Bag'")) == [tmp_path / "demo.arff"]
    *lines, last = (tmp_path / "demo.arff").read_text().splitlines()
    assert lines.count("@DATA") == 1
    assert len(lines[lines.index("@DATA") + 1 :]) == 1000 == json.loads(last.removeprefix("% "))["count"]
    with pytest.raises(RequestError, match="keeps ids and codes"):
        export(demo, tmp_path / "other.arff", Wishes(columns=("label", "code")))
    assert not (tmp_path / "other.arff").exists()


def test_the_guides_augmentation_mirrors_half_of_the_pictures() -> None:
    names: dict[str, Any] = {}
    exec(snippet("def augment("), names)
    images = torch.rand(1000, 1, 4, 4)
    changed = names["augment"](None, images, torch.Generator().manual_seed(0))
    mirrored = [torch.equal(a, b.flip(2)) for a, b in zip(changed, images, strict=True)]
    assert 400 < sum(mirrored) < 600
    assert all(m or torch.equal(a, b) for m, a, b in zip(mirrored, changed, images, strict=True))


if __name__ == "__main__":
    (ROOT / "plugins" / "README.md").write_text(
        CHECKS_IN_GUIDE.sub(lambda found: f"{found[1]}{table_of_checks()}\n<!-- end of checks -->", GUIDE)
    )
