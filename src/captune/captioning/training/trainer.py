"""Training on transformers' Trainer and accelerate: what of it is captune's own.

The batches (captions of an image together, close in length), the loss (the head runs on targets
only), what is saved (trained parameters only), when (complete or not at all), the scores after each
epoch, and when to stop early by them. Everything else is Trainer's: AdamW, the schedule of learning
rates (warm-up and cosine), accumulation, mixed precision, gradient clipping, several processes by
`accelerate launch`.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import DistributedType
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from captune.captioning.checkpoint import read_trained, write_trained
from captune.captioning.model import Trainable
from captune.captioning.settings import WEIGHTS
from captune.captioning.training import state
from captune.captioning.training.batches import BatchItem
from captune.captioning.training.rates import learning_rate_groups, stream_sizes
from captune.captioning.training.step import TrainingData, collate, in_pieces
from captune.captioning.training.validation import EACH
from captune.errors import Stopped, UserError
from captune.features.batching import is_out_of_memory
from captune.models.devices import attention_kernel, resolve_precision
from captune.models.quantised import importing_bitsandbytes
from captune.options.tuning import TuneOptions
from captune.progress import SILENT, Advance, Progress
from captune.storage import is_offline
from captune_metrics.resampling import Sums, paired_bootstrap

with importing_bitsandbytes():  # Trainer imports peft, which does, where it is there
    from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

_PROJECT = "captune"  # of trackers
_LOGS_AN_EPOCH = 50
_SAVES_AN_EPOCH = 10
_FEWEST_STEPS = 20  # between two resume points that nobody asked for


@dataclass(frozen=True)
class TrainingHistory:
    """What a training went through, kills included.

    losses: (epoch, training loss) as it was logged. epochs: one dictionary an epoch: epoch, step,
    loss, cider, ... of the validation sample. best_epoch: the one that was kept, from 1.
    seconds: of training and of the scores after each epoch. stopped_early: before all epochs.
    """

    losses: list[tuple[float, float | None]]
    epochs: list[dict[str, float | None]]
    best_epoch: int
    val_loss: float
    seconds: float
    stopped_early: bool


def train(
    model: Trainable,
    data: TrainingData,
    options: TuneOptions,
    folder: Path,
    *,
    score: Callable[[Callable[[str], None]], Mapping[str, Any]],
    progress: Progress = SILENT,
    what: str = "training",
    stop: Callable[[], bool] = lambda: False,
) -> TrainingHistory:
    """Train, or resume from the last complete checkpoint in `folder`; put the best weights back.

    score: the validation scores of the model as it is, given what to tell how far it is;
    options.select is among them, and its values of each image are EACH, a list, where
    options.stop_when_worse asks for them.
    stop: asked after each update; once it says so, a checkpoint is written and the training ends.
    Raises UserError where the loss is no number any more or memory does not suffice, and Stopped.
    """
    with _reporting(options, folder.parent):
        trainer = CaptionTrainer(model, data, options, folder, score, stop)
        found = state.complete_checkpoints(folder)
        last = max(found, default=None)
        if last is None or not trainer.is_over(state.read_state(found[last])):
            total = trainer.captions_in_all
            with progress.bar(what, total) as advance:
                trainer.advance = advance
                if last is not None:
                    advance(round(total * last / max(1, trainer.total_steps)), before=True)
                with attention_kernel(model.decoder.device), _within_memory(options):
                    trainer.train(resume_from_checkpoint=None if last is None else str(found[last]))
            trainer.check_ended()
    return _finished(model, trainer, folder)


@contextmanager
def _within_memory(options: TuneOptions) -> Iterator[None]:
    """Raises UserError where memory does not suffice within, and no smaller pieces help."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(
            f"not enough memory to train with batches of {options.batch_size}; take a smaller"
            " --batch-size and a larger --accumulate, a smaller model, or --device cpu"
        ) from error


@contextmanager
def _reporting(options: TuneOptions, folder: Path) -> Iterator[None]:
    """Within: trackers keep to the method's `folder`, to standard error, and off the network.

    The last where captune is offline. What the user's own variables say of them counts otherwise.
    """
    if not options.trackers:
        yield
        return
    before = dict(os.environ)
    os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(folder / "tensorboard"))
    os.environ.setdefault("WANDB_PROJECT", _PROJECT)
    os.environ.setdefault("WANDB_DIR", str(folder))
    if is_offline():
        os.environ |= {"WANDB_MODE": "offline", "WANDB_ERROR_REPORTING": "false"}
        for name in [name for name in os.environ if name.startswith("TRACKIO_S")]:
            del os.environ[name]  # a Space or a server; without one it writes files here
    try:
        with redirect_stdout(sys.stderr):  # which --json keeps for its one object
            yield
    finally:
        wandb: Any = sys.modules.get("wandb")
        if wandb is not None and wandb.run is not None:
            wandb.finish()  # Trainer would log the next method into the same run
        os.environ.clear()
        os.environ.update(before)


def _finished(model: Trainable, trainer: CaptionTrainer, folder: Path) -> TrainingHistory:
    """The history out of the last checkpoint, and the best epoch's weights into the model."""
    found = state.complete_checkpoints(folder)
    last_state = state.read_state(found[max(found)])
    log: list[dict[str, Any]] = last_state["log_history"]
    epochs = {entry["step"]: entry for entry in log if trainer.selected in entry}
    best = int(last_state["best_global_step"])
    read_trained(model, found[best] / WEIGHTS)
    scores: list[dict[str, float | None]] = [
        {name.removeprefix("eval_"): float(value) for name, value in entry.items() if name != EACH}
        for entry in epochs.values()
    ]
    return TrainingHistory(
        losses=[(float(e["epoch"]), float(e["loss"])) for e in log if "loss" in e],
        epochs=scores,
        best_epoch=round(epochs[best]["epoch"]),
        val_loss=float(epochs[best]["eval_loss"]),
        seconds=max((float(entry.get("seconds", 0)) for entry in log), default=0.0),
        stopped_early=len(scores) < trainer.options.epochs,
    )


class CaptionTrainer(Trainer, TrainerCallback):  # type: ignore[misc]
    """Trainer with captune's batches, loss, scores and checkpoints; its own callback.

    folder: of the checkpoints. The model is moved to where accelerate trains.
    """

    control: Any

    def __init__(
        self,
        model: Trainable,
        data: TrainingData,
        options: TuneOptions,
        folder: Path,
        score: Callable[[Callable[[str], None]], Mapping[str, Any]],
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.options = options
        self.stop = stop
        self.data = data
        self.folder = folder
        self.selected = f"eval_{options.select}"
        self.advance: Advance = lambda done, said="", before=False: None
        self._score = score
        # the decoder's modules, without the layers that peft put beside them
        named = model.language_model.named_modules()
        self._frozen = [module for name, module in named if "lora_" not in name]
        self._last_loss = ""
        self._seconds_before: float | None = None
        self._started = time.monotonic()
        arguments = _arguments(options, folder, model)
        processes = arguments.world_size
        self.batches = data.batches(options, arguments.process_index, processes)
        self.steps_an_epoch = math.ceil(len(self.batches) / options.accumulate)
        self.total_steps = self.steps_an_epoch * options.epochs
        arguments.logging_steps = max(1, self.steps_an_epoch // _LOGS_AN_EPOCH)
        self._save_steps = options.save_steps or max(
            _FEWEST_STEPS, math.ceil(self.steps_an_epoch / _SAVES_AN_EPOCH)
        )
        per_image = data.objective.per_image or options.per_image
        self.captions_in_all = options.epochs * sum(
            min(len(own), per_image or len(own)) for own in data.rows
        )
        super().__init__(model=model, args=arguments)
        self.remove_callback(PrinterCallback)
        self.add_callback(self)

    def get_train_dataloader(self) -> Any:
        """Not prepared by accelerate: the batches know their process, Trainer moves the tensors."""
        decoder = self.model.decoder
        return DataLoader(
            _Items(),
            batch_sampler=self.batches,
            collate_fn=lambda items: collate(
                self.data, items, start=decoder.start_id, pad=decoder.pad_id
            ),
            # grids are already where the image encoder is, and what lies on a GPU cannot be pinned
            pin_memory=False,
            # its seed would otherwise be drawn from the stream that dropout draws from
            generator=torch.Generator(),
        )

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """Trainer's, with `learning_rate_groups`; a model that has learnt before keeps one rate."""
        optimizer = super().create_optimizer(*args, **kwargs)
        bridge = self.model.bridge
        if bridge.output_projections() and bridge.gain and not self.options.start:
            first = [own[0] for own in self.data.rows if own]
            learning_rate_groups(optimizer, self.model, stream_sizes(self.model, first))
        return optimizer

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The objective's; the frozen decoder runs as it does when it writes, without dropout."""
        for module in self._frozen:
            module.training = False
        share = inputs.pop("share", 1.0)
        loss = self.data.objective.loss(self.model, model, inputs) * share
        return (loss, None) if return_outputs else loss

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Tensor:
        """Trainer's, in pieces where memory does not suffice.

        Not with several processes: each backward pass waits for those of all others.
        """
        step: Callable[..., Tensor] = super().training_step
        if self.accelerator.distributed_type == DistributedType.NO:
            loss = in_pieces(
                self.data.pieces,
                inputs,
                self.model.trained().values(),
                lambda piece, share: step(model, piece | {"share": share}, num_items_in_batch),
            )
        else:
            loss = step(model, inputs, num_items_in_batch)
        self.advance(len(inputs["ids"]) * self.args.world_size, self._last_loss)
        return loss

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """The scores of the validation sample, by captions that are written for it."""
        self.model.eval()
        with self.accelerator.autocast():
            found = dict(self._score(lambda said: self.advance(0, said, before=True)))
        each = found.pop(EACH, None)
        scores = {f"eval_{name}": float(value) for name, value in found.items()}
        self.log(scores)
        if self.options.stop_when_worse:
            self.state.log_history[-1][EACH] = each  # which no tracker is told
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, scores
        )
        self.advance(0, self._last_loss, before=True)
        return scores

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Trainer's, with the seconds that were spent so far, earlier sessions included."""
        if self._seconds_before is None:
            known = (entry.get("seconds", 0.0) for entry in self.state.log_history)
            self._seconds_before = max(known, default=0.0)
        logs["seconds"] = round(self._seconds_before + time.monotonic() - self._started, 3)
        super().log(logs, start_time)

    def is_over(self, state: Mapping[str, Any]) -> bool:
        """Whether a checkpoint's state is that of a training that came to its end."""
        if state["global_step"] >= self.total_steps:
            return True
        scored = {e["step"] for e in state["log_history"] if self.selected in e}
        return state["global_step"] in scored and self.should_stop_early(state["log_history"])

    def check_ended(self) -> None:
        """Raises Stopped where the training ended because it was asked to, and is not over."""
        done, total = self.state.global_step, self.total_steps
        if self.stop() and done < total and not self.should_stop_early(self.state.log_history):
            raise Stopped(
                f"stopped after {done:,} of {total:,} updates; {self.folder.parent} keeps the"
                " checkpoint, and the same command resumes from there"
            )

    def should_stop_early(self, log: Sequence[Mapping[str, Any]]) -> bool:
        """Whether the epochs since the best one are as many as granted, or worse by a test."""
        epochs = list({e["step"]: e for e in log if self.selected in e}.values())
        scores = [float(epoch[self.selected]) for epoch in epochs]
        if not scores:
            return False
        best = scores.index(min(scores) if self.options.select == "loss" else max(scores))
        later = epochs[best + 1 :]
        if self.options.stop_when_worse and later:
            return are_worse([epoch[EACH] for epoch in later], epochs[best][EACH])
        return 0 < self.options.patience <= len(later)

    # checkpoints: Trainer's own files, but staged, and of the model only what was trained

    def _get_output_dir(self, trial: Any = None) -> str:
        return str(state.staging_folder(self.folder))

    def _save_checkpoint(self, model: nn.Module, trial: Any = None) -> None:
        staging = state.staging_folder(self.folder)
        if self.args.should_save:
            shutil.rmtree(staging, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        with state.writing_checkpoint(self.folder):
            super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        self.state.best_model_checkpoint = None  # it names the staging folder
        if self.args.should_save:
            name = f"checkpoint-{self.state.global_step}"
            with state.writing_checkpoint(self.folder):
                state.publish_checkpoint(staging / name, self.folder / name)
            best = self.state.best_global_step
            state.prune(self.folder, {self.state.global_step, *([best] if best else [])})
        self.accelerator.wait_for_everyone()

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if self.args.should_save:
            assert output_dir is not None
            write_trained(self.model, Path(output_dir) / WEIGHTS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        read_trained(self.model, Path(resume_from_checkpoint) / WEIGHTS)

    # what Trainer calls between its steps

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **unused: Any) -> None:
        """Draw the epoch's batches."""
        self.batches.set_epoch(state.global_step // self.steps_an_epoch)

    def on_step_end(self, args: Any, state: Any, control: Any, **unused: Any) -> None:
        """Save where a resume point is due; the end of an epoch has its own, after the scores."""
        step = state.global_step
        if step % self._save_steps == 0 and step % self.steps_an_epoch != 0:
            control.should_log = control.should_save = True
        if self.stop():
            control.should_training_stop = True

    def on_epoch_end(self, args: Any, state: Any, control: Any, **unused: Any) -> None:
        """Score; also comes after a stop within an epoch, which is saved but not scored."""
        is_whole = state.global_step % self.steps_an_epoch == 0
        control.should_log, control.should_evaluate = True, is_whole

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **unused: Any) -> None:
        """Take note of a logged loss. Raises UserError where it is no number."""
        if not logs or "loss" not in logs:
            return
        loss = float(logs["loss"])
        if not math.isfinite(loss):
            raise UserError(
                f"the loss is {loss} after {state.global_step:,} of {self.total_steps:,}"
                f" updates; train with a lower --lr (now {args.learning_rate:g}), or"
                " --dtype float32"
            )
        self._last_loss = f"loss {loss:.3f}"

    def on_evaluate(self, args: Any, state: Any, control: Any, **unused: Any) -> None:
        """Stop where `should_stop_early`."""
        if self.should_stop_early(state.log_history):
            control.should_training_stop = True


def are_worse(later: Sequence[Sequence[float]], best: Sequence[float]) -> bool:
    """Whether 95 % of paired resamples of the images say that later epochs are below the best one.

    later: scores of each image after each of them; of an image their mean counts. One epoch may be
    worse by chance, and what several have in common is less so.
    """
    pair = Sums.mean(best), Sums.mean(np.mean(later, axis=0))
    (gain,) = paired_bootstrap([pair], resamples=2000, seed=0)
    return gain.interval[1] < 0


class _Items(Dataset):  # type: ignore[type-arg]
    """What the sampler yields is already the item."""

    def __getitem__(self, item: BatchItem) -> BatchItem:
        return item


def _arguments(options: TuneOptions, folder: Path, model: Trainable) -> TrainingArguments:
    device = model.decoder.device
    precision = resolve_precision(options.dtype, device)
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=options.epochs,
        per_device_train_batch_size=options.batch_size,
        gradient_accumulation_steps=options.accumulate,
        learning_rate=options.lr or model.tuning.rate,
        lr_scheduler_type="cosine",
        warmup_steps=options.warmup,  # a fraction of all
        weight_decay=options.weight_decay,
        max_grad_norm=1.0,
        optim="adamw_torch_fused",
        seed=options.seed,
        bf16=precision == "bfloat16",
        fp16=precision == "float16",
        use_cpu=device.type == "cpu",
        eval_strategy="no",  # by on_epoch_end: Trainer would want a data set of its own for it
        save_strategy="epoch",
        logging_strategy="steps",
        logging_nan_inf_filter=False,  # a loss that is no number is said, not averaged away
        metric_for_best_model=f"eval_{options.select}",
        greater_is_better=options.select != "loss",
        remove_unused_columns=False,
        ddp_find_unused_parameters=False,
        report_to=options.trackers or "none",
        run_name="-".join((options.out.name if options.out else "tune", folder.parent.name)),
        project=_PROJECT,
        disable_tqdm=True,
        log_level="error",
        log_level_replica="error",
    )
    # several GPUs in one process would be DataParallel, which copies hooks without their context
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments
