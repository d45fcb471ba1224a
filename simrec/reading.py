"""Entries of a source to a batch: picture files decoded on all cores, or pictures that lie in an array.

Decoding one picture is many short steps in Python, which threads take one after the other. So once a source has more
than a few hundred files they are decoded by processes of our own, which know nothing but `simrec.images`; what one of
them can't read, or dies of, is read again on its own. A process that nobody has asked for a while ends.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import queue
import select
import struct
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

import msgspec
import numpy as np

from simrec import images, picture_files
from simrec.contracts import Batch, Entry, Images, ImageSpec, content
from simrec.errors import ImageError

ALONE = 400
"""Files that this process decodes itself before it starts others."""

AT_ONCE = 16
"""Files that a process is asked for at a time."""

IDLE = 20.0
"""Seconds without a question after which a process ends."""

# -P: the simrec that is running, not one that happens to lie in the current folder.
COMMAND = [sys.executable, "-P", "-c", "from simrec.reading import serve; serve()"]
"""What starts a process."""

READY = b"ready"
"""What a process says first."""


class _Asked(msgspec.Struct):
    """What a process is asked for: the bytes of files' paths, and the encoder's spec."""

    paths: list[bytes]
    spec: ImageSpec


_Answer = tuple[bytes, bytes, str, tuple[int, int]] | None
"""What a process answers for a file: pixels, preview, content, size; None where it couldn't read it."""


def read_files(entries: Sequence[Entry], paths: Sequence[Path], spec: ImageSpec) -> Batch:
    """The pictures of entries, each in the file of the path beside it, decoded on all cores.

    Their widths and heights in pixels become fields.
    """
    parts = [paths[start : start + AT_ONCE] for start in range(0, len(paths), AT_ONCE)]
    outcomes = [outcome for part in _threads().map(lambda part: _read(part, spec), parts) for outcome in part]
    good: list[tuple[Entry, images.Read]] = []
    errors: list[tuple[Entry, ImageError]] = []
    for entry, outcome in zip(entries, outcomes, strict=True):
        if isinstance(outcome, ImageError):
            errors.append((entry, outcome))
        else:
            good.append((entry, outcome))
    pixels = np.empty((len(good), *spec.shape), np.uint8)
    for row, (_, read) in enumerate(good):
        pixels[row] = read.image
    return Batch(
        [entry for entry, _ in good], pixels, [read.preview for _, read in good], [read.content for _, read in good],
        errors, [{"width": read.size[0], "height": read.size[1]} for _, read in good],
    )  # fmt: skip


def digests(paths: Sequence[Path]) -> list[str | None]:
    """`content` of each file, without decoding it; None for one that can't be read or is too long for a picture."""
    return list(_threads().map(_digest, paths))


def _digest(path: Path) -> str | None:
    try:
        with picture_files.contents(path, str(path)) as data:
            return picture_files.digest(data)
    except ImageError:
        return None


def batch(entries: Sequence[Entry], pictures: Images, spec: ImageSpec) -> Batch:
    """The pictures of entries that lie in an array (n, h, w, c): a data set's."""
    contents = [content(picture.tobytes()) for picture in pictures]
    shown = [images.preview(images.as_picture(picture)) for picture in pictures]
    if pictures.shape[1:] == spec.shape:
        return Batch(entries, pictures, shown, contents)
    prepared = np.empty((len(pictures), *spec.shape), np.uint8)
    for row, picture in enumerate(pictures):
        prepared[row] = images.prepare(images.as_picture(picture), spec)
    return Batch(entries, prepared, shown, contents)


def _read(paths: Sequence[Path], spec: ImageSpec) -> list[images.Read | ImageError]:
    """Some files, by a process where there is one."""
    answers: Sequence[_Answer] = [None] * len(paths)
    if _processes.wanted(len(paths)):
        try:
            answers = _processes.ask(paths, spec)
        except ChildProcessError:
            if len(paths) > 1:
                return [outcome for path in paths for outcome in _read([path], spec)]
            return [ImageError(f"{paths[0]}: its decoder crashes: save it again")]
    return [
        _alone(path, spec)
        if answer is None
        else images.Read(np.frombuffer(answer[0], np.uint8).reshape(spec.shape), *answer[1:])
        for path, answer in zip(paths, answers, strict=True)
    ]


def _alone(path: Path, spec: ImageSpec) -> images.Read | ImageError:
    try:
        return images.read_with_preview(path, spec)
    except ImageError as error:
        return ImageError(str(error))  # without its traceback, which would keep the picture


@functools.cache
def _threads() -> ThreadPoolExecutor:
    """The threads that read files, for all who read in this process."""
    return ThreadPoolExecutor(os.cpu_count(), "simrec-reading")


class _Processes:
    """The processes that decode, as many as there are cores, started when they are first needed."""

    def __init__(self) -> None:
        self._count = 0
        self._possible = (os.cpu_count() or 1) > 1
        self._counting = threading.Lock()
        self._idle: queue.SimpleQueue[subprocess.Popen[bytes]] = queue.SimpleQueue()

    def wanted(self, count: int) -> bool:
        """Counts files that are read; whether these are for other processes."""
        with self._counting:
            self._count += count
            return self._count > ALONE and self._possible

    def ask(self, paths: Sequence[Path], spec: ImageSpec) -> Sequence[_Answer]:
        """What a process answers, None for each file where there can be none.

        Raises ChildProcessError when it died of one of them.
        """
        asked = msgspec.msgpack.encode(_Asked([os.fsencode(path.absolute()) for path in paths], spec))
        try:
            process: subprocess.Popen[bytes] | None = self._idle.get_nowait()
        except queue.Empty:
            process = self._started()
        for _ in range(2):  # one that has been idle for too long has ended
            if process is None:
                return [None] * len(paths)
            try:
                _send(_pipe(process.stdin), asked)
                answers = msgspec.msgpack.decode(_received(_pipe(process.stdout)), type=list[_Answer])
            except (OSError, struct.error, msgspec.MsgspecError):
                _ended(process)
                process = self._started()
            else:
                self._idle.put(process)
                return answers
        if process is not None:
            self._idle.put(process)
        raise ChildProcessError

    def _started(self) -> subprocess.Popen[bytes] | None:
        """A new process, None where there can be none, as in a program that has Python built in."""
        try:
            # A session of its own: Ctrl-C is for this process, and one that it reached would seem to have crashed.
            process = subprocess.Popen(
                COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip
        except OSError:
            self._possible = False
            return None
        with contextlib.suppress(OSError, struct.error):
            if _received(_pipe(process.stdout)) == READY:
                return process
        self._possible = False
        _ended(process)
        return None

    def end(self) -> None:
        """Ends them all."""
        with contextlib.suppress(queue.Empty):
            while True:
                _ended(self._idle.get_nowait())


_processes = _Processes()
atexit.register(_processes.end)


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe


def _ended(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    for pipe in (process.stdin, process.stdout):
        with contextlib.suppress(OSError):
            _pipe(pipe).close()
    process.wait()


def serve() -> None:
    """What such a process does: it answers until nobody asks any more."""
    picture_files.limit(picture_files.BUDGET // (os.cpu_count() or 1))
    questions, answers = sys.stdin.buffer, sys.stdout.buffer
    with contextlib.suppress(OSError, struct.error, KeyboardInterrupt):
        _send(answers, READY)
        while os.name == "nt" or select.select([questions], [], [], IDLE)[0]:
            asked = msgspec.msgpack.decode(_received(questions), type=_Asked)
            _send(answers, msgspec.msgpack.encode([_answer(path, asked.spec) for path in asked.paths]))


def _answer(path: bytes, spec: ImageSpec) -> _Answer:
    read = _alone(Path(os.fsdecode(path)), spec)
    return None if isinstance(read, ImageError) else (read.image.tobytes(), read.preview, read.content, read.size)


def _send(pipe: IO[bytes], data: bytes) -> None:
    pipe.write(struct.pack("<Q", len(data)))
    pipe.write(data)
    pipe.flush()


def _received(pipe: IO[bytes]) -> bytes:
    """What was sent. Raises struct.error at the end of the pipe."""
    (length,) = struct.unpack("<Q", pipe.read(8))
    return pipe.read(length)
