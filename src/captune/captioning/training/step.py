"""One training step, in the order in which it happens:

1. `Batches` (batches.py) names some images and k captions of each: a list of `BatchItem`.
2. `collate` looks up their grids, token ids and tags: a dictionary of tensors.
3. `CaptionModel.forward` (model.py) projects each image once and reads its k captions.
4. The loss: `CrossEntropy` of people's captions, or `SelfCritical`, the CIDEr-D of sampled ones.
5. The gradient reaches `bridge.*` and `tuning.*` only; all else is frozen. Where memory does not
   suffice, `in_pieces` takes 3 to 5 for a few images at a time.
6. AdamW updates them, by the rates of `learning_rate_groups` (rates.py).

`CaptionTrainer.compute_loss` (trainer.py) calls steps 3 and 4; transformers' Trainer does 5 and 6.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from captune.captioning.model import IGNORED, CaptionModel, Trainable, batch, pad_tags, token_losses
from captune.captioning.rerank import cosines_of
from captune.captioning.training.batches import (
    Batches,
    BatchItem,
    Grids,
    MirroredViews,
    TextGrids,
    drawn_views,
)
from captune.features.batching import AdaptiveBatches
from captune.models.encoders import Floats, ImageTextModel
from captune.options.tuning import TuneOptions
from captune_metrics import ptb
from captune_metrics.cider_d import CiderD
from captune_metrics.corpus import Corpus
from captune_metrics.frequency import DocumentFrequency

Forward = Callable[..., Tensor]  # Trainable.forward, or what accelerate wraps around it
_END = " <end>"


@dataclass(frozen=True)
class TrainingData:
    """keys: of each image's grid. rows: token ids of each caption of each image.

    tags: of the images, where they are read; of several rows of an image an epoch draws one.
    mirrored: second views. pieces: in which memory lets a batch be learnt, in images.
    """

    keys: Sequence[str]
    rows: Sequence[Sequence[Sequence[int]]]
    grids: Grids
    objective: Objective
    tags: Mapping[str, Sequence[Sequence[int]]] | None = None
    mirrored: MirroredViews | None = None
    pieces: AdaptiveBatches = field(
        default_factory=lambda: AdaptiveBatches(sys.maxsize, ", several to each update")
    )

    def batches(self, options: TuneOptions, process: int = 0, processes: int = 1) -> Batches:
        """As the options ask for them."""
        return Batches(
            [[len(row) for row in own] for own in self.rows],
            captions=max(1, options.batch_size // self.objective.captions_per_image),
            per_image=self.objective.per_image or options.per_image,
            mirrored=() if self.mirrored is None else self.mirrored.images,
            seed=options.seed,
            process=process,
            processes=processes,
        )


def collate(
    data: TrainingData, items: Sequence[BatchItem], *, start: int, pad: int
) -> dict[str, Tensor]:
    """Grids [images, tokens, channels]; ids, mask, targets [images * k, n]; images: their numbers.

    And tags [images, w] where the model reads them.
    """
    rows = [data.rows[item.image][place] for item in items for place in item.captions]
    ids, mask, targets = batch(rows, start=start, pad=pad)
    keys = [data.keys[item.image] for item in items]
    grids = drawn_views(data.grids, data.mirrored, keys, [item.mirrored for item in items])
    if isinstance(data.grids, TextGrids):
        data.grids.disturb(grids, keys, [item.seed for item in items])
    images = torch.tensor([item.image for item in items])
    found = {"grids": grids, "ids": ids, "mask": mask, "targets": targets, "images": images}
    if data.tags is not None:
        offered = [data.tags.get(key) or [()] for key in keys]
        drawn = [own[item.drawn % len(own)] for own, item in zip(offered, items, strict=True)]
        found["tags"] = pad_tags(drawn)
    return found


def in_pieces(
    pieces: AdaptiveBatches,
    inputs: Mapping[str, Any],
    trained: Iterable[nn.Parameter],
    learn: Callable[[dict[str, Any], float], Tensor],
) -> Tensor:
    """The loss of a batch of `collate`, of which `pieces` are learnt one after the other.

    learn: the forward and backward pass of some of the images, whose loss counts by the share of
    the batch's targets that it is told: gradients add up to those of the mean over all of them
    (nearly, where captions are drawn anew in each piece: nobody knows their lengths before).
    Raises UserError where memory does not suffice for one image.
    """
    images, parameters = len(inputs["images"]), list(trained)
    targets = (inputs["targets"] != IGNORED).view(images, -1).sum(1).tolist()

    def attempt(some: Sequence[int]) -> Tensor:
        ends = some[0], some[-1] + 1
        piece = {
            name: one[slice(*(end * len(one) // images for end in ends))]
            for name, one in inputs.items()
        }
        before = [parameter.grad for parameter in parameters]
        for parameter in parameters:  # a pass that fails leaves a part of its gradients
            parameter.grad = None
        try:
            loss = learn(piece, sum(targets[slice(*ends)]) / sum(targets))
        except RuntimeError:
            for parameter, known in zip(parameters, before, strict=True):
                parameter.grad = known
            raise
        for parameter, known in zip(parameters, before, strict=True):
            if known is not None:
                parameter.grad = known if parameter.grad is None else known.add_(parameter.grad)
        return loss

    return torch.stack(pieces.each(range(images), attempt)).sum()


class Objective(Protocol):
    """What is learnt from a batch.

    per_image: captions of an image that a step learns; None leaves it to the options.
    captions_per_image: how many captions an image of a batch comes to.
    """

    per_image: int | None
    captions_per_image: int

    def begin(self, model: Trainable) -> None:
        """Told of a model before its first update, also where a training is resumed."""
        ...

    def loss(self, model: Trainable, forward: Forward, inputs: dict[str, Any]) -> Tensor:
        """The loss of a batch of `collate`."""
        ...


class CrossEntropy:
    """Next-token loss of the captions that people wrote."""

    per_image: int | None = None
    captions_per_image: int = 1

    def __init__(self, label_smoothing: float = 0.0) -> None:
        self._smoothing = label_smoothing

    def begin(self, model: Trainable) -> None:
        """Nothing has to be noted."""

    def loss(self, model: Trainable, forward: Forward, inputs: dict[str, Any]) -> Tensor:
        """Trainable.forward."""
        given = {name: tensor for name, tensor in inputs.items() if name != "images"}
        return forward(**given, label_smoothing=self._smoothing)


@dataclass(frozen=True)
class MatchReward:
    """The cosine of image and caption by an image-text model, as a part of the reward.

    vectors: [images, d] of length one, by the images' places. share: of the advantage, from 0 to 1.
    """

    model: ImageTextModel
    vectors: Floats
    share: float

    def mixed(self, advantages: Tensor, images: Sequence[int], texts: Sequence[str]) -> Tensor:
        """[images, samples] of CIDEr-D -> the same of both, each as widely spread as CIDEr-D's."""
        samples = advantages.shape[1]
        each = [texts[start : start + samples] for start in range(0, len(texts), samples)]
        with torch.autocast(self.model.image.device.type, enabled=False):
            found = cosines_of(self.model, self.vectors[images], each)
        own = advantages_of(torch.from_numpy(np.stack(found)).to(advantages.dtype))
        own = own * (advantages.std() / own.std().clamp_min(1e-9))
        return (1 - self.share) * advantages + self.share * own


class SelfCritical:
    """Self-critical sequence training (Rennie et al. 2017) with CIDEr-D as the reward.

    For each image `samples` captions are drawn; a caption's advantage is its reward above the mean
    of the others' (Luo 2020, "A better variant of self-critical sequence training").
    Document frequencies are those of the training references. An end mark is a word of the reward
    (as in Cornia et al. 2020), else captions learn to break off after "on a".
    kl: what the divergence from the model before the first update counts, a token each, as
    `Trainable.forward` estimates it; 0 takes no second pass. match: another part of the reward.
    """

    per_image: int | None = 1  # the batches' own captions are not looked at

    def __init__(
        self,
        captions: Sequence[Sequence[str]],
        rows: Sequence[Any],
        *,
        samples: int,
        max_tokens: int,
        kl: float = 0.0,
        match: MatchReward | None = None,
    ) -> None:
        """captions, rows: of each image, as TrainingData's, which names images by their places."""
        references = {str(place): list(own) for place, own in enumerate(captions) if rows[place]}
        table = DocumentFrequency.counted(
            Corpus(dict.fromkeys(references, ""), references, "ptb and an end mark", _with_end)
        )
        self._cider = CiderD(table, _with_end)
        self._indexed = self._cider.index(references)
        self._max_tokens = max_tokens
        self.captions_per_image = samples
        self._kl, self._match = kl, match
        self._start: dict[str, Tensor] = {}

    def begin(self, model: Trainable) -> None:
        """Note the weights that the model is to stay near to."""
        if self._kl:
            self._start = {name: one.detach().clone() for name, one in model.trained().items()}

    def loss(self, model: Trainable, forward: Forward, inputs: dict[str, Any]) -> Tensor:
        """The sampled captions' log-probabilities, each weighed by its advantage."""
        assert isinstance(model, CaptionModel)  # checks.py refuses others
        samples, decoder, tags = self.captions_per_image, model.decoder, inputs.get("tags")
        rows = model.sample(
            inputs["grids"], samples=samples, max_tokens=self._max_tokens, tags=tags
        )
        images, texts = inputs["images"].tolist(), decoder.decode(rows)
        references = [self._indexed[str(place)] for place in images for _ in range(samples)]
        rewards = self._cider.score(texts, references)
        advantages = advantages_of(torch.from_numpy(rewards).view(-1, samples))
        if self._match is not None:
            advantages = self._match.mixed(advantages, images, texts)
        ids, mask, targets = batch(
            rows, start=decoder.start_id, pad=decoder.pad_id, device=decoder.device
        )
        given: dict[str, Any] = {"grids": inputs["grids"], "ids": ids, "mask": mask}
        given |= {"targets": targets, "tags": tags}
        how: dict[str, Any] = {"weights": advantages.flatten().float().to(decoder.device)}
        if self._kl:
            with torch.no_grad(), model.with_weights(self._start):
                how |= {"reference": -token_losses(*model.logits_at_targets(**given))}
            how["kl"] = self._kl
        return forward(**given, **how)


def advantages_of(rewards: Tensor) -> Tensor:
    """[images, samples] -> the same: each reward less the mean of the image's others."""
    others = rewards.shape[1] - 1
    return (rewards - rewards.mean(dim=1, keepdim=True)) * (rewards.shape[1] / others)


def _with_end(captions: list[str]) -> list[str]:
    return [text + _END for text in ptb.tokenize_each(captions)]
