"""Generations on disk: a pool of immutable files, and manifests that name them with their digests.

    NAME/CURRENT                  "000012 <sha256 of its manifest>"; replacing this file is the commit
    NAME/LOCK                     held by the one writer, and says which process on which computer that is
    NAME/generations/000012.json  a manifest, which lists files with size and SHA-256
    NAME/encoder/<id>/            the files of an encoder
    NAME/segments/<id>/           the files of a segment of the catalogue
    NAME/fields/, NAME/removed/   what is replaced without touching a segment
    NAME/building/                what an interrupted build has finished: see `simrec.catalogue.building`

A writer stages what is new, fsyncs and digests it, moves it into the pool, writes the manifest, then replaces CURRENT.
Files that haven't changed are listed again with their known digests, without reading them. After a crash at any point
the previous generation still answers. The last KEPT generations stay; files that none of their manifests lists are
deleted.

A reader opens every file of its generation at once, so it goes on answering after they are deleted. Formats 1 and 2 had
a folder for each generation, gens/000002-1f3c.../, with a manifest.json and all its files; they are read as they are,
and the next commit goes beside them.
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
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

from simrec import files
from simrec.errors import BusyError, StoreError, VersionError, reason
from simrec.files import explained
from simrec.manifest import LARGEST, FileRecord, Manifest, file_name

_OLD = re.compile(r"(\d{6,})-[0-9a-f]{8}")
"""The name of a generation of format 1 or 2."""

_NAME = re.compile(r"\d{6,18}")

_HOLDER = re.compile(r"(\d{1,10}) ([\w.-]{1,255})\n?", re.ASCII)
"""The contents of LOCK, which may come from anyone."""

CURRENT = "CURRENT"
"""The file that names the live generation; replacing it is the commit."""

BUILT = "building/built"
"""Holds the SHA-256 of the manifest that includes everything in `building`."""

_DELETED = ".simrec-deleted-"
"""Prefix of the name that a recommender has while it is being deleted."""

KEPT = 5
"""How many generations stay on disk."""

LARGEST_READ = 4 << 30
"""Maximum bytes of a file that is read whole."""

SMALL = 16 << 20
"""Files of up to so many bytes are read whole on first use to check their digest."""

READS = 3
"""How often to read CURRENT again if its generation keeps vanishing, before that is an error."""

COPY = "bring back a copy of this recommender; what its folder still holds may be of use, so keep it"
"""What to do about a recommender whose manifest cannot be read."""


class Generation:
    """One immutable state of a recommender, with all its files open for reading; any number of threads may use it.

    The files may come from anyone: each must be a regular file below the folder, of the size in the manifest.
    """

    def __init__(self, recommender: Path, name: str, manifest: Manifest) -> None:
        self.recommender = recommender
        self.name = name
        self.manifest = manifest
        # For a file that can't be opened, the reason: an error object's traceback would keep this object alive.
        self._files: dict[str, BinaryIO | str] = {}
        self._checked: set[str] = set()
        self._lock = threading.RLock()
        weakref.finalize(self, _close, self._files)

    def hold(self) -> None:
        """Opens every file; a file that can't be opened raises its error when it is used.

        Raises StoreError at once if too many files are open.
        """
        with self._lock:
            for name in self.manifest.files.keys() - self._files.keys():
                try:
                    self._files[name] = self._open(name)
                except StoreError as error:
                    if isinstance(error.__cause__, OSError) and error.__cause__.errno in files.CROWDED:
                        raise
                    self._files[name] = str(error)

    @property
    def there(self) -> bool:
        """Whether all its files exist with their sizes, without opening them."""
        with contextlib.suppress(OSError):
            return all(
                stat.S_ISREG((status := (self.recommender / name).lstat()).st_mode) and status.st_size == record.size
                for name, record in self.manifest.files.items()
            )
        return False

    @property
    def whole(self) -> bool:
        """Whether all its files could be opened."""
        return not any(isinstance(file, str) for file in self._files.values())

    def close(self) -> None:
        """Closes its files; memory maps stay. It opens them again when they are needed."""
        with self._lock:
            _close(self._files)

    def check(self, name: str, progress: Callable[[int], None]) -> None:
        """Reads a file of any size in pieces and checks its digest; progress: called with the bytes of each piece.

        Raises StoreError if the file is not what was written.
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
        """A whole file of at most `most` bytes, with its size and SHA-256 checked.

        Raises StoreError if they are not the manifest's.
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
        """A file's bytes, mapped into memory; a small file is checked first. Raises StoreError as `read` does."""
        self._check_small(name)
        try:
            handle = self._handle(name)
            return mmap.mmap(handle, 0, access=mmap.ACCESS_READ) if self._record(name).size else b""
        except OSError as error:
            raise self._unreadable(name, error) from error
        except ValueError as error:
            raise self.damaged(name, str(error)) from error

    def path(self, name: str, *, whole: bool = False) -> Path:
        """A path at which a library can open the file, even if it is deleted; a small file is checked first.

        whole: whether to check a large file too, because all of it is needed.
        """
        self._check_small(name)
        if whole and name not in self._checked:
            self.check(name, lambda _: None)
            self._checked.add(name)
        held = Path(f"/proc/self/fd/{self._handle(name)}")
        return held if held.exists() else self.recommender / name

    def check_there(self, name: str) -> None:
        """Raises StoreError if a file could not be opened, or isn't a file of the manifest's size."""
        self._handle(name)

    def check_folder(self, name: str) -> Path:
        """The path of a folder for a plugin to read, after checking that it holds exactly the manifest's files, intact.

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
        """The error for a file that isn't what it should be, with the cheapest remedy.

        If too many files are open, that may be all that is wrong, so the error says only that.
        """
        if crowded := files.crowded():
            return self._unreadable(name, crowded)
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
        # A writer doesn't follow links either, so building again wouldn't help.
        remedy = COPY if error.errno == errno.ELOOP else files.remedy(error, "") or self._remedy(name)
        return StoreError(f"{self.recommender / name}: cannot be read ({error.strerror or error}): {remedy}")

    def _remedy(self, name: str) -> str:
        live = _live(self.recommender)
        if live == self.name:
            before = earlier(self.recommender)[-1:]
            in_tables = all(one.manifest.catalogue and one.manifest.catalogue.engine for one in (self, *before))
            if before and name not in before[0].manifest.files and before[0].there and not in_tables:
                return _rollback(before[0])
        elif self.name in (one.name for one in earlier(self.recommender)) and not _intact(self.recommender):
            return _back(self.recommender)
        if name.startswith(f"{self.manifest.encoder.folder}/"):
            if self._same_encoder:
                return (
                    f"'simrec index build {self.recommender.name} --encoder {self._same_encoder} --from-scratch' makes "
                    f"the catalogue again with the same encoder"
                )
            return "bring back a copy of this recommender, or train its encoder again under another name"
        return (
            f"'simrec index build {self.recommender.name} --from-scratch' makes the catalogue again, with its encoder"
        )

    @cached_property
    def _same_encoder(self) -> str:
        """Another recommender of this home, or a shipped one, with the same encoder, whose files are good; "" for none.

        Also "" if a build couldn't take that encoder: without a catalogue in files, and for a shipped recommender.
        """
        home, catalogue = self.recommender.parent, self.manifest.catalogue
        if catalogue is None or catalogue.engine or home.resolve() == shipped().resolve():
            return ""
        passed = {self.recommender.name}
        # A build leaves the weights behind, so the only copy must not be the one in this recommender.
        weights = os.path.lexists(self.recommender / self.manifest.encoder.folder / "weights.safetensors")
        for place in (home, shipped()):
            with contextlib.suppress(OSError):
                for folder in sorted(place.iterdir()):
                    if folder.name not in passed and exists(folder):
                        passed.add(folder.name)
                        if _has_encoder(folder, self.manifest, weights=weights):
                            return folder.name
        return ""


def _encoder_files(manifest: Manifest, *, weights: bool) -> dict[str, FileRecord]:
    """The files of a manifest's encoder by their names in its folder; weights: also those that only training needs."""
    folder = f"{manifest.encoder.folder}/"
    named = {name.removeprefix(folder): one for name, one in manifest.files.items() if name.startswith(folder)}
    if not weights and manifest.encoder.runtime == "onnx":
        named.pop("weights.safetensors", None)
    return named


def _has_encoder(folder: Path, manifest: Manifest, *, weights: bool) -> bool:
    """Whether the recommender in a folder has a manifest's encoder too, and its files are what was written.

    weights: see `_encoder_files`.
    """
    try:
        other = current(folder, hold=False).manifest
    except StoreError:
        return False
    theirs = _encoder_files(other, weights=weights)
    return (
        other.encoder.digest == manifest.encoder.digest
        and theirs == _encoder_files(manifest, weights=weights)
        and all(_is_good(folder, f"{other.encoder.folder}/{name}", record) for name, record in theirs.items())
    )


def _is_good(folder: Path, name: str, record: FileRecord) -> bool:
    """Whether a file is what was written; unlike `Generation.check` it looks for no remedy."""
    sha256 = hashlib.sha256()
    with contextlib.suppress(OSError), files.opened_below(folder, name) as file:
        if os.fstat(file.fileno()).st_size == record.size:
            while piece := file.read(1 << 20):
                sha256.update(piece)
            return sha256.hexdigest() == record.sha256
    return False


def shipped() -> Path:
    """The folder of the shipped recommenders: in the installed package, else the checkout's `indexes`."""
    packaged = Path(__file__).parent / "shipped"
    return packaged if packaged.is_dir() else Path(__file__).parent.parent / "indexes"


def _close(opened: dict[str, BinaryIO | str]) -> None:
    for file in opened.values():
        if not isinstance(file, str):
            file.close()
    opened.clear()


def exists(folder: Path) -> bool:
    """Whether a recommender was ever committed there, even if we may not read it or its CURRENT is lost."""
    try:
        if stat.S_ISREG((folder / CURRENT).stat().st_mode):
            return True
    except PermissionError:
        return os.path.isdir(folder)  # noqa: PTH112 - Path.is_dir raises if we may not read the folder's parent
    except OSError:  # nothing there, or a name that is too long
        pass
    with contextlib.suppress(OSError):
        # The first commit may have crashed between writing its manifest and CURRENT.
        numbers, crashed = _numbers(folder), any(folder.glob("staging-*"))
        committed = bool(numbers) and (numbers[-1] > 1 or not crashed)
        return committed or any(folder.glob("gens/*/manifest.json"))
    return False


def _numbers(folder: Path) -> list[int]:
    """The numbers of a recommender's generations, the newest last."""
    names = [path.stem for path in (folder / "generations").glob("*.json")]
    return sorted(int(name) for name in names if _NAME.fullmatch(name))


def current(folder: Path, *, hold: bool = True) -> Generation:
    """The live generation. Raises StoreError if there is none or if it is damaged.

    hold: whether to open its files now, so that it answers even if they are deleted, or only when they are first used.
    """
    for _ in range(READS):
        name, digest = _current_words(folder)
        try:
            generation = Generation(folder, name, _manifest(folder, name, digest))
            if hold:
                try:
                    generation.hold()
                except StoreError:
                    generation.close()
                    raise
            if not hold or generation.whole or _live(folder) == name:
                return generation
            generation.close()
        except FileNotFoundError:
            if _live(folder) == name:
                break
        # A writer has committed in between: CURRENT names another generation.
    else:
        raise StoreError(f"{folder}: is changed faster than it can be read: try again")
    raise StoreError(f"{folder}: incomplete recommender, without the manifest of generation {name}: {_back(folder)}")


def live(folder: Path) -> Generation | None:
    """The live generation, its files not open yet; None if its manifest, or CURRENT, is missing or damaged, and there
    are earlier ones.

    Raises StoreError if there are none, if the two can't be read for another reason, or if a newer simrec wrote them.
    """
    try:
        return current(folder, hold=False)
    except StoreError as error:
        unreadable = isinstance(error.__cause__, OSError) and files.remedy(error.__cause__, "")
        if unreadable or isinstance(error, VersionError) or not earlier(folder):
            raise
        return None


def earlier(folder: Path) -> list[Generation]:
    """The kept generations before the live one, oldest first; all but the live one if CURRENT can't be read.

    Their files are not open yet.
    """
    number = _number(_live(folder))
    return [one for one in kept(folder) if number is None or int(one.name) < number]


def _intact(folder: Path) -> bool:
    """Whether the live generation's manifest can be read."""
    try:
        current(folder, hold=False)
    except StoreError:
        return False
    return True


def _rollback(generation: Generation, option: str = "") -> str:
    """The remedy that goes back to a generation; option: names it, unless it is the one before the live one."""
    name = generation.recommender.name
    return f"'simrec index rollback {name}{option}' goes back to generation {int(generation.name)}"


def _back(folder: Path) -> str:
    """What to do if the live generation's manifest is gone: a rollback if it works, else a copy."""
    before = earlier(folder)
    place = folder / CURRENT
    if os.path.lexists(place) and not stat.S_ISREG(place.lstat().st_mode):
        return COPY  # a writer refuses to replace it
    for one in reversed(before):
        if one.there:
            return _rollback(one, "" if one is before[-1] else f" --to {int(one.name)}")
    return COPY


def _number(name: str) -> int | None:
    """The number of a generation of that name, None for what is no such name."""
    return int(name.partition("-")[0]) if _NAME.fullmatch(name) or _OLD.fullmatch(name) else None


def kept(folder: Path) -> list[Generation]:
    """The generations to which a rollback can go, and the live one, oldest first; damaged manifests are left out.

    Their files are not open yet. A generation in format 1 or 2 is listed only once another has followed it. Raises
    StoreError if their folder can't be read.
    """
    generations = []
    try:
        paths = sorted((folder / "generations").glob("*.json"))
    except OSError as error:
        remedy = files.remedy(error, COPY)
        raise StoreError(f"{folder / 'generations'}: cannot be read ({error.strerror or error}): {remedy}") from error
    for path in paths:
        if _NAME.fullmatch(path.stem):
            with contextlib.suppress(OSError, StoreError):
                data = _small(folder, f"generations/{path.name}", LARGEST)
                generations.append(Generation(folder, path.stem, Manifest.from_bytes(data, str(path), COPY)))
    return sorted(generations, key=lambda generation: int(generation.name))


def current_name(folder: Path) -> str:
    """The name of the live generation; reads nothing else. Raises StoreError as `current` does."""
    return _current_words(folder)[0]


def _current_words(folder: Path) -> tuple[str, str]:
    """The name of the live generation and its manifest's SHA-256."""
    try:
        words = _small(folder, CURRENT, 1000).decode().split()
    except FileNotFoundError as error:
        raise StoreError(f"{folder}: incomplete recommender, without its file {CURRENT}: {_back(folder)}") from error
    except (OSError, UnicodeDecodeError) as error:
        remedy = files.remedy(error, "") if isinstance(error, OSError) else ""
        raise StoreError(
            f"{folder}: not a readable recommender ({reason(error)}): {remedy or _back(folder)}"
        ) from error
    if len(words) != 2 or _number(words[0]) is None:
        raise StoreError(f"{folder / 'CURRENT'}: damaged: {_back(folder)}")
    return words[0], words[1]


def _manifest(folder: Path, name: str, digest: str) -> Manifest:
    """A generation's manifest. Raises FileNotFoundError if it isn't there, StoreError if it is damaged."""
    place = f"gens/{name}" if _OLD.fullmatch(name) else ""
    inside = f"{place}/manifest.json" if place else f"generations/{name}.json"
    try:
        data = _small(folder, inside, LARGEST)
    except FileNotFoundError:
        raise
    except OSError as error:
        remedy = files.remedy(error, "") or _back(folder)
        raise StoreError(f"{folder / inside}: cannot be read ({error.strerror or error}): {remedy}") from error
    if hashlib.sha256(data).hexdigest() != digest:
        raise StoreError(f"{folder / inside}: damaged (CURRENT names another SHA-256): {_back(folder)}")
    return Manifest.from_bytes(data, str(folder / inside), COPY, place)


def _check_readable(data: bytes, where: str) -> None:
    """Raises StoreError for a manifest, before it is committed, that nobody could read afterwards."""
    remedy = "nothing was changed: fix the plugin that this comes from"
    if len(data) > LARGEST:
        raise StoreError(f"{where}: a manifest of {len(data):,} bytes, more than simrec reads: {remedy}")
    Manifest.from_bytes(data, where, remedy)


def _small(folder: Path, name: str, most: int) -> bytes:
    """The bytes of a file below a recommender's folder. Raises OSError, also if it is larger than `most` bytes."""
    with files.opened_below(folder, name) as file:
        return files.read(file, most)


def _read_at(handle: int, size: int, place: int) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(handle, size, place)
    with _seeking:  # on Windows all threads share one position in the file
        os.lseek(handle, place, os.SEEK_SET)
        return os.read(handle, size)


_seeking = threading.Lock()


def _live(folder: Path) -> str:
    """The name in CURRENT, or ""."""
    return _words(folder)[0]


def _live_digest(folder: Path) -> str:
    """The digest in CURRENT, or ""."""
    return _words(folder)[1]


def _words(folder: Path) -> tuple[str, str]:
    try:
        with files.opened(folder / CURRENT, follow=False) as file:
            data = files.read(file, 1000)
        name, digest, *_ = (*data.decode("utf-8", "replace").split(), "", "")
    except OSError:
        return "", ""
    return name, digest


class Writer:
    """The only one that may change a recommender: a context manager that leaves nothing behind unless it commits.

    It doesn't touch what an interrupted build has finished, in `building`.
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
                for left in self.folder.glob("staging-*"):  # left by a writer that crashed: the lock is ours now
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
        """Deletes `building` if the live generation includes all of it.

        It goes all at once: half of it would look like the finished part of an interrupted build.
        """
        with contextlib.suppress(OSError):
            built = _small(self.folder, BUILT, 100).decode("ascii", "replace")
            if built and built == _live_digest(self.folder):
                (self.folder / "building").rename(self.staging / "building")
                _sync_folder(self.folder)
                shutil.rmtree(self.staging / "building", ignore_errors=True)

    def _check_places(self) -> None:
        """Raises StoreError if a place that it writes to is a link, which would be followed, or a pipe."""
        folders = ((name, stat.S_ISDIR) for name in ("gens", "building", *POOL))
        for name, right in (("LOCK", stat.S_ISREG), (CURRENT, stat.S_ISREG), *folders):
            with contextlib.suppress(FileNotFoundError):
                if not right((self.folder / name).lstat().st_mode):
                    raise StoreError(
                        f"{self.folder / name}: a link or something else that nobody should write to: {COPY}"
                    )

    def explained(self) -> contextlib.AbstractContextManager[None]:
        """Turns an OSError in writing into a StoreError."""
        return explained(self.folder, making=[self.staging, self.folder / "building"])

    def new(self, pool: str) -> str:
        """The name of a new folder in a pool: "segments/<id>"."""
        return f"{pool}/{_random()}"

    def path(self, name: str) -> Path:
        """Where to write a file of the next generation. Raises StoreError for a name that a manifest may not hold."""
        if not file_name(name):
            raise StoreError(f"{name!r}: a recommender's file can't have this name: use letters, digits, '.', '_', '-'")
        path = self.staging / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def write(self, name: str, data: bytes | bytearray | memoryview) -> None:
        """Writes a file of the next generation. Raises StoreError for a name that a manifest may not hold."""
        with self.explained():
            self.path(name).write_bytes(data)

    def keep(self, generation: Generation, folder: str) -> None:
        """Keeps the files in a folder of one of this recommender's generations, without reading them."""
        self._kept |= {
            name: record for name, record in generation.manifest.files.items() if name.startswith(f"{folder}/")
        }

    def keep_all(self, generation: Generation) -> None:
        """Keeps all files of one of this recommender's generations.

        Raises StoreError if one is missing or has another size.
        """
        generation.hold()
        for name in generation.manifest.files:
            generation.check_there(name)
        self._kept |= generation.manifest.files

    def keep_file(self, generation: Generation, name: str) -> None:
        """Keeps a file of one of this recommender's generations, without reading it."""
        self._kept[name] = generation.manifest.files[name]

    def copy(self, generation: Generation, folder: str, to: str, *, without: frozenset[str] = frozenset()) -> None:
        """Copies the files in a folder of another recommender's generation, except those in `without`.

        Raises StoreError if one of them is damaged.
        """
        with self.explained():
            for name in generation.manifest.files:
                inside = name.removeprefix(f"{folder}/")
                if inside == name or inside in without:
                    continue
                data = generation.read(name)  # checks it: a damaged file must not get a new digest
                target = self.path(f"{to}/{inside}")
                try:
                    target.hardlink_to(generation.recommender / name)
                except OSError:  # another file system, or one without links
                    target.write_bytes(data)

    def commit(self, manifest: Manifest, *, built: bool = False) -> Generation:
        """Makes the staged and kept files the live generation.

        built: whether it includes all of `building`, which is then deleted. Raises StoreError if that fails; the
        previous generation stays live.
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
            number = max([*_numbers(self.folder), _number(before) or 0]) + 1
            name, coming = f"{number:06d}", self.folder / "CURRENT.new"
            if not _NAME.fullmatch(name):
                raise StoreError(f"{self.folder}: generation {number:,} can't be counted on from: {COPY}")
            _check_readable(data, f"{self.folder}: its new generation")  # a plugin may have given anything
            try:
                self._into_pool(staged)
                _replace(self.folder / "generations" / f"{name}.json", data)
                digest = hashlib.sha256(data).hexdigest()
                if built:  # else it would go in again after a crash right after this commit
                    _replace(self.folder / BUILT, digest.encode())
                if coming.is_symlink() or coming.is_file():  # left by a writer that crashed
                    coming.unlink()
                _write_synced(coming, f"{name} {digest}\n".encode())
                coming.replace(self.folder / CURRENT)
            except BaseException:
                if _live(self.folder) != name:  # Ctrl-C may come after the commit
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
        """Deletes the recommender with its whole folder. It is gone at once, even if this is interrupted."""
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
        """The name of the live generation; if its format is older, also writes its manifest in the current format.

        If its manifest is missing, an empty one takes its place: as long as that is kept, no file is deleted, because
        the missing one may have listed it.
        """
        name = _live(self.folder)
        if (number := _number(name)) is None:
            return name
        path, data = self.folder / "generations" / f"{number:06d}.json", b""
        if _OLD.fullmatch(name):
            with contextlib.suppress(StoreError, FileNotFoundError):  # a rollback can't go to a damaged one
                data = _json(_manifest(self.folder, *_current_words(self.folder)))
        if data or not os.path.lexists(path):
            path.parent.mkdir(exist_ok=True)
            _replace(path, data)
        return name

    def _into_pool(self, staged: dict[str, FileRecord]) -> None:
        """Moves staged files to their places in the pool, and fsyncs the folders."""
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
        """Deletes generations that are too old, and files that no other generation lists.

        A file that the system won't delete, because someone has it open, is left for the next commit.
        """
        named: set[str] = set()
        (self.folder / "generations" / "coming.new").unlink(missing_ok=True)
        for number in _numbers(self.folder)[:-KEPT]:
            (self.folder / "generations" / f"{number:06d}.json").unlink(missing_ok=True)
        for number in _numbers(self.folder):
            try:
                data = _small(self.folder, f"generations/{number:06d}.json", LARGEST)
                named |= set(Manifest.from_bytes(data, "", COPY).files)
            except (OSError, StoreError):
                return  # we don't know what it lists, so delete nothing
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
"""The folders that a writer makes in a recommender's folder."""


def _random() -> str:
    """16 random hex digits, to name what nobody else has."""
    return os.urandom(8).hex()


def _json(manifest: Manifest) -> bytes:
    """A manifest as JSON, in ASCII: a folder's name may not be UTF-8."""
    return json.dumps(manifest.to_json(), indent=1).encode()


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """A lock that one writer of a folder holds at a time. Raises StoreError if another one has it."""
    import socket

    from filelock import FileLock, Timeout

    def taken() -> StoreError:
        return BusyError(f"{folder}: another simrec is writing it{_holder(folder)}: wait until that one is done")

    with contextlib.ExitStack() as locks:
        if os.name != "nt":
            # Lock the folder too: LOCK can be deleted while it is held, and another writer would make a new one.
            import fcntl

            handle = os.open(folder, os.O_RDONLY)
            locks.callback(os.close, handle)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                    raise taken() from None
                # Some network file systems can't lock folders; then LOCK alone must do.
        try:
            locks.enter_context(FileLock(folder / "LOCK", timeout=0))
        except Timeout:
            raise taken() from None
        _note_holder(folder, f"{os.getpid()} {socket.gethostname()}\n")
        locks.callback(_note_holder, folder, "")
        yield


def _note_holder(folder: Path, text: str) -> None:
    """Writes into LOCK if that is possible: Windows lets nobody write to a locked file."""
    with contextlib.suppress(OSError):
        handle = os.open(folder / "LOCK", os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0))
        with os.fdopen(handle, "wb") as file:
            if os.fstat(handle).st_nlink == 1:  # else it is a hard link to another file
                file.truncate()
                file.write(text.encode("ascii", "replace"))


def _holder(folder: Path) -> str:
    """The end of a sentence that says who holds the lock, "" if LOCK doesn't say."""
    import socket

    try:
        match = _HOLDER.fullmatch(_small(folder, "LOCK", 1000).decode("ascii", "replace"))
    except OSError:
        return ""
    if match is None:
        return ""
    pid, host = match.groups()
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
    if os.name == "nt":  # Windows can't open folders; its rename is durable by itself
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _replace(path: Path, data: bytes) -> None:
    """Writes a file that is complete or not there."""
    temporary = path.with_name("coming.new")
    temporary.unlink(missing_ok=True)  # left by a writer that crashed
    try:
        _write_synced(temporary, data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)
