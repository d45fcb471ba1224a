"""Answers each operation of the API: passes what a request says to a verb, and returns its answer."""

from __future__ import annotations

import base64
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, TypeVar

from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import Response

from simrec.answers import Wishes
from simrec.errors import RequestError
from simrec.recommender import Recommender
from simrec.serve import operations
from simrec.serve.answering import Json, RefusedError, fields_of, item_of
from simrec.serve.guard import COOKIE, Rules
from simrec.serve.metrics import KIND, Metrics
from simrec.serve.requests import Said
from simrec.serve.shelf import Served, Shelf
from simrec.verbs import browsing, looking

KEPT = {"Cache-Control": "private, max-age=300"}
"""How long browsers keep an item's picture: five minutes."""

NOT_KEPT = {"Cache-Control": "no-store"}

T = TypeVar("T")


class Endpoints:
    """Each method answers the operation of its name; all but the last few run in a worker's thread."""

    def __init__(self, shelf: Shelf, rules: Rules, metrics: Metrics) -> None:
        self._shelf, self._rules, self._metrics = shelf, rules, metrics

    def similar(self, request: Request, said: Said) -> Response:
        """Looks up pictures, items and codes."""
        served = self._shelf.find(said.text("recommender"))
        opened = served.now()
        lookup = looking.Lookup(
            _wanted(said), _less(said), said.integer("n", 10), said.truth("with_copies")
        )  # fmt: skip
        wishes: Wishes = {
            "where": said.text("where"), "min_score": said.number("min_score"), "distinct": said.truth("distinct"),
            "min_percentile": said.number("min_percentile"), "group_by": said.text("group_by"),
        }  # fmt: skip
        answer = looking.look_up(opened, lookup, served.together, **wishes)
        matches = [match.to_json() for match in answer.matches]
        for match in matches:
            match["fields"] = fields_of(match.get("fields", {}))
        return Json(
            {
                "matches": matches, "codes": answer.codes, "less_codes": answer.less_codes, "copies": answer.copies,
                "strange": answer.strange, **_answered_by(opened),
            },
            headers=NOT_KEPT,
        )  # fmt: skip

    def encode(self, request: Request, said: Said) -> Response:
        """Encodes pictures."""
        served = self._shelf.find(said.text("recommender"))
        opened = served.now()
        files = said.files("file")
        uploads = _uploads(files, _parts(said, len(files)))
        if not uploads:
            raise RequestError("nothing to encode: send a picture as 'file'")
        codes = looking.codes_of(opened, uploads, served.together)
        record = opened.manifest.encoder
        answer = {
            "codes": codes.tolist(), "recommender": opened.name, "encoder": record.title, "digest": record.digest
        }  # fmt: skip
        return Json(answer, headers=NOT_KEPT)

    def views(self, request: Request, said: Said) -> Response:
        """What the encoder makes of an uploaded picture."""
        opened = self._shelf.find(said.text("recommender")).now()
        files = said.files("file")
        uploads = _uploads(files, _parts(said, len(files)))
        if not uploads:
            raise RequestError("nothing to look at: send a picture as 'file'")
        return Json(_shown(browsing.views_of_upload(opened, uploads[0])), headers=NOT_KEPT)

    def recommenders(self, request: Request, said: Said) -> Response:
        """The recommenders that are served."""
        return Json({"recommenders": [_described(one.now()) for one in self._shelf.served.values()]}, headers=NOT_KEPT)

    def recommender(self, request: Request, said: Said) -> Response:
        """One recommender, and what its items can be filtered by."""
        served = self._of_path(said)
        opened = served.now()
        facets = served.facets(opened) if opened.manifest.catalogue else []
        return Json({"recommender": _described(opened), "facets": facets}, headers=NOT_KEPT)

    def items(self, request: Request, said: Said) -> Response:
        """Some items from all over the catalogue."""
        opened = self._of_path(said).now()
        items = browsing.spread(opened, said.integer("n", 24), said.text("where"))
        answer = {"items": [item_of(one) for one in items], "generation": opened.generation.name}
        return Json(answer, headers=NOT_KEPT)

    def item(self, request: Request, said: Said) -> Response:
        """One item."""
        opened = self._of_path(said).now()
        return Json(item_of(_there(lambda: browsing.item(opened, _id(said)))), headers=NOT_KEPT)

    def preview(self, request: Request, said: Said) -> Response:
        """An item's preview."""
        opened = self._of_path(said).now()
        data = opened.catalogue.preview(_id(said))
        if not data:
            one = _there(lambda: browsing.item(opened, _id(said)))
            raise RefusedError(404, f"no preview of {one.id!r:.200} in {opened.name}: its code came without a picture")
        return _picture(data)

    def original(self, request: Request, said: Said) -> Response:
        """An item's own picture."""
        opened = self._of_path(said).now()
        edge, home = said.integer("edge", 1024), self._shelf.home
        data = _there(lambda: browsing.original(opened, _id(said), edge, home))
        if data is None:
            raise RefusedError(
                404, f"no original of {_id(said)!r:.200}: its file is gone, has changed or isn't below one of your "
                f"folders ('simrec similar --originals FOLDER' adds one)",
            )  # fmt: skip
        return _picture(data)

    def item_views(self, request: Request, said: Said) -> Response:
        """What the encoder makes of an item's picture."""
        opened = self._of_path(said).now()
        one = _there(lambda: browsing.item(opened, _id(said)))
        views = browsing.views_of_item(opened, one.id, self._shelf.home, said.text("crop"))
        return Json(_shown(views), headers=KEPT)

    def session(self, request: Request, said: Said) -> Response:
        """Gives the cookie to whoever has the token."""
        answer = Response(status_code=204, headers=NOT_KEPT)
        if self._rules.token is not None:
            secure = request.url.scheme == "https"
            answer.set_cookie(COOKIE, self._rules.cookie, httponly=True, samesite="strict", secure=secure)
        return answer

    def openapi(self, request: Request, said: Said) -> Response:
        """The OpenAPI document."""
        return Json(operations.document(version("simrec"), self._rules.token is not None), headers=NOT_KEPT)

    def healthz(self, request: Request, said: Said) -> Response:
        """Says that the server answers."""
        return Json({"status": "ok"}, headers=NOT_KEPT)

    def metrics(self, request: Request, said: Said) -> Response:
        """Counts and times for Prometheus."""
        return Response(self._metrics.text(), media_type=KIND, headers=NOT_KEPT)

    def _of_path(self, said: Said) -> Served:
        return _there(lambda: self._shelf.find(said.text("name")))


def _there(look: Callable[[], T]) -> T:
    """What a path names. Raises RefusedError (404) if it isn't there."""
    try:
        return look()
    except RequestError as error:
        raise RefusedError(404, str(error)) from error


def _id(said: Said) -> str:
    return said.text("id") or ""


def _uploads(files: list[UploadFile], crops: list[str]) -> list[looking.Upload]:
    """The files with their parts, "" for the whole file."""
    return [
        looking.Upload(file.file.read(), _name(file), crop or None) for file, crop in zip(files, crops, strict=True)
    ]


def _wanted(said: Said) -> list[looking.Sent]:
    files, ids = said.files("file"), said.texts("id")
    crops = _parts(said, len(files) + len(ids))
    items = zip(ids, crops[len(files) :], strict=True)
    return [
        *_uploads(files, crops[: len(files)]), *(looking.Part(id_, crop) if crop else id_ for id_, crop in items),
        *_codes(said.texts("code")),
    ]  # fmt: skip


def _less(said: Said) -> list[looking.Sent]:
    files = said.files("less")
    return [*_uploads(files, [""] * len(files)), *said.texts("less_id"), *_codes(said.texts("less_code"))]


def _codes(texts: list[str]) -> list[looking.Code]:
    return [looking.Code(text) for text in texts]


def _parts(said: Said, count: int) -> list[str]:
    """The part of each picture, "" for the whole picture. Raises RequestError for more parts than pictures."""
    crops = said.texts("crop")
    if len(crops) > count:
        raise RequestError(f"{len(crops)} parts for {count} pictures: send one part per picture")
    return [*crops, *[""] * (count - len(crops))]


def _name(file: UploadFile) -> str:
    """What to call a file in an error: its name, on one line."""
    name = "".join(character if character.isprintable() else "?" for character in file.filename or "")
    return name[: looking.LONGEST_NAME] or "the picture"


def _picture(data: bytes) -> Response:
    kind = "image/png" if data.startswith(b"\x89PNG") else "image/jpeg"
    return Response(data, media_type=kind, headers=KEPT)


def _shown(views: browsing.Views) -> dict[str, Any]:
    def address(data: bytes | None) -> str | None:
        return None if data is None else f"data:image/png;base64,{base64.b64encode(data).decode()}"

    return {
        "seen": address(views.seen), "rebuilt": address(views.rebuilt), "difference": address(views.difference),
        "error": views.error,
    }  # fmt: skip


def _described(opened: Recommender) -> dict[str, Any]:
    record, catalogue = opened.manifest.encoder, opened.manifest.catalogue
    return {
        "name": opened.name, "items": catalogue.count if catalogue else 0, "encoder": record.title,
        "digest": record.digest[: looking.SHORT], "decodes": record.decodes, "generation": opened.generation.name,
    }  # fmt: skip


def _answered_by(opened: Recommender) -> dict[str, str]:
    return {"recommender": opened.name, "generation": opened.generation.name}
