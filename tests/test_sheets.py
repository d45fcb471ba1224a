"""Sheets of answers: originals if they are this user's, else previews, and readable text."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import simrec
from simrec import home, library, sheets
from simrec.cli import main
from simrec.contracts import Item
from simrec.errors import StoreError
from simrec.fonts import sans
from simrec.originals import Originals
from simrec.verbs import asking

Run = Callable[..., str]

COLOURS = {"red": (200, 30, 30), "green": (30, 160, 60), "blue": (40, 60, 220)}


@dataclass(frozen=True)
class Shop:
    """Large plain pictures and a sheet of them."""

    folder: Path
    sheet: Path

    def shows(self, colour: str, size: tuple[int, int] = (160, 120)) -> bool:
        """Whether the sheet has a rectangle of that colour and size somewhere."""
        pixels = np.asarray(Image.open(self.sheet).convert("RGB")).astype(int)
        near = (np.abs(pixels - COLOURS[colour]).max(axis=2) < 12).astype(int)
        sums = np.pad(near.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
        width, height = size[0] - 2, size[1] - 2
        inside = sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]
        return bool((inside == width * height).any())


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    folder = tmp_path / "stock"
    folder.mkdir()
    for colour, rgb in COLOURS.items():
        Image.new("RGB", (800, 600), rgb).save(folder / f"{colour}.png")
    return Shop(folder, tmp_path / "sheet.png")


@pytest.fixture
def draw(shop: Shop, shoe: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Draws a sheet of answers to a shoe; returns the notices."""

    def drawn(name: object, *words: object) -> str:
        with pytest.raises(SystemExit) as leaving:
            main(["similar", str(shoe), "--index", str(name), "--grid", str(shop.sheet), *map(str, words)])
        said = capsys.readouterr().err
        assert not leaving.value.code, said
        return said

    return drawn


def test_the_originals_are_drawn_large_and_upright(shop: Shop, draw: Run) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (600, 800), COLOURS["red"]).save(shop.folder / "red.png", exif=turned)
    simrec.build("shop", str(shop.folder), encoder="demo")
    said = draw("shop", "--show", "width,name")
    assert all(map(shop.shows, COLOURS))  # previews would be 128 pixels wide
    assert "previews" not in said
    draw("shop", "--tile", "320")
    assert shop.shows("blue", (320, 240))


def test_if_files_are_gone_or_changed_previews_are_drawn_and_one_notice_says_so(shop: Shop, draw: Run) -> None:
    simrec.build("shop", str(shop.folder), encoder="demo")
    (shop.folder / "red.png").unlink()
    Image.new("RGB", (900, 600), COLOURS["red"]).save(shop.folder / "green.png")
    said = draw("shop")
    assert said.count("2 that are gone or have changed since") == 1
    assert shop.shows("blue")
    assert not shop.shows("red")
    assert shop.shows("red", (128, 96))
    assert shop.shows("green", (128, 96))


def test_a_copied_recommender_shows_nothing_of_folders_that_are_not_this_users(
    shop: Shop, draw: Run, tmp_path: Path, own_home: Path
) -> None:
    simrec.build("shop", str(shop.folder), encoder="demo", home_folder=tmp_path / "stranger")
    shutil.copytree(tmp_path / "stranger" / "shop", own_home / "copied")
    assert "3 that do not lie below a folder that you indexed" in draw("copied")
    assert not any(map(shop.shows, COLOURS))
    assert "3 that do not lie below" in draw("copied", "--originals", own_home)
    assert "previews" not in draw("copied", "--originals", shop.folder)
    assert all(map(shop.shows, COLOURS))
    assert "previews" not in draw("copied")  # it is remembered


@pytest.mark.parametrize("path", ["{outside}/a.png", "{root}/../outside/a.png", "{root}/link/a.png", "{root}/a.png"])
def test_no_path_leads_out_of_the_users_folders(path: str, tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    Image.new("RGB", (300, 300), "red").save(outside / "a.png")
    (root / "link").symlink_to(outside)
    (root / "a.png").symlink_to(outside / "a.png")
    originals = Originals([root], 160)
    assert originals.picture(Item("a", path.format(root=root, outside=outside))) is None
    assert originals.elsewhere == 1


def test_paths_outside_the_users_folders_are_not_even_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    originals = Originals([tmp_path], 160)

    def asked(*_: object, **__: object) -> None:
        raise AssertionError("the file system was asked")

    for function in ("stat", "lstat", "readlink"):
        monkeypatch.setattr(f"os.{function}", asked)
    for source in ("/elsewhere/a.png", "/elsewhere/%2e%2e/a.png", "//server/share/a.png"):
        assert originals.picture(Item("a", source)) is None


def test_a_users_own_link_to_a_folder_is_the_users(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    Image.new("RGB", (300, 300), "red").save(tmp_path / "disk" / "a.png")
    (tmp_path / "photos").symlink_to(tmp_path / "disk")
    originals = Originals([tmp_path / "photos"], 160)
    picture = originals.picture(Item("a", str(tmp_path / "photos" / "a.png")))
    assert picture is not None
    assert picture.size == (160, 160)


def test_a_hostile_original_is_no_worse_than_a_missing_one(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "text.png").write_text("no picture")
    originals = Originals([tmp_path], 160)
    for name in ("pipe.png", "text.png", "missing.png"):
        assert originals.picture(Item(name, str(tmp_path / name))) is None
    assert originals.gone == 3


def test_the_home_remembers_folders_once_and_says_when_it_cannot(own_home: Path, tmp_path: Path) -> None:
    assert home.roots(own_home) == []
    for root in (tmp_path / "a", tmp_path / "b", tmp_path / "a", str(tmp_path / "c" / ".." / "b")):
        home.remember_root(own_home, root)
    assert home.roots(own_home) == [tmp_path / "a", tmp_path / "b"]
    for damaged in (b"{", b'{"a": 1}', json.dumps(["relative"]).encode(), b"[" * 100_000):
        (own_home / home.ROOTS).write_bytes(damaged)
        with pytest.raises(StoreError, match="delete it"):
            home.roots(own_home)
    assert library.names(own_home) == []


def test_a_query_that_is_an_item_or_a_part_is_drawn_as_such(shop: Shop, draw: Run, tmp_path: Path) -> None:
    simrec.build("shop", str(shop.folder), encoder="demo")
    both = Image.new("RGB", (1600, 600), COLOURS["green"])
    both.paste(Image.new("RGB", (800, 600), (90, 200, 210)), (800, 0))
    both.save(tmp_path / "both.png")
    with pytest.raises(SystemExit):
        main(["similar", "both.png", "--crop", "50%,0%,100%,100%", "--index", "shop", "--grid", str(shop.sheet)])
    pixels = np.asarray(Image.open(shop.sheet).convert("RGB")).astype(int)
    near = np.abs(pixels - (90, 200, 210)).max(axis=2) < 12
    assert near.sum() > 150 * 110
    with pytest.raises(SystemExit):
        main(["similar", "id:red.png", "--index", "shop", "--grid", str(shop.sheet)])
    assert all(map(shop.shows, COLOURS))


@pytest.fixture
def customers(shop: Shop, tmp_path: Path) -> Path:
    """A folder of two large pictures, and the recommender `shop`, which has neither."""
    folder = tmp_path / "customers"
    folder.mkdir()
    for colour in ("green", "blue"):
        (shop.folder / f"{colour}.png").rename(folder / f"{colour}.png")
    simrec.build("shop", str(shop.folder), encoder="demo")
    return folder


@pytest.mark.parametrize("source", ["customers", "list.csv"])
def test_the_queries_of_a_folder_or_list_are_drawn_from_their_files(
    shop: Shop, customers: Path, draw: Run, source: str
) -> None:
    Path("list.csv").write_text("path,id\ncustomers/green.png,1\ncustomers/blue.png,2\n")
    said = draw("shop", source, "--tile", "320")
    assert all(shop.shows(colour, (320, 240)) for colour in COLOURS)
    assert "previews" not in said


def test_a_query_whose_file_is_gone_or_changed_is_drawn_from_its_preview_which_a_notice_says(
    shop: Shop, customers: Path
) -> None:
    opened = simrec.open("shop")
    given = list(asking.answers(opened, asking.Question([str(customers)]), failed=print))
    (customers / "green.png").unlink()
    Image.new("RGB", (900, 600), COLOURS["red"]).save(customers / "blue.png")
    said: list[str] = []
    asking.draw(opened, given, asking.Drawing(shop.sheet), said.append)
    assert said == ["Queries drawn from small previews, instead of their files: 2 that are gone or have changed since."]
    assert shop.shows("green", (128, 96)) and shop.shows("blue", (128, 96))
    assert not shop.shows("green") and not shop.shows("blue")


def test_only_the_queries_that_a_sheet_has_room_for_are_read_again(
    shop: Shop, customers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = simrec.open("shop")
    given = list(asking.answers(opened, asking.Question([str(customers)]), failed=print))
    assert given[0][0].name == "blue.png"
    (customers / "green.png").unlink()
    monkeypatch.setattr(sheets, "LARGEST", 160 * 160 * 6)
    said: list[str] = []
    asking.draw(opened, given, asking.Drawing(shop.sheet), said.append)
    assert said == [f"{shop.sheet}: has room for only the first 1 of 2 rows."]
    assert shop.shows("blue")


def test_what_answers_should_not_look_like_has_its_own_caption_and_frame_and_a_weight_is_shown(
    shop: Shop, draw: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    simrec.build("shop", str(shop.folder), encoder="demo")
    for name, rgb in COLOURS.items():
        Image.new("RGB", (800, 600), rgb).save(f"{name}.png")
    drawn: list[sheets.Tile] = []
    place = sheets._Sheet.place

    def placed(sheet: sheets._Sheet, tile: sheets.Tile, *where: object) -> None:
        drawn.append(tile)
        place(sheet, tile, *where)

    monkeypatch.setattr(sheets._Sheet, "place", placed)
    draw("shop", "red.png", "green.png*2.5", "--together", "--less", "blue.png", "--with-copies")
    lines = [("shoe.png", "query"), ("red.png", "query"), ("green.png", "query x2.5"), ("blue.png", "unlike")]
    assert [tile.lines for tile in drawn if tile.query] == lines
    pixels = np.asarray(Image.open(shop.sheet).convert("RGB"))
    left = 18 + 170 * np.arange(4) - 3  # where the frames begin
    frames = [tuple(pixels[18 + 26 + 18 + 60, x]) for x in left]
    assert frames[0] == frames[1] == frames[2] != frames[3]
    assert frames[3] != (255, 255, 255)


def tile(lines: tuple[str, ...] = ("a", "b"), **options: bool) -> sheets.Tile:
    return sheets.Tile(np.zeros((28, 28, 1), np.uint8), lines, **options)


def test_many_answers_wrap_at_ten_beside_their_query() -> None:
    one = sheets.contact_sheet([[tile(query=True), *[tile()] * 10]], "a", 160)
    more = sheets.contact_sheet([[tile(query=True), *[tile()] * 25]], "a", 160)
    assert more.width == one.width < 12 * 180
    assert more.height > one.height + 2 * 160


def test_a_sheet_has_room_for_so_many_rows_and_no_more() -> None:
    rows = [[tile(query=True), *[tile()] * 10]] * 2000
    drawn = sheets.fitting(rows, 160)
    assert 10 < len(drawn) < 2000
    assert len(sheets.fitting([[tile()] * 100_000], 160)[0]) < 10_000
    assert sheets.fitting(rows[:3], 160) == rows[:3]


def test_text_is_cut_to_the_width_of_its_tile() -> None:
    def ink(*lines: str) -> int:
        sheet = sheets.contact_sheet([[tile(), tile(lines)]], "", 160)
        return int((np.asarray(sheet.convert("L")) < 200).any(axis=0).nonzero()[0][-1])

    assert ink("a " * 500) <= ink() + 20
    assert ink("deep/" * 200 + "end.png", "title: " + "word " * 100) <= ink() + 20
    assert ink(sheets.Ending("deep/" * 200 + "end.png")) <= ink() + 20


def test_a_long_value_keeps_its_beginning_and_a_long_id_its_end() -> None:
    def drawn(line: str) -> bytes:
        return sheets.contact_sheet([[tile((line,))]], "", 160).tobytes()

    title = "title: Slim fit jeans for men blue size 32/3"
    assert drawn(f"{title}4") == drawn(f"{title}6, short/long")
    assert drawn(f"{title}4") != drawn(f"another {title}4")
    name = "a-long-folder/of-jeans/for-men/slim-fit-blue-34.jpg"
    assert drawn(sheets.Ending(name)) == drawn(sheets.Ending(f"another/{name}")) != drawn(name)


def test_on_a_sheet_of_answers_a_title_with_a_slash_keeps_its_beginning(shop: Shop, draw: Run) -> None:
    sheet = dict[str, bytes]()
    for size in ("32/34", "32/36"):
        rows = [f"stock/{name}.png,shop/{name},Slim fit jeans for men blue size {size}" for name in COLOURS]
        Path("list.csv").write_text("\n".join(["path,id,title", *rows]))
        simrec.build("shop", "list.csv", encoder="demo", from_scratch=True)
        draw("shop", "--show", "title")
        sheet[size] = np.asarray(Image.open(shop.sheet).convert("RGB")).tobytes()
    assert sheet["32/34"] == sheet["32/36"]


@pytest.mark.parametrize("text", ["00042", "a_very_long_name_" * 40, "two\nlines\tof it", ""])
def test_a_text_instead_of_a_picture_stays_within_its_tile(text: str) -> None:
    for edge in (64, 160, 2048):
        ink = np.asarray(sheets.written(text, edge).convert("L")) < 120
        assert ink.any() == bool(text)
        border = np.concatenate([ink[:3].ravel(), ink[-3:].ravel(), ink[:, :3].ravel(), ink[:, -3:].ravel()])
        assert not border.any()


@pytest.mark.parametrize("letter", "äöüßéèçñø–—€£µšłαя×…")
def test_letters_of_many_languages_are_drawn(letter: str) -> None:
    missing = bytes(sans(12).getmask("\uffff"))
    assert bytes(sans(12).getmask(letter)) != missing
