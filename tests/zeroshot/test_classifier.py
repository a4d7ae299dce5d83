from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.colour_model import colour_model

from captune import UserError, ZeroShotClassifier
from captune.images import ImageFile, find_images
from captune.models.encoders import SimilarityScale, normalise
from captune.zeroshot.classifier import activate, top_indices


def test_three_lines_of_python(colour_images: Path) -> None:
    classifier = ZeroShotClassifier(["red", "green", "blue"], model=colour_model())
    found = {p.image.name: p.label for p in classifier.classify(colour_images)}
    assert found == {
        "7_0.png": "red", "7_1.png": "red", "8_0.png": "green",
        "8_1.png": "green", "9_0.png": "blue", "9_1.png": "blue",
    }  # fmt: skip


def test_accepts_a_path_a_list_of_paths_images_and_a_image_set(colour_images: Path) -> None:
    classifier = ZeroShotClassifier("red,blue", model=colour_model())
    one = colour_images / "9_0.png"
    for images in (
        one,
        str(one),
        [one],
        [str(one)],
        [ImageFile(one, "9_0.png")],
        find_images([one]),
    ):
        (prediction,) = classifier.classify(images)
        assert prediction.label == "blue"


def test_class_ids_are_never_positions(colour_images: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.json"
    labels.write_text('{"9": "blue", "07": "red", "x": "green"}')
    classifier = ZeroShotClassifier(str(labels), model=colour_model())
    ids = [prediction.id for prediction in classifier.classify(colour_images)]
    assert ids == ["07", "07", "x", "x", "9", "9"]


def test_softmax_probabilities_are_those_of_the_written_recipe(colour_images: Path) -> None:
    model = colour_model()
    classifier = ZeroShotClassifier(["red", "white"], model=model, prompts=["a {}", "{}!"])
    (prediction,) = classifier.classify(colour_images / "7_0.png")
    image = np.array([220, 20, 30]) / 255
    for row, _ in zip(prediction.probabilities, classifier.prompts, strict=True):
        cosines = [
            image @ np.array(text) / np.linalg.norm(image) / np.linalg.norm(text)
            for text in ((1.1, 0.1, 0.1), (1.1, 1.1, 1.1))
        ]
        expected = np.exp(10 * np.array(cosines))
        np.testing.assert_allclose(row, expected / expected.sum(), rtol=1e-5)


def test_ensemble_is_the_normalised_mean_of_normalised_texts() -> None:
    model = colour_model()
    prompts = ["a {}", "a red {}"]
    alone = ZeroShotClassifier(["green", "blue"], model=model, prompts=prompts)
    together = ZeroShotClassifier(["green", "blue"], model=model, prompts=prompts, ensemble="mean")
    assert alone.text_features.shape == (2, 2, 3)
    expected = normalise(normalise(alone.text_features).mean(axis=0))
    np.testing.assert_allclose(together.text_features, expected[None], atol=1e-6)
    assert together.prompts == [None]
    assert alone.prompts == prompts


def test_class_specific_prompts_are_averaged_for_each_label(tmp_path: Path) -> None:
    labels = tmp_path / "cupl.json"
    labels.write_text('{"warm": ["a red thing", "red"], "cold": ["blue"]}')
    classifier = ZeroShotClassifier(str(labels), model=colour_model())
    assert classifier.text_features.shape == (1, 2, 3)
    assert classifier.text_features[0].argmax(axis=1).tolist() == [0, 2]
    with pytest.raises(UserError, match="own prompts"):
        ZeroShotClassifier(str(labels), model=colour_model(), prompts=["a {}"])


def test_multi_label_answers_each_label_on_its_own(colour_images: Path) -> None:
    two = ZeroShotClassifier(["red", "blue"], model=colour_model(), multi_label=True)
    one = ZeroShotClassifier(["red"], model=colour_model(), multi_label=True)
    (a,) = two.classify(colour_images / "7_0.png")
    (b,) = one.classify(colour_images / "7_0.png")
    assert a.probabilities[0, 0] == pytest.approx(b.probabilities[0, 0], abs=1e-6)
    assert a.probabilities[0, 0] > 0.5 > a.probabilities[0, 1]


def test_sigmoid_model_uses_its_bias(colour_images: Path) -> None:
    classifier = ZeroShotClassifier(["red", "blue"], model=colour_model("sigmoid"))
    (prediction,) = classifier.classify(colour_images / "7_0.png")
    assert prediction.probabilities.sum() != pytest.approx(1, abs=1e-3)
    logits = classifier.model.logits(
        np.array([[220, 20, 30]], dtype=np.float32), classifier.text_features[0]
    )
    np.testing.assert_allclose(prediction.probabilities[0], 1 / (1 + np.exp(-logits[0])), rtol=1e-4)


def test_bad_images_are_handed_over_and_the_rest_goes_on(colour_images: Path) -> None:
    (colour_images / "8_9.png").write_bytes(b"")
    skipped = []
    classifier = ZeroShotClassifier(["red", "blue"], model=colour_model())
    assert len(list(classifier.classify(colour_images, on_skip=skipped.append))) == 6
    assert [item.path for item in skipped] == ["8_9.png"] or skipped[0].path.endswith("8_9.png")


def test_a_second_time_nothing_is_encoded_again(colour_images: Path) -> None:
    for _ in range(2):
        model = colour_model()
        classifier = ZeroShotClassifier(["red", "blue", "red wine"], model=model)
        list(classifier.classify(colour_images))
        counted = (model.image.module.images, model.text.module.texts)
    assert counted == (0, 0)


@pytest.mark.parametrize(("what", "value"), [("batch_size", 0), ("workers", -1)])
def test_numbers_that_make_no_sense_are_refused(what: str, value: int) -> None:
    with pytest.raises(UserError, match=str(value)):
        ZeroShotClassifier(["red"], model=colour_model(), **{what: value})


def test_activation_survives_large_logits() -> None:
    logits = np.array([[1e4, -1e4, 0.0]], dtype=np.float32)
    with np.errstate(over="raise"):
        soft = activate(logits, SimilarityScale(1.0))
        sigmoid = activate(logits, SimilarityScale(1.0, activation="sigmoid"))
    np.testing.assert_allclose(soft, [[1, 0, 0]])
    np.testing.assert_allclose(sigmoid, [[1, 0, 0.5]])


def test_top_indices_orders_ties_by_position() -> None:
    row = np.array([0.1, 0.3, 0.3, 0.0, 0.3], dtype=np.float32)
    assert top_indices(row, 4).tolist() == [1, 2, 4, 0]
    assert top_indices(row, 99).tolist() == [1, 2, 4, 0, 3]
