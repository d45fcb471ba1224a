"""The page of `simrec serve` in a real browser (Debian's `chromium`), used like a visitor, by visible labels alone."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import simrec
from simrec.serve.running import Address, run
from simrec.serve.shelf import opened
from simrec.sources.load import Pictures
from simrec.verbs.export import Wishes, export

pytestmark = pytest.mark.external

ODD = "<img src=x onerror=document.title='owned'>"

BAG = 18
"""The row of a bag."""

DESKTOP: dict[str, Any] = {"viewport": {"width": 1280, "height": 860}}
PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
DARK: dict[str, Any] = {**DESKTOP, "color_scheme": "dark"}

Open = Callable[..., Any]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, pictures: Pictures) -> Path:
    """A home with the recommender `shop`: 600 pictures with prices, one with an odd title."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "stock").mkdir()
    rows = []
    for row in range(600):
        Image.fromarray(pictures.images[row, :, :, 0]).save(folder / "stock" / f"{row}.png")
        title = ODD if row == 0 else f"{pictures.labels[row]} {row}"
        rows.append([f"{row}.png", f"{pictures.labels[row]}/{row}", pictures.labels[row], 10 + row % 90, title])
    with (folder / "stock" / "list.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "id", "label", "price", "title"], *rows])
    shop = simrec.build("shop", str(folder / "stock" / "list.csv"), encoder="demo", home_folder=folder / "home")
    bare = export(shop, folder / "bare.parquet", Wishes(columns=["id", "label", "code"]))[0]
    simrec.build("bare", str(bare), encoder="demo", home_folder=folder / "home")
    return folder / "home"


@pytest.fixture(scope="module")
def site(home: Path) -> Iterator[str]:
    with serving(Address(port=0), home) as address:
        yield address


class serving:  # noqa: N801
    """Runs a server in a thread, in the block."""

    def __init__(self, address: Address, home: Path) -> None:
        self._address, self._home = address, home

    def __enter__(self) -> str:
        self._listening = self._address.bound()
        shelf = opened(["shop", "demo", "bare"], self._home)
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=run, args=(shelf, self._address, self._listening, self._stop), daemon=True
        )
        self._thread.start()
        return self._address.url(self._listening)

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(20)
        self._listening.close()


@pytest.fixture
def visit(browser: Any, site: str) -> Iterator[Open]:
    """Opens the page, or an address on it. No script may fail, and no request may go to another server."""
    contexts, wrong = [], []

    def opening(address: str = "", **settings: Any) -> Any:
        context = browser.new_context(**(settings or DESKTOP))
        context.set_default_timeout(15_000)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: wrong.append(said.text) if "Content Security" in said.text else None)
        page.on("request", lambda asked: None if _own(asked.url, site) else wrong.append(asked.url))
        page.goto(address or site)
        page.get_by_role("button", name="More like this").first.wait_for()
        return page

    yield opening
    for context in contexts:
        context.close()
    assert wrong == []


def _own(address: str, site: str) -> bool:
    return address.startswith((site, "blob:", "data:"))


@pytest.fixture
def sneaker(tmp_path: Path, pictures: Pictures) -> Path:
    """A photo that isn't in any catalogue of these tests."""
    row = [row for row, label in enumerate(pictures.labels) if label == "Sneaker" and row > 6000][0]
    path = tmp_path / "sneaker.jpg"
    Image.fromarray(pictures.images[row, :, :, 0]).resize((400, 400)).save(path)
    return path


def upload(page: Any, *files: Path) -> None:
    with page.expect_file_chooser() as choosing:
        page.get_by_role("button", name="Choose pictures").click()
    choosing.value.set_files([str(file) for file in files])
    settled(page)


def settled(page: Any) -> None:
    """Waits for the answer."""
    page.wait_for_timeout(150)  # a filter waits for more to come
    page.locator("#main:not([aria-busy])").wait_for()


def heading(page: Any) -> str:
    return page.locator("#title").inner_text()  # type: ignore[no-any-return]


def cards(page: Any) -> list[str]:
    return page.locator("#results h3").all_inner_texts()  # type: ignore[no-any-return]


def prices(page: Any) -> list[float]:
    texts = page.locator("#results .fields div", has_text="price").locator("dd").all_inner_texts()
    return [float(text) for text in texts]


def test_a_shoe_under_50_less_like_one_of_them_and_the_link_to_that(visit: Open, sneaker: Path) -> None:
    page = visit()
    upload(page, sneaker)
    assert heading(page) == "24 similar items"
    page.get_by_label("price to", exact=True).fill("50")
    settled(page)
    assert max(prices(page)) <= 50
    before = cards(page)
    page.get_by_role("button", name="Less like this").first.click()
    settled(page)
    assert page.get_by_role("heading", name="But less like").is_visible()
    after = cards(page)
    assert before[0] not in after
    other = visit(page.url)  # the link, in another visitor's browser
    settled(other)
    assert cards(other) == after
    assert max(prices(other)) <= 50
    assert other.get_by_role("img", name="sneaker.jpg").is_visible()
    assert len(page.url) < 4000


def test_a_picture_that_is_chosen_before_the_page_has_its_catalogue_is_looked_up(
    browser: Any, site: str, sneaker: Path
) -> None:
    page, held = browser.new_page(), list[Any]()
    page.route("**/api/recommenders", lambda route: held.append(route))
    page.goto(site)
    with page.expect_file_chooser() as choosing:
        page.get_by_role("button", name="Choose pictures").click()
    choosing.value.set_files(sneaker)
    held[0].continue_()
    page.get_by_role("heading", name="24 similar items").wait_for()
    page.close()


def test_every_answer_has_rank_score_and_percentile(visit: Open, sneaker: Path) -> None:
    page = visit()
    upload(page, sneaker)
    first = page.locator("#results .figures").first.inner_text()
    assert re.fullmatch(r"rank\s+1\s+score\s+0\.\d{3}\s+percentile\s+\d+\.\d", first), first


def test_the_page_shows_something_within_100_ms_of_an_upload(visit: Open, sneaker: Path) -> None:
    page = visit()
    page.route("**/api/similar", lambda route: None)  # an answer that never comes
    page.evaluate("""() => {
        const title = document.getElementById('title');
        document.getElementById('files').addEventListener('change', () => { window.chosen = performance.now(); }, true);
        new MutationObserver(() => { window.seen ??= performance.now(); }).observe(title, {childList: true});
    }""")
    page.set_input_files("#files", str(sneaker))
    page.get_by_role("heading", name="Looking").wait_for()
    assert page.evaluate("window.seen - window.chosen") < 100


def data_transfer(page: Any, file: Path) -> Any:
    return page.evaluate_handle(
        """bytes => {
            const given = new DataTransfer();
            given.items.add(new File([new Uint8Array(bytes)], 'photo.jpg', { type: 'image/jpeg' }));
            return given;
        }""",
        list(file.read_bytes()),
    )


def test_a_picture_can_be_dropped_and_pasted(visit: Open, sneaker: Path) -> None:
    page = visit()
    given = data_transfer(page, sneaker)
    page.dispatch_event("body", "dragover", {"dataTransfer": given})
    assert page.get_by_text("Drop it to see what looks like it").is_visible()
    page.dispatch_event("body", "drop", {"dataTransfer": given})
    settled(page)
    assert heading(page) == "24 similar items"
    dropped = cards(page)
    page.get_by_role("button", name="Start again").click()
    settled(page)
    assert heading(page) == "Start with one of these"
    given = data_transfer(page, sneaker)
    page.evaluate(
        "given => document.dispatchEvent(new ClipboardEvent('paste', { clipboardData: given, bubbles: true }))", given
    )
    settled(page)
    assert cards(page) == dropped


def drag_a_box(page: Any) -> None:
    area = page.get_by_role("group", name="The part that you mean").bounding_box()
    page.mouse.move(area["x"] + area["width"] * 0.2, area["y"] + area["height"] * 0.3)
    page.mouse.down()
    page.mouse.move(area["x"] + area["width"] * 0.6, area["y"] + area["height"] * 0.7, steps=4)
    page.mouse.up()
    settled(page)


def test_a_box_around_a_part_changes_the_answer(visit: Open, sneaker: Path) -> None:
    page = visit()
    upload(page, sneaker)
    before = page.url
    drag_a_box(page)
    assert page.url != before
    page.get_by_role("button", name="Use the whole picture").click()
    settled(page)
    assert page.url.split("~")[0] == before.split("~")[0]


def test_a_box_around_a_part_of_an_item_changes_the_answer_and_is_in_the_link(visit: Open) -> None:
    page = visit()
    page.get_by_role("button", name="More like this").nth(3).click()
    settled(page)
    whole = cards(page)
    drag_a_box(page)
    part = cards(page)
    assert part != whole
    edges = [float(edge) for edge in re.findall(r"([\d.]+)%25", page.url)]
    assert edges == pytest.approx([20, 30, 60, 70], abs=1)
    page.get_by_role("button", name="Look at").first.click()
    page.get_by_role("dialog").get_by_role("img", name="What the encoder sees").nth(1).wait_for()
    page.keyboard.press("Escape")
    friend = visit(page.url)
    settled(friend)
    assert cards(friend) == part
    friend.get_by_role("button", name="Use the whole picture").click()
    settled(friend)
    assert cards(friend) == whole


def test_a_link_with_a_picture_says_why_no_part_of_it_can_be_marked(visit: Open, sneaker: Path) -> None:
    page = visit()
    upload(page, sneaker)
    assert visit(page.url).get_by_text("To mark a part, choose the picture again").is_visible()


@pytest.fixture
def upright(tmp_path: Path) -> list[Path]:
    """Three upright pictures in colour, about as detailed as photos."""
    files = [tmp_path / f"{name}.png" for name in ("dawn", "noon", "dusk")]
    for seed, file in enumerate(files):
        shades = np.random.default_rng(seed).integers(0, 256, (12, 8, 3)).astype(np.uint8)
        Image.fromarray(shades).resize((600, 900)).save(file)
    return files


def natural_edges(page: Any) -> list[int]:
    images = page.locator("#wanted img")
    images.last.wait_for()
    return images.evaluate_all("all => all.map(one => Math.max(one.naturalWidth, one.naturalHeight))")  # type: ignore[no-any-return]


def test_a_link_shows_several_pictures_without_squares(visit: Open, upright: list[Path]) -> None:
    page = visit()
    upload(page, *upright)
    friend = visit(page.url)
    settled(friend)
    assert min(natural_edges(friend)) >= 72
    assert friend.locator("#wanted img").count() == 3
    assert friend.locator("#wanted img.small").count() == 0
    assert len(page.url) < 6500


def test_a_reload_shows_ones_own_pictures_as_sharp_as_before(visit: Open, upright: list[Path]) -> None:
    page = visit()
    upload(page, *upright)
    page.reload()
    page.get_by_text("like dawn.png and noon.png and dusk.png").wait_for()
    assert natural_edges(page) == [640] * 3


def test_clicking_from_item_to_item_and_back_works(visit: Open) -> None:
    page = visit()
    start = cards(page)
    page.get_by_role("button", name="More like this").nth(3).click()
    settled(page)
    first = cards(page)
    assert page.get_by_role("figure", name=start[3]).is_visible()
    page.get_by_role("button", name="More like this").nth(1).click()
    settled(page)
    second = cards(page)
    assert first != second
    page.go_back()
    settled(page)
    assert cards(page) == first
    page.go_back()
    settled(page)
    assert cards(page) == start
    page.go_forward()
    settled(page)
    assert cards(page) == first


def test_filters_apply_at_once_and_moving_one_is_one_step_back(visit: Open) -> None:
    page = visit()
    page.get_by_role("checkbox", name="Bag").check()
    settled(page)
    assert all(title.startswith("Bag") for title in cards(page))
    slider = page.get_by_label("price from, slider")
    for price in ("40", "60", "80"):
        slider.fill(price)
        settled(page)
    assert min(prices(page)) >= 80
    page.go_back()
    settled(page)
    assert min(prices(page)) < 40
    assert page.get_by_role("checkbox", name="Bag").is_checked()
    page.get_by_label("title contains").fill("nothing like that")
    settled(page)
    assert page.get_by_text("widen the filters").is_visible()


def test_an_item_is_shown_beside_the_question_with_what_its_encoder_makes_of_it(visit: Open, sneaker: Path) -> None:
    page = visit()
    upload(page, sneaker)
    page.get_by_role("button", name="Look at").first.click()
    dialog = page.get_by_role("dialog")
    for text in ("What you asked", "This item"):
        assert dialog.get_by_text(text, exact=True).is_visible()
    for text in ("What the encoder sees", "Rebuilt from its code", "Where that differs"):
        dialog.get_by_role("img", name=text).nth(1).wait_for()
        assert dialog.get_by_role("img", name=text).count() == 2
    title = dialog.get_by_role("heading").inner_text()
    page.keyboard.press("ArrowRight")
    assert dialog.get_by_role("heading").inner_text() != title
    page.keyboard.press("Escape")
    assert not dialog.is_visible()


def test_all_of_it_works_by_keyboard_alone(visit: Open) -> None:
    page = visit()

    def tab_to(text: str) -> None:
        for _ in range(60):
            page.keyboard.press("Tab")
            label = "document.activeElement.getAttribute('aria-label') ?? document.activeElement.textContent"
            if text in page.evaluate(label):
                return
        raise AssertionError(f"no way to {text}")

    tab_to("More like this")
    page.keyboard.press("Enter")
    settled(page)
    assert heading(page) == "24 similar items"
    tab_to("Look at")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    focused = page.evaluate("document.activeElement.getAttribute('aria-label')")
    page.keyboard.press("Enter")
    assert page.get_by_role("dialog").get_by_role("heading").inner_text() in focused
    tab_to("Less like this")
    page.keyboard.press("Enter")
    settled(page)
    assert page.get_by_role("heading", name="But less like").is_visible()


def test_the_part_is_chosen_by_keyboard_too(visit: Open, sneaker: Path) -> None:
    page = visit()
    upload(page, sneaker)
    before = page.url
    page.get_by_role("group", name="The part that you mean").focus()
    for _ in range(4):
        page.keyboard.press("Shift+ArrowLeft")
    page.get_by_role("button", name="Use the whole picture").wait_for()
    settled(page)
    assert page.url != before


def test_names_from_strangers_are_texts(visit: Open, tmp_path: Path, sneaker: Path) -> None:
    page = visit()
    page.get_by_label("title contains").fill("onerror")
    settled(page)
    assert cards(page) == [ODD]
    page.get_by_role("button", name="Look at").click()
    assert page.get_by_role("dialog").get_by_role("heading").inner_text() == ODD
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Start again").click()
    odd = tmp_path / ODD.replace("/", "")
    odd.write_bytes(sneaker.read_bytes())
    upload(page, odd)
    assert page.locator("#wanted figcaption").inner_text() == ODD
    assert page.title() == "simrec: similar items"


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    """A text with the name of a picture."""
    path = tmp_path / "notes.png"
    path.write_text("hello")
    return path


def problem(page: Any) -> str:
    return page.get_by_role("alert").first.inner_text()  # type: ignore[no-any-return]


def test_after_a_file_that_isnt_a_picture_the_start_page_is_back(visit: Open, notes: Path) -> None:
    page = visit()
    start = cards(page)
    upload(page, notes)
    assert problem(page).startswith("notes.png: not a picture")
    assert heading(page) == "Start with one of these"
    assert cards(page) == start


def test_after_a_file_that_isnt_a_picture_the_last_answer_and_its_question_are_back(
    visit: Open, sneaker: Path, notes: Path
) -> None:
    page = visit()
    upload(page, sneaker)
    page.get_by_role("button", name="Less like this").first.click()
    settled(page)
    status = page.get_by_role("status")
    before = [heading(page), status.inner_text(), *cards(page)]
    upload(page, notes)
    assert problem(page).startswith("notes.png: not a picture")
    assert [heading(page), status.inner_text(), *cards(page)] == before
    assert page.get_by_role("img", name="sneaker.jpg").is_visible()
    page.get_by_label("price to", exact=True).fill("50")
    settled(page)
    assert page.get_by_text("like sneaker.jpg, but less like").is_visible()
    assert not page.get_by_role("alert").first.is_visible()


def test_pictures_beside_files_that_cant_be_read_are_looked_up(
    visit: Open, sneaker: Path, notes: Path, tmp_path: Path, pictures: Pictures
) -> None:
    bag, half = tmp_path / "bag.png", tmp_path / "half.jpg"
    Image.fromarray(pictures.images[BAG, :, :, 0]).save(bag)
    half.write_bytes(sneaker.read_bytes()[:500])
    page = visit()
    upload(page, sneaker, bag)
    both = cards(page)
    page.get_by_role("button", name="Start again").click()
    upload(page, sneaker, notes, bag, half)
    assert [line.partition(":")[0] for line in sorted(problem(page).splitlines())] == ["half.jpg", "notes.png"]
    assert page.locator("#status").inner_text() == "like sneaker.jpg and bag.png"
    assert cards(page) == both
    assert page.get_by_role("img", name="bag.png").is_visible()


@pytest.mark.parametrize("status", [None, 413, 429, 503])
@pytest.mark.parametrize("count", [1, 2])
def test_whatever_goes_wrong_with_a_look_up_the_last_answer_is_back(
    visit: Open, sneaker: Path, status: int | None, count: int
) -> None:
    page = visit()
    start = cards(page)

    def refuse(route: Any) -> None:
        if status is None:
            route.abort()
        else:
            route.fulfill(status=status, json={"error": f"no: {status}"})

    page.route("**/api/similar", refuse)
    upload(page, *[sneaker] * count)
    assert page.get_by_role("alert").first.is_visible()
    assert heading(page) == "Start with one of these"
    assert cards(page) == start
    page.unroute("**/api/similar")
    upload(page, sneaker)
    assert heading(page) == "24 similar items"


def test_a_link_to_an_item_that_isnt_there_leaves_its_question_and_no_answer(browser: Any, site: str) -> None:
    page = browser.new_page()
    page.goto(f"{site}?in=shop&like=id:gone")
    page.get_by_role("heading", name="No answer").wait_for()
    page.get_by_role("button", name="Remove gone").click()
    page.get_by_role("heading", name="Start with one of these").wait_for()
    page.close()


def test_how_many_counts_for_an_upload_too(visit: Open, sneaker: Path) -> None:
    page = visit()
    upload(page, sneaker)
    page.get_by_label("How many").select_option("12")
    page.get_by_role("heading", name="12 similar items").wait_for()


@pytest.mark.parametrize("settings", [DESKTOP, PHONE, DARK], ids=["desktop", "phone", "dark"])
def test_axe_finds_no_violation(visit: Open, sneaker: Path, settings: dict[str, Any]) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page = visit(**settings)
    found = []

    def look() -> None:
        page.wait_for_timeout(300)
        for violation in Axe().run(page).response["violations"]:
            found.append((violation["id"], [node["html"][:120] for node in violation["nodes"]][:3]))

    look()
    upload(page, sneaker)
    page.get_by_role("button", name="Less like this").first.click()
    settled(page)
    look()
    if settings is PHONE:
        page.get_by_text("Filters", exact=True).click()
        look()
    page.get_by_role("button", name="Look at").first.click()
    page.get_by_role("img", name="Where that differs").first.wait_for()
    look()
    assert found == []


def test_on_a_phone_nothing_is_wider_than_the_screen(visit: Open, sneaker: Path) -> None:
    page = visit(**PHONE)
    assert page.get_by_role("button", name="Take a photo").is_visible()
    upload(page, sneaker)
    page.get_by_text("Filters", exact=True).click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.get_by_role("button", name="Look at").first.click()
    assert page.evaluate("document.getElementById('detail').scrollWidth") <= 390


def test_in_the_dark_the_page_is_dark(visit: Open) -> None:
    page = visit(**DARK)
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert max(int(number) for number in re.findall(r"\d+", colour)[:3]) < 40


def test_the_first_paint_comes_within_200_ms(visit: Open) -> None:
    page = visit()
    times = []
    for _ in range(3):
        page.reload()
        page.get_by_role("button", name="More like this").first.wait_for()
        times.append(page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime"))
    assert min(times) < 200


def test_a_token_is_asked_for_once_and_stands_in_the_link_of_the_server(browser: Any, home: Path) -> None:
    with serving(Address(port=0, token="a b/c"), home) as address:
        context = browser.new_context()
        page = context.new_page()
        page.goto(address.partition("#")[0])
        page.get_by_role("textbox", name="Token").fill("wrong")
        page.get_by_role("button", name="Open").click()
        page.get_by_text("That token is wrong").wait_for()
        page.get_by_role("textbox", name="Token").fill("a b/c")
        page.get_by_role("button", name="Open").click()
        page.get_by_role("button", name="More like this").first.wait_for()
        page.locator("#results img.small").first.wait_for()
        page.reload()
        page.get_by_role("button", name="More like this").first.wait_for()
        context.close()
        context = browser.new_context()
        page = context.new_page()
        page.goto(address)
        page.get_by_role("button", name="More like this").first.wait_for()
        assert "token" not in page.url
        context.close()


@pytest.mark.parametrize("settings", [DESKTOP, DARK], ids=["light", "dark"])
def test_an_item_without_a_picture_is_shown_by_the_end_of_its_id(
    visit: Open, site: str, settings: dict[str, Any]
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page = visit(f"{site}?in=bare&like=id:Bag/{BAG}", **settings)
    settled(page)
    name = cards(page)[0]
    tile = page.get_by_role("button", name=f"Look at {name}")
    tile.get_by_text(name, exact=True).wait_for()
    assert page.get_by_role("group", name="The part that you mean").count() == 0
    tile.click()
    page.get_by_role("dialog").get_by_text("its code came without a picture").first.wait_for()
    assert Axe().run(page).response["violations"] == []


def test_the_catalogue_can_be_changed(visit: Open) -> None:
    page = visit()
    page.get_by_label("Catalogue").select_option("demo")
    page.get_by_text("10,000 items").wait_for()
    settled(page)
    assert "in=demo" in page.url


CLOTHES = Path("/usr/share/openclipart/png/people/clothing")
"""Pictures from Debian's package openclipart-png, in the public domain."""

SHOES = {
    "hiking_boot_jarno_vasama_.png": 35, "feet_in_sandals_jonadab__01.png": 29, "pattino_architetto_franc_01.png": 75,
    "tennis_shoes_jarno_vasam_.png": 45, "thongs_01.png": 15,
}  # fmt: skip
"""Their prices."""


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Runs `simrec`; `serve` runs until the test ends and returns its address."""
    servers = []
    words = [sys.executable, "-m", "simrec", "--home", str(tmp_path / "home"), "--quiet"]

    def running(*others: str) -> str:
        if others[0] != "serve":
            return subprocess.run([*words, *others], capture_output=True, text=True, check=True).stdout
        server = subprocess.Popen([*words, *others, "--port", "0"], stdout=subprocess.PIPE, text=True)
        servers.append(server)
        assert server.stdout is not None
        return re.findall(r"http://127\.0\.0\.1:\d+/", server.stdout.readline())[0]  # type: ignore[no-any-return]

    yield running
    for server in servers:
        server.terminate()
        server.communicate(timeout=60)


def answers(page: Any) -> list[str]:
    """The names of the answers, best first."""
    found = page.get_by_role("list", name=re.compile("similar item")).get_by_role("heading")
    return found.all_inner_texts()  # type: ignore[no-any-return]


def until(page: Any, there: Callable[[], bool]) -> None:
    """Waits for what a visitor waits for, 10 seconds at most."""
    for _ in range(200):
        if there():
            return
        page.wait_for_timeout(50)
    raise AssertionError("that never came")


def copied_link(page: Any) -> str:
    page.get_by_role("button", name="Copy link").click()
    page.get_by_role("button", name="Link copied").wait_for()
    return page.evaluate("navigator.clipboard.readText()")  # type: ignore[no-any-return]


SENT = {"permissions": ["clipboard-read", "clipboard-write"]}


@pytest.mark.parametrize("device", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_a_first_visit_to_a_shop_of_photos_and_prices(
    browser: Any, command: Callable[..., str], tmp_path: Path, device: dict[str, Any]
) -> None:
    """Find a shoe like this under 50, then less like that one, then send the link, only by what the page shows."""
    stock, photo = tmp_path / "stock", tmp_path / "my shoe.png"
    stock.mkdir()
    pictures = [file for file in sorted(CLOTHES.iterdir()) if file.suffix == ".png"]
    for file in pictures:
        shutil.copy(file, photo if file.name.startswith("tennis_shoe_") else stock)
    with (tmp_path / "prices.csv").open("w", newline="") as file:
        kinds = [[one.name, SHOES.get(one.name, 60), "shoes" if one.name in SHOES else "other"] for one in pictures]
        csv.writer(file).writerows([["id", "price", "kind"], *[row for row in kinds if "tennis_shoe_" not in row[0]]])
    command("index", "build", "shop", str(stock))
    command("index", "fields", "shop", str(tmp_path / "prices.csv"))
    address = command("serve", "shop")

    page = browser.new_context(**device, **SENT).new_page()
    page.goto(address)
    with page.expect_file_chooser() as choosing:
        page.get_by_role("button", name="Choose pictures").click()
    choosing.value.set_files(photo)
    page.get_by_role("heading", name="24 similar items").wait_for()
    assert answers(page)[0] == "tennis_shoes_jarno_vasam_.png"
    if device is PHONE:
        page.get_by_text("Filters", exact=True).click()
    page.get_by_label("price to", exact=True).fill("50")
    page.get_by_role("heading", name="4 similar items", exact=True).wait_for()
    assert page.get_by_text("Filters (1)").is_visible()
    assert set(answers(page)) == {name for name, price in SHOES.items() if price <= 50}
    page.get_by_role("button", name="Less like this: thongs_01.png").click()
    page.get_by_text("like my shoe.png, but less like thongs_01.png").wait_for()
    assert page.get_by_role("img", name="thongs_01.png").is_visible()
    found = answers(page)
    assert "thongs_01.png" not in found
    friend = browser.new_context(**device).new_page()
    friend.goto(copied_link(page))
    friend.get_by_text("like my shoe.png, but less like thongs_01.png").wait_for()
    assert answers(friend) == found
    assert friend.get_by_role("img", name="my shoe.png").is_visible()
    assert friend.get_by_text("Filters (1)").is_visible()
    for one in (page, friend):
        one.context.close()


def test_a_first_visit_to_the_demo(browser: Any, command: Callable[..., str]) -> None:
    """The same without a picture and without prices, among the sneakers and ankle boots."""
    page = browser.new_context(**DESKTOP, **SENT).new_page()
    page.goto(command("serve", "demo"))
    for kind in ("Sneaker", "Ankle boot"):
        page.get_by_role("checkbox", name=kind).check()
    until(page, lambda: page.get_by_role("button", name="More like this").count() == 24 and shown(page) == 24)
    page.get_by_role("button", name="More like this").nth(3).click()
    page.get_by_role("heading", name="24 similar items").wait_for()
    unlike = answers(page)[1]
    page.get_by_role("button", name=f"Less like this: {unlike}").click()
    page.get_by_text(f"but less like {unlike}").wait_for()
    found = answers(page)
    assert unlike not in found
    friend = browser.new_context(**DESKTOP).new_page()
    friend.goto(copied_link(page))
    friend.get_by_text(f"but less like {unlike}").wait_for()
    assert answers(friend) == found
    assert friend.get_by_role("checkbox", name="Sneaker").is_checked()
    assert shown(friend) == 24
    for one in (page, friend):
        one.context.close()


def shown(page: Any) -> int:
    """How many of the items are sneakers and ankle boots, as their cards say."""
    cards = page.get_by_role("main").get_by_role("listitem")
    kinds = cards.get_by_role("definition").filter(has_text=re.compile("^(Sneaker|Ankle boot)$"))
    return kinds.count()  # type: ignore[no-any-return]


def test_fields_that_an_item_doesnt_have_are_left_out(
    browser: Any, command: Callable[..., str], photos: Path, shoe: Path, sneaker: Path, tmp_path: Path
) -> None:
    with (tmp_path / "list.csv").open("w", newline="") as file:
        rows = [[sneaker, "sneaker", "red", 12], [shoe, "shoe", "", 15]]
        csv.writer(file).writerows([["path", "id", "colour", "price"], *rows])
    command("index", "build", "mixed", str(photos), "--encoder", "demo")
    command("index", "add", "mixed", str(tmp_path / "list.csv"))
    page = browser.new_page()
    page.goto(f"{command('serve', 'mixed')}?in=mixed&like=id:sneaker&n=96")
    page.get_by_role("heading", name="41 similar items").wait_for()
    names = page.locator("#results .fields dt").all_inner_texts()
    assert names.count("price") == 1
    assert "colour" not in names
    page.get_by_role("button", name="Look at").nth(40).click()
    details = page.get_by_role("dialog").locator(".fields dt").all_inner_texts()
    assert "bytes" in details
    assert not {"colour", "price"} & set(details)
    page.close()


def test_every_control_has_a_name(visit: Open, sneaker: Path) -> None:
    page = visit()
    upload(page, sneaker)
    for role in ("button", "slider", "spinbutton", "checkbox", "combobox", "searchbox", "textbox"):
        everything = page.get_by_role(role)
        named = page.get_by_role(role, name=re.compile(r"\w"))
        assert named.count() == everything.count(), role
