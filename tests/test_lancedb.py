"""Tables in LanceDB: what others do to them, what is kept of them, and the errors if they can't be used."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import killed_pushes
import lancedb
import numpy as np
import pyarrow as pa
import pytest
import simrec_lancedb.engine
from simrec_lancedb.engine import Lance

from simrec.contracts import Item, Row
from simrec.contracts.filters import Compared
from simrec.engine_testing import drawn, read, same, table_of, write
from simrec.errors import RequestError, StoreError

pytestmark = pytest.mark.external

TABLE = table_of()


@pytest.fixture
def opened(tmp_path: Path) -> Lance:
    """A table of a thousand rows."""
    engine = Lance(f"lancedb://{tmp_path}#table", notice=print)
    write(engine, TABLE, drawn(TABLE, 1000))
    return engine


def theirs(folder: Path) -> lancedb.table.Table:
    """The table as other programs open it."""
    return lancedb.connect(folder).open_table("table")


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_rows_are_changed_where_others_made_an_index_on_the_ids(opened: Lance, tmp_path: Path) -> None:
    other = theirs(tmp_path)
    other.create_scalar_index("id")
    other.optimize(cleanup_older_than=timedelta(0))
    for seed in (1, 2, 3):
        new = drawn(TABLE, 200, seed=seed)
        write(opened, TABLE, new, [row.item.id for row in drawn(TABLE, 1000)[-seed:]])
        same(read(opened, previews=True), [*new, *drawn(TABLE, 1000)[200 : 1000 - seed]])
        other.optimize(cleanup_older_than=timedelta(0))


def test_a_push_makes_one_version_so_others_see_all_of_it_or_nothing(opened: Lance, tmp_path: Path) -> None:
    other = theirs(tmp_path)
    before = other.version
    write(opened, TABLE, drawn(TABLE, 100, seed=1), [row.item.id for row in drawn(TABLE, 1000)[900:]])
    other.checkout_latest()
    assert other.version == before + 1 and other.count_rows() == 900
    write(opened, replace(TABLE, fields={**TABLE.fields, "new": "string"}), [])
    other.checkout_latest()
    assert other.version == before + 2 and other.count_rows() == 900


def test_a_reader_goes_on_with_the_old_rows_during_a_push(opened: Lance) -> None:
    reading = opened.rows()
    some = [*next(reading)]
    for seed in range(1, 20):  # so many that files are joined
        write(opened, TABLE, drawn(TABLE, 1000, seed=seed))
    write(opened, replace(TABLE, digest="1" * 64), [], replace=True)
    same([*some, *(row for rows in reading for row in rows)], [row._replace(preview=b"") for row in drawn(TABLE, 1000)])
    assert len(opened) == 0


def test_old_versions_are_deleted_an_hour_later(opened: Lance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simrec_lancedb.engine, "MESSY", 5)
    for seed in range(1, 10):
        write(opened, TABLE, drawn(TABLE, 1000, seed=seed))
    assert len(theirs(tmp_path).list_versions()) == 10
    for name in ("KEPT", "DELAY"):
        monkeypatch.setattr(simrec_lancedb.engine, name, timedelta(0))
    write(opened, TABLE, drawn(TABLE, 1000, seed=10))
    assert len(theirs(tmp_path).list_versions()) < 5
    same(read(opened, previews=True), drawn(TABLE, 1000, seed=10))


@pytest.mark.parametrize("kind", killed_pushes.KINDS)
def test_files_of_a_killed_push_are_deleted_by_the_next_while_readers_keep_the_old_version(
    kind: str, tmp_path: Path
) -> None:
    (before, old), (table, new, removed) = killed_pushes.states(kind)
    for number in range(20):  # the process may make the next version before it dies
        address, folder = f"lancedb://{tmp_path}#table{number}", tmp_path / f"table{number}.lance"
        opened = Lance(address, notice=print)
        write(opened, before, old)
        there = set(folder.rglob("*"))
        program = [sys.executable, killed_pushes.__file__, address, kind, killed_pushes.WRITTEN]
        assert subprocess.run(program, check=False).returncode == -signal.SIGKILL
        left = {path for path in set(folder.rglob("*")) - there if path.is_file()}
        if any(path.parent.name == "data" for path in left) and opened.table == before and len(opened) == len(old):
            break
    else:
        raise AssertionError("every push had made a version before it died")
    reading = opened.rows()
    some = [*next(reading)]
    opened.apply(table, [new], removed, replace=kind == "all rows")
    assert not left & set(folder.rglob("*")) and not list(tmp_path.glob(f"table{number}.simrec-[nw]*"))
    same([*some, *(row for rows in reading for row in rows)], [row._replace(preview=b"") for row in old])


def test_files_that_a_killed_push_had_not_named_yet_are_deleted_by_the_next(opened: Lance, tmp_path: Path) -> None:
    opened._note(tmp_path / "table.simrec-writing", opened._opened())
    versions = tmp_path / "table.lance" / "_versions"
    (manifest,) = versions.glob("*.manifest")
    following = f"{int(manifest.stem) - 1}.manifest"  # LanceDB counts down from the largest number of 64 bits
    left = [versions / f"{following}#1", versions / ".tmp4kRd1P"]
    for path in left:
        path.write_bytes(manifest.read_bytes()[:100])
    write(opened, TABLE, [])
    assert (versions / following).exists() and not any(path.exists() for path in left)
    same(read(opened, previews=True), drawn(TABLE, 1000))


def test_a_note_about_another_table_deletes_nothing(opened: Lance, tmp_path: Path) -> None:
    opened._note(tmp_path / "table.simrec-writing", opened._opened())
    write(opened, TABLE, drawn(TABLE, 1000, seed=1), replace=True)
    opened._note(tmp_path / "other", opened._opened())
    shutil.rmtree(tmp_path / "table.lance")
    write(opened, TABLE, drawn(TABLE, 1000, seed=2))
    (tmp_path / "other").replace(tmp_path / "table.simrec-writing")
    write(opened, TABLE, [])
    same(read(opened, previews=True), drawn(TABLE, 1000, seed=2))


def test_a_file_whose_name_is_not_text_hinders_no_push(opened: Lance, tmp_path: Path) -> None:
    strange = tmp_path / "table.lance" / "data" / os.fsdecode(b"\xff")
    strange.touch()
    write(opened, TABLE, drawn(TABLE, 20), replace=True)
    assert len(opened) == 20 and strange.exists()


def test_many_rows_are_removed_at_once(opened: Lance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simrec_lancedb.engine, "MERGED", 100)
    rows = drawn(TABLE, 1000)
    write(opened, TABLE, drawn(TABLE, 50, seed=1), [row.item.id for row in rows[300:]])
    same(read(opened, previews=True), [*drawn(TABLE, 50, seed=1), *rows[50:300]])


def test_rows_of_a_push_may_come_from_the_table_itself(opened: Lance) -> None:
    def rows() -> Iterator[Sequence[Row]]:
        for some in opened.rows(previews=True):
            yield [row._replace(digest=row.digest[::-1]) for row in some]

    opened.apply(TABLE, rows(), [], replace=False)
    assert {row.digest for row in read(opened)} == {row.digest[::-1] for row in drawn(TABLE, 1000)}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_added_codes_are_found_in_an_index(opened: Lance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("SMALLEST_INDEXED", 500), ("UNINDEXED", 100)):
        monkeypatch.setattr(simrec_lancedb.engine, name, value)
    table = replace(TABLE, approximate=True)
    write(opened, table, drawn(table, 1200)[1000:])
    write(opened, table, drawn(table, 1400)[1200:])
    (index,) = theirs(tmp_path).list_indices()
    assert index.num_indexed_rows == 1400 and not index.num_unindexed_rows
    rows = drawn(table, 1400)
    hits = opened.search(np.stack([row.code for row in rows]), 1)
    assert [hit[0][0].id for hit in hits] == [row.item.id for row in rows]


def test_fields_of_any_name_are_columns(opened: Lance, tmp_path: Path) -> None:
    names = (
        "code",
        "CODE",
        "Price",
        "price",
        "a.b",
        "back`tick",
        "",
        "field_0",
        "größe",
        "_rowid",
        "_distance",
        "x" * 999,
    )
    table = replace(TABLE, digest="1" * 64, fields=dict.fromkeys(names, "int64"))
    rows = [
        row._replace(
            item=Item(row.item.id, "", fields={name: place * 100 + number for number, name in enumerate(names)})
        )
        for place, row in enumerate(drawn(TABLE, 20))
    ]
    write(opened, table, rows, replace=True)
    assert [row.item.fields for row in read(opened)] == [
        row.item.fields for row in sorted(rows, key=lambda row: row.item.id)
    ]
    for number, name in enumerate(names):
        (found,) = read(opened, where=Compared(name, "=", 700 + number))
        assert found.item == rows[7].item
    assert {"id", "label", "source", "Price"} <= set(theirs(tmp_path).schema.names)


@pytest.mark.parametrize(
    "address",
    [
        "lancedb:///folder", "lancedb:///folder#", "lancedb:///folder#../x", "lancedb:///folder#a/b", "lancedb://folder#x",
        "lancedb:///#x", "lancedb://gopher/folder#x", "lancedb:///folder?token=open-sesame#x",
    ],
)  # fmt: skip
def test_an_invalid_address_is_refused_in_one_line(address: str) -> None:
    with pytest.raises(RequestError, match=r"[Ww]rite lancedb:///FOLDER#TABLE") as error:
        Lance(address, notice=print)
    assert "\n" not in str(error.value) and "open-sesame" not in str(error.value)


def test_a_table_that_simrec_didnt_make_is_not_touched(opened: Lance, tmp_path: Path) -> None:
    lancedb.connect(tmp_path).create_table("other", pa.table({"id": ["x"]}))
    other = Lance(f"lancedb://{tmp_path}#other", notice=print)
    with pytest.raises(StoreError, match="simrec didn't make that table: name another one"):
        write(other, TABLE, drawn(TABLE, 10))
    assert lancedb.connect(tmp_path).open_table("other").to_arrow().to_pylist() == [{"id": "x"}]


def test_a_missing_folder_is_an_error_and_not_made_again(tmp_path: Path) -> None:
    engine = Lance(f"lancedb://{tmp_path}/none#table", notice=print)
    assert engine.table is None
    with pytest.raises(StoreError, match="there is no such table: 'simrec index push' makes it"):
        len(engine)
    assert not (tmp_path / "none").exists()


def test_damage_is_one_line(opened: Lance, tmp_path: Path) -> None:
    for path in (tmp_path / "table.lance" / "data").iterdir():
        path.write_bytes(b"damaged")
    fresh = Lance(f"lancedb://{tmp_path}#table", notice=print)
    for ask in (
        lambda: read(fresh),
        lambda: fresh.search(np.ones((1, 16), np.float32), 3),
        lambda: dict(fresh.digests()),
    ):
        with pytest.raises(StoreError, match=f"lancedb://{tmp_path}#table: ") as error:
            ask()
        assert "\n" not in str(error.value)
