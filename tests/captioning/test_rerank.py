"""Captions chosen among candidates: who chooses, by what, and with which weights."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from msgspec import structs
from safetensors.numpy import save_file
from tests.captioning.caption_job import (
    image_model,
    use_encoder,
    write_captioner,
    write_images,
)
from tests.captioning.tiny import END, GRID, grids
from tests.colour_model import colour_model

import captune
from captune.captioning import rerank
from captune.captioning.captioner import Captioner
from captune.captioning.checkpoint import ImageIdentity, from_pretrained, write_beside
from captune.captioning.dataset import CaptionDataset
from captune.captioning.datastore import DATASTORE, FORMAT, Datastore, Summary, load_store
from captune.captioning.model import CaptionModel
from captune.captioning.rerank import (
    Reranker,
    fit_weights,
    pooled,
    read_reranking,
    reranking_of,
)
from captune.captioning.settings import RERANK
from captune.captioning.training.validation import ValidationSet, write_captions
from captune.errors import UserError
from captune.images import find_images
from captune.models.encoders import ImageTextModel
from captune.options.captioning import CaptionerOptions
from captune.runs import read_run
from captune.runs.metrics import Reranking, RerankWeights
from captune.runs.records import Candidate

LONGEST = 8
IDENTITY = ImageIdentity("places", "c0" * 32, "whole-9")
CHANNELS = GRID.channels


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_captioner(tmp_path_factory.mktemp("captioner") / "run")


@pytest.fixture(scope="module")
def model(place: Path) -> CaptionModel:
    return from_pretrained(place, device="cpu")[0]


def candidates_of(model: CaptionModel, count: int = 4) -> list[list[Candidate]]:
    seen: list[list[list[Candidate]]] = []

    def judge(drafts: list[list[Candidate]]) -> list[list[Candidate]]:
        seen.append(drafts)
        return drafts

    model.generate(grids(3), beams=2, max_tokens=LONGEST, candidates=count, judge=judge)
    return seen[0]


def test_candidates_are_the_beams_with_their_log_probabilities(model: CaptionModel) -> None:
    found = candidates_of(model)
    first = model.generate(grids(3), beams=4, max_tokens=LONGEST)
    for number, own in enumerate(found):
        assert [id for id in own[0].ids if id != END] == first.ids[number]
        means = [one.mean_log_probability for one in own]
        assert means == sorted(means, reverse=True)
        assert means[0] == pytest.approx(np.mean(first.log_probabilities[number]), abs=1e-4)
        assert len({tuple(one.ids) for one in own}) == len(own) == 4


def test_who_knows_the_answer_chooses_it(model: CaptionModel) -> None:
    wanted = [own[place].ids for own, place in zip(candidates_of(model), (3, 0, 2), strict=True)]

    def judge(drafts: list[list[Candidate]]) -> list[list[Candidate]]:
        return [
            [structs.replace(one, score=float(one.ids == right)) for one in own]
            for own, right in zip(drafts, wanted, strict=True)
        ]

    found = model.generate(grids(3), beams=4, max_tokens=LONGEST, candidates=4, judge=judge)
    assert found.ids == [[id for id in right if id != END] for right in wanted]
    assert found.candidates is not None
    # the log-probabilities are those of the caption that was chosen
    for number, right in enumerate(wanted):
        assert len(found.log_probabilities[number]) == len(right)


def told(caption: str, likely: float, **evidence: float) -> Candidate:
    return Candidate(caption, 0.0, likely, **evidence)  # type: ignore[arg-type]


def settings(evidence: Any = "match", *weights: float, **more: Any) -> Reranking:
    return Reranking(evidence, 4, RerankWeights(*(weights or (0.0, 1.0, 1.0))), **more)


def test_match_is_the_cosine_by_another_model(tmp_path: Path) -> None:
    from PIL import Image

    names = ("red", "blue")
    for name in names:
        Image.new("RGB", (8, 8), name).save(tmp_path / f"{name}.png")
    images = find_images([tmp_path]).images
    drafts = [[told("a red bus", -1), told("a blue bus", -2), told("a bus", -3)] for _ in images]
    chooses = Reranker(settings(), IDENTITY, GRID, colour_model())
    found = chooses.judged(drafts, images, torch.zeros(2, GRID.tokens, CHANNELS), None)
    best = {
        image.name: max(own, key=lambda one: one.score).caption
        for image, own in zip(images, found, strict=True)
    }
    assert best == {"red.png": "a red bus", "blue.png": "a blue bus"}
    assert all(one.match == one.score and one.neighbours is None for own in found for one in own)
    # with the log-probability alone the first one stays
    chooses = Reranker(settings("match", 1.0, 0.0), IDENTITY, GRID, colour_model())
    found = chooses.judged(drafts, images, torch.zeros(2, GRID.tokens, CHANNELS), None)
    assert [max(own, key=lambda one: one.score).caption for own in found] == ["a red bus"] * 2


def looks(*kinds: int) -> torch.Tensor:
    """Grids of images of these kinds, [images, tokens, channels]."""
    rows = torch.nn.functional.one_hot(torch.tensor(kinds), CHANNELS).float()
    return rows[:, None].expand(-1, GRID.tokens, -1)


def datastore(weights_id: str = "c0" * 32) -> Datastore:
    kinds = [n % 3 for n in range(36)]
    words = ("a dog runs on the grass", "two boats on a lake", "a child eats an apple")
    means = looks(*kinds)[:, 0] + 0.01 * torch.randn(36, CHANNELS)
    return Datastore.made(means.numpy(), [[words[kind], words[kind]] for kind in kinds], weights_id)


def test_neighbours_are_the_captions_of_images_that_look_alike(tmp_path: Path) -> None:
    datastore().save(tmp_path / DATASTORE)
    stored = load_store(tmp_path / DATASTORE, IDENTITY, GRID)
    assert isinstance(stored, Datastore)
    assert stored.captions == datastore().captions
    chooses = Reranker(settings("neighbours"), IDENTITY, GRID, datastore=stored)
    offered = [told("a dog runs on grass", -1), told("two boats on the lake", -1)]
    found = chooses.judged([offered] * 2, [], looks(0, 1), None)
    first, second = ([one.neighbours for one in own] for own in found)
    assert first[0] > 10 * first[1]  # type: ignore[operator]
    assert second[1] > 10 * second[0]  # type: ignore[operator]


def summary() -> Summary:
    """Of images of the first kind dogs are said, of those of the second boats."""
    look = np.eye(CHANNELS, 2, dtype=np.float32)
    grams = ["dog", "boats", "a dog", "two boats", "two"]
    say = np.array([[1, -1, 1, -1, 0], [-1, 1, -1, 1, 0]], dtype=np.float32)
    centre = np.zeros(CHANNELS, dtype=np.float32)
    return Summary(centre, look, say, np.ones(5, dtype=np.float32), grams, "c0" * 32)


def test_a_summary_says_it_without_captions(tmp_path: Path) -> None:
    summary().save(tmp_path / DATASTORE)
    stored = load_store(tmp_path / DATASTORE, IDENTITY, GRID)
    assert isinstance(stored, Summary)
    assert stored.grams == summary().grams
    texts = ["a dog", "two boats", "an unknown word", ""]
    first, second = stored.evidence(looks(0, 1)[:, 0].numpy(), [texts, texts])
    # an order of n-grams each: one of the two words, and both
    assert first == pytest.approx([2**-0.5 + 1, -(2**-0.5) - 1, 0, 0])
    assert second == pytest.approx(-first)
    # what a caption says besides makes its vector shorter in that direction
    (longer,) = stored.evidence(looks(0)[:, 0].numpy(), [["a dog runs fast"]])
    assert longer == pytest.approx([1 / 2 + 3**-0.5])
    for parts in ({"grams": ["dog"] * 5}, {"idf": np.full(5, np.nan, np.float32)}):
        dataclasses.replace(summary(), **parts).save(tmp_path / DATASTORE)
        with pytest.raises(UserError, match="make it again"):
            load_store(tmp_path / DATASTORE, IDENTITY, GRID)


def test_the_encoder_that_has_seen_the_image_is_not_asked_again(tmp_path: Path) -> None:
    own = image_model()
    patches = own.image.require_patches()
    embeds = dataclasses.replace(patches, embed=lambda means: means[:, :3])
    matcher = dataclasses.replace(own, image=dataclasses.replace(own.image, patches=embeds))
    chooses = Reranker(settings(), IDENTITY, GRID, matcher)
    # there are no such images: nothing but the grids can tell
    drafts = [[told("red", -1), told("green", -1)]] * 2
    found = chooses.judged(drafts, [], looks(0, 1), None)
    assert [max(one, key=lambda c: c.score).caption for one in found] == ["red", "green"]


def test_another_image_is_shown_to_who_writes_and_to_who_chooses(
    model: CaptionModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = find_images([write_images(tmp_path, 3)]).images
    seen: list[tuple[list[str], torch.Tensor]] = []

    def look(matcher: Any, encoder: Any, images: Any, means: torch.Tensor, cache: Any) -> Any:
        seen.append(([image.name for image in images], means))
        return np.ones((len(images), 3), dtype=np.float32)

    class Shown:
        def grids_of(self, keys: Any) -> torch.Tensor:
            return grids(3)[[int(key) for key in keys]]

    monkeypatch.setattr(rerank, "vectors_of", look)
    ids, others = ["a", "b", "c"], [2, 0, 1]
    data = CaptionDataset(ids, images, ["0", "1", "2"], [["a w1"]] * 3, tmp_path)
    chooses = Reranker(settings(), IDENTITY, GRID, colour_model())
    how: dict[str, Any] = {"reranker": chooses}
    val = ValidationSet(data, [], Shown(), max_tokens=LONGEST)
    wrong = write_captions(model, val, instead=others, **how)
    ((names, means),) = seen
    assert names == [images[place].name for place in others]
    torch.testing.assert_close(means, pooled(grids(3)[others], GRID))
    right = write_captions(model, val, **how)
    assert list(wrong.captions) == ids
    assert [wrong.captions[id] for id in ids] == [right.captions[ids[n]] for n in others]


def planted(count: int, seed: int = 0) -> tuple[dict[str, list[Candidate]], dict[str, list[str]]]:
    """Candidates of which `match` knows the right one, and log-probability knows nothing."""
    chance = random.Random(seed)
    words = ["dog", "boat", "child", "tree", "horse", "bus", "bird", "train"]
    offered, references = {}, {}
    for n in range(count):
        some = chance.sample(words, 3)
        references[str(n)] = [f"a {some[0]} stands in the street", f"the {some[0]} is in a street"]
        offered[str(n)] = [
            told(
                f"a {word} stands in a street",
                -chance.random(),
                match=0.3 * (word == some[0]) + 0.1 * chance.random(),
            )
            for word in chance.sample(some, 3)
        ]
    return offered, references


def test_fitted_weights_follow_what_knows_the_truth() -> None:
    found = fit_weights(settings(), *planted(60))
    assert found is not None
    assert found.figures is not None
    weights, figures = found.weights, found.figures
    assert weights.match > 5 * abs(weights.mean_log_probability)
    assert weights.neighbours == 0
    assert figures.chosen == pytest.approx(figures.best)
    assert figures.chosen > figures.first
    assert figures.interval.low > 0
    assert figures.bleu_4_chosen > figures.bleu_4_first
    assert fit_weights(settings(), *planted(19)) is None


def asked(folder: Path, **given: Any) -> Reranking | None:
    return reranking_of(folder, CaptionerOptions(**given))


def test_what_the_options_ask(tmp_path: Path) -> None:
    assert asked(tmp_path) is None
    plain = asked(tmp_path, rerank="both", candidates=7)
    assert plain is not None
    assert (plain.evidence, plain.candidates, plain.model) == ("both", 7, "lite")
    stored = settings("match", 0.5, 2.0, model="clip", weights_id="ab")
    write_beside(tmp_path / RERANK, stored)
    assert read_reranking(tmp_path) == asked(tmp_path) == stored
    other = asked(tmp_path, rerank="match", rerank_model="mine")
    assert other is not None
    # the stored weights were not fitted with that model
    assert (other.model, other.weights_id, other.figures) == ("mine", None, None)
    assert asked(tmp_path, rerank="none") is None
    for how, said in (
        ({"rerank": "none", "candidates": 3}, "candidates is for --rerank match, neighbours or"),
        ({"rerank": "neighbours", "rerank_model": "lite"}, "rerank-model is for --rerank match or"),
        ({"rerank": "match", "datastore": Path("x")}, "datastore is for --rerank neighbours or"),
    ):
        with pytest.raises(UserError, match=said):
            asked(tmp_path, **how)
    (tmp_path / RERANK).write_text('{"schema": 1, "evidence": "luck"}')
    with pytest.raises(UserError, match=r"rerank.json is not how a captioner chooses"):
        asked(tmp_path, rerank="none")


def test_a_datastore_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / DATASTORE
    good = datastore()
    text = json.dumps(good.captions).encode()
    tensors = {
        "vectors": good.vectors.astype(np.float16),
        "centre": good.centre,
        "text": np.frombuffer(text, dtype=np.uint8),
    }
    about = {"format": FORMAT, "weights_id": "c0" * 32}
    broken: list[tuple[dict[str, Any], dict[str, str], str]] = [
        (tensors, {}, "is not a datastore"),
        (tensors, about | {"weights_id": "other"}, "another image encoder"),
        (tensors | {"centre": good.centre[:3]}, about, "does not hold what"),
        (tensors | {"more": good.centre}, about, "does not hold what"),
        (tensors | {"vectors": good.vectors}, about, "does not hold what"),
        (tensors | {"text": np.frombuffer(b'[["a"]]', np.uint8)}, about, "captions of each"),
        (tensors | {"text": np.frombuffer(b"[" * 9999, np.uint8)}, about, "captions of each"),
        (tensors | {"centre": good.centre * np.nan}, about, "captions of each"),
        # lists that take far more memory than their text
        (tensors | {"text": np.frombuffer(b"[" + b"[]," * 2**23, np.uint8)}, about, "captions of"),
    ]
    for parts, metadata, said in broken:
        save_file(parts, path, metadata=metadata)
        with pytest.raises(UserError, match=said):
            load_store(path, IDENTITY, GRID)
    path.write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(UserError, match="not a complete safetensors file"):
        load_store(path, IDENTITY, GRID)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match="not a complete safetensors file"):
        load_store(path, IDENTITY, GRID)


@pytest.fixture
def job(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A captioner that was tuned with --rerank both."""
    use_encoder(monkeypatch)
    matcher: ImageTextModel = colour_model()
    monkeypatch.setattr(rerank, "load_image_text_model", lambda spec, **where: matcher)
    shutil.copytree(place, tmp_path / "tuned")
    datastore().save(tmp_path / "tuned" / DATASTORE)
    # the unlikeliest of four, unless something speaks for another
    write_beside(tmp_path / "tuned" / RERANK, settings("both", -1.0, 0.1, 0.1, model="colours"))
    return tmp_path / "tuned"


def test_a_run_tells_how_it_chose(job: Path, tmp_path: Path) -> None:
    images, out = write_images(tmp_path / "images", 5), tmp_path / "out"
    how: dict[str, Any] = {"model": job, "max_tokens": LONGEST, "batch_size": 2, "device": "cpu"}
    found = captune.caption(images, out=out, keep_candidates=True, **how)
    run = read_run(out)
    for record in run.records():
        offered = record["candidates"]
        assert [one["score"] for one in offered] == sorted(
            (one["score"] for one in offered), reverse=True
        )
        assert record["caption"] == offered[0]["caption"]
        assert offered[0].keys() >= {"match", "neighbours", "mean_log_probability"}
    assert run.metrics["reranking"]["evidence"] == "both"
    assert [model["spec"] for model in run.about["models"]][-1] == "colours"
    assert "each caption chosen among 4" in " ".join(found.sentences())
    assert found[0].candidates is not None
    plain = captune.caption(images, rerank="none", **how)
    assert [one.caption for one in plain] != [one.caption for one in found]
    # as Python has it, and as the maps explain it
    captioner = Captioner.from_pretrained(job, device="cpu")
    alone = captioner.caption(images, max_tokens=LONGEST, batch_size=2)
    assert [one.caption for one in alone] == [one.caption for one in found]
    explained = captune.explain(images, faithfulness="none", **how)
    assert [one.caption for one in explained] == [one.caption for one in found]


def test_a_captioner_without_its_datastore(job: Path, tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", 1)
    (job / DATASTORE).unlink()
    with pytest.raises(UserError, match=r"there is no datastore\.safetensors in"):
        captune.caption(images, model=job, device="cpu")
    write_beside(job / RERANK, settings("match", model="colours", weights_id="other"))
    with pytest.raises(UserError, match="its weights were fitted with another colours than this"):
        captune.caption(images, model=job, device="cpu")
