"""Runs the server in several processes, which answer on one socket: Python uses only one core in each.

This process loads no encoder. It starts the others, starts another one if one dies, and ends them.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from socket import socket
from types import FrameType
from typing import NoReturn, cast

from simrec import picture_files
from simrec.contracts import Notice
from simrec.errors import RequestError, SimrecError
from simrec.serve import metrics, shelf
from simrec.serve.running import ALONE, ENDING, Address, Share, run

BUDGET = 400_000_000
"""Bytes that a picture may take while it is decoded, so that the whole server stays under 1 GB; see `limit`."""


ABSENT = 2**31 - 1
"""Stands for the number of connections of a process that takes none yet."""

PAUSE = 10
"""Seconds until a process that couldn't start is started again."""

SIGNALS = (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))
"""The signals that end the server."""


@dataclass(frozen=True)
class Task:
    """What to serve. names: the recommenders; home: the folder they are in. workers: how many processes do it.
    optional: whether to go on if one of the recommenders can't answer.
    """

    names: Sequence[str]
    home: Path | None
    address: Address
    notice: Notice
    workers: int = 1
    optional: bool = False

    def run(self, listening: socket, ready: Callable[[], None], share: Share = ALONE) -> None:
        """Serves in this process until it is interrupted. ready: called when the first request needn't wait."""
        picture_files.limit(BUDGET, share.workers, None if share.folder is None else share.folder / "large")
        served = shelf.opened(self.names, self.home, self.notice)
        for one in served.served.values():
            try:
                one.warm()
            except SimrecError as error:
                if not self.optional:
                    raise
                if share.place == 0:  # the other processes would say the same
                    self.notice(str(error))
        run(served, self.address, listening, share=share, ready=ready)


def run_all(task: Task, listening: socket, ready: Callable[[], None]) -> None:
    """Serves in `task.workers` processes until this one is interrupted or terminated.

    ready: called when one of them is ready. Raises SimrecError if one can't start before.
    """
    if task.workers == 1:
        task.run(listening, ready)
        return
    with _terminable(), _folder() as folder:
        crew = _Crew(task, listening, Path(folder))
        try:
            crew.work(ready)
        finally:
            crew.end()


class _Crew:
    """The processes."""

    def __init__(self, task: Task, listening: socket, folder: Path) -> None:
        self._task, self._listening, self._folder = task, listening, folder
        self._context = multiprocessing.get_context("spawn")
        self._open = self._context.RawArray("i", [ABSENT] * task.workers)
        self._processes: dict[int, tuple[SpawnProcess, Connection]] = {}

    def work(self, ready: Callable[[], None]) -> NoReturn:
        """Keeps as many processes running as there should be; returns only by an exception."""
        answering: set[int] = set()
        begun = False
        while True:
            for place in range(self._task.workers):
                if place not in self._processes:
                    self._start(place)
            wait([said for _, said in self._processes.values()])
            for place, (_, said) in list(self._processes.items()):
                if not said.poll():
                    continue
                try:
                    error = said.recv()
                except EOFError:
                    error = ""
                if error is None:
                    answering.add(place)
                    if not begun:
                        ready()
                        begun = True
                    continue
                error = self._ended(place, error)
                if place in answering:
                    answering.remove(place)
                    self._task.notice("A process of the server died; another one takes its place.")
                elif begun:  # the others still answer
                    self._task.notice(f"{error}. It is tried again in {PAUSE} seconds.")
                    time.sleep(PAUSE)
                else:
                    raise SimrecError(error)

    def end(self) -> None:
        """Ends the processes: first politely."""
        with _undisturbed():
            processes = [process for process, _ in self._processes.values()]
            for process in processes:
                process.terminate()
            for process in processes:
                _end(process)

    def _start(self, place: int) -> None:
        said, saying = self._context.Pipe(duplex=False)
        share = Share(self._open, place, self._folder)
        process = self._context.Process(target=_work, args=(self._task, self._listening, saying, share))
        with _environment({metrics.FOLDER: str(self._folder), **picture_files.MALLOC}):
            with _without_hangups():
                resource_tracker.ensure_running()  # if it started in the next block, it would let Ctrl-C through
            with _undisturbed():
                process.start()
                saying.close()
                self._processes[place] = process, said

    def _ended(self, place: int, error: str) -> str:
        """Takes a process out that has ended or can't start. Returns what went wrong, in a line."""
        process, said = self._processes[place]
        _end(process)
        said.close()
        del self._processes[place]
        self._open[place] = ABSENT
        metrics.dead(cast(int, process.pid), self._folder)
        return error or (
            f"a process of the server ended when it started (status {process.exitcode}): check that there is memory, "
            f"and room in {self._folder.parent}, or name --workers 1"
        )


@contextlib.contextmanager
def _without_hangups() -> Iterator[None]:
    """Lets a process that starts in the block outlive its terminal, as it inherits that SIGHUP is blocked: without the
    resource tracker, the others would warn when they end.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGHUP,))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(task: Task, listening: socket, saying: Connection, share: Share) -> None:
    """What a process does. It says None when it is ready, or what went wrong."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # until the server handles Ctrl-C, `end` ends this process
    _block_interrupts(False)
    threading.Thread(target=_end_with_parent, args=(share.folder,), daemon=True).start()
    try:
        task.run(listening, lambda: saying.send(None), share)
    except SimrecError as error:
        saying.send(str(error))


def _end(process: SpawnProcess) -> None:
    process.join(ENDING + 5)
    process.kill()
    process.join()


def _end_with_parent(folder: Path | None) -> None:
    """Ends this process if the one that started it is killed, and deletes its folder."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        os.kill(os.getpid(), signal.SIGTERM)


def _folder() -> tempfile.TemporaryDirectory[str]:
    try:
        return tempfile.TemporaryDirectory(prefix="simrec-serve-", ignore_cleanup_errors=True)
    except OSError as error:
        said = f"no temporary file can be written ({error.strerror}): set TMPDIR, or name --workers 1"
        raise RequestError(said) from error


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Sets environment variables for processes that start in the block."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Ctrl-C ends the block, even if whoever started this process ignores it; SIGTERM ends it in the same way, and so
    does SIGHUP, when a terminal is closed.
    """

    def end(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    ends = [one for one in SIGNALS if one == signal.SIGINT or signal.getsignal(one) != signal.SIG_IGN]
    before = {one: signal.signal(one, signal.default_int_handler if one == signal.SIGINT else end) for one in ends}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Signals that end the server wait for the end of the block. Processes that start in it have Ctrl-C blocked."""
    came: list[int] = []
    heeded = [one for one in SIGNALS if signal.getsignal(one) != signal.SIG_IGN]  # nohup ignores SIGHUP
    before = {one: signal.signal(one, lambda number, _: came.append(number)) for one in heeded}
    _block_interrupts(True)
    try:
        yield
    finally:
        _block_interrupts(False)
        for one, handler in before.items():
            signal.signal(one, handler)
        for number in came:
            signal.raise_signal(number)


def _block_interrupts(block: bool) -> None:
    """Blocks Ctrl-C, or lets it through. Windows can't."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK if block else signal.SIG_UNBLOCK, (signal.SIGINT,))
