"""`simrec quickstart`: from nothing to a picture of similar items."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click

from simrec.cli.evaluating import print_figures
from simrec.cli.terminal import Session, data_dir_option, say, table
from simrec.errors import DataError, NotInstalledError, RequestError, TrainingError, needs

if TYPE_CHECKING:
    from simrec.recommender import Recommender
    from simrec.sources.load import Pictures

NAME = "quickstart"
ENCODER = "plain"
NEEDS = ("torch", "onnxscript")
"""The modules that training this encoder imports."""
SHEET = Path("simrec-quickstart.png")


@click.command()
@data_dir_option
@click.option("--again", is_flag=True, help="Train again even if a quickstart was done before.")
@click.pass_obj
def quickstart(session: Session, data_dir: Path | None, again: bool) -> None:
    """Do everything once, from data to contact sheet."""
    from simrec import library, store
    from simrec.home import default
    from simrec.verbs import build as building
    from simrec.verbs import evaluate as evaluating

    place = session.home or default()
    if not again and store.exists(place / NAME) and _finished(opened := library.open(NAME, place)):
        session.notice(f"Using the recommender of an earlier quickstart in {opened.folder} (--again trains a new one).")
    else:
        _check_installed()  # before downloading anything
        source = _source(session, data_dir)
        session.notice(f"1. Training the {ENCODER} encoder on {source}, without labels.")
        _train(session, source, data_dir)
        session.notice("2. Indexing.")
        with session.counting() as progress:
            opened = building.build(
                NAME, data_dir=data_dir, home_folder=place, progress=progress, notice=session.notice
            )
    session.notice("3. Measuring it against raw pixels and PCA (labels are used for this only).")
    evaluation = evaluating.evaluate(opened, data_dir=data_dir, notice=session.notice)
    print_figures(evaluation)
    session.notice("4. Looking up one test picture of each class.")
    catalogue = opened.manifest.catalogue
    assert catalogue is not None and catalogue.test is not None
    _look_up(session, opened, opened.pictures(catalogue.test, data_dir))
    say("\nTry next:")
    say(f"  {session.simrec} similar id:{next(opened.catalogue.all()).id} --index {NAME} --grid similar.png")
    say(f"  {session.simrec} similar A_PHOTO_OF_A_SHOE.jpg --index {NAME}")
    say(f"  {session.simrec} index build mine A_FOLDER_OF_PICTURES --encoder {NAME}")


def _finished(opened: Recommender) -> bool:
    """Whether an earlier quickstart finished. Raises RequestError if the name is now used for another catalogue."""
    encoder, catalogue = opened.manifest.encoder, opened.manifest.catalogue
    if catalogue and catalogue.source != encoder.trained_on.source:
        raise RequestError(f"{opened.folder}: is now a catalogue of {catalogue.source}: --again replaces it")
    return catalogue is not None and encoder.results.ended == "finished"


def _check_installed() -> None:
    for module in NEEDS:
        if find_spec(module) is None:
            raise NotInstalledError(f"encoder {ENCODER!r} {needs(module)}")


def _source(session: Session, data_dir: Path | None) -> str:
    from simrec.sources.load import open_source

    try:
        open_source("fashion-mnist", data_dir=data_dir, notice=session.notice)
    except DataError as error:
        session.notice(f"{error}.")
        session.notice(
            "REDUCED: using the 10,000 embedded test pictures instead, 8,000 as catalogue and 2,000 as queries."
        )
        return "fashion-mnist:small"
    return "fashion-mnist"


def _train(session: Session, source: str, data_dir: Path | None) -> None:
    words = ["train", ENCODER, "--name", NAME, "--data", source, "--replace"]
    words += ["--data-dir", str(data_dir)] if data_dir else []
    if session.run(*words):
        raise TrainingError("the training failed (see the error above): fix that and run 'simrec quickstart' again")


def _look_up(session: Session, opened: Recommender, test: Pictures) -> None:
    from simrec import sheets
    from simrec.files import replacing
    from simrec.queries import Query

    firsts = {label: row for row, label in reversed(list(enumerate(test.labels)))}
    rows = []
    for number, (label, row) in enumerate(sorted(firsts.items(), key=lambda pair: pair[1])):
        matches = opened.similar(Query(test.ids[row], test.images[row : row + 1]), 10)
        if number == 0:
            cells = [[str(m.rank), m.id, m.label, f"{m.score:.3f}"] for m in matches]
            table(["rank", "id", "label", "score"], cells, title=f"Similar to {test.ids[row]} ({label})")
        tiles = [sheets.Tile(test.images[row], (label, "query"), query=True)]
        tiles += [
            sheets.Tile(picture, (m.label, f"{m.score:.3f}"), m.label == label)
            for m in matches
            if (picture := opened.catalogue.picture(m.id)) is not None
        ]
        rows.append(tiles)
    title = f"One test picture of each class and its ten most similar items among {len(opened.index):,}"
    with replacing(SHEET) as file:
        sheets.contact_sheet(rows, title).save(file, "PNG")
    session.notice(f"Drawn: {SHEET.absolute()}")
