"""Which files make a Hugging Face tokenizer, whether a folder holds one, and how long texts are."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

from torch import Tensor

from captune.errors import UserError
from captune.json_yaml import read_object
from captune_metrics.display import printable
from captune_metrics.files import open_regular

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

_LARGEST_BYTES = 64 * 2**20
# what a tokenizer's own file may not decide: other files, code, and templates nobody fills in here
_NOT_READ = re.compile(r".*_files?|auto_map|chat_template|name_or_path|_commit_hash")
_RULES = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
_MOST_RULES = 64
_MOST_GROWTH = 64  # times, by all replacements together
_LONGEST_TOKEN = 1024
_LARGEST_ID = 2**24
_LONGEST_PATTERN = 4096
_MOST_OPEN = 3  # * and + in one alternative: each more may take a text's length as many times
_GROUP = re.compile(r"\((?:\?[a-zA-Z]*[:=!]|\?<[=!]|\?>)?([^()]*)\)([*+]|\{\d*,\})?")
_VARIES = re.compile(r"[*+?|]|\{\d*,\d*\}")
_CHARACTERS = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", re.DOTALL)


def choose_tokenizer(names: Sequence[str], where: str) -> list[str]:
    """The tokenizer's files among `names`, or UserError."""
    if not any(all(name in names for name in form) for form in VOCABULARIES):
        raise UserError(
            f"{where} has no tokenizer (expected tokenizer.json, or vocab.json with merges.txt); "
            "weights and tokenizer travel together: copy it there from where the model came"
        )
    known = {name for form in VOCABULARIES for name in form} | set(SETTINGS)
    return [name for name in names if name in known]


def tokenizer_files(folder: Path) -> list[Path]:
    """The tokenizer's files in `folder`, or UserError."""
    names = sorted(path.name for path in folder.iterdir())
    return [folder / name for name in choose_tokenizer(names, str(folder))]


def vetted_tokenizer(folder: Path) -> dict[str, Path | Mapping[str, Any]]:
    """The tokenizer's files in `folder` for `vetting.staged`, each looked through.

    Raises UserError for what is too large, and for rules that would take a text without end.
    """
    files: dict[str, Path | Mapping[str, Any]] = {}
    for path in tokenizer_files(folder):
        if path.name == "tokenizer_config.json":
            stated = read_object(path)
            files[path.name] = {k: v for k, v in stated.items() if not _NOT_READ.fullmatch(k)}
            continue
        if path.suffix == ".json":
            content = read_object(path, _LARGEST_BYTES)
            if path.name == "tokenizer.json":
                _check_rules(content, printable(path))
        else:
            _check_size(path)
        files[path.name] = path
    return files


def _check_size(path: Path) -> None:
    try:
        with open_regular(path) as file:
            size = file.seek(0, 2)
    except OSError as error:
        raise UserError(f"{printable(path)} cannot be read ({error.strerror})") from None
    if size > _LARGEST_BYTES:
        raise UserError(f"{printable(path)} has {size:,} bytes, too many for a tokenizer")


def _check_rules(content: Mapping[str, Any], where: str) -> None:
    """Raise UserError for rules, tokens and ids that no tokenizer needs, but a trap does."""
    growth, rules = [], 0
    for rule in _objects([content.get(part) for part in _RULES]):
        rules += "type" in rule
        added = rule.get("content", rule.get("prepend", ""))
        growth.append(max(1, len(added)) if isinstance(added, str) else 1)
        pattern = rule.get("Regex")
        if isinstance(pattern, str) and not _is_quick(pattern):
            raise UserError(
                f"{where}: splits texts by a pattern that can take very long; take the model as it"
                " was published"
            )
    if rules > _MOST_RULES or prod(growth) > _MOST_GROWTH:
        raise UserError(f"{where}: its rules make a text many times as long; is it a tokenizer?")
    model, added = content.get("model"), content.get("added_tokens") or []
    tokens = model.get("vocab") if isinstance(model, dict) else None
    ids = list(tokens.values()) if isinstance(tokens, dict) else []
    names = list(tokens) if isinstance(tokens, dict | list) else []
    if isinstance(added, list):
        some = [token for token in added if isinstance(token, dict)]
        ids += [token.get("id") for token in some]
        names += [token.get("content") for token in some]
    # a unigram model lists [token, score]
    names = [name[0] if isinstance(name, list) and name else name for name in names]
    if any(isinstance(name, str) and len(name) > _LONGEST_TOKEN for name in names):
        raise UserError(f"{where} has a token of more than {_LONGEST_TOKEN:,} characters")
    if any(isinstance(id, int) and not 0 <= id < _LARGEST_ID for id in ids):
        raise UserError(f"{where} has a token whose id is not between 0 and {_LARGEST_ID:,}")


def _is_quick(pattern: str) -> bool:
    """Whether a regular expression cannot backtrack for ever, as those of tokenizers cannot.

    Nothing that can be read in several ways is repeated without end, and little is in a row.
    """
    plain = _CHARACTERS.sub("x", pattern)
    if len(pattern) > _LONGEST_PATTERN:
        return False
    if any(len(re.findall(r"[*+]|,\}", part)) > _MOST_OPEN for part in plain.split("|")):
        return False
    while group := _GROUP.search(plain):
        varies = bool(_VARIES.search(group[1]))
        if varies and group[2]:
            return False
        plain = plain[: group.start()] + ("x?" if varies else "x") + plain[group.end() :]
    return True


def _objects(content: Any) -> Iterator[Mapping[str, Any]]:
    left = [content]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            yield value
            left += value.values()
        elif isinstance(value, list):
            left += value


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


def decoded(tokenizer: Any, rows: Sequence[Sequence[int]]) -> list[str]:
    """Token ids as text; what is special in it leaves no trace."""
    texts: list[str] = tokenizer.batch_decode([list(row) for row in rows], skip_special_tokens=True)
    return texts


def before_stop(text: str, stop: Sequence[str]) -> str:
    """What stands before the first of these texts; all of it where there is none of them."""
    return min((text.partition(one)[0] for one in stop), key=len, default=text)
