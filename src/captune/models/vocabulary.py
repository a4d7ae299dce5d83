"""A decoder that knows fewer words: rows of its embedding and of its head, frozen as they were.

A language model's head is as large as many of its blocks, and captions use a fraction of its
tokens: of SmolLM2's 49,152, the 30,000 captions of Flickr8k use 7,400. Within the kept tokens the
logits are what they were.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from captune.errors import UserError
from captune.models.decoders import Decoder


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


def _rows_of(layer: Any, rows: torch.Tensor) -> Any:
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
