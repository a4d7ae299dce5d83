"""lmms-eval's and torchmetrics' interfaces: the figures are those of the metrics themselves."""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import Any

import pytest

from captune_metrics import Corpus, DocumentFrequency, bleu_of, cider_of, lmms_eval, rouge_l_of
from captune_metrics.errors import UserError
from captune_metrics.torchmetrics import BLEUScore, CaptionScores, CIDErScore, ROUGELScore

PREDS = ["a dog runs on grass", "a brown cat", "two men play", "a red bus"]
TARGET = [
    ["A dog is running on the grass.", "the dog runs"],
    ["A cat that is brown sits."],
    ["Two men play football.", "men with a ball", "two players"],
    ["a bus, red, in a street"],
]
CORPUS = Corpus(
    {str(i): pred for i, pred in enumerate(PREDS)},
    {str(i): references for i, references in enumerate(TARGET)},
)
EXPECTED = {
    **{name: score.corpus for name, score in bleu_of(CORPUS).items()},
    "rouge_l": rouge_l_of(CORPUS).corpus,
    "cider": cider_of(CORPUS).corpus,
}


def results() -> list[dict[str, Any]]:
    pairs = enumerate(zip(PREDS, TARGET, strict=True))
    return [{"image_id": i, "pred": pred, "answer": own, "id": i} for i, (pred, own) in pairs]


def test_lmms_eval_gets_the_figures() -> None:
    found = [
        *(lmms_eval.bleu1, lmms_eval.bleu2, lmms_eval.bleu3, lmms_eval.bleu4),
        *(lmms_eval.rougel, lmms_eval.cider),
    ]
    assert [function(results(), None) for function in found] == pytest.approx([*EXPECTED.values()])
    assert lmms_eval.aggregate(results(), "CIDEr") == EXPECTED["cider"]
    assert lmms_eval.cider([*results(), results()[0]]) == EXPECTED["cider"]


def test_what_lmms_eval_cannot_mean_is_refused() -> None:
    with pytest.raises(UserError, match='metric "SPICE": expected one of Bleu_1, '):
        lmms_eval.aggregate(results(), "SPICE")
    with pytest.raises(UserError, match="a result has no pred and no answer"):
        lmms_eval.cider([{"image_id": 1}])
    with pytest.raises(UserError, match='image "0": expected one result each'):
        lmms_eval.cider([*results(), {**results()[0], "pred": "another"}])


@pytest.mark.parametrize(
    ("metric", "name"),
    [(CIDErScore(), "cider"), (ROUGELScore(), "rouge_l"), (BLEUScore(), "bleu_4"),
     (BLEUScore(n_gram=2), "bleu_2")],
)  # fmt: skip
def test_a_figure_is_that_of_all_batches_together(metric: Any, name: str) -> None:
    for start in range(0, 4, 3):
        metric.update(PREDS[start : start + 3], TARGET[start : start + 3])
    assert metric.compute() == pytest.approx(EXPECTED[name], abs=1e-12)
    metric.reset()
    with pytest.raises(UserError, match="no captions to score"):
        metric.compute()


def test_all_of_them_by_name_also_from_a_frozen_table() -> None:
    scores = CaptionScores()
    assert scores(PREDS, TARGET) == pytest.approx(EXPECTED)
    table = DocumentFrequency.shipped("coco-val2017")
    frozen = CIDErScore(table)
    frozen.update(PREDS[:1], TARGET[:1])
    assert frozen.compute() == pytest.approx(cider_of(CORPUS, table).per_image["0"])


def test_forward_gives_the_batch_and_keeps_it() -> None:
    metric = ROUGELScore()
    each = [metric([pred], [own]) for pred, own in zip(PREDS, TARGET, strict=True)]
    assert each == pytest.approx([*rouge_l_of(CORPUS).per_image.values()])
    assert metric.compute() == pytest.approx(EXPECTED["rouge_l"])


def test_processes_are_merged_and_what_a_sampler_repeats_counts_once() -> None:
    parts = [CIDErScore(), CIDErScore()]
    for part, rows in zip(parts, ([0, 2], [1, 3, 0]), strict=True):
        part.update([PREDS[i] for i in rows], [TARGET[i] for i in rows], ids=rows)
    whole = CIDErScore()
    whole.merge_state(pickle.loads(pickle.dumps(parts[0].state())))
    whole.merge_state(parts[1])
    assert whole.compute() == pytest.approx(EXPECTED["cider"])
    whole.update(["another"], [TARGET[0]], ids=[0])
    with pytest.raises(UserError, match='image "0" was added with two different captions'):
        whole.compute()


def test_lengths_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="2 preds, 1 sets of references in target and 2 ids"):
        BLEUScore().update(PREDS[:2], TARGET[:1])
    with pytest.raises(ValueError, match="n_gram = 5"):
        BLEUScore(5)


def test_neither_torch_nor_java_nor_captune_is_loaded() -> None:
    program = (
        "import sys, captune_metrics.torchmetrics, captune_metrics.lmms_eval\n"
        "import captune_metrics.pycocoevalcap, captune_metrics.__main__\n"
        "found = {'torch', 'torchmetrics', 'lmms_eval', 'pycocotools', 'captune', 'scipy'}\n"
        "assert not found & sys.modules.keys(), found & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
