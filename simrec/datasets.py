"""Sources of pictures: Fashion-MNIST (found, downloaded or embedded), a folder, single files, and what plugins add.

A source is named in text wherever one is asked for: `fashion-mnist`, `fashion-mnist:test`, a plugin's `name:text`, or
the path of a folder or picture; `folder:PATH` is a path even where a source has that name. Labels come along for
showing and scoring; no training sees them.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import os
import shutil
import socket
import struct
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote_from_bytes

import numpy as np
from numpy.typing import NDArray

from simrec.contracts import Images, ImageSpec, Notice
from simrec.contracts import Pictures as Pictures
from simrec.errors import DataError, ImageError, PluginError, RequestError, reason, suggestion
from simrec.faults import blamed_on
from simrec.files import opened

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
EMBEDDED = Path(__file__).parent / "data" / "fashion_mnist"
TIMEOUT = 10.0
"""Seconds without an answer after which a download is given up; torchvision's own downloader has no limit."""

SMALL_CATALOGUE = 8_000
"""Of the 10,000 embedded test pictures, how many `fashion-mnist:small` takes; the rest are `:small-test`."""

PICTURE_ENDINGS = frozenset(
    (".avif", ".bmp", ".gif", ".ico", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm",
     ".tga", ".tif", ".tiff", ".webp")
)  # fmt: skip


def load(source: str, spec: ImageSpec, *, data_dir: Path | None = None, notice: Notice) -> Pictures:
    """The pictures of a source, as an encoder with that spec is fed them.

    data_dir: where to look for a data set's files first. notice: told, in a line each, what was left out or is
    downloaded. Raises DataError when the source is not to be had, ImageError for a single picture that cannot be read,
    PluginError, naming the distribution, for a plugin's source that is broken.
    """
    from simrec import host

    plugins = host.discover()
    name, _, text = source.partition(":")
    # Without a colon even "folder" is the path of one that has this name.
    if name not in [offer.spec.name for offer in plugins.sources] or source == "folder":
        name, text = "folder", source
    offer = plugins.source(name)
    function = host.imported(offer)
    with blamed_on(str(offer)):
        pictures: Pictures = function(text, spec, data_dir=data_dir, notice=notice)
    _check(pictures, spec, str(offer))
    return pictures


def _check(pictures: object, spec: ImageSpec, culprit: str) -> None:
    """Raises PluginError, naming the culprit, for what `simrec.contracts.Source` does not allow."""
    if not isinstance(pictures, Pictures):
        raise PluginError(f"{culprit} returned {type(pictures).__name__}, not Pictures: fix the plugin")
    images, count = pictures.images, len(pictures.ids)
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.shape != (count, *spec.shape):
        found = f"{images.dtype} {images.shape}" if isinstance(images, np.ndarray) else type(images).__name__
        raise PluginError(
            f"{culprit} returned images that are {found} for {count} ids, not uint8 {(count, *spec.shape)}: "
            f"fix the plugin"
        )
    if not len(pictures.sources) == len(pictures.labels) == len(set(pictures.ids)) == count:
        raise PluginError(
            f"{culprit} returned pictures without a source, a label and an id of its own for each: fix it"
        )
    if not count:
        raise DataError(f"{pictures.name}: no pictures in this source: name another")


def test_split(source: str) -> str | None:
    """The name of the split to test on what was trained on a source of that name; None where there is none."""
    return {"fashion-mnist": "fashion-mnist:test", "fashion-mnist:small": "fashion-mnist:small-test"}.get(source)


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


def folder(text: str, spec: ImageSpec, *, data_dir: Path | None, notice: Notice) -> Pictures:
    """The pictures in the folder of that path, labels as sub-folders, or the one picture of that path."""
    try:
        path = Path(text)
        if text and path.is_dir():
            return _folder(path, spec, notice)
        if path.is_file():
            from simrec import images

            one = images.read(path, spec)
            return Pictures(text, one, (_printable(Path(path.name)),), (_printable(path.absolute()),), ("",))
    except OSError as error:  # a name too long, a folder closed to us
        raise DataError(f"{text}: cannot be read ({error.strerror}): name another source") from error
    raise DataError(
        f"no source {text!r}: name a folder of pictures, a picture, or one of 'simrec plugins list', such as "
        f"'fashion-mnist' or 'fashion-mnist:test'"
    )


def _folder(folder: Path, spec: ImageSpec, notice: Notice) -> Pictures:
    paths = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in PICTURE_ENDINGS
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    if not paths:
        raise DataError(
            f"{folder}: no pictures in this folder: it needs PNG, JPEG, WebP, ... files, labels as sub-folders"
        )

    rows, images = _read_all(paths, spec, str(folder), notice)
    good = [paths[row] for row in rows]
    inside = [path.relative_to(folder) for path in good]
    return Pictures(
        name=str(folder.absolute()),
        images=images,
        ids=tuple(_printable(path) for path in inside),
        sources=tuple(_printable(path.absolute()) for path in good),
        labels=tuple(_printable(Path(path.parts[0])) if len(path.parts) > 1 else "" for path in inside),
    )


def listed(text: str, spec: ImageSpec, *, data_dir: Path | None, notice: Notice) -> Pictures:
    """The pictures that a CSV file of that path names, in its order.

    Its first line names the columns: `path` (from the file's folder on, or absolute), and as it likes `id` (else the
    path) and `label`; others are left alone.
    """
    path = Path(text)
    try:
        with io.TextIOWrapper(opened(path), "utf-8-sig", newline="") as file:
            table = csv.DictReader(file, strict=True)
            columns, rows = table.fieldnames or [], list(table)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{text}: cannot be read as a list ({reason(error)}): name a CSV file in UTF-8") from error
    if "path" not in columns:
        raise DataError(f"{text}: a list needs a column 'path', its first line names {', '.join(columns) or 'none'}")
    rows = [row for row in rows if row["path"]]
    ids = [row.get("id") or _printable(Path(row["path"])) for row in rows]
    if twice := [item for item, count in Counter(ids).items() if count > 1]:
        raise DataError(f"{text}: {len(twice)} ids are there more than once, {twice[0]!r} first: give each its own")
    if not rows:
        raise DataError(f"{text}: no pictures in this list: write their paths into its column 'path'")
    paths = [path.parent / row["path"] for row in rows]
    good, images = _read_all(paths, spec, text, notice)
    return Pictures(
        name=f"list:{path.absolute()}",
        images=images,
        ids=tuple(ids[row] for row in good),
        sources=tuple(_printable(paths[row].absolute()) for row in good),
        labels=tuple(rows[row].get("label") or "" for row in good),
    )


def _read_all(paths: Sequence[Path], spec: ImageSpec, source: str, notice: Notice) -> tuple[list[int], Images]:
    """Which of the files can be read, and their pictures (n, h, w, c); the others are told of. DataError if none."""
    from concurrent.futures import ThreadPoolExecutor

    from simrec.images import read

    def attempt(path: Path) -> Images | ImageError:
        try:
            return read(path, spec)
        except ImageError as error:
            return ImageError(str(error))  # without its traceback, which would keep the picture

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        outcomes = list(pool.map(attempt, paths))
    for outcome in outcomes:
        if isinstance(outcome, ImageError):
            notice(f"left out {' '.join(str(outcome).splitlines())}")
    good = {row: outcome for row, outcome in enumerate(outcomes) if not isinstance(outcome, ImageError)}
    if not good:
        raise DataError(f"{source}: none of its {len(paths)} pictures can be read: {outcomes[0]}")
    return list(good), np.concatenate(list(good.values()))


def _printable(path: Path) -> str:
    """The path with '/' between its parts; a name that is no UTF-8 is percent-encoded, so that nothing is lost."""
    text = path.as_posix()
    try:
        text.encode()
    except UnicodeEncodeError:
        return quote_from_bytes(os.fsencode(text))
    return text
