from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

import captune.demo
from captune.cli import main
from captune.demo import ABSENT, PHOTOS, gather_photos
from captune.errors import MissingExtra
from captune.images import find_photos, open_photo
from captune.runs import read_run


def test_the_photos_are_real_and_the_labels_name_more_than_they_show(tmp_path: Path) -> None:
    photos, labels, truth = gather_photos(tmp_path)
    found = find_photos([photos]).photos
    assert len(found) == len(PHOTOS) >= 10
    for photo in found:
        assert min(open_photo(photo.path).size) > 100
    names = json.loads(labels.read_text())
    assert set(ABSENT) < set(names)
    rows = list(csv.DictReader(truth.open()))
    assert {row["filename"] for row in rows} == {photo.name for photo in found}
    assert {row["label"] for row in rows} == set(names) - set(ABSENT)


def test_without_the_packages_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(captune.demo, "_package_folder", lambda package: None)
    with pytest.raises(MissingExtra, match=r"captune\[demo\]"):
        gather_photos(tmp_path)


@pytest.mark.needs("lite")
def test_the_demo_recognises_real_photos(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--out", str(tmp_path / "demo")]) == 0
    run = read_run(tmp_path / "demo" / "run")
    # 20 labels: chance is 5 %; the exact figure belongs to the page, not to a test
    assert run.metrics["prompts"][0]["accuracy"] >= 0.6
    assert run.metrics["skipped"] == []
    assert "report.html" in capsys.readouterr().err
