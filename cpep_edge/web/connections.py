"""Limits on connections to the page, applied before anything is read: total number, number per address, and time."""

import asyncio
from collections import Counter
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

MOST_CONNECTIONS = 64  # in all, including viewers
MOST_OF_ONE_ADDRESS = 24  # a browser opens six for a page, and keeps one for the stream
OPENING_S = 10.0  # a connection that is not a viewer's WebSocket by then is closed; sending files takes far less
HEADER_BYTES = 1 << 14


class BoundedConnection(H11Protocol):
    """One HTTP connection. It ends after `OPENING_S`, unless it has become a WebSocket."""

    _open: Counter[str] = Counter()  # by address, without connections that became WebSockets

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._is_counted = False
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._peer = (transport.get_extra_info("peername") or ("",))[0]
        n_open = len(self.connections)
        if n_open >= MOST_CONNECTIONS or self._open[self._peer] >= MOST_OF_ONE_ADDRESS:
            self.transport = transport
            transport.abort()
            return
        self._open[self._peer] += 1
        self._is_counted = True
        super().connection_made(transport)
        self._deadline = self.loop.call_later(OPENING_S, self._end_if_no_viewer)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._is_counted:
            self._let_go()
            super().connection_lost(exc)

    def handle_websocket_upgrade(self, event: Any) -> None:
        """Hand the connection over to the WebSocket protocol; the server limits the number of WebSockets.

        Headers are checked first, because h11 accepts characters that websockets refuses, and uvicorn crashes on such a
        refusal.
        """
        if not all(value.decode("latin-1").isprintable() for _, value in self.headers):
            self.send_400_response("a header holds what is not a character")
            return
        self._let_go()
        super().handle_websocket_upgrade(event)

    def _let_go(self) -> None:
        if self._is_counted:
            self._is_counted = False
            self._open[self._peer] -= 1
            if not self._open[self._peer]:
                del self._open[self._peer]
        if self._deadline is not None:
            self._deadline.cancel()

    def _end_if_no_viewer(self) -> None:
        if self.transport.get_protocol() is self:
            self.transport.abort()
