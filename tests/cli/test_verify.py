"""`captune score --verify`: what holds, what does not, and what is no metrics.json."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.cli.test_score import CANDIDATES, REFERENCES

from captune.cli import main


class Files:
    """Candidates, references and a score run of them, in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.run = folder, folder / "run"
        self.candidates, self.references = folder / "captions.json", folder / "references.json"
        self.candidates.write_text(json.dumps(CANDIDATES))
        self.references.write_text(json.dumps(REFERENCES))

    def score(self, *more: str) -> None:
        words = ["score", str(self.candidates), "--references", str(self.references)]
        assert main([*words, "--out", str(self.run), "--json", *more]) == 0

    @property
    def metrics(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.run / "metrics.json").read_text())
        return content

    def edit(self, change: Callable[[dict[str, Any]], object]) -> None:
        content = self.metrics
        change(content)
        (self.run / "metrics.json").write_text(json.dumps(content))

    def edit_record(self, number: int, change: Callable[[dict[str, Any]], object]) -> None:
        lines = (self.run / "records.jsonl").read_text().splitlines()
        record = json.loads(lines[number])
        change(record)
        lines[number] = json.dumps(record)
        (self.run / "records.jsonl").write_text("\n".join(lines) + "\n")


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def verified(
    capsys: pytest.CaptureFixture[str], files: Files, *more: str, status: int = 0
) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["score", "--verify", str(files.run), "--json", *more]) == status
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def refused(capsys: pytest.CaptureFixture[str], files: Files, *more: str) -> str:
    capsys.readouterr()
    assert main(["score", "--verify", str(files.run), *more]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "bug in captune" not in err
    return err


def test_holds_until_something_changes(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    files.score()
    assert main(["score", "--verify", str(files.run / "metrics.json")]) == 0
    assert "holds" in capsys.readouterr().out
    assert verified(capsys, files)["holds"] is True
    files.edit(
        lambda m: m["metrics"]["cider"].update(corpus=m["metrics"]["cider"]["corpus"] + 0.01)
    )
    assert main(["score", "--verify", str(files.run)]) == 2
    assert "cider came out otherwise" in capsys.readouterr().err
    files.references.write_text(json.dumps({**REFERENCES, "9_1": ["Blue."]}))
    found = verified(capsys, files, status=2)
    assert found["holds"] is False
    assert any("references are others" in sentence for sentence in found["changed"])


def test_inputs_that_moved(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    files.score()
    moved = files.references.rename(files.folder / "moved.json")
    assert "references.json" in refused(capsys, files)
    assert verified(capsys, files, "--references", str(moved))["holds"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda m: m["metrics"]["cider"].update(name="CIDEr-D"), "cider: its name was CIDEr-D"),
        (lambda m: m["metrics"]["cider"]["recipe"].update(sigma=5), "cider: sigma was 5"),
        (lambda m: m["metrics"]["cider"]["recipe"].pop("sigma"), "cider: sigma was absent"),
        (lambda m: m["metrics"]["cider"]["recipe"].update(extra=1), "extra was 1 and is absent"),
        (lambda m: m["metrics"]["rouge_l"].update(interval=[0.1, 0.2]), "rouge_l: its interval"),
        (lambda m: m["metrics"]["rouge_l"].update(interval=None), "rouge_l: its interval"),
        (lambda m: m["options"].update(seed=7), "bleu_1: its interval"),
        (lambda m: m["agreement"]["pairs"][0].update(tau=0.99), "the agreement of the metrics"),
        (lambda m: m.update(agreement=None), "the agreement of the metrics"),
        (lambda m: m.update(images=7), "7 images were scored then, 6 now"),
    ],
)
def test_an_edited_file_does_not_hold(
    files: Files, capsys: pytest.CaptureFixture[str], change: Any, says: str
) -> None:
    files.score()
    files.edit(change)
    found = verified(capsys, files, status=2)
    assert says in "; ".join(found["changed"])


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record["scores"].update(cider=record["scores"]["cider"] + 0.001),
        lambda record: record["scores"].pop("cider"),
        lambda record: record["scores"].update(cider=None),
        lambda record: record.update(caption="another"),
        lambda record: record.update(image="other"),
        lambda record: record.update(references=[]),
        lambda record: record.update(scores=[]),
    ],
)
def test_edited_records_do_not_hold(
    files: Files, capsys: pytest.CaptureFixture[str], change: Any
) -> None:
    files.score()
    files.edit_record(2, change)
    changed = verified(capsys, files, status=2)["changed"]
    assert changed == [f"{files.run / 'records.jsonl'}: line 3 came out otherwise"]


def test_records_that_are_cut_off_or_gone(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    files.score()
    records = files.run / "records.jsonl"
    lines = records.read_text().splitlines(keepends=True)
    records.write_text("".join(lines[:4]))
    assert verified(capsys, files, status=2)["changed"] == [f"{records}: has 4 lines for 6 images"]
    records.write_text("".join(lines)[:-20])
    assert main(["score", "--verify", str(files.run)]) == 2
    assert f"{records}: is not valid JSON at line 6" in capsys.readouterr().err
    records.unlink()
    assert verified(capsys, files)["holds"]


def test_a_run_without_intervals_and_with_other_versions_holds(
    files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    files.score("--no-interval")
    files.edit(lambda m: m["versions"].update(numpy="0.1"))
    files.edit(lambda m: m["metrics"]["cider"]["recipe"].update(tokenizer_version="0"))
    capsys.readouterr()
    assert main(["score", "--verify", str(files.run)]) == 0
    err = capsys.readouterr().err
    assert "numpy was 0.1 then" in err
    assert "tokenizer_version was 0 then" in err


def _with(**parts: Any) -> Callable[[dict[str, Any]], object]:
    return lambda content: content.update(parts)


def _metric(**parts: Any) -> Callable[[dict[str, Any]], object]:
    return lambda content: content["metrics"]["cider"].update(parts)


def _option(**parts: Any) -> Callable[[dict[str, Any]], object]:
    return lambda content: content["options"].update(parts)


@pytest.mark.parametrize(
    "change",
    [
        *(_with(images=value) for value in (None, "6", True, 0, 6.0)),
        *(_with(metrics=value) for value in (None, [], {}, {"cider": 3}, {"../x": {}})),
        *(_with(metrics={"bleu": {"name": "", "corpus": 0, "recipe": {}}}) for _ in range(1)),
        *(_with(inputs=value) for value in ([], {}, {"candidates": None}, {"candidates": "x"})),
        _with(inputs={"candidates": {"path": 7, "sha256": ""}}),
        _with(inputs={"candidates": {"path": "a\0b", "sha256": ""}}),
        _with(inputs={"candidates": {"path": "gone.json", "sha256": "x" * 64}}),
        *(_with(agreement=value) for value in (7, {}, {"pairs": 3})),
        *(_with(versions=value) for value in (7, {"numpy": 2})),
        *(_metric(corpus=value) for value in (None, "1", True, [1], 10**400)),
        *(_metric(recipe=value) for value in (None, [], "x")),
        *(_metric(name=value) for value in (None, 7)),
        *(_metric(interval=value) for value in (7, [1], [1, "2"], [1, 2, 3], "12")),
        *(_option(seed=value) for value in ("0", 1.5, None, -1, True)),
        *(_option(resamples=value) for value in (5, 10**12, "many")),
        *(_option(tokenizer=value) for value in ("bert", 7, ["ptb"])),
        *(_option(allow_missing=value) for value in ("yes", 1)),
        *(_option(df=value) for value in (7, None, "a\0b", "/nowhere/mine.gz", "x" * 5000)),
        _option(prefix=None),
        lambda content: content.pop("options"),
        lambda content: content.pop("inputs"),
    ],
)
def test_hostile_files_are_one_sentence(
    files: Files, capsys: pytest.CaptureFixture[str], change: Any
) -> None:
    files.score("--no-interval")
    files.edit(change)
    refused(capsys, files)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "7", "{", "null", "[" * 100_000, '{"images": NaN}', '{"a": 1, "a": 2}', "\udcff"],
)
def test_what_is_no_json_object_is_one_sentence(
    files: Files, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    files.run.mkdir()
    (files.run / "metrics.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    refused(capsys, files)


@pytest.mark.parametrize(
    ("more", "flag"),
    [
        (["--metrics", "cider"], "--metrics"),
        (["--tokenizer", "none"], "--tokenizer"),
        (["--out", "elsewhere"], "--out"),
        (["--per-image", "x.csv"], "--per-image"),
        (["--save-df", "x.gz"], "--save-df"),
        (["--model", "lite-2"], "--model"),
        (["--no-interval"], "--no-interval"),
        (["--seed", "3", "--allow-missing"], "--allow-missing and --seed"),
        (["--df", "coco-val2017"], "--df"),
    ],
)
def test_options_that_would_change_nothing_are_refused(
    files: Files, capsys: pytest.CaptureFixture[str], more: list[str], flag: str
) -> None:
    files.score("--no-interval")
    err = refused(capsys, files, *more)
    assert all(word in err for word in flag.split(" and "))


def test_a_table_that_moved(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    table, words = files.folder / "mine.df.gz", ["--metrics", "cider", "--no-interval"]
    files.score("--save-df", str(table), *words)
    files.score("--df", str(table), *words)
    assert files.metrics["options"]["df"] == str(table)
    moved = table.rename(files.folder / "moved")
    assert "mine.df.gz" in refused(capsys, files)
    assert verified(capsys, files, "--df", str(moved))["holds"]


def test_words_of_df_stay_words_where_a_file_has_their_name(
    files: Files, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(files.folder)
    for name in ("corpus", "coco-val2017"):
        (files.folder / name).write_text("a file of the user's")
        files.score("--df", name, "--no-interval")
        assert files.metrics["options"]["df"] == name
        assert verified(capsys, files)["holds"]


def test_text_metrics_do_not_need_the_images_again(
    files: Files, colour_images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files.score("--images", str(colour_images), "--metrics", "cider,rouge_l")
    assert files.metrics["inputs"]["images"] is not None
    colour_images.rename(files.folder / "elsewhere")
    assert verified(capsys, files)["holds"]
    assert verified(capsys, files, "--images", str(files.folder / "elsewhere"))["holds"]


def test_models_run_in_the_precision_that_was_recorded(
    files: Files,
    colours: Any,
    colour_images: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from captune.models import load

    files.score("--images", str(colour_images), "--metrics", "clipscore")
    assert files.metrics["options"]["dtype"] == "auto"
    asked = []
    real = load.load_image_text_model

    def spy(*words: Any, **options: Any) -> Any:
        asked.append(options["dtype"])
        return real(*words, **options)

    monkeypatch.setattr(load, "load_image_text_model", spy)
    assert verified(capsys, files)["holds"]
    assert asked == ["float32"]
