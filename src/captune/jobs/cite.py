r"""`captune cite`: what a paper says of runs: BibTeX of what they used, and a methods paragraph.

Which entry belongs to what stands in citations.toml, beside the entries. What is not in there gets
a sentence, never an entry. Paragraphs are LaTeX and cite with `\cite`; all of it together is a .bib
file, for BibTeX passes over what stands outside of its entries.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import captune
from captune.errors import UserError
from captune.jobs import Result
from captune.options.codec import from_python
from captune.options.pages import CiteOptions
from captune.options.scoring import MetricOptions
from captune.progress import SILENT, Progress
from captune.runs import Run, read_run
from captune.runs.evaluation import (
    CaptionersMetrics,
    CompareMetrics,
    ExplainMetrics,
    FaithfulMetrics,
    MetricFigure,
    ScoreMetrics,
)
from captune.runs.metrics import ClassifyMetrics, PromptsMetrics, TuneMetrics
from captune.tables import in_latex
from captune.text import counted, listed, millions
from captune_metrics.catalogue import title_of

_NOUNS = {
    "metrics": "metric",
    "methods": "tuning method",
    "bridges": "bridge",
    "maps": "map method",
}
_CONTROLS = ("random", "centre")  # of maps
_INTERVALS = r"with 95\,\% intervals by the bootstrap over images"


@dataclass(kw_only=True, eq=False)
class CiteResult(Result):
    """What to write and what to cite.

    paragraphs: of each run, in LaTeX. entries: key -> BibTeX, in the order in which they are cited.
    """

    folders: list[str]
    paragraphs: list[str]
    entries: dict[str, str]

    @property
    def bibtex(self) -> str:
        """All entries, one after the other."""
        return "\n\n".join(self.entries.values()) + "\n"

    def summary(self) -> dict[str, Any]:
        """What `--json` prints."""
        return super().summary() | {
            "run": self.folders[0],
            "runs": self.folders,
            "paragraphs": self.paragraphs,
            "keys": list(self.entries),
            "bibtex": self.bibtex,
            "notes": self.notes,
        }

    def sentences(self) -> list[str]:
        """The lines of a .bib file: paragraphs and notes as comments, then the entries."""
        # BibTeX takes an @ for the beginning of an entry, in a comment too
        lines = (text.replace("@", r"\symbol{64}") for text in (*self.paragraphs, *self.notes))
        said = (f"% {line}" for line in lines)
        return [*said, "", *self.bibtex.splitlines()]


def cite(runs: str | Path | Sequence[str | Path]) -> CiteResult:
    """BibTeX and a methods paragraph of runs, as `captune cite`.

    runs: run folders of any job. Raises UserError for what is no run.
    """
    return run(from_python(CiteOptions, runs=runs))


def run(
    options: CiteOptions,
    progress: Progress = SILENT,  # noqa: ARG001  # it takes no time
    *,
    command: Sequence[str] = (),  # noqa: ARG001  # there is no run to keep it in
) -> CiteResult:
    """Read the runs and say what they did. Raises UserError for what is no run."""
    found = [read_run(Path(folder)) for folder in options.runs]
    library = _Library()
    paragraphs = [_paragraph(one, library) for one in found]
    return CiteResult(
        images=max(int(one.metrics.get("images") or 0) for one in found),
        notes=library.notes,
        folders=[str(one.folder) for one in found],
        paragraphs=paragraphs,
        entries={
            key: _citations()["entries"][key].strip().replace("VERSION", captune.__version__)
            for key in library.keys
        },
    )


@cache
def _citations() -> dict[str, Any]:
    text = Path(__file__).with_name("citations.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


@dataclass
class _Library:
    """Keys that were cited, in order, and a sentence for each thing that has no entry."""

    keys: dict[str, None] = field(default_factory=lambda: {"captune": None})
    notes: list[str] = field(default_factory=list)

    def cite(self, keys: Iterable[str]) -> str:
        r"""`~\cite{a,b}`; nothing for no key."""
        named = list(keys)
        self.keys.update(dict.fromkeys(named))
        return rf"~\cite{{{','.join(named)}}}" if named else ""

    def thing(self, table: str, name: str) -> str:
        """A metric, method, bridge or map method by its id, with its citation."""
        return in_latex(name) + self.cite(self.keys_of(table, name))

    def keys_of(self, table: str, name: str) -> Sequence[str]:
        """What is cited for a thing; nothing, and a note, for one that nobody here knows."""
        keys: list[str] | None = _citations()[table].get(name)
        if keys is None:
            self._unknown(f"the {_NOUNS[table]} {name}")
        return keys or ()

    def procedure(self, name: str) -> str:
        """The citation of a procedure."""
        return self.cite(_citations()["procedures"][name])

    def model(self, spec: str, weights: str = "", table: str = "models") -> str:
        """A frozen model by its spec, with its citation and the beginning of its weights' hash."""
        # of a folder the name, for a paper has no use for somebody's path
        name = spec if ":" in spec[2:] else Path(spec).name
        known = (one for one in _citations()[table] if re.match(one["pattern"], spec.lower()))
        keys = next(known, {"cite": ()})["cite"]
        if not keys:
            self._unknown(f"the model {name}")
        hashed = f" (weights {in_latex(weights[:12])})" if weights else ""
        return rf"\texttt{{{in_latex(name)}}}{self.cite(keys)}{hashed}"

    def _unknown(self, what: str) -> None:
        note = f"captune knows no publication of {in_latex(what)}; cite what its authors ask for"
        if note not in self.notes:
            self.notes.append(note)


def _paragraph(found: Run, library: _Library) -> str:
    write = _WRITERS.get(found.kind)
    if write is None:
        raise UserError(f"{found.folder} is a run of {found.kind}, which has no methods paragraph")
    version = in_latex(str(found.about["versions"].get("captune", captune.__version__)))
    return " ".join(
        (*write(found, library), rf"This was done by captune {version}~\cite{{captune}}.")
    )


def _frozen(found: Run, library: _Library) -> list[str]:
    """The frozen models of a run, encoder and decoder alike; a captioner is none."""
    return [
        library.model(
            str(model.get("spec")),
            str(model.get("weights_id") or ""),
            "decoders" if "decoder_id" in model else "models",
        )
        for model in found.about["models"]
        if "bridge" not in model
    ]


def _option(found: Run, name: str) -> str:
    return in_latex(str(found.about["options"].get(name)))


def _classify(found: Run, library: _Library) -> list[str]:
    metrics = found.typed_metrics(ClassifyMetrics)
    model = listed(_frozen(found, library))
    templates = [one.template for one in metrics.prompts if one.template]
    prompt = counted(len(templates), "prompt template") if len(templates) > 4 else ""
    prompt = prompt or "the prompt " + listed([f"``{in_latex(text)}''" for text in templates])
    if not templates:
        prompt = "prompts of its own for each label"
    named = any("openai" in str(one) for one in found.about["options"].get("prompt") or [])
    said = [
        f"{counted(metrics.images, 'image')} were classified among {metrics.labels:,} labels"
        f" without training by {model}, with"
        f" {prompt}{library.procedure('prompt-sets') if named else ''}"
        f" ({in_latex(metrics.activation)} over scaled cosine similarities)."
    ]
    if metrics.scored:
        said.append(
            f"Accuracy is that of the {metrics.scored:,} images with a known label, with 95\\,\\%"
            f" Wilson intervals{library.procedure('wilson')}."
        )
    return said


def _prompts(found: Run, library: _Library) -> list[str]:
    metrics = found.typed_metrics(PromptsMetrics)
    model = listed(_frozen(found, library))
    said = [
        f"{counted(len(metrics.prompts), 'prompt template')} were compared over the same"
        f" {counted(metrics.images, 'image')} with {model}, without training."
    ]
    if metrics.best is not None:
        said.append(
            f"Each was compared with the most accurate one by the exact McNemar"
            f" test{library.procedure('mcnemar')}, corrected by Holm's"
            f" procedure{library.procedure('holm')}; calibration is the expected calibration"
            f" error{library.procedure('calibration')}."
        )
    return said


def _tune(found: Run, library: _Library) -> list[str]:
    metrics = found.typed_metrics(TuneMetrics)
    options = found.about["options"]
    models = listed(_frozen(found, library))
    what = f"The frozen captioner {models}"
    if not any("family" in model for model in found.about["models"]):
        bridge = library.thing("bridges", str(options.get("bridge")))
        what = f"A captioner of frozen parts ({models}), joined by a {bridge} bridge,"
    elif options.get("train"):
        what += ", its projector trained too,"
    select = str(options.get("select"))
    trained = listed(
        [
            f"{library.thing('methods', one.method)}"
            f" ({millions(one.parameters)} trained parameters)"
            for one in metrics.every
        ]
    )
    on = f" on {counted(metrics.trained_on, 'image')}" if metrics.trained_on else ""
    said = [
        f"{what} was trained{on} by {trained}.",
        f"Training took {_option(found, 'epochs')} epochs at most with"
        f" AdamW{library.procedure('adamw')}, about {_option(found, 'batch_size')} captions"
        f" per step, weight decay {_option(found, 'weight_decay')} and seed"
        f" {_option(found, 'seed')}.",
    ]
    if options.get("objective") == "cider":
        said.append(
            f"The objective was the CIDEr-D of {_option(found, 'samples')} sampled captions per"
            f" image, self-critically{library.procedure('self-critical')}."
        )
    said += [
        f"The epoch with the best {in_latex(title_of(select))} on validation images was kept.",
        f"On {counted(metrics.images, 'validation image')}, captions were scored by"
        f" {_metrics(metrics.every[0].scores, library)},"
        f" {_INTERVALS}{library.procedure('bootstrap')}.",
    ]
    return said


def _metrics(ids: Iterable[str], library: _Library) -> str:
    """The metrics as papers write them; those of one paper share its citation."""
    groups = groupby(ids, key=lambda id: library.keys_of("metrics", id))
    return listed(
        [
            listed([in_latex(title_of(id)) for id in together]) + library.cite(keys)
            for keys, together in groups
        ]
    )


def _captioner(found: Run, library: _Library) -> str:
    parts = listed(_frozen(found, library))
    for model in found.about["models"]:
        if "bridge" in model:
            bridge = library.thing("bridges", str(model.get("bridge")))
            method = library.thing("methods", str(model.get("method")))
            return f"a captioner of {parts} ({bridge} bridge, tuned by {method})"
        if "base" in model:  # one of transformers
            base = library.model(str(model["base"]))
            return f"{base} (tuned by {library.thing('methods', str(model.get('method')))})"
    return parts


def _search(found: Run) -> str:
    beam = found.about["options"].get("beam")
    search = "greedily" if beam == 1 else f"by beam search of width {_option(found, 'beam')}"
    return f"{search}, with {_option(found, 'max_tokens')} tokens at most,"


def _caption(found: Run, library: _Library) -> list[str]:
    return [
        f"{counted(found.metrics['images'], 'image')} were described {_search(found)}"
        f" by {_captioner(found, library)}."
    ]


def _captioners(found: Run, library: _Library) -> list[str]:
    metrics = found.typed_metrics(CaptionersMetrics)
    own = [in_latex(str(one["spec"])) for one in found.about["models"] if "bridge" in one]
    by = listed([*own, *_frozen(found, library)])
    images = counted(metrics.images, "image")
    said = [f"{images} were each described {_search(found)} by {by}."]
    if not by:  # files of captions: nobody knows who wrote them
        files = [in_latex(name) for name in metrics.captioners]
        said = [
            f"{len(files)} sets of captions of the same {images} were compared: {listed(files)}."
        ]
    if metrics.best is not None:
        said.append(
            f"The captions of {metrics.scored:,} of them were scored by"
            f" {_metrics(metrics.names, library)}, {_INTERVALS}{library.procedure('bootstrap')},"
            f" and those of each captioner held against those of {in_latex(metrics.best)} by a"
            f" paired permutation test, corrected by Holm's procedure{library.procedure('holm')}"
            f"{_resampling(found)}.{_clip_model(metrics.recipes, library)}"
        )
    return said


def _resampling(found: Run) -> str:
    """How intervals and p values were drawn; captioners are scored with the defaults of a score."""
    asked = found.about["options"]
    if "resamples" not in asked:
        asked = asdict(MetricOptions())
    drawn = (in_latex(str(asked.get(name))) for name in ("resamples", "seed"))
    return " ({} resamples, seed {})".format(*drawn)


def _clip_model(recipes: Any, library: _Library) -> str:
    """Which model computed CLIPScore, where one did. recipes: by metric."""
    for recipe in recipes.values() if isinstance(recipes, dict) else ():
        model = recipe.get("model") if isinstance(recipe, dict) else None
        if isinstance(model, dict):
            name = library.model(str(model.get("spec")), str(model.get("weights_id") or ""))
            return f" CLIPScore is that of {name}."
    return ""


def _score(found: Run, library: _Library) -> list[str]:
    metrics = found.typed_metrics(ScoreMetrics)
    figures: dict[str, MetricFigure] = metrics.metrics
    recipes = listed([in_latex(one.name) for one in figures.values() if one.name])
    scored = _metrics(metrics.metrics, library)
    has_intervals = any(one.interval for one in figures.values())
    bootstrap = f", {_INTERVALS}{library.procedure('bootstrap')}{_resampling(found)}"
    intervals = bootstrap if has_intervals else ""
    used = {id: one.recipe for id, one in figures.items()}
    return [
        f"The captions of {counted(metrics.images, 'image')} were scored by {scored}{intervals}"
        f" (recipes: {recipes}).{_clip_model(used, library)}"
    ]


def _compare(found: Run, library: _Library) -> list[str]:
    metrics = found.typed_metrics(CompareMetrics)
    return [
        f"Two sets of captions of the same {counted(metrics.images, 'image')} were compared by"
        f" {_metrics(metrics.metrics, library)}, with 95\\,\\% intervals of the difference by the"
        f" paired bootstrap{library.procedure('bootstrap')} and p values by a paired permutation"
        f" test, corrected by Holm's procedure{library.procedure('holm')}"
        f"{_resampling(found)}.{_clip_model(metrics.recipes, library)}"
    ]


def _explain(found: Run, library: _Library) -> list[str]:
    metrics = found.typed_metrics(ExplainMetrics)
    method = library.thing("maps", metrics.map.method)
    said = [
        f"Maps of {counted(metrics.words, 'word')} over {counted(metrics.images, 'image')} were"
        f" made by {method} with {_captioner(found, library)}."
    ]
    if metrics.marks:
        said.append(
            "Each map was held against random maps by deletion and"
            f" insertion{library.procedure('deletion-insertion')}."
        )
    return said


def _faithful(found: Run, library: _Library) -> list[str]:
    metrics = found.typed_metrics(FaithfulMetrics)
    rows = [row for report in metrics.reports for row in report.rows]
    names = dict.fromkeys(row.method for row in rows if row.method not in _CONTROLS)
    methods = listed([library.thing("maps", name) for name in names])
    said = [
        f"Word maps of {_captioner(found, library)} by {methods} were measured on"
        f" {counted(metrics.images, 'image')} by deletion and"
        f" insertion{library.procedure('deletion-insertion')}, and by comprehensiveness and"
        f" sufficiency{library.procedure('rationales')}, {_INTERVALS}"
        f"{library.procedure('bootstrap')}, against random maps and the centre of the image.",
        "They were also made of a model whose weights were randomised layer by"
        f" layer{library.procedure('randomisation')}.",
    ]
    if any(row.pointing is not None for row in rows):
        said.append(
            f"With people's boxes, the pointing game{library.procedure('pointing')} was played."
        )
    return said


_WRITERS: dict[str, Callable[[Run, _Library], list[str]]] = {
    "classify": _classify,
    "prompts": _prompts,
    "tune": _tune,
    "caption": _caption,
    "captioners": _captioners,
    "score": _score,
    "compare": _compare,
    "explain": _explain,
    "faithful": _faithful,
}
