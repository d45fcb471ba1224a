"""Qdrant's local mode: a folder that only one process can have open, with a single client for the whole process."""

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
from weakref import WeakValueDictionary, finalize

from qdrant_client import QdrantClient

SCHEMA = {("points", "CREATE TABLE points (id TEXT PRIMARY KEY, point BLOB)"), ("sqlite_autoindex_points_1", None)}
"""The contents of a collection's database: names and definitions."""

_lock = Lock()
_open: WeakValueDictionary[Path, Folder] = WeakValueDictionary()


class Folder:
    """An open folder, shared by all its users in this process; it is closed when the last one is gone."""

    def __init__(self, path: Path) -> None:
        self.path, self.using, self.pushing = path, RLock(), Lock()
        self._swift: set[str] = set()
        for storage in path.glob("collection/**/storage.sqlite"):
            _check(storage)
        self.client = QdrantClient(path=str(path), force_disable_check_same_thread=True)
        finalize(self, self.client.close)

    @contextmanager
    def locked(self) -> Iterator[QdrantClient]:
        """Its client, for one thread at a time, without its warnings about differences from a server."""
        with self.using, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._make_swift()
            yield self.client

    def _make_swift(self) -> None:
        """Lets SQLite wait for the disk now and then instead of three times per point: a power failure then loses only
        the end of what was written.
        """
        with suppress(AttributeError):  # a qdrant-client with other internals stays slow
            collections = self.client._client.collections  # type: ignore[attr-defined]
            for name in collections.keys() - self._swift:
                if ".simrec-" in name:
                    database = collections[name].storage.storage
                    database.execute("PRAGMA journal_mode = WAL")
                    database.execute("PRAGMA synchronous = NORMAL")
                self._swift.add(name)


def opened(path: Path) -> Folder:
    """Opens a folder. Raises what qdrant-client raises, and ValueError if it could run a stranger's code."""
    path = path.resolve()
    with _lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = _open.get(path)
        if folder is None:
            folder = _open[path] = Folder(path)
        return folder


def made(path: Path) -> None:
    """Makes a folder for collections, if it doesn't exist yet."""
    path.mkdir(parents=True, exist_ok=True)
    meta = path / "meta.json"
    if not meta.exists():
        meta.write_text('{"collections": {}, "aliases": {}}')


def _check(storage: Path) -> None:
    """Raises ValueError if a file holds anything but points: qdrant-client unpickles them, which can run code."""
    with closing(sqlite3.connect(storage)) as database:
        if not set(database.execute("SELECT name, sql FROM sqlite_master")) <= SCHEMA:
            raise ValueError(f"{storage} is not a collection of Qdrant")
        for (point,) in database.execute("SELECT point FROM points") if _has_points(database) else ():
            try:
                _Points(io.BytesIO(point)).load()
            except Exception as error:
                raise ValueError(f"{storage} has more than points, which may run code ({error})") from error


def _has_points(database: sqlite3.Connection) -> bool:
    return bool(database.execute("SELECT 1 FROM sqlite_master WHERE name = 'points'").fetchone())


class _Points(pickle.Unpickler):
    """Accepts only the classes of points."""

    def find_class(self, module: str, name: str) -> Any:
        if module != "qdrant_client.http.models.models" or name not in ("PointStruct", "SparseVector"):
            raise pickle.UnpicklingError(f"{module}.{name}")
        return super().find_class(module, name)
