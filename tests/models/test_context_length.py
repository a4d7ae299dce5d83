"""How long a text may be: counted as each tokenizer does, and a cut text keeps its end."""

import numpy as np
import open_clip
import pytest
import torch

from captune.models.load import load_model

TINY = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 20, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
WITH_WORDS = {
    **TINY,
    "text_cfg": {**TINY["text_cfg"], "vocab_size": 13, "hf_tokenizer_name": "a/b"},
}
PIXELS = {
    "mean": open_clip.OPENAI_DATASET_MEAN,
    "std": open_clip.OPENAI_DATASET_STD,
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}


@pytest.fixture(params=["clip", "siglip", "siglip2", "open_clip", "open_clip words"])
def case(request, make_open_clip):
    """(text encoder, name of its ids, padding token, context length) of each kind."""
    if request.param == "open_clip":
        _, folder = make_open_clip(TINY, PIXELS)
        return load_model(str(folder), device="cpu").text, "text", 0, 20
    if request.param == "open_clip words":
        _, folder = make_open_clip(WITH_WORDS, PIXELS, request.getfixturevalue("word_tokenizer"))
        return load_model(str(folder), device="cpu").text, "text", 0, 20
    folder = request.getfixturevalue(f"{request.param}_folder")
    padding = None if request.param == "clip" else 0
    text = load_model(str(folder), device="cpu").text
    return text, "input_ids", padding, 77 if request.param == "clip" else 64


def test_a_text_is_too_long_when_some_of_it_is_not_read(case):
    encoder, ids, padding, expected = case
    assert encoder.context.tokens == expected
    texts = ["a cat " * n + "a cat" for n in range(60)]
    counts = encoder.context.count(texts)
    assert counts == sorted(counts)
    assert counts[0] < expected < counts[-1]
    ends = set()
    for text, count in zip(texts, counts, strict=True):
        tokens = encoder.tokenize([text])[ids][0].tolist()
        read = [token for token in tokens if token != padding]
        assert len(read) == min(count, expected)
        ends.add(read[-1])
    assert len(ends) == 1  # the end token, cut or not
    assert encoder.context.exceeded(texts) == [count > expected for count in counts]
    assert encoder.context.exceeded([]) == []


def test_a_quick_yes_is_never_wrong(make_open_clip):
    _, folder = make_open_clip(TINY, PIXELS)
    context = load_model(str(folder), device="cpu").text.context
    words = ["a", "!?", "0", "Q", " ", "\t", "x!", "1;", "<end_of_text>", "&lt;", "é", "İ", "…"]
    random = np.random.default_rng(0)
    texts = ["".join(random.choice(words, size=random.integers(30))) for _ in range(2000)]
    texts += ["0" * 18, "0" * 19]
    counts = context.count(texts)
    sure = [count for text, count in zip(texts, counts, strict=True) if context.fits(text)]
    assert max(sure) == context.tokens
    assert len(sure) > 100
    assert counts[-2:] == [20, 21]
    assert context.exceeded(texts) == [count > context.tokens for count in counts]


def test_counting_says_nothing_and_leaves_the_tokenizer_as_it_was(case, caplog, capfd):
    encoder, ids, _, _ = case
    before = encoder.tokenize(["dog " * 200, "cat"])[ids]
    encoder.context.count(["dog " * 3000])
    assert torch.equal(encoder.tokenize(["dog " * 200, "cat"])[ids], before)
    assert not caplog.records
    assert capfd.readouterr() == ("", "")


@pytest.mark.needs("lite")
def test_lite_reads_256_tokens():
    text = load_model("lite", device="cpu").text
    assert text.context.tokens == 256
    assert text.context.count(["", "a cat", "dog " * 254, "dog " * 255]) == [2, 4, 256, 257]
    tokens = text.tokenize(["dog " * 300])["input_ids"][0].tolist()
    assert len(tokens) == 256
    assert tokens[-1] == text.tokenize(["dog"])["input_ids"][0, -1]
