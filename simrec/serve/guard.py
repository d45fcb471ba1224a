"""Decides who may ask: by the name in the request, by the page that sends it, and by a token.

A page of any web site can send requests to a server on the same machine. So the server answers only under its own names
(a stranger's name may point to this machine), and refuses requests from other sites' pages.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from simrec.serve.answering import failed

COOKIE = "simrec"

LOCAL = ("localhost", "127.0.0.1", "::1")

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
        "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "geolocation=(), microphone=(), payment=()",
}
"""The headers of every answer: they tell browsers what the page may do."""

_RAW = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]


@dataclass(frozen=True)
class Rules:
    """Who may ask. names: the names that the server answers under, without a port. any_address: whether it also answers
    under any IP address, because it listens on all of them. origins: other sites whose pages may ask (CORS). token: the
    token that requests need, None for none. open: the paths that need no token.
    """

    names: frozenset[str] = frozenset(LOCAL)
    any_address: bool = False
    origins: frozenset[str] = frozenset()
    token: str | None = None
    open: frozenset[str] = frozenset()

    def is_own(self, host: str) -> bool:
        """Whether a Host header names this server."""
        name = host_name(host)
        return name in self.names or (self.any_address and _is_address(name))

    def knows_token(self, headers: Mapping[str, str]) -> bool:
        """Whether a request has the token itself, or the cookie that the server gave for it."""
        if self.token is None:
            return True
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer":
            return hmac.compare_digest(given.strip().encode(), self.token.encode())
        cookie = cookie_parser(headers.get("cookie", "")).get(COOKIE, "")
        return hmac.compare_digest(cookie.encode(), self.cookie.encode())

    @property
    def cookie(self) -> str:
        """What the cookie holds: a digest, which doesn't reveal the token."""
        return hmac.new((self.token or "").encode(), b"simrec's page", "sha256").hexdigest()


class Guard:
    """Refuses requests that break the rules, before the application sees them."""

    def __init__(self, app: ASGIApp, rules: Rules) -> None:
        self._app, self._rules = app, rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request, as ASGI asks for."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        origin = headers.get("origin", "")

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                there = {name for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *(one for one in _RAW if one[0] not in there)]
                if origin in self._rules.origins:
                    given = MutableHeaders(scope=message)
                    given["Access-Control-Allow-Origin"] = origin
                    given["Cross-Origin-Resource-Policy"] = "cross-origin"
                    given.add_vary_header("Origin")
            await send(message)

        app = self._refusal(scope, headers, origin) or self._app
        await app(scope, receive, answer)

    def _refusal(self, scope: Scope, headers: Headers, origin: str) -> ASGIApp | None:
        host, rules = headers.get("host", ""), self._rules
        if not rules.is_own(host):
            return failed(421, f"this server isn't called {host_name(host)!r:.100}: --allow-host adds the name")
        if not _from_own_page(headers, host, origin) and scope["path"] != "/":
            if origin not in rules.origins:
                return failed(403, "pages of other sites may not ask here: --allow-origin adds one that may")
            if scope["method"] == "OPTIONS":
                allowed = {
                    "Access-Control-Allow-Methods": "GET, POST", "Access-Control-Allow-Headers": "Authorization",
                    "Access-Control-Max-Age": "600",
                }  # fmt: skip
                return failed(200, "", allowed)
        if scope["path"] not in rules.open and not rules.knows_token(headers):
            return failed(
                401, "this server needs a token: send it as 'Authorization: Bearer TOKEN'",
                {"WWW-Authenticate": "Bearer"},
            )  # fmt: skip
        return None


@lru_cache(100)
def host_name(host: str) -> str:
    """The name in a Host header, without its port and brackets."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _from_own_page(headers: Headers, host: str, origin: str) -> bool:
    """Whether a request comes from this server's own page, or isn't from a page at all."""
    if origin:
        return origin in (f"http://{host}", f"https://{host}")
    return headers.get("sec-fetch-site", "none") in ("none", "same-origin")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
