"""Encoding for many requests at a time: those that wait are encoded together, and one that is alone never waits."""

from __future__ import annotations

import threading
from collections import defaultdict

import numpy as np

from simrec.contracts import Codes, Images
from simrec.recommender import Recommender

LARGEST = 64
"""Requests that are encoded together, at most."""


class _Job:
    """Images (n, h, w, c) of one request, and what became of them."""

    def __init__(self, opened: Recommender, images: Images) -> None:
        self.opened, self.images = opened, images
        self.codes: Codes | None = None
        self.error: Exception | None = None

    @property
    def done(self) -> bool:
        return self.codes is not None or self.error is not None

    def run(self) -> None:
        try:
            self.codes = self.opened.encode(self.images)
        except Exception as error:  # a job that never ended would keep its thread for ever
            self.error = error


class Together:
    """Encodes for the threads of one recommender. batches: how many there were; encoded: how many requests in them.

    A thread that finds the encoder free encodes what is waiting, its own images among it. Those that come meanwhile
    wait for it, and the first of them to go on encodes for them all.
    """

    def __init__(self) -> None:
        self._waiting: list[_Job] = []
        self._adding, self._encoding = threading.Lock(), threading.Lock()
        self.batches = self.encoded = 0

    def encode(self, opened: Recommender, images: Images) -> Codes:
        """Images (n, h, w, c) to codes (n, dim): see `Recommender.encode`."""
        job = _Job(opened, images)
        with self._adding:
            self._waiting.append(job)
        while not job.done:
            with self._encoding:
                if not job.done:
                    self._encode_some()
        if job.error is not None:
            raise job.error
        assert job.codes is not None
        return job.codes

    def _encode_some(self) -> None:
        with self._adding:
            jobs, self._waiting = self._waiting[:LARGEST], self._waiting[LARGEST:]
        self.batches += 1
        self.encoded += len(jobs)
        same: dict[str, list[_Job]] = defaultdict(list)  # while a new generation with another encoder takes over
        for job in jobs:
            same[job.opened.manifest.encoder.digest].append(job)
        for some in same.values():
            _encode(some)


def _encode(jobs: list[_Job]) -> None:
    """Encodes jobs for one encoder; where that fails, each by itself, so that nobody gets another one's error."""
    try:
        codes = jobs[0].opened.encode(np.concatenate([job.images for job in jobs]))
    except Exception:
        for job in jobs:
            job.run()
        return
    ends = np.cumsum([len(job.images) for job in jobs])
    for job, own in zip(jobs, np.split(codes, ends[:-1]), strict=True):
        job.codes = own
