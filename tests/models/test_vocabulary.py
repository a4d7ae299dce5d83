"""A decoder with fewer tokens: the same model within them."""

import pytest
import torch
from tests.captioning.tiny import FAMILIES, tiny_decoder

from captune.captioning.decoder_parts import narrowed
from captune.errors import UserError

KEPT = [3, 7, 30, 31, 32]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_logits_of_the_kept_tokens_are_what_they_were(family: str) -> None:
    whole, narrow = tiny_decoder(family), narrowed(tiny_decoder(family), KEPT)
    assert narrow.tokens == (0, 1, *KEPT)
    text = ["b f w2 w4"]
    ids, places = whole.encode(text), narrow.encode(text)
    assert narrow.decode(places) == whole.decode(ids) == text
    with torch.inference_mode():
        expected = whole.module(torch.tensor([[whole.start_id, *ids[0]]])).logits
        found = narrow.module(torch.tensor([[narrow.start_id, *places[0]]])).logits
    torch.testing.assert_close(found, expected[..., list(narrow.tokens)])
    assert narrow.vocabulary == found.shape[-1] == 7
    assert narrow.decoder_id == whole.decoder_id  # the frozen weights are the same


@pytest.mark.parametrize("family", FAMILIES)
def test_it_writes_what_the_whole_one_writes_when_the_others_are_forbidden(family: str) -> None:
    whole, narrow = tiny_decoder(family), narrowed(tiny_decoder(family), KEPT)
    forbidden = [[id] for id in range(whole.vocabulary) if id not in narrow.tokens]
    start = torch.tensor([[whole.start_id]])
    options = {"max_new_tokens": 8, "num_beams": 1, "do_sample": False}
    free = whole.module.generate(start, bad_words_ids=forbidden, **options)
    own = narrow.module.generate(torch.tensor([[narrow.start_id]]), **options)
    assert narrow.decode(own.tolist()) == whole.decode(free.tolist())


def test_tied_weights_stay_tied_and_frozen() -> None:
    module = narrowed(tiny_decoder("gpt2"), KEPT).module
    assert module.get_output_embeddings().weight is module.get_input_embeddings().weight
    assert not any(parameter.requires_grad for parameter in module.parameters())


def test_a_token_outside_leaves_no_trace() -> None:
    narrow = narrowed(tiny_decoder("llama"), KEPT)
    assert narrow.decode(narrow.encode(["b q w2"])) == ["b w2"]


def test_tokens_of_another_decoder_are_refused() -> None:
    with pytest.raises(UserError, match="has 99 tokens"):
        narrowed(tiny_decoder("opt"), [5, 50_000])
