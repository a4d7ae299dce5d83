"""The caption model: a patch grid, a trained bridge, a frozen decoder, a tuning method.

grid [images, tokens, channels]      from the frozen encoder, cached
  -> bridge.project                  keys/values (or soft tokens), once an image
  -> decoder                         k captions (or beams) an image read them
  -> next-token loss, or words: generate.py, greedily or by beam search
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from inspect import signature
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from captune.captioning import generate as generation
from captune.captioning.bridge import (
    BRIDGES,
    Bridge,
    Context,
    GridShape,
    ImageStates,
    TagEmbeddings,
)
from captune.captioning.decoder_parts import DecoderParts, find_parts
from captune.captioning.settings import PROMPT_TOKENS, Settings, config_of, tag_tokens
from captune.captioning.tuning import TUNING_METHODS, TuningMethod
from captune.errors import UserError
from captune.models.decoders import Decoder

IGNORED = -100  # a place where there is nothing: no loss is taken there, as everywhere in torch
# logits looked at together: of a CPU's cache, and enough to keep a GPU busy
_AT_ONCE_CPU, _AT_ONCE_GPU = 1 << 19, 1 << 26


class Trainable(nn.Module, ABC):
    """A frozen language model with few parameters that are trained: what a training looks at.

    decoder: its words. bridge: what shows it images. parts: where tuning reaches into it.
    language_model: all modules that a tuning method may lie in.
    """

    decoder: Decoder
    bridge: Bridge
    tuning: TuningMethod
    parts: DecoderParts
    language_model: nn.Module

    @abstractmethod
    def detach(self) -> None:
        """Give the language model back as it was."""

    @abstractmethod
    def trained(self) -> dict[str, nn.Parameter]:
        """What is trained, by name; nothing else has a gradient."""

    @abstractmethod
    def logits_at_targets(
        self, grids: Tensor, ids: Tensor, mask: Tensor, targets: Tensor, tags: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """([targets, vocabulary], [targets]): the head runs only where there is a target."""

    @abstractmethod
    def generate(
        self,
        grids: Tensor,
        *,
        beams: int = 1,
        max_tokens: int = 60,
        tags: Tensor | None = None,
        scored: bool = True,
    ) -> generation.Generated:
        """Captions of a batch of images, greedily or by beam search, as `generation.generate`."""

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
        tags: as for `CaptionModel.project`. weights: [images * k], what a caption's tokens count.
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

    @contextmanager
    def without_dropout(self) -> Iterator[None]:
        """Within, all modules are in eval mode."""
        modes = {module: module.training for module in self.modules()}
        self.eval()
        try:
            yield
        finally:
            for module, training in modes.items():
                module.training = training


class CaptionModel(Trainable):
    """Frozen decoder plus what is trained: `bridge` and `tuning`.

    tuning comes first, then the bridge: peft wraps the bare decoder's layers only.
    What is trained stays in float32, whatever the precision of the decoder is.
    reads_tags: it was, or will be, trained with tags of each image, and is never run without. A
    bridge that reads none has them stand before the caption, as a text.
    """

    generate = generation.generate
    sample = generation.sample

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
        self.parts = find_parts(decoder.module)
        self.context = Context()
        self.turn = threading.RLock()  # of threads: what it looks at is handed in by hooks
        self.language_model = decoder.module
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

    def log_probabilities(self, states: ImageStates, rows: list[list[int]]) -> list[list[float]]:
        """Of each token of each row [images], given the image and what stands before it."""
        ids, mask, targets = batch(
            rows, start=self.decoder.start_id, pad=self.decoder.pad_id, device=self.decoder.device
        )
        kept = targets != IGNORED
        logits = self._logits_at(kept, ids, mask, states).float()
        flat: list[float] = (-F.cross_entropy(logits, targets[kept], reduction="none")).tolist()
        ends = list(accumulate(map(len, rows)))
        return [flat[end - len(row) : end] for row, end in zip(rows, ends, strict=True)]

    def inputs(self, ids: Tensor, mask: Tensor, states: ImageStates) -> dict[str, Tensor]:
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

    def with_positions(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """What `inputs` gives, with the position of each, for a decoder that takes them."""
        if not self._takes_positions:
            return inputs
        # padding, also behind soft tokens, is not counted
        counted = inputs["attention_mask"].cumsum(dim=1) - 1
        return inputs | {"position_ids": counted.clamp_min(0)}

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
        inputs = self.with_positions(self.inputs(ids, mask, states))
        kept = F.pad(kept, (inputs["attention_mask"].shape[1] - ids.shape[1], 0))
        head: nn.Module = self.decoder.module.get_output_embeddings()
        # the hook, too, is for these images alone
        narrow = head.register_forward_pre_hook
        with self.looking_at(states), narrow(lambda _, args: (args[0][kept][None],)):
            logits: Tensor = self.decoder.module(**inputs, use_cache=False).logits
        return logits.squeeze(0)  # of which the backward pass copies nothing

    @contextmanager
    def with_weights(self, others: Mapping[str, Tensor]) -> Iterator[None]:
        """Within, what is trained has these weights, by the names of `trained`, and no dropout."""
        trained = self.trained()
        own = {name: parameter.data for name, parameter in trained.items()}
        try:
            for name, parameter in trained.items():
                parameter.data = others[name]
            with self.without_dropout():
                yield
        finally:
            for name, parameter in trained.items():
                parameter.data = own[name]

    @contextmanager
    def looking_at(self, states: ImageStates) -> Iterator[None]:
        """Within, the decoder looks at these images; other threads wait, as they have others."""
        with self.turn:
            before, self.context.states = self.context.states, states
            try:
                yield
            finally:
                self.context.states = before


def build_model(
    decoder: Decoder,
    grid: GridShape,
    *,
    bridge: str,
    method: str,
    bridge_settings: Settings | None = None,
    method_settings: Settings | None = None,
    reads_tags: bool = False,
    seed: int = 0,
    room: Mapping[str, int] | None = None,
) -> CaptionModel:
    """A model that is not trained yet; the same seed gives the same first weights.

    Settings are fields of the Config of bridge and method; what is left out keeps its default.
    room: how many parameters there are for "bridge" and "tuning", where those of a file will be put
    in; nothing is built that needs more.
    The decoder is wrapped: `model.detach()` gives it back.
    Raises UserError for an unknown name or setting.
    """
    bridge_type, method_type = BRIDGES.get(bridge), TUNING_METHODS.get(method)
    bridge_config = config_of(bridge_type.Config, bridge_settings or {}, bridge)
    method_config = config_of(method_type.Config, method_settings or {}, method)
    parts = find_parts(decoder.module)
    if room is not None:
        check_room(bridge, bridge_type.count(bridge_config, grid, parts), room["bridge"])
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made: Any = bridge_type
        built = made(bridge_config, grid, parts).to(decoder.device)
        if room is not None:
            check_room(method, method_type.count(method_config, parts, built), room["tuning"])
        tuning: Any = method_type
        model = CaptionModel(decoder, built, tuning(method_config), grid, reads_tags=reads_tags)
    # on the device at once: who generates with it need not know where the decoder lies
    return model.to(decoder.device)


def check_room(name: str, needed: int, has: int) -> None:
    """Raises UserError where settings make more parameters than a file holds."""
    if needed > has:
        raise UserError(
            f"{name}: its settings make {needed:,} parameters, and the weights hold {has:,} for it;"
            " config.json and weights are not of one checkpoint"
        )


def batch(
    rows: Sequence[Sequence[int]], *, start: int, pad: int, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of token ids to learn -> (ids, mask, targets), each [rows, n], padded on the right.

    ids begin with `start`; the target at each place is the id that follows.
    """
    known = [torch.tensor(row, dtype=torch.long) for row in rows]
    targets = pad_sequence(known, batch_first=True, padding_value=IGNORED)
    mask = (targets != IGNORED).long()
    ids = targets.roll(1, dims=1).masked_fill(mask == 0, pad)
    ids[:, 0] = start
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
