"""What the page needs of the server, and nothing else: routes, what they take, what they give.

An event of the page is checked and rebuilt before the framework sees it, which would fetch a file
that an event names by an address, whichever field it stands in.

The framework has five times as many routes. One of them fetches any address that is asked for and
hands it out as the app's own; others run programs, describe every function, or keep states. A test
lists them all, so that a newer framework is looked at before it is used.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# the page's: Gradio's has scripts in itself and makes functions of its templates
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval';"
    " style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:;"
    " connect-src 'self'; object-src 'none'; base-uri 'self'; form-action 'self';"
    " frame-ancestors 'self'"
)
# a report is made of runs that may come from anybody: no origin, no network
REPORT_POLICY = (
    "sandbox allow-scripts allow-downloads; default-src 'none'; script-src 'unsafe-inline';"
    " style-src 'unsafe-inline'; img-src data: blob:; font-src data:; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'self'"
)
# all that is no page
DATA_POLICY = "sandbox; default-src 'none'; frame-ancestors 'none'"
REPORTS = "captune-page"
JOIN, UPLOAD = "/gradio_api/queue/join", "/gradio_api/upload"
MOST_EVENT_BYTES = 1_000_000
SLOWEST_S = 15  # for the body of an event, and between two pieces of an upload

_SESSION = re.compile(r"[\w-]{1,64}", re.ASCII)
_DEEPEST = 24
_KEYS = ("data", "fn_index", "session_hash", "event_data", "trigger_id")
_FILE = r"[\w-][\w.-]{0,127}"
_JSON = ("application/json",)
_STREAM = ("text/event-stream",)


class Refusal(Exception):
    """A request that is not taken. status: of the answer, whose body is the sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


@dataclass(frozen=True)
class Rule:
    """A route that the page needs. types: of its answers. most_bytes: of a request's body."""

    method: str
    path: re.Pattern[str]
    types: tuple[str, ...]
    policy: str = DATA_POLICY
    most_bytes: int = 0


def _rule(method: str, path: str, types: tuple[str, ...], **more: object) -> Rule:
    return Rule(method, re.compile(path, re.ASCII), types, **more)  # type: ignore[arg-type]


_SCRIPTS = (
    *("text/javascript", "application/javascript", "text/css", "image/svg+xml", "image/png"),
    *("font/woff2", "font/woff", "font/ttf", "application/wasm"),
)
RULES = (
    _rule("GET", "/", ("text/html",), policy=POLICY),
    _rule("GET", rf"/{REPORTS}/[\w-]{{1,64}}", ("text/html",), policy=REPORT_POLICY),
    _rule("GET", rf"/(assets|static)(/{_FILE}){{1,4}}", _SCRIPTS),
    _rule("GET", "/theme.css", ("text/css",)),
    _rule("GET", "/favicon.ico", ("image/svg+xml",)),
    # is it still the app that the page came from? asked when a stream broke
    _rule("GET", "/gradio_api/app_id", _JSON),
    _rule("GET", "/gradio_api/queue/data", _STREAM),
    _rule("GET", "/gradio_api/upload_progress", _STREAM),
    _rule("POST", JOIN, _JSON, most_bytes=MOST_EVENT_BYTES),
    # the route itself counts, while the files come
    _rule("POST", UPLOAD, _JSON, most_bytes=-1),
)


def rule_of(method: str, path: str) -> Rule | None:
    """The rule for a request, or None where the page makes none of that kind.

    path: as it was sent. One with %, \\, // or .. in it fits none.
    """
    for rule in RULES:
        if rule.method == method and rule.path.fullmatch(path):
            return rule
    return None


def checked_event(body: bytes, numbers: Collection[int], uploads: Path) -> bytes:
    """The event in it, with the page's own keys alone.

    numbers: of the events that the page has. uploads: where files have to lie that it names.
    Raises ValueError with a phrase for what the page does not send.
    """
    try:
        event = json.loads(body)
    except (ValueError, RecursionError):
        raise ValueError("the body is no JSON") from None
    if not isinstance(event, dict):
        raise ValueError("the body is no JSON object")
    number, session = event.get("fn_index"), event.get("session_hash")
    if type(number) is not int or number not in numbers:
        raise ValueError("the page has no such event")
    if not isinstance(session, str) or not _SESSION.fullmatch(session):
        raise ValueError("session_hash is missing")
    if not isinstance(event.get("data"), list):
        raise ValueError("data is no list")
    if type(event.get("trigger_id")) not in (int, type(None)):
        raise ValueError("trigger_id is no number")
    _check_files(event.get("data"), uploads)
    _check_files(event.get("event_data"), uploads)
    return json.dumps({key: event.get(key) for key in _KEYS}).encode()


def _check_files(value: Any, uploads: Path) -> None:
    """Raises ValueError for a file elsewhere, and for what lies too deep to look at."""
    left = [(value, 0)]
    while left:
        one, depth = left.pop()
        if depth > _DEEPEST:
            raise ValueError("the data are nested too deep")
        if isinstance(one, dict):
            if "path" in one and not _lies_below(one["path"], uploads):
                raise ValueError("it names a file that was not uploaded")
            left += [(item, depth + 1) for item in one.values()]
        elif isinstance(one, list):
            left += [(item, depth + 1) for item in one]


def _lies_below(path: Any, folder: Path) -> bool:
    return isinstance(path, str) and ".." not in Path(path).parts and folder in Path(path).parents
