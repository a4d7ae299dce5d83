"""open_clip models: NAME/TAG of its list, a folder or repository in its layout, or a tag's FILE.

The architecture comes from open_clip's config, and what training decided beyond it (activation,
mean, interpolation, resize mode) from the tag, or from the folder's open_clip_config.json.
open_clip itself only warns when the two disagree about QuickGELU, and then computes another model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from captune.errors import MissingExtra, UserError
from captune.files import printable
from captune.models import hub
from captune.models.backends.open_clip_patches import patches_of
from captune.models.encoders import (
    ContextLength,
    ImageEncoder,
    ImageTextModel,
    Side,
    SimilarityScale,
    TextEncoder,
    similarity_scale,
)
from captune.models.load import OPEN_CLIP_CONFIG, OPEN_CLIP_WEIGHTS, ModelSpec, did_you_mean
from captune.models.preprocessing import preprocessing_id, without_torch_arithmetic
from captune.models.tokenizers import (
    VOCABULARIES,
    choose_tokenizer,
    count_tokens,
    require_known_tokens,
    tokenizer_files,
    vetted_tokenizer,
)
from captune.models.vetting import (
    library_errors,
    no_larger_than,
    read_config,
    require_finite,
    require_numbers,
    staged,
    vetted_weights,
)
from captune.models.weights import (
    NoRandomValues,
    digest_of,
    digest_of_files,
    weights_files,
    weights_id_of_file,
)

_CLIP_VOCABULARY = 49408  # of the tokenizer that open_clip carries with it


@dataclass(frozen=True)
class _Source:
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
    require_finite(model, spec)
    weights_id = weights_id_of_file(source.weights)
    scoring = _scoring(model, spec)
    model = model.to(device=device, dtype=dtype).eval().requires_grad_(False)
    image_id = digest_of(weights_id, digest_of("open_clip", source.config, source.quick_gelu))
    transform, pixels_id = _preprocessing(source, model.visual.image_size)
    whole = _preprocessing(source, model.visual.image_size, resize_mode="squash")
    tokenize, tokenizer_id, context = _tokenizer(source)
    dimension = int(source.config["embed_dim"])
    return ImageTextModel(
        spec=spec.text,
        weights_id=weights_id,
        licence=source.licence,
        image=ImageEncoder(
            module=Side(model, lambda m, pixels: m.encode_image(pixels, normalize=False)),
            transform=transform,
            preprocessing_id=pixels_id,
            weights_id=image_id,
            dimension=dimension,
            device=device,
            dtype=dtype,
            patches=patches_of(model.visual, *whole, image_id),
        ),
        text=TextEncoder(
            module=Side(model, lambda m, text: m.encode_text(text, normalize=False)),
            tokenize=tokenize,
            text_id=f"{image_id}-{tokenizer_id}",
            dimension=dimension,
            device=device,
            dtype=dtype,
            context=context,
        ),
        scoring=scoring,
    )


def fetch(spec: ModelSpec, source: Path | None = None) -> list[Path]:
    """Put weights and tokenizer of `spec` into the caches; returns the folders that hold them."""
    if source is not None:
        repo, choose = _repository_of(spec)
        hub.adopt(repo, source, choose)
        _adopt_tokenizer(spec, source)
    resolved = _resolve(spec, fetches=True)
    return sorted({resolved.weights.parent, *filter(None, [resolved.tokenizer])})


def _adopt_tokenizer(spec: ModelSpec, source: Path) -> None:
    """A tag may name its tokenizer by another repository; take it from `source` if it is there."""
    name = _entry(spec)[0]["text_cfg"].get("hf_tokenizer_name") if spec.name else None
    if name:
        with suppress(UserError):  # else the sentence about the missing repository follows
            hub.adopt(name, source, lambda names: choose_tokenizer(names, str(source)))


def _library() -> Any:
    try:
        import open_clip
    except ImportError:
        raise MissingExtra("an open_clip: model", "openclip") from None
    return open_clip


def _resolve(spec: ModelSpec, *, fetches: bool = False) -> _Source:
    """fetches: what a config names besides is brought here too, and not refused."""
    if spec.name is not None:
        return _with_local_text_tower(_from_tag(spec), spec)
    if spec.folder is not None:
        source = _from_folder(spec.folder, spec.folder)
    else:
        repo, choose = _repository_of(spec)
        source = _from_folder(hub.repository(repo, choose, spec.text), Path(repo))
    # the config of a folder or repository named it, and nobody typed its name
    with nullcontext() if fetches else hub.unasked(f"{spec.text}: its config"):
        return _with_local_text_tower(source, spec)


def _from_tag(spec: ModelSpec) -> _Source:
    config, tag = _entry(spec)
    if spec.file is not None:
        weights, licence = spec.file, None
    else:
        repo, choose = _repository_of(spec)
        folder = hub.repository(repo, choose, spec.text)
        weights, licence = _weights_in(folder, tag), hub.licence_of(folder)
    tokenizer_repo = config["text_cfg"].get("hf_tokenizer_name")
    tokenizer = None
    if tokenizer_repo:
        tokenizer = hub.repository(
            tokenizer_repo, lambda names: choose_tokenizer(names, tokenizer_repo), spec.text
        )
    # A tag states quick_gelu or leaves it to the architecture; it never takes it back.
    quick_gelu = bool(tag.get("quick_gelu", config.get("quick_gelu", False)))
    return _Source(spec.name or "", config, tag, quick_gelu, weights, tokenizer, licence)


def _from_folder(folder: Path, shown: Path) -> _Source:
    path = shown / OPEN_CLIP_CONFIG
    if not (folder / OPEN_CLIP_CONFIG).exists():
        raise UserError(
            f"{shown}: has no {OPEN_CLIP_CONFIG}, which says architecture and preprocessing; "
            "copy it there from where the weights came"
        )
    stated = read_config(folder / OPEN_CLIP_CONFIG)
    preprocess, config = (stated.get(name) or {} for name in ("preprocess_cfg", "model_cfg"))
    parts = [preprocess, config]
    if isinstance(config, dict):
        parts += [config.get("vision_cfg", {}), config.get("text_cfg", {})]
    if not all(isinstance(part, dict) for part in parts):
        raise UserError(f"{path}: model_cfg, its towers and preprocess_cfg must be objects")
    has_architecture = {"embed_dim", "vision_cfg", "text_cfg"} <= config.keys()
    if not has_architecture or not {"mean", "std"} <= preprocess.keys():
        raise UserError(
            f"{path}: expected model_cfg, and preprocess_cfg with mean and "
            "std; take the file that came with the weights"
        )
    require_numbers(preprocess["mean"], 3, f"{path}: mean")
    require_numbers(preprocess["std"], 3, f"{path}: std", above=0)
    for name in ("hf_model_name", "hf_tokenizer_name"):
        if not isinstance(config["text_cfg"].get(name) or "", str):
            raise UserError(f"{path}: {name} is no text")
    weights = _weights_in(folder, {})
    # open_clip takes a folder's tokenizer from the folder, whatever name the config carries.
    tokenizer = folder if config["text_cfg"].get("hf_tokenizer_name") else None
    return _Source(
        f"local-dir:{folder}",
        config,
        preprocess,
        bool(config.get("quick_gelu", False)),
        weights,
        tokenizer,
        hub.licence_of(folder),
    )


def _with_local_text_tower(source: _Source, spec: ModelSpec) -> _Source:
    """A text tower of transformers is named by repository: fetch its config as all files here."""
    name = source.config["text_cfg"].get("hf_model_name")
    if not name or Path(name).is_dir():
        return source

    def choose(names: Sequence[str]) -> list[str]:
        if "config.json" not in names:
            raise UserError(
                f"{name}: has no config.json, which {spec.text} takes its text side from"
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
    """Where the hub keeps the weights, and which files of it are needed."""
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

    def choose(names: Sequence[str]) -> list[str]:
        for name in _weight_names(tag):
            if name in names:
                return [name, *(other for other in ("README.md",) if other in names)]
        raise UserError(
            f"{repo}: holds no weights of {spec.text} (expected {_weight_names(tag)[0]})"
        )

    return repo, choose


def _choose_folder(names: Sequence[str], repo: str) -> list[str]:
    weights = next((name for name in OPEN_CLIP_WEIGHTS if name in names), None)
    if weights is None or OPEN_CLIP_CONFIG not in names:
        raise UserError(f"{repo}: not an open_clip repository ({OPEN_CLIP_CONFIG} and weights)")
    vocabularies = any(all(name in names for name in form) for form in VOCABULARIES)
    tokenizer = choose_tokenizer(names, repo) if vocabularies else []
    card = ["README.md"] if "README.md" in names else []
    return [OPEN_CLIP_CONFIG, weights, *tokenizer, *card]


def _weight_names(tag: Mapping[str, Any]) -> list[str]:
    """Names to look for, safetensors first; a tag may name its own file."""
    named = tag.get("hf_hub", "").rpartition("/")[2]
    if not named:
        return list(OPEN_CLIP_WEIGHTS)
    return [str(Path(named).with_suffix(".safetensors")), named]


def _weights_in(folder: Path, tag: Mapping[str, Any]) -> Path:
    found = weights_files(folder, _weight_names(tag))
    if not found:
        raise UserError(f"{folder}: has no weights (expected {' or '.join(_weight_names(tag))})")
    return found[0]


def _build(source: _Source) -> Any:
    """The model with its weights, in float32 on the CPU."""
    open_clip = _library()
    tensors = vetted_weights([source.weights], torch.float32, source.weights)

    def create(device: str = "cpu") -> Any:
        return open_clip.create_model(
            source.identifier,
            device=device,
            load_weights=False,
            pretrained_text=False,  # else transformers would fetch a tower's base weights
            quick_gelu=source.quick_gelu,
            text_cfg={**source.config["text_cfg"], "hf_model_pretrained": False},
        )

    shown = printable(str(source.weights))
    broken = f"{shown}: not the weights of {source.identifier}, check name and tag"
    with hub.closed(), library_errors(broken):
        with NoRandomValues():
            # without memory first: a config may ask for more than any machine has
            with torch.device("meta"), no_larger_than(tensors, source.weights):
                create("meta")
            model = create()
        expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        open_clip.load_checkpoint(model, str(source.weights), strict=True, weights_only=True)
    if "logit_bias" in expected and "logit_bias" not in tensors:
        raise UserError(
            f"{source.weights}: has no logit_bias, without which its sigmoid is a guess"
        )
    for name, (_, shape, *_) in tensors.items():
        # open_clip resizes position embeddings in silence; such a model was trained by nobody.
        if name.endswith("positional_embedding") and expected.get(name, shape) != shape:
            raise UserError(
                f"{source.weights}: {name} is {shape}, but {source.identifier} has "
                f"{expected[name]}; the weights are of another resolution or text length"
            )
    return model


def _scoring(model: Any, spec: ModelSpec) -> SimilarityScale:
    scale = float(model.logit_scale.detach().float().exp())
    bias = None if model.logit_bias is None else float(model.logit_bias.detach().float())
    return similarity_scale(scale, bias, spec.text)


def _preprocessing(source: _Source, image_size: Any, **changed: Any) -> tuple[Any, str]:
    from open_clip.transform import PreprocessCfg, image_transform_v2, merge_preprocess_dict

    # Old folders state only mean and std: the rest is then bicubic and shortest, the format's words
    # for what was the only way when they were written.
    settings = merge_preprocess_dict(PreprocessCfg(), source.preprocess)
    settings |= {"size": image_size, **changed}
    with library_errors(f"{source.identifier}: its preprocess_cfg makes no pixels of an image"):
        compose = image_transform_v2(PreprocessCfg(**settings), is_train=False)
    return without_torch_arithmetic(compose), preprocessing_id("open_clip", **settings)


def _tokenizer(source: _Source) -> tuple[Any, str, ContextLength]:
    from open_clip import tokenizer as tokenizers

    text = source.config["text_cfg"]
    length = text.get("context_length", tokenizers.DEFAULT_CONTEXT_LENGTH)
    options = dict(text.get("tokenizer_kwargs") or {})
    mode = text.get("tokenizer_mode")
    if source.tokenizer is not None:
        files = tokenizer_files(source.tokenizer)
        broken = f"{source.identifier}: its tokenizer cannot be read"
        with (
            staged(vetted_tokenizer(source.tokenizer)) as place,
            hub.closed(),
            library_errors(broken, place),
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
