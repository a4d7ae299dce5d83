from __future__ import annotations

from captune.explain.planning import LEAST, Costs, plan

COSTS = Costs(
    controls=0.2,
    methods={"attention": 1.0, "occlusion": 2.0, "pixel-occlusion": 10.0},
    curves=3.0,
    strict=9.0,
)


def test_with_time_enough_everything_is_on_all_photos() -> None:
    found = plan(COSTS, photos=80, reported=79, times=2, seconds=100_000)
    assert set(found.methods.values()) == {80}
    assert (found.choosing, found.reporting, found.strict) == (80, 79, 79)
    expected = 80 * (0.2 + 13 + 3) + 79 * (2 * 3 + 9)
    assert found.seconds == expected


def test_what_is_slow_is_measured_on_fewer_photos_and_it_ends_in_time() -> None:
    found = plan(COSTS, photos=80, reported=79, times=2, seconds=1800)
    assert found.methods["attention"] == 80
    assert found.methods["occlusion"] == 80
    assert LEAST < found.methods["pixel-occlusion"] < 80
    assert found.seconds <= 1800
    assert list(found.methods) == list(COSTS.methods)
    sentence = found.sentence(40, 7)
    assert sentence.startswith("about ")
    assert f"(pixel-occlusion on {found.methods['pixel-occlusion']})" in sentence


def test_a_few_photos_are_always_taken() -> None:
    found = plan(COSTS, photos=80, reported=79, times=2, seconds=1)
    assert set(found.methods.values()) == {LEAST}
    assert (found.choosing, found.reporting, found.strict) == (LEAST, LEAST, LEAST)
    few = plan(COSTS, photos=3, reported=2, times=2, seconds=1)
    assert set(few.methods.values()) == {3}
    assert few.reporting == 2


def test_without_photos_to_report_on() -> None:
    found = plan(COSTS, photos=20, reported=0, times=1, seconds=10_000)
    assert found.reporting == 0
    assert found.strict == 20
    assert "to report" not in found.sentence(10, 3)
