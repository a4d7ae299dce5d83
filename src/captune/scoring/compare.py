"""Which of two sets of captions is better, by how much, and could it be luck?

A and B are scored on the same images, so everything here is paired: an image that is hard for both
says nothing about their difference and does not blur it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from msgspec.structs import asdict

from captune.runs import Run
from captune.runs.evaluation import (
    Better,
    CaptionScore,
    ComparedMetric,
    CompareMetrics,
    ComparisonFinding,
    ImageDifference,
    LargestDifferences,
    SideFigure,
)
from captune.runs.metrics import AgainstBest
from captune.runs.records import CompareRecord
from captune.scoring.rank import comparable, title_of_scores
from captune.scoring.score import ScoredCaptions, by_ids_of
from captune.statistics import SIGNIFICANT, holm
from captune.text import decimal, listed, p_value, signed
from captune_metrics.resampling import (
    RESAMPLES,
    Doubles,
    PairedInterval,
    Sums,
    cohen_dz,
    detectable_difference,
    paired_bootstrap,
    paired_permutation_each,
)
from captune_metrics.scores import Scores


class MetricComparison(ComparedMetric, frozen=True, kw_only=True, eq=False, dict=True):
    """One metric on A and on B, with the scores of the images.

    metric: its id. title: the metric as papers write it. metrics_compared: how many p_holm is
    raised for. ids, raw_a, raw_b: of the images, and their scores, [n].
    """

    metric: str
    title: str
    metrics_compared: int
    ids: list[str]
    raw_a: Doubles
    raw_b: Doubles

    @cached_property
    def differences(self) -> Doubles:
        """[n] B - A an image; 0 where only rounding or smoothing tells them apart."""
        return comparable(self.metric, self.raw_b) - comparable(self.metric, self.raw_a)

    @cached_property
    def verdict(self) -> str:
        """What a person may say after this comparison, in one sentence."""
        n = len(self.ids)
        if self.finding == "same":
            return f"{self.title}: the same on every image"
        difference = signed(self.difference, self.digits)
        if self.finding == "unknown":
            return (
                f"{self.title}: B − A is {difference} on one image, which says nothing about others"
            )
        assert self.p is not None
        assert self.p_holm is not None
        assert self.interval is not None
        assert self.detectable_difference is not None
        low, high = self.interval
        seen = decimal(self.detectable_difference, self.digits)
        if self.finding in ("A", "B"):
            if self.finding == "A":
                low, high = -high, -low
            by = decimal(abs(self.difference), self.digits)
            better = (
                f"{self.finding} is better by {by} {self.title}, {self._range(low, high)},"
                f" {self._p()}"
            )
            if abs(self.difference) < self.detectable_difference:
                return (
                    f"{better}; that is less than the {seen} that {n:,} images detect in four of"
                    " five such samples (power 80 %): smaller differences are found less often, and"
                    " those that are found tend to look larger than they are"
                )
            return (
                f"{better}; {n:,} images are enough to detect a difference of {seen} or more"
                " (power 80 %)"
            )
        where = f"B − A is {difference}, {self._range(low, high)}, {self._p()}"
        if self.finding == "unsettled":
            return (
                f"{self.title}: not settled: {where}; {n:,} images are enough to detect a"
                f" difference of {seen} or more (power 80 %), so take more"
            )
        return (
            f"{self.title}: no difference was seen: {where}; {n:,} images are enough to detect a"
            f" difference of {seen} or more (power 80 %)"
        )

    def _range(self, low: float, high: float) -> str:
        return f"95 % [{decimal(low, self.digits)}, {decimal(high, self.digits)}]"

    def _p(self) -> str:
        """p as it stands, and after Holm where that reads otherwise."""
        assert self.p is not None
        assert self.p_holm is not None
        p, p_holm = p_value(self.p), p_value(self.p_holm)
        return f"p {p}" if p == p_holm else f"p {p} ({p_holm} for {self.metrics_compared} metrics)"

    def figures(self) -> ComparedMetric:
        """What metrics.json holds of it."""
        names = ComparedMetric.__struct_fields__
        return ComparedMetric(**{name: getattr(self, name) for name in names})


@dataclass(frozen=True)
class Comparison:
    """A and B on the same images.

    a, b: the files, as they were given; same_file: they hold the same bytes.
    captions_a, captions_b, references: by image id, in one order; references may be empty.
    paths: image id -> the name of its image, for those that have one.
    """

    a: str
    b: str
    captions_a: dict[str, str] = field(repr=False)
    captions_b: dict[str, str] = field(repr=False)
    references: dict[str, list[str]] = field(repr=False)
    metrics: dict[str, MetricComparison]
    same_file: bool = False
    paths: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def images(self) -> int:
        """How many images both were scored on."""
        return len(self.captions_a)

    @property
    def identical(self) -> bool:
        """Whether A and B say the same of every image."""
        return self.captions_a == self.captions_b

    @property
    def changed(self) -> int:
        """Images whose two captions are not the same."""
        return sum(self.captions_b[id] != caption for id, caption in self.captions_a.items())

    def headline(self) -> str:
        """What came out, in one or two sentences."""
        if self.identical:
            return self.verdicts()[0]
        if self.images == 1:
            return "One image says nothing about others: no difference is tested."
        found = {
            finding: [one for one in self.metrics.values() if one.finding == finding]
            for finding in ("B", "A", "unsettled", "unseen", "same")
        }
        told = [
            f"{better} is better than {other} by {self._of(found[better], differences=True)}"
            for better, other in (("B", "A"), ("A", "B"))
            if found[better]
        ]
        contradict = "The metrics contradict each other: " if len(told) == 2 else ""
        rest = [
            f"{said} by {self._of(found[finding], every=every)}"
            for finding, said, every in (
                ("unsettled", "which is better is not settled", "any of the"),
                ("unseen", "no difference between A and B was seen", "any of the"),
                ("same", "A and B are the same", "all"),
            )
            if found[finding]
        ]
        first = [f"{contradict}{', and '.join(told)}."] if told else []
        second = "; ".join(rest)
        return " ".join([*first, *([f"{second[0].upper()}{second[1:]}."] if second else [])])

    def _of(
        self, metrics: Sequence[MetricComparison], *, differences: bool = False, every: str = "all"
    ) -> str:
        """The metrics by their titles, with their differences where these are asked for."""
        titles = [
            f"{one.title} ({signed(one.difference, one.digits)})" if differences else one.title
            for one in metrics
        ]
        many = len(metrics) == len(self.metrics) > 2 and not differences
        return f"{every} {len(metrics)} metrics" if many else listed(titles)

    def verdicts(self) -> list[str]:
        """The sentences to read: one a metric, and one where the metrics contradict each other."""
        if self.identical:
            same = "are the same file" if self.same_file else "hold the same captions"
            images = "one image" if self.images == 1 else f"{self.images:,} images"
            return [f"A and B {same} ({images}): there is no difference to test"]
        sentences = [metric.verdict for metric in self.metrics.values()]
        contradiction = self.contradiction()
        return sentences if contradiction is None else [*sentences, contradiction]

    def contradiction(self) -> str | None:
        """One sentence where metrics point in different directions, else None."""
        settled = {
            side: [one.title for one in self.metrics.values() if one.finding == side]
            for side in ("A", "B")
        }
        if settled["A"] and settled["B"]:
            return (
                f"the metrics contradict each other: {listed(settled['B'])} "
                f"{_prefer(settled['B'])} B, {listed(settled['A'])} {_prefer(settled['A'])} A; "
                "they measure different things, so look at the images before choosing"
            )
        for better, other, sign in (("A", "B", 1), ("B", "A", -1)):
            against = [
                metric.title
                for metric in self.metrics.values()
                if metric.finding in ("unseen", "unsettled") and sign * metric.difference > 0
            ]
            if settled[better] and against:
                points = "points" if len(against) == 1 else "point"
                return (
                    f"{listed(settled[better])} {_prefer(settled[better])} {better}; "
                    f"{listed(against)} {points} to {other}, but not significantly"
                )
        return None

    def largest_differences(self, metric: str, top: int) -> LargestDifferences:
        """At most `top` images where B is furthest ahead, and where A is, furthest first."""
        differences = self.metrics[metric].differences
        ahead = np.argsort(-differences, kind="stable")[:top]
        behind = np.argsort(differences, kind="stable")[:top]
        return LargestDifferences(
            [self._difference(metric, int(i)) for i in ahead if differences[i] > 0],
            [self._difference(metric, int(i)) for i in behind if differences[i] < 0],
        )

    def _difference(self, metric: str, index: int) -> ImageDifference:
        found = self.metrics[metric]
        image = found.ids[index]
        return ImageDifference(
            image,
            self.paths.get(image),
            float(found.differences[index]),
            CaptionScore(self.captions_a[image], float(found.raw_a[index])),
            CaptionScore(self.captions_b[image], float(found.raw_b[index])),
            self.references.get(image, []),
        )


def compare_scores(
    a: Mapping[str, Scores], b: Mapping[str, Scores], *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, MetricComparison]:
    """Compare two systems metric by metric: paired bootstrap, paired permutation test, Holm.

    a, b: metric id -> Scores of the same images, in any order. All metrics see the same resamples.
    Raises ValueError where images or metrics are not the same.
    """
    if list(a) != list(b):
        raise ValueError(f"expected the same metrics, got {list(a)} and {list(b)}")
    images = list(next(iter(a.values())).per_image) if a else []
    order = _Order(images)
    pairs = [(order.sums(a[id]), order.sums(b[id])) for id in a] if len(images) > 1 else []
    boots = paired_bootstrap(pairs, resamples=resamples, seed=seed)
    p_values = paired_permutation_each(pairs, permutations=resamples, seed=seed)
    adjusted = holm(p_values)
    tests = zip(boots, p_values, adjusted, strict=True)
    found = {}
    for id in a:
        test = next(tests, None)
        found[id] = _compared(a[id], b[id], images, test, len(a))
    return found


def compare_with_best(
    scores: Mapping[str, Mapping[str, Scores]],
    best: str,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, dict[str, AgainstBest]]:
    """The others less the best one, by metric: name -> metric id -> difference.

    scores: by name, of the same images. All p values are raised for each other. Nothing is said of
    one image.
    """
    others = [name for name in scores if name != best]
    compared = [
        (name, id, one.difference, one.interval, one.p)
        for name in others
        for id, one in compare_scores(
            scores[best], scores[name], resamples=resamples, seed=seed
        ).items()
        if one.interval is not None and one.p is not None
    ]
    adjusted = holm([p for *_, p in compared])
    found: dict[str, dict[str, AgainstBest]] = {name: {} for name in others}
    for (name, id, difference, interval, _), p_holm in zip(compared, adjusted, strict=True):
        found[name][id] = AgainstBest(difference, interval, p_holm)
    return found


def _compared(
    a: Scores,
    b: Scores,
    images: list[str],
    test: tuple[PairedInterval, float, float] | None,
    metrics: int,
) -> MetricComparison:
    raw_a, raw_b = (np.array([s.per_image[image] for image in images]) for s in (a, b))
    differences = comparable(a.metric, raw_b) - comparable(a.metric, raw_a)
    boot, p, p_holm = test if test is not None else (None, None, None)
    is_mean = a.statistics is None
    same = not differences.any() and abs(b.corpus - a.corpus) < 1e-9
    signs = np.sign(differences)
    better = Better(*(int((signs == sign).sum()) for sign in (1, -1, 0)))
    return MetricComparison(
        metric=a.metric,
        title=title_of_scores(a),
        name=a.name if a.name == b.name else f"A {a.name}, B {b.name}",
        a=SideFigure(a.corpus, boot and boot.first),
        b=SideFigure(b.corpus, boot and boot.second),
        difference=b.corpus - a.corpus,
        interval=boot and boot.interval,
        p=p,
        p_holm=p_holm,
        effect_size=cohen_dz(differences) if is_mean and boot is not None else None,
        images=better,
        share_b_better=better.b_better / len(images),
        detectable_difference=boot and detectable_difference(boot.standard_error),
        finding=_finding(boot, p, p_holm, same=same),
        metrics_compared=metrics,
        ids=images,
        raw_a=raw_a,
        raw_b=raw_b,
    )


def _finding(
    boot: PairedInterval | None, p: float | None, p_holm: float | None, *, same: bool
) -> ComparisonFinding:
    if same:
        return "same"
    if boot is None or p is None or p_holm is None:
        return "unknown"
    # two ways to doubt it, and a verdict only where neither does
    beyond_zero = boot.interval.low > 0 or boot.interval.high < 0
    if beyond_zero and p_holm < SIGNIFICANT:
        return "B" if boot.difference > 0 else "A"
    return "unsettled" if beyond_zero or p < SIGNIFICANT else "unseen"


class _Order:
    """Statistics with their rows in one order of images; metrics that share an array go on to."""

    def __init__(self, images: list[str]) -> None:
        self._images = images
        self._sorted: dict[int, tuple[Doubles, Doubles]] = {}

    def sums(self, scores: Scores) -> Sums:
        """The corpus figure of `scores` as sums over images in this order."""
        if scores.per_image.keys() != set(self._images):
            raise ValueError(f"{scores.metric}: expected scores of the same images on both sides")
        values = {image: scores.per_image[image] for image in self._images}
        return replace(scores, per_image=values, statistics=self._rows(scores)).sums()

    def _rows(self, scores: Scores) -> Doubles | None:
        if scores.statistics is None:
            return None
        key = id(scores.statistics)
        if key not in self._sorted:
            row = {image: index for index, image in enumerate(scores.per_image)}
            rows = scores.statistics[[row[image] for image in self._images]]
            # the original is held too: an id is only unique while its object lives
            self._sorted[key] = (scores.statistics, rows)
        return self._sorted[key][1]


def _prefer(titles: Sequence[str]) -> str:
    return "prefers" if len(titles) == 1 else "prefer"


def compare_captions(
    first: ScoredCaptions, second: ScoredCaptions, *, resamples: int, seed: int = 0
) -> Comparison:
    """A and B of the same images; B's images go by the ids that A's file spells.

    Raises MismatchedImages where one of them has an image that the other has not.
    """
    second = by_ids_of(first, second)
    return Comparison(
        a=first.file.source,
        b=second.file.source,
        captions_a=first.candidates,
        captions_b=second.candidates,
        references=first.references,
        metrics=compare_scores(first.scores, second.scores, resamples=resamples, seed=seed),
        same_file=first.file.sha256 == second.file.sha256,
        paths={image: file.name for image, file in first.images.items()},
    )


def read_comparison(run: Run) -> Comparison:
    """A comparison from the run folder of `captune compare`. Raises DamagedRun."""
    records = list(run.typed_records(CompareRecord))
    figures = run.typed_metrics(CompareMetrics)
    ids = [record.image for record in records]

    def read(id: str, found: ComparedMetric) -> MetricComparison:
        return MetricComparison(
            **asdict(found),
            metric=id,
            title=found.name.removeprefix("A ").partition("[")[0].strip() or id,
            metrics_compared=len(figures.metrics),
            ids=ids,
            raw_a=np.array([record.a.scores[id] for record in records]),
            raw_b=np.array([record.b.scores[id] for record in records]),
        )

    return Comparison(
        a=figures.a,
        b=figures.b,
        captions_a={record.image: record.a.caption for record in records},
        captions_b={record.image: record.b.caption for record in records},
        references={record.image: record.references for record in records},
        metrics={id: read(id, found) for id, found in figures.metrics.items()},
        paths={record.image: record.path for record in records if record.path},
    )
