"""Generations on disk: whatever goes wrong, the one before answers, and what is read is what was written."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest

import simrec
from simrec import files, store
from simrec.contracts import ImageSpec
from simrec.errors import StoreError, VersionError
from simrec.manifest import VERSION, EncoderRecord, Manifest, Results, TrainedOn
from simrec.recommender import Recommender

FILES = {"codes.npy": b"codes", "encoder/encoder.onnx": b"graph", "encoder/weights.safetensors": b"weights"}


def manifest(command: str = "a test") -> Manifest:
    """A manifest like any other."""
    record = EncoderRecord(
        name="plain", provider="simrec 0", factory="simrec_plain.model:Plain", runtime="onnx",
        metric="cosine", dim=3, input=ImageSpec(), preset="default", settings={},
        seed=0, decodes=True, digest="0" * 64, trained_on=TrainedOn("fashion-mnist", 60_000, "0" * 64),
        results=Results(1, 1, "finished", 0.1, 0.1, 1.0),
        command=command,
    )  # fmt: skip
    return Manifest(record, None, "2026-01-01T00:00:00+00:00", {"simrec": "0"})


def commit(folder: Path, command: str = "a test", files: dict[str, bytes] = FILES) -> store.Generation:
    """A new generation with those files."""
    with store.Writer(folder) as writer:
        for name, data in files.items():
            writer.write(name, data)
        return writer.commit(manifest(command))


def contents(folder: Path) -> tuple[str, dict[str, bytes]]:
    """What the live generation says: its manifest's command, and its files."""
    generation = store.current(folder)
    return generation.manifest.encoder.command, {name: generation.read(name) for name in generation.manifest.files}


def tree(folder: Path) -> dict[str, str]:
    """Every path below a folder and its digest; of the lock, which has no contents, nothing."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(folder.rglob("*"))
        if path.name != "LOCK"
    }


def refused(kind: type[StoreError] = StoreError) -> pytest.RaisesExc[StoreError]:
    """Expects an error of that kind whose message is one line."""
    return pytest.raises(
        kind, check=lambda error: type(error) is kind and "\n" not in str(error) and ": " in str(error)
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small recommender, committed once."""
    commit(tmp_path / "home" / "mine", "the first")
    return tmp_path / "home" / "mine"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recommender with every file that there can be but the weights; demo keeps no float32 codes."""
    home = tmp_path_factory.mktemp("home")
    return simrec.build("whole", "fashion-mnist:test", encoder="demo", home_folder=home).folder


@pytest.fixture
def copy(tmp_path: Path, whole: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(whole, tmp_path / "home" / "copy"))


# Writing.


def test_what_was_committed_is_there_when_it_is_opened_again(folder: Path) -> None:
    assert contents(folder) == ("the first", FILES)
    commit(folder, "the second", {"codes.npy": b"others"})
    assert contents(folder) == ("the second", {"codes.npy": b"others"})
    assert "codes.npy" in store.current(folder).manifest.files
    assert "encoder/encoder.onnx" not in store.current(folder).manifest.files


def test_what_was_not_committed_is_not_there(folder: Path) -> None:
    before = tree(folder)
    with store.Writer(folder) as writer:
        writer.write("codes.npy", b"others")
    with pytest.raises(ZeroDivisionError), store.Writer(folder) as writer:
        writer.write("codes.npy", b"others")
        raise ZeroDivisionError
    assert tree(folder) == before


@pytest.mark.parametrize("home", ["home", "home/with/parents"])
def test_a_first_write_that_fails_leaves_no_folder_behind(tmp_path: Path, home: str) -> None:
    with pytest.raises(ZeroDivisionError), store.Writer(tmp_path / home / "mine") as writer:
        writer.write("codes.npy", b"codes")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_a_first_commit_that_fails_leaves_no_folder_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", broken)
    with refused() as raised:
        commit(tmp_path / "home" / "mine")
    assert "No space left on device): make room" in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_a_commit_that_fails_at_its_last_step_leaves_the_old_generation_alone(folder: Path) -> None:
    (folder / "CURRENT.new").mkdir()  # cannot be written as a file
    before = tree(folder)
    with refused():
        commit(folder, "the second")
    assert tree(folder) == before
    (folder / "CURRENT.new").rmdir()
    commit(folder, "the third")
    assert contents(folder)[0] == "the third"


def test_a_commit_that_fails_before_its_last_step_says_why(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fails between the new generation's folder and CURRENT."""
    real = store._sync_folder

    def failing(path: Path) -> None:
        if path.name == "gens":
            raise OSError(5, "Input/output error")
        real(path)

    before = tree(folder)
    monkeypatch.setattr(store, "_sync_folder", failing)
    with refused() as raised:
        commit(folder, "the second")
    assert "Input/output error" in str(raised.value)
    assert tree(folder) == before


def test_files_that_did_not_change_are_hard_links_to_the_generation_before(folder: Path) -> None:
    before = store.current(folder)
    with store.Writer(folder) as writer:
        writer.keep(before, "encoder/")
        writer.write("codes.npy", b"others")
        after = writer.commit(manifest("the second"))
    assert contents(folder) == ("the second", {**FILES, "codes.npy": b"others"})
    for name in FILES:
        same = (before.folder / name).samefile(after.folder / name)
        assert same == name.startswith("encoder/")
    assert before.read("codes.npy") == b"codes"


def test_files_are_copied_where_there_can_be_no_links(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", none)
    with store.Writer(folder) as writer:
        writer.keep(store.current(folder))
        writer.commit(manifest("the second"))
    assert contents(folder) == ("the second", FILES)


def test_the_live_generation_and_the_one_before_stay_and_no_other(folder: Path) -> None:
    names = [store.current(folder).folder.name]
    for number in range(4):
        (folder / "gens" / f"0000{number}9-of-a-writer-that-died").mkdir()
        names.append(commit(folder, f"{number}").folder.name)
        assert {path.name for path in (folder / "gens").iterdir()} == set(names[-2:])


def test_a_folder_whose_name_is_no_utf_8_can_be_what_was_indexed(folder: Path) -> None:
    odd = os.fsdecode(b"/caf\xe9") if os.name == "posix" else "/caf\udce9"
    commit(folder, odd)
    assert contents(folder)[0] == odd


DYING = """
import itertools, json, os, shutil, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_store
from simrec import files, store

def dies_at(last):
    calls = itertools.count()
    def counted(real):
        def call(*args, **kwargs):
            if next(calls) == last:
                os._exit(9)
            return real(*args, **kwargs)
        return call
    os.fsync, shutil.rmtree = counted(os.fsync), counted(shutil.rmtree)
    for name in ("mkdir", "rename", "replace", "hardlink_to", "write_bytes", "open"):
        setattr(Path, name, counted(getattr(Path, name)))

home, first = Path(sys.argv[2]), sys.argv[3] == "first"
for step in itertools.count():
    folder = home / str(step)
    if not first:
        test_store.commit(folder, "old")
    child = os.fork()
    if child == 0:
        dies_at(step)
        with store.Writer(folder) as writer:
            if not first:
                writer.keep(store.current(folder), "encoder/")
            writer.write("codes.npy", b"new codes")
            writer.commit(test_store.manifest("new"))
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
        print(step)
        break
"""
"""Writes in one folder after another, dying at the first step, the second, ... until it lives to the end."""


@pytest.mark.parametrize("first", ["first", "later"])
def test_a_writer_that_dies_at_any_step_leaves_the_old_generation_or_the_new_one(tmp_path: Path, first: str) -> None:
    command = [sys.executable, "-c", DYING, str(Path(__file__).parent), str(tmp_path / "home"), first]
    steps = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert steps > 15
    seen = []
    for step in range(steps + 1):
        folder = tmp_path / "home" / str(step)
        if first == "first" and not store.exists(folder):
            seen.append("none")
        else:
            said, files = contents(folder)
            assert files["codes.npy"] == (b"new codes" if said == "new" else b"codes")
            seen.append(said)
        commit(folder, "the next")
        assert contents(folder) == ("the next", FILES)
        assert sorted(p.name for p in folder.iterdir() if p.name != "LOCK") == ["CURRENT", "gens"]
        assert len(list((folder / "gens").iterdir())) <= 2
    # First always the old state, then always the new one.
    old = "none" if first == "first" else "old"
    assert seen == [old] * seen.count(old) + ["new"] * seen.count("new")
    assert seen.count(old) > 10
    assert seen[-1] == "new"


FULL = """
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_store
from simrec.errors import StoreError

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
try:
    test_store.commit(Path(sys.argv[2]), "new", {"codes.npy": bytes(100_000), "encoder/small": b"small"})
except StoreError as error:
    print(error)
"""
"""Commits where no file can grow beyond a number of bytes, as on a disk that is full."""


@pytest.mark.parametrize("room", [0, 1000, 99_999])
def test_a_full_disk_is_one_clear_line_and_the_old_generation_answers(folder: Path, room: int) -> None:
    before = tree(folder)
    for place, name in ((folder, "mine"), (folder.parent / "new", "new")):
        command = [sys.executable, "-c", FULL, str(Path(__file__).parent), str(place), str(room)]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
        assert len(said) == 1
        assert f"{name}: cannot be written" in said[0]
        assert "make room" in said[0]
    assert tree(folder) == before
    assert not (folder.parent / "new").exists()


def test_a_full_disk_at_the_manifest_leaves_the_old_generation_too(folder: Path) -> None:
    before = tree(folder)
    files = dict.fromkeys((f"encoder/{n}" for n in range(9)), b"small")
    script = FULL.replace('{"codes.npy": bytes(100_000), "encoder/small": b"small"}', repr(files))
    command = [sys.executable, "-c", script, str(Path(__file__).parent), str(folder), "500"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "make room" in said
    assert tree(folder) == before


def test_a_second_writer_is_refused_at_once(folder: Path) -> None:
    script = "import sys; from pathlib import Path; from simrec.store import Writer\n"
    script += "with Writer(Path(sys.argv[1])) as w: print('writing', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", script, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "writing\n"
        with refused() as raised:
            commit(folder, "the second")
        assert "another simrec is writing it" in str(raised.value)
        assert contents(folder)[0] == "the first"
        other.communicate("")
    assert other.returncode == 0
    commit(folder, "the third")
    assert contents(folder)[0] == "the third"


def test_a_home_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    for home in (tmp_path / "file", tmp_path / "file" / "below"):
        with refused() as raised:
            commit(home / "mine")
        assert "--home" in str(raised.value)
        assert not store.exists(home / "mine")
    assert (tmp_path / "file").read_text() == "no folder"


# Reading.


def ask(folder: Path) -> list[object]:
    """Everything that can be asked of a recommender, and so every file read."""
    opened = Recommender(folder)
    images = opened.catalogue.thumbnails([0, 9_999])
    answers = opened.similar("id:test/00000", 3)
    return [answers, images.tolist(), opened.codes[:5].tolist(), opened.reconstruct(images).tolist()]


def change(path: Path, where: int) -> None:
    """Flips one bit of a file."""
    data = bytearray(path.read_bytes())
    data[where] ^= 0x10
    path.unlink()  # not written in place: it may be a link to a file that others read
    path.write_bytes(data)


KINDS = [
    "manifest.json",
    "items.sqlite",
    "index.faiss",
    "codes.npy",
    "encoder/encoder.onnx",
    "encoder/decoder.onnx",
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_byte_in_any_file_is_one_clear_error(copy: Path, kind: str) -> None:
    path = store.current(copy).folder / kind
    good = path.read_bytes()
    for where in (0, len(good) // 2, -1):
        change(path, where)
        with refused() as raised:
            ask(copy)
        assert str(path) in str(raised.value)
        assert "damaged" in str(raised.value)
        path.write_bytes(good)
    ask(copy)


@pytest.mark.parametrize("kind", [*KINDS, "thumbnails-000001.bin"])
def test_a_file_that_was_cut_or_is_gone_is_one_clear_error(copy: Path, kind: str) -> None:
    path = store.current(copy).folder / kind
    good = path.read_bytes()
    path.unlink()
    with refused():
        ask(copy)
    for size in (0, len(good) - 1):
        path.write_bytes(good[:size])
        with refused():
            ask(copy)


def test_a_damaged_byte_in_a_thumbnail_never_shows_another_picture(copy: Path) -> None:
    opened = Recommender(copy)
    good = opened.catalogue.thumbnails([0])
    path = opened.generation.path("thumbnails-000001.bin")
    start = bytearray(path.read_bytes()[:390])
    for where in range(len(start)):
        for bit in (0x01, 0x10, 0x80):
            start[where] ^= bit
            with path.open("r+b") as file:
                file.write(start)
            start[where] ^= bit
            try:
                assert (opened.catalogue.thumbnails([0]) == good).all()
            except StoreError as error:
                assert "\n" not in str(error)


def test_a_damaged_byte_in_current_is_one_clear_error(folder: Path) -> None:
    path = folder / "CURRENT"
    good = path.read_bytes()
    for where in range(len(good) - 1):
        for byte in (0x00, 0x2F, 0xFF, good[where] ^ 1):
            path.write_bytes(good[:where] + bytes([byte]) + good[where + 1 :])
            with refused():
                store.current(folder)
    for short in range(len(good) - 1):
        path.write_bytes(good[:short])
        with refused():
            store.current(folder)


def test_a_folder_that_holds_no_recommender_is_one_clear_error(tmp_path: Path, folder: Path) -> None:
    with refused():
        store.current(tmp_path / "nowhere")
    shutil.rmtree(folder / "gens")
    with refused() as raised:
        store.current(folder)
    assert "incomplete" in str(raised.value)
    (folder / "gens").write_text("no folder")
    with refused():
        store.current(folder)


def test_a_newer_format_is_refused_with_both_versions_named(copy: Path) -> None:
    path = store.current(copy).folder / "manifest.json"
    values = json.loads(path.read_bytes())
    data = json.dumps({**values, "version": VERSION + 41, "new in that format": True}).encode()
    path.write_bytes(data)
    (copy / "CURRENT").write_text(f"{path.parent.name} {hashlib.sha256(data).hexdigest()}\n")
    with refused(VersionError) as raised:
        Recommender(copy)
    assert str(VERSION + 41) in str(raised.value)
    assert f"the {VERSION} this simrec reads" in str(raised.value)
    assert "upgrade simrec" in str(raised.value)


def test_a_recommender_of_the_first_format_still_answers(copy: Path) -> None:
    path = store.current(copy).folder / "manifest.json"
    values = json.loads(path.read_bytes())
    values["catalogue"].pop("dtype", None)  # what version 2 brought
    data = json.dumps({**values, "version": 1}).encode()
    path.write_bytes(data)
    (copy / "CURRENT").write_text(f"{path.parent.name} {hashlib.sha256(data).hexdigest()}\n")
    opened = Recommender(copy)
    assert opened.manifest.catalogue is not None
    assert opened.manifest.catalogue.dtype == "float32"
    assert len(opened.similar("id:test/00000", 3)) == 3


def keep_all(folder: Path, times: int) -> None:
    """New generations, equal to the live one."""
    for _ in range(times):
        with store.Writer(folder) as writer:
            generation = store.current(folder)
            writer.keep(generation)
            writer.commit(generation.manifest)


def test_a_reader_that_has_answered_keeps_answering_while_two_newer_generations_come(copy: Path) -> None:
    opened = Recommender(copy)
    answers, codes = opened.similar("id:test/00000", 5), opened.codes
    thumbnails = opened.thumbnails(answers)
    keep_all(copy, 2)
    assert not opened.generation.folder.exists()
    assert opened.similar("id:test/00000", 5) == answers
    assert (opened.thumbnails(answers) == thumbnails).all()
    assert opened.codes is codes
    assert Recommender(copy).similar("id:test/00000", 5) == answers


def test_a_reader_that_has_just_opened_answers_from_its_generation_while_a_newer_one_comes(
    copy: Path,
) -> None:
    opened = Recommender(copy)
    expected = Recommender(copy).similar("id:test/00000", 5)
    keep_all(copy, 1)
    assert opened.similar("id:test/00000", 5) == expected


def test_a_reader_whose_generation_is_gone_before_it_read_it_is_told_to_open_it_again(folder: Path) -> None:
    generation = store.current(folder)
    commit(folder, "the second", {})
    commit(folder, "the third", {})
    for read in (generation.read, generation.path):
        with refused() as raised:
            read("codes.npy")
        assert "replaced by a newer one since it was opened" in str(raised.value)


def overtaken(folder: Path, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """That often, between the reading of CURRENT and of what it names, writers commit twice."""
    real = files.opened_below
    left = [times]

    def slow(place: Path, name: str) -> BinaryIO:
        file = real(place, name)
        if left[0] > 0 and name == "CURRENT":
            left[0], before = 0, left[0]
            commit(folder, "the second")
            commit(folder, "the third")
            left[0] = before - 1
        return file

    monkeypatch.setattr(files, "opened_below", slow)


def test_a_reader_that_is_overtaken_reads_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    overtaken(folder, monkeypatch, store.READS - 1)
    assert contents(folder) == ("the third", FILES)


def test_a_reader_that_is_overtaken_three_times_gives_up(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    overtaken(folder, monkeypatch, store.READS)
    with refused():
        store.current(folder)


# Files outside.


def test_an_output_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    out = tmp_path / "codes.npy"
    with files.replacing(out) as file:
        file.write(b"one")
        assert not out.exists()
    assert out.read_bytes() == b"one"
    with pytest.raises(ZeroDivisionError), files.replacing(out) as file:
        file.write(b"half of")
        raise ZeroDivisionError
    assert out.read_bytes() == b"one"
    assert list(tmp_path.iterdir()) == [out]


def test_an_output_file_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    for out in (tmp_path / "nowhere" / "a.csv", tmp_path / "folder.csv"):
        with refused() as raised, files.replacing(out) as file:
            file.write(b"one")
        assert str(raised.value).startswith(f"{out}: cannot be written")
    assert [path.name for path in tmp_path.iterdir()] == ["folder.csv"]


def test_an_output_file_is_readable_by_whoever_may_read_the_folder_s_files(tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    with files.replacing(tmp_path / "out") as file:
        file.write(np.zeros(3).tobytes())
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "other").stat().st_mode
