"""From an image to pixels exactly as the model's own library makes them, but fit for many threads.

torch splits even one picture's arithmetic over all cores; beside a running model, or from several
decoding threads, that can cost ten times the work itself. So geometry (resize, crop) stays the
library's own code, on Pillow, and the arithmetic after it is done by NumPy with the same operations
in the same order: equal to the bit, and one thread is one thread.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from captune.errors import UserError
from captune.images.decode import DECODING_VERSION
from captune.json_yaml import read_object
from captune.models.vetting import check_numbers, library_errors, require_numbers, staged
from captune.models.weights import digest_of
from captune_metrics.display import printable

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


# In the order in which transformers takes them.
PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")
_LARGEST_SIDE = 2048  # pixels; no encoder of today looks at half as many


def load_image_processor(folder: Path, config: Mapping[str, Any]) -> Any:
    """The image processor of `folder`, in the backend that transformers prefers.

    config: config.json, by which transformers tells processors that do not name themselves.
    Raises UserError where its file leaves mean, deviation or size to a default, or states what no
    picture can be made with.
    """
    from transformers import AutoImageProcessor

    name, whole, stated = _stated(folder)
    path = folder / name
    check_numbers(stated, path)
    needed = set()
    if stated.get("do_normalize", True):
        needed |= {"image_mean", "image_std"}
    if stated.get("do_resize", True) and "max_num_patches" not in stated:
        needed |= {"size"}
    missing = sorted(needed - stated.keys())
    if missing:
        raise UserError(
            f"{folder}: its preprocessor_config.json does not say {missing[0]}, and a default "
            "would be a guess; take the file that came with the weights"
        )
    check_pixels(stated, printable(path))
    broken = f"{printable(path)}: transformers cannot read it"
    with staged({"config.json": config, name: whole}) as place, library_errors(broken, place):
        return AutoImageProcessor.from_pretrained(place, trust_remote_code=False)


def check_pixels(stated: Mapping[str, Any], where: str, most: int = _LARGEST_SIDE) -> None:
    """Raise UserError for means and sizes that no picture can be made with.

    most: of a size, which some count in pixels of a side and some of the whole image.
    """
    for key, above in (("image_mean", -math.inf), ("image_std", 0.0)):
        if key in stated:
            require_numbers(stated[key], 3, f"{where}: {key}", above=above)
    if "rescale_factor" in stated:
        require_numbers([stated["rescale_factor"]], 1, f"{where}: rescale_factor", above=0.0)
    for key in ("size", "crop_size", "pad_size", "max_num_patches"):
        sizes = stated.get(key)
        for size in sizes.values() if isinstance(sizes, dict) else [sizes]:
            if size is not None and not (type(size) is int and 0 < size <= most):
                raise UserError(
                    f"{where}: {key} is {str(sizes)[:80]}; expected whole numbers from 1 to {most}"
                )


def image_transform(processor: Any) -> tuple[Transform, str]:
    """The processor's pixels as a thread-safe function, and their preprocessing_id."""
    identity = preprocessing_id(
        "transformers",
        settings=processor.to_dict(),
        backend=type(processor).__name__,
        # Tensors are resized by torch's kernels, which have changed between its releases.
        torch=torch.__version__.split("+")[0].rsplit(".", 1)[0],
    )
    if "spatial_shapes" in processor.model_input_names:
        return _Patches(processor), identity
    itself = _ProcessorItself(processor)
    steps = _Steps.of(processor)
    return (steps if steps is not None and _equal(steps, itself) else itself), identity


def whole_transform(processor: Any, size: tuple[int, int] | None) -> tuple[Transform, str] | None:
    """The same, but all of an image squashed to `size` (height, width); None where it cannot be."""
    if size is None or "spatial_shapes" in processor.model_input_names:
        return None
    height, width = size
    whole = copy.deepcopy(processor)
    whole.do_resize, whole.do_center_crop, whole.do_pad = True, False, False
    whole.size = type(processor.size)(height=height, width=width)
    transform, identity = image_transform(whole)
    shapes = {tuple(transform(Image.new("RGB", given)).shape) for given in ((47, 61), (640, 333))}
    return (transform, identity) if shapes == {(3, height, width)} else None


@dataclass(frozen=True)
class _ProcessorItself:
    processor: Any

    def __call__(self, image: Image.Image) -> Tensor:
        pixels = self.processor(images=image, return_tensors="pt")["pixel_values"]
        return torch.as_tensor(pixels)[0].float()


@dataclass(frozen=True)
class _Patches:
    """SigLIP 2 (NaFlex): patches and their grid in one float32 tensor [1, patches + 1, dimension].

    The last row holds the grid's height and width, each as n // 128 and n % 128: whole numbers that
    half precision carries exactly.
    """

    processor: Any

    def __call__(self, image: Image.Image) -> Tensor:
        made = self.processor(images=image, return_tensors="pt")
        patches: Tensor = made["pixel_values"][0].float()
        height, width = (int(side) for side in made["spatial_shapes"][0])
        grid = torch.zeros(1, patches.shape[1])
        grid[0, :4] = torch.tensor([height // 128, height % 128, width // 128, width % 128])
        return torch.cat((patches, grid))[None]


@dataclass(frozen=True)
class _Steps:
    """Resize and crop on uint8 by the processor's own methods, then NumPy's subtract and divide."""

    processor: Any
    mean: NDArray[np.float32]
    std: NDArray[np.float32]

    @classmethod
    def of(cls, processor: Any) -> _Steps | None:
        """Steps for a processor of the plain kind, else None."""
        try:
            from transformers.image_processing_backends import TorchvisionBackend
        except ImportError:
            return None
        plain = ("_preprocess", "process_image", "rescale_and_normalize")
        if not isinstance(processor, TorchvisionBackend) or any(
            getattr(type(processor), name) is not getattr(TorchvisionBackend, name)
            for name in plain
        ):
            return None
        if processor.do_pad or not (processor.do_rescale and processor.do_normalize):
            return None
        # The processor folds the division by 255 into mean and deviation, in torch's float32.
        fold = 1.0 / processor.rescale_factor
        mean = torch.tensor(processor.image_mean) * fold
        std = torch.tensor(processor.image_std) * fold
        return cls(processor, mean.numpy().reshape(-1, 1, 1), std.numpy().reshape(-1, 1, 1))

    def __call__(self, image: Image.Image) -> Tensor:
        own = self.processor
        stack = torch.from_numpy(np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1)))[None]
        if own.do_resize:
            stack = own.resize(image=stack, size=own.size, resample=own.resample)
        if own.do_center_crop:
            stack = own.center_crop(stack, own.crop_size)
        pixels = stack[0].numpy().astype(np.float32, order="C")
        pixels -= self.mean
        pixels /= self.std
        return torch.from_numpy(pixels)


def _equal(steps: _Steps, itself: _ProcessorItself) -> bool:
    """Whether both make the same pixels of a tall and a wide picture, one larger, one smaller."""
    random = np.random.default_rng(0)
    try:
        for height, width in ((61, 47), (333, 640)):
            noise = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
            picture = Image.fromarray(noise)
            if not torch.equal(steps(picture), itself(picture)):
                return False
    except (TypeError, ValueError, AttributeError, RuntimeError):
        return False
    return True


def _stated(folder: Path) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """(file, all of it, what it says about pixels); newer ones keep that inside processor_config.

    What names code of its own is left out.
    """
    for name in PROCESSOR_FILES:
        path = folder / name
        if not path.exists():
            continue
        whole = read_object(path)
        stated = whole.get("image_processor") if name == "processor_config.json" else whole
        if isinstance(stated, dict):
            stated.pop("auto_map", None)
            whole.pop("auto_map", None)
            return name, whole, stated
    raise UserError(
        f"{folder} has no preprocessor_config.json, so size, mean and crop are unknown; "
        "weights and preprocessing travel together: copy it there from where the model came"
    )
