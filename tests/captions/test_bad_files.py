"""Bad caption files: one sentence that names file and place, never a traceback."""

import bz2
import gzip
import json
import lzma
import pickle
import random

import pytest
from tests.captions.caption_forms import FORMS, assert_captions_or_one_sentence, written

from captune.captions import read_captions
from captune.errors import UserError


def annotated(**annotation: object) -> dict[str, object]:
    return {"images": [{"id": 1}], "annotations": [annotation]}


BAD = [
    ("", "c is empty; give"),
    (" \n\t\r\n", "c is empty; give"),
    (",".join(f"c{n}" for n in range(100_000)), "line names no columns for image and caption (it"),
    ("{}", "holds no captions"),
    ("[]", "is an empty list"),
    ("{", "is not valid JSON at line 1, column 2"),
    ("{'a': 'b'}", "is not valid JSON at line 1"),
    ('{\n "a": "x",\n}', "is not valid JSON at line 3"),
    ('[{"image_id": 1, "caption": "x"},]', "is not valid JSON at line 1"),
    ('{"a": "x"} junk', "is not valid JSON at line 1, column 12"),
    ('{"a": "x", "b": "y", "a": "z"}', 'key "a" appears twice; keep one of them'),
    ('{\n"a": "x",\n"b": "y",\n"a": "z"\n}', 'key "a" appears twice (again in line 4); keep one'),
    ('[{"image_id": 1, "caption": "x", "caption": "y"}]', 'key "caption" appears twice'),
    ('{"a": NaN}', "holds NaN, which is not JSON"),
    ('[{"image_id": 1, "caption": -Infinity}]', "holds -Infinity, which is not JSON"),
    ('[{"image_id": 1e999, "caption": "x"}]', "entry 1: its image_id is a number, and text or a"),
    ("[" * 100_000, "nested too deeply"),
    ('{"a":' * 100_000, "nested too deeply"),
    ('[{"image_id": ' + "9" * 5_000 + ', "caption": "x"}]', "absurd numbers"),
    ({"a": "x", "b": None}, 'the caption of image "b" is nothing (null), and text was expected'),
    ({"a": None}, 'the caption of image "a" is nothing (null), and text was expected'),
    ({"a": ["x"], "b": None}, 'the caption of image "b" is nothing (null)'),
    ({"a": 3, "b": True}, 'the caption of image "a" is a number, and text was expected'),
    ({"a": "x", "b": 3}, 'the caption of image "b" is a number'),
    ({"a": ["x", None]}, 'caption 2 of image "a" is nothing (null)'),
    ({"a": ["x", ["y"]]}, 'caption 2 of image "a" is a list'),
    ({"a": []}, 'image "a" has no captions; give it one'),
    ({"": "x"}, "entry 1: its image id is empty"),
    (
        {"a": {"b": "x"}, "c": {}, "d": 1, "e": 2, "f": 3},
        'JSON of no known form (an object with "a", "c", "d" and 2 more',
    ),
    ({"version": 1, "data": []}, "JSON of no known form"),
    ('{"a": "\\ud83d"}', 'entry 1: its caption is not whole text ("\\ud83d")'),
    ('{"\\udc00": "x"}', 'entry 1: its image id is not whole text ("\\udc00")'),
    ('{"a": "x\\u0000y"}', 'entry 1: its caption holds a zero byte ("x\\x00y")'),
    ('["a", "b"]', "entry 1 is a text, and an object with an image and a caption was expected"),
    ([{"image_id": 1, "caption": "x"}, None], "entry 2 is nothing (null), and an object"),
    (
        [{"image_id": 1, "caption": "x"}, {"image_id": 2}],
        'entry 2 has no image and caption (it has "image_id")',
    ),
    ([{"image_id": 1, "caption": "x"}, {}], "entry 2 has no image and caption (it has nothing)"),
    ([{"image_id": None, "caption": "x"}], "entry 1: its image_id is nothing (null)"),
    ([{"image_id": True, "caption": "x"}], "entry 1: its image_id is true or false"),
    ([{"image_id": 1.5, "caption": "x"}], "entry 1: its image_id is a number"),
    ([{"image_id": [1], "caption": "x"}], "entry 1: its image_id is a list"),
    ([{"image_id": "", "caption": "x"}], "entry 1: its image_id is empty"),
    ([{"image_id": 1, "caption": 3}], "entry 1: its caption is a number"),
    ([{"image_id": 1, "caption": {}}], "entry 1: its caption is an object"),
    ([{"image_id": 1, "captions": []}], "entry 1 has no captions"),
    ([{"image_id": 1, "caption": "x", "file_name": 3.5}], "its file_name is a number"),
    (
        [{"image_id": 1, "file_name": n, "caption": "x"} for n in ("a.jpg", "b.jpg")],
        'image "1" has two files, "a.jpg" and "b.jpg"',
    ),
    ({"images": [{"id": 1, "file_name": "1.jpg"}]}, 'has "images" but no "annotations"'),
    ({"images": [{"id": 1}], "annotations": []}, 'has "images" but no "annotations"'),
    ({"images": [{"id": 1}], "annotations": "x"}, 'has "images" but no "annotations"'),
    ({"images": {}, "annotations": [{"image_id": 1, "caption": "x"}]}, '"images" is an object'),
    ({"images": [{"id": 1}, 3], "annotations": [{}]}, 'image 2 of "images" has no "id"'),
    ({"images": [{"file_name": "x"}], "annotations": [{}]}, 'image 1 of "images" has no "id"'),
    ({"images": [{"id": None}], "annotations": [{}]}, "image 1: its id is nothing (null)"),
    ({"images": [{"id": 1, "file_name": 3.5}], "annotations": [{}]}, "image 1: its file_name is"),
    (
        {"images": [{"id": 1, "file_name": n} for n in "ab"], "annotations": [{}]},
        'image id "1" appears twice in "images"',
    ),
    (
        annotated(image_id=1, bbox=[1, 2, 3, 4], category_id=3),
        'annotation 1 has no caption (it has "image_id", "bbox", "category_id")',
    ),
    (annotated(caption="x"), "annotation 1 has no image_id"),
    (annotated(image_id=1, caption=None), "annotation 1: its caption is nothing (null)"),
    (annotated(image_id=None, caption="x"), "annotation 1: its image id is nothing (null)"),
    (
        {"images": [{"id": 1}], "annotations": [{"image_id": 1, "caption": "x"}, 7]},
        "annotation 2 is a number",
    ),
    (
        {
            "images": [{"id": 1}],
            "annotations": [{"image_id": i, "caption": "x"} for i in (1, 7, 8, 9, 7, 10)],
        },
        'annotations name images that are not in "images": "7", "8", "9" and 1 more',
    ),
    (
        {"images": [{"filename": "1.jpg", "sentences": [{"raw": 3}]}]},
        "image 1: its caption is a number",
    ),
    ({"images": [{"sentences": [{"raw": "x"}]}]}, "image 1: its cocoid or filename is nothing"),
    (
        {"images": [{"filename": "1.jpg", "sentences": []}, {"filename": "2.jpg"}]},
        "image 2 has no list of sentences",
    ),
    ({"images": [{"filename": "1.jpg", "sentences": ["x"]}] * 2}, 'image "1.jpg" appears twice'),
    (
        '{"image": "1.jpg", "caption": "x"}\n{"image": "2.jpg", "caption": }',
        "is not valid JSON at line 2, column 31",
    ),
    ('{"image": "1.jpg", "caption": "x"}\n[3]', "line 2 is a list, and an object"),
    (
        '{"image": "1.jpg", "caption": "x"}\n\n{"image": "2.jpg"}',
        'line 3 has no image and caption (it has "image")',
    ),
    (
        '{"image": "1.jpg", "caption": "x"}\n{"image": 2, "image": 3}',
        'line 2: key "image" appears twice',
    ),
    (
        '{"image": "1.jpg", "caption": "x"}\n{"image": "2.jpg", "caption": null}',
        "line 2: its caption is nothing",
    ),
    ("just one sentence about a cat", "its first line names no columns for image and caption"),
    (
        "image,label\n1.jpg,cat\n",
        'image and caption (it has "image", "label"); write image,caption',
    ),
    ("caption\nx\n", "its first line names no columns"),
    ("image,caption\n", "holds no captions (CSV)"),
    ("image,caption\n1.jpg,x\n2.jpg\n", "line 3 has 1 cells, where the header has 2"),
    ("image,caption\n1.jpg,A cat, asleep\n", "line 2 has 3 cells, where the header has 2"),
    ("image,caption\n,x\n", "line 2: its image id is empty"),
    ('image,caption\n1.jpg,"never closed\n2.jpg,x\n', "is not a table row (unexpected end of"),
    ('image,caption\n1.jpg,"a" b\n', "line 2 is not a table row"),
    ("image,caption\n1.jpg," + "x" * 200_000, "line 2 is not a table row (field larger"),
    ("image,caption,caption\n1.jpg,x,y\n", 'column "caption" appears twice'),
    ("image,captions\n1.jpg,\"['x', 'y']\"\n", "line 2: its captions are not a JSON list"),
    ('image,captions\n1.jpg,"[3]"\n', "line 2: its caption is a number"),
    (
        'image,captions\n1.jpg,"[""x""]"\n2.jpg,[]\n',
        'line 3: image "2.jpg" has no captions; give it one or take it out',
    ),
    (
        "image,caption_1,caption_2\n1.jpg,x,\n2.jpg,,\n",
        'line 3: image "2.jpg" has no captions',
    ),
    ("1.jpg#0\tx\n1.jpg\ty\n", "line 2 is not like the others"),
    (
        "image_name| comment_number| comment\n1.jpg| 0\n",
        "line 2 has 2 cells, where the header has 3",
    ),
    (b"image,caption\n1.jpg,caf\xe9\n", "is not UTF-8 text (byte 24); save it as UTF-8"),
    (b"a\0", "is not a text file (it holds zero bytes)"),
    (b"PK\x03\x04\0\0", "is a zip archive, as spreadsheets are too: unzip it first"),
    (gzip.compress(b"{}", mtime=0), "c is gzip-compressed: gunzip it first"),
    (bz2.compress(b"{}"), "is bzip2-compressed: bunzip2 it first"),
    (lzma.compress(b"{}"), "is xz-compressed: unxz it first"),
    (pickle.dumps({"a": "b"}, 4), "is a pickle, which is never loaded: save it as JSON first"),
    (b"PAR1\x15\x04\xff", "is a Parquet file: save it as CSV or JSON lines first"),
    (b"SQLite format 3\0\x10", "is an SQLite database: save its table as CSV first"),
]


@pytest.mark.parametrize(("content", "sentence"), BAD)
def test_bad_files_are_one_sentence(tmp_path, monkeypatch, content, sentence):
    monkeypatch.chdir(tmp_path)
    written(tmp_path, "c", content)
    with pytest.raises(UserError) as refusal:
        read_captions("c")
    text = str(refusal.value)
    assert text.startswith(("c: ", "c "))
    assert sentence in text
    assert text.endswith(".")
    assert text.isprintable()


@pytest.mark.parametrize("name", ["c.json", "c.jsonl", "c.ndjson"])
def test_what_is_called_json_is_read_as_json(tmp_path, name):
    for content, sentence in (
        ('"x"', "holds a text, no captions"),
        ("image,caption\n", "is not valid JSON"),
    ):
        with pytest.raises(UserError, match=sentence):
            read_captions(written(tmp_path, name, content))


def test_captions_are_not_read_from_standard_input():
    with pytest.raises(UserError, match="standard input is not read here; give"):
        read_captions("-")


@pytest.mark.parametrize("path", ["none.json", "a/b", "x" * 5000, "nul\0byte", ""])
def test_no_such_file(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    if path:
        with pytest.raises(UserError, match="does not exist; give"):
            read_captions(path)
    else:
        with pytest.raises(UserError, match="is a folder without captions"):
            read_captions(path)


def test_folder_without_captions(tmp_path):
    with pytest.raises(UserError, match="is a folder without captions; give"):
        read_captions(tmp_path)
    written(tmp_path, "1.jpg", b"pixels")
    written(tmp_path, "captions.txt", "image,caption\n1.jpg,x\n")
    with pytest.raises(UserError, match="is a folder without captions; give"):
        read_captions(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(UserError):
        read_captions(tmp_path)


def test_bad_sidecar_is_named(tmp_path):
    written(tmp_path, "1.jpg", b"pixels")
    written(tmp_path, "1.txt", b"caf\xe9")
    with pytest.raises(UserError, match=r"1\.txt is not UTF-8 text"):
        read_captions(tmp_path)


def test_hostile_names_are_printable(tmp_path):
    path = written(tmp_path, "a\x1b[31m.json", '{"\x1b]0;x\\u0007": 3}'.replace("\x1b", "\\u001b"))
    with pytest.raises(UserError) as refusal:
        read_captions(path)
    assert str(refusal.value).isprintable()


def test_broken_forms_never_crash(tmp_path):
    """Every form with a byte changed, lost or doubled: captions, or one sentence."""
    chance = random.Random(5)
    for name, content, *_ in FORMS:
        text = content if isinstance(content, str) else json.dumps(content)
        data = text.encode()
        for _ in range(40):
            place = chance.randrange(len(data))
            new = chance.choice(
                [b"", b"\0", b'"', b"{", b",", b"\n", b"\xff", data[place : place + 9]]
            )
            path = written(tmp_path, name, data[:place] + new + data[place + chance.randrange(3) :])
            assert_captions_or_one_sentence(path)
