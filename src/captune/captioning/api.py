"""`captune.tune` and `captune.caption`: the two commands as functions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captune.options import CaptionOptions, TuneOptions

if TYPE_CHECKING:
    from captune.captioning.generation import Caption
    from captune.captioning.training.recording import TuneResult


def tune(
    images: str | Path,
    *,
    captions: str | Path,
    val: str | Path,
    out: str | Path,
    **options: Any,
) -> TuneResult:
    """Teach a frozen language model to describe images, as `captune tune`.

    options: the fields of `options.TuneOptions`, such as method="lora,prefix". The same call goes
    on where a killed one was. Raises UserError for what cannot be done.
    """
    from captune.captioning.training.recording import tune_captioner

    return tune_captioner(
        TuneOptions(
            images=Path(images),
            captions=Path(captions),
            val=Path(val),
            out=Path(out),
            **_paths(options),
        )
    )


def caption(
    images: str | Path | Sequence[str | Path], *, model: str | Path = "lite", **options: Any
) -> list[Caption]:
    """A caption of each image in folders, files and patterns, as `captune caption`.

    options: the fields of `options.CaptionOptions`; what they say to write is written too.
    Raises UserError for what cannot be done; images that cannot be read are left out.
    """
    from captune.captioning.caption_recording import caption_images

    sources = [images] if isinstance(images, str | Path) else images
    found: list[Caption] = []
    caption_images(
        CaptionOptions(images=[str(s) for s in sources], model=str(model), **_paths(options)),
        on_caption=found.append,
    )
    return found


def _paths(options: dict[str, Any]) -> dict[str, Any]:
    """Where an option is a path, a string does as well."""
    places = ("val_images", "start", "config", "out", "predictions")
    return {
        name: Path(value) if name in places and isinstance(value, str) else value
        for name, value in options.items()
    }
