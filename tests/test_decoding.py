"""The commands that turn codes back into pictures, on the shipped demo."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import simrec
from simrec import evaluation
from simrec.cli import cli
from simrec.evaluation import (
    precision_and_recall,
    principal_components,
    signal_to_noise,
    squared_errors,
    structural_similarities,
)
from simrec.generation import Mixture
from simrec.images import rounded
from simrec.perturbations import noisy
from simrec.queries import Query
from simrec.recommender import Recommender
from simrec.sources.load import Pictures


def run(*words: object) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words], standalone_mode=False)


def answer(*words: object) -> str:
    result = run(*words)
    assert result.exit_code == 0, (result.stderr, result.exception)
    return result.stdout


def test_reconstruct_measures_and_draws(shoe: Path, demo: Recommender, pictures: Pictures, tmp_path: Path) -> None:
    rows = json.loads(answer("reconstruct", shoe, "id:test/00001", "-o", "r.png", "--format", "json"))
    assert [row["picture"] for row in rows] == [str(shoe), "id:test/00001"]
    rebuilt = demo.reconstruct(pictures.images[:2])
    assert [row["MSE"] for row in rows] == pytest.approx(squared_errors(rebuilt, pictures.images[:2]), rel=1e-4)
    assert all(0.5 < row["SSIM"] < 1 for row in rows)
    with Image.open(tmp_path / "r.png") as sheet:
        assert sheet.width > 2 * 112
        assert sheet.height > 2 * 112


def test_reconstruct_without_pictures_shows_a_test_picture_of_each_class(pictures: Pictures) -> None:
    rows = json.loads(answer("reconstruct", "--format", "json"))
    assert {row["picture"] for row in rows} == set(pictures.labels)


def test_many_pictures_are_drawn_in_bands_of_ten(photos: Path, tmp_path: Path) -> None:
    files = sorted(photos.rglob("*.png"))
    sizes = []
    for count in (10, 11):
        answer("reconstruct", *files[:count], "-o", "r.png")
        with Image.open(tmp_path / "r.png") as sheet:
            sizes.append(sheet.size)
    assert sizes[0][0] == sizes[1][0]
    assert sizes[1][1] > 1.8 * sizes[0][1]


def test_a_bad_picture_among_good_ones_is_reported_and_the_others_answered(shoe: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    result = run("reconstruct", shoe, "notes.txt", "--format", "json")
    assert result.return_value == 1
    assert [row["picture"] for row in json.loads(result.stdout)] == [str(shoe)]
    assert "Error: notes.txt: not a picture" in result.stderr


def test_structural_similarity_is_one_for_the_same_and_less_for_less_alike(pictures: Pictures) -> None:
    images = pictures.images[:20]
    same = images.astype(np.float32) / 255
    assert structural_similarities(same, images) == pytest.approx(np.ones(20))
    noise = np.random.default_rng(0).normal(0, 0.1, same.shape).astype(np.float32)
    little, more = (structural_similarities(np.clip(same + k * noise, 0, 1), images).mean() for k in (1, 3))
    assert 1 > little > more


def test_compress_and_decompress_a_folder(photos: Path, demo: Recommender, tmp_path: Path) -> None:
    answer("compress", photos, "-o", "items.simrec", "--index", "demo")
    assert (tmp_path / "items.simrec").stat().st_size < 40 * 64 + 96
    answer("decompress", "items.simrec", "-o", "back")  # whose encoder it was is found
    files = sorted((tmp_path / "back").iterdir())
    assert [file.name for file in files] == [f"{number:05d}.png" for number in range(40)]
    images = demo.pictures(str(photos)).images
    back = np.stack([np.asarray(Image.open(file))[..., np.newaxis] for file in files])
    assert np.array_equal(back, demo.decompress(demo.compress(images)))


def test_decompressing_twice_writes_the_same_bytes(shoe: Path, tmp_path: Path) -> None:
    answer("compress", shoe, "-o", "one.simrec", "--index", "demo")
    for folder in ("a", "b"):
        answer("decompress", "one.simrec", "-o", folder)
    assert (tmp_path / "a/00000.png").read_bytes() == (tmp_path / "b/00000.png").read_bytes()


def test_a_folder_with_something_in_it_is_left_alone(shoe: Path, tmp_path: Path) -> None:
    answer("compress", shoe, "-o", "one.simrec", "--index", "demo")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/keep.txt").write_text("mine")
    result = run("decompress", "one.simrec", "-o", "full")
    assert result.exit_code == 1
    assert "not empty" in str(result.exception)
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["keep.txt"]
    (tmp_path / "empty").mkdir()
    answer("decompress", "one.simrec", "-o", "empty")
    assert [path.name for path in (tmp_path / "empty").iterdir()] == ["00000.png"]


def test_an_unreadable_picture_leaves_the_old_container(shoe: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "out.simrec").write_bytes(b"before")
    assert run("compress", shoe, "notes.txt", "-o", "out.simrec").exit_code == 1
    assert (tmp_path / "out.simrec").read_bytes() == b"before"


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"\x89simrec\n", b"\x89simrec\n" + bytes(200)])
def test_decompressing_anything_but_a_container_makes_no_folder(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "bad.simrec").write_bytes(data)
    result = run("decompress", "bad.simrec", "-o", "out")
    assert result.exit_code == 1
    assert str(result.exception).startswith("bad.simrec: ")
    assert not (tmp_path / "out").exists()


def test_the_report_is_a_table_and_a_plot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simrec.cli.compressing.REPORTED", 200)
    rows = json.loads(answer("compress", "--report", "--index", "demo", "-o", "rates.png", "--format", "json"))
    assert rows[0]["name"] == "simrec, 2 bits"
    assert all(row["bits"] > 0 and row["MSE"] >= 0 for row in rows)
    with Image.open(tmp_path / "rates.png") as plot:
        assert plot.width > 400
        assert plot.height > 200


def test_denoise_prints_what_it_gains_and_draws_three_rows(
    shoe: Path, demo: Recommender, pictures: Pictures, tmp_path: Path
) -> None:
    asked = ("denoise", shoe, "id:test/00001", "--index", "demo", "--format", "json")
    rows = json.loads(answer(*asked, "-o", "d.png"))
    assert [row["picture"] for row in rows] == [str(shoe), "id:test/00001"]
    assert all(8 < row["before"] < 13 for row in rows)
    cleaned = demo.reconstruct(noisy(pictures.images[:2], 0.2))
    ratios = signal_to_noise(squared_errors(cleaned, pictures.images[:2]))
    assert [row["after"] for row in rows] == pytest.approx(ratios, rel=1e-4)
    assert json.loads(answer(*asked)) == rows
    assert json.loads(answer(*asked, "--seed", "1")) != rows
    answer("reconstruct", shoe, "id:test/00001", "-o", "two.png")
    with Image.open(tmp_path / "d.png") as three, Image.open(tmp_path / "two.png") as two:
        assert three.height > 1.3 * two.height


def test_a_picture_that_is_already_noisy_has_no_figures(shoe: Path, tmp_path: Path) -> None:
    assert answer("denoise", shoe, "--noise", "0", "-o", "d.png") == ""
    assert (tmp_path / "d.png").exists()


def test_the_denoising_report_sets_filters_beside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simrec.cli.decoding.REPORTED", 200)
    rows = {row["name"]: row["PSNR"] for row in json.loads(answer("denoise", "--report", "--format", "json"))}
    assert list(rows) == ["noisy", "demo-restore", "median 3x3", "non-local means"]
    assert rows["noisy"] == pytest.approx(10.8, abs=0.3)
    assert rows["demo-restore"] > rows["noisy"] + 11
    assert rows["demo-restore"] > rows["median 3x3"] > rows["non-local means"] > rows["noisy"]


def test_what_is_shipped_for_an_application_does_it_better_than_the_demo(demo: Recommender, pictures: Pictures) -> None:
    images = pictures.images[:1000]
    restore, sparse, generate = (simrec.open(f"demo-{name}") for name in ("restore", "sparse", "generate"))

    cleaned = [squared_errors(opened.reconstruct(noisy(images, 0.2)), images).mean() for opened in (restore, demo)]
    assert cleaned[0] < cleaned[1] / 4

    ours, theirs = sparse.compress(images, 3), demo.compress(images, 2)
    assert len(ours) < 0.75 * len(theirs)
    lost = [
        squared_errors(evaluation.pixels(opened.decompress(data)), images).mean()
        for opened, data in ((sparse, ours), (demo, theirs))
    ]
    assert lost[0] < lost[1]

    space, _ = principal_components(pictures.images, 64)
    real = space.encode(pictures.images[:2000])
    recalls = [precision_and_recall(space.encode(rounded(o.generate(2000))), real)[1] for o in (generate, demo)]
    assert recalls[0] > recalls[1] + 0.1


def test_generate_draws_as_many_as_asked_and_the_same_for_a_seed(demo: Recommender, tmp_path: Path) -> None:
    assert demo.generate(5).shape == (5, 28, 28, 1)
    assert np.array_equal(demo.generate(5, seed=1), demo.generate(5, seed=1))
    answer("generate", "-n", 9, "--index", "demo", "-o", "a.png")
    answer("generate", "-n", 9, "--index", "demo", "-o", "b.png", "--seed", 0)
    answer("generate", "-n", 9, "--index", "demo", "-o", "c.png", "--seed", 1)
    a, b, c = ((tmp_path / f"{name}.png").read_bytes() for name in "abc")
    assert a == b != c


def test_drawn_pictures_are_nearer_to_real_ones_than_a_normal_distribution_draws(
    demo: Recommender, pictures: Pictures
) -> None:
    space, _ = principal_components(pictures.images, 64)
    real = space.encode(pictures.images[:2000])
    normal = space.decode(Mixture.normal(space.encode(pictures.images)).sample(2000))

    def precision(samples: np.ndarray) -> float:
        return precision_and_recall(space.encode(rounded(samples)), real)[0]

    assert precision(demo.generate(2000)) > precision(normal) + 0.2


def test_a_walk_goes_from_one_reconstruction_to_the_other(demo: Recommender, pictures: Pictures) -> None:
    first, last = pictures.images[:1], pictures.images[1:2]
    walk = demo.between(first, last, 7)
    np.testing.assert_allclose(walk[[0, -1]], demo.reconstruct(pictures.images[:2]), atol=1e-5)
    lengths = np.abs(np.diff(walk, axis=0)).mean(axis=(1, 2, 3))
    assert lengths.max() < 0.6 * np.abs(walk[-1] - walk[0]).mean()  # no single step is the whole way
    answer("generate", "-n", 7, "--between", "id:test/00000", "id:test/00001", "--index", "demo", "-o", "w.png")


def test_variations_look_like_the_picture(demo: Recommender, pictures: Pictures) -> None:
    boot = pictures.images[:1]
    variations = demo.around(boot, 20)
    assert len(np.unique(variations.reshape(20, -1), axis=0)) == 20
    labels = [match.label for image in rounded(variations) for match in demo.similar(query(image), 5)]
    assert labels.count("Ankle boot") > 80
    answer("generate", "-n", 7, "--around", "id:test/00000", "--index", "demo", "-o", "v.png")


def query(image: np.ndarray) -> Query:
    return Query("drawn", image[np.newaxis], frozenset())
