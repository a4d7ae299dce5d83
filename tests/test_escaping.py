from __future__ import annotations

import io
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captune.escaping import PlainStream, bar, bare, console, plain_streams
from captune_metrics.display import printable

_HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[31mred", r"a\x1b[31mred"),
        ("\x1b]52;c;aGk=\x07", r"\x1b]52;c;aGk=\x07"),
        ("\x9b2J", r"\x9b2J"),
        ("two\nlines\r\tof", r"two\nlines\r\tof"),
        ("cat\u202egpj.exe", r"cat\u202egpj.exe"),
        ("\u2066\u2069\u200e\u200f\u061c", r"\u2066\u2069\u200e\u200f\u061c"),
        ("z\u200bw\u2060\ufeff\u00ad", r"z\u200bw\u2060\ufeff\xad"),
        ("tag\U000e0041\U000e007f", r"tag\U000e0041\U000e007f"),
        ("a\u2028b\u2029c", r"a\u2028b\u2029c"),
        ("half \ud83d, byte \udc80", r"half \ud83d, byte \udc80"),
        ("blank \u3164\uffa0\u115f", r"blank \u3164\uffa0\u115f"),
        ("joined in Latin c\u200da\u200ct", r"joined in Latin c\u200da\u200ct"),
        ("two joiners \u0645\u200c\u200c", "two joiners \u0645\u200c\\u200c"),
    ],
)
def test_what_does_things_is_shown(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "Ein Café, été",
        "e\u0301 combined",
        "日本　語 with an ideographic space",
        "no-break\xa0and narrow\u202fspaces",
        "می\u200cخواهم",
        "क्\u200dष",
        "עברית",
        "👩\u200d👩\u200d👧 🏳️\u200d🌈 ❤️\u200d🔥 👍🏽",
        "\U0001fac6, an emoji that is younger than some Pythons",
        "葛\U000e0100",
    ],
)
def test_ordinary_text_of_any_script_stays(text: str) -> None:
    assert printable(text) == text


@given(st.text())
def test_nothing_hidden_is_left(text: str) -> None:
    shown = printable(text)
    assert printable(shown) == shown
    for before, sign in zip(" " + shown, shown, strict=False):
        if sign in "\u200c\u200d":
            assert before > "\u02ff"
        else:
            assert unicodedata.category(sign) not in _HIDDEN


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@contextmanager
def terminal() -> Iterator[Terminal]:
    """Both streams are one terminal within: of a fixture, pytest would take them back."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TERM", "xterm-256color")
        stream = Terminal()
        patch.setattr(sys, "stdout", stream)
        patch.setattr(sys, "stderr", stream)
        yield stream


HOSTILE = "\x1b[7;31m[bold]\x1b]52;c;x\x07:dog:\u202e\n!"
BELL = r"\x07"  # which rich takes out of a Text
SHOWN = r"\x1b[7;31m[bold]\x1b]52;c;x\x07:dog:\u202e\n!"


def test_a_console_draws_its_own_styles_and_no_others() -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(HOSTILE, title=HOSTILE, caption=HOSTILE)
    table.add_row(HOSTILE, style="bold")
    with terminal() as stream, plain_streams():
        out = console()
        out.print(HOSTILE, soft_wrap=True)
        out.print(Text.assemble((HOSTILE.replace("\n", ""), "green")), soft_wrap=True)
        out.print(table)
    said = stream.getvalue()
    first, second, *_ = said.split("\n")
    assert first == SHOWN
    assert second == f"\x1b[32m{SHOWN.replace(BELL, '')}\x1b[0m".replace(r"\n", "")
    assert "\x1b[1m" in said
    for hidden in ("\x1b[7;31m", "\x1b]", "\u202e", "🐶"):
        assert hidden not in said


def test_what_is_printed_beside_a_bar_is_plain() -> None:
    from rich.progress import TextColumn

    columns = (TextColumn("{task.description}", markup=False),)
    with terminal() as stream, plain_streams(), bar(*columns) as shown:
        shown.add_task(HOSTILE, total=2)
        print(HOSTILE)
        print(HOSTILE, file=sys.stderr)
        assert bare(sys.stderr) is stream
    said = stream.getvalue()
    assert said.count(r"\x1b]52;c;x\x07:dog:") == 2
    assert "\x1b]" not in said
    assert "\x1b[7;31m" not in said


def test_a_plain_stream_keeps_lines_and_the_streams_come_back(
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = sys.stdout
    with plain_streams(), plain_streams():
        print("one\ntwo\x1b")
        sys.stdout.writelines(["a\r", "b\n"])
        assert isinstance(sys.stdout, PlainStream)
    assert sys.stdout is before
    assert capsys.readouterr().out == "one\ntwo\\x1b\na\\rb\n"
