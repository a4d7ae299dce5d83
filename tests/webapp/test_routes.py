"""The framework's routes: a new one, or a newer framework, is looked at before it is used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr
import pytest
from gradio.routes import App
from tests.webapp.asking import ask

from captune.options.pages import AppOptions
from captune.webapp.guard import route_of
from captune.webapp.server import Running, running

NEEDED = {
    *("GET /", "GET /static/{path:path}", "GET /assets/{path:path}", "GET /favicon.ico"),
    *("GET /theme.css", "GET /gradio_api/app_id", "GET /gradio_api/queue/data"),
    *("GET /gradio_api/upload_progress", "POST /gradio_api/queue/join"),
    "POST /gradio_api/upload",  # ours stands before it
}
REFUSED = {
    *("GET /openapi.json", "HEAD /openapi.json", "POST /login/", "POST /login", "GET /logout"),
    *("GET /svelte/{path:path}", "HEAD /", "GET /gradio_api/deep_link", "GET /config"),
    *("GET /config/", "GET /robots.txt", "GET /pwa_icon/{size}", "GET /pwa_icon"),
    *("GET /manifest.json", "GET /monitoring", "GET /monitoring/summary", "GET /monitoring/{key}"),
    *("GET /gradio_api/user/", "GET /gradio_api/user", "GET /gradio_api/login_check/"),
    *("GET /gradio_api/login_check", "GET /gradio_api/token/", "GET /gradio_api/token"),
    *("GET /gradio_api/app_id/", "GET /gradio_api/dev/reload", "GET /gradio_api/runs/"),
    *("GET /gradio_api/runs", "GET /gradio_api/info", "GET /gradio_api/info/"),
    "GET /gradio_api/openapi.json",
    "GET /gradio_api/custom_component/{id}/{environment}/{type}/{file_name}",
    *("GET /gradio_api/proxy={url_path:path}", "HEAD /gradio_api/proxy={url_path:path}"),
    *("GET /gradio_api/file={path_or_url:path}", "HEAD /gradio_api/file={path_or_url:path}"),
    *("POST /gradio_api/stream/{event_id}", "POST /gradio_api/stream/{event_id}/close"),
    "GET /gradio_api/stream/{session_hash}/{run}/{component_id}/playlist.m3u8",
    "GET /gradio_api/stream/{session_hash}/{run}/{component_id}/{segment_id}.{ext}",
    "GET /gradio_api/stream/{session_hash}/{run}/{component_id}/playlist-file",
    *("GET /gradio_api/file/{path:path}", "POST /gradio_api/reset", "POST /gradio_api/reset/"),
    *("GET /gradio_api/heartbeat/{session_hash}", "POST /gradio_api/api/{api_name}/"),
    *("POST /gradio_api/api/{api_name}", "POST /gradio_api/run/{api_name}/"),
    *("POST /gradio_api/run/{api_name}", "POST /gradio_api/call/v2/{api_name}/"),
    *("POST /gradio_api/call/v2/{api_name}", "POST /gradio_api/call/{api_name}/"),
    *("POST /gradio_api/call/{api_name}", "POST /gradio_api/cancel"),
    *(
        "GET /gradio_api/call/{api_name}/{event_id}",
        "GET /gradio_api/call/v2/{api_name}/{event_id}",
    ),
    *("POST /gradio_api/component_server/", "POST /gradio_api/component_server"),
    *(
        "GET /gradio_api/queue/status",
        "GET /gradio_api/startup-events",
        "GET /gradio_api/theme.css",
    ),
    *("POST /gradio_api/process_recording", "POST /gradio_api/vibe-edit"),
    *("POST /gradio_api/vibe-edit/", "POST /gradio_api/undo-vibe-edit"),
    *(
        "POST /gradio_api/undo-vibe-edit/",
        "GET /gradio_api/vibe-code",
        "GET /gradio_api/vibe-code/",
    ),
    *("POST /gradio_api/vibe-code", "POST /gradio_api/vibe-code/"),
    *("POST /gradio_api/vibe-starter-queries", "POST /gradio_api/vibe-starter-queries/"),
}
EXAMPLES = {
    *("{path:path}", "{url_path:path}", "{path_or_url:path}", "{size}", "{key}", "{id}", "{run}"),
    *("{environment}", "{type}", "{file_name}", "{event_id}", "{session_hash}", "{api_name}"),
    *("{component_id}", "{segment_id}", "{ext}"),
}


def listed(routes: Any) -> Iterator[str]:
    """METHOD PATH of every route, those of routers in it included."""
    for one in routes:
        if hasattr(one, "path"):
            yield from (f"{method} {one.path}" for method in one.methods or ["ANY"])
        else:
            yield from listed(one.original_router.routes)


def test_the_framework_has_the_routes_that_were_looked_at() -> None:
    with gr.Blocks() as page:
        pass
    page.run_history = False
    found = set(listed(App.create_app(page).routes))
    assert found == NEEDED | REFUSED, "look at each that is new before it is listed here"


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(AppOptions(runs=tmp_path_factory.mktemp("runs"))) as found:
        yield found


@pytest.mark.parametrize("route", sorted(REFUSED))
def test_what_the_page_does_not_need_is_refused(app: Running, route: str) -> None:
    method, _, target = route.partition(" ")
    for name in EXAMPLES:
        target = target.replace(name, "1")
    assert "{" not in target
    assert route_of(method, target) is None
    found = ask(app, method, target, b"{}" if method == "POST" else None)
    assert found.status == 403
    assert method == "HEAD" or "the page asks for nothing of that kind" in found.text
