"""Codes out of simrec, for other programs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from simrec.contracts import Notice
from simrec.recommender import Recommender, silent


def export(recommender: Recommender, path: Path) -> list[Path]:
    """Writes a catalogue's codes with ids and labels to .npy, .parquet or .csv; returns the files.

    Raises RequestError for another ending, StoreError when they cannot be written.
    """
    from simrec.exporters import files

    return files.write(path, recommender.codes, list(recommender.catalogue.all()), recommender.manifest.encoder.title)


def encode(
    recommender: Recommender,
    source: str,
    path: Path | None,
    *,
    data_dir: Path | None = None,
    progress: Callable[[str, int, int], None] = silent,
    notice: Notice = silent,
) -> tuple[bytes, list[Path]]:
    """Writes the codes of a source's pictures as `export` does; without a path, returns them as the bytes of a .npy."""
    from simrec.arrays import to_npy
    from simrec.catalogue import Item
    from simrec.exporters import files

    pictures = recommender.pictures(source, data_dir, notice)
    codes = recommender.encode(pictures.images, lambda done: progress("encoding", done, len(pictures)))
    if path is None:
        return to_npy(codes), []
    named = zip(pictures.ids, pictures.sources, pictures.labels, strict=True)
    items = [Item(row, *fields) for row, fields in enumerate(named)]
    return b"", files.write(path, codes, items, recommender.manifest.encoder.title)
