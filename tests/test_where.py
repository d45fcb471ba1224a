"""Filters mean what they mean in SQL, whatever share matches; what isn't a filter is refused in one line."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import simrec
from simrec import store
from simrec.arrays import to_npy
from simrec.catalogue import LocalCatalogue, where
from simrec.catalogue.building import New
from simrec.catalogue.fields import kinds
from simrec.catalogue.writing import Kept, SegmentWriter
from simrec.cli import cli
from simrec.contracts import Codes, Dtype, Entry, ImageSpec, Value, masks
from simrec.contracts.filters import AllOf, Among, AnyOf, Compared, Empty
from simrec.errors import RequestError
from simrec.index import Index
from simrec.manifest import CatalogueRecord, ChangeRecord, EncoderRecord, Manifest, Results, SourceRecord, TrainedOn

DIM = 16

SEGMENTS = (700, 500, 300)

DTYPES: tuple[Dtype, ...] = get_args(Dtype)


# What SQL says: sqlite3 is the judge.

ROWS: list[dict[str, Value]] = [
    {"n": 1, "price": 1.5, "colour": "red", "title": "A Shoe", "shoe size": 40},
    {"n": 2, "price": None, "colour": "Red", "title": "a shoe", "shoe size": 41},
    {"n": None, "price": 20.0, "colour": None, "title": "it's 100%", "shoe size": None},
    {"n": -3, "price": 0.1, "colour": "blue", "title": "under_score", "shoe size": 39},
    {"n": 2**53 + 1, "price": 2.0**53, "colour": "", "title": "back\\slash", "shoe size": 42},
    {"n": 2**63 - 1, "price": 2.0**63, "colour": "é", "title": "two\nlines", "shoe size": 42},
    {"n": -(2**63), "price": -0.0, "colour": "ébène", "title": "a.b*c", "shoe size": 0},
]

KINDS = {**kinds(ROWS), "empty": None}

EXPRESSIONS = [
    "price < 20", "price <= 20", "price > 1", "price >= 1.5", "price = 20", "price <> 20", "price != 20",
    "n = 1", "n = 1.0", "n = 1.5", "n <> 1.5", "n < 1.5", "n <= 1.5", "n > 1.5", "n >= 1.5", "1.5 > n", "2 <= n",
    "n = -3", "n > -3.5", "n BETWEEN -3 AND 2", "n NOT BETWEEN -3 AND 2", "n BETWEEN price AND 5",
    "price = 0.1", "price < 0.1", "price = 0", "price IN (0, 1.5)", "price = -0.0",
    # Beyond 2**53, where doubles have gaps, and at the ends of 64 bits.
    "n = 9007199254740993", "n = 9007199254740992", "n > 9007199254740992.0", "n = 9007199254740992.0",
    "price = 9007199254740993", "price < 9007199254740993", "price >= 9007199254740993", "price > 9007199254740991",
    "n = 9223372036854775807", "n < 9223372036854775807", "n < 9223372036854775808", "n <= 1e19", "n > 1e19",
    "n = -9223372036854775808", "n >= -1e19", "price = 9223372036854775807", "price > 9223372036854775807",
    "n < price", "n > price", "n = price", "n <> price", "n <= price", "price >= n", "n = n", '"shoe size" < n',
    "n IN (1, 2, 9007199254740993)", "n IN (1.0, 2.5)", "n NOT IN (1, 2)", "n IN (1, NULL)", "n NOT IN (1, NULL)",
    "n IN (NULL)", "NOT n IN (1, NULL)",
    "colour = 'red'", "colour <> 'red'", "colour < 'c'", "colour >= 'red'", "colour = ''", "'red' = colour",
    "colour IN ('red', 'blue')", "colour NOT IN ('red', 'blue')", "colour IN ('red', NULL)", "colour < title",
    "colour = colour", "title = 'it''s 100%'", "colour BETWEEN 'b' AND 'e'",
    "title LIKE 'a shoe'", "title LIKE '%SHOE%'", "title LIKE 'a%'", "title NOT LIKE 'a%'", "title LIKE '%100%'",
    "title LIKE 'under_score'", "title LIKE '_____\\_____'", "title LIKE '%\\%'", "title LIKE 'two_lines'",
    "title LIKE 'two%'", "title LIKE 'a.b*c'", "title LIKE ''", "title LIKE '%%'", "colour LIKE '_'",
    "colour LIKE 'é%'", "colour LIKE '%'", "NOT colour LIKE 'r%'",
    "price IS NULL", "price IS NOT NULL", "NOT price IS NULL", "colour IS NULL OR price IS NULL",
    "NOT price < 20", "NOT (price < 20 AND colour = 'red')", "NOT NOT n = 1", "price < 20 OR colour = 'red'",
    "price < 20 AND colour = 'red' OR n = 2", "n = 2 OR price < 20 AND colour = 'red'",
    "NOT n = 1 AND price > 1", "n IN ((1), (-3))", "((n = (1)))", '"shoe size" > 40', '"n" = 1',
    "empty IS NULL", "empty = 1", "NOT empty = 1", "empty = 1 OR n = 1", "empty IN (1, 2)", "empty < price",
    "price < 20 and colour = 'red'", "n NOT NULL",
]  # fmt: skip


def columns_of(rows: Sequence[dict[str, Value]], names: dict[str, Any]) -> Callable[[str], Any]:
    """Rows as Arrow columns; texts as a dictionary if asked for."""
    types = {"int64": pa.int64(), "double": pa.float64(), "string": pa.string(), None: pa.int64()}
    arrays = {name: pa.array([row.get(name) for row in rows], types[kind]) for name, kind in names.items()}
    return arrays.__getitem__


def judged(rows: Sequence[dict[str, Value]], names: Sequence[str], expression: str) -> NDArray[np.bool_]:
    """The rows for which SQLite finds an expression true."""
    with sqlite3.connect(":memory:") as database:
        quoted = ", ".join(f'"{name}"' for name in names)
        database.execute(f"CREATE TABLE items ({quoted})")
        marks = ", ".join("?" * len(names))
        database.executemany(f"INSERT INTO items VALUES ({marks})", ([row.get(n) for n in names] for row in rows))
        found = database.execute(f"SELECT ({expression}) IS TRUE FROM items ORDER BY rowid").fetchall()
    database.close()
    return np.array([bool(value) for (value,) in found])


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_an_expression_means_what_sql_says(expression: str) -> None:
    expected = judged(ROWS, list(KINDS), expression)
    filter_ = where.parsed(expression, KINDS)
    plain = columns_of(ROWS, KINDS)
    assert filter_.mask(plain, len(ROWS)).tolist() == expected.tolist()

    def encoded(name: str) -> Any:
        column = plain(name)
        return pa.chunked_array([column.dictionary_encode() if column.type == pa.string() else column])

    assert filter_.mask(encoded, len(ROWS)).tolist() == expected.tolist()
    for_a_database = masks.fitted(filter_.condition, KINDS.get)
    assert masks.mask(for_a_database, plain, len(ROWS)).tolist() == expected.tolist()


def test_like_ignores_the_case_of_all_letters() -> None:
    """SQLite's LIKE ignores only the case of A to Z."""
    column = pa.array(["Ébène", "STRASSE", "ÄÖÜ", None])

    def mask(pattern: str) -> list[bool]:
        return where.parsed(f"c LIKE '{pattern}'", {"c": "string"}).mask(lambda _: column, 4).tolist()

    assert mask("ébÈne") == [True, False, False, False]
    assert mask("äö_") == [False, False, True, False]
    assert mask("straße") == [False] * 4


def test_a_parsed_filter_names_its_columns_and_has_no_not() -> None:
    names = {"order": "int64", "a b": "string", "id": "string"}
    filter_ = where.parsed("order < 2 AND \"a b\" IN ('x') OR NOT id IS NULL", names)
    assert filter_.columns == {"order", "a b", "id"}
    either = AllOf((Compared("order", "<", 2), Among("a b", ("x",)))), Empty("id", negated=True)
    assert filter_.condition == AnyOf(either)


def test_names_that_are_words_of_sql_are_columns_where_the_catalogue_has_them() -> None:
    words = ("order", "date", "case", "select", "true", "current_date", "interval", "desc", "escape", "größe")
    column = pa.array([1, 3])
    for word in words:
        assert where.parsed(f"{word} < 2", {word: "int64"}).mask(lambda _: column, 2).tolist() == [True, False]


REFUSED = [
    ("", "it is empty"),
    ("  ", "it is empty"),
    ("price <", "it cannot be read near '<'"),
    ("(price < 2", "it cannot be read"),
    ("price < 2)", "it cannot be read near ')'"),
    ("price < 2 colour = 'red'", "it cannot be read near 'colour'"),
    ("price", "is not a condition"),
    ("NOT price", "is not a condition"),
    ("1", "is not a condition"),
    ("price < 2 AND", "it cannot be read"),
    ("AND(n = 1, n = 2)", "AND has nothing before it"),
    ("n = 1 OR OR n = 2", "OR has nothing before it"),
    ("lower(colour) = 'red'", "lower( is a function, which isn't allowed"),
    ("price(1) = 1", "price( is a function"),
    ("count(*) > 1", "count( is a function"),
    ("n IN (SELECT n FROM items)", "a subquery isn't allowed"),
    ("(SELECT 1) = n", "a subquery isn't allowed"),
    ("n = 1; DROP TABLE items", "it has a semicolon"),
    ("n = 1;", "it has a semicolon"),
    ("n = 1 -- and more", "comments aren't allowed"),
    ("n = 1 /* and more */", "comments aren't allowed"),
    ("-- n = 1", "comments aren't allowed"),
    ("n + 1 = 2", "'+' isn't allowed"),
    ("n - 1 = 2", "isn't allowed"),
    ("n = 1 - 2", "isn't allowed"),
    ("n = .5", "write 0.5 with its zero"),
    ("items.n = 1", "no column 'items'"),
    ("n = ?", "'?' isn't allowed"),
    ("n = :n", "':' isn't allowed"),
    ("n::text = '1'", "'::' isn't allowed"),
    ("[n] = 1", "'[' isn't allowed"),
    ("colour || 'x' = 'y'", "'||' isn't allowed"),
    ("CASE WHEN n = 1 THEN 1 END = 1", "no column 'CASE'"),
    ("n = 0x10", "no column 'x10'"),
    ("colour = 'a' 'b'", "isn't allowed"),
    ("colour = 'open", "a quote isn't closed"),
    ('"colour = 1', "a quote isn't closed"),
    ("pirce < 20", "no column 'pirce': did you mean price?"),
    ("PRICE < 20", "no column 'PRICE': did you mean price?"),
    ("shoe < 40", "no column 'shoe': did you mean \"shoe size\"?"),
    ('colour = "shoe"', "a text stands in single quotes: 'shoe'"),
    ("colour = crimson", "a text stands in single quotes: 'crimson'"),
    ("weight < 20", "no column 'weight': there is colour, empty, n, price, shoe size, title"),
    ("price < '20'", "price holds numbers and '20' is a text"),
    ("colour = 3", "colour holds texts and 3 is a number: write '3' in single quotes"),
    ("colour IN (3)", "colour holds texts and 3 is a number: write '3' in single quotes"),
    ("colour < 3", "colour holds texts and 3 is a number: make all values of colour numbers like 1234.50"),
    ("3 <= colour", "colour holds texts and 3 is a number: make all values of colour numbers like 1234.50"),
    ("colour BETWEEN 1 AND 3", "colour holds texts and 1 is a number: make all values of colour numbers"),
    ("n IN (1, 'x')", "n holds numbers and 'x' is a text"),
    ("n BETWEEN 1 AND 'x'", "n holds numbers and 'x' is a text"),
    ("colour < n", "one of colour and n holds numbers, the other texts"),
    ("n LIKE '1%'", "LIKE compares a column of texts"),
    ("colour LIKE 3", "LIKE compares a column of texts"),
    ("colour LIKE title", "is not a value"),
    ("colour LIKE '10!%' ESCAPE '!'", "ESCAPE isn't allowed"),
    ("n = NULL", "write IS NULL or IS NOT NULL"),
    ("n BETWEEN NULL AND 3", "write IS NULL or IS NOT NULL"),
    ("n IS 3", "IS goes with NULL"),
    ("n IS NOT 3", "IS goes with NULL"),
    ("n IN ()", "IN goes with a list of values"),
    ("n IN 3", "IN has something that isn't allowed"),
    ("n IN (1, price)", "is not a value"),
    ("1 IN (1, 2)", "is not a column"),
    ("1 = 1", "is not a column"),
    ("n < 1 < 2", "is not a column"),
    ("n = -'x'", "is not a value"),
    ("n = - -1", "is not a value"),
    ("n = 1e999", "larger than numbers can be"),
    ("n = 1e", "is not a number"),
    ("(n, price) = (1, 2)", "isn't allowed"),
    ("n = \x00", "isn't allowed"),
    ("n = 1 \ud800", "isn't allowed"),
    ("n = 1" + " " * 10_000, "10,000 is the limit"),
    ("(" * 4_900 + "n = 1" + ")" * 4_900, "nested deeper than 20 levels"),
    ("NOT " * 2_000 + "n = 1", "nested deeper than 20 levels"),
    ("n = " + "- " * 4_000 + "1", "nested deeper than 20 levels"),
    ("NOT (" * 15 + "n = 1" + ")" * 15, "nested deeper than 20 levels"),
    (" OR ".join(["n = 1"] * 1_000), "more than 200 comparisons"),
    ("colour LIKE '" + "%a" * 1_000 + "'", "500 is the limit"),
]


@pytest.mark.parametrize(("expression", "found"), REFUSED, ids=[text[:30] for text, _ in REFUSED])
def test_an_invalid_filter_is_refused_in_one_line(expression: str, found: str) -> None:
    begun = time.perf_counter()
    with pytest.raises(RequestError) as raised:
        where.parsed(expression, KINDS)
    assert time.perf_counter() - begun < 1
    message = str(raised.value)
    assert found in message
    assert message.startswith("filter ")
    assert message.isprintable()
    assert len(message) < 400


def test_an_expression_of_the_maximum_length_and_depth_works() -> None:
    column = pa.array([1, 2])
    deep = "(" * 19 + "n = 1" + ")" * 19
    long = " OR ".join(["n = 1"] * 200)
    wide = f"n IN ({', '.join(['1'] * 3_000)})"
    for expression in (deep, long, wide):
        assert where.parsed(expression, {"n": "int64"}).mask(lambda _: column, 2).tolist() == [True, False]


# In catalogues.


@dataclass
class Shop:
    """A catalogue and its contents: rows of all segments with `id`, their codes, and whether they are still there."""

    catalogue: LocalCatalogue
    rows: list[dict[str, Value]]
    codes: Codes
    there: NDArray[np.bool_]

    @property
    def names(self) -> list[str]:
        return list(self.catalogue.kinds)


def manifest(catalogue: CatalogueRecord) -> Manifest:
    record = EncoderRecord(
        name="plain", provider="simrec 0", factory="simrec_plain.model:Plain", runtime="onnx", metric="cosine",
        dim=DIM, input=ImageSpec(), preset="default", settings={}, seed=0, decodes=True, digest="0" * 64,
        trained_on=TrainedOn("fashion-mnist", 60_000, "0" * 64), results=Results(1, 1, "finished", 0.1, 0.1, 1.0),
        command="a test", folder="encoder/00000001",
    )  # fmt: skip
    return Manifest.new(record, catalogue, ChangeRecord("index.build"))


def made(folder: Path, dtype: Dtype, segments: Sequence[list[dict[str, Value]]], codes: Codes, share: float) -> Shop:
    """A catalogue of those segments' rows, a share of them removed; everything except id and label is a field."""
    rng = np.random.default_rng(3)
    records, there, start = [], np.ones(len(codes), np.bool_), 0
    with store.Writer(folder) as writer:
        writer.write("encoder/00000001/encoder.onnx", b"graph")
        for rows in segments:
            fields = [{name: value for name, value in row.items() if name not in ("id", "label")} for row in rows]
            count = len(rows)
            one = SegmentWriter(writer, Kept(DIM, "cosine", dtype, codes, kinds(fields), [None]))
            entries = [
                Entry(str(row["id"]), "shop", str(row["label"] or ""), fields=field)
                for row, field in zip(rows, fields, strict=True)
            ]
            one.add(New(entries, [0] * count, ["0" * 32] * count, [b"preview"] * count, codes[start : start + count]))
            removed = np.flatnonzero(rng.random(count) < share).astype(np.int64)
            there[start + removed] = False
            name = f"{writer.new('removed')}.npy"
            writer.write(name, to_npy(removed))
            records.append(replace(one.finish(), removed=name))
            start += count
        source = SourceRecord("shop", None, None, False)
        writer.commit(manifest(CatalogueRecord((source,), int(there.sum()), True, "0" * 64, dtype, tuple(records))))
    rows = [row for some in segments for row in some]
    return Shop(LocalCatalogue(store.current(folder)), rows, codes, there)


def stock() -> list[list[dict[str, Value]]]:
    """Rows of three segments: with gaps everywhere, numbers that are whole in one and decimal in another, a column that
    one lacks, one of texts in one segment and of numbers in another, and `u`, which is different for every row.
    """
    rng = np.random.default_rng(7)
    ranks = iter(rng.permutation(sum(SEGMENTS)).tolist())
    texts = ["red", "Red", "blue", "dark blue", "é", "10%", "a_b", "", "back\\slash"]
    large = [2**53 - 1, 2**53, 2**53 + 1, 2**63 - 1, -(2**63), 0, 1, -1]

    def maybe(value: Value, gaps: float = 0.15) -> Value:
        return None if rng.random() < gaps else value

    segments = []
    for segment, count in enumerate(SEGMENTS):
        rows = []
        for row in range(count):
            price = int(rng.integers(0, 50)) if segment == 1 else float(rng.integers(0, 500)) / 10
            values: dict[str, Value] = {
                "id": f"item {segment}/{row:04d}",
                "label": maybe(str(rng.choice(["shoes", "bags", "hats"])), 0.3),
                "u": next(ranks),
                "price": maybe(price),
                "n": maybe(large[int(rng.integers(len(large)))] if rng.random() < 0.3 else int(rng.integers(-9, 9))),
                "shoe size": maybe(float(rng.choice([2.0**53, 38.5, 40.0, 0.1])), 0.5),
                "code": maybe(f"x{row % 7}" if segment == 2 else row % 7),
                "empty": None,
            }
            if segment != 1:
                values["colour"] = maybe(texts[int(rng.integers(len(texts)))])
            rows.append(values)
        segments.append(rows)
    return segments


@pytest.fixture(scope="module")
def shops(tmp_path_factory: pytest.TempPathFactory) -> list[Shop]:
    """The stock with codes of each dtype, a tenth of it removed."""
    codes = np.random.default_rng(5).standard_normal((sum(SEGMENTS), DIM)).astype(np.float32)
    folder = tmp_path_factory.mktemp("home")
    return [made(folder / dtype, dtype, stock(), codes, 0.1) for dtype in DTYPES]


def as_texts(shop: Shop) -> list[dict[str, Value]]:
    """The rows as the catalogue has them: a column of numbers and texts becomes texts."""
    texts = [name for name, kind in shop.catalogue.kinds.items() if kind == "string"]
    return [
        {name: str(value) if name in texts and value is not None else value for name, value in row.items()}
        for row in shop.rows
    ]


def check(shop: Shop, expression: str, queries: Codes, n: int = 10) -> float:
    """Compares what is found with a search of everything, filtered afterwards; returns the share that matches."""
    wanted = judged(as_texts(shop), shop.names, expression) & shop.there
    masks = shop.catalogue.masks(expression)
    assert (np.concatenate(masks) & shop.there).tolist() == wanted.tolist()
    everything = Index(shop.codes, "cosine", shop.catalogue.record.dtype)
    answers = shop.catalogue.search(queries, n, where=expression)
    for row, answer in enumerate(answers):
        rows, distances = everything.search(queries[row : row + 1], len(shop.codes))
        kept = wanted[rows[0]]
        expected = dict(zip((shop.rows[number]["id"] for number in rows[0][kept]), distances[0][kept], strict=True))
        assert len(answer) == min(n, wanted.sum())
        assert len({hit.item.id for hit in answer}) == len(answer)
        assert [hit.distance for hit in answer] == sorted(hit.distance for hit in answer)
        np.testing.assert_allclose([hit.distance for hit in answer], list(expected.values())[: len(answer)], atol=1e-5)
        for hit in answer:  # of those that are as near as each other any will do, but each with its own distance
            assert abs(hit.distance - expected[hit.item.id]) <= 1e-5
    return float(wanted.sum() / shop.there.sum())


@pytest.mark.parametrize("place", range(len(DTYPES)), ids=DTYPES)
@pytest.mark.parametrize(
    "expression",
    [
        "u = 3", "u < 10", "u < 40", "u < 700", "u >= 0", "u < 0", "colour = 'red'", "colour IS NULL",
        "price < 20.5 AND label IN ('shoes', 'bags')", "code = '3' OR code = 'x3'", "id LIKE 'item 2/00%'",
        "label IS NULL", "NOT label = 'hats'", "empty IS NULL", "empty = 'x' OR empty = 3", "price = n",
    ],
)  # fmt: skip
def test_what_is_found_is_what_a_search_of_everything_filtered_afterwards_finds(
    shops: list[Shop], place: int, expression: str
) -> None:
    shop = shops[place]
    check(shop, expression, shop.codes[:2] + np.float32(0.01))


def test_ids_left_out_of_an_answer_do_not_shorten_a_filtered_one(shops: list[Shop]) -> None:
    for shop in shops:
        first = [hit.item.id for hit in shop.catalogue.search(shop.codes[:1], 12, where="price < 20")[0]]
        left = shop.catalogue.search(shop.codes[:1], 10, where="price < 20", without=first[:2])[0]
        assert len(left) == 10
        assert not set(first[:2]) & {hit.item.id for hit in left}


def test_the_items_that_match_come_in_batches_with_their_codes(shops: list[Shop]) -> None:
    shop = shops[DTYPES.index("float32")]
    wanted = judged(as_texts(shop), shop.names, "price < 20") & shop.there
    batches = list(shop.catalogue.batches("price < 20"))
    assert [item.id for items, _ in batches for item in items] == [
        row["id"] for row, one in zip(shop.rows, wanted, strict=True) if one
    ]
    np.testing.assert_allclose(np.concatenate([codes for _, codes in batches]), shop.codes[wanted], atol=1e-5)
    assert sum(len(items) for items, _ in shop.catalogue.batches()) == shop.there.sum()


def test_a_catalogues_columns_are_those_of_all_its_segments(shops: list[Shop]) -> None:
    assert shops[0].catalogue.kinds == {
        "u": "int64", "price": "double", "n": "int64", "shoe size": "double", "code": "string", "empty": None,
        "colour": "string", "id": "string", "label": "string",
    }  # fmt: skip
    with pytest.raises(RequestError, match="did you mean price"):
        shops[0].catalogue.search(shops[0].codes[:1], 10, where="pric < 3")


# From the command line.


@pytest.fixture
def priced(photos: Path) -> str:
    """A recommender of 40 photos, each with a price; a tenth of them was removed again."""
    lines = [f"{path},{path.parent.name},{number}" for number, path in enumerate(sorted(photos.rglob("*.png")))]
    (photos / "items.csv").write_text("\n".join(["path,label,price", *lines]))
    simrec.build("mine", str(photos / "items.csv"), encoder="demo")
    (photos / "items.csv").write_text("\n".join(["path,label,price", *lines[4:]]))
    return simrec.build("mine", str(photos / "items.csv"), encoder="demo").name


def run(*words: str) -> Result:
    return CliRunner().invoke(cli, words, standalone_mode=False)


def test_only_matching_items_are_exported(priced: str, tmp_path: Path) -> None:
    done = run("export", priced, "--where", "price < 8 AND label = 'Bag'", "-o", str(tmp_path / "some.csv"))
    assert done.exit_code == 0
    lines = (tmp_path / "some.csv").read_text().splitlines()[1:]
    assert [line.split(",")[1] for line in lines] == ["Bag"] * 4  # of 0 to 7 the first four are gone


def test_an_evaluation_uses_only_matching_items(priced: str) -> None:
    """16 of 36 items are bags and dresses; each of their labels is equally likely to be found, and no other is."""
    done = run("evaluate", priced, "--where", "label IN ('Bag', 'Dress')", "--format", "json")
    assert done.exit_code == 0, done.output
    (evaluation,) = json.loads(done.stdout)
    assert evaluation["where"] == "label IN ('Bag', 'Dress')"
    assert (evaluation["catalogue"], evaluation["queries"], evaluation["how"]) == (16, 16, "leave-one-out")
    assert set(evaluation["rows"][0]["classes"]) == {"Bag", "Dress"}
    kept = simrec.open(priced).catalogue
    items = list(kept.all("label IN ('Bag', 'Dress')"))
    rows, _ = kept.chosen("label IN ('Bag', 'Dress')").search(np.concatenate([kept.code(item.id) for item in items]), 1)
    assert rows[:, 0].tolist() == list(range(16))
    whole = json.loads(run("evaluate", priced, "--format", "json").stdout)[0]
    assert (whole["catalogue"], whole["where"]) == (36, None)


@pytest.mark.long
def test_an_evaluation_asks_the_test_pictures_of_the_classes_that_match(own_home: Path) -> None:
    simrec.build("small", "fashion-mnist:small", encoder="demo")
    done = run("evaluate", "small", "--where", "label IN ('Bag', 'Sandal')", "--format", "json")
    (evaluation,) = json.loads(done.stdout)
    assert evaluation["how"] == "test"
    assert set(evaluation["rows"][0]["classes"]) == {"Bag", "Sandal"}
    assert 300 < evaluation["queries"] < 500
    assert evaluation["rows"][0]["P@10"] > 0.95


@pytest.mark.parametrize(
    "words", [["evaluate", "mine"], ["export", "mine", "-o", "all.csv"]], ids=["evaluate", "export"]
)
@pytest.mark.parametrize(
    ("expression", "found"),
    [("price > 1000", "no item matches"), ("prize > 1", "did you mean price?"), ("price > 'x'", "is a text")],
)
def test_a_filter_that_cannot_be_met_is_one_line(priced: str, words: list[str], expression: str, found: str) -> None:
    done = run(*words, "--where", expression)
    assert isinstance(done.exception, RequestError)
    assert found in str(done.exception)
    assert "\n" not in str(done.exception)
    assert not Path("all.csv").exists()


# Random expressions.

NUMBERS = ["price", "n", '"shoe size"', "u"]
TEXTS = ["colour", "code", "label", "id"]

numbers = st.one_of(
    st.integers(-12, 60).map(str),
    st.sampled_from(["0.1", "38.5", "20.05", "-0.5", "1e3", "40.0"]),
    st.sampled_from([2**53 - 1, 2**53, 2**53 + 1, 2**63 - 1, -(2**63), 2**64]).map(str),
    st.sampled_from(["9007199254740992.0", "9223372036854775808.0", "1e300"]),
)
texts = st.sampled_from(
    ["'red'", "'blue'", "'é'", "''", "'10%'", "'x3'", "'3'", "'shoes'", "'item 1/0100'", "'it''s'", "'back\\slash'"]
)
patterns = st.text("rRedbDa %_1\\é/0", max_size=8).map(lambda text: f"'{text}'")
comparators = st.sampled_from(["=", "<>", "!=", "<", "<=", ">", ">="])


def listed(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.lists(st.one_of(values, values, values, st.just("NULL")), min_size=1, max_size=4).map(", ".join)


def comparisons(columns: list[str], values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Comparisons of columns with one kind of values."""
    column, nots = st.sampled_from(columns), st.sampled_from(["", "NOT "])
    return st.one_of(
        st.tuples(column, comparators, values).map(" ".join),
        st.tuples(values, comparators, column).map(" ".join),
        st.tuples(column, comparators, column).map(" ".join),
        st.tuples(column, nots, listed(values)).map(lambda part: f"{part[0]} {part[1]}IN ({part[2]})"),
        st.tuples(column, nots, values, values).map(lambda p: f"{p[0]} {p[1]}BETWEEN {p[2]} AND {p[3]}"),
        st.tuples(column, nots).map(lambda part: f"{part[0]} IS {part[1]}NULL"),
    )


leaves = st.one_of(
    comparisons(NUMBERS, numbers),
    comparisons(TEXTS, texts),
    st.tuples(st.sampled_from(TEXTS), st.sampled_from(["LIKE", "NOT LIKE"]), patterns).map(" ".join),
    st.sampled_from(["empty IS NULL", "empty = 3", "NOT empty IN ('x', 'y')", "empty > price"]),
)  # fmt: skip

expressions = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["AND", "OR"]), inner).map(" ".join),
        inner.map(lambda text: f"({text})"),
        inner.map(lambda text: f"NOT ({text})"),
        leaves.map(lambda text: f"NOT {text}"),
    ),
    max_leaves=6,
)

SHARES = ("under 1 %", "between", "over half")


@pytest.mark.long
@pytest.mark.parametrize("share", SHARES)
def test_random_expressions_find_what_sqlite_and_a_search_of_everything_find(shops: list[Shop], share: str) -> None:
    """1,000 of them; in every third, `u`, which no two rows share, decides how many match."""
    total = sum(SEGMENTS)
    few, low, high, half = total // 150, int(total * 0.4), int(total * 0.45), int(total * 0.6)

    @settings(
        max_examples=334, deadline=None, database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )  # fmt: skip
    @given(expression=expressions, number=st.integers(0, total - 1), n=st.integers(1, 25))
    def holds(expression: str, number: int, n: int) -> None:
        whole = {
            "under 1 %": f"({expression}) AND u < {few}",
            "between": f"({expression}) AND u < {low} OR u BETWEEN {low} AND {high}",
            "over half": f"{expression} OR u < {half}",
        }[share]
        for shop in shops:
            found = check(shop, whole, shop.codes[number : number + 1] + np.float32(0.01), n)
            assert {"under 1 %": found < 0.01, "between": 0.01 <= found <= 0.5, "over half": found > 0.5}[share]

    holds()
