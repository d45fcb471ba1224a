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


class _Whole(nn.Module):
    """Encoder and decoder side by side: one export of both takes half the time of two."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.variational = model.variational

    def forward(self, images: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
        x = images.permute(0, 3, 1, 2).float() / 255
        results = [self.model.code(x)]
        if self.variational:
            results.append(self.model.spread(x))
        return (*results, *(self.model.picture(codes).permute(0, 2, 3, 1) for codes in given))


def export(model: Any, folder: Path) -> None:
    """Writes encoder.onnx and, where the model has a `picture`, decoder.onnx: single files, any batch size.

    Raises NotExportable when torch.onnx cannot.
    """
    from onnx.utils import Extractor

    feeds = {"images": torch.zeros((2, *model.input.shape), dtype=torch.uint8)}
    coded = ["codes", "log_variances"] if model.variational else ["codes"]
    if hasattr(model, "decode"):
        feeds["given"] = torch.zeros(3, model.dim)
    try:
        parts = Extractor(_exported(_Whole(model), feeds, [*coded, *(["pictures"] if "given" in feeds else [])]))
        graphs = {"encoder.onnx": parts.extract_model(["images"], coded)}
        if "given" in feeds:
            graphs["decoder.onnx"] = parts.extract_model(["given"], ["pictures"])
    except Exception as error:  # the exporter raises whatever its many stages raise
        raise NotExportable(str(error).splitlines()[0] if str(error) else repr(error)) from error
    for name, graph in graphs.items():
        _rename_input(graph.graph, "given", "codes")
        _write(graph, folder / name)


def check(model: Any, folder: Path, images: Images) -> None:
    """Runs both ways over images (n, h, w, c); raises TrainingError when they differ by more than TOLERANCE."""
    onnx = OnnxEncoder(model.input, model.dim, lambda name: (folder / name).read_bytes())
    codes = model.encode(images)
    _compare("encoder.onnx", onnx.encode(images), codes)
    if model.variational:
        _compare("encoder.onnx", onnx.log_variances(images), model.log_variances(images))
    if hasattr(model, "decode"):
        _compare("decoder.onnx", onnx.decode(codes), model.decode(codes))


def _exported(module: nn.Module, feeds: dict[str, Tensor], results: list[str]) -> Any:
    module.eval()
    with _quiet():
        program: Any = torch.onnx.export(
            module, tuple(feeds.values()), input_names=list(feeds), output_names=results, dynamo=True, verbose=False,
            dynamic_shapes=_any_number(feeds),
        )  # fmt: skip
        return program.model_proto


def _any_number(feeds: dict[str, Tensor]) -> tuple[Any, ...]:
    """Rows of each feed, as many as there are."""
    images, *given = ({0: torch.export.Dim(f"n_{name}", min=1)} for name in feeds)
    return (images, tuple(given)) if given else (images,)


def _rename_input(graph: Any, before: str, after: str) -> None:
    """Gives an input another name wherever it stands."""
    for feed in graph.input:
        feed.name = after if feed.name == before else feed.name
    for node in graph.node:
        node.input[:] = [after if name == before else name for name in node.input]


def _write(model: Any, path: Path) -> None:
    # The exporter notes on each node where in whose source it came from: paths of this machine, of use to nobody else.
    graph = model.graph
    for noted in (model, graph, *graph.node, *graph.value_info, *graph.initializer, *graph.input, *graph.output):
        noted.ClearField("metadata_props")
        noted.ClearField("doc_string")
    path.write_bytes(model.SerializeToString())


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
