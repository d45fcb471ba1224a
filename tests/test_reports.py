"""Answers as HTML: the report in one file, and the row of pictures in a notebook."""

from __future__ import annotations

import base64
import copy
import hashlib
import io
import json
import pickle
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

import simrec
from simrec import home, reports
from simrec.cli import main
from simrec.display import Display
from simrec.queries import Match, Query
from simrec.recommender import Recommender

HOSTILE = "<script>alert(1)</script>\"'&amp;<img src=x onerror=alert(2)>"


class Page(HTMLParser):
    """What a browser finds in a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.cells: list[dict[str, str]] = []
        self.inside: dict[str, str] = {}
        self._cell = self._text_of = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.tags.append((tag, found))
        self._cell = found.get("data-name", "") if tag == "td" else self._cell
        self._text_of = tag
        if tag == "tr":
            self.cells.append({})

    def handle_endtag(self, tag: str) -> None:
        self._cell = "" if tag == "td" else self._cell
        self._text_of = ""

    def handle_data(self, data: str) -> None:
        self.inside[self._text_of] = self.inside.get(self._text_of, "") + data
        if self._cell:
            self.cells[-1][self._cell] = self.cells[-1].get(self._cell, "") + data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def pictures(self) -> list[Image.Image]:
        sources = [attributes["src"] for attributes in self.all("img")]
        assert all(re.match("data:image/(png|jpeg);base64,", source) for source in sources)
        return [Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) for source in sources]


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A catalogue of plain pictures with titles and prices, one with a nasty name."""
    folder = tmp_path / "stock"
    folder.mkdir()
    rows = ["path,id,title,price"]
    for number, price in enumerate(["9.5", "100", "", "20"]):
        Image.new("RGB", (800, 600), (60 * number, 40, 200 - 50 * number)).save(folder / f"{number}.png")
        title = '"' + HOSTILE.replace('"', '""') + '"' if number == 1 else f"thing {number}"
        rows.append(f"stock/{number}.png,{'<b>one</b>' if number == 1 else number},{title},{price}")
    (tmp_path / "shop.csv").write_text("\n".join(rows))
    simrec.build("shop", str(tmp_path / "shop.csv"), encoder="photo")
    Image.new("RGB", (500, 400), (70, 40, 150)).save(tmp_path / "<i>query.png")
    return folder


def report(*words: str, status: int = 0) -> Page:
    with pytest.raises(SystemExit) as leaving:
        main(["similar", *words, "--html", "report.html"])
    assert (leaving.value.code or 0) == status
    return Page(Path("report.html").read_text(encoding="utf-8"))


def test_a_report_is_one_file_that_loads_nothing_and_runs_only_its_own_script(shop: Path) -> None:
    page = report("<i>query.png", "--index", "shop")
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"link", "iframe", "object", "base", "i", "b", "a"}
    assert not any(name.startswith("on") or name == "style" for _, found in page.tags for name in found)
    assert len(page.all("script")) == len(page.all("style")) == 1
    (policy,) = [found["content"] for found in page.all("meta") if found.get("http-equiv")]
    assert policy.startswith("default-src 'none'; img-src data:; ")
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        digest = base64.b64encode(hashlib.sha256(page.inside[tag].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_a_report_says_what_was_asked_and_what_answered(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = report("<i>query.png", "--index", "shop", "--format", "json")
    answers = json.loads(capsys.readouterr().out)
    cells = page.cells[1:]
    assert [cell["id"] for cell in cells] == [row["id"] for row in answers]
    assert [cell["score"] for cell in cells] == [f"{row['score']:.3f}" for row in answers]
    prices = {row["id"]: row["fields"].get("price") for row in answers}
    assert prices == {"0": 9.5, "<b>one</b>": 100, "2": None, "3": 20}
    assert {cell["id"]: cell["price"] for cell in cells} == {"0": "9.5", "<b>one</b>": "100", "2": "-", "3": "20"}
    assert HOSTILE in [cell["title"] for cell in cells]
    text = Path("report.html").read_text()
    assert "<h2>&lt;i&gt;query.png</h2>" in text
    assert "1 query, 4 answers." in text
    assert str(shop.parent) not in text  # where the files of whoever sends it are


def test_a_report_has_the_fields_that_were_asked_for(shop: Path) -> None:
    page = report("<i>query.png", "--index", "shop", "--show", "price,id")
    assert [head.get("data-name") for head in page.all("th")] == [None, "rank", "score", "percentile", "id", "price"]


@pytest.mark.parametrize("words", [["--show", "score,price"], []], ids=["chosen", "all"])
def test_a_field_named_like_a_figure_has_a_column_of_its_own_in_the_report(shop: Path, words: list[str]) -> None:
    Path("odd.csv").write_text("path,score,price\nstock/0.png,77,9\n")
    simrec.build("odd", "odd.csv", encoder="photo")
    page = report("<i>query.png", "--index", "odd", *words)
    names = [head.get("data-name") for head in page.all("th")]
    assert len(set(names)) == len(names)
    assert page.cells[1]["field_score"] == "77"
    assert float(page.cells[1]["score"]) <= 1


def test_a_report_has_the_originals_where_they_are_this_users_else_previews_and_says_so(
    shop: Path, own_home: Path
) -> None:
    (own_home / home.ROOTS).unlink()
    small = report("<i>query.png", "--index", "shop")
    assert [max(picture.size) for picture in small.pictures] == [320, 128, 128, 128, 128]
    assert "4 that do not lie below a folder" in Path("report.html").read_text()
    large = report("<i>query.png", "--index", "shop", "--originals", str(shop))
    assert [picture.size for picture in large.pictures] == [(320, 256), *[(320, 240)] * 4]
    assert "previews" not in Path("report.html").read_text()


def test_several_pictures_as_one_query_are_all_in_the_report(shop: Path) -> None:
    page = report("<i>query.png", "id:2", "--together", "--index", "shop")
    assert [picture.size for picture in page.pictures[:2]] == [(320, 256), (320, 240)]
    assert "<h2>&lt;i&gt;query.png + id:2</h2>" in Path("report.html").read_text()


def test_a_report_says_what_answers_should_not_look_like_and_how_much_a_picture_counts(shop: Path) -> None:
    page = report("<i>query.png", "id:2*2", "--together", "--less", "id:3", "--index", "shop")
    assert page.inside["figcaption"] == "<i>query.pngquery x2: id:2unlike: id:3"
    assert page.all("figure") == [{}, {}, {"class": "unlike"}]


def test_a_folder_of_queries_has_a_section_each_and_those_that_failed_are_counted(shop: Path) -> None:
    (shop / "broken.png").write_text("no picture")
    page = report(str(shop), "--index", "shop", "-n", "2", "--with-copies", status=1)
    assert len(page.all("section")) == 4
    assert "1 query could not be answered." in Path("report.html").read_text()


def test_the_queries_of_a_folder_are_in_the_report_as_large_as_single_ones(shop: Path) -> None:
    page = report(str(shop), "--index", "shop", "-n", "1")
    assert [picture.size for picture in page.pictures] == [(320, 240)] * 8


def test_a_failing_query_leaves_the_old_report(shop: Path) -> None:
    Path("report.html").write_text("before")
    for query in ("missing.png", "id:missing"):
        assert report(query, "--index", "shop", status=1).tags == []
    assert Path("report.html").read_text() == "before"
    assert not list(Path().glob(".report*"))


def test_a_report_needs_an_ending_and_a_place(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file, status, said in [("out.png", 2, "must end in .html"), ("nowhere/a.html", 1, "cannot be written")]:
        with pytest.raises(SystemExit) as leaving:
            main(["similar", "id:2", "--index", "shop", "--html", file])
        assert leaving.value.code == status
        assert said in capsys.readouterr().err


def test_a_closed_standard_output_is_not_blamed_on_the_report(shop: Path) -> None:
    command = [sys.executable, "-m", "simrec", "similar", str(shop), "--index", "shop", "--html", "report.html"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as asked:
        assert asked.stdout
        assert asked.stderr
        asked.stdout.close()
        assert "report.html" not in asked.stderr.read()
    assert not Path("report.html").exists()


def written(demo: Recommender, name: str, *, queries: int = 1) -> bytes:
    file = io.BytesIO()
    report = reports.Report(file, "Title", [], Display(demo.catalogue, [], 28))
    matches = demo.similar("id:test/00000", n=1)
    for _ in range(queries):
        report.add(Query(name, None), matches)
    report.end()
    return file.getvalue()


def test_a_name_that_no_encoding_can_write_is_in_the_report_all_the_same(demo: Recommender) -> None:
    page = written(demo, "a\udc80$title\0</h2>")
    assert rb"a\udc80$title" in page
    page.decode()


def test_a_report_stops_where_browsers_would(demo: Recommender, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "LARGEST", len(written(demo, "a", queries=3)))
    page = written(demo, "a", queries=50).decode()
    assert 3 <= page.count("<section>") <= 5
    assert "further queries are left out to keep this file small" in page


# In a notebook.


def test_an_answer_in_a_notebook_is_a_row_of_pictures(shop: Path, own_home: Path) -> None:
    answer = simrec.open("shop").similar("<i>query.png")
    page = Page(answer._repr_html_())
    assert [max(picture.size) for picture in page.pictures] == [160] * 4
    (own_home / home.ROOTS).unlink()
    assert [max(picture.size) for picture in Page(answer._repr_html_()).pictures] == [128] * 4
    assert {found["alt"] for found in page.all("img")} == {"0", "<b>one</b>", "2", "3"}
    assert {tag for tag, _ in page.tags} == {"div", "img", "b", "br"}
    assert "price: 9.5" in answer._repr_html_()
    assert len(Page(answer[:2]._repr_html_()).pictures) == 2
    assert "No items" in answer[:0]._repr_html_()


def test_an_answer_is_a_list_like_any_other(demo: Recommender) -> None:
    answer = demo.similar("id:test/00000", n=3)
    plain = list(answer)
    assert answer == plain
    assert repr(answer) == repr(plain)
    assert answer[1] is plain[1]
    assert answer[::-1] == plain[::-1]
    assert answer + plain == plain + answer
    assert json.dumps([match.to_json() for match in answer]) == json.dumps([match.to_json() for match in plain])
    for other in (pickle.loads(pickle.dumps(answer)), copy.copy(answer), copy.deepcopy(answer)):
        assert other == plain
        assert answer[0].id in other._repr_html_()
    assert all(isinstance(match, Match) for one in demo.similar(["id:test/00000"], n=2) for match in one)


def test_an_answer_whose_catalogue_is_gone_is_still_shown(shop: Path, own_home: Path) -> None:
    recommender = simrec.open("shop")
    answer = recommender.similar("id:2")
    with recommender:
        pass
    shutil.rmtree(own_home / "shop")
    assert "thing 3" in answer._repr_html_()


# In a browser.


@pytest.mark.external
def test_the_report_sorts_by_price_in_a_browser(shop: Path) -> None:
    from playwright.sync_api import sync_playwright

    report("<i>query.png", "--index", "shop")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = browser.new_page()
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.on("dialog", lambda dialog: said.append(dialog.message))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(Path("report.html").absolute().as_uri())

        def prices() -> list[str]:
            return page.locator("td[data-name=price]").all_text_contents()

        ranks = page.locator("td[data-name=rank]").all_text_contents()
        assert ranks == ["1", "2", "3", "4"]
        page.get_by_label("Sort by").select_option("price")
        assert prices() == ["9.5", "20", "100", "-"]
        page.get_by_label("Order").select_option("descending")
        assert prices() == ["100", "20", "9.5", "-"]
        page.get_by_label("Show as").select_option("table")
        page.get_by_role("button", name="price").click()
        assert prices() == ["9.5", "20", "100", "-"]
        assert page.get_by_role("columnheader", name="price").get_attribute("aria-sort") == "ascending"
        page.set_viewport_size({"width": 360, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        drawn = page.locator("img").evaluate_all("all => all.every(one => one.naturalWidth >= 128)")
        assert drawn
        assert said == []
        browser.close()
