"""Settings of bridges and tuning methods (--set), and where a tuned captioner is: without torch."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from captune.errors import UserError
from captune.json_yaml import json_kind, read_object
from captune.registry import BRIDGES, TUNING_METHODS, Registry
from captune_metrics.display import printable, quoted

WEIGHTS, CONFIG = "model.safetensors", "config.json"  # of a tuned captioner
# beside them, where they were found out: the map to believe, the chance that people agree, how it
# chooses among candidates
EXPLAIN, AGREEMENT, RERANK = "explain.json", "agreement.json", "rerank.json"
CARD = "README.md"
SHARED = (CONFIG, WEIGHTS, EXPLAIN, AGREEMENT, RERANK, CARD)  # what the hub has of a captioner
PROMPT_TOKENS = 64  # at most, of the text before a caption
_LARGEST = 10**9
_UNITS = {"k": 10**3, "m": 10**6, "b": 10**9}
Settings = Mapping[str, Any]


@dataclass(frozen=True)
class CrossAttentionConfig:
    """width: of queries, keys and values, over all heads. heads: 0 takes one for every 64.

    every: cross-attention in every n-th block, counted from the last, which always has it.
    last: in the last n blocks only; 0 for all. The blocks before them then read text alone.
    entry: bring the grid to `width` first, with a learned place for each token.
    bias: in the four projections, as GPT-2 has it.
    gain: of the output projections' learning rate, see `captioning.training.step`; 0 takes
        the one rate of everything.
    """

    width: int = 192
    heads: int = 0
    every: int = 3
    last: int = 0
    entry: bool = True
    bias: bool = False
    dropout: float = 0.0
    gain: float = 3.0

    def __post_init__(self) -> None:
        """Raises UserError for numbers that make no attention."""
        if self.last < 0 or not 0 <= self.gain < math.inf:
            raise UserError(
                f"cross-attention: last {self.last}, gain {self.gain}; they must be 0 or more"
            )
        if not 0 <= self.dropout < 1:
            raise UserError(
                f"cross-attention: dropout {self.dropout}; it must be from 0 to below 1"
            )
        if self.width < 1 or self.every < 1 or self.heads < 0 or self.width % self.n_heads:
            raise UserError(
                f"cross-attention: width {self.width} with {self.n_heads} heads in every"
                f" {self.every}. block; the width must be a multiple of the heads"
            )

    @property
    def n_heads(self) -> int:
        """Heads, chosen where none are given."""
        return self.heads or max(1, self.width // 64)


@dataclass(frozen=True)
class BidirectionalConfig(CrossAttentionConfig):
    """depth: how often patches and tags read each other. words: tokens of tags, at most."""

    depth: int = 1
    words: int = 32

    def __post_init__(self) -> None:
        """Raises UserError for numbers that make no exchange."""
        super().__post_init__()
        if self.depth < 1 or self.words < 1 or not self.entry:
            raise UserError(
                f"bidirectional: depth {self.depth}, words {self.words}, entry {self.entry};"
                " take 1 or more of each, with the entry on"
            )

    @property
    def tag_tokens(self) -> int:
        """As many as it has places for."""
        return self.words


@dataclass(frozen=True)
class SoftPrefixConfig:
    """length: soft tokens an image. pooling: how the grid becomes them. width: in between.

    heads: of the pooling by attention; 0 takes one for every 64 of the width.
    """

    length: int = 16
    pooling: Literal["attention", "mlp"] = "attention"
    width: int = 384
    heads: int = 0

    def __post_init__(self) -> None:
        """Raises UserError for numbers that make no soft tokens."""
        if self.length < 1 or self.width < 1 or self.heads < 0 or self.width % self.n_heads:
            raise UserError(
                f"prefix: {self.length} soft tokens by width {self.width} with {self.n_heads}"
                " heads; take 1 token or more, and a width that is a multiple of the heads"
            )
        if self.pooling not in ("attention", "mlp"):
            raise UserError(f'prefix: pooling "{self.pooling}"; write attention or mlp')

    @property
    def n_heads(self) -> int:
        """Heads, chosen where none are given."""
        return self.heads or max(1, self.width // 64)


@dataclass(frozen=True)
class LoRAConfig:
    """rank; alpha: the update counts alpha / rank; targets: which projections of each block.

    last: tune the last n blocks only; 0 for all. Where the bridge looks no earlier, nothing is
    learnt in the blocks before them, and the backward pass ends there.
    """

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0
    targets: Literal["all", "attention"] = "all"
    last: int = 0

    def __post_init__(self) -> None:
        """Raises UserError for a rank below 1, a negative `last` or unknown targets."""
        if self.last < 0:
            raise UserError(f"lora: last {self.last}; it must be 0 or more")
        if not 0 <= self.dropout < 1:
            raise UserError(f"lora: dropout {self.dropout}; it must be from 0 to below 1")
        if self.rank < 1:
            raise UserError(f"lora: rank {self.rank}; it must be 1 or more")
        if self.targets not in ("all", "attention"):
            raise UserError(f'lora: targets "{self.targets}"; write all or attention')


@dataclass(frozen=True)
class AdapterConfig:
    """bottleneck: the width between; places: after both sub-layers, or after the MLP only."""

    bottleneck: int = 64
    places: Literal["houlsby", "pfeiffer"] = "houlsby"

    def __post_init__(self) -> None:
        """Raises UserError for a bottleneck below 1 or unknown places."""
        if self.bottleneck < 1:
            raise UserError(f"adapter: bottleneck {self.bottleneck}; it must be 1 or more")
        if self.places not in ("houlsby", "pfeiffer"):
            raise UserError(f'adapter: places "{self.places}"; write houlsby or pfeiffer')


@dataclass(frozen=True)
class PrefixConfig:
    """length: of the prefix, in tokens.

    shared_softmax: with the text, and in the bridge with the image; see the module's text.
    """

    length: int = 32
    shared_softmax: bool = False

    def __post_init__(self) -> None:
        """Raises UserError for a length below 1."""
        if self.length < 1:
            raise UserError(f"prefix: length {self.length}; it must be 1 or more")


@dataclass(frozen=True)
class NoneConfig:
    """Nothing to choose."""


# of captune's own, whose modules need not be imported for them
_CONFIGS: dict[str, dict[str, type[Any]]] = {
    BRIDGES.package: {
        "cross-attention": CrossAttentionConfig,
        "bidirectional": BidirectionalConfig,
        "prefix": SoftPrefixConfig,
    },
    TUNING_METHODS.package: {
        "lora": LoRAConfig,
        "dora": LoRAConfig,
        "adapter": AdapterConfig,
        "prefix": PrefixConfig,
        "ia3": NoneConfig,
        "none": NoneConfig,
    },
}


def config_type(registry: Registry[Any], name: str) -> type[Any]:
    """The Config of a bridge or a method. Raises UserError for an unknown name."""
    known = _CONFIGS[registry.package].get(name)
    found: type[Any] = registry.get(name).Config if known is None else known
    return found


def check_settings(
    words: Sequence[str], *, bridge: str, methods: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """As `read_settings`. Raises UserError also for values that make no bridge or no method."""
    found = read_settings(words, bridge=bridge)
    config_of(config_type(BRIDGES, bridge), found.get("bridge", {}), bridge)
    for method in methods:
        config_of(config_type(TUNING_METHODS, method), found.get(method, {}), method)
    unused = sorted(found.keys() - {"bridge", *methods})
    if unused:
        raise UserError(
            f"--set {unused[0]} is not one of the methods that are trained ({','.join(methods)})"
        )
    return found


def tag_tokens(config: Any) -> int:
    """How many tokens of tags a bridge of this Config reads of an image; 0 where it reads none."""
    found: int = getattr(config, "tag_tokens", 0)
    return found


def config_of(kind: type[Any], settings: Settings, name: str) -> Any:
    """The Config `kind` with some fields set. Raises UserError for a field that it lacks."""
    hints = typing.get_type_hints(kind)
    unknown = [key for key in settings if key not in hints]
    if unknown:
        has = ", ".join(hints) or "nothing to set"
        raise UserError(f"{name} has no setting {quoted(unknown[0])}; it has {has}")
    for known in dataclasses.fields(kind):
        if known.name in settings:
            _check_kind(settings[known.name], known.default, f"{name}: {known.name}")
    return kind(**settings)


def _check_kind(value: Any, default: Any, where: str) -> None:
    """Raise UserError for a value of another kind than the default, and for absurd numbers."""
    shown = repr(value)[:40] if isinstance(value, str | bool | float) else json_kind(value)
    if isinstance(default, bool) or not isinstance(default, int | float):
        if isinstance(default, bool | str) and type(value) is not type(default):
            expected = "a text" if isinstance(default, str) else "true or false"
            raise UserError(f"{where} is {shown}; expected {expected}")
        return
    is_number = type(value) is int or (isinstance(default, float) and type(value) is float)
    if not is_number or not -_LARGEST <= value <= _LARGEST:
        number = "a number" if isinstance(default, float) else "a whole number"
        raise UserError(f"{where} is {shown}; expected {number} of at most {_LARGEST:,}")


def read_settings(words: Sequence[str], *, bridge: str) -> dict[str, dict[str, Any]]:
    """`lora.rank=8`, `bridge.width=256` -> {part: {setting: value}}; `bridge` is the chosen one.

    Raises UserError for what is not PART.SETTING=VALUE, a part or setting that does not exist, and
    a value of another kind than the setting's default.
    """
    found: dict[str, dict[str, Any]] = {}
    for word in words:
        path, equals, text = word.partition("=")
        part, dot, name = path.partition(".")
        if not equals or not dot:
            raise UserError(f"--set {word}: write PART.SETTING=VALUE, as in lora.rank=8")
        kind = config_type(*((BRIDGES, bridge) if part == "bridge" else (TUNING_METHODS, part)))
        fields = {f.name: f for f in dataclasses.fields(kind)}
        if name not in fields:
            known = ", ".join(fields) or "nothing to set"
            raise UserError(f'--set {word}: {part} has no setting "{name}"; it has {known}')
        found.setdefault(part, {})[name] = _value(text, fields[name].default, word)
    return found


def _value(text: str, default: Any, word: str) -> Any:
    if isinstance(default, bool):
        if text.lower() not in ("true", "false"):
            raise UserError(f"--set {word}: the value must be true or false")
        return text.lower() == "true"
    kind = type(default)
    try:
        return kind(text)
    except ValueError:
        raise UserError(
            f"--set {word}: {text!r} is not a {'whole number' if kind is int else 'number'}"
        ) from None


def parse_count(text: str) -> int:
    """35M, 500k, 1.5B or 12_000 -> a number. Raises UserError for anything else."""
    unit = _UNITS.get(text[-1:].lower(), 1)
    digits = text if unit == 1 else text[:-1]
    try:
        count = round(float(digits) * unit)
    except (ValueError, OverflowError):
        count = -1
    if count < 0:
        raise UserError(f'"{text}" is not a number of parameters; write it as 35M, 500k or 12000')
    return count


def is_vlm(folder: Path) -> bool:
    """Whether it has the layout of save_pretrained; whether it takes images shows later."""
    config = folder / CONFIG
    return config.is_file() and "model_type" in read_object(config)


def checkpoint_folder(folder: Path) -> Path:
    """`folder` itself, or the best method's of the run of a tune.

    Raises UserError where there is no finished checkpoint.
    """
    if not folder.is_dir():
        raise UserError(f"{printable(folder)} is not a folder; name the --out of a captune tune")
    if (folder / CONFIG).is_file():
        return folder
    metrics = folder / "metrics.json"
    best = read_object(metrics).get("best") if metrics.exists() else None
    if best is None:
        raise UserError(
            f"{folder} holds no tuned captioner ({CONFIG} and {WEIGHTS}); name the --out of a"
            " finished captune tune, or one method's folder in it"
        )
    if not isinstance(best, str) or best != Path(best).name or not (folder / best).is_dir():
        raise UserError(
            f"{printable(metrics)}: its best method is {quoted(str(best))}, and there is no"
            " such folder beside it; name one method's folder"
        )
    return folder / best
