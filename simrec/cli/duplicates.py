"""`simrec index duplicates`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from simrec.cli.similar import originals_option, show_option, tile_option
from simrec.cli.terminal import Session, picture_option, say, table
from simrec.errors import quantity


@click.command()
@click.argument("name")
@click.option(
    "--percentile", type=click.FloatRange(0, 100),
    help="Two items are near-duplicates if they are closer than this per cent (such as 99.5) of items are to their "
    "nearest neighbours. Without it, previews decide which items show the same photo.",
)  # fmt: skip
@click.option(
    "--format", "form", type=click.Choice(["table", "json", "ndjson"]), default="table", show_default=True,
    help="How to print them.",
)  # fmt: skip
@show_option
@picture_option("--grid", text="Also draw a contact sheet, one row per group.")
@tile_option
@originals_option
@click.pass_obj
def duplicates(
    session: Session, name: str, percentile: float | None, form: str, show: tuple[str, ...], grid: Path | None,
    tile: int, originals: Path | None,
) -> None:  # fmt: skip
    """Find duplicate items of NAME.

    These are identical files, identical pictures in different files, and near-duplicates: the same photo at another
    size, saved again, lighter or darker. Nothing is removed.
    """
    from simrec import library
    from simrec.answers import check_fields, value_of
    from simrec.display import text_of
    from simrec.verbs import asking
    from simrec.verbs import duplicates as verb

    opened = library.open(name, session.home)
    check_fields(show, opened.catalogue, opened.name)
    with session.counting() as progress:
        groups = verb.duplicates(opened, percentile, progress)
    if form == "json":
        say(json.dumps([group.to_json() for group in groups], indent=1, ensure_ascii=False))
    elif form == "ndjson":
        for group in groups:
            say(json.dumps(group.to_json(), ensure_ascii=False))
    elif groups:
        rows = [
            [
                str(number), group.kind, item.id, item.label,
                *(text_of(value_of(item, field)) for field in show), item.source,
            ]
            for number, group in enumerate(groups, 1)
            for item in group.items
        ]  # fmt: skip
        table(["group", "kind", "id", "label", *show, "source"], rows)
    items = sum(len(group.items) for group in groups)
    session.notice(
        f"{items:,} of {len(opened.catalogue):,} items are in {quantity(len(groups), 'group')} of duplicates."
    )
    if grid and asking.draw_groups(
        opened, [(group.kind, group.items) for group in groups],
        asking.Drawing(grid, tile, show, originals, session.home), session.notice,
    ):  # fmt: skip
        session.notice(f"Drawn: {grid}")
