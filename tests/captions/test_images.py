"""Captions find their images by file name, by id, and by number at last."""

from pathlib import Path

import pytest

from captune.captions import CaptionFile, Matched, match_images
from captune.images import ImageFile, ImageSet

ROOT = Path("/images")


def images_of(*names: str) -> ImageSet:
    return ImageSet(ROOT, [ImageFile(ROOT / name, name) for name in names], [])


def found_of(
    ids: list[str], names: dict[str, str], *images: str
) -> tuple[dict[str, str], list[str]]:
    file = CaptionFile("c", "JSON", {id: ["x"] for id in ids}, names, "0" * 64)
    found, unmatched = match_images(file, images_of(*images))
    assert list(found) == [id for id in ids if id in found]
    assert sorted([*found, *unmatched]) == sorted(ids)
    # candidates that met their references are looked for in the same way
    again = match_images(Matched(dict.fromkeys(ids, "x"), {}, names), images_of(*images))
    assert again == (found, unmatched)
    return {id: image.name for id, image in found.items()}, unmatched


@pytest.mark.parametrize(
    ("ids", "names", "images", "expected"),
    [
        (["1", "2"], {}, ["1.jpg", "2.jpg"], {"1": "1.jpg", "2": "2.jpg"}),
        (["1.jpg"], {}, ["1.jpg", "11.jpg"], {"1.jpg": "1.jpg"}),
        (["1.jpg"], {}, ["1.png"], {"1.jpg": "1.png"}),
        (["a/1"], {}, ["a/1.jpg"], {"a/1": "a/1.jpg"}),
        (["7"], {"7": "x.jpg"}, ["7.jpg", "x.jpg"], {"7": "x.jpg"}),
        # a file that is not there is not replaced by one that is called like the id
        (["7"], {"7": "x.jpg"}, ["7.jpg"], {}),
        (["7"], {"7": "val/x.jpg"}, ["x.jpg"], {"7": "val/x.jpg".rpartition("/")[2]}),
        (["7"], {"7": "x.jpg"}, ["deep/down/x.jpg"], {"7": "deep/down/x.jpg"}),
        (["7"], {"7": "x.jpg"}, ["a/x.jpg", "b/x.jpg"], {}),
        (["139"], {}, ["000000000139.jpg"], {"139": "000000000139.jpg"}),
        (["9"], {}, ["a/COCO_val2014_000000000009.jpg"], {"9": "a/COCO_val2014_000000000009.jpg"}),
        (["139"], {}, ["000139.jpg", "0139.jpg"], {}),
        (["139", "0139"], {}, ["000139.jpg"], {}),
        (["7", "8"], {"7": "x.jpg", "8": "x.jpg"}, ["x.jpg"], {}),
        (["a", "b"], {}, ["b.jpg", "c.jpg"], {"b": "b.jpg"}),
        (["x/a/1.jpg"], {}, ["1.jpg", "a/1.jpg"], {"x/a/1.jpg": "a/1.jpg"}),
        (["v1.2"], {}, ["v1.2.jpg"], {"v1.2": "v1.2.jpg"}),
        (["a/1", "b/1"], {}, ["b/1.jpg", "a/1.jpg"], {"a/1": "a/1.jpg", "b/1": "b/1.jpg"}),
        (["images/1"], {}, ["1.jpg"], {"images/1": "1.jpg"}),
        (["x/images/1.png"], {}, ["a/1.jpg"], {}),
        (["x/1", "x/a/2"], {}, ["a/1.jpg", "a/2.jpg"], {"x/a/2": "a/2.jpg"}),
    ],
)  # fmt: skip
def test_images_of_captions(ids, names, images, expected):
    found, unmatched = found_of(ids, names, *images)
    assert found == expected
    assert unmatched == [id for id in ids if id not in expected]
