"""What commands share: notices, tables, progress, options and output files."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

if TYPE_CHECKING:
    from simrec.recommender import Recommender


LISTED = 5
"""Maximum number of recommenders that a notice names."""

CELL = 500
"""Maximum number of characters shown in a table's cell."""


@cache
def _shown(lines: bool, terminal: bool) -> dict[int, str]:
    """Escapes for characters that must not be printed, by code point. lines: keep line ends and tabs.

    These are the surrogates, which JSON can hold and no encoding can write, except those that stand for bytes of file
    names that aren't UTF-8. In a terminal, also characters that move the cursor or change its state or text direction.
    """
    codes = [*range(0xD800, 0xDC80), *range(0xDD00, 0xE000)]
    if terminal:
        codes += [*range(0x20), *range(0x7F, 0xA0), *range(0x2028, 0x202F), *range(0x2066, 0x206A)]
    kept = "\n\t" if lines else ""
    return {code: f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" for code in codes if chr(code) not in kept}


def printable(text: str, *, lines: bool = False) -> str:
    """The text with everything escaped that could control a terminal: names in a file may come from anyone.

    The result is one line, unless `lines`.
    """
    return text if text.isascii() and text.isprintable() else text.translate(_shown(lines, True))


def fail(error: object) -> None:
    """Prints an error as one line on stderr."""
    click.echo(f"Error: {printable(str(error))}", err=True)


_streams: list[TextIO] = []
"""Standard output, while `only_answers` keeps it for answers."""


def stdout() -> TextIO:
    """Standard output, where answers are printed."""
    return _streams[-1] if _streams else sys.stdout


@contextlib.contextmanager
def only_answers() -> Iterator[None]:
    """Keeps standard output for answers: what anything else prints in the block, such as a plugin, goes to stderr."""
    _streams.append(sys.stdout)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        _streams.pop()


def say(text: str, *, nl: bool = True) -> None:
    """Prints an answer on stdout: unchanged for another program, escaped for a terminal."""
    terminal = stdout().isatty()
    text = text if text.isascii() and not terminal else text.translate(_shown(True, terminal))
    click.echo(text, file=stdout(), nl=nl)


@dataclass(frozen=True)
class Session:
    """The options before the command."""

    home: Path | None = None
    quiet: bool = False

    def notice(self, text: str) -> None:
        """Prints a line that isn't an error on stderr, unless --quiet."""
        if not self.quiet:
            click.echo(printable(text, lines=True), err=True)

    @property
    def simrec(self) -> str:
        """How to call this simrec again, for the commands that we suggest next."""
        named = self.home is not None and str(self.home) != os.environ.get("SIMREC_HOME")
        return f"simrec --home {shlex.quote(str(self.home))}" if named else "simrec"

    def open(self, name: str | None) -> Recommender:
        """The recommender with that name; without a name, the default one, with a notice that says which."""
        from simrec import library
        from simrec.home import default

        if name is None:
            yours = library.answering(self.home or default())
            name = library.default_of(yours)
            more = f", and {len(yours) - LISTED} more" if len(yours) > LISTED else ""
            others = f" Yours are {', '.join(yours[:LISTED])}{more}." if len(yours) > 1 else ""
            self.notice(f"No --index named: answering from {name!r}.{others}")
        opened = library.open(name, self.home)
        if opened.upgraded:
            self.notice(opened.upgraded)
        return opened

    def run(self, *words: str) -> int:
        """Runs another simrec command in a separate process that prints to the same terminal; returns its exit status.

        Training runs this way: torch's memory is freed afterwards, and on macOS torch and faiss can crash in one
        process. Raises KeyboardInterrupt if the command ended with one.
        """
        import signal
        import subprocess

        from simrec.home import default

        # -P: run this simrec, not one that happens to be in the current folder.
        command = [sys.executable, "-P", "-m", "simrec", *(["--quiet"] if self.quiet else []), *words]
        place = str(self.home or default())
        # Ctrl-C reaches both processes: the command decides what it means.
        before = signal.signal(signal.SIGINT, lambda *_: None)
        try:
            status = subprocess.run(command, env={**os.environ, "SIMREC_HOME": place}, check=False).returncode
        finally:
            signal.signal(signal.SIGINT, before)
        if status == 130:
            raise KeyboardInterrupt
        return status

    @contextlib.contextmanager
    def counting(self) -> Iterator[Callable[[str, int, int], None]]:
        """A progress bar with items per second and time left, which (stage, done, total) moves.

        A total of 0 isn't known yet. Prints nothing if stderr is not a terminal.
        """
        if self.quiet or not sys.stderr.isatty():
            yield lambda stage, done, total: None
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
        )  # fmt: skip
        with Progress(*columns, console=Console(stderr=True)) as bar:
            tasks: dict[str, Any] = {}

            def report(stage: str, done: int, total: int) -> None:
                if stage not in tasks:
                    tasks[stage] = bar.add_task(stage, total=None, rate="")
                speed = next(task.speed for task in bar.tasks if task.id == tasks[stage])
                rate = f"{speed:,.0f}/s" if speed else ""
                bar.update(tasks[stage], completed=done, total=total or None, rate=rate)

            yield report


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None) -> None:
    """A table on stdout; columns whose cells are all numbers are flush right."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    heading = Text(printable(title)) if title else None  # as text, not as rich's markup: file names have brackets
    drawn = Table(
        box=box.SIMPLE_HEAD,
        show_header=any(columns),
        title=heading,
        title_justify="left",
        title_style="bold",
        pad_edge=False,
    )
    for i, column in enumerate(columns):
        numeric = all(_numeric(row[i]) for row in rows)
        drawn.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(printable(cell if len(cell) <= CELL else f"{cell[:CELL]}…")) for cell in row))
    # Rich folds to 80 columns where there is no terminal to ask; a file has room.
    console = Console(width=None if stdout().isatty() else 160, file=stdout())
    console.print(drawn)


def _numeric(cell: str) -> bool:
    return cell in ("", "-") or cell.strip("+-%").replace(",", "").replace(".", "").isdigit()


def data_dir_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --data-dir: where to look for Fashion-MNIST first."""
    return click.option(
        "--data-dir", type=click.Path(path_type=Path, file_okay=False, exists=True),
        help="A folder with Fashion-MNIST's IDX files; simrec looks there first.",
    )(command)  # fmt: skip


def index_option(default: str | None = None) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Adds --index, whose encoder the command uses. default: a shipped recommender that was trained for the command."""
    return click.option(
        "--index", "name", metavar="NAME", default=default, show_default=default is not None,
        help="The recommender whose encoder to use: a name or a folder.",
    )  # fmt: skip


def format_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --format for figures."""
    return click.option(
        "--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True
    )(command)  # fmt: skip


def settings_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --preset and --set; the command gets the changes as a dict of strings."""
    preset = click.option(
        "--preset", default="default", show_default=True, help="Which of the encoder's presets, such as article."
    )
    changes = click.option(
        "--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change one setting; can be repeated.",
        callback=lambda context, parameter, texts: dict(_pair(text) for text in texts),
    )  # fmt: skip
    return preset(changes(command))


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise click.BadParameter(f"{text!r} must read KEY=VALUE", param_hint="--set")
    return key.strip(), value.strip()


def seed_option(text: str) -> Callable[..., Any]:
    """Adds --seed with this help text."""
    return click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help=text)


def png(path: Path | None, option: str = "-o") -> Path | None:
    """The path of a picture to draw; a usage error if it has another ending."""
    if path and path.suffix.lower() != ".png":
        raise click.BadParameter(f"{str(path)!r} must end in .png", param_hint=option)
    return path


def picture_option(*names: str, text: str) -> Callable[..., Any]:
    """An option that names the picture to draw."""
    return click.option(
        *names, type=click.Path(path_type=Path, dir_okay=False), metavar="FILE.png",
        callback=lambda context, parameter, path: png(path, names[0]), help=text,
    )  # fmt: skip


sheet_option = picture_option("-o", "--output", text="Draw the pictures to this file.")
show_input_option = picture_option("--show-input", text="Also draw what the encoder sees of the pictures.")


def draw_inputs(session: Session, opened: Recommender, seen: Sequence[tuple[Any, str]], path: Path) -> None:
    """Draws what a recommender's encoder gets to see: images (h, w, c), each with its picture's name."""
    import numpy as np

    from simrec import sheets
    from simrec.files import replacing

    spec = opened.manifest.encoder.input
    colours = "grey" if spec.channels == 1 else "colour"
    sheet = sheets.inputs_sheet(
        np.stack([image for image, _ in seen]), [name for _, name in seen],
        f"simrec: what the encoder of {opened.name} sees ({spec.size} x {spec.size}, {colours}, recipe {spec.recipe})",
    )  # fmt: skip
    with replacing(path) as file:
        sheet.save(file, "PNG")
    session.notice(f"Drawn: {path}")
