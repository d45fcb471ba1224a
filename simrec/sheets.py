"""Contact sheets: pictures in rows with a line of text under each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

TILE = 112
"""Pixels a small picture is enlarged to, at least half of it: by a whole factor, so that its pixels stay square."""

_GAP, _LINE, _MARGIN = 10, 16, 18
_INK, _PALE, _GOOD, _BAD, _QUERY = "#222222", "#777777", "#1a7f4b", "#c2412d", "#1f5fbf"


@dataclass(frozen=True)
class Tile:
    """A picture uint8 (h, w, c), one or two lines of text, and whether it is right (None: nobody knows)."""

    picture: NDArray[np.uint8]
    lines: tuple[str, ...]
    right: bool | None = None


def contact_sheet(rows: Sequence[Sequence[Tile]], title: str) -> Image.Image:
    """One row a query: the query first, set apart and framed, then its answers, best first."""
    side = _side(rows[0][0].picture)
    step, height = side + _GAP, side + 2 * _LINE + 8
    columns = max(len(row) for row in rows)
    width = 2 * _MARGIN + columns * step + _GAP
    sheet = Image.new("RGB", (width, 2 * _MARGIN + 26 + len(rows) * (height + _GAP)), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN, _MARGIN - 4), title, _INK, _font(15))
    for r, row in enumerate(rows):
        top = _MARGIN + 26 + r * (height + _GAP)
        for c, tile in enumerate(row):
            left = _MARGIN + c * step + (2 * _GAP if c else 0)
            sheet.paste(_enlarged(tile.picture, side), (left, top))
            colour = _QUERY if c == 0 else {True: _GOOD, False: _BAD, None: None}[tile.right]
            if colour:
                draw.rectangle((left - 3, top - 3, left + side + 2, top + side + 2), outline=colour, width=3)
            for i, line in enumerate(tile.lines[:2]):
                text = _fitted(line, side + 4)
                draw.text((left, top + side + 4 + i * _LINE), text, _PALE if i else _INK, _font(12))
    return sheet


def _side(picture: NDArray[np.uint8]) -> int:
    size: int = picture.shape[0]
    return max(1, TILE // size) * size


def _enlarged(picture: NDArray[np.uint8], side: int) -> Image.Image:
    image = Image.fromarray(picture[:, :, 0] if picture.shape[2] == 1 else picture).convert("RGB")
    return image.resize((side, side), Image.Resampling.NEAREST)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _fitted(text: str, width: int) -> str:
    """The text, its front cut away until it fits: the end of a path says more."""
    font = _font(12)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength("…" + text) > width:
        text = text[1:]
    return "…" + text
