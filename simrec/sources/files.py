"""Pictures in files: a folder of them, a single one, or a list that names them."""

from __future__ import annotations

import csv
import io
import os
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote_from_bytes, unquote_to_bytes

from simrec.contracts import Batch, Entry, ImageSpec, Notice, Source, Value
from simrec.errors import DataError, reason
from simrec.files import opened

PICTURE_ENDINGS = frozenset(
    (".avif", ".bmp", ".gif", ".ico", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm",
     ".tga", ".tif", ".tiff", ".webp")
)  # fmt: skip

HEIF_ENDINGS = frozenset((".heic", ".heif", ".hif"))
"""Read where pillow-heif is installed."""

OTHER_ENDINGS = frozenset(
    (".3fr", ".ai", ".arw", ".cr2", ".cr3", ".dng", ".eps", ".erf", ".exr", ".hdr", ".jxl", ".jxr", ".kdc", ".nef",
     ".nrw", ".orf", ".pef", ".psb", ".psd", ".raf", ".raw", ".rw2", ".srw", ".svg", ".svgz", ".wdp", ".xcf")
)  # fmt: skip
"""Pictures too, of kinds that simrec doesn't read: raw files of cameras, drawings, projects of picture editors."""

_WHOLE = re.compile(r"-?(0|[1-9]\d{0,17})")
_DECIMAL = re.compile(r"-?(0|[1-9]\d{0,300})(\.\d+)?([eE][+-]?\d{1,2})?")
"""Numbers as a list writes them. An article number such as 007 is none."""

NAMES = ("path", "id", "label")
"""The columns of a list that aren't fields of its items."""


def folder(text: str, *, data_dir: Path | None, notice: Notice) -> Source:
    """The pictures in the folder of that path, labels as sub-folders, or the one picture of that path."""
    path = Path(text)
    try:
        if text and path.is_dir():
            return Folder(path, notice)
        if path.is_file():
            return Single(path)
    except OSError as error:  # a name too long, a folder closed to us
        raise DataError(f"{text}: cannot be read ({error.strerror}): name another source") from error
    raise DataError(
        f"no source {text!r}: name a folder of pictures, a picture, or one of 'simrec plugins list', such as "
        f"'fashion-mnist' or 'fashion-mnist:test'"
    )


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
        """The digests of the files, read one after the other; None for one that can't be read."""
        from simrec.reading import digests

        return digests([path_of(entry.source) for entry in entries])


class Single(Files):
    """One picture file."""

    def __init__(self, path: Path) -> None:
        self.name, self._path = str(path.absolute()), path
        self.root = _printable(path.absolute().parent)

    def entries(self) -> Iterator[Entry]:
        """The one."""
        path = self._path.absolute()
        yield _entry(path.as_posix(), "", path.name, _status(path))

    def read(self, entries: Sequence[Entry], spec: ImageSpec) -> Batch:
        """Decodes it. Raises ImageError when it can't be read: nothing is left without it."""
        batch = super().read(entries, spec)
        for _, error in batch.errors:
            raise error
        return batch


class Folder(Files):
    """The pictures in a folder and the folders in it, in the order of their paths; those of a first-level folder are
    labelled by its name. Names that begin with a dot are passed over, and links to folders aren't followed.
    """

    def __init__(self, path: Path, notice: Notice) -> None:
        self.name, self._path, self._notice = str(path.absolute()), path, notice
        self.root = _printable(path.absolute())
        self._said = False
        self._endings = PICTURE_ENDINGS | (HEIF_ENDINGS if find_spec("pillow_heif") else frozenset())

    def entries(self) -> Iterator[Entry]:
        """Found as they are asked for: one folder's names are in memory at a time."""
        passed: Counter[str] = Counter()
        found = False
        root = self._path.absolute().as_posix().rstrip("/")
        for within, name, status in self._walk(self._path, "", passed):
            label = within.partition("/")[0]
            yield _entry(f"{root}/{within and within + '/'}{name}", within, name, status, label)
            found = True
        if passed and not self._said:  # once, however often they are listed
            self._said = True
            self._notice(_summed_up(self._path, passed))
        if not found:
            raise DataError(
                f"{self._path}: no pictures in this folder: it needs PNG, JPEG, WebP, ... files, labels as sub-folders"
            )

    def _walk(
        self, folder: Path, within: str, passed: Counter[str]
    ) -> Iterator[tuple[str, str, os.stat_result | None]]:
        """Pictures below a folder: of each the folders on the way, joined by '/', its name and the file's status."""
        try:
            with os.scandir(folder) as listing:
                inside = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            if folder == self._path:
                raise DataError(f"{folder}: cannot be read ({error.strerror}): name another source") from error
            passed[f"folders that cannot be read ({error.strerror})"] += 1
            return
        for entry in inside:
            ending = f".{entry.name.rpartition('.')[2].lower()}"
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from self._walk(folder / entry.name, f"{within}/{entry.name}" if within else entry.name, passed)
            elif entry.is_symlink() and (folder / entry.name).is_dir():  # which is False of a link to itself
                passed["links to folders"] += 1
            elif ending in self._endings:
                # A link to nothing is listed, so that reading it says what is wrong; a pipe is no picture.
                if entry.is_symlink() or entry.is_file():
                    yield within, entry.name, _status(entry)
                else:
                    passed["pipes or devices"] += 1
            elif ending in OTHER_ENDINGS | HEIF_ENDINGS:
                passed[ending] += 1


class List(Files):
    """The pictures that a CSV file of that path names, in its order; commas, semicolons or tabs separate its columns.

    Its first line names the columns: `path` (from the file's folder on, or absolute), and as it likes `id` (else the
    path) and `label`; the others are fields of the items. A column is numbers where each of its values is one.
    """

    def __init__(self, text: str, *, data_dir: Path | None, notice: Notice) -> None:
        self._path, self._text = Path(text), text
        self.name = f"list:{self._path.absolute()}"
        self.root = _printable(self._path.absolute().parent)
        self._kinds: dict[str, type[str] | type[int] | type[float]] | None = None
        with self._table() as table:
            columns = table.fieldnames or []
        if "path" not in columns:
            raise DataError(
                f"{text}: a list needs a column 'path', its first line names {', '.join(columns) or 'none'}"
            )

    def entries(self) -> Iterator[Entry]:
        """Its lines that name a path."""
        if self._kinds is None:
            self._kinds = self._column_kinds()
        found = False
        with self._table() as table:
            for row in table:
                if not row["path"]:
                    continue
                found = True
                path = self._path.parent / row["path"]
                yield Entry(
                    id=row.get("id") or _printable(Path(row["path"])),
                    source=_printable(path.absolute()),
                    label=row.get("label") or "",
                    stamp=_stamp(_status(path)),
                    fields={name: kind(row[name]) if row[name] else None for name, kind in self._kinds.items()},
                )
        if not found:
            raise DataError(f"{self._text}: no pictures in this list: write their paths into its column 'path'")

    def _column_kinds(self) -> dict[str, type[str] | type[int] | type[float]]:
        """What each field's values are, from all of them."""
        with self._table() as table:
            kinds: dict[str, type[str] | type[int] | type[float]] = {
                name: int for name in table.fieldnames or [] if name and name not in NAMES
            }
            for row in table:
                for name, kind in kinds.items():
                    if row[name]:
                        kinds[name] = _kind(row[name], kind)
        return kinds

    @contextmanager
    def _table(self) -> Iterator[csv.DictReader[str]]:
        try:
            with io.TextIOWrapper(opened(self._path), "utf-8-sig", newline="") as file:
                first = file.readline()
                file.seek(0)
                yield csv.DictReader(file, strict=True, delimiter=max(",;\t", key=first.count))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            why = getattr(error, "strerror", None) or reason(error)
            raise DataError(f"{self._text}: cannot be read as a list ({why}): name a CSV file in UTF-8") from error


def _kind(text: str, kind: type[str] | type[int] | type[float]) -> type[str] | type[int] | type[float]:
    """The narrowest of int, float and str, from `kind` on, that the text can be read as."""
    if kind is int and _WHOLE.fullmatch(text):
        return int
    return float if kind is not str and _DECIMAL.fullmatch(text) else str


def path_of(source: str) -> Path:
    """The path that an entry's source names."""
    path = Path(source)
    if "%" in source and not path.exists():  # a name that is no UTF-8: see `_printable`
        return Path(os.fsdecode(unquote_to_bytes(source)))
    return path


def _entry(path: str, folder: str, name: str, status: os.stat_result | None, label: str = "") -> Entry:
    """A picture file's entry. path: the whole one, folder: the part that is below the source's."""
    fields: dict[str, Value] = {"folder": _utf8(folder), "name": _utf8(name)}
    if status is not None:
        fields["bytes"] = status.st_size
        with suppress(ValueError, OverflowError, OSError):  # a clock may say anything
            year, month, day, hour, minute, second, *_ = time.gmtime(status.st_mtime)
            fields["modified"] = f"{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z"
    return Entry(_utf8(f"{folder}/{name}" if folder else name), _utf8(path), _utf8(label), _stamp(status), fields)


def _status(entry: os.DirEntry[str] | Path) -> os.stat_result | None:
    """None for a link to nothing, or a file that has just gone."""
    try:
        return entry.stat()
    except OSError:
        return None


def _stamp(status: os.stat_result | None) -> str:
    """Size and time of modification; "" for a file that isn't there."""
    return "" if status is None else f"{status.st_size}-{status.st_mtime_ns}"


def _summed_up(folder: Path, passed: Counter[str]) -> str:
    """What was passed over in a folder, in a line."""
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(passed.items()))
    remedy = ""
    if HEIF_ENDINGS & set(passed):
        remedy = " ('pip install \"simrec[heif]\"' reads .heic)"
    return f"{folder}: left out what simrec doesn't read: {kinds}{remedy}"


def _printable(path: Path) -> str:
    """The path with '/' between its parts: see `_utf8`."""
    return _utf8(path.as_posix())


def _utf8(path: str) -> str:
    """The path; one that is no UTF-8 is percent-encoded, so that nothing is lost."""
    if not path.isascii():
        try:
            path.encode()
        except UnicodeEncodeError:
            return quote_from_bytes(os.fsencode(path))
    return path
