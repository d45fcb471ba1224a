"""New codes resemble the codes they are fitted to, and the figures of generated pictures mean what they say."""

from __future__ import annotations

import numpy as np
import pytest

from simrec.evaluation import negative_elbo, precision_and_recall
from simrec.generation import Mixture


def two_clouds(n: int = 2000) -> np.ndarray:
    """Codes (n, 3): two thirds around (-5, 0, 0), a third, less spread out, around (5, 0, 0)."""
    generator = np.random.default_rng(0)
    codes = generator.normal(size=(n, 3))
    right = generator.random(n) < 1 / 3
    codes[right] *= 0.2
    codes[:, 0] += np.where(right, 5, -5)
    return codes.astype(np.float32)


def test_a_mixture_draws_what_it_was_fitted_to() -> None:
    codes = two_clouds()
    drawn = Mixture.fit(codes).sample(4000, seed=1)
    assert drawn.dtype == np.float32
    for some in (codes, drawn):
        right = some[:, 0] > 0
        assert right.mean() == pytest.approx(1 / 3, abs=0.03)
        assert some[right].std(axis=0)[1:] == pytest.approx([0.2, 0.2], abs=0.08)
        assert some[~right].mean(axis=0) == pytest.approx([-5, 0, 0], abs=0.1)
    assert not ((drawn[:, 0] > -1) & (drawn[:, 0] < 3.5)).any()


def test_the_same_seed_draws_the_same() -> None:
    mixture = Mixture.fit(two_clouds())
    assert np.array_equal(mixture.sample(10, 3), mixture.sample(10, 3))
    assert not np.array_equal(mixture.sample(10, 3), mixture.sample(10, 4))


def test_a_mixture_is_the_same_after_writing_and_reading() -> None:
    mixture = Mixture.fit(two_clouds())
    assert np.array_equal(Mixture.from_bytes(mixture.to_bytes(), mixture.means.shape[1]).sample(10), mixture.sample(10))


@pytest.mark.parametrize("shape", [(1, 4), (2, 4), (60, 4), (5, 300), (60, 300)])
def test_new_codes_can_be_drawn_from_few_or_wide_codes_too(shape: tuple[int, int]) -> None:
    codes = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    drawn = Mixture.fit(codes).sample(20)
    assert drawn.shape == (20, shape[1])
    assert np.isfinite(drawn).all()


def test_variations_stay_near_and_go_further_with_a_larger_spread() -> None:
    codes = two_clouds()
    mixture = Mixture.fit(codes)
    near, far = (np.abs(mixture.around(codes[0], 500, spread) - codes[0]).mean() for spread in (0.1, 1.0))
    assert far == pytest.approx(10 * near, rel=0.01)


def test_a_normal_distribution_has_the_codes_mean_and_covariance() -> None:
    codes = two_clouds()
    drawn = Mixture.normal(codes).sample(20_000)
    assert drawn.mean(axis=0) == pytest.approx(codes.mean(axis=0), abs=0.1)
    np.testing.assert_allclose(np.cov(drawn.T), np.cov(codes.T), atol=0.5)


def test_precision_and_recall_tell_poor_pictures_from_few_kinds() -> None:
    real = two_clouds()
    good = two_clouds(4000)[2000:]
    assert min(precision_and_recall(good, real)) > 0.9
    precision, recall = precision_and_recall(good[good[:, 0] > 0], real)  # of one kind only
    assert precision > 0.9
    assert recall < 0.5
    precision, recall = precision_and_recall(good + np.float32([0, 30, 0]), real)  # nothing like the real ones
    assert (precision, recall) == (0, 0)
    wide = (good * np.float32(8)).astype(np.float32)
    assert precision_and_recall(wide, real)[0] < 0.2


def test_the_elbo_of_a_known_encoder_is_what_the_formula_gives() -> None:
    class Blind:
        """A network that knows nothing: the prior as code, every pixel as likely to be white as black."""

        def encode(self, images: np.ndarray) -> np.ndarray:
            return np.zeros((len(images), 2), np.float32)

        def log_variances(self, images: np.ndarray) -> np.ndarray:
            return np.zeros((len(images), 2), np.float32)

        def decode(self, codes: np.ndarray) -> np.ndarray:
            return np.full((len(codes), 4, 4, 1), 0.5, np.float32)

    class Off(Blind):
        """A network whose mean is (1, 0), half a nat from the prior."""

        def encode(self, images: np.ndarray) -> np.ndarray:
            return np.float32([[1, 0]]).repeat(len(images), axis=0)

    images = np.random.default_rng(0).integers(0, 256, (10, 4, 4, 1), dtype=np.uint8)
    assert negative_elbo(Blind(), images) == pytest.approx(16 * np.log(2), rel=1e-6)
    assert negative_elbo(Off(), images) == pytest.approx(16 * np.log(2) + 0.5, rel=1e-6)
