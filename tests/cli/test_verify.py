"""`captune verify` of scores: what holds, what does not, and what is no metrics.json."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.cli.test_score import CANDIDATES, REFERENCES

import captune
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
    assert main(["verify", str(files.run), "--json", *more]) == status
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def refused(capsys: pytest.CaptureFixture[str], files: Files, *more: str) -> str:
    capsys.readouterr()
    assert main(["verify", str(files.run), *more]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "bug in captune" not in err
    return err


def test_holds_until_something_changes(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    files.score()
    assert main(["verify", str(files.run / "metrics.json")]) == 0
    assert "holds" in capsys.readouterr().out
    assert verified(capsys, files)["holds"] is True
    files.edit(
        lambda m: m["metrics"]["cider"].update(corpus=m["metrics"]["cider"]["corpus"] + 0.01)
    )
    assert main(["verify", str(files.run)]) == 2
    captured = capsys.readouterr()
    assert "metrics.json: /metrics/cider/corpus was" in captured.out
    assert "does not hold; 2 differences" in captured.err
    files.references.write_text(json.dumps({**REFERENCES, "9_1": ["Blue."]}))
    found = verified(capsys, files, status=2)
    assert found["holds"] is False
    assert any("references are others" in sentence for sentence in found["differing"])


def test_inputs_that_moved(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    files.score()
    moved = files.references.rename(files.folder / "moved.json")
    assert "references.json" in refused(capsys, files)
    assert verified(capsys, files, "--references", str(moved))["holds"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda m: m["metrics"]["cider"].update(name="CIDEr-D"), "/metrics/cider/name was CIDEr-D"),
        (
            lambda m: m["metrics"]["cider"]["recipe"].update(sigma=5),
            "cider/recipe/sigma was 5",
        ),
        (
            lambda m: m["metrics"]["cider"]["recipe"].pop("sigma"),
            "cider/recipe/sigma was absent",
        ),
        (
            lambda m: m["metrics"]["cider"]["recipe"].update(extra=1),
            "cider/recipe/extra was 1 and is absent",
        ),
        (
            lambda m: m["metrics"]["rouge_l"].update(interval=[0.1, 0.2]),
            "/rouge_l/interval",
        ),
        (lambda m: m["metrics"]["rouge_l"].update(interval=None), "/rouge_l/interval"),
        (lambda m: m["options"].update(seed=7), "/metrics/bleu_1/interval"),
        (lambda m: m["agreement"]["pairs"][0].update(tau=0.99), "/agreement"),
        (lambda m: m.update(agreement=None), "/agreement"),
        (lambda m: m.update(images=7), "/images was 7 and is 6"),
    ],
)
def test_an_edited_file_does_not_hold(
    files: Files, capsys: pytest.CaptureFixture[str], change: Any, says: str
) -> None:
    files.score()
    files.edit(change)
    found = verified(capsys, files, status=2)
    assert says in "; ".join(found["differing"])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda record: record["scores"].update(cider=record["scores"]["cider"] + 0.001), "/cider"),
        (lambda record: record["scores"].pop("cider"), "/scores/cider was absent"),
        (lambda record: record["scores"].update(cider=None), "/scores/cider was null"),
        (lambda record: record.update(caption="another"), "/caption was another and is"),
        (lambda record: record.update(image="other"), "/image was other"),
        (lambda record: record.update(references=[]), "/references was []"),
    ],
)
def test_edited_records_do_not_hold(
    files: Files, capsys: pytest.CaptureFixture[str], change: Any, says: str
) -> None:
    files.score()
    files.edit_record(2, change)
    differing = verified(capsys, files, status=2)["differing"]
    assert differing[-1].startswith(f"{files.run / 'records.jsonl'}: line 3 (/")
    assert says in differing[-1]
    assert differing[-1].endswith("came out otherwise")


def test_records_that_are_cut_off_or_gone(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    files.score()
    records = files.run / "records.jsonl"
    lines = records.read_text().splitlines(keepends=True)
    records.write_text("".join(lines[:4]))
    assert f"{records} has 4 lines for 6 images" in verified(capsys, files, status=2)["differing"]
    for text in ("".join(lines)[:-20], "".join(lines[:5]) + '{"image": "x", "scores": []}'):
        records.write_text(text)
        assert "records.jsonl is damaged (line 6" in refused(capsys, files)
    records.unlink()
    assert "records.jsonl is damaged (it is not there)" in refused(capsys, files)
    # a metrics.json may be kept alone
    (files.run / "run.json").unlink()
    assert verified(capsys, files)["holds"]


def test_a_run_without_intervals_and_with_other_versions_holds(
    files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    files.score("--no-interval")
    files.edit(lambda m: m["versions"].update(numpy="0.1"))
    files.edit(lambda m: m["metrics"]["cider"]["recipe"].update(tokenizer_version="0"))
    (files.run / "report.html").unlink()  # it says the versions of now
    capsys.readouterr()
    assert main(["verify", str(files.run)]) == 0
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
        *(_with(images=value) for value in (None, "6", True, -1)),
        *(_with(metrics=value) for value in (None, [], {}, {"cider": 3}, {"../x": {}})),
        *(_with(inputs=value) for value in ([], {}, {"candidates": None}, {"candidates": "x"})),
        _with(inputs={"candidates": {"path": 7, "sha256": ""}}),
        _with(inputs={"candidates": {"path": "a\0b", "sha256": ""}}),
        _with(inputs={"candidates": {"path": "gone.json", "sha256": "x" * 64}}),
        *(_with(agreement=value) for value in (7, {}, {"pairs": 3})),
        *(_metric(corpus=value) for value in ("1", True, [1], 10**400)),
        *(_metric(recipe=value) for value in (None, [], "x")),
        _metric(name=7),
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
    for name in ("run.json", "records.jsonl"):  # a metrics.json of anybody, kept alone
        (files.run / name).unlink()
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
        (["other.run"], "RUN"),
        (["--a", "x.json", "--b", "x.json"], "--a and --b"),
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


@pytest.fixture
def compared(files: Files) -> Files:
    """The run of a comparison in the place of the score run."""
    other = files.folder / "other.json"
    other.write_text(json.dumps(dict.fromkeys(CANDIDATES, "a red square")))
    words = ["compare", str(files.candidates), str(other), "--references", str(files.references)]
    words += ["--metrics", "cider,bleu_4", "--resamples", "500", "--top", "2"]
    assert main([*words, "--out", str(files.run), "--json"]) == 0
    return files


def test_a_comparison_holds_until_something_changes(
    compared: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    found = verified(capsys, compared)
    assert (found["holds"], found["run"], found["page"]) == (True, str(compared.run), None)
    assert set(found["metrics"]) == {"cider", "bleu_4"}
    moved = compared.folder / "moved.json"
    (compared.folder / "other.json").rename(moved)
    assert "other.json" in refused(capsys, compared)
    assert verified(capsys, compared, "--b", str(moved))["holds"]
    moved.write_text(json.dumps(dict.fromkeys(CANDIDATES, "a green square")))
    told = "; ".join(verified(capsys, compared, "--b", str(moved), status=2)["differing"])
    assert "B: the candidates are others" in told
    assert "metrics.json: /metrics/cider/b/corpus was" in told


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda m: m["metrics"]["cider"].update(p=0.5), "/metrics/cider/p was 0.5"),
        (lambda m: m["metrics"]["bleu_4"]["images"].update(equal=9), "/bleu_4/images/equal was 9"),
        (lambda m: m["verdicts"].update(cider="B is best"), "/verdicts/cider was B is best"),
        (lambda m: m["differences"]["cider"]["a_better"].pop(), "/differences/cider/a_better was"),
        (lambda m: m["recipes"]["cider"].update(sigma=5), "/recipes/cider/sigma was 5"),
        (lambda m: m.update(changed_captions=0), "has 0 at /changed_captions"),
        (lambda m: m["metrics"]["cider"]["a"].update(corpus=9), "has 9 at /metrics/cider/a/corpus"),
    ],
)
def test_an_edited_comparison_does_not_hold(
    compared: Files, capsys: pytest.CaptureFixture[str], change: Any, says: str
) -> None:
    compared.edit(change)
    assert says in "; ".join(verified(capsys, compared, status=2)["differing"])


def test_edited_records_of_a_comparison_do_not_hold(
    compared: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    compared.edit_record(1, lambda record: record["b"].update(caption="a blue square"))
    told = verified(capsys, compared, status=2)["differing"][-1]
    assert "records.jsonl: line 2 (/b/caption was a blue square and is a red square)" in told


def test_a_run_of_another_job_is_counted_again(
    colours: Any, colour_images: Path, files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["classify", str(colour_images), "--labels", "red,green,blue", "--out", str(files.run)]
    assert main(words) == 0
    capsys.readouterr()
    assert main(["verify", str(files.run)]) == 0
    assert re.fullmatch(
        re.escape(f"{files.run}: holds, 6 images counted again")
        + r", \d+ figures of its page derived again\n",
        capsys.readouterr().out,
    )
    files.edit(lambda m: m.update(images=7))
    found = verified(capsys, files, status=2)
    assert found["differing"] == [f"{files.run}: metrics.json has 7 at /images, its records give 6"]
    assert "--references would change nothing" in refused(capsys, files, "--references", "x.json")


def test_the_page_of_a_run_is_verified_with_it(
    files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    files.score("--metrics", "rouge_l")
    assert verified(capsys, files)["figures"] > 1
    page = files.run / "report.html"
    text = page.read_text()
    page.write_text(re.sub(r'(<data class="figure" value=")', r"\g<1>1", text, count=1))
    (told, *_) = verified(capsys, files, status=2)["differing"]
    assert told.startswith("report.html: 1:metrics.json#/")


def test_python_verifies_as_the_command_does(files: Files) -> None:
    files.score("--metrics", "rouge_l")
    assert captune.verify(files.run).holds
    moved = files.references.rename(files.folder / "moved.json")
    assert captune.verify(str(files.run / "metrics.json"), references=str(moved)).holds


def test_text_metrics_are_verified_without_torch(files: Files) -> None:
    files.score("--metrics", "rouge_l")
    code = (
        "import sys; from captune.cli import main; "
        f"status = main(['verify', {str(files.run)!r}, '--json']); "
        "sys.exit(status or ('torch' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
