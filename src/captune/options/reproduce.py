"""Options of `captune reproduce`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from captune.errors import UserError
from captune.options.fields import option


@dataclass(kw_only=True)
class ReproduceOptions:
    """`captune reproduce`."""

    study: str = option(
        "what is done again: dlcv-hw3, or a YAML file of the same form",
        positional=True,
        nargs=None,
        metavar="STUDY",
    )
    data: Path = option("folder of its data, laid out as published", metavar="DIR")
    out: Path = option("folder to write: a run folder a step, and the report", metavar="RUN")
    lite: bool = option("with the embedded models, which are small and need no hub", False)
    epochs: int | None = option("passes over the training images", None, metavar="N")
    limit: int | None = option("train on a fixed sample of N images (0: all)", None, metavar="N")
    classifier: str | None = option("another model to recognise with", None, metavar="SPEC")
    encoder: str | None = option("another frozen image encoder", None, metavar="SPEC")
    decoder: str | None = option("another frozen language model", None, metavar="SPEC")
    score_model: str | None = option("another model of CLIPScore", None, metavar="SPEC")
    only: list[str] = option("do this step only; may repeat", [], repeat=True, metavar="STEP")
    dry_run: bool = option("print the commands of the steps, and do nothing", False)

    def __post_init__(self) -> None:
        """Raises UserError for numbers that nothing can be trained with."""
        for name, least in (("epochs", 1), ("limit", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"{name} {value}: must be {least} or more")
