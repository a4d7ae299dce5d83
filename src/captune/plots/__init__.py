"""Every figure. Each function returns a matplotlib Figure; `save_figure` writes it."""

from captune.plots.canvas import save_figure
from captune.plots.captions import (
    PairPanel,
    difference_figure,
    image_difference_figure,
    pairs_figure,
)
from captune.plots.classification import (
    Top5,
    confusion_figure,
    reliability_figure,
    top5_grid_figure,
)
from captune.plots.prompts import (
    agreement_figure,
    class_change_figure,
    negation_figure,
    prompt_comparison_figure,
)

__all__ = [
    "PairPanel",
    "Top5",
    "agreement_figure",
    "class_change_figure",
    "confusion_figure",
    "difference_figure",
    "image_difference_figure",
    "negation_figure",
    "pairs_figure",
    "prompt_comparison_figure",
    "reliability_figure",
    "save_figure",
    "top5_grid_figure",
]
