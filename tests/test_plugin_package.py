"""The package of CONTRIBUTING.md and of docs/: installed as written there, listed, and used."""

from __future__ import annotations

import json
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from captune.cli import main
from captune_metrics import plugins
from tests.captioning.checks import CHECKS_BY_NAME
from tests.captioning.tester import Combination

GUIDES = ("CONTRIBUTING.md", "docs/add-a-metric.md")
CHECKS = ("step_0_is_the_untouched_decoder", "gradient_only_where_it_should_be",
          "detach_gives_the_decoder_back", "count_is_the_formula")  # fmt: skip


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """`my_package` 1.2, on the path with its entry points, as pip leaves it."""
    texts = [(Path(__file__).parents[1] / name).read_text(encoding="utf-8") for name in GUIDES]
    text = "\n".join(texts)
    files = re.findall(r"```python\n(# my_package/(\w+\.py):.*?)```", text, re.DOTALL)
    points: dict[str, dict[str, str]] = {}
    for project in re.findall(r"```toml\n(.*?)```", text, re.DOTALL):
        for group, named in tomllib.loads(project)["project"]["entry-points"].items():
            points.setdefault(group, {}).update(named)
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "__init__.py").touch()
    for content, name in files:
        (tmp_path / "my_package" / name).write_text(content, encoding="utf-8")
    about = tmp_path / "my_package-1.2.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.2\n")
    lines = [
        line
        for group, named in points.items()
        for line in (f"[{group}]", *(f"{name} = {value}" for name, value in named.items()))
    ]
    (about / "entry_points.txt").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(str(tmp_path))
    _forget()
    yield tmp_path
    _forget()


def _forget() -> None:
    plugins.plugins_of.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_package"]:
        del sys.modules[name]


@pytest.mark.usefixtures("package")
def test_captune_lists_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["plugins"]
    mine = {kind: [n for n, who in named.items() if who == "my-package 1.2"]
            for kind, named in found.items()}  # fmt: skip
    assert mine == {
        "tuning methods": ["scale"],
        "bridges": ["mean"],
        "map methods": ["middle"],
        "metrics": ["length_ratio", "known_words"],
        "model backends": ["colours"],
    }
    assert not [name for name in sys.modules if name.startswith("my_package.")]


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize("check", CHECKS)
def test_its_bridge_and_tuning_method_train(check: str) -> None:
    CHECKS_BY_NAME[check](Combination("mean", "scale", "gpt2"))


@pytest.mark.usefixtures("package")
def test_its_map_method_makes_maps() -> None:
    from captune.attribution.methods import MAP_METHODS
    from tests.attribution.woken import captioned, woken

    captioner = woken()
    method = MAP_METHODS.get("middle")
    (layer_head,) = method.layer_heads(captioner)
    maps = method.maps(captioned(captioner), layer_head, [0, 1])
    assert torch.equal(maps.sum((1, 2)), torch.ones(2))


def test_its_metrics_score(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (package / "c.json").write_text('{"1": "a dog runs", "2": "a cat"}')
    (package / "r.json").write_text(
        '{"1": ["one dog", "a dog is here"], "2": ["a black cat sits"]}'
    )
    words = ["score", str(package / "c.json"), "--references", str(package / "r.json")]
    assert main([*words, "--metrics", "length_ratio,known-words", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["metrics"]
    assert found["length_ratio"]["corpus"] == 1.0
    assert found["length_ratio"]["recipe"]["package"] == "my-package"
    # "a dog" of "a dog runs", "a cat": of five words, not of two images
    assert found["known_words"]["corpus"] == 4 / 5
    assert found["known_words"]["interval"] is not None
    assert found["known_words"]["name"].startswith("Known words[blanks")


def test_its_model_classifies(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (20, 20), (250, 10, 10)).save(package / "a.png")
    out = package / "run"
    words = ["classify", str(package / "a.png"), "--labels", "green,red", "--out", str(out)]
    assert main([*words, "--model", "colours:rgb"]) == 0
    assert "a.png  red" in capsys.readouterr().out
    record = json.loads((out / "records.jsonl").read_text())
    assert record["top"][0]["name"] == "red"
    assert main(["classify", str(package / "a.png"), "--labels", "red", "--model", "colour:x"]) == 2
    assert "no kind of model called 'colour'; did you mean colours?" in capsys.readouterr().err
