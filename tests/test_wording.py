from __future__ import annotations

import pytest

from captune.wording import counted, duration


def test_counted() -> None:
    assert [counted(n, "image") for n in (0, 1, 1200)] == ["0 images", "1 image", "1,200 images"]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.44, "0.4 s"), (45.2, "45 s"), (120, "2 min"), (7199, "120 min"), (9e6, "2,500.0 h")],
)
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said
