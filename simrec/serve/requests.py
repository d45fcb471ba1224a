"""Reads requests and checks them against their operation before anything else: names, numbers, sizes, time."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Self

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Receive

from simrec.errors import suggestion
from simrec.serve.answering import RefusedError
from simrec.serve.operations import PICTURES, Operation, Parameter

LARGEST = 32_000_000
"""Maximum bytes of a body."""

PASSED_OVER = 100_000_000
"""How many bytes beyond that are received and thrown away: clients read no answer before they have sent the body."""

LARGE = 1_000_000
"""A body is large once so many of its bytes have arrived; only a few large ones are read at a time. What has arrived
counts, not the size that a request announces, so slow clients block nobody.
"""

AT_ONCE = 4
"""How many large bodies are read and answered at a time, by all processes of a server."""

SECONDS = 30.0
"""Maximum time for a body to arrive."""

TRUTHS = {"true": True, "1": True, "false": False, "0": False}

Values = str | int | float | bool | UploadFile


@dataclass
class Said:
    """What a request says: the values of each parameter, in order."""

    values: dict[str, list[Values]] = field(default_factory=dict)

    def text(self, name: str) -> str | None:
        """A text; None if it is missing or empty."""
        return str(value) if (value := self._one(name)) not in (None, "") else None

    def texts(self, name: str) -> list[str]:
        """All texts of that name."""
        return [str(value) for value in self.values.get(name, ())]

    def number(self, name: str) -> float | None:
        """A number; None if it is missing."""
        return value if isinstance(value := self._one(name), int | float) else None

    def integer(self, name: str, default: int) -> int:
        """A whole number, or the default if it is missing."""
        return value if isinstance(value := self._one(name), int) else default

    def truth(self, name: str) -> bool:
        """A boolean; False if it is missing."""
        return self._one(name) is True

    def files(self, name: str) -> list[UploadFile]:
        """All files of that name."""
        return [value for value in self.values.get(name, ()) if isinstance(value, UploadFile)]

    def _one(self, name: str) -> Values | None:
        return next(iter(self.values.get(name, ())), None)


class Place:
    """A place for a large body: a request takes it when its body turns out to be large, and holds it until it ends."""

    def __init__(self, places: asyncio.Semaphore) -> None:
        self._places = places
        self.taken = False

    async def take(self) -> None:
        """Waits for a place."""
        await self._places.acquire()
        self.taken = True

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.taken:
            self._places.release()


class Reading:
    """Reads requests. places: how many large bodies are read and answered at a time."""

    def __init__(self, places: int) -> None:
        self._places = asyncio.Semaphore(places)

    def place(self) -> Place:
        """A place for one request, to be used as a context manager."""
        return Place(self._places)

    async def read(self, request: Request, operation: Operation, place: Place) -> Said:
        """What a request says. place: taken if the body is large.

        Raises RefusedError for names that the operation doesn't have, invalid values, and bodies that are too large,
        too slow or malformed.
        """
        said = Said()
        _take(said, request.path_params.items(), operation.of("path"))
        _take(said, request.query_params.multi_items(), operation.of("query"))
        if form := operation.of("form"):
            _take(said, await self._form(request, place), form)
        return said

    async def _form(self, request: Request, place: Place) -> list[tuple[str, UploadFile | str]]:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in ("multipart/form-data", "application/x-www-form-urlencoded"):
            raise RefusedError(415, f"a body of the type {kind or 'none'!r:.100}: send multipart/form-data")
        try:
            async with asyncio.timeout(SECONDS) as limit:
                request._receive = _limited(request._receive, place, limit)
                form = await request.form(max_files=2 * PICTURES, max_fields=8 * PICTURES, max_part_size=200_000)
        except TimeoutError:
            sentence = f"the body took longer than {SECONDS:.0f} seconds to arrive: send less"
            raise RefusedError(408, sentence, {"Connection": "close"}) from None
        except ClientDisconnect:
            raise RefusedError(400, "the body ended early: send it again") from None
        except HTTPException as error:
            raise RefusedError(400, f"the form can't be read ({error.detail}): send multipart/form-data") from None
        return form.multi_items()


def _limited(receive: Receive, place: Place, limit: asyncio.Timeout) -> Receive:
    """Receives at most LARGEST bytes of a body; a large body waits for a place before it goes on. limit: the time
    limit, which starts again after that wait.
    """
    left = LARGEST

    async def limited() -> Message:
        nonlocal left
        message = await receive()
        left -= len(message.get("body", b""))
        if left < LARGEST - LARGE and not place.taken:
            limit.reschedule(None)
            await place.take()
            limit.reschedule(asyncio.get_running_loop().time() + SECONDS)
        if left >= 0:
            return message
        while message.get("more_body") and left > -PASSED_OVER:
            message = await receive()
            left -= len(message.get("body", b""))
        raise RefusedError(413, f"more than {LARGEST // 1_000_000} MB: send smaller pictures", {"Connection": "close"})

    return limited


def _take(said: Said, given: Iterable[tuple[str, UploadFile | str]], parameters: Mapping[str, Parameter]) -> None:
    for name, value in given:
        if name not in parameters:
            raise RefusedError(400, f"no parameter {name!r:.100}: {suggestion(name[:100], parameters)}")
        parameter = parameters[name]
        values = said.values.setdefault(name, [])
        if len(values) == parameter.most_often:
            often = "once" if parameter.most_often == 1 else f"{parameter.most_often} times"
            raise RefusedError(400, f"{name} is there more than {often}: leave some out")
        values.append(_value(value, parameter))


def _value(value: UploadFile | str, parameter: Parameter) -> Values:
    """A value as the parameter's kind. Raises RefusedError for a value that isn't of that kind or is out of bounds."""
    name = parameter.name
    if (parameter.kind == "file") != isinstance(value, UploadFile):
        raise RefusedError(400, f"{name} is {'a file' if parameter.kind == 'file' else 'not a file'}: send it as that")
    if isinstance(value, UploadFile) or parameter.kind == "text":
        if isinstance(value, str) and len(value) > parameter.longest:
            raise RefusedError(400, f"{name} has more than {parameter.longest:,} characters: shorten it")
        return value
    if parameter.kind == "boolean":
        if value not in TRUTHS:
            raise RefusedError(400, f"{name} is true or false, not {value!r:.100}")
        return TRUTHS[value]
    try:
        number = int(value) if parameter.kind == "integer" else float(value)
    except ValueError:
        number = math.nan
    least = -math.inf if parameter.least is None else parameter.least
    most = math.inf if parameter.most is None else parameter.most
    if not (math.isfinite(number) and least <= number <= most):
        what = "a whole number" if parameter.kind == "integer" else "a number"
        raise RefusedError(400, f"{name} is {what}{_between(parameter)}, not {value!r:.100}")
    return number


def _between(parameter: Parameter) -> str:
    if parameter.least is None or parameter.most is None:
        return ""
    return f" from {parameter.least:g} to {parameter.most:g}"
