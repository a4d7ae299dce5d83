"""What the page says of a classification: how often it is right, where it goes wrong, how sure."""

from __future__ import annotations

import heapq
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from captune.images.match import sample_names
from captune.pages import charts
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
from captune.pages.sections import PageContext, reliability_block, shard_blocks
from captune.pages.sources import PageSettings, RunSource, words
from captune.pages.thumbnails import Album
from captune.runs.metrics import Reliability
from captune.runs.records import json_value
from captune.tables import Column, Estimate, Fraction, Table, numbers
from captune.text import count, one_line, percent, signed

_BARS = 5
_SAMPLED = 8
_LISTED = 14  # confusions beside the matrix
_MOST_CLASSES = 60  # of a matrix that can still be read
_COARSE = 0.05  # an ECE by chance above it: too few images to tell anything
_KEY = (("right", "right"), ("wrong", "wrong, stronger where it is more of the class"))


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
    found = ClassifyCounts(source, context.settings)
    part = Section(f"classify-{source.number}", "Recognition", source.name)
    softmax = source.at("activation") == "softmax"
    what = (
        "The bars are the probabilities that the model gives to the labels offered: they say which"
        " of these fits best, not whether any fits well."
        if softmax
        else "The bars are an independent yes or no for each label, so they need not sum to one."
    )
    part.blocks += [*shard_blocks(source), Paragraph(what, soft=True)]
    if len(source.at("prompts")) > 1:
        part.blocks.append(_prompts(source))
    title = f"Top-{_BARS} answers" if source.at("labels") > _BARS else "Answers"
    note = "a sample" if len(found.sampled) < source.at("images") else ""
    part.blocks.append(_cards(title, found.sampled, source, album, note))
    if found.confusion:
        part.blocks += [*_confusion(source, found), *_calibration(source, found)]
        note = "Wrong answers, the surest first."
    else:
        note = "Images whose first two answers are closest together."
    if found.hardest:
        part.blocks.append(_cards("Hardest images", found.hardest, source, album, note))
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
        rows.append([prompt["template"] or "ensemble", figure and Estimate(figure, ends)])
    columns = [Column("prompt", wide=True), *numbers("accuracy")]
    note = "With each accuracy its 95 % interval."
    if len(rows) > 1:
        note += " Answers are the first prompt's; captune prompts tests the differences."
    return Table(f"prompts-{source.number}", "Prompts", columns, rows, note=note)


def card(record: Mapping[str, Any], place: int, source: RunSource, album: Album) -> Card:
    """An image with its first five answers."""
    truth = record.get("truth")
    right = truth is not None and record["top"][0]["id"] == truth
    bars = [
        Bar(name, source.counted(percent, value, f"line {place}: probability"), tone)
        for name, value, tone in _top(record)
    ]
    told = "" if right else words("truth: {}", str(record.get("truth_name") or truth))
    return Card(
        name=_name(record),
        picture=album.picture(source.run, record["path"]),
        bars=bars,
        below="" if truth is None else told,
        above="" if truth is None else "right" if right else "wrong",
        tone="" if truth is None else "good" if right else "bad",
    )


def _name(record: Mapping[str, Any]) -> str:
    return one_line(str(record.get("name") or record["path"]))


def _top(record: Mapping[str, Any]) -> Iterator[tuple[str, float, str]]:
    """Name, probability and tone of the first five answers.

    As in the assignment's figure: the truth green, a wrong first answer orange, others blue.
    """
    truth = record.get("truth")
    for rank, item in enumerate(record["top"][:_BARS]):
        tone = "other"
        if truth is not None:
            tone = "truth" if item["id"] == truth else "other" if rank else "wrong"
        yield one_line(str(item["name"])), item["probability"], tone


def _cards(
    title: str, records: list[dict[str, Any]], source: RunSource, album: Album, note: str
) -> Cards:
    return Cards(title, [card(record, i, source, album) for i, record in enumerate(records)], note)


def _confusion(source: RunSource, found: ClassifyCounts) -> list[Any]:
    ids = found.ids
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
    told = found.reliability()
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
    drawn = reliability_block(json_value(told.bins), says)
    return [Heading("How far to believe its probabilities"), Paragraph(said), drawn]


def _gallery(source: RunSource, found: ClassifyCounts, album: Album) -> Gallery:
    items: list[dict[str, Any]] = []
    for record in found.records:
        picture = album.picture(source.run, record["path"])
        truth, name = record.get("truth"), record.get("truth_name") or record.get("truth")
        bars = [[label, value, tone] for label, value, tone in _top(record)]
        items.append(
            {
                "image": None if picture is None else picture.number,
                "name": _name(record),
                "bars": bars,
                "right": None if truth is None else record["top"][0]["id"] == truth,
                "truth": None if truth is None else one_line(str(name)),
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


class ClassifyCounts:
    """A classification's records, counted once. Raises DamagedRun.

    records: the first `limit`, for the gallery. sampled: those of the run's own top-5 figures, else
    a few. confusion: (truth id, answer id) -> images. names: of labels by id. hardest: the worst
    first, 2 x `top`. confidence, correct: of images with a truth.
    """

    def __init__(self, source: RunSource, settings: PageSettings) -> None:
        self.records: list[dict[str, Any]] = []
        self.sampled: list[dict[str, Any]] = []
        self.images = 0
        self.names: dict[str, str] = {}
        self.confusion: Counter[tuple[str, str]] = Counter()
        self.confidence: list[float] = []
        self.correct: list[bool] = []
        # how wrong; the earlier of two equals is the worse
        self._hardest: list[tuple[float, int, dict[str, Any]]] = []
        paths = [record["path"] for record in source.run.records()]
        sampled = set(sample_names(paths, *asked_top5(source, paths))[: 2 * _SAMPLED])
        for record in source.run.records():
            self._count(record, 2 * settings.top)
            if record["path"] in sampled:
                self.sampled.append(record)
            if len(self.records) < settings.limit:
                self.records.append(record)
            self.images += 1

    def _count(self, record: dict[str, Any], hardest: int) -> None:
        top, truth = record["top"], record.get("truth")
        first = top[0]
        for item in top:
            self.names.setdefault(str(item["id"]), str(item["name"]))
        sure = min(1.0, float(first["probability"]))  # float32 rounds above 1
        if truth is None:
            second = float(top[1]["probability"]) if len(top) > 1 else 0.0
            difficulty = second - sure  # the smaller the lead, the harder
        else:
            self.names.setdefault(str(truth), str(record.get("truth_name") or truth))
            self.confusion[str(truth), str(first["id"])] += 1
            self.confidence.append(sure)
            self.correct.append(first["id"] == truth)
            if first["id"] == truth:
                return
            difficulty = sure
        heapq.heappush(self._hardest, (difficulty, -self.images, record))
        if len(self._hardest) > hardest:
            heapq.heappop(self._hardest)

    @property
    def hardest(self) -> list[dict[str, Any]]:
        """The surest of the wrong answers; without a truth those with the smallest lead."""
        return [record for _, _, record in sorted(self._hardest, reverse=True)]

    @property
    def ids(self) -> list[str]:
        """The classes that are in the confusions, numbers by their size."""
        found = {id for pair in self.confusion for id in pair}
        numbered = sorted((id for id in found if id.isdecimal()), key=lambda id: (int(id), id))
        return numbered + sorted(id for id in found if not id.isdecimal())

    def reliability(self) -> Reliability:
        """How far confidence and accuracy of the label put first lie apart."""
        from captune.zeroshot.calibration import reliability

        return reliability(np.array(self.confidence), np.array(self.correct))


def asked_top5(source: RunSource, paths: Sequence[str]) -> tuple[list[str], int]:
    """Which top-5 figures the run was asked for, as `--top5` takes it, and the seed; else a few."""
    asked = source.option("top5", list, [])
    words = [word for word in asked if isinstance(word, str)]
    known = [word for word in words if word in paths or re.fullmatch("[0-9]{1,9}", word)]
    return known or [str(_SAMPLED)], max(0, source.option("seed", int, 0))
