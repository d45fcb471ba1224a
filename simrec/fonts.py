"""The font of sheets and posters: DejaVu Sans, which comes with matplotlib."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

from PIL import ImageFont

SCALE = 0.9
"""DejaVu's letters are larger than those of other fonts of the same size."""


@cache
def sans(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """A font without serifs; its letters are about as large as most fonts' at that size, in pixels.

    It has Latin, Greek, Cyrillic and Arabic letters, where Pillow's own font has no umlauts.
    """
    for folder in getattr(find_spec("matplotlib"), "submodule_search_locations", None) or ():  # without importing it
        file = Path(folder, "mpl-data", "fonts", "ttf", "DejaVuSans.ttf")
        if file.is_file():
            return ImageFont.truetype(file, SCALE * size)
    return ImageFont.load_default(size)
