"""Any caption comes back to the letter from every form; anything else is one sentence."""

import csv
import io
import json

from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.captions.caption_forms import assert_captions_or_one_sentence, written

from captune.captions import read_captions
from captune.tables import as_typed

whole_text = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"))
ids = whole_text.filter(bool)
files = st.dictionaries(ids, st.lists(whole_text, min_size=1, max_size=3), min_size=1, max_size=6)


@settings(max_examples=150, deadline=None)
@given(files, st.booleans())
def test_any_caption_survives_json(tmp_path_factory, captions, ascii_only):
    folder = tmp_path_factory.mktemp("json")
    # an object of lists could be COCO's only where the lists hold objects
    stems = json.dumps(captions, ensure_ascii=ascii_only, indent=1)
    assert read_captions(written(folder, "a.json", stems)).captions == captions
    pairs = [(id, caption) for id, several in captions.items() for caption in several]
    results = [{"image_id": id, "caption": caption} for id, caption in pairs]
    assert read_captions(written(folder, "b.json", results)).captions == captions
    lines = "\n".join(json.dumps(result, ensure_ascii=ascii_only) for result in results)
    assert read_captions(written(folder, "c.jsonl", lines)).captions == captions
    numbers = {id: number for number, id in enumerate(captions)}
    coco = {
        "images": [{"id": number, "file_name": id} for id, number in numbers.items()],
        "annotations": [{"image_id": numbers[id], "caption": caption} for id, caption in pairs],
    }
    found = read_captions(written(folder, "d.json", coco))
    assert {found.file_names[id]: texts for id, texts in found.captions.items()} == captions
    assert list(found.captions) == [str(number) for number in numbers.values()]


@settings(max_examples=150, deadline=None)
@given(files, st.sampled_from(",;\t"), st.sampled_from(["\n", "\r\n"]))
def test_any_caption_survives_a_table(tmp_path_factory, captions, delimiter, end):
    folder = tmp_path_factory.mktemp("table")
    captions = {f"{id}.jpg": several for id, several in captions.items()}
    # the apostrophe before what a spreadsheet would run is taken for captune's own
    assume(all(as_typed(one) == one for id, texts in captions.items() for one in (id, *texts)))
    text = io.StringIO(newline="")
    # Python's writer does not always quote a lone carriage return
    cells = "".join(captions) + "".join(map("".join, captions.values()))
    quoting = csv.QUOTE_ALL if "\r" in cells else csv.QUOTE_MINIMAL
    table = csv.writer(text, delimiter=delimiter, lineterminator=end, quoting=quoting)
    table.writerow(["image", "caption"])
    for id, several in captions.items():
        table.writerows((id, caption) for caption in several)
    found = read_captions(written(folder, "a.csv", text.getvalue()))
    assert found.captions == captions


hostile = st.binary(max_size=60) | st.text(max_size=60).map(
    lambda text: text.encode("utf-8", "replace")
)


@settings(max_examples=300, deadline=None)
@given(hostile)
def test_anything_is_captions_or_one_sentence(tmp_path_factory, data):
    path = written(tmp_path_factory.mktemp("any"), "c", data)
    assert_captions_or_one_sentence(path)


keys = (
    *("images", "annotations", "id", "image_id", "caption", "captions", "file_name", "image"),
    *("sentences", "raw", "filename", "split", "text", "x"),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(keys), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=400, deadline=None)
@given(json_values)
def test_any_json_is_captions_or_one_sentence(tmp_path_factory, value):
    path = written(tmp_path_factory.mktemp("any"), "c.json", value)
    assert_captions_or_one_sentence(path)
