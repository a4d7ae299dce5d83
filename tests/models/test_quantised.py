"""Captioners whose weights bitsandbytes keeps in 8 or 4 bits, made so or read so."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.captioning.test_any_captioner import captions, loaded, options, write_images

import captune
from captune.captioning.any_captioner import prepare_captioner
from captune.errors import MissingExtra, UserError
from captune.models import quantised

FAMILIES = ("vit-gpt2", "blip", "git", "llava", "qwen2-vl", "gemma3")
needs_it = pytest.mark.needs("quantised")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"))


def saved(captioner: Any, folder: Path, twin: Path) -> Path:
    """As people publish it."""
    captioner.vlm.model.save_pretrained(folder)
    for path in twin.iterdir():
        if not (folder / path.name).exists():
            shutil.copy(path, folder)
    return folder


@needs_it
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_weights_become_so_and_are_read_so(
    family: str, bits: str, twins: Any, images: Path, tmp_path: Path
) -> None:
    twin = twins(family)
    full, captioner = loaded(images, twin), loaded(images, twin, quantise=bits)

    def size(one: Any) -> int:
        blocks = one.vlm.blocks.parameters()
        return sum(parameter.numel() * parameter.itemsize for parameter in blocks)

    assert size(captioner) < size(full) / (2 if bits == "8bit" else 3)
    assert captioner.space != full.space
    alone = captions(captioner, images, beam=1, batch_size=1)
    assert any(one.words for one in alone)
    if bits == "4bit":  # with 8 bits, what a batch holds decides what is kept in full precision
        together = captions(captioner, images, beam=3, batch_size=3)
        assert [one.caption for one in together] == [
            one.caption for one in captions(captioner, images, beam=3, batch_size=1)
        ]
    again = loaded(images, saved(captioner, tmp_path / "quantised", twin))
    read = captions(again, images, beam=1, batch_size=1)
    assert [one.caption for one in read] == [one.caption for one in alone]
    for one, other in zip(read, alone, strict=True):
        assert one.log_probability == pytest.approx(other.log_probability, abs=1e-4)


@needs_it
def test_a_run_says_so_and_draws_maps(twins: Any, images: Path, tmp_path: Path) -> None:
    asked = {"model": twins("blip"), "quantise": "4bit", "max_tokens": 4, "device": "cpu"}
    captune.caption(images, **asked, out=tmp_path / "run")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["options"]["quantise"] == "4bit"
    signatures = [
        prepare_captioner(options(images, twins("blip"), quantise=q)).asked for q in (None, "4bit")
    ]
    assert signatures[0] != signatures[1]
    for method in ("gradient", "occlusion"):
        assert len(captune.explain(images, **asked, method=method, out=tmp_path / method)) == 3


@needs_it
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_quantised_captioner_is_tuned(
    dtype: str, twins: Any, images: Path, tmp_path: Path
) -> None:
    twin = twins("qwen2-vl")
    folder = saved(loaded(images, twin, quantise="4bit"), tmp_path / "quantised", twin)
    written = tmp_path / "captions.json"
    written.write_text(json.dumps({str(number): "a red dog" for number in range(3)}))
    tuned = captune.tune(
        images, captions=written, val_captions=written, start=str(folder), method="lora",
        epochs=1, max_tokens=8, score_model="none", device="cpu", dtype=dtype,
        out=tmp_path / "tuned",
    )  # fmt: skip
    assert tuned.images == 3
    assert len(captune.caption(images, model=tmp_path / "tuned", max_tokens=4, device="cpu")) == 3


@needs_it
def test_scales_that_are_not_those_of_the_weights_are_refused(
    twins: Any, images: Path, tmp_path: Path
) -> None:
    twin = twins("git")
    for bits, part in (("8bit", "SCB"), ("4bit", "weight.absmax")):
        folder = saved(loaded(images, twin, quantise=bits), tmp_path / bits, twin)
        tensors = load_file(folder / "model.safetensors")
        name = next(name for name in tensors if name.endswith(part))
        wrong = {**tensors, name: tensors[name][:1].clone()}
        save_file(wrong, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(UserError, match="quantised in a way that bitsandbytes does not write"):
            loaded(images, folder)
    name = next(name for name in tensors if ".quant_state." in name)
    for change in (
        {"blocksize": 1}, {"shape": [2**40, 2]}, {"shape": [-1, -1]}, {"quant_type": "fp4"},
        {"dtype": "int8"}, {"shape": None}, {"blocksize": "64"},
    ):  # fmt: skip
        state = {**json.loads(bytes(tensors[name].tolist())), **change}
        told = torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)
        save_file({**tensors, name: told}, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(UserError, match="quantised in a way"):
            loaded(images, folder)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="--quantise 8bit: its weights are quantised already"):
        loaded(images, folder, quantise="8bit")


def test_other_ways_are_refused_in_a_sentence(twins: Any, images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "blip"
    shutil.copytree(twins("blip"), folder)
    config = json.loads((folder / "config.json").read_text())
    for stated in (
        {"quant_method": "gptq", "bits": 4},
        {"quant_method": "awq"},
        {"quant_method": "bitsandbytes", "load_in_8bit": True, "load_in_4bit": True},
        {"quant_method": ["bitsandbytes"], "load_in_8bit": True},
        "4bit",
        [],
    ):
        text = json.dumps({**config, "quantization_config": stated})
        (folder / "config.json").write_text(text)
        with pytest.raises(UserError, match=r"its weights are quantised by .*take the model"):
            prepare_captioner(options(images, folder))


def test_without_the_library_the_extra_is_named(
    twins: Any, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantised, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"--quantise 4bit needs an extra: .*\[quantised\]"):
        loaded(images, twins("blip"), quantise="4bit")
    folder = tmp_path / "blip"
    shutil.copytree(twins("blip"), folder)
    config = json.loads((folder / "config.json").read_text())
    stated = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": stated}))
    with pytest.raises(MissingExtra, match="whose weights are quantised"):
        prepare_captioner(options(images, folder))


@needs_it
@pytest.mark.parametrize("module", ["tuning.lora", "training.trainer"])
def test_it_is_imported_without_code_of_the_hub(module: str) -> None:
    """The package kernels would fetch some; peft imports bitsandbytes, too."""
    program = (
        "import sys, types; kernels = types.ModuleType('kernels')\n"
        "def get_kernel(*_, **__): raise SystemExit('fetched')\n"
        "kernels.get_kernel = get_kernel; sys.modules['kernels'] = kernels\n"
        f"import captune.captioning.{module}\n"
        "assert 'bitsandbytes' in sys.modules and sys.modules['kernels'] is kernels"
    )
    made = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (made.returncode, made.stdout, made.stderr) == (0, "", "")
