"""pycocoevalcap's calls, keys and figures, without Java.

    from captune_metrics.pycocoevalcap import COCO, COCOEvalCap, PTBTokenizer, Bleu, Cider, Rouge

takes the place of these imports:

    from pycocotools.coco import COCO
    from pycocoevalcap.eval import COCOEvalCap, PTBTokenizer, Bleu, Cider, Rouge

Left out: SPICE, and METEOR unless it is asked for (it runs in Java). What pycocoevalcap calls
CIDEr is CIDEr-D, and so it is here. An index of pycocotools' own `COCO` does as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from captune_metrics import ptb
from captune_metrics.bleu_n import bleu_of
from captune_metrics.cider_d import cider_of
from captune_metrics.coco import COCO
from captune_metrics.corpus import ORDERS, Corpus
from captune_metrics.display import named
from captune_metrics.errors import MismatchedImages, UserError
from captune_metrics.meteor_java import check_installed, meteor_of
from captune_metrics.resampling import Doubles
from captune_metrics.rouge import rouge_l_of

__all__ = ["COCO", "Bleu", "COCOEvalCap", "Cider", "Meteor", "PTBTokenizer", "Rouge"]

Annotations = Mapping[Any, Sequence[Mapping[str, Any]]]
Tokenized = Mapping[Any, Sequence[str]]  # image id -> its captions, tokens between single spaces


class PTBTokenizer:
    """The tokens of captions, in lower case and without punctuation, as CoreNLP 3.4.1 gives them.

    Where a caption holds U+2028 or another line end, pycocoevalcap gives every later caption to
    the wrong image; here each image keeps its own.
    """

    def tokenize(self, captions_for_image: Annotations) -> dict[Any, list[str]]:
        """{image id: [{"caption": ...}, ...]} -> {image id: [tokens joined by a space, ...]}."""
        captions = [each["caption"] for every in captions_for_image.values() for each in every]
        lines = iter(ptb.tokenize(captions))
        return {
            image: [next(lines) for _ in every]
            for image, every in captions_for_image.items()
            if every
        }


def _corpus(gts: Tokenized, res: Tokenized) -> Corpus:
    """Captions that are tokenised already, in the order of `gts`."""
    several = [image for image, captions in res.items() if len(captions) != 1]
    if several:
        raise UserError(f"{named(several, 'image')}: expected one caption to score")
    candidates = {image: captions[0] for image, captions in res.items()}
    candidates = {image: candidates.pop(image) for image in gts if image in candidates} | candidates
    return Corpus(candidates, gts, "none")


def _values(per_image: Mapping[str, float]) -> Doubles:
    return np.array(list(per_image.values()))


class Bleu:
    """BLEU-1 to BLEU-n, n up to 4."""

    def __init__(self, n: int = ORDERS) -> None:
        if not 1 <= n <= ORDERS:
            raise ValueError(f"n = {n}: expected 1 to {ORDERS}")
        self._n = n

    def compute_score(
        self, gts: Tokenized, res: Tokenized, verbose: int = 0
    ) -> tuple[list[float], list[list[float]]]:
        """(corpus figures, [[a figure an image], ...]), an entry for each of 1 to n.

        gts, res: {image id: [tokenised caption, ...]}, of res one each. verbose: has no effect.
        Raises MismatchedImages where the two have different images.
        """
        found = [*bleu_of(_corpus(gts, res)).values()][: self._n]
        return [one.corpus for one in found], [list(one.per_image.values()) for one in found]

    def method(self) -> str:
        """Its name."""
        return "Bleu"


class Rouge:
    """ROUGE-L, beta = 1.2."""

    def compute_score(self, gts: Tokenized, res: Tokenized) -> tuple[float, Doubles]:
        """(mean, [images]); otherwise as `Bleu.compute_score`."""
        found = rouge_l_of(_corpus(gts, res))
        return found.corpus, _values(found.per_image)

    def method(self) -> str:
        """Its name."""
        return "Rouge"


class Cider:
    """CIDEr-D with document frequencies of the references at hand, n = 4 and sigma = 6."""

    def compute_score(self, gts: Tokenized, res: Tokenized) -> tuple[float, Doubles]:
        """(mean, [images]); otherwise as `Bleu.compute_score`."""
        found = cider_of(_corpus(gts, res))
        return found.corpus, _values(found.per_image)

    def method(self) -> str:
        """Its name."""
        return "CIDEr"


class Meteor:
    """METEOR 1.5 by the authors' jar: needs Java and `pip install 'captune-metrics[java]'`."""

    def __init__(self) -> None:
        check_installed()

    def compute_score(self, gts: Tokenized, res: Tokenized) -> tuple[float, list[float]]:
        """(corpus figure, [images]); otherwise as `Bleu.compute_score`."""
        found = meteor_of(_corpus(gts, res))
        return found.corpus, list(found.per_image.values())

    def method(self) -> str:
        """Its name."""
        return "METEOR"


class CaptionIndex(Protocol):
    """What is asked of a `COCO`, ours or pycocotools'."""

    imgToAnns: Annotations

    def getImgIds(self) -> list[Any]:
        """The ids of its images."""


class COCOEvalCap:
    """The scores of `cocoRes` against the captions of `coco`.

    params: `params["image_id"]` are the images to score, all of `coco` unless it is set; scripts
        set it to `cocoRes.getImgIds()` to score those that have a caption.
    eval: name -> figure, after `evaluate`. evalImgs: a dict an image, with `image_id`.
    meteor: compute METEOR too, in Java. show: what takes a line about the progress.
    """

    def __init__(
        self,
        coco: CaptionIndex,
        cocoRes: CaptionIndex,
        *,
        meteor: bool = False,
        show: Callable[[str], object] = print,
    ) -> None:
        self.evalImgs: list[dict[str, Any]] = []
        self.eval: dict[str, float] = {}
        self.imgToEval: dict[Any, dict[str, Any]] = {}
        self.coco = coco
        self.cocoRes = cocoRes
        self.params: dict[str, Any] = {"image_id": coco.getImgIds()}
        self._meteor = meteor
        self._show = show

    def evaluate(self) -> None:
        """Fill `eval`, `imgToEval` and `evalImgs`.

        Raises MismatchedImages where an image of `params` has no caption in one of the two.
        """
        images = list(self.params["image_id"])
        for what, index in (("reference", self.coco), ("caption", self.cocoRes)):
            without = [image for image in images if not index.imgToAnns.get(image)]
            if without:
                raise MismatchedImages(
                    f"no {what} for {named(without, 'image')}; to score the images that have one,"
                    ' set params["image_id"] = cocoRes.getImgIds()'
                )
        self._show("tokenization...")
        tokenizer = PTBTokenizer()
        gts = tokenizer.tokenize({image: self.coco.imgToAnns[image] for image in images})
        res = tokenizer.tokenize({image: self.cocoRes.imgToAnns[image] for image in images})
        self._show("setting up scorers...")
        scorers: list[tuple[Any, list[str]]] = [
            (Bleu(ORDERS), [f"Bleu_{n}" for n in range(1, ORDERS + 1)]),
            *([(Meteor(), ["METEOR"])] if self._meteor else []),
            (Rouge(), ["ROUGE_L"]),
            (Cider(), ["CIDEr"]),
        ]
        for scorer, names in scorers:
            self._show(f"computing {scorer.method()} score...")
            score, scores = scorer.compute_score(gts, res)
            figures = zip(score, scores, strict=True) if len(names) > 1 else [(score, scores)]
            for name, (figure, each) in zip(names, figures, strict=True):
                self.setEval(figure, name)
                self.setImgToEvalImgs(each, list(gts), name)
                self._show(f"{name}: {figure:0.3f}")
        self.setEvalImgs()

    def setEval(self, score: float, method: str) -> None:
        """Note a figure."""
        self.eval[method] = score

    def setImgToEvalImgs(self, scores: Sequence[float], imgIds: Sequence[Any], method: str) -> None:
        """Note the scores of images."""
        for image, score in zip(imgIds, scores, strict=True):
            self.imgToEval.setdefault(image, {"image_id": image})[method] = score

    def setEvalImgs(self) -> None:
        """Fill `evalImgs` with what is noted of each image."""
        self.evalImgs = list(self.imgToEval.values())
