"""The assignment's decoder: GPT-2's tensors alone, and its vocabulary in OpenAI's two files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from captune.errors import UserError
from captune.models import hub
from captune.models.weights import NoRandomValues

ASSIGNMENT_FILES = ("decoder_model.bin", "encoder.json", "vocab.bpe")
END_OF_TEXT = "<|endoftext|>"


def find_assignment(place: Path) -> list[Path] | None:
    """The three files of the assignment's decoder, None where `place` is none.

    place: their folder, or the weights themselves. The vocabulary lies beside the weights or, as
    the assignment's scripts had it, in the working folder. Raises UserError where it does not.
    """
    name, *vocabulary = ASSIGNMENT_FILES
    weights = place if place.is_file() else place / name
    if not weights.is_file() or (place.is_dir() and (place / "config.json").is_file()):
        return None
    found = [_beside(weights, file) for file in vocabulary]
    missing = [file for file, path in zip(vocabulary, found, strict=True) if path is None]
    if not missing:
        return [weights, *(path for path in found if path is not None)]
    if weights.name != name:
        return None
    raise UserError(
        f"{weights.parent}: lacks {' and '.join(missing)} beside {name}, and so does the working"
        " folder"
    )


def _beside(weights: Path, file: str) -> Path | None:
    places = (weights.parent / file, Path.cwd() / file)
    return next((path for path in places if path.is_file()), None)


def gpt2_of_tensors(published: dict[str, Tensor], path: Path) -> Any:
    """A GPT-2 whose sizes are those of its tensors, named with or without `transformer.`.

    Heads are 64 wide, as in every GPT-2 that OpenAI published: the tensors do not say.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    state = {
        name.removeprefix("transformer."): value
        for name, value in published.items()
        if not name.endswith((".attn.bias", ".attn.masked_bias"))  # the causal mask, not trained
    }
    head = state.pop("lm_head.weight", None)
    try:
        vocabulary, width = state["wte.weight"].shape
        config = GPT2Config(
            vocab_size=vocabulary,
            n_embd=width,
            n_layer=1 + max(int(name.split(".")[1]) for name in state if name.startswith("h.")),
            n_head=max(1, width // 64),
            n_positions=state["wpe.weight"].shape[0],
            tie_word_embeddings=head is None or torch.equal(head, state["wte.weight"]),
        )
        with hub.closed(), NoRandomValues():
            module = GPT2LMHeadModel(config)
        module.transformer.load_state_dict(state)
        if not config.tie_word_embeddings:
            module.lm_head.load_state_dict({"weight": head})
        module.tie_weights()
    except (KeyError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"{path}: is not the assignment's GPT-2 ({reason}); expected wte.weight, wpe.weight and"
            " h.0.attn.c_attn.weight and their like"
        ) from None
    return module


def gpt2_tokenizer(encoder: Path, merge_list: Path) -> Any:
    """OpenAI's byte-level BPE with the pre-tokeniser of GPT-2.

    The assignment's own splits ` ?\\w+` instead, so "route66" and "foo_bar" come out otherwise;
    ordinary words are the same.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    try:
        vocabulary = json.loads(encoder.read_text(encoding="utf-8"))
        lines = merge_list.read_text(encoding="utf-8").splitlines()
        pairs = (line.split() for line in lines if line and not line.startswith("#version"))
        merges = [(first, second) for first, second in pairs]
        bpe = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    except Exception as error:  # tokenizers raises Exception itself for a merge it does not know
        raise UserError(
            f"{encoder} and {merge_list.name} are not GPT-2's byte-level BPE ({error})"
        ) from None
    if END_OF_TEXT not in vocabulary:
        raise UserError(f"{encoder}: has no {END_OF_TEXT}, so captions would have no end")
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    ends = dict.fromkeys(("bos_token", "eos_token"), END_OF_TEXT)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, **ends)
