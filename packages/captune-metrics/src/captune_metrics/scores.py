"""What every metric gives back: a figure for the corpus, one for each image, and its recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from itertools import islice
from typing import Any

from captune_metrics.display import Interval, printable
from captune_metrics.resampling import Doubles, OfSums, Sums, bootstrap_each

Candidates = Mapping[str, str]  # image id -> the caption to score
References = Mapping[str, Sequence[str]]  # image id -> the captions it is scored against

_SHOWN = 8  # images in a notebook


@dataclass(frozen=True)
class Scores:
    """One metric over a set of images.

    metric: its id, such as "cider".
    corpus: the figure over all images.
    per_image: image id -> score, in the order of the candidates.
    recipe: all that decides the number, as plain JSON: tokenizer, document frequencies, model, ...
    statistics: [n, k] per-image sums that the corpus figure is a function of; None where the corpus
        figure is the mean of `per_image`.
    of_sums: ([m, k] sums over n images, n) -> [m] corpus figures; None where `statistics` is.
    title, details: what `name` is made of: the metric's usual name, and its recipe in few words.
    notes: sentences that a reader of these numbers has to know.
    """

    metric: str
    corpus: float
    per_image: dict[str, float]
    recipe: dict[str, Any]
    statistics: Doubles | None = field(default=None, compare=False)
    of_sums: OfSums | None = field(default=None, compare=False)
    title: str = ""
    details: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """One line that tells this number from its namesakes: `CIDEr-D[ptb, df=corpus of 5000]`."""
        title = self.title or self.metric
        return f"{title}[{', '.join(self.details)}]" if self.details else title

    def of_subset(self, whole: int) -> Scores:
        """These scores, with a recipe that says that `whole` images have references.

        Scores of some of them compare with those of the same images only.
        """
        images = len(self.per_image)
        if images == whole:
            return self
        return replace(
            self,
            recipe={**self.recipe, "subset_of": whole},
            details=(*self.details, f"{images} of {whole} images"),
        )

    def sums(self) -> Sums:
        """The corpus figure as a function of per-image sums: what it is resampled by.

        That is the mean of the images, unless the metric says more. Raises ValueError for fewer
        than two images.
        """
        if self.statistics is None or self.of_sums is None:
            return Sums.mean(list(self.per_image.values()))
        return Sums(self.statistics, self.of_sums)

    def _repr_html_(self) -> str:
        """For a notebook: the figure, and the first images. No script, and every text is text."""
        rows = "".join(
            f"<tr><td>{_as_html(image)}</td><td>{value:.3f}</td></tr>"
            for image, value in islice(self.per_image.items(), _SHOWN)
        )
        more = len(self.per_image) - _SHOWN
        return (
            f'<div class="captune"><p><b>{_as_html(self.name)}: {self.corpus:.3f}</b></p>'
            f"<table><tr><th>image</th><th>score</th></tr>{rows}</table>"
            f"{f'<p>and {more:,} more</p>' if more > 0 else ''}</div>"
        )


def intervals_of(
    scores: Mapping[str, Scores], *, resamples: int = 10_000, seed: int = 0
) -> dict[str, Interval | None]:
    """A 95 % interval per metric (BCa) by resampling images, the same resamples for all metrics.

    None where there is one image, which says nothing of a spread. What was counted over the whole
    set (document frequencies) is held as it is.
    """
    known = {id: score for id, score in scores.items() if len(score.per_image) > 1}
    found = bootstrap_each(
        [score.sums() for score in known.values()], resamples=resamples, seed=seed
    )
    return {**dict.fromkeys(scores), **dict(zip(known, found, strict=True))}


def _as_html(text: str) -> str:
    return escape(printable(text))
