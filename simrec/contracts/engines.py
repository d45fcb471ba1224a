"""What an engine is: a table of items with their codes in a database, which answers in place of a local catalogue."""

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
"""What a field holds; a whole number has 64 bits."""


@dataclass(frozen=True)
class Table:
    """What a table says of itself; it is kept in the database, beside the items.

    encoder: name, preset, size of a code and first figures of its digest. digest: the encoder's whole one. dtype: how
    codes are kept. approximate: whether it has an index that may miss some of the nearest. fields: of its items.
    """

    encoder: str
    digest: str
    dim: int
    metric: Metric
    dtype: Literal["float32", "float16"] = "float32"
    approximate: bool = False
    fields: Mapping[str, Kind] = field(default_factory=dict)


class Row(NamedTuple):  # a push makes one of each item, and a frozen dataclass takes longer
    """An item in a table. code (dim,): as far as the dtype keeps it, divided by its length where the metric is cosine.
    length: what it was divided by, 1 for the other metric. preview: a JPEG or PNG file, b"" where there is none.
    digest: of all of this, by which a row is known that is there already.
    """

    item: Item
    code: NDArray[np.float32]
    length: float
    preview: bytes
    digest: str


class Engine(Protocol):
    """A table, which need not be there yet. Several threads may use it at the same time.

    Whatever is asked raises StoreError, without a password in its text, where the database doesn't answer.
    """

    @property
    def table(self) -> Table | None:
        """What the table says of itself; None where there is none yet. Raises StoreError for a table of others."""
        ...

    def __len__(self) -> int: ...

    def search(
        self, codes: Codes, n: int, where: Condition | None = None, *, exact: bool = False
    ) -> list[list[tuple[Item, float]]]:
        """The n nearest items of each code (m, dim) and their distances, nearest first, n wherever there are so many.

        A distance is 1 - cosine, or Euclidean. where: only items that it finds; its values are of their columns' kinds.
        "id" and "label" are columns too, an item without a label has nothing there. exact: without the index.
        """
        ...

    def count(self, where: Condition) -> int:
        """How many items match."""
        ...

    def rows(
        self, where: Condition | None = None, *, ids: Sequence[str] | None = None,
        contents: Sequence[str] | None = None, codes: bool = True, previews: bool = False,
    ) -> Iterator[Sequence[Row]]:  # fmt: skip
        """Rows, some at a time, in the order of their ids: all of them, or those that match, or those with these ids
        or contents. What wasn't asked for is empty.
        """
        ...

    def digests(self) -> Iterator[tuple[str, str]]:
        """The id and digest of every row."""
        ...

    def apply(self, table: Table, rows: Iterable[Sequence[Row]], removed: Iterable[str], *, replace: bool) -> None:
        """Writes rows, new ones and those that take the place of others with the same ids, and removes ids: all or
        nothing. What the table says of itself becomes `table`, its fields and index too. replace: nothing that was in
        it stays; a table of another encoder may only be replaced.
        """
        ...

    def close(self) -> None:
        """Ends its connections."""
        ...


class OpenEngine(Protocol):
    """The factory of an `EngineSpec`: a function, or the engine's class."""

    def __call__(self, address: str, *, notice: Notice) -> Engine:
        """Opens the table at an address (`NAME://PLACE#TABLE`).

        Raises RequestError for an address that can't be, StoreError when the database can't be reached.
        """
        ...
