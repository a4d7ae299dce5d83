"""Numbers, p values, names and lists as text, as people read them: one form of each."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from pathlib import PurePath
from typing import Any

from captune_metrics.display import printable

_MINUS = "\N{MINUS SIGN}"
_STOP = re.compile(r"(?<=\w) ?\.$")  # after a word: ". . ." is no sentence


def count(value: int) -> str:
    """1234 -> "1,234"."""
    return f"{value:,}"


def counted(number: int, noun: str) -> str:
    """`1 image`, `2 images`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def part_of(number: int, whole: int | None, noun: str) -> str:
    """`30 of 1,000 images`; `30 images` where there are no others (None)."""
    return counted(number, noun) if whole is None else f"{number:,} of {counted(whole, noun)}"


def millions(value: float) -> str:
    """1078528 -> "1.08 M", 49152 -> "49,152"."""
    return f"{value / 1e6:.2f} M" if value >= 1e5 else f"{value:,}"


def percent(fraction: float, digits: int = 1) -> str:
    """0.7104 -> "71.0 %"."""
    return f"{100 * fraction:.{digits}f} %"


def points(fraction: float) -> str:
    """A difference of two fractions in percentage points: -0.0761 -> "−7.6"."""
    return signed(100 * fraction, 1)


def decimal(value: float, digits: int = 3) -> str:
    """0.38512 -> "0.385", -0.0001 -> "0.000"."""
    return with_minus(f"{value:z.{digits}f}")


def signed(value: float, digits: int = 3) -> str:
    """With its sign; zero has none: 0.1 -> "+0.100", -0.1 -> "−0.100", 0 -> "0.000"."""
    text = f"{value:+.{digits}f}"
    return with_minus(text) if text.strip("+-0.") else text.lstrip("+-")


def with_minus(text: str) -> str:
    """A number as text, with the minus sign of typography in place of the hyphen."""
    return text.replace("-", _MINUS)


def p_value(p: float) -> str:
    """0.0004 -> "< 0.001", 0.0123 -> "0.012", 0.58 -> "0.58"."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def duration(seconds: float) -> str:
    """`0.4 s`, `45 s`, `12 min`, `3.5 h`."""
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def as_sentence(caption: str, stop: str = ".") -> str:
    """On one line, the full stop at its word: "a  dog ." -> "a dog.".

    stop: " ." for the spelling of Flickr8k, which captioners learn from it.
    """
    return _STOP.sub(stop, " ".join(caption.split()))


def plain(value: Any) -> str:
    """A text as it is; all else as JSON. What nests too deeply for JSON is "..."."""
    try:
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    except RecursionError:
        return "..."


def listed(texts: Sequence[str], last: str = "and") -> str:
    """`a`, `a and b`, `a, b and c`."""
    if len(texts) < 2:
        return texts[0] if texts else ""
    return f"{', '.join(texts[:-1])} {last} {texts[-1]}"


def short_names(paths: Sequence[PurePath], endings: Collection[str] = ()) -> list[str]:
    """The last parts of each path: as few of them as tell the paths apart.

    endings: ".json" and the like; left away where the names are told apart without.
    """
    if endings:
        bare = [path.with_suffix("") if path.suffix in endings else path for path in paths]
        names = short_names(bare)
        return names if len(set(names)) == len(set(paths)) else short_names(paths)
    name_of = {path: path.name for path in paths}
    for depth in range(2, 6):
        known = list(name_of.values())
        for path, name in name_of.items():
            if known.count(name) > 1:
                name_of[path] = "/".join(path.parts[-depth:])
    return [name_of[path] for path in paths]


def one_line(text: str) -> str:
    """Printable text of one line: line breaks are spaces."""
    return printable(" ".join(text.split()))


def bare_word(word: str) -> str:
    """A word without case and without the signs around it: `"Dogs,"` is `dogs`."""
    return re.sub(r"^\W+|\W+$", "", word).casefold() or word


def file_size(size_bytes: float) -> str:
    """Bytes as people read them: 1.3 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 1000:
            return f"{size_bytes:.0f} B" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} TB"
