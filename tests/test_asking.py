"""Queries: parts, several pictures as one, filters, distinct and grouped answers, percentiles, whole folders."""

from __future__ import annotations

import csv
import io
import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import simrec
from simrec.answers import percentiles
from simrec.cli import main
from simrec.errors import ImageError, RequestError
from simrec.recommender import Recommender
from simrec.sources.load import Pictures


@dataclass(frozen=True)
class Done:
    """A finished command."""

    status: int
    stdout: str
    stderr: str


Run = Callable[..., Done]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command as the shell would."""

    def ended(*words: object) -> Done:
        with pytest.raises(SystemExit) as leaving:
            main([str(word) for word in words])
        return Done(int(leaving.value.code or 0), *capsys.readouterr())

    return ended


def answered_in(run: Run, *words: object) -> list[dict[str, object]]:
    """What `simrec similar` answers."""
    done = run("similar", *words, "--format", "json")
    assert done.status == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, pictures: Pictures) -> Path:
    """A home with the recommender `shop`: a list of 80 pictures, two of each product, with prices.

    The first trouser is there three times: as it is, as an exact copy, and as a JPEG.
    """
    folder = tmp_path_factory.mktemp("asking")
    stock = folder / "stock"
    stock.mkdir()
    rows = []
    labels = np.array(pictures.labels)
    for label in ("Trouser", "Bag", "Sneaker", "Dress"):
        for number, row in enumerate(np.flatnonzero(labels == label)[:20]):
            file = stock / f"{label}-{number:02d}.png"
            Image.fromarray(pictures.images[row, :, :, 0]).save(file)
            product = "" if number >= 18 else f"{label}-{number // 2}"
            rows.append([file.name, file.stem, label, product, 5 + len(rows) % 40])
    first = stock / "Trouser-00.png"
    (stock / "copy.png").write_bytes(first.read_bytes())
    Image.open(first).save(stock / "again.jpg", quality=90)
    rows += [["copy.png", "copy", "Trouser", "", 1], ["again.jpg", "again", "Trouser", "", 1]]
    with (stock / "list.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "id", "label", "product", "price"], *rows])
    simrec.build("shop", str(stock / "list.csv"), encoder="demo", home_folder=folder)
    return folder


@pytest.fixture
def shop(home: Path, monkeypatch: pytest.MonkeyPatch) -> Recommender:
    """The recommender, in a home of the test's."""
    monkeypatch.setenv("SIMREC_HOME", str(home))
    return simrec.open("shop")


@pytest.fixture
def stock(home: Path) -> Path:
    """The folder of its pictures."""
    return home / "stock"


def ids(matches: list[simrec.Match]) -> list[str]:
    return [match.id for match in matches]


@pytest.mark.parametrize("crop", ["112,84,140,112", (112, 84, 140, 112), "80%,75%,100%,100%"])
def test_a_part_of_a_picture_is_looked_up_as_if_it_were_cut_out(
    shop: Recommender, shoe: Path, tmp_path: Path, crop: str
) -> None:
    scene = Image.new("L", (140, 112), 255)
    scene.paste(Image.open(shoe), (112, 84))
    scene.save(tmp_path / "scene.png")
    part, alone = (shop.similar(shop.read(file, crop=c)) for file, c in ((tmp_path / "scene.png", crop), (shoe, None)))
    assert ids(part) == ids(alone)
    assert ids(shop.similar(tmp_path / "scene.png")) != ids(alone)


def test_a_part_is_counted_in_the_pixels_of_the_upright_picture(shop: Recommender, shoe: Path, tmp_path: Path) -> None:
    scene = Image.new("L", (200, 100))
    scene.paste(Image.open(shoe), (172, 0))
    turned = Image.Exif()
    turned[0x0112] = 6  # shown turned by 90 degrees, clockwise
    scene.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=turned)
    expected = ids(shop.similar(shoe))
    assert ids(shop.similar(shop.read(tmp_path / "turned.png", crop="172,0,200,28"))) == expected
    with Image.open(tmp_path / "turned.png") as picture:
        assert ids(shop.similar(shop.read(picture, crop="172,0,200,28"))) == expected


def test_a_part_of_a_large_photo_is_counted_in_its_own_pixels(shop: Recommender, shoe: Path, tmp_path: Path) -> None:
    scene = Image.new("L", (6000, 4000), 0)  # averaged down when it is read
    scene.paste(Image.open(shoe).resize((1400, 1400)), (4600, 2600))
    scene.save(tmp_path / "large.jpg", quality=95)
    found = shop.similar(shop.read(tmp_path / "large.jpg", crop=(4600, 2600, 6000, 4000)), 5)
    assert len(set(ids(found)) & set(ids(shop.similar(shoe, 5)))) >= 4


@pytest.mark.parametrize(
    ("crop", "says"),
    [
        ("0,0,29,28", "28 x 28 pixels"),
        ("5,0,5,28", "is empty"),
        ("0%,0%,101%,50%", "ends at 100 %"),
        ("0,0,50%,50%", "not a part of a picture"),
        ("-1,0,5,5", "not a part of a picture"),
        ("a", "not a part of a picture"),
    ],
)
def test_an_invalid_part_is_one_line(shop: Recommender, shoe: Path, crop: str, says: str, run: Run) -> None:
    with pytest.raises((RequestError, ImageError), match=says):
        shop.read(shoe, crop=crop)
    result = run("similar", shoe, "--index", "shop", "--crop", crop)
    assert result.status == 1
    assert [line for line in result.stderr.splitlines() if says in line]


def test_a_part_of_an_item_is_looked_up_as_that_part_of_its_file(shop: Recommender, home: Path, run: Run) -> None:
    for crop in ("0%,0%,50%,100%", "0,0,14,28"):
        part = shop.similar(shop.read("id:Bag-00", crop=crop))
        assert ids(part) == ids(shop.similar(shop.read(home / "stock" / "Bag-00.png", crop=crop)))
        assert ids(part) != ids(shop.similar("id:Bag-00"))
        printed = answered_in(run, "id:Bag-00", "--index", "shop", "--crop", crop)
        assert [one["id"] for one in printed] == ids(part)


def test_a_part_of_an_item_whose_file_is_not_the_users_is_cut_from_its_preview(home: Path, tmp_path: Path) -> None:
    shop = Recommender(home / "shop", home=tmp_path)  # a home that remembers no folder
    part = shop.read("id:Bag-00", crop="0%,0%,50%,100%")
    assert ids(shop.similar(part)) == ids(shop.similar(shop.read(home / "stock" / "Bag-00.png", crop="0,0,14,28")))
    assert part.own == {"Bag-00"}
    with pytest.raises(RequestError, match="give the part in per cent"):
        shop.read("id:Bag-00", crop="0,0,5,5")


def test_several_pictures_are_one_query_by_the_mean_of_their_directions(shop: Recommender, stock: Path) -> None:
    files = [stock / "Bag-00.png", stock / "Sneaker-00.png"]
    codes = np.concatenate([shop.encode(shop.read(file).images) for file in files])
    directions = codes / np.linalg.norm(codes, axis=1, keepdims=True)
    query = shop.combined(files, weights=[3, 1])
    np.testing.assert_allclose(query.code[0], directions.T @ [0.75, 0.25], atol=1e-6)
    by_ids = shop.combined(["id:Bag-00", "id:Sneaker-00"], weights=[3, 1])
    np.testing.assert_allclose(query.code, by_ids.code, atol=1e-5)


def test_a_query_turns_away_from_what_answers_should_not_look_like(shop: Recommender) -> None:
    both = shop.combined(["id:Bag-00", "id:Trouser-05"])
    less = shop.combined(["id:Bag-00", "id:Trouser-05"], less=["id:Trouser-07"])
    first, then = ([match.label for match in shop.similar(query, 20)] for query in (both, less))
    assert first.count("Trouser") > 2 * then.count("Trouser")
    assert then.count("Bag") >= first.count("Bag")


def test_all_pictures_of_a_combined_query_and_their_copies_are_left_out(shop: Recommender, stock: Path) -> None:
    query = shop.combined(["id:Trouser-00", stock / "Bag-01.png"], less=["id:Dress-03"])
    assert query.own == {"Trouser-00", "copy", "Bag-01", "Dress-03"}
    found = ids(shop.similar(query, 100))
    assert len(found) == 78
    assert not set(found) & query.own


def test_a_weight_follows_a_name_unless_a_file_has_that_name(
    shop: Recommender, stock: Path, shoe: Path, tmp_path: Path, run: Run
) -> None:
    bag, weighted = tmp_path / "bag.png", tmp_path / "bag.png*3"
    bag.write_bytes((stock / "Bag-00.png").read_bytes())
    heavy = [row["id"] for row in answered_in(run, "bag.png*3", shoe, "--together", "--index", "shop")]
    assert heavy == ids(shop.similar(shop.combined([bag, shoe], weights=[3, 1])))
    weighted.write_bytes((stock / "Dress-00.png").read_bytes())
    named = [row["id"] for row in answered_in(run, "bag.png*3", shoe, "--together", "--index", "shop")]
    assert named == ids(shop.similar(shop.combined([weighted, shoe])))


@pytest.mark.parametrize("words", [("bag*0", "x"), ("bag*1001", "x")])
def test_an_invalid_weight_is_one_line(shop: Recommender, words: tuple[str, str], run: Run) -> None:
    result = run("similar", *words, "--together", "--index", "shop")
    assert result.status == 1
    assert "a weight is a number above 0" in result.stderr


def test_a_weight_of_a_query_by_itself_is_refused_as_such(shop: Recommender, shoe: Path, stock: Path, run: Run) -> None:
    for query in (f"{stock / 'Bag-00.png'}*2", "id:Bag-00*2"):
        result = run("similar", shoe, query, "--index", "shop")
        assert result.status == 1
        assert f"{query}: queries have weights only together: add --together" in result.stderr


def test_a_weight_of_what_answers_should_not_look_like_is_refused_as_such(
    shop: Recommender, shoe: Path, stock: Path, run: Run
) -> None:
    bag = stock / "Bag-00.png"
    for less in ("id:Bag-00", bag):
        result = run("similar", shoe, "--less", f"{less}*0.5", "--index", "shop")
        assert result.status == 1
        assert f"{less}*0.5: only queries have weights" in result.stderr
        assert f"type --less {less}\n" in result.stderr
    assert "no item 'Beg*0.5'" in run("similar", shoe, "--less", "id:Beg*0.5", "--index", "shop").stderr
    Path("bag.png*2").write_bytes(bag.read_bytes())
    assert answered_in(run, shoe, "--less", "bag.png*2", "--index", "shop")


def test_a_filter_a_least_score_and_a_least_percentile_narrow_the_answer(
    shop: Recommender, shoe: Path, run: Run
) -> None:
    cheap = shop.similar(shoe, 10, where="price < 20")
    assert len(cheap) == 10
    assert all(match.fields["price"] < 20 for match in cheap)
    everything = shop.similar(shoe, 100)
    assert shop.similar(shoe, 100, min_score=0.9) == [match for match in everything if match.score >= 0.9]
    near = shop.similar("id:Trouser-01", 100, min_percentile=20)
    assert near == [match for match in shop.similar("id:Trouser-01", 100) if match.percentile >= 20]
    assert 0 < len(near) < 80
    assert answered_in(run, shoe, "--index", "shop", "--where", "price < 20", "-n", "3") == [
        match.to_json() | {"query": str(shoe)} for match in cheap[:3]
    ]


def test_near_duplicates_collapse_to_the_best_one_which_says_how_many(shop: Recommender) -> None:
    plain = shop.similar("id:Trouser-01", 100)
    distinct = shop.similar("id:Trouser-01", 100, distinct=True)
    assert {"Trouser-00", "copy", "again"} <= set(ids(plain))
    (kept,) = [match for match in distinct if match.id in ("Trouser-00", "copy", "again")]
    assert kept.alike == 2
    assert sum(match.alike for match in distinct) + len(distinct) == len(plain)
    first = shop.similar("id:Trouser-01", 10, distinct=True)
    assert [match.rank for match in first] == list(range(1, 11))
    assert plain[0].alike is None


def test_a_group_has_one_answer_and_items_without_a_group_stay_single(shop: Recommender) -> None:
    grouped = shop.similar("id:Dress-05", 100, group_by="product")
    products = [match.fields["product"] for match in grouped]
    named = [product for product in products if product]
    assert len(named) == len(set(named)) == 36  # the query's own product has another item
    assert products.count(None) == 10
    assert [match.rank for match in grouped] == list(range(1, 47))
    ten = shop.similar("id:Dress-05", 10, group_by="product")
    assert ids(ten) == ids(grouped)[:10]
    assert len(shop.similar("id:Dress-05", 10, group_by="label")) == 4
    both = shop.similar("id:Dress-05", 100, group_by="product", distinct=True, where="label = 'Trouser'")
    assert {match.label for match in both} == {"Trouser"}
    assert 9 <= len(both) < 13


def test_an_unknown_field_is_one_line_with_the_near_miss(shop: Recommender, shoe: Path, run: Run) -> None:
    for option in ("--group-by", "--show"):
        result = run("similar", shoe, "--index", "shop", option, "produkt")
        assert result.status == 1
        assert "did you mean 'product'?" in result.stderr


def test_a_percentile_is_the_share_of_the_items_whose_own_neighbour_is_farther(shop: Recommender, shoe: Path) -> None:
    _, distances = shop.index.search(shop.codes, 2)
    own = distances[:, 1]
    for match in shop.similar(shoe, 20):
        share = 100 * float((own > match.distance).mean())
        assert match.percentile == pytest.approx(share, abs=3)  # of 82 items, each is worth more than one per cent


def test_equal_and_extreme_distances_have_percentiles_too() -> None:
    shares = percentiles(np.array([0, 0, 0.5, 1, 1]), np.array([0, 0.25, 0.5, 1, 2], np.float32))
    assert shares.tolist() == [75, 62.5, 50, 0, 0]


def test_a_catalogue_too_small_to_measure_has_no_percentiles(shoe: Path, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    Image.new("L", (28, 28), 200).save(tmp_path / "one" / "grey.png")
    one = simrec.build("one", str(tmp_path / "one"), encoder="demo")
    assert [match.percentile for match in one.similar(shoe)] == [None]
    with pytest.raises(RequestError, match="no percentiles"):
        one.similar(shoe, min_percentile=50)


def test_a_notice_says_that_a_picture_looks_like_nothing_in_the_catalogue(
    shop: Recommender, stock: Path, tmp_path: Path, run: Run
) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (28, 28), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    assert "looks like nothing in the catalogue" in run("similar", "noise.png", "--index", "shop").stderr
    assert "looks like nothing" not in run("similar", "id:Bag-03", "--index", "shop").stderr


def test_fields_named_like_other_columns_keep_apart_from_them_in_csv(shoe: Path, stock: Path, run: Run) -> None:
    Path("list.csv").write_text(
        f"path,id,label,score,rank,source,field_rank,price\n{stock / 'Bag-00.png'},bag,Bag,77,5,warehouse,x,9\n"
    )
    simrec.build("odd", "list.csv", encoder="demo")
    (answer,) = answered_in(run, shoe, "--index", "odd")
    show = "score,rank,source,field_rank,price,price,id,label"
    text = run("similar", shoe, "--index", "odd", "--format", "csv", "--show", show).stdout
    header = text.splitlines()[0].split(",")
    assert header[-5:] == ["field_score", "field_field_rank", "field_source", "field_rank", "price"]
    assert len(set(header)) == len(header)
    (row,) = csv.DictReader(io.StringIO(text))
    assert (float(row["score"]), row["rank"], row["source"]) == (answer["score"], "1", answer["source"])
    assert [row[name] for name in header[-5:]] == ["77", "5", "warehouse", "x", "9"]
    printed = run("similar", shoe, "--index", "odd", "--format", "table", "--show", "score").stdout
    assert "field_score" in printed


@pytest.fixture
def queries(tmp_path: Path, pictures: Pictures) -> Path:
    """A folder of 30 pictures, and a file that isn't a picture."""
    folder = tmp_path / "queries"
    folder.mkdir()
    for row in range(100, 130):
        Image.fromarray(pictures.images[row, :, :, 0]).save(folder / f"{row}.png")
    (folder / "115b.png").write_bytes(b"no picture")
    return folder


def test_a_folder_is_looked_up_picture_by_picture_and_unreadable_ones_are_named_last(
    shop: Recommender, queries: Path, run: Run
) -> None:
    result = run("similar", queries, "--index", "shop", "-n", "2", "--format", "ndjson")
    assert result.status == 1
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["query"] for row in rows[::2]] == [f"{row}.png" for row in range(100, 130)]
    assert "115b.png: not a picture" in result.stderr
    one = shop.similar(queries / "107.png", 2)
    assert [row["id"] for row in rows if row["query"] == "107.png"] == ids(one)
    table = list(
        csv.DictReader(io.StringIO(run("similar", queries, "--index", "shop", "-n", "2", "--format", "csv").stdout))
    )
    assert [row["id"] for row in table] == [row["id"] for row in rows]
    whole = json.loads(run("similar", queries, "--index", "shop", "-n", "2", "--format", "json").stdout)
    assert whole == rows


@pytest.mark.parametrize(
    "words", [["--crop", "0%,0%,50%,100%"], ["--less", "id:Bag-03"], ["--together"]], ids=["part", "less", "together"]
)
@pytest.mark.parametrize("source", ["my queries", "tree", "queries.csv"])
def test_where_single_pictures_are_needed_the_error_says_what_to_type_and_that_works(
    shop: Recommender, queries: Path, stock: Path, run: Run, words: list[str], source: str
) -> None:
    (queries / "115b.png").unlink()
    Path("queries.csv").write_text("path\nmissing.png\nmy queries/100.png\n")
    Path("tree/bags").mkdir(parents=True)
    Path("tree/bags/a.png").write_bytes((stock / "Bag-00.png").read_bytes())
    queries.rename("my queries")
    refused = run("similar", source, "--index", "shop", *words)
    assert refused.status == 1
    _, remedy = refused.stderr.rstrip().split(": name them, for example ")
    command = f"printf '%s\\n' {remedy}"
    typed = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(typed) == {"my queries": 30, "tree": 1, "queries.csv": 1}[source]
    assert answered_in(run, *typed, "--index", "shop", *words)


def test_from_python_a_source_is_an_iterator_that_raises_at_its_end(shop: Recommender, queries: Path) -> None:
    answered = []
    with pytest.raises(ImageError, match="115b.png"):
        for query, matches in shop.similar_to(str(queries), 3):
            answered.append((query.name, len(matches)))
    assert answered == [(f"{row}.png", 3) for row in range(100, 130)]
    errors: list[ImageError] = []
    assert len(list(shop.similar_to(str(queries), 3, unreadable=errors.append))) == 30
    assert len(errors) == 1


def test_a_list_of_queries_answers_by_its_own_ids(shop: Recommender, queries: Path, run: Run) -> None:
    (queries / "list.csv").write_text("path,id\n100.png,first\n101.png,second\n")
    for text in (queries / "list.csv", f"list:{queries / 'list.csv'}"):
        assert [row["query"] for row in answered_in(run, text, "--index", "shop", "-n", "1")] == ["first", "second"]


def test_each_picture_of_an_indexed_folder_finds_the_others(shop: Recommender, stock: Path, run: Run) -> None:
    answered = {query.name: (query, ids(matches)) for query, matches in shop.similar_to(str(stock / "list.csv"), 82)}
    assert len(answered) == 82
    query, matches = answered["Trouser-00"]
    assert query.copies == 1
    assert not {"Trouser-00", "copy"} & set(matches)
    result = run("similar", stock / "list.csv", "--index", "shop", "-n", "1")
    assert "2 of" not in result.stderr
    assert "Trouser-00: 1 exact copy in the catalogue left out" in result.stderr


def test_arrays_in_a_batch_are_answered_as_their_files_are(shop: Recommender, queries: Path) -> None:
    files = [path for path in sorted(queries.glob("*.png")) if path.name != "115b.png"]
    arrays = [np.asarray(Image.open(file)) for file in files]
    assert [ids(matches) for matches in shop.similar(arrays, 5)] == [ids(shop.similar(array, 5)) for array in arrays]
    others = [shop.read(file, with_copies=True) for file in files]
    np.testing.assert_array_equal(np.stack(arrays), np.stack([query.images[0, :, :, 0] for query in others]))
    assert shop.similar([], 5) == []


def test_unknown_wishes_are_refused(shop: Recommender, shoe: Path) -> None:
    with pytest.raises(TypeError, match="min_scor"):
        shop.similar(shoe, 5, min_scor=1)  # type: ignore[call-arg]
