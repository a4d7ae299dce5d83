"""CLIPScore, RefCLIPScore and the homework's CLIPScore, over any image-text model.

Definitions: Hessel et al. 2021, and where the paper leaves a choice their published code
(jmhessel/clipscore); docs/clipscore.md says where the variants part. `clip_features` encodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from captune.files import printable
from captune.metrics.clip_features import PREFIX, Bar, Images, PairFeatures, Rows, encode_pairs
from captune.metrics.scores import Candidates, References, Scores
from captune.options import MetricOptions

if TYPE_CHECKING:
    from captune.features import FeatureCache
    from captune.models.encoders import Floats, ImageTextModel

W = 2.5

_PAIRS_AT_ONCE = 8192
# w was chosen so that the scores of this checkpoint spread over 0 to 1
_STANDARD = {"open_clip:ViT-B-32/openai", "open_clip:ViT-B-32-quickgelu/openai"}
_STANDARD |= {"hf:openai/clip-vit-base-patch32"}


def clipscore(
    candidates: Candidates,
    images: Images,
    *,
    model: ImageTextModel,
    cache: FeatureCache | None = None,
    prefix: str = PREFIX,
    w: float = W,
    batch_size: int = 32,
    workers: int = 0,
) -> Scores:
    """CLIPScore: w * max(cosine of image and prefix + caption, 0); the corpus figure is the mean.

    candidates: {image id: caption}; images: {image id: its image}, for every candidate.
    A caption that is longer than the model reads is cut, as the authors do; recipe and notes count.
    Raises UserError for a missing or unreadable image and for a model without a text side.
    """
    pairs = encode_pairs(
        ["clipscore"],
        candidates,
        None,
        images,
        model=model,
        cache=cache,
        prefix=prefix,
        batch_size=batch_size,
        workers=workers,
    )
    return clipscore_of(pairs, w)


def ref_clipscore(
    candidates: Candidates,
    references: References,
    images: Images,
    *,
    model: ImageTextModel,
    cache: FeatureCache | None = None,
    prefix: str = PREFIX,
    w: float = W,
    batch_size: int = 32,
    workers: int = 0,
) -> Scores:
    """RefCLIPScore: harmonic mean of CLIPScore (with w) and the best cosine to a reference.

    references: {image id: [caption, ...]}; they get the prefix too. A best cosine below 0 counts as
    0, as in the paper, and a mean with 0 is 0.
    Raises MismatchedImages for other images than the candidates', and what `clipscore` raises.
    """
    pairs = encode_pairs(
        ["ref_clipscore"],
        candidates,
        references,
        images,
        model=model,
        cache=cache,
        prefix=prefix,
        batch_size=batch_size,
        workers=workers,
    )
    return ref_clipscore_of(pairs, w)


def clipscore_hw3(
    candidates: Candidates,
    images: Images,
    *,
    model: ImageTextModel,
    cache: FeatureCache | None = None,
    batch_size: int = 32,
    workers: int = 0,
) -> Scores:
    """CLIPScore of the homework: no prefix, w = 2.5, and a caption is never cut.

    Raises UserError for a caption longer than the model reads, and what `clipscore` raises.
    """
    pairs = encode_pairs(
        ["clipscore_hw3"],
        candidates,
        None,
        images,
        model=model,
        cache=cache,
        batch_size=batch_size,
        workers=workers,
    )
    return clipscore_hw3_of(pairs)


def clip_scores(
    metrics: Sequence[str],
    candidates: Candidates,
    references: References | None,
    images: Images,
    options: MetricOptions,
    *,
    bar: Bar,
    model: ImageTextModel | None = None,
) -> dict[str, Scores]:
    """The scores called `metrics`, by id, from one pass over images and texts.

    options: model, device, precision, prefix and how to encode. model: one that is loaded already.
    Raises what `encode_pairs` raises.
    """
    from captune.features import FeatureCache
    from captune.models.load import load_image_text_model

    if model is None:
        model = load_image_text_model(options.model, device=options.device, dtype=options.dtype)
    with nullcontext() if options.no_cache else FeatureCache() as cache:
        pairs = encode_pairs(
            metrics,
            candidates,
            references,
            images,
            model=model,
            cache=cache,
            prefix=options.prefix,
            batch_size=options.batch_size,
            workers=options.workers,
            bar=bar,
        )
    of = {
        "clipscore": clipscore_of,
        "ref_clipscore": ref_clipscore_of,
        "clipscore_hw3": clipscore_hw3_of,
    }
    return {id: of[id](pairs) for id in metrics}


def clipscore_of(pairs: PairFeatures, w: float = W) -> Scores:
    """CLIPScore of encoded pairs."""
    return _scores("clipscore", "CLIPScore", _clipscores(pairs, pairs.prefixed, w), pairs, w)


def clipscore_hw3_of(pairs: PairFeatures) -> Scores:
    """The homework's CLIPScore of encoded pairs."""
    values = _clipscores(pairs, pairs.plain, W)
    return _scores("clipscore_hw3", "CLIPScore (hw3)", values, pairs, W)


def ref_clipscore_of(pairs: PairFeatures, w: float = W) -> Scores:
    """RefCLIPScore of encoded pairs."""
    with_image = _clipscores(pairs, pairs.prefixed, w)
    counts = np.diff(pairs.starts, append=len(pairs.references))
    candidates = np.repeat(pairs.prefixed, counts)
    cosines = _cosines(pairs.texts, candidates, pairs.texts, pairs.references)
    best = np.maximum(np.maximum.reduceat(cosines, pairs.starts), 0.0).astype(np.float64)
    total = with_image + best
    values = np.divide(2 * with_image * best, total, out=np.zeros_like(total), where=total > 0)
    return _scores("ref_clipscore", "RefCLIPScore", values, pairs, w)


def _clipscores(pairs: PairFeatures, texts: Rows, w: float) -> NDArray[np.float64]:
    images = np.arange(len(pairs.ids))
    cosines = _cosines(pairs.images, images, pairs.texts, texts)
    scores: NDArray[np.float64] = w * np.maximum(cosines.astype(np.float64), 0.0)
    return scores


def _cosines(left: Floats, left_rows: Rows, right: Floats, right_rows: Rows) -> Floats:
    """Dot products of rows in pairs -> [k] float32, without two copies of everything at once."""
    parts = [
        np.sum(left[a] * right[b], axis=1)
        for a, b in (
            (left_rows[start : start + _PAIRS_AT_ONCE], right_rows[start : start + _PAIRS_AT_ONCE])
            for start in range(0, len(left_rows), _PAIRS_AT_ONCE)
        )
    ]
    return np.concatenate(parts)


def _scores(
    metric: str, title: str, values: NDArray[np.float64], pairs: PairFeatures, w: float
) -> Scores:
    is_hw3 = metric == "clipscore_hw3"
    prefix = "" if is_hw3 else pairs.prefix
    spec, tokens = pairs.recipe["model"]["spec"], pairs.recipe["context_length"]
    recipe = {**pairs.recipe, "prefix": prefix, "w": w, "truncated": 0}
    notes = []
    if not is_hw3:
        recipe["truncated"] = pairs.truncated["candidates"]
        parts = [(pairs.truncated["candidates"], len(pairs.ids), "candidates")]
        if metric == "ref_clipscore":
            recipe["truncated_references"] = pairs.truncated["references"]
            parts.append((pairs.truncated["references"], len(pairs.references), "references"))
        cut = [f"{some:,} of {total:,} {what}" for some, total, what in parts if some]
        if cut:
            notes.append(f"{title}: {' and '.join(cut)} are cut at the model's {tokens} tokens")
    if pairs.empty:
        recipe["empty"] = pairs.empty
        notes.append(
            f"{title}: an empty caption does not score 0 but what "
            f"{'the prefix' if prefix else 'a text without words'} scores ({pairs.empty:,} images)"
        )
    if spec not in _STANDARD:
        notes.append(
            f"CLIPScore of {printable(spec)}: compare it with scores of the same model only "
            "(published ones are of OpenAI's ViT-B/32, for which w = 2.5 was chosen)"
        )
    limit = "nothing cut" if is_hw3 else f"{tokens} tokens"
    return Scores(
        metric,
        float(values.mean()),
        dict(zip(pairs.ids, values.tolist(), strict=True)),
        recipe,
        title=title,
        details=(
            spec,
            f'prefix="{prefix}"' if prefix else "no prefix",
            f"w={w:g}",
            pairs.recipe["dtype"],
            *([] if tokens is None else [limit]),
        ),
        notes=tuple(notes),
    )
