"""Candidates to references, and captions to images, by one spelling of the ids for whole files.

COCO calls one image 139, "000000000139.jpg" (2017) and "COCO_val2014_000000000139.jpg" (2014).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

from captune.captions.file import KARPATHY, CaptionFile
from captune.errors import MismatchedImages, UserError
from captune.images import ImageFile, ImageSet
from captune.images.match import (
    folders_agree,
    has_folders,
    images_named,
    plain_path,
    without_ending,
)
from captune.text import counted
from captune_metrics.display import named, printable, quoted

T = TypeVar("T")
_NUMBER = re.compile(r"(?:COCO_[a-z]+[0-9]{4}_)?0*([0-9]+)(?:\.0+)?")


def last_parts(text: str, count: int) -> str:
    """a/b/c.jpg -> b/c.jpg for two, c.jpg for one."""
    path = plain_path(text)
    return "/".join(path.split("/")[-count:]) if "/" in path else path


def number_of(text: str) -> str | None:
    """val/COCO_val2014_000000000139.jpg -> "139"; None for what is no number."""
    match = _NUMBER.fullmatch(last_parts(without_ending(text), count=1))
    return match[1] if match else None


@dataclass(frozen=True)
class Matched:
    """Candidates with their references, under the ids of the candidates file.

    candidates: image id -> caption. references: image id -> captions; the same ids, same order.
    file_names: image id -> file name where one of the two files gives it.
    in_references: image id -> the id that the references file has for it; the same ids and order.
    notes: sentences for the user.
    spelling: by what the ids were found to be the same.
    left_out: images of the references that have no candidate and are not scored.
    """

    candidates: dict[str, str]
    references: dict[str, list[str]]
    file_names: dict[str, str]
    in_references: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    spelling: str = "id"
    left_out: int = 0

    def only(self, ids: Container[str]) -> Matched:
        """These images alone; the others are left out."""

        def kept(values: Mapping[str, T]) -> dict[str, T]:
            return {id: value for id, value in values.items() if id in ids}

        candidates = kept(self.candidates)
        return replace(
            self,
            candidates=candidates,
            references=kept(self.references),
            file_names=kept(self.file_names),
            in_references=kept(self.in_references),
            left_out=self.left_out + len(self.candidates) - len(candidates),
        )


def match_captions(
    candidates: CaptionFile,
    references: CaptionFile,
    *,
    allow_missing: bool = False,
    subset: bool = False,
    ignore_extra: bool = False,
) -> Matched:
    """One candidate and its references for every image.

    Ids are taken as they are spelled where that fits; otherwise by the first of: path, file name,
    path and name without the image's ending, number ("COCO_val2014_000000000139" is 139), each of
    the id or of the file name that a file gives. One spelling serves all images, names nothing
    twice, and never joins `train/1.jpg` with `val/1.jpg`.
    allow_missing: an image without a candidate is scored as an empty caption, with a note.
    subset: an image without a candidate is left out instead.
    ignore_extra: a candidate without references is left out, with a note.
    Raises UserError where an image has several candidates, MismatchedImages where some image has
    no candidate or some candidate no references and no flag says what to do with it.
    """
    _check_single(candidates, references)
    pairing = _best_pairing(_Side(candidates), _Side(references))
    of_candidate = pairing.of_candidate
    in_references = dict(of_candidate)
    used = set(of_candidate.values())
    without_candidate = [id for id in references.captions if id not in used]
    without_references = [id for id in candidates.captions if id not in of_candidate]
    settled = [
        flag
        for flag, given in (
            ("--allow-missing", allow_missing and without_candidate),
            ("--subset", subset and without_candidate),
            ("--ignore-extra", ignore_extra and without_references),
        )
        if given
    ]
    remain = bool(without_candidate) + bool(without_references) > len(settled)
    if remain or not of_candidate:
        raise _mismatch(
            candidates, references, without_candidate, without_references, pairing, settled
        )
    notes: list[str] = []
    if without_references:
        notes.append(
            f"{counted(len(without_references), 'candidate')} of {printable(candidates.source)}"
            f" without references in {printable(references.source)}"
            f" {'is' if len(without_references) == 1 else 'are'} left out:"
            f" {named(without_references)}"
        )
    if without_candidate and not subset:
        notes.append(
            f"{counted(len(without_candidate), 'image')} of {len(references)} without a candidate"
            f" in {printable(candidates.source)} {'is' if len(without_candidate) == 1 else 'are'}"
            f" scored as an empty caption: {named(without_candidate)}"
        )
        for other in without_candidate:
            id = pairing.spelled_alike(other)
            if id in in_references:
                raise MismatchedImages(
                    f"{printable(references.source)}: image {quoted(other)} has no candidate, but"
                    " another one goes by that id; give both files the same ids."
                )
            in_references[id] = other
    matched_references = {id: references.captions[other] for id, other in in_references.items()}
    empty = [id for id, own in matched_references.items() if not all(map(str.strip, own))]
    if empty:
        notes.append(
            f"{printable(references.source)}: {counted(len(empty), 'image')} with an empty"
            f" reference, which counts like any other: {named(empty)}"
        )
    texts = {id: candidates.captions[id][0] for id in of_candidate}
    names = {id: candidates.file_names.get(id) for id in of_candidate}
    return Matched(
        candidates={id: texts.get(id, "") for id in in_references},
        references=matched_references,
        file_names={
            id: name
            for id, other in in_references.items()
            if (name := references.file_names.get(other) or names.get(id))
        },
        in_references=in_references,
        notes=notes,
        spelling=pairing.spelling,
        left_out=len(without_candidate) if subset else 0,
    )


def _check_single(candidates: CaptionFile, references: CaptionFile) -> None:
    several = [id for id, captions in candidates.captions.items() if len(captions) > 1]
    if not several:
        return
    counts = ", ".join(f"{quoted(id)} has {len(candidates.captions[id])}" for id in several[:3])
    more = f" and {len(several) - 3} more images have several" if len(several) > 3 else ""
    same = candidates.form == references.form
    hint = (
        " (the same form as the references: are the two files the same, or the other way round?)"
        if same and all(len(captions) > 1 for captions in references.captions.values())
        else " (the references have just one: are the two files the other way round?)"
        if references is not candidates and all(len(c) == 1 for c in references.captions.values())
        else ""
    )
    raise UserError(
        f"{printable(candidates.source)}: a candidate is one caption per image, but {counts}{more};"
        f" keep one caption of each{hint}."
    )


class _Side:
    """The ids of one file under every spelling."""

    def __init__(self, file: CaptionFile) -> None:
        self.texts: dict[str, Mapping[str, str]] = {
            "id": {id: id for id in file.captions},
            "file name": {id: file.file_names[id] for id in file.captions if id in file.file_names},
        }
        # where no id and no name has folders, spellings that differ in them say nothing new
        self.has_folders = any(
            has_folders(text) for texts in self.texts.values() for text in texts.values()
        )
        self._keys: dict[tuple[str, str], tuple[dict[str, str], set[str]]] = {}

    def keys(
        self, what: str, spelling: str, spell: Callable[[str], str | None]
    ) -> tuple[dict[str, str], set[str]]:
        """key -> image id, and the keys that several images share."""
        known = self._keys.get((what, spelling))
        if known is None:
            keys: dict[str, str] = {}
            shared: set[str] = set()
            for id, text in self.texts[what].items():
                key = spell(text)
                if key is not None and keys.setdefault(key, id) != id:
                    shared.add(key)
            known = self._keys[what, spelling] = (keys, shared)
        return known


@dataclass(frozen=True)
class _Pairing:
    """of_candidate: candidate's id -> references' id, in the order of the candidates."""

    of_candidate: dict[str, str]
    spelling: str
    spell: Callable[[str], str | None]
    text_of_reference: Mapping[str, str]
    candidates_are_keys: bool
    ambiguous: str | None = None

    def spelled_alike(self, reference: str) -> str:
        """The id that the candidates file would have had for an image it does not have."""
        key = self.spell(self.text_of_reference.get(reference, reference))
        return key if self.candidates_are_keys and key else reference


# name, function, and whether it gives something new only where there are folders
_SPELLINGS: tuple[tuple[str, Callable[[str], str | None], bool], ...] = (
    ("", str, False),
    ("path", plain_path, False),
    ("last two parts", partial(last_parts, count=2), True),
    ("name", partial(last_parts, count=1), True),
    ("without ending", without_ending, False),
    ("last two parts without ending", lambda text: last_parts(without_ending(text), 2), True),
    ("name without ending", lambda text: last_parts(without_ending(text), 1), True),
    ("number", number_of, False),
)
_TEXTS = (("id", "id"), ("id", "file name"), ("file name", "id"), ("file name", "file name"))


def _best_pairing(candidates: _Side, references: _Side) -> _Pairing:
    """The first that joins all that can be joined, or else the first that joins most."""
    best: _Pairing | None = None
    ambiguous: str | None = None
    wanted = min(len(candidates.texts["id"]), len(references.texts["id"]))
    for pairing in _pairings(candidates, references):
        ambiguous = ambiguous or pairing.ambiguous
        if best is None or len(pairing.of_candidate) > len(best.of_candidate):
            best = pairing
        if len(best.of_candidate) == wanted:
            return best
    assert best is not None
    if ambiguous is not None and best.ambiguous is None:
        return replace(best, ambiguous=ambiguous)
    return best


def _pairings(candidates: _Side, references: _Side) -> Iterator[_Pairing]:
    deep = candidates.has_folders or references.has_folders
    for spelling, spell, needs_folders in _SPELLINGS:
        if needs_folders and not deep:
            continue
        for of_candidate, of_reference in _TEXTS:
            texts = candidates.texts[of_candidate], references.texts[of_reference]
            if not texts[0] or not texts[1]:
                continue
            keys, shared = candidates.keys(of_candidate, spelling, spell)
            other_keys, other_shared = references.keys(of_reference, spelling, spell)
            name = f"{of_candidate} and {of_reference}" + (f", {spelling}" if spelling else "")
            doubled = (shared & other_keys.keys()) | (other_shared & keys.keys())
            pairs = {
                id: other_keys[key]
                for key, id in keys.items()
                if not doubled
                and key in other_keys
                and (not spelling or folders_agree(texts[0][id], texts[1][other_keys[key]]))
            }
            yield _Pairing(
                pairs,
                name if spelling or of_candidate != of_reference else of_candidate,
                spell,
                texts[1],
                all(spell(texts[0][id]) == id for id in pairs),
                quoted(min(doubled)) if doubled else None,
            )


def _mismatch(
    candidates: CaptionFile,
    references: CaptionFile,
    without_candidate: list[str],
    without_references: list[str],
    pairing: _Pairing,
    settled: list[str],
) -> MismatchedImages:
    shown, other = printable(candidates.source), printable(references.source)
    more = (
        f" (spelled less strictly, {pairing.ambiguous} would be several images)"
        if pairing.ambiguous
        else ""
    )
    # Karpathy's files hold the captions of all splits
    split = (
        f", or one split of it with {other}#split=test"
        if references.form == KARPATHY and "#split=" not in references.source
        else ""
    )
    if not pairing.of_candidate:
        images = len(candidates)
        none = "its only image is not" if images == 1 else f"none of its {images:,} images is"
        return MismatchedImages(
            f"{shown}: {none} among the"
            f" {len(references)} of {other}: it has {named(without_references)}, the references"
            f" have {named(without_candidate)}{more}; give files about the same images{split}."
        )
    missing = (
        f"{counted(len(without_candidate), 'image')} of {other} without a candidate"
        f" ({named(without_candidate)})"
    )
    extra = (
        f"{counted(len(without_references), 'candidate')} without references"
        f" ({named(without_references)})"
    )
    both = len(pairing.of_candidate)
    subset = f"score the {both:,} that {'has' if both == 1 else 'have'} one with --subset"
    empty = "score what is missing as empty captions with --allow-missing"
    same = f"give both files the same images{split}"
    if settled:
        known, rest, advice = (
            (extra, missing, f"{subset}, or {empty}")
            if settled == ["--ignore-extra"]
            else (missing, extra, f"leave {_it(without_references)} out with --ignore-extra")
        )
        remains = f"{settled[0]} settles {known}; what remains: {rest}{more}"
        return MismatchedImages(f"{shown}: {remains}; {advice}.")
    if without_candidate and without_references:
        found = f"{missing} and {extra}"
        advice = f"{same}, or score the {both:,} of both files with --subset --ignore-extra"
    elif without_candidate:
        found, advice = missing, f"{same}, {subset}, or {empty}"
    else:
        leave = f"leave {_it(without_references)} out with --ignore-extra"
        found, advice = extra, f"{same}, or {leave}"
    return MismatchedImages(f"{shown}: {found}{more}; {advice}.")


def _it(several: list[str]) -> str:
    return "it" if len(several) == 1 else "them"


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
