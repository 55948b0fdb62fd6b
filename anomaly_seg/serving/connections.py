"""Connections that bring no request: closed after a while, and bounded in number."""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

PATIENCE = 30.0
"""Seconds from a connection's start, or a further request's first byte, to the end of that request's head."""
AT_ONCE = 500
"""Connections; more are closed on arrival. A process may often open 1,024 files in all."""


class PromptProtocol(H11Protocol):
    """uvicorn's, which by itself waits for ever for a request's head."""

    patience, at_once = PATIENCE, AT_ONCE
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.at_once:
            transport.close()
            return
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._rest()
        super().connection_lost(exc)

    def _watch(self) -> None:
        """Start the clock, unless it runs; stop it once a request is being answered."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._rest()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(self.patience, self._late)

    def _rest(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _late(self) -> None:
        transport: Any = self.transport
        self._deadline = None
        answering = self.cycle is not None and not self.cycle.response_complete
        if not answering and transport.get_protocol() is self:  # a WebSocket has another by now
            transport.close()
