"""A captioner out of a training that was stopped.

    python packages/captune-lite/halfway.py RUN CAPTIONS OUT

RUN is one method's folder of a `captune tune` over `lite` and `lite` with --vocabulary captions
that was stopped after an epoch; CAPTIONS its training captions. The weights of its best epoch so
far become a captioner in OUT, which `captune tune --start OUT` begins with.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from captune.captioning.building import build_captioner
from captune.captioning.checkpoint import WEIGHTS, read_trained, recipe_of, save_pretrained
from captune.captioning.recipe import ImageIdentity
from captune.captioning.training import resuming
from captune.captions import read_captions
from captune.models.decoders import load_decoder
from captune.models.load import load_model
from captune.models.vocabulary import narrowed


def main(words: list[str] | None = None) -> int:
    """Build, read, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("captions", type=Path, metavar="CAPTIONS")
    parser.add_argument("out", type=Path, metavar="OUT")
    arguments = parser.parse_args(words)
    asked = json.loads((arguments.run / "tuning.json").read_text(encoding="utf-8"))
    found = resuming.complete_checkpoints(arguments.run / "checkpoints")
    best = resuming.read_state(found[max(found)])["best_global_step"]
    decoder = load_decoder("lite", device="cpu", blocks=asked["decoder_blocks"])
    texts = [c.strip() for own in read_captions(arguments.captions).captions.values() for c in own]
    decoder = narrowed(decoder, {id for row in decoder.encode(texts) for id in row})
    (method,) = set(asked["set"]) - {"bridge"}
    captioner = build_captioner(
        decoder,
        load_model("lite", device="cpu").image.require_patches().shape,
        bridge=asked["bridge"],
        method=method,
        bridge_settings=asked["set"]["bridge"],
        method_settings=asked["set"][method],
    )
    read_trained(captioner, found[best] / WEIGHTS)
    arguments.out.mkdir(parents=True, exist_ok=True)
    recipe = recipe_of(
        captioner,
        ImageIdentity(**asked["image encoder"]),
        bridge=asked["bridge"],
        method=method,
        max_tokens=asked["max_tokens"],
    )
    save_pretrained(captioner, arguments.out, recipe)
    print(json.dumps({"step": best, "out": str(arguments.out)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
