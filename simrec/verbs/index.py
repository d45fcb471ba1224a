"""Catalogues: a source in, a recommender with its codes out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from simrec import library, store
from simrec.arrays import to_npy
from simrec.catalogue import write as write_catalogue
from simrec.contracts import Dtype, Notice
from simrec.errors import RequestError, StoreError
from simrec.manifest import CatalogueRecord, Manifest
from simrec.recommender import Recommender, silent


def build(
    name: str,
    source: str | None = None,
    *,
    encoder: str | None = None,
    dtype: Dtype | None = None,
    replace: bool = False,
    data_dir: Path | None = None,
    home_folder: Path | None = None,
    progress: Callable[[str, int, int], None] = silent,
    notice: Notice = silent,
) -> Recommender:
    """Encodes a source and commits it as the catalogue of a recommender.

    source: by default the one it was built from before, else what the encoder was trained on. encoder: the recommender
    whose encoder to take, for a new one; by default the one that `name` has. dtype: how codes are kept (see
    `simrec.index`); by default as they were before, else float32. progress: told a stage ("encoding", "thumbnails"),
    how many pictures are done, and of how many.

    replace: whether another source's catalogue may go.

    Raises RequestError or StoreError when the recommender is not there, is a shipped one or has another encoder, or
    another source's catalogue; DataError and ImageError for the source. Whatever is raised, the catalogue before still
    answers.
    """
    place = home_folder or library.default()
    folder = place / library.check_name(name)
    if not store.exists(folder) and encoder is None:
        if name in library.SHIPPED:
            raise RequestError(f"{name} is shipped and read-only: 'simrec index build NEW SOURCE --encoder {name}'")
        library.check_there(name, place)
    origin = Recommender(library.find_encoder(encoder, place) if encoder else library.find(name, place))
    record = origin.manifest.encoder
    before = store.current(folder).manifest if store.exists(folder) else None
    if before and before.encoder.digest != record.digest:
        raise StoreError(
            f"{folder}: has encoder {before.encoder.title}, not {record.title} of {origin.name}: choose another name"
        )
    if source is None:
        source = before.catalogue.source if before and before.catalogue else record.trained_on.source
    if dtype is None:
        dtype = before.catalogue.dtype if before and before.catalogue else "float32"
    from simrec.index import Index

    with store.Writer(folder) as writer:  # before the pictures are read, which can take minutes
        pictures = origin.pictures(source, data_dir, notice)
        if before and before.catalogue and before.catalogue.source != pictures.name and not replace:
            raise StoreError(
                f"{folder}: has a catalogue of {before.catalogue.source}: add --replace to give it up for "
                f"{pictures.name}, or choose another name"
            )
        codes = origin.encode(pictures.images, lambda done: progress("encoding", done, len(pictures)))
        segments = write_catalogue(writer, pictures, lambda done: progress("thumbnails", done, len(pictures)))
        progress("thumbnails", len(pictures), len(pictures))
        if dtype == "float32":  # the others are asked for because they are small
            writer.write("codes.npy", to_npy(codes))
        writer.write("index.faiss", Index(codes, record.metric, dtype).to_bytes())
        # The weights stay with the recommender that was trained: the ONNX graphs are all that answering needs.
        borrowed = record.runtime == "onnx" and origin.folder.resolve() != folder.resolve()
        needless = frozenset(["encoder/weights.safetensors"] if borrowed else [])
        writer.keep(origin.generation, "encoder/", without=needless)
        catalogue = CatalogueRecord(
            source=pictures.name,
            count=len(pictures),
            labelled=pictures.labelled,
            test=pictures.test,
            reduced=pictures.reduced,
            encoder=record.digest,
            dtype=dtype,
            segments=segments,
        )
        writer.commit(Manifest.new(record, catalogue))
    return Recommender(folder)
