"""How captions are generated: greedily, by beam search or by sampling, in batches of images.

The search itself is transformers' `generate`. `generate` and `sample` are methods of CaptionModel;
samples are for learning by reward. A captioner of transformers searches, or draws at a
`--temperature`, in `VLM.written` (models/vlm.py). A caption ends with the
decoder's end token, or at `max_tokens`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from captune.captioning.bridge import ImageStates
from captune.errors import UserError
from captune.features.cache import FeatureCache
from captune.features.encode import Halves, encode_grids
from captune.features.pipeline import Encoding
from captune.images import ImageFile, Skipped
from captune.models.encoders import ImageEncoder
from captune.options.captioning import CaptionerOptions
from captune.runs.records import Candidate

if TYPE_CHECKING:
    from captune.captioning.model import CaptionModel

_FIRST_BATCH = 8  # images
_NO_BEAM = -1e8  # transformers scores a beam that is none with -1e9


@dataclass(frozen=True)
class GenerationSettings:
    """How captions of many images are written.

    beam: width of the beam search (1: greedy). max_tokens: of a caption. encoding: of the images.
    """

    beam: int = 5
    max_tokens: int = 60
    encoding: Encoding = Encoding()

    @classmethod
    def of(cls, options: CaptionerOptions, cache: FeatureCache | None) -> GenerationSettings:
        """As the options of a command say."""
        return cls(options.beam, options.max_tokens, Encoding.of(options, cache))


@dataclass(frozen=True)
class Generated:
    """The token ids that the decoder wrote for each image.

    ids: without start, end and padding. log_probabilities: of each id, and of the end where it
    came, by one teacher-forced pass over the finished caption; nothing where it was left out.
    candidates: what each was chosen among, where it was.
    """

    ids: list[list[int]]
    log_probabilities: list[list[float]]
    candidates: list[list[Candidate]] | None = None


@torch.inference_mode()
def generate(
    model: CaptionModel,
    grids: Tensor,
    *,
    beams: int = 1,
    max_tokens: int = 60,
    tags: Tensor | None = None,
    scored: bool = True,
    candidates: int = 1,
    judge: Callable[[list[list[Candidate]]], list[list[Candidate]]] | None = None,
) -> Generated:
    """Captions of a batch of images, greedy or by beam search.

    grids, tags: as for `CaptionModel.project`. scored: with log-probabilities, which take another
    pass over the finished captions. candidates, judge: the so many best of a beam search that is as
    wide or wider are given scores, and the best of an image by these is its caption.
    """
    states = model.project(grids, tags)
    judged = None
    with model.looking_at(states), model.without_dropout():
        if judge is None:
            ends = _ended(model, _search(model, states, max_tokens, num_beams=beams).sequences)
        else:
            judged = judge(_likeliest(model, states, max_tokens, beams, candidates))
            ends = [max(own, key=lambda one: one.score).ids for own in judged]
        chosen = model.log_probabilities(states, ends) if scored else [[] for _ in ends]
    require_probabilities(chosen)
    end = model.decoder.end_id
    return Generated([[id for id in row if id != end] for row in ends], chosen, judged)


@torch.no_grad()
def sample(
    model: CaptionModel,
    grids: Tensor,
    *,
    samples: int,
    max_tokens: int = 60,
    tags: Tensor | None = None,
) -> list[list[int]]:
    """Captions drawn from the model, `samples` of each image one after the other.

    Token ids, with the end where it came: what `batch` takes.
    """
    states = model.project(grids, tags)
    with model.looking_at(states), model.without_dropout():
        drawn = _search(
            model,
            states,
            max_tokens,
            do_sample=True,
            top_k=0,  # transformers' default is 50
            num_return_sequences=samples,
        )
        return _ended(model, drawn.sequences)


def _likeliest(
    model: CaptionModel, states: ImageStates, max_tokens: int, beams: int, candidates: int
) -> list[list[Candidate]]:
    """The best of the beam search of each image, the likeliest one first."""
    found = _search(
        model,
        states,
        max_tokens,
        num_beams=max(2, beams, candidates),  # one beam alone is not scored
        num_return_sequences=candidates,
        output_scores=True,
    )
    decoder, rows = model.decoder, _ended(model, found.sequences)
    texts = decoder.decode([[id for id in row if id != decoder.end_id] for row in rows])
    each = candidates_of(rows, texts, found.sequences_scores.tolist(), candidates)
    # where fewer came to be than were asked for, generate fills up
    return [own[:1] + [one for one in own[1:] if one.mean_log_probability > _NO_BEAM]
            for own in each]  # fmt: skip


def candidates_of(
    rows: Sequence[list[int]], texts: Sequence[str], means: Sequence[float], each: int
) -> list[list[Candidate]]:
    """Captions as the candidates of images, `each` of an image one after the other."""
    found = [
        Candidate(" ".join(text.split()), 0.0, mean, ids=row)
        for row, text, mean in zip(rows, texts, means, strict=True)
    ]
    return [found[start : start + each] for start in range(0, len(found), each)]


def _search(model: CaptionModel, states: ImageStates, max_tokens: int, **how: Any) -> Any:
    """What transformers' generate makes of the images: `sequences` begin behind the start."""
    decoder = model.decoder
    start = torch.full((states.images, 1), decoder.start_id, device=decoder.device)
    given: dict[str, Any] = model.inputs(start, torch.ones_like(start), states)
    rows = max(how.get("num_beams", 1), how.get("num_return_sequences", 1))
    if rows > 1:
        given = _read_once(model, states, start, given, rows)
    found = decoder.module.generate(
        **given,
        **{"do_sample": False, "return_dict_in_generate": True, **how},
        max_new_tokens=max_tokens,
        eos_token_id=decoder.end_id,
        pad_token_id=decoder.pad_id,
    )
    if "input_ids" in given:  # which begin the sequences; embeddings do not
        found.sequences = found.sequences[:, given["input_ids"].shape[1] :]
    return found


def _read_once(
    model: CaptionModel, states: ImageStates, start: Tensor, given: dict[str, Tensor], rows: int
) -> dict[str, Any]:
    """What generate is given, with the image's soft tokens and prompt read once, not by each row.

    The last position is left to generate. `given` itself where nothing stands before the start,
    where no cache is used, or where the decoder keeps more than keys and values.
    """
    from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

    module, mask = model.decoder.module, given["attention_mask"]
    cache = DynamicCache(config=module.config.get_text_config(decoder=True))
    kept = {type(layer) for layer in cache.layers}
    plain = kept <= {DynamicLayer, DynamicSlidingWindowLayer}
    if mask.shape[1] == 1 or not plain or module.generation_config.use_cache is False:
        return given
    module.base_model(
        **model.with_positions({name: one[:, :-1] for name, one in given.items()}),
        past_key_values=cache,
        use_cache=True,
    )
    cache.batch_repeat_interleave(rows)
    if states.soft_tokens is not None:
        text = model.inputs(start, torch.ones_like(start), replace(states, soft_tokens=None))
        # any id stands for a soft token, which is in the cache
        given = {"input_ids": F.pad(text["input_ids"], (states.soft_tokens.shape[1], 0))}
    return {**given, "attention_mask": mask, "past_key_values": cache}


def _ended(model: CaptionModel, sequences: Tensor) -> list[list[int]]:
    """Token ids of each caption, up to and with its end."""
    end = model.decoder.end_id
    return [row[: row.index(end) + 1] if end in row else row for row in sequences.tolist()]


def require_probabilities(log_probabilities: Sequence[Sequence[float]]) -> None:
    """Raises UserError where one is not finite."""
    if not all(math.isfinite(value) for row in log_probabilities for value in row):
        raise UserError(
            "the captioner computes probabilities that are not numbers: its weights are"
            " damaged, or beyond the precision (--dtype float32)"
        )


def grid_batches(
    images: Sequence[ImageFile], encoder: ImageEncoder, how: Encoding, done: int = 0
) -> Iterator[dict[ImageFile, Halves | Skipped]]:
    """What the cache keeps of images from `done` on, in their order, in `batch_ends` batches.

    Which images share a batch depends on `images` and the batch size alone, not on what is cached:
    a run that resumes at a batch's beginning writes what an uninterrupted one writes.
    """
    settled: dict[str, Halves | Skipped] = {}

    def skip(skipped: Skipped) -> None:
        settled[skipped.path] = skipped

    stream = encode_grids(images[done:], encoder, how, on_skip=skip)
    for end in batch_ends(len(images), how.batch_size):
        if end <= done:
            continue
        some, done = images[done:end], end
        while any(image.name not in settled for image in some):
            found = next(stream, None)
            if found is None:
                break
            settled.update(zip((image.name for image in found[0]), found[1], strict=True))
        yield {image: settled.pop(image.name) for image in some}


def batch_ends(images: int, batch_size: int) -> list[int]:
    """Where the batches of so many images end: a few images first, then `batch_size` each.

    The first is small so that something moves soon; more small ones would cost a fifth of the time
    of a few dozen images, since the decoder reads all its weights for each token of a batch.
    """
    ends = range(min(batch_size, _FIRST_BATCH), images, batch_size)
    return [*ends, images] if images else []
