"""What the page says of a classification: how often it is right, where it goes wrong, how sure."""

from __future__ import annotations

import heapq
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from captune.images.match import sample_names
from captune.pages import charts
from captune.pages.album import Album
from captune.pages.blocks import (
    Bar,
    Beside,
    Card,
    Cards,
    Chart,
    Fold,
    Gallery,
    Heading,
    Paragraph,
    Section,
    Tile,
    Tiles,
)
from captune.pages.sections import PageContext
from captune.pages.sources import PageSettings, RunSource, words
from captune.tables import Column, Fraction, Table, numbers
from captune.text import count, one_line, percent, signed

if TYPE_CHECKING:
    from captune.statistics.calibration import Reliability

_BARS = 5
_LISTED = 14  # confusions beside the matrix
_MOST_CLASSES = 60  # of a matrix that can still be read
_COARSE = 0.05  # an ECE by chance above it: too few images to tell anything
_KEY = (("right", "right"), ("wrong", "wrong, darker where it is a larger fraction of the class"))


def answer(source: RunSource) -> tuple[Any, Tiles | None]:
    """The first lines of the page: a sentence, and the headline number."""
    spec = str(source.model.get("spec"))
    images, labels = source.figure(count, "images"), source.figure(count, "labels")
    if source.at("prompts", 0, "accuracy") is None:
        said = words(
            "{} gave each of {} images one of {} labels; without a truth nothing is known of how"
            " often it is right.",
            spec, images, labels,
        )  # fmt: skip
        return said, None
    right, scored = source.figure(count, "correct"), source.figure(count, "scored")
    accuracy = source.figure(percent, "prompts", 0, "accuracy")
    chance = source.counted(percent, 1 / labels.value, "1 of the number of labels")
    said = words(
        "{} recognises {} of {} images without having been trained on any of the {} labels: {};"
        " guessing would give {}.",
        spec, right, scored, labels, accuracy, chance,
    )  # fmt: skip
    tile = Tile(
        "accuracy",
        accuracy,
        source.interval(percent, "prompts", 0, "interval"),
        words(
            "Of ten images like these, about {} get the right one of {} labels first.",
            source.counted(lambda n: f"{n:.0f}", 10 * accuracy.value, "ten times the accuracy"),
            labels,
        ),
        _recipe(source),
    )
    return said, Tiles([tile])


def _recipe(source: RunSource) -> str:
    template = source.at("prompts", 0, "template")
    weights = str(source.model.get("weights_id"))
    prompt = f"“{template}”, " if template else ""
    activation = source.at("activation")
    return one_line(f"top-1, {prompt}{activation}, weights {weights[:12]}, Wilson interval")


def section(source: RunSource, context: PageContext) -> Section:
    """All that the page says of one classification."""
    album = context.album
    found = find(source, context.settings)
    part = Section(f"classify-{source.number}", "Recognition", source.name)
    softmax = source.at("activation") == "softmax"
    what = (
        "The bars are the probabilities that the model gives to the labels offered: they say which"
        " of these fits best, not whether any fits well."
        if softmax
        else "The bars are an independent yes or no for each label, so they need not sum to one."
    )
    part.blocks.append(Paragraph(what, soft=True))
    if len(source.at("prompts")) > 1:
        part.blocks.append(_prompts(source))
    part.blocks.append(_cards("Top-5 answers", found.sampled, source, album, "a sample"))
    if found.confusion:
        part.blocks += [*_confusion(source, found), *_calibration(source, found)]
        note = "Wrong answers, the surest first."
    else:
        note = "Images whose first two answers are closest together."
    hardest = [record for _, _, record in found.hardest]
    if hardest:
        part.blocks.append(_cards("Hardest images", hardest, source, album, note))
    part.blocks.append(_gallery(source, found, album))
    return part


def tables(source: RunSource) -> list[Table]:
    """The prompts with their accuracies, where the run has a truth."""
    return [] if source.at("prompts", 0, "accuracy") is None else [_prompts(source)]


def _prompts(source: RunSource) -> Table:
    rows = []
    for i, prompt in enumerate(source.at("prompts")):
        known = prompt["accuracy"] is not None
        ends = source.interval(percent, "prompts", i, "interval") if known else None
        figure = source.figure(percent, "prompts", i, "accuracy") if known else None
        rows.append([prompt["template"] or "ensemble", figure, *(ends or (None, None))])
    columns = [Column("prompt", wide=True), *numbers("accuracy", "95 % from", "to")]
    note = "The pictures show the first prompt's answers; captune prompts tests the differences."
    return Table(f"prompts-{source.number}", "Prompts", columns, rows, note=note)


def card(record: Mapping[str, Any], place: int, source: RunSource, album: Album) -> Card:
    """An image with its first five answers."""
    truth = record.get("truth")
    right = truth is not None and record["top"][0]["id"] == truth
    bars = [
        Bar(
            one_line(str(item["name"])),
            source.counted(percent, item["probability"], f"line {place}: probability"),
            tone_of(rank, item["id"], truth),
        )
        for rank, item in enumerate(record["top"][:_BARS])
    ]
    missed = truth is not None and all(item["id"] != truth for item in record["top"][:_BARS])
    told = words("truth: {}", str(record.get("truth_name") or truth)) if missed else ""
    return Card(
        name=one_line(record["path"]),
        picture=album.picture(source.run, record["path"]),
        bars=bars,
        below=told,
        above="" if truth is None else "right" if right else "wrong",
        tone="" if truth is None else "good" if right else "bad",
    )


def tone_of(rank: int, class_id: object, truth: object) -> str:
    """As in the assignment's figure: the truth green, a wrong first answer orange, others blue."""
    if truth is not None and class_id == truth:
        return "truth"
    if truth is not None and rank == 0:
        return "wrong"
    return "other"


def _cards(
    title: str, records: list[dict[str, Any]], source: RunSource, album: Album, note: str
) -> Cards:
    return Cards(title, [card(record, i, source, album) for i, record in enumerate(records)], note)


def _confusion(source: RunSource, found: ClassifyCounts) -> list[Any]:
    ids = ids_of(found)
    totals: Counter[str] = Counter()
    for (truth, _), n in found.confusion.items():
        totals[truth] += n
    mistakes = [(pair, n) for pair, n in found.confusion.items() if pair[0] != pair[1]]
    mistakes.sort(key=lambda item: (-item[1], found.names[item[0][0]], found.names[item[0][1]]))
    rows = [
        [
            found.names[truth],
            found.names[said],
            source.counted(count, n, f"images of {truth} called {said}"),
            source.counted(count, totals[truth], f"images of {truth}"),
        ]
        for (truth, said), n in mistakes
    ]
    columns = [Column("truth"), Column("called"), *numbers("images", "of")]
    rarer = len(rows) - _LISTED
    shown = Table(
        f"confusions-{source.number}", "Most frequent confusions", columns, rows[:_LISTED],
        note=f"{rarer} rarer ones are in the list of all" if rarer > 0 else "",
    )  # fmt: skip
    blocks: list[Any] = [Heading("Where it goes wrong")]
    if len(ids) <= _MOST_CLASSES:
        place = {id: i for i, id in enumerate(ids)}
        counts = {(place[t], place[a]): n for (t, a), n in found.confusion.items()}
        names = [found.names[id] for id in ids]
        drawn = Chart(charts.confusion_chart(names, counts), "", _KEY, "truth ↓  answer →")
        blocks.append(Beside([drawn, shown], natural=True) if rows else drawn)
    elif rows:
        blocks.append(shown)
    if len(rows) > _LISTED:
        every = Table(f"all-confusions-{source.number}", "All confusions", columns, rows)
        blocks.append(Fold("All confusions", [every]))
    blocks.append(Fold("Accuracy of each class", [_classes(source, found, ids, totals)]))
    return blocks


def _classes(
    source: RunSource, found: ClassifyCounts, ids: list[str], totals: Counter[str]
) -> Table:
    rows = []
    for id in sorted(ids, key=lambda id: (found.confusion[id, id] / max(1, totals[id]), id)):
        if not totals[id]:
            continue
        right = found.confusion[id, id]
        rows.append(
            [
                found.names[id],
                source.counted(percent, right / totals[id], f"fraction right of {id}"),
                Fraction(right / totals[id]),
                source.counted(count, right, f"images of {id} that are right"),
                source.counted(count, totals[id], f"images of {id}"),
            ]
        )
    columns = [Column("class"), *numbers("accuracy"), Column("", wide=True)]
    columns += numbers("right", "images")
    return Table(f"classes-{source.number}", "Classes, the hardest first", columns, rows)


def _calibration(source: RunSource, found: ClassifyCounts) -> list[Any]:
    told = reliability_of(found)
    error = source.counted(percent, told.ece, "ECE over 15 bins")
    floor = source.counted(percent, told.ece_floor, "ECE by chance")
    gap = source.counted(
        lambda g: f"{signed(100 * g, 1)} points",
        told.mean_confidence - told.accuracy,
        "mean confidence less accuracy",
    )
    leaning = "too sure of itself" if gap.value > 0 else "less sure than it could be"
    if error.value <= 1.5 * floor.value:
        said = words(
            "The probabilities are off by {} on average; on this many images chance alone would"
            " give {}.",
            error, floor,
        )  # fmt: skip
        said += words(
            " So few images cannot settle whether they are right."
            if floor.value > _COARSE
            else " There is no sign that they are wrong."
        )
    else:
        said = words(
            "The probabilities are off by {} on average (chance alone would give {}): the model is"
            " {} by {}.",
            error, floor, leaning, gap,
        )  # fmt: skip
    says = "Reliability diagram: fraction of right answers in each of 15 bins of confidence"
    drawn = reliability_block([asdict(one) for one in told.bins], says)
    return [Heading("How far to believe its probabilities"), Paragraph(said), drawn]


def reliability_block(bins: list[dict[str, Any]], says: str) -> Chart:
    """A reliability diagram with its key."""
    key = (
        ("bar", "right, as often as claimed"),
        ("over", "claimed, but wrong"),
        ("under", "right, but not claimed"),
    )
    return Chart(charts.reliability_chart(bins, says), key=key)


def _gallery(source: RunSource, found: ClassifyCounts, album: Album) -> Gallery:
    items: list[dict[str, Any]] = []
    for record in found.records:
        picture = album.picture(source.run, record["path"])
        truth = record.get("truth")
        items.append(
            {
                "image": None if picture is None else picture.number,
                "name": one_line(record["path"]),
                "bars": [
                    [
                        one_line(str(item["name"])),
                        item["probability"],
                        tone_of(rank, item["id"], truth),
                    ]
                    for rank, item in enumerate(record["top"][:_BARS])
                ],
                "right": None if truth is None else record["top"][0]["id"] == truth,
                "truth": None
                if truth is None
                else one_line(str(record.get("truth_name") or truth)),
            }
        )
    sorts = [
        ("order of the run", list(range(len(items))), False),
        ("surest first", [item["bars"][0][1] for item in items], True),
        ("least sure first", [item["bars"][0][1] for item in items], False),
    ]
    filters = [
        (name, [i for i, item in enumerate(items) if item["right"] is right])
        for name, right in (("wrong", False), ("right", True))
    ]
    hidden = found.images - len(items)
    note = (
        words("The first {} of {}; the run folder has all of them.", f"{len(items):,}",
              source.figure(count, "images"))
        if hidden > 0
        else ""
    )  # fmt: skip
    return Gallery(
        f"images-{source.number}", "All images", "image", items, sorts,
        [one for one in filters if one[1]], note=note,
    )  # fmt: skip


SAMPLED = 8


@dataclass
class ClassifyCounts:
    """A classification's records, counted once.

    records: the first of them, for the gallery. confusion: (truth id, answer id) -> images.
    hardest: (how wrong, -place, record), the worst first. confidence, correct: of images with a
    truth.
    """

    records: list[dict[str, Any]] = field(default_factory=list)
    images: int = 0
    names: dict[str, str] = field(default_factory=dict)
    answers: Counter[str] = field(default_factory=Counter)
    confusion: Counter[tuple[str, str]] = field(default_factory=Counter)
    hardest: list[tuple[float, int, dict[str, Any]]] = field(default_factory=list)
    sampled: list[dict[str, Any]] = field(default_factory=list)
    confidence: list[float] = field(default_factory=list)
    correct: list[bool] = field(default_factory=list)


def find(source: RunSource, settings: PageSettings) -> ClassifyCounts:
    """Read a classification's records. Raises DamagedRun."""
    found = ClassifyCounts()
    wanted = _sampled(source)
    for place, record in enumerate(source.run.records()):
        _count(found, place, record, wanted, settings)
    found.hardest.sort(reverse=True)
    return found


def _count(
    found: ClassifyCounts,
    place: int,
    record: dict[str, Any],
    wanted: set[str],
    settings: PageSettings,
) -> None:
    top, truth = record["top"], record.get("truth")
    first = top[0]
    for item in top:
        found.names.setdefault(str(item["id"]), str(item["name"]))
    sure = min(1.0, float(first["probability"]))  # float32 rounds above 1
    if truth is None:
        second = float(top[1]["probability"]) if len(top) > 1 else 0.0
        difficulty = second - sure  # the smaller the lead, the harder
    else:
        found.names.setdefault(str(truth), str(record.get("truth_name") or truth))
        found.confusion[str(truth), str(first["id"])] += 1
        found.confidence.append(sure)
        found.correct.append(first["id"] == truth)
        difficulty = sure if first["id"] != truth else -1.0
    found.answers[str(first["id"])] += 1
    if truth is None or difficulty >= 0:
        item = (difficulty, -place, record)
        if len(found.hardest) < 2 * settings.top:
            heapq.heappush(found.hardest, item)
        else:
            heapq.heappushpop(found.hardest, item)
    if record["path"] in wanted:
        found.sampled.append(record)
    if len(found.records) < settings.limit:
        found.records.append(record)
    found.images += 1


def _sampled(source: RunSource) -> set[str]:
    """The images of the run's own top-5 figures, where it drew any; else a few."""
    names = [record["path"] for record in source.run.records()]
    wanted, seed = asked_top5(source, names)
    return set(sample_names(names, wanted, seed)[: 2 * SAMPLED])


def asked_top5(source: RunSource, names: Sequence[str]) -> tuple[list[str], int]:
    """Which top-5 figures the run was asked for, as `--top5` takes it, and the seed; else a few."""
    asked = source.option("top5", list, [])
    words = [word for word in asked if isinstance(word, str)]
    known = [word for word in words if word in names or re.fullmatch("[0-9]{1,9}", word)]
    return known or [str(SAMPLED)], max(0, source.option("seed", int, 0))


def ids_of(found: ClassifyCounts) -> list[str]:
    """The classes that are in the confusions, numbers by their size."""
    return sorted({id for pair in found.confusion for id in pair}, key=_numeric)


def reliability_of(found: ClassifyCounts) -> Reliability:
    """How far confidence and accuracy lie apart.

    Of the label put first: the probability of the truth, which a likelihood would need, need not be
    in the records, so `nll` is no number.
    """
    from captune.statistics.calibration import (
        Reliability,
        ece_floor,
        expected_calibration_error,
        reliability_bins,
    )

    confidence, correct = np.array(found.confidence), np.array(found.correct)
    bins = reliability_bins(confidence, correct)
    of_equal_mass = reliability_bins(confidence, correct, equal="mass")
    return Reliability(
        images=len(confidence),
        ece=expected_calibration_error(bins),
        adaptive_ece=expected_calibration_error(of_equal_mass),
        ece_floor=ece_floor(confidence),
        nll=float("nan"),
        mean_confidence=float(confidence.mean()),
        accuracy=float(correct.mean()),
        bins=bins,
    )


def _numeric(id: str) -> tuple[int, int, str]:
    return (0, int(id), id) if id.isdecimal() else (1, 0, id)
