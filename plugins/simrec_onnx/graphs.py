"""Combines vision towers into one ONNX graph from pictures to features to codes, with the onnx package alone.

A tower is an ONNX model that takes a picture and gives features. The normalisation before it and the pooling after it
become part of the graph, so that looking up runs one graph and needs nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper
from onnx.inliner import inline_local_functions

from simrec.contracts import ImageSpec

Pooling = Literal["auto", "cls", "mean", "weighted", "gem", "max"]

OLDEST = 13
"""The oldest opset that has the operators used here in their present form."""

EMBEDDINGS = ("image_embeds", "pooler_output", "embedding", "embeddings", "features", "last_hidden_state")
"""Outputs that are used if none is named: the first of these that exists."""


class TowerError(ValueError):
    """A tower that can't be put into a graph; the message says why, and what to do."""


@dataclass(frozen=True)
class Feed:
    """How a tower's pixels are normalised: mean and std of each channel, for pixels in 0..1."""

    mean: Sequence[float] = (0.0, 0.0, 0.0)
    std: Sequence[float] = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Tower:
    """A model, and which of its inputs and outputs to use.

    image: the input for the picture. output: the one with the features. channels_last: the order of the image's axes.
    prefix: how many tokens come before those of the picture's patches (CLS and registers).
    """

    model: ModelProto
    image: ValueInfoProto
    output: str
    channels_last: bool
    prefix: int = 0

    @classmethod
    def of(cls, model: ModelProto, output: str = "", prefix: int = 0) -> Tower:
        """Finds input and output of a model. Raises TowerError for one that takes no pictures."""
        if model.functions:
            model = inline_local_functions(model)
        if opset(model) < OLDEST:
            raise TowerError(f"it has opset {opset(model)}: export it again with opset {OLDEST} or newer")
        names = [given.name for given in model.graph.output]
        output = output or next((name for name in EMBEDDINGS if name in names), names[0] if len(names) == 1 else "")
        if output not in names:
            said = f"there is no output {output!r}" if output else "it has several outputs"
            raise TowerError(f"{said}: choose one with --set output=NAME of {', '.join(names)}")
        stored = {weight.name for weight in model.graph.initializer}
        needed = _needed(model, output)
        inputs = [given for given in model.graph.input if given.name in needed and given.name not in stored]
        images = [given for given in inputs if len(_shape(given)) == 4]
        if len(images) != 1:
            raise TowerError(f"its inputs are {_described(inputs)}: a vision tower takes one picture (n, 3, h, w)")
        if others := [given for given in inputs if given.name != images[0].name]:
            raise TowerError(
                f"{output!r} also needs {_described(others)}: export the image tower alone, or choose another output "
                f"of {', '.join(names)}"
            )
        shape = _shape(images[0])
        if isinstance(shape[0], int) and shape[0] > 0:
            raise TowerError(f"it takes {shape[0]} pictures at a time: export it with a dynamic batch")
        channels_last = shape[1] not in (1, 3) and shape[3] in (1, 3)
        if not channels_last and isinstance(shape[1], int) and shape[1] not in (0, 1, 3):
            raise TowerError(f"its input is {_described(images)}: a vision tower takes one picture (n, 3, h, w)")
        return cls(model, images[0], output, channels_last, prefix)

    def check_size(self, spec: ImageSpec) -> None:
        """Raises TowerError if the model's input has another size, or other channels, than the pictures."""
        shape = _shape(self.image)
        height, width, channels = shape[1:] if self.channels_last else (shape[2], shape[3], shape[1])
        for given, wanted, name in (
            (height, spec.size, "size"), (width, spec.size, "size"), (channels, spec.channels, "channels"),
        ):  # fmt: skip
            if isinstance(given, int) and given > 0 and given != wanted:
                raise TowerError(f"it takes {_described([self.image])}: --set {name}={given}")


@dataclass
class Graph:
    """A graph under construction: values are referred to by name, and each method adds some nodes."""

    opset: int
    nodes: list[NodeProto] = field(default_factory=list)
    weights: dict[str, TensorProto] = field(default_factory=dict)
    models: list[ModelProto] = field(default_factory=list)
    copies: int = 0

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Adds a node; returns the name of its result."""
        result = f"simrec_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [result], **attributes))
        return result

    def constant(self, values: Any) -> str:
        """Adds a constant array; returns its name."""
        name = f"simrec_constant_{len(self.weights)}"
        self.weights[name] = numpy_helper.from_array(np.asarray(values), name)
        return name

    def reduce(self, operator: str, value: str, axes: Sequence[int], keepdims: int = 0) -> str:
        """ReduceMean, ReduceL2 or ReduceMax over axes, which became an input in opset 18."""
        if self.opset >= 18:
            return self.add(operator, value, self.constant(np.asarray(axes, np.int64)), keepdims=keepdims)
        return self.add(operator, value, axes=list(axes), keepdims=keepdims)

    def tower(self, tower: Tower, pictures: str, feed: Feed) -> str:
        """A tower's output, float32, for pictures uint8 (n, h, w, c).

        A tower that is used twice has its weights only once. A tower that takes uint8 gets the pixels as they are.
        """
        kind = tower.image.type.tensor_type.elem_type
        fed = pictures
        if kind != TensorProto.UINT8:
            # x / 255 - mean, divided by std, in one multiplication and one subtraction
            scale = 1 / (255 * np.asarray(feed.std, np.float64))
            shift = np.asarray(feed.mean, np.float64) / np.asarray(feed.std, np.float64)
            fed = self.add("Cast", pictures, to=TensorProto.FLOAT)
            fed = self.add("Mul", fed, self.constant(scale.astype(np.float32)))
            fed = self.add("Sub", fed, self.constant(shift.astype(np.float32)))
            if kind == TensorProto.FLOAT16:
                fed = self.add("Cast", fed, to=TensorProto.FLOAT16)
            elif kind != TensorProto.FLOAT:
                raise TowerError(f"its input is {_described([tower.image])}: it must be float32, float16 or uint8")
        if not tower.channels_last:
            fed = self.add("Transpose", fed, perm=[0, 3, 1, 2])
        self.copies += 1
        result = self._copied(tower, fed, f"copy{self.copies}_")
        return self.add("Cast", result, to=TensorProto.FLOAT)

    def _copied(self, tower: Tower, fed: str, prefix: str) -> str:
        graph, needed = tower.model.graph, _needed(tower.model, tower.output)
        number = next((at for at, model in enumerate(self.models) if model is tower.model), len(self.models))
        if number == len(self.models):
            self.models.append(tower.model)
        stored = {weight.name: f"tower{number}_{weight.name}" for weight in graph.initializer}
        for weight in graph.initializer:
            if weight.name in needed and stored[weight.name] not in self.weights:
                copy = TensorProto()
                copy.CopyFrom(weight)
                copy.name = stored[weight.name]
                self.weights[copy.name] = copy

        def named(name: str) -> str:
            if name == tower.image.name:
                return fed
            return stored.get(name, f"{prefix}{name}") if name else ""

        for node in graph.node:
            if needed.isdisjoint(node.output):
                continue
            copy_ = NodeProto()
            copy_.CopyFrom(node)
            copy_.name = f"{prefix}{node.name}" if node.name else ""
            copy_.input[:] = [named(name) for name in node.input]
            copy_.output[:] = [named(name) for name in node.output]
            self.nodes.append(copy_)
        return named(tower.output)

    def resized(self, pictures: str, before: int, after: int) -> str:
        """Pictures uint8 (n, before, before, c) to (n, after, after, c), resized linearly with antialiasing."""
        scale = (after + 0.01) / before  # the product is rounded down
        scales = self.constant(np.asarray([1, scale, scale, 1], np.float32))
        return self.add("Resize", pictures, "", scales, mode="linear", antialias=1)

    def mirrored(self, pictures: str) -> str:
        """Pictures (n, h, w, c) with left and right swapped."""
        start, end, axis, step = (self.constant(np.asarray([value], np.int64)) for value in (-1, -(2**31), 2, -1))
        return self.add("Slice", pictures, start, end, axis, step)

    def pooled(self, features: str, rank: int, pooling: Pooling, prefix: int = 0) -> str:
        """Features (n, c), (n, tokens, c) or (n, c, h, w) to (n, c).

        auto: leaves rank 2 as it is, takes the first token of rank 3, and the mean over places of rank 4. The others
        pool over places, or over the tokens after the first `prefix`. weighted: the mean weighted by the Euclidean norm
        at each place. gem: the root of the mean square, a generalised mean (Radenović, Tolias, Chum 2019,
        arXiv:1711.02512) between mean and maximum.
        """
        if rank == 2:
            return features
        if rank == 3 and pooling in ("auto", "cls"):
            return self.add("Gather", features, self.constant(np.int64(0)), axis=1)
        if rank == 3 and prefix:
            start, end, axis = (self.constant(np.asarray([value], np.int64)) for value in (prefix, 2**31, 1))
            features = self.add("Slice", features, start, end, axis)
        places, channel = ([1], 2) if rank == 3 else ([2, 3], 1)
        if pooling == "gem":
            return self.add("Sqrt", self.reduce("ReduceMean", self.add("Mul", features, features), places))
        if pooling == "max":
            return self.reduce("ReduceMax", features, places)
        if pooling == "weighted":
            norms = self.reduce("ReduceL2", features, [channel], keepdims=1)
            mean = self.reduce("ReduceMean", self.add("Mul", features, norms), places, keepdims=1)
            # In a picture without any activation all places count the same.
            total = self.add(
                "Add", self.reduce("ReduceMean", norms, places, keepdims=1), self.constant(np.float32(1e-9))
            )
            return self._squeezed(self.add("Div", mean, total), places)
        return self.reduce("ReduceMean", features, places)

    def _squeezed(self, value: str, axes: Sequence[int]) -> str:
        return self.add("Squeeze", value, self.constant(np.asarray(axes, np.int64)))

    def unit(self, features: str) -> str:
        """Features (n, c) divided by their Euclidean norm."""
        norm = self.add(
            "Add", self.reduce("ReduceL2", features, [1], keepdims=1), self.constant(np.float32(1e-9))
        )  # fmt: skip
        return self.add("Div", features, norm)

    def projected(
        self, features: str, mean: NDArray[Any], matrix: NDArray[Any], shift: NDArray[Any], *, unit: bool
    ) -> str:
        """Features (n, f) to codes (n, dim): see `simrec_onnx.axes.Axes`."""
        centred = self.add("Sub", features, self.constant(mean))
        # Half precision only on disk: this is the larger part of what an encoder adds to its towers.
        whole = self.add("Cast", self.constant(matrix.astype(np.float16)), to=TensorProto.FLOAT)
        codes = self.add("MatMul", self.unit(centred) if unit else centred, whole)
        return self.add("Sub", codes, self.constant(shift))

    def model(self, spec: ImageSpec, result: str, name: str, shape: Sequence[str | int | None] | None) -> ModelProto:
        """The whole graph: takes `images` uint8 (n, h, w, c), gives a result float32 of that shape under that name."""
        nodes = [*self.nodes, helper.make_node("Identity", [result], [name])]
        graph = helper.make_graph(
            nodes, "encoder",
            [helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", *spec.shape])],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)],
            list(self.weights.values()),
        )  # fmt: skip
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=10)


def common_opset(towers: Sequence[Tower]) -> int:
    """The towers' common opset. Raises TowerError if they have several."""
    opsets = {opset(tower.model) for tower in towers}
    if len(opsets) != 1:
        raise TowerError(f"towers of opsets {sorted(opsets)} can't be in one graph: export them with the same")
    return opsets.pop()


def opset(model: ModelProto) -> int:
    """The version of the standard operators that a model is written in."""
    return next((opset.version for opset in model.opset_import if opset.domain in ("", "ai.onnx")), 0)


def _needed(model: ModelProto, output: str) -> set[str]:
    """The names of all values that an output depends on, including itself."""
    makers = {name: node for node in model.graph.node for name in node.output}
    names, waiting = {output}, [output]
    while waiting:
        node = makers.get(waiting.pop())
        for name in _used(node) if node else ():
            if name and name not in names:
                names.add(name)
                waiting.append(name)
    return names


def _used(node: NodeProto) -> Iterator[str]:
    """A node's inputs, and what the graphs inside it take from outside."""
    yield from node.input
    for attribute in node.attribute:
        for inner in attribute.g.node:
            yield from _used(inner)


def _shape(value: ValueInfoProto) -> list[int | str]:
    return [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]


def _described(values: Sequence[ValueInfoProto]) -> str:
    return ", ".join(
        f"{value.name} {TensorProto.DataType.Name(value.type.tensor_type.elem_type).lower()} "
        f"({', '.join(str(axis or '?') for axis in _shape(value))})"
        for value in values
    ) or "none"  # fmt: skip
