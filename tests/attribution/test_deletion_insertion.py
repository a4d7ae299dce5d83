from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.attribution.planted import (
    SHAPE,
    Planted,
    bright_subject,
    planted_captioner,
    squares,
)

from captune.attribution.deletion_insertion import (
    BETTER,
    NO_BETTER,
    UNSEEN,
    Curves,
    centre_map,
    curves,
    endpoints,
    first_patches,
    patch_counts,
    quick_marks,
    random_curves,
    ranking,
)
from captune.attribution.masking import token_masking
from captune.attribution.methods import MAP_METHODS, LayerHead

CORNERS = [(0, 0), (4, 6), (7, 1)]


def _normalised(found: Curves, gain: torch.Tensor, floor: torch.Tensor) -> tuple[float, float]:
    insertion = ((found.insertion_area - floor) / gain).mean()
    deletion = ((found.deletion_area - floor) / gain).mean()
    return float(insertion), float(deletion)


def test_a_true_map_is_near_perfect_and_a_reversed_one_the_opposite() -> None:
    own = squares(*CORNERS)
    score = Planted(own)
    ends = endpoints(score)
    true = curves(score, ends, own.float(), range(3))
    insertion, deletion = _normalised(true, ends.gain, ends.blank)
    assert insertion > 0.95
    assert deletion < 0.05
    torch.testing.assert_close(true.comprehensiveness, ends.gain.double())
    torch.testing.assert_close(true.sufficiency, torch.zeros(3, dtype=torch.double))
    false = curves(score, ends, -own.float(), range(3))
    insertion, deletion = _normalised(false, ends.gain, ends.blank)
    assert insertion < 0.2
    assert deletion > 0.8


def test_random_maps_are_at_chance() -> None:
    own = squares(*CORNERS)
    score = Planted(own)
    ends = endpoints(score)
    found = random_curves(score, ends, range(3), range(60))
    both = torch.tensor([_normalised(one, ends.gain, ends.blank) for one in found]).mean(dim=0)
    # a patch is shown with the probability of the fraction that is shown
    torch.testing.assert_close(both, torch.tensor([0.5, 0.5]), atol=0.05, rtol=0)


@given(seed=st.integers(0, 1000), value=st.floats(-3, 3))
@settings(max_examples=20, deadline=None)
def test_a_constant_map_scores_exactly_as_the_random_control_of_its_seed(
    seed: int, value: float
) -> None:
    own = squares(*CORNERS)
    score = Planted(own)
    ends = endpoints(score)
    (control,) = random_curves(score, ends, range(3), [seed])
    constant = curves(score, ends, torch.full((3, 9, 9), value), range(3), seed=seed)
    assert torch.equal(constant.insertion, control.insertion)
    assert torch.equal(constant.deletion, control.deletion)


def test_curves_of_some_words_are_those_of_all() -> None:
    own = squares(*CORNERS)
    score = Planted(own)
    maps = torch.rand(3, 9, 9, generator=torch.Generator().manual_seed(0))
    ends = endpoints(score)
    whole = curves(score, ends, maps, range(3))
    part = curves(score, ends, maps[[2, 0]], [2, 0])
    assert torch.equal(part.deletion, whole.deletion[[2, 0]])
    assert part.words == [2, 0]


def test_curves_end_where_they_must() -> None:
    score = Planted(squares(*CORNERS))
    ends = endpoints(score)
    found = curves(score, ends, torch.rand(3, 9, 9), range(3))
    assert found.fractions[0] == 0
    assert found.fractions[-1] == 1
    torch.testing.assert_close(found.deletion[:, 0].float(), ends.full)
    torch.testing.assert_close(found.deletion[:, -1].float(), ends.blank)
    torch.testing.assert_close(found.insertion[:, -1].float(), ends.full)
    assert found.fractions.tolist() == [0, *(count / 81 for count in patch_counts(81)), 1]


def test_ranking_breaks_ties_by_the_seed_and_keeps_what_is_no_number_last() -> None:
    maps = torch.tensor([[3.0, 1.0, float("nan"), 1.0, 2.0]])
    orders = {tuple(ranking(maps, seed)[0].tolist()) for seed in range(20)}
    assert orders == {(0, 4, 1, 3, 2), (0, 4, 3, 1, 2)}


def test_first_places_are_nested() -> None:
    first = first_patches(ranking(torch.rand(4, 30)), [1, 7, 29])
    assert first.sum(dim=-1).tolist() == [[1, 7, 29]] * 4
    assert bool((first[:, 1] | ~first[:, 0]).all())


@pytest.mark.parametrize("patches", [2, 4, 9, 50, 576])
def test_counts_are_never_none_nor_all(patches: int) -> None:
    counts = patch_counts(patches)
    assert counts[0] >= 1
    assert counts[-1] <= patches - 1
    assert counts == sorted(set(counts))


def test_the_centre_map_is_strongest_in_the_middle_and_even() -> None:
    centre = centre_map(5, 9)
    assert int(centre.argmax()) == 2 * 9 + 4
    torch.testing.assert_close(centre, centre.flip(0))
    torch.testing.assert_close(centre, centre.flip(1))


def test_quick_marks_true_false_and_blind() -> None:
    own = squares((1, 1), (5, 5), (0, 0))
    own[2] = False  # a word that no patch changes
    score = Planted(own)
    maps = own.float()
    maps[1] = -maps[1]
    found = quick_marks(score, maps)
    assert [one.mark for one in found] == [BETTER, NO_BETTER, UNSEEN]
    assert score.passes == 1
    true = found[0]
    assert true.gain == pytest.approx(5)
    assert true.deletion == pytest.approx(5)
    assert true.insertion == pytest.approx(5)
    assert true.better_than == 1
    # a random tenth takes and brings a tenth
    assert true.chance == pytest.approx(2 * 5 * 8 / 81, abs=0.6)
    assert found[2].gain == 0


def test_quick_is_right_about_chance_as_often_as_it_says() -> None:
    """A random map is called better than chance in at most one of ten cases."""
    own = squares((3, 3), side=3)
    score = Planted(own)
    chance = torch.Generator().manual_seed(5)
    marks = [quick_marks(score, torch.rand(1, 9, 9, generator=chance))[0].mark for _ in range(300)]
    assert marks.count(BETTER) < 45


def test_a_planted_captioner_is_found_true_by_its_own_attention() -> None:
    captioner = planted_captioner()
    method = MAP_METHODS.get("attention")
    for row, column in ((0, 0), (2, 4), (5, 5)):
        captioned = bright_subject(captioner, row, column)
        words = range(len(captioned.words))
        maps = method.maps(captioned, LayerHead(0, "mean"), words)
        assert maps.shape == (3, 6, 6)
        assert all(int(one.argmax()) == row * 6 + column for one in maps)
        score = token_masking(captioned)
        ends = endpoints(score)
        assert bool((ends.gain > 1).all())
        true = curves(score, ends, maps, words)
        insertion, deletion = _normalised(true, ends.gain, ends.blank)
        assert insertion > 0.9
        assert deletion < 0.1


def test_each_is_every_of_that_word_in_any_order() -> None:
    captioner = planted_captioner()
    score = token_masking(bright_subject(captioner, 1, 1))
    shown = torch.rand(40, SHAPE.tokens, generator=torch.Generator().manual_seed(1)) > 0.5
    words = torch.arange(40) % 3
    every = score.every(shown)
    torch.testing.assert_close(
        score.each(shown, words), every.gather(1, words[:, None])[:, 0], atol=1e-5, rtol=0
    )
