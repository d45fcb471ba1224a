"""uvicorn's HTTP on httptools, with limits on the bytes of a request beside its body and on the time it may take."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from simrec.serve.requests import SECONDS

HEAD = 64 << 10
"""Maximum bytes of a request beside its body: its head, the heads of chunks and their trailers."""

ARRIVING = 10.0
"""Maximum seconds until a request's head has arrived."""

LATE = 5.0
"""Seconds beyond a body's time limit, so that the endpoint can answer before the connection is cut off."""


class Protocol(HttpToolsProtocol):
    """Closes connections whose request is too large or too slow; httptools itself has no limits."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._besides = 0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Called by asyncio."""
        super().connection_made(transport)
        self._expect(ARRIVING)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio."""
        self._expect(None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        self._besides += len(data)
        super().data_received(data)
        if self._besides > HEAD and not self.transport.is_closing():
            self.send_400_response(f"A request has more than {HEAD:,} bytes beside its body.")

    def on_message_begin(self) -> None:
        """Called by httptools."""
        super().on_message_begin()
        self._expect(ARRIVING)

    def on_headers_complete(self) -> None:
        """Called by httptools."""
        super().on_headers_complete()
        self._expect(SECONDS + LATE)

    def on_body(self, body: bytes) -> None:
        """Called by httptools."""
        self._besides -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Called by httptools."""
        self._besides = 0
        self._expect(None)
        super().on_message_complete()

    def _expect(self, seconds: float | None) -> None:
        """Closes the connection after so many seconds, unless called again before; None: never."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None else self.loop.call_later(seconds, self.transport.abort)
