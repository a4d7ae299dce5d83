from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.captioning.caption_job import agreement_at, interrupted_after
from tests.captioning.little_job import IDENTITY, fake_frozen, write_job
from tests.captioning.tiny import GRID, tiny_decoder
from tests.colour_model import colour_model
from tests.pages.page_reader import outline

from captune.captioning.agreement import read_agreement
from captune.captioning.captioner import Captioner
from captune.captioning.checkpoint import from_pretrained
from captune.captioning.dataset import match_dataset
from captune.captioning.datastore import DATASTORE, Datastore, load_store
from captune.captioning.rerank import read_reranking
from captune.captioning.training import run as training_run
from captune.captioning.training import setup
from captune.captions import read_captions
from captune.cli import main
from captune.errors import UserError
from captune.images import find_images
from captune.pages.checking import check_page
from captune.runs import read_run
from captune.runs.metrics import PeopleAgreement

SETTINGS = ["--set", "bridge.width=16", "--set", "bridge.heads=2"]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path, Path]:
    monkeypatch.setattr(setup, "load_frozen", fake_frozen())
    return write_job(tmp_path / "job")


def words(files: tuple[Path, Path, Path], out: Path, *more: str) -> list[str]:
    images, train, val = map(str, files)
    return [
        *("tune", images, "--captions", train, "--val-captions", val, "--out", str(out)),
        *("--epochs", "2", "--batch-size", "12", "--lr", "1e-2", "--max-tokens", "12"),
        *("--device", "cpu"),
        *SETTINGS,
        *more,
    ]


def test_three_methods_and_their_table(
    files: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    command = words(files, out, "--method", "adapter,prefix,lora", "--json")
    assert main(command) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["command"] == "tune"
    assert printed["images"] == 8
    assert printed["trained_on"] == 24
    assert [one["method"] for one in printed["methods"]] == ["adapter", "prefix", "lora"]
    for one in printed["methods"]:
        assert one["trained"] == sum(one["parts"].values()) > 0
        assert one["cider_low"] <= one["cider"] <= one["cider_high"]
        assert one["best_epoch"] in (1, 2)
        assert {"attention", "image dependence", "leak", "repetition"} == {
            finding["about"] for finding in one["findings"]
        }
    assert (out / "plots" / "curves.png").stat().st_size > 5000
    rows = list(csv.DictReader((out / "table.csv").open()))
    assert [row["method"] for row in rows] == ["adapter", "prefix", "lora"]
    parent = read_run(out)
    assert (parent.kind, parent.metrics["best"]) == ("tune", printed["best"])
    people = read_captions(files[2]).captions
    # on the cards of the page too, where a score near 0 is judged beside them
    assert "by people</summary>" in (out / "report.html").read_text()
    for method in ("adapter", "prefix", "lora"):
        child = read_run(out / method)
        records = list(child.records())
        assert {one["image_id"]: one["references"] for one in records} == people
        assert len(read_captions(out / method)) == 8
        assert not (out / method / "checkpoints").exists()
        captioner, recipe = from_pretrained(out / method, decoder=tiny_decoder("gpt2"))
        assert recipe.method.name == method
        captioner.detach()
    _, best = from_pretrained(out, decoder=tiny_decoder("gpt2"))
    assert best.method.name == printed["best"]
    # the same command again trains nothing
    weights = (out / "lora" / "model.safetensors").stat().st_mtime_ns
    assert main(command) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["methods"] == printed["methods"]
    assert (out / "lora" / "model.safetensors").stat().st_mtime_ns == weights


def test_the_chance_that_people_agree_is_fitted_and_kept(
    files: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Any, ...]] = []

    def fit(features: Any, captions: Any, references: Any, *, beam: int) -> PeopleAgreement:
        seen.append((features, captions, references, beam))
        return agreement_at(-2.0)

    monkeypatch.setattr(training_run, "fit_agreement", fit)
    out = tmp_path / "run"
    assert main(words(files, out, "--method", "lora", "--epochs", "1")) == 0
    ((features, captions, references, beam),) = seen
    assert features.keys() == captions.keys() == references.keys()
    assert beam == 1
    for id, (one, mean, lowest, count) in features.items():
        assert (one, count) == (1.0, len(captions[id].split()))
        assert lowest <= 0
        assert mean < 0
    assert read_agreement(out / "lora") == agreement_at(-2.0)
    assert "Would people agree with the captions?" in (out / "report.html").read_text()
    assert check_page(out / "report.html").holds


def test_what_is_printed(
    files: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--captions-per-image", "1", "--limit", "12", "--patience", "1"]
    more += ["--val-sample", "4", "--select", "clipscore"]
    assert main(words(files, tmp_path / "run", *more)) == 0
    captured = capsys.readouterr()
    assert "of training" in captured.err
    assert "trained parameters (bridge" in captured.err
    assert "no captions" not in captured.err  # each image has some, in one file or the other
    assert "CIDEr-D" in captured.out
    assert "trained on 12 images, nothing usable came of it" in captured.out
    assert "{'" not in captured.err + captured.out  # Trainer prints its logs as dictionaries


@pytest.mark.parametrize("more", [[], ["--val-images"]])
def test_images_without_captions_are_named_once(
    files: tuple[Path, Path, Path],
    tmp_path: Path,
    more: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(*args: Any, **unused: Any) -> None:
        raise UserError("nothing is loaded here")

    monkeypatch.setattr(setup, "load_frozen", refuse)
    images, train, val = files
    for name in ("x.png", "y.png", "z.png", "zz.png"):
        (images / name).write_bytes((images / "1_101.png").read_bytes())
    assert main(words(files, tmp_path / "run", *more, *[str(images)] * len(more))) == 2
    said = capsys.readouterr().err
    assert said.count("no captions") == 1
    assert (
        f"{images}: 4 of 36 images have no captions in {train} or {val}"
        " (x.png, y.png, z.png and 1 more)"
    ) in said
    # of two folders, each has its own file
    other = tmp_path / "other"
    other.mkdir()
    for name in ("1_101.png", "2_102.png", "lone.png"):
        (other / name).write_bytes((images / "1_101.png").read_bytes())
    assert main(words(files, tmp_path / "run", "--val-images", str(other))) == 2
    said = capsys.readouterr().err
    assert f"{images}: 12 of 36 images have no captions in {train} (" in said
    assert f"{other}: 1 of 3 images has no captions in {val} (lone.png)" in said


def test_images_are_held_out_where_no_others_are_named(
    files: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, train, _ = files
    command = words(files, tmp_path / "run", "--epochs", "1")
    place = command.index("--val-captions")
    del command[place : place + 2]
    assert main([*command, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["images"], printed["trained_on"]) == (4, 20)
    assert any("4 of 24 images are held out for validation" in one for one in printed["notes"])
    findings = {one["about"]: one["wrong"] for one in printed["methods"][0]["findings"]}
    assert not findings["leak"]
    held = {record["image_id"] for record in read_run(tmp_path / "run").records()}
    found = match_dataset(train, find_images([images]))
    assert [part.captions.keys() for part in found.held_out(0)] == [
        found.captions.keys() - held,
        held,
    ]
    assert held != set(found.held_out(1)[1].captions)


def test_images_on_both_sides_are_said_before_the_first_step(
    files: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, train, _ = files
    assert main(words((images, train, train), tmp_path / "run", "--val-sample", "4")) == 0
    said = capsys.readouterr().err
    assert said.count("24 of 24 validation images are among the training images") == 1
    assert said.index("are among the training images") < said.index("of training and")
    findings = read_run(tmp_path / "run" / "lora").metrics["tuned"]["findings"]
    assert any(one["about"] == "leak" and one["wrong"] for one in findings)


def test_too_few_updates_are_said_before_anything_is_loaded(
    files: tuple[Path, Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(*args: Any, **unused: Any) -> None:
        raise UserError("nothing is loaded here")

    monkeypatch.setattr(setup, "load_frozen", refuse)
    assert main(words(files, tmp_path / "run", "--epochs", "1")) == 2
    said = capsys.readouterr().err
    assert "nothing is loaded here" in said
    assert (
        "6 updates in all, too few to learn to describe images: it takes about 100. Use --epochs 17"
        " with these 24 images, or about 400 images with --epochs 1 (--batch-size 12)\n"
    ) in said
    assert main(words(files, tmp_path / "run", "--epochs", "17")) == 2
    assert "too few" not in capsys.readouterr().err


def test_a_tune_that_is_not_usable_is_not_praised(
    files: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    command = words(files, out, "--epochs", "1", "--lr", "1e-6", "--method", "lora,adapter")
    assert main(command) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("lora: not usable: ")
    assert "\\n" not in captured.out
    table = captured.out[captured.out.index("CIDEr-D") :]
    assert "lora, not usable" in table
    assert "bold" not in table
    assert "nothing usable came of it" in captured.out
    assert "best by" not in captured.out
    assert captured.err.count("6 updates in all, too few") == 1
    page = outline(out / "report.html").words
    assert "None of the 2 methods is usable, whatever their scores; of " in page
    assert "is kept: " not in page
    assert page.count("6 updates in all, too few") == 1
    assert page.index("too few") < page.index("lora, not usable")
    assert main([*command, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert "too few" in printed["warning"]
    assert [one["usable"] for one in printed["methods"]] == [False, False]


def test_a_usable_method_is_better_than_one_that_is_not(
    files: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also by the validation loss, where nobody looks at captions."""
    out = tmp_path / "run"
    more = ("--epochs", "20", "--method", "adapter,lora", "--select", "loss")
    assert main(words(files, out, *more)) == 0
    for name, chosen in (("adapter", "lora"), ("lora", "adapter")):
        metrics = json.loads((out / name / "metrics.json").read_text())
        said = "90.0 % of the captions repeat themselves or do not end"
        broken = {
            "about": "repetition",
            "figure": 0.9,
            "sentence": said,
            "wrong": True,
            "is_fatal": True,
        }
        was, metrics["tuned"]["findings"] = metrics["tuned"]["findings"], [broken]
        (out / name / "metrics.json").write_text(json.dumps(metrics))
        capsys.readouterr()
        assert main([*words(files, out, *more), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["best"] == chosen
        page = outline(out / "report.html").words
        assert f"Of 2 methods, {chosen} is the only usable one and is kept" in page
        assert f"Not usable, whatever its scores: {name}." in page
        metrics["tuned"]["findings"] = was
        (out / name / "metrics.json").write_text(json.dumps(metrics))


def test_how_many_images_are_needed(
    files: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    command = words(files, out, "--curve", "24,6,12", "--score-model", "none", "--json")
    assert main(command) == 0
    printed = json.loads(capsys.readouterr().out)
    curve = printed["curve"]
    assert (curve["method"], curve["metric"], curve["epochs"]) == ("lora", "cider", 2)
    assert [one["images"] for one in curve["points"]] == [6, 12, 24]
    assert [one["difference"] is None for one in curve["points"]] == [True, False, False]
    assert curve["points"][-1]["scores"]["cider"]["corpus"] == printed["methods"][0]["cider"]
    # the same validation images and as many updates; the smaller set lies in the larger one
    keys = [read_run(out / "curve" / n / "lora") for n in ("6", "12")]
    assert [len(list(run.records())) for run in keys] == [8, 8]
    for run in keys:
        epochs = run.metrics["tuned"]["history"]["epochs"]
        assert [epoch["step"] for epoch in epochs] == [6, 12]
    page = outline(out / "report.html").words
    assert "How many images?" in page
    assert curve["sentence"] in page
    assert (out / "plots" / "images.png").stat().st_size > 5000
    assert read_run(out).metrics["trained_on"] == 24
    assert main(["verify", str(out)]) == 0
    # the same command again trains nothing
    weights = (out / "curve" / "6" / "lora" / "model.safetensors").stat().st_mtime_ns
    capsys.readouterr()
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out)["curve"] == curve
    assert (out / "curve" / "6" / "lora" / "model.safetensors").stat().st_mtime_ns == weights
    # without --json: a table, and the sentence
    assert main(command[:-1]) == 0
    told = capsys.readouterr().out
    assert "Scores by number of images" in told
    assert curve["sentence"] in told


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--curve", "12"], "give two numbers of images or more"),
        (["--curve", "1,12"], "give two numbers of images or more"),
        (["--curve", "six,12"], "give two numbers of images or more"),
        (["--curve", "6,12", "--method", "lora,prefix"], "--curve takes one --method"),
        (["--curve", "6,12", "--limit", "6"], "give --limit or --curve"),
        (["--curve", "6,100"], "--curve 6,100: there are 24 training images"),
    ],
)
def test_curves_that_cannot_be_drawn(
    files: tuple[Path, Path, Path],
    tmp_path: Path,
    more: list[str],
    told: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(words(files, tmp_path / "run", *more)) == 2
    assert told in capsys.readouterr().err


def test_the_config_is_read_back(
    files: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert main(words(files, first, "--select", "loss", "--score-model", "none")) == 0
    config = yaml.safe_load((first / "config.yaml").read_text())
    assert (config["epochs"], config["lr"], config["method"]) == (2, 0.01, "lora")
    assert "out" not in config
    capsys.readouterr()
    command = ["tune", "--config", str(first / "config.yaml"), "--out", str(second), "--json"]
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out)["select"] == "loss"
    same = [(run / "lora" / "model.safetensors").read_bytes() for run in (first, second)]
    assert same[0] == same[1]
    # what is typed counts more, also where it is the default
    typed = ["--out", str(tmp_path / "third"), "--select", "cider", "--epochs", "1", "--json"]
    assert main([*command[:3], *typed]) == 0
    assert json.loads(capsys.readouterr().out)["select"] == "cider"


def test_a_stopped_tune_goes_on(files: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """Stopped in the second of two methods: the first is kept, the second goes on."""
    more = ("--method", "lora,adapter", "--score-model", "none", "--save-steps", "1")
    assert main(words(files, tmp_path / "whole", *more)) == 0
    out = tmp_path / "stopped"
    with interrupted_after(18):
        assert main(words(files, out, *more)) == 130
    assert (out / "lora" / "run.json").exists()
    assert not (out / "adapter" / "run.json").exists()
    assert any((out / "adapter" / "checkpoints").glob("checkpoint-*"))
    assert main(words(files, out, *more)) == 0
    for method in ("lora", "adapter"):
        weights = [
            (run / method / "model.safetensors").read_bytes() for run in (tmp_path / "whole", out)
        ]
        assert weights[0] == weights[1]


@pytest.mark.needs("lite")
def test_with_real_grids_and_a_decoder_from_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is faked but the language model, which is tiny: encoder, cache, loader, scores."""
    files = write_job(tmp_path / "job")
    (files[0] / "1_5.png").write_bytes(b"\x89PNG broken")
    decoder = tiny_decoder("llama")
    folder = tmp_path / "decoder"
    decoder.module.save_pretrained(folder)
    decoder.tokenizer.save_pretrained(folder)
    out = tmp_path / "run"
    assert main(words(files, out, "--decoder", str(folder), "--json")) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [item["path"] for item in printed["skipped"]] == ["1_5.png"]
    assert printed["trained_on"] == 23
    (one,) = printed["methods"]
    assert one["names"]["clipscore"].startswith("CLIPScore[lite")
    grid = Captioner.from_pretrained(out, device="cpu").model.grid
    assert (grid.tokens, grid.channels) == (81, 1280)
    again = {record["image_id"]: record["caption"] for record in read_run(out).records()}
    assert len(again) == 8
    # other weights in the same place
    tiny_decoder("llama", seed=1).module.save_pretrained(folder)
    with pytest.raises(UserError, match="was trained with the decoder"):
        Captioner.from_pretrained(out, device="cpu")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("epoch: 3", 'no option "epoch"'),
        ("epochs: three", "epochs: expected a whole number, found a text"),
        ("- 3", "holds no options"),
        ("epochs: [", "is not valid YAML"),
        ("a: &a [x, x]\nb: &b [*a, *b]", "is not valid YAML at line 2"),
        ("[" * 50_000, "is not valid YAML"),
        ("out: run", 'no option "out"'),
    ],
)
def test_a_wrong_config(
    text: str, match: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.yaml").write_text(text)
    assert main(["tune", "--config", str(tmp_path / "c.yaml"), "--out", str(tmp_path / "r")]) == 2
    assert match in capsys.readouterr().err


def test_other_options_or_data_do_not_go_on(
    files: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(words(files, out, "--score-model", "none")) == 0
    changed = words(files, out, "--score-model", "none", "--seed", "3")
    assert main(changed) == 2
    assert "was started with seed 0; now it is 3" in capsys.readouterr().err
    own = [out / "lora" / "notes.txt", out / "lora" / "thesis" / "figure.png"]
    own[1].parent.mkdir()
    for path in own:
        path.write_text("precious")
    (out / "lora" / "checkpoints").mkdir()
    (out / "lora" / "checkpoints" / "old").touch()
    assert main([*changed, "--overwrite"]) == 0
    assert "--overwrite: replaces" in capsys.readouterr().err
    assert all(path.is_file() for path in own)
    assert not (out / "lora" / "checkpoints").exists()
    assert (
        read_run(out / "lora").about["options"]["seed"],
        read_run(out).about["options"]["seed"],
    ) == (3, 3)
    weights = (out / "lora" / "model.safetensors").stat().st_mtime_ns
    assert main([*changed, "--overwrite"]) == 0  # of the same options nothing is trained again
    assert (out / "lora" / "model.safetensors").stat().st_mtime_ns == weights
    assert main(words(files, out, "--score-model", "none", "--overwrite")) == 0
    _, train, _ = files
    train.write_text(train.read_text().replace("w1 ", "w2 "))
    assert main(words(files, out, "--score-model", "none")) == 2
    assert "was started with training data" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "match"),
    [
        (["--method", "laura"], 'method "laura" is not known'),
        (["--bridge", "rope"], 'bridge "rope" is not known'),
        (["--epochs", "0"], "epochs must be 1 or more, not 0"),
        (["--lr", "5"], "lr must be between 0 and 1"),
        (["--lr", "-1"], "lr must be between 0 and 1"),
        (["--captions-per-image", "some"], "must be all, or 1 or more"),
        (["--max-trainable", "1k"], "parameters would be trained"),
        (["--max-trainable", "many"], "is not a number of parameters"),
        (["--set", "adapter.bottleneck=8"], "is not one of the methods that are trained"),
        (["--method", " , "], "names no method"),
        (["--select", "clipscore", "--score-model", "none"], "needs a model"),
        (["--bridge", "bidirectional"], "say with --tags among which"),
        (["--tags", "cat,dog"], "--bridge cross-attention reads none"),
        (["--tags-model", "lite"], "is for --tags"),
        (["--tags-least", "0.3"], "--tags-least is for --tags; give both, or neither"),
        (["--extra-noise", "0.3"], "--extra-noise is for --extra-text; give both, or neither"),
        (["--objective", "cider", "--reward-share", "0.4"], "is for --reward-model; give both"),
        (["--samples", "3"], "--samples is for --objective cider; give both, or neither"),
        (["--prompt-captions", "3"], "--prompt-captions is for --prompt captions; give both"),
        (["--candidates", "3"], "--candidates is for --rerank; give both, or neither"),
        (
            ["--bridge", "bidirectional", "--tags", "gone.json"],
            "gone.json does not exist",
        ),
        (["--tags-top", "0"], "tags-top must be 1 or more, not 0"),
        (["--prompt", "tags", "--tags", "Everyday"], "--tags Everyday is one label"),
        (["--tags-least", "2"], "tags-least must be from 0 to 1, such as 0.1, not 2.0"),
    ],
)
def test_what_is_refused(
    files: tuple[Path, Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    match: str,
) -> None:
    assert main(words(files, tmp_path / "run", *more)) == 2
    assert match in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_what_options_alone_tell_is_refused_before_torch_is_imported(
    files: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    tuned, empty = tmp_path / "tuned", tmp_path / "empty"
    for folder in (tuned, empty):
        folder.mkdir()
    (tuned / "config.json").write_text(
        json.dumps({"bridge": {"name": "prefix"}, "method": {"name": "lora"}})
    )
    wrong = {
        ("--decoder", "gpt2"): "gpt2: no decoder and no folder",
        ("--decoder", str(empty)): "has no config.json, so its architecture is unknown",
        ("--decoder", "hf:../nowhere"): "neither a folder here nor a repository",
        ("--start", "nowhere"): "--start nowhere is not a folder",
        ("--start", str(empty)): "holds no tuned captioner",
        ("--start", str(tuned)): 'was tuned with --bridge "prefix", not cross-attention',
        ("--start", str(tuned), "--bridge", "prefix", "--method", "adapter"): (
            'was tuned with --method "lora", not adapter'
        ),
        ("--curve", "10,5000"): "--curve 10,5000: there are 24 training images",
        ("--tags", "a,b"): "--tags: --bridge cross-attention reads none",
        ("--bridge", "bidirectional"): "--bridge bidirectional reads tags of each image",
        ("--prompt", "tags"): "--prompt tags: say with --tags",
        ("--prompt", "tags", "--bridge", "bidirectional", "--tags", "a,b"): "reads the tags itself",
        ("--tags-model", "lite"): "--tags-model is for --tags",
        ("--prompt", "captions", "--tags", "a,b"): "--prompt captions reads no tags",
        ("--prompt", "captions", "--curve", "10,20"): "leave out --curve",
        ("--prompt", "captions", "--prompt-captions", "0"): "must be from 1 to 64",
        ("--stop-when-worse", "--select", "loss"): "take --select cider or clipscore",
    }
    code = (
        "import json, sys; from captune.cli import main;"
        "print([main(words) for words in json.load(sys.stdin)], 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps([words(files, tmp_path / "run", *more) for more in wrong]),
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == f"{[2] * len(wrong)} False", done.stderr
    said = done.stderr.splitlines()
    assert len(said) == len(wrong)
    for sentence, expected in zip(said, wrong.values(), strict=True):
        assert expected in sentence


def test_what_is_missing_is_said(
    files: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, train, val = map(str, files)
    whole: list[Any] = ["--captions", train, "--val-captions", val, "--out", str(tmp_path / "r")]
    assert main(["tune", *whole]) == 2
    assert "IMAGES (folder of the training images) is missing" in capsys.readouterr().err
    for place, name in ((0, "--captions TRAIN"), (4, "--out RUN")):
        assert main(["tune", images, *whole[:place], *whole[place + 2 :]]) == 2
        assert name in capsys.readouterr().err
    assert main(["tune", images, *whole[:2], *whole[4:], "--val-images", images]) == 2
    assert "--val-captions VAL (captions of --val-images) is missing" in capsys.readouterr().err
    full = tmp_path / "full"
    full.mkdir()
    (full / "thesis.docx").write_text("precious")
    assert main(["tune", images, *whole[:4], "--out", str(full)]) == 2
    assert "holds files that are not of a tune" in capsys.readouterr().err


def test_how_captions_are_chosen_is_fitted_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(setup, "load_frozen", fake_frozen())
    monkeypatch.setattr(setup, "load_image_text_model", lambda spec, **where: colour_model())
    out, files = tmp_path / "run", write_job(tmp_path / "job", val=24)
    more = ("--method", "lora", "--epochs", "1", "--rerank", "both", "--candidates", "3")
    assert main(words(files, out, *more)) == 0
    printed = capsys.readouterr().out
    assert "lora: each caption chosen among 3 by how well they fit the image by colours" in printed
    assert "CIDEr-D (document frequencies of coco-val2017) " in printed
    found = read_reranking(out / "lora")
    assert found is not None
    assert (found.evidence, found.candidates, found.model) == ("both", 3, "colours")
    assert found.figures is not None
    assert found.figures.images == 24
    assert found.figures.first <= found.figures.best
    store = load_store(out / "lora" / DATASTORE, IDENTITY, GRID)
    assert isinstance(store, Datastore)
    assert len(store.captions) == len(store.vectors) == 24
    page = (out / "report.html").read_text()
    assert "Chosen among candidates" in page
    assert "document frequencies are those of coco-val2017" in page
    assert check_page(out / "report.html").holds
    # the weights of the choice are no reason to train again
    monkeypatch.setattr(training_run, "train", None)
    for how, kept in (("match", True), ("none", False)):
        before = read_run(out / "lora").metrics["tuned"]["scores"]
        assert main(words(files, out, *more[:4], "--rerank", how)) == 0
        again = read_reranking(out / "lora")
        assert (again is not None and again.evidence == how) is kept
        assert not (out / "lora" / DATASTORE).exists()
        tuned = read_run(out / "lora").metrics["tuned"]
        assert tuned["scores"] == before
        assert ("reranking" in tuned) is kept
    monkeypatch.undo()
    monkeypatch.setattr(setup, "load_frozen", fake_frozen())
    monkeypatch.setattr(setup, "load_image_text_model", lambda spec, **where: colour_model())
    # too few images tell nothing
    few = words(write_job(tmp_path / "few"), tmp_path / "second", *more)
    assert main(few) == 0
    assert "20 validation images are needed to fit its weights" in capsys.readouterr().err
    assert read_reranking(tmp_path / "second" / "lora") is None
