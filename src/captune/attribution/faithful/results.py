"""The leaderboard: every measure of a map beside the controls, mean curves, sentences.

`advantage` is what maps are chosen by: how much better than random maps they follow the model, plus
how much better than the centre they point at what people drew. Both are fractions, 0 where a map is
no better than its control; a map that people like and the model does not use has no more of it than
one that is faithful and looks odd.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from captune.attribution.faithful.dataset import FUNCTION_WORDS, PARTS_OF_SPEECH, Example
from captune.attribution.faithful.measure import (
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
    MapEstimate,
    MapId,
    MeasuredWord,
    Measurements,
)
from captune.attribution.faithful.sanity import SanityChecks
from captune.attribution.methods import DefaultMap
from captune.runs.records import json_value
from captune.text import decimal, listed, percent, signed

POINTING_CENTRE = "pointing_centre"  # the centre's, on the words that a map was measured on
MEASURES = (
    *(INSERTION, DELETION, COMPREHENSIVENESS, SUFFICIENCY),
    *(POINTING, POINTING_CENTRE, OVERLAP, ENTROPY),
)


@dataclass(frozen=True)
class MapResult:
    """estimates: by measure, where it was taken. random, centre: by how much it beats them."""

    name: MapId
    estimates: dict[str, MapEstimate]
    random: dict[str, Difference]
    centre: dict[str, Difference]

    @property
    def is_control(self) -> bool:
        """Whether it is one of those that the others are held against."""
        return self.name in (RANDOM, CENTRE)

    @property
    def advantage(self) -> float:
        """What maps are chosen by; without curves, the one mask stands for them."""
        curves = [self.random[m].difference for m in (INSERTION, DELETION) if m in self.random]
        mask = [self.random[m].difference for m in (COMPREHENSIVENESS,) if m in self.random]
        people = [self.centre[m].difference for m in (POINTING,) if m in self.centre]
        return sum(curves or mask) + sum(people)

    def as_json(self) -> dict[str, Any]:
        """`method, layer, head`, every figure with its interval, and of how many they are.

        images, words: of the first measure; curves may be of fewer than people's boxes. Where no
        measure was taken there is no advantage either.
        """
        found = self.name.as_json()
        for measure in MEASURES:
            estimate = self.estimates.get(measure)
            found[measure] = estimate and estimate.value
            found[f"{measure}_interval"] = estimate and list(estimate.interval)
        for control, differences in (("random", self.random), ("centre", self.centre)):
            found[f"better_than_{control}"] = json_value(differences)
        first = next((self.estimates[m] for m in MEASURES if m in self.estimates), None)
        for start, one in (("", first), ("pointing_", self.estimates.get(POINTING))):
            found[f"{start}images"] = one.images if one else 0
            found[f"{start}words"] = one.words if one else 0
        return found | {"advantage": self.advantage if first else None}


def map_results(measurements: Measurements) -> list[MapResult]:
    """The result of each map, the best first; the controls, which beat nothing, last."""
    found = [_map_result(measurements, name) for name in measurements.names()]
    order = [RANDOM, CENTRE]
    return sorted(
        found,
        key=lambda row: (order.index(row.name), 0) if row.is_control else (-1, -row.advantage),
    )


def _map_result(measurements: Measurements, name: MapId) -> MapResult:
    known = {measure: measurements.estimate(name, measure) for measure in MEASURES}
    if known[POINTING]:
        known[POINTING_CENTRE] = measurements.estimate(CENTRE, POINTING, beside=name)
    estimates = {measure: estimate for measure, estimate in known.items() if estimate}
    random, centre = (_against(measurements, name, control) for control in (RANDOM, CENTRE))
    return MapResult(name, estimates, random, centre)


def _against(
    measurements: Measurements, name: MapId, control: MapId, measures: Sequence[str] = MEASURES
) -> dict[str, Difference]:
    if name == control:
        return {}
    known = {measure: measurements.difference(name, control, measure) for measure in measures}
    return {measure: difference for measure, difference in known.items() if difference}


@dataclass(frozen=True)
class PartOfSpeechResult:
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


def part_of_speech_results(measurements: Measurements, name: MapId) -> list[PartOfSpeechResult]:
    """One of each part of speech, in the order of PARTS_OF_SPEECH; of function words none."""
    found = []
    for part in PARTS_OF_SPEECH:
        if part != FUNCTION_WORDS:

            def kept(word: MeasuredWord, part: str = part) -> bool:
                return word.part == part

            known = measurements.estimate(name, INSERTION, kept)
            insertion = measurements.difference(name, RANDOM, INSERTION, kept)
            deletion = measurements.difference(name, RANDOM, DELETION, kept)
            words = known.words if known else 0
            found.append(PartOfSpeechResult(part, words, insertion, deletion))
    return found


def verdict_sentence(verdicts: Sequence[PartOfSpeechResult]) -> str:
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


def row_sentence(row: MapResult, random: MapResult | None) -> str:
    """`attention, layer 9, head 3: insertion 0.71 (random 0.55), pointing 58 % against ...`"""
    told = []
    for measure in (INSERTION, DELETION):
        if measure in row.estimates:
            control = random.estimates.get(measure) if random else None
            beside = f" (random {decimal(control.value, 2)})" if control else ""
            told.append(f"{measure} {decimal(row.estimates[measure].value, 2)}{beside}")
    if POINTING in row.estimates:
        pointing = f"pointing {percent(row.estimates[POINTING].value, 0)}"
        if POINTING_CENTRE in row.estimates:
            pointing += f" against centre {percent(row.estimates[POINTING_CENTRE].value, 0)}"
        told.append(pointing)
    return f"{row.name}: {', '.join(told)}"


def people_sentence(row: MapResult) -> str | None:
    """Whether it points better than the centre; None without boxes."""
    found = row.centre.get(POINTING)
    if found is None:
        return None
    answer = {
        "better": "points better than the centre of the image",
        "worse": "points worse than the centre of the image",
    }.get(found.verdict, "is not told apart from the centre of the image")
    return f"Against people's boxes {row.name} {answer}: {_hits(found)}."


def _hits(found: Difference) -> str:
    by, low, high = (signed(100 * value, 0) for value in (found.difference, *found.interval))
    return f"{by} points of hits (95 % {low} to {high})"


@dataclass(frozen=True)
class EvalReport:
    """Of one set of images and captions.

    sentences: the default map with its estimates, the verdict in words, people, the baseline.
    against_baseline: by how much the default beats the original report's map, by measure.
    curves: map -> measure -> (fractions of the patches, heights).
    """

    title: str
    rows: list[MapResult]
    verdicts: list[PartOfSpeechResult]
    against_baseline: dict[str, Difference]
    sentences: list[str]
    curves: dict[str, dict[str, tuple[list[float], list[float]]]]

    @property
    def images(self) -> str:
        """Image counts, for titles; curves may be of fewer images than boxes."""
        curves, boxes = (
            max((row.estimates[m].images for row in self.rows if m in row.estimates), default=0)
            for m in (INSERTION, POINTING)
        )
        if curves >= boxes:
            return f"{curves} images"
        return f"curves of {curves} images, boxes of {boxes}"

    def as_json(self) -> dict[str, Any]:
        """For metrics.json and `--json`."""
        return {
            "title": self.title,
            "measured_on": self.images,
            "rows": [row.as_json() for row in self.rows],
            "verdicts": [json_value(one) | {"answer": one.answer} for one in self.verdicts],
            "better_than_baseline": json_value(self.against_baseline),
            "sentences": self.sentences,
            "curves": self.curves,
        }


def eval_report(
    measurements: Measurements, default: MapId, baseline: MapId | None, title: str
) -> EvalReport:
    """Everything that there is to say of the default map on these images."""
    rows = map_results(measurements)
    verdicts = part_of_speech_results(measurements, default)
    against: dict[str, Difference] = {}
    if baseline is not None:
        against = _against(measurements, default, baseline, (INSERTION, DELETION, POINTING))
    shown = dict.fromkeys([default, *([baseline] if baseline else []), RANDOM, CENTRE])
    curves = {
        str(name): {
            measure: curve
            for measure in (INSERTION, DELETION)
            if (curve := measurements.curve(name, measure))
        }
        for name in shown
    }
    told = list(_sentences(rows, default, baseline, verdicts, against))
    return EvalReport(title, rows, verdicts, against, told, curves)


def records_of(
    measurements: Measurements, default: MapId, examples: Sequence[Example]
) -> list[dict[str, Any]]:
    """One per image: the caption, and of each measured word what the default map came to."""
    words: dict[int, list[dict[str, Any]]] = {}
    for number, word in enumerate(measurements.words):
        found: dict[str, Any] = {
            "word": word.word,
            "part": word.part,
            "category": word.category,
            "gain": round(word.gain, 4),
        }
        for measure in measurements.measures(default):
            value = measurements.value(default, measure, number)
            found[measure] = None if value is None else round(value, 4)
        words.setdefault(word.image, []).append(found)
    return [
        {
            "path": example.captioned.image.name,
            "caption": example.captioned.caption,
            "words": words.get(example.image, []),
        }
        for example in examples
    ]


def _sentences(
    rows: Sequence[MapResult],
    default: MapId,
    baseline: MapId | None,
    verdicts: Sequence[PartOfSpeechResult],
    against: dict[str, Difference],
) -> Iterator[str]:
    by_name = {row.name: row for row in rows}
    own = by_name.get(default)
    if own is None or not own.estimates:  # no measure has enough images
        yield f"{default}: too few of these images have a word to judge it by; give more images."
        return
    yield row_sentence(own, by_name.get(RANDOM))
    yield verdict_sentence(verdicts)
    people = people_sentence(own)
    if people is not None:
        yield people
        maps = [row for row in rows if not row.is_control]
        if not any(row.centre[POINTING].verdict == "better" for row in maps if row.centre):
            yield f"None of these {len(maps)} maps points better than the centre of the image does."
    if against and baseline is not None:
        told = []
        for measure, one in against.items():
            by, low, high = (signed(value, 2) for value in (one.difference, *one.interval))
            by = f"{measure} {one.verdict} by {by} ({low} to {high})"
            told.append(_hits(one) if measure == POINTING else by)
        yield f"Against {baseline}, the original report's map: {', '.join(told)}."


@dataclass
class Leaderboard:
    """What was found. reports: the first is the one to quote.

    hidden: how patches are hidden, but for the report by pixels. screened, chosen: results of the
    two stages, on the images that the default map was chosen on. stages: how many images each
    stage had time for, of the screening by method. seconds: of each stage. images: that were read.
    """

    hidden: str
    screened: list[MapResult]
    chosen: list[MapResult]
    reports: list[EvalReport]
    default: MapId
    sanity: SanityChecks
    records: list[dict[str, Any]]
    images: int
    stages: dict[str, Any]
    seconds: dict[str, float]

    @property
    def sentence(self) -> str:
        """The default map with its estimates, as the first report has them."""
        return self.reports[0].sentences[0]

    def as_json(self) -> dict[str, Any]:
        """For metrics.json and `--json`."""
        reports = [report.as_json() for report in self.reports]
        return {
            "rows": reports[0]["rows"],
            "default": self.default.as_json() | {"sentence": self.sentence},
            "sentences": self.reports[0].sentences,
            "hidden": self.hidden,
            "reports": reports,
            "chosen": [row.as_json() for row in self.chosen],
            "screened": [row.as_json() for row in self.screened],
            "sanity": json_value(self.sanity) | {"sentences": self.sanity.sentences},
            "stages": self.stages,
        }

    def rows(self) -> Iterator[dict[str, Any]]:
        """The leaderboard as a table: a row per map and set of images."""
        stages = [
            *((report.title, report.rows) for report in self.reports),
            (f"{INSERTION} and {DELETION}, the images chosen on", self.chosen),
            ("screening, one mask", self.screened),
        ]
        for stage, rows in stages:
            for row in rows:
                cells: dict[str, Any] = {"images_and_captions": stage}
                for name, value in row.as_json().items():
                    if name.endswith("_interval"):
                        bare = name.removesuffix("_interval")
                        cells[f"{bare}_low"], cells[f"{bare}_high"] = value or (None, None)
                    elif not name.startswith("better_than"):
                        cells[name] = value
                yield cells

    def default_map(self) -> DefaultMap:
        """The default map with the figures that speak for it, of the report to quote."""
        report = self.reports[0]
        results = {row.name: row.estimates for row in report.rows}
        own, random = results[self.default], results[RANDOM]
        figures: dict[str, Any] = {"on": report.title, "hidden": self.hidden}
        for measure in (INSERTION, DELETION, POINTING):
            if measure in own:
                figures[measure] = round(own[measure].value, 4)
                figures[f"{measure}_interval"] = [round(end, 4) for end in own[measure].interval]
        controls = {f"random_{measure}": random.get(measure) for measure in (INSERTION, DELETION)}
        for name, found in (controls | {POINTING_CENTRE: own.get(POINTING_CENTRE)}).items():
            if found is not None:
                figures[name] = round(found.value, 4)
        named = self.default.as_json()
        return DefaultMap(**named, figures=figures, sentence=self.sentence)
