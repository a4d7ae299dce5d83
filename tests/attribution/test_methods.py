"""The registry, and what every method has to keep to."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import pytest
import torch
from tests.attribution.woken import captioned, woken
from tests.captioning.caption_job import image_model, write_images

from captune.attribution.methods import MAP_METHODS, LayerHead, MapMethod
from captune.errors import UserError
from captune.images import ImageFile
from captune_metrics import plugins

NAMES = [
    *("attention", "gradient", "gradient-attention", "integrated-gradients", "occlusion"),
    *("patch-similarity", "pixel-occlusion", "relevance", "token-activation"),
]
# `patch-similarity` needs an encoder that embeds single patches: test_patch_similarity;
# `token-activation` a model of transformers: test_vlm_image
ANYWHERE = [name for name in NAMES if name not in ("patch-similarity", "token-activation")]


def test_names_are_listed_without_importing() -> None:
    assert MAP_METHODS.names() == NAMES
    code = (
        "import sys; from captune.attribution.methods import MAP_METHODS; MAP_METHODS.names();"
        "print([m for m in sys.modules if m.startswith('captune.attribution.methods.')])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_an_unknown_method_is_one_sentence() -> None:
    with pytest.raises(UserError, match='method "guess" is not known; choose among attention'):
        MAP_METHODS.get("guess")


class Middle(MapMethod):
    name = "middle"

    def maps_of(self, captioned: Any, layer_head: LayerHead, targets: Any) -> Any:
        maps = torch.zeros(len(targets), captioned.shape.rows, captioned.shape.columns)
        maps[:, 1, 1] = 1
        return maps


def test_a_third_party_s_method(monkeypatch: pytest.MonkeyPatch) -> None:
    class Point:
        name = "middle"

        def load(self) -> MapMethod:
            return Middle()

    plugins.plugins_of.cache_clear()
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [Point()])
    try:
        assert "middle" in MAP_METHODS.names()
        captioner = woken()
        method = MAP_METHODS.get("middle")
        found = method.maps_of_each(captioned(captioner), method.layer_heads(captioner), [0, 1])
        assert found[LayerHead()].shape == (2, 3, 3)
    finally:
        plugins.plugins_of.cache_clear()


@pytest.mark.parametrize("name", ANYWHERE)
def test_every_method_keeps_its_promises(name: str, tmp_path: Any) -> None:
    """Maps of the right shape on the CPU, finite, the same again, and the model as it was."""
    captioner = woken(method="lora")
    one = captioned(captioner, encoder=image_model())
    image = next(write_images(tmp_path / "images", 1).glob("*.png"))
    one = dataclasses.replace(one, image=ImageFile(image, image.name))
    state = {name: value.clone() for name, value in captioner.state_dict().items()}
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in captioner.modules()]
    implementation = captioner.decoder.module.config._attn_implementation
    method = MAP_METHODS.get(name)
    assert method.name == name
    layer_heads = method.layer_heads(captioner)
    maps = method.maps(one, layer_heads[0], [0, 3, 5])
    assert maps.shape == (3, 3, 3)
    assert maps.dtype == torch.float32
    assert maps.device.type == "cpu"
    assert not maps.requires_grad
    assert bool(maps.isfinite().all())
    assert method.signed or bool((maps >= 0).all())
    torch.testing.assert_close(method.maps(one, layer_heads[0], [0, 3, 5]), maps)
    everything = method.maps_of_each(one, method.layer_heads(captioner), [0, 3, 5])
    assert list(everything) == layer_heads
    torch.testing.assert_close(everything[layer_heads[0]], maps, atol=1e-6, rtol=1e-5)
    with pytest.raises(UserError, match="has no map of layer 17"):
        method.maps(one, LayerHead(17), [0])
    after = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in captioner.modules()]
    assert after == hooks
    assert captioner.decoder.module.config._attn_implementation == implementation
    for key, value in captioner.state_dict().items():
        assert torch.equal(value, state[key])
    assert all(p.grad is None for p in captioner.parameters())


def test_pixels_need_an_encoder() -> None:
    captioner = woken()
    with pytest.raises(UserError, match="its image encoder is not known"):
        MAP_METHODS.get("pixel-occlusion").maps(captioned(captioner), LayerHead(), [0])
