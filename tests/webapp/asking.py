"""Requests that no browser would send, word for word."""

from __future__ import annotations

import http.client
import socket
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from captune.webapp.server import Running


@dataclass(frozen=True)
class Answer:
    """What came back. headers: names in lower case; a name that came twice has two values."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace")


def cookie_of(app: Running) -> str:
    """What a browser that came with the token sends."""
    return app.entry.new_cookie(is_secure=False).partition(";")[0]


def ask(
    app: Running,
    method: str,
    target: str,
    body: bytes | None = None,
    *,
    has_token: bool = True,
    **headers: str,
) -> Answer:
    """target: as it goes over the wire. headers: `_` for `-`; those replace what is usual."""
    where = urlsplit(app.url)
    sent = {"Host": where.netloc} | ({"Cookie": cookie_of(app)} if has_token else {})
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    connection = http.client.HTTPConnection(str(where.hostname), where.port, timeout=20)
    try:
        connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
        for name, value in sent.items():
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        found = connection.getresponse()
        named = [(name.lower(), value) for name, value in found.getheaders()]
        # a stream has no end of its own
        streams = ("content-type", "text/event-stream; charset=utf-8") in named
        return Answer(found.status, named, b"" if streams else found.read())
    finally:
        connection.close()


def plug(app: Running) -> socket.socket:
    """A connection, with nothing said yet."""
    where: Any = urlsplit(app.url)
    return socket.create_connection((where.hostname, where.port), timeout=20)
