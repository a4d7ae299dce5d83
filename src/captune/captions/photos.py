"""The photos that captions are about, found by the file names or ids that their file gives."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from captune.captions.caption_file import CaptionFile
from captune.captions.matching import Matched
from captune.captions.spelling import last_parts, number_of
from captune.images import Photo, PhotoSet
from captune.images.naming import folders_agree, photos_named, without_ending


def match_photos(
    captions: CaptionFile | Matched, photos: PhotoSet
) -> tuple[dict[str, Photo], list[str]]:
    """Image id -> its photo, in the order of the captions, and the ids that have none.

    An image is looked for by its file name, or by its id where its file gives no name: as it is
    spelled, at the end of a path, without the ending, and an id at last as a number (139 is
    000000000139.jpg). What fits several photos or several images is left unmatched.
    """
    ids: Iterable[str] = (
        captions.captions if isinstance(captions, CaptionFile) else captions.candidates
    )
    by_name: dict[str, list[str]] = defaultdict(list)
    for id in ids:
        by_name[captions.file_names.get(id, id)].append(id)
    unique = {name: same[0] for name, same in by_name.items() if len(same) == 1}
    by_photo = {photo.name: photo for photo in photos.photos}
    found, _ = photos_named(unique, photos.photos, lambda names: len(names) == 1)
    photo_of = {
        unique[name]: by_photo[photo]
        for photo, name in found.items()
        if _agree(name, by_photo[photo])
    }
    nameless = [
        id for id in unique.values() if id not in photo_of and id not in captions.file_names
    ]
    taken = {photo.name for photo in photo_of.values()}
    numbered = _by_number(nameless, [name for name in by_photo if name not in taken])
    photo_of.update(
        {id: by_photo[name] for id, name in numbered.items() if _agree(id, by_photo[name])}
    )
    matched = {id: photo_of[id] for id in ids if id in photo_of}
    return matched, [id for id in ids if id not in photo_of]


def photos_alike(captions: CaptionFile | Matched, id: str, photos: PhotoSet) -> list[str]:
    """The photos that an image could be by its bare name: `1.jpg` and `1.png` where it is "1"."""
    name = _bare(captions.file_names.get(id, id))
    return [photo.name for photo in photos.photos if _bare(photo.name) == name]


def _bare(name: str) -> str:
    return last_parts(without_ending(name), 1)


def _agree(name: str, photo: Photo) -> bool:
    """Not the photo of another folder that merely has the same name."""
    return folders_agree(name, photo.name) or folders_agree(name, photo.path.as_posix())


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
