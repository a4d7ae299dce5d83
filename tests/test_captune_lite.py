"""The package of the shipped captioner: how weights get into it, what it says of itself."""

from __future__ import annotations

import importlib.util
import json
import shutil
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from captune.captioning.captioner import FOLDER
from captune.captioning.checkpoint import from_pretrained
from captune.captioning.model import CaptionModel
from captune.models.lite.assets import PACKAGE
from tests.captioning.test_checkpoint import captioner_of, save
from tests.captioning.tiny import tiny_decoder

PROJECT = Path(__file__).parents[1] / "packages" / "captune-lite"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, PROJECT / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def adopt(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """adopt.py; the tiny decoder stands for the real one."""
    module = script("adopt")

    def load(folder: Path, **where: Any) -> tuple[CaptionModel, Any]:
        return from_pretrained(folder, decoder=tiny_decoder("llama"))

    monkeypatch.setattr(module, "from_pretrained", load)
    return module


@pytest.fixture
def tuned(tmp_path: Path) -> Path:
    """A checkpoint that says that it is made of lite and lite."""
    folder = tmp_path / "tuned"
    save(captioner_of("llama", "lora"), folder, "lora")
    config = json.loads((folder / "config.json").read_text())
    config["image_encoder"]["spec"] = config["decoder"]["spec"] = "lite"
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_what_is_adopted_is_half_as_large_and_loads_in_float32(
    adopt: ModuleType, tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to = tmp_path / PACKAGE / FOLDER
    assert adopt.main([str(tuned), "--to", str(to)]) == 0
    said = json.loads(capsys.readouterr().out)
    before, after = (load_file(folder / "model.safetensors") for folder in (tuned, to))
    assert {tensor.dtype for tensor in after.values()} == {torch.float16}
    assert said["parameters"] == sum(tensor.numel() for tensor in before.values())
    assert said["bytes"] == sum(path.stat().st_size for path in to.iterdir())
    assert 0 < said["largest_rounding"] < 1e-3
    captioner, _ = from_pretrained(to, decoder=tiny_decoder("llama"))
    for name, parameter in captioner.trained().items():
        assert parameter.dtype == torch.float32
        assert torch.equal(parameter, before[name].half().float())
    captioner.detach()


def test_tags_are_read_from_another_probability_on_than_in_training(
    adopt: ModuleType, tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to = tmp_path / "to"
    words = [str(tuned), "--to", str(to), "--tags-least", "0.3"]
    assert adopt.main(words) == 2
    assert "reads no tags" in capsys.readouterr().err
    assert not to.exists()
    config = json.loads((tuned / "config.json").read_text())
    tags = {"labels": ["dog"], "prompts": None, "top": 5, "least": 0.1}
    tags["model"] = config["image_encoder"]
    (tuned / "config.json").write_text(json.dumps(config | {"known_words": tags}))
    assert adopt.main(words) == 0
    after = json.loads((to / "config.json").read_text())
    assert after.pop("known_words") == tags | {"least": 0.3}
    assert after == config


def test_what_may_not_ship_is_refused_and_nothing_is_written(
    adopt: ModuleType,
    tuned: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    to = tmp_path / "to"
    monkeypatch.setattr(adopt, "LARGEST_BYTES", 1000)
    assert adopt.main([str(tuned), "--to", str(to)]) == 2
    assert "train fewer parameters" in capsys.readouterr().err
    other = tmp_path / "other"
    save(captioner_of("llama", "none"), other, "none")
    assert adopt.main([str(other), "--to", str(to)]) == 2
    assert "made of lite" in capsys.readouterr().err
    assert not to.exists()


def test_the_package_holds_what_captune_looks_for_and_its_own_terms() -> None:
    about = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    assert about["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == [PACKAGE]
    assert (PROJECT / PACKAGE / "__init__.py").is_file()
    terms = (PROJECT / "LICENSE.md").read_text()
    for part in ("non-commercial research and education only", "Hodosh", "Attribution 4.0"):
        assert part in terms
    ours = tomllib.loads((PROJECT.parents[1] / "pyproject.toml").read_text())
    (extra,) = ours["project"]["optional-dependencies"]["lite"]
    assert extra.startswith(about["project"]["name"])


CARD = """before
<!-- scores -->
old
<!-- /scores -->
after
"""


def test_the_scores_of_the_card_are_those_that_were_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card, scores = tmp_path / "README.md", tmp_path / "result.json"
    card.write_text(CARD)
    score = {"corpus": 0.5, "interval": [0.4, 0.6], "name": "CIDEr-D"}
    row = {
        "scores": dict.fromkeys(("cider", "bleu_4", "rouge_l"), score),
        "wording": {"copied": 0.1, "distinct": 0.9, "mean_words": 9.5, "vocabulary": 1234},
        "images": 1000,
    }
    names = ["nearest", "consensus", "human", "lora", "lora, shuffled"]
    difference = {"difference": 0.1, "interval": [0.05, 0.15]}
    result = {
        "images": 1000,
        "train_images": 6000,
        "beams": 5,
        "seed": 0,
        "captioners": ["lora"],
        "rows": [{**row, "name": name} for name in names],
        "differences": [
            {"captioner": "lora", "against": name}
            | dict.fromkeys(("cider", "bleu_4", "rouge_l"), difference)
            for name in ("nearest", "consensus", "shuffled")
        ],
    }
    scores.write_text(json.dumps(result))
    module = script("card")
    asked = [str(scores), "--card", str(card), "--captioner", str(tmp_path)]
    assert module.main(asked) == 0
    text = card.read_text()
    assert text.startswith("before\n<!-- scores -->\n")
    assert text.endswith("<!-- /scores -->\nafter\n")
    assert "old" not in text
    assert "| **this captioner** | 0.500 (0.400 to 0.600)" in text
    assert "+0.100 (+0.050 to +0.150)" in text
    assert module.main(asked) == 0
    assert card.read_text() == text
    shutil.copy(module.SHIPPED / "agreement.json", tmp_path)
    assert module.main(asked) == 2
    assert "<!-- agreement -->" in capsys.readouterr().err
    card.write_text(f"{CARD}<!-- agreement -->\nold\n<!-- /agreement -->\n")
    assert module.main(asked) == 0
    assert "| chance | people agree | captions |" in card.read_text()
    assert "old" not in card.read_text()
    card.write_text("no marks")
    assert module.main(asked) == 2
    assert "<!-- scores -->" in capsys.readouterr().err


def test_a_summary_of_captions_knows_what_images_like_these_are_called() -> None:
    chance = np.random.default_rng(0)
    kinds = np.arange(60) % 3
    means = np.eye(5, dtype=np.float32)[kinds] + 0.1 * chance.random((60, 5), dtype=np.float32)
    said = ("a dog runs on the grass", "two boats on a lake", "a child eats an apple")
    captions = [[said[kind], said[kind] + " ."] for kind in kinds]
    choose = script("choose")
    choose.RIDGE, choose.RANK = 1.0, 2
    made = choose.summary_of(means, captions, "id")
    assert made.look.shape == (5, 2)
    assert "dog" in made.grams
    assert "two boats on" in made.grams
    found = made.evidence(means[:3], [list(said)] * 3)
    assert [int(np.argmax(one)) for one in found] == [0, 1, 2]


def test_candidates_of_a_record_are_put_back_into_the_order_of_the_search() -> None:
    kept = [
        {"caption": caption, "mean_log_probability": likely, "score": score}
        for caption, likely, score in (("b", -1.0, 3.0), ("a", -0.5, 2.0), ("c", -2.0, 1.0))
    ]
    assert [one.caption for one in script("choose").likeliest_first(kept)] == ["a", "b", "c"]
