"""The part of the campaign that every run of the tests has; `make hostile` has the whole."""

from __future__ import annotations

from types import ModuleType

import pytest
from tests.hostile import app, files, images, models, outputs, runs, strings
from tests.hostile.runner import Table, as_text, run, some

pytestmark = pytest.mark.needs("linux")


def check(*tables: Table) -> None:
    bad = [
        f"{one.end}: {one.case.kind}: {one.case.name}: {one.why}" for t in tables for one in t.bad
    ]
    assert not bad, "\n".join([*bad, as_text(tables)])


@pytest.mark.parametrize(
    "family", [images, runs, models, files, outputs], ids=lambda one: one.__name__
)
def test_cases(family: ModuleType) -> None:
    cases = some(family.cases(), of_each=1)
    assert len(cases) > 5
    check(run(family.__name__, cases))


def test_strings() -> None:
    check(strings.table(count=strings.PART))


def test_requests() -> None:
    pytest.importorskip("gradio")
    check(*app.tables(part=True))
