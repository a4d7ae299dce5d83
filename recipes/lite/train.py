"""The recipe of `lite`'s alignment: `python -m recipes.lite.train --coco-mini D --out F`.

Both backbones stay frozen. What is fitted, in this order, nearly all of it in closed form:

1. Directions. Rows of the ImageNet classifier say where images of 1,000 classes lie. Synsets that
   are kinds of classes get the mean of theirs; all other synsets of the vocabulary are predicted
   by kernel regression on names, definitions and, for animals, plants and food, neighbourhood in
   WordNet's numbering.
2. Images. A fixed mean, a gate that knows tiny images, a linear repair for these: from coco-mini's
   train images, crops of them, and both at 32 px.
3. Captions. A linear map on top, from coco-mini's captions and the names of boxes.
4. With --flickr8k only: more dimensions by contrastive training on Flickr8k's captions.
5. The logit scale, by the likelihood of --caltech's labels.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional

from captune.files import whole_file
from captune.images import open_image
from captune.models.backends.lite import (
    ALIGNMENT_FORMAT,
    Alignment,
    TextAlignment,
    build_alignment,
    class_directions,
)
from captune.models.lite.backbones import load_backbones
from recipes.lite import synsets as wordnet
from recipes.lite.frozen import Floats, Frozen, normalised, read_json

PROMPT_TEMPLATE = "a photo of a {}"

Doubles = NDArray[np.float64]

# Chosen on caltech-sample and on coco-mini's boxes, left out image by image; see the model card.
NAME_WIDTH = 0.2  # of the kernels, in 1 - cosine
NEIGHBOUR_SHARE = 0.3
NEIGHBOUR_PLACES = 30.0
CLASS_NOISE = 0.3
KIND_NOISE = 2.0
TEMPERATURES = (0.06, 0.1)
SMOOTH_SHARE = 0.3
NAME_PENALTY = float(np.log(2))  # each further name of a synset counts half
KEY_WIDTH = 64
VALUE_WIDTH = 192
CROPS_A_IMAGE = 6
SMALL_PX = 32
SMALL_SHARE = 0.3  # of the mean that is taken off sharp images
GATE_RIDGE = 3.0
GATE_STEEPNESS = 4.0
REPAIR_RIDGE = 10.0
REPAIR_RANK = 64
RECOGNITION = 0.7
CAPTION_RIDGE = 10.0
CAPTION_RANK = 64
LOGIT_SCALE = 20.0  # without --caltech

EXTRA_WIDTH = 256
EXTRA_HIDDEN = 512
EXTRA_SHARE = 0.5
EPOCHS = 30
IMAGES_A_BATCH = 500
LEARNING_RATE = 1e-3


@dataclass(frozen=True)
class Views:
    """coco-mini's train images, random crops and box crops, as they are and at 32 px.

    sharp, small: [n, 1280]; the first `images` rows are the images in the order of `image_ids`,
    the last len(box_names) rows the boxes.
    """

    sharp: Floats
    small: Floats
    image_ids: list[int]
    box_names: list[str]


def main(arguments: list[str] | None = None) -> None:
    """Train, and write one safetensors file."""
    parser = argparse.ArgumentParser(prog="python -m recipes.lite.train")
    parser.add_argument("--coco-mini", type=Path, required=True, metavar="DIR")
    parser.add_argument("--caltech", type=Path, metavar="DIR", help="labelled images: logit scale")
    parser.add_argument("--flickr8k", type=Path, metavar="DIR", help="research variant")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    parser.add_argument("--wheels", type=Path, metavar="DIR", help="take the backbones from here")
    parser.add_argument("--features", type=Path, metavar="DIR", help="keep frozen features here")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    frozen = Frozen(load_backbones(options.wheels), options.features)
    alignment, tensors = train(frozen, options.coco_mini, options.flickr8k)
    if options.caltech:
        tensors["logit_scale"] = torch.tensor(fit_logit_scale(frozen, alignment, options.caltech))
    trained_on = "ImageNet classifier rows, WordNet names and definitions, coco-mini train"
    metadata = {
        "format": ALIGNMENT_FORMAT,
        "variant": "research" if options.flickr8k else "shipped",
        "prompt_template": PROMPT_TEMPLATE,
        "trained_on": trained_on + (", Flickr8k train" if options.flickr8k else ""),
        "licence": "non-commercial research (Flickr8k)" if options.flickr8k else "Apache-2.0",
    }
    with whole_file(options.out, "wb") as file:
        file.write(save({name: one.contiguous() for name, one in tensors.items()}, metadata))
    print(f"{options.out}: {options.out.stat().st_size / 1e6:.2f} MB, "
          f"logit scale {float(tensors['logit_scale']):.1f}")  # fmt: skip


def train(
    frozen: Frozen, coco_mini: Path, flickr8k: Path | None = None
) -> tuple[Alignment, dict[str, Tensor]]:
    """The fitted alignment, and the tensors it was built from."""
    tensors = {"logit_scale": torch.tensor(LOGIT_SCALE)}
    tensors |= class_tensors(frozen)
    tensors |= memory(frozen)
    views = look_at(frozen, coco_mini)
    tensors |= image_side(views)
    # The captions are fitted to what the images' side yields and added to what the memory yields.
    tensors |= {"caption_down": torch.zeros(384, 1), "caption_up": torch.zeros(1, 1280)}
    unfinished = build_alignment(tensors, {})
    tensors |= caption_map(frozen, unfinished, views, coco_mini)
    if flickr8k:
        tensors |= extra_dimensions(frozen, unfinished.text, flickr8k)
    return build_alignment(tensors, {}), tensors


# --- 1. directions ---------------------------------------------------------------------------


def class_tensors(frozen: Frozen) -> dict[str, Tensor]:
    """The ImageNet classifier at 8 bits a weight."""
    classifier = frozen.backbones.image.classifier
    rows, scales = _as_bytes(classifier.weight.detach().double().numpy())
    return {"class_rows": rows, "class_scales": scales, "bias": classifier.bias.detach().clone()}


def memory(frozen: Frozen) -> dict[str, Tensor]:
    """Keys (names) and values (directions) of the vocabulary's synsets."""
    ids = wordnet.vocabulary()
    known = [wordnet.synsets()[id_] for id_ in ids]
    names = [(index, rank, name) for index, one in enumerate(known)
             for rank, name in enumerate(one.names)]  # fmt: skip
    keys = normalised(frozen.texts([PROMPT_TEMPLATE.format(name) for _, _, name in names]))
    described = normalised(frozen.texts([one.described for one in known]))
    defined = normalised(frozen.texts([one.definition for one in known]))

    values = predict_directions(frozen, ids, described, defined)
    others = values[wordnet_classes() :]
    basis = np.linalg.svd(normalised(others), full_matrices=False)[2][:VALUE_WIDTH]
    codes, scales = _as_bytes(others @ basis.T)
    norms = np.linalg.norm(codes.numpy() * scales.numpy()[:, None].astype(np.float64), axis=1)

    mean = keys.mean(0)
    centred = normalised(keys - mean)
    projection = np.linalg.svd(centred, full_matrices=False)[2][:KEY_WIDTH].T
    return {
        "text_mean": _half(mean),
        "key_projection": _half(projection),
        "keys": _as_bytes(centred @ projection)[0],
        "synset_of_key": torch.tensor([index for index, _, _ in names], dtype=torch.int16),
        "rank_of_name": torch.tensor([rank for _, rank, _ in names], dtype=torch.uint8),
        "temperatures": torch.tensor(TEMPERATURES),
        "smooth_share": torch.tensor(SMOOTH_SHARE),
        "name_penalty": torch.tensor(NAME_PENALTY),
        "values": codes,
        "value_norms": _half(norms),
        "value_basis": _half(basis),
    }


def predict_directions(
    frozen: Frozen, ids: list[str], described: Doubles, defined: Doubles
) -> Doubles:
    """The direction of images of each synset [len(ids), 1280]; the shorter, the less is known.

    Gaussian-process means given the classes' directions and their means over each kind.
    """
    classes = class_directions(frozen.backbones.image.classifier.weight.detach().double()).numpy()
    index = {id_: position for position, id_ in enumerate(ids)}
    kinds = wordnet.hypernyms(ids, lambda a, b: float(described[index[a]] @ described[index[b]]))
    kind_rows = np.array([index[id_] for id_ in kinds])
    kind_directions = np.stack([classes[below].mean(0) for below in kinds.values()])
    given = np.concatenate([np.arange(len(classes)), kind_rows])
    targets = np.concatenate([classes, kind_directions])
    noise = np.repeat([CLASS_NOISE, KIND_NOISE], [len(classes), len(kind_rows)])

    kernel = np.exp((described @ described[given].T - 1) / NAME_WIDTH)
    kernel += np.exp((defined @ defined[given].T - 1) / NAME_WIDTH)
    kernel += NEIGHBOUR_SHARE * _neighbourhood(ids, given)
    predicted: Doubles = kernel @ np.linalg.solve(kernel[given] + np.diag(noise), targets)
    predicted[given] = targets
    return predicted


def _neighbourhood(ids: list[str], given: NDArray[np.intp]) -> Doubles:
    """How near two synsets are in WordNet's numbering, 0..1; 0 where it tells nothing."""
    place = {id_: position for position, id_ in enumerate(wordnet.synsets())}
    places = np.array([place[id_] for id_ in ids], dtype=np.float64)
    domains = np.array([wordnet.synsets()[id_].domain for id_ in ids])
    numbered = np.isin(domains, [wordnet.ANIMAL, wordnet.PLANT, wordnet.FOOD])
    same = (domains[:, None] == domains[given]) & numbered[:, None]
    near: Doubles = np.exp(-np.abs(places[:, None] - places[given]) / NEIGHBOUR_PLACES)
    return np.where(same, near, 0.0)


def wordnet_classes() -> int:
    """How many synsets at the start of the vocabulary are ImageNet classes."""
    return len(wordnet.imagenet_classes())


# --- 2. images -------------------------------------------------------------------------------


def look_at(frozen: Frozen, coco_mini: Path) -> Views:
    """Images, random square crops, and boxes with a little around them."""
    instances = read_json(coco_mini / "instances_train.json")
    files = {one["id"]: coco_mini / "images" / one["file_name"] for one in instances["images"]}
    ids = sorted(files)
    images = {id_: open_image(files[id_]) for id_ in ids}
    crops = [(id_, (0, 0, *images[id_].size)) for id_ in ids]
    generator = np.random.default_rng(0)
    for id_ in ids:
        width, height = images[id_].size
        for _ in range(CROPS_A_IMAGE):
            side = int(min(width, height) * generator.uniform(0.3, 0.8))
            left = int(generator.integers(0, width - side + 1))
            top = int(generator.integers(0, height - side + 1))
            crops.append((id_, (left, top, left + side, top + side)))
    categories = {one["id"]: one["name"] for one in instances["categories"]}
    names = []
    for box in sorted(instances["annotations"], key=lambda one: one["id"]):
        around = _around(box, images[box["image_id"]].size)
        if around:
            crops.append((box["image_id"], around))
            names.append(categories[box["category_id"]])

    def crop(id_: int, box: tuple[int, int, int, int]) -> Callable[[], Image.Image]:
        return lambda: images[id_].crop(box)

    sharp = [crop(*one) for one in crops]
    small = [lambda one=one: _shrunk(one()) for one in sharp]
    key = [[id_, list(box)] for id_, box in crops]
    return Views(
        frozen.images(sharp, ["sharp", key]), frozen.images(small, ["small", key]), ids, names
    )


def _around(box: Mapping[str, Any], size: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """A square crop around a box [x, y, width, height], or None where it is too small to see."""
    x, y, width, height = box["bbox"]
    if box["iscrowd"] or min(width, height) < 24 or max(width, height) < 48:
        return None
    half = max(width, height) * 1.15 / 2
    x, y = x + width / 2, y + height / 2
    low, high = (max(0, x - half), max(0, y - half)), (x + half, y + half)
    return int(low[0]), int(low[1]), int(min(size[0], high[0])), int(min(size[1], high[1]))


def _shrunk(image: Image.Image) -> Image.Image:
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    return square.resize((SMALL_PX, SMALL_PX), Image.Resampling.BICUBIC)


def image_side(views: Views) -> dict[str, Tensor]:
    """Means, the gate between sharp and tiny images, and the repair of tiny ones."""
    sharp, small = (np.sqrt(one.astype(np.float64)) for one in (views.sharp, views.small))
    middle = (sharp.mean(0) + small.mean(0)) / 2
    both = np.concatenate([sharp, small]) - middle
    sides = np.repeat([1.0, -1.0], [len(sharp), len(small)])
    gram = both @ both.T  # ridge in its dual form: fewer images than channels
    size = np.trace(gram) / len(gram)
    gate = both.T @ np.linalg.solve(gram / size + GATE_RIDGE * np.eye(len(gram)), sides) / size
    gate *= GATE_STEEPNESS / np.abs(both @ gate).mean()

    centred, wanted = small - small.mean(0), sharp - sharp.mean(0)
    covariance = centred.T @ centred
    ridge = REPAIR_RIDGE * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    repair = np.linalg.solve(covariance + ridge, centred.T @ (wanted - centred))
    down, up = _low_rank(repair, REPAIR_RANK)
    return {
        "sharp_mean": _half((1 - SMALL_SHARE) * sharp.mean(0) + SMALL_SHARE * small.mean(0)),
        "small_mean": _half(small.mean(0)),
        "gate_mean": _half(middle),
        "gate": _half(gate),
        "repair_down": _half(down),
        "repair_up": _half(up),
        "recognition": torch.tensor(RECOGNITION),
    }


# --- 3. captions -----------------------------------------------------------------------------


def caption_map(
    frozen: Frozen, unfinished: Alignment, views: Views, coco_mini: Path
) -> dict[str, Tensor]:
    """Ridge from texts to the images and boxes they describe; a common name counts less a box."""
    annotations = read_json(coco_mini / "captions_train.json")["annotations"]
    place = {id_: position for position, id_ in enumerate(views.image_ids)}
    captions = frozen.texts([one["caption"] for one in annotations])
    boxes = np.arange(len(views.sharp) - len(views.box_names), len(views.sharp))
    rows = np.concatenate([[place[one["image_id"]] for one in annotations], boxes, boxes])
    prompts = [PROMPT_TEMPLATE.format(name) for name in views.box_names]
    names = frozen.texts(prompts + views.box_names)
    counts = np.array([views.box_names.count(name) for name in views.box_names])
    weights = np.concatenate([np.ones(len(captions)), np.tile(1 / np.sqrt(counts), 2)])[:, None]

    texts = normalised(np.concatenate([captions, names])) - unfinished.text.text_mean.numpy()
    seen = unfinished.image(torch.from_numpy(views.sharp)).double().numpy()[rows]
    covariance = (texts * weights).T @ texts + CAPTION_RIDGE * np.eye(texts.shape[1])
    down, up = _low_rank(np.linalg.solve(covariance, (texts * weights).T @ seen), CAPTION_RANK)
    return {"caption_down": _half(down), "caption_up": _half(up)}


# --- 4. Flickr8k, research variant only --------------------------------------------------------


def extra_dimensions(frozen: Frozen, text: TextAlignment, flickr8k: Path) -> dict[str, Tensor]:
    """InfoNCE between a linear map of images and a small network on texts."""
    captions = read_json(flickr8k / "captions_train.json")
    files = {one["id"]: flickr8k / "images" / one["file_name"] for one in captions["images"]}
    ids = sorted(files)
    pooled = frozen.files([files[id_] for id_ in ids])
    by_image: dict[int, list[int]] = {id_: [] for id_ in ids}
    for position, one in enumerate(captions["annotations"]):
        by_image[one["image_id"]].append(position)
    encoded = frozen.texts([one["caption"] for one in captions["annotations"]])
    texts = functional.normalize(torch.from_numpy(encoded)) - text.text_mean
    roots = torch.from_numpy(pooled).sqrt()
    mean, spread = roots.mean(0), roots.std(0).mean()
    images = (roots - mean) / spread

    torch.manual_seed(0)
    generator = np.random.default_rng(0)
    image_map = nn.Linear(images.shape[1], EXTRA_WIDTH)
    first, last = nn.Linear(texts.shape[1], EXTRA_HIDDEN), nn.Linear(EXTRA_HIDDEN, EXTRA_WIDTH)
    text_map = nn.Sequential(first, nn.GELU(), last)
    log_scale = nn.Parameter(torch.tensor(float(np.log(20))))
    parameters = [*image_map.parameters(), *text_map.parameters(), log_scale]
    optimiser = torch.optim.AdamW(parameters, LEARNING_RATE, weight_decay=0.05)
    steps = EPOCHS * -(-len(ids) // IMAGES_A_BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, steps)
    for _ in range(EPOCHS):
        order = generator.permutation(len(ids))
        for batch in np.array_split(order, -(-len(ids) // IMAGES_A_BATCH)):
            chosen = [generator.choice(by_image[ids[image]]) for image in batch]
            kept = functional.dropout(images[batch], 0.5)
            seen = functional.normalize(image_map(kept))
            meant = functional.normalize(text_map(functional.dropout(texts[chosen] * 20, 0.2)))
            logits = log_scale.exp() * seen @ meant.T
            truth = torch.arange(len(batch))
            loss = functional.cross_entropy(logits, truth) + functional.cross_entropy(
                logits.T, truth
            )
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
    fitted = {
        "extra_image_mean": mean,
        "extra_image": image_map.weight.T / spread,
        "extra_image_bias": image_map.bias,
        "extra_text": first.weight.T * 20,
        "extra_text_bias": first.bias,
        "extra_out": last.weight.T,
        "extra_out_bias": last.bias,
    }
    halves = {name: tensor.detach().half() for name, tensor in fitted.items()}
    return halves | {"extra_share": torch.tensor(EXTRA_SHARE)}


# --- 5. logit scale ----------------------------------------------------------------------------


def fit_logit_scale(frozen: Frozen, alignment: Alignment, labelled: Path) -> float:
    """The scale under which the labels of `<class id>_<n>` images are most likely."""
    cosines, truth = cosines_of(frozen, alignment, labelled)
    scales = np.exp(np.linspace(np.log(1), np.log(200), 500))
    losses = [
        functional.cross_entropy(torch.from_numpy(cosines * scale), torch.from_numpy(truth))
        for scale in scales
    ]
    return float(round(scales[int(np.argmin(losses))], 1))


def cosines_of(
    frozen: Frozen, alignment: Alignment, labelled: Path, template: str = PROMPT_TEMPLATE
) -> tuple[Doubles, NDArray[np.int64]]:
    """Cosines [images, labels] of a folder with id2label.json, and each image's true label."""
    names = read_json(labelled / "id2label.json")
    files = sorted((labelled / "images").iterdir())
    truth = np.array([list(names).index(file.stem.rsplit("_", 1)[0]) for file in files])
    texts = frozen.texts([template.format(name) for name in names.values()])
    seen = alignment.image(torch.from_numpy(frozen.files(files)))
    meant = alignment.text(torch.from_numpy(texts))
    return (seen @ meant.T).double().numpy(), truth


# --- storage -----------------------------------------------------------------------------------


def _as_bytes(rows: Doubles) -> tuple[Tensor, Tensor]:
    """Rows as int8 and one float16 scale a row: row ~ bytes * scale."""
    scales = (np.abs(rows).max(1) / 127).astype(np.float16)
    # Where the rounded scale is too small for the largest entry, that entry is clipped by 0.05 %.
    whole = np.clip(np.round(rows / scales.astype(np.float64)[:, None]), -127, 127)
    return torch.from_numpy(whole.astype(np.int8)), torch.from_numpy(scales)


def _low_rank(matrix: Doubles, rank: int) -> tuple[Doubles, Doubles]:
    left, strengths, right = np.linalg.svd(matrix, full_matrices=False)
    roots = np.sqrt(strengths[:rank])
    return left[:, :rank] * roots, roots[:, None] * right[:rank]


def _half(array: Doubles) -> Tensor:
    return torch.from_numpy(array.astype(np.float16))


if __name__ == "__main__":
    main()
