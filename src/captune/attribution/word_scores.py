"""The score of a word at its steps, its gradient by the grid, many grids under one caption.

Of which tokens a word is made: `captioning.caption.word_pieces`; at which steps they stand:
captioned_image.py.

A bridge of cross-attention leaves the blocks before its first layer to the text alone, and the text
is the same in every row. So one row goes through them, and its hidden states stand for all rows' at
the first block with cross-attention.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from captune.attribution.captioned_image import CaptionedImage
from captune.attribution.vlm_image import AnyModel
from captune.captioning.bridge.cross_attention import CrossAttention
from captune.captioning.model import IGNORED, CaptionModel
from captune.errors import UserError
from captune_metrics.display import quoted

ROWS_AT_ONCE = 64  # captions of one pass: as fast a row as more are, and little memory
_LOGITS_AT_ONCE = 2**28


@dataclass(frozen=True)
class WordTarget:
    """A word's pieces at their steps, or the one step at which it parts from another word.

    ids: the token at each step. against: the other word's token at the only step, or
    None where the word stands alone.
    """

    steps: tuple[int, ...]
    ids: tuple[int, ...]
    against: int | None = None


def word_targets(
    captioned: CaptionedImage, words: Sequence[int] | None = None, against: str | None = None
) -> list[WordTarget]:
    """One target per word; words: numbers in `captioned.spans`, None for `captioned.words`.

    Raises UserError where a word and the other one begin with the same tokens to the end of either:
    at no step is the captioner asked to choose between the two.
    """
    chosen = range(len(captioned.words)) if words is None else words
    return [_target(captioned, word, against) for word in chosen]


def scores_of(
    captioned: CaptionedImage, grids: Tensor, targets: Sequence[WordTarget], *, paired: bool = False
) -> Tensor:
    """Scores [n, targets] where the captioner sees `grids` [n, tokens, channels]; natural logs.

    Of a word: the log-probability of its pieces. Of a word against another: the difference of the
    two log-probabilities. paired: row i is asked for target i alone -> [n]. By one teacher-forced
    pass, which takes part in gradients; without them call it under `torch.no_grad()`.
    """
    wanted = [[target] for target in targets] if paired else [list(targets)] * len(grids)
    rows = [sorted({step for target in own for step in target.steps}) for own in wanted]
    logits = logits_at(captioned, grids, rows)
    found, begun = [], 0
    for own, steps in zip(wanted, rows, strict=True):
        known = logits[begun : begun + len(steps)]
        begun += len(steps)
        where = {step: index for index, step in enumerate(steps)}
        scores = [_score(known[[where[p] for p in t.steps]], t) for t in own]
        found.append(torch.stack(scores))
    stacked = torch.stack(found)
    return stacked[:, 0] if paired else stacked


def rows_at_once(captioned: CaptionedImage, targets: Sequence[WordTarget]) -> int:
    """How many grids `scores_of` takes at once: fewer where a long caption has many logits."""
    steps = len({step for target in targets for step in target.steps})
    logits = steps * captioned.model.decoder.vocabulary
    return max(1, min(ROWS_AT_ONCE, _LOGITS_AT_ONCE // logits))


def gradients_at(captioned: CaptionedImage, grid: Tensor, targets: Sequence[WordTarget]) -> Tensor:
    """Gradient of each target's score by a grid [1, tokens, channels]: [targets, tokens, channels].

    By passes of at most ROWS_AT_ONCE rows; of a model of transformers, whose passes are large, by
    one, and back once for each target.
    """
    parts = []
    with torch.enable_grad():
        if captioned.reader is not None:
            leaf = grid.detach().requires_grad_()
            scores = scores_of(captioned, leaf, targets)[0]
            return torch.cat(
                [torch.autograd.grad(one, leaf, retain_graph=True)[0] for one in scores]
            )
        for start in range(0, len(targets), ROWS_AT_ONCE):
            some = targets[start : start + ROWS_AT_ONCE]
            grids = grid.detach().repeat(len(some), 1, 1).requires_grad_()
            scores = scores_of(captioned, grids, some, paired=True)
            parts.append(torch.autograd.grad(scores.sum(), grids)[0])
    return torch.cat(parts)


def logits_at(captioned: CaptionedImage, grids: Tensor, steps: Sequence[Sequence[int]]) -> Tensor:
    """Logits [all steps, vocabulary] float32, row by row; steps: the steps asked for of each row.

    The rows are the caption so far as it is needed. Rows may be a multiple of the grids; those of
    one grid stand together.
    """
    model = captioned.model
    length = max(step for row in steps for step in row) + 1
    device = model.decoder.device
    ids = torch.tensor([model.decoder.start_id, *captioned.ids[: length - 1]], device=device)
    targets = torch.full((len(steps), length), IGNORED, device=device)
    for index, row in enumerate(steps):
        targets[index, list(row)] = 0  # only where there is one counts
    known = None if captioned.known is None else captioned.known.expand(len(grids), -1)

    def logits(images: int, rows: int) -> Tensor:
        own = ids.expand(rows, -1)
        words = None if known is None else known[:images]
        found, _ = model.logits_at_targets(
            grids[:images], own, torch.ones_like(own), targets[:rows], words
        )
        return found.float()

    if len(steps) == 1:
        return logits(1, 1)
    with reuse_prefix(model, lambda: logits(1, 1)):
        return logits(len(grids), len(steps))


def score_of_logits(logits: Tensor, target: WordTarget) -> Tensor:
    """The logits of a target's tokens, not normalised: what relevance rules begin from.

    logits: [its steps, vocabulary].
    """
    own = logits[range(len(target.ids)), list(target.ids)].sum()
    return own if target.against is None else own - logits[0, target.against]


def _score(logits: Tensor, target: WordTarget) -> Tensor:
    if target.against is not None:
        return score_of_logits(logits, target)  # the normaliser is the same
    chosen = logits[range(len(target.ids)), list(target.ids)]
    return (chosen - logits.logsumexp(dim=-1)).sum()


def _target(captioned: CaptionedImage, word: int, against: str | None) -> WordTarget:
    span = captioned.spans[word]
    own = tuple(captioned.ids[step] for step in span.steps)
    if against is None:
        return WordTarget(span.steps, own)
    other = _ids_at(captioned, span.steps[0], against)
    for step, mine, theirs in zip(span.steps, own, other, strict=False):
        if mine != theirs:
            return WordTarget((step,), (mine,), theirs)
    raise UserError(
        f"{quoted(against)} against {quoted(span.word)}: both begin with the same tokens, so at no"
        " step does the captioner choose between them; take another word"
    )


def _ids_at(captioned: CaptionedImage, step: int, word: str) -> list[int]:
    """The ids that `word` would have as the caption's next word after its first `step` tokens."""
    decoder = captioned.model.decoder
    text = " ".join(word.split())
    before = captioned.ids[:step]
    (alone,) = decoder.encode([text])
    (behind,) = decoder.encode([f" {text}"])
    ids = behind if decoder.decode([before])[0].strip() else alone
    if not ids or decoder.decode([ids])[0].strip() != text:
        raise UserError(
            f"{quoted(word)}: the captioner cannot write it, so nothing can be held against it;"
            " take another word"
        )
    return ids


def first_cross_attention_block(captioner: AnyModel) -> int:
    """How many of the decoder's blocks read text alone; 0 where that is not known."""
    bridge = captioner.bridge
    return min(bridge.places) if isinstance(bridge, CrossAttention) else 0


@contextmanager
def reuse_prefix(captioner: AnyModel, one_row: Callable[[], object]) -> Iterator[None]:
    """In the block, the rows of a pass skip the blocks that one row has been through.

    one_row: a pass over one of the rows, which are all the same text. For passes without gradients
    and without a cache; others go their usual way.
    """
    count = first_cross_attention_block(captioner)
    if count == 0 or torch.is_grad_enabled() or not isinstance(captioner, CaptionModel):
        yield
        return
    blocks = captioner.parts.blocks
    hidden, forms = _once(blocks[: count + 1], one_row)

    def enter(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            return (hidden.expand(len(args[0]), -1, -1), *args[1:]), kwargs
        stands = hidden.expand(len(kwargs["hidden_states"]), -1, -1)
        return args, {**kwargs, "hidden_states": stands}

    with ExitStack() as stack:
        # before the bridge's own hook, which remembers what its block is given
        first = blocks[count]
        stack.enter_context(first.register_forward_pre_hook(enter, with_kwargs=True, prepend=True))
        for block, form in zip(blocks[:count], forms, strict=True):
            stack.callback(block.__dict__.pop, "forward", None)
            block.forward = _passing(form)
        yield


class _Known(Exception):
    """All that was wanted of a pass is known; the rest of it is left out."""


def _once(
    blocks: Sequence[nn.Module], one_row: Callable[[], object]
) -> tuple[Tensor, list[type[Any]]]:
    """What the last of `blocks` is given in a pass, and what kind of thing the others return."""
    found: list[Tensor] = []
    forms: list[type[Any]] = []

    def catch(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found.append(args[0] if args else kwargs["hidden_states"])
        raise _Known

    def note(block: nn.Module, args: Any, output: Any) -> None:
        forms.append(type(output))

    with ExitStack() as stack:
        last = blocks[-1]
        stack.enter_context(last.register_forward_pre_hook(catch, with_kwargs=True, prepend=True))
        for block in blocks[:-1]:
            stack.enter_context(block.register_forward_hook(note))
        with suppress(_Known):
            one_row()
    return found[0], forms


def _passing(form: type[Any]) -> Any:
    """A block's forward that gives back what it is given, in the form that the block returns."""

    def forward(hidden_states: Tensor, *_: Any, **__: Any) -> Any:
        return (hidden_states,) if issubclass(form, tuple) else hidden_states

    return forward
