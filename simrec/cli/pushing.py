"""`simrec index push`, `pull` and `connect`: catalogues in databases."""

from __future__ import annotations

from typing import Any

import click

from simrec.cli.changing import context, report
from simrec.cli.indexing import index, yes_option
from simrec.cli.terminal import Session


@index.command()
@click.argument("name")
@click.argument("address", metavar="ENGINE://PLACE#TABLE")
@click.option("--as", "new", metavar="NEW", help="Also make the recommender NEW, which answers from the table.")
@click.option(
    "--dtype", type=click.Choice(["float32", "float16"]), default="float32", help="How the table keeps codes."
)
@click.option("--approximate", is_flag=True, help="Give the table an index: faster, and may miss some of the nearest.")
@click.option("--replace", is_flag=True, help="Overwrite what the table has, even codes of another encoder.")
@yes_option
@click.pass_obj
def push(
    session: Session, name: str, address: str, new: str | None, dtype: Any,
    approximate: bool, replace: bool, yes: bool,
) -> None:  # fmt: skip
    """Write the catalogue of NAME to a table of a database.

    The table gets codes, items, fields and previews. Pushing again writes only what differs and removes what is gone.
    simrec never keeps passwords: give them in the database's own way, such as PGPASSWORD or QDRANT_API_KEY.
    """
    from simrec.verbs.push import Pushing
    from simrec.verbs.push import push as verb

    how = Pushing(dtype, approximate, replace, yes)
    with session.counting() as progress:
        outcome = verb(name, address, how=how, new=new, context=context(session, progress=progress))
    report(f"{name}: ", outcome)
    if new:
        session.notice(f"{new} answers from the table: {session.simrec} similar PICTURE --index {new}")


@index.command()
@click.argument("name")
@click.option("--as", "new", metavar="NEW", help="Leave NAME as it is and make the recommender NEW.")
@click.pass_obj
def pull(session: Session, name: str, new: str | None) -> None:
    """Copy the catalogue of NAME from its table back to files.

    The table stays as it is.
    """
    from simrec.verbs.push import pull as verb

    with session.counting() as progress:
        pulled = verb(name, new, context=context(session, progress=progress))
    session.notice(f"{pulled.name}: {len(pulled.catalogue):,} items are in {pulled.folder} now.")


@index.command()
@click.argument("name")
@click.argument("address", metavar="ENGINE://PLACE#TABLE")
@click.pass_obj
def connect(session: Session, name: str, address: str) -> None:
    """Let NAME answer from its table where that is now.

    You need this after the table has moved, or after NAME was copied to this machine.
    """
    from simrec.verbs.push import connect as verb

    connected = verb(name, address, context=context(session))
    session.notice(f"{name}: answers from {connected.manifest.catalogue.engine}.")  # type: ignore[union-attr]
