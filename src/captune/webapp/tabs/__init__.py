"""The page: a heading and a tab for each job, a function each."""

from __future__ import annotations

from types import GenericAlias
from typing import Any

import gradio as gr

import captune
from captune.webapp.guard import EventType, UploadedFile
from captune.webapp.site import AppContext
from captune.webapp.tabs.images import caption_tab, classify_tab, explain_tab
from captune.webapp.tabs.runs import compare_tab, report_tab, tune_tab
from captune.webapp.views import SharedImages, render

_HOUR_S = 3600


def build_app(context: AppContext) -> Any:
    """The page of an app, as gr.Blocks."""
    with gr.Blocks(
        title="captune", analytics_enabled=False, delete_cache=(_HOUR_S, _HOUR_S)
    ) as page:
        about = {"is_private": context.is_private, "version": captune.__version__}
        gr.HTML(render("heading", about), elem_id="heading", js_on_load=None)
        images = SharedImages(context, page, ["classify", "caption", "explain"])
        with gr.Tabs(elem_id="jobs"):
            with gr.Tab("Classify", id="classify", elem_id="panel-classify"):
                panels = classify_tab(context, page, images)
            with gr.Tab("Caption", id="caption", elem_id="panel-caption") as opened:
                panels += caption_tab(context, page, opened, images)
            with gr.Tab("Explain", id="explain", elem_id="panel-explain") as opened:
                panels += explain_tab(context, page, opened, images)
            with gr.Tab("Tune", id="tune", elem_id="panel-tune"):
                panels += tune_tab(context, page)
            with gr.Tab("Compare", id="compare", elem_id="panel-compare") as opened:
                panels += compare_tab(context, page, opened)
            with gr.Tab("Report", id="report", elem_id="panel-report") as opened:
                panels += report_tab(context, page, opened)
        for panel in panels:
            panel.id.render()
    return page


def event_types(page: Any) -> dict[int, EventType]:
    """What each event of the page holds, by number: values that its fields can have."""
    return {
        number: EventType(
            GenericAlias(tuple, tuple(map(_value_type, fn.inputs))), fn.collects_event_data
        )
        for number, fn in page.fns.items()
    }


def _value_type(field: Any) -> Any:
    match field:
        case gr.Dropdown(multiselect=True):
            return list[str] | None
        case gr.CheckboxGroup():
            return list[str]
        case gr.Textbox() | gr.BrowserState() | gr.Dropdown():
            return str | None
        case gr.Checkbox():
            return bool
        case gr.Slider():
            return int | float
        case gr.Number():
            return int | float | None
        case gr.File():
            return list[UploadedFile] | None
    raise TypeError(f"no event of the page may have a field of {type(field).__name__}")


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
