"""`simrec map`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from simrec.cli.terminal import Session

if TYPE_CHECKING:
    from simrec.verbs.mapping import Method


@click.command("map")
@click.argument("name")
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
    help="A page (.html) or a picture (.png).",
)  # fmt: skip
@click.option("--where", metavar="EXPR", help="Only items that match, such as \"price < 20 AND colour = 'red'\".")
@click.option("--label", default="label", show_default=True, metavar="FIELD", help="The field that colours the items.")
@click.option(
    "-n", "--number", type=click.IntRange(3, 200_000), default=200_000, show_default=True,
    help="Maximum number of items; of more, an even sample is drawn.",
)  # fmt: skip
@click.option(
    "--method", type=click.Choice(["auto", "pacmap", "pca"]), default="auto", show_default=True,
    help="How items are placed; auto is pacmap if it is installed (simrec[map]), else pca.",
)  # fmt: skip
@click.option("--title", default="", metavar="TEXT", help="The heading, instead of NAME.")
@click.option(
    "--size", type=click.IntRange(500, 8000), default=3000, show_default=True, metavar="PIXELS",
    help="Width and height of a .png.",
)  # fmt: skip
@click.pass_obj
def mapping(
    session: Session, name: str, output: Path, where: str | None, label: str, number: int, method: Method, title: str,
    size: int,
) -> None:  # fmt: skip
    """Draw a catalogue as a map: what looks alike lies together.

    A page (.html) is one file that works offline: zoom in and pictures appear, search by id or label, click an item for
    its neighbours. A picture (.png) is for the wall.
    """
    from simrec import library
    from simrec.verbs.mapping import Wishes, draw

    opened = library.open(name, session.home)
    with session.counting() as progress:
        count = draw(
            opened, output, Wishes(where, label, number, method, title, size), progress=progress, notice=session.notice
        )
    session.notice(f"Drawn: {output} ({count:,} items).")
