"""Perturbed pictures are what their names say."""

from __future__ import annotations

import numpy as np
import pytest

from simrec.datasets import Pictures
from simrec.perturbations import PERTURBATIONS, darkened, mirrored, rotated, scaled, shifted


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
