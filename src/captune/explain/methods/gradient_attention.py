"""Attention weighed by its gradient: where looking made the word likelier (Chefer et al. 2021).

For a looking layer with weights A and the gradient of the word's logit by them, a map is
    mean over heads of the positive part of (gradient x A)                      (eq. 5)
at the step that predicted the word. Over all layers it is the sum: the published rules with the
decoder's own attention left out. `relevance` takes that in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from captune.captioning.model import Captioner
from captune.explain.methods import Choice, MapMethod, looking_layers, on_patches
from captune.explain.subject import Subject
from captune.explain.targets import Target, logits_at, score_of_logits, targets_of
from captune.explain.weighing import weighed


@dataclass(frozen=True)
class Explained:
    """What the rules read, of r pieces of words: one row of the pass a piece.

    cross: of each looking layer, [r, n, tokens]. own: of each block's self-attention, [r, n, n].
    Both are the mean over heads of the positive part of gradient x weights.
    behind: of each looking layer, the block behind whose self-attention it stands.
    places: [r], the step that predicted each piece. words: [r], which word it is of, from 0.
    """

    cross: dict[int, Tensor]
    own: dict[int, Tensor]
    behind: dict[int, int]
    places: Tensor
    words: Tensor

    def of_words(self, values: Tensor) -> Tensor:
        """Maps of pieces [r, tokens] -> of words [words, tokens], the mean over their pieces."""
        count = int(self.words.max()) + 1
        total = values.new_zeros(count, values.shape[1]).index_add(0, self.words, values)
        return total / torch.bincount(self.words, minlength=count)[:, None]


class GradientAttention(MapMethod):
    """See the module's text. A word of several pieces has the mean of their maps."""

    name = "gradient-attention"

    def choices(self, captioner: Captioner) -> list[Choice]:
        """The sum of all layers, then each."""
        layers = looking_layers(captioner, self.name)
        return [Choice(), *(Choice(layer) for layer in range(len(layers)))]

    def maps_of(
        self, captioner: Captioner, subject: Subject, choice: Choice, targets: Sequence[Target]
    ) -> Tensor:
        """As `MapMethod.maps_of`."""
        return self._maps(explained(captioner, subject, targets), choice, subject)

    def maps_of_all(
        self, captioner: Captioner, subject: Subject, words: Sequence[int]
    ) -> dict[Choice, Tensor]:
        """Every layer from one pass and its gradients."""
        found = explained(captioner, subject, targets_of(captioner, subject, words))
        return {choice: self._maps(found, choice, subject) for choice in self.choices(captioner)}

    def _maps(self, found: Explained, choice: Choice, subject: Subject) -> Tensor:
        rows = torch.arange(len(found.places), device=found.places.device)
        layers = [
            values[rows, found.places]
            for layer, values in found.cross.items()
            if choice.layer in (layer, None)
        ]
        return on_patches(found.of_words(torch.stack(layers).sum(dim=0)), subject)


def explained(
    captioner: Captioner,
    subject: Subject,
    targets: Sequence[Target],
    *,
    self_attention: bool = False,
) -> Explained:
    """One pass in which every piece of every word has a row, and the gradients of their logits."""
    pieces = [
        (number, Target((place,), (id,), target.against))
        for number, target in enumerate(targets)
        for place, id in zip(target.places, target.ids, strict=True)
    ]
    steps = [piece.places for _, piece in pieces]
    with torch.enable_grad():
        with weighed(captioner, self_attention=self_attention) as weights:
            logits = logits_at(captioner, subject, subject.grid, steps)
        pairs = zip(logits, pieces, strict=True)
        # the rows do not see each other: the gradient of the sum is that of each row's own score
        total = torch.stack([score_of_logits(own[None], piece) for own, (_, piece) in pairs]).sum()
        return Explained(
            _rule_5(total, weights.cross, weights.over_image),
            _rule_5(total, weights.own, weights.over_text),
            weights.behind,
            torch.tensor([places[0] for places in steps], device=logits.device),
            torch.tensor([number for number, _ in pieces], device=logits.device),
        )


def _rule_5(
    score: Tensor, weights: Mapping[int, Tensor], read: Callable[[Tensor], Tensor]
) -> dict[int, Tensor]:
    """Mean over heads of the positive part of gradient x weights: [r, n, t] of each."""
    if not weights:
        return {}
    # the last block's later places have no way to the score
    gradients = torch.autograd.grad(
        score, list(weights.values()), retain_graph=True, materialize_grads=True
    )
    return {
        place: read((gradient * own).detach().float()).clamp_min(0).mean(dim=1)
        for (place, own), gradient in zip(weights.items(), gradients, strict=True)
    }


METHOD = GradientAttention()
