from __future__ import annotations

import gzip
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from tests.metrics.conftest import Coco
from tests.metrics.tiny import IMAGES, Pairs, corpus_of

from captune_metrics import frequency
from captune_metrics.cider_d import cider_of, cider_original_of
from captune_metrics.corpus import Corpus
from captune_metrics.errors import UserError
from captune_metrics.frequency import (
    SHIPPED,
    DocumentFrequency,
    is_file,
    name_of_table,
    resolve_df,
)

# counted once over the 20,014 references; a change of the table is a change of everyone's scores
COCO_DIGEST = "7dd2965af2895866fc698abeb428bb7533bf0d8ec78806e5539e9f54b4f1b586"


def test_images_are_counted_not_captions() -> None:
    references = {"x": ["a dog a dog", "a dog"], "y": ["a cat", "dog"], "z": ["cat"]}
    table = DocumentFrequency.counted(references, "mine")
    assert table.counts == {("a",): 2, ("dog",): 2, ("cat",): 2}
    assert (table.name, table.images, table.tokenizer) == ("mine", 3, "ptb")


@settings(deadline=None, max_examples=60)
@given(pairs=IMAGES)
def test_a_saved_table_scores_as_the_corpus_it_was_counted_over(pairs: Pairs) -> None:
    corpus = corpus_of(pairs)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.tsv.gz"
        DocumentFrequency.counted(corpus, "saved").save(path)
        loaded = DocumentFrequency.load(path)
    assert all(count >= 2 for count in loaded.counts.values())
    for metric in (cider_of, cider_original_of):
        assert metric(corpus, loaded).per_image == metric(corpus).per_image


def test_the_bytes_of_a_table_depend_on_its_content_only(tmp_path: Path) -> None:
    counts = {("b",): 2, ("a", "b"): 3, ("a",): 4}
    first = DocumentFrequency("name", 9, counts)
    second = DocumentFrequency("name", 9, dict(reversed(counts.items())))
    first.save(tmp_path / "first")
    second.save(tmp_path / "second")
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()
    assert first.digest == second.digest == DocumentFrequency("other", 9, counts).digest
    assert first.digest != DocumentFrequency("name", 10, counts).digest
    assert first.digest != DocumentFrequency("name", 9, {**counts, ("a",): 5}).digest


def test_a_saved_table_keeps_what_is_said_about_it(tmp_path: Path) -> None:
    table = DocumentFrequency("n", 5, {("ü\u00b7", "\ud800"): 2}, "own", "1.2", "mine, CC BY")
    table.save(tmp_path / "t.tsv.gz")
    loaded = DocumentFrequency.load(tmp_path / "t.tsv.gz")
    assert vars(loaded) == vars(table)
    assert loaded.digest == table.digest


def test_the_shipped_table_is_the_one_that_scores_were_published_with() -> None:
    table = DocumentFrequency.shipped("coco-val2017")
    assert table.digest == COCO_DIGEST
    assert {"coco-val2017": COCO_DIGEST} == SHIPPED
    assert (table.name, table.images, len(table.counts)) == ("coco-val2017", 5000, 45385)
    assert table.counts[("a",)] > 4900
    assert "CC BY 4.0" in table.source
    assert min(table.counts.values()) == 2


@pytest.mark.needs("shared")
def test_the_shipped_table_can_be_counted_again_and_scores_alike(coco: Coco) -> None:
    shipped = DocumentFrequency.shipped("coco-val2017")
    counted = DocumentFrequency.counted(coco.corpus, "again")
    assert counted.digest == shipped.digest
    assert cider_of(coco.corpus, shipped).per_image == cider_of(coco.corpus).per_image


def test_df_is_corpus_a_shipped_table_or_a_file(tmp_path: Path) -> None:
    assert resolve_df("corpus") is None
    shipped = resolve_df("coco-val2017")
    assert shipped is not None
    assert shipped.images == 5000
    DocumentFrequency("mine", 3, {("a",): 2}).save(tmp_path / "mine.gz")
    mine = resolve_df(str(tmp_path / "mine.gz"))
    assert mine is not None
    assert mine.name == "mine"
    with pytest.raises(UserError, match="is not a file; give corpus, coco-val2017 or a table"):
        resolve_df(str(tmp_path / "other.gz"))
    with pytest.raises(UserError, match="captune comes with coco-val2017"):
        DocumentFrequency.shipped("coco-2030")


def test_words_of_df_are_words_where_a_file_has_their_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("corpus", "coco-val2017", "mine"):
        DocumentFrequency("other", 3, {("a",): 2}).save(tmp_path / name)
    assert [is_file(name) for name in ("corpus", "coco-val2017", "mine")] == [False, False, True]
    assert resolve_df("corpus") is None
    assert not is_file("x" * 5000)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        *(("mine", "mine"), ("mine.gz", "mine"), ("mine.df.gz", "mine"), ("a.v2.tsv.gz", "a.v2")),
        *(("Mine.DF.GZ", "Mine"), (".gz", ".gz"), ("corpus.json", "corpus.json")),
    ],
)
def test_a_table_is_called_as_its_file(file: str, name: str) -> None:
    assert name_of_table(Path("folder") / file) == name


@pytest.mark.parametrize("file", ["corpus", "corpus.df.gz", "Corpus.gz", "coco-val2017.tsv.gz"])
def test_no_table_is_saved_under_a_name_that_means_another(file: str) -> None:
    with pytest.raises(UserError, match="give the file another name"):
        name_of_table(Path(file))


HEADER = {
    "format": "captune document frequencies 1",
    "name": "n",
    "images": 5,
    "ngrams": 2,
    "tokenizer": "ptb",
    "tokenizer_version": None,
    "source": "",
}
BODY = b"3\ta\n2\ta b\n"


def _with(**changes: Any) -> Callable[[], bytes]:
    return lambda: json.dumps({**HEADER, **changes}).encode() + b"\n" + BODY


def _body(body: bytes, n: int = 2) -> Callable[[], bytes]:
    return lambda: json.dumps({**HEADER, "ngrams": n}).encode() + b"\n" + body


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (lambda: b"", "its first line does not say"),
        (lambda: b"{}\n", "its first line does not say"),
        (lambda: b"[" * 9999, "its first line does not say"),
        (lambda: b'{"images":' + b"9" * 9000 + b"}\n", "its first line does not say"),
        (_with(format="other"), "its first line does not say"),
        (_with(images=0), "its images must be a number from 1"),
        (_with(images=True), "its images must be a number"),
        (_with(images=2.5), "its images must be a number"),
        (_with(ngrams=10**12), "its ngrams must be a number"),
        (_with(ngrams=3), "does not hold the 3 n-grams"),
        (_with(name=7), "its name must be a string"),
        (_with(source=None), "its source must be a string"),
        (_body(b"3\ta\n2\ta b"), "does not hold the 2 n-grams"),
        (_body(b"3\ta\n6\ta b\n"), "line 3: expected a count from 1 to 5"),
        (_body(b"3\ta\n0\ta b\n"), "line 3: expected a count"),
        (_body(b"3\ta\n-1\ta b\n"), "line 3: expected a count"),
        (_body("3\ta\n\u0663\ta b\n".encode()), "line 3: expected a count"),
        (_body(b"3\ta\n" + b"1" * 5000 + b"\tb\n"), "line 3: expected a count"),
        (_body(b"3 a\n2\ta b\n"), "line 2: expected a count"),
        (_body(b"3\ta\n2\ta  b\n"), "line 3: expected 1 to 4 words"),
        (_body(b"3\ta\n2\t\n"), "line 3: expected 1 to 4 words"),
        (_body(b"3\ta\n2\ta b c d e\n"), "line 3: expected 1 to 4 words"),
        (_body(b"3\ta\n2\ta\n"), "names an n-gram twice"),
        (_body(b"3\ta\n2\t\xff\n"), "is not UTF-8"),
        (_body(b"", 2), "does not hold the 2 n-grams"),
    ],
)
def test_a_file_that_is_no_table_is_refused(
    tmp_path: Path, text: Callable[[], bytes], says: str
) -> None:
    path = tmp_path / "broken.tsv.gz"
    path.write_bytes(gzip.compress(text()))
    with pytest.raises(UserError, match=says) as caught:
        DocumentFrequency.load(path)
    assert str(caught.value).startswith((f"{path}: ", f"{path} "))
    assert "expected a table saved by captune score --save-df" in str(caught.value)


def test_an_empty_table_is_a_table(tmp_path: Path) -> None:
    path = tmp_path / "empty.gz"
    DocumentFrequency("empty", 7, {}).save(path)
    loaded = DocumentFrequency.load(path)
    assert loaded.counts == {}
    # every n-gram weighs the same
    assert cider_of(corpus_of([("a b c d", ["a b c d"])]), loaded).corpus == pytest.approx(10)


def test_what_is_not_gzip_or_cut_off_or_a_folder_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.gz"
    DocumentFrequency("n", 500, {(f"w{i}",): 2 for i in range(500)}).save(path)
    whole = path.read_bytes()
    for content, says in (
        (b"just text", "is not gzip"),
        (whole[: len(whole) // 2], "cut off or damaged"),
        (whole[:200] + b"\xff" * 9 + whole[209:], "damaged|not hold|first line|UTF-8|count"),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=says):
            DocumentFrequency.load(path)
    with pytest.raises(UserError, match="cannot be read"):
        DocumentFrequency.load(tmp_path)
    with pytest.raises(UserError, match="cannot be read"):
        DocumentFrequency.load(tmp_path / "none")


def test_a_file_that_unpacks_to_more_than_the_bound_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(_body(b"\n" * 2_000_000, 2_000_000)()))
    monkeypatch.setattr(frequency, "_MAX_BYTES", 1_000_000)
    with pytest.raises(UserError, match="more than"):
        DocumentFrequency.load(path)
    # a first line that never ends is not read to its end
    path.write_bytes(gzip.compress(b" " * 50_000_000))
    with pytest.raises(UserError, match="its first line does not say"):
        DocumentFrequency.load(path)


def test_a_table_says_nothing_to_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "t.gz"
    path.write_bytes(gzip.compress(_with(name="x\x1b[2J", source="y\r")()))
    table = DocumentFrequency.load(path)
    assert table.name.isprintable()
    assert table.source.isprintable()


def test_scoring_with_another_tokenizer_than_the_tables_is_noted() -> None:
    corpus = Corpus({"x": "a dog"}, {"x": ["a dog"]}, "none")
    notes = cider_of(corpus, DocumentFrequency.shipped("coco-val2017")).notes
    assert "use one tokenizer for both" in notes[0]
