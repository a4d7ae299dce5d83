from __future__ import annotations

import csv
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from PIL import Image
from tests.report_runs import (
    HOSTILE,
    HOSTILE_NAME,
    classify_run,
    compare_run,
    explain_run,
    images,
    tune_run,
)

from captune.cli import main

NAMES = [HOSTILE_NAME, *(f"{n}.jpg" for n in range(5))]
CAPTIONS = {name: f"{HOSTILE} {i}" for i, name in enumerate(NAMES)}
OTHER = {name: f"other {i}" for i, name in enumerate(NAMES)}


def files_of(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def exported(tmp_path: Path, *runs: Path) -> Path:
    out = tmp_path / "figures"
    words = ["report", *map(str, runs), "--out", str(tmp_path / "p.html"), "--figures", str(out)]
    assert main(words) == 0
    return out


def check_files(out: Path, *stems: str) -> None:
    """Each is there as three kinds of files, and no text of a run is markup in them."""
    names = files_of(out)
    for stem in stems:
        assert {f"{stem}{ending}" for ending in (".png", ".svg", ".pdf")} <= names, stem
        Image.open(out / f"{stem}.png").load()
        assert (out / f"{stem}.pdf").read_bytes().startswith(b"%PDF")
    for svg in out.rglob("*.svg"):
        elements = list(ElementTree.parse(svg).iter())
        tags = {element.tag.rpartition("}")[2] for element in elements}
        assert not {"script", "b", "img", "foreignObject"} & tags
        assert not any(key.startswith("on") for element in elements for key in element.attrib)


def test_recognition_and_maps_become_files(tmp_path: Path) -> None:
    root = images(tmp_path / "images", NAMES)
    classify = classify_run(tmp_path / "classify", root, NAMES)
    explain = explain_run(tmp_path / "explain", root, {HOSTILE_NAME: HOSTILE})
    out = exported(tmp_path, classify, explain)
    stems = ("confusions", "reliability", "top5")
    check_files(out, *(f"classify/{stem}" for stem in stems), "explain/words-0")


def test_captions_become_files(tmp_path: Path) -> None:
    root = images(tmp_path / "images", NAMES)
    tune = tune_run(tmp_path / "tune", root, {"lora": CAPTIONS})
    compare = compare_run(tmp_path / "compare", root, CAPTIONS, OTHER)
    out = exported(tmp_path, tune, compare)
    check_files(out, "tune/curves", "compare/differences", "compare/images-cider",
                "pairs-lora-cider", "pairs-lora-clipscore")  # fmt: skip
    with (out / "tables" / "methods-1.csv").open(encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert row["method"] == "lora"
    assert float(row["CIDEr-D"]) > float(row["CIDEr-D, 95 % from"])
    assert row["trained"] == "1500"


def test_prompts_are_drawn_from_their_run(
    colours: Any, colour_images: Path, tmp_path: Path
) -> None:
    labels = tmp_path / "labels.json"
    labels.write_text('{"7": "red", "8": "green", "9": "blue"}')
    words = ["prompts", str(colour_images), "--labels", str(labels), "--truth", "from-name"]
    words += ["--prompt", "a {}", "--prompt", "the {}"]
    assert main([*words, "--out", str(tmp_path / "run")]) == 0
    out = tmp_path / "figures"
    page = tmp_path / "p.html"
    assert main(["report", str(tmp_path / "run"), "--out", str(page), "--figures", str(out)]) == 0
    drawn = {path.stem for path in (tmp_path / "run" / "plots").glob("*.png")}
    assert drawn <= {path.stem for path in (out / "run").glob("*.pdf")}
    for stem in drawn:  # what is read back is what was compared
        assert (out / "run" / f"{stem}.png").read_bytes() == (
            tmp_path / "run" / "plots" / f"{stem}.png"
        ).read_bytes()
