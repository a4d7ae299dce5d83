"""The metrics by name: what each needs and means, and those of other packages.

A plugin is a function (candidates, references) -> Scores under the entry point group
`captune.metrics`; what it gives is held to what intervals and recipes rely on. What it does
wrong is its package's fault, and the user reads which package that is.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from captune_metrics.display import did_you_mean, printable, quoted
from captune_metrics.errors import UserError
from captune_metrics.plugins import plugins_of, source_of
from captune_metrics.resampling import Doubles, OfSums
from captune_metrics.scores import Candidates, References, Scores

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from captune_metrics.corpus import Corpus
    from captune_metrics.frequency import DocumentFrequency

METRIC_PLUGINS = "captune.metrics"  # the group of entry points
LOG_PROBABILITY = "log-probability"  # mean per token, by the captioner itself
_LEADING = ("cider", "clipscore", "ref_clipscore", "meteor", "bleu_4", "rouge_l")
BLEU = ("bleu_1", "bleu_2", "bleu_3", "bleu_4")


@dataclass(frozen=True)
class Metric:
    """One score of captions.

    label: as papers write it, for tables. kind: whose pass makes it ("text", "clip", "meteor", or
    "plugin" for a third party's). Higher is better for all of them.
    """

    id: str
    label: str
    kind: str
    needs_references: bool = True
    needs_images: bool = False


_OWN = {
    metric.id: metric
    for metric in (
        *(Metric(f"bleu_{n}", f"BLEU-{n}", "text") for n in range(1, 5)),
        Metric("rouge_l", "ROUGE-L", "text"),
        Metric("cider", "CIDEr-D", "text"),
        Metric("cider_original", "CIDEr", "text"),
        Metric("clipscore", "CLIPScore", "clip", needs_references=False, needs_images=True),
        Metric("ref_clipscore", "RefCLIPScore", "clip", needs_images=True),
        Metric("clipscore_hw3", "CLIPScore (hw3)", "clip", False, needs_images=True),
        Metric("meteor", "METEOR", "meteor"),
    )
}


def _squeezed(text: str) -> str:
    """`CLIPScore (hw3)` and `clipscore_hw3` are one spelling."""
    return re.sub(r"[^a-z0-9]", "", text.lower())


# CIDEr is what everyone calls CIDEr-D, so only "cider_original" means the one without the D
_ALIASES = {
    **{_squeezed(metric.label): metric.id for metric in _OWN.values()},
    **{_squeezed(id): id for id in _OWN},
    **{f"b{n}": f"bleu_{n}" for n in range(1, 5)},
    "bleu": "bleu",
    "rouge": "rouge_l",
    "clips": "clipscore",
    "refclips": "ref_clipscore",
}


def metric_id(text: str) -> str:
    """The id of a metric as people and tables spell it: cider for `CIDEr-D`, bleu_4 for `bleu@4`.

    `bleu` stays as it is: it means all four. What is not ours is only written as ids are.
    """
    return _ALIASES.get(_squeezed(text)) or plugin_id(text)


def is_metric(id: str) -> bool:
    """Whether `--metrics` takes it: ours, a third party's, or `bleu` for all four."""
    return id in _OWN or id == "bleu" or id in plugins()


def metric_of(id: str) -> Metric:
    """The metric called `id`, ours or a third party's. Raises UserError for an unknown one."""
    if id in _OWN:
        return _OWN[id]
    if id in plugins():
        return Metric(id, id, "plugin")
    known = ["bleu", *_OWN, *plugins()]
    raise UserError(
        f'metric "{printable(id)}" is not known; choose among {", ".join(known)}'
        f"{did_you_mean(id, known)}"
    )


def parse_metrics(text: str) -> list[Metric]:
    """The metrics that `--metrics` names, each once, in the order asked; `bleu` is all four.

    Raises UserError for an unknown name, and where there is none.
    """
    words = [metric_id(word) for word in text.split(",") if word.strip()]
    ids = dict.fromkeys(id for word in words for id in (BLEU if word == "bleu" else (word,)))
    if not ids:
        raise UserError(f"--metrics {quoted(text)} names no metric; try bleu,rouge_l,cider")
    return [metric_of(id) for id in ids]


def passes_of(
    metrics: Iterable[Metric], corpus: Corpus, df: DocumentFrequency | None
) -> list[Callable[[], dict[str, Scores]]]:
    """What computes those of the metrics that compare words: id -> Scores, of BLEU all at once."""
    from captune_metrics.bleu_n import bleu_of
    from captune_metrics.cider_d import cider_of, cider_original_of
    from captune_metrics.meteor_java import meteor_of
    from captune_metrics.rouge import rouge_l_of

    passes: dict[str, Callable[[], dict[str, Scores]]] = {
        **dict.fromkeys(BLEU, partial(bleu_of, corpus)),
        "rouge_l": lambda: {"rouge_l": rouge_l_of(corpus)},
        "cider": lambda: {"cider": cider_of(corpus, df)},
        "cider_original": lambda: {"cider_original": cider_original_of(corpus, df)},
        "meteor": lambda: {"meteor": meteor_of(corpus)},
    }
    return list(dict.fromkeys(passes[metric.id] for metric in metrics if metric.id in passes))


def plugin_id(name: str) -> str:
    """The id of an entry point: `My-Metric` is asked for as my_metric, however it is spelled."""
    return name.strip().lower().replace("-", "_")


def plugins() -> dict[str, EntryPoint]:
    """Id -> entry point. Of two with one id the first counts; captune's own names come before."""
    found: dict[str, EntryPoint] = {}
    for point in plugins_of(METRIC_PLUGINS).values():
        found.setdefault(plugin_id(point.name), point)
    return found


def sources() -> dict[str, str]:
    """Id -> the package that brings it, without importing any."""
    return {**dict.fromkeys(_OWN, "captune"), **{id: source_of(p) for id, p in plugins().items()}}


def score_with_plugin(id: str, candidates: Candidates, references: References) -> Scores:
    """The scores of the plugin `id`; package and version stand in the recipe.

    Raises UserError, naming metric and package, where it cannot be loaded, fails or gives something
    that is no score.
    """
    point = plugins()[id]
    plugin = _Plugin(id, point)
    result = plugin.call("cannot be loaded", point.load)
    given = (dict(candidates), {image: list(texts) for image, texts in references.items()})
    scores = plugin.call("failed", result, *given)
    return plugin.checked(scores, list(candidates))


class _Plugin:
    """One metric of another package, and the sentences about it."""

    def __init__(self, id: str, point: EntryPoint) -> None:
        self.id = id
        self.package = point.dist.name if point.dist else point.module
        self.version = point.dist.version if point.dist else None
        self.shown = printable(f"metric {id} of {self.package} {self.version or ''}").rstrip()

    def call(self, what: str, function: Callable[..., Any], *given: Any) -> Any:
        """What `function` returns. Raises UserError for whatever it raises."""
        try:
            return function(*given)
        except Exception as error:
            about = printable(f"{type(error).__name__}: {error}")
            raise UserError(
                f"{self.shown}: {what} ({about}); ask its authors, or leave it out of --metrics"
            ) from error

    def wrong(self, what: str) -> UserError:
        """The package gives something that is no score."""
        return UserError(f"{self.shown}: {what}; please fix that package")

    def checked(self, scores: Any, images: list[str]) -> Scores:
        """The scores, if they are what `Scores` says: finite numbers, text, JSON."""
        if not isinstance(scores, Scores):
            raise self.wrong(f"returned {type(scores).__name__}, not captune_metrics.Scores")
        per_image = scores.per_image
        if not isinstance(per_image, Mapping) or list(per_image) != images:
            raise self.wrong("must give one score per image, in the order of the candidates")
        if not all(map(_is_finite, [scores.corpus, *per_image.values()])):
            raise self.wrong("gave a score that is not a finite number")
        scores = replace(
            scores,
            metric=self.id,
            corpus=float(scores.corpus),
            per_image={image: float(value) for image, value in per_image.items()},
            recipe=self._recipe(scores.recipe),
            title=self._texts("title", [scores.title])[0],
            details=self._texts("details", scores.details),
            notes=self._texts("notes", scores.notes),
        )
        return self._with_sums(scores)

    def _recipe(self, recipe: Any) -> dict[str, Any]:
        try:
            plain = json.loads(json.dumps(recipe, allow_nan=False))
        except (TypeError, ValueError, RecursionError):
            plain = None
        if not isinstance(plain, dict):
            raise self.wrong("its recipe is not a JSON object")
        return {**plain, "package": self.package, "package_version": self.version}

    def _texts(self, what: str, texts: Any) -> tuple[str, ...]:
        is_list = isinstance(texts, Iterable) and not isinstance(texts, str)
        found = tuple(texts) if is_list else ()
        if not is_list or not all(isinstance(text, str) for text in found):
            raise self.wrong(f"its {what} must be text")
        return tuple(map(printable, found))

    def _with_sums(self, scores: Scores) -> Scores:
        """The interval rests on the sums, so they have to give the figure itself."""
        n = len(scores.per_image)
        if (scores.statistics is None) != (scores.of_sums is None):
            raise self.wrong("`statistics` and `of_sums` belong together; it gives one of them")
        if scores.statistics is None or scores.of_sums is None:
            mean = math.fsum(scores.per_image.values()) / n
            if not math.isclose(scores.corpus, mean, rel_tol=1e-6, abs_tol=1e-9):
                raise self.wrong(
                    "its corpus score is not the mean of its images, so it must give `statistics`"
                    " and `of_sums`; without them no interval belongs to it"
                )
            return scores
        rows = self.call("its `statistics` are not numbers", np.asarray, scores.statistics, float)
        if rows.ndim != 2 or len(rows) != n or not np.isfinite(rows).all():
            raise self.wrong(f"its `statistics` must be {n} rows of finite numbers")
        of_sums = self._of_sums(scores.of_sums)
        figure = float(of_sums(rows.sum(axis=0)[None], n)[0])
        if not math.isclose(figure, scores.corpus, rel_tol=1e-6, abs_tol=1e-9):
            raise self.wrong("its `of_sums` of all images is not its corpus score")
        return replace(scores, statistics=rows, of_sums=of_sums)

    def _of_sums(self, of_sums: Any) -> OfSums:
        def checked(sums: Doubles, n: int) -> Doubles:
            found = self.call("its `of_sums` failed", of_sums, sums, n)
            values = self.call("its `of_sums` gives no numbers", np.asarray, found, float)
            if values.shape != (len(sums),) or not np.isfinite(values).all():
                raise self.wrong("its `of_sums` must give one finite figure per row of sums")
            return np.asarray(values, dtype=np.float64)

        return checked


def _is_finite(value: Any) -> bool:
    try:
        return not isinstance(value, bool) and isinstance(value, Real) and math.isfinite(value)
    except OverflowError:  # a whole number beyond all floats
        return False


# for a reader who has never met the score
_MEANINGS = {
    "cider": "How far a caption uses the words and phrases that people used for the same image,"
    " those that tell images apart counting most: 0 means nothing in common; higher is better.",
    "cider_original": "As CIDEr-D, without its guard against repeated words.",
    "clipscore": "How well caption and image match according to a model, without any caption by"
    " people; comparable only between figures of the same model.",
    "clipscore_hw3": "How well caption and image match according to a model, as the assignment"
    " computes it.",
    "ref_clipscore": "CLIPScore and the likeness to people's captions in one number.",
    "bleu_4": "Fraction of its four-word sequences that are in people's captions of the image: 0"
    " none, 1 all. Hard on short captions.",
    "bleu_1": "Fraction of its words that are in people's captions of the image: 0 none, 1 all.",
    "rouge_l": "How much of people's captions it says in the same order: 0 nothing, 1 all.",
    "meteor": "Words in common with people's captions, word forms and synonyms counted: 0 to 1.",
}


def meaning_of(metric: str) -> str:
    """A sentence, or nothing for a metric that is not ours."""
    return _MEANINGS.get(metric, "")


def title_of(metric: str) -> str:
    """The metric as papers write it; a third party's by its id."""
    try:
        return metric_of(metric).label
    except UserError:
        return metric


def leading(metrics: Sequence[str]) -> list[str]:
    """The scores that a page quotes: the usual ones first, of the four BLEUs the last."""
    known = [id for id in _LEADING if id in metrics]
    others = [id for id in metrics if id not in known and not id.startswith("bleu_")]
    return [*known, *(id for id in others if id != LOG_PROBABILITY)]


def label_of(metric: str) -> str:
    """As `title_of`; the captioner's own score has one too."""
    return "log-probability per token" if metric == LOG_PROBABILITY else title_of(metric)
