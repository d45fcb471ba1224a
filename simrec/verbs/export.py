"""Codes out of simrec, for other programs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from simrec.contracts import Codes, ExporterSpec, Images, Item, Notice, Origin
from simrec.errors import DataError, RequestError
from simrec.faults import blamed_on
from simrec.recommender import Recommender, silent
from simrec.sources.load import LeftOut, at_once, open_source
from simrec.streams import ahead, chunks


def export(recommender: Recommender, path: Path, where: str | None = None) -> list[Path]:
    """Writes a catalogue's codes with their items; the file's ending chooses the exporter. Returns the files.

    where: only items that match this filter. Raises RequestError for another ending, for what is no filter and where
    nothing matches, StoreError when the codes cannot be written.
    """
    catalogue = recommender.catalogue
    count = len(catalogue) if where is None else catalogue.matching(where)
    return _written(recommender, path, catalogue.batches(where), count, catalogue.fields)


def encode(
    recommender: Recommender,
    source: str,
    path: Path | None,
    *,
    data_dir: Path | None = None,
    progress: Callable[[str, int, int], None] = silent,
    notice: Notice = silent,
) -> tuple[bytes, list[Path]]:
    """Writes the codes of a source's pictures as `export` does; without a path, returns them as the bytes of a .npy.

    Raises DataError for a source of which nothing can be read, and what `export` raises.
    """
    from simrec.arrays import to_npy

    batches = _encoded(recommender, source, data_dir, progress, notice)
    if path is None:
        return to_npy(np.concatenate([codes for _, codes in batches])), []
    return b"", _written(recommender, path, batches, None, {})


def inputs(
    recommender: Recommender, source: str, most: int, *, data_dir: Path | None = None, notice: Notice = silent
) -> tuple[Images, list[str]]:
    """What the encoder is fed of the first pictures of a source, (n, h, w, c), n at most `most`, and their ids.

    Raises DataError for a source of which none of those can be read.
    """
    opened = open_source(source, data_dir=data_dir, notice=notice)
    batch = opened.read(list(islice(opened.entries(), most)), recommender.manifest.encoder.input)
    if not batch.entries:
        raise DataError(f"{opened.name}: none of its first pictures can be read: {batch.errors[0][1]}")
    return batch.images, [entry.id for entry in batch.entries]


def _encoded(
    recommender: Recommender, source: str, data_dir: Path | None, progress: Callable[[str, int, int], None],
    notice: Notice,
) -> Iterator[tuple[Sequence[Item], Codes]]:  # fmt: skip
    """The items of a source and their codes, batch by batch; the next batch is read while this one is encoded."""
    opened = open_source(source, data_dir=data_dir, notice=notice)
    left_out, done = LeftOut(notice), 0
    total = sum(1 for _ in opened.entries())
    spec = recommender.manifest.encoder.input
    read = (opened.read(chunk, spec) for chunk in chunks(opened.entries(), at_once(spec)))
    with ahead(read) as batches:
        for batch in batches:
            left_out.add(batch.errors)
            done += len(batch.entries)
            progress("encoding", done + left_out.count, total)
            items = [Item(entry.id, entry.source, entry.label, entry.fields) for entry in batch.entries]
            if items:
                yield items, recommender.encode(batch.images)
    left_out.end()
    if not done:
        raise DataError(f"{opened.name}: none of its {total:,} pictures can be read: {left_out.first}")


def _written(
    recommender: Recommender, path: Path, batches: Iterator[tuple[Sequence[Item], Codes]], count: int | None,
    fields: Mapping[str, type[int] | type[float] | type[str]],
) -> list[Path]:  # fmt: skip
    """Hands items and codes to the exporter of the file's ending."""
    from simrec import host

    offers = host.discover().of(ExporterSpec)
    found = [offer for offer in offers if path.name.lower().endswith(offer.spec.endings or ("\0",))]
    if not found:
        endings = ", ".join(sorted({ending for offer in offers for ending in offer.spec.endings}))
        raise RequestError(f"{path}: no exporter writes files with that ending: name one that ends in {endings}")
    record = recommender.manifest.encoder
    origin = Origin(recommender.name, record.title, record.digest, record.dim, record.metric, count, fields)
    exporter = host.imported(found[0])
    with blamed_on(str(found[0])):
        return [Path(written) for written in exporter(str(path), batches, origin)]
