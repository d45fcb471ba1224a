"""Sources as streams: nothing needs all pictures at once, an interrupted build goes on, odd folders don't hang."""

from __future__ import annotations

import errno
import io
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ran
from PIL import Image

import simrec
from simrec import host, reading, streams
from simrec.catalogue import building, revising
from simrec.catalogue.segment import place_of
from simrec.contracts import Batch, Entry, ImageSpec, SourceSpec
from simrec.errors import DataError, ImageError, RequestError, StoreError
from simrec.images import Read
from simrec.recommender import Recommender
from simrec.sources.files import Folder
from simrec.sources.load import collected, load, open_source
from simrec.streams import CORES, ahead, chunks, queued, spread
from simrec.verbs.encoding import Unread
from simrec.verbs.train import Watch


class Numbers:
    """A source of as many pictures as its text says; picture i is grey, with the number i coded in its corner.

    If the text ends in "?", every seventh can't be read.
    """

    test, reduced = None, False

    def __init__(self, text: str, *, data_dir: object, notice: object) -> None:
        self.name, self.count, self.broken = f"numbers:{text}", int(text.rstrip("?")), text.endswith("?")

    def entries(self) -> Iterator[Entry]:
        for number in range(self.count):
            yield Entry(f"{number:06d}", "numbers", f"{number % 3}", fields={"price": number / 2})

    def read(self, entries: Sequence[Entry], spec: ImageSpec) -> Batch:
        from simrec.reading import batch

        bad = [entry for entry in entries if self.broken and int(entry.id) % 7 == 3]
        good = [entry for entry in entries if entry not in bad]
        numbers = np.array([int(entry.id) for entry in good], np.int64)
        images = np.empty((len(good), 28, 28, 1), np.uint8)
        images[:] = (numbers % 251)[:, None, None, None]
        images[:, 0, :8, 0] = numbers[:, None] >> np.arange(0, 24, 3) & 7
        made = batch(good, images, spec)
        return Batch(
            good,
            made.images,
            made.previews,
            made.contents,
            [(e, ImageError(f"{e.source}: torn ({e.id})")) for e in bad],
        )


def with_numbers(found: host.Host) -> host.Host:
    """The same plugins plus the source `numbers`."""
    offer = host.Offer(SourceSpec("numbers", "Numbers.", "test_streams:Numbers"), "tests 1")
    return host.Host((*found.offers, offer), found.failures, found.left_out)


@pytest.fixture
def numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the source `numbers` available."""
    real = host._discover
    monkeypatch.setattr(host, "_discover", lambda *given: with_numbers(real(*given)))
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


# Streams.


def test_chunks_have_their_size_and_the_last_is_shorter() -> None:
    assert list(chunks(range(7), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(chunks([], 3)) == []


def test_a_stream_is_computed_ahead_and_no_further() -> None:
    made: list[int] = []
    slow = (made.append(number) or number for number in range(100))
    with ahead(slow, 2) as stream:
        assert next(stream) == 0
        time.sleep(0.2)
        assert len(made) <= 4  # taken, waiting twice, and one that waits for room
        assert list(stream) == list(range(1, 100))


def test_a_streams_error_is_raised_where_it_is_read() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise KeyError("two")

    with ahead(broken()) as stream:
        assert next(stream) == 1
        with pytest.raises(KeyError, match="two"):
            next(stream)


def test_a_stream_that_nobody_takes_to_its_end_ends_its_thread() -> None:
    before = threading.active_count()
    with ahead(itertools.count()) as stream:
        next(stream)
    assert threading.active_count() == before


@pytest.mark.parametrize("divided", [queued, spread])
def test_divided_work_gives_its_results_in_order_and_raises_its_errors(divided: Callable[..., list[Any]]) -> None:
    assert divided(lambda number: number * number, range(1000)) == [number * number for number in range(1000)]
    assert divided(str, []) == []
    done = []

    def failing(number: int) -> None:
        done.append(number)
        if number == 7:
            raise KeyError("seven")

    with pytest.raises(KeyError, match="seven"):
        divided(failing, range(100_000))
    assert divided is queued or len(done) < 100_000  # the others don't go on


def test_spread_work_waits_for_no_busy_core_and_may_spread_work_itself() -> None:
    inner = [spread(lambda number: number + 1, range(10))] * 20
    assert spread(lambda _: spread(lambda number: number + 1, range(10)), range(20)) == inner
    ending, begun = threading.Event(), threading.Semaphore(0)

    def busy(_: int) -> None:
        begun.release()
        ending.wait()

    with ThreadPoolExecutor(CORES) as pool:
        waiting = [pool.submit(spread, busy, range(2)) for _ in range(CORES)]  # takes all helpers, and their callers
        for _ in range(2 * CORES):
            assert begun.acquire(timeout=10)
        assert spread(str, range(3)) == ["0", "1", "2"]
        ending.set()
        assert [one.result() for one in waiting] == [[None, None]] * CORES


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("divided", ["queued", "spread"])
def test_divided_work_is_done_after_a_fork_and_when_python_ends(divided: str) -> None:
    script = f"""
import os, threading, time
from simrec.streams import {divided} as divided
assert divided(abs, range(-3, 3)) == [3, 2, 1, 0, 1, 2]
child = os.fork()
if not child:
    os._exit(divided(abs, range(-3, 3)) != [3, 2, 1, 0, 1, 2])
assert os.waitpid(child, 0)[1] == 0
def late():
    threading.main_thread().join()
    print(divided(abs, range(-3, 3)))
threading.Thread(target=late).start()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("[3, 2, 1, 0, 1, 2]\n", "")


# Building.


def files(folder: Path) -> dict[str, bytes | bytearray]:
    """The catalogue's files by what they are, without the random names of their folders."""
    found: dict[str, bytes | bytearray] = {}
    for number, record in enumerate(simrec.open(str(folder)).manifest.catalogue.segments):  # type: ignore[union-attr]
        for path in (folder / record.folder).iterdir():
            found[f"{number} {path.name}"] = data = bytearray(path.read_bytes())
            if path.name == "items.sqlite":  # its application_id says which folder it belongs to
                assert int.from_bytes(data[68:72]) == place_of(record.folder)
                data[68:72] = bytes(4)
        if record.fields:
            found[f"{number} fields"] = (folder / record.fields).read_bytes()
    return found


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of 500 rows, segments of 700."""
    monkeypatch.setattr(building, "ROWS", 500)
    monkeypatch.setattr(revising, "SEGMENT_ROWS", 700)


class Stop(BaseException):
    """Ends a build like Ctrl-C."""


@pytest.mark.usefixtures("numbers", "small_parts")
@pytest.mark.parametrize("dtype", ["float32", "int8", "binary"])
def test_an_interrupted_build_goes_on_and_gives_the_very_catalogue(own_home: Path, dtype: Any) -> None:
    """It is interrupted at five moments, one after the other."""
    whole = simrec.build("whole", "numbers:3000?", encoder="demo", dtype=dtype)
    told: list[str] = []
    for moment in (400, 1200, 1300, 2200, 2900):

        def progress(stage: str, done: int, total: int, moment: int = moment) -> None:
            if done >= moment:
                raise Stop

        told.clear()
        with pytest.raises(Stop):
            simrec.build("again", "numbers:3000?", encoder="demo", dtype=dtype, progress=progress, notice=told.append)
        assert "run the same command again to go on from there" in told[-1]
    told.clear()
    again = simrec.build("again", "numbers:3000?", encoder="demo", dtype=dtype, notice=told.append)
    assert told[0].startswith("Continuing an interrupted build: 2,")
    assert files(own_home / "whole") == files(own_home / "again")
    assert len(again.manifest.catalogue.segments) == 4  # type: ignore[union-attr]
    assert not (own_home / "again" / "building").exists()
    assert whole.similar("id:000501", 5) == again.similar("id:000501", 5)
    assert len(again.catalogue) == 3000 - 429
    assert "left out 429 pictures in all: 429 torn" in told[-1]
    assert len([line for line in told if line.startswith("left out numbers: torn (")]) == 20


@pytest.mark.usefixtures("numbers", "small_parts")
def test_what_changed_since_the_interruption_is_read_again(photos: Path, own_home: Path) -> None:
    """A picture after the first part changes, one within it stays."""
    for number, path in enumerate(sorted(photos.rglob("*.png"))):
        for copy in range(40):
            Image.open(path).point(lambda v, copy=copy: v * (100 - copy) // 100).save(
                photos / f"{number:02d}-{copy}.png"
            )

    def progress(stage: str, done: int, total: int) -> None:
        if done >= 1200:
            raise Stop

    with pytest.raises(Stop):
        simrec.build("mine", str(photos), encoder="demo", progress=progress)
    shutil.copy(photos / "39-1.png", photos / "20-0.png")
    (photos / "38-0.png").unlink()
    told: list[str] = []
    built = simrec.build("mine", str(photos), encoder="demo", notice=told.append)
    assert told[0].startswith("Continuing an interrupted build: 5")  # the first part alone
    simrec.build("whole", str(photos), encoder="demo")
    assert files(own_home / "whole") == files(own_home / "mine")
    assert built.catalogue.items(["38-0.png"]) == []


def test_an_interrupted_build_is_not_continued_by_another_version_of_its_plugin(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    plan = building.Plan("build", [("photos", None)], "0" * 64, ImageSpec(), 4, "l2", "float32", "mine 1.0")
    building.Building(tmp_path / "shop", plan).begin(discard=False)
    upgraded = building.Building(tmp_path / "shop", replace(plan, provider="mine 2.0"))
    with pytest.raises(StoreError, match="'simrec index build shop' of photos by mine 1.0 has finished"):
        upgraded.begin(discard=False)
    written = tmp_path / "shop" / "building" / "plan.json"
    older = {name: value for name, value in json.loads(written.read_text()).items() if name != "provider"}
    written.write_text(json.dumps(older))  # as an older simrec wrote it
    upgraded.begin(discard=False)


@pytest.mark.usefixtures("numbers", "small_parts")
def test_a_build_of_something_else_does_not_throw_away_what_was_finished(own_home: Path) -> None:
    def progress(stage: str, done: int, total: int) -> None:
        if done >= 1200:
            raise Stop

    with pytest.raises(Stop):
        simrec.build("mine", "numbers:3000", encoder="demo", progress=progress)
    with pytest.raises(
        StoreError, match="an interrupted 'simrec index build .*' of numbers:3000 has finished: .* --discard"
    ):
        simrec.build("mine", "numbers:2000", encoder="demo")
    assert len(simrec.build("mine", "numbers:600", encoder="demo", discard=True).catalogue) == 600


OFFERED = f"""
import sys, threading, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
import simrec, test_streams
from simrec import host
from simrec.catalogue import building, revising
real = host._discover
host._discover = lambda *given: test_streams.with_numbers(real(*given))
"""
"""The beginning of a script that has the source `numbers`."""

KILLED = f"""{OFFERED}
building.ROWS, revising.SEGMENT_ROWS = 500, 700
said = lambda *what: print(*what, flush=True)
simrec.build(sys.argv[1], "numbers:20000?", encoder="demo", notice=said, progress=said)
print("done", flush=True)
"""


def build_in_a_process(name: str, killed_after: int | None) -> list[str]:
    """Builds in a separate process, which is killed when it has printed that many lines; returns what it printed."""
    with subprocess.Popen([sys.executable, "-c", KILLED, name], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = list(itertools.islice(process.stdout, killed_after))
        if killed_after is not None:
            process.send_signal(signal.SIGKILL)
        return said + process.stdout.readlines()


@pytest.mark.long
@pytest.mark.usefixtures("numbers", "small_parts")
def test_a_build_that_is_killed_again_and_again_gives_the_very_catalogue(own_home: Path) -> None:
    """SIGKILL at eight random moments of a build, then it finishes; then the same over the existing catalogue."""
    rng = random.Random(0)
    for _ in range(2):
        steps = build_in_a_process("whole", None)
        assert steps[-1] == "done\n"
        for _ in range(8):  # each within a tenth of the build, so that not even all of them together finish it
            assert "done\n" not in build_in_a_process("mine", rng.randrange(len(steps) // 10))
        assert build_in_a_process("mine", None)[-1] == "done\n"
        assert files(own_home / "whole") == files(own_home / "mine")
        left = [path.name for path in (own_home / "mine").iterdir()]
        assert sorted(left) == ["CURRENT", "LOCK", "encoder", "fields", "generations", "segments"]


@pytest.mark.usefixtures("numbers")
def test_fields_come_back_with_the_answers() -> None:
    built = simrec.build("mine", "numbers:300", encoder="demo")
    for match in built.similar("id:000100", 3):
        assert match.fields == {"price": int(match.id) / 2}
        assert match.to_json()["fields"] == match.fields
        assert match.path is None


def test_a_list_s_other_columns_are_fields_of_one_kind(photos: Path) -> None:
    names = sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.png"))
    rows = [f"{name},{row},{row / 2},00{row},{'' if row else 'x'}" for row, name in enumerate(names)]
    (photos / "list.csv").write_text("path,stock,price,number,note\n" + "\n".join(rows))
    built = simrec.build("mine", str(photos / "list.csv"), encoder="demo")
    (item,) = built.catalogue.items([names[3]])
    assert item.fields == {"stock": 3, "price": 1.5, "number": "003", "note": None, "width": 28, "height": 28}
    match = built.similar(f"id:{names[3]}", 1)[0]
    assert match.path == photos / match.id


MEMORY = f"""{OFFERED}
def own():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon"))
def watch():
    while True:
        seen.append(own())
        time.sleep(0.02)
simrec.build("warm", "numbers:300", encoder="demo")
seen = [own()]
threading.Thread(target=watch, daemon=True).start()
simrec.build("mine", "numbers:200000", encoder="demo")
print(seen[0], max(seen))
"""


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="other systems don't say what memory is a process's own")
def test_a_stream_of_200_000_pictures_is_built_in_a_fraction_of_their_memory(own_home: Path) -> None:
    """Its pixels are 157 MB, its codes 51 MB, its previews 60 MB: only one segment's codes are in memory at once."""
    done = subprocess.run([sys.executable, "-c", MEMORY], check=True, capture_output=True, text=True)
    used, most = map(int, done.stdout.split())
    assert most - used < 240_000  # kB; mapped files are not counted, and 1,000,000 take as much
    assert len(simrec.open("mine").catalogue) == 200_000


# Folders.


def test_a_folder_with_pipes_loops_and_links_is_listed_without_hanging(photos: Path) -> None:
    expected = load(str(photos), ImageSpec(), notice=pytest.fail).ids
    os.mkfifo(photos / "Bag" / "pipe.png")
    (photos / "Bag" / "loop").symlink_to(photos)
    (photos / "again").symlink_to(photos / "Bag")
    (photos / "Bag" / "linked.png").symlink_to(next((photos / "Trouser").glob("*.png")))
    (photos / "Bag" / "nowhere.png").symlink_to(photos / "none.png")
    (photos / "itself.png").symlink_to("itself.png")
    (photos / "scan.CR2").touch()
    (photos / "drawing.svg").touch()
    (photos / "notes.txt").touch()
    told: list[str] = []
    found = load(str(photos), ImageSpec(), notice=told.append)
    assert set(found.ids) == {*expected, "Bag/linked.png"}
    assert list(found.ids) == sorted(found.ids, key=lambda id_: id_.split("/"))
    assert told == [
        f"{photos}: left out what simrec doesn't read: 1 .cr2, 1 .svg, 2 links to folders, 1 pipes or devices",
        f"left out {photos}/Bag/nowhere.png: cannot be read (No such file or directory): name a picture file",
        f"left out {photos}/itself.png: cannot be read (Too many levels of symbolic links): name a picture file",
    ]


def test_a_sub_folder_that_cannot_be_read_is_named_or_an_error_where_that_is_asked_for(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked, real = photos / "Bag", os.scandir

    def scandir(folder: Any) -> Any:
        if str(folder) == str(locked):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
        return real(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    told: list[str] = []
    unread = Unread(list=tmp_path / "unread.txt")
    built = simrec.build("mine", str(photos), encoder="demo", unread=unread, notice=told.append)
    assert len(built.catalogue) == 30
    error = f"{locked}: this folder cannot be read (Permission denied): allow yourself to read it"
    assert f"left out {error}" in told
    assert (tmp_path / "unread.txt").read_text() == f"{error}\n"
    with pytest.raises(ImageError, match="Bag: this folder cannot be read"):
        simrec.build("strict", str(photos), encoder="demo", unread=Unread(strict=True))
    source = open_source(str(photos), notice=pytest.fail)
    assert len(list(source.entries())) == 31
    assert source.unlisted == [str(locked)]
    monkeypatch.undo()
    assert len(list(source.entries())) == 40
    assert source.unlisted == []


def test_many_unreadable_pictures_are_summed_up_and_listed_where_that_is_asked_for(
    photos: Path, tmp_path: Path
) -> None:
    for number in range(30):
        (photos / f"broken-{number:02d}.png").write_bytes(b"no picture" if number % 3 else b"")
    told: list[str] = []
    built = simrec.build(
        "mine", str(photos), encoder="demo", unread=Unread(list=tmp_path / "unread.txt"), notice=told.append
    )
    assert len(built.catalogue) == 40
    assert len(told) == 21
    assert told[-1] == "left out 30 pictures in all: 20 not a picture, 10 the file is empty"
    assert len((tmp_path / "unread.txt").read_text().splitlines()) == 30
    with pytest.raises(ImageError, match=r"broken-00\.png: the file is empty"):
        simrec.build("strict", str(photos), encoder="demo", unread=Unread(strict=True))


def test_a_file_for_unreadable_pictures_that_cannot_be_written_is_an_error_before_anything_is_read(
    photos: Path, tmp_path: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Folder, "read", lambda *_: pytest.fail("a picture was read"))
    for file, why in ((tmp_path / "nowhere" / "list.txt", "No such file or directory"), (photos, "irectory")):
        status, _, err = ran("index", "build", "mine", photos, "--encoder", "demo", "--unread", file)
        assert status > 0 and str(file) in err and why in err
    with pytest.raises(StoreError, match=r"nowhere/list\.txt: cannot be written \(No such file or directory\): name"):
        Unread(list=tmp_path / "nowhere" / "list.txt")
    (tmp_path / "list.txt").write_text("old")
    Unread(list=tmp_path / "list.txt")
    Unread(list=tmp_path / "new.txt")
    assert (tmp_path / "list.txt").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix or path.name[0] == ".") == ["list.txt"]


def test_a_picture_that_vanishes_between_listing_and_reading_is_named(photos: Path) -> None:
    source = open_source(str(photos), notice=pytest.fail)
    entries = list(source.entries())
    Path(entries[3].source).unlink()
    batch = source.read(entries, ImageSpec())
    assert [entry.id for entry, _ in batch.errors] == [entries[3].id]
    assert "No such file" in str(batch.errors[0][1])
    assert len(batch.images) == len(batch.previews) == len(batch.contents) == 39


@pytest.mark.usefixtures("numbers")
def test_an_id_that_is_listed_twice_is_named_and_the_old_catalogue_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    simrec.build("mine", "numbers:300", encoder="demo")
    real = Numbers.entries
    monkeypatch.setattr(Numbers, "entries", lambda self: itertools.chain(real(self), [Entry("000007", "numbers")]))
    with pytest.raises(DataError, match="numbers:400: the id '000007' is there more than once"):
        simrec.build("mine", "numbers:400", replace=True)
    assert len(simrec.open("mine").catalogue) == 300


# Several processes.


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Iterator[reading._Processes]:
    """Other processes decode all files, from the first one on."""
    made = reading._Processes()
    monkeypatch.setattr(reading, "ALONE", -1)
    monkeypatch.setattr(reading, "_processes", lambda process: made)
    yield made
    made.end()


@pytest.mark.parametrize("spec", [ImageSpec(), ImageSpec(version=1), ImageSpec(24, 3, "photo")], ids=str)
def test_other_processes_read_what_this_one_reads(
    photos: Path, spec: ImageSpec, processes: reading._Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (600, 800), "navy").save(photos / "large.jpg")
    (photos / "broken.png").write_bytes(b"no picture")
    shutil.copy(photos / "large.jpg", photos / os.fsdecode(b"caf\xe9.jpg" if sys.platform == "linux" else b"cafe.jpg"))
    source = open_source(str(photos), notice=pytest.fail)
    entries = list(source.entries())
    batch = source.read(entries, spec)
    assert processes._idle.qsize() > 0
    monkeypatch.setattr(reading, "ALONE", 10**9)
    alone = source.read(entries, spec)
    assert np.array_equal(batch.images, alone.images)
    assert (batch.entries, batch.previews, batch.contents) == (alone.entries, alone.previews, alone.contents)
    assert [(entry, str(error)) for entry, error in batch.errors] == [(e, str(error)) for e, error in alone.errors]
    assert len(batch.errors) == 1


@pytest.mark.usefixtures("processes")
def test_a_picture_that_crashes_its_decoder_costs_that_picture(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deadly = (
        "import os; from simrec import images, reading; real = images.read_with_preview\n"
        "def read(path, spec): return os._exit(11) if path.name == 'deadly.png' else real(path, spec)\n"
        "images.read_with_preview = read; reading.serve()"
    )
    monkeypatch.setattr(reading, "COMMAND", [sys.executable, "-P", "-c", deadly])
    shutil.copy(next(photos.rglob("*.png")), photos / "deadly.png")
    told: list[str] = []
    assert len(load(str(photos), ImageSpec(), notice=told.append)) == 40
    assert told == [f"left out {photos}/deadly.png: its decoder crashes: save it again"]


@pytest.mark.usefixtures("processes")
@pytest.mark.parametrize("command", [["/nowhere/python"], [sys.executable, "-c", "raise SystemExit"]])
def test_if_no_process_can_be_started_this_one_reads(
    photos: Path, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "COMMAND", command)
    assert len(load(str(photos), ImageSpec(), notice=pytest.fail)) == 40


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_pictures_are_read_after_a_fork_by_other_processes_than_the_parent_s(photos: Path) -> None:
    script = f"""
import os, pathlib
from simrec import reading
from simrec.contracts import Entry, ImageSpec
reading.ALONE = -1
paths = sorted(pathlib.Path({str(photos)!r}).rglob("*.png"))
entries = [Entry(str(path), str(path)) for path in paths]
def contents():
    return reading.read_files(entries, paths, ImageSpec()).contents
expected = contents()
started = reading._started
for _ in range(2):
    child = os.fork()
    if not child:
        count = []
        reading._started = lambda: count.append(1) or started()
        same = contents() == expected and reading.digests(paths) == expected
        reading._end()
        os._exit(not (same and (count or not reading._processes(os.getpid())._possible)))
    assert contents() == expected
    assert os.waitpid(child, 0)[1] == 0
assert contents() == expected
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_idle_process_ends(photos: Path, processes: reading._Processes, monkeypatch: Any) -> None:
    quick = "from simrec import reading; reading.IDLE = 0.1; reading.serve()"
    monkeypatch.setattr(reading, "COMMAND", [sys.executable, "-P", "-c", quick])
    paths = sorted(photos.rglob("*.png"))
    for _ in range(2):
        assert all(isinstance(read, Read) for read in reading._read(paths, ImageSpec()))
        process = processes._idle.get_nowait()
        assert process.wait(20) == 0
        processes._idle.put(process)


# Training.


@pytest.mark.usefixtures("numbers")
def test_what_fits_into_memory_is_drawn_evenly() -> None:
    read: list[tuple[int, int]] = []
    drawn = collected(
        open_source("numbers:3000", notice=pytest.fail), ImageSpec(), notice=pytest.fail, memory=784 * 100,
        progress=lambda done, total: read.append((done, total)),
    )  # fmt: skip
    assert (len(drawn), drawn.total) == (100, 3000)
    assert {int(b) - int(a) for a, b in itertools.pairwise(drawn.ids)} == {30}
    assert read[-1] == (100, 100)


@pytest.mark.usefixtures("numbers")
def test_training_says_how_many_of_how_many_it_learns_from() -> None:
    told: list[str] = []
    plan = simrec.Plan("pca", changes={"dim": "4"}, memory=784 * 100)
    made, _ = simrec.train(plan, source="numbers:3000", watch=Watch(notice=told.append))
    assert "Learning from 100 of the 3,000 pictures, drawn evenly" in told[0]
    assert made.manifest.encoder.trained_on.count == 90


def test_a_missing_device_is_an_error_before_anything_is_read(photos: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has one")
    with pytest.raises(RequestError, match="torch finds no cuda on this machine"):
        simrec.train(simrec.Plan("plain", device="cuda"), source="numbers:nothing that could be read")


# Threads.


def test_eight_threads_share_a_recommender_and_one_refreshes_it(photos: Path) -> None:
    """While it is built again and again, every answer is from one generation: 40 items, or 30."""
    simrec.build("mine", str(photos), encoder="demo")
    opened = simrec.open("mine")
    picture = next((photos / "Trouser").glob("*.png"))
    ending, wrong = threading.Event(), list[str]()

    def ask() -> int:
        count = 0
        while not ending.is_set():
            found = len(opened.similar(picture, 100))
            if found not in (39, 29):
                wrong.append(f"{found} answers")
            count += 1
        return count

    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ask) for _ in range(8)]
        try:
            for step in range(3):
                here, there = (photos, photos.parent) if step % 2 == 0 else (photos.parent, photos)
                shutil.move(here / "Bag", there / "Bag")
                simrec.build("mine", str(photos))
                assert opened.refresh()
                assert not opened.refresh()
        finally:
            ending.set()
        assert all(future.result() > 0 for future in asked)
    assert wrong == []
    assert len(opened.catalogue) == 30


def test_a_thread_per_core_takes_its_turn_and_a_lost_turn_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "CORES", 2)
    turns, inside, most = streams._Turns(), list[int](), 0

    def work(number: int) -> None:
        nonlocal most
        with turns:
            inside.append(number)
            most = max(most, len(inside))
            time.sleep(0.01)
            inside.remove(number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(40)))
    assert most == 2
    assert turns._free.qsize() == 2
    turns.__enter__(), turns.__enter__()  # as if Ctrl-C had lost both
    monkeypatch.setattr(streams, "PATIENCE", 0.05)
    work(0)
    assert turns._free.qsize() == 1  # the turn that came back
    with ThreadPoolExecutor(8) as pool:  # which have waited too long
        for begun in [pool.submit(turns.__enter__) for _ in range(8)]:
            begun.result(60)
    for _ in range(8):
        turns.__exit__()
    assert turns._free.qsize() == 2


@pytest.mark.parametrize(
    ("wishes", "taken"),
    [
        ({}, 1),
        ({"min_score": 0.1}, 1),
        ({"where": "label = 'Bag'"}, 0),
        ({"distinct": True}, 0),
        ({"group_by": "id"}, 0),
    ],
)
def test_only_quick_look_ups_take_turns(
    demo: Recommender, monkeypatch: pytest.MonkeyPatch, wishes: dict[str, Any], taken: int
) -> None:
    turns = []
    monkeypatch.setattr("simrec.recommender.turns", lambda: turns.append(1) or streams.turns())
    demo.similar(np.full((28, 28), 99, np.uint8), **wishes)
    assert len(turns) == taken


def test_a_query_that_is_read_slowly_takes_no_turn(demo: Recommender) -> None:
    class Slow(io.BytesIO):
        """A picture's file that others must overtake."""

        def read(self, size: int | None = -1, /) -> bytes:
            assert overtaken.wait(60)
            return super().read(size)

    overtaken, picture = threading.Event(), np.full((28, 28), 99, np.uint8)
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    with ThreadPoolExecutor(streams.CORES + 2) as pool:
        slow = [pool.submit(demo.similar, Slow(file.getvalue())) for _ in range(streams.CORES + 1)]
        begun = time.monotonic()
        expected = demo.similar(picture)
        assert time.monotonic() - begun < streams.PATIENCE
        overtaken.set()
        assert all([match.id for match in one.result()] == [match.id for match in expected] for one in slow)
