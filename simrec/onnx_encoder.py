"""An encoder that runs its ONNX graphs with ONNX Runtime: what answers look-ups, with no torch and no plugin.

The graphs: encoder.onnx takes `images` uint8 (n, h, w, c) and gives `codes` float32 (n, dim), scaling inside; where
those are the means of normal distributions it gives `log_variances` float32 (n, dim) too. decoder.onnx takes `codes`
and gives `pictures` float32 (n, h, w, c) in 0..1.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when it is imported; on by default since 1.29
import onnxruntime  # noqa: E402

from simrec.contracts import Codes, Images, ImageSpec, Rebuilt
from simrec.errors import ImageError, StoreError


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
        return _session(self._read("encoder.onnx"), "encoder.onnx")

    @cached_property
    def _decoder(self) -> onnxruntime.InferenceSession:
        return _session(self._read("decoder.onnx"), "decoder.onnx")


def _session(graph: bytes, name: str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Waiting threads that spin would take the cores from whoever calls us between two look-ups.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        raise StoreError(f"{name}: ONNX Runtime cannot load it ({str(error).splitlines()[0]}): train anew") from error


def _in_batches(
    session: onnxruntime.InferenceSession, rows: Any, result: str, shape: tuple[int, ...], batch: int
) -> Any:
    (feed,) = session.get_inputs()
    out = np.empty((len(rows), *shape), np.float32)
    for start in range(0, len(rows), batch):
        some = np.ascontiguousarray(rows[start : start + batch])
        (out[start : start + batch],) = session.run([result], {feed.name: some})
    return out
