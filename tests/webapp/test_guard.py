"""Who is answered, and for what: names, sites, tokens, routes, and what answers may do."""

from __future__ import annotations

import http.server
import json
import os
import re
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from benchmarks.app import Client
from tests.webapp.app_page import colour_image
from tests.webapp.asking import ask, cookie_of, plug

from captune.options.pages import AppOptions
from captune.webapp.guard import POLICY, route_of
from captune.webapp.server import Running, running

JOIN, UPLOAD = "/gradio_api/queue/join", "/gradio_api/upload"
JSON = {"Content_Type": "application/json"}


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(AppOptions(runs=tmp_path_factory.mktemp("runs"))) as found:
        yield found


def event(app: Running, **changed: Any) -> bytes:
    """One that the page could send."""
    number = next(one for one, fn in app.page.fns.items() if not fn.inputs)
    data = {"data": [], "fn_index": number, "session_hash": "s", "trigger_id": None}
    return json.dumps(data | changed).encode()


def test_it_listens_to_this_machine_alone_in_a_folder_of_this_user_alone(app: Running) -> None:
    assert app.url.startswith("http://127.0.0.1:")
    assert app.folder.stat().st_mode & 0o777 == 0o700
    # else the framework takes any file that an event names
    assert app.page.has_launched


def test_the_address_that_is_printed_becomes_a_cookie(app: Running) -> None:
    target = "/" + app.address.partition("/?")[2].join(["?", ""])
    found = ask(app, "GET", target, has_token=False, Sec_Fetch_Site="none")
    assert (found.status, found.all("location")) == (303, ["/"])
    (cookie,) = found.all("set-cookie")
    assert cookie.startswith(f"captune-{app.url.rstrip('/').rpartition(':')[2]}=")
    for word in ("Path=/", "HttpOnly", "SameSite=Strict"):
        assert word in cookie
    inside = ask(app, "GET", "/", has_token=False, Cookie=cookie.partition(";")[0])
    assert inside.status == 200
    # who has a cookie keeps it: what it asked for stays its own
    assert ask(app, "GET", target).all("set-cookie") == []


@pytest.mark.parametrize(
    ("method", "target"),
    [
        *(("GET", "/"), ("GET", "/captune-page/x"), ("GET", "/assets/index.js"), ("POST", JOIN)),
        *(("GET", "/theme.css"), ("GET", "/favicon.ico"), ("GET", "/gradio_api/app_id")),
        *(("GET", "/gradio_api/queue/data"), ("GET", "/gradio_api/upload_progress")),
        *(("POST", UPLOAD), ("GET", "/config"), ("HEAD", "/"), ("GET", "/gradio_api/file=/x")),
    ],
)
def test_without_the_token_no_route_answers(app: Running, method: str, target: str) -> None:
    body = b"{}" if method == "POST" else None
    found = ask(app, method, target, body, has_token=False)
    assert found.status == 403
    assert method == "HEAD" or "open the address that captune app printed" in found.text
    assert found.all("set-cookie") == []


@pytest.mark.parametrize(
    "target", ["/?token=", "/?token=x", "/?code=x", "/?code=&token=", "/?token=%ff%00", "/?a=b"]
)
def test_a_token_that_is_none_lets_nobody_in(app: Running, target: str) -> None:
    found = ask(app, "GET", target, has_token=False)
    assert (found.status, found.all("set-cookie")) == (403, [])


def test_cookies_that_are_none_of_ours_let_nobody_in(app: Running) -> None:
    name, _, value = cookie_of(app).partition("=")
    browser, _, seal = value.partition(".")
    forged = [
        *(f"{name}=", f"{name}={browser}", f"{name}={browser}.", f"{name}=.{seal}"),
        *(f"{name}=other.{seal}", f"{name}={browser}.{'0' * 64}", f"{name}={app.entry.token}"),
        *(f"captune-1={value}", f"x{name}={value}", f"{name}=\xff.\xff"),
    ]
    for cookie in forged:
        assert ask(app, "GET", "/", has_token=False, Cookie=cookie).status == 403, cookie
    others = f"captune-1=a.b; {name}=x.y; theme=dark; {name}={value}"
    assert ask(app, "GET", "/", has_token=False, Cookie=others).status == 200


def test_a_new_start_has_a_new_token(app: Running, tmp_path: Path) -> None:
    with running(AppOptions(runs=tmp_path)) as other:
        assert other.entry.token != app.entry.token
        assert ask(other, "GET", "/", has_token=False, Cookie=cookie_of(app)).status == 403
        path = f"/?token={app.entry.token}"
        assert ask(other, "GET", path, has_token=False).status == 403


def test_the_file_that_opens_the_page_counts_once_and_is_this_users(app: Running) -> None:
    file = Path(app.opening().removeprefix("file://"))
    assert file.parent == app.folder
    assert file.stat().st_mode & 0o777 == 0o600
    assert app.entry.token not in file.read_text()
    code = re.search(r"code=([\w-]+)", file.read_text())
    assert code is not None
    target = f"/?code={code[1]}"
    found = ask(app, "GET", target, has_token=False, Sec_Fetch_Site="cross-site")
    assert found.status == 200
    assert len(found.all("set-cookie")) == 1
    assert ask(app, "GET", target, has_token=False, Sec_Fetch_Site="cross-site").status == 403


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "localhost:80"),
        *("127.0.0.1.evil.example:{port}", "127.0.0.1:{port}@evil.example", "[::2]:{port}"),
        *("0.0.0.0:{port}", "2130706433:{port}", "127.1:{port}", "127.0.0.1:{port}x", ":{port}"),
        *("evil.example#127.0.0.1:{port}", "localhost.:{port}.", "127.0.0.1:99999", "127.0.0.2"),
    ],
)
def test_another_name_for_this_machine_is_refused(app: Running, host: str) -> None:
    """As a name that somebody else's DNS points to 127.0.0.1 would be."""
    host = host.format(port=app.url.rstrip("/").rpartition(":")[2])
    for method, target, body in (("GET", "/", None), ("POST", JOIN, event(app))):
        found = ask(app, method, target, body, Host=host, **JSON)
        assert found.status in (400, 403)
        assert found.status == 400 or "this app answers to 127.0.0.1" in found.text


@pytest.mark.parametrize("host", ["localhost:{port}", "LOCALHOST:{port}", "[::1]:{port}"])
def test_each_name_of_this_machine_is_its_own_site(app: Running, host: str) -> None:
    host = host.format(port=app.url.rstrip("/").rpartition(":")[2])
    assert ask(app, "GET", "/", Host=host).status == 200
    assert ask(app, "GET", "/", Host=host, Origin=app.url.rstrip("/")).status == 403
    assert ask(app, "GET", "/theme.css", Host=host, Origin=f"http://{host}").status == 200


FOREIGN = [
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": ""},
    {"Origin": "http://127.0.0.1:1"},
    {"Origin": "http://127.0.0.1"},
    {"Origin": "https://{host}"},
    {"Origin": "http://{host}.evil.example"},
    {"Origin": "http://{host}/"},
    {"Origin": "http://[", "Sec_Fetch_Site": "same-origin"},
    {"Sec_Fetch_Site": "cross-site"},
    {"Sec_Fetch_Site": "same-site"},
    {"Sec_Fetch_Site": "whatever"},
    {"Sec_Fetch_Site": "cross-site", "Origin": "http://{host}"},
    {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"},
]


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
def test_a_page_of_another_site_reads_and_changes_nothing(
    app: Running, headers: dict[str, str]
) -> None:
    host = app.url.removeprefix("http://").rstrip("/")
    sent = {name: value.format(host=host) for name, value in headers.items()}
    asked = [
        *(("GET", target, None) for target in ("/", "/theme.css", f"/?token={app.entry.token}")),
        *(("GET", "/gradio_api/queue/data?session_hash=s", None), ("POST", UPLOAD, b"")),
        ("POST", JOIN, event(app)),
    ]
    for method, target, body in asked:
        found = ask(app, method, target, body, **sent, **JSON)
        if sent == {"Origin": "http://127.0.0.1"} and host.endswith(":80"):
            continue
        assert (found.status, found.all("set-cookie")) == (403, []), (method, target)
        assert "a page of another site asked" in found.text
        assert not [name for name, _ in found.headers if name.startswith("access-control-")]


def test_our_own_page_is_answered_and_no_other_may_read_it(app: Running) -> None:
    own = {"Origin": app.url.rstrip("/"), "Sec_Fetch_Site": "same-origin"}
    assert ask(app, "POST", JOIN, event(app), **own, **JSON).status == 200
    for target in ("/", "/theme.css", "/gradio_api/app_id"):
        found = ask(app, "GET", target, **own)
        assert found.status == 200
        assert not [name for name, _ in found.headers if name.startswith("access-control-")]
    preflight = {"Access_Control_Request_Method": "POST", **own}
    found = ask(app, "OPTIONS", JOIN, **preflight)
    assert found.status == 403
    assert not [name for name, _ in found.headers if name.startswith("access-control-")]


def test_answers_carry_one_policy_and_nothing_from_elsewhere(app: Running) -> None:
    found = ask(app, "GET", "/")
    assert found.all("content-security-policy") == [POLICY]
    assert [word for word in POLICY.split() if "." in word or "*" in word] == []
    for target in ("/", "/theme.css", "/nowhere", "/gradio_api/app_id"):
        one = ask(app, "GET", target)
        assert len(one.all("content-security-policy")) == 1
        assert one.all("x-content-type-options") == ["nosniff"]
        assert one.all("referrer-policy") == ["no-referrer"]
        assert one.all("cross-origin-resource-policy") == ["same-origin"]
        assert target == "/" or "sandbox" in one.all("content-security-policy")[0]
    assert b"manifest" not in found.body


def test_a_report_is_a_page_without_an_origin(app: Running) -> None:
    (app.folder / "pages" / "x.html").write_text("<script>1</script>")
    app.context.pages._paths["x"] = app.folder / "pages" / "x.html"
    found = ask(app, "GET", "/captune-page/x")
    (policy,) = found.all("content-security-policy")
    assert policy.startswith("sandbox allow-scripts allow-downloads;")
    assert "allow-same-origin" not in policy
    assert found.all("content-type") == ["text/html; charset=utf-8"]
    missing = ask(app, "GET", "/captune-page/y")
    assert (missing.status, missing.text) == (404, "this page is no longer there; make it again")


def test_the_stream_of_a_page_that_the_server_forgot_ends(app: Running) -> None:
    stream = f"{app.url}gradio_api/queue/data?session_hash=forgotten"
    asked = urllib.request.Request(stream, headers={"Cookie": cookie_of(app)})
    with urllib.request.urlopen(asked, timeout=20) as answer:
        assert b"session_not_found" in answer.read()


def test_all_files_of_the_page_have_a_route(app: Running) -> None:
    import gradio

    root = Path(gradio.__file__).parent / "templates" / "frontend"
    files = [path for path in (root / "assets").rglob("*") if path.is_file()]
    assert len(files) > 500
    for path in files:
        target = f"/{path.relative_to(root).as_posix()}"
        assert route_of("GET", target) is not None, target
    # one of every kind is shown as what it is
    for path in {path.suffix: path for path in files}.values():
        found = ask(app, "GET", f"/{path.relative_to(root).as_posix()}")
        assert (found.status, found.all("content-disposition")) == (200, []), path


def test_what_another_site_would_be_fetched_from_is_never_asked(
    app: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The framework fetches an address and hands it out as its own, text/html included."""
    import safehttpx

    asked: list[str] = []

    class Upstream(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<script>alert(1)</script>")

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    async def public(host: str) -> str:
        return "127.0.0.1"

    # a public address, as the attacker's would be
    monkeypatch.setattr(safehttpx, "async_validate_url", public)
    server = http.server.HTTPServer(("127.0.0.1", 0), Upstream)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/x.png"
    quoted = url.replace(":", "%3A").replace("/", "%2F")
    forms = [
        *(url, url.upper(), quoted, quoted.replace("%", "%25"), f"%68ttp{url[4:]}", f"/{url}"),
        *(
            f"file://{url[7:]}",
            f"//{url[7:]}",
            f"\\\\{url[7:]}",
            url.replace("//", "/\\"),
            f" {url}",
        ),
    ]
    try:
        for form in forms:
            target = form.replace(" ", "%20")
            for path in ("file=", "file/", "proxy="):
                for method in ("GET", "HEAD"):
                    found = ask(app, method, f"/gradio_api/{path}{target}")
                    assert found.status == 403, (method, path, form)
        # an event's file may be named by an address, where there is to be one and in any field
        inside = {"path": url, "meta": {"_type": "gradio.FileData"}, "url": url}
        for number, fn in app.page.fns.items():
            for one in (inside, [inside], [[[inside]]], {"a": {"b": inside}}):
                data = [one] * len(fn.inputs)
                told = {"data": data, "event_data": inside}
                found = ask(app, "POST", JOIN, event(app, fn_index=number, **told), **JSON)
                assert (found.status if fn.inputs else 400) == 400, fn
        drop = next(one for one, fn in app.page.fns.items() if fn.targets[0][1] == "upload")
        body = event(app, fn_index=drop, data=[[inside], ""])
        found = ask(app, "POST", JOIN, body, **JSON)
        assert (found.status, "was not uploaded" in found.text) == (400, True)
    finally:
        server.shutdown()
        server.server_close()
    assert asked == []


@pytest.mark.parametrize(
    "path",
    [
        *("/etc/passwd", "{folder}/images/x", "{folder}/gradio/../images/x", "{folder}/gradio"),
        *(
            "{folder}/gradio-other/x",
            "{folder}/GRADIO/x",
            "%2Fetc%2Fpasswd",
            "..%2f..%2fetc/passwd",
        ),
        *("//host/share", "C:\\windows\\x", "\\\\host\\share", "file:///etc/passwd", "~/x", ""),
    ],
)
def test_no_file_of_the_machine_is_handed_out(app: Running, path: str) -> None:
    (app.folder / "images" / "x").write_text("secret")
    path = path.format(folder=app.folder)
    for prefix in ("file=", "file/", "file=/"):
        found = ask(app, "GET", f"/gradio_api/{prefix}{path}")
        assert (found.status, b"secret" in found.body) == (403, False)


@pytest.mark.parametrize("inside", [False, True])
def test_a_file_that_nobody_uploaded_is_neither_taken_nor_removed(
    app: Running, tmp_path: Path, inside: bool
) -> None:
    """Whatever path a page sends; `inside`: one of somebody else's images."""
    client = Client(app.address, 1)
    place = colour_image((app.folder / "images" if inside else tmp_path) / "own.png", (1, 2, 3))
    event_of_drop = next(
        number for number, fn in app.page.fns.items() if fn.targets[0][1] == "upload"
    )
    sent = [{"path": str(place), "orig_name": "x.png", "meta": {"_type": "gradio.FileData"}}]
    body = event(app, fn_index=event_of_drop, data=[sent, ""])
    assert client.http.post(JOIN, content=body).status_code == 400
    assert place.is_file()
    # a path that lies in the folder of uploads, but was given to nobody
    loose = colour_image(app.folder / "gradio" / "loose.png", (1, 2, 3))
    sent[0]["path"] = str(loose)
    assert "it is no longer there" in " ".join(client.ask("drop-classify", "upload", [sent, ""]))
    assert loose.is_file()


def test_history_monitoring_and_docs_are_off(app: Running) -> None:
    page = ask(app, "GET", "/").text
    config = json.loads(page.split("window.gradio_config = ", 1)[1].split(";</script>", 1)[0])
    assert config["analytics_enabled"] is False
    assert not config.get("footer_links")
    described = page.split("window.gradio_api_info = ", 1)[1].split(";</script>", 1)[0]
    assert json.loads(described)["named_endpoints"] == {}


def test_a_websocket_is_not_opened(app: Running) -> None:
    with plug(app) as connection:
        connection.sendall(
            b"GET / HTTP/1.1\r\nHost: " + app.url[7:-1].encode() + b"\r\nConnection: Upgrade\r\n"
            b"Upgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            b"Sec-WebSocket-Version: 13\r\n\r\n"
        )
        assert connection.recv(100).startswith(b"HTTP/1.1 403")


def test_the_folder_is_gone_when_the_app_ends(tmp_path: Path) -> None:
    with running(AppOptions(runs=tmp_path)) as found:
        (found.folder / "images" / "x.jpg").write_bytes(b"x")
    assert not found.folder.exists()


@pytest.mark.skipif(
    not hasattr(os, "setuid") or os.getuid() != 0, reason="only root can become another user"
)
def test_another_user_of_the_machine_gets_nothing(app: Running) -> None:
    (app.folder / "images" / "x").write_text("secret")
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        said: Any = None
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            codes = []
            for target in ("", "theme.css", f"gradio_api/file={app.folder}/images/x"):
                try:
                    codes.append(opener.open(app.url + target, timeout=20).status)
                except urllib.error.HTTPError as error:
                    codes.append(error.code)
            said = [codes, os.access(app.folder, os.X_OK), os.access(app.folder, os.R_OK)]
        finally:
            os.write(write, json.dumps(said).encode())
            os._exit(0)
    os.waitpid(child, 0)
    assert json.loads(os.read(read, 1000)) == [[403, 403, 403], False, False]
