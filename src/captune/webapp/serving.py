"""Starting and ending the app: an environment without surprises, a private folder, the server."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from captune.errors import MissingExtra
from captune.options import AppOptions
from captune.webapp.entry import Entry
from captune.webapp.guardian import ENDINGS, guarded
from captune.webapp.private_folder import private_folder

_SESSIONS = 1000  # pages whose state the server remembers
_MOST_EVENTS = 512  # that wait for their turn
_JOBS_S, _SERVER_S = 3.0, 1.0  # what they get to end; together within the guardian's patience


@dataclass(frozen=True)
class Running:
    """An app that answers. url: without the token. folder: private, and removed in the end."""

    url: str
    folder: Path
    page: Any
    site: Any
    entry: Entry

    @property
    def address(self) -> str:
        """What lets a browser in."""
        return f"{self.url}?token={self.entry.token}"

    def opening(self) -> str:
        """The address of a file that opens the page, for one browser, once.

        Other users see the words that a program is started with, but not into the file.
        """
        file = self.folder / "open.html"
        place = f"{self.url}?code={self.entry.new_code()}"
        file.touch(0o600)
        file.write_text(
            '<!doctype html><meta name="referrer" content="no-referrer">'
            f'<meta http-equiv="refresh" content="0;url={place}">',
            encoding="utf-8",
        )
        return file.as_uri()


@contextmanager
def running(
    options: AppOptions,
    guard: Callable[[Path], AbstractContextManager[None]] = lambda _: nullcontext(),
) -> Iterator[Running]:
    """The app, answering until the block ends; then its jobs are stopped and its images removed.

    guard: what watches the process, given the folder. Raises MissingExtra without Gradio, and
    UserError where nobody can listen.
    """
    if importlib.util.find_spec("gradio") is None:
        raise MissingExtra("captune app", "app")
    from captune.webapp.server import listen

    with (
        listen(options) as place,
        private_folder("captune-app-") as folder,
        guard(folder),
        _prepared(folder / "gradio"),
    ):
        yield from _served(options, folder, place)


def _served(options: AppOptions, folder: Path, place: socket.socket) -> Iterator[Running]:
    from captune.webapp.server import Server

    site = _site(options, folder)
    port = place.getsockname()[1]
    entry = Entry(port)
    page, app = _application(site, entry, port)
    server = Server(app, place)
    try:
        server.start()
        yield Running(_url(options, port), folder, page, site, entry)
    finally:
        site.jobs.stop(0.8 * _JOBS_S)
        # streams end when they see it
        page._queue.close()
        page.is_running = False
        server.stop()
        site.jobs.close(_JOBS_S)
        server.join(_SERVER_S)


def _url(options: AppOptions, port: int) -> str:
    host = options.name[0] if options.shared else options.host
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def _site(options: AppOptions, folder: Path) -> Any:
    from captune.webapp.arrivals import Arrivals
    from captune.webapp.jobs import Jobs
    from captune.webapp.pages import Pages
    from captune.webapp.site import Site
    from captune.webapp.uploads import Uploads

    for name in ("images", "pages"):
        (folder / name).mkdir(mode=0o700)
    most_bytes = options.most_mb * 1_000_000
    uploads = Uploads(folder / "images", most_images=options.most_images, most_bytes=most_bytes)
    arrivals = Arrivals(
        folder / "gradio",
        most_bytes=most_bytes,
        most_files=options.most_images,
        room=uploads.room,
    )
    return Site(options, folder, Jobs(), uploads, arrivals, Pages(folder / "pages"))


@contextmanager
def _prepared(uploads: Path) -> Iterator[None]:
    """For Gradio: nothing that another app set up counts, and nothing is sent."""
    uploads.mkdir(mode=0o700)
    before = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("GRADIO_")}
    os.environ["GRADIO_TEMP_DIR"] = str(uploads)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    try:
        yield
    finally:
        del os.environ["GRADIO_TEMP_DIR"], os.environ["GRADIO_ANALYTICS_ENABLED"]
        os.environ.update(before)


def _application(site: Any, entry: Entry, port: int) -> tuple[Any, Any]:
    """The page, and the guard around all that answers."""
    import gradio as gr
    from starlette.applications import Starlette

    from captune.webapp.guard import Guard
    from captune.webapp.page import build, head, style, theme, without_manifest

    options = site.options
    page = build(site)
    page.queue(max_size=_MOST_EVENTS, api_open=False)
    page.state_session_capacity = _SESSIONS
    # before that, the framework takes any file that an event names
    page.has_launched = True
    app = gr.mount_gradio_app(
        Starlette(routes=[*site.pages.routes(), *site.arrivals.routes()]),
        page,
        path="",
        server_name=options.host,
        server_port=port,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        run_history=False,
        footer_links=[],
        max_file_size=options.most_mb * 1_000_000,
        allowed_paths=[],
        theme=theme(),
        css=style(),
        head=head(),
    )
    return page, Guard(
        without_manifest(app),
        entry,
        names=options.names,
        port=port if options.is_private else None,
        events=frozenset(page.fns),
        uploads=site.arrivals.folder,
    )


def serve(options: AppOptions, on_start: Callable[[Running], None]) -> None:
    """Answer until Ctrl-C, a polite kill, or the end of the terminal; then end within 5 s.

    A second Ctrl-C ends at once.
    """
    ended, folders = threading.Event(), list[Path]()
    is_on = False

    def end(number: int, _: Any) -> None:
        if not is_on:
            raise KeyboardInterrupt
        if ended.is_set() and number == signal.SIGINT:
            _leave(folders, 130)
        ended.set()

    before = {
        one: signal.signal(one, end)
        for one in ENDINGS
        # nohup wants it so
        if signal.getsignal(one) is not signal.SIG_IGN
    }

    def guard(folder: Path) -> AbstractContextManager[None]:
        folders.append(folder)
        return guarded(folder)

    try:
        with running(options, guard) as app:
            on_start(app)
            is_on = True
            # not a wait without end: Windows hears no Ctrl-C in one
            while not ended.wait(0.5):
                pass
            print(file=sys.stderr)  # ^C stands there
        # Python would wait for threads that are within a step which nobody can break off
        _leave(folders, 0)
    except KeyboardInterrupt:
        print(file=sys.stderr)
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _leave(folders: list[Path], status: int) -> NoReturn:
    """End here and now, with nothing left behind."""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
