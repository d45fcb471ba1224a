"""Exports an autoencoder as ONNX graphs, and checks that they compute the same as the network."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from simrec.contracts import Images
from simrec.errors import StoreError, TrainingError, missing
from simrec.onnx_encoder import REMEDY, OnnxEncoder

TOLERANCE = 1e-4
"""Maximum difference between ONNX Runtime and torch, in codes and in rebuilt pixels (0..1)."""

OPSET = 18
"""ONNX Runtime 1.2x computes the AveragePool of opset 18 much faster than that of later ones, for a few channels."""


class NotExportable(Exception):  # noqa: N818 - it is an answer, not a failure: such an encoder runs as a plugin
    """torch.onnx cannot express this network, or not as a graph that simrec runs."""


class _Whole(nn.Module):
    """Encoder and decoder together: one export of both takes half the time of two exports."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.variational = model.variational

    def forward(self, images: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
        x = images.permute(0, 3, 1, 2).float() / 255
        results = [self.model.code(x)]
        if self.variational:
            results.append(self.model.spread(x))
        results += [self.model.picture(codes).permute(0, 2, 3, 1) for codes in given]
        return tuple(result.float() for result in results)  # as `encode` and `decode` do with float64


def trace(model: Any) -> torch.onnx.ONNXProgram:
    """The model as ONNX, with encoder and decoder together, to be written now or later with other weights.

    Raises NotExportable if torch.onnx can't export it.
    """
    feeds = {"images": torch.zeros((2, *model.input.shape), dtype=torch.uint8)}
    if hasattr(model, "decode"):
        feeds["given"] = torch.zeros(3, model.dim)
    whole = _Whole(model).eval()
    with _exporting():
        program = torch.onnx.export(
            whole, tuple(feeds.values()), input_names=list(feeds), output_names=_coded(model) + _rebuilt(model),
            dynamo=True, verbose=False, optimize=False, dynamic_shapes=_any_number(feeds), opset_version=OPSET,
        )  # fmt: skip
    return cast(torch.onnx.ONNXProgram, program)  # None is for the older exporter


def write(program: torch.onnx.ONNXProgram, model: Any, folder: Path) -> None:
    """Writes encoder.onnx and, if the model has a `picture`, decoder.onnx: single files, for any batch size.

    program: what `trace` made of this model; it is written with the current weights. Raises NotExportable as `trace`
    does.
    """
    from onnx.utils import Extractor

    with _exporting():
        program.apply_weights(_Whole(model).state_dict())
        optimized = torch.onnx.ONNXProgram(program.model.clone(), None)  # a copy: folding weights changes it
        optimized.optimize()
        parts = Extractor(optimized.model_proto)
        graphs = {"encoder.onnx": parts.extract_model(["images"], _coded(model))}
        if _rebuilt(model):
            graphs["decoder.onnx"] = parts.extract_model(["given"], _rebuilt(model))
    for name, graph in graphs.items():
        _rename_input(graph.graph, "given", "codes")
        _write(graph, folder / name)


def check(model: Any, folder: Path, images: Images) -> None:
    """Runs graphs and network on images (n, h, w, c).

    Raises NotExportable for graphs that simrec doesn't run, TrainingError if they differ by more than TOLERANCE from
    the network.
    """
    onnx = OnnxEncoder(model.input, model.dim, lambda name: (folder / name).read_bytes())
    codes = model.encode(images)
    try:
        _compare("encoder.onnx", onnx.encode(images), codes)
        if model.variational:
            _compare("encoder.onnx", onnx.log_variances(images), model.log_variances(images))
        if hasattr(model, "decode"):
            _compare("decoder.onnx", onnx.decode(codes), model.decode(codes))
    except StoreError as error:
        raise NotExportable(str(error).removesuffix(f": {REMEDY}")) from error  # there is no copy to bring back yet


def _coded(model: Any) -> list[str]:
    """The names of the results computed from pictures."""
    return ["codes", "log_variances"] if model.variational else ["codes"]


def _rebuilt(model: Any) -> list[str]:
    """The names of the results computed from codes."""
    return ["pictures"] if hasattr(model, "decode") else []


def _any_number(feeds: dict[str, Tensor]) -> tuple[Any, ...]:
    """Dynamic shapes: any number of rows in each input."""
    images, *given = ({0: torch.export.Dim(f"n_{name}", min=1)} for name in feeds)
    return (images, tuple(given)) if given else (images,)


def _rename_input(graph: Any, before: str, after: str) -> None:
    """Renames an input everywhere in a graph."""
    for feed in graph.input:
        feed.name = after if feed.name == before else feed.name
    for node in graph.node:
        node.input[:] = [after if name == before else name for name in node.input]


def _write(model: Any, path: Path) -> None:
    # The exporter notes on each node where in the source it came from: paths on this machine, useless elsewhere.
    graph = model.graph
    for noted in (model, graph, *graph.node, *graph.value_info, *graph.initializer, *graph.input, *graph.output):
        noted.ClearField("metadata_props")
        noted.ClearField("doc_string")
    path.write_bytes(model.SerializeToString())


@contextlib.contextmanager
def _exporting() -> Iterator[None]:
    """Silences the exporter, which prints and logs its own progress, deprecations and, if it fails, graphs.

    Turns whatever its many stages raise into NotExportable, unless onnxscript is not installed.
    """
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        nowhere = io.StringIO()
        with warnings.catch_warnings(), contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            warnings.simplefilter("ignore")
            yield
    except Exception as error:
        if missing(error):
            raise
        raise NotExportable(_why(error)) from error
    finally:
        logging.disable(before)


def _why(error: BaseException) -> str:
    """Why torch.onnx can't export a network, in a line: the first cause, without the exporter's advice on itself."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, GuardOnDataDependentSymNode):
        return "Python's if and while can't depend on a picture's values there: use torch.where"
    return str(error).splitlines()[0] if str(error) else repr(error)


def _compare(name: str, ours: Any, theirs: Any) -> None:
    difference = float(np.abs(ours - theirs).max(initial=0))
    if not difference <= TOLERANCE:
        raise TrainingError(
            f"{name}: ONNX Runtime and torch differ by {difference:.2g}, more than {TOLERANCE:.2g}: "
            f"nothing was saved; leave out the layer that torch.onnx translates wrongly"
        )
