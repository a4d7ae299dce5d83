"""Captions and maps of transformers' captioners, beside the loop that people write today.

    python benchmarks/any_captioner.py [--images 64] [--threads 1] [--tokens 20] [--write]

A BLIP of the size of blip-image-captioning-base, and a Qwen2-VL of two layers with Qwen2-VL-2B's
widths, with random weights: how long they take does not depend on what they say. Each way captions
images of 640 x 480: the loop one by one, the loop in batches of 8 (processor, generate, decode),
captune the first time, when it keeps what the vision tower made of the images, and again. The loops
take as long for every image, so they are given some of them. Maps: occlusion for the words of a
caption of 12, beside one forward pass for each mask.
Every way is a process of its own, whose largest resident size counts, with the model in it. Ratios
are of processor time. --write puts the table into docs/any-captioner.md. 64 images take ten minutes
of one quiet core.
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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.append(str(Path(__file__).resolve().parents[1]))  # the twins of the tests

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--images", type=int, default=64)
parser.add_argument("--tokens", type=int, default=20)
parser.add_argument("--threads", type=int, default=1)
parser.add_argument("--masks", type=int, default=12, help="how many of the cells of an image")
parser.add_argument("--models", default="blip,qwen2-vl")
parser.add_argument("--only", default="captions,maps", help="or quantised (bitsandbytes)")
parser.add_argument("--write", action="store_true", help="the table into the guide")
parser.add_argument("--way", help=argparse.SUPPRESS)
parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)

BATCH = 8
GUIDE = Path(__file__).resolve().parents[1] / "docs" / "any-captioner.md"
BEGIN, END = "<!-- speed, by benchmarks/any_captioner.py --write -->\n", "<!-- /speed -->\n"
# the first of either is what the others are held against
CAPTIONS = ("the loop in batches of 8", "the loop, one by one", "captune", "captune, vision kept")
QUANTISED = ("captune, full", "captune, 8bit", "captune, 4bit")
MAPS = ("one forward for each mask", "`pixel-occlusion`", "`occlusion`")


class Taken(NamedTuple):
    """Of a way, `images` times: seconds, those of the processor, the largest size and the weights
    in GB.
    """

    images: int
    seconds: float
    processor: float
    peak: float
    weights: float

    @property
    def each(self) -> float:
        return self.processor / self.images


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


def taken(count: int, model: Any, work: Callable[[], object]) -> Taken:
    began, used = time.perf_counter(), time.process_time()
    work()
    seconds, processor = time.perf_counter() - began, time.process_time() - used
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return Taken(count, seconds, processor, peak, model.get_memory_footprint() / 1e9)


def captions(way: str, folder: Path, paths: Sequence[Path], tokens: int) -> Taken:
    from captune.captioning.any_captioner import AnyCaptioner, prepare_captioner
    from captune.captioning.generate import GenerationSettings
    from captune.features.cache import FeatureCache
    from captune.features.pipeline import Encoding
    from captune.images import ImageFile
    from captune.options.captioning import CaptionOptions

    if "loop" in way:
        loop, size = Loop(folder), BATCH if "batches" in way else 1
        loop.write(paths[:1], tokens, 1)
        some = paths[: max(2 * BATCH, len(paths) // 4) if size > 1 else max(4, len(paths) // 8)]
        return taken(len(some), loop.model, lambda: loop.write(some, tokens, size))
    bits = way.rpartition(" ")[2]
    options = CaptionOptions(
        images=["x"],
        model=str(folder),
        device="cpu",
        dtype="float32",
        quantise=bits if bits.endswith("bit") else None,
    )
    captioner = prepare_captioner(options).load()
    assert isinstance(captioner, AnyCaptioner)
    model = captioner.vlm.model

    def write(some: Sequence[Path], cache: FeatureCache | None) -> None:
        how = GenerationSettings(1, tokens, Encoding(cache=cache, batch_size=BATCH, workers=1))
        for _ in captioner.stream([ImageFile(path, path.name) for path in some], how):
            pass

    if way in QUANTISED:
        write(paths[:1], None)
        return taken(BATCH, model, lambda: write(paths[:BATCH], None))
    with FeatureCache() as cache:  # of both ways of captune the same
        write(paths[:1], cache if "kept" in way else None)
        return taken(len(paths), model, lambda: write(paths, cache))


def maps(way: str, folder: Path, path: Path, masks: int) -> Taken:
    import torch

    from captune.attribution.captioned_image import captioned_images
    from captune.attribution.masking import blurred, pixel_masking, token_masking
    from captune.captioning.any_captioner import AnyCaptioner, prepare_captioner
    from captune.captioning.generate import GenerationSettings
    from captune.images import ImageFile, open_image
    from captune.models.vlm import padded
    from captune.options.captioning import CaptionOptions

    captioner = prepare_captioner(
        CaptionOptions(images=["x"], model=str(folder), device="cpu")
    ).load()
    assert isinstance(captioner, AnyCaptioner)
    said = "a big red dog runs on the blue sea on a cat"
    (one,) = captioned_images(
        captioner, [ImageFile(path, path.name)], [said], GenerationSettings(1, 20), on_skip=print
    )
    reader = one.reader
    assert reader is not None
    patches = one.shape.rows * one.shape.columns
    hidden = [n * patches // masks for n in range(masks)]  # all over the image
    shown = torch.ones(masks, patches, dtype=torch.bool)
    shown[range(masks), hidden] = False
    if way == "`pixel-occlusion`":
        return taken(masks, captioner.vlm.model, lambda: pixel_masking(one).every(shown))
    if way == "`occlusion`":
        token_masking(one).every(shown[:2])
        token_masking(one).every(shown)  # what is read once is for all cells of the image
        return taken(masks, captioner.vlm.model, lambda: token_masking(one).every(shown))
    vlm, ids_kept = reader.vlm, padded([one.ids], reader.vlm.pad_id, reader.vlm.device)
    clear = reader.inputs["pixel_values"]

    def forwards() -> None:
        other = vlm.inputs(blurred(open_image(path)), None)["pixel_values"]
        for cell in hidden:
            mixed = torch.where(reader.where == cell, other, clear)
            vlm.logits({**reader.inputs, "pixel_values": mixed}, None, reader.prompts, *ids_kept)

    with torch.inference_mode():
        return taken(masks, vlm.model, forwards)


def table(found: dict[str, dict[str, Taken]], note: str) -> str:
    """Rows of ways, two columns for each model; note: how it was run."""
    named = {"blip": "BLIP of base size", "qwen2-vl": "Qwen2-VL of two layers"}
    columns = "".join(f" {named[family]} | its memory |" for family in found)
    lines = [note, "", f"| way |{columns}", "|---|" + "---|---|" * len(found)]
    for ways, unit in ((CAPTIONS, "an image"), (MAPS, "a mask")):
        for way in ways:
            row = f"| {way} |"
            for own in found.values():
                if way not in own:
                    continue
                ratio = f"{own[ways[0]].each / own[way].each:.2f} times as fast"
                value = f"{own[way].each:.2f} s {unit}" if way == ways[0] else ratio
                row += f" {value} | {own[way].peak:.2f} GB |"
            lines += [row] if row.count("|") > 2 else []
    return "\n".join([*lines, ""])


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
        if asked.way in MAPS:
            made = maps(asked.way, asked.folder, paths[0], asked.masks)
        else:
            made = captions(asked.way, asked.folder, paths, asked.tokens)
        print(json.dumps(made))
        return
    makers: dict[str, Callable[[], tuple[Any, Any]]] = {"blip": blip, "qwen2-vl": qwen}
    began = time.perf_counter()
    found: dict[str, dict[str, Taken]] = {}
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
            found[family] = {}
            for kind, ways in (("captions", CAPTIONS), ("maps", MAPS), ("quantised", QUANTISED)):
                for way in ways if kind in asked.only else ():
                    lines = subprocess.run([*own, way], check=True, stdout=subprocess.PIPE).stdout
                    found[family][way] = one = Taken(*json.loads(lines.splitlines()[-1]))
                    print(
                        f"  {way:26} {one.images:3} in {one.seconds:6.1f} s, {one.processor:6.1f} s"
                        f" of processor, {one.each:.3f} each  peak {one.peak:.2f} GB"
                        f" (weights {one.weights:.2f}) "
                        f" {found[family][ways[0]].each / one.each:.2f} times as fast"
                        f"  (minute {(time.perf_counter() - began) / 60:.1f})",
                        flush=True,
                    )
    note = (
        f"One run with {asked.images} images, {asked.tokens} tokens and {asked.masks} masks"
        f" (threads: {asked.threads}):"
    )
    made_table = table(found, note)
    print(made_table)
    if asked.write:
        text = GUIDE.read_text("utf-8")
        before, _, rest = text.partition(BEGIN)
        behind = rest.partition(END)[2]
        GUIDE.write_text(f"{before}{BEGIN}{made_table}{END}{behind}", "utf-8")


if __name__ == "__main__":
    main()
