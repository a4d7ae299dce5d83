"""What `captune models` lists: the short list, what caches hold, the long lists filtered."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from captune import storage
from captune.errors import MissingExtra, UserError
from captune.models import catalogue
from captune.models.lite import assets
from captune.models.load import parse_spec


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def put_in_hub_cache(hub_cache: Path, repo: str, config: dict[str, object]) -> Path:
    snapshot = hub_cache / f"models--{repo.replace('/', '--')}" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text(json.dumps(config))
    (snapshot / "model.safetensors").write_bytes(b"x")
    return snapshot


def test_every_spec_of_the_short_list_can_be_parsed(hub_cache: Path) -> None:
    entries = catalogue.short_list()
    assert entries[0].spec == "lite"
    assert entries[0].licence == "Apache-2.0"
    for entry in entries:
        assert parse_spec(entry.spec).text == entry.spec
        assert entry.cached is None
        assert (entry.extra == "openclip") == entry.spec.startswith("open_clip:")
        assert (entry.sides == "image") == entry.spec.startswith("timm:")


def test_the_short_list_imports_no_torch() -> None:
    program = (
        "import sys; from captune.models.catalogue import short_list; short_list()\n"
        "assert not {'torch', 'timm', 'open_clip', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_examples_name_the_repositories_that_the_libraries_resolve() -> None:
    open_clip = pytest.importorskip("open_clip")
    import timm

    for example in catalogue._examples("image_text"):
        spec = parse_spec(example.spec)
        if spec.kind == "open_clip":
            repo = open_clip.get_pretrained_cfg(spec.name, spec.tag)["hf_hub"].rstrip("/")
        elif spec.kind == "timm":
            config = timm.get_pretrained_cfg(spec.name)
            repo = config.hf_hub_id
            assert config.license == example.licence.lower()
        else:
            repo = spec.repo
        assert repo == example.repo


def test_cached_models_are_found(hub_cache: Path) -> None:
    known = put_in_hub_cache(hub_cache, "openai/clip-vit-large-patch14", {"vision_config": {}})
    put_in_hub_cache(hub_cache, "me/my-clip", {"model_type": "clip", "vision_config": {}})
    put_in_hub_cache(hub_cache, "me/my-bert", {"model_type": "bert"})
    put_in_hub_cache(hub_cache, "me/my-resnet", {"architecture": "resnet18"})
    (hub_cache / "models--me--empty" / "snapshots" / "abc").mkdir(parents=True)
    own = storage.cache_folder() / "models" / "google--siglip2-base-patch16-224"
    own.mkdir(parents=True)
    (own / "model.safetensors").write_bytes(b"x")

    cached = {entry.spec: entry.cached for entry in catalogue.short_list() if entry.cached}
    assert cached.keys() == {
        "hf:openai/clip-vit-large-patch14",
        "hf:google/siglip2-base-patch16-224",
        "hf:me/my-clip",
        "timm:hf-hub:me/my-resnet",
    }
    assert cached["hf:openai/clip-vit-large-patch14"] == known
    assert catalogue.is_installed("hf:google/siglip2-base-patch16-224")
    assert not catalogue.is_installed("hf:me/empty")
    put_in_hub_cache(hub_cache, "timm/resnet18.a1_in1k", {"architecture": "resnet18"})
    assert catalogue.is_installed("timm:resnet18.a1_in1k")
    assert not catalogue.is_installed("open_clip:RN50/no-such-tag")


def test_lite_is_installed_when_all_its_parts_are(
    hub_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not catalogue.is_installed("lite")
    monkeypatch.setattr(assets.Asset, "is_cached", lambda self: True)
    assert catalogue.is_installed("lite")


def test_long_list_is_filtered(hub_cache: Path) -> None:
    pytest.importorskip("open_clip")
    entries = catalogue.long_list("SigLIP")
    kinds = {entry.spec.partition(":")[0] for entry in entries}
    assert kinds == {"open_clip", "hf", "timm"}
    assert all("siglip" in (entry.spec + entry.note).lower() for entry in entries)
    assert len(catalogue.long_list()) > 1000
    assert catalogue.long_list("no model is called this") == []


def test_open_clip_may_be_absent(hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "find_spec", lambda name: None)
    assert not any(entry.spec.startswith("open_clip:RN") for entry in catalogue.long_list("rn50"))
    with pytest.raises(MissingExtra, match=r"captune\[openclip\]"):
        catalogue.require_extra("open_clip:ViT-B-32/openai")
    catalogue.require_extra("lite")


def test_what_is_no_spec_is_refused() -> None:
    with pytest.raises(UserError):
        catalogue.is_installed("lightning")
