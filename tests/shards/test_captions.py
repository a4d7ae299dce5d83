"""Captions of shards are those of a folder, and other commands read them."""

from __future__ import annotations

from pathlib import Path

import pytest

from captune import caption, compare, rank, score
from captune.cli import main
from captune.errors import UserError
from captune.runs import read_run
from tests.captioning.caption_job import use_encoder, with_agreement, write_captioner, write_images
from tests.pages.page_reader import outline
from tests.shards import toy
from tests.shards.conftest import here, rows_of


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = write_captioner(tmp_path_factory.mktemp("captioner") / "run")
    return with_agreement(made, made.parent / "agreeing")


@pytest.fixture
def tar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    use_encoder(monkeypatch)
    monkeypatch.setattr("captune.jobs.shards.run_local", here)
    images = write_images(tmp_path / "images", 10)
    members = [(path.name, path.read_bytes()) for path in sorted(images.iterdir())]
    return toy.write_tar(tmp_path / "in" / "0.tar", members)


HOW = {"beam": 2, "max_tokens": 8, "batch_size": 4, "device": "cpu"}


def test_captions_of_a_tar_are_those_of_its_images(
    tmp_path: Path, tar: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loose = caption(tmp_path / "images", model=model, flag_below=0.5, **HOW)
    out = tmp_path / "out"
    caption(tar, model=model, out=out, flag_below=0.5, **HOW)
    rows = rows_of(out, "0")
    assert [row["key"] for row in rows] == [f"image_{n:03}" for n in range(10)]
    assert [row["caption"] for row in rows] == [one.caption for one in loose]
    assert [row["log_probability"] for row in rows] == pytest.approx(
        [one.log_probability for one in loose], abs=1e-4
    )
    assert [row["flagged"] for row in rows] == [(one.agreement or 0) < 0.5 for one in loose]
    metrics = read_run(out).metrics
    assert metrics["ended"] == sum(one.ended for one in loose)
    assert metrics["words_mean"] == sum(len(one.caption.split()) for one in loose) / 10
    assert metrics["flagged"] == sum(row["flagged"] for row in rows)
    # its cards are named by the images, and all of them are there
    words = outline(out / "report.html").words
    assert "image_000" in words
    assert "sample" not in words
    monkeypatch.setattr("captune.shards.driver.SAMPLE", 4)
    caption(tar, model=model, out=tmp_path / "few", **HOW)
    assert "The images here are a sample." in outline(tmp_path / "few" / "report.html").words


def test_scores_and_comparisons_read_them(tmp_path: Path, tar: Path, model: Path) -> None:
    out, again = tmp_path / "out", tmp_path / "again"
    caption(tar, model=model, out=out, **HOW)
    toy.write_tar(tmp_path / "in" / "1.tar", [("image_000.png", b"broken")])
    caption(tmp_path / "in", model=model, out=again, **{**HOW, "beam": 1})
    references = {f"image_{n:03}": ["a b c", "w1 w2"] for n in range(10)}
    scored = tmp_path / "scored"
    found = score(out, references=references, metrics="bleu,cider", no_interval=True, out=scored)
    assert found.images == 10
    assert rank(scored, top=2).images == 10
    assert compare(out, again, references=references, metrics="cider").images == 10
    run = tmp_path / "run"
    main(["shards", "merge", str(out), "--out", str(run)])
    with pytest.raises(UserError, match="holds a sample of 10 captions; give"):
        score(run, references=references)
