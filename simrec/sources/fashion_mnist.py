"""Fashion-MNIST: found on this machine, downloaded, or embedded in the package."""

from __future__ import annotations

import gzip
import hashlib
import struct
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simrec.contracts import Batch, Entry, Images, ImageSpec, Notice
from simrec.errors import DataError, RequestError, reason, suggestion
from simrec.files import replacing
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
"""MD5 of the uncompressed files: Debian compresses them again, so the published sums of the .gz files don't fit."""

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
EMBEDDED = Path(__file__).parent.parent / "data" / "fashion_mnist"
MIRROR = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
"""The authors' own server. It has no HTTPS, so simrec keeps only files with the published MD5."""

PACKED = {
    "train-images-idx3-ubyte": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte": "25c81989df183df01b3e8a0aad5dffbe",
}
"""The published MD5 of the .gz files that are downloaded (https://github.com/zalandoresearch/fashion-mnist)."""

LARGEST = 32_000_000
"""Maximum bytes of a download: the largest of these files has 26,421,880."""

TIMEOUT, SLOWEST = 10.0, 1800.0
"""A download stops after so many seconds without an answer, and after so many in all."""

SMALL_CATALOGUE = 8_000
"""How many of the 10,000 embedded test pictures are `fashion-mnist:small`; the rest are `:small-test`."""


class FashionMnist:
    """Fashion-MNIST; text: "" or "train" for its 60,000 train pictures, else "test", "small" or "small-test"."""

    def __init__(self, text: str, *, data_dir: Path | None, notice: Notice) -> None:
        splits = ("train", "test", "small", "small-test")
        split = text or "train"
        if split not in splits:
            raise RequestError(f"Fashion-MNIST has no split {split!r}: {suggestion(split, splits)}")
        self.name = "fashion-mnist" if split == "train" else f"fashion-mnist:{split}"
        self.test = test_split(self.name)
        self.reduced = split.startswith("small")
        files = _train_files(data_dir, notice) if split == "train" else _test_files(data_dir)
        self._images, self._labels = _images_of(files[0]), _labels_of(files[1])
        self._file = "train" if split == "train" else "test"
        rows = range(len(self._images))
        self._rows = {"small": rows[:SMALL_CATALOGUE], "small-test": rows[SMALL_CATALOGUE:]}.get(split, rows)

    def entries(self) -> Iterator[Entry]:
        """One entry per picture, named by its split's file and its row there."""
        for row in self._rows:
            yield Entry(f"{self._file}/{row:05d}", "fashion-mnist", LABELS[self._labels[row]])

    def read(self, entries: Sequence[Entry], spec: ImageSpec) -> Batch:
        """The pictures of those rows."""
        from simrec.reading import batch

        return batch(entries, self._images[[int(entry.id.partition("/")[2]) for entry in entries]], spec)


def _images_of(idx: bytes) -> Images:
    _, count, height, width = struct.unpack(">4I", idx[:16])
    return np.frombuffer(idx, np.uint8, offset=16).reshape(count, height, width, 1)


def _labels_of(idx: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(idx, np.uint8, offset=8)


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
    # Whatever goes wrong with the network, a proxy or the disk, the same four ways help.
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
    pair = [_read_idx(folder, name) for name in names]
    return (pair[0], pair[1]) if pair[0] is not None and pair[1] is not None else None


def _read_idx(folder: Path, name: str) -> bytes | None:
    """The uncompressed file with its MD5 checked; None if it isn't there. Also looks in torchvision's sub-folders."""
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


def _download(names: tuple[str, str], notice: Notice) -> tuple[bytes, bytes]:
    """Both files, unpacked; downloads those that aren't in the cache yet."""
    target = cache()
    target.mkdir(parents=True, exist_ok=True)
    for name in names:
        if _read_idx(target, name) is None:
            notice(f"downloading {name}.gz from {MIRROR}")
            packed = _fetch(f"{MIRROR}{name}.gz", PACKED[name])
            with replacing(target / f"{name}.gz") as file:
                file.write(packed)
    files = _read_pair(target, names)
    assert files is not None
    return files


def _fetch(url: str, md5: str) -> bytes:
    """Downloads a file. Raises OSError, HTTPException, or DataError if its MD5 is wrong."""
    from urllib.error import HTTPError
    from urllib.request import urlopen

    begun = time.monotonic()
    data = bytearray()
    try:
        answer = urlopen(url, timeout=TIMEOUT)
    except HTTPError as error:
        with error:  # it holds the connection
            raise DataError(f"{url} answers {error.code} {error.reason}") from error
    with answer:
        while part := answer.read1(1 << 16):
            data += part
            if len(data) > LARGEST:
                raise DataError(f"{url} is larger than {LARGEST:,} bytes")
            if time.monotonic() - begun > SLOWEST:
                raise DataError(f"{url} took longer than {SLOWEST:g} seconds")
        expected = answer.headers.get("Content-Length", "")
    if expected.isdigit() and len(data) < int(expected):
        raise DataError(f"{url} ended after {len(data):,} of {int(expected):,} bytes")
    if hashlib.md5(data, usedforsecurity=False).hexdigest() != md5:
        raise DataError(f"{url} is not the published file (wrong MD5)")
    return bytes(data)
