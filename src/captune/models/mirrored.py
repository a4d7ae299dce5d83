"""Mirrored views: an encoder of mirrored images, or one that sees each both ways (`+mirrored`)."""

from __future__ import annotations

from dataclasses import replace

import torch
from PIL import Image
from torch import Tensor, nn

from captune.models.encoders import ImageEncoder, PatchGrid, Side
from captune.models.preprocessing import Transform
from captune.models.weights import digest_of


def mirrored(encoder: ImageEncoder) -> ImageEncoder:
    """The same encoder of images that are mirrored first; what it yields is cached apart.

    Raises UserError for one without a patch grid.
    """
    patches = encoder.require_patches()
    return replace(
        encoder,
        transform=_mirroring(encoder.transform),
        preprocessing_id=digest_of("mirrored", encoder.preprocessing_id),
        patches=replace(
            patches,
            transform=_mirroring(patches.transform),
            preprocessing_id=digest_of("mirrored", patches.preprocessing_id),
        ),
    )


def both_ways(encoder: ImageEncoder) -> ImageEncoder:
    """The same encoder, which sees each image as it is and mirrored, and takes the mean of both.

    The grid of the mirrored image is turned back first, so a place stays where it is; both grids
    are kept until they are finished. Pixels are turned after the transform, which treats left and
    right alike.
    """
    return replace(
        encoder,
        module=Side(encoder.module, _mean_of_both),
        preprocessing_id=seen_both_ways(encoder.preprocessing_id),
        patches=None if encoder.patches is None else _grids_of_both(encoder.patches),
    )


def seen_both_ways(preprocessing_id: str) -> str:
    """The id of a preprocessing -> that of the same by `both_ways`."""
    return digest_of("both ways", preprocessing_id)


def sees_alike(preprocessing_id: str, other: str) -> bool:
    """Whether two preprocessings are the same but for `both_ways`."""
    both = (preprocessing_id, seen_both_ways(preprocessing_id))
    return other in both or preprocessing_id == seen_both_ways(other)


def _mean_of_both(module: nn.Module, pixels: Tensor) -> Tensor:
    # the plain pass comes last: what is looked up inside the module is that of the plain image
    mirrored: Tensor = module(pixels.flip(-1))
    mean: Tensor = (mirrored + module(pixels)) / 2
    return mean


def _grids_of_both(patches: PatchGrid) -> PatchGrid:
    tokens, channels = patches.cached_shape

    def encode(pixels: Tensor) -> Tensor:
        return torch.cat([patches.encode(pixels), patches.encode(pixels.flip(-1))], dim=1)

    def finish(cached: Tensor) -> Tensor:
        plain, mirrored = (patches.finish(one) for one in torch.split(cached, tokens, dim=1))
        return (plain + mirrored[:, patches.shape.turned.to(mirrored.device)]) / 2

    return replace(
        patches,
        cached_shape=(2 * tokens, channels),
        encode=encode,
        finish=finish,
        preprocessing_id=seen_both_ways(patches.preprocessing_id),
    )


def _mirroring(transform: Transform) -> Transform:
    return lambda image: transform(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
