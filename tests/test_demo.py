from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest

import captune.captioning.shipped
import captune.cli
import captune.demo
from captune.cli import main
from captune.demo import ABSENT, PHOTOS, gather_photos, why_no_captions, write_page
from captune.errors import MissingExtra
from captune.images import find_photos, open_photo
from captune.options import CaptionOptions
from captune.runs import RunWriter, read_run


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


def test_where_the_captioner_is_not_there_a_sentence_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, captune.captioning.shipped.PACKAGE, None)
    assert "pip install 'captune[lite]'" in str(why_no_captions())
    broken = tmp_path / "captune_lite"
    broken.mkdir()
    (broken / "__init__.py").touch()
    monkeypatch.delitem(sys.modules, captune.captioning.shipped.PACKAGE)
    monkeypatch.syspath_prepend(tmp_path)
    assert "lacks config.json or model.safetensors" in str(why_no_captions())
    (broken / "captioner").mkdir()
    for name in ("config.json", "model.safetensors"):
        (broken / "captioner" / name).touch()
    assert why_no_captions() is None


def captioned(folder: Path, root: Path, captions: dict[str, str]) -> None:
    """A captioning run."""
    model = {"spec": "lite", "method": "lora", "decoder": "lite", "weights_id": "ab" * 32}
    command = ["captune", "caption", "photos"]
    options = CaptionOptions(photos=[str(root)])
    with RunWriter(
        folder, kind="caption", options=options, root=root, models=[model], command=command
    ) as run:
        for path, caption in captions.items():
            run.record({"path": path, "caption": caption})


@pytest.fixture
def recognised(colours: Any, colour_photos: Path, tmp_path: Path) -> Path:
    out = tmp_path / "run"
    words = ["classify", str(colour_photos), "--labels", "red,green,blue", "--out", str(out)]
    assert main(words) == 0
    return out


def test_the_page_shows_captions_below_the_photos(
    recognised: Path, colour_photos: Path, tmp_path: Path
) -> None:
    written = {"7_0.png": "a red <b>wall</b>", "8_0.png": ""}
    captioned(tmp_path / "captions", colour_photos, written)
    page = recognised / "report.html"
    assert "captioner" not in page.read_text()
    write_page(recognised, tmp_path / "captions", page)
    text = page.read_text()
    assert "a red &lt;b&gt;wall&lt;/b&gt;</p>" in text
    assert "(empty caption)" in text
    assert text.count('<p class="caption"') == 2  # the others have none
    assert "captune caption photos" in text
    assert "ab" * 32 in text


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[list[str]]:
    """Classifying and captioning are only noted; each prints an object and writes a run."""
    typed: list[list[str]] = []

    def run(words: list[str]) -> int:
        if words[0] == "demo":
            return real(words)
        typed.append(words)
        if "--json" in words:
            print(json.dumps({"command": words[0], "run": "r", "images": 12, "skipped": []}))
        return 2 if words[0] in failing else 0

    real = captune.cli.main
    failing: list[str] = []
    monkeypatch.setattr(captune.cli, "main", run)
    monkeypatch.setattr(captune.demo, "write_page", lambda *folders: typed.append(["page"]))
    run.failing = failing  # type: ignore[attr-defined]
    return typed


def test_json_is_one_object_of_both(
    scripted: list[list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(captune.demo, "why_no_captions", lambda: None)
    words = ["demo", "--json", "--out", str(tmp_path / "demo")]
    assert captune.cli.main(words) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["command"] == "demo"
    assert printed["run"] == "r"
    assert printed["classify"]["command"] == "classify"
    assert printed["caption"]["command"] == "caption"
    assert [one[0] for one in scripted] == ["classify", "caption", "page"]


def test_without_the_captioner_it_says_so_and_goes_on(
    scripted: list[list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(captune.demo, "why_no_captions", lambda: "there is none")
    assert captune.cli.main(["demo", "--out", str(tmp_path / "demo")]) == 0
    said = capsys.readouterr().err
    assert "there is none" in said
    assert "report.html" in said
    assert [one[0] for one in scripted] == ["classify"]


def test_captions_that_fail_leave_the_page_and_a_status(
    scripted: list[list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(captune.demo, "why_no_captions", lambda: None)
    captune.cli.main.failing.append("caption")  # type: ignore[attr-defined]
    assert captune.cli.main(["demo", "--out", str(tmp_path / "demo")]) == 2
    assert "report.html" in capsys.readouterr().err
    assert ["page"] not in scripted


@pytest.mark.needs("lite")
def test_the_demo_recognises_real_photos(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # whether the captioner is installed here or not: its own test looks at its captions
    monkeypatch.setattr(captune.demo, "why_no_captions", lambda: "no captions")
    assert main(["demo", "--out", str(tmp_path / "demo")]) == 0
    run = read_run(tmp_path / "demo" / "run")
    # 20 labels: chance is 5 %; the exact figure belongs to the page, not to a test
    assert run.metrics["prompts"][0]["accuracy"] >= 0.6
    assert run.metrics["skipped"] == []
    assert "report.html" in capsys.readouterr().err
