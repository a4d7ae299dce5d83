"""An event as the page sends it, checked and rebuilt before the framework sees it.

The framework would fetch a file that an event names by an address, whichever field it stands in.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

_SESSION = re.compile(r"[\w-]{1,64}", re.ASCII)
_DEEPEST = 24
_KEYS = ("data", "fn_index", "session_hash", "event_data", "trigger_id")


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
