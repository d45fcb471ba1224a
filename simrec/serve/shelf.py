"""The recommenders that are served: all threads share them, and they follow the newest generation."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from simrec import library
from simrec.catalogue import LocalCatalogue
from simrec.contracts import Notice
from simrec.errors import RequestError, SimrecError, StoreError, suggestion
from simrec.home import default
from simrec.recommender import Recommender, silent
from simrec.serve.batching import Together
from simrec.verbs import browsing, looking

EVERY = 0.5
"""Seconds between two checks for a newer generation."""


class Served:
    """A recommender that is served. together: encodes and looks up for all its requests, in batches."""

    def __init__(self, recommender: Recommender, notice: Notice = silent) -> None:
        self.name = recommender.name
        self.together = Together(looking.done)
        self._recommender, self._notice = recommender, notice
        self._looking, self._counting = threading.Lock(), threading.Lock()
        self._looked = time.monotonic()
        self._facets: tuple[str, list[dict[str, Any]]] = ("", [])

    def now(self) -> Recommender:
        """The recommender as it is now, for one request: it stays with its generation. If a newer generation can't be
        read, gives a notice, and the generation before goes on answering.
        """
        if time.monotonic() - self._looked > EVERY and self._looking.acquire(blocking=False):
            try:
                self._recommender.refresh()
            except StoreError as error:
                self._notice(f"{self.name}: {error}")
            finally:
                self._looked = time.monotonic()
                self._looking.release()
        return self._recommender.pinned()

    @property
    def count(self) -> int:
        """How many items it has, without checking for a newer generation."""
        catalogue = self._recommender.manifest.catalogue
        return catalogue.count if catalogue else 0

    def facets(self, opened: Recommender) -> list[dict[str, Any]]:
        """What its catalogue can be filtered by, as JSON values; read once for each generation."""
        with self._counting:
            generation = opened.generation.name
            if self._facets[0] != generation:
                self._facets = generation, [facet.to_json() for facet in browsing.facets(opened)]
            return self._facets[1]

    def warm(self) -> None:
        """Opens encoder and catalogue, so that the first request needn't wait for them.

        Raises SimrecError, which names the recommender, if it can't answer.
        """
        import numpy as np

        opened = self.now()
        record = opened.manifest.encoder
        with _naming(self.name):
            codes = opened.encode(np.zeros((1, *record.input.shape), np.uint8))
            if opened.manifest.catalogue:
                opened.similar(codes, 1)


class Shelf:
    """The recommenders by name; the first one is the default.

    home: the folder with the user's recommenders and the list of the user's own folders.
    """

    def __init__(self, recommenders: Sequence[Recommender], home: Path | None = None, notice: Notice = silent) -> None:
        self.home = home
        self._recommenders = recommenders
        self.served = {one.name: Served(one, notice) for one in recommenders}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the recommenders' files and connections."""
        for one in self._recommenders:
            one.__exit__()

    @property
    def one_process(self) -> list[str]:
        """Those whose table only one process at a time can open."""
        in_tables = {one.name: one.catalogue for one in self._recommenders if _in_a_table(one)}
        return [
            name
            for name, catalogue in in_tables.items()
            if not isinstance(catalogue, LocalCatalogue) and catalogue.engine.one_process
        ]

    def find(self, name: str | None) -> Served:
        """The recommender of that name, None for the first. Raises RequestError if it isn't served."""
        if name is None:
            return next(iter(self.served.values()))
        if name not in self.served:
            raise RequestError(f"no recommender {name!r:.120} is served: {suggestion(name, self.served)}")
        return self.served[name]


def opened(names: Sequence[str], home: Path | None = None, notice: Notice = silent) -> Shelf:
    """The recommenders of those names; without names, all of the user's own that have a catalogue, else the shipped
    `demo`.

    Raises RequestError for a name that doesn't exist or is there twice, StoreError for a recommender that is damaged or
    whose table can't be read; without names, such ones are left out with a notice.
    """
    if not names:
        return Shelf(_own(home or default(), notice) or [library.open("demo", home)], home, notice)
    recommenders = [_opened(name, home) for name in names]
    for place, one in enumerate(recommenders):
        if one.name in [other.name for other in recommenders[:place]]:
            raise RequestError(f"{one.name} is named twice: recommenders are served by their names")
    return Shelf(recommenders, home, notice)


def _own(home: Path, notice: Notice) -> list[Recommender]:
    recommenders = []
    for name in library.own(home):
        try:
            one = _opened(name, home)
        except SimrecError as error:
            notice(str(error))
            continue
        if one.manifest.catalogue:
            recommenders.append(one)
    return recommenders


def _opened(name: str, home: Path | None) -> Recommender:
    """The recommender of that name. If its items are in a table, that is opened too."""
    one = library.open(name, home)
    if _in_a_table(one):
        with _naming(name):
            one.catalogue  # noqa: B018 - which connects to the database
    return one


def _in_a_table(one: Recommender) -> bool:
    return bool(one.manifest.catalogue and one.manifest.catalogue.engine)


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Lets an error that is raised in the block name the recommender."""
    try:
        yield
    except SimrecError as error:
        said = str(error)
        raise type(error)(said if said.startswith(f"{name}: ") else f"{name}: {said}") from error
