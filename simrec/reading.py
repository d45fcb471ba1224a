"""Reads a source's entries into a batch: picture files, decoded on all cores, or pictures from an array.

Decoding a picture takes many short steps in Python, which threads can't take at the same time. So once a source has
more than a few hundred files, separate processes decode them, which know only `simrec.images`. Files that one of them
can't read, or dies of, are read again one by one. An idle process ends after a while.
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
"""How many files this process decodes itself before it starts others."""

AT_ONCE = 16
"""How many files a process gets at a time."""

IDLE = 20.0
"""Seconds after which an idle process ends."""

# -P: the simrec that is running, not one that happens to lie in the current folder.
COMMAND = [sys.executable, "-P", "-c", "from simrec.reading import serve; serve()"]
"""The command that starts a process; one argument follows, the memory that pictures may take in bytes."""

READY = b"ready"
"""What a process sends first."""


class _Request(msgspec.Struct):
    """A question to a process: paths of files as bytes, and the encoder's spec."""

    paths: list[bytes]
    spec: ImageSpec


_Answer = tuple[bytes, bytes, str, tuple[int, int]] | None
"""What a process answers for a file: pixels, preview, content, size; None if it couldn't read it."""


def read_files(entries: Sequence[Entry], paths: Sequence[Path], spec: ImageSpec) -> Batch:
    """Decodes the picture files of entries on all cores. paths: one for each entry.

    Widths and heights in pixels become fields.
    """
    parts = [paths[start : start + AT_ONCE] for start in range(0, len(paths), AT_ONCE)]
    threads = _threads(os.getpid())
    outcomes = [outcome for part in threads.map(lambda part: _read(part, spec), parts) for outcome in part]
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
    """The `content` of each file, without decoding it; None for one that can't be read or is too large."""
    return list(_threads(os.getpid()).map(_digest, paths))


def _digest(path: Path) -> str | None:
    try:
        with picture_files.contents(path, str(path)) as data:
            return picture_files.digest(data)
    except ImageError:
        return None


def batch(entries: Sequence[Entry], pictures: Images, spec: ImageSpec) -> Batch:
    """Makes a batch of entries whose pictures are an array (n, h, w, c), as in a data set."""
    contents = [content(picture.tobytes()) for picture in pictures]
    shown = [images.preview(images.as_picture(picture)) for picture in pictures]
    if pictures.shape[1:] == spec.shape:
        return Batch(entries, pictures, shown, contents)
    prepared = np.empty((len(pictures), *spec.shape), np.uint8)
    for row, picture in enumerate(pictures):
        prepared[row] = images.prepare(images.as_picture(picture), spec)
    return Batch(entries, prepared, shown, contents)


def _read(paths: Sequence[Path], spec: ImageSpec) -> list[images.Read | ImageError]:
    """Reads some files, in another process if there is one."""
    answers: Sequence[_Answer] = [None] * len(paths)
    decoders = _processes(os.getpid())
    if decoders.wanted(len(paths)):
        try:
            answers = decoders.ask(paths, spec)
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
        return ImageError(str(error))  # without the traceback, which would keep the picture in memory


@functools.cache
def _threads(process: int) -> ThreadPoolExecutor:
    """The threads that read files in this process. process: its number, as a fork copies no threads."""
    return ThreadPoolExecutor(os.cpu_count(), "simrec-reading")


class _Processes:
    """The processes that decode files: as many as there are cores, started when they are first needed."""

    def __init__(self) -> None:
        self._count = 0
        self._possible = (os.cpu_count() or 1) > 1
        self._counting = threading.Lock()
        self._idle: queue.SimpleQueue[subprocess.Popen[bytes]] = queue.SimpleQueue()

    def wanted(self, count: int) -> bool:
        """Counts files that are read; returns whether other processes should decode these."""
        with self._counting:
            self._count += count
            return self._count > ALONE and self._possible

    def ask(self, paths: Sequence[Path], spec: ImageSpec) -> Sequence[_Answer]:
        """A process's answers; None for each file if no process can be started.

        Raises ChildProcessError if it died of one of the files.
        """
        request = _Request([os.fsencode(path.absolute()) for path in paths], spec)
        try:
            process: subprocess.Popen[bytes] | None = self._idle.get_nowait()
        except queue.Empty:
            process = self._started()
        for _ in range(2):  # a process that was idle for too long has ended
            if process is None:
                return [None] * len(paths)
            try:
                answers = _answers(process, request)
            except ChildProcessError:
                _ended(process)
                process = self._started()
            else:
                self._idle.put(process)
                return answers
        if process is not None:
            self._idle.put(process)
        raise ChildProcessError

    def _started(self) -> subprocess.Popen[bytes] | None:
        process = _started()
        self._possible = process is not None
        return process

    def end(self) -> None:
        """Ends all idle processes."""
        with contextlib.suppress(queue.Empty):
            while True:
                _ended(self._idle.get_nowait())


@functools.cache
def _processes(process: int) -> _Processes:
    """The processes that decode files for this one. process: its number, as a fork must not ask those of its parent:
    both would write into the same pipes.
    """
    return _Processes()


@atexit.register
def _end() -> None:
    _processes(os.getpid()).end()


def _started() -> subprocess.Popen[bytes] | None:
    """A new process; None if none can be started, for example in a program with Python built in."""
    budget = picture_files.BUDGET // (os.cpu_count() or 1)
    try:
        # A session of its own, so that Ctrl-C doesn't reach it: it would seem to have crashed.
        process = subprocess.Popen(
            [*COMMAND, str(budget)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            start_new_session=True, env={**picture_files.MALLOC, **os.environ},
        )  # fmt: skip
    except OSError:
        return None
    with contextlib.suppress(OSError, struct.error):
        if _received(_pipe(process.stdout)) == READY:
            return process
    _ended(process)
    return None


def _answers(process: subprocess.Popen[bytes], request: _Request) -> list[_Answer]:
    """A process's answers. Raises ChildProcessError if it has ended, or ends because of the question."""
    try:
        _send(_pipe(process.stdin), msgspec.msgpack.encode(request))
        return msgspec.msgpack.decode(_received(_pipe(process.stdout)), type=list[_Answer])
    except (OSError, struct.error, msgspec.MsgspecError) as error:
        raise ChildProcessError from error


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
    """Runs such a process: answers until no question comes for a while."""
    picture_files.limit(int(sys.argv[1]))
    questions, answers = sys.stdin.buffer, sys.stdout.buffer
    with contextlib.suppress(OSError, struct.error, KeyboardInterrupt):
        _send(answers, READY)
        while os.name == "nt" or select.select([questions], [], [], IDLE)[0]:
            request = msgspec.msgpack.decode(_received(questions), type=_Request)
            files = [Path(os.fsdecode(path)) for path in request.paths]
            reads = [_alone(file, request.spec) for file in files]
            _send(answers, msgspec.msgpack.encode([_answer(read) for read in reads]))


def _answer(read: images.Read | ImageError) -> _Answer:
    return None if isinstance(read, ImageError) else (read.image.tobytes(), read.preview, read.content, read.size)


def _send(pipe: IO[bytes], data: bytes) -> None:
    pipe.write(struct.pack("<Q", len(data)))
    pipe.write(data)
    pipe.flush()


def _received(pipe: IO[bytes]) -> bytes:
    """The next message in a pipe. Raises struct.error at its end."""
    (length,) = struct.unpack("<Q", pipe.read(8))
    return pipe.read(length)
