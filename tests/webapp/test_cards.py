"""The cards of captions, as they are drawn."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("gradio")

from captune.webapp.views import render


def card(name: str, agreement: float | None, flagged: bool | None) -> dict[str, Any]:
    return {
        "name": name,
        "picture": "",
        "words": [],
        "place": "",
        "against": None,
        "agreement": agreement,
        "flagged": flagged,
    }


def drawn(*cards: dict[str, Any]) -> str:
    job = SimpleNamespace(
        state="done",
        error=None,
        notes=[],
        id="a",
        is_over=True,
        seconds=1.0,
    )
    frame = {"job": job, "before": 0, "command": "", "fraction": None, "files": {}}
    return render("explain", frame | {"result": list(cards)})


def test_flagged_captions_can_be_looked_at_alone() -> None:
    html = drawn(card("a.jpg", 0.124, True), card("b.jpg", 0.6, False))
    assert "flagged only (1 of 2)" in html
    assert html.count('<li class="card flagged">') == 1
    assert "Chance that people would agree: 12 %, flagged" in html.replace("\\u202f", " ")
    assert "Chance that people would agree: 60 %</p>" in html


@pytest.mark.parametrize(("agreement", "flagged"), [(None, None), (0.3, None), (0.3, False)])
def test_nothing_is_offered_where_nothing_is_flagged(
    agreement: float | None, flagged: bool | None
) -> None:
    html = drawn(card("a.jpg", agreement, flagged))
    assert "flagged" not in html
    assert ("Chance" in html) == (agreement is not None)
