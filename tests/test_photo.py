"""The encoder `photo`, and which shipped encoder a new recommender uses by default."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from simrec_onnx import agreement
from simrec_onnx.axes import smoothed_axes
from simrec_photo import model
from simrec_photo.model import Photo, PhotoSettings, View, seen

import simrec
from simrec import library
from simrec.contracts import Images, ImageSpec, Progress
from simrec.errors import RequestError, SimrecError
from simrec.images import of_picture

SMALL = PhotoSettings(views=("lite0@64",), dim=16)


@pytest.fixture(scope="module")
def images() -> Images:
    """48 parts of photos, (48, 96, 96, 3)."""
    from skimage import data

    rng = np.random.default_rng(0)
    pieces = []
    for photo in (data.astronaut(), data.chelsea(), data.coffee(), data.rocket()):
        corners = rng.integers(0, np.array(photo.shape[:2]) - 96, (12, 2))
        pieces += [photo[top : top + 96, left : left + 96] for top, left in corners]
    return np.stack(pieces)


def fitted(images: Images, *views: str) -> Photo:
    encoder = Photo(PhotoSettings(views=views, dim=16))
    size = encoder.input.size
    given = np.stack([of_picture(image, ImageSpec(size, 3, "photo"), "it")[0] for image in images])
    encoder.fit(given, validation=given[:4])
    return encoder


def cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    found: np.ndarray = (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    return found


def test_a_view_and_its_mirror_image_do_not_mind_which_way_a_picture_faces(images: Images) -> None:
    encoder = fitted(images, "lite0@96+mirrored")
    turned = np.ascontiguousarray(images[:, :, ::-1])
    assert cosines(encoder.encode(images), encoder.encode(turned)).min() > 0.9999
    one_way = fitted(images, "lite0@96")
    assert cosines(one_way.encode(images), one_way.encode(turned)).min() < 0.99


def test_views_share_their_towers_weights(images: Images, tmp_path: Path) -> None:
    sizes = []
    for views in (("lite0@96",), ("lite0@96", "lite0@64+mirrored")):
        fitted(images, *views).save(tmp_path)
        sizes.append((tmp_path / "encoder.onnx").stat().st_size)
    assert sizes[1] < 1.2 * sizes[0]


def test_a_smaller_view_sees_what_the_picture_scaled_down_shows(images: Images) -> None:
    scaled = np.stack(
        [np.asarray(Image.fromarray(image).resize((64, 64), Image.Resampling.BILINEAR)) for image in images]
    )
    (in_graph,), (by_pillow,) = ([np.concatenate(list(seen(given, "lite0", 64)))] for given in (images, scaled))
    assert cosines(in_graph, by_pillow).min() > 0.99


def test_a_cropped_recoloured_compressed_photo_finds_its_original(images: Images) -> None:
    spec = ImageSpec(96, 3, "photo")
    copies = []
    for image in images:
        file = io.BytesIO()
        recoloured = np.clip(image[14:, :82] * np.array([1.2, 1.0, 0.8]), 0, 255).astype(np.uint8)
        Image.fromarray(recoloured).save(file, "JPEG", quality=40)
        copies.append(of_picture(Image.open(file), spec, "it")[0])
    encoder = Photo(PhotoSettings(views=("lite0@96",)))
    encoder.fit(images, validation=images[:4])
    codes = encoder.encode(images)
    codes /= np.linalg.norm(codes, axis=1, keepdims=True)  # the copies' lengths make no difference to which is nearest
    found = (encoder.encode(np.stack(copies)) @ codes.T).argmax(axis=1) == np.arange(len(images))
    assert found.mean() >= 0.8  # of pieces that overlap; .85 here, and .79 where axes are smoothed by .5


def found_again(encoder: Photo, images: Images) -> float:
    """How many of the 96 x 96 images are found first by the mirror image of a part of them, in another light."""
    codes = encoder.encode(images)
    codes /= np.linalg.norm(codes, axis=1, keepdims=True)
    copies = np.clip(images[:, 14:, 81::-1] * np.array([0.8, 1.0, 1.2]), 0, 255).astype(np.uint8)
    parts = np.stack([np.asarray(Image.fromarray(copy).resize((96, 96))) for copy in copies])
    return float(((encoder.encode(parts) @ codes.T).argmax(axis=1) == np.arange(len(images))).mean())


def test_learning_from_copies_finds_the_same_picture_in_another_view(images: Images) -> None:
    settings = replace(Photo.presets["trained"], views=("lite0@96",))
    trained, fitted, told = Photo(settings), Photo(replace(settings, copies=0)), list[Progress]()
    assert trained.fit(images, validation=images[:4], progress=told.append).ended == "finished"
    fitted.fit(images, validation=images[:4])
    assert found_again(trained, images) > found_again(fitted, images)  # .83 and .77
    assert [at.step for at in told] == sorted(at.step for at in told)
    assert told[-1].step == told[-1].steps


def test_the_same_seed_learns_the_same_from_copies() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(3, 40, 30)).astype(np.float32)
    start = smoothed_axes(features[0], 8, 0.5)
    one, same, other = (agreement.agreeing(start, features, seed=seed).codes(features[0]) for seed in (0, 0, 1))
    assert (one == same).all()
    assert (one != other).any()


@pytest.mark.parametrize("count", [2, 3])
def test_two_pictures_are_enough_to_learn_from_copies(count: int) -> None:
    features = np.random.default_rng(0).normal(size=(2, count, 30)).astype(np.float32)
    found = agreement.agreeing(smoothed_axes(features[0], 8, 0.5), features)
    assert np.isfinite(found.codes(features[1])).all()


def test_learning_from_copies_that_is_interrupted_keeps_the_axes(images: Images) -> None:
    given = images[:, :64, :64]
    stopped, plain = Photo(replace(SMALL, copies=3)), Photo(SMALL)
    assert stopped.fit(given, validation=given[:4], stop=lambda: True).ended == "interrupted"
    plain.fit(given, validation=given[:4])
    assert (stopped.encode(given) == plain.encode(given)).all()


def test_a_copy_shows_a_part_of_the_picture_and_leaves_its_margins_white(images: Images) -> None:
    letterboxed = images.copy()
    letterboxed[:, :20] = letterboxed[:, -20:] = 255
    before = letterboxed.copy()
    copies = agreement.changed(letterboxed, 0, seed=0, number=1)
    assert (letterboxed == before).all()
    assert (copies[:, :20] == 255).all()
    assert (copies[:, -20:] == 255).all()
    assert (copies[:, 20:-20] != letterboxed[:, 20:-20]).any(axis=(1, 2, 3)).all()
    assert (agreement.changed(letterboxed[5:], 5, seed=0, number=1) == copies[5:]).all()  # whatever is beside it


@pytest.mark.parametrize("shape", [(1, 8, 8, 3), (2, 64, 64, 1)])
def test_white_pictures_and_grey_ones_have_copies_too(shape: tuple[int, ...]) -> None:
    white = np.full(shape, 255, np.uint8)
    white[-1, 4, 4] = 0
    assert agreement.changed(white, 0, seed=0, number=1).shape == shape


def test_the_loss_of_pairs_changes_as_its_slopes_say() -> None:
    rng = np.random.default_rng(0)
    one, other, *nudges = rng.normal(size=(4, 20, 7)) * np.linspace(0.2, 2, 7)
    _, slopes = agreement.vicreg(one, other)
    for nudge, slope, sides in zip(nudges, slopes, ((1, 0), (0, 1)), strict=True):
        higher, lower = (
            agreement.vicreg(one + size * sides[0] * nudge, other + size * sides[1] * nudge)[0]
            for size in (1e-5, -1e-5)
        )
        assert (higher - lower) / 2e-5 == pytest.approx((slope * nudge).sum(), rel=1e-5)


def test_grey_pictures_are_seen_in_their_three_channels(images: Images) -> None:
    grey = images[:, :, :, 1:2]
    (one,), (three,) = ([np.concatenate(list(seen(given, "lite0", 96)))] for given in (grey, grey.repeat(3, axis=3)))
    np.testing.assert_allclose(one, three, atol=1e-5)


@pytest.mark.parametrize("view", ["lite9@224", "lite0", "lite0@", "lite0@16", "lite0@4096", "lite0@64+turned", ""])
def test_an_invalid_view_is_refused(view: str) -> None:
    with pytest.raises(ValueError, match="must read TOWER@SIZE"):
        View.of(view)


@pytest.mark.parametrize("damage", ["gone", "cut", "another"])
def test_an_altered_tower_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    towers = tmp_path / "towers"
    shutil.copytree(model.TOWERS, towers)
    monkeypatch.setattr(model, "TOWERS", towers)
    model.tower.cache_clear()
    encoder = Photo(SMALL)
    path = towers / "lite0.onnx"
    data = path.read_bytes()
    path.unlink()
    if damage != "gone":
        path.write_bytes(data[:100_000] if damage == "cut" else b"something else")
    with pytest.raises(RequestError, match="lite0.onnx.*install simrec again") as raised:
        encoder.check()
    assert "\n" not in str(raised.value)
    model.tower.cache_clear()


def test_a_new_recommender_of_photos_takes_photo_and_says_so(photos: Path) -> None:
    told: list[str] = []
    built = simrec.build("shop", str(photos), notice=told.append)
    assert built.manifest.encoder.name == "photo"
    assert any("shop is new: it uses the shipped encoder 'photo'" in line for line in told)
    assert len(built.catalogue) == 40
    again = simrec.build("shop", notice=told.append)  # the encoder that it has by now
    assert again.manifest.encoder.digest == simrec.open("photo").manifest.encoder.digest


def test_a_new_recommender_of_fashion_mnist_takes_demo() -> None:
    assert simrec.build("clothes", "fashion-mnist:small-test").manifest.encoder.name == "plain"
    assert library.ready_for("fashion-mnist") == "demo"
    assert library.ready_for("folder:fashion-mnist") == "photo"


def test_a_shipped_recommender_is_not_built_into(photos: Path) -> None:
    with pytest.raises(RequestError, match="photo is shipped and read-only"):
        simrec.build("photo", str(photos))


def test_odd_folders_are_indexed_or_refused_in_one_line(tmp_path: Path) -> None:
    """One picture, equal pictures, pictures smaller than 8 pixels."""
    rng = np.random.default_rng(0)
    for name, count, size in (("one", 1, 40), ("equal", 12, 40), ("tiny", 12, 5)):
        (tmp_path / name).mkdir()
        pixels = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
        for number in range(count):
            if name == "tiny":
                pixels = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
        built = simrec.build(name, str(tmp_path / name))
        assert len(built.catalogue) == count
        assert len(built.similar(str(tmp_path / name / "0.png"))) == (10 if name == "tiny" else 0)
    for name, said in (("one", "training needs at least 10 pictures, not 1"), ("equal", "all the same")):
        plan = simrec.Plan("photo", changes={"views": "lite0@64"})
        with pytest.raises(SimrecError, match=said) as raised:
            simrec.train(plan, source=str(tmp_path / name), name="own")
        assert "\n" not in str(raised.value)
    made, _ = simrec.train(
        simrec.Plan("photo", changes={"views": "lite0@64"}), source=str(tmp_path / "tiny"), name="own"
    )
    assert made.manifest.encoder.dim < 12


def test_photos_are_indexed_looked_up_and_fitted_without_torch(photos: Path, own_home: Path) -> None:
    code = "import sys; sys.modules['torch'] = sys.modules['torchvision'] = None\nfrom simrec.cli import main\nmain()"
    shoe = str(next(photos.rglob("*.png")))
    for words in (
        ["index", "build", "shop", str(photos)],
        ["similar", shoe, "--index", "shop", "--grid", "sheet.png", "--format", "csv"],
        ["train", "photo", "--preset", "trained", "--set", "views=lite0@64", "--data", str(photos), "--name", "own"],
    ):
        ran = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
    assert Path("sheet.png").stat().st_size > 1000
