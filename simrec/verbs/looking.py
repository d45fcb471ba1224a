"""Looking up what somebody sends from afar: pictures as bytes, items, and codes that an earlier answer gave.

Nothing here reads a path that comes from outside. What encoder and index do for a question is a piece of work that the
caller may have done for several at once: see `done`.
"""

from __future__ import annotations

import base64
import binascii
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias, Unpack, cast

import numpy as np

from simrec.answers import Narrowing, Wishes, strange
from simrec.contracts import Codes, Images
from simrec.errors import RequestError
from simrec.faults import LARGEST as LARGEST_NUMBER
from simrec.images import Crop
from simrec.queries import Match, Query
from simrec.reading import read_upload
from simrec.recommender import Recommender

SHORT = 16
"""Characters of an encoder's digest that a code is sent with."""

LONGEST_NAME = 100
"""Characters of an uploaded file's name that are repeated."""


@dataclass(frozen=True)
class Upload:
    """A picture file that somebody sent. crop: the part that is meant, see `simrec.images.Crop`."""

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
    """What encoder and index have to do for a question. queries: those that were read, the last `less` of which answers
    should not look like. n: how many items, 0 for none: only codes are wanted.
    """

    opened: Recommender
    queries: Sequence[Query]
    less: int = 0
    n: int = 0
    wishes: Wishes = field(default_factory=Wishes)


@dataclass(frozen=True)
class Result:
    """What became of it. queries: with their codes. query: all of them as one. matches: its answer."""

    queries: Sequence[Query]
    query: Query
    matches: list[Match]


Do: TypeAlias = Callable[[Work], Result]
"""What does a piece of work, maybe with that of others: see `done`."""


@dataclass(frozen=True)
class Lookup:
    """A question. wanted: one query of them all. less: what answers should not look like. n: how many items.

    with_copies: whether exact copies of the pictures are answers.
    """

    wanted: Sequence[Sent]
    less: Sequence[Sent] = ()
    n: int = 10
    with_copies: bool = False


@dataclass(frozen=True)
class Found:
    """An answer. codes, less_codes: of the uploads, as texts with which they can be looked up again, in order.

    copies: how many exact copies of the pictures were left out of it. strange: whether the pictures look like nothing
    in the catalogue.
    """

    matches: list[Match]
    codes: list[str]
    less_codes: list[str]
    copies: int
    strange: bool


def look_up(opened: Recommender, lookup: Lookup, do: Do, **wishes: Unpack[Wishes]) -> Found:
    """The items most similar to what was sent. opened: one that stays with its generation (`Recommender.pinned`).

    wishes: see `simrec.answers.Narrowing`. Raises RequestError for a question that can't be answered, ImageError for
    an upload that is no picture.
    """
    if not lookup.wanted:
        raise RequestError("nothing to look up: send a picture, or name an item of the catalogue by its id")
    sent = [*lookup.wanted, *lookup.less]
    read = [_read(opened, one, lookup.with_copies) for one in sent]
    # An answer that takes longer, as it is filtered or chosen from, is nothing that others should wait for.
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
    """The codes (n, dim) of uploads. Raises ImageError for one that is no picture."""
    result = do(Work(opened, [_read(opened, one, False) for one in uploads]))
    return np.concatenate([cast(Codes, query.code) for query in result.queries])


def done(works: Sequence[Work]) -> list[Result]:
    """Several pieces of work, encoded together and looked up together where they can be.

    Raises what is wrong with any of them.
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
        read = read_upload(sent.data, opened.manifest.encoder.input, name, crop)
        return opened.read(read, with_copies=with_copies, shown=0, name=name)
    if isinstance(sent, Code):
        return opened.read(_code(opened, sent.text), shown=0)
    if isinstance(sent, Part):
        return opened.read(f"id:{sent.id}", crop=sent.crop, with_copies=with_copies, shown=0)
    return opened.read(f"id:{sent}", with_copies=with_copies, shown=0)


def _code(opened: Recommender, text: str) -> Codes:
    """A code (1, dim). Raises RequestError for a text that `text_of` didn't write for this encoder."""
    digest, _, numbers = text.partition(":")
    dim = opened.manifest.encoder.dim
    if digest != opened.manifest.encoder.digest[:SHORT]:
        raise RequestError(f"{opened.name}: another encoder made that code: send the picture again")
    try:
        code = np.frombuffer(base64.b64decode(numbers, altchars=b"-_", validate=True), "<f4")
    except (binascii.Error, ValueError):
        code = np.empty(0, np.float32)
    if code.shape != (dim,) or not (np.abs(code) <= LARGEST_NUMBER).all():
        raise RequestError(f"{opened.name}: that is no code of {dim} numbers: send the picture again")
    return code.astype(np.float32).reshape(1, dim)


def _encoded(works: Sequence[Work]) -> list[list[Query]]:
    """The queries of each piece of work with their codes; those of one encoder go through it together."""
    coded = [list(work.queries) for work in works]
    same: dict[str, list[tuple[int, int]]] = defaultdict(list)  # others while a new generation takes over
    for number, queries in enumerate(coded):
        for place, query in enumerate(queries):
            if query.code is None:
                same[works[number].opened.manifest.encoder.digest].append((number, place))
    for digest, places in same.items():
        images = np.concatenate([cast(Images, coded[number][place].images) for number, place in places])
        codes = works[places[0][0]].opened.encode(images)
        for (number, place), code in zip(places, codes, strict=True):
            coded[number][place] = replace(coded[number][place], code=code[np.newaxis], encoder=digest)
    return coded
