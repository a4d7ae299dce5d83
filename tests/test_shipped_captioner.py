"""The captioner that ships, as a user meets it."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from captune.captioning.captioner import lite_captioner
from captune.captioning.checkpoint import read_recipe
from captune.cli import main
from captune.demo import IMAGES, gather_images

MOST_BYTES = 25_000_000
CARD = Path(__file__).parents[1] / "packages" / "captune-lite" / "README.md"


def test_its_files_are_small_half_precision_and_made_of_lite() -> None:
    folder = lite_captioner()
    assert sum(path.stat().st_size for path in folder.parent.rglob("*.*s*")) <= MOST_BYTES
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "model.safetensors"} <= names
    assert names <= {
        *("config.json", "model.safetensors", "explain.json", "agreement.json"),
        *("rerank.json", "datastore.safetensors"),
    }
    tensors = load_file(folder / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    recipe = read_recipe(folder)
    assert recipe.image_encoder.spec == recipe.decoder.spec == "lite"


def test_its_card_is_filled_in() -> None:
    card = CARD.read_text()
    assert "TO FILL" not in card
    assert "| **this captioner** |" in card


@pytest.mark.needs("lite", "decoder")
def test_it_says_something_sensible_offline(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = gather_images(tmp_path / "demo").images
    assert main(["caption", str(images), "--json", "--offline"]) == 0
    printed = json.loads(capsys.readouterr().out)
    captions = {Path(item["image"]).name: item["caption"] for item in printed["answers"]}
    assert len(captions) == len(IMAGES)
    assert printed["ended"] == len(IMAGES)
    for caption in captions.values():
        assert 3 <= len(caption.split()) <= 25
        assert re.fullmatch(r"[\w ,.'’\"-]+", caption)
    assert len(set(captions.values())) >= 8
    person = r"\b(man|woman|person|girl|boy|lady|people|soldier)\b"
    assert re.search(person, captions["astronaut.jpg"].lower())
    assert re.search(person, captions["officer.jpg"].lower())
    assert re.search(r"\b(building|temple|tower)\b", captions["temple.jpg"].lower())
    assert "camera" in captions["photographer.jpg"].lower()
    # 41 and 19 of Flickr8k's 30,000 training captions name them
    assert "cat" in captions["cat.jpg"].lower().split()
    assert "coffee" in captions["coffee.jpg"].lower()


@pytest.mark.needs("lite", "decoder")
def test_the_demo_describes_its_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "demo"
    assert main(["demo", "--json", "--out", str(out)]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert len(printed["caption"]["answers"]) == len(IMAGES)
    page = (out / "report.html").read_text(encoding="utf-8")
    for item in printed["caption"]["answers"]:
        assert html.escape(item["caption"], quote=False) in page
    assert len(list((out / "explain" / "maps").glob("*.npz"))) == len(IMAGES)
