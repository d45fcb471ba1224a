"""Catalogues in databases: pushed, answering from there, synced there, and pulled back."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from conftest import ran
from crashes import picture, save

import simrec
from simrec.catalogue.remote import RemoteCatalogue, intact, kept, without_secrets
from simrec.contracts import Item, Table
from simrec.errors import RequestError, StoreError
from simrec.serve.shelf import opened
from simrec.verbs import generations, index, push
from simrec.verbs.push import Pushing

COLOURS = ("red", "green", "blue")


@pytest.fixture
def address(postgres: str, request: pytest.FixtureRequest) -> str:
    """A new table for each test, with a password that must never be stored."""
    user, _, rest = postgres.partition("@")
    return f"{user}open-sesame@{rest}#t_{abs(hash(request.node.name)) % 10**9}"


@pytest.fixture
def shop(tmp_path: Path, tiny: Path, own_home: Path) -> Path:
    """A price list of forty photos, of which `mine` is a catalogue."""
    shutil.copytree(tiny, own_home)
    save(tmp_path / "shop", *range(40))
    priced(tmp_path / "shop", range(40))
    simrec.build("mine", str(tmp_path / "shop" / "list.csv"), encoder="tiny")
    return tmp_path / "shop"


def priced(shop: Path, numbers: range | list[int]) -> None:
    rows = [f"{number:03d}.png,{number * 1.5},{COLOURS[number % 3] if number % 5 else ''}" for number in numbers]
    (shop / "list.csv").write_text("path,price,colour\n" + "\n".join(rows) + "\n")


def alike(one: str, other: str, where: str | None = None) -> None:
    """Asserts that two recommenders give the same answers."""
    ours, theirs = simrec.open(one), simrec.open(other)
    for number in (0, 7, 33):
        given, expected = (each.similar(picture(number), 40, where=where) for each in (ours, theirs))
        distances = {match.id: match.distance for match in expected}
        assert len(given) == len(expected)
        assert np.allclose([m.distance for m in given], [m.distance for m in expected], atol=1e-5)
        assert np.allclose([m.distance for m in given], [distances[m.id] for m in given], atol=1e-5)
        assert {match.id: match.item for match in given} == {match.id: match.item for match in expected}


def test_an_address_is_kept_without_its_password() -> None:
    kept = without_secrets("postgresql://me:open-sesame@host:1/db?sslmode=require&sslpassword=x&api_key=y#items")
    assert kept == "postgresql://me@host:1/db?sslmode=require#items"
    assert without_secrets("lancedb:///home/me/a%20b#items") == "lancedb:///home/me/a%20b#items"


def test_rows_that_an_earlier_version_wrote_are_intact() -> None:
    table = Table("tiny", "0", 3, "cosine", fields={"price": "double", "colour": "string"})
    item = Item("a", "a.png", "shoes", {"price": 1.5, "colour": "red"}, "7", "ab", "shop")
    row = kept(item, np.array([0.5, 0.25, 0], np.float32), 2.0, b"picture", table)
    assert intact(row, table)
    first = row._replace(digest="51f6c9e52e60accba9ea4b24b7992457")  # by simrec of 28 November 2026
    assert intact(first, table)
    assert not intact(first._replace(preview=b"another"), table)
    assert not intact(row._replace(length=2.5), table)


def test_a_database_that_this_user_has_not_named_is_not_contacted(shop: Path, own_home: Path) -> None:
    """A recommender comes with an address that its maker chose."""
    from dataclasses import replace

    from simrec import store
    from simrec.manifest import ChangeRecord, Manifest

    with store.Writer(own_home / "mine") as writer:
        live = store.current(own_home / "mine")
        record = live.manifest.catalogue
        assert record is not None
        writer.keep(live, live.manifest.encoder.folder)
        made = replace(record, segments=(), engine="postgresql://attacker.example/x#items")
        writer.commit(Manifest.new(live.manifest.encoder, made, ChangeRecord("index.push")))
    with pytest.raises(
        RequestError, match="which you haven't named yet: if it is yours, run 'simrec index connect mine"
    ):
        simrec.open("mine").similar(picture(1))
    assert ran("index", "list")[0] == 0
    assert "attacker.example" in ran("index", "show", "mine")[1]


@pytest.mark.external
def test_a_pushed_catalogue_answers_like_the_local_one(shop: Path, address: str, own_home: Path) -> None:
    assert ran("index", "push", "mine", address, "--as", "there")[1].startswith("mine: 40 added, 0 changed, 0 removed")
    alike("there", "mine")
    alike("there", "mine", "price < 20 AND colour IN ('red', 'blue')")
    with pytest.raises(RequestError, match="there is no column 'prise'"):
        simrec.open("there").similar(picture(1), where="prise < 2")
    for where in (None, "colour = 'red'"):
        some = [[item.id for item in simrec.open(name).catalogue.spread(5, where)] for name in ("there", "mine")]
        assert some[0] == some[1]
    matches = [simrec.open(name).similar("id:005.png", 5, distinct=True) for name in ("there", "mine")]
    assert [m.id for m in matches[0]] == [m.id for m in matches[1]]
    grouped = simrec.open("there").similar(picture(3), 5, group_by="colour")
    colours = [match.fields["colour"] for match in grouped if match.fields["colour"]]
    assert len(grouped) == 5 and sorted(colours) == ["blue", "green", "red"]
    assert all(match.percentile is not None for match in grouped)
    kept = b"".join(path.read_bytes() for path in own_home.rglob("*") if path.is_file())
    assert b"open-sesame" not in kept
    shown = ran("index", "show", "there")[1]
    assert "postgresql://postgres@" in shown and "open-sesame" not in shown


@pytest.mark.external
def test_pushing_again_writes_what_differs_and_removes_what_is_gone(shop: Path, address: str) -> None:
    push.push("mine", address)
    assert str(push.push("mine", address)).startswith("0 added, 0 changed, 0 removed, 0 renamed, 40 unchanged")
    picture(90).save(shop / "003.png")
    save(shop, 50)
    priced(shop, [*range(1, 40), 50])
    index.sync("mine")
    outcome = push.push("mine", address, new="there")
    assert str(outcome).startswith("1 added, 1 changed, 1 removed, 0 renamed, 38 unchanged")
    alike("there", "mine")


@pytest.mark.external
def test_a_column_that_was_empty_gets_numbers(shop: Path, address: str) -> None:
    (shop / "empty.csv").write_text("path,price\n000.png,\n001.png,\n002.png,\n")
    simrec.build("few", str(shop / "empty.csv"), encoder="tiny")
    push.push("few", address, new="there")
    (shop / "empty.csv").write_text("path,price\n000.png,5\n001.png,7\n002.png,\n")
    index.sync("few")
    assert push.push("few", address).changed == 2
    alike("there", "few", "price > 6")


@pytest.mark.external
def test_a_catalogue_in_a_database_follows_its_source(shop: Path, address: str, own_home: Path) -> None:
    push.push("mine", address, new="there")
    picture(90).save(shop / "003.png")
    (shop / "004.png").rename(shop / "900.png")
    save(shop, 50, 51)
    (shop / "list.csv").write_text(
        (shop / "list.csv").read_text().replace("000.png,0.0", "000.png,9.5").replace("004.png", "900.png")
        .replace("005.png,7.5,\n", "") + "050.png,1,red\n051.png,2,\n"
    )  # fmt: skip
    would = ran("index", "sync", "there", "--dry-run")[1]
    status, said, _ = ran("index", "sync", "there")
    assert status == 0 and would == said.replace("there: ", "there: would be ")
    assert said == ran("index", "sync", "mine")[1].replace("mine", "there")
    assert said.startswith("there: 2 added, 2 changed, 1 removed, 1 renamed, 36 unchanged")
    alike("there", "mine")
    alike("there", "mine", "price BETWEEN 1 AND 10")
    again = ran("index", "sync", "there")[1]
    assert again.startswith("there: 0 added, 0 changed, 0 removed, 0 renamed, 41 unchanged")
    more = shop.parent / "more"
    save(more, 60, 61)
    assert index.add("there", str(more)).added == index.add("mine", str(more)).added == 2
    prices = shop.parent / "sale.csv"
    prices.write_text("id,price,sale\n001.png,0.5,yes\n060.png,3,\n")
    for name in ("there", "mine"):
        assert index.set_fields(name, str(prices)).changed == 2
        assert index.remove(name, ["002.png"], where="price > 50").removed == 7
    alike("there", "mine")
    alike("there", "mine", "sale = 'yes' OR price < 9")


@pytest.mark.external
def test_export_evaluate_and_verify_work_on_it_unchanged(shop: Path, address: str, tmp_path: Path) -> None:
    push.push("mine", address, new="there")
    for name in ("there", "mine"):
        assert ran("export", name, "-o", f"{name}.csv", "--where", "price > 10")[0] == 0
    rows = [sorted((tmp_path / f"{name}.csv").read_text().splitlines()) for name in ("there", "mine")]
    assert rows[0] == rows[1]
    assert ran("evaluate", "there")[0] == 0
    assert ran("index", "verify", "there")[1].startswith("there: good")
    with psycopg_of(address) as connection:
        connection.execute(f"UPDATE {address.partition('#')[2]} SET price = 1 WHERE id = '007.png'")
    status, _, error = ran("index", "verify", "there")
    assert status == 1 and "1 of 40 rows are not what was written: 'simrec index push NAME ADDRESS --replace'" in error
    push.push("mine", address, how=Pushing(replace=True))
    assert ran("index", "verify", "there")[1].startswith("there: good")


@pytest.mark.external
def test_a_catalogue_is_pulled_back_from_its_database(shop: Path, address: str) -> None:
    push.push("mine", address, new="there")
    assert "40 items" in ran("index", "pull", "there", "--as", "back")[2]
    alike("back", "mine")
    assert simrec.open("back").catalogue.picture("007.png") is not None
    assert index.sync("back").unchanged == 40
    push.pull("there")
    assert not isinstance(simrec.open("there").catalogue, RemoteCatalogue)
    alike("there", "mine")
    refused = pytest.raises(RequestError, match="its items are in its own files already")
    with refused:
        push.pull("there")


@pytest.mark.external
def test_a_table_of_another_encoder_or_of_other_items_is_not_overwritten(
    shop: Path, address: str, tmp_path: Path
) -> None:
    push.push("mine", address)
    simrec.build("other", str(shop / "list.csv"), encoder="demo")
    with pytest.raises(RequestError, match=r"has codes from encoder pca/.*, not plain/.*--replace"):
        push.push("other", address)
    save(tmp_path / "elsewhere", *range(70, 75))
    simrec.build("few", str(tmp_path / "elsewhere"), encoder="tiny")
    with pytest.raises(RequestError, match="40 items; 40 of them, more than half, are not in few and would go"):
        push.push("few", address)
    assert str(push.push("mine", address)).startswith("0 added, 0 changed, 0 removed, 0 renamed, 40 unchanged")
    assert push.push("few", address, how=Pushing(yes=True)).removed == 40
    assert push.push("other", address, how=Pushing(replace=True), new="there").added == 40
    alike("there", "other")


@pytest.mark.external
def test_what_a_database_cannot_do_is_one_line(shop: Path, address: str, tmp_path: Path) -> None:
    push.push("mine", address, new="there")
    (tmp_path / "long.csv").write_text(f"path,{'x' * 64}\nshop/000.png,1\n")
    simrec.build("long", str(tmp_path / "long.csv"), encoder="tiny")
    for words, says in (
        (["index", "push", "long", f"{address}_long"], "63 bytes: shorten it in the source, and build a recommender"),
        (["index", "rollback", "there"], "no earlier generation to go back to: see 'simrec index history there'"),
        (["index", "duplicates", "there"], "'simrec index pull there --as OTHER' brings them here first"),
        (["index", "build", "there", "--encoder", "demo"], "build a recommender with another name and push"),
        (["index", "build", "there", "--from-scratch"], "build a recommender with another name and push"),
        (["index", "push", "there", address], "brings them here first"),
        (["index", "push", "mine", "nothing://x#y"], "no engine is called 'nothing'"),
        (["index", "push", "mine", address.partition("#")[0]], "which table"),
        (["index", "push", "mine", "postgresql://me:open-sesame@127.0.0.1:1/x#y"], "check that it runs"),
        (["index", "push", "mine", address, "--as", "demo"], "demo already exists"),
        (["index", "push", "mine", "postgresql:///x?host=/none&password=open-sesame#y"], "///x?host=%2Fnone#y: "),
    ):
        status, _, error = ran(*words)
        assert status == 1, words
        line = error.strip().splitlines()[-1]
        assert says in line and "open-sesame" not in error and line.startswith("Error: "), (words, error)
    with psycopg_of(address) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS theirs (id int)")
    with pytest.raises(StoreError, match="simrec didn't make that table: name another one"):
        push.push("mine", address.partition("#")[0] + "#theirs")
    status, _, error = ran("index", "delete", "there", "--yes")
    assert status == 0 and "Its items are still in postgresql://postgres@" in error


@pytest.mark.external
def test_a_copy_in_another_home_answers_once_its_database_is_named(
    shop: Path, address: str, own_home: Path, tmp_path: Path
) -> None:
    push.push("mine", address, new="there")
    other = tmp_path / "other-home"
    shutil.copytree(own_home / "there", other / "there")
    with pytest.raises(RequestError, match="which you haven't named yet"):
        simrec.open("there", other).similar(picture(1))
    assert ran("--home", other, "index", "connect", "there", address)[0] == 0
    assert simrec.open("there", other).similar(picture(1), 1)
    with psycopg_of(address) as connection:
        table = address.partition("#")[2]
        connection.execute(f"ALTER TABLE {table} RENAME TO {table}_moved")
    with pytest.raises(StoreError, match="there is no such table"):
        simrec.open("there", other).similar(picture(1))
    assert ran("--home", other, "index", "connect", "there", f"{address}_moved")[0] == 0
    assert simrec.open("there", other).similar(picture(1), 1)
    assert [kept.change.command for kept in generations.history("there", home_folder=other) if kept.change] == [
        "index.connect", "index.push"
    ]  # fmt: skip


@pytest.mark.external
def test_connecting_to_a_table_with_another_number_of_items_is_noted(shop: Path, address: str, tmp_path: Path) -> None:
    save(tmp_path / "elsewhere", 70)
    simrec.build("few", str(tmp_path / "elsewhere"), encoder="tiny")
    push.push("mine", address, new="there")
    push.push("few", f"{address}_few")
    assert "that table has" not in ran("index", "connect", "there", address)[2]
    assert "there: that table has 1 item, and there had 40: " in ran("index", "connect", "there", f"{address}_few")[2]


@pytest.mark.external
@pytest.mark.parametrize("engine", ["postgresql", "lancedb"])
def test_a_column_that_another_program_dropped_comes_back_with_replace(
    shop: Path, address: str, engine: str, tmp_path: Path
) -> None:
    if engine == "postgresql":
        push.push("mine", address, new="there")
        with psycopg_of(address) as connection:
            connection.execute(f"ALTER TABLE {address.partition('#')[2]} DROP price")
    else:
        import lancedb

        address = f"lancedb://{tmp_path}/lance#items"
        push.push("mine", address, new="there")
        lancedb.connect(tmp_path / "lance").open_table("items").drop_columns(["price"])
    save(shop, 50)
    priced(shop, [*range(40), 50])
    index.sync("mine")
    for words in (["index", "verify", "there"], ["index", "push", "mine", address]):
        assert "'simrec index push NAME ADDRESS --replace' makes the table again" in ran(*words)[2]
    push.push("mine", address, how=Pushing(replace=True))
    alike("there", "mine")


@pytest.mark.external
def test_an_index_in_the_database_finds_nearly_all(shop: Path, address: str) -> None:
    push.push("mine", address, how=Pushing("float16", approximate=True), new="there")
    ours, theirs = simrec.open("there").similar(picture(3), 5), simrec.open("mine").similar(picture(3), 5)
    assert len({m.id for m in ours} & {m.id for m in theirs}) >= 4
    assert len(simrec.open("there").similar(picture(3), 10, where="price > 40")) == 10
    push.push("mine", address)
    alike("there", "mine")


@pytest.mark.external
def test_a_server_leaves_out_a_recommender_whose_table_is_gone_unless_it_is_named(shop: Path, address: str) -> None:
    push.push("mine", address, new="there")
    with psycopg_of(address) as connection:
        connection.execute(f"DROP TABLE {address.partition('#')[2]}")
    notices: list[str] = []
    assert list(opened([], notice=notices.append).served) == ["mine"]
    (notice,) = notices
    assert notice.startswith("there: postgresql://") and "there is no such table" in notice
    with pytest.raises(StoreError, match="^there: postgresql://.*there is no such table"):
        opened(["mine", "there"])


@pytest.mark.external
def test_a_server_goes_on_if_one_of_its_recommenders_cannot_answer_unless_it_is_named(shop: Path, address: str) -> None:
    push.push("mine", address, new="there")
    with psycopg_of(address) as connection:
        connection.execute(f"ALTER TABLE {address.partition('#')[2]} DROP price")
    line, said = serving("--workers", "1")
    assert line.startswith("Serving mine, there at http://")
    assert len(re.findall("^there: postgresql://.*does not exist", said, re.MULTILINE)) == 1
    line, said = serving("there")
    assert not line and re.match("Error: there: postgresql://.*does not exist", said)


@pytest.mark.external
def test_a_server_opens_a_folder_of_qdrant_in_a_single_process(shop: Path, tmp_path: Path) -> None:
    push.push("mine", f"qdrant://{tmp_path}/qdrant#items", new="there")
    line, said = serving("there", "--workers", "2")
    assert line.startswith("Serving there at http://")
    assert said.startswith("One process answers, not 2: no second one can open the table of there.\n")
    line, said = serving("there")
    assert line.startswith("Serving there at http://") and said.strip() == "Interrupted."


def serving(*words: str) -> tuple[str, str]:
    """Runs `simrec serve` until it answers; returns its line on stdout, and its stderr."""
    process = subprocess.Popen(
        [sys.executable, "-m", "simrec", "serve", "--port", "0", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    line = process.stdout.readline()
    if address := re.search(r"http://\S+", line):
        urllib.request.urlopen(address[0]).close()
    process.send_signal(signal.SIGINT)
    return line, process.communicate(timeout=60)[1]


def psycopg_of(address: str):  # type: ignore[no-untyped-def]
    import psycopg

    return psycopg.connect(address.partition("#")[0], autocommit=True)
