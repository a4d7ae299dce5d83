"""EfficientNet-Lite2 in plain PyTorch, batch norms folded into the convolutions.

Equal to timm's `tf_efficientnet_lite2` up to rounding (tests compare them); it is written out here
because importing timm takes longer than classifying a small folder.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

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


class _Block(nn.Module):
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
                blocks.append(_Block(channels, channels_out, kernel, first_stride, expansion))
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
