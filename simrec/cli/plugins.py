"""`simrec plugins`."""

from __future__ import annotations

import click

from simrec.cli.checking import check


@click.group()
def plugins() -> None:
    """What other packages add to simrec."""


plugins.add_command(check)
