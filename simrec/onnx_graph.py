"""What an ONNX graph may do when simrec runs it: compute numbers from its input, and nothing else.

ONNX Runtime opens files that a graph names, reads memory that it points to, and runs its loops as long as they say. A
graph may come from anyone, so simrec checks it before ONNX Runtime sees it. It parses the file itself, because look-ups
work without the package onnx, and reads only the fields that matter; their numbers are those of onnx.proto3.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

OPERATORS = frozenset(
    """
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh Attention AveragePool BatchNormalization BitShift
    BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast CastLike Ceil Celu CenterCropPad Clip Concat Constant
    ConstantOfShape Conv ConvInteger ConvTranspose Cos Cosh CumSum DFT DepthToSpace DequantizeLinear Det Div Dropout
    DynamicQuantizeLinear Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor GRU Gather GatherElements GatherND Gelu
    Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GridSample GroupNormalization HardSigmoid
    HardSwish Hardmax Identity InstanceNormalization IsInf IsNaN LRN LSTM LayerNormalization LeakyRelu Less LessOrEqual
    Log LogSoftmax LpNormalization LpPool MatMul MatMulInteger Max MaxPool Mean MeanVarianceNormalization Min Mish Mod
    Mul Neg NonZero Not OneHot Or PRelu Pad Pow QLinearConv QLinearMatMul QuantizeLinear RMSNormalization RNN Range
    Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
    ReduceSumSquare Relu Reshape Resize RoiAlign RotaryEmbedding Round ScatterElements ScatterND Selu Shape Shrink
    Sigmoid Sign Sin Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Swish Tan Tanh
    ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Where Xor
    """.split()  # noqa: SIM905 - in lines that can be read
)
"""ONNX's standard operators that compute numbers: no control flow, sequences, texts, files or random numbers."""

SIZES: dict[str, tuple[int, ...]] = {
    "CenterCropPad": (1,), "ConstantOfShape": (0,), "DFT": (1,), "Expand": (1,), "OneHot": (1,),
    "Pad": (1, 3), "Range": (0, 1, 2), "Reshape": (1,), "Resize": (1, 2, 3), "Slice": (1, 2, 3, 4), "Split": (1,),
    "Tile": (1,), "TopK": (1,),
}  # fmt: skip
"""Which of an operator's inputs set the size of its result.

A size must not depend on what a picture shows, else a graph could be fast for most pictures and slow for some.
"""

FIELDS = 200_000
"""Maximum number of fields in a graph: a network of thousands of layers has a tenth of that."""

MODEL, GRAPH, NODE, ATTRIBUTE, TENSOR, INPUT = "model", "graph", "node", "attribute", "tensor", "input"

_INSIDE = {
    (MODEL, 7): GRAPH,
    (GRAPH, 1): NODE,
    (GRAPH, 5): TENSOR,
    (GRAPH, 11): INPUT,
    (NODE, 5): ATTRIBUTE,
    (ATTRIBUTE, 5): TENSOR,
    (ATTRIBUTE, 10): TENSOR,
}
"""Which fields hold messages that must be checked too."""

_REFUSED = {
    (MODEL, 20): "training",
    (MODEL, 25): "functions of its own",
    (GRAPH, 15): "sparse weights",
    (ATTRIBUTE, 6): "a graph within a graph, as loops have",
    (ATTRIBUTE, 11): "graphs within a graph",
    (ATTRIBUTE, 22): "a sparse constant",
    (ATTRIBUTE, 23): "sparse constants",
    (TENSOR, 13): "weights outside of the graph's own file",
    (TENSOR, 14): "weights outside of the graph's own file",
}
_METADATA = 14
"""The number of a model's field that holds one entry of its metadata: a message of a key and a value."""

_OPERATOR, _DOMAIN = (NODE, 4), (NODE, 7)
_NODE_INPUT, _NODE_OUTPUT, _INPUT_NAME = (NODE, 1), (NODE, 2), (INPUT, 1)

_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5


def check(graph: bytes) -> None:
    """Raises ValueError, which says why, for an ONNX model that may do more than compute numbers."""
    left = FIELDS
    waiting: list[tuple[str, int, int]] = [(MODEL, 0, len(graph))]
    graphs, given, nodes = 0, set[bytes](), list[_Node]()
    while waiting:
        kind, start, end = waiting.pop()
        node = _Node()
        for number, begin, stop in _fields(graph, start, end):
            left -= 1
            place = (kind, number)
            if left < 0:
                raise ValueError(f"it has more than {FIELDS:,} fields")
            if place == (TENSOR, 14) and begin == stop:  # the default: the weights are inside
                continue
            if place in _REFUSED:
                raise ValueError(f"it has {_REFUSED[place]}")
            if place == _OPERATOR and (name := graph[begin:stop].decode("ascii", "replace")) not in OPERATORS:
                raise ValueError(f"it has the operator {name[:40]!r}")
            if place == _DOMAIN and graph[begin:stop] not in (b"", b"ai.onnx"):
                raise ValueError("it has operators that are not ONNX's own")
            if place == _OPERATOR:
                node.operator = name
            elif place == _NODE_INPUT:
                node.inputs.append(graph[begin:stop])
            elif place == _NODE_OUTPUT:
                node.outputs.append(graph[begin:stop])
            elif place == _INPUT_NAME:
                given.add(graph[begin:stop])
            if inside := _INSIDE.get(place):
                waiting.append((inside, begin, stop))
                graphs += inside == GRAPH
        if kind == NODE:
            nodes.append(node)
    if graphs != 1:
        raise ValueError("it is not an ONNX model")
    _check_sizes(given, nodes)


def metadata(graph: bytes) -> dict[str, str]:
    """A model's metadata: values by key. Raises ValueError for bytes that aren't a model."""
    return dict(
        _entry(graph, start, end) for number, start, end in _fields(graph, 0, len(graph)) if number == _METADATA
    )


def with_metadata(graph: bytes, key: str, value: str) -> bytes:
    """The model with this entry in its metadata, which replaces any with the same key; nothing else changes.

    Raises ValueError for bytes that aren't a model.
    """
    parts, before = list[bytes](), 0
    for number, start, end in _fields(graph, 0, len(graph)):
        if number != _METADATA or _entry(graph, start, end)[0] != key:
            parts.append(graph[before:end])
        before = end
    entry = b"".join(_head(number, len(text)) + text for number, text in ((1, key.encode()), (2, value.encode())))
    return b"".join([*parts, _head(_METADATA, len(entry)), entry])


def _entry(graph: bytes, start: int, end: int) -> tuple[str, str]:
    """The key and the value of an entry of the metadata."""
    texts = {number: graph[begin:stop].decode("utf-8", "replace") for number, begin, stop in _fields(graph, start, end)}
    return texts.get(1, ""), texts.get(2, "")


def _head(number: int, length: int) -> bytes:
    """The bytes before a field of bytes: its number and kind, and its length."""
    head = bytearray()
    for left in (number << 3 | _BYTES, length):
        while left > 0x7F:
            head.append(left & 0x7F | 0x80)
            left >>= 7
        head.append(left)
    return bytes(head)


@dataclass
class _Node:
    """An operator with the names of its inputs and outputs."""

    operator: str = ""
    inputs: list[bytes] = field(default_factory=list)
    outputs: list[bytes] = field(default_factory=list)


def _check_sizes(given: set[bytes], nodes: list[_Node]) -> None:
    """Raises ValueError if a size depends on the input's values and not only on the input's size."""
    users: dict[bytes, list[_Node]] = {}
    for node in nodes:
        for name in node.inputs:
            users.setdefault(name, []).append(node)
    seen, waiting = set(given), list(given)
    while waiting:
        for node in users.get(waiting.pop(), ()):
            if node.operator not in ("Shape", "Size"):  # their results are the same for any picture
                new = set(node.outputs) - seen
                seen |= new
                waiting += new
    for node in nodes:
        if any(at < len(node.inputs) and node.inputs[at] in seen for at in SIZES.get(node.operator, ())):
            raise ValueError(f"a size in {node.operator!r} depends on what a picture shows")


def _fields(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """The fields of a Protocol Buffers message: each field's number, and the start and end of its bytes.

    The range of a varint that is 0 is empty. Raises ValueError for bytes that aren't a message.
    """
    while start < end:
        key, start = _varint(data, start, end)
        if key >> 32:  # ONNX Runtime would cut it to 32 bits and see a different field
            raise ValueError("it is not an ONNX model")
        wire = key & 7
        if wire == _VARINT:
            value, stop = _varint(data, start, end)
            yield key >> 3, start if value else stop, stop
        elif wire == _BYTES:
            length, start = _varint(data, start, end)
            stop = start + length
            yield key >> 3, start, stop
        elif wire in (_EIGHT, _FOUR):
            stop = start + (8 if wire == _EIGHT else 4)
            yield key >> 3, start, stop
        else:
            raise ValueError("it is not an ONNX model")
        if stop > end:
            raise ValueError("it is cut short")
        start = stop


def _varint(data: bytes, start: int, end: int) -> tuple[int, int]:
    """The number whose bytes begin at `start`, low seven bits first, and where they end."""
    value = 0
    for shift in range(0, 70, 7):
        if start >= end:
            raise ValueError("it is cut short")
        byte = data[start]
        start += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, start
    raise ValueError("it is not an ONNX model")
