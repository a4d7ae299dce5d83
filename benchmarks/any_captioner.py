"""Captions and maps of transformers' captioners, beside the loop that people write today.

    python benchmarks/any_captioner.py [--images 64] [--threads 1] [--tokens 20]

A BLIP of the size of blip-image-captioning-base, and a Qwen2-VL of two layers with Qwen2-VL-2B's
widths, with random weights: how long they take does not depend on what they say. Each way captions
the same images of 640 x 480, once: the loop one by one, the loop in batches of 8 (processor,
generate, decode), captune without and with what the vision tower made of the images cached.
Every way is a process of its own, whose largest resident size counts, with the model in it.
Maps: occlusion for the words of a caption of 12, beside one forward pass for each mask, in one
process. Ratios are of processor time.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))  # the twins of the tests

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--images", type=int, default=64)
parser.add_argument("--tokens", type=int, default=20)
parser.add_argument("--threads", type=int, default=1)
parser.add_argument("--masks", type=int, default=32, help="how many of the cells of an image")
parser.add_argument("--models", default="blip,qwen2-vl")
parser.add_argument("--only", default="captions,maps")
parser.add_argument("--way", help=argparse.SUPPRESS)
parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)

BATCH = 8


def blip() -> tuple[Any, Any]:
    from tests.captioning import twins
    from transformers import (
        BlipConfig,
        BlipForConditionalGeneration,
        BlipImageProcessor,
        BlipProcessor,
    )

    _, processor = twins.blip()
    tokenizer = processor.tokenizer
    config = BlipConfig(
        text_config={
            "vocab_size": 30524,
            "bos_token_id": tokenizer.bos_token_id,
            "sep_token_id": 30000,  # never said by chance: all captions are as long
            "eos_token_id": 30000,
            "pad_token_id": 0,
        },
        vision_config={"image_size": 384},
    )
    images = BlipImageProcessor(size={"height": 384, "width": 384})
    return BlipForConditionalGeneration(config), BlipProcessor(images, tokenizer)


def qwen() -> tuple[Any, Any]:
    from tests.captioning import twins
    from transformers import (
        Qwen2VLConfig,
        Qwen2VLForConditionalGeneration,
        Qwen2VLImageProcessor,
        Qwen2VLProcessor,
    )

    small, processor = twins.qwen2_vl()
    ids = small.config
    config = Qwen2VLConfig(
        vision_config={"depth": 4, "embed_dim": 1280, "hidden_size": 1536, "num_heads": 16},
        text_config={
            "hidden_size": 1536,
            "num_hidden_layers": 2,
            "num_attention_heads": 12,
            "num_key_value_heads": 2,
            "intermediate_size": 8960,
            "vocab_size": 151936,
            "eos_token_id": 151000,
            "pad_token_id": 0,
            "rope_parameters": {
                "rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1e6
            },
        },
        image_token_id=ids.image_token_id,
        video_token_id=ids.video_token_id,
        vision_start_token_id=ids.vision_start_token_id,
        vision_end_token_id=ids.vision_end_token_id,
    )  # fmt: skip
    limits = {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 256}
    images = Qwen2VLImageProcessor(size=limits)
    template = processor.chat_template
    made = Qwen2VLProcessor(
        images, processor.tokenizer, processor.video_processor, chat_template=template
    )
    return Qwen2VLForConditionalGeneration(config), made


class Loop:
    """What people write: processor, generate, decode."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForImageTextToText, AutoProcessor

        self.model = AutoModelForImageTextToText.from_pretrained(folder).eval()
        self.processor = AutoProcessor.from_pretrained(folder)
        self.processor.tokenizer.padding_side = "left"

    def write(self, paths: Sequence[Path], tokens: int, batch: int) -> list[str]:
        import torch
        from PIL import Image

        from captune.models.vlm import DEFAULT_PROMPT

        found: list[str] = []
        for start in range(0, len(paths), batch):
            images = [Image.open(path).convert("RGB") for path in paths[start : start + batch]]
            if getattr(self.processor, "chat_template", None):
                content = [{"type": "image"}, {"type": "text", "text": DEFAULT_PROMPT}]
                chat = [{"role": "user", "content": content}]
                text = self.processor.apply_chat_template(chat, add_generation_prompt=True)
                inputs = dict(
                    self.processor(
                        images=images, text=[text] * len(images), padding=True, return_tensors="pt"
                    )
                )
            else:
                made = self.processor(images=images, return_tensors="pt")
                inputs = {"pixel_values": made["pixel_values"]}
            with torch.inference_mode():
                ids = self.model.generate(**inputs, max_new_tokens=tokens, do_sample=False)
            found += self.processor.batch_decode(ids, skip_special_tokens=True)
        return found


@contextmanager
def timed(name: str, per: int, beside: list[float]) -> Iterator[None]:
    began, used = time.perf_counter(), time.process_time()
    yield
    seconds, processor = time.perf_counter() - began, time.process_time() - used
    beside.append(processor)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    say(name, seconds, processor, per, peak, beside[0])


def say(name: str, seconds: float, processor: float, per: int, peak: float, first: float) -> None:
    print(
        f"  {name:28} {seconds:7.1f} s  {processor:7.1f} s of processor  {processor / per:.3f} each"
        f"  peak {peak:.2f} GB  {first / processor:.2f} times as fast as the first",
        flush=True,
    )


# the ways of captioning, the first of which the others are held against
WAYS = ("loop, batches of 8", "loop, one by one", "captune", "captune, vision cached")
QUANTISED = ("captune, 8bit", "captune, 4bit")  # where bitsandbytes is installed


def captions(way: str, folder: Path, paths: Sequence[Path], tokens: int) -> dict[str, float]:
    """Seconds, seconds of processor, the largest size of this process and the weights in GB."""
    from captune.captioning.any_captioner import prepare
    from captune.captioning.generate import GenerationSettings
    from captune.features.cache import FeatureCache
    from captune.features.pipeline import Encoding
    from captune.images import ImageFile
    from captune.options.captioning import CaptionOptions

    if way.startswith("loop"):
        loop = Loop(folder)
        model = loop.model

        def write(some: Sequence[Path], _: Any) -> None:
            loop.write(some, tokens, BATCH if "batches" in way else 1)
    else:
        bits = way.rpartition(" ")[2] if way in QUANTISED else None
        options = CaptionOptions(
            images=["x"], model=str(folder), device="cpu", dtype="float32", quantise=bits
        )
        captioner = prepare(options).load()
        model = captioner.vlm.model

        def write(some: Sequence[Path], cache: Any) -> None:
            how = GenerationSettings(1, tokens, Encoding(cache=cache, batch_size=BATCH, workers=1))
            for _ in captioner.stream([ImageFile(path, path.name) for path in some], how):
                pass

    is_cached = "cached" in way
    with FeatureCache() if is_cached else nullcontext() as cache:
        write(paths if is_cached else paths[:2], cache)
    with FeatureCache() if is_cached else nullcontext() as cache:
        began, used = time.perf_counter(), time.process_time()
        write(paths, cache)
        took = time.perf_counter() - began, time.process_time() - used
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    weights = model.get_memory_footprint() / 1e9
    return {"seconds": took[0], "processor": took[1], "peak": peak, "weights": weights}


def maps(folder: Path, path: Path, masks: int) -> None:
    import torch

    from captune.attribution.masking import blurred, pixel_masking, token_masking
    from captune.attribution.vlm_image import any_captioned_images, reader_in
    from captune.captioning.any_captioner import prepare
    from captune.captioning.generate import GenerationSettings
    from captune.images import ImageFile, open_image
    from captune.models.vlm import padded
    from captune.options.captioning import CaptionOptions

    captioner = prepare(CaptionOptions(images=["x"], model=str(folder), device="cpu")).load()
    said = "a big red dog runs on the blue sea on a cat"
    (one,) = any_captioned_images(
        captioner, [ImageFile(path, path.name)], [said], GenerationSettings(1, 20), on_skip=print
    )
    reader = reader_in(one)
    assert reader is not None
    print(f"  maps of {len(one.words)} words: {masks} masks of a cell each; all words by each pass")
    beside: list[float] = []
    vlm, ids_kept = reader.vlm, padded([one.ids], reader.vlm.pad_id, reader.vlm.device)
    clear = reader.inputs["pixel_values"]
    other = vlm.inputs(blurred(open_image(path)), None)["pixel_values"]
    patches = one.shape.rows * one.shape.columns
    hidden = [n * patches // masks for n in range(masks)]  # all over the image
    shown = torch.ones(masks, patches, dtype=torch.bool)
    shown[range(masks), hidden] = False
    with timed("one forward for each mask", masks, beside), torch.inference_mode():
        for cell in hidden:
            mixed = torch.where(reader.where == cell, other, clear)
            vlm.logits({**reader.inputs, "pixel_values": mixed}, None, reader.prompts, *ids_kept)
    with timed("pixel-occlusion", masks, beside):
        pixel_masking(one, None).every(shown)
    token_masking(one).every(shown[:2])  # what is read once is for all cells of the image
    with timed("occlusion of image tokens", masks, beside):
        token_masking(one).every(shown)


def main() -> None:
    asked = parser.parse_args()
    import numpy as np
    import torch
    from PIL import Image
    from tests.captioning.twins import save_twin

    torch.set_num_threads(asked.threads)
    if asked.way:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # ends with the process that began it
        paths = sorted(asked.folder.parent.glob("*.jpg"))
        if asked.way == "maps":
            maps(asked.folder, paths[0], asked.masks)
        else:
            print(json.dumps(captions(asked.way, asked.folder, paths, asked.tokens)))
        return
    makers: dict[str, Callable[[], tuple[Any, Any]]] = {"blip": blip, "qwen2-vl": qwen}
    with tempfile.TemporaryDirectory() as name:
        os.environ["CAPTUNE_CACHE"] = f"{name}/cache"
        place = Path(name)
        chance = np.random.default_rng(0)
        paths = []
        for number in range(asked.images):
            noise = chance.integers(0, 256, (12, 16, 3), dtype=np.uint8)
            path = place / f"{number:03}.jpg"
            Image.fromarray(noise).resize((640, 480), Image.Resampling.BICUBIC).save(path)
            paths.append(path)
        for family in asked.models.split(","):
            torch.manual_seed(0)
            folder = place / family
            save_twin(*makers[family](), folder)
            print(
                f"{family}: {asked.images} images, {asked.tokens} tokens, threads {asked.threads}"
            )
            own = [sys.executable, __file__, "--folder", str(folder)]
            own += ["--tokens", str(asked.tokens), "--threads", str(asked.threads)]
            own += ["--masks", str(asked.masks), "--way"]
            first = None
            ways = (*WAYS, *(QUANTISED if find_spec("bitsandbytes") else ()))
            for way in ways if "captions" in asked.only else ():
                made = subprocess.run([*own, way], check=True, stdout=subprocess.PIPE).stdout
                found = json.loads(made)
                first = first or found["processor"]
                say(way, found["seconds"], found["processor"], asked.images, found["peak"], first)
                print(f"  {'':28} weights {found['weights']:.2f} GB", flush=True)
            if "maps" in asked.only:
                subprocess.run([*own, "maps"], check=True)


if __name__ == "__main__":
    main()
