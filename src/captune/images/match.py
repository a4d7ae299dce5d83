"""Images as tables and captions name them: another folder in front, another ending."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import PurePosixPath

from captune.errors import UserError
from captune.images.find import ENDINGS, ImageFile


def images_named(
    names: Iterable[str], images: Sequence[ImageFile], are_one: Callable[[list[str]], bool]
) -> tuple[dict[str, str], list[str]]:
    """Image name -> the name it was found under, and the names that belong to no image.

    A name belongs to the image with the same name, else to the only image whose path ends like it,
    else to the only image whose name ends the path in it, else to the only one that differs just
    in the file's ending. Where several names fit an image, `are_one` says whether that matters.
    """
    open_names = dict.fromkeys(names)
    found = {image.name: image.name for image in images if image.name in open_names}
    for name in found:
        del open_names[name]
    for keys_of_name, keys_of_image in _WAYS:
        open_images = [image for image in images if image.name not in found]
        if not open_images or not open_names:
            break
        by_key: dict[str, list[str]] = defaultdict(list)
        for name in open_names:
            for key in keys_of_name(name):
                by_key[key].append(name)
        claims: dict[str, list[str]] = defaultdict(list)
        for image in open_images:
            longest = next((key for key in keys_of_image(image) if key in by_key), None)
            if longest is not None:
                claims[longest].append(image.name)
        # the longest first: x/a/1.jpg is the image a/1.jpg rather than another one called 1.jpg
        for key in sorted(claims, key=len, reverse=True):
            fitting = [name for name in by_key[key] if name in open_names]
            if len(claims[key]) == 1 and fitting and are_one(fitting):
                found[claims[key][0]] = fitting[0]
                for name in fitting:
                    del open_names[name]
    return found, list(open_names)


def named_image(word: str, names: Collection[str]) -> str:
    """The image that `word` names: its name, or a path that ends in it as the shell completes it.

    Raises UserError where there is none.
    """
    if word in names:
        return word
    endings = [name for name in names if word.endswith(f"/{name}")]
    if not endings:
        raise UserError(f"--top5 {word}: neither a number nor one of the {len(names)} images")
    return max(endings, key=len)


def sample_names(images: Sequence[str], wanted: Sequence[str], seed: int) -> list[str]:
    """Images for figures: a number samples so many, a name is taken as given.

    Raises UserError for a name that is not among the images.
    """
    names = list(images)
    chosen: list[str] = []
    for word in wanted:
        if word.isdecimal():
            import numpy as np

            generator = np.random.default_rng(seed)
            count = min(int(word), len(names))
            chosen.extend(
                names[i] for i in sorted(generator.choice(len(names), count, replace=False))
            )
        else:
            chosen.append(named_image(word, names))
    return list(dict.fromkeys(chosen))


def plain_path(path: str) -> str:
    """One spelling for paths that people write in several: ./a, a\\b, and composed accents."""
    if not path.isascii():
        path = unicodedata.normalize("NFC", path)
    path = path.strip()
    if "/" not in path and "\\" not in path:
        return path
    return path.replace("\\", "/").removeprefix("./").lstrip("/")


def without_ending(text: str) -> str:
    """a/b.jpg -> a/b, but only where the ending is that of an image: v1.2 stays."""
    path = plain_path(text)
    start, dot, ending = path.rpartition(".")
    return start if dot and ending.lower() in ENDINGS else path


def has_folders(text: str) -> bool:
    """Whether it is more than a name."""
    return "/" in text or "\\" in text


def folders_agree(first: str, second: str) -> bool:
    """Whether one path ends like the other, file name aside: a/1.jpg and b/1.jpg do not."""
    if not has_folders(first) or not has_folders(second):
        return True
    folders = plain_path(first).split("/")[:-1], plain_path(second).split("/")[:-1]
    shorter = min(map(len, folders))
    return not shorter or folders[0][-shorter:] == folders[1][-shorter:]


def _endings_of(path: str) -> list[str]:
    """a/b/c.jpg -> a/b/c.jpg, b/c.jpg, c.jpg"""
    parts = plain_path(path).split("/")
    return ["/".join(parts[start:]) for start in range(len(parts))]


def _stem(path: str) -> str:
    return PurePosixPath(plain_path(path)).stem


# Tried in turn, for what is still open: a name ends the path of one image; an image's name ends the
# path in one name; both again without the endings of images; the same file but for any ending.
_WAYS: tuple[tuple[Callable[[str], Sequence[str]], Callable[[ImageFile], Sequence[str]]], ...] = (
    (lambda name: [plain_path(name)], lambda image: _endings_of(image.path.as_posix())),
    (_endings_of, lambda image: [plain_path(image.name)]),
    (
        lambda name: [without_ending(name)],
        lambda image: _endings_of(without_ending(image.path.as_posix())),
    ),
    (lambda name: _endings_of(without_ending(name)), lambda image: [without_ending(image.name)]),
    (lambda name: [_stem(name)], lambda image: [_stem(image.name)]),
)
