"""Makes a catalogue from an export: codes that the same encoder made elsewhere are used as they are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from simrec import library, store
from simrec.catalogue import previews
from simrec.catalogue.building import LARGEST_TEXTS, New
from simrec.catalogue.fields import LARGEST, Kind
from simrec.catalogue.revising import Coding, Revision
from simrec.catalogue.tables import OWN
from simrec.contracts import Codes, Dtype, Entry, ExportRecord, content
from simrec.errors import DataError, RequestError, StoreError
from simrec.exporters.content import codes
from simrec.faults import LARGEST as LARGEST_NUMBER
from simrec.home import SHIPPED, default
from simrec.manifest import CatalogueRecord, ChangeRecord, Manifest, SourceRecord
from simrec.recommender import Recommender
from simrec.verbs.encoding import Context, kept_encoder, no_codes
from simrec.verbs.verify import check_encoder, counted, opened

RENAMED = re.compile(r"field_((field_)*(id|label|source|code|preview|code_.*))")
"""Columns of fields that an export had to rename: see `simrec.catalogue.tables.named`."""


def build_from_export(
    name: str, path: Path, *, encoder: str | None = None, dtype: Dtype | None = None, replace: bool = False,
    context: Context | None = None,
) -> Recommender:  # fmt: skip
    """Makes the rows of an export the catalogue of a recommender; no picture is read.

    encoder: the recommender whose encoder made the codes; by default the encoder of `name`, else that of any
    recommender that has it. dtype, replace: see `simrec.verbs.build.build`. Items have previews if the export has that
    column, else grey ones. Codes in float16 and int8 are used with their rounding; normalised codes are used as well if
    the metric is cosine, which depends only on their direction. An export doesn't say what the picture files hold, so a
    file that is looked up isn't recognised as an item's: only `id:ITEM` leaves the item out of its own answer.

    Raises DataError for a file that isn't what was written and for codes of another encoder, RequestError for codes
    that can't be compared and for an invalid name, StoreError if there is another catalogue.
    """
    context = context or Context()
    place = context.home or default()
    folder = place / library.check_name(name)
    record, _ = opened(path)
    origin = _origin(name, record, encoder, place)
    check_encoder(path, record, origin.manifest.encoder, origin.name)
    _check(path, record, context)
    coming = str(path.absolute())
    if store.exists(folder):
        before = store.current(folder, hold=False).manifest
        if before.encoder.digest != record.encoder_digest:
            raise StoreError(
                f"{folder}: has encoder {before.encoder.title}, not {record.encoder}, which made the codes of {path}: "
                f"choose another name"
            )
        held = before.catalogue
        if held and (held.engine or held.source != coming) and not replace:
            raise StoreError(
                f"{folder}: has a catalogue of {held.source}: add --replace to replace it with {coming}, or choose "
                f"another name"
            )
        if held and held.engine:
            raise RequestError(f"{name}: its items are in {held.engine}: build a recommender with another name")
        dtype = dtype or (held.dtype if held else None)
    return _built(folder, origin, _Rows(path, record), dtype or "float32", context)


def _origin(name: str, record: ExportRecord, encoder: str | None, place: Path) -> Recommender:
    """The recommender whose encoder to use."""
    if encoder is not None:
        return Recommender(library.find_encoder(encoder, place))
    if store.exists(place / name):
        return Recommender(place / name)
    if name in SHIPPED:
        raise RequestError(f"{name} is shipped and read-only: 'simrec index build NEW SOURCE --encoder {name}'")
    for one in library.listing(place, lambda _: None):
        if one.manifest.encoder.digest == record.encoder_digest:
            return Recommender(one.folder)
    raise RequestError(
        f"{name}: no recommender here has the encoder {record.encoder} that made these codes: copy one that does "
        f"into {place}"
    )


def _check(path: Path, record: ExportRecord, context: Context) -> None:
    """Raises RequestError for codes that can't be compared as the encoder's own codes are."""
    if "id" not in record.columns:
        raise RequestError(f"{path}: it has no column 'id', which items need: export it with one")
    if record.normalised and record.metric != "cosine":
        raise RequestError(
            f"{path}: its codes were divided by their lengths, and {record.metric} compares lengths too: export it "
            f"without --normalize"
        )
    if record.dtype != "float32":
        context.notice(f"{path}: its codes are rounded to {record.dtype}: answers may differ a little.")
    if record.normalised:
        context.notice(f"{path}: its codes have a length of 1: look-ups are the same, decoded pictures are not.")
    context.notice(
        f"{path}: it doesn't hold the pictures, so a picture file's own item is among its answers: look it up as "
        f"id:ITEM."
    )


def _built(folder: Path, origin: Recommender, rows: _Rows, dtype: Dtype, context: Context) -> Recommender:
    from simrec.index import SAMPLE

    record, encoder = rows.record, origin.manifest.encoder
    count = record.count or 0
    if not count:
        raise DataError(f"{rows.path}: there are no rows in it")
    with store.Writer(folder) as writer:
        kept = kept_encoder(writer, origin, folder)
        sample = no_codes(encoder) if dtype == "float32" else rows.sample(-(-count // SAMPLE))
        revision, labelled = Revision(None), [False]
        segments = revision.finish(
            writer, Coding(encoder.dim, encoder.metric, dtype, sample), [None], rows.new(labelled), count, rows.kinds(),
            lambda done: context.progress("writing", min(done, count), count),
        )  # fmt: skip
        source = SourceRecord(str(rows.path.absolute()), None, None, False)
        made = CatalogueRecord(
            (source,), count, labelled[0], encoder.digest, dtype, segments, revision.distances(), count
        )
        writer.commit(Manifest.new(kept, made, ChangeRecord("index.build", added=count)))
    return Recommender(folder)


@dataclass(frozen=True)
class _Rows:
    """The rows of an export, as new items."""

    path: Path
    record: ExportRecord

    def _batches(self) -> Iterator[Any]:
        return opened(self.path)[1]

    def kinds(self) -> dict[str, Kind]:
        """The fields' types. Raises DataError for more fields than an item may have."""
        batch = next(self._batches())
        kinds: dict[str, Kind] = {_field(name): str(batch.schema.field(name).type) for name in self._fields}  # type: ignore[misc]
        if len(kinds) < len(self._fields) or len(kinds) > LARGEST:
            raise DataError(f"{self.path}: more than {LARGEST:,} fields, or two of one name: leave some columns out")
        return kinds

    @property
    def _fields(self) -> list[str]:
        return [name for name in self.record.columns if name not in (*OWN, "code", "preview")]

    def sample(self, step: int) -> Codes:
        """Every `step`-th code of each batch, (n, dim), for ranges and medians."""
        return np.concatenate([self._codes(batch)[::step] for batch in self._batches()])

    def new(self, labelled: list[bool]) -> Iterator[New]:
        """All items, in batches. labelled: its first value becomes true if any item has a label.

        Raises DataError for a row that can't be an item, and if the file isn't what was written.
        """
        seen: set[int] = set()  # of hashes, which take a fraction of the ids' memory
        for _, batch in counted(self.path, self.record, self._batches()):
            new = self._items(batch)
            for entry in new.entries:
                if hash(entry.id) in seen:
                    raise DataError(f"{self.path}: the id {entry.id!r:.100} is there more than once")
                seen.add(hash(entry.id))
                labelled[0] = labelled[0] or bool(entry.label)
            yield new

    def _items(self, batch: Any) -> New:
        texts = {name: self._texts(batch, name) for name in OWN}
        fields = [batch.column(name).to_pylist() for name in self._fields]
        names = [_field(name) for name in self._fields]
        values = zip(*fields, strict=True) if fields else iter([()] * len(batch))
        entries = [
            Entry(id_, source, label, "", dict(zip(names, row, strict=True)))
            for id_, label, source, row in zip(*texts.values(), values, strict=True)
        ]
        for entry in entries:
            said = [entry.id, entry.label, entry.source, *(v for v in entry.fields.values() if isinstance(v, str))]
            if not entry.id or sum(map(len, said[:3])) > LARGEST_TEXTS or any("\0" in text for text in said):
                raise DataError(f"{self.path}: {entry.id!r:.100} can't be an item's id, or its texts are none")
        shown = self._previews(batch)
        # An export doesn't know the picture files, so no two items count as copies of each other.
        contents = [content(b"export\0" + entry.id.encode()) for entry in entries]
        return New(entries, [0] * len(entries), contents, shown, self._codes(batch))

    def _texts(self, batch: Any, name: str) -> list[str]:
        if name not in self.record.columns:
            return [""] * len(batch)
        return [text or "" for text in batch.column(name).to_pylist()]

    def _previews(self, batch: Any) -> list[bytes]:
        if "preview" not in self.record.columns:
            return [b""] * len(batch)
        shown = [preview or b"" for preview in batch.column("preview").to_pylist()]
        for preview in filter(None, shown):
            try:
                previews.check(preview)
                if len(preview) > previews.LARGEST:
                    raise ValueError(f"{len(preview):,} bytes")
            except ValueError as error:
                raise DataError(f"{self.path}: its column 'preview' has an invalid preview ({error})") from error
        return shown

    def _codes(self, batch: Any) -> Codes:
        read: Codes = codes(batch).astype(np.float32) * np.float32(self.record.scale or 1)
        if not (np.abs(read) <= LARGEST_NUMBER).all():  # False for NaN
            raise DataError(f"{self.path}: one of its codes is not finite, or too large: export it again")
        return read


def _field(column: str) -> str:
    """The field that a column holds."""
    renamed = RENAMED.fullmatch(column)
    return renamed[1] if renamed else column
