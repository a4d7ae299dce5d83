"""`captune models check hf:REPO|FOLDER`: what captune can do with a captioner of transformers.

The checks that the tests make of each family's random twin, on the real model and three images of
noise: it takes about as long as nine short captions. Maps are of a grey image with a bright square.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from captune.attribution.captioned_image import captioned_image, ids_of_caption
from captune.attribution.masking import token_masking
from captune.attribution.methods import MAP_METHODS
from captune.attribution.vlm_image import reader_of
from captune.captioning.any_captioner import AnyCaptioner
from captune.errors import UserError
from captune.images import ImageFile
from captune.models.vlm import VLM, Written
from captune.models.vlm_vision import Inputs

TOKENS = 8
_SIZE, _SQUARE = (256, 192), (0.5, 0.5, 0.65, 0.65)  # left, top, right, bottom of the square
_SIZES = ((320, 240), (200, 300), (256, 256))
# log-probabilities of half precision differ from batch to batch
_CLOSE = {torch.float32: 1e-3, torch.bfloat16: 0.3, torch.float16: 0.05}


def checks(vlm: VLM, prompt: str | None = None) -> Iterator[tuple[str, str]]:
    """(what, "yes", or why not), one after the other as they are known."""
    chance = np.random.default_rng(0)
    noise = [chance.integers(0, 256, (8, 8, 3), dtype=np.uint8) for _ in _SIZES]
    images = [Image.fromarray(n).resize(s) for n, s in zip(noise, _SIZES, strict=True)]
    each = [vlm.inputs(image, prompt) for image in images]
    close = _CLOSE.get(vlm.model.dtype, 1e-3)
    alone = [vlm.written(vlm.collate([one]), max_tokens=TOKENS) for one in each]
    yield "caption", "yes"
    batch = vlm.collate(each)
    together = vlm.written(batch, max_tokens=TOKENS)
    same = together.ids == [one.ids[0] for one in alone]
    yield "batch", "yes" if same else "its captions differ from those written one by one"
    beams = vlm.written(batch, beams=3, max_tokens=TOKENS)
    yield "beam", "yes" if len(beams.ids) == len(images) else "beam search fails"
    if not same:
        yield "log-probabilities", "not compared, for the captions differ"
    else:
        own = [_stepwise(vlm, one, vlm.collate([i])) for one, i in zip(alone, each, strict=True)]
        found = vlm.log_probabilities(batch, None, together)
        pairs = [pair for rows in zip(own, found, strict=True) for pair in zip(*rows, strict=True)]
        off = max(abs(stepwise - forced) for stepwise, forced in pairs)
        yield "log-probabilities", "yes" if off < close else f"off by up to {off:.2g}"
    if vlm.vision is None:
        for what in ("cache", "maps"):
            yield what, f"a {vlm.family} cannot be handed an image's features"
        return
    features = vlm.features(each)
    handed = vlm.written(batch, features, max_tokens=TOKENS).ids == together.ids
    yield "cache", "yes" if handed else "captions differ where features are handed in"
    yield from map_checks(vlm, prompt)


def map_checks(vlm: VLM, prompt: str | None) -> Iterator[tuple[str, str]]:
    """As `checks`, of the maps that the family has."""
    about: dict[str, Any] = dict.fromkeys(("weights_id", "processor_id", "licence"), "")
    reader = reader_of(AnyCaptioner(vlm, about, prompt=prompt))
    grey = Image.new("RGB", _SIZE, (90, 90, 90))
    square, (left, top, right, bottom) = grey.copy(), _SQUARE
    width, height = _SIZE
    box = int(left * width), int(top * height), int(right * width), int(bottom * height)
    square.paste((250, 240, 40), box)
    (own, grid), (_, plain) = reader.of(square), reader.of(grey)
    file, model = ImageFile(Path("square.png"), "square.png"), own
    one = captioned_image(model, file, grid, ids_of_caption(own.decoder, "a yellow square"))
    shape = one.shape
    near = _near(shape.rows, shape.columns)
    found = token_masking(one).every(torch.stack([torch.ones_like(near), ~near]))
    usable = bool(found.isfinite().all()) and not torch.equal(*found)
    yield "occlusion", "yes" if usable else "words do not depend on the image"
    for name in ("gradient", "attention", "token-activation"):
        method = MAP_METHODS.get(name)
        try:
            layer_head = method.layer_heads(reader)[0]
        except UserError:
            continue  # not of this family
        maps = method.maps(one, layer_head, range(len(one.words)))
        usable = bool(maps.isfinite().all()) and bool((maps != 0).any())
        if name == "attention":
            sums = torch.stack([layer.sum(dim=-1) for layer in own.attention(one.ids)])
            usable = usable and bool((sums < 1.01).all())
        yield name, "yes" if usable else "its maps are empty, or no numbers"
    hidden = own.without_pixels(grey)(torch.stack([near, ~near]))
    change = (grid - plain).norm()
    off = max((hidden[:1] - grid).norm(), (hidden[1:] - plain).norm())
    cells = shape.to_cells((grid - plain).norm(dim=-1)).flatten().cpu()
    placed = bool(off < 0.1 * change) and bool(cells[near].mean() >= cells.mean())
    yield "place of maps", "yes" if placed else "they lie elsewhere on the image"


def _near(rows: int, columns: int) -> torch.Tensor:
    """Which cells [rows * columns] have a bit of the square, or touch one that has."""
    left, top, right, bottom = _SQUARE
    found = torch.zeros(rows, columns, dtype=torch.bool)
    across = slice(max(0, int(left * columns) - 1), int(np.ceil(right * columns)) + 1)
    found[max(0, int(top * rows) - 1) : int(np.ceil(bottom * rows)) + 1, across] = True
    return found.flatten()


@torch.no_grad()
def _stepwise(vlm: VLM, written: Written, inputs: Inputs) -> list[float]:
    """Of the greedy caption, as generate computes them word by word."""
    ids = written.ids[0]
    made = vlm.model.generate(
        **inputs,
        max_new_tokens=len(ids),
        do_sample=False,
        num_beams=1,
        output_logits=True,
        return_dict_in_generate=True,
    )
    steps = zip(made.logits, ids, strict=True)
    return [float(step[0].float().log_softmax(-1)[id]) for step, id in steps]
