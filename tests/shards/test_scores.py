"""Scores of shards add up to those of all captions at once."""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from captune import score
from captune.errors import UserError

WORDS = [f"w{n}" for n in range(30)]
METRICS = ["bleu_1", "bleu_4", "cider", "rouge_l"]


def write(
    folder: Path, shards: int = 3, images: int = 40
) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Captions in `out`, references in `refs`; the same in memory."""
    chance = random.Random(0)
    captions, references = {}, {}
    (folder / "out").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "out" / "_captune.json").write_text("{}")
    for shard in range(shards):
        keys = [f"{shard}-{n}" for n in range(images)]
        for key in keys:
            captions[key] = " ".join(chance.choices(WORDS, k=6))
            references[key] = [" ".join(chance.choices(WORDS, k=7)) for _ in range(2)]
            references[key].append(captions[key][:9])
        own = [*(captions[key] for key in keys), None]
        table = pa.table({"key": [*keys, "broken"], "caption": own})
        pq.write_table(table, folder / "out" / f"{shard}.parquet")
        table = pa.table({"key": keys, "caption": [references[key] for key in keys]})
        pq.write_table(table, folder / "refs" / f"{shard}.parquet")
    return captions, references


def test_figures_are_those_of_all_at_once(tmp_path: Path) -> None:
    captions, references = write(tmp_path)
    how = {"df": "coco-val2017", "metrics": "bleu,cider,rouge_l"}
    whole = score(captions, references=references, **how).metrics
    found = score(tmp_path / "out", references=tmp_path / "refs", **how)
    assert found.images == 120
    for id in METRICS:
        ours, theirs = found.metrics[id], whole[id]
        assert ours.corpus == pytest.approx(theirs.corpus, abs=1e-12)
        width = theirs.ends.high - theirs.ends.low
        assert ours.ends.low == pytest.approx(theirs.ends.low, abs=0.15 * width)
        assert ours.ends.high == pytest.approx(theirs.ends.high, abs=0.15 * width)
        assert ours.recipe == theirs.recipe


def test_what_does_not_add_up_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    places = {"candidates": tmp_path / "out", "references": tmp_path / "refs"}
    with pytest.raises(UserError, match="a frozen table only"):
        score(**places)
    with pytest.raises(UserError, match="--out is not for shards of references"):
        score(**places, df="coco-val2017", out=tmp_path / "run")
    (tmp_path / "refs" / "1.parquet").unlink()
    with pytest.raises(UserError, match="1 has no references for 40 captions"):
        score(**places, metrics="bleu")
    found = score(**places, metrics="bleu", ignore_extra=True)
    assert found.images == 80
    assert any("40 captions without references" in note for note in found.notes)
