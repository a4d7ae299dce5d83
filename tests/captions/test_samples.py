"""What lm-evaluation-harness and lmms-eval log of each row, read as captions and references."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from captune.captions import SAMPLES, CaptionFile, read_captions, read_references
from captune.errors import UserError


def read(tmp_path: Path, *rows: dict[str, Any]) -> CaptionFile:
    path = tmp_path / "samples_task.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_captions(path)


def row(doc: Any, caption: Any = "a dog", **more: Any) -> dict[str, Any]:
    return {"doc_id": 7, "doc": doc, "resps": [[caption]], "filtered_resps": [caption], **more}


@pytest.mark.parametrize(
    ("record", "image", "name"),
    [
        (row({}, flickr_CIDEr={"image_id": 36, "pred": "a dog", "answer": ["r"]}), "36", None),
        (row({"question_id": "COCO_val_139.jpg", "id": 5}), *2 * ["COCO_val_139.jpg"]),
        (row({"image_id": 139, "file_name": "x.jpg"}), "139", "x.jpg"),
        (row({"image": "<PIL.PngImageFile at 0x7f>", "id": "k"}), "k", None),
        (row({"image": "a/1.png", "question": "What?"}), "a/1.png", "a/1.png"),
        (row({"question": "What?"}), "7", None),
        (row(None), "7", None),
    ],
)  # fmt: skip
def test_the_image_is_what_names_it_best(
    tmp_path: Path, record: dict[str, Any], image: str, name: str | None
) -> None:
    found = read(tmp_path, record)
    assert found.form == SAMPLES
    assert found.captions == {image: ["a dog"]}
    assert found.file_names.get(image) == name


def test_captions_are_filtered_or_raw_and_repeated_rows_count_once(tmp_path: Path) -> None:
    raw = {"doc_id": 1, "doc": {}, "resps": [[["a cat"]]]}
    found = read(tmp_path, row({"id": 0}, " a dog"), row({"id": 0}, " a dog"), raw)
    assert found.captions == {"0": [" a dog"], "1": ["a cat"]}
    with pytest.raises(UserError, match="line 1: its filtered_resps hold no text, so the task"):
        read(tmp_path, {"doc_id": 1, "doc": {}, "resps": [[[-1.5, False]]]})
    with pytest.raises(UserError, match="line 1: its doc_id is nothing"):
        read(tmp_path, {"doc_id": None, "doc": {}, "resps": [["a"]]})


def test_as_references_they_are_what_was_scored_against(tmp_path: Path) -> None:
    path = tmp_path / "samples_task.jsonl"
    read(
        tmp_path,
        row({"id": 1}, coco_CIDEr={"image_id": 1, "pred": "a dog", "answer": ["r", "s"]}),
        row({"id": 2, "captions": ["t"]}, target="['t']"),
        row({"id": 3}, target="u"),
    )
    found = read_references(path)
    assert found.captions == {"1": ["r", "s"], "2": ["t"], "3": ["u"]}
    assert found.form == f"references of {SAMPLES}"
    read(tmp_path, row({"id": 1}, target="['t']"))
    with pytest.raises(UserError, match='without references for image "1"; give the file that'):
        read_references(path)
