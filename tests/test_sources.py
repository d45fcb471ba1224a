"""Sources of pictures: Fashion-MNIST wherever it is found, and folders."""

from __future__ import annotations

import contextlib
import csv
import gzip
import hashlib
import http.server
import json
import os
import shutil
import socket
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from simrec.contracts import Entry, ImageSpec, Value
from simrec.errors import DataError, ImageError, RequestError
from simrec.sources import fashion_mnist
from simrec.sources.fashion_mnist import DEBIAN, EMBEDDED, MD5
from simrec.sources.lists import List, rows_of
from simrec.sources.load import Pictures, load, open_source

FASHION = ImageSpec()
TRAIN = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")
TEST = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def loaded(source: str, data_dir: Path | None = None, spec: ImageSpec = FASHION) -> Pictures:
    """The source; a notice would be an error."""

    def surprise(text: str) -> None:
        raise AssertionError(text)

    return load(source, spec, data_dir=data_dir, notice=surprise)


def refused(source: str, data_dir: Path | None = None) -> str:
    """The one-line error about a source that doesn't exist."""
    with pytest.raises(DataError) as raised:
        load(source, FASHION, data_dir=data_dir, notice=print)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def closed_port() -> int:
    """A loopback port on which nothing listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port: int = unused.getsockname()[1]
        return port


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with an empty cache, no Debian package, and no network."""
    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path / "debian")
    monkeypatch.setattr(fashion_mnist, "MIRROR", f"http://127.0.0.1:{closed_port()}/")
    for proxy in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)


@pytest.fixture
def small_train(monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded test pictures stand in for the train pictures, which not every machine has."""
    for train, test in zip(TRAIN, TEST, strict=True):
        monkeypatch.setitem(MD5, train, MD5[test])


def put(folder: Path, *, packed: bool = True) -> Path:
    """Writes the embedded pictures to a folder, under the train files' names."""
    folder.mkdir(parents=True, exist_ok=True)
    for train, test in zip(TRAIN, TEST, strict=True):
        if packed:
            shutil.copy(EMBEDDED / f"{test}.gz", folder / f"{train}.gz")
        else:
            (folder / train).write_bytes(gzip.decompress((EMBEDDED / f"{test}.gz").read_bytes()))
    return folder


# Fashion-MNIST.


def test_the_embedded_pictures_are_the_published_ones(pictures: Pictures) -> None:
    for name in TEST:
        data = gzip.decompress((EMBEDDED / f"{name}.gz").read_bytes())
        assert hashlib.md5(data, usedforsecurity=False).hexdigest() == MD5[name]
    assert pictures.images.shape == (10_000, 28, 28, 1)
    assert pictures.images.dtype == np.uint8
    assert pictures.ids[42] == "test/00042"
    assert pictures.labels[:3] == ("Ankle boot", "Pullover", "Trouser")
    assert {pictures.labels.count(label) for label in fashion_mnist.LABELS} == {1000}


def test_the_published_sums_are_those_of_the_paper_s_files() -> None:
    assert [MD5[name][:8] for name in (*TRAIN, *TEST)] == ["f4a8712d", "9018921c", "8181f547", "15d48437"]


@pytest.mark.usefixtures("alone", "small_train")
def test_the_train_pictures_are_looked_for_in_the_data_dir_then_the_cache_then_debian_s_folder(
    tmp_path: Path,
) -> None:
    """Each place except the one that is used holds a file that would be an error if it were read."""
    places = [tmp_path / "mine", fashion_mnist.cache(), fashion_mnist.DEBIAN]
    for found, place in reversed(list(enumerate(places))):
        put(place)
        for later in places[found + 1 :]:
            (later / f"{TRAIN[0]}.gz").write_bytes(b"not this one")
        train = loaded("fashion-mnist", places[0])
        assert train.ids[42] == "train/00042"
        assert train.test == "fashion-mnist:test"
        assert (train.name, len(train)) == ("fashion-mnist", 10_000)


@pytest.mark.usefixtures("alone", "small_train")
def test_the_train_pictures_are_found_packed_or_unpacked_or_where_torchvision_put_them(
    tmp_path: Path,
) -> None:
    for folder, packed in (
        (tmp_path / "a", True),
        (tmp_path / "b", False),
        (tmp_path / "c/FashionMNIST/raw", True),
    ):
        put(folder, packed=packed)
        assert len(loaded("fashion-mnist", tmp_path / folder.relative_to(tmp_path).parts[0])) == 10_000


def test_the_test_pictures_are_taken_from_the_data_dir_when_they_are_there(tmp_path: Path) -> None:
    (tmp_path / f"{TEST[0]}.gz").write_bytes(gzip.compress(b"others"))
    assert f"{TEST[0]}.gz" in refused("fashion-mnist:test", tmp_path)
    (tmp_path / f"{TEST[0]}.gz").unlink()
    assert len(loaded("fashion-mnist:test", tmp_path)) == 10_000


@pytest.mark.usefixtures("alone")
def test_a_file_that_is_not_the_published_one_is_an_error_that_names_it(tmp_path: Path) -> None:
    put(tmp_path)
    message = refused("fashion-mnist", tmp_path)
    assert str(tmp_path / f"{TRAIN[0]}.gz") in message
    assert "wrong MD5" in message


@pytest.mark.usefixtures("alone", "small_train")
@pytest.mark.parametrize("keep", [0, 5, 1000, -1000, -1])
def test_a_file_cut_short_is_an_error_that_names_it(tmp_path: Path, keep: int) -> None:
    path = put(tmp_path) / f"{TRAIN[0]}.gz"
    path.write_bytes(path.read_bytes()[:keep] if keep else b"")
    message = refused("fashion-mnist", tmp_path)
    assert str(path) in message
    assert "fetch it again" in message


@pytest.mark.usefixtures("alone")
def test_without_the_train_pictures_the_error_names_all_four_ways() -> None:
    message = refused("fashion-mnist")
    for way in ("--data-dir", str(fashion_mnist.cache()), "apt-get install dataset-fashion-mnist", "download"):
        assert way in message
    assert TRAIN[0] in message
    assert str(fashion_mnist.DEBIAN) in message


def test_debian_s_folder_is_the_one_of_its_package() -> None:
    assert Path("/usr/share/datasets/fashion-mnist") == DEBIAN


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a real server on the loopback, from which the train pictures are downloaded."""
    folder = put(tmp_path / "served")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=folder)  # type: ignore[arg-type]

        def log_message(self, *_: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:  # a download that is given up leaves it in the middle of an answer
            pass

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setattr(fashion_mnist, "MIRROR", f"http://127.0.0.1:{server.server_port}/")
        for name in TRAIN:
            md5 = hashlib.md5((folder / f"{name}.gz").read_bytes()).hexdigest()
            monkeypatch.setitem(fashion_mnist.PACKED, name, md5)
        yield folder
        server.shutdown()
        thread.join()


def downloads() -> list[str]:
    """The files in the cache."""
    return sorted(path.name for path in fashion_mnist.cache().iterdir())


def test_the_published_sums_of_the_downloads_are_torchvision_s() -> None:
    from torchvision.datasets import FashionMNIST

    sums = dict(FashionMNIST.resources)
    assert {f"{name}.gz": sums[f"{name}.gz"] for name in TRAIN} == {
        f"{name}.gz": md5 for name, md5 in fashion_mnist.PACKED.items()
    }
    assert fashion_mnist.MIRROR in FashionMNIST.mirrors


@pytest.mark.usefixtures("alone", "small_train")
def test_what_was_downloaded_is_kept_for_the_next_time(mirror: Path) -> None:
    said: list[str] = []
    first = load("fashion-mnist", FASHION, notice=said.append)
    assert [text.split()[1] for text in said] == [f"{name}.gz" for name in TRAIN]
    assert downloads() == [f"{name}.gz" for name in TRAIN]
    shutil.rmtree(mirror)
    assert loaded("fashion-mnist").digest == first.digest


@pytest.mark.usefixtures("alone", "small_train")
def test_an_interrupted_download_goes_on_with_the_missing_file(mirror: Path) -> None:
    (mirror / f"{TRAIN[1]}.gz").rename(mirror / "away")
    assert f"{TRAIN[1]}.gz answers 404" in refused("fashion-mnist")
    assert downloads() == [f"{TRAIN[0]}.gz"]
    (mirror / "away").rename(mirror / f"{TRAIN[1]}.gz")
    said: list[str] = []
    assert len(load("fashion-mnist", FASHION, notice=said.append)) == 10_000
    assert [text.split()[1] for text in said] == [f"{TRAIN[1]}.gz"]


@pytest.mark.usefixtures("alone", "small_train")
def test_a_download_that_is_another_file_leaves_nothing_in_the_cache(mirror: Path) -> None:
    path = mirror / f"{TRAIN[0]}.gz"
    path.write_bytes(path.read_bytes()[:-100])
    message = refused("fashion-mnist")
    assert f"{TRAIN[0]}.gz is not the published file (wrong MD5)" in message
    assert "--data-dir" in message
    assert downloads() == []


@pytest.mark.usefixtures("alone", "small_train", "mirror")
def test_a_download_that_is_too_large_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fashion_mnist, "LARGEST", 1_000_000)
    assert "is larger than 1,000,000 bytes" in refused("fashion-mnist")
    assert downloads() == []


def test_the_largest_download_is_larger_than_the_largest_file() -> None:
    assert fashion_mnist.LARGEST > 26_421_880


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Sequence[bytes], float], None]]:
    """Starts a server that answers each request with parts of bytes, a pause in seconds before each but the first."""
    with contextlib.ExitStack() as stack:

        def start(parts: Sequence[bytes], pause: float) -> None:
            server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            monkeypatch.setattr(fashion_mnist, "MIRROR", f"http://127.0.0.1:{server.getsockname()[1]}/")
            done = threading.Event()

            def serve() -> None:
                with server.accept()[0] as line, contextlib.suppress(OSError):
                    line.recv(4096)
                    for part in parts:
                        line.sendall(part)
                        if done.wait(pause):
                            return

            thread = threading.Thread(target=serve)
            thread.start()
            stack.callback(thread.join)
            stack.callback(done.set)

        yield start


@pytest.mark.usefixtures("alone")
def test_a_download_that_is_cut_says_how_much_came(answering: Callable[[Sequence[bytes], float], None]) -> None:
    answering([b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n" + b"x" * 3000], 0)
    assert "ended after 3,000 of 9,000 bytes" in refused("fashion-mnist")
    assert downloads() == []


@pytest.mark.usefixtures("alone")
def test_a_server_that_trickles_is_given_up(
    answering: Callable[[Sequence[bytes], float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fashion_mnist, "SLOWEST", 0.2)
    answering([b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n", *[b"x"] * 9000], 0.01)
    assert "took longer than 0.2 seconds" in refused("fashion-mnist")


@pytest.mark.usefixtures("alone")
def test_a_server_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fashion_mnist, "TIMEOUT", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the system accepts for it, nobody reads
        monkeypatch.setattr(fashion_mnist, "MIRROR", f"http://127.0.0.1:{silent.getsockname()[1]}/")
        begun = time.monotonic()
        assert "timed out" in refused("fashion-mnist")
    assert time.monotonic() - begun < 5


@pytest.mark.usefixtures("alone", "small_train", "mirror")
def test_a_cache_that_cannot_be_written_is_an_error_that_names_all_four_ways(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the cache should be")
    message = refused("fashion-mnist")
    assert "--data-dir" in message
    assert "apt-get" in message


def test_the_small_catalogue_and_its_queries_have_no_picture_in_common(pictures: Pictures) -> None:
    small, asked = loaded("fashion-mnist:small"), loaded("fashion-mnist:small-test")
    assert (len(small), len(asked)) == (8_000, 2_000)
    assert set(small.ids) | set(asked.ids) == set(pictures.ids)
    assert not set(small.ids) & set(asked.ids)
    assert small.test == "fashion-mnist:small-test"
    assert small.reduced and asked.reduced
    again = loaded("fashion-mnist:small")
    assert again.ids == small.ids and again.digest == small.digest


def test_an_unknown_split_suggests_the_near_miss() -> None:
    with pytest.raises(RequestError, match="no split 'tset': did you mean 'test'"):
        loaded("fashion-mnist:tset")


def test_a_source_that_does_not_exist_says_what_there_is() -> None:
    for wrong in ("fashion-mnst", "nowhere/photos", "x" * 5000, "~nobody-of-that-name/photos"):
        assert "fashion-mnist" in refused(wrong) or "cannot be read" in refused(wrong)


def test_another_size_or_number_of_channels_is_prepared_by_the_recipe() -> None:
    made = loaded("fashion-mnist:small-test", spec=ImageSpec(size=32, channels=3))
    assert made.images.shape == (2_000, 32, 32, 3)


# Folders.


def picture(path: Path, shade: int = 0) -> None:
    """Writes a small picture file, a square of that shade."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made = Image.new("L", (40, 40), 255)
    made.paste(shade, (10, 5, 30, 35))
    made.save(path)


def test_sub_folders_are_labels_and_ids_are_paths_inside_the_folder(tmp_path: Path) -> None:
    for name in ("shoes/b.png", "shoes/a.jpg", "bags/summer/a.png", "loose.png", "bags/ä ö.webp"):
        picture(tmp_path / "mine" / name)
    found = loaded(str(tmp_path / "mine"))
    assert dict(zip(found.ids, found.labels, strict=True)) == {
        "bags/summer/a.png": "bags", "bags/ä ö.webp": "bags", "loose.png": "", "shoes/a.jpg": "shoes",
        "shoes/b.png": "shoes",
    }  # fmt: skip
    assert all(
        Path(source).is_file() and source.endswith(id_) for source, id_ in zip(found.sources, found.ids, strict=True)
    )
    assert found.images.shape == (5, 28, 28, 1)
    assert found.labelled


def test_ids_stay_the_same_when_the_folder_moves_or_grows(tmp_path: Path) -> None:
    for number in range(5):
        picture(tmp_path / "mine" / f"{number}.png", number * 40)
    before = loaded(str(tmp_path / "mine"))
    (tmp_path / "mine").rename(tmp_path / "moved")
    assert loaded(str(tmp_path / "moved")).ids == before.ids
    picture(tmp_path / "moved" / "00.png")
    after = loaded(str(tmp_path / "moved"))
    assert set(after.ids) == {*before.ids, "00.png"}
    for id_, image in zip(before.ids, before.images, strict=True):
        assert (after.images[after.ids.index(id_)] == image).all()


def test_hidden_files_and_files_that_arent_pictures_are_skipped(tmp_path: Path) -> None:
    for name in ("seen.PNG", ".hidden.png", ".thumbnails/a.png", "a/.b/c.png"):
        picture(tmp_path / "mine" / name)
    (tmp_path / "mine" / "notes.txt").write_text("three shoes")
    (tmp_path / "mine" / "folder.png").mkdir()
    assert loaded(str(tmp_path / "mine")).ids == ("seen.PNG",)


def test_a_folder_inside_a_hidden_one_is_read(tmp_path: Path) -> None:
    picture(tmp_path / ".private" / "mine" / "a.png")
    assert loaded(str(tmp_path / ".private" / "mine")).ids == ("a.png",)


def test_a_picture_that_cannot_be_read_is_left_out_with_a_notice(tmp_path: Path) -> None:
    picture(tmp_path / "mine" / "good.png")
    (tmp_path / "mine" / "bad.png").write_bytes((tmp_path / "mine" / "good.png").read_bytes()[:60])
    (tmp_path / "mine" / "empty.jpg").touch()
    (tmp_path / "mine" / "dangling.png").symlink_to(tmp_path / "nowhere.png")
    said: list[str] = []
    assert load(str(tmp_path / "mine"), FASHION, notice=said.append).ids == ("good.png",)
    assert [Path(text.split(": ")[0]).name for text in said] == ["bad.png", "dangling.png", "empty.jpg"]
    assert all(text.startswith("left out ") and "\n" not in text for text in said)


if sys.platform == "linux":  # other systems allow no such names

    def test_file_names_that_are_not_utf_8_survive(tmp_path: Path) -> None:
        folder = tmp_path / os.fsdecode(b"caf\xe9")
        for name in (b"sch\xf6n/sch\xf6n.png", "schön/schön.png".encode(), b"plain.png"):
            picture(folder / os.fsdecode(name))
        found = loaded(str(folder))
        assert set(found.ids) == {"sch%F6n/sch%F6n.png", "schön/schön.png", "plain.png"}
        assert set(found.labels) == {"sch%F6n", "schön", ""}
        for text in (*found.ids, *found.labels, *found.sources):
            text.encode()
        one = loaded(str(folder / os.fsdecode(b"sch\xf6n/sch\xf6n.png")))
        assert one.ids == ("sch%F6n.png",)


def test_a_folder_without_pictures_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    assert "no pictures" in refused(str(tmp_path / "mine"))
    (tmp_path / "mine" / "bad.png").write_bytes(b"bad")
    message = refused(str(tmp_path / "mine"))
    assert "none of its 1 pictures can be read" in message
    assert "bad.png" in message


def test_one_picture_is_a_source_too(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    assert loaded(str(tmp_path / "a.png")).ids == ("a.png",)
    (tmp_path / "a.png").write_bytes(b"bad")
    with pytest.raises(ImageError, match="a.png"):
        loaded(str(tmp_path / "a.png"))


def test_a_list_names_pictures_ids_and_labels_in_its_order(photos: Path) -> None:
    names = [str(path.relative_to(photos)) for path in sorted(photos.rglob("*.png"))]
    lines = ["path,id,label,price", f"{names[3]},b,bags,3", f"{names[0]},,,4", ",,,"]
    (photos / "items.csv").write_text("\n".join(lines), encoding="utf-8-sig")
    pictures = loaded(f"list:{photos / 'items.csv'}")
    assert pictures.name == f"list:{photos / 'items.csv'}"
    assert (pictures.ids, pictures.labels) == (("b", names[0]), ("bags", ""))
    assert pictures.sources == (str(photos / names[3]), str(photos / names[0]))
    folder = loaded(str(photos))
    assert np.array_equal(pictures.images, folder.images[[folder.ids.index(names[3]), folder.ids.index(names[0])]])


def test_what_a_list_names_but_cannot_be_read_is_left_out(photos: Path) -> None:
    good = next(photos.rglob("*.png"))
    (photos / "items.csv").write_text(f"path\nmissing.png\n{good}\n")
    said: list[str] = []
    pictures = load(f"list:{photos / 'items.csv'}", FASHION, notice=said.append)
    assert pictures.ids == (str(good),)
    assert len(said) == 1
    assert "missing.png" in said[0]


def test_a_list_from_windows_names_the_same_pictures_with_the_same_ids(tmp_path: Path) -> None:
    picture(tmp_path / "photos" / "hats" / "a.png")
    (tmp_path / "lists").mkdir()
    items = tmp_path / "lists" / "items.csv"
    for path in (r"..\photos\hats\a.png", "../photos/hats/a.png", rf"{tmp_path}\photos\hats\a.png"):
        items.write_text(f"path,price\n{path},1\n")
        pictures = loaded(str(items))
        assert pictures.ids == (path.replace("\\", "/"),)
        assert Path(pictures.sources[0]).samefile(tmp_path / "photos" / "hats" / "a.png")
        assert list(rows_of(str(items), print)) == [(pictures.ids[0], {"price": 1})]
    items.write_text("path\n..\\photos\\hats\\gone.png\n")
    assert listed(items)[0].id == "../photos/hats/gone.png"  # whether or not it is there


if os.name != "nt":  # Windows allows no such names

    def test_a_list_may_name_a_picture_with_a_backslash_in_its_name(tmp_path: Path) -> None:
        picture(tmp_path / r"a\b.png")
        picture(tmp_path / "a" / "b.png", shade=200)
        (tmp_path / "items.csv").write_text("path\na\\b.png\n")
        assert loaded(str(tmp_path / "items.csv")).sources == (str(tmp_path / r"a\b.png"),)

    @pytest.mark.parametrize("path", [r"C:\Photos\a.png", "c:/photos/a.png"])
    def test_a_path_of_windows_is_called_one(tmp_path: Path, path: str) -> None:
        (tmp_path / "items.csv").write_text(f"path\n{path}\n")
        assert "a path of Windows: write the file's path on this computer" in refused(str(tmp_path / "items.csv"))


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("https://example.com/a.png", "a web address: download the picture, and write its file's path"),
        ("s3://bucket/a.png", "a web address: download the picture, and write its file's path"),
        ("file:///home/me/a.png", "an address: write the file's path, without file://"),
    ],
)
def test_an_address_in_a_list_is_called_one(tmp_path: Path, path: str, why: str) -> None:
    (tmp_path / "items.csv").write_text(f"path\n{path}\n")
    assert why in refused(str(tmp_path / "items.csv"))


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"file,label\na.png,x\n", "needs a column 'path', its first row names file, label"),
        (b"", "first row names none"),
        (b"path\n", "no pictures in this list"),
        (b"path,id\na.png,1\nb.png,1\n", "the id '1' is there more than once (lines 2, 3): give each item its own"),
        (
            b"sep=,\npath,id\n,a\nc.png,\n\na,b\nb,a\na.png,a\na,\n",
            "the id 'a' is there more than once (lines 7, 8, 9)",
        ),
        (b"path\n\xff\xfe\n", "cannot be read as a list"),
        (b'path\n"a.png', "cannot be read as a list"),
        (b"path\na.png\n", "none of its 1 pictures can be read"),
    ],
)
def test_an_invalid_list_says_why(tmp_path: Path, content: bytes, found: str) -> None:
    (tmp_path / "items.csv").write_bytes(content)
    message = refused(f"list:{tmp_path / 'items.csv'}")
    assert found in message
    assert "items.csv" in message


def listed(path: Path, said: list[str] | None = None) -> list[Entry]:
    """The entries of the list at that path, and the notices."""
    source = open_source(str(path), notice=print if said is None else said.append)
    return list(source.entries())


ITEMS: list[dict[str, Value]] = [
    {"path": "a.png", "id": "007", "label": "shoes", "price": 19.9, "stock": 3, "name": 'A, "b"; c', "empty": None},
    {"path": "/pictures/b.png", "id": "é", "label": None, "price": 20, "stock": None, "name": None, "empty": None},
    {"path": None, "id": "left out", "label": None, "price": 1, "stock": 1, "name": "no path", "empty": None},
    {"path": "sub/c.png", "id": None, "label": "bags", "price": None, "stock": -1, "name": "ü\nline", "empty": None},
]


def written(path: Path, rows: Sequence[dict[str, Value]] = ITEMS) -> Path:
    """Writes those rows as a list in the format of the path's ending; ".semicolons.csv" is split by semicolons."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(list(rows)), path)
    elif path.suffix == ".jsonl":
        lines = [json.dumps({name: value for name, value in row.items() if value is not None}) for row in rows]
        path.write_text("\n\n".join(lines))
    else:
        delimiter = "\t" if path.suffix == ".tsv" else ";" if ".semicolons" in path.name else ","
        with path.open("w", newline="", encoding="utf-8-sig") as file:
            table = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
            table.writeheader()
            table.writerows(rows)
    return path


@pytest.mark.parametrize("ending", [".csv", ".semicolons.csv", ".tsv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("prefix", ["", "list:"])
def test_a_list_is_the_same_in_every_format(tmp_path: Path, ending: str, prefix: str) -> None:
    path = written(tmp_path / f"items{ending}")
    source = open_source(f"{prefix}{path}", notice=print)
    assert source.name == f"list:{path}"
    assert source.root == str(tmp_path)
    entries = list(source.entries())
    assert [entry.id for entry in entries] == ["007", "é", "sub/c.png"]
    assert [entry.source for entry in entries] == [
        str(tmp_path / "a.png"),
        "/pictures/b.png",
        str(tmp_path / "sub/c.png"),
    ]
    assert [entry.label for entry in entries] == ["shoes", "", "bags"]
    empty = {} if ending == ".jsonl" else {"empty": None}  # of which its lines say nothing
    assert [entry.fields for entry in entries] == [
        {"price": 19.9, "stock": 3, "name": 'A, "b"; c', **empty},
        {"price": 20.0, "stock": None, "name": None, **empty},
        {"price": None, "stock": -1, "name": "ü\nline", **empty},
    ]
    assert type(entries[1].fields["price"]) is float
    assert list(source.entries()) == entries


def test_spaces_around_the_values_of_a_csv_file_are_no_part_of_them(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text(
        "path ; id ; price ; note \n a.png ; A0 ; 1.5 ;  \n\tb.png\t; B0 ; ; two words \n"
    )
    assert [(entry.source, entry.id, entry.fields) for entry in listed(tmp_path / "items.csv")] == [
        (str(tmp_path / "a.png"), "A0", {"price": 1.5, "note": None}),
        (str(tmp_path / "b.png"), "B0", {"price": None, "note": "two words"}),
    ]


def test_a_column_of_numbers_and_texts_becomes_text_with_one_notice(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text(
        "path,price,art,year,plain\na,1.50,007,1999,x\nb,on request,12,2e3,y\nc,2,13,,z\n"
    )
    said: list[str] = []
    source = open_source(str(tmp_path / "items.csv"), notice=said.append)
    entries = list(source.entries())
    assert list(source.entries()) == entries
    assert [entry.fields["price"] for entry in entries] == ["1.50", "on request", "2"]
    assert [entry.fields["art"] for entry in entries] == ["007", "12", "13"]
    assert [entry.fields["year"] for entry in entries] == [1999.0, 2000.0, None]
    assert [text.partition(": ")[2] for text in said] == [
        "column 'price' is kept as text: line 3 has 'on request', which is not a number",
        "column 'art' is kept as text: line 2 has '007', which is not a number",
    ]


def test_a_column_of_decimal_commas_is_text_with_a_notice(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("path;price;size;note\na;2,99;4,5;1,5\nb;19,00;;about 2\n")
    said: list[str] = []
    entries = listed(tmp_path / "items.csv", said)
    assert [entry.fields["price"] for entry in entries] == ["2,99", "19,00"]
    assert [text.partition(": ")[2] for text in said] == [
        "column 'price' is kept as text: line 2 has '2,99': write its numbers like 1234.50 to compare them",
        "column 'size' is kept as text: line 2 has '4,5': write its numbers like 1234.50 to compare them",
    ]


@pytest.mark.parametrize(
    "price",
    ["1.000,50", "1.259,00", "1,259.00", "1 259,00", "1'259.50", "1,50 €", "1.50 EUR", "€ 2", "$1,259", "CHF 12.-",
     "12,-", "-3,5", "+5"],
)  # fmt: skip
def test_a_column_of_amounts_in_any_notation_is_text_with_a_notice(tmp_path: Path, price: str) -> None:
    (tmp_path / "items.csv").write_text(f"path;price;note\na;2,99;x\nb;{price};\nc;on request;\n")
    said: list[str] = []
    assert [entry.fields["price"] for entry in listed(tmp_path / "items.csv", said)] == ["2,99", price, "on request"]
    remedy = "write its numbers like 1234.50 to compare them"
    assert said == [f"{tmp_path}/items.csv: column 'price' is kept as text: line 2 has '2,99': {remedy}"]
    (tmp_path / "items.csv").write_text(f"path;price\na;2\nb;{price}\n")
    said.clear()
    listed(tmp_path / "items.csv", said)
    assert said == [f"{tmp_path}/items.csv: column 'price' is kept as text: line 3 has {price!r}: {remedy}"]


@pytest.mark.parametrize(
    "text", ["01067", "10.10.2024", "1.2.3", "ABC 12", "10 x 20", "M", "12345678901234567890", "1,2,3"]
)
def test_article_numbers_dates_and_sizes_are_texts_without_a_notice(tmp_path: Path, text: str) -> None:
    (tmp_path / "items.csv").write_text(f"path;text\na;{text}\n")
    said: list[str] = []
    assert listed(tmp_path / "items.csv", said)[0].fields == {"text": text}
    assert said == []


def test_two_threads_that_list_a_list_give_its_notices_once(tmp_path: Path) -> None:
    """A build lists it in one thread and counts its pictures in another."""
    (tmp_path / "items.csv").write_text("path,price\n" + '"a","1,5"\n' * 2_000)
    said: list[str] = []
    source, start = List(str(tmp_path / "items.csv"), data_dir=None, notice=said.append), threading.Barrier(4)

    def count() -> None:
        start.wait()
        assert sum(1 for _ in source.entries()) == 2_000

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(said) == 1


def test_the_numbers_of_json_are_numbers_and_its_truth_values_are_1_and_0(tmp_path: Path) -> None:
    lines = [
        '{"path": "a", "n": 1, "sold": true, "text": "12", "mixed": 1}',
        '{"path": "b", "n": 2.5, "id": 7, "mixed": "x"}',
    ]
    (tmp_path / "items.jsonl").write_text("\n".join(lines))
    said: list[str] = []
    entries = listed(tmp_path / "items.jsonl", said)
    assert [entry.fields for entry in entries] == [
        {"n": 1.0, "sold": 1, "text": "12", "mixed": "1"}, {"n": 2.5, "sold": None, "text": None, "mixed": "x"},
    ]  # fmt: skip
    assert entries[1].id == "7"
    assert len(said) == 1
    assert "line 2 has 'x'" in said[0]


def test_whole_numbers_of_more_than_64_bits_are_texts(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text(f"path,most,more\na,{2**63 - 1},{2**63}\nb,{-(2**63)},{10**30}\n")
    assert [entry.fields for entry in listed(tmp_path / "items.csv")] == [
        {"most": 2**63 - 1, "more": str(2**63)}, {"most": -(2**63), "more": str(10**30)},
    ]  # fmt: skip


def test_what_parquet_holds_is_numbers_and_texts(tmp_path: Path) -> None:
    """A table as pandas and databases write it: decimals, dates, categories, and NaN for no value."""
    table = {
        "path": pa.array(["a", "b"], pa.large_string()),
        "id": pa.array([1.0, 2.0]),
        "kind": pa.array(["x", None]).dictionary_encode(),
        "price": pa.array([1, None], pa.decimal128(10, 2)),
        "day": pa.array([0, 1], pa.date32()),
        "sold": pa.array([True, None]),
        "weight": pa.array([float("nan"), 0.5], pa.float32()),
        "small": pa.array([1, 2], pa.uint8()),
        "nothing": pa.nulls(2),
    }
    pq.write_table(pa.table(table), tmp_path / "items.parquet")
    entries = listed(tmp_path / "items.parquet")
    assert [entry.id for entry in entries] == ["1", "2"]
    assert [entry.fields for entry in entries] == [
        {"kind": "x", "price": 1.0, "day": "1970-01-01", "sold": 1, "weight": None, "small": 1, "nothing": None},
        {"kind": None, "price": None, "day": "1970-01-02", "sold": None, "weight": 0.5, "small": 2, "nothing": None},
    ]


def test_the_fields_of_a_list_come_by_id_without_a_path(tmp_path: Path) -> None:
    (tmp_path / "prices.csv").write_text("id,price,label\na,1\nb,2.5,x\n,3\n")
    assert list(rows_of(str(tmp_path / "prices.csv"), print)) == [("a", {"price": 1.0}), ("b", {"price": 2.5})]
    assert list(rows_of(f"list:{written(tmp_path / 'items.jsonl')}", print))[3][0] == "sub/c.png"
    (tmp_path / "paths.csv").write_text("path,price\nsub/a.png,1\n")
    assert list(rows_of(str(tmp_path / "paths.csv"), print)) == [("sub/a.png", {"price": 1})]
    for content, found in [
        ("id,n\na,1\na,2\n", r"the id 'a' is there more than once \(lines 2, 3\)"),
        ("id,n,path\na,1,\n,2,a\n", r"the id 'a' is there more than once \(lines 2, 3\)"),
        ("n\n1\n", "needs a column 'id'"),
        ("width,Item-ID\n1,a\n", "needs a column 'id', its first row names width, Item-ID: rename 'Item-ID' to 'id'"),
    ]:
        (tmp_path / "bad.csv").write_text(content)
        with pytest.raises(DataError, match=found):
            list(rows_of(str(tmp_path / "bad.csv"), print))


def test_a_list_of_any_length_takes_little_memory(tmp_path: Path) -> None:
    def count(path: Path, rows: int) -> int:
        with path.open("w") as file:
            file.write("path,title\n")
            file.writelines(f"{row}.png,{'title ' * 20}\n" for row in range(rows))
        tracemalloc.start()
        assert sum(1 for _ in List(str(path), data_dir=None, notice=print).entries()) == rows
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    # The smaller of two: Python's table of interned names, which paths are among, may just grow meanwhile.
    long = min(count(tmp_path / "long.csv", 4_000) for _ in range(2))
    assert long < count(tmp_path / "short.csv", 400) + 200_000


MANY = ",".join(f"c{number}" for number in range(10_000))


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("a.csv", b"path,price\na.png,1,5\n", "line 2 has 3 values for 2 columns"),
        ("a.csv", b"path,n,n\na.png,1,2\n", "more than one of its columns is called 'n'"),
        ("a.csv", f"path,{MANY}\n".encode(), "10,001 columns, 1,000 are the limit"),
        ("a.csv", b"path,n\na.png,1\nb.png,\x00\n", "line 3 has a NUL byte"),
        ("a.csv", "path,n\na,é\n".encode("utf-16")[:-1], "cannot be read as a list (it is not in UTF-8)"),
        ("a.csv", "path,n\na,é\n".encode("utf-32"), "line 1 has a NUL byte, which no text has: save it as text"),
        ("a.csv", "path,n\na,é\n".encode("latin-1"), "list (it is not in UTF-8): save it as 'CSV UTF-8'"),
        ("a.jsonl", '{"path": "é"}'.encode("latin-1"), "list (it is not in UTF-8): save it as text in UTF-8"),
        ("a.csv", b"path," + b"n" * 2_000 + b"\n", "longer than 1,000 characters"),
        ("a.csv", b"path\n" + b"a" * 2_000_000, "line 2 is longer than 1,048,576 characters"),
        ("a.csv", b"path\n" + b"a" * 200_000, "cannot be read as a list (line 2: field larger"),
        ("a.csv", b'path,n\na.png,"1\n', "cannot be read as a list (line 2: unexpected end of data): close its quotes"),
        ("a.csv", b'path,n\na,"1\n2"\nb,"3\n4" x\n', "cannot be read as a list (line 4: ',' expected after '\"')"),
        ("a.csv", b'path,"n\na,1\n', "cannot be read as a list (line 1: unexpected end of data): close its quotes"),
        ("a.csv", b"sep=;\npath;n\na;1;2\n", "line 3 has 3 values for 2 columns"),
        (
            "a.csv",
            b"Path,n\na,1\n",
            "a list needs a column 'path', its first row names Path, n: rename 'Path' to 'path'",
        ),
        ("a.csv", b"ID,IMAGE,n\na,1,2\n", "its first row names ID, IMAGE, n: rename 'IMAGE' to 'path'"),
        ("a.jsonl", b'{"file_name": "a.png"}\n', "its first row names file_name: rename 'file_name' to 'path'"),
        ("a.jsonl", b"", "first row names none"),
        ("a.jsonl", b'{"file": "a.png"}\n', "needs a column 'path', its first row names file"),
        ("a.jsonl", b'{"path": "a.png"}\n{"path": "b.p', "line 2 is no JSON object (Input data was truncated)"),
        ("a.jsonl", b'{"path": "a.png"}\n[1]\n', "line 2 is no JSON object"),
        ("a.jsonl", b'{"path": "a.png", "n": ' + b"[" * 5_000 + b"]" * 5_000 + b"}", "line 1"),
        ("a.jsonl", b'{"path": "a.png", "tags": ["x"]}\n', "line 1: 'tags' holds a list or an object"),
        ("a.jsonl", b'{"path": "a.png", "size": {"w": 1}}\n', "line 1: 'size' holds a list or an object"),
        ("a.jsonl", b'{"path": "a\\u0000.png"}\n', "line 1: 'path' holds a NUL byte"),
        ("a.jsonl", b'{"path": 3}\n', "line 1: its path is the number 3"),
        ("a.jsonl", b'{"path": "a.png", "n": 1e999}\n', "line 1 is no JSON object"),
        ("a.jsonl", json.dumps({"path": "a", **{str(n): n for n in range(10_000)}}).encode(), "1,000 are the limit"),
        ("a.jsonl", b"".join(b'{"path": "a", "c%d": 1}\n' % n for n in range(1_200)), "1,000 are the limit"),
        ("a.parquet", b"", "cannot be read as a list"),
        ("a.parquet", b"PAR1 and no more", "cannot be read as a list"),
    ],
)
def test_an_invalid_list_of_any_format_says_why(tmp_path: Path, name: str, content: bytes, found: str) -> None:
    (tmp_path / name).write_bytes(content)
    message = refused(str(tmp_path / name))
    assert found in message
    assert name in message
    assert len(message) < 500


@pytest.mark.parametrize(
    ("name", "save_as"),
    [
        ("a.xlsx", "save it as 'CSV UTF-8', as a .csv file"),
        ("A.ODS", "save it as 'CSV UTF-8', as a .csv file"),
        ("a.json", "save it as JSON lines, as a .jsonl file with an object on each line"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "list:"])
def test_a_table_that_is_no_list_says_what_to_save_it_as(tmp_path: Path, name: str, save_as: str, prefix: str) -> None:
    (tmp_path / name).write_bytes(b"PK\3\4")
    assert f"{name}: cannot be read as a list: {save_as}" in refused(f"{prefix}{tmp_path / name}")
    with pytest.raises(DataError, match="cannot be read as a list: save it as"):
        list(rows_of(f"{prefix}{tmp_path / name}", print))


def test_lists_as_excel_writes_them_are_read(tmp_path: Path) -> None:
    expected = {"größe": 4, "ort": "Köln; Süd"}
    table = 'path;größe;ort\r\na.png;4;"Köln; Süd"\r\n'
    for content in (
        table.encode("utf-8-sig"), f"sep=;\r\n{table}".encode("utf-8-sig"), f"SEP=;\r\n{table}".encode(),
        table.replace(";", "\t", 2).replace("a.png;4;", "a.png\t4\t").encode("utf-16"),
    ):  # fmt: skip
        (tmp_path / "items.csv").write_bytes(content)
        assert [entry.fields for entry in listed(tmp_path / "items.csv")] == [expected]


def test_a_parquet_file_that_isnt_a_list_says_why(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    written(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "cannot be read as a list" in refused(str(path))
    path.write_bytes(whole[:4] + bytes(200) + whole[204:])
    assert "cannot be read as a list" in refused(str(path))
    codes = pa.array([[1.0]], pa.list_(pa.float32(), 1))
    pq.write_table(pa.table({"id": ["a"], "code": codes}), path)  # as `simrec export` writes it
    assert "a list needs a column 'path', this file has id, code" in refused(str(path))
    pq.write_table(pa.table({"path": ["a"], "code": codes}), path)
    assert "its column 'code' holds fixed_size_list<" in refused(str(path))
    pq.write_table(pa.table({"path": ["a"], "raw": [b"x"]}), path)
    assert "its column 'raw' holds binary" in refused(str(path))
    pq.write_table(pa.table({"path": ["a"], **{str(n): [n] for n in range(1_001)}}), path)
    assert "1,002 columns, 1,000 are the limit" in refused(str(path))
    pq.write_table(pa.table({"path": ["a"], "n": ["\0"]}), path)
    assert "row 1 holds a NUL byte" in refused(str(path))
    pq.write_table(pa.table({"path": [3]}), path)
    assert "row 1: its path is the number 3" in refused(str(path))


def test_a_missing_list_is_one_line() -> None:
    assert "nowhere.csv: cannot be read as a list" in refused("list:nowhere.csv")
