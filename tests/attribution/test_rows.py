from __future__ import annotations

import pytest
from tests.attribution.test_tally import MAP, tally_of

from captune.attribution.measure import CENTRE, INSERTION, RANDOM, Difference, MapName
from captune.attribution.methods import Choice
from captune.attribution.results import (
    Verdict,
    people_sentence,
    row_sentence,
    rows_of,
    verdict_sentence,
    verdicts_of,
)
from captune.attribution.word_kinds import NOUN, OTHER, VERB
from captune.statistics import Interval


def test_the_best_map_comes_first_and_the_controls_last() -> None:
    tally = tally_of()
    worse = MapName("attention", Choice(0, 0))
    for number, word in enumerate(tally.words):
        tally.put(worse, INSERTION, number, 0.4 * word.gain)
    rows = rows_of(tally)
    assert [row.name for row in rows] == [MAP, worse, RANDOM, CENTRE]
    assert rows[0].worth == pytest.approx(0.3 + 0.3 + 0.5)
    assert rows[1].worth == pytest.approx(-0.1, abs=0.02)


def test_json_rows_have_every_figure_with_its_interval() -> None:
    row = rows_of(tally_of())[0].as_json()
    assert (row["method"], row["layer"], row["head"]) == ("attention", 3, 1)
    for name in ("insertion", "deletion", "pointing", "pointing_centre"):
        low, high = row[f"{name}_interval"]
        assert low <= row[name] <= high
    assert row["overlap"] is None
    assert (row["images"], row["words"]) == (20, 40)
    assert (row["pointing_images"], row["pointing_words"]) == (20, 60)


def test_sentences() -> None:
    rows = rows_of(tally_of())
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
    found = verdicts_of(tally_of(), MAP)
    assert {one.part: one.answer for one in found} == {
        NOUN: "better",
        VERB: "better",
        OTHER: "unknown",
    }
    assert verdict_sentence(found) == (
        "These maps are better than chance for nouns and verbs; there are too few other words to"
        " say."
    )


def _verdict(part: str, *bounds: tuple[float, float]) -> Verdict:
    both = [Difference(sum(pair) / 2, Interval(*pair)) for pair in bounds]
    return Verdict(part, 9, both[0], both[1])


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
    assert "too few words" in verdict_sentence([Verdict(NOUN, 0, None, None)])
