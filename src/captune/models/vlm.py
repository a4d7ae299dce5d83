"""Models of transformers that write about an image, whatever their family: BLIP, GIT, Qwen-VL, ...

    inputs        one image and a prompt, by the model's own processor; batches by `collate`
    features      what its vision tower makes of the image; handed in again it need not run
    written       transformers' own `generate`
    logits        of given words, by a teacher-forced pass that takes part in gradients

A family is known by its interface. Where placeholders in the text stand for the image, features are
what `get_image_features` puts there; elsewhere the last hidden state of the vision tower.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from captune.errors import UserError
from captune.models import hub, vetting
from captune.models.tokenizers import before_stop, decoded
from captune.models.vlm_vision import (
    Inputs,
    Read,
    find_vision,
    going_on,
    has_placeholders,
    telling_weights,
)
from captune_metrics.display import printable

DEFAULT_PROMPT = "Describe this image in one sentence."
_LOGITS_AT_ONCE = 2**26


@dataclass(frozen=True)
class Written:
    """ids: of each caption, with the end where it came; those of an image stand together.

    prompts: [images, n], what the decoder had read before its first word. log_probabilities: of
    each id, where generate said them by the way.
    """

    ids: list[list[int]]
    prompts: Tensor
    log_probabilities: list[list[float]] | None = None


class VLM:
    """A model with its processor, frozen, in eval mode. Raises UserError where it cannot run."""

    def __init__(
        self, spec: str, model: Any, processor: Any, tokenizer: Any, device: torch.device
    ) -> None:
        self.spec, self.device = spec, device
        self.turn = threading.RLock()  # of threads: what it looks at is handed in by hooks
        self.model = model.to(device).eval().requires_grad_(False)
        self.processor, self.tokenizer = processor, tokenizer
        tokenizer.padding_side = "left"
        text = model.config.get_text_config()
        # BLIP ends with what it calls a separator
        named = [getattr(text, "sep_token_id", None), model.generation_config.eos_token_id]
        named += [text.eos_token_id, tokenizer.eos_token_id]
        flat = (id for one in named for id in (one if isinstance(one, list) else [one]))
        self.ends = list(dict.fromkeys(id for id in flat if isinstance(id, int)))
        self.pad_id = int(tokenizer.pad_token_id or 0)
        heads = (getattr(m, "get_output_embeddings", lambda: None)() for m in model.modules())
        self._head: nn.Module = next(head for head in heads if head is not None)
        self.mark = int(model.config.image_token_id) if has_placeholders(model) else None
        with vetting.library_errors(f"{printable(spec)} cannot look at an image"):
            grey = self.collate([self.inputs(Image.new("RGB", (64, 48), "gray"), None)])
            self.vision = find_vision(self.model, self.mark, grey)

    @property
    def family(self) -> str:
        """As transformers calls it."""
        return str(self.model.config.model_type)

    @property
    def blocks(self) -> nn.ModuleList:
        """Of the language model, the first first."""
        lists = (module for module in self.model.modules() if isinstance(module, nn.ModuleList))
        # vision comes before language, wherever both are
        return [one for one in lists if len(one) and sum(1 for _ in one[0].modules()) > 3][-1]

    @property
    def goes_on(self) -> bool:
        """Whether it reads image and prompt first, and then words behind them."""
        is_pair = self.model.config.is_encoder_decoder
        return not is_pair and "past_key_values" in signature(self.model.forward).parameters

    def inputs(self, image: Image.Image, prompt: str | None) -> Inputs:
        """What the processor makes of one image and a prompt; None: the usual one, or none."""
        made = self._processed(image, prompt)
        return {k: v for k, v in made.items() if isinstance(v, Tensor) and k != "labels"}

    def _processed(self, image: Image.Image, prompt: str | None) -> Mapping[str, Any]:
        from transformers import GenerationMixin

        if not hasattr(self.processor, "tokenizer"):  # vit-gpt2 has an image processor alone
            made = dict(self.processor(images=image, return_tensors="pt"))
            if prompt:
                start = self.model.generation_config.decoder_start_token_id
                begun = [start, *self.tokenizer(prompt, add_special_tokens=False)["input_ids"]]
                made["decoder_input_ids"] = torch.tensor([begun])
            return made
        if getattr(self.processor, "chat_template", None):
            parts = [{"type": "image"}, {"type": "text", "text": prompt or DEFAULT_PROMPT}]
            chat, what = [{"role": "user", "content": parts}], f"{self.spec}: its chat template"
            how = {"add_generation_prompt": True, "tokenize": False}
            text = vetting.in_time(what, self.processor.apply_chat_template, chat, **how)
        elif self.mark is not None:
            mark = str(self.processor.image_token)
            text = prompt if prompt and mark in prompt else f"{mark}{prompt or ''}"
        elif not prompt:
            made = dict(self.processor(images=image, return_tensors="pt"))
            return {name: made[name] for name in made if "pixel" in name}
        else:
            made = dict(self.processor(images=[image], text=[prompt], return_tensors="pt"))
            if type(self.model).generate is GenerationMixin.generate:
                # GIT goes on where a text would end; BLIP cuts that off itself
                kept = int(made["input_ids"][0, -1]) not in self.ends
                for name in ("input_ids", "attention_mask"):
                    made[name] = made[name][:, : None if kept else -1]
            return {name: made[name] for name in made if name != "token_type_ids"}
        return dict(self.processor(images=[image], text=[text], return_tensors="pt"))

    def collate(self, each: Sequence[Inputs]) -> Inputs:
        """A batch of `inputs`: texts padded on the left, images beside each other."""
        found: Inputs = {}
        for name in each[0]:
            parts = [one[name] for one in each]
            if name in ("input_ids", "attention_mask") or name.endswith("token_type_ids"):
                fill = self.pad_id if name == "input_ids" else 0
                longest = max(part.shape[1] for part in parts)
                parts = [F.pad(p, (longest - p.shape[1], 0), value=fill) for p in parts]
            elif len({part.shape[1:] for part in parts}) > 1:
                shape = [max(sizes) for sizes in zip(*(p.shape[1:] for p in parts), strict=True)]
                parts = [_grown(part, shape) for part in parts]
            joined = torch.cat(parts).to(self.device)
            found[name] = joined.to(self.model.dtype) if joined.is_floating_point() else joined
        return found

    def features(self, each: Sequence[Inputs]) -> list[Tensor]:
        """[tokens, channels] of each image; UserError where the family cannot be handed them."""
        if self.vision is None:
            raise UserError(f"{self.spec}: a {self.family} cannot be handed an image's features")
        return self.vision.of_each(each, self.collate, self.device)

    def written(
        self,
        inputs: Inputs,
        features: Sequence[Tensor] | None = None,
        *,
        beams: int = 1,
        max_tokens: int = 60,
        candidates: int = 1,
        temperature: float = 0.0,
        stop: Sequence[str] = (),
    ) -> Written:
        """By `generate`: greedy, by beam search, or drawn where there is a temperature.

        candidates: captions of each image, the likeliest first. stop: texts with which one is done,
        wherever they stand in it.
        """
        from transformers import LogitsProcessorList, StoppingCriteriaList

        searches = beams > 1 or temperature or candidates > 1
        keeps = not searches and self._says_what_it_computes
        begun = _Begun(keeps)
        how: dict[str, Any] = {"do_sample": False, "num_beams": beams}
        if temperature:
            how = {"do_sample": True, "temperature": temperature, "num_beams": 1}

        # transformers' own stop_strings read the prompt too, and all of a vocabulary for each batch
        def stopped(ids: Tensor, _: Any) -> Tensor:
            rows = ids[:, begun.ids.shape[1] :].tolist()
            return torch.tensor(self._stopped(rows, stop)).to(ids.device)

        with torch.no_grad(), self._handed(inputs, features), hub.silence_transformers():
            found = self.model.generate(
                **inputs,
                **how,
                num_return_sequences=candidates,
                max_new_tokens=max_tokens,
                logits_processor=LogitsProcessorList([begun]),
                stopping_criteria=StoppingCriteriaList([stopped] if stop else []),
            )
        images = len(found) // candidates
        prompts = begun.ids[:: len(begun.ids) // images]
        rows = [self._ended(row, stop) for row in found[:, prompts.shape[1] :].tolist()]
        if not keeps:
            return Written(rows, prompts)
        said = zip(begun.of(found).tolist(), rows, strict=True)
        return Written(rows, prompts, [own[: len(row)] for own, row in said])

    @property
    def _says_what_it_computes(self) -> bool:
        """Whether a greedy search takes the logits as they are, without penalties."""
        how = self.model.generation_config
        lists = (how.suppress_tokens, how.begin_suppress_tokens, how.bad_words_ids)
        penalties = how.repetition_penalty in (None, 1.0) and not how.no_repeat_ngram_size
        return penalties and not any(lists)

    def _ended(self, row: list[int], stop: Sequence[str]) -> list[int]:
        end = next((place for place, id in enumerate(row) if id in self.ends), len(row) - 1)
        is_done = self._stopped([row[: count + 1] for count in range(end)], stop)
        return row[: 1 + (is_done.index(True) if True in is_done else end)]

    def _stopped(self, rows: Sequence[Sequence[int]], stop: Sequence[str]) -> list[bool]:
        if not stop:
            return []
        return [before_stop(text, stop) != text for text in decoded(self.tokenizer, rows)]

    def log_probabilities(
        self, inputs: Inputs, features: Sequence[Tensor] | None, written: Written
    ) -> list[list[float]]:
        """Of each id of each caption, given the image, the prompt and what stands before it."""
        found: list[list[float]] = [[] for _ in written.ids]
        images = len(written.prompts)
        each = len(written.ids) // images
        longest = max(map(len, written.ids))
        room = _LOGITS_AT_ONCE // (longest * int(self.model.config.get_text_config().vocab_size))
        # without features to hand in, pixels cannot be told apart by image
        size = images if features is None else max(1, room)
        for start in range(0, images, size):
            some = range(start, min(images, start + size))
            part = {k: v if "pixel" in k else v[some.start : some.stop] for k, v in inputs.items()}
            for turn in range(each):
                rows = [written.ids[image * each + turn] for image in some]
                ids, kept = padded(rows, self.pad_id, self.device)
                own = None if features is None else features[some.start : some.stop]
                with torch.no_grad():
                    logits = self.logits(
                        part, own, written.prompts[some.start : some.stop], ids, kept
                    )
                chosen = (-F.cross_entropy(logits, ids[kept], reduction="none")).tolist()
                for image, row in zip(some, rows, strict=True):
                    found[image * each + turn] = chosen[: len(row)]
                    del chosen[: len(row)]
        return found

    def logits(
        self,
        inputs: Inputs,
        features: Sequence[Tensor] | None,
        prompts: Tensor,
        ids: Tensor,
        kept: Tensor,
        read: Read = (),
    ) -> Tensor:
        """Of the ids where `kept`, row by row: [places, vocabulary] float32.

        prompts: [rows, m]. ids, kept: [rows, n], what follows them and where it is asked for. Of
        one that `goes_on` the rows may be k for each prompt and image, those of an image together.
        read: of what all the prompts begin with, as of `reading`.
        """
        with self._handed(inputs, features), hub.silence_transformers():
            if not self.goes_on:
                whole = torch.cat([prompts, ids], dim=1)
                given: dict[str, Any] = {"decoder_input_ids": whole}
                if not self.model.config.is_encoder_decoder:
                    given = {"input_ids": whole, "attention_mask": _mask(inputs, prompts, ids)}
                with self._head_at(lambda hidden: hidden[:, -ids.shape[1] - 1 : -1][kept]):
                    only: Tensor = self.model(**{**inputs, **given}).logits
                return only.flatten(0, -2).float()
            # as generate does: the prompt with the image, and then the words behind it
            given = {**inputs, "input_ids": prompts, "attention_mask": _mask(inputs, prompts)}
            each = len(ids) // len(prompts)
            last = self._head_at(lambda h: h[:, -1].repeat_interleave(each, dim=0)[kept[:, 0]])
            with going_on(self.model, read, len(prompts)), last:
                begun = self.model(**given, use_cache=True)
            parts = [begun.logits.flatten(0, -2).float()]
            if ids.shape[1] > 1:
                if each > 1:
                    begun.past_key_values.batch_repeat_interleave(each)
                with self._head_at(lambda hidden: hidden[kept[:, 1:]]):
                    mask = _mask(inputs, prompts, ids[:, :-1])
                    behind = self.model(
                        input_ids=ids[:, :-1],
                        attention_mask=mask,
                        past_key_values=begun.past_key_values,
                        **self._positions(mask, ids.shape[1] - 1),
                    )
                parts.append(behind.logits.flatten(0, -2).float())
        places = kept.nonzero()
        first = places[:, 1] == 0
        order = torch.cat([first.nonzero()[:, 0], (~first).nonzero()[:, 0]])
        return torch.cat(parts)[order.argsort()]

    @torch.no_grad()
    def reading(self, inputs: Inputs, features: Tensor, prompt: Tensor) -> Read:
        """What reading a prompt [1, m] with its image leaves; its first places serve `logits`.

        Empty where the language model looks ahead (Gemma 3, PaliGemma), or keeps something else.
        """
        if self.mark is None or not self.goes_on:
            return ()
        other = features.clone()
        other[-1] = 1 - other[-1]
        last = int((prompt[0] == self.mark).nonzero()[-1])
        found, changed = (self._left_by(inputs, [one], prompt) for one in (features, other))
        alike = all(
            torch.equal(part[:, :, :last], without[:, :, :last])
            for layer, others in zip(found, changed, strict=True)
            for part, without in zip(layer, others, strict=True)
        )
        return found if alike else ()

    def _left_by(self, inputs: Inputs, features: Sequence[Tensor], prompt: Tensor) -> Read:
        given = {**inputs, "input_ids": prompt, "attention_mask": _mask(inputs, prompt)}
        with self._handed(inputs, features), self._head_at(lambda hidden: hidden[:, -1]):
            layers = self.model(**given, use_cache=True).past_key_values.layers
        found: list[Any] = [(getattr(o, "keys", None), getattr(o, "values", None)) for o in layers]
        kept = all(k is not None and k.shape[-2] == prompt.shape[1] for k, _ in found)
        return tuple(found) if kept else ()

    @torch.no_grad()
    def hidden(
        self, inputs: Inputs, features: Sequence[Tensor] | None, prompts: Tensor, ids: Tensor
    ) -> Tensor:
        """What the head reads at each place of what `logits` reads: [rows, places, width]."""
        found: list[Tensor] = []
        everywhere = torch.ones_like(ids, dtype=torch.bool)
        with self._head.register_forward_pre_hook(lambda _, args: found.append(args[0])):
            self.logits(inputs, features, prompts, ids, everywhere)
        return torch.cat(found, dim=1)

    @torch.no_grad()
    def attentions(
        self, inputs: Inputs, features: Sequence[Tensor] | None, prompts: Tensor, ids: Tensor
    ) -> dict[nn.Module, list[Tensor]]:
        """Of each attention its weights [rows, heads, queries, keys], in the passes of `logits`."""
        found: dict[nn.Module, list[Tensor]] = {}

        def keep(module: nn.Module, _: Any, output: Any) -> None:
            weights = output[1] if isinstance(output, tuple) and len(output) > 1 else None
            known = any(weights is other for kept in found.values() for other in kept)
            if isinstance(weights, Tensor) and weights.ndim == 4 and not known:
                found.setdefault(module, []).append(weights)

        with telling_weights(self.model), ExitStack() as stack:
            for module in self.model.modules():
                stack.enter_context(module.register_forward_hook(keep))
            self.logits(inputs, features, prompts, ids, torch.ones_like(ids, dtype=torch.bool))
        return found

    def head_rows(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """The head's weights and bias of some tokens: [ids, width], [ids]."""
        bias = getattr(self._head, "bias", None)
        weight: Any = self._head.weight
        return weight[ids], None if bias is None else bias[ids]

    def _positions(self, mask: Tensor, count: int) -> Inputs:
        """Of the last tokens, for those that do not find them themselves, as generate does."""
        places = (mask.cumsum(dim=1) - 1)[:, -count:]
        deltas = getattr(self.model.base_model, "rope_deltas", None)
        if deltas is not None:  # Qwen: an image takes fewer places than it has tokens
            deltas = deltas.repeat_interleave(len(mask) // len(deltas), dim=0)
            return {"position_ids": (places + deltas).expand(3, -1, -1)}
        # GIT counts text alone
        return {"position_ids": places} if self.mark is None else {}

    def _head_at(self, pick: Callable[[Tensor], Tensor]) -> RemovableHandle:
        """The head, most of a short pass, runs where it is asked: pick makes [places, width]."""
        return self._head.register_forward_pre_hook(lambda _, args: (pick(args[0])[None],))

    @contextmanager
    def _handed(self, inputs: Inputs, features: Sequence[Tensor] | None) -> Iterator[None]:
        if features is None or self.vision is None:
            yield
            return
        with self.vision.handed(features, len(inputs["pixel_values"])):
            yield


class _Begun:
    """A logits processor that changes nothing, and keeps the ids before the first word.

    of: what a greedy search has said of each token, [rows, n] natural logs, where it keeps that.
    """

    ids: Any = None

    def __init__(self, keeps: bool) -> None:
        self._keeps = keeps
        self._said: list[Tensor] = []
        self._last = torch.zeros(0)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if self.ids is None:
            self.ids = input_ids.clone()
        elif self._keeps:
            self._said.append(self._last.gather(1, input_ids[:, -1:]))
        self._last = scores.float().log_softmax(dim=-1) if self._keeps else self._last
        return scores

    def of(self, sequences: Tensor) -> Tensor:
        return torch.cat([*self._said, self._last.gather(1, sequences[:, -1:])], dim=1)


def _mask(inputs: Inputs, prompts: Tensor, *behind: Tensor) -> Tensor:
    """Over the prompts and what stands behind them; BLIP's own prompt is cut by a token."""
    stated = inputs.get("attention_mask")
    fits = stated is not None and stated.shape == prompts.shape
    known = stated if fits and stated is not None else torch.ones_like(prompts)
    known = known.repeat_interleave(len(behind[0]) // len(known), dim=0) if behind else known
    return torch.cat([known, *map(torch.ones_like, behind)], dim=1)


def _grown(part: Tensor, shape: Sequence[int]) -> Tensor:
    """Zeros behind all dimensions but the first, to this shape."""
    pads = [
        n
        for size, most in zip(reversed(part.shape[1:]), reversed(shape), strict=True)
        for n in (0, most - size)
    ]
    return F.pad(part, pads)


def padded(rows: Sequence[Sequence[int]], fill: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(ids, where there are some), both [rows, n], padded on the right."""
    length = max(map(len, rows))
    ids = [[*row, *[fill] * (length - len(row))] for row in rows]
    kept = [[place < len(row) for place in range(length)] for row in rows]
    return torch.tensor(ids, device=device), torch.tensor(kept, device=device)
