from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from benchmarks.app import Client, load
from tests.webapp.asking import cookie_of

from captune.options.pages import AppOptions
from captune.webapp import server
from captune.webapp.server import running


def test_nothing_is_lost_and_mistakes_are_sentences(colours: object, tmp_path: Path) -> None:
    with running(AppOptions(runs=tmp_path / "runs")) as app:
        found = load(app.address, os.getpid(), clients=8, requests=60)
        assert len(list((app.folder / "images").rglob("*.jpg"))) == 16
    assert found.wrong == []
    assert found.lost == 0
    assert (len(found.seconds), found.sentences) == (60, 6)


def test_the_examples_are_the_images_of_the_demonstration(tmp_path: Path) -> None:
    with running(AppOptions(runs=tmp_path / "runs")) as app:
        said = " ".join(Client(app.address, 0).ask("examples-classify", "click", [""]))
        assert "12 images" in said
        assert "rocket.jpg" in said
        assert len(list((app.folder / "images").rglob("*.*g"))) == 12 + 2
        # nothing but the images themselves is left of it
        assert {path.name for path in app.folder.iterdir()} == {"gradio", "images", "pages"}


def test_no_event_is_lost_that_a_page_sends_while_its_stream_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_QUIET_S", 1.0)
    with (
        running(AppOptions(runs=tmp_path / "runs")) as app,
        httpx.Client(base_url=app.url, timeout=20, trust_env=False) as http,
    ):
        http.headers["cookie"] = cookie_of(app)
        number = next(one for one, fn in app.page.fns.items() if not fn.inputs)
        event = {"data": [], "fn_index": number, "session_hash": "s"}

        def send() -> str:
            sent = http.post("gradio_api/queue/join", json=event).raise_for_status()
            return str(sent.json()["event_id"])

        def completed() -> Iterator[str]:
            """Ids until the stream ends; a page opens one only where it knows of the last end."""
            with http.stream("GET", "gradio_api/queue/data", params={"session_hash": "s"}) as said:
                for line in filter(None, said.iter_lines()):
                    message = json.loads(line.removeprefix("data: "))
                    if message["msg"] == "process_completed":
                        yield message["event_id"]
                    elif message["msg"] == "close_stream":
                        return

        first = send()
        stream = completed()
        assert next(stream) == first
        second, at = send(), time.monotonic()
        assert list(stream) == [second, server._NO_EVENT]
        assert time.monotonic() - at > 0.9 * server._QUIET_S
        ended = time.monotonic()
        third = send()
        assert time.monotonic() - ended > 0.9 * server._SETTLED_S
        assert list(completed()) == [third, server._NO_EVENT]
