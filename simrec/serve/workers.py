"""The threads that answer requests, and a bounded queue in front of them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from simrec.serve.answering import RefusedError

WAITING = 200
"""Maximum number of requests in work or waiting; further ones are refused."""

T = TypeVar("T")


class Workers:
    """The threads: more than cores, because the pictures of those that wait are encoded together."""

    def __init__(self) -> None:
        self.threads = 4 * (os.cpu_count() or 1) + 8
        self._pool = ThreadPoolExecutor(self.threads, "simrec-serve")
        self.busy = 0

    async def run(self, work: Callable[[], T]) -> T:
        """Runs work in a thread and returns its result. Raises RefusedError (503) if too many are waiting."""
        if self.busy >= WAITING:
            raise RefusedError(503, "too many requests are waiting: try again in a few seconds")
        self.busy += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        finally:
            self.busy -= 1

    def close(self) -> None:
        """Ends the threads when their work is done."""
        self._pool.shutdown(wait=True)
