"""The budget of trained parameters, and what a training will take, said before it starts.

Time is estimated by measuring a few batches, memory and disk by counting. Nothing of it changes
what is trained: gradients are dropped, and the random streams are put back.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from captune.captioning.bridge import BRIDGES, GridShape
from captune.captioning.dataset import CaptionDataset
from captune.captioning.decoder_parts import DecoderParts
from captune.captioning.model import Trainable
from captune.captioning.settings import parse_count
from captune.captioning.training.batches import Batches, BatchItem
from captune.captioning.training.step import TrainingData, collate, in_pieces
from captune.captioning.training.validation import CAPTIONED_AT_ONCE, ValidationSet
from captune.captioning.tuned_vlm import NoBridge, parts_of, require_projector
from captune.captioning.tuning import TUNING_METHODS
from captune.errors import UserError
from captune.models.devices import autocast
from captune.models.vlm import VLM
from captune.options.tuning import TuneOptions
from captune.text import counted, duration

# of `lite` on Flickr8k: 5 updates leave captions of dots, 126 give CIDEr-D 0.33 (docs/tune.md);
# between the two nothing is claimed before half of what is known to be enough
ENOUGH_UPDATES = 100
_TOO_FEW = 50
_MEASURED = 2  # batches
_WARMING = 1  # batches before them, which pay for what is set up once
_WARMING_GPU = 4  # it also picks its kernels
_WRITTEN = 4  # tokens of a batch of captions, to see how long that takes


@dataclass(frozen=True)
class TrainingEstimate:
    """seconds: of training; scoring_seconds: of the captions after each epoch and in the end.

    memory_bytes: the most this process took so far, the measured batches included.
    disk_bytes: of the two checkpoints that are kept meanwhile, and of the tuned model.
    """

    seconds: float
    scoring_seconds: float
    memory_bytes: int
    disk_bytes: int

    def sentence(self) -> str:
        """For a person."""
        return (
            f"about {duration(self.seconds)} of training and"
            f" {duration(self.scoring_seconds)} of scoring,"
            f" {self.memory_bytes / 2**30:.1f} GiB of memory,"
            f" {self.disk_bytes / 1e6:,.0f} MB of disk"
        )


def too_few_updates(
    train: CaptionDataset, extra: CaptionDataset | None, options: TuneOptions, processes: int = 1
) -> str | None:
    """What to change where a tune ends before its captions can mean anything; None where not.

    extra: captions without images. A captioner that has learnt before (--start) needs no number of
    updates.
    """
    if options.start is not None:
        return None
    learnt = [*train.captions, *([] if extra is None else extra.captions)]
    batches = Batches(
        [[1] * len(own) for own in learnt],
        captions=options.batch_size,
        per_image=options.per_image,
        processes=processes,
    )
    an_epoch = math.ceil(len(batches) / options.accumulate)
    updates = an_epoch * options.epochs
    if updates >= _TOO_FEW:
        return None
    images = len(train) + math.ceil(len(learnt) * (ENOUGH_UPDATES - updates) / updates)
    return (
        f"{counted(updates, 'update')} in all, too few to learn to describe images: it takes about"
        f" {ENOUGH_UPDATES}. Use --epochs {math.ceil(ENOUGH_UPDATES / an_epoch)} with these"
        f" {counted(len(train), 'image')}, or about {images:,} images with --epochs"
        f" {options.epochs} (--batch-size {options.batch_size})"
    )


def estimate_seconds(
    model: Trainable,
    data: TrainingData,
    val: ValidationSet,
    options: TuneOptions,
    *,
    at_end: int = 0,
    processes: int = 1,
    share_left: float = 1.0,
) -> TrainingEstimate:
    """Measured on batches of middling length, scaled by the padded tokens of all epochs.

    val: what is captioned after each epoch; at_end: images that are after the last one. processes:
    how many share the work. share_left: of the training, 1 where nothing is done yet.
    """
    device = model.decoder.device
    batches = data.batches(options)
    planned = batches.of_epoch(0)
    planned.sort(key=lambda items: sum(len(item.captions) for item in items))
    warming = _WARMING if device.type == "cpu" else _WARMING_GPU
    middle = planned[len(planned) // 2 :][: warming + _MEASURED] or planned[-1:]
    with torch.random.fork_rng():
        spent = [_step(model, data, items, options) for items in middle]
        writing = _write(model, val, options) if len(val.data) else 0.0
    seconds, tokens = map(sum, zip(*spent[-_MEASURED:], strict=True))
    per_token = seconds / max(1, tokens)
    model.zero_grad(set_to_none=True)
    tokens_each = batches.padded_tokens(0) / processes
    whole = per_token * tokens_each * options.epochs
    images = len(val.data) * options.epochs * share_left + at_end
    trained = 4 * sum(p.numel() for p in model.trained().values())
    return TrainingEstimate(
        seconds=whole * share_left,
        scoring_seconds=writing * images / processes,
        memory_bytes=_peak(device),
        disk_bytes=2 * 3 * trained + trained,
    )


def _step(
    model: Trainable, data: TrainingData, items: Sequence[BatchItem], options: TuneOptions
) -> tuple[float, int]:
    """(seconds, padded tokens) of a forward and backward pass."""
    decoder = model.decoder
    inputs = collate(data, items, start=decoder.start_id, pad=decoder.pad_id)
    inputs = {name: tensor.to(decoder.device) for name, tensor in inputs.items()}
    started = time.perf_counter()

    def learn(piece: dict[str, Any], share: float) -> Tensor:
        with autocast(options.dtype, decoder.device):
            loss = data.objective.loss(model, model, piece) * share
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    loss = in_pieces(data.pieces, inputs, model.trained().values(), learn)
    loss.item()  # on a GPU the work is done only now
    return time.perf_counter() - started, inputs["ids"].numel()


def _write(model: Trainable, val: ValidationSet, options: TuneOptions) -> float:
    """Seconds for an image, of a batch and captions of middling length.

    A captioner before its training does not end a caption, so a few tokens are measured: once for
    what is set up, and once for the time.
    """
    device = model.decoder.device
    some = val.first(range(min(CAPTIONED_AT_ONCE, len(val.data))))
    lengths = sorted(len(row) for rows in val.rows for row in rows) or [options.max_tokens]
    seen = some.seen(some.data.keys, device)
    seconds = 0.0

    def write(images: Sequence[int], tokens: int) -> None:
        part: Any = {name: one[images[0] : images[-1] + 1] for name, one in seen.items()}
        model.generate(**part, max_tokens=tokens, scored=False)

    with autocast(options.dtype, device):
        for tokens in (1, _WRITTEN):
            started = time.perf_counter()
            val.batches.each(range(len(some.data)), partial(write, tokens=tokens))
            seconds = time.perf_counter() - started
    return seconds / _WRITTEN * lengths[len(lengths) // 2] / len(some.data)


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(most) if sys.platform == "darwin" else int(most) * 1024


def budget(model: Trainable) -> dict[str, int]:
    """Part of a model -> how many parameters of it are trained, in the model's own order."""
    counted: dict[str, int] = {}
    for name, parameter in model.trained().items():
        side, _, inside = name.partition(".")
        child = inside.partition(".")[0]
        # peft names its parameters by their place in the decoder: no child of ours
        own = hasattr(getattr(model, side), child)
        part = f"{side}.{child}" if own else side
        counted[part] = counted.get(part, 0) + parameter.numel()
    return counted


def planned(
    bridge: str,
    bridge_config: Any,
    method: str,
    method_config: Any,
    grid: GridShape,
    parts: DecoderParts,
) -> dict[str, int]:
    """As `budget`, what would be trained, by formulas; no weight of bridge and method is made.

    parts: of the decoder, which may lie on torch's meta device too.
    """
    kind: Any = BRIDGES.get(bridge)
    with torch.device("meta"):  # shapes only: methods ask the bridge what they reach in it
        shapes = kind(bridge_config, grid, parts)
    tuned = TUNING_METHODS.get(method).count(method_config, parts, shapes)
    return {"bridge": kind.count(bridge_config, grid, parts), "tuning": tuned}


def planned_in(vlm: VLM, method: str, method_config: Any, train: str | None) -> dict[str, int]:
    """As `planned`, of what is trained in a captioner of transformers; train: as of `tuned_vlm`."""
    count = TUNING_METHODS.get(method).count(method_config, parts_of(vlm), NoBridge())
    if train is None:
        return {"tuning": count}
    own = sum(parameter.numel() for parameter in require_projector(vlm).parameters())
    return {"projector": own, "tuning": count}


def check_budget(planned: Mapping[str, int], limit: str) -> int:
    """The sum of the parts. Raises UserError, naming them, above `limit`, as 35M."""
    total = sum(planned.values())
    if total > parse_count(limit):
        parts = ", ".join(f"{part} {count:,}" for part, count in planned.items())
        raise UserError(
            f"{total:,} parameters would be trained ({parts}), {limit} are allowed;"
            " choose a smaller width, rank or length, or raise the limit"
        )
    return total
