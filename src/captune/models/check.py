"""`python -m captune.models.check hf:REPO|FOLDER`: what captune can do with a model about images.

The checks that the tests make of each family's random twin, on the real model and three images of
noise: it takes about as long as nine short captions.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from captune.errors import UserError
from captune.models.vlm import VLM, Written, padded
from captune.models.vlm_files import load_vlm, vlm_folder
from captune.models.vlm_vision import Inputs

TOKENS = 8
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
        for what in ("cache", "occlusion, gradient"):
            yield what, f"a {vlm.family} cannot be handed an image's features"
        return
    features = vlm.features(batch)
    handed = vlm.written(batch, features, max_tokens=TOKENS).ids == together.ids
    yield "cache", "yes" if handed else "captions differ where features are handed in"
    first = vlm.collate(each[:1])
    leaf = features[0].detach().clone().requires_grad_()
    ids, kept = padded(alone[0].ids, vlm.pad_id, vlm.device)
    with torch.enable_grad():
        score = vlm.logits(first, [leaf], alone[0].prompts, ids, kept).log_softmax(-1)[:, 0].sum()
        (gradient,) = torch.autograd.grad(score, leaf)
    usable = bool(gradient.isfinite().all()) and bool(gradient.abs().max() > 0)
    yield "occlusion, gradient", "yes" if usable else "no gradient reaches the image"


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


def main(words: Sequence[str] | None = None, say: Callable[[str], None] = print) -> int:
    """Prints what is supported; 0 where all of it is, 1 where something is not, 2 for an error."""
    parser = argparse.ArgumentParser(prog="python -m captune.models.check", description=__doc__)
    parser.add_argument("model", help="hf:OWNER/NAME, or a folder in the layout of save_pretrained")
    parser.add_argument("--prompt", help="what it is asked", metavar="TEXT")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"))
    parser.add_argument(
        "--dtype", default="auto", choices=("auto", "float32", "float16", "bfloat16")
    )
    asked = parser.parse_args(words)
    try:
        folder: Path = vlm_folder(asked.model)
        vlm = load_vlm(folder, asked.model, device=asked.device, dtype=asked.dtype)
        say(f"{asked.model}: a {vlm.family} on {vlm.device}, {vlm.model.dtype}")
        failed = False
        for what, answer in checks(vlm, asked.prompt):
            failed = failed or answer != "yes"
            say(f"{what:20} {answer}")
    except UserError as error:
        sys.stderr.write(f"captune.models.check: {error}\n")
        return 2
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
