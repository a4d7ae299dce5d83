"""`python -m captune_metrics`: scores, the subset, one sentence for what cannot be scored."""

from __future__ import annotations

import csv
import json
import os
import socket
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest
from tests.full_disk import no_larger_files

from captune_metrics import Corpus, bleu_of, cider_of
from captune_metrics.__main__ import main

PROJECT = Path(__file__).parents[2] / "packages" / "captune-metrics"
REFERENCES = {
    "1": ["a dog runs on grass", "the dog runs"],
    "=2": ["a brown cat sits"],
    "3": ["two men play football", "men with a ball"],
}
PREDICTIONS = {"1": "a dog runs", "=2": "a cat sits", "3": "two men"}


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with pred.json and refs.json, in which the command runs."""
    monkeypatch.chdir(tmp_path)
    Path("pred.json").write_text(json.dumps(PREDICTIONS))
    Path("refs.json").write_text(json.dumps(REFERENCES))
    return tmp_path


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert main(["pred.json", "refs.json", "--json", *words]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.usefixtures("files")
def test_a_table_of_the_figures_with_intervals(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pred.json", "refs.json"]) == 0
    out, err = capsys.readouterr()
    corpus = Corpus(PREDICTIONS, REFERENCES)
    assert f"BLEU-4   {bleu_of(corpus)['bleu_4'].corpus:.3f}  " in out
    assert f"CIDEr-D  {cider_of(corpus).corpus:.3f}  " in out
    assert out.splitlines()[0] == "metric   score  95 % interval"
    assert out.endswith("3 images\n")
    assert "word statistics of only 3 images" in err


@pytest.mark.usefixtures("files")
def test_json_has_every_digit_and_the_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    found = printed(capsys, "--metrics", "CIDEr,bleu@4")
    assert list(found["metrics"]) == ["cider", "bleu_4"]
    cider = cider_of(Corpus(PREDICTIONS, REFERENCES))
    assert found["images"] == 3
    assert found["metrics"]["cider"]["corpus"] == cider.corpus
    assert found["metrics"]["cider"]["recipe"] == cider.recipe
    low, high = found["metrics"]["cider"]["interval"]
    assert low <= cider.corpus <= high
    found = printed(capsys, "--metrics", "cider", "--no-interval", "--df", "coco-val2017")
    assert found["metrics"]["cider"]["interval"] is None
    assert found["metrics"]["cider"]["recipe"]["df"] == "coco-val2017"


def test_forms_of_coco_give_the_same(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = printed(capsys)
    pairs = [(image, text) for image, texts in REFERENCES.items() for text in texts]
    annotations = [
        {"id": i, "image_id": int(image) if image.isdigit() else image, "caption": text}
        for i, (image, text) in enumerate(pairs)
    ]
    (files / "refs.json").write_text(json.dumps({"images": [], "annotations": annotations}))
    entries = [{"image_id": image, "caption": text} for image, text in PREDICTIONS.items()]
    (files / "pred.json").write_text(json.dumps(entries[::-1]))
    assert printed(capsys) == plain


def test_the_subset_is_what_has_captions(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (files / "pred.json").write_text(json.dumps({"3": "two men", "1": "a dog runs"}))
    assert main(["pred.json", "refs.json"]) == 2
    assert capsys.readouterr().err == (
        'captune_metrics: pred.json: no caption for image "=2" of refs.json; score the 2 that have'
        " one with --subset\n"
    )
    assert main(["pred.json", "refs.json", "--subset"]) == 0
    assert "\n2 of 3 images\n" in capsys.readouterr().out
    found = printed(capsys, "--subset", "--per-image", "each.jsonl")
    assert found["metrics"]["cider"]["name"].endswith(", 2 of 3 images]")
    assert found["metrics"]["cider"]["recipe"]["subset_of"] == 3
    corpus = Corpus({"1": "a dog runs", "3": "two men"}, {i: REFERENCES[i] for i in ("1", "3")})
    assert found["metrics"]["cider"]["corpus"] == cider_of(corpus).corpus
    rows = [json.loads(line) for line in (files / "each.jsonl").read_text().splitlines()]
    assert [row["image"] for row in rows] == ["1", "3"]
    assert rows[0]["cider"] == cider_of(corpus).per_image["1"]


def test_captions_of_other_images_are_left_out(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = printed(capsys)
    (files / "pred.json").write_text(json.dumps({**PREDICTIONS, "9": "a horse"}))
    found = printed(capsys, "--ignore-extra")
    assert found["metrics"] == expected["metrics"]
    assert 'left out, without references: image "9"' in found["notes"]


def test_a_row_an_image(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed(capsys, "--per-image", "each.csv")
    with (files / "each.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == ["1", "'=2", "3"]
    assert (
        float(rows[0]["bleu_1"])
        == bleu_of(Corpus(PREDICTIONS, REFERENCES))["bleu_1"].per_image["1"]
    )


def test_one_image_has_no_interval(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (files / "pred.json").write_text('{"1": "a dog"}')
    found = printed(capsys, "--subset")
    assert all(metric["interval"] is None for metric in found["metrics"].values())
    assert "every score is 0" in found["notes"][0]


def test_tokens_of_ones_own_are_taken_as_they_are(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (files / "pred.json").write_text('{"1": "Dog, runs"}')
    (files / "refs.json").write_text('{"1": ["dog runs"]}')
    assert printed(capsys, "--metrics", "bleu_1")["metrics"]["bleu_1"]["corpus"] > 0.99
    found = printed(capsys, "--metrics", "bleu_1", "--tokenizer", "none")["metrics"]["bleu_1"]
    assert found["corpus"] == pytest.approx(0.5)
    assert found["recipe"]["tokenizer"] == "none"


@pytest.mark.parametrize(
    ("pred", "words", "says"),
    [
        ('{"1": "a", "9": "b"}', [], 'refs.json has no references for image "9"; leave it out'),
        ('{"9": "b"}', [], 'none of its images is in refs.json: it has "9", the references have'),
        ('{"1": ["a", "b"]}', [], 'one caption per image, but image "1" has several; are PRED and'),
        ('{"1": 7}', [], 'pred.json: image "1": expected a caption or a list of captions'),
        ('{"1": []}', [], 'pred.json: no caption for image "1"; take it out or give one'),
        ("[]", [], "pred.json: there are no captions in it"),
        ("{}", [], "pred.json: there are no captions in it"),
        ("7", [], "pred.json: expected an object or a list of captions"),
        ('[{"image_id": 1}]', [], "pred.json: entry 1 has no caption"),
        ("a dog", [], "pred.json is not JSON (line 1, column 1"),
        (None, [], "pred.json cannot be read (no such file or directory)"),
        ('{"1": "a"}', ["--metrics", "spice"], 'metric "spice" is not known; choose among bleu'),
        ('{"1": "a"}', ["--metrics", ","], '--metrics "," names no metric'),
        ('{"1": "a"}', ["--metrics", "clipscore"], "clipscore needs a model, which captune score"),
        ('{"1": "a"}', ["--df", "mine.gz"], '--df "mine.gz" is not a file'),
        ('{"1": "a"}', ["--per-image", "a.xlsx"], "a.xlsx: expected a name in .csv or .jsonl"),
        ('{"1": "a"}', ["--per-image", "no/a.csv", "--subset"], "no/a.csv cannot be written (No"),
    ],
)
def test_what_cannot_be_scored_is_one_sentence_and_status_2(
    files: Path,
    capsys: pytest.CaptureFixture[str],
    pred: str | None,
    words: list[str],
    says: str,
) -> None:
    (files / "pred.json").unlink()
    if pred is not None:
        (files / "pred.json").write_text(pred)
    assert main(["pred.json", "refs.json", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err
    assert err.startswith("captune_metrics: ")
    assert err.count("\n") == 1


@pytest.mark.skipif(os.name == "nt", reason="Windows has no named pipes in folders")
@pytest.mark.parametrize("place", ["pipe", "zero", "socket", "folder", "huge", "sparse"])
@pytest.mark.parametrize("which", ["pred.json", "refs.json", "--df"])
def test_whatever_lies_in_the_place_of_a_file_is_one_sentence_at_once(
    files: Path, capsys: pytest.CaptureFixture[str], place: str, which: str
) -> None:
    strange = files / "strange"
    if place == "pipe":
        os.mkfifo(strange)
    elif place == "zero":
        strange.symlink_to("/dev/zero")
    elif place == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("strange")  # its whole path may be longer than a socket's can be
    elif place == "folder":
        strange.mkdir()
    else:
        with strange.open("wb") as file:
            file.truncate(2**40 if place == "huge" else 2**28)
    words = {"pred.json": "pred.json", "refs.json": "refs.json"} | {which: "strange"}
    df = ["--df", words["--df"]] if "--df" in words else []
    assert main([words["pred.json"], words["refs.json"], *df]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "strange" in err
    assert err.count("\n") == 1


@pytest.mark.needs("linux")
@pytest.mark.usefixtures("files")
def test_nobody_has_to_read_and_a_full_disk_is_a_sentence() -> None:
    words = [sys.executable, "-m", "captune_metrics", "pred.json", "refs.json", "--no-interval"]
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as gone, Path("/dev/full").open("w") as full:
        ends = [
            subprocess.run(words, stdout=out, stderr=subprocess.PIPE, text=True)
            for out in (gone, full)
        ]
    assert [end.returncode for end in ends] == [0, 2]
    assert "Traceback" not in ends[0].stderr
    assert ends[1].stderr == (
        "captune_metrics: the scores could not be printed (No space left on device)\n"
    )


@pytest.mark.needs("linux")
def test_scores_of_images_are_written_whole_or_not_at_all(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (files / "each.csv").write_text("earlier")
    (files / "link.csv").symlink_to("each.csv")
    with no_larger_files(10):
        status = main(["pred.json", "refs.json", "--per-image", "each.csv"])
    assert status == 2
    assert "each.csv cannot be written (File too large)" in capsys.readouterr().err
    assert (files / "each.csv").read_text() == "earlier"
    assert not [*files.glob(".*")]
    printed(capsys, "--per-image", "link.csv")
    assert (files / "link.csv").is_symlink()
    assert (files / "each.csv").read_text().startswith("image,")


@pytest.mark.needs("hatchling")
def test_the_wheel_scores_in_an_environment_without_captune(files: Path) -> None:
    """Built, installed and run; numpy and rapidfuzz are those of this environment."""
    quiet = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-index"]
    build = ["wheel", *quiet, "--no-build-isolation", "--wheel-dir", "dist", str(PROJECT)]
    subprocess.run([sys.executable, "-m", "pip", *build], check=True)
    (wheel,) = Path("dist").glob("captune_metrics-*.whl")
    assert wheel.stat().st_size < 2_000_000
    names = zipfile.ZipFile(wheel).namelist()
    assert {"captune_metrics/py.typed", "captune_metrics/coco-val2017.tsv.gz"} <= set(names)
    about = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = [need.partition(">")[0] for need in about["dependencies"]]
    assert needed == ["numpy", "rapidfuzz"]

    venv.create("bare", with_pip=False)
    python = Path("bare", *(("Scripts", "python.exe") if os.name == "nt" else ("bin", "python")))
    pip = [sys.executable, "-m", "pip", "--python", str(python.absolute())]
    subprocess.run([*pip, "install", *quiet, str(wheel)], check=True)
    where = [str(python), "-I", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = Path(subprocess.run(where, check=True, capture_output=True, text=True).stdout.strip())
    for name in needed:
        home = Path(__import__(name).__file__ or "").parent
        for folder in (home, home.with_name(f"{name}.libs")):
            if folder.is_dir():
                (site / folder.name).symlink_to(folder, target_is_directory=True)

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([python, "-I", *words], capture_output=True, text=True, timeout=120)

    assert run("-c", "import captune").returncode != 0
    assert run("-c", "import torch").returncode != 0
    done = run("-m", "captune_metrics", "pred.json", "refs.json", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["metrics"]["cider"]["corpus"]
    assert found == cider_of(Corpus(PREDICTIONS, REFERENCES)).corpus
