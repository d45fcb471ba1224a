"""Streams: cutting them into chunks, computing them ahead of their reader, and threads that share the work."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from itertools import islice
from typing import TypeVar

T = TypeVar("T")

CORES = os.cpu_count() or 1


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


@cache
def cores() -> ThreadPoolExecutor:
    """A pool with a thread per core, for all code in this process that splits up large work.

    Work in the pool must not submit more work to it.
    """
    return ThreadPoolExecutor(CORES, "simrec-work")
