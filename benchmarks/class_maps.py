"""Do a classifier's maps agree with people? The pointing game on images with boxes.

    python benchmarks/class_maps.py --images coco-mini/images --boxes instances_val.json

Each category that has a box in an image is asked for, among all categories of the file; a map hits
where its strongest patch lies in one of the boxes. Beside each method stands the centre of the
image; differences are paired, with 95 % bootstrap intervals over images.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from captune.attribution.classes import METHODS, explain_classes
from captune.attribution.deletion_insertion import centre_map
from captune.attribution.faithful.dataset import NOUN, Box, BoxTarget, box_target, read_boxes
from captune.attribution.faithful.measure import (
    CENTRE,
    LEAST_IMAGES,
    OVERLAP,
    POINTING,
    MapId,
    MeasuredWord,
    Measurements,
    hit,
    overlap,
)
from captune.attribution.geometry import Frame
from captune.errors import UserError
from captune.images import find_images
from captune.models.load import load_model
from captune.zeroshot.classifier import ZeroShotClassifier
from synthetic import machine


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, required=True, metavar="DIR")
    parser.add_argument("--boxes", type=Path, required=True, metavar="FILE")
    parser.add_argument("--model", default="lite", metavar="SPEC")
    parser.add_argument("--methods", default="patch-similarity,gradient", metavar="M,M")
    parser.add_argument("--limit", type=int, default=0, metavar="N")
    parser.add_argument("--json", action="store_true", help="print one JSON object, nothing else")
    arguments = parser.parse_args()
    try:
        return _measure(parser, arguments)
    except UserError as error:
        print(f"class_maps.py: {error}", file=sys.stderr)
        return 2


def _measure(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> int:
    methods = arguments.methods.split(",")
    if not set(methods) <= set(METHODS):
        parser.error(f"--methods: known are {', '.join(METHODS)}")
    boxes = read_boxes(arguments.boxes)
    classifier = ZeroShotClassifier(
        boxes.categories, model=load_model(arguments.model), cache=False
    )
    measurements = Measurements()
    found_images = find_images([arguments.images]).images
    images = [p for p in found_images if boxes.of("", p.path.name)][: arguments.limit or None]
    if len(images) < LEAST_IMAGES:
        raise UserError(
            f"{arguments.images}: {len(images)} images with boxes in {arguments.boxes}; intervals"
            f" take {LEAST_IMAGES}"
        )
    for number, image in enumerate(images):
        drawn = boxes.of("", image.path.name) or []
        names = sorted({box.category for box in drawn})
        words = {
            name: measurements.add_word(MeasuredWord(number, name, NOUN, name, gain=1.0))
            for name in names
        }
        for method in methods:
            found = explain_classes(classifier, image, names, method=method)
            for name, map in zip(names, found.maps.numpy(), strict=True):
                own = [_seen(box, found.frame) for box in drawn if box.category == name]
                _put(measurements, MapId(method), words[name], map, box_target(own, *map.shape))
        middle = centre_map(*found.maps.shape[1:]).numpy()
        for name in names:
            target = box_target([b for b in drawn if b.category == name], *middle.shape)
            _put(measurements, CENTRE, words[name], middle, target)
    rows = [_row(measurements, MapId(method)) for method in methods] + [_row(measurements, CENTRE)]
    if arguments.json:
        print(json.dumps({"machine": machine(), "model": arguments.model, "rows": rows}, indent=1))
        return 0
    print(f"{len(images)} images, {rows[-1]['words']} categories of them (95 % intervals)")
    for row in rows:
        print(
            f"{row['method']:10s} pointing {_share(row['pointing'])}, overlap"
            f" {row['overlap'][0]:.2f} ({row['overlap'][1]:.2f} to {row['overlap'][2]:.2f})"
            + ("" if row["over_centre"] is None else f", over centre {_share(row['over_centre'])}")
        )
    return 0


def _put(
    measurements: Measurements, name: MapId, word: int, map: np.ndarray, target: BoxTarget
) -> None:
    measurements.put(name, POINTING, word, hit(map, target))
    measurements.put(name, OVERLAP, word, overlap(map, target))


def _seen(box: Box, frame: Frame) -> Box:
    """The box in fractions of what the map lies over, cut at its edges."""
    left, right = frame.left / frame.width, frame.right / frame.width
    top, bottom = frame.top / frame.height, frame.bottom / frame.height

    def across(value: float) -> float:
        return min(max((value - left) / (right - left), 0.0), 1.0)

    def down(value: float) -> float:
        return min(max((value - top) / (bottom - top), 0.0), 1.0)

    return Box(box.category, across(box.left), down(box.top), across(box.right), down(box.bottom))


def _row(measurements: Measurements, name: MapId) -> dict[str, Any]:
    found: dict[str, Any] = {"method": name.method}
    for measure in (POINTING, OVERLAP):
        estimate = measurements.estimate(name, measure)
        assert estimate is not None
        found[measure] = [estimate.value, *estimate.interval]
        found["words"] = estimate.words
    difference = None if name == CENTRE else measurements.difference(name, CENTRE, POINTING)
    found["over_centre"] = difference and [difference.difference, *difference.interval]
    return found


def _share(values: list[float]) -> str:
    value, low, high = (100 * one for one in values)
    return f"{value:.0f} % ({low:.0f} to {high:.0f})"


if __name__ == "__main__":
    sys.exit(main())
