"""What a user may write as an image model, and the model that it names.

Language models are loaded by `decoders`, captioners of transformers by `vlm_files`.

A spec is read without importing any model library:

lite    lite-research (in the package captune-lite)
open_clip:NAME/TAG          open_clip:NAME/TAG@FILE     open_clip:FOLDER    open_clip:hf-hub:REPO
timm:NAME                   timm:NAME@FILE              timm:FOLDER         timm:hf-hub:REPO
hf:REPO                     hf:FOLDER
FOLDER                      (its layout says which library wrote it)
SPEC+mirrored               (each image seen twice, as it is and mirrored; the mean of both)
NAME:...                    (a backend of another package, an entry point of `captune.models`)
"""

from __future__ import annotations

import importlib
import re
import threading
from collections.abc import Callable, Container, Hashable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar

from captune.errors import UserError
from captune.files import home_path
from captune.json_yaml import read_object
from captune.registry import MODEL_PLUGINS
from captune_metrics.display import did_you_mean, quoted
from captune_metrics.plugins import plugins_of, source_of

if TYPE_CHECKING:
    from captune.models.encoders import ImageTextModel

T = TypeVar("T")
ModelKind = Literal["lite", "open_clip", "hf", "timm"]

MIRRORED = "+mirrored"
OPEN_CLIP_CONFIG = "open_clip_config.json"
OPEN_CLIP_WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
)
ASSIGNMENT = ("decoder_model.bin", "encoder.json", "vocab.bpe")  # of its decoder
_WRITTEN_AS = {
    "open_clip": "open_clip:NAME/TAG, as in open_clip:ViT-B-32/openai",
    "hf": "hf:REPO, as in hf:openai/clip-vit-base-patch32",
    "timm": "timm:NAME, as in timm:vit_base_patch16_clip_224.openai",
}
_LOADERS: dict[str, str] = {
    "lite": "captune.models.backends.lite",
    "open_clip": "captune.models.backends.open_clip",
    "hf": "captune.models.backends.huggingface",
    "timm": "captune.models.backends.timm",
}
_REPO = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_OPEN_CLIP_NAME = re.compile(r"(?i)(ViT|RN\d|convnext|coca|EVA|MobileCLIP|PE-)[\w.-]*$")
_WEIGHT_SUFFIXES = {".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".npz", ".onnx", ".gguf"}


@dataclass(frozen=True)
class ModelSpec:
    """A parsed spec; which of the fields are set says where the weights come from.

    text: as the user wrote it.
    kind: a `ModelKind`, or the name of another package's backend; `name` is then what follows it.
    name, tag: an entry of the library's own list (open_clip: both; timm: name, with its tag in it).
    repo: a repository of the model hub.
    folder: a local folder that holds weights, preprocessing and tokenizer.
    file: local weights for `name` (and `tag`), which still decide architecture and preprocessing.
    mirrored: whether each image is also seen mirrored, and the mean taken; no matter of loaders.
    """

    text: str
    kind: str
    name: str | None = None
    tag: str | None = None
    repo: str | None = None
    folder: Path | None = None
    file: Path | None = None
    mirrored: bool = False

    def __str__(self) -> str:
        return self.text


def parse_spec(text: str | ModelSpec) -> ModelSpec:
    """Read a model spec; the local file system is looked at, no library and no network is.

    Raises UserError for a spec that no kind reads, a bare weights file, a missing file or folder.
    Whether a name exists is known only to its library: the loaders check it.
    """
    if isinstance(text, ModelSpec):
        return text
    text = text.strip()
    if not text:
        raise UserError("no model was named; write lite, open_clip:NAME/TAG, hf:REPO, timm:NAME")
    if text in ("lite", "lite-research"):
        return ModelSpec(text, "lite")
    if text.endswith(MIRRORED):
        seen = parse_spec(text.removesuffix(MIRRORED))
        if seen.mirrored:
            raise UserError(f"{text} says {MIRRORED} twice")
        return replace(seen, text=text, mirrored=True)
    require_possible(Path(text), text)
    prefix, colon, rest = text.partition(":")
    if not colon or len(prefix) == 1:  # one letter is a Windows drive
        return _parse_bare(text)
    if prefix not in ("open_clip", "hf", "timm"):
        if rest and prefix in plugins_of(MODEL_PLUGINS):
            path = home_path(rest)
            return ModelSpec(text, prefix, name=rest, folder=path if path.is_dir() else None)
        if home_path(text).exists():
            return _parse_bare(text)
        raise UserError(
            f"{text}: there is no kind of model called {prefix!r}"
            f"{did_you_mean(prefix, backends())}; "
            "write lite, open_clip:NAME/TAG, hf:REPO, timm:NAME or a local folder"
        )
    if not rest:
        raise UserError(f"{text} says no model; write {_WRITTEN_AS[prefix]}")
    return _parse_prefixed(text, prefix, rest)  # type: ignore[arg-type]


def parse_decoder(text: str) -> ModelSpec:
    """Read the spec of a language model: lite, hf:REPO, or a local folder or file, which is there.

    Raises UserError for anything else, and for a folder that holds none.
    """
    if text == "lite":
        return ModelSpec(text, "lite")
    path = home_path(text.removeprefix("hf:"))
    require_possible(path, text)
    if path.is_dir() and not (path / ASSIGNMENT[0]).is_file():
        require_config({file.name for file in path.iterdir()}, str(path))
    if path.exists():
        return ModelSpec(text, "hf", folder=path)
    if not text.startswith("hf:"):
        raise UserError(
            f"{text}: no decoder and no folder; write lite, hf:REPO (as in"
            " hf:openai-community/gpt2), or a local folder"
        )
    return parse_spec(text)


def require_config(names: Container[str], where: str) -> None:
    """Raise UserError where the files of a language model have none that says what it is."""
    if "config.json" not in names:
        also = f", or for the assignment's decoder {', '.join(ASSIGNMENT)}"
        raise UserError(f"{where} has no config.json, so its architecture is unknown{also}")


def detect_layout(folder: Path) -> ModelKind:
    """The library whose layout `folder` has, or UserError.

    open_clip comes first where its weights are there: repositories of timm and LAION carry it
    beside a second model, and it has both sides.
    """
    path = folder / "config.json"
    config = read_object(path) if path.exists() else {}
    has_open_clip = (folder / OPEN_CLIP_CONFIG).is_file()
    if has_open_clip and any((folder / name).is_file() for name in OPEN_CLIP_WEIGHTS):
        return "open_clip"
    if "architecture" in config:  # also where transformers' timm wrapper added its model_type
        return "timm"
    if "model_type" in config:
        return "hf"
    if has_open_clip:
        return "open_clip"
    raise UserError(
        f"{folder}: no model in this folder; expected {OPEN_CLIP_CONFIG} (open_clip), or a "
        "config.json with model_type (hf) or architecture (timm), beside the weights"
    )


def require_possible(path: Path, text: str) -> None:
    """Raise UserError for what no file can be called, such as a name that is too long."""
    try:
        path.exists()
    except (OSError, ValueError):  # ValueError: a zero byte
        raise UserError(f"{quoted(text)} cannot be the name of a file or a model") from None


def _parse_prefixed(text: str, kind: ModelKind, rest: str) -> ModelSpec:
    path = home_path(rest)
    if path.is_dir():
        return ModelSpec(text, kind, folder=path)
    if kind == "hf":
        if path.is_file():
            _refuse_bare_file(text)
        return ModelSpec(text, kind, repo=_repo(text, rest))
    if rest.startswith("hf-hub:"):
        return ModelSpec(text, kind, repo=_repo(text, rest.removeprefix("hf-hub:")))
    if path.is_file():
        _refuse_bare_file(text)
    name, at, given_file = rest.partition("@")
    file = None
    if at:
        file = home_path(given_file)
        if not file.is_file():
            raise UserError(f"{text}: there is no weights file {given_file!r}; check the path")
    if _looks_like_path(name):
        raise UserError(f"{text}: there is no folder {name!r}; check the path")
    if kind == "timm":
        return ModelSpec(text, kind, name=name, file=file)
    name, _, tag = name.rpartition("/") if "/" in name else (name, "", "")
    # The tag carries mean, size, interpolation and activation, also where the weights are a file.
    return ModelSpec(text, kind, name=name.replace("/", "-"), tag=tag or None, file=file)


def _parse_bare(text: str) -> ModelSpec:
    path = home_path(text)
    if path.is_dir():
        return ModelSpec(text, detect_layout(path), folder=path)
    if path.is_file():
        _refuse_bare_file(text)
    if path.suffix in _WEIGHT_SUFFIXES or _looks_like_path(text):
        raise UserError(f"{text}: there is no such file or folder; check the path")
    if "/" in text:
        owner, _, rest = text.partition("/")
        likely = f"open_clip:{text}" if _OPEN_CLIP_NAME.match(owner) else f"hf:{text}"
        if _REPO.fullmatch(text) or likely.startswith("open_clip:"):
            kind = "a model of a hub" if rest else "a model"
            raise UserError(f"{text}: no such folder, and {kind} needs its prefix; write {likely}")
    raise UserError(
        f"{text}: neither a model spec nor a folder{did_you_mean(text, ('lite',))}; "
        "write lite, open_clip:NAME/TAG, hf:REPO, timm:NAME or a local folder"
    )


def _refuse_bare_file(text: str) -> NoReturn:
    file = text.split(":", 1)[1] if text.startswith(("open_clip:", "hf:", "timm:")) else text
    if file.lower().endswith((".json", ".yaml", ".yml")):
        raise UserError(
            f"{text} is a configuration, not weights; give the folder that holds both, or"
            " open_clip:NAME/TAG@WEIGHTS"
        )
    raise UserError(
        f"{text}: a weights file alone says neither architecture nor preprocessing; "
        f"write open_clip:NAME/TAG@{file} or timm:NAME@{file}, or give the folder it came in"
    )


def _repo(text: str, name: str) -> str:
    if not _REPO.fullmatch(name):
        raise UserError(
            f"{text}: neither a folder here nor a repository OWNER/NAME; check the path"
        )
    return name


def _looks_like_path(name: str) -> bool:
    return (
        name.startswith((".", "/", "~")) or "\\" in name or bool(re.match(r"[A-Za-z]:[/\\]", name))
    )


def backends() -> dict[str, str]:
    """The kinds of model specs -> the package that loads them, without importing any."""
    others = {name: source_of(point) for name, point in plugins_of(MODEL_PLUGINS).items()}
    return others | dict.fromkeys(_LOADERS, "captune")


def _loader(kind: str) -> Any:
    """What has `load` and `fetch` for a kind: a module of ours, or another package's object."""
    if kind in _LOADERS:
        return importlib.import_module(_LOADERS[kind])
    return plugins_of(MODEL_PLUGINS)[kind].load()


def load_model(
    spec: str | ModelSpec = "lite", *, device: str = "auto", dtype: str = "auto"
) -> ImageTextModel:
    """Weights, preprocessing and tokenizer of `spec`, frozen, on `device` with `dtype`.

    Naming a hub's model fetches it when it is in no cache, and says so first; offline it is refused
    (errors.Offline). Raises UserError for whatever the user can mend.
    """
    from captune.models.devices import resolve_device, resolve_dtype
    from captune.models.mirrored import both_ways

    parsed = parse_spec(spec)
    where = resolve_device(device)
    precision = resolve_dtype(dtype, where)
    model: ImageTextModel = _loader(parsed.kind).load(_plain(parsed), where, precision)
    if not parsed.mirrored:
        return model
    return replace(model, spec=parsed.text, image=both_ways(model.image))


def _plain(spec: ModelSpec) -> ModelSpec:
    return replace(spec, text=spec.text.removesuffix(MIRRORED), mirrored=False)


def fetch_model(spec: str | ModelSpec, source: Path | None = None) -> list[Path]:
    """Put what `spec` needs into the caches without building the model.

    source: take it from this folder, without a network (`captune models fetch SPEC --from FOLDER`).
    Returns the folders that now hold it; a local folder, or `lite`, is its own loader's matter.
    """
    parsed = _plain(parse_spec(spec))
    fetched: list[Path] = _loader(parsed.kind).fetch(parsed, source)
    return fetched


def load_image_text_model(
    spec: str | ModelSpec = "lite",
    *,
    device: str = "auto",
    dtype: str = "auto",
    loaded: Iterable[ImageTextModel | None] = (),
) -> ImageTextModel:
    """`load_model` for jobs that compare images with words.

    loaded: models that are there already, of which it may be one. Raises UserError for a model
    without a text side.
    """
    for known in loaded:
        if known is not None and known.spec == spec and known.text is not None:
            return known
    model = load_model(spec, device=device, dtype=dtype)
    if model.text is None or model.scoring is None:
        raise UserError(
            f"{model.spec} has no text side, so it can `embed` but not classify; "
            "use lite, open_clip:NAME/TAG or hf:REPO"
        )
    return model


_kept: dict[Hashable, Any] | None = None
_blocks = 0
_loading = threading.RLock()


@contextmanager
def keep_models() -> Iterator[None]:
    """Within, what classify, prompts, embed, score, caption and explain load stays for later calls.

    Of every thread, until the last such block ends: a model for each spec, device and precision. A
    captioner whose weights changed is loaded again; another model stays as it was read.
    """
    global _kept, _blocks
    with _loading:
        _kept, _blocks = {} if _kept is None else _kept, _blocks + 1
    try:
        yield
    finally:
        with _loading:
            _blocks -= 1
            _kept = _kept if _blocks else None


def kept(key: Hashable, load: Callable[[], T]) -> T:
    """What `load` gives; within `keep_models` it is asked once for each key."""
    models = _kept
    if models is None:
        return load()
    with _loading:
        if key not in models:
            models[key] = load()
        found: T = models[key]
        return found


def kept_model(load: Callable[..., ImageTextModel], options: Any) -> ImageTextModel:
    """The model of a command's options, by `load_model` or `load_image_text_model`; `kept`."""
    how = {"device": options.device, "dtype": options.dtype}
    return kept((load, options.model, *how.values()), lambda: load(options.model, **how))
