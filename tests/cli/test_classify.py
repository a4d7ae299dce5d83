from __future__ import annotations

import errno
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from captune.cli import main
from captune.runs import read_run

LABELS = '{"7": "red", "8": "green", "9": "blue", "12": "white"}'


@pytest.fixture
def labels(tmp_path: Path) -> str:
    path = tmp_path / "id2label.json"
    path.write_text(LABELS)
    return str(path)


def _json(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main([*words, "--json"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    result: dict[str, Any] = json.loads(out)
    return result


def test_csv_is_exactly_the_assignment_s(
    colours: Any, colour_images: Path, labels: str, tmp_path: Path
) -> None:
    answers = tmp_path / "out" / "pred.csv"
    assert main(["classify", str(colour_images), "--labels", labels, "--csv", str(answers)]) == 0
    assert answers.read_bytes() == (
        b"filename,label\n7_0.png,7\n7_1.png,7\n8_0.png,8\n8_1.png,8\n9_0.png,9\n9_1.png,9\n"
    )


def test_a_limit_takes_the_same_images_in_every_command(
    colours: Any, colour_images: Path, labels: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    images, some = str(colour_images), ["--limit", "2"]
    told = _json(capsys, "classify", images, "--labels", labels, *some)
    assert told["images"] == 2
    chosen = [answer["image"] for answer in told["answers"]]
    assert _json(capsys, "prompts", images, "--labels", labels, *some)["images"] == 2
    assert _json(capsys, "embed", images, *some, "--to", str(tmp_path / "a.npz"))["images"] == 2
    with np.load(tmp_path / "a.npz") as file:
        assert file["paths"].tolist() == chosen


def test_json_has_what_machines_need(
    colours: Any, colour_images: Path, labels: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (colour_images / "9_7.jpg").write_text("not an image")
    result = _json(
        capsys, "classify", str(colour_images), "--labels", labels, "--truth", "from-name"
    )
    assert result["command"] == "classify"
    assert result["images"] == 6
    assert len(result["skipped"]) == 1
    assert result["skipped"][0]["path"].endswith("9_7.jpg")
    assert result["model"]["spec"] == "colours"
    assert result["model"]["weights_id"] == "c0" * 32
    (prompt,) = result["prompts"]
    assert prompt["accuracy"] == 1.0
    low, high = prompt["interval"]
    assert low == pytest.approx(0.6097, abs=1e-3)  # Wilson, 6 of 6
    assert high == 1.0
    assert result["run"] is None


def test_without_truth_accuracy_is_null(
    colours: Any, colour_images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = _json(capsys, "classify", str(colour_images), "--labels", "red,blue")
    assert result["prompts"][0]["accuracy"] is None
    assert result["prompts"][0]["interval"] is None


def test_run_folder_page_figures_and_probabilities(
    colours: Any, colour_images: Path, labels: str, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    words = ["classify", str(colour_images), "--labels", labels, "--truth", "from-name"]
    words += ["--out", str(out), "--all-probabilities", "--top5", "2", "--top5", "8_1.png"]
    assert main(words) == 0
    run = read_run(out)
    records = list(run.records())
    assert [record["path"] for record in records][:2] == ["7_0.png", "7_1.png"]
    assert records[0]["top"][0]["id"] == "7"
    assert records[0]["truth"] == "7"
    assert run.about["command"] == ["captune", *words]
    probabilities = np.load(out / "probabilities.npy")
    assert probabilities.shape == (6, 4)
    assert probabilities.dtype == np.float16
    assert probabilities[0, 0] == pytest.approx(records[0]["top"][0]["probability"], abs=1e-3)
    page = (out / "report.html").read_text()
    assert all(record["path"] in page for record in records)
    assert "data:image/jpeg;base64," in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    figures = sorted(path.name for path in (out / "plots").iterdir())
    assert "top5-8_1.png" in figures
    assert "top5-8_1.svg" in figures
    assert len(figures) in (4, 6)  # the named image may be among the two sampled
    assert not list(out.rglob(".*"))


def test_several_prompts_are_kept_apart_and_the_csv_says_so(
    colours: Any, colour_images: Path, labels: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    words = ["classify", str(colour_images), "--labels", labels, "--prompt", "a {}"]
    words += ["--prompt", "a red green blue {object}", "--csv", str(tmp_path / "a.csv")]
    words += ["--truth", "from-name", "--out", str(tmp_path / "run")]
    assert main(words) == 0
    assert "first of 2 prompts" in capsys.readouterr().err
    run = read_run(tmp_path / "run")
    first, second = run.metrics["prompts"]
    assert first["accuracy"] == 1.0
    assert second["accuracy"] < 1.0
    assert len(next(run.records())["by_prompt"]) == 2
    words[words.index("--csv") + 1] = str(tmp_path / "b.csv")
    assert main([*words, "--ensemble", "mean"]) == 0
    assert "first of" not in capsys.readouterr().err


def test_a_list_on_standard_input(
    colours: Any, colour_images: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    import io
    import sys

    listed = "\n".join(str(colour_images / name) for name in ("9_0.png", "7_1.png"))
    monkeypatch.setattr(sys, "stdin", io.StringIO(listed + "\n"))
    result = _json(capsys, "classify", "-", "--labels", "red,blue")
    assert result["images"] == 2


def test_the_same_name_in_two_folders_is_told_apart(
    colours: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder, colour in (("a", (255, 0, 0)), ("b", (0, 0, 255))):
        (tmp_path / "p" / folder).mkdir(parents=True)
        Image.new("RGB", (9, 9), colour).save(tmp_path / "p" / folder / "1.png")
    answers = tmp_path / "answers.csv"
    words = ["classify", str(tmp_path / "p"), "--labels", "red,blue", "--csv", str(answers)]
    assert main(words) == 0
    assert "a/1.png,red\nb/1.png,blue\n" in answers.read_text()


def test_nothing_readable_is_the_user_s_mistake(
    colours: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "a.jpg").write_text("hello")
    words = ["classify", str(tmp_path / "p"), "--labels", "red,blue"]
    assert main([*words, "--out", str(tmp_path / "run"), "--csv", str(tmp_path / "a.csv")]) == 2
    captured = capsys.readouterr()
    assert "none of 1 file could be read" in captured.err
    assert "Traceback" not in captured.err
    assert not (tmp_path / "a.csv").exists()
    assert not (tmp_path / "run" / "records.jsonl").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--top5", "3"], "--out"),
        (["--all-probabilities"], "--out"),
        (["--prompt", "no place"], "no place"),
        (["--batch-size", "0"], "batch size"),
        (["--workers", "-1"], "workers"),
        (["--top5", "0", "--out", "run"], "--top5 0"),
        (["--top5", "gone.png", "--out", "run"], "gone.png"),
        (["--labels", "gone.json"], "gone.json"),
    ],
)
def test_mistakes_are_one_sentence_and_status_2(
    colours: Any, colour_images: Path, words: list[str], message: str,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(["classify", str(colour_images), "--labels", "red,blue", *words]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert error.count("\n") == 0
    assert not (tmp_path / "run").exists()


def test_a_mistake_with_json_prints_json(
    colours: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["classify", str(tmp_path / "gone"), "--labels", "a,b", "--json"]) == 2
    result = json.loads(capsys.readouterr().out)
    assert result["command"] == "classify"
    assert result["images"] == 0
    assert result["skipped"] == []
    assert "gone" in result["error"]


def test_misused_options_and_bugs_with_json_print_json(
    colours: Any, colour_images: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert main(["classify", str(colour_images), "--json"]) == 2
    assert "--labels" in json.loads(capsys.readouterr().out)["error"]
    monkeypatch.setattr("captune.jobs.classify.wilson", None)
    words = ["classify", str(colour_images), "--labels", "red,blue,7,8,9", "--json"]
    assert main([*words, "--truth", "from-name"]) == 1
    assert "not callable" in json.loads(capsys.readouterr().out)["error"]


def test_a_full_disk_is_one_sentence(
    colours: Any, colour_images: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("captune.cli.commands.print_result", full)
    assert main(["classify", str(colour_images), "--labels", "red,blue"]) == 2
    assert capsys.readouterr().err.count("the disk is full") == 1


def test_prompts_of_the_labels_are_not_reported_as_a_template(
    colours: Any, colour_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "own.json"
    path.write_text('{"red": ["something red", "red {}"], "blue": ["blue"]}')
    out = tmp_path / "run"
    result = _json(capsys, "classify", str(colour_images), "--labels", str(path), "--out", str(out))
    assert [prompt["template"] for prompt in result["prompts"]] == [None]
    assert read_run(out).metrics["templates"] == []


def test_figures_of_images_with_one_spelling_are_kept_apart(colours: Any, tmp_path: Path) -> None:
    for name in ("1.png", "1.jpg"):
        (tmp_path / "p").mkdir(exist_ok=True)
        Image.new("RGB", (9, 9), (255, 0, 0)).save(tmp_path / "p" / name)
    words = ["classify", str(tmp_path / "p"), "--labels", "red,blue", "--top5", "2"]
    assert main([*words, "--out", str(tmp_path / "run")]) == 0
    figures = sorted(path.name for path in (tmp_path / "run" / "plots").glob("*.png"))
    assert figures == ["top5-1-2.png", "top5-1.png", "top5.png"]


def test_answers_for_other_programs(
    colours: Any, colour_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(colour_images.parent)
    images = colour_images.name
    file = tmp_path / "answers.jsonl"
    found = _json(capsys, "classify", images, "--labels", "red,green", "--to", str(file))
    answers = found["answers"]
    assert found["answers_file"] is None
    assert answers[0]["image"] == str(Path(images, "7_0.png"))  # as it was given, with its folder
    assert answers[0]["label"] == answers[0]["top"][0]["label"] == "red"
    assert sum(one["probability"] for one in answers[0]["top"]) == pytest.approx(1)
    about = {"model": "colours", "weights_id": "c0" * 32}
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert lines == [{**answer, **about} for answer in answers]

    assert main(["classify", images, "--labels", "red,green", "--jsonl"]) == 0
    captured = capsys.readouterr()
    assert [json.loads(line) for line in captured.out.splitlines()] == answers
    assert "6 images, 2 labels" in captured.err

    monkeypatch.setattr("captune.jobs.MOST_ANSWERS", 3)
    found = _json(capsys, "classify", images, "--labels", "red,green", "--to", str(file))
    assert (found["answers"], found["answers_file"]) == (None, str(file))
    csv = str(tmp_path / "answers.csv")
    found = _json(capsys, "classify", images, "--labels", "red,green", "--csv", csv)
    assert (found["answers"], found["answers_file"]) == (None, csv)
    assert main(["classify", images, "--labels", "red,green", "--json"]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert error.startswith("6 images: --json holds the answers of 3 at most; say where to write")


def test_a_wrong_ending_is_refused_before_work(
    colours: Any, colour_images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = str(colour_images)
    assert main(["classify", images, "--labels", "red,green", "--csv", "x.parquet"]) == 2
    assert "--csv x.parquet writes CSV; use --to x.parquet" in capsys.readouterr().err
    for names in (["x.txt"], ["x.csv", "x.npz"], ["x.csv", "./x.csv"]):
        words = [word for name in names for word in ("--to", name)]
        assert main(["classify", images, "--labels", "red,green", *words]) == 2
        assert "--to" in capsys.readouterr().err
    labels = colour_images.parent / "labels.json"
    labels.write_text(LABELS)
    assert main(["classify", images, "--labels", str(labels), "--to", str(labels)]) == 2
    assert "would replace what is read" in capsys.readouterr().err
    assert colours.image.module.images == 0


def test_lines_come_as_they_are_computed(
    colours: Any, colour_images: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """What was printed before Ctrl-C stays printed, and the reader may go."""
    from captune.cli import commands

    seen = []

    def stop(content: dict[str, Any]) -> None:
        seen.append(content)
        assert colours.image.module.images <= 2 * len(seen) + 2
        if len(seen) == 2:
            raise errors[-1]

    monkeypatch.setattr(commands, "print_line", stop)
    words = ["classify", str(colour_images), "--labels", "red,green", "--jsonl", "--no-cache"]
    errors: list[BaseException] = []
    for error, status in ((KeyboardInterrupt(), 130), (BrokenPipeError(), 0)):
        errors.append(error)
        seen.clear()
        assert main([*words, "--batch-size", "1"]) == status
        assert len(seen) == 2
    assert "bug" not in capsys.readouterr().err


def test_files_are_written_when_the_reader_of_the_lines_goes(
    colours: Any, colour_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, writing = os.pipe()
    file = tmp_path / "answers.csv"
    with os.fdopen(writing, "w") as gone:
        monkeypatch.setattr(sys, "stdout", gone)
        os.close(reading)
        words = ["classify", str(colour_images), "--labels", "red,green", "--jsonl"]
        assert main([*words, "--to", str(file)]) == 0
    assert len(file.read_text().splitlines()) == 7
