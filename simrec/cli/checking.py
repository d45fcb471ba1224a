"""`simrec plugins check`: the conformance kit, run in a process of its own that may hang or die."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from simrec.cli.terminal import say, settings_options, stdout

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from simrec.testing import Outcome, Result

MARKS: dict[Outcome, tuple[str, str]] = {
    "passed": ("ok", "green"),
    "failed": ("FAIL", "red"),
    "expected": ("known", "yellow"),
    "not applicable": ("-", "bright_black"),
}


@click.command()
@click.argument("name")
@settings_options
@click.option(
    "--limit", type=click.FloatRange(min=1), default=300.0, show_default=True, metavar="SECONDS",
    help="Stop the check after this time.",
)  # fmt: skip
@click.pass_context
def check(context: click.Context, name: str, preset: str, changes: dict[str, str], limit: float) -> None:
    """Check that encoder NAME keeps the contract that simrec relies on.

    It is trained for one epoch on a few pictures and called in all the ways that simrec calls it; nothing is kept. Each
    line is one point of the contract. The exit status is 1 if any point is broken.
    """
    from simrec.testing import CHECKS

    width = max(len(known.name) for known in CHECKS)
    counts: Counter[str] = Counter()
    for result in _results(name, preset, changes, limit):
        mark, color = MARKS[result.outcome]
        click.echo(f"{click.style(f'{mark:5}', fg=color)} {result.name:{width}}  {result.contract}", file=stdout())
        if result.message:
            click.echo(f"{'':5} {'':{width}}  {click.style(result.message, fg=color)}", file=stdout())
        counts[result.outcome] += 1
    say(f"{name}: {counts.total()} checks, " + ", ".join(f"{counts[o]} {o}" for o in MARKS if counts[o]))
    if counts["failed"]:
        context.exit(1)


def _results(name: str, preset: str, changes: dict[str, str], limit: float) -> Iterator[Result]:
    """Results from the process that runs the checks, as they arrive.

    Raises PluginError if that process takes more than `limit` seconds or dies, and the SimrecError that it ended with.
    """
    import multiprocessing

    from simrec.errors import PluginError, SimrecError

    # Not forked, so that the plugin doesn't see what this process has imported.
    spawning = multiprocessing.get_context("spawn")
    ours, theirs = spawning.Pipe(duplex=False)
    process = spawning.Process(target=_work, args=(theirs, name, preset, changes))
    process.start()
    theirs.close()
    deadline, doing = time.monotonic() + limit, "starting"
    try:
        while True:
            if not ours.poll(max(0.0, deadline - time.monotonic())):
                raise PluginError(
                    f"{doing} took longer than the limit of {limit:g} s and was stopped: fix it, or allow more time "
                    f"with --limit"
                )
            message = ours.recv()
            if message is None:
                return
            if isinstance(message, SimrecError):
                raise message
            if isinstance(message, str):
                doing = message
            else:
                yield message
    except EOFError:
        process.join()
        code = process.exitcode or 0
        how = f"signal {-code}" if code < 0 else f"exit status {code}"
        raise PluginError(f"{doing} ended the whole process ({how}): fix it, or uninstall its plugin") from None
    finally:
        process.kill()
        process.join()


def _work(connection: Connection, name: str, preset: str, changes: dict[str, str]) -> None:
    """Runs the checks in the other process: sends what it is doing (str), each Result, then None or a SimrecError."""
    import signal
    import warnings

    from simrec import settings
    from simrec.contracts import EncoderSpec
    from simrec.errors import NotInstalledError, PluginError, SimrecError
    from simrec.faults import blamed_on
    from simrec.host import discover, encoder_class
    from simrec.testing import encoder_checks

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that shows the results ends this one
    os.dup2(2, 1)  # keeps a plugin's own output out of the results
    warnings.simplefilter("ignore")
    try:
        _load(connection, name)
        connection.send("the search for plugins")
        offer = discover().find(EncoderSpec, name)
        who = f"encoder {name!r} ({offer.provider})"
        connection.send(f"{who}: its import")
        try:
            encoder_class(offer)
        except NotInstalledError:
            raise
        except PluginError:  # the checks report it in more detail
            pass
        chosen: Any = None
        if changes or preset != "default":
            presets = encoder_class(offer).presets
            with blamed_on(str(offer)):
                chosen = settings.choose(presets, preset, changes, name)
        for case in encoder_checks(offer.spec, settings=chosen):
            connection.send(f"{who}: check {str(case)!r}")
            connection.send(case.run())
        connection.send(None)
    except SimrecError as error:
        connection.send(error)


def _load(connection: Connection, name: str) -> None:
    """Imports each plugin and calls its hook, the named one first, so that we know which one hangs.

    Errors are ignored here: `discover` runs into them again and reports them.
    """
    from simrec import host

    for entry in sorted(host.entries(), key=lambda entry: entry.name != name):
        connection.send(f"plugin {entry.name!r} ({host.provider(entry)}): its import")
        with suppress(Exception, SystemExit):
            list(entry.load().simrec_encoders())
