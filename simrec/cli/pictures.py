"""Pictures in a terminal: with its own graphics if it has them, else as half blocks."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from simrec.cli.terminal import stdout
from simrec.display import role_of
from simrec.errors import SimrecError

if TYPE_CHECKING:
    from PIL.Image import Image as Picture
    from rich.console import Console, RenderableType
    from rich.text import Text

    from simrec.display import Display
    from simrec.queries import Match, Query

COLUMNS, ROWS = 15, 8
"""Terminal cells that a picture takes."""

GAP = 1
"""Columns between pictures."""

CELL = (10, 20)
"""Pixels per cell (width, height) if the terminal has graphics; it scales them to its own cells."""

HALVES = (1, 2)
"""Pixels per cell (width, height) with half blocks."""

EDGE = COLUMNS * CELL[0]
"""Longest edge of the pictures that are needed, in pixels."""


def shows_pictures() -> bool:
    """Whether stdout is a terminal with colours."""
    if not stdout().isatty():
        return False
    from rich.console import Console

    console = Console(file=stdout())
    return console.color_system is not None and not console.no_color


class Strips:
    """Prints a strip of pictures for each answer: the query, then its best matches, as many as fit side by side."""

    def __init__(self, display: Display) -> None:
        from rich.console import Console

        self._display = display
        self._console: Console = Console(file=stdout())
        self._graphics = _graphics()

    def print(self, query: Query, matches: Sequence[Match]) -> None:
        """Prints the strip of one answer. A picture that can't be read stays blank: the table below is the answer."""
        room = (self._console.width + GAP) // (COLUMNS + GAP)
        drawn = [(part, picture) for part in query.parts or (query,) if (picture := self._of_query(part)) is not None]
        drawn = drawn[: max(1, room - 1)]
        shown = matches[: max(0, room - len(drawn))]
        pictures: list[Picture | None] = [*(picture for _, picture in drawn), *map(self._of_match, shown)]
        if not any(pictures):
            return
        names = [role_of(part) for part, _ in drawn] + [f"{match.rank}.  {match.score:.3f}" for match in shown]
        self._console.print(self._drawn(pictures))
        self._console.print("".join(name.ljust(COLUMNS + GAP) for name in names), markup=False, highlight=False)

    def _drawn(self, pictures: Sequence[Picture | None]) -> RenderableType:
        if self._graphics is None:
            return _halves(_strip(pictures, HALVES))
        columns = len(pictures) * (COLUMNS + GAP) - GAP
        drawn: RenderableType = self._graphics(_strip(pictures, CELL), columns, ROWS)
        return drawn

    def _of_query(self, query: Query) -> Picture | None:
        try:
            return self._display.of_query(query)
        except (SimrecError, ValueError):
            return None

    def _of_match(self, match: Match) -> Picture | None:
        try:
            return self._display.of_item(match.item)
        except SimrecError:
            return None


def _graphics() -> Any:
    """textual-image's class for the graphics that the terminal says it can draw; None for half blocks.

    It takes a keyboard to read the terminal's answer from: it can't be asked when a picture comes through a pipe.
    """
    if not sys.stdin.isatty() or find_spec("textual_image") is None:
        return None
    logging.getLogger("textual_image").setLevel(logging.ERROR)
    try:
        from textual_image.renderable import Image, SixelImage, TGPImage
    except Exception:  # whatever a terminal answers, the table can be printed
        return None
    return Image if Image in (SixelImage, TGPImage) else None


def _strip(pictures: Sequence[Picture | None], cell: tuple[int, int]) -> Picture:
    """Pictures side by side, RGBA, transparent elsewhere. cell: pixels per terminal cell (width, height)."""
    from PIL import Image, ImageOps

    width, height = COLUMNS * cell[0], ROWS * cell[1]
    step = (COLUMNS + GAP) * cell[0]
    strip = Image.new("RGBA", (step * len(pictures) - GAP * cell[0], height))
    for place, picture in enumerate(pictures):
        if picture is not None:
            fitted = ImageOps.contain(picture.convert("RGB"), (width, height), Image.Resampling.LANCZOS)
            strip.paste(fitted, (place * step + (width - fitted.width) // 2, (height - fitted.height) // 2))
    return strip


def _halves(strip: Picture) -> Text:
    """A picture as coloured text, with two pixels to a cell."""
    from rich.text import Text

    pixels: Any = strip.load()
    text = Text(no_wrap=True, overflow="crop")
    for y in range(0, strip.height, 2):
        for x in range(strip.width):
            upper, lower = (_colour(pixels[x, y + row]) for row in (0, 1))
            if upper:
                text.append("▀", f"{upper} on {lower}" if lower else upper)
            else:
                text.append("▄" if lower else " ", lower)
        if y + 2 < strip.height:
            text.append("\n")
    return text


def _colour(pixel: tuple[int, int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*pixel[:3]) if pixel[3] else ""
