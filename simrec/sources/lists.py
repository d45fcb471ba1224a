"""Lists of pictures: CSV, JSON Lines or Parquet files whose column `path` names the pictures' files.

    .csv .tsv    UTF-8; the first line names the columns, which are separated by commas, semicolons or tabs; spaces
                 around a value are no part of it
    .jsonl       UTF-8, a JSON object on each line; empty lines are skipped
    .parquet     columns of numbers, texts, dates or truth values

`path` is relative to the list's folder, or absolute; a line without a path is skipped. `id` (else the path) and `label`
are the items' own; every other column becomes a field. A list from Windows is read everywhere: where no file has the
name photos\\a.png, photos/a.png is meant, and the id has / on every system.

A column's type follows from all its values in the whole file: whole numbers of 64 bits, numbers, or texts; an empty
cell or null is not a value and fits any type. A column with numbers and texts becomes texts, with the numbers as they
are written, and a notice says so. In a CSV file a value is a number if JSON would write it so: 007 and 1,5 are texts.
Nothing is guessed, as 1.259 is more than a thousand in some countries: a notice says how to write amounts such as 1,50.
Whole numbers of more than 64 bits are texts too: they are article numbers, not amounts. JSON's and Parquet's truth
values become 1 and 0; in a CSV file `true` is a text.

A list may have any length: it is read twice, and only a batch of its lines is in memory at a time.
"""

from __future__ import annotations

import codecs
import csv
import io
import math
import re
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TextIO

from msgspec import DecodeError
from msgspec.json import Decoder

from simrec.contracts import Batch, Entry, ImageSpec, Notice, Value
from simrec.errors import DataError, EmptyError, ImageError, reason
from simrec.files import opened
from simrec.sources.files import Files, check_no_table, printable, stamp_of, status_of

NAMES = ("path", "id", "label")
"""The columns of a list that aren't fields of its items."""

COLUMNS = 1000
"""Maximum number of columns."""

LONGEST_NAME = 1000
"""Maximum characters of a column's name."""

LONGEST_LINE = 1 << 20
"""Maximum characters of a line."""

ROWS = 1024
"""How many rows of a Parquet file are in memory at a time."""

SAID = 10
"""How many columns that are kept as text get a notice of their own."""

_WHOLE = re.compile(r"-?(0|[1-9]\d{0,18})", re.ASCII)
_DECIMAL = re.compile(r"-?(0|[1-9]\d{0,300})(\.\d+)?([eE][+-]?\d{1,2})?", re.ASCII)

_CURRENCY = (
    r"([$£¥€₩₪₫₱₴₹₺₽]|AUD|BRL|CAD|CHF|CNY|CZK|DKK|EUR|GBP|HUF|INR|JPY|KRW|MXN|NOK|NZD|PLN|RON|SEK|TRY|USD|ZAR|Euro|Fr\.|"
    r"Ft|Kč|kr\.?|zł)"
)
_AMOUNT = re.compile(
    rf"({_CURRENCY}\s?)?[-+−]?(0|[1-9]\d{{0,2}}([.,'’\s]\d{{3}})+|[1-9]\d{{0,14}})([.,](\d+|[-–—]{{1,2}}))?(\s?{_CURRENCY})?"
)
"""A number in any notation, also with a currency: 1.259,00 or 12,- or € 1.50."""

_ELSEWHERE = re.compile(r"(?P<drive>[a-z]):/|(?P<scheme>[a-z][a-z0-9+.-]+):/", re.ASCII | re.IGNORECASE)
"""What names a file on Windows or an address, relative to a folder, with its slashes as `printable` writes them."""

_LIKELY = {
    "path": re.compile(r"path|file|image|picture|photo", re.IGNORECASE).search,
    "id": re.compile(r"(.*[\W_])?id", re.IGNORECASE).fullmatch,
}
"""What other names of columns that a list needs look like."""

_SEPARATOR = re.compile(r'"?sep=([,;\t])"?\s*', re.IGNORECASE)
"""The first line with which Excel is told how values are separated."""

_MAKERS: dict[str, type[int] | type[float] | type[str]] = {"int64": int, "double": float, "string": str}

Row = Mapping[str, Value]


class _Table(Protocol):
    """A file's rows.

    columns: as far as they are known before everything is read. texts: whether numbers are written as texts. unit: what
    messages call its rows.
    """

    columns: Sequence[str]
    texts: bool
    unit: str

    def rows(self) -> Iterator[tuple[int, Row]]:
        """Each row with its number in the file, from 1."""
        ...


class List(Files):
    """The pictures that the list at that path names, in its order."""

    def __init__(self, text: str, *, data_dir: Path | None, notice: Notice) -> None:
        self._path, self._text, self._notice = Path(text), text, notice
        self.name = f"list:{self._path.absolute()}"
        self.root = printable(self._path.absolute().parent)
        self._kinds: dict[str, str] | None = None
        self._first = threading.Lock()  # a build counts the entries in another thread, and notices come once
        with _opened(self._path, text) as table:
            _check_has("path", table, text)

    def entries(self) -> Iterator[Entry]:
        """An entry for each row that has a path."""
        with self._first:
            if self._kinds is None:
                self._kinds = _kinds(self._path, self._text, self._notice)
        empty = True
        with _opened(self._path, self._text) as table:
            for number, row in table.rows():
                if row.get("path") in (None, ""):
                    continue
                empty = False
                named = _text(row, "path", number, table, self._text)
                path = self._path.parent / named
                status = status_of(path)
                if status is None and "\\" in named:
                    path = self._path.parent / _slashed(named)
                    status = status_of(path)
                yield Entry(
                    id=_id_of(row, number, table, self._text),
                    source=printable(path.absolute()),
                    label=_text(row, "label", number, table, self._text),
                    stamp=stamp_of(status),
                    fields=_fields(row, self._kinds),
                )
        if empty:
            raise EmptyError(f"{self._text}: no pictures in this list: write their paths into its column 'path'")

    def places_of(self, id_: str) -> str:
        """Which lines of the list have that id, for an error."""
        return _places_of(id_, self._path, self._text, pathless=False)

    def read(self, entries: Sequence[Entry], spec: ImageSpec) -> Batch:
        """Decodes the files; an error says if what the list names can't be a file of this system."""
        batch = super().read(entries, spec)
        return replace(batch, errors=[(entry, self._error_of(entry, error)) for entry, error in batch.errors])

    def _error_of(self, entry: Entry, error: ImageError) -> ImageError:
        """The error for an entry that can't be read, which may have an address or another system's path."""
        kind = _ELSEWHERE.match(entry.source.removeprefix(self.root).lstrip("/"))
        if entry.stamp or not kind:  # with a stamp, there is such a file
            return error
        if kind["drive"]:
            why = "a path of Windows: write the file's path on this computer"
        elif kind["scheme"].lower() == "file":
            why = "an address: write the file's path, without file://"
        else:
            why = "a web address: download the picture, and write its file's path"
        return ImageError(f"{entry.source}: {why}")


def rows_of(source: str, notice: Notice) -> Iterator[tuple[str, dict[str, Value]]]:
    """The ids and fields of a list's rows. The list needs no column `path`; without ids, paths are used as ids.

    source: its path, alone or after `list:`. Raises DataError if it isn't a list, and for an id that it has twice.
    """
    text = source.removeprefix("list:")
    path = Path(text)
    with _opened(path, text) as table:
        key = "path" if "path" in table.columns and "id" not in table.columns else "id"
        _check_has(key, table, text)
    kinds = _kinds(path, text, notice)
    seen: set[int] = set()  # of hashes, which take a fraction of the ids' memory
    with _opened(path, text) as table:
        for number, row in table.rows():
            id_ = _id_of(row, number, table, text)
            if not id_:
                continue
            if hash(id_) in seen:
                places = _places_of(id_, path, text, pathless=True)
                raise DataError(
                    f"{text}: the id {id_!r:.100} is there more than once ({places}): give each item its own, or list "
                    f"it once"
                )
            seen.add(hash(id_))
            yield id_, _fields(row, kinds)


def _slashed(path: str) -> str:
    """The path with / where Windows may have written a backslash."""
    return path.replace("\\", "/")


def _id_of(row: Row, number: int, table: _Table, list_: str) -> str:
    """A row's id, else its path, the same on all systems and whether or not its file is there; "" for neither."""
    id_ = _text(row, "id", number, table, list_)
    if not id_ and (path := _text(row, "path", number, table, list_)):
        id_ = printable(Path(_slashed(path)))
    return id_


def _places_of(id_: str, path: Path, list_: str, *, pathless: bool) -> str:
    """Which lines of a list have that id. pathless: count also lines without a path."""
    with _opened(path, list_) as table:
        numbers = [
            str(number) for number, row in table.rows()
            if _id_of(row, number, table, list_) == id_ and (pathless or row.get("path") not in (None, ""))
        ]  # fmt: skip
        return f"{table.unit}s {', '.join(numbers[:SAID])}{' ...' if len(numbers) > SAID else ''}"


def _text(row: Row, name: str, number: int, table: _Table, list_: str) -> str:
    """A row's path, id or label, "" for none."""
    value = row.get(name)
    if name == "path" and not isinstance(value, str | None):
        raise DataError(f"{list_}: {table.unit} {number}: its path is the number {value}: write a file's path")
    if isinstance(value, float) and value.is_integer():  # pandas writes whole numbers so if some are missing
        value = int(value)
    return "" if value is None else str(value)


def _fields(row: Row, kinds: Mapping[str, str]) -> dict[str, Value]:
    return {
        name: None if (value := row.get(name)) in (None, "") else _MAKERS[kind](value) for name, kind in kinds.items()
    }


def _check_has(name: str, table: _Table, list_: str) -> None:
    if name not in table.columns:
        columns = ", ".join(table.columns[:SAID]) + (" ..." if len(table.columns) > SAID else "")
        there = "its first row names" if table.unit == "line" else "this file has"
        likely = next(
            (f": rename {column!r:.100} to {name!r}" for column in table.columns if _LIKELY[name](column)), ""
        )
        raise DataError(f"{list_}: a list needs a column {name!r}, {there} {columns or 'none'}{likely}")


def _kinds(path: Path, list_: str, notice: Notice) -> dict[str, str]:
    """Each field's type, from all its values; notices say which columns with numbers are kept as text, and why."""
    kinds: dict[str, str | None] = {}
    numbers: set[str] = set()
    texts: dict[str, tuple[int, Value]] = {}
    amounts: Counter[str] = Counter()  # texts that are amounts, less the others
    with _opened(path, list_) as table:
        kinds |= dict.fromkeys(name for name in table.columns if name not in NAMES)
        for number, row in table.rows():
            for name, value in row.items():
                if value in (None, "") or name in NAMES:
                    kinds.setdefault(name, None)
                    continue
                kind = _kind(value, table.texts)
                if kind == "string":
                    texts.setdefault(name, (number, value))
                    amounts[name] += 1 if table.texts and _is_amount(value) else -1
                else:
                    numbers.add(name)
                before = kinds.get(name)
                if before is None or kind == "string" or (before, kind) == ("int64", "double"):
                    kinds[name] = kind
            if len(kinds) > COLUMNS:
                raise _too_many(list_, len(kinds))
        # Where most texts are amounts, the others are probably meant to be.
        surprising = [name for name in kinds if name in texts and (name in numbers or amounts[name] > 0)]
        for name in surprising[:SAID]:
            number, value = texts[name]
            why = ", which is not a number" if isinstance(value, str) else ", which has more than 64 bits"
            if _is_amount(value):
                why = ": write its numbers like 1234.50 to compare them"
            notice(f"{list_}: column {name!r:.100} is kept as text: {table.unit} {number} has {value!r:.50}{why}")
        if len(surprising) > SAID:
            notice(f"{list_}: {len(surprising) - SAID:,} more columns have numbers, and are kept as text")
    return {name: kind or "int64" for name, kind in kinds.items() if name not in NAMES}


def _is_amount(value: Value) -> bool:
    """Whether it is a text that a person would read as a number."""
    return isinstance(value, str) and bool(_AMOUNT.fullmatch(value))


def _kind(value: Value, texts: bool) -> str:
    """The narrowest of "int64", "double" and "string" for a value."""
    if isinstance(value, int):
        return "int64" if -(2**63) <= value < 2**63 else "string"
    if isinstance(value, float):
        return "double"
    if not texts or not isinstance(value, str):
        return "string"
    if _WHOLE.fullmatch(value):
        return "int64" if -(2**63) <= int(value) < 2**63 else "string"
    return "double" if _DECIMAL.fullmatch(value) and not value.lstrip("-").isdigit() else "string"


def _too_many(list_: str, count: int) -> DataError:
    return DataError(f"{list_}: {count:,} columns, {COLUMNS:,} are the limit: leave some out")


@contextmanager
def _opened(path: Path, list_: str) -> Iterator[_Table]:
    """A list, to be read in the block. Raises DataError, one line, for whatever is wrong with it."""
    ending = path.suffix.lower()
    kind = {".jsonl": "a file of JSON lines in UTF-8", ".parquet": "a Parquet file"}.get(ending, "a CSV file in UTF-8")
    errors: tuple[type[Exception], ...] = (OSError,)
    if ending == ".parquet":
        import pyarrow as pa

        errors += (pa.ArrowException,)
    try:
        with opened(path) as data:
            check_no_table(path, list_)
            if ending == ".parquet":
                yield _Parquet(data, list_)
            else:
                with io.TextIOWrapper(data, _encoding(data), newline="") as text:
                    yield (_JsonLines if ending == ".jsonl" else _Csv)(text, list_)
    except UnicodeDecodeError as error:
        save_as = "as text in UTF-8" if ending == ".jsonl" else "as 'CSV UTF-8'"
        raise DataError(f"{list_}: cannot be read as a list (it is not in UTF-8): save it {save_as}") from error
    except errors as error:
        why = getattr(error, "strerror", None) or " ".join(reason(error).split())[:200]
        raise DataError(f"{list_}: cannot be read as a list ({why}): name {kind}") from error


def _encoding(data: BinaryIO) -> str:
    """UTF-8, unless a text says at its beginning that it is UTF-16, as Excel's "Unicode text" does."""
    mark = data.read(2)
    data.seek(0)
    return "utf-16" if mark in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"


def _check_columns(columns: Sequence[str], list_: str) -> None:
    """Raises DataError for too many columns, and for names that are the same or too long."""
    if len(columns) > COLUMNS:
        raise _too_many(list_, len(columns))
    if len(set(columns)) < len(columns):
        name = next(name for name in columns if columns.count(name) > 1)
        raise DataError(f"{list_}: more than one of its columns is called {name!r:.100}: give each its own name")
    for name in columns:
        if len(name) > LONGEST_NAME:
            raise DataError(f"{list_}: the name {name!r:.100} of a column is longer than {LONGEST_NAME:,} characters")


def _lines(file: TextIO, list_: str) -> Iterator[tuple[int, str]]:
    """The lines of a text, each with its number. Raises DataError for a line that a text can't have."""
    number = 0
    while line := file.readline(LONGEST_LINE + 1):
        number += 1
        if len(line) > LONGEST_LINE:
            raise DataError(f"{list_}: line {number} is longer than {LONGEST_LINE:,} characters: is it a list?")
        if "\0" in line:
            raise DataError(f"{list_}: line {number} has a NUL byte, which no text has: save it as text in UTF-8")
        yield number, line


class _Csv:
    unit, texts = "line", True

    def __init__(self, file: TextIO, list_: str) -> None:
        self._list = list_
        lines = (line for _, line in _lines(file, list_))
        first = next(lines, "")
        separator = _SEPARATOR.fullmatch(first)
        before = [""] if separator else []  # in place of that line, so that line numbers stay right
        first = next(lines, "") if separator else first
        self._reader = csv.reader(
            chain(before, [first], lines),
            strict=True, skipinitialspace=True, delimiter=separator[1] if separator else max(",;\t", key=first.count),
        )  # fmt: skip
        rows = self._rows()
        for _ in before:
            next(rows)
        self._names = next(rows, [])
        self.columns: Sequence[str] = [name for name in self._names if name]
        _check_columns(self.columns, list_)

    def rows(self) -> Iterator[tuple[int, Row]]:
        for cells in self._rows():
            if any(cells[len(self._names) :]):
                raise DataError(
                    f"{self._list}: line {self._reader.line_num} has {len(cells)} values for {len(self._names)} "
                    f"columns: put a value that has the separator in it in double quotes"
                )
            named = zip(self._names, cells, strict=False)
            yield self._reader.line_num, {name: cell for name, cell in named if name and cell}

    def _rows(self) -> Iterator[list[str]]:
        """The values of each row, also of the first."""
        while True:
            start = self._reader.line_num + 1
            try:
                row = next(self._reader, None)
            except csv.Error as error:
                raise DataError(
                    f"{self._list}: cannot be read as a list (line {start}: {error}): close its quotes, and write a "
                    f"quote within quotes twice"
                ) from error
            if row is None:
                return
            yield [cell.strip() for cell in row]


class _JsonLines:
    unit, texts = "line", False

    def __init__(self, file: TextIO, list_: str) -> None:
        self._objects = _objects(file, list_)
        self._first = next(self._objects, None)
        self.columns: Sequence[str] = list(self._first[1]) if self._first else []

    def rows(self) -> Iterator[tuple[int, Row]]:
        if self._first:
            yield self._first
        yield from self._objects


def _objects(file: TextIO, list_: str) -> Iterator[tuple[int, Row]]:
    """The objects in JSON lines, each with its line's number."""
    decoder = Decoder(dict)
    for number, line in _lines(file, list_):
        if line.isspace():
            continue
        try:
            row = decoder.decode(line)
        except (DecodeError, RecursionError) as error:
            why = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
            raise DataError(f"{list_}: line {number} is no JSON object ({why}): correct or remove it") from error
        _check_columns(list(row), list_)
        for name, value in row.items():
            if isinstance(value, list | dict):
                raise DataError(
                    f"{list_}: line {number}: {name!r:.100} holds a list or an object, and a field is one value: leave "
                    f"it out"
                )
            if isinstance(value, str) and "\0" in value:
                raise DataError(f"{list_}: line {number}: {name!r:.100} holds a NUL byte, which no text has")
        yield number, {name: int(value) if isinstance(value, bool) else value for name, value in row.items()}


class _Parquet:
    unit, texts = "row", False

    def __init__(self, file: BinaryIO, list_: str) -> None:
        import pyarrow.parquet as pq

        self._list = list_
        self._file = pq.ParquetFile(file)
        self.columns: Sequence[str] = list(self._file.schema_arrow.names)
        _check_columns(self.columns, list_)

    def _read_as(self, field: Any) -> Any:
        """The type that a column's values are converted to."""
        import pyarrow as pa
        from pyarrow import types

        kind = field.type.value_type if types.is_dictionary(field.type) else field.type
        if types.is_integer(kind):
            return kind
        if types.is_boolean(kind):
            return pa.int8()
        if types.is_floating(kind) or types.is_decimal(kind):
            return pa.float64()
        text = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
        if text or types.is_date(kind) or types.is_timestamp(kind):
            return pa.string()
        if types.is_null(kind):
            return pa.null()
        raise DataError(
            f"{self._list}: its column {field.name!r:.100} holds {str(kind)[:100]}: leave it out, or make it numbers "
            f"or texts"
        )

    def rows(self) -> Iterator[tuple[int, Row]]:
        types = [self._read_as(field) for field in self._file.schema_arrow]
        number = 0
        for batch in self._file.iter_batches(ROWS):
            columns = [column.cast(type_).to_pylist() for column, type_ in zip(batch.columns, types, strict=True)]
            for values in zip(*columns, strict=True):
                number += 1
                row = {name: _number(value) for name, value in zip(self.columns, values, strict=True)}
                if any(isinstance(value, str) and "\0" in value for value in values):
                    raise DataError(f"{self._list}: row {number} holds a NUL byte, which no text has")
                yield number, row


def _number(value: Value) -> Value:
    """The value; None for NaN, which pandas writes for missing values."""
    return None if isinstance(value, float) and math.isnan(value) else value
