"""An encoder that runs its ONNX graphs with ONNX Runtime, so that look-ups need no torch and no plugin.

The graphs: encoder.onnx takes `images` uint8 (n, h, w, c), scales them itself and gives `codes` float32 (n, dim); if
those are means of normal distributions, it also gives `log_variances` float32 (n, dim). decoder.onnx takes `codes` and
gives `pictures` float32 (n, h, w, c) in 0..1.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, cached_property
from typing import Any

import numpy as np

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read on import; telemetry is on by default since 1.29
import onnxruntime  # noqa: E402

from simrec import onnx_graph  # noqa: E402
from simrec.contracts import Codes, Images, ImageSpec, Rebuilt  # noqa: E402
from simrec.errors import ImageError, StoreError  # noqa: E402
from simrec.streams import queued  # noqa: E402

MEMORY = 4 << 30
"""Bytes that all graphs of a process may take together."""

SECONDS = 8.0
"""How long a graph may take to load, and to run on one picture, before it is stopped."""

SLOWER = 20
"""How many times longer than on a black picture a graph may take on any other, if that is more than SECONDS."""

SMALL = 16 << 20
"""Graphs of up to so many bytes don't divide their layers between cores: that takes longer than it saves, and threads
that look up at the same time get in each other's way. Batches are divided instead."""

PIECE = 128
"""Maximum rows of a batch per core, if batches are divided."""

NUMBERS = 1 << 20
"""How many numbers in rows a core gets at a time, so that the layers of a few large pictures stay in its cache: with 27
pictures of 320 pixels at once a network of 5 MB encodes 5 % fewer pictures a second than with 3."""

REMEDY = "bring back a copy of this recommender, or train its encoder again under another name"


class OnnxEncoder:
    """Encodes, and decodes if there is a decoder.

    read: gives the bytes of "encoder.onnx" and, when they are needed, of "decoder.onnx".
    """

    def __init__(self, spec: ImageSpec, dim: int, read: Callable[[str], bytes]) -> None:
        self.input = spec
        self.dim = dim
        self.read = read

    def encode(self, images: Images) -> Codes:
        """Images (n, h, w, c) to codes (n, dim). Raises ImageError for another shape or dtype."""
        return self._encoded(images, "codes")

    @property
    def variational(self) -> bool:
        """Whether codes are the means of normal distributions."""
        return "log_variances" in self._encoder.results

    @property
    def names(self) -> tuple[str, list[str]]:
        """The graph's names for its input and for its results."""
        return self._encoder.feed, self._encoder.results

    def log_variances(self, images: Images) -> Codes | None:
        """Images (n, h, w, c) to the log-variances (n, dim) of codes that are means; None for other codes."""
        return self._encoded(images, "log_variances") if self.variational else None

    def decode(self, codes: Codes) -> Rebuilt:
        """Codes (n, dim) to pictures (n, h, w, c) in 0..1."""
        rebuilt: Rebuilt = self._decoder.run(
            np.asarray(codes, np.float32), "pictures", self.input.shape, self.input.batch
        )
        return rebuilt

    def _encoded(self, images: Images, result: str) -> Codes:
        if images.dtype != np.uint8 or images.shape[1:] != self.input.shape:
            raise ImageError(
                f"images are {images.dtype} {images.shape}, this encoder takes uint8 (n, {self.input.size}, "
                f"{self.input.size}, {self.input.channels}): read them with simrec's images module"
            )
        numbers: Codes = self._encoder.run(images, result, (self.dim,), self.input.batch)
        return numbers

    @cached_property
    def _encoder(self) -> _Graph:
        graph = _Graph(self.read("encoder.onnx"), "encoder.onnx", ("codes", "log_variances"))
        graph.prove(np.zeros((1, *self.input.shape), np.uint8), (self.dim,))
        return graph

    @cached_property
    def _decoder(self) -> _Graph:
        graph = _Graph(self.read("decoder.onnx"), "decoder.onnx", ("pictures",))
        graph.prove(np.zeros((1, self.dim), np.float32), self.input.shape)
        return graph


def check(graph: bytes, name: str) -> None:
    """Raises StoreError for a graph of that name that simrec doesn't run (see `simrec.onnx_graph`)."""
    try:
        onnx_graph.check(graph)
    except ValueError as error:
        raise StoreError(f"{name}: simrec does not run this graph, as {error}: {REMEDY}") from error


class _Graph:
    """A graph in ONNX Runtime: it gives the right results within bounds of memory and time, or raises a StoreError."""

    def __init__(self, graph: bytes, name: str, results: tuple[str, ...]) -> None:
        check(graph, name)
        _bound_memory()
        self._name = name
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # our errors say what goes wrong
        options.add_session_config_entry("session.load_model_format", "ONNX")  # else it accepts its own format too
        options.add_session_config_entry("session.use_env_allocators", "1")
        # Threads that spin while waiting would take cores from the calling program between two look-ups.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._divided = len(graph) <= SMALL
        if self._divided:
            options.intra_op_num_threads = 1
        try:
            with _watchdog().limited(SECONDS, lambda: options.set_load_cancellation_flag(True)):
                self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise StoreError(f"{name}: ONNX Runtime cannot load it ({_first_line(error)}): {REMEDY}") from error
        self.results = [result.name for result in self._session.get_outputs()]
        if len(self._session.get_inputs()) != 1 or not {results[0]} <= set(self.results) <= set(results):
            raise StoreError(f"{name}: it gives {', '.join(self.results)[:100]}, not {' and '.join(results)}: {REMEDY}")
        self.feed = self._session.get_inputs()[0].name
        self._seconds = SECONDS

    def prove(self, row: Any, shape: tuple[int, ...]) -> None:
        """Runs it on one row (1, ...): checks the results, and measures how long other rows may take."""
        begun = time.perf_counter()
        for result in self.results:
            self.run(row, result, shape, 1)
        # A graph can be built to take longer for some pictures than for others; an honest one hardly does.
        self._seconds = SLOWER * (time.perf_counter() - begun)

    def run(self, rows: Any, result: str, shape: tuple[int, ...], batch: int) -> Any:
        """A result, float32 (n, *shape), of rows (n, ...), at most `batch` at a time."""
        out = np.empty((len(rows), *shape), np.float32)
        size = max(1, min(batch, PIECE, NUMBERS // math.prod(rows.shape[1:]))) if self._divided else batch
        pieces = range(0, len(rows), size)

        def compute(start: int) -> None:
            out[start : start + size] = self._part(rows[start : start + size], result, shape)

        if self._divided and len(pieces) > 1:
            queued(compute, pieces)
        else:
            for start in pieces:
                compute(start)
        return out

    def _part(self, rows: Any, result: str, shape: tuple[int, ...]) -> Any:
        """A result of some rows, computed together."""
        options = onnxruntime.RunOptions()
        limit = max(SECONDS, self._seconds * len(rows))
        try:
            with _watchdog().limited(limit, lambda: setattr(options, "terminate", True)):
                (part,) = self._session.run([result], {self.feed: np.ascontiguousarray(rows)}, options)
        except Exception as error:  # as above
            raise StoreError(f"{self._name}: cannot be run ({_first_line(error)}): {REMEDY}") from error
        actual = getattr(part, "dtype", None), getattr(part, "shape", None)
        if actual != (np.float32, (len(rows), *shape)):
            raise StoreError(f"{self._name}: gives {actual}, not float32 {(len(rows), *shape)}: {REMEDY}")
        return part


class _Watchdog(threading.Thread):
    """Stops graphs that take too long: one thread for all, as starting one costs more than a look-up."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._running: dict[object, tuple[float, Callable[[], None]]] = {}
        self._clock = 0.0
        self._lock = threading.Lock()
        self._busy = threading.Event()

    @contextmanager
    def limited(self, seconds: float, stop: Callable[[], None]) -> Iterator[None]:
        """Calls `stop` if the block takes longer than that."""
        key = object()
        with self._lock:
            self._running[key] = (self._clock + seconds, stop)
            self._busy.set()
        try:
            yield
        finally:
            with self._lock:
                del self._running[key]

    def run(self) -> None:
        """Looks twice a second, as long as anything runs."""
        while True:
            self._busy.wait()
            begun = time.monotonic()
            time.sleep(0.5)
            with self._lock:
                # Don't count time in which the process was paused, by Ctrl-Z or while the computer slept.
                self._clock += min(time.monotonic() - begun, 1.0)
                for until, stop in self._running.values():
                    if until < self._clock:
                        stop()
                if not self._running:
                    self._busy.clear()


@cache
def _watchdog() -> _Watchdog:
    watchdog = _Watchdog()
    watchdog.start()
    return watchdog


@cache
def _bound_memory() -> None:
    """Bounds the memory of all graphs in this process together; ONNX Runtime doesn't by itself."""
    place = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    with suppress(Exception):  # other code in this process that uses ONNX Runtime has bounded it already
        onnxruntime.create_and_register_allocator(place, onnxruntime.OrtArenaCfg({"max_mem": MEMORY}))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
