"""transformers models with get_image_features: CLIP, SigLIP, SigLIP 2 and their relatives.

A folder (or repository) in the layout of save_pretrained: config.json, weights, preprocessor_config
(or processor_config) and tokenizer. Pixels and tokens are those of the folder's own processor.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from captune.errors import UserError
from captune.models import hub, vetting
from captune.models.encoders import (
    ContextLength,
    ImageEncoder,
    ImageTextModel,
    PatchGrid,
    Side,
    SimilarityScale,
    grid_of_features,
    normalise,
    similarity_scale,
)
from captune.models.load import ModelSpec
from captune.models.preprocessing import (
    PROCESSOR_FILES,
    image_transform,
    load_image_processor,
    whole_transform,
)
from captune.models.tokenizers import (
    choose_tokenizer,
    count_tokens,
    require_known_tokens,
    tokenizer_files,
    vetted_tokenizer,
)
from captune.models.weights import choose_weights, digest_of, digest_of_files, weights_id_of_file
from captune_metrics.display import printable

# Families whose logits a test compares with transformers' own; any other is compared when it loads.
_KNOWN_FAMILIES = {"clip", "siglip", "siglip2"}
_SIGLIP_PADDING = "max_length"  # it reads a text at the last of 64 positions, padding or not


def load(spec: ModelSpec, device: torch.device, dtype: torch.dtype) -> ImageTextModel:
    """Build the model of a folder or repository, with its processor, tokenizer and scoring.

    Raises UserError for a folder that lacks a part, for weights that leave a parameter untrained
    and for a model whose logits are no scaled cosine; Offline where a hub would have to be asked.
    """
    folder = _folder_of(spec)
    checkpoint = vetting.read_checkpoint(folder, torch.float32, spec)
    config = checkpoint.config
    with hub.closed():
        model = _build(checkpoint, spec)
        checkpoint.require_finite(model)
        weights_id = weights_id_of_file(checkpoint.files)
        processor = load_image_processor(folder, config)
        with vetting.library_errors(f"{spec.text} makes no pixels of a picture"):
            transform, pixels_id = image_transform(processor)
        has_text = hasattr(model, "get_text_features")
        tokenize, tokenizer_id, context = (
            _tokenizer(folder, config, model.config) if has_text else (None, "", None)
        )
    scoring = _scoring(model, spec) if has_text else None
    is_naflex = model.config.model_type == "siglip2"
    image_side = Side(model, _features_of_patches if is_naflex else _image_features)
    if tokenize and scoring and model.config.model_type not in _KNOWN_FAMILIES:
        _compare_with_own_logits(spec, model, image_side, transform, tokenize, scoring)
    dimension = _dimension(image_side, transform, spec)
    about = model.config.to_dict()
    for name in ("_name_or_path", "transformers_version"):
        about.pop(name, None)
    config_text = json.dumps(about, sort_keys=True, default=str)
    image_id = digest_of(weights_id, digest_of("hf", config_text))
    with hub.closed(), vetting.library_errors(f"{spec.text} cannot look at a whole picture"):
        patches = patches_of(model, processor, _noise(), image_id)
    model.to(device=device, dtype=dtype)

    image = ImageEncoder(
        image_side, transform, pixels_id, image_id, dimension, device, dtype, patches
    )
    text = None
    if tokenize is not None:
        text_id = f"{image_id}-{tokenizer_id}"
        text = image.text_side(Side(model, _text_features), tokenize, text_id, context)
    return ImageTextModel(spec.text, weights_id, hub.licence_of(folder), image, text, scoring)


def fetch(spec: ModelSpec, source: Path | None = None) -> list[Path]:
    """Put the repository of `spec` into a cache, out of `source` if given."""
    if source is not None:
        if spec.repo is None:
            raise UserError(f"{spec.text}: already local; there is nothing to fetch")
        return [hub.adopt(spec.repo, source, lambda names: _choose(names, str(source)))]
    return [_folder_of(spec)]


def _image_features(model: Any, pixels: Tensor) -> Tensor:
    return _pooled(model.get_image_features(pixel_values=pixels))


def _features_of_patches(model: Any, pixels: Tensor) -> Tensor:
    """SigLIP 2's NaFlex: the transform packs patches and their grid into one tensor an image."""
    packed = pixels[:, 0]  # [n, patches + 1, patch dimension]
    patches, grid = packed[:, :-1], packed[:, -1, :4].round().long()
    shapes = torch.stack((grid[:, 0] * 128 + grid[:, 1], grid[:, 2] * 128 + grid[:, 3]), dim=1)
    positions = torch.arange(patches.shape[1], device=pixels.device)
    mask = (positions < shapes.prod(dim=1, keepdim=True)).int()
    features = model.get_image_features(
        pixel_values=patches, pixel_attention_mask=mask, spatial_shapes=shapes
    )
    return _pooled(features)


def _text_features(model: Any, **tokens: Tensor) -> Tensor:
    return _pooled(model.get_text_features(**tokens))


def _pooled(features: Any) -> Tensor:
    """The projected vector, which transformers 5 returns inside an output object."""
    vector = features if isinstance(features, Tensor) else features.pooler_output
    if not isinstance(vector, Tensor) or vector.ndim != 2:
        raise UserError(
            "this model's features are not one vector per input; they cannot be compared"
        )
    return vector


def _folder_of(spec: ModelSpec) -> Path:
    if spec.folder is not None:
        _choose(sorted(path.name for path in spec.folder.iterdir()), str(spec.folder))
        return spec.folder
    repo = str(spec.repo)
    return hub.repository(repo, lambda names: _choose(names, repo), spec.text)


def _choose(names: Sequence[str], where: str) -> list[str]:
    weights = choose_weights(names, where)
    if not any(name in names for name in PROCESSOR_FILES):
        raise UserError(
            f"{where} has no preprocessor_config.json, so size, mean and crop are unknown; "
            "weights and preprocessing travel together: copy it there from where the model came"
        )
    more = [name for name in (*PROCESSOR_FILES, "README.md") if name in names]
    return [*weights, *more, *choose_tokenizer(names, where)]


def _build(checkpoint: vetting.Checkpoint, spec: ModelSpec) -> Any:
    from transformers import AutoConfig, AutoModel

    kind = f"{spec.text}: transformers cannot build it"
    with vetting.staged(checkpoint.parts) as place:
        with vetting.library_errors(kind, place):
            config = AutoConfig.from_pretrained(place, trust_remote_code=False)
        config.return_dict = True
        model = checkpoint.build(AutoModel, place, config, kind)
    if not hasattr(model, "get_image_features"):
        raise UserError(
            f"{spec.text}: a model of type {config.model_type} has no get_image_features; expected "
            "CLIP, SigLIP or a relative"
        )
    return model.requires_grad_(False)


def _scoring(model: Any, spec: ModelSpec) -> SimilarityScale:
    """exp(logit_scale), or one over ALIGN's temperature; a sigmoid where a bias was learnt too."""
    if isinstance(getattr(model, "logit_scale", None), Tensor):
        scale = float(model.logit_scale.exp())
    elif isinstance(getattr(model, "temperature", None), Tensor):
        scale = 1.0 / float(model.temperature)
    else:
        raise UserError(
            f"{spec.text}: its checkpoint has no logit scale to make a score of a cosine"
        )
    has_bias = isinstance(getattr(model, "logit_bias", None), Tensor)
    return similarity_scale(scale, float(model.logit_bias) if has_bias else None, spec.text)


def _tokenizer(
    folder: Path, stated: Mapping[str, Any], config: Any
) -> tuple[Any, str, ContextLength]:
    """Texts -> the text side's tensors, padded and cut as the model's processor does.

    stated: config.json. config: what transformers made of it.
    """
    from transformers import AutoTokenizer

    files = tokenizer_files(folder)
    where = printable(folder)
    parts = {"config.json": stated, **vetted_tokenizer(folder)}
    broken = f"{where} has no tokenizer.json, or the like, to be read"
    with vetting.staged(parts) as place, vetting.library_errors(broken, place):
        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
    text_config = getattr(config, "text_config", None) or config
    vocabulary = getattr(text_config, "vocab_size", None)
    options: dict[str, Any] = {"padding": True, **_processor_defaults(config)}
    if "siglip" in config.model_type:
        options["padding"] = _SIGLIP_PADDING
    positions = getattr(text_config, "max_position_embeddings", None)
    lengths = (options.get("max_length"), tokenizer.model_max_length, positions)
    known = [int(n) for n in lengths if isinstance(n, int | float) and 0 < n < 1_000_000]
    if not known:
        raise UserError(
            f"{folder}: neither config.json nor the tokenizer says how long a text may be; add "
            "model_max_length to tokenizer_config.json"
        )
    options |= {"truncation": True, "max_length": min(known)}

    def tokenize(texts: Sequence[str]) -> Mapping[str, Tensor]:
        with vetting.library_errors(f"{where}: its tokenizer fails"):
            tokens = dict(tokenizer(list(texts), return_tensors="pt", **options))
        require_known_tokens(tokens["input_ids"], vocabulary, str(folder))
        return tokens

    context = ContextLength(min(known), lambda texts: count_tokens(tokenizer, texts))
    return tokenize, digest_of(digest_of_files(files), options), context


def _processor_defaults(config: Any) -> dict[str, Any]:
    """The padding that a family's processor class prescribes (ALIGN: always 64 tokens)."""
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    try:
        processor = PROCESSOR_MAPPING[type(config)]
    except KeyError:
        return {}
    stated = getattr(processor, "text_kwargs", None)
    if not isinstance(stated, dict):  # transformers before 5.20 kept it one level deeper
        kwargs = getattr(processor, "valid_processor_kwargs", None)
        stated = (getattr(kwargs, "_defaults", None) or {}).get("text_kwargs", {})
    return dict(stated)


def _compare_with_own_logits(
    spec: ModelSpec,
    model: Any,
    image_side: nn.Module,
    transform: Any,
    tokenize: Any,
    scoring: SimilarityScale,
) -> None:
    """Raise UserError unless scaled cosines equal the model's own logits for an image and texts."""
    pixels = transform(_noise())[None]
    tokens = tokenize(["a photo of a cat", "two dogs"])
    kind = f"a model of type {model.config.model_type}"
    with (
        vetting.library_errors(f"{spec.text}: {kind} does not compare one picture with one text"),
        torch.inference_mode(),
    ):
        own = model(pixel_values=pixels, **tokens).logits_per_image.numpy()
        image, text = image_side(pixels).numpy(), _text_features(model, **tokens).numpy()
    ours = normalise(image) @ normalise(text).T * scoring.logit_scale + scoring.logit_bias
    if not np.allclose(ours, own, atol=1e-3 * max(1.0, abs(scoring.logit_scale))):
        raise UserError(
            f"{spec.text}: {kind} does not score by a scaled "
            "cosine, the only way captune compares picture and text"
        )


@torch.inference_mode()
def _dimension(image_side: nn.Module, transform: Any, spec: ModelSpec) -> int:
    with vetting.library_errors(f"{spec.text} cannot look at a picture as its processor makes it"):
        vectors = image_side(transform(_noise())[None])
    vetting.require_finite_tensor(vectors, "what it computes of a picture", spec)
    return int(vectors.shape[-1])


def _noise() -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((500, 400))


def patches_of(model: Any, processor: Any, image: Image.Image, weights_id: str) -> PatchGrid | None:
    """The grid of `model.vision_model`, or None where it has none of a fixed shape.

    Tokens are last_hidden_state, and always after the tower's last norm: SigLIP applies
    `post_layernorm` to all tokens itself, CLIP only to the CLS token on its way to the projection,
    and then it is applied to the others here. So the same CLIP weights give the same grid by
    transformers, open_clip and timm. Which of the two a model does is seen while it encodes
    `image`, not told from its name.
    """
    tower = getattr(model, "vision_model", None)
    found = whole_transform(processor, _size_of(processor, image))
    if tower is None or found is None:
        return None
    whole, whole_id = found
    norm = getattr(tower, "post_layernorm", None)
    seen: list[int] = []
    hook = norm.register_forward_hook(lambda _m, _i, out: seen.append(out.ndim)) if norm else None
    with torch.inference_mode(), hook or nullcontext():
        features = getattr(tower(pixel_values=whole(image)[None]), "last_hidden_state", None)
    if not isinstance(features, Tensor):
        return None
    patch = getattr(tower.config, "patch_size", None)
    height, width = whole(image).shape[1:]
    places = (height // patch, width // patch) if isinstance(patch, int) else None
    leading = features.shape[1] - places[0] * places[1] if places and features.ndim == 3 else 0
    if leading not in (0, 1):
        return None
    shape = grid_of_features(features, leading=leading, places=places)
    if shape is None:
        return None
    last = norm if norm is not None and seen and 3 not in seen else nn.Identity()

    def encode(pixels: Tensor) -> Tensor:
        tokens: Tensor = last(tower(pixel_values=pixels).last_hidden_state)
        return tokens

    return PatchGrid(shape, (shape.tokens, shape.channels), encode, whole, whole_id, weights_id)


def _size_of(processor: Any, image: Image.Image) -> tuple[int, int] | None:
    pixels = torch.as_tensor(processor(images=image, return_tensors="pt")["pixel_values"])
    return (int(pixels.shape[2]), int(pixels.shape[3])) if pixels.ndim == 4 else None
