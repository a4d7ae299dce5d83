"""Each caption chosen among candidates: those that the model finds likely, by what the image says.

    rerank.json   beside a captioner's config.json: schema, evidence, weights, figures

A candidate's score is a weighted sum of its mean log-probability and of the evidence:

    match        cosine of image and caption by an image-text model
    neighbours   how like the captions of images that look alike it is (`datastore`)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import structs
from numpy.typing import NDArray
from torch import Tensor

from captune.captioning.bridge import GridShape
from captune.captioning.checkpoint import ImageIdentity, Recipe, read_beside
from captune.captioning.datastore import DATASTORE, Datastore, Store, load_store
from captune.captioning.generate import Generated
from captune.captioning.model import Trainable
from captune.captioning.settings import RERANK
from captune.errors import UserError
from captune.features.cache import FeatureCache
from captune.features.encode import encode_images, encode_texts
from captune.features.pipeline import Encoding
from captune.images import ImageFile
from captune.models import hub
from captune.models.encoders import Floats, ImageTextModel, normalise
from captune.models.load import load_image_text_model
from captune.models.mirrored import seen_both_ways
from captune.options.captioning import CaptionerOptions
from captune.runs.metrics import RERANK_DF, RerankFigures, Reranking, RerankWeights
from captune.runs.records import Candidate
from captune.text import counted, decimal, signed
from captune_metrics.display import printable
from captune_metrics.resampling import Doubles

MIN_IMAGES = 20  # validation images that weights are fitted on
_FOLDS = 5
_PER_PASS = 32  # images, where another encoder looks at them
_RIDGE = 1e-3  # of standardised weights
CANDIDATES = 5
# where none were fitted: those found for the captioner that ships
_WEIGHTS = RerankWeights(0.3, 1.0, 0.1)


@dataclass(frozen=True)
class Reranker:
    """What chooses: settings, and the models of their evidence.

    encoder, grid: of the captioner.
    """

    settings: Reranking
    encoder: ImageIdentity
    grid: GridShape
    matcher: ImageTextModel | None = None
    datastore: Store | None = None

    def judged(
        self,
        drafts: Sequence[Sequence[Candidate]],
        images: Sequence[ImageFile],
        grids: Tensor,
        cache: FeatureCache | None,
    ) -> list[list[Candidate]]:
        """The candidates of each image with their evidence and score, in their order.

        grids: [images, tokens, channels], finished.
        """
        texts = [[one.caption for one in own] for own in drafts]
        means = pooled(grids, self.grid)
        cosines: list[Any] = [[None] * len(own) for own in drafts]
        near = cosines
        if self.matcher is not None:
            vectors = vectors_of(self.matcher, self.encoder, images, means, cache)
            cosines = [own.tolist() for own in cosines_of(self.matcher, vectors, texts)]
        if self.datastore is not None:
            near = [own.tolist() for own in self.datastore.evidence(means.cpu().numpy(), texts)]
        return [
            [
                self._scored(structs.replace(one, match=cosine, neighbours=likeness))
                for one, cosine, likeness in zip(*parts, strict=True)
            ]
            for parts in zip(drafts, cosines, near, strict=True)
        ]

    def _scored(self, one: Candidate) -> Candidate:
        weights = structs.astuple(self.settings.weights)
        return structs.replace(one, score=float(np.dot(weights, _features_of(one))))


def vectors_of(
    model: ImageTextModel,
    encoder: ImageIdentity,
    images: Sequence[ImageFile],
    means: Tensor,
    cache: FeatureCache | None,
    on_progress: Callable[[int], None] | None = None,
) -> Floats:
    """Images as an image-text model sees them, [images, d] of length one.

    encoder: of the captioner, which has seen them already; means: [images, channels] of its grids.
    """
    patches = model.image.patches
    if (
        patches is not None
        and patches.embed is not None
        and patches.weights_id == encoder.weights_id
        and encoder.preprocessing_id
        in (patches.preprocessing_id, seen_both_ways(patches.preprocessing_id))
    ):
        return normalise(patches.embed(means.to(model.image.device)).cpu().numpy())
    vectors = np.zeros((len(images), model.image.dimension), dtype=np.float32)
    places = {image.path: place for place, image in enumerate(images)}
    for some, encoded in encode_images(
        images,
        model.image,
        Encoding(cache, _PER_PASS),
        on_skip=lambda skipped: None,  # it was read a moment ago; nothing matches it now
        on_progress=on_progress,
    ):
        vectors[[places[image.path] for image in some]] = encoded
    return normalise(vectors)


def cosines_of(
    model: ImageTextModel, vectors: Floats, texts: Sequence[Sequence[str]]
) -> list[Floats]:
    """Of each image, [images, d] of length one, with each of its texts."""
    return [own @ vector for own, vector in zip(text_vectors(model, texts), vectors, strict=True)]


def text_vectors(
    model: ImageTextModel,
    texts: Sequence[Sequence[str]],
    cache: FeatureCache | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> list[Floats]:
    """Of each image its texts, [texts, d] of length one, in the space that the model shares.

    cache: of texts that come again; what a captioner tries out is not worth keeping.
    """
    assert model.text is not None
    each = list(dict.fromkeys(text for own in texts for text in own))
    vectors = normalise(encode_texts(each, model.text, cache=cache, on_progress=on_progress))
    rows = dict(zip(each, vectors, strict=True))
    return [np.stack([rows[text] for text in own]) for own in texts]


def pooled(grids: Tensor, grid: GridShape) -> Tensor:
    """[images, tokens, channels] -> the means over the places [images, channels] in float32."""
    return grids[:, grid.leading :].float().mean(dim=1)


def write(
    model: Trainable,
    images: Sequence[ImageFile],
    grids: Tensor,
    reranker: Reranker | None,
    *,
    cache: FeatureCache | None,
    beams: int,
    max_tokens: int,
    tags: Tensor | None = None,
    scored: bool = True,
) -> Generated:
    """`Trainable.generate`, each caption chosen by `reranker` where there is one."""
    how: dict[str, Any] = {"beams": beams, "max_tokens": max_tokens, "tags": tags, "scored": scored}
    if reranker is not None:
        how["candidates"] = reranker.settings.candidates
        how["judge"] = lambda drafts: reranker.judged(drafts, images, grids, cache)
    return model.generate(grids, **how)


def _features_of(one: Candidate) -> list[float]:
    """What a candidate's score is made of, in the order of `RerankWeights`."""
    return [one.mean_log_probability, one.match or 0.0, one.neighbours or 0.0]


def fit_weights(
    settings: Reranking,
    candidates: Mapping[str, Sequence[Candidate]],
    references: Mapping[str, Sequence[str]],
) -> Reranking | None:
    """Weights that choose well on images with references, and what that gives by cross-fitting.

    candidates: of each image, the one first that is taken without evidence. A ridge regression of
    CIDEr-D (document frequencies of RERANK_DF) on the features, both less their mean over the
    candidates of the image. None for fewer than 20 images.
    """
    from captune_metrics.bleu_n import bleu_of
    from captune_metrics.cider_d import CiderD
    from captune_metrics.corpus import Corpus
    from captune_metrics.frequency import DocumentFrequency
    from captune_metrics.resampling import Sums, paired_bootstrap

    if len(candidates) < MIN_IMAGES:
        return None
    cider = CiderD(DocumentFrequency.shipped(RERANK_DF))
    indexed = cider.index({id: references[id] for id in candidates})
    x = [np.array([_features_of(one) for one in own]) for own in candidates.values()]
    y = [cider.score([one.caption for one in own], [indexed[id]] * len(own))
         for id, own in candidates.items()]  # fmt: skip
    fold = np.random.default_rng(0).permutation(len(x)) % _FOLDS
    places = [0] * len(x)
    for part in range(_FOLDS):
        weights = _fit([x[i] for i in np.flatnonzero(fold != part)],
                       [y[i] for i in np.flatnonzero(fold != part)])  # fmt: skip
        for i in np.flatnonzero(fold == part):
            places[i] = int(np.argmax(x[i] @ weights))
    first = np.array([own[0] for own in y])
    chosen = np.array([own[place] for own, place in zip(y, places, strict=True)])

    def bleu_4(taken: Mapping[str, int]) -> float:
        captions = {id: candidates[id][place].caption for id, place in taken.items()}
        return bleu_of(Corpus(captions, {id: references[id] for id in taken}))["bleu_4"].corpus

    (gain,) = paired_bootstrap([(Sums.mean(first), Sums.mean(chosen))], resamples=2000, seed=0)
    figures = RerankFigures(
        images=len(x),
        first=float(first.mean()),
        chosen=float(chosen.mean()),
        best=float(np.mean([own.max() for own in y])),
        bleu_4_first=bleu_4(dict.fromkeys(candidates, 0)),
        bleu_4_chosen=bleu_4(dict(zip(candidates, places, strict=True))),
        interval=gain.interval,
    )
    return structs.replace(settings, weights=RerankWeights(*_fit(x, y).tolist()), figures=figures)


def _fit(x: Sequence[NDArray[Any]], y: Sequence[NDArray[Any]]) -> Doubles:
    a = np.concatenate([one - one.mean(axis=0) for one in x])
    b = np.concatenate([one - one.mean() for one in y])
    scale = np.maximum(a.std(axis=0), 1e-9)
    a = a / scale
    ridge = _RIDGE * len(a) * np.eye(a.shape[1])
    found: Doubles = np.linalg.solve(a.T @ a + ridge, a.T @ b) / scale
    return found


def read_reranking(folder: Path) -> Reranking | None:
    """How the captioner in `folder` chooses; None where it writes the first beam.

    Raises UserError for a file that this captune cannot read.
    """
    what = "how a captioner chooses its captions", "captune tune --rerank"
    return read_beside(folder / RERANK, Reranking, *what)


def unfitted(evidence: Any, candidates: int, matcher: ImageTextModel | None) -> Reranking:
    """Settings before their weights are fitted. candidates: 0 for as many as usual."""
    found = Reranking(evidence, candidates or CANDIDATES, _WEIGHTS)
    if matcher is None:
        return found
    return structs.replace(found, model=matcher.spec, weights_id=matcher.weights_id)


def reranking_of(
    folder: Path, options: CaptionerOptions, *, reads_captions: bool = False
) -> Reranking | None:
    """What the options ask of the captioner in `folder`; None for the first beam.

    reads_captions: it does so before it writes, so that a datastore is of use. Raises UserError for
    options that are of none.
    """
    stored, model = read_reranking(folder), options.rerank_model
    evidence: Any = options.rerank
    if evidence == "auto":
        evidence = "none" if stored is None else stored.evidence
    no_store = evidence in ("none", "match") and not reads_captions
    unused = {
        "candidates": options.candidates if evidence == "none" else 0,
        "rerank-model": model if evidence in ("none", "neighbours") else None,
        "datastore": options.datastore if no_store else None,
    }
    for name, given in unused.items():
        if given:
            wanted = {"rerank-model": "match or both", "datastore": "neighbours or both"}
            raise UserError(
                f"--{name} is for --rerank {wanted.get(name, 'match, neighbours or both')}; give"
                " that too, or leave it out"
            )
    if evidence == "none":
        return None
    found = Reranking(evidence, CANDIDATES, _WEIGHTS)
    if stored is not None and stored.evidence == evidence and model is None:
        found = stored
    elif evidence != "neighbours":
        found = structs.replace(found, model=model or (stored and stored.model) or "lite")
    return structs.replace(found, candidates=options.candidates or found.candidates)


def chosen_sentence(settings: Reranking) -> str:
    """What was done, and what that gave on validation images."""
    by = {
        "match": f"how well {settings.model or 'lite'} says that they fit the image",
        "neighbours": "how like the captions of similar training images they are",
        "both": f"how well they fit the image by {settings.model or 'lite'} and by the captions of"
        " similar training images",
    }[settings.evidence]
    said = f"each caption chosen among {settings.candidates} by {by}"
    figures = settings.figures
    if figures is None:
        return f"{said}, with weights that were not fitted (captune tune --rerank does it)"
    low, high = figures.interval
    return (
        f"{said}: CIDEr-D (document frequencies of {RERANK_DF}) {decimal(figures.chosen)} instead"
        f" of {decimal(figures.first)} (95 % {signed(low)} to {signed(high)}), BLEU-4"
        f" {decimal(figures.bleu_4_chosen)} instead of {decimal(figures.bleu_4_first)} on"
        f" {counted(figures.images, 'validation image')} that the weights were not fitted on"
    )


def store_beside(
    settings: Reranking | None, folder: Path, recipe: Recipe, datastore: Path | None
) -> Store | None:
    """What these settings or the captioner's prompt read: `datastore`, else the one in `folder`.

    Raises UserError where there is none, or a prompt would have to be made of no captions.
    """
    asked = "--prompt captions" if recipe.prompt_captions else None
    if settings is not None and settings.evidence != "match":
        asked = asked or f"--rerank {settings.evidence}"
    if asked is None:
        return None
    place = datastore or folder / DATASTORE
    if not place.exists() and datastore is None:
        raise UserError(
            f"{asked}: there is no {DATASTORE} in {printable(folder)}; name one with"
            f" --datastore, or make one by captune tune {asked}"
        )
    store = load_store(place, recipe.image_encoder, recipe.grid)
    if recipe.prompt_captions and not isinstance(store, Datastore):
        raise UserError(
            f"{printable(place)} holds no captions, which this captioner reads before it"
            " writes; name another one with --datastore"
        )
    return store


def load_reranker(
    settings: Reranking,
    folder: Path,
    identity: ImageIdentity,
    grid: GridShape,
    *,
    options: CaptionerOptions,
    loaded: Sequence[ImageTextModel | None] = (),
    store: Store | None = None,
) -> Reranker:
    """What chooses by these settings, which `options` asked for.

    folder, identity, grid: of the captioner. loaded: models that are there already. store: of
    `store_beside`. Raises UserError for another model than the weights were fitted with.
    """
    matcher = None
    if settings.evidence == "match":
        store = None
    if settings.evidence != "neighbours":
        spec = settings.model or "lite"
        with hub.unasked(str(folder), unless=options.rerank_model):
            how = {"device": options.device, "dtype": options.dtype}
            matcher = load_image_text_model(spec, **how, loaded=loaded)
        if settings.weights_id not in (None, matcher.weights_id):
            raise UserError(
                f"{printable(folder / RERANK)}: its weights were fitted with another"
                f" {printable(spec)} than this one; name a model with --rerank-model, or take"
                " --rerank none"
            )
    return Reranker(settings, identity, grid, matcher, store)
