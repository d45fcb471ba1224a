"""Pictures in files: a folder of them, a single one, or a list that names them."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote_from_bytes, unquote_to_bytes

from simrec.contracts import Batch, Entry, ImageSpec, Notice, Source, Value
from simrec.errors import DataError, EmptyError, ImageError

PICTURE_ENDINGS = frozenset(
    (".avif", ".bmp", ".gif", ".ico", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm",
     ".tga", ".tif", ".tiff", ".webp")
)  # fmt: skip

HEIF_ENDINGS = frozenset((".heic", ".heif", ".hif"))
"""Read if pillow-heif is installed."""

OTHER_ENDINGS = frozenset(
    (".3fr", ".ai", ".arw", ".cr2", ".cr3", ".dng", ".eps", ".erf", ".exr", ".hdr", ".jxl", ".jxr", ".kdc", ".nef",
     ".nrw", ".orf", ".pef", ".psb", ".psd", ".raf", ".raw", ".rw2", ".srw", ".svg", ".svgz", ".wdp", ".xcf")
)  # fmt: skip
"""Pictures that simrec doesn't read: raw files from cameras, drawings, projects of picture editors."""

OTHER_TABLES = {
    **dict.fromkeys((".xlsx", ".xls", ".ods"), "'CSV UTF-8', as a .csv file"),
    ".json": "JSON lines, as a .jsonl file with an object on each line",
}
"""What to save tables as that simrec doesn't read as lists, by their endings."""


def folder(text: str, *, data_dir: Path | None, notice: Notice) -> Source:
    """The pictures in the folder at that path (sub-folders are labels), or the single picture at that path."""
    path = Path(text)
    try:
        if text and path.is_dir():
            return Folder(path, notice)
        if path.is_file():
            check_no_table(path, text)
            return Single(path)
    except OSError as error:  # a name that is too long, a folder that we may not read
        raise DataError(f"{text}: cannot be read ({error.strerror}): name another source") from error
    raise DataError(
        f"no source {text!r}: name a folder of pictures, a picture, or one of 'simrec plugins list', such as "
        f"'fashion-mnist' or 'fashion-mnist:test'"
    )


def check_no_table(path: Path, text: str) -> None:
    """Raises DataError for a table that simrec doesn't read. text: its path as it was typed."""
    if save_as := OTHER_TABLES.get(path.suffix.lower()):
        raise DataError(f"{text}: cannot be read as a list: save it as {save_as}")


class Files:
    """Entries whose sources are the paths of picture files."""

    name: str
    root: str
    test: str | None = None
    reduced = False

    def read(self, entries: Sequence[Entry], spec: ImageSpec) -> Batch:
        """Decodes the files, several at a time."""
        from simrec.reading import read_files

        return read_files(entries, [path_of(entry.source) for entry in entries], spec)

    def contents(self, entries: Sequence[Entry]) -> list[str | None]:
        """The digests of the files, read one by one; None for a file that can't be read."""
        from simrec.reading import digests

        return digests([path_of(entry.source) for entry in entries])


class Single(Files):
    """One picture file."""

    def __init__(self, path: Path) -> None:
        self.name, self._path = str(path.absolute()), path
        self.root = printable(path.absolute().parent)

    def entries(self) -> Iterator[Entry]:
        """The single entry."""
        path = self._path.absolute()
        yield _entry(path.as_posix(), "", path.name, status_of(path))

    def read(self, entries: Sequence[Entry], spec: ImageSpec) -> Batch:
        """Decodes it. Raises ImageError if it can't be read, because nothing else is left."""
        batch = super().read(entries, spec)
        for _, error in batch.errors:
            raise error
        return batch


class Folder(Files):
    """The pictures in a folder and its sub-folders, in the order of their paths; the name of the first-level sub-folder
    is their label. Skips names that begin with a dot, and doesn't follow links to folders.
    """

    def __init__(self, path: Path, notice: Notice) -> None:
        self.name, self._path, self._notice = str(path.absolute()), path, notice
        self.root = printable(path.absolute())
        self.unlisted: set[str] = set()
        """Paths of the folders that could not be listed."""
        self._said = False
        self._endings = PICTURE_ENDINGS | (HEIF_ENDINGS if find_spec("pillow_heif") else frozenset())

    def entries(self) -> Iterator[Entry]:
        """Finds entries while they are read: only one folder's names are in memory at a time."""
        passed: Counter[str] = Counter()
        empty = True
        root = self._path.absolute().as_posix().rstrip("/")
        for within, name, status in self._walk(self._path, "", passed):
            label = within.partition("/")[0]
            yield _entry(f"{root}/{within and within + '/'}{name}", within, name, status, label)
            empty = False
        if passed and not self._said:  # once, however often this is called
            self._said = True
            self._notice(_summed_up(self._path, passed))
        if empty:
            raise EmptyError(
                f"{self._path}: no pictures in this folder: put PNG, JPEG, WebP, ... files there, labels as sub-folders"
            )

    def read(self, entries: Sequence[Entry], spec: ImageSpec) -> Batch:
        """Decodes the files; an entry that is a folder could not be listed, and is an error."""
        batch = super().read(entries, spec)
        return replace(batch, errors=[(entry, _error_of(entry, error)) for entry, error in batch.errors])

    def _walk(
        self, folder: Path, within: str, passed: Counter[str]
    ) -> Iterator[tuple[str, str, os.stat_result | None]]:
        """Pictures below a folder, each as the folders on the way, joined by '/', its name and the file's status; also
        each folder that can't be listed, whose pictures are unknown.
        """
        try:
            with os.scandir(folder) as listing:
                inside = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            if folder == self._path:
                raise DataError(f"{folder}: cannot be read ({error.strerror}): name another source") from error
            # List it, so that reading it reports what is wrong, as for a broken link.
            within, _, name = within.rpartition("/")
            self.unlisted.add(printable(folder.absolute()))
            yield within, name, None
            return
        self.unlisted.discard(printable(folder.absolute()))
        for entry in inside:
            ending = f".{entry.name.rpartition('.')[2].lower()}"
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from self._walk(folder / entry.name, f"{within}/{entry.name}" if within else entry.name, passed)
            elif entry.is_symlink() and (folder / entry.name).is_dir():  # False for a link to itself
                passed["links to folders"] += 1
            elif ending in self._endings:
                # List a broken link, so that reading it reports what is wrong; a pipe isn't a picture.
                if entry.is_symlink() or entry.is_file():
                    yield within, entry.name, status_of(entry)
                else:
                    passed["pipes or devices"] += 1
            elif ending in OTHER_ENDINGS | HEIF_ENDINGS:
                passed[ending] += 1


def _error_of(entry: Entry, error: ImageError) -> ImageError:
    """The error for an entry that can't be read, which may be a folder."""
    path = path_of(entry.source)
    if not path.is_dir():
        return error
    why = "when it was listed"
    try:
        os.scandir(path).close()
    except OSError as failure:
        why = str(failure.strerror)
    return ImageError(f"{entry.source}: this folder cannot be read ({why}): allow yourself to read it")


def path_of(source: str) -> Path:
    """The path that an entry's source names."""
    path = Path(source)
    if "%" in source and not path.exists():  # a name that isn't UTF-8: see `printable`
        return Path(os.fsdecode(unquote_to_bytes(source)))
    return path


def _entry(path: str, folder: str, name: str, status: os.stat_result | None, label: str = "") -> Entry:
    """A picture file's entry. path: the absolute path. folder: the part of it below the source's folder."""
    id_ = f"{folder}/{name}" if folder else name
    if not path.isascii():  # the other texts are parts of it
        path, folder, name, label, id_ = _utf8(path), _utf8(folder), _utf8(name), _utf8(label), _utf8(id_)
    fields: dict[str, Value] = {"folder": folder, "name": name}
    if status is not None:
        fields["bytes"] = status.st_size
        with suppress(ValueError, OverflowError, OSError):  # a clock may say anything
            days, seconds = divmod(int(status.st_mtime // 1), 86_400)
            fields["modified"] = f"{_date(days)}T{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}Z"
    return Entry(id_, path, label, stamp_of(status), fields)


@lru_cache(1024)
def _date(days: int) -> str:
    """The date `days` days after 1 January 1970."""
    year, month, day, *_ = time.gmtime(86_400 * days)
    return f"{year:04}-{month:02}-{day:02}"


def status_of(entry: os.DirEntry[str] | Path) -> os.stat_result | None:
    """A file's status; None for a broken link, or for a file that has just disappeared."""
    try:
        return entry.stat()
    except OSError:
        return None


def stamp_of(status: os.stat_result | None) -> str:
    """Size and modification time; "" for a file that isn't there."""
    return "" if status is None else f"{status.st_size}-{status.st_mtime_ns}"


def _summed_up(folder: Path, passed: Counter[str]) -> str:
    """What was skipped in a folder, as one line."""
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(passed.items()))
    remedy = ""
    if HEIF_ENDINGS & set(passed):
        remedy = " ('pip install \"simrec[heif]\"' reads .heic)"
    return f"{folder}: left out what simrec doesn't read: {kinds}{remedy}"


def printable(path: Path) -> str:
    """The path with '/' between its parts: see `_utf8`."""
    return _utf8(path.as_posix())


def _utf8(path: str) -> str:
    """The path; if it isn't UTF-8, percent-encoded, so that nothing is lost."""
    if not path.isascii():
        try:
            path.encode()
        except UnicodeEncodeError:
            return quote_from_bytes(os.fsencode(path))
    return path
