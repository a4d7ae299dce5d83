"""What words mean to `lite`'s text side: WordNet synsets as timm ships them for ImageNet.

timm carries names and definitions of the 21,841 synsets of ImageNet but not WordNet's tree, so the
tree is read from the definitions ("school bus: a bus used to ..."), and for animals from the ids:
they are numbered depth first, a kind right before its subkinds.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from timm.data import ImageNetInfo

ANIMAL, PLANT, FOOD, PERSON, OTHER = range(5)

# WordNet 3.0 numbers its noun files one after the other: the first and last id of each.
_NUMBERED = (
    (0, 2666500, ANIMAL),
    (11530000, 13200000, PLANT),
    (7555863, 7935000, FOOD),
    (9500000, 11530000, PERSON),
)
# Where the phrase that names the kind ends: "a small bus | used by", "an aircraft | that has"
_END_OF_KIND = re.compile(
    r"\b(that|which|with|of|having|used|in|for|who|whose|from|on|to|by|as|at|made|consisting|found"
    r"|native|usually|especially|bred|noted|covered|formed|worn|equipped|designed|where|when|and|or"
    r"|attached|resembling|intended|containing|operated|but|between|without|related|characterized"
    r"|being|providing|carried|built|fitted|constructed|produced|bearing|able|similar|larger"
    r"|smaller|under|over|into|about|via|if|so|such|chiefly|often|mostly|sometimes|typically"
    r"|formerly|originally|widely|closely|living|growing|cultivated|grown|developed)\b|[,;:()]"
)
# Words before "of" that name no kind themselves: "any of various breeds of ..."
_NO_KIND = re.compile(
    r"breeds?|kinds?|types?|any|variety|varieties|genus|species|member|group|family|one|form|piece"
    r"|pair|set|various|several|class|sort|number|numerous|strain|style"
)
_NO_NOUN = frozenset({"a", "an", "the", "any", "small", "large"})
_MOST_WORDS = 4
_DEEPEST = 10
# Places in the numbering without a synset known to belong, after which an animal's subkinds end.
_LARGEST_GAP = 60


@dataclass(frozen=True)
class Synset:
    """One meaning: `names` are its synonyms, the most usual first."""

    id: str
    names: tuple[str, ...]
    definition: str

    @property
    def domain(self) -> int:
        """ANIMAL, PLANT, FOOD, PERSON or OTHER."""
        number = int(self.id[1:])
        return next((kind for low, high, kind in _NUMBERED if low <= number < high), OTHER)

    @property
    def described(self) -> str:
        """All names, then the definition."""
        return f"{', '.join(self.names)}: {self.definition}"


@cache
def synsets() -> dict[str, Synset]:
    """Every synset timm knows by id, in the order of the ids."""
    known: dict[str, Synset] = {}
    for subset in ("imagenet-22k", "imagenet-12k", "imagenet-1k"):
        info = ImageNetInfo(subset)
        for id_ in info.label_names():
            names = info.label_name_to_description(id_, detailed=False)
            definition = info.label_name_to_description(id_, detailed=True)[len(names) + 2 :]
            split = tuple(name.strip() for name in names.split(","))
            known[id_] = Synset(id_, split, definition)
    return dict(sorted(known.items()))


def imagenet_classes() -> list[str]:
    """Synset ids of the 1,000 ImageNet classes in the order of the classifier's rows."""
    return list(ImageNetInfo("imagenet-1k").label_names())


def vocabulary() -> list[str]:
    """Ids of the 1,000 classes, then of the other synsets with many images (ImageNet-12k)."""
    classes = imagenet_classes()
    others = set(ImageNetInfo("imagenet-12k").label_names()) - set(classes)
    return classes + sorted(others)


def hypernyms(ids: Sequence[str], similarity: Callable[[str, str], float]) -> dict[str, list[int]]:
    """Synsets that are no class themselves but kinds of which ImageNet classes are examples.

    ids: `vocabulary()`. similarity: of two of them, to choose between the senses of a word.
    Returns {synset id: indices of the classes below it}.
    """
    place = {id_: index for index, id_ in enumerate(synsets())}
    classes = imagenet_classes()
    index_of_class = {id_: index for index, id_ in enumerate(classes)}
    senses: dict[str, list[str]] = defaultdict(list)
    for id_, synset in synsets().items():
        for name in synset.names:
            senses[name.lower()].append(id_)

    of_interest = frozenset(ids)

    def nearness(a: str, b: str) -> float:
        return similarity(a, b) if a in of_interest and b in of_interest else -1.0

    @cache
    def parent(id_: str) -> str | None:
        words = _kind(synsets()[id_].definition)
        for count in range(min(_MOST_WORDS, len(words)), 0, -1):
            for name in _singulars(" ".join(words[-count:])):
                found = _sense(id_, [sense for sense in senses[name] if sense != id_], nearness)
                if found:
                    return found
        return None

    below: dict[str, set[str]] = defaultdict(set)
    for id_ in ids:
        above, seen = parent(id_), {id_}
        while above and above not in seen and len(seen) < _DEEPEST and _may_be(id_, above):
            below[above].add(id_)
            seen.add(above)
            above = parent(above)
    found = {}
    for id_, examples in below.items():
        if id_ not in of_interest or id_ in index_of_class:
            continue
        indices = {index_of_class[example] for example in examples if example in index_of_class}
        if synsets()[id_].domain == ANIMAL:
            last = place[id_]
            for next_ in sorted(place[example] for example in examples):
                if next_ - last > _LARGEST_GAP:
                    break
                last = next_
            indices |= {
                index for index, class_ in enumerate(classes) if place[id_] < place[class_] <= last
            }
        if indices:
            found[id_] = sorted(indices)
    return found


def _may_be(id_: str, above: str) -> bool:
    """A kind is of its examples' domain, and an animal's kind is numbered before them."""
    domain = synsets()[id_].domain
    return domain == synsets()[above].domain and (domain != ANIMAL or above < id_)


def _sense(id_: str, candidates: list[str], similarity: Callable[[str, str], float]) -> str | None:
    """The meaning of a word in the definition of `id_`: of its domain, nearest."""
    domain = synsets()[id_].domain
    candidates = [one for one in candidates if synsets()[one].domain == domain] or candidates
    if not candidates:
        return None
    if domain == ANIMAL:  # the nearest in the numbering, those before it first
        return min(candidates, key=lambda one: (one > id_, abs(int(one[1:]) - int(id_[1:]))))
    return max(candidates, key=lambda one: similarity(id_, one))


def _kind(definition: str) -> list[str]:
    """Words that name the kind: "any of several small buses used ..." -> small, buses."""
    rest = re.sub(r"^\([^)]*\)\s*", "", definition.lower().strip())
    for _ in range(4):
        end = _END_OF_KIND.search(rest)
        words = rest[: end.start() if end else None].split()
        if words and not _NO_KIND.fullmatch(words[-1]) and not _NO_NOUN.issuperset(words):
            return words
        if end is None:
            break
        rest = rest[end.end() :].strip()
    return []


def _singulars(name: str) -> list[str]:
    """The name itself, then what it may be the plural of."""
    found = [name]
    for ending, singular in (("ies", "y"), ("es", ""), ("s", ""), ("men", "man"), ("ves", "f")):
        if name.endswith(ending) and not name.endswith("ss"):
            found.append(name[: -len(ending)] + singular)
    return found
