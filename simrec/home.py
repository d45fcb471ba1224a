"""Where a user's recommenders live, and what is remembered there as this user's own: folders and databases.

A recommender that comes from elsewhere says where its pictures lie, or which database holds its items, but not that
they are this user's. So no file is read again to be shown, and no database is asked, unless its place is known here.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from simrec import files
from simrec.errors import StoreError, reason

MARKER = ".simrec-home"

ROOTS = ".simrec-roots.json"
"""The file in a home that remembers which folders are the user's own: no recommender can have that name."""

DATABASES = ".simrec-databases.json"
"""The same of databases, by their addresses without passwords."""

MOST = 1000
"""Folders or databases that are remembered; of more, the latest."""

LARGEST = 10_000_000
"""Bytes of the largest such file."""


def default() -> Path:
    """The user's home for recommenders: SIMREC_HOME, else ./indexes when its marker says so, else the platform's."""
    if named := os.environ.get("SIMREC_HOME"):
        return Path(named)
    here = Path("indexes")
    if (here / MARKER).is_file():
        return here
    from platformdirs import user_data_path

    return user_data_path("simrec", appauthor=False)


def roots(home: Path) -> list[Path]:
    """The folders that this user indexed, or named: picture files below them may be read again to be shown.

    Raises StoreError where the file that remembers them is damaged.
    """
    known = _known(home / ROOTS, "name your folders with --originals")
    if not all(Path(root).is_absolute() for root in known):
        raise _damaged(home / ROOTS, "no list of folders", "name your folders with --originals")
    return [Path(root) for root in known]


def remember_root(home: Path, root: str | Path) -> None:
    """Remembers a folder as this user's own: see `roots`. root: as a source calls it, or a path.

    Raises StoreError where it can't be written.
    """
    from simrec.sources.files import path_of

    path = path_of(str(root)).absolute()
    path = path.resolve() if ".." in path.parts else path  # else links stay, as items' paths have them too
    known = roots(home)
    if path not in known:
        _remember(home, ROOTS, [*map(str, known), str(path)])


def databases(home: Path) -> list[str]:
    """The addresses of the tables that this user pushed to or connected with.

    Raises StoreError where the file that remembers them is damaged.
    """
    return _known(home / DATABASES, "'simrec index connect' remembers yours again")


def remember_database(home: Path, address: str) -> None:
    """Remembers a table as this user's own: see `databases`. Raises StoreError where it can't be written."""
    known = databases(home)
    if address not in known:
        _remember(home, DATABASES, [*known, address])


def _remember(home: Path, name: str, known: list[str]) -> None:
    with files.explained(home):
        home.mkdir(parents=True, exist_ok=True)
    with files.replacing(home / name) as file:
        file.write(json.dumps(known[-MOST:]).encode())


def _known(path: Path, remedy: str) -> list[str]:
    try:
        with files.opened(path) as file:
            known = json.loads(files.read(file, LARGEST))
        if not isinstance(known, list) or not all(isinstance(one, str) for one in known):
            raise ValueError("no list of texts")
    except FileNotFoundError:
        return []
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path, reason(error), remedy) from error
    return known


def _damaged(path: Path, why: str, remedy: str) -> StoreError:
    return StoreError(f"{path}: cannot be read ({why}): delete it, and {remedy}")
