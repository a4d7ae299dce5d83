from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from captune.attribution.faithful.dataset import Box, coverage, read_boxes
from captune.errors import UserError


def content() -> dict[str, Any]:
    return {
        "images": [
            {"id": 7, "file_name": "a.jpg", "width": 200, "height": 100},
            {"id": 8, "file_name": "b.jpg", "width": 50, "height": 50},
        ],
        "annotations": [
            {"image_id": 7, "category_id": 1, "bbox": [20, 10, 100, 50], "iscrowd": 0},
            {"image_id": 7, "category_id": 2, "bbox": [150.5, -5, 80, 10]},
        ],
        "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}],
    }


def written(folder: Path, what: Any) -> Path:
    path = folder / "instances.json"
    path.write_text(what if isinstance(what, str) else json.dumps(what))
    return path


def test_boxes_are_shares_of_the_image_and_end_at_its_edges(tmp_path: Path) -> None:
    boxes = read_boxes(written(tmp_path, content()))
    dog, cat = boxes.by_id["7"]
    assert dog == Box("dog", 0.1, 0.1, 0.6, 0.6)
    assert cat == Box("cat", 0.7525, 0.0, 1.0, 0.05)
    assert boxes.categories == ["dog", "cat"]


def test_an_image_is_known_by_its_id_or_its_file(tmp_path: Path) -> None:
    boxes = read_boxes(written(tmp_path, content()))
    assert boxes.of("7") == boxes.of("other", "a.jpg")
    assert boxes.of("8") == []
    assert boxes.of("9", "c.jpg") is None


def _without(key: str) -> dict[str, Any]:
    found = content()
    del found[key]
    return found


def _changed(patch: str, number: int, **fields: Any) -> dict[str, Any]:
    found = content()
    entry = found[patch][number]
    for key, value in fields.items():
        if value is None:
            del entry[key]
        else:
            entry[key] = value
    return found


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("{", "is not valid JSON"),
        ([], "holds a list, and an object was expected"),
        (_without("annotations"), '"annotations" is not a list of objects'),
        (_without("categories"), "captions go to --captions"),
        (_changed("images", 1, width=None), "image 2 has no width"),
        (_changed("images", 0, width=0), "image 1 has no width and height above 0"),
        (_changed("images", 1, id=7), 'image id "7" appears twice'),
        (_changed("annotations", 0, bbox=None), "annotation 1 has no bbox"),
        (_changed("annotations", 0, bbox=[1, 2, 3]), "annotation 1: bbox is not"),
        (_changed("annotations", 0, bbox=[1, 2, "3", 4]), "annotation 1: bbox is not"),
        (_changed("annotations", 0, bbox=[1, 2, -3, 4]), "annotation 1: bbox is not"),
        (_changed("annotations", 1, image_id=9), 'annotation 2 is of image "9"'),
        (_changed("annotations", 1, category_id=3), 'annotation 2 has category "3"'),
    ],
)
def test_what_is_no_file_of_boxes_is_refused_in_a_sentence(
    tmp_path: Path, what: Any, said: str
) -> None:
    with pytest.raises(UserError) as error:
        read_boxes(written(tmp_path, what))
    sentence = str(error.value)
    assert said in sentence
    assert "instances.json" in sentence
    assert "\n" not in sentence


def test_captions_are_no_boxes(tmp_path: Path) -> None:
    captions = {
        "images": [{"id": 7, "file_name": "a.jpg", "width": 10, "height": 10}],
        "annotations": [{"image_id": 7, "id": 1, "caption": "a dog"}],
        "categories": [],
    }
    with pytest.raises(UserError, match="annotation 1 has no category_id"):
        read_boxes(written(tmp_path, captions))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_boxes(tmp_path / "none.json")


def test_coverage_is_exact() -> None:
    half = coverage([Box("dog", 0.0, 0.25, 0.5, 0.5)], 2, 2)
    np.testing.assert_allclose(half, [[0.5, 0], [0, 0]])
    patch = coverage([Box("dog", 0.25, 0.25, 0.75, 0.75)], 2, 2)
    np.testing.assert_allclose(patch, np.full((2, 2), 0.25))


def test_overlapping_boxes_count_once() -> None:
    boxes = [Box("a", 0.1, 0.1, 0.7, 0.6), Box("a", 0.4, 0.3, 0.9, 0.95), Box("b", 0, 0, 0, 0.5)]
    found = coverage(boxes, 5, 7)
    area = 0.6 * 0.5 + 0.5 * 0.65 - 0.3 * 0.3
    assert found.sum() / 35 == pytest.approx(area)
    assert found.max() <= 1 + 1e-12


def test_coverage_agrees_with_a_raster() -> None:
    chance = np.random.default_rng(3)
    for _ in range(20):
        corners = np.sort(chance.random((3, 2, 2)), axis=1)
        boxes = [Box("x", *map(float, (c[0, 0], c[0, 1], c[1, 0], c[1, 1]))) for c in corners]
        points = (np.arange(600) + 0.5) / 600
        inside = np.zeros((600, 600), dtype=bool)
        for box in boxes:
            inside |= np.outer(
                (points > box.top) & (points < box.bottom),
                (points > box.left) & (points < box.right),
            )
        raster = inside.reshape(6, 100, 6, 100).mean(axis=(1, 3))
        np.testing.assert_allclose(coverage(boxes, 6, 6), raster, atol=0.04)
