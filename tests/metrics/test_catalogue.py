"""Which spelling means which metric, and what metrics need."""

from __future__ import annotations

import pytest

from captune.scoring.score import chosen_metrics
from captune_metrics.catalogue import metric_id, metric_of
from captune_metrics.errors import UserError


@pytest.mark.parametrize(
    ("spelled", "id"),
    [
        *(("CIDEr-D", "cider"), ("CIDEr", "cider"), ("cider_d", "cider"), ("CIDEr D", "cider")),
        *(("cider-original", "cider_original"), ("ROUGE", "rouge_l"), ("ROUGE-L", "rouge_l")),
        *(("rougeL", "rouge_l"), ("bleu4", "bleu_4"), ("bleu@4", "bleu_4"), ("BLEU-4", "bleu_4")),
        *(("Bleu 1", "bleu_1"), ("B@2", "bleu_2"), ("BLEU", "bleu"), ("METEOR", "meteor")),
        *(("CLIP-S", "clipscore"), ("CLIPScore", "clipscore"), ("RefCLIP-S", "ref_clipscore")),
        *(("RefCLIPScore", "ref_clipscore"), ("CLIPScore (hw3)", "clipscore_hw3")),
        (" clipscore_hw3 ", "clipscore_hw3"),
    ],
)
def test_metrics_are_known_as_tables_and_papers_spell_them(spelled: str, id: str) -> None:
    assert metric_id(spelled) == id
    asked = chosen_metrics(spelled, references=True, images=True)
    assert [metric.id for metric in asked] == (
        [id] if id != "bleu" else ["bleu_1", "bleu_2", "bleu_3", "bleu_4"]
    )


def test_what_is_not_ours_is_not_taken_for_ours() -> None:
    assert metric_id("My-Metric") == "my_metric"
    assert metric_id("bleu_5") == "bleu_5"
    for spelled in ("bleu_5", "spice", "cider\x1b[2J"):
        with pytest.raises(UserError, match="is not known; choose among bleu") as caught:
            metric_of(spelled)
        assert str(caught.value).isprintable()
