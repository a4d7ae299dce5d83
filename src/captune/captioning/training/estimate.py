"""What a training will take, said before it starts: time by measuring a few batches, memory, disk.

Nothing of it changes what is trained: gradients are dropped, and the random streams are put back.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from captune.captioning.model import Captioner
from captune.captioning.precision import autocast
from captune.captioning.training.data import Example
from captune.captioning.training.evaluation import IMAGES, ValidationSet
from captune.captioning.training.examples import TrainingData
from captune.options import TuneOptions
from captune.text import duration

_MEASURED = 2  # batches
_WARMING = 1  # batches before them, which pay for what is set up once
_WARMING_GPU = 4  # it also picks its kernels
_WRITTEN = 8  # images that are captioned to see how long that takes; a GPU takes a whole batch


@dataclass(frozen=True)
class Estimate:
    """seconds: of training; scoring_seconds: of the captions after each epoch.

    memory_bytes: the most this process took so far, the measured batches included.
    disk_bytes: of the two checkpoints that are kept meanwhile, and of the tuned captioner.
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


def estimate(
    captioner: Captioner,
    data: TrainingData,
    val: ValidationSet,
    options: TuneOptions,
    *,
    processes: int = 1,
    share_left: float = 1.0,
) -> Estimate:
    """Measured on batches of middling length, scaled by the padded tokens of all epochs.

    val: what is captioned after each epoch. processes: how many share the work. share_left: of the
    training, 1 where nothing is done yet.
    """
    device = captioner.decoder.device
    batches = data.batches(options)
    planned = batches.of_epoch(0)
    planned.sort(key=lambda examples: sum(len(e.captions) for e in examples))
    warming = _WARMING if device.type == "cpu" else _WARMING_GPU
    middle = planned[len(planned) // 2 :][: warming + _MEASURED] or planned[-1:]
    with torch.random.fork_rng():
        spent = [_step(captioner, data, examples, options) for examples in middle]
        writing = _write(captioner, val, options) if len(val.data) else 0.0
    seconds, tokens = map(sum, zip(*spent[-_MEASURED:], strict=True))
    per_token = seconds / max(1, tokens)
    captioner.zero_grad(set_to_none=True)
    tokens_each = batches.padded_tokens(0) / processes
    whole = per_token * tokens_each * options.epochs
    trained = 4 * sum(p.numel() for p in captioner.trained().values())
    return Estimate(
        seconds=whole * share_left,
        scoring_seconds=writing * len(val.data) / processes * options.epochs * share_left,
        memory_bytes=_peak(device),
        disk_bytes=2 * 3 * trained + trained,
    )


def _step(
    captioner: Captioner, data: TrainingData, examples: Sequence[Example], options: TuneOptions
) -> tuple[float, int]:
    """(seconds, padded tokens) of a forward and backward pass."""
    decoder = captioner.decoder
    inputs = data.collate(examples, start=decoder.start_id, pad=decoder.pad_id)
    inputs = {name: tensor.to(decoder.device) for name, tensor in inputs.items()}
    started = time.perf_counter()
    with autocast(options.precision, decoder.device):
        loss: Any = data.objective.loss(captioner, captioner, inputs)
    loss.backward()
    loss.item()  # on a GPU the work is done only now
    return time.perf_counter() - started, inputs["ids"].numel()


def _write(captioner: Captioner, val: ValidationSet, options: TuneOptions) -> float:
    """Seconds a caption of the length that captions have."""
    device = captioner.decoder.device
    written = _WRITTEN if device.type == "cpu" else IMAGES
    some = val.first(range(min(written, len(val.data))))
    longest = max((len(row) for rows in some.rows for row in rows), default=options.max_tokens)
    seen = some.seen(some.data.keys, device)
    started = time.perf_counter()
    with autocast(options.precision, device):
        captioner.write(**seen, beams=1, max_tokens=min(longest, options.max_tokens), scored=False)
    return (time.perf_counter() - started) / len(some.data)


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(most) if sys.platform == "darwin" else int(most) * 1024
