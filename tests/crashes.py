"""Records what a change to a catalogue writes, and tests what a crash leaves of it.

A change runs in a forked child, which dies at one of its steps, or whose steps are recorded. A disk surely keeps the
steps that an fsync followed, and may lose any others (after ALICE, Pillai et al. 2014, and CrashMonkey, Mohan et al.
2018). This runs in its own process, because a process that forks must have no threads.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import io
import itertools
import json
import os
import pickle
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image

import simrec
from simrec import host, manifest, store
from simrec.catalogue import revising
from simrec.cli import main as main_of_simrec
from simrec.contracts import Dtype
from simrec.home import ROOTS
from simrec.recommender import Recommender
from simrec.verbs import generations
from simrec.verbs import index as verbs
from simrec.verbs.encoding import Context

SEGMENTS = 3
"""Maximum segments, instead of eight: one more makes the writer merge."""


# A catalogue to be changed.


def picture(number: int) -> Image.Image:
    """A grey picture with a number coded in its corner."""
    pixels = np.full((28, 28), number % 251, np.uint8)
    pixels[0, :8] = number >> np.arange(0, 24, 3) & 7
    return Image.fromarray(pixels)


def save(folder: Path, *numbers: int) -> None:
    """Writes pictures of those numbers, with the numbers as file names."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        picture(number).save(folder / f"{number:03d}.png")


def prepare(root: Path, dtype: Dtype = "float32") -> None:
    """Makes a home with an encoder, `tiny`, and a catalogue, `mine`, of three segments, two of them with a removed row;
    then the folder of its photos changes. `more` is another source.
    """
    home, photos = root / "home", root / "photos"
    save(photos, *range(12))
    save(root / "more", *range(100, 104))
    context = Context(home=home)
    simrec.train(simrec.Plan("pca", changes={"dim": "8"}), source=str(photos), name="tiny", home_folder=home)
    simrec.build("mine", str(photos), encoder="tiny", dtype=dtype, home_folder=home)
    for number in (20, 30):
        save(photos, *range(number, number + 6))
        verbs.sync("mine", context=context)
    verbs.remove("mine", ["003.png", "021.png"], context=context)
    save(photos, 40, 41)  # added; the two that were removed come again
    picture(50).save(photos / "001.png")  # changed
    (photos / "002.png").unlink()  # removed
    (photos / "004.png").rename(photos / "renamed.png")
    shutil.copy(photos / "005.png", photos / "copied.png")
    os.utime(photos / "006.png", (1e9, 1e9))  # touched, so that its field `modified` changes


def copied(root: Path, home: Path) -> Path:
    """A copy of that home with hard links to its files: nothing writes into them, except into LOCK."""
    shutil.copytree(root / "home", home, copy_function=os.link, ignore=shutil.ignore_patterns("LOCK"))
    return home


@dataclass(frozen=True)
class Change:
    """A change to `mine` in a home. again: repeats it on the generation that it has made, with the same result."""

    make: Callable[[Path, Path], object]
    again: Callable[[Path, Path], object] | None = None


def _sync(root: Path, home: Path) -> object:
    return verbs.sync("mine", yes=True, context=Context(home=home))


def _add(root: Path, home: Path) -> object:
    return verbs.add("mine", str(root / "more"), context=Context(home=home))


def _build(root: Path, home: Path) -> object:
    return simrec.build("new", str(root / "photos"), encoder="tiny", home_folder=home)


CHANGES: dict[str, Change] = {
    "build": Change(_build, _build),
    "build from scratch": Change(
        lambda root, home: simrec.build("mine", from_scratch=True, dtype="int8", home_folder=home)
    ),
    "sync": Change(_sync, _sync),
    "add": Change(_add, lambda root, home: verbs.sync("mine", str(root / "more"), context=Context(home=home))),
    "merge": Change(_add, lambda root, home: verbs.sync("mine", str(root / "more"), context=Context(home=home))),
    "remove": Change(lambda root, home: verbs.remove("mine", ["007.png", "025.png"], context=Context(home=home))),
    "rollback": Change(lambda root, home: generations.rollback("mine", 2, home_folder=home)),
    "rename": Change(lambda root, home: generations.rename("mine", "new", home_folder=home)),
    "delete": Change(lambda root, home: generations.delete("mine", home_folder=home)),
}


def answers(home: Path) -> dict[str, Any]:
    """All that the recommenders in a home say, except when they were made."""
    return {name: _answers(home / name) for name in ("mine", "new") if store.exists(home / name)}


def _answers(folder: Path) -> dict[str, Any]:
    opened = Recommender(folder)
    catalogue = opened.catalogue
    items = list(catalogue.all())
    found = {
        item.id: [item.source, item.label, item.stamp, item.content, item.origin, dict(item.fields),
                  hashlib.sha256(catalogue.preview(item.id) or b"").hexdigest(),
                  np.round(catalogue.code(item.id), 4).tolist()]  # type: ignore[arg-type]
        for item in items
    }  # fmt: skip
    asked = {id_: [(match.id, round(match.distance, 4)) for match in opened.similar(f"id:{id_}", 4)]
             for id_ in sorted(found)[::5]}  # fmt: skip
    return {"count": len(catalogue), "items": found, "asked": asked, "sources": catalogue_sources(opened)}


def catalogue_sources(opened: Recommender) -> list[str]:
    assert opened.manifest.catalogue is not None
    return [source.name for source in opened.manifest.catalogue.sources]


def left_behind(home: Path) -> list[str]:
    """The files in the home's recommenders that belong to no kept generation."""
    known = {"CURRENT", "LOCK", *store.POOL}
    # Nobody has a lock on the home, so what another process may be writing of its roots, a few bytes, is left alone.
    found = [path.name for path in home.iterdir() if not path.name.startswith((ROOTS, f".{ROOTS}"))]
    found = [name for name in found if name not in ("tiny", "mine", "new")]
    for folder in (home / "mine", home / "new"):
        if not folder.exists():
            continue
        named = {name for one in store.kept(folder) for name in one.manifest.files}
        named |= {f"generations/{one.name}.json" for one in store.kept(folder)}
        inside = [path.relative_to(folder).as_posix() for path in folder.rglob("*")]
        found += [name for name in inside if "/" not in name and name not in known]
        found += [name for name in inside if "/" in name and (folder / name).is_file() and name not in named]
        found += [name for name in inside if (folder / name).is_dir() and not any((folder / name).iterdir())]
    return found


# Children.


def forked(work: Callable[[], object]) -> tuple[int, Any]:
    """Runs work in a child process; returns how it ended (0, or a signal's negative number) and the work's result."""
    receiving, sending = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(receiving)
            result = work()
            with os.fdopen(sending, "wb") as file:
                pickle.dump(result, file)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(sending)
    with os.fdopen(receiving, "rb") as file:
        data = file.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return status, pickle.loads(data) if data and status == 0 else None


def done(work: Callable[[], Any]) -> Any:
    """Runs work in a child process, which must end well; returns the work's result."""
    status, result = forked(work)
    assert status == 0, "a child that failed: see above"
    return result


def only(name: str) -> None:
    """Prepares this child process for a change of that name."""
    if name == "merge":
        revising.SEGMENTS = SEGMENTS


STEPS = ("mkdir", "rename", "replace", "unlink", "remove", "rmdir", "link", "fsync", "open")


Told = Callable[[str, tuple[Any, ...], dict[str, Any]], object]
"""Called with a system call's name and its arguments."""


@contextlib.contextmanager
def steps(before: Told, after: Told = lambda *_: None) -> Iterator[None]:
    """Calls `before` before each system call that changes files, and `after` after it unless it failed."""
    real = {name: getattr(os, name) for name in STEPS}
    opened = io.open

    def hooked(name: str) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            if name == "open" and not args[1] & (os.O_WRONLY | os.O_RDWR):
                return real[name](*args, **options)
            before(name, args, options)
            result = real[name](*args, **options)
            after(name, args, options)
            return result

        return call

    def opening(file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
        if set(mode) & set("wxa+"):
            before("open", (file,), {})
        return opened(file, mode, *args, **options)

    for name in STEPS:
        setattr(os, name, hooked(name))
    io.open = opening
    try:
        yield
    finally:
        for name, call in real.items():
            setattr(os, name, call)
        io.open = opened


# Death.


def expected(root: Path, name: str) -> tuple[Any, Any]:
    """What a home answers before a change and after it."""

    def after() -> Any:
        only(name)
        CHANGES[name].make(root, home)
        return answers(home)

    home = copied(root, root / f"expected {name}")
    right = done(lambda: answers(home)), done(after)
    shutil.rmtree(home)
    return right


def checked(root: Path, name: str, home: Path, right: tuple[Any, Any]) -> str:
    """Whether a home answers as before a change ("old") or as after it ("new"), and then still works; otherwise what is
    wrong.
    """

    def look() -> str:
        only(name)
        before, after = right
        found = answers(home)
        if found not in (before, after):
            return f"a mix: {json.dumps(found)[:2000]}"
        seen = "old" if found == before else "new"
        change = CHANGES[name]
        if seen == "old":
            change.make(root, home)
        elif change.again:
            change.again(root, home)
        if (seen == "old" or change.again) and answers(home) != after:
            return f"{seen}, and then not what a change makes"
        with store.Writer(home / "tiny"):  # the next change in this home
            pass
        for place in (home / "mine", home / "new"):
            if store.exists(place):
                with store.Writer(place):
                    pass
                if problems := generations.verify(str(place), home_folder=home).problems:
                    return f"{seen}, and then damaged: {problems}"
        if left := left_behind(home):
            return f"{seen}, and leaves {left} behind"
        return seen

    try:
        return str(done(look))
    finally:
        shutil.rmtree(home)


def dead_at(root: Path, name: str, home: Path, last: int) -> bool:
    """Kills a change before a step; returns whether it had that many steps."""
    calls = itertools.count()

    def before(step: str, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        if step != "fsync" and next(calls) == last:  # a dying process loses nothing that it has written
            os.kill(os.getpid(), signal.SIGKILL)

    def change() -> None:
        only(name)
        with steps(before):
            CHANGES[name].make(root, home)

    return forked(change)[0] == -signal.SIGKILL


def killed_at_every_step(root: Path, name: str) -> list[str]:
    """Kills a change before its first step, its second, ..., and after its last; returns the outcomes."""
    right, seen = expected(root, name), []
    for step in itertools.count():
        home = copied(root, root / f"{name} {step}")
        died = dead_at(root, name, home, step)
        seen.append(checked(root, name, home, right))
        if not died:
            return seen
    return seen


def killed_at_random(root: Path, name: str, times: int, seed: int) -> list[str]:
    """Kills a change at random moments, after measuring how long it takes; returns the outcomes."""
    right, seen, random = expected(root, name), [], Random(seed)
    moment = 0.0
    for number in range(times + 1):
        home = copied(root, root / f"{name} at random {number}")
        begun = time.monotonic()
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                only(name)
                CHANGES[name].make(root, home)
            os._exit(0)
        if number:
            time.sleep(random.uniform(0, moment))
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        moment = moment or time.monotonic() - begun
        seen.append(checked(root, name, home, right))
    return seen


# Loss.


@dataclass
class Step:
    """What one call changed: names added to or removed from folders (by number), and files whose contents were synced.

    sizes: the files' sizes at that moment.
    """

    names: list[tuple[int, str, int | None]] = field(default_factory=list)
    synced: int | None = None
    sizes: dict[int, int] = field(default_factory=dict)


class Recorder:
    """Records what happens below a folder. Files and folders go by their inodes and are held open, so that no number is
    used twice.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.held: dict[int, int] = {}
        self.names: dict[int, dict[str, int]] = {}
        self.steps: list[Step] = []
        self.number = self._hold(root)
        self._look()
        self.first = {number: dict(names) for number, names in self.names.items()}
        self.durable = self._sizes()

    def _hold(self, path: Path) -> int:
        number = path.lstat().st_ino
        if number not in self.held:
            self.held[number] = _OPEN(path, os.O_RDONLY)
        return number

    def _look(self) -> list[tuple[int, str, int]]:
        """Finds new names since the last look: SQLite and Arrow make files without calling Python."""
        new = []
        for folder, folders, names in os.walk(self.root):
            number = self._hold(Path(folder))
            known = self.names.setdefault(number, {})
            for name in [*folders, *names]:
                found = self._hold(Path(folder, name))
                if known.get(name) != found:
                    known[name] = found
                    new.append((number, name, found))
        return new

    def _sizes(self) -> dict[int, int]:
        return {number: os.fstat(handle).st_size for number, handle in self.held.items()}

    def look(self, *_: object) -> None:
        """Records new names, each by itself: a disk may keep one and lose another."""
        self.steps += [Step([one], None, self._sizes()) for one in self._look()]

    def after(self, call: str, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        """Records a call; call `look` first."""
        step = Step(sizes=self._sizes())
        if call == "fsync":
            step.synced = os.fstat(args[0]).st_ino
        elif call in ("unlink", "remove", "rmdir"):
            step.names.append(self._removed(self._place(args[0], options.get("dir_fd"))))
        elif call in ("rename", "replace"):
            here, there = self._place(args[0], options.get("src_dir_fd")), self._place(args[1], None)
            number = self.names[here[0]][here[1]]
            step.names += [(*there, number), self._removed(here)]
            self.names.setdefault(there[0], {})[there[1]] = number
        else:  # `look` finds new names
            return
        self.steps.append(step)

    def _place(self, path: Any, folder: int | None) -> tuple[int, str]:
        name = os.fspath(path)
        parent = os.fstat(folder) if folder is not None else os.stat(os.path.dirname(name) or ".")  # noqa: PTH116, PTH120
        return parent.st_ino, os.path.basename(name)  # noqa: PTH119

    def _removed(self, place: tuple[int, str]) -> tuple[int, str, None]:
        self.names.get(place[0], {}).pop(place[1], None)
        return (*place, None)

    def end(self) -> Recorded:
        """The recorded change."""
        self.look()
        contents = {
            number: os.pread(handle, os.fstat(handle).st_size, 0)
            for number, handle in self.held.items() if number not in self.names
        }  # fmt: skip
        return Recorded(self.number, self.first, self.durable, self.steps, contents)


_OPEN = os.open


@dataclass
class Recorded:
    """A recorded change. root: the folder's number; first: the names in each folder before; durable: the
    bytes of each file before; contents: of each file at the end.
    """

    root: int
    first: dict[int, dict[str, int]]
    durable: dict[int, int]
    steps: list[Step]
    contents: dict[int, bytes]

    def after_a_crash(self, crash: int, random: Random, place: Path) -> None:
        """Writes what may be left if the power fails before a step.

        A change of names is safe after an fsync of one of its folders, and a file's contents are safe after an fsync of
        the file; a name may be lost and its contents kept, or the other way round.
        """
        happened = self.steps[:crash]
        sizes = happened[-1].sizes if happened else self.durable
        names = {number: dict(inside) for number, inside in self.first.items()}
        durable = dict(self.durable)
        last = {step.synced: at for at, step in enumerate(happened) if step.synced is not None}
        keep = random.choice([0.0, 0.1, 0.5, 0.9, 1.0])
        for at, step in enumerate(happened):
            if step.synced is not None:
                durable[step.synced] = step.sizes.get(step.synced, 0)
            # Of a rename either of the folders will do: journals keep both halves or none.
            sure = any(last.get(folder, -1) > at for folder, _, _ in step.names)
            if sure or random.random() < keep:
                for folder, name, number in step.names:
                    inside = names.setdefault(folder, {})
                    if number is None:
                        inside.pop(name, None)
                    else:
                        inside[name] = number
        self._write(self.root, names, durable, sizes, random, place)

    def _write(
        self, folder: int, names: dict[int, dict[str, int]], durable: dict[int, int], sizes: dict[int, int],
        random: Random, place: Path,
    ) -> None:  # fmt: skip
        place.mkdir()
        for name, number in names.get(folder, {}).items():
            path = place / name
            if number not in self.contents:
                self._write(number, names, durable, sizes, random, path)
                continue
            data, sure, there = self.contents[number], durable.get(number, 0), sizes.get(number, 0)
            match random.choice(["whole", "cut", "cut", "zeros"]):
                case "cut":
                    there = random.randint(min(sure, there), there)
                case "zeros" if there > sure:
                    data = data[:sure] + bytes(there - sure)
                case _:
                    pass
            path.write_bytes(data[:there])


def recorded(root: Path, name: str) -> Recorded:
    """Runs a change and records it."""

    def change() -> Recorded:
        only(name)
        recorder = Recorder(home)
        with steps(recorder.look, recorder.after):
            CHANGES[name].make(root, home)
        return recorder.end()

    home = copied(root, root / f"recorded {name}")
    made: Recorded = done(change)
    shutil.rmtree(home)
    return made


def replayed(root: Path, name: str, times: int, seed: int) -> list[str]:
    """The outcomes of losing some of what wasn't yet safe, in so many ways; the last third of them after the end of
    the change, which must then have happened.
    """
    right, change, random = expected(root, name), recorded(root, name), Random(f"{seed} {name}")
    seen = []
    for number in range(times):
        home, ended = root / f"{name} replayed {number}", 3 * number >= 2 * times
        change.after_a_crash(len(change.steps) if ended else random.randrange(len(change.steps)), random, home)
        outcome = checked(root, name, home, right)
        seen.append("a change that was done is lost" if ended and outcome == "old" else outcome)
    return seen


# Room.


WORDS = {
    "build": ["build", "new", "photos", "--encoder", "tiny"], "sync": ["sync", "mine", "--yes"],
    "add": ["add", "mine", "more"], "remove": ["remove", "mine", "007.png", "025.png"],
}  # fmt: skip
"""The changes as commands."""


@contextlib.contextmanager
def disk(place: Path, size: int) -> Iterator[bool]:
    """Mounts a disk of that size at an empty folder in the block; gives whether that is allowed here."""
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(place)]
    mounted = bool(shutil.which("mount")) and subprocess.run(command, check=False, capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", str(place)], check=True)


def full(root: Path, name: str, times: int) -> list[str]:
    """The outcomes of a change on a disk with room at first for nothing, at last for nearly all that it writes: "good",
    or what is wrong. If no disk can be mounted, the size of files is limited instead.
    """
    seen = []
    with disk(root / f"disk {name}", 16 << 20) as mounted:
        right = expected(root, name)
        whole = shutil.disk_usage(root / f"disk {name}").free if mounted else 0
        for number in range(-1, times):
            home = Path(shutil.copytree(root / "home", root / f"disk {name}" / "home"))
            if number < 0:
                needed = done(lambda home=home: _needed(root, name, home))[0 if mounted else 1]
            else:
                seen.append(_full(root, name, home, needed * number / times, mounted, right))
            shutil.rmtree(home)
            left = shutil.disk_usage(root / f"disk {name}").free
            assert not mounted or left == whole, "something else is on the disk"
    return seen


def _needed(root: Path, name: str, home: Path) -> tuple[int, int]:
    """The maximum room that a change needs, and the largest file that it writes."""
    free = shutil.disk_usage(home).free
    least, largest = [free], [0]

    def look(*_: object) -> None:
        least[0] = min(least[0], shutil.disk_usage(home).free)
        sizes = [path.lstat().st_size for path in home.rglob("*") if path.is_file()]
        largest[0] = max(largest[0], *sizes)

    with steps(look, look):
        CHANGES[name].make(root, home)
    return free - least[0], largest[0]


def _full(root: Path, name: str, home: Path, room: float, mounted: bool, right: tuple[Any, Any]) -> str:
    """One round of `full`; room: free bytes."""
    before = tree(home)

    def change() -> tuple[object, str]:
        os.chdir(root)
        if not mounted:
            sys.dont_write_bytecode = True  # Python would keep modules cut off
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(room), int(room)))
        printed = io.StringIO()
        with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(printed):
            try:
                main_of_simrec(["--quiet", "--home", str(home), "index", *WORDS[name]])
            except SystemExit as end:
                return end.code, printed.getvalue()
        return None, printed.getvalue()

    filler = home.parent / "filler"
    if mounted:
        free = shutil.disk_usage(home).free
        filler.write_bytes(bytes(max(0, free - int(room))))
    status, said = done(change)
    filler.unlink(missing_ok=True)
    if status != 1 or said.count("\n") != 1 or not re.search("make room there|after the disk", said):
        return f"{status}: {said}"
    if mounted and not re.search(r"; it needs more than [\d.]+ [kM]B, and [\d.]+ [kM]B are free", said):
        return f"doesn't say what is needed and what is free: {said}"
    after = tree(home)
    if any(place.endswith("/part.json") for place in after):  # what was encoded is kept for the next one
        after = {place: data for place, data in after.items() if "building" not in place and place != "new"}
    if after != before:
        return f"leaves {sorted(after.items() ^ before.items())} behind: {said}"
    kept = Path(shutil.copytree(home, root / f"after {name}"))
    outcome = checked(root, name, kept, right)
    return "good" if outcome == "old" else outcome


def tree(home: Path) -> dict[str, str]:
    """Every path in a home except locks, with the digests of files."""
    return {
        path.relative_to(home).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in home.rglob("*")
        if path.name != "LOCK"
    }


def _imported(root: Path, name: str) -> list[str]:
    """The names of all modules that changes load."""
    home = copied(root, root / f"imported {name}")
    _sync(root, home)
    _build(root, home)
    answers(home)
    generations.verify("mine", home_folder=home)
    shutil.rmtree(home)
    return list(sys.modules)


def main(work: str, root: str, *rest: str) -> None:
    """Prints the outcome of each round as JSON; runs in its own process."""
    name, *numbers = rest
    for module in sorted(done(lambda: _imported(Path(root), name))):  # otherwise each child would import them
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    host.discover()  # these two are remembered
    manifest._libraries()
    seen = globals()[work](Path(root), name, *map(int, numbers))
    print(json.dumps(seen))


if __name__ == "__main__":
    main(*sys.argv[1:])
