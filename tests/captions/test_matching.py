"""Candidates find their references, by one spelling for all images, or say who is missing."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captune.captions import CaptionFile, Matched, match_captions
from captune.errors import MismatchedImages, UserError


def captions_of(
    captions: dict[str, str | list[str]],
    file_names: dict[str, str] | None = None,
    source: str = "c.json",
    form: str = "JSON",
) -> CaptionFile:
    lists = {id: [text] if isinstance(text, str) else text for id, text in captions.items()}
    return CaptionFile(source, form, lists, file_names or {}, "0" * 64)


def matched(candidates: list[str], references: dict[str, str | None], **options: bool) -> Matched:
    """Captions are named after their image's position, so that a wrong pair shows.

    references: id -> file name.
    """
    names = {id: name for id, name in references.items() if name is not None}
    return match_captions(
        captions_of({id: f"c{n}" for n, id in enumerate(candidates)}),
        captions_of({id: [f"r{n}", "r"] for n, id in enumerate(references)}, names, "r.json"),
        **options,
    )


COCO_NAMES = {"139": "000000000139.jpg", "9": "000000000009.jpg"}


@pytest.mark.parametrize(
    ("candidates", "references", "spelling"),
    [
        (["a", "b"], {"a": None, "b": None}, "id"),
        (["139", "9"], COCO_NAMES, "id"),
        (["000000000139.jpg", "000000000009.jpg"], COCO_NAMES, "id and file name"),
        (["000000000139", "000000000009"], COCO_NAMES, "id and file name, without ending"),
        (["000000000139.png", "000000000009.PNG"], COCO_NAMES, "id and file name, without ending"),
        (["000000000139", "000000000009"], {"139": None, "9": None}, "id and id, number"),
        (["000000000139.jpg", "000000000009.jpg"], {"139": None, "9": None}, "id and id, number"),
        (
            ["COCO_val2014_000000000139", "COCO_val2014_000000000009"],
            COCO_NAMES,
            "id and id, number",
        ),
        (["1.jpg", "2.jpg"], {"1": None, "2": None}, "id and id, without ending"),
        (["1", "2"], {"1.jpg": "1.jpg", "2.jpg": "2.jpg"}, "id and id, without ending"),
        (["v1.2", "v1.3"], {"v1.2.jpg": None, "v1.3.jpg": None}, "id and id, without ending"),
        (["./a/1.jpg", "a\\2.jpg"], {"a/1.jpg": None, "a/2.jpg": None}, "id and id, path"),
        (["val/1.jpg", "val/2.jpg"], {"7": "1.jpg", "8": "2.jpg"}, "id and file name, name"),
        (["a/1.jpg", "b/1.jpg"], {"7": "x/a/1.jpg", "8": "x/b/1.jpg"}, "id and file name, last tw"),
        (
            ["a/1", "b/1"],
            {"7": "x/a/1.jpg", "8": "x/b/1.jpg"},
            "id and file name, last two parts w",
        ),
        (["1", "2"], {"7": "x/1.jpg", "8": "x/2.jpg"}, "id and file name, name without ending"),
        (["e\u0301.jpg"], {"\u00e9.jpg": None}, "id and id, path"),
        (["139.0", "9.0"], {"139": None, "9": None}, "id and id, number"),
    ],
)
def test_every_spelling(candidates, references, spelling):
    for order in (1, -1):
        found = matched(candidates, dict(list(references.items())[::order]))
        assert found.spelling.startswith(spelling)
        assert list(found.candidates) == list(found.references) == candidates
        assert found.notes == []
        for n, id in enumerate(candidates):
            assert found.candidates[id] == f"c{n}"
            number = n if order == 1 else len(candidates) - 1 - n
            assert found.references[id] == [f"r{number}", "r"]
        assert found.file_names == {
            id: name
            for id, name in zip(candidates, references.values(), strict=True)
            if name is not None
        }


def test_spelling_as_it_is_goes_before_any_other():
    found = matched(["1", "01", "1.jpg"], {"1.jpg": None, "01": None, "1": None})
    assert found.references == {"1": ["r2", "r"], "01": ["r1", "r"], "1.jpg": ["r0", "r"]}


def test_file_names_of_the_candidates_serve_too():
    run = captions_of({"k1": "x", "k2": "y"}, {"k1": "a/1.jpg", "k2": "a/2.jpg"})
    references = captions_of({"1": ["r"], "2": ["s"]}, source="r.json")
    found = match_captions(run, references)
    assert found.references == {"k1": ["r"], "k2": ["s"]}
    assert found.file_names == {"k1": "a/1.jpg", "k2": "a/2.jpg"}
    named = captions_of({"1": ["r"], "2": ["s"]}, {"1": "a/1.jpg", "2": "2.jpg"}, "r.json")
    found = match_captions(run, named)
    assert found.spelling == "file name and file name, name"
    assert found.file_names == {"k1": "a/1.jpg", "k2": "2.jpg"}


@pytest.mark.parametrize(
    ("candidates", "references", "sentence"),
    [
        (
            ["a", "b"],
            {"a": None, "b": None, "c": None},
            'c.json: 1 image of r.json without a candidate ("c"); give both files the same images,'
            " score the 2 that have one with --subset, or score what is missing as empty captions"
            " with --allow-missing.",
        ),
        (
            ["a", *"vwxyz"],
            {"a": None, **dict.fromkeys("bcde")},
            'c.json: 4 images of r.json without a candidate ("b", "c", "d" and 1 more) and 5'
            ' candidates without references ("v", "w", "x" and 2 more); give both files the same'
            " images, or score the 1 of both files with --subset --ignore-extra.",
        ),
        (
            ["a", "b"],
            {"a": None},
            '1 candidate without references ("b"); give both files the same images, or leave it out'
            " with --ignore-extra.",
        ),
        (["a"], {"x": None}, 'its only image is not among the 1 of r.json: it has "a", the'),
        # the folders say that these are others, or that nobody can know
        (["train/1.jpg"], {"val/1.jpg": None}, "its only image is not among"),
        (["train/1"], {"7": "val/1.jpg"}, "its only image is not among"),
        (["1.jpg"], {"a/1.jpg": None, "b/1.jpg": None}, '"1.jpg" would be several images'),
        (["1", "01"], {"001": None, "2": None}, '"1" would be several images'),
        (["A"], {"a": None}, "its only image is not among"),
    ],
)
def test_who_is_missing(candidates, references, sentence):
    with pytest.raises(MismatchedImages) as refusal:
        matched(candidates, references)
    text = str(refusal.value)
    assert text.startswith("c.json: ")
    assert sentence in text
    assert text.endswith(".")


def test_a_file_of_all_splits_says_how_to_take_one():
    captions = {"1": "a", "2": "b", "3": "c"}
    for file, wanted in (
        (captions_of(captions, source="d.json", form="Karpathy's splits"), True),
        (captions_of(captions, source="d.json#split=val", form="Karpathy's splits"), False),
        (captions_of(captions, source="d.json"), False),
    ):
        for candidates in ({"1": "x", "2": "y"}, {"k": "x"}):
            with pytest.raises(MismatchedImages) as refusal:
                match_captions(captions_of(candidates), file)
            assert ("d.json#split=test" in str(refusal.value)) == wanted


def test_missing_candidates_may_be_allowed():
    references = {"7": "7.jpg", "8": "8.jpg", "9": "9.jpg"}
    found = matched(["7"], references, allow_missing=True)
    assert found.candidates == {"7": "c0", "8": "", "9": ""}
    assert found.references == {"7": ["r0", "r"], "8": ["r1", "r"], "9": ["r2", "r"]}
    assert found.file_names == references
    assert found.notes == [
        '2 images of 3 without a candidate in c.json are scored as an empty caption: "8", "9"'
    ]
    # what is missing is called as the candidates file would have called it
    found = matched(["0007.jpg"], {"7": "a/0007.jpg", "8": "a/0008.jpg"}, allow_missing=True)
    assert found.candidates == {"0007.jpg": "c0", "0008.jpg": ""}
    assert found.notes[0].startswith("1 image of 2 without a candidate in c.json is scored")
    with pytest.raises(MismatchedImages, match='1 candidate without references \\("x"\\)'):
        matched(["7", "x"], references, allow_missing=True)
    with pytest.raises(MismatchedImages, match="its only image is not"):
        matched(["x"], references, allow_missing=True)
    assert not matched(["7", "8", "9"], references, allow_missing=True).notes
    # which of the two is missing, nobody can know
    with pytest.raises(MismatchedImages, match="would be several images"):
        matched(["1.jpg"], {"a/1.jpg": None, "b/1.jpg": None}, allow_missing=True)


def test_images_without_a_candidate_may_be_left_out():
    references = {"7": "7.jpg", "8": "8.jpg", "9": "9.jpg"}
    found = matched(["0007.jpg"], references, subset=True)
    assert (found.candidates, found.references) == ({"0007.jpg": "c0"}, {"0007.jpg": ["r0", "r"]})
    assert (found.in_references, found.left_out, found.notes) == ({"0007.jpg": "7"}, 2, [])
    assert matched(["7", "8", "9"], references, subset=True).left_out == 0
    # nothing in common is no subset
    with pytest.raises(MismatchedImages, match="its only image is not"):
        matched(["x"], references, subset=True, ignore_extra=True)


def test_candidates_without_references_may_be_left_out():
    references = {"7": "7.jpg", "8": "8.jpg"}
    found = matched(["7", "x", "8", "y"], references, ignore_extra=True)
    assert list(found.candidates) == ["7", "8"]
    assert found.notes == [
        '2 candidates of c.json without references in r.json are left out: "x", "y"'
    ]
    found = matched(["7", "x"], references, ignore_extra=True, subset=True)
    assert (list(found.candidates), found.left_out) == (["7"], 1)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (
            {"allow_missing": True},
            'c.json: --allow-missing settles 1 image of r.json without a candidate ("8"); what'
            ' remains: 1 candidate without references ("x"); leave it out with --ignore-extra.',
        ),
        (
            {"subset": True},
            'c.json: --subset settles 1 image of r.json without a candidate ("8"); what remains: 1'
            ' candidate without references ("x"); leave it out with --ignore-extra.',
        ),
        (
            {"ignore_extra": True},
            'c.json: --ignore-extra settles 1 candidate without references ("x"); what remains: 1'
            ' image of r.json without a candidate ("8"); score the 1 that has one with --subset, or'
            " score what is missing as empty captions with --allow-missing.",
        ),
    ],
)
def test_a_refusal_says_what_a_flag_settled_and_which_one_settles_the_rest(flags, sentence):
    with pytest.raises(MismatchedImages) as refusal:
        matched(["7", "x"], {"7": "7.jpg", "8": "8.jpg"}, **flags)
    assert str(refusal.value) == sentence


def test_a_candidate_is_one_caption():
    several = captions_of({"a": "x", **{id: ["x", "y"] for id in "bcdef"}, "g": ["x"] * 3})
    references = captions_of({id: ["r", "s"] for id in "abcdefg"}, source="r.json")
    with pytest.raises(UserError) as refusal:
        match_captions(several, references)
    assert str(refusal.value) == (
        'c.json: a candidate is one caption per image, but "b" has 2, "c" has 2, "d" has 2 and 3'
        " more images have several; keep one caption of each (the same form as the references:"
        " are the two files the same, or the other way round?)."
    )
    other = captions_of({id: ["r", "s"] for id in "abcdefg"}, source="r.json", form="CSV")
    with pytest.raises(UserError, match=r"keep one caption of each\.$"):
        match_captions(several, other)
    single = captions_of(dict.fromkeys("abcdefg", "r"), source="r.json")
    with pytest.raises(UserError, match=r"just one: are the two files the other way round\?\)\.$"):
        match_captions(several, single)


def test_empty_captions():
    references = captions_of({"a": ["r", " "], "b": ["s"]}, source="r.json")
    found = match_captions(captions_of({"a": "", "b": " x "}), references)
    assert found.candidates == {"a": "", "b": " x "}
    assert found.notes == [
        'r.json: 1 image with an empty reference, which counts like any other: "a"'
    ]


def test_hostile_ids_are_printable():
    with pytest.raises(MismatchedImages) as refusal:
        matched(["\x1b[31m", "x" * 9999], {"\x07": None, "ok": None})
    assert str(refusal.value).isprintable()
    assert len(str(refusal.value)) < 600


numbers = st.lists(st.integers(0, 10**6), min_size=1, max_size=8, unique=True)
SPELLINGS = {
    "{}": True,
    "{:012d}": True,
    "{:012d}.jpg": True,
    "{}.png": True,
    "COCO_val2014_{:012d}": True,
    "COCO_val2014_{:012d}.jpg": True,
    "val/{:07d}.jpg": True,
    "data/val/{:07d}.jpg": True,
}


@settings(max_examples=300, deadline=None)
@given(
    numbers,
    st.sampled_from(list(SPELLINGS)),
    st.sampled_from(list(SPELLINGS)),
    st.sampled_from([None, *SPELLINGS]),
    st.randoms(use_true_random=False),
)
def test_any_two_spellings_of_coco_ids_match(images, first, second, name, chance):
    shuffled = images[:]
    chance.shuffle(shuffled)
    candidates = captions_of({first.format(n): f"c{n}" for n in images})
    names = {} if name is None else {second.format(n): name.format(n) for n in images}
    references = captions_of({second.format(n): [f"r{n}"] for n in shuffled}, names)
    found = match_captions(candidates, references)
    assert found.candidates == {first.format(n): f"c{n}" for n in images}
    assert found.references == {first.format(n): [f"r{n}"] for n in images}
    if name is not None:
        assert found.file_names == {first.format(n): name.format(n) for n in images}


paths = st.lists(
    st.from_regex(r"\A([ab]/){0,2}[01]{1,3}(\.jpg|\.png)?\Z"), min_size=1, max_size=6, unique=True
)


@settings(max_examples=500, deadline=None)
@given(paths, paths, st.booleans())
def test_nothing_is_joined_twice_lost_or_across_folders(first, second, allow_missing):
    try:
        found = matched(first, dict.fromkeys(second), allow_missing=allow_missing)
    except MismatchedImages:
        assert set(first) != set(second)
        return
    assert list(found.candidates)[: len(first)] == first
    assert list(found.candidates) == list(found.references)
    used = [captions[0] for captions in found.references.values()]
    assert len(set(used)) == len(second) == len(used)
    for id, (reference, _) in found.references.items():
        other = second[int(reference[1:])].rpartition("/")[0]
        folder = id.rpartition("/")[0]
        assert folder.endswith(other) or other.endswith(folder)
    assert allow_missing or len(first) == len(second)
