"""Image encoders in the layouts of transformers, open_clip and timm."""

from __future__ import annotations

from typing import Any

from tests.hostile.model_folders import (
    BIG,
    CONFIG,
    DEEP,
    ENCODER,
    TOKENIZER,
    WEIGHTS,
    Hostile,
    edit,
    every,
    header,
    of_first,
    put,
    short,
    special,
    spoil,
    tensors,
)


def encoder_cases() -> list[Hostile]:
    path, pixels = f"{ENCODER}/{CONFIG}", f"{ENCODER}/processor_config.json"
    vision, text, image = ("vision_config",), ("text_config",), ("image_processor",)
    changes: list[tuple[str, tuple[str, ...], Any, str]] = [
        (path, (*vision, "image_size"), 10**6, "weights"),
        (path, (*vision, "image_size"), 0, "encoder"),
        (path, (*vision, "image_size"), 64, "weights|encoder"),
        (path, (*vision, "patch_size"), 0, "encoder"),
        (path, (*vision, "patch_size"), 1, "weights|encoder"),
        (path, (*vision, "num_channels"), 10**8, "weights|encoder"),
        (path, (*vision, "num_hidden_layers"), BIG, "num_hidden_layers"),
        (path, (*vision, "hidden_size"), 10**7, "weights|encoder"),
        (path, (*vision,), [], "vision_config|encoder"),
        (path, (*vision,), None, "weights|encoder"),
        (path, (*text, "vocab_size"), BIG, "weights|encoder"),
        (path, (*text, "max_position_embeddings"), 10**9, "weights|encoder"),
        (path, (*text, "eos_token_id"), "x", "encoder"),
        (path, ("projection_dim",), 10**8, "weights|encoder"),
        (path, ("logit_scale_init_value",), "x", "encoder"),
        (path, ("model_type",), "nothing", "encoder"),
        (path, ("model_type",), "resnet", "encoder"),
        (pixels, (*image, "size"), {"shortest_edge": 10**6}, "processor_config.json"),
        (pixels, (*image, "size"), {"height": -1, "width": 5}, "encoder|processor"),
        (pixels, (*image, "size"), [], "encoder|processor"),
        (pixels, (*image, "size"), "big", "encoder|processor"),
        (pixels, (*image, "crop_size"), {"height": 10**6, "width": 10**6}, "processor"),
        (pixels, (*image, "crop_size"), {"height": 64, "width": 64}, "encoder"),
        (pixels, (*image, "image_mean"), [0.5], "encoder|processor"),
        (pixels, (*image, "image_mean"), "x", "encoder|processor"),
        (pixels, (*image, "image_std"), [0, 0, 0], "image_std"),
        (pixels, (*image, "image_std"), [float("nan")] * 3, "image_std"),
        (pixels, (*image, "rescale_factor"), 0, "rescale_factor"),
        (pixels, (*image, "rescale_factor"), "x", "rescale_factor"),
        (pixels, (*image, "resample"), 99, "encoder|processor"),
        (pixels, (*image, "image_processor_type"), "Evil", "encoder|processor"),
        (pixels, (*image, "auto_map"), {"AutoImageProcessor": "evil.Evil"}, ""),
        (f"{ENCODER}/tokenizer_config.json", ("model_max_length",), -5, ""),
        (f"{ENCODER}/tokenizer_config.json", ("model_max_length",), "x", ""),
    ]
    cases = [
        Hostile(
            f"encoder: {'.'.join(keys)} = {short(value)}",
            edit(file, *keys, to=value),
            word,
            "classify",
        )
        for file, keys, value, word in changes
    ]
    cases += [
        Hostile("encoder: it classifies", lambda root: None, "", "classify"),
        Hostile(
            "encoder: logits are not finite",
            tensors(f"{ENCODER}/{WEIGHTS}", lambda f: f["logit_scale"].fill_(1e30)),
            "finite",
            "classify",
        ),
        Hostile(
            "encoder: tokenizer.json is a list",
            put(f"{ENCODER}/{TOKENIZER}", "[]"),
            "tokenizer.json",
            "classify",
        ),
        Hostile(
            "encoder: tokenizer.json with a regex that hangs",
            edit(
                f"{ENCODER}/{TOKENIZER}",
                "pre_tokenizer",
                to={
                    "type": "Split",
                    "pattern": {"Regex": "(x+x+)+y"},
                    "behavior": "Isolated",
                    "invert": False,
                },
            ),
            "tokenizer.json",
            "classify",
        ),
    ]
    config, weights = "open_clip/open_clip_config.json", "open_clip/open_clip_model.safetensors"
    of_tower: list[tuple[tuple[str, ...], Any, str]] = [
        (("model_cfg",), [], "open_clip_config.json"),
        (("model_cfg", "embed_dim"), BIG, "open_clip"),
        (("model_cfg", "embed_dim"), "x", "open_clip"),
        (("model_cfg", "vision_cfg"), [], "open_clip"),
        (("model_cfg", "text_cfg"), "x", "open_clip"),
        (("model_cfg", "vision_cfg", "layers"), BIG, "layers"),
        (("model_cfg", "vision_cfg", "layers"), 500, "open_clip"),
        (("model_cfg", "vision_cfg", "width"), 10**7, "open_clip"),
        (("model_cfg", "vision_cfg", "patch_size"), 0, "open_clip"),
        (("model_cfg", "vision_cfg", "image_size"), 10**6, "open_clip"),
        (("model_cfg", "vision_cfg", "timm_model_name"), "vit_giant_patch14_224", "open_clip"),
        (("model_cfg", "text_cfg", "context_length"), 10**6, "open_clip"),
        (("model_cfg", "text_cfg", "vocab_size"), BIG, "open_clip"),
        (("model_cfg", "text_cfg", "hf_model_name"), "nobody/nothing", "nobody/nothing"),
        (("model_cfg", "text_cfg", "hf_tokenizer_name"), "nobody/nothing", "tokenizer"),
        (("model_cfg", "text_cfg", "hf_tokenizer_name"), 5, "open_clip"),
        (("model_cfg", "os"), "x", "open_clip"),
        (("preprocess_cfg", "mean"), "x", "open_clip"),
        (("preprocess_cfg", "std"), [0, 0, 0], "std"),
        (("preprocess_cfg", "interpolation"), "evil", "open_clip"),
        (("preprocess_cfg", "size"), 10**6, ""),
        (("preprocess_cfg",), [], "open_clip_config.json"),
    ]
    cases += [
        Hostile(
            f"open_clip: {'.'.join(keys)} = {short(v)}",
            edit(config, *keys, to=v),
            word,
            "open_clip",
        )
        for keys, v, word in of_tower
    ]
    cases += [
        Hostile("open_clip: it works", lambda root: None, "", "open_clip"),
        Hostile("open_clip: config is a list", put(config, "[]"), "open_clip", "open_clip"),
        Hostile("open_clip: config is deep", put(config, DEEP), "open_clip", "open_clip"),
        Hostile("open_clip: config is a pipe", special(config, "pipe"), "open_clip", "open_clip"),
        Hostile(
            "open_clip: not a number", tensors(weights, spoil(float("nan"))), "finite", "open_clip"
        ),
        Hostile(
            "open_clip: whole numbers",
            tensors(weights, every(lambda t: t.int())),
            "I32",
            "open_clip",
        ),
        Hostile(
            "open_clip: unknown dtype",
            header(weights, of_first(dtype="X")),
            "safetensors",
            "open_clip",
        ),
    ]
    config, weights = "timm/config.json", "timm/model.safetensors"
    of_timm: list[tuple[tuple[str, ...], Any, str]] = [
        (("architecture",), ["x"], "architecture"),
        (("architecture",), "vit_giant_patch14_224", "timm"),
        (("architecture",), "../../x", "timm"),
        (("pretrained_cfg",), [1], "pretrained_cfg"),
        (("pretrained_cfg", "input_size"), [3, 10**5, 10**5], "input_size"),
        (("pretrained_cfg", "input_size"), "x", "input_size"),
        (("pretrained_cfg", "input_size"), [4, 160, 160], ""),
        (("pretrained_cfg", "mean"), [1], "mean"),
        (("pretrained_cfg", "std"), [0, 0, 0], "std"),
        (("pretrained_cfg", "crop_pct"), 0, "crop_pct"),
        (("pretrained_cfg", "crop_pct"), 1e-9, "crop_pct"),
        (("pretrained_cfg", "interpolation"), 5, "timm"),
        (("pretrained_cfg", "url"), "http://127.0.0.1:9/x.pth", ""),
        (("pretrained_cfg", "hf_hub_id"), "nobody/nothing", ""),
        (("pretrained_cfg", "custom_load"), "hf", ""),
        (("pretrained_cfg", "source"), "hf-hub", ""),
        (("pretrained_cfg", "state_dict"), {"a": 1}, ""),
        (("model_args",), {"depth": BIG}, "depth"),
        (("model_args",), {"depth": 900}, "timm"),
        (("model_args",), {"embed_dim": 10**7}, "timm"),
        (("model_args",), {"img_size": 10**6}, "timm|img_size"),
        (("model_args",), {"pretrained": True}, "timm"),
        (("model_args",), {"checkpoint_path": "/dev/zero"}, "timm"),
        (("model_args",), [1], "model_args"),
        (("num_classes",), BIG, "timm"),
        (("num_classes",), "x", "timm"),
    ]
    cases += [
        Hostile(f"timm: {'.'.join(keys)} = {short(v)}", edit(config, *keys, to=v), word, "timm")
        for keys, v, word in of_timm
    ]
    cases += [
        Hostile("timm: it works", lambda root: None, "", "timm"),
        Hostile("timm: config is a list", put(config, "[]"), "timm", "timm"),
        Hostile("timm: config is deep", put(config, DEEP), "timm", "timm"),
        Hostile("timm: config is a pipe", special(config, "pipe"), "timm", "timm"),
        Hostile("timm: not a number", tensors(weights, spoil(float("nan"))), "finite", "timm"),
        Hostile("timm: whole numbers", tensors(weights, every(lambda t: t.int())), "I32", "timm"),
    ]
    return cases
