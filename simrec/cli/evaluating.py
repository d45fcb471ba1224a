"""`simrec evaluate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from simrec.cli.leaderboard import leaderboard
from simrec.cli.terminal import Session, data_dir_option, fail, say, table
from simrec.errors import StoreError

if TYPE_CHECKING:
    from simrec.verbs.evaluate import Evaluation

COLUMNS = ("numbers", "bytes", "P@1", "P@10", "P@100", "MAP@100", "10-NN", "NMI", "MSE", "zeros", "ms")


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option(
    "--format", "form", type=click.Choice(["table", "markdown", "json"]), default="table", show_default=True,
    help="Markdown is for --all.",
)  # fmt: skip
@click.option("--where", metavar="EXPR", help="Only items that match, such as \"price < 20 AND colour = 'red'\".")
@click.option("--stress", is_flag=True, help="Repeat with the queries mirrored, shifted, scaled, turned and darkened.")
@click.option("--noise", type=float, metavar="SHARE", help="Repeat with noise on this share of the queries' pixels.")
@click.option("--all", "everything", is_flag=True, help="A leaderboard of every installed encoder that is trained.")
@click.option("--train", "training", is_flag=True, help="With --all: train and index those that aren't trained yet.")
@click.option(
    "--seeds", type=click.IntRange(1, 100), metavar="N",
    help="With --all: train seeds 0 to N-1 of each, and show mean and standard deviation.  [default: 1]",
)  # fmt: skip
@click.option("--data", "source", help="With --all: the source to train on and to index.  [default: fashion-mnist]")
@data_dir_option
@click.pass_obj
def evaluate(
    session: Session, names: tuple[str, ...], form: str, where: str | None, stress: bool, noise: float | None,
    everything: bool, training: bool, seeds: int | None, source: str | None, data_dir: Path | None,
) -> int:  # fmt: skip
    """Measure how well recommenders find items.

    An answer is right if it has the query's label; raw pixels and PCA are measured for comparison.

    Without a NAME: all of yours that have a catalogue, else the demo. Labels are used for scoring only.

    Without a test split, each item is looked up among the others. A note says how often the first answer is the same
    photo, saved again: such near-duplicates flatter the figures.

    --all compares encoders and raw pixels instead, the best MAP@100 first. It takes the recommenders in your home that
    were trained with their encoder's default preset and those seeds, on one source that is also their catalogue.
    --train adds the missing ones as leaderboard-ENCODER-SEED-DIGITS (the digits stand for the source). The next --all
    uses them again, unless their training was interrupted.
    """
    if everything:
        if names or stress or noise is not None or where is not None:
            raise click.UsageError("--all takes no NAME, --where, --stress or --noise")
        return leaderboard(session, source or "fashion-mnist", range(seeds or 1), form, training, data_dir)
    if training or seeds or source or form == "markdown":
        raise click.UsageError("--train, --seeds, --data and --format markdown go with --all")
    from simrec import library
    from simrec.verbs import evaluate as verb

    errors: list[StoreError] = []
    opened = [library.open(name, session.home) for name in names]
    if not names:
        opened = [one for one in library.listing(session.home, errors.append) if one.manifest.catalogue]
        opened = [one for one in opened if one.name != "demo"] or opened
    done = []
    for recommender in opened:
        session.notice(f"Evaluating {recommender.name} ...")
        with session.counting() as progress:
            evaluation = verb.evaluate(
                recommender, where=where, stress=stress, noise=noise, data_dir=data_dir, progress=progress,
                notice=session.notice,
            )  # fmt: skip
        done.append(evaluation)
        if form == "table":
            print_figures(done[-1])
            _print_weaknesses(done[-1])
    if form == "json":
        say(json.dumps([evaluation.to_json() for evaluation in done], indent=1, ensure_ascii=False))
    for error in errors:
        fail(error)
    return 1 if errors else 0


def print_figures(evaluation: Evaluation) -> None:
    """Prints an evaluation as a table, under a line that says which queries were looked up in what."""
    how = {
        "test": f"{evaluation.queries:,} test pictures looked up among {evaluation.catalogue:,} items",
        "leave-one-out": f"each of {evaluation.catalogue:,} items looked up among the others",
        "reconstruction": f"{evaluation.catalogue:,} items without labels: reconstruction alone",
    }[evaluation.how]
    reduced = " (REDUCED: a part of the data set)" if evaluation.reduced else ""
    where = f" where {evaluation.where}" if evaluation.where else ""
    rows = [[row["name"], *(_cell(column, row.get(column)) for column in COLUMNS)] for row in evaluation.rows]
    table(["", *COLUMNS], rows, title=f"{evaluation.name}: {how}{where}{reduced}")


def _print_weaknesses(evaluation: Evaluation) -> None:
    """Prints P@10 by class, the most confused pairs of classes, and P@10 of perturbed queries, if measured."""
    own, names = evaluation.rows[0], (evaluation.name, "raw pixels")
    pixels = next(row for row in evaluation.rows[1:] if row["name"] == "raw pixels")
    if "classes" in own:
        classes = [[label, *(_cell("", row["classes"][label]) for row in (own, pixels))] for label in own["classes"]]
        table(["P@10 by class", *names], classes)
        pairs = [[pair["query"], pair["answer"], f"{pair['share']:.1%}"] for pair in own["confused"]]
        table(["asked for", "answered with", "of the first ten"], pairs, title="Most confused")
    if evaluation.stress:
        clean = evaluation.stress[0]

        def cells(row: dict[str, Any], name: str) -> list[str]:
            return [_cell("", row[name]), f"{100 * (row[name] - clean[name]):+.1f}"]

        columns = [column for name in names for column in (name, "points")]
        rows = [[row["name"], *(cell for name in names for cell in cells(row, name))] for row in evaluation.stress]
        table(["P@10 of queries", *columns], rows)


def _cell(column: str, value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, int):
        return f"{value}"
    return f"{value:.4f}" if column == "MSE" else f"{value:.2f}" if column == "ms" else f"{value:.3f}"
