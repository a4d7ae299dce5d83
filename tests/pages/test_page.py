from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from tests.hostile.run_folders import sign_again
from tests.pages.page_reader import outline
from tests.report_runs import (
    HOSTILE,
    HOSTILE_NAME,
    caption_run,
    change,
    classify_run,
    compare_run,
    images,
    score_run,
    tune_run,
)

from captune.cli import main
from captune.errors import UserError
from captune.pages.checking import check_page
from captune.pages.page import write_report
from captune.pages.sources import PageSettings
from captune.pages.thumbnails import BUDGET_BYTES, Album, Picture
from captune.runs import RunWriter, read_run
from captune_metrics.display import printable

NAMES = [HOSTILE_NAME, *(f"a/{n}.jpg" for n in range(7))]
CAPTIONS = {name: f"{HOSTILE} number {i}" for i, name in enumerate(NAMES)}


@pytest.fixture
def runs(tmp_path: Path) -> dict[str, Path]:
    """A run of every job on the same hostile images."""
    root = images(tmp_path / "images", NAMES)
    other = {name: f"another {i}" for i, name in enumerate(NAMES)}
    captions = caption_run(tmp_path / "captions", root, CAPTIONS)
    return {
        "classify": classify_run(tmp_path / "classify", root, NAMES),
        "tune": tune_run(tmp_path / "tune", root, {"adapter": CAPTIONS, "lora": other}),
        "caption": captions,
        "score": score_run(tmp_path / "score", root, CAPTIONS, candidates=str(captions)),
        "compare": compare_run(tmp_path / "compare", root, CAPTIONS, other),
    }


def page_of(runs: list[Path], out: Path, **settings: Any) -> Path:
    write_report(runs, out, PageSettings(**settings))
    return out


def test_every_text_of_a_run_is_text(runs: dict[str, Path], tmp_path: Path) -> None:
    page = page_of([*runs.values()], tmp_path / "page.html")
    parsed = outline(page)
    assert parsed.handlers == []
    assert not {"b", "i1", "iframe", "link", "object", "embed", "form"} & set(parsed.tags)
    kinds = [kind for kind, _ in parsed.scripts]
    assert kinds.count(None) == 1, "one script, ours"
    assert set(kinds) == {None, "application/json", "text/plain"} - (
        set() if "text/plain" in kinds else {"text/plain"}
    )
    assert HOSTILE_NAME in parsed.words
    assert "</script><script>alert(2)</script>" in parsed.words
    assert "red <i>one</i>" in parsed.words
    assert "{{ 7*7 }}" in parsed.words
    gallery = next(text for kind, text in parsed.scripts if '"lines"' in text)
    assert HOSTILE_NAME in json.dumps(json.loads(gallery)).replace('\\"', '"')
    assert "<" not in gallery


def test_the_page_fetches_nothing_and_runs_only_its_own_script(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    page = page_of([*runs.values()], tmp_path / "page.html")
    parsed = outline(page)
    assert all(load.startswith("data:image/jpeg;base64,") for load in parsed.loads)
    assert all(link.startswith("#") for link in parsed.links)
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"url\(|@import|https?://", text)
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)
    assert policy is not None
    assert "default-src 'none'" in policy[1]
    (script,) = [text for kind, text in parsed.scripts if kind is None]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy[1]
    assert len(parsed.ids) == len(set(parsed.ids))


def test_the_answer_comes_first_with_numbers_and_intervals(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    words = outline(page_of([*runs.values()], tmp_path / "page.html")).words
    assert "lite recognises 6 of 8 images" in words
    assert "75.0 % 95 % interval 40.9 % to 92.9 %" in words
    assert "Of 2 methods, lora has the highest CIDEr-D and is kept: CIDEr-D 0.326" in words
    assert "Significantly worse: adapter (−0.100, p 0.0" in words
    assert words.index("lite recognises") < words.index("Hardest images")


def test_answers_stand_in_the_order_of_the_sections(runs: dict[str, Path], tmp_path: Path) -> None:
    first, last = runs["score"], runs["classify"]
    report = write_report([first, last], tmp_path / "page.html", PageSettings())
    assert [part.title for part in report.sections][:2] == ["Recognition", "Captions"]
    assert str(report.answers[0][0]).startswith("lite recognises")
    assert report.title == "Recognition and captions on 8 images"
    few = classify_run(tmp_path / "few", runs["classify"].parent, ["a/1.jpg", "b.jpg"])
    title = write_report([first, few, last], tmp_path / "page.html", PageSettings()).title
    assert title == "Recognition and captions on 8 images"  # of two runs the larger one
    title = write_report([first, few], tmp_path / "page.html", PageSettings()).title
    assert title == "Recognition on 2 images; captions on 8 images"


def test_sections_show_what_each_job_found(runs: dict[str, Path], tmp_path: Path) -> None:
    words = outline(page_of([*runs.values()], tmp_path / "page.html")).words
    for part in (
        "Most frequent confusions",
        "How far to believe its probabilities",
        "Hardest images Wrong answers, the surest first.",
        "Methods",
        "Trained parameters by part",
        "Best and worst: lora",
        "B furthest ahead by CIDEr-D",
        "All captions",
        "How to make this again",
        "captune verify",
        "not an image: text",
    ):
        assert part in words, part


def test_a_score_run_of_captions_on_the_page_adds_to_them(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    page = page_of([runs["caption"], runs["score"]], tmp_path / "page.html")
    gallery = next(json.loads(t) for kind, t in outline(page).scripts if '"lines"' in t)
    assert gallery["tags"] == ["captions"]
    caption = printable(CAPTIONS["a/0.jpg"])
    assert gallery["items"][1]["lines"] == [[0, caption, {"CIDEr-D": 0.25}]]
    labels = [sort["label"] for sort in gallery["sorts"]]
    assert "CIDEr-D: best first" in labels
    assert "log-probability per token: best first" in labels


def test_each_image_is_in_the_file_once_or_on_cards(runs: dict[str, Path], tmp_path: Path) -> None:
    text = page_of([runs["caption"]], tmp_path / "page.html", top=1).read_text()
    cards = set(re.findall(r'<img[^>]* data-image="(\d+)"', text))
    loose = re.findall(r'class="image-data" data-image="(\d+)"', text)
    assert len(loose) == len(set(loose))
    assert cards.isdisjoint(loose)
    assert len(cards) + len(loose) == len(NAMES)


def test_images_that_are_gone_or_outside_are_named(runs: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "images" / "a" / "0.jpg").unlink()
    images(tmp_path, ["private.jpg"])
    records = runs["classify"] / "records.jsonl"
    records.write_text(records.read_text().replace('"a/1.jpg"', '"../private.jpg"'))
    sign_again(runs["classify"])
    report = write_report([runs["classify"]], tmp_path / "page.html", PageSettings())
    reasons = {Path(path).name: reason for path, reason in report.album.missing.items()}
    assert reasons["0.jpg"] == "no such file"
    assert "leaves the folder" in reasons["private.jpg"]
    assert len(report.album.pictures) == 8
    assert sum(bool(one.uri) for one in report.album.pictures) == 6


def test_a_gallery_holds_the_first_images_and_says_so(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    page = page_of([runs["classify"]], tmp_path / "page.html", limit=3)
    parsed = outline(page)
    gallery = next(json.loads(text) for kind, text in parsed.scripts if '"bars"' in text)
    assert len(gallery["items"]) == 3
    assert "The first 3 of 8" in parsed.words


def test_without_truth_nothing_is_called_right(tmp_path: Path) -> None:
    root = images(tmp_path / "images", NAMES)
    run = classify_run(tmp_path / "run", root, NAMES, known=False)
    words = outline(page_of([run], tmp_path / "page.html")).words
    assert "without a truth nothing is known of how often it is right" in words
    assert "Where it goes wrong" not in words
    assert "Images whose first two answers are closest together" in words


def test_the_methods_of_a_tune_that_moved_are_not_needed(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    for method in ("adapter", "lora"):
        (runs["tune"] / method / "run.json").unlink()
    words = outline(page_of([runs["tune"]], tmp_path / "page.html")).words
    assert "Of 2 methods, lora has the highest" in words
    assert "vs. best" in words
    assert "Significantly worse: adapter (−0.100, p 0.0" in words


def test_a_method_alone_is_a_tune(runs: dict[str, Path], tmp_path: Path) -> None:
    words = outline(page_of([runs["tune"] / "lora"], tmp_path / "page.html")).words
    assert "Tuned with lora: 1,500 trained parameters give CIDEr-D 0.326" in words


def test_a_captioner_that_repeats_itself_is_not_praised(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    file = runs["tune"] / "metrics.json"
    metrics = json.loads(file.read_text())
    said = "90.0 % of the captions repeat themselves or do not end"
    for method in metrics["methods"]:
        method["findings"] = [
            {
                "about": "repetition",
                "figure": 0.9,
                "sentence": said,
                "wrong": True,
                "is_fatal": True,
            }
        ]
    file.write_text(json.dumps(metrics))
    words = outline(page_of([runs["tune"]], tmp_path / "page.html")).words
    assert f"methods is usable, whatever their scores; of lora, {said}." in words
    assert "is kept" not in words
    assert "vs. best" not in words


def test_where_all_images_score_the_same_none_is_the_best(tmp_path: Path) -> None:
    root = images(tmp_path / "images", NAMES)
    scores = {"cider": [float(i) for i in range(len(NAMES))], "bleu_4": [0.0] * len(NAMES)}
    run = score_run(tmp_path / "score", root, CAPTIONS, scores=scores)
    words = outline(page_of([run], tmp_path / "page.html")).words
    assert "Best by CIDEr-D" in words
    assert "Best by BLEU-4" not in words
    assert "BLEU-4: all 8 images have the same score: there is no best and no worst" in words


def test_what_is_not_usable_is_never_the_best(runs: dict[str, Path], tmp_path: Path) -> None:
    """A tune of which one method repeats itself, and scores of that method's captions."""
    tune, folder = runs["tune"], str(runs["tune"] / "adapter")
    bad = [
        {
            "about": "repetition",
            "figure": 0.9,
            "sentence": "they repeat",
            "wrong": True,
            "is_fatal": True,
        }
    ]
    change(tune, "metrics.json", "methods", 0, "findings", value=bad)
    change(tune / "adapter", "metrics.json", "tuned", "findings", value=bad)
    change(runs["score"], "metrics.json", "inputs", "candidates", "path", value=folder)
    weights = b"of adapter"
    (tune / "adapter" / "model.safetensors").write_bytes(weights)
    digest = hashlib.sha256(weights).hexdigest()
    change(runs["caption"], "run.json", "models", 0, "weights_id", value=digest)
    page = page_of([tune, runs["caption"], runs["score"]], tmp_path / "page.html")
    words = outline(page).words
    assert "captions has captions that are not usable, whatever their scores. The captio" in words
    assert "adapter (−0.100" not in words  # neither worse nor better than what is usable
    assert "vs. best" not in words  # one is left
    assert "score has captions that are not usable, whatever their scores. The captions" in words
    assert "score, not usable" in words  # in the table of scores
    assert "Scores: adapter, not usable" in words
    assert "Best and worst: adapter" not in words
    assert words.index("Best and worst: lora") < words.index("Scores: adapter, not usable")
    assert "adapter, not usable: best first" not in page.read_text(encoding="utf-8")
    cards = page.read_text(encoding="utf-8").partition("Scores: adapter, not usable")[2]
    assert 'class="image good"' not in cards.partition("All captions")[0]


def test_a_method_beside_its_tune_comes_along_with_it(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    both = [runs["tune"] / "lora", runs["tune"]]
    report = write_report(both, tmp_path / "page.html", PageSettings())
    assert [source.name for source in report.runs.sources] == ["tune", "adapter", "lora"]
    assert [part.title for part in report.sections][:2] == ["Tuning", "Captions"]


def test_prompts_are_compared(colours: Any, colour_images: Path, tmp_path: Path) -> None:
    words = ["--labels", '{"7": "red", "8": "green", "9": "blue"}', "--truth", "from-name"]
    labels = tmp_path / "labels.json"
    labels.write_text(words[1])
    words[1] = str(labels)
    run = tmp_path / "prompts"
    assert main(["prompts", str(colour_images), *words, "--out", str(run)]) == 0
    told = outline(page_of([run], tmp_path / "page.html")).words
    assert "does best: 100.0 % of 6 images" in told
    assert "points vs. best" in told
    assert "Does it understand “not”?" in told
    assert check_page(tmp_path / "page.html").differing == []
    (run / "records.jsonl").write_text("")
    assert "does best" in outline(page_of([run], tmp_path / "page.html")).words
    assert "its records give 0" in check_page(tmp_path / "page.html").differing[0]
    words[3] = str(tmp_path / "truth.csv")
    names = sorted(path.name for path in colour_images.iterdir())[:2]
    rows = ["filename,label", *(f"{name},{name[0]}" for name in names)]
    (tmp_path / "truth.csv").write_text("\n".join(rows))
    assert main(["prompts", str(colour_images), *words, "--out", str(run)]) == 0
    told = outline(page_of([run], tmp_path / "page.html")).words
    assert "does best: 100.0 % of 2 images" in told  # and not of all six
    assert check_page(tmp_path / "page.html").differing == []


def test_a_prompt_that_is_significantly_worse_has_a_colour_of_its_own(
    colours: Any, colour_images: Path, tmp_path: Path
) -> None:
    labels, run = tmp_path / "labels.json", tmp_path / "prompts"
    labels.write_text('{"7": "red", "8": "green", "9": "blue"}')
    words = ["--labels", str(labels), "--truth", "from-name", "--out", str(run)]
    assert main(["prompts", str(colour_images), *words]) == 0
    _best, *others = sorted(
        range(3), key=lambda i: i != json.loads((run / "metrics.json").read_text())["best"]
    )
    for row, p in zip(others, (0.01, 0.6), strict=True):
        change(run, "metrics.json", "prompts", row, "p_holm", value=p)
    page = page_of([run], tmp_path / "page.html").read_text(encoding="utf-8")
    strips = re.findall(r'class="strip( best| worse)?"', page)
    assert (strips.count(" best"), strips.count(" worse")) == (1, 1)
    assert "" in strips
    assert "Green: the best; orange: significantly worse." in page


def test_models_of_one_name_are_told_apart(runs: dict[str, Path], tmp_path: Path) -> None:
    for name, digit, key in (("caption", "1", "bridge"), ("score", "2", "decoder_id")):
        model = {"spec": "lite", "weights_id": digit * 64, key: "x"}
        change(runs[name], "run.json", "models", value=[model])
    told = outline(page_of([*runs.values()], tmp_path / "page.html")).words
    for used, digit in (("encoder", "ab"), ("captioner", "11"), ("language model", "22")):
        assert f"lite {used} {digit}" in told


@pytest.mark.parametrize(
    ("break_it", "told"),
    [
        (
            lambda run: (run / "records.jsonl").write_text("[]\n"),
            "line 1 is a list, and an object was expected",
        ),
        (lambda run: (run / "records.jsonl").write_text('{"path": "x"}\n'), "line 1"),
        (lambda run: (run / "metrics.json").write_text('{"images": 8}'), "damaged"),
        (lambda run: (run / "metrics.json").unlink(), "not a finished run"),
    ],
)
def test_a_damaged_run_is_one_sentence(
    runs: dict[str, Path], tmp_path: Path, break_it: Any, told: str
) -> None:
    break_it(runs["classify"])
    with pytest.raises(UserError, match=told):
        page_of([runs["classify"]], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_a_run_twice_and_a_strange_kind_are_refused(runs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="given twice"):
        page_of([runs["score"], runs["score"]], tmp_path / "page.html")
    from tests.report_runs import Options

    with RunWriter(tmp_path / "odd", kind="baking", options=Options(), root=tmp_path) as run:
        run.metrics = {"images": 1}
    with pytest.raises(UserError, match="captune baking, of which this captune's report knows"):
        page_of([tmp_path / "odd"], tmp_path / "page.html")


def test_two_runs_of_a_name_are_told_apart(tmp_path: Path) -> None:
    root = images(tmp_path / "images", NAMES)
    runs = [classify_run(tmp_path / side / "run", root, NAMES) for side in ("one", "two")]
    words = outline(page_of(runs, tmp_path / "page.html")).words
    assert "Recognition: one/run" in words
    assert "Recognition: two/run" in words


def test_the_same_runs_give_the_same_page(runs: dict[str, Path], tmp_path: Path) -> None:
    pages = [page_of([*runs.values()], tmp_path / "page.html").read_bytes() for _ in range(2)]
    assert pages[0] == pages[1]


def test_two_thousand_images_stay_below_30_mb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tenth of them, of noise that no JPEG makes small, in a tenth of the room."""
    import numpy as np
    from PIL import Image

    names = [f"{n}.jpg" for n in range(200)]
    root = tmp_path / "images"
    root.mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (36, 48, 3), dtype=np.uint8)
    noise = Image.fromarray(pixels).resize((320, 240), Image.Resampling.BICUBIC)
    noise.save(root / names[0], quality=90)
    for name in names[1:]:
        (root / name).symlink_to(names[0])
    long = " ".join(["caption"] * 20)
    captions = {name: f"{long} {name}" for name in names}
    scored = score_run(tmp_path / "score", root, captions)
    monkeypatch.setattr("captune.pages.thumbnails.BUDGET_BYTES", BUDGET_BYTES // 10)
    page = page_of([scored], tmp_path / "page.html")
    assert page.stat().st_size < 3_000_000
    assert page.read_text().count("data:image/jpeg;base64,") == 9  # 8 cards, and the script's own
    assert page.read_text().count('class="image-data"') == 192


def test_pictures_become_smaller_until_they_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{n}.jpg" for n in range(6)]
    root = images(tmp_path / "images", names, width=200, height=150)
    run = read_run(classify_run(tmp_path / "run", root, names))

    def sizes(budget: int) -> list[Picture]:
        monkeypatch.setattr("captune.pages.thumbnails.BUDGET_BYTES", budget)
        album = Album()
        for n in range(6):
            album.picture(run, f"{n}.jpg")
        album.encode()
        return album.pictures

    large = sum(len(one.data) for one in sizes(10**7))
    small = sum(len(one.data) for one in sizes(large // 2))
    assert 0 < small <= large // 2
    assert sum(len(one.data) for one in sizes(1)) > 0  # the smallest, however large
