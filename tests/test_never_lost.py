"""Whatever ends a change to a catalogue, the old or the new one answers: complete, and never a mix of the two."""

from __future__ import annotations

import csv
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import crashes
import pytest

import simrec
from simrec import store
from simrec.cli import main
from simrec.errors import StoreError
from simrec.recommender import Recommender
from simrec.verbs import index

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="a system without fork"),
    pytest.mark.skipif(sys.platform == "darwin", reason="its libraries start threads that a fork would lose"),
]

SEED = int(os.environ.get("SEED") or secrets.randbits(32))
LONG, SLOW = pytest.mark.long, pytest.mark.slow

WRITING = ["build", "sync", "merge", "add", "remove", "delete", "rename"]
OTHERS = ["build from scratch", "rollback"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a catalogue to be changed: see `crashes.prepare`."""
    made = tmp_path_factory.mktemp("root")
    crashes.prepare(made)
    return made


def rounds(root: Path, work: str, jobs: list[tuple[str, list[int]]]) -> dict[str, list[str]]:
    """The outcomes of the rounds with each change, by name; two processes work on them."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")

    def run(job: tuple[str, list[int]]) -> list[str]:
        name, numbers = job
        command = [sys.executable, crashes.__file__, work, str(root), name, *map(str, numbers)]
        done = subprocess.run(command, env={**os.environ, **threads}, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"SEED={SEED} {job}: {done.stderr[-3000:]}"
        found: list[str] = json.loads(done.stdout.splitlines()[-1])
        return found

    with ThreadPoolExecutor(2) as pool:
        return dict(zip((name for name, _ in jobs), pool.map(run, jobs), strict=True))


def check(seen: dict[str, list[str]], good: set[str]) -> None:
    """Prints the outcomes by kind of change; all should be good."""
    print()
    for name, outcomes in seen.items():
        print(f"{name:20}" + "".join(f"{count:6} {outcome:.60}" for outcome, count in Counter(outcomes).items()))
    wrong = [f"{name}: {what}" for name, outcomes in seen.items() for what in outcomes if what not in good]
    assert not wrong, "\n".join([f"{len(wrong)} wrong, repeat with SEED={SEED}", *wrong])


@pytest.mark.parametrize(
    "names", [pytest.param(WRITING, marks=LONG, id="writing"), pytest.param(OTHERS, marks=SLOW, id="others")]
)
def test_a_change_that_is_killed_at_any_step_happens_or_not_and_the_next_one_works(
    root: Path, names: list[str]
) -> None:
    seen = rounds(root, "killed_at_every_step", [(name, []) for name in names])
    check(seen, {"old", "new"})
    for outcomes in seen.values():  # first always the old state, then always the new one
        assert outcomes == sorted(outcomes, reverse=True)
        assert outcomes[-1] == "new"


@pytest.mark.parametrize("times", [pytest.param(20, marks=LONG), pytest.param(400, marks=SLOW)])
def test_a_change_that_is_killed_at_random_happens_or_not_and_the_next_one_works(root: Path, times: int) -> None:
    check(rounds(root, "killed_at_random", [(name, [times, SEED]) for name in WRITING[:5]]), {"old", "new"})


@pytest.mark.parametrize("times", [pytest.param(23, marks=LONG), pytest.param(400, marks=SLOW)])
def test_power_that_fails_leaves_the_old_state_or_the_new_one_whatever_the_disk_has_not_kept(
    root: Path, times: int
) -> None:
    """200 losses of any part of what no fsync has made safe."""
    check(rounds(root, "replayed", [(name, [times, SEED]) for name in [*WRITING, *OTHERS]]), {"old", "new"})


@pytest.mark.parametrize("times", [pytest.param(5, marks=LONG), pytest.param(100, marks=SLOW)])
def test_a_full_disk_is_one_line_and_leaves_nothing_behind(root: Path, times: int) -> None:
    """With 20 amounts of room, from none at all to nearly enough."""
    check(rounds(root, "full", [(name, [times]) for name in crashes.WORDS]), {"good"})


# Many at once.


READER = """
import sys
from pathlib import Path
import simrec, test_never_lost
home, photo = Path(sys.argv[1]), sys.argv[2]
opened = simrec.open("mine", home_folder=home)
print("ready", flush=True)
count, wrong, ended = 0, "", False
import threading
def wait():
    global ended
    sys.stdin.read()
    ended = True
threading.Thread(target=wait, daemon=True).start()
while not wrong and not ended:
    opened.refresh() if count % 3 else None
    opened = simrec.open("mine", home_folder=home) if count % 7 == 0 else opened
    wrong = test_never_lost.mixed(opened, photo)
    count += 1
print(wrong or f"good {count}", flush=True)
"""
"""A process that looks up until its standard input ends."""

ITEMS = 30


def write_list(place: Path, generation: int) -> None:
    """A list whose items all say which generation they are from; each generation loses one and gains one."""
    with (place / "new.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "generation"])
        rows.writerows([f"photos/{number:03d}.png", generation] for number in range(generation, generation + ITEMS))
    (place / "new.csv").replace(place / "list.csv")


def mixed(opened: Recommender, photo: str) -> str:
    """What in a recommender's answers isn't from one generation, "" for nothing."""
    catalogue = opened.catalogue  # of one generation, while another thread refreshes
    items = list(catalogue.all())
    for answer in (items, [match.item for match in opened.similar(photo, 100)]):
        ids = [item.id for item in answer]
        generations = {item.fields["generation"] for item in answer}
        right = {
            f"photos/{number:03d}.png" for first in generations for number in range(int(first), int(first) + ITEMS)
        }
        if len(generations) != 1 or len(ids) != ITEMS or set(ids) != right:
            return f"not of one generation: {generations}, {sorted(set(ids) ^ right)}"
    for item in items[::7]:
        shown = catalogue.picture(item.id)
        if shown is None or shown.tobytes() != crashes.picture(int(item.id[-7:-4])).tobytes():
            return f"the preview of {item.id} is another's"
    return ""


@contextmanager
def readers(count: int, home: Path, photo: Path) -> Iterator[list[str]]:
    """Runs so many processes that look up during the block; afterwards, what each of them says."""
    said: list[str] = []
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", READER, str(home), str(photo)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        )
        for _ in range(count)
    ]  # fmt: skip
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        yield said
        said += [" ".join(process.communicate("", timeout=60)) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()


@pytest.mark.parametrize("times", [pytest.param(20, marks=LONG), pytest.param(300, marks=SLOW)])
def test_four_processes_and_eight_threads_look_up_while_syncs_go_by(
    tmp_path: Path, root: Path, own_home: Path, times: int
) -> None:
    """Each answer is from one generation: its items, all with that generation's fields."""
    crashes.save(tmp_path / "photos", *range(ITEMS + times + 1))
    photo = tmp_path / "asked.png"
    crashes.picture(999).save(photo)
    write_list(tmp_path, 0)
    crashes.copied(root, own_home)
    simrec.build("mine", str(tmp_path / "list.csv"), encoder="tiny", replace=True)
    opened, ending, wrong = simrec.open("mine"), threading.Event(), list[str]()

    def ask(number: int) -> int:
        count = 0
        while not ending.is_set() and not wrong:
            if number == 0:
                opened.refresh()
            if what := mixed(opened, str(photo)):
                wrong.append(what)
            count += 1
        return count

    with readers(4, own_home, photo) as said, ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ask, number) for number in range(8)]
        try:
            for generation in range(1, times + 1):
                write_list(tmp_path, generation)
                outcome = index.sync("mine")
                assert (outcome.added, outcome.removed, outcome.items) == (1, 1, ITEMS)
        finally:
            ending.set()
        counts = [future.result() for future in asked]
    assert not wrong, wrong[0]
    assert min(counts) > 0
    assert len(said) == 4
    for words in said:
        assert re.fullmatch(r"good \d+\s*", words), words


HOLDER = """
import sys
from pathlib import Path
from simrec import store
with store.Writer(Path(sys.argv[1])):
    print("ready", flush=True)
    sys.stdin.read()
"""
"""A process that holds the lock until its standard input ends."""


@contextmanager
def holder(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that writes a recommender."""
    command = [sys.executable, "-c", HOLDER, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def test_a_second_writer_learns_at_once_which_process_has_the_lock(
    root: Path, own_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    crashes.copied(root, own_home)
    for words in (["sync", "mine"], ["remove", "mine", "005.png"], ["rollback", "mine"], ["delete", "mine", "--yes"],
                  ["rename", "mine", "yours"], ["build", "mine", "--from-scratch"]):  # fmt: skip
        with holder(own_home / "mine") as process, pytest.raises(SystemExit) as end:
            main(["--quiet", "index", *words])
        assert end.value.code == 1
        assert capsys.readouterr().err == (
            f"Error: {own_home / 'mine'}: another simrec is writing it (process {process.pid} on this computer): "
            f"wait until that one is done\n"
        )


def test_the_lock_of_a_dead_process_is_free_and_its_leftovers_are_deleted(root: Path, own_home: Path) -> None:
    crashes.copied(root, own_home)
    with holder(own_home / "mine") as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert list((own_home / "mine").glob("staging-*"))
        assert index.sync("mine", yes=True).added
    assert not list((own_home / "mine").glob("staging-*"))


@pytest.mark.parametrize(
    "said", [b"", b"no number", b"\x1b[31m1 host", b"1 host\nmore", bytes(2000), b"9" * 30 + b" a"]
)
def test_a_lock_with_odd_contents_is_still_a_lock(root: Path, own_home: Path, said: bytes) -> None:
    crashes.copied(root, own_home)
    with store.Writer(own_home / "mine"):
        (own_home / "mine" / "LOCK").write_bytes(said)
        with (
            pytest.raises(StoreError, match="another simrec is writing it: wait"),
            store.Writer(own_home / "mine"),
        ):
            pass


def test_a_lock_that_is_a_hard_link_to_another_file_is_not_written(root: Path, own_home: Path) -> None:
    crashes.copied(root, own_home)
    (own_home / "letter").write_bytes(b"")
    (own_home / "mine" / "LOCK").hardlink_to(own_home / "letter")
    with store.Writer(own_home / "mine"):
        assert (own_home / "letter").read_bytes() == b""
