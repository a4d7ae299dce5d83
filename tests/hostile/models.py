"""Cases of hostile models: a folder of tiny ones that work, spoiled, before what reads them."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tests.hostile.model_captioners import captioner_cases, choosing_cases
from tests.hostile.model_decoders import decoder_cases
from tests.hostile.model_encoders import encoder_cases
from tests.hostile.model_folders import (
    BIG,
    CAPTIONER,
    CONFIG,
    DECODER,
    DEEP,
    ENCODER,
    TOKENIZER,
    WEIGHTS,
    Change,
    Hostile,
    copy_template,
    drop,
    edit,
    every,
    first_of,
    header,
    of_first,
    overlap,
    renamed,
    sparse_end,
    spoil,
    template,
    tensors,
    words_of,
)
from tests.hostile.model_vlms import vlm_cases
from tests.hostile.mutations import FILES, TEXTS, VALUES, change_value, places_in
from tests.hostile.runner import Case, Said, Wrong

_JSON_FILES = (
    f"{CAPTIONER}/{CONFIG}", f"{DECODER}/{CONFIG}", f"{ENCODER}/{CONFIG}", f"{DECODER}/{TOKENIZER}",
    f"{DECODER}/tokenizer_config.json", f"{DECODER}/generation_config.json",
    f"{ENCODER}/processor_config.json",
)  # fmt: skip
# what may be as well not there, or say nothing that matters
_EITHER = {"gone", "NaN", "doubled keys", "escapes", "a million keys"}
_TEXTS = (
    "nested 100,000 deep", "a list", "a number", "a text", "nothing (null)", "a million keys",
    "Latin-1", "NaN", "a number of 5,000 digits", "300 MB of blanks", "doubled keys", "escapes",
)  # fmt: skip


def cases() -> Iterator[Case]:
    """All of them."""
    template()
    for hostile in (
        *_files(),
        *_weights(),
        *_configs(),
        *captioner_cases(),
        *choosing_cases(),
        *decoder_cases(),
        *encoder_cases(),
        *vlm_cases(),
    ):
        yield _case(hostile)


def _case(hostile: Hostile) -> Case:
    def make(folder: Path) -> Sequence[str]:
        copy_template(folder)
        hostile.change(folder)
        return words_of(hostile.command, folder)

    def check(folder: Path, said: Said) -> None:
        if list(folder.rglob("PWNED")):
            raise Wrong("code of the model was run")
        words = hostile.refused
        if words is not None and (said.status == 2) != bool(words):
            raise Wrong(f"must be {'refused' if words else 'answered'}: {said.err.strip()[-300:]}")
        if said.status == 0:
            captions = said.json().get("captions")
            if captions is not None and not any(one["caption"] for one in captions):
                raise Wrong("empty captions, and no word of why")
        elif words and not any(word in said.err for word in words.split("|")):
            raise Wrong(f"does not name {words}: {said.err.strip()[-300:]}")

    kind = hostile.name.partition(":")[0].partition("/")[0]
    # whoever spoils a part writes its id into the captioner, too
    stage = "plain" if hostile.name.startswith(CAPTIONER) else "known parts"
    return Case(kind, hostile.name, make, check, stage, always=True)


def _files() -> Iterator[Hostile]:
    """Something else in the place of a file."""
    ways = FILES | {name: TEXTS[name] for name in _TEXTS}

    def laid(path: str, name: str) -> Change:
        def change(root: Path) -> None:
            (root / path).touch()
            ways[name](root / path)

        return change

    for path in _JSON_FILES:
        is_needed = "generation" not in path
        for name in ways:
            word = Path(path).name if is_needed and name not in _EITHER else None
            command = "classify" if path.startswith(ENCODER) else "caption"
            yield Hostile(f"{path} is {name}", laid(path, name), word, command)
    for folder in (CAPTIONER, DECODER, ENCODER):
        for name in FILES:
            path = f"{folder}/{WEIGHTS}"
            word = "weights|model.safetensors" if name != "gone" else None
            yield Hostile(f"{path} is {name}", laid(path, name), word)
    for kind in ("a pipe", "a link to /dev/zero", "a list", "nested 100,000 deep"):
        for name, command in (("explain.json", "explain"), ("agreement.json", "caption")):
            path = f"{CAPTIONER}/{name}"
            yield Hostile(f"{path} is {kind}", laid(path, kind), name, command)


def _weights() -> Iterator[Hostile]:
    """Headers of safetensors that lie, and tensors that are no weights."""
    for folder in (CAPTIONER, DECODER, ENCODER):
        path = f"{folder}/{WEIGHTS}"
        for name, lie in {
            "longer than the file": header(path, dict, 2**40),
            "of 2^64 - 1": header(path, dict, 2**64 - 1),
            "of 2^63": header(path, dict, 2**63),
            "over 100 MB": header(path, dict, 100_000_001),
            "is a list": header(path, lambda found: "[]"),
            "is no JSON": header(path, lambda found: "{" * 1000),
            "is nested deeply": header(path, lambda found: DEEP),
            "names an unknown dtype": header(path, of_first(dtype="F31")),
            "names a dtype of half the size": header(path, of_first(dtype="F16")),
            "has a list for a dtype": header(path, of_first(dtype=[])),
            "has a shape of another size": header(path, of_first(shape=[BIG])),
            "has a shape of 2^62": header(path, of_first(shape=[2**31, 2**31])),
            "has a negative shape": header(path, of_first(shape=[-1, -1])),
            "has a shape of 100,000 sides": header(path, of_first(shape=[1] * 100_000)),
            "has a text for a shape": header(path, of_first(shape="1")),
            "has tensors that overlap": header(path, overlap),
            "has offsets beyond the file": header(path, of_first(data_offsets=[2**60, 2**60 + 4])),
            "has offsets the wrong way": header(path, of_first(data_offsets=[100, 0])),
            "has texts for offsets": header(path, of_first(data_offsets="ab")),
            "has a list for a tensor": header(path, lambda found: {first_of(found): []}),
            "has a million tensors": header(path, _with_a_million),
            "is followed by more than its tensors": sparse_end(path),
        }.items():
            yield Hostile(f"{path}: header {name}", lie, WEIGHTS)
        for name, alter in {
            "50 MB of metadata": {"a": "x" * 50_000_000}, "metadata of numbers": {"a": [1]},
        }.items():  # fmt: skip
            change = header(path, lambda found, about=alter: found | {"__metadata__": about})
            yield Hostile(f"{path}: {name}", change)
        for name, alter_all, words in (
            ("not a number", spoil(float("nan")), "not finite"),
            ("infinite", spoil(float("inf")), "not finite"),
            ("whole numbers", every(lambda t: t.int()), "I32"),
            ("a tensor less", drop, "weights"),
            ("nothing in it", lambda found: found.clear(), "weights"),
            ("other names", renamed, "weights"),
            ("larger", every(lambda t: torch.cat([t, t]) if t.ndim else t), "shape"),
            ("flat", every(lambda t: t.reshape(-1)), "shape"),
            ("empty", every(lambda t: t[:0] if t.ndim else t), "shape|weights hold 0"),
            ("true or false", every(lambda t: t > 0), None),
            ("complex", every(lambda t: t.to(torch.complex64)), None),
            ("a tensor more", lambda found: found.update(x=torch.zeros(3)), None),
            ("half precision", every(lambda t: t.half()), None),
            ("8 bits", every(lambda t: t.to(torch.float8_e4m3fn)), None),
        ):
            yield Hostile(f"{path}: {name}", tensors(path, alter_all), words)


def _with_a_million(found: dict[str, Any]) -> dict[str, Any]:
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    return found | {f"x{n}": empty for n in range(10**6)}


def _configs() -> Iterator[Hostile]:
    """Every value of the captioner's config, by turns, and several at once."""
    path = f"{CAPTIONER}/{CONFIG}"
    content = json.loads((template() / path).read_text())
    chance = random.Random(1)
    for place in places_in(content):
        for what in chance.sample(sorted(VALUES), 2):
            name = f"{path}: {'.'.join(place)} is {what}"
            yield Hostile(name, edit(path, *place, to=VALUES[what]))
    for file in (path, f"{DECODER}/{CONFIG}", f"{DECODER}/{TOKENIZER}", f"{ENCODER}/{CONFIG}"):
        for seed in range(10):

            def several(root: Path, file: str = file, seed: int = seed) -> None:
                for number in range(3):
                    change_value(root / file, random.Random(f"{file}{seed}{number}"))

            yield Hostile(f"{file}: several values, {seed}", several)
