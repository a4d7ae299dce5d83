"""Ways to change a file of a model, each a function of the folder that `write_models` wrote."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.hostile_models.made import CAPTIONER, CONFIG, DECODER, WEIGHTS, Change

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
        from safetensors.torch import load_file, save_file

        found = load_file(root / path)
        alter(found)
        save_file(found, root / path, metadata={"format": "pt"})

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
        return os.system, ("touch /tmp/captune-hostile-model-ran",)


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
