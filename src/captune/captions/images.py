"""The images that captions are about, found by the file names or ids that their file gives."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from captune.captions.caption_file import CaptionFile
from captune.captions.matching import Matched
from captune.captions.spelling import last_parts, number_of
from captune.images import ImageFile, ImageSet
from captune.images.naming import folders_agree, images_named, without_ending


def match_images(
    captions: CaptionFile | Matched, images: ImageSet
) -> tuple[dict[str, ImageFile], list[str]]:
    """Image id -> its image, in the order of the captions, and the ids that have none.

    An image is looked for by its file name, or by its id where its file gives no name: as it is
    spelled, at the end of a path, without the ending, and an id at last as a number (139 is
    000000000139.jpg). What fits several images or several images is left unmatched.
    """
    ids: Iterable[str] = (
        captions.captions if isinstance(captions, CaptionFile) else captions.candidates
    )
    by_name: dict[str, list[str]] = defaultdict(list)
    for id in ids:
        by_name[captions.file_names.get(id, id)].append(id)
    unique = {name: same[0] for name, same in by_name.items() if len(same) == 1}
    by_image = {image.name: image for image in images.images}
    found, _ = images_named(unique, images.images, lambda names: len(names) == 1)
    image_of = {
        unique[name]: by_image[image]
        for image, name in found.items()
        if _agree(name, by_image[image])
    }
    nameless = [
        id for id in unique.values() if id not in image_of and id not in captions.file_names
    ]
    taken = {image.name for image in image_of.values()}
    numbered = _by_number(nameless, [name for name in by_image if name not in taken])
    image_of.update(
        {id: by_image[name] for id, name in numbered.items() if _agree(id, by_image[name])}
    )
    matched = {id: image_of[id] for id in ids if id in image_of}
    return matched, [id for id in ids if id not in image_of]


def images_alike(captions: CaptionFile | Matched, id: str, images: ImageSet) -> list[str]:
    """The images that an image could be by its bare name: `1.jpg` and `1.png` where it is "1"."""
    name = _stem(captions.file_names.get(id, id))
    return [image.name for image in images.images if _stem(image.name) == name]


def _stem(name: str) -> str:
    return last_parts(without_ending(name), 1)


def _agree(name: str, image: ImageFile) -> bool:
    """Not the image of another folder that merely has the same name."""
    return folders_agree(name, image.name) or folders_agree(name, image.path.as_posix())


def _by_number(ids: Iterable[str], names: Iterable[str]) -> dict[str, str]:
    of_ids: dict[str, list[str]] = defaultdict(list)
    of_names: dict[str, list[str]] = defaultdict(list)
    for texts, by_number in ((ids, of_ids), (names, of_names)):
        for text in texts:
            number = number_of(text)
            if number is not None:
                by_number[number].append(text)
    return {
        same[0]: of_names[number][0]
        for number, same in of_ids.items()
        if len(same) == 1 and len(of_names.get(number, ())) == 1
    }
