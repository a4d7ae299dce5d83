"""A caption's words: which pieces make each, their probabilities, and words left out before it."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from captune.captioning.caption import Caption, caption_words, without_preamble
from captune.images import ImageFile
from captune.runs.records import CaptionWord

TEXTS = [
    "a man, in a red t-shirt, rides his bike.",
    "café — naïve 東京 🐶🐶 dogs' toys",
    "two  spaces\nand a line",
    " leading and trailing ",
    "x",
    "",
    "   ",
]


@pytest.fixture(scope="module")
def pieces() -> Any:
    """Byte-level pieces, mostly of a letter or two; half characters among them."""
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    words.train_from_iterator(
        ["a man rides a bike in a red shirt"] * 9,
        trainers.BpeTrainer(vocab_size=290, initial_alphabet=alphabet, show_progress=False),
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=words)
    return SimpleNamespace(
        encode=lambda text: fast(text, add_special_tokens=False)["input_ids"],
        decode=lambda rows: fast.batch_decode(rows, clean_up_tokenization_spaces=False),
    )


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_make_words(pieces: Any, text: str) -> None:
    ids = pieces.encode(text)
    values = [-(2.0**-place) for place in range(len(ids))]
    words = caption_words(pieces, ids, [*values, -100.0])  # the end's is of no word
    assert [word.word for word in words] == text.split()
    if words:
        assert sum(word.log_probability for word in words) == pytest.approx(sum(values))
        # each a run of pieces, one after the other
        assert all(a.log_probability < b.log_probability for a, b in pairwise(words[:4]))


def test_the_pieces_of_a_word_are_summed(pieces: Any) -> None:
    first, second = pieces.encode("東京"), pieces.encode(" dog")
    assert len(first) == 6
    values = [-1.0] * 6 + [-10.0] * len(second)
    words = caption_words(pieces, [*first, *second], values)
    assert [(w.word, w.log_probability) for w in words] == [
        ("東京", -6.0),
        ("dog", -10.0 * len(second)),
    ]
    # a character that was never finished is of the word that it ends
    (half,) = caption_words(pieces, [*pieces.encode("a"), first[0]], [-1.0, -2.0])
    assert half.log_probability == -3.0


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("a photo of a dog", "a dog"),
        ("An image of dogs.", "Dogs."),
        ("the Picture of a photo of a cat", "a photo of a cat"),
        ("a photo of", "a photo of"),
        ("a photo album of a dog", "a photo album of a dog"),
        ("a dog", "a dog"),
        ("", ""),
    ],
)
def test_a_preamble_is_cut(said: str, kept: str) -> None:
    words = [CaptionWord(word, -1.0) for word in said.split()]
    image = ImageFile(Path("a.png"), "a.png")
    cut = without_preamble(Caption(image, said, words, -9.0, 9, True))
    assert cut.caption == kept == " ".join(word.word for word in cut.words)
    assert cut.log_probability == -9.0
