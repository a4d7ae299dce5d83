from __future__ import annotations

import pytest
from tests.attribution.test_measure import MAP, measurements_of

from captune.attribution.faithful.dataset import NOUN, OTHER, VERB
from captune.attribution.faithful.measure import CENTRE, INSERTION, RANDOM, Difference, MapId
from captune.attribution.faithful.results import (
    PartOfSpeechResult,
    map_results,
    part_of_speech_results,
    people_sentence,
    row_sentence,
    verdict_sentence,
)
from captune.attribution.methods import LayerHead
from captune_metrics.display import Interval


def test_the_best_map_comes_first_and_the_controls_last() -> None:
    measurements = measurements_of()
    worse = MapId("attention", LayerHead(0, 0))
    for number, word in enumerate(measurements.words):
        measurements.put(worse, INSERTION, number, 0.4 * word.gain)
    rows = map_results(measurements)
    assert [row.name for row in rows] == [MAP, worse, RANDOM, CENTRE]
    assert rows[0].advantage == pytest.approx(0.3 + 0.3 + 0.5)
    assert rows[1].advantage == pytest.approx(-0.1, abs=0.02)


def test_json_rows_have_every_figure_with_its_interval() -> None:
    row = map_results(measurements_of())[0].as_json()
    assert (row["method"], row["layer"], row["head"]) == ("attention", 3, 1)
    for name in ("insertion", "deletion", "pointing", "pointing_centre"):
        low, high = row[f"{name}_interval"]
        assert low <= row[name] <= high
    assert row["overlap"] is None
    assert (row["images"], row["words"]) == (20, 40)
    assert (row["pointing_images"], row["pointing_words"]) == (20, 60)


def test_sentences() -> None:
    rows = map_results(measurements_of())
    random = next(row for row in rows if row.name == RANDOM)
    said = row_sentence(rows[0], random)
    assert said.startswith("attention, layer 3, head 1: insertion 0.8")
    assert "(random 0.5" in said
    assert "pointing 50 % against centre 0 %" in said
    people = people_sentence(rows[0])
    assert people is not None
    assert "points better than the centre of the image: +50 points" in people
    assert people_sentence(random) is None


def test_verdicts_of_parts_of_speech() -> None:
    found = part_of_speech_results(measurements_of(), MAP)
    assert {one.part: one.answer for one in found} == {
        NOUN: "better",
        VERB: "better",
        OTHER: "unknown",
    }
    assert verdict_sentence(found) == (
        "These maps are better than chance for nouns and verbs; there are too few other words to"
        " say."
    )


def _verdict(part: str, *bounds: tuple[float, float]) -> PartOfSpeechResult:
    both = [Difference(sum(pair) / 2, Interval(*pair)) for pair in bounds]
    return PartOfSpeechResult(part, 9, both[0], both[1])


def test_a_verdict_is_better_only_where_both_curves_say_so() -> None:
    yes, no, unsure = (0.1, 0.3), (-0.3, -0.1), (-0.1, 0.1)
    assert _verdict(NOUN, yes, yes).answer == "better"
    assert _verdict(NOUN, yes, unsure).answer == "not told apart"
    assert _verdict(NOUN, no, yes).answer == "worse"
    said = verdict_sentence(
        [_verdict(NOUN, yes, yes), _verdict(VERB, unsure, yes), _verdict(OTHER, no, no)]
    )
    assert said == (
        "These maps are better than chance for nouns, not for verbs, worse than chance for other"
        " words."
    )
    assert verdict_sentence([_verdict(NOUN, unsure, unsure)]) == (
        "These maps are no better than chance for nouns."
    )
    assert verdict_sentence([_verdict(NOUN, no, no)]) == (
        "These maps are worse than chance for nouns."
    )
    assert "too few words" in verdict_sentence([PartOfSpeechResult(NOUN, 0, None, None)])
