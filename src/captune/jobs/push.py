"""`captune push`: a tuned captioner goes to the model hub, with a model card made of its run.

What leaves the machine is in memory before anybody is asked: the trained parameters, the config
that names the frozen parts, the map to believe, the card. Images, captions, paths and options that
name files stay: of a frozen part that lies in a folder the name of the folder is sent.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PureWindowsPath
from typing import Any

from msgspec import structs

from captune import storage
from captune.attribution.methods import read_default
from captune.captioning.agreement import read_agreement
from captune.captioning.checkpoint import (
    ImageIdentity,
    Recipe,
    TunedRecipe,
    read_any_recipe,
    read_trained_header,
    text_beside,
)
from captune.captioning.datastore import DATASTORE
from captune.captioning.rerank import read_reranking
from captune.captioning.settings import (
    AGREEMENT,
    CARD,
    CONFIG,
    EXPLAIN,
    RERANK,
    WEIGHTS,
    checkpoint_folder,
)
from captune.errors import UserError
from captune.files import holds_files, home_path, real_path, whole_file
from captune.jobs import Result
from captune.jobs.cite import cite
from captune.models import hub
from captune.models.load import MIRRORED, backends
from captune.options.codec import from_python
from captune.options.pages import PushOptions
from captune.options.tuning import unread_of
from captune.pages.page import used_as
from captune.progress import SILENT, Progress
from captune.runs import Run, read_run
from captune.runs.metrics import Reranking, Tuned, TuneMetrics
from captune.runs.reader import ABOUT, METRICS
from captune.tables import Column, Table, estimate, in_markdown
from captune.text import counted, decimal, file_size, millions, one_line
from captune_metrics.catalogue import title_of
from captune_metrics.display import printable

# what the weights depend on, and names no file of anybody
_TOLD = (
    *("train", "objective", "samples", "epochs", "captions_per_image", "limit", "batch_size"),
    *("accumulate", "lr", "weight_decay", "warmup", "label_smoothing", "augment", "vocabulary"),
    *("max_tokens", "decoder_blocks", "select", "patience", "val_sample", "seed", "dtype", "set"),
    *("prompt", "tags_top", "tags_least", "extra_noise", "kl", "reward_share"),
)


@dataclass(frozen=True)
class PushPlan:
    """What will be sent. files: name on the hub -> its content, or the file that has it.

    unusable: why no score of it means anything, a sentence each; nobody else is told captions.
    """

    repo: str
    files: Mapping[str, bytes | Path]
    private: bool
    method: str
    unusable: Sequence[str]

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of each file."""
        return {
            name: file.stat().st_size if isinstance(file, Path) else len(file)
            for name, file in self.files.items()
        }

    @property
    def card(self) -> str:
        """The model card."""
        text = self.files[CARD]
        assert isinstance(text, bytes)
        return text.decode()

    def described(self) -> list[str]:
        """What will leave this machine, a line each."""
        who = "only you can see" if self.private else "everybody can see"
        lines = [f"these files leave this machine for {self.repo} on the hub, which {who}:"]
        lines += [f"  {name}  {file_size(size)}" for name, size in self.sizes.items()]
        return lines + self.warnings()

    def warnings(self) -> list[str]:
        """That it is not usable, where it is not."""
        return [f"{self.method} is not usable: {one_line(why)}" for why in self.unusable]


@dataclass(kw_only=True, eq=False)
class PushResult(Result):
    """What was sent, or written to `--to`. sizes: bytes of each file. private: as the hub has it.

    url: of the commit; None where nothing was sent.
    """

    repo: str
    method: str
    private: bool
    sizes: dict[str, int]
    url: str | None = None

    def summary(self) -> dict[str, Any]:
        """What `--json` prints."""
        told = {name: getattr(self, name) for name in ("repo", "method", "url", "private")}
        return super().summary() | told | {"files": self.sizes}

    def tables(self) -> list[Table]:
        """The files."""
        columns = [Column("file"), Column("size", number=True)]
        rows = [[name, file_size(size)] for name, size in self.sizes.items()]
        place = self.repo if self.url else self.written["files"]
        return [Table("files", f"{'sent' if self.url else 'written'} to {place}", columns, rows)]

    def sentences(self) -> list[str]:
        """Where it is, and how it is loaded."""
        if self.url is None:
            how = f"captune push without --to sends these files to {self.repo}"
            return [*self.notes, f"nothing was sent; {how}"]
        who = "only you can see it" if self.private else "everybody can see it"
        return [f"{self.url} ({who})", f"captune caption images/ --model hf:{self.repo}"]


def push(run: str | Path, repo: str, *, yes: bool = False, **options: Any) -> PushResult:
    """Send a tuned captioner to the hub, as `captune push`.

    run: of a tune, or of one of its methods. repo: USER/NAME. yes: it is sent only so; without it
    the UserError names the files. options: the fields of `PushOptions`, such as
    licence="apache-2.0", public=True; with to=FOLDER the files are written there, and nothing is
    sent. Raises UserError for what cannot be sent.
    """
    return _send(from_python(PushOptions, run=run, repo=repo, yes=yes, **options))


def run(
    options: PushOptions,
    progress: Progress = SILENT,  # noqa: ARG001  # a few seconds
    *,
    command: Sequence[str] = (),  # noqa: ARG001  # there is no run to keep it in
) -> PushResult:
    """Send it, or write it. Raises UserError for what is no captioner, and for neither."""
    return _send(options)


def _send(options: PushOptions) -> PushResult:
    planned = plan(options)
    result = PushResult(
        written={"run": options.run},
        repo=options.repo,
        method=planned.method,
        private=planned.private,
        sizes=planned.sizes,
    )
    if options.to is not None:
        _write(planned, options.to)
        result.written["files"] = options.to
        result.notes = planned.warnings()
        return result
    if not options.yes:
        raise UserError(" ".join((*planned.described(), "(nothing was sent; say yes to send it)")))
    message = f"{planned.method} captioner by captune push"
    result.url, result.private = hub.publish(
        options.repo, planned.files, private=planned.private, message=message
    )
    return result


def _write(planned: PushPlan, folder: Path) -> None:
    """The files as the hub would have them. Raises UserError for a folder with anything in it."""
    if holds_files(folder):
        raise UserError(
            f"--to {printable(folder)} is not empty; name a folder that is, or a new one"
        )
    for name, content in planned.files.items():
        with whole_file(folder / name, "wb") as file:
            if isinstance(content, bytes):
                file.write(content)
            else:
                with content.open("rb") as source:
                    shutil.copyfileobj(source, file)


def plan(options: PushOptions) -> PushPlan:
    """What would be sent; nothing is, and the network is not asked.

    Raises Offline, and UserError for what is no finished captioner of a tune.
    """
    if options.to is None:
        storage.refuse_offline(
            "push sends files to the hub",
            "leave out --offline, or CAPTUNE_OFFLINE, to send them; --to FOLDER only writes them",
        )
    place = checkpoint_folder(home_path(options.run))
    _refuse_links(place, home_path(options.run))
    made = read_any_recipe(place)
    if made is None:
        raise UserError(f"{place} is a captioner of transformers, and none of a captune tune")
    recipe = _shareable_recipe(made)
    read_trained_header(place)
    found = read_run(place)
    metrics = found.typed_metrics(TuneMetrics) if found.kind == "tune" else None
    if metrics is None or metrics.tuned is None:
        raise UserError(f"{place} is not the run of a captune tune, which its card is made of")
    about = options, found, metrics.tuned, recipe
    front = f"---\n{_front_matter(options, metrics.tuned, recipe)}\n---"
    card = "\n\n".join((front, f"# {options.repo.partition('/')[2]}", *_body(*about)))
    config = json.dumps(recipe.as_json(), indent=1) + "\n"
    files: dict[str, bytes | Path] = {
        CARD: f"{card}\n".encode(),
        CONFIG: config.encode(),
        WEIGHTS: place / WEIGHTS,
    }
    for name, beside in (
        (EXPLAIN, read_default(place)),
        (AGREEMENT, read_agreement(place)),
        (RERANK, _shareable_reranking(read_reranking(place))),
    ):
        if beside is not None:
            files[name] = text_beside(beside).encode()
    is_private, method = not options.public, recipe.method.name
    return PushPlan(options.repo, files, is_private, method, metrics.tuned.unusable)


def _refuse_links(place: Path, run: Path) -> None:
    """What somebody else's run names must not send a file of yours that lies elsewhere."""
    for name in (CONFIG, WEIGHTS, EXPLAIN, AGREEMENT, RERANK, ABOUT, METRICS):
        found = real_path(place / name)
        if not found.is_relative_to(real_path(run)):
            raise UserError(
                f"{printable(place / name)} leads out of the run, to"
                f" {printable(found)}; put the file itself there if it may be sent"
            )


def _shareable(spec: str) -> str:
    """A spec that means the same everywhere; of a folder or file of this machine its name."""
    spec = one_line(spec)
    plain = spec.removesuffix(MIRRORED)
    kind, colon, rest = plain.partition(":")
    # pathlib's exists() raises for a name that is too long
    is_named = colon and kind in backends() and not os.path.exists(home_path(rest))  # noqa: PTH110
    if plain in ("lite", "lite-research") or (
        is_named and "@" not in rest and rest[:1] not in "/~.\\"
    ):
        return spec
    return PureWindowsPath(spec).name or "model"


def _shareable_reranking(found: Reranking | None) -> Reranking | None:
    """None also where it needs the training captions, which stay here."""
    if found is None or found.evidence != "match":
        return None
    return structs.replace(found, model=_shareable(found.model or "lite"))


def _shareable_recipe(recipe: Recipe | TunedRecipe) -> Recipe | TunedRecipe:
    def moved(identity: ImageIdentity) -> ImageIdentity:
        return replace(identity, spec=_shareable(identity.spec))

    if isinstance(recipe, TunedRecipe):
        return structs.replace(recipe, base=moved(recipe.base))
    return structs.replace(
        recipe,
        image_encoder=moved(recipe.image_encoder),
        decoder=replace(recipe.decoder, spec=_shareable(recipe.decoder.spec)),
        tags=recipe.tags and replace(recipe.tags, model=moved(recipe.tags.model)),
    )


def _front_matter(options: PushOptions, tuned: Tuned, recipe: Recipe | TunedRecipe) -> str:
    """The metadata of the card as the hub has it, figures as its model-index."""
    from huggingface_hub import EvalResult, ModelCardData

    specs = _frozen_parts(recipe).values()
    on_hub = [spec.removeprefix("hf:") for spec in specs if spec.startswith("hf:")]
    data = options.dataset or "validation images of the tune"
    slug = "-".join(data.lower().split())
    card = ModelCardData(
        license=options.licence,
        library_name="captune",
        pipeline_tag="image-to-text",
        tags=["image-captioning", "captune", *map(one_line, _trained_parts(tuned, recipe))],
        base_model=on_hub or None,
        datasets=[options.dataset] if options.dataset and options.dataset.count("/") == 1 else None,
        model_name=options.repo.partition("/")[2],
        eval_results=[
            EvalResult(
                task_type="image-to-text",
                dataset_type=slug,
                dataset_name=one_line(data),
                metric_type=one_line(id),
                metric_name=one_line(figure.name),
                metric_value=round(figure.corpus, 4),
            )
            for id, figure in tuned.scores.items()
        ],
    )
    text: str = card.to_yaml()
    return text.strip()


def _body(
    options: PushOptions, found: Run, tuned: Tuned, recipe: Recipe | TunedRecipe
) -> Iterator[str]:
    yield (
        "A captioner of frozen models, made with"
        " [captune](https://github.com/captune/captune): this repository holds the"
        f" {millions(tuned.parameters)} trained parameters and the names of what was"
        " frozen, and none of the images and captions that it learned from."
    )
    yield "## How to load it"
    elsewhere = _elsewhere(recipe)
    yield (
        f"```\npip install captune\ncaptune caption images/ --model hf:{options.repo}"
        f"{' '.join(['', *elsewhere])}\n```"
    )
    load = (
        f'import captune\n\nfor one in captune.caption("images/", model="hf:{options.repo}"):'
        if isinstance(recipe, TunedRecipe)
        else "from captune import Captioner\n\n"
        f'captioner = Captioner.from_pretrained("hf:{options.repo}")\n'
        'for one in captioner.caption("images/"):'
    )
    yield f"```python\n{load}\n    print(one.image.name, one.caption)\n```"
    if elsewhere:
        yield (
            f"{' and '.join(elsewhere[::2])}: these parts lay in a folder of whoever trained it;"
            " name the same files, which are known by their hashes below."
        )
    yield "## What it is made of"
    models = [one for one in found.about["models"] if "bridge" not in one]
    rows = [
        [_shareable(str(one.get("spec"))), used_as(one), one.get("weights_id"), one.get("licence")]
        for one in models
    ]
    columns = [*map(Column, ("frozen part", "used as", "weights", "licence"))]
    yield _table(columns, [[one_line(str(text)) for text in row] for row in rows])
    if isinstance(recipe, Recipe) and recipe.tags is not None:
        tags = recipe.tags
        yield (
            f"Of each image it reads tags: of {counted(len(tags.labels), 'label')} those to which"
            f" {in_markdown(one_line(tags.model.spec))} gives a probability of {tags.least:g} or"
            f" more, {tags.top} at most."
        )
    trained = " and ".join(map(in_markdown, _trained_parts(tuned, recipe)))
    yield f"Trained: {trained}, {tuned.parameters:,} parameters, in float32 (safetensors)."
    stated = f"`{options.licence}`" if options.licence else "not stated by who trained it"
    yield (
        f"Licence of the trained parameters: {stated}. The frozen parts have licences of their own,"
        " and the terms of the training data may bind you too."
    )
    yield f"## Figures\n\nOn {counted(tuned.images, 'validation image')}, with 95 % intervals:"
    figures = [
        [title_of(id), estimate(one.corpus, one.interval, decimal), one_line(one.name)]
        for id, one in tuned.scores.items()
    ]
    columns = [Column("metric"), Column("figure", number=True), Column("recipe")]
    yield _table(columns, figures)
    if tuned.unusable:
        yield "It is **not usable**, whatever these figures are: see the checks."
    checks = [
        [
            one_line(one.about),
            decimal(one.figure),
            "a fatal problem" if one.is_fatal else "a problem" if one.wrong else "fine",
        ]
        for one in tuned.findings
    ]
    if checks:
        yield "What captune checked after the training:"
        yield _table([Column("check"), Column("figure", number=True), Column("which is")], checks)
    yield "## How it was trained"
    asked = found.about["options"]
    data = f"{in_markdown(options.dataset)}; " if options.dataset else ""
    data += "also captions without images; " if asked.get("extra_text") else ""
    yield (
        f"Data: {data}the captions of {counted(tuned.images, 'image')} chose epoch"
        f" {tuned.best_epoch} and gave the figures above."
    )
    unread = unread_of(asked)
    names = [name for name in _TOLD if asked.get(name) and name not in unread]
    told = [[name, one_line(str(asked[name]))] for name in names]
    yield _table([Column("option"), Column("value")], told)
    versions = ", ".join(f"{name} {at}" for name, at in found.about["versions"].items())
    yield f"Made with {in_markdown(versions)}."
    yield (
        "## Limits\n\nCaptions follow the training data, mistakes included; they guess the gender,"
        " the age and the relation of people. Do not use them where that matters."
    )
    yield f"## Cite\n\n```bibtex\n{cite(found.folder).bibtex}```"


def _trained_parts(tuned: Tuned, recipe: Recipe | TunedRecipe) -> list[str]:
    if isinstance(recipe, TunedRecipe):
        return [tuned.method, *([recipe.train] if recipe.train else [])]
    return [tuned.method, recipe.bridge.name]


def _frozen_parts(recipe: Recipe | TunedRecipe) -> dict[str, str]:
    """Specs of the frozen models, by the options that say where they lie."""
    if isinstance(recipe, TunedRecipe):
        return {"--decoder": recipe.base.spec}
    return {"--encoder": recipe.image_encoder.spec, "--decoder": recipe.decoder.spec}


def _elsewhere(recipe: Recipe | TunedRecipe) -> list[str]:
    """Options that say where frozen parts lie that no hub has."""
    parts = _frozen_parts(recipe)
    if isinstance(recipe, Recipe):
        if recipe.tags is not None and recipe.tags.model.spec != recipe.image_encoder.spec:
            parts["--tags-model"] = recipe.tags.model.spec
        if recipe.prompt_captions:
            parts["--datastore"] = DATASTORE  # people's captions, which stay here
    return [
        word
        for option, spec in parts.items()
        if spec != "lite" and ":" not in spec
        for word in (option, shlex.quote(f"FOLDER/{spec}"))
    ]


def _table(columns: list[Column], rows: Sequence[Sequence[Any]]) -> str:
    return Table("table", "", columns, [list(row) for row in rows]).markdown().strip()
