"""Answers what a person types: pictures, items, combined queries, whole folders; also draws sheets and reports."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Unpack

from simrec.answers import Narrowing, Wishes, check_fields, strange, value_of
from simrec.contracts import Item, Notice
from simrec.display import Display, role_of, text_of
from simrec.errors import RequestError, SimrecError, quantity
from simrec.files import explained, replacing
from simrec.home import default, remember_root, roots
from simrec.queries import LARGEST_WEIGHT, Match, Query
from simrec.recommender import Recommender, silent
from simrec.reports import Report

if TYPE_CHECKING:
    from PIL.Image import Image

    from simrec.sheets import Tile

SAID = 3
"""How many queries get notices of their own; with more of them, one notice gives the number."""

_WEIGHT = re.compile(r"(.+)\*(\d{1,4}(?:\.\d{1,6})?)", re.DOTALL)

Answer = tuple[Query, list[Match]]


@dataclass(frozen=True)
class Question:
    """A question as it was typed.

    queries: picture files, "id:ITEM", "-" for `stdin`, folders, lists and other sources. n: how many items to find for
    each. crop: the part of each picture to take. together: whether to combine all into one query; each may have a
    weight, as in "shoe.jpg*2". less: what answers should not look like. with_copies: whether answers include exact
    copies. shown: longest edge of the queries' pictures for people to see, in pixels, 0 for none.
    """

    queries: Sequence[str]
    n: int = 10
    crop: str | None = None
    together: bool = False
    less: Sequence[str] = ()
    with_copies: bool = False
    shown: int = 0
    stdin: BinaryIO | None = None
    data_dir: Path | None = None


def answers(
    opened: Recommender, question: Question, *, failed: Callable[[SimrecError], None],
    progress: Callable[[str, int, int], None] = silent, notice: Notice = silent, **wishes: Unpack[Wishes],
) -> Iterator[Answer]:  # fmt: skip
    """The answers, one query after the other, also those to the pictures of a folder.

    failed: called at the end with the error of each query that can't be answered. wishes: see
    `simrec.answers.Narrowing`. Raises what is wrong with the question as a whole; a single query raises its own error.
    """
    asker = _Asker(opened, question)
    if question.together:
        query = asker.together()
        yield query, opened.similar(query, question.n, **wishes)
        return
    errors: list[SimrecError] = []
    for text in question.queries:
        try:
            if is_source(text):
                if question.crop or question.less:
                    raise RequestError(
                        f"{text}: a part, or what it should not look like, needs single pictures: {_naming(text)}"
                    )
                yield from opened.similar_to(
                    text, question.n, with_copies=question.with_copies, data_dir=question.data_dir, notice=notice,
                    progress=silent if progress is silent else lambda done, total: progress("looking up", done, total),
                    unreadable=errors.append, **wishes,
                )  # fmt: skip
            else:
                query = asker.one(text)
                yield query, opened.similar(query, question.n, **wishes)
        except SimrecError as error:
            if len(question.queries) == 1:
                raise
            errors.append(error)
    for one in errors:
        failed(one)


def is_source(text: str) -> bool:
    """Whether a query is a folder, a list or another source of queries, and not one picture."""
    from simrec.sources.load import LISTS

    if text == "-" or text.startswith("id:"):
        return False
    path = Path(text)
    try:
        if path.is_dir() or path.is_file():
            return path.is_dir() or path.suffix.lower() in LISTS
    except OSError:  # for example a name that is too long: reading it reports that
        return False
    from simrec import host
    from simrec.contracts import SourceSpec

    name, colon, _ = text.partition(":")
    return name in host.discover().names(SourceSpec) and (bool(colon) or name not in ("folder", "list"))


def _naming(source: str) -> str:
    """The remedy if single pictures are needed instead of a source: a pattern for a folder, a file for a list."""
    from simrec.sources.files import path_of
    from simrec.sources.load import open_source

    name, _, text = source.partition(":")
    path = Path(text if name in ("folder", "list") and text else source)
    first = None
    if path.exists():
        first = next((entry for entry in open_source(source, notice=silent).entries() if entry.stamp), None)
    if first is None:
        return "name picture files"
    file = path_of(first.source)
    if not path.is_dir():
        return f"name them, for example {shlex.quote(str(file))}"
    *folders, _ = file.relative_to(path.absolute()).parts
    pattern = "/".join([*("*" for _ in folders), f"*{file.suffix}"])
    return f"name them, for example {shlex.quote(str(path))}/{pattern}"


class _Asker:
    """Reads the single queries of a question."""

    def __init__(self, opened: Recommender, question: Question) -> None:
        self._opened, self._question = opened, question

    def one(self, text: str) -> Query:
        match = _WEIGHT.fullmatch(text)
        if match and not self._there(text) and self._there(match[1]):
            raise RequestError(f"{text}: queries have weights only together: add --together, or leave out the weight")
        query = self._read(text, self._question.crop)
        return self._opened.combined([query], less=self._less()) if self._question.less else query

    def together(self) -> Query:
        queries, weights = [], []
        for text in self._question.queries:
            if is_source(text):
                raise RequestError(f"{text}: a folder or list can't be combined with others: {_naming(text)}")
            name, weight = self._weighted(text)
            queries.append(self._read(name, self._question.crop))
            weights.append(weight)
        return self._opened.combined(queries, weights=weights, less=self._less())

    def _less(self) -> list[Query]:
        for text in self._question.less:
            match = _WEIGHT.fullmatch(text)
            if match and not self._there(text) and self._there(match[1]):
                raise RequestError(
                    f"{text}: only queries have weights, not what answers should not look like: type --less "
                    f"{shlex.quote(match[1])}"
                )
        return [self._read(text, None) for text in self._question.less]

    def _read(self, text: str, crop: str | None) -> Query:
        query = self._question.stdin if text == "-" and self._question.stdin else text
        return self._opened.read(
            query, crop=crop, with_copies=self._question.with_copies, shown=self._question.shown,
            name="standard input" if text == "-" else "",
        )  # fmt: skip

    def _weighted(self, text: str) -> tuple[str, float]:
        """A query and its weight; a text that names an existing file or item has no weight."""
        match = _WEIGHT.fullmatch(text)
        if not match or self._there(text):
            return text, 1.0
        weight = float(match[2])
        if not 0 < weight <= LARGEST_WEIGHT:
            raise RequestError(f"{text}: a weight is a number above 0, at most {LARGEST_WEIGHT:,}")
        return match[1], weight

    def _there(self, text: str) -> bool:
        if text.startswith("id:"):
            return bool(self._opened.catalogue.items([text[3:]]))
        try:
            return Path(text).is_file()
        except OSError:
            return False


@dataclass
class Remarks:
    """Collects notices about answers for the end: copies that were left out, queries that look like nothing.

    narrowing: how the answers were narrowed. with_copies: whether they include copies.
    """

    narrowing: Narrowing
    with_copies: bool
    count: int = 0
    copies: list[tuple[str, int]] = field(default_factory=list)
    strange: list[tuple[str, float]] = field(default_factory=list)
    _copied: int = 0
    _strange: int = 0

    def add(self, query: Query, matches: Sequence[Match]) -> None:
        """Takes note of one answer."""
        self.count += 1
        if query.copies and not self.with_copies:
            self._copied += 1
            self.copies += [(query.name, query.copies)][: SAID - len(self.copies)]
        if strange(query, matches, self.narrowing):
            self._strange += 1
            self.strange += [(query.name, matches[0].percentile or 0.0)][: SAID - len(self.strange)]

    def end(self, notice: Notice) -> None:
        """Gives the notices."""
        if self._copied > SAID:
            notice(
                f"{self._copied:,} of {self.count:,} queries have exact copies in the catalogue, which are left out "
                f"(--with-copies shows them)."
            )
        else:
            for name, count in self.copies:
                notice(f"{name}: {_copies(count)} in the catalogue left out (--with-copies shows them).")
        if self._strange > SAID:
            names = ", ".join(name for name, _ in self.strange)
            notice(f"{self._strange:,} of {self.count:,} queries look like nothing in the catalogue: {names}, ...")
        else:
            for name, percentile in self.strange:
                notice(
                    f"{name}: this looks like nothing in the catalogue: the best match is farther away than "
                    f"{100 - percentile:.1f} % of the items are from their nearest neighbours."
                )


def _copies(count: int) -> str:
    return quantity(count, "exact copy", "exact copies")


@dataclass(frozen=True)
class Drawing:
    """How to draw a sheet or a report. tile: longest edge of a picture, in pixels. show: the fields to show.

    originals: another folder of the user's own pictures. home: where recommenders and known folders are.
    """

    file: Path
    tile: int = 160
    show: Sequence[str] = ()
    originals: Path | None = None
    home: Path | None = None

    def check(self, opened: Recommender) -> None:
        """Raises RequestError for a field that the items don't have."""
        check_fields(self.show, opened.catalogue, opened.name)

    def display(self, opened: Recommender) -> Display:
        """A display for pictures of this size. Raises RequestError if `originals` isn't a folder."""
        return display(opened, self.tile, self.originals, self.home)


def display(opened: Recommender, edge: int, originals: Path | None = None, home: Path | None = None) -> Display:
    """A display for pictures of queries and items with that longest edge: see `Drawing`.

    Raises RequestError if `originals` isn't a folder.
    """
    home = home or default()
    if originals is not None:
        if not originals.is_dir():
            raise RequestError(f"{originals}: no folder: name the one that your pictures are in")
        remember_root(home, originals)
    return Display(opened.catalogue, roots(home), edge)


@contextmanager
def reporting(
    opened: Recommender, drawing: Drawing, question: Question, narrowing: Narrowing, notice: Notice = silent
) -> Iterator[Reporting]:
    """Writes answers into an HTML report, which appears, complete, only if the block succeeds: see `simrec.reports`.

    Raises StoreError if the file can't be written, RequestError for an unknown field.
    """
    drawing.check(opened)
    shown = drawing.display(opened)
    facts = [quantity(len(opened.catalogue), "item"), f"encoder {opened.manifest.encoder.title}"]
    if narrowing.where:
        facts.append(f"only {narrowing.where}")
    try:
        with replacing(drawing.file) as file:
            report = Report(file, f"Similar items in {opened.name}", facts, shown, drawing.show)
            try:
                yield Reporting(report, drawing.file, narrowing, question.with_copies)
            except OSError as error:  # for example from standard output: it isn't about this file
                raise _OtherError(error) from error
            report.end()
    except _OtherError as other:
        raise other.error from None
    if report.left_out:
        count = report.queries + report.left_out
        notice(f"{drawing.file}: has room for only the first {report.queries:,} of {count:,} queries.")
    if why := shown.why_small():
        notice(why)


class _OtherError(Exception):
    """An OSError that isn't about the file being written."""

    def __init__(self, error: OSError) -> None:
        self.error = error


@dataclass(frozen=True)
class Reporting:
    """A report that is being written. narrowing: how the answers are narrowed. with_copies: whether they include
    copies.
    """

    report: Report
    file: Path
    narrowing: Narrowing
    with_copies: bool

    def add(self, query: Query, matches: Sequence[Match]) -> None:
        """Writes one answer. Raises StoreError if it can't be written."""
        remarks = []
        if query.copies and not self.with_copies:
            remarks.append(f"{_copies(query.copies)} in the catalogue left out.")
        if strange(query, matches, self.narrowing):
            remarks.append("This looks like nothing in the catalogue.")
        with explained(self.file, "name a file in a folder you can write to"):
            self.report.add(query, matches, remarks)

    def failed(self, count: int) -> None:
        """Notes how many queries could not be answered; the report gives only their number."""
        self.report.failed = count


def draw(opened: Recommender, given: Sequence[Answer], drawing: Drawing, notice: Notice = silent) -> bool:
    """Draws a sheet of answers, each query first in its row; returns whether there was anything to draw.

    An item is drawn from its file if that lies below the user's own folders, else from its preview. Each picture is
    read only when it is drawn. Raises StoreError if the file can't be written, RequestError for an unknown field.
    """
    from simrec.sheets import Ending, Tile

    drawing.check(opened)
    pictures = _Pictures(opened, drawing)
    rows = []
    for query, matches in given[: pictures.most]:
        row = [
            Tile(pictures.of_query(part), (Path(part.name).name, role_of(part)), query=True, unlike=part.unlike)
            for part in query.parts or (query,)
            if pictures.has_picture(part)
        ]
        for match in matches[: pictures.most]:
            lines = (f"{match.rank}.  {match.score:.3f}", Ending(match.id), *pictures.fields(match.item))
            row.append(Tile(pictures.of_item(match.item), lines))
        rows.append(row)
    return pictures.sheet(rows, f"simrec: similar items in {opened.name}", len(given), notice)


def draw_groups(
    opened: Recommender, groups: Sequence[tuple[str, Sequence[Item]]], drawing: Drawing, notice: Notice = silent
) -> bool:
    """Draws a sheet of items, one row per group, with the group's name; otherwise like `draw`."""
    from simrec.sheets import Ending, Tile

    drawing.check(opened)
    pictures, rows = _Pictures(opened, drawing), []
    for number, (kind, items) in enumerate(groups[: pictures.most], 1):
        lines = [(f"{number}.  {kind}", Ending(item.id), *pictures.fields(item)) for item in items[: pictures.most]]
        rows.append([Tile(pictures.of_item(item), line) for item, line in zip(items, lines, strict=False)])
    return pictures.sheet(rows, f"simrec: duplicates in {opened.name}", len(groups), notice)


class _Pictures:
    """The pictures of a sheet."""

    def __init__(self, opened: Recommender, drawing: Drawing) -> None:
        from simrec import sheets

        self._drawing = drawing
        self._display = drawing.display(opened)
        self.has_picture = self._display.has_picture
        self.most = max(1, sheets.LARGEST // drawing.tile**2)

    def of_query(self, query: Query) -> Callable[[], Image]:
        """Reads the picture of a query that has one."""

        def read() -> Image:
            picture = self._display.of_query(query)
            assert picture is not None
            return picture

        return read

    def of_item(self, item: Item) -> Callable[[], Image]:
        """Reads the picture of an item."""
        return lambda: self._display.of_item(item)

    def fields(self, item: Item) -> list[str]:
        """The lines of the fields that are shown."""
        return [f"{name}: {text_of(value_of(item, name))}" for name in self._drawing.show]

    def sheet(self, rows: Sequence[Sequence[Tile]], title: str, count: int, notice: Notice) -> bool:
        """Draws rows; returns whether there was anything in them. count: how many rows there are in all."""
        from simrec import sheets

        if not any(rows):
            return False
        drawn = sheets.fitting([row for row in rows if row], self._drawing.tile)
        sheet = sheets.contact_sheet(drawn, title, self._drawing.tile)
        with replacing(self._drawing.file) as file:
            sheet.save(file, "PNG")
        if len(drawn) < count and len(drawn) < len(rows):
            notice(f"{self._drawing.file}: has room for only the first {len(drawn):,} of {count:,} rows.")
        if why := self._display.why_small():
            notice(why)
        return True
