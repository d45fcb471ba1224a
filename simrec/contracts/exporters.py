"""What an exporter is: it writes items and their codes where another program reads them.

A table comes as Arrow record batches, so that a million items never become a million objects. Its columns are those
that the person chose, by default `id`, `label` and `source` (texts), the items' fields (int64, double or text) and
`code`, a list of fixed size of float32, float16 (`halffloat`) or int8; `preview`, a JPEG or PNG file, where it was
asked for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from simrec.contracts.arrays import CodeDtype, Metric

if TYPE_CHECKING:
    from pyarrow import RecordBatch, RecordBatchReader

RECORD = 1
"""The version of `ExportRecord`."""


@dataclass(frozen=True)
class ExportRecord:
    """What a file of codes says of itself, one JSON object under the key `simrec`.

    version: of this record. simrec: the version that wrote the file. encoder: a title for people. encoder_digest: of
    the encoder that made the codes; those of another one can't be compared with them. recipe_digest: of how pictures
    were prepared for it (`ImageSpec.digest`). metric: how to compare them. normalised: whether each was divided by its
    length. dtype: what their numbers are written as. scale: what to multiply int8 numbers by, None for others: one
    number for the whole file, so that cosines and the order of distances are right without it too. dim: numbers in a
    code. columns: names, in order. count: of rows, None while that isn't known. digest: of ids and codes as they are
    written (see `simrec.exporters.content`), "" where there is none.
    """

    version: int
    simrec: str
    encoder: str
    encoder_digest: str
    recipe_digest: str
    metric: Metric
    normalised: bool
    dtype: CodeDtype
    scale: float | None
    dim: int
    columns: tuple[str, ...]
    count: int | None = None
    digest: str = ""

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    def to_bytes(self, length: int = 0) -> bytes:
        """As JSON in UTF-8, filled up with spaces to at least so many bytes."""
        return json.dumps(self.to_json()).encode().ljust(length)


@dataclass(frozen=True)
class Origin:
    """What an exporter is told beside the table.

    recommender: its name. record: what the file shall say of itself, as far as it is known before the first batch.
    most: how many rows will come, at most. content: the count and digest of the batches that were taken so far.
    """

    recommender: str
    record: ExportRecord
    most: int
    content: Callable[[], tuple[int, str]]

    def finished(self) -> ExportRecord:
        """The record with count and digest, once the last batch was taken."""
        count, digest = self.content()
        return replace(self.record, count=count, digest=digest)

    @property
    def widest(self) -> ExportRecord:
        """A record that takes as many bytes as `finished` at least, for a file that has it before its rows."""
        return replace(self.record, count=2**48, digest="0" * 64)


class Exporter(Protocol):
    """The factory of an `ExporterSpec`: a function that writes one export."""

    def __call__(self, target: str | BinaryIO, table: RecordBatchReader, origin: Origin) -> Sequence[str]:
        """Writes a table, batch by batch, and returns what it wrote (paths, or a table's name).

        target: what the person named, a file or an address; an open stream only where the spec says `streams`. What was
        there stays until all is written. The table is read to its end. Raises RequestError for a target or a table
        that can't be, StoreError when it can't be written.
        """
        ...


class ReadExport(Protocol):
    """The `reader` of an `ExporterSpec`: a function that reads back what the exporter wrote."""

    def __call__(self, path: str) -> tuple[ExportRecord, Iterator[RecordBatch]]:
        """What a file says of itself, and its rows, some at a time, with the columns `id` (if it has them) and `code`
        at least, as they were written.

        The file may have come from anyone. Raises DataError, also while rows are taken, for one that can't be read.
        """
        ...
