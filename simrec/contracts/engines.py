"""What an engine is: a database table of items and their codes that answers instead of a local catalogue."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from simrec.contracts.arrays import Codes, Metric, Notice
from simrec.contracts.filters import Condition
from simrec.contracts.items import Item

Filter = str
"""An expression over items' fields, as `--where` takes it."""

Kind: TypeAlias = Literal["int64", "double", "string"]
"""The type of a field; whole numbers have 64 bits."""


@dataclass(frozen=True)
class Table:
    """A table's description of itself, kept in the database beside the items.

    encoder: its name, preset, code size and the first digits of its digest. digest: the encoder's whole digest. dtype:
    how codes are kept. approximate: whether it has an index that may miss some of the nearest. fields: of its items.
    """

    encoder: str
    digest: str
    dim: int
    metric: Metric
    dtype: Literal["float32", "float16"] = "float32"
    approximate: bool = False
    fields: Mapping[str, Kind] = field(default_factory=dict)


class Row(NamedTuple):  # a push makes one per item, and a frozen dataclass takes longer
    """An item in a table. code (dim,): as exact as the dtype allows, divided by its length if the metric is cosine.
    length: what it was divided by, 1 for the other metric. preview: a JPEG or PNG file, or b"". digest: of all of this;
    a push skips rows that are there already with the same digest.
    """

    item: Item
    code: NDArray[np.float32]
    length: float
    preview: bytes
    digest: str


class Engine(Protocol):
    """A table, which may not exist yet. Several threads may use it at the same time, and so may processes that are
    forked while it is open: each needs its own connections.

    Every method raises StoreError, without a password in its text, if the database doesn't answer.

    An engine may also have `one_process: bool`: whether only one process at a time can open the table, so that 'simrec
    serve' uses no second one. Without it, any number can.
    """

    @property
    def table(self) -> Table | None:
        """The table's description; None if it doesn't exist yet. Raises StoreError if simrec didn't make the table."""
        ...

    def __len__(self) -> int: ...

    def search(
        self, codes: Codes, n: int, where: Condition | None = None, *, exact: bool = False
    ) -> list[list[tuple[Item, float]]]:
        """The n nearest items of each code (m, dim) with their distances, nearest first; fewer only if there aren't n.

        A distance is 1 - cosine, or Euclidean. where: only items that match; its values have their columns' types. "id"
        and "label" are columns too; an item without a label is empty there. exact: don't use the index.
        """
        ...

    def count(self, where: Condition) -> int:
        """How many items match."""
        ...

    def rows(
        self, where: Condition | None = None, *, ids: Sequence[str] | None = None,
        contents: Sequence[str] | None = None, codes: bool = True, previews: bool = False,
    ) -> Iterator[Sequence[Row]]:  # fmt: skip
        """Rows in batches, in the order of their ids: all, or those that match, or those with these ids or contents.

        codes, previews: whether to fill these in; else they are empty.
        """
        ...

    def digests(self) -> Iterator[tuple[str, str]]:
        """The id and digest of every row."""
        ...

    def apply(self, table: Table, rows: Iterable[Sequence[Row]], removed: Iterable[str], *, replace: bool) -> None:
        """Writes rows, which replace those with the same ids, and removes ids: all of it or nothing.

        The table's description becomes `table`, and so do its fields and index. replace: empty the table first; a table
        of another encoder may only be replaced.
        """
        ...

    def close(self) -> None:
        """Closes its connections."""
        ...


class OpenEngine(Protocol):
    """The factory of an `EngineSpec`: a function, or the engine's class."""

    def __call__(self, address: str, *, notice: Notice) -> Engine:
        """Opens the table at an address (`NAME://PLACE#TABLE`).

        Raises RequestError for an invalid address, StoreError if the database can't be reached.
        """
        ...
