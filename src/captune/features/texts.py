"""Strings -> vectors of the shared space, each different string once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from captune.features.batches import FittingBatches
from captune.features.cache import FeatureCache
from captune.features.index import FeatureSpace
from captune.features.saving import BackgroundSaver
from captune.models.image_text import Floats
from captune.models.texts import TextEncoder


def encode_texts(
    texts: Sequence[str],
    encoder: TextEncoder,
    *,
    cache: FeatureCache | None,
    batch_size: int = 256,
) -> Floats:
    """texts, n strings -> [n, d] float32, rows in the order asked, not normalised.

    Each different string is encoded once, and never again while the cache holds it.
    """
    dtype = str(encoder.dtype).removeprefix("torch.")
    space = FeatureSpace("texts", encoder.text_id, "", dtype, f"torch-{encoder.device.type}").name
    keys = {text: f"{space}/{_digest(text)}" for text in texts}
    vectors = np.zeros((len(keys), encoder.dimension), dtype=np.float32)
    rows = {text: row for row, text in enumerate(keys)}
    cached = {} if cache is None else cache.get_many(list(keys.values()))
    missing = []
    for text, row in rows.items():
        vector = cached.get(keys[text])
        if vector is not None and vector.shape == (encoder.dimension,):
            vectors[row] = vector
        else:
            missing.append(text)
    # Strings of like length share a batch, or the longest would set the cost of all.
    missing.sort(key=lambda text: (len(text), text))
    batches = FittingBatches(batch_size)
    with BackgroundSaver(cache) as saver:
        start = 0
        while start < len(missing):
            batch = missing[start : start + batches.size]
            encoded = batches.encode(batch, encoder.encode)
            vectors[[rows[text] for text in batch]] = encoded
            saver.save({keys[text]: encoded[i] for i, text in enumerate(batch)})
            start += len(batch)
    return vectors[[rows[text] for text in texts]]


def _digest(text: str) -> str:
    # A lone surrogate (a file name in a prompt) has no UTF-8 form of its own.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
