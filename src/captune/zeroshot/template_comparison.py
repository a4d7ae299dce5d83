"""Which prompt template is best for these images, and how sure is that?

All templates look at the same images, encoded once, so they are compared in pairs: only images that
one has right and the other wrong tell them apart (McNemar), which sees smaller differences than two
intervals side by side. Logits are worked through in parts and never kept.

And does the model read "not"? Templates that deny the class ("This is not a photo of {object}")
score almost as well as those that name it, although a reader who understood them would answer with
any class but the right one. `probe_negation` shows why: it asks the same images with both, and
measures how little the word "not" changes. (Known of CLIP from Singh et al. 2024, "Learn 'No' to
say 'Yes' better", and Alhamoud et al. 2025, "Vision-language models do not understand negation".)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from captune.models.encoders import Floats, normalise
from captune.runs import Run
from captune.runs.metrics import Calibration, ClassChange, NegationProbe, PromptsMetrics
from captune.runs.records import PromptsRecord
from captune.statistics import holm, mcnemar_exact, paired_difference, wilson
from captune.zeroshot.calibration import Activation, Booleans, Integers, calibrate, top_confidence
from captune_metrics.display import Interval
from captune_metrics.resampling import Doubles

LOGITS_AT_ONCE = 2_000_000  # 8 MB
TOP = 5
_ENSEMBLE = "ensemble of these "


@dataclass(frozen=True)
class TemplateDifference:
    """One template against the best one, on the same images.

    gained, lost: images that only this template, only the best has right. difference: in accuracy,
    -1..1, with its 95 % interval (Bonett and Price 2012). p_value: exact McNemar; p_holm: the same
    raised for the number of templates compared (Holm 1979): below 0.05 the difference is not luck.
    """

    gained: int
    lost: int
    difference: float
    interval: Interval
    p_value: float
    p_holm: float


@dataclass(frozen=True)
class TemplateResult:
    """How one template fared. Whatever needs the truth is None without it.

    predicted [n]: index of the label put first; confidence [n]: its probability. correct [n]: False
    where the truth is unknown. top5_accuracy: None for five labels or fewer. class_correct [m]:
    right images of each class. against_best: None for the best itself.
    """

    template: str
    predicted: Integers
    confidence: Floats
    correct: Booleans | None = None
    accuracy: float | None = None
    interval: Interval | None = None
    top5_accuracy: float | None = None
    class_correct: Integers | None = None
    calibration: Calibration | None = None
    against_best: TemplateDifference | None = None

    @property
    def mean_confidence(self) -> float:
        """Mean probability of the label put first, over all images."""
        return float(self.confidence.mean()) if self.confidence.size else 0.0


@dataclass(frozen=True)
class TemplateComparison:
    """Templates side by side on n images, of which `known` have a truth.

    results: in the order given; the last is the ensemble where `ensemble` holds its position.
    best: position of the highest accuracy, the first among equals; None without truth. It is chosen
        on the very images it is measured on, so it flatters: its own accuracy is a little too high
        on new images, and p values against it are a little too small.
    agreement [t, t]: share of images to which two templates answer the same.
    """

    labels: tuple[str, ...]
    results: tuple[TemplateResult, ...]
    images: int
    known: int
    best: int | None
    ensemble: int | None
    class_images: Integers | None
    agreement: Doubles

    def class_changes(self, index: int, top: int | None = None) -> list[ClassChange]:
        """Classes that the template at `index` has right more or less often than the best.

        Largest change in images first, then in share; classes that keep their count are left out.
        """
        if self.best is None or self.class_images is None:
            return []
        ours, best = self.results[index].class_correct, self.results[self.best].class_correct
        assert ours is not None
        assert best is not None
        changes = [
            ClassChange(
                label=self.labels[i],
                images=int(self.class_images[i]),
                change=int(ours[i] - best[i]),
                share=float((ours[i] - best[i]) / self.class_images[i]),
                correct=int(ours[i]),
            )
            for i in np.flatnonzero(ours != best)
        ]
        changes.sort(key=lambda change: (-abs(change.change), -abs(change.share)))
        return changes[:top]

    def rows(self) -> list[dict[str, str | int | float | bool | None]]:
        """One flat row a template for a CSV or JSON table; None where there is nothing to say."""
        return [self._row(index) for index in range(len(self.results))]

    def _row(self, index: int) -> dict[str, str | int | float | bool | None]:
        result = self.results[index]
        against, calibration = result.against_best, result.calibration
        raw = calibration.raw if calibration else None
        scaled = calibration.scaled if calibration else None
        low, high = result.interval or (None, None)
        return {
            "template": result.template,
            "images": self.images,
            "with_truth": self.known,
            "accuracy": result.accuracy,
            "accuracy_low": low,
            "accuracy_high": high,
            "top5_accuracy": result.top5_accuracy,
            "best": index == self.best,
            "difference": against.difference if against else None,
            "difference_low": against.interval.low if against else None,
            "difference_high": against.interval.high if against else None,
            "gained": against.gained if against else None,
            "lost": against.lost if against else None,
            "p_value": against.p_value if against else None,
            "p_holm": against.p_holm if against else None,
            # where no best is known, the first template stands in
            "same_as_best": None if self.best is None else float(self.agreement[index, self.best]),
            "same_as_first": float(self.agreement[index, 0]),
            "mean_confidence": result.mean_confidence,
            "ece": raw.ece if raw else None,
            "adaptive_ece": raw.adaptive_ece if raw else None,
            "ece_floor": raw.ece_floor if raw else None,
            "nll": raw.nll if raw else None,
            "temperature": calibration.temperature if calibration else None,
            "scaled_ece": scaled.ece if scaled else None,
            "scaled_ece_floor": scaled.ece_floor if scaled else None,
            "scaled_nll": scaled.nll if scaled else None,
        }


def read_template_comparison(run: Run) -> TemplateComparison:
    """The comparison that `captune prompts` wrote into a run, for its figures.

    Raises DamagedRun.
    """
    metrics, records = run.typed_metrics(PromptsMetrics), list(run.typed_records(PromptsRecord))
    names = metrics.label_names or {}
    # without names, a label that no image has and no prompt answers is not known
    answered = {answer.id for record in records for answer in record.answers}
    ids = list(names) or sorted(answered | {record.truth for record in records if record.truth})
    place = {id: i for i, id in enumerate(ids)}
    truth = np.array([-1 if r.truth is None else place[r.truth] for r in records], dtype=np.intp)
    known = np.flatnonzero(truth >= 0)
    results = []
    for i, row in enumerate(metrics.prompts):
        answers = [record.answers[i] for record in records]
        predicted = np.array([place[answer.id] for answer in answers], dtype=np.intp)
        confidence = np.array([answer.probability for answer in answers], dtype=np.float32)
        result = TemplateResult(row.template, predicted, confidence)
        if row.accuracy is not None:
            result = _judged(result, truth, known, len(ids))
            result = replace(
                result, top5_accuracy=row.top5_accuracy, calibration=metrics.calibration[i]
            )
        results.append(result)
    if metrics.best is not None:
        results = list(_against(results, metrics.best, known))
    ends_with_ensemble = results[-1].template.startswith(_ENSEMBLE)
    return TemplateComparison(
        labels=tuple(names.get(id, id) for id in ids),
        results=tuple(results),
        images=len(records),
        known=known.size,
        best=metrics.best,
        ensemble=len(results) - 1 if ends_with_ensemble else None,
        class_images=np.bincount(truth[known], minlength=len(ids)) if known.size else None,
        agreement=np.array(metrics.agreement, dtype=np.float64),
    )


def compare_templates(
    templates: Iterable[tuple[str, Floats]],
    image_features: Floats,
    labels: Sequence[str],
    logits: Callable[[Floats, Floats], Floats],
    *,
    activation: Activation = "softmax",
    truth: Integers | None = None,
    ensemble: bool = True,
    calibration: bool = True,
) -> TemplateComparison:
    """Compares templates on images that were encoded once.

    templates: (template, text_features [m, d]) in the order to report, one text a label; may be a
        generator, one template is held at a time. image_features [n, d]: of all images.
    logits: image features [k, d], text features [m, d] -> logits [k, m]: `ImageTextModel.logits`.
    truth: index of the right label [n], -1 where unknown; None or all -1: no accuracies.
    ensemble: with two templates or more, also the mean of their normalised text features.
    Raises ValueError without a template, or when truth and image_features, or labels and text
    features, differ in length.
    """
    known = _known(truth, len(image_features), len(labels))

    def evaluate(template: str, features: Floats) -> TemplateResult:
        return _evaluate(
            template, image_features, features, logits, activation, truth, known, calibration
        )

    results: list[TemplateResult] = []
    total: Floats | None = None
    for template, text_features in templates:
        if len(text_features) != len(labels):
            raise ValueError(f"{template}: {len(text_features)} texts for {len(labels)} labels")
        results.append(evaluate(template, text_features))
        if ensemble:
            unit = normalise(text_features)
            total = unit if total is None else total + unit
    if not results:
        raise ValueError("expected at least one template to compare")
    ensemble_at = None
    if total is not None and len(results) > 1:
        ensemble_at = len(results)
        results.append(evaluate(f"{_ENSEMBLE}{ensemble_at} (mean)", normalise(total)))
    best = None
    if known.size:
        best = max(range(len(results)), key=lambda index: results[index].accuracy or 0.0)
        results = list(_against(results, best, known))
    answers = [result.predicted for result in results]
    agreement = np.array([[np.mean(a == b) if a.size else 1.0 for b in answers] for a in answers])
    return TemplateComparison(
        labels=tuple(labels),
        results=tuple(results),
        images=len(image_features),
        known=known.size,
        best=best,
        ensemble=ensemble_at,
        class_images=(
            np.bincount(truth[known], minlength=len(labels))
            if truth is not None and known.size
            else None
        ),
        agreement=agreement,
    )


def _known(truth: Integers | None, images: int, labels: int) -> Integers:
    if truth is None:
        return np.empty(0, dtype=np.intp)
    if len(truth) != images or (images and truth.max() >= labels):
        raise ValueError(f"{len(truth)} truths for {images} images and {labels} labels do not fit")
    return np.flatnonzero(truth >= 0)


def _evaluate(
    template: str,
    image_features: Floats,
    text_features: Floats,
    logits: Callable[[Floats, Floats], Floats],
    activation: Activation,
    truth: Integers | None,
    known: Integers,
    with_calibration: bool,
) -> TemplateResult:
    images, labels = len(image_features), len(text_features)
    at_once = max(1, LOGITS_AT_ONCE // labels)
    predicted = np.empty(images, dtype=np.intp)
    confidence = np.empty(images, dtype=np.float32)
    among_top = 0
    for start in range(0, images, at_once):
        part = slice(start, start + at_once)
        scores = logits(image_features[part], text_features)
        predicted[part] = scores.argmax(axis=1)
        confidence[part] = top_confidence(scores, activation)
        if truth is not None and known.size:
            among_top += int((_rank(scores, truth[part]) < TOP)[truth[part] >= 0].sum())
    result = TemplateResult(template, predicted, confidence)
    if truth is None or not known.size:
        return result
    return replace(
        _judged(result, truth, known, labels),
        top5_accuracy=among_top / known.size if labels > TOP else None,
        calibration=calibrate(
            lambda rows: logits(image_features[known[rows]], text_features),
            truth[known],
            activation,
            rows_at_once=at_once,
        )
        if with_calibration
        else None,
    )


def _judged(
    result: TemplateResult, truth: Integers, known: Integers, labels: int
) -> TemplateResult:
    """With what the answers and the truth determine."""
    correct = (result.predicted == truth) & (truth >= 0)
    right = int(correct.sum())
    return replace(
        result,
        correct=correct,
        accuracy=right / known.size,
        interval=wilson(right, known.size),
        class_correct=np.bincount(truth[correct], minlength=labels),
    )


def _rank(scores: Floats, truth: Integers) -> Integers:
    """How many labels come before the right one [k]; among equals the first label comes first."""
    right = np.take_along_axis(scores, truth[:, None], axis=1)
    before = np.arange(scores.shape[1])[None, :] < truth[:, None]
    rank: Integers = ((scores > right) | ((scores == right) & before)).sum(axis=1)
    return rank


def _against(
    results: Sequence[TemplateResult], best: int, known: Integers
) -> Iterator[TemplateResult]:
    """The results, each with its comparison with the best."""
    reference = results[best].correct
    assert reference is not None
    counts: dict[int, tuple[int, int]] = {}
    for index, result in enumerate(results):
        assert result.correct is not None
        gained = int((result.correct & ~reference).sum())
        counts[index] = (gained, int((reference & ~result.correct).sum()))
    del counts[best]
    p_values = {index: mcnemar_exact(*count) for index, count in counts.items()}
    adjusted = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    for index, result in enumerate(results):
        if index == best:
            yield result
            continue
        gained, lost = counts[index]
        against = TemplateDifference(
            gained=gained,
            lost=lost,
            difference=(gained - lost) / known.size,
            interval=paired_difference(gained, lost, known.size),
            p_value=p_values[index],
            p_holm=adjusted[index],
        )
        yield replace(result, against_best=against)


def probe_negation(
    template: str,
    negated: str,
    image_features: Floats,
    text_features: Floats,
    negated_features: Floats,
    logits: Callable[[Floats, Floats], Floats],
    truth: Integers | None = None,
) -> NegationProbe:
    """Measures what "not" does to the answers about n images and m classes.

    image_features [n, d]; text_features and negated_features [m, d], one row a class, of the
    template and of its negation (`prompts.negate`); logits: `ImageTextModel.logits`; truth [n], -1
    where unknown (where any is known, only those images are probed).
    """
    rows = np.arange(len(image_features))
    if truth is not None and (truth >= 0).any():
        rows = np.flatnonzero(truth >= 0)
    else:
        truth = None
    images, classes = len(rows), len(text_features)
    same = right = wins = elsewhere = 0
    at_once = max(1, LOGITS_AT_ONCE // classes)
    for start in range(0, images, at_once):
        part = rows[start : start + at_once]
        plain = logits(image_features[part], text_features)
        denied = logits(image_features[part], negated_features)
        answer = plain.argmax(axis=1)
        asked = answer if truth is None else truth[part]
        same += int((denied.argmax(axis=1) == answer).sum())
        right += int((denied.argmax(axis=1) == asked).sum())
        higher = denied > plain
        won = int(higher[np.arange(len(part)), asked].sum())
        wins += won
        elsewhere += int(higher.sum()) - won
    plain_texts, denied_texts = normalise(text_features), normalise(negated_features)
    others = max(classes - 1, 0)
    # the sum over all pairs is the squared length of the sum, so no [m, m] matrix is needed
    pairs = float((plain_texts.sum(axis=0, dtype=np.float64) ** 2).sum()) - classes
    return NegationProbe(
        template=template,
        negated=negated,
        images=images,
        **_share("same_answer", same, images),
        **_share("right_answer", None if truth is None else right, images),
        **_share("denial_wins", wins, images),
        denial_wins_elsewhere=elsewhere / (images * others) if images * others else None,
        text_cosine=float((plain_texts * denied_texts).sum(axis=1).mean()),
        class_cosine=pairs / (classes * others) if others else None,
    )


def _share(name: str, count: int | None, images: int) -> dict[str, Any]:
    none = (None, None, None)
    values = none if count is None else (count / max(images, 1), *wilson(count, images))
    return dict(zip((name, f"{name}_low", f"{name}_high"), values, strict=True))
