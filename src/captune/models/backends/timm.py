"""timm models, image side only: NAME of its list, a folder or repository, or NAME@FILE.

The pooled vector before the classifier (timm's num_classes=0), with timm's own evaluation transform
of the model's pretrained_cfg at its training size.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from captune.errors import UserError
from captune.json_yaml import json_kind
from captune.models import hub, vetting
from captune.models.encoders import (
    GridShape,
    ImageEncoder,
    ImageTextModel,
    PatchGrid,
    as_tokens,
    grid_of_features,
)
from captune.models.load import ModelSpec
from captune.models.preprocessing import preprocessing_id, without_torch_arithmetic
from captune.models.weights import (
    NoRandomValues,
    digest_of,
    load_state,
    weights_files,
    weights_id_of_file,
)
from captune_metrics.display import did_you_mean, printable

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_LARGEST_SIDE = 2048  # pixels
# where timm would take weights from; these are in the folder
_NOT_READ = ("url", "file", "source", "state_dict", "hf_hub_id", "hf_hub_filename", "custom_load")
_DECIDES_PIXELS = ("input_size", "interpolation", "mean", "std", "crop_pct")


def load(spec: ModelSpec, device: torch.device, dtype: torch.dtype) -> ImageTextModel:
    """Build the image encoder that `spec` names; it has no text side and no scoring.

    Raises UserError for an unknown name, weights that do not fit and a folder that does not say how
    its images were prepared; Offline where a hub would have to be asked.
    """
    if spec.name is not None:
        model, weights, licence = _from_list(spec)
    else:
        folder = spec.folder or hub.repository(str(spec.repo), _choose_in(spec), spec.text)
        model, weights, licence = _from_folder(folder, spec)
    with vetting.library_errors(f"{spec.text} is not an image encoder of timm"):
        model.reset_classifier(0)
        model = model.eval().requires_grad_(False)
    vetting.require_finite(model, spec)
    settings, transform = _preprocessing(model, spec)
    features, dimension = _yields(model, settings["input_size"], spec)
    weights_id = weights_id_of_file(weights)
    image_id = digest_of(weights_id, "timm", _architecture(model))
    return ImageTextModel(
        spec=spec.text,
        weights_id=weights_id,
        licence=licence,
        image=ImageEncoder(
            module=model.to(device=device, dtype=dtype),
            transform=transform,
            preprocessing_id=preprocessing_id("timm", **settings),
            weights_id=image_id,
            dimension=dimension,
            device=device,
            dtype=dtype,
            patches=_patches(model, features, settings, image_id),
        ),
        text=None,
        scoring=None,
    )


@torch.inference_mode()
def _yields(model: Any, input_size: Sequence[int], spec: ModelSpec) -> tuple[Any, int]:
    """The last features of one empty image, and how long its vector is.

    Raises UserError for a config whose images are of another size than its architecture takes.
    """
    size = f"{input_size[2]} x {input_size[1]} pixels"
    with vetting.library_errors(
        f"{spec.text}: its architecture does not take images of {size}, as its config prepares"
        " them; is fixed_input_size missing from the config?"
    ):
        features = model.forward_features(torch.zeros(1, *input_size))
        vectors = model.forward_head(features)
    vetting.require_finite_tensor(vectors, "what it computes of a picture", spec)
    return features, int(vectors.shape[-1])


def fetch(spec: ModelSpec, source: Path | None = None) -> list[Path]:
    """Put the weights of `spec` into a cache, out of `source` if given."""
    repo = spec.repo
    if spec.name is not None and spec.file is None:
        repo = _hub_repository(_entry(spec), spec)[0]
    if repo is None:
        raise UserError(f"{spec.text}: already local; there is nothing to fetch")
    choose = _choose_in(spec)
    if source is not None:
        return [hub.adopt(repo, source, choose)]
    return [hub.repository(repo, choose, spec.text)]


def _entry(spec: ModelSpec) -> Any:
    """timm's pretrained_cfg of a name, or UserError with the nearest one."""
    import timm

    name = str(spec.name)
    bare, _, tag = name.partition(".")
    if "/" in name:
        raise UserError(f"{spec.text}: not a name of timm; write timm:hf-hub:{name}")
    if not timm.is_model(bare):
        near = did_you_mean(name, timm.list_models(pretrained=True) if tag else timm.list_models())
        raise UserError(f"{spec.text}: timm has no model {bare!r}{near}")
    tags = [full for full in timm.list_pretrained(f"{bare}.*") if full.partition(".")[0] == bare]
    if tag and name not in tags:
        near = did_you_mean(name, tags)
        raise UserError(f"{spec.text}: timm has no weights {tag!r} for {bare}{near}")
    entry = timm.get_pretrained_cfg(name)
    if entry is None or not (tags or spec.file):
        raise UserError(f"{spec.text}: timm has no pretrained weights for {bare}")
    keys = (*_DECIDES_PIXELS, "crop_mode")
    entries = map(timm.get_pretrained_cfg, tags)
    prepared = {tuple(str(getattr(one, key)) for key in keys) for one in entries}
    if spec.file is not None and not tag and len(prepared) > 1:
        raise UserError(
            f"{spec.text}: the weights of {bare} are not all prepared alike; write the tag whose "
            f"preprocessing the file was trained with (timm:{tags[0]}@FILE, ...)"
        )
    return entry


def _hub_repository(entry: Any, spec: ModelSpec) -> tuple[str, str | None]:
    """Repository of timm's list entry, and the file's name where it is not the usual one."""
    repo = entry.hf_hub_id
    if not repo:
        where = (
            f"fetch {entry.url} and write {spec.text}@FILE" if entry.url else "it has no weights"
        )
        raise UserError(f"{spec.text}: in no hub repository; {where}")
    if repo.endswith("/"):
        repo = f"{repo}{entry.architecture}.{entry.tag}" if entry.tag else repo + entry.architecture
    return str(repo), entry.hf_hub_filename


def _choose_in(spec: ModelSpec) -> hub.Choose:
    own = _hub_repository(_entry(spec), spec)[1] if spec.name is not None else None
    wanted = [str(Path(own).with_suffix(".safetensors")), own] if own else list(_WEIGHTS)

    def choose(names: Sequence[str]) -> list[str]:
        weights = next((name for name in wanted if name in names), None)
        if weights is None:
            raise UserError(f"{spec.text}: no weights there (expected {wanted[0]})")
        if spec.name is None and "config.json" not in names:
            raise UserError(f"{spec.text}: no config.json there, so its architecture is unknown")
        return [weights, *(name for name in ("config.json", "README.md") if name in names)]

    return choose


def _from_list(spec: ModelSpec) -> tuple[Any, Path, str | None]:
    import timm

    entry = _entry(spec)
    if spec.file is not None:
        weights, licence = spec.file, None
    else:
        repo, _ = _hub_repository(entry, spec)
        folder = hub.repository(repo, _choose_in(spec), spec.text)
        chosen = _choose_in(spec)(sorted(path.name for path in folder.iterdir()))
        weights, licence = folder / chosen[0], hub.licence_of(folder) or entry.license
    state = load_state(weights)
    overlay: dict[str, Any] = {"state_dict": state, "file": "", "label_offset": 0}
    # The classifier is dropped afterwards; naming its size keeps timm's loading strict.
    classifier = entry.classifier
    first = classifier[0] if isinstance(classifier, tuple | list) else classifier
    overlay["num_classes"] = len(state.get(f"{first}.weight", ()))
    with hub.closed():
        model = _strictly(
            lambda: timm.create_model(
                spec.name,
                pretrained=True,
                pretrained_cfg_overlay=overlay,
                num_classes=overlay["num_classes"],
            ),
            weights,
            str(spec.name),
        )
    # timm keeps the whole checkpoint there.
    model.pretrained_cfg.pop("state_dict", None)
    return model, weights, licence


def _from_folder(folder: Path, spec: ModelSpec) -> tuple[Any, Path, str | None]:
    import timm

    found = weights_files(folder, _WEIGHTS)
    if not found:
        raise UserError(f"{folder} has no weights (expected {_WEIGHTS[0]})")
    path = folder / "config.json"
    if not path.exists():
        raise UserError(f"{folder} has no config.json, so its architecture is unknown")
    config = vetting.read_config(path)
    stated = _stated(config, path)
    if not timm.is_model(config["architecture"]):
        near = did_you_mean(config["architecture"], timm.list_models())
        raise UserError(f"{spec.text}: timm has no model {config['architecture']!r}{near}")
    tensors = vetting.vetted_weights(found, torch.float32, spec)
    arguments = config.get("model_args") or {}
    classes = config.get("num_classes", stated.get("num_classes"))
    sizes = arguments if classes is None else {"num_classes": classes, **arguments}

    def create() -> Any:
        # without memory first: a config may ask for more than any machine has
        with torch.device("meta"), vetting.no_larger_than(tensors, spec):
            timm.create_model(config["architecture"], pretrained=False, **sizes)
        with vetting.staged({"config.json": config, **vetting.staged_weights(found)}) as place:
            return timm.create_model(f"local-dir:{place}", pretrained=True)

    with hub.closed():
        model = _strictly(create, found[0], spec.text)
    return model, found[0], hub.licence_of(folder)


def _stated(config: dict[str, Any], path: Path) -> dict[str, Any]:
    """What a folder's config says of pixels, in `config` itself; only that remains of it.

    Raises UserError where something is missing, or can be no picture's.
    """
    shown = printable(path)
    stated = config.get("pretrained_cfg") or config  # the oldest files are flat
    for name, value in (("pretrained_cfg", stated), ("model_args", config.get("model_args") or {})):
        if not isinstance(value, dict):
            raise UserError(f"{shown}: {name} is {json_kind(value)}, and an object was expected")
    missing = [key for key in _DECIDES_PIXELS if stated.get(key) is None]
    if not isinstance(config.get("architecture"), str):
        missing = ["architecture"]
    if missing:
        raise UserError(
            f"{shown} does not say {missing[0]}, and a default would be a guess; take the file"
            " that came with the weights"
        )
    vetting.require_numbers(stated["input_size"], 3, f"{shown}: input_size", above=0)
    if any(type(n) is not int or n > _LARGEST_SIDE for n in stated["input_size"]):
        raise UserError(f"{shown}: input_size is over {_LARGEST_SIDE} pixels, or not whole numbers")
    vetting.require_numbers(stated["mean"], 3, f"{shown}: mean")
    vetting.require_numbers(stated["std"], 3, f"{shown}: std", above=0)
    vetting.require_numbers([stated["crop_pct"]], 1, f"{shown}: crop_pct", above=0.1)
    for name in config.get("model_args") or {}:
        if name.startswith(("pretrained", "checkpoint")):
            raise UserError(f"{shown}: model_args names {printable(name)}, which captune decides")
    for name in _NOT_READ:
        stated.pop(name, None)
    return stated


def _strictly(create: Any, weights: Path, name: str) -> Any:
    with (
        vetting.library_errors(f"{printable(weights)}: not the weights of {name}"),
        NoRandomValues(),
    ):
        return create()


def _preprocessing(model: Any, spec: ModelSpec) -> tuple[dict[str, Any], Any]:
    from timm.data import create_transform, resolve_model_data_config

    with vetting.library_errors(f"{spec.text}: its config makes no pixels of an image"):
        settings = resolve_model_data_config(model)
        transform = create_transform(**settings, is_training=False)
    if settings["input_size"][0] != 3:
        raise UserError(f"{spec.text} takes {settings['input_size'][0]} channels; images have 3")
    return settings, without_torch_arithmetic(transform)


def _patches(
    model: Any, features: Any, settings: dict[str, Any], weights_id: str
) -> PatchGrid | None:
    from timm.data import create_transform

    shape = grid_shape_of(model, features)
    if shape is None:
        return None
    whole = settings | {"crop_mode": "squash", "crop_pct": 1.0}
    return PatchGrid(
        shape=shape,
        cached_shape=(shape.tokens, shape.channels),
        encode=lambda pixels: last_features(model, pixels),
        transform=without_torch_arithmetic(create_transform(**whole, is_training=False)),
        preprocessing_id=preprocessing_id("timm", **whole),
        weights_id=weights_id,
    )


def last_features(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    """What forward_features yields, as tokens: after the last norm, or the map of a convolution."""
    return as_tokens(model.forward_features(pixels), _is_channels_last(model))


def grid_shape_of(model: Any, features: Any) -> GridShape | None:
    """The shape of what forward_features yielded, or None where it is no grid."""
    if not isinstance(features, torch.Tensor):
        return None
    return grid_of_features(
        features,
        leading=int(getattr(model, "num_prefix_tokens", 0)),
        places=getattr(getattr(model, "patch_embed", None), "grid_size", None),
        channels_last=_is_channels_last(model),
    )


def grid_of_trunk(trunk: Any, size: tuple[int, int]) -> GridShape | None:
    """`grid_shape_of` of another tower's trunk: a ViT states its shape, all else is run once.

    size: height and width of its images.
    """
    places = getattr(getattr(trunk, "patch_embed", None), "grid_size", None)
    leading = getattr(trunk, "num_prefix_tokens", None)
    if places is not None and leading is not None:
        rows, columns = map(int, places)
        tokens = int(leading + rows * columns)
        return GridShape(tokens, int(trunk.num_features), rows, columns, int(leading))
    parameter = next(trunk.parameters())
    with torch.inference_mode():
        blank = torch.zeros(1, 3, *size, device=parameter.device, dtype=parameter.dtype)
        return grid_shape_of(trunk, trunk.forward_features(blank))


def _is_channels_last(model: Any) -> bool:
    return str(getattr(model, "output_fmt", "NCHW")).endswith("NHWC")


def _architecture(model: Any) -> str:
    stated = {
        key: value
        for key, value in model.pretrained_cfg.items()
        if key in ("architecture", "input_size", "global_pool", "fixed_input_size")
    }
    return json.dumps(stated, sort_keys=True, default=str) + str(model)
