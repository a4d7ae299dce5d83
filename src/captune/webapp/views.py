"""What tabs are made of: where a job is shown, where images are dropped, where a run is kept.

An event of the page begins a job and follows it. The page may be closed or loaded again meanwhile:
the job goes on, and the page that knows its id picks it up. What jobs found is drawn with templates
of this package, in which every text is text and never markup.
"""

from __future__ import annotations

import asyncio
import base64
import os
import shlex
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any

import gradio as gr

from captune.errors import UserError
from captune.images import Skipped
from captune.options.codec import words_of
from captune.options.pages import AppOptions
from captune.pages.blocks import render_template
from captune.webapp.queue import BROWSER, QueuedJob
from captune.webapp.site import AppContext, images_beside
from captune.webapp.uploads import Dropped, ImageFolder
from captune_metrics.display import printable

# no bars of the framework's over our own, no entry among its endpoints, as many at once as ask
QUIET: dict[str, Any] = {
    "show_progress": "hidden",
    "api_visibility": "private",
    "concurrency_limit": None,
}
# several clicks that follow each other quickly: none is lost, and the last one's answer is the last
_EACH = QUIET | {"trigger_mode": "multiple", "concurrency_limit": 1, "concurrency_id": "each"}
_FIRST_S, _LONGEST_S = 0.03, 0.4
_PATIENCE_S = 0.5
_REMOVES = (
    "element.addEventListener('click', ({ target }) => {"
    " const button = target.closest('[data-remove]');"
    " if (!button) return;"
    " button.disabled = true;"
    " trigger('click', { name: button.dataset.remove }) })"
)


def render(template: str, content: Mapping[str, Any]) -> str:
    """A template of this package as HTML."""
    return render_template(f"{template}.html.jinja", content, package="captune.webapp")


def refusal(sentence: str) -> str:
    """What cannot be done, in one sentence."""
    return render("refusal", {"sentence": sentence})


def asset(name: str) -> str:
    """A style sheet or script of this package."""
    return (files("captune.webapp") / "templates" / name).read_text(encoding="utf-8")


def shell_line(words: Sequence[str]) -> str:
    """A command line to paste into a shell. What cannot be seen becomes an escape in $'...'."""
    return " ".join(
        shlex.quote(word) if printable(word) == word else f"$'{_escaped(word)}'" for word in words
    )


def _escaped(word: str) -> str:
    return printable(word.replace("\\", r"\\").replace("'", r"\'"))


@contextmanager
def answer_files(context: AppContext, job: QueuedJob, name: str) -> Iterator[list[str]]:
    """Files for --to, which the page of the job hands out when the block has ended."""
    with tempfile.TemporaryDirectory(dir=context.folder) as folder:
        files = {
            kind: Path(folder) / f"{name}{ending}"
            for ending, kind in ((".csv", "text/csv"), (".jsonl", "application/jsonl"))
        }
        yield [str(file) for file in files.values()]
        job.files = {file.name: data_uri(kind, file.read_bytes()) for kind, file in files.items()}


def data_uri(kind: str, content: bytes) -> str:
    """Bytes as an address that a page needs no request for."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def name_skipped(skipped: Sequence[Skipped], job: QueuedJob) -> None:
    """Say beside the result which images could not be used."""
    for item in skipped:
        job.message(f"{item.path}: {item.reason}")


def never_a_file(names: Sequence[str]) -> str:
    """Labels as one option, whatever they look like: a command opens a file of that name."""
    labels = ",".join(names)
    if len(names) == 1 or "." in labels or "/" in labels:
        labels += ","
    while os.path.exists(labels):  # noqa: PTH110  # pathlib's raises for a long name
        labels += ","
    return labels


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


@contextmanager
def beside_panels(*panels: JobPanel) -> Iterator[None]:
    """The fields of a tab; at their right what comes of the jobs of these panels."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=320):
            yield
        with gr.Column(scale=3, min_width=320):
            for panel in panels:
                panel.result.render()


def kept_by_browser(name: str, *, render: bool = True) -> Any:
    """A value that survives a reload; ids alone are kept, which mean nothing to another app."""
    key = f"captune-{name}"
    return gr.BrowserState("", storage_key=key, secret="captune", render=render)  # noqa: S106


class JobPanel:
    """One job at a time, the last that was asked for: its button, Stop and result.

    The tab places them: `place_button`, `result.render()`. id: kept by the browser, and rendered
    beside the tabs: what stands in a tab is only there once the tab was opened. template: draws the
    job's result, with `more`. waiting: stands there before.
    """

    def __init__(
        self, context: AppContext, name: str, template: str, waiting: str = "", **more: Any
    ) -> None:
        self._name, self._template, self._more = name, template, more
        self._context, self._queue = context, context.queue
        self.id = kept_by_browser(f"job-{name}", render=False)
        self._empty = f'<div class="cap"><p class="empty">{waiting}</p></div>' if waiting else ""
        self.result = gr.HTML(self._empty, elem_id=f"result-{name}", js_on_load=None, render=False)

    def place_button(self, label: str, **more: Any) -> None:
        """What begins a job, and beside it what stops it."""
        with gr.Row():
            self.button = gr.Button(label, elem_id=self._name, **more)
            self.stop = gr.Button(
                "Stop", visible=False, variant="stop", elem_id=f"stop-{self._name}"
            )

    def connect(
        self,
        page: Any,
        begin: Callable[..., QueuedJob],
        fields: Sequence[Any],
        also: Sequence[Any] = (),
        triggers: Sequence[Any] = (),
        mode: str = "once",
        removed: Sequence[Any] = (),
    ) -> None:
        """Its events.

        begin: the values of `fields` and `also` -> a job; its UserErrors are shown. fields: filled
        again when the page is loaded and the job is there. triggers: what begins a job beside the
        button. mode: "always_last" for what is typed, of which only the last counts. removed: the
        events after which images are gone, and their cards with them.
        """

        async def run(request: gr.Request, *values: Any) -> AsyncIterator[tuple[Any, ...]]:
            BROWSER.set(str(request.request.scope["captune.browser"]))
            try:
                job = await asyncio.to_thread(begin, *values)
            except UserError as error:
                yield refusal(str(error)), gr.update(visible=False), gr.skip()
                return
            job.asked = job.asked or list(values[: len(fields)])
            async for html in self._updates(job):
                yield html, gr.update(visible=not job.is_over), job.id

        async def pick_up(id: str) -> AsyncIterator[tuple[Any, ...]]:
            job = self._queue.find(id)
            # a generator that yields nothing would empty the fields
            filled: list[Any] = [gr.skip() for _ in fields]
            if job is None:
                yield gr.skip(), gr.skip(), *filled
                return
            first = job.asked or filled
            async for html in self._updates(job):
                yield html, gr.update(visible=not job.is_over), *first
                first = filled

        for event in removed:
            shown = [self.result, self.id]
            event(self._without_removed, [self.id], shown, trigger_mode="always_last", **QUIET)
        shown = [self.result, self.stop]
        for trigger in (self.button.click, *triggers):
            trigger(run, [*fields, *also], [*shown, self.id], trigger_mode=mode, **QUIET)
        self.stop.click(self._press, [self.id], None, **QUIET)
        page.load(pick_up, [self.id], [*shown, *fields], **QUIET)

    def _press(self, id: str) -> None:
        if (job := self._queue.find(id)) is not None:
            job.stop()

    def _without_removed(self, id: str) -> tuple[Any, ...]:
        """What is left of a job's cards, and its id."""
        job = self._queue.find(id)
        if job is None or job.images is None:
            return gr.skip(), gr.skip()
        if job.images.images:
            return self._draw(job), gr.skip()
        job.stop()
        return self._empty, ""

    async def _updates(self, job: QueuedJob) -> AsyncIterator[str]:
        """What a job shows, again with every change, until it is over.

        One that is over soon shows only what came of it: what stood there before does not flicker.
        """
        version, wait_s, waited_s = -1, _FIRST_S, 0.0
        while True:
            seen = copy(job)  # as it is now: it may end while it is drawn
            if seen.is_over or (seen.version != version and waited_s > _PATIENCE_S):
                version = seen.version
                yield self._draw(seen)
            if seen.is_over:
                return
            await asyncio.sleep(wait_s)
            waited_s += wait_s
            wait_s = min(_LONGEST_S, 1.3 * wait_s)

    def _draw(self, job: QueuedJob) -> str:
        """The job's frame (bar, error, notes, files, command line) around its result."""
        result, is_whole = job.result, True
        if job.images is not None:
            result = [card for card in result or () if card["name"] in job.images.thumbnails]
            is_whole = len(result) == len(job.result or ())
        frame = {
            "job": job,
            "result": result,
            "files": job.files if job.is_over and is_whole else {},
            "before": self._queue.waiting_before(job) if job.state == "waiting" else 0,
            "command": self._line(job.command),
            "fraction": min(1.0, job.done / job.total) if job.total else None,
        }
        return render(self._template, frame | self._more)

    def _line(self, command: Sequence[str]) -> str:
        """The command line, which goes to the folder of the app where it names something there."""
        line = shell_line(command)
        # nobody who shares the app is told what there is in its folder
        if (
            self._context.is_private
            and any(
                os.path.exists(word) and not os.path.isabs(word)  # noqa: PTH110, PTH117  # as above
                for word in command[2:]
            )
        ):
            return f"cd {shell_line([os.getcwd()])} && {line}"  # noqa: PTH109
        return line


class ImagePanel:
    """A place to drop images and the strip of those that are there, rendered by its tab.

    A click on an image's button in the strip is a click on the strip, with the name of the image.
    """

    def __init__(self, limits: AppOptions, name: str) -> None:
        self.drop = gr.File(
            label=f"Images: up to {limits.most_images:,}, each up to {limits.most_mb:,} MB",
            file_count="multiple",
            height=150,
            elem_id=f"drop-{name}",
            render=False,
        )
        small: dict[str, Any] = {"size": "sm", "min_width": 120, "render": False}
        self.example = gr.Button("Example images", elem_id=f"examples-{name}", **small)
        self.clear = gr.Button("Forget my images", **small)
        self.strip = gr.HTML(
            _strip(None), elem_id=f"strip-{name}", js_on_load=_REMOVES, render=False
        )

    def render(self) -> None:
        """Place it."""
        self.drop.render()
        with gr.Row():
            self.example.render()
            self.clear.render()
        self.strip.render()


class SharedImages:
    """The set of images that all tabs of a page share.

    id: of the set, kept by the browser. panels: by tab. choice: a list that offers the images.
    added, removed: the events after which there are more, and fewer.
    """

    def __init__(self, context: AppContext, page: Any, tabs: Sequence[str]) -> None:
        self._context = context
        self.id = kept_by_browser("images")
        self.choice = gr.Dropdown([], label="Image", elem_id="ask-image", render=False)
        self.panels = {name: ImagePanel(context.options, name) for name in tabs}
        panels = self.panels.values()
        shown = [self.id, self.choice]
        shown += [*(panel.strip for panel in panels), *(panel.drop for panel in panels)]
        added, removed = [], []
        for panel in panels:
            added += [
                # raw, for the names that people gave their files
                panel.drop.upload(
                    self._take, [panel.drop, self.id], shown, preprocess=False, **QUIET
                ),
                panel.example.click(self._example, [self.id], shown, **QUIET),
            ]
            removed += [
                panel.clear.click(self._clear, [self.id], shown, **QUIET),
                panel.strip.click(self._remove, [self.id], shown, **_EACH),
            ]
        self.added = [one.success for one in added]
        self.removed = [one.success for one in removed]
        page.load(lambda now: self._shown(context.uploads.find(now)), [self.id], shown, **QUIET)

    def _shown(self, found: ImageFolder | None) -> list[Any]:
        names = found.names if found is not None else []
        strip = _strip(found)
        chosen = gr.update(choices=choices(names), value=names[0] if names else None)
        tabs = len(self.panels)
        return [found.id if found is not None else "", chosen, *[strip] * tabs, *[None] * tabs]

    def _take(self, files: list[dict[str, Any]] | None, now: str) -> list[Any]:
        dropped = [
            Dropped(self._context.arrivals.claim(file["path"]), file.get("orig_name") or "image")
            for file in files or ()
        ]
        return self._shown(self._context.uploads.add(now, dropped))

    def _example(self, now: str) -> list[Any]:
        from captune.demo import gather_images

        uploads = self._context.uploads
        # a directory of its own: the files are moved from it
        with tempfile.TemporaryDirectory(dir=self._context.folder) as folder:
            images = gather_images(Path(folder)).images
            files = [Dropped(path, path.name) for path in sorted(images.iterdir())]
            return self._shown(uploads.add(now, files))

    def _remove(self, now: str, clicked: gr.EventData) -> list[Any]:
        return self._shown(self._context.uploads.remove(now, clicked.name))

    def _clear(self, now: str) -> list[Any]:
        self._context.uploads.clear(now)
        return self._shown(None)


def _strip(found: ImageFolder | None) -> str:
    return render("strip", {"found": found})


def keep_panel(
    context: AppContext,
    page: Any,
    command: str,
    name: str,
    make: Callable[..., Any],
    inputs: Sequence[Any],
    images_id: Any,
    work: Callable[[Any, QueuedJob], Any] | None = None,
) -> JobPanel:
    """Place Keep: what a tab found becomes a run folder, with its images beside it.

    name: of the run, to begin with. make: what `inputs` hold -> the options of the command, without
    images and out. work: does more than the command's job with those options.
    """
    panel = JobPanel(context, f"keep-{command}", "kept")
    with gr.Accordion("Keep as a run", open=False):
        field = gr.Textbox(
            name,
            label="Name of the run",
            info=f"Written to {context.options.runs}, with a copy of the images beside it.",
            elem_id=f"keep-name-{command}",
        )
        panel.place_button("Keep")
        panel.result.render()

    def begin(name: str, id: str, *values: Any) -> QueuedJob:
        found = context.uploads.images_of(id)
        out = context.new_run(name)
        copies = images_beside(out)
        for place in (out, copies):
            if place.exists():
                raise UserError(f"{printable(place)} is there already; give the run another name")
        options = make(*values)
        options.images, options.out = [str(copies)], out

        def keep(job: QueuedJob) -> Path:
            context.begin_run(out, found.size_bytes)
            copies.mkdir(parents=True)
            try:
                for image in found.images:
                    shutil.copyfile(image.path, copies / image.name)
                (work or _do)(options, job)
            except BaseException:
                shutil.rmtree(copies, ignore_errors=True)
                raise
            return out

        return context.queue.submit(keep, words_of(command, options))

    panel.connect(page, begin, [field], [images_id, *inputs])
    return panel


def _do(options: Any, job: QueuedJob) -> None:
    """The job of a command."""
    import_module(f"captune.jobs.{job.command[1]}").run(options, job, command=job.command)
