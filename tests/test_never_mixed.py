"""Whatever happens to a catalogue's files, a look-up answers correctly or says what is damaged; `verify` finds it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import crashes
import pytest
import test_hostile_recommenders as hostile
from test_hostile_recommenders import LONG, SEED, SLOW, Child, ill_said, reported, shared

from simrec import store
from simrec.errors import SimrecError
from simrec.recommender import Recommender
from simrec.verbs import generations
from simrec.verbs import index as verbs
from simrec.verbs.encoding import Context

DTYPES = ["float32", "int8", "binary"]
KINDS = {
    "CURRENT": r"CURRENT", "manifest": r"generations/.*", "codes": r"segments/.*/codes\.faiss",
    "items": r"segments/.*/items\.sqlite", "previews": r"segments/.*/previews\.bin",
    "lengths": r"segments/.*/lengths\.npy",
    "fields": r"fields/.*", "removed": r"removed/.*", "encoder": r"encoder/.*",
}  # fmt: skip
"""A recommender's files, by what they hold."""

WAYS = ["flipped", "flipped", "cut", "grown", "zeroed", "swapped", "swapped"]


# What is asked, in a process of its own.


def serve() -> None:
    """See `test_hostile_recommenders.Child`."""
    hostile.serve(asked)


def asked(here: str, folder: str, small: int, picture: str) -> dict[str, Any]:
    """What a recommender says: its items, what looks like one of them and like a picture, and what `verify` finds; of
    each None where it is refused, and the errors.
    """
    store.SMALL = small
    errors: list[str] = []

    def said(question: Callable[[], Any]) -> Any:
        try:
            return question()
        except SimrecError as error:
            errors.append(str(error))
            return None

    place = Path(folder)
    found = {
        "items": said(lambda: items(Recommender(place))),
        "ranking": said(lambda: ranking(Recommender(place))),
        "looked up": said(lambda: looked_up(Recommender(place), Path(picture))),
        "problems": said(lambda: list(generations.verify(str(place)).problems)),
    }
    return {**found, "errors": errors}


def items(opened: Recommender) -> dict[str, Any]:
    """All items, with what is known of each; no preview if the item isn't found by its id."""
    catalogue = opened.catalogue
    previews = {item.id: catalogue.preview(item.id) for item in catalogue.all()}
    return {
        item.id: {
            "label": item.label, "stamp": item.stamp, "content": item.content, "source": item.source,
            "origin": item.origin, "fields": dict(item.fields),
            "preview": (shown := previews[item.id]) and hashlib.sha256(shown).hexdigest(),
        }
        for item in catalogue.all()
    }  # fmt: skip


def ranking(opened: Recommender) -> list[Any]:
    """The items nearest to some items."""
    ids = [item.id for item in opened.catalogue.all()]
    return [[[match.id, round(match.distance, 4)] for match in opened.similar(f"id:{id_}", 5)] for id_ in ids[::6]]


def looked_up(opened: Recommender, picture: Path) -> list[Any]:
    """The items that look like a picture, with all that is known of them except how near they are."""
    found = [(match.id, match.label, match.source, dict(match.fields)) for match in opened.similar(picture, 100)]
    return sorted([list(match) for match in found], key=lambda match: str(match[0]))


# What is changed.


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A catalogue for each dtype: two sources, several segments, one of which has lost rows, and five generations."""
    found = {}
    for dtype in DTYPES:
        root = tmp_path_factory.mktemp(dtype)
        crashes.prepare(root, dtype)
        context = Context(home=root / "home")
        verbs.add("mine", str(root / "more"), context=context)
        verbs.sync("mine", context=context)
        crashes.picture(999).save(root / "asked.png")
        found[dtype] = root / "home" / "mine"
    return found


def files(folder: Path, kind: str) -> list[Path]:
    """The live generation's files that hold that."""
    live = store.current(folder, hold=False)
    names = ["CURRENT", f"generations/{live.name}.json", *sorted(live.manifest.files)]
    return [folder / name for name in names if re.fullmatch(KINDS[kind], name)]


def others(folder: Path, path: Path, kind: str, healthy: dict[str, Path]) -> list[bytes]:
    """Files of the same kind from other generations, segments and recommenders."""
    every = [one for place in healthy.values() for one in sorted(place.rglob("*")) if one.is_file()]
    alike = [one for one in every if re.fullmatch(KINDS[kind], one.relative_to(_recommender(one, healthy)).as_posix())]
    own = path.read_bytes()
    return [data for one in alike if (data := one.read_bytes()) != own and one.name == path.name or kind != "encoder"]


def _recommender(path: Path, healthy: dict[str, Path]) -> Path:
    return next(place for place in healthy.values() if path.is_relative_to(place))


def change(data: bytes, way: str, random: Random, swaps: list[bytes]) -> bytes:
    """The contents of a file after a mishap."""
    changed = bytearray(data)
    where = random.randrange(len(data))
    match way:
        case "flipped":
            for _ in range(random.choice([1, 1, 8])):
                changed[random.randrange(len(data))] ^= 1 << random.randrange(8)
        case "cut":
            del changed[where:]
        case "grown":
            changed += random.choice([b"\0", data[: where + 1], random.randbytes(100)])
        case "zeroed":
            stop = random.choice([where + 1, where + 512, len(data)])
            changed[where:stop] = bytes(min(stop, len(data)) - where)
        case _:
            return random.choice(swaps) if swaps else bytes(changed[:-1])
    return bytes(changed)


def seal(folder: Path, path: Path) -> None:
    """Makes the digests correct again."""
    name, _ = (folder / "CURRENT").read_text().split()
    manifest = folder / "generations" / f"{name}.json"
    data = manifest.read_bytes()
    if path != manifest:
        values = json.loads(data)
        new = path.read_bytes()
        values["files"][path.relative_to(folder).as_posix()] = {
            "size": len(new), "sha256": hashlib.sha256(new).hexdigest(),
        }  # fmt: skip
        data = json.dumps(values).encode()
        replaced(manifest, data)
    replaced(folder / "CURRENT", f"{name} {hashlib.sha256(data).hexdigest()}\n".encode())


def replaced(path: Path, data: bytes) -> None:
    """Replaces a file that has other names with another file."""
    path.unlink()
    path.write_bytes(data)


# What is right.


@pytest.fixture(scope="module")
def right(healthy: dict[str, Path]) -> dict[str, dict[str, Any]]:
    """What the healthy ones answer, and under "known" what each id was in any generation."""
    child = Child("test_never_mixed")
    found = {}
    for dtype, folder in healthy.items():
        picture = folder.parent.parent / "asked.png"
        found[dtype] = child.ask(folder, folder=str(folder), small=store.SMALL, picture=str(picture))
        assert (found[dtype]["errors"], found[dtype]["problems"]) == ([], [])
    child.close()
    known: dict[str, list[Any]] = {}
    for folder in healthy.values():
        for one in store.kept(folder):
            state = Recommender(folder)
            state._now = type(state._now)(one, None)
            for id_, values in items(state).items():
                known.setdefault(id_, []).append([values[name] for name in OWN])
    return {**found, "known": known}


OWN = ("label", "stamp", "content", "preview")
"""What a row says about an item, under a checksum."""


def verdict(job: Job, reply: dict[str, Any], right: dict[str, Any], known: dict[str, list[Any]]) -> str:
    """The outcome in a word or two; "WRONG: ..." for one that must not happen."""
    if "lost" in reply:
        return f"WRONG: {reply['lost']}"
    every = [*reply["errors"], *(reply["problems"] or [])]
    if bad := next((f"{ill}{text}" for text in every if (ill := ill_said(f"Error: {text}", controls="\n"))), ""):
        return f"WRONG: {bad}"
    for id_, values in (reply["items"] or {}).items():
        was = [[*all_but, values["preview"] and preview] for *all_but, preview in known.get(id_, [])]
        if [values[name] for name in OWN] not in was:
            return f"WRONG: under {id_} another item's data: {values}"
    asked = ("items", "ranking", "looked up")
    refused = [what for what in asked if reply[what] is None]
    other = [what for what in asked if reply[what] not in (None, right[what])]
    if job.sealed:
        return "other answers" if other else "refused" if refused else "right"
    if job.changed and reply["problems"] == []:
        return "WRONG: verify finds nothing"
    if other == ["ranking"] and job.kind == "codes" and job.small == 0:
        return "another ranking"
    if "items" in other and job.kind == "items" and job.small == 0 and _missed(reply["items"], right["items"]):
        return "not found by id"
    if other == ["ranking"] and job.kind == "items" and job.small == 0 and _copied(reply, right):
        return "a copy not left out"
    if other:
        return f"WRONG: other {other}: {[reply[what] for what in other]!r:.500}"
    return "refused" if refused else "right"


def _missed(items: dict[str, Any] | None, right: dict[str, Any]) -> bool:
    """Whether some items aren't found by their ids, and nothing else is wrong: a damaged page of SQLite's index."""
    if items is None:
        return False
    return items == {id_: {**values, "preview": items.get(id_, values)["preview"] and values["preview"]}
                     for id_, values in right.items()}  # fmt: skip


def _copied(reply: dict[str, Any], right: dict[str, Any]) -> bool:
    """Whether answers have exact copies that should be left out, and are right otherwise: a damaged page of SQLite's
    index of contents.
    """
    content = {id_: values["content"] for id_, values in right["items"].items()}
    rows = zip(list(content)[::6], reply["ranking"], right["ranking"], strict=True)
    pairs = [([one for one in found if content[one[0]] != content[id_]], expected) for id_, found, expected in rows]
    return all(others == expected[: len(others)] for others, expected in pairs)


class Job:
    """A mutant: which file, changed how, whether it is sealed, and up to which size files are read whole."""

    def __init__(self, number: int, kinds: list[str]) -> None:
        self.number, self.random = number, Random(f"{SEED} {number}")
        self.kind, self.sealed = kinds[number % len(kinds)], number // len(kinds) % 2 == 1
        if self.kind == "CURRENT":
            self.sealed = False
        self.dtype, self.way = self.random.choice(DTYPES), self.random.choice(WAYS)
        self.small = self.random.choice([0, store.SMALL])
        self.changed = True

    def __str__(self) -> str:
        sealed = "sealed, " if self.sealed else ""
        return f"{self.number}: {self.kind} {self.way} ({sealed}{self.dtype}, whole up to {self.small})"

    def make(self, root: Path, healthy: dict[str, Path]) -> Path:
        """Makes the recommender from a healthy one."""
        healthy_one = healthy[self.dtype]
        folder = root / "mine"
        shutil.copytree(healthy_one, folder, copy_function=os.link, ignore=shutil.ignore_patterns("LOCK"))
        paths = files(folder, self.kind)
        path = self.random.choice(paths)
        data = path.read_bytes()
        swaps = others(folder, path, self.kind, healthy) if self.way == "swapped" else []
        new = change(data, self.way, self.random, swaps)
        self.changed = new.split() != data.split()  # CURRENT needs no end of its line
        replaced(path, new)
        if self.sealed:
            seal(folder, path)
        return folder


@pytest.mark.parametrize("times", [pytest.param(2000, marks=LONG), pytest.param(40_000, marks=SLOW)])
def test_a_catalogue_with_a_damaged_file_answers_correctly_or_says_so(
    tmp_path: Path, healthy: dict[str, Path], right: dict[str, Any], times: int
) -> None:
    """Half of the mutants are sealed: their digests are right, and they can say anything but an item's data under the
    id of another.
    """
    kinds = [kind for kind in KINDS if all(files(folder, kind) for folder in healthy.values())]
    assert set(KINDS) - set(kinds) <= {"lengths"}

    def work(child: Child, job: Job) -> str:
        root = tmp_path / str(job.number)
        folder = job.make(root, healthy)
        picture = healthy[job.dtype].parent.parent / "asked.png"
        reply = child.ask(root, folder=str(folder), small=job.small, picture=str(picture))
        shutil.rmtree(root)
        return verdict(job, reply, right[job.dtype], right["known"])

    jobs = [Job(number, kinds) for number in range(times)]
    verdicts = shared(work, jobs, "test_never_mixed")
    outcomes = Counter(
        (job.kind, "sealed" if job.sealed else "", said) for job, said in zip(jobs, verdicts, strict=True)
    )
    print()
    for (kind, sealed, said), count in sorted(outcomes.items()):
        print(f"{kind:10}{sealed:8}{count:6} {said:.80}")
    wrong = [f"{job}: {said}" for job, said in zip(jobs, verdicts, strict=True) if said.startswith("WRONG")]
    assert not wrong, reported(wrong)
