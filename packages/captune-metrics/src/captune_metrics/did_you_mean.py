"""The name that a misspelled one was meant to be: "did you mean X?"."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(given: str, known: Iterable[str]) -> str | None:
    """The closest match among `known`, in capitals or not; None where none is close."""
    # Case is the commonest slip, and difflib counts every letter of it.
    by_lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(given.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[close[0]] if close else None


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """`; did you mean X?` for a close match among `known`, else an empty string."""
    near = nearest(given, known)
    return f"; did you mean {near}?" if near else ""
