from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.captioning.little_job import toy_data

from captune.captioning.dataset import CaptionDataset
from captune.captioning.training.setup import TrainingSetup
from captune.images import ImageFile
from captune.jobs.tune import conclusion, subset_setup
from captune.options.tuning import TuneOptions
from captune.progress import SILENT, Noting
from captune.runs.metrics import CurvePoint


def whole(count: int, out: Path, notes: list[str]) -> TrainingSetup:
    data = toy_data(count)
    ids = [str(n) for n in range(count)]
    images = [ImageFile(Path(id), id) for id in ids]
    train = CaptionDataset(ids, images, [*data.keys], [["a"]] * count, Path())
    rest: Any = SimpleNamespace()
    options = TuneOptions(out=out)
    return TrainingSetup(options, train, rest, rest, data, rest, {}, [], (), Noting(SILENT, notes))


def test_the_smaller_set_lies_in_the_larger_one(tmp_path: Path) -> None:
    notes: list[str] = []
    setup = whole(20, tmp_path, notes)
    parts = {n: subset_setup(setup, n) for n in (3, 8, 20)}
    sets = {n: set(part.train.ids) for n, part in parts.items()}
    assert {n: len(ids) for n, ids in sets.items()} == {3: 3, 8: 8, 20: 20}
    assert sets[3] < sets[8] < sets[20]
    for n, part in parts.items():
        # as many items, and so as many updates, each image as often as the others
        assert len(part.data.rows) == len(part.data.keys) == len(part.train) == 20
        counts = [part.train.ids.count(id) for id in sets[n]]
        assert max(counts) - min(counts) <= 1
        for id, key, rows in zip(part.train.ids, part.data.keys, part.data.rows, strict=True):
            assert (key, rows) == (setup.data.keys[int(id)], setup.data.rows[int(id)])
        assert part.options.out == tmp_path / "curve" / str(n)
    assert subset_setup(setup, 8).train.digest == parts[8].train.digest
    assert len({part.train.digest for part in parts.values()}) == 3
    parts[3].progress.message("lora: a finding")
    assert notes == ["3 images, lora: a finding"]


def point(
    images: int, gain: float | None = None, interval: Any = None, usable: bool = True
) -> CurvePoint:
    return CurvePoint(images, {}, usable, gain, interval)


@pytest.mark.parametrize(
    ("points", "said"),
    [
        (
            [point(500), point(1000, 0.041, (0.02, 0.06))],
            "doubling the images, from 500 to 1,000, added 0.041 CIDEr-D (95 % +0.020 to +0.060,"
            " 300 validation images); more images would help",
        ),
        (
            [point(100), point(300, 0.01, (-0.02, 0.04))],
            "3 times the images, from 100 to 300, added 0.010 CIDEr-D (95 % −0.020 to +0.040, 300"
            " validation images); whether more images help cannot be told from so many validation"
            " images",
        ),
        (
            [point(100), point(150, -0.02, (-0.03, -0.01))],
            "1.5 times the images, from 100 to 150, made −0.020 CIDEr-D (95 % −0.030 to −0.010, 300"
            " validation images); more images of this kind would not help",
        ),
        (
            [point(100, usable=False), point(200, 0.1, (0.05, 0.2))],
            "the tune on 100 images is not usable, so nothing follows for more images; train longer"
            " first (--epochs)",
        ),
    ],
)
def test_what_to_conclude(points: list[CurvePoint], said: str) -> None:
    assert conclusion(points, "cider", 300) == said
