from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.captioning.tester import Combination, asked, captioner_of, train, wake
from tests.captioning.tiny import END, FAMILIES, GRID, grids, tiny_decoder
from torch import nn

from captune.captioning.bridge.prefix import SoftPrefix, SoftPrefixConfig
from captune.captioning.decoder_parts import find_parts
from captune.captioning.model import CaptionModel
from captune.captioning.tuning.none import NoneConfig, NoTuning
from captune.errors import UserError


def _captioner(family: str, **settings: Any) -> CaptionModel:
    decoder = tiny_decoder(family)
    torch.manual_seed(3)
    config = SoftPrefixConfig(**{"length": 3, "width": 16, "heads": 2, **settings})
    bridge = SoftPrefix(config, GRID, find_parts(decoder.module))
    captioner = CaptionModel(decoder, bridge, NoTuning(NoneConfig()), GRID)
    wake(captioner)
    return captioner.eval()


@pytest.mark.parametrize("pooling", ["attention", "mlp"])
def test_at_first_it_says_nothing_about_the_image(pooling: Any) -> None:
    parts = find_parts(tiny_decoder("gpt2").module)
    config = SoftPrefixConfig(length=5, width=16, pooling=pooling)
    bridge = SoftPrefix(config, GRID, parts)
    soft = bridge.project(grids(4)).soft_tokens
    assert soft is not None
    assert soft.shape == (4, 5, 32)
    assert torch.equal(soft, bridge.start.expand(4, -1, -1))
    assert len({tuple(row) for row in soft[0].tolist()}) == 5
    assert sum(p.numel() for p in bridge.parameters()) == SoftPrefix.count(config, GRID, parts)


@pytest.mark.parametrize("pooling", ["attention", "mlp"])
@pytest.mark.parametrize("family", FAMILIES)
def test_writing_is_the_plain_loop(family: str, pooling: str) -> None:
    """Greedy by `generate`, with cache and positions, against one whole pass a token."""
    captioner = _captioner(family, pooling=pooling)
    module = captioner.decoder.module
    written = captioner.generate(grids(2), max_tokens=6)
    with torch.no_grad():
        soft = captioner.project(grids(2)).soft_tokens
        assert soft is not None
        for image in range(2):
            ids = [END]
            for _ in range(6):
                text = module.get_input_embeddings()(torch.tensor([ids]))
                both = torch.cat([soft[image : image + 1], text], dim=1)
                ids.append(int(module(inputs_embeds=both).logits[0, -1].argmax()))
                if ids[-1] == END:
                    break
            assert [id for id in ids if id != END] == written.ids[image]


def test_all_of_it_is_trained() -> None:
    for pooling in ("attention", "mlp"):
        captioner = _captioner("llama", pooling=pooling)
        assert train(captioner) == set(captioner.trained())


def test_pooling_by_attention_is_torch_s() -> None:
    captioner = _captioner("gpt2", width=16, heads=4)
    pooling: Any = captioner.bridge.pooling  # type: ignore[union-attr]
    tokens = pooling.entry(grids(2))
    oracle = nn.MultiheadAttention(16, 4, bias=False, batch_first=True)
    with torch.no_grad():
        ones = torch.eye(16)
        oracle.in_proj_weight.copy_(torch.cat([ones, pooling.key.weight, pooling.value.weight]))
        oracle.out_proj.weight.copy_(ones)
        found = pooling(grids(2))
        expected = oracle(pooling.queries.expand(2, -1, -1), tokens, tokens)[0]
        expected = pooling.out(pooling.norm(expected))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_soft_tokens_stand_before_each_of_an_image_s_captions() -> None:
    given = asked()
    with captioner_of(Combination("prefix", "none", "opt")) as captioner, torch.no_grad():
        wake(captioner)
        captioner.eval()
        soft = captioner.project(given["grids"]).soft_tokens
        assert soft is not None
        both = captioner.logits(given["grids"], given["ids"], given["mask"])
        for row in range(4):
            length = int(given["mask"][row].sum())
            embedded = captioner.decoder.module.get_input_embeddings()(given["ids"][row, :length])
            whole = torch.cat([soft[row // 2], embedded])[None]
            alone = captioner.decoder.module(inputs_embeds=whole).logits[0, 3:]
            torch.testing.assert_close(both[row, :length], alone, atol=1e-5, rtol=1e-5)


def test_errors() -> None:
    for wrong in ({"length": 0}, {"width": 10, "heads": 4}):
        with pytest.raises(UserError, match="soft tokens"):
            SoftPrefixConfig(**wrong)
    with pytest.raises(UserError, match='pooling "max"'):
        SoftPrefixConfig(pooling="max")  # type: ignore[arg-type]
