"""Counts and times of requests for Prometheus, by its own client, which adds up those of several processes."""

from __future__ import annotations

import os
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4 as KIND
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from simrec.errors import StoreError
from simrec.serve.shelf import Shelf

__all__ = ["FOLDER", "KIND", "Metrics", "dead"]

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""The environment variable with the folder in which processes keep their counts; the client reads it when it is
imported.
"""

FILES = ("counter", "histogram", "gauge_livesum", "gauge_mostrecent")
"""The kinds of files of a process, which the client maps into memory."""

ROOM = 1 << 17
"""Bytes of each file, about twice what all operations and their usual statuses need."""

SECONDS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""The upper bounds of the histogram of times, in seconds."""


class Metrics:
    """Counts since the start, by operation. busy: the requests that are in work or waiting.

    Raises StoreError if there is no room for this process's counts.
    """

    def __init__(self, shelf: Shelf) -> None:
        self._shelf, self._registry = shelf, (here := CollectorRegistry())
        if FOLDER in os.environ:
            _reserve(Path(os.environ[FOLDER]))
        about = "Requests answered."
        self._requests = Counter("simrec_requests", about, ["operation", "status"], registry=here)
        about = "Time from a request's head to its answer."
        self._seconds = Histogram("simrec_request_seconds", about, ["operation"], registry=here, buckets=SECONDS)
        about = "Requests in work or waiting."
        self.busy = Gauge("simrec_requests_busy", about, registry=here, multiprocess_mode="livesum")
        about = "Batches that went through encoder and index."
        self._batches = Counter("simrec_batches", about, ["recommender"], registry=here)
        about = "Requests answered in these batches."
        self._batched = Counter("simrec_batched", about, ["recommender"], registry=here)
        about = "Items in a catalogue."
        self._items = Gauge("simrec_items", about, ["recommender"], registry=here, multiprocess_mode="mostrecent")

    def add(self, operation: str, status: int, seconds: float) -> None:
        """Counts an answer and its time."""
        self._requests.labels(operation, str(status)).inc()
        self._seconds.labels(operation).observe(seconds)
        for name, served in self._shelf.served.items():
            batches, done = served.together.counted()
            if batches:
                self._batches.labels(name).inc(batches)
                self._batched.labels(name).inc(done)

    def text(self) -> bytes:
        """All metrics in Prometheus's text format."""
        for name, served in self._shelf.served.items():
            self._items.labels(name).set(served.count)
        if FOLDER not in os.environ:
            return generate_latest(self._registry)
        together = CollectorRegistry()
        MultiProcessCollector(together)  # type: ignore[no-untyped-call]
        return generate_latest(together)


def _reserve(folder: Path) -> None:
    """Writes this process's files in full: if the disk is full later, a write to a page that isn't there kills it."""
    try:
        for path in (folder / f"{kind}_{os.getpid()}.db" for kind in FILES):
            if not path.exists():
                new = path.with_suffix(".new")
                new.write_bytes(bytes(ROOM))
                new.replace(path)  # others read it
    except OSError as error:
        raise StoreError(f"{folder}: {error.strerror}: make room there, set TMPDIR, or name --workers 1") from error


def dead(process: int, folder: Path) -> None:
    """Takes a process that has died out of what is summed up over those that live."""
    mark_process_dead(process, str(folder))  # type: ignore[no-untyped-call]
