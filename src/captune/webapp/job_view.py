"""Where a tab shows its job: the result, Stop, and the job's id, kept by the browser.

An event of the page begins a job and follows it. The page may be closed or loaded again meanwhile:
the job goes on, and the page that knows its id picks it up.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import gradio as gr

from captune.errors import UserError
from captune.webapp.drawing import Draw, followed, refusal
from captune.webapp.jobs import BROWSER, Job
from captune.webapp.site import Site

# no bars of the framework's over our own, no entry among its endpoints, as many at once as ask
QUIET: dict[str, Any] = {
    "show_progress": "hidden",
    "api_visibility": "private",
    "concurrency_limit": None,
}
Begin = Callable[..., Job]


def browser_of(request: Any) -> str:
    """The id of the browser that an event came from."""
    return str(request.request.scope["captune.browser"])


def kept_by_browser(name: str, *, render: bool = True) -> Any:
    """A value that survives a reload; ids alone are kept, which mean nothing to another app."""
    key = f"captune-{name}"
    return gr.BrowserState("", storage_key=key, secret="captune", render=render)  # noqa: S106


class JobView:
    """One job at a time, the last that was asked for."""

    def __init__(self, site: Site, name: str, draw: Draw) -> None:
        self._site, self._draw = site, draw
        # what stands in a tab is only there once the tab was opened: it is rendered beside them
        self.id = kept_by_browser(f"job-{name}", render=False)
        self._is_kept = False
        self.stop: Any = None
        self.result: Any = None
        self._name = name

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

    def begin_on(
        self, triggers: Sequence[Any], begin: Begin, inputs: Sequence[Any], mode: str = "once"
    ) -> None:
        """An event that begins a job. begin: the inputs -> a job; its UserErrors are shown.

        mode: "always_last" for what is typed, of which only the last counts.
        """

        async def run(request: gr.Request, *values: Any) -> AsyncIterator[tuple[Any, ...]]:
            BROWSER.set(browser_of(request))
            try:
                job = await asyncio.to_thread(begin, *values)
            except UserError as error:
                yield refusal(str(error)), gr.update(visible=False), gr.skip()
                return
            async for html in followed(job, self._draw):
                yield html, gr.update(visible=not job.is_over), job.id

        self._keep()
        outputs = [self.result, self.stop, self.id]
        for trigger in triggers:
            trigger(run, list(inputs), outputs, trigger_mode=mode, **QUIET)

    def connect(self, page: Any, fields: Mapping[str, Any]) -> None:
        """Stop, and what happens when the page is loaded. fields: those that a job's `asked` fills.

        To be called when all is placed, and as `begin_on` outside of the tabs.
        """
        self._keep()

        def press(id: str) -> None:
            job = self._site.jobs.find(id)
            if job is not None:
                job.stop()

        self.stop.click(press, [self.id], None, **QUIET)

        async def pick_up(id: str) -> AsyncIterator[tuple[Any, ...]]:
            job = self._site.jobs.find(id)
            if job is None:
                # a generator that yields nothing would empty the fields
                yield tuple(gr.skip() for _ in range(2 + len(fields)))
                return
            filled = [job.asked.get(name, gr.skip()) for name in fields]
            async for html in followed(job, self._draw):
                yield html, gr.update(visible=not job.is_over), *filled
                filled = [gr.skip()] * len(filled)

        page.load(pick_up, [self.id], [self.result, self.stop, *fields.values()], **QUIET)

    def _keep(self) -> None:
        if not self._is_kept:
            self.id.render()
            self._is_kept = True
