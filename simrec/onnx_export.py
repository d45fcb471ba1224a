"""An autoencoder as ONNX graphs, and the check that they compute what the network does."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from simrec.contracts import Images
from simrec.errors import TrainingError
from simrec.onnx_encoder import OnnxEncoder

TOLERANCE = 1e-4
"""Largest difference between ONNX Runtime and torch, in codes and in rebuilt pixels (0..1)."""


class NotExportable(Exception):  # noqa: N818 - it is an answer, not a failure: such an encoder runs as a plugin
    """torch.onnx cannot express this network."""


class _Encode(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        code: Tensor = self.model.code(images.permute(0, 3, 1, 2).float() / 255)
        return code


class _Decode(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, codes: Tensor) -> Tensor:
        pictures: Tensor = self.model.picture(codes)
        return pictures.permute(0, 2, 3, 1)


def export(model: Any, folder: Path) -> None:
    """Writes encoder.onnx and, where the model has a `picture`, decoder.onnx: single files, any batch size.

    Raises NotExportable when torch.onnx cannot.
    """
    spec = model.input
    _export(
        _Encode(model), torch.zeros((2, *spec.shape), dtype=torch.uint8), folder / "encoder.onnx", "images", "codes"
    )
    if hasattr(model, "decode"):
        _export(_Decode(model), torch.zeros(2, model.dim), folder / "decoder.onnx", "codes", "pictures")


def check(model: Any, folder: Path, images: Images) -> None:
    """Runs both ways over images (n, h, w, c); raises TrainingError when they differ by more than TOLERANCE."""
    onnx = OnnxEncoder(model.input, model.dim, lambda name: (folder / name).read_bytes())
    codes = model.encode(images)
    _compare("encoder.onnx", onnx.encode(images), codes)
    if hasattr(model, "decode"):
        _compare("decoder.onnx", onnx.decode(codes), model.decode(codes))


def _export(module: nn.Module, example: Tensor, path: Path, feed: str, result: str) -> None:
    module.eval()
    with _quiet():
        try:
            program: Any = torch.onnx.export(
                module, (example,), input_names=[feed], output_names=[result], dynamo=True, verbose=False,
                dynamic_shapes=({0: torch.export.Dim("n", min=1)},),
            )  # fmt: skip
            graph = program.model_proto
        except Exception as error:  # the exporter raises whatever its many stages raise
            raise NotExportable(f"{path.name}: {str(error).splitlines()[0] if str(error) else error!r}") from error
    # The exporter notes on each node where in whose source it came from: paths of this machine, of use to nobody else.
    for noted in (graph, graph.graph, *graph.graph.node, *graph.graph.value_info, *graph.graph.initializer):
        noted.ClearField("metadata_props")
        noted.ClearField("doc_string")
    path.write_bytes(graph.SerializeToString())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter prints and logs its own progress and deprecations; none of that is for our users."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _compare(name: str, ours: Any, theirs: Any) -> None:
    difference = float(np.abs(ours - theirs).max(initial=0))
    if not difference <= TOLERANCE:
        raise TrainingError(
            f"{name}: ONNX Runtime and torch differ by {difference:.2g}, more than {TOLERANCE:.2g}: "
            f"nothing was saved; leave out the layer that torch.onnx translates wrongly"
        )
