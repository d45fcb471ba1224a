"""`simrec serve`: its API as a client sees it, and what it refuses."""

from __future__ import annotations

import csv
import io
import json
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

import simrec
from simrec.errors import ImageError, RequestError
from simrec.queries import Query
from simrec.recommender import Recommender
from simrec.serve import operations, pages
from simrec.serve.app import application
from simrec.serve.batching import Together
from simrec.serve.guard import Rules
from simrec.serve.running import Address
from simrec.serve.shelf import Shelf, opened
from simrec.sources.load import Pictures
from simrec.verbs import looking
from simrec.verbs.export import Wishes, export

ODD = "<img src=x onerror=alert(1)> & 100% of #1?.png"
"""A file's name that a stranger may choose."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, pictures: Pictures) -> Path:
    """A home with the recommender `shop`: 24 pictures in two folders, with prices, and one with an odd name."""
    folder = tmp_path_factory.mktemp("serve")
    rows = []
    labels = np.array(pictures.labels)
    for label in ("Bag", "Sneaker"):
        (folder / "stock" / label).mkdir(parents=True)
        for number, row in enumerate(np.flatnonzero(labels == label)[:12]):
            name = ODD if number == 11 and label == "Bag" else f"{number:02d}.png"
            Image.fromarray(pictures.images[row, :, :, 0]).resize((280, 280)).save(folder / "stock" / label / name)
            rows.append([f"{label}/{name}", f"{label}/{name}", label, 10 + 5 * number, f"{label} {number}"])
    with (folder / "stock" / "list.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "id", "label", "price", "title"], *rows])
    simrec.build("shop", str(folder / "stock" / "list.csv"), encoder="demo", home_folder=folder / "home")
    return folder / "home"


@pytest.fixture(scope="module")
def shelf(home: Path) -> Shelf:
    return opened(["shop", "demo"], home)


@pytest.fixture(scope="module")
def client(shelf: Shelf) -> Iterator[TestClient]:
    with client_of(shelf) as client:
        yield client


def client_of(shelf: Shelf, **rules: object) -> TestClient:
    return TestClient(application(shelf, Rules(**rules)), base_url="http://localhost", raise_server_exceptions=False)  # type: ignore[arg-type]


def jpeg(pictures: Pictures, row: int = 1) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pictures.images[row, :, :, 0]).resize((400, 400)).convert("RGB").save(file, "JPEG")
    return file.getvalue()


def post(
    client: TestClient, *, file: bytes | None = None, name: str = "photo.jpg", path: str = "similar", **form: object
):  # noqa: E501, ANN201
    """A form; as multipart even without a file."""
    files = [("file", (name, file))] if file is not None else []
    return client.post(f"/api/{path}", data=form, files=files or None)


def error(answer: object, status: int) -> str:
    assert answer.status_code == status, answer.text  # type: ignore[attr-defined]
    return answer.json()["error"]  # type: ignore[attr-defined,no-any-return]


def test_an_upload_gets_what_the_command_line_answers(client: TestClient, home: Path, pictures: Pictures) -> None:
    answer = post(client, file=jpeg(pictures), n=3, recommender="shop").json()
    expected = [match.to_json() for match in simrec.open("shop", home).similar(jpeg(pictures), n=3)]
    assert answer["matches"] == [{**match, "query": "photo.jpg"} for match in expected]


def test_an_item_is_looked_up_by_its_id_and_left_out(client: TestClient) -> None:
    matches = post(client, id="Bag/00.png", n=24).json()["matches"]
    assert len(matches) == 23
    assert "Bag/00.png" not in [match["id"] for match in matches]


def test_the_code_of_an_upload_looks_up_the_same_again(client: TestClient, pictures: Pictures) -> None:
    first = post(client, file=jpeg(pictures), n=5).json()
    (code,) = first["codes"]
    again = post(client, code=code, n=5).json()
    assert [(m["id"], m["score"]) for m in again["matches"]] == [(m["id"], m["score"]) for m in first["matches"]]


def test_a_code_of_another_encoder_is_refused(client: TestClient) -> None:
    assert "send the picture again" in error(post(client, code="0123456789abcdef:AAAA"), 400)


def test_a_code_without_numbers_is_refused(client: TestClient, shelf: Shelf) -> None:
    digest = shelf.find("shop").now().manifest.encoder.digest[:16]
    nan = "AADAfw" * 43
    for text in (
        "abc",
        digest,
        f"{digest}:",
        f"{digest}:!!!!",
        f"{digest}:AAAA",
        f"{digest}:{nan[:256]}",
        f"{digest}:{nan}==",
    ):
        assert "no code of 64 numbers" in error(post(client, code=text), 400)


def test_less_like_an_item_is_what_the_library_answers(client: TestClient, home: Path) -> None:
    away = post(client, id="Bag/00.png", less_id="Bag/03.png", n=23).json()["matches"]
    recommender = simrec.open("shop", home)
    expected = recommender.similar(recommender.combined(["id:Bag/00.png"], less=["id:Bag/03.png"]), n=23)
    assert [(match["id"], match["score"]) for match in away] == [(match.id, match.score) for match in expected]
    assert "Bag/03.png" not in [match["id"] for match in away]


def test_filters_and_scores_narrow_the_answer(client: TestClient) -> None:
    matches = post(client, id="Bag/00.png", where="price < 30 AND label = 'Sneaker'", n=24).json()["matches"]
    assert {match["label"] for match in matches} == {"Sneaker"}
    assert {match["fields"]["price"] for match in matches} == {10, 15, 20, 25}
    assert post(client, id="Bag/00.png", min_score="0.9999").json()["matches"] == []


def test_a_part_of_the_picture_is_looked_up(client: TestClient, pictures: Pictures) -> None:
    whole = post(client, file=jpeg(pictures)).json()["codes"]
    part = post(client, file=jpeg(pictures), crop="10%,10%,60%,60%").json()["codes"]
    assert whole != part
    assert "beyond the picture" in error(post(client, file=jpeg(pictures), crop="0,0,900,900"), 422)


def test_a_part_of_an_item_is_looked_up(client: TestClient, home: Path) -> None:
    file, crop = (home.parent / "stock" / "Bag" / "00.png").read_bytes(), "10%,10%,60%,60%"
    part = post(client, id="Bag/00.png", crop=crop, recommender="shop").json()["matches"]
    assert [(one["id"], one["score"]) for one in part] == [
        (one["id"], one["score"]) for one in post(client, file=file, crop=crop, recommender="shop").json()["matches"]
    ]
    assert "send one part per picture" in error(post(client, id="Bag/00.png", crop=[crop, crop]), 400)
    assert "beyond the picture" in error(post(client, id="Bag/00.png", crop="0,0,900,900"), 422)
    other = "Bag/01.png"
    crops = (["", crop], [crop, ""], [crop])
    last, first, short = (post(client, file=file, id=other, crop=one).json()["matches"] for one in crops)
    assert last != first == short  # files come first
    whole, seen = (client.get("/api/recommenders/shop/views/Bag/00.png", params=p).json() for p in ({}, {"crop": crop}))
    assert seen["seen"] == post(client, file=file, crop=crop, path="views").json()["seen"] != whole["seen"]


def test_several_pictures_are_one_question(client: TestClient, pictures: Pictures) -> None:
    files = [("file", (f"{row}.jpg", jpeg(pictures, row))) for row in (1, 2)]
    answer = client.post("/api/similar", files=files, data={"n": 3}).json()
    assert len(answer["matches"]) == 3
    assert len(answer["codes"]) == 2
    assert answer["matches"][0]["query"] == "1.jpg + 2.jpg"


def test_pictures_are_encoded_as_the_library_does(client: TestClient, home: Path, pictures: Pictures) -> None:
    answer = post(client, file=jpeg(pictures), path="encode").json()
    recommender = simrec.open("shop", home)
    images = recommender.read(jpeg(pictures)).images
    assert images is not None
    assert answer["codes"] == recommender.encode(images).tolist()


def test_errors_say_what_the_command_line_says(client: TestClient, home: Path) -> None:
    with pytest.raises(RequestError) as wrong:
        simrec.open("shop", home).similar("id:Bag/00.png", where="prise < 3")
    assert error(post(client, id="Bag/00.png", where="prise < 3"), 400) == str(wrong.value)
    assert error(post(client, id="Bag/0.png"), 400).startswith("no item 'Bag/0.png' in shop")
    assert error(post(client, file=b"hello", name="a.txt"), 422).startswith("a.txt: not a picture")
    assert error(post(client, file=b"", name="a.txt"), 422).startswith("a.txt: the file is empty")
    assert error(post(client, n=3), 400).startswith("nothing to look up")


@pytest.mark.parametrize(
    "form, sentence",
    [
        ({"n": "0"}, "n is a whole number from 1 to 1000, not '0'"),
        ({"n": "ten"}, "n is a whole number from 1 to 1000, not 'ten'"),
        ({"min_score": "nan"}, "min_score is a number, not 'nan'"),
        ({"distinct": "maybe"}, "distinct is true or false, not 'maybe'"),
        ({"wher": "price < 3"}, "no parameter 'wher': did you mean 'where'?"),
        ({"where": "x" * 10_001}, "where has more than 10,000 characters: shorten it"),
        ({"n": ["3", "4"]}, "n is there more than once: leave some out"),
        ({"less": "shoe.jpg"}, "less is a file: send it as that"),
        ({"recommender": "shpo"}, "no recommender 'shpo' is served: did you mean 'shop'?"),
    ],
)
def test_a_wrong_parameter_is_named(client: TestClient, form: dict[str, object], sentence: str) -> None:
    assert error(post(client, **{"id": "Bag/00.png", **form}), 400) == sentence


def test_no_address_is_fetched_and_no_path_is_read(client: TestClient, home: Path) -> None:
    for text in ("http://localhost/a.png", str(home / ".." / "stock" / "Bag" / "00.png"), "../../etc/passwd"):
        assert error(post(client, id=text), 400).startswith("no item")


def test_the_recommenders_are_listed_the_first_one_is_the_usual(client: TestClient) -> None:
    listed = client.get("/api/recommenders").json()["recommenders"]
    assert [(one["name"], one["items"]) for one in listed] == [("shop", 24), ("demo", 10_000)]


def test_a_catalogue_says_what_it_can_be_filtered_by(client: TestClient) -> None:
    facets = {facet["name"]: facet for facet in client.get("/api/recommenders/shop").json()["facets"]}
    assert facets["label"]["choices"] == [{"value": "Bag", "count": 12}, {"value": "Sneaker", "count": 12}]
    assert (facets["price"]["least"], facets["price"]["most"], facets["price"]["whole"]) == (10, 65, True)
    assert len(facets["title"]["choices"]) == 24
    assert "width" not in facets  # all are as wide


def test_a_spread_comes_from_all_over_the_catalogue(client: TestClient) -> None:
    items = client.get("/api/recommenders/shop/items", params={"n": 4}).json()["items"]
    assert [item["label"] for item in items] == ["Bag", "Bag", "Sneaker", "Sneaker"]
    items = client.get("/api/recommenders/shop/items", params={"where": "price > 60"}).json()["items"]
    assert [item["fields"]["price"] for item in items] == [65, 65]


def test_ids_may_have_slashes_and_any_characters(client: TestClient) -> None:
    address = quote(f"Bag/{ODD}")
    assert client.get(f"/api/recommenders/shop/items/{address}").json()["id"] == f"Bag/{ODD}"
    preview = client.get(f"/api/recommenders/shop/previews/{address}")
    assert max(Image.open(io.BytesIO(preview.content)).size) == 128
    assert preview.headers["content-type"] in ("image/jpeg", "image/png")


def test_an_item_without_a_picture_says_so(home: Path, shelf: Shelf, tmp_path: Path) -> None:
    path = export(shelf.find("shop").now(), tmp_path / "shop.parquet", Wishes(columns=["id", "code"]))[0]
    simrec.build("bare", str(path), encoder="demo", home_folder=tmp_path)
    with client_of(opened(["bare"], tmp_path)) as client:
        says = "its code came without a picture"
        assert says in error(client.get("/api/recommenders/bare/previews/Bag/00.png"), 404)
        assert says in error(client.get("/api/recommenders/bare/views/Bag/00.png"), 422)
        assert "no picture to take a part of" in error(post(client, id="Bag/00.png", crop="0%,0%,50%,50%"), 400)
        assert post(client, id="Bag/00.png", distinct="true", n=24).json()["matches"][0]["alike"] == 0


def test_an_original_is_sent_encoded_again(client: TestClient, home: Path) -> None:
    answer = client.get("/api/recommenders/shop/originals/Bag/00.png", params={"edge": 200})
    assert Image.open(io.BytesIO(answer.content)).size == (200, 200)
    whole = client.get("/api/recommenders/shop/originals/Bag/00.png")
    assert whole.content != (home.parent / "stock" / "Bag" / "00.png").read_bytes()
    assert Image.open(io.BytesIO(whole.content)).size == (280, 280)


def test_no_original_is_sent_from_outside_the_users_own_folders(home: Path, tmp_path: Path) -> None:
    elsewhere = Shelf([Recommender(home / "shop")], tmp_path)  # a home that remembers no folder
    with client_of(elsewhere) as client:
        sentence = error(client.get("/api/recommenders/shop/originals/Bag/00.png"), 404)
        assert sentence.startswith("no original of 'Bag/00.png'")
        assert client.get("/api/recommenders/shop/previews/Bag/00.png").status_code == 200


def test_what_the_encoder_makes_of_a_picture_is_shown(client: TestClient, pictures: Pictures) -> None:
    for views in (
        client.get("/api/recommenders/shop/views/Bag/00.png").json(),
        post(client, file=jpeg(pictures), path="views").json(),
    ):
        assert views["seen"].startswith("data:image/png;base64,")
        assert views["rebuilt"] != views["seen"]
        assert views["difference"].startswith("data:image/png;base64,")
        assert 0 < views["error"] < 0.2


@pytest.mark.parametrize(
    "path",
    ["items/none", "previews/none", "originals/none", "views/none", "items/", "items/..%2f..%2fetc%2fpasswd", "none"],
)
def test_what_is_not_there_is_a_404(client: TestClient, path: str) -> None:
    assert error(client.get(f"/api/recommenders/shop/{path}"), 404)
    assert "did you mean 'shop'" in error(client.get("/api/recommenders/shpo/items"), 404)


def test_every_operation_is_described_and_answers_as_described(client: TestClient) -> None:
    document = client.get("/api/openapi.json").json()
    assert document["openapi"] == "3.1.0"
    described = {
        (method.upper(), path) for path, methods in document["paths"].items() for method in methods
    }  # fmt: skip
    assert described == {(one.method, one.path) for one in operations.OPERATIONS}
    forms = document["paths"]["/api/similar"]["post"]["requestBody"]["content"]
    assert "code" in forms["application/x-www-form-urlencoded"]["schema"]["properties"]
    assert set(forms["multipart/form-data"]["schema"]["properties"]) == set(operations.OPERATIONS[0].of("form"))
    answers = {
        "similar": post(client, id="Bag/00.png", distinct="true"),
        "recommenders": client.get("/api/recommenders"),
        "recommender": client.get("/api/recommenders/shop"),
        "items": client.get("/api/recommenders/shop/items"),
        "item": client.get("/api/recommenders/shop/items/Bag/00.png"),
        "item_views": client.get("/api/recommenders/shop/views/Bag/00.png"),
        "healthz": client.get("/healthz"),
    }
    for one in operations.OPERATIONS:
        if one.name in answers:
            fits(answers[one.name].json(), one.answer, document)  # type: ignore[arg-type]
    fits(client.get("/api/recommenders/none").json(), {"$ref": "#/components/schemas/Error"}, document)


KINDS = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "object": dict, "array": list}


def fits(value: object, schema: dict[str, object], document: dict[str, object]) -> None:
    """Asserts that a value matches a schema, for the parts of JSON Schema that the document uses."""
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]  # type: ignore[index,attr-defined]
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if value is None:
        assert "null" in kinds  # type: ignore[operator]
        return
    if kinds:
        assert any(isinstance(value, KINDS[kind]) for kind in kinds if kind != "null"), (value, schema)  # type: ignore[union-attr]
    if "enum" in schema:
        assert value in schema["enum"]  # type: ignore[operator]
    if isinstance(value, list):
        for one in value:
            fits(one, schema.get("items", {}), document)  # type: ignore[arg-type]
    if isinstance(value, dict):
        assert set(schema.get("required", [])) <= set(value)  # type: ignore[call-overload]
        for name, one in value.items():
            fits(one, schema.get("properties", {}).get(name, {}), document)  # type: ignore[attr-defined]
        if "properties" in schema:
            assert set(value) <= set(schema["properties"])  # type: ignore[call-overload]


def test_every_answer_is_safe_for_browsers(client: TestClient) -> None:
    for path in ("/", "/api/recommenders", "/api/recommenders/shop/previews/Bag/00.png", "/none", "/healthz"):
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "unsafe" not in headers["content-security-policy"]
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "192.168.0.7", "", "[::1", "a b"])
def test_a_name_that_is_not_its_own_is_refused(client: TestClient, host: str) -> None:
    assert "--allow-host" in error(client.get("/api/recommenders", headers={"Host": host}), 421)


def test_it_answers_under_the_given_names(shelf: Shelf) -> None:
    rules = Address("0.0.0.0", names=("Shop.Example",)).rules
    with TestClient(application(shelf, rules), base_url="http://localhost") as client:
        for host in ("shop.example", "shop.example:8000", "192.168.0.7:8000", "[fe80::1]:8000", "127.0.0.1"):
            assert client.get("/api/recommenders", headers={"Host": host}).status_code == 200
        assert client.get("/api/recommenders", headers={"Host": "other.example"}).status_code == 421


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:3000"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_pages_of_other_sites_may_not_ask(client: TestClient, headers: dict[str, str]) -> None:
    assert error(client.post("/api/similar", data={"id": "Bag/00.png"}, headers=headers), 403)
    assert error(client.get("/api/recommenders", headers=headers), 403)
    own = {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"}
    assert client.post("/api/similar", data={"id": "Bag/00.png"}, headers=own).status_code == 200


def test_a_named_site_may_ask(shelf: Shelf) -> None:
    with client_of(shelf, origins=frozenset({"https://shop.example"})) as client:
        headers = {"Origin": "https://shop.example", "Sec-Fetch-Site": "cross-site"}
        answer = client.post("/api/similar", data={"id": "Bag/00.png"}, headers=headers)
        assert answer.headers["access-control-allow-origin"] == "https://shop.example"
        allowed = client.options("/api/similar", headers={**headers, "Access-Control-Request-Method": "POST"})
        assert (allowed.status_code, allowed.headers["access-control-allow-methods"]) == (200, "GET, POST")
        assert client.get("/api/recommenders", headers={"Origin": "https://evil.example"}).status_code == 403


def test_a_token_is_asked_for_and_exchanged_for_a_cookie(shelf: Shelf) -> None:
    with client_of(shelf, token="s3cret") as client:
        for path in (
            "/api/recommenders",
            "/api/recommenders/shop/previews/Bag/00.png",
            "/metrics",
            "/api/openapi.json",
        ):
            assert "needs a token" in error(client.get(path), 401)
        for path in ("/", "/healthz"):
            assert client.get(path).status_code == 200
        wrong = {"Authorization": "Bearer secret"}
        assert client.post("/api/session", headers=wrong).status_code == 401
        right = {"Authorization": "Bearer s3cret"}
        assert client.get("/api/recommenders", headers=right).status_code == 200
        given = client.post("/api/session", headers=right)
        cookie = given.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert "s3cret" not in cookie
        assert client.get("/api/recommenders/shop/previews/Bag/00.png").status_code == 200
        foreign = {"Origin": "https://evil.example"}
        assert client.post("/api/similar", data={"id": "Bag/00.png"}, headers=foreign).status_code == 403


def test_a_body_that_is_too_large_is_refused(client: TestClient) -> None:
    assert error(post(client, file=bytes(33_000_000)), 413) == "more than 32 MB: send smaller pictures"

    def pieces() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        yield from (bytes(1 << 20) for _ in range(40))

    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    assert error(client.post("/api/similar", content=pieces(), headers=kind), 413)


@pytest.mark.parametrize(
    "kind, body, status",
    [
        ("application/json", b"{}", 415),
        ("multipart/form-data", b"", 400),
        ("multipart/form-data; boundary=b", b"--b\r\nnonsense", 400),
        ("multipart/form-data; boundary=b", b'--b\r\nContent-Disposition: form-data; name="n"\r\n\r\n3', 400),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="n"\r\n\r\n\xff\r\n--b--',
            400,
        ),
        ("application/x-www-form-urlencoded", b"n=%ff&&&=&", 400),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="id"\r\n\r\nx\r\n' * 200,
            400,
        ),
    ],
)
def test_a_malformed_form_is_one_error(client: TestClient, kind: str, body: bytes, status: int) -> None:
    assert error(client.post("/api/similar", content=body, headers={"Content-Type": kind}), status)


def test_a_file_name_does_nothing(client: TestClient) -> None:
    for name in ("<script>alert(1)</script>", "../../etc/passwd", "a\nb", "x" * 1000):
        sentence = error(post(client, file=b"hello", name=name), 422)
        assert "\n" not in sentence
        assert len(sentence) < 300
    answer = post(client, file=b"hello", name="<script>alert(1)</script>")
    assert answer.headers["content-type"] == "application/json"


def test_the_numbers_of_requests_are_there_for_prometheus(client: TestClient) -> None:
    post(client, id="Bag/00.png")
    text = client.get("/metrics").text
    assert int(re.findall(r'simrec_requests_total\{operation="similar",status="200"\} (\d+)', text)[0]) > 0
    assert 'simrec_request_seconds_bucket{le="+Inf",operation="similar"}' in text
    assert 'simrec_items{recommender="shop"} 24.0' in text
    for line in text.splitlines():
        assert re.fullmatch(r"# (HELP|TYPE) .+|[a-z_]+(\{[^}]*\})? [0-9.e+-]+", line), line


def queued(together: Together[Any, Any], first: Any, others: Sequence[Any], begun: threading.Event) -> list[Any]:
    """The results and errors of `others`, which came during the work on `first`."""
    results: list[Any] = [None] * len(others)

    def ask(place: int) -> None:
        try:
            results[place] = together(others[place])
        except Exception as error:
            results[place] = error

    threads = [threading.Thread(target=together, args=(first,))]
    threads[0].start()
    assert begun.wait(30)
    threads += [threading.Thread(target=ask, args=(place,)) for place in range(len(others))]
    for thread in threads[1:]:
        thread.start()
    while len(together._waiting) < len(others):
        threading.Event().wait(0.001)
    together.go_on.set()  # type: ignore[attr-defined]
    for thread in threads:
        thread.join()
    return results


@pytest.fixture
def held() -> tuple[Together[looking.Work, looking.Result], threading.Event]:
    """A `Together` that waits in its first batch, and an event that says that this has begun."""
    begun, go_on = threading.Event(), threading.Event()

    def do(works: Sequence[looking.Work]) -> list[looking.Result]:
        begun.set()
        assert go_on.wait(30)
        return looking.done(works)

    together = Together(do)
    together.go_on = go_on  # type: ignore[attr-defined]
    return together, begun


def work_of(demo: Recommender, images: np.ndarray, n: int = 5) -> looking.Work:
    return looking.Work(demo, [Query("picture", images)], n=n)


def test_waiting_requests_are_answered_together(
    demo: Recommender, pictures: Pictures, held: tuple[Together[looking.Work, looking.Result], threading.Event]
) -> None:
    together, begun = held
    works = [work_of(demo, pictures.images[row : row + 1], 5 if row % 2 else 7) for row in range(20)]
    results = queued(together, works[0], works, begun)
    assert together.counted() == (2, 21)
    for row, result in enumerate(results):
        alone = demo.similar(pictures.images[row], 5 if row % 2 else 7)
        assert [match.id for match in result.matches[1:]] == [match.id for match in alone[: len(result.matches) - 1]]
        code = demo.encode(pictures.images[row : row + 1])
        np.testing.assert_allclose(result.queries[0].code, code, atol=1e-5)


def test_an_error_in_a_batch_reaches_only_its_own_request(
    demo: Recommender, pictures: Pictures, held: tuple[Together[looking.Work, looking.Result], threading.Event]
) -> None:
    together, begun = held
    right, wrong = work_of(demo, pictures.images[:1]), work_of(demo, pictures.images[:1].astype(np.float32))
    first, error, last = queued(together, right, [right, wrong, right], begun)
    assert isinstance(error, ImageError)
    assert [match.id for match in first.matches] == [match.id for match in last.matches] != []


def test_a_new_generation_is_picked_up_without_a_failed_request(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simrec.serve.shelf.EVERY", 0.0)
    simrec.build("own", str(photos), encoder="demo", home_folder=tmp_path)
    shelf, statuses, ended = opened(["own"], tmp_path), [], threading.Event()
    with client_of(shelf) as client:
        first = client.get("/api/recommenders").json()["recommenders"][0]

        def ask() -> None:
            picture = next(photos.rglob("*.png")).read_bytes()
            while not ended.is_set():
                statuses.append(post(client, file=picture).status_code)

        thread = threading.Thread(target=ask)
        thread.start()
        for number in range(5):
            file = next(photos.rglob("*.png"))
            Image.open(file).rotate(10 * number + 10).save(photos / "Bag" / f"new{number}.png")
            simrec.sync("own", context=simrec.Context(home=tmp_path))
        ended.set()
        thread.join()
        last = client.get("/api/recommenders").json()["recommenders"][0]
    assert set(statuses) == {200}
    assert (first["items"], last["items"]) == (40, 45)


def test_without_names_the_users_own_are_served_else_the_demo(home: Path, tmp_path: Path) -> None:
    assert list(opened([], home).served) == ["shop"]
    assert list(opened([], tmp_path).served) == ["demo"]
    with pytest.raises(RequestError, match="named twice"):
        opened(["shop", "shop"], home)


def test_a_taken_port_is_one_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(RequestError, match="cannot listen there .*: name another --port"):
            Address(port=taken.getsockname()[1]).bound()
    with pytest.raises(RequestError, match="not an address of this machine"):
        Address("no.such.host.invalid").bound()


def test_the_page_is_small_and_brings_all_it_needs(client: TestClient) -> None:
    sizes = {path: len(data) for path, (data, kind, _) in pages.files().items() if "html" not in kind}
    assert sum(sizes.values()) < 60_000
    for path, (data, _, tag) in pages.files().items():
        answer = client.get(path)
        assert answer.content == data
        assert client.get(path, headers={"If-None-Match": tag}).status_code == 304
        for address in re.findall(rb"https?://[^\s\"')]+", data):
            assert address.startswith(b"http://www.w3.org/"), address
        assert b" style=" not in data
        assert b" onclick=" not in data


def test_the_command_serves_until_it_is_interrupted(home: Path) -> None:
    import signal
    from urllib.request import urlopen

    process = subprocess.Popen(
        [sys.executable, "-m", "simrec", "--home", str(home), "serve", "--port", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        address = re.findall(r"Serving shop at (http://127\.0\.0\.1:\d+/) ", line)[0]
        with urlopen(f"{address}api/recommenders") as answer:
            assert json.load(answer)["recommenders"][0]["name"] == "shop"
    finally:
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert said.strip() == "Interrupted."
