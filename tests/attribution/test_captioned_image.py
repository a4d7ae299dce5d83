from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.attribution.woken import (
    IMAGE,
    captioned,
    spelling_decoder,
    steps_of,
    woken,
    word_log_probabilities,
)
from tests.captioning.caption_job import image_model, write_captioner, write_images
from tests.captioning.tiny import END, FAMILIES
from torch.nn import functional as F

from captune.attribution.captioned_image import (
    END as END_TEXT,
)
from captune.attribution.captioned_image import captioned_image, captioned_images, ids_of_caption
from captune.attribution.methods import MAP_METHODS, LayerHead
from captune.attribution.methods.attention import attention_of
from captune.captioning.caption import Caption
from captune.captioning.captioner import Captioner
from captune.captioning.checkpoint import from_pretrained
from captune.captioning.generate import GenerationSettings
from captune.captioning.model import batch, pad_tags
from captune.errors import UserError
from captune.features.pipeline import Encoding
from captune.images import Skipped, find_images


def test_pieces_are_merged_into_words() -> None:
    captioner = woken(decoder=spelling_decoder())
    ids = ids_of_caption(captioner.decoder, "a  dog on a\nred doorstep")
    found = captioned_image(captioner, IMAGE, torch.zeros(1, 10, 12), ids)
    assert found.caption == "a dog on a red doorstep"
    assert [span.word for span in found.words] == found.caption.split()
    places = [place for span in found.words for place in span.steps]
    assert places == list(range(len(ids) - 1))  # every piece once, in its order
    for span in found.words:
        assert captioner.decoder.decode([[ids[p] for p in span.steps]])[0].strip() == span.word
    assert any(len(span.steps) > 1 for span in found.words)


def test_the_end_is_no_word() -> None:
    captioner = woken()
    whole = captioned(captioner)
    assert len(whole.words) == 5
    assert [span.word for span in whole.spans] == [*[s.word for s in whole.words], END_TEXT]
    assert whole.spans[-1].steps == (5,)
    assert whole.spans[-1].special
    assert not any(span.special for span in whole.words)
    unfinished = captioned(captioner, whole.ids[:-1])
    assert len(unfinished.spans) == len(unfinished.words) == 5
    nothing = captioned(captioner, [END])
    assert nothing.words == []
    assert [span.word for span in nothing.spans] == [END_TEXT]


@pytest.mark.parametrize("bridge", ["cross-attention", "prefix"])
@pytest.mark.parametrize("family", FAMILIES)
def test_log_probabilities_are_those_of_a_pass_over_the_caption(family: str, bridge: str) -> None:
    captioner = woken(family, bridge=bridge)
    one = captioned(captioner)
    grids = torch.cat([one.grid, 2 * one.grid, -one.grid])
    ids, mask, _ = batch([one.ids], start=END, pad=1)
    with torch.no_grad():
        found = word_log_probabilities(one, grids, range(6))
        for grid, row in zip(grids, found, strict=True):
            logits = captioner.logits(grid[None], ids, mask)[0].log_softmax(-1)
            expected = [logits[place, id] for place, id in enumerate(one.ids)]
            torch.testing.assert_close(row, torch.stack(expected), atol=1e-5, rtol=1e-5)
        words = word_log_probabilities(one, grids)
    torch.testing.assert_close(words, found[:, :5], atol=1e-5, rtol=1e-5)


def test_the_pieces_of_a_word_are_summed() -> None:
    captioner = woken(decoder=spelling_decoder())
    ids = ids_of_caption(captioner.decoder, "a doodle and a dog")
    one = captioned(captioner, ids)
    rows, mask, targets = batch([ids], start=END, pad=1)
    with torch.no_grad():
        logits = captioner.logits(one.grid, rows, mask)[0]
        each = -F.cross_entropy(logits, targets[0], reduction="none")
        found = word_log_probabilities(one, one.grid)[0]
    expected = [each[list(span.steps)].sum() for span in one.words]
    torch.testing.assert_close(found, torch.stack(expected), atol=1e-5, rtol=1e-5)


def test_against_another_word_at_the_step_where_they_part() -> None:
    captioner = woken(decoder=spelling_decoder())
    ids = ids_of_caption(captioner.decoder, "a dog on a red doorstep")
    one = captioned(captioner, ids)
    (other,) = captioner.decoder.encode([" doodle"])
    own = [ids[place] for place in one.spans[5].steps]
    parts = next(i for i, (a, b) in enumerate(zip(own, other, strict=False)) if a != b)
    assert parts > 0  # both begin with the same piece
    place = one.spans[5].steps[parts]
    rows, mask, _ = batch([ids], start=END, pad=1)
    with torch.no_grad():
        said = captioner.logits(one.grid, rows, mask)[0, place].log_softmax(-1)
        found = word_log_probabilities(one, one.grid, [5], against="doodle")
    expected = said[own[parts]] - said[other[parts]]
    torch.testing.assert_close(found[0, 0], expected, atol=1e-5, rtol=1e-5)


def test_a_word_against_itself_is_refused() -> None:
    captioner = woken(decoder=spelling_decoder())
    one = captioned(captioner, ids_of_caption(captioner.decoder, "a dog on a red doorstep"))
    for word, other in ((1, "dog"), (5, "door")):
        with pytest.raises(UserError, match="begin with the same tokens"):
            word_log_probabilities(one, one.grid, [word], against=other)
    with pytest.raises(UserError, match="nothing can be held against it"):
        word_log_probabilities(one, one.grid, [1], against="zebra!")


def test_a_caption_that_cannot_be_written_is_refused() -> None:
    decoder = woken().decoder
    assert ids_of_caption(decoder, "a w7") == [*decoder.encode(["a w7"])[0], END]
    with pytest.raises(UserError, match='"zebra": the captioner cannot write it'):
        ids_of_caption(decoder, "a zebra")
    with pytest.raises(UserError, match="empty"):
        ids_of_caption(decoder, "  ")


class Words:
    """A tokenizer of whole words, which knows these."""

    end_id = 9

    def __init__(self, *known: str) -> None:
        self.known = known

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        pieces = [[piece for piece in self.known if piece in text] for text in texts]
        return [[self.known.index(piece) for piece in own] for own in pieces]

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        return ["".join(self.known[id] for id in row if id != self.end_id) for row in rows]


def test_the_full_stop_of_a_written_caption_is_no_part_of_its_last_word() -> None:
    # the captioner learnt "dog .": its own caption, given back as it was written down
    for decoder in (Words("a", " dog", " ."), Words("a", " dog", ".")):
        model: Any = SimpleNamespace(decoder=decoder)
        ids = ids_of_caption(model.decoder, "a dog.")
        assert ids == [0, 1, 2, 9]
        one = captioned_image(model, IMAGE, torch.zeros(1), ids, is_user_caption=True)
        assert [(word.word, word.steps) for word in one.words] == [
            ("a", (0,)),
            ("dog", (1,)),
            (".", (2,)),
        ]
        assert one.caption == "a dog."
        own = captioned_image(model, IMAGE, torch.zeros(1), ids)
        assert own.caption == "a dog."
    with pytest.raises(UserError, match=r'"cat\.": the captioner cannot write it'):
        ids_of_caption(Words("a", " dog", " ."), "a cat.")  # type: ignore[arg-type]


def captioner_in(folder: Path) -> Captioner:
    model, recipe = from_pretrained(folder, device="cpu")
    return Captioner(model, image_model(), recipe)


@pytest.mark.parametrize("beam", [1, 3])
def test_subjects_have_the_captions_of_captune_caption(tmp_path: Path, beam: int) -> None:
    captioner = captioner_in(write_captioner(tmp_path / "run"))
    folder = write_images(tmp_path / "images", 5)
    (folder / "image_002.png").write_bytes(b"no image")
    images = find_images([folder]).images
    how = GenerationSettings(beam, 12, Encoding(batch_size=2))
    skipped: list[Skipped] = []
    found = list(captioned_images(captioner, images, how=how, on_skip=skipped.append))
    outcomes = [one for some in captioner.stream(images, how) for one in some]
    captions = [one for one in outcomes if isinstance(one, Caption)]
    assert [one.image for one in found] == [one.image for one in captions]
    assert [one.caption for one in found] == [one.caption for one in captions]
    assert [one.path for one in skipped] == ["image_002.png"]
    for one, caption in zip(found, captions, strict=True):
        assert (len(one.spans) > len(one.words)) == caption.ended
        with torch.no_grad():
            values = word_log_probabilities(one, one.grid)[0].tolist()
        assert values == pytest.approx([w.log_probability for w in caption.words], abs=1e-3)


def test_given_captions_belong_to_their_images(tmp_path: Path) -> None:
    captioner = captioner_in(write_captioner(tmp_path / "run"))
    folder = write_images(tmp_path / "images", 4)
    (folder / "image_001.png").write_bytes(b"no image")
    images = list(find_images([folder]).images)
    captions = ["a w1", "a w2", "a w3", "a w4"]
    found = list(captioned_images(captioner, images, captions, on_skip=lambda one: None))
    assert [(one.image.name, one.caption) for one in found] == [
        ("image_000.png", "a w1"),
        ("image_002.png", "a w3"),
        ("image_003.png", "a w4"),
    ]
    assert all(one.is_user_caption for one in found)
    # the same image with several captions
    twice = [images[0], images[0], images[2]]
    again = list(captioned_images(captioner, twice, captions[:3], on_skip=lambda one: None))
    assert [(one.image.name, one.caption) for one in again] == [
        ("image_000.png", "a w1"),
        ("image_000.png", "a w2"),
        ("image_002.png", "a w3"),
    ]


def test_words_that_are_known_of_a_image_are_read() -> None:
    captioner = woken(bridge="bidirectional")
    known = pad_tags([[7, 8, 9]])
    alone = captioned(captioner)
    one = dataclasses.replace(alone, known=known)
    assert (one.read, alone.read) == ("f g h", None)
    ids, mask, _ = batch([one.ids], start=END, pad=1)
    grids = torch.cat([one.grid, -one.grid])
    with torch.no_grad():
        found = word_log_probabilities(one, grids, range(6))
        for grid, row in zip(grids, found, strict=True):
            logits = captioner.logits(grid[None], ids, mask, known)[0].log_softmax(-1)
            expected = [logits[place, id] for place, id in enumerate(one.ids)]
            torch.testing.assert_close(row, torch.stack(expected), atol=1e-5, rtol=1e-5)
        without = word_log_probabilities(alone, grids, range(6))
    assert not torch.allclose(found, without)
    for name in MAP_METHODS.names():
        # which need the image encoder, or a model of transformers
        if name in ("pixel-occlusion", "patch-similarity", "token-activation"):
            continue
        method = MAP_METHODS.get(name)
        maps = method.maps(one, method.layer_heads(captioner)[0], range(6))
        assert maps.shape == (6, 3, 3)
        assert bool(maps.isfinite().all())
    weights = attention_of(one, steps_of(one))[0]
    assert weights.shape == (6, 2, 13)  # ten tokens of the image, three of the words
    torch.testing.assert_close(weights.sum(-1), torch.ones(6, 2))
    maps = MAP_METHODS.get("attention").maps(one, LayerHead(0, 0), range(6))
    torch.testing.assert_close(maps.flatten(1), weights[:, 0, 1:10])
