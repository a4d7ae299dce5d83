"""The assignment's decoder: GPT-2's tensors alone, and its vocabulary in OpenAI's two files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from captune.errors import UserError
from captune.files import printable, read_text
from captune.models import hub
from captune.models.checkpoint_files import read_object
from captune.models.vetting import library_errors
from captune.models.weights import NoRandomValues

ASSIGNMENT_FILES = ("decoder_model.bin", "encoder.json", "vocab.bpe")
END_OF_TEXT = "<|endoftext|>"
_LARGEST_VOCABULARY = 64 * 2**20


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
    blocks = {name.split(".")[1] for name in state if name.startswith("h.")}
    with library_errors(
        f"{path} is not the assignment's GPT-2; expected wte.weight, wpe.weight and"
        " h.0.attn.c_attn.weight and their like"
    ):
        vocabulary, width = state["wte.weight"].shape
        with hub.closed(), NoRandomValues():
            config = GPT2Config(
                vocab_size=vocabulary,
                n_embd=width,
                n_layer=len(blocks),
                n_head=max(1, width // 64),
                n_positions=state["wpe.weight"].shape[0],
                tie_word_embeddings=head is None or torch.equal(head, state["wte.weight"]),
            )
            module = GPT2LMHeadModel(config)
        module.transformer.load_state_dict(state)
        if not config.tie_word_embeddings:
            module.lm_head.load_state_dict({"weight": head})
        module.tie_weights()
    return module


def gpt2_tokenizer(encoder: Path, merge_list: Path) -> Any:
    """OpenAI's byte-level BPE with the pre-tokeniser of GPT-2.

    The assignment's own splits ` ?\\w+` instead, so "route66" and "foo_bar" come out otherwise;
    ordinary words are the same.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = read_object(encoder, _LARGEST_VOCABULARY)
    lines = read_text(str(merge_list)).splitlines()
    shown = printable(str(encoder))
    with library_errors(f"{shown} and {merge_list.name} are not GPT-2's byte-level BPE"):
        pairs = (line.split() for line in lines if line and not line.startswith("#version"))
        merges = [(first, second) for first, second in pairs]
        bpe = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    if END_OF_TEXT not in vocabulary:
        raise UserError(f"{encoder}: has no {END_OF_TEXT}, so captions would have no end")
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    ends = dict.fromkeys(("bos_token", "eos_token"), END_OF_TEXT)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, **ends)
