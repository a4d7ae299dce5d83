from __future__ import annotations

import dataclasses

from captune.explain.planning import (
    LEAST,
    Costs,
    Counts,
    Following,
    plan,
    plan_choosing,
    plan_reporting,
)

COSTS = Costs(
    controls=0.2,
    methods={"attention": 1.0, "occlusion": 2.0, "pixel-occlusion": 10.0},
    choosing=Following(curves=3.0, pointing=1.0),
    reporting=Following(curves=2.0, pointing=0.5),
    strict=9.0,
)
PHOTOS = Counts(choosing=80, reporting=79, pointing=79, times=2)
WITHOUT_BOXES = Counts(choosing=80, reporting=79, times=2)


def test_with_time_enough_everything_is_on_all_photos() -> None:
    found = plan(COSTS, PHOTOS, 100_000)
    assert set(found.methods.values()) == {80}
    last = found.reporting
    assert (found.choosing, last.curves, last.pointing, last.strict) == (80, 79, 79, 79)
    assert found.seconds == 80 * (0.2 + 13 + 3) + 79 * (2 * 2 + 9)


def test_what_is_slow_is_measured_on_fewer_photos_and_it_ends_in_time() -> None:
    found = plan(COSTS, PHOTOS, 1200)
    assert found.methods["attention"] == 80
    assert found.methods["occlusion"] == 80
    assert LEAST < found.methods["pixel-occlusion"] < 80
    assert found.seconds <= 1200
    assert list(found.methods) == list(COSTS.methods)
    sentence = found.sentence(40, 7)
    assert sentence.startswith("about ")
    assert f"(pixel-occlusion on {found.methods['pixel-occlusion']})" in sentence


def test_boxes_are_looked_at_on_more_photos_than_curves_are() -> None:
    found = plan_reporting(COSTS, PHOTOS, 300)
    assert LEAST < found.curves < found.pointing == 79
    assert found.seconds <= 300
    assert found.sentence.endswith("people's boxes on 79")


def test_without_boxes_the_making_of_the_maps_is_paid_for() -> None:
    slow = dataclasses.replace(COSTS, reporting=Following(curves=30.0, pointing=20.0), strict=0.0)
    for costs in (COSTS, slow):
        found = plan_reporting(costs, WITHOUT_BOXES, 1500)
        assert found.pointing == 0
        assert LEAST <= found.curves < 79 or costs is COSTS
        assert found.seconds <= 1500
        assert "boxes" not in found.sentence


def test_a_few_photos_are_always_taken() -> None:
    found = plan(COSTS, PHOTOS, 1)
    assert set(found.methods.values()) == {LEAST}
    assert (found.choosing, found.reporting.curves, found.reporting.strict) == (LEAST,) * 3
    few = plan(COSTS, Counts(choosing=3, reporting=2, times=2), 1)
    assert set(few.methods.values()) == {3}
    assert few.reporting.curves == 2


def test_when_the_time_is_over_a_few_photos_are_left() -> None:
    assert plan_choosing(COSTS.choosing, PHOTOS, -5) == LEAST
    found = plan_reporting(COSTS, PHOTOS, -5)
    assert (found.curves, found.pointing, found.strict) == (LEAST, LEAST, LEAST)


def test_without_photos_to_report_on() -> None:
    found = plan(COSTS, Counts(choosing=20), 10_000)
    assert found.reporting.curves == 0
    assert found.reporting.strict == 20
    assert "to report" not in found.sentence(10, 3)
