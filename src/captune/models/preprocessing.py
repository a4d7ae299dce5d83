"""From an image to pixels exactly as the model's own library makes them, but fit for many threads.

torch splits even one picture's arithmetic over all cores; beside a running model, or from several
decoding threads, that can cost ten times the work itself. So geometry (resize, crop) stays the
library's own code, on Pillow, and the arithmetic after it is done by NumPy with the same operations
in the same order: equal to the bit, and one thread is one thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from captune.images import DECODING_VERSION
from captune.models.weights import digest_of

Transform = Callable[[Image.Image], Tensor]


@dataclass(frozen=True)
class ResizeThenNormalise:
    """Library geometry on Pillow, then (pixel / 255 - mean) / std in float32.

    geometry: RGB picture -> RGB picture of the model's size.
    mean, std: float32 [3, 1, 1].
    """

    geometry: tuple[Callable[[Image.Image], Image.Image], ...]
    mean: NDArray[np.float32]
    std: NDArray[np.float32]

    def __call__(self, image: Image.Image) -> Tensor:
        """An RGB picture -> float32 [3, height, width]."""
        for step in self.geometry:
            image = step(image)
        pixels = np.asarray(image).transpose(2, 0, 1).astype(np.float32, order="C")
        pixels /= np.float32(255)
        pixels -= self.mean
        pixels /= self.std
        return torch.from_numpy(pixels)


def without_torch_arithmetic(compose: Any) -> Transform:
    """A torchvision Compose of Pillow steps, ToTensor and Normalize -> the same pixels.

    A Compose that ends in anything else is returned as it is.
    """
    from torchvision.transforms import Normalize, ToTensor

    *geometry, to_tensor, normalize = compose.transforms
    if not (isinstance(to_tensor, ToTensor) and isinstance(normalize, Normalize)):
        return compose  # type: ignore[no-any-return]
    return ResizeThenNormalise(
        tuple(geometry), per_channel(normalize.mean), per_channel(normalize.std)
    )


def per_channel(values: Sequence[float]) -> NDArray[np.float32]:
    """Three numbers -> float32 [3, 1, 1]."""
    return np.asarray(values, dtype=np.float32).reshape(3, 1, 1)


def preprocessing_id(library: str, **settings: object) -> str:
    """A digest of all that decides a pixel: the settings, and what decodes the file."""
    pillow = PIL.__version__.split(".")[0]
    return digest_of(library, settings, f"pillow {pillow}", f"decoding {DECODING_VERSION}")
