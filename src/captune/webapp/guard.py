"""What stands between the network and the app: who may ask, for what, and what answers may do.

A web page of somebody else, open in the same browser, can reach 127.0.0.1, and so can every user of
the machine. So a request must be for a name of this app, come from a page of its own or from a
person, carry the cookie that the token became, and be one that the page makes (`ROUTES`). Headers
let the browser itself refuse what would be loaded from another host.

The framework has five times as many routes. One of them fetches any address that is asked for and
hands it out as the app's own; others run programs, describe every function, or keep states. A test
lists them all, so that a newer framework is looked at before it is used. An event of the page is
checked and rebuilt, with values that its fields can hold, before the framework sees it, which would
fetch a file that any field names by an address.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import secrets
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import parse_qs

import msgspec
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

# the page's: Gradio's has scripts in itself and makes functions of its templates
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval';"
    " style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:;"
    " connect-src 'self'; object-src 'none'; base-uri 'self'; form-action 'self';"
    " frame-ancestors 'self'"
)
# a report is made of runs that may come from anybody: no origin, no network
REPORT_POLICY = (
    "sandbox allow-scripts allow-downloads; default-src 'none'; script-src 'unsafe-inline';"
    " style-src 'unsafe-inline'; img-src data: blob:; font-src data:; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'self'"
)
# all that is no page
DATA_POLICY = "sandbox; default-src 'none'; frame-ancestors 'none'"
REPORTS = "captune-page"
JOIN, UPLOAD = "/gradio_api/queue/join", "/gradio_api/upload"
MOST_EVENT_BYTES = 1_000_000
SLOWEST_S = 15  # for the body of an event, and between two pieces of an upload

_FILE = r"[\w-][\w.-]{0,127}"
_JSON = ("application/json",)
_STREAM = ("text/event-stream",)
_NAMED = msgspec.defstruct("Named", [("name", str)])  # what a click on the strip sends
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::([0-9]{1,5}))?", re.ASCII)
_REFUSALS = (*_JSON, "text/plain")
_REST_S = 5  # for the rest of a request that is answered already
_FORWARDED = (b"x-forwarded-", b"x-gradio-", b"forwarded")
# not in a sandbox: the page that it goes on to is of the same site
_ENTERED_POLICY = "default-src 'none'; frame-ancestors 'none'"
_ENTERED = (
    "<!doctype html><title>captune</title>"
    '<meta http-equiv="refresh" content="0;url=/"><a href="/">captune</a>'
)
_NOT_ENTERED = (
    "open the address that captune app printed when it started, with all that stands behind"
    " token= (a new start has a new one)"
)
# browsers ask for it without a cookie, and there is nothing to install
_MANIFEST = b'<link rel="manifest" href="/manifest.json" />'


class Refusal(Exception):
    """A request that is not taken. status: of the answer, whose body is the sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


@dataclass(frozen=True)
class Route:
    """A route that the page needs. path: a regular expression. types: of its answers."""

    method: str
    path: str
    types: tuple[str, ...]
    policy: str = DATA_POLICY


_SCRIPTS = (
    *("text/javascript", "application/javascript", "text/css", "image/svg+xml", "image/png"),
    *("font/woff2", "font/woff", "font/ttf", "application/wasm"),
)
ROUTES = (
    Route("GET", "/", ("text/html",), POLICY),
    Route("GET", rf"/{REPORTS}/[\w-]{{1,64}}", ("text/html",), REPORT_POLICY),
    Route("GET", rf"/(assets|static)(/{_FILE}){{1,4}}", _SCRIPTS),
    Route("GET", "/theme.css", ("text/css",)),
    Route("GET", "/favicon.ico", ("image/svg+xml",)),
    # is it still the app that the page came from? asked when a stream broke
    Route("GET", "/gradio_api/app_id", _JSON),
    Route("GET", "/gradio_api/queue/data", _STREAM),
    Route("GET", "/gradio_api/upload_progress", _STREAM),
    Route("POST", JOIN, _JSON),
    Route("POST", UPLOAD, _JSON),
)


def route_of(method: str, path: str) -> Route | None:
    """The route of a request, or None where the page makes none of that kind.

    path: as it was sent. One with %, \\, // or .. in it fits none.
    """
    for route in ROUTES:
        if route.method == method and re.fullmatch(route.path, path, re.ASCII):
            return route
    return None


class UploadedFile(msgspec.Struct):
    """What the page sends of a file that it uploaded."""

    path: str
    meta: dict[Literal["_type"], Literal["gradio.FileData"]]
    orig_name: str | None = None


class _Event(msgspec.Struct):
    """What the framework is given of an event."""

    data: Any
    fn_index: int
    session_hash: Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9_-]{1,64}\Z")]
    event_data: Any = None
    trigger_id: int | None = None


class EventType(NamedTuple):
    """The type of the tuple of an event's values, and whether what came beside them is read."""

    values: Any
    is_read: bool


def checked_event(body: bytes, events: Mapping[int, EventType], uploads: Path) -> bytes:
    """The event in it, with the page's own keys alone and values that its fields can hold.

    events: those that the page has, by number. uploads: where files have to lie that it names.
    Raises ValueError with a phrase for what the page does not send.
    """
    try:
        event = msgspec.json.decode(body, type=_Event)
    except RecursionError:
        raise ValueError("the data are nested too deep") from None
    if (kind := events.get(event.fn_index)) is None:
        raise ValueError("the page has no such event")
    event.data = msgspec.convert(event.data, kind.values)
    event.event_data = msgspec.convert(event.event_data, _NAMED) if kind.is_read else None
    listed = [one for value in event.data if isinstance(value, list) for one in value]
    files = [Path(one.path) for one in listed if isinstance(one, UploadedFile)]
    if any(".." in file.parts or uploads not in file.parents for file in files):
        raise ValueError("it names a file that was not uploaded")
    return msgspec.json.encode(event)


class Entry:
    """The token of one running app. cookie: its name, with the port, for ports share cookies."""

    def __init__(self, port: int) -> None:
        self.token = secrets.token_urlsafe(32)
        self.cookie = f"captune-{port}"
        self._code: str | None = None

    def is_token(self, typed: str) -> bool:
        """Whether somebody knows the token."""
        return secrets.compare_digest(typed.encode(), self.token.encode())

    def new_code(self) -> str:
        """A code that lets one browser in, once."""
        self._code = secrets.token_urlsafe(32)
        return self._code

    def take_code(self, typed: str) -> bool:
        """Whether that is the code; it is none any more then. Of the server's one thread."""
        code = self._code
        if code is None or not secrets.compare_digest(typed.encode(), code.encode()):
            return False
        self._code = None
        return True

    def new_cookie(self, *, is_secure: bool) -> str:
        """A Set-Cookie header for a browser that came with the token."""
        browser = secrets.token_urlsafe(9)
        secure = "; Secure" if is_secure else ""
        value = f"{browser}.{self._seal(browser)}"
        return f"{self.cookie}={value}; Path=/; HttpOnly; SameSite=Strict{secure}"

    def browser_of(self, headers: Headers) -> str | None:
        """The id of the browser whose cookie a request carries, or None without a true one."""
        for pair in ";".join(headers.getlist("cookie")).split(";"):
            key, _, content = pair.strip().partition("=")
            browser, _, seal = content.partition(".")
            if key == self.cookie and secrets.compare_digest(
                seal.encode(), self._seal(browser).encode()
            ):
                return browser
        return None

    def _seal(self, browser: str) -> str:
        return hmac.new(self.token.encode(), browser.encode(), hashlib.sha256).hexdigest()


@dataclass(frozen=True)
class Guard:
    """ASGI application around another. To be the outermost: the framework adds headers of its own.

    names: the hosts that a request may be for. port: the app's own; None behind a proxy, whose port
    nobody here knows. events: those that the page has, by number. uploads: where their files lie.
    """

    app: Any
    entry: Entry
    names: Collection[str]
    port: int | None
    events: Mapping[int, EventType]
    uploads: Path

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer, or refuse with a status of 4xx and a sentence."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            exchange = _Exchange(Headers(scope=scope), receive, send)
            try:
                await self._answer(scope, exchange.receive, exchange.send)
            except Refusal as refusal:
                sentence = f"captune app: {refusal}\n"
                response = PlainTextResponse(sentence, refusal.status, _ours())
                await response(scope, exchange.receive, exchange.send)

    async def _answer(self, scope: Message, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        self._check_name(headers)
        path = scope.get("raw_path", b"").decode("latin-1")
        if scope["method"] == "GET" and path == "/" and scope["query_string"]:
            await self._admit(scope["query_string"], headers)(scope, receive, send)
            return
        self._check_site(headers)
        browser = self.entry.browser_of(headers)
        if browser is None:
            raise Refusal(403, _NOT_ENTERED)
        route = route_of(scope["method"], path)
        if route is None:
            raise Refusal(403, "the page asks for nothing of that kind")
        if path == JOIN:
            receive = await self._checked(Request(scope, receive))
        own = dict(scope) | {"headers": self._own(headers), "captune.browser": browser}
        if path == "/":
            await self._page(own, receive, _guarded(route, send))
        else:
            await self.app(own, receive, _guarded(route, send))

    def _admit(self, query: bytes, headers: Headers) -> Response:
        """A browser comes with the token, or with the code of `--open`."""
        typed = parse_qs(query.decode("latin-1"))
        code, token = typed.get("code", [""])[0], typed.get("token", [""])[0]
        if code and self.entry.take_code(code):
            # the file that opened the browser is another site; the page itself goes on from here
            entered = _ours(_ENTERED_POLICY) | self._cookie(headers)
            return Response(_ENTERED, 200, entered, "text/html")
        self._check_site(headers)
        known = self.entry.browser_of(headers) is not None
        # without either: as the framework's ?deep_link=, which the page has no use for
        if self.entry.is_token(token) or (known and not (code or token)):
            return RedirectResponse("/", 303, _ours() | ({} if known else self._cookie(headers)))
        raise Refusal(403, _NOT_ENTERED)

    def _check_name(self, headers: Headers) -> None:
        """Raises Refusal for another name: somebody's DNS may point one to this machine."""
        host = headers.getlist("host")
        name, port = _parsed(host[0]) if len(host) == 1 else ("", None)
        if name not in self.names or self.port not in (None, int(port or 80)):
            shown = " and ".join(sorted(self.names))
            raise Refusal(403, f"this app answers to {shown} only, at the address that it printed")

    def _check_site(self, headers: Headers) -> None:
        """Raises Refusal for what a page of another site asks; another port is another site too."""
        sites = headers.getlist("sec-fetch-site")
        origins = headers.getlist("origin")
        if any(site not in ("same-origin", "none") for site in sites) or not all(
            self._is_own(origin.lower(), headers["host"].lower()) for origin in origins
        ):
            raise Refusal(
                403, "a page of another site asked; type or paste the app's address in a new tab"
            )

    def _is_own(self, origin: str, host: str) -> bool:
        if self.port is not None:
            return origin == f"http://{host}"
        scheme, _, asked = origin.partition("://")
        # the port that a proxy is reached by need not stand in what it passes on
        return scheme in ("http", "https") and _parsed(asked)[0] == _parsed(host)[0] != ""

    def _cookie(self, headers: Headers) -> dict[str, str]:
        is_secure = self.port is None and headers.getlist("x-forwarded-proto") == ["https"]
        return {"set-cookie": self.entry.new_cookie(is_secure=is_secure)}

    def _own(self, headers: Headers) -> list[tuple[bytes, bytes]]:
        """What the framework sees: of what a proxy says, only that it speaks https."""
        return [
            (name, value)
            for name, value in headers.raw
            if not name.startswith(_FORWARDED)
            or (self.port is None and name == b"x-forwarded-proto" and value == b"https")
        ]

    async def _checked(self, request: Request) -> Receive:
        """An event, read, checked, and handed on as one message."""
        try:
            event = checked_event(await _body(request), self.events, self.uploads)
        except ValueError as error:
            raise Refusal(400, f"this is not a request of the page: {error}") from None
        # the length that was announced is no longer true, and the framework asks for none
        messages: list[Message] = [{"type": "http.request", "body": event, "more_body": False}]

        async def once() -> Message:
            return messages.pop() if messages else await request.receive()

        return once

    async def _page(self, scope: Message, receive: Receive, send: Send) -> None:
        """The framework's page, without the manifest that it names."""
        plain = [pair for pair in scope["headers"] if pair[0] != b"accept-encoding"]
        start: dict[str, Any] = {}
        body = bytearray()

        async def hold(message: Message) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
            else:
                body.extend(message.get("body", b""))

        await self.app({**scope, "headers": plain}, receive, hold)
        page = bytes(body).replace(_MANIFEST, b"")
        MutableHeaders(raw=start["headers"])["content-length"] = str(len(page))
        await send(start)
        await send({"type": "http.response.body", "body": page})


class _Exchange:
    """A request and its answer, which is over when the request is.

    An answer to half a request would close the connection, and the browser might see that alone.
    """

    def __init__(self, headers: Headers, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        has_body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
        self._is_read = not has_body

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


def _guarded(route: Route, send: Send) -> Send:
    """Answers with our headers; what is of a type that a route does not name becomes a download."""

    async def answer(message: Message) -> None:
        if message["type"] == "http.response.start":
            given = message.get("headers", ())
            headers = MutableHeaders(raw=[(name.lower(), value) for name, value in given])
            for name in set(headers):
                # no other site may read an answer
                if name == "set-cookie" or name.startswith("access-control-"):
                    del headers[name]
            types = route.types if message["status"] < 400 else _REFUSALS
            kind = headers.get("content-type")
            if kind is not None and kind.partition(";")[0].strip().lower() not in types:
                headers["content-type"] = "application/octet-stream"
                headers["content-disposition"] = "attachment"
            headers.update(_policy_headers(route.policy))
            message["headers"] = headers.raw
        await send(message)

    return answer


async def _body(request: Request) -> bytes:
    """Raises Refusal for one that is too long, announced or not, and for one that does not come."""
    too_long = Refusal(413, f"a request of more than {MOST_EVENT_BYTES / 1e6:.0f} MB")
    if int(request.headers.get("content-length", 0)) > MOST_EVENT_BYTES:
        raise too_long
    body = bytearray()
    try:
        async with asyncio.timeout(SLOWEST_S):
            async for piece in request.stream():
                body += piece
                if len(body) > MOST_EVENT_BYTES:
                    raise too_long
    except TimeoutError:
        raise Refusal(408, f"the request did not come within {SLOWEST_S} s") from None
    except ClientDisconnect:
        raise Refusal(400, "the browser went away") from None
    return bytes(body)


def _parsed(host: str) -> tuple[str, str | None]:
    """(name as `AppOptions.names` has it, port); no name for what is no host."""
    found = _HOST.fullmatch(host.lower())
    return (found[1].strip("[]").removesuffix("."), found[2]) if found else ("", None)


def _policy_headers(policy: str) -> dict[str, str]:
    return {
        "content-security-policy": policy,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cross-origin-resource-policy": "same-origin",
    }


def _ours(policy: str = DATA_POLICY) -> dict[str, str]:
    """Headers of an answer of the guard itself, which nothing keeps."""
    return {"cache-control": "no-store"} | _policy_headers(policy)
