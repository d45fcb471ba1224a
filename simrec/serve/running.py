"""Runs the server: its address, its names, and its end."""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections.abc import Callable, MutableSequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from simrec.errors import RequestError
from simrec.serve.app import application
from simrec.serve.guard import LOCAL, Rules
from simrec.serve.shelf import Shelf

if TYPE_CHECKING:
    import uvicorn

CONNECTIONS = 512
"""Maximum number of open connections."""

IDLE = 10
"""Seconds after which an idle connection is closed."""

ENDING = 5
"""Seconds that requests in work may take when the server ends."""


@dataclass(frozen=True)
class Share:
    """A process's share of the work. open: how many connections each process has, in memory that they share. place:
    this process's place among them. folder: for files that they share.
    """

    open: MutableSequence[int] = field(default_factory=lambda: [0])
    place: int = 0
    folder: Path | None = None

    @property
    def workers(self) -> int:
        """How many processes share the work."""
        return len(self.open)


ALONE = Share()


@dataclass(frozen=True)
class Address:
    """Where a server listens and who may ask. names: other names that it answers under. origins, token: see `Rules`."""

    host: str = "127.0.0.1"
    port: int = 8000
    names: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    token: str | None = None

    @property
    def local(self) -> bool:
        """Whether only this machine can ask."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def rules(self) -> Rules:
        """The rules about who may ask."""
        every = self.host in ("0.0.0.0", "::")
        own = [socket.gethostname().lower()] if every else [self.host.lower()]
        names = frozenset([*LOCAL, *own, *(name.lower() for name in self.names)])
        return Rules(names, every, frozenset(origin.rstrip("/") for origin in self.origins), self.token)

    def bound(self) -> socket.socket:
        """A socket that listens there. Raises RequestError if that isn't possible."""
        try:
            family = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)[0][0]
            # With IPPROTO_TCP asyncio sends each answer at once; without it each waits 40 ms (Nagle's algorithm).
            listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        except (OSError, UnicodeError) as error:
            raise RequestError(f"{self.host}: not an address of this machine ({error}): name another --host") from error
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind((self.host, self.port))
            listening.listen(CONNECTIONS)
        except OSError as error:
            listening.close()
            raise RequestError(
                f"{self.host}:{self.port}: cannot listen there ({error.strerror}): name another --port or --host"
            ) from error
        return listening

    def url(self, listening: socket.socket) -> str:
        """The URL for a browser. It has the token in the fragment, which browsers don't send to any server."""
        host = "127.0.0.1" if self.host == "0.0.0.0" else "::1" if self.host == "::" else self.host
        host = f"[{host}]" if ":" in host else host
        secret = f"#token={quote(self.token, safe='')}" if self.token else ""
        return f"http://{host}:{listening.getsockname()[1]}/{secret}"


def run(
    shelf: Shelf, address: Address, listening: socket.socket, stop: threading.Event | None = None,
    share: Share = ALONE, ready: Callable[[], None] = lambda: None,
) -> None:  # fmt: skip
    """Serves in this process until it is interrupted, or until `stop` is set.

    share: what it does of the work; ready: called just before the first request can be answered.
    """
    import uvicorn

    from simrec.serve.protocol import Protocol, Sharing

    config = uvicorn.Config(
        application(shelf, address.rules, share.workers), log_level="warning", access_log=False, server_header=False,
        proxy_headers=False, limit_concurrency=CONNECTIONS, timeout_keep_alive=IDLE, timeout_graceful_shutdown=ENDING,
        http=Protocol, ws="none",
    )  # fmt: skip
    server = uvicorn.Server(config) if share.workers == 1 else Sharing(config, listening, share.open, share.place)
    if stop is not None:
        threading.Thread(target=_end, args=(server, stop), daemon=True).start()
    ready()
    server.run(sockets=[listening])


def _end(server: uvicorn.Server, stop: threading.Event) -> None:
    stop.wait()
    server.should_exit = True
