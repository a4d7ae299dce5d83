"""One file of every form, what it is called, and what must be read from it; all invented."""

import json
from pathlib import Path

from captune.captions import read_captions
from captune.errors import UserError
from captune_metrics.display import printable


def written(folder: Path, name: str, content: object) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, str):
        path.write_bytes(content.encode())
    else:
        path.write_text(json.dumps(content), encoding="utf-8")
    return path


def assert_captions_or_one_sentence(path: Path) -> None:
    refusal = None
    try:
        captions = read_captions(path).captions
    except UserError as error:
        refusal = str(error)
    if refusal is not None:
        assert refusal == printable(refusal)
        return
    assert captions
    assert all(type(id) is str and several for id, several in captions.items())
    assert all(type(caption) is str for several in captions.values() for caption in several)


COCO = {
    "info": {"year": 2026},
    "images": [
        {"id": 9, "file_name": "000000000009.jpg", "width": 4, "height": 3},
        {"id": 25, "file_name": "000000000025.jpg"},
        {"id": 30, "file_name": "000000000030.jpg"},
    ],
    "annotations": [
        {"id": 1, "image_id": 25, "caption": "Two owls on a fence."},
        {"id": 2, "image_id": 9, "caption": " A blue kettle.\n"},
        {"id": 3, "image_id": 25, "caption": "Owls, two of them"},
    ],
}
KARPATHY = {
    "dataset": "coco",
    "images": [
        {
            "filepath": "val2014",
            "filename": "COCO_val2014_000000000042.jpg",
            "imgid": 0,
            "cocoid": 42,
            "split": "test",
            "sentences": [
                {"tokens": ["a", "red", "barn"], "raw": "A red barn.", "sentid": 0},
                {"tokens": ["a", "barn"], "raw": "a barn", "sentid": 1},
            ],
        },
        {
            "filename": "17_owl.jpg",
            "imgid": 1,
            "split": "restval",
            "sentences": [{"raw": "An owl"}],
        },
    ],
}
A, B = "A cat, asleep.", 'A "dog" runs'
TWO = {"1.jpg": [A], "2.jpg": [B]}
NAMES = {"1.jpg": "1.jpg", "2.jpg": "2.jpg"}

FORMS = [
    ("stems.json", {"1": A, "2": B}, '{"stem": "caption"}', {"1": [A], "2": [B]}, {}),
    (
        "many.json",
        {"b": [A, B], "a": ["", " "]},
        '{"stem": ["caption", ...]}',
        {"b": [A, B], "a": ["", " "]},
        {},
    ),
    (
        "scorer.json",
        {"7": [{"image_id": 7, "caption": A}, {"caption": B}]},
        '{"stem": ["caption", ...]}',
        {"7": [A, B]},
        {},
    ),
    (
        "images_as_stem.json",
        {"images": "Images on a wall", "annotations": "Notes"},
        '{"stem": "caption"}',
        {"images": ["Images on a wall"], "annotations": ["Notes"]},
        {},
    ),
    (
        "results.json",
        [
            {"image_id": 9, "caption": A},
            {"image_id": "x", "caption": B},
            {"image_id": 7.0, "caption": ""},
        ],
        "COCO results",
        {"9": [A], "x": [B], "7": [""]},
        {},
    ),
    (
        "coco.json",
        COCO,
        "COCO annotations",
        {"9": [" A blue kettle.\n"], "25": ["Two owls on a fence.", "Owls, two of them"]},
        {"9": "000000000009.jpg", "25": "000000000025.jpg", "30": "000000000030.jpg"},
    ),
    (
        "annotations_only.json",
        {"annotations": COCO["annotations"]},
        "COCO annotations",
        {"25": ["Two owls on a fence.", "Owls, two of them"], "9": [" A blue kettle.\n"]},
        {},
    ),
    (
        "karpathy.json",
        KARPATHY,
        "Karpathy's splits",
        {"42": ["A red barn.", "a barn"], "17_owl.jpg": ["An owl"]},
        {"42": "COCO_val2014_000000000042.jpg", "17_owl.jpg": "17_owl.jpg"},
    ),
    (
        "kaggle.txt",
        'image,caption\n1.jpg,"A cat, asleep."\n2.jpg,"A ""dog"" runs"\n',
        "CSV",
        TWO,
        NAMES,
    ),
    (
        "bare.csv",
        '1.jpg,"A cat, asleep."\r\n2.jpg,"A ""dog"" runs"\r\n',
        "CSV without header",
        TWO,
        NAMES,
    ),
    (
        "semi.csv",
        'Filename;Comment\n1.jpg;A cat, asleep.\n2.jpg;"A ""dog"" runs"',
        "CSV",
        TWO,
        NAMES,
    ),
    (
        "t.tsv",
        'caption\timage path\nA cat, asleep.\t1.jpg\n"A ""dog"" runs"\t2.jpg\n',
        "TSV",
        TWO,
        NAMES,
    ),
    (
        "ids.csv",
        "\n,,\nid,image_id,file_name,caption\n0,5,a/1.jpg, one \n1,5,a/1.jpg,\n2,6,,three\n,,,\n",
        "CSV",
        {"5": [" one ", ""], "6": ["three"]},
        {"5": "a/1.jpg"},
    ),
    (
        "numbered.csv",
        "name,caption_1,caption_2,comment_number\n1,x,y,0\n2,z,,0\n",
        "CSV",
        {"1": ["x", "y"], "2": ["z"]},
        {},
    ),
    (
        "lists.csv",
        'filename,references\n1.jpg,"[""x"", ""[y]""]"\n2.jpg,plain\n',
        "CSV",
        {"1.jpg": ["x", "[y]"], "2.jpg": ["plain"]},
        NAMES,
    ),
    (
        "literal.csv",
        'image,caption\n1.jpg,"[""x""]"\n2.jpg,NaN',
        "CSV",
        {"1.jpg": ['["x"]'], "2.jpg": ["NaN"]},
        NAMES,
    ),
    (
        "lines.csv",
        'image,caption\n1.jpg,"two\nlines"\n2.jpg,b',
        "CSV",
        {"1.jpg": ["two\nlines"], "2.jpg": ["b"]},
        NAMES,
    ),
    (
        "Flickr8k.token.txt",
        '1.jpg#0\tA cat , asleep .\n1.jpg#1\t"Asleep" \n2#x.jpg#0\t\n',
        "Flickr tokens",
        {"1.jpg": ["A cat , asleep .", '"Asleep" '], "2#x.jpg": [""]},
        {"1.jpg": "1.jpg", "2#x.jpg": "2#x.jpg"},
    ),
    (
        "results.csv",
        'image_name| comment_number| comment\n1.jpg| 0| A cat | "asleep" .\n1.jpg| 1|  spaced\n'
        "2.jpg| 4   A dog runs .\n",
        "Flickr30k results",
        {"1.jpg": ['A cat | "asleep" .', " spaced"], "2.jpg": ["A dog runs ."]},
        NAMES,
    ),
    (
        "c.jsonl",
        '{"image": "1.jpg", "caption": "x\u2028y"}\n\n{"image":"2.jpg","captions":["a", ""]}\r\n',
        "JSON lines",
        {"1.jpg": ["x\u2028y"], "2.jpg": ["a", ""]},
        NAMES,
    ),
    (
        "one.jsonl",
        '{"file_name": "1.jpg", "text": "x"}',
        "JSON lines",
        {"1.jpg": ["x"]},
        {"1.jpg": "1.jpg"},
    ),
    (
        "lines_in.json",
        '\n{"image_id": 3, "caption": "x"}\n{"image_id": 3, "references": ["y"]}',
        "JSON lines",
        {"3": ["x", "y"]},
        {},
    ),
    (
        "rank.json",
        [
            {"image": "k7", "path": "a/7.png", "caption": "x", "references": ["y"]},
            {"image": "k8", "path": None, "text": "z"},
        ],
        "JSON list",
        {"k7": ["x"], "k8": ["z"]},
        {"k7": "a/7.png"},
    ),
]
