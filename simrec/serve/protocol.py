"""uvicorn's HTTP on httptools, with limits on a request's size beside its body and on the time it takes to arrive."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from simrec.serve.requests import SECONDS

HEAD = 64 << 10
"""Maximum bytes of a request beside its body: its head, the beginnings of chunks, and what may follow them."""

ARRIVING = 10.0
"""Maximum seconds until a request's head has arrived."""

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
