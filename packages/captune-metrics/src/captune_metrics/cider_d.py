"""CIDEr-D, which everyone's "CIDEr" is, and CIDEr without the D (Vedantam et al. 2015)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import repeat
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from captune_metrics import ptb
from captune_metrics.corpus import ORDERS, Corpus, NgramCounts, Tokenize, TokenizedCaptions
from captune_metrics.frequency import DocumentFrequency
from captune_metrics.resampling import Doubles
from captune_metrics.scores import Candidates, References, Scores

SIGMA = 6.0  # width of CIDEr-D's length penalty, in words
SCALE = 10.0
_FEW_IMAGES = 1000  # below it, CIDEr's authors advise against counting over the corpus itself


def cider(
    candidates: Candidates, references: References, *, df: DocumentFrequency | None = None
) -> Scores:
    """CIDEr-D of each candidate against its references (Vedantam et al. 2015, eq. 2-3 and 7-9).

    candidates: {image id: caption}; references: {image id: [caption, ...]}, tokenised with `ptb`.
    df: a frozen table of document frequencies, or None to count over `references` (then a corpus of
        one image scores 0, and a note says so). An n-gram that the table lacks weighs ln N, N being
        the table's images.
    This is what coco-caption, pycocoevalcap and language-evaluation call CIDEr: clipped tf-idf
    vectors, no stemming, and a penalty for another length, which is counted in bigrams.
    Returns Scores: corpus mean and one float per image, 0..10 (papers print it times 100).
    Raises MismatchedImages when the two have different image ids.
    """
    return cider_of(Corpus(candidates, references), df)


def cider_original(
    candidates: Candidates, references: References, *, df: DocumentFrequency | None = None
) -> Scores:
    """CIDEr without the D: plain cosines of tf-idf vectors, whatever the length (eq. 2-3).

    Arguments and return as in `cider`; as the original code, it does not stem.
    """
    return cider_original_of(Corpus(candidates, references), df)


def cider_of(corpus: Corpus, df: DocumentFrequency | None = None) -> Scores:
    """`cider` of captions that are tokenised already."""
    return _scores(corpus, df, with_d=True)


def cider_original_of(corpus: Corpus, df: DocumentFrequency | None = None) -> Scores:
    """`cider_original` of captions that are tokenised already."""
    return _scores(corpus, df, with_d=False)


class IndexedReferences(NamedTuple):
    """An image's references made ready for `CiderD`: their words as numbers, one after another."""

    ids: NDArray[np.int64]
    lengths: list[int]


class CiderD:
    """CIDEr-D as a reward: a batch of captions at a time, against references indexed once.

    reward = CiderD(DocumentFrequency.shipped("coco-val2017"))
    indexed = reward.index({"a.jpg": ["a dog runs", ...], ...})             # once
    rewards = reward.score(captions, [indexed[image] for image in images])  # at every step

    df: a frozen table (a batch is no corpus to count over). tokenize: as in Corpus.
    An index holds about 1 kB for an image of five references.
    """

    def __init__(self, df: DocumentFrequency, tokenize: Tokenize = ptb.tokenize_each) -> None:
        self._df = df
        self._tokenize = tokenize
        # the table's words, then those that only references have
        self._vocabulary = dict(df.vocabulary)

    def index(self, references: Mapping[str, Sequence[str]]) -> dict[str, IndexedReferences]:
        """{image id: references} ready for `score`, tokenised in one pass."""
        texts = iter(self._tokenize([text for texts in references.values() for text in texts]))
        return {
            image: self._indexed([next(texts) for _ in captions])
            for image, captions in references.items()
        }

    def score(
        self, candidates: Sequence[str], references: Sequence[IndexedReferences | Sequence[str]]
    ) -> Doubles:
        """[candidates] CIDEr-D of each against its own references, 0..10.

        references: one entry a candidate, from `index`; plain lists of captions do too, slower.
        The values are those of `cider(..., df=table).per_image`.
        Raises ValueError when the two differ in length or a candidate has no reference.
        """
        if len(candidates) != len(references):
            raise ValueError(f"{len(candidates)} candidates, {len(references)} sets of references")
        if not candidates:
            return np.zeros(0)
        indexed = [
            own if isinstance(own, IndexedReferences) else self._indexed(self._tokenize(list(own)))
            for own in references
        ]
        if not all(own.lengths for own in indexed):
            raise ValueError("a candidate without references has no score")
        counts, vocabulary_size = self._counted(self._tokenize(list(candidates)), indexed)
        known = np.full(vocabulary_size, -1, dtype=np.int64)
        known[: len(self._df.vocabulary)] = np.arange(len(self._df.vocabulary))
        return _per_image(counts, self._df.within(counts, known), self._df.images, with_d=True)

    def _indexed(self, texts: Sequence[str]) -> IndexedReferences:
        split = [text.split() for text in texts]
        vocabulary = self._vocabulary
        ids = [vocabulary.setdefault(word, len(vocabulary)) for words in split for word in words]
        return IndexedReferences(np.array(ids, dtype=np.int64), list(map(len, split)))

    def _counted(
        self, texts: Sequence[str], references: Sequence[IndexedReferences]
    ) -> tuple[NgramCounts, int]:
        """(the batch as captions that stand image by image, how many words it could hold)."""
        unseen: dict[str, int] = {}  # words of candidates only: no reference can match them
        size = len(self._vocabulary)
        parts: list[NDArray[np.int64]] = []
        lengths: list[int] = []
        for text, own in zip(texts, references, strict=True):
            words = text.split()
            ids = [
                self._vocabulary[word]
                if word in self._vocabulary
                else unseen.setdefault(word, size + len(unseen))
                for word in words
            ]
            parts += [np.array(ids, dtype=np.int64), own.ids]
            lengths += [len(words), *own.lengths]
        size += len(unseen)
        each = [1 + len(own.lengths) for own in references]
        words_of_all = TokenizedCaptions.of(parts, size, np.array(lengths, dtype=np.int64), each)
        return NgramCounts(words_of_all), size


def _scores(corpus: Corpus, df: DocumentFrequency | None, *, with_d: bool) -> Scores:
    images, frequencies, title = len(corpus.images), None, "CIDEr-D" if with_d else "CIDEr"
    if df is not None:
        known = map(df.vocabulary.get, corpus.vocabulary, repeat(-1))
        ids = np.fromiter(known, dtype=np.int64, count=len(corpus.vocabulary))
        images, frequencies = df.images, df.within(corpus, ids)
    values = _per_image(corpus, frequencies, images, with_d=with_d)
    return Scores(
        metric="cider" if with_d else "cider_original",
        corpus=float(values.mean()),
        per_image=corpus.by_image(values),
        recipe={
            **corpus.recipe(),
            "variant": title,
            **({"sigma": SIGMA} if with_d else {}),
            "n": ORDERS,
            "scale": SCALE,
            "stemming": None,
            "df": "corpus" if df is None else df.name,
            "df_images": images,
            "df_digest": None if df is None else df.digest,
        },
        title=title,
        details=(corpus.tokenizer, f"df={'corpus' if df is None else df.label} of {images}"),
        notes=_notes(corpus, df),
    )


def _per_image(
    counts: NgramCounts, frequencies: list[NDArray[np.int64]] | None, images: int, *, with_d: bool
) -> Doubles:
    """[images] CIDEr-D, or CIDEr.

    frequencies: document frequencies of the n-grams of each order, counted over so many `images`;
        None for those of the captions themselves.
    """
    words, starts = counts.words, counts.starts
    captions = words.lengths.size
    candidate = starts[words.image]  # [captions] the candidate of each caption's image
    similarities = np.zeros(captions)  # of each reference with its candidate
    for n in range(1, ORDERS + 1):
        ngrams = counts.ngrams(n)
        counted = ngrams.document_frequency if frequencies is None else frequencies[n - 1]
        idf = np.log(images) - np.log(np.maximum(counted, 1))
        weights = ngrams.count * idf[ngrams.gram]
        norms = np.sqrt(np.bincount(ngrams.caption, weights**2, minlength=captions))
        own, other = weights[ngrams.matched].T
        products = (np.minimum(own, other) if with_d else own) * other
        dots = np.bincount(ngrams.caption[ngrams.matched[:, 1]], products, minlength=captions)
        norms *= norms[candidate]
        # a caption whose words are all everywhere, or too few, has no direction: it scores 0
        similarities += np.divide(dots, norms, out=np.zeros(captions), where=norms > 0)
    if with_d:
        lengths = np.maximum(words.lengths - 1, 0)  # in bigrams: one word is as long as none
        difference = (lengths - lengths[candidate]).astype(np.float64)
        similarities *= np.exp(-(difference**2) / (2 * SIGMA**2))
    similarities[starts] = 0
    sums = np.add.reduceat(similarities, starts)
    values: Doubles = SCALE * sums / (ORDERS * counts.n_references)
    return values


def _notes(corpus: Corpus, df: DocumentFrequency | None) -> tuple[str, ...]:
    """What a reader of the number has to know."""
    n = len(corpus.images)
    if df is not None:
        if df.tokenizer == corpus.tokenizer:
            return ()
        return (
            f"CIDEr: the table {df.name} was counted with the tokenizer {df.tokenizer}, these "
            f"captions are tokenised with {corpus.tokenizer}; use one tokenizer for both",
        )
    if n == 1:
        return (
            "CIDEr: with document frequencies of a single image every score is 0; "
            "use --df coco-val2017 or a table of your own",
        )
    if n < _FEW_IMAGES:
        return (
            f"CIDEr was computed with word statistics of only {n} images and is not comparable "
            "with other test sets; for that use --df coco-val2017 or a table of your own",
        )
    return ()
