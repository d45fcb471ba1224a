"""After any sequence of changes a catalogue equals a dictionary, and its look-ups equal a brute-force search."""

from __future__ import annotations

import csv
import os
import secrets
import shutil
from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crashes import SEGMENTS, picture
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

import simrec
from simrec import store
from simrec.catalogue import revising
from simrec.contracts import content
from simrec.errors import DataError, RequestError
from simrec.verbs import generations, index
from simrec.verbs.encoding import Context

SEED = int(os.environ.get("SEED") or secrets.randbits(32))

DTYPES = ["float32", "int8", "binary"]
SOURCES = ("photos", "more")
NAMES = st.sampled_from([f"{number:02d}.png" for number in range(8)])
CHOICE = st.integers(0, 1 << 16)


@dataclass(frozen=True)
class Held:
    """An item in the dictionary. picture, source: their numbers."""

    picture: int
    source: str
    price: int | None = None


@dataclass
class State:
    """What a generation should be: its sources, and its items by id."""

    sources: list[str]
    items: dict[str, Held]


class Base:
    """A home with a catalogue of three photos, with which each sequence begins."""

    def __init__(self, place: Path, trained: Path, dtype: Any) -> None:
        self.place, self.dtype = place, dtype
        shutil.copytree(trained, place / "base")
        self.clock = 1_000_000_000
        self.files: dict[str, dict[str, int]] = {}
        self.reset()
        opened = simrec.build("mine", str(place / "photos"), encoder="tiny", dtype=dtype, home_folder=place / "base")
        pictures = np.stack([np.asarray(picture(number))[..., None] for number in range(PICTURES)])
        self.codes = opened.encode(pictures)

    def reset(self) -> None:
        """Restores the photos of the beginning; `more` has two others."""
        self.clock = 1_000_000_000
        for source in SOURCES:
            shutil.rmtree(self.place / source, ignore_errors=True)
            (self.place / source).mkdir()
        self.files = {source: {} for source in SOURCES}
        for number in range(3):
            self.write("photos", f"{number:02d}.png", number)
        for number in (3, 4):
            self.write("more", f"m{number:02d}.png", number)

    def write(self, source: str, name: str, number: int) -> None:
        """Writes a picture's file, with a later time than all before."""
        picture(number).save(self.place / source / name)
        self.files[source][name] = number
        self.touch(source, name)

    def touch(self, source: str, name: str) -> None:
        self.clock += 1
        os.utime(self.place / source / name, (self.clock, self.clock))


PICTURES = 64
"""The number of different pictures."""


class Catalogue(RuleBasedStateMachine):
    """Changes files and the catalogue, and the dictionary accordingly."""

    base: Base

    def __init__(self) -> None:
        super().__init__()
        self.base.reset()
        self.home = self.base.place / "home"
        shutil.rmtree(self.home, ignore_errors=True)
        shutil.copytree(self.base.place / "base", self.home, copy_function=os.link)
        self.context = Context(home=self.home)
        self.opened = simrec.open("mine", home_folder=self.home)
        self.next = 5
        items = {name: Held(number, "photos") for name, number in self.base.files["photos"].items()}
        self.state = State(["photos"], items)
        self.generations = {1: deepcopy(self.state)}

    # Files.

    @rule(name=NAMES, source=st.sampled_from(SOURCES))
    def write(self, name: str, source: str) -> None:
        """Adds a file, or replaces it with another picture."""
        self.next = self.next % (PICTURES - 1) + 1
        self.base.write(source, name if source == "photos" else f"m{name}", self.next)

    @rule(choice=CHOICE, name=NAMES)
    def copy(self, choice: int, name: str) -> None:
        source, old = self.chosen(choice)
        self.base.write(source, name if source == "photos" else f"m{name}", self.base.files[source][old])

    @rule(choice=CHOICE, name=NAMES)
    def rename(self, choice: int, name: str) -> None:
        source, old = self.chosen(choice)
        new = name if source == "photos" else f"m{name}"
        (self.base.place / source / old).rename(self.base.place / source / new)
        self.base.files[source][new] = self.base.files[source].pop(old)

    @rule(choice=CHOICE)
    def touch(self, choice: int) -> None:
        self.base.touch(*self.chosen(choice))

    @rule(choice=CHOICE)
    def delete(self, choice: int) -> None:
        source, name = self.chosen(choice)
        (self.base.place / source / name).unlink()
        del self.base.files[source][name]

    def chosen(self, choice: int) -> tuple[str, str]:
        """A file."""
        every = [(source, name) for source in SOURCES for name in sorted(self.base.files[source])]
        if not every:
            self.base.write("photos", "00.png", 0)
            every = [("photos", "00.png")]
        return every[choice % len(every)]

    # The catalogue.

    @rule()
    def sync(self) -> None:
        files = self.base.files
        if any(not files[source] for source in self.state.sources):
            with pytest.raises(DataError, match="no pictures in this folder"):
                index.sync("mine", yes=True, context=self.context)
            self.check()
            return
        counts: Counter[str] = Counter()
        coming, allowed = {}, {}
        for source in self.state.sources:
            own = {id_: held for id_, held in self.state.items.items() if held.source == source}
            gone = {id_: held for id_, held in own.items() if id_ not in files[source]}
            left = Counter(held.picture for held in gone.values())
            for id_, number in sorted(files[source].items()):
                allowed[id_] = {None}
                if id_ in own:
                    counts["unchanged" if own[id_].picture == number else "changed"] += 1
                    allowed[id_] = {own[id_].price}
                elif left[number]:
                    left[number] -= 1
                    counts["renamed"] += 1
                    allowed[id_] = {held.price for held in gone.values() if held.picture == number}
                else:
                    counts["added"] += 1
                coming[id_] = Held(number, source)
            counts["removed"] += left.total()
        outcome = index.sync("mine", yes=True, context=self.context)
        for what in ("added", "changed", "removed", "renamed", "unchanged"):
            assert getattr(outcome, what) == counts[what], what
        assert outcome.unreadable == 0
        self.opened = outcome.recommender
        prices = {item.id: item.fields.get("price") for item in self.opened.catalogue.all()}
        for id_, held in coming.items():
            assert prices[id_] in allowed[id_]
            coming[id_] = replace(held, price=prices[id_])  # type: ignore[arg-type]
        self.state.items = coming
        self.check()

    @precondition(lambda self: "more" not in self.state.sources)
    @rule()
    def add(self) -> None:
        if not self.base.files["more"]:
            return
        outcome = index.add("mine", str(self.base.place / "more"), context=self.context)
        self.state.sources.append("more")
        for id_, number in self.base.files["more"].items():
            self.state.items[id_] = Held(number, "more")
        assert outcome.added == len(self.base.files["more"])
        self.check()

    @rule(choice=CHOICE, count=st.integers(1, 4))
    def remove(self, choice: int, count: int) -> None:
        every = sorted(self.state.items)
        ids = sorted({every[(choice + step) % len(every)] for step in range(count)}) if every else []
        if not ids:
            with pytest.raises(RequestError, match="no item"):
                index.remove("mine", ["00.png"], context=self.context)
            return
        assert index.remove("mine", ids, context=self.context).removed == len(ids)
        for id_ in ids:
            del self.state.items[id_]
        self.check()

    @precondition(lambda self: self.state.items)
    @rule(choice=CHOICE, price=st.integers(0, 99))
    def give_fields(self, choice: int, price: int) -> None:
        every = sorted(self.state.items)
        ids = every[choice % len(every) :][:3]
        with (self.base.place / "prices.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["id", "price"], *([id_, price + place] for place, id_ in enumerate(ids))])
        index.set_fields("mine", str(self.base.place / "prices.csv"), context=self.context)
        for place, id_ in enumerate(ids):
            self.state.items[id_] = replace(self.state.items[id_], price=price + place)
        self.check()

    @rule(choice=CHOICE)
    def rollback(self, choice: int) -> None:
        kept = [one.number for one in generations.history("mine", home_folder=self.home) if not one.live]
        if not kept:
            return
        to = kept[choice % len(kept)]
        generations.rollback("mine", to, home_folder=self.home)
        self.state = deepcopy(self.generations[to])
        self.check()

    @rule()
    def reopen(self) -> None:
        self.opened = simrec.open("mine", home_folder=self.home)
        self.check(refresh=False)

    # What must be so.

    def check(self, *, refresh: bool = True) -> None:
        if refresh:
            self.opened.refresh()
        number = int(self.opened.generation.name)
        before = self.generations.setdefault(number, deepcopy(self.state))
        assert before == self.state  # a change that changes nothing makes no generation
        listed = {one.number: one.items for one in generations.history("mine", home_folder=self.home)}
        assert listed == {one: len(self.generations[one].items) for one in sorted(self.generations)[-store.KEPT :]}
        self.check_items()
        self.check_answers()

    def check_items(self) -> None:
        catalogue = self.opened.catalogue
        items = list(catalogue.all())
        assert len(catalogue) == len(items) == len(self.state.items)
        assert {item.id for item in items} == set(self.state.items)
        record = self.opened.manifest.catalogue
        assert record is not None
        assert [Path(source.name).name for source in record.sources] == self.state.sources
        assert len(record.segments) <= SEGMENTS
        for item in items:
            held = self.state.items[item.id]
            shown = catalogue.picture(item.id)
            assert shown is not None
            assert shown.tobytes() == picture(held.picture).tobytes()
            assert item.source == str(self.base.place / held.source / item.id)
            assert (item.fields["name"], item.fields.get("price")) == (item.id, held.price)
            assert (item.fields["width"], item.fields["height"]) == (28, 28)
            if self.base.files[held.source].get(item.id) == held.picture:
                path = self.base.place / held.source / item.id
                assert item.content == content(path.read_bytes())
                assert item.fields["bytes"] == path.stat().st_size

    def check_answers(self) -> None:
        catalogue = self.opened.catalogue
        ids = [item.id for item in catalogue.all()]
        queries = self.base.codes[:3] + np.float32(0.25)
        hits = catalogue.search(queries, 100)
        assert all(sorted(hit.item.id for hit in found) == sorted(ids) for found in hits)
        if not ids:
            return
        codes = catalogue.codes
        if self.base.dtype != "binary":
            right = self.base.codes[[self.state.items[id_].picture for id_ in ids]]
            assert np.abs(codes - right).max() <= self.step() + 1e-4
        for query, found in zip(queries, hits, strict=True):
            distances = dict(zip(ids, self.brute_force(query, codes), strict=True))
            told = [hit.distance for hit in found]
            assert told == sorted(told)
            assert np.allclose(told, [distances[hit.item.id] for hit in found], atol=1e-5, rtol=1e-5)

    def step(self) -> float:
        """The maximum error of an 8-bit code: see `simrec.index`. Values outside the range are clipped."""
        return 1e-4 if self.base.dtype == "float32" else float(np.abs(self.base.codes).max())

    def brute_force(self, query: Any, codes: Any) -> Any:
        """The distances of a query from all items, by row."""
        if self.base.dtype == "binary":
            segments = self.opened.catalogue.segments
            asked = segments[0].index.emptied()
            asked.add(query[None])
            kept = np.concatenate([one.index.packed(one.index.rows) for one in segments])
            return np.unpackbits(asked.packed([0]) ^ kept, axis=1).mean(axis=1)
        if self.opened.manifest.encoder.metric == "cosine":
            # int8 keeps codes of a length of 1, and what it keeps is what is compared.
            length = np.linalg.norm(codes, axis=1) if self.base.dtype == "float32" else 1
            return np.maximum(1 - codes @ query / np.linalg.norm(query) / length, 0)
        return np.linalg.norm(codes - query, axis=1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a small encoder, `tiny`."""
    place = tmp_path_factory.mktemp("trained")
    (place / "photos").mkdir()
    for number in range(PICTURES):
        picture(number).save(place / "photos" / f"{number:02d}.png")
    plan = simrec.Plan("pca", changes={"dim": "8"})
    simrec.train(plan, source=str(place / "photos"), name="tiny", home_folder=place / "home")
    return place / "home"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("times", "steps"),
    [(3, 6), pytest.param(100, 8, marks=pytest.mark.long), pytest.param(2000, 30, marks=pytest.mark.slow)],
)
def test_after_any_sequence_of_changes_a_catalogue_is_what_a_dictionary_is(
    tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, times: int, steps: int
) -> None:
    monkeypatch.setattr(revising, "SEGMENTS", SEGMENTS)
    monkeypatch.setattr(os, "fsync", lambda _: None)  # of power that fails nothing is shown here
    Catalogue.base = Base(tmp_path, trained, dtype)
    run: Callable[..., None] = seed(SEED)(Catalogue)  # type: ignore[assignment]
    run_state_machine_as_test(
        run,
        settings=settings(
            max_examples=times, stateful_step_count=steps, deadline=None, database=None, print_blob=False,
            phases=[Phase.generate], suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip
