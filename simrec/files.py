"""Single files and folders: reads only regular files; what it writes appears complete or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, TypeAlias

from simrec.errors import RequestError, StoreError

PathText: TypeAlias = "str | os.PathLike[str]"
"""What may name a place: a path, or a text as a person would type it."""

_READING = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
"""Without O_NONBLOCK, opening a pipe that nobody writes to would wait for ever."""


CROWDED = (errno.EMFILE, errno.ENFILE)
"""The errors of a process, or a computer, that has too many files open."""

ROOM = 64 << 20
"""If more bytes than these are free, a full disk isn't why a file can't be written: a failed write fills the disk."""


def typed(place: PathText, what: str) -> str:
    """A place as a person would type it. what: what it is, for the error.

    Raises RequestError for anything but a text or a path.
    """
    if not isinstance(place, str | os.PathLike):
        raise RequestError(f"{type(place).__name__} is not {what}: give one text or path")
    return os.fsdecode(place)


def opened(path: Path, *, follow: bool = True) -> BinaryIO:
    """A regular file, open for reading. follow: whether `path` may be a symbolic link to one.

    Raises OSError for anything else: a folder, a pipe or a device; its strerror says which.
    """
    handle = os.open(path, _READING | (0 if follow else getattr(os, "O_NOFOLLOW", 0)))
    try:
        mode = os.fstat(handle).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "a pipe or a device, not a file", str(path))
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def opened_below(folder: Path, name: str) -> BinaryIO:
    """The regular file of that name ("a/b/c") below a folder, open for reading.

    The folder itself may be a symbolic link, which its owner made; what is below it may come from anyone. Raises
    OSError as `opened` does, and for a symbolic link on the way.
    """
    path = folder
    for part in PurePosixPath(name).parts:
        path /= part
        if path.is_symlink() or getattr(os.path, "isjunction", lambda _: False)(path):
            raise OSError(errno.ELOOP, "a symbolic link, which no recommender holds", str(path))
    return opened(path, follow=False)


def read(file: BinaryIO, most: int) -> bytes:
    """All of an open file. Raises OSError if that is more than `most` bytes."""
    data = file.read(most + 1)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"larger than {most:,} bytes")
    return data


def clear(path: Path) -> None:
    """Deletes a file, a folder with all that is in it, or a link, but not what the link leads to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def crowded() -> OSError | None:
    """The error of opening any file, if this process or the computer has too many files open, else None.

    Some libraries report that as if there were something wrong with a file.
    """
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        # A new one: the traceback of this one would keep its caller's files open.
        return OSError(error.errno, error.strerror) if error.errno in CROWDED else None
    return None


def remedy(error: OSError, otherwise: str) -> str:
    """What helps against an error in reading; `otherwise` if the file isn't there or isn't what it should be."""
    if error.errno in (errno.EACCES, errno.EPERM):
        return "allow yourself to read it"
    if error.errno in CROWDED:
        return "close recommenders that you don't need any more, or allow more open files with 'ulimit -n'"
    if error.errno in (errno.EIO, getattr(errno, "ESTALE", errno.EIO), errno.ETIMEDOUT):
        return "try again, and check the disk or network it is on"
    return otherwise


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file that appears at `path`, complete, only if the block succeeds. Raises StoreError if it can't be written."""
    with replacing_all([path]) as (file,):
        yield file


@contextlib.contextmanager
def replacing_all(paths: Sequence[Path]) -> Iterator[list[IO[bytes]]]:
    """Files that appear at those paths, all of them and complete, only if the block succeeds.

    Raises StoreError if they can't be written.
    """
    with explained(paths[0], "name a file in a folder you can write to"), contextlib.ExitStack() as deleting:
        temporary = []
        with contextlib.ExitStack() as closing:
            files: list[IO[bytes]] = []
            for path in paths:
                if path.is_dir():
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
                handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
                temporary.append(Path(name))
                deleting.callback(temporary[-1].unlink, missing_ok=True)
                os.close(handle)
                files.append(closing.enter_context(temporary[-1].open("w+b")))
            yield files
            for file in files:
                file.flush()
                os.fsync(file.fileno())
        for written, path in zip(temporary, paths, strict=True):
            written.chmod(0o666 & ~_umask())
            written.replace(path)


@contextlib.contextmanager
def temporary() -> Iterator[tuple[IO[bytes], contextlib.AbstractContextManager[None]]]:
    """A file that is gone when the block ends, and a context that turns an OSError in writing it into a StoreError."""
    with contextlib.ExitStack() as closing:
        file = tempfile.TemporaryFile()  # noqa: SIM115 - closing it must not report a failed write again
        closing.callback(_closed, file)
        yield file, explained(Path(tempfile.gettempdir()), "name another folder for temporary files with TMPDIR")


def _closed(file: IO[bytes]) -> None:
    with contextlib.suppress(OSError):
        file.close()


@contextlib.contextmanager
def making(folder: Path) -> Iterator[Path]:
    """A folder to fill that appears at `folder`, complete, only if the block succeeds.

    Raises StoreError if it can't be written, if a folder of that name isn't empty, or if it is the current folder:
    replacing that would leave the user's shell in a deleted folder.
    """
    with explained(folder, "name a folder that you can write to"):
        if folder.resolve() == Path.cwd():
            raise StoreError(f"{folder}: this is the folder you are in: name a new one")
        if folder.exists() and any(folder.iterdir()):
            raise StoreError(f"{folder}: this folder is not empty: name another, or empty it")
    with replacing_folder(folder) as staging:
        yield staging


@contextlib.contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill that replaces the one at `folder`, if any, only if the block succeeds.

    Raises StoreError if it can't be written.
    """
    with explained(folder, "name a folder that you can write to"):
        staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        before = staging.with_name(f"{staging.name}.before")
        try:
            yield staging
            for path in staging.rglob("*"):
                if path.is_file():
                    with path.open("rb") as file:
                        os.fsync(file.fileno())
            staging.chmod(0o777 & ~_umask())
            if folder.exists():  # a folder that isn't empty can't be replaced in one step
                folder.rename(before)
            try:
                staging.rename(folder)
            except BaseException:
                if before.exists():
                    before.rename(folder)
                raise
        finally:
            shutil.rmtree(staging, ignore_errors=True)
            shutil.rmtree(before, ignore_errors=True)


@contextlib.contextmanager
def explained(
    where: Path,
    otherwise: str = "choose a home you can write to with --home or SIMREC_HOME",
    *,
    making: Sequence[Path] = (),
) -> Iterator[None]:
    """Turns an OSError in writing at `where` into a StoreError.

    otherwise: the remedy, unless there is no room. making: files and folders being written; if there is no room, the
    error says how much they take already.
    """
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            why, otherwise = os.strerror(error.errno), "make room there, or choose another place"
        if error.errno == errno.EIO:
            otherwise = "check the disk it is on, or choose another place"
        if error.errno == errno.ENOSPC:
            why += _room(where, making)
        raise StoreError(f"{where}: cannot be written ({why}): {otherwise}") from error


def _room(where: Path, making: Sequence[Path]) -> str:
    """For an error about a full disk: how much is free, and how much was not enough; "" if that isn't known.

    It is also "" if there is room, but the disk can't hold more files.
    """
    try:
        free = shutil.disk_usage(next(path for path in (where, *where.parents) if path.exists())).free
        inside = [file for path in making for file in (path, *path.rglob("*")) if file.is_file()]
        # A file with a second name was linked, not written.
        written = sum(file.stat().st_size for file in inside if file.stat().st_nlink == 1)
    except OSError:
        return ""
    if free > ROOM:
        return ""
    return f"; it needs more than {_size(written + free)}, and {_size(free)} are free"


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 1e6 else f"{count / 1e3:,.0f} kB"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
