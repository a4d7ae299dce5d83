"""`captune.explain`: the command as a function."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captune.options import ExplainOptions

if TYPE_CHECKING:
    from captune.attribution.explanation import Explanation


def explain(
    images: str | Path | Sequence[str | Path], *, model: str | Path = "lite", **options: Any
) -> list[Explanation]:
    """Where a captioner saw each word of its caption of each image, as `captune explain`.

    options: the fields of `options.ExplainOptions`, such as words="dog", caption="a dog", out=RUN.
    A map is `explanation.words[i].map`, [rows, columns] over the whole image. Figures are drawn by
    the command only. Raises UserError for what cannot be done; images that cannot be read are left
    out.
    """
    from captune.attribution.job import explain_images

    sources = [images] if isinstance(images, str | Path) else images
    if isinstance(options.get("out"), str):
        options["out"] = Path(options["out"])
    found: list[Explanation] = []
    explain_images(
        ExplainOptions(images=[str(s) for s in sources], model=str(model), **options),
        on_explanation=found.append,
    )
    return found
