"""Fashion-MNIST: found on this machine, downloaded, or embedded in the package."""

from __future__ import annotations

import gzip
import hashlib
import shutil
import socket
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simrec.contracts import Images, ImageSpec, Notice, Pictures
from simrec.errors import DataError, RequestError, reason, suggestion
from simrec.sources.load import test_split

LABELS = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip

MD5 = {
    "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
    "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
    "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
}
"""Of the uncompressed files: Debian compresses them again, so the published sums of the .gz do not hold there."""

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
EMBEDDED = Path(__file__).parent.parent / "data" / "fashion_mnist"
TIMEOUT = 10.0
"""Seconds without an answer after which a download is given up; torchvision's own downloader has no limit."""

SMALL_CATALOGUE = 8_000
"""Of the 10,000 embedded test pictures, how many `fashion-mnist:small` takes; the rest are `:small-test`."""


def fashion_mnist(text: str, spec: ImageSpec, *, data_dir: Path | None, notice: Notice) -> Pictures:
    """Fashion-MNIST; text: "" or "train" for its 60,000 train pictures, else "test", "small" or "small-test"."""
    split = text or "train"
    splits: dict[str, Callable[[], Pictures]] = {
        "train": lambda: _split("train", _train_files(data_dir, notice)),
        "test": lambda: _split("test", _test_files(data_dir)),
        "small": lambda: _part(_split("test", _test_files(data_dir)), "small"),
        "small-test": lambda: _part(_split("test", _test_files(data_dir)), "small-test"),
    }
    if split not in splits:
        raise RequestError(f"Fashion-MNIST has no split {split!r}: {suggestion(split, splits)}")
    pictures = splits[split]()
    if spec != ImageSpec():
        pictures = replace(pictures, images=_by_recipe(pictures.images, spec))
    return pictures


def _split(split: str, files: tuple[bytes, bytes]) -> Pictures:
    images, labels = _images_of(files[0]), _labels_of(files[1])
    count, name = len(images), "fashion-mnist" if split == "train" else "fashion-mnist:test"
    return Pictures(
        name=name,
        images=images,
        ids=tuple(f"{split}/{row:05d}" for row in range(count)),
        sources=("fashion-mnist",) * count,
        labels=tuple(LABELS[label] for label in labels),
        test=test_split(name),
    )


def _part(pictures: Pictures, split: str) -> Pictures:
    chosen = (np.arange(len(pictures)) < SMALL_CATALOGUE) == (split == "small")
    name = f"fashion-mnist:{split}"
    return replace(pictures.where(chosen), name=name, test=test_split(name), reduced=True)


def _images_of(idx: bytes) -> Images:
    _, count, height, width = struct.unpack(">4I", idx[:16])
    return np.frombuffer(idx, np.uint8, offset=16).reshape(count, height, width, 1)


def _labels_of(idx: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(idx, np.uint8, offset=8)


def _by_recipe(images: Images, spec: ImageSpec) -> Images:
    from PIL import Image

    from simrec.images import prepare

    return np.stack([prepare(Image.fromarray(image[:, :, 0]), spec) for image in images])


def _test_files(data_dir: Path | None) -> tuple[bytes, bytes]:
    names = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
    for folder in [data_dir] if data_dir else []:
        if (files := _read_pair(folder, names)) is not None:
            return files
    embedded = _read_pair(EMBEDDED, names)
    if embedded is None:
        raise DataError(f"{EMBEDDED}: the embedded test pictures are missing: install simrec again")
    return embedded


def _train_files(data_dir: Path | None, notice: Notice) -> tuple[bytes, bytes]:
    names = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")
    for folder in [*([data_dir] if data_dir else []), cache(), DEBIAN]:
        if (files := _read_pair(folder, names)) is not None:
            return files
    try:
        return _download(names, notice)
    # Whatever a network, a registry or an ill-fitting torchvision does, the person needs the same four ways.
    except Exception as error:
        looked = f"not in {data_dir}, " if data_dir else ""
        raise DataError(
            f"Fashion-MNIST's train pictures cannot be found ({reason(error)}), {looked}not in {cache()}, "
            f"not in {DEBIAN}: "
            f"(1) name a folder that holds {names[0]}.gz and {names[1]}.gz with --data-dir, (2) copy them into "
            f"{cache()}, (3) 'apt-get install dataset-fashion-mnist' on Debian or Ubuntu, or (4) go online and let "
            f"simrec download them"
        ) from error


def cache() -> Path:
    """Where downloaded data sets are kept."""
    from platformdirs import user_cache_path

    return user_cache_path("simrec", appauthor=False) / "fashion-mnist"


def _read_pair(folder: Path, names: tuple[str, str]) -> tuple[bytes, bytes] | None:
    found = [_read_idx(folder, name) for name in names]
    return (found[0], found[1]) if found[0] is not None and found[1] is not None else None


def _read_idx(folder: Path, name: str) -> bytes | None:
    """The uncompressed file, its MD5 checked; None when it is not there. torchvision's sub-folders are looked into."""
    for path in [f / (name + end) for f in (folder, folder / "FashionMNIST" / "raw") for end in ("", ".gz")]:
        if not path.is_file():
            continue
        try:
            data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{path}: cannot be unpacked ({error}): delete it and fetch it again") from error
        if hashlib.md5(data, usedforsecurity=False).hexdigest() != MD5[name]:
            raise DataError(
                f"{path}: not the Fashion-MNIST file of that name (wrong MD5): delete it and fetch it again"
            )
        return data
    return None


def _download(names: Iterable[str], notice: Notice) -> tuple[bytes, bytes]:
    from torchvision.datasets import FashionMNIST
    from torchvision.datasets.utils import download_url

    sums = dict(FashionMNIST.resources)
    target = cache()
    target.mkdir(parents=True, exist_ok=True)
    files = []
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        for name in names:
            notice(f"downloading {name}.gz from {FashionMNIST.mirrors[0]}")
            with tempfile.TemporaryDirectory(dir=target) as folder:
                download_url(FashionMNIST.mirrors[0] + f"{name}.gz", folder, md5=sums[f"{name}.gz"])
                data = _read_idx(Path(folder), name)
                assert data is not None
                shutil.move(Path(folder) / f"{name}.gz", target / f"{name}.gz")
            files.append(data)
    finally:
        socket.setdefaulttimeout(before)
    return files[0], files[1]
