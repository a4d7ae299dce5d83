"""Tiny models that work, the commands that read them, and ways to spoil their files."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import struct
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

CAPTIONER, DECODER, ENCODER, VLM = "captioner", "decoder", "encoder", "vlm"
CONFIG, WEIGHTS, TOKENIZER = "config.json", "model.safetensors", "tokenizer.json"
STORE = "datastore.safetensors"

Change = Callable[[Path], None]


@dataclass(frozen=True)
class Hostile:
    """One folder. root: what `write_models` wrote, to be changed by `change`.

    refused: what the sentence must hold, words between |; "" where the command must answer all the
    same, None where it may do either.
    """

    name: str
    change: Change
    refused: str | None = None
    command: str = "caption"

    def __str__(self) -> str:
        return self.name


def words_of(command: str, root: Path) -> list[str]:
    """What is typed."""
    image, captioner = str(root / "image.png"), str(root / "captioner")
    words = {
        "caption": ["caption", image, "--model", captioner, "--max-tokens", "8"],
        "vlm": ["caption", image, "--model", str(root / VLM), "--max-tokens", "4", "--beam", "2"],
        "explain": ["explain", image, "--model", captioner, "--faithfulness", "none"],
        "classify": ["classify", image, "--model", f"hf:{root / 'encoder'}", "--labels", "a,b"],
        "open_clip": ["classify", image, "--model", str(root / "open_clip"), "--labels", "a,b"],
        "timm": [
            "embed",
            image,
            "--model",
            f"timm:{root / 'timm'}",
            "--to",
            str(root / "f.npz"),
        ],
        "assignment": ["caption", image, "--model", captioner, "--decoder", str(root / "gpt2")],
    }
    return [*words[command], "--json", "--no-cache", "--device", "cpu"]


def write_models(root: Path) -> Path:
    """image.png, captioner/, decoder/, encoder/, vlm/, open_clip/, timm/ and gpt2/ that work."""
    import numpy as np
    import torch
    from PIL import Image
    from tests.captioning.tiny import END, tiny_decoder
    from tests.captioning.twins import write_twin

    from captune.captioning.checkpoint import ImageIdentity, recipe_of, save_pretrained
    from captune.captioning.model import build_model
    from captune.models.decoders import load_decoder
    from captune.models.load import load_model

    root.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(noise).save(root / "image.png")
    _write_encoder(root / "encoder")
    made = tiny_decoder("llama")
    with torch.no_grad():  # captions come to their end
        made.module.get_output_embeddings().weight[END] *= -1.5
    made.module.save_pretrained(root / "decoder")
    made.tokenizer.save_pretrained(root / "decoder")
    seen = load_model(f"hf:{root / 'encoder'}", device="cpu").image.require_patches()
    captioner = build_model(
        load_decoder(str(root / "decoder"), device="cpu"),
        seen.shape,
        bridge="cross-attention",
        method="lora",
        bridge_settings={"width": 16, "heads": 2, "every": 1},
        method_settings={"rank": 2},
    )
    with torch.no_grad():
        chance = torch.Generator().manual_seed(0)
        for parameter in captioner.trained().values():
            parameter.add_(torch.randn(parameter.shape, generator=chance) * 0.3)
    identity = ImageIdentity(f"hf:{root / 'encoder'}", seen.weights_id, seen.preprocessing_id)
    recipe = recipe_of(captioner, identity, bridge="cross-attention", method="lora")
    save_pretrained(captioner, root / "captioner", recipe)
    _write_stores(root, seen.shape.channels, seen.weights_id)
    _write_open_clip(root / "open_clip")
    _write_timm(root / "timm")
    write_twin("llava", root / VLM)
    return root


@cache
def template() -> Path:
    """The folder of `write_models`, made once for a process, to be copied."""
    place = Path(tempfile.mkdtemp(prefix="captune-models-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    return write_models(place)


def copy_template(folder: Path) -> None:
    """Into an empty folder; the recipe names its models by their paths."""
    shutil.copytree(template(), folder, dirs_exist_ok=True)
    recipe = folder / CAPTIONER / CONFIG
    recipe.write_text(recipe.read_text().replace(str(template()), str(folder)))


def _write_encoder(folder: Path) -> None:
    import torch
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    pieces = [*letters, *(letter + "</w>" for letter in letters)]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    vocabulary |= {"<|startoftext|>": len(pieces), "<|endoftext|>": len(pieces) + 1}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77)
    side = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    side |= {"num_attention_heads": 2}
    ends = {"bos_token_id": len(pieces), "eos_token_id": len(pieces) + 1}
    torch.manual_seed(1)
    model = CLIPModel(
        CLIPConfig(
            text_config={**side, **ends, "vocab_size": len(vocabulary)},
            vision_config={**side, "image_size": 32, "patch_size": 8},
            projection_dim=24,
        )
    )
    processor = CLIPImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    model.save_pretrained(folder)
    CLIPProcessor(processor, tokenizer).save_pretrained(folder)


def _write_stores(root: Path, channels: int, weights_id: str) -> None:
    """What a captioner chooses its captions by, to be laid beside it by `chooses`."""
    import numpy as np

    from captune.captioning.datastore import Datastore, Summary

    means = np.random.default_rng(0).normal(size=(12, channels)).astype(np.float32)
    captions = [[f"a {n} stands", "it runs"] for n in "abcdefghijkl"]
    Datastore.made(means, captions, weights_id).save(root / "store" / "datastore.safetensors")
    summary = Summary(means[0], means[:2].T, means[:2, :3], np.ones(3, np.float32), ["a", "b", "c"],
                      weights_id)  # fmt: skip
    summary.save(root / "store" / "summary.safetensors")


def _write_open_clip(folder: Path) -> None:
    import torch
    from open_clip.model import CLIP
    from safetensors.torch import save_file

    side = {"layers": 2, "width": 64}
    config: dict[str, Any] = {
        "embed_dim": 24,
        "vision_cfg": {**side, "image_size": 32, "head_width": 32, "patch_size": 8},
        "text_cfg": {**side, "context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2},
    }
    torch.manual_seed(2)
    model = CLIP(**config)
    folder.mkdir()
    save_file(
        {name: value.contiguous() for name, value in model.state_dict().items()},
        folder / "open_clip_model.safetensors",
    )
    pixels = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"}
    pixels |= {"resize_mode": "shortest"}
    about = {"model_cfg": config, "preprocess_cfg": pixels}
    (folder / "open_clip_config.json").write_text(json.dumps(about))


def _write_timm(folder: Path) -> None:
    import timm
    import torch
    from timm.models._hub import save_for_hf

    torch.manual_seed(3)
    model = timm.create_model("test_vit", pretrained=False, num_classes=3).eval()
    save_for_hf(model, folder, safe_serialization=True)


BIG = 10**9
DEEP = "[" * 100_000 + "]" * 100_000


def put(path: str, content: bytes | str) -> Change:
    """Other bytes in the place of the file."""
    data = content.encode() if isinstance(content, str) else content
    return lambda root: _write(root / path, data)


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def special(path: str, kind: str) -> Change:
    """A pipe, a link to a device, a folder, or nothing, in the place of the file."""

    def change(root: Path) -> None:
        place = root / path
        place.unlink(missing_ok=True)
        if kind == "pipe":
            os.mkfifo(place)
        elif kind == "folder":
            place.mkdir()
        elif kind != "nothing":
            place.symlink_to(kind)

    return change


def sparse(path: str, gibibytes: float, begins: bytes = b"") -> Change:
    """A file of so many bytes, of which the disk holds the first ones."""

    def change(root: Path) -> None:
        with (root / path).open("wb") as file:
            file.write(begins)
            file.truncate(int(gibibytes * 2**30))

    return change


def edit(path: str, *keys: str | int, to: Any) -> Change:
    """Another value at `keys` of a JSON file; a function is given the old one."""

    def change(root: Path) -> None:
        content = json.loads((root / path).read_text())
        place = content
        for key in keys[:-1]:
            place = place[key]
        old = place.get(keys[-1]) if isinstance(place, dict) else place[keys[-1]]
        place[keys[-1]] = to(old) if callable(to) else to
        (root / path).write_text(json.dumps(content))

    return change


def several(*changes: Change) -> Change:
    """One after the other."""

    def change(root: Path) -> None:
        for one in changes:
            one(root)

    return change


def header(path: str, alter: Callable[[dict[str, Any]], Any], length: int | None = None) -> Change:
    """Another header before the same tensors. alter: changes it in place, or gives another."""

    def change(root: Path) -> None:
        data = (root / path).read_bytes()
        (size,) = struct.unpack("<Q", data[:8])
        content = json.loads(data[8 : 8 + size])
        content = alter(content) or content
        text = (content if isinstance(content, str) else json.dumps(content)).encode()
        start = struct.pack("<Q", len(text) if length is None else length)
        (root / path).write_bytes(start + text + data[8 + size :])

    return change


def tensors(path: str, alter: Callable[[dict[str, Any]], None]) -> Change:
    """Other tensors in a safetensors file."""

    def change(root: Path) -> None:
        from safetensors import safe_open
        from safetensors.torch import load_file, save_file

        found = load_file(root / path)
        with safe_open(root / path, framework="pt") as file:
            about = file.metadata()
        alter(found)
        save_file(found, root / path, metadata=about)

    return change


def first_of(found: dict[str, Any]) -> str:
    return next(name for name in sorted(found) if name != "__metadata__")


def overlap(found: dict[str, Any]) -> None:
    last = max(found, key=lambda name: found[name].get("data_offsets", [0])[-1])
    found[last]["data_offsets"] = [place - 4 for place in found[last]["data_offsets"]]


def of_first(**new: Any) -> Callable[[dict[str, Any]], None]:
    return lambda found: found[first_of(found)].update(new)


def every(function: Callable[[Any], Any]) -> Callable[[dict[str, Any]], None]:
    return lambda found: found.update({name: function(value) for name, value in found.items()})


def spoil(value: float) -> Callable[[dict[str, Any]], None]:
    def alter(found: dict[str, Any]) -> None:
        for name in sorted(found):
            if found[name].is_floating_point():
                found[name].view(-1)[0] = value

    return alter


def pickled(path: str, make: Callable[[Any], Any], *, removes: str = "") -> Change:
    """A .bin of whatever `make(torch)` gives; `removes` goes."""

    def change(root: Path) -> None:
        import torch

        if removes:
            (root / removes).unlink()
        torch.save(make(torch), root / path)

    return change


class Runs:
    """Makes a file when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.system, ("touch PWNED",)


def bomb(root: Path) -> None:
    """A compressed archive of a tensor of 4 GiB of zeros."""
    import io
    import zipfile

    import torch

    (root / DECODER / WEIGHTS).unlink()
    buffer = io.BytesIO()
    torch.save({"model.embed_tokens.weight": torch.zeros(4)}, buffer)
    path = root / DECODER / "pytorch_model.bin"
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for item in old.infolist():
            data = old.read(item)
            if item.filename.endswith("data/0"):
                with new.open(item.filename, "w", force_zip64=True) as file:
                    for _ in range(4096):
                        file.write(bytes(2**20))
            else:
                new.writestr(item.filename, data)


def index_of(shards: Any) -> Change:
    def change(root: Path) -> None:
        folder = root / DECODER
        (folder / WEIGHTS).rename(folder / "model-00001-of-00001.safetensors")
        about = {"metadata": {}, "weight_map": shards}
        (folder / "model.safetensors.index.json").write_text(json.dumps(about))

    return change


def links(root: Path) -> None:
    """As in a hub's cache: every file of the decoder is a link to a blob elsewhere."""
    folder, blobs = root / DECODER, root / "blobs"
    blobs.mkdir()
    for number, path in enumerate(sorted(folder.iterdir())):
        blob = blobs / f"{number:064x}"
        path.rename(blob)
        path.symlink_to(os.path.relpath(blob, folder))


def known_words(**about: Any) -> Change:
    def change(root: Path) -> None:
        path = root / CAPTIONER / CONFIG
        content = json.loads(path.read_text())
        known = {"labels": ["a", "b"], "prompts": None, "top": 1}
        known["model"] = content["image_encoder"]
        content["known_words"] = {**known, **about}
        path.write_text(json.dumps(content))

    return change


def chooses(store: str = "datastore", **about: Any) -> Change:
    """A captioner that chooses among candidates, by its text model and by a store beside it."""

    def change(root: Path) -> None:
        chosen = {"schema": 1, "evidence": "both", "candidates": 3, "model": f"hf:{root / ENCODER}"}
        weights = {"mean_log_probability": 0.3, "match": 1.0, "neighbours": 0.1}
        text = json.dumps({**chosen, "weights": weights, **about})
        (root / CAPTIONER / "rerank.json").write_text(text)
        shutil.copy(root / "store" / f"{store}.safetensors", root / CAPTIONER / STORE)

    return change


def run_of(best: Any) -> Change:
    """The captioner as one method of the run of a tune whose metrics name the best one so."""

    def change(root: Path) -> None:
        (root / CAPTIONER).rename(root / "lora")
        (root / CAPTIONER).mkdir()
        (root / "lora").rename(root / CAPTIONER / "lora")
        (root / CAPTIONER / "metrics.json").write_text(json.dumps({"best": best}))

    return change


def assignment(alter: Callable[[dict[str, Any]], None], **files: str) -> Change:
    """GPT-2 as the assignment keeps it: a pickle of tensors, a vocabulary, merges."""

    def change(root: Path) -> None:
        import torch
        from transformers import GPT2Config, GPT2LMHeadModel

        folder = root / "gpt2"
        folder.mkdir()
        words = ["<|endoftext|>", "Ġ", *"abcdefghijklmnopqrstuvwxyz"]
        sizes = {"n_embd": 64, "n_layer": 1, "n_head": 1, "n_positions": 32}
        model = GPT2LMHeadModel(GPT2Config(vocab_size=len(words), **sizes))
        state = dict(model.transformer.state_dict())
        alter(state)
        torch.save(state, folder / "decoder_model.bin")
        texts = {
            "encoder.json": json.dumps({word: i for i, word in enumerate(words)}),
            "vocab.bpe": "#version: 0.2\n",
        } | {name.replace("_", "."): text for name, text in files.items()}
        for name, text in texts.items():
            (folder / name).write_text(text)

    return change


def sparse_end(path: str) -> Change:
    """A megabyte that no tensor owns."""
    return lambda root: os.truncate(root / path, (root / path).stat().st_size + 2**20)


def drop(found: dict[str, Any]) -> None:
    found.pop(sorted(found)[-1])


def renamed(found: dict[str, Any]) -> None:
    for name in list(found):
        found[f"{name}é\x1b[31m"] = found.pop(name)


def short(value: Any) -> str:
    """A value in the name of a case."""
    text = repr(value)
    return text if len(text) <= 32 else f"{text[:29]}..."
