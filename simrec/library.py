"""The recommenders there are: where they live, which one a name means, and opening them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from simrec import store
from simrec.errors import DataError, RequestError, StoreError, suggestion
from simrec.home import MARKER, default
from simrec.recommender import Recommender
from simrec.store import exists

SHIPPED = ("demo", "demo-generate", "demo-restore", "demo-sparse", "photo")
"""The recommenders that come ready-made. In a checkout they lie in the same `indexes` as the user's own."""

READY = {"fashion-mnist": "demo"}
"""The shipped recommender whose encoder suits a source, by the source's name; "photo" suits all others."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")


def shipped() -> Path:
    """Where the ready-made recommenders are: inside the installed package, else the checkout's `indexes`."""
    packaged = Path(__file__).parent / "shipped"
    return packaged if packaged.is_dir() else Path(__file__).parent.parent / "indexes"


def names(home: Path) -> list[str]:
    """The recommenders in a home, in alphabetical order."""
    try:
        return sorted(p.name for p in home.iterdir() if exists(p))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreError(f"{home}: cannot be read ({error.strerror}): name another --home") from error


def find(name: str, home: Path) -> Path:
    """The folder of a recommender: a path as it is, a name in the home, then among the shipped ones.

    Raises RequestError when there is none of that name.
    """
    if os.sep in name or "/" in name:
        if exists(Path(name)):
            return Path(name)
        raise RequestError(f"no recommender in the folder {name}: name one of 'simrec index list'")
    for place in (home, shipped()):
        if exists(place / check_name(name)):
            return place / name
    raise RequestError(f"no recommender {name!r} in {home}: {suggestion(name, {*names(home), *names(shipped())})}")


def find_encoder(name: str, home: Path) -> Path:
    """The folder of the recommender whose encoder is to be taken.

    Raises RequestError when there is none of that name; of a plugin's, it says how to train it.
    """
    try:
        return find(name, home)
    except RequestError as error:
        from simrec import host
        from simrec.contracts import EncoderSpec

        if name in host.discover().names(EncoderSpec):
            trained = ", ".join(sorted({*names(home), *names(shipped())}))
            raise RequestError(
                f"encoder {name!r} was not trained yet: run 'simrec train {name}', or take the encoder of {trained}"
            ) from error
        raise


def ready_for(source: str) -> str:
    """The shipped recommender whose encoder suits a source, as a person typed it."""
    return READY.get(source.partition(":")[0], "photo")


def check_there(name: str, home: Path) -> None:
    """Raises RequestError when there is no recommender of that name, and says how a new one is made."""
    try:
        find(name, home)
    except RequestError as error:
        raise RequestError(f"{error}; a new one is made of pictures: 'simrec index build {name} FOLDER'") from error


def check_changeable(name: str, home: Path) -> None:
    """Raises RequestError when there is no recommender of that name in a home, or it is a shipped one."""
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
    """The name, if it can be one. Raises RequestError otherwise."""
    if not _NAME.fullmatch(name):
        raise RequestError(
            f"{name!r} cannot be a recommender's name: use up to 100 letters, digits, '.', '_' and '-', "
            "first a letter or digit"
        )
    return name


def open(name: str | None = None, home_folder: Path | None = None) -> Recommender:  # noqa: A001
    """Opens a recommender by name or path; without one, the user's only one, else the shipped `demo`.

    Raises RequestError when there is none of that name, StoreError when it is damaged or newer than this simrec.
    """
    place = home_folder or default()
    if name is None:
        name = default_name(place)
    return Recommender(find(name, place), home=place)


def default_name(place: Path) -> str:
    """The recommender meant when none is named: the only one with a catalogue in that home, else "demo"."""
    indexed = []
    for name in own(place):
        with suppress(StoreError):  # a damaged one answers nothing; naming it says why
            if store.current(place / name, hold=False).manifest.catalogue:
                indexed.append(name)
    return indexed[0] if len(indexed) == 1 else "demo"


def listing(
    home_folder: Path | None = None, unreadable: Callable[[StoreError], None] | None = None
) -> list[Recommender]:
    """The user's recommenders, then the shipped ones of other names.

    unreadable: told of each that is damaged or newer than this simrec; without it the first one is raised.
    """
    place = home_folder or default()
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
    """The recommender whose encoder made a container of codes; name: what to call the container in an error.

    Raises DataError when there is none, or when it is no container.
    """
    from simrec.compression import Container

    digest = Container.from_bytes(data, name).digest
    for recommender in listing(home_folder, lambda _: None):
        if recommender.manifest.encoder.digest == digest:
            return recommender
    raise DataError(
        f"{name}: its codes are of encoder {digest[:12]}, which no recommender here holds: "
        f"bring the recommender that made it and name it with --index"
    )
