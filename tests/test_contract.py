"""Every installed encoder keeps the contract of `simrec.contracts`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from simrec_onnx.model import OnnxSettings
from simrec_photo.model import TOWERS, PhotoSettings
from simrec_torchvision.model import TorchvisionSettings

import simrec
from simrec import host
from simrec.contracts import EncoderSpec
from simrec.sources.load import Pictures
from simrec.testing import Case, encoder_checks

OFFERS = {offer.spec.name: offer for offer in host.discover().of(EncoderSpec)}

ARTICLE = ("plain", "sparse", "denoising", "vae")
"""The four of the 2018 article."""

QUICK = {
    "torchvision": TorchvisionSettings(weights="random", backbone="resnet18", layer="maxpool", size=28, dim=16),
    "onnx": OnnxSettings(model=str(TOWERS / "lite0.onnx"), size=32, dim=16),
    "photo": PhotoSettings(views=("lite0@64",), dim=16),
}
"""Settings for checking encoders whose defaults need a network, a model, or large pictures."""

CASES = {
    (name, str(case)): case
    for name, offer in sorted(OFFERS.items())
    for case in encoder_checks(offer.spec, settings=QUICK.get(name))
}


def test_the_built_in_encoders_are_installed_and_none_failed() -> None:
    assert {*ARTICLE, "pca", "onnx", "photo", "torchvision"} <= set(OFFERS)
    assert host.discover().failures == ()


@pytest.mark.parametrize("case", CASES.values(), ids=["-".join(names) for names in CASES])
def test_keeps_the_contract(case: Case) -> None:
    case()


@pytest.mark.parametrize("name", sorted(OFFERS))
def test_the_default_preset_is_what_the_settings_say(name: str) -> None:
    kind = host.encoder_class(OFFERS[name])
    assert kind.presets["default"] == kind.Settings()


@pytest.mark.parametrize("name", ARTICLE)
def test_the_articles_encoders_are_decoded_and_looked_up_without_their_plugin(name: str) -> None:
    assert CASES[name, "onnx"].run().outcome == "passed"
    assert CASES[name, "decoded"].run().outcome == "passed"


@pytest.mark.parametrize("name", ARTICLE)
def test_the_graphs_hold_no_path_of_this_machine(name: str) -> None:
    files = CASES[name, "onnx"].subject.saving.files
    graphs = [data for file, data in files.items() if file.endswith(".onnx")]
    assert len(graphs) == 2
    for graph in graphs:
        assert str(Path(simrec.__file__).parent).encode() not in graph
        assert b"stack_trace" not in graph


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
