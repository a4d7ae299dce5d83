"""Labels in every form that people have them."""

import json
import random
from pathlib import Path

import pytest

from captune.errors import UserError
from captune.zeroshot.labels import Labels, read_labels


def written(folder: Path, name: str, content: object) -> str:
    path = folder / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, str):
        path.write_bytes(content.encode())
    else:
        path.write_text(json.dumps(content), encoding="utf-8")
    return str(path)


def test_a_list_to_begin_with(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    labels = read_labels("everyday")
    assert {"cat", "traffic light", "temple"} < set(labels.names)
    assert labels.ids == labels.names
    assert len(labels) == 321, "as docs/classify.md says"
    written(tmp_path, "everyday", "a\nb\n")
    assert read_labels("everyday").names == ("a", "b")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("cat,dog", ("cat", "dog")),
        (" cat , dog,", ("cat", "dog")),
        ("cat", ("cat",)),
        ("ice cream,hot dog", ("ice cream", "hot dog")),
        ("AC/DC,Queen", ("AC/DC", "Queen")),
        ("{},{object}", ("{}", "{object}")),
        ("猫,犬", ("猫", "犬")),
        ("cat,Cat", ("cat", "Cat")),
    ],
)
def test_inline(text, names, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert read_labels(text) == Labels(names, names, None, "labels")


def test_inline_names_may_be_those_of_folders(tmp_path, monkeypatch):
    (tmp_path / "cat").mkdir()
    monkeypatch.chdir(tmp_path)
    assert read_labels("cat,dog").names == ("cat", "dog")
    assert read_labels("cat,").names == read_labels(["cat"]).names == ("cat",)


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ("cat\ndog\n", ("cat", "dog")),
        ("\ufeffcat\r\n\r\n  dog  \r\n", ("cat", "dog")),
        ("cat\rdog", ("cat", "dog")),
        ("# not a comment\nchair, folding\n{}\n", ("# not a comment", "chair, folding", "{}")),
        ("a\u2028b\x0bc\n", ("a\u2028b\x0bc",)),
        ("cat\ndog\n".encode("utf-16"), ("cat", "dog")),
    ],
)
def test_text_file(tmp_path, content, names):
    labels = read_labels(written(tmp_path, "names.txt", content))
    assert labels.names == labels.ids == names
    assert labels.prompts is None


def test_text_file_without_ending_and_as_path(tmp_path):
    path = Path(written(tmp_path, "names", "cat\ndog"))
    assert read_labels(path).names == ("cat", "dog")
    assert read_labels(str(path)).source == str(path)


def test_ids_keep_their_identity_and_order(tmp_path):
    wanted = {"07": "seven", "7": "another", "n01440764": "tench", " x ": " spaced ", "0": "zero"}
    labels = read_labels(written(tmp_path, "id2label.json", wanted))
    assert labels.ids == ("07", "7", "n01440764", " x ", "0")
    assert labels.names == ("seven", "another", "tench", "spaced", "zero")
    assert labels.index_of("7") == 1
    assert labels.index_of("tench") == 2
    assert labels.index_of("nothing") is None


def test_an_id_goes_before_a_name():
    labels = read_labels({"0": "1", "1": "0"})
    assert [labels.index_of(text) for text in ("0", "1")] == [0, 1]


@pytest.mark.parametrize(
    "content",
    [
        ["cat", "dog"],
        {"cat": ["a tabby", "a {} with whiskers"], "dog": ["a hound"]},
        {"id2label": {"0": "cat", "1": "dog"}, "model_type": "vit", "label2id": {"cat": 0}},
    ],
)
def test_json_forms(tmp_path, content):
    labels = read_labels(written(tmp_path, "labels.json", content))
    assert labels.names == ("cat", "dog")
    if isinstance(content, dict) and "cat" in content:
        assert labels.prompts == (("a tabby", "a {} with whiskers"), ("a hound",))
        assert labels.ids == ("cat", "dog")
    elif isinstance(content, dict):
        assert labels.ids == ("0", "1")
    assert read_labels(content).names == ("cat", "dog")  # the same as Python objects


def test_python_objects():
    assert read_labels(("cat", "dog")).ids == ("cat", "dog")
    assert read_labels({0: "cat", 1: "dog"}).ids == ("0", "1")
    assert len(read_labels(["cat", "dog"])) == 2


def test_ten_thousand_labels(tmp_path):
    names = [f"thing number {number}" for number in range(10_000)]
    for source in (
        ",".join(names),
        names,
        written(tmp_path, "names.txt", "\n".join(names)),
        written(tmp_path, "ids.json", {str(n): name for n, name in enumerate(names)}),
    ):
        labels = read_labels(source)
        assert labels.names == tuple(names)
        assert labels.index_of("thing number 9999") == 9_999


def test_any_name_survives_every_form(tmp_path):
    chance = random.Random(3)
    names = {
        "".join(chance.choice("abc{}[]%$#\"'\\/ :;é日😀\u200d") for _ in range(9)).strip()
        for _ in range(300)
    } - {""}
    names = sorted(names)
    ids = {f"id {number}": name for number, name in enumerate(names)}
    assert read_labels(written(tmp_path, "a.txt", "\n".join(names))).names == tuple(names)
    assert read_labels(written(tmp_path, "a.json", names)).names == tuple(names)
    assert read_labels(written(tmp_path, "b.json", ids)).names == tuple(names)
    assert read_labels(",".join(names)).names == tuple(names)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("l.json", '{"7": "a", "7": "b"}', 'l.json: class id "7" appears twice; keep one of them.'),
        ("l.json", '{"a": ["x"], "a": ["y"]}', 'label "a" appears twice'),
        ("l.json", '{"id2label": {"1": "a", "1": "b"}}', 'class id "1" appears twice'),
        ("l.json", {"1": "crane", "2": "crane"}, '"crane" appears more than once'),
        ("l.txt", "a\nb\na\nb\nc\nc\nd\nd", '"a", "b", "c" and 1 more appear more than once'),
        ("l.txt", "a\n a ", '"a" appears more than once'),
        ("l.txt", "", "there are no labels"),
        ("l.txt", " \n\r\n", "there are no labels"),
        ("l.json", "{}", "there are no labels"),
        ("l.json", "[]", "there are no labels"),
        ("l.json", '{"id2label": {}}', "there are no labels"),
        ("l.json", "", "is not valid JSON at line 1, column 1"),
        ("l.json", '{\n "a": 1,\n}', "is not valid JSON at line 3"),
        ("l.json", "{'a': 'b'}", "is not valid JSON at line 1"),
        ("l.json", '"cat"', "holds a text, no labels"),
        ("l.json", "3", "holds a number, no labels"),
        ("l.json", "null", "holds nothing (null), no labels"),
        ("l.json", {"0": 3}, 'class id "0" is a number, and text was expected'),
        ("l.json", {"0": None}, 'class id "0" is nothing (null), and text'),
        ("l.json", {"0": True}, "is true or false, and text"),
        ("l.json", {"0": {"name": "cat"}}, 'class id "0" is an object, and text'),
        ("l.json", {"0": "cat", "1": ["dog"]}, 'class id "1" is a list, and text'),
        ("l.json", {"cat": [], "dog": ["x"]}, 'label "cat" has no prompts'),
        ("l.json", {"cat": ["x", 3]}, 'a prompt of "cat" is a number'),
        ("l.json", {"cat": ["x", " "]}, 'a prompt of "cat" is empty'),
        ("l.json", ["cat", 3], "name 2 is a number"),
        ("l.json", ["cat", ""], "name 2 is empty"),
        ("l.json", {"": "cat"}, "a class id is empty"),
        ("l.json", {"0": ""}, 'class id "0" is empty'),
        ("l.json", '["\\ud83d"]', 'name 1 is not whole text ("\\ud83d")'),
        ("l.json", "[" * 100_000, "nested too deeply"),
        ("l.json", "[" + "9" * 5_000 + "]", "absurd numbers"),
        ("l.txt", b"caf\xe9", "is not UTF-8 text (byte 4); save it as UTF-8."),
        ("l.txt", b"a\0b", "is not a text file"),
        ("l.csv", "0,cat", "labels are not read from csv files"),
    ],
)
def test_bad_files_are_one_sentence(tmp_path, monkeypatch, name, content, sentence):
    monkeypatch.chdir(tmp_path)
    written(tmp_path, name, content)
    with pytest.raises(UserError) as refusal:
        read_labels(name)
    text = str(refusal.value)
    assert text.startswith((f"{name}: ", f"{name} "))
    assert sentence in text
    assert "\n" not in text
    assert text.endswith(".")


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("labels.txt", "labels.txt does not exist; give names"),
        ("Labels.JSON", "Labels.JSON does not exist"),
        ("a/b", "a/b does not exist"),
        ("a,b/labels.json", "a,b/labels.json does not exist"),
        (Path("cat"), "cat does not exist"),
        ("folder/", "folder/ is a folder"),
        ("folder", "folder is a folder, as IMAGES may be; give names"),
        ("folder", '(the word alone: "folder,").'),
        (Path("folder"), "folder is a folder"),
        ("", "there are no labels"),
        (",, ,", "there are no labels"),
        ([], "there are no labels"),
        ({}, "there are no labels"),
        ("cat,dog,cat", '"cat" appears more than once'),
        (["cat", 3], "name 2 is a number"),
        ("caf\udce9,dog", "name 1 is not whole text"),
    ],
)
def test_bad_arguments_are_one_sentence(tmp_path, monkeypatch, source, sentence):
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as refusal:
        read_labels(source)
    assert sentence in str(refusal.value)
    str(refusal.value).encode()


def test_a_label_of_a_megabyte_is_refused():
    with pytest.raises(UserError, match="name 2 has 1,000,000 characters, and 10,000"):
        read_labels(["red", "x" * 1_000_000])
