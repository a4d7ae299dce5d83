"""What is cited: correct entries for all that captune has, and none for what it does not know."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests import report_runs as runs
from tests.hostile.mutations import change_value

import captune
from captune.cli import main
from captune.errors import UserError
from captune.jobs.cite import _citations
from captune.models.catalogue import _examples
from captune.registry import BRIDGES, MAP_METHODS, TUNING_METHODS
from captune_metrics import catalogue

ROOT = Path(__file__).parents[2]
ENTRIES = _citations()["entries"]
NAMES = ["a.jpg", "b.jpg", "c.jpg"]
CAPTIONS = {name: f"caption of {name}" for name in NAMES}
KEYS = re.compile(r"\\cite\{([^}]*)\}")


def every_run(folder: Path) -> list[Path]:
    """A run of each kind."""
    root = runs.images(folder / "images", NAMES)
    return [
        runs.classify_run(folder / "classify", root, NAMES),
        runs.tune_run(folder / "tune", root, {"lora": CAPTIONS, "adapter": CAPTIONS}),
        runs.caption_run(folder / "caption", root, CAPTIONS),
        runs.score_run(folder / "score", root, CAPTIONS),
        runs.compare_run(folder / "compare", root, CAPTIONS, CAPTIONS),
        runs.explain_run(folder / "explain", root, CAPTIONS),
        runs.faithful_run(folder / "faithful", root),
    ]


@pytest.mark.parametrize("key", ENTRIES)
def test_an_entry_is_bibtex_in_ascii(key: str) -> None:
    entry = ENTRIES[key].strip()
    assert entry.isascii()
    assert re.match(r"@(inproceedings|article|misc|software|techreport)\{" + key + ",\n", entry)
    assert entry.count("{") == entry.count("}")
    fields = dict(re.findall(r"^  (\w+) = \{(.*)\},?$", entry, re.MULTILINE))
    assert {"title", "author"} <= fields.keys()
    assert len(fields) == entry.count("\n") - 1
    if key != "captune":
        assert key.startswith(re.sub("[^a-z]", "", fields["author"].partition(",")[0].lower()))
        assert fields["year"] in key


def test_what_is_referred_to_is_there_and_nothing_else() -> None:
    known = _citations()
    tables = [known[name] for name in ("metrics", "methods", "bridges", "maps", "procedures")]
    named = {key for table in tables for keys in table.values() for key in keys}
    named |= {key for name in ("models", "decoders") for one in known[name] for key in one["cite"]}
    assert named | {"captune"} == set(ENTRIES)


def test_captunes_entry_is_that_of_its_citation_file() -> None:
    stated = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    author = " and ".join(one["name"] for one in stated["authors"])
    entry = ENTRIES["captune"]
    for field, value in (
        ("title", stated["title"]),
        ("author", f"{{{author}}}"),
        ("license", stated["license"]),
        ("url", stated["repository-code"]),
    ):
        assert f"  {field} = {{{value}}}" in entry


def test_all_that_captune_has_is_known() -> None:
    known = _citations()
    assert known["metrics"].keys() == catalogue._OWN.keys()
    for table, registry in (
        ("methods", TUNING_METHODS),
        ("bridges", BRIDGES),
        ("maps", MAP_METHODS),
    ):
        own = {name for name, package in registry.sources().items() if package == "captune"}
        assert known[table].keys() == own
    for kind, table in (("image_text", "models"), ("decoders", "decoders")):
        for example in ("lite", *(one.spec for one in _examples(kind))):
            assert any(re.match(one["pattern"], example.lower()) for one in known[table]), example


@pytest.mark.parametrize(
    "spec", ["models/clip", "/models/lite", "hf:me/clip-vit-mine", "open_clip:ViT-B-32/mine"]
)
def test_no_publication_is_guessed(spec: str) -> None:
    for table in ("models", "decoders"):
        assert not any(re.match(one["pattern"], spec.lower()) for one in _citations()[table])


def test_each_kind_of_run_has_a_paragraph_and_what_it_cites(tmp_path: Path) -> None:
    result = captune.cite(every_run(tmp_path))
    assert len(result.paragraphs) == 7
    cited = {key for text in result.paragraphs for keys in KEYS.findall(text) for key in
             keys.split(",")}  # fmt: skip
    assert cited == set(result.entries)
    assert all(f"{{{key}," in result.bibtex for key in cited)
    assert f"version = {{{captune.__version__}}}" in result.bibtex
    everything = " ".join(result.paragraphs)
    for phrase in (
        "3 images were classified among 3 labels",
        r"CIDEr-D~\cite{vedantam2015cider}",
        r"by lora~\cite{hu2022lora,mangrulkar2022peft}",
        "3 images were described",
    ):
        assert phrase in everything
    assert str(tmp_path) not in everything


def test_what_nobody_here_knows_gets_a_sentence_and_no_entry(tmp_path: Path) -> None:
    root = runs.images(tmp_path / "images", NAMES)
    run = runs.classify_run(tmp_path / "run", root, NAMES)
    runs.change(run, "run.json", "models", 0, "spec", value="/home/ann/my_model")
    result = captune.cite(run)
    assert result.notes == [
        r"captune knows no publication of the model my\_model; cite what its authors ask for"
    ]
    assert set(result.entries) == {"captune", "wilson1927probable"}
    assert "/home/ann" not in "".join(result.sentences())


def test_the_output_is_a_bib_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = runs.images(tmp_path / "images", NAMES)
    run = runs.score_run(tmp_path / "run", root, CAPTIONS)
    assert main(["cite", str(run)]) == 0
    printed = capsys.readouterr().out
    outside = re.sub(r"^@.*?^\}$", "", printed, flags=re.MULTILINE | re.DOTALL)
    assert "@" not in outside
    assert all(not line or line.startswith("% ") for line in outside.splitlines())
    assert main(["cite", str(run), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["keys"] == ["captune", "vedantam2015cider", "efron1979bootstrap"]
    assert told["run"] == str(run)


def test_files_of_captions_are_named_where_no_captioner_is(tmp_path: Path) -> None:
    files = [tmp_path / f"{name}.json" for name in ("first", "second", "third_try")]
    for place, file in enumerate(files):
        captions = dict.fromkeys(NAMES, f"a dog runs {place}")
        file.write_text(json.dumps(captions))
    references = {name: ["a dog runs", "a cat"] for name in NAMES}
    how: dict[str, Any] = {"metrics": "rouge_l", "resamples": 100, "seed": 7}
    captune.compare(*files, references=references, out=tmp_path / "run", **how)
    (paragraph,) = captune.cite(tmp_path / "run").paragraphs
    named = "first, second and third\\_try"
    assert f"3 sets of captions of the same 3 images were compared: {named}." in paragraph
    assert " (100 resamples, seed 7)." in paragraph
    assert "CLIPScore" not in paragraph


def test_several_captioners_are_cited_as_one_is(tmp_path: Path) -> None:
    figures = {"corpus": 0.7, "interval": [0.6, 0.8]}
    one = {"spec": "hf:me/mine", "images": 3, "words_mean": 4.0, "scores": {"clipscore": figures}}
    run = runs.caption_run(tmp_path / "run", runs.images(tmp_path / "images", NAMES), CAPTIONS)
    about = json.loads((run / "run.json").read_text())
    about |= {"kind": "captioners", "models": [{"spec": "lite"}]}
    about["options"] = {"beam": 3, "max_tokens": 20, "seed": None}
    model = {"spec": "open_clip:ViT-B-32/openai", "weights_id": "sha256 0123"}
    metrics = {
        "images": 3,
        "scored": 3,
        "alike": 0,
        "verdict": [],
        "best": "a",
        "captioners": {"a": one, "b": one},
        "names": {"clipscore": "CLIPScore[x]"},
        "recipes": {"clipscore": {"model": model}},
    }
    (run / "run.json").write_text(json.dumps(about))
    (run / "metrics.json").write_text(json.dumps(metrics))
    (paragraph,) = captune.cite(run).paragraphs
    for said in (
        "3 images were each described by beam search of width 3, with 20 tokens at most, by",
        # they are scored with the defaults
        " (10000 resamples, seed 0). CLIPScore is that of \\texttt{open\\_clip:ViT-B-32/openai}",
    ):
        assert said in paragraph


def test_what_is_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cite", str(tmp_path)]) == 2
    assert "is not a finished run folder" in capsys.readouterr().err


def test_nothing_in_a_run_begins_an_entry(tmp_path: Path) -> None:
    """BibTeX reads an @ in a comment, too."""
    run = runs.classify_run(tmp_path / "run", runs.images(tmp_path / "images", NAMES), NAMES)
    about, metrics = (json.loads((run / name).read_text()) for name in ("run.json", "metrics.json"))
    evil = "@article(evil, title={x})\n@misc{evil, title={y}}"
    about["models"] = [{"spec": f"timm:x@{evil}", "weights_id": evil, "licence": evil}]
    about["versions"] = {"captune": evil}
    metrics["prompts"] = [{"template": evil, "accuracy": None, "interval": None}]
    metrics["activation"] = evil
    for name, content in (("run.json", about), ("metrics.json", metrics)):
        (run / name).write_text(json.dumps(content))
    found = captune.cite(run)
    lines = "\n".join(found.sentences()).splitlines()
    assert [line[:10] for line in lines if "@" in line] == [
        entry[:10] for entry in found.entries.values()
    ]
    assert sum("evil" in line for line in lines) >= 2
    assert all(line.startswith("% ") for line in lines if "evil" in line)


def test_mutated_runs_are_cited_or_refused_in_a_sentence(tmp_path: Path) -> None:
    entries = re.compile(r"^@", re.MULTILINE)
    for run in every_run(tmp_path):
        for name in ("run.json", "metrics.json"):
            whole = (run / name).read_text()
            for seed in range(25):
                (run / name).write_text(whole)
                told = change_value(run / name, random.Random(f"{run.name}{name}{seed}"))
                try:
                    found = captune.cite(run)
                except UserError:
                    continue
                except Exception as error:
                    raise AssertionError(told) from error
                text = "\n".join(found.sentences())
                assert text.count("@") == len(entries.findall(text)) == len(found.entries), told
                assert all(line.isprintable() for line in text.splitlines()), told
            (run / name).write_text(whole)
