"""uvicorn's HTTP on httptools, with bounds: on what a request takes beside its body, and on how long it may arrive."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from simrec.serve.requests import SECONDS

HEAD = 64 << 10
"""Bytes of a request that are no body, at most: its head, what chunks begin with, and what may follow them."""

ARRIVING = 10.0
"""Seconds, at most, until a request's head is there."""

LATE = 5.0
"""Seconds more than a body may take: whoever waits for a body says that it came too late, before it is cut off."""


class Protocol(HttpToolsProtocol):
    """Closes connections on which a request takes too much or too long. httptools itself takes whatever comes."""

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
            self.send_400_response(f"A request has more than {HEAD:,} bytes beside its body.")

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
        """Closes the connection when nothing else is expected by then; None: nothing is."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None else self.loop.call_later(seconds, self.transport.abort)
