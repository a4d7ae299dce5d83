"""The calls of pycocoevalcap: held to pycocoevalcap itself, with its Java."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from captune_metrics.errors import MismatchedImages, UserError
from captune_metrics.pycocoevalcap import COCO, Bleu, Cider, COCOEvalCap, PTBTokenizer, Rouge

REFERENCES = {
    139: ["A man's dog isn't here.", "There is no dog at 10:30AM (U.S.)", "an empty\nyard"],
    285: ["A big bear sits in the grass.", "a brown bear, sitting"],
    632: ["A bedroom with a bookshelf!", "Bed, books & a window -- nobody there."],
    724: ["Stop sign on Main St.", 'a red sign that says "STOP"'],
    776: ["Three teddy bears", "three stuffed bears are laying in a bed"],
}
RESULTS = {
    139: "a dog isn't there.",
    285: "A brown bear sitting in the grass",
    632: "a bedroom with books and a bed",
    724: "a red stop sign",
    776: "",
}


def annotations() -> dict[str, Any]:
    captions = [(image, text) for image, texts in REFERENCES.items() for text in texts]
    return {
        "images": [{"id": image, "file_name": f"{image}.jpg"} for image in REFERENCES],
        "annotations": [
            {"id": number, "image_id": image, "caption": text}
            for number, (image, text) in enumerate(captions)
        ],
    }


def results(images: list[int]) -> list[dict[str, Any]]:
    return [{"image_id": image, "caption": RESULTS[image]} for image in images]


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """References and results, as COCO has them; the results in an order of their own."""
    (tmp_path / "refs.json").write_text(json.dumps(annotations()))
    (tmp_path / "res.json").write_text(json.dumps(results([*REFERENCES][::-1])))
    return tmp_path / "refs.json", tmp_path / "res.json"


class _Nothing:
    """In the place of a scorer of theirs that takes 2 to 8 GB of memory."""

    def compute_score(self, gts: Any, res: Any) -> tuple[float, list[float]]:
        return 0.0, [0.0] * len(gts)

    def method(self) -> str:
        return "nothing"


@pytest.mark.needs("java")
@pytest.mark.parametrize("subset", [None, [724, 139, 285]])
def test_figures_are_those_of_pycocoevalcap_with_java(
    files: tuple[Path, Path], subset: list[int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = pytest.importorskip("pycocoevalcap.eval")
    monkeypatch.setattr(module, "Meteor", _Nothing)
    monkeypatch.setattr(module, "Spice", _Nothing)
    index = pytest.importorskip("pycocotools.coco").COCO
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        theirs_coco = index(str(files[0]))
        theirs = module.COCOEvalCap(theirs_coco, theirs_coco.loadRes(str(files[1])))
        if subset:
            theirs.params["image_id"] = subset
        theirs.evaluate()
    coco = COCO(files[0])
    lines: list[str] = []
    for made_by, own_coco in (("us", coco), ("pycocotools", theirs_coco)):
        with contextlib.redirect_stdout(io.StringIO()):
            ours = COCOEvalCap(own_coco, own_coco.loadRes(str(files[1])), show=lines.append)
        if subset:
            ours.params["image_id"] = subset
        ours.evaluate()
        left_out = {"METEOR", "SPICE"}
        assert list(ours.eval) == [name for name in theirs.eval if name not in left_out], made_by
        for name, figure in ours.eval.items():
            assert figure == pytest.approx(theirs.eval[name], abs=1e-12), name
        assert list(ours.imgToEval) == list(theirs.imgToEval)
        for mine, other in zip(ours.evalImgs, theirs.evalImgs, strict=True):
            wanted = {name: other[name] for name in other if name not in left_out}
            assert mine == pytest.approx(wanted, abs=1e-9)
    assert set(lines) <= set(said.getvalue().splitlines())


@pytest.mark.needs("java")
def test_meteor_is_there_on_request() -> None:
    theirs = pytest.importorskip("pycocoevalcap.meteor.meteor").Meteor()
    coco = COCO()
    coco.dataset = annotations()
    coco.createIndex()
    evaluation = COCOEvalCap(coco, coco.loadRes(results([139, 285])), meteor=True, show=str)
    evaluation.params["image_id"] = [139, 285]
    evaluation.evaluate()
    gts, res = (
        PTBTokenizer().tokenize({image: index.imgToAnns[image] for image in (139, 285)})
        for index in (coco, evaluation.cocoRes)
    )
    figure, each = theirs.compute_score(gts, res)
    assert evaluation.eval["METEOR"] == pytest.approx(figure, abs=1e-9)
    assert [one["METEOR"] for one in evaluation.evalImgs] == pytest.approx(each, abs=1e-9)


@pytest.mark.needs("java")
def test_tokens_are_those_of_javas_tokenizer() -> None:
    theirs = pytest.importorskip("pycocoevalcap.tokenizer.ptbtokenizer").PTBTokenizer()
    captions = {image: [{"caption": t} for t in texts] for image, texts in REFERENCES.items()}
    assert PTBTokenizer().tokenize(captions) == theirs.tokenize(captions)


def test_the_scorers_are_those_of_pycocoevalcap() -> None:
    gts = PTBTokenizer().tokenize(
        {image: [{"caption": text} for text in texts] for image, texts in REFERENCES.items()}
    )
    res = PTBTokenizer().tokenize({i: [{"caption": text}] for i, text in RESULTS.items()})
    for ours, name in ((Cider(), "cider.cider.Cider"), (Rouge(), "rouge.rouge.Rouge")):
        folder, file, cls = name.split(".")
        theirs = getattr(pytest.importorskip(f"pycocoevalcap.{folder}.{file}"), cls)()
        (mine, each), (other, every) = ours.compute_score(gts, res), theirs.compute_score(gts, res)
        assert mine == pytest.approx(other, abs=1e-12)
        assert np.abs(each - every).max() < 1e-9
        assert ours.method() == theirs.method()
    theirs = pytest.importorskip("pycocoevalcap.bleu.bleu").Bleu(3)
    figures, each = Bleu(3).compute_score(gts, res, verbose=0)
    others, every = theirs.compute_score(gts, res, verbose=0)
    assert figures == pytest.approx(others, abs=1e-12)
    assert np.abs(np.array(each) - np.array(every)).max() < 1e-9


def test_a_caption_with_a_line_end_moves_no_other_caption() -> None:
    found = PTBTokenizer().tokenize({1: [{"caption": "a\u2028dog"}], 2: [{"caption": "a cat"}]})
    assert found == {1: ["a dog"], 2: ["a cat"]}


def test_images_without_a_caption_are_named_and_the_subset_is_scored() -> None:
    coco = COCO()
    coco.dataset = annotations()
    coco.createIndex()
    some = coco.loadRes(results([285, 139]))
    assert some.getImgIds() == [139, 285]
    evaluation = COCOEvalCap(coco, some, show=lambda line: None)
    with pytest.raises(MismatchedImages, match=r'no caption for images "632", "724", "776"; to'):
        evaluation.evaluate()
    evaluation.params["image_id"] = some.getImgIds()
    evaluation.evaluate()
    assert [one["image_id"] for one in evaluation.evalImgs] == [139, 285]
    assert coco.getAnnIds(285) == [3, 4]
    assert coco.loadAnns([3])[0]["caption"] == REFERENCES[285][0]
    assert coco.loadImgs(139)[0]["file_name"] == "139.jpg"
    assert coco.getImgIds([632, 7]) == [632]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([{"image_id": 1, "caption": "x"}], 'image "1" not among the annotated ones'),
        ([{"image_id": 139}], "result 1 has no caption"),
        ([{"image_id": 139, "caption": None}], "result 1: its caption is not text"),
        ([{"image_id": [139], "caption": "x"}], "its image_id is neither text nor a number"),
        ({"139": "x"}, "expected a list of"),
        ("{", "is not JSON \\(line 1"),
        (b"\xff", "is not UTF-8 text"),
        ("[" * 100_000, "cannot be read"),
    ],
)
def test_what_is_no_result_is_refused(content: Any, says: str, tmp_path: Path) -> None:
    coco = COCO()
    coco.dataset = annotations()
    coco.createIndex()
    path = tmp_path / "res.json"
    data = content if isinstance(content, str | bytes) else json.dumps(content)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    with pytest.raises(UserError, match=says):
        coco.loadRes(path)


def test_a_file_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("captune_metrics.coco.LARGEST_TEXT", 2**20)
    path = tmp_path / "refs.json"
    with path.open("wb") as file:
        file.truncate(20 * 2**30)
    with pytest.raises(UserError, match=r"refs.json cannot be read .*over the limit of 1 MiB"):
        COCO(path)


def test_several_captions_of_one_image_are_refused() -> None:
    with pytest.raises(UserError, match='image "1": expected one caption to score'):
        Cider().compute_score({1: ["a"]}, {1: ["a", "b"]})
    with pytest.raises(UserError, match='"2"'):
        Rouge().compute_score({1: ["a"], 2: ["b"]}, {1: ["a"]})
