"""What an exporter is: it writes items and their codes where another program reads them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from simrec.contracts.arrays import Codes, Metric
from simrec.contracts.items import Item


@dataclass(frozen=True)
class Origin:
    """Who made the codes that are exported.

    encoder: name, preset, size of a code and first figures of its digest. digest: the encoder's whole one. count: how
    many items there are, None while that isn't known. fields: the names of the items' fields, and what each holds: int,
    float or str.
    """

    recommender: str
    encoder: str
    digest: str
    dim: int
    metric: Metric
    count: int | None = None
    fields: Mapping[str, type[int] | type[float] | type[str]] = field(default_factory=dict)


class Exporter(Protocol):
    """The factory of an `ExporterSpec`: a function that writes one export."""

    def __call__(self, target: str, batches: Iterable[tuple[Sequence[Item], Codes]], origin: Origin) -> Sequence[str]:
        """Writes items and their codes (n, dim), batch by batch, and returns what it wrote (paths, or a table's name).

        target: what the person named, a file or an address. What was there stays until all is written. Raises
        RequestError for a target that can't be, StoreError when it can't be written.
        """
        ...
