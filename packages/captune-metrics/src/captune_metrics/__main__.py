"""`python -m captune_metrics pred.json refs.json`: scores of captions, a table or JSON."""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from secrets import token_hex
from typing import Any

from captune_metrics import __version__
from captune_metrics.catalogue import (
    Metric,
    parse_metrics,
    passes_of,
    score_with_plugin,
    title_of,
)
from captune_metrics.coco import check_entries, read_json
from captune_metrics.corpus import Corpus
from captune_metrics.display import Interval, named, printable, quoted
from captune_metrics.errors import MismatchedImages, UserError
from captune_metrics.frequency import DocumentFrequency, resolve_df
from captune_metrics.scores import Scores, intervals_of

_FORMS = """\
forms of PRED and REFS (image ids are compared as text: 139 is "139"):
  {"id": "caption"}, {"id": ["caption", ...]}
  COCO results, [{"image_id": 139, "caption": "..."}, ...]
  COCO annotations, {"images": [...], "annotations": [...]}

captune score reads more forms, matches ids that are spelled differently, and has CLIPScore.
"""
_EXAMPLES = """
examples:
  python -m captune_metrics pred.json captions_val2017.json --subset
  python -m captune_metrics pred.json captions_val2017.json --subset --ignore-extra
  python -m captune_metrics pred.json refs.json --metrics cider,bleu --df coco-val2017
  python -m captune_metrics pred.json refs.json --json --per-image scores.csv
"""


@dataclass(frozen=True)
class _Scored:
    """The scores of all metrics, and how sure they are: None where nothing can be said."""

    scores: list[Scores]
    intervals: list[Interval | None]

    @property
    def notes(self) -> list[str]:
        return list(dict.fromkeys(note for score in self.scores for note in score.notes))

    def as_json(self) -> dict[str, Any]:
        metrics = {
            score.metric: {
                "name": score.name,
                "corpus": score.corpus,
                "interval": interval,
                "recipe": score.recipe,
            }
            for score, interval in zip(self.scores, self.intervals, strict=True)
        }
        images = len(self.scores[0].per_image)
        return {"images": images, "metrics": metrics, "notes": self.notes}

    def as_table(self) -> str:
        rows = [("metric", "score", "95 % interval" if any(self.intervals) else "")]
        for score, interval in zip(self.scores, self.intervals, strict=True):
            ends = "" if interval is None else f"{interval.low:.3f} to {interval.high:.3f}"
            rows.append((printable(title_of(score.metric)), f"{score.corpus:.3f}", ends))
        first, second = (max(len(row[i]) for row in rows) for i in (0, 1))
        return "\n".join(f"{a:{first}}  {b:>{second}}  {c}".rstrip() for a, b, c in rows)


def main(words: Sequence[str] | None = None) -> int:
    """The command. Returns the exit status: 2 where the user has to change something."""
    arguments = _parser().parse_args(words)
    try:
        return _run(arguments)
    except UserError as error:
        print(f"captune_metrics: {error}", file=sys.stderr)
        return 2


def _run(arguments: argparse.Namespace) -> int:
    write = None if arguments.per_image is None else _writer(arguments.per_image)
    metrics = _metrics(arguments.metrics)
    df = resolve_df(arguments.df)
    given, known = _candidates(arguments.pred), _read(arguments.refs)
    candidates, references = _matched(arguments, given, known)
    corpus = Corpus(candidates, references, arguments.tokenizer)
    found = _scores(metrics, corpus, candidates, references, df)
    if strange := [image for image in given if image not in references]:
        note = f"left out, without references: {named(strange, 'image')}"
        found = [replace(score, notes=(note, *score.notes)) for score in found]
    found = [score.of_subset(len(known)) for score in found]
    each = intervals_of({score.metric: score for score in found}) if arguments.interval else {}
    scored = _Scored(found, [each.get(score.metric) for score in found])
    if write is not None:
        write(scored)
    if arguments.json:
        _print(json.dumps(scored.as_json()))
    else:
        of = f" of {len(known):,}" if len(known) > len(candidates) else ""
        counted = f"{len(candidates):,}{of} image{'' if len(known) == 1 else 's'}"
        _print(f"{scored.as_table()}\n{counted}")
        for note in scored.notes:
            print(note, file=sys.stderr)
    return 0


def _print(text: str) -> None:
    """On standard output. Raises UserError where that is full; who reads no more needs nothing."""
    try:
        print(text, flush=True)
    except OSError as error:
        # Python would try once more when it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            raise UserError(f"the scores could not be printed ({error.strerror})") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m captune_metrics",
        description="Scores of captions as coco-caption computes them: BLEU, ROUGE-L, CIDEr-D.",
        epilog=_FORMS + _EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("pred", metavar="PRED", help="the captions to score, one per image")
    parser.add_argument("refs", metavar="REFS", help="the captions to score them against")
    parser.add_argument(
        "--metrics",
        default="bleu,rouge_l,cider",
        help="bleu, bleu_1 to bleu_4, rouge_l, cider (CIDEr-D), cider_original, meteor (needs Java)"
        " and those of other packages (default: %(default)s)",
    )
    parser.add_argument(
        "--subset",
        action="store_true",
        help="score the images that PRED has a caption of; references of others are left out",
    )
    parser.add_argument(
        "--ignore-extra",
        action="store_true",
        help="leave out captions of images that REFS has no references of",
    )
    parser.add_argument(
        "--df",
        default="corpus",
        help="CIDEr's document frequencies: corpus (the references at hand), coco-val2017, or a"
        " saved table (default: %(default)s)",
    )
    parser.add_argument(
        "--tokenizer",
        choices=("ptb", "none"),
        default="ptb",
        help="none: the captions are tokenised, words between spaces (default: %(default)s)",
    )
    parser.add_argument(
        "--per-image", type=Path, metavar="FILE", help="a row per image, to FILE.csv or FILE.jsonl"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--no-interval", dest="interval", action="store_false", help="leave the intervals out"
    )
    parser.add_argument("--version", action="version", version=f"captune_metrics {__version__}")
    return parser


def _metrics(text: str) -> list[Metric]:
    metrics = parse_metrics(text)
    for metric in metrics:
        if metric.kind == "clip":
            raise UserError(
                f"{metric.id} needs a model, which captune score has (pip install captune)"
            )
    return metrics


def _read(path: str) -> dict[str, list[str]]:
    """Image id -> its captions, in the order of the file."""
    shown, content = printable(path), read_json(path)
    try:
        if isinstance(content, dict) and isinstance(content.get("annotations"), list):
            return _grouped("annotation", content["annotations"])
        if isinstance(content, list):
            return _grouped("entry", content)
        if not isinstance(content, dict):
            raise UserError("expected an object or a list of captions; --help shows the forms")
        for id, value in content.items():
            captions = [value] if isinstance(value, str) else value
            if not isinstance(captions, list) or not all(isinstance(one, str) for one in captions):
                raise UserError(f"image {quoted(id)}: expected a caption or a list of captions")
        found = {id: [value] if isinstance(value, str) else value for id, value in content.items()}
        bare = [id for id, captions in found.items() if not captions]
        if bare:
            raise UserError(f"no caption for {named(bare, 'image')}; take it out or give one")
        if not found:
            raise UserError("there are no captions in it; --help shows the forms")
    except UserError as error:
        raise UserError(f"{shown}: {error}") from None
    return found


def _grouped(noun: str, entries: list[Any]) -> dict[str, list[str]]:
    check_entries(noun, entries, ("image_id", "caption"))
    if not entries:
        raise UserError("there are no captions in it; --help shows the forms")
    captions: dict[str, list[str]] = {}
    for entry in entries:
        captions.setdefault(str(entry["image_id"]), []).append(entry["caption"])
    return captions


def _candidates(path: str) -> dict[str, str]:
    captions = _read(path)
    several = [image for image, own in captions.items() if len(own) > 1]
    if several:
        raise UserError(
            f"{printable(path)}: expected one caption per image, but {named(several, 'image')}"
            f" {'has' if len(several) == 1 else 'have'} several; are PRED and REFS swapped?"
        )
    return {image: own[0] for image, own in captions.items()}


def _matched(
    arguments: argparse.Namespace, candidates: dict[str, str], references: dict[str, list[str]]
) -> tuple[dict[str, str], dict[str, list[str]]]:
    """The images of both, in the order of the references, as pycocoevalcap has it."""
    pred, refs = printable(arguments.pred), printable(arguments.refs)
    strange = [image for image in candidates if image not in references]
    missing = [image for image in references if image not in candidates]
    if len(strange) == len(candidates):
        raise MismatchedImages(
            f"{pred}: none of its images is in {refs}: it has {named(strange)}, the references"
            f" have {named(missing)}; give files about the same images"
        )
    if strange and not arguments.ignore_extra:
        raise MismatchedImages(
            f"{pred}: {refs} has no references for {named(strange, 'image')}; leave"
            f" {'it' if len(strange) == 1 else 'them'} out with --ignore-extra"
        )
    if missing and not arguments.subset:
        both = len(references) - len(missing)
        raise MismatchedImages(
            f"{pred}: no caption for {named(missing, 'image')} of {refs}; score the"
            f" {both:,} that {'has' if both == 1 else 'have'} one with --subset"
        )
    images = [image for image in references if image in candidates]
    return {image: candidates[image] for image in images}, {i: references[i] for i in images}


def _scores(
    metrics: Sequence[Metric],
    corpus: Corpus,
    candidates: Mapping[str, str],
    references: Mapping[str, list[str]],
    df: DocumentFrequency | None,
) -> list[Scores]:
    found: dict[str, Scores] = {}
    for run in passes_of(metrics, corpus, df):
        found |= run()
    return [
        found.get(metric.id) or score_with_plugin(metric.id, candidates, references)
        for metric in metrics
    ]


def _writer(path: Path) -> Callable[[_Scored], None]:
    """What writes `path`. Raises UserError, before anything is scored, for another ending."""
    forms: dict[str, Callable[[_Scored], str]] = {".csv": _as_csv, ".jsonl": _as_json_lines}
    form = forms.get(path.suffix.lower())
    if form is None:
        raise UserError(f"--per-image {printable(path)}: expected a name in .csv or .jsonl")

    def write(scored: _Scored) -> None:
        text = form(scored)
        partial = None
        try:
            if path.exists() and not path.is_file():  # a pipe is written as it goes
                place = path
            else:
                target = Path(os.path.realpath(path))
                place = partial = target.with_name(f".{path.name[:40]}.{token_hex(6)}.partial")
            place.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")
            if partial is not None:
                partial.replace(target)
        except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
            if partial is not None:
                partial.unlink(missing_ok=True)
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"{printable(path)} cannot be written ({reason})") from None

    return write


def _rows(scored: _Scored) -> list[dict[str, Any]]:
    return [
        {"image": image, **{score.metric: score.per_image[image] for score in scored.scores}}
        for image in scored.scores[0].per_image
    ]


def _as_csv(scored: _Scored) -> str:
    text = io.StringIO()
    rows = _rows(scored)
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        # a spreadsheet would take such an id for a formula
        risky = str(row["image"]).startswith(("=", "+", "-", "@", "\t", "\r"))
        writer.writerow({**row, "image": f"'{row['image']}" if risky else row["image"]})
    return text.getvalue()


def _as_json_lines(scored: _Scored) -> str:
    return "".join(json.dumps(row) + "\n" for row in _rows(scored))


if __name__ == "__main__":
    sys.exit(main())
