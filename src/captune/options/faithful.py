"""Options of `captune faithful`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from captune.errors import UserError
from captune.options.caption import CaptionerOptions
from captune.options.fields import option, overwrite_option, require_at_least


@dataclass(kw_only=True)
class FaithfulOptions(CaptionerOptions):
    """`captune faithful`."""

    model: str = option(
        "run folder of a captune tune, or of one of its methods; lite: the captioner that comes"
        " with captune",
        positional=True,
        nargs=None,
        metavar="RUN|lite",
    )
    images: Path = option("folder of the images that maps are chosen on", metavar="DIR")
    captions: Path = option("their reference captions, as in tune", metavar="TRAIN")
    boxes: Path | None = option(
        "what people drew there: COCO's instances_*.json", None, metavar="INSTANCES.json"
    )
    val_captions: Path | None = option(
        "reference captions of the images that are reported on", None, metavar="VAL"
    )
    val_images: Path | None = option(
        "folder of those images (default: --images)", None, metavar="DIR"
    )
    val_boxes: Path | None = option(
        "what people drew there, as --boxes", None, metavar="INSTANCES.json"
    )
    hide: str = option(
        "what hidden patch tokens become: zeros, or the mean token of the images chosen on",
        "zeros",
        choices=("zeros", "mean"),
    )
    minutes: float = option(
        "time that there is; what is slow is measured on fewer images", 30.0, metavar="N"
    )
    limit: int = option("take a fixed sample of N images of each file (0: all)", 0, metavar="N")
    quick: bool = option(
        "a first look: 16 images of each file, no occlusion, nothing by pixels", False
    )
    seed: int = option("seed of the sampling", 0, metavar="N")
    out: Path = option("run folder to write: leaderboard, plots, the default map", metavar="RUN")
    overwrite: bool = overwrite_option()

    def __post_init__(self) -> None:
        """Raises UserError for what does not go together."""
        super().__post_init__()
        if self.minutes <= 0:
            raise UserError(f"minutes {self.minutes}: must be above 0")
        require_at_least(self, limit=0, seed=0)
        for name in ("val_images", "val_boxes"):
            if getattr(self, name) is not None and self.val_captions is None:
                raise UserError(f"--{name.replace('_', '-')}: is for --val-captions; give both")
