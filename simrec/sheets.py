"""Contact sheets (rows of pictures, each with a line or two of text below) and plots."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageOps

from simrec.contracts import Images
from simrec.fonts import sans
from simrec.images import as_picture

TILE = 112
"""Small pictures are enlarged to between half of this and this, in pixels: by a whole factor, to keep pixels square."""

PHOTO = 128
"""Longest edge of a larger picture (a photo), in pixels."""

LONGEST = 200
"""How many characters of a line of text are used: a label may be a book."""

ACROSS = 10
"""Maximum number of pictures side by side, of one query's answers or in a comparison of versions."""

LARGEST = 60_000_000
"""About how many pixels the largest contact sheet has: 180 MB in memory."""

WIDE = 1300
"""Maximum width of the pictures in `inputs_sheet`, in pixels."""

WRITTEN = 512
"""Maximum edge of a picture of a text, in pixels."""

READABLE = 64
"""Minimum edge, in pixels, at which such a picture has room for its text."""

_GAP, _LINE, _MARGIN = 10, 16, 18
_INK, _PALE, _GREY, _GOOD, _BAD = "#222222", "#777777", "#dddddd", "#1a7f4b", "#c2412d"
_QUERY, _UNLIKE = "#1f5fbf", "#d97706"

Picture = NDArray[np.uint8] | Image.Image
"""A picture as an array (h, w, c) or as Pillow's."""


class Ending(str):
    """A line whose end says more than its beginning, such as an id or a path: if it is too long, it loses its front."""


@dataclass(frozen=True)
class Tile:
    """A picture, or a function that reads it when it is drawn; the lines of text below it; whether it is right (None if
    that isn't known), whether it is a query, and whether it is the part of a query that answers should not look like.
    """

    picture: Picture | Callable[[], Image.Image]
    lines: tuple[str, ...]
    right: bool | None = None
    query: bool = False
    unlike: bool = False


def contact_sheet(rows: Sequence[Sequence[Tile]], title: str, side: int | None = None) -> Image.Image:
    """One row per query: first its own pictures, set apart and framed, then its answers, best first, ten side by side.

    side: the pictures' longest edge in pixels; if None, their sizes decide.
    """
    layout = _Layout.of(rows, side or max(_side(_opened(tile)) for row in rows for tile in row))
    sheet = _Sheet(max(layout.width, _width_of(title)), layout.height(rows), title)
    top = 0
    for row in rows:
        queries = [tile for tile in row if tile.query]
        for c, tile in enumerate(queries):
            sheet.place(tile, _MARGIN + c * layout.across, top, layout.side, _UNLIKE if tile.unlike else _QUERY)
        for number, tile in enumerate([tile for tile in row if not tile.query]):
            down, c = divmod(number, ACROSS)
            left = _MARGIN + layout.before + c * layout.across
            colour = {True: _GOOD, False: _BAD, None: None}[tile.right]
            sheet.place(tile, left, top + down * layout.down, layout.side, colour)
        top += layout.lines(row) * layout.down
    return sheet.image


def fitting(rows: Sequence[Sequence[Tile]], side: int) -> Sequence[Sequence[Tile]]:
    """As many of a contact sheet's rows as fit into LARGEST pixels; at least one row, cut if it doesn't fit."""
    cut = [row[: max(1, LARGEST // (side + _GAP) ** 2 // 2)] for row in rows]
    layout = _Layout.of(cut, side)
    while len(cut) > 1 and layout.width * layout.height(cut) > LARGEST:
        cut = cut[: len(cut) * 9 // 10]
    return cut


@dataclass(frozen=True)
class _Layout:
    """Where the tiles of a contact sheet go, in pixels. side: of a picture; across, down: from one to the next. before:
    the room for queries. width: of the sheet.
    """

    side: int
    across: int
    down: int
    before: int
    width: int

    @classmethod
    def of(cls, rows: Sequence[Sequence[Tile]], side: int) -> _Layout:
        across = side + _GAP
        texts = max(len(tile.lines) for row in rows for tile in row)
        queries = max(sum(tile.query for tile in row) for row in rows)
        answers = min(ACROSS, max(sum(not tile.query for tile in row) for row in rows))
        before = queries * across + (2 * _GAP if queries else 0)
        return cls(side, across, side + texts * _LINE + 8 + _GAP, before, 2 * _MARGIN + before + answers * across)

    def lines(self, row: Sequence[Tile]) -> int:
        """How many lines of pictures a row takes."""
        return max(1, -(-sum(not tile.query for tile in row) // ACROSS))

    def height(self, rows: Sequence[Sequence[Tile]]) -> int:
        return sum(map(self.lines, rows)) * self.down


def comparison_sheet(columns: Sequence[Sequence[Tile]], names: Sequence[str], title: str) -> Image.Image:
    """One column per picture, with its versions one above the other and row names at the left; ten columns side by
    side.
    """
    side = _side(_opened(columns[0][0]))
    step, height = side + _GAP, side + 2 * _LINE + 8
    beside = round(max(sans(12).getlength(name) for name in names)) + 2 * _GAP
    across = min(len(columns), ACROSS)
    bands = math.ceil(len(columns) / ACROSS)
    width = max(2 * _MARGIN + beside + across * step, _width_of(title))
    sheet = _Sheet(width, bands * len(names) * height + (bands - 1) * _MARGIN, title)
    for number, column in enumerate(columns):
        band, place = divmod(number, ACROSS)
        top = band * (len(names) * height + _MARGIN)
        for r, (tile, name) in enumerate(zip(column, names, strict=True)):
            if place == 0:
                sheet.write(name, _MARGIN, top + r * height + side // 2 - _LINE // 2, _INK)
            sheet.place(tile, _MARGIN + beside + place * step, top + r * height, side)
    return sheet.image


def rate_distortion(rows: Sequence[Mapping[str, Any]], title: str) -> Image.Image:
    """A plot of bits per picture against loss: rows as `simrec.recommender.rates` gives them.

    A line connects each family of rows: those whose names are the same up to the first digit.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), dpi=110, layout="constrained")
    axes = figure.add_subplot(
        xscale="log", xlabel="bits per picture", ylabel="mean squared error per pixel", title=title
    )
    families: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        family = re.split(r",? \d", row["name"])[0]
        families.setdefault(family, []).append((row["bits"], row["MSE"]))
    for family, points in families.items():
        axes.plot(*zip(*sorted(points), strict=True), "o-", label=family)
    axes.set_xticks([50, 100, 200, 500, 1000, 2000, 5000], ["50", "100", "200", "500", "1,000", "2,000", "5,000"])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return Image.open(file, formats=["PNG"])


def inputs_sheet(images: Images, names: Sequence[str], title: str) -> Image.Image:
    """Images (n, h, w, c) as an encoder takes them, pixel by pixel, each with its name below."""
    size = max(images.shape[1:3])
    side = TILE // size * size if size <= TILE else size
    across = min(len(images), max(1, WIDE // (side + _GAP)))
    step, height = side + _GAP, side + _LINE + 8
    width = max(2 * _MARGIN + across * step, _width_of(title))
    sheet = _Sheet(width, math.ceil(len(images) / across) * height, title)
    for number, (image, name) in enumerate(zip(images, names, strict=True)):
        row, column = divmod(number, across)
        sheet.place(Tile(image, (name,)), _MARGIN + column * step, row * height, side)
    return sheet.image


def mosaic(images: Images, title: str) -> Image.Image:
    """Images (n, h, w, c) edge to edge, as many across as down."""
    side = _side(images[0])
    across = math.ceil(math.sqrt(len(images)))
    step = side + 2
    down = math.ceil(len(images) / across)
    sheet = _Sheet(max(2 * _MARGIN + across * step, _width_of(title)), down * step, title)
    for number, image in enumerate(images):
        row, column = divmod(number, across)
        sheet.place(Tile(image, ()), _MARGIN + column * step, row * step, side)
    return sheet.image


def written(text: str, edge: int) -> Image.Image:
    """A grey square with a text, in as many lines as fit, for an item without a picture. edge: in pixels; below
    READABLE there is no text.
    """
    side = min(edge, WRITTEN)
    picture = Image.new("RGB", (side, side), _GREY)
    if side >= READABLE:
        size = max(12, side // 12)
        font, room = sans(size), side * 0.86
        lines, rest = [""], " ".join(text[:LONGEST].split())
        for character in rest:
            if font.getlength(lines[-1] + character) > room:
                lines.append("")
            lines[-1] += character
        most = int(room // (1.4 * size))
        if len(lines) > most:
            lines[most - 1 :] = [f"{lines[most - 1][:-1]}…"]
        place = (side / 2, side / 2)
        ImageDraw.Draw(picture).multiline_text(place, "\n".join(lines), _INK, font, anchor="mm", align="center")
    return picture


class _Sheet:
    """A white picture under a title; places count from below the title."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self.image = Image.new("RGB", (width, 2 * _MARGIN + 26 + height), "white")
        self._draw = ImageDraw.Draw(self.image)
        self._draw.text((_MARGIN, _MARGIN - 4), title, _INK, sans(15))

    def place(self, tile: Tile, left: int, top: int, side: int, colour: str | None = None) -> None:
        """Draws a tile's picture, `side` pixels wide, with its lines of text below and a frame if `colour` is given."""
        below = top + _MARGIN + 26
        shown = _fitted_picture(_opened(tile), side)
        self.image.paste(shown, (left + (side - shown.width) // 2, below + (side - shown.height) // 2))
        if colour:
            self._draw.rectangle((left - 3, below - 3, left + side + 2, below + side + 2), outline=colour, width=3)
        for i, line in enumerate(tile.lines):
            self.write(_fitted(line, side + 4), left, top + side + 4 + i * _LINE, _PALE if i else _INK)

    def write(self, text: str, left: int, top: int, colour: str) -> None:
        """Draws a line of small text."""
        self._draw.text((left, top + _MARGIN + 26), text, colour, sans(12))


def _opened(tile: Tile) -> Picture:
    return tile.picture() if callable(tile.picture) else tile.picture


def _side(image: Picture) -> int:
    """The longest edge of a picture on a sheet, in pixels."""
    size = max(image.size) if isinstance(image, Image.Image) else max(image.shape[:2])
    return min(PHOTO, TILE // size * size if size <= TILE else size)


def _fitted_picture(image: Picture, side: int) -> Image.Image:
    """A picture in colour, no edge longer than `side`: a small one enlarged by a whole factor."""
    shown = (image if isinstance(image, Image.Image) else as_picture(image)).convert("RGB")
    factor = side // max(shown.size)
    if factor > 1:
        return shown.resize((shown.width * factor, shown.height * factor), Image.Resampling.NEAREST)
    return shown if factor else ImageOps.contain(shown, (side, side), Image.Resampling.LANCZOS)


def _width_of(title: str) -> int:
    return round(sans(15).getlength(title)) + 2 * _MARGIN


def _fitted(text: str, width: int) -> str:
    """The text in one line, cut until it fits: at its end, or an `Ending` at its front."""
    font, from_front = sans(12), isinstance(text, Ending)
    text = " ".join((text[-LONGEST:] if from_front else text[:LONGEST]).split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength("…" + text) > width:
        text = text[1:] if from_front else text[:-1]
    return f"…{text}" if from_front else f"{text}…"
