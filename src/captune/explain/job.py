"""An explanation from options to files: a map for each word, its mark, the run folder."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from captune.captioning.checkpoint import read_recipe
from captune.captioning.loading import (
    LITE,
    captioner_folder,
    describe_captioner,
    describe_decoder,
    load_captioner,
    open_grid_cache,
)
from captune.captioning.model import Captioner
from captune.embedding import Bar, none_readable
from captune.errors import UserError
from captune.explain.default import choose_map, read_default
from captune.explain.faithfulness import Faithfulness
from captune.explain.marks import Followed, full, quick
from captune.explain.methods import Choice, MapMethod
from captune.explain.subject import Subject, subjects_of, word_log_probabilities
from captune.files import quoted
from captune.images import Photo, Skipped, find_photos, printable
from captune.models.image_text import describe_model
from captune.options import ExplainOptions
from captune.runs import RunWriter, check_run_folder

KEPT = 1000  # photos whose explanation the result holds itself; more are in the files alone
Say = Callable[[str], None]


@dataclass(frozen=True)
class ExplainedWord:
    """A word of a caption with its map.

    map: [rows, columns] float32, over the whole upright photo, row by row.
    on_photo: share of the attention that the patches have, of methods whose maps are shares; the
    rest went to tokens that stand for no place and to trained prefixes. mark: how far to believe
    the map, or None where that was not asked for.
    """

    word: str
    log_probability: float
    map: Tensor
    on_photo: float | None = None
    mark: Faithfulness | Followed | None = None

    def record(self) -> dict[str, Any]:
        """As a line in a run folder holds it, without the map."""
        found: dict[str, Any] = {
            "word": self.word,
            "log_probability": round(self.log_probability, 6),
            "faithfulness": None if self.mark is None else _recorded(self.mark),
        }
        if self.on_photo is not None:
            found["on_photo"] = round(self.on_photo, 4)
        return found


@dataclass(frozen=True)
class Explanation:
    """What a captioner saw of one photo, for some words of one caption.

    method, choice: how the maps were made. is_given: the caption is the user's. maps_file: where
    the maps are, relative to the run.
    """

    photo: Photo
    caption: str
    words: list[ExplainedWord]
    method: str
    choice: Choice
    is_given: bool = False
    maps_file: str | None = None

    @property
    def maps(self) -> Tensor:
        """[words, rows, columns]."""
        return torch.stack([word.map for word in self.words])

    def record(self) -> dict[str, Any]:
        """Its line in a run folder."""
        return {
            "path": self.photo.name,
            "caption": self.caption,
            "given": self.is_given,
            "words": [word.record() for word in self.words],
            "maps": self.maps_file,
        }


@dataclass
class ExplainResult:
    """What one explanation wrote. records: of the first 1,000 photos."""

    captioner: dict[str, Any]
    method: str = ""
    choice: Choice = field(default_factory=Choice)
    images: int = 0
    skipped: list[Skipped] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)
    marks: dict[str, int] = field(default_factory=dict)
    words: int = 0
    seconds: float = 0.0
    run: Path | None = None
    figures: list[Path] = field(default_factory=list)

    def count(self, record: dict[str, Any]) -> None:
        """One more photo."""
        self.images += 1
        self.words += len(record["words"])
        for word in record["words"]:
            if word["faithfulness"] is not None:
                mark = word["faithfulness"]["mark"]
                self.marks[mark] = self.marks.get(mark, 0) + 1
        if len(self.records) < KEPT:
            self.records.append(record)

    def metrics(self) -> dict[str, Any]:
        """The run's metrics.json."""
        return {
            "images": self.images,
            "words": self.words,
            "map": _described(self.method, self.choice),
            "marks": self.marks,
            "skipped": [{"path": one.path, "reason": one.reason} for one in self.skipped],
        }

    def summary(self) -> dict[str, Any]:
        """What `--json` prints; photos are null where there are more than a thousand."""
        run = None if self.run is None else str(self.run)
        return {
            "run": run,
            "images": self.images,
            "skipped": [{"path": one.path, "reason": one.reason} for one in self.skipped],
            "model": self.captioner,
            "map": _described(self.method, self.choice),
            "photos": self.records if self.images <= KEPT else None,
            "words": self.words,
            "marks": self.marks,
            "seconds": round(self.seconds, 3),
            "figures": [str(path) for path in self.figures],
        }


def explain_photos(
    options: ExplainOptions,
    *,
    command: Sequence[str] = (),
    bar: Bar = lambda what, total: nullcontext(lambda done: None),
    say: Say = lambda sentence: None,
    on_explanation: Callable[[Explanation], None] | None = None,
) -> ExplainResult:
    """Do what `captune explain` was asked for; the result names bad files, the rest goes on.

    on_explanation: is given each photo's maps. Raises UserError for what cannot be done.
    """
    # everything that can be refused is checked before a model is loaded
    if options.out is not None:
        check_run_folder(options.out)
    place = captioner_folder(options.model)
    recipe = read_recipe(place)
    stored = read_default(place)
    if options.model != LITE and place != Path(options.model).expanduser():
        say(f"{options.model}: explains {place.name}, the best of its methods")
    found = find_photos(options.photos)
    began = time.monotonic()
    with ExitStack() as stack:
        captioner, encoder = load_captioner(options, place, recipe)
        method, choice = choose_map(
            captioner, stored, method=options.method, layer=options.layer, head=options.head
        )
        result = ExplainResult(
            describe_captioner(options, place, recipe),
            method.name,
            choice,
            skipped=list(found.skipped),
        )
        writer = None
        if options.out is not None:
            models = [result.captioner, describe_model(encoder)]
            writer = RunWriter(
                options.out,
                kind="explain",
                options=options,
                root=found.root,
                models=[*models, describe_decoder(captioner.decoder)],
                command=command,
            )
            stack.enter_context(writer)
        cache = open_grid_cache(options, encoder, len(found.photos), stack, say)
        captions = None if options.caption is None else [options.caption] * len(found.photos)
        subjects = subjects_of(
            captioner,
            encoder,
            found.photos,
            captions,
            beam=options.beam,
            max_tokens=options.max_tokens,
            cache=cache,
            batch_size=options.batch_size,
            workers=options.workers,
            on_skip=result.skipped.append,
        )
        names = _Names()
        without: list[str] = []
        with bar("explaining", len(found.photos)) as advance:
            for subject in subjects:
                explanation = explained(captioner, subject, method, choice, options)
                advance(1)
                if explanation is None:
                    without.append(subject.caption)
                    continue
                if writer is not None:
                    explanation = _written(explanation, writer, names.new(subject.photo))
                    writer.record(explanation.record())
                result.count(explanation.record())
                if on_explanation is not None:
                    on_explanation(explanation)
        _check_found(result, without, options, say)
        if writer is not None:
            result.run = options.out
            writer.metrics = result.metrics()
            writer.extra = {"device": str(captioner.decoder.device)}
    result.seconds = time.monotonic() - began
    return result


def explained(
    captioner: Captioner,
    subject: Subject,
    method: MapMethod,
    choice: Choice,
    options: ExplainOptions,
) -> Explanation | None:
    """The maps of a subject's words; None where its caption has none of those asked for."""
    words = list(wanted_words(subject, options.chosen_words, special=options.special))
    if not words:
        return None
    maps = method.maps(captioner, subject, choice, words, options.against)
    with torch.no_grad():
        said = word_log_probabilities(captioner, subject, subject.grid, words)[0].tolist()
    marks: Sequence[Faithfulness | Followed | None] = [None] * len(words)
    # what a map against another word is true of is a difference, which the marks do not measure
    if options.faithfulness != "none" and options.against is None:
        measure = full if options.faithfulness == "full" else quick
        marks = measure(captioner, subject, maps, words)
    shares = maps.sum(dim=(1, 2)).tolist() if method.is_share(choice) else [None] * len(words)
    return Explanation(
        subject.photo,
        subject.caption,
        [
            ExplainedWord(subject.spans[word].word, log_probability, own, share, mark)
            for word, log_probability, own, share, mark in zip(
                words, said, maps, shares, marks, strict=True
            )
        ],
        method.name,
        choice,
        subject.is_given,
    )


def wanted_words(subject: Subject, chosen: Sequence[str], *, special: bool) -> Iterator[int]:
    """Numbers, in `subject.spans`, of the words to explain; chosen: none for all.

    Case and the signs around a word do not count.
    """
    bare = {_bare(word) for word in chosen}
    for number, span in enumerate(subject.spans):
        if special if span.special else not bare or _bare(span.word) in bare:
            yield number


def _recorded(mark: Faithfulness | Followed) -> dict[str, Any]:
    """The mark in words, and the figures that it comes from."""
    figures = {name: value for name, value in asdict(mark).items() if name != "word"}
    rounded = {k: round(v, 4) if isinstance(v, float) else v for k, v in figures.items()}
    return {"mark": mark.mark, **rounded}


def _bare(word: str) -> str:
    return re.sub(r"^\W+|\W+$", "", word).casefold() or word


def _written(explanation: Explanation, writer: RunWriter, name: str) -> Explanation:
    """Write the maps of one photo beside the records; the explanation that knows where."""
    file = f"maps/{name}.npz"
    path = writer.file_path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as opened:
        np.savez(
            opened,
            maps=explanation.maps.numpy(),
            words=np.array([word.word for word in explanation.words]),
        )
    return replace(explanation, maps_file=file)


class _Names:
    """File names for photos, each once."""

    def __init__(self) -> None:
        self._taken: dict[str, int] = {}

    def new(self, photo: Photo) -> str:
        """The photo's relative path as a plain name that every system accepts."""
        stem = photo.name.rpartition(".")[0] or photo.name
        plain = re.sub(r"[^\w-]+", "-", stem).encode("ascii", "replace").decode()
        name = plain.replace("?", "-")[:80]
        # a/b.png and a-b.jpg have one spelling
        number = self._taken[name] = self._taken.get(name, 0) + 1
        return name if number == 1 else self.new_of(name, number)

    def new_of(self, name: str, number: int) -> str:
        """`name` with a number behind it that no photo has for its own name."""
        numbered = f"{name}-{number}"
        while numbered in self._taken:
            number += 1
            numbered = f"{name}-{number}"
        self._taken[numbered] = 1
        return numbered


def _check_found(
    result: ExplainResult, without: Sequence[str], options: ExplainOptions, say: Say
) -> None:
    if result.images == 0 and not without:
        raise none_readable(result.skipped)
    asked = ", ".join(options.chosen_words)
    if result.images == 0:
        some = "the caption has" if len(without) == 1 else f"none of {len(without):,} captions has"
        raise UserError(
            f"--words {printable(asked)}: {some} such a word ({quoted(without[0])}); give another,"
            " or a caption of your own with --caption"
        )
    if without:
        say(f"{len(without):,} photos are left out: their captions have none of {printable(asked)}")


def _described(method: str, choice: Choice) -> dict[str, Any]:
    return {"method": method, "layer": choice.layer, "head": choice.head}
