"""Where things are inside any decoder of transformers, found by structure and not by its name.

And a decoder that knows fewer words (`narrowed`): rows of its embedding and of its head, frozen as
they were. A language model's head is as large as many of its blocks, and captions use a fraction of
its tokens: of SmolLM2's 49,152, the 30,000 captions of Flickr8k use 7,400. Within the kept tokens
the logits are what they were.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from captune.errors import UserError
from captune.models.decoders import Decoder
from captune_metrics.display import printable

# what transformers calls their number in one family or another
_HEADS = ("num_attention_heads", "n_head", "num_heads")


@dataclass(frozen=True)
class DecoderParts:
    """The places that bridges and tuning methods reach for.

    blocks: the decoder's blocks in order; each takes hidden states [n, tokens, hidden_size] first.
    self_attentions: one a block. mlp_outputs: one a block, the module whose output is the MLP's
        (its last layer, where the block keeps the MLP's layers itself, as OPT does).
    targets_by_block: full names, from the model's root, of the projections (Linear, or GPT-2's
        Conv1D) inside each block. attention_targets: those of them in self-attention.
    sizes: (inputs, outputs) of each of them.
    hidden_size: inside the blocks. embedding_size: of token embeddings; OPT-350m has narrower ones.
    heads, key_value_heads, head_dim: of self-attention.
    """

    blocks: list[nn.Module]
    self_attentions: list[nn.Module]
    mlp_outputs: list[nn.Module]
    targets_by_block: list[list[str]]
    attention_targets: frozenset[str]
    sizes: dict[str, tuple[int, int]]
    hidden_size: int
    embedding_size: int
    heads: int
    key_value_heads: int
    head_dim: int


def find_parts(model: nn.Module, among: nn.ModuleList | None = None) -> DecoderParts:
    """Look through a causal language model of transformers.

    among: its blocks, where others than these lie in it; None for all that look like one.
    Raises UserError naming what was not found: it is then no decoder that captune can tune.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    named = [
        (name, module)
        for name, module in model.named_modules()
        if (isinstance(module, GradientCheckpointingLayer) if among is None else module in among)
    ]
    kind = type(model).__name__
    if not named:
        raise UserError(f"{kind}: no decoder blocks were found in it; it cannot be tuned")
    blocks = [module for _, module in named]
    attentions = [_self_attention(block, kind) for block in blocks]
    pairs = zip(blocks, attentions, strict=True)
    mlp_outputs = [_mlp_output(block, attention, kind) for block, attention in pairs]
    config: Any = model.config
    embedding_size = int(model.get_input_embeddings().weight.shape[1])  # type: ignore[operator]
    stated = (getattr(config, name, None) for name in _HEADS)
    heads = next((int(one) for one in stated if one is not None), None)
    if heads is None:
        raise UserError(f"{kind}: its config states none of {', '.join(_HEADS)}")
    if heads < 1:
        raise UserError(f"{kind}: its config states {heads} attention heads")
    by_block = [[f"{name}.{inner}" for inner in _projections(block)] for name, block in named]
    targets = [target for targets in by_block for target in targets]
    of_attention = {id(module) for attention in attentions for module in attention.modules()}
    modules = dict(model.named_modules())
    attention_targets = [target for target in targets if id(modules[target]) in of_attention]
    hidden_size, _ = size_of(modules[attention_targets[0]])  # what makes queries reads the block's
    return DecoderParts(
        blocks=blocks,
        self_attentions=attentions,
        mlp_outputs=mlp_outputs,
        targets_by_block=by_block,
        attention_targets=frozenset(attention_targets),
        sizes={target: size_of(modules[target]) for target in targets},
        hidden_size=hidden_size,
        embedding_size=embedding_size,
        heads=heads,
        key_value_heads=int(getattr(config, "num_key_value_heads", None) or heads),
        head_dim=int(getattr(config, "head_dim", None) or hidden_size // heads),
    )


def is_projection(module: nn.Module) -> bool:
    """A matrix that acts on the last axis: Linear, or GPT-2's transposed Conv1D."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, nn.Linear | Conv1D)


def size_of(projection: Any) -> tuple[int, int]:
    """(inputs, outputs)."""
    if isinstance(projection, nn.Linear):
        return projection.in_features, projection.out_features
    inputs, outputs = projection.weight.shape  # Conv1D keeps it the other way round
    return int(inputs), int(outputs)


def check_length(speech: Decoder, max_tokens: int, before: int = 1) -> None:
    """Raises UserError for more tokens than the model has places for.

    speech: of a captioner. before: places of what it reads before a caption: its start, or image
    and prompt.
    """
    config = speech.module.config.get_text_config(decoder=True)
    most = getattr(config, "max_position_embeddings", None)
    if most is not None and before + max_tokens > most:
        what = "its start takes" if before == 1 else "image and prompt take"
        raise UserError(
            f"--max-tokens {max_tokens}: {printable(speech.spec)} has places for {most:,} tokens,"
            f" of which {what} {before:,}; take {most - before:,} or fewer"
        )


class NarrowTokenizer:
    """The whole tokenizer, with the kept tokens numbered anew; others leave no trace.

    kept: the whole vocabulary's id of each kept token.
    """

    def __init__(self, whole: Any, kept: tuple[int, ...]) -> None:
        self.whole = whole
        self.kept = kept
        self._places = {id: place for place, id in enumerate(kept)}

    def __call__(self, texts: Sequence[str], **options: Any) -> dict[str, list[list[int]]]:
        """As the whole one: {"input_ids": [[place, ...], ...]}."""
        places = self._places
        rows = self.whole(texts, **options)["input_ids"]
        return {"input_ids": [[places[id] for id in row if id in places] for row in rows]}

    def batch_decode(self, rows: Sequence[Sequence[int]], **options: Any) -> list[str]:
        """As the whole one."""
        whole = [[self.kept[place] for place in row] for row in rows]
        texts: list[str] = self.whole.batch_decode(whole, **options)
        return texts


def narrowed(decoder: Decoder, tokens: Iterable[int]) -> Decoder:
    """`decoder` with these tokens of its vocabulary, its start, end and padding.

    The module is changed in place. Raises UserError for a token that it does not have.
    """
    special = {decoder.start_id, decoder.end_id, decoder.pad_id}
    kept = tuple(sorted({*tokens} | special))
    if kept[0] < 0 or kept[-1] >= decoder.vocabulary:
        raise UserError(
            f"{decoder.spec} has {decoder.vocabulary} tokens; {kept[0]} to {kept[-1]} were asked"
            " for; is it the decoder that the captioner was trained with?"
        )
    module = decoder.module
    rows = torch.tensor(kept, device=decoder.device)
    embedding = module.get_input_embeddings()
    head = module.get_output_embeddings()
    tied = head.weight is embedding.weight
    module.set_input_embeddings(_rows_of(embedding, rows))
    module.set_output_embeddings(_rows_of(head, rows))
    if tied:
        module.get_output_embeddings().weight = module.get_input_embeddings().weight
    places = {id: place for place, id in enumerate(kept)}
    start, end, pad = (places[id] for id in (decoder.start_id, decoder.end_id, decoder.pad_id))
    for config in (module.config.get_text_config(), module.generation_config):
        config.bos_token_id, config.eos_token_id, config.pad_token_id = start, end, pad
    module.config.get_text_config().vocab_size = len(kept)
    module.vocab_size = len(kept)
    return dataclasses.replace(
        decoder,
        tokenizer=NarrowTokenizer(decoder.tokenizer, kept),
        start_id=start,
        end_id=end,
        pad_id=pad,
        tokens=kept,
    )


def _rows_of(layer: Any, rows: Tensor) -> Any:
    """A copy of an embedding or a head with some of its rows."""
    kept = copy.copy(layer)
    kept._parameters = dict(layer._parameters)
    kept.weight = nn.Parameter(layer.weight[rows].clone(), requires_grad=False)
    if getattr(layer, "bias", None) is not None:
        kept.bias = nn.Parameter(layer.bias[rows].clone(), requires_grad=False)
    for name in ("num_embeddings", "out_features"):
        if hasattr(kept, name):
            setattr(kept, name, len(rows))
    if getattr(kept, "padding_idx", None) is not None:
        kept.padding_idx = None
    return kept


def _projections(block: nn.Module) -> Iterator[str]:
    return (name for name, module in block.named_modules() if is_projection(module))


def _self_attention(block: nn.Module, kind: str) -> nn.Module:
    for name, child in block.named_children():
        if ("attn" in name or "attention" in name) and any(_projections(child)):
            return child
    raise UserError(f"{kind}: its blocks have no self-attention that captune recognises")


def _mlp_output(block: nn.Module, attention: nn.Module, kind: str) -> nn.Module:
    others = [child for child in block.children() if child is not attention]
    # the last one: cross-attention stands before it, and BERT's MLP in two modules
    inner = [child for child in others if not is_projection(child) and any(_projections(child))]
    if inner:
        return inner[-1]
    # the block's own layers, or experts, which are matrices in one tensor; norms have none
    matrices = [child for child in others if any(p.ndim > 1 for p in child.parameters())]
    if not matrices:
        raise UserError(f"{kind}: its blocks have no MLP that captune recognises")
    return matrices[-1]
