"""Batches the work of many requests: what waits is done together, and a request that comes alone never waits."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

LARGEST = 64
"""Maximum number of pieces of work in a batch."""

Work = TypeVar("Work")
Result = TypeVar("Result")


class _Job(Generic[Work, Result]):
    """A piece of work with its result or error. batch: the pieces, including this one, that its thread must do. woken:
    set when there is such a batch, or when this piece is done.
    """

    def __init__(self, work: Work) -> None:
        self.work = work
        self.batch: list[_Job[Work, Result]] = []
        self.result: Result | None = None
        self.error: Exception | None = None
        self.woken = threading.Event()


class Together(Generic[Work, Result]):
    """Does work for many threads, in batches.

    If no thread is working, the next one does its own piece. Threads that come meanwhile wait, and when it has
    finished, the first of them does the work of them all. Two threads at work would only slow each other down.

    do: does several pieces, or raises what is wrong with any of them.
    """

    def __init__(self, do: Callable[[Sequence[Work]], Sequence[Result]]) -> None:
        self._do, self._free = do, True
        self._lock = threading.Lock()
        self._waiting: list[_Job[Work, Result]] = []
        self._batches = self._done = 0

    def __call__(self, work: Work) -> Result:
        """Does a piece of work. Raises what `do` raises for it."""
        job = _Job[Work, Result](work)
        with self._lock:
            self._waiting.append(job)
            if self._free:
                self._hand_over()
        job.woken.wait()
        if job.batch:
            self._do_all(job.batch)
        if job.error is not None:
            raise job.error
        return job.result  # type: ignore[return-value]

    def counted(self) -> tuple[int, int]:
        """How many batches there were since this was last asked, and how many pieces of work they had in all."""
        with self._lock:
            counts = self._batches, self._done
            self._batches = self._done = 0
            return counts

    def _hand_over(self) -> None:
        """Gives what waits to the first waiting thread; the caller holds the lock."""
        batch, self._waiting = self._waiting[:LARGEST], self._waiting[LARGEST:]
        self._free = not batch
        if not batch:
            return
        self._batches += 1
        self._done += len(batch)
        batch[0].batch = batch
        batch[0].woken.set()

    def _do_all(self, batch: Sequence[_Job[Work, Result]]) -> None:
        try:
            for job, result in zip(batch, self._do([job.work for job in batch]), strict=True):
                job.result = result
        except Exception:  # whatever it is: a job that never ended would block its thread for ever
            for job in batch:
                self._do_one(job)
        with self._lock:
            self._hand_over()
        for job in batch:
            job.woken.set()

    def _do_one(self, job: _Job[Work, Result]) -> None:
        """Does a piece of work by itself, so that no request gets the error of another."""
        try:
            (job.result,) = self._do([job.work])
        except Exception as error:
            job.error = error
