"""What a captioner is made of, as its config.json says it: plain values, nothing loaded."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import captune
from captune.captioning.bridge import GridShape

SCHEMA = 1


@dataclass(frozen=True)
class ImageIdentity:
    """Which frozen image encoder a captioner sees through, and which of its outputs.

    spec: how it was named. preprocessing_id: of the transform from photo to pixels.
    """

    spec: str
    weights_id: str
    preprocessing_id: str


@dataclass(frozen=True)
class KnownWords:
    """Which words a captioner reads of a photo before its caption: those that a classifier chose.

    labels: what it chose among; prompts: of each label, where they have their own. top: how many it
    chose. model: the classifier's.
    """

    labels: tuple[str, ...]
    prompts: tuple[tuple[str, ...], ...] | None
    top: int
    model: ImageIdentity

    @classmethod
    def of_json(cls, about: Mapping[str, Any]) -> KnownWords:
        """What `dataclasses.asdict` made of it."""
        prompts = about["prompts"]
        return cls(
            tuple(about["labels"]),
            None if prompts is None else tuple(map(tuple, prompts)),
            int(about["top"]),
            ImageIdentity(**about["model"]),
        )


@dataclass(frozen=True)
class Recipe:
    """config.json: what a captioner is made of."""

    image_encoder: ImageIdentity
    decoder_spec: str
    decoder_id: str
    grid: GridShape
    bridge: str
    bridge_config: dict[str, Any]
    method: str
    method_config: dict[str, Any]
    max_tokens: int = 60
    decoder_blocks: int = 0
    tokens: tuple[int, ...] = ()
    known_words: KnownWords | None = None

    def as_json(self) -> dict[str, Any]:
        """In the order in which a person reads it."""
        known = self.known_words
        return {
            "schema": SCHEMA,
            "captune": captune.__version__,
            "image_encoder": dataclasses.asdict(self.image_encoder),
            "decoder": {
                "spec": self.decoder_spec,
                "blocks": self.decoder_blocks,
                "decoder_id": self.decoder_id,
                "tokens": " ".join(map(str, self.tokens)) or "all",
            },
            "grid": dataclasses.asdict(self.grid),
            "bridge": {"name": self.bridge, "config": self.bridge_config},
            "method": {"name": self.method, "config": self.method_config},
            "max_tokens": self.max_tokens,
            **({} if known is None else {"known_words": dataclasses.asdict(known)}),
        }
