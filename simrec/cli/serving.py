"""`simrec serve`."""

from __future__ import annotations

import os
from importlib.util import find_spec

import click

from simrec.cli.terminal import Session, say
from simrec.errors import NotInstalledError, needs

NEEDED = ("starlette", "uvicorn", "python_multipart", "httptools", "prometheus_client")
"""The modules of the extra `serve`."""

MOST = 4
"""Maximum number of processes without --workers: each takes about a hundred megabytes."""


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on; 0.0.0.0 for all.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes a free one.")
@click.option(
    "--token", envvar="SIMREC_TOKEN", show_envvar=True, metavar="SECRET", help="Answer only those who know this."
)
@click.option("--allow-host", multiple=True, metavar="NAME", help="Another host name that the server answers to.")
@click.option(
    "--allow-origin", multiple=True, metavar="ORIGIN", help="A site whose pages may use the API, such as https://a.b."
)
@click.option(
    "--workers", type=click.IntRange(1, 64), help=f"How many processes answer.  [default: one per core, at most {MOST}]"
)
@click.pass_obj
def serve(
    session: Session, names: tuple[str, ...], host: str, port: int, token: str | None, allow_host: tuple[str, ...],
    allow_origin: tuple[str, ...], workers: int | None,
) -> None:  # fmt: skip
    """Open a page and an API on this machine.

    Drop a picture on the page and see what looks like it. Without a NAME it serves all of your recommenders that have a
    catalogue, else the shipped demo.
    """
    for module in NEEDED:
        if find_spec(module) is None:
            raise NotInstalledError(f"serve {needs(module)}")
    if token is not None and not (token.isascii() and token.isprintable() and token.strip() == token != ""):
        raise click.BadParameter("must be printable ASCII without spaces at its ends", param_hint="--token")
    from simrec.serve import shelf
    from simrec.serve.processes import Task, run_all
    from simrec.serve.running import Address

    address = Address(host, port, allow_host, allow_origin, token)
    with address.bound() as listening:
        with shelf.opened(names, session.home, session.notice) as opened:
            served, one_process = tuple(opened.served), opened.one_process
        if one_process and (workers or 1) > 1:
            session.notice(
                f"One process answers, not {workers}: no second one can open the table of {', '.join(one_process)}."
            )
        if not address.local:
            session.notice(
                f"Anyone who reaches {host}{'' if token is None else ' and knows the token'} can look up pictures and "
                f"see these items: {', '.join(served)}."
            )
        task = Task(
            names or served, session.home, address, session.notice, 1 if one_process else workers or _workers(),
            optional=not names,
        )  # fmt: skip
        run_all(
            task, listening, lambda: say(f"Serving {', '.join(served)} at {address.url(listening)} (Ctrl-C ends it)")
        )


def _workers() -> int:
    # On Windows processes can't accept connections on the same socket in turns.
    return 1 if os.name == "nt" else min(MOST, os.cpu_count() or 1)
