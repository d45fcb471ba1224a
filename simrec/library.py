"""Finds recommenders: where they live, which one a name means, and how to open them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from simrec import store
from simrec.errors import DataError, RequestError, StoreError, suggestion
from simrec.files import PathText, typed
from simrec.home import MARKER, SHIPPED, default, home_of
from simrec.recommender import Recommender
from simrec.store import exists
from simrec.store import shipped as shipped

READY = {"fashion-mnist": "demo"}
"""The shipped recommender whose encoder suits a source, by the source's name; "photo" suits all others."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")


def names(home: Path) -> list[str]:
    """The recommenders in a home, in alphabetical order."""
    try:
        return sorted(p.name for p in home.iterdir() if _NAME.fullmatch(p.name) and exists(p))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreError(f"{home}: cannot be read ({error.strerror}): name another --home") from error


def find(name: PathText, home: Path) -> Path:
    """The folder of a recommender: a path as it is; a name in the home, else among the shipped ones.

    Raises RequestError if there is none.
    """
    name = typed(name, "a recommender")
    if os.sep in name or "/" in name:
        if exists(Path(name)):
            return Path(name)
        raise RequestError(f"no recommender in the folder {name}: name one of 'simrec index list'")
    for place in (home, shipped()):
        if exists(place / check_name(name)):
            return place / name
    raise RequestError(f"no recommender {name!r} in {home}: {suggestion(name, {*names(home), *names(shipped())})}")


def find_encoder(name: str, home: Path) -> Path:
    """The folder of the recommender whose encoder to use.

    Raises RequestError if there is none; if a plugin offers an encoder of that name, it says how to train it.
    """
    try:
        return find(name, home)
    except RequestError as error:
        from simrec import host
        from simrec.contracts import EncoderSpec

        if name in host.discover().names(EncoderSpec):
            trained = ", ".join(sorted({*names(home), *names(shipped())}))
            raise RequestError(
                f"encoder {name!r} is not trained yet: run 'simrec train {name}', or use the encoder of {trained}"
            ) from error
        raise


def ready_for(source: str) -> str:
    """The shipped recommender whose encoder suits a source. source: as a person typed it."""
    return READY.get(source.partition(":")[0], "photo")


def check_there(name: str, home: Path) -> None:
    """Raises RequestError, which says how to make one, if there is no recommender of that name."""
    try:
        find(name, home)
    except RequestError as error:
        raise RequestError(f"{error}; 'simrec index build {name} FOLDER' makes a new one from pictures") from error


def check_changeable(name: str, home: Path) -> None:
    """Raises RequestError if there is no recommender of that name in a home, or if it is a shipped one."""
    if exists(home / check_name(name)) and not ((home / MARKER).is_file() and name in SHIPPED):
        return
    if exists(shipped() / name):
        raise RequestError(f"{name} is shipped and read-only: 'simrec index build NEW SOURCE --encoder {name}'")
    check_there(name, home)


def own(home: Path) -> list[str]:
    """The names of the user's own recommenders: those in the home that are not the shipped ones."""
    checkout = (home / MARKER).is_file()
    return [name for name in names(home) if not (checkout and name in SHIPPED)]


def check_name(name: str) -> str:
    """The name, if it is valid. Raises RequestError otherwise."""
    if not _NAME.fullmatch(name):
        if "\0" not in name and exists(Path(name)):
            raise RequestError(f"{name}: is a folder: copy it into your home, {default()}, and write its name")
        raise RequestError(
            f"{name!r} cannot be a recommender's name: use up to 100 letters, digits, '.', '_' and '-', "
            "starting with a letter, digit or '_'"
        )
    return name


def open(name: PathText | None = None, home_folder: PathText | None = None) -> Recommender:  # noqa: A001
    """Opens a recommender by name or path; without one, the user's only one, else the shipped `demo`.

    Raises RequestError if there is none of that name, StoreError if it is damaged or newer than this simrec.
    """
    place = home_of(home_folder)
    if name is None:
        name = default_of(answering(place))
    return Recommender(find(name, place), home=place)


def default_of(names: list[str]) -> str:
    """The recommender to use when none is named, of those that `answering` lists: the only one, else "demo"."""
    return names[0] if len(names) == 1 else "demo"


def answering(place: Path) -> list[str]:
    """The names of the user's own recommenders that have a catalogue."""
    indexed = []
    for name in own(place):
        with suppress(StoreError):  # a damaged one can't answer; naming it says why
            if store.current(place / name, hold=False).manifest.catalogue:
                indexed.append(name)
    return indexed


def listing(
    home_folder: PathText | None = None, unreadable: Callable[[StoreError], None] | None = None
) -> list[Recommender]:
    """The user's recommenders, then the shipped ones with other names.

    unreadable: receives an error for each that is damaged or newer than this simrec; without it the first is raised.
    """
    place = home_of(home_folder)
    mine = names(place)
    ready = [name for name in names(shipped()) if name not in mine]
    opened = []
    for folder in [*(place / name for name in mine), *(shipped() / name for name in ready)]:
        try:
            opened.append(Recommender(folder, hold=False, home=place))
        except StoreError as error:
            if unreadable is None:
                raise
            unreadable(error)
    return opened


def maker_of(data: bytes, name: str, home_folder: Path | None = None) -> Recommender:
    """The recommender whose encoder made a container of codes. name: what errors call the container.

    Raises DataError if there is none, or if the data isn't a container.
    """
    from simrec.compression import Container

    digest = Container.from_bytes(data, name).digest
    for recommender in listing(home_folder, lambda _: None):
        if recommender.manifest.encoder.digest == digest:
            return recommender
    raise DataError(
        f"{name}: its codes are from encoder {digest[:12]}, which no recommender here has: "
        f"copy the recommender that made it here, and name it with --index"
    )
