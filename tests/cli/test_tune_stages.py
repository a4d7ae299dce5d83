"""A second training that begins with a first, a decoder cut short, and fewer words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from tests.captioning.caption_job import interrupted_after, use_encoder
from tests.captioning.little_job import fake_frozen, write_job
from tests.captioning.tiny import tiny_decoder
from tests.captioning.words_job import telling_model
from tests.cli.test_tune import words

from captune.captioning.checkpoint import from_pretrained
from captune.captioning.dataset import read_dataset
from captune.captioning.training import frozen, setup
from captune.cli import main
from captune.images import find_images

QUICK = ("--score-model", "none", "--method", "lora")


Files = tuple[Path, Path, Path]


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return write_job(tmp_path_factory.mktemp("job") / "job")


@pytest.fixture(scope="module")
def first(job: Files, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tuned captioner to begin with; nobody changes it."""
    run = tmp_path_factory.mktemp("first") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setup, "load_frozen", fake_frozen())
        # it is made before the test has a cache of its own
        patch.setenv("CAPTUNE_CACHE", str(run.parent / "cache"))
        assert main(words(job, run, *QUICK)) == 0
    return run


@pytest.fixture
def files(job: Files, monkeypatch: pytest.MonkeyPatch) -> Files:
    monkeypatch.setattr(setup, "load_frozen", fake_frozen())
    return job


def save_decoder(folder: Path) -> Path:
    decoder = tiny_decoder("llama")
    decoder.module.save_pretrained(folder)
    decoder.tokenizer.save_pretrained(folder)
    return folder


def weights(run: Path) -> bytes:
    return (run / "lora" / "model.safetensors").read_bytes()


def test_cider_is_learnt_on_from_where_captions_left_off(
    files: Files, first: Path, tmp_path: Path
) -> None:
    more = (*QUICK, "--objective", "cider", "--start", str(first), "--lr", "1e-3")
    more = (*more, "--samples", "3", "--save-steps", "1", "--warmup", "0")
    whole, out = tmp_path / "whole", tmp_path / "stopped"
    assert main(words(files, whole, *more)) == 0
    assert weights(whole) != weights(first)
    with interrupted_after(5):
        assert main(words(files, out, *more)) == 130
    assert main(words(files, out, *more)) == 0  # what is sampled is the same again
    assert weights(out) == weights(whole)


def test_a_rate_of_next_to_nothing_keeps_the_weights_of_the_start(
    files: Files, first: Path, tmp_path: Path
) -> None:
    second = tmp_path / "second"
    assert main(words(files, second, *QUICK, "--start", str(first), "--lr", "1e-30")) == 0
    assert weights(second) == weights(first)


def test_another_start_is_another_training(
    files: Files, first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other, out = tmp_path / "other", tmp_path / "out"
    assert main(words(files, other, *QUICK, "--seed", "1", "--epochs", "1")) == 0
    assert main(words(files, out, *QUICK, "--start", str(first))) == 0
    capsys.readouterr()
    assert main(words(files, out, *QUICK, "--start", str(other))) == 2
    assert "was started with start" in capsys.readouterr().err


def test_a_start_of_another_make_is_refused(
    files: Files, first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    other = ("--score-model", "none", "--method", "adapter", "--start", str(first))
    assert main(words(files, tmp_path / "out", *other)) == 2
    assert 'was tuned with --method "lora", not adapter' in capsys.readouterr().err


def test_captions_that_were_chosen_are_learnt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The three commands of docs/tune.md, of images that nobody described."""
    model = telling_model()
    monkeypatch.setattr(frozen, "load_model", lambda spec, **where: model)
    use_encoder(monkeypatch, model)
    images, _, val = job = write_job(tmp_path / "job", val=24)
    decoder = save_decoder(tmp_path / "decoder")
    how = (*QUICK, "--decoder", str(decoder), "--json")
    first, captions, folder = (tmp_path / name for name in ("first", "captions.json", "unlabelled"))
    assert main(words(job, first, *how, "--rerank", "neighbours", "--candidates", "3")) == 0
    (folder / "deep").mkdir(parents=True)
    for n in range(6):
        Image.new("RGB", (60 + n, 20), (220, 20 * n, 30)).save(folder / "deep" / f"{n}.png")
    ask = ("caption", str(folder), "--model", str(first), "--max-tokens", "12", "--device", "cpu")
    assert main([*ask, "--to", str(captions)]) == 0
    assert "each caption chosen among 3" in capsys.readouterr().out
    texts = [row["caption"] for row in json.loads(captions.read_text())]
    assert len(texts) == 6

    second = tmp_path / "second"
    more = ("--val-images", str(images), "--start", str(first), "--warmup", "0")
    assert main(words((folder, captions, val), second, *how, *more)) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["trained_on"], printed["images"]) == (6, 24)
    assert not any(str(folder) in note for note in printed["notes"])  # each has its caption
    assert weights(second) != weights(first)
    found = read_dataset(captions, find_images([folder]))
    assert [*found.references.values()] == [[text] for text in texts]


@pytest.mark.needs("lite")
def test_fewer_blocks_and_words_come_back_with_the_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = write_job(tmp_path / "job")
    decoder, folder = tiny_decoder("llama"), save_decoder(tmp_path / "decoder")
    out = tmp_path / "run"
    short = ("--decoder", str(folder), "--decoder-blocks", "2", "--vocabulary", "captions")
    assert main(words(job, out, *QUICK, *short, "--json")) == 0
    printed = json.loads(capsys.readouterr().out)
    captioner, recipe = from_pretrained(out, device="cpu")
    assert len(captioner.parts.blocks) == recipe.decoder.blocks == 2
    known = {f"w{10 * kind + n}" for kind in range(4) for n in range(6)} | {"a", "<end>", "<pad>"}
    tokens = decoder.tokenizer.convert_ids_to_tokens(list(recipe.decoder.kept))
    assert set(tokens) <= known
    assert captioner.decoder.vocabulary == len(recipe.decoder.kept) < len(known) + 1
    assert printed["methods"][0]["cider"] is not None
