"""What the frozen backbones of `lite` say, computed once: for `train` and `evaluate`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from captune.images import open_image
from captune.models.lite.backbones import PREPROCESSING_ID, Backbones

Floats = NDArray[np.float32]

_IMAGES_A_BATCH = 16
_TEXTS_A_BATCH = 128


class Frozen:
    """Pooled image features [n, 1280] and text vectors [n, 384], float32.

    folder: keeps every answer as one .npy, so that a second run takes seconds; None keeps nothing.
    """

    def __init__(self, backbones: Backbones, folder: Path | None = None) -> None:
        self.backbones = backbones
        self._folder = folder
        if folder:
            folder.mkdir(parents=True, exist_ok=True)

    def images(self, images: Sequence[Callable[[], Image.Image]], key: object) -> Floats:
        """Each image is opened when its turn comes. key: what they are, in JSON's types."""
        return self._kept(["images", PREPROCESSING_ID, key], lambda: self._images(images))

    def files(self, paths: Sequence[Path]) -> Floats:
        """The images in these files."""
        opened = [lambda path=path: open_image(path) for path in paths]
        return self.images(opened, [str(path.resolve()) for path in paths])

    def texts(self, texts: Sequence[str]) -> Floats:
        """[n, 384], not normalised."""
        return self._kept(["texts", *texts], lambda: self._texts(texts))

    def _kept(self, key: object, compute: Callable[[], Floats]) -> Floats:
        if self._folder is None:
            return compute()
        name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:24]
        path = self._folder / f"{name}.npy"
        if not path.exists():
            np.save(path, compute())
        kept: Floats = np.load(path)
        return kept

    @torch.inference_mode()
    def _images(self, images: Sequence[Callable[[], Image.Image]]) -> Floats:
        batches = []
        for start in range(0, len(images), _IMAGES_A_BATCH):
            batch = [self.backbones.transform(o()) for o in images[start : start + _IMAGES_A_BATCH]]
            batches.append(self.backbones.image(torch.stack(batch)).numpy())
        return np.concatenate(batches)

    @torch.inference_mode()
    def _texts(self, texts: Sequence[str]) -> Floats:
        # Texts of like length share a batch: little padding, three times as fast.
        order = sorted(range(len(texts)), key=lambda index: (len(texts[index]), index))
        encoded = np.empty((len(texts), 384), np.float32)
        for start in range(0, len(order), _TEXTS_A_BATCH):
            batch = order[start : start + _TEXTS_A_BATCH]
            tokens = self.backbones.tokenize([texts[index] for index in batch])
            encoded[batch] = self.backbones.text(**tokens).numpy()
        return encoded


def read_json(path: Path) -> Any:
    """A JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def normalised(vectors: NDArray[Any]) -> NDArray[np.float64]:
    """Each row at length 1, in double precision."""
    wide = vectors.astype(np.float64)
    unit: NDArray[np.float64] = wide / np.linalg.norm(wide, axis=-1, keepdims=True)
    return unit
