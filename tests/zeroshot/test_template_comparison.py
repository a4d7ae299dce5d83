"""Templates on ten images whose answers are written down, and against plain full matrices."""

from collections.abc import Iterator

import msgspec
import numpy as np
import pytest
from scipy import stats
from scipy.special import softmax

from captune.models.encoders import Floats, normalise
from captune.statistics import wilson
from captune.zeroshot import template_comparison as module
from captune.zeroshot.prompts import negate
from captune.zeroshot.template_comparison import (
    TemplateComparison,
    compare_templates,
    probe_negation,
)

LABELS = ["cat", "dog", "fish"]


def logits(image_features: Floats, text_features: Floats) -> Floats:
    return 10 * normalise(image_features) @ normalise(text_features).T


def pictures(answers: list[int], labels: int = 3) -> Floats:
    """Texts of equal length that put `answers` first for the images of `unit_images`."""
    texts = np.full((labels, len(answers) + 1), 0.1, np.float32)
    texts[answers, np.arange(len(answers))] = 1.0
    texts[:, -1] = np.sqrt(len(answers) + 1 - (texts[:, :-1] ** 2).sum(axis=1))
    return texts


def unit_images(count: int) -> Floats:
    return np.eye(count, count + 1, dtype=np.float32)


TRUTH = np.array([0, 0, 0, 0, 1, 1, 1, 1, 2, 2])
GOOD = [0, 0, 0, 1, 1, 1, 1, 1, 2, 0]  # 8 of 10
FAIR = [0, 0, 1, 1, 1, 1, 1, 0, 2, 2]  # 7 of 10
POOR = [2, 2, 2, 2, 2, 2, 2, 2, 2, 2]  # 2 of 10


def compared(**options: object) -> TemplateComparison:
    templates = [("poor", pictures(POOR)), ("good", pictures(GOOD)), ("fair", pictures(FAIR))]
    return compare_templates(
        templates, unit_images(10), LABELS, logits, truth=TRUTH, ensemble=False, **options
    )  # type: ignore[arg-type]


def test_accuracies_and_the_best() -> None:
    found = compared()
    assert [r.accuracy for r in found.results] == [0.2, 0.8, 0.7]
    assert found.best == 1
    assert found.ensemble is None
    theirs = stats.binomtest(8, 10).proportion_ci(method="wilson")
    assert found.results[1].interval == pytest.approx((theirs.low, theirs.high))
    assert found.results[1].against_best is None
    assert found.class_images is not None
    assert found.class_images.tolist() == [4, 4, 2]
    assert [r.top5_accuracy for r in found.results] == [None] * 3


def test_each_is_paired_with_the_best() -> None:
    poor, _, fair = (result.against_best for result in compared().results)
    assert poor is not None
    assert fair is not None
    assert (poor.gained, poor.lost) == (1, 7)
    assert (fair.gained, fair.lost) == (1, 2)
    assert poor.difference == pytest.approx(-0.6)
    assert poor.interval.low < -0.6 < poor.interval.high
    assert poor.p_value == pytest.approx(stats.binomtest(1, 8).pvalue)
    assert poor.p_holm == pytest.approx(2 * stats.binomtest(1, 8).pvalue)
    assert fair.p_holm == 1.0


def test_changes_a_class_largest_first() -> None:
    found = compared()
    changes = found.class_changes(0)
    assert [(c.label, c.change, c.images) for c in changes] == [
        ("dog", -4, 4),
        ("cat", -3, 4),
        ("fish", 1, 2),
    ]
    assert changes[2].share == 0.5
    assert [c.label for c in found.class_changes(2)] == ["fish", "cat", "dog"]  # by share, in order
    assert len(found.class_changes(0, top=1)) == 1
    assert found.class_changes(1) == []


def test_agreement_is_symmetric_and_one_with_itself() -> None:
    agreement = compared().agreement
    assert agreement == pytest.approx(agreement.T)
    assert np.diag(agreement) == pytest.approx(1)
    assert agreement[1, 2] == pytest.approx(np.mean(np.array(GOOD) == np.array(FAIR)))


def random_case(images: int, labels: int, count: int, seed: int = 0):
    random = np.random.default_rng(seed)
    texts = random.normal(size=(count, labels, 16)).astype(np.float32)
    truth = random.integers(labels, size=images)
    features = texts.mean(axis=0)[truth] + random.normal(scale=0.6, size=(images, 16))
    return features.astype(np.float32), texts, truth


def test_parts_add_up_to_the_whole_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    images, texts, truth = random_case(211, 12, 3)
    truth[::7] = -1
    monkeypatch.setattr(module, "LOGITS_AT_ONCE", 12 * 10)
    largest = 0

    def watched(image_features: Floats, text_features: Floats) -> Floats:
        nonlocal largest
        largest = max(largest, len(image_features))
        return logits(image_features, text_features)

    def one_at_a_time() -> Iterator[tuple[str, Floats]]:
        yield from zip("abc", texts, strict=True)

    names = [str(i) for i in range(12)]
    found = compare_templates(
        one_at_a_time(), images, names, watched, truth=truth, calibration=False
    )
    assert largest == 10
    assert found.ensemble == 3
    assert (found.images, found.known) == (211, int((truth >= 0).sum()))
    every = [*texts, np.mean([normalise(t) for t in texts], axis=0)]
    known = truth >= 0
    for result, text in zip(found.results, every, strict=True):
        whole = logits(images, text)
        assert result.predicted.tolist() == whole.argmax(1).tolist()
        assert result.confidence == pytest.approx(softmax(whole, axis=1).max(1), rel=1e-5)
        assert result.correct is not None
        assert not result.correct[~known].any()
        assert result.accuracy == pytest.approx(np.mean(whole.argmax(1)[known] == truth[known]))
        order = np.argsort(-whole[known], axis=1)[:, :5]
        assert result.top5_accuracy == pytest.approx(np.mean((order == truth[known, None]).any(1)))


def test_calibration_sees_only_images_with_truth() -> None:
    images, texts, truth = random_case(150, 6, 2)
    truth[:50] = -1
    names = [str(i) for i in range(6)]
    found = compare_templates(zip("ab", texts, strict=True), images, names, logits, truth=truth)
    for result in found.results:
        assert result.calibration is not None
        assert result.calibration.raw.images == 100
        assert result.calibration.raw.accuracy == pytest.approx(result.accuracy)


@pytest.mark.parametrize("truth", [None, np.full(40, -1)])
def test_without_truth_there_is_agreement_and_confidence_only(truth: np.ndarray | None) -> None:
    images, texts, _ = random_case(40, 6, 2)
    found = compare_templates(
        zip("ab", texts, strict=True), images, list("uvwxyz"), logits, truth=truth
    )
    assert (found.best, found.known, found.class_images) == (None, 0, None)
    assert found.class_changes(0) == []
    for row in found.rows():
        assert row["accuracy"] is None
        assert row["ece"] is None
        assert row["best"] is False
        assert isinstance(row["mean_confidence"], float)
        assert isinstance(row["same_as_first"], float)


def test_sigmoid_scores_each_label_by_itself() -> None:
    images, texts, truth = random_case(40, 6, 1)
    found = compare_templates(
        [("a", texts[0])], images, list("uvwxyz"), logits, activation="sigmoid", truth=truth
    )
    highest = logits(images, texts[0]).max(1)
    assert found.results[0].confidence == pytest.approx(1 / (1 + np.exp(-highest)), rel=1e-5)


def test_rows_have_the_same_columns_and_plain_values() -> None:
    images, texts, truth = random_case(60, 6, 3)
    found = compare_templates(
        zip("abc", texts, strict=True), images, list("uvwxyz"), logits, truth=truth
    )
    rows = found.rows()
    assert len({tuple(row) for row in rows}) == 1
    assert {type(value) for row in rows for value in row.values()} <= {
        str, int, float, bool, type(None)
    }  # fmt: skip
    assert sum(bool(row["best"]) for row in rows) == 1
    best = next(row for row in rows if row["best"])
    assert best["p_value"] is None
    assert best["same_as_best"] == 1.0


def test_equal_scores_rank_as_argmax_puts_them() -> None:
    same = np.ones((3, 4), np.float32)
    found = compare_templates(
        [("a", same)], np.ones((2, 4), np.float32), LABELS, logits, truth=np.array([0, 1])
    )
    assert found.results[0].correct is not None
    assert found.results[0].correct.tolist() == [True, False]


def test_one_label_and_no_image() -> None:
    found = compare_templates(
        [("a", np.ones((1, 4), np.float32))],
        np.ones((3, 4), np.float32),
        ["cat"],
        logits,
        truth=np.zeros(3, np.intp),
    )
    assert found.results[0].accuracy == 1.0
    nothing = compare_templates(
        [("a", np.ones((1, 4), np.float32))], np.ones((0, 4), np.float32), ["cat"], logits
    )
    assert nothing.results[0].mean_confidence == 0.0


def test_what_does_not_fit_is_refused() -> None:
    images, texts, truth = random_case(10, 6, 1)
    with pytest.raises(ValueError, match="6 texts for 2 labels"):
        compare_templates([("a", texts[0])], images, ["u", "v"], logits)
    with pytest.raises(ValueError, match="do not fit"):
        compare_templates([("a", texts[0])], images, list("uvwxyz"), logits, truth=truth[:5])
    with pytest.raises(ValueError, match="do not fit"):
        compare_templates([("a", texts[0])], images, list("uvwxyz"), logits, truth=truth + 6)
    with pytest.raises(ValueError, match="at least one"):
        compare_templates([], images, LABELS, logits)


@pytest.mark.parametrize(
    ("template", "negated"),
    [
        ("This is a photo of {object}", "This is not a photo of {object}"),
        ("a photo of a {}.", "not a photo of a {}."),
        ("A photo of a {}.", "Not a photo of a {}."),
        ("{}", "not {}"),
        ("there are {} here", "there are not {} here"),
        ("itap of a {}.", "not itap of a {}."),
        ("This is not a photo of {object}", None),
        ("No {object}, no score.", None),
        ("a picture without a {}", None),
        ("this isn’t a {}", None),
        ("a notable photo of a {}", "not a notable photo of a {}"),
    ],
)
def test_negate(template: str, negated: str | None) -> None:
    assert negate(template) == negated


def test_a_model_that_is_deaf_to_not() -> None:
    plain = pictures(GOOD)
    probe = probe_negation("{}", "not {}", unit_images(10), plain, plain, logits, TRUTH)
    assert probe.same_answer == 1.0
    assert probe.right_answer is not None
    assert probe.right_answer == 0.8
    assert probe.interval("right_answer") == pytest.approx(wilson(8, 10))
    assert probe.denial_wins == 0.0  # a tie is no win
    assert probe.text_cosine == pytest.approx(1.0)


def test_a_model_that_reads_not() -> None:
    plain = pictures(TRUTH.tolist())
    probe = probe_negation("{}", "not {}", unit_images(10), plain, -plain, logits, TRUTH)
    assert probe.right_answer is not None
    assert (probe.same_answer, probe.right_answer, probe.denial_wins) == (0, 0, 0)
    assert probe.text_cosine == pytest.approx(-1.0)


def test_probe_agrees_with_the_whole_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    images, texts, truth = random_case(83, 7, 2)
    truth[3] = -1
    monkeypatch.setattr(module, "LOGITS_AT_ONCE", 7 * 9)
    probe = probe_negation("{}", "not {}", images, texts[0], texts[1], logits, truth)
    keep = truth >= 0
    plain, denied = logits(images[keep], texts[0]), logits(images[keep], texts[1])
    rows, right = np.arange(keep.sum()), truth[keep]
    assert probe.images == 82
    assert probe.same_answer == pytest.approx(np.mean(plain.argmax(1) == denied.argmax(1)))
    assert probe.right_answer is not None
    assert probe.right_answer == pytest.approx(np.mean(denied.argmax(1) == right))
    assert probe.denial_wins == pytest.approx(np.mean((denied > plain)[rows, right]))
    wrong = np.ones_like(plain, dtype=bool)
    wrong[rows, right] = False
    assert probe.denial_wins_elsewhere == pytest.approx(np.mean((denied > plain)[wrong]))
    unit = [normalise(t) for t in texts]
    assert probe.text_cosine == pytest.approx(float(np.mean((unit[0] * unit[1]).sum(1))), abs=1e-6)
    pairs = (unit[0] @ unit[0].T)[~np.eye(7, dtype=bool)]
    assert probe.class_cosine == pytest.approx(float(pairs.mean()), abs=1e-6)
    assert set(map(type, msgspec.structs.asdict(probe).values())) <= {str, int, float}


def test_probe_without_truth_asks_about_the_first_answer() -> None:
    images, texts, _ = random_case(30, 7, 2)
    probe = probe_negation("{}", "not {}", images, texts[0], texts[1], logits)
    assert probe.right_answer is None
    plain, denied = logits(images, texts[0]), logits(images, texts[1])
    rows, first = np.arange(30), plain.argmax(1)
    assert probe.denial_wins == pytest.approx(np.mean((denied > plain)[rows, first]))
    assert probe.right_answer_low is None


def test_probe_of_one_label() -> None:
    images, texts, _ = random_case(5, 1, 2)
    probe = probe_negation("{}", "not {}", images, texts[0], texts[1], logits)
    assert probe.class_cosine is None
    assert probe.denial_wins_elsewhere is None
