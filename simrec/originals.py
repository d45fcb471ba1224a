"""Reads items' picture files again to show them, from the user's own folders only.

A recommender may come from anyone, and it is the recommender that says where its items' files are. So simrec reads a
file only if it lies below a folder that this user indexed or named (see `simrec.home.roots`), after following all
links. For other paths simrec doesn't even ask the file system.
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
    """Reads items' picture files. roots: the user's own folders. edge: the longest edge that is needed, in pixels.

    gone: how many files weren't there, have changed since they were read, or couldn't be read. elsewhere: how many
    don't lie below the user's folders.
    """

    def __init__(self, roots: Sequence[Path], edge: int) -> None:
        self._roots = [(root, Path(os.path.realpath(root))) for root in roots]
        self._edge = edge
        self.gone = self.elsewhere = 0

    def picture(self, item: Item) -> Image | None:
        """An item's picture, upright, no edge longer than `edge`; None if it can't be read."""
        path = self.path(item)
        return None if path is None else self._decoded(path)

    def named_picture(self, source: str, stamp: str) -> Image | None:
        """The picture in a file that the person at the prompt named, wherever it lies; otherwise like `picture`.

        source, stamp: those of its entry, see `simrec.contracts.Entry`.
        """
        from simrec.sources.files import path_of, stamp_of, status_of

        path = path_of(source)
        if stamp and stamp != stamp_of(status_of(path)):
            self.gone += 1
            return None
        return self._decoded(path)

    def _decoded(self, path: Path) -> Image | None:
        from PIL import Image, ImageOps

        from simrec import picture_files
        from simrec.picture_files import Enough

        try:
            with picture_files.opened(path, str(path), Enough(self._edge)) as picture:
                if max(picture.size) <= self._edge:
                    return picture.copy()
                return ImageOps.contain(picture, (self._edge, self._edge), Image.Resampling.LANCZOS)
        except ImageError:
            self.gone += 1
            return None

    def path(self, item: Item) -> Path | None:
        """Where an item's file really is; None if it has none, may not be read, is gone or has changed."""
        from simrec.sources.files import stamp_of, status_of

        if not Path(item.source).is_absolute():  # from a data set, which has only previews
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
        """Whether a path's name is below one of the folders; real: whether its links were followed."""
        return ".." not in path.parts and any(
            path.is_relative_to(followed) or (not real and path.is_relative_to(root)) for root, followed in self._roots
        )


def _spellings(source: str) -> Iterator[Path]:
    """The paths that an item's source may mean: as `simrec.sources.files.path_of`, without asking the file system."""
    yield Path(source)
    if "%" in source:
        yield Path(os.fsdecode(unquote_to_bytes(source)))
