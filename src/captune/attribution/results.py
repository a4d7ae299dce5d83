"""The leaderboard: rows with every figure of a map beside the controls, mean curves, sentences.

`worth` is what maps are chosen by: how much better than random maps they follow the model, plus how
much better than the centre they point at what people drew. Both are shares, 0 where a map is no
better than its control; a map that people like and the model does not use is worth no more than one
that is true and looks odd.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from captune.attribution.cases import Case
from captune.attribution.measure import (
    CENTRE,
    COMPREHENSIVENESS,
    DELETION,
    ENTROPY,
    INSERTION,
    OVERLAP,
    POINTING,
    RANDOM,
    SUFFICIENCY,
    Difference,
    Figure,
    MapName,
    Tally,
    Word,
)
from captune.attribution.word_kinds import LITTLE, PARTS
from captune.text import listed, percent

MEASURES = (
    *(INSERTION, DELETION, COMPREHENSIVENESS, SUFFICIENCY),
    *(POINTING, OVERLAP, ENTROPY),
)


@dataclass(frozen=True)
class Row:
    """figures: by measure, those that were taken. random, centre: by how much it beats them."""

    name: MapName
    figures: dict[str, Figure]
    random: dict[str, Difference]
    centre: dict[str, Difference]
    pointing_centre: Figure | None = None

    @property
    def worth(self) -> float:
        """See the module's text. Where there are no curves, the one mask stands for them."""
        curves = [self.random[m].value for m in (INSERTION, DELETION) if m in self.random]
        mask = [self.random[m].value for m in (COMPREHENSIVENESS,) if m in self.random]
        people = [self.centre[m].value for m in (POINTING,) if m in self.centre]
        return sum(curves or mask) + sum(people)

    def as_json(self) -> dict[str, Any]:
        """`method, layer, head`, then every figure with its interval."""
        found: dict[str, Any] = {
            "method": self.name.method,
            "layer": self.name.choice.layer,
            "head": self.name.choice.head,
        }
        for measure in MEASURES:
            found |= _cells(measure, self.figures.get(measure))
            if measure == POINTING:
                found |= _cells("pointing_centre", self.pointing_centre)
        for control, differences in (("random", self.random), ("centre", self.centre)):
            found[f"better_than_{control}"] = {
                measure: {"difference": one.value, "interval": list(one.interval)}
                for measure, one in differences.items()
            }
        # curves may be of fewer images than people's boxes
        known = [self.figures[m] for m in MEASURES if m in self.figures]
        found["images"], found["words"] = (known[0].images, known[0].words) if known else (0, 0)
        boxes = self.figures.get(POINTING)
        found["pointing_images"], found["pointing_words"] = (
            (boxes.images, boxes.words) if boxes else (0, 0)
        )
        return found


def rows_of(tally: Tally, names: Sequence[MapName] | None = None) -> list[Row]:
    """A row of each map, the best first; the controls, which beat nothing, last."""
    chosen = tally.names() if names is None else names
    found = [_row(tally, name) for name in chosen if name not in (RANDOM, CENTRE)]
    controls = [_row(tally, name) for name in (RANDOM, CENTRE) if name in tally.names()]
    return [*sorted(found, key=lambda row: -row.worth), *controls]


@dataclass(frozen=True)
class Verdict:
    """Of the words of one part of speech: is the map better than random ones?

    insertion, deletion: by how much; None where too few words were seen in too few images.
    """

    part: str
    words: int
    insertion: Difference | None
    deletion: Difference | None

    @property
    def answer(self) -> str:
        """better, worse, not told apart, or unknown; better is better by both curves."""
        if self.insertion is None or self.deletion is None:
            return "unknown"
        answers = {self.insertion.verdict, self.deletion.verdict}
        if "worse" in answers:
            return "worse"
        return answers.pop() if len(answers) == 1 else "not told apart"


def verdicts_of(tally: Tally, name: MapName) -> list[Verdict]:
    """A verdict of each part of speech, in the order of PARTS; of little words none is judged."""

    def verdict(part: str) -> Verdict:
        def kept(word: Word) -> bool:
            return word.part == part

        known = tally.figure(name, INSERTION, kept)
        insertion, deletion = (
            tally.difference(name, RANDOM, measure, kept) for measure in (INSERTION, DELETION)
        )
        return Verdict(part, known.words if known else 0, insertion, deletion)

    return [verdict(part) for part in PARTS if part != LITTLE]


def verdict_sentence(verdicts: Sequence[Verdict]) -> str:
    """`These maps are better than chance for nouns, not for verbs.`"""
    groups = {
        answer: [one.part for one in verdicts if one.answer == answer]
        for answer in ("better", "not told apart", "worse", "unknown")
    }
    told = []
    if groups["better"]:
        told.append(f"are better than chance for {listed(groups['better'])}")
    if groups["not told apart"]:
        what = listed(groups["not told apart"])
        told.append(f"not for {what}" if told else f"are no better than chance for {what}")
    if groups["worse"]:
        what = f"worse than chance for {listed(groups['worse'])}"
        told.append(what if told else f"are {what}")
    if not told:
        return "There are too few words for a verdict on these maps."
    sentence = f"These maps {', '.join(told)}"
    if groups["unknown"]:
        sentence += f"; there are too few {listed(groups['unknown'])} to say"
    return f"{sentence}."


def row_sentence(row: Row, random: Row | None) -> str:
    """`attention, layer 9, head 3: insertion 0.71 (random 0.55), pointing 58 % against ...`"""
    told = []
    for measure in (INSERTION, DELETION):
        if measure in row.figures:
            control = random.figures.get(measure) if random else None
            beside = f" (random {control.value:.2f})" if control else ""
            told.append(f"{measure} {row.figures[measure].value:.2f}{beside}")
    if POINTING in row.figures:
        pointing = f"pointing {percent(row.figures[POINTING].value, 0)}"
        if row.pointing_centre:
            pointing += f" against centre {percent(row.pointing_centre.value, 0)}"
        told.append(pointing)
    return f"{row.name}: {', '.join(told)}"


def people_sentence(row: Row) -> str | None:
    """Whether it points better than the centre; None without boxes."""
    found = row.centre.get(POINTING)
    if found is None:
        return None
    answer = {
        "better": "points better than the centre of the image",
        "worse": "points worse than the centre of the image",
    }.get(found.verdict, "is not told apart from the centre of the image")
    low, high = (100 * value for value in found.interval)
    return (
        f"Against people's boxes {row.name} {answer}: {100 * found.value:+.0f} points of hits"
        f" (95 % {low:+.0f} to {high:+.0f})."
    )


def _row(tally: Tally, name: MapName) -> Row:
    known = {measure: tally.figure(name, measure) for measure in MEASURES}
    figures = {measure: figure for measure, figure in known.items() if figure}
    beside = tally.figure_beside(CENTRE, name, POINTING) if POINTING in figures else None
    random, centre = (_against(tally, name, control) for control in (RANDOM, CENTRE))
    return Row(name, figures, random, centre, beside)


def _against(tally: Tally, name: MapName, control: MapName) -> dict[str, Difference]:
    if name == control:
        return {}
    known = {measure: tally.difference(name, control, measure) for measure in MEASURES}
    return {measure: difference for measure, difference in known.items() if difference}


def _cells(measure: str, figure: Figure | None) -> dict[str, Any]:
    return {
        measure: figure and figure.value,
        f"{measure}_interval": figure and list(figure.interval),
    }


@dataclass(frozen=True)
class Report:
    """Of one set of images and captions.

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
    def images(self) -> str:
        """Of how many the figures are: curves may be of fewer than people's boxes."""
        curves, boxes = (
            max((row.figures[m].images for row in self.rows if m in row.figures), default=0)
            for m in (INSERTION, POINTING)
        )
        if curves >= boxes:
            return f"{curves} images"
        return f"curves of {curves} images, boxes of {boxes}"

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
    """Everything that there is to say of the default map on these images."""
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
        words.setdefault(word.image, []).append(found)
    return [
        {
            "path": case.subject.image.name,
            "caption": case.subject.caption,
            "words": words.get(case.image, []),
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
    own = by_name.get(default)
    if own is None:  # no measure has enough images
        yield f"{default}: too few of these images have a word to judge it by; give more images."
        return
    yield row_sentence(own, by_name.get(RANDOM))
    yield verdict_sentence(verdicts)
    people = people_sentence(own)
    if people is not None:
        yield people
        maps = [row for row in rows if row.name not in (RANDOM, CENTRE)]
        if not any(row.centre[POINTING].verdict == "better" for row in maps if row.centre):
            yield f"None of these {len(maps)} maps points better than the centre of the image does."
    if against and baseline is not None:
        yield f"Against {baseline}, the original report's map: {_advantages(against)}."


def _advantages(against: dict[str, Difference]) -> str:
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
