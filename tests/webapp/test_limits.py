"""What is too much, or no request of a page at all: answered at once, and without its memory."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from benchmarks.app import Client, memory_mb
from tests.webapp.app_page import colour_image
from tests.webapp.asking import Answer, ask, cookie_of, plug
from tests.webapp.conftest import Start

from captune.options.pages import AppOptions
from captune.webapp import server as server_module
from captune.webapp import uploads as uploads_module
from captune.webapp.queue import BROWSER
from captune.webapp.server import Running, running

JOIN, UPLOAD, DATA = "/gradio_api/queue/join", "/gradio_api/upload", "/gradio_api/queue/data"
JSON = {"Content_Type": "application/json"}
FORM = {"Content_Type": "multipart/form-data; boundary=b"}


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    runs = tmp_path_factory.mktemp("runs")
    with running(AppOptions(runs=runs, most_images=3, most_mb=1)) as found:
        yield found


def part(content: bytes, says: str = 'form-data; name="files"; filename="a.png"') -> bytes:
    return b"--b\r\nContent-Disposition: " + says.encode() + b"\r\n\r\n" + content + b"\r\n"


def form(*contents: bytes) -> bytes:
    return b"".join(map(part, contents)) + b"--b--\r\n"


def left_over(app: Running) -> list[Path]:
    """Files of uploads."""
    # pathlib's rglob raises for a folder that the app removes meanwhile
    return [Path(at) / name for at, _, names in os.walk(app.folder / "gradio") for name in names]


def deep(levels: int) -> bytes:
    return b'{"data": ' + b"[" * levels + b"]" * levels + b', "fn_index": 1, "session_hash": "s"}'


def event(**changed: Any) -> bytes:
    known = {"data": [], "fn_index": 10**6, "session_hash": "s"}
    return json.dumps(known | changed).encode()


EVENTS = {
    "nothing": b"",
    "no json": b"x",
    "half": b'{"data"',
    "a list": b"[]",
    "a number": b"7",
    "null": b"null",
    "not utf-8": b"\xff\xfe",
    "utf-16": '{"data": []}'.encode("utf-16"),
    "nul": b"\0" * 1000,
    "deep": deep(100_000),
    "rather deep": deep(900),
    "nested": deep(50),
    "nan": b'{"data": NaN, "fn_index": NaN}',
    "long number": b"1" * 100_000,
    "unknown event": event(),
    "negative": event(fn_index=-1),
    "text": event(fn_index="1"),
    "true": event(fn_index=True),
    "huge": event(fn_index=2**70),
    "no event": event(fn_index=None),
    "float": event(fn_index=1.5),
    "list of events": event(fn_index=[1]),
    "no session": event(session_hash=None),
    "session of any type": event(session_hash={}),
    "long session": event(session_hash="s" * 65),
    "odd session": event(session_hash="../s"),
    "empty session": event(session_hash=""),
    "data an object": event(data={"a": 1}),
    "data a text": event(data="x"),
    "data missing": b'{"fn_index": 1, "session_hash": "s"}',
    "trigger a text": event(trigger_id="x"),
    "trigger a list": event(trigger_id=[]),
    "twice": b'{"fn_index": 1, "fn_index": "x", "session_hash": "s", "data": []}',
}


@pytest.mark.parametrize("name", EVENTS)
def test_an_event_that_no_page_sends_is_refused(app: Running, name: str) -> None:
    found = ask(app, "POST", JOIN, EVENTS[name], **JSON)
    assert (found.status, found.text.count("\n")) == (400, 1)
    assert found.text.startswith("captune app: this is not a request of the page: ")


@pytest.mark.parametrize(
    ("button", "event", "values"),
    [
        *(("caption", "click", ["lite", wrong, "auto", ""]) for wrong in ("x", None, [5], True)),
        *(("caption", "click", w) for w in ([{"a": 1}, 5, "auto", ""], ["lite", 5, [], ""], [])),
        ("classify", "click", ["a, b", "", "lite", False, False, {"a": 1}]),
        ("drop-classify", "upload", ["x", ""]),
        ("drop-classify", "upload", [[{"path": "x"}], ""]),
        ("strip-classify", "click", [""]),
        *(("strip-caption", "click", {"name": wrong}) for wrong in (None, 5, ["x"], {"a": 1})),
        ("strip-caption", "click", "x"),
    ],
    ids=str,
)
def test_what_no_field_holds_is_answered_in_a_sentence(
    app: Running, capfd: pytest.CaptureFixture[str], button: str, event: str, values: Any
) -> None:
    client = Client(app.address, 1)
    number = client.event_of(button, event)
    sent = {"data": values} if isinstance(values, list) else {"data": [""], "event_data": values}
    capfd.readouterr()
    answer = client.http.post(JOIN, json=sent | {"fn_index": number, "session_hash": "s"})
    assert (answer.status_code, answer.text.count("\n")) == (400, 1)
    assert answer.text.startswith("captune app: this is not a request of the page: ")
    assert "Traceback" not in capfd.readouterr().err


def test_a_choice_that_a_list_no_longer_offers_leaves_no_traceback(
    app: Running, capfd: pytest.CaptureFixture[str]
) -> None:
    client = Client(app.address, 1)
    capfd.readouterr()
    with pytest.raises(AssertionError, match="not in the list of choices"):
        list(client.ask("caption", "click", ["lite", 5, "none of them", ""]))
    assert "Traceback" not in capfd.readouterr().err


def test_a_mistake_of_the_app_itself_is_a_traceback(
    app: Running, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Client(app.address, 1)

    def broken(*_: Any) -> None:
        raise TypeError("of our own")

    monkeypatch.setattr(gr.Slider, "preprocess", broken)
    capfd.readouterr()
    with pytest.raises(AssertionError):
        list(client.ask("caption", "click", ["lite", 5, "auto", ""]))
    assert "TypeError: of our own" in capfd.readouterr().err


@pytest.mark.parametrize(
    "kind",
    ["", "text/plain", "multipart/form-data", "application/x-www-form-urlencoded", "x" * 999],
)
def test_an_event_of_another_content_type_is_an_event_or_refused(app: Running, kind: str) -> None:
    number = next(iter(app.page.fns))
    found = ask(app, "POST", JOIN, event(fn_index=number), Content_Type=kind)
    assert found.status in (200, 400, 415, 422)


@pytest.mark.parametrize(
    "changed",
    [
        *({"data": [1] * 500}, {"data": [None]}, {"data": [{}, [], "x", 1.5, True, None]}),
        *({"event_data": "x"}, {"event_data": [[]]}, {"trigger_id": 10**9}, {"batched": True}),
        *({"simple_format": True}, {"event_id": "x"}, {"data": ["\ud800"]}, {"data": ["\0" * 999]}),
        *({"request": {}}, {"data": ["x" * 900_000]}, {"oauth_token": "x"}),
    ],
    ids=lambda changed: str(changed)[:30],
)
def test_whatever_an_event_holds_the_app_goes_on(app: Running, changed: dict[str, Any]) -> None:
    # one of each: what several tabs share is the same function
    events = {(fn.fn.__qualname__, len(fn.inputs)): number for number, fn in app.page.fns.items()}
    assert len(events) > 10
    for number in events.values():
        body = event(fn_index=number, session_hash="whatever", **changed)
        found = ask(app, "POST", JOIN, body, **JSON)
        assert found.status in (200, 400, 422), found.text
    assert ask(app, "GET", "/gradio_api/app_id").status == 200


UPLOADS = {
    "nothing": (b"", FORM, 400),
    "no form": (b"{}", JSON, 400),
    "no type": (form(b"x"), {}, 400),
    "no boundary": (form(b"x"), {"Content_Type": "multipart/form-data"}, 400),
    "long boundary": (b"x", {"Content_Type": "multipart/form-data; boundary=" + "b" * 500}, 400),
    "other boundary": (form(b"x"), {"Content_Type": "multipart/form-data; boundary=c"}, 400),
    "ends in a file": (part(b"x" * 1000)[:-500], FORM, 400),
    "ends in a header": (b"--b\r\nContent-Disp", FORM, 400),
    "no disposition": (b"--b\r\n\r\nx\r\n--b--\r\n", FORM, 400),
    "a field": (part(b"x", 'form-data; name="files"') + b"--b--\r\n", FORM, 400),
    "another name": (part(b"x", 'form-data; name="a"; filename="b"') + b"--b--\r\n", FORM, 400),
    "long header": (part(b"x", "form-data; " + "x" * 10_000), FORM, 400),
    "many headers": (b"--b\r\n" + b"A: b\r\n" * 100 + b"\r\nx\r\n--b--\r\n", FORM, 400),
    "garbage": (bytes(range(256)) * 100, FORM, 400),
    "a large file": (form(b"x" * 1_000_001), FORM, 413),
    "many files": (form(*[b""] * 1001), FORM, 413),
    "large together": (form(*[b"x" * 900_000] * 5), FORM, 413),
}


@pytest.mark.parametrize("name", UPLOADS)
def test_an_upload_that_is_none_is_refused_and_leaves_nothing(app: Running, name: str) -> None:
    body, headers, status = UPLOADS[name]
    found = ask(app, "POST", f"{UPLOAD}?upload_id=x", body, **headers)
    assert found.status == status
    assert found.text
    assert left_over(app) == []
    assert app.context.arrivals.size_bytes == 0


TARGETS = [
    *("/%2e%2e/", "/assets/../../../etc/passwd", "/assets/%2e%2e/x.js", "/assets//x.js"),
    *("/assets/..", "/assets/.hidden", "/assets/x.js%00", "/assets/\\..\\x.js", "/assets/a;b"),
    *("/static/" + "a/" * 50 + "x", "/assets/" + "x" * 5000, "//", "//evil.example/", "/./"),
    *("/captune-page/", "/captune-page/../x", "/captune-page/a/b", "/captune-page/" + "x" * 65),
    *("/THEME.CSS", "/theme.css/", "/theme.css;x", "/config?page=", "/?deep_link=../../x"),
    *("/?__theme=dark", "/?" + "a=b&" * 5000, "/gradio_api/queue/data", "/gradio_api/upload"),
    *("/gradio_api/queue/join", "http://evil.example/", "*", "/gradio_api/upload_progress"),
]


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target[:40])
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "TRACE", "X"])
def test_an_address_that_no_page_asks_for_is_refused(
    app: Running, target: str, method: str
) -> None:
    found = ask(app, method, target, b"" if method == "POST" else None)
    assert found.status in (303, 400, 403, 404, 405, 422)
    assert not found.all("location") or found.all("location") == ["/"]


HEADS = [
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: {host}\r\nHost: evil.example\r\n\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
    b"GET / HTTP/9.9\r\nHost: {host}\r\n\r\n",
    b"GET  /  HTTP/1.1\r\nHost: {host}\r\n\r\n",
    b"GET /\xff HTTP/1.1\r\nHost: {host}\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\r\n" * 9,
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: {host}\r\nA: " + b"x" * 200_000 + b"\r\n\r\n",
    b"POST " + JOIN.encode() + b" HTTP/1.1\r\nHost: {host}\r\nContent-Length: -1\r\n\r\n",
    b"POST " + JOIN.encode() + b" HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1\r\n"
    b"Content-Length: 2\r\n\r\nx",
    b"POST " + JOIN.encode() + b" HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n"
    b"{cookie}\r\nzz\r\n",
    b"POST " + JOIN.encode() + b" HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: gzip\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: {host}\r\nCookie: " + b"a=b; " * 2000 + b"\r\n\r\n",
]


@pytest.mark.parametrize("number", range(len(HEADS)))
def test_what_is_hardly_http_is_refused(app: Running, number: int) -> None:
    host = app.url.removeprefix("http://").rstrip("/").encode()
    cookie = f"Cookie: {cookie_of(app)}\r\n".encode()
    with plug(app) as connection:
        connection.sendall(HEADS[number].replace(b"{host}", host).replace(b"{cookie}", cookie))
        said = connection.recv(1000)
    assert said[9:12] in (b"400", b"403", b"431", b"501"), said
    assert ask(app, "GET", "/gradio_api/app_id").status == 200


def test_a_body_is_refused_once_it_is_longer_than_any_of_the_page(app: Running) -> None:
    host = app.url.removeprefix("http://").rstrip("/")
    head = f"POST {JOIN} HTTP/1.1\r\nHost: {host}\r\nCookie: {cookie_of(app)}\r\n"
    for announced in ("Content-Length: 200000000\r\n\r\n", "Content-Length: 1000001\r\n\r\n"):
        with plug(app) as connection:
            connection.sendall((head + announced).encode())
            assert connection.recv(1000).startswith(b"HTTP/1.1 413")
    with plug(app) as connection:
        connection.sendall((head + "Transfer-Encoding: chunked\r\n\r\n").encode())
        for _ in range(17):
            connection.sendall(b"10000\r\n" + b"x" * 65536 + b"\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 413")


def test_a_browser_that_goes_away_in_the_middle_leaves_nothing(app: Running) -> None:
    host = app.url.removeprefix("http://").rstrip("/")
    head = (
        f"POST {UPLOAD} HTTP/1.1\r\nHost: {host}\r\nCookie: {cookie_of(app)}\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 900000\r\n\r\n"
    )
    with plug(app) as connection:
        connection.sendall(head.encode() + part(b"x" * 500_000))
        wait_for(lambda: bool(left_over(app)) and app.context.arrivals.size_bytes > 0)
    wait_for(lambda: not left_over(app) and app.context.arrivals.size_bytes == 0)


def wait_for(what: Any) -> None:
    end = time.monotonic() + 20
    while not what() and time.monotonic() < end:
        time.sleep(0.02)
    assert what()


def test_all_that_lies_there_and_comes_is_counted_together(
    colours: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads_module, "MOST_BYTES", 2_000_000)
    with running(AppOptions(runs=tmp_path, most_mb=1)) as app:

        def send(megabytes: float) -> Answer:
            return ask(app, "POST", UPLOAD, form(b"x" * int(1e6 * megabytes)), **FORM)

        paths = [json.loads(send(0.8).text)[0], json.loads(send(0.8).text)[0]]
        refused = send(0.8)
        assert refused.status == 413
        assert refused.text.startswith("the app holds as many images as it may; press Forget")
        assert app.context.arrivals.size_bytes == 1_600_000
        # no images: they go as soon as a panel has looked at them
        client = Client(app.address, 1)
        files = [{"path": path, "meta": {"_type": "gradio.FileData"}} for path in paths]
        said = " ".join(client.ask("drop-classify", "upload", [files, ""]))
        assert "not an image" in said
        assert app.context.arrivals.size_bytes == 0
        assert left_over(app) == []
        assert send(0.8).status == 200


def test_a_set_that_nobody_uses_makes_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(AppOptions(runs=tmp_path, most_mb=1)) as app:
        client = Client(app.address, 1)
        (found,) = app.context.uploads._sets.values()
        monkeypatch.setattr(uploads_module, "MOST_BYTES", found.size_bytes)
        assert ask(app, "POST", UPLOAD, form(b"x"), **FORM).status == 413
        found.used -= uploads_module.STALE_S
        assert ask(app, "POST", UPLOAD, form(b"x"), **FORM).status == 200
        assert app.context.uploads.find(client.images) is None
        assert not found.folder.exists()


def test_what_no_panel_takes_is_removed_after_a_while(
    app: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads_module, "UNCLAIMED_S", 0.2)
    assert ask(app, "POST", UPLOAD, form(b"x"), **FORM).status == 200
    wait_for(lambda: not left_over(app))
    assert app.context.arrivals.size_bytes == 0


def test_one_file_dropped_at_once_by_many_is_everybodys(colours: object, tmp_path: Path) -> None:
    image = colour_image(tmp_path / "a.png", (1, 2, 3)).read_bytes()
    with running(AppOptions(runs=tmp_path)) as app:
        answers: list[Answer] = []
        send = lambda: answers.append(ask(app, "POST", UPLOAD, form(image), **FORM))  # noqa: E731
        threads = [threading.Thread(target=send) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        paths = {json.loads(found.text)[0] for found in answers}
    assert len(paths) == 8


def test_the_jobs_of_a_browser_are_counted_and_others_go_on(
    colours: object, tmp_path: Path
) -> None:
    gate = threading.Event()
    with running(AppOptions(runs=tmp_path)) as app:
        busy, other = Client(app.address, 1), Client(app.address, 2)
        app.context.queue.submit(lambda job: gate.wait(60), [])
        token = BROWSER.set(busy.http.cookies[app.entry.cookie].partition(".")[0])
        jobs = [app.context.queue.submit(lambda job: 1, []) for _ in range(16)]
        BROWSER.reset(token)
        assert "16 jobs of this browser are waiting or running already" in busy.recognise("a, b")
        gate.set()
        assert "The same on a command line" in other.recognise("red, blue")
        wait_for(lambda: all(job.is_over for job in jobs))
        assert "The same on a command line" in busy.recognise("red, blue")


def test_a_connection_that_asks_for_nothing_is_closed(
    app: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = app.url.removeprefix("http://").rstrip("/")
    whole = f"GET /gradio_api/app_id HTTP/1.1\r\nHost: {host}\r\nCookie: {cookie_of(app)}\r\n\r\n"
    monkeypatch.setattr(server_module, "_PATIENCE_S", 0.5)
    # also one that asked before, and one letter after the other counts as nothing
    for before in ("", whole):
        with plug(app) as connection:
            connection.sendall((before + whole[:20]).encode())
            began = time.monotonic()
            with suppress(ConnectionError):
                while connection.recv(10_000):
                    connection.sendall(b"x")
            assert time.monotonic() - began < 10


def test_there_are_not_more_connections_than_can_be_kept(
    app: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "MOST_CONNECTIONS", 8)
    with ExitStack() as stack:
        several = [stack.enter_context(plug(app)) for _ in range(20)]
        for one in several:
            one.settimeout(2)
        closed = 0
        for one in several[8:]:
            with suppress(ConnectionError):
                closed += one.recv(1) == b""
                continue
            closed += 1
        assert closed == 12
    wait_for(lambda: ask(app, "GET", "/gradio_api/app_id").status == 200)


@pytest.mark.skipif(os.name != "posix", reason="memory is read as on Linux")
def test_200_mb_of_json_take_no_memory(start: Start) -> None:
    server, found = start("idle")
    client = Client(found["address"], 1)
    before = memory_mb(server.pid)
    seen = [before]
    for is_announced in (True, False):
        body = b'{"data": ["' + b"x" * 200_000_000 + b'"]}'

        def pieces(body: bytes = body) -> Iterator[bytes]:
            for start in range(0, len(body), 1_000_000):
                yield body[start : start + 1_000_000]
                seen.append(memory_mb(server.pid))

        sent = body if is_announced else pieces()
        assert client.http.post(JOIN, content=sent).status_code == 413
        seen.append(memory_mb(server.pid))
    assert max(seen) - before < 50
