"""Generations on disk: what is written becomes visible all at once, and what is read is what was written.

    NAME/CURRENT            "000002-1f3c... <sha256 of its manifest.json>"; replacing this file is the commit
    NAME/LOCK               held by the one writer
    NAME/gens/000002-.../   immutable: manifest.json and the files it lists with size and SHA-256

A writer fills a staging folder, fsyncs and rereads each file, writes the manifest last, renames the folder into
`gens`, then replaces CURRENT. A crash at any point leaves the generation before answering.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from simrec import files
from simrec.errors import StoreError, reason
from simrec.files import explained
from simrec.manifest import LARGEST, FileRecord, Manifest, file_name

_NAME = re.compile(r"\d{6,}-[0-9a-f]{8}")

LARGEST_READ = 4 << 30
"""Bytes of the largest file that is read whole."""

READS = 3
"""How often CURRENT is read before a generation that keeps vanishing is an error."""

COPY = "bring back a copy of this recommender; what its folder still holds may be of use, so keep it"
"""What to do about a recommender whose manifest cannot be read."""


class Generation:
    """One immutable state of a recommender, open for reading.

    Its files may have come from anyone: each is a regular file below the folder, of the size that the manifest says.
    """

    def __init__(self, recommender: Path, name: str, manifest: Manifest) -> None:
        self.folder = recommender / "gens" / name
        self.manifest = manifest
        self._recommender = recommender

    def read(self, name: str) -> bytes:
        """A whole file, its size and SHA-256 checked. Raises StoreError when they are not the manifest's."""
        record = self._record(name)
        if record.size > LARGEST_READ:
            raise self.damaged(name, f"{record.size:,} bytes are more than simrec reads at once")
        with self.open(name) as file:
            try:
                data = files.read(file, record.size)
            except OSError as error:
                raise self._unreadable(name, error) from error
        if hashlib.sha256(data).hexdigest() != record.sha256:
            raise self.damaged(name, "it is not what was written")
        return data

    def open(self, name: str) -> BinaryIO:
        """A file whose contents are checked as they are read. Raises StoreError when its size isn't the manifest's."""
        try:
            file = files.opened_below(self._recommender, f"gens/{self.folder.name}/{name}")
        except OSError as error:
            raise self._unreadable(name, error) from error
        if os.fstat(file.fileno()).st_size != self._record(name).size:
            file.close()
            raise self.damaged(name, "cut or grown since it was written")
        return file

    def path(self, name: str) -> Path:
        """Where a file lies, for a library that opens it by itself; it is checked as `open` does."""
        self.open(name).close()
        return self.folder / name

    def check_folder(self, name: str) -> Path:
        """Where a folder lies, for a plugin that reads what is in it: each file is checked, and there is no other.

        Raises StoreError.
        """
        for path in sorted((self.folder / name).rglob("*")):
            if path.is_symlink() or not path.is_dir():
                self.read(path.relative_to(self.folder).as_posix())
        return self.folder / name

    def damaged(self, name: str, why: str) -> StoreError:
        """The error for a file that isn't what it should be, with the cheapest remedy."""
        return StoreError(f"{self.folder / name}: damaged ({' '.join(why.split())}): {self._remedy(name)}")

    def _record(self, name: str) -> FileRecord:
        if name not in self.manifest.files:
            raise self.damaged(name, "its manifest lists no such file")
        return self.manifest.files[name]

    def _unreadable(self, name: str, error: OSError) -> StoreError:
        if not self.folder.exists():
            return StoreError(f"{self.folder}: replaced by a newer one since it was opened: open the recommender again")
        remedy = files.remedy(error, self._remedy(name))
        return StoreError(f"{self.folder / name}: cannot be read ({error.strerror or error}): {remedy}")

    def _remedy(self, name: str) -> str:
        if name.startswith("encoder/"):
            return "bring back a copy of this recommender, or train its encoder again under another name"
        return f"'simrec index build {self._recommender.name}' makes the catalogue again and keeps the encoder"


def exists(folder: Path) -> bool:
    """Whether a recommender was ever committed there."""
    try:
        return (folder / "CURRENT").is_file()
    except OSError:  # a name too long, a folder closed to us
        return False


def current(folder: Path) -> Generation:
    """The live generation. Raises StoreError when there is none or it is damaged."""
    for attempt in range(READS):
        try:
            return _open_current(folder)
        except FileNotFoundError:
            # A writer may have moved on between the two reads; CURRENT then names another generation.
            if attempt == READS - 1:
                raise StoreError(f"{folder}: incomplete recommender: {COPY}") from None
    raise AssertionError


def _open_current(folder: Path) -> Generation:
    try:
        words = _small(folder, "CURRENT", 1000).decode().split()
    except (OSError, UnicodeDecodeError) as error:
        remedy = files.remedy(error, COPY) if isinstance(error, OSError) else COPY
        raise StoreError(f"{folder}: not a readable recommender ({reason(error)}): {remedy}") from error
    if len(words) != 2 or not _NAME.fullmatch(words[0]):
        raise StoreError(f"{folder / 'CURRENT'}: damaged: {COPY}")
    name, digest = words
    path = folder / "gens" / name / "manifest.json"
    try:
        data = _small(folder, f"gens/{name}/manifest.json", LARGEST)
    except FileNotFoundError:
        raise
    except OSError as error:
        remedy = files.remedy(error, COPY)
        raise StoreError(f"{path}: cannot be read ({error.strerror or error}): {remedy}") from error
    if hashlib.sha256(data).hexdigest() != digest:
        raise StoreError(f"{path}: damaged (CURRENT names another SHA-256): {COPY}")
    return Generation(folder, name, Manifest.from_bytes(data, str(path), COPY))


def _small(folder: Path, name: str, most: int) -> bytes:
    """A file below a recommender's folder. Raises OSError, also when it is larger than `most` bytes."""
    with files.opened_below(folder, name) as file:
        return files.read(file, most)


def _live(folder: Path) -> str:
    """The name in CURRENT, "" where there is none."""
    try:
        return (*(folder / "CURRENT").read_text("utf-8", "replace").split(), "")[0]
    except OSError:
        return ""


class Writer:
    """The one who may change a recommender; a context manager that leaves nothing behind unless it committed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.staging = folder / f"staging-{secrets.token_hex(4)}"
        self._locks = contextlib.ExitStack()

    def __enter__(self) -> Writer:
        with explained(self.folder):
            self._made = [path for path in (self.folder, *self.folder.parents) if not path.exists()]
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._check_places()
                self._locks.enter_context(_locked(self.folder))
                for left in self.folder.glob("staging-*"):  # of a writer that crashed: the lock is ours
                    shutil.rmtree(left, ignore_errors=True)
                self.staging.mkdir()
            except OSError:
                self.__exit__()
                raise
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.staging, ignore_errors=True)
        self._locks.close()
        if not exists(self.folder):
            with contextlib.suppress(OSError):
                (self.folder / "LOCK").unlink()
            for empty in (self.folder / "gens", self.folder, *self._made):
                with contextlib.suppress(OSError):
                    empty.rmdir()

    def _check_places(self) -> None:
        """Raises StoreError where what this one writes to is a link, which would be followed, or a pipe."""
        for name, right in (("LOCK", stat.S_ISREG), ("CURRENT", stat.S_ISREG), ("gens", stat.S_ISDIR)):
            with contextlib.suppress(FileNotFoundError):
                if not right((self.folder / name).lstat().st_mode):
                    raise StoreError(
                        f"{self.folder / name}: a link or something else that nobody should write to: {COPY}"
                    )

    def write(self, name: str, data: bytes | bytearray) -> None:
        """A file of the coming generation. Raises StoreError for a name that no manifest may hold."""
        if not file_name(name):
            raise StoreError(f"{name!r}: no file of a recommender can be called so: use letters, digits, '.', '_', '-'")
        with explained(self.folder):
            path = self.staging / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

    def keep(self, generation: Generation, prefix: str = "", *, without: frozenset[str] = frozenset()) -> None:
        """Takes over the files that begin with `prefix`, but for some, from a generation, this recommender's or not.

        Raises StoreError when one of them is damaged.
        """
        with explained(self.folder):
            for name in generation.manifest.files:
                if not name.startswith(prefix) or name in without:
                    continue
                data = generation.read(name)  # or its damage would get a digest of its own
                target = self.staging / name
                target.parent.mkdir(parents=True, exist_ok=True)
                try:
                    target.hardlink_to(generation.folder / name)
                except OSError:  # another file system, or one without links
                    with target.open("xb") as file:
                        file.write(data)

    def commit(self, manifest: Manifest) -> Generation:
        """Makes what was staged the live generation. Raises StoreError, the old one still live, when it cannot."""
        with explained(self.folder):
            manifest = manifest.with_files(
                {
                    path.relative_to(self.staging).as_posix(): _sync_and_digest(path)
                    for path in sorted(self.staging.rglob("*"))
                    if path.is_file()
                }
            )
            data = json.dumps(manifest.to_json(), indent=1).encode()  # in ASCII: a folder's name may be no UTF-8
            _write_synced(self.staging / "manifest.json", data)
            for inner in (p for p in self.staging.rglob("*") if p.is_dir()):
                _sync_folder(inner)
            _sync_folder(self.staging)

            generations = self.folder / "gens"
            generations.mkdir(exist_ok=True)
            before = _live(self.folder)
            numbers = [int(p.name.split("-")[0]) for p in generations.iterdir() if p.name[:6].isdigit()]
            name = f"{max(numbers, default=0) + 1:06d}-{secrets.token_hex(4)}"
            coming = self.folder / "CURRENT.new"
            self.staging.rename(generations / name)
            try:
                _sync_folder(generations)
                if coming.is_symlink() or coming.is_file():  # of a writer that crashed
                    coming.unlink()
                _write_synced(coming, f"{name} {hashlib.sha256(data).hexdigest()}\n".encode())
                coming.replace(self.folder / "CURRENT")
            except BaseException:
                if _live(self.folder) != name:  # Ctrl-C may come when all is done
                    shutil.rmtree(generations / name, ignore_errors=True)
                    coming.unlink(missing_ok=True)
                raise
            _sync_folder(self.folder)
            _sync_folder(self.folder.parent)
        for path in generations.iterdir():
            # The one before stays, for readers that have just opened it; others are older, or of writers that died.
            if path.name not in (name, before):
                shutil.rmtree(path, ignore_errors=True)
        return Generation(self.folder, name, manifest)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Held by one writer of a folder at a time. Raises StoreError when another one has it."""
    from filelock import FileLock, Timeout

    taken = StoreError(f"{folder}: another simrec is writing it: wait until that one is done")
    with contextlib.ExitStack() as locks:
        if os.name != "nt":
            # LOCK can be deleted while it is held, and another writer would then make one of its own; the folder can't.
            import fcntl

            handle = os.open(folder, os.O_RDONLY)
            locks.callback(os.close, handle)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                    raise taken from None
                # Some network file systems lock no folders: LOCK alone must do.
        try:
            locks.enter_context(FileLock(folder / "LOCK", timeout=0))
        except Timeout:
            raise taken from None
        yield


def _sync_and_digest(path: Path) -> FileRecord:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return FileRecord(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    if os.name == "nt":  # Windows opens no folders; its rename is durable by itself
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
