"""Runs the work of requests: a few threads with a bounded queue."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from prometheus_client import Gauge

from simrec.serve.answering import RefusedError

WAITING = 200
"""Maximum number of requests in work or waiting; more are refused."""

T = TypeVar("T")


class Workers:
    """The threads. There are more than cores, because the pictures of waiting threads are encoded together.

    shown: the metric that shows how many requests are in work or waiting.
    """

    def __init__(self, shown: Gauge) -> None:
        self._shown = shown
        self.threads = 4 * (os.cpu_count() or 1) + 8
        self._pool = ThreadPoolExecutor(self.threads, "simrec-serve")
        self.busy = 0

    async def run(self, work: Callable[[], T]) -> T:
        """Runs some work in a thread; returns and raises what it does. Raises RefusedError (503) if too many wait."""
        if self.busy >= WAITING:
            raise RefusedError(503, "too many requests are waiting: try again in a few seconds")
        self.busy += 1
        self._shown.set(self.busy)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        finally:
            self.busy -= 1
            self._shown.set(self.busy)

    def close(self) -> None:
        """Ends the threads when their work is done."""
        self._pool.shutdown(wait=True)
