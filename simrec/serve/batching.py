"""Work of many requests at a time: what waits is done together, and what comes alone never waits."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

LARGEST = 64
"""Pieces of work that are done together, at most."""

Work = TypeVar("Work")
Result = TypeVar("Result")


class _Job(Generic[Work, Result]):
    """A piece of work, and what became of it. batch: pieces, itself among them, that its thread is to do. woken: when
    there is such a batch, or when it has ended.
    """

    def __init__(self, work: Work) -> None:
        self.work = work
        self.batch: list[_Job[Work, Result]] = []
        self.result: Result | None = None
        self.error: Exception | None = None
        self.woken = threading.Event()


class Together(Generic[Work, Result]):
    """Does work for many threads. batches: how many there were; done: how many pieces of work in them.

    A thread that finds nobody at work does its own piece. Those that come meanwhile wait, and when it has finished, the
    first of them does the work of them all. Two at work at a time get in each other's way.

    do: does some pieces, or raises what is wrong with any of them.
    """

    def __init__(self, do: Callable[[Sequence[Work]], Sequence[Result]]) -> None:
        self._do, self._free = do, True
        self._lock = threading.Lock()
        self._waiting: list[_Job[Work, Result]] = []
        self.batches = self.done = 0

    def __call__(self, work: Work) -> Result:
        """Does a piece of work."""
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

    def _hand_over(self) -> None:
        """Has somebody do what waits; the lock is held."""
        batch, self._waiting = self._waiting[:LARGEST], self._waiting[LARGEST:]
        self._free = not batch
        if not batch:
            return
        self.batches += 1
        self.done += len(batch)
        batch[0].batch = batch
        batch[0].woken.set()

    def _do_all(self, batch: Sequence[_Job[Work, Result]]) -> None:
        try:
            for job, result in zip(batch, self._do([job.work for job in batch]), strict=True):
                job.result = result
        except Exception:  # whatever it is: a job that never ended would keep its thread for ever
            for job in batch:
                self._do_one(job)
        with self._lock:
            self._hand_over()
        for job in batch:
            job.woken.set()

    def _do_one(self, job: _Job[Work, Result]) -> None:
        """A piece of work by itself, so that nobody gets another one's error."""
        try:
            (job.result,) = self._do([job.work])
        except Exception as error:
            job.error = error
