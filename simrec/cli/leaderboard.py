"""`simrec evaluate --all`: trains what is missing in separate processes, then measures and prints."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from simrec.cli.terminal import Session, fail, say, table
from simrec.errors import SimrecError

if TYPE_CHECKING:
    from simrec.verbs.leaderboard import Leaderboard, Standing

COLUMNS = {
    "P@1": (3, 4), "P@10": (3, 4), "MAP@100": (3, 4), "10-NN": (3, 4), "ms": (2, 2), "seconds": (1, 1),
}  # fmt: skip
"""The figures, with the decimals of their mean and standard deviation."""

HEADINGS = {"ms": "look-up ms", "seconds": "training s"}


def leaderboard(
    session: Session, source: str, seeds: Sequence[int], form: str, training: bool, data_dir: Path | None
) -> int:
    """Prints the leaderboard of a source; returns 1 if an encoder failed, 0 otherwise."""
    from simrec import host
    from simrec.contracts import EncoderSpec
    from simrec.verbs.leaderboard import Leaderboard, ranked

    plugins = host.discover()
    board = Leaderboard(source, data_dir=data_dir, home_folder=session.home, notice=session.notice)
    errors = [*map(str, plugins.failures)]
    missing: dict[str, list[int]] = {}
    standings = []
    for name in sorted(set(plugins.names(EncoderSpec))):
        try:
            runs = board.runs(name, seeds)
            if training and len(runs) < len(seeds):
                board.check_trainable(name)
                errors += _train(session, board, name, [seed for seed in seeds if seed not in runs], data_dir)
                runs = board.runs(name, seeds)
            if absent := [seed for seed in seeds if seed not in runs]:
                missing[name] = absent
            if runs:
                session.notice(f"Measuring {', '.join(run.name for run in runs.values())} ...")
                standings.append(board.standing(name, runs))
        except SimrecError as error:
            errors.append(f"{name}: {error}")
    session.notice("Measuring raw pixels ...")
    _print(board, ranked([*standings, board.pixels()]), missing, errors, form)
    if missing and not training:
        listed = ", ".join(f"{name} (seed {', '.join(map(str, absent))})" for name, absent in missing.items())
        session.notice(f"Not trained with the default preset on {board.source}: {listed} (--train trains them)")
    for text in errors:
        fail(text)
    return 1 if errors else 0


def _train(
    session: Session, board: Leaderboard, encoder: str, seeds: Sequence[int], data_dir: Path | None
) -> list[str]:
    """Trains and indexes an encoder with each seed, up to the first that fails; returns the error line of that one.

    Raises KeyboardInterrupt if a training was interrupted.
    """
    where = ["--data-dir", str(data_dir)] if data_dir else []
    for seed in seeds:
        name = board.own_name(encoder, seed)
        if not board.unindexed(encoder, seed):
            session.notice(f"Training {encoder}, seed {seed}, as {name}.")
            words = ["--name", name, "--seed", str(seed), "--data", board.source, "--replace", *where]
            if status := session.run("train", encoder, *words):
                return [f"{encoder}: seed {seed} was not trained (exit status {status}): fix the error above"]
            if board.interrupted(name):
                raise KeyboardInterrupt
        session.notice(f"Indexing {name}.")
        if status := session.run("index", "build", name, board.source, *where):
            return [f"{encoder}: seed {seed} was not indexed (exit status {status}): fix the error above"]
    return []


def _print(
    board: Leaderboard, standings: Sequence[Standing], missing: dict[str, list[int]], errors: Sequence[str], form: str
) -> None:
    if form == "json":
        answer = {
            "source": board.source,
            "how": board.how,
            "queries": len(board.queries),
            "catalogue": len(board.pictures),
            "reduced": board.pictures.reduced,
            "standings": [standing.to_json() for standing in standings],
            "not_trained": missing,
            "errors": list(errors),
        }
        say(json.dumps(answer, indent=1, ensure_ascii=False))
        return
    columns = ["encoder", "seeds", "bytes", *(HEADINGS.get(column, column) for column in COLUMNS)]
    rows = [_cells(standing) for standing in standings]
    method = (
        f"{len(board.queries):,} test pictures looked up among {len(board.pictures):,} items"
        if board.how == "test"
        else f"each of {len(board.pictures):,} items looked up among the others"
    )
    reduced = " (REDUCED: a part of the data set)" if board.pictures.reduced else ""
    title = f"{board.source}: {method}{reduced}"
    if form == "table":
        table(columns, rows, title=title)
        return
    say(f"{title}\n")
    say(_line(columns))
    say("|---" + "|---:" * (len(columns) - 1) + "|")
    for row in rows:
        say(_line(row))


def _cells(standing: Standing) -> list[str]:
    cells = [standing.encoder, str(len(standing.seeds)) if standing.seeds else "-", str(standing.bytes)]
    for figure, (digits, finer) in COLUMNS.items():
        mean, deviation = standing.mean(figure), standing.deviation(figure)
        spread = "" if deviation is None else f" ± {deviation:.{finer}f}"
        cells.append("-" if mean is None else f"{mean:.{digits}f}{spread}")
    return cells


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
