"""Lists that name pictures and say what else is known of them: CSV, JSON Lines and Parquet files.

Each is read as a stream, twice: a column's type is that of all its values. Whole numbers, numbers, else text; a column
of numbers in which one value is a text is text as a whole, which is said. True and false are 1 and 0.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simrec.catalogue.fields import LARGEST
from simrec.contracts import Entry, Notice, Value
from simrec.errors import DataError, reason
from simrec.files import opened
from simrec.sources.files import Files, printable, stamp_of, status_of

NAMES = ("path", "id", "label")
"""The columns that aren't fields of the items."""

LONGEST = 1 << 20
"""Characters of the longest line."""

BATCH = 4096
"""Rows of a Parquet file that are read at a time."""

_WHOLE = re.compile(r"-?(0|[1-9]\d{0,17})")
_DECIMAL = re.compile(r"-?(0|[1-9]\d{0,300})(\.\d+)?([eE][+-]?\d{1,2})?")
"""Numbers as a CSV file writes them. An article number such as 007 is none."""

Row = tuple[int, Mapping[str, Value]]
"""A row's number in its file, from 1 on, and its values; "" and None are empty ones. 0: only names columns."""


class List(Files):
    """The pictures that a file of that path names, in its order.

    Its column `path` names them, from the file's folder on or absolute; `id` (else the path) and `label` are as in
    every source, and the others are fields of the items. In a CSV file commas, semicolons or tabs separate the columns
    that its first line names.
    """

    def __init__(self, text: str, *, data_dir: Path | None, notice: Notice, need: str = "path") -> None:
        self._path, self._text, self._notice = Path(text), text, notice
        self.name = f"list:{self._path.absolute()}"
        self.root = printable(self._path.absolute().parent)
        self._columns: dict[str, _Column] | None = None
        names = list(next((row for _, row in self._rows()), {}))
        if need not in names and not (need == "id" and "path" in names):
            there = ", ".join(names[:20]) or "none"
            raise DataError(f"{text}: a list needs a column {need!r}, its first row names {there:.500}")

    def entries(self) -> Iterator[Entry]:
        """Its rows that name a path."""
        found = False
        for row in self._typed():
            if path := row.get("path"):
                found = True
                place = self._path.parent / str(path)
                yield Entry(
                    id=_text(row.get("id")) or printable(Path(str(path))),
                    source=printable(place.absolute()),
                    label=_text(row.get("label")),
                    stamp=stamp_of(status_of(place)),
                    fields={name: value for name, value in row.items() if name not in NAMES},
                )
        if not found:
            raise DataError(f"{self._text}: no pictures in this list: write their paths into its column 'path'")

    def by_id(self) -> Iterator[tuple[str, Mapping[str, Value]]]:
        """The fields of all rows, by their ids."""
        for row in self._typed():
            id_ = _text(row.get("id")) or _text(row.get("path"))
            yield id_, {name: value for name, value in row.items() if name not in NAMES}

    def _typed(self) -> Iterator[dict[str, Value]]:
        """Its rows, every column of one type."""
        if self._columns is None:
            self._columns = self._inferred()
        columns = self._columns
        for number, row in self._rows():
            if number:
                yield {
                    name: _text(row.get(name)) if name in NAMES else column.value(row.get(name))
                    for name, column in columns.items()
                }

    def _inferred(self) -> dict[str, _Column]:
        columns: dict[str, _Column] = {}
        for number, row in self._rows():
            for name, value in row.items():
                columns.setdefault(name, _Column()).add(number, value)
            if len(columns) > LARGEST:
                raise DataError(f"{self._text}: more than {LARGEST:,} columns: leave some out")
        for name, column in columns.items():
            if column.text and column.number is not None and name not in NAMES:
                line, value = column.text
                self._notice(f"{self._text}: column {name!r} is text, since row {line:,} has {value!r:.60}.")
        return columns

    def _rows(self) -> Iterator[Row]:
        with self._explained():
            ending = self._path.suffix.lower()
            rows = _json_rows if ending == ".jsonl" else _parquet_rows if ending == ".parquet" else _csv_rows
            for number, row in rows(self._path):
                for name, value in row.items():
                    if isinstance(value, str) and "\0" in value:
                        raise _ListError(f"row {number:,} has a NUL in column {name!r:.60}")
                yield number, row

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except _ListError as error:
            raise DataError(f"{self._text}: {error}: correct it there") from error
        except (OSError, ValueError, csv.Error, RecursionError) as error:
            why = getattr(error, "strerror", None) or reason(error)
            raise DataError(
                f"{self._text}: cannot be read as a list ({why:.300}): name a CSV file in UTF-8, JSON Lines or Parquet"
            ) from error


class _ListError(Exception):
    """What is wrong in a list that can be read; where, for a person."""


def rows_of(source: str, notice: Notice) -> Iterator[tuple[str, Mapping[str, Value]]]:
    """The fields that a list has, by ids: those of its column `id`, else its paths. Raises DataError as `List` does."""
    return List(source.removeprefix("list:"), data_dir=None, notice=notice, need="id").by_id()


@dataclass
class _Column:
    """What is known of a column's values. whole: all numbers are; number: the first row with one; text: the first row
    with a text, and that.
    """

    whole: bool = True
    number: int | None = None
    text: tuple[int, str] | None = None

    def add(self, row: int, value: Value) -> None:
        if value is None or value == "":
            return
        number = _number(value)
        if number is None:
            self.text = self.text or (row, str(value))
            return
        self.number = self.number or row
        self.whole = self.whole and isinstance(number, int)

    def value(self, value: Value) -> Value:
        """A value as the column's type has it."""
        if value is None or value == "":
            return None
        if self.text:
            return _text(value)
        number = _number(value)
        return number if self.whole or number is None else float(number)


def _number(value: Value) -> int | float | None:
    """The number that a value is, None for a text."""
    if isinstance(value, str):
        if _WHOLE.fullmatch(value):
            return int(value)
        return float(value) if _DECIMAL.fullmatch(value) else None
    return int(value) if isinstance(value, bool) else value


def _text(value: Value) -> str:
    return "" if value is None else str(value)


def _csv_rows(path: Path) -> Iterator[Row]:
    with io.TextIOWrapper(opened(path), "utf-8-sig", newline="") as file:
        first = file.readline(LONGEST)
        file.seek(0)
        table = csv.reader(file, strict=True, delimiter=max(",;\t", key=first.count))
        names = next(table, [])
        if len(names) > LARGEST + len(NAMES):
            raise _ListError(f"{len(names):,} columns are more than {LARGEST:,}")
        if len(set(names)) < len(names):
            raise _ListError(f"it has the column {max(names, key=names.count)!r:.60} more than once")
        yield 0, dict.fromkeys(filter(None, names))
        for number, values in enumerate(table, 1):
            if len(values) > len(names):
                raise _ListError(f"row {number:,} has {len(values):,} values for {len(names):,} columns")
            if values:
                yield number, {name: value for name, value in zip(names, values, strict=False) if name}


def _json_rows(path: Path) -> Iterator[Row]:
    from msgspec.json import Decoder

    decoder = Decoder(dict[str, str | int | float | bool | None])
    with opened(path) as file:
        number = 0
        while line := file.readline(LONGEST + 1):
            number += 1
            if len(line) > LONGEST:
                raise _ListError(f"line {number:,} is longer than {LONGEST:,} bytes")
            if line.strip():
                try:
                    yield number, decoder.decode(line)
                except ValueError as error:  # msgspec's are such too
                    raise _ListError(f"line {number:,}: {error}") from error


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with opened(path) as file, parquet.ParquetFile(pa.PythonFile(file, mode="r")) as table:
            if len(table.schema_arrow) > LARGEST + len(NAMES):
                raise _ListError(f"{len(table.schema_arrow):,} columns are more than {LARGEST:,}")
            for column in table.schema_arrow:
                if pa.types.is_nested(column.type) or pa.types.is_binary(column.type):
                    raise _ListError(f"column {column.name!r:.60} holds {column.type}: leave it out")
            number = 0
            for batch in table.iter_batches(BATCH):
                for row in batch.to_pylist():
                    number += 1
                    yield number, {name: _plain(value) for name, value in row.items()}
    except pa.ArrowException as error:
        raise ValueError(str(error)) from error


def _plain(value: Any) -> Value:
    """A value of a Parquet column: dates and the like become text."""
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, float):
        return value if value == value else None
    return str(value)
