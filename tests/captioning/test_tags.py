from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.captioning.little_job import IDENTITY
from tests.captioning.tiny import GRID, PAD, WORDS, tiny_decoder
from tests.captioning.words_job import LABELS, telling_model
from tests.colour_model import colour_model

from captune.captioning.captioner import Captioner
from captune.captioning.checkpoint import ImageIdentity, TagSettings, recipe_of
from captune.captioning.datastore import Datastore
from captune.captioning.decoder_parts import narrowed
from captune.captioning.generate import grid_batches
from captune.captioning.model import IGNORED, CaptionModel, build_model
from captune.captioning.rerank import pooled
from captune.captioning.tags import (
    SimilarCaptions,
    Tagger,
    choose_tags_model,
    identity_of,
    tag_settings,
    texts_of_labels,
)
from captune.errors import UserError
from captune.features.cache import FeatureCache
from captune.features.pipeline import Encoding
from captune.images import ImageFile, find_images
from captune.models.encoders import ImageTextModel
from captune.models.load import load_image_text_model
from captune.options.tuning import TuneOptions
from captune.zeroshot.classifier import ZeroShotClassifier
from captune.zeroshot.labels import read_labels

ID = {word: place for place, word in enumerate(WORDS)}


@pytest.fixture
def images(colour_images: Path) -> list[ImageFile]:
    """Two red ones, two green ones, two blue ones."""
    return find_images([str(colour_images)]).images


def asked(top: int = 2, labels: Any = LABELS, least: float = 0.0) -> TagSettings:
    options = TuneOptions(tags=labels, tags_top=top, tags_least=least)
    return tag_settings(options, colour_model())


def tagger(known: TagSettings, places: int = 8, cache: Any = None, **more: Any) -> Tagger:
    model, decoder = more.get("model") or colour_model(), more.get("decoder")
    decoder = decoder or tiny_decoder("gpt2")
    return Tagger(known, model, decoder, places, more.get("encoder") or IDENTITY, GRID, cache)


def names_of(tagger: Tagger, images: list[ImageFile]) -> list[list[str]]:
    return tagger.names_of(images, torch.zeros(len(images), GRID.channels))


def rows_of(tagger: Tagger, images: list[ImageFile]) -> list[list[int]]:
    return tagger.rows(names_of(tagger, images))


def model_of(*, reads_tags: bool) -> CaptionModel:
    return build_model(
        tiny_decoder("gpt2"),
        GRID,
        bridge="bidirectional",
        method="none",
        bridge_settings={"width": 16, "heads": 2, "words": 4},
        reads_tags=reads_tags,
    )


def captioner_of(tags: TagSettings | None, tags_model: ImageTextModel | None) -> Captioner:
    model = model_of(reads_tags=tags is not None)
    recipe = recipe_of(model, IDENTITY, bridge="bidirectional", method="none", tags=tags)
    return Captioner(model, telling_model(), recipe, tags_model)


def test_the_likeliest_labels_are_told_first(images: list[ImageFile]) -> None:
    assert rows_of(tagger(asked(top=1)), images) == [
        [ID["w60"]], [ID["w60"]], [ID["w61"]], [ID["w61"]], [ID["w62"]], [ID["w62"]],
    ]  # fmt: skip
    # names are told as a list is written
    told: list[str] = []
    decoder = tiny_decoder("gpt2")

    def remember(texts: list[str], **how: object) -> dict[str, list[list[int]]]:
        told.extend(texts)
        return {"input_ids": [[] for _ in texts]}

    spy = dataclasses.replace(decoder, tokenizer=remember)
    rows_of(tagger(asked(top=3, labels="red,blue,green"), decoder=spy), images[:1])
    assert told == ["red, green, blue"] or told == ["red, blue, green"]


def test_only_labels_that_are_likely_enough_are_tags(images: list[ImageFile]) -> None:
    assert {len(own) for own in names_of(tagger(asked(top=3)), images)} == {3}
    assert names_of(tagger(asked(top=3, least=0.5)), images) == [
        ["w60"],
        ["w60"],
        ["w61"],
        ["w61"],
        ["w62"],
        ["w62"],
    ]


def test_captions_name_labels() -> None:
    known = asked(top=2, labels=["dog", "Hot dog", "bus", "ball", "C++"])
    captions = [["Two dogs near buses.", "A hot dog, a HOT DOG, a dog."], ["A dogged footballer"]]
    captions += [["a book of C++, open"], []]
    assert tagger(known).named_in(captions) == [["dog", "Hot dog"], [], ["C++"], []]


def test_what_is_more_than_the_bridge_has_places_for_is_cut(images: list[ImageFile]) -> None:
    long = TagSettings(("a b c red", "d"), None, 2, 0.0, identity_of(colour_model()))
    two = tagger(long, places=3)
    assert {len(row) for row in rows_of(two, images)} == {3}
    assert two.cut == len(images)
    whole = tagger(long)
    assert {len(row) for row in rows_of(whole, images)} == {5}
    assert whole.cut == 0


def test_images_are_seen_once_and_bad_ones_have_no_words(
    images: list[ImageFile], tmp_path: Path
) -> None:
    images[1].path.write_bytes(b"no image")
    for model in (colour_model(), colour_model()):
        with FeatureCache(tmp_path / "features") as cache:
            rows = rows_of(tagger(asked(), cache=cache, model=model), images)
        assert [len(row) for row in rows] == [2, 0, 2, 2, 2, 2]
    assert model.image.module.images == 0  # type: ignore[attr-defined]
    assert model.text.module.texts == 0  # type: ignore[union-attr]


@pytest.mark.parametrize("names", [["w60", "w61", "w62"], ["w60 a", "b w61"]])
def test_a_narrow_vocabulary_keeps_what_can_be_told(
    names: list[str], images: list[ImageFile]
) -> None:
    labels, decoder = read_labels(names), tiny_decoder("gpt2")
    tokens = {id for row in decoder.encode(texts_of_labels(labels)) for id in row}
    known = TagSettings(labels.names, None, 2, 0.0, identity_of(colour_model()))
    whole = rows_of(tagger(known, decoder=decoder), images)
    few = narrowed(tiny_decoder("gpt2"), tokens)
    narrow = rows_of(tagger(known, decoder=few), images)
    assert [[few.tokens[id] for id in row] for row in narrow] == whole


def test_tags_for_a_captioner(images: list[ImageFile]) -> None:
    """What explains captions, or writes them, makes tags by this alone."""
    with pytest.raises(UserError, match="loaded without that model"):
        captioner_of(asked(top=1), None)
    captioner = captioner_of(asked(top=1), colour_model())
    made = captioner.tagger()
    assert made is not None
    images[1].path.write_bytes(b"no image")
    found = made.tags_of(
        [images[4], images[1], images[2]], torch.zeros(3, GRID.tokens, GRID.channels)
    )
    assert found.tolist() == [[ID["w62"]], [IGNORED], [ID["w61"]]]
    assert captioner_of(None, None).tagger() is None
    # rows of a table have the same cells, whether or not an image has tags
    for top, least, read in ((1, 0.0, "w62"), (2, 1.0, "")):
        captioner = captioner_of(asked(top, least=least), colour_model())
        (one,) = captioner.caption([str(images[4].path)], max_tokens=2)
        assert one.answer()["read"] == one.record()["read"] == read


@pytest.mark.needs("lite")
def test_who_shares_the_encoder_recognises_in_its_grids_what_it_would_in_images(
    images: list[ImageFile],
) -> None:
    model = load_image_text_model("lite")
    patches = model.image.require_patches()
    encoder = ImageIdentity("lite", patches.weights_id, patches.preprocessing_id)
    known = TagSettings(read_labels("everyday").names, None, 3, 0.0, identity_of(model))
    classifier = ZeroShotClassifier("everyday", model=model, cache=False)
    likely = [[name for name, _ in found.top(3)] for found in classifier.classify(images)]
    (cached,) = (list(part.values()) for part in grid_batches(images, model.image, Encoding()))
    means = pooled(model.image.finish_grid(torch.from_numpy(np.stack(cached))), patches.shape)
    for image in images:
        image.path.unlink()
    made = Tagger(known, model, tiny_decoder("gpt2"), 64, encoder, patches.shape)
    assert made.names_of(images, means) == likely


def test_a_captioner_is_never_silently_without_its_tags() -> None:
    grid = torch.zeros(1, GRID.tokens, GRID.channels)
    with pytest.raises(UserError, match="was trained with tags of each image"):
        model_of(reads_tags=True).project(grid)
    model_of(reads_tags=False).project(grid)


def described_by(captions: list[list[str]]) -> tuple[Datastore, np.ndarray]:
    """Images in a row, each nearest to its neighbours, with these captions; and their grids."""
    angles = np.linspace(0, np.pi, len(captions))
    means = np.zeros((len(captions), GRID.channels), dtype=np.float32)
    means[:, 0], means[:, 1] = np.cos(angles), np.sin(angles)
    return Datastore.made(means, captions, "c0" * 32), means


def similar(store: Datastore, count: int, places: int = 64) -> SimilarCaptions:
    return SimilarCaptions(store, count, tiny_decoder("gpt2"), GRID, places)


def test_the_nearest_images_and_their_cosines() -> None:
    store, means = described_by([[f"w{n}"] for n in range(9)])
    vectors = store.vectors_of(means)
    near, cosines = store.nearest(vectors, 4)
    every = vectors @ store.vectors.T
    assert near.tolist() == np.argsort(-every, axis=1, kind="stable")[:, :4].tolist()
    assert np.allclose(cosines, -np.sort(-every, axis=1)[:, :4])
    assert store.nearest(vectors, 99)[0].shape == (9, 9)


def test_captions_of_the_nearest_images_stand_before_the_caption() -> None:
    store, means = described_by([[f"w{n} a", "b"] for n in range(6)])
    between, end = (PAD, PAD)  # signs that this tokenizer does not know
    (row,) = similar(store, 2).rows(means[:1])
    assert list(row) == [ID["w0"], ID["a"], between, ID["w1"], ID["a"], end]
    # those that there is room for, and nothing of one that is too long or no text
    (row,) = similar(store, 2, places=5).rows(means[:1])
    assert list(row) == [ID["w0"], ID["a"], end]
    store, means = described_by([["a " * 5000], ["\ud800 b"], [" "], ["w1"]])
    (row,) = similar(store, 4).rows(means[:1])
    assert list(row) == [PAD, ID["b"], between, ID["w1"], end]
    grids = torch.from_numpy(means)[:, None].expand(-1, GRID.tokens, -1)
    assert similar(store, 4).tags_of([], grids[:1]).tolist() == [list(row)]


def test_training_never_draws_captions_of_the_image_itself() -> None:
    store, _ = described_by([[f"w{n}", f"w{n + 20}"] for n in range(12)])
    keys = ["same", "same", *map(str, range(2, 12))]
    drawn = similar(store, 3).drawn(keys, 0, lambda done: None)
    assert list(drawn) == list(dict.fromkeys(keys))
    for key, rows in drawn.items():
        own = {ID[f"w{n + m}"] for n, name in enumerate(keys) if name == key for m in (0, 20)}
        assert all(own.isdisjoint(row) for row in rows)
        # with words and a sign each, and an end
        assert all(len(row) in (0, 2, 4, 6) for row in rows)
    assert {len(row) for rows in drawn.values() for row in rows} == {0, 2, 4, 6}
    assert drawn == similar(store, 3).drawn(keys, 0, lambda done: None)
    assert drawn != similar(store, 3).drawn(keys, 1, lambda done: None)
    # one image alone has no neighbour
    alone, _ = described_by([["w1"]])
    assert all(not row for row in similar(alone, 3).drawn(["0"], 0, lambda done: None)["0"])


def test_which_model_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []

    def load(spec: str, **where: Any) -> Any:
        loaded.append(spec)
        return dataclasses.replace(colour_model(), spec=spec)

    monkeypatch.setattr("captune.models.load.load_model", load)
    encoder, clip = telling_model(), dataclasses.replace(colour_model(), spec="lite")
    silent = dataclasses.replace(encoder, text=None, scoring=None)
    named = TuneOptions(tags="everyday", tags_model="hf:clip")
    assert choose_tags_model(TuneOptions(), [encoder, clip]) is encoder
    assert choose_tags_model(TuneOptions(), [silent, clip]) is clip
    assert loaded == []
    assert choose_tags_model(TuneOptions(), [silent, None]).spec == "lite"
    assert choose_tags_model(named, [encoder, clip]).spec == "hf:clip"
    assert loaded == ["lite", "hf:clip"]
