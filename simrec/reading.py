"""Reads a source's entries into a batch: picture files, decoded on all cores, or pictures from an array.

Decoding a picture takes many short steps in Python, which threads can't take at the same time. So once a source has
more than a few hundred files, separate processes decode them, which know only `simrec.images`. Files that one of them
can't read, or dies of, are read again one by one. An idle process ends after a while. Such processes decode uploads
too, if there are several at a time.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import io
import os
import queue
import select
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
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
"""How many files a process is asked for at a time."""

IDLE = 20.0
"""Seconds after which an idle process ends."""

# -P: the simrec that is running, not one that happens to lie in the current folder.
COMMAND = [sys.executable, "-P", "-c", "from simrec.reading import serve; serve()"]
"""The command that starts a process; one argument follows, the memory that pictures may take in bytes."""

UPLOADS = 100_000_000
"""Memory that a picture may take in a process for uploads, in bytes; this process decodes larger ones."""

PATIENCE = 10.0
"""Seconds that an upload waits for a process before this one decodes it."""

READY = b"ready"
"""What a process sends first."""


class _Asked(msgspec.Struct):
    """A question to a process: paths of files as bytes, or an upload and its part; and the encoder's spec."""

    paths: list[bytes]
    spec: ImageSpec
    upload: bytes | None = None
    crop: images.Crop | None = None


_Answer = tuple[bytes, bytes, str, tuple[int, int]] | None
"""What a process answers for a file: pixels, preview, content, size; None if it couldn't read it."""


def read_files(entries: Sequence[Entry], paths: Sequence[Path], spec: ImageSpec) -> Batch:
    """Decodes the picture files of entries on all cores. paths: one for each entry.

    Widths and heights in pixels become fields.
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


def read_upload(data: bytes, spec: ImageSpec, name: str, crop: images.Crop | None = None) -> images.Read:
    """Reads an uploaded picture file, or a part of it, without a preview: see `images.read_with_preview`.

    name: what to call it in an error. Raises ImageError if it can't be read, or a decoder dies of it.
    """
    with _uploads.reading() as process:
        if process is not None:
            answer = _uploads.ask(process, _Asked([], spec, data, crop), name)
            if answer is not None:
                return images.Read(np.frombuffer(answer[0], np.uint8).reshape(spec.shape), *answer[1:])
        return images.read_with_preview(io.BytesIO(data), spec, name, shown=False, crop=crop)


def digests(paths: Sequence[Path]) -> list[str | None]:
    """The `content` of each file, without decoding it; None for one that can't be read or is too large."""
    return list(_threads().map(_digest, paths))


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
        return ImageError(str(error))  # without the traceback, which would keep the picture in memory


@functools.cache
def _threads() -> ThreadPoolExecutor:
    """The threads that read files, shared by this whole process."""
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
        asked = _Asked([os.fsencode(path.absolute()) for path in paths], spec)
        try:
            process: subprocess.Popen[bytes] | None = self._idle.get_nowait()
        except queue.Empty:
            process = self._started()
        for _ in range(2):  # a process that was idle for too long has ended
            if process is None:
                return [None] * len(paths)
            try:
                answers = _answers(process, asked)
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
        process = _started(picture_files.BUDGET // (os.cpu_count() or 1))
        self._possible = process is not None
        return process

    def end(self) -> None:
        """Ends all idle processes."""
        with contextlib.suppress(queue.Empty):
            while True:
                _ended(self._idle.get_nowait())


class _Uploads:
    """The processes that decode uploads, as many as there are cores. They start when uploads first come at the same
    time; those don't wait for them. An upload that comes alone is decoded faster in this process.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reading = self._running = self._ready = 0
        self._most = os.cpu_count() or 1
        self._possible = self._most > 1
        self._idle: queue.SimpleQueue[subprocess.Popen[bytes]] = queue.SimpleQueue()

    @contextlib.contextmanager
    def reading(self) -> Iterator[subprocess.Popen[bytes] | None]:
        """A process for an upload that is read in the block; None if this process should decode it."""
        with self._lock:
            self._reading += 1
            several = self._reading > 1 and self._possible
            start, ready = several and self._running < self._most, several and self._ready > 0
            self._running += start
        if start:
            threading.Thread(target=self._start, daemon=True).start()
        process = None
        try:
            if ready:
                with contextlib.suppress(queue.Empty):
                    process = self._idle.get(timeout=PATIENCE)
                if process is not None and process.poll() is not None:  # it was idle for too long
                    self._lost(process)
                    process = None
            yield process
        finally:
            if process is not None and process.returncode is None:
                self._idle.put(process)
            with self._lock:
                self._reading -= 1

    def ask(self, process: subprocess.Popen[bytes], asked: _Asked, name: str) -> _Answer:
        """A process's answer. Raises ImageError if it dies of the upload."""
        try:
            (answer,) = _answers(process, asked)
        except ChildProcessError:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(1)
            self._lost(process)
            if process.returncode == 0:  # it was idle for too long just before it was asked
                return None
            raise ImageError(f"{name}: its decoder crashes: save it again") from None
        return answer

    def _start(self) -> None:
        process = _started(UPLOADS)
        with self._lock:
            self._possible &= process is not None
            if self._possible:
                self._ready += 1
            else:
                self._running -= 1
        if process is not None:
            self._idle.put(process) if self._possible else _ended(process)

    def _lost(self, process: subprocess.Popen[bytes]) -> None:
        _ended(process)
        with self._lock:
            self._running -= 1
            self._ready -= 1

    def end(self) -> None:
        """Ends all idle processes, and starts no more."""
        with self._lock:
            self._possible = False
        with contextlib.suppress(queue.Empty):
            while True:
                _ended(self._idle.get_nowait())


_processes, _uploads = _Processes(), _Uploads()
atexit.register(_processes.end)
atexit.register(_uploads.end)


def _started(budget: int) -> subprocess.Popen[bytes] | None:
    """A new process; None if none can be started, for example in a program with Python built in. budget: memory that
    the pictures it decodes may take together, in bytes.
    """
    try:
        # A session of its own, so that Ctrl-C doesn't reach it: it would seem to have crashed.
        process = subprocess.Popen(
            [*COMMAND, str(budget)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
    except OSError:
        return None
    with contextlib.suppress(OSError, struct.error):
        if _received(_pipe(process.stdout)) == READY:
            return process
    _ended(process)
    return None


def _answers(process: subprocess.Popen[bytes], asked: _Asked) -> list[_Answer]:
    """A process's answers. Raises ChildProcessError if it has ended, or ends because of the question."""
    try:
        _send(_pipe(process.stdin), msgspec.msgpack.encode(asked))
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
            asked = msgspec.msgpack.decode(_received(questions), type=_Asked)
            files = [Path(os.fsdecode(path)) for path in asked.paths]
            reads = [_alone(file, asked.spec) for file in files] if asked.upload is None else [_uploaded(asked)]
            _send(answers, msgspec.msgpack.encode([_answer(read) for read in reads]))


def _uploaded(asked: _Asked) -> images.Read | ImageError:
    try:
        upload = io.BytesIO(asked.upload or b"")
        return images.read_with_preview(upload, asked.spec, "an upload", shown=False, crop=asked.crop)
    except ImageError as error:
        return error


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
