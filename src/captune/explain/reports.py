"""What is reported of the maps that were followed: rows, mean curves, and sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from captune.explain.cases import Case
from captune.explain.rows import (
    Row,
    Verdict,
    people_sentence,
    row_sentence,
    rows_of,
    verdict_sentence,
    verdicts_of,
)
from captune.explain.tally import (
    CENTRE,
    DELETION,
    INSERTION,
    POINTING,
    RANDOM,
    Difference,
    MapName,
    Tally,
)


@dataclass(frozen=True)
class Report:
    """Of one set of photos and captions.

    sentences: the default map with its figures, the verdict in words, people, the baseline.
    against_baseline: by how much the default beats the original report's map, by measure.
    curves: map -> measure -> (shares of the places, heights).
    """

    title: str
    rows: list[Row]
    verdicts: list[Verdict]
    against_baseline: dict[str, Difference]
    sentences: list[str]
    curves: dict[str, dict[str, tuple[list[float], list[float]]]]

    @property
    def photos(self) -> str:
        """Of how many the figures are: curves may be of fewer than people's boxes."""
        curves, boxes = (
            max((row.figures[m].photos for row in self.rows if m in row.figures), default=0)
            for m in (INSERTION, POINTING)
        )
        if curves >= boxes:
            return f"{curves} photos"
        return f"curves of {curves} photos, boxes of {boxes}"

    def as_json(self) -> dict[str, Any]:
        """For metrics.json and `--json`."""
        return {
            "title": self.title,
            "rows": [row.as_json() for row in self.rows],
            "verdicts": [
                {
                    "part": one.part,
                    "words": one.words,
                    "answer": one.answer,
                    INSERTION: _plain(one.insertion),
                    DELETION: _plain(one.deletion),
                }
                for one in self.verdicts
            ],
            "better_than_baseline": {
                measure: _plain(one) for measure, one in self.against_baseline.items()
            },
            "sentences": self.sentences,
            "curves": self.curves,
        }


def report_of(tally: Tally, default: MapName, baseline: MapName | None, title: str) -> Report:
    """Everything that there is to say of the default map on these photos."""
    rows = rows_of(tally)
    verdicts = verdicts_of(tally, default)
    against: dict[str, Difference] = {}
    if baseline is not None and baseline != default:
        found = {m: tally.difference(default, baseline, m) for m in (INSERTION, DELETION, POINTING)}
        against = {measure: one for measure, one in found.items() if one}
    shown = [*dict.fromkeys([default, *([baseline] if baseline else []), RANDOM, CENTRE])]
    curves = {
        str(name): {m: curve for m in (INSERTION, DELETION) if (curve := tally.curve(name, m))}
        for name in shown
    }
    told = list(_sentences(rows, default, baseline, verdicts, against))
    return Report(title, rows, verdicts, against, told, curves)


def records_of(tally: Tally, default: MapName, cases: Sequence[Case]) -> list[dict[str, Any]]:
    """One an image: the caption, and of each word that was judged what the default map is worth."""
    words: dict[int, list[dict[str, Any]]] = {}
    for number, word in enumerate(tally.words):
        found: dict[str, Any] = {
            "word": word.word,
            "part": word.part,
            "category": word.category,
            "gain": round(word.gain, 4),
        }
        for measure in tally.measures(default):
            value = tally.value(default, measure, number)
            found[measure] = None if value is None else round(value, 4)
        words.setdefault(word.photo, []).append(found)
    return [
        {
            "path": case.subject.photo.name,
            "caption": case.subject.caption,
            "words": words.get(case.photo, []),
        }
        for case in cases
    ]


def _sentences(
    rows: Sequence[Row],
    default: MapName,
    baseline: MapName | None,
    verdicts: Sequence[Verdict],
    against: dict[str, Difference],
) -> Iterator[str]:
    by_name = {row.name: row for row in rows}
    own = by_name[default]
    yield row_sentence(own, by_name.get(RANDOM))
    yield verdict_sentence(verdicts)
    people = people_sentence(own)
    if people is not None:
        yield people
        maps = [row for row in rows if row.name not in (RANDOM, CENTRE)]
        if not any(row.centre[POINTING].verdict == "better" for row in maps if row.centre):
            yield f"None of these {len(maps)} maps points better than the centre of the photo does."
    if against and baseline is not None:
        yield f"Against {baseline}, the original report's map: {_listed(against)}."


def _listed(against: dict[str, Difference]) -> str:
    told = []
    for measure, one in against.items():
        low, high = one.interval
        if measure == POINTING:
            value = f"{100 * one.value:+.0f} points of hits (95 % {100 * low:+.0f} to"
            told.append(f"{value} {100 * high:+.0f})")
        else:
            told.append(f"{measure} {one.verdict} by {one.value:+.2f} ({low:+.2f} to {high:+.2f})")
    return ", ".join(told)


def _plain(difference: Difference | None) -> dict[str, Any] | None:
    if difference is None:
        return None
    return {
        "difference": difference.value,
        "interval": list(difference.interval),
        "verdict": difference.verdict,
    }
