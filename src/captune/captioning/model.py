"""The captioner: a frozen image encoder's patch grid, a trained bridge, a frozen decoder, a method.

grid [images, tokens, channels]      from the frozen encoder, cached
  -> bridge.project                  keys/values (or soft tokens), once an image
  -> decoder                         k captions (or beams) an image read them
  -> next-token loss, or words
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from captune.captioning.bridge import Bridge, Context, GridShape, ImageStates, Words
from captune.captioning.recipe import Recipe
from captune.captioning.structure import DecoderParts, find_parts
from captune.captioning.token_loss import token_losses
from captune.captioning.tuning import TuningMethod
from captune.errors import UserError
from captune.models.decoders import Decoder
from captune.models.encoders import ImageTextModel

IGNORED = -100  # a place where there is nothing: no loss is taken there, as everywhere in torch


@dataclass(frozen=True)
class Written:
    """What the decoder wrote for each image.

    ids: without start, end and padding. log_probabilities: of each id, and of the end where it
    came, by one teacher-forced pass over the finished caption; nothing where it was left out.
    """

    ids: list[list[int]]
    log_probabilities: list[list[float]]


class Captioner(nn.Module):
    """Frozen decoder plus what is trained: `bridge` and `tuning`.

    tuning comes first, then the bridge: peft wraps the bare decoder's layers only.
    What is trained stays in float32, whatever the precision of the decoder is.
    """

    def __init__(
        self, decoder: Decoder, bridge: Bridge, tuning: TuningMethod, grid: GridShape
    ) -> None:
        super().__init__()
        # how it was made, what it sees through and what tells it words: known of a loaded one
        self.recipe: Recipe | None = None
        self.image_model: ImageTextModel | None = None
        self.words_model: ImageTextModel | None = None
        self.decoder = decoder
        self.grid = grid
        self.parts: DecoderParts = find_parts(decoder.module)
        self.context = Context()
        self.language_model: nn.Module = decoder.module
        self._takes_positions = "position_ids" in signature(decoder.module.forward).parameters
        self.bridge = bridge
        self.tuning = tuning
        tuning.attach(decoder.module, self.parts, bridge)
        self._handles = bridge.attach(self.parts, self.context)

    def detach(self) -> None:
        """Give the decoder back as it was."""
        for handle in self._handles:
            handle.remove()
        self.tuning.detach()

    def trained(self) -> dict[str, nn.Parameter]:
        """What is trained, by name: `bridge.*` and `tuning.*`; nothing else has a gradient."""
        found = {f"bridge.{name}": p for name, p in self.bridge.named_parameters()}
        found |= {f"tuning.{name}": p for name, p in self.tuning.named_trained()}
        return found

    def forward(
        self,
        grids: Tensor,
        ids: Tensor,
        mask: Tensor,
        targets: Tensor,
        label_smoothing: float = 0.0,
        words: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        """Mean next-token loss of the captions of a batch of images.

        grids: [images, tokens, channels]. ids, mask, targets: [images * k, n]; the k captions of an
        image stand together; targets are IGNORED where there is nothing to learn.
        words: as for `project`. weights: [images * k], what each caption's tokens count.
        """
        logits, wanted = self.logits_at_targets(grids, ids, mask, targets, words)
        each = token_losses(logits, wanted, label_smoothing)
        if weights is None:
            return each.mean()
        return (each * weights[:, None].expand_as(targets)[targets != IGNORED]).mean()

    def logits_at_targets(
        self,
        grids: Tensor,
        ids: Tensor,
        mask: Tensor,
        targets: Tensor,
        words: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """([targets, vocabulary], [targets]): the head runs only where there is a target."""
        kept = targets != IGNORED
        return self._logits_at(kept, ids, mask, self.project(grids, words)), targets[kept]

    def logits(
        self, grids: Tensor, ids: Tensor, mask: Tensor, words: Tensor | None = None
    ) -> Tensor:
        """Next-token logits everywhere: [images * k, n, vocabulary]."""
        everywhere = torch.ones_like(ids, dtype=torch.bool)
        logits = self._logits_at(everywhere, ids, mask, self.project(grids, words))
        return logits.view(*ids.shape, -1)

    def project(self, grids: Tensor, words: Tensor | None = None) -> ImageStates:
        """Grids [images, tokens, channels], in any precision, -> what the decoder reads of them.

        words: [images, w], token ids of a text that is known of each image before its caption,
        IGNORED where there is none; for the bridges that read one. Raises UserError where there are
        none, and the captioner was trained with some.
        """
        known = None
        if words is None and self.recipe is not None and self.recipe.known_words is not None:
            raise UserError(
                "this captioner was trained with known words of each image, and they are not made"
                " here; take one of another bridge"
            )
        if words is not None:
            embedded = self.decoder.module.get_input_embeddings()(words.clamp_min(0))
            known = Words(embedded.float(), words != IGNORED)
        return self.bridge.project(grids.float(), known)

    @torch.inference_mode()
    def write(
        self,
        grids: Tensor,
        *,
        beams: int = 1,
        max_tokens: int = 60,
        words: Tensor | None = None,
        scored: bool = True,
    ) -> Written:
        """Captions of a batch of images by transformers' generate, greedy or by beam search.

        scored: with log-probabilities, which take another pass over the finished captions.
        """
        states = self.project(grids, words)
        with self._looking_at(states), self._without_dropout():
            prompt = self._prompt(states, self.decoder.start_id)
            sequences = self.decoder.module.generate(
                **prompt,
                num_beams=beams,
                do_sample=False,
                max_new_tokens=max_tokens,
                eos_token_id=self.decoder.end_id,
                pad_token_id=self.decoder.pad_id,
            )
            begun = 0 if "inputs_embeds" in prompt else 1
            ends = [_until(row[begun:], self.decoder.end_id) for row in sequences.tolist()]
            chosen = self._log_probabilities(states, ends) if scored else [[] for _ in ends]
        if not all(math.isfinite(value) for row in chosen for value in row):
            raise UserError(
                "the captioner computes probabilities that are no numbers: its weights are damaged,"
                " or beyond the precision (--dtype float32)"
            )
        end = self.decoder.end_id
        return Written([[id for id in row if id != end] for row in ends], chosen)

    @torch.no_grad()
    def sample(
        self, grids: Tensor, *, samples: int, max_tokens: int = 60, words: Tensor | None = None
    ) -> list[list[int]]:
        """Captions drawn from the model, `samples` of each image one after the other.

        Token ids, with the end where it came: what `batch` takes.
        """
        states = self.project(grids, words)
        with self._looking_at(states), self._without_dropout():
            prompt = self._prompt(states, self.decoder.start_id)
            sequences = self.decoder.module.generate(
                **prompt,
                do_sample=True,
                top_k=0,  # transformers' default is 50
                num_return_sequences=samples,
                max_new_tokens=max_tokens,
                eos_token_id=self.decoder.end_id,
                pad_token_id=self.decoder.pad_id,
            )
        begun = 0 if "inputs_embeds" in prompt else 1
        return [_until(row[begun:], self.decoder.end_id) for row in sequences.tolist()]

    def _log_probabilities(self, states: ImageStates, rows: list[list[int]]) -> list[list[float]]:
        """Of each token of each row [images], given the image and what stands before it."""
        ids, mask, targets = batch(
            rows, start=self.decoder.start_id, pad=self.decoder.pad_id, device=self.decoder.device
        )
        kept = targets != IGNORED
        logits = self._logits_at(kept, ids, mask, states).float()
        flat: list[float] = (-F.cross_entropy(logits, targets[kept], reduction="none")).tolist()
        ends = list(accumulate(map(len, rows)))
        return [flat[end - len(row) : end] for row, end in zip(rows, ends, strict=True)]

    def _prompt(self, states: ImageStates, start: int) -> dict[str, Tensor]:
        """What generation begins with: the start token, after soft tokens where there are any."""
        ids = torch.full((states.images, 1), start, device=self.decoder.device)
        return self._inputs(ids, torch.ones_like(ids), states)

    def _inputs(self, ids: Tensor, mask: Tensor, states: ImageStates) -> dict[str, Tensor]:
        """What the decoder is called with: [rows, n], or [rows, m + n] with m soft tokens."""
        if states.soft_tokens is None:
            return {"input_ids": ids, "attention_mask": mask}
        embedded = self.decoder.module.get_input_embeddings()(ids)
        soft = states.soft_tokens.repeat_interleave(len(ids) // states.images, dim=0)
        embedded = torch.cat([soft.to(embedded.dtype), embedded], dim=1)
        mask = torch.cat([mask.new_ones(soft.shape[:2]), mask], dim=1)
        return {"inputs_embeds": embedded, "attention_mask": mask}

    def _logits_at(self, kept: Tensor, ids: Tensor, mask: Tensor, states: ImageStates) -> Tensor:
        """Next-token logits [places, vocabulary] at the places of `kept` [rows, n].

        The head sees these places only, and the decoder itself does what its family does behind
        the head (Gemma caps the logits, Cohere and Granite scale them).
        """
        inputs = self._inputs(ids, mask, states)
        mask = inputs["attention_mask"]
        if self._takes_positions:
            inputs["position_ids"] = _positions(mask)
        kept = F.pad(kept, (mask.shape[1] - ids.shape[1], 0))
        head: nn.Module = self.decoder.module.get_output_embeddings()
        narrowing = head.register_forward_pre_hook(lambda _, args: (args[0][kept][None],))
        try:
            with self._looking_at(states):
                logits: Tensor = self.decoder.module(**inputs, use_cache=False).logits
        finally:
            narrowing.remove()
        return logits.squeeze(0)  # of which the backward pass copies nothing

    @contextmanager
    def _without_dropout(self) -> Iterator[None]:
        modes = {module: module.training for module in self.modules()}
        self.eval()
        try:
            yield
        finally:
            for module, training in modes.items():
                module.training = training

    @contextmanager
    def _looking_at(self, states: ImageStates) -> Iterator[None]:
        before, self.context.states = self.context.states, states
        try:
            yield
        finally:
            self.context.states = before


def batch(
    rows: Sequence[Sequence[int]], *, start: int, pad: int, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of token ids to learn -> (ids, mask, targets), each [rows, n], padded on the right.

    ids begin with `start`; the target at each place is the id that follows.
    """
    length = max(map(len, rows))
    ids = torch.full((len(rows), length), pad)
    targets = torch.full((len(rows), length), IGNORED)
    mask = torch.zeros((len(rows), length), dtype=torch.long)
    for i, row in enumerate(rows):
        known = torch.tensor(row, dtype=torch.long)
        ids[i, 0] = start
        ids[i, 1 : len(row)] = known[:-1]
        targets[i, : len(row)] = known
        mask[i, : len(row)] = 1
    return ids.to(device), mask.to(device), targets.to(device)


def pad_words(rows: Sequence[Sequence[int]], device: torch.device | str = "cpu") -> Tensor:
    """Token ids of a known text of each image -> [images, w], IGNORED where a row has ended."""
    width = max([1, *map(len, rows)])
    padded = [[*row, *[IGNORED] * (width - len(row))] for row in rows]
    return torch.tensor(padded, dtype=torch.long, device=device)


def _positions(mask: Tensor) -> Tensor:
    """[rows, n] -> places of the tokens; padding, also behind soft tokens, is not counted."""
    return (mask.cumsum(dim=1) - 1).clamp_min(0)


def _until(row: list[int], end: int) -> list[int]:
    """Up to and with the first end; all of it where none came."""
    return row[: row.index(end) + 1] if end in row else row
