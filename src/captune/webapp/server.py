"""Starting and ending the app: an environment without surprises, a private folder, the web server.

It needs the extra `app`. Nothing here imports the framework before its environment is set.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from captune.errors import UserError
from captune.files import private_folder
from captune.options.pages import AppOptions
from captune.webapp.guard import REPORTS, UPLOAD, Entry, Guard, Message, Receive, Send
from captune.webapp.site import AppContext
from captune.webapp.watchdog import STOPPING, guarded
from captune_metrics.display import printable

FIRST_PORT, LAST_PORT = 7860, 7959
MOST_CONNECTIONS = 512
_PATIENCE_S = 20  # for the head of a request, and for the rest of one that is answered already
_START_S = 60
_SESSIONS = 1000  # pages whose state the server remembers
_MOST_EVENTS = 512  # that wait for their turn
_JOBS_S, _SERVER_S = 2.5, 1.0  # what they get to end; together within the watchdog's patience
_QUIET_S = 5  # without an event, before the stream of a page ends
_LAST_ANSWERS_S = 0.5  # of jobs, when the app ends
_SETTLED_S = 1  # a page has heard of the end of its stream by then
_NO_EVENT = "captune"  # is no event's id


@dataclass(frozen=True)
class Running:
    """An app that answers. url: without the token. folder: private, and removed in the end."""

    url: str
    folder: Path
    page: Any
    context: AppContext
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

    guard: what watches the process, given the folder. Raises UserError where nobody can listen.
    """
    with (
        listen(options) as place,
        private_folder("captune-app-") as folder,
        guard(folder),
        _prepared(folder / "gradio"),
    ):
        context = AppContext(options, folder)
        port = place.getsockname()[1]
        entry = Entry(port)
        page, app, streams = _application(context, entry, port)
        server, thread = _started(app, place)
        try:
            yield Running(_url(options, port), folder, page, context, entry)
        finally:
            context.queue.stop(0.8 * _JOBS_S)
            streams.end()
            page.is_running = False
            # it would say of every open page that it is left
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
            server.should_exit = True
            context.queue.close(_JOBS_S)
            thread.join(_SERVER_S)


def _url(options: AppOptions, port: int) -> str:
    host = options.name[0] if options.shared else options.host
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


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


def _application(context: AppContext, entry: Entry, port: int) -> tuple[Any, Guard, LastingStreams]:
    """The framework's page, the whole as ASGI, and the streams of open pages."""
    import gradio as gr

    from captune.webapp.tabs import build_app, event_types, theme
    from captune.webapp.views import asset

    options = context.options
    page = build_app(context)
    page.queue(max_size=_MOST_EVENTS, api_open=False)
    streams = LastingStreams(page._queue)
    _refuse_without_traceback(page)
    page.state_session_capacity = _SESSIONS
    # before that, the framework takes any file that an event names
    page.has_launched = True
    app = gr.mount_gradio_app(
        Starlette(
            routes=[
                Route(f"/{REPORTS}/{{id}}", context.pages.answer),
                # in the place of the framework's own
                Route(UPLOAD, context.arrivals.answer, methods=["POST"]),
            ]
        ),
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
        css=asset("app.css"),
        head=f"<script>{asset('app.js')}</script>",
    )
    guard = Guard(
        _ending_streams(app),
        entry,
        names=options.names,
        port=port if options.is_private else None,
        events=event_types(page),
        uploads=context.arrivals.folder,
    )
    return page, guard, streams


def _refuse_without_traceback(page: Any) -> None:
    """The framework's own refusals, as of a choice that a list no longer offers, are the user's."""
    from gradio.exceptions import Error

    preprocess = page.preprocess_data

    async def refusing(*event: Any, **more: Any) -> Any:
        try:
            return await preprocess(*event, **more)
        except Error as error:
            error.print_exception = False
            raise

    page.preprocess_data = refusing


def _ending_streams(app: Any) -> Any:
    """The framework breaks off the stream of a page that it forgot, having said so; here it ends.

    A page asks for one that its server forgot after a laptop slept.
    """

    async def answer(scope: Message, receive: Receive, send: Send) -> None:
        try:
            await app(scope, receive, send)
        except RuntimeError as error:
            if not isinstance(error.__cause__, HTTPException):
                raise
            await send({"type": "http.response.body", "body": b""})

    return answer


class LastingStreams:
    """Streams that end when a page was quiet for a while, not after each event.

    A page opens a stream for an event only where it has none. The framework ends a stream as soon
    as no event is left, so an event that was sent while that news is on its way was answered
    nowhere, until another one came: a click did nothing. Now an event finds its stream open, or is
    held until its page must know of the end. For the framework, a page that is not quiet waits for
    an event that never runs.
    """

    def __init__(self, queue: Any) -> None:
        """queue: the framework's, whose `push` takes every event."""
        self._queue, self._push = queue, queue.push
        self._used: dict[str, float] = {}  # by session
        self._ends: dict[str, asyncio.Task[None]] = {}
        self._ending: set[str] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        queue.push = self.push

    async def push(self, body: Any, request: Any, username: str | None) -> Any:
        """As the framework's."""
        self._loop = asyncio.get_running_loop()
        session = body.session_hash
        while session in self._ending:
            await asyncio.sleep(0.05)
        self._used[session] = time.monotonic()
        self._queue.pending_event_ids_session.setdefault(session, set()).add(_NO_EVENT)
        if session not in self._ends:
            self._ends[session] = asyncio.create_task(self._end(session))
        return await self._push(body=body, request=request, username=username)

    def end(self) -> None:
        """Let all streams end, soon, from another thread; of one that breaks off, a page warns."""
        if self._loop is not None:
            asyncio.run_coroutine_threadsafe(self._end_all(), self._loop)

    async def _end_all(self) -> None:
        # what came of jobs that were stopped is on its way
        end = time.monotonic() + _LAST_ANSWERS_S
        while self._queue.event_ids_to_events and time.monotonic() < end:
            await asyncio.sleep(0.05)
        for session in self._used:
            self._close(session)

    async def _end(self, session: str) -> None:
        ids = self._queue.pending_event_ids_session[session]
        while time.monotonic() - self._used[session] < _QUIET_S:
            await asyncio.sleep(_QUIET_S / 10)
            # what is left of a page that went away runs no more
            if any(id in self._queue.event_ids_to_events for id in ids):
                self._used[session] = time.monotonic()
        self._ending.add(session)
        self._close(session)
        await asyncio.sleep(_SETTLED_S)
        self._ending.remove(session)
        del self._used[session], self._ends[session]

    def _close(self, session: str) -> None:
        """Let the framework end the stream of a page, as after its last event."""
        from gradio.server_messages import ProcessCompletedMessage

        self._queue.pending_event_ids_session[session] = {_NO_EVENT}
        over = ProcessCompletedMessage(output={}, success=True, event_id=_NO_EVENT)
        if (messages := self._queue.pending_messages_per_session.get(session)) is not None:
            messages.put_nowait(over)


def serve(options: AppOptions, on_start: Callable[[Running], None]) -> None:
    """Answer until Ctrl-C, a polite kill, or the end of the terminal; then end within 5 s.

    A second Ctrl-C ends at once.
    """
    ended = threading.Event()
    is_on = False

    def end(number: int, _: Any) -> None:
        if not is_on:
            raise KeyboardInterrupt
        if ended.is_set() and number == signal.SIGINT:
            _leave(app.folder, 130)
        ended.set()

    before = {
        one: signal.signal(one, end)
        for one in STOPPING
        # nohup wants it so
        if signal.getsignal(one) is not signal.SIG_IGN
    }

    try:
        with running(options, guarded) as app:
            on_start(app)
            is_on = True
            # not a wait without end: Windows hears no Ctrl-C in one
            while not ended.wait(0.5):
                pass
            print(file=sys.stderr)  # ^C stands there
        # Python would wait for threads that are within a step which nobody can break off
        _leave(app.folder, 0)
    except KeyboardInterrupt:
        print(file=sys.stderr)
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _leave(folder: Path, status: int) -> NoReturn:
    """End here and now, with nothing left behind."""
    shutil.rmtree(folder, ignore_errors=True)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def listen(options: AppOptions) -> socket.socket:
    """A socket at the address of the options. Raises UserError where nobody can listen."""
    host = printable(options.host)
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    try:
        options.host.encode("idna")  # as the next line does, but for its TypeError
        socket.getaddrinfo(options.host, None, family)
    except (socket.gaierror, UnicodeError):
        raise UserError(
            f"--host {host} is not an address; give one of this machine, as 127.0.0.1"
        ) from None
    ports = [options.port] if options.port else range(FIRST_PORT, LAST_PORT + 1)
    failure: OSError | None = None
    for port in ports:
        try:
            return socket.create_server((options.host, port), family=family)
        except OSError as error:
            failure = error
    raise UserError(
        f"port {options.port or f'from {FIRST_PORT} on'} of {host} cannot be listened at"
        f" ({failure}); choose another one with --port, or another --host"
    )


def _started(app: Any, place: socket.socket) -> tuple[uvicorn.Server, threading.Thread]:
    """A server that answers, and its thread. A failure while it starts is a RuntimeError: a bug."""
    config = uvicorn.Config(
        app,
        http=_Protocol,
        ws="none",
        lifespan="on",
        log_level="error",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        # requests that are being answered when it ends are broken off after a second
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([place],), name="server", daemon=True)
    thread.start()
    end = time.monotonic() + _START_S
    while not server.started:
        if not thread.is_alive() or time.monotonic() > end:
            raise RuntimeError("the web server did not start")
        time.sleep(0.01)
    return server, thread


class _Protocol(H11Protocol):  # type: ignore[misc]
    """A connection: not more than so many at once, and none that is held open without a request."""

    _waits: Any = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            transport.abort()
        else:
            self._wait()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._is_at_work:
            self._rest()
        elif self._waits is None:
            self._wait()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self._is_at_work and self._waits is None:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._rest()
        super().connection_lost(exc)

    @property
    def _is_at_work(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _wait(self) -> None:
        self._waits = self.loop.call_later(_PATIENCE_S, self.transport.abort)

    def _rest(self) -> None:
        if self._waits is not None:
            self._waits.cancel()
            self._waits = None
