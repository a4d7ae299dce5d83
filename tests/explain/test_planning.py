from __future__ import annotations

from captune.explain.planning import LEAST, Costs, Counts, Following, plan, plan_stages

FOLLOWING = Following(curves=3.0, pointing=0.5, strict=9.0)
COSTS = Costs(
    controls=0.2,
    methods={"attention": 1.0, "occlusion": 2.0, "pixel-occlusion": 10.0},
    following=FOLLOWING,
)
PHOTOS = Counts(choosing=80, reporting=79, pointing=79, times=2)


def test_with_time_enough_everything_is_on_all_photos() -> None:
    found = plan(COSTS, PHOTOS, 100_000)
    assert set(found.methods.values()) == {80}
    stages = found.stages
    assert (stages.choosing, stages.reporting, stages.pointing, stages.strict) == (80, 79, 79, 79)
    expected = 80 * (0.2 + 13 + 3) + 79 * (2 * 3 + 9)
    assert found.seconds == expected


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
    found = plan_stages(FOLLOWING, PHOTOS, 600)
    assert LEAST < found.reporting < found.pointing == 79
    assert found.seconds <= 600
    assert found.sentence.endswith("people's boxes on 79")
    without = plan_stages(FOLLOWING, Counts(choosing=80, reporting=79, times=2), 600)
    assert without.pointing == without.reporting > found.reporting
    assert "boxes" not in without.sentence


def test_a_few_photos_are_always_taken() -> None:
    found = plan(COSTS, PHOTOS, 1)
    assert set(found.methods.values()) == {LEAST}
    stages = found.stages
    assert (stages.choosing, stages.reporting, stages.strict) == (LEAST, LEAST, LEAST)
    few = plan(COSTS, Counts(choosing=3, reporting=2, times=2), 1)
    assert set(few.methods.values()) == {3}
    assert few.stages.reporting == 2


def test_when_the_screening_took_all_the_time_a_few_photos_are_left() -> None:
    found = plan_stages(FOLLOWING, PHOTOS, -5)
    assert (found.choosing, found.reporting, found.pointing) == (LEAST, LEAST, LEAST)


def test_without_photos_to_report_on() -> None:
    found = plan(COSTS, Counts(choosing=20), 10_000)
    assert found.stages.reporting == 0
    assert found.stages.strict == 20
    assert "to report" not in found.sentence(10, 3)
