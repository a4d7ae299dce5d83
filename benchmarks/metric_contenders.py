"""What benchmarks/metrics.py measures: each piece of work with its library, and the captions."""

from __future__ import annotations

import contextlib
import gc
import io
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SHARED = Path(os.environ.get("CAPTUNE_SHARED", Path(__file__).parents[2] / "shared"))
REWARD_BATCH = 32

Captions = dict[str, Any]


def captune_all(captions: Captions, _: int) -> dict[str, Any]:
    """PTB, CIDEr-D, BLEU and ROUGE-L from captions as they were written."""
    from captune_metrics import ptb
    from captune_metrics.bleu_n import bleu_of
    from captune_metrics.cider_d import cider_of
    from captune_metrics.corpus import Corpus
    from captune_metrics.rouge import rouge_l_of

    parts: dict[str, float] = {}
    candidates, references = captions["candidates"], captions["references"]

    def tokenize(texts: list[str]) -> list[str]:
        tokens: list[str] = timed(lambda: ptb.tokenize_each(texts), parts, "tokenising")
        return tokens

    corpus = timed(
        lambda: Corpus(candidates, references, tokenize=tokenize), parts, "words to numbers"
    )
    parts["words to numbers"] -= parts["tokenising"]
    timed(lambda: corpus.ngrams(4), parts, "n-grams")
    scores = {"cider": timed(lambda: cider_of(corpus), parts, "CIDEr-D")}
    scores |= timed(lambda: bleu_of(corpus), parts, "BLEU")
    scores["rouge_l"] = timed(lambda: rouge_l_of(corpus), parts, "ROUGE-L")
    values = {name: list(score.per_image.values()) for name, score in scores.items()}
    return {"seconds": sum(parts.values()), "parts": parts, "values": values}


def captune_one(metric: str) -> Callable[[Captions, int], dict[str, Any]]:
    """One metric from captions that are tokenised already."""

    def work(captions: Captions, _: int) -> dict[str, Any]:
        from captune_metrics.bleu_n import bleu_of
        from captune_metrics.cider_d import cider_of
        from captune_metrics.corpus import Corpus
        from captune_metrics.rouge import rouge_l_of

        score: dict[str, Callable[[Corpus], Any]] = {
            "cider": cider_of,
            "bleu": lambda corpus: bleu_of(corpus)["bleu_4"],
            "rouge_l": rouge_l_of,
        }
        own, other = captions["tokenised_candidates"], captions["tokenised_references"]
        parts: dict[str, float] = {}
        scores = timed(lambda: score[metric](Corpus(own, other, "none")), parts)
        return {"seconds": parts["work"], "values": {metric: list(scores.per_image.values())}}

    return work


def pycocoevalcap_all(captions: Captions, _: int) -> dict[str, Any]:
    """The same with the Java tokenizer and the Python scorers of the field."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    parts: dict[str, float] = {}
    own = {id: [{"caption": text}] for id, text in captions["candidates"].items()}
    other = {
        id: [{"caption": text} for text in texts] for id, texts in captions["references"].items()
    }
    with contextlib.redirect_stdout(io.StringIO()):
        theirs, ours = timed(
            lambda: (PTBTokenizer().tokenize(other), PTBTokenizer().tokenize(own)),
            parts,
            "tokenising",
        )
        values = {}
        values["cider"] = timed(lambda: Cider().compute_score(theirs, ours), parts, "CIDEr-D")[1]
        bleus = timed(lambda: Bleu(4).compute_score(theirs, ours, verbose=0), parts, "BLEU")[1]
        values |= {f"bleu_{n}": bleu for n, bleu in enumerate(bleus, start=1)}
        values["rouge_l"] = timed(lambda: Rouge().compute_score(theirs, ours), parts, "ROUGE-L")[1]
    return {
        "seconds": sum(parts.values()),
        "parts": parts,
        "values": {name: list(map(float, scores)) for name, scores in values.items()},
    }


def pycocoevalcap_one(metric: str) -> Callable[[Captions, int], dict[str, Any]]:
    """One of its scorers on captions that are tokenised already."""

    def work(captions: Captions, _: int) -> dict[str, Any]:
        from pycocoevalcap.bleu.bleu import Bleu
        from pycocoevalcap.cider.cider import Cider
        from pycocoevalcap.rouge.rouge import Rouge

        own = {id: [text] for id, text in captions["tokenised_candidates"].items()}
        other = captions["tokenised_references"]
        scorer = {"cider": Cider(), "bleu": Bleu(4), "rouge_l": Rouge()}[metric]
        parts: dict[str, float] = {}
        with contextlib.redirect_stdout(io.StringIO()):
            values = timed(lambda: scorer.compute_score(other, own), parts)[1]
        values = values[-1] if metric == "bleu" else values
        return {"seconds": parts["work"], "values": {metric: list(map(float, values))}}

    return work


def aac_metrics_one(metric: str) -> Callable[[Captions, int], dict[str, Any]]:
    """One of aac-metrics' functions on captions that are tokenised already."""

    def work(captions: Captions, _: int) -> dict[str, Any]:
        from aac_metrics import functional

        own = list(captions["tokenised_candidates"].values())
        other = list(captions["tokenised_references"].values())
        score = {"cider": functional.cider_d, "bleu": bleu_4, "rouge_l": functional.rouge_l}[metric]
        parts: dict[str, float] = {}
        _, sentences = timed(lambda: score(own, other, return_all_scores=True), parts)
        name = {"cider": "cider_d", "bleu": "bleu_4", "rouge_l": "rouge_l"}[metric]
        return {"seconds": parts["work"], "values": {metric: sentences[name].tolist()}}

    def bleu_4(own: list[str], other: list[list[str]], return_all_scores: bool) -> Any:
        from aac_metrics import functional

        return functional.bleu(own, other, n=4, return_all_scores=return_all_scores)

    return work


def torchmetrics_bleu(captions: Captions, _: int) -> dict[str, Any]:
    """torchmetrics' BLEU-4: the corpus figure only, and no stand-in for a count of 0."""
    from torchmetrics.functional.text import bleu_score

    own = list(captions["tokenised_candidates"].values())
    other = list(captions["tokenised_references"].values())
    parts: dict[str, float] = {}
    timed(lambda: bleu_score(own, other, n_gram=4), parts)
    return {"seconds": parts["work"], "values": {}}


def torchmetrics_rouge(captions: Captions, _: int) -> dict[str, Any]:
    """torchmetrics' ROUGE-L: Google's definition, F1 of the best reference, its own tokens."""
    from torchmetrics.functional.text.rouge import rouge_score

    own = list(captions["tokenised_candidates"].values())
    other = list(captions["tokenised_references"].values())
    parts: dict[str, float] = {}
    timed(lambda: rouge_score(own, other, accumulate="best", rouge_keys="rougeL"), parts)
    return {"seconds": parts["work"], "values": {}}


def captune_growth(_: Captions, images: int) -> dict[str, Any]:
    """All metrics on made-up captions of so many images, six each."""
    captions = made_up(images, 5)
    gc.collect()
    before = resident()
    answer = captune_all(captions, 0)
    del answer["values"]
    return {**answer, "images": images, "before": before}


def captune_reward(captions: Captions, batches: int) -> dict[str, Any]:
    """Batches of candidates against indexed references, tokenising included."""
    from captune_metrics.cider_d import CiderD
    from captune_metrics.frequency import DocumentFrequency

    parts: dict[str, float] = {}
    images = list(captions["candidates"])[: 2000 + REWARD_BATCH]
    # five references each: the candidate of the image before makes up what is missing
    own = captions["candidates"]
    references = {
        id: [*captions["references"][id], own[before], own[id]][:5]
        for before, id in zip([images[-1], *images], images, strict=False)
    }
    table = timed(lambda: DocumentFrequency.shipped("coco-val2017"), parts, "loading the table")
    reward = timed(lambda: CiderD(table), parts, "making the reward")
    indexed = timed(lambda: reward.index(references), parts, "indexing")
    answer: dict[str, Any] = {"parts": parts, "indexed": len(indexed)}
    for size in (REWARD_BATCH, 16 * REWARD_BATCH):
        seconds = []
        for number in range(batches if size == REWARD_BATCH else max(5, batches // 10)):
            batch = [images[(number * 7 + i) % len(images)] for i in range(size)]
            texts, ready = [own[id] for id in batch], [indexed[id] for id in batch]
            start = time.perf_counter()
            reward.score(texts, ready)
            seconds.append(time.perf_counter() - start)
        answer[str(size)] = [float(q) for q in np.quantile(seconds, [0.05, 0.5, 0.95])]
    return answer


def bare_floor(captions: Captions, _: int) -> dict[str, Any]:
    """What nothing in Python and numpy could leave out: words, sorted n-grams, subsequences."""
    from rapidfuzz.distance import LCSseq
    from rapidfuzz.process import cpdist

    own, other = captions["tokenised_candidates"], captions["tokenised_references"]
    texts = [text for id in own for text in (own[id], *other[id])]
    parts: dict[str, float] = {}
    split = timed(lambda: [text.split() for text in texts], parts, "splitting at spaces")
    lengths = [len(words) for words in split]
    random = np.random.default_rng(0)
    keys = [
        random.integers(1 << 50, size=sum(max(0, length - n) for length in lengths))
        for n in range(4)
    ]
    timed(lambda: [np.sort(values) for values in keys], parts, "np.sort of all n-grams")
    characters: dict[str, str] = {}
    encoded = iter(
        ["".join(characters.setdefault(w, chr(256 + len(characters))) for w in s) for s in split]
    )
    rows = [[next(encoded) for _ in range(1 + len(other[id]))] for id in own]
    left = [row[0] for row in rows for _ in row[1:]]
    right = [text for row in rows for text in row[1:]]
    timed(lambda: cpdist(left, right, scorer=LCSseq.similarity), parts, "bare subsequences")
    return {"parts": parts}


WORK: dict[str, Callable[[Captions, int], dict[str, Any]]] = {
    "all: captune": captune_all,
    "all: pycocoevalcap": pycocoevalcap_all,
    **{f"{metric}: captune": captune_one(metric) for metric in ("cider", "bleu", "rouge_l")},
    **{
        f"{metric}: pycocoevalcap": pycocoevalcap_one(metric)
        for metric in ("cider", "bleu", "rouge_l")
    },
    **{
        f"{metric}: aac-metrics": aac_metrics_one(metric) for metric in ("cider", "bleu", "rouge_l")
    },
    "bleu: torchmetrics": torchmetrics_bleu,
    "rouge_l: torchmetrics": torchmetrics_rouge,
    "growth: captune": captune_growth,
    "reward: captune": captune_reward,
    "floor: numpy": bare_floor,
}
CONTENDERS = {
    task: [work.split(": ")[1] for work in WORK if work.startswith(f"{task}: ")]
    for task in ("all", "cider", "bleu", "rouge_l")
}


def coco_or_made_up() -> tuple[Captions, str]:
    """(captions, where they are from)."""
    folder = SHARED / "data" / "metrics"
    if not folder.is_dir():
        return made_up(5000, 4), "made-up captions (the shared data is not here)"
    lines = json.loads((folder / "coco_val2017_candidates.json").read_text(encoding="utf-8"))
    candidates = {str(line["image_id"]): line["caption"] for line in lines}
    references: dict[str, list[str]] = {id: [] for id in candidates}
    annotated = json.loads((folder / "coco_val2017_references.json").read_text(encoding="utf-8"))
    for line in annotated["annotations"]:
        references[str(line["image_id"])].append(line["caption"])
    return {"candidates": candidates, "references": references}, "COCO val2017"


def made_up(images: int, references: int) -> Captions:
    """Captions of 8 to 13 words that are as unevenly frequent as words are (Zipf)."""
    random = np.random.default_rng(images)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = np.unique(["".join(random.choice(letters, 2 + i % 8)) for i in range(20_000)])
    random.shuffle(words)
    shares = 1 / (np.arange(len(words)) + 2.7)
    total = images * (1 + references)
    lengths = random.integers(8, 14, size=total)
    drawn = words[random.choice(len(words), size=int(lengths.sum()), p=shares / shares.sum())]
    stops = np.cumsum(lengths)
    bounds = zip(stops - lengths, stops, strict=True)
    texts = (" ".join(drawn[start:stop]).capitalize() + "." for start, stop in bounds)
    candidates, others = {}, {}
    for i in range(images):
        candidates[str(i)] = next(texts)
        others[str(i)] = [next(texts) for _ in range(references)]
    return {"candidates": candidates, "references": others}


def timed(run: Callable[[], Any], parts: dict[str, float], name: str = "work") -> Any:
    """What it returns; the seconds go into `parts`."""
    start = time.perf_counter()
    value = run()
    parts[name] = time.perf_counter() - start
    return value


def resident() -> int:
    """Bytes that this process holds now, 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
