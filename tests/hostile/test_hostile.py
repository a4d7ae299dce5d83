"""The part of the campaign that every run of the tests has; `make hostile` has the whole."""

from __future__ import annotations

import pytest
from tests.hostile import app
from tests.hostile.runner import Table, as_text


def check(*tables: Table) -> None:
    bad = [
        f"{one.end}: {one.case.kind}: {one.case.name}: {one.why}" for t in tables for one in t.bad
    ]
    assert not bad, "\n".join([*bad, as_text(tables)])


def test_requests() -> None:
    pytest.importorskip("gradio")
    check(*app.tables(part=True))
