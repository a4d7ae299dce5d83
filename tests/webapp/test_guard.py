from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from benchmarks.app import Client
from tests.webapp.app_page import colour_photo

from captune.options import AppOptions
from captune.webapp.guard import POLICY
from captune.webapp.serving import Running, running


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(AppOptions(runs=tmp_path_factory.mktemp("runs"))) as found:
        yield found


def answer(app: Running, path: str, data: bytes | None = None, **headers: str) -> tuple[int, str]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(app.url + path, data, named)
    try:
        with urllib.request.urlopen(request, timeout=20) as found:
            return found.status, found.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_it_listens_to_this_machine_alone_in_a_folder_of_this_user_alone(app: Running) -> None:
    assert app.url.startswith("http://127.0.0.1:")
    assert app.page.server_name == "127.0.0.1"
    assert app.page.share_url is None
    assert app.folder.stat().st_mode & 0o777 == 0o700


def test_the_page_is_answered_with_a_policy_that_lets_nothing_in_from_elsewhere(
    app: Running,
) -> None:
    with urllib.request.urlopen(app.url, timeout=20) as found:
        assert found.headers["Content-Security-Policy"] == POLICY
    hosts = [word for word in POLICY.split() if "." in word or "*" in word]
    assert hosts == []


def test_another_name_for_this_machine_is_refused(app: Running) -> None:
    """As a name that somebody else's DNS points to 127.0.0.1 would be."""
    status, said = answer(app, "config", Host="evil.example:7860")
    assert (status, "127.0.0.1 and localhost only" in said) == (403, True)
    assert answer(app, "config", Host="localhost:7860")[0] == 200


def test_a_page_of_another_site_changes_nothing(app: Running) -> None:
    body = json.dumps({"data": [], "fn_index": 0, "session_hash": "x"}).encode()
    json_type = {"Content_Type": "application/json"}
    path = "gradio_api/queue/join"
    assert answer(app, path, body, Origin="https://evil.example", **json_type)[0] == 403
    assert answer(app, path, body, Origin="null", **json_type)[0] == 403
    assert answer(app, path, body, Origin=app.url.rstrip("/"), **json_type)[0] != 403


@pytest.mark.parametrize("path", ["/etc/passwd", "{folder}/photos", "{folder}/../{name}/photos/x"])
def test_no_file_of_the_machine_is_handed_out(app: Running, path: str) -> None:
    (app.folder / "photos" / "x").write_text("secret")
    path = path.format(folder=app.folder, name=app.folder.name)
    assert answer(app, f"gradio_api/file={path}")[0] in (403, 404)


@pytest.mark.parametrize("inside", [False, True])
def test_a_file_that_nobody_uploaded_is_neither_taken_nor_removed(
    app: Running, tmp_path: Path, inside: bool
) -> None:
    """Whatever path a page sends; `inside`: one of somebody else's photos."""
    client = Client(app.url, json.loads(answer(app, "config")[1]), 1)
    place = colour_photo((app.folder / "photos" if inside else tmp_path) / "own.png", (1, 2, 3))
    sent = [{"path": str(place), "orig_name": "x.png", "meta": {"_type": "gradio.FileData"}}]
    with pytest.raises(AssertionError):
        list(client.ask("drop-classify", "upload", [sent, ""]))
    assert place.is_file()


def test_history_monitoring_and_docs_are_off(app: Running) -> None:
    config = json.loads(answer(app, "config")[1])
    assert config["analytics_enabled"] is False
    assert not config.get("footer_links")
    assert answer(app, "monitoring/summary")[0] in (403, 404)
    named = json.loads(answer(app, "gradio_api/info")[1])
    assert named["named_endpoints"] == {}


def test_the_folder_is_gone_when_the_app_ends(tmp_path: Path) -> None:
    with running(AppOptions(runs=tmp_path)) as found:
        (found.folder / "photos" / "x.jpg").write_bytes(b"x")
    assert not found.folder.exists()
