"""`simrec index sync`, `add`, `remove`, `fields`, `history`, `rollback`, `verify`, `rename` and `delete`."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from simrec.cli.indexing import discard_option, format_option, index, strict_option, unread_option, yes_option
from simrec.cli.terminal import Session, data_dir_option, fail, say, table
from simrec.errors import BusyError, RequestError, SimrecError, StoreError, quantity

if TYPE_CHECKING:
    from simrec.manifest import ChangeRecord
    from simrec.verbs.index import Outcome


@index.command()
@click.argument("name")
@click.argument("source", required=False)
@click.option("--root", type=click.Path(path_type=Path, file_okay=False, exists=True), metavar="FOLDER",
              help="The new place of the folder that the catalogue was built from.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@click.option("--watch", "stay", is_flag=True, help="Keep running, and sync whenever files change.")
@yes_option
@strict_option
@unread_option
@discard_option
@data_dir_option
@click.pass_obj
def sync(
    session: Session, name: str, source: str | None, root: Path | None, dry_run: bool, stay: bool, yes: bool,
    strict: bool, unread: Path | None, discard: bool, data_dir: Path | None,
) -> None:  # fmt: skip
    """Bring the catalogue of NAME up to date with its sources.

    Only new and changed pictures are read. Renamed files keep their codes; items that a folder or list no longer has
    are removed.
    SOURCE: one of its sources, by default all of them.
    """
    from simrec.verbs import index as verb
    from simrec.verbs.encoding import Unread

    options: dict[str, Any] = {"yes": yes, "discard": discard, "unread": Unread(strict, unread)}

    def once(source: str | None, root: Path | None = None) -> None:
        with session.counting() as progress:
            outcome = verb.sync(
                name, source, root=root, dry_run=dry_run, context=context(session, data_dir, progress), **options
            )
        report(f"{name}: would be " if dry_run else f"{name}: ", outcome)

    if stay and dry_run:
        raise click.UsageError("--watch does what --dry-run only says: leave one of them out")
    once(source, root)
    if stay:
        session.notice("Watching; Ctrl-C ends it.")
        waiting = False
        for changed in verb.changes(name, home_folder=session.home):
            if changed or waiting:
                try:
                    once(source)
                    waiting = False
                except BusyError as error:
                    if not waiting:
                        fail(error)
                    waiting = True
                except SimrecError as error:  # the next change may fix it
                    fail(error)
                    waiting = False


@index.command()
@click.argument("name")
@click.argument("source")
@strict_option
@unread_option
@discard_option
@data_dir_option
@click.pass_obj
def add(
    session: Session, name: str, source: str, strict: bool, unread: Path | None, discard: bool, data_dir: Path | None
) -> None:
    """Add the pictures of another SOURCE to the catalogue of NAME."""
    from simrec.verbs import index as verb
    from simrec.verbs.encoding import Unread

    with session.counting() as progress:
        outcome = verb.add(
            name, source, discard=discard, unread=Unread(strict, unread),
            context=context(session, data_dir, progress),
        )  # fmt: skip
    report(f"{name}: ", outcome)


@index.command()
@click.argument("name")
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--where", metavar="EXPR", help='Remove the items that match, such as "price < 5".')
@yes_option
@click.pass_obj
def remove(session: Session, name: str, ids: tuple[str, ...], where: str | None, yes: bool) -> None:
    """Remove items from the catalogue of NAME.

    Their pictures stay where they are. The next sync adds them again if their pictures are still in the source.
    """
    from simrec.verbs import index as verb

    if not ids and where is None:
        raise click.UsageError("name the ids of items, or use --where")
    report(f"{name}: ", verb.remove(name, ids, where=where, yes=yes, context=context(session)))


@index.command()
@click.argument("name")
@click.argument("source", metavar="LIST")
@click.pass_obj
def fields(session: Session, name: str, source: str) -> None:
    """Set fields of the items of NAME, such as prices.

    Each column of LIST is a field, and its ids say which items get the values. Pictures aren't touched. The next sync
    resets columns that the catalogue's own source also has.
    """
    from simrec.verbs import index as verb

    report(f"{name}: ", verb.set_fields(name, source, context=context(session)))


@index.command()
@click.argument("name")
@format_option
@click.pass_obj
def history(session: Session, name: str, form: str) -> None:
    """List the kept generations of NAME, the newest first.

    Each comes with what it changed.
    """
    from dataclasses import asdict

    from simrec.verbs.generations import history as verb

    generations = verb(name, home_folder=session.home)
    if form == "json":
        say(json.dumps([asdict(one) for one in generations], indent=1, ensure_ascii=False))
        return
    rows = [
        [str(one.number), one.created[:19].replace("T", " "), f"{one.items:,}", _described(one.change),
         "answers" if one.live else ""]
        for one in generations
    ]  # fmt: skip
    table(["generation", "made (UTC)", "items", "what it changed", ""], rows)


@index.command()
@click.argument("name")
@click.option("--to", type=click.IntRange(1), metavar="N", help="A generation that 'index history' lists.")
@click.pass_obj
def rollback(session: Session, name: str, to: int | None) -> None:
    """Go back to an earlier generation of NAME.

    By default that is the one before this one. It becomes a new generation: rolling back can be rolled back.
    """
    from simrec.verbs.generations import rollback as verb

    back = verb(name, to, home_folder=session.home)
    catalogue = back.manifest.catalogue
    assert back.manifest.change is not None
    items = quantity(catalogue.count, "item") if catalogue else "no catalogue"
    session.notice(f"{name}: back {back.manifest.change.note}, {items}, as generation {int(back.generation.name)}.")


@index.command()
@click.argument("name")
@format_option
@click.pass_obj
def verify(session: Session, name: str, form: str) -> int:
    """Read every byte of NAME and check it against what was written."""
    from dataclasses import asdict

    from simrec.verbs.generations import verify as verb

    with session.counting() as progress:
        report = verb(name, home_folder=session.home, progress=progress)
    if form == "json":
        say(json.dumps(asdict(report), indent=1))
        return 1 if report.problems else 0
    for problem in report.problems:
        fail(problem)
    if not report.problems:
        files, items = quantity(report.files, "file"), quantity(report.items, "item")
        say(f"{name}: good: {files}, {report.bytes / 1e6:,.1f} MB, {items}.")
    return 1 if report.problems else 0


@index.command()
@click.argument("name")
@click.argument("new")
@click.pass_obj
def rename(session: Session, name: str, new: str) -> None:
    """Give the recommender NAME another name."""
    from simrec.verbs.generations import rename as verb

    session.notice(f"{name} is now {new}, in {verb(name, new, home_folder=session.home).folder}.")


@index.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Don't ask.")
@click.pass_obj
def delete(session: Session, name: str, yes: bool) -> None:
    """Delete the recommender NAME.

    Its encoder, its catalogue and all generations go. Pictures stay where they are.
    """
    from simrec import library
    from simrec.home import default
    from simrec.verbs.generations import delete as verb

    library.check_changeable(name, session.home or default())
    if not yes:
        items = ""
        with suppress(StoreError):
            catalogue = library.open(name, session.home).manifest.catalogue
            items = f" and its {quantity(catalogue.count, 'item')}" if catalogue else ""
        try:
            click.confirm(f"Delete {name}{items}? This cannot be undone", abort=True, err=True)
        except click.Abort:
            click.echo(err=True)  # ends the question's line
            raise RequestError(f"{name} was not deleted: add --yes to delete it without a question") from None
    engine = ""
    with suppress(StoreError):
        catalogue = library.open(name, session.home).manifest.catalogue
        engine = catalogue.engine if catalogue else ""
    verb(name, home_folder=session.home)
    session.notice(f"{name} is deleted.{engine and f' Its items are still in {engine}.'}")


def context(session: Session, data_dir: Path | None = None, progress: Any = None) -> Any:
    """The context of a change: progress and notices go to the person at the prompt."""
    from simrec.recommender import silent
    from simrec.verbs.encoding import Context

    return Context(progress or silent, session.notice, session.home, data_dir)


def report(before: str, outcome: Outcome) -> None:
    """Prints what a change did."""
    say(f"{before}{outcome}.")


def _described(change: ChangeRecord | None) -> str:
    """What a generation changed, for a person."""
    if change is None:
        return "-"
    counts = [(change.added, "added"), (change.changed, "changed"), (change.removed, "removed"),
              (change.renamed, "renamed")]  # fmt: skip
    done = ", ".join(f"{count:,} {what}" for count, what in counts if count)
    words = [change.command.replace("index.", "index "), change.note]
    return " ".join(word for word in words if word) + (f": {done}" if done else "")
