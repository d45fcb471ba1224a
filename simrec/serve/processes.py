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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from socket import socket
from types import FrameType
from typing import NoReturn, cast

from simrec import picture_files
from simrec.contracts import Notice
from simrec.errors import SimrecError
from simrec.serve import metrics, shelf
from simrec.serve.running import ALONE, ENDING, Address, Share, run

BUDGET = 400_000_000
"""Bytes that a picture may take while it is decoded, so that the whole server stays under 1 GB; see `limit`."""


@dataclass(frozen=True)
class Task:
    """What to serve. names: the recommenders; home: the folder they are in. workers: how many processes do it."""

    names: Sequence[str]
    home: Path | None
    address: Address
    notice: Notice
    workers: int = 1

    def run(self, listening: socket, ready: Callable[[], None], share: Share = ALONE) -> None:
        """Serves in this process until it is interrupted. ready: called when the first request needn't wait."""
        picture_files.limit(BUDGET, share.workers, None if share.folder is None else share.folder / "large")
        served = shelf.opened(self.names, self.home, self.notice)
        for one in served.served.values():
            one.warm()
        ready()
        run(served, self.address, listening, share=share)


def run_all(task: Task, listening: socket, ready: Callable[[], None]) -> None:
    """Serves in `task.workers` processes until this one is interrupted or terminated.

    ready: called when one of them is ready. Raises SimrecError if one can't start.
    """
    if task.workers == 1:
        task.run(listening, ready)
        return
    with tempfile.TemporaryDirectory(prefix="simrec-serve-", ignore_cleanup_errors=True) as folder, _terminable():
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
        self._open = self._context.RawArray("i", task.workers)
        self._processes: dict[int, tuple[SpawnProcess, Connection]] = {}

    def work(self, ready: Callable[[], None]) -> NoReturn:
        """Keeps as many processes running as there should be; returns only by an exception."""
        waiting: Callable[[], None] | None = ready
        while True:
            for place in range(self._task.workers):
                if place not in self._processes:
                    self._start(place)
            wait([said for _, said in self._processes.values()])
            for place, (process, said) in list(self._processes.items()):
                if not said.poll():
                    continue
                try:
                    error = said.recv()
                except EOFError:  # it died
                    process.join()
                    del self._processes[place]
                    metrics.dead(cast(int, process.pid), self._folder)
                    if waiting:
                        raise SimrecError(f"a process of the server ended with {process.exitcode}") from None
                    self._task.notice("A process of the server died; another one takes its place.")
                    continue
                if error is not None:
                    raise SimrecError(error)
                if waiting:
                    waiting()
                    waiting = None

    def end(self) -> None:
        """Ends the processes: first politely."""
        processes = [process for process, _ in self._processes.values()]
        for process in processes:
            process.terminate()
        for process in processes:
            process.join(ENDING + 5)
            process.kill()
            process.join()

    def _start(self, place: int) -> None:
        said, saying = self._context.Pipe(duplex=False)
        self._open[place] = 0
        share = Share(self._open, place, self._folder)
        process = self._context.Process(target=_work, args=(self._task, self._listening, saying, share))
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # until the server handles Ctrl-C, the process ignores it
        os.environ[metrics.FOLDER] = str(self._folder)
        try:
            process.start()
        finally:
            signal.signal(signal.SIGINT, before)
            del os.environ[metrics.FOLDER]
        saying.close()
        self._processes[place] = process, said


def _work(task: Task, listening: socket, saying: Connection, share: Share) -> None:
    """What a process does. It says None when it is ready, or what went wrong."""
    threading.Thread(target=_end_with_parent, args=(share.folder,), daemon=True).start()
    try:
        task.run(listening, lambda: saying.send(None), share)
    except SimrecError as error:
        saying.send(str(error))


def _end_with_parent(folder: Path | None) -> None:
    """Ends this process if the one that started it is killed, and deletes its folder."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        os.kill(os.getpid(), signal.SIGTERM)


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Ctrl-C ends the block, even if whoever started this process ignores it, and SIGTERM ends it in the same way."""

    def end(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    handlers = {signal.SIGTERM: end, signal.SIGINT: signal.default_int_handler}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
