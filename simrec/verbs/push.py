"""Copies catalogues into tables of databases, and back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from simrec import library, store
from simrec.catalogue import remote
from simrec.catalogue.building import New
from simrec.catalogue.engines import HeldEngine
from simrec.catalogue.fields import Kind
from simrec.catalogue.remote import RemoteCatalogue
from simrec.catalogue.revising import Coding, Revision
from simrec.contracts import Entry, Row, Table
from simrec.errors import RequestError, quantity
from simrec.home import default, remember_database
from simrec.manifest import ChangeRecord, Manifest
from simrec.recommender import Recommender
from simrec.verbs.encoding import Context, kept_encoder, no_codes
from simrec.verbs.index import Outcome


@dataclass(frozen=True)
class Pushing:
    """What the table should be like.

    dtype: how it stores codes. approximate: whether it gets an index, which is faster and may miss some of the nearest.
    replace: overwrite the table even if its codes are from another encoder. yes: allow removing more than half of its
    items.
    """

    dtype: Literal["float32", "float16"] = "float32"
    approximate: bool = False
    replace: bool = False
    yes: bool = False


def push(
    name: str, address: str, *, how: Pushing | None = None, new: str | None = None, context: Context | None = None
) -> Outcome:
    """Makes a table in a database equal to a recommender's catalogue: codes, items, fields and previews.

    Writes only rows that differ, and all of them or none. The recommender goes on answering from its own files. new:
    the name of a recommender to make with the same encoder, which answers from the table. address: NAME://PLACE#TABLE,
    with an engine's NAME; its password is never stored.

    Raises RequestError if there is no such recommender, catalogue or engine, and for a table with another encoder's
    codes or mostly other items, unless `how` allows it; StoreError if the database doesn't answer.
    """
    context, how = context or Context(), how or Pushing()
    place = context.home or default()
    recommender = library.open(name, place)
    _check_new(new, place)
    record, encoder = recommender.segments.record, recommender.manifest.encoder
    if record.dtype == "binary":
        raise RequestError(
            f"{name}: it keeps only 64 bits of each code, which a database can't search: "
            f"'simrec index build OTHER --encoder {name} --dtype float32' keeps more"
        )
    kinds: dict[str, Kind] = {field: kind or "string" for field, kind in recommender.segments.kinds.items()}
    fields = {field: kinds[field] for field in recommender.segments.fields}
    table = Table(encoder.title, encoder.digest, encoder.dim, encoder.metric, how.dtype, how.approximate, fields)
    with closing(remote.opened(address, context.notice)) as engine:
        pushed = _Push(recommender, engine, table, how, context).made()
    shown = remote.without_secrets(address)
    remember_database(place, shown)
    if new is None:
        return replace(pushed, recommender=recommender)
    folder = place / new
    with store.Writer(folder) as writer:
        kept = kept_encoder(writer, recommender, folder)
        made = replace(record, segments=(), dtype="float32", engine=shown)
        writer.commit(Manifest.new(kept, made, ChangeRecord("index.push", f"of {name}", added=record.count)))
    return replace(pushed, recommender=Recommender(folder, home=place))


def pull(name: str, new: str | None = None, *, context: Context | None = None) -> Recommender:
    """Copies a catalogue from its table into files of that recommender, or of a new one with the same encoder.

    The table stays as it is. Raises RequestError if the recommender's items aren't in a table, StoreError if the table
    can't be read.
    """
    context = context or Context()
    place = context.home or default()
    library.check_changeable(name, place)
    _check_new(new, place)
    folder = place / (new or name)
    with store.Writer(folder) as writer:
        recommender = library.open(name, place)
        catalogue = recommender.catalogue
        if not isinstance(catalogue, RemoteCatalogue):
            raise RequestError(f"{name}: its items are in its own files already")
        kept = kept_encoder(writer, recommender, folder)
        count, record = len(catalogue), catalogue.record
        revision = Revision(None)
        coding = Coding(kept.dim, kept.metric, "float32", no_codes(kept))
        segments = revision.finish(
            writer, coding, [one.root for one in record.sources], _coming(catalogue), count, catalogue.table.fields,
            lambda done: context.progress("writing", done, count),
        ) if count else ()  # fmt: skip
        made = replace(
            record, segments=segments, count=count, engine="", distances=revision.distances(), measured=count
        )  # fmt: skip
        writer.commit(Manifest.new(kept, made, ChangeRecord("index.pull", f"from {record.engine}", added=count)))
        catalogue.engine.close()
    return Recommender(folder, home=place)


def connect(name: str, address: str, *, context: Context | None = None) -> Recommender:
    """Lets a recommender answer from a table: for one that was copied here and names its table, or if the table moved.

    Raises RequestError if the recommender's items are in its own files; StoreError if the table isn't there or has
    another encoder's codes.
    """
    context = context or Context()
    place = context.home or default()
    library.check_changeable(name, place)
    folder, shown = place / name, remote.without_secrets(address)
    with store.Writer(folder) as writer:
        live = store.current(folder)
        record = live.manifest.catalogue
        if record is None or not record.engine:
            raise RequestError(
                f"{name}: its items aren't in a table: 'simrec index push {name} ADDRESS --as NEW' makes one"
            )
        with closing(remote.opened(address, context.notice)) as engine:
            count = len(RemoteCatalogue(name, replace(record, engine=shown), live.manifest.encoder, engine))
        remember_database(place, shown)
        if count != record.count:
            context.notice(
                f"{name}: that table has {quantity(count, 'item')}, and {name} had {record.count:,}: if it belongs to "
                f"another catalogue, connect the right one."
            )
        if shown != record.engine:
            writer.keep(live, live.manifest.encoder.folder)
            made = replace(record, engine=shown, count=count)
            writer.commit(Manifest.new(live.manifest.encoder, made, ChangeRecord("index.connect", f"to {shown}")))
    return Recommender(folder, home=place)


class _Push:
    """One push of a catalogue to a table."""

    def __init__(
        self, recommender: Recommender, engine: HeldEngine, table: Table, how: Pushing, context: Context
    ) -> None:  # fmt: skip
        self._recommender, self._engine, self._table, self._how = recommender, engine, table, how
        self._context = context
        self._added = self._changed = self._unchanged = 0
        self._known: dict[str, str] = {}

    def made(self) -> Outcome:
        there = self._engine.table
        if there and there.digest != self._table.digest and not self._how.replace:
            raise RequestError(
                f"that table has codes from encoder {there.encoder}, not {self._table.encoder}: choose another table, "
                f"or add --replace to overwrite it"
            )
        if there and not self._how.replace:
            self._known = dict(self._engine.digests())
            self._check_half()
        count = len(self._recommender.catalogue)
        self._engine.apply(self._table, self._rows(), self._gone(), replace=self._how.replace)
        self._engine.check_holds(self._table, count)
        return Outcome(
            self._recommender, count, self._added, self._changed, self._removed,
            unchanged=self._unchanged,
        )  # fmt: skip

    def _check_half(self) -> None:
        """Raises RequestError if most of the table's items would go: it may belong to another catalogue."""
        if not self._known or self._how.yes:
            return
        stay = sum(item.id in self._known for item in self._recommender.catalogue.all())
        if 2 * stay < len(self._known):
            raise RequestError(
                f"that table has {len(self._known):,} items; {len(self._known) - stay:,} of them, more than half, are "
                f"not in {self._recommender.name} and would go: choose another table, or add --yes"
            )

    def _rows(self) -> Iterator[list[Row]]:
        """The rows that are new or differ."""
        count, done = len(self._recommender.catalogue), 0
        for items, codes, lengths, previews in self._recommender.catalogue.whole():
            rows = []
            for row in remote.rows_of(items, codes, lengths.tolist(), previews, self._table):
                before = self._known.pop(row.item.id, None)
                if before == row.digest:
                    self._unchanged += 1
                    continue
                self._added += before is None
                self._changed += before is not None
                rows.append(row)
            done += len(items)
            self._context.progress("pushing", done, count)
            if rows:
                yield rows

    def _gone(self) -> Iterator[str]:
        """The ids that the catalogue doesn't have; known only after `_rows` has ended."""
        self._removed = len(self._known)
        yield from self._known

    _removed = 0


def _coming(catalogue: RemoteCatalogue) -> Iterator[New]:
    """A table's rows as new items."""
    origins = {source.name: number for number, source in enumerate(catalogue.record.sources)}
    for items, codes, lengths, previews in catalogue.whole():
        yield New(
            [Entry(item.id, item.source, item.label, item.stamp, item.fields) for item in items],
            [origins.get(item.origin, 0) for item in items],
            [item.content for item in items],
            previews,
            codes * lengths[:, np.newaxis],
        )


def _check_new(new: str | None, home: Path) -> None:
    """Raises RequestError if there is a recommender of that name."""
    if new is not None and ((home / library.check_name(new)).exists() or store.exists(library.shipped() / new)):
        raise RequestError(f"{new} already exists: choose another name, or delete it first")
