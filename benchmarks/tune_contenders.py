"""Ways to train a captioner: captune's batches and loss, and plain loops.

All of them train the same bridge and the same LoRA matrices in the same frozen decoder with AdamW;
they differ in what a batch is, in what is computed of it, and in how: the plain ones run peft's own
layers, transformers' own loss and torch's default attention.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from captune.captioning.model import IGNORED, CaptionModel, batch
from captune.captioning.training.batches import Batches, BatchItem
from captune.captioning.tuning.lora import FastLoRALinear
from captune.models.devices import attention_kernel, autocast

CAPTIONS = Path(__file__).resolve().parents[2] / "shared/data/flickr8k/captions_train.json"
# SmolLM2's tokens a caption of Flickr8k's train set, the end included: 5, 10, ..., 95 % of them
TOKENS = (8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13, 14, 15, 15, 16, 16, 18, 19, 21)
PER_IMAGE = 5
RATE, DECAY, CLIP = 5e-4, 1e-2, 1.0


Features = Callable[[Sequence[int]], Tensor]  # places of images -> [n, tokens, channels]


def rows_of(decoder: Any, images: int) -> tuple[list[list[list[int]]], str]:
    """Token ids of five captions of each image, the end included, and where they are from."""
    if CAPTIONS.is_file():
        content = json.loads(CAPTIONS.read_text(encoding="utf-8"))
        captions: dict[Any, list[str]] = {}
        for entry in content["annotations"]:
            captions.setdefault(entry["image_id"], []).append(entry["caption"])
        chosen = random.Random(0).sample(
            [own for own in captions.values() if len(own) >= PER_IMAGE], images
        )
        encoded = iter(decoder.encode([c.strip() for own in chosen for c in own[:PER_IMAGE]]))
        source = "captions of Flickr8k"
        rows = [[[*next(encoded), decoder.end_id] for _ in range(PER_IMAGE)] for _ in chosen]
        return rows, source
    return made_up_rows(decoder.vocabulary, decoder.end_id, images), "captions of made-up words"


def made_up_rows(vocabulary: int, end: int, images: int) -> list[list[list[int]]]:
    """As long as Flickr8k's captions, of words drawn at random."""
    chance = random.Random(0)
    return [
        [
            [*(chance.randrange(vocabulary) for _ in range(chance.choice(TOKENS) - 1)), end]
            for _ in range(PER_IMAGE)
        ]
        for _ in range(images)
    ]


@dataclass(frozen=True)
class Learnt:
    """What a way went through: captions and their target tokens, and the mean loss of a token."""

    captions: int
    tokens: int
    loss: float


class Training:
    """A captioner and its twin, some captions, and the ways to go through batches of an epoch.

    twin: built as the captioner was; plain loops train it, with peft's own layers.
    features: the grids of images, wherever they come from. size: captions a batch, about.
    precision: float32, or what autocast computes in.
    """

    def __init__(
        self,
        captioner: CaptionModel,
        twin: CaptionModel,
        rows: list[list[list[int]]],
        features: Features,
        size: int,
        precision: str = "float32",
    ) -> None:
        self.captioner = captioner
        self.twin = with_peft_s_layers(twin)
        self.rows = rows
        self.features = features
        self.size = size
        self.precision = precision
        self.trained = list(captioner.trained().values())
        self._optimizers = {
            id(one): torch.optim.AdamW(
                one.trained().values(), lr=RATE, weight_decay=DECAY, fused=True
            )
            for one in (captioner, twin)
        }
        self._batches = Batches([[len(row) for row in own] for own in rows], captions=size)
        captioner.eval()  # nothing here has a dropout
        twin.eval()

    def captune(self, epoch: int, steps: int) -> Learnt:
        """All five captions of an image together, close in length, the head on targets only."""
        chosen = self._batches.of_epoch(epoch)[:steps]
        return self._learn(self.captioner, map(self._captune_loss, chosen))

    def encoding_again(self, epoch: int, steps: int, features: Features) -> Learnt:
        """captune's own steps, but the image of every caption is encoded again."""
        return self._learn(
            self.captioner,
            (
                self._captune_loss(
                    examples, features([e.image for e in examples for _ in e.captions])
                )
                for examples in self._batches.of_epoch(epoch)[:steps]
            ),
        )

    def plain(self, epoch: int, steps: int) -> Learnt:
        """What one writes with transformers and peft.

        Batches in random order, padded to the longest; each caption with an image of its own;
        transformers' loss over the logits of all places.
        """
        return self._learn(self.twin, map(self._plain_loss, self.shuffled(epoch)[:steps]))

    def shuffled(self, epoch: int) -> list[list[tuple[int, int]]]:
        """Batches of (image, caption) in random order."""
        pairs = [(i, place) for i, own in enumerate(self.rows) for place in range(len(own))]
        random.Random(epoch).shuffle(pairs)
        return [pairs[start : start + self.size] for start in range(0, len(pairs), self.size)]

    def flops_a_token(self, steps: int) -> float:
        """Of captune's products, forward and backward, as torch counts them; a target token."""
        known = {torch.ops.aten.addmm_: _addmm_flops}
        with FlopCounterMode(display=False, custom_mapping=known) as counter:
            learnt = self.captune(0, steps)
        return float(counter.get_total_flops() / learnt.tokens)

    def largest_loss_difference(self) -> float:
        """Between the two losses over the same captions: it has to be rounding.

        The twin's weights become those of the captioner.
        """
        own = self.captioner.trained()
        chosen = [BatchItem(image, tuple(range(PER_IMAGE))) for image in range(2)]
        pairs = [(e.image, place) for e in chosen for place in e.captions]
        with torch.no_grad():
            for name, parameter in self.twin.trained().items():
                parameter.copy_(own[name])
            ours, *_ = self._captune_loss(chosen)
            theirs, *_ = self._plain_loss(pairs)
        return abs(float(ours) - float(theirs))

    def _captune_loss(
        self, examples: Sequence[BatchItem], grids: Tensor | None = None
    ) -> tuple[Tensor, int, int]:
        """grids: one a caption, where they were encoded again; only one an image is used."""
        rows = [self.rows[e.image][place] for e in examples for place in e.captions]
        decoder = self.captioner.decoder
        ids, mask, targets = batch(rows, start=decoder.start_id, pad=decoder.pad_id)
        if grids is None:
            grids = self.features([e.image for e in examples])
        else:
            grids = grids[:: len(rows) // len(examples)]
        device = decoder.device
        with attention_kernel(device), autocast(self.precision, device):
            loss = self.captioner(grids, ids, mask, targets)
        return loss, len(rows), sum(map(len, rows))

    def _plain_loss(self, pairs: Sequence[tuple[int, int]]) -> tuple[Tensor, int, int]:
        decoder = self.twin.decoder
        rows = [[decoder.start_id, *self.rows[image][place]] for image, place in pairs]
        longest = max(map(len, rows))
        ids = torch.full((len(rows), longest), decoder.pad_id)
        labels = torch.full_like(ids, IGNORED)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
            labels[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = 1
        grids = self.features([image for image, _ in pairs])
        context, dtype = self.twin.context, getattr(torch, self.precision)
        try:
            with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
                context.states = self.twin.project(grids)
                loss: Tensor = decoder.module(
                    input_ids=ids, attention_mask=mask, labels=labels, use_cache=False
                ).loss
        finally:
            context.states = None
        return loss, len(rows), sum(len(row) - 1 for row in rows)

    def _learn(self, learner: CaptionModel, losses: Iterator[tuple[Tensor, int, int]]) -> Learnt:
        trained, optimizer = list(learner.trained().values()), self._optimizers[id(learner)]
        total, captions, tokens = 0.0, 0, 0
        for loss, rows, targets in losses:
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(trained, CLIP)
            optimizer.step()
            optimizer.zero_grad()
            total += float(loss.detach()) * targets
            captions, tokens = captions + rows, tokens + targets
        return Learnt(captions, tokens, total / tokens)


def with_peft_s_layers(captioner: CaptionModel) -> CaptionModel:
    """The same captioner, its LoRA computed by peft's code alone."""
    for module in captioner.modules():
        if type(module) is FastLoRALinear:
            module.__class__ = FastLoRALinear.__base__
    return captioner


def _addmm_flops(*shapes: Any, **_: Any) -> int:
    """torch counts addmm and not the one in place, of shapes (added to, left, right)."""
    _, left, right = shapes[:3]
    flops: int = 2 * left[0] * left[1] * right[1]
    return flops
