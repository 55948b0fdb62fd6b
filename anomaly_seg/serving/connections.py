"""Connections that bring no request: closed after a while, and bounded in number.

uvicorn's own limits do not do this: `timeout_keep_alive` begins after a first answer, so a silent connection stays open
for ever, and `limit_concurrency` refuses requests instead, good ones too, while the silent connections stay.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 30.0
"""Seconds from a connection's start, or a further request's first byte, to the end of that request's head."""
MAX_CONNECTIONS = 500
"""Connections; more are closed on arrival. A process may often open 1,024 files in all."""


class BoundedProtocol(H11Protocol):
    """uvicorn's HTTP protocol with a deadline for a request's head and a bound on the connections."""

    head_seconds, max_connections = HEAD_SECONDS, MAX_CONNECTIONS
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            transport.close()
            return
        self._update_deadline()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._update_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_deadline()
        super().connection_lost(exc)

    def _update_deadline(self) -> None:
        """Start the deadline, unless it runs; stop it once a request is being answered."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._cancel_deadline()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(self.head_seconds, self._close_if_idle)

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _close_if_idle(self) -> None:
        transport: Any = self.transport
        self._deadline = None
        answering = self.cycle is not None and not self.cycle.response_complete
        if not answering and transport.get_protocol() is self:  # a WebSocket has another by now
            transport.close()
