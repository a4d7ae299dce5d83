"""What models there are, what each needs, and which are already on this machine.

The short list is a file of its own, so it costs no import; the long ones are the libraries' own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import msgspec
from msgspec import Struct

from captune import storage
from captune.errors import MissingExtra, UserError
from captune.models.hub import own_place_of
from captune.models.lite import assets
from captune.models.load import ModelSpec, detect_layout, parse_spec

_WEIGHT_SUFFIXES = {".safetensors", ".bin", ".pt", ".pth"}


@dataclass(frozen=True)
class CatalogueEntry:
    """One model that `--model` takes.

    sides: "image + text", "image" where it can embed but not classify, "decoder" in `decoders`.
    licence: of the weights, None where the list does not say.
    extra: the extra of captune that must be installed, None where none is.
    download_bytes: what a first use fetches, None where unknown.
    cached: the folder that holds it, None where it would have to be fetched.
    """

    spec: str
    note: str
    sides: str = "image + text"
    licence: str | None = None
    extra: str | None = None
    download_bytes: int | None = None
    cached: Path | None = None


class _Example(Struct, frozen=True):
    """An entry of catalogue.json.

    Sizes are the parameters in float32; repositories as open_clip 3.3 and timm 1.0 resolve names.
    """

    spec: str
    note: str
    licence: str
    repo: str
    download_mb: int


@cache
def _examples(kind: str) -> list[_Example]:
    """kind: image_text or decoders."""
    data = Path(__file__).with_suffix(".json").read_bytes()
    return msgspec.json.decode(data, type=dict[str, list[_Example]])[kind]


def short_list() -> list[CatalogueEntry]:
    """The default, an example of each kind, and whatever else the caches hold. Imports no torch."""
    examples = _examples("image_text")
    entries = [_lite(), *map(_entry_of, examples)]
    known = {example.repo for example in examples}
    return entries + [entry for repo, entry in _cached_repositories() if repo not in known]


def decoders() -> list[CatalogueEntry]:
    """The language models that captions may be written with: the default and examples."""
    (lite,) = assets.ASSETS["lite-decoder"]
    default = CatalogueEntry(
        spec="lite",
        note="the default: SmolLM2-135M, from the package index, no hub",
        sides="decoder",
        licence=lite.licence,
        download_bytes=lite.download_bytes,
        cached=lite.folder if lite.is_cached() else None,
    )
    return [
        default,
        *(replace(_entry_of(example), sides="decoder") for example in _examples("decoders")),
    ]


def long_list(search: str = "") -> list[CatalogueEntry]:
    """Every entry of the short list, open_clip's and timm's whose spec or note holds `search`.

    Case does not count. Without open_clip installed its part is left out.
    """
    entries = {entry.spec: entry for entry in short_list()}
    for entry in (*_open_clip_list(), *_timm_list()):
        entries.setdefault(entry.spec, entry)
    wanted = search.lower()
    return [
        entry
        for entry in entries.values()
        if wanted in entry.spec.lower() or wanted in entry.note.lower()
    ]


def is_installed(spec: str) -> bool:
    """True when `spec` loads without a network: all its files are in a cache, or it is local."""
    parsed = parse_spec(spec)
    if parsed.kind == "lite":
        return _lite().cached is not None
    if parsed.folder is not None or parsed.file is not None:
        return True
    repo = _repository_of(parsed)
    return repo is not None and _place_of(repo) is not None


def require_extra(spec: str) -> None:
    """Raise MissingExtra where the library of `spec` is not installed."""
    if parse_spec(spec).kind == "open_clip" and not has_open_clip():
        raise MissingExtra(spec, "openclip")


def has_open_clip() -> bool:
    """Whether the library behind `open_clip:` is installed; does not import it."""
    return find_spec("open_clip") is not None


def _lite() -> CatalogueEntry:
    parts = assets.ASSETS["lite"]
    return CatalogueEntry(
        spec="lite",
        note="the default: small, from the package index, no hub",
        licence="Apache-2.0",
        download_bytes=sum(part.download_bytes for part in parts),
        cached=parts[0].folder.parent if assets.are_cached(parts) else None,
    )


def _entry_of(example: _Example) -> CatalogueEntry:
    kind = example.spec.partition(":")[0]
    return CatalogueEntry(
        spec=example.spec,
        note=example.note,
        sides="image" if kind == "timm" else "image + text",
        licence=example.licence,
        extra="openclip" if kind == "open_clip" else None,
        download_bytes=example.download_mb * 1_000_000,
        cached=_place_of(example.repo),
    )


def _open_clip_list() -> Iterator[CatalogueEntry]:
    if not has_open_clip():
        return
    import open_clip

    for name, tag in open_clip.list_pretrained():
        repo = (open_clip.get_pretrained_cfg(name, tag).get("hf_hub") or "").rstrip("/")
        yield CatalogueEntry(
            spec=f"open_clip:{name}/{tag}",
            note="in open_clip's list",
            extra="openclip",
            cached=_place_of(repo) if repo else None,
        )


def _timm_list() -> Iterator[CatalogueEntry]:
    import timm

    for name in timm.list_pretrained():
        config = timm.get_pretrained_cfg(name)
        yield CatalogueEntry(
            spec=f"timm:{name}",
            note="in timm's list",
            sides="image",
            licence=config.license if config else None,
            cached=_place_of(f"timm/{name}"),
        )


def _repository_of(spec: ModelSpec) -> str | None:
    if spec.repo is not None:
        return spec.repo
    known = next(
        (example.repo for example in _examples("image_text") if example.spec == spec.text), None
    )
    if known is None and spec.kind == "timm":
        return f"timm/{spec.name}"
    if known is None and has_open_clip():
        import open_clip

        config = open_clip.get_pretrained_cfg(spec.name, spec.tag or "")
        # `org/name/` or `org/name/weights.bin`
        return (config.get("hf_hub") or "").rpartition("/")[0] or None
    return known


def _place_of(repo: str) -> Path | None:
    """The folder with the weights of a hub repository: captune's own, or the hub library's."""
    own = own_place_of(repo)
    snapshots = storage.hub_cache() / f"models--{own.name}" / "snapshots"
    newest = sorted(_folders(snapshots), key=lambda path: path.stat().st_mtime, reverse=True)
    return next((place for place in (own, *newest) if _has_weights(place)), None)


def _cached_repositories() -> Iterator[tuple[str, CatalogueEntry]]:
    """Repositories in the caches that captune can load and that look at images."""
    own = storage.cache_folder() / "models"
    names = {path.name for path in _folders(own)}
    hub_names = {
        path.name for path in _folders(storage.hub_cache()) if path.name.startswith("models--")
    }
    names |= {name.removeprefix("models--") for name in hub_names}
    for name in sorted(names):
        repo = name.replace("--", "/", 1)
        place = _place_of(repo)
        if place is None:
            continue
        try:
            kind = detect_layout(place)
        except UserError:
            continue
        if kind == "hf" and not _sees(place):
            continue
        yield (
            repo,
            CatalogueEntry(
                spec=f"hf:{repo}" if kind == "hf" else f"{kind}:hf-hub:{repo}",
                note="in a cache of this machine",
                sides="image" if kind == "timm" else "image + text",
                extra="openclip" if kind == "open_clip" else None,
                cached=place,
            ),
        )


def _sees(folder: Path) -> bool:
    config = (folder / "config.json").read_text(encoding="utf-8", errors="replace")
    return '"vision_config"' in config


def _has_weights(folder: Path) -> bool:
    try:
        # a link into the hub's blobs that leads nowhere is an unfinished download
        return any(path.suffix in _WEIGHT_SUFFIXES and path.exists() for path in folder.iterdir())
    except OSError:
        return False


def _folders(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if path.is_dir()]
    except OSError:
        return []
