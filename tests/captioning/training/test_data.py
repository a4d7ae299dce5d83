from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.captioning.little_job import write_job
from tests.captioning.tiny import END, GRID, tiny_decoder

from captune.captioning.dataset import leaked_ids, read_dataset, tokenise
from captune.captioning.training.batches import Batches, TextGrids
from captune.errors import UserError
from captune.images import find_images
from captune.models.encoders import normalise


def test_captions_meet_their_images(tmp_path: Path) -> None:
    images, train, _ = write_job(tmp_path)
    data = read_dataset(train, find_images([images]))
    assert len(data) == 24
    assert data.images[0].name == data.ids[0]
    assert all(len(own) == 3 for own in data.captions)
    assert len(set(data.keys)) == 24
    assert data.notes == []


def test_the_limit_is_a_fixed_sample(tmp_path: Path) -> None:
    images, train, _ = write_job(tmp_path)
    found = find_images([images])
    ids = [read_dataset(train, found, limit=7, seed=seed).ids for seed in (3, 3, 4)]
    assert ids[0] == ids[1] != ids[2]
    assert len(ids[0]) == 7
    assert read_dataset(train, found, limit=7, seed=3).digest != (
        read_dataset(train, found, limit=7, seed=4).digest
    )


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    images, train, _ = write_job(tmp_path)
    rows = [json.loads(line) for line in train.read_text().splitlines()]
    rows[0]["captions"] = ["", "  "]
    rows[1]["captions"][0] = " "
    rows.append({"file_name": "gone.png", "captions": ["a w1"]})
    train.write_text("\n".join(map(json.dumps, rows)))
    (images / rows[2]["file_name"]).write_bytes(b"")
    data = read_dataset(train, find_images([images]))
    assert len(data) == 22
    assert [item.reason for item in data.skipped] == ["0 bytes"]
    notes = " ".join(data.notes)
    assert "1 of 25 images have no file" in notes
    assert "gone.png" in notes
    assert "1 image with empty captions only" in notes
    assert "3 captions left out as empty" in notes
    with pytest.raises(UserError, match="none of its 25 images"):
        empty = tmp_path / "elsewhere"
        empty.mkdir()
        (empty / "x.png").write_bytes((images / "1_101.png").read_bytes())
        read_dataset(train, find_images([empty]))


def test_validation_images_in_train_are_found_by_content(tmp_path: Path) -> None:
    images, train, val = write_job(tmp_path)
    (images / "0_100.png").write_bytes((images / "0_0.png").read_bytes())
    found = find_images([images])
    assert leaked_ids(read_dataset(train, found), read_dataset(val, found)) == ["0_100.png"]


def test_captions_are_tokenised_and_cut(tmp_path: Path) -> None:
    images, train, _ = write_job(tmp_path)
    data = read_dataset(train, find_images([images]))
    whole = tokenise(data, tiny_decoder("gpt2"), 60)
    assert whole.cut == 0
    assert all(row[-1] == END and END not in row[:-1] for rows in whole.rows for row in rows)
    cut = tokenise(data, tiny_decoder("gpt2"), 4)
    assert cut.cut == sum(len(row) > 4 for rows in whole.rows for row in rows) > 0
    assert max(len(row) for rows in cut.rows for row in rows) == 4
    assert all(row[-1] != END for rows in cut.rows for row in rows)


LENGTHS = [[3 + (7 * n + m) % 11 for m in range(5 if n % 4 else 3)] for n in range(200)]


def test_a_batch_has_one_number_of_captions_and_close_lengths() -> None:
    batches = Batches(LENGTHS, captions=32, seed=1)
    epoch = batches.of_epoch(0)
    assert len(epoch) == len(batches)
    assert sorted(e.image for batch in epoch for e in batch) == list(range(200))
    for batch in epoch:
        assert len({len(e.captions) for e in batch}) == 1
    padded = batches.padded_tokens(0)
    real = sum(map(sum, LENGTHS))
    longest_first = max(map(max, LENGTHS)) * sum(map(len, LENGTHS))
    assert real <= padded < 0.9 * longest_first


def test_an_epoch_depends_on_seed_and_number_only() -> None:
    one, other = (Batches(LENGTHS, captions=32, per_image=2, seed=s) for s in (1, 2))
    assert one.of_epoch(3) == Batches(LENGTHS, captions=32, per_image=2, seed=1).of_epoch(3)
    assert one.of_epoch(3) != one.of_epoch(4)
    assert one.of_epoch(3) != other.of_epoch(3)
    counts = {len(one.of_epoch(epoch)) for epoch in range(5)}
    assert counts == {len(one)}
    chosen = {e.captions for epoch in range(20) for b in one.of_epoch(epoch) for e in b}
    assert {len(captions) for captions in chosen} == {2}
    assert {place for captions in chosen for place in captions} == set(range(5))


def test_processes_share_the_batches() -> None:
    whole = Batches(LENGTHS, captions=32, seed=1)
    parts = [Batches(LENGTHS, captions=32, seed=1, process=p, processes=3) for p in range(3)]
    taken = [list(part) for part in parts]
    assert {len(part) for part in taken} == {len(parts[0])}
    images = {e.image for part in taken for batch in part for e in batch}
    assert images == {e.image for batch in whole for e in batch} == set(range(200))
    alone = [list(Batches([[4]], captions=8, process=p, processes=3)) for p in range(3)]
    assert alone[0] == alone[1] == alone[2] != []


def test_captions_alone_have_stand_ins_for_their_grids() -> None:
    chance = np.random.default_rng(0)
    images = normalise(chance.normal(size=(200, 6)).astype(np.float32))
    look = chance.normal(size=(6, GRID.channels)).astype(np.float32)
    means = images @ look + 3
    places = chance.normal(size=(200, GRID.tokens, GRID.channels)).astype(np.float32)
    seen = places - places.mean(axis=1, keepdims=True) + means[:, None]
    known_keys = [f"image {n}" for n in range(200)]

    class Known:
        def grids_of(self, keys: Sequence[str]) -> torch.Tensor:
            return torch.from_numpy(seen[[known_keys.index(key) for key in keys]])

    # texts lie elsewhere and closer together than what they describe
    texts = 0.2 * images + np.array([0.9, 0, 0, 0, 0, 0], dtype=np.float32)

    def made(noise: float) -> TextGrids:
        return TextGrids(
            Known(),
            ["text 3", "text 8"],
            texts[[3, 8]],
            known_keys=known_keys,
            known_texts=texts,
            images=images,
            means=means,
            noise=noise,
        )

    found = made(0.0).grids_of(["text 3", "image 5", "text 8"])
    torch.testing.assert_close(found[1], torch.from_numpy(seen[5]))
    for place, image in ((0, 3), (2, 8)):
        off = float((found[place] - torch.from_numpy(seen[image])).abs().mean())
        assert off < 0.1 * float(np.abs(seen[image] - seen[0]).mean())
    noisy, keys = made(0.5), ["text 3", "text 3", "text 3", "image 5"]
    plain = noisy.grids_of(keys)
    torch.testing.assert_close(plain[0], found[0])
    noisy.disturb(disturbed := plain.clone(), keys, [1, 2, 1, 3])
    first, second, again, image = disturbed
    assert torch.equal(first, again)
    assert torch.equal(image, plain[3])
    spread = (first - second).mean(dim=0)
    assert not torch.allclose(first, second)
    assert not torch.allclose(first, plain[0])
    # noise is of the whole image, not of its places
    torch.testing.assert_close(first - second, spread.expand(GRID.tokens, -1), atol=1e-5, rtol=1e-4)
