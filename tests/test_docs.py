"""The README says what is there: its commands exist with the options it gives, its pictures too."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import click
import pytest

from simrec.cli import cli

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
COMMANDS = sorted(
    {line.split("#")[0].strip() for line in re.findall(r"^    (?:.*&& )?(simrec [a-z].*)$", README, re.MULTILINE)}
)


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_in_the_readme_parses(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    command: click.Command = cli
    words = shlex.split(line)[1:]
    if "|" in words:
        words = words[: words.index("|")]
    context = click.Context(cli)
    while isinstance(command, click.Group):
        found = command.get_command(context, words[0])
        assert found is not None, words[0]
        command, words = found, words[1:]
    command.make_context("simrec", words)


def test_every_command_stands_in_the_readme() -> None:
    for name in cli.commands:
        assert any(line.startswith(f"simrec {name}") for line in COMMANDS), name


def test_the_readmes_pictures_are_there() -> None:
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", README)
    assert pictures
    for picture in pictures:
        assert (ROOT / picture).is_file(), picture


def test_the_readmes_benchmarks_are_there() -> None:
    scripts = re.findall(r"python (tests/benchmarks/\S+\.py)", README)
    assert scripts
    for script in scripts:
        assert (ROOT / script).is_file(), script


def test_the_look_up_installation_names_only_declared_dependencies() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {re.split(r"[<>=]", dependency)[0] for dependency in project["dependencies"]}
    (line,) = re.findall(r"^    pip install (click .*) && pip install --no-deps \.$", README, re.MULTILINE)
    assert set(line.split()) <= declared
    assert not set(line.split()) & {"torch", "torchvision", "onnx", "onnxscript"}
