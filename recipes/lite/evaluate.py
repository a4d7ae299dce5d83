"""How good `lite` is: `python -m recipes.lite.evaluate --caltech DIR --flickr8k DIR`.

Prints one JSON object. Zero-shot accuracy with its Wilson 95 % interval and calibration error on
labelled folders (`id2label.json`, `images/<class id>_<n>.*`); recall of retrieval on Flickr8k's
validation images, five captions each.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from captune.models.backends.lite import ALIGNMENT, Alignment, load_alignment
from captune.models.lite.backbones import load_backbones
from captune.statistics import wilson
from recipes.lite.frozen import Frozen, read_json
from recipes.lite.train import PROMPT_TEMPLATE, cosines_of

BINS = 15


def main(arguments: list[str] | None = None) -> None:
    """Evaluate on whatever folders are given."""
    parser = argparse.ArgumentParser(prog="python -m recipes.lite.evaluate")
    for name, what in (("caltech", "labelled images"), ("cifar10", "labelled images"),
                       ("flickr8k", "captions_val.json and images/")):  # fmt: skip
        parser.add_argument(f"--{name}", type=Path, metavar="DIR", help=what)
    parser.add_argument("--alignment", type=Path, default=ALIGNMENT, metavar="FILE")
    parser.add_argument("--prompt", default=PROMPT_TEMPLATE, metavar="T")
    parser.add_argument("--wheels", type=Path, metavar="DIR", help="take the backbones from here")
    parser.add_argument("--features", type=Path, metavar="DIR", help="keep frozen features here")
    options = parser.parse_args(arguments)
    alignment = load_alignment(options.alignment)
    frozen = Frozen(load_backbones(options.wheels), options.features)
    found: dict[str, Any] = {
        "alignment": alignment.weights_id,
        "variant": alignment.metadata["variant"],
        "prompt": options.prompt,
        "logit_scale": alignment.logit_scale,
    }
    for name in ("caltech", "cifar10"):
        folder = getattr(options, name)
        if folder:
            found[name] = zero_shot(frozen, alignment, folder, options.prompt)
    if options.flickr8k:
        found["flickr8k_val"] = retrieval(frozen, alignment, options.flickr8k)
    print(json.dumps(found, indent=2))


def zero_shot(frozen: Frozen, alignment: Alignment, folder: Path, template: str) -> dict[str, Any]:
    """Accuracy, its interval and the expected calibration error, in percent."""
    cosines, truth = cosines_of(frozen, alignment, folder, template)
    logits = torch.from_numpy(cosines) * alignment.logit_scale
    probabilities = logits.softmax(1).numpy()
    right = probabilities.argmax(1) == truth
    interval = wilson(int(right.sum()), len(right))
    return {
        "images": len(right),
        "labels": probabilities.shape[1],
        "accuracy": _percent(right.mean()),
        "interval": [_percent(interval.low), _percent(interval.high)],
        "calibration_error": _percent(calibration_error(probabilities.max(1), right)),
    }


def calibration_error(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """Mean gap between confidence and accuracy over equally wide bins (Guo et al. 2017, eq. 3)."""
    bin_of = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = [abs((confidence - right)[bin_of == one].sum()) for one in range(BINS)]
    return float(sum(gaps) / len(right))


def retrieval(frozen: Frozen, alignment: Alignment, flickr8k: Path) -> dict[str, float]:
    """Recall at 1 and 10, in percent: an image by one caption, one of its captions by an image."""
    captions = read_json(flickr8k / "captions_val.json")
    files = {one["id"]: flickr8k / "images" / one["file_name"] for one in captions["images"]}
    ids = sorted(files)
    owner = np.array([ids.index(one["image_id"]) for one in captions["annotations"]])
    images = alignment.image(torch.from_numpy(frozen.files([files[id_] for id_ in ids])))
    texts = [one["caption"] for one in captions["annotations"]]
    # in parts: a text is compared with every name in the alignment's memory
    encoded = frozen.texts(texts)
    batches = [encoded[start : start + 256] for start in range(0, len(encoded), 256)]
    meant = torch.cat([alignment.text(torch.from_numpy(batch)) for batch in batches])
    cosines = (images @ meant.T).numpy()  # [images, captions]

    found: dict[str, float] = {"images": len(ids), "captions": len(owner)}
    by_text = np.argsort(-cosines.T, axis=1, kind="stable")  # images, the nearest first
    by_image = owner[np.argsort(-cosines, axis=1, kind="stable")]  # owners of captions
    for k in (1, 10):
        found[f"text_to_image_R@{k}"] = _percent((by_text[:, :k] == owner[:, None]).any(1).mean())
        hits = (by_image[:, :k] == np.arange(len(ids))[:, None]).any(1)
        found[f"image_to_text_R@{k}"] = _percent(hits.mean())
    return found


def _percent(share: float) -> float:
    return round(100 * float(share), 1)


if __name__ == "__main__":
    main()
