from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.captioning.caption_job import use_encoder, write_captioner, write_images
from tests.score_runs import image_folder, write_run

from captune.cli import main
from captune.runs import check_run_folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    names = {f"i{n}": f"i{n}.jpg" for n in range(6)}
    root = image_folder(tmp_path / "images", *names.values())
    scores = {f"i{n}": {"cider": n / 4, "clipscore": 1 - n / 20} for n in range(6)}
    captions = {"i5": "a [bold]dog[/bold] \x1b[31m"}
    return write_run(tmp_path / "run", scores, root=root, paths=names, captions=captions)


def test_the_terminal_shows_both_ends(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rank", str(run), "--by", "cider", "--top", "2"]) == 0
    out = capsys.readouterr().out
    best, worst = out.split("worst")
    assert best.index("1.250") < best.index("1.000")
    assert "a [bold]dog[/bold] \\x1b[31m" in best
    assert worst.index("0.000") < worst.index("0.250")
    assert "CIDER[ptb]: 0.500 over 6 images (95 % 0.250 to 0.750)" in out
    for ending in ("html", "png", "svg", "csv"):
        assert str(run / f"rank-cider.{ending}") in out
        assert (run / f"rank-cider.{ending}").stat().st_size > 100


def test_json_is_one_object(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "images/i0.jpg").write_text("no image")
    out = tmp_path / "gallery"
    words = ["rank", str(run), "--by", "clipscore", "--top", "2", "--out", str(out), "--json"]
    assert main(words) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    result = json.loads(captured.out)
    assert (result["command"], result["run"], result["images"]) == ("rank", str(run), 6)
    assert result["by"] == "clipscore"
    assert (result["corpus"], result["interval"]) == (0.5, [0.25, 0.75])
    assert result["skipped"] == [{"path": "i0.jpg", "reason": "not an image: text"}]
    assert [(pair["rank"], pair["image"]) for pair in result["best"]] == [(1, "i0"), (2, "i1")]
    assert [(pair["rank"], pair["image"]) for pair in result["worst"]] == [(6, "i5"), (5, "i4")]
    assert result["best"][0]["scores"] == {"cider": 0.0, "clipscore": 1.0}
    assert set(result["written"]) == {"page", "figure", "svg", "table"}
    assert all(Path(path).parent == out for path in result["written"].values())
    with (out / "rank-clipscore.csv").open() as file:
        assert [row["rank"] for row in csv.DictReader(file)] == list("123456")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--by", "bleu_4"], "has no scores by bleu_4, only by cider, clipscore"),
        (["--top", "0"], "top must be 1 or more, not 0"),
        (["--top", "x"], "x"),
        (["--images", "nowhere"], "does not exist"),
        (["--out", "{run}/run.json"], "run.json"),
        (["--model", "lite"], "--model is for --explain"),
    ],
)
def test_mistakes_are_one_sentence(
    run: Path, words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rank", str(run), *(word.format(run=run) for word in words)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert told in captured.err
    assert len(captured.err.splitlines()) == 1
    assert not list(run.glob("rank-*"))


def test_the_words_of_the_pairs_are_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_encoder(monkeypatch)
    root = write_images(tmp_path / "images", 4)
    model = write_captioner(tmp_path / "captioner" / "run")
    names = {f"i{n}": f"image_{n:03}.png" for n in range(4)}
    run = write_run(
        tmp_path / "run",
        {f"i{n}": {"cider": n / 4} for n in range(4)},
        root=root,
        paths=names,
        captions={f"i{n}": f"w{n} w9" for n in range(4)},
    )
    words = ["rank", str(run), "--top", "1", "--json"]
    assert main(words) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["explained"], "maps" in result["written"]) == (None, False)
    assert "What the model used" not in (run / "rank-cider.html").read_text()
    assert main([*words, "--explain", "--model", str(model)]) == 0
    result = json.loads(capsys.readouterr().out)
    explained = result["explained"]
    assert [(one["path"], one["caption"]) for one in explained["explanations"]] == [
        ("image_000.png", "w0 w9"),
        ("image_003.png", "w3 w9"),
    ]
    maps = run / "maps" / "rank-cider"
    assert result["written"]["maps"] == str(maps)
    assert (maps / "plots" / "words-image_003.png").is_file()
    page = (run / "rank-cider.html").read_text()
    assert "What the model used" in page
    # the best pair comes first, whatever its image is called
    assert '"label":"CIDER: best first","values":[4,1],"down":false' in page
    # a new score takes the maps away with the gallery
    check_run_folder(run, "score")


def test_without_images_nothing_is_explained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run", {"a": {"cider": 1.0}, "b": {"cider": 0.5}})
    assert main(["rank", str(run), "--explain"]) == 2
    assert "--images DIR says where" in capsys.readouterr().err


def test_a_folder_that_is_no_score_run_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_run(tmp_path / "other", {"a": {"cider": 1.0}}, kind="baking")
    file = tmp_path / "captions.json"
    file.write_text("{}")
    for folder, told in (
        (other, "run of captune baking"),
        (tmp_path / "no", "does not exist"),
        (file, "captions.json is not a finished run folder"),
    ):
        assert main(["rank", str(folder), "--json"]) == 2
        captured = capsys.readouterr()
        assert told in captured.err
        assert told in json.loads(captured.out)["error"]


def test_what_a_strange_run_is_called_reaches_no_terminal_raw(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "\x1b[2J", {"a\x1b[1m": {"cider": 1.0, "\x1b[31m": 2.0}})
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["metrics"]["cider"]["name"] = "\x1b]0;title\a"
    (run / "metrics.json").write_text(json.dumps(metrics))
    assert main(["rank", str(run)]) == 0
    assert main(["rank", str(run), "--by", "\x1b[32m"]) == 2
    assert main(["rank", str(tmp_path / "\x1b[3m")]) == 2
    captured = capsys.readouterr()
    assert "\x1b" not in captured.out + captured.err
    assert "\\x1b[2J" in captured.out
    assert "\\x1b[3m" in captured.err


def test_a_new_score_takes_an_old_gallery_away(run: Path) -> None:
    assert main(["rank", str(run), "--json"]) == 0
    (run / "rank.txt").write_text("the user's own")
    write_run(run, {"a": {"cider": 1.0}})
    assert [path.name for path in run.glob("rank*")] == ["rank.txt"]
    # a gallery is no reason to refuse a folder whose run was not finished
    (run / "rank.txt").unlink()
    (run / "run.json").unlink()
    (run / "rank-cider.html").write_text("")
    check_run_folder(run)


def test_ranking_imports_no_torch(run: Path) -> None:
    code = (
        "import sys; from captune.cli import main; "
        f"status = main(['rank', {str(run)!r}, '--json']); "
        "sys.exit(status or ('torch' in sys.modules) or ('transformers' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.needs("shared")
def test_a_real_score_run_is_ranked(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads((shared / "data/coco-mini/captions_val.json").read_text())
    captions: dict[str, list[str]] = {}
    for annotation in content["annotations"]:
        captions.setdefault(str(annotation["image_id"]), []).append(annotation["caption"])
    for name, part in (("cand", slice(0, 1)), ("refs", slice(1, None))):
        rows = {image: texts[part] for image, texts in captions.items()}
        (tmp_path / f"{name}.json").write_text(json.dumps(rows))
    out = tmp_path / "run"
    images = str(shared / "data/coco-mini/images")
    words = ["score", str(tmp_path / "cand.json"), "--references", str(tmp_path / "refs.json")]
    assert main([*words, "--metrics", "bleu,cider", "--out", str(out), "--no-interval"]) == 0
    capsys.readouterr()
    assert main(["rank", str(out), "--top", "3", "--images", images, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["images"] == 79
    assert result["skipped"] == []
    scores = [pair["score"] for pair in (*result["best"], *reversed(result["worst"]))]
    assert scores == sorted(scores, reverse=True)
    assert (out / "rank-cider.html").read_text().count("data:image/jpeg;base64,/9j") == 6
