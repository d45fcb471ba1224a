"""Answers and errors as JSON; an error has the sentence that the command line prints, and a status."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import isfinite
from typing import Any

from starlette.responses import Response

from simrec.contracts import Item, Value
from simrec.errors import ImageError, RequestError, SimrecError, StoreError

_ENCODER = json.JSONEncoder(allow_nan=False, separators=(",", ":"))


class RefusedError(Exception):
    """A request that the server refuses. status: the HTTP status. sentence: what, where and what to do."""

    def __init__(self, status: int, sentence: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(sentence)
        self.status, self.sentence, self.headers = status, sentence, headers


class Json(Response):
    """An answer in JSON, in ASCII only: a file's name may hold characters that no encoding can write."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """The answer's bytes."""
        return _ENCODER.encode(content).encode("ascii")


def failed(status: int, sentence: str, headers: Mapping[str, str] | None = None) -> Json:
    """An error's answer."""
    return Json({"error": sentence}, status, {"Cache-Control": "no-store", **(headers or {})})


def status_of(error: SimrecError) -> int:
    """The HTTP status of an error: 4xx if the client can fix it, 5xx if the server's owner can."""
    if isinstance(error, ImageError):
        return 422
    if isinstance(error, RequestError):
        return 400
    return 503 if isinstance(error, StoreError) else 500


def fields_of(fields: Mapping[str, Value]) -> dict[str, Value]:
    """An item's fields as JSON values; numbers that JSON doesn't have become null."""
    return {name: None if isinstance(value, float) and not isfinite(value) else value for name, value in fields.items()}


def item_of(item: Item) -> dict[str, Any]:
    """An item as JSON values."""
    return {"id": item.id, "label": item.label, "source": item.source, "fields": fields_of(item.fields)}
