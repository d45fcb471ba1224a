"""The pictures of items as their files have them, read again to be shown, below the user's own folders only.

A recommender may have come from anyone, and says itself where its items' files are. So a file is read only if it lies
below a folder that this user indexed or named (see `simrec.home.roots`), with all links followed; of a path outside
of these nothing is asked of the file system at all.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from simrec.contracts import Item
from simrec.errors import ImageError

if TYPE_CHECKING:
    from PIL.Image import Image


class Originals:
    """Reads items' picture files. roots: the user's own folders. edge: pixels of the longest edge that is needed.

    gone: how many weren't there, have changed since they were indexed, or couldn't be read. elsewhere: how many don't
    lie below the user's folders.
    """

    def __init__(self, roots: Sequence[Path], edge: int) -> None:
        self._roots = [(root, Path(os.path.realpath(root))) for root in roots]
        self._edge = edge
        self.gone = self.elsewhere = 0

    def picture(self, item: Item) -> Image | None:
        """An item's picture, upright, no edge longer than `edge`; None where it can't be had."""
        from PIL import Image, ImageOps

        from simrec import picture_files
        from simrec.picture_files import Enough

        path = self.path(item)
        if path is None:
            return None
        try:
            with picture_files.opened(path, item.source, Enough(self._edge)) as picture:
                if max(picture.size) <= self._edge:
                    return picture.copy()
                return ImageOps.contain(picture, (self._edge, self._edge), Image.Resampling.LANCZOS)
        except ImageError:
            self.gone += 1
            return None

    def path(self, item: Item) -> Path | None:
        """Where an item's file really is; None where it has none that may be read, is gone or has changed."""
        from simrec.sources.files import stamp_of, status_of

        if not Path(item.source).is_absolute():  # of a data set, whose previews are all there is
            return None
        inside = [path for path in _spellings(item.source) if self._below(path, real=False)]
        if not inside:
            self.elsewhere += 1
            return None
        path = next((path for path in inside if path.exists()), None)
        if path is None:
            self.gone += 1
            return None
        path = Path(os.path.realpath(path))
        if not self._below(path, real=True):
            self.elsewhere += 1
            return None
        if item.stamp and item.stamp != stamp_of(status_of(path)):
            self.gone += 1
            return None
        return path

    def _below(self, path: Path, *, real: bool) -> bool:
        """Whether a path is below one of the folders by its name; real: whether its links were followed."""
        return ".." not in path.parts and any(
            path.is_relative_to(followed) or (not real and path.is_relative_to(root)) for root, followed in self._roots
        )


def _spellings(source: str) -> Iterator[Path]:
    """The paths that an item's source may mean: see `simrec.sources.files.path_of`, which asks the file system."""
    yield Path(source)
    if "%" in source:
        yield Path(os.fsdecode(unquote_to_bytes(source)))
