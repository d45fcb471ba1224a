"""Exported codes: every format holds the same ids and codes, describes them, and damage to it is found."""

from __future__ import annotations

import csv
import io
import json
import os
import secrets
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
from numpy.typing import NDArray
from PIL import Image

import simrec
from simrec import host
from simrec.catalogue.tables import named
from simrec.cli import main
from simrec.contracts import ExporterSpec, ExportRecord
from simrec.errors import DataError, PluginError, RequestError, VersionError
from simrec.exporters.content import Content
from simrec.recommender import Recommender
from simrec.verbs import index
from simrec.verbs.export import Wishes, encode, export
from simrec.verbs.verify import verify

BASE = ("parquet", "arrow", "npy", "npz", "csv", "jsonl", "safetensors", "faiss", "tsv")
"""The formats that need only the base installation, by their endings."""

Codes = NDArray[Any]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, pictures: Any) -> Recommender:
    """38 items in two segments, with fields, one with the name of an export's own column; two were removed."""
    folder = tmp_path_factory.mktemp("shop")
    rows = ["path,id,label,price,stock,code,title"]
    for number in range(40):
        Image.fromarray(pictures.images[number, :, :, 0]).save(folder / f"{number:02d}.png")
        title = ['"a ""shoe"", red"', "", "ébène\\t", '"[1,2]"'][number % 4]
        rows.append(
            f"{number:02d}.png,item {number},{'bag' if number % 3 else ''},{number}.5,{number},x{number},{title}"
        )
    (folder / "first.csv").write_text("\n".join(rows[:31]))
    (folder / "second.csv").write_text("\n".join([rows[0], *rows[31:]]).replace(",stock", ",count"))
    context = index.Context(home=folder / "home")
    simrec.build("shop", str(folder / "first.csv"), encoder="demo", home_folder=context.home)
    index.add("shop", str(folder / "second.csv"), context=context)
    index.remove("shop", ["item 3", "item 35"], context=context)
    return Recommender(folder / "home" / "shop")


@pytest.fixture(scope="module")
def expected(shop: Recommender) -> tuple[list[str], Codes]:
    """The ids and codes of the shop, from its own objects."""
    ids, codes = [], []
    for items, some in shop.catalogue.batches():
        ids += [item.id for item in items]
        codes.append(some)
    return ids, np.concatenate(codes)


def lines(path: Path) -> list[str]:
    """The lines as programs see them for which only a line feed ends a line."""
    return path.read_bytes().decode().removesuffix("\n").split("\n")


def json_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines(path)]


def read_csv(path: Path) -> tuple[list[str], Codes]:
    rows = list(csv.DictReader(io.StringIO(path.read_bytes().decode(), newline="")))
    dim = sum(name.startswith("code_") for name in rows[0])
    return [row["id"] for row in rows], np.array([[row[f"code_{n}"] for n in range(dim)] for row in rows], np.float32)


def read_faiss(path: Path) -> tuple[list[str], Codes]:
    found = faiss.read_index(str(path))
    ids = [row["id"] for row in json_lines(path.with_suffix(".items.jsonl"))]
    return ids, found.reconstruct_n(0, found.ntotal)


def read_tsv(path: Path) -> tuple[list[str], Codes]:
    rows = lines(path.with_suffix(".metadata.tsv"))
    return [row.split("\t")[0] for row in rows[1:]], np.loadtxt(path, np.float32, delimiter="\t", ndmin=2)


def read_table(table: pa.Table) -> tuple[list[str], Codes]:
    codes = table["code"].combine_chunks()
    return table["id"].to_pylist(), codes.flatten().to_numpy().reshape(len(table), -1)


def read_rows(rows: list[dict[str, Any]], codes: Codes) -> tuple[list[str], Codes]:
    return [row["id"] for row in rows], codes


READERS: dict[str, Callable[[Path], tuple[list[str], Codes]]] = {
    "parquet": lambda path: read_table(pq.read_table(path)),
    "arrow": lambda path: read_table(pa.ipc.open_file(path).read_all()),
    "npy": lambda path: read_rows(json_lines(path.with_suffix(".items.jsonl")), np.load(path)),
    "npz": lambda path: (np.load(path)["id"].tolist(), np.load(path)["code"]),
    "csv": read_csv,
    "jsonl": lambda path: read_rows(rows := json_lines(path), np.array([row["code"] for row in rows])),
    "safetensors": lambda path: read_rows(
        json_lines(path.with_suffix(".items.jsonl")), safetensors.numpy.load_file(path)["code"]
    ),
    "faiss": read_faiss,
    "tsv": read_tsv,
}
"""How the programs that a format is meant for read it."""


def said_of(path: Path) -> dict[str, Any]:
    """A file's metadata."""
    ending = path.suffix[1:]
    if ending == "parquet":
        return json.loads(pq.read_metadata(path).metadata[b"simrec"])
    if ending == "arrow":
        return json.loads(pa.ipc.open_file(path).schema.metadata[b"simrec"])
    if ending == "npz":
        return json.loads(np.load(path)["simrec.json"])
    if ending == "safetensors":
        with safetensors.safe_open(path, "numpy") as file:
            return json.loads(file.metadata()["simrec"])
    return json.loads(path.with_name(f"{path.name}.simrec.json").read_bytes())


# What a file holds, and says of itself.


@pytest.mark.parametrize("ending", BASE)
def test_a_format_holds_every_id_and_code_and_says_who_made_them(
    ending: str, shop: Recommender, expected: tuple[list[str], Codes], tmp_path: Path
) -> None:
    path = tmp_path / f"shop.{ending}"
    assert export(shop, path)[0] == path
    (ids, codes), said, encoder = READERS[ending](path), said_of(path), shop.manifest.encoder
    wanted = expected[1]
    if ending == "faiss":  # whose inner product is a cosine then
        wanted = wanted / np.linalg.norm(wanted, axis=1, keepdims=True)
    assert ids == expected[0]
    np.testing.assert_allclose(codes.astype(np.float32), wanted, rtol=1e-6 if ending == "faiss" else 0)
    assert (said["encoder"], said["encoder_digest"], said["metric"]) == (encoder.title, encoder.digest, "cosine")
    assert (said["count"], said["dim"], said["dtype"], said["scale"]) == (38, 64, "float32", None)
    assert said["normalised"] is (ending == "faiss")
    record = verify(path, shop)
    assert record.to_json() == said | {"columns": tuple(said["columns"])}


def test_the_digest_is_that_of_the_content_and_not_of_the_format(shop: Recommender, tmp_path: Path) -> None:
    digests = {said_of(export(shop, tmp_path / f"shop.{end}")[0])["digest"] for end in BASE if end != "faiss"}
    assert len(digests) == 1
    normalised = Wishes(normalize=True)
    digests = {said_of(export(shop, tmp_path / f"n.{end}", normalised)[0])["digest"] for end in ("npy", "faiss")}
    assert len(digests) == 1


def test_a_table_has_the_fields_under_names_of_their_own(shop: Recommender, tmp_path: Path) -> None:
    table = pq.read_table(export(shop, tmp_path / "shop.parquet")[0])
    fields = ["price", "stock", "field_code", "title", "width", "height"]
    assert table.schema.names[:3] == ["id", "label", "source"]
    assert set(table.schema.names[3:]) == {*fields, "count", "code"}
    items = list(shop.catalogue.all())
    for name, field in (("price", "price"), ("stock", "stock"), ("field_code", "code"), ("title", "title")):
        assert table[name].to_pylist() == [item.fields.get(field) for item in items]
    assert table["source"].to_pylist() == [item.source for item in items]
    assert str(table.schema.field("code").type) == "fixed_size_list<element: float>[64]"


def test_fields_with_the_names_of_columns_get_other_names() -> None:
    assert named(["id", "price", "field_id", "code_3"]) == {
        "field_field_id": "id",
        "price": "price",
        "field_id": "field_id",
        "field_code_3": "code_3",
    }


@pytest.mark.parametrize("ending", [ending for ending in BASE if ending not in ("faiss", "tsv")])
def test_columns_are_those_that_were_named_in_that_order(ending: str, shop: Recommender, tmp_path: Path) -> None:
    path = tmp_path / f"some.{ending}"
    export(shop, path, Wishes(columns=["price", "id", "code"], where="price < 10"))
    assert said_of(path)["columns"] == ["price", "id", "code"]
    assert verify(path).count == 9  # of 0 to 9 all but 3
    if ending in ("npy", "jsonl", "safetensors"):
        (first, *_) = json_lines(path if ending == "jsonl" else path.with_suffix(".items.jsonl"))
        assert list(first)[:2] == ["price", "id"]
        assert first["price"] == 0.5


def test_codes_alone_have_no_file_of_items_beside_them(shop: Recommender, tmp_path: Path) -> None:
    written = export(shop, tmp_path / "codes.npy", Wishes(columns=["code"]))
    assert [path.name for path in written] == ["codes.npy", "codes.npy.simrec.json"]
    assert verify(tmp_path / "codes.npy").columns == ("code",)


@pytest.mark.parametrize("ending", ["npy", "safetensors", "faiss"])
def test_items_beside_codes_are_replaced_only_by_the_same_items_or_export(
    ending: str, shop: Recommender, tmp_path: Path
) -> None:
    def held() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}

    path = tmp_path / f"x.{ending}"
    export(shop, path)
    export(shop, path, Wishes(where="label = 'bag'"))
    for other in {"npy", "safetensors", "faiss"} - {ending}:
        before = held()
        with pytest.raises(RequestError, match=rf"holds the items of x\.{ending}, .* name another .* x2\.{other}$"):
            export(shop, tmp_path / f"x.{other}")
        assert held() == before
        (written, *_) = export(shop, tmp_path / f"x.{other}", Wishes(columns=["code"]))  # which has no items
        export(shop, path, Wishes(where="label = 'bag'"))
        written.unlink()
    for same in ("npy", "safetensors", "faiss"):
        export(shop, tmp_path / f"x.{same}", Wishes(where="label = 'bag'"))
    (tmp_path / "v.items.jsonl").write_text("mine")
    with pytest.raises(RequestError, match=rf"v\.items\.jsonl: belongs to no v\.{ending} of simrec's .* name another"):
        export(shop, tmp_path / f"v.{ending}")
    assert (tmp_path / "v.items.jsonl").read_text() == "mine"


@pytest.mark.parametrize("dtype", ["float16", "int8"])
@pytest.mark.parametrize("ending", [ending for ending in BASE if ending != "faiss"])
def test_fewer_bits_are_what_the_file_says(
    ending: str, dtype: Any, shop: Recommender, expected: tuple[list[str], Codes], tmp_path: Path
) -> None:
    path = tmp_path / f"few.{ending}"
    export(shop, path, Wishes(dtype=dtype))
    (_, codes), said = READERS[ending](path), said_of(path)
    assert verify(path, shop).dtype == said["dtype"] == dtype
    if ending not in ("csv", "jsonl", "tsv"):
        assert np.asarray(codes).dtype == dtype
    again = codes.astype(np.float32) * np.float32(said["scale"] or 1)
    largest = np.abs(expected[1]).max()
    np.testing.assert_allclose(again, expected[1], atol=largest / (254 if dtype == "int8" else 2000))


def test_normalised_codes_have_a_length_of_1(shop: Recommender, tmp_path: Path) -> None:
    for dtype, tolerance in (("float32", 1e-6), ("float16", 1e-3), ("int8", 0.05)):
        export(shop, tmp_path / "one.npy", Wishes(normalize=True, dtype=dtype))  # type: ignore[arg-type]
        said = said_of(tmp_path / "one.npy")
        codes = np.load(tmp_path / "one.npy").astype(np.float32) * (said["scale"] or 1)
        np.testing.assert_allclose(np.linalg.norm(codes, axis=1), 1, atol=tolerance)
        assert said["normalised"]


def test_a_code_as_text_is_what_pgvector_reads(
    shop: Recommender, expected: tuple[list[str], Codes], tmp_path: Path
) -> None:
    path = tmp_path / "shop.csv"
    export(shop, path, Wishes(columns=["id", "code"], text=True))
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert all(row["code"].startswith("[") and row["code"].endswith("]") for row in rows)
    codes = np.array([row["code"][1:-1].split(",") for row in rows], np.float32)
    np.testing.assert_array_equal(codes, expected[1])
    assert verify(path).count == 38


def test_the_faiss_index_finds_what_simrec_finds(
    shop: Recommender, expected: tuple[list[str], Codes], tmp_path: Path
) -> None:
    found = faiss.read_index(str(export(shop, tmp_path / "shop.faiss")[0]))
    assert isinstance(found, faiss.IndexFlat) and found.metric_type == faiss.METRIC_INNER_PRODUCT
    query = expected[1][7:8] / np.linalg.norm(expected[1][7])
    scores, rows = found.search(query, 5)
    hits = shop.catalogue.search(expected[1][7:8], 5)[0]
    assert [expected[0][row] for row in rows[0]] == [hit.item.id for hit in hits]
    np.testing.assert_allclose(scores[0], [hit.score for hit in hits], atol=1e-6)


def test_previews_are_a_column_for_whoever_names_it(shop: Recommender, tmp_path: Path) -> None:
    path = export(shop, tmp_path / "shop.parquet", Wishes(columns=["id", "preview", "code"], where="price > 30"))[0]
    table = pq.read_table(path)
    assert len(table) == 9
    for row in table.to_pylist():
        assert Image.open(io.BytesIO(row["preview"])).size == (28, 28)
        assert row["preview"] == shop.catalogue.preview(row["id"])
    for ending in ("csv", "npz"):
        with pytest.raises(RequestError, match=r"preview: a \.\w+ holds numbers and texts"):
            export(shop, tmp_path / f"shop.{ending}", Wishes(columns=["preview", "code"]))


def test_the_projector_gets_a_config_a_sheet_of_previews_and_a_line_for_each_item(
    shop: Recommender, tmp_path: Path
) -> None:
    path = tmp_path / "shop.tsv"
    export(shop, path)
    config = (tmp_path / "projector_config.pbtxt").read_text()
    assert 'tensor_path: "shop.tsv"' in config
    assert config.count("single_image_dim: 28") == 2
    with Image.open(tmp_path / "shop.sprite.png") as sheet:
        assert sheet.size == (7 * 28, 6 * 28)  # 38 in rows of 7
        shown = sheet.crop((3 * 28, 28, 4 * 28, 2 * 28)).convert("L")  # the eleventh
    id_ = (tmp_path / "shop.metadata.tsv").read_text().splitlines()[11].split("\t")[0]
    with Image.open(io.BytesIO(shop.catalogue.preview(id_) or b"")) as preview:
        np.testing.assert_array_equal(np.asarray(shown), np.asarray(preview.convert("L")))
    export(shop, path)  # again in place of the first
    with pytest.raises(RequestError, match="projector_config.pbtxt: belongs to another export"):
        export(shop, tmp_path / "other.tsv")


# Standard output, and a source's codes.


@pytest.fixture
def cli(capfdbinary: pytest.CaptureFixture[bytes], shop: Recommender) -> Callable[..., tuple[int, bytes, str]]:
    """Runs the command; returns its status, its standard output and its standard error."""

    def run(*words: object) -> tuple[int, bytes, str]:
        capfdbinary.readouterr()
        with pytest.raises(SystemExit) as leaving:
            main(["--quiet", *map(str, words)])
        sys.stdout.flush()
        out, err = capfdbinary.readouterr()
        return int(leaving.value.code or 0), out, err.decode()

    return run


Cli = Callable[..., tuple[int, bytes, str]]


@pytest.mark.parametrize("form", ["npy", "parquet", "arrow", "npz", "safetensors", "csv"])
def test_standard_output_gets_what_the_file_would(form: str, cli: Cli, shop: Recommender, tmp_path: Path) -> None:
    path = tmp_path / f"shop.{form}"
    export(shop, path)
    status, out, err = cli("export", shop.folder, "-o", "-", "--format", form)
    assert (status, err) == (0, "")
    assert out == path.read_bytes() or form == "npz"  # whose members have a time
    if form == "npz":
        assert np.array_equal(np.load(io.BytesIO(out))["code"], np.load(path)["code"])


def test_without_a_format_standard_output_is_json_lines_and_for_encode_a_numpy_array(
    cli: Cli, shop: Recommender, expected: tuple[list[str], Codes]
) -> None:
    _, out, _ = cli("export", shop.folder, "-o", "-")
    assert [json.loads(line)["id"] for line in out.splitlines()] == expected[0]
    first = shop.folder.parent.parent / "first.csv"
    status, out, err = cli("encode", first, "--index", shop.folder, "-o", "-")
    assert (status, err) == (0, "")
    assert np.load(io.BytesIO(out)).shape == (30, 64)


def test_encode_writes_what_an_export_of_the_same_pictures_has(shop: Recommender, tmp_path: Path) -> None:
    first, path = shop.folder.parent.parent / "first.csv", tmp_path / "first.parquet"
    encode(shop, str(first), path, Wishes(where="stock < 20 AND label = 'bag'"))
    table = pq.read_table(path)
    assert table.schema.names == ["id", "label", "source", "price", "stock", "field_code", "title", "code"]
    whole = {row["id"]: row for row in pq.read_table(export(shop, tmp_path / "shop.parquet")[0]).to_pylist()}
    assert [row["id"] for row in table.to_pylist()] == [f"item {n}" for n in range(20) if n % 3]
    for row in table.to_pylist():
        np.testing.assert_allclose(row["code"], whole[row["id"]]["code"], atol=1e-6)
        assert row["price"] == whole[row["id"]]["price"]
    assert verify(path, shop).count == 13
    encode(shop, str(first), tmp_path / "few.npy", Wishes(dtype="int8"))
    assert verify(tmp_path / "few.npy").scale
    with pytest.raises(RequestError, match="no item matches"):
        encode(shop, str(first), path, Wishes(where="stock > 1000"))
    assert len(pq.read_table(path)) == 13


# What can't be.


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("-o out.xlsx", "out.xlsx: no exporter writes files with that ending: name one that ends in .arrow, .csv"),
        ("-o out.csv --format cvs", "no exporter 'cvs': did you mean 'csv'?"),
        ("-o out.csv --columns id,prize,code", "no column 'prize': did you mean 'price'?"),
        ("-o out.csv --columns id,price", "every export has the codes: write --columns id,price,code (a .npy keeps"),
        ("-o out.csv --columns id,id,code", "--columns: 'id' is there twice: name each column once"),
        ("-o out.faiss --dtype int8", "faiss: can't hold int8: its codes are float32"),
        ("-o out.parquet --codes text", "parquet: can't hold codes as text: write csv"),
        ("-o - --format projector", "projector: can't be written to standard output: name a file"),
        ("-o out.lance --format lance --where stock>1000", "no item matches"),
        ("-o nowhere/out.npy", "nowhere/out.npy: cannot be written"),
        ("-o folder.npy", "folder.npy: cannot be written (Is a directory)"),
    ],
)
def test_what_cannot_be_exported_is_one_line_and_changes_nothing(
    words: str, said: str, cli: Cli, shop: Recommender, tmp_path: Path
) -> None:
    (tmp_path / "folder.npy").mkdir()
    before = sorted(tmp_path.rglob("*"))
    status, out, err = cli("export", shop.folder, *words.split())
    assert (status, out) == (1, b"")
    assert err.startswith("Error: ") and len(err.splitlines()) == 1
    assert said in err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_number_that_is_too_large_for_its_dtype_is_an_error() -> None:
    from simrec.catalogue.tables import coded
    from simrec.exporters.coding import Coding
    from simrec.exporters.content import Content

    batch = pa.record_batch({"code": coded(np.array([[1.0, 70_000]], np.float32))})
    with pytest.raises(RequestError, match="the number 70,000 of a code is too large for it: add --normalize"):
        Coding(False, "float16", None, False).batch(batch, Content())


FULL = """
import resource, signal, sys
from simrec.cli import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
for ending in sys.argv[2:]:
    try:
        main(["--quiet", "export", sys.argv[1], "-o", f"shop.{ending}"])
    except SystemExit as end:
        assert end.code == 1, ending
"""
"""Exports with files limited to 3,000 bytes, like a full disk."""


@pytest.mark.skipif(sys.platform == "win32", reason="no such limit")
def test_without_space_an_export_says_so_and_leaves_what_was_there(shop: Recommender, tmp_path: Path) -> None:
    for ending in BASE:
        export(shop, tmp_path / f"shop.{ending}", Wishes(where="price < 10"))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    done = subprocess.run(  # -B: else Python would keep modules that are cut off in __pycache__
        [sys.executable, "-B", "-c", FULL, str(shop.folder), *BASE], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stderr.splitlines()) == len(BASE)
    assert all(line.startswith("Error: ") and "make room" in line for line in done.stderr.splitlines()), done.stderr
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def lazy(target: Any, table: Any, origin: Any) -> list[str]:
    """An exporter that doesn't read all rows."""
    next(iter(table))
    return [target]


def test_an_exporter_that_leaves_rows_behind_is_named(
    shop: Recommender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer = host.Offer(ExporterSpec("lazy", "", "test_exports:lazy", endings=(".lazy",)), "lazy-plugin 1.0")
    monkeypatch.setattr(host, "_discover", lambda *_: host.Host((offer,), (), ()))
    with pytest.raises(PluginError, match=r"exporter 'lazy' \(lazy-plugin 1.0\) has not read the table to its end"):
        export(shop, tmp_path / "shop.lazy")


def misread(path: str) -> Any:
    """A reader that gives no record."""
    return "a", []


def misread_rows(path: str) -> Any:
    """A reader that gives no batches."""
    return ExportRecord(1, "0", "", "", "", "l2", False, "float32", None, 3, ("code",), 1), [{"code": [1]}]


@pytest.mark.parametrize(
    ("reader", "expected"),
    [("misread", "read str, not an ExportRecord"), ("misread_rows", "read dict, not a RecordBatch with codes")],
)
def test_a_reader_that_breaks_its_contract_is_named(
    reader: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = ExporterSpec("odd", "", "test_exports:lazy", endings=(".odd",), reader=f"test_exports:{reader}")
    monkeypatch.setattr(host, "_discover", lambda *_: host.Host((host.Offer(spec, "odd-plugin 1.0"),), (), ()))
    with pytest.raises(PluginError, match=rf"exporter 'odd' \(odd-plugin 1.0\) {expected}"):
        verify(tmp_path / "shop.odd")


# What was cut, altered, or is another's.


@pytest.fixture(scope="module")
def exported(shop: Recommender, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the shop in every format, each in its own folder."""
    folder = tmp_path_factory.mktemp("exported")
    for ending in BASE:
        (folder / ending).mkdir()
        export(shop, folder / ending / f"shop.{ending}")
    return folder


@pytest.fixture
def copied(exported: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A copy of the shop in a format, for damaging."""

    def copy(ending: str) -> Path:
        shutil.copytree(exported / ending, tmp_path / ending)
        return tmp_path / ending / f"shop.{ending}"

    return copy


def damages(path: Path) -> Iterator[bytes]:
    """The file cut at several places, with extra bytes at its end, and with one byte changed among its codes."""
    data = path.read_bytes()
    for part in (0, 0.1, 0.5, 0.9):
        yield data[: int(len(data) * part)]
    yield data.rstrip(b"\r\n")[:-1]
    yield data + data[-200:]
    place = len(data) // 2
    while path.suffix in (".csv", ".jsonl", ".tsv") and data[place] not in b"123":
        place += 1
    yield data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


@pytest.mark.parametrize("ending", BASE)
def test_a_file_that_was_cut_or_altered_is_found(ending: str, copied: Callable[[str], Path]) -> None:
    path = copied(ending)
    assert verify(path).count == 38
    for number, data in enumerate(damages(path)):
        path.write_bytes(data)
        with pytest.raises(DataError) as raised:
            verify(path)
        assert "\n" not in str(raised.value) and str(path) in str(raised.value), number


@pytest.mark.parametrize("ending", ["npy", "safetensors", "faiss", "tsv"])
def test_ids_that_lie_beside_the_codes_are_checked_too(ending: str, copied: Callable[[str], Path]) -> None:
    path = copied(ending)
    beside = path.with_suffix(".metadata.tsv" if ending == "tsv" else ".items.jsonl")
    lines = beside.read_text().splitlines(keepends=True)
    for changed in ([*lines[:-1]], [*lines, lines[-1]], [*lines[:-2], lines[-1], lines[-2]], ["{}\n", *lines[1:]]):
        beside.write_text("".join(changed))
        with pytest.raises(DataError, match="export it again"):
            verify(path)
    beside.unlink()
    with pytest.raises(DataError, match="No such file"):
        verify(path)


def test_codes_of_another_encoder_are_refused_with_both_named(
    exported: Path, cli: Cli, shop: Recommender, tmp_path: Path
) -> None:
    path = exported / "parquet" / "shop.parquet"
    assert cli("verify", path, "--index", "demo")[:2] == (
        0, f"{path}: whole: 38 codes of 64 numbers (float32) of encoder {shop.manifest.encoder.title}\n".encode(),
    )  # fmt: skip
    status, _, err = cli("verify", path, "--index", "photo")
    assert status == 1
    assert "its codes are from encoder plain/best-64@" in err and "but photo has photo/default-128@" in err


def test_a_file_that_isnt_an_export_is_one_line(cli: Cli, tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": ["a"]}), tmp_path / "other.parquet")
    np.save(tmp_path / "other.npy", np.zeros((2, 2), np.float32))
    np.savez(tmp_path / "other.npz", code=np.zeros((2, 2), np.float32))
    safetensors.numpy.save_file({"code": np.zeros((2, 2), np.float32)}, tmp_path / "other.safetensors")
    for name in ("other.parquet", "other.npy", "other.npz", "other.safetensors"):
        status, _, err = cli("verify", name)
        assert status == 1
        assert f"{name}: doesn't say which encoder made its codes" in err and len(err.splitlines()) == 1
    assert "no export that can be read back has that ending" in cli("verify", "other.xlsx")[2]
    for ending in BASE:
        (tmp_path / f"folder.{ending}").mkdir()
        assert len(cli("verify", f"nowhere.{ending}")[2].splitlines()) == 1
        assert len(cli("verify", f"folder.{ending}")[2].splitlines()) == 1


LIES: dict[str, dict[str, Any]] = {
    "more rows than there are": {"count": 2**48},
    "rows less than none": {"count": -1},
    "no rows": {"count": None},
    "codes of a million numbers": {"dim": 2**20},
    "codes of no numbers": {"dim": 0},
    "another dtype": {"dtype": "float16"},
    "a dtype that there isn't": {"dtype": "object"},
    "a scale without int8": {"scale": 2.0},
    "no digest": {"digest": ""},
    "another digest": {"digest": "0" * 64},
    "a column twice": {"columns": ["id", "id", "code"]},
    "no columns": {"columns": []},
    "more than there is to say": {"more": 1},
}


@pytest.mark.parametrize("ending", ["npy", "csv", "jsonl", "faiss", "tsv"])
def test_a_false_record_is_found(ending: str, copied: Callable[[str], Path]) -> None:
    path = copied(ending)
    beside = path.with_name(f"{path.name}.simrec.json")
    said = json.loads(beside.read_bytes())
    for what, lie in LIES.items():
        beside.write_text(json.dumps(said | lie))
        with pytest.raises(DataError) as raised:
            verify(path)
        assert "\n" not in str(raised.value), what


def test_a_record_of_a_newer_simrec_says_so(copied: Callable[[str], Path]) -> None:
    path = copied("npy")
    beside = path.with_name(f"{path.name}.simrec.json")
    beside.write_text(json.dumps({"version": 7, "whatever": "comes then"}))
    with pytest.raises(VersionError, match="version 7, newer than the 1 that this simrec reads: upgrade simrec"):
        verify(path)


def test_headers_that_ask_for_too_much_are_refused(copied: Callable[[str], Path], tmp_path: Path) -> None:
    path = copied("safetensors")
    path.write_bytes(struct.pack("<Q", 2**60) + path.read_bytes()[8:])
    with pytest.raises(DataError, match="a header of 1,152,921,504,606,846,976 bytes"):
        verify(path)
    path = copied("npz")
    data = bytearray(path.read_bytes())
    data[-10:-6] = struct.pack("<I", 2**31)
    path.write_bytes(data)
    with pytest.raises(DataError, match="its list of members takes 2,147,483,648 bytes"):
        verify(path)
    path = copied("csv")
    with path.open("ab") as file:
        file.write(b"x" * 9_000_000)
    with pytest.raises(DataError, match="a line of more than"):
        verify(path)


class Planted:
    """An object that would run code if someone unpickled it."""

    def __reduce__(self) -> Any:
        return (os.mkdir, ("planted",))


def test_nothing_is_unpickled_and_only_what_simrec_packs_is_unpacked(copied: Callable[[str], Path]) -> None:
    path = copied("npz")
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    planted = io.BytesIO()
    np.save(planted, np.array([Planted()] * 38, object), allow_pickle=True)
    for name in ("id.npy", "code.npy"):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for member, data in members.items():
                archive.writestr(member, planted.getvalue() if member == name else data)
        with pytest.raises(DataError):
            verify(path)
    assert not Path("planted").exists()
    path = copied("parquet")
    table = pq.read_table(path).replace_schema_metadata(pq.read_metadata(path).metadata)
    pq.write_table(table, path, compression="zstd")
    with pytest.raises(DataError, match="compressed as ZSTD"):
        verify(path)
    path = copied("arrow")
    table = pa.ipc.open_file(path).read_all()
    with pa.ipc.new_file(path, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table)
    with pytest.raises(DataError, match="compressed"):
        verify(path)


# An export is also a way in.


@pytest.mark.parametrize("ending", ["parquet", "arrow"])
def test_a_catalogue_that_is_built_from_an_export_is_the_one_it_was_exported_from(
    ending: str, shop: Recommender, own_home: Path, tmp_path: Path
) -> None:
    path = tmp_path / f"shop.{ending}"
    columns = [*pq.read_schema(export(shop, tmp_path / "all.parquet")[0]).names, "preview"]
    export(shop, path, Wishes(columns=columns))
    shutil.copytree(shop.folder, own_home / "first")  # whose encoder is found by its digest
    again = simrec.build("again", str(path))
    assert (again.manifest.encoder.digest, len(again.catalogue)) == (shop.manifest.encoder.digest, 38)
    for before, after in zip(shop.catalogue.all(), again.catalogue.all(), strict=True):
        assert (after.id, after.label, after.source) == (before.id, before.label, before.source)
        assert {name: after.fields[name] for name in before.fields} == before.fields
        assert again.catalogue.preview(after.id) == shop.catalogue.preview(before.id)
    np.testing.assert_allclose(again.codes, shop.codes, rtol=1e-6)
    ours, theirs = (one.similar("id:item 7", 5, where="price > 3") for one in (shop, again))
    assert [match.id for match in ours] == [match.id for match in theirs]
    np.testing.assert_allclose([m.score for m in ours], [m.score for m in theirs], atol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_codes_in_fewer_bits_find_nearly_the_same(
    dtype: Any, shop: Recommender, expected: tuple[list[str], Codes], tmp_path: Path
) -> None:
    said: list[str] = []
    export(shop, tmp_path / "few.arrow", Wishes(dtype=dtype, normalize=True))
    few = simrec.build("few", str(tmp_path / "few.arrow"), encoder="demo", dtype="int8", notice=said.append)
    assert [line.partition(": ")[2] for line in said] == [
        f"its codes are rounded to {dtype}: answers may differ a little.",
        "its codes have a length of 1: look-ups are the same, decoded pictures are not.",
        "it doesn't hold the pictures, so a picture file's own item is among its answers: look it up as id:ITEM.",
    ]
    assert few.similar(few.catalogue.items(["item 7"])[0].source, 1)[0].id == "item 7"
    assert "item 7" not in [match.id for match in few.similar("id:item 7", 37)]
    assert few.manifest.catalogue is not None and few.manifest.catalogue.dtype == "int8"
    for row in range(0, 38, 5):
        hits = few.catalogue.search(expected[1][row : row + 1], 1)[0]
        assert hits[0].item.id == expected[0][row]
        assert hits[0].score == pytest.approx(1, abs=0.02)


def test_items_without_previews_are_drawn_and_arent_duplicates(
    shop: Recommender, cli: Cli, tmp_path: Path, own_home: Path
) -> None:
    path = export(shop, tmp_path / "shop.parquet", Wishes(columns=["id", "code"]))[0]
    assert cli("index", "build", "bare", path, "--encoder", "demo")[0] == 0
    assert cli("similar", "id:item 7", "--index", "bare", "-n", "3", "--distinct", "--grid", "bare.png")[0] == 0
    with Image.open("bare.png") as sheet:
        tile = np.asarray(sheet.convert("L"))[60:200, 20:160]
    assert np.median(tile) == 0xDD  # grey, and on it
    assert 40 < (tile < 80).sum() < 2000  # its name, dark
    assert json.loads(cli("index", "duplicates", "bare", "--format", "json")[1]) == []
    assert cli("index", "verify", "bare")[0] == 0
    exported = export(Recommender(own_home / "bare"), tmp_path / "bare.parquet")[0]
    assert pq.read_table(exported)["id"].to_pylist() == pq.read_table(path)["id"].to_pylist()


def test_what_cannot_become_a_catalogue_is_one_line_and_changes_nothing(
    shop: Recommender, cli: Cli, tmp_path: Path, own_home: Path
) -> None:
    path = export(shop, tmp_path / "shop.parquet")[0]
    assert cli("index", "build", "mine", path, "--encoder", "demo")[0] == 0
    before = {file: file.read_bytes() for file in own_home.rglob("*") if file.is_file()}
    whole = path.read_bytes()
    export(shop, tmp_path / "bare.parquet", Wishes(columns=["code"]))
    export(shop, tmp_path / "other.parquet", Wishes(where="price < 9"))
    place = whole.rindex(b"item 7") if whole.count(b"item 7") else len(whole) // 2
    (tmp_path / "altered.parquet").write_bytes(whole[:place] + b"X" + whole[place + 1 :])
    (tmp_path / "cut.arrow").write_bytes(b"ARROW1\0\0")
    refused = {
        "index build mine shop.parquet --encoder photo": "from encoder plain/best-64@",
        "index build new bare.parquet --encoder demo": "it has no column 'id'",
        "index build mine other.parquet": "add --replace to replace it with",
        "index build mine altered.parquet --replace": "altered.parquet: ",
        "index build new cut.arrow --encoder demo": "cut.arrow: cannot be read as an export",
        "index build demo shop.parquet": "demo is shipped and read-only",
        "index sync mine": "this is an export of codes, not of pictures: 'simrec index build NAME",
        "encode shop.parquet --index demo -o codes.npy": "this is an export of codes, not of pictures",
    }
    for words, said in refused.items():
        status, _, err = cli(*words.split())
        assert (status, len(err.splitlines())) == (1, 1), (words, err)
        assert said in err, (words, err)
        assert {file: file.read_bytes() for file in own_home.rglob("*") if file.is_file()} == before, words


@pytest.mark.parametrize("ending", [ending for ending in BASE if ending not in ("parquet", "arrow")])
def test_an_export_that_cannot_become_a_catalogue_says_which_one_can(
    ending: str, copied: Callable[[str], Path], own_home: Path
) -> None:
    path = copied(ending)
    with pytest.raises(DataError) as raised:
        simrec.build("mine", path, encoder="demo")
    assert str(raised.value) == (
        f"{path}: this is an export of codes, not of pictures: a catalogue can be built from one that ends in "
        f".parquet or .arrow: 'simrec export NAME -o {path.with_suffix('.parquet')}'"
    )
    if ending in ("csv", "jsonl"):  # a list, though a record of the export that it replaced lies beside it
        row = {"path": "a.png", "label": "bag"}
        path.write_text(json.dumps(row) if ending == "jsonl" else "label,path\nbag,a.png\n")
        with pytest.raises(DataError, match="none of its 1 pictures can be read"):
            simrec.build("mine", path, encoder="demo")


def forged(path: Path, record: ExportRecord, table: pa.Table, **changes: Any) -> None:
    """An export with the right count and digest, but with rows that simrec wouldn't write."""
    content = Content()
    for batch in table.to_batches():
        content.add(batch)
    said = replace(record, count=content.count, digest=content.digest, columns=tuple(table.schema.names), **changes)
    with pq.ParquetWriter(path, table.schema) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({"simrec": said.to_bytes().decode()})


def test_rows_that_cant_be_items_are_refused(shop: Recommender, tmp_path: Path) -> None:
    record = verify(export(shop, tmp_path / "shop.parquet", Wishes(columns=["id", "code"]))[0])
    table = pq.read_table(tmp_path / "shop.parquet").slice(0, 2)
    ids, codes = table["id"].combine_chunks(), table["code"].combine_chunks()
    huge = pa.FixedSizeListArray.from_arrays(pa.array(np.full(128, 1e30, np.float32)), 64)
    wrong: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "the id 'a' is there more than once": ({"id": pa.array(["a", "a"]), "code": codes}, {}),
        "can't be an item's id": ({"id": pa.array(["a", ""]), "code": codes}, {}),
        "or its texts are none": ({"id": pa.array(["a", "b\0"]), "code": codes}, {}),
        "one of its codes is not finite, or too large": ({"id": ids, "code": huge}, {}),
        "its column 'preview' has an invalid preview": (
            {"id": ids, "code": codes, "preview": pa.array([b"", b"GIF89a"])}, {},
        ),
        "its column 'n' holds bool": ({"id": ids, "code": codes, "n": pa.array([True, False])}, {}),
        "l2 compares lengths too": ({"id": ids, "code": codes}, {"metric": "l2", "normalised": True}),
    }  # fmt: skip
    for number, (said, (columns, changes)) in enumerate(wrong.items()):
        path = tmp_path / f"forged-{number}.parquet"
        forged(path, record, pa.table(columns), **changes)
        with pytest.raises((DataError, RequestError), match=said):
            simrec.build("mine", str(path), encoder="demo")


@pytest.mark.long
@pytest.mark.parametrize("ending", BASE)
def test_a_thousand_damaged_files_are_found_or_are_whole(ending: str, copied: Callable[[str], Path]) -> None:
    """Over all formats: bytes changed, cut out or inserted anywhere in a file or in the file beside it."""
    seed = int(os.environ.get("SEED") or secrets.randbits(32))
    random = Random(seed)
    path = copied(ending)
    files = [file for file in sorted(path.parent.iterdir()) if file.suffix not in (".png", ".pbtxt")]
    whole = {file: file.read_bytes() for file in files}
    ids, codes = READERS[ending](path)
    found = 0
    for _ in range(120):
        file = random.choice(files)
        data = bytearray(whole[file])
        for _ in range(random.choice((1, 1, 3))):
            place = random.randrange(len(data))
            if random.random() < 0.6:
                data[place] = random.randrange(256)
            elif random.random() < 0.5:
                del data[place : place + random.choice((1, 8, 1000))]
            else:
                data[place:place] = random.randbytes(random.choice((1, 8, 1000)))
            data = data or bytearray(b"x")
        file.write_bytes(data)
        try:
            verify(path)
        except DataError as error:
            found += 1
            assert "\n" not in str(error) and len(str(error)) < 1000, f"SEED={seed}: {error}"
        else:
            again = READERS[ending](path)
            assert again[0] == ids and np.array_equal(again[1], codes), f"SEED={seed}"
        file.write_bytes(whole[file])
    assert found > 60


@pytest.mark.long
def test_a_changed_byte_anywhere_in_an_arrow_footer_is_found_or_changes_nothing(copied: Callable[[str], Path]) -> None:
    """Other programs find the batches by the footer, which simrec doesn't need to read them."""
    path = copied("arrow")
    whole = path.read_bytes()
    footer = len(whole) - 10 - int.from_bytes(whole[-10:-6], "little")
    ids, codes = READERS["arrow"](path)
    for place in range(footer, len(whole)):
        for change in (0x01, 0x10):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ change]) + whole[place + 1 :])
            try:
                verify(path)
            except DataError:
                continue
            again = READERS["arrow"](path)
            assert again[0] == ids and np.array_equal(again[1], codes), (place - len(whole), change)
