"""`simrec similar`."""

from __future__ import annotations

import csv
import io
import json
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from simrec.cli.terminal import (
    Session,
    data_dir_option,
    draw_inputs,
    fail,
    picture_option,
    say,
    show_input_option,
    stdout,
    table,
)
from simrec.errors import SimrecError

if TYPE_CHECKING:
    from simrec.answers import Wishes
    from simrec.cli.pictures import Strips
    from simrec.queries import Match, Query
    from simrec.recommender import Recommender
    from simrec.verbs.asking import Drawing, Question

KEPT = 1000
"""Maximum number of answers on a contact sheet; further ones are only printed."""

SHOWN = 24
"""How many pictures `--show-input` draws: the first ones."""


def names(_: click.Context, parameter: click.Parameter, text: str | None) -> tuple[str, ...]:
    """Splits names at commas."""
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())


def html_file(_: click.Context, parameter: click.Parameter, path: Path | None) -> Path | None:
    """The path of a report; a usage error if it has another ending."""
    if path and path.suffix.lower() not in (".html", ".htm"):
        raise click.BadParameter(f"{str(path)!r} must end in .html", param_hint="--html")
    return path


show_option = click.option(
    "--show", metavar="FIELDS", callback=names, help="Fields to show too, separated by commas: title,price."
)
tile_option = click.option(
    "--tile", type=click.IntRange(28, 1024), default=160, show_default=True, metavar="PIXELS",
    help="Size of the pictures on a contact sheet.",
)  # fmt: skip
originals_option = click.option(
    "--originals", type=click.Path(path_type=Path, file_okay=False, exists=True), metavar="FOLDER",
    help="Also take original pictures for sheets from this folder; those in folders that you indexed are used anyway.",
)  # fmt: skip


@click.command()
@click.argument("queries", nargs=-1, required=True, metavar="QUERY...")
@click.option("--index", "name", metavar="NAME", help="The recommender that answers: a name or a folder.")
@click.option("-n", "--number", type=click.IntRange(1), default=10, show_default=True, help="How many items.")
@click.option("--where", metavar="FILTER", help="Only items with these fields: \"price < 20 AND category = 'shoes'\".")
@click.option("--min-score", type=float, help="Only items with at least this score.")
@click.option(
    "--min-percentile", type=click.FloatRange(0, 100),
    help="Only items that are closer than this per cent of the items are to their nearest neighbours.",
)  # fmt: skip
@click.option("--distinct", is_flag=True, help="Only the best of near-duplicates, and how many are alike.")
@click.option("--group-by", metavar="FIELD", help="Only the best item for each value of a field.")
@click.option("--crop", metavar="LEFT,TOP,RIGHT,BOTTOM", help="Look up a part of each picture, in pixels or 10%,...")
@click.option("--together", is_flag=True, help="Combine all QUERYs into one; shoe.jpg*2 counts twice.")
@click.option(
    "--less", multiple=True, metavar="QUERY", help="What items should not look like, without a weight; can be repeated."
)
@click.option(
    "--format", "form", type=click.Choice(["table", "json", "ndjson", "csv", "paths"]),
    help="How to print answers; without it a table in a terminal, else json.",
)  # fmt: skip
@show_option
@picture_option("--grid", text="Also draw a contact sheet, one row per query.")
@tile_option
@click.option(
    "--html",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.html",
    callback=html_file,
    help="Also write a report: one file with pictures and a sortable table, which you can send.",
)
@originals_option
@show_input_option
@click.option("--no-pictures", is_flag=True, help="No pictures in the terminal, only the table.")
@click.option("--with-copies", is_flag=True, help="Show exact copies of the query too.")
@data_dir_option
@click.pass_obj
def similar(
    session: Session, /, queries: tuple[str, ...], name: str | None, number: int, form: str | None,
    show: tuple[str, ...], grid: Path | None, tile: int, html: Path | None, originals: Path | None,
    show_input: Path | None, no_pictures: bool, with_copies: bool, crop: str | None, together: bool,
    less: tuple[str, ...], data_dir: Path | None, **wishes: Any,
) -> int:  # fmt: skip
    """Find the items that look like a picture.

    A QUERY is a picture file, '-' for standard input, or id:ITEM for an item of the catalogue. It can also be a folder,
    a list or another source; then each of its pictures is looked up. Answers leave out the query itself and exact
    copies of it.
    """
    from simrec.cli.pictures import EDGE as IN_TERMINAL
    from simrec.cli.pictures import Strips, shows_pictures
    from simrec.reports import EDGE
    from simrec.verbs.asking import Drawing, Question, display

    opened = session.open(name)
    pictured = not no_pictures and form in (None, "table") and shows_pictures()
    strips = Strips(display(opened, IN_TERMINAL, originals, session.home)) if pictured else None
    shown = max(tile if grid else 0, EDGE if html else 0, IN_TERMINAL if pictured else 0)
    question = Question(queries, number, crop, together, less, with_copies, shown, sys.stdin.buffer, data_dir)
    narrowing = cast("Wishes", wishes)
    outputs = _Outputs(
        _Printer(opened, form, show, narrowing, strips),
        Drawing(grid, tile, show, originals, session.home) if grid else None,
        Drawing(html, EDGE, show, originals, session.home) if html else None,
        show_input,
    )
    return _answer(session, opened, question, narrowing, outputs)


@dataclass(frozen=True)
class _Outputs:
    """Where answers go: to the terminal, a contact sheet, a report, and a sheet of what the encoder sees."""

    printer: _Printer
    grid: Drawing | None
    html: Drawing | None
    show_input: Path | None


def _answer(session: Session, opened: Recommender, question: Question, wishes: Wishes, outputs: _Outputs) -> int:
    from simrec.answers import Narrowing
    from simrec.verbs import asking

    narrowing, grid, show_input = Narrowing(**wishes), outputs.grid, outputs.show_input
    failures: list[SimrecError] = []
    remarks = asking.Remarks(narrowing, question.with_copies)
    kept: list[tuple[Query, list[Match]]] = []
    seen: list[tuple[Any, str]] = []
    with ExitStack() as closing:
        progress = closing.enter_context(_progress(session))
        report = None
        if outputs.html:
            writing = asking.reporting(opened, outputs.html, question, narrowing, session.notice)
            report = closing.enter_context(writing)
        closing.enter_context(outputs.printer)
        for query, matches in asking.answers(
            opened, question, failed=failures.append, progress=progress, notice=session.notice, **wishes
        ):
            outputs.printer.answer(query, matches)
            remarks.add(query, matches)
            if report:
                report.add(query, matches)
            if grid and len(kept) < KEPT:
                kept.append((query, matches))
            pictured = [one for one in query.parts or (query,) if one.images is not None] if show_input else []
            seen += [(one.images[0], one.name) for one in pictured if one.images is not None][: SHOWN - len(seen)]
        if report:
            report.failed(len(failures))
    for error in failures:
        fail(error)
    remarks.end(session.notice)
    if outputs.html:
        session.notice(f"Written: {outputs.html.file}")
    if grid and kept and asking.draw(opened, kept, grid, session.notice):
        session.notice(f"Drawn: {grid.file}")
    if show_input and seen:
        draw_inputs(session, opened, seen, show_input)
    return 1 if failures else 0


@contextmanager
def _progress(session: Session) -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar, unless answers appear in the same terminal."""
    from simrec.recommender import silent

    if session.quiet or stdout().isatty() or not sys.stderr.isatty():
        yield silent
        return
    with session.counting() as progress:
        yield progress


class _Printer:
    """Prints answers as they come. show: extra fields for tables and CSV, where a field that is called like another
    column becomes field_NAME. strips: prints pictures above tables."""

    def __init__(
        self, opened: Recommender, form: str | None, show: Sequence[str], wishes: Wishes, strips: Strips | None
    ) -> None:
        self._strips = strips
        self._form = form or ("table" if stdout().isatty() else "json")
        alike = ["alike"] if wishes.get("distinct") else []
        self._alike = bool(alike)
        self._own = (
            ["query", "rank", "id", "score", "distance", "percentile", *alike, "label", "source"]
            if self._form == "csv"
            else ["rank", "id", "label", "score", "percentile", *alike, "source"]
        )
        self._shown: dict[str, str] = {}
        self._count = 0
        if show:
            from simrec.answers import check_fields, columns

            check_fields(show, opened.catalogue, opened.name)
            named = columns(opened.catalogue.kinds, self._own)
            self._shown = {name: named[name] for name in show if name in named}

    def __enter__(self) -> None:
        if self._form == "csv":
            say(_csv([*self._own, *self._shown.values()]), nl=False)

    def __exit__(self, kind: object, *_: object) -> None:
        if self._form == "json" and (kind is None or self._count):
            say("\n]" if self._count else "[]")

    def answer(self, query: Query, matches: Sequence[Match]) -> None:
        """Prints the answer to one query."""
        if self._form == "table":
            if self._strips:
                self._strips.print(query, matches)
            self._table(query, matches)
        elif matches:
            say(
                {"json": self._json, "ndjson": _ndjson, "csv": self._csv, "paths": _paths}[self._form](matches),
                nl=False,
            )
        self._count += len(matches)

    def _json(self, matches: Sequence[Match]) -> str:
        rows = (textwrap.indent(json.dumps(match.to_json(), indent=1, ensure_ascii=False), " ") for match in matches)
        return (",\n" if self._count else "[\n") + ",\n".join(rows)

    def _csv(self, matches: Sequence[Match]) -> str:
        return _csv(
            *(
                [
                    m.query, m.rank, m.id, m.score, m.distance, m.percentile, *([m.alike] if self._alike else []),
                    m.label, m.source, *self._fields(m),
                ]
                for m in matches
            )
        )  # fmt: skip

    def _table(self, query: Query, matches: Sequence[Match]) -> None:
        from simrec.display import text_of

        cells = [
            [
                str(m.rank), m.id, m.label, f"{m.score:.3f}", "-" if m.percentile is None else f"{m.percentile:.1f}",
                *([str(m.alike)] if self._alike else []), *map(text_of, self._fields(m)), m.source,
            ]
            for m in matches
        ]  # fmt: skip
        *columns, source = self._own
        table([*columns, *self._shown.values(), source], cells, title=f"Similar to {query.name}")

    def _fields(self, match: Match) -> list[Any]:
        from simrec.answers import value_of

        return [value_of(match.item, name) for name in self._shown]


def _ndjson(matches: Sequence[Match]) -> str:
    return "".join(f"{json.dumps(match.to_json(), ensure_ascii=False)}\n" for match in matches)


def _paths(matches: Sequence[Match]) -> str:
    # An item of a data set has no path: print the data set and the id.
    return "".join(f"{match.path or f'{match.source}/{match.id}'}\n" for match in matches)


def _csv(*rows: Sequence[Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
