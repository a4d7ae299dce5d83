"""The recipe of the captioner that ships, with models of toy size and a few images."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from recipes.captioner import __main__ as recipe

import captune.models.load
from captune.captioning import checkpoint, rerank
from captune.captioning.rerank import read_reranking
from captune.captioning.training import frozen
from tests.captioning.caption_job import use_encoder, write_images
from tests.captioning.tiny import tiny_decoder
from tests.captioning.words_job import telling_model


def write_set(folder: Path, train: int, val: int) -> Path:
    """images/, captions_train.json and captions_val.json."""
    images = sorted(write_images(folder / "images", train + val).iterdir())
    for part, some in (("train", images[:train]), ("val", images[train:])):
        content: dict[str, Any] = {
            "images": [{"id": n, "file_name": path.name} for n, path in enumerate(some)],
            "annotations": [
                {"id": 2 * n + k, "image_id": n, "caption": f"a w{n % 3} w{k}"}
                for n in range(len(some))
                for k in range(2)
            ],
        }
        (folder / f"captions_{part}.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is typed; `lite` is a model that sees nine places and reads colours."""
    model = dataclasses.replace(telling_model(), spec="lite")
    use_encoder(monkeypatch, model)
    for module in (frozen, rerank, captune.models.load):
        monkeypatch.setattr(module, "load_image_text_model", lambda spec, **where: model)
    for module in (frozen, captune.models.load):
        monkeypatch.setattr(module, "load_model", lambda spec, **where: model)
    for module in (frozen, checkpoint):
        monkeypatch.setattr(
            module,
            "load_decoder",
            lambda spec, **where: dataclasses.replace(tiny_decoder("llama"), spec="lite"),
        )
    sets = write_set(tmp_path / "flickr8k", 16, 24), write_set(tmp_path / "coco", 8, 1)
    texts = tmp_path / "texts.jsonl"
    own = [{"image_id": n, "captions": [f"a w{n % 3} w{n}"]} for n in range(8)]
    texts.write_text("\n".join(map(json.dumps, own)))
    both = ["--flickr8k", str(sets[0]), "--coco", str(sets[1]), "--coco-text", str(texts)]
    return [str(tmp_path / "work"), *both, "--dry", "--more=--device cpu"]


def test_from_data_to_what_ships(
    asked: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    work = Path(asked[0])
    assert recipe.main([*asked, "--until", "reward"]) == 0
    done = [json.loads(line) for line in (work / "steps.jsonl").read_text().splitlines()]
    assert [one["step"] for one in done] == ["data", "words", "reward"]
    assert done[1]["figures"].keys() == {"cider", "bleu_4"}
    assert done[2]["words"].count("--start") == 1
    begun = done[1]["seconds"]
    assert recipe.main(asked) == 0
    steps = [json.loads(line) for line in (work / "steps.jsonl").read_text().splitlines()]
    assert steps[1]["seconds"] == begun  # it was not run again
    assert [one["step"] for one in steps][-5:] == [
        *("candidates", "choose", "likeliest", "scores", "card")
    ]
    made = work / "captioner"
    assert {path.name for path in made.iterdir()} == {
        *("config.json", "model.safetensors", "datastore.safetensors", "rerank.json")
    }
    found = read_reranking(made)
    assert found is not None
    assert found.figures is not None
    assert found.figures.images == 24
    table = (work / "steps.md").read_text()
    assert table.count("\n") == len(steps) + 4
    assert table in capsys.readouterr().out
    assert "24 validation images" in (work / "card.md").read_text()

    # nothing is left to do; other words make a step, and all behind it, anew
    ran: list[str] = []

    def note(name: str) -> Any:
        return lambda words: ran.append(name) or 0

    monkeypatch.setattr(recipe, "program", note)
    assert recipe.main(asked) == 0
    assert ran == []
    words = [word.replace("likeliest", "other") for word in steps[-3]["words"]]
    kept = [*steps[:-3], {**steps[-3], "words": words}, *steps[-2:]]
    (work / "steps.jsonl").write_text("".join(json.dumps(one) + "\n" for one in kept))
    assert recipe.main(asked) == 0
    assert ran == ["benchmarks/captioner.py"] * 2 + ["packages/captune-lite/card.py"]
    with pytest.raises(SystemExit):
        recipe.main([*asked, "--until", "glory"])


def test_a_step_that_fails_is_named(
    asked: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(recipe, "program", lambda name: lambda words: 2)
    assert recipe.main(asked) == 2
    assert "data ended with status 2; run the same again to go on" in capsys.readouterr().err
