"""What a training learns from a batch: people's captions, or the CIDEr of its own captions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from captune.captioning.model import Captioner, batch
from captune.captioning.training.data import CaptionedImages
from captune.metrics import ptb
from captune.metrics.cider import CiderD
from captune.metrics.corpus import Corpus
from captune.metrics.frequency import DocumentFrequency

Forward = Callable[..., Tensor]  # Captioner.forward, or what accelerate wraps around it
_END = " <end>"


class Objective(Protocol):
    """per_image: captions of an image that a step learns; None leaves it to the options.

    captions_an_image: how many captions a photo of a batch comes to.
    """

    per_image: int | None
    captions_an_image: int

    def loss(self, captioner: Captioner, forward: Forward, inputs: dict[str, Any]) -> Tensor:
        """The loss of a batch of `TrainingData.collate`."""
        ...


class CrossEntropy:
    """Next-token loss of the captions people wrote."""

    per_image: int | None = None
    captions_an_image: int = 1

    def __init__(self, label_smoothing: float = 0.0) -> None:
        self._smoothing = label_smoothing

    def loss(self, captioner: Captioner, forward: Forward, inputs: dict[str, Any]) -> Tensor:
        """Captioner.forward."""
        images = {name: tensor for name, tensor in inputs.items() if name != "images"}
        return forward(**images, label_smoothing=self._smoothing)


class SelfCritical:
    """Self-critical sequence training (Rennie et al. 2017) with CIDEr-D as the reward.

    For each image `samples` captions are drawn; a caption's advantage is its reward above the mean
    of the others' (Luo 2020, "A better variant of self-critical sequence training").
    Document frequencies are those of the training references. An end mark is a word of the reward
    (as in Cornia et al. 2020), else captions learn to break off after "on a".
    """

    per_image: int | None = 1  # the batches' own captions are not looked at

    def __init__(
        self, data: CaptionedImages, rows: Sequence[Any], *, samples: int, max_tokens: int
    ) -> None:
        """rows: as TrainingData's, which names images by their places."""
        references = {str(place): own for place, own in enumerate(data.captions) if rows[place]}
        table = DocumentFrequency.counted(
            Corpus(dict.fromkeys(references, ""), references, _with_end, "ptb and an end mark")
        )
        self._cider = CiderD(table, _with_end)
        self._indexed = self._cider.index(references)
        self._max_tokens = max_tokens
        self.captions_an_image = samples

    def loss(self, captioner: Captioner, forward: Forward, inputs: dict[str, Any]) -> Tensor:
        """The sampled captions' log-probabilities, each weighed by its advantage."""
        samples, decoder = self.captions_an_image, captioner.decoder
        words = inputs.get("words")
        rows = captioner.sample(
            inputs["grids"], samples=samples, max_tokens=self._max_tokens, words=words
        )
        places = [str(place) for place in inputs["images"].tolist() for _ in range(samples)]
        rewards = self._cider.score(decoder.decode(rows), [self._indexed[p] for p in places])
        advantages = advantages_of(torch.from_numpy(rewards).view(-1, samples))
        ids, mask, targets = batch(
            rows, start=decoder.start_id, pad=decoder.pad_id, device=decoder.device
        )
        return forward(
            grids=inputs["grids"],
            ids=ids,
            mask=mask,
            targets=targets,
            words=words,
            weights=advantages.flatten().float().to(decoder.device),
        )


def advantages_of(rewards: Tensor) -> Tensor:
    """[images, samples] -> the same: each reward less the mean of the image's others."""
    others = rewards.shape[1] - 1
    return (rewards - rewards.mean(dim=1, keepdim=True)) * (rewards.shape[1] / others)


def unwrapped(model: nn.Module) -> Captioner:
    """The captioner within what accelerate put around it."""
    inner = getattr(model, "module", model)
    assert isinstance(inner, Captioner)
    return inner


def _with_end(captions: list[str]) -> list[str]:
    return [text + _END for text in ptb.tokenize_each(captions)]
