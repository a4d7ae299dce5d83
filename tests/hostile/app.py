"""Requests that a hostile page, another user of the machine or a broken client could make.

Each is sent as bytes, so that it may be one that no library writes. Afterwards the app must answer
its own page, and nothing that was asked for may have been fetched, shown or run.
"""

from __future__ import annotations

import json
import re
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, urlsplit

from tests.hostile.runner import (
    LIMIT_S,
    Case,
    Outcome,
    Table,
    end_process,
    launch,
    process_tree,
)
from tests.hostile.stages import OUT, memory_mb

_SECRET = "a line that nobody may read"
_MOST = 2_000_000
_JSON = "Content-Type: application/json"


@dataclass(frozen=True)
class Request:
    """A request, and whether it may be answered.

    parts: of the body, sent one after the other; length: announced, None for the true one.
    origin: own or foreign. is_entered: it carries the cookie. may: "refused", "answered", or both.
    """

    kind: str
    line: str
    headers: tuple[str, ...] = ()
    parts: tuple[bytes, ...] = ()
    length: int | None = None
    host: str | None = None
    is_entered: bool = True
    may: tuple[str, ...] = ("refused",)
    raw: bytes | None = None
    wait_s: float = LIMIT_S

    @property
    def name(self) -> str:
        """For the list of what went wrong."""
        who = "" if self.is_entered else ", without the cookie"
        shown = self.line if self.raw is None else repr(self.raw[:60])
        return f"{shown[:110]} {' '.join(self.headers)[:60]}{who}"


@dataclass
class App:
    """An app that answers. fetched: addresses that it asked the listener for."""

    process: object
    host: str
    port: int
    token: str
    folder: Path
    listener: int
    fetched: list[str] = field(default_factory=list)
    cookie: str = ""

    @property
    def pid(self) -> int:
        """Of the process."""
        return int(self.process.pid)  # type: ignore[attr-defined]

    def memory_mb(self) -> float:
        """Most that it and its children took."""
        return sum(memory_mb(pid, "VmHWM") for pid in process_tree(self.pid))


def tables(
    *, part: bool, tell: Callable[[Outcome], None] = lambda outcome: None, only: str = ""
) -> list[Table]:
    """All requests, one after the other; part: those that take no time, and of these a third."""
    table = Table("app")
    with (
        tempfile.TemporaryDirectory(prefix="captune-hostile-app-") as place,
        _app(Path(place)) as app,
    ):
        idle = app.memory_mb()
        every = [one for one in requests(app) if only in f"{one.kind}: {one.name}"]
        if part:
            every = [one for one in every if one.kind not in ("large", "slow")][::3]
        for request in every:
            outcome = _outcome(app, request, idle)
            table.outcomes.append(outcome)
            tell(outcome)
    return [table]


@contextmanager
def _app(place: Path) -> Iterator[App]:
    for name in ("runs", "notes"):
        (place / name).mkdir()
    (place / "secret.txt").write_text(_SECRET)
    with _listener() as (port, fetched):
        words = ["app", str(place / "runs"), "--json"]
        process = launch("plain", words, place, place / "notes")
        try:
            url = urlsplit(_printed(place / "notes" / OUT))
            found = re.search(r"token=([\w-]+)", url.query)
            assert url.hostname is not None
            assert url.port is not None
            app = App(
                process, url.hostname, url.port, found[1] if found else "", place, port, fetched
            )
            _enter(app)
            yield app
        finally:
            end_process(process)


def _printed(path: Path) -> str:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        with suppress(OSError, ValueError):
            return str(json.loads(path.read_text())["url"])
        time.sleep(0.1)
    raise TimeoutError("the app prints no address")


def _enter(app: App) -> None:
    if app.token:
        answer = _send(app, Request("", f"GET /?token={app.token}", is_entered=False))
        found = re.search(rb"set-cookie: ([^;\r\n]+)", answer, re.IGNORECASE)
        assert found is not None, answer[:500]
        app.cookie = found[1].decode()


@contextmanager
def _listener() -> Iterator[tuple[int, list[str]]]:
    """Somebody's server, which answers a page with a script; (its port, what it was asked)."""
    fetched: list[str] = []
    server = socket.create_server(("127.0.0.1", 0))
    page = b"<script>document.title='taken'</script>"
    said = b"HTTP/1.0 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n" % len(page)

    def listen() -> None:
        with suppress(OSError):
            while True:
                one, _ = server.accept()
                with one:
                    one.settimeout(5)
                    with suppress(OSError):
                        fetched.append(one.recv(2000).split(b"\r\n")[0].decode("latin-1"))
                        one.sendall(said + page)

    threading.Thread(target=listen, daemon=True).start()
    try:
        yield server.getsockname()[1], fetched
    finally:
        server.close()


def _send(app: App, request: Request) -> bytes:
    """What comes back, as far as it comes in time; empty where the app hangs up at once."""
    body = b"".join(request.parts[:1]) if request.parts else b""
    host = request.host or f"{app.host}:{app.port}"
    length = request.length if request.length is not None else sum(map(len, request.parts))
    lines = [f"{request.line} HTTP/1.1", f"Host: {host}", "Connection: close", *request.headers]
    if request.is_entered and app.cookie:
        lines.append(f"Cookie: {app.cookie}")
    if request.parts or request.length is not None:
        lines.append(f"Content-Length: {length}")
    head = "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n"
    found = b""
    with socket.create_connection((app.host, app.port), timeout=request.wait_s) as one:
        with suppress(OSError):  # it may hang up before the whole is sent
            one.sendall(request.raw if request.raw is not None else head + body)
            for piece in request.parts[1:]:
                one.sendall(piece)
        with suppress(ConnectionError):
            while len(found) < _MOST and (data := one.recv(65536)):
                found += data
                if b"text/event-stream" in found:
                    break  # it would go on as long as somebody listens
    return found


def _outcome(app: App, request: Request, idle: float) -> Outcome:
    case = Case(request.kind, request.name, lambda folder: ())
    before = len(app.fetched)
    begun = time.monotonic()
    try:
        answer = _send(app, request)
        end, why = _judged(app, request, answer, before)
    except TimeoutError:
        end, why = "hung", f"no answer in {request.wait_s:.0f} s"
    except ConnectionError as error:
        end, why = "crashed", repr(error)
    seconds = time.monotonic() - begun
    if end in ("answered", "refused"):
        with suppress(OSError):
            own = _send(app, Request("", "GET /", wait_s=10))
            if own.startswith(b"HTTP/1.1 200"):
                return Outcome(case, end, why, seconds, app.memory_mb() - idle)
        end, why = "crashed", "it no longer answers its own page"
    return Outcome(case, end, why, seconds, app.memory_mb() - idle)


def _judged(app: App, request: Request, answer: bytes, before: int) -> tuple[str, str]:
    head, _, body = answer.partition(b"\r\n\r\n")
    if not answer:
        end = "refused"  # a connection that was closed says no, too
    else:
        status = int(head.split(b" ", 2)[1])
        if status >= 500:
            return "crashed", f"status {status}: {body[:200]!r}"
        end = "answered" if status < 400 else "refused"
        # a socket that is refused has no room for words
        is_silent = request.line.startswith("HEAD") or b"websocket" in (request.raw or b"")
        if end == "refused" and not body.strip() and not is_silent:
            return "wrong", f"status {status} without a sentence"
    lower = head.lower()
    if len(app.fetched) > before:
        return "wrong", f"it fetched {app.fetched[-1]}"
    if _SECRET.encode() in body or b"root:x:0:0" in body:
        return "wrong", "a file of the machine was handed out"
    if b"access-control-allow" in lower:
        return "wrong", "another site may read the answer"
    if answer and b"http/1.1 400" not in lower and b"content-security-policy" not in lower:
        return "wrong", "no policy comes with the answer"
    if b"traceback" in body.lower():
        return "wrong", "a traceback is shown"
    if end not in request.may:
        return "wrong", f"{end}: {head.splitlines()[0].decode()} {body[:150]!r}"
    return end, ""


_EITHER = ("refused", "answered")
_FOREIGN = "Origin: https://evil.example"


def requests(app: App) -> Iterator[Request]:
    """All of them."""
    yield from _reached(app)
    yield from _from_elsewhere(app)
    yield from _broken(app)
    yield from _events(app)
    yield from _uploads(app)


def _reached(app: App) -> Iterator[Request]:
    """Routes of the framework, and files."""
    evil = f"http://127.0.0.1:{app.listener}/x.html"
    own = quote(str(app.folder / "secret.txt"))
    files = (
        evil, quote(evil, safe=""), evil.replace("http", "HTTP", 1),
        f"//127.0.0.1:{app.listener}/x",
        f"http:/127.0.0.1:{app.listener}/x", "/etc/passwd", "%2fetc%2fpasswd", "/../etc/passwd",
        "..%2f..%2f..%2fetc%2fpasswd", "%252fetc%252fpasswd", "file:///etc/passwd", own,
        "/proc/self/environ",
        "/proc/self/fd/0", "/dev/zero", "C:/x", "~/.ssh/id_rsa", "/etc/passwd%00.png",
        "data:text/html,x",
        "/etc", "", "ftp://127.0.0.1/x",
    )  # fmt: skip
    for file in files:
        yield Request("a file", f"GET /gradio_api/file={file}")
    yield Request("a file", f"HEAD /gradio_api/file={evil}")
    yield Request("a file", f"GET /file={evil}")
    yield Request("a file", f"GET /gradio_api/file={own}", is_entered=False)
    for path in (
        f"/gradio_api/proxy={evil}", f"/proxy={evil}", "/openapi.json", "/docs", "/redoc",
        "/gradio_api/openapi.json", "/gradio_api/deep_link", "/gradio_api/process_recording",
        "/gradio_api/run/predict", "/gradio_api/call/recognise", "/gradio_api/api/predict",
        "/gradio_api/component_server", "/gradio_api/login", "/login", "/token", "/user", "/app_id",
        "/monitoring", "/monitoring/x", "/gradio_api/dev/reload",
        "/gradio_api/vibe-code", "/gradio_api/stream/x/1/1/playlist.m3u8", "/gradio_api/mcp/sse",
        "/static/../../../../etc/passwd", "/static/..%2f..%2f..%2fetc%2fpasswd",
        "/assets/%2e%2e/%2e%2e/%2e%2e/etc/passwd", "/custom_component/x/y/z/..%2f..%2fetc%2fpasswd",
        "/report/../../../etc/passwd", "/pages/..%2f..%2fetc/passwd", "/%2e%2e/%2e%2e/etc/passwd",
        "/\\..\\..\\etc\\passwd", "//evil.example/x", f"/?deep_link={'x' * 100}",
        "/?__theme=%3Cscript%3E", "/?view=api&token=x",
    ):  # fmt: skip
        may = _EITHER if path.startswith("/?") else ("refused",)
        yield Request("a route", f"GET {path}", may=may)
    for method in ("PUT", "DELETE", "PATCH", "TRACE", "OPTIONS", "CONNECT", "FOO", "PROPFIND"):
        yield Request("a method", f"{method} /gradio_api/queue/join", (_JSON,), (b"{}",))
    yield Request("a method", "OPTIONS /gradio_api/upload", (
        _FOREIGN, "Access-Control-Request-Method: POST",
        "Access-Control-Request-Private-Network: true",
    ))  # fmt: skip
    for path in ("/gradio_api/process_recording", "/gradio_api/run/predict", "/gradio_api/call/x",
                 "/gradio_api/component_server", "/gradio_api/reset",
                 "/gradio_api/login"):  # fmt: skip
        yield Request("a route", f"POST {path}", (_JSON,), (b'{"data": [], "session_hash": "x"}',))


def _from_elsewhere(app: App) -> Iterator[Request]:
    """Other sites, other names, other users."""
    for line in ("GET /", "POST /gradio_api/queue/join", "GET /gradio_api/queue/data"):
        body = (b"{}",) if line.startswith("POST") else ()
        for header in (_FOREIGN, "Origin: null", "Sec-Fetch-Site: cross-site",
                       "Sec-Fetch-Site: same-site",
                       f"Origin: http://{app.host}:{app.port + 1}",
                       "Origin: http://127.0.0.1.evil.example"):  # fmt: skip
            yield Request("another site", line, (header,), body)
        yield Request("another user", line, (), body, is_entered=False)
    for host in ("evil.example", f"evil.example:{app.port}", "127.0.0.1.evil.example", "0.0.0.0",
                 "[::ffff:127.0.0.1]",
                 "127.0.0.1:1", "127.0.0.1@evil.example", "evil.example#127.0.0.1", "2130706433",
                 ""):  # fmt: skip
        yield Request("another name", "GET /", host=host or " ")
    own = "captune="
    for cookie in ("", own, f"{own}x", f"{own}\x00", f"{own}{'x' * 5000}", "a=b; " * 500):
        yield Request("another cookie", "GET /", (f"Cookie: {cookie}",), is_entered=False)
    for token in (
        *("", "x", "x" * 5000, "%00", "..", "a&token=b"),
        *(app.token[:-1], f"{app.token.upper()}x"),
    ):
        yield Request("another token", f"GET /?token={token}", is_entered=False)
    for header in ("X-Forwarded-Host: evil.example", "X-Forwarded-For: 10.0.0.1",
                   "X-Forwarded-Proto: https",
                   "X-Forwarded-Prefix: //evil.example", "X-Original-URL: /etc/passwd",
                   "X-Gradio-Server: http://evil",
                   "Range: bytes=0-,0-,0-,0-", "Range: bytes=-9999999999",
                   "Accept-Encoding: " + "gzip," * 900,
                   "If-Modified-Since: x", "Authorization: Basic eDp4"):  # fmt: skip
        yield Request("odd headers", "GET /", (header,), may=_EITHER)


def _broken(app: App) -> Iterator[Request]:
    """What is no HTTP, or HTTP that two servers read differently."""
    host, join = f"Host: {app.host}:{app.port}", "POST /gradio_api/queue/join HTTP/1.1\r\n"
    for raw in (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
        b"GET / HTTP/9.9\r\n\r\n", b"GET /\r\n\r\n", b"\r\n" * 1000, b"\0" * 1000,
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\nConnection: close\r\n\r\n",
        b"GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
        b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"a" * 2_000_000 + b"\r\n\r\n",
        f"GET / HTTP/1.1\r\n{host}\r\nX: a\r\n\tb\r\nConnection: close\r\n\r\n".encode(),
        f"{join}{host}\r\nContent-Length: 5\r\nTransfer-Encoding:"
        " chunked\r\nConnection: close\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n".encode(),
        f"{join}{host}\r\nContent-Length: -5\r\n\r\n{{}}".encode(),
        f"{join}{host}\r\nContent-Length: 99999999999999999999\r\n"
        "Connection: close\r\n\r\n{}".encode(),
        f"{join}{host}\r\nTransfer-Encoding: chunked\r\n"
        "Connection: close\r\n\r\nffffffffffffffff\r\n{}".encode(),
        f"GET / HTTP/1.1\r\n{host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ):  # fmt: skip
        yield Request("no HTTP", "", raw=raw, may=_EITHER, wait_s=60)


def _events(app: App) -> Iterator[Request]:
    """Bodies of the route that the page's events take."""
    join = "POST /gradio_api/queue/join"
    base = {"data": [], "fn_index": 0, "session_hash": "x", "event_data": None, "trigger_id": 0}
    odd: Sequence[object] = (
        {}, [], "x", 3, None, base | {"fn_index": -1}, base | {"fn_index": 10**9},
        base | {"fn_index": "x"}, base | {"session_hash": None}, base | {"session_hash": "../../x"},
        base | {"session_hash": "x" * 100_000}, base | {"data": {"a": 1}},
        base | {"data": [{"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}]},
        base | {"data": [{"path": f"http://127.0.0.1:{app.listener}/x.png",
        "meta": {"_type": "gradio.FileData"}}]},
        base | {"data": [{"url": f"http://127.0.0.1:{app.listener}/y.png", "path": "x",
        "meta": {"_type": "gradio.FileData"}}]},
        base | {"data": [[[[[[["x"]]]]]]]}, base | {"api_name": "/x", "fn_index": None},
    )  # fmt: skip
    for content in odd:
        yield Request("an event", f"{join}", (_JSON,), (json.dumps(content).encode(),), may=_EITHER)
    for body in (b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000, b"NaN", b"9" * 10_000,
                 b'{"data": [1e999], "fn_index": 0, "session_hash": "x"}'):  # fmt: skip
        yield Request("an event", f"{join} ", (_JSON,), (body,), may=_EITHER)
    yield Request("an event", join, ("Content-Type: text/plain",), (b"{}",), may=_EITHER)
    cancel = b'{"session_hash": "x", "fn_index": 0, "event_id": "x"}'
    yield Request("an event", "POST /gradio_api/cancel", (_JSON,), (cancel,), may=_EITHER)
    data = "GET /gradio_api/queue/data?session_hash=" + "x" * 50_000
    yield Request("an event", data, may=_EITHER)
    yield Request("an event", "GET /gradio_api/heartbeat/x", may=_EITHER, wait_s=LIMIT_S)
    text, numbers = b"x" * 2_000_000, b"0," * 1_000_000
    yield Request("large", join, (_JSON,), (b'{"data": ["', *[text] * 101))
    yield Request("large", join, (_JSON,), (b"[", *[numbers] * 51, b"0]"))
    yield Request("slow", join, (_JSON,), (b"{",), length=100, may=_EITHER, wait_s=90)


def _uploads(app: App) -> Iterator[Request]:
    """Files that are dropped."""
    upload = "POST /gradio_api/upload"
    form = "Content-Type: multipart/form-data; boundary=x"

    def piece(name: str, content: bytes = b"x", field_: str = "files") -> bytes:
        head = f'--x\r\nContent-Disposition: form-data; name="{field_}"; filename="{name}"\r\n'
        return head.encode() + b"Content-Type: text/html\r\n\r\n" + content + b"\r\n"

    for name in ("../../../../tmp/evil", "/etc/cron.d/evil", "a\\..\\b", "x" * 5000, ".htaccess",
                 "a\0b.png",
                 "<img src=x>.png", "", ".", "..", "con", "\u202egnp.exe"):  # fmt: skip
        headers = (form, f"X-Name: {ascii(name)[:30]}")
        yield Request("an upload", upload, headers, (piece(name) + b"--x--\r\n",), may=_EITHER)
    for body in (b"", b"--x--", b"--x\r\n\r\n", piece("a")[:-20], piece("a") * 3, b"x" * 100_000,
                 piece("a", field_="other") + b"--x--\r\n",
                 b"--x\r\n" + b"A: b\r\n" * 50_000):  # fmt: skip
        yield Request("an upload", f"{upload} ", (form,), (body,), may=_EITHER)
    yield Request("an upload", upload, ("Content-Type: multipart/form-data",), (b"x",), may=_EITHER)
    yield Request("an upload", upload, (form,), (piece("a.png") + b"--x--\r\n",), is_entered=False)
    yield Request("an upload", upload, (form, _FOREIGN), (piece("a.png") + b"--x--\r\n",))
    many = b"".join(piece(f"{n}.png") for n in range(5000)) + b"--x--\r\n"
    yield Request("large", f"{upload}?many", (form,), (many,), may=_EITHER)
    big = (piece("a.png", b"x" * 1_000_000)[:-2], *[b"x" * 4_000_000] * 100, b"\r\n--x--\r\n")
    yield Request("large", f"{upload}?big", (form,), big, may=_EITHER)
    yield Request(
        "slow", upload, (form,), (piece("a.png"),), length=100_000, may=_EITHER, wait_s=90
    )
    traversal = f"{upload}?upload_id={'../' * 30}x"
    yield Request("an upload", traversal, (form,), (piece("a.png") + b"--x--\r\n",), may=_EITHER)
    yield Request("an upload", "GET /gradio_api/upload_progress?upload_id=x", may=_EITHER)
