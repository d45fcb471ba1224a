"""Measures what learning from your own photos adds to `photo`, and what keeps two photos of the same thing apart.

    python tests/benchmarks/photo_adaptation.py FOLDER [--branch lite2:320] [--only NAME ...] [--against NAME]
    python tests/benchmarks/photo_adaptation.py FOLDER --layers [--branch lite2:320]

FOLDER and its cache are as for photo_variants.py: train photos are the catalogue and all that anything learns from,
validation photos are the queries, labels only score. Each row makes codes from a tower's features, which are computed
once and cached: axes as `photo` fits them; heads of 128 numbers that rebuild the features (plain, denoising,
variational); heads that make the codes of two views of a photo, or of neighbours, agree (VICReg, as in `photo --preset
trained`, whose copies are the views). The columns are P@1, P@10 and MAP@100, R@1 of the same photo (each query cropped,
recoloured and compressed finds its original among all, see photos.py), the 95 % intervals of the differences from the
row --against over resampled queries, in the same order, and the seconds of learning.

--layers measures how long fine-tuning a tower's last two blocks takes: decoding two views of each of 100 photos, the
frozen layers, and forward, backward and step of the last ones, for one epoch of the train photos, on one thread.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from photo_variants import (
    POOLINGS,
    TOWERS,
    VARIANTS,
    Array,
    Bench,
    Variant,
    axes_of,
    intervals,
    means,
    nearest,
    parts,
    session,
    shared,
    unit,
)  # fmt: skip
from photos import EDGE, found_again
from simrec_onnx import agreement
from simrec_onnx.axes import smoothed_axes
from simrec_photo import towers
from torch import Tensor, nn
from torch.nn import functional as F

from simrec import images, picture_files
from simrec.contracts import ImageSpec

DIM, HIDDEN = 128, 512

EPOCHS, BATCH, RATE = 60, 256, 1e-3

VIEWS = 3
"""How many copies of each train photo there are, beside the photo itself."""

TIMED = 100
"""How many photos --layers measures."""


def read(file: Path, size: int) -> Array:
    """A photo as a tower's input: uint8 (1, size, size, 3)."""
    return images.read(file, ImageSpec(size, 3, "photo", version=2))


def again(file: Path, size: int, number: int) -> Array:
    """The same photo, cropped, recoloured and compressed (see photos.py); number: which photo it is."""
    with picture_files.opened(file, str(file), picture_files.Enough(max(EDGE, 2 * size))) as picture:
        photo = found_again(picture.convert("RGB"), np.random.default_rng([0, number]))
    return np.asarray(images.of_picture(photo, ImageSpec(size, 3, "photo", version=2), str(file)))


def copy(file: Path, size: int, number: int, copies: int) -> Array:
    """A copy of a photo, as in the preset's training; number: which photo it is, copies: which copy."""
    return agreement.changed(read(file, size), number, seed=0, number=copies)


class Photos:
    """Features of the photos of a bench, unit rows, centred on train photos."""

    def __init__(self, bench: Bench, branch: str, seed: int) -> None:
        self.bench, self.branch, self.seed = bench, branch, seed
        self._pooled = bench.pooled(branch, "gem2")
        self._mean = self._pooled[: bench.known].mean(axis=0)
        self.all = unit(self._pooled - self._mean)
        self.train = self.all[: bench.known]

    @cached_property
    def changed(self) -> Array:
        """Features of the queries, cropped, recoloured and compressed: (m, f)."""
        return self._of("changed", self.bench.files[self.bench.known :], again)

    @cached_property
    def views(self) -> Array:
        """Features of copies of each train photo: (VIEWS, n, f)."""
        files = self.bench.files[: self.bench.known]
        return np.stack(
            [self._of(f"copy-{number}", files, partial(copy, copies=number)) for number in range(1, VIEWS + 1)]
        )

    def _of(self, name: str, files: Sequence[Path], look: Callable[[Path, int, int], Array]) -> Array:
        tower, size, _ = parts(self.branch)
        path = self.bench.kept / f"{name}-{tower}-{size}.npy"
        if not path.exists():
            model = session(TOWERS / f"{tower}.onnx")

            def compute(numbered: tuple[int, Path]) -> Array:
                number, file = numbered
                (maps,) = model.run(None, {"images": look(file, size, number)})
                return POOLINGS["gem2"](maps.transpose(0, 2, 3, 1), maps)

            with ThreadPoolExecutor() as pool:
                pooled = np.concatenate(list(pool.map(compute, enumerate(files))))
            np.save(path, pooled.astype(np.float32))
        return unit(np.load(path) - self._mean)


Learned = Callable[[Array], Array]
"""Makes codes (n, dim) from features (n, f)."""

Learner = Callable[[Photos], Learned]


# Axes.


def axes(photos: Photos, variant: Variant) -> Learned:
    """Axes as `photo` fits them."""
    matrix, shift = axes_of(photos.train, shared(photos.train, variant.k), variant)
    return lambda features: features @ matrix - shift


def two_kinds(photos: Photos, principal: int, weight: float) -> Learned:
    """Smoothed axes and so many principal axes side by side, DIM in all; weight: of the latter's squared length."""
    one = axes(photos, replace(SMOOTHED, dim=DIM - principal))
    other = axes(photos, replace(PRINCIPAL, dim=principal))
    return lambda features: np.concatenate(
        [np.sqrt(1 - weight) * unit(one(features)), np.sqrt(weight) * unit(other(features))], axis=1
    )


def axes_with_views(photos: Photos, variant: Variant) -> Learned:
    """Axes fitted so that a photo's views share with its neighbours what the photo itself shares with them."""
    wanted = np.tile(shared(photos.train, variant.k), (1 + VIEWS, 1))
    matrix, shift = axes_of(np.concatenate([photos.train, *photos.views]), wanted, variant)
    return lambda features: features @ matrix - shift


def still(photos: Photos, variant: Variant, noise: float, views: int = VIEWS) -> Learned:
    """Axes after damping what differs between views of a photo, as in within-class covariance normalisation.

    noise: how many times the mean variance between views is added to that of each direction, which is then divided by
    its root.
    """
    apart = np.concatenate([some - photos.train for some in photos.views[:views]]).astype(np.float64)
    values, vectors = np.linalg.eigh(apart.T @ apart / len(apart))
    down = vectors * (values + noise * values.mean()) ** -0.5 @ vectors.T
    train = unit(photos.train @ down)
    matrix, shift = axes_of(train, shared(train, variant.k), variant)
    return lambda features: unit(features @ down) @ matrix - shift


# Heads.


def layers(*widths: int) -> nn.Sequential:
    """Linear layers, with ReLU between them."""
    made: list[nn.Module] = []
    for before, after in zip(widths[:-1], widths[1:], strict=True):
        made += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*made[:-1])


def trained(network: nn.Module, loss: Callable[[Tensor], Tensor], count: int, seed: int) -> None:
    """Trains with Adam for EPOCHS, the rate falling to 0 as a cosine; loss: of a batch's rows."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(network.parameters(), RATE)
    batch = min(BATCH, count)
    steps = EPOCHS * (count // batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    network.train()
    for _ in range(EPOCHS):
        order = torch.randperm(count, generator=generator)
        for rows in order[: count // batch * batch].split(batch):
            optimizer.zero_grad()
            loss(rows).backward()
            optimizer.step()
            schedule.step()
    network.eval()


def codes_by(head: nn.Module, size: float) -> Learned:
    """A head's codes; size: what features are multiplied by first."""

    def codes(features: Array) -> Array:
        with torch.no_grad():
            return np.asarray(head(torch.from_numpy(features.astype(np.float32) * np.float32(size))).numpy()[:, :DIM])

    return codes


def rebuilt(photos: Photos, *, hidden: float = 0.0, spread: float = 0.0, shared_with: int = 0) -> Learned:
    """A head with a decoder that rebuilds the features, or what they share with so many neighbours.

    hidden: the share of its input features set to 0. spread: for a variational head, the standard deviation of the
    rebuilt values, as a share of the features'; 0: not variational.
    """
    torch.manual_seed(photos.seed)
    size = photos.train.shape[1] ** 0.5
    x = torch.from_numpy(photos.train.astype(np.float32) * np.float32(size))
    y = torch.from_numpy((shared(photos.train, shared_with) * size).astype(np.float32)) if shared_with else x
    width = x.shape[1]
    head = layers(width, HIDDEN, DIM * (2 if spread else 1))
    back = layers(DIM, HIDDEN, width)

    def loss(rows: Tensor) -> Tensor:
        fed = x[rows]
        if hidden:
            fed = fed * (torch.rand_like(fed) >= hidden) / (1 - hidden)
        code = head(fed)
        if not spread:
            return F.mse_loss(back(code), y[rows])
        mean, log_variance = code.chunk(2, dim=1)
        sample = mean + torch.randn_like(mean) * torch.exp(log_variance / 2)
        divergence = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum()
        return (((back(sample) - y[rows]) ** 2).sum() / (2 * spread**2) + divergence) / rows.numel()

    trained(nn.ModuleList([head, back]), loss, len(x), photos.seed)
    return codes_by(head, size)


def agreeing(photos: Photos, *, neighbours: float = 0.0, views: int = VIEWS) -> Learned:
    """The linear head of `photo --preset trained`, from the smoothed axes on.

    neighbours: how often the other view is a neighbour's. views: how many views of a photo there are beside itself.
    """
    start = smoothed_axes(photos.train, DIM, SMOOTHED.smoothing)
    head = agreement.agreeing(start, [photos.train, *photos.views[:views]], seed=photos.seed, beside=neighbours)
    return head.codes


def agreeing_deep(photos: Photos, *, neighbours: float = 0.0) -> Learned:
    """The same head with a hidden layer, trained from scratch."""
    torch.manual_seed(photos.seed)
    rng = np.random.default_rng(photos.seed)
    size = photos.train.shape[1] ** 0.5
    seen = torch.from_numpy((np.stack([photos.train, *photos.views]) * size).astype(np.float32))
    near = nearest(photos.train, SMOOTHED.k)
    count, width = seen.shape[1:]
    head = layers(width, HIDDEN, DIM)
    expander = nn.Sequential(
        nn.Linear(DIM, HIDDEN), nn.BatchNorm1d(HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN)
    )  # fmt: skip

    def loss(rows: Tensor) -> Tensor:
        one, other = agreement.pairs(rows.numpy(), near, len(seen), neighbours, rng)
        return vicreg(expander(head(seen[one])), expander(head(seen[other])))

    trained(nn.ModuleList([head, expander]), loss, count, photos.seed)
    return codes_by(head, size)


def vicreg(one: Tensor, other: Tensor) -> Tensor:
    """Like `simrec_onnx.agreement.vicreg`, for networks of several layers."""
    terms = 25 * F.mse_loss(one, other)
    for z in (one, other):
        z = z - z.mean(dim=0)
        covariance = z.T @ z / (len(z) - 1)
        variance = covariance.diagonal()
        terms = terms + 12.5 * F.relu(1 - torch.sqrt(variance + 1e-4)).mean()
        terms = terms + ((covariance**2).sum() - (variance**2).sum()) / z.shape[1]
    return terms


SMOOTHED = replace(VARIANTS["default"], smoothing=0.5)
PRINCIPAL = replace(SMOOTHED, axes="principal")

AXES: Mapping[str, Variant] = {
    "principal axes": PRINCIPAL,
    "smoothed axes": SMOOTHED,
    **{f"smoothed by {share}": replace(SMOOTHED, smoothing=share) for share in (0.15, 0.2, 0.25, 0.3, 0.35)},
    **{f"whitened by {share}": replace(SMOOTHED, whitening=share) for share in (0.15, 0.3, 0.5)},
    **{f"smoothed by 0.25, whitened by {share}": replace(SMOOTHED, smoothing=0.25, whitening=share)
       for share in (0.15, 0.3)},
    **{f"k {k}": replace(SMOOTHED, k=k) for k in (5, 20)},
    **{f"ridge {ridge}": replace(SMOOTHED, ridge=ridge) for ridge in (0.03, 1.0, 3.0)},
    "256 numbers": replace(SMOOTHED, dim=256),
    "256 numbers, smoothed by 0.25": replace(SMOOTHED, dim=256, smoothing=0.25),
    "256 numbers, smoothed by 0.35": replace(SMOOTHED, dim=256, smoothing=0.35),
    "ridge 0.03, smoothed by 0.25": replace(SMOOTHED, ridge=0.03, smoothing=0.25),
    "ridge 0.03, k 5, smoothed by 0.35": replace(SMOOTHED, ridge=0.03, k=5, smoothing=0.35),
}  # fmt: skip

ROWS: Mapping[str, Learner] = {
    **{name: partial(axes, variant=variant) for name, variant in AXES.items()},
    **{f"96 smoothed axes, 32 principal at {weight}": partial(two_kinds, principal=32, weight=weight)
       for weight in (0.2, 0.35, 0.5)},
    "smoothed, from views too": partial(axes_with_views, variant=SMOOTHED),
    "smoothed by 0.25, from views too": partial(axes_with_views, variant=replace(SMOOTHED, smoothing=0.25)),
    "principal, views played down": partial(still, variant=PRINCIPAL, noise=1.0),
    **{f"smoothed, views played down, {noise:g}": partial(still, variant=SMOOTHED, noise=noise)
       for noise in (1.0, 3.0, 10.0, 30.0)},
    "smoothed, one view played down, 10": partial(still, variant=SMOOTHED, noise=10.0, views=1),
    "smoothed by 0.25, views played down, 10": partial(still, variant=replace(SMOOTHED, smoothing=0.25), noise=10.0),
    "plain": rebuilt,
    "plain, to what neighbours share": partial(rebuilt, shared_with=SMOOTHED.k),
    "denoising, 0.3 hidden": partial(rebuilt, hidden=0.3),
    "denoising, 0.6 hidden": partial(rebuilt, hidden=0.6),
    "denoising, 0.3 hidden, to what neighbours share": partial(rebuilt, hidden=0.3, shared_with=SMOOTHED.k),
    "variational, 0.5": partial(rebuilt, spread=0.5),
    "variational, 1": partial(rebuilt, spread=1.0),
    "variational, 0.5, to what neighbours share": partial(rebuilt, spread=0.5, shared_with=SMOOTHED.k),
    "VICReg, linear": agreeing,
    "VICReg": agreeing_deep,
    "VICReg, linear, neighbours as views": partial(agreeing, neighbours=0.5),
    "VICReg, linear, neighbours alone": partial(agreeing, neighbours=1.0, views=0),
    "VICReg, linear, always neighbours": partial(agreeing, neighbours=1.0),
    "VICReg, neighbours as views": partial(agreeing_deep, neighbours=0.5),
}  # fmt: skip


def scored(photos: Photos, learned: Learned) -> Array:
    """For each query P@1, P@10, MAP@100 and whether it finds the same photo first: (m, 4)."""
    codes, bench = unit(learned(photos.all)), photos.bench
    first = (unit(learned(photos.changed)) @ codes.T).argmax(axis=1)
    own = bench.known + np.arange(len(first))
    return np.column_stack([bench.figures(codes), first == own])


# Fine-tuning.


class Block(nn.Module):
    """A tower's block, with batch normalisation folded into the convolutions."""

    def __init__(self, block: towers.Block) -> None:
        super().__init__()
        inside = block.inputs * block.expansion
        self.layers = nn.Sequential(
            nn.Conv2d(block.inputs, inside, 1), nn.ReLU6(),
            nn.Conv2d(inside, inside, block.kernel, block.stride, block.kernel // 2, groups=inside), nn.ReLU6(),
            nn.Conv2d(inside, block.outputs, 1),
        )  # fmt: skip
        self.adds = block.stride == 1 and block.inputs == block.outputs

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.layers(x)
        return x + found if self.adds else found


def layers_timed(bench: Bench, branch: str) -> Mapping[str, float]:
    """Seconds for an epoch of the train photos, by step. Weights are random: they take as long as trained ones."""
    tower, size, _ = parts(branch)
    model = session(TOWERS / f"{tower}.onnx")
    files = bench.files[: bench.known][:: bench.known // TIMED][:TIMED]
    begun = time.perf_counter()
    seen = [copy(file, size, number, copies=1) for number, file in enumerate(2 * files)]
    decoded = time.perf_counter()
    for image in seen:
        (maps,) = model.run(None, {"images": image})
    frozen = time.perf_counter()
    last = towers.blocks(tower)[-2:]
    network = nn.Sequential(
        *map(Block, last), nn.Conv2d(last[-1].outputs, maps.shape[1], 1), nn.ReLU6(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(maps.shape[1], DIM),
    )  # fmt: skip
    optimizer = torch.optim.Adam(network.parameters(), 1e-4)
    inputs = torch.rand(len(seen), last[0].inputs, *maps.shape[2:])
    tuning = time.perf_counter()
    for rows in torch.arange(TIMED).split(25):
        optimizer.zero_grad()
        vicreg(network(inputs[rows]), network(inputs[rows + TIMED])).backward()
        optimizer.step()
    ended = time.perf_counter()
    times = {"decoding": decoded - begun, "frozen layers": frozen - decoded, "last two blocks": ended - tuning}
    return {name: seconds * bench.known / TIMED for name, seconds in times.items()}


def main() -> None:
    given = parsed()
    torch.set_num_threads(1)
    bench = Bench(given.folder, given.cache)
    if given.layers:
        for name, seconds in layers_timed(bench, given.branch).items():
            print(f"{name:<20} {seconds:6.0f} s an epoch")
        return
    photos = Photos(bench, given.branch, given.seed)
    begun = time.perf_counter()
    print(f"{len(photos.views)} views of each train photo: {time.perf_counter() - begun:.0f} s", flush=True)
    reference = scored(photos, ROWS[given.against](photos))
    for name in given.only or ROWS:
        begun = time.perf_counter()
        learned = ROWS[name](photos)
        seconds = time.perf_counter() - begun
        figures = scored(photos, learned)
        print(f"{name:<48} {means(figures)}  {intervals(figures, reference)}  {seconds:.0f} s", flush=True)


def parsed() -> Any:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--branch", default="lite2:320", help="TOWER:SIZE")
    parser.add_argument("--only", nargs="+", choices=list(ROWS), metavar="NAME")
    parser.add_argument("--against", choices=list(ROWS), default="smoothed axes", metavar="NAME")
    parser.add_argument("--seed", type=int, default=0, help="for the heads' first weights and batches")
    parser.add_argument("--layers", action="store_true")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "simrec-photo-variants")
    return parser.parse_args()


if __name__ == "__main__":
    main()
