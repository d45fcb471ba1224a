"""Collections of Qdrant: what others see of them, the errors if they can't be used, and which of two pushes wins."""

from __future__ import annotations

import multiprocessing
import pickle
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import simrec_qdrant.engine
from qdrant_client import QdrantClient, models
from qdrant_edge_client import QdrantEdge
from simrec_qdrant.engine import Qdrant

from simrec.contracts import Row, masks
from simrec.contracts.filters import AllOf, Compared, Like
from simrec.engine_testing import _column, _compare, drawn, read, same, table_of, write
from simrec.errors import RequestError, StoreError

pytestmark = pytest.mark.external

TABLE = table_of()


@pytest.fixture
def place(tmp_path: Path) -> str:
    """The address of a folder; a collection's name completes it."""
    return f"qdrant://{tmp_path}#"


@pytest.fixture
def opened(place: str) -> Iterator[Qdrant]:
    """A collection of two hundred items."""
    with closing(Qdrant(f"{place}items", notice=print)) as engine:
        write(engine, TABLE, drawn(TABLE, 200))
        yield engine


def test_others_see_each_item_once_with_its_fields(opened: Qdrant, place: str, tmp_path: Path) -> None:
    write(opened, TABLE, drawn(TABLE, 100, seed=1), [row.item.id for row in drawn(TABLE, 200)[150:]])
    opened.close()
    with closing(QdrantClient(path=str(tmp_path))) as client:
        row = drawn(TABLE, 100, seed=1)[7]
        points = client.query_points("items", query=row.code.tolist(), using="code", limit=1000).points
        assert len(points) == 150 and points[0].payload["id"] == row.item.id
        theirs = {point.payload["id"]: point.payload for point in points}
        assert theirs[row.item.id]["stock"] == row.item.fields["stock"]


def test_doubles_come_back_to_the_last_digit(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    numbers = [*(rng.standard_normal(500) * 10.0 ** rng.integers(-300, 300, 500)), float("inf"), -0.0, 5e-324, 1 / 3]
    table = replace(TABLE, fields={"number": "double"})
    rows = [
        row._replace(item=row.item._replace(fields={"number": float(number)}))
        for row, number in zip(drawn(TABLE, len(numbers)), numbers, strict=True)
    ]
    for kind, scheme in ((Qdrant, "qdrant"), (QdrantEdge, "qdrant-edge")):
        with closing(kind(f"{scheme}://{tmp_path}/{scheme}#items", notice=print)) as engine:
            write(engine, table, rows)
            same(read(engine, previews=True), rows)
            for number in numbers[::50]:
                assert engine.count(Compared("number", "=", float(number))) == 1
                assert engine.count(Compared("number", "<", float(number))) == sum(np.array(numbers) < number)


def test_what_qdrant_cannot_say_is_found_among_few_and_many(opened: Qdrant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simrec_qdrant.engine, "RANKED", 20)
    rows = drawn(TABLE, 200)
    for condition in (Like("colour", "red"), Like("id", "%1%"), AllOf((Like("id", "%"), Compared("stock", ">", 3)))):
        mask = masks.mask(condition, lambda name: _column(rows, name), len(rows))
        assert 0 < mask.sum() < len(rows)
        _compare(opened, [row for row, one in zip(rows, mask, strict=True) if one], condition, 1e-5, among=rows)


def test_reading_rows_while_they_are_written_is_an_error(opened: Qdrant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simrec_qdrant.engine, "READ", 50)
    reading = opened.rows()
    next(reading)
    write(opened, TABLE, drawn(TABLE, 200, seed=1))
    with pytest.raises(StoreError, match="written while it was read: try again"):
        list(reading)


def test_rows_of_a_push_may_come_from_the_collection_itself(opened: Qdrant) -> None:
    def rows() -> Iterator[Sequence[Row]]:
        for some in opened.rows(previews=True):
            yield [row._replace(digest=row.digest[::-1]) for row in some]

    opened.apply(TABLE, rows(), [], replace=False)
    assert {row.digest for row in read(opened)} == {row.digest[::-1] for row in drawn(TABLE, 200)}


def test_of_two_pushes_at_a_time_the_later_one_wins(tmp_path: Path) -> None:
    address = f"qdrant-edge://{tmp_path}#items"
    with closing(QdrantEdge(address, notice=print)) as one, closing(QdrantEdge(address, notice=print)) as other:
        write(one, TABLE, drawn(TABLE, 50))

        def rows() -> Iterator[Sequence[Row]]:
            yield drawn(TABLE, 50, seed=1)[:20]
            write(other, TABLE, drawn(TABLE, 40, seed=2))
            yield drawn(TABLE, 50, seed=1)[20:]

        for replaced in (False, True):
            with pytest.raises(StoreError):
                one.apply(TABLE, rows(), [], replace=replaced)
            same(read(other, previews=True), [*drawn(TABLE, 40, seed=2), *drawn(TABLE, 50)[40:]])


@pytest.mark.parametrize(
    "address",
    [
        "qdrant://host", "qdrant://host#", "qdrant://host#a/b", "qdrant://host#a.simrec-1", "qdrant:///#x",
        "qdrant://host/path#x", "qdrant://host:port#x", "qdrant://open-sesame@host#x", "qdrant-https:///folder#x",
        "qdrant://host?api_key=open-sesame#x",
    ],
)  # fmt: skip
def test_an_invalid_address_is_refused_in_one_line(address: str) -> None:
    with pytest.raises(RequestError, match="[Ww]rite qdrant(-https)?://HOST:PORT#NAME") as error:
        Qdrant(address, notice=print)
    assert "\n" not in str(error.value) and "open-sesame" not in str(error.value)


def test_a_server_that_doesnt_answer_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QDRANT_API_KEY", "open-sesame")
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        with pytest.raises(StoreError, match=f"^qdrant://127.0.0.1:{port}#x: .*check that it runs there$") as error:
            len(Qdrant(f"qdrant://127.0.0.1:{port}#x", notice=print))
    assert "\n" not in str(error.value) and "open-sesame" not in str(error.value)


def test_a_wrong_key_is_an_error_that_doesnt_show_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    given = []

    class Refusing(BaseHTTPRequestHandler):
        def do_POST(self) -> None:  # noqa: N802
            given.append(self.headers["api-key"])
            self.rfile.read(int(self.headers["content-length"]))
            self.send_error(401, "Unauthorized")

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.setenv("QDRANT_API_KEY", "open-sesame")
    with HTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        with pytest.raises(StoreError, match=r"is QDRANT_API_KEY right\?$") as error:
            len(Qdrant(f"qdrant://127.0.0.1:{server.server_port}#x", notice=print))
    assert given == ["open-sesame"] and "open-sesame" not in str(error.value) and "\n" not in str(error.value)


def test_a_key_that_goes_unencrypted_to_another_machine_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QDRANT_API_KEY", "open-sesame")
    notices: list[str] = []
    for address in ("qdrant://127.0.0.1#x", "qdrant-https://qdrant.example#x", "qdrant://qdrant.example#x"):
        Qdrant(address, notice=notices.append).close()
    assert notices == ["qdrant://qdrant.example#x: QDRANT_API_KEY goes there unencrypted: qdrant-https:// encrypts it."]


def test_a_forked_process_connects_to_the_server_itself() -> None:
    clients = []

    class Empty(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:  # noqa: N802
            clients.append(self.client_address)
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.2", 0), Empty) as server:  # to 127.0.0.1 qdrant-client keeps no connection
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with closing(Qdrant(f"qdrant://127.0.0.2:{server.server_port}#x", notice=print)) as engine:
            assert engine.table is None
            process = multiprocessing.get_context("fork").Process(target=lambda: engine.table)
            process.start()
            process.join()
            assert engine.table is None
        server.shutdown()
    ours, forked, again = clients
    assert process.exitcode == 0 and ours == again != forked


def test_a_folder_that_isnt_qdrants_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    for folder in ("other", "none"):
        engine = Qdrant(f"qdrant://{tmp_path}/{folder}#items", notice=print)
        assert engine.table is None
        with pytest.raises(StoreError, match="there is no such collection: 'simrec index push' makes it"):
            len(engine)
    assert [path.name for path in tmp_path.rglob("*")] == ["other"]


def test_a_folder_that_another_process_uses_is_one_line(opened: Qdrant, place: str) -> None:
    program = f"""
from simrec.errors import StoreError
from simrec_qdrant.engine import Qdrant
try:
    Qdrant({place + "items"!r}, notice=print)
except StoreError as error:
    print(error)
"""
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert said.startswith(f"{place}items: ") and said.count("\n") == 1
    assert said.endswith(": close what else uses the folder, or run a server of Qdrant\n")


def test_a_folder_that_would_run_code_is_refused(opened: Qdrant, place: str, tmp_path: Path) -> None:
    opened.close()
    (storage,) = tmp_path.glob("collection/*/storage.sqlite")

    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "ran",)

    with closing(sqlite3.connect(storage)) as database, database:
        database.execute("INSERT INTO points VALUES ('x', ?)", (pickle.dumps(Evil()),))
    with pytest.raises(StoreError, match="may run code"):
        Qdrant(f"{place}items", notice=print)
    with closing(sqlite3.connect(storage)) as database, database:
        database.execute("DELETE FROM points WHERE id = 'x'")
        database.execute("ALTER TABLE points RENAME TO other")
        database.execute("CREATE VIEW points AS SELECT * FROM other")
    with pytest.raises(StoreError, match="not a collection of Qdrant"):
        Qdrant(f"{place}items", notice=print)
    assert not (tmp_path / "ran").exists()


def test_a_collection_that_simrec_didnt_make_is_not_touched(tmp_path: Path, place: str) -> None:
    with closing(QdrantClient(path=str(tmp_path))) as client:
        client.create_collection("items", vectors_config=models.VectorParams(size=2, distance=models.Distance.DOT))
        client.upsert("items", [models.PointStruct(id=1, vector=[1, 2], payload={"id": "theirs"})])
    with closing(Qdrant(f"{place}items", notice=print)) as engine:
        for replaced in (False, True):
            with pytest.raises(StoreError, match="simrec didn't make that collection: name another one"):
                write(engine, TABLE, drawn(TABLE, 10), replace=replaced)
    with closing(QdrantClient(path=str(tmp_path))) as client:
        assert client.count("items").count == 1


def test_two_clients_of_a_folder_in_one_process_share_it(opened: Qdrant, place: str) -> None:
    with closing(Qdrant(f"{place}items", notice=print)) as other, closing(Qdrant(f"{place}more", notice=print)) as more:
        write(opened, TABLE, drawn(TABLE, 20, seed=1))
        assert len(other) == 200 and other.count(Like("id", "%000019%")) == 1
        write(more, TABLE, drawn(TABLE, 10))
        assert len(more) == 10 and len(opened) == 200
