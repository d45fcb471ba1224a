"""What a catalogue is, in local files or in a database: it holds items with their codes and finds the nearest."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from simrec.contracts.arrays import Codes, Notice
from simrec.contracts.items import Hit, Item
from simrec.contracts.sources import Entry

Filter = str
"""An expression over items' fields, as `--where` takes it."""


@dataclass(frozen=True)
class Added:
    """A new item, its code (dim,) and its preview."""

    entry: Entry
    code: NDArray[np.float32]
    content: str
    preview: bytes


@dataclass(frozen=True)
class Changed:
    """An item that is there already, with another picture or other fields; code and preview None: the same picture."""

    entry: Entry
    code: NDArray[np.float32] | None
    content: str
    preview: bytes | None


@dataclass(frozen=True)
class Removed:
    """An item that is gone."""

    id: str


@dataclass(frozen=True)
class Renamed:
    """An item whose picture is the same under another id."""

    before: str
    entry: Entry


Change = Added | Changed | Removed | Renamed


@dataclass(frozen=True)
class Counts:
    """How many items were added, changed, removed and renamed, and how many there are now."""

    added: int
    changed: int
    removed: int
    renamed: int
    items: int


class Catalogue(Protocol):
    """The items that a recommender answers with."""

    def __len__(self) -> int: ...

    def search(
        self, codes: Codes, n: int, *, where: Filter | None = None, without: Collection[str] = ()
    ) -> list[list[Hit]]:
        """The n nearest items of each code (m, dim), nearest first, among those that `where` is true of.

        without: ids of items that are left out of every answer. Raises RequestError for an expression that can't be.
        """
        ...

    def items(self, ids: Sequence[str]) -> list[Item]:
        """The items with those ids, in that order; an id that isn't there is left out."""
        ...

    def batches(self, where: Filter | None = None) -> Iterator[tuple[list[Item], Codes]]:
        """All items with their codes (n, dim) as they are kept, some at a time."""
        ...

    def apply(self, changes: Iterable[Change]) -> Counts:
        """Makes the changes, all of them or none."""
        ...


class OpenCatalogue(Protocol):
    """The factory of an `EngineSpec`: a function, or the catalogue's class."""

    def __call__(self, address: str, *, dim: int, notice: Notice) -> Catalogue:
        """Opens the catalogue at an address, for codes of dim numbers. Raises StoreError when it can't be reached."""
        ...
