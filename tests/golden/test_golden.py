"""Real runs, their pages and everything that commands print are as they were recorded.

README.md says how to read a difference and how to record again.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.golden import record
from tests.golden.record import EXPECTED, NAMES, Recorder, difference, recorded_aspects, settled

_SHOWN = 60


@pytest.fixture(scope="session")
def recorder(tmp_path_factory: pytest.TempPathFactory) -> Recorder:
    return Recorder(tmp_path_factory.mktemp("material"))


@pytest.mark.needs("linux")
@pytest.mark.parametrize("name", NAMES)
def test_as_recorded(name: str, recorder: Recorder) -> None:
    texts = recorder.texts(name)
    assert set(texts) == recorded_aspects(name)
    changed = [line for aspect, text in texts.items() for line in difference(name, aspect, text)]
    more = f"\n... {len(changed) - _SHOWN} lines more" if len(changed) > _SHOWN else ""
    told = "\n".join(changed[:_SHOWN])
    assert not changed, (
        f"other than recorded; if it is meant: python -m tests.golden.record {name}\n{told}{more}"
    )


def test_nothing_else_is_recorded_and_it_is_small() -> None:
    assert {path.name for path in EXPECTED.iterdir()} == set(NAMES)
    assert sum(path.stat().st_size for path in EXPECTED.rglob("*.txt")) < 1_000_000


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("a = 0.123456", "a = 0.123457", True),
        ("a = 0.123456", "a = 0.1236", False),
        ("a = 3", "a = 4", False),
        ("33.3 %", "33.4 %", True),
        ("33.3 %", "33.30 %", False),
        ("33.3 %", "33.5 %", False),
        ("1e-07", "2e-07", True),
        ("x\na = 0.5", "y\na = 0.500001", False),
    ],
)
def test_what_counts_as_a_difference(old: str, new: str, same: bool) -> None:
    assert (settled(old, new, 1e-4) == old) is same


def test_what_stayed_within_the_tolerance_is_not_recorded_anew() -> None:
    assert settled("x\na = 0.5\nz", "y\na = 0.500001\nz", 1e-4) == "y\na = 0.5\nz"


def test_the_recorder_knows_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        record.main(["clasify"])
    assert "clasify: not among classify, " in capsys.readouterr().err


def test_files_are_read_as_utf_8() -> None:
    for path in EXPECTED.rglob("*.txt"):
        assert "\r" not in path.read_bytes().decode("utf-8"), Path(path)
