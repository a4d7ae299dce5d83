"""Two systems on the same images: figures by hand and by the statistics, verdicts word by word."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from captune.captions import CaptionFile
from captune.errors import MismatchedImages
from captune.runs.records import json_value
from captune.scoring.compare import (
    Comparison,
    MetricComparison,
    compare_captions,
    compare_scores,
)
from captune.scoring.score import ScoredCaptions
from captune_metrics.bleu_n import bleu
from captune_metrics.resampling import Sums, bootstrap, paired_bootstrap, paired_permutation
from captune_metrics.scores import Scores

Floats = NDArray[np.float64]


def mean_scores(values: Sequence[float] | Floats, metric: str = "cider") -> Scores:
    titles = {"cider": "CIDEr-D", "clipscore": "CLIPScore", "rouge_l": "ROUGE-L"}
    per_image = {f"{i}": float(value) for i, value in enumerate(values)}
    corpus = float(np.mean(values))
    return Scores(metric, corpus, per_image, {}, title=titles[metric], details=("ptb",))


def compared(a: object, b: object, metric: str = "cider", **other: int) -> MetricComparison:
    pair = [{metric: mean_scores(values, metric)} for values in (a, b)]  # type: ignore[arg-type]
    return compare_scores(pair[0], pair[1], **other)[metric]


def whole(metrics: dict[str, MetricComparison], same: bool = False) -> Comparison:
    images = next(iter(metrics.values())).ids
    captions = dict.fromkeys(images, "a cat")
    other = captions if same else dict.fromkeys(images, "a dog")
    return Comparison("a.json", "b.json", captions, other, {}, metrics)


def noisy(n: int, difference: float, seed: int = 0) -> tuple[Floats, Floats]:
    """Scores of A and of B whose mean difference is exact."""
    random = np.random.default_rng(seed)
    a, noise = random.gamma(1.0, 1.0, size=n), random.normal(scale=0.3, size=n)
    return a, a + noise - noise.mean() + difference


def test_figures_are_those_of_the_statistics() -> None:
    a, b = noisy(80, 0.05)
    found = compared(a, b, resamples=2_000, seed=7)
    assert (found.a.corpus, found.b.corpus) == (pytest.approx(a.mean()), pytest.approx(b.mean()))
    assert found.difference == pytest.approx(0.05)
    assert found.a.interval == pytest.approx(bootstrap(a[:, None], resamples=2_000, seed=7))
    [paired] = paired_bootstrap([(Sums.mean(a), Sums.mean(b))], resamples=2_000, seed=7)
    assert found.interval == pytest.approx(paired.interval)
    p = paired_permutation(a[:, None], b[:, None], permutations=2_000, seed=7)
    assert found.p == found.p_holm == pytest.approx(p)
    assert found.effect_size == pytest.approx((b - a).mean() / (b - a).std(ddof=1), abs=1e-6)
    assert found.detectable_difference == pytest.approx(2.8016 * paired.standard_error, rel=1e-4)
    assert found.images.b_better == (b > a).sum()
    assert found.images.a_better == (b < a).sum()
    assert found.images.equal == 0


def test_a_pairing_shows_what_two_separate_intervals_hide() -> None:
    a, b = noisy(400, 0.05)
    found = compared(a, b)
    assert found.a.interval is not None
    assert found.b.interval is not None
    assert found.a.interval.high > found.b.interval.low  # they overlap
    assert found.finding == "B"


def test_verdict_of_a_better_one_names_difference_interval_and_what_can_be_detected() -> None:
    a, b = noisy(400, 0.05)
    found = compared(a, b)
    assert found.interval is not None
    low, high = found.interval
    assert found.verdict == (
        f"B is better by 0.050 CIDEr-D, 95 % [{low:.3f}, {high:.3f}], p < 0.001; 400 images are "
        f"enough to detect a difference of {found.detectable_difference:.3f} or more (power 80 %)"
    )
    other = compared(b, a)
    assert other.finding == "A"
    assert other.interval is not None
    assert f"A is better by 0.050 CIDEr-D, 95 % [{-other.interval.high:.3f}, " in other.verdict


def test_a_difference_below_what_can_be_detected_is_explained() -> None:
    a, b = noisy(200, 0.045)
    found = compared(a, b)
    assert found.finding == "B"
    assert found.detectable_difference is not None
    assert found.difference < found.detectable_difference
    assert (
        f"that is less than the {found.detectable_difference:.3f} that 200 images detect in four of"
        " five such samples (power 80 %): smaller differences are found less often"
    ) in found.verdict
    assert "enough" not in found.verdict


@pytest.mark.parametrize(
    ("cider", "clip", "expected"),
    [
        (
            0.2,
            -0.2,
            "The metrics contradict each other: B is better than A by CIDEr-D (+0.200), and A is"
            " better than B by CLIPScore (−0.200).",
        ),
        (0.2, 0.2, "B is better than A by CIDEr-D (+0.200) and CLIPScore (+0.200)."),
        (
            -0.2,
            0.001,
            "A is better than B by CIDEr-D (−0.200). No difference between A and B was seen by"
            " CLIPScore.",
        ),
        (0.001, -0.001, "No difference between A and B was seen by CIDEr-D and CLIPScore."),
    ],
)
def test_the_headline_says_what_came_out(cider: float, clip: float, expected: str) -> None:
    one, other = noisy(100, cider), noisy(100, clip, seed=1)
    sides = [
        {"cider": mean_scores(one[i]), "clipscore": mean_scores(other[i], "clipscore")}
        for i in (0, 1)
    ]
    assert whole(compare_scores(sides[0], sides[1])).headline() == expected


def test_verdict_where_nothing_was_seen_says_what_can_be_detected() -> None:
    found = compared(*noisy(100, 0.001))
    assert found.finding == "unseen"
    assert found.verdict.startswith("CIDEr-D: no difference was seen: B − A is +0.001, 95 % [−0.0")
    enough = (
        f"100 images are enough to detect a difference of {found.detectable_difference:.3f} or more"
    )
    assert enough in found.verdict


def test_what_one_test_alone_would_call_better_is_not_settled_among_several() -> None:
    a, b = noisy(200, 0.045)
    alone = compared(a, b)
    assert alone.finding == "B"
    assert alone.p is not None
    assert 0.05 / 3 < alone.p < 0.05
    still = noisy(200, 0.0, seed=4)
    sides = [
        {
            "cider": mean_scores(values),
            "clipscore": mean_scores(other, "clipscore"),
            "rouge_l": mean_scores(other, "rouge_l"),
        }
        for values, other in ((a, still[0]), (b, still[1]))
    ]
    together = compare_scores(sides[0], sides[1])["cider"]
    assert together.p == alone.p
    assert together.p_holm == pytest.approx(3 * alone.p)
    assert together.finding == "unsettled"
    assert together.verdict.startswith("CIDEr-D: not settled: B − A is +0.045, 95 % [0.00")
    p_holm = f"{together.p_holm:.3f}" if together.p_holm < 0.1 else f"{together.p_holm:.2f}"
    assert f"p {alone.p:.3f} ({p_holm} for 3 metrics); 200 images are" in together.verdict


def test_small_differences_are_written_with_the_digits_that_mean_something() -> None:
    a, b = noisy(400, 0.05)
    found = compared(a / 100, b / 100)
    assert found.digits == 4 or found.digits == 5
    assert "B is better by 0.0005" in found.verdict


def test_the_same_scores_are_called_the_same() -> None:
    found = compared([0.1, 0.4, 0.9], [0.1, 0.4, 0.9 + 1e-12])
    assert found.finding == "same"
    assert found.verdict == "CIDEr-D: the same on every image"
    assert (found.images.equal, found.effect_size, found.p) == (3, None, 1.0)
    comparison = whole({"cider": found}, same=True)
    assert comparison.verdicts() == [
        "A and B hold the same captions (3 images): there is no difference to test"
    ]
    file = dataclasses.replace(comparison, same_file=True)
    assert file.verdicts()[0].startswith("A and B are the same file")


def test_one_image_has_no_interval_and_no_verdict() -> None:
    found = compared([0.5], [0.7])
    assert found.interval is found.p is found.detectable_difference is found.effect_size is None
    assert found.finding == "unknown"
    assert found.verdict.startswith("CIDEr-D: B − A is +0.200 on one image")
    assert json_value(found.figures())["interval"] is None


def test_the_most_different_images_come_furthest_first() -> None:
    found = compared([0.5, 0.5, 0.5, 0.5, 0.5], [0.9, 0.5, 0.6, 0.1, 1.5])
    comparison = whole({"cider": found})
    ahead, behind = json_value(comparison.largest_differences("cider", 2)).values()
    told = [(item["image"], item["a"]["score"], item["b"]["score"]) for item in ahead]
    assert told == [("4", 0.5, 1.5), ("0", 0.5, 0.9)]
    assert (ahead[0]["a"]["caption"], ahead[0]["b"]["caption"]) == ("a cat", "a dog")
    assert [item["image"] for item in behind] == ["3"]
    assert behind[0]["difference"] == pytest.approx(-0.4)
    assert json_value(comparison.largest_differences("cider", 0)) == {
        "b_better": [],
        "a_better": [],
    }
    assert (found.images.b_better, found.images.a_better, found.images.equal) == (3, 1, 1)


@pytest.mark.parametrize(
    ("cider", "clip", "expected"),
    [
        (0.2, -0.2, "contradict each other: CIDEr-D prefers B, CLIPScore prefers A"),
        (0.2, 0.2, None),
        (0.2, -0.001, "CIDEr-D prefers B; CLIPScore points to A, but not significantly"),
        (-0.2, 0.001, "CIDEr-D prefers A; CLIPScore points to B, but not significantly"),
        (0.001, -0.001, None),
    ],
)
def test_metrics_that_point_in_different_directions_are_named(
    cider: float, clip: float, expected: str | None
) -> None:
    one, other = noisy(100, cider), noisy(100, clip, seed=1)
    sides = [
        {"cider": mean_scores(one[i]), "clipscore": mean_scores(other[i], "clipscore")}
        for i in (0, 1)
    ]
    comparison = whole(compare_scores(sides[0], sides[1]))
    sentence = comparison.contradiction()
    if expected is None:
        assert sentence is None
        assert len(comparison.verdicts()) == 2
    else:
        assert sentence is not None
        assert expected in sentence
        assert comparison.verdicts()[-1] == sentence


REFERENCES = {
    f"{i}.jpg": [f"a {animal} on a {place}", f"one {animal} sits on the {place}"]
    for i, (animal, place) in enumerate(
        (animal, place)
        for animal in ("cat", "dog", "cow", "horse")
        for place in ("mat", "sofa", "field", "road of stones")
    )
}


def test_bleu_is_compared_by_its_counts_whatever_the_order_of_the_images() -> None:
    good = {id: captions[0] for id, captions in REFERENCES.items()}
    worse = {id: caption.replace("on a", "near") for id, caption in good.items()}
    turned = dict(reversed(worse.items()))
    straight = compare_scores(bleu(good, REFERENCES), bleu(worse, REFERENCES), resamples=500)
    found = compare_scores(bleu(good, REFERENCES), bleu(turned, REFERENCES), resamples=500)
    for id, metric in found.items():
        assert metric.interval == pytest.approx(straight[id].interval, abs=1e-12)
        assert metric.p == straight[id].p
        assert metric.differences.tolist() == straight[id].differences.tolist()
        assert metric.effect_size is None  # a corpus BLEU is no mean over images
        assert metric.finding == "A"
        assert metric.difference == pytest.approx(
            bleu(worse, REFERENCES)[id].corpus - bleu(good, REFERENCES)[id].corpus
        )


def test_other_images_or_metrics_are_refused() -> None:
    with pytest.raises(ValueError, match="the same images"):
        compare_scores({"cider": mean_scores([1, 2])}, {"cider": mean_scores([1, 2, 3])})
    with pytest.raises(ValueError, match="the same metrics"):
        compare_scores({"cider": mean_scores([1, 2])}, {})


def scored(source: str, captions: dict[str, str], values: Sequence[float]) -> ScoredCaptions:
    file = CaptionFile(source, "stems", {id: [c] for id, c in captions.items()}, {}, source)
    score = Scores("clipscore", 0.0, dict(zip(captions, values, strict=True)), {})
    return ScoredCaptions(file, None, captions, {}, {}, Path(), scores={"clipscore": score})


def test_ids_that_files_spell_differently_are_the_same_image() -> None:
    a = scored("a.json", {"1": "one", "22": "two"}, [0.1, 0.2])
    b = scored("b.json", {"000000000022": "zwei", "000000000001": "eins"}, [0.4, 0.3])
    found = compare_captions(a, b, resamples=100)
    assert found.captions_b == {"1": "eins", "22": "zwei"}
    assert found.metrics["clipscore"].differences == pytest.approx([0.2, 0.2])
    assert found.changed == 2


def test_images_of_only_one_side_are_an_error() -> None:
    a = scored("a.json", {"x": "one", "y": "two", "v": "-"}, [0.1, 0.2, 0.3])
    b = scored("b.json", {"y": "two", "z": "three"}, [0.1, 0.2])
    with pytest.raises(MismatchedImages) as caught:
        compare_captions(a, b, resamples=100)
    sentence = str(caught.value)
    assert '2 only in a.json ("x", "v")' in sentence
    assert '1 only in b.json ("z")' in sentence
