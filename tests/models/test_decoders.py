"""Frozen decoders out of folders as the hub has them, and the assignment's GPT-2."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from captune.errors import Offline, UserError
from captune.models.decoders import fetch_decoder, is_cached, load_decoder

END = "<|endoftext|>"
TEXTS = [
    "a kitchen with a sink and many cooking machines and a pot of food",
    "Two dogs, one café - and 12 cats!",
]


def bpe() -> Tokenizer:
    """GPT-2's byte-level BPE with some 300 tokens learnt from a few words."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    return tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return bpe()


def config_of(family: str, vocabulary: int, end: int) -> Any:
    import transformers

    ends = {"bos_token_id": end, "eos_token_id": end}
    llama = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 48,
        "vocab_size": vocabulary,
        **ends,
    }
    gpt2 = {"n_embd": 64, "n_layer": 2, "n_head": 1, "n_positions": 64, "vocab_size": vocabulary}
    opt = {
        "hidden_size": 32,
        "word_embed_proj_dim": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "ffn_dim": 48,
        "max_position_embeddings": 64,
        "vocab_size": vocabulary,
    }
    return {
        "gpt2": lambda: transformers.GPT2Config(**gpt2, **ends),
        "opt": lambda: transformers.OPTConfig(**opt, **ends),
        "llama": lambda: transformers.LlamaConfig(**llama),
        "smollm": lambda: transformers.LlamaConfig(**llama, tie_word_embeddings=True),
        "qwen2": lambda: transformers.Qwen2Config(**llama),
        "qwen3": lambda: transformers.Qwen3Config(**llama, head_dim=16),
    }[family]()


FAMILIES = ("gpt2", "opt", "llama", "smollm", "qwen2", "qwen3")


def save_tokenizer(tokenizer: Tokenizer, folder: Path, layout: str) -> None:
    if layout == "tokenizer.json":
        tokenizer.save(str(folder / "tokenizer.json"))
        about = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END}
    else:
        tokenizer.model.save(str(folder))
        about = {"tokenizer_class": "GPT2Tokenizer", "eos_token": END, "unk_token": END}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))


@pytest.fixture
def make(tmp_path: Path, tokenizer: Tokenizer) -> Callable[..., tuple[Any, Path]]:
    """(family, layout, weights) -> (transformers model, folder) in the layout of the hub."""
    from transformers import AutoModelForCausalLM

    def build(
        family: str = "gpt2",
        layout: str = "tokenizer.json",
        weights: str = "safetensors",
        **changed: Any,
    ) -> tuple[Any, Path]:
        torch.manual_seed(0)
        config = config_of(family, tokenizer.get_vocab_size() + 3, tokenizer.token_to_id(END))
        for name, value in changed.items():
            setattr(config, name, value)
        model = AutoModelForCausalLM.from_config(config).eval()
        for parameter in model.parameters():
            parameter.data.normal_(std=0.2)
        folder = tmp_path / f"{family}-{weights}"
        options = {"max_shard_size": "40KB"} if weights == "shards" else {}
        model.save_pretrained(folder, **options)
        if weights == "bin":
            state = load_file(folder / "model.safetensors")
            (folder / "model.safetensors").unlink()
            torch.save(state, folder / "pytorch_model.bin")
        save_tokenizer(tokenizer, folder, layout)
        return model, folder

    return build


# -- folders and repositories ------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_of_any_family_gives_transformers_logits(
    family: str, make: Any, tokenizer: Tokenizer
) -> None:
    own, folder = make(family)
    decoder = load_decoder(f"hf:{folder}", device="cpu")
    ids = decoder.encode(TEXTS)
    assert ids == [tokenizer.encode(text).ids for text in TEXTS]
    assert decoder.decode(ids) == TEXTS
    with torch.inference_mode():
        row = torch.tensor(ids[:1])
        torch.testing.assert_close(decoder.module(row).logits, own(row).logits)
    assert decoder.start_id == decoder.end_id == decoder.pad_id
    assert decoder.decode([[decoder.start_id, *ids[0], decoder.end_id]]) == TEXTS[:1]
    assert decoder.vocabulary == own.config.vocab_size
    assert not decoder.module.training
    assert not any(parameter.requires_grad for parameter in decoder.module.parameters())
    written = decoder.module.generate(row[:, :2], max_new_tokens=3, do_sample=False)
    assert written.shape[0] == 1


@pytest.mark.parametrize("named", ["GPT2Tokenizer", None])
@pytest.mark.parametrize("family", ["smollm", "qwen2"])
@pytest.mark.parametrize("digits", [True, False])
def test_words_are_split_as_tokenizer_json_says(
    digits: bool, family: str, named: str | None, make: Any
) -> None:
    """Not as the class of that name does, which transformers 5 would build instead."""
    _, folder = make(family)
    stated = bpe()
    if digits:
        single = pre_tokenizers.Digits(individual_digits=True)
        stated.pre_tokenizer = pre_tokenizers.Sequence([single, stated.pre_tokenizer])
    stated.save(str(folder / "tokenizer.json"))
    about = {"eos_token": END} | ({"tokenizer_class": named} if named else {})
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    decoder = load_decoder(str(folder), device="cpu")
    assert decoder.encode(TEXTS) == [stated.encode(text).ids for text in TEXTS]


@pytest.mark.parametrize("weights", ["shards", "bin"])
@pytest.mark.parametrize("layout", ["tokenizer.json", "vocab.json"])
def test_shards_pickles_and_old_vocabularies(weights: str, layout: str, make: Any) -> None:
    own, folder = make("gpt2", layout, weights)
    assert weights != "shards" or len(list(folder.glob("model-*-of-*.safetensors"))) > 1
    assert weights != "bin" or not list(folder.glob("*.safetensors"))
    decoder = load_decoder(str(folder), device="cpu")
    ids = torch.tensor([decoder.encode(TEXTS)[0]])
    with torch.inference_mode():
        torch.testing.assert_close(decoder.module(ids).logits, own(ids).logits)


def test_the_ids_tell_weights_and_tokenizers_apart(make: Any) -> None:
    _, folder = make("llama")
    first = load_decoder(str(folder), device="cpu")
    copy = shutil.copytree(folder, folder.parent / "copy")
    assert load_decoder(str(copy), device="cpu").decoder_id == first.decoder_id
    changed = json.loads((copy / "tokenizer_config.json").read_text()) | {"x": 1}
    (copy / "tokenizer_config.json").write_text(json.dumps(changed))
    second = load_decoder(str(copy), device="cpu")
    assert second.weights_id == first.weights_id
    assert second.decoder_id != first.decoder_id


@pytest.mark.parametrize("family", FAMILIES)
def test_the_first_blocks_alone_are_the_model_cut_short(family: str, make: Any) -> None:
    own, folder = make(family)
    whole, cut = load_decoder(str(folder), device="cpu"), load_decoder(str(folder), blocks=1)
    row = torch.tensor(cut.encode(TEXTS)[:1])
    with torch.inference_mode():
        within = own(row, output_hidden_states=True).hidden_states[1]
        stack = cut.module(row, output_hidden_states=True).hidden_states
    assert len(stack) == 2  # the last one is normed
    assert stack[0].shape == within.shape
    assert cut.decoder_id != whole.decoder_id
    assert cut.weights_id == whole.weights_id
    assert cut.module.config.num_hidden_layers == cut.blocks == 1
    assert cut.module.generate(row, max_new_tokens=3).shape == (1, row.shape[1] + 3)
    with pytest.raises(UserError, match="cannot keep its first 99"):
        load_decoder(str(folder), blocks=99)


def test_half_precision_is_kept(make: Any) -> None:
    _, folder = make("llama")
    decoder = load_decoder(str(folder), device="cpu", dtype="bfloat16")
    assert decoder.module.get_input_embeddings().weight.dtype == torch.bfloat16


def test_a_repository_is_adopted_and_then_needs_no_network(make: Any) -> None:
    _, folder = make("gpt2", "vocab.json", "shards")
    (folder / "unrelated.onnx").write_bytes(b"x")
    assert not is_cached("hf:me/tiny")
    with pytest.raises(Offline, match=r"captune models fetch hf:me/tiny --decoder --from FOLDER"):
        load_decoder("hf:me/tiny")
    (place,) = fetch_decoder("hf:me/tiny", folder)
    assert is_cached("hf:me/tiny")
    assert not (place / "unrelated.onnx").exists()
    assert load_decoder("hf:me/tiny", device="cpu").encode(["a pot"])


# -- what is refused ---------------------------------------------------------------------------


def test_a_model_that_is_no_decoder(make: Any, tokenizer: Tokenizer, tmp_path: Path) -> None:
    import transformers

    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    bert = transformers.BertConfig(
        **small,
        intermediate_size=32,
        vocab_size=tokenizer.get_vocab_size(),
        initializer_range=0.2,  # with 0.02, what a token sees changes less than rounding may
    )
    bart = transformers.BartConfig(
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        vocab_size=tokenizer.get_vocab_size(),
    )
    vit = transformers.ViTConfig(**small, intermediate_size=32)
    for model, said in (
        (transformers.BertForMaskedLM(bert), "lets a token see those after it"),
        (transformers.BartForConditionalGeneration(bart), "has an encoder of its own"),
        (transformers.ViTModel(vit), "not a causal language model that transformers builds"),
    ):
        folder = tmp_path / type(model).__name__
        model.save_pretrained(folder)
        save_tokenizer(tokenizer, folder, "tokenizer.json")
        with pytest.raises(UserError, match=said):
            load_decoder(str(folder), device="cpu")


def test_parts_that_are_missing_or_belong_elsewhere(make: Any, tmp_path: Path) -> None:
    _, folder = make("llama")

    def changed(name: str, change: Callable[[Path], object]) -> str:
        copy = shutil.copytree(folder, tmp_path / name)
        change(copy)
        return str(copy)

    def config(**values: Any) -> Callable[[Path], object]:
        def write(copy: Path) -> None:
            stated = json.loads((copy / "config.json").read_text()) | values
            (copy / "config.json").write_text(json.dumps(stated))

        return write

    def tokenizer_without_end(copy: Path) -> None:
        config(eos_token_id=None, bos_token_id=None)(copy)
        (copy / "tokenizer_config.json").write_text(
            json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"})
        )

    def without_head(copy: Path) -> None:
        from safetensors.torch import save_file

        state = load_file(copy / "model.safetensors")
        del state["lm_head.weight"]
        save_file(state, copy / "model.safetensors", metadata={"format": "pt"})

    def small_vocabulary(copy: Path) -> None:
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(copy)
        model.resize_token_embeddings(100)
        model.save_pretrained(copy)

    def torchscript(copy: Path) -> None:
        (copy / "model.safetensors").unlink()
        with zipfile.ZipFile(copy / "pytorch_model.bin", "w") as archive:
            archive.writestr("archive/constants.pkl", b"")

    def own_code(copy: Path) -> None:
        config(model_type="mine", auto_map={"AutoConfig": "mine.C"})(copy)
        (copy / "mine.py").write_text("raise SystemExit")

    for name, change, said in (
        ("config", lambda copy: (copy / "config.json").unlink(), "has no config.json"),
        ("weights", lambda copy: (copy / "model.safetensors").unlink(), "has no weights"),
        ("tokens", lambda copy: (copy / "tokenizer.json").unlink(), "has no tokenizer"),
        ("end", tokenizer_without_end, "states no end-of-text token"),
        ("end2", config(eos_token_id=100_000), "states no end-of-text token"),
        ("head", without_head, r"at random \(lm_head.weight"),
        ("vocabulary", small_vocabulary, "they do not belong together"),
        ("torchscript", torchscript, "TorchScript"),
        ("code", own_code, "needs code from its repository"),
        ("wider", config(hidden_size=48), "transformers builds"),
        ("damaged", lambda copy: (copy / "config.json").write_text("{"), "not readable as JSON"),
    ):
        with pytest.raises(UserError, match=said) as caught:
            load_decoder(changed(name, change), device="cpu")
        assert "\n" not in str(caught.value)


def test_what_names_no_decoder(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"x")
    for spec, said in (
        ("gpt2", "no decoder and no folder"),
        ("open_clip:ViT-B-32/openai", "no decoder and no folder"),
        (str(tmp_path / "weights.bin"), "a file alone is not a decoder"),
        ("hf:../nowhere", "neither a folder here nor a repository"),
    ):
        with pytest.raises(UserError, match=said):
            load_decoder(spec)


def test_a_pad_token_beyond_the_embedding_is_not_used(make: Any) -> None:
    _, folder = make("llama")
    stated = json.loads((folder / "tokenizer_config.json").read_text())
    stated["pad_token"] = "<pad>"
    (folder / "tokenizer_config.json").write_text(json.dumps(stated | {"extra": ["a", "b"]}))
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"<{i}>" for i in range(5)])
    tokenizer.add_special_tokens({"pad_token": "<beyond>"})
    tokenizer.save_pretrained(folder)
    decoder = load_decoder(str(folder), device="cpu")
    assert decoder.tokenizer.pad_token_id >= decoder.vocabulary
    assert decoder.pad_id == decoder.end_id


# -- the assignment's files ----------------------------------------------------------------------


@pytest.fixture
def assignment(make: Any, tokenizer: Tokenizer, tmp_path: Path) -> tuple[Any, Path]:
    """GPT2LMHeadModel saved as decoder_model.bin with encoder.json and vocab.bpe."""
    own, _ = make("gpt2", layer_norm_epsilon=1e-5)
    folder = tmp_path / "assignment"
    folder.mkdir()
    state = {
        name.removeprefix("transformer."): value
        for name, value in own.state_dict().items()
        if name != "lm_head.weight"
    }
    torch.save(state, folder / "decoder_model.bin")
    tokenizer.model.save(str(tmp_path))
    (tmp_path / "vocab.json").rename(folder / "encoder.json")
    (tmp_path / "merges.txt").rename(folder / "vocab.bpe")
    return own, folder


@pytest.mark.parametrize("form", ["bare", "prefixed", "with head", "with masks"])
def test_the_assignments_decoder_equals_gpt2(
    form: str, assignment: tuple[Any, Path], tokenizer: Tokenizer
) -> None:
    own, folder = assignment
    file = folder / "decoder_model.bin"
    state = torch.load(file, weights_only=True)
    if form == "prefixed":
        state = {f"transformer.{name}": value for name, value in state.items()}
    elif form == "with head":
        state["lm_head.weight"] = state["wte.weight"].clone()
    elif form == "with masks":
        for block in range(2):
            state[f"h.{block}.attn.bias"] = torch.ones(1, 1, 64, 64).tril()
            state[f"h.{block}.attn.masked_bias"] = torch.tensor(-1e4)
    torch.save(state, file)
    decoder = load_decoder(str(folder), device="cpu")
    ids = decoder.encode(TEXTS)
    assert ids == [tokenizer.encode(text).ids for text in TEXTS]
    assert decoder.decode(ids) == TEXTS
    with torch.inference_mode():
        row = torch.tensor(ids[:1])
        torch.testing.assert_close(decoder.module(row).logits, own(row).logits)
    assert decoder.start_id == decoder.end_id == tokenizer.token_to_id(END)
    assert "lm_head.weight" in decoder.module.state_dict()
    assert decoder.module.generate(row, max_new_tokens=2, do_sample=False).shape[1] > row.shape[1]


def test_a_head_of_its_own_is_used(assignment: tuple[Any, Path]) -> None:
    own, folder = assignment
    state = torch.load(folder / "decoder_model.bin", weights_only=True)
    state["lm_head.weight"] = -state["wte.weight"]
    torch.save(state, folder / "decoder_model.bin")
    decoder = load_decoder(str(folder), device="cpu")
    row = torch.tensor([[1, 2, 3]])
    with torch.inference_mode():
        torch.testing.assert_close(decoder.module(row).logits, -own(row).logits)


def test_the_weights_alone_find_their_vocabulary_beside_them_or_in_the_working_folder(
    assignment: tuple[Any, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, folder = assignment
    whole = load_decoder(str(folder), device="cpu")
    file = load_decoder(str(folder / "decoder_model.bin"), device="cpu")
    assert file.decoder_id == whole.decoder_id
    apart = tmp_path / "given" / "decoder_model.bin"
    apart.parent.mkdir()
    (folder / "decoder_model.bin").rename(apart)
    with pytest.raises(UserError, match=r"lacks encoder.json and vocab.bpe beside"):
        load_decoder(str(apart), device="cpu")
    monkeypatch.chdir(folder)
    for place in (apart, apart.parent):
        assert load_decoder(str(place), device="cpu").decoder_id == whole.decoder_id
    renamed = apart.rename(apart.with_name("weights.bin"))
    assert load_decoder(str(renamed), device="cpu").decoder_id == whole.decoder_id


def test_assignment_files_that_do_not_fit(assignment: tuple[Any, Path], tmp_path: Path) -> None:
    _, folder = assignment

    def changed(name: str, change: Callable[[Path], object]) -> str:
        copy = shutil.copytree(folder, tmp_path / name)
        change(copy)
        return str(copy)

    def weights(values: object) -> Callable[[Path], object]:
        return lambda copy: torch.save(values, copy / "decoder_model.bin")

    def without_end(copy: Path) -> None:
        known = json.loads((copy / "encoder.json").read_text())
        del known[END]
        (copy / "encoder.json").write_text(json.dumps(known))

    def more_tokens(copy: Path) -> None:
        known = json.loads((copy / "encoder.json").read_text())
        known |= {f"<{i}>": len(known) + i for i in range(50)}
        (copy / "encoder.json").write_text(json.dumps(known))

    state = torch.load(folder / "decoder_model.bin", weights_only=True)
    part = {k: v for k, v in state.items() if "c_proj" not in k}
    linear = {k: v.T if "c_fc.weight" in k else v for k, v in state.items()}
    for name, change, said in (
        ("no-bpe", lambda copy: (copy / "vocab.bpe").unlink(), "lacks vocab.bpe beside"),
        ("other", weights({"a.weight": torch.ones(2)}), "is not the assignment's GPT-2"),
        ("part", weights(part), "is not the assignment's GPT-2"),
        ("linear", weights(linear), "is not the assignment's GPT-2"),
        ("no-end", without_end, "captions would have no end"),
        ("more", more_tokens, "do not belong together"),
        ("bpe", lambda copy: (copy / "vocab.bpe").write_text("qqq zzz"), "byte-level BPE"),
    ):
        with pytest.raises(UserError, match=said) as caught:
            load_decoder(changed(name, change), device="cpu")
        assert "\n" not in str(caught.value)
