"""open_clip models: NAME/TAG of its list, a folder or repository in its layout, or a tag's FILE.

The architecture comes from open_clip's config, and what training decided beyond it (activation,
mean, interpolation, resize mode) from the tag, or from the folder's open_clip_config.json.
open_clip itself only warns when the two disagree about QuickGELU, and then computes another model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from captune.errors import MissingExtra, UserError
from captune.models import hub, vetting
from captune.models.backends.timm import grid_of_trunk, last_features
from captune.models.encoders import (
    ContextLength,
    GridShape,
    ImageEncoder,
    ImageTextModel,
    PatchGrid,
    Side,
    as_tokens,
    similarity_scale,
)
from captune.models.load import OPEN_CLIP_CONFIG, OPEN_CLIP_WEIGHTS, ModelSpec
from captune.models.preprocessing import Transform, preprocessing_id, without_torch_arithmetic
from captune.models.tokenizers import (
    VOCABULARIES,
    choose_tokenizer,
    count_tokens,
    require_known_tokens,
    tokenizer_files,
    vetted_tokenizer,
)
from captune.models.weights import (
    NoRandomValues,
    digest_of,
    digest_of_files,
    weights_files,
    weights_id_of_file,
)
from captune_metrics.display import did_you_mean, printable

_CLIP_VOCABULARY = 49408  # of the tokenizer that open_clip carries with it


@dataclass(frozen=True)
class _Parts:
    """Everything that a model is built from, all of it local."""

    identifier: str  # what open_clip.create_model takes: NAME or local-dir:FOLDER
    config: dict[str, Any]  # embed_dim, vision_cfg, text_cfg, ...
    preprocess: dict[str, Any]
    quick_gelu: bool
    weights: Path
    tokenizer: Path | None  # folder of a Hugging Face tokenizer; None: open_clip's own
    licence: str | None = None


def load(spec: ModelSpec, device: torch.device, dtype: torch.dtype) -> ImageTextModel:
    """Build the model that `spec` names, with its own preprocessing, tokenizer and scoring.

    Raises UserError for an unknown name or tag and for weights that do not fit, Offline where a hub
    would have to be asked, MissingExtra without open_clip.
    """
    source = _resolve(spec)
    model = _build(source)
    vetting.require_finite(model, spec)
    weights_id = weights_id_of_file(source.weights)
    bias = model.logit_bias
    scoring = similarity_scale(
        float(model.logit_scale.detach().exp()),
        None if bias is None else float(bias.detach()),
        spec.text,
    )
    model = model.to(device=device, dtype=dtype).eval().requires_grad_(False)
    image_id = digest_of(weights_id, digest_of("open_clip", source.config, source.quick_gelu))
    transform, pixels_id = _preprocessing(source, model.visual.image_size)
    whole = _preprocessing(source, model.visual.image_size, resize_mode="squash")
    image = ImageEncoder(
        Side(model, lambda m, pixels: m.encode_image(pixels, normalize=False)),
        transform,
        pixels_id,
        image_id,
        int(source.config["embed_dim"]),
        device,
        dtype,
        patches_of(model.visual, *whole, image_id),
    )
    tokenize, tokenizer_id, context = _tokenizer(source)
    text = image.text_side(
        Side(model, lambda m, text: m.encode_text(text, normalize=False)),
        tokenize,
        f"{image_id}-{tokenizer_id}",
        context,
    )
    return ImageTextModel(spec.text, weights_id, source.licence, image, text, scoring)


def fetch(spec: ModelSpec, source: Path | None = None) -> list[Path]:
    """Put weights and tokenizer of `spec` into the caches; returns the folders that hold them."""
    if source is not None:
        repo, choose = _repository_of(spec)
        hub.adopt(repo, source, choose)
        # a tag may name its tokenizer by another repository
        other = _entry(spec)[0]["text_cfg"].get("hf_tokenizer_name") if spec.name else None
        if other:
            with suppress(UserError):  # else the sentence about the missing repository follows
                hub.adopt(other, source, lambda names: choose_tokenizer(names, str(source)))
    resolved = _resolve(spec, fetches=True)
    return sorted({resolved.weights.parent, *filter(None, [resolved.tokenizer])})


def _library() -> Any:
    try:
        import open_clip
    except ImportError:
        raise MissingExtra("an open_clip: model", "openclip") from None
    return open_clip


def _resolve(spec: ModelSpec, *, fetches: bool = False) -> _Parts:
    """fetches: what a config names besides is brought here too, and not refused."""
    if spec.name is not None:
        return _with_local_text_tower(_from_tag(spec), spec)
    if spec.folder is not None:
        source = _from_folder(spec.folder, spec.folder)
    else:
        repo, choose = _repository_of(spec)
        source = _from_folder(hub.repository(repo, choose, spec.text), Path(repo))
    # the config of a folder or repository named it, and nobody typed its name
    with hub.unasked(f"{spec.text}: its config", unless=fetches):
        return _with_local_text_tower(source, spec)


def _from_tag(spec: ModelSpec) -> _Parts:
    config, tag = _entry(spec)
    if spec.file is not None:
        weights, licence = spec.file, None
    else:
        repo, choose = _repository_of(spec)
        folder = hub.repository(repo, choose, spec.text)
        weights, licence = _weights_in(folder, tag), hub.licence_of(folder)
    tokenizer, named = None, config["text_cfg"].get("hf_tokenizer_name")
    if named:
        tokenizer = hub.repository(named, lambda names: choose_tokenizer(names, named), spec.text)
    # A tag states quick_gelu or leaves it to the architecture; it never takes it back.
    quick_gelu = bool(tag.get("quick_gelu", config.get("quick_gelu", False)))
    return _Parts(spec.name or "", config, tag, quick_gelu, weights, tokenizer, licence)


def _from_folder(folder: Path, shown: Path) -> _Parts:
    path = shown / OPEN_CLIP_CONFIG
    if not (folder / OPEN_CLIP_CONFIG).exists():
        raise UserError(
            f"{shown} has no {OPEN_CLIP_CONFIG}, which says architecture and preprocessing; "
            "copy it there from where the weights came"
        )
    stated = vetting.read_config(folder / OPEN_CLIP_CONFIG)
    preprocess, config = (stated.get(name) or {} for name in ("preprocess_cfg", "model_cfg"))
    names = ("vision_cfg", "text_cfg")
    towers = [config.get(name, {}) for name in names] if isinstance(config, dict) else []
    if not all(isinstance(part, dict) for part in (preprocess, config, *towers)):
        raise UserError(f"{path}: model_cfg, its towers and preprocess_cfg must be objects")
    has_architecture = {"embed_dim", "vision_cfg", "text_cfg"} <= config.keys()
    if not has_architecture or not {"mean", "std"} <= preprocess.keys():
        raise UserError(
            f"{path}: expected model_cfg, and preprocess_cfg with mean and "
            "std; take the file that came with the weights"
        )
    vetting.require_numbers(preprocess["mean"], 3, f"{path}: mean")
    vetting.require_numbers(preprocess["std"], 3, f"{path}: std", above=0)
    for name in ("hf_model_name", "hf_tokenizer_name"):
        if not isinstance(config["text_cfg"].get(name) or "", str):
            raise UserError(f"{path}: {name} is not a text")
    weights = _weights_in(folder, {})
    # open_clip takes a folder's tokenizer from the folder, whatever name the config carries.
    tokenizer = folder if config["text_cfg"].get("hf_tokenizer_name") else None
    return _Parts(
        f"local-dir:{folder}",
        config,
        preprocess,
        bool(config.get("quick_gelu", False)),
        weights,
        tokenizer,
        hub.licence_of(folder),
    )


def _with_local_text_tower(source: _Parts, spec: ModelSpec) -> _Parts:
    """A text tower of transformers is named by repository: fetch its config as all files here."""
    name = source.config["text_cfg"].get("hf_model_name")
    if not name or Path(name).is_dir():
        return source

    def choose(names: Sequence[str]) -> list[str]:
        if "config.json" not in names:
            raise UserError(
                f"{name} has no config.json, which {spec.text} takes its text side from"
            )
        return ["config.json"]

    folder = hub.repository(name, choose, spec.text)
    text = {**source.config["text_cfg"], "hf_model_name": str(folder)}
    return replace(source, config={**source.config, "text_cfg": text})


def _entry(spec: ModelSpec) -> tuple[dict[str, Any], dict[str, Any]]:
    """The architecture's config and the tag's, or UserError with the nearest name."""
    open_clip = _library()
    config = open_clip.get_model_config(spec.name)
    if config is None:
        pairs = [f"{name}/{tag}" for name, tag in open_clip.list_pretrained()]
        given = f"{spec.name}/{spec.tag}" if spec.tag else str(spec.name)
        near = did_you_mean(given, pairs if spec.tag else open_clip.list_models())
        near = near or "; a model of yours is a folder that holds open_clip_config.json"
        raise UserError(f"{spec.text}: open_clip has no model {spec.name!r}{near}")
    tags = open_clip.list_pretrained_tags_by_model(spec.name)
    tag = open_clip.get_pretrained_cfg(spec.name, spec.tag) if spec.tag else {}
    if not tag:
        given = f"no weights {spec.tag!r} for {spec.name}" if spec.tag else "weights not named"
        near = did_you_mean(spec.tag, tags) if spec.tag else ""
        raise UserError(
            f"{spec.text}: {given}{near or '; write one of its tags'} "
            f"(open_clip:{spec.name}/TAG with {', '.join(tags) or 'none in this version'})"
        )
    return config, dict(tag)


def _repository_of(spec: ModelSpec) -> tuple[str, hub.Choose]:
    if spec.repo is not None:
        return spec.repo, lambda names: _choose_folder(names, str(spec.repo))
    if spec.file is not None or spec.folder is not None:
        raise UserError(f"{spec.text}: already local; there is nothing to fetch")
    _, tag = _entry(spec)
    repo, _, _ = tag.get("hf_hub", "").rpartition("/")
    if not repo:
        raise UserError(
            f"{spec.text}: in no hub repository; fetch {tag.get('url')} and write {spec.text}@FILE"
        )

    wanted = _weight_names(tag)

    def choose(names: Sequence[str]) -> list[str]:
        weights = next((name for name in wanted if name in names), None)
        if weights is None:
            raise UserError(f"{repo} holds no weights of {spec.text} (expected {wanted[0]})")
        return [weights, *({"README.md"} & {*names})]

    return repo, choose


def _choose_folder(names: Sequence[str], repo: str) -> list[str]:
    weights = next((name for name in OPEN_CLIP_WEIGHTS if name in names), None)
    if weights is None or OPEN_CLIP_CONFIG not in names:
        raise UserError(f"{repo}: not an open_clip repository ({OPEN_CLIP_CONFIG} and weights)")
    vocabularies = any(all(name in names for name in form) for form in VOCABULARIES)
    tokenizer = choose_tokenizer(names, repo) if vocabularies else []
    return [OPEN_CLIP_CONFIG, weights, *tokenizer, *({"README.md"} & {*names})]


def _weight_names(tag: Mapping[str, Any]) -> list[str]:
    """Names to look for, safetensors first; a tag may name its own file."""
    named = tag.get("hf_hub", "").rpartition("/")[2]
    return [str(Path(named).with_suffix(".safetensors")), named] if named else [*OPEN_CLIP_WEIGHTS]


def _weights_in(folder: Path, tag: Mapping[str, Any]) -> Path:
    names = _weight_names(tag)
    found = weights_files(folder, names)
    if not found:
        raise UserError(f"{folder} has no weights (expected {' or '.join(names)})")
    return found[0]


def _build(source: _Parts) -> Any:
    open_clip = _library()
    tensors = vetting.vetted_weights([source.weights], torch.float32, source.weights)

    def create(device: str = "cpu") -> Any:
        return open_clip.create_model(
            source.identifier,
            device=device,
            load_weights=False,
            pretrained_text=False,  # else transformers would fetch a tower's base weights
            quick_gelu=source.quick_gelu,
            text_cfg={**source.config["text_cfg"], "hf_model_pretrained": False},
        )

    what = f"{source.weights}: not the weights of {source.identifier}, check name and tag"
    with hub.closed(), vetting.library_errors(printable(what)):
        with NoRandomValues():
            # without memory first: a config may ask for more than any machine has
            with torch.device("meta"), vetting.no_larger_than(tensors, source.weights):
                create("meta")
            model = create()
        expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        open_clip.load_checkpoint(model, str(source.weights), strict=True, weights_only=True)
    if "logit_bias" in expected and "logit_bias" not in tensors:
        raise UserError(f"{source.weights} has no logit_bias, without which its sigmoid is a guess")
    for name, (_, shape) in tensors.items():
        # open_clip resizes position embeddings in silence; such a model was trained by nobody.
        if name.endswith("positional_embedding") and expected.get(name, shape) != shape:
            raise UserError(
                f"{source.weights}: {name} is {shape}, but {source.identifier} has "
                f"{expected[name]}; the weights are of another resolution or text length"
            )
    return model


def _preprocessing(source: _Parts, image_size: Any, **changed: Any) -> tuple[Any, str]:
    from open_clip.transform import PreprocessCfg, image_transform_v2, merge_preprocess_dict

    # Old folders state only mean and std: the rest is then bicubic and shortest, the format's words
    # for what was the only way when they were written.
    settings = merge_preprocess_dict(PreprocessCfg(), source.preprocess)
    settings |= {"size": image_size, **changed}
    with vetting.library_errors(
        f"{source.identifier}: its preprocess_cfg makes no pixels of an image"
    ):
        compose = image_transform_v2(PreprocessCfg(**settings), is_train=False)
    return without_torch_arithmetic(compose), preprocessing_id("open_clip", **settings)


def _tokenizer(source: _Parts) -> tuple[Any, str, ContextLength]:
    from open_clip import tokenizer as tokenizers

    text = source.config["text_cfg"]
    length = text.get("context_length", tokenizers.DEFAULT_CONTEXT_LENGTH)
    options = dict(text.get("tokenizer_kwargs") or {})
    mode = text.get("tokenizer_mode")
    if source.tokenizer is not None:
        files = tokenizer_files(source.tokenizer)
        broken = f"{source.identifier}: its tokenizer cannot be read"
        with (
            vetting.staged(vetted_tokenizer(source.tokenizer)) as place,
            hub.closed(),
            vetting.library_errors(broken, place),
        ):
            tokenizer = tokenizers.HFTokenizer(
                str(place), context_length=length, tokenizer_mode=mode, **options
            )
        content = digest_of_files(files)
    else:
        tokenizer = tokenizers.SimpleTokenizer(context_length=length, **options)
        content = digest_of_files([Path(tokenizers.default_bpe())])
    # A tower of transformers has its vocabulary in its own config.
    known = None if text.get("hf_model_name") else text.get("vocab_size", _CLIP_VOCABULARY)

    def tokenize(texts: Sequence[str]) -> dict[str, Tensor]:
        tokens = tokenizer(list(texts))
        require_known_tokens(tokens, known, source.identifier)
        return {"text": tokens}

    def fits(text: str) -> bool:
        # Each token of open_clip's own tokenizer, which is slow, takes a character at least; what
        # is not plain ASCII may grow while it is cleaned.
        plain = source.tokenizer is None and "&" not in text and text.isascii()
        return plain and len(text.replace(" ", "")) <= length - 2

    context = ContextLength(length, lambda texts: _count_tokens(tokenizer, texts), fits)
    return tokenize, digest_of(content, length, mode, options), context


def _count_tokens(tokenizer: Any, texts: Sequence[str]) -> list[int]:
    """Tokens of each text before the cut, with those that the tokenizer puts around it."""
    if not hasattr(tokenizer, "tokenizer"):  # open_clip's own
        return [len(tokenizer.encode(text)) + 2 for text in texts]
    cleaned = [tokenizer.clean_fn(text) for text in texts]
    if tokenizer.tokenizer_mode == "clips":  # start, end and class token
        return [n + 3 for n in count_tokens(tokenizer.tokenizer, cleaned, special=False)]
    return count_tokens(tokenizer.tokenizer, cleaned)


def patches_of(visual: Any, whole: Transform, whole_id: str, weights_id: str) -> PatchGrid | None:
    """The grid of an image tower at its own width, before pooling; None where it has none.

    VisionTransformer: CLS and patches after the last block and, where the tower normalises tokens
    or the CLS token itself (CLIP), after `ln_post`; `proj` is not applied. ModifiedResNet: the map
    that its attention pool reads. A trunk of timm: its forward_features.
    """
    from open_clip.modified_resnet import ModifiedResNet
    from open_clip.timm_model import TimmModel
    from open_clip.transformer import VisionTransformer

    encode: Callable[[Tensor], Tensor]
    if isinstance(visual, VisionTransformer):
        rows, columns = (int(side) for side in visual.grid_size)
        width = int(visual.conv1.out_channels)
        shape: GridShape | None = GridShape(rows * columns + 1, width, rows, columns, leading=1)
        encode = partial(_tokens, visual)
    elif isinstance(visual, ModifiedResNet):
        size = visual.image_size
        rows, columns = (side // 32 for side in ((size, size) if isinstance(size, int) else size))
        shape = GridShape(rows * columns, int(visual.attnpool.q_proj.in_features), rows, columns)
        encode = partial(_map, visual)
    elif isinstance(visual, TimmModel):
        shape = grid_of_trunk(visual.trunk, visual.image_size)
        encode = partial(last_features, visual.trunk)
    else:
        return None
    if shape is None:
        return None
    return PatchGrid(shape, (shape.tokens, shape.channels), encode, whole, whole_id, weights_id)


def _tokens(visual: Any, pixels: Tensor) -> Tensor:
    # not where `ln_post` comes after pooling several tokens into one
    if visual.attn_pool is not None:
        normalises = visual.attn_pool_contrastive is not None
    else:
        normalises = not visual.final_ln_after_pool or visual.pool_type == "tok"
    found = visual.forward_intermediates(
        pixels,
        indices=1,
        normalize_intermediates=normalises,
        intermediates_only=True,
        output_fmt="NLC",
        output_extra_tokens=True,
    )
    leading, patches = found["image_intermediates_prefix"][-1], found["image_intermediates"][-1]
    return torch.cat([leading, patches], dim=1)


def _map(visual: Any, pixels: Tensor) -> Tensor:
    found = visual.forward_intermediates(pixels, indices=1, intermediates_only=True)
    return as_tokens(found["image_intermediates"][-1])
