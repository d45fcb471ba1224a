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
    """A piece of work, and what became of it. woken: when it has ended, or when its thread is to do what waits."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.result: Result | None = None
        self.error: Exception | None = None
        self.ended = False
        self.woken = threading.Event()


class Together(Generic[Work, Result]):
    """Does work for many threads. batches: how many there were; done: how many pieces of work in them.

    A thread that finds nobody at work does its own. Those that come meanwhile wait, and when it has finished, the first
    of them does the work of them all.

    do: does some pieces, or raises what is wrong with any of them.
    """

    def __init__(self, do: Callable[[Sequence[Work]], Sequence[Result]]) -> None:
        self._do = do
        self._lock = threading.Lock()
        self._waiting: list[_Job[Work, Result]] = []
        self._working = False
        self.batches = self.done = 0

    def __call__(self, work: Work) -> Result:
        """Does a piece of work."""
        job = _Job[Work, Result](work)
        with self._lock:
            self._waiting.append(job)
            alone, self._working = not self._working, True
        if not alone:
            job.woken.wait()
        if not job.ended:
            self._do_some()
        if job.error is not None:
            raise job.error
        return job.result  # type: ignore[return-value]

    def _do_some(self) -> None:
        """Does what waits, and has somebody else do what came meanwhile."""
        with self._lock:
            jobs, self._waiting = self._waiting[:LARGEST], self._waiting[LARGEST:]
            self.batches += 1
            self.done += len(jobs)
        try:
            for job, result in zip(jobs, self._do([job.work for job in jobs]), strict=True):
                job.result = result
        except Exception:  # whatever it is: a job that never ended would keep its thread for ever
            for job in jobs:
                self._do_one(job)
        with self._lock:
            following = self._waiting[0] if self._waiting else None
            self._working = following is not None
        if following:
            following.woken.set()
        for job in jobs:
            job.ended = True
            job.woken.set()

    def _do_one(self, job: _Job[Work, Result]) -> None:
        """A piece of work by itself, so that nobody gets another one's error."""
        try:
            (job.result,) = self._do([job.work])
        except Exception as error:
            job.error = error
