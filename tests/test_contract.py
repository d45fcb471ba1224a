"""Every installed encoder keeps the contract of `simrec.contracts`."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import simrec
from simrec import host
from simrec.contracts import Decoder, Encoder, Images
from simrec.datasets import Pictures
from simrec.errors import SimrecError
from simrec.onnx_encoder import OnnxEncoder

OFFERS = {offer.spec.name: offer for offer in host.discover().encoders}

ARTICLE = ("plain", "sparse", "denoising", "vae")
"""The four of the 2018 article."""

QUICK = {"torchvision": {"weights": "random", "backbone": "resnet18", "layer": "maxpool", "size": 28, "dim": 16}}
"""Settings for tests without a network, by encoder; where an encoder has `epochs`, there is one."""

TOLERANCE = 1e-4
"""Float32 sums in another order (another batch, another runtime) differ by less, codes being of size 1 or so."""


def fitted(name: str, images: Images) -> Any:
    kind = host.encoder_class(OFFERS[name])
    settings = kind.presets["default"]
    epochs = {"epochs": 1} if hasattr(settings, "epochs") else {}
    encoder = kind(dataclasses.replace(settings, **epochs, **QUICK.get(name, {})))
    encoder.fit(
        images[:512],
        validation=images[512:640],
        seed=3,
        device="cpu",
        progress=lambda _: None,
        stop=lambda: False,
    )
    return encoder


@pytest.fixture(scope="module", params=sorted(OFFERS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def images(name: str, pictures: Pictures) -> Images:
    """1,000 pictures as the encoder is fed them."""
    channels = 3 if name == "torchvision" else 1
    return pictures.images[:1000].repeat(channels, axis=-1)


@pytest.fixture(scope="module")
def encoder(name: str, images: Images) -> Any:
    return fitted(name, images)


@pytest.fixture
def decoding(encoder: Any) -> Any:
    """The encoder, where it has a decoder."""
    if not isinstance(encoder, Decoder):
        pytest.skip("it has no decoder")
    return encoder


def test_the_built_in_encoders_are_installed_and_none_failed() -> None:
    assert {*ARTICLE, "pca", "torchvision"} <= set(OFFERS)
    assert host.discover().failures == ()


def test_follows_the_protocol(name: str, encoder: Any) -> None:
    assert isinstance(encoder, Encoder)
    assert isinstance(encoder, Decoder) or name == "torchvision"


def test_every_setting_has_a_default_and_a_line_of_doc(encoder: Any) -> None:
    for field in dataclasses.fields(encoder.Settings):
        assert field.default is not dataclasses.MISSING, field.name
        assert field.metadata["doc"], field.name
    assert encoder.presets["default"] == encoder.Settings()


def test_codes_are_finite_float32_of_the_stated_size(encoder: Any, images: Images) -> None:
    codes = encoder.encode(images[:100])
    assert codes.dtype == np.float32
    assert codes.shape == (100, encoder.dim)
    assert np.isfinite(codes).all()


def test_codes_are_the_same_every_time(encoder: Any, images: Images) -> None:
    assert np.array_equal(encoder.encode(images[:100]), encoder.encode(images[:100]))


def test_a_code_does_not_depend_on_the_batch_around_it(encoder: Any, images: Images) -> None:
    together = encoder.encode(images[:100])
    alone = np.concatenate([encoder.encode(images[i : i + 1]) for i in range(100)])
    np.testing.assert_allclose(alone, together, atol=TOLERANCE)


def test_no_pictures_give_no_codes(encoder: Any, images: Images) -> None:
    assert encoder.encode(images[:0]).shape == (0, encoder.dim)


def test_no_codes_give_no_pictures(decoding: Any) -> None:
    assert decoding.decode(np.empty((0, decoding.dim), np.float32)).shape == (0, *decoding.input.shape)


def test_pictures_are_left_as_they_were(encoder: Any, images: Images) -> None:
    given = images[:50].copy()
    encoder.encode(given)
    assert np.array_equal(given, images[:50])


def test_pictures_of_another_shape_or_type_are_refused(encoder: Any) -> None:
    channels = encoder.input.channels
    larger, other = np.zeros((1, 32, 32, channels), np.uint8), np.zeros((1, 28, 28, 4 - channels), np.uint8)
    for wrong in (larger, other, np.zeros((1, 28, 28, channels))):
        with pytest.raises(SimrecError, match="takes uint8"):
            encoder.encode(wrong)


def test_codes_have_not_collapsed(encoder: Any, images: Images) -> None:
    codes = encoder.encode(images[:1000])
    assert len(np.unique(codes, axis=0)) > 950
    spread = np.linalg.svd(codes - codes.mean(axis=0), compute_uv=False) ** 2
    assert (spread > spread[0] * 1e-3).sum() >= 4


def test_decoded_pictures_lie_between_0_and_1(decoding: Any, images: Images) -> None:
    rebuilt = decoding.decode(decoding.encode(images[:100]))
    assert rebuilt.shape == (100, 28, 28, 1)
    assert rebuilt.dtype == np.float32
    assert rebuilt.min() >= 0
    assert rebuilt.max() <= 1


@pytest.fixture(scope="module")
def saved(encoder: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    encoder.save(folder)
    return folder


def test_what_is_saved_is_what_is_loaded(encoder: Any, images: Images, saved: Path) -> None:
    again = type(encoder).load(saved)
    assert again.settings == encoder.settings
    assert np.array_equal(again.encode(images[:100]), encoder.encode(images[:100]))


def test_onnx_gives_the_same_codes_and_pictures(name: str, encoder: Any, images: Images, saved: Path) -> None:
    if name == "pca":
        assert not list(saved.glob("*.onnx"))
        pytest.skip("it runs as a plugin")
    onnx = OnnxEncoder(encoder.input, encoder.dim, lambda file: (saved / file).read_bytes())
    codes = encoder.encode(images[:700])
    np.testing.assert_allclose(onnx.encode(images[:700]), codes, atol=TOLERANCE)
    if isinstance(encoder, Decoder):
        np.testing.assert_allclose(onnx.decode(codes), encoder.decode(codes), atol=TOLERANCE)
    assert onnx.encode(images[:0]).shape == (0, encoder.dim)


def test_the_graphs_hold_no_path_of_this_machine(saved: Path) -> None:
    for graph in saved.glob("*.onnx"):
        assert str(Path(simrec.__file__).parent).encode() not in graph.read_bytes()
        assert b"stack_trace" not in graph.read_bytes()


def test_the_same_seed_gives_the_same_codes(name: str, encoder: Any, images: Images) -> None:
    assert np.array_equal(fitted(name, images).encode(images[:100]), encoder.encode(images[:100]))


@pytest.mark.parametrize("name", ARTICLE)
@pytest.mark.parametrize("preset", ["default", "article"])
@pytest.mark.parametrize(("size", "channels"), [(28, 1), (32, 3), (45, 1), (8, 1)])
def test_networks_take_any_picture_size(name: str, preset: str, size: int, channels: int) -> None:
    kind = host.encoder_class(OFFERS[name])
    encoder = kind(dataclasses.replace(kind.presets[preset], size=size, channels=channels))
    codes = encoder.encode(np.zeros((3, size, size, channels), np.uint8))
    assert codes.shape == (3, encoder.dim)
    assert encoder.decode(codes).shape == (3, size, size, channels)


@pytest.mark.parametrize("name", ARTICLE)
def test_the_article_preset_exports_and_trains(name: str, pictures: Pictures) -> None:
    kind = host.encoder_class(OFFERS[name])
    settings = kind.presets["article"]
    assert (settings.batch_size, settings.patience, settings.learning_rate) == (2048, 10, 1e-3)
    encoder = kind(dataclasses.replace(settings, epochs=1))
    # The graphs are exported, run, and compared with the network before the first epoch.
    history = encoder.fit(pictures.images[:256], validation=pictures.images[256:320], device="cpu")
    assert history.ended == "finished"
    assert np.isfinite(encoder.encode(pictures.images[:10])).all()


def test_importing_a_plugin_imports_no_torch(name: str) -> None:
    package = OFFERS[name].spec.factory.partition(".")[0]
    code = f"import sys, {package}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
