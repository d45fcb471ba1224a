"""Errors at the prompt: one line, the right exit status, nothing lost."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from simrec import store
from simrec.cli import main
from simrec.manifest import VERSION
from simrec.recommender import Recommender


def tree(folder: Path) -> dict[str, str]:
    """Every path below a folder and its digest; without the cache, which doesn't belong to a recommender."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(folder.rglob("*"))
        if "cache" not in path.relative_to(folder).parts
    }


def failed(capsys: pytest.CaptureFixture[str], *words: object, status: int = 1) -> str:
    """The one line on stderr of a command that fails with that status."""
    with pytest.raises(SystemExit) as leaving:
        main(["--quiet", *map(str, words)])
    said = capsys.readouterr().err
    assert leaving.value.code == status, said
    assert "Traceback" not in said
    lines = said.splitlines()
    errors = [line for line in lines if line.startswith("Error: ")]
    assert errors == lines[-1:]
    if status == 1:
        assert lines == errors
        assert "bug in simrec" not in said
    return errors[0]


def simrec(*words: object, **options: object) -> subprocess.CompletedProcess[bytes]:
    """Runs the command in its own process."""
    command = [sys.executable, "-m", "simrec", *map(str, words)]
    return subprocess.run(command, capture_output=True, check=False, **options)  # type: ignore[call-overload]


@pytest.fixture
def mine(own_home: Path, demo: Recommender) -> Path:
    """A home with one recommender of the user's."""
    return Path(shutil.copytree(demo.folder, own_home / "mine"))


# Names that do not exist, files that are not there.

MEMORIES = ("nan", "inf", "0", "-1")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("similr shoe.png", "Did you mean 'similar'"),
        ("similar shoe.png --indx demo", "No such option '--indx'"),
        ("similar shoe.png -q", "-q goes before the command: simrec -q ..."),
        ("index list --home there", "--home goes before the command: simrec --home ..."),
        ("similar", "Missing argument"),
        ("similar shoe.png -n 0", "0 is not in the range"),
        ("similar shoe.png --format yaml", "'yaml' is not one of"),
        ("index biuld new photos", "Did you mean 'build'"),
        ("simlar shoe.png", "Did you mean 'similar'"),
        ("train plain --set epochs", "KEY=VALUE"),
        *((f"train plain --memory {memory}", f"{memory} must be a number of GB above 0") for memory in MEMORIES),
        ("reconstruct shoe.png -o r.jpg", "'r.jpg' must end in .png"),
        ("compress shoe.png", "Name what to compress"),
        ("compress shoe.png --bits 9 -o out.simrec", "9 is not in the range"),
        ("compress shoe.png --report", "--report takes no SOURCE"),
        ("denoise shoe.png --report", "--report takes no PICTURE"),
        ("generate", "Name the FILE.png"),
        ("generate -o g.png --around shoe.png --between shoe.png shoe.png", "Choose one of"),
        ("generate -n 0 -o g.png", "0 is not in the range"),
        ("--home shoe.png index list", "is a file"),
    ],
)
@pytest.mark.usefixtures("shoe", "photos")
def test_wrong_usage_ends_with_status_2(capsys: pytest.CaptureFixture[str], words: str, expected: str) -> None:
    assert expected in failed(capsys, *words.split(), status=2)


LONG = "x" * 400


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("similar shoe.png --index demoo", "no recommender 'demoo'"),
        ("similar shoe.png --index demoo", "did you mean 'demo'?"),
        ("similar shoe.png --index no/where", "no recommender in the folder no/where"),
        (f"similar shoe.png --index {LONG}", "cannot be a recommender's name"),
        ("index show mien", "did you mean 'mine'?"),
        ("index sync home/mine", "home/mine: is a folder: copy it into your home, "),
        ("evaluate mien", "did you mean 'mine'?"),
        ("export mien -o out.csv", "did you mean 'mine'?"),
        ("encode photos --index mien -o out.npy", "did you mean 'mine'?"),
        ("train plian", "no encoder 'plian': did you mean 'plain'?"),
        ("similar nowhere.png --index demo", "nowhere.png: cannot be read (No such file or directory)"),
        ("similar photos --index demo --crop 0,0,5,5", "needs single pictures"),
        (f"similar {LONG}.png --index demo", "x.png: cannot be read"),
        ("similar ~nobody-of-that-name/a.png --index demo", "~nobody-of-that-name/a.png: cannot be read"),
        ("similar id:test/1000 --index demo", "no item 'test/1000' in demo"),
        ("index build new nowhere --encoder demo", "no source 'nowhere'"),
        (f"index build new {LONG} --encoder demo", "x: "),
        ("index build new fashion-mnist:tset --encoder demo", "did you mean 'test'?"),
        ("index build new photos --encoder demoo", "did you mean 'demo'?"),
        ("index build new", "no recommender 'new'"),
        ("index build demo photos", "read-only"),
        ("index build ../new photos --encoder demo", "cannot be a recommender's name"),
        (f"index build {LONG} photos --encoder demo", "cannot be a recommender's name"),
        (
            "export demo -o out.xlsx",
            "out.xlsx: no exporter writes files with that ending: name one that ends in .arrow, .csv, .faiss",
        ),
        ("reconstruct nowhere.png --index demo", "nowhere.png: cannot be read"),
        ("reconstruct shoe.png --index demo -o nowhere/r.png", "nowhere/r.png: cannot be written"),
        ("denoise shoe.png --index demo --noise 1.5", "noise on 1.5 of the pixels: a share is from 0 to 1"),
        ("evaluate demo --noise -1", "noise on -1 of the pixels: a share is from 0 to 1"),
        ("compress nowhere.png --index demo -o out.simrec", "no source 'nowhere.png'"),
        ("compress shoe.png --index demo -o nowhere/out.simrec", "nowhere/out.simrec: cannot be written"),
        ("decompress nowhere.simrec -o out", "nowhere.simrec: cannot be read"),
        ("decompress shoe.png -o out", "shoe.png: not a container of codes"),
        ("export demo -o nowhere/out.csv", "nowhere/out.csv: cannot be written"),
        ("export demo -o nowhere/out.npy", "cannot be written"),
        ("export demo -o nowhere/out.parquet", "cannot be written"),
        ("encode photos --index demo -o nowhere/out.npy", "nowhere/out.npy: cannot be written"),
        ("similar shoe.png --index demo --grid nowhere/out.png", "nowhere/out.png: cannot be written"),
        ("--home shoe.png/below index list", "shoe.png/below: cannot be read"),
        (
            "--home shoe.png/below index build new photos --encoder demo",
            "shoe.png/below/new: cannot be written",
        ),
    ],
)
@pytest.mark.usefixtures("mine", "shoe", "photos")
def test_what_cannot_be_done_is_one_line_with_status_1_and_changes_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, words: str, expected: str
) -> None:
    before = tree(tmp_path)
    assert expected in failed(capsys, *words.split())
    assert tree(tmp_path) == before


def test_a_traceback_is_shown_only_with_debug() -> None:
    plain, debug = simrec("similar", "nowhere.png"), simrec("--debug", "similar", "nowhere.png")
    assert b"Traceback" not in plain.stderr
    assert plain.stderr.splitlines()[-1].startswith(b"Error: nowhere.png")
    assert b"Traceback" in debug.stderr
    assert (plain.returncode, debug.returncode) == (1, 1)


def test_a_look_up_leaves_nothing_behind_and_sends_nothing(shoe: Path, tmp_path: Path) -> None:
    """ONNX Runtime's own wheels report usage data to their makers, and keep it in the cache until then."""
    before = {path.name for path in tmp_path.iterdir()}
    assert simrec("similar", shoe, "--index", "demo").returncode == 0
    assert {path.name for path in tmp_path.iterdir()} == before


# Batches.


def test_in_a_batch_the_good_pictures_are_answered_first(shoe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (shoe.parent / "bad.png").write_bytes(shoe.read_bytes()[:90])
    queries = [shoe, "nowhere.png", "bad.png", "id:test/00001", "id:nothing"]
    with pytest.raises(SystemExit) as leaving:
        main(["--quiet", "similar", *map(str, queries), "--index", "demo", "-n", "2", "--format", "json"])
    said = capsys.readouterr()
    assert leaving.value.code == 1
    assert [row["query"] for row in json.loads(said.out)] == [str(shoe)] * 2 + ["id:test/00001"] * 2
    errors = said.err.splitlines()
    assert len(errors) == 3
    for line, name in zip(errors, ("nowhere.png", "bad.png", "'nothing'"), strict=True):
        assert line.startswith("Error: ")
        assert name in line


def test_nothing_on_standard_input_is_one_clear_line() -> None:
    for data in (b"", b"no picture"):
        done = simrec("--quiet", "similar", "-", "--index", "demo", input=data)
        assert done.returncode == 1
        assert done.stdout == b""
        assert done.stderr.startswith(b"Error: standard input: ")
        assert len(done.stderr.splitlines()) == 1


def test_a_picture_with_pixels_that_are_not_numbers_is_one_clear_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Image.fromarray(np.full((40, 40), np.nan, np.float32)).save("nan.tiff")
    assert "nan.tiff: " in failed(capsys, "similar", "nan.tiff", "--index", "demo")


# Recommenders that cannot be read or written.


def make_newer(folder: Path) -> None:
    """The recommender as a later simrec would write it."""
    path = folder / "generations" / f"{store.current(folder).name}.json"
    data = json.dumps({**json.loads(path.read_bytes()), "version": VERSION + 7}).encode()
    path.write_bytes(data)
    (folder / "CURRENT").write_text(f"{path.stem} {hashlib.sha256(data).hexdigest()}\n")


@pytest.mark.parametrize(
    "words",
    ["similar shoe.png --index mine", "index show mine", "index build mine photos", "export mine -o out.csv"],
)
@pytest.mark.usefixtures("shoe", "photos")
def test_an_index_from_a_newer_version_is_left_alone(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, mine: Path, words: str
) -> None:
    make_newer(mine)
    before = tree(tmp_path)
    message = failed(capsys, *words.split())
    assert f"format {VERSION + 7} is newer than the {VERSION}" in message
    assert "upgrade simrec" in message
    assert tree(tmp_path) == before


def test_an_index_that_cannot_be_read_does_not_hide_the_others(mine: Path) -> None:
    shutil.copytree(mine, mine.parent / "good")
    make_newer(mine)
    done = simrec("index", "list", "--format", "json")
    assert done.returncode == 1
    assert {"good", "demo"} <= {row["name"] for row in json.loads(done.stdout)}
    assert done.stderr.count(b"Error: ") == 1
    assert b"upgrade simrec" in done.stderr


def test_a_damaged_index_is_one_clear_line(mine: Path, shoe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = next(mine.glob("segments/*/codes.faiss"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert f"{path}: damaged" in failed(capsys, "similar", shoe, "--index", "mine")


FULL = """
import resource, signal, sys
from simrec.cli import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
main(sys.argv[1:])
"""
"""Runs the command with files limited to a thousand bytes, like a full disk. Python needs -B: else it would
keep modules that are cut off in __pycache__.
"""


@pytest.mark.parametrize(
    "words", ["index build mine photos --replace", "index build new photos --encoder demo",
              "export mine -o out.parquet",
              "encode photos --index mine -o out.npy",
              "similar shoe.png --index demo --grid out.png"],
)  # fmt: skip
@pytest.mark.usefixtures("mine", "shoe", "photos")
def test_without_space_a_command_says_so_in_one_line_and_loses_nothing(tmp_path: Path, words: str) -> None:
    before = tree(tmp_path)
    command = [sys.executable, "-B", "-c", FULL, "--quiet", *words.split()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("Error: ")
    assert "cannot be written" in done.stderr
    assert "make room" in done.stderr
    after = tree(tmp_path)
    assert {name: after.get(name) for name in before} == before
    # What a build had encoded until then is kept for the next one; a new name has no recommender yet.
    left = {name for name in after.keys() - before.keys() if "building" not in name}
    assert left <= {"home/mine/LOCK", "home/new", "home/new/LOCK"}
    assert not list(tmp_path.rglob("staging-*"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no file that is always full")
def test_an_answer_that_cannot_be_written_is_one_clear_line(shoe: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        command = [sys.executable, "-m", "simrec", "--quiet", "similar", str(shoe), "--index", "demo"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("Error: ")
    assert "bug in simrec" not in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="other systems allow no such names")
def test_a_file_whose_name_is_not_utf_8_is_looked_up_and_indexed_like_any_other(photos: Path) -> None:
    folder = photos.rename(photos.parent / os.fsdecode(b"caf\xe9"))
    query = folder / os.fsdecode(b"sch\xf6n.png")
    shutil.copy(next(folder.rglob("*.png")), query)
    strict = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}  # as with most locales
    for words in (
        ["similar", query, "--index", "demo", "--format", "table"],
        ["index", "build", "new", folder, "--encoder", "demo"],
        ["index", "list"],
        ["similar", folder / "missing.png", query, "--index", "new"],
    ):
        done = simrec(*words, env=strict)
        assert done.returncode == ("missing.png" in str(words)), done.stderr
        assert b"bug in simrec" not in done.stderr


def test_ctrl_c_before_the_command_line_is_imported_ends_it_quietly() -> None:
    pressed = """
import sys
class Pressed:
    def find_spec(self, name, *_):
        if name == "click":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Pressed())
from simrec.__main__ import main
main()
"""
    done = subprocess.run([sys.executable, "-c", pressed], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "Interrupted.\n")
