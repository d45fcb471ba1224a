"""`simrec plugins check` on installed distributions: its answers, also for plugins that hang or die."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAD = """
import os, sys, time
from simrec.contracts import EncoderSpec
from simrec.hookspecs import hookimpl
from test_testing import Good

@hookimpl
def simrec_encoders():
    return [EncoderSpec({name!r}, "An encoder of the tests.", {module!r} + ":Mine")]

class Mine(Good):
"""

PLUGINS = {
    "sound": "    pass",
    "chatty": "    def encode(self, images): print('encoding'); return super().encode(images).astype('float64')",
    "fatal": "    def encode(self, images): os._exit(0)",
    "asleep": "    time.sleep(600)",
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder for each plugin, with the plugin's distribution installed in it."""
    folders = {}
    for name, source in PLUGINS.items():
        folders[name] = folder = tmp_path_factory.mktemp(name)
        module = f"kit_{name}"
        (folder / f"{module}.py").write_text(HEAD.format(name=name, module=module) + source + "\n")
        info = folder / f"{module}-0.3.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: kit-{name}\nVersion: 0.3\n")
        (info / "entry_points.txt").write_text(f"[simrec]\n{name} = {module}\n")
    return folders


def checked(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(folder), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-m", "simrec", "plugins", "check", *words],
        env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_sound_encoder_is_checked_with_the_settings_asked_for(site: dict[str, Path]) -> None:
    done = checked(site["sound"], "sound", "--set", "dim=3")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "sound: 22 checks, 20 passed, 2 not applicable"
    assert "ok    finite             Codes are finite numbers." in done.stdout.splitlines()


def test_broken_plugins_are_found_and_a_plugins_output_is_not_a_result(site: dict[str, Path]) -> None:
    done = checked(site["chatty"], "chatty")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    at = lines.index("FAIL  dtype_and_shape    encode gives float32 codes (n, dim).")
    assert lines[at + 1].strip() == "codes are float64"
    assert lines[-1] == "chatty: 22 checks, 19 passed, 1 failed, 2 not applicable"
    assert "encoding" not in done.stdout
    assert "encoding" in done.stderr


def test_an_encoder_that_ends_the_process_is_one_line_that_names_its_distribution(site: dict[str, Path]) -> None:
    done = checked(site["fatal"], "fatal")
    assert done.returncode == 1
    assert done.stderr == (
        "Error: encoder 'fatal' (kit-fatal 0.3): check 'dtype_and_shape' ended the whole process (exit status 0): "
        "fix it, or uninstall its plugin\n"
    )
    assert "ok    fit " in done.stdout


def test_a_plugin_that_hangs_in_its_import_is_stopped_and_named(site: dict[str, Path]) -> None:
    done = checked(site["asleep"], "asleep", "--limit", "5")
    assert done.returncode == 1
    assert done.stderr == (
        "Error: plugin 'asleep' (kit-asleep 0.3): its import took longer than the limit of 5 s and was "
        "stopped: fix it, or allow more time with --limit\n"
    )


def test_an_encoder_that_does_not_exist_is_one_line(site: dict[str, Path]) -> None:
    done = checked(site["sound"], "soud")
    assert (done.returncode, done.stderr) == (1, "Error: no encoder 'soud': did you mean 'sound'?\n")
