"""Which files are scored: candidates, references, and the images that both sides have."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from captune.captions import SAMPLES, CaptionFile, Matched, match_captions, read_captions
from captune.errors import MismatchedImages, UserError
from captune.options.base import CaptionsInMemory
from captune.options.scoring import MetricOptions
from captune.runs import read_run
from captune.runs.records import ScoreRecord
from captune_metrics.display import named, printable
from captune_metrics.frequency import is_file


def read_inputs(options: MetricOptions, captions: Mapping[str, Path]) -> dict[str, Path]:
    """What a score reads besides `captions`, by what it is called in a sentence."""
    places = {**captions, "references": options.references, "images": options.images}
    if is_file(options.df):
        places["--df"] = Path(options.df)
    return {
        what: _file_of(path)
        for what, path in places.items()
        if not isinstance(path, CaptionsInMemory | None)
    }


def _file_of(path: Path) -> Path:
    """`dataset.json` of `dataset.json#split=test`."""
    name, mark, _ = str(path).rpartition("#split=")
    return Path(name) if mark and not path.exists() else path


def read_references(path: Path) -> CaptionFile:
    """The captions to score against, as `read_captions`.

    The captions of a score run, and of an evaluation's samples, are candidates; what they were
    scored against are its references, and these are meant here. Raises UserError for a score run
    and for samples that have none.
    """
    folder = path.parent if path.name == "records.jsonl" else path
    if os.path.isfile(folder / "run.json"):  # noqa: PTH113  # pathlib's raises for a long name
        run = read_run(folder)
        if run.kind != "score":
            return read_captions(path)
        file = read_captions(folder)  # which refuses records that are damaged
        records = run.typed_records(ScoreRecord)
        captions = {
            image: record.references for image, record in zip(file.captions, records, strict=True)
        }
        what, form = "a score run", "references of a captune score run"
    else:
        file = read_captions(path)
        if file.form != SAMPLES:
            return file
        captions = {image: file.references.get(image, []) for image in file.captions}
        what, form = f"a file of {SAMPLES}", f"references of {SAMPLES}"
    without = [image for image, references in captions.items() if not references]
    if without:
        raise UserError(
            f"{printable(path)} is {what} without references for"
            f" {named(without, 'image')}; give the file that holds the references"
        )
    return replace(file, source=str(path), form=form, captions=captions)


def _in_all(
    files: Sequence[CaptionFile], matched: Sequence[Matched], *, has_references: bool
) -> list[Matched]:
    """A, B and on, of the images that all have. Raises MismatchedImages where they share none."""
    first, *others = matched
    pairs = []
    for file, other in zip(files[1:], others, strict=True):
        if has_references:
            of_reference = {found: image for image, found in other.in_references.items()}
            found = {
                image: of_reference[reference]
                for image, reference in first.in_references.items()
                if reference in of_reference
            }
        else:
            try:  # the other stands where the references would
                both = match_captions(files[0], file, subset=True, ignore_extra=True)
                found = both.in_references
            except MismatchedImages:
                found = {}
        if not found:
            raise MismatchedImages(
                f"A and B have no image in common, and --subset compares the images of both:"
                f" {printable(files[0].source)} has {named(first.candidates)},"
                f" {printable(file.source)} has {named(other.candidates)}"
            )
        pairs.append(found)
    kept = set.intersection(*(set(found) for found in pairs))
    if not kept:
        raise MismatchedImages(
            "there is no image that all of the files have, and --subset compares those"
        )
    in_all = [first.only(kept)]
    in_all += [
        other.only({found[image] for image in kept})
        for other, found in zip(others, pairs, strict=True)
    ]
    if has_references:
        return in_all
    left_out = sum(one.left_out for one in in_all)  # of all images that one of them has
    return [replace(one, left_out=left_out) for one in in_all]
