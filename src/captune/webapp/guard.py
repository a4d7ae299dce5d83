"""What stands between the network and the app: who may ask, for what, and what answers may do.

A web page of somebody else, open in the same browser, can reach 127.0.0.1, and so can every user of
the machine. So a request must be for a name of this app, come from a page of its own or from a
person, carry the cookie that the token became, and be one that the page makes (`rules`). Headers
let the browser itself refuse what would be loaded from another host.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import secrets
import threading
from collections.abc import Awaitable, Callable, Collection, Iterable, MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from captune.webapp.rules import (
    DATA_POLICY,
    JOIN,
    SLOWEST_S,
    Refusal,
    Rule,
    checked_event,
    rule_of,
)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]{1,5})?", re.ASCII)
_PORT = re.compile(r":[0-9]{1,5}$", re.ASCII)
_REFUSALS = ("application/json", "text/plain")
# ours replace them; no other site may read an answer
_REPLACED = (
    *("content-security-policy", "x-content-type-options", "referrer-policy"),
    *("cross-origin-resource-policy", "set-cookie"),
)
_ID_BYTES = 9
_REST_S = 5  # for the rest of a request that is answered already
_FORWARDED = (b"x-forwarded-", b"x-gradio-", b"forwarded")
# not in a sandbox: the page that it goes on to is of the same site
_ENTERED_POLICY = "default-src 'none'; frame-ancestors 'none'"
_ENTERED = (
    b"<!doctype html><title>captune</title>"
    b'<meta http-equiv="refresh" content="0;url=/"><a href="/">captune</a>'
)
_NOT_ENTERED = (
    "open the address that captune app printed when it started, with all that stands behind"
    " token= (a new start has a new one)"
)


class Entry:
    """The token of one running app. cookie: its name, with the port, for ports share cookies."""

    def __init__(self, port: int) -> None:
        self.token = secrets.token_urlsafe(32)
        self.cookie = f"captune-{port}"
        self._code: str | None = None
        self._lock = threading.Lock()

    def is_token(self, typed: str) -> bool:
        """Whether somebody knows the token."""
        return secrets.compare_digest(typed.encode(), self.token.encode())

    def new_code(self) -> str:
        """A code that lets one browser in, once."""
        with self._lock:
            self._code = secrets.token_urlsafe(32)
            return self._code

    def take_code(self, typed: str) -> bool:
        """Whether that is the code; it is none any more then."""
        with self._lock:
            code = self._code
            if code is None or not secrets.compare_digest(typed.encode(), code.encode()):
                return False
            self._code = None
            return True

    def new_cookie(self, *, is_secure: bool) -> str:
        """A Set-Cookie header for a browser that came with the token."""
        browser = secrets.token_urlsafe(_ID_BYTES)
        secure = "; Secure" if is_secure else ""
        value = f"{browser}.{self._seal(browser)}"
        return f"{self.cookie}={value}; Path=/; HttpOnly; SameSite=Strict{secure}"

    def browser_of(self, headers: Iterable[tuple[bytes, bytes]]) -> str | None:
        """The id of the browser whose cookie a request carries, or None without a true one."""
        for name, value in headers:
            if name != b"cookie":
                continue
            for pair in value.decode("latin-1").split(";"):
                key, _, content = pair.strip().partition("=")
                browser, _, seal = content.partition(".")
                if key == self.cookie and secrets.compare_digest(
                    seal.encode(), self._seal(browser).encode()
                ):
                    return browser
        return None

    def _seal(self, browser: str) -> str:
        return hmac.new(self.token.encode(), browser.encode(), hashlib.sha256).hexdigest()


class Guard:
    """ASGI application around another. To be the outermost: the framework adds headers of its own.

    names: the hosts that a request may be for. port: the app's own; None behind a proxy, whose port
    nobody here knows. events: numbers of those that the page has. uploads: where their files lie.
    """

    def __init__(
        self,
        app: Any,
        entry: Entry,
        *,
        names: Collection[str],
        port: int | None,
        events: Collection[int],
        uploads: Path,
    ) -> None:
        self._app, self._entry = app, entry
        self._names, self._port = names, port
        self._events, self._uploads = events, uploads

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer, or refuse with a status of 4xx and a sentence."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            exchange = _Exchange(scope["headers"], receive, send)
            try:
                await self._answer(scope, exchange.receive, exchange.send)
            except Refusal as refusal:
                sentence = f"captune app: {refusal}\n".encode()
                await _say(exchange.send, refusal.status, sentence)

    async def _answer(self, scope: Message, receive: Receive, send: Send) -> None:
        headers: Headers = scope["headers"]
        self._check_name(headers)
        path = scope.get("raw_path", b"").decode("latin-1")
        if scope["method"] == "GET" and path == "/" and scope["query_string"]:
            await self._admit(scope, send)
            return
        self._check_site(headers)
        browser = self._entry.browser_of(headers)
        if browser is None:
            raise Refusal(403, _NOT_ENTERED)
        rule = rule_of(scope["method"], path)
        if rule is None:
            raise Refusal(403, "the page asks for nothing of that kind")
        if path == JOIN:
            receive = await self._checked(rule, headers, receive)
        own = dict(scope) | {"headers": self._own(headers), "captune.browser": browser}
        await self._app(own, receive, _guarded(rule, send))

    async def _admit(self, scope: Message, send: Send) -> None:
        """A browser comes with the token, or with the code of `--open`."""
        headers = scope["headers"]
        typed = parse_qs(scope["query_string"].decode("latin-1"))
        code, token = typed.get("code", [""])[0], typed.get("token", [""])[0]
        if code and self._entry.take_code(code):
            # the file that opened the browser is another site; the page itself goes on from here
            entered = [(b"content-type", b"text/html"), self._cookie(headers)]
            await _say(send, 200, _ENTERED, entered, _ENTERED_POLICY)
            return
        self._check_site(headers)
        if self._entry.is_token(token):
            known = self._entry.browser_of(headers) is not None
            cookie = [] if known else [self._cookie(headers)]
            await _say(send, 303, b"", [(b"location", b"/"), *cookie])
        elif self._entry.browser_of(headers) is not None and not (code or token):
            # as the framework's ?deep_link=, which the page has no use for
            await _say(send, 303, b"", [(b"location", b"/")])
        else:
            raise Refusal(403, _NOT_ENTERED)

    def _check_name(self, headers: Headers) -> None:
        """Raises Refusal for another name: somebody's DNS may point one to this machine."""
        host = _values(headers, b"host")
        name = _name_of(host[0]) if len(host) == 1 else ""
        port = int(host[0].rpartition(":")[2]) if name and _PORT.search(host[0]) else 80
        if name not in self._names or self._port not in (None, port):
            shown = " and ".join(sorted(self._names))
            raise Refusal(403, f"this app answers to {shown} only, at the address that it printed")

    def _check_site(self, headers: Headers) -> None:
        """Raises Refusal for what a page of another site asks; another port is another site too."""
        host = _values(headers, b"host")[0].lower()
        sites = _values(headers, b"sec-fetch-site")
        origins = _values(headers, b"origin")
        if any(site not in ("same-origin", "none") for site in sites) or not all(
            self._is_own(origin, host) for origin in origins
        ):
            raise Refusal(
                403, "a page of another site asked; type or paste the app's address in a new tab"
            )

    def _is_own(self, origin: str, host: str) -> bool:
        if self._port is not None:
            return origin.lower() == f"http://{host}"
        scheme, _, asked = origin.lower().partition("://")
        # the port that a proxy is reached by need not stand in what it passes on
        return scheme in ("http", "https") and _name_of(asked) == _name_of(host) != ""

    def _cookie(self, headers: Headers) -> tuple[bytes, bytes]:
        is_secure = self._port is None and _values(headers, b"x-forwarded-proto") == ["https"]
        return b"set-cookie", self._entry.new_cookie(is_secure=is_secure).encode()

    def _own(self, headers: Headers) -> Headers:
        """What the framework sees: of what a proxy says, only that it speaks https."""
        return [
            (name, value)
            for name, value in headers
            if not name.startswith(_FORWARDED)
            or (self._port is None and name == b"x-forwarded-proto" and value == b"https")
        ]

    async def _checked(self, rule: Rule, headers: Headers, receive: Receive) -> Receive:
        """An event, read, checked, and handed on as one message."""
        body = await _body(headers, receive, rule.most_bytes)
        try:
            event = checked_event(body, self._events, self._uploads)
        except ValueError as error:
            raise Refusal(400, f"this is no request of the page: {error}") from None
        # the length that was announced is no longer true, and the framework asks for none
        messages = [{"type": "http.request", "body": event, "more_body": False}]

        async def once() -> Message:
            return messages.pop() if messages else await receive()

        return once


class _Exchange:
    """A request and its answer, which is over when the request is.

    An answer to half a request would close the connection, and the browser might see that alone.
    """

    def __init__(self, headers: Headers, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        sizes = _values(headers, b"content-length")
        self._is_read = sizes in ([], ["0"]) and not _values(headers, b"transfer-encoding")

    async def receive(self) -> Message:
        """Of the request."""
        message = await self._receive()
        self._is_read |= message["type"] != "http.request" or not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        """Of the answer."""
        is_last = message["type"] == "http.response.body" and not message.get("more_body", False)
        if not is_last or self._is_read:
            await self._send(message)
            return
        await self._send({**message, "more_body": True})
        with suppress(TimeoutError):
            async with asyncio.timeout(_REST_S):
                while not self._is_read:
                    await self.receive()
        await self._send({"type": "http.response.body", "body": b""})


def _guarded(rule: Rule, send: Send) -> Send:
    """Answers with our headers; what is of a type that a rule does not name becomes a download."""

    async def answer(message: Message) -> None:
        if message["type"] == "http.response.start":
            kept = [
                (name, value)
                for name, value in message.get("headers", ())
                if name.decode("latin-1").lower() not in _REPLACED
                and not name.lower().startswith(b"access-control-")
            ]
            types = rule.types if message["status"] < 400 else _REFUSALS
            found = _values(kept, b"content-type")
            if found and found[0].partition(";")[0].strip().lower() not in types:
                replaced = (b"content-type", b"content-disposition")
                kept = [pair for pair in kept if pair[0].lower() not in replaced]
                kept.append((b"content-type", b"application/octet-stream"))
                kept.append((b"content-disposition", b"attachment"))
            message["headers"] = [*kept, *_ours(rule.policy)]
        await send(message)

    return answer


async def _body(headers: Headers, receive: Receive, most_bytes: int) -> bytes:
    """Raises Refusal for one that is longer, announced or not, and for one that does not come."""
    announced = _values(headers, b"content-length")
    too_long = Refusal(413, f"a request of more than {most_bytes / 1e6:.0f} MB")
    if announced and int(announced[0]) > most_bytes:
        raise too_long
    body = bytearray()
    try:
        async with asyncio.timeout(SLOWEST_S):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    raise Refusal(400, "the browser went away")
                body += message.get("body", b"")
                if len(body) > most_bytes:
                    raise too_long
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError:
        raise Refusal(408, f"the request did not come within {SLOWEST_S} s") from None


def _name_of(host: str) -> str:
    """Without the port, as `AppOptions.names` has it; empty for what is no host."""
    found = _HOST.fullmatch(host.lower())
    return found[1].strip("[]").removesuffix(".") if found else ""


def _values(headers: Headers, wanted: bytes) -> list[str]:
    return [value.decode("latin-1") for name, value in headers if name.lower() == wanted]


def _ours(policy: str) -> Headers:
    return [
        (b"content-security-policy", policy.encode()),
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"no-referrer"),
        (b"cross-origin-resource-policy", b"same-origin"),
    ]


async def _say(
    send: Send,
    status: int,
    body: bytes,
    headers: Headers | None = None,
    policy: str = DATA_POLICY,
) -> None:
    """An answer of the guard itself, which nothing keeps."""
    given = headers or [(b"content-type", b"text/plain; charset=utf-8")]
    fixed = [(b"content-length", str(len(body)).encode()), (b"cache-control", b"no-store")]
    every = [*given, *fixed, *_ours(policy)]
    await send({"type": "http.response.start", "status": status, "headers": every})
    await send({"type": "http.response.body", "body": body})
