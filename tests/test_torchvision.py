"""The encoder `torchvision`, with random weights: where its weights and features come from, and its answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from simrec_torchvision.model import Torchvision, TorchvisionSettings
from torchvision import models

import simrec
from simrec.errors import RequestError, TrainingError
from simrec.sources.load import Pictures
from simrec.verbs.train import Plan

SMALL: dict[str, Any] = {"backbone": "resnet18", "layer": "maxpool", "size": 16, "dim": 8}
"""The first layer of a network, on small pictures: quick to run and to export."""


@pytest.fixture(scope="module")
def images(pictures: Pictures) -> np.ndarray:
    """300 pictures of 16x16, RGB."""
    return np.ascontiguousarray(pictures.images[:300, 6:22, 6:22]).repeat(3, axis=-1)


@pytest.fixture(scope="module")
def network() -> Any:
    """A resnet18 with weights that don't come from a seed."""
    torch.manual_seed(77)
    return models.resnet18(weights=None).eval()


@pytest.fixture(autouse=True)
def torchvisions_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    return tmp_path / "torch" / "hub" / "checkpoints"


def fitted(images: np.ndarray, **settings: Any) -> Torchvision:
    model = Torchvision(TorchvisionSettings(**SMALL | settings))
    model.fit(images, validation=images[:50], device="cpu")
    return model


def features(network: Any, images: np.ndarray) -> np.ndarray:
    """What a network's first layer gives for pictures prepared as for ImageNet, averaged over places."""
    x = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    x = (x - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    with torch.no_grad():
        found = network.maxpool(network.relu(network.bn1(network.conv1(x))))
    return np.asarray(found.mean((2, 3)).double())


def test_photos_are_trained_on_indexed_and_looked_up_without_torch(
    photos: Path, images: np.ndarray, network: Any, tmp_path: Path
) -> None:
    weights = tmp_path / "mine.safetensors"
    save_file(network.state_dict(), weights)
    changes = {**{name: str(value) for name, value in SMALL.items()}, "weights": str(weights)}
    made, history = simrec.train(Plan("torchvision", changes=changes), source=str(photos))
    weights.unlink()  # what is saved has no need of it
    again = Torchvision.load(made.folder / made.manifest.encoder.folder)
    np.testing.assert_allclose(made.encode(images), again.encode(images), atol=1e-4)
    assert len(history.epochs) == 1
    record = made.manifest.encoder
    assert (record.runtime, record.input.recipe, record.input.shape) == ("onnx", "photo", (16, 16, 3))
    assert not record.decodes
    script = f"""
import sys
import simrec
simrec.build("torchvision", {str(photos)!r})
print(simrec.open("torchvision").similar({str(next(photos.glob("Trouser/*.png")))!r}, 1)[0].label)
assert not {{"torch", "torchvision", "simrec_torchvision.model"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "Trouser\n"
    with pytest.raises(RequestError, match="has no decoder"):
        made.generate(1)
    assert json.loads(made.generation.read(f"{made.manifest.encoder.folder}/history.json"))["epochs"][0]["loss"] < 0.5


def test_weights_are_those_of_the_file(images: np.ndarray, network: Any, tmp_path: Path) -> None:
    save_file(network.state_dict(), tmp_path / "mine.safetensors")
    model = fitted(images, weights=str(tmp_path / "mine.safetensors"))
    with torch.no_grad():
        mine = model.features(torch.from_numpy(images).permute(0, 3, 1, 2) / 255)
    np.testing.assert_allclose(mine, features(network, images), atol=1e-4)


def test_default_weights_are_those_in_torchvisions_cache(
    images: np.ndarray, network: Any, torchvisions_cache: Path, tmp_path: Path
) -> None:
    torchvisions_cache.mkdir(parents=True)
    url = models.ResNet18_Weights.DEFAULT.url
    torch.save(network.state_dict(), torchvisions_cache / url.rpartition("/")[2])
    codes = fitted(images, weights="default").encode(images)
    save_file(network.state_dict(), tmp_path / "same.safetensors")
    assert np.array_equal(fitted(images, weights=str(tmp_path / "same.safetensors")).encode(images), codes)
    assert not np.allclose(fitted(images, weights="random").encode(images), codes, atol=0.1)


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        (
            "default",
            r"resnet18 can neither be read in .*checkpoints nor downloaded .*: put https://.*resnet18.*pth there",
        ),
        ("mine.pth", "one that torch saved becomes one with"),
        ("nowhere.safetensors", "cannot be read"),
        ("other.safetensors", r"'conv1.weight' doesn't fit resnet18"),
    ],
)
def test_unavailable_weights_are_one_line(images: np.ndarray, tmp_path: Path, file: str, expected: str) -> None:
    save_file({"conv1.bias": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(TrainingError, match=expected) as told:
        fitted(images, weights=file)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"backbone": "resnet19"}, "did you mean 'resnet18'"),
        ({"layer": "layer9"}, "has no layer 'layer9': did you mean 'layer"),
        ({"dim": "65"}, "resnet18 has 64 features: set dim to 64 or less"),
        ({"backbone": "alexnet", "layer": "", "size": "8"}, "alexnet takes no pictures of size 8"),
        ({"whitening": "2"}, "it must be from 0 to 1"),
    ],
)
def test_impossible_settings_are_one_line(changes: dict[str, str], expected: str) -> None:
    with pytest.raises(RequestError, match=expected) as told:
        simrec.train(Plan("torchvision", changes={**{k: str(v) for k, v in SMALL.items()}, **changes}))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("whitening", [0.0, 1.0])
def test_a_code_is_the_features_principal_components(
    images: np.ndarray, network: Any, tmp_path: Path, whitening: float
) -> None:
    save_file(network.state_dict(), tmp_path / "mine.safetensors")
    model = fitted(images, weights=str(tmp_path / "mine.safetensors"), whitening=whitening)
    exact = features(network, images)
    centred = exact - exact.mean(axis=0)
    _, values, axes = np.linalg.svd(centred, full_matrices=False)
    codes = model.encode(images)
    widths = codes.std(axis=0, ddof=1)
    np.testing.assert_allclose(widths, 1 if whitening else values[:8] / values[0], rtol=1e-3)
    cosines = np.abs((codes * (centred @ axes[:8].T)).sum(0)) / np.linalg.norm(codes, axis=0) / values[:8]
    np.testing.assert_allclose(cosines, 1, atol=1e-3)


def test_pictures_that_all_look_the_same_cannot_be_learned_from(images: np.ndarray) -> None:
    with pytest.raises(TrainingError, match="all the same"):
        fitted(images[:1].repeat(20, axis=0), weights="random")
    with pytest.raises(TrainingError, match="needs at least 2 pictures, not 1"):
        fitted(images[:1], weights="random")


def test_a_torchvision_that_does_not_fit_this_torch_is_named_with_the_remedy(tmp_path: Path) -> None:
    # What `import torchvision` raises beside another build's torch, from a stand-in that raises just that.
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')"
    )
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "simrec", "train", "torchvision"], env={**os.environ, "PYTHONPATH": path},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "torchvision::nms does not exist" in done.stderr
    assert "pip install --force-reinstall" in done.stderr
