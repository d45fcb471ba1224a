"""What a catalogue knows about an item, for comparing with a source, and the nearest items to codes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from simrec.contracts import Item


class Known(NamedTuple):  # faster to make than a dataclass
    """An item in a catalogue, with its segment and its row there."""

    segment: int
    row: int
    id: str
    origin: int
    source: str
    label: str
    stamp: str
    content: str


@dataclass(frozen=True)
class Nearest:
    """The items nearest to some codes: their rows (m, k), -1 if there are no more, and distances (m, k), nearest first.

    at: gives the items in some rows.
    """

    rows: NDArray[np.int64]
    distances: NDArray[np.float32]
    at: Callable[[Sequence[int]], list[Item]]

    def items(self) -> dict[int, Item]:
        """All these items by row, each read once."""
        rows = np.sort(self.rows, axis=None)
        new = rows >= 0
        new[1:] &= rows[1:] > rows[:-1]  # np.unique would import numpy.ma
        wanted = rows[new].tolist()
        return dict(zip(wanted, self.at(wanted), strict=True))
