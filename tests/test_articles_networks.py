"""The `article` presets are the 2018 article's networks, layer by layer."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from simrec import host
from simrec.contracts import EncoderSpec
from simrec.evaluation import negative_elbo
from simrec.learning.networks import Alignment, EdgeTarget, OrientedGradients, Whitening, jitter, salt_and_pepper
from simrec.onnx_encoder import OnnxEncoder
from simrec.sources.load import Pictures


def article(name: str, **changes: Any) -> Any:
    kind = host.encoder_class(host.discover().find(EncoderSpec, name))
    return kind(dataclasses.replace(kind.presets["article"], **changes))


def linear_widths(module: nn.Module) -> list[int]:
    layers = [m for m in module.modules() if isinstance(m, nn.Linear)]
    return [layers[0].in_features, *(layer.out_features for layer in layers)]


@pytest.mark.parametrize(("name", "epochs"), [("plain", 500), ("sparse", 200)])
def test_plain_and_sparse_are_784_2000_500_500_10_500_500_2000_784(name: str, epochs: int) -> None:
    encoder = article(name)
    assert linear_widths(encoder) == [784, 2000, 500, 500, 10, 500, 500, 2000, 784]
    assert encoder.settings.epochs == epochs
    code = encoder.encode(np.zeros((1, 28, 28, 1), np.uint8))
    assert ((code > 0) & (code < 1)).all()  # the code is a sigmoid's


def test_denoising_is_three_pooled_convolutions_and_a_code_of_256() -> None:
    encoder = article("denoising")
    convolutions = [(m.in_channels, m.out_channels) for m in encoder.modules() if isinstance(m, nn.Conv2d)]
    assert convolutions == [(1, 64), (64, 32), (32, 16), (16, 16), (16, 32), (32, 64), (64, 1)]
    assert encoder.dim == 256


def test_vae_is_784_500_with_mean_and_log_variance_of_10() -> None:
    encoder = article("vae")
    assert linear_widths(encoder.network.body) == [784, 500]
    assert encoder.network.mean.out_features == encoder.network.log_variance.out_features == 10
    assert linear_widths(encoder.network.decoder) == [10, 500, 784]


def test_weights_begin_glorot_uniform_and_biases_at_zero() -> None:
    for name in ("plain", "sparse", "denoising", "vae"):
        for layer in article(name).modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                area = layer.weight[0, 0].numel()
                bound = (6 / (area * (layer.weight.shape[0] + layer.weight.shape[1]))) ** 0.5
                assert layer.weight.abs().max() <= bound
                assert layer.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.15)
                assert not layer.bias.any()


def test_the_sparse_penalty_is_the_l1_norm_of_three_layers_summed_over_the_batch(pictures: Pictures) -> None:
    encoder = article("sparse", penalty=1.0)
    x = torch.tensor(pictures.images[:7]).permute(0, 3, 1, 2) / 255
    _, parts = encoder.loss(x)
    h = x.flatten(1)
    layers = [m for m in encoder.network.encoder if isinstance(m, nn.Linear)]
    norms = []
    for i, layer in enumerate(layers):
        h = torch.sigmoid(layer(h)) if i == 3 else torch.relu(layer(h))
        norms.append(h.abs().sum())
    assert parts["penalty"].item() == pytest.approx(sum(norms[1:]).item(), rel=1e-5)


def test_the_articles_noise_is_drawn_once_and_its_target_is_clean(pictures: Pictures) -> None:
    encoder = article("denoising")
    images = torch.tensor(pictures.images[:200]).permute(0, 3, 1, 2)
    clean, noisy = encoder.examples(images, torch.Generator().manual_seed(0))
    assert torch.equal(clean, images)
    changed = (noisy - images.float() / 255).abs() > 1e-6
    assert changed.float().mean().item() == pytest.approx(0.2, abs=0.01)


def test_salt_and_pepper_draws_from_beta_one_half_one_half() -> None:
    grey = torch.full((50, 1, 40, 40), 2.0)
    noisy = salt_and_pepper(grey, 0.2, torch.Generator().manual_seed(1), soft=True)
    drawn = noisy[noisy != 2]
    assert drawn.numel() / noisy.numel() == pytest.approx(0.2, abs=0.01)
    assert drawn.mean().item() == pytest.approx(1 / 2, abs=0.01)
    assert drawn.var().item() == pytest.approx(1 / 8, abs=0.01)  # of Beta(1/2, 1/2)


def test_hard_salt_and_pepper_is_black_or_white() -> None:
    noisy = salt_and_pepper(torch.full((50, 3, 40, 40), 0.5), 0.2, torch.Generator().manual_seed(1))
    assert noisy.unique().tolist() == [0, 0.5, 1]
    assert (noisy == 1).float().mean().item() == pytest.approx(0.1, abs=0.01)
    assert (noisy == 0).float().mean().item() == pytest.approx(0.1, abs=0.01)
    assert torch.equal(noisy[:, 0], noisy[:, 2])


@pytest.mark.parametrize("size", [28, 27, 64])
def test_a_wide_code_has_numbers_for_each_place_at_any_size(size: int) -> None:
    places = ((size + 1) // 2) ** 2
    encoder = article("denoising", network="wide", widths=(8, 8), decoder=(8,), dim=2 * places, size=size, channels=3)
    pictures = np.random.default_rng(0).integers(0, 256, (3, size, size, 3), dtype=np.uint8)
    assert encoder.encode(pictures).shape == (3, 2 * places)
    assert encoder.decode(encoder.encode(pictures)).shape == (3, size, size, 3)


def test_a_wide_code_that_does_not_fit_its_places_is_refused() -> None:
    with pytest.raises(ValueError, match="dim is 100: a wide code of 28 pixels needs a multiple of 196"):
        article("denoising", network="wide", dim=100)


@pytest.mark.parametrize("network", ["mlp", "deep"])
def test_a_variational_code_comes_with_its_spread(network: str, tmp_path: Path, pictures: Pictures) -> None:
    encoder = article("vae", network=network, widths=(32, 16), decoder=(16, 32), hidden=32)
    assert encoder.variational
    encoder.save(tmp_path)
    onnx = OnnxEncoder(encoder.input, encoder.dim, lambda file: (tmp_path / file).read_bytes())
    assert onnx.variational
    images = pictures.images[:20]
    np.testing.assert_allclose(onnx.log_variances(images), encoder.log_variances(images), atol=1e-4)
    assert negative_elbo(onnx, images) == pytest.approx(negative_elbo(encoder, images), rel=1e-4)


def test_other_codes_have_no_spread(pictures: Pictures) -> None:
    encoder = article("plain")
    assert not encoder.variational
    assert encoder.log_variances(pictures.images[:2]) is None


@pytest.mark.parametrize(("size", "numbers"), [(28, 128), (64, 128), (8, 64)])
def test_edges_are_a_few_numbers_of_unit_variance_at_any_size(size: int, numbers: int) -> None:
    images = torch.randint(0, 256, (300, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    edges = EdgeTarget(images, min(numbers, OrientedGradients.numbers(size)))(images)
    assert edges.shape == (300, numbers)
    assert edges.std().item() == pytest.approx(1, abs=0.01)
    mirrored = EdgeTarget(images, 10)
    torch.testing.assert_close(mirrored(images.flip(3)), mirrored(images), atol=1e-3, rtol=0)


def test_blank_pictures_have_no_edges() -> None:
    assert not EdgeTarget(torch.zeros(40, 1, 28, 28, dtype=torch.uint8), 8)(torch.zeros(2, 1, 28, 28)).any()


def test_a_code_of_one_number_can_be_whitened() -> None:
    whitening = Whitening(1, 1.0)
    whitening.fit_to(torch.randn(100, 1) * 5 + 2)
    assert whitening(torch.full((1, 1), 2.0)).abs().item() < 1


def test_whole_whitening_gives_a_unit_covariance_and_can_be_undone() -> None:
    generator = torch.Generator().manual_seed(2)
    mixed = torch.eye(6) + 0.3 * torch.randn(6, 6, generator=generator)
    codes = torch.randn(5000, 6, generator=generator) @ mixed + 3
    whitening = Whitening(6, 1.0)
    whitening.fit_to(codes)
    white = whitening(codes)
    torch.testing.assert_close(torch.cov(white.T), torch.eye(6), atol=1e-3, rtol=0)
    torch.testing.assert_close(whitening.inverse(white), codes, atol=1e-3, rtol=1e-3)


def blob(across: float, down: float, wide: float, tall: float) -> torch.Tensor:
    """A soft ellipse of light (1, 1, 28, 28), its middle and its extent in pixels."""
    pixels = torch.arange(28) - 13.5
    return torch.exp(-(((pixels[None] - across) / wide) ** 2) - ((pixels[:, None] - down) / tall) ** 2)[None, None]


def test_alignment_brings_an_item_to_one_place_and_size() -> None:
    aligned = Alignment()(torch.cat([blob(0, 0, 5, 3), blob(2, -1.5, 5, 3), blob(0, 0, 4.5, 2.7), blob(0, 0, 3, 5)]))
    torch.testing.assert_close(aligned[1], aligned[0], atol=0.03, rtol=0)
    torch.testing.assert_close(aligned[2], aligned[0], atol=0.03, rtol=0)
    assert (aligned[3] - aligned[0]).abs().max() > 0.3  # its shape is left


def test_alignment_takes_pictures_of_any_kind_one_by_one() -> None:
    pictures = torch.rand(5, 3, 20, 33, generator=torch.Generator().manual_seed(0))
    aligned = Alignment()(pictures)
    assert aligned.shape == pictures.shape
    torch.testing.assert_close(Alignment()(pictures[2:3])[0], aligned[2])
    assert not Alignment()(torch.zeros(2, 1, 28, 28)).any()


def test_fed_pictures_keep_to_the_ranges_they_are_told() -> None:
    torch.manual_seed(0)
    items = blob(0, 0, 3, 3).expand(500, -1, -1, -1)
    fed = jitter(items, shift=0.1, scale=0.3, rotate=10, light=0)
    pixels = torch.arange(28) - 13.5
    middles = (fed.sum(2) * pixels).sum(2)[:, 0] / fed.sum((1, 2, 3))
    assert 2.4 < middles.abs().max() <= 0.1 * 28 * 1.1 + 0.1  # moved before it is enlarged
    areas = fed.sum((1, 2, 3)) / items[0].sum()
    assert areas.min() == pytest.approx(0.7**2, abs=0.03)
    assert areas.max() == pytest.approx(1.1**2, abs=0.03)
    peaks = jitter(items / 2, shift=0, scale=0, rotate=0, light=0.4).amax((1, 2, 3)) / items[0].max() * 2
    assert (peaks.min(), peaks.max()) == (pytest.approx(0.6, abs=0.02), pytest.approx(1.2, abs=0.02))


def test_a_stem_keeps_the_size_and_adds_a_convolution() -> None:
    kind = host.encoder_class(host.discover().find(EncoderSpec, "plain"))
    best = kind(kind.presets["best"])
    strides = [m.stride for m in best.network.encoder.modules() if isinstance(m, nn.Conv2d)]
    assert strides == [(1, 1), (2, 2), (2, 2)]
    assert best.encode(np.zeros((2, 28, 28, 1), np.uint8)).shape == (2, 64)


@pytest.mark.parametrize(
    ("name", "value"),
    [("size", 7), ("channels", 2), ("dim", 0), ("epochs", 0), ("learning_rate", 0.0), ("hidden", 0), ("stem", -1),
     ("widths", ()), ("widths", (0,)), ("scale", 1.0), ("shift", -0.1), ("light", 1.5)],
)  # fmt: skip
def test_settings_that_no_network_can_have_are_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} is .*: it "):
        article("plain", **{name: value})
