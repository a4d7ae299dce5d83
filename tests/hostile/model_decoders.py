"""A language model and its tokenizer, in transformers' layout and in the assignment's."""

from __future__ import annotations

from typing import Any

from tests.hostile.model_folders import (
    BIG,
    CONFIG,
    DECODER,
    DEEP,
    TOKENIZER,
    WEIGHTS,
    Hostile,
    Runs,
    assignment,
    bomb,
    edit,
    index_of,
    links,
    pickled,
    put,
    several,
    short,
    special,
)


def decoder_cases() -> list[Hostile]:
    path, tokens = f"{DECODER}/{CONFIG}", f"{DECODER}/{TOKENIZER}"
    settings = f"{DECODER}/tokenizer_config.json"
    changes: list[tuple[str, Any, str | None]] = [
        ("hidden_size", BIG, "hidden_size|weights"),
        ("hidden_size", -32, "decoder"),
        ("hidden_size", "wide", "decoder"),
        ("intermediate_size", 10**8, "weights"),
        ("num_hidden_layers", BIG, "num_hidden_layers"),
        ("num_hidden_layers", 1000, "weights"),
        ("num_hidden_layers", 10**30, "num_hidden_layers"),
        ("num_hidden_layers", 0, "decoder"),
        ("num_hidden_layers", 2, "weights|decoder"),
        ("num_attention_heads", 0, "decoder"),
        ("num_attention_heads", 7, "decoder|weights"),
        ("num_key_value_heads", 0, "decoder"),
        ("head_dim", 10**8, "weights"),
        ("vocab_size", BIG, "weights"),
        ("vocab_size", 10, "decoder|weights"),
        ("max_position_embeddings", 10**12, ""),
        ("rms_norm_eps", float("nan"), "finite"),
        ("hidden_act", "os.system", "decoder"),
        ("eos_token_id", "x", "eos_token_id"),
        ("eos_token_id", [], ""),
        ("eos_token_id", BIG, "eos_token_id"),
        ("eos_token_id", {"a": 1}, "eos_token_id"),
        ("bos_token_id", "x", "bos_token_id"),
        ("model_type", "nothing", "decoder"),
        ("model_type", ["llama"], "model_type|decoder"),
        ("model_type", "bert", "decoder"),
        ("model_type", "t5", "decoder"),
        ("num_labels", BIG, "num_labels"),
        ("id2label", 3, "decoder"),
        ("rope_parameters", {"rope_type": "x", "rope_theta": 1}, "decoder"),
        ("rope_parameters", [1], "decoder"),
        ("quantization_config", {"quant_method": "gptq", "bits": 4}, "quantization_config"),
        ("quantization_config", "x", "quantization_config"),
        ("attn_implementation", "nobody/kernel", "attn_implementation"),
        ("_attn_implementation", "nobody/kernel", "_attn_implementation"),
        ("transformers_weights", "../../secret.safetensors", "transformers_weights"),
        ("architectures", "x", ""),
        ("intermediate_size", -1, None),
        ("model_type", "../x", None),
        ("architectures", [], None),
        ("eos_token_id", -1, None),
        ("eos_token_id", None, None),
        ("rms_norm_eps", "x", None),
        ("dtype", "int8", None),
        ("dtype", "evil", None),
        ("max_position_embeddings", 0, None),
        ("tie_word_embeddings", "perhaps", None),
        ("_name_or_path", "evil/model", None),
        ("transformers_version", "99", None),
        ("vocab_size", 98.5, None),
    ]
    cases = [
        Hostile(f"decoder: {key} = {short(value)}", edit(path, key, to=value), word)
        for key, value, word in changes
    ]
    cases += [
        Hostile(
            "decoder: code of its own",
            several(
                edit(path, "auto_map", to={"AutoModelForCausalLM": "evil.Evil"}),
                edit(path, "model_type", to="evil"),
                put(f"{DECODER}/evil.py", "raise SystemExit(77)"),
            ),
            "code|decoder",
        ),
        Hostile(
            "decoder: an adapter of another's",
            put(
                f"{DECODER}/adapter_config.json",
                '{"base_model_name_or_path": "nobody/nothing", "peft_type": "LORA"}',
            ),
            "",
        ),
        Hostile(
            "decoder: a template that never ends",
            put(f"{DECODER}/chat_template.jinja", "{% for i in range(10**9) %}{% endfor %}"),
            "",
        ),
        Hostile(
            "decoder: a template is a pipe", special(f"{DECODER}/chat_template.jinja", "pipe"), ""
        ),
        Hostile(
            "decoder: generation_config.json is a pipe",
            several(
                special(f"{DECODER}/generation_config.json", "nothing"),
                special(f"{DECODER}/generation_config.json", "pipe"),
            ),
            "",
        ),
        Hostile("decoder: README.md is a pipe", special(f"{DECODER}/README.md", "pipe"), ""),
        Hostile("decoder: links, as in a hub's cache", links, ""),
        Hostile(
            "decoder: a shard outside", index_of({"a": "../decoder/x.safetensors"}), "index.json"
        ),
        Hostile(
            "decoder: a shard by its absolute name", index_of({"a": "/etc/passwd"}), "index.json"
        ),
        Hostile("decoder: shards are a list", index_of([1]), "index.json"),
        Hostile("decoder: a shard is a number", index_of({"a": 3}), "index.json"),
        Hostile("decoder: no shards", index_of({}), "index.json"),
        Hostile(
            "decoder: a shard that is not there", index_of({"a": "b.safetensors"}), "b.safetensors"
        ),
        Hostile("decoder: one shard", index_of({"a": "model-00001-of-00001.safetensors"}), ""),
        Hostile(
            "decoder: a shard is a pipe",
            several(index_of({"a": "p.safetensors"}), special(f"{DECODER}/p.safetensors", "pipe")),
            "p.safetensors",
        ),
        Hostile(
            "decoder: a pickle that runs",
            pickled(
                f"{DECODER}/pytorch_model.bin",
                lambda torch: {"a": Runs()},
                removes=f"{DECODER}/{WEIGHTS}",
            ),
            "pytorch_model.bin",
        ),
        Hostile(
            "decoder: a pickle of a text",
            pickled(
                f"{DECODER}/pytorch_model.bin", lambda torch: "x", removes=f"{DECODER}/{WEIGHTS}"
            ),
            "pytorch_model.bin",
        ),
        Hostile(
            "decoder: a pickle of names that are numbers",
            pickled(
                f"{DECODER}/pytorch_model.bin",
                lambda torch: {3: torch.zeros(2)},
                removes=f"{DECODER}/{WEIGHTS}",
            ),
            "pytorch_model.bin",
        ),
        Hostile(
            "decoder: a pickle of a tensor of 4 TB",
            pickled(
                f"{DECODER}/pytorch_model.bin",
                lambda torch: {"a": torch.zeros(1).expand(2**40)},
                removes=f"{DECODER}/{WEIGHTS}",
            ),
            "pytorch_model.bin",
        ),
        Hostile(
            "decoder: a pickle of a sparse tensor",
            pickled(
                f"{DECODER}/pytorch_model.bin",
                lambda torch: {"a": torch.eye(3).to_sparse()},
                removes=f"{DECODER}/{WEIGHTS}",
            ),
            "pytorch_model.bin",
        ),
        Hostile("decoder: a compressed archive of 4 GB", bomb, "pytorch_model.bin"),
    ]
    rules: list[tuple[tuple[str, ...], Any, str | None]] = [
        (
            ("pre_tokenizer",),
            {
                "type": "Split",
                "pattern": {"Regex": "(a+)+$"},
                "behavior": "Isolated",
                "invert": False,
            },
            "tokenizer.json",
        ),
        (
            ("pre_tokenizer",),
            {"type": "Split", "pattern": {"Regex": "(("}, "behavior": "Isolated", "invert": False},
            "tokenizer.json",
        ),
        (
            ("decoder",),
            {"type": "Replace", "pattern": {"Regex": "(?:[a-z]+|w)*!"}, "content": ""},
            "tokenizer.json",
        ),
        (
            ("decoder",),
            {
                "type": "Sequence",
                "decoders": [{"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 10}]
                * 20,
            },
            "tokenizer.json",
        ),
        (
            ("normalizer",),
            {
                "type": "Sequence",
                "normalizers": [{"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}]
                * 60,
            },
            "tokenizer.json",
        ),
        (("normalizer",), 5, "tokenizer.json"),
        (
            ("normalizer",),
            {"type": "Replace", "pattern": {"Regex": "("}, "content": ""},
            None,
        ),
        (("version",), 3, None),
        (("model",), None, "tokenizer.json"),
        (("model",), {"type": "Evil"}, "tokenizer.json"),
        (("model", "vocab"), {}, "tokenizer.json|decoder"),
        (("model", "vocab"), [1], "tokenizer.json"),
        (("model", "vocab", "x" * 2000), 200, "tokenizer.json"),
        (("model", "vocab", "huge"), 2**40, "tokenizer.json|decoder"),
        (("added_tokens",), 3, "tokenizer.json"),
        (("added_tokens",), [{"id": 2**40, "content": "x"}], "tokenizer.json|decoder"),
        (
            ("padding",),
            {
                "strategy": {"Fixed": BIG},
                "direction": "Right",
                "pad_id": 0,
                "pad_type_id": 0,
                "pad_token": "x",
                "pad_to_multiple_of": None,
            },
            "",
        ),
        (
            ("truncation",),
            {"max_length": 0, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
            "",
        ),
    ]
    cases += [
        Hostile(f"tokenizer: {'.'.join(keys)[:40]} #{n}", edit(tokens, *keys, to=value), word)
        for n, (keys, value, word) in enumerate(rules)
    ]
    stated: list[tuple[str, Any, str | None]] = [
        ("auto_map", {"AutoTokenizer": ["evil.Evil", None]}, ""),
        ("tokenizer_file", "/dev/zero", ""),
        ("vocab_file", "/dev/zero", ""),
        ("chat_template", "{% for i in range(10**9) %}x{% endfor %}", ""),
        ("model_max_length", "long", ""),
        ("model_max_length", -1, ""),
        ("eos_token", {"a": 1}, "tokenizer_config.json|decoder"),
        ("eos_token", [1], "tokenizer_config.json|decoder"),
        ("added_tokens_decoder", {str(BIG): {"content": "x"}}, ""),
        ("added_tokens_decoder", [3], "tokenizer_config.json|decoder"),
        ("extra_special_tokens", 5, "tokenizer_config.json|decoder"),
        ("tokenizer_class", "os.system", ""),
        ("backend", "evil", ""),
        ("eos_token", "\x1b[31m", None),
        ("pad_token", None, None),
    ]
    cases += [
        Hostile(f"tokenizer_config: {key} = {short(value)}", edit(settings, key, to=value), word)
        for key, value, word in stated
    ]
    cases += [
        Hostile(
            "assignment: of another width", assignment(lambda s: None), "weights", "assignment"
        ),
        Hostile(
            "assignment: a block far away",
            assignment(lambda s: s.update({f"h.{BIG}.x": s["wte.weight"]})),
            "gpt2",
            "assignment",
        ),
        Hostile(
            "assignment: another width",
            assignment(lambda s: s.update({"wpe.weight": s["wpe.weight"][:, :3].clone()})),
            "gpt2",
            "assignment",
        ),
        Hostile(
            "assignment: positions are a vector",
            assignment(lambda s: s.update({"wpe.weight": s["wpe.weight"][0].clone()})),
            "gpt2",
            "assignment",
        ),
        Hostile(
            "assignment: blocks are named by words",
            assignment(lambda s: s.update({"h.x.y": s["wte.weight"]})),
            "gpt2",
            "assignment",
        ),
        Hostile(
            "assignment: vocabulary is a list",
            assignment(lambda s: None, encoder_json="[1]"),
            "encoder.json",
            "assignment",
        ),
        Hostile(
            "assignment: vocabulary is deep",
            assignment(lambda s: None, encoder_json=DEEP),
            "encoder.json",
            "assignment",
        ),
        Hostile(
            "assignment: ids are far away",
            assignment(lambda s: None, encoder_json='{"<|endoftext|>": 99999999999}'),
            "encoder.json",
            "assignment",
        ),
        Hostile(
            "assignment: not a number",
            assignment(lambda s: s["wte.weight"].fill_(float("nan"))),
            "finite",
            "assignment",
        ),
    ]
    return cases
