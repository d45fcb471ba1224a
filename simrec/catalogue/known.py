"""What a catalogue says of an item to whoever compares, and of the nearest ones to whoever asks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from simrec.contracts import Item


class Known(NamedTuple):  # which is made faster than a dataclass
    """An item that a catalogue holds, and in which row of which segment."""

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
    """The items that are nearest to some codes: their rows (m, k), -1 where there are no more, and distances (m, k),
    nearest first. at: gives the items of some rows.
    """

    rows: NDArray[np.int64]
    distances: NDArray[np.float32]
    at: Callable[[Sequence[int]], list[Item]]

    def items(self) -> dict[int, Item]:
        """All of them by their rows, each read once."""
        wanted = sorted(set(self.rows.ravel().tolist()) - {-1})  # np.unique would import numpy.ma
        return dict(zip(wanted, self.at(wanted), strict=True))
