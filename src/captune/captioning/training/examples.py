"""What a training learns from: images in their views, what is known of them, and captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from captune.captioning.model import batch
from captune.captioning.training.augmentation import MirroredViews, drawn_views
from captune.captioning.training.data import Batches, Example, Grids, WordRows, words_of
from captune.captioning.training.objective import CrossEntropy, Objective
from captune.options import TuneOptions


@dataclass(frozen=True)
class TrainingData:
    """keys: of each image's grid. rows: token ids of each caption of each image.

    words: what is known of the images, where the bridge reads that. mirrored: second views.
    """

    keys: Sequence[str]
    rows: Sequence[Sequence[Sequence[int]]]
    grids: Grids
    objective: Objective = field(default_factory=CrossEntropy)
    words: WordRows | None = None
    mirrored: MirroredViews | None = None

    def batches(self, options: TuneOptions, process: int = 0, processes: int = 1) -> Batches:
        """As the options ask for them."""
        return Batches(
            [[len(row) for row in own] for own in self.rows],
            captions=max(1, options.batch // self.objective.captions_an_image),
            per_image=self.objective.per_image or options.per_image,
            mirrored=() if self.mirrored is None else self.mirrored.images,
            seed=options.seed,
            process=process,
            processes=processes,
        )

    def collate(self, examples: Sequence[Example], *, start: int, pad: int) -> dict[str, Tensor]:
        """Grids [images, tokens, channels]; ids, mask, targets [images * k, n]; images: places.

        And words [images, w] where there are any.
        """
        rows = [self.rows[e.image][place] for e in examples for place in e.captions]
        ids, mask, targets = batch(rows, start=start, pad=pad)
        keys = [self.keys[example.image] for example in examples]
        grids = drawn_views(self.grids, self.mirrored, keys, [e.mirrored for e in examples])
        images = torch.tensor([example.image for example in examples])
        found = {"grids": grids, "ids": ids, "mask": mask, "targets": targets, "images": images}
        return found if self.words is None else {**found, "words": words_of(self.words, keys)}
