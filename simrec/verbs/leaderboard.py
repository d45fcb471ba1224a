"""The leaderboard: compares encoders that learned from the same source, with the same queries.

It uses the recommenders in the user's home as they are: any that has the encoder (same name, and same version of its
plugin), was trained to the end on the source with the encoder's current default preset and one of the seeds, and has
that source as its catalogue (codes as float32). Missing ones are trained under the leaderboard's own names
(`own_name`), which differ for each source.
"""

from __future__ import annotations

import json
import multiprocessing
import statistics
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simrec import host, settings, store
from simrec.contracts import EncoderSpec, ImageSpec, Notice
from simrec.errors import PluginError, RequestError, StoreError
from simrec.faults import blamed_on
from simrec.home import default
from simrec.library import listing
from simrec.recommender import Recommender
from simrec.sources.load import Pictures, load
from simrec.verbs.evaluate import milliseconds

if TYPE_CHECKING:
    from simrec.evaluation import Exam

PRESET = "default"

FIGURES = ("P@1", "P@10", "MAP@100", "10-NN", "ms", "seconds")
"""The figures of each standing: those of `simrec.evaluation`, milliseconds per look-up, seconds of training."""


@dataclass(frozen=True)
class Standing:
    """One line: an encoder, its recommenders and, in the same order, their seeds.

    numbers, bytes: of a code. figures: for each of `FIGURES` one value per seed, or no values.
    """

    encoder: str
    recommenders: tuple[str, ...]
    seeds: tuple[int, ...]
    numbers: int
    bytes: int
    figures: Mapping[str, tuple[float, ...]]

    def mean(self, figure: str) -> float | None:
        """The mean over the seeds; None for a figure without values."""
        values = self.figures[figure]
        return statistics.mean(values) if values else None

    def deviation(self, figure: str) -> float | None:
        """The sample standard deviation over the seeds; None for fewer than two."""
        values = self.figures[figure]
        return statistics.stdev(values) if len(values) > 1 else None

    def to_json(self) -> dict[str, Any]:
        """As JSON values, each figure a mean and a deviation."""
        return {
            "encoder": self.encoder,
            "recommenders": list(self.recommenders),
            "seeds": list(self.seeds),
            "numbers": self.numbers,
            "bytes": self.bytes,
            **{name: {"mean": self.mean(name), "deviation": self.deviation(name)} for name in FIGURES},
        }


class Leaderboard:
    """A source, and the standings of encoders on it.

    The queries are the source's test split, or the source itself, with each picture left out of its own answer. Every
    encoder gets the same pictures, prepared by its own recipe.

    Raises RequestError for a source without labels, and what `simrec.sources.load.load` raises.
    """

    def __init__(
        self, source: str, *, data_dir: Path | None = None, home_folder: Path | None = None, notice: Notice
    ) -> None:
        from simrec.evaluation import Exam

        self._data_dir, self._notice = data_dir, notice
        self.home = home_folder or default()
        self.pictures: Pictures = load(source, ImageSpec(), data_dir=data_dir, notice=notice)
        if not self.pictures.labelled:
            raise RequestError(f"{source}: its pictures have no labels to score with: name a labelled source")
        test = self.pictures.test
        self.queries = load(test, ImageSpec(), data_dir=data_dir, notice=notice) if test is not None else self.pictures
        self.how = "leave-one-out" if test is None else "test"
        self._exam: Exam = Exam.of_labels(self.queries.labels, self.pictures.labels, leave_one_out=test is None)

    @property
    def source(self) -> str:
        """What to type to load it again, from any folder."""
        return self.pictures.name

    def check_trainable(self, encoder: str) -> None:
        """Raises PluginError, once for all seeds, if an encoder's class or default preset can't be loaded."""
        _settings_now(encoder)

    def own_name(self, encoder: str, seed: int) -> str:
        """The name of the recommender that the leaderboard itself trains for an encoder on this source."""
        return f"leaderboard-{encoder}-{seed}-{sha256(self.source.encode()).hexdigest()[:6]}"

    def runs(self, encoder: str, seeds: Sequence[int]) -> dict[int, Recommender]:
        """The recommenders of an encoder that can be compared, by seed, for the seeds that have one.

        Raises PluginError for an encoder whose settings cannot be read.
        """
        provider = host.discover().find(EncoderSpec, encoder).provider
        # Damaged recommenders count as missing, and missing ones are reported or trained.
        likely = [
            recommender
            for recommender in listing(self.home, lambda _: None)
            if _trained_as(recommender, encoder, provider, seeds) and self._answers_for_it(recommender)
        ]
        if not likely:
            return {}
        now = _settings_now(encoder)
        by_seed: dict[int, Recommender] = {}
        for recommender in likely:
            if recommender.manifest.encoder.settings == now:
                by_seed.setdefault(recommender.manifest.encoder.seed, recommender)
        return dict(sorted(by_seed.items()))

    def standing(self, encoder: str, runs: Mapping[int, Recommender]) -> Standing:
        """The figures of an encoder, from its recommenders by seed (at least one).

        Raises what `Recommender.encode` and `Recommender.pictures` raise.
        """
        first = next(iter(runs.values()))
        test = self.pictures.test
        query_images = first.pictures(test, self._data_dir, self._notice).images if test else None
        measured = []
        for run in runs.values():
            # Without a test split the queries are the catalogue, whose codes are known; some pictures measure the time.
            queries = run.codes if query_images is None else run.encode(query_images)
            shown = run.originals(list(islice(run.catalogue.all(), 210))) if query_images is None else query_images
            figures = self._exam.figures(run.catalogue.chosen(), queries)
            figures["ms"] = milliseconds(lambda image, run=run: run.index.search(run.encode(image), 10), shown)  # type: ignore[misc]
            figures["seconds"] = run.manifest.encoder.results.seconds
            measured.append(figures)
        dim = first.manifest.encoder.dim
        return Standing(
            encoder=encoder,
            recommenders=tuple(run.name for run in runs.values()),
            seeds=tuple(runs),
            numbers=dim,
            bytes=4 * dim,
            figures={name: tuple(float(figures[name]) for figures in measured) for name in FIGURES},
        )

    def pixels(self) -> Standing:
        """The figures of raw pixels, compared by cosine: 28 x 28 pixels in grey, as the built-in encoders take them."""
        from simrec import evaluation
        from simrec.index import Index

        index = Index(evaluation.pixels(self.pictures.images), "cosine")
        figures = self._exam.figures(index, evaluation.pixels(self.queries.images))
        figures["ms"] = milliseconds(lambda image: index.search(evaluation.pixels(image), 10), self.queries.images)
        size = self.pictures.images[0].size
        values = {name: (float(figures[name]),) if name in figures else () for name in FIGURES}
        return Standing("raw pixels", (), (), size, size, values)

    def unindexed(self, encoder: str, seed: int) -> bool:
        """Whether the leaderboard's own recommender is trained to the end and lacks only its catalogue."""
        name = self.own_name(encoder, seed)
        try:
            manifest = store.current(self.home / name, hold=False).manifest
        except StoreError:
            return False
        provider = host.discover().find(EncoderSpec, encoder).provider
        return (
            manifest.catalogue is None
            and not self.interrupted(name)
            and _maker(manifest.encoder.provider) == _maker(provider)
            and manifest.encoder.settings == _settings_now(encoder)
        )

    def interrupted(self, name: str) -> bool:
        """Whether Ctrl-C ended the training of a recommender in the home. Raises StoreError for a damaged one."""
        return bool(store.current(self.home / name, hold=False).manifest.encoder.results.ended == "interrupted")

    def _answers_for_it(self, recommender: Recommender) -> bool:
        """Whether it learned from the source, and its items are the source's current ones, in the same rows."""
        record, catalogue = recommender.manifest.encoder, recommender.manifest.catalogue
        if catalogue is None or not record.trained_on.source == catalogue.source == self.source:
            return False
        if catalogue.dtype != "float32" or catalogue.count != len(self.pictures):
            return False
        try:
            return tuple(item.id for item in recommender.catalogue.all()) == self.pictures.ids
        except StoreError:
            return False


def ranked(standings: Sequence[Standing]) -> list[Standing]:
    """Sorted by MAP@100, the best first."""
    return sorted(standings, key=lambda standing: standing.mean("MAP@100") or 0.0, reverse=True)


def _trained_as(recommender: Recommender, encoder: str, provider: str, seeds: Sequence[int]) -> bool:
    """Whether it has this provider's encoder, trained to the end with the default preset and one of the seeds."""
    record = recommender.manifest.encoder
    made = (record.name, _maker(record.provider), record.preset)
    finished = record.results.ended != "interrupted"
    return made == (encoder, _maker(provider), PRESET) and record.seed in seeds and finished


def _maker(provider: str) -> str:
    """What the runs of one encoder have in common: the distribution with its version ("name version").

    For simrec's own encoders it is only the name, because simrec's version rises with each release.
    """
    return "simrec" if provider.split()[0] == "simrec" else provider


def _settings_now(encoder: str) -> Mapping[str, Any]:
    """The default preset of an encoder, as a manifest keeps it.

    Its class is imported in a separate process: most need torch, which on macOS can crash beside faiss in this one.
    """
    spawning = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawning) as pool:
        try:
            return pool.submit(_settings, encoder).result()
        except BrokenProcessPool as error:
            raise PluginError(
                f"{host.discover().find(EncoderSpec, encoder)} ended the process that imported it: fix it, or "
                f"uninstall its plugin"
            ) from error


def _settings(encoder: str) -> dict[str, Any]:
    offer = host.discover().find(EncoderSpec, encoder)
    kind = host.encoder_class(offer)
    with blamed_on(str(offer)):
        values = settings.to_json(settings.choose(kind.presets, PRESET, {}, encoder))
        kept: dict[str, Any] = json.loads(json.dumps(values))  # a manifest has lists instead of tuples
        return kept
