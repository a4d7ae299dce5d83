"""The caption model: a patch grid, a trained bridge, a frozen decoder, a tuning method.

grid [images, tokens, channels]      from the frozen encoder, cached
  -> bridge.project                  keys/values (or soft tokens), once an image
  -> decoder                         k captions (or beams) an image read them
  -> next-token loss, or words: `generate`, greedy or by beam search
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from captune.captioning.bridge import Bridge, Context, GridShape, ImageStates, TagEmbeddings
from captune.captioning.decoder_parts import DecoderParts, find_parts
from captune.captioning.settings import PROMPT_TOKENS, tag_tokens
from captune.captioning.tuning import TuningMethod
from captune.errors import UserError
from captune.models.decoders import Decoder

IGNORED = -100  # a place where there is nothing: no loss is taken there, as everywhere in torch
_NO_BEAM = -1e8  # transformers scores a beam that is none with -1e9
# logits looked at together: of a CPU's cache, and enough to keep a GPU busy
_AT_ONCE_CPU, _AT_ONCE_GPU = 1 << 19, 1 << 26


@dataclass(frozen=True)
class Generated:
    """The token ids that the decoder wrote for each image.

    ids: without start, end and padding. log_probabilities: of each id, and of the end where it
    came, by one teacher-forced pass over the finished caption; nothing where it was left out.
    candidates: what each was chosen among, where it was.
    """

    ids: list[list[int]]
    log_probabilities: list[list[float]]
    candidates: list[list[Candidate]] | None = None


@dataclass(frozen=True)
class Candidate:
    """A caption of an image that may be chosen, and what speaks for it (`rerank`).

    ids: with the end where it came. match, neighbours: None where they were not looked at.
    """

    ids: list[int]
    caption: str
    mean_log_probability: float
    match: float | None = None
    neighbours: float | None = None
    score: float = 0.0


class CaptionModel(nn.Module):
    """Frozen decoder plus what is trained: `bridge` and `tuning`.

    tuning comes first, then the bridge: peft wraps the bare decoder's layers only.
    What is trained stays in float32, whatever the precision of the decoder is.
    reads_tags: it was, or will be, trained with tags of each image, and is never run without. A
    bridge that reads none has them stand before the caption, as a text.
    """

    def __init__(
        self,
        decoder: Decoder,
        bridge: Bridge,
        tuning: TuningMethod,
        grid: GridShape,
        *,
        reads_tags: bool = False,
    ) -> None:
        super().__init__()
        self.reads_tags = reads_tags
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

    @property
    def tags_are_text(self) -> bool:
        """Whether tags are a text before the caption, since the bridge reads none."""
        return self.reads_tags and not tag_tokens(self.bridge.config)

    @property
    def max_tag_tokens(self) -> int:
        """How many tokens of tags are read of an image."""
        return tag_tokens(self.bridge.config) or PROMPT_TOKENS

    def places_before(self, tags: Tensor | None) -> int:
        """How many positions of the decoder, soft tokens apart, stand before a caption's start."""
        return 0 if tags is None or not self.tags_are_text else tags.shape[1]

    def trained(self) -> dict[str, nn.Parameter]:
        """What is trained, by name: `bridge.*` and `tuning.*`; nothing else has a gradient."""
        found = {f"bridge.{name}": p for name, p in self.bridge.named_parameters()}
        return found | {f"tuning.{name}": p for name, p in self.tuning.named_trained()}

    def forward(
        self,
        grids: Tensor,
        ids: Tensor,
        mask: Tensor,
        targets: Tensor,
        label_smoothing: float = 0.0,
        tags: Tensor | None = None,
        weights: Tensor | None = None,
        reference: Tensor | None = None,
        kl: float = 0.0,
    ) -> Tensor:
        """Mean next-token loss of the captions of a batch of images.

        grids: [images, tokens, channels]. ids, mask, targets: [images * k, n]; the k captions of an
        image stand together; targets are IGNORED where there is nothing to learn.
        tags: as for `project`. weights: [images * k], what each caption's tokens count.
        reference: [targets], log-probabilities by another model, from which `kl` times the
        divergence is added, as captions drawn from this model estimate it: r - log r - 1 for each
        token, r being the other's probability over this one's (GRPO, Shao et al. 2024).
        """
        logits, wanted = self.logits_at_targets(grids, ids, mask, targets, tags)
        each = token_losses(logits, wanted, label_smoothing)
        loss = each
        if weights is not None:
            loss = each * weights[:, None].expand_as(targets)[targets != IGNORED]
        if reference is not None:
            ratio = reference + each
            loss = loss + kl * (ratio.exp() - ratio - 1)
        return loss.mean()

    def logits_at_targets(
        self, grids: Tensor, ids: Tensor, mask: Tensor, targets: Tensor, tags: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """([targets, vocabulary], [targets]): the head runs only where there is a target."""
        kept = targets != IGNORED
        return self._logits_at(kept, ids, mask, self.project(grids, tags)), targets[kept]

    def logits(
        self, grids: Tensor, ids: Tensor, mask: Tensor, tags: Tensor | None = None
    ) -> Tensor:
        """Next-token logits everywhere: [images * k, n, vocabulary]."""
        everywhere = torch.ones_like(ids, dtype=torch.bool)
        logits = self._logits_at(everywhere, ids, mask, self.project(grids, tags))
        return logits.view(*ids.shape, -1)

    def project(self, grids: Tensor, tags: Tensor | None = None) -> ImageStates:
        """Grids [images, tokens, channels], in any precision, -> what the decoder reads of them.

        tags: [images, w], token ids of each image's tags, IGNORED where there are no more; a bridge
        that reads none has them stand before the caption. Raises UserError where there are none,
        and the model was trained with some.
        """
        if tags is None:
            if self.reads_tags:
                raise UserError(
                    "this captioner was trained with tags of each image, and they are not made"
                    " here; take one of another bridge"
                )
            return self.bridge.project(grids.float())
        if self.tags_are_text:
            states = self.bridge.project(grids.float())
            states.prompt = tags
            return states
        embedded = self.decoder.module.get_input_embeddings()(tags.clamp_min(0))
        return self.bridge.project(grids.float(), TagEmbeddings(embedded.float(), tags != IGNORED))

    @torch.inference_mode()
    def generate(
        self,
        grids: Tensor,
        *,
        beams: int = 1,
        max_tokens: int = 60,
        tags: Tensor | None = None,
        scored: bool = True,
        candidates: int = 1,
        judge: Callable[[list[list[Candidate]]], list[list[Candidate]]] | None = None,
    ) -> Generated:
        """Captions of a batch of images by transformers' generate, greedy or by beam search.

        scored: with log-probabilities, which take another pass over the finished captions.
        candidates, judge: the so many best of a beam search that is as wide or wider are given
        scores, and the best of an image by these is its caption.
        """
        states = self.project(grids, tags)
        judged = None
        with self._looking_at(states), self._without_dropout():
            if judge is None:
                ends = self._written(states, max_tokens, num_beams=beams, do_sample=False)
            else:
                judged = judge(self._drafts(states, max_tokens, beams, candidates))
                ends = [max(own, key=lambda one: one.score).ids for own in judged]
            chosen = self._log_probabilities(states, ends) if scored else [[] for _ in ends]
        if not all(math.isfinite(value) for row in chosen for value in row):
            raise UserError(
                "the captioner computes probabilities that are not numbers: its weights are"
                " damaged, or beyond the precision (--dtype float32)"
            )
        end = self.decoder.end_id
        return Generated([[id for id in row if id != end] for row in ends], chosen, judged)

    @torch.no_grad()
    def sample(
        self, grids: Tensor, *, samples: int, max_tokens: int = 60, tags: Tensor | None = None
    ) -> list[list[int]]:
        """Captions drawn from the model, `samples` of each image one after the other.

        Token ids, with the end where it came: what `batch` takes.
        """
        states = self.project(grids, tags)
        with self._looking_at(states), self._without_dropout():
            return self._written(
                states,
                max_tokens,
                do_sample=True,
                top_k=0,  # transformers' default is 50
                num_return_sequences=samples,
            )

    def _drafts(
        self, states: ImageStates, max_tokens: int, beams: int, candidates: int
    ) -> list[list[Candidate]]:
        """The best of the beam search of each image, the likeliest one first."""
        width = max(2, beams, candidates)  # one beam alone is not scored
        found = self._generated(
            states,
            max_tokens,
            num_beams=width,
            num_return_sequences=candidates,
            do_sample=False,
            return_dict_in_generate=True,
            output_scores=True,
        )
        rows = self._ended(found.sequences, states)
        spoken = [[id for id in row if id != self.decoder.end_id] for row in rows]
        texts = (" ".join(text.split()) for text in self.decoder.decode(spoken))
        means = found.sequences_scores.tolist()
        drafts = [Candidate(*parts) for parts in zip(rows, texts, means, strict=True)]
        each = (drafts[i : i + candidates] for i in range(0, len(drafts), candidates))
        # where fewer came to be than were asked for, generate fills up
        return [own[:1] + [one for one in own[1:] if one.mean_log_probability > _NO_BEAM]
                for own in each]  # fmt: skip

    def _written(self, states: ImageStates, max_tokens: int, **how: Any) -> list[list[int]]:
        """Token ids of each caption by transformers' generate, up to and with its end."""
        return self._ended(self._generated(states, max_tokens, **how), states)

    def _generated(self, states: ImageStates, max_tokens: int, **how: Any) -> Any:
        decoder = self.decoder
        start = torch.full((states.images, 1), decoder.start_id, device=decoder.device)
        prompt = self._inputs(start, torch.ones_like(start), states)
        return decoder.module.generate(
            **prompt,
            **how,
            max_new_tokens=max_tokens,
            eos_token_id=decoder.end_id,
            pad_token_id=decoder.pad_id,
        )

    def _ended(self, sequences: Tensor, states: ImageStates) -> list[list[int]]:
        """Rows of generate, up to and with their end."""
        end = self.decoder.end_id
        begun = 0 if states.soft_tokens is not None else 1 + self.places_before(states.prompt)
        rows = (row[begun:] for row in sequences.tolist())
        return [row[: row.index(end) + 1] if end in row else row for row in rows]

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

    def _inputs(self, ids: Tensor, mask: Tensor, states: ImageStates) -> dict[str, Tensor]:
        """What the decoder is called with: [rows, m + w + n], m soft tokens and w of a prompt."""
        if states.prompt is not None:
            ids, mask = self._prompted(ids, mask, states.prompt)
        if states.soft_tokens is None:
            return {"input_ids": ids, "attention_mask": mask}
        embedded = self.decoder.module.get_input_embeddings()(ids)
        soft = states.soft_tokens.repeat_interleave(len(ids) // states.images, dim=0)
        embedded = torch.cat([soft.to(embedded.dtype), embedded], dim=1)
        mask = torch.cat([mask.new_ones(soft.shape[:2]), mask], dim=1)
        return {"inputs_embeds": embedded, "attention_mask": mask}

    def _prompted(self, ids: Tensor, mask: Tensor, prompt: Tensor) -> tuple[Tensor, Tensor]:
        """The start, the prompt, the rest; a shorter prompt has padding before the start.

        So each caption begins at the same position, and without a prompt directly behind its start.
        """
        rows = prompt.repeat_interleave(len(ids) // len(prompt), dim=0)
        head = torch.cat([ids[:, :1], rows], dim=1)
        order = (head != IGNORED).int().argsort(dim=1, stable=True)
        head = head.gather(1, order)
        seen = (head != IGNORED).to(mask.dtype)
        head = head.masked_fill(head == IGNORED, self.decoder.pad_id)
        return torch.cat([head, ids[:, 1:]], dim=1), torch.cat([seen, mask[:, 1:]], dim=1)

    def _logits_at(self, kept: Tensor, ids: Tensor, mask: Tensor, states: ImageStates) -> Tensor:
        """Next-token logits [places, vocabulary] at the places of `kept` [rows, n].

        The head sees these places only, and the decoder itself does what its family does behind
        the head (Gemma caps the logits, Cohere and Granite scale them).
        """
        inputs = self._inputs(ids, mask, states)
        mask = inputs["attention_mask"]
        if self._takes_positions:
            # padding, also behind soft tokens, is not counted
            inputs["position_ids"] = (mask.cumsum(dim=1) - 1).clamp_min(0)
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
    def with_weights(self, others: Mapping[str, Tensor]) -> Iterator[None]:
        """Within, what is trained has these weights, by the names of `trained`, and no dropout."""
        trained = self.trained()
        own = {name: parameter.data for name, parameter in trained.items()}
        try:
            for name, parameter in trained.items():
                parameter.data = others[name]
            with self._without_dropout():
                yield
        finally:
            for name, parameter in trained.items():
                parameter.data = own[name]

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


def pad_tags(rows: Sequence[Sequence[int]], device: torch.device | str = "cpu") -> Tensor:
    """Token ids of the tags of each image -> [images, w], IGNORED where a row has ended."""
    width = max([1, *map(len, rows)])
    padded = [[*row, *[IGNORED] * (width - len(row))] for row in rows]
    return torch.tensor(padded, dtype=torch.long, device=device)


def token_losses(logits: Tensor, wanted: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Logits [n, vocabulary] in any precision, token ids [n] -> losses [n] in float32.

    What `F.cross_entropy(logits.float(), wanted, reduction="none", label_smoothing=...)` gives;
    there is no id here that is ignored.
    """
    losses: Tensor = _TokenLosses.apply(logits, wanted, label_smoothing)
    return losses


class _TokenLosses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, wanted: Tensor, smoothing: float) -> Tensor:
        totals = logits.new_empty(len(logits), dtype=torch.float32)
        means = torch.zeros_like(totals)
        for rows in _chunks(logits):
            part = logits[rows].float()
            totals[rows] = part.logsumexp(dim=1)
            if smoothing:
                means[rows] = part.mean(dim=1)
        ctx.save_for_backward(logits, wanted, totals)
        ctx.smoothing = smoothing
        chosen = logits.gather(1, wanted[:, None])[:, 0].float()
        return totals - (1 - smoothing) * chosen - smoothing * means

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        logits, wanted, totals = ctx.saved_tensors
        of_logits = torch.empty_like(logits)
        for rows in _chunks(logits):
            weights = gradients[0][rows, None]
            part = torch.sub(logits[rows].float(), totals[rows, None]).exp_()
            if ctx.smoothing:
                part.sub_(ctx.smoothing / logits.shape[1])
            part.mul_(weights)
            part.scatter_add_(1, wanted[rows, None], (ctx.smoothing - 1) * weights)
            of_logits[rows] = part
        return of_logits, None, None


def _chunks(logits: Tensor) -> Iterator[slice]:
    at_once = _AT_ONCE_CPU if logits.device.type == "cpu" else _AT_ONCE_GPU
    step = max(1, at_once // logits.shape[1])
    return (slice(start, start + step) for start in range(0, len(logits), step))
