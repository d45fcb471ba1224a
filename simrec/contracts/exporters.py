"""What an exporter is: it writes items and their codes for another program to read.

A table comes as Arrow record batches, so that a million items never become a million objects. Its columns are those
that the person chose, by default `id`, `label` and `source` (texts), the items' fields (int64, double or text) and
`code`, a list of fixed size of float32, float16 (`halffloat`) or int8; on request also `preview`, a JPEG or PNG file.
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
    """The description in a file of codes: one JSON object under the key `simrec`.

    version: of this record. simrec: the version that wrote the file. encoder: a title for people. encoder_digest: of
    the encoder that made the codes; codes of other encoders can't be compared with them. recipe_digest: of how pictures
    were prepared for it (`ImageSpec.digest`). metric: how to compare codes. normalised: whether each code was divided
    by its length. dtype: the type of their numbers. scale: what to multiply int8 numbers by, else None; it is one
    number for the whole file, so that cosines and the order of distances are right without it too. dim: numbers in a
    code. columns: names, in order. count: of rows, None while unknown. digest: of ids and codes as they are written
    (see `simrec.exporters.content`), or "".
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
        """As JSON in UTF-8, padded with spaces to at least `length` bytes."""
        return json.dumps(self.to_json()).encode().ljust(length)


@dataclass(frozen=True)
class Origin:
    """What an exporter gets beside the table.

    recommender: its name. record: the file's description, as far as it is known before the first batch. most: maximum
    number of rows. content: gives the count and digest of the batches read so far.
    """

    recommender: str
    record: ExportRecord
    most: int
    content: Callable[[], tuple[int, str]]

    def finished(self) -> ExportRecord:
        """The record with count and digest, once the last batch has been read."""
        count, digest = self.content()
        return replace(self.record, count=count, digest=digest)

    @property
    def widest(self) -> ExportRecord:
        """A record at least as long as `finished`, for files that store it before the rows."""
        return replace(self.record, count=2**48, digest="0" * 64)


class Exporter(Protocol):
    """The factory of an `ExporterSpec`: a function that writes one export."""

    def __call__(self, target: str | BinaryIO, table: RecordBatchReader, origin: Origin) -> Sequence[str]:
        """Writes a table, batch by batch, and returns what it wrote (paths, or a table's name).

        target: the file or address that the person named; an open stream only if the spec says `streams`. An existing
        file stays until everything is written. Reads the table to its end. Raises RequestError for a target or table
        that this format can't take, StoreError if it can't be written.
        """
        ...


class ReadExport(Protocol):
    """The `reader` of an `ExporterSpec`: a function that reads back what the exporter wrote."""

    def __call__(self, path: str) -> tuple[ExportRecord, Iterator[RecordBatch]]:
        """A file's description, and its rows in batches, as they were written, with at least the columns `id` (if the
        file has it) and `code`.

        The file may come from anyone. Raises DataError if it can't be read, also while rows are being read.
        """
        ...
