"""CLIPScore, RefCLIPScore and the homework's CLIPScore, over any image-text model.

Definitions: Hessel et al. 2021, and where the paper leaves a choice their published code
(jmhessel/clipscore); docs/clipscore.md says where the variants part. Images are encoded once and
kept in the feature cache, and every different text once, whatever number of scores is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from captune.errors import UserError
from captune.features.cache import cache_for
from captune.features.encode import encode_all, encode_texts
from captune.features.pipeline import Encoding
from captune.images import ImageFile, Skipped
from captune.images.find import ImageData, ImageInMemory
from captune.models.encoders import ContextLength, Floats, ImageTextModel, describe_model, normalise
from captune.options.scoring import MetricOptions
from captune.progress import SILENT, Progress
from captune_metrics.catalogue import title_of
from captune_metrics.corpus import check_images
from captune_metrics.display import named, printable
from captune_metrics.resampling import Doubles
from captune_metrics.scores import Candidates, References, Scores

__all__ = ["clipscore", "clipscore_hw3", "ref_clipscore"]

PREFIX = "A photo depicts "

# image id -> its file, or the image itself; there may be more than candidates
ImagesById: TypeAlias = "Mapping[str, ImageFile | str | Path | ImageData]"
Rows = NDArray[np.intp]

_NAMED = 3  # how many images a message names before it counts the rest


@dataclass(frozen=True)
class PairFeatures:
    """Unit vectors (float32) of images and texts, from which the scores are simple arithmetic.

    ids: of the images, n of them. images: [n, d].
    texts: [m, d], every different text once; the other arrays are rows of it.
    prefixed, plain: [n] each candidate with and without the prefix.
    references: [r] the prefixed references of all images in order; starts: [n] where each image's
        begin. All three are empty where the scores asked for do not need them.
    truncated: how many candidates and references, with the prefix, the model did not read to the
        end. empty: how many candidates have no words.
    recipe: model, precision and context length, as JSON.
    """

    ids: list[str]
    images: Floats
    texts: Floats
    prefixed: Rows
    plain: Rows
    references: Rows
    starts: Rows
    prefix: str
    truncated: dict[str, int]
    empty: int
    recipe: dict[str, Any]


def encode_pairs(
    metrics: Iterable[str],
    candidates: Candidates,
    references: References | None,
    images: ImagesById,
    *,
    model: ImageTextModel,
    how: Encoding | None = None,
    prefix: str = PREFIX,
    progress: Progress = SILENT,
) -> PairFeatures:
    """What the scores called `metrics` need, every image and every different text encoded once.

    Features are cast to float32 before they are normalised, whatever the model's precision.
    Raises UserError, before anything is encoded, for a model without a text side, an image without
    image or references and, for clipscore_hw3, captions longer than the model reads; afterwards for
    images that cannot be read (a mean over the others would be another number) and for features
    that are not finite.
    """
    how, wanted = how or Encoding(), set(metrics)
    text = model.text
    if text is None:
        raise UserError(
            f"{model.spec} has no text side to compare captions with; "
            "use lite, open_clip:NAME/TAG or hf:REPO"
        )
    if references is not None:
        check_images(candidates, references)
    elif "ref_clipscore" in wanted:
        raise UserError("ref_clipscore: compares with references; none were given")
    if not candidates:
        raise UserError("no captions to score: give at least one candidate with its image")
    ids = list(candidates)
    missing = [id for id in ids if id not in images]
    if missing:
        raise UserError(
            f"no image for {named(missing, 'image')}: CLIPScore compares captions with images; "
            "give the folder that holds them all"
        )
    files = [_file_of(id, images[id]) for id in ids]

    plain = list(candidates.values()) if "clipscore_hw3" in wanted else []
    has_prefix = bool(wanted - {"clipscore_hw3"})
    prefixed = [prefix + caption for caption in candidates.values()] if has_prefix else []
    referred = (
        [[prefix + caption for caption in references[image]] for image in ids]
        if "ref_clipscore" in wanted and references is not None
        else []
    )
    flat = [caption for captions in referred for caption in captions]
    if plain:
        _refuse_long(ids, plain, text.context)
    truncated = {
        "candidates": _count_long(prefixed, text.context),
        "references": _count_long(flat, text.context),
    }

    unique = list(dict.fromkeys([*plain, *prefixed, *flat]))
    rows = {caption: row for row, caption in enumerate(unique)}
    texts = _unit(encode_texts(unique, text, cache=how.cache), "caption", unique)
    vectors = _encode_images(files, model, how, progress)
    lengths = np.array([len(captions) for captions in referred], dtype=np.intp)
    return PairFeatures(
        ids=ids,
        images=_unit(vectors, "image", ids),
        texts=texts,
        prefixed=np.array([rows[caption] for caption in prefixed], dtype=np.intp),
        plain=np.array([rows[caption] for caption in plain], dtype=np.intp),
        references=np.array([rows[caption] for caption in flat], dtype=np.intp),
        starts=np.cumsum(lengths) - lengths,
        prefix=prefix,
        truncated=truncated,
        empty=sum(not caption.strip() for caption in candidates.values()),
        recipe={
            "model": describe_model(model),
            "dtype": str(model.image.dtype).removeprefix("torch."),
            "device": model.image.device.type,
            "context_length": None if text.context is None else text.context.tokens,
        },
    )


def _count_long(texts: Sequence[str], context: ContextLength | None) -> int:
    return 0 if context is None else sum(context.exceeded(texts))


def _refuse_long(
    images: Sequence[str], captions: Sequence[str], context: ContextLength | None
) -> None:
    if context is None:
        return
    long = [i for i, is_long in enumerate(context.exceeded(captions)) if is_long]
    if not long:
        return
    (tokens,) = context.count([captions[long[0]]])
    others = len(long) - 1
    more = f" ({others:,} other{'s are' if others > 1 else ' is'} too long as well)"
    raise UserError(
        f"clipscore_hw3: the caption of {named([images[long[0]]], 'image')} has {tokens} tokens, "
        f"the model reads {context.tokens}{more if others else ''}; this score cuts nothing: "
        "shorten the captions or ask for clipscore"
    )


def _file_of(id: str, image: ImageFile | str | Path | ImageData) -> ImageFile:
    if isinstance(image, ImageFile):
        return image
    if isinstance(image, str | Path):
        return ImageFile(Path(image), Path(image).name)
    return ImageFile(ImageInMemory.of(id, image), id)


def _encode_images(
    images: Sequence[ImageFile], model: ImageTextModel, how: Encoding, progress: Progress
) -> Floats:
    """[n, d] as the model gives them, in order. Raises UserError for unreadable images."""
    skipped: list[Skipped] = []
    _, features = encode_all(images, model, how, skipped=skipped, progress=progress)
    if skipped:
        reasons = "; ".join(f"{printable(item.path)}: {item.reason}" for item in skipped[:_NAMED])
        rest = len(skipped) - _NAMED
        raise UserError(
            f"{len(skipped):,} of {len(images):,} images cannot be read ({reasons}"
            f"{f'; and {rest:,} more' if rest > 0 else ''}): a mean over the others would be "
            "another number; repair the files, or leave their images out of the captions"
        )
    return features


def _unit(features: Floats, what: str, names: Sequence[str]) -> Floats:
    lost = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(lost):
        raise UserError(
            f"the model's features of {named([names[i] for i in lost.tolist()], what)} are "
            "not finite: its precision does not hold them; use --dtype float32"
        )
    return normalise(features.astype(np.float32, copy=False))


W = 2.5

_PAIRS_AT_ONCE = 8192
# w was chosen so that the scores of this checkpoint spread over 0 to 1
_STANDARD = {"open_clip:ViT-B-32/openai", "open_clip:ViT-B-32-quickgelu/openai"}
_STANDARD |= {"hf:openai/clip-vit-base-patch32"}


def clipscore(
    candidates: Candidates,
    images: ImagesById,
    *,
    model: ImageTextModel,
    prefix: str = PREFIX,
    w: float = W,
    how: Encoding | None = None,
) -> Scores:
    """CLIPScore: w * max(cosine of image and prefix + caption, 0); the corpus figure is the mean.

    candidates: {image id: caption}; images: {image id: its image}, for every candidate: a path,
        the bytes of an image file or a PIL image.
    A caption that is longer than the model reads is cut, as the authors do; recipe and notes count.
    Raises UserError for a missing or unreadable image and for a model without a text side.
    """
    pairs = encode_pairs(
        ["clipscore"], candidates, None, images, model=model, prefix=prefix, how=how
    )
    return clip_scores_of(pairs, "clipscore", w)


def ref_clipscore(
    candidates: Candidates,
    references: References,
    images: ImagesById,
    *,
    model: ImageTextModel,
    prefix: str = PREFIX,
    w: float = W,
    how: Encoding | None = None,
) -> Scores:
    """RefCLIPScore: harmonic mean of CLIPScore (with w) and the best cosine to a reference.

    references: {image id: [caption, ...]}; they get the prefix too. A best cosine below 0 counts as
    0, as in the paper, and a mean with 0 is 0.
    Raises MismatchedImages for other images than the candidates', and what `clipscore` raises.
    """
    pairs = encode_pairs(
        ["ref_clipscore"], candidates, references, images, model=model, prefix=prefix, how=how
    )
    return clip_scores_of(pairs, "ref_clipscore", w)


def clipscore_hw3(
    candidates: Candidates,
    images: ImagesById,
    *,
    model: ImageTextModel,
    how: Encoding | None = None,
) -> Scores:
    """CLIPScore of the homework: no prefix, w = 2.5, and a caption is never cut.

    Raises UserError for a caption longer than the model reads, and what `clipscore` raises.
    """
    pairs = encode_pairs(["clipscore_hw3"], candidates, None, images, model=model, how=how)
    return clip_scores_of(pairs, "clipscore_hw3")


def clip_scores(
    metrics: Sequence[str],
    candidates: Candidates,
    references: References | None,
    images: ImagesById,
    options: MetricOptions,
    *,
    model: ImageTextModel,
    progress: Progress = SILENT,
) -> dict[str, Scores]:
    """The scores called `metrics`, by id, from one pass over images and texts.

    options: the prefix, and how to encode. Raises what `encode_pairs` raises.
    """
    with cache_for(options) as cache:
        pairs = encode_pairs(
            metrics,
            candidates,
            references,
            images,
            model=model,
            how=Encoding.of(options, cache),
            prefix=options.prefix,
            progress=progress,
        )
    return {id: clip_scores_of(pairs, id) for id in metrics}


def clip_scores_of(pairs: PairFeatures, metric: str, w: float = W) -> Scores:
    """One of the scores of pairs that were encoded for it: clipscore, ref_clipscore, ..."""
    texts = pairs.plain if metric == "clipscore_hw3" else pairs.prefixed
    cosines = _cosines(pairs.images, np.arange(len(pairs.ids)), pairs.texts, texts)
    values: Doubles = w * np.maximum(cosines.astype(np.float64), 0.0)
    if metric == "ref_clipscore":
        counts = np.diff(pairs.starts, append=len(pairs.references))
        candidates = np.repeat(texts, counts)
        cosines = _cosines(pairs.texts, candidates, pairs.texts, pairs.references)
        best = np.maximum(np.maximum.reduceat(cosines, pairs.starts), 0.0).astype(np.float64)
        total = values + best
        values = np.divide(2 * values * best, total, out=np.zeros_like(total), where=total > 0)
    return _scores(metric, values, pairs, w)


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


def _scores(metric: str, values: Doubles, pairs: PairFeatures, w: float) -> Scores:
    title = title_of(metric)
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
