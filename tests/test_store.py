"""Generations on disk: whatever goes wrong, the one before answers, and reading gives what was written."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
from msgspec.structs import replace as changed
from PIL import Image

import simrec
from simrec import files, library, store
from simrec.arrays import to_npy
from simrec.catalogue import segment
from simrec.contracts import ImageSpec
from simrec.errors import BusyError, StoreError, VersionError
from simrec.index import Index
from simrec.manifest import VERSION, EncoderRecord, Manifest, Results, TrainedOn
from simrec.recommender import Recommender

ENCODER, CODES, OTHERS = "encoder/00000001", "segments/00000001/codes.faiss", "segments/00000002/codes.faiss"

FILES = {CODES: b"codes", f"{ENCODER}/encoder.onnx": b"graph", f"{ENCODER}/weights.safetensors": b"weights"}


def manifest(command: str = "a test") -> Manifest:
    """An ordinary manifest."""
    record = EncoderRecord(
        name="plain", provider="simrec 0", factory="simrec_plain.model:Plain", runtime="onnx",
        metric="cosine", dim=3, input=ImageSpec(), preset="default", settings={},
        seed=0, decodes=True, digest="0" * 64, trained_on=TrainedOn("fashion-mnist", 60_000, "0" * 64),
        results=Results(1, 1, "finished", 0.1, 0.1, 1.0),
        command=command, folder=ENCODER,
    )  # fmt: skip
    return Manifest(record, None, "2026-01-01T00:00:00+00:00", {"simrec": "0"})


def commit(folder: Path, command: str = "a test", files: dict[str, bytes] = FILES) -> store.Generation:
    """Commits a new generation with those files."""
    with store.Writer(folder) as writer:
        for name, data in files.items():
            writer.write(name, data)
        return writer.commit(manifest(command))


def contents(folder: Path) -> tuple[str, dict[str, bytes]]:
    """The live generation's command, from its manifest, and its files."""
    generation = store.current(folder)
    return generation.manifest.encoder.command, {name: generation.read(name) for name in generation.manifest.files}


def tree(folder: Path) -> dict[str, str]:
    """Every path below a folder and its digest; none for the lock, which has no contents."""
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
    """A recommender with every possible file except the weights; demo keeps no float32 codes."""
    home = tmp_path_factory.mktemp("home")
    return simrec.build("whole", "fashion-mnist:test", encoder="demo", home_folder=home).folder


@pytest.fixture
def copy(tmp_path: Path, whole: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(whole, tmp_path / "home" / "copy"))


# Writing.


def test_a_commit_is_there_after_opening_again(folder: Path) -> None:
    assert contents(folder) == ("the first", FILES)
    commit(folder, "the second", {OTHERS: b"others"})
    assert contents(folder) == ("the second", {OTHERS: b"others"})


def test_without_a_commit_nothing_changes(folder: Path) -> None:
    before = tree(folder)
    with store.Writer(folder) as writer:
        writer.write(OTHERS, b"others")
    with pytest.raises(ZeroDivisionError), store.Writer(folder) as writer:
        writer.write(OTHERS, b"others")
        raise ZeroDivisionError
    assert tree(folder) == before


@pytest.mark.parametrize("home", ["home", "home/with/parents"])
def test_a_first_write_that_fails_leaves_no_folder_behind(tmp_path: Path, home: str) -> None:
    with pytest.raises(ZeroDivisionError), store.Writer(tmp_path / home / "mine") as writer:
        writer.write(CODES, b"codes")
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


def test_a_manifest_that_could_not_be_read_again_is_not_committed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, good = tree(folder), manifest("the second")
    wrong = replace(good.encoder, results=replace(good.encoder.results, ended="done"))  # type: ignore[arg-type]
    with refused() as raised, store.Writer(folder) as writer:
        writer.write(OTHERS, b"others")
        writer.commit(replace(good, encoder=wrong))
    assert "Invalid enum value 'done'" in str(raised.value) and "nothing was changed" in str(raised.value)
    assert tree(folder) == before
    with monkeypatch.context() as patch, pytest.raises(StoreError, match="more than simrec reads: nothing was changed"):
        patch.setattr(store, "LARGEST", 100)
        with store.Writer(folder) as writer:
            writer.commit(good)
    assert tree(folder) == before
    assert contents(folder) == ("the first", FILES)


def test_a_commit_that_fails_before_its_last_step_says_why(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fails after the new generation's files and before CURRENT."""
    real = store._sync_folder

    def failing(path: Path) -> None:
        if path.name == "generations":
            raise OSError(5, "Input/output error")
        real(path)

    before = tree(folder)
    monkeypatch.setattr(store, "_sync_folder", failing)
    with refused() as raised:
        commit(folder, "the second")
    assert "Input/output error" in str(raised.value)
    assert tree(folder) == before


def test_unchanged_files_are_named_again_and_neither_read_nor_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, digested = store.current(folder), []
    inode = (folder / ENCODER / "encoder.onnx").stat()
    real = store._sync_and_digest
    monkeypatch.setattr(store, "_sync_and_digest", lambda path: digested.append(path.name) or real(path))
    with store.Writer(folder) as writer:
        writer.keep(before, ENCODER)
        writer.write(OTHERS, b"others")
        after = writer.commit(manifest("the second"))
    assert digested == ["codes.faiss"]
    encoder = {name: data for name, data in FILES.items() if name.startswith(ENCODER)}
    assert contents(folder) == ("the second", {**encoder, OTHERS: b"others"})
    assert (folder / ENCODER / "encoder.onnx").stat() == inode
    assert before.read(CODES) == b"codes"
    assert CODES not in after.manifest.files


@pytest.mark.parametrize("links", [True, False])
def test_another_recommenders_files_are_linked_or_copied(
    folder: Path, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    if not links:
        monkeypatch.setattr(Path, "hardlink_to", none)
    with store.Writer(folder.parent / "other") as writer:
        writer.copy(store.current(folder), ENCODER, "encoder/00000002", without=frozenset(["weights.safetensors"]))
        writer.commit(manifest("another"))
    assert contents(folder.parent / "other") == ("another", {"encoder/00000002/encoder.onnx": b"graph"})
    linked = (folder / ENCODER / "encoder.onnx").samefile(folder.parent / "other/encoder/00000002/encoder.onnx")
    assert linked == links


def test_the_last_five_generations_stay_and_older_files_are_deleted(folder: Path) -> None:
    for number in range(2, 9):
        for name in ("segments/0000beef/codes.faiss", "fields/0000beef.arrow"):  # of a writer that died
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(b"left")
        commit(folder, f"{number}", {f"segments/0000000{number}/codes.faiss": b"codes"})
        kept = range(max(1, number - store.KEPT + 1), number + 1)
        assert {path.name for path in (folder / "generations").iterdir()} == {f"{n:06d}.json" for n in kept}
        assert {path.name for path in (folder / "segments").iterdir()} == {f"0000000{n}" for n in kept}
        assert (folder / ENCODER).exists() == (1 in kept)
        assert not (folder / "fields").exists()


def test_a_recommender_with_an_unreadable_manifest_is_not_deleted(folder: Path) -> None:
    commit(folder, "the second", {OTHERS: b"others"})
    (folder / "generations" / "000001.json").write_text("damaged")
    commit(folder, "the third", {OTHERS: b"others"})
    assert (folder / CODES).read_bytes() == b"codes"


def test_a_folder_whose_name_is_not_utf_8_can_be_indexed(folder: Path) -> None:
    odd = os.fsdecode(b"/caf\xe9") if os.name == "posix" else "/caf\udce9"
    commit(folder, odd)
    assert contents(folder)[0] == odd


def files_of(folder: Path, number: int) -> set[str]:
    """A generation's manifest, and the files that it names."""
    path = f"generations/{number:06d}.json"
    return {path, *json.loads((folder / path).read_bytes())["files"]}


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
                writer.keep(store.current(folder), test_store.ENCODER)
            writer.write(test_store.OTHERS, b"new codes")
            writer.commit(test_store.manifest("new"))
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
        print(step)
        break
"""
"""Writes in one folder after another; dies at the first step, the second, ... until it survives to the end."""


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
            assert files.get(OTHERS) == (b"new codes" if said == "new" else None)
            seen.append(said)
        commit(folder, "the next")
        assert contents(folder) == ("the next", FILES)
        pool = ["CURRENT", "encoder", "generations", "segments"]
        assert sorted(p.name for p in folder.iterdir() if p.name != "LOCK") == pool
        named = {name for n in store._numbers(folder) for name in files_of(folder, n)}
        assert {name for name in tree(folder) if "/" in name and (folder / name).is_file()} == named
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

sys.dont_write_bytecode = True  # Python would keep modules cut off
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
try:
    test_store.commit(Path(sys.argv[2]), "new", {test_store.OTHERS: bytes(100_000), "encoder/00000003/small": b"small"})
except StoreError as error:
    print(error)
"""
"""Commits with files limited to a number of bytes, like a full disk."""


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
    files = dict.fromkeys((f"encoder/00000003/{n}" for n in range(9)), b"small")
    script = FULL.replace('{test_store.OTHERS: bytes(100_000), "encoder/00000003/small": b"small"}', repr(files))
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
        with refused(BusyError) as raised:
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
    """Asks a recommender for everything, which reads every file."""
    opened = Recommender(folder)
    items = opened.catalogue.at([0, 9_999])
    shown = [opened.catalogue.preview(item.id) for item in items]
    answers = opened.similar("id:test/00000", 3)
    rebuilt = opened.decode(opened.encode(opened.originals(items)))
    return [answers, shown, opened.codes[:5].tolist(), rebuilt.tolist()]


def path_of(folder: Path, name: str) -> Path:
    """The path of a file: the manifest, one of the encoder's, or one of the only segment's."""
    generation = store.current(folder)
    catalogue = generation.manifest.catalogue
    if name == "manifest":
        return folder / "generations" / f"{generation.name}.json"
    if name.startswith("encoder/"):
        return folder / generation.manifest.encoder.folder / name.removeprefix("encoder/")
    assert catalogue is not None
    return folder / catalogue.segments[0].folder / name


def change(path: Path, where: int) -> None:
    """Flips one bit of a file."""
    data = bytearray(path.read_bytes())
    data[where] ^= 0x10
    path.unlink()  # not written in place: it may be a link to a file that others read
    path.write_bytes(data)


KINDS = [
    "manifest",
    "items.sqlite",
    "codes.faiss",
    "lengths.npy",
    "previews.bin",
    "encoder/encoder.onnx",
    "encoder/decoder.onnx",
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_byte_in_any_file_is_one_clear_error(copy: Path, kind: str) -> None:
    path = path_of(copy, kind)
    good = path.read_bytes()
    for where in (0, len(good) // 2, -1):
        change(path, where)
        with refused() as raised:
            ask(copy)
        assert str(path) in str(raised.value)
        assert "damaged" in str(raised.value)
        path.write_bytes(good)
    ask(copy)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_was_cut_or_is_gone_is_one_clear_error(copy: Path, kind: str) -> None:
    path = path_of(copy, kind)
    good = path.read_bytes()
    path.unlink()
    with refused():
        ask(copy)
    for size in (0, len(good) - 1):
        path.write_bytes(good[:size])
        with refused():
            ask(copy)


@pytest.mark.long
def test_a_damaged_byte_in_a_large_file_never_gives_another_items_data(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening checks only the size of large files, which are mapped into memory."""
    monkeypatch.setattr(store, "SMALL", 0)
    good = Recommender(copy)
    items, shown = good.catalogue.at(range(0, 10_000, 100)), good.catalogue.preview("test/00000")
    table, previews = path_of(copy, "items.sqlite"), path_of(copy, "previews.bin")
    rng = np.random.default_rng(0)
    wrong = 0
    for path, count in ((table, 300), (previews, 0)):
        original = path.read_bytes()
        places = rng.integers(len(original), size=count).tolist() or range(len(shown or b""))
        for where in places:
            change(path, where)
            opened = Recommender(copy)
            try:
                assert opened.catalogue.at(range(0, 10_000, 100)) == items
                assert opened.catalogue.preview("test/00000") == shown
            except StoreError as error:
                assert "damaged" in str(error)
                assert "\n" not in str(error)
                wrong += 1
            path.write_bytes(original)
    assert wrong > len(shown or b"")  # every byte of the preview, and some of the table


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
    shutil.rmtree(folder / "generations")
    with refused() as raised:
        store.current(folder)
    assert "incomplete" in str(raised.value)
    (folder / "generations").write_text("no folder")
    with refused():
        store.current(folder)


def test_a_newer_format_is_refused_with_both_versions_named(copy: Path) -> None:
    path = path_of(copy, "manifest")
    values = json.loads(path.read_bytes())
    data = json.dumps({**values, "version": VERSION + 41, "new in that format": True}).encode()
    path.write_bytes(data)
    (copy / "CURRENT").write_text(f"{path.stem} {hashlib.sha256(data).hexdigest()}\n")
    with refused(VersionError) as raised:
        Recommender(copy)
    assert str(VERSION + 41) in str(raised.value)
    assert f"the {VERSION} this simrec reads" in str(raised.value)
    assert "upgrade simrec" in str(raised.value)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.long
def test_a_recommender_of_an_older_format_answers_and_can_be_built_again(tmp_path: Path, version: int) -> None:
    """A recommender as written in format 2, with its 8-bit codes; or in format 1, with float32."""
    old = old_format(tmp_path / "home" / "old", version)
    before = tree(old)
    opened = Recommender(old)
    assert opened.manifest.catalogue is not None
    assert opened.manifest.catalogue.dtype == ("float32" if version == 1 else "int8")
    assert opened.manifest.encoder.input.version == 1
    answers = opened.similar("id:test/00000", 3)
    assert [match.label for match in answers] == ["Ankle boot"] * 3
    assert opened.similar(opened.originals(opened.catalogue.at([0]))[0], 3) == [
        changed(
            match,
            query="array",
            score=pytest.approx(match.score, abs=0.01),
            distance=pytest.approx(match.distance, abs=0.01),
        )
        for match in answers
    ]
    assert opened.catalogue.picture("test/00000").size == (28, 28)
    assert opened.decode(opened.codes[:2]).shape == (2, 28, 28, 1)
    assert tree(old) == before

    built = simrec.build("old", home_folder=old.parent)
    assert opened.similar("id:test/00000", 3) == answers
    assert [match.label for match in built.similar("id:test/00000", 3)] == ["Ankle boot"] * 3
    assert built.manifest.encoder.folder.startswith("gens/")  # the encoder's files stay where they are
    assert {name for name in before if "/encoder/" in name} <= set(tree(old))
    commit_all(old, store.KEPT)
    assert not any("thumbnails" in name for name in tree(old))
    assert Recommender(old).similar("id:test/00000", 3) == built.similar("id:test/00000", 3)


def old_format(folder: Path, version: int) -> Path:
    """`demo` in format 2, or in format 1: a folder for its one generation."""
    demo = simrec.open("demo")
    record, catalogue = demo.manifest.encoder, demo.manifest.catalogue
    assert catalogue is not None
    inside = folder / "gens" / "000001-0123abcd"
    for name in demo.manifest.files:
        if name.startswith(f"{record.folder}/"):
            target = inside / "encoder" / name.removeprefix(f"{record.folder}/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(demo.generation.read(name))
    items = list(demo.catalogue.all())
    images = demo.originals(items)
    codes = demo.encode(images)
    (inside / "index.faiss").write_bytes(Index(codes, record.metric, "float32" if version == 1 else "int8").to_bytes())
    if version == 1:
        (inside / "codes.npy").write_bytes(to_npy(codes))
    thumbnails, rows = bytearray(), []
    for row, (item, image) in enumerate(zip(items, images, strict=True)):
        png = io.BytesIO()
        Image.fromarray(image[:, :, 0]).save(png, "PNG")
        pixels = hashlib.blake2b(image.tobytes(), digest_size=8).digest()
        place = ("thumbnails-000001.bin", len(thumbnails), len(png.getvalue()))
        rows.append((row, item.id, item.source, item.label, pixels, *place))
        thumbnails += png.getvalue()
    (inside / "thumbnails-000001.bin").write_bytes(thumbnails)
    table = sqlite3.connect(inside / "items.sqlite")
    table.execute(segment._SCHEMA_2)
    table.executemany("INSERT INTO items VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
    table.execute("CREATE INDEX by_pixels ON items (pixels)")
    table.commit()
    table.close()
    values = demo.manifest.to_json()
    del values["encoder"]["folder"]
    for name in ("version", "interpolation", "crop_pct"):
        del values["encoder"]["input"][name]
    del values["change"]
    (source,) = values["catalogue"].pop("sources")
    values["catalogue"] |= {"source": source["name"], "test": source["test"], "reduced": source["reduced"]}
    del values["catalogue"]["distances"], values["catalogue"]["measured"], values["catalogue"]["engine"]
    values["catalogue"]["segments"] = ["thumbnails-000001.bin"]
    if version == 1:
        del values["catalogue"]["dtype"]
    values["files"] = {
        path.relative_to(inside).as_posix(): {
            "size": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in sorted(inside.rglob("*"))
        if path.is_file()
    }  # fmt: skip
    data = json.dumps({**values, "version": version}).encode()
    (inside / "manifest.json").write_bytes(data)
    (folder / "CURRENT").write_text(f"{inside.name} {hashlib.sha256(data).hexdigest()}\n")
    return folder


@pytest.mark.parametrize("name", library.SHIPPED)
def test_the_shipped_recommenders_open(name: str, shoe: Path) -> None:
    opened = simrec.open(name)
    fed = opened.read(str(shoe)).images
    assert fed is not None
    assert opened.encode(fed).shape == (1, opened.manifest.encoder.dim)


def commit_all(folder: Path, times: int) -> None:
    """New generations, equal to the live one."""
    for _ in range(times):
        with store.Writer(folder) as writer:
            generation = store.current(folder)
            writer.keep(generation, generation.manifest.encoder.folder)
            for record in generation.manifest.catalogue.segments if generation.manifest.catalogue else ():
                writer.keep(generation, record.folder)
            writer.commit(generation.manifest)


@pytest.mark.parametrize("asked", [True, False], ids=["which has answered", "which has just opened"])
@pytest.mark.long
def test_a_reader_keeps_answering_while_its_generation_is_replaced_and_deleted(copy: Path, asked: bool) -> None:
    expected = Recommender(copy).similar("id:test/00000", 5)
    opened = Recommender(copy)
    if asked:
        assert opened.similar("id:test/00000", 5) == expected
    before = {path for path in copy.rglob("*") if path.is_file()}
    for _ in range(store.KEPT + 1):
        simrec.build("copy", "fashion-mnist:small", replace=True, from_scratch=True, home_folder=copy.parent)
    assert not any(path.exists() for path in before if "segments" in path.parts)
    assert opened.similar("id:test/00000", 5) == expected
    assert opened.catalogue.picture(expected[0].id) is not None
    assert len(opened.codes) == 10_000
    assert opened.refresh()
    assert not opened.refresh()
    assert len(opened.codes) == 8_000
    assert opened.similar("id:test/00000", 5) == Recommender(copy).similar("id:test/00000", 5)


def test_after_a_failed_refresh_the_old_generation_answers(copy: Path) -> None:
    opened = Recommender(copy)
    expected = opened.similar("id:test/00000", 5)
    simrec.build("copy", from_scratch=True, home_folder=copy.parent)
    path_of(copy, "manifest").write_text("damaged")
    with refused():
        opened.refresh()
    assert opened.similar("id:test/00000", 5) == expected


def overtaken(folder: Path, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """So often do writers commit twice between reading CURRENT and reading what it names."""
    real = files.opened_below
    left = [times]

    def slow(place: Path, name: str) -> BinaryIO:
        file = real(place, name)
        if left[0] > 0 and name == "CURRENT":
            left[0], before = 0, left[0]
            for _ in range(store.KEPT):
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
