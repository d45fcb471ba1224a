"""Counts and times of requests in Prometheus's text format, which is simple enough to need no library."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator

from simrec.serve.shelf import Shelf
from simrec.serve.workers import Workers

SECONDS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""The upper bounds of the histogram of times, in seconds."""


class Metrics:
    """Counts since the start, by operation."""

    def __init__(self) -> None:
        self._requests: Counter[tuple[str, int]] = Counter()
        self._times: dict[str, list[int]] = defaultdict(lambda: [0] * (len(SECONDS) + 1))
        self._seconds: Counter[str] = Counter()

    def add(self, operation: str, status: int, seconds: float) -> None:
        """Counts an answer and its time."""
        self._requests[operation, status] += 1
        self._times[operation][bisect_left(SECONDS, seconds)] += 1
        self._seconds[operation] += seconds  # type: ignore[assignment]

    def text(self, shelf: Shelf, workers: Workers) -> str:
        """All metrics in Prometheus's text format."""
        return "\n".join([*self._lines(shelf, workers), ""])

    def _lines(self, shelf: Shelf, workers: Workers) -> Iterator[str]:
        yield "# HELP simrec_requests_total Requests answered."
        yield "# TYPE simrec_requests_total counter"
        for (operation, status), count in sorted(self._requests.items()):
            yield f'simrec_requests_total{{operation="{operation}",status="{status}"}} {count}'
        yield "# HELP simrec_request_seconds Time from a request's head to its answer."
        yield "# TYPE simrec_request_seconds histogram"
        for operation, times in sorted(self._times.items()):
            total = 0
            for end, count in zip([*map(str, SECONDS), "+Inf"], times, strict=True):
                total += count
                yield f'simrec_request_seconds_bucket{{operation="{operation}",le="{end}"}} {total}'
            yield f'simrec_request_seconds_sum{{operation="{operation}"}} {self._seconds[operation]:.6f}'
            yield f'simrec_request_seconds_count{{operation="{operation}"}} {total}'
        yield "# HELP simrec_requests_busy Requests in work or waiting."
        yield "# TYPE simrec_requests_busy gauge"
        yield f"simrec_requests_busy {workers.busy}"
        yield "# HELP simrec_batches_total Batches that went through encoder and index."
        yield "# TYPE simrec_batches_total counter"
        for name, served in shelf.served.items():
            yield f'simrec_batches_total{{recommender="{name}"}} {served.together.batches}'
        yield "# HELP simrec_batched_total Requests answered in these batches."
        yield "# TYPE simrec_batched_total counter"
        for name, served in shelf.served.items():
            yield f'simrec_batched_total{{recommender="{name}"}} {served.together.done}'
        yield "# HELP simrec_items Items in a catalogue."
        yield "# TYPE simrec_items gauge"
        for name, served in shelf.served.items():
            yield f'simrec_items{{recommender="{name}"}} {served.count}'
