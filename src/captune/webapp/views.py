"""Where a tab shows its job, and where what it found is kept as a run.

An event of the page begins a job and follows it. The page may be closed or loaded again meanwhile:
the job goes on, and the page that knows its id picks it up. What jobs found is drawn with templates
of this package, in which every text is text and never markup.
"""

from __future__ import annotations

import asyncio
import shlex
import shutil
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import gradio as gr

from captune.errors import UserError
from captune.options.codec import words_of
from captune.pages.blocks import render_template
from captune.webapp.queue import BROWSER, QueuedJob
from captune.webapp.site import AppContext, images_beside
from captune_metrics.text import printable

# no bars of the framework's over our own, no entry among its endpoints, as many at once as ask
QUIET: dict[str, Any] = {
    "show_progress": "hidden",
    "api_visibility": "private",
    "concurrency_limit": None,
}
_FIRST_S, _LONGEST_S = 0.03, 0.4
_PATIENCE_S = 0.5
Draw = Callable[[QueuedJob], str]


def render(template: str, content: Mapping[str, Any]) -> str:
    """A template of this package as HTML."""
    return render_template(f"{template}.html.jinja", content, package="captune.webapp")


def render_job(
    context: AppContext, job: QueuedJob, template: str, content: Mapping[str, Any]
) -> str:
    """A job's frame (bar, error, notes, command line) around its result."""
    frame = {
        "job": job,
        "before": context.queue.waiting_before(job) if job.state == "waiting" else 0,
        "command": shlex.join(job.command),
        "fraction": min(1.0, job.done / job.total) if job.total else None,
    }
    return render(template, {**frame, **content})


def refusal(sentence: str) -> str:
    """What cannot be done, in one sentence."""
    return render("refusal", {"sentence": sentence})


def asset(name: str) -> str:
    """A style sheet or script of this package."""
    return (files("captune.webapp") / "templates" / name).read_text(encoding="utf-8")


def choices(names: Sequence[str]) -> list[tuple[str, str]]:
    """What a list offers: as it is shown, and what it stands for."""
    return [(printable(name), name) for name in names]


def offer_on(
    events: Sequence[Any], lists: Sequence[Any], names: Callable[[], Sequence[str]]
) -> None:
    """Let lists offer the names that there are when an event comes."""

    def offered() -> dict[Any, Any]:
        found = choices(names())
        return {one: gr.update(choices=found) for one in lists}

    for event in events:
        event(offered, None, list(lists), **QUIET)


def kept_by_browser(name: str, *, render: bool = True) -> Any:
    """A value that survives a reload; ids alone are kept, which mean nothing to another app."""
    key = f"captune-{name}"
    return gr.BrowserState("", storage_key=key, secret="captune", render=render)  # noqa: S106


async def job_updates(job: QueuedJob, draw: Draw) -> AsyncIterator[str]:
    """What a job shows, again with every change, until it is over.

    One that is over soon shows only what came of it: what stood there before does not flicker.
    """
    version, wait_s, waited_s = -1, _FIRST_S, 0.0
    while True:
        is_over = job.is_over
        if job.version != version and (is_over or waited_s > _PATIENCE_S):
            version = job.version
            yield draw(job)
        if is_over:
            return
        await asyncio.sleep(wait_s)
        waited_s += wait_s
        wait_s = min(_LONGEST_S, 1.3 * wait_s)


class JobPanel:
    """One job at a time, the last that was asked for: its result and Stop.

    Its id is kept by the browser. draw: the job -> HTML.
    """

    def __init__(self, context: AppContext, name: str, draw: Draw) -> None:
        self._context, self._name, self._draw = context, name, draw
        # what stands in a tab is only there once the tab was opened: it is rendered beside them
        self.id = kept_by_browser(f"job-{name}", render=False)
        self.stop: Any = None
        self.result: Any = None

    def place_stop(self) -> None:
        """The button, where it stands in the layout."""
        self.stop = gr.Button("Stop", visible=False, variant="stop", elem_id=f"stop-{self._name}")

    def place_result(self, waiting: str) -> None:
        """The result, and what stands there before there is one."""
        self.result = gr.HTML(
            f'<div class="cap"><p class="empty">{waiting}</p></div>' if waiting else "",
            elem_id=f"result-{self._name}",
            js_on_load=None,
        )

    def connect(
        self,
        page: Any,
        triggers: Sequence[Any],
        begin: Callable[..., QueuedJob],
        fields: Sequence[Any],
        also: Sequence[Any] = (),
        mode: str = "once",
    ) -> None:
        """Its events, to be set up when all is placed, and outside of the tabs.

        triggers: events that begin a job. begin: the values of `fields` and `also` -> a job; its
        UserErrors are shown. fields: filled again when the page is loaded and the job is there.
        mode: "always_last" for what is typed, of which only the last counts.
        """

        async def run(request: gr.Request, *values: Any) -> AsyncIterator[tuple[Any, ...]]:
            BROWSER.set(str(request.request.scope["captune.browser"]))
            try:
                job = await asyncio.to_thread(begin, *values)
            except UserError as error:
                yield refusal(str(error)), gr.update(visible=False), gr.skip()
                return
            job.asked = job.asked or list(values[: len(fields)])
            async for html in job_updates(job, self._draw):
                yield html, gr.update(visible=not job.is_over), job.id

        async def pick_up(id: str) -> AsyncIterator[tuple[Any, ...]]:
            job = self._context.queue.find(id)
            # a generator that yields nothing would empty the fields
            filled: list[Any] = [gr.skip() for _ in fields]
            if job is None:
                yield gr.skip(), gr.skip(), *filled
                return
            first = job.asked or filled
            async for html in job_updates(job, self._draw):
                yield html, gr.update(visible=not job.is_over), *first
                first = filled

        def press(id: str) -> None:
            if (job := self._context.queue.find(id)) is not None:
                job.stop()

        self.id.render()
        shown = [self.result, self.stop]
        for trigger in triggers:
            trigger(run, [*fields, *also], [*shown, self.id], trigger_mode=mode, **QUIET)
        self.stop.click(press, [self.id], None, **QUIET)
        page.load(pick_up, [self.id], [*shown, *fields], **QUIET)


class SaveRun:
    """Keep: what a tab found becomes a run folder, with its images beside it.

    make: what the tab's fields hold -> the options of its command, without images and out.
    work: does the command's job with those options.
    """

    def __init__(
        self,
        context: AppContext,
        command: str,
        make: Callable[..., Any],
        work: Callable[[Any, QueuedJob], None],
        name: str,
    ) -> None:
        self._context, self._command, self._make, self._work = context, command, make, work
        self.panel = JobPanel(context, f"keep-{command}", self._draw)
        with gr.Accordion("Keep as a run", open=False):
            self.name = gr.Textbox(
                name,
                label="Name of the run",
                info=f"Written to {context.options.runs}, with a copy of the images beside it.",
                elem_id=f"keep-name-{command}",
            )
            with gr.Row():
                self.button = gr.Button("Keep", elem_id=f"keep-{command}")
                self.panel.place_stop()
            self.panel.place_result("")

    def connect(self, page: Any, inputs: Sequence[Any], images_id: Any) -> None:
        """Its events; inputs: the fields that `make` takes."""
        also = [images_id, *inputs]
        self.panel.connect(page, [self.button.click], self._begin, [self.name], also)

    def _begin(self, name: str, id: str, *values: Any) -> QueuedJob:
        found = self._context.uploads.images_of(id)
        out = self._context.new_run(name)
        copies = images_beside(out)
        for place in (out, copies):
            if place.exists():
                raise UserError(
                    f"{printable(str(place))} is there already; give the run another name"
                )
        options = self._make(*values)
        options.images, options.out = [str(copies)], out

        def work(job: QueuedJob) -> Path:
            self._context.begin_run(out, found.size_bytes)
            copies.mkdir(parents=True)
            try:
                for image in found.images:
                    shutil.copyfile(image.path, copies / image.name)
                self._work(options, job)
            except BaseException:
                shutil.rmtree(copies, ignore_errors=True)
                raise
            return out

        return self._context.queue.submit(work, words_of(self._command, options))

    def _draw(self, job: QueuedJob) -> str:
        return render_job(self._context, job, "kept", {"run": job.result})
