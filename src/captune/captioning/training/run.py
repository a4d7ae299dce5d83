"""One method of a tune: trained or resumed, judged, and written as a run of its own."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import PartialState
from msgspec import structs

from captune.captioning.agreement import fit_agreement
from captune.captioning.any_captioner import AnyCaptioner
from captune.captioning.checkpoint import (
    Part,
    Recipe,
    TagSettings,
    TunedRecipe,
    begin_with,
    digest_of_checkpoint,
    from_pretrained,
    recipe_of,
    save_pretrained,
    write_beside,
)
from captune.captioning.datastore import DATASTORE
from captune.captioning.model import CaptionModel, Trainable, build_model
from captune.captioning.rerank import MIN_IMAGES, fit_weights
from captune.captioning.settings import AGREEMENT, RERANK
from captune.captioning.training import state
from captune.captioning.training.budget import budget, estimate_seconds
from captune.captioning.training.frozen import SeenImages, start_folder
from captune.captioning.training.setup import TrainingSetup
from captune.captioning.training.state import deciding
from captune.captioning.training.trainer import TrainingHistory, train
from captune.captioning.training.validation import (
    LEAK,
    SHUFFLED,
    diagnose,
    score_captions,
    validation_scores,
    write_captions,
)
from captune.captioning.tuned_vlm import TunedVLM, tuned_vlm
from captune.models.devices import autocast
from captune.models.weights import digest_of
from captune.runs import RunWriter, read_run
from captune.runs.metrics import Finding, History, Reranking, Tuned, TunedFigure
from captune_metrics.scores import intervals_of


def train_method(
    setup: TrainingSetup,
    method: str,
    say: Callable[[str], None],
    stop: Callable[[], bool] = lambda: False,
) -> Tuned:
    """Train one method, or resume it, or read what was finished before.

    say: is told what holds for this time alone; the run keeps what holds for every time, which
    `setup.progress` is told. stop: says whether to end before the end, with a checkpoint
    (errors.Stopped).
    """
    options, progress = setup.options, setup.progress
    assert options.out is not None
    folder = options.out / method
    if state.is_finished(folder):
        say(f"{method}: finished before; {folder} is reused")
        finished = state.read_finished(folder)
        _warn(setup, method, finished.findings)
        return _reranked(setup, folder, finished)
    model = _built(setup, method)
    left = 1 - state.fraction_done(folder / "checkpoints", options.epochs)
    expected = estimate_seconds(
        model,
        setup.data,
        setup.sample,
        options,
        at_end=len(setup.val.data) + min(SHUFFLED, len(setup.val.data)),
        processes=PartialState().num_processes,
        share_left=left,
    )
    still = "still " if left < 1 else ""
    say(f"{method}: {still}{expected.sentence()}")
    history = train(
        model,
        setup.data,
        options,
        folder / "checkpoints",
        score=partial(validation_scores, model, setup.sample, select=options.select),
        progress=progress,
        what=method,
        stop=stop,
    )
    result, records = _judged(setup, method, model, history)
    if PartialState().is_main_process:
        save_pretrained(model, folder, _recipe(setup, model, method))
        if result.agreement is not None and setup.frozen.captioner is None:
            write_beside(folder / AGREEMENT, result.agreement)
        _write(setup, folder, result, records)
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    PartialState().wait_for_everyone()
    model.detach()
    return result


def _judged(
    setup: TrainingSetup, method: str, model: Trainable, history: TrainingHistory
) -> tuple[Tuned, list[dict[str, Any]]]:
    """What a training came to, and a record of each validation image."""
    options, progress = setup.options, setup.progress
    with autocast(options.dtype, model.decoder.device):
        with progress.bar(f"{method}: captions", len(setup.val.data)) as advance:
            written = write_captions(model, setup.val, scored=True, advance=advance)
        swapped = min(SHUFFLED, len(setup.val.data))
        with progress.bar(f"{method}: captions of swapped images", swapped) as advance:
            findings = diagnose(
                model, setup.val, written, leaked=setup.leaked, seed=options.seed, advance=advance
            )
        reranking = _reranking(setup, model, method)
    scores = score_captions(written.captions, setup.val)
    intervals = intervals_of(scores, seed=options.seed)
    _warn(setup, method, findings)
    result = Tuned(
        method,
        trained=budget(model),
        scores={
            id: TunedFigure(score.name, score.corpus, intervals[id], score.recipe)
            for id, score in scores.items()
        },
        best_epoch=history.best_epoch,
        val_loss=history.val_loss,
        seconds=history.seconds,
        findings=findings,
        history=History(history.losses, history.epochs, history.stopped_early),
        images=len(setup.val.data),
        agreement=fit_agreement(
            written.features, written.captions, setup.val.data.references, beam=1
        ),
        reranking=reranking,
    )
    data = setup.val.data
    references = data.references
    records = [
        {
            "path": image.name,
            "image_id": id,
            "caption": written.captions[id],
            "references": references[id],
            "ended": written.ended[id],
            "scores": {name: score.per_image[id] for name, score in scores.items()},
        }
        for id, image in zip(data.ids, data.images, strict=True)
    ]
    return result, records


def _warn(setup: TrainingSetup, method: str, findings: Sequence[Finding]) -> None:
    for finding in findings:
        if finding.wrong and finding.about != LEAK:  # which was said before the first step
            setup.progress.message(f"{method}: {finding.sentence}")


def _recipe(setup: TrainingSetup, model: Trainable, method: str) -> Recipe | TunedRecipe:
    options, identity = setup.options, setup.frozen.identity
    captioner = setup.frozen.captioner
    if captioner is not None:
        made = Part(method, dataclasses.asdict(model.tuning.config))
        train: Any = options.train
        return TunedRecipe(identity, made, options.max_tokens, train, captioner.prompt)
    assert isinstance(model, CaptionModel)
    return recipe_of(
        model,
        identity,
        bridge=options.bridge,
        method=method,
        max_tokens=options.max_tokens,
        tags=setup.tags,
        prompt_captions=options.similar_captions,
    )


def _write(
    setup: TrainingSetup, folder: Path, result: Tuned, records: Sequence[Mapping[str, Any]]
) -> None:
    """What chooses among candidates, beside the captioner, and the run, which comes last."""
    for name in (RERANK, DATASTORE):
        (folder / name).unlink(missing_ok=True)
    reads = setup.options.similar_captions > 0 or result.reranking is not None
    if setup.datastore is not None and reads:
        setup.datastore.save(folder / DATASTORE)
    if result.reranking is not None:
        write_beside(folder / RERANK, result.reranking)
    with run_writer(setup, folder) as run:
        for record in records:
            run.record(record)
        run.metrics = {"images": result.images, "tuned": result}
        run.extra = {"method": result.method}


def _reranked(setup: TrainingSetup, folder: Path, finished: Tuned) -> Tuned:
    """A finished method with --rerank as it is now: only the weights of the choice are fitted."""
    now = None if setup.reranker is None else setup.reranker.settings
    before = finished.reranking
    if now is not None and before is not None:
        before = structs.replace(before, weights=now.weights, figures=None)
    if before == now:
        return finished
    model, _ = from_pretrained(folder, decoder=setup.frozen.decoder)
    with autocast(setup.options.dtype, model.decoder.device):
        reranking = _reranking(setup, model, finished.method)
    model.detach()
    found = structs.replace(finished, reranking=reranking)
    if found != finished and PartialState().is_main_process:
        _write(setup, folder, found, list(read_run(folder).records()))
    PartialState().wait_for_everyone()
    return found


def _reranking(setup: TrainingSetup, model: Trainable, method: str) -> Reranking | None:
    """--rerank: its weights, fitted to the candidates of the validation images."""
    reranker, val = setup.reranker, setup.val
    if reranker is None:
        return None
    with setup.progress.bar(f"{method}: candidates", len(val.data)) as advance:
        written = write_captions(model, val, reranker=reranker, advance=advance)
    fitted = fit_weights(reranker.settings, written.candidates, val.data.references)
    if fitted is None:
        setup.progress.message(
            f"{method}: --rerank: {MIN_IMAGES} validation images are needed to fit its weights;"
            " nothing is kept with the captioner"
        )
    return fitted


def requested(setup: TrainingSetup, method: str) -> dict[str, Any]:
    """All that the weights of a method depend on: tuning.json."""
    frozen, options = setup.frozen, setup.options
    start = None if frozen.captioner is not None else start_folder(options, method)
    return {
        **deciding(options),
        "set": {part: setup.settings.get(part, {}) for part in ("bridge", method)},
        "training data": setup.train.digest,
        "validation data": setup.val.data.digest,
        "image encoder": dataclasses.asdict(frozen.identity),
        "decoder": frozen.decoder.decoder_id,
        "augment": None if options.augment == "none" else options.augment,
        **_tags_requested(setup.tags),
        "start": None if start is None else digest_of_checkpoint(start),
        "prompt": None if options.prompt == "none" else options.prompt,
        "prompt captions": options.similar_captions or None,
        "extra_text": setup.extra,
        "extra_model": None if setup.extra is None else options.extra_model,
        "extra_noise": None if setup.extra is None else options.extra_noise,
        "kl": options.kl or None,
        "reward_model": options.reward_model,
        "reward_share": None if options.reward_model is None else options.reward_share,
        "stop when worse": options.stop_when_worse or None,
        "score model": options.score_model if options.select == "clipscore" else None,
    }


def _tags_requested(tags: TagSettings | None) -> dict[str, Any]:
    if tags is None:
        return {}
    return {
        "tags": digest_of(tags.labels, tags.prompts),
        "tags_top": tags.top,
        "tags_least": tags.least,
        "tags_model": dataclasses.asdict(tags.model),
    }


def run_writer(setup: TrainingSetup, folder: Path) -> RunWriter:
    """The writer of a run in `folder`, of one method or of all."""
    return RunWriter(
        folder,
        kind="tune",
        options=setup.options,
        root=setup.val.data.root,
        models=setup.frozen.models,
        command=setup.command,
        keeps=True,
    )


def built_in(setup: TrainingSetup, captioner: AnyCaptioner, method: str) -> TunedVLM:
    """A method that is not trained yet, in a captioner of transformers."""
    seen = setup.frozen.grids
    assert isinstance(seen, SeenImages)
    return tuned_vlm(
        captioner.vlm,
        method,
        setup.settings.get(method, {}),
        setup.frozen.decoder,
        train=setup.options.train,
        seed=setup.options.seed,
        seen=seen.of,
    )


def _built(setup: TrainingSetup, method: str) -> Trainable:
    options = setup.options
    if setup.frozen.captioner is not None:
        return built_in(setup, setup.frozen.captioner, method)
    model = build_model(
        setup.frozen.decoder,
        setup.frozen.shape,
        bridge=options.bridge,
        method=method,
        bridge_settings=setup.settings.get("bridge"),
        method_settings=setup.settings.get(method),
        reads_tags=setup.tags is not None or options.similar_captions > 0,
        seed=options.seed,
    )
    start = start_folder(options, method)
    if start is not None:
        begin_with(model, start)
    setup.data.objective.begin(model)
    return model
