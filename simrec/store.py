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
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from simrec.errors import StoreError
from simrec.manifest import Manifest

_NAME = re.compile(r"\d{6,}-[0-9a-f]{8}")

READS = 3
"""How often CURRENT is read before a generation that keeps vanishing is an error."""


class Generation:
    """One immutable state of a recommender, open for reading."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest

    def read(self, name: str) -> bytes:
        """A whole file, its size and SHA-256 checked. Raises StoreError when they are not the manifest's."""
        entry = self.manifest.files[name]
        path = self.folder / name
        try:
            data = path.read_bytes()
        except OSError as error:
            raise self._unreadable(path, error) from error
        if len(data) != entry["size"] or hashlib.sha256(data).hexdigest() != entry["sha256"]:
            raise StoreError(f"{path}: damaged (it is not what was written): delete its folder and make it anew")
        return data

    def path(self, name: str) -> Path:
        """Where a file lies whose contents carry their own checksums. Its size is checked."""
        path = self.folder / name
        try:
            size = path.stat().st_size
        except OSError as error:
            raise self._unreadable(path, error) from error
        if size != self.manifest.files[name]["size"]:
            raise StoreError(f"{path}: damaged (cut or grown since it was written): delete its folder and make it anew")
        return path

    def _unreadable(self, path: Path, error: OSError) -> StoreError:
        if not self.folder.exists():
            return StoreError(f"{self.folder}: replaced by a newer one since it was opened: open the recommender again")
        return StoreError(f"{path}: cannot be read ({error.strerror}): delete its folder and make it anew")


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
                raise StoreError(f"{folder}: incomplete recommender: delete its folder and make it anew") from None
    raise AssertionError


def _open_current(folder: Path) -> Generation:
    try:
        words = (folder / "CURRENT").read_text("utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(
            f"{folder}: not a readable recommender ({error}): delete its folder and make it anew"
        ) from error
    if len(words) != 2 or not _NAME.fullmatch(words[0]):
        raise StoreError(f"{folder / 'CURRENT'}: damaged: delete its folder and make it anew")
    path = folder / "gens" / words[0] / "manifest.json"
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror}): delete its folder and make it anew") from error
    if hashlib.sha256(data).hexdigest() != words[1]:
        raise StoreError(f"{path}: damaged (CURRENT names another SHA-256): delete its folder and make it anew")
    return Generation(path.parent, Manifest.from_json(json.loads(data), str(path)))


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

    def __enter__(self) -> Writer:
        from filelock import FileLock, Timeout

        with _explained(self.folder):
            self._made = [path for path in (self.folder, *self.folder.parents) if not path.exists()]
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._lock = FileLock(self.folder / "LOCK", timeout=0)
                self._lock.acquire()
                for left in self.folder.glob("staging-*"):  # of a writer that crashed: the lock is ours
                    shutil.rmtree(left, ignore_errors=True)
                self.staging.mkdir()
            except Timeout:
                raise StoreError(f"{self.folder}: another simrec is writing it: wait until that one is done") from None
            except OSError:
                self.__exit__()
                raise
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.staging, ignore_errors=True)
        if hasattr(self, "_lock"):
            self._lock.release()
        if not exists(self.folder):
            with contextlib.suppress(OSError):
                (self.folder / "LOCK").unlink()
            for empty in (self.folder / "gens", self.folder, *self._made):
                with contextlib.suppress(OSError):
                    empty.rmdir()

    def write(self, name: str, data: bytes | bytearray) -> None:
        """A file of the coming generation."""
        with _explained(self.folder):
            path = self.staging / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

    def keep(self, generation: Generation, prefix: str = "", *, without: frozenset[str] = frozenset()) -> None:
        """Takes over the files that begin with `prefix`, but for some, from a generation, this recommender's or not.

        Raises StoreError when one of them is damaged.
        """
        with _explained(self.folder):
            for name in generation.manifest.files:
                if not name.startswith(prefix) or name in without:
                    continue
                generation.read(name)  # or its damage would get a digest of its own
                target = self.staging / name
                target.parent.mkdir(parents=True, exist_ok=True)
                try:
                    target.hardlink_to(generation.folder / name)
                except OSError:  # another file system, or one without links
                    shutil.copyfile(generation.folder / name, target)

    def commit(self, manifest: Manifest) -> Generation:
        """Makes what was staged the live generation. Raises StoreError, the old one still live, when it cannot."""
        with _explained(self.folder):
            files = {
                path.relative_to(self.staging).as_posix(): _sync_and_digest(path)
                for path in sorted(self.staging.rglob("*"))
                if path.is_file()
            }
            manifest = manifest.with_files(files)
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
            self.staging.rename(generations / name)
            try:
                _sync_folder(generations)
                _write_synced(self.folder / "CURRENT.new", f"{name} {hashlib.sha256(data).hexdigest()}\n".encode())
                (self.folder / "CURRENT.new").replace(self.folder / "CURRENT")
            except BaseException:
                if _live(self.folder) != name:  # Ctrl-C may come when all is done
                    shutil.rmtree(generations / name, ignore_errors=True)
                    (self.folder / "CURRENT.new").unlink(missing_ok=True)
                raise
            _sync_folder(self.folder)
            _sync_folder(self.folder.parent)
        for path in generations.iterdir():
            # The one before stays, for readers that have just opened it; others are older, or of writers that died.
            if path.name not in (name, before):
                shutil.rmtree(path, ignore_errors=True)
        return Generation(generations / name, manifest)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file that appears at `path`, whole, only when the block ends well. Raises StoreError when it cannot."""
    with _explained(path, "name a file in a folder you can write to"):
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        temporary = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def making(folder: Path) -> Iterator[Path]:
    """A folder to fill that appears at `folder`, whole, only when the block ends well.

    Raises StoreError when it cannot, when there is something in a folder of that name, or when it is the one that the
    process is in: that one would be swapped for another under the feet of the user's shell.
    """
    with _explained(folder, "name a folder that you can write to"):
        if folder.resolve() == Path.cwd():
            raise StoreError(f"{folder}: this is the folder you are in: name a new one")
        if folder.exists() and any(folder.iterdir()):
            raise StoreError(f"{folder}: this folder is not empty: name another, or empty it")
        staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            yield staging
            staging.chmod(0o777 & ~_umask())
            if folder.exists():
                folder.rmdir()  # Windows replaces no folder, not even an empty one
            staging.rename(folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextlib.contextmanager
def _explained(
    where: Path, remedy: str = "choose a home you can write to with --home or SIMREC_HOME"
) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            remedy = "make room there, or choose another place"
        raise StoreError(f"{where}: cannot be written ({error.strerror or error}): {remedy}") from error


def _sync_and_digest(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
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
