"""The app ends within 5 s whatever it is doing, and leaves nothing, however it ends."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.webapp.asking import cookie_of
from tests.webapp.conftest import Start

from captune.options.pages import AppOptions
from captune.webapp.server import running

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and locks are others here")


def ended_in(app: Any, limit_s: float) -> float:
    """How long it takes; it fails where that is too long."""
    began = time.monotonic()
    app.join(limit_s)
    assert app.exitcode is not None
    return time.monotonic() - began


def is_gone(path: Path) -> bool:
    """Soon, for another process removes it."""
    end = time.monotonic() + 10
    while path.exists() and time.monotonic() < end:
        time.sleep(0.05)
    return not path.exists()


@pytest.mark.parametrize(
    ("kind", "ending"), [("sleeps", "SIGTERM"), ("holds", "SIGHUP"), ("holds", "SIGINT")]
)
def test_whatever_it_does_it_ends_when_it_is_told_to(start: Start, kind: str, ending: str) -> None:
    app, found = start(kind)
    if kind == "holds":
        time.sleep(0.5)
    os.kill(app.pid, getattr(signal, ending))
    assert ended_in(app, 60) < 5
    assert app.exitcode == (-signal.SIGKILL if kind == "holds" else 0)
    assert is_gone(Path(found["folder"]))


@pytest.mark.parametrize("kind", ["sleeps", "holds"])
def test_a_second_ctrl_c_ends_it_at_once(start: Start, kind: str) -> None:
    app, found = start(kind)
    time.sleep(0.5)
    os.kill(app.pid, signal.SIGINT)
    time.sleep(0.2)
    os.kill(app.pid, signal.SIGINT)
    assert ended_in(app, 60) < 1.5
    assert app.exitcode in (130, -signal.SIGKILL)
    assert is_gone(Path(found["folder"]))


def test_streams_that_are_open_hold_nothing_up(start: Start, tmp_path: Path) -> None:
    app, found = start("idle")
    address = found["address"]
    with httpx.Client(base_url=address.partition("?")[0], trust_env=False, timeout=20) as http:
        http.get(address)
        where = {"upload_id": "x"}

        def forever() -> Iterator[bytes]:
            yield b"--b\r\nContent-Disposition: form-data; name=files; filename=x\r\n\r\n"
            while True:
                yield b"x"
                time.sleep(0.1)

        def upload() -> None:
            kind = {"content-type": "multipart/form-data; boundary=b"}
            try:
                http.post("gradio_api/upload", params=where, content=forever(), headers=kind)
            except httpx.HTTPError:
                return

        threading.Thread(target=upload, daemon=True).start()
        with http.stream("GET", "gradio_api/upload_progress", params=where) as stream:
            assert "update" in next(stream.iter_lines())
            os.kill(app.pid, signal.SIGTERM)
            assert ended_in(app, 60) < 5
    assert app.exitcode == 0
    assert is_gone(Path(found["folder"]))
    assert (tmp_path / "stderr").read_text().strip() == ""


def test_the_stream_of_an_open_page_ends_as_if_nothing_were_left(tmp_path: Path) -> None:
    """Of one that breaks off, the page warns that its connection is lost."""
    said: list[str] = []
    with running(AppOptions(runs=tmp_path / "runs")) as app:
        http = httpx.Client(base_url=app.url, trust_env=False, timeout=20)
        http.headers["cookie"] = cookie_of(app)
        number = next(one for one, fn in app.page.fns.items() if not fn.inputs)
        event = {"data": [], "fn_index": number, "session_hash": "s"}
        http.post("gradio_api/queue/join", json=event).raise_for_status()

        def listen() -> None:
            with http.stream("GET", "gradio_api/queue/data", params={"session_hash": "s"}) as lines:
                said.extend(filter(None, lines.iter_lines()))

        page = threading.Thread(target=listen, daemon=True)
        page.start()
        end = time.monotonic() + 20
        while not any("process_completed" in line for line in said) and time.monotonic() < end:
            time.sleep(0.02)
    page.join(20)
    assert not page.is_alive()
    assert "close_stream" in said[-1]
    assert not any("error" in line.partition('"output"')[0] for line in said)


def test_a_tune_is_asked_for_its_checkpoint_and_ended_in_time(start: Start, tmp_path: Path) -> None:
    app, _ = start("tunes")
    end = time.monotonic() + 60
    while not (tmp_path / "pid").exists() and time.monotonic() < end:
        time.sleep(0.05)
    child = int((tmp_path / "pid").read_text())
    os.kill(app.pid, signal.SIGTERM)
    assert ended_in(app, 60) < 5
    assert (tmp_path / "checkpoint").exists()
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_one_that_is_killed_leaves_nothing(start: Start) -> None:
    app, found = start("sleeps")
    app.kill()
    app.join()
    assert is_gone(Path(found["folder"]))
