"""What people see of queries and items: pictures, and values as text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from simrec.catalogue import Catalogue
from simrec.contracts import Item, Value
from simrec.originals import Originals
from simrec.queries import Query

if TYPE_CHECKING:
    from PIL.Image import Image

QUERY = 2048
"""Longest edge, in pixels, of the picture of a query that is kept for showing."""


class Display:
    """Pictures for people. An item is shown from its picture file if that lies in the user's own folders, a query of a
    folder or list from its file wherever that lies; otherwise from their previews.

    roots: these folders. edge: the longest edge that is needed, in pixels.
    """

    def __init__(self, catalogue: Catalogue, roots: Sequence[Path], edge: int) -> None:
        self._catalogue, self._edge = catalogue, edge
        self._originals = Originals(roots, edge)
        self._query_files = Originals((), edge)

    def of_query(self, query: Query) -> Image | None:
        """A query's picture; None for a query that is only a code."""
        from simrec.catalogue import previews

        if query.name.startswith("id:") and query.images is None:
            return self.of_item(self._catalogue.items([query.name[3:]])[0])
        if query.picture is None:
            return None
        original = self._query_files.named_picture(query.file, query.stamp) if query.file else None
        return original or previews.opened(query.picture, QUERY)

    def has_picture(self, query: Query) -> bool:
        """Whether `of_query` gives a picture."""
        return query.picture is not None or (query.name.startswith("id:") and query.images is None)

    def of_item(self, item: Item) -> Image:
        """An item's original, else its preview, else the end of its id on grey. Raises StoreError for a damaged one."""
        from simrec import sheets

        picture = self._originals.picture(item) or self._catalogue.picture(item.id)
        return sheets.written(item.id.rpartition("/")[2] or item.id, self._edge) if picture is None else picture

    def why_small(self) -> str:
        """A sentence or two about previews that were shown instead of the files, "" if there were none."""
        causes = [
            (self._originals.elsewhere, "do not lie below a folder that you indexed (--originals FOLDER names one)"),
            (self._originals.gone, "are gone or have changed since"),
        ]
        reasons = " and ".join(f"{number:,} that {cause}" for number, cause in causes if number)
        sentences = []
        if reasons:
            sentences.append(f"Drawn from the catalogue's small previews, instead of their files: {reasons}.")
        if gone := self._query_files.gone:
            sentences.append(
                f"Queries drawn from small previews, instead of their files: {gone:,} that are gone or have changed "
                f"since."
            )
        return " ".join(sentences)


def text_of(value: Value) -> str:
    """A field's value as text, "-" for no value."""
    return "-" if value is None else f"{value:.10g}" if isinstance(value, float) else str(value)


def role_of(query: Query) -> str:
    """What a picture is in a question: "query", "query x2" for a weight of 2, "unlike" for what answers should not look
    like.
    """
    if query.unlike:
        return "unlike"
    return "query" if query.weight == 1 else f"query x{query.weight:g}"


def name_of(query: Query) -> str:
    """A query's name for other people to read: a file's name without its folder."""
    name = query.name
    for part in query.parts or (query,):
        if Path(part.name).is_absolute():
            name = name.replace(part.name, Path(part.name).name)
    return name
