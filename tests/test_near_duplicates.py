"""Which pictures are the same photo, saved again, and that `simrec evaluate` says how many such queries flatter it."""

from __future__ import annotations

import io
import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from skimage import data

import simrec
from simrec import images
from simrec.catalogue import previews
from simrec.cli import cli
from simrec.evaluation import neighbours
from simrec.near_duplicates import SAME, details, same_photo
from simrec.recommender import Recommender
from simrec.sources.load import Pictures

PHOTOS = {
    name: Image.fromarray(getattr(data, name)()) for name in ("astronaut", "chelsea", "coffee", "camera", "coins")
}


def shown(picture: Image.Image) -> Image.Image:
    """A picture's preview, as a catalogue keeps it."""
    return previews.opened(images.preview(picture))


def saved(picture: Image.Image, form: str = "JPEG", **options: int) -> Image.Image:
    file = io.BytesIO()
    picture.save(file, form, **options)
    return Image.open(io.BytesIO(file.getvalue()))


@pytest.mark.parametrize("name", PHOTOS)
def test_a_photo_saved_again_resized_darkened_or_grey_is_the_same(name: str) -> None:
    photo = PHOTOS[name]
    again = {
        "JPEG of quality 40": saved(photo, quality=40),
        "WebP": saved(photo, "WEBP").convert("RGB"),
        "half as large": photo.resize((photo.width // 2, photo.height // 2)),
        "a third as large, and saved": saved(photo.resize((photo.width // 3, photo.height // 3)), quality=60),
        "darkened": photo.point(lambda value: value * 0.8),
        "grey": photo.convert("L"),
    }
    missed = [way for way, picture in again.items() if not same_photo(shown(photo), shown(picture))]
    assert not missed


def test_two_photos_are_never_the_same() -> None:
    for one, other in combinations(PHOTOS.values(), 2):
        assert details(shown(one)) @ details(shown(other)) < 0.5


def test_pictures_of_one_colour_have_no_details_to_be_the_same_in() -> None:
    plain = Image.new("RGB", (60, 80), "pink")
    assert not details(plain).any()
    assert not same_photo(plain, plain)


def test_fashion_mnists_similar_silhouettes_are_not_taken_for_the_same_photo(
    demo: Recommender, pictures: Pictures
) -> None:
    trousers = np.flatnonzero(np.array(pictures.labels) == "Trouser")
    vectors = np.stack([details(images.as_picture(pictures.images[row])) for row in trousers])
    nearest = neighbours(demo.index, demo.codes[trousers], 2, leave_one_out=False)[:, 1]
    theirs = np.stack([details(images.as_picture(pictures.images[row])) for row in nearest])
    same = (vectors * theirs).sum(axis=1) >= SAME
    assert set(trousers[same].tolist()) == {2115, 4926}  # one photo, of which the data set has two versions


def evaluated(name: str) -> Result:
    done = CliRunner().invoke(cli, ["evaluate", name, "--format", "json"], catch_exceptions=False)
    assert done.exit_code == 0, done.stderr
    return done


def test_evaluate_counts_near_duplicates_among_the_first_neighbours(photos: Path) -> None:
    simrec.build("mine", str(photos), encoder="demo")
    before = evaluated("mine")
    assert json.loads(before.stdout)[0]["near_duplicates"] == 0
    assert "near-duplicate" not in before.stderr
    for path in sorted(photos.glob("Bag/*.png"))[:3]:  # three copies saved again
        Image.open(path).save(path.with_suffix(".webp"), quality=90)
    exact = next(photos.glob("Dress/*.png"))
    (exact.parent / "copy.png").write_bytes(exact.read_bytes())
    simrec.build("mine", str(photos), encoder="demo")
    after = evaluated("mine")
    assert json.loads(after.stdout)[0]["near_duplicates"] == 8
    assert "mine: at least 8 of the 44 queries have a near-duplicate (the same photo again)" in after.stderr
