"""Variants tried for the encoder `photo`: which features of the towers find photos of the same kind, and at what cost.

    python tests/benchmarks/photo_variants.py FOLDER [--variant NAME ...] [--against NAME] [--cache DIR]
    python tests/benchmarks/photo_variants.py FOLDER --speed --weights WHEEL [--variant NAME ...]

FOLDER has `train` and `validation`, each with a folder of photos for each label, as in clothing-dataset-small
(github.com/alexeygrigorev/clothing-dataset-small, CC0). Train photos are the catalogue and all that anything is fitted
to; validation photos are the queries; labels only score. Test photos are never used.

An interval in brackets holds 95 % of the differences from the variant `--against` over resampled queries. The towers'
outputs for all photos are kept in the cache: about half a gigabyte for each tower, size and view. `--speed` times
reading files and the towers, each with one thread per core, in turns with the yardstick, lite0 in float at 224 pixels:
1 is as fast as that, 0.5 takes twice as long.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper
from PIL import Image
from simrec_photo import towers

from simrec import images
from simrec.contracts import Images, ImageSpec
from simrec.evaluation import DEPTH, ranking_figures

Array = NDArray[Any]

TOWERS = Path(towers.__file__).parent / "towers"

STEP = 6 / 255
"""The value of 1 in a tower's 8-bit features."""

BATCH = 8

ROUNDS, TIMED = 5, 48
"""How often each variant is timed, and on how many photos."""


@dataclass(frozen=True)
class Variant:
    """How photos become codes.

    branches: TOWER:SIZE or TOWER:SIZE:VIEW; several are concatenated, each scaled to length 1; the view "both" adds a
    photo and its mirror image, "bilinear" scales the photo with that filter. pooling: a name in POOLINGS.
    axes: "principal", or "neighbours" (see `axes_of`). taught: the branches whose features say which photos are
    neighbours; empty: the same. dim: numbers in a code. k, ridge: for `shared` and `regression`. smoothing: how much
    these count, the rest being the features as they are (see `simrec_onnx.axes.smoothed_axes`). whitening: how far the
    axes' variances are made equal. power: applied to pooled features.
    """

    branches: tuple[str, ...]
    pooling: str = "gem2"
    axes: str = "neighbours"
    taught: tuple[str, ...] = ()
    dim: int = 256
    k: int = 10
    ridge: float = 0.03
    smoothing: float = 1.0
    whitening: float = 0.0
    power: float = 1.0


def mean(maps: Array, photo: Array) -> Array:
    """Pools maps (n, h, w, c) to features (n, c), given each place's share of photo, not padding, (n, h, w)."""
    return np.asarray(maps.mean((1, 2)))


def largest(maps: Array, photo: Array) -> Array:
    return np.asarray(maps.max((1, 2)))


def weighted(power: float) -> Callable[[Array, Array], Array]:
    """The mean over places, weighted by a power of their features' norm."""

    def pooled(maps: Array, photo: Array) -> Array:
        weights = np.linalg.norm(maps, axis=-1, keepdims=True) ** power
        return np.asarray((maps * weights).sum((1, 2)) / weights.sum((1, 2)))

    return pooled


def generalised(power: float) -> Callable[[Array, Array], Array]:
    """The generalised mean (GeM: Radenović, Tolias, Chum 2018, arXiv:1711.02512); with 2 the root of mean squares."""
    return lambda maps, photo: np.asarray((maps**power).mean((1, 2)) ** (1 / power))


def unpadded(maps: Array, photo: Array) -> Array:
    """Like gem2, over the places that are photo."""
    weights = photo[..., np.newaxis] / photo.sum((1, 2))[:, np.newaxis, np.newaxis, np.newaxis]
    return np.asarray(np.sqrt((maps**2 * weights).sum((1, 2))))


def foreground(maps: Array, photo: Array) -> Array:
    """Like gem2, of what exceeds the border's mean."""
    inside = np.zeros(maps.shape[1:3], bool)
    inside[1:-1, 1:-1] = True
    return generalised(2)(np.maximum(maps - maps[:, ~inside].mean(1)[:, np.newaxis, np.newaxis], 0), photo)


def item(maps: Array, photo: Array) -> Array:
    """Like gem2, with places weighted by how unlike the border's mean they are (1 - cosine)."""
    inside = np.zeros(maps.shape[1:3], bool)
    inside[1:-1, 1:-1] = True
    border = unit(maps[:, ~inside].mean(1))[:, np.newaxis, np.newaxis]
    weights = 1.05 - (unit(maps) * border).sum(-1, keepdims=True)
    return np.asarray(np.sqrt((maps**2 * weights).sum((1, 2)) / weights.sum((1, 2))))


POOLINGS: Mapping[str, Callable[[Array, Array], Array]] = {
    "mean": mean,
    "max": largest,
    "norm1": weighted(1),
    "norm2": weighted(2),
    "gem2": generalised(2),
    "gem3": generalised(3),
    "unpadded": unpadded,
    "foreground": foreground,
    "item": item,
}

DEFAULT, BEST = ("lite2:320",), ("lite0:288", "lite2:320", "lite2:384:both")

_BASE = Variant(DEFAULT)

VARIANTS: Mapping[str, Variant] = {
    # pooling, on principal axes and on the neighbours'
    **{f"{name} principal": replace(_BASE, pooling=name, axes="principal") for name in POOLINGS},
    **{name: replace(_BASE, pooling=name) for name in POOLINGS},
    "gem2 principal sqrt": replace(_BASE, axes="principal", power=0.5),
    "gem2 sqrt": replace(_BASE, power=0.5),
    # how the neighbours' axes are fitted
    **{f"k {k}": replace(_BASE, k=k) for k in (5, 20, 40)},
    **{f"ridge {ridge}": replace(_BASE, ridge=ridge) for ridge in (0.003, 0.01, 0.1, 0.3)},
    # numbers in a code
    **{f"dim {dim}": replace(_BASE, dim=dim) for dim in (32, 64, 128)},
    **{f"dim {dim} principal": replace(_BASE, dim=dim, axes="principal") for dim in (32, 64, 128)},
    # towers, sizes and views
    **{
        f"{tower} {size}": replace(_BASE, branches=(f"{tower}:{size}",))
        for tower, sizes in {"lite0": (224, 256, 288, 320, 384), "lite2": (256, 320, 352, 384, 448)}.items()
        for size in sizes
    },
    "lite2 384 and mirrored": replace(_BASE, branches=("lite2:384", "lite2:384:mirror")),
    "lite2 384 and its centre": replace(_BASE, branches=("lite2:384", "lite2:384:centre320")),
    "lite2 320, 384, 448": replace(_BASE, branches=("lite2:320", "lite2:384", "lite2:448")),
    "lite0 and lite2 320": replace(_BASE, branches=("lite0:320", "lite2:320")),
    "lite0 and lite2 384": replace(_BASE, branches=("lite0:384", "lite2:384")),
    "lite0 320, lite2 384": replace(_BASE, branches=("lite0:320", "lite2:384")),
    "lite0 320, lite2 384 principal": replace(_BASE, branches=("lite0:320", "lite2:384"), axes="principal"),
    "lite0 320, lite2 384 and mirrored": replace(_BASE, branches=("lite0:320", "lite2:384", "lite2:384:mirror")),
    "lite0 320, lite2 384, 448 and mirrored": replace(
        _BASE, branches=("lite0:320", "lite2:384", "lite2:384:mirror", "lite2:448")
    ),
    # taught by both towers
    **{
        f"{tower} {size} taught": replace(_BASE, branches=(f"{tower}:{size}",), taught=(f"lite0:{at}", f"lite2:{at}"))
        for tower, size, at in (
            ("lite0", 224, 256), ("lite0", 256, 256), ("lite0", 288, 320), ("lite0", 320, 320), ("lite2", 256, 256),
            ("lite2", 320, 320), ("lite2", 352, 320), ("lite2", 384, 384),
        )
    },
    # how far
    **{f"smoothing {share}": replace(_BASE, smoothing=share, ridge=0.3) for share in (0.25, 0.5, 0.75, 1.0)},
    "best principal": Variant(BEST, axes="principal", dim=128),
    # the filter that scales photos, which could be faster
    "bilinear": Variant(("lite2:320:bilinear",), dim=128, smoothing=0.2, ridge=0.3),
    # the presets of `photo`
    "tiny": Variant(("lite0:256",), dim=128, smoothing=0.5, ridge=0.3),
    "default": Variant(DEFAULT, dim=128, smoothing=0.2, ridge=0.3),
    "best": Variant(BEST, dim=128, smoothing=0.5, ridge=0.3),
}  # fmt: skip


def unit(rows: Array) -> Array:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12))


def principal_axes(features: Array, dim: int) -> tuple[Array, Array]:
    """The mean (d,) of features (n, d) and the axes (d, dim) along which they vary most, not whitened."""
    middle = features.mean(axis=0, dtype=np.float64)
    _, axes = np.linalg.eigh((features - middle).T @ (features - middle))
    return middle, axes[:, ::-1][:, :dim]


def shared(teacher: Array, k: int) -> Array:
    """What each photo shares with its k most similar others: the sum of their rows, (n, t). All are unit rows."""
    return unit(teacher + teacher[nearest(teacher, k)].sum(axis=1))


def nearest(teacher: Array, k: int) -> Array:
    """The k other rows most similar to each unit row (n, t), in any order: (n, k)."""
    similar = teacher @ teacher.T
    np.fill_diagonal(similar, -np.inf)
    return np.argpartition(-similar, k, axis=1)[:, :k]


def regression(features: Array, wanted: Array, ridge: float) -> Array:
    """The matrix (d, t) that best predicts wanted (n, t) from unit rows (n, d).

    Ridge regression: what varies between photos with the same wanted row is noise to it.
    """
    n, d = features.shape
    return np.linalg.solve(features.T @ features + ridge * n / d * np.eye(d), features.T @ wanted)


def axes_of(features: Array, wanted: Array, variant: Variant) -> tuple[Array, Array]:
    """The matrix (d, dim) and the shift (dim,) of a variant's codes, which are features @ matrix - shift.

    features (n, d): unit rows. wanted (n, t): what they share with their neighbours, which principal axes don't need.
    """
    weights = np.eye(features.shape[1])
    if variant.axes == "neighbours":
        weights = regression(features, wanted, variant.ridge)
        if variant.smoothing < 1:
            rest = np.sqrt(np.square(weights).sum() / len(weights)) * np.eye(len(weights))
            weights = variant.smoothing * weights + (1 - variant.smoothing) * rest
    middle, axes = principal_axes(features @ weights, variant.dim)
    if variant.whitening:
        axes = axes * ((features @ weights - middle) @ axes).std(axis=0) ** -variant.whitening
    return weights @ axes, middle @ axes


class Bench:
    """The photos of a folder, and what towers and variants make of them. Rows: train photos, then validation photos."""

    def __init__(self, folder: Path, kept: Path) -> None:
        self.kept = kept
        splits = [sorted(file for file in (folder / split).glob("*/*") if file.is_file()) for split in SPLITS]
        self.files = [file for split in splits for file in split]
        self.known = len(splits[0])
        names = sorted({file.parent.name for file in self.files})
        self.labels = np.array([names.index(file.parent.name) for file in self.files])
        self.features = cache(self._features)

    def maps(self, branch: str) -> Array:
        """A branch's 8-bit features of all photos: uint8 (n, h, w, 1280), memory-mapped."""
        tower, size, view = parts(branch)
        path = self.kept / f"{tower}-{size}-{view}.npy"
        if not path.exists():
            self.kept.mkdir(parents=True, exist_ok=True)
            model = session(TOWERS / f"{tower}.onnx")
            spec = ImageSpec(size, 3, "photo", 2, "bilinear" if view == "bilinear" else "lanczos")

            def compute(start: int) -> Array:
                read = np.concatenate([images.read(file, spec) for file in self.files[start : start + BATCH]])
                (found,) = model.run(None, {"images": seen(read, view)})
                return np.rint(found / STEP).astype(np.uint8).transpose(0, 2, 3, 1)

            with ThreadPoolExecutor(os.cpu_count()) as pool:
                whole = np.concatenate(list(pool.map(compute, range(0, len(self.files), BATCH))))
            unfinished = path.with_suffix(".unfinished.npy")
            np.save(unfinished, whole)
            unfinished.rename(path)
        return np.asarray(np.load(path, mmap_mode="r"))

    def pooled(self, branch: str, pooling: str) -> Array:
        """A branch's features of all photos, float32 (n, 1280)."""
        tower, size, view = parts(branch)
        if view == "both":
            return self.pooled(f"{tower}:{size}", pooling) + self.pooled(f"{tower}:{size}:mirror", pooling)
        path = self.kept / f"pool-{'-'.join(map(str, parts(branch)))}-{pooling}.npy"
        if not path.exists():
            maps = self.maps(branch)
            photo = self.shares(maps.shape[1])
            pool = POOLINGS[pooling]
            made = [pool(maps[at : at + 32] * np.float32(STEP), photo[at : at + 32]) for at in range(0, len(maps), 32)]
            np.save(path, np.concatenate(made).astype(np.float32))
        return np.asarray(np.load(path))

    def shares(self, side: int) -> Array:
        """How much of each of side * side places is photo, not padding: (n, side, side)."""
        rows = []
        for file in self.files:
            with Image.open(file) as photo:
                width, height = photo.size
                if photo.getexif().get(0x0112, 1) >= 5:  # it is turned when it is read
                    width, height = height, width
            down, across = (_covered(length / max(width, height), side) for length in (height, width))
            rows.append(np.outer(down, across))
        return np.array(rows, np.float32)

    def _features(self, branches: tuple[str, ...], pooling: str, power: float) -> Array:
        """Branches' features of all photos side by side: (n, 1280 for each), unit rows, centred on train photos."""
        pooled = [self.pooled(branch, pooling) ** power for branch in branches]
        joined = pooled[0] if len(pooled) == 1 else np.concatenate([unit(some) for some in pooled], axis=1)
        return unit(joined - joined[: self.known].mean(axis=0))

    def codes(self, variant: Variant) -> Array:
        """A variant's codes of all photos, (n, dim), unit rows."""
        features = self.features(variant.branches, variant.pooling, variant.power)
        teacher = self.features(variant.taught or variant.branches, variant.pooling, variant.power)
        matrix, shift = axes_of(features[: self.known], shared(teacher[: self.known], variant.k), variant)
        return unit(features @ matrix - shift)

    def figures(self, codes: Array) -> Array:
        """P@1, P@10 and MAP@100 of each query, (m, 3), from codes of all photos, (n, dim), unit rows."""
        similar = codes[self.known :] @ codes[: self.known].T
        found = self.labels[np.argsort(-similar, axis=1, kind="stable")[:, :DEPTH]]
        asked = self.labels[self.known :]
        each = [ranking_figures(found[at : at + 1], asked[at : at + 1]) for at in range(len(asked))]
        return np.array([[figures[name] for name in FIGURES] for figures in each])

    def speed(self, variants: Mapping[str, Variant], weights: Path) -> dict[str, tuple[float, float]]:
        """Photos per second, and their ratio to the yardstick's; by processor time, as other programs may run too."""
        network = towers.float_network("lite0", towers.read_weights(weights))
        yardstick = session(network.SerializeToString())
        rng = np.random.default_rng(0)
        some = [self.files[at] for at in rng.integers(0, len(self.files), TIMED)]

        def pictures(files: Sequence[Path], size: int) -> Images:
            return np.concatenate([images.read(file, ImageSpec(size, 3, "photo", version=2)) for file in files])

        def measure(files: Sequence[Path]) -> None:
            yardstick.run(None, {"pictures": towers.normalised(pictures(files, 224))})

        def encoder(variant: Variant) -> Callable[[Sequence[Path]], None]:
            largest_size = max(parts(branch)[1] for branch in variant.branches)
            models = {parts(branch)[0]: session(TOWERS / f"{parts(branch)[0]}.onnx") for branch in variant.branches}

            def encode(files: Sequence[Path]) -> None:
                read = pictures(files, largest_size)
                for branch in variant.branches:
                    tower, size, view = parts(branch)
                    scaled = read if size == largest_size else seen(read, f"to{size}")
                    for one in ("whole", "mirror") if view == "both" else (view,):
                        (maps,) = models[tower].run(None, {"images": seen(scaled, one)})
                        np.sqrt((maps**2).mean((2, 3)))

            return encode

        runs = {"yardstick": measure, **{name: encoder(variant) for name, variant in variants.items()}}
        taken: dict[str, list[float]] = {name: [] for name in runs}
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for _ in range(ROUNDS + 1):
                for name, run in runs.items():
                    begun = time.process_time()
                    list(pool.map(run, [some[at : at + 4] for at in range(0, TIMED, 4)]))
                    taken[name].append((time.process_time() - begun) / TIMED)
        least = {name: float(np.median(times[1:])) for name, times in taken.items()}
        cores = os.cpu_count() or 1
        return {name: (cores / seconds, least["yardstick"] / seconds) for name, seconds in least.items()}


SPLITS = ("train", "validation")

FIGURES = ("P@1", "P@10", "MAP@100")


def parts(branch: str) -> tuple[str, int, str]:
    """The parts of TOWER:SIZE:VIEW, with "whole" for a missing view."""
    tower, size, view = (*branch.split(":"), "whole")[:3]
    return tower, int(size), view


def session(model: Path | bytes) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        model if isinstance(model, bytes) else model.read_bytes(), options, providers=["CPUExecutionProvider"]
    )


def seen(read: Images, view: str) -> Images:
    """Images (n, size, size, 3) as a view shows them: whole, mirror, centreN (N pixels of it) or toN (scaled to N)."""
    if view == "mirror":
        read = read[:, :, ::-1]
    elif view.startswith("centre"):
        side = int(view.removeprefix("centre"))
        start = (read.shape[1] - side) // 2
        read = read[:, start : start + side, start : start + side]
    elif view.startswith("to"):
        (read,) = scaler(read.shape[1], int(view.removeprefix("to"))).run(None, {"images": read})
    return np.ascontiguousarray(read)


@cache
def scaler(before: int, after: int) -> Any:
    """A graph that scales images down linearly, with antialiasing, like an encoder's graph."""
    whole = helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", before, before, 3])
    scaled = helper.make_tensor_value_info("scaled", TensorProto.UINT8, ["n", after, after, 3])
    share = (after + 0.01) / before  # the product is rounded down
    scales = helper.make_tensor("scales", TensorProto.FLOAT, [4], [1, share, share, 1])
    node = helper.make_node("Resize", ["images", "", "scales"], ["scaled"], mode="linear", antialias=1)
    graph = helper.make_graph([node], "scaler", [whole], [scaled], [scales])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return session(model.SerializeToString())


def _covered(share: float, side: int) -> Array:
    """For each of so many places in a row, how much of it lies within the middle share of the row."""
    edges = np.clip(np.arange(side + 1) / side, 0.5 - share / 2, 0.5 + share / 2)
    return np.diff(edges) * side


def means(figures: Array) -> str:
    """The means over queries of figures (m, f), as text."""
    return "  ".join(f"{value:.4f}".removeprefix("0") for value in figures.mean(axis=0))


def intervals(figures: Array, reference: Array) -> str:
    """The 95 % intervals of the mean differences between figures (m, f) and a reference's, over 2,000 resamples."""
    drawn = np.random.default_rng(0).integers(0, len(reference), (2000, len(reference)))
    low, high = np.quantile((figures - reference)[drawn].mean(axis=1), (0.025, 0.975), axis=0)
    return "  ".join(f"[{a:+.3f}, {b:+.3f}]" for a, b in zip(low, high, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--variant", action="append", choices=list(VARIANTS), help="default: all")
    parser.add_argument("--against", choices=list(VARIANTS), default="gem2")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "simrec-photo-variants")
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--weights", type=Path, help="the wheel with lite0's weights, for the yardstick")
    given = parser.parse_args()
    bench = Bench(given.folder, given.cache)
    chosen = {name: VARIANTS[name] for name in given.variant or VARIANTS}
    if given.speed:
        for name, (photos, share) in bench.speed(chosen, given.weights).items():
            print(f"{name:<40} {photos:6.1f} photos/s  {share:.2f}", flush=True)
        return
    reference = bench.figures(bench.codes(VARIANTS[given.against]))
    for name, variant in chosen.items():
        figures = bench.figures(bench.codes(variant))
        print(f"{name:<40} {means(figures)}  {intervals(figures, reference)}", flush=True)


if __name__ == "__main__":
    main()
