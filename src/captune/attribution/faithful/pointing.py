"""Do maps agree with people? The pointing game and the overlap with the boxes that people drew.

Pointing game (Zhang et al. 2018): a map hits where its strongest patch lies in a box of the word's
category. A patch of the grid hits where its middle lies in a box, or where a box's middle lies in
it: a thing smaller than a patch can be hit too, and a map that is strongest where a thing is always
hits. Of patches that are equally strong, the fraction that hits counts, so a constant map scores
exactly what a random point would score on average.

Overlap: the map is cut at the height where as much of the image is above it as the boxes cover;
intersection over union of the two. Of patches at that very height each counts by an equal part, so
a constant map gets what chance gives. Maps are compared with boxes at the patch grid's resolution.

Boxes are read from COCO's instances_*.json (Lin et al. 2014) and kept in fractions of the image's
sides, so they fit the image at any size.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from captune.errors import UserError
from captune_metrics.display import printable, quoted
from captune_metrics.files import read_bytes

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
_Part = TypeVar("_Part", bound=msgspec.Struct)
_Key = str | int | float
_Length = Annotated[float, msgspec.Meta(ge=0)]
_MOST = 3_000_000  # objects of a part; LVIS has 1.3 million annotations
_GIVE = "give the instances_*.json of the data set (captions go to --captions)"
_WRONG = {  # a field, and why its value will not do
    "bbox": ": bbox is not left, top, width, height in pixels, four numbers",
    "width": " has no width and height above 0; give both in pixels",
    "height": " has no width and height above 0; give both in pixels",
}


class _Category(msgspec.Struct):
    id: _Key
    name: _Key


class _Image(msgspec.Struct):
    id: _Key
    width: Annotated[float, msgspec.Meta(gt=0)]
    height: Annotated[float, msgspec.Meta(gt=0)]
    file_name: Any = None


class _Annotation(msgspec.Struct):
    image_id: _Key
    category_id: _Key
    bbox: tuple[float, float, _Length, _Length]


@dataclass(frozen=True)
class Box:
    """One thing in an image: its category, and its sides in fractions of the image's, 0 to 1."""

    category: str
    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True)
class Boxes:
    """The boxes of a file: by image id, and by file name, for files that number images anew.

    categories: all that the file knows.
    """

    source: str
    categories: list[str]
    by_id: dict[str, list[Box]]
    by_file_name: dict[str, list[Box]] = field(default_factory=dict)

    def of(self, image_id: str, file_name: str | None = None) -> list[Box] | None:
        """The boxes of an image, by its id or its file's name; None for an unknown image."""
        found = self.by_id.get(image_id)
        if found is None and file_name is not None:
            return self.by_file_name.get(file_name)
        return found


def read_boxes(path: str | Path) -> Boxes:
    """Read `{"images": [...], "annotations": [{"image_id", "category_id", "bbox"}], ...}`.

    bbox: left, top, width, height in pixels of an image whose width and height the file gives.
    Boxes are cut at the image's edges. Raises UserError for anything else, naming the patch.
    """
    shown = printable(path)
    parts = _parts(read_bytes(str(path)), shown)
    categories = _listed(parts, "categories", _Category, shown)
    names = {str(category.id): str(category.name) for category in categories}
    by_id: dict[str, list[Box]] = {}
    by_file_name: dict[str, list[Box]] = {}
    sizes: dict[str, tuple[float, float]] = {}
    for image in _listed(parts, "images", _Image, shown):
        key = str(image.id)
        if key in by_id:
            raise _refusal(shown, f"image id {quoted(key)} appears twice; keep one of them")
        by_id[key] = []
        sizes[key] = (image.width, image.height)
        if isinstance(image.file_name, str):
            by_file_name[image.file_name] = by_id[key]
    for number, one in enumerate(_listed(parts, "annotations", _Annotation, shown), 1):
        key, category = str(one.image_id), str(one.category_id)
        what = f"annotation {number}"
        if key not in by_id:
            raise _refusal(shown, f'{what} is of image {quoted(key)}, which is not in "images"')
        if category not in names:
            raise _refusal(
                shown, f'{what} has category {quoted(category)}, which is not in "categories"'
            )
        left, top, width, height = one.bbox
        across, down = sizes[key]
        sides = left / across, top / down, (left + width) / across, (top + height) / down
        by_id[key].append(Box(names[category], *(min(max(side, 0.0), 1.0) for side in sides)))
    return Boxes(shown, list(names.values()), by_id, by_file_name)


def coverage(boxes: Sequence[Box], rows: int, columns: int) -> Floats:
    """Which fraction of each patch of a grid over the whole image the boxes cover, [rows, columns].

    Of boxes that overlap, the union counts, exactly.
    """
    # between two neighbouring lines, of a patch or of a box, everything is inside or outside
    down = _lines([edge for box in boxes for edge in (box.top, box.bottom)], rows)
    across = _lines([edge for box in boxes for edge in (box.left, box.right)], columns)
    middle_down, middle_across = (lines[:-1] + np.diff(lines) / 2 for lines in (down, across))
    inside = np.zeros((len(middle_down), len(middle_across)))
    for box in boxes:
        is_down = (middle_down > box.top) & (middle_down < box.bottom)
        is_across = (middle_across > box.left) & (middle_across < box.right)
        inside[np.ix_(is_down, is_across)] = 1
    areas = inside * np.diff(down)[:, None] * np.diff(across)[None, :]
    patches = np.zeros((rows, columns))
    row = np.minimum((middle_down * rows).astype(int), rows - 1)
    column = np.minimum((middle_across * columns).astype(int), columns - 1)
    np.add.at(patches, np.ix_(row, column), areas)
    return patches * rows * columns


def _lines(edges: Sequence[float], patches: int) -> Floats:
    return np.unique(np.concatenate([np.arange(patches + 1) / patches, np.asarray(edges, float)]))


def _parts(data: bytes, shown: str) -> dict[str, msgspec.Raw]:
    """The file's parts, still as text: what is not asked for (outlines) takes no memory."""
    try:
        return msgspec.json.decode(data.removeprefix(codecs.BOM_UTF8), type=dict[str, msgspec.Raw])
    except msgspec.ValidationError:
        kind = "a list" if data.lstrip()[:1] == b"[" else "something else"
        raise UserError(f"{shown} holds {kind}, and an object was expected.") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{shown} is not valid JSON ({printable(error)}).") from None


def _listed(
    parts: Mapping[str, msgspec.Raw], key: str, kind: type[_Part], shown: str
) -> list[_Part]:
    data = bytes(parts.get(key, b"null"))
    if data.count(b"{") > _MOST:
        raise _refusal(shown, f'"{key}" holds more than {_MOST:,} objects; take fewer images')
    try:
        return msgspec.json.decode(data, type=list[kind])  # type: ignore[valid-type]
    except msgspec.ValidationError as error:
        raise _refusal(shown, _objection(str(error), key, kind)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{shown} is not valid JSON ({printable(error)}).") from None


def _objection(error: str, key: str, kind: type[msgspec.Struct]) -> str:
    """What msgspec says of an object in a part, in words that name the object and its field."""
    missing = re.search(r"missing required field `(\w+)`", error)
    place = re.search(r" at `\$\[(\d+)\](?:\.(\w+))?", error)
    if place is None or not (missing or place[2]):
        return f'"{key}" is not a list of objects; {_GIVE}'
    what = f"{kind.__name__.strip('_').lower()} {int(place[1]) + 1}"
    if missing:
        return f"{what} has no {missing[1]}; {_GIVE}"
    return what + _WRONG.get(place[2], f": its {place[2]} is neither text nor a number")


def _refusal(shown: str, what: str) -> UserError:
    return UserError(f"{shown}: {what}.")


@dataclass(frozen=True)
class BoxTarget:
    """Where on the patch grid the things are that a word names.

    hits: [rows, columns], whether a patch counts as in a box. covered: [rows, columns], which
    fraction of each patch the boxes cover.
    """

    hits: Bools
    covered: Floats


def box_target(boxes: Sequence[Box], rows: int, columns: int) -> BoxTarget:
    """The target of a word from the boxes of its category."""
    down = (np.arange(rows) + 0.5) / rows
    across = (np.arange(columns) + 0.5) / columns
    hits = np.zeros((rows, columns), dtype=bool)
    for box in boxes:
        is_down = (down >= box.top) & (down <= box.bottom)
        is_across = (across >= box.left) & (across <= box.right)
        hits |= np.outer(is_down, is_across)
        middle_down, middle_across = (box.top + box.bottom) / 2, (box.left + box.right) / 2
        row, column = int(middle_down * rows), int(middle_across * columns)
        hits[min(row, rows - 1), min(column, columns - 1)] = True
    return BoxTarget(hits, coverage(boxes, rows, columns))


def hit(map: ArrayLike, target: BoxTarget) -> float:
    """The pointing game of one map [rows, columns]: 1 or 0, between them for ties."""
    strongest = _strongest(map, target)
    return float(target.hits[strongest].mean())


def overlap(map: ArrayLike, target: BoxTarget) -> float:
    """Intersection over union of the boxes and the map cut at the boxes' area, 0 to 1."""
    values = np.asarray(map, dtype=np.float64)
    area = float(target.covered.sum())
    if area == 0:
        return 0.0
    kept = _cut(np.nan_to_num(values, nan=-np.inf).ravel(), area).reshape(values.shape)
    shared = float(np.minimum(kept, target.covered).sum())
    return shared / (2 * area - shared)


def _strongest(map: ArrayLike, target: BoxTarget) -> Bools:
    values = np.asarray(map, dtype=np.float64)
    if values.shape != target.hits.shape:
        raise ValueError(f"map {values.shape} and target {target.hits.shape}: expected one grid")
    known = np.nan_to_num(values, nan=-np.inf)
    strongest: Bools = known == known.max()
    return strongest


def _cut(values: Floats, area: float) -> Floats:
    """Which part of each patch is kept so that the strongest make up `area` patches."""
    levels, level = np.unique(-values, return_inverse=True)
    counts = np.bincount(level, minlength=len(levels))
    before = np.concatenate([[0], np.cumsum(counts)[:-1]])
    parts = np.clip((area - before) / counts, 0, 1)
    kept: Floats = parts[level]
    return kept
