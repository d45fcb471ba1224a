"""`simrec train`."""

from __future__ import annotations

import contextlib
import math
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from simrec.cli.terminal import Session, data_dir_option, seed_option, settings_options
from simrec.errors import quantity

if TYPE_CHECKING:
    from simrec.contracts import Progress


@click.command()
@click.argument("encoder")
@click.option("--name", help="The recommender to make.  [default: the encoder's name]")
@settings_options
@click.option("--dim", type=click.IntRange(1), help="How many numbers a code has.")
@click.option("--epochs", type=click.IntRange(1), help="Maximum number of passes over the pictures.")
@seed_option("The same seed gives the same weights.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda", "mps"]), default="auto", show_default=True)
@click.option(
    "--data",
    "source",
    default="fashion-mnist",
    show_default=True,
    help="A folder of pictures, or a source that 'simrec plugins list' names.",
)
@data_dir_option
@click.option(
    "--memory", type=float, metavar="GB", callback=lambda context, parameter, memory: _checked(memory),
    help="Memory for the pictures; if not all fit, a sample is drawn.  [default: a quarter of the machine's]",
)  # fmt: skip
@click.option("--strict", is_flag=True, help="Stop with an error at the first picture that can't be read.")
@click.option("--replace", is_flag=True, help="Overwrite NAME even if it has a catalogue.")
@click.pass_obj
def train(
    session: Session, encoder: str, name: str | None, preset: str, changes: dict[str, str], dim: int | None,
    epochs: int | None, seed: int, device: str, source: str, data_dir: Path | None, memory: float | None,
    strict: bool, replace: bool,
) -> None:  # fmt: skip
    """Train an encoder on pictures, without labels.

    simrec brings plain, sparse, denoising, vae, photo, onnx, pca and torchvision; plugins add more.

    Ctrl-C stops after the current epoch and saves the best one so far; a second Ctrl-C, or one before the first epoch,
    saves nothing.
    """
    from simrec.verbs import train as verb

    wanted = changes | {k: str(v) for k, v in (("dim", dim), ("epochs", epochs)) if v is not None}
    display = _Display(session)
    with _interruptible(session, lambda: display.begun is not None) as stop, display:
        made, history = verb.train(
            verb.Plan(
                encoder, preset, wanted, seed, device, None if memory is None else max(1, round(memory * 1e9)), strict,
                _command(sys.argv[1:]),
            ),
            name=name, source=source, data_dir=data_dir, home_folder=session.home, replace_catalogue=replace,
            watch=verb.Watch(display.reading, display.started, display.progress, stop, session.notice),
        )  # fmt: skip
    results = made.manifest.encoder.results
    session.notice(
        f"{history.ended.capitalize()} after {quantity(results.epochs, 'epoch')} and {results.seconds:.0f} s, "
        f"kept epoch {history.kept}: loss {results.loss:.4g}, validation loss {results.validation_loss:.4g}; "
        f"{results.zeros:.1%} of the codes' numbers are close to zero."
    )
    session.notice(f"Saved in {made.folder}. Next: {session.simrec} index build {made.name}")


def _checked(memory: float | None) -> float | None:
    """The memory in GB; a usage error if it isn't a number above 0."""
    if memory is not None and not 0 < memory < math.inf:
        raise click.BadParameter(f"{memory:g} must be a number of GB above 0, such as 2.5", param_hint="--memory")
    return memory


def _command(words: list[str]) -> str:
    """The command to keep, without the options before the verb: recommenders don't tell where their home was."""
    return shlex.join(["simrec", *words[words.index("train") if "train" in words else 0 :]])


class _Display:
    """Shows the network's summary, then a bar with loss, validation loss and time left; in a log, a line per epoch."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.live = not session.quiet and sys.stderr.isatty()
        self.stack, self.counting = contextlib.ExitStack(), contextlib.ExitStack()
        self.bar: Any = None
        self.count: Callable[[str, int, int], None] | None = None
        self.begun: float | None = None

    def __enter__(self) -> _Display:
        return self

    def __exit__(self, *details: Any) -> None:
        self.counting.__exit__(*details)
        self.stack.__exit__(*details)

    def reading(self, done: int, total: int) -> None:
        if self.count is None:
            self.count = self.counting.enter_context(self.session.counting())
        self.count("reading", done, total)

    def started(self, encoder: Any, pictures: Any) -> None:
        self.counting.close()
        self.count = None
        if hasattr(encoder, "summary"):
            self.session.notice(encoder.summary())
        self.begun = time.monotonic()
        self.session.notice(f"Training on {len(pictures):,} pictures of {pictures.name}.")
        if self.live:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

            self.bar = self.stack.enter_context(
                Progress(
                    TextColumn("epoch {task.fields[epoch]}"), BarColumn(), TimeElapsedColumn(),
                    TextColumn("{task.fields[left]} left  {task.fields[losses]}"), console=Console(stderr=True),
                )
            )  # fmt: skip
            self.task = self.bar.add_task("training", total=1.0, epoch="0", losses="", left="?")

    def progress(self, at: Progress) -> None:
        done = (at.epoch - 1 + at.step / at.steps) / at.epochs
        assert self.begun is not None
        left = _clock((time.monotonic() - self.begun) * (1 - done) / done)
        losses = f"loss {at.loss:.4g}"
        if at.validation_loss is not None:
            losses += f", validation {at.validation_loss:.4g}"
        if self.live:
            self.bar.update(self.task, completed=done, epoch=f"{at.epoch}/{at.epochs}", losses=losses, left=left)
        elif at.step == at.steps:
            self.session.notice(f"epoch {at.epoch}/{at.epochs}: {losses}, {left} left")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"


@contextlib.contextmanager
def _interruptible(session: Session, begun: Callable[[], bool]) -> Iterator[Callable[[], bool]]:
    """Inside it, the first Ctrl-C only makes the yielded function true; the second raises KeyboardInterrupt.

    begun: whether epochs have begun; before that there is nothing to keep, and the first Ctrl-C raises it too.
    """
    stopping = False

    def handle(*_: object) -> None:
        nonlocal stopping
        if stopping or not begun():
            raise KeyboardInterrupt
        stopping = True
        session.notice("Stopping after this epoch; the best one so far is kept. Press Ctrl-C again to keep nothing.")

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield lambda: stopping
    finally:
        signal.signal(signal.SIGINT, before)
