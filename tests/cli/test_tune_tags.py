"""Words that are known of each image, and mirrored images, from the command to the caption."""

from __future__ import annotations

import dataclasses
import json
import random
import re
import sys
from importlib import import_module
from pathlib import Path

import pytest
from PIL import Image
from tests.captioning.caption_job import Seen, interrupted_after, use_encoder
from tests.captioning.little_job import KINDS
from tests.captioning.words_job import LABELS, telling_model, write_words_job
from tests.cli.test_tune import words
from tests.shards.conftest import here, rows_of

from captune.captioning.captioner import Captioner
from captune.captioning.checkpoint import read_recipe
from captune.captioning.datastore import DATASTORE, Datastore, load_store
from captune.captioning.settings import checkpoint_folder
from captune.captioning.training import frozen
from captune.cli import main
from captune.errors import UserError
from captune.pages.sections import read_before
from captune.runs import read_run
from captune.runs.records import NO_BETTER, no_better

Job = tuple[tuple[Path, Path, Path], Path, Path]


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return write_words_job(tmp_path)


BY_BRIDGE = ("--bridge", "bidirectional")
AS_TEXT = ("--prompt", "tags")


def command(job: Job, out: Path, *more: str, read: tuple[str, ...] = BY_BRIDGE) -> list[str]:
    files, labels, decoder = job
    known = (*read, "--tags", str(labels), "--tags-top", "1")
    how = ("--decoder", str(decoder), "--score-model", "none", "--method", "none")
    return words(files, out, *known, *how, *more)


@pytest.mark.parametrize("read", [BY_BRIDGE, AS_TEXT], ids=" ".join)
def test_words_reach_the_captions(
    read: tuple[str, ...],
    job: Job,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The patch grid says nothing, so a caption that fits its image comes of the words."""
    model = telling_model(blind=True)
    monkeypatch.setattr(frozen, "load_model", lambda spec, **where: model)
    use_encoder(monkeypatch, model)
    out = tmp_path / "run"
    more = ("--epochs", "25", "--lr", "2e-2", "--select", "loss", "--vocabulary", "captions")
    # words before the caption have to reach it through the frozen language model
    how = ("--set", "bridge.every=1") if read == BY_BRIDGE else ("--method", "lora", "--lr", "1e-2")
    more = (*more, *how)
    assert main(command(job, out, *more, "--json", read=read)) == 0
    (method,) = json.loads(capsys.readouterr().out)["methods"]
    # a shuffled image brings its own words along
    dependence = next(f for f in method["findings"] if f["about"] == "image dependence")
    assert not dependence["wrong"], dependence["sentence"]
    known = read_recipe(checkpoint_folder(out)).tags
    assert known is not None
    assert known.labels == tuple(LABELS)
    assert (known.prompts, known.top) == (tuple(map(tuple, LABELS.values())), 1)
    assert (known.model.spec, known.model.weights_id) == ("places", model.weights_id)

    # a loaded captioner is told the same, whoever loads it
    images = job[0][0]
    records = read_run(out).records()
    written = {row["path"]: row["caption"] for row in records}
    read_of = {row["path"]: row["read"] for row in records}
    assert len(set(written.values())) > 1
    ask = ["caption", str(images), "--model", str(out), "--beam", "1", "--max-tokens", "12"]
    assert main([*ask, "--device", "cpu", "--json"]) == 0
    printed = {
        Path(one["image"]).name: one["caption"]
        for one in json.loads(capsys.readouterr().out)["answers"]
    }
    assert {name: printed[name] for name in written} == written
    # in shards too, with what was read
    monkeypatch.setattr("captune.jobs.shards.run_local", here)
    pieces = ("--shard-size", "20", "--out", str(tmp_path / "shards"), "--device", "cpu")
    assert main([*ask, *pieces]) == 0
    rows = [row for at in (0, 1) for row in rows_of(tmp_path / "shards", f"images-{at:05d}")]
    assert {row["key"]: row["caption"] for row in rows if row["key"] in written} == written
    assert {row["key"]: row["read"] for row in rows if row["key"] in read_of} == read_of
    captioner = Captioner.from_pretrained(out, device="cpu")
    for one in captioner.caption(images, beam=1, max_tokens=12, batch_size=5):
        assert one.caption == printed[one.image.name]
    # the benchmark of captioners, too
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    benchmark = import_module("captioner")
    monkeypatch.setattr(benchmark, "load_model", lambda spec, **where: model)
    given = ["captioner.py", str(out), "--images", str(images), "--captions", str(job[0][1])]
    given = [*given, "--val-captions", str(job[0][2]), "--out", str(tmp_path / "worth")]
    monkeypatch.setattr(sys, "argv", given)
    assert benchmark.main() == 0
    told = json.loads(
        (tmp_path / "worth" / f"captions-{checkpoint_folder(out).name}.json").read_text()
    )
    assert told == {Path(name).stem: caption for name, caption in written.items()}

    # nor is it tuned on as if it read none
    capsys.readouterr()
    bare = ["--decoder", str(job[2]), "--score-model", "none", "--method", "none", *more]
    bare += ["--start", str(out), *(read if read == BY_BRIDGE else ())]
    assert main(words(job[0], tmp_path / "on", *bare)) == 2
    assert re.search(
        "with tags of each image; give --tags|say with --tags", capsys.readouterr().err
    )

    # by another classifier it is told nothing
    other = dataclasses.replace(model, weights_id="d1" * 32)
    use_encoder(monkeypatch, other)
    assert main([*ask, "--device", "cpu"]) == 2
    assert "was trained with the tags of places (c0c0" in capsys.readouterr().err
    with pytest.raises(UserError, match="places has other weights"):
        Captioner.from_pretrained(out, device="cpu")


def kind_of(caption: str) -> int | None:
    """Of which kind of image its words are, where they are of one."""
    kinds = {int(number) // 10 for number in re.findall(r"w(\d+)", caption)}
    return kinds.pop() if len(kinds) == 1 else None


def test_captions_of_similar_images_reach_the_captions(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The patch grid says next to nothing: what is written is copied from similar images."""
    model = telling_model(faint=True)
    monkeypatch.setattr(frozen, "load_model", lambda spec, **where: model)
    use_encoder(monkeypatch, model)
    files, _, decoder = job
    for path in files[0].iterdir():  # no two are alike, so which are nearest is no question
        chance, image = random.Random(path.name), Image.open(path)
        colour = [min(255, value + chance.randrange(25)) for value in image.getpixel((0, 0))]
        Image.new("RGB", image.size, tuple(colour)).save(path)
    out = tmp_path / "run"
    more = ("--prompt", "captions", "--prompt-captions", "2", "--decoder", str(decoder))
    more = (*more, "--score-model", "none", "--method", "lora", "--lr", "1e-2", "--epochs", "25")
    more = (*more, "--select", "loss", "--vocabulary", "captions", "--json")
    assert main(words(files, out, *more)) == 0
    (method,) = json.loads(capsys.readouterr().out)["methods"]
    dependence = next(f for f in method["findings"] if f["about"] == "image dependence")
    assert not dependence["wrong"], dependence["sentence"]
    place = checkpoint_folder(out)
    recipe = read_recipe(place)
    assert recipe.prompt_captions == 2

    # a loaded captioner reads the same ones
    written = {row["path"]: row["caption"] for row in read_run(out).records()}
    ask = ["caption", str(files[0]), "--model", str(out), "--beam", "1", "--max-tokens", "12"]
    ask = [*ask, "--device", "cpu", "--json"]

    def captions(*more: str) -> dict[str, str]:
        assert main([*ask, *more]) == 0
        answers = json.loads(capsys.readouterr().out)["answers"]
        return {Path(one["image"]).name: one["caption"] for one in answers}

    found = captions()
    assert {name: found[name] for name in written} == written
    assert sum(kind_of(text) == int(name[0]) for name, text in written.items()) >= 6

    # and with those of another kind of image it says what they say
    store = load_store(place / DATASTORE, recipe.image_encoder, recipe.grid)
    assert isinstance(store, Datastore)
    kinds = [kind_of(own[0]) for own in store.captions]
    others = [store.captions[kinds.index((kind + 1) % KINDS)] for kind in kinds if kind is not None]
    turned = Datastore(store.vectors, store.centre, others, store.weights_id)
    turned.save(tmp_path / "others.safetensors")
    found = captions("--datastore", str(tmp_path / "others.safetensors"))
    right = sum(kind_of(found[name]) == (int(name[0]) + 1) % KINDS for name in written)
    assert right >= 6, found
    # what stood there speaks for a word whose map says nothing
    assert main(["explain", *ask[1:], "--method", "attention"]) == 0
    records = json.loads(capsys.readouterr().out)["explanations"]
    copied = [word for record in records for word in record["words"] if word.get("told")]
    assert copied
    assert all(
        word["word"] in record["read"]
        for record in records
        for word in record["words"]
        if word.get("told")
    )
    assert read_before(["a, b", "", "a, b", "c"]) == {"read": "a, b; c"}
    assert read_before([""]) == {}
    doubted = {"faithfulness": {"mark": NO_BETTER}}
    some = [copied[0] | doubted, {"word": "a"} | doubted]
    assert no_better({"words": some}) == ["a"]

    (place / DATASTORE).unlink()
    assert main(ask) == 2
    assert "--prompt captions: there is no datastore.safetensors in" in capsys.readouterr().err


def test_a_stopped_tune_with_words_and_mirrored_images_goes_on(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = Seen()
    model = telling_model(seen=seen)
    monkeypatch.setattr(frozen, "load_model", lambda spec, **where: model)
    train = job[0][1]
    lines = train.read_text().splitlines()
    train.write_text("\n".join([lines[0].replace('"a ', '"left a '), *lines[1:]]))
    (job[0][0] / "1_5.png").write_bytes(b"\x89PNG broken")
    more = ("--augment", "mirror", "--captions-per-image", "1", "--save-steps", "1")
    more = (*more, "--objective", "cider", "--samples", "3")
    whole, out = tmp_path / "whole", tmp_path / "stopped"
    assert main(command(job, whole, *more)) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "23 of 24 training images are encoded and cached twice" in said
    assert "the captions of 1 name left or right" in said
    assert seen.images == (23 + 8) + 22  # each once, as it is and mirrored
    with interrupted_after(5):
        assert main(command(job, out, *more)) == 130
    assert any((out / "none" / "checkpoints").glob("checkpoint-*"))
    assert main(command(job, out, *more)) == 0
    weights = [(run / "none" / "model.safetensors").read_bytes() for run in (whole, out)]
    assert weights[0] == weights[1]
    assert seen.images == (23 + 8) + 22  # and never again
    # other words, or other views, are another training
    capsys.readouterr()
    assert main(command(job, out, *more, "--tags-top", "2")) == 2
    assert "was started with tags-top 1; now it is 2" in capsys.readouterr().err
    assert main(command(job, out, *more, "--tags-least", "0.2")) == 2
    assert "was started with tags-least 0.1; now it is 0.2" in capsys.readouterr().err
    assert main(command(job, out, *more, "--augment", "none")) == 2
    assert "was started with augment mirror" in capsys.readouterr().err
