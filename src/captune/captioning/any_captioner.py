"""What a job asks of a captioner, whether captune tuned it or transformers brings it.

`prepare_captioner` says what is known before any weights are read; `Prepared.load` gives what
writes: `Captioner` for one of captune's, `AnyCaptioner` for BLIP, GIT, Qwen-VL and their like
(models.vlm).
"""

from __future__ import annotations

import dataclasses
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from captune.captioning.agreement import read_agreement, require_agreement
from captune.captioning.bridge import GridShape
from captune.captioning.caption import Caption, caption_words
from captune.captioning.captioner import (
    Captioner,
    captioner_folder,
    describe_captioner,
    load_captioner,
    writing_precision,
)
from captune.captioning.checkpoint import ImageIdentity, Recipe, TunedRecipe, read_any_recipe
from captune.captioning.datastore import DATASTORE
from captune.captioning.decoder_parts import check_length
from captune.captioning.generate import (
    GenerationSettings,
    batch_ends,
    candidates_of,
    require_probabilities,
)
from captune.captioning.rerank import Reranker, load_reranker, reranking_of
from captune.captioning.tuned_vlm import described_tuned, load_tuned
from captune.errors import UserError
from captune.features.batching import AdaptiveBatches
from captune.features.cache import BackgroundWriter, FeatureCache
from captune.features.index import FeatureSpace
from captune.features.pipeline import Encoding, space_of
from captune.files import sha256_of
from captune.images import ImageFile, Skipped, UnreadableImage
from captune.images.decode import decoding_threads, hash_image, opened_image
from captune.models.decoders import Speech
from captune.models.devices import resolve_device
from captune.models.encoders import describe_model
from captune.models.load import MIRRORED, kept
from captune.models.tokenizers import before_stop
from captune.models.vlm import VLM, Written
from captune.models.vlm_files import described_vlm, load_vlm
from captune.models.vlm_vision import Inputs, check_ids
from captune.models.weights import digest_of
from captune.options.base import refuse_given
from captune.options.captioning import CaptionerOptions
from captune.runs.metrics import PeopleAgreement, Reranking
from captune.runs.records import Candidate, CaptionWord, json_value
from captune.threads import processors

T = TypeVar("T")


@dataclass(frozen=True)
class Prepared:
    """A captioner before its weights are read.

    place: its folder. about: as a run names it. asked: all that its captions depend on. agreement,
    choosing: as of a `Captioner`, where it has them. decided: by which options, beside these, what
    is loaded is decided. how: fields of an `AnyCaptioner` that are no matter of loading.
    """

    place: Path
    about: dict[str, Any]
    asked: dict[str, Any]
    agreement: PeopleAgreement | None
    choosing: Reranking | None
    load: Callable[[], Captioner | AnyCaptioner]
    decided: tuple[Any, ...]
    how: Mapping[str, Any] = field(default_factory=dict)

    def kept(self) -> Captioner | AnyCaptioner:
        """As `load`; within `keep_models` the one that is there already."""
        files = self.about, self.asked.get("--datastore"), self.agreement, self.choosing
        return replace(kept(str((self.place, *files, self.decided)), self.load), **self.how)


def prepare_captioner(options: CaptionerOptions) -> Prepared:
    """The captioner that the options name. Raises UserError for options that are not for it."""
    place = captioner_folder(options.model)
    recipe = read_any_recipe(place)
    store = options.datastore or place / DATASTORE
    is_read = isinstance(recipe, Recipe) and recipe.prompt_captions > 0
    choosing = reranking_of(place, options, reads_captions=is_read)
    is_read = is_read or (choosing is not None and choosing.evidence != "match")
    written_with = {
        "--beam": options.beam,
        "--max-tokens": options.max_tokens,
        "--batch-size": options.batch_size,
        "--dtype": writing_precision(options.device, options.dtype),
        "--device": resolve_device(options.device).type,
        **({} if choosing is None else {"--rerank": digest_of(json_value(choosing))}),
        **({"--datastore": sha256_of(store)} if is_read and store.is_file() else {}),
        **{
            f"--{name.replace('_', '-')}": given
            for name in ("keep_candidates", "cut_preamble", "stop", "quantise")
            if (given := getattr(options, name, None))
        },
    }
    if not isinstance(recipe, Recipe):
        return _prepare_any(options, place, recipe, choosing, written_with)
    why = "is for a captioner of transformers, such as BLIP; leave it out"
    refuse_given(options, ("prompt", "temperature", "stop", "quantise"), why)
    flagged = getattr(options, "flag_below", None)
    agreement = require_agreement(place) if flagged else read_agreement(place)
    about = describe_captioner(options, place, recipe)
    asked = {
        "model": about["weights_id"],
        "image encoder": recipe.image_encoder.weights_id,
        **({MIRRORED: True} if about["image_encoder"].endswith(MIRRORED) else {}),
        "decoder": recipe.decoder.decoder_id,
        **written_with,
        **({"tags": digest_of(dataclasses.asdict(recipe.tags))} if recipe.tags else {}),
        **({} if agreement is None else {"agreement.json": digest_of(json_value(agreement))}),
    }

    def load() -> Captioner:
        captioner = load_captioner(options, place, options.decoder)
        check_length(captioner.speech, options.max_tokens)
        return captioner

    return Prepared(place, about, asked, agreement, choosing, load, options.decided)


def _prepare_any(
    options: CaptionerOptions,
    place: Path,
    tuned: TunedRecipe | None,
    choosing: Reranking | None,
    written_with: dict[str, Any],
) -> Prepared:
    names = ("encoder", "tags_model", "datastore", "flag_below")
    if tuned is None:
        why = "is for a captioner of captune tune; leave it out"
        refuse_given(options, (*names, "decoder"), why)
    refuse_given(options, names, "is for a captioner with a bridge of captune's; leave it out")
    if choosing is not None and choosing.evidence != "match":
        raise UserError(
            f"--rerank {choosing.evidence} needs the captions that a captioner was tuned on; this"
            " one takes --rerank match"
        )
    base, spec = place, options.model if options.model.startswith("hf:") else str(place)
    prompt, vision_id = options.prompt, ""
    if tuned is None:
        about = described_vlm(place, spec)
    else:
        base, about = described_tuned(tuned, place, options.decoder)
        about["spec"] = spec  # its place in the cache tells nobody anything
        if tuned.train is None:  # it sees as the one that it was tuned from
            vision_id = tuned.base.weights_id
        prompt = prompt or tuned.prompt
    if options.quantise is not None:  # which sees something else
        vision_id = digest_of(vision_id or about["weights_id"], options.quantise)
    # explain and faithful search
    temperature, seed = getattr(options, "temperature", 0.0), getattr(options, "seed", None) or 0
    asked = {
        "model": about["weights_id"],
        "processor": about["processor_id"],
        "--prompt": prompt,
        **written_with,
        **({"--temperature": temperature, "--seed": seed} if temperature else {}),
    }

    stop = getattr(options, "stop", ())
    how: dict[str, Any] = {"prompt": prompt, "temperature": temperature, "seed": seed, "stop": stop}

    def load() -> AnyCaptioner:
        precision = writing_precision(options.device, options.dtype)
        vlm = load_vlm(
            base, spec, device=options.device, dtype=precision, quantise=options.quantise
        )
        reranker = None
        if choosing is not None:
            reranker = load_reranker(
                choosing, place, ImageIdentity(spec, "", ""), GridShape(1, 1, 1, 1), options=options
            )
        captioner = AnyCaptioner(vlm, about, reranker, vision_id=vision_id, **how)
        if tuned is not None:
            load_tuned(vlm, tuned, place, captioner.speech)
        return captioner

    return Prepared(place, about, asked, None, choosing, load, options.decided, how)


class Ready(NamedTuple):
    """An image as the model takes it. content: sha256 of its file."""

    image: ImageFile
    content: str
    inputs: Inputs


class Chosen(NamedTuple):
    """ids: with the end where it came. log_probabilities: of each. candidates: as of a Caption."""

    ids: list[int]
    log_probabilities: list[float]
    candidates: list[Candidate] | None = None


@dataclass(frozen=True)
class AnyCaptioner:
    """A model of transformers as a captioner. prompt: None for the usual one, or none.

    temperature: words are drawn where it is above 0, by `seed` and the number of the image.
    vision_id: of the weights that see, where others say what. stop: texts that a caption ends
    before; their log-probability counts.
    """

    vlm: VLM
    about: dict[str, Any]
    reranker: Reranker | None = None
    prompt: str | None = None
    temperature: float = 0.0
    seed: int = 0
    vision_id: str = ""
    stop: Sequence[str] = ()

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self.vlm.device

    @property
    def encoder(self) -> None:
        """None beside it: what its vision makes is not in a space of texts."""

    @property
    def turn(self) -> threading.RLock:
        """As of a `Captioner`."""
        return self.vlm.turn

    @property
    def speech(self) -> Speech:
        """Its words."""
        vlm, about, end = self.vlm, self.about, self.vlm.ends[0]
        return Speech(
            vlm.spec, vlm.model, vlm.tokenizer, about["weights_id"], about["processor_id"],
            end, end, vlm.pad_id, about["licence"], vlm.device, vlm.model.dtype,
        )  # fmt: skip

    def described(self) -> list[dict[str, Any]]:
        """The other models that it takes, as run.json names them."""
        matcher = None if self.reranker is None else self.reranker.matcher
        return [] if matcher is None else [describe_model(matcher)]

    def open_cache(
        self,
        options: CaptionerOptions,
        images: int,
        stack: ExitStack,
        message: Callable[[str], None],
    ) -> FeatureCache | None:
        """For what its vision makes of images; None where that cannot be handed in again."""
        if options.no_cache or self.vlm.vision is None:
            return None
        cache = stack.enter_context(FeatureCache())
        cache.remember_model(self.vlm.spec, [self.space.weights_id])
        return cache

    def stream(
        self,
        images: Sequence[ImageFile],
        how: GenerationSettings = GenerationSettings(),
        *,
        done: int = 0,
    ) -> Iterator[list[Caption | Skipped]]:
        """As `Captioner.stream`: in `batch_ends` batches, of which the next is being decoded."""

        def write(
            some: Sequence[Ready], features: list[Tensor] | None, number: int
        ) -> list[Caption]:
            found = self.chosen(some, features, how, number)
            return [self._caption(one.image, own) for one, own in zip(some, found, strict=True)]

        return self.batches(images, how.encoding, write, done=done)

    def batches(
        self,
        images: Sequence[ImageFile],
        how: Encoding,
        work: Callable[[Sequence[Ready], list[Tensor] | None, int], Sequence[T]],
        *,
        done: int = 0,
    ) -> Iterator[list[T | Skipped]]:
        """What `work` makes of each image, from what its processor and its vision made of some.

        It is also told the number of the first of all images that are in the batch.
        """
        ends = [end for end in batch_ends(len(images), how.batch_size) if end > done]
        spans = deque(zip([done, *ends], ends, strict=False))
        batches = AdaptiveBatches(how.batch_size)
        ahead: deque[tuple[int, list[Future[Ready | Skipped]]]] = deque()
        with (
            decoding_threads(how.workers or min(16, processors())) as threads,
            BackgroundWriter(how.cache, self.space) as writer,
        ):
            while spans or ahead:
                while spans and len(ahead) < 2:
                    start, end = spans.popleft()
                    reading = [threads.submit(self.read, image) for image in images[start:end]]
                    ahead.append((start, reading))
                start, reading = ahead.popleft()
                found = [future.result() for future in reading]
                ready = [one for one in found if isinstance(one, Ready)]

                def worked(some: Sequence[Ready], start: int = start) -> Sequence[T]:
                    with self.vlm.turn:
                        return work(some, self._features(some, how.cache, writer), start)

                made = chain.from_iterable(batches.each(ready, worked))
                yield [one if isinstance(one, Skipped) else next(made) for one in found]

    @property
    def space(self) -> FeatureSpace:
        """Of what its vision makes of images."""
        ids = self.vision_id or self.about["weights_id"], self.about["processor_id"]
        what = "vision" if self.vlm.vision is None else self.vlm.vision.what
        return space_of(self.vlm.model, what, *ids)

    def read(self, image: ImageFile) -> Ready | Skipped:
        """An image as the model takes it."""
        try:
            content, _ = hash_image(image.path)
            with opened_image(image.path, sha256=content) as picture:
                inputs = self.vlm.inputs(picture, self.prompt)
            check_ids(self.vlm.model, self.vlm.mark, inputs)
            return Ready(image, content, inputs)
        except UnreadableImage as error:
            return Skipped(image.name, error.reason)
        except (ValueError, ZeroDivisionError) as error:  # processors refuse a strip of one pixel
            return Skipped(image.name, f"cannot be prepared ({error})")

    def _features(
        self, some: Sequence[Ready], cache: FeatureCache | None, writer: BackgroundWriter
    ) -> list[Tensor] | None:
        """What the vision makes of each, looked up or made; None where it is not handed in."""
        if self.vlm.vision is None:
            return None
        dtype = self.vlm.model.dtype
        known = {} if cache is None else cache.get_many(self.space, [one.content for one in some])
        found = {k: torch.from_numpy(v.copy()).to(self.device, dtype) for k, v in known.items()}
        missing = {one.content: one for one in some if one.content not in found}
        if missing:
            with torch.no_grad():
                made = self.vlm.features([one.inputs for one in missing.values()])
            new = dict(zip(missing, made, strict=True))
            stored = dtype if dtype == torch.float16 else torch.float32
            writer.save({k: v.to(stored).cpu().numpy().copy() for k, v in new.items()})
            found |= new
        return [found[one.content] for one in some]

    def check_length(self, inputs: Inputs, max_tokens: int) -> None:
        """Raises UserError for more tokens than the model has places for behind these."""
        before = inputs["input_ids"].shape[1] if "input_ids" in inputs else 1
        check_length(self.speech, max_tokens, before)

    def chosen(
        self,
        some: Sequence[Ready],
        features: Sequence[Tensor] | None,
        how: GenerationSettings,
        number: int = 0,
    ) -> list[Chosen]:
        """The caption of each; number: of the first of them, by which words are drawn."""
        inputs = self.vlm.collate([one.inputs for one in some])
        self.check_length(inputs, how.max_tokens)
        each = 1 if self.reranker is None else self.reranker.settings.candidates
        width = how.beam if each == 1 else max(2, how.beam, each)
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices, enabled=bool(self.temperature)):
            if self.temperature:
                torch.manual_seed(self.seed + number)
            written = self.vlm.written(
                inputs,
                features,
                beams=width,
                max_tokens=how.max_tokens,
                candidates=each,
                temperature=self.temperature,
                stop=self.stop,
            )
        said = written.log_probabilities
        chosen = self.vlm.log_probabilities(inputs, features, written) if said is None else said
        require_probabilities(chosen)
        if self.reranker is None:
            return [Chosen(*one) for one in zip(written.ids, chosen, strict=True)]
        return self._best([one.image for one in some], written, chosen, each, how.encoding.cache)

    def _best(
        self,
        images: Sequence[ImageFile],
        written: Written,
        chosen: list[list[float]],
        each: int,
        cache: FeatureCache | None,
    ) -> list[Chosen]:
        assert self.reranker is not None
        texts = [before_stop(text, self.stop) for text in self.speech.decode(written.ids)]
        means = [sum(row) / len(row) for row in chosen]
        groups = candidates_of(written.ids, texts, means, each)
        nothing = torch.zeros(len(images), 1, 1)  # it looks at the images itself
        judged = self.reranker.judged(groups, images, nothing, cache)
        found = []
        for number, own in enumerate(judged):
            best = max(range(each), key=lambda n: own[n].score)
            ordered = sorted(own, key=lambda one: -one.score)
            found.append(Chosen(own[best].ids, chosen[number * each + best], ordered))
        return found

    def _caption(self, image: ImageFile, one: Chosen) -> Caption:
        ended = one.ids[-1] in self.vlm.ends
        said = one.ids[:-1] if ended else one.ids
        words = caption_words(self.speech, said, one.log_probabilities)
        if (kept := before_stop(text := self.speech.decode([said])[0], self.stop)) != text:
            pairs = zip(words, kept.split(), strict=False)  # of "dog." before "." is dog left
            ended, words = True, [CaptionWord(word, own.log_probability) for own, word in pairs]
        told = sum(one.log_probabilities), len(one.ids), ended
        caption = " ".join(word.word for word in words)
        return Caption(image, caption, words, *told, candidates=one.candidates)
