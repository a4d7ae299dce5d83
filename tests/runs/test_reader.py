"""Anybody's run folder: what is in it is bounded, typed, and blamed by its file, line and field."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZIP_STORED

import numpy as np
import pytest
from tests.hostile.mutations import FILES, TEXTS, npz_of
from tests.hostile.run_folders import (
    CAPTIONS,
    JSON_FILES,
    NAMES,
    good_runs,
    mutations,
    sign_again,
)
from tests.report_runs import change, classify_run, explain_run, images, score_run

from captune.captions import read_captions
from captune.errors import UserError
from captune.json_yaml import convert
from captune.options.scoring import RankOptions
from captune.pages.checking import check_page
from captune.pages.notebook import as_html
from captune.pages.page import write_report
from captune.pages.sources import PageSettings
from captune.runs import DamagedRun, Run, read_run, reader
from captune.runs.kinds import KINDS
from captune.runs.maps import read_maps
from captune.scoring.rank import rank_run

GIGABYTE = 2**30
PLACES = {name: FILES[name] for name in list(FILES)[:9] if name != "cut"} | {
    name: TEXTS[name]
    for name in (
        *("nested 100,000 deep", "a list as deep as Python reads", "nine million lists"),
        "a number of 5,000 digits",
    )
}


@pytest.mark.parametrize("name", JSON_FILES)
@pytest.mark.parametrize("what", PLACES)
def test_nothing_in_the_place_of_a_file_hangs_or_fills_memory(
    tmp_path: Path, name: str, what: str
) -> None:
    root = images(tmp_path / "images", NAMES)
    run = score_run(tmp_path / "run", root, CAPTIONS)
    PLACES[what](run / name)
    start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for look in (
        lambda: write_report([run], tmp_path / "page.html", PageSettings()),
        lambda: _rank(run),
    ):
        told = _refusal_of(look)
        if told is None:
            assert (what, name) == ("empty", "records.jsonl")
        else:
            assert told.startswith((f"{run}: ", f"{run} "))
            assert name in told
    assert time.monotonic() - start < 20
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < GIGABYTE


def _refusal_of(work: Callable[[], object]) -> str | None:
    """What is said where it is refused; one line."""
    try:
        work()
    except UserError as error:
        sentence = str(error)
    else:
        return None
    assert "\n" not in sentence
    return sentence


def _rank(run: Path) -> None:
    try:
        rank_run(RankOptions(run=run))
    except UserError as refusal:
        # without records it is no damaged run, but one without images
        if "none of its 0 images" not in str(refusal):
            raise


def test_a_line_is_read_as_far_as_a_record_goes(tmp_path: Path) -> None:
    """A device or a file without line ends is not read to its end."""
    run = score_run(tmp_path / "run", tmp_path, CAPTIONS)
    with (run / "records.jsonl").open("a") as file:
        file.write('{"image": "' + "x" * reader.LONGEST_LINE + '"}\n')
    records = read_run(run).records()
    assert len([next(records) for _ in NAMES]) == len(NAMES)
    with pytest.raises(DamagedRun, match=r"records\.jsonl is damaged \(line 7 is over 8 MiB\)"):
        next(records)


def test_more_records_than_a_run_has_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = score_run(tmp_path / "run", tmp_path, CAPTIONS)
    monkeypatch.setattr(reader, "MOST_RECORDS", 5)
    with pytest.raises(DamagedRun, match="more than 5 lines"):
        list(read_run(run).records())


@pytest.mark.parametrize(
    ("kind", "name", "keys", "value", "told"),
    [
        ("classify", "metrics.json", ("prompts", 0, "accuracy"), "x", "prompts[0].accuracy: expec"),
        ("classify", "metrics.json", ("labels",), 0, "labels: expected a whole number of at least"),
        (
            "score",
            "metrics.json",
            ("metrics", "cider", "interval"),
            [1],
            "metrics.cider.interval: ",
        ),
        ("score", "metrics.json", ("images",), 10**400, "images: "),
        ("tune", "metrics.json", ("best",), "none", "best is none of the methods"),
        ("tune", "metrics.json", ("methods", 1, "scores"), {"cider": 3}, "methods[1].scores.cider"),
        (
            "tune",
            "metrics.json",
            ("methods", 0, "history", "epochs"),
            [{}],
            "methods[0].history: epochs[0].epoch is not",
        ),
        ("compare", "metrics.json", ("verdicts",), {}, "verdicts is of other metrics"),
        (
            "compare",
            "metrics.json",
            ("metrics", "cider", "a"),
            None,
            "metrics.cider.a: expected an",
        ),
        (
            "explain",
            "metrics.json",
            ("map", "layer"),
            [],
            "map.layer: expected a whole number or no",
        ),
        (
            "faithful",
            "metrics.json",
            ("reports", 0, "rows", 1, "words"),
            -1,
            "reports[0].rows[1].wo",
        ),
        ("caption", "run.json", ("models",), [], "it names no model"),
        ("caption", "run.json", ("root",), "a\0b", "root: expected a text without a zero byte"),
        ("caption", "run.json", ("command", 1), None, "command[1]: expected a text, found nothing"),
    ],
)
def test_a_sentence_names_the_field(
    tmp_path: Path, kind: str, name: str, keys: tuple[str | int, ...], value: Any, told: str
) -> None:
    runs = good_runs(tmp_path)
    change(runs[kind], name, *keys, value=value)
    with pytest.raises(DamagedRun) as refusal:
        read_run(runs[kind])
    sentence = str(refusal.value)
    assert sentence.startswith(f"{runs[kind]}: {name} is damaged ({told}")
    assert sentence.endswith("; make the run again")


@pytest.mark.parametrize(
    ("kind", "line", "told"),
    [
        ("classify", {"path": "a.jpg"}, "line 7: it has no top"),
        ("classify", {"path": "a.jpg", "top": []}, "line 7: top: expected a list of at least 1"),
        ("tune", {"path": "a.jpg", "caption": "x", "scores": {}}, "line 7: scores has no cider"),
        ("caption", {"path": "", "caption": "x", "ended": True, "words": []}, "line 7: path: "),
        ("score", {"image": "a", "caption": "x", "scores": {"b": "x"}}, "line 7: scores.b: expec"),
        ("explain", [], "line 7 is a list, and an object was expected"),
    ],
)
def test_a_sentence_names_the_line(tmp_path: Path, kind: str, line: Any, told: str) -> None:
    run = good_runs(tmp_path)[kind]
    with (run / "records.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    with pytest.raises(DamagedRun) as refusal:
        list(read_run(run).records())
    assert str(refusal.value).startswith(f"{run}: records.jsonl is damaged ({told}")


def test_a_run_that_is_damaged_is_the_one_that_is_named(tmp_path: Path) -> None:
    """It was always the first one of the page."""
    runs = good_runs(tmp_path)
    change(runs["score"], "metrics.json", "metrics", "cider", "corpus", value="x")
    with pytest.raises(DamagedRun, match=rf"^{runs['score']}: metrics\.json"):
        write_report([runs["caption"], runs["score"]], tmp_path / "page.html", PageSettings())
    with (runs["compare"] / "records.jsonl").open("a") as file:
        file.write("{}\n")
    with pytest.raises(DamagedRun, match=rf"^{runs['compare']}: records\.jsonl .*line 7"):
        write_report([runs["caption"], runs["compare"]], tmp_path / "page.html", PageSettings())


def test_a_bug_of_ours_is_not_blamed_on_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from captune.cli import main
    from captune.pages.sections import classify

    run = good_runs(tmp_path)["classify"]
    monkeypatch.setattr(classify, "ClassifyCounts", lambda *_: len(None))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="NoneType"):
        write_report([run], tmp_path / "page.html", PageSettings())
    assert main(["report", str(run), "--out", str(tmp_path / "page.html")]) == 1
    told = capsys.readouterr().err
    assert "a bug in captune (TypeError" in told
    assert "damaged" not in told


def test_a_method_of_another_kind_is_named(tmp_path: Path) -> None:
    runs = good_runs(tmp_path)
    method = runs["tune"] / "lora"
    for name in JSON_FILES:
        (method / name).write_bytes((runs["score"] / name).read_bytes())
    with pytest.raises(DamagedRun, match=rf"^{method}: metrics\.json .*it is not of the method"):
        write_report([runs["tune"]], tmp_path / "page.html", PageSettings())


def test_mutated_runs_are_answered_or_refused_in_a_sentence(tmp_path: Path) -> None:
    runs = good_runs(tmp_path)
    answered = refused = 0
    for seed, (kind, run) in enumerate(runs.items()):
        for number, (name, how, text) in enumerate(mutations(run, 12, seed)):
            before = (run / name).read_text()
            (run / name).write_text(text)
            try:
                told = _refusal_of(lambda run=run: _look_at(run, tmp_path / "page.html"))
            except Exception as error:
                raise AssertionError(f"{kind}, {name}, {number}: {how}") from error
            answered += told is None
            refused += told is not None
            assert told is None or str(run) in told, how
            (run / name).write_text(before)
    assert answered > 15
    assert refused > 15


def _look_at(run: Path, page: Path) -> None:
    write_report([run], page, PageSettings(published="dlcv-hw3"))
    check_page(page)
    read = read_run(run)
    as_html(read)
    if read.kind == "score":
        rank_run(RankOptions(run=run))
    if read.kind in ("score", "caption", "tune"):
        read_captions(run)


def test_what_captune_writes_has_its_own_types(tmp_path: Path) -> None:
    for run in good_runs(tmp_path).values():
        read = read_run(run)
        convert(read.metrics, KINDS[read.kind].metrics)
        assert list(read.records())


def test_numbers_that_are_none_are_nothing(tmp_path: Path) -> None:
    run = score_run(tmp_path / "run", tmp_path, CAPTIONS, scores={"cider": [float("nan")] * 6})
    assert "NaN" not in (run / "records.jsonl").read_text()
    (run / "records.jsonl").write_text((run / "records.jsonl").read_text().replace("null", "NaN"))
    assert {record["scores"]["cider"] for record in read_run(run).records()} == {None}


@pytest.mark.parametrize("packing", [ZIP_DEFLATED, ZIP_STORED])
def test_maps_are_as_large_as_their_file(tmp_path: Path, packing: int) -> None:
    root = images(tmp_path / "images", NAMES)
    run = read_run(explain_run(tmp_path / "run", root, {"0.jpg": "a"}))
    (record,) = run.records()
    words, maps = read_maps(run, record)
    assert (words, maps.shape) == (["a"], (1, 3, 3))
    (run.folder / record["maps"]).write_bytes(npz_of((1, 1, 54 * 2**28), packing=packing))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=r"maps/0\.npz is not a file of maps"):
        read_maps(run, record)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024


@pytest.mark.parametrize("name", ["../private.npz", "maps/../../private.npz", "/etc/private.npz"])
def test_maps_outside_the_run_are_not_read(tmp_path: Path, name: str) -> None:
    root = images(tmp_path / "images", NAMES)
    run = read_run(explain_run(tmp_path / "run", root, {"0.jpg": "a"}))
    np.savez(tmp_path / "private.npz", maps=np.zeros((1, 2, 2), np.float32), words=np.array(["a"]))
    with pytest.raises(UserError, match="its maps are outside the run"):
        read_maps(run, {"maps": name, "words": [{}]})


def test_damaged_maps_are_a_sentence(tmp_path: Path) -> None:
    import random

    root = images(tmp_path / "images", NAMES)
    run = read_run(explain_run(tmp_path / "run", root, {"0.jpg": "a b"}))
    (record,) = run.records()
    path = run.folder / record["maps"]
    whole, chance = path.read_bytes(), random.Random(0)
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        path.write_bytes(bytes(data[: chance.choice([len(data), chance.randrange(len(data))])]))
        told = _refusal_of(lambda: _finite_maps(run, record))
        assert told is None or str(path) in told


def _finite_maps(run: Run, record: dict[str, Any]) -> None:
    words, maps = read_maps(run, record)
    assert np.isfinite(maps).all()
    assert len(words) == 2


def test_pages_that_nobody_wrote_are_refused(tmp_path: Path) -> None:
    root = images(tmp_path / "images", NAMES)
    run = classify_run(tmp_path / "run", root, NAMES)
    page = tmp_path / "page.html"
    write_report([run], page, PageSettings())
    whole = page.read_text()
    about = whole.partition('id="about">')[2].partition("</script>")[0]
    for key, value in (
        *(("runs", value) for value in (None, [], [3], [{}], [{"folder": 3, "name": "x"}])),
        *(("sizes", value) for value in (3, {"x": 3}, {"x": ["a", 1]}, {"x": [1]})),
        *(("missing", value) for value in (3, [1], {"x": 3})),
        *(("settings", value) for value in (None, {"title": 1}, {"top": 0}, [1])),
        *(("command", value) for value in (3, [[]])),
    ):
        changed = json.dumps({**json.loads(about), key: value})
        page.write_text(whole.replace(about, changed.replace("<", "\\u003c")))
        with pytest.raises(UserError, match="is not a page of captune report"):
            check_page(page)


def test_a_report_needs_no_signed_run(tmp_path: Path) -> None:
    """`sign_again` makes what the tests of others rely on."""
    root = images(tmp_path / "images", NAMES)
    run = classify_run(tmp_path / "run", root, NAMES)
    change(run, "run.json", "seed", value=5)
    assert read_run(run).is_own  # a seed decides nothing that is opened
    change(run, "run.json", "root", value="/")
    assert not read_run(run).is_own
    sign_again(run)
    assert read_run(run).is_own


def test_the_types_are_loaded_when_a_run_is_read() -> None:
    told = "import sys, captune.cli; captune.cli.build_parser(); print('msgspec' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
