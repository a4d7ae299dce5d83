"""What can lie in the place of each file of a captioner, its decoder and its encoder."""

from __future__ import annotations

from pathlib import Path

from tests.hostile_models.changes import (
    BIG,
    DEEP,
    drop,
    every,
    first_of,
    header,
    of_first,
    overlap,
    put,
    renamed,
    sparse,
    sparse_end,
    special,
    spoil,
    tensors,
)
from tests.hostile_models.made import (
    CAPTIONER,
    CONFIG,
    DECODER,
    ENCODER,
    TOKENIZER,
    WEIGHTS,
    Hostile,
)

JSON_OF_NO_OBJECT = {"list": "[]", "number": "3", "text": '"x"', "null": "null", "true": "true"}
FILES = {
    f"{CAPTIONER}/{CONFIG}": "config.json",
    f"{DECODER}/{CONFIG}": "config.json",
    f"{ENCODER}/{CONFIG}": "config.json",
    f"{DECODER}/{TOKENIZER}": "tokenizer.json",
    f"{DECODER}/tokenizer_config.json": "tokenizer_config.json",
    f"{ENCODER}/processor_config.json": "processor_config.json",
}
WEIGHT_FILES = {
    f"{CAPTIONER}/{WEIGHTS}": "model.safetensors",
    f"{DECODER}/{WEIGHTS}": "model.safetensors",
    f"{ENCODER}/{WEIGHTS}": "model.safetensors",
}


def file_cases() -> list[Hostile]:
    cases = []
    for path, word in FILES.items():
        for kind, text in JSON_OF_NO_OBJECT.items():
            cases.append(Hostile(f"{path} is {kind}", put(path, text), word))
        cases += [
            Hostile(f"{path} is nested deeply", put(path, DEEP), word),
            Hostile(f"{path} is half of it", put(path, '{"model_type": "lla'), word),
            Hostile(f"{path} is not UTF-8", put(path, b'{"a": "\xff\xfe"}'), word),
            Hostile(f"{path} is empty", put(path, b""), word),
            Hostile(f"{path} of 1 GB", sparse(path, 1, b"{"), word),
            Hostile(f"{path} is a pipe", special(path, "pipe"), word),
            Hostile(f"{path} is /dev/zero", special(path, "/dev/zero"), word),
            Hostile(f"{path} is a folder", special(path, "folder"), word),
            Hostile(f"{path} links to itself", special(path, Path(path).name), word),
        ]
    for path, word in WEIGHT_FILES.items():
        cases += [
            Hostile(f"{path} is a pipe", special(path, "pipe"), "weights|model.safetensors"),
            Hostile(f"{path} is /dev/zero", special(path, "/dev/zero"), "weights|model.safet"),
            Hostile(f"{path} is empty", put(path, b""), word),
            Hostile(f"{path} is text", put(path, "hello" * 100), word),
            Hostile(f"{path} is a pickle", put(path, b"\x80\x02}q\x00."), word),
            Hostile(f"{path} of 64 GB of nothing", sparse(path, 64), word),
            Hostile(f"{path}: header longer than the file", header(path, dict, 2**40), word),
            Hostile(f"{path}: header of 2^64 - 1", header(path, dict, 2**64 - 1), word),
            Hostile(f"{path}: header is a list", header(path, lambda found: "[]"), word),
            Hostile(f"{path}: header nested deeply", header(path, lambda found: DEEP), word),
            Hostile(f"{path}: unknown dtype", header(path, of_first(dtype="F31")), word),
            Hostile(f"{path}: dtype is a list", header(path, of_first(dtype=[])), word),
            Hostile(f"{path}: shape of another size", header(path, of_first(shape=[BIG])), word),
            Hostile(f"{path}: shape negative", header(path, of_first(shape=[-1, -1])), word),
            Hostile(f"{path}: shape is text", header(path, of_first(shape="1")), word),
            Hostile(f"{path}: tensors overlap", header(path, overlap), word),
            Hostile(
                f"{path}: offsets beyond the file",
                header(path, of_first(data_offsets=[2**60, 2**60 + 4])),
                word,
            ),
            Hostile(f"{path}: offsets are text", header(path, of_first(data_offsets="ab")), word),
            Hostile(f"{path}: a tensor is a list", header(path, lambda f: {first_of(f): []}), word),
            Hostile(f"{path}: bytes behind the last", sparse_end(path), word),
            Hostile(f"{path}: not a number", tensors(path, spoil(float("nan"))), "not finite"),
            Hostile(f"{path}: infinite", tensors(path, spoil(float("inf"))), "not finite"),
            Hostile(f"{path}: whole numbers", tensors(path, every(lambda t: t.int())), "I32"),
            Hostile(f"{path}: a tensor less", tensors(path, drop), "weights"),
            Hostile(f"{path}: nothing in it", tensors(path, lambda f: f.clear()), "weights"),
            Hostile(f"{path}: other names", tensors(path, renamed), "weights"),
        ]
    return cases
