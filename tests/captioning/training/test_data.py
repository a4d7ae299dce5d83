from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.captioning.little_job import write_job
from tests.captioning.tiny import END, tiny_decoder

from captune.captioning.dataset import leaked_ids, read_dataset, tokenise
from captune.captioning.training.batches import Batches
from captune.errors import UserError
from captune.images import find_images


def test_captions_meet_their_images(tmp_path: Path) -> None:
    images, train, _ = write_job(tmp_path)
    data = read_dataset(train, find_images([images]))
    assert len(data) == 24
    assert data.images[0].name == data.ids[0]
    assert all(len(own) == 3 for own in data.captions)
    assert len(set(data.keys)) == 24
    assert "images have no captions" in data.notes[0]


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
    assert "1 images have empty captions only" in notes
    assert "3 captions are empty" in notes
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
