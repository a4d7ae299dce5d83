"""What a user may write as a model, and the sentence for what cannot be read."""

import json

import pytest

from captune.errors import UserError
from captune.models.load import ModelSpec, detect_layout, parse_spec
from captune_metrics.display import did_you_mean


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with one of each layout and a bare weights file."""
    monkeypatch.chdir(tmp_path)
    layouts = {
        "hf": {"config.json": {"model_type": "clip"}},
        "timm": {"config.json": {"architecture": "resnet10t", "pretrained_cfg": {}}},
        "open_clip": {"open_clip_config.json": {}, "open_clip_model.safetensors": {}},
        "both": {
            "config.json": {"architecture": "vit_base_patch32_clip_224"},
            "open_clip_config.json": {},
            "open_clip_pytorch_model.bin": {},
        },
        "wrapped": {"config.json": {"architecture": "resnet10t", "model_type": "timm_wrapper"}},
        "empty": {},
        "a@b": {"config.json": {"model_type": "siglip"}},
    }
    for name, files in layouts.items():
        (tmp_path / name).mkdir()
        for file, content in files.items():
            (tmp_path / name / file).write_text(json.dumps(content))
    (tmp_path / "weights.safetensors").write_bytes(b"")
    return tmp_path


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("lite", {"kind": "lite"}),
        (" lite ", {"kind": "lite"}),
        ("open_clip:ViT-B-32/openai", {"kind": "open_clip", "name": "ViT-B-32", "tag": "openai"}),
        ("open_clip:ViT-B/32/openai", {"kind": "open_clip", "name": "ViT-B-32", "tag": "openai"}),
        ("open_clip:hf-hub:org/name", {"kind": "open_clip", "repo": "org/name"}),
        ("hf:openai/clip-vit-base-patch32", {"kind": "hf", "repo": "openai/clip-vit-base-patch32"}),
        ("timm:vit_base.a_in1k", {"kind": "timm", "name": "vit_base.a_in1k"}),
        ("timm:hf-hub:org/name", {"kind": "timm", "repo": "org/name"}),
        ("lite+mirrored", {"kind": "lite", "mirrored": True}),
        ("hf:org/name+mirrored", {"kind": "hf", "repo": "org/name", "mirrored": True}),
    ],
)
def test_specs_without_files(text, fields):
    spec = parse_spec(text)
    assert spec == ModelSpec(text.strip(), **fields)
    assert parse_spec(spec) is spec
    assert str(spec) == text.strip()


@pytest.mark.parametrize(
    ("text", "kind", "folder_name"),
    [
        ("hf", "hf", "hf"),
        ("./hf", "hf", "hf"),
        ("hf:hf", "hf", "hf"),
        ("hf:a@b", "hf", "a@b"),
        ("a@b", "hf", "a@b"),
        ("timm", "timm", "timm"),
        ("timm:./timm", "timm", "timm"),
        ("wrapped", "timm", "wrapped"),
        ("open_clip", "open_clip", "open_clip"),
        ("open_clip:open_clip", "open_clip", "open_clip"),
        ("both", "open_clip", "both"),
        ("timm:both", "timm", "both"),
    ],
)
def test_folders(folder, text, kind, folder_name):
    spec = parse_spec(text)
    assert spec.kind == kind
    assert spec.folder.resolve() == folder / folder_name
    assert spec.name is spec.repo is spec.file is None


def test_a_file_takes_its_architecture_from_the_name(folder):
    spec = parse_spec("open_clip:ViT-B-32/openai@weights.safetensors")
    assert (spec.name, spec.tag, spec.file.name) == ("ViT-B-32", "openai", "weights.safetensors")
    spec = parse_spec("timm:resnet10t.c3_in1k@./weights.safetensors")
    assert (spec.name, spec.tag, spec.file.name) == (
        "resnet10t.c3_in1k",
        None,
        "weights.safetensors",
    )


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("weights.safetensors", "write open_clip:NAME/TAG@weights.safetensors or timm:NAME@"),
        ("open_clip:weights.safetensors", "a weights file alone says neither architecture"),
        ("timm:weights.safetensors", "a weights file alone says neither architecture"),
        ("hf:weights.safetensors", "a weights file alone says neither architecture"),
        ("open_clip:ViT-B-32/openai@gone.pt", "there is no weights file 'gone.pt'"),
        ("gone.safetensors", "no such file or folder"),
        ("./gone", "no such file or folder"),
        ("hf:./gone", "neither a folder here nor a repository"),
        ("open_clip:./gone", "there is no folder './gone'"),
        ("timm:/gone/away", "there is no folder"),
        ("empty", "no model in this folder"),
        ("open_clip:", "says no model; write open_clip:NAME/TAG"),
        ("openclip:ViT-B-32/openai", "did you mean open_clip?"),
        ("huggingface:x", "no kind of model called 'huggingface'"),
        ("light", "did you mean lite?"),
        ("ViT-B-32/openai", "write open_clip:ViT-B-32/openai"),
        ("openai/clip-vit-base-patch32", "write hf:openai/clip-vit-base-patch32"),
        ("hf/config.json", "is a configuration, not weights"),
        ("open_clip:hf/config.json", "is a configuration, not weights"),
        ("lite+mirrored+mirrored", "says +mirrored twice"),
        ("", "no model was named"),
        ("?", "neither a model spec nor a folder"),
    ],
)
def test_refusals_say_what_to_write(folder, text, sentence):
    with pytest.raises(UserError) as refused:
        parse_spec(text)
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_damaged_config_is_named(folder):
    (folder / "hf" / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json: not readable as JSON"):
        detect_layout(folder / "hf")


def test_did_you_mean():
    assert did_you_mean("vit-b-32/openai", ["ViT-B-32/openai", "RN50/openai"]) == (
        "; did you mean ViT-B-32/openai?"
    )
    assert did_you_mean("zzz", ["ViT-B-32/openai"]) == ""
