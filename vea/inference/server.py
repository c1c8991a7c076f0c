"""Runs the page's application: connections that send nothing are let go, and their number has a limit."""

from __future__ import annotations

from typing import Any

MAX_CONNECTIONS = 1000  # at the same time; beyond it visitors get 503
_PATIENCE_S = 30.0  # for a request's headers; Gate has the same for its body


def serve(app: Any, *, host: str, port: int) -> None:
    """Serves until Ctrl-C or SIGTERM."""
    import uvicorn
    from uvicorn.protocols.http.auto import AutoHTTPProtocol

    class Patient(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
        """A connection that is closed when no request comes: uvicorn waits for headers without an end."""

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._last: Any = None  # the request that was there at the last look
            self.loop.call_later(_PATIENCE_S, self._look)

        def _look(self) -> None:
            if self.transport.is_closing():
                return
            idle = self.cycle is None or self.cycle.response_complete
            if idle and self.cycle is self._last:
                self.transport.close()
            else:
                self._last = self.cycle
                self.loop.call_later(_PATIENCE_S, self._look)

    uvicorn.run(
        app, host=host, port=port, http=Patient, log_level="warning", timeout_graceful_shutdown=5,
        limit_concurrency=MAX_CONNECTIONS, ws="none",
    )  # fmt: skip
