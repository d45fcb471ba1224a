"""Where recommenders live, and which one a name means."""

from __future__ import annotations

import os
import re
from pathlib import Path

from simrec.errors import RequestError, StoreError, suggestion
from simrec.store import exists

MARKER = ".simrec-home"

SHIPPED = ("demo", "demo-generate", "demo-restore", "demo-sparse")
"""The recommenders that come ready-made. In a checkout they lie in the same `indexes` as the user's own."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")


def default() -> Path:
    """The user's home for recommenders: SIMREC_HOME, else ./indexes when its marker says so, else the platform's."""
    if named := os.environ.get("SIMREC_HOME"):
        return Path(named)
    here = Path("indexes")
    if (here / MARKER).is_file():
        return here
    from platformdirs import user_data_path

    return user_data_path("simrec", appauthor=False)


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
