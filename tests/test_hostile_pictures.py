"""Strangers' pictures: each gives an image or a one-line error, in bounded memory and time, and none runs a program."""

from __future__ import annotations

import io
import json
import os
import secrets
import shutil
import signal
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from random import Random

import hostile_pictures as hostile
import numpy as np
import pytest
from PIL import Image

from simrec import images
from simrec.contracts import ImageSpec
from simrec.errors import ImageError

SECONDS = 10
"""Maximum seconds for any file."""

SCRIPT = """
import io, json, os, signal, sys, time, warnings
from pathlib import Path
from simrec import images
from simrec.sources.load import load
from simrec.contracts import ImageSpec
from simrec.errors import ImageError
specs = {"fashion": ImageSpec(), "photo": ImageSpec(size=64, channels=3, recipe="photo")}
def read(path, recipe):
    try:
        image = images.read(Path(path), specs[recipe])
    except ImageError as error:
        one_line = str(error).startswith(f"{path}: ") and len(str(error).splitlines()) == 1
        return "refused" if one_line else "not one line", str(error)
    except BaseException as error:
        return "another error", repr(error)[:300]
    right = image.dtype == "uint8" and image.shape == (1, *specs[recipe].shape)
    return "image" if right else "not the shape", image.tobytes().hex() if "pixels" in sys.argv else ""
"""
"""The beginning of each child process below."""

READER = """
import resource
resource.setrlimit(resource.RLIMIT_DATA, (1_200_000_000,) * 2)
for path, recipe in json.load(sys.stdin):
    signal.alarm(15)  # ends this process even if a decoder never returns
    start = time.perf_counter()
    kind, text = read(path, recipe)
    print(json.dumps([path, recipe, kind, text, time.perf_counter() - start]), flush=True)
"""
"""Reads pictures with at most 1.2 GB of memory and prints the outcome of each."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of one file with one recipe; text: the error, or the pixels in hexadecimal if asked for."""

    path: str
    recipe: str
    kind: str
    text: str
    seconds: float

    @property
    def name(self) -> str:
        return Path(self.path).name


def child(script: str, *words: object, given: str = "", timeout: float = 1000) -> subprocess.CompletedProcess[str]:
    """Runs the script in its own process, which is ended with all that it started."""
    command = [sys.executable, "-c", SCRIPT + script, *map(str, words)]
    one_thread = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # each takes memory of its own
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, text=True, start_new_session=True, env=one_thread, **pipes) as process:
        try:
            out, err = process.communicate(given, timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def outcomes(paths: Iterable[Path], *words: str, recipes: Iterable[str] = ("fashion", "photo")) -> list[Outcome]:
    """The outcomes of each file with each recipe; if a file ends the process, a new one goes on after it."""
    jobs, made = [(str(path), recipe) for path in paths for recipe in recipes], list[Outcome]()
    while len(made) < len(jobs):
        done = child(READER, *words, given=json.dumps(jobs[len(made) :]))
        made += [Outcome(*json.loads(line)) for line in done.stdout.splitlines()]
        if done.returncode:
            made.append(Outcome(*jobs[len(made)], f"the process ended with {done.returncode}", done.stderr[-300:], 0))
    return made


def in_two_processes(paths: list[Path], *words: str) -> list[Outcome]:
    with ThreadPoolExecutor(2) as pool:
        return sum(pool.map(lambda half: outcomes(half, *words), (paths[::2], paths[1::2])), [])


def expect_images_or_one_line(found: Iterable[Outcome], note: str = "") -> None:
    wrong = [
        f"{one.path} by {one.recipe}: {one.kind} after {one.seconds:.1f} s {one.text[:300]}"
        for one in found
        if one.kind not in ("image", "refused") or one.seconds > SECONDS
    ]
    assert not wrong, "\n".join([note, *wrong])


def written(folder: Path, files: Mapping[str, bytes | hostile.File]) -> list[Path]:
    """Makes the files, two at a time."""

    def write(name: str) -> Path:
        data = files[name]
        (folder / name).write_bytes(data if isinstance(data, bytes) else data())
        return folder / name

    folder.mkdir(exist_ok=True)
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(write, files))


@pytest.fixture(scope="module")
def bombs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Path]]:
    folder = tmp_path_factory.mktemp("bombs")
    yield written(folder, hostile.BOMBS)
    shutil.rmtree(folder)  # 300 MB


@pytest.fixture(scope="module")
def huge(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return written(tmp_path_factory.mktemp("huge"), hostile.HUGE)


# Whatever the file is: an image or one line.


def _mutant_of(path: Path, seed: str) -> hostile.File:
    return lambda: hostile.mutant(path.read_bytes(), Random(seed))


def mutants(folder: Path, seed: int, count: int) -> list[Path]:
    """That many mutants of each format; the same ones for the same seed."""
    goods = {ending: [make() for make in makes] for ending, makes in hostile.BASES.items()}
    return written(
        folder,
        {
            f"{number:05d}.{ending}": hostile.mutant(good[number % len(good)], Random(f"{seed} {ending} {number}"))
            for ending, good in goods.items()
            for number in range(count)
        },
    )


@pytest.mark.long
def test_a_mutated_picture_is_an_image_or_one_line(tmp_path: Path) -> None:
    found = in_two_processes(mutants(tmp_path / "mutants", seed=16, count=60))
    expect_images_or_one_line(found, "seed 16")
    counts = Counter((Path(one.path).suffix, one.kind) for one in found)
    assert all(counts[f".{ending}", kind] > 5 for ending in hostile.BASES for kind in ("image", "refused")), counts


@pytest.mark.long
def test_a_bomb_is_an_image_or_one_line(bombs: list[Path]) -> None:
    expect_images_or_one_line(in_two_processes(bombs))


@pytest.mark.long
def test_an_unreadable_picture_keeps_no_memory(bombs: list[Path]) -> None:
    """Each attempt needs 400 MB of the 1.2 GB, so a few that were never freed would change the message."""
    found = outcomes([path for path in bombs if path.name == "cut.png"] * 4)
    assert {(one.kind, one.text) for one in found} == {("refused", found[0].text)}
    assert "damaged or cut short" in found[0].text


@pytest.mark.slow
def test_twenty_times_as_many_mutants_and_mutated_bombs_are_images_or_one_line(
    tmp_path: Path, bombs: list[Path]
) -> None:
    seed = int(os.environ.get("SEED") or secrets.randbits(32))
    note = f"repeat with SEED={seed}"
    expect_images_or_one_line(in_two_processes(mutants(tmp_path / "mutants", seed, count=1200)), note)
    for number in range(20):
        files = {path.name: _mutant_of(path, f"{seed} {path.name} {number}") for path in bombs}
        expect_images_or_one_line(in_two_processes(written(tmp_path / "bombs", files)), note)
    shutil.rmtree(tmp_path / "bombs")


# Large honest pictures are read.


@pytest.mark.long
def test_a_hundred_megapixels_are_read_as_what_they_show(huge: list[Path]) -> None:
    """Within 3 pixels of an edge the recipes' filters change the colours; elsewhere JPEG does by 3 levels at most."""
    expect_images_or_one_line(found := in_two_processes(huge, "pixels"))
    for one in found:
        assert one.kind == "image", one
        size, channels = (28, 1) if one.recipe == "fashion" else (64, 3)
        made = np.frombuffer(bytes.fromhex(one.text), np.uint8).reshape(size, size, channels).astype(int)
        grey = int(Image.new("RGB", (1, 1), hostile.ITEM).convert("L").getpixel((0, 0)))  # type: ignore[arg-type]
        if one.recipe == "fashion":  # the item fills the height, light on black
            left, top, right, bottom, colour, around = 5, 0, 24, 28, 255 - grey, 0
        else:
            left, top, right, bottom = (round(edge * 64 / hostile.SIDE) for edge in hostile.BOX)
            colour, around = (grey if "grey" in one.name else hostile.ITEM), 255
        assert np.abs(made[top + 3 : bottom - 3, left + 3 : right - 3] - colour).max() <= 3, one.name
        outside = np.ones((size, size), bool)
        outside[max(0, top - 3) : bottom + 3, left - 3 : right + 3] = False
        assert np.abs(made[outside] - around).max() <= 3, one.name


@pytest.mark.long
def test_a_folder_of_huge_pictures_and_bombs_takes_less_than_a_gigabyte_on_sixteen_cores(
    tmp_path: Path, bombs: list[Path], huge: list[Path]
) -> None:
    folder = tmp_path / "photos"
    good = written(folder, {f"small{row}.png": hostile.saved(hostile.small(), "PNG") for row in range(20)})
    for path in huge * 2:
        good.append(folder / f"{len(good)}-{path.name}")
        os.link(path, good[-1])
    for path in bombs:
        for row in range(4 if path.name == "cut.png" or path.stat().st_size > 5_000_000 else 1):
            os.link(path, folder / f"bomb{row}-{path.name}")
    script = """
import resource
resource.setrlimit(resource.RLIMIT_DATA, (4_000_000_000,) * 2)
os.cpu_count, os.sched_getaffinity = (lambda: 16), (lambda process: set(range(16)))
told = []
pictures = load(sys.argv[1], ImageSpec(), notice=told.append)
peak = Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]
print(json.dumps([pictures.ids, told, int(peak) * 1024]))
"""
    done = child(script, folder)
    assert done.returncode == 0, done.stderr
    ids, told, peak = json.loads(done.stdout)
    assert {path.name for path in good} <= set(ids), told
    assert peak < 1_000_000_000


# Programs and documents that pose as pictures.

WATCHED = """
from simrec.cli import main
started = []
def watch(event, arguments):
    if event in ("subprocess.Popen", "os.exec", "os.posix_spawn", "os.system", "os.fork", "os.forkpty", "pty.spawn"):
        started.append([event, repr(arguments)[:200]])
        raise RuntimeError("no process may be started")
sys.addaudithook(watch)
folder, *alone = map(Path, sys.argv[1:])
files = {path.name: read(path, "fashion") for path in sorted(folder.iterdir())}
told = []
ids = load(str(folder), ImageSpec(), notice=told.append).ids
answers = {}
for path in alone:
    sys.stdout, sys.stderr = io.StringIO(), io.StringIO()
    try:
        status = main(["--quiet", "similar", str(path), "--format", "csv"]) or 0
    except SystemExit as leaving:
        status = leaving.code or 0
    answers[path.name] = [status, sys.stderr.getvalue()]
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
print(json.dumps([started, files, ids, answers]))
"""


@pytest.mark.long
@pytest.mark.external
def test_no_program_is_run_and_no_file_written_whatever_a_file_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Needs Debian's ghostscript, which writes the file if it is given the program: so does Pillow, left to itself."""
    place, folder = tmp_path / "place", tmp_path / "photos"
    place.mkdir()
    monkeypatch.setenv("TMPDIR", str(place))
    programs = hostile.programs(str(place / "canary"))
    endings = ("png", "jpg", "webp", "gif", "tif", "bmp", "avif", "ppm", "ico", "tga", "jp2")
    paths = written(folder, {f"{name}.{ending}": data for name, data in programs.items() for ending in endings})
    assert shutil.which("gs"), "install ghostscript"
    render = ["gs", "-q", "-dBATCH", "-dNOPAUSE", "-dSAFER", "-sDEVICE=nullpage", folder / "writes.png"]
    subprocess.run(render, check=True)
    assert (place / "canary").read_text() == "run"
    (place / "canary").unlink()

    done = child(WATCHED, folder, *(path for path in paths if path.suffix == ".png"), timeout=100)
    assert done.returncode == 0, done.stderr
    started, found, ids, answers = json.loads(done.stdout)
    assert started == []
    assert list(place.iterdir()) == []
    readable = {path.name for path in paths if path.name.startswith("png-then-")}
    assert {name for name, (kind, _) in found.items() if kind == "image"} == set(ids) == readable
    assert all(": not a picture: " in found[path.name][1] for path in paths if path.name not in readable), found
    for name, (status, said) in answers.items():
        assert (status, len(said.splitlines())) == ((0, 0) if name in readable else (1, 1)), (name, status, said)
    alone = images.read(io.BytesIO(hostile.saved(hostile.small(), "PNG")), ImageSpec(), "it")
    assert all((images.read(folder / name, ImageSpec()) == alone).all() for name in readable)


# In brief, for every run.


def refused(path: Path) -> str:
    """The one-line error of a file that is refused within two seconds, in a process with 1.2 GB."""
    (one,) = outcomes([path], recipes=["fashion"])
    assert one.kind == "refused", one
    assert one.seconds < 2
    return one.text


def test_a_program_in_postscript_is_not_a_picture_whatever_its_name(tmp_path: Path) -> None:
    (tmp_path / "shoe.png").write_bytes(hostile.programs(str(tmp_path / "canary"))["writes"])
    with pytest.raises(ImageError, match=r"shoe\.png: not a picture"):
        images.read(tmp_path / "shoe.png", ImageSpec())


def test_a_small_file_that_claims_a_huge_picture_is_refused_at_once(tmp_path: Path) -> None:
    names = ("lossless.webp", "extended.webp", "smaller.webp")
    for path in written(tmp_path / "bombs", {name: hostile.BOMBS[name] for name in names}):
        assert path.stat().st_size in (34, 52)
        assert "too many" in refused(path)


def test_a_progressive_jpeg_of_thousands_of_scans_is_refused_at_once(tmp_path: Path) -> None:
    assert "scans" in refused(*written(tmp_path / "scans", {"scans.jpg": lambda: hostile.scans(3000, 2000)}))


def test_an_icon_that_holds_a_larger_picture_than_it_lists_is_refused(tmp_path: Path) -> None:
    inner = hostile.png(5000, 5000, 8, 0, pixels=hostile.zeros(5000 * 5001))
    assert "too many" in refused(*written(tmp_path / "icons", {"small.ico": hostile.ico(inner)}))


def test_a_pipe_instead_of_a_picture_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    refused(tmp_path / "pipe.png")


def test_no_warning_of_a_decoder_reaches_anyone_when_several_threads_read(tmp_path: Path) -> None:
    """Pillow warns about each of these files; if warnings were errors, reading would fail."""
    files = {
        "frames.png": hostile.png(9, 9, 8, 0, hostile.chunk(b"acTL", struct.pack(">II", 0, 0))),
        "exif.png": hostile.png(9, 9, 8, 0, hostile.chunk(b"eXIf", hostile.greedy_tags(5))),
        "large.png": hostile.png(9500, 9500, 1, 0, pixels=hostile.zeros(9500 * (9500 // 8 + 2))),
    }
    paths = written(tmp_path / "odd", files)
    script = """
from concurrent.futures import ThreadPoolExecutor
warnings.simplefilter("error")
filters = list(warnings.filters)
with ThreadPoolExecutor(8) as pool:
    kinds = [kind for kind, _ in pool.map(read, sys.argv[1:] + sys.argv[1:3] * 300, ["fashion"] * 603)]
assert warnings.filters == filters
print(json.dumps(kinds))
"""
    done = child(script, *paths)
    assert done.stderr == ""
    assert set(json.loads(done.stdout)) == {"image"}
