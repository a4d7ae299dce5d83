"""Cases of hostile captioners: a checkpoint and its language model, spoiled."""

from __future__ import annotations

import json
import random
import shutil
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tests.hostile.mutations import FILES, TEXTS, VALUES, change_value, places_in, with_value
from tests.hostile.runner import Case, Said, Wrong
from tests.hostile.seeds import DECODER, seeds

WEIGHTS = "model.safetensors"
Spoil = Callable[[Path], object]


def cases(*, part: bool = False) -> Iterator[Case]:
    """All of them; part: some."""
    every = [*_files(), *_headers(), *_weights(), *_configs(), *_decoders()]
    for number, case in enumerate(every):
        if not part or number % 7 == 0:
            yield case


def _case(kind: str, name: str, spoil: Spoil, *, is_refused: bool = False) -> Case:
    """spoil: is given the folder with `run` and `decoder-llama`."""

    def make(folder: Path) -> Sequence[str]:
        shutil.copytree(seeds() / "model", folder / "model")
        _edit(folder / "model" / "run" / "config.json", "decoder", "spec",
              value=str(folder / "model" / DECODER))  # fmt: skip
        spoil(folder / "model")
        images = str(seeds() / "images")
        words = ["caption", images, "--model", str(folder / "model" / "run"), "--device", "cpu"]
        return [*words, "--max-tokens", "6", "--beam", "2", "--no-cache", "--json"]

    def check(folder: Path, said: Said) -> None:
        if list(folder.rglob("PWNED")):
            raise Wrong("code of the model was run")
        if said.status != 0:
            return
        found = said.json()
        if is_refused:
            raise Wrong("taken as if nothing were wrong with it")
        if not any(one["caption"] for one in found["captions"] or ()):
            raise Wrong("empty captions, and no word of why")

    return Case(kind, name, make, check, "captioner", always=True)


def _edit(path: Path, *keys: str, value: Any) -> None:
    path.write_text(json.dumps(with_value(json.loads(path.read_text()), keys, value)))


def _files() -> Iterator[Case]:
    """Something else in the place of a file."""
    texts = ("nested 100,000 deep", "a list", "nothing (null)", "a million keys", "UTF-16", "NaN",
             "a number of 5,000 digits", "300 MB of blanks", "doubled keys", "escapes")  # fmt: skip
    for file in ("run/config.json", f"run/{WEIGHTS}", "run/explain.json", f"{DECODER}/config.json",
                 f"{DECODER}/{WEIGHTS}", f"{DECODER}/tokenizer.json",
                 f"{DECODER}/tokenizer_config.json",
                 f"{DECODER}/generation_config.json"):  # fmt: skip
        ways = dict(FILES)
        if file.endswith(".json"):
            ways |= {name: TEXTS[name] for name in texts}
        for number, (name, way) in enumerate(ways.items()):
            # the last five of FILES are like the others
            if number < 9 or number >= len(FILES):
                yield _case("a file is another", f"{file} is {name}",
                            lambda place, f=file, w=way: w(place / f))  # fmt: skip


def _with_header(change: Callable[[dict[str, Any]], Any], body: bytes | None = None) -> Spoil:
    """The weights with another header; body: other bytes after it."""

    def spoil(place: Path) -> None:
        path = place / "run" / WEIGHTS
        data = path.read_bytes()
        length = struct.unpack("<Q", data[:8])[0]
        about = json.loads(data[8 : 8 + length])
        found = change(about)
        text = found if isinstance(found, bytes) else json.dumps(found).encode()
        rest = data[8 + length :] if body is None else body
        path.write_bytes(struct.pack("<Q", len(text)) + text + rest)

    return spoil


def _first(about: dict[str, Any], **changed: Any) -> dict[str, Any]:
    name = next(name for name in sorted(about) if name != "__metadata__")
    return about | {name: about[name] | changed}


def _headers() -> Iterator[Case]:
    """Headers of safetensors that lie."""
    lies: dict[str, Callable[[dict[str, Any]], Any]] = {
        "a shape of 2^62": lambda about: _first(about, shape=[2**31, 2**31]),
        "a shape of minus one": lambda about: _first(about, shape=[-1, 3]),
        "a shape of 100,000 sides": lambda about: _first(about, shape=[1] * 100_000),
        "an unknown dtype": lambda about: _first(about, dtype="F999"),
        "a dtype of half": lambda about: _first(about, dtype="F16"),
        "offsets beyond the end": lambda about: _first(about, data_offsets=[0, 2**60]),
        "offsets the wrong way": lambda about: _first(about, data_offsets=[100, 0]),
        "all tensors in one place": lambda about: {
            name: value | {"data_offsets": [0, 4]} if name != "__metadata__" else value
            for name, value in about.items()
        },
        "a million tensors": lambda about: about
        | {f"x{n}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(10**6)},
        "no JSON": lambda about: b"{" * 1000,
        "a list": lambda about: [],
        "nothing": lambda about: b"",
        "metadata of numbers": lambda about: about | {"__metadata__": {"a": [1]}},
        "50 MB of metadata": lambda about: about | {"__metadata__": {"a": "x" * 50_000_000}},
    }  # fmt: skip
    for name, lie in lies.items():
        yield _case("a header lies", name, _with_header(lie), is_refused="metadata" not in name)
    for length in (2**63, 2**40, 100_000_001):

        def spoil(place: Path, length: int = length) -> None:
            path = place / "run" / WEIGHTS
            path.write_bytes(struct.pack("<Q", length) + path.read_bytes()[8:])

        yield _case("a header lies", f"its length is {length:,}", spoil, is_refused=True)

    def pickled(place: Path) -> None:
        (place / "run" / WEIGHTS).write_bytes(b"cos\nsystem\n(S'touch PWNED'\ntR.")

    yield _case("a header lies", "a pickle", pickled, is_refused=True)

    def pickled_decoder(place: Path) -> None:
        (place / DECODER / WEIGHTS).unlink()
        torch.save({"x": _Evil()}, place / DECODER / "pytorch_model.bin")

    yield _case("a header lies", "a pickled decoder", pickled_decoder, is_refused=True)


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.system, ("touch PWNED",)


def _with_tensors(change: Callable[[dict[str, torch.Tensor]], object], file: str = "run") -> Spoil:
    def spoil(place: Path) -> None:
        path = place / file / WEIGHTS
        tensors = dict(load_file(path))
        change(tensors)
        save_file(tensors, path, metadata={"format": "pt"})

    return spoil


def _weights() -> Iterator[Case]:
    """Tensors that are no weights."""

    def every(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[dict[str, Any]], object]:
        return lambda tensors: tensors.update({k: change(v) for k, v in tensors.items()})

    def one(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[dict[str, Any]], object]:
        def on_first(tensors: dict[str, Any]) -> None:
            name = next(name for name in sorted(tensors) if tensors[name].ndim > 1)
            tensors[name] = change(tensors[name].clone())

        return on_first

    def nan(tensor: torch.Tensor) -> torch.Tensor:
        tensor.view(-1)[0] = float("nan")
        return tensor

    for where in ("run", DECODER):
        for name, change in {
            "one is not a number": one(nan),
            "all are infinite": every(lambda t: torch.full_like(t, float("inf"))),
            "all are integers": every(lambda t: t.to(torch.int64)),
            "all are true or false": every(lambda t: t > 0),
            "one is complex": one(lambda t: t.to(torch.complex64)),
            "one is flat": one(lambda t: t.reshape(-1)),
            "one is larger": one(lambda t: torch.cat([t, t])),
            "one is gone": lambda tensors: tensors.pop(sorted(tensors)[0]),
            "one is too many": lambda tensors: tensors.update(x=torch.zeros(3)),
            "none": lambda tensors: tensors.clear(),
            "one is empty": one(lambda t: t[:0]),
        }.items():
            # what a decoder has besides its own is left unread, and a cast of it is no lie
            refused = not (where == DECODER and name in ("one is too many", "one is complex"))
            yield _case("weights", f"{where}: {name}", _with_tensors(change, where),
                        is_refused=refused and "true" not in name)  # fmt: skip
    yield _case("weights", "half precision", _with_tensors(every(lambda t: t.half())))
    yield _case("weights", "8 bits", _with_tensors(every(lambda t: t.to(torch.float8_e4m3fn))))


def _configs() -> Iterator[Case]:
    """Every value of the captioner's config, by turns, and absurd sizes."""
    content = json.loads((seeds() / "model" / "run" / "config.json").read_text())
    chance = random.Random(1)
    for place in places_in(content):
        for what in chance.sample(sorted(VALUES), 2):
            yield _case("a config", f"{'.'.join(place)}: {what}", lambda folder, p=place,
            w=what: _edit(
                folder / "run" / "config.json", *p, value=VALUES[w]))  # fmt: skip
    sizes = (
        ("bridge.config.width", 2**30), ("bridge.config.every", 0),
        ("bridge.config.heads", 2**31), ("method.config.rank", 2**31), ("grid.tokens", 2**40),
        ("grid.channels", 2**31), ("decoder.blocks", 10**9),
        ("decoder.blocks", -3), ("bridge.name", "../../x"), ("method.name", "__class__"),
        ("decoder.spec", "hf:evil/model"), ("decoder.spec", "evil/model"), ("decoder.tokens",
        "9" * 5000),
        ("decoder.tokens", "-1 -2"), ("decoder.tokens", "x y"),
         ("decoder.spec", "/proc/self/fd"),
        ("decoder.spec", "~/../../x"), ("method.config.dropout", 7), ("grid.rows", 2**31),
        ("known_words", {"labels": ["x"] * 10, "prompts": None, "top": 10**9, "model": {}}),
        ("known_words", {"labels": "abc", "prompts": 3, "top": -1, "model": None}),
    )  # fmt: skip
    for place, value in sizes:
        name = f"{place}: {str(value)[:40]}"
        yield _case("a config", name, lambda folder, p=place, v=value: _edit(
            folder / "run" / "config.json", *p.split("."), value=v), is_refused=True)  # fmt: skip
    for seed in range(10):
        yield _case("a config", f"several values, {seed}", lambda folder, s=seed: [
            change_value(folder / "run" / "config.json", random.Random(s)) for s in range(s, s + 3)
        ])  # fmt: skip


def _decoders() -> Iterator[Case]:
    """The language model's own files."""
    absurd = (
        ("hidden_size", 2**31), ("num_hidden_layers", 10**6), ("vocab_size", 2**40),
        ("num_attention_heads", 0), ("head_dim", 2**30), ("intermediate_size", -1),
        ("model_type", "nothing"), ("model_type", "bert"), ("model_type", ["llama"]),
        ("model_type", "../x"), ("architectures", []), ("eos_token_id", 10**9), ("eos_token_id",
        -1),
        ("eos_token_id", None), ("hidden_act", "__import__"), ("rms_norm_eps", "x"),
        ("rope_parameters", {"rope_type": "evil"}), ("dtype", "int8"), ("dtype", "evil"),
        ("max_position_embeddings", 0), ("max_position_embeddings", 2**40),
        ("tie_word_embeddings", "perhaps"), ("quantization_config",
        {"quant_method": "bitsandbytes"}),
        ("auto_map", {"AutoModelForCausalLM": "evil.Evil", "AutoConfig": "evil.Config"}),
        ("_name_or_path", "evil/model"), ("transformers_version", "99"), ("vocab_size", 98.5),
    )  # fmt: skip
    for key, value in absurd:

        def spoil(place: Path, key: str = key, value: Any = value) -> None:
            (place / DECODER / "evil.py").write_text("import os; os.system('touch PWNED')")
            _edit(place / DECODER / "config.json", key, value=value)

        yield _case("a decoder", f"config.json {key}: {str(value)[:40]}", spoil)
    for key, value in (
        ("tokenizer_class", "Evil"), ("model_max_length", -1), ("eos_token", "\x1b[31m"),
        ("auto_map", {"AutoTokenizer": ["evil.Evil", None]}), ("added_tokens_decoder", {"0": 3}),
        ("chat_template", "{{ ''.__class__ }}"), ("eos_token", {"a": 1}), ("pad_token", None),
    ):  # fmt: skip

        def spoil_words(place: Path, key: str = key, value: Any = value) -> None:
            (place / DECODER / "evil.py").write_text("import os; os.system('touch PWNED')")
            _edit(place / DECODER / "tokenizer_config.json", key, value=value)

        yield _case("a decoder", f"tokenizer_config.json {key}: {str(value)[:40]}", spoil_words)
    for key, value in (
        ("model", {"type": "BPE", "vocab": {}, "merges": []}), ("model", None), ("version", 3),
        ("added_tokens", [{"id": 10**12}]), ("pre_tokenizer", {"type": "Split",
        "pattern": {"Regex": "(a+)+$"}}),
        ("normalizer", {"type": "Replace", "pattern": {"Regex": "("}, "content": ""}),
    ):  # fmt: skip
        yield _case("a decoder", f"tokenizer.json {key}: {str(value)[:40]}", lambda place, k=key,
        v=value: _edit(
            place / DECODER / "tokenizer.json", k, value=v))  # fmt: skip
