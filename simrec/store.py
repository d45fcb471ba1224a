"""Generations on disk: a pool of immutable files, and manifests that name them with their digests.

    NAME/CURRENT                  "000012 <sha256 of its manifest>"; replacing this file is the commit
    NAME/LOCK                     held by the one writer, and says which process on which computer that is
    NAME/generations/000012.json  a manifest, which lists files with size and SHA-256
    NAME/encoder/<id>/            the files of an encoder
    NAME/segments/<id>/           the files of a segment of the catalogue
    NAME/fields/, NAME/removed/   what is replaced without touching a segment
    NAME/building/                what an interrupted build has finished: see `simrec.catalogue.building`

A writer stages what is new, fsyncs and digests it, moves it into the pool, writes the manifest, then replaces CURRENT.
What hasn't changed is named again with the digest it has, and not read. A crash at any point leaves the generation
before answering. The last KEPT generations stay; what none of their manifests names is deleted.

A reader opens every file of its generation at once, so that it goes on answering when they are deleted. Formats 1 and 2
had a folder for each generation, gens/000002-1f3c.../, with a manifest.json and all its files; they are read as they
are, and the next commit goes beside them.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import mmap
import os
import re
import shutil
import stat
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from simrec import files
from simrec.errors import StoreError, reason
from simrec.files import explained
from simrec.manifest import LARGEST, FileRecord, Manifest, file_name

_OLD = re.compile(r"(\d{6,})-[0-9a-f]{8}")
"""The name of a generation of format 1 or 2."""

_NAME = re.compile(r"\d{6,18}")

_HOLDER = re.compile(r"(\d{1,10}) ([\w.-]{1,255})\n?", re.ASCII)
"""What LOCK says. It may have come from anyone."""

BUILT = "building/built"
"""Says in which manifest, by its SHA-256, everything is that `building` holds."""

_DELETED = ".simrec-deleted-"
"""How the name begins that a recommender has while it is being deleted."""

KEPT = 5
"""Generations that stay on disk."""

LARGEST_READ = 4 << 30
"""Bytes of the largest file that is read whole."""

SMALL = 16 << 20
"""Bytes up to which a file is read whole when it is first used, and its digest checked."""

READS = 3
"""How often CURRENT is read before a generation that keeps vanishing is an error."""

COPY = "bring back a copy of this recommender; what its folder still holds may be of use, so keep it"
"""What to do about a recommender whose manifest cannot be read."""


class Generation:
    """One immutable state of a recommender, all its files open for reading, from as many threads as you like.

    They may have come from anyone: each is a regular file below the folder, of the size that the manifest says.
    """

    def __init__(self, recommender: Path, name: str, manifest: Manifest) -> None:
        self.recommender = recommender
        self.name = name
        self.manifest = manifest
        # Of one that can't be opened, why: an error has a traceback, which would keep this object for ever.
        self._files: dict[str, BinaryIO | str] = {}
        self._checked: set[str] = set()
        self._lock = threading.RLock()
        weakref.finalize(self, _close, self._files)

    def hold(self) -> None:
        """Opens every file; of one that can't be opened, the error is raised when it is used."""
        with self._lock:
            for name in self.manifest.files.keys() - self._files.keys():
                try:
                    self._files[name] = self._open(name)
                except StoreError as error:
                    self._files[name] = str(error)

    @property
    def whole(self) -> bool:
        """Whether all its files could be opened."""
        return not any(isinstance(file, str) for file in self._files.values())

    def close(self) -> None:
        """Closes its files; what was mapped into memory stays. It opens them again when it is asked again."""
        with self._lock:
            _close(self._files)

    def check(self, name: str, progress: Callable[[int], None]) -> None:
        """Reads a file of any size, a piece at a time; progress: told how many bytes each has.

        Raises StoreError when it is not what was written.
        """
        handle, place, sha256 = self._handle(name), 0, hashlib.sha256()
        try:
            while piece := _read_at(handle, 1 << 20, place):
                sha256.update(piece)
                place += len(piece)
                progress(len(piece))
        except OSError as error:
            raise self._unreadable(name, error) from error
        if sha256.hexdigest() != self._record(name).sha256:
            raise self.damaged(name, "it is not what was written")

    def read(self, name: str, most: int = LARGEST_READ) -> bytes:
        """A whole file of at most so many bytes, its size and SHA-256 checked.

        Raises StoreError when they are not the manifest's.
        """
        record = self._record(name)
        if record.size > most:
            raise self.damaged(name, f"{record.size:,} bytes are more than simrec reads at once")
        data = self._contents(name)
        if hashlib.sha256(data).hexdigest() != record.sha256:
            raise self.damaged(name, "it is not what was written")
        self._checked.add(name)
        return data

    def mapped(self, name: str) -> mmap.mmap | bytes:
        """A file's bytes, mapped into memory; those of a small one were checked. Raises StoreError as `read` does."""
        self._check_small(name)
        try:
            handle = self._handle(name)
            return mmap.mmap(handle, 0, access=mmap.ACCESS_READ) if self._record(name).size else b""
        except (OSError, ValueError) as error:
            raise self.damaged(name, str(error)) from error

    def path(self, name: str, *, whole: bool = False) -> Path:
        """Where a library that opens files by itself finds one, deleted or not; a small one was checked.

        whole: whether a large one is to be checked too, as all of it is needed.
        """
        self._check_small(name)
        if whole and name not in self._checked:
            self.check(name, lambda _: None)
            self._checked.add(name)
        held = Path(f"/proc/self/fd/{self._handle(name)}")
        return held if held.exists() else self.recommender / name

    def check_there(self, name: str) -> None:
        """Raises StoreError when a file could not be opened, or isn't a file of the manifest's size."""
        self._handle(name)

    def check_folder(self, name: str) -> Path:
        """Where a folder lies, for a plugin that reads what is in it: each file is there and checked, and no other is.

        Raises StoreError.
        """
        for path in sorted((self.recommender / name).rglob("*")):
            if path.is_symlink() or not path.is_dir():
                self.read(path.relative_to(self.recommender).as_posix())
        for file in self.manifest.files:
            if file.startswith(f"{name}/"):
                self.check_there(file)
        return self.recommender / name

    def damaged(self, name: str, why: str) -> StoreError:
        """The error for a file that isn't what it should be, with the cheapest remedy."""
        return StoreError(f"{self.recommender / name}: damaged ({' '.join(why.split())}): {self._remedy(name)}")

    def _check_small(self, name: str) -> None:
        with self._lock:
            if name not in self._checked and self._record(name).size <= SMALL:
                self.read(name)

    def _contents(self, name: str) -> bytes:
        handle, size = self._handle(name), self._record(name).size
        pieces, place = [], 0
        try:
            while place < size and (piece := _read_at(handle, min(size - place, 1 << 30), place)):
                pieces.append(piece)
                place += len(piece)
        except OSError as error:
            raise self._unreadable(name, error) from error
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _handle(self, name: str) -> int:
        self._record(name)
        if name not in self._files:
            self.hold()
        file = self._files[name]
        if isinstance(file, str):
            raise StoreError(file)
        return file.fileno()

    def _open(self, name: str) -> BinaryIO:
        try:
            file = files.opened_below(self.recommender, name)
        except OSError as error:
            raise self._unreadable(name, error) from error
        if os.fstat(file.fileno()).st_size != self._record(name).size:
            file.close()
            raise self.damaged(name, "cut or grown since it was written")
        return file

    def _record(self, name: str) -> FileRecord:
        if name not in self.manifest.files:
            raise self.damaged(name, "its manifest lists no such file")
        return self.manifest.files[name]

    def _unreadable(self, name: str, error: OSError) -> StoreError:
        # A writer goes through no link either.
        remedy = COPY if error.errno == errno.ELOOP else files.remedy(error, self._remedy(name))
        return StoreError(f"{self.recommender / name}: cannot be read ({error.strerror or error}): {remedy}")

    def _remedy(self, name: str) -> str:
        if name.startswith(self.manifest.encoder.folder):
            return "bring back a copy of this recommender, or train its encoder again under another name"
        return (
            f"'simrec index build {self.recommender.name} --from-scratch' makes the catalogue again, with its encoder"
        )


def _close(opened: dict[str, BinaryIO | str]) -> None:
    for file in opened.values():
        if not isinstance(file, str):
            file.close()
    opened.clear()


def exists(folder: Path) -> bool:
    """Whether a recommender was ever committed there."""
    try:
        return (folder / "CURRENT").is_file()
    except OSError:  # a name too long, a folder closed to us
        return False


def current(folder: Path, *, hold: bool = True) -> Generation:
    """The live generation. Raises StoreError when there is none or it is damaged.

    hold: whether to open its files now, so that it answers whatever becomes of them, or when they are first used.
    """
    for _ in range(READS):
        name, digest = _current_words(folder)
        try:
            generation = Generation(folder, name, _manifest(folder, name, digest))
            if hold:
                generation.hold()
            if not hold or generation.whole or _live(folder) == name:
                return generation
            generation.close()
        except FileNotFoundError:
            if _live(folder) == name:
                break
        # A writer has moved on in between; CURRENT names another generation.
    raise StoreError(f"{folder}: incomplete recommender: {COPY}")


def kept(folder: Path) -> list[Generation]:
    """The generations that can be gone back to, the live one among them, oldest first; damaged manifests are left out.

    Their files are not open yet. One that a simrec of format 1 or 2 wrote is here only once another followed it.
    """
    found = []
    for path in sorted((folder / "generations").glob("*.json")):
        if _NAME.fullmatch(path.stem):
            with contextlib.suppress(OSError, StoreError):
                data = _small(folder, f"generations/{path.name}", LARGEST)
                found.append(Generation(folder, path.stem, Manifest.from_bytes(data, str(path), COPY)))
    return sorted(found, key=lambda generation: int(generation.name))


def current_name(folder: Path) -> str:
    """The name of the live generation, which is all that is read. Raises StoreError as `current` does."""
    return _current_words(folder)[0]


def _current_words(folder: Path) -> tuple[str, str]:
    """The name of the live generation and its manifest's SHA-256."""
    try:
        words = _small(folder, "CURRENT", 1000).decode().split()
    except (OSError, UnicodeDecodeError) as error:
        remedy = files.remedy(error, COPY) if isinstance(error, OSError) else COPY
        raise StoreError(f"{folder}: not a readable recommender ({reason(error)}): {remedy}") from error
    if len(words) != 2 or not (_NAME.fullmatch(words[0]) or _OLD.fullmatch(words[0])):
        raise StoreError(f"{folder / 'CURRENT'}: damaged: {COPY}")
    return words[0], words[1]


def _manifest(folder: Path, name: str, digest: str) -> Manifest:
    """Raises FileNotFoundError when it isn't there, StoreError when it is damaged."""
    place = f"gens/{name}" if _OLD.fullmatch(name) else ""
    inside = f"{place}/manifest.json" if place else f"generations/{name}.json"
    try:
        data = _small(folder, inside, LARGEST)
    except FileNotFoundError:
        raise
    except OSError as error:
        remedy = files.remedy(error, COPY)
        raise StoreError(f"{folder / inside}: cannot be read ({error.strerror or error}): {remedy}") from error
    if hashlib.sha256(data).hexdigest() != digest:
        raise StoreError(f"{folder / inside}: damaged (CURRENT names another SHA-256): {COPY}")
    return Manifest.from_bytes(data, str(folder / inside), COPY, place)


def _small(folder: Path, name: str, most: int) -> bytes:
    """A file below a recommender's folder. Raises OSError, also when it is larger than `most` bytes."""
    with files.opened_below(folder, name) as file:
        return files.read(file, most)


def _read_at(handle: int, size: int, place: int) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(handle, size, place)
    with _seeking:  # Windows has one position for all who read
        os.lseek(handle, place, os.SEEK_SET)
        return os.read(handle, size)


_seeking = threading.Lock()


def _live(folder: Path) -> str:
    """The name in CURRENT, "" where there is none."""
    return _words(folder)[0]


def _live_digest(folder: Path) -> str:
    """The digest in CURRENT, "" where there is none."""
    return _words(folder)[1]


def _words(folder: Path) -> tuple[str, str]:
    try:
        name, digest, *_ = (*(folder / "CURRENT").read_text("utf-8", "replace").split(), "", "")
    except OSError:
        return "", ""
    return name, digest


class Writer:
    """The one who may change a recommender; a context manager that leaves nothing behind unless it committed.

    What an interrupted build has finished, in `building`, is not its business.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.staging = folder / f"staging-{_random()}"
        self._kept: dict[str, FileRecord] = {}
        self._locks = contextlib.ExitStack()

    def __enter__(self) -> Writer:
        with explained(self.folder):
            self._made = [path for path in (self.folder, *self.folder.parents) if not path.exists()]
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._check_places()
                self._locks.enter_context(_locked(self.folder))
                for left in self.folder.glob("staging-*"):  # of a writer that crashed: the lock is ours
                    files.clear(left)
                for left in self.folder.parent.glob(f"{_DELETED}*"):
                    shutil.rmtree(left, ignore_errors=True)
                self.staging.mkdir()
                self._drop_built()
            except OSError:
                self.__exit__()
                raise
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.staging, ignore_errors=True)
        self._locks.close()
        if not exists(self.folder):
            if not (self.folder / "building").exists():
                with contextlib.suppress(OSError):
                    (self.folder / "LOCK").unlink()
            for empty in (*(self.folder / pool for pool in POOL), self.folder, *self._made):
                with contextlib.suppress(OSError):
                    empty.rmdir()

    def _drop_built(self) -> None:
        """Gives up `building` where the live generation has what it holds: at once, as half of it would be taken for
        what an interrupted build has finished.
        """
        with contextlib.suppress(OSError):
            built = _small(self.folder, BUILT, 100).decode("ascii", "replace")
            if built and built == _live_digest(self.folder):
                (self.folder / "building").rename(self.staging / "building")
                _sync_folder(self.folder)
                shutil.rmtree(self.staging / "building", ignore_errors=True)

    def _check_places(self) -> None:
        """Raises StoreError where what this one writes to is a link, which would be followed, or a pipe."""
        folders = ((name, stat.S_ISDIR) for name in ("gens", "building", *POOL))
        for name, right in (("LOCK", stat.S_ISREG), ("CURRENT", stat.S_ISREG), *folders):
            with contextlib.suppress(FileNotFoundError):
                if not right((self.folder / name).lstat().st_mode):
                    raise StoreError(
                        f"{self.folder / name}: a link or something else that nobody should write to: {COPY}"
                    )

    def explained(self) -> contextlib.AbstractContextManager[None]:
        """Turns an OSError in writing into a StoreError."""
        return explained(self.folder, making=[self.staging, self.folder / "building"])

    def new(self, pool: str) -> str:
        """The name of a folder to come in a pool: "segments/<id>"."""
        return f"{pool}/{_random()}"

    def path(self, name: str) -> Path:
        """Where to write a file of the coming generation. Raises StoreError for a name that no manifest may hold."""
        if not file_name(name):
            raise StoreError(f"{name!r}: no file of a recommender can be called so: use letters, digits, '.', '_', '-'")
        path = self.staging / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def write(self, name: str, data: bytes | bytearray | memoryview) -> None:
        """A file of the coming generation. Raises StoreError for a name that no manifest may hold."""
        with self.explained():
            self.path(name).write_bytes(data)

    def keep(self, generation: Generation, folder: str) -> None:
        """Names the files in a folder of one of this recommender's generations again: they are not read."""
        self._kept |= {
            name: record for name, record in generation.manifest.files.items() if name.startswith(f"{folder}/")
        }

    def keep_all(self, generation: Generation) -> None:
        """Names all files of one of this recommender's generations again.

        Raises StoreError where one is gone or cut.
        """
        generation.hold()
        for name in generation.manifest.files:
            generation.check_there(name)
        self._kept |= generation.manifest.files

    def keep_file(self, generation: Generation, name: str) -> None:
        """Names a file of one of this recommender's generations again: it is not read."""
        self._kept[name] = generation.manifest.files[name]

    def copy(self, generation: Generation, folder: str, to: str, *, without: frozenset[str] = frozenset()) -> None:
        """Takes over the files in a folder of another recommender's generation, but for some.

        Raises StoreError when one of them is damaged.
        """
        with self.explained():
            for name in generation.manifest.files:
                inside = name.removeprefix(f"{folder}/")
                if inside == name or inside in without:
                    continue
                data = generation.read(name)  # or its damage would get a digest of its own
                target = self.path(f"{to}/{inside}")
                try:
                    target.hardlink_to(generation.recommender / name)
                except OSError:  # another file system, or one without links
                    target.write_bytes(data)

    def commit(self, manifest: Manifest, *, built: bool = False) -> Generation:
        """Makes what was staged and kept the live generation.

        built: whether that has what `building` holds, which is deleted then. Raises StoreError, the generation before
        still live, when it cannot.
        """
        with self.explained():
            before = self._adopt()
            staged = {
                path.relative_to(self.staging).as_posix(): _sync_and_digest(path)
                for path in sorted(self.staging.rglob("*"))
                if path.is_file()
            }
            manifest = manifest.with_files({**self._kept, **staged})
            data = _json(manifest)
            number = max([*self._numbers(), int(before[:6] or 0)]) + 1
            name, coming = f"{number:06d}", self.folder / "CURRENT.new"
            if not _NAME.fullmatch(name):
                raise StoreError(f"{self.folder}: generation {number:,} can't be counted on from: {COPY}")
            try:
                self._into_pool(staged)
                _replace(self.folder / "generations" / f"{name}.json", data)
                digest = hashlib.sha256(data).hexdigest()
                if built:  # or after a crash right behind this commit it would go in once more
                    _replace(self.folder / BUILT, digest.encode())
                if coming.is_symlink() or coming.is_file():  # of a writer that crashed
                    coming.unlink()
                _write_synced(coming, f"{name} {digest}\n".encode())
                coming.replace(self.folder / "CURRENT")
            except BaseException:
                if _live(self.folder) != name:  # Ctrl-C may come when all is done
                    (self.folder / "generations" / f"{name}.json").unlink(missing_ok=True)
                    coming.unlink(missing_ok=True)
                    self._clean()
                raise
            _sync_folder(self.folder)
            _sync_folder(self.folder.parent)
            self._drop_built()
            self._clean()
        return Generation(self.folder, name, manifest)

    def delete(self) -> None:
        """Deletes the recommender with all that is in its folder. It is gone at once, even if this is interrupted."""
        with self.explained():
            gone = self.folder.with_name(f"{_DELETED}{_random()}")
            self.folder.rename(gone)
            _sync_folder(gone.parent)
            shutil.rmtree(gone, ignore_errors=True)

    def rename(self, folder: Path) -> None:
        """Moves the recommender to a folder that isn't there yet."""
        with self.explained():
            shutil.rmtree(self.staging, ignore_errors=True)
            self.folder.rename(folder)
            _sync_folder(folder.parent)

    def _adopt(self) -> str:
        """The name of the live generation; one of an older format gets a manifest beside those of this one."""
        live = _live(self.folder)
        if (old := _OLD.fullmatch(live)) is None:
            return live
        with contextlib.suppress(StoreError, FileNotFoundError):  # a damaged one can't be gone back to
            manifest = _manifest(self.folder, *_current_words(self.folder))
            (self.folder / "generations").mkdir(exist_ok=True)
            _replace(self.folder / "generations" / f"{old[1]}.json", _json(manifest))
        return live

    def _numbers(self) -> list[int]:
        """Those of the generations that there are, the newest last."""
        names = [path.stem for path in (self.folder / "generations").glob("*.json")]
        return sorted(int(name) for name in names if _NAME.fullmatch(name))

    def _into_pool(self, staged: dict[str, FileRecord]) -> None:
        """Moves staged files to where the manifest says they are, and makes that last."""
        folders = {self.folder, self.folder / "generations"}
        (self.folder / "generations").mkdir(exist_ok=True)
        for name in staged:
            target = self.folder / name
            for parent in list(target.relative_to(self.folder).parents)[::-1][1:]:
                (self.folder / parent).mkdir(exist_ok=True)
                folders.add(self.folder / parent)
            (self.staging / name).rename(target)
        for folder in folders:
            _sync_folder(folder)

    def _clean(self) -> None:
        """Deletes the generations that are too old, and the files that no other one names.

        A file that the system doesn't delete, since someone has it open, is left for the next time.
        """
        named: set[str] = set()
        (self.folder / "generations" / "coming.new").unlink(missing_ok=True)
        for number in self._numbers()[:-KEPT]:
            (self.folder / "generations" / f"{number:06d}.json").unlink(missing_ok=True)
        for number in self._numbers():
            try:
                data = _small(self.folder, f"generations/{number:06d}.json", LARGEST)
                named |= set(Manifest.from_bytes(data, "", COPY).files)
            except (OSError, StoreError):
                return  # what it names isn't known, so nothing is deleted
        for pool in (*POOL[1:], "gens"):
            for path in sorted((self.folder / pool).rglob("*"), reverse=True):
                if path.is_dir() and not path.is_symlink():
                    with contextlib.suppress(OSError):
                        path.rmdir()  # when it is empty
                elif path.relative_to(self.folder).as_posix() not in named:
                    with contextlib.suppress(OSError):
                        path.unlink()
            with contextlib.suppress(OSError):
                (self.folder / pool).rmdir()


POOL = ("generations", "encoder", "segments", "fields", "removed")
"""The folders that a writer makes in a recommender's."""


def _random() -> str:
    """16 hex digits that nobody else takes."""
    return os.urandom(8).hex()


def _json(manifest: Manifest) -> bytes:
    """In ASCII: a folder's name may be no UTF-8."""
    return json.dumps(manifest.to_json(), indent=1).encode()


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Held by one writer of a folder at a time. Raises StoreError when another one has it."""
    import socket

    from filelock import FileLock, Timeout

    def taken() -> StoreError:
        return StoreError(f"{folder}: another simrec is writing it{_holder(folder)}: wait until that one is done")

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
                    raise taken() from None
                # Some network file systems lock no folders: LOCK alone must do.
        try:
            locks.enter_context(FileLock(folder / "LOCK", timeout=0))
        except Timeout:
            raise taken() from None
        _note_holder(folder, f"{os.getpid()} {socket.gethostname()}\n")
        locks.callback(_note_holder, folder, "")
        yield


def _note_holder(folder: Path, text: str) -> None:
    """Writes into LOCK where that can be: Windows lets nobody write to a file that is locked."""
    with contextlib.suppress(OSError):
        handle = os.open(folder / "LOCK", os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0))
        with os.fdopen(handle, "wb") as file:
            if os.fstat(handle).st_nlink == 1:  # else it is a second name of another file
                file.truncate()
                file.write(text.encode("ascii", "replace"))


def _holder(folder: Path) -> str:
    """The end of a sentence about whoever holds the lock, "" where LOCK doesn't say it."""
    import socket

    try:
        found = _HOLDER.fullmatch(_small(folder, "LOCK", 1000).decode("ascii", "replace"))
    except OSError:
        return ""
    if found is None:
        return ""
    pid, host = found.groups()
    return f" (process {pid} on {'this computer' if host == socket.gethostname() else host})"


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


def _replace(path: Path, data: bytes) -> None:
    """A file that is whole or not there."""
    temporary = path.with_name("coming.new")
    temporary.unlink(missing_ok=True)  # of a writer that crashed
    try:
        _write_synced(temporary, data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)
