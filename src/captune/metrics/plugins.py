"""Metrics of other packages, by entry point; what they give is held to what captune relies on.

A plugin is a function (candidates, references) -> Scores under the group `captune.metrics`. What it
does wrong is its package's fault, and the user reads which package that is.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from captune.errors import UserError
from captune.files import printable
from captune.metrics.scores import Candidates, OfSums, References, Scores

_GROUP = "captune.metrics"


def plugin_id(name: str) -> str:
    """The id of an entry point: `My-Metric` is asked for as my_metric, however it is spelled."""
    return name.strip().lower().replace("-", "_")


@cache
def plugins() -> dict[str, EntryPoint]:
    """Id -> entry point. Of two with one id the first counts; captune's own names come before."""
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=_GROUP):
        found.setdefault(plugin_id(point.name), point)
    return found


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
        return UserError(f"{self.shown}: {what}; its package has to be mended")

    def checked(self, scores: Any, images: list[str]) -> Scores:
        """The scores, if they are what `Scores` says: finite numbers, text, JSON."""
        if not isinstance(scores, Scores):
            raise self.wrong(f"returned {type(scores).__name__}, not captune.metrics.Scores")
        per_image = scores.per_image
        if not isinstance(per_image, Mapping) or list(per_image) != images:
            raise self.wrong("must give one score an image, in the order of the candidates")
        if not all(map(_is_finite, [scores.corpus, *per_image.values()])):
            raise self.wrong("gave a score that is no finite number")
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
            raise self.wrong("its recipe is no JSON object")
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
        rows = self.call("its `statistics` are no numbers", np.asarray, scores.statistics, float)
        if rows.ndim != 2 or len(rows) != n or not np.isfinite(rows).all():
            raise self.wrong(f"its `statistics` must be {n} rows of finite numbers")
        of_sums = self._of_sums(scores.of_sums)
        figure = float(of_sums(rows.sum(axis=0)[None], n)[0])
        if not math.isclose(figure, scores.corpus, rel_tol=1e-6, abs_tol=1e-9):
            raise self.wrong("its `of_sums` of all images is not its corpus score")
        return replace(scores, statistics=rows, of_sums=of_sums)

    def _of_sums(self, of_sums: Any) -> OfSums:
        def checked(sums: NDArray[np.float64], n: int) -> NDArray[np.float64]:
            found = self.call("its `of_sums` failed", of_sums, sums, n)
            values = self.call("its `of_sums` gives no numbers", np.asarray, found, float)
            if values.shape != (len(sums),) or not np.isfinite(values).all():
                raise self.wrong("its `of_sums` must give one finite figure a row of sums")
            return np.asarray(values, dtype=np.float64)

        return checked


def _is_finite(value: Any) -> bool:
    try:
        return not isinstance(value, bool) and isinstance(value, Real) and math.isfinite(value)
    except OverflowError:  # a whole number beyond all floats
        return False
