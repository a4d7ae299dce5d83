"""`captune compare` as a user runs it, on captions of our own."""

from __future__ import annotations

import csv
import json
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from captune.cli import main
from captune.runs import read_run

ANIMALS, PLACES = ("cat", "dog", "cow", "horse", "bird"), ("mat", "sofa", "field", "stone road")


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Forty images: A has one caption of three wrong, B one of six."""
    chance = random.Random(0)
    images = {
        f"{i:03d}": (ANIMALS[i % 5], PLACES[i // 5 % 4], ("black", "white")[i // 20])
        for i in range(40)
    }
    references = {
        id: [f"a {colour} {animal} on a {place}", f"one {animal}, {colour}, sits on the {place}"]
        for id, (animal, place, colour) in images.items()
    }

    def captions(wrong: int) -> dict[str, str]:
        return {
            id: "a photo of something" if chance.randrange(wrong) == 0 else f"a {c} {a} on the {p}"
            for id, (a, p, c) in images.items()
        }

    content = {"a": captions(3), "b": captions(6), "references": references}
    content["part"] = {id: content["a"][id] for id in list(images)[:30]}
    found = {}
    for name, value in content.items():
        found[name] = tmp_path / f"{name}.json"
        found[name].write_text(json.dumps(value))
    return found


def compare(files: dict[str, Path], a: str, b: str, *more: str) -> list[str]:
    words = ["compare", str(files[a]), str(files[b]), "--references", str(files["references"])]
    return [*words, "--resamples", "500", *more]


def test_a_person_reads_table_images_and_verdicts(
    files: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(compare(files, "a", "b")) == 0
    out = capsys.readouterr().out
    assert "40 images" in out
    for title in ("BLEU-4", "ROUGE-L", "CIDEr-D"):
        assert title in out
    assert "B is furthest ahead of A in CIDEr-D" in out
    assert "a photo of something" in out
    assert "With each number its 95 %" in out
    assert "40 images are enough to detect" in out
    # a number and its interval stand in one piece
    assert any("CIDEr-D" in line and line.count("[") == 3 for line in out.splitlines())


def test_json_is_one_object_with_everything(
    files: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(compare(files, "a", "b", "--json", "--top", "2", "--metrics", "cider,bleu")) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert (found["command"], found["run"], found["images"]) == ("compare", None, 40)
    assert found["skipped"] == []
    assert list(found["metrics"]) == ["cider", "bleu_1", "bleu_2", "bleu_3", "bleu_4"]
    cider = found["metrics"]["cider"]
    assert cider["difference"] == cider["b"]["corpus"] - cider["a"]["corpus"]
    assert cider["interval"][0] < cider["difference"] < cider["interval"][1]
    assert sum(cider["images"].values()) == 40
    assert set(found["verdicts"]) == set(found["metrics"])
    ahead = found["differences"]["cider"]["b_better"]
    assert len(ahead) == 2
    assert ahead[0]["difference"] >= ahead[1]["difference"] > 0
    assert ahead[0]["a"]["caption"] == "a photo of something"
    assert len(ahead[0]["references"]) == 2
    assert captured.err == ""


def test_run_folder_csv_and_figures(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, table = tmp_path / "run", tmp_path / "both.csv"
    words = compare(files, "a", "b", "--out", str(out), "--csv", str(table), "--json")
    words += ["--metrics", "cider,bleu_4,rouge_l"]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    run = read_run(out)
    assert run.kind == "compare"
    records = list(run.records())
    assert [record["image"] for record in records] == [f"{i:03d}" for i in range(40)]
    assert set(records[0]) == {"image", "path", "references", "a", "b"}
    assert run.metrics["metrics"] == found["metrics"]
    assert run.metrics["inputs"]["a"]["candidates"]["sha256"]
    assert run.metrics["recipes"]["cider"]["sigma"] == 6.0
    rows = list(csv.DictReader(table.open()))
    assert len(rows) == 40
    assert float(rows[3]["cider_b"]) == records[3]["b"]["scores"]["cider"]
    mean = sum(float(row["rouge_l_a"]) for row in rows) / 40
    assert mean == pytest.approx(found["metrics"]["rouge_l"]["a"]["corpus"])
    figures = {path.name for path in (out / "plots").iterdir()}
    assert {"differences.png", "images-cider.png", "images-bleu_4.png"} <= figures


def test_the_same_file_twice(files: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(compare(files, "a", "a", "--metrics", "cider")) == 0
    out = capsys.readouterr().out
    assert "A and B are the same file (40 images)" in out
    assert "furthest ahead" not in out


def test_one_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {name: tmp_path / f"{name}.json" for name in ("a", "b", "references")}
    for name, content in (("a", "a cat"), ("b", "a dog"), ("references", ["a cat", "one cat"])):
        files[name].write_text(json.dumps({"1": content}))
    words = compare(files, "a", "b", "--metrics", "rouge_l", "--out", str(tmp_path / "run"))
    assert main(words) == 0
    assert "on one image, which says nothing about others" in capsys.readouterr().out
    assert not (tmp_path / "run" / "plots" / "differences.png").exists()


def test_missing_images_are_an_error_unless_allowed(
    files: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(compare(files, "a", "part")) == 2
    assert "10 images" in capsys.readouterr().err
    assert main(compare(files, "a", "part", "--allow-missing", "--json")) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert found["images"] == 40
    assert found["metrics"]["cider"]["images"]["b_better"] == 0
    assert any("empty caption" in note for note in found["notes"])


def test_a_subset_is_the_images_of_both(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rest = tmp_path / "rest.json"
    captions = json.loads(files["b"].read_text())
    rest.write_text(json.dumps({f"{id}.jpg": captions[id] for id in list(captions)[20:]}))
    files["rest"] = rest
    out = tmp_path / "run"
    words = compare(files, "part", "rest", "--metrics", "rouge_l", "--subset")
    assert main([*words, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "\n10 of 40 images, " in said
    assert "recipes: ROUGE-L[ptb, beta=1.2, 10 of 40 images]\n" in said
    assert [record["image"] for record in read_run(out).records()] == [
        f"{i:03d}" for i in range(20, 30)
    ]
    assert main(["verify", str(out)]) == 0
    for name, ids in (("x", ["000"]), ("y", ["001"])):
        files[name] = tmp_path / f"{name}.json"
        files[name].write_text(json.dumps({id: captions[id] for id in ids}))
    assert main(compare(files, "x", "y", "--subset")) == 2
    assert "A and B have no image in common" in capsys.readouterr().err


def test_the_answer_comes_first_then_the_table_then_examples(
    files: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(compare(files, "a", "b", "--metrics", "rouge_l")) == 0
    out = capsys.readouterr().out
    first = out.partition("\n")[0]
    assert re.fullmatch(r"(B is better than A by|No difference between A and B was) .*\.", first)
    order = [out.index(text) for text in ("B / A / equal", "recipes: ", "furthest ahead")]
    assert order == sorted(order)


def test_samples_of_evaluations_are_captions_and_references(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    captions, references = (json.loads(files[name].read_text()) for name in ("a", "references"))
    rows = [
        {
            "doc_id": i,
            "doc": {"question_id": f"COCO_val2014_{int(id):012d}.jpg", "id": 900 + i},
            "target": str(references[id]),
            "resps": [[caption]],
            "filtered_resps": [caption],
            "coco_CIDEr": {"answer": references[id], "pred": caption, "image_id": int(id)},
        }
        for i, (id, caption) in enumerate(captions.items())
    ]
    samples = tmp_path / "1_samples_coco.jsonl"
    samples.write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[-1]]))
    words = ["--references", str(samples), "--metrics", "cider", "--json"]
    scores = []
    for candidates in (samples, files["a"]):
        assert main(["score", str(candidates), *words]) == 0
        scores.append(json.loads(capsys.readouterr().out)["metrics"])
    assert scores[0] == scores[1]
    assert main(["compare", str(samples), str(files["b"]), *words]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 40


def test_the_recipe_says_which_side_misses_images(
    files: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--metrics", "rouge_l", "--allow-missing"]
    assert main(compare(files, "a", "part", *words)) == 0
    assert (
        "recipes: A ROUGE-L[ptb, beta=1.2], B ROUGE-L[ptb, beta=1.2, 10 missing]"
        in capsys.readouterr().out
    )
    assert main(compare(files, "a", "b", *words)) == 0
    assert "recipes: ROUGE-L[ptb, beta=1.2]\n" in capsys.readouterr().out


def test_sides_that_only_the_references_join(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = {139: "dog.jpg", 285: "cat.jpg", 632: "bed.jpg"}
    captions = {139: "a dog runs", 285: "a cat sleeps", 632: "a bed in a room"}
    coco = {
        "images": [{"id": id, "file_name": name} for id, name in images.items()],
        "annotations": [{"image_id": id, "caption": text} for id, text in captions.items()],
    }
    results = [{"image_id": id, "caption": text} for id, text in captions.items()]
    stems = {"bed": "a room", "dog": "a dog runs", "cat": "a horse"}
    files = {"a": results, "b": stems, "references": coco, "fewer": {"bed": "a bed in a room"}}
    paths = {name: tmp_path / f"{name}.json" for name in files}
    for name, content in files.items():
        paths[name].write_text(json.dumps(content))
    for a, b in (("a", "b"), ("b", "a")):
        assert main(compare(paths, a, b, "--metrics", "rouge_l", "--json")) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["images"] == 3
        assert found["changed_captions"] == 2
    words = ["--metrics", "rouge_l", "--json", "--allow-missing"]
    for a, b in (("a", "fewer"), ("fewer", "a"), ("b", "fewer")):
        assert main(compare(paths, a, b, *words)) == 0
        assert json.loads(capsys.readouterr().out)["images"] == 3


@pytest.mark.parametrize(
    ("metrics", "title"),
    [
        *(("bleu", "BLEU-4"), ("bleu,rouge_l", "BLEU-4"), ("rouge_l,bleu", "ROUGE-L")),
        *(("bleu_2,bleu_1", "BLEU-2"), ("bleu,cider", "CIDEr-D")),
    ],
)
def test_images_are_shown_by_the_metric_that_says_most(
    files: dict[str, Path], capsys: pytest.CaptureFixture[str], metrics: str, title: str
) -> None:
    assert main(compare(files, "a", "b", "--metrics", metrics)) == 0
    assert f"B is furthest ahead of A in {title}" in capsys.readouterr().out


def test_names_paths_and_captions_are_printed_as_they_are(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = tmp_path / "[b] :dog: \x1b[2J [/b].json"
    captions = json.loads(files["b"].read_text())
    odd.parent.mkdir(parents=True)
    odd.write_text(json.dumps({id: f"{text} [/b] :cat: [red]" for id, text in captions.items()}))
    table = tmp_path / "[/b] \x1b[2J.csv"
    words = compare({**files, "odd": odd}, "odd", "a", "--metrics", "rouge_l", "--csv", str(table))
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "[b] :dog: \\x1b[2J [/b].json" in out
    assert "[/b] \\x1b[2J.csv" in out
    assert "[/b] :cat: [red]" in out


def test_blanks_around_captions_are_not_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {}
    for name, caption in {"a": " a dog\n", "b": "a cat\t", "references": "a cat sits\n\n"}.items():
        files[name] = tmp_path / f"{name}.json"
        files[name].write_text(json.dumps({"one": caption, "two": "a red bus"}))
    assert main(compare(files, "a", "b", "--metrics", "rouge_l")) == 0
    out = capsys.readouterr().out
    assert "a cat sits" in out
    assert "\\n" not in out
    assert "\\t" not in out


@pytest.mark.parametrize(
    "more",
    [
        ["--csv", "{a}"],
        ["--csv", "{references}"],
        ["--out", "{out}", "--csv", "{out}/records.jsonl"],
        ["--out", "{out}", "--csv", "{out}"],
    ],
)
def test_outputs_do_not_overwrite_inputs_nor_each_other(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str]
) -> None:
    before = {path: path.read_bytes() for path in files.values()}
    places = {name: str(path) for name, path in files.items()} | {"out": str(tmp_path / "run")}
    assert main(compare(files, "a", "b", *(word.format(**places) for word in more))) == 2
    assert "choose another place" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in files.values()} == before
    assert not (tmp_path / "run").exists()


def test_few_images_are_doubted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {name: tmp_path / f"{name}.json" for name in ("a", "b", "references")}
    for name, text in (("a", "a cat"), ("b", "a dog"), ("references", "a cat runs")):
        files[name].write_text(json.dumps({f"{i}": text for i in range(5)}))
    assert main(compare(files, "a", "b", "--metrics", "rouge_l", "--json")) == 0
    notes = json.loads(capsys.readouterr().out)["notes"]
    assert any("with 5 images the interval is wider in truth" in note for note in notes)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--top", "-1"], "--top must be 0 or more, not -1"),
        (["--metrics", "spice"], "spice"),
        (["--out", "{folder}"], "not a run"),
        (["--csv", "{folder}"], "is a folder"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_sentence(
    files: dict[str, Path], capsys: pytest.CaptureFixture[str], more: list[str], words: str
) -> None:
    more = [word.replace("{folder}", str(files["a"].parent)) for word in more]
    assert main(compare(files, "a", "b", *more)) == 2
    err = capsys.readouterr().err
    assert words in err
    assert "Traceback" not in err


def test_text_metrics_load_no_model_library(files: dict[str, Path]) -> None:
    words = compare(files, "a", "b", "--json")
    code = (
        "import sys; from captune.cli import main; status = main(sys.argv[1:]);"
        "print([name for name in ('torch', 'transformers', 'scipy.stats', 'matplotlib', 'rich',"
        " 'PIL', 'numpy.ma', 'importlib.metadata') if name in sys.modules], file=sys.stderr);"
        " sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=True
    )
    assert done.stderr.strip().splitlines()[-1] == "[]"


@pytest.mark.needs("shared")
def test_two_human_captions_of_real_images_are_not_told_apart(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads((shared / "data/metrics/coco_val2017_references.json").read_text())
    captions: dict[str, list[str]] = {}
    for annotation in content["annotations"]:
        captions.setdefault(str(annotation["image_id"]), []).append(annotation["caption"])
    chosen = dict(list(captions.items())[:400])
    files = {name: tmp_path / f"{name}.json" for name in ("a", "b", "references")}
    files["a"].write_text(json.dumps({id: several[0] for id, several in chosen.items()}))
    files["b"].write_text(json.dumps({id: several[1] for id, several in chosen.items()}))
    files["references"].write_text(json.dumps({id: s[2:] for id, s in chosen.items()}))
    assert main(compare(files, "a", "b", "--json", "--metrics", "cider,rouge_l,bleu_4")) == 0
    found = json.loads(capsys.readouterr().out)
    assert {metric["finding"] for metric in found["metrics"].values()} <= {"unseen", "unsettled"}


def test_a_table_names_the_files(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--metrics", "rouge_l", "--table"]
    assert main(compare(files, "a", "b", *words, "tex")) == 0
    shown = capsys.readouterr().out
    assert r"\caption{a (A) and b (B)}" in shown
    assert "metric & a (A) & b (B) & B $-$ A & " in shown
    # where one name is of two files, what tells them apart is said
    files["other"] = tmp_path / "a.csv"
    captions = json.loads(files["b"].read_text())
    rows = [f"{id},{text}" for id, text in captions.items()]
    files["other"].write_text("\n".join(["image,caption", *rows]))
    assert main(compare(files, "a", "other", *words, "md")) == 0
    assert "| metric | a.json (A) | a.csv (B) |" in capsys.readouterr().out


def test_more_than_two_are_held_against_the_best(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    references = json.loads(files["references"].read_text())
    best = tmp_path / "best.json"
    best.write_text(json.dumps({f"{id}.jpg": said[0] for id, said in references.items()}))
    out = tmp_path / "three"
    words = [*compare(files, "a", "b"), "--out", str(out)]
    words.insert(3, str(best))
    assert main([*words, "--metrics", "cider,bleu_4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found["captioners"]) == ["a", "b", "best"]
    assert (found["images"], found["scored"], found["best"]) == (40, 40, "best")
    for name, file in (("a", files["a"]), ("best", best)):
        score = ["score", str(file), "--references", str(files["references"])]
        assert main([*score, "--metrics", "cider", "--resamples", "500", "--json"]) == 0
        alone = json.loads(capsys.readouterr().out)["metrics"]["cider"]
        figures = found["captioners"][name]["scores"]["cider"]
        assert figures["corpus"] == alone["corpus"]
        assert figures["interval"] == pytest.approx(alone["interval"])
    assert main(compare(files, "a", "b", "--metrics", "cider", "--json")) == 0
    pair = json.loads(capsys.readouterr().out)["metrics"]["cider"]["b"]
    assert found["captioners"]["b"]["scores"]["cider"]["corpus"] == pair["corpus"]
    gain = found["against_best"]["a"]["cider"]
    assert gain["interval"][0] < gain["difference"] < gain["interval"][1] < 0
    assert gain["p_holm"] < 0.05
    assert found["verdict"][0].startswith("best has the highest CIDEr-D")
    run = read_run(out)
    assert run.kind == "captioners"
    (record, *_) = run.records()
    assert (record["image"], record["references"]) == ("000", references["000"])
    assert record["captions"]["best"]["caption"] == references["000"][0]
    assert main(["verify", str(out)]) == 0
    assert "Where a and b differ most" in (out / "report.html").read_text()
    assert main([*words, "--metrics", "cider"]) == 0
    shown = capsys.readouterr().out
    assert "speed" not in shown
    assert "The others less the best, best" in shown
    figure = f"{found['captioners']['a']['scores']['cider']['corpus']:.3f}"
    assert f"{figure}† [" in shown
    assert "†: significantly different from best, the best by CIDEr-D (p < 0.05" in shown
    for form, mark in (("tex", "$^\\dagger$"), ("md", "†")):
        assert main([*words[:-2], "--metrics", "cider", "--table", form]) == 0
        first, _, second = capsys.readouterr().out.partition("The others less the best")
        assert f"{figure}{mark} " in first
        assert second
    assert main([*words[:-2], "--csv", str(tmp_path / "x.csv")]) == 2
    assert "--csv has columns for A and B alone" in capsys.readouterr().err


def test_more_than_two_on_the_images_of_all(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads(files["a"].read_text())
    last = tmp_path / "last.json"
    last.write_text(json.dumps({id: content[id] for id in list(content)[20:]}))
    words = compare(files, "b", "part", "--metrics", "cider")
    words.insert(3, str(last))
    assert main([*words, "--subset", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["images"], found["scored"]) == (10, 10)
    assert main(words) == 2
    assert "without a candidate" in capsys.readouterr().err
