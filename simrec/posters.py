"""The map of a catalogue as a poster."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from simrec.fonts import sans
from simrec.maps import NEVER, SIDE, Map

ACROSS = 64
"""Maximum number of pictures side by side."""

LEAST = 10
"""Minimum number of pictures side by side, however few items there are."""

AWAY = 2
"""How many cells a picture may be moved from its item's place if another picture is already there."""

NAMED = 12
"""Up to so many classes get a legend and coloured lines below their pictures."""

CHARACTERS, TITLE = 16, 40
"""Maximum characters of a name in the legend, and of the title."""

_LIGHT = {"paper": "#faf9f6", "ink": "#26272b", "soft": "#6b6e76"}
_DARK = {"paper": "#0d0e11", "ink": "#ecebe7", "soft": "#8f939c"}


class Poster:
    """A map drawn as one picture: its items' pictures in square cells, each as close as possible to its item's place.

    size: pixels across and down. cells: the cell (across, down) of each item that is shown, by its number.
    """

    def __init__(self, drawn: Map, size: int) -> None:
        self._drawn, self._size = drawn, size
        self._margin = size // 20
        self._side = size - 2 * self._margin
        self._across = across = int(np.clip(1.5 * np.sqrt(len(drawn)), LEAST, min(ACROSS, self._side // 8)))
        self.cells = _cells(drawn.order(), _evened(drawn.places) * across, across)
        self._shown = Image.new("RGBA", (size, size))
        self._marks = list[tuple[int, tuple[int, int, int, int]]]()
        self._grounds = list[tuple[int, int, int]]()
        self._title = " ".join(drawn.title.split())[:TITLE]
        colouring = drawn.colouring
        self._marked = colouring.kind == "scale" or 0 < len(colouring.names) <= NAMED

    def put(self, number: int, picture: Image.Image) -> None:
        """Places the picture of an item that is among `cells`."""
        across, down = self.cells[number]
        left, right = (self._margin + round(place * self._side / self._across) for place in (across, across + 1))
        top, bottom = (self._margin + round(place * self._side / self._across) for place in (down, down + 1))
        picture = picture.convert("RGB")
        corners = [(x, y) for x in (0, picture.width - 1) for y in (0, picture.height - 1)]
        self._grounds.append(sorted((_pixel(picture, corner) for corner in corners), key=sum)[1])
        gap = max(2, (right - left) // 12) if self._marked else max(1, (right - left) // 24)
        small = _scaled(picture, right - left - gap, bottom - top - gap)
        left += (right - left - small.width) // 2
        self._shown.paste(small, (left, top + (bottom - gap - top - small.height) // 2))
        self._marks.append((number, (left, bottom - gap, left + small.width - 1, bottom - 1 - gap // 2)))

    def finished(self) -> Image.Image:
        """The poster, on paper in the colour of most pictures' background."""
        ground = np.median(np.array(self._grounds or [(255, 255, 255)]), axis=0).astype(int).tolist()
        dark = sum(ground) < 3 * 64
        look = _DARK if dark else _LIGHT
        paper = look["paper"] if 3 * 64 <= sum(ground) < 3 * 240 else "#" + bytes(ground).hex()
        poster = Image.new("RGB", (self._size, self._size), paper)
        poster.paste(self._shown, mask=self._shown)
        draw = ImageDraw.Draw(poster)
        unit = self._size // 100
        draw.text((self._margin, unit), self._title, look["ink"], sans(1.6 * unit))
        facts = " · ".join(self._drawn.facts)[: 3 * TITLE]
        draw.text((self._margin, self._size - 3 * unit), facts, look["soft"], sans(1.1 * unit))
        if self._marked:
            colours = self._drawn.colouring.colours(dark=dark)
            for number, where in self._marks:
                colour = self._drawn.colouring.numbers[number]
                if colour != NEVER:
                    draw.rectangle(where, colours[colour])
            self._legend(draw, look["ink"], colours, unit)
        return poster

    def _legend(self, draw: ImageDraw.ImageDraw, ink: str, colours: list[str], unit: int) -> None:
        """Draws what the colours mean, flush right."""
        colouring = self._drawn.colouring
        if colouring.kind == "scale":
            ends = [(colouring.low, colours[0]), (colouring.high, colours[-1])]
            digits = 0 if max(abs(colouring.low), abs(colouring.high)) >= 100 else 2
            named = [(f"{self._drawn.label} {value:,.{digits}f}", colour) for value, colour in ends]
        else:
            named = list(zip(colouring.names, colours, strict=True))
        named = [(" ".join(name.split())[:CHARACTERS], colour) for name, colour in named]
        room = self._side - sans(1.6 * unit).getlength(self._title) - 2 * unit
        wide = sum(sans(1.1 * unit).getlength(name) + 2.4 * unit for name, _ in named)
        step = unit * min(1, room / wide)
        font, right = sans(1.1 * step), float(self._size - self._margin)
        for name, colour in reversed(named):
            right -= font.getlength(name)
            draw.text((right, 2 * unit), name, ink, font, anchor="lm")
            right -= step
            dot = 0.35 * step
            draw.ellipse((right - dot, 2 * unit - dot, right + dot, 2 * unit + dot), colour)
            right -= 1.4 * step


def _evened(places: NDArray[np.uint16]) -> NDArray[np.float64]:
    """Places (n, 2) as shares of the poster, halfway between the places and their ranks, to shrink empty areas."""
    ranks = places.argsort(axis=0, kind="stable").argsort(axis=0, kind="stable") / len(places)
    mixed = places / SIDE + ranks
    low, high = mixed.min(axis=0), mixed.max(axis=0)
    shares: NDArray[np.float64] = (mixed - low) / np.maximum(high - low, 1e-9) * (1 - 1e-9)
    return shares


def _cells(order: NDArray[np.int64], places: NDArray[np.float64], across: int) -> dict[int, tuple[int, int]]:
    """The cells (across, down) of the items that find room. order: in which they choose. places (n, 2): in cells."""
    taken: dict[tuple[int, int], int] = {}
    steps = range(-AWAY, AWAY + 1)
    for number in order.tolist():
        x, y = places[number].tolist()
        free = [
            cell
            for right in steps
            for below in steps
            if (cell := (int(x) + right, int(y) + below)) not in taken and min(cell) >= 0 and max(cell) < across
        ]
        if free:
            taken[min(free, key=lambda cell: _distance(cell, x, y))] = number
    return {number: cell for cell, number in taken.items()}


def _distance(cell: tuple[int, int], x: float, y: float) -> float:
    return (cell[0] + 0.5 - x) ** 2 + (cell[1] + 0.5 - y) ** 2


def _scaled(picture: Image.Image, width: int, height: int) -> Image.Image:
    """A picture as large as fits; the pixels of a tiny one stay square."""
    factor = min(width / picture.width, height / picture.height)
    size = max(1, round(picture.width * factor)), max(1, round(picture.height * factor))
    if factor > 1 and max(picture.size) < 64:
        whole = -(-size[0] // picture.width)
        picture = picture.resize((picture.width * whole, picture.height * whole), Image.Resampling.NEAREST)
        return picture.resize(size, Image.Resampling.BOX)
    return picture.resize(size, Image.Resampling.LANCZOS)


def _pixel(picture: Image.Image, place: tuple[int, int]) -> tuple[int, int, int]:
    pixel = picture.getpixel(place)
    assert isinstance(pixel, tuple)
    return int(pixel[0]), int(pixel[1]), int(pixel[2])
