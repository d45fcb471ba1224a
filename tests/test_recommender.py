"""Looking up, encoding, exporting and evaluating, with the shipped demo and with a folder."""

from __future__ import annotations

import contextlib
import csv
import gc
import io
import json
import pickle
import signal
import subprocess
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import copy, deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from crashes import save
from PIL import Image

import simrec
from simrec import library, store
from simrec.cli import cli
from simrec.contracts import Item
from simrec.errors import DataError, ImageError, RequestError, StoreError
from simrec.manifest import Manifest
from simrec.perturbations import PERTURBATIONS
from simrec.recommender import Recommender
from simrec.sources.load import Pictures
from simrec.verbs import index
from simrec.verbs.evaluate import Evaluation


def answer(*words: str, stdin: bytes | None = None) -> str:
    result = CliRunner().invoke(cli, words, input=stdin, catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def test_the_demo_answers_with_items_of_the_same_kind(demo: Recommender, pictures: Pictures) -> None:
    boots = [row for row, label in enumerate(pictures.labels) if label == "Ankle boot"][:20]
    labels = [match.label for row in boots for match in demo.similar(f"id:test/{row:05d}", 5)]
    assert labels.count("Ankle boot") > 80


def test_matches_come_best_first_with_score_and_distance(demo: Recommender, shoe: Path) -> None:
    matches = demo.similar(shoe, 7)
    assert [match.rank for match in matches] == list(range(1, 8))
    assert [match.score for match in matches] == sorted((match.score for match in matches), reverse=True)
    assert all(match.score == pytest.approx(1 - match.distance) for match in matches)


def test_the_query_itself_is_left_out_by_id_and_by_its_file(photos: Path) -> None:
    built = simrec.build("mine", str(photos), encoder="demo")
    by_id, by_file = built.similar("id:Bag/00018.png", 10), built.similar(photos / "Bag" / "00018.png", 10)
    assert [match.id for match in by_id] == [match.id for match in by_file]
    assert "Bag/00018.png" not in [match.id for match in by_id]


def test_asking_for_more_items_than_there_are_gives_all_the_others(demo: Recommender) -> None:
    assert len(demo.similar("id:test/00000", 20_000)) == 9_999


def test_any_number_of_items_can_be_read_by_row(demo: Recommender) -> None:
    rows = list(range(10_000)) * 4  # more values than SQLite takes one by one
    assert [item.id for item in demo.catalogue.at(rows)] == [f"test/{row:05d}" for row in rows]


def test_a_picture_from_standard_input_answers_like_the_file(shoe: Path) -> None:
    piped = json.loads(answer("similar", "-", "-n", "3", stdin=shoe.read_bytes()))
    named = json.loads(answer("similar", str(shoe), "-n", "3"))
    assert [row["id"] for row in piped] == [row["id"] for row in named]
    assert {row["query"] for row in piped} == {"-"}


def test_every_format_holds_the_same_answer(shoe: Path) -> None:
    def rows(form: str) -> str:
        return answer("similar", str(shoe), "-n", "2", "--format", form)

    expected = json.loads(rows("json"))
    assert list(expected[0]) == ["query", "rank", "id", "score", "distance", "percentile", "label", "source"]
    assert [json.loads(line) for line in rows("ndjson").splitlines()] == expected
    table = list(csv.DictReader(io.StringIO(rows("csv"))))
    assert [row["id"] for row in table] == [row["id"] for row in expected]
    assert rows("paths").splitlines() == [f"fashion-mnist/{row['id']}" for row in expected]
    assert all(row["id"] in rows("table") for row in expected)


def test_the_grid_shows_the_query_first(shoe: Path, tmp_path: Path, pictures: Pictures) -> None:
    answer("similar", str(shoe), str(shoe), "-n", "3", "--grid", str(tmp_path / "grid.png"))
    sheet = np.asarray(Image.open(tmp_path / "grid.png").convert("L"))
    query = np.kron(pictures.images[0, :, :, 0], np.ones((5, 5), np.uint8))  # in the middle of a tile of 160 pixels
    assert (sheet[54:194, 28:168] == query).all()
    assert sheet.shape[0] > 2 * 160


def test_without_a_name_the_only_recommender_answers_else_the_demo(photos: Path, shoe: Path) -> None:
    runner = CliRunner()
    assert "answering from 'demo'.\n" in runner.invoke(cli, ["similar", str(shoe)]).stderr
    simrec.build("mine", str(photos), encoder="demo")
    assert "answering from 'mine'.\n" in runner.invoke(cli, ["similar", str(shoe)]).stderr
    simrec.build("other", str(photos), encoder="demo")
    assert "answering from 'demo'. Yours are mine, other.\n" in runner.invoke(cli, ["similar", str(shoe)]).stderr


def test_a_folder_around_a_trained_encoder(photos: Path, demo: Recommender) -> None:
    built = simrec.build("mine", str(photos), encoder="demo")
    assert built.manifest.encoder.digest == demo.manifest.encoder.digest
    items = list(built.catalogue.all())
    assert len(items) == 40
    assert items[0].id == "Bag/00018.png"
    assert items[0].label == "Bag"
    assert Path(items[0].source) == photos / "Bag" / "00018.png"


def test_building_again_takes_the_same_pictures_as_before(photos: Path) -> None:
    simrec.build("mine", str(photos), encoder="demo")
    for file in (photos / "Bag").glob("*.png"):
        file.unlink()
    again = simrec.build("mine")
    assert {item.label for item in again.catalogue.all()} == {"Trouser", "Sneaker", "Dress"}


def test_in_a_catalogue_of_one_item_that_item_has_no_neighbours(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "one" / "shoes").mkdir(parents=True)
    next(photos.rglob("*.png")).rename(tmp_path / "one" / "shoes" / "a.png")
    built = simrec.build("one", str(tmp_path / "one"), encoder="demo")
    assert built.similar("id:shoes/a.png") == []
    answer("similar", "id:shoes/a.png", "--index", "one", "--grid", str(tmp_path / "grid.png"))
    assert simrec.evaluate(built).how == "reconstruction"


def test_a_picture_without_a_label_is_neither_scored_nor_a_hit(photos: Path) -> None:
    before = simrec.evaluate(simrec.build("before", str(photos), encoder="demo")).rows[0]
    (photos / "Bag" / "00018.png").rename(photos / "unsorted.png")
    after = simrec.evaluate(simrec.build("after", str(photos), encoder="demo")).rows[0]
    # The other bags lose one hit each, and nothing counts the unsorted bag's own answer.
    assert after["P@10"] < before["P@10"]
    assert after["P@1"] > 0.5


def test_brackets_in_a_file_name_are_shown_as_they_are(shoe: Path) -> None:
    shoe.rename(shoe.with_name("shoe[old].png"))
    assert "Similar to shoe[old].png" in answer("similar", "shoe[old].png", "-n", "1", "--format", "table")


def test_encoding_a_folder_names_each_row_beside_the_codes(photos: Path, tmp_path: Path) -> None:
    (photos / "Bag" / "broken.png").write_bytes(b"no picture")
    answer("encode", str(photos), "--index", "demo", "-o", str(tmp_path / "codes.npy"))
    rows = [json.loads(line) for line in (tmp_path / "codes.items.jsonl").read_text().splitlines()]
    assert len(rows) == len(np.load(tmp_path / "codes.npy")) == 40
    assert "Bag/broken.png" not in [row["id"] for row in rows]


def test_a_sheet_can_be_drawn_when_the_source_is_gone(photos: Path, tmp_path: Path) -> None:
    built = simrec.build("mine", str(photos), encoder="demo")
    before = [np.asarray(Image.open(item.source)) for item in built.catalogue.all()]
    for file in photos.rglob("*.png"):
        file.unlink()
    shown = [np.asarray(built.catalogue.picture(item.id)) for item in built.catalogue.all()]
    assert np.array_equal(np.stack(shown), np.stack(before))
    answer("similar", "id:Bag/00018.png", "--index", "mine", "--grid", str(tmp_path / "grid.png"))
    assert (tmp_path / "grid.png").stat().st_size > 1000


def test_a_copied_recommender_answers_from_its_new_place(photos: Path, tmp_path: Path, own_home: Path) -> None:
    import shutil

    built = simrec.build("mine", str(photos), encoder="demo")
    expected = [match.id for match in built.similar("id:Bag/00018.png")]
    shutil.copytree(own_home / "mine", tmp_path / "elsewhere")
    shutil.rmtree(own_home / "mine")
    copied = simrec.open(str(tmp_path / "elsewhere"))
    assert [match.id for match in copied.similar("id:Bag/00018.png")] == expected


def test_the_shipped_demo_is_not_written_to(photos: Path) -> None:
    with pytest.raises(RequestError, match="read-only"):
        simrec.build("demo", str(photos))


def test_a_trained_encoder_is_not_replaced_by_another_one(photos: Path, own_home: Path, demo: Recommender) -> None:
    changed = replace(demo.manifest.encoder, digest="0" * 64, dim=7)
    with store.Writer(own_home / "other") as writer:
        writer.copy(demo.generation, demo.manifest.encoder.folder, demo.manifest.encoder.folder)
        writer.commit(Manifest(changed, None, demo.manifest.created, {}))
    with pytest.raises(StoreError, match=rf"-7@000000000000.*{demo.manifest.encoder.title}"):
        simrec.build("other", str(photos), encoder="demo")


def test_codes_of_another_encoder_give_no_answers(photos: Path, own_home: Path) -> None:
    built = simrec.build("mine", str(photos), encoder="demo")
    catalogue = built.manifest.catalogue
    assert catalogue is not None
    with store.Writer(own_home / "mine") as writer:
        for folder in (built.manifest.encoder.folder, catalogue.segments[0].folder):
            writer.keep(built.generation, folder)
        writer.commit(replace(built.manifest, catalogue=replace(catalogue, encoder="f" * 64)))
    with pytest.raises(StoreError, match="are from encoder ffffffffffff"):
        simrec.open("mine")


def test_encode_writes_the_codes_that_the_index_holds(photos: Path, tmp_path: Path) -> None:
    built = simrec.build("mine", str(photos), encoder="demo")
    answer("encode", str(photos), "--index", "mine", "-o", str(tmp_path / "codes.npy"))
    codes = np.load(tmp_path / "codes.npy")
    assert codes.dtype == np.float32
    np.testing.assert_allclose(codes, built.codes, rtol=1e-6)  # kept as a direction and a length


def test_reconstructions_resemble_the_pictures(demo: Recommender, pictures: Pictures) -> None:
    rebuilt = demo.reconstruct(pictures.images[:500])
    error = float(((rebuilt - pictures.images[:500] / 255) ** 2).mean())
    blank = float(((pictures.images[:500] / 255 - (pictures.images / 255).mean(axis=0)) ** 2).mean())
    assert error < blank / 3


@pytest.fixture(scope="module")
def evaluated(demo: Recommender) -> Evaluation:
    """The demo's evaluation."""
    return simrec.evaluate(demo)


def test_evaluating_the_demo_leaves_each_query_out_and_beats_raw_pixels(evaluated: Evaluation) -> None:
    evaluation = evaluated.to_json()
    mine, pixels, pca = evaluation["rows"]
    assert evaluation["how"] == "leave-one-out"
    assert (mine["name"], pixels["name"], pca["name"]) == ("demo", "raw pixels", "PCA")
    assert pca["numbers"] == mine["numbers"]
    for figure in ("P@1", "P@10", "P@100", "MAP@100", "10-NN"):
        assert mine[figure] > pixels[figure], figure
    assert mine["MSE"] > 0
    assert mine["ms"] > 0
    assert (mine["bytes"], pixels["bytes"], pca["bytes"]) == (64, 784, 256)


def test_evaluating_says_which_classes_are_found_badly_and_mixed_up(evaluated: Evaluation) -> None:
    by_class = evaluated.rows[0]["classes"]
    assert len(by_class) == 10
    assert np.mean(list(by_class.values())) == pytest.approx(evaluated.rows[0]["P@10"])  # 1,000 queries each
    assert min(by_class, key=lambda label: by_class[label]) == "Shirt"
    assert len(evaluated.rows[0]["confused"]) == 10
    assert {evaluated.rows[0]["confused"][0]["query"], evaluated.rows[0]["confused"][0]["answer"]} == {
        "Shirt",
        "T-shirt/top",
    }


def test_items_whose_pictures_cannot_be_read_are_left_out_of_an_evaluation(photos: Path) -> None:
    more = photos.parent / "more"
    more.mkdir()
    (photos / "Dress").rename(more / "Dress")

    def evaluated(name: str) -> tuple[list[dict[str, Any]], list[str]]:
        said: list[str] = []
        rows = simrec.evaluate(simrec.open(name), notice=said.append).rows
        return [{key: value for key, value in row.items() if key not in ("name", "ms")} for row in rows], said

    for name in ("whole", "rest"):
        simrec.build(name, str(photos), encoder="demo")
        simrec.add(name, str(more))  # a second segment
    damaged, gone = sorted(photos.glob("Bag/*"))[3], sorted(more.glob("Dress/*"))[7]
    damaged.write_bytes(b"no picture")
    gone.unlink()
    simrec.remove("rest", [f"Bag/{damaged.name}", f"Dress/{gone.name}"])
    (whole, said), (rest, nothing) = evaluated("whole"), evaluated("rest")
    assert whole == rest
    assert f"2 items are left out, because the picture can't be read again: {damaged}" in said[0]
    assert len(said) == 1 and not nothing


def test_an_evaluation_reports_its_progress(photos: Path) -> None:
    simrec.build("shop", str(photos), encoder="demo")
    reports: list[tuple[str, int, int]] = []
    simrec.evaluate(simrec.open("shop"), stress=True, progress=lambda *report: reports.append(report))
    count = 40 * len(PERTURBATIONS)
    for stage, total in (("reading", 40), ("encoding", 40), ("stress", count)):
        done = [one[1:] for one in reports if one[0] == stage]
        assert done == sorted(done) and done[-1] == (total, total)
    assert len({done for stage, done, _ in reports if stage == "stress"}) == len(PERTURBATIONS)


def test_an_evaluation_says_how_pictures_that_were_moved_are_found(photos: Path) -> None:
    simrec.build("shop", str(photos), encoder="demo")
    photos.rename(photos.parent / "elsewhere")
    with pytest.raises(DataError, match="'simrec index sync shop --root FOLDER'"):
        simrec.evaluate(simrec.open("shop"))
    answer("index", "sync", "shop", "--root", str(photos.parent / "elsewhere"))
    assert simrec.evaluate(simrec.open("shop")).queries == 40


def test_stress_perturbs_the_queries_and_hurts_raw_pixels_more(photos: Path) -> None:
    simrec.build("PCA", str(photos), encoder="demo")  # a row beside it has that name too
    evaluation = json.loads(answer("evaluate", "PCA", "--stress", "--format", "json"))[0]
    assert [row["name"] for row in evaluation["rows"]] == ["PCA", "  as int8", "  as binary", "raw pixels", "PCA"]
    assert [row["bytes"] for row in evaluation["rows"]] == [256, 64, 8, 784, 156]  # of 40 pictures
    rows = evaluation["stress"]
    assert [row["name"] for row in rows] == ["as they are", *PERTURBATIONS]
    lost = {name: sum(rows[0][name] - row[name] for row in rows) for name in ("PCA", "raw pixels")}
    assert lost["PCA"] < lost["raw pixels"]
    printed = answer("evaluate", "PCA", "--stress")
    assert "P@10 by class" in printed
    assert "darkened by 40 %" in printed


@pytest.mark.parametrize("dtype", ["int8", "binary"])
def test_a_catalogue_can_be_kept_small(photos: Path, demo: Recommender, dtype: str) -> None:
    answer("index", "build", "small", str(photos), "--encoder", "demo", "--dtype", dtype)
    small = simrec.open("small")
    assert not any("lengths" in name for name in small.manifest.files)
    query = next(photos.glob("Bag/*.png"))
    assert small.similar(query, 5)[0].label == "Bag"
    assert all(0 <= match.score <= 1 for match in small.similar(query, 5))
    assert small.codes.shape == (40, demo.manifest.encoder.dim)
    answer("export", "small", "-o", "small.npy")
    assert np.array_equal(np.load("small.npy"), small.codes)
    assert json.loads(answer("evaluate", "small", "--format", "json"))[0]["rows"][0]["P@10"] > 0.5
    answer("index", "build", "small")  # as it was kept before
    assert json.loads(answer("index", "show", "small", "--format", "json"))["catalogue"]["dtype"] == dtype


def test_a_folder_without_labels_is_evaluated_by_reconstruction_alone(photos: Path) -> None:
    flat = photos.parent / "flat"
    flat.mkdir()
    for file in photos.rglob("*.png"):
        file.rename(flat / file.name)
    evaluation = simrec.evaluate(simrec.build("flat", str(flat), encoder="demo"))
    assert (evaluation.how, evaluation.near_duplicates) == ("reconstruction", None)
    assert "P@10" not in evaluation.rows[0]
    assert evaluation.rows[0]["MSE"] > 0


def test_list_and_show_say_what_is_there(photos: Path) -> None:
    simrec.build("mine", str(photos), encoder="demo")
    listed = json.loads(answer("index", "list", "--format", "json"))
    assert [row["name"] for row in listed] == ["mine", *library.SHIPPED]
    assert listed[0]["catalogue"]["count"] == 40
    assert listed[1]["catalogue"]["count"] == 10_000
    assert "10,000" in answer("index", "list")
    assert json.loads(answer("index", "show", "demo", "--format", "json"))["encoder"]["command"].startswith("simrec ")
    assert "60,000 pictures of fashion-mnist" in answer("index", "show", "mine")
    assert "encoder.digest" in answer("index", "show", "mine", "--all")


def test_the_public_api_is_importable_by_name() -> None:
    for name in simrec.__all__:
        assert getattr(simrec, name).__name__ == name


APP = """
from collections.abc import Sequence
from pathlib import Path

import simrec


def shown(names: list[str], paths: Sequence[Path], home: str) -> list[str]:
    recommender = simrec.open(Path(home) / "shop", home)
    simrec.build("other", paths[0], home_folder=home)
    simrec.add("other", paths[1])
    simrec.sync("other", paths[1], root=home)
    answers: list[simrec.Answer] = recommender.similar(names, 3) + recommender.similar(paths)
    one: simrec.Answer = recommender.similar(names[0], where="price < 20")
    mixed = recommender.similar([*names, *paths, b""])
    return [match.id for answer in [*answers, one, *mixed] for match in answer]
"""


@pytest.mark.long  # mypy reads all that simrec imports
def test_a_program_that_uses_simrec_can_be_checked_by_mypy(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "app.py"], capture_output=True, text=True, check=False
    )
    assert done.stdout == "Success: no issues found in 1 source file\n"


def test_the_package_says_that_it_has_types() -> None:
    assert (Path(simrec.__file__).parent / "py.typed").is_file()


@pytest.mark.parametrize("kind", [str, Path])
def test_a_place_may_be_a_text_or_a_path(kind: Any, photos: Path, tmp_path: Path) -> None:
    home = kind(tmp_path / "mine")
    context = simrec.Context(home=home, data_dir=kind(tmp_path))
    built = simrec.build("bags", kind(photos / "Bag"), encoder="demo", home_folder=home, data_dir=kind(tmp_path))
    assert simrec.add("bags", kind(photos / "Dress"), context=context).added == 10
    assert simrec.sync("bags", kind(photos / "Dress"), context=context).unchanged == 10
    (photos / "Bag").rename(tmp_path / "Bags")
    assert simrec.sync("bags", kind(photos / "Bag"), root=kind(tmp_path / "Bags"), context=context).unchanged == 10
    (tmp_path / "fields.csv").write_text(f"id,price\n{next((tmp_path / 'Bags').iterdir()).name},5\n")
    assert simrec.set_fields("bags", kind("fields.csv"), context=context).changed == 1
    for opened in (simrec.open("bags", home), simrec.open(kind(tmp_path / "mine" / "bags")), Recommender(built.folder)):
        assert len(opened.catalogue) == 20
        assert sum(1 for _ in opened.similar_to(kind(photos / "Sneaker"), 1, data_dir=kind(tmp_path))) == 10
    assert [one.name for one in simrec.listing(home)][0] == "bags"
    trained, _ = simrec.train("pca", source=kind(tmp_path / "Bags"), data_dir=kind(tmp_path), home_folder=home)
    assert trained.folder == tmp_path / "mine" / "pca"
    assert simrec.verify("bags", home_folder=home).items == 20
    assert simrec.history("bags", home_folder=home)[0].items == 20


def test_what_is_no_place_is_refused_with_what_is_taken(photos: Path) -> None:
    refused: list[Callable[[], Any]] = [
        lambda: simrec.build("mine", ["a.jpg"]),  # type: ignore[arg-type]
        lambda: simrec.add("mine", ["a.jpg"]),  # type: ignore[arg-type]
        lambda: simrec.open(["mine"]),  # type: ignore[arg-type]
        lambda: simrec.open("mine", ["home"]),  # type: ignore[arg-type]
        lambda: simrec.train("pca", source=["a.jpg"]),  # type: ignore[arg-type]
    ]
    simrec.build("mine", photos, encoder="demo")
    for call in refused:
        with pytest.raises(RequestError, match="^list is not a (source|recommender|home): give one text or path$"):
            call()
    with pytest.raises(RequestError, match="'12': give ids as a list, such as \\['12'\\]"):
        simrec.remove("mine", "12")


def test_a_recommender_says_what_it_is(demo: Recommender) -> None:
    assert repr(demo) == f"<Recommender demo: 10,000 items, encoder {demo.manifest.encoder.title}>"
    assert "photo: no catalogue, encoder photo/" in repr(simrec.open("photo"))


def test_a_pickled_recommender_opens_the_newest_generation(photos: Path, own_home: Path) -> None:
    built = simrec.open(simrec.build("mine", photos / "Bag", encoder="demo").name)
    pickled, deep = pickle.dumps(built), deepcopy(built)
    simrec.add("mine", photos / "Dress")
    assert len(pickle.loads(pickled).catalogue) == 20
    assert [len(one.catalogue) for one in (built, deep, copy(built), built.pinned())] == [10] * 4
    assert pickle.loads(pickled)._home.is_absolute()


# What Python callers have of a picture, and many of them at once.


def test_a_picture_in_any_form_is_looked_up_the_same(demo: Recommender, shoe: Path) -> None:
    picture = Image.open(shoe)
    pixels = np.asarray(picture)
    with shoe.open("rb") as file:
        asked = [str(shoe), shoe, shoe.read_bytes(), file, picture, pixels, pixels[:, :, np.newaxis], demo.read(shoe)]
        answers = [[match.id for match in demo.similar(one, 6)] for one in asked]
    others = [[id_ for id_ in answer if id_ != "test/00000"][:5] for answer in answers]
    assert others == [others[0]] * len(asked)
    # The data set's items have the digest of their pixels: the same array is an exact copy, a file of it is none.
    assert ["test/00000" in answer for answer in answers] == [True] * 4 + [False] * 3 + [True]


def test_a_list_of_arrays_is_answered_like_each_array_by_itself(demo: Recommender) -> None:
    first, *others = demo.originals(demo.catalogue.at(range(4)))
    asked = [first, *(np.asfortranarray(other[:, :, 0]) for other in others)]
    for with_copies in (False, True):
        read = demo._now.reader.read(asked, with_copies=with_copies)
        by_itself = [demo.read(one, with_copies=with_copies) for one in asked]
        assert [query.own for query in read] == [query.own for query in by_itself]
        assert [query.copies for query in read] == [query.copies for query in by_itself]
        assert all(np.array_equal(one.images, other.images) for one, other in zip(read, by_itself, strict=True))
    assert "test/00000" in demo.read(first).own
    alone = [demo.similar(one, 5) for one in asked]
    for matches, expected in zip(demo.similar(asked, 5), alone, strict=True):
        assert [match.id for match in matches] == [match.id for match in expected]
        assert [match.distance for match in matches] == pytest.approx([m.distance for m in expected], abs=1e-5)


def test_a_code_is_looked_up_as_its_picture_is(demo: Recommender, shoe: Path) -> None:
    query = demo.read(shoe)
    (code,) = demo.encode(demo.images(query))
    assert [match.id for match in demo.similar(code, 5)] == [match.id for match in demo.similar(shoe, 5)]
    assert demo.similar([code, code.reshape(1, -1)], 5)[1] == demo.similar(code, 5)
    assert demo.similar(code.astype(np.float64), 5) == demo.similar(code, 5)
    assert demo.similar(deque([code]), 5) == [demo.similar(code, 5)]
    with pytest.raises(RequestError, match="a code has no picture"):
        demo.images(demo.read(code))


def test_an_exact_copy_has_the_bytes_of_its_file(photos: Path, tmp_path: Path) -> None:
    first = next((photos / "Bag").glob("*.png"))
    (photos / "Bag" / "copy.png").write_bytes(first.read_bytes())
    Image.open(first).save(photos / "Bag" / "saved-again.png", compress_level=0)
    built = simrec.build("mine", str(photos), encoder="demo")
    for query in (f"id:Bag/{first.name}", first, first.read_bytes()):
        read = built.read(query)
        assert read.copies == 1
        found = [match.id for match in built.similar(read, 3)]
        assert found[0] == "Bag/saved-again.png"
        assert not {f"Bag/{first.name}", "Bag/copy.png"} & set(found)
    with_copies = built.read(first, with_copies=True)
    assert {match.id for match in built.similar(with_copies, 3)} == {
        f"Bag/{first.name}", "Bag/copy.png", "Bag/saved-again.png",
    }  # fmt: skip


def test_a_list_is_one_batch_and_answered_one_by_one(demo: Recommender, shoe: Path) -> None:
    asked = [shoe, "id:test/00042", shoe.read_bytes()]
    together = demo.similar(asked, 4)
    apart = [demo.similar(one, 4) for one in asked]
    assert [[match.id for match in some] for some in together] == [[match.id for match in some] for some in apart]
    assert demo.similar([], 4) == []


@pytest.mark.parametrize(
    "query", [5, None, {"shoe.png"}, 1.5, np.zeros((4, 4)), np.zeros((2, 3, 4, 5), np.uint8), Item("a", "shoe.png")]
)
def test_an_invalid_query_is_refused_and_the_error_says_what_is_possible(demo: Recommender, query: object) -> None:
    with pytest.raises(RequestError, match="give"):
        demo.similar(query)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    "query", [np.zeros((0, 5), np.uint8), np.zeros((5, 0, 3), np.uint8), Image.new("F", (3, 3), float("nan"))]
)
def test_a_picture_without_pixels_or_without_numbers_is_one_clear_error(demo: Recommender, query: object) -> None:
    with pytest.raises(ImageError, match="the (array|picture): "):
        demo.similar(query)  # type: ignore[call-overload]


@pytest.mark.parametrize("n", [0, -1, 2.5, "3", True])
def test_asking_for_less_than_one_item_is_an_error(demo: Recommender, shoe: Path, n: object) -> None:
    with pytest.raises(RequestError, match="a whole number from 1 on"):
        demo.similar(shoe, n)  # type: ignore[call-overload]


def test_images_that_arent_an_array_are_not_blamed_on_the_encoder(demo: Recommender) -> None:
    with pytest.raises(RequestError, match="encode takes images as an array"):
        demo.encode("x.jpg")  # type: ignore[arg-type]


def test_one_recommender_answers_eight_threads_as_it_answers_one(demo: Recommender, pictures: Pictures) -> None:
    opened = Recommender(demo.folder)
    asked = [pictures.images[row, :, :, 0] for row in range(100)] + [f"id:test/{row:05d}" for row in range(100)]
    alone = [demo.similar(one, 5) for one in asked]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda one: opened.similar(one, 5), asked)) == alone


def test_a_closed_recommender_opens_again_what_it_needs(demo: Recommender, shoe: Path) -> None:
    with Recommender(demo.folder) as opened:
        first = opened.similar(shoe, 3)
    assert opened.similar(shoe, 3) == first


@pytest.fixture
def eight(photos: Path, own_home: Path) -> Path:
    """The folder of `mine`, a catalogue of eight segments of different sizes."""
    simrec.build("mine", str(photos), encoder="demo")
    for number in range(1, 8):
        save(photos.parent / str(number), *range(100 * number, 100 * number + number))
        index.add("mine", str(photos.parent / str(number)))
    assert len(simrec.open("mine").segments.segments) == 8
    return own_home / "mine"


def open_below(folder: Path) -> list[str]:
    """The files below a folder that this process has open."""
    paths = []
    for handle in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the handle that lists them
            paths.append(handle.readlink())
    return [str(path) for path in paths if path.is_relative_to(folder)]


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Without Python's garbage collector."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


LINUX = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="other systems don't say what is open")


@LINUX
def test_a_closed_recommender_leaves_no_file_open(eight: Path, shoe: Path, no_collector: None) -> None:
    with Recommender(eight) as opened:
        found = [opened.similar(shoe, 3), opened.similar(shoe, 3, where="name > '0'")]
        assert opened.catalogue.picture(found[0][0].id) is not None
        assert len(open_below(eight)) > 40
    assert open_below(eight) == []
    assert found[0][0].id


@LINUX
def test_a_generation_that_was_replaced_is_closed_though_its_encoder_goes_on(
    eight: Path, shoe: Path, no_collector: None
) -> None:
    opened = Recommender(eight)
    opened.similar(shoe, 3)
    for number in (8, 9):
        save(eight.parents[1] / "7", 1000 + number)
        index.sync("mine")
        encoder = opened.encoder
        assert opened.refresh()
        assert opened.encoder is encoder
        opened.similar(shoe, 3)
        several = Counter(path for path in open_below(eight) if path.endswith("encoder.onnx"))
        assert list(several.values()) == [1]
    assert opened.reconstruct(np.zeros((1, 28, 28, 1), np.uint8)).shape == (1, 28, 28, 1)


@LINUX
def test_a_look_up_in_another_thread_ends_well_while_its_recommender_is_closed(eight: Path, shoe: Path) -> None:
    opened, ending = Recommender(eight), threading.Event()
    expected = opened.similar(shoe, 5)

    def look_up() -> int:
        count = 0
        while not ending.is_set():
            assert opened.similar(shoe, 5) == expected
            assert opened.catalogue.picture(expected[0].id) is not None
            count += 1
        return count

    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(look_up) for _ in range(4)]
        try:
            for _ in range(60):
                with opened:
                    opened.similar(shoe, 1)
        finally:
            ending.set()
        assert min(one.result() for one in running) > 0
    opened.__exit__()
    gc.collect()
    assert open_below(eight) == []


CROWDED = """
import gc, os, resource, sys
from pathlib import Path
import simrec
from simrec.errors import StoreError
home, query = Path(sys.argv[1]), sys.argv[2]
def look_up():
    with simrec.open("mine", home) as opened:
        opened.similar(query, 3)
        opened.similar(query, 3, where="name > '0'")
        opened.catalogue.picture(opened.catalogue.at([0])[0].id)
look_up()
gc.disable()
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
for _ in range(30):
    look_up()
print("good")
begun = len(os.listdir("/proc/self/fd"))
for limit in range(begun + 2, 120):
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, 256))
    said = "good"
    try:
        look_up()
    except StoreError as error:
        said = str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
    print(said)
print(len(os.listdir("/proc/self/fd")) - begun)
"""
"""Looks up in a process that may open few files."""


@LINUX
def test_too_many_open_files_are_never_called_damage(eight: Path) -> None:
    command = [sys.executable, "-c", CROWDED, str(eight.parent), "id:Bag/00018.png"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, *said, left = done.stdout.splitlines()
    assert (first, said[-1], left) == ("good", "good", "0")
    errors = [line for line in said if line != "good"]
    assert len(errors) > 40
    for line in errors:
        assert "Too many open files" in line
        assert "damaged" not in line
        assert line.endswith("or allow more open files with 'ulimit -n'")


def test_the_item_and_its_exact_copies_are_left_out_whichever_way_it_is_named(photos: Path) -> None:
    first = next(photos.rglob("*.png"))
    for name in ("copy-a.png", "copy-b.png"):
        (photos / name).write_bytes(first.read_bytes())
    simrec.build("copied", str(photos), encoder="demo")
    item = "id:" + first.relative_to(photos).as_posix()
    copies = {item[3:], "copy-a.png", "copy-b.png"}
    for query in (item, str(first)):
        result = CliRunner().invoke(cli, ["similar", query, "--index", "copied", "--format", "json", "-n", "39"])
        found = [match["id"] for match in json.loads(result.stdout)]
        assert len(found) == 39
        assert not copies & set(found)
        assert "2 exact copies in the catalogue left out (--with-copies shows them)" in result.stderr
        shown = json.loads(answer("similar", query, "--index", "copied", "--format", "json", "--with-copies"))
        assert {match["id"] for match in shown[:3]} >= copies - {query[3:]}


def test_paths_are_those_of_files_whatever_the_ids_are(photos: Path) -> None:
    paths = sorted(photos.rglob("*.png"))[:12]
    lines = [f"{path.relative_to(photos).as_posix()};sku-{row}" for row, path in enumerate(paths)]
    (photos / "items.csv").write_text("path;id\n" + "\n".join(lines) + "\n")
    simrec.build("listed", str(photos / "items.csv"), encoder="demo")
    printed = answer("similar", "id:sku-0", "--index", "listed", "--format", "paths").splitlines()
    assert len(printed) == 10
    assert all(Path(path).is_file() for path in printed)


def test_another_sources_catalogue_is_only_replaced_on_request(photos: Path) -> None:
    simrec.build("mine", str(photos), encoder="demo")
    with pytest.raises(StoreError, match="--replace"):
        simrec.build("mine", "fashion-mnist:small-test")
    assert simrec.build("mine", "fashion-mnist:small-test", replace=True).manifest.catalogue is not None
    before, after = simrec.open("mine").manifest.catalogue, simrec.build("mine").manifest.catalogue
    assert before is not None and after is not None
    assert replace(before, segments=after.segments) == after


def test_an_encoder_that_was_not_trained_yet_is_offered_to_be_trained(photos: Path) -> None:
    with pytest.raises(RequestError, match="run 'simrec train plain', or use the encoder of demo"):
        simrec.build("mine", str(photos), encoder="plain")
    with pytest.raises(RequestError, match="'simrec index build mine FOLDER' makes a new one from pictures"):
        simrec.build("mine")


def test_what_the_encoder_sees_can_be_drawn(photos: Path, shoe: Path) -> None:
    fed = simrec.open("demo").read(str(shoe)).images
    assert fed is not None
    answer("similar", str(shoe), "--show-input", "seen.png", "--format", "csv")
    large = np.kron(fed[0, :, :, 0], np.ones((4, 4), np.uint8))  # 28 pixels, enlarged by a whole factor
    with Image.open("seen.png") as sheet:
        drawn = np.asarray(sheet.convert("L"))
    windows = np.lib.stride_tricks.sliding_window_view(drawn, large.shape)
    assert (windows == large).all(axis=(2, 3)).any()
    answer("encode", str(photos), "--index", "demo", "-o", "codes.npy", "--show-input", "all.png")
    with Image.open("all.png") as sheet:
        assert sheet.height > len(drawn)


ENCODING = """
import time
import numpy as np
from simrec import library, onnx_encoder
from simrec.recommender import Recommender
onnx_encoder.SECONDS = 0.5
demo, images = Recommender(library.shipped() / "demo"), np.zeros((1000, 28, 28, 1), np.uint8)
demo.encode(images)
print("begun", flush=True)
ends = time.monotonic() + 6
while time.monotonic() < ends:
    demo.encode(images)
print("well", flush=True)
"""


@pytest.mark.long
def test_a_process_that_is_stopped_for_a_while_goes_on_encoding() -> None:
    with subprocess.Popen([sys.executable, "-c", ENCODING], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(4)  # longer than a piece of a batch may take
        process.send_signal(signal.SIGCONT)
        assert process.stdout.read() == "well\n"


def test_what_is_no_query_is_refused_with_what_is_taken(demo: simrec.Recommender, shoe: Path, tmp_path: Path) -> None:
    def refused(query: Any, n: Any = 2) -> str:
        with pytest.raises(RequestError) as error:
            demo.similar(query, n)
        return str(error.value)

    with shoe.open("rb") as closed:
        pass
    assert refused(closed) == (
        "the open file: cannot be read (read of closed file): open it for reading, in binary mode"
    )
    with (tmp_path / "new.png").open("wb") as writable:
        assert "open it for reading" in refused(writable)
    (written := io.BytesIO()).write(shoe.read_bytes())
    assert refused(written) == "the open file: is at its end, with nothing left to read: go back with seek(0)"
    written.seek(0)
    assert demo.similar(written)
    assert refused("") == "an empty text is no picture: give the path of a picture file, or 'id:ITEM'"
    assert refused(demo.codes[:3]) == (
        "an array float32 (3, 64) is several codes, not a query: give a list of them, as list(codes) makes it"
    )
    assert refused(io.StringIO("text")) == "the open file: gives str, not bytes: open it in binary mode"
    for number in (np.nan, np.inf):
        assert refused(np.full(64, number, np.float32)).startswith("a code has numbers that are infinite or NaN")
    assert "n is a whole number" in refused(shoe, 10**30)
    with pytest.raises(TypeError, match="there is no wish 'less', only where, .* `combined` several pictures"):
        demo.similar(shoe, 2, less=[shoe])  # type: ignore[call-arg]


def test_anything_that_is_a_path_bytes_or_a_whole_number_is_taken(demo: simrec.Recommender, shoe: Path) -> None:
    class Place:
        def __fspath__(self) -> str:
            return str(shoe)

    expected = demo.similar(shoe, 2)
    for query in (Place(), memoryview(shoe.read_bytes())):
        assert [match.id for match in demo.similar(query, np.int64(2))] == [match.id for match in expected]  # type: ignore[arg-type, call-overload]


def test_a_shipped_encoder_without_a_catalogue_says_how_to_get_one(shoe: Path) -> None:
    with pytest.raises(RequestError, match="photo has only an encoder: run 'simrec index build NEW FOLDER --encoder p"):
        simrec.open("photo").similar(shoe)
