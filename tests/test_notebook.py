"""Codes in a notebook: tables, codes that are mapped into memory, and encoders in a scikit-learn pipeline."""

from __future__ import annotations

import io
import mmap
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.utils.estimator_checks import check_estimator
from sklearn.utils.validation import validate_data
from test_base_installation import HIDING

import simrec
from simrec.contracts import Codes
from simrec.errors import DataError, ImageError, RequestError
from simrec.recommender import Recommender
from simrec.sklearn import Encoder


def listed(folder: Path, name: str, columns: str, values: list[str]) -> str:
    """A list of the first pictures of `photos`, with more columns than their paths."""
    paths = sorted(folder.rglob("*.png"))[: len(values)]
    lines = [f"{path.relative_to(folder)},{value}" for path, value in zip(paths, values, strict=True)]
    (folder / name).write_text("\n".join([f"path,{columns}", *lines]) + "\n")
    return str(folder / name)


@pytest.fixture
def shop(photos: Path) -> Recommender:
    """A catalogue of 12 items with fields; two fields have the names of other columns."""
    values = [f"{row},{row / 2},seen {row},c{row}" for row in range(12)]
    return simrec.build("shop", listed(photos, "shop.csv", "stock,price,source,code", values), encoder="demo")


# Tables.


def test_the_table_has_every_item_with_its_fields_and_its_code(shop: Recommender) -> None:
    table = shop.to_arrow()
    items = list(shop.catalogue.all())
    assert table.column("id").to_pylist() == [item.id for item in items]
    assert table.column("source").to_pylist() == [item.source for item in items]
    assert table.column("stock").to_pylist() == list(range(12))
    assert table.column("field_code").to_pylist() == [f"c{row}" for row in range(12)]
    assert table.schema.names[:3] == ["id", "label", "source"]
    assert table.schema.field("price").type == pa.float64()
    assert table.schema.field("field_source").type == pa.string()
    assert table.schema.field("code").type == pa.list_(pa.float32(), 64)
    codes = np.stack(table.column("code").to_numpy())
    np.testing.assert_array_equal(codes, shop.codes)


def test_the_table_of_a_filter_has_what_matches(shop: Recommender) -> None:
    table = shop.to_arrow("stock >= 10")
    assert table.column("stock").to_pylist() == [10, 11]
    np.testing.assert_array_equal(np.stack(table.column("code").to_numpy()), shop.codes[10:])
    assert len(shop.to_arrow("stock > 99")) == 0
    with pytest.raises(RequestError, match="stokc"):
        shop.to_arrow("stokc > 3")


def test_a_field_of_numbers_in_one_segment_and_texts_in_another_is_texts_in_the_table(
    shop: Recommender, photos: Path
) -> None:
    (photos / "more").mkdir()
    for path in sorted(photos.rglob("*.png"))[12:14]:
        path.rename(photos / "more" / path.name)
    added = simrec.add("shop", listed(photos / "more", "more.csv", "stock", ["none", "2"]))
    assert added is not None
    table = simrec.open("shop").to_arrow()
    assert table.column("stock").to_pylist() == [*map(str, range(12)), "none", "2"]


def test_removed_items_are_not_in_the_table(shop: Recommender) -> None:
    simrec.remove("shop", where="stock < 5", yes=True)
    assert simrec.open("shop").to_arrow().column("stock").to_pylist() == list(range(5, 12))
    assert len(shop.to_arrow()) == 12  # opened before


@pytest.mark.external
def test_pandas_gets_the_same_table(shop: Recommender) -> None:
    frame = shop.to_pandas("stock < 4")
    assert list(frame.columns) == shop.to_arrow().schema.names
    assert frame.set_index("stock").loc[3, "price"] == 1.5
    np.testing.assert_array_equal(np.stack(frame["code"]), shop.codes[:4])


def test_without_pandas_one_line_says_so(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(HIDING.replace("{hidden}", "('pandas',)"))
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", "import simrec; simrec.open('demo').to_pandas()"],
        env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    last = done.stderr.splitlines()[-1]
    assert last.endswith("RequestError: to_pandas needs pandas, which is not installed: pip install pandas")


# Codes.


def in_a_file(codes: Codes) -> bool:
    """Whether an array is a part of a file that is mapped into memory."""
    base: Any = codes
    while isinstance(base, np.ndarray):
        base = base.base
    return isinstance(base.obj if isinstance(base, memoryview) else base, mmap.mmap)


@pytest.fixture
def by_l2(photos: Path) -> Recommender:
    """A catalogue with the metric l2, whose encoder trains in a second."""
    simrec.train("pca", name="mine", source=str(photos))
    return simrec.build("mine", str(photos))


def test_codes_are_mapped_into_memory_where_a_file_has_them_so(by_l2: Recommender, photos: Path) -> None:
    codes = by_l2.codes
    assert codes.dtype == np.float32
    assert in_a_file(codes)
    assert by_l2.codes is codes
    with pytest.raises(ValueError, match="read-only"):
        codes[0] = 0
    np.testing.assert_array_equal(codes, np.stack(by_l2.to_arrow().column("code").to_numpy()))
    np.testing.assert_allclose(codes, by_l2.encode(by_l2.pictures(str(photos)).images), atol=1e-5)


def test_codes_of_a_cosine_are_mapped_divided_by_their_lengths(shop: Recommender) -> None:
    unit = shop.index.codes
    assert in_a_file(unit)
    assert not in_a_file(shop.codes)
    for codes in (unit, shop.codes):
        with pytest.raises(ValueError, match="read-only"):
            codes[0] = 0
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(unit, shop.codes / np.linalg.norm(shop.codes, axis=1, keepdims=True), atol=1e-6)


def test_codes_stay_when_the_catalogue_is_built_again(by_l2: Recommender, photos: Path) -> None:
    codes = by_l2.codes
    before = codes.copy()
    simrec.remove("mine", where="id LIKE 'Bag/%8.png'")
    newer = simrec.open("mine")
    there = {item.id for item in newer.catalogue.all()}
    kept = [row for row, item in enumerate(by_l2.catalogue.all()) if item.id in there]
    assert len(newer.codes) == len(kept) == 37
    assert not in_a_file(newer.codes)
    np.testing.assert_array_equal(newer.codes, before[kept])
    simrec.build("mine", str(photos / "Bag"), replace=True, from_scratch=True)
    np.testing.assert_array_equal(codes, before)


# scikit-learn.


@pytest.fixture
def taught(photos: Path) -> tuple[list[str], list[str]]:
    """The paths of 40 pictures and their labels."""
    paths = sorted(photos.rglob("*.png"))
    return [str(path) for path in paths], [path.parent.name for path in paths]


def test_a_pipeline_learns_labels_from_codes(taught: tuple[list[str], list[str]]) -> None:
    paths, labels = taught
    kinds = make_pipeline(Encoder("demo"), LogisticRegression(max_iter=1000))
    assert kinds.fit(paths[::2], labels[::2]).score(paths[1::2], labels[1::2]) >= 0.9
    assert cross_val_score(kinds, paths, labels, cv=2).mean() >= 0.8


def test_pictures_in_any_form_get_the_codes_that_simrec_gives(
    taught: tuple[list[str], list[str]], photos: Path, demo: Recommender
) -> None:
    paths, _ = taught
    wanted = demo.encode(demo.pictures(str(photos)).images)
    arrays = [np.asarray(Image.open(path)) for path in paths]
    given = {
        "texts": paths,
        "paths": tuple(Path(path) for path in paths),
        "an array of texts": np.array(paths),
        "a column": np.array(paths, object)[:, np.newaxis],
        "Pillow pictures": [Image.open(io.BytesIO(Path(path).read_bytes())) for path in paths],
        "arrays": arrays,
        "an array": np.stack(arrays)[..., np.newaxis],
        "of every kind": [*paths[:20], Image.fromarray(arrays[20]), *arrays[21:]],
        "a folder": str(photos),
        "a list": listed(photos, "shop.csv", "price", ["1"] * 40),
    }
    for what, pictures in given.items():
        codes = Encoder("demo").fit(pictures).transform(pictures)
        assert (codes.dtype, codes.shape) == (np.float32, (40, 64)), what
        np.testing.assert_allclose(codes, wanted, atol=1e-5, err_msg=what)
    assert Encoder("demo").transform([]).shape == (0, 64)
    for path in paths:
        Image.open(path).close()


def test_photos_in_colour_are_prepared_as_the_encoder_needs_them(tmp_path: Path) -> None:
    from skimage import data

    photo = data.astronaut()
    Image.fromarray(photo).save(tmp_path / "photo.png")
    codes = Encoder().transform([tmp_path / "photo.png", Image.fromarray(photo), photo])
    assert codes.shape == (3, 128)
    np.testing.assert_allclose(codes, codes[:1].repeat(3, axis=0), atol=1e-5)
    np.testing.assert_allclose(Encoder("photo").transform(photo[np.newaxis]), codes[:1], atol=1e-5)


def test_an_unreadable_picture_is_an_error_not_a_missing_row(photos: Path) -> None:
    bad = photos / "Bag" / "bad.png"
    bad.write_bytes(b"no picture")
    for pictures in (str(photos), [str(bad)], [bad, Image.new("L", (28, 28))]):
        with pytest.raises(ImageError, match=r"bad\.png: not a picture"):
            Encoder("demo").transform(pictures)
    with pytest.raises(DataError, match="nowhere"):
        Encoder("demo").transform("nowhere")


@pytest.mark.parametrize(
    "given",
    [7, np.zeros((3, 784)), np.zeros((2, 28, 28, 1)), [3.5], [np.zeros((28, 28))], [np.zeros((28, 28, 4), np.uint8)]],
    ids=["number", "table", "floats", "list of numbers", "list of floats", "four channels"],
)
def test_a_file_that_isnt_a_picture_is_one_line(given: Any) -> None:
    with pytest.raises(RequestError) as raised:
        Encoder("demo").transform(given)
    assert "give" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.long
def test_an_encoder_is_cloned_and_pickled_by_its_name(taught: tuple[list[str], list[str]], tmp_path: Path) -> None:
    paths, labels = taught
    encoder = Encoder("demo")
    kinds = Pipeline([("codes", encoder), ("kinds", LogisticRegression(max_iter=1000))]).fit(paths, labels)
    assert clone(encoder).get_params() == {"recommender": "demo", "home": None, "data_dir": None}
    pickled = pickle.dumps(kinds)
    assert len(pickled) < 10_000  # and no graph of 5.8 MB
    (tmp_path / "kinds.pickle").write_bytes(pickled)
    program = "import pickle, sys; print(*pickle.load(open('kinds.pickle', 'rb')).predict(sys.argv[1:]))"
    done = subprocess.run([sys.executable, "-c", program, *paths[:4]], capture_output=True, text=True, check=True)
    assert done.stdout.split() == list(kinds.predict(paths[:4]))


def test_another_encoder_can_be_set_as_any_parameter_is() -> None:
    encoder = Encoder("demo")
    assert list(encoder.get_feature_names_out()[[0, -1]]) == ["code_0", "code_63"]
    assert len(encoder.set_params(recommender="photo").get_feature_names_out()) == 128
    with pytest.raises(RequestError, match="no recommender 'foto'"):
        encoder.set_params(recommender="foto").fit()


def test_a_pipeline_fitted_with_one_encoder_refuses_another(by_l2: Recommender, photos: Path) -> None:
    fitted = Encoder("mine").fit()
    assert fitted.transform(str(photos)).shape == by_l2.codes.shape
    simrec.train(
        simrec.Plan("pca", seed=1, changes={"dim": "5"}), name="mine", source=str(photos), replace_catalogue=True
    )
    again = pickle.loads(pickle.dumps(fitted))
    with pytest.raises(
        RequestError, match="mine: its encoder is pca/.* now, but this was fitted with pca/.*: fit again"
    ):
        again.transform(str(photos))
    assert again.fit().transform(str(photos)).shape == (40, 5)


class Rows(Encoder):
    """scikit-learn checks transformers with tables of numbers: here each row is a picture that is one pixel high."""

    def fit(self, X: Any, y: Any = None) -> Rows:  # noqa: N803
        validate_data(self, X)
        return super().fit()

    def transform(self, X: Any) -> Codes:  # noqa: N803
        numbers = validate_data(self, X, reset=False).astype(float)
        pixels = (255 / (1 + np.exp(-np.clip(numbers, -9, 9)))).astype(np.uint8)
        return super().transform(pixels[:, np.newaxis, :, np.newaxis])

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.string, tags.no_validation = True, False, False
        return tags


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
def test_scikit_learns_own_checks_pass() -> None:
    """None is expected to fail. They are skipped for anything that takes no table, so they run on `Rows`."""
    results = check_estimator(Rows("demo"), on_skip=None, on_fail="raise")
    assert sum(result["status"] == "passed" for result in results) > 30
