"""Strings of every kind through the tokenizer, the readers and the printers.

`python -m tests.hostile strings` tries the same 100,000 each time; `--minutes` goes on with others.
"""

from __future__ import annotations

import io
import json
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TypeVar

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tests.captions.caption_forms import assert_captions_or_one_sentence, written
from tests.hostile.mutations import ESCAPES, MARKUP
from tests.hostile.runner import BIDI, Case, Outcome, Table
from tests.metrics import ptb_strings
from tests.pages.page_reader import Outline

from captune.errors import UserError
from captune.json_yaml import parse_json
from captune_metrics.display import named, printable, quoted

ALL, PART = 100_000, 3_000
Found = TypeVar("Found")
_LONGEST_S = (
    1.0  # of a processor for a string: what takes longer would take minutes in a file of them
)
_PIECES = (
    MARKUP, ESCAPES, "\x1b]8;;http://x\x07", "\x9b", "\x00", "\ufeff", "\u2028", "\u2029", "\x85",
    *BIDI, "\u200b", "\u00ad", "\ufffe", "\U000e0041", "=1+1", "@SUM", "+1", "-1", "\t=1", '"', "'",
    ",", ";", "|", "#", "\\", "\n", "\r\n", "\r", "{", "}", "[", "]", "{}", "{object}", "{0}", "%s",
    "&lt;", "&#0;", "<!--", "-->", "<![CDATA[", "</textarea>", "NaN", "1e999", "9" * 400, "null",
    "../", "/dev/zero", "~", "*", "?", "e" + "\u0301" * 40, "\U0001f468\u200d\U0001f469", "\u0130",
    "\ud83d", "\udc00", "a.b." * 30, "1/2 1,000 1-2-3 ", "http://a.b/?c=d&e", "x@y.z", "''``",
    "[red]x[/red]", ":dog:", "$x^2$", "{{7*7}}", "${7*7}", "{% raw %}", "\\x1b", "\\u202e",
)  # fmt: skip


def texts() -> st.SearchStrategy[str]:
    """Pieces that did harm somewhere, any characters, and captions with slips of the pen."""
    anything = st.text(st.characters(), max_size=30)  # halves of characters too
    pieces = st.lists(st.sampled_from(_PIECES) | anything, max_size=8).map("".join)
    captions = st.integers(0, 2**32).map(lambda seed: ptb_strings.hostile(random.Random(seed)))
    repeated = st.builds(
        lambda piece, count: piece * count, st.sampled_from(_PIECES), st.integers(1, 300)
    )
    return pieces | captions | repeated


def tokenizer(text: str) -> None:
    """A line of tokens for a caption, whatever stands beside it; every score is a number."""
    from captune_metrics import ptb
    from captune_metrics.rouge import rouge_l

    whole = _whole(text, "replace")
    for lines in (ptb.tokenize([whole, "x"]), ptb.tokenize_each([whole, "x"])):
        assert len(lines) == 2, "a caption became other captions"
        assert lines[1] == "x", "a caption changed the next one"
        assert not set("\n\r\v\f\u2028\u2029") & set(lines[0]), "a line end among the tokens"
    scores = rouge_l({"a": whole}, {"a": ["a dog", whole]})
    assert 0 <= scores.corpus <= 1


def _whole(text: str, errors: str = "surrogatepass") -> str:
    """Two halves of a character that stand together are that character, in JSON too."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", errors)


def readers(text: str) -> None:
    """Captions, labels, truth, boxes and specs: what is there is read, or one sentence says why."""
    from captune.attribution.faithful.dataset import read_boxes
    from captune.captions import read_captions
    from captune.models.load import parse_spec
    from captune.zeroshot.labels import read_labels
    from captune.zeroshot.prompts import expand, fill

    folder = _folder()
    raw = text.encode("utf-8", "surrogatepass")
    for ending in ("json", "jsonl", "csv", "txt"):
        assert_captions_or_one_sentence(written(folder, f"c.{ending}", raw))
    for name, content in (
        ("c.json", json.dumps({"a": text})),
        ("c.jsonl", json.dumps({"image": "a", "caption": text})),
    ):
        path = written(folder, name, content.encode("utf-8", "surrogatepass"))
        found = _one_sentence(lambda path=path: read_captions(path).captions)
        assert found in (None, {"a": [_whole(text)]}), f"{name}: read as {found!r}"
    labels = _one_sentence(lambda: read_labels([text, "another"]))
    assert labels is None or labels.names == (text.strip(), "another")
    readers: tuple[Callable[[], object], ...] = (
        lambda: read_labels(written(folder, "l.json", json.dumps([text]).encode())),
        lambda: read_labels(written(folder, "l.txt", raw)),
        lambda: read_labels(text),
        lambda: expand([text]),
        lambda: fill(f"{text} {{}}", text),
        lambda: parse_spec(text),
        lambda: parse_json(text, "x"),
        lambda: read_boxes(written(folder, "b.json", raw)),
    )
    for read in readers:
        _one_sentence(read)


def printers(text: str) -> None:
    """What a person sees is text: on a terminal, in a sentence, on a page, in a figure."""
    from rich.table import Table as RichTable

    from captune.cli import console as terminal
    from captune.escaping import console, plain_streams
    from captune.pages.blocks import json_for_script
    from captune.plots.canvas import clean
    from captune.text import one_line

    for shown in (printable(text), quoted(text), named([text, text]), clean(text)):
        assert "\n" not in shown
        assert not any(_acts(sign) for sign in shown), f"{shown!r} acts on a terminal"
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        with plain_streams():
            terminal.say(text)
            print(text)
            console().print(f"{text}: x", soft_wrap=True)
        table = RichTable(text)
        table.add_row(text)
        console().print(table)
    for said in (out.getvalue(), err.getvalue()):
        assert not any(_acts(sign) for sign in said if sign != "\n"), f"{said!r} acts"
    script = f"<script>{json_for_script({'x': one_line(text)})}</script>"
    page = Outline()
    page.feed(script)
    assert page.tags == ["script"], "a text ends its script"
    one_line(text).encode()


def _acts(sign: str) -> bool:
    return sign < " " or "\x7f" <= sign < "\xa0" or sign in BIDI or "\ud800" <= sign < "\ue000"


def _one_sentence(read: Callable[[], Found]) -> Found | None:
    try:
        return read()
    except UserError:
        return None


_FOLDERS: list[tempfile.TemporaryDirectory[str]] = []


def _folder() -> Path:
    if not _FOLDERS:
        _FOLDERS.append(tempfile.TemporaryDirectory(prefix="captune-strings-"))
    return Path(_FOLDERS[0].name)


GROUPS: dict[str, tuple[Callable[[str], None], float]] = {
    "tokenizer": (tokenizer, 0.4),
    "readers": (readers, 0.3),
    "printers": (printers, 0.3),
}


def table(*, count: int = ALL, minutes: float = 0) -> Table:
    """Every group; minutes: go on with strings drawn anew until the time is over."""
    found = Table("strings")
    end = time.monotonic() + 60 * minutes
    while True:
        for name, (try_it, portion) in GROUPS.items():
            found.outcomes += _tried(name, try_it, round(count * portion), is_fixed=not minutes)
        if time.monotonic() > end:
            return found


def _tried(
    name: str, try_it: Callable[[str], None], count: int, *, is_fixed: bool
) -> Iterator[Outcome]:
    """An outcome a string; of those that fail the shortest."""
    tried, longest, slow = 0, 0.0, ""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    @settings(
        max_examples=count, derandomize=is_fixed, database=None, deadline=None, print_blob=False,
        suppress_health_check=list(HealthCheck), phases=[Phase.generate, Phase.shrink],
    )  # fmt: skip
    @given(texts())
    def every(text: str) -> None:
        nonlocal tried, longest, slow
        tried += 1
        seconds = _seconds(try_it, text)
        if seconds > _LONGEST_S:  # once may be what Python collected of all the others
            seconds = min(seconds, _seconds(try_it, text))
        if seconds > longest:
            longest, slow = seconds, text

    end, why = "answered", ""
    try:
        try_it("first")  # imports are not part of the time of a string
        every()
    except AssertionError as error:
        end, why = "wrong", _said(error)
    except Exception as error:  # whatever it is, it is what was looked for
        end, why = "crashed", _said(error)
    if end == "answered" and longest > _LONGEST_S:
        end, why = "hung", f"{longest:.1f} s for {slow[:200]!r}"
    mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    yield Outcome(Case("strings", name, lambda folder: ()), end, why, longest, mb)
    same = Outcome(Case("strings", name, lambda folder: ()), "answered", "", 0.0, 0.0)
    yield from (same for _ in range(tried - 1))


def _seconds(try_it: Callable[[str], None], text: str) -> float:
    begun = time.process_time()
    try_it(text)
    return time.process_time() - begun


def _said(error: BaseException) -> str:
    notes = " ".join(getattr(error, "__notes__", ()))
    several = "; ".join(_said(one) for one in getattr(error, "exceptions", ()))
    return f"{type(error).__name__}: {str(error)[:300]} {notes[:300]} {several}"


if __name__ == "__main__":
    sys.exit("python -m tests.hostile strings")
