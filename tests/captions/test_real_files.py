"""Counts of real caption files, against a plain reading of the same JSON."""

import json

import pytest

from captune.captions import match_captions, match_images, read_captions
from captune.errors import UserError
from captune.images import find_images

pytestmark = pytest.mark.needs("shared")


@pytest.mark.parametrize(
    ("name", "images", "captions"),
    [
        ("flickr8k/captions_train.json", 6_000, 30_000),
        ("flickr8k/captions_val.json", 1_000, 5_000),
        ("coco-mini/captions_train.json", 80, 400),
        ("coco-mini/captions_val.json", 79, 395),
        ("metrics/coco_val2017_references.json", 5_000, 20_014),
    ],
)
def test_coco_annotations(shared, name, images, captions):
    path = shared / "data" / name
    found = read_captions(path)
    content = json.loads(path.read_text(encoding="utf-8"))
    expected: dict[str, list[str]] = {}
    for annotation in content["annotations"]:
        expected.setdefault(str(annotation["image_id"]), []).append(annotation["caption"])
    assert found.form == "COCO annotations"
    assert found.captions == expected
    assert found.file_names == {str(i["id"]): i["file_name"] for i in content["images"]}
    assert (len(found), sum(map(len, found.captions.values()))) == (images, captions)


def test_candidates_and_references(shared):
    folder = shared / "data" / "metrics"
    candidates = read_captions(folder / "coco_val2017_candidates.json")
    references = read_captions(folder / "coco_val2017_references.json")
    assert (candidates.form, len(candidates)) == ("COCO results", 5_000)
    found = match_captions(candidates, references)
    assert found.references == {id: references.captions[id] for id in candidates.captions}
    assert (found.spelling, found.notes) == ("id", [])
    assert found.file_names["179765"] == "000000179765.jpg"


@pytest.mark.parametrize("name", ["flickr8k", "coco-mini"])
def test_every_image_is_found(shared, name):
    images = find_images([shared / "data" / name / "images"])
    for split in ("train", "val"):
        captions = read_captions(shared / "data" / name / f"captions_{split}.json")
        found, unmatched = match_images(captions, images)
        assert unmatched == []
        assert {id: image.path.name for id, image in found.items()} == captions.file_names


def test_object_boxes_are_no_captions(shared):
    with pytest.raises(UserError, match="annotation 1 has no caption"):
        read_captions(shared / "data" / "coco-mini" / "instances_val.json")
