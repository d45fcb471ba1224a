"""`simrec similar`."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from simrec.cli.terminal import (
    Session,
    draw_inputs,
    fail,
    picture_option,
    printable,
    say,
    show_input_option,
    table,
)
from simrec.errors import SimrecError

if TYPE_CHECKING:
    from simrec.queries import Match, Query
    from simrec.recommender import Recommender


@click.command()
@click.argument("queries", nargs=-1, required=True, metavar="QUERY...")
@click.option("--index", "name", metavar="NAME", help="Which recommender answers: a name or a folder.")
@click.option("-n", "--number", type=click.IntRange(1), default=10, show_default=True, help="How many items.")
@click.option(
    "--format", "form", type=click.Choice(["table", "json", "ndjson", "csv", "paths"]),
    help="How to print them; without it a table in a terminal, else json.",
)  # fmt: skip
@picture_option("--grid", text="Also draw them: a contact sheet, each query first in its row.")
@show_input_option
@click.option("--with-copies", is_flag=True, help="Show exact copies of the query too.")
@click.pass_obj
def similar(
    session: Session, queries: tuple[str, ...], name: str | None, number: int, form: str | None, grid: Path | None,
    show_input: Path | None, with_copies: bool,
) -> int:  # fmt: skip
    """Find the items that look like a picture.

    A QUERY is a picture file, '-' for standard input, or id:ITEM for an item of the catalogue. The item itself and its
    exact copies are left out of the answer.
    """
    opened = session.open(name)
    answers: list[tuple[Query, list[Match]]] = []
    failed = False
    for text in queries:
        try:
            asked = sys.stdin.buffer if text == "-" else text
            query = opened.read(asked, with_copies=with_copies, shown=grid is not None)
            if query.copies and not with_copies:
                copies = "1 exact copy" if query.copies == 1 else f"{query.copies:,} exact copies"
                session.notice(
                    f"{printable(query.name)}: {copies} in the catalogue left out (--with-copies shows them)."
                )
            answers.append((query, opened.similar(query, number)))
        except SimrecError as error:
            if len(queries) == 1:
                raise
            failed = True
            fail(error)
    _print(answers, form or ("table" if sys.stdout.isatty() else "json"))
    if grid and answers:
        _draw(opened, answers, grid)
        session.notice(f"Drawn: {grid}")
    seen = [(query.images[0], query.name) for query, _ in answers if query.images is not None]
    if show_input and seen:
        draw_inputs(session, opened, seen, show_input)
    return 1 if failed else 0


def _print(answers: list[tuple[Query, list[Match]]], form: str) -> None:
    rows = [match.to_json() for _, matches in answers for match in matches]
    if form == "json":
        say(json.dumps(rows, indent=1, ensure_ascii=False))
    elif form == "ndjson":
        for row in rows:
            say(json.dumps(row, ensure_ascii=False))
    elif form == "csv":
        text = io.StringIO()
        writer = csv.DictWriter(
            text, ["query", "rank", "id", "score", "distance", "label", "source"], extrasaction="ignore",
            lineterminator="\n",
        )  # fmt: skip
        writer.writeheader()
        writer.writerows(rows)
        say(text.getvalue(), nl=False)
    elif form == "paths":
        for _, matches in answers:
            for match in matches:
                # An item of a data set has no path: the data set and the id say which it is.
                say(str(match.path or f"{match.source}/{match.id}"))
    else:
        for query, matches in answers:
            cells = [[str(m.rank), m.id, m.label, f"{m.score:.3f}", m.source] for m in matches]
            table(["rank", "id", "label", "score", "source"], cells, title=f"Similar to {query.name}")


def _draw(opened: Recommender, answers: list[tuple[Query, list[Match]]], grid: Path) -> None:
    from simrec import sheets
    from simrec.catalogue import previews
    from simrec.files import replacing

    rows = []
    for query, matches in answers:
        row = []
        if query.picture is not None:
            edge = max(previews.EDGE, opened.manifest.encoder.input.size)
            row.append(sheets.Tile(previews.opened(query.picture, edge), (Path(query.name).name, "query")))
        row += [
            sheets.Tile(picture, (match.label or match.id, f"{match.score:.3f}"))
            for match in matches
            if (picture := opened.catalogue.picture(match.id)) is not None
        ]
        rows.append(row)
    with replacing(grid) as file:
        sheets.contact_sheet(rows, f"simrec: similar items in {opened.name}").save(file, "PNG")
