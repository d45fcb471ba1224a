"""Serves the page's files, which are read once: a request's path never reaches the file system."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

FOLDER = Path(__file__).parent / "page"

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""The media types of the page's files, by ending."""


@cache
def files() -> dict[str, tuple[bytes, str, str]]:
    """The page's files by their paths in the URL: contents, media type and a tag that changes with the contents."""
    contents = {}
    for file in sorted(FOLDER.iterdir()):
        if file.suffix in TYPES:
            data = file.read_bytes()
            path = "/" if file.name == "index.html" else f"/page/{file.name}"
            contents[path] = data, TYPES[file.suffix], f'"{hashlib.sha256(data).hexdigest()[:16]}"'
    return contents


def answer(request: Request) -> Response:
    """Answers with the file at the request's path."""
    data, kind, tag = files()[request.url.path]
    headers = {"ETag": tag, "Cache-Control": "no-cache"}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(data, media_type=kind, headers=headers)
