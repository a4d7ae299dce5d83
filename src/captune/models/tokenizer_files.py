"""Which files make a Hugging Face tokenizer, whether a folder holds one, and how long texts are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from captune.errors import UserError

# A vocabulary has one of these forms; without it transformers builds an empty one in silence.
VOCABULARIES = (
    ("tokenizer.json",),
    ("vocab.json", "merges.txt"),
    ("vocab.txt",),
    ("spiece.model",),
    ("sentencepiece.bpe.model",),
    ("tokenizer.model",),
)
SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


def choose_tokenizer(names: Sequence[str], where: str) -> list[str]:
    """The tokenizer's files among `names`, or UserError."""
    if not any(all(name in names for name in form) for form in VOCABULARIES):
        raise UserError(
            f"{where}: has no tokenizer (expected tokenizer.json, or vocab.json with merges.txt); "
            "weights and tokenizer travel together: copy it there from where the model came"
        )
    known = {name for form in VOCABULARIES for name in form} | set(SETTINGS)
    return [name for name in names if name in known]


def tokenizer_files(folder: Path) -> list[Path]:
    """The tokenizer's files in `folder`, or UserError."""
    names = sorted(path.name for path in folder.iterdir())
    return [folder / name for name in choose_tokenizer(names, str(folder))]


def require_known_tokens(token_ids: Tensor, vocabulary: int | None, where: str) -> None:
    """Raise UserError for a token beyond the text side's `vocabulary` (None: not stated)."""
    if vocabulary is not None and int(token_ids.max()) >= vocabulary:
        raise UserError(
            f"{where}: its tokenizer knows token {int(token_ids.max())}, its text side only "
            f"{vocabulary} of them; they do not belong together"
        )


def count_tokens(tokenizer: Any, texts: Sequence[str], *, special: bool = True) -> list[int]:
    """Tokens of each text by a transformers tokenizer, uncut; `special`: with start and end."""
    ids = tokenizer(
        list(texts),
        add_special_tokens=special,
        padding=False,
        truncation=False,
        verbose=False,  # else it warns of a text longer than the model reads, which is the question
    )["input_ids"]
    return [len(row) for row in ids]
