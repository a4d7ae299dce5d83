"""Frozen causal language models: weights, tokenizer and a content hash as one value.

lite          SmolLM2-135M-Instruct, from the package index
hf:REPO       GPT-2, OPT, Llama, Qwen, SmolLM and their like, from a hub or a folder
FOLDER        the same, or the assignment's decoder_model.bin, encoder.json and vocab.bpe
FILE          decoder_model.bin itself; the other two beside it or in the working folder
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from captune.errors import UserError
from captune.files import read_text
from captune.json_yaml import read_object
from captune.models import hub, vetting
from captune.models.devices import resolve_device, resolve_dtype
from captune.models.lite import assets
from captune.models.load import ASSIGNMENT, parse_decoder, require_config
from captune.models.tokenizers import choose_tokenizer, decoded, tokenizer_files, vetted_tokenizer
from captune.models.weights import (
    NoRandomValues,
    choose_weights,
    digest_of,
    digest_of_files,
    load_state,
    weights_id_of_file,
)
from captune_metrics.display import printable

_END_OF_TEXT = "<|endoftext|>"
_LARGEST_VOCABULARY = 64 * 2**20


@dataclass(frozen=True)
class Decoder:
    """A causal language model as transformers builds it, frozen, in eval mode.

    module: a transformers model with `generate`; called with input_ids [n, tokens].
    tokenizer: strings <-> token ids, without special tokens.
    weights_id: sha256 of the tensors. decoder_id: of weights, architecture and tokenizer.
    start_id, end_id: what a caption is preceded and followed by. pad_id: what fills a batch.
    blocks: how many of its first blocks were kept, where not all of them; else 0.
    tokens: which of its vocabulary were kept (`decoder_parts.narrowed`), where not all; else none.
    """

    spec: str
    module: Any
    tokenizer: Any
    weights_id: str
    decoder_id: str
    start_id: int
    end_id: int
    pad_id: int
    licence: str | None
    device: torch.device
    dtype: torch.dtype
    blocks: int = 0
    tokens: tuple[int, ...] = ()

    @property
    def vocabulary(self) -> int:
        """How many tokens there are."""
        return int(self.module.get_input_embeddings().weight.shape[0])

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, neither start nor end added, nothing cut off."""
        with vetting.library_errors(f"{printable(self.spec)}: its tokenizer fails on a text"):
            made = self.tokenizer(list(texts), add_special_tokens=False, verbose=False)
            ids: list[list[int]] = made["input_ids"]
        return ids

    def decode(self, ids: Sequence[Sequence[int]]) -> list[str]:
        """Texts of token ids; start, end and padding leave no trace."""
        special = {self.start_id, self.end_id, self.pad_id}
        kept = [[id for id in row if id not in special] for row in ids]
        with vetting.library_errors(f"{printable(self.spec)}: its tokenizer fails on token ids"):
            texts: list[str] = self.tokenizer.batch_decode(kept, clean_up_tokenization_spaces=False)
        return texts


class Speech(Decoder):
    """Tokens of any captioner as words; what is special in it leaves no trace."""

    @property
    def vocabulary(self) -> int:
        """As of a `Decoder`."""
        return int(self.module.config.get_text_config().vocab_size)

    def decode(self, ids: Sequence[Sequence[int]]) -> list[str]:
        """As of a `Decoder`."""
        return decoded(self.tokenizer, ids)


def load_decoder(
    spec: str = "lite", *, device: str = "auto", dtype: str = "auto", blocks: int = 0
) -> Decoder:
    """The frozen decoder that `spec` names, on `device` with `dtype`.

    blocks: keep so many of its first blocks; 0 keeps them all. A decoder that was cut short writes
    nonsense until it is tuned, and then as many times faster as blocks were left out.
    Raises UserError for whatever the user can mend, and Offline where a hub would have to be asked.
    """
    from transformers import GenerationConfig

    where = resolve_device(device)
    precision = resolve_dtype(dtype, where)
    place = parse_decoder(spec).folder
    files = None if place is None else _find_assignment(place)
    if spec == "lite":
        found = _shipped(precision)
    elif files is None:
        found = _from_folder(spec, precision)
    else:
        found = _from_assignment(files, precision)
    module, tokenizer = found.module, found.tokenizer
    _keep_first(module, blocks, spec)
    start, end, pad = _ends(module, tokenizer, spec)
    # an instruct model's own asks for penalties and sampling, which are of chats
    module.generation_config = GenerationConfig(
        bos_token_id=start, eos_token_id=end, pad_token_id=pad
    )
    weights_id = weights_id_of_file(found.weights)
    vocabulary_id = digest_of_files(found.vocabulary)
    return Decoder(
        spec=spec,
        module=module.to(where).eval().requires_grad_(False),
        tokenizer=tokenizer,
        weights_id=weights_id,
        decoder_id=digest_of(weights_id, _architecture(module.config), vocabulary_id),
        start_id=start,
        end_id=end,
        pad_id=pad,
        licence=found.licence,
        device=where,
        dtype=precision,
        blocks=blocks,
    )


def fetch_decoder(spec: str = "lite", source: Path | None = None) -> list[Path]:
    """Put the files of `spec` into a cache, out of the folder `source` if given; their folders."""
    if spec == "lite":
        return assets.ensure(assets.ASSETS["lite-decoder"], source)
    repo = parse_decoder(spec).repo
    if repo is None:
        raise UserError(f"{spec}: already local; there is nothing to fetch")
    if source is not None:
        return [hub.adopt(repo, source, lambda names: _choose(names, str(source)))]
    return [_from_hub(spec, repo)]


def is_cached(spec: str) -> bool:
    """True when `spec` loads without a network."""
    if spec == "lite":
        return assets.are_cached(assets.ASSETS["lite-decoder"])
    repo = parse_decoder(spec).repo
    return repo is None or hub.cached(repo, lambda names: _choose(names, spec)) is not None


def _folder_of(spec: str) -> Path:
    found = parse_decoder(spec)
    if found.folder is None:
        assert found.repo is not None
        return _from_hub(spec, found.repo)
    if not found.folder.is_dir():
        raise UserError(f"{spec}: a file alone is not a decoder; give the folder it came in")
    return found.folder


def _from_hub(spec: str, repo: str) -> Path:
    return hub.repository(repo, lambda names: _choose(names, spec), spec, fetch_option=" --decoder")


def _choose(names: Sequence[str], where: str) -> list[str]:
    require_config(names, where)
    extras = [name for name in ("generation_config.json", "README.md") if name in names]
    return [*choose_weights(names, where), *extras, *choose_tokenizer(names, where)]


@dataclass(frozen=True)
class _Found:
    """A decoder on the CPU, and the files of its weights and of its tokenizer."""

    module: Any
    tokenizer: Any
    weights: Sequence[Path]
    vocabulary: Sequence[Path]
    licence: str | None = None


def _shipped(dtype: torch.dtype) -> _Found:
    """`lite`: its files are, by their hashes, those that were published, so its class is known.

    from_pretrained would take half a second for the renamed weights of every model that there is.
    """
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = assets.verified(assets.ASSETS["lite-decoder"])[0]
    weights = folder / "model.safetensors"
    config = LlamaConfig(**read_object(folder / "config.json"))
    with hub.closed(), torch.device("meta"):  # nothing is drawn at random
        module = LlamaForCausalLM(config)
    rotary = module.model.rotary_emb  # a table, which no file holds
    module.model.rotary_emb = type(rotary)(config)
    state = {name: tensor.to(dtype) for name, tensor in load_state(weights).items()}
    lacking = module.load_state_dict(state, strict=False, assign=True)
    assert lacking.missing_keys == ["lm_head.weight"], lacking
    assert not lacking.unexpected_keys, lacking
    module.tie_weights()
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    return _Found(module, tokenizer, [weights], tokenizer_files(folder), assets.DECODER.licence)


def _from_folder(spec: str, dtype: torch.dtype) -> _Found:
    from transformers import (
        AutoConfig,
        AutoModelForCausalLM,
        AutoTokenizer,
        PreTrainedTokenizerFast,
    )

    folder = _folder_of(spec)
    _choose(sorted(path.name for path in folder.iterdir()), str(folder))
    checkpoint = vetting.read_checkpoint(folder, dtype, spec)
    shown = printable(spec)
    kind = f"{shown} is not a causal language model that transformers builds"
    # Classes that transformers 5 chooses by name or model type split words by their own rule and
    # drop the file's: SmolLM's digits, which stand alone, would come out as GPT-2 has them.
    as_stated = (folder / "tokenizer.json").is_file()
    reader = PreTrainedTokenizerFast if as_stated else AutoTokenizer
    no_tokenizer = f"{shown} has no tokenizer.json, or the like, to be read"
    with vetting.staged({**checkpoint.parts, **vetted_tokenizer(folder)}) as place, hub.closed():
        with vetting.library_errors(kind, place):
            config = AutoConfig.from_pretrained(place, trust_remote_code=False)
        if config.is_encoder_decoder:
            raise UserError(
                f"{spec}: a {config.model_type} has an encoder of its own before its decoder;"
                " expected a decoder alone, such as GPT-2, OPT, Llama or Qwen"
            )
        with vetting.library_errors(no_tokenizer, place):
            tokenizer = reader.from_pretrained(place, trust_remote_code=False)
        module = checkpoint.build(AutoModelForCausalLM, place, config, kind)
    checkpoint.require_finite(module)
    _require_causal(module, spec)
    licence = hub.licence_of(folder)
    return _Found(module, tokenizer, checkpoint.files, tokenizer_files(folder), licence)


@torch.inference_mode()
def _require_causal(module: Any, spec: str) -> None:
    """Raise UserError unless no token sees a later one; BERT builds as a causal model, too."""
    ids = torch.tensor([[0, 1, 2, 0], [0, 1, 2, 1]], device=module.device)
    with vetting.library_errors(f"{printable(spec)} is a decoder that cannot run"):
        first, second = module(input_ids=ids, use_cache=False).logits[:, :3].float()
    for logits in (first, second):
        vetting.require_finite_tensor(logits, "what it computes", spec)
    if not torch.allclose(first, second, rtol=1e-3, atol=1e-3):
        raise UserError(
            f"{spec}: a {module.config.model_type} lets a token see those after it, so it cannot"
            " write; expected a decoder, such as GPT-2, OPT, Llama or Qwen"
        )


def _ends(module: Any, tokenizer: Any, spec: str) -> tuple[int, int, int]:
    """(start, end, pad): the model's own; where it states no start, a text starts where one ends.

    Raises UserError where no end is stated, and where tokenizer and embedding do not fit.
    """
    config = module.config.get_text_config()
    known = int(module.get_input_embeddings().weight.shape[0])
    if tokenizer.vocab_size > known:
        raise UserError(
            f"{spec}: its tokenizer has {tokenizer.vocab_size} tokens, its embedding {known}; they"
            " do not belong together"
        )
    if not tokenizer.vocab_size:
        raise UserError(f"{spec}: its tokenizer has no tokens")
    end = getattr(config, "eos_token_id", None)
    end = next(iter(end), None) if isinstance(end, list) else end
    if end is None:
        end = tokenizer.eos_token_id
    if type(end) is not int or not 0 <= end < known:
        raise UserError(
            f"{spec}: states no end-of-text token among its {known} (eos_token_id in config.json)"
        )
    start = getattr(config, "bos_token_id", None)
    if start is None:
        start = tokenizer.bos_token_id
    pad = tokenizer.pad_token_id  # some tokenizers were given one that the model has no row for
    fits = [id if type(id) is int and 0 <= id < known else None for id in (start, pad)]
    return (
        int(end) if fits[0] is None else fits[0],
        int(end),
        int(end) if fits[1] is None else fits[1],
    )


def _find_assignment(place: Path) -> list[Path] | None:
    """The three files of the assignment's decoder, None where `place` is none.

    place: their folder, or the weights themselves. The vocabulary lies beside the weights or, as
    the assignment's scripts had it, in the working folder. Raises UserError where it does not.
    """
    name, *vocabulary = ASSIGNMENT
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
        f"{weights.parent} lacks {' and '.join(missing)} beside {name}, and so does the working"
        " folder"
    )


def _beside(weights: Path, file: str) -> Path | None:
    places = (weights.parent / file, Path.cwd() / file)
    return next((path for path in places if path.is_file()), None)


def _from_assignment(files: Sequence[Path], dtype: torch.dtype) -> _Found:
    """The assignment's GPT-2: a bare state dictionary beside OpenAI's two BPE files."""
    weights, encoder, merges = files
    tokenizer = _gpt2_tokenizer(encoder, merges)
    module = _gpt2_of_tensors(load_state(weights), weights)
    vetting.require_finite(module, weights)
    end = tokenizer.convert_tokens_to_ids(_END_OF_TEXT)
    module.config.bos_token_id = module.config.eos_token_id = end
    return _Found(module.to(dtype), tokenizer, [weights], [encoder, merges])


def _gpt2_of_tensors(published: dict[str, Tensor], path: Path) -> Any:
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
    with vetting.library_errors(
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


def _gpt2_tokenizer(encoder: Path, merge_list: Path) -> Any:
    """OpenAI's byte-level BPE with the pre-tokeniser of GPT-2.

    The assignment's own splits ` ?\\w+` instead, so "route66" and "foo_bar" come out otherwise;
    ordinary words are the same.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = read_object(encoder, _LARGEST_VOCABULARY)
    lines = read_text(str(merge_list)).splitlines()
    shown = printable(encoder)
    with vetting.library_errors(f"{shown} and {merge_list.name} are not GPT-2's byte-level BPE"):
        pairs = (line.split() for line in lines if line and not line.startswith("#version"))
        merges = [(first, second) for first, second in pairs]
        bpe = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    if _END_OF_TEXT not in vocabulary:
        raise UserError(f"{encoder} has no {_END_OF_TEXT}, so captions would have no end")
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    ends = dict.fromkeys(("bos_token", "eos_token"), _END_OF_TEXT)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, **ends)


def _keep_first(module: Any, blocks: int, spec: str) -> None:
    """Drop all blocks but the first ones; the config says so too, and with it the decoder's id.

    Raises UserError where there are not so many.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    if not blocks:
        return
    stacks = [
        stack
        for stack in module.modules()
        if isinstance(stack, nn.ModuleList)
        and len(stack)
        and all(isinstance(block, GradientCheckpointingLayer) for block in stack)
    ]
    if len(stacks) != 1 or not 0 < blocks <= len(stacks[0]):
        has = f"has {len(stacks[0])}" if len(stacks) == 1 else "has no single stack of blocks"
        raise UserError(f"{spec}: {has}; it cannot keep its first {blocks} (--decoder-blocks)")
    del stacks[0][blocks:]
    config = module.config.get_text_config()
    config.num_hidden_layers = blocks
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:blocks]


def _architecture(config: Any) -> str:
    about = config.to_dict()
    for name in ("_name_or_path", "transformers_version", "dtype", "torch_dtype"):
        about.pop(name, None)
    return digest_of(json.dumps(about, sort_keys=True, default=str))
