"""Where a user's recommenders live, and which folders and databases are this user's own.

A recommender from elsewhere says where its pictures lie, or which database holds its items, but these may not be this
user's. So simrec reads a file again for showing, and contacts a database, only if its place is remembered here.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from simrec import files
from simrec.errors import StoreError, reason
from simrec.files import PathText

MARKER = ".simrec-home"

SHIPPED = ("demo", "demo-generate", "demo-restore", "demo-sparse", "photo")
"""The shipped recommenders. In a checkout they lie in the same `indexes` as the user's own."""

ROOTS = ".simrec-roots.json"
"""The file in a home that remembers the user's own folders; no recommender can have that name."""

DATABASES = ".simrec-databases.json"
"""The file that remembers the user's own databases: their addresses, without passwords."""

MOST = 1000
"""How many folders or databases are remembered: the latest ones."""

LARGEST = 10_000_000
"""Maximum size of such a file in bytes."""


def default() -> Path:
    """The user's home for recommenders: SIMREC_HOME, else ./indexes when its marker says so, else the platform's."""
    if named := os.environ.get("SIMREC_HOME"):
        return Path(named)
    here = Path("indexes")
    if (here / MARKER).is_file():
        return here
    from platformdirs import user_data_path

    return user_data_path("simrec", appauthor=False)


def home_of(home: PathText | None) -> Path:
    """The home that a caller names, by default the user's own. Raises RequestError for anything but a path."""
    return default() if home is None else Path(files.typed(home, "a home"))


def roots(home: Path) -> list[Path]:
    """The folders that this user indexed or named: simrec may read picture files below them again to show them.

    Raises StoreError if the file that remembers them is damaged.
    """
    known = _known(home / ROOTS, "name your folders with --originals")
    if not all(Path(root).is_absolute() for root in known):
        raise _damaged(home / ROOTS, "no list of folders", "name your folders with --originals")
    return [Path(root) for root in known]


def remember_root(home: Path, root: str | Path) -> None:
    """Remembers a folder as this user's own: see `roots`. root: a path, or a source's name for the folder.

    Raises StoreError if that can't be written.
    """
    from simrec.sources.files import path_of

    path = path_of(str(root)).absolute()
    path = path.resolve() if ".." in path.parts else path  # links stay otherwise, as they do in items' paths
    known = roots(home)
    if path not in known:
        _remember(home, ROOTS, [*map(str, known), str(path)])


def databases(home: Path) -> list[str]:
    """The addresses of the tables that this user pushed to or connected to.

    Raises StoreError if the file that remembers them is damaged.
    """
    return _known(home / DATABASES, "'simrec index connect' remembers yours again")


def remember_database(home: Path, address: str) -> None:
    """Remembers a table as this user's own: see `databases`. Raises StoreError if that can't be written."""
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
