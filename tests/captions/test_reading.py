"""Captions in every form that people have them."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.captions.caption_forms import COCO, FORMS, KARPATHY, written

from captune.captions import CaptionFile, read_captions
from captune.errors import UserError
from captune.options.recognition import EmbedOptions
from captune.runs import RunWriter


@pytest.mark.parametrize(
    ("name", "content", "form", "captions", "names"),
    FORMS,
    ids=[row[0] for row in FORMS],
)
def test_every_form(tmp_path, name, content, form, captions, names):
    path = written(tmp_path, name, content)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    found = read_captions(path)
    assert found == CaptionFile(str(path), form, captions, names, digest)
    assert list(found.captions) == list(captions)  # file order
    # the ending of the name decides nothing, but for a file of one line
    if name != "one.jsonl":
        moved = read_captions(path.rename(tmp_path / "captions"))
        assert (moved.form, moved.captions) == (form, captions)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("number", [0, 8, 17, 19])
def test_byte_order_marks(tmp_path, encoding, number):
    name, content, form, captions, _ = FORMS[number]
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    found = read_captions(written(tmp_path, name, text.encode(encoding)))
    assert (found.form, found.captions) == (form, captions)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("number", [8, 17, 18])
def test_line_ends_are_no_part_of_captions(tmp_path, end, number):
    name, content, form, captions, _ = FORMS[number]
    found = read_captions(written(tmp_path, name, content.replace("\n", end)))
    assert (found.form, found.captions) == (form, captions)


def test_one_split(tmp_path):
    path = written(tmp_path, "dataset.json", KARPATHY)
    found = read_captions(f"{path}#split=test")
    assert found.captions == {"42": ["A red barn.", "a barn"]}
    assert found.source == f"{path}#split=test"
    with pytest.raises(UserError, match='no split "val"; its splits are "test", "restval"'):
        read_captions(f"{path}#split=val")
    with pytest.raises(UserError, match="has no splits"):
        read_captions(f"{written(tmp_path, 'a.json', COCO)}#split=test")
    with pytest.raises(UserError, match='has no split "test"'):
        read_captions(f"{tmp_path}#split=test")
    oddly = written(tmp_path, "b#split=test", COCO)
    assert len(read_captions(oddly)) == 2  # a file of that very name comes first


def test_image_folder_with_metadata(tmp_path):
    lines = '{"file_name": "a/1.png", "text": "x"}\n{"file_name": "2.png", "text": "y"}\n'
    path = written(tmp_path, "train/metadata.jsonl", lines)
    found = read_captions(path.parent)
    assert found.form == "image folder (metadata.jsonl)"
    assert found.source == str(path.parent)
    assert found.captions == {"a/1.png": ["x"], "2.png": ["y"]}
    assert found.file_names == {"a/1.png": "a/1.png", "2.png": "2.png"}
    path.unlink()
    written(tmp_path, "train/metadata.csv", "file_name,text\n2.png,z\n")
    assert read_captions(path.parent).captions == {"2.png": ["z"]}
    written(tmp_path, "train/metadata.csv", "file_name,text\n2.png,z,\n")
    with pytest.raises(UserError, match=r"metadata\.csv: line 2 has 3 cells"):
        read_captions(path.parent)


def test_sidecars(tmp_path):
    for name in ("b/2.jpg", "1.PNG", "3.jpg", "4.v2.jpg", "none.jpg"):
        written(tmp_path, name, b"pixels")
    written(tmp_path, "b/2.txt", " first \r\n\r\nsecond\u2028half\n")
    written(tmp_path, "1.txt", "")
    written(tmp_path, "3.jpg.txt", "third")
    written(tmp_path, "4.v2.txt", "fourth")
    written(tmp_path, "README.txt", "about these images")
    found = read_captions(tmp_path)
    assert found.form == "sidecars"
    assert found.captions == {
        "1": [""],
        "3": ["third"],
        "4.v2": ["fourth"],
        "b/2": [" first ", "second\u2028half"],
    }
    assert list(found.captions) == sorted(found.captions)
    assert found.file_names == {"1": "1.PNG", "3": "3.jpg", "4.v2": "4.v2.jpg", "b/2": "b/2.jpg"}
    assert read_captions(tmp_path).sha256 == found.sha256
    written(tmp_path, "1.txt", "t")
    written(tmp_path, "3.jpg.txt", "hird")
    assert read_captions(tmp_path).sha256 != found.sha256
    written(tmp_path, "1.jpg", b"pixels")
    with pytest.raises(UserError, match=r'image "1" has two files, "1.PNG" and "1.jpg"'):
        read_captions(tmp_path)


def test_folder_of_texts_only(tmp_path):
    written(tmp_path, "b.txt", "x\n")
    written(tmp_path, "c/a.txt", "y\nz")
    written(tmp_path, ".hidden.txt", "no")
    found = read_captions(tmp_path)
    assert found.captions == {"b": ["x"], "c/a": ["y", "z"]}
    assert found.file_names == {}


FIGURE = {"name": None, "corpus": 0.5, "interval": None, "recipe": {}}


def run_of(
    folder: Path, records: list[dict[str, object]], kind: str = "baking", **metrics: object
) -> Path:
    options = EmbedOptions(images=["p"], to=["f.npz"])
    with RunWriter(folder, kind=kind, options=options, root=folder) as run:
        for record in records:
            run.record(record)
        run.metrics = {"images": len(records), **metrics}
    return folder


def test_captune_runs(tmp_path):
    records = [
        {"image": "9", "path": "a/9.jpg", "caption": "x", "references": ["r"], "scores": {}},
        {"image": "k", "path": None, "caption": "", "scores": {}},
    ]
    folder = run_of(tmp_path / "run", records, "score", metrics={"cider": FIGURE})
    found = read_captions(folder)
    assert found.form == "captune score run"
    assert found.captions == {"9": ["x"], "k": [""]}
    assert found.file_names == {"9": "a/9.jpg"}
    lines = (folder / "records.jsonl").read_bytes()
    assert found.sha256 == hashlib.sha256(lines).hexdigest()
    captions = run_of(tmp_path / "two", [{"path": "b/1.jpg", "caption": "y"}])
    assert read_captions(captions).captions == {"b/1.jpg": ["y"]}
    assert read_captions(captions / "records.jsonl").captions == {"b/1.jpg": ["y"]}


@pytest.mark.parametrize(
    ("records", "sentence"),
    [
        ([{"path": "1.jpg", "top": []}], "is a baking run, which holds no captions"),
        ([], "holds no captions"),
        ([{"path": "1.jpg", "caption": None}], "record 1: its caption is nothing (null)"),
        ([{"path": "1.jpg", "caption": "x"}] * 2, 'image "1.jpg" has two records'),
        ([{"path": None, "caption": "x"}], "record 1: its image is nothing (null)"),
    ],
)
def test_runs_without_captions(tmp_path, records, sentence):
    with pytest.raises(UserError) as refusal:
        read_captions(run_of(tmp_path / "run", records))
    assert sentence in str(refusal.value)


def test_damaged_run(tmp_path):
    folder = run_of(tmp_path / "run", [{"path": "1.jpg", "caption": "x"}])
    (folder / "records.jsonl").write_text('{"path": ')
    with pytest.raises(UserError, match=r"records\.jsonl is damaged"):
        read_captions(folder)
    (folder / "records.jsonl").unlink()
    with pytest.raises(UserError, match="it is not there"):
        read_captions(folder)


def test_a_run_that_was_killed_is_no_folder_of_captions(tmp_path):
    folder = run_of(tmp_path / "run", [{"path": "1.jpg", "caption": "x"}])
    (folder / "run.json").unlink()
    with pytest.raises(UserError, match="is not a finished run folder"):
        read_captions(folder)


def test_of_numbered_columns_an_image_may_have_fewer(tmp_path):
    path = written(tmp_path, "c.csv", "image,caption_1,caption_2\n1.jpg,x,y\n2.jpg,,z\n")
    assert read_captions(path).captions == {"1.jpg": ["x", "y"], "2.jpg": ["z"]}
    path = written(tmp_path, "d.csv", "image,caption\n1.jpg,\n")  # an empty caption is one
    assert read_captions(path).captions == {"1.jpg": [""]}


def test_reading_loads_no_heavy_library(tmp_path):
    path = written(tmp_path, "a.json", {"1": "x"})
    code = (
        "import sys; from captune.captions import match_captions, read_captions\n"
        f"file = read_captions({str(path)!r}); match_captions(file, file)\n"
        "print([name for name in ('torch', 'numpy', 'PIL', 'scipy') if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_many_captions_in_seconds(tmp_path):
    """Processor time, not wall time: 100,000 captions well under what a minute would allow."""
    from time import process_time

    count = 100_000
    annotations = [{"image_id": n // 5, "id": n, "caption": f"caption {n}"} for n in range(count)]
    images = [{"id": n, "file_name": f"{n:012d}.jpg"} for n in range(count // 5)]
    path = written(tmp_path, "a.json", {"images": images, "annotations": annotations})
    start = process_time()
    found = read_captions(path)
    assert process_time() - start < 5
    assert len(found) == count // 5
