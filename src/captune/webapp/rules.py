"""What the page needs of the server, and nothing else: routes, what they take, what they give.

The framework has five times as many routes. One of them fetches any address that is asked for and
hands it out as the app's own; others run programs, describe every function, or keep states. A test
lists them all, so that a newer framework is looked at before it is used.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

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

_FILE = r"[\w-][\w.-]{0,127}"
_JSON = ("application/json",)
_STREAM = ("text/event-stream",)


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
