"""Builds a recommender from a source."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace as replace_fields
from pathlib import Path

import numpy as np

from simrec import library, store
from simrec.catalogue import LocalCatalogue
from simrec.catalogue.building import Building, Listed, Plan
from simrec.catalogue.comparing import FieldsOf
from simrec.catalogue.revising import Coding, Revision
from simrec.contracts import Dtype, Entry, Notice, Value
from simrec.errors import DataError, RequestError, StoreError
from simrec.faults import collapsed
from simrec.files import PathText, typed
from simrec.home import SHIPPED, home_of
from simrec.manifest import CatalogueRecord, ChangeRecord, Manifest
from simrec.recommender import Recommender, silent
from simrec.sources.exports import is_export
from simrec.sources.load import Held, LeftOut, open_source
from simrec.verbs.encoding import Context, Unread, encode, keeping, kept_encoder, remember, source_record
from simrec.verbs.index import sync

FILE_FIELDS = {"folder", "name", "bytes", "modified", "width", "height"}
"""The fields that every picture file has."""

SHOWN = 100
"""How many items' codes show whether all are the same."""


def build(
    name: str,
    source: PathText | None = None,
    *,
    encoder: str | None = None,
    dtype: Dtype | None = None,
    replace: bool = False,
    from_scratch: bool = False,
    yes: bool = False,
    discard: bool = False,
    unread: Unread | None = None,
    data_dir: PathText | None = None,
    home_folder: PathText | None = None,
    progress: Callable[[str, int, int], None] = silent,
    notice: Notice = silent,
) -> Recommender:
    """Encodes a source and commits it as a recommender's catalogue; syncs a catalogue that already exists.

    Reading, encoding and writing overlap, and the pictures needn't all fit in memory. An interrupted build leaves what
    it has finished; the next build from the same source with the same encoder goes on from there. The codes of an
    export are used as they are: see `simrec.verbs.importing`.

    source: a name or a path; `add` adds more of them. By default the ones it was built from before, else what the
    encoder was trained on. encoder: the recommender whose encoder to take; by default `name` itself, else a shipped one
    that suits the source. If the catalogue has another encoder's codes, its items are encoded again, with their ids and
    fields. dtype: how codes are kept (see `simrec.index`); by default as before, else float32. replace: overwrite the
    catalogue of another source. from_scratch: encode everything, even what hasn't changed. yes: whether more than half
    of the items may go. discard: throw away what an interrupted build has finished. progress: called with a stage
    ("encoding", "writing"), how many pictures are done, and of how many (0 while that isn't known).

    Raises RequestError or StoreError if the recommender doesn't exist, is a shipped one, or has another source's
    catalogue; DataError and ImageError for the source. After any error the old catalogue still answers.
    """
    source = None if source is None else typed(source, "a source")
    place = home_of(home_folder)
    context = Context(progress, notice, place, data_dir if data_dir is None else Path(data_dir))
    folder = place / library.check_name(name)
    export = _export(source, folder)
    if export is not None:
        from simrec.verbs.importing import build_from_export

        return build_from_export(name, export, encoder=encoder, dtype=dtype, replace=replace, context=context)
    unread = unread or Unread()
    origin = _origin(name, source, encoder, place, notice)
    before = store.current(folder, hold=False).manifest if store.exists(folder) else None
    catalogue = before.catalogue if before else None
    other = before is not None and before.encoder.digest != origin.manifest.encoder.digest
    if before and other and not catalogue:
        raise StoreError(
            f"{folder}: has encoder {before.encoder.title}, not {origin.manifest.encoder.title} of {origin.name}: "
            f"choose another name"
        )
    sources = [source] if source is not None else [one.name for one in catalogue.sources] if catalogue else None
    sources = sources or [origin.manifest.encoder.trained_on.source]
    opened = [open_source(one, data_dir=context.data_dir, notice=notice) for one in sources]
    for one in opened:
        one.check_name(context.data_dir)
    coming = ", ".join(one.name for one in opened)
    if catalogue and catalogue.source != coming and not replace:
        own = opened[0].name in [one.name for one in catalogue.sources]
        kept = f"'simrec index sync {name} {source}' to update" if own else f"'simrec index add {name} {source}' to add"
        raise StoreError(
            f"{folder}: has a catalogue of {catalogue.source}: {kept} {opened[0].name}, add --replace to replace it "
            f"with that, or choose another name"
        )
    if catalogue and catalogue.engine and (other or from_scratch or catalogue.source != coming or dtype is not None):
        raise RequestError(
            f"{name}: its items are in {catalogue.engine}: build a recommender with another name and push that one "
            f"there, with --replace"
        )
    built: Recommender | None = None
    again = bool(catalogue and other and catalogue.source == coming)
    if again:
        notice(
            f"{name}: encoded again with {origin.manifest.encoder.title}; the old catalogue answers until that is done."
        )
    same = catalogue is not None and catalogue.source == coming and dtype in (None, catalogue.dtype)
    if catalogue and same and not other and not from_scratch and _revisable(catalogue, name, notice):
        outcome = sync(name, yes=yes, discard=discard, unread=unread, context=context)
        notice(f"{name}: {outcome}.")
        built = outcome.recommender
    kept_as: Dtype = dtype or (catalogue.dtype if catalogue else "float32")
    least = -(-catalogue.count // 2) if catalogue and catalogue.source == coming and not yes else 0
    built = built or _built(folder, origin, opened, kept_as, discard, unread, context, again=again, least=least)
    if source is not None:
        remember(context, opened[0])
    return built


def _export(source: str | None, folder: Path) -> Path | None:
    """The path of the export to build from, by default the one from before; None for any other source."""
    if source is None and store.exists(folder):
        held = store.current(folder, hold=False).manifest.catalogue
        source = held.source if held and not held.engine else None
    return Path(source) if source is not None and is_export(source) else None


def _built(
    folder: Path, origin: Recommender, sources: Sequence[Held], dtype: Dtype, discard: bool, unread: Unread,
    context: Context, *, again: bool = False, least: int = 0,
) -> Recommender:  # fmt: skip
    """Builds a catalogue of everything that the sources list; again: of the items that it already has, with their
    fields. least: raises StoreError if there are fewer items in the end.
    """
    record = origin.manifest.encoder
    left_out = LeftOut(context.notice, unread.strict)
    roots = [(one.name, one.root) for one in sources]
    command = "encode" if again else "build"
    with store.Writer(folder) as writer:  # locks the folder before the pictures are read, which can take hours
        held = Recommender(folder).segments if again else None
        kept = kept_encoder(writer, origin, folder)  # also before: one of its files may be damaged
        plan = Plan(command, roots, record.digest, record.input, record.dim, record.metric, dtype, origin.provider)
        building = Building(folder, plan)
        building.begin(discard=discard)
        with keeping(building, context.notice):
            listed = _items(held) if held else _with_fields_of(folder, _listed(sources))
            every = held.all if held else lambda: (entry for one in sources for entry in one.entries())
            encode(building, listed, dict(enumerate(sources)), origin, left_out, context, every)
            if not building.rows:
                raise DataError(
                    f"{sources[0].name}: none of its {left_out.count:,} pictures can be read: {left_out.first}"
                )
            if building.rows < least:
                raise StoreError(
                    f"{folder.name}: only {building.rows:,} of its pictures are left, more than half are gone: check "
                    f"that the disk is there, or add --yes to go on without them"
                )
        left_out.end(unread.list)
        revision = Revision(None)
        coding = Coding(record.dim, record.metric, dtype, building.sample())
        segments = revision.finish(
            writer, coding, [one.root for one in sources], building.stream(), building.rows, building.kinds,
            lambda done: context.progress("writing", done, building.rows),
        )  # fmt: skip
        made = CatalogueRecord(
            sources=tuple(source_record(one) for one in sources),
            count=building.rows,
            labelled=building.labelled,
            encoder=record.digest,
            dtype=dtype,
            segments=segments,
            distances=revision.distances(),
            measured=building.rows,
        )
        change = ChangeRecord("index.build", added=0 if again else building.rows, changed=building.rows if again else 0)
        writer.commit(Manifest.new(replace_fields(kept, provider=origin.provider), made, change), built=True)
    built = Recommender(folder)
    some = [code for item in built.catalogue.spread(SHOWN) if (code := built.catalogue.code(item.id)) is not None]
    if collapsed(np.concatenate(some)):
        context.notice(
            f"{folder.name}: its codes have collapsed: all items have the same one, so look-ups can't tell them apart: "
            f"use another encoder, or train this one again"
        )
    return built


def _listed(sources: Sequence[Held]) -> Iterator[Listed]:
    """The entries of all sources. Raises DataError for an id that two of them have."""
    seen: set[int] = set()
    for number, source in enumerate(sources):
        for entry in source.entries():
            if len(sources) > 1:  # a source checks its own ids
                if hash(entry.id) in seen:
                    raise DataError(
                        f"{source.name}: the id {entry.id!r} is in another source too: rename one of the two"
                    )
                seen.add(hash(entry.id))
            yield number, entry


def _with_fields_of(folder: Path, listed: Iterator[Listed]) -> Iterator[Listed]:
    """The entries; those that are already items keep fields that didn't come from a source (see `set_fields`)."""
    kept: dict[str, dict[str, Value]] = {}
    with suppress(StoreError, RequestError):  # a damaged catalogue is built without them
        catalogue = Recommender(folder).segments
        names = {name for one in catalogue.segments for name in one.kinds} - FILE_FIELDS
        held = FieldsOf(catalogue)
        for item in catalogue.known() if names else ():
            fields = held.of(item)
            kept[item.id] = {name: fields[name] for name in names & fields.keys() if fields[name] is not None}
    for number, entry in listed:
        if extra := kept.get(entry.id):
            entry = replace_fields(entry, fields={**extra, **entry.fields})
        yield number, entry


def _items(catalogue: LocalCatalogue) -> Iterator[Listed]:
    """A catalogue's items as entries, with all their fields, source by source."""
    for origin in sorted({item.origin for item in catalogue.known()}):
        for one in catalogue.segments:
            removed = set(one.removed.tolist())
            for rows in one.batches():
                there = [row for row in rows if row.number not in removed and row.origin == origin]
                for row, fields in zip(there, one.fields([row.number for row in there]), strict=True):
                    yield origin, Entry(row.item.id, row.item.source, row.item.label, row.item.stamp, fields)


def _origin(name: str, source: str | None, encoder: str | None, place: Path, notice: Notice) -> Recommender:
    """The recommender whose encoder to take."""
    if encoder is None and not store.exists(place / name):
        if name in SHIPPED:
            raise RequestError(f"{name} is shipped and read-only: 'simrec index build NEW SOURCE --encoder {name}'")
        if source is None:
            library.check_there(name, place)
        else:
            encoder = library.ready_for(source)
            notice(f"{name} is new: it uses the shipped encoder {encoder!r} (--encoder chooses another).")
            return Recommender(library.shipped() / encoder)
    return Recommender(library.find_encoder(encoder, place) if encoder else library.find(name, place))


def _revisable(record: CatalogueRecord, name: str, notice: Notice) -> bool:
    """Whether a catalogue can be changed in part; gives a notice if not."""
    if any(segment.format == 2 for segment in record.segments):
        notice(f"{name}: an older simrec wrote its catalogue: everything is encoded again.")
        return False
    return True
