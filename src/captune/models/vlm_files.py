"""A folder or a repository with a model that writes about images, looked through and then loaded.

The layout of save_pretrained: config.json, safetensors, the files of processor and tokenizer, a
chat template. No pickle is read and no code of the repository runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from captune.errors import UserError
from captune.files import read_text
from captune.json_yaml import read_object
from captune.models import hub, vetting
from captune.models.devices import resolve_device, resolve_dtype
from captune.models.preprocessing import PROCESSOR_FILES, check_pixels
from captune.models.quantised import cast_unquantised, check_stated, how_to_load, keep_unpacked
from captune.models.tokenizers import choose_tokenizer, tokenizer_files, vetted_tokenizer
from captune.models.vlm import VLM
from captune.models.weights import (
    TRANSFORMERS_WEIGHTS,
    choose_weights,
    digest_of,
    digest_of_files,
    weights_files,
    weights_id_of_file,
)
from captune_metrics.display import printable

_TEMPLATES = ("chat_template.json", "chat_template.jinja")
_GENERATION = "generation_config.json"
_LONGEST_TEMPLATE = 2**16
_MOST_PIXELS = 2**24  # processors that count an image's area
# how a model generates is its own matter as far as these; searches and lengths are ours
_OWN_WAYS = (
    *("repetition_penalty", "no_repeat_ngram_size", "length_penalty", "early_stopping"),
    *("suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "top_k", "top_p"),
)


def vlm_files(names: Sequence[str], where: str) -> list[str]:
    """Those files of a repository that a model is made of.

    Raises UserError for what is missing, and for weights that are no safetensors.
    """
    weights = choose_weights(names, where)
    if not any(name.endswith(".safetensors") for name in weights):
        raise UserError(
            f"{where} has its weights as a pickle only, which can run code; where you trust it,"
            " load it with transformers, write it with save_pretrained, and name that folder"
        )
    if not set(names) & set(PROCESSOR_FILES):
        raise UserError(f"{where} has no preprocessor_config.json, so it takes no images")
    more = {*PROCESSOR_FILES, *_TEMPLATES, _GENERATION, "video_preprocessor_config.json"}
    tokenizer = choose_tokenizer(names, where)
    return [*weights, *tokenizer, *(n for n in names if n in {*more, "README.md"})]


def load_vlm(
    folder: Path,
    spec: str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    quantise: str | None = None,
) -> VLM:
    """The model in `folder`, looked through before transformers reads it.

    quantise: 8bit or 4bit, what its weights become. Raises UserError for whatever the user can
    mend: a missing part, a pickle, code of its own.
    """
    from transformers import AutoConfig, AutoModelForImageTextToText
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    place_of, shown = resolve_device(device), printable(spec)
    vlm_files(sorted(path.name for path in folder.iterdir()), shown)
    computed = resolve_dtype(dtype, place_of)
    kept = computed if quantise is None else torch.int8
    checkpoint = vetting.read_checkpoint(folder, kept, shown, quantised=True)
    kind = f"{shown}: transformers cannot build it"
    parts = _parts(folder)
    with hub.closed():  # bitsandbytes speaks when it is imported
        how = how_to_load(checkpoint.config, quantise, computed, place_of)
    with vetting.staged({**checkpoint.parts, **parts}) as place, hub.closed():
        with vetting.library_errors(kind, place):
            config = AutoConfig.from_pretrained(place, trust_remote_code=False)
        if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
            raise UserError(
                f"{shown}: a {config.model_type} describes no images; take a captioner such as"
                " BLIP, GIT or Qwen-VL, or the --out of a captune tune"
            )
        config.return_dict = True
        model = checkpoint.build(AutoModelForImageTextToText, place, config, kind, **how)
        keep_unpacked(model)
        if how:
            cast_unquantised(model, computed)
        checkpoint.require_finite(model)
        with vetting.library_errors(f"{shown}: transformers cannot read its processor", place):
            processor, tokenizer = _processor(place)
        return VLM(spec, model, processor, tokenizer, place_of)


def described_vlm(folder: Path, spec: str) -> dict[str, Any]:
    """The model in `folder` as a run names it; nothing of it is built.

    processor_id: of all that makes pixels and tokens of an image and a prompt.
    """
    vlm_files(sorted(path.name for path in folder.iterdir()), printable(spec))
    config = vetting.read_config(folder / "config.json", quantised=True)
    check_stated(config, folder / "config.json")
    parts = _parts(folder)
    stated = [parts[name] for name in sorted(parts) if isinstance(parts[name], Mapping)]
    return {
        "spec": spec,
        "family": config["model_type"],
        "weights_id": weights_id_of_file(weights_files(folder, TRANSFORMERS_WEIGHTS)),
        "processor_id": digest_of(stated, digest_of_files(tokenizer_files(folder))),
        "licence": hub.licence_of(folder),
    }


def _processor(place: Path) -> tuple[Any, Any]:
    from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer

    processor = AutoProcessor.from_pretrained(place, trust_remote_code=False)
    if hasattr(processor, "image_processor"):
        return processor, processor.tokenizer
    tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
    return AutoImageProcessor.from_pretrained(place, trust_remote_code=False), tokenizer


def _parts(folder: Path) -> dict[str, Path | Mapping[str, Any]]:
    """Processor, tokenizer, template and the model's own way to generate, for `vetting.staged`."""
    parts = vetted_tokenizer(folder)
    for name in (*PROCESSOR_FILES, "video_preprocessor_config.json", "chat_template.json"):
        if (folder / name).is_file():
            parts[name] = stated = read_object(folder / name)
            vetting.check_numbers(stated, folder / name)
            for pixels in (stated, stated.get("image_processor")):
                if isinstance(pixels, dict):
                    pixels.pop("auto_map", None)
                    check_pixels(pixels, printable(folder / name), _MOST_PIXELS)
    if (folder / "chat_template.jinja").is_file():
        text = read_text(str(folder / "chat_template.jinja"))
        parts["chat_template.json"] = {"chat_template": text}
    elif (folder / "tokenizer_config.json").is_file() and "chat_template.json" not in parts:
        template = read_object(folder / "tokenizer_config.json").get("chat_template")
        if isinstance(template, str):
            parts["chat_template.json"] = {"chat_template": template}
    template = parts.get("chat_template.json")
    if isinstance(template, Mapping) and len(str(template)) > _LONGEST_TEMPLATE:
        raise UserError(f"{printable(folder)}: its chat template is too long to be one")
    if (folder / _GENERATION).is_file():
        stated = read_object(folder / _GENERATION)
        parts[_GENERATION] = {
            k: v for k, v in stated.items() if k in _OWN_WAYS or k.endswith("_token_id")
        }
    return parts
