"""How what ships chooses its captions: python packages/captune-lite/choose.py RUN

RUN is a captioning of validation images that kept its candidates:

    captune caption VAL --rerank match --rerank-model lite-research --keep-candidates --out RUN

Writes, beside the captioner that ships or another one (--to), datastore.safetensors, a summary of
the captions of the training images (--captions; no caption is in it), and rerank.json, weights
fitted on the captions of the validation images (--val-captions). Prints the figures as one JSON
object.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from captune.captioning.captioner import Captioner
from captune.captioning.checkpoint import Recipe, write_beside
from captune.captioning.dataset import CaptionDataset, read_dataset
from captune.captioning.datastore import (
    DATASTORE,
    SUMMARY_ORDERS,
    Store,
    Summary,
    load_store,
    ngrams,
)
from captune.captioning.rerank import Reranker, fit_weights, pooled, unfitted
from captune.captioning.settings import RERANK
from captune.errors import UserError
from captune.features.cache import FeatureCache
from captune.features.encode import open_grids
from captune.features.pipeline import Encoding
from captune.images import find_images
from captune.models.encoders import Floats, ImageEncoder, ImageTextModel
from captune.models.load import load_image_text_model
from captune.runs import read_run
from captune.runs.records import Candidate, json_value
from captune_metrics import ptb

SHIPPED = Path(__file__).parent / "captune_lite" / "captioner"
MATCHER = "lite-research"
RANK = 128
FEWEST = (3, 8, 10)  # training images that have an n-gram, by its order
RIDGE = 1e4  # of features with variance one


def main(words: list[str] | None = None) -> int:
    """Summarise, fit, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("--images", required=True, metavar="DIR")
    parser.add_argument("--captions", type=Path, required=True, metavar="TRAIN")
    parser.add_argument("--val-captions", type=Path, required=True, metavar="VAL")
    parser.add_argument("--to", type=Path, default=SHIPPED, metavar="CAPTIONER")
    arguments = parser.parse_args(words)
    try:
        found = find_images([arguments.images])
        train = read_dataset(arguments.captions, found)
        val = read_dataset(arguments.val_captions, found)
        captioner = Captioner.from_pretrained(arguments.to, rerank="none", device="cpu")
        encoder, recipe = captioner.encoder.image, captioner.recipe
        with FeatureCache() as cache:
            means = means_of(train, encoder, recipe, cache)
            made = summary_of(means, train.captions, recipe.image_encoder.weights_id)
            made.save(arguments.to / DATASTORE)
            offered = {
                Path(record["path"]).name: likeliest_first(record["candidates"])
                for record in read_run(arguments.run).records()
            }
            matcher = load_image_text_model(MATCHER, device="cpu")
            # as it ships: in half precision
            store = load_store(arguments.to / DATASTORE, recipe.image_encoder, recipe.grid)
            judged = judge(val, offered, encoder, recipe, matcher, store, cache)
    except UserError as error:
        print(f"choose.py: {error}", file=sys.stderr)
        return 2
    fitted = fit_weights(unfitted("both", 0, matcher), judged, val.references)
    if fitted is None:
        print("choose.py: too few images", file=sys.stderr)
        return 2
    write_beside(arguments.to / RERANK, fitted)
    print(json.dumps(json_value(fitted), indent=1))
    return 0


def likeliest_first(kept: Sequence[Mapping[str, Any]]) -> list[Candidate]:
    """The candidates of a record, which has the best one by its evidence first, as without any."""
    found = [Candidate(**one) for one in kept]
    return sorted(found, key=lambda one: -one.mean_log_probability)


def means_of(
    data: CaptionDataset, encoder: ImageEncoder, recipe: Recipe, cache: FeatureCache
) -> Floats:
    """[images, channels] of their patch grids."""
    skipped: list[object] = []
    with open_grids(data.images, encoder, Encoding(cache), on_skip=skipped.append) as grids:
        parts = [data.keys[start : start + 64] for start in range(0, len(data), 64)]
        found = [pooled(grids.grids_of(keys), recipe.grid).cpu().numpy() for keys in parts]
    return np.concatenate(found)


def summary_of(means: Floats, captions: Sequence[Sequence[str]], weights_id: str) -> Summary:
    """A ridge regression of the n-grams of people's captions on what images look like.

    Of each image the target is the mean of the unit tf-idf vectors of its captions, an order at a
    time, less its mean over all images. Of the map the RANK directions are kept that say most.
    """
    from scipy import sparse

    cut = iter(ptb.tokenize_each([text for own in captions for text in own]))
    counted = [[ngrams(next(cut).split()) for _ in own] for own in captions]
    frequency = [
        Counter(gram for own in counted for gram in set().union(*(found[n] for found in own)))
        for n in range(SUMMARY_ORDERS)
    ]
    grams = [
        gram
        for found, fewest in zip(frequency, FEWEST, strict=True)
        for gram in sorted(found)
        if found[gram] >= fewest
    ]
    every = {gram: count for found in frequency for gram, count in found.items()}
    idf = np.log(len(counted)) - np.log(np.array([every[gram] for gram in grams]))
    none = np.zeros(0, np.float32)
    made = Summary(none, none, none, idf.astype(np.float32), grams, weights_id)
    places = {gram: place for place, gram in enumerate(grams)}
    rows, columns, values = [], [], []
    for row, own in enumerate(counted):
        for caption in own:
            for counts in caption:
                at, weights = made.unit(counts, places)
                rows += [row] * len(at)
                columns += at
                values += (weights / len(own)).tolist()
    y = sparse.csr_matrix((values, (rows, columns)), shape=(len(counted), len(grams)))
    roots = np.sqrt(np.maximum(means, 0)).astype(np.float64)
    centre = roots.mean(axis=0)
    scale = (roots - centre).std()
    x = (roots - centre) / scale
    gram_matrix = x.T @ x + RIDGE * np.eye(x.shape[1])
    # the columns of x have mean zero, so those of y may have any
    full = np.linalg.solve(gram_matrix, (y.T @ x).T)
    lower = np.linalg.cholesky(gram_matrix)
    left, sizes, right = np.linalg.svd(lower.T @ full, full_matrices=False)
    look = np.linalg.solve(lower.T, left[:, :RANK] * np.sqrt(sizes[:RANK])) / scale
    say = np.sqrt(sizes[:RANK])[:, None] * right[:RANK]
    return replace(
        made,
        centre=centre.astype(np.float32),
        look=look.astype(np.float32),
        say=say.astype(np.float32),
    )


def judge(
    data: CaptionDataset,
    offered: Mapping[str, Sequence[Candidate]],
    encoder: ImageEncoder,
    recipe: Recipe,
    matcher: ImageTextModel,
    store: Store,
    cache: FeatureCache,
) -> dict[str, list[Candidate]]:
    """The candidates of each validation image with their evidence."""
    reranker = Reranker(
        unfitted("both", 0, matcher), recipe.image_encoder, recipe.grid, matcher, store
    )
    found: dict[str, list[Candidate]] = {}
    with open_grids(data.images, encoder, Encoding(cache), on_skip=lambda one: None) as grids:
        for start in range(0, len(data), 32):
            some = slice(start, start + 32)
            drafts = [offered[image.path.name] for image in data.images[some]]
            judged = reranker.judged(
                drafts, data.images[some], grids.grids_of(data.keys[some]), cache
            )
            found |= dict(zip(data.ids[some], judged, strict=True))
    return found


if __name__ == "__main__":
    sys.exit(main())
