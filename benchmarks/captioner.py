"""What a tuned captioner is worth: its scores beside captions that need no training.

    python benchmarks/captioner.py RUN --images DIR --captions train.json --val-captions val.json

RUN is a tuned captioner, or the run of a tune, of which each method is looked at. All validation
images are captioned and scored (CIDEr-D, BLEU-4, ROUGE-L, 95 % bootstrap intervals over images),
and on the same images, in the same run:

    nearest     the first caption of the train image that looks most alike
    consensus   of the captions of the ten nearest train images, the one most like the others
    shuffled    the same captioner, shown the image of another image each
    human       one human caption against the others (four instead of five references)

"Looks alike" is the cosine of the centred mean of the patch grid, the grid the captioner is shown.
The difference to each is paired: the same images are drawn for both sides.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from caption_baselines import (
    Captions,
    Wording,
    consensus_captions,
    human_captions,
    nearest_captions,
    neighbours,
    pooled,
    scores_of,
    tokenised,
    wording_of,
)
from captions_figure import CaptionPanel, captions_figure
from captune.captioning.captioner import Captioner
from captune.captioning.checkpoint import ImageIdentity, check_model, read_recipe
from captune.captioning.dataset import CaptionDataset, leaked_ids, read_dataset
from captune.captioning.model import IGNORED
from captune.captioning.settings import CONFIG, checkpoint_folder
from captune.captioning.training.batches import Grids
from captune.captioning.training.validation import (
    CAPTIONED_AT_ONCE,
    Captioned,
    ValidationSet,
    deranged,
    write_captions,
)
from captune.errors import UserError
from captune.features.cache import FeatureCache
from captune.features.encode import open_grids
from captune.features.pipeline import Encoding
from captune.files import whole_file
from captune.images import ImageSet, UnreadableImage, find_images, open_image
from captune.models.encoders import ImageEncoder
from captune.models.load import load_model
from captune.plots import save_figure
from captune.scoring.compare import compare_scores
from captune_metrics.resampling import RESAMPLES
from captune_metrics.scores import Scores, intervals_of

SHOWN = 12
TITLES = {"cider": "CIDEr-D", "bleu_4": "BLEU-4", "rouge_l": "ROUGE-L"}


@dataclass(frozen=True)
class Row:
    """One way to caption the validation images. ended: share that came to an end by itself."""

    name: str
    captions: Captions
    scores: dict[str, Scores]
    wording: Wording
    seconds: float
    ended: float | None = None


def main(words: list[str] | None = None) -> int:
    """Measure and print."""
    parser = arguments_of()
    arguments = parser.parse_args(words)
    try:
        with ExitStack() as stack:
            result = measure(arguments, stack)
    except UserError as error:
        print(f"captioner.py: {error}", file=sys.stderr)
        return 2
    if arguments.json:
        print(json.dumps(result))
    else:
        show(result)
    return 0


def arguments_of() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="a tuned captioner or run of a tune")
    parser.add_argument("--images", type=Path, required=True, metavar="DIR")
    parser.add_argument("--captions", type=Path, required=True, metavar="TRAIN")
    parser.add_argument("--val-captions", type=Path, required=True, metavar="VAL")
    parser.add_argument("--val-images", type=Path, metavar="DIR", help="(default: --images)")
    parser.add_argument("--method", metavar="M,M", help="only these methods of the run")
    parser.add_argument("--beam", type=int, default=1, metavar="N", help="beams (1: greedy)")
    parser.add_argument("--rerank", default="auto", help="as captune caption (auto)")
    parser.add_argument(
        "--limit", type=int, default=0, metavar="N", help="a sample of N validation images (0: all)"
    )
    parser.add_argument(
        "--train-limit", type=int, default=0, metavar="N", help="as --limit of the tune"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="captions as JSON, 12 images as PNG, result.json"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def measure(arguments: argparse.Namespace, stack: ExitStack) -> dict[str, Any]:
    """All figures, and the files where --out names a folder."""
    started = time.perf_counter()
    folders = captioners_of(arguments.run, arguments.method)
    recipes = {name: read_recipe(folder) for name, folder in folders.items()}
    spec = next(iter(recipes.values())).image_encoder.spec
    train, val = read_images(arguments)
    model = load_model(spec)
    patches = model.image.require_patches()
    identity = ImageIdentity(spec, patches.weights_id, patches.preprocessing_id)
    for name, recipe in recipes.items():
        check_model(recipe.image_encoder, identity, folders[name], "image encoder")
    cache = stack.enter_context(FeatureCache())
    train, val, grids = encode(train, val, model.image, cache, stack)
    known = tokenised(train)

    def row(name: str, captions: Captions, began: float, written: Captioned | None = None) -> Row:
        taken = time.perf_counter() - began
        ended = None if written is None else sum(written.ended.values()) / len(written.ended)
        scores = scores_of(captions, val.references)
        return Row(name, captions, scores, wording_of(captions, known), taken, ended)

    began = time.perf_counter()
    shape = patches.shape
    near = neighbours(pooled(grids, val.keys, shape), pooled(grids, train.keys, shape))
    say(f"neighbours of {len(val):,} images among {len(train):,}")
    rows = [row("nearest", nearest_captions(val, train, near), began)]
    began = time.perf_counter()
    rows.append(row("consensus", consensus_captions(val, train, near), began))
    own, others = human_captions(val)
    if len(own) > 1:
        rows.append(Row("human", own, scores_of(own, others), wording_of(own, known), 0.0))
    differences = []
    for name, folder in folders.items():
        right, wrong = written_by(folder, val, grids, cache, arguments)
        mine = row(name, right[0].captions, right[1], right[0])
        blind = row(f"{name}, shuffled", wrong[0].captions, wrong[1], wrong[0])
        differences += [difference(mine, other) for other in (*rows[:2], blind)]
        rows += [mine, blind]
    result = {
        "run": str(arguments.run),
        "images": len(val),
        "train_images": len(train),
        "leaked": len(leaked_ids(train, val)),
        "skipped": [
            {"path": item.path, "reason": item.reason} for item in (*train.skipped, *val.skipped)
        ],
        "image_encoder": spec,
        "beams": arguments.beam,
        "seed": arguments.seed,
        "resamples": RESAMPLES,
        "captioners": list(folders),
        "rows": [as_json(one, arguments.seed) for one in rows],
        "differences": differences,
        "seconds": round(time.perf_counter() - started),
    }
    if arguments.out is not None:
        write_files(arguments, result, rows, val, list(folders))
    return result


def captioners_of(run: Path, methods: str | None) -> dict[str, Path]:
    """Name -> folder: each method of a tune's run, or the one captioner that `run` is."""
    if (run / CONFIG).is_file():
        return {read_recipe(run).method.name: run}
    checkpoint_folder(run)  # says what is wrong where it is no tune either
    tuned = json.loads((run / "metrics.json").read_text(encoding="utf-8"))["methods"]
    found = {str(one["method"]): run / str(one["method"]) for one in tuned}
    wanted = list(found) if methods is None else methods.split(",")
    for name in wanted:
        if name not in found:
            raise UserError(f"--method {name}: {run} has {', '.join(found)}")
    return {name: found[name] for name in wanted}


def read_images(arguments: argparse.Namespace) -> tuple[CaptionDataset, CaptionDataset]:
    """The train images that captions are taken from, and those to caption."""
    found = find_images([arguments.images])
    found_val: ImageSet = (
        found if arguments.val_images is None else find_images([arguments.val_images])
    )
    seed = arguments.seed
    train = read_dataset(arguments.captions, found, limit=arguments.train_limit, seed=seed)
    val = read_dataset(arguments.val_captions, found_val, limit=arguments.limit, seed=seed)
    say(f"{len(train):,} train images, {len(val):,} validation images")
    return train, val


def encode(
    train: CaptionDataset,
    val: CaptionDataset,
    encoder: ImageEncoder,
    cache: FeatureCache,
    stack: ExitStack,
) -> tuple[CaptionDataset, CaptionDataset, Grids]:
    """The grids of all images, out of the feature cache where they are, and what could be read."""
    different = {image.path: image for image in (*train.images, *val.images)}
    # images of two folders may have the same name
    images = [replace(image, name=str(path)) for path, image in different.items()]
    skipped: list[Any] = []
    grids = stack.enter_context(
        open_grids(
            images,
            encoder,
            Encoding(cache),
            on_skip=skipped.append,
        )
    )
    return train.without(skipped), val.without(skipped), grids


def written_by(
    folder: Path,
    val: CaptionDataset,
    grids: Grids,
    cache: FeatureCache,
    arguments: argparse.Namespace,
) -> tuple[tuple[Captioned, float], tuple[Captioned, float]]:
    """(captions, when they were begun), of the right images and of another image each."""
    loaded = Captioner.from_pretrained(folder, rerank=arguments.rerank)
    captioner, recipe = loaded.model, loaded.recipe
    tagger = loaded.tagger(cache)
    tags: dict[str, list[int]] | None = None
    if tagger is not None:
        tags = {}
        for start in range(0, len(val), CAPTIONED_AT_ONCE):
            keys = val.keys[start : start + CAPTIONED_AT_ONCE]
            ids = tagger.tags_of(
                val.images[start : start + CAPTIONED_AT_ONCE], grids.grids_of(keys)
            )
            rows = ([id for id in row if id != IGNORED] for row in ids.tolist())
            tags |= dict(zip(keys, rows, strict=True))
    images = ValidationSet(val, [], grids, tags=tags, max_tokens=recipe.max_tokens)
    places = deranged(len(val), random.Random(f"shuffle/{arguments.seed}"))
    found = []
    # who writes and who chooses look at the same other image
    for what, instead in (("", None), ("shuffled ", places)):
        began = time.perf_counter()
        written = write_captions(
            captioner,
            images,
            instead=instead,
            beams=arguments.beam,
            reranker=loaded.reranker,
        )
        found.append((written, began))
        say(f"{folder.name}: {what}captions in {time.perf_counter() - began:.0f} s")
    captioner.detach()
    return found[0], found[1]


def difference(mine: Row, other: Row) -> dict[str, Any]:
    """Paired: how much better the captioner is, by each metric."""
    compared = compare_scores(other.scores, mine.scores)
    return {
        "captioner": mine.name,
        "against": other.name.rpartition(", ")[2],
        **{
            id: {
                "difference": one.difference,
                "interval": None if one.interval is None else list(one.interval),
                "p_holm": one.p_holm,
            }
            for id, one in compared.items()
        },
    }


def as_json(row: Row, seed: int) -> dict[str, Any]:
    intervals = intervals_of(row.scores, resamples=RESAMPLES, seed=seed)
    return {
        "name": row.name,
        "images": len(row.captions),
        "scores": {
            id: {
                "name": score.name,
                "corpus": score.corpus,
                "interval": None if intervals[id] is None else list(intervals[id] or ()),
            }
            for id, score in row.scores.items()
        },
        "wording": row.wording.as_json(),
        "ended": row.ended,
    }


def write_files(
    arguments: argparse.Namespace,
    result: dict[str, Any],
    rows: Sequence[Row],
    val: CaptionDataset,
    captioners: Sequence[str],
) -> None:
    """{stem: caption} of each row, the pictures of each captioner, and the figures."""
    stems = {id: image.path.stem for id, image in zip(val.ids, val.images, strict=True)}
    for row in rows:
        name = row.name.replace(", ", "-")
        with whole_file(arguments.out / f"captions-{name}.json") as file:
            named = {stems[id]: caption for id, caption in row.captions.items()}
            json.dump(named, file, indent=1, ensure_ascii=False)
        if row.name in captioners:
            path = arguments.out / f"images-{name}.png"
            save_figure(captions_figure(*panels(row, val, arguments.seed)), path)
    with whole_file(arguments.out / "result.json") as file:
        json.dump(result, file, indent=1)


def panels(row: Row, val: CaptionDataset, seed: int) -> tuple[list[CaptionPanel], str, str]:
    """12 images that nobody chose: a sample by the seed."""
    places = range(len(val))
    chosen = random.Random(f"images/{seed}").sample(places, min(SHOWN, len(places)))
    shown = []
    for place in chosen:
        try:
            image = open_image(val.images[place].path)
        except UnreadableImage:  # it was readable a moment ago
            continue
        id = val.ids[place]
        below = f"CIDEr-D {row.scores['cider'].per_image[id]:.2f}"
        shown.append(CaptionPanel(row.captions[id], image, below))
    corpus = row.scores["cider"].corpus
    subtitle = (
        f"{len(shown)} of {len(val):,} validation images, drawn with seed {seed};"
        f" CIDEr-D is {corpus:.3f} over all of them"
    )
    return shown, f"{row.name}: captions as they come", subtitle


def show(result: Mapping[str, Any]) -> None:
    """As Markdown, for a card or a guide."""
    print(
        f"{result['images']:,} validation images, {result['train_images']:,} train images,"
        f" {result['image_encoder']}, beams {result['beams']}, seed {result['seed']};"
        f" {result['seconds']} s in all\n"
    )
    print("| captions | CIDEr-D | BLEU-4 | ROUGE-L | copied | distinct | words | vocabulary |")
    print("|---|---|---|---|---|---|---|---|")
    for row in result["rows"]:
        wording = row["wording"]
        print(
            f"| {row['name']} | {' | '.join(cell(row['scores'][id]) for id in TITLES)} |"
            f" {100 * wording['copied']:.1f} % | {100 * wording['distinct']:.1f} % |"
            f" {wording['mean_words']:.1f} | {wording['vocabulary']:,} |"
        )
    print("\nHow much better a captioner is (paired over images, 95 % intervals):\n")
    print("| captioner | against | CIDEr-D | BLEU-4 | ROUGE-L |")
    print("|---|---|---|---|---|")
    for one in result["differences"]:
        cells = " | ".join(signed(one[id]) for id in TITLES)
        print(f"| {one['captioner']} | {one['against']} | {cells} |")
    print(
        "\nnearest, consensus: captions of the train images that look alike (cosine of the"
        " centred mean of the patch grid); shuffled: the captioner shown another image; human: the"
        " first caption against the others. copied: word for word a train caption; distinct:"
        " different captions over all; words: of a caption; vocabulary: different words."
    )
    if result["leaked"]:
        print(f"{result['leaked']} validation images are among the train images: it flatters.")


def cell(score: Mapping[str, Any]) -> str:
    if score["interval"] is None:
        return f"{score['corpus']:.3f}"
    low, high = score["interval"]
    return f"{score['corpus']:.3f} ({low:.3f} to {high:.3f})"


def signed(found: Mapping[str, Any]) -> str:
    if found["interval"] is None:
        return f"{found['difference']:+.3f}"
    low, high = found["interval"]
    return f"{found['difference']:+.3f} ({low:+.3f} to {high:+.3f})"


def say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
