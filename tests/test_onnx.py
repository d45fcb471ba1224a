"""The encoder `onnx`: codes hold what the model in a file sees, and a model that can't be used is one clear line."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from simrec_onnx.axes import Axes, learned, principal_axes
from simrec_onnx.graphs import Graph
from simrec_onnx.model import Onnx, OnnxSettings, features_of

import simrec
from simrec.contracts import Images
from simrec.errors import RequestError, SimrecError, TrainingError
from simrec.images import read
from simrec.verbs.train import Plan

SIZE = 16
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)


@pytest.fixture(scope="module")
def images() -> Images:
    """60 parts of photos, (60, 16, 16, 3)."""
    from skimage import data

    photos = np.concatenate(
        [data.astronaut()[:480, :480], data.chelsea()[:288, :288].repeat(2, 0)[:480].repeat(2, 1)[:, :480]]
    )
    rng = np.random.default_rng(0)
    corners = rng.integers(0, (960 - SIZE, 480 - SIZE), (60, 2))
    return np.stack([photos[top : top + SIZE, left : left + SIZE] for top, left in corners])


WEIGHTS = np.random.default_rng(1).normal(size=(8, 3, 3, 3)).astype(np.float32)


def tower(
    path: Path, *, last: Sequence[onnx.NodeProto] = (), shape: Sequence[str | int] = ("n", 3, "h", "w"),
    opset: int = 18, kind: int = TensorProto.FLOAT, first: Sequence[onnx.NodeProto] = (),
    outputs: Sequence[str] = ("out",), inputs: Sequence[onnx.ValueInfoProto] = (),
    stored: Sequence[onnx.TensorProto] = (),
) -> Path:  # fmt: skip
    """A model of one convolution, `map` (n, 8, h, w), with nodes before it (giving `x`) and after it."""
    weights = numpy_helper.from_array(WEIGHTS, "weights")
    nodes = [
        *(first or [helper.make_node("Identity", ["pixel_values"], ["x"])]),
        helper.make_node("Conv", ["x", "weights"], ["conv"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["conv"], ["map"]),
        *(last or [helper.make_node("Identity", ["map"], ["out"])]),
    ]
    graph = helper.make_graph(
        nodes, "tower", [helper.make_tensor_value_info("pixel_values", kind, shape), *inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs], [weights, *stored],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)
    return path


def features(images: Images) -> NDArray[np.float64]:
    """What the convolution gives for images (n, h, w, c), (n, 8, h / 2, w / 2)."""
    x = (images / 255 - np.array(MEAN)) / np.array(STD)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))[:, ::2, ::2]
    return np.maximum(np.einsum("nhwcij,fcij->nfhw", windows, WEIGHTS), 0)


def fitted(path: Path, images: Images, **settings: Any) -> Onnx:
    encoder = Onnx(OnnxSettings(**{"model": str(path), "size": SIZE, "mean": MEAN, "std": STD, "dim": 8} | settings))
    encoder.fit(images, validation=images[:5])
    return encoder


def apart(codes: NDArray[Any], vectors: NDArray[Any]) -> float:
    """How far the inner products of codes are from those of centred vectors; a rotation doesn't change them."""
    centred = vectors - vectors.mean(0)
    return float(np.abs(codes @ codes.T - centred @ centred.T).max() / np.abs(centred @ centred.T).max())


def squeezed(array: NDArray[Any]) -> NDArray[Any]:
    return array.mean((2, 3))


def rooted(array: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(np.sqrt((array**2).mean((2, 3))))


def weighted(array: NDArray[Any]) -> NDArray[Any]:
    norms = np.linalg.norm(array, axis=1, keepdims=True)
    return (array * norms).sum((2, 3)) / norms.sum((2, 3))


@pytest.mark.parametrize("opset", [13, 18])
@pytest.mark.parametrize(
    ("pooling", "expected"),
    [("auto", squeezed), ("mean", squeezed), ("max", lambda a: a.max((2, 3))), ("weighted", weighted), ("gem", rooted)],
    ids=["auto", "mean", "max", "weighted", "gem"],
)
def test_codes_tell_the_pooled_features(
    tmp_path: Path, images: Images, pooling: str, expected: Any, opset: int
) -> None:
    encoder = fitted(tower(tmp_path / "tower.onnx", opset=opset), images, pooling=pooling)
    assert apart(encoder.encode(images), expected(features(images))) < 1e-3


TOKENS = [
    helper.make_node("Flatten", ["map"], ["flat"], axis=2),
    helper.make_node("Reshape", ["map", "shape"], ["rows"]),
    helper.make_node("Transpose", ["rows"], ["out"], perm=[0, 2, 1]),
]
SHAPE = numpy_helper.from_array(np.array([0, 8, -1], np.int64), "shape")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, lambda t: t[:, 0]),
        ({"pooling": "cls"}, lambda t: t[:, 0]),
        ({"pooling": "mean", "prefix": 5}, lambda t: t[:, 5:].mean(1)),
        ({"pooling": "max", "prefix": 0}, lambda t: t.max(1)),
    ],
    ids=["the first token unless told", "the first token", "the mean of the others", "the largest"],
)
def test_tokens_are_pooled(tmp_path: Path, images: Images, settings: dict[str, Any], expected: Any) -> None:
    path = tower(tmp_path / "tower.onnx", last=TOKENS[1:], stored=[SHAPE])
    tokens = features(images).reshape(len(images), 8, -1).transpose(0, 2, 1)
    assert apart(fitted(path, images, **settings).encode(images), expected(tokens)) < 1e-3


def cast(to: int) -> list[onnx.NodeProto]:
    return [helper.make_node("Cast", ["pixel_values"], ["x"], to=to)]


@pytest.mark.parametrize(
    ("kind", "first", "shape", "tolerance"),
    [
        (TensorProto.FLOAT16, cast(TensorProto.FLOAT), ("n", 3, SIZE, SIZE), 1e-2),
        (TensorProto.FLOAT, [helper.make_node("Transpose", ["pixel_values"], ["x"], perm=[0, 3, 1, 2])],
         ("n", SIZE, SIZE, 3), 1e-3),
    ],
    ids=["half precision", "channels last"],
)  # fmt: skip
def test_models_are_fed_as_they_ask(
    tmp_path: Path, images: Images, kind: int, first: Any, shape: Any, tolerance: float
) -> None:
    path = tower(tmp_path / "tower.onnx", kind=kind, first=first, shape=shape)
    assert apart(fitted(path, images).encode(images), squeezed(features(images))) < tolerance


def test_a_model_of_bytes_is_fed_the_pixels_as_they_are(tmp_path: Path, images: Images) -> None:
    path = tower(tmp_path / "tower.onnx", kind=TensorProto.UINT8, first=cast(TensorProto.FLOAT))
    by_hand = np.maximum(features_of_pixels(images), 0).mean((2, 3))
    assert apart(fitted(path, images).encode(images), by_hand) < 1e-3


def features_of_pixels(images: Images) -> NDArray[np.float64]:
    padded = np.pad(images.astype(float), ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))[:, ::2, ::2]
    return np.asarray(np.einsum("nhwcij,fcij->nfhw", windows, WEIGHTS))


def test_the_output_is_chosen_and_what_it_does_not_need_is_left_out(tmp_path: Path, images: Images) -> None:
    """A model of pictures and texts: only its image half gets into the recommender."""
    path = tower(
        tmp_path / "both.onnx",
        last=[
            helper.make_node("GlobalAveragePool", ["map"], ["image_embeds"]),
            helper.make_node("Gather", ["table", "input_ids"], ["text_embeds"]),
        ],
        outputs=("text_embeds", "image_embeds"),
        inputs=[helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["n", "t"])],
        stored=[numpy_helper.from_array(np.zeros((1000, 1000), np.float32), "table")],
    )
    encoder = fitted(path, images)
    assert apart(encoder.encode(images), squeezed(features(images))) < 1e-3
    encoder.save(tmp_path)
    assert (tmp_path / "encoder.onnx").stat().st_size < 20_000
    with pytest.raises(RequestError, match="also needs|inputs are input_ids"):
        fitted(path, images, output="text_embeds")


def test_the_recommender_needs_the_model_no_longer(photos: Path, tmp_path: Path) -> None:
    path = tower(tmp_path / "tower.onnx")
    made, _ = simrec.train(
        Plan("onnx", changes={"model": str(path), "size": "16", "dim": "8"}), source=str(photos), name="mine"
    )
    path.unlink()
    built = simrec.build("mine", str(photos))
    record = made.manifest.encoder
    assert (record.runtime, record.input.recipe, record.dim) == ("onnx", "photo", 8)
    again = Onnx.load(made.folder / record.folder)
    pictures = built.pictures(str(photos)).images
    np.testing.assert_allclose(built.encode(pictures), again.encode(pictures), atol=1e-5)
    (first, *_) = built.similar(str(next(photos.rglob("*.png"))), n=3)
    assert first.score <= 1


def test_training_it_imports_no_torch(photos: Path, own_home: Path, tmp_path: Path) -> None:
    path = tower(tmp_path / "tower.onnx")
    code = (
        "import sys; from simrec.cli import main\n"
        "try: main()\nfinally: print([m for m in ('torch', 'torchvision') if m in sys.modules])"
    )
    words = ["train", "onnx", "--set", f"model={path}", "--set", "size=16", "--set", "dim=8", "--data", str(photos)]
    ran = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
    assert "Saved in" in ran.stderr


def node(operator: str, domain: str = "") -> list[onnx.NodeProto]:
    return [helper.make_node(operator, ["map"], ["out"], domain=domain)]


def other_inputs(path: Path) -> Path:
    text = helper.make_tensor_value_info("input_ids", TensorProto.FLOAT, ["n"])
    return tower(path, last=[helper.make_node("Mul", ["map", "input_ids"], ["out"])], inputs=[text])


def external(path: Path) -> Path:
    model = onnx.load(tower(path))
    onnx.save(model, path, save_as_external_data=True, size_threshold=0)
    return path


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path, "cannot be read"),
        (lambda path: written(path, b"no model"), "is not an ONNX model"),
        (lambda path: written(path, b""), "is not an ONNX model"),
        (lambda path: tower(path, opset=11), "opset 11"),
        (lambda path: tower(path, shape=(1, 3, SIZE, SIZE)), "1 pictures at a time"),
        (lambda path: tower(path, shape=("n", 3, 224, 224)), "--set size=224"),
        (lambda path: tower(path, shape=("n", 7, SIZE, SIZE)), "a vision tower takes one picture"),
        (lambda path: tower(path, shape=("n", "t")), "a vision tower takes one picture"),
        (other_inputs, "also needs input_ids"),
        (external, "its weights are in another file"),
        (lambda path: tower(path, outputs=("out", "map")), "--set output=NAME of out, map"),
        (lambda path: tower(path, last=node("Softmax", "com.microsoft")), "operators that are not ONNX's own"),
        (lambda path: tower(path, last=node("NoSuchThing")), "'NoSuchThing'"),
        (lambda path: tower(path, last=node("Log")), "not finite"),
    ],
    ids=range(14),
)
def test_a_model_that_cannot_be_used_is_one_clear_line(tmp_path: Path, images: Images, make: Any, said: str) -> None:
    with pytest.raises(SimrecError, match=said) as raised:
        fitted(make(tmp_path / "tower.onnx"), np.concatenate([images, np.zeros_like(images[:1])]))
    assert "\n" not in str(raised.value)


def test_a_wrong_model_is_found_before_any_picture_is_read(tmp_path: Path) -> None:
    path = tower(tmp_path / "tower.onnx", shape=("n", 3, 224, 224))
    with pytest.raises(RequestError, match="--set size=224"):
        simrec.train(Plan("onnx", changes={"model": str(path), "size": "16"}), source="/nowhere", name="mine")


def test_pictures_that_all_look_the_same_cannot_be_learned_from(tmp_path: Path, images: Images) -> None:
    path = tower(tmp_path / "tower.onnx")
    with pytest.raises(TrainingError, match="are all the same"):
        fitted(path, np.zeros_like(images))
    with pytest.raises(TrainingError, match="needs at least 2 pictures, not 1"):
        fitted(path, images[:1])
    assert fitted(path, images[:3]).dim == 2  # three points span a plane


def test_a_model_on_the_hub_is_taken_from_its_cache(
    tmp_path: Path, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    snapshot = tmp_path / "hub" / "models--somebody--tower" / "snapshots" / "0123456789abcdef"
    (snapshot / "onnx").mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text(snapshot.name)
    tower(snapshot / "onnx" / "vision_model.onnx")
    encoder = Onnx(OnnxSettings(model="hf:somebody/tower/onnx/vision_model.onnx", size=SIZE, dim=8))
    encoder.fit(images, validation=images[:5])
    with pytest.raises(RequestError, match="resolve/main/other.onnx and name it with --set model="):
        fitted(Path("hf:somebody/tower/other.onnx"), images)


def test_without_the_hubs_package_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch, images: Images) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(RequestError, match=r"pip install 'simrec\[hub\]', or get https://huggingface.co/a/b/resolve/"):
        Onnx(OnnxSettings(model="hf:a/b/c.onnx")).check()


def test_principal_axes_are_the_widest_and_the_same_from_either_matrix() -> None:
    rng = np.random.default_rng(0)
    vectors = (rng.normal(size=(50, 40)) * np.linspace(5, 0.1, 40)).astype(np.float32)
    axes = principal_axes(vectors, 5).matrix
    np.testing.assert_allclose(axes.T @ axes, np.eye(5), atol=1e-5)
    few = principal_axes(vectors[:30], 5).matrix  # fewer vectors than numbers
    exact = np.linalg.svd(vectors[:30] - vectors[:30].mean(0), full_matrices=False)[2][:5].T
    np.testing.assert_allclose(np.abs(np.einsum("ij,ij->j", few, exact)), 1, atol=1e-4)
    whitened = principal_axes(vectors, 5, whitening=1.0).codes(vectors)
    np.testing.assert_allclose(whitened.var(0) / whitened.var(0)[0], 1, rtol=1e-3)


def test_smoothed_axes_draw_pictures_of_a_kind_together() -> None:
    """Five kinds, hidden under equally wide noise in 60 other directions; the labels only score."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 400)
    kinds = rng.normal(size=(5, 100)) * (np.arange(100) < 40)
    vectors = (kinds[labels] + rng.normal(size=(400, 100)) * 2.2).astype(np.float32)

    def found(axes: Axes) -> float:
        codes = axes.codes(vectors)
        codes /= np.linalg.norm(codes, axis=1, keepdims=True)
        alike = codes @ codes.T - 9 * np.eye(len(codes))
        return float((labels[np.argsort(-alike, axis=1)[:, :10]] == labels[:, None]).mean())

    assert found(learned(vectors, 20, smoothing=1.0)) > found(learned(vectors, 20)) + 0.02


@pytest.mark.long
@pytest.mark.parametrize("name", ["vit_b_32", "swin_t"])
def test_exported_towers_see_what_they_see_in_torch(tmp_path: Path, name: str) -> None:
    """The same JPEGs through torchvision's own transforms and network, and through the graph: cosine at least .999."""
    import torch
    from skimage import data
    from torchvision import models
    from torchvision.transforms import v2 as transforms

    torch.manual_seed(0)
    network = models.get_model(name, weights=None).eval()
    setattr(network, "heads" if name == "vit_b_32" else "head", torch.nn.Identity())
    torch.onnx.export(
        network, (torch.zeros(2, 3, 224, 224),), tmp_path / "tower.onnx", input_names=["pixel_values"],
        output_names=["embedding"], dynamo=True, external_data=False, verbose=False,
        dynamic_shapes=({0: torch.export.Dim("n")},),
    )  # fmt: skip
    theirs = transforms.Compose([
        transforms.Resize(256, interpolation=transforms.InterpolationMode.BILINEAR), transforms.CenterCrop(224),
        transforms.ToImage(), transforms.ToDtype(torch.float32, scale=True),
        transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ])  # fmt: skip
    settings = replace(Onnx.presets["torchvision"], model=str(tmp_path / "tower.onnx"))
    encoder, wanted, given = Onnx(settings), [], []
    for number, photo in enumerate((data.chelsea(), data.coffee(), data.astronaut(), data.rocket())):
        path = tmp_path / f"{number}.jpg"
        Image.fromarray(photo).save(path, quality=90)
        given.append(read(path, encoder.input)[0])
        with torch.no_grad():
            wanted.append(network(theirs(Image.open(path))[None]).numpy()[0])
    graph = Graph(encoder.opset())
    model = graph.model(encoder.input, encoder.compose(graph), "features", ["n", None])
    found = np.concatenate(list(features_of(model, np.stack(given))))
    cosines = (found * wanted).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(wanted, axis=1)
    assert cosines.min() > 0.999
