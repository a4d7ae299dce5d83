"""The page: a heading and a tab for each job."""

from __future__ import annotations

from typing import Any

import gradio as gr

import captune
from captune.webapp.site import AppContext
from captune.webapp.tabs import connect_panels
from captune.webapp.tabs.caption import CaptionTab
from captune.webapp.tabs.classify import ClassifyTab
from captune.webapp.tabs.compare import CompareTab
from captune.webapp.tabs.report import ReportTab
from captune.webapp.tabs.tune import TuneTab
from captune.webapp.views import kept_by_browser, offer_on, render

_HOUR_S = 3600
# browsers ask for it without a cookie, and there is nothing to install
_MANIFEST = b'<link rel="manifest" href="/manifest.json" />'


def build(context: AppContext) -> Any:
    """The page of an app, as gr.Blocks."""
    with gr.Blocks(
        title="captune", analytics_enabled=False, delete_cache=(_HOUR_S, _HOUR_S)
    ) as page:
        about = {"is_private": context.is_private, "version": captune.__version__}
        gr.HTML(render("heading", about), elem_id="heading", js_on_load=None)
        images_id = kept_by_browser("images")
        with gr.Tabs(elem_id="jobs"):
            with gr.Tab("Classify", id="classify", elem_id="panel-classify"):
                classify = ClassifyTab(context, images_id)
            with gr.Tab("Caption", id="caption", elem_id="panel-caption") as captioning:
                caption = CaptionTab(context, images_id)
            with gr.Tab("Tune", id="tune", elem_id="panel-tune"):
                tune = TuneTab(context)
            with gr.Tab("Compare", id="compare", elem_id="panel-compare") as comparing:
                compare = CompareTab(context)
            with gr.Tab("Report", id="report", elem_id="panel-report") as reporting:
                report = ReportTab(context)
        panels = [classify.images, caption.images]
        changed = connect_panels(context, page, panels, images_id, caption.image)
        classify.connect(page, changed)
        for tab in (caption, tune, compare, report):
            tab.connect(page)
        for tab, opened, lists in (
            (caption, captioning, [caption.model]),
            (compare, comparing, [compare.first, compare.second]),
            (report, reporting, [report.runs]),
        ):
            offer_on([page.load, opened.select], lists, tab.offered)
    return page


def theme() -> Any:
    """System fonts: a theme's own would come from another host. Colours that can be read."""
    plain = gr.themes.Default(
        primary_hue=gr.themes.colors.blue,
        neutral_hue=gr.themes.colors.slate,
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )
    return plain.set(
        color_accent="*primary_600",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_400",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_400",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_hover_dark="*primary_700",
    )


def without_manifest(app: Any) -> Any:
    """ASGI application around that of the framework, which names a manifest on every page."""

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["path"] != "/":
            await app(scope, receive, send)
            return
        headers = [pair for pair in scope["headers"] if pair[0] != b"accept-encoding"]
        start: dict[str, Any] = {}
        body = bytearray()

        async def hold(message: Any) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
                return
            body.extend(message.get("body", b""))
            if not message.get("more_body", False):
                page = bytes(body).replace(_MANIFEST, b"")
                kept = [pair for pair in start["headers"] if pair[0] != b"content-length"]
                start["headers"] = [*kept, (b"content-length", str(len(page)).encode())]
                await send(start)
                await send({"type": "http.response.body", "body": page})

        await app({**scope, "headers": headers}, receive, hold)

    return answer
