"""The web server: a thread of its own, that ends when it is told to, and waits for nobody long."""

from __future__ import annotations

import logging
import socket
import threading
import time
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from captune.errors import UserError
from captune.options import AppOptions

FIRST_PORT, LAST_PORT = 7860, 7959
MOST_CONNECTIONS = 512
_PATIENCE_S = 20  # for the head of a request, and for the rest of one that is answered already
_START_S = 60


def listen(options: AppOptions) -> socket.socket:
    """A socket at the address of the options. Raises UserError where nobody can listen."""
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    ports = [options.port] if options.port else range(FIRST_PORT, LAST_PORT + 1)
    failure: OSError | None = None
    for port in ports:
        try:
            return socket.create_server((options.host, port), family=family)
        except OSError as error:
            failure = error
    raise UserError(
        f"port {options.port or f'from {FIRST_PORT} on'} of {options.host}: cannot be listened at"
        f" ({failure}); choose another one with --port, or another --host"
    )


class Server:
    """Answers at a socket from `start` to `stop`."""

    def __init__(self, app: Any, place: socket.socket) -> None:
        config = uvicorn.Config(
            app,
            http=_Protocol,
            ws="none",
            lifespan="on",
            log_level="error",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=1,
        )
        self._server, self._place = uvicorn.Server(config), place
        self._thread = threading.Thread(target=self._run, name="server", daemon=True)

    def start(self) -> None:
        """Returns when it answers. A failure while it starts is a bug, and a RuntimeError."""
        self._thread.start()
        end = time.monotonic() + _START_S
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > end:
                raise RuntimeError("the web server did not start")
            time.sleep(0.01)

    def stop(self) -> None:
        """Take no more requests, and break off after a second those that are being answered."""
        # it would say of every open page that it is left
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        self._server.should_exit = True

    def join(self, seconds: float) -> bool:
        """Whether it has ended within that time."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        self._server.run(sockets=[self._place])


class _Protocol(H11Protocol):  # type: ignore[misc]
    """A connection: not more than so many at once, and none that is held open without a request."""

    _waits: Any = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            transport.abort()
        else:
            self._wait()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._is_at_work:
            self._rest()
        elif self._waits is None:
            self._wait()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self._is_at_work and self._waits is None:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._rest()
        super().connection_lost(exc)

    @property
    def _is_at_work(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _wait(self) -> None:
        self._waits = self.loop.call_later(_PATIENCE_S, self.transport.abort)

    def _rest(self) -> None:
        if self._waits is not None:
            self._waits.cancel()
            self._waits = None
