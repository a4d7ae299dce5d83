"""What the page says of a tune: its methods side by side, how they were trained, what is wrong."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from captune.json_yaml import convert
from captune.pages import charts
from captune.pages.blocks import Beside, Chart, Fold, Heading, Paragraph, Remarks, Section, Tiles
from captune.pages.sections import (
    PageContext,
    agreement_blocks,
    chosen_blocks,
    score_strips,
    score_tile,
)
from captune.pages.sources import NOT_USABLE, RunSource, joined, words
from captune.runs.metrics import QUOTED, Curve, Finding, TuneMetrics
from captune.statistics import is_settled
from captune.tables import Column, Fraction, Number, Table, difference, numbers
from captune.text import count, decimal, duration, millions, one_line, p_value, plain, signed
from captune_metrics.catalogue import title_of

_SERIES = 7


@dataclass(frozen=True)
class Method:
    """One method of a tune: keys lead to what metrics.json says of it."""

    name: str
    source: RunSource
    keys: tuple[str | int, ...]

    def figure(self, show: Any, *keys: str | int) -> Number:
        """A number of this method."""
        return self.source.figure(show, *self.keys, *keys)

    def at(self, *keys: str | int) -> Any:
        """A value of this method."""
        return self.source.at(*self.keys, *keys)

    def has(self, metric: str) -> bool:
        """Whether it was scored by this metric."""
        return metric in self.at("scores")

    def unusable(self) -> list[Number]:
        """Why no score of it means anything, a sentence each; none where it is usable."""
        findings = enumerate(convert(self.at("findings"), list[Finding]))
        return [
            self.figure(plain, "findings", i, "sentence") for i, one in findings if one.is_fatal
        ]

    @property
    def trained(self) -> Number:
        """All parameters that were trained."""
        total = sum(self.at("trained").values())
        place = "/".join(map(str, self.keys))
        return Number(
            total, millions(total), f"{self.source.number}:metrics.json sum of /{place}/trained"
        )


def methods_of(source: RunSource) -> list[Method]:
    """The methods of a tune, or the one that a method's own run is about."""
    if source.run.metrics.get("tuned") is not None:
        return [Method(str(source.at("tuned", "method")), source, ("tuned",))]
    return [
        Method(name, source, ("methods", i))
        for i, name in enumerate(str(row["method"]) for row in source.at("methods"))
    ]


def best_of(methods: Sequence[Method]) -> Method:
    """The one that the run calls the best."""
    best = methods[0].source.run.metrics.get("best")
    return next((method for method in methods if method.name == best), methods[0])


def selecting_score(methods: Sequence[Method]) -> str:
    """The score that methods are compared by: what selected them, where it is a score."""
    select = methods[0].source.run.metrics.get("select")
    known = [metric for metric in QUOTED if methods[0].has(metric)]
    return select if select in known else known[0]


def answer(source: RunSource) -> tuple[Any, Tiles | None]:
    """The first lines of the page: sentences, and the headline numbers of the best method."""
    methods = methods_of(source)
    best = best_of(methods)
    if unusable := best.unusable():
        why = joined(unusable)
        if len(methods) == 1:
            return words("{} is not usable, whatever its scores: {}.", best.name, why), None
        every = source.counted(count, len(methods), "methods")
        said = "None of the {} methods is usable, whatever their scores; of {}, {}."
        return words(said, every, best.name, why), None
    usable = [method for method in methods if not method.unusable()]
    by = selecting_score(methods)
    images = best.figure(count, "images")
    name = title_of(by)
    if len(methods) == 1:
        said = words("Tuned with {}: {} trained parameters give {} {} on {} images.", best.name,
                     best.trained, name, best.figure(decimal, "scores", by, "corpus"),
                     images)  # fmt: skip
    else:
        is_by_loss = source.run.metrics.get("select") == "loss"
        claim = f"has the {'lowest validation loss' if is_by_loss else f'highest {name}'}"
        if len(usable) < len(methods):
            claim = "is the only usable one" if len(usable) == 1 else f"{claim} of the usable ones"
        said = words(
            "Of {} methods, {} {} and is kept: {} {} on {} images, with {} trained parameters.",
            source.counted(count, len(methods), "methods"), best.name, claim, name,
            best.figure(decimal, "scores", by, "corpus"), images, best.trained,
        )  # fmt: skip
        said += _settled(source, {method.name for method in usable})
        if useless := [method.name for method in methods if method not in usable]:
            said += words(" Not usable, whatever its scores: {}.", joined(useless))
    if source.run.metrics.get("curve") is not None:
        said += words(" {}.", source.figure(plain, "curve", "sentence"))
    tiles = [
        score_tile(source, id, best.name, best.at("scores", id, "name"), *best.keys, "scores", id)
        for id in QUOTED
        if best.has(id)
    ]
    return said, Tiles(tiles)


def _settled(source: RunSource, usable: Collection[str]) -> Markup:
    every = source.run.typed_metrics(TuneMetrics).against_best
    against = {name: one for name, one in every.items() if name in usable}
    worse = [name for name, one in against.items() if is_settled(one.p_holm, one.interval)]
    others = [name for name in against if name not in worse]
    said = Markup()
    if worse:
        parts = [words("{} ({}, p {})", name, *_compared(source, name)) for name in worse]
        said += words(" Significantly worse: {}.", joined(parts))
    if others:
        said += words(" Not significantly different on these images: {}.", joined(others))
    return said


def _compared(source: RunSource, name: str) -> tuple[Number, Number]:
    place = ("against_best", name)
    return source.figure(signed, *place, "difference"), source.figure(p_value, *place, "p_holm")


def section(source: RunSource, _context: PageContext) -> Section:
    """All that the page says of one tune."""
    methods = methods_of(source)
    part = Section(f"tune-{source.number}", "Tuning", source.name)
    if source.run.metrics.get("trained_on") is not None:
        trained_on = source.figure(count, "trained_on")
        text = words(
            "Trained on {} images; the image encoder and the language model stay as they are.",
            trained_on,
        )
        part.blocks.append(Paragraph(text, soft=True))
    wrong: list[Any] = [*_findings(methods, are_wrong=True)]
    if source.run.metrics.get("warning"):
        wrong.insert(0, source.figure(plain, "warning"))
    if wrong:
        part.blocks.append(Remarks(wrong))
    part.blocks.append(_table(source, methods))
    if source.run.metrics.get("curve") is not None:
        part.blocks += _images_needed(source)
    part.blocks += [Heading("How the training went"), *_curves(methods)]
    best = best_of(methods).keys
    part.blocks += chosen_blocks(source, *best, "reranking")
    part.blocks += agreement_blocks(source, *best, "agreement")
    part.blocks += [Heading("Where the trained parameters are"), _budget(methods)]
    if fine := _findings(methods, are_wrong=False):
        part.blocks.append(Fold("Checks that found nothing wrong", [Remarks(fine)]))
    return part


def _findings(methods: Sequence[Method], *, are_wrong: bool) -> list[Markup]:
    return [
        words("{}: {}", method.name, method.figure(plain, "findings", i, "sentence"))
        for method in methods
        for i, finding in enumerate(method.at("findings"))
        if finding["wrong"] == are_wrong
    ]


def tables(source: RunSource) -> list[Table]:
    """The methods side by side, and the scores by the number of images."""
    found = [_table(source, methods_of(source))]
    return found if source.run.metrics.get("curve") is None else [*found, _images_table(source)]


def _table(source: RunSource, methods: Sequence[Method]) -> Table:
    best, by = best_of(methods), selecting_score(methods)
    against = source.run.typed_metrics(TuneMetrics).against_best
    useless = {method.name for method in methods if method.unusable()}
    settled = {name for name, one in against.items() if is_settled(one.p_holm, one.interval)}
    known = [id for id in (by, *QUOTED) if all(method.has(id) for method in methods)]
    known = list(dict.fromkeys(known))
    scores = {one.name: one.at("scores", by) for one in methods}
    ends = {name: (one["corpus"], one["interval"]) for name, one in scores.items()}
    lines = score_strips(ends, "" if best.name in useless else best.name, settled - useless)
    rows = []
    methods = sorted(methods, key=lambda method: method.name in useless)
    # with none that is usable there is no best one
    are_compared = len(methods) - len(useless) > 1
    is_marked = len(methods) > 1 and best.name not in useless
    for method in methods:
        figures = [source.estimate(decimal, *method.keys, "scores", id) for id in known]
        compared: list[Any] = [None]
        if method.name in against and method.name not in useless:
            compared = [words("{} <small>p {}</small>", *_compared(source, method.name))]
        name = method.name + NOT_USABLE * (method.name in useless)
        rows.append(
            [
                *(name, method.trained, figures[0], lines[method.name]),
                *(compared if are_compared else ()),
                *figures[1:],
                method.figure(count, "best_epoch"),
                method.figure(duration, "seconds"),
            ]
        )
    columns = [Column("method"), *numbers("trained", title_of(by)), Column("", wide=True)]
    columns += numbers("vs. best") if are_compared else []
    columns += numbers(*map(title_of, known[1:]), "best epoch", "time")
    note = "With each score its 95 % interval, by resampling images."
    if are_compared and against:
        note += (
            f" vs. best: difference in {title_of(by)} on the same images, p by a permutation"
            " test, Holm-corrected for the number of methods."
        )
    note += " Bold: the best method." if is_marked else ""
    marked = frozenset({methods.index(best)} if is_marked else ())
    return Table(f"methods-{source.number}", "Methods", columns, rows, marked, note)


def _images_needed(source: RunSource) -> list[Any]:
    """The score against the number of training images."""
    curve = convert(source.at("curve"), Curve)
    name, tone = title_of(curve.metric), "series-1"
    scores = [(one.images, one.scores[curve.metric]) for one in curve.points]
    line = [(tone, [(float(images), score.corpus) for images, score in scores])]
    intervals = [(tone, float(n), *one.interval) for n, one in scores if one.interval]
    drawn = charts.curves_chart(
        line, line, [], label=name, from_zero=True, across="training images", intervals=intervals,
        says=f"{name} by the number of training images, with 95 % intervals",
    )  # fmt: skip
    text = words(
        "{}. Each number of images is a tune of its own: the smaller set lies in the larger one,"
        " all have as many updates as {} epochs of the largest, and the validation images are the"
        " same.",
        source.figure(plain, "curve", "sentence"), source.figure(count, "curve", "epochs"),
    )  # fmt: skip
    chart = Chart(drawn, name, [(tone, curve.method)], "bars: 95 % intervals")
    return [Heading("How many images?"), Paragraph(text), Beside([chart]), _images_table(source)]


def _images_table(source: RunSource) -> Table:
    """A row per number of training images."""
    curve = convert(source.at("curve"), Curve)
    known = [id for id in QUOTED if all(id in one.scores for one in curve.points)]
    rows = []
    for i, point in enumerate(curve.points):
        keys = ("curve", "points", i)
        gain = None
        if point.difference is not None:
            gain = difference(
                source.figure(signed, *keys, "difference"),
                source.interval(signed, *keys, "interval"),
            )
        rows.append(
            [
                source.figure(count, *keys, "images"),
                "" if point.usable else "not usable",
                *(source.estimate(decimal, *keys, "scores", id) for id in known),
                gain,
            ]
        )
    columns = [*numbers("training images"), Column("")]
    columns += numbers(*map(title_of, known), f"gain in {title_of(curve.metric)}")
    note = "gain: on the row before, over the same validation images, with a paired 95 % interval."
    return Table(f"images-{source.number}", "Scores by number of images", columns, rows, note=note)


def _curves(methods: Sequence[Method]) -> list[Any]:
    from captune.plots.captions import smoothed

    by = selecting_score(methods)
    key = [(f"series-{i % _SERIES + 1}", method.name) for i, method in enumerate(methods)]
    lines, losses, scores, kept = [], [], [], []
    for method, (tone, _) in zip(methods, key, strict=True):
        logged = [(a, b) for a, b in method.at("history", "losses") if b is not None]
        if logged:
            import numpy as np

            epochs, values = np.array(logged).T
            smooth = smoothed(epochs, values).tolist()
            lines.append((tone, list(zip(epochs.tolist(), smooth, strict=True))))
        each = method.at("history", "epochs")
        losses.append((tone, _points(each, "loss")))
        scores.append((tone, _points(each, by)))
        best = method.at("best_epoch")
        kept += [(tone, epoch, y) for epoch, y in _points(each, by) if round(epoch) == best]
    name = title_of(by)
    drawn = [
        Chart(
            charts.curves_chart(
                lines, losses, [], label="loss", from_zero=False,
                says="Loss over the epochs: lines in training, dots in validation",
            ),
            "Loss", key, "line: training, smoothed; dots: validation",
        ),
        Chart(
            charts.curves_chart(
                scores, scores, kept, label=name, from_zero=True,
                says=f"{name} of the validation sample after each epoch",
            ),
            f"{name} of the validation sample", key, "ringed: the epoch that was kept",
        ),
    ]  # fmt: skip
    return [Beside([one for one in drawn if one.svg])]


def _points(epochs: Sequence[Mapping[str, float]], name: str) -> list[tuple[float, float]]:
    return [(one["epoch"], one[name]) for one in epochs if one.get(name) is not None]


def _budget(methods: Sequence[Method]) -> Table:
    most = max(1, *(n for method in methods for n in method.at("trained").values()))
    rows = [
        [
            "" if i else method.name,
            one_line(part),
            method.figure(count, "trained", part),
            Fraction(n / most),
        ]
        for method in methods
        for i, (part, n) in enumerate(method.at("trained").items())
    ]
    columns = [Column("method"), Column("part")]
    columns += [*numbers("trained parameters"), Column("", wide=True)]
    return Table(f"budget-{methods[0].source.number}", "Trained parameters by part", columns, rows)
