"""Random twins of captioners of the hub: a few thousand weights, in the layout of the real ones.

Each has its family's config class, processor, tokenizer and chat template; none can say anything.
"""

from __future__ import annotations

import json
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    BertTokenizer,
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
    CLIPImageProcessor,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3ImageProcessor,
    Gemma3Processor,
    GemmaTokenizer,
    GitConfig,
    GitForCausalLM,
    GitProcessor,
    GPT2Tokenizer,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessor,
    Idefics3Processor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    LlavaProcessor,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PaliGemmaProcessor,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    SiglipImageProcessor,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTImageProcessor,
)

WORDS = ["a", "red", "blue", "dog", "cat", "runs", "on", "the", "sea", "big"]
_TEXT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 512,
}
_LLAMA = {**_TEXT, "num_key_value_heads": 2}
_GEMMA = {**_LLAMA, "head_dim": 8}
_VIT = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 32,
    "patch_size": 8,
}
_SIZE = {"height": 32, "width": 32}
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}IMAGE"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def bytes_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges of a byte-level BPE that has the bytes and a few words whole."""
    vocabulary = {sign: i for i, sign in enumerate(sorted(ByteLevel.alphabet()))}
    merges: list[tuple[str, str]] = []
    for word in [*WORDS, *(f"Ġ{word}" for word in WORDS)]:
        whole = word[0]
        for sign in word[1:]:
            if whole + sign not in vocabulary:
                merges.append((whole, sign))
                vocabulary[whole + sign] = len(vocabulary)
            whole += sign
    return vocabulary, merges


def chat_tokenizer(kind: Any, *special: str, **named: str) -> Any:
    """A byte-level tokenizer with the special tokens of a chat; named: those with a name."""
    vocabulary, merges = bytes_vocabulary()
    ends = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    more = {"extra_special_tokens": named} if named else {}
    made = kind(vocab=vocabulary, merges=merges, **ends, **more)
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *special]
    made.add_special_tokens({"additional_special_tokens": tokens})
    return made


def bert_tokenizer() -> Any:
    signs = [*string.ascii_lowercase, *(f"##{s}" for s in string.ascii_lowercase), *".,'"]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *signs]
    known = {word: i for i, word in enumerate(dict.fromkeys(words))}
    return BertTokenizer(vocab=known)


def gemma_tokenizer(*special: str) -> Any:
    words = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "\n", "▁", *string.ascii_letters, *",.:"]
    known = {word: i for i, word in enumerate(words)}
    merges = []
    for word in WORDS:
        whole = "▁"
        for sign in word:
            if whole + sign not in known:
                merges.append((whole, sign))
                known[whole + sign] = len(known)
            whole += sign
    made = GemmaTokenizer(vocab=known, merges=merges)
    made.add_special_tokens({"additional_special_tokens": list(special)})
    return made


def _ends(tokenizer: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
    }


def vit_gpt2() -> tuple[Any, Any]:
    vocabulary, merges = bytes_vocabulary()
    tokenizer = GPT2Tokenizer(vocab=vocabulary, merges=merges)
    end = tokenizer.eos_token_id
    text = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    config = VisionEncoderDecoderConfig(
        encoder={"model_type": "vit", **_VIT},
        decoder={
            "model_type": "gpt2",
            **text,
            "vocab_size": len(tokenizer),
            "is_decoder": True,
            "add_cross_attention": True,
            "bos_token_id": end,
            "eos_token_id": end,
        },
        decoder_start_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        bos_token_id=end,
    )
    model = VisionEncoderDecoderModel(config)
    model.generation_config.update(
        decoder_start_token_id=end, eos_token_id=end, pad_token_id=end, bos_token_id=end
    )
    return model, (ViTImageProcessor(size=_SIZE), tokenizer)


def blip() -> tuple[Any, Any]:
    tokenizer = bert_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "[DEC]"})
    text = {
        **_TEXT,
        "encoder_hidden_size": 24,
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "sep_token_id": tokenizer.sep_token_id,
        "eos_token_id": tokenizer.sep_token_id,
        "pad_token_id": 0,
    }
    config = BlipConfig(text_config=text, vision_config=_VIT)
    processor = BlipProcessor(BlipImageProcessor(size=_SIZE), tokenizer)
    return BlipForConditionalGeneration(config), processor


def blip_2() -> tuple[Any, Any]:
    vocabulary, merges = bytes_vocabulary()
    tokenizer = GPT2Tokenizer(vocab=vocabulary, merges=merges, pad_token="<|endoftext|>")
    processor = Blip2Processor(BlipImageProcessor(size=_SIZE), tokenizer, num_query_tokens=4)
    config = Blip2Config(
        vision_config=_VIT,
        qformer_config={**_TEXT, "encoder_hidden_size": 24, "vocab_size": 10},
        text_config={
            "model_type": "opt",
            **{k: v for k, v in _TEXT.items() if k != "intermediate_size"},
            "ffn_dim": 48,
            "word_embed_proj_dim": 32,
            **_ends(tokenizer),
        },
        num_query_tokens=4,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    return Blip2ForConditionalGeneration(config), processor


def git() -> tuple[Any, Any]:
    tokenizer = bert_tokenizer()
    config = GitConfig(
        vision_config=_VIT,
        **_TEXT,
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
        pad_token_id=0,
    )
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=_SIZE)
    return GitForCausalLM(config), GitProcessor(images, tokenizer)


def llava() -> tuple[Any, Any]:
    tokenizer = chat_tokenizer(Qwen2Tokenizer, "<image>")
    processor = LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=_SIZE),
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT.replace("IMAGE", "<image>\n"),
    )
    config = LlavaConfig(
        vision_config={"model_type": "clip_vision_model", **_VIT},
        text_config={"model_type": "llama", **_LLAMA, **_ends(tokenizer)},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    return LlavaForConditionalGeneration(config), processor


def llava_next() -> tuple[Any, Any]:
    tokenizer = chat_tokenizer(Qwen2Tokenizer, "<image>")
    pinpoints = [[32, 64], [64, 32], [64, 64]]
    processor = LlavaNextProcessor(
        LlavaNextImageProcessor(
            size={"shortest_edge": 32}, crop_size=_SIZE, image_grid_pinpoints=pinpoints
        ),
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT.replace("IMAGE", "<image>\n"),
    )
    config = LlavaNextConfig(
        vision_config={"model_type": "clip_vision_model", **_VIT},
        text_config={"model_type": "llama", **_LLAMA, **_ends(tokenizer)},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=pinpoints,
    )
    return LlavaNextForConditionalGeneration(config), processor


def _qwen(
    config_class: Any, model_class: Any, vision: dict[str, Any], processor_class: Any = None
) -> tuple[Any, Any]:
    from transformers import Qwen2VLImageProcessor, Qwen2VLProcessor
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    marks = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    tokenizer = chat_tokenizer(Qwen2Tokenizer, *marks)
    start, end, image, video = map(tokenizer.convert_tokens_to_ids, marks)
    sizes = {"patch_size": 4, "merge_size": 2, "temporal_patch_size": 2}
    limits = {"shortest_edge": 16 * 16, "longest_edge": 40 * 40}
    processor = (processor_class or Qwen2VLProcessor)(
        Qwen2VLImageProcessor(size=limits, **sizes),
        tokenizer,
        Qwen2VLVideoProcessor(size=limits, **sizes),
        chat_template=CHAT.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>"),
    )
    config = config_class(
        vision_config={"patch_size": 4, "spatial_merge_size": 2, "depth": 2, **vision},
        text_config={
            **_GEMMA,
            **_ends(tokenizer),
            "rope_parameters": {
                "rope_type": "default",
                "mrope_section": [1, 1, 2],
                "rope_theta": 10000.0,
            },
        },
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=start,
        vision_end_token_id=end,
    )
    return model_class(config), processor


def qwen2_vl() -> tuple[Any, Any]:
    vision = {"embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2}
    return _qwen(Qwen2VLConfig, Qwen2VLForConditionalGeneration, vision)


def qwen2_5_vl() -> tuple[Any, Any]:
    vision = {
        "hidden_size": 32,
        "out_hidden_size": 32,
        "num_heads": 2,
        "intermediate_size": 48,
        "window_size": 16,
        "fullatt_block_indexes": [1],
    }
    return _qwen(Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, vision)


def qwen3_vl() -> tuple[Any, Any]:
    vision = {
        "hidden_size": 32,
        "out_hidden_size": 32,
        "num_heads": 2,
        "intermediate_size": 48,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0],
    }
    return _qwen(Qwen3VLConfig, Qwen3VLForConditionalGeneration, vision, Qwen3VLProcessor)


def _splits() -> dict[str, Any]:
    return {
        "size": {"longest_edge": 64},
        "max_image_size": {"longest_edge": 32},
        "do_image_splitting": True,
    }


def _idefics(config_class: Any, model_class: Any, processor_of: Any) -> tuple[Any, Any]:
    rows = [f"<row_{i}_col_{j}>" for i in range(1, 7) for j in range(1, 7)]
    marks = ["<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>", *rows]
    tokenizer = chat_tokenizer(GPT2Tokenizer, *marks)
    processor = processor_of(tokenizer)
    config = config_class(
        vision_config={**_VIT, "max_image_size": {"longest_edge": 32}},
        text_config={"model_type": "llama", **_LLAMA, **_ends(tokenizer)},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=tokenizer.pad_token_id,
    )
    return model_class(config), processor


def idefics3() -> tuple[Any, Any]:
    template = CHAT.replace("IMAGE", "<image>")

    def processor_of(tokenizer: Any) -> Any:
        images = Idefics3ImageProcessor(**_splits())
        return Idefics3Processor(images, tokenizer, image_seq_len=4, chat_template=template)

    return _idefics(Idefics3Config, Idefics3ForConditionalGeneration, processor_of)


def smolvlm() -> tuple[Any, Any]:
    from transformers import (
        SmolVLMConfig,
        SmolVLMForConditionalGeneration,
        SmolVLMImageProcessor,
        SmolVLMProcessor,
    )
    from transformers.models.smolvlm import processing_smolvlm
    from transformers.models.smolvlm.video_processing_smolvlm import SmolVLMVideoProcessor

    # it spells the numbers of videos, and is not installed everywhere
    processing_smolvlm.num2words = processing_smolvlm.num2words or str
    template = CHAT.replace("IMAGE", "<image>")

    def processor_of(tokenizer: Any) -> Any:
        images, videos = SmolVLMImageProcessor(**_splits()), SmolVLMVideoProcessor()
        return SmolVLMProcessor(images, tokenizer, videos, image_seq_len=4, chat_template=template)

    return _idefics(SmolVLMConfig, SmolVLMForConditionalGeneration, processor_of)


def paligemma() -> tuple[Any, Any]:
    tokenizer = gemma_tokenizer("<image>")
    images = SiglipImageProcessor(size=_SIZE)
    images.image_seq_length = 16
    processor = PaliGemmaProcessor(images, tokenizer)
    config = PaliGemmaConfig(
        vision_config={
            "model_type": "siglip_vision_model",
            **_VIT,
            "projection_dim": 32,
            "vision_use_head": False,
        },
        text_config={"model_type": "gemma", **_GEMMA, **_ends(tokenizer)},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        projection_dim=32,
        hidden_size=32,
        vocab_size=len(tokenizer),
    )
    return PaliGemmaForConditionalGeneration(config), processor


def gemma3() -> tuple[Any, Any]:
    marks = {
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
        "image_token": "<image_soft_token>",
    }
    tokenizer = gemma_tokenizer(*marks.values(), "<|im_start|>", "<|im_end|>")
    tokenizer = type(tokenizer)(
        vocab=tokenizer.get_vocab(), merges=tokenizer._merges, extra_special_tokens=marks
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    processor = Gemma3Processor(
        Gemma3ImageProcessor(size=_SIZE),
        tokenizer,
        chat_template=CHAT.replace("IMAGE", "<start_of_image>"),
        image_seq_length=4,
    )
    boi, eoi, image = map(tokenizer.convert_tokens_to_ids, marks.values())
    config = Gemma3Config(
        vision_config={"model_type": "siglip_vision_model", **_VIT, "vision_use_head": False},
        text_config={
            "model_type": "gemma3_text",
            "sliding_window": 256,
            "query_pre_attn_scalar": 1,  # of so few channels: attention that differs
            **_GEMMA,
            **_ends(tokenizer),
        },
        mm_tokens_per_image=4,
        boi_token_index=boi,
        eoi_token_index=eoi,
        image_token_index=image,
    )
    return Gemma3ForConditionalGeneration(config), processor


def internvl() -> tuple[Any, Any]:
    from transformers import GotOcr2ImageProcessor, InternVLProcessor, InternVLVideoProcessor

    named = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    tokenizer = chat_tokenizer(Qwen2Tokenizer, **named)
    processor = InternVLProcessor(
        GotOcr2ImageProcessor(size=_SIZE, crop_to_patches=True, min_patches=1, max_patches=4),
        tokenizer,
        InternVLVideoProcessor(size=_SIZE),
        image_seq_length=4,
        chat_template=CHAT.replace("IMAGE", "<IMG_CONTEXT>\n"),
    )
    config = InternVLConfig(
        vision_config={**_VIT, "image_size": [32, 32], "patch_size": [8, 8]},
        text_config={"model_type": "qwen2", **_LLAMA, **_ends(tokenizer)},
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
    )
    return InternVLForConditionalGeneration(config), processor


FAMILIES: dict[str, Callable[[], tuple[Any, Any]]] = {
    "vit-gpt2": vit_gpt2,
    "blip": blip,
    "blip-2": blip_2,
    "git": git,
    "llava": llava,
    "llava-next": llava_next,
    "qwen2-vl": qwen2_vl,
    "qwen2.5-vl": qwen2_5_vl,
    "qwen3-vl": qwen3_vl,
    "idefics3": idefics3,
    "smolvlm": smolvlm,
    "paligemma": paligemma,
    "gemma3": gemma3,
    "internvl": internvl,
}


_SEEDS = {"gemma3": 2}  # that say different words one after the other


def write_twin(family: str, folder: Path, seed: int = 0) -> Path:
    """A folder as the hub has it: weights, configs, processor, tokenizer, chat template."""
    torch.manual_seed(seed or _SEEDS.get(family, 0))
    model, processor = FAMILIES[family]()
    with torch.no_grad():  # large enough that words differ, and depend on the image
        for name, parameter in model.named_parameters():
            if name.endswith("query_tokens"):
                parameter.normal_()
            elif parameter.ndim > 1:
                # Gemma's embeddings, scaled and its head too, would say the last word again
                is_large = "gemma" in family and "embed_tokens" in name
                parameter.normal_(std=0.01 if is_large else 0.2)
    save_twin(model, processor, folder)
    return folder


def save_twin(model: Any, processor: Any, folder: Path) -> None:
    """processor: or an image processor and a tokenizer."""
    model.eval().save_pretrained(folder)
    if not isinstance(processor, tuple):
        _save_as_the_hub(processor, folder)
        return
    for part in processor:
        part.save_pretrained(folder)


def _save_as_the_hub(processor: Any, folder: Path) -> None:
    """The files of before transformers 5, as nearly all repositories have them."""
    processor.tokenizer.save_pretrained(folder)
    processor.image_processor.save_pretrained(folder)
    about = processor.to_dict()
    for part in ("image_processor", "tokenizer", "video_processor"):
        about.pop(part, None)
    (folder / "processor_config.json").write_text(json.dumps(about))
    if getattr(processor, "chat_template", None):
        (folder / "chat_template.json").write_text(
            json.dumps({"chat_template": processor.chat_template})
        )
    path = folder / "preprocessor_config.json"
    pixels = json.loads(path.read_text())
    pixels["processor_class"] = type(processor).__name__
    path.write_text(json.dumps(pixels))
