"""Qdrant's local mode: a folder that one process has open at a time, and all of it goes through one client."""

from __future__ import annotations

import io
import pickle
import sqlite3
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from threading import Lock, RLock
from typing import Any

from qdrant_client import QdrantClient

SCHEMA = {("points", "CREATE TABLE points (id TEXT PRIMARY KEY, point BLOB)"), ("sqlite_autoindex_points_1", None)}
"""What is in a collection's database: names and definitions."""

_lock = Lock()
_open: dict[Path, Folder] = {}


class Folder:
    """A folder that is open, for all in this process that use it."""

    def __init__(self, path: Path) -> None:
        self.path, self.users = path, 0
        self.using, self.pushing = RLock(), Lock()
        self._swift: set[str] = set()
        for storage in path.glob("collection/**/storage.sqlite"):
            _check(storage)
        self.client = QdrantClient(path=str(path), force_disable_check_same_thread=True)

    @contextmanager
    def asked(self) -> Iterator[QdrantClient]:
        """Its client, which one thread uses at a time; without its warnings of what a server would do."""
        with self.using, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._make_swift()
            yield self.client

    def _make_swift(self) -> None:
        """Lets SQLite wait for the disk at times, not three times for each point: what is lost when the power fails is
        the end of what was written, and nothing before it.
        """
        with suppress(AttributeError):  # where another qdrant-client has other insides, it is as slow as it was
            collections = self.client._client.collections  # type: ignore[attr-defined]
            for name in collections.keys() - self._swift:
                if ".simrec-" in name:
                    database = collections[name].storage.storage
                    database.execute("PRAGMA journal_mode = WAL")
                    database.execute("PRAGMA synchronous = NORMAL")
                self._swift.add(name)


def opened(path: Path) -> Folder:
    """A folder, to be closed as often as it is opened. Raises what qdrant-client raises, and ValueError for one that
    would run a stranger's code.
    """
    path = path.resolve()
    with _lock:
        if path not in _open:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                _open[path] = Folder(path)
        _open[path].users += 1
        return _open[path]


def close(folder: Folder) -> None:
    """Closes a folder when its last user does."""
    with _lock, folder.asked() as client:
        folder.users -= 1
        if not folder.users:
            del _open[folder.path]
            client.close()


def _check(storage: Path) -> None:
    """Raises ValueError where a file holds anything but points: qdrant-client unpickles them, which can run code."""
    with closing(sqlite3.connect(storage)) as database:
        if not set(database.execute("SELECT name, sql FROM sqlite_master")) <= SCHEMA:
            raise ValueError(f"{storage} is no collection of Qdrant")
        for (point,) in database.execute("SELECT point FROM points") if _has_points(database) else ():
            try:
                _Points(io.BytesIO(point)).load()
            except Exception as error:
                raise ValueError(f"{storage} holds what is no point and may run code ({error})") from error


def _has_points(database: sqlite3.Connection) -> bool:
    return bool(database.execute("SELECT 1 FROM sqlite_master WHERE name = 'points'").fetchone())


class _Points(pickle.Unpickler):
    """Knows the classes of points and no others."""

    def find_class(self, module: str, name: str) -> Any:
        if module != "qdrant_client.http.models.models" or name not in ("PointStruct", "SparseVector"):
            raise pickle.UnpicklingError(f"{module}.{name}")
        return super().find_class(module, name)
