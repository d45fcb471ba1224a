"""Perturbed pictures match their names."""

from __future__ import annotations

import numpy as np
import pytest

from simrec.errors import RequestError
from simrec.perturbations import PERTURBATIONS, darkened, mirrored, noisy, rotated, scaled, shifted
from simrec.sources.load import Pictures


@pytest.fixture(scope="module")
def square() -> np.ndarray:
    """Four pictures of a white square, 8 pixels wide, off centre."""
    images = np.zeros((4, 28, 28, 1), np.uint8)
    images[:, 10:18, 6:14] = 255
    return images


@pytest.mark.parametrize("name", PERTURBATIONS)
@pytest.mark.parametrize("shape", [(28, 28, 1), (33, 33, 3)])
def test_each_changes_pictures_of_any_kind_and_leaves_the_originals(name: str, shape: tuple[int, int, int]) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, *shape), np.uint8)
    before = images.copy()
    changed = PERTURBATIONS[name](images)
    assert (changed.dtype, changed.shape) == (np.uint8, images.shape)
    assert (changed != images).any(axis=(1, 2, 3)).all()
    assert np.array_equal(images, before)
    assert PERTURBATIONS[name](images[:0]).shape == (0, *shape)


def test_mirrored_twice_is_the_picture_again(pictures: Pictures) -> None:
    images = pictures.images[:10]
    assert np.array_equal(mirrored(mirrored(images)), images)
    assert np.array_equal(mirrored(images)[:, :, 0], images[:, :, 27])


def test_shifted_pictures_go_two_pixels_along_each_diagonal(square: np.ndarray) -> None:
    corners = [tuple(np.argwhere(image[..., 0])[0]) for image in shifted(square)]
    assert corners == [(12, 8), (12, 4), (8, 8), (8, 4)]


def test_scaled_pictures_have_85_percent_of_the_width_about_the_same_centre() -> None:
    images = np.zeros((1, 28, 28, 1), np.uint8)
    images[:, 4:24, 4:24] = 255
    light = scaled(images)[0, ..., 0] / 255
    assert np.sqrt(light.sum()) == pytest.approx(20 * 0.85, rel=0.01)
    assert np.allclose(light, light[::-1, ::-1], atol=0.01)


def test_rotated_pictures_turn_by_8_degrees_either_way() -> None:
    images = np.zeros((2, 29, 29, 1), np.uint8)
    images[:, 4:25, 14] = 255  # an upright line through the centre
    for image, angle in zip(rotated(images)[..., 0], (8, -8), strict=True):
        rows, columns = np.nonzero(image > 64)
        slope = np.polyfit(rows - 14, columns - 14, 1)[0]
        assert np.degrees(np.arctan(slope)) == pytest.approx(angle, abs=1)


def test_darkened_pixels_have_60_percent_of_their_value(pictures: Pictures) -> None:
    images = pictures.images[:10]
    assert np.abs(darkened(images) - 0.6 * images).max() <= 0.5


@pytest.mark.parametrize("shape", [(28, 28, 1), (32, 32, 3)])
def test_noise_is_black_or_white_on_that_share_of_the_pixels(shape: tuple[int, int, int]) -> None:
    images = np.full((200, *shape), 100, np.uint8)
    wrong = noisy(images, 0.2, seed=1)
    assert set(np.unique(wrong)) == {0, 100, 255}
    changed = (wrong != 100).any(axis=3)
    assert changed.mean() == pytest.approx(0.2, abs=0.01)
    assert (wrong[changed] == 255).mean() == pytest.approx(0.5, abs=0.02)
    assert (wrong == wrong[..., :1]).all()  # all channels of a pixel together
    assert np.array_equal(wrong, noisy(images, 0.2, seed=1))
    assert not np.array_equal(wrong, noisy(images, 0.2, seed=2))
    assert np.array_equal(noisy(images, 0), images)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(RequestError, match="a share is from 0 to 1"):
        noisy(np.zeros((1, 8, 8, 1), np.uint8), share)
