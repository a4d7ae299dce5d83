"""What is said of how far a job is, in a log and to a program."""

from __future__ import annotations

import json
import sys

import pytest

from captune import progress as module
from captune.cli import console
from captune.cli.console import TerminalProgress
from captune.progress import Meter


class Clock:
    """A time that the test sets."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        for where in (module, console):
            patch.setattr(where.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.delenv("CAPTUNE_PROGRESS", raising=False)
    return Clock(monkeypatch)


def test_the_time_left_is_measured_without_the_first_batch(clock: Clock) -> None:
    meter = Meter("captioning", 100)
    assert (meter.rate, meter.left) == (None, None)
    clock.now += 20  # what is set up once
    meter.advance(4)
    assert (meter.rate, meter.left) == (0.2, None)
    clock.now += 2
    meter.advance(8)
    assert (meter.rate, meter.left) == (4, 22)


def test_a_pause_says_nothing_of_the_rate(clock: Clock) -> None:
    meter = Meter("lora", 100)
    for done in (10, 10):
        clock.now += 5
        meter.advance(done)
    clock.now += 500  # validation
    meter.advance(0, before=True)
    for done in (10, 10):
        clock.now += 5
        meter.advance(done)
    assert (meter.rate, meter.left) == (2, 30)


def test_what_an_earlier_run_did_says_nothing_of_the_rate(clock: Clock) -> None:
    meter = Meter("captioning", 100)
    meter.advance(60, before=True)
    assert meter.rate is None
    clock.now += 2
    meter.advance(4)
    assert (meter.done, meter.rate) == (64, 2)


def test_the_rate_is_that_of_late(clock: Clock) -> None:
    meter = Meter("captioning", 0)
    for images in [1] * 40 + [5] * 31:
        clock.now += 1
        meter.advance(images)
    assert meter.rate == 5
    assert meter.left is None


def test_a_log_gets_a_line_at_most_every_30_seconds(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    told = TerminalProgress()
    with told.bar("classifying", 3084) as advance:
        for _ in range(70):
            clock.now += 1
            advance(20)
    with told.bar("drawing", 5) as advance:
        advance(1, "\x1b[31m")
        clock.now += 40
        advance(1, "\x1b[31m")
    assert capsys.readouterr().err.splitlines() == [
        "classifying: 100 of 3,084, 20.0/s, left 0:02:29",
        "classifying: 700 of 3,084, 20.0/s, left 0:01:59",
        "classifying: 1,300 of 3,084, 20.0/s, left 0:01:29",
        r"drawing: 2 of 5, 1.5/min, left 0:02:00, \x1b[31m",
    ]


def test_a_log_also_hears_of_other_work_within_a_bar(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with TerminalProgress().bar("lora", 100) as advance:
        for done in (10, 10):
            clock.now += 5
            advance(done)
        clock.now += 30
        advance(0, "scoring: 32 of 200 images", before=True)
    assert capsys.readouterr().err.splitlines() == [
        "lora: 10 of 100, 2.0/s",
        "lora: 20 of 100, scoring: 32 of 200 images",
    ]


def test_a_short_command_and_a_quiet_one_say_nothing(
    clock: Clock, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with TerminalProgress().bar("classifying", 2) as advance:
        clock.now += 1
        advance(2)
    with TerminalProgress(quiet=True).bar("classifying", 2) as advance:
        clock.now += 100
        advance(2)
    monkeypatch.setenv("CAPTUNE_PROGRESS", "none")
    with TerminalProgress().bar("classifying", 2) as advance:
        clock.now += 100
        advance(2)
    assert capsys.readouterr().err == ""


def test_a_program_gets_an_object_a_line(
    clock: Clock, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAPTUNE_PROGRESS", "json")
    with TerminalProgress(quiet=True).bar("captioning", 8) as advance:
        clock.now += 2
        advance(4)
        clock.now += 0.1
        advance(2)
        advance(2, "loss 1.2")
    first, second, last = map(json.loads, capsys.readouterr().err.splitlines())
    keys = {"what": "captioning", "total": 8}
    assert first == {**keys, "done": 0, "seconds": 0.0, "rate": None, "left": None}
    assert second == {**keys, "done": 4, "seconds": 2.0, "rate": 2.0, "left": None}
    assert last.items() >= {**keys, "done": 8, "left": 0.0, "said": "loss 1.2"}.items()


def test_a_terminal_gets_a_bar_with_rate_and_time_left(
    clock: Clock, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with TerminalProgress().bar("captioning", 8) as advance:
        clock.now += 2
        advance(4)
        clock.now += 1
        advance(2)
    said = capsys.readouterr().err
    assert "2.0/s" in said
    assert "left 0:00:01" in said
