"""A recommender as a whole: its generations, checking its files, renaming and deleting it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from simrec import library, store
from simrec.errors import RequestError, SimrecError, StoreError
from simrec.files import PathText
from simrec.home import home_of
from simrec.manifest import ChangeRecord
from simrec.recommender import Recommender, silent


@dataclass(frozen=True)
class Kept:
    """A generation that is kept. number: its own. created: when, in UTC. items: how many. live: whether it is the one
    that answers. change: what it changed, None if an older simrec made it.
    """

    number: int
    created: str
    items: int
    live: bool
    change: ChangeRecord | None


@dataclass(frozen=True)
class Checked:
    """What `verify` has read, and a line for each problem."""

    files: int
    bytes: int
    items: int
    problems: tuple[str, ...]


def history(name: str, *, home_folder: PathText | None = None) -> list[Kept]:
    """The live generation and those to which a rollback can go, the newest first.

    None is live if the live one's manifest is missing or damaged. Raises RequestError if there is no such recommender,
    StoreError if it can't be read.
    """
    folder = library.find(name, home_of(home_folder))
    live = store.live(folder)
    generations = [one for one in store.kept(folder) if one.name != live.name] if live else store.earlier(folder)
    listing = [
        Kept(
            int(one.name.partition("-")[0]), one.manifest.created,
            one.manifest.catalogue.count if one.manifest.catalogue else 0, one is live, one.manifest.change,
        )
        for one in [*generations, *([live] if live else [])]
    ]  # fmt: skip
    return sorted(listing, key=lambda one: one.number, reverse=True)


def rollback(name: str, to: int | None = None, *, home_folder: PathText | None = None) -> Recommender:
    """Makes an earlier generation answer again, by default the one before the live one.

    It becomes a new generation, so that this can be undone too. It works without the live one's manifest. Raises
    RequestError if there is no such generation, StoreError if one of its files is missing or has another size.
    """
    place = home_of(home_folder)
    library.check_changeable(name, place)
    folder = place / name
    with store.Writer(folder) as writer:
        live, before = store.live(folder), store.earlier(folder)
        possible = store.kept(folder) if live else before
        chosen = [one for one in possible if to is not None and int(one.name) == to] or before[-1:]
        if not chosen or (to is not None and int(chosen[0].name) != to):
            there = ": there is " + ", ".join(str(int(one.name)) for one in before) if before else ""
            wanted = "earlier generation" if to is None else f"generation {to}"
            raise RequestError(f"{name} has no {wanted} to go back to{there}: see 'simrec index history {name}'")
        target = chosen[-1]
        if live and _engine(live) and _engine(target):
            raise RequestError(
                f"{name}: its items are in {_engine(live)}, where simrec keeps no earlier ones: "
                f"'simrec index pull' keeps them here"
            )
        writer.keep_all(target)
        change = ChangeRecord("index.rollback", f"to generation {int(target.name)}")
        now = datetime.now(UTC).isoformat(timespec="seconds")
        writer.commit(replace(target.manifest, change=change, created=now))
    return Recommender(folder)


def verify(
    name: str, *, home_folder: PathText | None = None, progress: Callable[[str, int, int], None] = silent
) -> Checked:
    """Reads every byte of a recommender's live generation and checks it against what was written.

    Checks sizes, digests, the checksums of items and previews, that codes are valid numbers, that no id comes twice,
    that the numbers of items agree, and that the encoder can be opened. Raises RequestError if there is no such
    recommender, StoreError if its manifest can't be read.
    """
    generation = store.current(library.find(name, home_of(home_folder)))
    problems: list[str] = []
    total, done = sum(record.size for record in generation.manifest.files.values()), 0

    def read(count: int) -> None:
        nonlocal done
        done += count
        progress("reading", done, total)

    for file in sorted(generation.manifest.files):
        try:
            generation.check(file, read)
        except StoreError as error:
            problems.append(str(error))
    if _engine(generation):
        items = _check_table(name, home_folder, problems, progress)
    else:
        items = _check_items(generation, problems, progress)
    try:
        recommender = Recommender(generation.recommender)
        recommender.encoder  # noqa: B018 - which opens it
    except SimrecError as error:
        problems.append(str(error))
    return Checked(len(generation.manifest.files), total, items, tuple(dict.fromkeys(problems)))


def _engine(generation: store.Generation) -> str:
    """The address of the table that holds its items, "" if they are in its files."""
    record = generation.manifest.catalogue
    return record.engine if record else ""


def _check_table(
    name: str, home: PathText | None, problems: list[str], progress: Callable[[str, int, int], None]
) -> int:
    """Checks a catalogue in a table; returns how many items could be read."""
    from simrec.catalogue.remote import RemoteCatalogue, intact

    catalogue = library.open(name, home).catalogue
    assert isinstance(catalogue, RemoteCatalogue)
    count, wrong, total = 0, 0, len(catalogue)
    for rows in catalogue.engine.rows(previews=True):
        wrong += sum(not intact(row, catalogue.table) for row in rows)
        count += len(rows)
        progress("checking items", count, total)
    if wrong:
        problems.append(
            f"{catalogue.record.engine}: {wrong:,} of {count:,} rows are not what was written: "
            f"'simrec index push NAME ADDRESS --replace' writes the table again"
        )
    catalogue.engine.close()
    return count


def _check_items(
    generation: store.Generation, problems: list[str], progress: Callable[[str, int, int], None]
) -> int:  # fmt: skip
    """Checks a catalogue in files; returns how many items could be read."""
    from simrec.catalogue import LocalCatalogue

    record = generation.manifest.catalogue
    if record is None:
        return 0
    seen: set[str] = set()
    count = twice = 0
    try:
        catalogue = LocalCatalogue(generation)
        catalogue.index  # noqa: B018 - which compares ranges and medians
    except StoreError as error:
        problems.append(str(error))
        return 0
    for one in catalogue.segments:
        removed = set(one.removed.tolist())
        try:
            for rows in one.batches():
                one.codes(rows[0].number, len(rows))
                one.fields([row.number for row in rows])
                for row in rows:
                    one.picture(row)
                    if row.number not in removed:
                        count += 1
                        twice += row.item.id in seen
                        seen.add(row.item.id)
                progress("checking items", count, record.count)
        except StoreError as error:
            problems.append(str(error))
    remedy = f"'simrec index build {generation.recommender.name} --from-scratch' makes the catalogue again"
    if twice:
        problems.append(f"{generation.recommender}: {twice:,} ids are there more than once: {remedy}")
    elif not problems and count != record.count:
        problems.append(f"{generation.recommender}: {count:,} items, for {record.count:,} in its manifest: {remedy}")
    return count


def delete(name: str, *, home_folder: PathText | None = None) -> None:
    """Deletes a recommender with its encoder. Raises RequestError if there is none of that name or it is shipped."""
    place = home_of(home_folder)
    library.check_changeable(name, place)
    with store.Writer(place / name) as writer:
        writer.delete()


def rename(name: str, new: str, *, home_folder: PathText | None = None) -> Recommender:
    """Renames a recommender. Raises RequestError if the new name is taken or there is none of the old name."""
    place = home_of(home_folder)
    library.check_changeable(name, place)
    if (place / library.check_name(new)).exists() or store.exists(library.shipped() / new):
        raise RequestError(f"{new} already exists: choose another name, or delete it first")
    with store.Writer(place / name) as writer:
        writer.rename(place / new)
    return Recommender(place / new)
