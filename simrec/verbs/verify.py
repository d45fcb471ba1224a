"""Checks files of codes against their own records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from simrec.contracts import ExporterSpec, ExportRecord
from simrec.errors import DataError, PluginError, RequestError
from simrec.exporters.content import Content
from simrec.faults import blamed_on
from simrec.manifest import EncoderRecord
from simrec.recommender import Recommender, silent


def verify(
    path: Path, recommender: Recommender | None = None, *, progress: Callable[[str, int, int], None] = silent
) -> ExportRecord:
    """Reads all of an export, in bounded memory, and checks it against its record; returns the record.

    recommender: its encoder must have made the codes. progress: called with a stage, how many rows are done, and of how
    many. Raises RequestError for an ending that can't be read back, DataError for a file that doesn't match its record.
    """
    record, batches = opened(path)
    if recommender is not None:
        check_encoder(path, record, recommender.manifest.encoder, recommender.name)
    for count, _ in counted(path, record, batches):
        progress("reading", count, record.count or 0)
    return record


def opened(path: Path) -> tuple[ExportRecord, Iterator[Any]]:
    """A file's record, and its rows as pyarrow RecordBatches, not yet checked: see `ReadExport`.

    Raises what `verify` raises.
    """
    from simrec import host

    offers = [offer for offer in host.discover().of(ExporterSpec) if offer.spec.reader]
    fitting = [offer for offer in offers if path.name.lower().endswith(offer.spec.endings or ("\0",))]
    if not fitting:
        endings = ", ".join(sorted({ending for offer in offers for ending in offer.spec.endings}))
        raise RequestError(f"{path}: no export that can be read back has that ending: name one that ends in {endings}")
    culprit, read = str(fitting[0]), host.imported(fitting[0], fitting[0].spec.reader)
    with blamed_on(culprit):
        record, batches = read(str(path))
    if not isinstance(record, ExportRecord):
        raise PluginError(f"{culprit} read {type(record).__name__}, not an ExportRecord: fix the plugin")
    return record, _checked(batches, culprit)


def _checked(batches: Iterable[Any], culprit: str) -> Iterator[Any]:
    """What a reader gives. Raises PluginError, naming the culprit, for anything but batches with codes."""
    from pyarrow import RecordBatch

    with blamed_on(culprit):
        for batch in batches:
            if not isinstance(batch, RecordBatch) or "code" not in batch.schema.names:
                raise PluginError(
                    f"{culprit} read {type(batch).__name__}, not a RecordBatch with codes: fix the plugin"
                )
            yield batch


def check_encoder(path: Path, record: ExportRecord, encoder: EncoderRecord, name: str) -> None:
    """Raises DataError for codes that another encoder made."""
    if record.encoder_digest != encoder.digest:
        raise DataError(
            f"{path}: its codes are from encoder {record.encoder}, but {name} has {encoder.title}: name the one "
            f"that made them"
        )


def counted(path: Path, record: ExportRecord, batches: Iterator[Any]) -> Iterator[tuple[int, Any]]:
    """The batches of an export, each with the number of rows so far.

    Raises DataError, at the latest after the last batch, if they aren't what was written.
    """
    content = Content()
    for batch in batches:
        content.add(batch)
        if content.count > (record.count or 0):
            raise DataError(f"{path}: it has more than the {record.count:,} rows that its record says: export it again")
        yield content.count, batch
    if content.count != record.count:
        raise DataError(f"{path}: cut: it has {content.count:,} of {record.count:,} rows: export it again")
    if content.digest != record.digest:
        raise DataError(f"{path}: altered: its ids or codes are not those that were written: export it again")
