"""What a source of pictures is."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from simrec.contracts.arrays import Images, ImageSpec, Notice


@dataclass(frozen=True)
class Pictures:
    """A loaded source.

    name: what to type to load it again, from any folder. images: uint8 (n, h, w, c). ids: stable, one an image, no two
    the same. sources: where each came from (a file's path, or the data set's name). labels: one an image, "" for none.
    test: the name of the split to test on, a source too. reduced: whether this stands in for a larger set that could
    not be had.
    """

    name: str
    images: Images
    ids: tuple[str, ...]
    sources: tuple[str, ...]
    labels: tuple[str, ...]
    test: str | None = None
    reduced: bool = False

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def labelled(self) -> bool:
        """Whether any picture has a label."""
        return any(self.labels)

    @property
    def digest(self) -> str:
        """SHA-256 of the pixels and their shape, in order."""
        return hashlib.sha256(repr(self.images.shape).encode() + self.images.tobytes()).hexdigest()

    def where(self, chosen: NDArray[np.bool_]) -> Pictures:
        """The pictures at which a mask (n,) is true, under the same name."""
        return self.rows(np.flatnonzero(chosen).tolist())

    def rows(self, rows: Sequence[int]) -> Pictures:
        """The pictures in those rows, in that order, under the same name."""
        return replace(
            self,
            images=self.images[list(rows)],
            ids=tuple(self.ids[row] for row in rows),
            sources=tuple(self.sources[row] for row in rows),
            labels=tuple(self.labels[row] for row in rows),
        )


class Source(Protocol):
    """What the factory of a `SourceSpec` is: a function that loads pictures."""

    def __call__(self, text: str, spec: ImageSpec, *, data_dir: Path | None, notice: Notice) -> Pictures:
        """The pictures, as an encoder with that spec is fed them (`simrec.images` gets any picture there).

        text: what was typed after the name and its colon, "" for nothing. data_dir: where the person said the data
        set's files are. notice: told what was left out or is downloaded. Raises DataError when the pictures are not
        to be had, RequestError for a text that means nothing.
        """
        ...
