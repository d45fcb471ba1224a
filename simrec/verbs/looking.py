"""Looking up what somebody sends from afar: pictures as bytes, items, and codes that an earlier answer gave.

Nothing here reads a path that comes from outside. Encoding is left to the caller, who may do it for several at once.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias, Unpack, cast

import numpy as np

from simrec.answers import Narrowing, Wishes, strange
from simrec.contracts import Codes, Images
from simrec.errors import RequestError
from simrec.faults import LARGEST as LARGEST_NUMBER
from simrec.queries import Match, Query
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


Sent: TypeAlias = Upload | Code | str
"""What can be looked up: an upload, a code, or an item's id."""

Encode: TypeAlias = Callable[[Recommender, Images], Codes]
"""What turns images (n, h, w, c) into codes (n, dim): see `Recommender.encode`."""


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


def look_up(opened: Recommender, lookup: Lookup, encode: Encode, **wishes: Unpack[Wishes]) -> Found:
    """The items most similar to what was sent. opened: one that stays with its generation (`Recommender.pinned`).

    wishes: see `simrec.answers.Narrowing`. Raises RequestError for a question that can't be answered, ImageError for
    an upload that is no picture.
    """
    if not lookup.wanted:
        raise RequestError("nothing to look up: send a picture, or name an item of the catalogue by its id")
    sent = [*lookup.wanted, *lookup.less]
    queries = _encoded(opened, [_read(opened, one, lookup.with_copies) for one in sent], encode)
    wanted, less = queries[: len(lookup.wanted)], queries[len(lookup.wanted) :]
    query = wanted[0] if len(queries) == 1 else opened.combined(wanted, less=less)
    matches = opened.similar(query, lookup.n, **wishes)
    texts = [
        text_of(opened, query) if isinstance(one, Upload) else "" for one, query in zip(sent, queries, strict=True)
    ]
    return Found(
        matches,
        [text for text in texts[: len(wanted)] if text],
        [text for text in texts[len(wanted) :] if text],
        0 if lookup.with_copies else query.copies,
        strange(query, matches, Narrowing(**wishes)),
    )


def codes_of(opened: Recommender, uploads: Sequence[Upload], encode: Encode) -> Codes:
    """The codes (n, dim) of uploads. Raises ImageError for one that is no picture."""
    queries = _encoded(opened, [_read(opened, one, False) for one in uploads], encode)
    return np.concatenate([cast(Codes, query.code) for query in queries])


def text_of(opened: Recommender, query: Query) -> str:
    """A query's code as a text: the beginning of its encoder's digest, and its numbers (float32) in base64."""
    numbers = cast(Codes, query.code).astype("<f4").tobytes()
    return f"{opened.manifest.encoder.digest[:SHORT]}:{base64.urlsafe_b64encode(numbers).decode()}"


def _read(opened: Recommender, sent: Sent, with_copies: bool) -> Query:
    if isinstance(sent, Upload):
        name = sent.name[:LONGEST_NAME] or "the picture"
        return opened.read(sent.data, crop=sent.crop, with_copies=with_copies, shown=0, name=name)
    if isinstance(sent, Code):
        return opened.read(_code(opened, sent.text), shown=0)
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


def _encoded(opened: Recommender, queries: Sequence[Query], encode: Encode) -> list[Query]:
    """The queries, each with its code."""
    pictures = [cast(Images, query.images) for query in queries if query.code is None]
    if not pictures:
        return list(queries)
    codes = iter(encode(opened, np.concatenate(pictures)))
    digest = opened.manifest.encoder.digest
    return [
        replace(query, code=next(codes)[np.newaxis], encoder=digest) if query.code is None else query
        for query in queries
    ]
