"""A model spec -> a model, by the loader of its kind."""

from __future__ import annotations

import importlib
from pathlib import Path

from captune.errors import UserError
from captune.models.devices import resolve_device, resolve_dtype
from captune.models.image_text import ImageTextModel
from captune.models.spec import Kind, ModelSpec, parse_spec

_LOADERS: dict[Kind, str] = {
    "lite": "captune.models.lite",
    "open_clip": "captune.models.from_open_clip",
    "hf": "captune.models.from_hugging_face",
    "timm": "captune.models.from_timm",
}


def backends() -> list[str]:
    """The kinds of model specs, by what loads them."""
    return list(_LOADERS)


def load_model(
    spec: str | ModelSpec = "lite", *, device: str = "auto", dtype: str = "auto"
) -> ImageTextModel:
    """Weights, preprocessing and tokenizer of `spec`, frozen, on `device` with `dtype`.

    Naming a hub's model fetches it when it is in no cache, and says so first; offline it is refused
    (errors.Offline). Raises UserError for whatever the user can mend.
    """
    parsed = parse_spec(spec)
    where = resolve_device(device)
    precision = resolve_dtype(dtype, where)
    loader = importlib.import_module(_LOADERS[parsed.kind])
    model: ImageTextModel = loader.load(parsed, where, precision)
    return model


def fetch_model(spec: str | ModelSpec, source: Path | None = None) -> list[Path]:
    """Put what `spec` needs into the caches without building the model.

    source: take it from this folder, without a network (`captune models fetch SPEC --from FOLDER`).
    Returns the folders that now hold it; a local folder, or `lite`, is its own loader's matter.
    """
    parsed = parse_spec(spec)
    loader = importlib.import_module(_LOADERS[parsed.kind])
    fetched: list[Path] = loader.fetch(parsed, source)
    return fetched


def load_image_text_model(
    spec: str | ModelSpec = "lite", *, device: str = "auto", dtype: str = "auto"
) -> ImageTextModel:
    """`load_model` for jobs that compare images with words.

    Raises UserError for a model without a text side.
    """
    model = load_model(spec, device=device, dtype=dtype)
    if model.text is None or model.scoring is None:
        raise UserError(
            f"{model.spec}: has no text side, so it can `embed` but not classify; "
            "use lite, open_clip:NAME/TAG or hf:REPO"
        )
    return model
