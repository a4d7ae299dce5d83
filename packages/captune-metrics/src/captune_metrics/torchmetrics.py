"""The metrics with torchmetrics' interface: `update`, `compute`, `reset`, `merge_state`.

    from captune_metrics.torchmetrics import CIDErScore

    cider = CIDErScore()
    for images, references in loader:
        cider.update(captioner(images), references)   # ["a dog", ...], [["a dog runs", ...], ...]
    cider.compute()

torch is not imported and no tensor is kept: the state is a list of captions. Across processes,
gather the states as objects, then merge them; a figure of the whole corpus is no mean of figures
of its parts, least of all CIDEr's:

    states = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(states, cider.state())
    whole = CIDErScore()
    for state in states:
        whole.merge_state(state)
    whole.compute()

These are no `torchmetrics.Metric`: in Lightning, log what `compute` returns. torchmetrics' own
BLEU and ROUGE have other tokenizers and other definitions, so their figures differ.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from captune_metrics.bleu_n import bleu_of
from captune_metrics.cider_d import cider_of
from captune_metrics.corpus import ORDERS, Corpus
from captune_metrics.display import named
from captune_metrics.errors import UserError
from captune_metrics.frequency import DocumentFrequency
from captune_metrics.rouge import rouge_l_of

__all__ = ["BLEUScore", "CIDErScore", "CaptionScores", "ROUGELScore", "Sample"]

Figure = TypeVar("Figure", float, dict[str, float])


class Sample(NamedTuple):
    """One image of the state. id: what tells it from others, None where nothing was said."""

    id: str | None
    caption: str
    references: tuple[str, ...]


class _Captions(ABC, Generic[Figure]):
    """What is kept between `reset` and `compute`."""

    def __init__(self) -> None:
        self._samples: list[Sample] = []

    def update(
        self,
        preds: Sequence[str],
        target: Sequence[Sequence[str]],
        ids: Sequence[object] | None = None,
    ) -> None:
        """Add a batch.

        preds: a caption an image. target: the references of each. ids: what tells images apart:
        one that comes again, as a distributed sampler repeats some, then counts once.
        Raises ValueError where the lengths differ.
        """
        names = [None] * len(preds) if ids is None else [str(id) for id in ids]
        if not len(preds) == len(target) == len(names):
            raise ValueError(
                f"{len(preds)} preds, {len(target)} sets of references in target and"
                f" {len(names)} ids: expected as many of each"
            )
        self._samples += [
            Sample(name, caption, (own,) if isinstance(own, str) else tuple(own))
            for name, caption, own in zip(names, preds, target, strict=True)
        ]

    def compute(self) -> Figure:
        """The figure over all that was added since `reset`.

        Raises UserError where nothing was added, for an image without references, and for an id
        with two different captions.
        """
        return self._figure(self._corpus())

    def forward(
        self,
        preds: Sequence[str],
        target: Sequence[Sequence[str]],
        ids: Sequence[object] | None = None,
    ) -> Figure:
        """Add a batch; the figure of this batch alone."""
        before, self._samples = self._samples, []
        try:
            self.update(preds, target, ids)
            return self.compute()
        finally:
            self._samples = before + self._samples

    __call__ = forward

    def reset(self) -> None:
        """Forget all that was added."""
        self._samples = []

    def state(self) -> list[Sample]:
        """What was added: it can be pickled and sent to another process."""
        return list(self._samples)

    def merge_state(self, incoming_state: _Captions[Any] | Sequence[Sample]) -> None:
        """Add what another metric, or its `state()`, has."""
        if isinstance(incoming_state, _Captions):
            incoming_state = incoming_state.state()
        self._samples += incoming_state

    def _corpus(self) -> Corpus:
        images: dict[str, Sample] = {}
        for number, sample in enumerate(self._samples):
            name = f"sample {number}" if sample.id is None else sample.id
            if images.setdefault(name, sample) != sample:
                raise UserError(f"{named([name], 'image')} was added with two different captions")
        return Corpus(
            {name: sample.caption for name, sample in images.items()},
            {name: sample.references for name, sample in images.items()},
        )

    @abstractmethod
    def _figure(self, corpus: Corpus) -> Figure:
        """The figure of a corpus."""


class CIDErScore(_Captions[float]):
    """CIDEr-D, 0..10.

    df: a frozen table of document frequencies, such as `DocumentFrequency.shipped("coco-val2017")`;
        None counts over the references that were added, so the figure of a small batch says little.
    """

    def __init__(self, df: DocumentFrequency | None = None) -> None:
        super().__init__()
        self._df = df

    def _figure(self, corpus: Corpus) -> float:
        return cider_of(corpus, self._df).corpus


class BLEUScore(_Captions[float]):
    """BLEU-n as coco-caption computes it, 0..1; n_gram is 1 to 4."""

    def __init__(self, n_gram: int = ORDERS) -> None:
        super().__init__()
        if not 1 <= n_gram <= ORDERS:
            raise ValueError(f"n_gram = {n_gram}: expected 1 to {ORDERS}")
        self._id = f"bleu_{n_gram}"

    def _figure(self, corpus: Corpus) -> float:
        return bleu_of(corpus)[self._id].corpus


class ROUGELScore(_Captions[float]):
    """ROUGE-L as coco-caption computes it, 0..1."""

    def _figure(self, corpus: Corpus) -> float:
        return rouge_l_of(corpus).corpus


class CaptionScores(_Captions[dict[str, float]]):
    """All of them by name, as `log_dict` takes them: bleu_1 to bleu_4, rouge_l, cider.

    df: as of `CIDErScore`.
    """

    def __init__(self, df: DocumentFrequency | None = None) -> None:
        super().__init__()
        self._df = df

    def _figure(self, corpus: Corpus) -> dict[str, float]:
        scores = [*bleu_of(corpus).values(), rouge_l_of(corpus), cider_of(corpus, self._df)]
        return {score.metric: score.corpus for score in scores}
