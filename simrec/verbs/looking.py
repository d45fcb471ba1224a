"""Looks up what a remote client sends: pictures as bytes, items, and codes from earlier answers.

Nothing here reads a path that comes from outside. What the encoder and the index do for a question is a piece of work;
the caller may have several of them done together: see `done`.
"""

from __future__ import annotations

import base64
import binascii
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias, Unpack, cast

import numpy as np
from msgspec.structs import replace as changed

from simrec.answers import Narrowing, Wishes, strange
from simrec.contracts import Codes, Images
from simrec.errors import RequestError
from simrec.faults import LARGEST as LARGEST_NUMBER
from simrec.images import Crop
from simrec.queries import Match, Query
from simrec.recommender import Recommender

SHORT = 16
"""How many characters of its encoder's digest go with a code."""

LONGEST_NAME = 100
"""How many characters of an uploaded file's name are kept."""


@dataclass(frozen=True)
class Upload:
    """An uploaded picture file. crop: the part to take, see `simrec.images.Crop`."""

    data: bytes
    name: str
    crop: str | None = None


@dataclass(frozen=True)
class Code:
    """A code as `text_of` wrote it."""

    text: str


@dataclass(frozen=True)
class Part:
    """A part of an item's picture. crop: which, in per cent or in the pixels of its file."""

    id: str
    crop: str


Sent: TypeAlias = Upload | Code | Part | str
"""What can be looked up: an upload, a code, a part of an item, or an item's id."""


@dataclass(frozen=True)
class Work:
    """What the encoder and the index do for a question. queries: as they were read; answers should not look like the
    last `less` of them. n: how many items to find; 0 if only codes are wanted.
    """

    opened: Recommender
    queries: Sequence[Query]
    less: int = 0
    n: int = 0
    wishes: Wishes = field(default_factory=Wishes)


@dataclass(frozen=True)
class Result:
    """The result of a piece of work. queries: with their codes. query: all of them combined. matches: its answer."""

    queries: Sequence[Query]
    query: Query
    matches: list[Match]


Do: TypeAlias = Callable[[Work], Result]
"""A function that does a piece of work, perhaps together with others: see `done`."""


@dataclass(frozen=True)
class Lookup:
    """A question. wanted: combined into one query. less: what answers should not look like. n: how many items.

    with_copies: whether answers include exact copies of the pictures.
    """

    wanted: Sequence[Sent]
    less: Sequence[Sent] = ()
    n: int = 10
    with_copies: bool = False


@dataclass(frozen=True)
class Found:
    """An answer. codes, less_codes: of the uploads, in order, as texts by which they can be looked up again.

    copies: how many exact copies of the pictures were left out. strange: whether the pictures look like nothing in the
    catalogue.
    """

    matches: list[Match]
    codes: list[str]
    less_codes: list[str]
    copies: int
    strange: bool


def look_up(opened: Recommender, lookup: Lookup, do: Do, **wishes: Unpack[Wishes]) -> Found:
    """The items most similar to what was sent. opened: a recommender that stays with its generation
    (`Recommender.pinned`).

    wishes: see `simrec.answers.Narrowing`. Raises RequestError for a question that can't be answered, ImageError for an
    upload that isn't a picture.
    """
    if not lookup.wanted:
        raise RequestError("nothing to look up: send a picture, or name an item of the catalogue by its id")
    sent = [*lookup.wanted, *lookup.less]
    read = [_read(opened, one, lookup.with_copies) for one in sent]
    # Filtering and choosing take longer; others should not wait for that.
    quick = not any(wishes.get(name) for name in ("where", "distinct", "group_by"))
    result = do(Work(opened, read, len(lookup.less), lookup.n if quick else 0, wishes))
    matches = result.matches if quick else opened.similar(result.query, lookup.n, **wishes)
    texts = [
        text_of(opened, query) if isinstance(one, Upload) else ""
        for one, query in zip(sent, result.queries, strict=True)
    ]
    return Found(
        matches,
        [text for text in texts[: len(lookup.wanted)] if text],
        [text for text in texts[len(lookup.wanted) :] if text],
        0 if lookup.with_copies else result.query.copies,
        strange(result.query, matches, Narrowing(**wishes)),
    )


def codes_of(opened: Recommender, uploads: Sequence[Upload], do: Do) -> Codes:
    """The codes (n, dim) of uploads. Raises ImageError for one that isn't a picture."""
    result = do(Work(opened, [_read(opened, one, False) for one in uploads]))
    return np.concatenate([cast(Codes, query.code) for query in result.queries])


def done(works: Sequence[Work]) -> list[Result]:
    """Does several pieces of work: encodes and, where possible, looks up everything together.

    Raises the error of any of them.
    """
    coded = _encoded(works)
    results = []
    for work, queries in zip(works, coded, strict=True):
        query = queries[0] if len(queries) == 1 else work.opened.combined(
            queries[: len(queries) - work.less], less=queries[len(queries) - work.less :]
        )  # fmt: skip
        results.append(Result(queries, query, []))
    same: dict[object, list[int]] = defaultdict(list)
    for place, work in enumerate(works):
        if work.n:
            same[work.opened.generation.name, work.n, *sorted(work.wishes.items())].append(place)
    for places in same.values():
        first = works[places[0]]
        answers = first.opened.similar([results[place].query for place in places], first.n, **first.wishes)
        for place, matches in zip(places, answers, strict=True):
            results[place] = replace(results[place], matches=matches)
    return results


def text_of(opened: Recommender, query: Query) -> str:
    """A query's code as a text: the beginning of its encoder's digest, and its numbers (float32) in base64."""
    numbers = cast(Codes, query.code).astype("<f4").tobytes()
    return f"{opened.manifest.encoder.digest[:SHORT]}:{base64.urlsafe_b64encode(numbers).decode()}"


def _read(opened: Recommender, sent: Sent, with_copies: bool) -> Query:
    if isinstance(sent, Upload):
        name = sent.name[:LONGEST_NAME] or "the picture"
        crop = None if sent.crop is None else Crop.of(sent.crop)
        return opened.read(sent.data, crop=crop, with_copies=with_copies, shown=0, name=name)
    if isinstance(sent, Code):
        return opened.read(_code(opened, sent.text), shown=0)
    if isinstance(sent, Part):
        return opened.read(f"id:{sent.id}", crop=sent.crop, with_copies=with_copies, shown=0)
    return opened.read(f"id:{sent}", with_copies=with_copies, shown=0)


def _code(opened: Recommender, text: str) -> Codes:
    """A code (1, dim). Raises RequestError for a text that `text_of` didn't write for this encoder."""
    digest, colon, numbers = text.partition(":")
    dim = opened.manifest.encoder.dim
    if colon and digest != opened.manifest.encoder.digest[:SHORT]:
        raise RequestError(f"{opened.name}: another encoder made that code: send the picture again")
    try:
        code = np.frombuffer(base64.b64decode(numbers, altchars=b"-_", validate=True), "<f4")
    except (binascii.Error, ValueError):
        code = np.empty(0, np.float32)
    if code.shape != (dim,) or not (np.abs(code) <= LARGEST_NUMBER).all():
        raise RequestError(f"{opened.name}: that is no code of {dim} numbers: send the picture again")
    return code.astype(np.float32).reshape(1, dim)


def _encoded(works: Sequence[Work]) -> list[list[Query]]:
    """The queries of each piece of work with their codes; queries of the same encoder are encoded together."""
    coded = [list(work.queries) for work in works]
    same: dict[str, list[tuple[int, int]]] = defaultdict(list)  # several encoders while a new generation takes over
    for number, queries in enumerate(coded):
        for place, query in enumerate(queries):
            if query.code is None:
                same[works[number].opened.manifest.encoder.digest].append((number, place))
    for digest, places in same.items():
        images = np.concatenate([cast(Images, coded[number][place].images) for number, place in places])
        codes = works[places[0][0]].opened.encode(images)
        for (number, place), code in zip(places, codes, strict=True):
            coded[number][place] = changed(coded[number][place], code=code[np.newaxis], encoder=digest)
    return coded
