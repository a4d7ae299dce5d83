"""What sentences are made of: text of others as it is seen, names that were meant, an interval."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import NamedTuple

_JOINERS = "\u200c\u200d"
# letters to Unicode, and nothing to see
_BLANK_LETTERS = frozenset("\u115f\u1160\u17b4\u17b5\u3164\uffa0")
_NAMED = 3  # how many a sentence names before it counts the rest
_LONGEST_QUOTE = 80


class Interval(NamedTuple):
    """Where the true value lies, at 95 % unless another level was asked for."""

    low: float
    high: float


def printable(value: object) -> str:
    """A text of others, or a path, as one line for a terminal or a sentence.

    Controls, line ends, direction marks, zero-width and other invisible characters, and bytes of
    file names that are not UTF-8 become escapes such as `\\x1b` and `\\u202e`. Letters, marks,
    spaces and emoji of any script stay, and so do the joiners that Persian, Hindi and emoji are
    written with, where they stand behind such a character.
    """
    text = str(value)
    if text.isascii() and text.isprintable():
        return text
    before = ""
    shown = []
    for sign in text:
        plain = _is_seen(sign) or (sign in _JOINERS and _is_joined(before))
        shown.append(sign if plain else sign.encode("unicode_escape").decode())
        before = sign
    return "".join(shown)


def _is_seen(sign: str) -> bool:
    if sign.isprintable():
        return sign not in _BLANK_LETTERS
    kind = unicodedata.category(sign)
    # this Python may be older than an emoji
    return kind == "Zs" or (kind == "Cn" and "\U0001f000" <= sign < "\U0001fb00")


def _is_joined(before: str) -> bool:
    """Whether a joiner behind this character is of use: in Latin text it only hides."""
    return before > "\u02ff" and before not in _JOINERS and _is_seen(before)


def shorten(text: str, longest: int, *, keep: str = "start") -> str:
    """At most `longest` characters, an ellipsis in place of what is left out.

    keep: "start", "end", which tells long paths apart, or "both".
    """
    if len(text) <= longest:
        return text
    if keep == "both":
        return text[: longest // 2] + "…" + text[len(text) - (longest - 1) // 2 :]
    if keep == "end":
        return "…" + text[len(text) - longest + 1 :].lstrip()
    return text[: longest - 1].rstrip() + "…"


def quoted(text: str) -> str:
    """An id, a name or the start of a caption in a sentence."""
    return f'"{printable(shorten(text, _LONGEST_QUOTE))}"'


def named(names: Iterable[str], noun: str = "") -> str:
    """The first three, and how many more: `images "a", "b", "c" and 9 more`.

    noun: of one of them, or none; what it is called for several has an s at its end.
    """
    every = [str(name) for name in names]
    shown = ", ".join(map(quoted, every[:_NAMED]))
    more = f" and {len(every) - _NAMED:,} more" if len(every) > _NAMED else ""
    begins = f"{noun}{'' if len(every) == 1 else 's'} " if noun else ""
    return f"{begins}{shown}{more}"


def nearest(given: str, known: Iterable[str]) -> str | None:
    """The closest match among `known`, in capitals or not; None where none is close."""
    import difflib

    # Case is the commonest slip, and difflib counts every letter of it.
    by_lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(given.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[close[0]] if close else None


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """`; did you mean X?` for a close match among `known`, else an empty string."""
    near = nearest(given, known)
    return f"; did you mean {near}?" if near else ""
