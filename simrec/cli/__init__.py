"""The command line: parse, call one verb, print. Only click is imported before a command runs."""

from __future__ import annotations

import contextlib
import gc
import io
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import click

from simrec.cli.terminal import Session, fail, only_answers
from simrec.errors import SimrecError

COMMANDS = {
    "quickstart": "quickstart:quickstart",
    "similar": "similar:similar",
    "serve": "serving:serve",
    "train": "training:train",
    "index": "pushing:index",  # imports the other modules that add commands to it
    "evaluate": "evaluating:evaluate",
    "map": "mapping:mapping",
    "encode": "exporting:encode",
    "export": "exporting:export",
    "verify": "exporting:verify",
    "reconstruct": "decoding:reconstruct",
    "denoise": "decoding:denoise",
    "generate": "decoding:generate",
    "compress": "compressing:compress",
    "decompress": "compressing:decompress",
    "plugins": "plugins:plugins",
}
"""Where each command is: a module of this package, and a name in it."""


class Commands(click.Group):
    """The commands, each imported when it is needed: importing them all takes longer than some of them run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands' names, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, None if there is none."""
        for name in [cmd_name] if cmd_name in COMMANDS else COMMANDS:  # all, so that Click can suggest one
            module, _, attribute = COMMANDS[name].partition(":")
            self.commands[name] = getattr(import_module(f"simrec.cli.{module}"), attribute)
        return self.commands.get(cmd_name)


def _version(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"simrec {version('simrec')}")
        context.exit()


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--home", type=click.Path(path_type=Path, file_okay=False), envvar="SIMREC_HOME", show_envvar=True,
    help="Where your recommenders live. Without it: ./indexes in a checkout, else your user data folder.",
)  # fmt: skip
@click.option("-q", "--quiet", is_flag=True, help="No progress and no notices.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
@click.pass_context
def cli(context: click.Context, home: Path | None, quiet: bool, debug: bool) -> None:
    """Similar items for a picture, from your own pictures, offline.

    \b
    Try it at once:          simrec similar PICTURE
    Search your own photos:  simrec index build shop FOLDER
                             simrec similar PICTURE --index shop
    Train an encoder too:    simrec quickstart
    """
    context.obj = Session(home=home, quiet=quiet)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Runs the command line and ends the process: status 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    given = sys.argv[1:] if arguments is None else arguments
    gc.set_threshold(100_000, 50, 100)  # hardly any of a source's entries is garbage: this saves a 15th of a sync
    # Python processes that this one starts run no module of the current folder, where strangers' files may lie.
    os.environ["PYTHONSAFEPATH"] = "1"
    debug = "--debug" in given
    by_click = "_SIMREC_COMPLETE" in os.environ or not {"-h", "--help", "--version"}.isdisjoint(given)
    if isinstance(sys.stdout, io.TextIOWrapper):  # print file names that aren't UTF-8 as they are
        sys.stdout.reconfigure(errors="surrogateescape")
    try:
        with contextlib.nullcontext() if by_click else only_answers():
            result: Any = cli.main(given, prog_name="simrec", standalone_mode=False)
    except click.exceptions.Exit as leaving:
        sys.exit(leaving.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted.", err=True)
        sys.exit(130)
    except click.ClickException as error:
        if isinstance(error, click.NoSuchOption) and any(error.option_name in one.opts for one in cli.params):
            remedy = f"{error.option_name} goes before the command: simrec {error.option_name} ..."
            error = click.UsageError(remedy, error.ctx)
        error.show()
        sys.exit(error.exit_code)
    except SimrecError as error:
        if debug:
            raise
        fail(error)
        sys.exit(1)
    except OSError as error:  # verbs report errors of files: this is standard output, or a machine in trouble
        if debug:
            raise
        where = error.filename or "standard output"
        fail(f"{where}: {error.strerror or error}: make room, or send the answer elsewhere")
        sys.exit(1)
    except MemoryError:
        if debug:
            raise
        fail("this needs more memory than there is: close other programs, or ask for less at once")
        sys.exit(1)
    except Exception as error:
        if debug:
            raise
        fail(
            f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}: "
            f"this is a bug in simrec; run it again with --debug (simrec --debug ...) and report what it prints"
        )
        sys.exit(1)
    sys.exit(result if isinstance(result, int) else 0)
