"""COCO's captions with their expected scores, read once for all tests of the metrics."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest
from tests.conftest import SHARED

from captune_metrics.corpus import Corpus


@dataclass
class Coco:
    """5,000 images: candidates, references, and what pycocoevalcap with its Java makes of them."""

    candidates: dict[str, str]
    references: dict[str, list[str]]
    overall: dict[str, float]
    per_image: dict[str, dict[str, float]]
    corpus: Corpus

    def largest_difference(self, metric: str, per_image: dict[str, float]) -> float:
        assert per_image.keys() == self.per_image.keys()
        return max(abs(per_image[id] - self.per_image[id][metric]) for id in per_image)


@pytest.fixture(scope="session")
def coco() -> Coco:
    """Use with `@pytest.mark.needs("shared")`."""

    def read(what: str) -> Any:
        path = SHARED / "data" / "metrics" / f"coco_val2017_{what}.json"
        return json.loads(path.read_text(encoding="utf-8"))

    candidates = {str(line["image_id"]): line["caption"] for line in read("candidates")}
    references: dict[str, list[str]] = {id: [] for id in candidates}
    for line in read("references")["annotations"]:
        references[str(line["image_id"])].append(line["caption"])
    expected = read("expected")
    return Coco(
        candidates=candidates,
        references=references,
        overall=expected["overall"],
        per_image=expected["per_image"],
        corpus=Corpus(candidates, references),
    )
