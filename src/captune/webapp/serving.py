"""Starting and ending the app: an environment without surprises, a private folder, the server."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captune.errors import MissingExtra, UserError
from captune.options import AppOptions

_SESSIONS = 1000  # pages whose state the server remembers


@dataclass(frozen=True)
class Running:
    """An app that answers. folder: the private one, which is removed in the end."""

    url: str
    folder: Path
    page: Any
    site: Any


@contextmanager
def running(options: AppOptions) -> Iterator[Running]:
    """The app, answering until the block ends; then its jobs are stopped and its photos removed.

    Raises MissingExtra without Gradio, and UserError where nobody can listen.
    """
    if importlib.util.find_spec("gradio") is None:
        raise MissingExtra("captune app", "app")
    _check_address(options)
    # mkdtemp: a folder that only this user may enter
    folder = Path(tempfile.mkdtemp(prefix="captune-app-"))
    try:
        _prepare(folder / "gradio")
        yield from _served(options, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _served(options: AppOptions, folder: Path) -> Iterator[Running]:
    from captune.webapp.jobs import Jobs
    from captune.webapp.page import build
    from captune.webapp.pages import Pages
    from captune.webapp.site import Site
    from captune.webapp.uploads import Uploads

    photos = folder / "photos"
    photos.mkdir(mode=0o700)
    uploads = Uploads(
        photos, most_photos=options.most_photos, most_bytes=options.most_mb * 1_000_000
    )
    kept = folder / "pages"
    kept.mkdir(mode=0o700)
    site = Site(options, folder, Jobs(), uploads, Pages(kept))
    page = build(site)
    try:
        url = _launch(page, site)
        yield Running(url, folder, page, site)
    finally:
        page.close(verbose=False)
        site.jobs.close()


def _check_address(options: AppOptions) -> None:
    """Gradio would try for minutes. Raises UserError where nobody can listen there."""
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    try:
        socket.create_server((options.host, options.port), family=family).close()
    except OSError as error:
        raise _taken(options, error) from None


def _taken(options: AppOptions, error: OSError) -> UserError:
    return UserError(
        f"port {options.port or 'from 7860 on'} of {options.host}: cannot be listened at"
        f" ({error}); choose another one with --port, or another --host"
    )


def _prepare(uploads: Path) -> None:
    """Before Gradio is imported: nothing that another app set up counts, and nothing is sent."""
    for name in [name for name in os.environ if name.startswith("GRADIO_")]:
        del os.environ[name]
    uploads.mkdir(mode=0o700)
    os.environ["GRADIO_TEMP_DIR"] = str(uploads)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"


def _launch(page: Any, site: Any) -> str:
    from starlette.middleware import Middleware

    from captune.webapp.guard import Guard
    from captune.webapp.page import head, style, theme

    options = site.options
    names = frozenset({"127.0.0.1", "localhost", "::1"}) if options.is_private else None
    page.queue(max_size=None, api_open=False)
    try:
        _, url, _ = page.launch(
            server_name=options.host,
            server_port=options.port or None,
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            inbrowser=False,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            enable_monitoring=False,
            run_history=False,
            footer_links=[],
            max_file_size=options.most_mb * 1_000_000,
            state_session_capacity=_SESSIONS,
            allowed_paths=[],
            app_kwargs={
                "middleware": [Middleware(Guard, names=names)],
                "routes": site.pages.routes(),
                "docs_url": None,
            },
            theme=theme(),
            css=style(),
            head=head(),
        )
    except OSError as error:
        raise _taken(options, error) from None
    return str(url)


def serve(options: AppOptions, on_start: Callable[[Running], None]) -> None:
    """Answer until Ctrl-C or a polite kill."""
    ended = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: ended.set())
    try:
        with running(options) as app:
            on_start(app)
            # not a wait without end: Windows hears no Ctrl-C in one
            while not ended.wait(0.5):
                pass
    except KeyboardInterrupt:
        print(file=sys.stderr)  # ^C stands there
    finally:
        signal.signal(signal.SIGTERM, before)
