"""uvicorn's HTTP on httptools, with limits on a request's size beside its body and on the time it takes to arrive; and
its server, with connections that come to several processes in turns.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import threading
import time
from collections.abc import MutableSequence
from concurrent.futures import CancelledError
from typing import Any

from uvicorn import Config, Server
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from simrec.serve.requests import SECONDS

HEAD = 64 << 10
"""Maximum bytes of a request beside its body: its head, the beginnings of chunks, and what may follow them."""

ARRIVING = 10.0
"""Maximum seconds until a request's head has arrived."""

POLITE = 20
"""Milliseconds that a process waits for another one, with fewer connections, to take the next."""

LATE = 5.0
"""Extra seconds before a slow body is cut off, so that its reader can first answer that it came too late."""


class Protocol(HttpToolsProtocol):
    """Closes connections whose requests are too large or too slow. httptools itself has no limits."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._besides = 0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """As asyncio calls it."""
        super().connection_made(transport)
        self._expect(ARRIVING)

    def connection_lost(self, exc: Exception | None) -> None:
        """As asyncio calls it."""
        self._expect(None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """As asyncio calls it."""
        self._besides += len(data)
        super().data_received(data)
        if self._besides > HEAD and not self.transport.is_closing():
            self.send_400_response(f"The request has more than {HEAD:,} bytes beside its body.")

    def on_message_begin(self) -> None:
        """As httptools calls it."""
        super().on_message_begin()
        self._expect(ARRIVING)

    def on_headers_complete(self) -> None:
        """As httptools calls it."""
        super().on_headers_complete()
        self._expect(SECONDS + LATE)

    def on_body(self, body: bytes) -> None:
        """As httptools calls it."""
        self._besides -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """As httptools calls it."""
        self._besides = 0
        self._expect(None)
        super().on_message_complete()

    def _expect(self, seconds: float | None) -> None:
        """Closes the connection after so many seconds, unless it is called again before; None: never."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None else self.loop.call_later(seconds, self.transport.abort)


class Sharing(Server):
    """One of several processes that answer on a socket.

    It waits for connections in a thread, and lets processes with fewer connections take the next one: event loops are
    all woken by a connection, and the quickest would take nearly all.

    open: how many connections each process has, in memory that they share; place: this one's.
    """

    def __init__(self, config: Config, listening: socket.socket, open_: MutableSequence[int], place: int) -> None:
        super().__init__(config)
        self._listening, self._open, self._place = listening, open_, place

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn calls it."""
        await super().startup([])
        self._count()
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._accept, args=(loop,), daemon=True).start()

    async def on_tick(self, counter: int) -> bool:
        """As uvicorn calls it, ten times a second."""
        self._count()
        return await super().on_tick(counter)

    def _count(self) -> None:
        self._open[self._place] = len(self.server_state.connections)

    def _accept(self, loop: asyncio.AbstractEventLoop) -> None:
        self._listening.setblocking(False)
        while not self.should_exit:
            try:
                if select.select([self._listening], [], [], 1.0)[0]:
                    self._take(loop)
            except OSError:  # it was closed before it was taken, or there are too many open files
                time.sleep(0.01)
            except (RuntimeError, ValueError, CancelledError):  # the loop or the socket is closed: the process ends
                return

    def _take(self, loop: asyncio.AbstractEventLoop) -> None:
        """Takes a connection that waits, if no process with fewer takes it."""
        for _ in range(POLITE):
            if self._open[self._place] <= min(self._open):
                break
            time.sleep(0.001)
        with contextlib.suppress(BlockingIOError):  # another process was quicker
            connection, _ = self._listening.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            taken = loop.connect_accepted_socket(self._protocol, connection)
            asyncio.run_coroutine_threadsafe(taken, loop).result()
            self._count()

    def _protocol(self) -> Protocol:
        return Protocol(self.config, self.server_state, self.lifespan.state)
