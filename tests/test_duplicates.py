"""Which items of a catalogue are duplicates, and of what kind."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

import simrec
from simrec.cli import main
from simrec.verbs import index as verb
from simrec.verbs.duplicates import duplicates

NAMES = ("astronaut", "chelsea", "coffee", "rocket")


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Photos: one is there twice, one in two lossless formats, and one again at half its size."""
    folder = tmp_path / "album"
    folder.mkdir()
    for name in NAMES:
        Image.fromarray(getattr(data, name)()).save(folder / f"{name}.png")
    (folder / "astronaut copied.png").write_bytes((folder / "astronaut.png").read_bytes())
    Image.open(folder / "chelsea.png").save(folder / "chelsea as.tiff")
    coffee = Image.open(folder / "coffee.png")
    coffee.resize((coffee.width // 2, coffee.height // 2)).save(folder / "coffee small.jpg", quality=70)
    return folder


def test_groups_say_whether_files_pictures_or_photos_are_the_same(album: Path) -> None:
    groups = duplicates(simrec.build("album", str(album), encoder="demo"))
    assert {group.kind: [item.id for item in group.items] for group in groups} == {
        "identical files": ["astronaut copied.png", "astronaut.png"],
        "identical pictures": ["chelsea as.tiff", "chelsea.png"],
        "near-duplicates": ["coffee small.jpg", "coffee.png"],
    }


def test_copies_are_one_group_even_if_there_are_more_than_neighbours(tmp_path: Path) -> None:
    (tmp_path / "many").mkdir()
    generator = np.random.default_rng(0)
    for number in range(40):
        level = generator.integers(40, 200)
        Image.fromarray(np.full((30, 40), level, np.uint8)).save(tmp_path / "many" / f"plain-{number}.png")
    photo = Image.fromarray(data.camera())
    for number in range(30):
        photo.save(tmp_path / "many" / f"{number:02d}.jpg", quality=60 + number)
    groups = duplicates(simrec.build("many", str(tmp_path / "many"), encoder="demo"))
    assert len(groups[0].items) == 30
    assert groups[0].kind == "near-duplicates"


def test_removed_items_are_in_no_group(album: Path) -> None:
    simrec.build("album", str(album), encoder="demo")
    made = verb.remove("album", ["chelsea.png"])
    assert "identical pictures" not in [group.kind for group in duplicates(made.recommender)]


def test_with_a_percentile_the_encoder_decides_what_is_near(album: Path) -> None:
    built = simrec.build("album", str(album), encoder="demo")
    everything = duplicates(built, percentile=0)
    assert [len(group.items) for group in everything] == [7]
    near = duplicates(built, percentile=99.9)
    assert ["astronaut copied.png", "astronaut.png"] in [[item.id for item in group.items] for group in near]


def test_the_command_prints_draws_and_counts_them(album: Path, capsys: pytest.CaptureFixture[str]) -> None:
    simrec.build("album", str(album), encoder="demo")

    def run(*words: str) -> tuple[str, str]:
        with pytest.raises(SystemExit) as leaving:
            main(["index", "duplicates", "album", *words])
        assert not leaving.value.code
        return capsys.readouterr()

    out, err = run("--format", "json", "--grid", "twins.png", "--show", "width")
    assert [group["kind"] for group in json.loads(out)] == ["identical files", "identical pictures", "near-duplicates"]
    assert "6 of 7 items are in 3 groups of duplicates" in err
    assert "previews" not in err  # the folder was indexed here, so the files themselves are drawn
    with Image.open("twins.png") as sheet:
        assert sheet.height > 3 * 160
    assert [json.loads(line) for line in run("--format", "ndjson")[0].splitlines()] == json.loads(out)
    assert "coffee small.jpg" in run()[0]


def test_a_catalogue_without_duplicates_has_no_groups(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    simrec.build("mine", str(photos), encoder="demo")
    with pytest.raises(SystemExit) as leaving:
        main(["index", "duplicates", "mine", "--format", "json", "--grid", "none.png"])
    out, err = capsys.readouterr()
    assert (leaving.value.code, json.loads(out)) == (0, [])
    assert "0 of 40 items" in err
    assert not Path("none.png").exists()
