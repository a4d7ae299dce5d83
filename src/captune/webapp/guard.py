"""What stands between the network and the app: who may ask, and what the page may load.

A web page of somebody else, open in the same browser, can reach 127.0.0.1 too. So a request must
be for a name of this app, and one that changes something must come from a page of this app. The
headers let the browser itself refuse whatever would be loaded from another host.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

# Gradio's page has scripts in itself and makes functions of its templates
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval';"
    " style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:;"
    " connect-src 'self'; object-src 'none'; base-uri 'self'; form-action 'self';"
    " frame-ancestors 'self'"
)
_HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)
_HARMLESS = ("GET", "HEAD", "OPTIONS")


class Guard:
    """ASGI middleware. names: the hosts that a request may be for; None for any."""

    def __init__(self, app: Any, names: frozenset[str] | None = None) -> None:
        self._app = app
        self._names = names

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer, or refuse with status 403 and a sentence."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1")
        origin = headers.get(b"origin", b"").decode("latin-1")
        if self._names is not None and _name_of(f"//{host}") not in self._names:
            await _refuse(send, "this app answers to 127.0.0.1 and localhost only")
            return
        if scope["method"] not in _HARMLESS and origin and urlsplit(origin).netloc != host:
            await _refuse(send, "a page of another site asked; open the app itself")
            return

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
            await send(message)

        await self._app(scope, receive, answer)


def _name_of(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


async def _refuse(send: Send, sentence: str) -> None:
    body = f"captune app: {sentence}\n".encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), *_HEADERS]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": body})
