"""Each different string is encoded once, and kept."""

import numpy as np
import torch
from torch import nn

from captune.features.encode import encode_texts
from captune.models.encoders import TextEncoder


class CountingTexts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.batches: list[tuple[int, int]] = []

    def forward(self, ids):
        self.batches.append((len(ids), ids.shape[1]))
        lengths = (ids > 0).sum(1, keepdim=True).float()
        return torch.cat([ids.sum(1, keepdim=True).float(), lengths], 1)


def make_text_encoder(text_id: str = "t") -> TextEncoder:
    def tokenize(texts):
        width = max(len(text) for text in texts)
        rows = [[ord(c) % 128 + 1 for c in text] + [0] * (width - len(text)) for text in texts]
        return {"ids": torch.tensor(rows).reshape(len(texts), width)}

    device = torch.device("cpu")
    return TextEncoder(CountingTexts(), tokenize, text_id, 2, device, torch.float32)


def test_each_text_once_in_batches_of_like_length(cache):
    texts = ["cat", "a long sentence about a dog", "cat", "dog", "one more long sentence here", ""]
    encoder = make_text_encoder()
    done: list[int] = []
    features = encode_texts(texts, encoder, cache=cache, batch_size=3, on_progress=done.append)
    assert done == [0, 3, 2]
    assert encoder.module.batches == [(3, 3), (2, 27)]
    np.testing.assert_array_equal(features[:, 1], [len(text) for text in texts])
    again = make_text_encoder()
    np.testing.assert_array_equal(
        encode_texts(texts[::-1], again, cache=cache, on_progress=done.append), features[::-1]
    )
    assert done == [0, 3, 2, 5]
    assert again.module.batches == []
    other = make_text_encoder("other")
    encode_texts(["cat"], other, cache=cache)
    assert other.module.batches == [(1, 3)]


def test_no_texts_and_texts_without_a_cache():
    assert encode_texts([], make_text_encoder(), cache=None).shape == (0, 2)
    assert encode_texts(["a", "b\udcff"], make_text_encoder(), cache=None).shape == (2, 2)
