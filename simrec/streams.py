"""Streams: cutting them into chunks, computing them ahead of their reader, and threads that share the work."""

from __future__ import annotations

import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cache
from itertools import islice
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")

CORES = os.cpu_count() or 1

PATIENCE = 5.0
"""The longest time that a thread waits for its turn, in seconds."""


def chunks(stream: Iterable[T], size: int) -> Iterator[list[T]]:
    """The stream in lists of that size, the last one shorter."""
    iterator = iter(stream)
    while chunk := list(islice(iterator, size)):
        yield chunk


@contextmanager
def ahead(stream: Iterable[T], count: int = 2) -> Iterator[Iterator[T]]:
    """The same stream, computed in its own thread, at most `count` results ahead of the reader.

    The reader gets the exceptions that the stream raises. When the block ends, so has the thread.
    """
    results: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(count)
    ending = threading.Event()

    def put(result: tuple[T | None, BaseException | None]) -> None:
        while not ending.is_set():
            with suppress(queue.Full):
                results.put(result, timeout=0.1)
                break

    def work() -> None:
        try:
            for value in stream:
                put((value, None))
                if ending.is_set():
                    return
            put((None, StopIteration()))
        except BaseException as error:  # whatever it is, the reader must get it
            put((None, error))

    def taken() -> Iterator[T]:
        while True:
            value, error = results.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield value  # type: ignore[misc]

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield taken()
    finally:
        ending.set()
        thread.join()


def queued(work: Callable[[S], T], over: Sequence[S]) -> list[T]:
    """What some work gives for each of `over`, in that order, computed by a thread per core.

    All large work in this process waits for those threads, because more threads than cores get in each other's way. So
    the work must not queue work of its own.
    """
    futures: list[Future[T]] = []
    with suppress(RuntimeError):  # Python ends, and starts no more threads
        futures = [_pool(os.getpid()).submit(work, one) for one in over]
    try:
        return [future.result() for future in futures] if futures else list(map(work, over))
    finally:
        for future in futures:
            future.cancel()


def spread(work: Callable[[S], T], over: Sequence[S]) -> list[T]:
    """As `queued`, but computed by this thread and by those of the other threads that are free: for work that is short,
    and should not wait behind large work.
    """
    results: dict[int, T] = {}
    left = deque(range(len(over)))

    def help_() -> None:
        while left:
            try:
                place = left.popleft()
            except IndexError:  # another thread took the last one
                return
            results[place] = work(over[place])

    helpers: list[Future[None]] = []
    with suppress(RuntimeError):  # Python ends
        helpers = [_pool(os.getpid()).submit(help_) for _ in range(min(CORES, len(over)) - 1)]
    try:
        help_()
    finally:
        left.clear()
        begun = [helper for helper in helpers if not helper.cancel()]
        wait(begun)
    for helper in begun:
        helper.result()
    return [results[place] for place in range(len(over))]


class _Turns:
    """Lets about as many threads into its block as there are cores; the others wait."""

    def __init__(self) -> None:
        self._free: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(CORES):
            self._free.put(None)

    def __enter__(self) -> None:
        # Ctrl-C can lose a turn between any two steps; a thread that has waited too long goes in without one.
        with suppress(queue.Empty):
            self._free.get(timeout=PATIENCE)

    def __exit__(self, *_: object) -> None:
        if self._free.qsize() < CORES:
            self._free.put(None)


def turns() -> AbstractContextManager[None]:
    """For short work in many threads, part of it in Python: threads beyond the cores would only wait for each other's
    steps in Python, and get less done than one per core.
    """
    return _turns(os.getpid())


@cache
def _turns(process: int) -> _Turns:
    """The turns in this process. process: its number, as the turns of a parent's threads never come back in a fork."""
    return _Turns()


@cache
def _pool(process: int) -> ThreadPoolExecutor:
    """The threads for all work that is split up in this process. process: its number, as a fork copies no threads."""
    return ThreadPoolExecutor(CORES, "simrec-work")
