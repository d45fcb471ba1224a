"""Measures the pictures that an encoder gives back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simrec.contracts import Images, Notice, Rebuilt
from simrec.recommender import Recommender, silent


def rates(
    recommender: Recommender, images: Images, progress: Callable[[str, int, int], None] = silent
) -> list[dict[str, Any]]:
    """What compressing images (n, h, w, c) costs and loses, with 2 to 8 bits a number and in common picture formats.

    Each row has a "name", the "bits" per picture (the container's, divided by n) and the "MSE" of its pixels in 0..1.
    progress: called with a name, how many pictures are done, and of how many. Raises what `Recommender.compress`
    raises.
    """
    from simrec.compression import BITS, picture_formats
    from simrec.evaluation import squared_errors

    rows: list[dict[str, Any]] = []
    for bits in BITS:
        data = recommender.compress(images, bits)
        rebuilt = recommender.decompress(data).astype(np.float32) / np.float32(255)
        error = float(squared_errors(rebuilt, images).mean())
        rows.append({"name": f"simrec, {bits} bits", "bits": 8 * len(data) / len(images), "MSE": error})
        progress("compressing", bits - BITS[0] + 1, len(BITS))
    return rows + picture_formats(images, lambda name, done: progress(name, done, len(images)))


@dataclass(frozen=True)
class Reconstructed:
    """Pictures (n, h, w, c) in 0..1 that were encoded and decoded, and what each lost: the mean squared error of its
    pixels (n,), and its structural similarity (n,), 1 for identical pictures.
    """

    pictures: Rebuilt
    errors: NDArray[np.float64]
    similarities: NDArray[np.float64]


def reconstructed(recommender: Recommender, images: Images) -> Reconstructed:
    """Encodes and decodes images (n, h, w, c). Raises RequestError for an encoder without a decoder."""
    from simrec.evaluation import squared_errors, structural_similarities

    rebuilt = recommender.reconstruct(images)
    return Reconstructed(rebuilt, squared_errors(rebuilt, images), structural_similarities(rebuilt, images))


@dataclass(frozen=True)
class Denoised:
    """Pictures (n, h, w, c), made noisy and cleaned again, and each one's PSNR in decibels before and after."""

    noisy: Images
    cleaned: Rebuilt
    before: list[float]
    after: list[float]


def denoised(recommender: Recommender, images: Images, share: float, seed: int = 0) -> Denoised:
    """Images (n, h, w, c), made noisy and cleaned; share: see `denoising`.

    Raises RequestError for an encoder without a decoder and for a share that is not in 0..1.
    """
    from simrec.evaluation import pixels, signal_to_noise, squared_errors
    from simrec.perturbations import noisy

    wrong = noisy(images, share, seed)
    cleaned = recommender.reconstruct(wrong)
    before, after = (signal_to_noise(squared_errors(version, images)).tolist() for version in (pixels(wrong), cleaned))
    return Denoised(wrong, cleaned, before, after)


def denoising(recommender: Recommender, images: Images, share: float, seed: int = 0) -> list[dict[str, Any]]:
    """How well noise is removed from images (n, h, w, c): rows with a "name" and the "PSNR" in decibels.

    share: of the pixels that get noise (see `simrec.perturbations.noisy`). The rows are the noisy pictures, the
    recommender's reconstructions of them, and the filters' results. PSNR is that of the mean squared error over all
    pictures. Raises RequestError for an encoder without a decoder.
    """
    from simrec import evaluation
    from simrec.perturbations import noisy

    wrong = noisy(images, share, seed)
    cleaned = {"noisy": evaluation.pixels(wrong), recommender.name: recommender.reconstruct(wrong)}
    return [
        {"name": name, "PSNR": float(evaluation.signal_to_noise(evaluation.squared_errors(pictures, images).mean()))}
        for name, pictures in (cleaned | evaluation.filtered(wrong)).items()
    ]


def generation(
    recommender: Recommender, n: int = 10_000, seed: int = 0, *, data_dir: Path | None = None, notice: Notice = silent
) -> list[dict[str, Any]]:
    """How good n drawn pictures are: rows with a "name", "precision", "recall" and, for a VAE, "-ELBO".

    Precision and recall (see `simrec.evaluation.precision_and_recall`) compare with test pictures, in a space that
    favours no encoder: 64 principal components of the train pixels. The second row, for comparison, is a normal
    distribution of as many principal components as the codes have numbers. -ELBO is in nats per test picture. Raises
    DataError if the train pictures aren't available, RequestError if there are no test pictures or the encoder cannot
    draw, PluginError if the encoder `pca` is missing.
    """
    from simrec import evaluation
    from simrec.generation import Mixture
    from simrec.images import rounded

    record = recommender.manifest.encoder
    test = recommender.examples(n).images
    train = recommender.pictures(record.trained_on.source, data_dir, notice).images
    (space, _), (pca, _) = (evaluation.principal_components(train, dim) for dim in (64, record.dim))
    drawn = {
        recommender.name: recommender.generate(n, seed),
        "PCA + normal": pca.decode(Mixture.normal(pca.encode(train)).sample(n, seed)),
    }
    rows = []
    for name, samples in drawn.items():
        features = space.encode(rounded(samples))
        precision, recall = evaluation.precision_and_recall(features, space.encode(test))
        rows.append({"name": name, "precision": precision, "recall": recall, "-ELBO": None})
    if getattr(recommender.encoder, "variational", False):
        rows[0]["-ELBO"] = evaluation.negative_elbo(recommender.encoder, test, seed)
    return rows
