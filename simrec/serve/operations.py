"""What the API offers, in one place: requests are checked against it, and the OpenAPI document is made from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

Kind = Literal["text", "integer", "number", "boolean", "file"]
Place = Literal["path", "query", "form"]

TYPES: Mapping[Kind, dict[str, Any]] = {
    "text": {"type": "string"},
    "integer": {"type": "integer"},
    "number": {"type": "number"},
    "boolean": {"type": "boolean"},
    "file": {"type": "string", "format": "binary"},
}
"""Each kind in JSON Schema."""


@dataclass(frozen=True)
class Parameter:
    """A parameter of a request. least, most: bounds of a number. longest: maximum characters of a text. most_often: how
    often a request may have it.
    """

    name: str
    kind: Kind
    text: str
    place: Place = "form"
    required: bool = False
    least: float | None = None
    most: float | None = None
    longest: int = 200
    most_often: int = 1
    default: str | float | None = None

    @property
    def schema(self) -> dict[str, Any]:
        """The parameter in JSON Schema."""
        one = dict(TYPES[self.kind])
        if self.least is not None:
            one["minimum"] = self.least
        if self.most is not None:
            one["maximum"] = self.most
        if self.kind == "text":
            one["maxLength"] = self.longest
        if self.default is not None:
            one["default"] = self.default
        return one if self.most_often == 1 else {"type": "array", "items": one, "maxItems": self.most_often}


@dataclass(frozen=True)
class Operation:
    """One operation of the API. name: the method of `Endpoints` that answers it. answer: the JSON schema of the answer,
    or its media types. open: whether it needs no token.
    """

    name: str
    method: Literal["GET", "POST"]
    path: str
    summary: str
    parameters: Sequence[Parameter] = ()
    answer: dict[str, Any] | Sequence[str] = ()
    status: int = 200
    open: bool = False

    def of(self, place: Place) -> dict[str, Parameter]:
        """The parameters in that place, by name."""
        return self._places[place]

    @cached_property
    def _places(self) -> dict[Place, dict[str, Parameter]]:
        places: dict[Place, dict[str, Parameter]] = {place: {} for place in get_args(Place)}
        for one in self.parameters:
            places[one.place][one.name] = one
        return places


def _object(required: Mapping[str, Any], **others: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(required), "properties": {**required, **others}}


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _reference(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


_TEXT, _NUMBER, _WHOLE, _TRUTH = ({"type": kind} for kind in ("string", "number", "integer", "boolean"))
_MAYBE_NUMBER = {"type": ["number", "null"]}
_FIELDS = {"type": "object", "additionalProperties": {"type": ["string", "number", "null"]}}
_ITEM = {"id": _TEXT, "label": _TEXT, "source": _TEXT}

SCHEMAS: dict[str, dict[str, Any]] = {
    "Error": _object({"error": _TEXT}),
    "Item": _object({**_ITEM, "fields": _FIELDS}),
    "Match": _object(
        {"query": _TEXT, "rank": _WHOLE, **_ITEM, "score": _NUMBER, "distance": _NUMBER, "percentile": _MAYBE_NUMBER},
        alike=_WHOLE, fields=_FIELDS,
    ),
    "Recommender": _object(
        {"name": _TEXT, "items": _WHOLE, "encoder": _TEXT, "digest": _TEXT, "decodes": _TRUTH, "generation": _TEXT}
    ),
    "Facet": _object(
        {"name": _TEXT, "kind": {"enum": ["number", "choice", "text"]}},
        whole=_TRUTH, least=_NUMBER, most=_NUMBER, choices=_list(_object({"value": _TEXT, "count": _WHOLE})),
    ),
    "Views": _object(
        {
            "seen": _TEXT, "rebuilt": {"type": ["string", "null"]}, "difference": {"type": ["string", "null"]},
            "error": _MAYBE_NUMBER,
        }
    ),
}  # fmt: skip
"""The schemas of answers and their parts."""

PICTURES = 16
"""How many pictures, how many items and how many codes one request may have, of each kind."""

LONGEST_CODE = 100_000
"""Maximum characters of a code."""

LONGEST_IN_ADDRESS = 4000
"""Maximum characters of a text in an address: each may take 12 there, and a request's head has room for 64 KiB."""

_NAME = Parameter("name", "text", "The recommender's name.", "path", required=True)
_ID = Parameter(
    "id", "text", "The item's id; its slashes stay slashes.", "path", required=True, longest=LONGEST_IN_ADDRESS
)
_RECOMMENDER = Parameter("recommender", "text", "Which recommender answers; by default the first one.")
_WHERE = "Only items that match this filter: price < 20 AND category = 'shoes'."
_FILE = Parameter("file", "file", "A picture file; several together are one query.", most_often=PICTURES)
_CROP = Parameter(
    "crop", "text", "The part of each file, in order: 10%,0%,90%,50% or in pixels; empty for all of it.",
    most_often=PICTURES,
)  # fmt: skip

OPERATIONS = (
    Operation(
        "similar", "POST", "/api/similar", "The items that look like pictures, items or codes.",
        (
            _FILE,
            Parameter(
                "crop", "text", "The part of each file, then of each id: 10%,0%,90%,50% or in pixels; empty for all.",
                most_often=2 * PICTURES,
            ),
            Parameter("id", "text", "An item of the catalogue.", longest=4000, most_often=PICTURES),
            Parameter("code", "text", "A code from an earlier answer.", longest=LONGEST_CODE, most_often=PICTURES),
            Parameter("less", "file", "A picture that answers should not look like.", most_often=PICTURES),
            Parameter(
                "less_id", "text", "An item that answers should not look like.", longest=4000, most_often=PICTURES,
            ),
            Parameter(
                "less_code", "text", "A code that answers should not look like.", longest=LONGEST_CODE,
                most_often=PICTURES,
            ),
            _RECOMMENDER,
            Parameter("n", "integer", "How many items.", least=1, most=1000, default=10),
            Parameter("where", "text", _WHERE, longest=10_000),
            Parameter("min_score", "number", "Only items with at least this score."),
            Parameter("min_percentile", "number", "Only items with at least this percentile.", least=0, most=100),
            Parameter("distinct", "boolean", "Only the best of items that are near-duplicates."),
            Parameter("group_by", "text", "Only the best item for each value of this field."),
            Parameter("with_copies", "boolean", "Include exact copies of the pictures."),
        ),
        _object(
            {
                "matches": _list(_reference("Match")), "codes": _list(_TEXT), "less_codes": _list(_TEXT),
                "copies": _WHOLE, "strange": _TRUTH, "recommender": _TEXT, "generation": _TEXT,
            }
        ),
    ),
    Operation(
        "encode", "POST", "/api/encode", "The codes of pictures.", (_FILE, _CROP, _RECOMMENDER),
        _object({"codes": _list(_list(_NUMBER)), "recommender": _TEXT, "encoder": _TEXT, "digest": _TEXT}),
    ),
    Operation(
        "views", "POST", "/api/views", "What the encoder sees of a picture, and the picture decoded from its code.",
        (
            Parameter("file", "file", "A picture file."),
            Parameter("crop", "text", "The part to take: 10%,0%,90%,50% or in pixels."),
            _RECOMMENDER,
        ),
        _reference("Views"),
    ),
    Operation(
        "recommenders", "GET", "/api/recommenders", "The recommenders that are served, the default one first.", (),
        _object({"recommenders": _list(_reference("Recommender"))}),
    ),
    Operation(
        "recommender", "GET", "/api/recommenders/{name}", "One recommender, and what its items can be filtered by.",
        (_NAME,), _object({"recommender": _reference("Recommender"), "facets": _list(_reference("Facet"))}),
    ),
    Operation(
        "items", "GET", "/api/recommenders/{name}/items", "Some items from all over the catalogue.",
        (
            _NAME,
            Parameter("n", "integer", "How many items.", "query", least=1, most=1000, default=24),
            Parameter("where", "text", _WHERE, "query", longest=LONGEST_IN_ADDRESS),
        ),
        _object({"items": _list(_reference("Item")), "generation": _TEXT}),
    ),
    Operation(
        "item", "GET", "/api/recommenders/{name}/items/{id}", "One item.", (_NAME, _ID), _reference("Item"),
    ),
    Operation(
        "preview", "GET", "/api/recommenders/{name}/previews/{id}", "An item's preview.",
        (_NAME, _ID), ("image/jpeg", "image/png"),
    ),
    Operation(
        "original", "GET", "/api/recommenders/{name}/originals/{id}",
        "An item's picture file, decoded and encoded again, if it lies below a folder that you indexed.",
        (_NAME, _ID, Parameter("edge", "integer", "Maximum longest edge, in pixels.", "query", least=16, most=2048,
                               default=1024)),
        ("image/jpeg", "image/png"),
    ),
    Operation(
        "item_views", "GET", "/api/recommenders/{name}/views/{id}",
        "What the encoder sees of an item's picture, and the picture decoded from its code.",
        (_NAME, _ID, Parameter("crop", "text", "The part to take: 10%,0%,90%,50% or in pixels.", "query")),
        _reference("Views"),
    ),
    Operation(
        "session", "POST", "/api/session", "Exchanges the bearer token for a cookie, which the page's pictures need.",
        status=204,
    ),
    Operation("openapi", "GET", "/api/openapi.json", "This document.", answer={"type": "object"}),
    Operation(
        "healthz", "GET", "/healthz", "Whether the server answers.", answer=_object({"status": _TEXT}), open=True,
    ),
    Operation("metrics", "GET", "/metrics", "Counts and times for Prometheus.", answer=("text/plain",)),
)  # fmt: skip
"""All operations of the API."""


def document(version: str, token: bool) -> dict[str, Any]:
    """The OpenAPI 3.1 document. token: whether the server needs a bearer token."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _described(operation)
    schemes = {"token": {"type": "http", "scheme": "bearer"}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "simrec", "version": version, "description": "Similar items for a picture."},
        "paths": paths,
        "components": {"schemas": SCHEMAS, **({"securitySchemes": schemes} if token else {})},
        **({"security": [{"token": []}]} if token else {}),
    }


def _described(operation: Operation) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "responses": {
            str(operation.status): {"description": operation.summary, **_content(operation.answer)},
            "default": {
                "description": "What went wrong, and what to do.", **_content(_reference("Error")),
            },
        },
    }  # fmt: skip
    listed = [
        {"name": one.name, "in": one.place, "required": one.required, "description": one.text, "schema": one.schema}
        for one in operation.parameters
        if one.place != "form"
    ]
    if listed:
        described["parameters"] = listed
    if form := operation.of("form"):
        texts = [one for one in form.values() if one.kind != "file"]
        content = {
            "multipart/form-data": {"schema": _form(list(form.values()))},
            "application/x-www-form-urlencoded": {"schema": _form(texts)},  # which can't hold files
        }
        described["requestBody"] = {"required": True, "content": content}
    if operation.open:
        described["security"] = []
    return described


def _form(parameters: Sequence[Parameter]) -> dict[str, Any]:
    return {
        "type": "object", "additionalProperties": False,
        "properties": {one.name: {**one.schema, "description": one.text} for one in parameters},
        "required": [one.name for one in parameters if one.required],
    }  # fmt: skip


def _content(answer: dict[str, Any] | Sequence[str]) -> dict[str, Any]:
    if isinstance(answer, dict):
        return {"content": {"application/json": {"schema": answer}}}
    return {"content": {kind: {} for kind in answer}} if answer else {}
