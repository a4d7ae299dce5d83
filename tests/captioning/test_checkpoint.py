from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.captioning.little_job import IDENTITY
from tests.captioning.tiny import END, FAMILIES, GRID, PAD, grids, tiny_decoder

from captune.captioning.checkpoint import (
    check_model,
    from_pretrained,
    recipe_of,
    save_pretrained,
)
from captune.captioning.model import CaptionModel, batch, build_model
from captune.captioning.settings import read_settings
from captune.errors import UserError
from captune.models.mirrored import seen_both_ways

SETTINGS = {"width": 16, "heads": 2, "every": 2}


def captioner_of(family: str, method: str, seed: int = 0) -> CaptionModel:
    captioner = build_model(
        tiny_decoder(family),
        GRID,
        bridge="cross-attention",
        method=method,
        bridge_settings=SETTINGS,
        seed=seed,
    )
    with torch.no_grad():
        chance = torch.Generator().manual_seed(seed)
        for parameter in captioner.trained().values():
            parameter.add_(torch.randn(parameter.shape, generator=chance) * 0.2)
    return captioner.eval()


def save(captioner: CaptionModel, folder: Path, method: str) -> None:
    recipe = recipe_of(captioner, IDENTITY, bridge="cross-attention", method=method)
    save_pretrained(captioner, folder, recipe)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ["adapter", "prefix", "lora", "dora", "none"])
def test_round_trip_is_exact(family: str, method: str, tmp_path: Path) -> None:
    captioner = captioner_of(family, method)
    save(captioner, tmp_path / "saved", method)
    ids, mask, _ = batch([[5, 6, 7, END], [8, 9, END]], start=END, pad=PAD)
    with torch.no_grad():
        expected = captioner.logits(grids(2), ids, mask)
    again, recipe = from_pretrained(tmp_path / "saved", decoder=tiny_decoder(family))
    assert recipe.method.name == method
    assert recipe.image_encoder == IDENTITY
    with torch.no_grad():
        assert torch.equal(again.logits(grids(2), ids, mask), expected)
    saved = load_file(tmp_path / "saved" / "model.safetensors")
    assert saved.keys() == captioner.trained().keys()
    assert all(name.startswith(("bridge.", "tuning.")) for name in saved)
    total = sum(p.numel() for p in captioner.trained().values())
    assert sum(tensor.numel() for tensor in saved.values()) == total


def test_the_first_weights_depend_on_the_seed_alone() -> None:
    made = [
        build_model(
            tiny_decoder("gpt2"), GRID, bridge="cross-attention", method="lora",
            bridge_settings=SETTINGS, seed=seed,
        ).trained()
        for seed in (1, 1, 2)
    ]  # fmt: skip
    torch.randn(3)
    assert all(torch.equal(made[0][name], made[1][name]) for name in made[0])
    assert not all(torch.equal(made[0][name], made[2][name]) for name in made[0])


def test_other_frozen_parts_are_refused(tmp_path: Path) -> None:
    save(captioner_of("gpt2", "lora"), tmp_path, "lora")
    other = dataclasses.replace(tiny_decoder("gpt2"), decoder_id="another")
    with pytest.raises(UserError, match="was trained with the decoder tiny-gpt2"):
        from_pretrained(tmp_path, decoder=other)
    _, recipe = from_pretrained(tmp_path, decoder=tiny_decoder("gpt2"))
    check_model(recipe.image_encoder, IDENTITY, tmp_path, "image encoder")
    for change, word in (("weights_id", "weights"), ("preprocessing_id", "preprocessing")):
        found = dataclasses.replace(IDENTITY, **{change: "ff"})
        with pytest.raises(UserError, match=f"has other {word}"):
            check_model(recipe.image_encoder, found, tmp_path, "image encoder")
    both = dataclasses.replace(IDENTITY, preprocessing_id=seen_both_ways(IDENTITY.preprocessing_id))
    check_model(recipe.image_encoder, both, tmp_path, "image encoder")
    check_model(both, IDENTITY, tmp_path, "image encoder")


def test_what_is_no_checkpoint_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no tuned captioner"):
        from_pretrained(tmp_path)
    save(captioner_of("gpt2", "lora"), tmp_path, "lora")
    decoder = tiny_decoder("gpt2")
    config = json.loads((tmp_path / "config.json").read_text())
    for change, match in (
        ({"schema": 9}, "schema 9"),
        ({"bridge": {"name": "cross-attention"}}, "bridge has no config"),
        ({"method": {"name": "lora", "config": {"rank": 2}}}, "has shape"),
        ({"method": {"name": "lora", "config": {"rank": 17}}}, r"config\.json: lora: its settings"),
        ({"method": {"name": "lora", "config": {"rank": "2"}}}, "expected a whole number"),
        ({"method": {"name": "none", "config": {}}}, "beyond what the config says"),
    ):
        (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(UserError, match=match):
            from_pretrained(tmp_path, decoder=decoder)
        decoder = tiny_decoder("gpt2")
    (tmp_path / "config.json").write_text(json.dumps(config))
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="not a complete safetensors"):
        from_pretrained(tmp_path, decoder=decoder)


def test_a_parent_run_gives_its_best_method(tmp_path: Path) -> None:
    for method in ("lora", "adapter"):
        save(captioner_of("gpt2", method), tmp_path / method, method)
    (tmp_path / "metrics.json").write_text(json.dumps({"best": "adapter"}))
    assert from_pretrained(tmp_path, decoder=tiny_decoder("gpt2"))[1].method.name == "adapter"


@pytest.mark.parametrize("best", ["../elsewhere", "/etc", "gone", 3, ["lora"]])
def test_a_parent_run_names_a_folder_in_it(best: object, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    save(captioner_of("gpt2", "lora"), tmp_path / "elsewhere", "lora")
    (run / "metrics.json").write_text(json.dumps({"best": best}))
    with pytest.raises(UserError, match=r"metrics\.json: its best method"):
        from_pretrained(run, decoder=tiny_decoder("gpt2"))


def test_a_model_that_a_foreign_config_names_is_not_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CAPTUNE_OFFLINE", raising=False)
    save(captioner_of("gpt2", "lora"), tmp_path, "lora")
    config = json.loads((tmp_path / "config.json").read_text())
    config["decoder"]["spec"] = "hf:nobody/nothing"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="fetch hf:nobody/nothing --decoder"):
        from_pretrained(tmp_path)


def test_settings_are_read() -> None:
    words = ["lora.rank=8", "lora.dropout=0.1", "bridge.entry=false", "lora.targets=attention"]
    assert read_settings(words, bridge="cross-attention") == {
        "lora": {"rank": 8, "dropout": 0.1, "targets": "attention"},
        "bridge": {"entry": False},
    }
    for word, match in (
        ("rank=8", "PART.SETTING=VALUE"),
        ("lora.ranks=8", 'no setting "ranks"'),
        ("lora.rank=eight", "is not a whole number"),
        ("bridge.entry=2", "true or false"),
        ("laura.rank=8", '"laura" is not known'),
    ):
        with pytest.raises(UserError, match=match):
            read_settings([word], bridge="cross-attention")
