"""An encoder that runs its ONNX graphs with ONNX Runtime: what answers look-ups, with no torch and no plugin.

The graphs: encoder.onnx takes `images` uint8 (n, h, w, c) and gives `codes` float32 (n, dim), scaling inside; where
those are the means of normal distributions it gives `log_variances` float32 (n, dim) too. decoder.onnx takes `codes`
and gives `pictures` float32 (n, h, w, c) in 0..1.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, cached_property
from typing import Any

import numpy as np

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when it is imported; on by default since 1.29
import onnxruntime  # noqa: E402

from simrec import onnx_graph  # noqa: E402
from simrec.contracts import Codes, Images, ImageSpec, Rebuilt  # noqa: E402
from simrec.errors import ImageError, StoreError  # noqa: E402

MEMORY = 4 << 30
"""Bytes that all graphs of a process may take together."""

SECONDS = 8.0
"""How long a graph may take to load, and how long to run once, before it is given up."""

REMEDY = "bring back a copy of this recommender, or train its encoder again under another name"


class OnnxEncoder:
    """Encodes, and decodes where there is a decoder.

    read: gives the bytes of "encoder.onnx" and, asked later, of "decoder.onnx".
    """

    def __init__(self, spec: ImageSpec, dim: int, read: Callable[[str], bytes]) -> None:
        self.input = spec
        self.dim = dim
        self._read = read

    def encode(self, images: Images) -> Codes:
        """Images (n, h, w, c) to codes (n, dim). Raises ImageError for another shape or dtype."""
        return self._encoded(images, "codes")

    @property
    def variational(self) -> bool:
        """Whether codes are the means of normal distributions."""
        return "log_variances" in [result.name for result in self._encoder.get_outputs()]

    def log_variances(self, images: Images) -> Codes | None:
        """Images (n, h, w, c) to the log-variances (n, dim) of codes that are means; None for other codes."""
        return self._encoded(images, "log_variances") if self.variational else None

    def decode(self, codes: Codes) -> Rebuilt:
        """Codes (n, dim) to pictures (n, h, w, c) in 0..1."""
        rebuilt: Rebuilt = _in_batches(
            self._decoder, np.asarray(codes, np.float32), "pictures", self.input.shape, self.input.batch
        )
        return rebuilt

    def _encoded(self, images: Images, result: str) -> Codes:
        if images.dtype != np.uint8 or images.shape[1:] != self.input.shape:
            raise ImageError(
                f"images are {images.dtype} {images.shape}, this encoder takes uint8 (n, {self.input.size}, "
                f"{self.input.size}, {self.input.channels}): read them with simrec's images module"
            )
        numbers: Codes = _in_batches(self._encoder, images, result, (self.dim,), self.input.batch)
        return numbers

    @cached_property
    def _encoder(self) -> onnxruntime.InferenceSession:
        session = _session(self._read("encoder.onnx"), "encoder.onnx", ("codes", "log_variances"))
        self._prove(session, np.zeros((1, *self.input.shape), np.uint8), "codes", (self.dim,))
        return session

    @cached_property
    def _decoder(self) -> onnxruntime.InferenceSession:
        session = _session(self._read("decoder.onnx"), "decoder.onnx", ("pictures",))
        self._prove(session, np.zeros((1, self.dim), np.float32), "pictures", self.input.shape)
        return session

    def _prove(self, session: onnxruntime.InferenceSession, rows: Any, result: str, shape: tuple[int, ...]) -> None:
        """Runs a graph once, with a limit of time: one that takes what it should and gives what it should may stay."""
        options = onnxruntime.RunOptions()
        with _limited(lambda: setattr(options, "terminate", True)):
            _in_batches(session, rows, result, shape, 1, options)


def check(graph: bytes, name: str) -> None:
    """Raises StoreError for a graph of that name that simrec doesn't run (see `simrec.onnx_graph`)."""
    try:
        onnx_graph.check(graph)
    except ValueError as error:
        raise StoreError(f"{name}: simrec does not run this graph, as {error}: {REMEDY}") from error


def _session(graph: bytes, name: str, results: tuple[str, ...]) -> onnxruntime.InferenceSession:
    check(graph, name)
    _bound_memory()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is said in the errors here
    options.add_session_config_entry("session.load_model_format", "ONNX")  # it would take its own format too
    options.add_session_config_entry("session.use_env_allocators", "1")
    # Waiting threads that spin would take the cores from whoever calls us between two look-ups.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        with _limited(lambda: options.set_load_cancellation_flag(True)):
            session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        raise StoreError(f"{name}: ONNX Runtime cannot load it ({_first_line(error)}): {REMEDY}") from error
    given = [result.name for result in session.get_outputs()]
    if len(session.get_inputs()) != 1 or results[0] not in given or not set(given) <= set(results):
        raise StoreError(f"{name}: it gives {', '.join(given)[:100]}, not {' and '.join(results)}: {REMEDY}")
    return session


@cache
def _bound_memory() -> None:
    """Bounds what all graphs of this process take together, which ONNX Runtime by itself does not."""
    place = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    with suppress(Exception):  # another user of ONNX Runtime in this process has bounded it already
        onnxruntime.create_and_register_allocator(place, onnxruntime.OrtArenaCfg({"max_mem": MEMORY}))


@contextmanager
def _limited(stop: Callable[[], None]) -> Iterator[None]:
    """Calls `stop` when the block has taken SECONDS."""
    timer = threading.Timer(SECONDS, stop)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def _in_batches(
    session: onnxruntime.InferenceSession, rows: Any, result: str, shape: tuple[int, ...], batch: int,
    options: Any = None,
) -> Any:  # fmt: skip
    (feed,) = session.get_inputs()
    out = np.empty((len(rows), *shape), np.float32)
    for start in range(0, len(rows), batch):
        some = np.ascontiguousarray(rows[start : start + batch])
        try:
            (part,) = session.run([result], {feed.name: some}, options)
        except Exception as error:  # as above
            raise StoreError(f"the graph of {result} cannot be run ({_first_line(error)}): {REMEDY}") from error
        if getattr(part, "dtype", None) != np.float32 or part.shape != (len(some), *shape):
            raise StoreError(
                f"the graph of {result} gives {getattr(part, 'dtype', type(part).__name__)} "
                f"{getattr(part, 'shape', '')}, not float32 {(len(some), *shape)}: {REMEDY}"
            )
        out[start : start + batch] = part
    return out
