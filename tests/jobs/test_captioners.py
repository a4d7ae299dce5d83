"""Several captioners over the same images: one run, one page, each by its own name."""

from __future__ import annotations

import csv
import gc
import json
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.captioning.twins import write_twin

import captune
from captune.captioning import any_captioner
from captune.captioning.any_captioner import AnyCaptioner
from captune.cli import main
from captune.errors import UserError
from captune.options.captioning import CaptionOptions
from captune.pages.checking import check_page
from captune.pages.page import write_report
from captune.pages.sources import PageSettings, read_runs
from captune.runs import read_run
from captune.runs.writer import JOURNAL

COUNT, NAMES = 6, ("blip", "git")
SAID = "a red dog runs on the sea"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    return {name: str(write_twin(name, folder / name)) for name in (*NAMES, "vit-gpt2")}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(COUNT):
        colours = random.integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(colours).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def references(models: dict[str, str], images: Path, tmp_path: Path) -> Path:
    """Of all images but the last; one of each is what blip says."""
    path = tmp_path / "references.json"
    said = [one.caption for one in captioned(images, models["blip"])][: COUNT - 1]
    path.write_text(json.dumps({str(n): [SAID, text] for n, text in enumerate(said)}))
    return path


def captioned(images: Path, models: Any, **more: Any) -> Any:
    settings = {"beam": 2, "max_tokens": 6, "batch_size": 2, "device": "cpu", **more}
    return captune.caption(images, model=models, **settings)


def of(models: dict[str, str], *names: str) -> list[str]:
    return [models[name] for name in names or NAMES]


def test_a_run_with_a_run_of_each_and_its_page(
    models: dict[str, str], images: Path, references: Path, tmp_path: Path
) -> None:
    out = tmp_path / "both"
    result = captioned(images, of(models), references=references, out=out)
    assert [(one.captioner, one.image.name) for one in result] == [
        (name, f"{n}.png") for name in NAMES for n in range(COUNT)
    ]
    for name in NAMES:
        alone = captioned(images, models[name])
        assert [one.caption for one in alone] == [
            one.caption for one in result if one.captioner == name
        ]
        run = read_run(out / "captioners" / name)
        assert run.kind == "caption"
        assert [row["caption"] for row in run.records()] == [one.caption for one in alone]
    run = read_run(out)
    assert run.kind == "captioners"
    assert [model["spec"] for model in run.about["models"]] == of(models)
    found = result.metrics
    assert (found.images, found.scored) == (COUNT, COUNT - 1)
    assert list(found.captioners) == list(NAMES)
    for name, one in found.captioners.items():
        scored = captune.score(
            out / "captioners" / name, references=references, ignore_extra=True, resamples=10_000
        )
        assert {id: score.corpus for id, score in one.scores.items()} == {
            id: score.corpus for id, score in scored.metrics.items()
        }
        assert one.scores["cider"].interval == scored.metrics["cider"].interval
        assert one.images_per_second is not None
        assert one.images_per_second > 0
        assert one.peak_bytes is None or 1e7 < one.peak_bytes < 1e11
    assert result.sentences() == [f"{COUNT} images"]  # recipes stand below the table
    assert found.best == "blip"
    gain = found.against_best["git"]["cider"]
    corpus = [found.captioners[name].scores["cider"].corpus for name in NAMES]
    assert gain.difference == pytest.approx(corpus[1] - corpus[0])
    assert gain.difference < 0
    rows = list(run.records())
    assert [row["path"] for row in rows] == [f"{n}.png" for n in range(COUNT)]
    assert [row["image"] for row in rows] == [row["path"] for row in rows]
    assert rows[0]["references"] == [SAID, rows[0]["captions"]["blip"]["caption"]]
    assert rows[-1]["captions"]["git"]["scores"] == {}
    assert "1 candidate of blip without references" in result.notes[0]
    assert captune.verify(out).holds
    assert not check_page(out / "report.html").differing
    page = (out / "report.html").read_text()
    assert "Captions side by side" in page
    assert all(f">{name}<" in page for name in NAMES)
    assert "Where blip and git differ most" in page


def test_the_page_of_a_run_and_of_its_parts_has_each_caption_once(
    models: dict[str, str], images: Path, tmp_path: Path
) -> None:
    out, page = tmp_path / "both", tmp_path / "page.html"
    captioned(images, of(models), out=out)
    parts = [out / "captioners" / name for name in NAMES]
    made = write_report([out, *parts], page, PageSettings())
    (gallery,) = made.galleries
    assert gallery.data()["tags"] == list(NAMES)
    # without the run above them they have their models' names, wherever their runs lie
    captune.caption(images, model=models["git"], out=tmp_path / "second", device="cpu")
    made = write_report([parts[0], tmp_path / "second"], page, PageSettings())
    (gallery,) = made.galleries
    assert gallery.data()["tags"] == list(NAMES)
    assert [source.name for source in read_runs([parts[0], tmp_path / "second"]).sources] == [
        "blip",
        "second",
    ]


def test_the_same_command_does_what_is_missing(
    models: dict[str, str], images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "all"
    loaded: list[str] = []
    load = any_captioner.load_vlm

    def loading(place: Path, *rest: Any, **how: Any) -> Any:
        loaded.append(place.name)
        return load(place, *rest, **how)

    monkeypatch.setattr(any_captioner, "load_vlm", loading)

    class Killed(Exception): ...

    def stop(caption: Any) -> None:
        if caption.captioner == "git" and caption.image.name == "2.png":
            raise Killed

    how = {"beam": 1, "max_tokens": 4, "batch_size": 2, "device": "cpu"}
    options = CaptionOptions(images=[str(images)], model=of(models), out=out, **how)
    with pytest.raises(Killed):
        captune.jobs.caption.run(options, each=stop)
    (note,) = captune.report(out, tmp_path / "page.html").notes
    assert "was stopped, and is left out, but for blip" in note
    first = captune.jobs.caption.run(options)
    assert loaded == ["blip", "git", "git"]
    assert [one.resumed for one in first.captioners.values()] == [COUNT, 4]
    again = captune.jobs.caption.run(options)
    assert loaded == ["blip", "git", "git"]
    assert again.metrics == first.metrics
    more = CaptionOptions(
        images=[str(images)], model=of(models, "blip", "git", "vit-gpt2"), out=out, **how
    )
    three = captune.jobs.caption.run(more)
    assert loaded == ["blip", "git", "git", "vit-gpt2"]
    assert three.metrics.captioners["git"] == first.metrics.captioners["git"]
    assert (out / "captioners" / "git" / JOURNAL).is_file()
    with pytest.raises(UserError, match="--beam 1, and this one has 2"):
        captioned(images, of(models), out=out, max_tokens=4)


def test_a_captioner_is_gone_before_the_next_is_loaded(
    models: dict[str, str], images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[weakref.ref[Any]] = []
    load = any_captioner.load_vlm

    def loading(*rest: Any, **how: Any) -> Any:
        assert [one() for one in held] == [None] * len(held)
        vlm = load(*rest, **how)
        held.append(weakref.ref(vlm.model))
        return vlm

    monkeypatch.setattr(any_captioner, "load_vlm", loading)
    captioned(images, of(models, "blip", "git", "vit-gpt2"))
    gc.collect()
    assert len(held) == 3


def test_rows_json_and_the_terminal(
    models: dict[str, str], images: Path, tmp_path: Path, capsys: Any
) -> None:
    table = tmp_path / "said.csv"
    words = ["caption", str(images), "--beam", "1", "--max-tokens", "4", "--device", "cpu"]
    words += [word for name in NAMES for word in ("--model", models[name])]
    assert main([*words, "--to", str(table), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert list(told["captioners"]) == list(NAMES)
    assert (told["images"], told["best"], told["scored"]) == (COUNT, None, 0)
    rows = list(csv.DictReader(table.open()))
    assert [(row["captioner"], row["model"]) for row in rows] == [
        (name, models[name]) for name in NAMES for _ in range(COUNT)
    ]
    assert [row["caption"] for row in rows] == [one["caption"] for one in told["answers"]]
    assert main([*words, "--jsonl"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["captioner"] for line in lines] == [row["captioner"] for row in rows]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert all(part in shown for part in ("blip", "git", "speed", "memory", "5.png", "/s"))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--model blip --model blip", "--model blip is given twice; name each captioner once"),
        (
            "--model blip --references x.json",
            "--references is for several --model; captions of",
        ),
        ("--model blip --metrics cider", "--metrics is for several --model"),
        ("--model blip --model git --predictions p.json", "--predictions has a place for one"),
        ("--model blip --model git --sidecar", "--sidecar has a place for one caption of an image"),
        ("--model blip --model git --to x.json", "must end in .csv, .jsonl or .parquet"),
        ("--model blip --model git --metrics cider", "cider needs the references"),
        ("--model blip --model git --references none.json", "none.json does not exist"),
        (
            "--model blip --model git --references else.json",
            "none of its 6 images is among the 1 of else.json",
        ),
        ("--model blip --model nowhere", "nowhere is not a folder"),
        ("--model blip --model git --jobs 2 --out x", "shards are described by one captioner"),
    ],
)
def test_what_has_no_meaning_is_refused_before_anything_is_loaded(
    words: str,
    sentence: str,
    models: dict[str, str],
    images: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    monkeypatch.setattr(AnyCaptioner, "stream", None)
    monkeypatch.chdir(Path(models["blip"]).parent)
    Path("else.json").write_text('{"elsewhere": ["a dog"]}')
    assert main(["caption", str(images), *words.split()]) == 2
    assert sentence in capsys.readouterr().err
