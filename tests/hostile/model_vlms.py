"""A captioner of transformers: config, processor, chat template, tokenizer and weights that lie."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.hostile.model_folders import (
    BIG,
    CONFIG,
    DEEP,
    TOKENIZER,
    VLM,
    WEIGHTS,
    Change,
    Hostile,
    Runs,
    drop,
    edit,
    every,
    header,
    of_first,
    pickled,
    put,
    several,
    short,
    sparse_end,
    special,
    spoil,
    tensors,
)

_SAYS = "{% for message in messages %}<image>{{ message['content'][1]['text'] }}{% endfor %}"
# a chat template -> whether it must be refused
_TEMPLATES = {
    "loops without end": ("{% for i in range(99999) %}{% for j in range(99999) %}"
                          "{% for k in range(99999) %}{% endfor %}{% endfor %}{% endfor %}", True),
    "loops over a number": ("{% for i in range(10**9) %}{% endfor %}", True),
    "calls itself": ("{% macro f(n) %}{{ f(n + 1) }}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}", True),
    "reaches for classes": ("{{ ''.__class__.__mro__[1].__subclasses__() }}", None),
    "reaches for a module": ("{{ cycler.__init__.__globals__.os.system('touch PWNED') }}", True),
    "changes a list": ("{{ messages.append(1) }}", True),
    "includes a file": ("{% include '/etc/passwd' %}", True),
    "raises": ("{{ raise_exception('no') }}", True),
    "is no template": ("{% for", True),
    "has no image": ("nothing", True),
    "has many images": ("<image>" * 1000, True),
    "is not there": ("", None),
    "works": (_SAYS, False),
}  # fmt: skip


def vlm_cases() -> list[Hostile]:
    """Each of them asked for a caption."""
    path = f"{VLM}/{CONFIG}"
    named = "captioner of transformers"
    changes: list[tuple[tuple[str, ...], Any, str | None]] = [
        (("model_type",), "evil", "vlm"),
        (("model_type",), ["llava"], "vlm|model_type"),
        (("model_type",), "clip", "vlm|describes no images"),
        (("text_config",), None, None),
        (("text_config",), [1], "vlm"),
        (("text_config", "hidden_size"), BIG, "vlm"),
        (("text_config", "hidden_size"), "wide", "vlm"),
        (("text_config", "num_hidden_layers"), 10**9, "num_hidden_layers"),
        (("text_config", "num_hidden_layers"), 1000, "vlm|weights"),
        (("text_config", "num_hidden_layers"), 0, None),
        (("text_config", "vocab_size"), 10**8, "vlm|weights"),
        (("text_config", "vocab_size"), 3, "vlm"),
        (("text_config", "num_attention_heads"), 0, "vlm"),
        (("text_config", "eos_token_id"), "x", None),
        (("text_config", "eos_token_id"), BIG, None),
        (("text_config", "max_position_embeddings"), 4, "max-tokens"),
        (("text_config", "max_position_embeddings"), "x", None),
        (("vision_config",), None, None),
        (("vision_config", "image_size"), BIG, "vlm"),
        (("vision_config", "image_size"), 10**6, "vlm"),
        (("vision_config", "patch_size"), 0, "vlm"),
        (("vision_config", "patch_size"), -8, "vlm"),
        (("vision_config", "num_hidden_layers"), 10**6, "num_hidden_layers"),
        (("vision_config", "model_type"), "nothing", "vlm"),
        (("image_token_index",), BIG, "vlm"),
        (("image_token_index",), "x", None),
        (("image_token_index",), None, None),
        (("vision_feature_layer",), 10**6, None),
        (("vision_feature_select_strategy",), "evil", None),
        (("quantization_config",), {"quant_method": "gptq"}, "quantised by"),
        (("quantization_config",), {"quant_method": "bitsandbytes", "load_in_4bit": True}, "vlm"),
        (("quantization_config",), DEEP, "quantised by"),
        (("attn_implementation",), "nobody/kernel", "attn_implementation"),
    ]  # fmt: skip
    cases = [
        Hostile(
            f"{named}: {'.'.join(keys)} = {short(value)}", edit(path, *keys, to=value), word, "vlm"
        )
        for keys, value, word in changes
    ]
    for name, (text, refused) in _TEMPLATES.items():
        change = put(f"{VLM}/chat_template.json", json.dumps({"chat_template": text}))
        word = None if refused is None else "vlm" if refused else ""
        cases.append(Hostile(f"{named}: its chat template {name}", change, word, "vlm"))
    processor, pixels = f"{VLM}/processor_config.json", f"{VLM}/preprocessor_config.json"
    for file, key, value in (
        (processor, "patch_size", 0), (processor, "patch_size", "x"),
        (processor, "num_additional_image_tokens", 10**9), (processor, "processor_class", "Evil"),
        (processor, "processor_class", [1]), (processor, "auto_map", {"AutoProcessor": "evil.E"}),
        (pixels, "image_processor_type", "Evil"),
        (pixels, "crop_size", {"height": BIG, "width": 1}),
        (pixels, "crop_size", {"height": 10**6, "width": 10**6}), (pixels, "size", "x"),
        (pixels, "size", {"shortest_edge": 0}), (pixels, "image_std", [0, 0, 0]),
        (pixels, "image_mean", "x"), (pixels, "auto_map", {"AutoImageProcessor": "evil.E"}),
    ):  # fmt: skip
        name = f"{named}: {Path(file).name}: {key} = {short(value)}"
        cases.append(Hostile(name, edit(file, key, to=value), None, "vlm"))
    more: list[tuple[str, Change, str | None]] = [
        ("no processor", several(special(processor, "nothing"), special(pixels, "nothing")),
         "takes no images"),
        ("code of its own", several(
            edit(path, "auto_map", to={"AutoConfig": "evil.Evil"}),
            edit(path, "model_type", to="evil"), put(f"{VLM}/evil.py", "open('PWNED', 'w')")),
         "code"),
        ("a pickle", pickled(f"{VLM}/pytorch_model.bin", lambda torch: {"a": Runs()},
                             removes=f"{VLM}/{WEIGHTS}"), "pickle"),
        ("half of its weights", _half, WEIGHTS),
        ("weights that end in a hole", sparse_end(f"{VLM}/{WEIGHTS}"), WEIGHTS),
        ("weights of a false size", header(f"{VLM}/{WEIGHTS}", of_first(shape=[BIG])), WEIGHTS),
        ("a tensor less", tensors(f"{VLM}/{WEIGHTS}", drop), "weights"),
        ("weights that are no numbers", tensors(f"{VLM}/{WEIGHTS}", spoil(float("nan"))), "finite"),
        ("weights of whole numbers", tensors(f"{VLM}/{WEIGHTS}", every(lambda t: t.int())), "I32"),
        ("a tokenizer of millions", _millions, "vlm"),
        ("a tokenizer of another", put(f"{VLM}/{TOKENIZER}", "{}"), "processor"),
    ]  # fmt: skip
    for file, word in (
        (CONFIG, CONFIG), (WEIGHTS, "weights"), (TOKENIZER, TOKENIZER),
        ("preprocessor_config.json", "processor"), ("chat_template.json", None),
    ):  # fmt: skip
        for kind in ("pipe", "/dev/zero"):
            more.append((f"{file} is {kind}", special(f"{VLM}/{file}", kind), word))
    return [
        *cases,
        *(Hostile(f"{named}: {name}", change, word, "vlm") for name, change, word in more),
    ]


def _half(root: Path) -> None:
    path = root / VLM / WEIGHTS
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _millions(root: Path) -> None:
    path = root / VLM / TOKENIZER
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary |= {f"x{n}": len(vocabulary) + n for n in range(2 * 10**6)}
    path.write_text(json.dumps(content))
