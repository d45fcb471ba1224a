"""Strangers' recommenders are refused in one line, or answer; they change nothing, hang nothing, and hide no others."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import resource
import secrets
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from random import Random
from typing import Any

import numpy as np
import pytest
from hostile_recommenders import (
    BUILDS,
    CODE_MODEL,
    CONTROLS,
    ENCODER,
    ENCODERS,
    FIELDS,
    INDEX,
    LENGTHS,
    MANIFEST,
    OLD,
    PREVIEWS,
    PRIOR,
    REMOVED,
    SEGMENT,
    TABLE,
    Target,
    as_format_2,
    cases,
    container,
    damaged,
    graph,
    mutant,
    numbered,
    value,
)
from PIL import Image

import simrec
from simrec import store
from simrec.catalogue.building import Building, Plan
from simrec.cli import main
from simrec.compression import CodeModel
from simrec.contracts import Batch
from simrec.errors import DataError, SimrecError, StoreError, VersionError
from simrec.recommender import Recommender
from simrec.sources.load import Pictures, open_source
from simrec.verbs.export import export

SEED = int(os.environ.get("SEED") or secrets.randbits(32))
LIMIT = 10.0
"""Maximum seconds for a command."""

MEMORY = 1_000_000
"""Maximum memory, in kilobytes, of a process that reads a stranger's recommender."""

CASES = cases()
FIXED = [
    "a manifest that is no JSON", "a manifest nested 100,000 deep", "a file above the folder",
    "a file by an absolute name", "a link in place of codes.faiss", "a link in place of generations",
    "a FIFO in place of previews.bin", "a segment that is a link", "fields of a dictionary",
    "rows removed beyond the last", "two segments with other ranges", "weights in the current folder",
    "weights in memory", "a graph that loops", "lists on disk", "too few codes in the index",
    "a table that is a recursive view", "a preview of 12,000 x 12,000 pixels", "an encoder of a module's name",
    f"{OLD}: a link in place of its generation",
]  # fmt: skip

HEALTHY = "good"
ITEM = "Bag/00018.png"
COMMANDS = {
    "similar": "similar shoe.png --index evil --format table", "id": f"similar id:{ITEM} --index evil --format table",
    "original": f"reconstruct id:{ITEM} --index evil -o out.item.png", "list": "index list", "show": "index show evil",
    "build": "index build copy ../photos --encoder evil", "export": "export evil -o out.csv",
    "grid": "similar shoe.png --index evil --format table --grid out.png",
    "reconstruct": "reconstruct shoe.png --index evil -o out.decoded.png",
    HEALTHY: "similar shoe.png --index good --format csv",
}  # fmt: skip


LONG, SLOW = pytest.mark.long, pytest.mark.slow


# A process that runs commands, as one of them may kill it or never end.


def serve(asked: Callable[..., dict[str, Any]] | None = None) -> None:
    """Answers requests on standard input, a line each: run in a process of its own by `Child`.

    asked: answers those that are no commands.
    """
    answers = os.fdopen(os.dup(1), "w")
    resource.setrlimit(resource.RLIMIT_DATA, (4 * 2**30,) * 2)  # the machine survives what takes more
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        os.chdir(request["here"])
        before, begun = _peak(forget=True), time.monotonic()
        reply = _ran(request["words"]) if "words" in request else (asked or _asked)(**request)
        peak = _peak()
        times = {"seconds": time.monotonic() - begun, "peak": peak, "taken": peak - before}
        print(json.dumps({**reply, **times}), file=answers, flush=True)


def _peak(*, forget: bool = False) -> int:
    """This process's peak memory since the last reset, in kilobytes; 0 if the system doesn't count it."""
    if sys.platform != "linux":
        return 0
    if forget:
        Path("/proc/self/clear_refs").write_text("5")
    return int(re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[0])


def _ran(words: list[str]) -> dict[str, Any]:
    """A command's exit status and output, including that of native code."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        sys.stdout, sys.stderr = os.fdopen(os.dup(1), "w"), os.fdopen(os.dup(2), "w", errors="backslashreplace")
        status: object = "no exit"
        with warnings.catch_warnings():
            for shown in (UserWarning, RuntimeWarning):  # each time, not once in a process
                warnings.simplefilter("always", shown)
            try:
                main(words)
            except SystemExit as end:
                status = end.code or 0
            except BaseException as error:
                status = repr(error)
        sys.stdout.close()
        sys.stderr.close()
        printed = [(file.seek(0), file.read().decode("utf-8", "backslashreplace"))[1] for file in (out, err)]
        return {"status": status, "out": printed[0], "err": printed[1]}


QUESTIONS: dict[str, Callable[[Recommender], object]] = {
    "list": lambda opened: _answered(f"--home {opened.folder.parent} index list"),
    "show": lambda opened: _answered(f"index show {opened.folder}", or_refused=True),
    "similar": lambda opened: opened.similar("shoe.png", 5),
    "id": lambda opened: opened.similar(f"id:{next(opened.catalogue.all()).id}", 5),
    "grid": lambda opened: [opened.catalogue.picture(match.id) for match in opened.similar("shoe.png", 5)],
    "previews": lambda opened: [opened.catalogue.picture(item.id) for item in opened.catalogue.all()],
    "export": lambda opened: export(opened, Path(f"{os.getpid()}.csv")),
    "generate": lambda opened: opened.generate(3),
    "around": lambda opened: opened.around(opened.read("shoe.png").images, 3),
    "compress": lambda opened: opened.compress(opened.read("shoe.png").images, 5),
    "decompress": lambda opened: opened.decompress(Path("codes.simrec").read_bytes()),
}
ASKED = {
    MANIFEST: list(QUESTIONS),
    PRIOR: ["generate", "around"],
    CODE_MODEL: ["compress", "decompress"],
    ENCODER: ["similar", "compress"],
    INDEX: ["similar", "id", "export"],
    TABLE: ["similar", "id", "grid", "export"],
    LENGTHS: ["id", "export"],
    PREVIEWS: ["id", "grid", "previews"],
    FIELDS: ["similar", "export"],
    REMOVED: ["similar", "id", "export"],
}
"""The files that are mutated, and what a recommender with such a file is asked for."""

OUTCOMES = ["answered", "refused", "badly said", "otherwise"]
GOOD = OUTCOMES[:2]


def _answered(words: str, *, or_refused: bool = False) -> None:
    """Runs a command that must answer, as the recommender could be opened; or_refused: else what it says in a line is
    raised, such as what is wrong with its catalogue.
    """
    reply = _ran(words.split())
    if or_refused and reply["status"] == 1:
        raise StoreError(reply["err"].removeprefix("Error: ").removesuffix("\n"))
    assert (reply["status"], reply["err"]) == (0, ""), reply["err"]


def _asked(here: str, folder: str, about: str = "", data: str = "") -> dict[str, Any]:
    """The outcome of everything that uses a file, or of decoding a container of codes (in Base 64)."""
    if data:
        opened = Recommender(Path(folder))
        return _outcome(lambda: opened.decompress(base64.b64decode(data)), (DataError, VersionError))
    outcomes = [_outcome(lambda ask=QUESTIONS[name]: ask(Recommender(Path(folder))), SimrecError)
                for name in ASKED[about]]  # fmt: skip
    return max(outcomes, key=lambda outcome: OUTCOMES.index(outcome["outcome"]))


def _outcome(question: Callable[[], object], expected: type[Exception] | tuple[type[Exception], ...]) -> dict[str, Any]:
    """Whether a request is answered, refused in one good line, or neither; a warning would be a second line."""
    try:
        with warnings.catch_warnings():
            for shown in (UserWarning, RuntimeWarning):
                warnings.simplefilter("error", shown)
            answer = question()
    except expected as error:
        badly = ill_said(f"Error: {error}", controls="\n")
        return {
            "outcome": "badly said" if badly else "refused",
            "said": f"{badly or ''}{type(error).__name__}: {error}",
        }
    except BaseException as error:
        return {"outcome": "otherwise", "said": f"{type(error).__name__}: {error}"[:300]}
    images = {"shape": answer.shape, "digest": digest(answer)} if isinstance(answer, np.ndarray) else {}
    return {"outcome": "answered", "said": "", **images}


class Child:
    """A process that answers requests; if it dies or is stopped at the limit, a new one follows."""

    def __init__(self, module: str = "test_hostile_recommenders") -> None:
        self.module = module
        self.process: subprocess.Popen[bytes] | None = None

    def ask(self, here: Path, **request: object) -> dict[str, Any]:
        """The reply, or {"lost": how the process ended}."""
        if self.process is None:
            command = [sys.executable, "-c", f"import {self.module} as t; t.serve()"]
            paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": paths}
            )
            # The limit is for the answer: on a busy machine the imports alone take seconds.
            assert self.process.stdout is not None
            assert self.process.stdout.readline() == b"ready\n"
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"here": str(here), **request}).encode() + b"\n")
        self.process.stdin.flush()
        if not select.select([self.process.stdout], [], [], LIMIT + 2)[0]:
            self.close()
            return {"lost": f"took more than {LIMIT:.0f} s"}
        if line := self.process.stdout.readline():
            reply: dict[str, Any] = json.loads(line)
            return {"lost": f"took {reply['seconds']:.0f} s"} if reply["seconds"] > LIMIT else reply
        code = self.close()
        return {"lost": f"died of {signal.Signals(-code).name}" if code < 0 else f"left with status {code}"}

    def close(self) -> int:
        """Ends it, by force if need be; returns its exit status."""
        process, self.process = self.process, None
        if process is None:
            return 0
        with process:
            if not select.select([process.stdout], [], [], 0)[0]:
                process.kill()
        return process.returncode


def shared(work: Callable[[Child, Any], Any], jobs: list[Any], module: str = "test_hostile_recommenders") -> list[Any]:
    """The outcomes of the jobs, in order; two processes work on them."""
    children: SimpleQueue[Child] = SimpleQueue()
    every = [Child(module), Child(module)]
    for child in every:
        children.put(child)

    def one(job: Any) -> Any:
        child = children.get()
        try:
            return work(child, job)
        finally:
            children.put(child)

    try:
        with ThreadPoolExecutor(len(every)) as pool:
            return list(pool.map(one, jobs))
    finally:
        for child in every:
            child.close()


# What is expected of a command.


CONTROL = r"[\x00-\x09\x0b-\x1f\x7f-\x9f]"


def ill_said(line: str, controls: str = CONTROL) -> str | None:
    """What is wrong with an error's one line, None for a good line."""
    if not line.startswith("Error: ") or "\n" in line.rstrip("\n"):
        return "not one line of an error: "
    if re.search(controls, line):
        return "controls the terminal: "
    if "bug in simrec" in line or "Traceback" in line:
        return "called a bug in simrec: "
    return "advises to delete: " if re.search(r"\b(delete|remove)\b", line) else None


def digest(images: Any) -> str:
    return hashlib.sha256(np.ascontiguousarray(images).tobytes()).hexdigest()


def tree(root: Path, but: Path | None = None) -> dict[str, object]:
    """Every path below a folder but what the commands are to write: the contents and times of files, and links.

    but: a folder that may change, and everything in it.
    """
    found: dict[str, object] = {}
    for folder, names, files in os.walk(root):
        names[:] = [name for name in names if Path(folder, name) != but]
        files += [name for name in names if Path(folder, name).is_symlink()]
        for path in (Path(folder), *(Path(folder) / name for name in files)):
            name = path.relative_to(root).as_posix()
            if name.startswith(("home/copy", "home/.simrec-roots.json", "here/out.")):
                continue
            kind = path.lstat()
            found[name] = kind.st_mode
            if path.is_symlink():
                found[name] = str(path.readlink())
            elif path.is_file():  # of a file of 20 GB the size must do
                data = path.read_bytes() if kind.st_size < 100_000_000 else b""
                found[name] = kind.st_mtime_ns, kind.st_size, hashlib.sha256(data).hexdigest()
    return found


def staged(root: Path, healthy: dict[str, Path], dtype: str = "int8", seed: object = 0) -> Target:
    """`root` with a home of two recommenders, of which "evil" is to be changed, and folders that nothing may change."""
    for name in ("home", "outside", "here"):
        (root / name).mkdir(parents=True)
    for path in (root / "victim", root / "outside" / "victim"):
        path.write_bytes(b"a letter to someone")
    (root / "photos").symlink_to(healthy["photos"])
    shutil.copy(healthy["shoe"], root / "here" / "shoe.png")
    shutil.copytree(healthy["int8"], root / "home" / HEALTHY)
    # A second name of the same LOCK would be held by whoever builds in another copy.
    unlocked = shutil.ignore_patterns("LOCK")
    shutil.copytree(healthy[dtype], root / "home" / "evil", ignore=unlocked, copy_function=os.link)
    return Target(root / "home" / "evil", root, Random(f"{SEED} {seed}"))


def complaints(child: Child, name: str, root: Path, healthy: dict[str, Path]) -> list[str]:
    """What is wrong in all commands' answers to a hostile recommender of that name; empty if nothing is."""
    case, wrong = CASES[name], []
    case.make(staged(root, healthy, case.dtype, name))
    before = tree(root)
    for command, words in COMMANDS.items():
        reply = child.ask(root / "here", words=["--quiet", "--home", str(root / "home"), *words.split()])
        if "lost" in reply:
            wrong.append(f"{name}: {command}: {reply['lost']}")
            continue
        status, lines = reply["status"], reply["err"].split("\n")
        if badly := re.search(CONTROL, reply["out"]) and "its answer controls the terminal":
            wrong.append(f"{name}: {command}: {badly}: {reply['out'][:300]!r}")
        if status == 0 and reply["err"]:
            wrong.append(f"{name}: {command}: answers, and says on stderr {reply['err'][:300]!r}")
        if status != 0 and (status != 1 or len(lines) != 2 or lines[1] or ill_said(lines[0]) or len(lines[0]) > 2000):
            wrong.append(f"{name}: {command}: {ill_said(lines[0]) or ''}{status}: {reply['err'][:400]!r}")
        if reply["taken"] > MEMORY:
            wrong.append(f"{name}: {command}: takes {reply['taken'] // 1000} MB of memory")
        if status == 0 and command in case.hit:
            wrong.append(f"{name}: {command}: answers all the same")
        if command == "list" and not re.search(r"^ *good ", reply["out"], re.MULTILINE):
            wrong.append(f"{name}: list: hides the healthy one")
        if command == HEALTHY and (status != 0 or reply["out"].count("\n") < 11):
            wrong.append(f"{name}: the healthy one answers no more: {reply['err'][:300]!r}")
        if command == "build" and status != 0 and (root / "home" / "copy").exists():
            wrong.append(f"{name}: build: leaves something behind")
    after = tree(root)
    changed = sorted(place for place in before | after if before.get(place) != after.get(place))
    return [*wrong, *(f"{name}: {place} was changed" for place in changed)]


def reported(wrong: list[str]) -> str:
    """The message of a failing test: what is wrong, and how to reproduce it."""
    return "\n".join([f"{len(wrong)} wrong, repeat with SEED={SEED}", *wrong])


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory, pictures: Pictures) -> dict[str, Path]:
    """Recommenders of 40 items by dtype, one of format 2, a folder of three photos, the picture of an item, and what an
    interrupted build of the first one leaves in `building`.
    """
    home = tmp_path_factory.mktemp("healthy")
    for row in range(40):
        folder = home / "items" / pictures.labels[row].replace("/", "-")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pictures.images[row, :, :, 0]).save(folder / f"{row:05d}.png")
    dtypes = {
        dtype: simrec.build(dtype, str(home / "items"), encoder="demo-sparse", dtype=dtype, home_folder=home).folder
        for dtype in ("float32", "int8", "binary")
    }
    (home / "photos").mkdir()
    for path in sorted((home / "items").rglob("*.png"))[:3]:
        shutil.copy(path, home / "photos")
    shoe = next((home / "items" / "Ankle boot").glob("*.png"))
    old = as_format_2(dtypes["int8"], home / "old")
    return {
        **dtypes,
        OLD: old,
        "photos": home / "photos",
        "shoe": shoe,
        "building": interrupted(dtypes["float32"], home),
    }


def interrupted(folder: Path, home: Path) -> Path:
    """Two parts of 20 items each, whose codes were made in one batch as the build makes them."""
    opened = Recommender(folder)
    record, catalogue = opened.manifest.encoder, opened.manifest.catalogue
    assert catalogue is not None
    source = open_source(catalogue.source, notice=print)
    entries = list(source.entries())
    batch = source.read(entries, record.input)
    codes = opened.encode(batch.images)
    (home / "interrupted").mkdir()
    plan = Plan(
        "build", [(source.name, source.root)], record.digest, record.input, record.dim, record.metric, "float32",
        record.provider,
    )  # fmt: skip
    building = Building(home / "interrupted", plan)
    building.begin(discard=False)
    for rows in (slice(20), slice(20, 40)):
        some = Batch(
            entries[rows], batch.images[rows], batch.previews[rows], batch.contents[rows], fields=batch.fields[rows]
        )
        building.add(entries[rows], 0, some, codes[rows])
        building.finish_part()
    return building.folder


@pytest.fixture(scope="module")
def child() -> Iterator[Child]:
    """A process that answers requests."""
    child = Child()
    yield child
    child.close()


def said(child: Child, here: Path, *words: object) -> str:
    """The good one-line error of a command that fails."""
    reply = child.ask(here, words=["--quiet", *map(str, words)])
    assert reply.get("status") == 1, reply
    line: str = reply["err"]
    assert line.count("\n") == 1, line
    assert not ill_said(line), line
    return line


# Each point by itself.


@pytest.mark.parametrize(
    "name",
    ["a manifest that is no JSON", "a manifest that is a list", "a file above the folder", "a file of a healthy one",
     "a link in place of encoder", "a link in place of the manifest", "a FIFO in place of codes.faiss",
     "weights in the current folder", "lists on disk", "a graph that loops", "a table that is a recursive view",
     "too few codes in the index", "catalogue/segments = ['../../CURRENT']", "escapes in encoder/name",
     "a preview of 12,000 x 12,000 pixels", "a folder in place of items.sqlite", "a link in place of {segment}",
     "catalogue/segments/0/folder = '../good'", "two segments with other ranges", "rows removed beyond the last",
     "fields of a dictionary", "lengths that are too few", "a row with other labels",
     f"{OLD}: a file above the folder", f"{OLD}: a link in place of the index", f"{OLD}: a table that is a view",
     f"{OLD}: a thumbnail of 12,000 x 12,000 pixels", f"{OLD}: nothing wrong"],
)  # fmt: skip
def test_a_strangers_recommender_costs_one_line_and_changes_nothing_outside(
    tmp_path: Path, healthy: dict[str, Path], child: Child, name: str
) -> None:
    wrong = complaints(child, name, tmp_path / "root", healthy)
    assert not wrong, reported(wrong)


@pytest.mark.parametrize("name", ["a manifest that is no JSON", "a manifest nested 100,000 deep"])
def test_a_look_up_without_a_name_answers_beside_a_manifest_that_cannot_be_read(
    tmp_path: Path, healthy: dict[str, Path], child: Child, name: str
) -> None:
    CASES[name].make(staged(tmp_path / "root", healthy))
    home, here = tmp_path / "root" / "home", tmp_path / "root" / "here"
    reply = child.ask(here, words=["--home", str(home), "similar", "shoe.png", "--format", "paths"])
    assert (reply["status"], reply["err"]) == (0, "No --index named: answering from 'good'.\n")
    assert reply["out"].count("items/") == 10


def arrays(opened: dict[str, Any], **changes: Any) -> bytes:
    """Arrays by name as an .npz file, some of them changed."""
    with tempfile.TemporaryFile() as file:
        np.savez(file, **{**opened, **changes})
        file.seek(0)
        return file.read()


@pytest.mark.parametrize(
    ("file", "name", "change", "question"),
    [
        (PRIOR, "weights", lambda weights: weights * np.nan, "generate"),
        (PRIOR, "means", lambda means: means[:, :9], "generate"),
        (PRIOR, "factors", lambda factors: factors[:1, :1, 0], "around"),
        (PRIOR, "more", lambda _: np.zeros(3), "generate"),
        (CODE_MODEL, "low", lambda low: low[:9], "compress"),
        (CODE_MODEL, "step", lambda step: step * 0, "compress"),
        (CODE_MODEL, "counts", lambda counts: counts.astype(np.float64) * np.nan, "compress"),
        (CODE_MODEL, "places", lambda places: places.astype(str), "decompress"),
    ],
)
def test_a_sealed_file_of_the_encoder_that_is_wrong_is_named(
    tmp_path: Path, healthy: dict[str, Path], file: str, name: str, change: Callable[[Any], Any], question: str
) -> None:
    target = staged(tmp_path / "root", healthy)
    opened = dict(np.load(target.place(file)))
    data = Recommender(target.folder).compress(np.zeros((1, 28, 28, 1), np.uint8))
    target.write(file, arrays(opened, **{name: change(opened.get(name))}))
    (target.here / "codes.simrec").write_bytes(data)
    os.chdir(target.here)
    with pytest.raises(SimrecError) as raised:
        QUESTIONS[question](Recommender(target.folder))
    assert Path(file).name in str(raised.value)
    assert not ill_said(f"Error: {raised.value}")


@pytest.mark.parametrize(
    ("field", "where", "layout", "number"),
    [("count", 28, "<I", 2**32 - 1), ("count", 28, "<I", 10**8), ("bits", 10, "<H", 65_535), ("bits", 10, "<H", 0),
     ("bits", 10, "<H", 9), ("version", 8, "<H", 0), ("numbers", 12, "<I", 2**32 - 1), ("height", 16, "<I", 9)],
)  # fmt: skip
def test_a_container_of_124_bytes_with_impossible_values_is_one_line(
    tmp_path: Path, child: Child, demo: Recommender, field: str, where: int, layout: str, number: int
) -> None:
    content = bytearray(demo.compress(np.zeros((1, 28, 28, 1), np.uint8))[: 124 - 32])
    struct.pack_into(layout, content, where, number)
    (tmp_path / "codes.simrec").write_bytes(content + hashlib.sha256(content).digest())
    assert "codes.simrec: " in said(child, tmp_path, "decompress", "codes.simrec", "--index", "demo", "-o", "out")
    assert not (tmp_path / "out").exists()


def test_a_container_with_invalid_words_is_one_line(tmp_path: Path, child: Child, demo: Recommender) -> None:
    content = demo.compress(np.zeros((1, 28, 28, 1), np.uint8))[:-32] + b"\1"
    (tmp_path / "codes.simrec").write_bytes(content + hashlib.sha256(content).digest())
    assert "codes.simrec: " in said(child, tmp_path, "decompress", "codes.simrec", "--index", "demo", "-o", "out")


def test_many_equal_pictures_in_few_bytes_are_still_decoded(demo: Recommender) -> None:
    images = np.zeros((1000, 28, 28, 1), np.uint8)
    assert (demo.decompress(demo.compress(images, 2)) == demo.decompress(demo.compress(images[:1], 2))).all()


def test_codes_in_the_lowest_steps_which_need_no_words_are_still_decoded() -> None:
    """The coder begins at 0, where a first step costs nothing: 1,000 such codes are a container without words."""
    model = CodeModel.fit(np.random.default_rng(0).normal(size=(1000, 2)).astype(np.float32))
    levels = np.zeros((1000, 2), np.uint8)
    assert (model.decoded(model.encoded(levels, 2), 1000, 2) == levels).all()


@pytest.mark.long
@pytest.mark.parametrize("count", [10**6, 10**8])
def test_a_container_and_its_recommender_from_one_stranger_take_less_than_minutes(
    tmp_path: Path, healthy: dict[str, Path], child: Child, count: int
) -> None:
    """A code model in which each number is nearly certain makes millions of codes from a few words."""
    target = staged(tmp_path / "root", healthy)
    opened = dict(np.load(target.place(CODE_MODEL)))
    opened["counts"][:] = np.eye(1, 256, 255) * (2**32 - 1)
    target.write(CODE_MODEL, arrays(opened))
    content = bytearray(Recommender(healthy["int8"]).compress(np.zeros((1, 28, 28, 1), np.uint8))[: 124 - 32])
    struct.pack_into("<I", content, 28, count)
    (target.here / "codes.simrec").write_bytes(content + hashlib.sha256(content).digest())
    words = ["--quiet", "decompress", "codes.simrec", "--index", str(target.folder), "-o", "out"]
    reply = child.ask(target.here, words=words)
    assert reply.get("status") == 1, reply
    assert not ill_said(reply["err"]), reply
    assert reply["peak"] < MEMORY


@pytest.mark.parametrize("name", ["CURRENT", MANIFEST, ENCODER, ENCODERS, "encoder", "segments", SEGMENT, INDEX, TABLE])
def test_advice_about_a_file_that_cannot_be_read_never_costs_the_encoder(
    tmp_path: Path, healthy: dict[str, Path], child: Child, name: str
) -> None:
    """Root may read everything: folders instead of files, and files instead of folders, fail like unreadable ones."""
    target = staged(tmp_path / "root", healthy)
    path = target.place(name)
    if path.is_dir():
        shutil.rmtree(path)
        path.write_text("no folder")
    else:
        path.unlink()
        path.mkdir()
    line = said(child, target.here, "similar", "shoe.png", "--index", target.folder)
    assert str(target.folder) in line


if sys.platform == "linux":  # other systems allow no such names

    def test_a_home_whose_path_is_not_utf_8_works(tmp_path: Path, healthy: dict[str, Path], child: Child) -> None:
        home = tmp_path / os.fsdecode(b"caf\xe9")
        for words in (
            ["index", "build", "mine", healthy["photos"], "--encoder", "demo-sparse"],
            ["similar", healthy["shoe"], "--index", "mine"],
            ["similar", "id:00000.png", "--index", "mine", "--grid", "out.png"],
            ["export", "mine", "-o", "out.csv"],
            ["index", "list"],
        ):
            reply = child.ask(tmp_path, words=["--quiet", "--home", str(home), *map(str, words)])
            assert (reply["status"], reply["err"]) == (0, ""), words

    def test_escape_sequences_in_names_and_labels_do_not_reach_the_terminal(
        tmp_path: Path, healthy: dict[str, Path], child: Child
    ) -> None:
        odd = CONTROLS.replace("/", "")
        folder = tmp_path / f"photos{odd}"
        (folder / f"label{odd}").mkdir(parents=True)
        for number in range(3):
            shutil.copy(healthy["shoe"], folder / f"label{odd}" / f"{number}{odd}.png")
        shutil.copy(healthy["shoe"], tmp_path / f"shoe{odd}.png")
        for words in (
            ["index", "build", "mine", folder, "--encoder", "demo-sparse"],
            ["index", "list"],
            ["index", "show", "mine"],
            ["similar", f"shoe{odd}.png", "--index", "mine", "--format", "table"],
            ["similar", f"shoe{odd}.png", f"none{odd}.png", "--index", "mine", "--format", "table"],
            ["similar", f"id:{odd}", "--index", "mine"],
            ["decompress", f"none{odd}.simrec", "-o", "out"],
            ["index", "build", "new", f"none{odd}", "--encoder", "mine"],
        ):
            for quiet in ((), ("--quiet",)):
                options = [*quiet, "--home", tmp_path / "home"]
                reply = child.ask(tmp_path, words=list(map(str, [*options, *words])))
                printed = reply["out"] + reply["err"]
                assert not re.search(CONTROL, printed), (words, printed)
            assert all(line.startswith("Error: ") for line in reply["err"].splitlines()), (words, reply["err"])


def test_a_second_writer_stays_out_when_the_lock_s_file_is_deleted(tmp_path: Path, healthy: dict[str, Path]) -> None:
    folder = staged(tmp_path / "root", healthy).folder
    before = store.current(folder)
    name = "removed/0123456789abcdef.npy"
    with store.Writer(folder) as writer:
        (folder / "LOCK").unlink(missing_ok=True)
        writer.write(name, b"of the first")
        with pytest.raises(StoreError, match="another simrec is writing it"), store.Writer(folder):
            pass
        writer.keep(before, before.manifest.encoder.folder)
        after = writer.commit(before.manifest)
    assert after.read(name) == b"of the first"
    assert store.current(folder).name == after.name


@pytest.mark.parametrize(
    "name",
    ["LOCK", "CURRENT.new", "CURRENT", "gens", "staging-0", "building", "generations", "encoder", "segments", "fields",
     "removed", "generations/000002.json", "generations/.000002.json.new", MANIFEST, ENCODERS, SEGMENT],
)  # fmt: skip
def test_building_a_catalogue_again_follows_no_link(
    tmp_path: Path, healthy: dict[str, Path], child: Child, name: str
) -> None:
    target = staged(tmp_path / "root", healthy)
    path, moved = target.place(name), target.outside / "moved"
    if path.exists():
        path.rename(moved)
    elif name in ("staging-0", "gens", "building", "fields", "removed"):
        moved.mkdir()
        (moved / "letter").write_bytes(b"a letter to someone")
    else:
        moved.write_bytes(b"a letter to someone")
    path.parent.mkdir(exist_ok=True)
    path.symlink_to(moved)
    before = tree(target.outside)
    words = ["--quiet", "--home", str(target.folder.parent), "index", "build", "evil", "--from-scratch"]
    for _ in range(store.KEPT + 1):  # the last of which delete what the first one found
        reply = child.ask(target.here, words=words)
        assert reply["status"] == 0 or (reply["err"].count("\n") == 1 and not ill_said(reply["err"])), reply
    assert tree(target.outside) == before


@pytest.mark.parametrize(
    "name",
    ["CURRENT.new", "building", "generations", "encoder", "segments", "fields", "removed", "LOCK", "CURRENT",
     "generations/.000002.json.new", "generations/000002.json",
     "staging-0"],
)  # fmt: skip
def test_building_a_catalogue_again_waits_for_no_pipe(
    tmp_path: Path, healthy: dict[str, Path], child: Child, name: str
) -> None:
    target = staged(tmp_path / "root", healthy)
    path = target.place(name)
    if path.exists():
        path.rename(target.outside / "moved")
    os.mkfifo(path)
    reply = child.ask(
        target.here, words=["--quiet", "--home", str(target.folder.parent), "index", "build", "evil", "--from-scratch"]
    )
    assert reply.get("status") in (0, 1), reply
    assert not reply["err"] or not ill_said(reply["err"]), reply


@pytest.mark.parametrize(
    "name",
    ["0" * 11 + "1", "9" * 11, "9" * 12],
)
def test_a_catalogue_built_again_can_be_read_whatever_the_number_of_the_generation_before(
    tmp_path: Path, healthy: dict[str, Path], child: Child, name: str
) -> None:
    target = staged(tmp_path / "root", healthy)
    numbered(name)(target)
    options = ["--quiet", "--home", str(target.folder.parent)]
    child.ask(target.here, words=[*options, "index", "build", "evil", "--from-scratch"])
    reply = child.ask(target.here, words=[*options, "similar", "shoe.png", "--index", "evil"])
    assert (reply["status"], reply["err"]) == (0, "")


@pytest.mark.parametrize(
    "kind",
    ["generations/000000.json", "generations/000009.json",
     "generations/999999999999.json"],
)  # fmt: skip
def test_a_catalogue_built_again_can_be_read_whatever_lies_among_the_generations(
    tmp_path: Path, healthy: dict[str, Path], child: Child, kind: str
) -> None:
    target = staged(tmp_path / "root", healthy)
    (target.folder / kind).write_bytes(b"a letter to someone")
    options = ["--quiet", "--home", str(target.folder.parent)]
    child.ask(target.here, words=[*options, "index", "build", "evil", "--from-scratch"])
    reply = child.ask(target.here, words=[*options, "similar", "shoe.png", "--index", "evil"])
    assert (reply["status"], reply["err"]) == (0, "")


def built_again(child: Child, name: str, root: Path, healthy: dict[str, Path]) -> list[str]:
    """What is wrong after building a catalogue again in a hostile recommender; empty if nothing is.

    It is built and answers, or one line says why not; if the advice was to build it again, that helps.
    """
    case, wrong = CASES[name], []
    target = staged(root, healthy, case.dtype, name)
    case.make(target)
    before = tree(root, target.folder)

    def ask(*words: str) -> tuple[bool, str]:
        reply = child.ask(target.here, words=["--quiet", "--home", str(root / "home"), *words])
        if "lost" in reply:
            wrong.append(f"{name}: {words}: {reply['lost']}")
            return False, reply["lost"]
        if reply["status"] != 0 and (reply["status"] != 1 or reply["err"].count("\n") != 1 or ill_said(reply["err"])):
            wrong.append(f"{name}: {words}: {reply['status']} {reply['err'][:400]!r}")
        if reply["taken"] > MEMORY:
            wrong.append(f"{name}: {words}: takes {reply['taken'] // 1000} MB of memory")
        return reply["status"] == 0, reply["err"]

    answers, said_before = ask("similar", f"id:{ITEM}", "--index", "evil")
    built, said_then = ask("index", "build", "evil", "--from-scratch")
    if not answers and not built and "makes the catalogue again" in said_before:
        wrong.append(f"{name}: building again was said to help: {said_then[:400]!r}")
    if built and not (now := ask("similar", f"id:{ITEM}", "--index", "evil", "--grid", "out.png"))[0]:
        wrong.append(f"{name}: is built and doesn't answer: {now[1][:400]!r}")
    after = tree(root, target.folder)
    changed = sorted(place for place in before | after if before.get(place) != after.get(place))
    return [*wrong, *(f"{name}: {place} was changed" for place in changed)]


@pytest.mark.parametrize(
    "name",
    ["a file above the folder", "a link in place of {segment}", "a link in place of codes.faiss",
     "a row with other labels", "items of which three were removed", "two segments with other ranges",
     "a link in place of segments"],
)  # fmt: skip
def test_a_catalogue_built_again_answers_or_one_line_says_why_not(
    tmp_path: Path, healthy: dict[str, Path], child: Child, name: str
) -> None:
    wrong = built_again(child, name, tmp_path / "root", healthy)
    assert not wrong, reported(wrong)


@pytest.mark.slow
def test_every_catalogue_built_again_answers_or_one_line_says_why_not(tmp_path: Path, healthy: dict[str, Path]) -> None:
    others = {f"a link in place of {pool}" for pool in ("segments", "fields", "removed")}  # two remedies for one folder
    names = [name for name in CASES if name not in others]
    places = {name: tmp_path / str(number) for number, name in enumerate(names)}

    def work(child: Child, name: str) -> list[str]:
        wrong = built_again(child, name, places[name], healthy)
        shutil.rmtree(places[name])
        return wrong

    wrong = [what for some in shared(work, names) for what in some]
    assert not wrong, reported(wrong)


# Builds that go on where another one was interrupted.


def going_on(child: Child, change: Callable[[Path, Path], object], root: Path, healthy: dict[str, Path]) -> list[str]:
    """What is wrong with a build that goes on in a folder with a hostile `building`; empty if nothing is.

    It succeeds, or says in one line that --discard helps, which it then does; the old catalogue answers meanwhile,
    and the new one has the source's items.
    """
    target, wrong = staged(root, healthy, "float32"), []
    shutil.copytree(healthy["building"], target.folder / "building")
    change(target.folder / "building", target.outside)
    before = tree(root, target.folder)
    options = ["--quiet", "--home", str(target.folder.parent)]

    def ask(*words: str) -> dict[str, Any]:
        reply = child.ask(target.here, words=[*options, *words])
        if "lost" in reply:
            return {"status": "lost", "err": reply["lost"], "out": "", "taken": 0}
        if reply["taken"] > MEMORY:
            wrong.append(f"{words}: takes {reply['taken'] // 1000} MB of memory")
        if reply["status"] != 0 and (reply["status"] != 1 or reply["err"].count("\n") != 1 or ill_said(reply["err"])):
            wrong.append(f"{words}: {ill_said(reply['err']) or ''}{reply['status']}: {reply['err'][:400]!r}")
        return reply

    folder = target.folder / "building"
    ours = folder.is_dir() and not folder.is_symlink()
    built = ask("index", "build", "evil", "--from-scratch")
    if built["status"] == 0 and folder.exists():
        wrong.append("leaves its parts")
    if built["status"] != 0 and ours:
        if "--discard" not in built["err"]:
            wrong.append(f"says nothing of --discard: {built['err'][:300]!r}")
        check_answers(ask, "meanwhile", wrong)
        built = ask("index", "build", "evil", "--from-scratch", "--discard")
        if built["status"] != 0:
            wrong.append(f"--discard does not help: {built['err'][:300]!r}")
    check_answers(ask, "then", wrong)
    after = tree(root, target.folder)
    changed = sorted(place for place in before | after if before.get(place) != after.get(place))
    return [*wrong, *(f"{place} was changed" for place in changed)]


def check_answers(ask: Callable[..., dict[str, Any]], when: str, wrong: list[str]) -> None:
    """The catalogue answers as it should: its items are those of the source."""
    found = ask("similar", f"id:{ITEM}", "--index", "evil", "-n", "50", "--grid", "out.png", "--format", "json")
    ids = sorted(row["id"] for row in json.loads(found["out"] or "[]"))
    if found["status"] != 0 or len(ids) != 39 or not all(re.fullmatch(r"[A-Z][\w -]+/\d{5}\.png", id_) for id_ in ids):
        wrong.append(f"{when}: similar: {found['status']} {found['err'][:300]!r} {len(ids)} {ids[:2]!r:.200}")
    exported = ask("export", "evil", "-o", "out.csv")
    if exported["status"] != 0:
        wrong.append(f"{when}: export: {exported['err'][:300]!r}")


@pytest.mark.parametrize(
    "name",
    ["nothing changed", "a plan that is nested 100,000 deep", "a plan of another encoder", "a record that is no JSON",
     "a record of rows = 4611686018427387904", "a record of entries = 2147483648", "a record of kinds = {'a': 'blob'}",
     "a FIFO in place of 000001/codes.f32", "a link in place of 000001/items.jsonl", "a link in place of ../building",
     "codes that are cut short", "lines that are there twice", "a length of -1", "a checksum of 0",
     "a link called more"],
)  # fmt: skip
def test_a_build_goes_on_with_a_strangers_leftovers_or_says_what_helps(
    tmp_path: Path, healthy: dict[str, Path], child: Child, name: str
) -> None:
    wrong = going_on(child, BUILDS[name], tmp_path / "root", healthy)
    assert not wrong, reported(wrong)


@pytest.mark.long
def test_every_build_goes_on_with_a_strangers_leftovers_or_says_what_helps(
    tmp_path: Path, healthy: dict[str, Path]
) -> None:
    names = list(BUILDS)
    places = {name: tmp_path / str(number) for number, name in enumerate(BUILDS)}

    def work(child: Child, name: str) -> list[str]:
        wrong = going_on(child, BUILDS[name], places[name], healthy)
        shutil.rmtree(places[name])
        return [f"{name}: {what}" for what in wrong]

    wrong = [what for some in shared(work, names) for what in some]
    assert not wrong, reported(wrong)


@pytest.mark.parametrize(
    "words",
    ["similar queue.png --index demo", "decompress queue.png -o out", "decompress queue.png --index demo -o out",
     "index build new queue.png --encoder demo", "compress queue.png --index demo -o out.simrec"],
)  # fmt: skip
def test_a_pipe_without_a_writer_is_one_line_at_once(tmp_path: Path, child: Child, words: str) -> None:
    os.mkfifo(tmp_path / "queue.png")
    assert "queue.png" in said(child, tmp_path, *words.split())


@pytest.mark.parametrize(
    "make",
    [graph("codes = Identity (inner) }"), value("encoder/settings", {"one": [1, {"two": None}]}),
     lambda target: (target.folder / "notes.txt").write_text("of the owner"),
     lambda target: (target.place(SEGMENT) / "notes.txt").write_text("of the owner"),
     lambda target: target.folder.rename(target.outside / "moved").with_name("moved") and None],
    ids=["a plain graph", "other settings", "a file beside", "a file in a segment", "a folder of its own"],
)  # fmt: skip
def test_harmless_recommenders_answer(
    tmp_path: Path, healthy: dict[str, Path], child: Child, make: Callable[[Target], object]
) -> None:
    """The tools of the attacks are not refused by themselves, nor is a link that the home's owner made."""
    target = staged(tmp_path / "root", healthy)
    make(target)
    if not target.folder.exists():
        target.folder.symlink_to(target.outside / "moved")
    words = ["--home", str(target.folder.parent), "similar", "shoe.png", "--index", "evil", "--format", "paths"]
    assert child.ask(target.here, words=words)["out"].count("\n") == 10


@pytest.mark.parametrize("dtype", ["float32", "int8", "binary", OLD])
def test_a_recommender_that_nobody_changed_answers_every_command(
    tmp_path: Path, healthy: dict[str, Path], child: Child, dtype: str
) -> None:
    """Otherwise the attacks might be refused for their tools alone."""
    target = staged(tmp_path / "root", healthy, dtype)
    for command, words in COMMANDS.items():
        reply = child.ask(target.here, words=["--quiet", "--home", str(target.folder.parent), *words.split()])
        assert (reply["status"], reply["err"]) == (0, ""), command


# What is known to go wrong.


# Many at once.


@pytest.mark.parametrize(
    "drawn", [pytest.param(15, marks=pytest.mark.long), pytest.param(None, marks=pytest.mark.slow)]
)
def test_hostile_recommenders_cost_one_line_each_and_hide_no_healthy_one(
    tmp_path: Path, healthy: dict[str, Path], drawn: int | None
) -> None:
    others = sorted(set(CASES) - set(FIXED))
    names = [*FIXED, *(Random(SEED).sample(others, drawn) if drawn else others)]
    roots = {name: tmp_path / str(number) for number, name in enumerate(names)}
    found = shared(lambda child, name: complaints(child, name, roots[name], healthy), names)
    wrong = [complaint for some in found for complaint in some]

    home = tmp_path / "home"
    shutil.copytree(healthy["int8"], home / HEALTHY)
    shutil.copytree(healthy["float32"], home / "sound")
    for number, name in enumerate(names):
        (roots[name] / "home" / "evil").rename(home / f"evil-{number}")
    for words, status in (("index list", 1), ("index list --format json", 1), ("similar shoe.png", 0),
                          ("similar shoe.png --index good", 0), ("similar shoe.png --index sound", 0)):  # fmt: skip
        command = [sys.executable, "-m", "simrec", "--quiet", "--home", str(home), *words.split()]
        options = {"cwd": roots[names[0]] / "here", "encoding": "utf-8", "errors": "backslashreplace"}
        try:
            done = subprocess.run(command, capture_output=True, check=False, timeout=2 * LIMIT, **options)
        except subprocess.TimeoutExpired:
            wrong.append(f"all together: {words}: took more than {2 * LIMIT:.0f} s")
            continue
        lines = done.stderr.splitlines()
        if done.returncode != status or any(map(ill_said, lines)) or len(lines) > (len(names) if status else 0):
            wrong.append(f"all together: {words}: {done.returncode}: {done.stderr[:1000]}")
        if words.startswith("index") and not ("good" in done.stdout and "sound" in done.stdout):
            wrong.append(f"all together: {words}: hides the healthy ones")
    assert not wrong, reported(wrong)


MUTANTS = {
    MANIFEST: 60, PRIOR: 40, CODE_MODEL: 40, ENCODER: 30, INDEX: 40, TABLE: 40, PREVIEWS: 25, FIELDS: 40, REMOVED: 25,
}  # fmt: skip


@pytest.mark.parametrize("times", [pytest.param(1, marks=LONG), pytest.param(20, marks=SLOW)])
@pytest.mark.parametrize(
    "counts",
    [pytest.param(MUTANTS, id="most files"),
     pytest.param({LENGTHS: 200}, id="lengths")],
)  # fmt: skip
def test_sealed_mutants_are_refused_in_one_line_or_answer(
    tmp_path: Path, healthy: dict[str, Path], counts: dict[str, int], times: int
) -> None:
    """340 at a time: 60 manifests, 40 each of the files that are taken apart, and fewer of the rest; 200 lengths."""
    jobs = [(name, number) for name, count in counts.items() for number in range(times * count)]
    valid = Recommender(healthy["int8"]).compress(np.zeros((3, 28, 28, 1), np.uint8))

    def work(child: Child, job: tuple[str, int]) -> dict[str, Any]:
        name, number = job
        root = tmp_path / f"{re.sub(r'[/ ]', '-', name)}-{number}"
        random = Random(f"{SEED} {job}")
        dtype = "float32" if name == LENGTHS else random.choice(["float32", "int8", "binary"])
        target = staged(root, healthy, dtype, job)
        mutant(name, target)
        (target.here / "codes.simrec").write_bytes(valid)
        reply = child.ask(target.here, folder=str(target.folder), about=name)
        shutil.rmtree(root)
        return reply

    check(dict(zip(jobs, shared(work, jobs), strict=True)))


@pytest.mark.parametrize("times", [pytest.param(1, marks=LONG), pytest.param(20, marks=SLOW)])
def test_mutants_of_an_interrupted_build_are_built_or_refused_in_one_line(
    tmp_path: Path, healthy: dict[str, Path], times: int
) -> None:
    """100 at a time: a file of a part, or the plan, is damaged."""
    names = ["plan.json", "000001/part.json", "000001/codes.f32", "000001/items.jsonl", "000001/previews.bin"]
    jobs = [(name, number) for name in names for number in range(20 * times)]

    def work(child: Child, job: tuple[str, int]) -> str:
        name, number = job
        root = tmp_path / f"{re.sub(r'[/ ]', '-', name)}-{number}"
        target = staged(root, healthy, "float32", job)
        path = Path(shutil.copytree(healthy["building"], target.folder / "building")) / name
        path.write_bytes(damaged(path.read_bytes(), target.random))
        reply = child.ask(
            target.here, words=["--quiet", "--home", str(root / "home"), "index", "build", "evil", "--from-scratch"]
        )
        shutil.rmtree(root)
        if reply.get("status") == 0 and not reply["err"]:
            return ""
        if reply.get("status") == 1 and reply["err"].count("\n") == 1 and not ill_said(reply["err"]):
            return ""
        return f"{name} {number}: {reply.get('lost') or reply['err'][:300]!r}"

    wrong = [what for what in shared(work, jobs) if what]
    assert not wrong, reported(wrong)


@pytest.mark.parametrize("times", [pytest.param(1, marks=LONG), pytest.param(20, marks=SLOW)])
def test_sealed_containers_are_refused_in_one_line_or_give_their_pictures(
    tmp_path: Path, healthy: dict[str, Path], times: int
) -> None:
    opened = Recommender(healthy["int8"])
    images = np.stack([np.asarray(Image.open(path))[..., None] for path in sorted(healthy["photos"].iterdir())])
    valid = {bits: opened.compress(images, bits) for bits in (2, 5, 8)}
    right = {data: digest(opened.decompress(data)) for data in valid.values()}

    def work(child: Child, number: int) -> dict[str, Any]:
        random = Random(f"{SEED} {number}")
        data = container(random.choice(list(valid.values())), random)
        reply = child.ask(tmp_path, folder=str(opened.folder), data=base64.b64encode(data).decode())
        count = struct.unpack_from("<I", data, 28)[0]
        if "shape" in reply and reply["shape"] != [count, 28, 28, 1]:
            reply |= {"outcome": "otherwise", "said": f"{count} pictures become {reply['shape']}"}
        if "digest" in reply and reply["digest"] != right.get(data, reply["digest"]):
            reply |= {"outcome": "otherwise", "said": "other pictures"}
        if reply.get("peak", 0) > MEMORY:
            reply |= {"outcome": "otherwise", "said": f"{reply['peak'] // 1000} MB of memory"}
        return reply

    jobs = list(range(300 * times))
    check({("container", job): reply for job, reply in zip(jobs, shared(work, jobs), strict=True)})


def check(replies: dict[tuple[str, int], dict[str, Any]]) -> None:
    """Prints the outcomes by kind of file; all should be answers or refusals."""
    outcomes = Counter((name, reply.get("outcome", "otherwise")) for (name, _), reply in replies.items())
    print(f"\n{'':24}" + "".join(f"{outcome:>12}" for outcome in OUTCOMES))
    for name in dict.fromkeys(name for name, _ in replies):
        print(f"{name:24}" + "".join(f"{outcomes[name, outcome]:12}" for outcome in OUTCOMES))
    wrong = [
        f"{name} {number}: {reply.get('lost') or reply['said']}"
        for (name, number), reply in replies.items()
        if reply.get("outcome") not in GOOD
    ]
    assert not wrong, reported(wrong)
