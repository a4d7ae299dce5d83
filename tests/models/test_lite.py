"""The embedded default: backbones equal to the libraries' own, and load, which joins them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

import captune.demo
from captune.models.backends import lite
from captune.models.lite import assets, backbones
from captune.models.lite.backbones import (
    EfficientNetLite2,
    MiniLM,
    fold_batch_norms,
    load_tokenizer,
    rename_published,
)
from captune.models.load import parse_spec

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "photo", "of", "cat", "dog", "##s"]


def published_names(timm_names: Sequence[str]) -> list[str]:
    """timm's tensor names -> those of the published file, in which only the order agrees."""
    published, block = [], -1
    for name in timm_names:
        *path, module, kind = name.split(".")
        if not path:
            new = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head"}
            published.append(
                f"{new.get(module, {'bn2': '_bn1', 'classifier': '_fc'}.get(module))}.{kind}"
            )
            continue
        first = path[1] == "0"
        if kind == "weight" and module == ("conv_dw" if first else "conv_pw"):
            block += 1
        if first:
            new = {
                "conv_dw": "_depthwise_conv",
                "bn1": "_bn1",
                "conv_pw": "_project_conv",
                "bn2": "_bn2",
            }
        else:
            new = {
                "conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv",
                "bn2": "_bn1", "conv_pwl": "_project_conv", "bn3": "_bn2",
            }  # fmt: skip
        published.append(f"_blocks.{block}.{new[module]}.{kind}")
    return published


@pytest.fixture(scope="module")
def timm_model() -> nn.Module:
    """tf_efficientnet_lite2 with random weights and batch norms that do something."""
    import timm

    torch.manual_seed(3)
    model = timm.create_model("tf_efficientnet_lite2").eval()
    for name, tensor in model.state_dict().items():
        if name.endswith("running_mean") or (".bn" in name and name.endswith("bias")):
            tensor.normal_(0, 0.2)
        elif name.endswith("running_var"):
            tensor.uniform_(0.3, 2)
    return model


@pytest.fixture(scope="module")
def folded(timm_model: nn.Module) -> EfficientNetLite2:
    state = timm_model.state_dict()
    names = published_names([name for name in state if not name.startswith("classifier")])
    published = dict(zip([*names, "_fc.weight", "_fc.bias"], state.values(), strict=True))
    model = EfficientNetLite2().eval()
    model.load_state_dict(fold_batch_norms(published))
    return model.to(memory_format=torch.channels_last)


@pytest.mark.parametrize("size", [(260, 260), (101, 134)])
def test_image_backbone_equals_timm(
    size: tuple[int, int], timm_model: nn.Module, folded: EfficientNetLite2
) -> None:
    pixels = torch.rand(2, 3, *size) * 2 - 1
    with torch.inference_mode():
        grid = folded.patch_grid(pixels)
        pooled = folded(pixels)
        theirs = timm_model.forward_head(timm_model.forward_features(pixels), pre_logits=True)
        logits, expected = folded.classifier(pooled), timm_model(pixels)
    assert grid.shape[1] == 352
    assert size != (260, 260) or grid.shape[2:] == (9, 9)
    assert (pooled - theirs).norm() < 1e-5 * theirs.norm()
    assert (logits - expected).norm() < 1e-5 * expected.norm()
    with torch.inference_mode():
        torch.testing.assert_close(folded.pool(grid), pooled)


@pytest.mark.parametrize(
    "size", [(500, 375), (375, 500), (292, 292), (260, 260), (33, 40), (100, 1500), (292, 401)]
)
def test_transform_equals_timm(size: tuple[int, int]) -> None:
    from timm.data import create_transform, resolve_model_data_config
    from timm.models import get_pretrained_cfg

    config = get_pretrained_cfg("tf_efficientnet_lite2").to_dict()
    settings = resolve_model_data_config(None, pretrained_cfg=config) | {"crop_pct": 1.0}
    theirs = create_transform(**settings)
    noise = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    ours = backbones.transform(image)
    assert ours.shape == (3, 260, 260)
    assert torch.equal(ours, theirs(image))


def test_a_thin_strip_does_not_fill_the_memory() -> None:
    for size in ((1, 30_000), (30_000, 1), (3, 1000)):
        assert backbones.resize_and_crop(Image.new("RGB", size, "red")).size == (260, 260)


@pytest.fixture(scope="module")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    tokenizer = Tokenizer(
        models.WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]")
    )
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    # as in the published file, whose fixed length must not count
    tokenizer.enable_truncation(128)
    tokenizer.enable_padding(length=128)
    file = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer.save(str(file))
    return file


def test_tokens_are_padded_to_the_longest_and_cut_at_256(tokenizer_file: Path) -> None:
    tokenize = load_tokenizer(tokenizer_file)
    tokens = tokenize(["a photo of cats", "Dog"])
    assert tokens["input_ids"].tolist() == [[2, 4, 5, 6, 7, 9, 3], [2, 8, 3, 0, 0, 0, 0]]
    assert tokens["attention_mask"].sum(1).tolist() == [7, 3]
    assert tokenize(["cat " * 700])["input_ids"].shape == (1, 256)


def test_text_backbone_equals_transformers() -> None:
    from transformers import BertConfig, BertModel

    torch.manual_seed(4)
    config = BertConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    )
    theirs = BertModel(config, add_pooling_layer=False).eval()
    for parameter in theirs.parameters():
        parameter.data.normal_(0, 0.1)
    ours = MiniLM().eval()
    ours.load_state_dict(rename_published(theirs.state_dict()))
    tokens = torch.randint(5, 30_000, (3, 11))
    mask = torch.tensor([[1] * 11, [1] * 4 + [0] * 7, [1] * 2 + [0] * 9])
    with torch.inference_mode():
        hidden = theirs(input_ids=tokens, attention_mask=mask).last_hidden_state
        expected = (hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
        torch.testing.assert_close(ours(tokens, mask), expected, rtol=1e-4, atol=1e-5)


class _Projection(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, 16)

    def forward(self, pooled: Tensor) -> Tensor:
        assert pooled.dtype == torch.float32
        return self.linear(pooled)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_load_joins_backbones_and_alignment(
    dtype: torch.dtype, tokenizer_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alignment = SimpleNamespace(
        image=_Projection(1280),
        text=_Projection(384),
        logit_scale=torch.tensor(50.0),
        dimension=16,
        weights_id="one",
    )
    monkeypatch.setattr(lite, "load_alignment", lambda path: alignment)
    save_file({"w": torch.ones(2)}, tmp_path / "alignment.safetensors")
    monkeypatch.setattr(lite, "ALIGNMENT", tmp_path / "alignment.safetensors")
    parts = backbones.Backbones(
        EfficientNetLite2(), backbones.transform, MiniLM(), load_tokenizer(tokenizer_file)
    )
    monkeypatch.setattr(lite, "load_backbones", lambda: parts)

    model = lite.load(parse_spec("lite"), torch.device("cpu"), dtype)
    assert model.text is not None
    assert model.scoring is not None
    assert model.scoring.logit_scale == 50
    image = Image.new("RGB", (300, 200), "red")
    vectors = model.image.encode(model.image.transform(image)[None])
    assert vectors.shape == (1, model.image.dimension) == (1, 16)
    assert model.text.encode(["a photo", "a dog", "cats"]).shape == (3, 16)
    assert not any(parameter.requires_grad for parameter in model.image.module.parameters())

    alignment.weights_id = "another"
    again = lite.load(parse_spec("lite"), torch.device("cpu"), dtype)
    assert again.weights_id != model.weights_id, "another alignment is another model"


@pytest.fixture(scope="module")
def real() -> backbones.Backbones:
    return backbones.load_backbones()


@pytest.mark.needs("lite")
def test_real_weights_know_real_images(real: backbones.Backbones) -> None:
    images = Path(captune.demo.__file__).parent / "images"
    expected = {"cat": 285, "coffee": 967}  # ImageNet: Egyptian cat, espresso
    for name, index in expected.items():
        with Image.open(images / f"{name}.jpg") as image:
            pixels = real.transform(image.convert("RGB"))
        with torch.inference_mode():
            assert real.image.classifier(real.image(pixels[None])).argmax().item() == index


@pytest.mark.needs("lite")
def test_real_texts_that_mean_the_same_are_near(real: backbones.Backbones) -> None:
    with torch.inference_mode():
        vectors = real.text(**real.tokenize(["a cat", "a kitten", "a truck"]))
    cat, kitten, truck = nn.functional.normalize(vectors)
    assert cat @ kitten > 0.7 > 0.5 > cat @ truck


@pytest.mark.needs("lite")
def test_loading_imports_neither_timm_nor_transformers() -> None:
    program = (
        "import sys, time; import torch; start = time.process_time()\n"
        "from captune.models.lite.backbones import load_backbones; load_backbones()\n"
        "import json; print(json.dumps([time.process_time() - start, *sys.modules]))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    seconds, *modules = json.loads(printed)
    heavy = {"timm", "transformers", "torchvision", "open_clip", "torch._dynamo"}
    assert heavy.isdisjoint(modules)
    assert seconds < 5, "0.6 s of CPU time when this was written"


@pytest.mark.needs("lite")
def test_second_start_reads_no_weights_to_know_that_they_are_there() -> None:
    start = time.perf_counter()
    folders: Sequence[Path] = assets.ensure(assets.ASSETS["lite"])
    assert time.perf_counter() - start < 0.5
    tensors: Mapping[str, int] = json.loads((folders[0] / "asset.json").read_text())["bytes"]
    assert set(tensors) == {"model.safetensors"}
