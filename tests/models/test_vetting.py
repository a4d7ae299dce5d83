"""What is looked at before a library reads a folder that somebody else may have made."""

from __future__ import annotations

import json
import os
import struct
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import save, save_file
from torch import nn

from captune.errors import UserError
from captune.json_yaml import read_object
from captune.models import vetting
from captune.models.tokenizers import vetted_tokenizer
from captune.models.vetting import (
    Checkpoint,
    library_errors,
    no_larger_than,
    read_config,
    require_finite,
    staged,
)
from captune.models.weights import (
    TensorInfo,
    describe_tensors,
    require_floating,
    safetensors_header,
)

GPT2_SPLITS = (
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{M}]*[\p{Ll}\p{M}]+(?i:'s|'t|'re)?|\p{N}{1,3}|\s*[\r\n]+|\s+",
    r"\p{N}{1,3}(?=(?:\p{N}{3})*(?:\P{N}|$))",
    r" ?[^(\s|[.,!?…。，、।۔،])]+",
)
NEVER_ENDING = (r"(a+)+$", r"(?:a|aa)*b", r"(x+x+)+y", r"((a{1,3}))+", r"a*a*a*a*b")


def test_a_header_accounts_for_every_byte(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    tensors = {"a": torch.zeros(2, 3), "b": torch.zeros(4, dtype=torch.float16)}
    path.write_bytes(save(tensors))
    found = safetensors_header(path)
    assert {name: (t.dtype, t.shape) for name, t in found.items()} == {
        "a": ("F32", (2, 3)),
        "b": ("F16", (4,)),
    }
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(UserError, match="file not fully covered"):
        safetensors_header(path)
    for header, reason in (
        ({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 4]}}, "invalid shape"),
        ({"a": {"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 4]}}, "expected usize"),
        ({"a": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}, "unknown variant"),
        ({"a": []}, "invalid length"),
        ([], "invalid type"),
    ):
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))
        with pytest.raises(UserError, match=f"complete safetensors file .*{reason}"):
            safetensors_header(path)
    wide = {"a": {"dtype": "F32", "shape": [1] * 100_000, "data_offsets": [0, 4]}}
    text = json.dumps(wide).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))
    with pytest.raises(UserError, match=r'a\.safetensors: "a" has 100,000 dimensions'):
        safetensors_header(path)


def test_masks_may_be_whole_numbers_and_weights_may_not() -> None:
    require_floating({"h.0.attn.bias": TensorInfo("U8", (1,))}, "model")
    with pytest.raises(UserError, match=r"model: h\.0\.weight is of I32"):
        require_floating({"h.0.weight": TensorInfo("I32", (1,))}, "model")


def test_json_is_read_whole_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    for text, reason in (
        ("[1]", "holds a list"),
        ("[" * 100_000, "is nested too deeply"),
        ("{", "not readable as JSON"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=rf"config\.json:? {reason}"):
            read_object(path)
    path.unlink()
    if not hasattr(os, "mkfifo"):  # Windows
        return
    os.mkfifo(path)
    with pytest.raises(UserError, match="cannot be read"):
        read_object(path)
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(UserError, match="cannot be read"):
        read_object(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_hidden_layers", 10**6),
        ("depths", [2, 10**6]),
        ("num_labels", 10**9),
        ("hidden_size", 10**30),
        ("attn_implementation", "somebody/kernel"),
        ("quantization_config", {}),
        ("transformers_weights", "../x.safetensors"),
    ],
)
def test_a_config_that_no_model_has(name: str, value: object, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"text_config": {name: value}} if "_" in name else {name: value}))
    if name in ("quantization_config", "transformers_weights"):
        path.write_text(json.dumps({name: value}))
    with pytest.raises(UserError, match=name):
        read_config(path)
    path.write_text(json.dumps({"num_hidden_layers": 96, "rope_theta": 10_000_000}))
    assert read_config(path)["num_hidden_layers"] == 96


def test_a_model_that_its_weights_cannot_fill_is_not_built() -> None:
    tensors = {"weight": TensorInfo("F32", (4, 4))}
    with torch.device("meta"):
        with no_larger_than(tensors, "model"):
            nn.Linear(64, 64)
        refused = pytest.raises(UserError, match="model: its config asks for more")
        with refused, no_larger_than(tensors, "model"):
            nn.Linear(10_000, 10_000)
        refused = pytest.raises(UserError, match="more layers")
        with refused, no_larger_than(tensors, "model"):
            nn.ModuleList(nn.Identity() for _ in range(10**6))
        nn.Linear(10_000, 10_000)  # outside, nothing is counted


def test_values_that_are_no_numbers_are_named() -> None:
    layer = nn.Linear(3, 3)
    layer.weight.data.fill_(3e38)  # whose sum is infinite
    require_finite(layer, "model")
    layer.bias.data[1] = float("nan")
    with pytest.raises(UserError, match="model: bias holds values that are not finite"):
        require_finite(layer, "model")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_stored_values_are_judged_by_what_the_model_takes_of_them(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    layer, file = nn.Linear(3, 3).to(dtype), tmp_path / "model.safetensors"
    stored = {**layer.state_dict(), "a mask of no model": torch.full((2,), -torch.inf)}
    save_file(stored, file)
    checkpoint = Checkpoint([file], {}, describe_tensors(file), torch.float32, "model")
    checkpoint.require_finite(layer)
    layer.bias.data[1] = float("nan")
    save_file(layer.state_dict(), file)
    with pytest.raises(UserError, match="model: bias holds values that are not finite"):
        checkpoint.require_finite(layer)


def test_a_library_fails_and_captune_does_not_hide_its_own_mistakes(tmp_path: Path) -> None:
    refused = pytest.raises(UserError, match=r"^model: fails \(the folder is odd\)$")
    with refused, library_errors("model: fails", tmp_path):
        raise ValueError(f"{tmp_path} is odd")
    with pytest.raises(KeyboardInterrupt), library_errors("model: fails"):
        raise KeyboardInterrupt


def test_a_library_sees_what_was_looked_at_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"1")
    (tmp_path / "adapter_config.json").write_text("{}")
    with staged({"config.json": {"a": 1}, "model.bin": tmp_path / "weights"}) as place:
        assert sorted(path.name for path in place.iterdir()) == ["config.json", "model.bin"]
        assert (place / "model.bin").read_bytes() == b"1"
    assert not place.exists()
    assert (tmp_path / "weights").is_file()


@pytest.mark.parametrize("pattern", [*GPT2_SPLITS, *NEVER_ENDING])
def test_patterns_that_end(pattern: str, tmp_path: Path) -> None:
    rule = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}
    about = {"model": {"type": "BPE", "vocab": {"a": 0}}, "pre_tokenizer": rule}
    (tmp_path / "tokenizer.json").write_text(json.dumps(about))
    settings = {"model_max_length": 5, "tokenizer_file": "/dev/zero", "chat_template": "{{ x }}"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    if pattern in NEVER_ENDING:
        with pytest.raises(UserError, match="a pattern that can take very long"):
            vetted_tokenizer(tmp_path)
        return
    files = vetted_tokenizer(tmp_path)
    assert files["tokenizer_config.json"] == {"model_max_length": 5}


def test_weights_of_other_shapes_are_named_and_no_table_that_nobody_sees() -> None:
    refused = pytest.raises(UserError, match=r"^model: fails \(its weights have other shapes than")
    with refused, library_errors("model: fails"):
        raise RuntimeError("You set `ignore_mismatched_sizes` to `False`. See the above report!")


def test_a_header_of_many_megabytes_is_refused_unread(tmp_path):
    """The library takes a minute and a gigabyte for the names of a million tensors."""
    path = tmp_path / "model.safetensors"
    path.write_bytes((2**24 + 1).to_bytes(8, "little") + b"{")
    with pytest.raises(UserError, match=r"its header would be 16,777,217 bytes long"):
        safetensors_header(path)


def test_what_takes_for_ever_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert vetting.in_time("work", lambda number, more: number + more, 1, more=2) == 3
    with pytest.raises(KeyError):
        vetting.in_time("work", {}.__getitem__, "x")
    monkeypatch.setattr(vetting, "_LONGEST_S", 0.05)
    done = threading.Event()
    with pytest.raises(UserError, match="chat template takes more than"):
        vetting.in_time("chat template", done.wait, 60)
    done.set()
