"""The PTB tokenizer against stored vectors, against Java where it is, and on its own terms."""

from __future__ import annotations

import json
import string
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.metrics.ptb_oracle import LINE_ENDS, filtered, java_lines, java_text
from tests.metrics.ptb_strings import hostile, natural

from captune_metrics import ptb
from captune_metrics.ptb.rules import SPECIAL_WORDS

GOLDEN = Path(__file__).parents[1] / "golden" / "ptb.tsv"


def golden() -> list[list[str]]:
    text = GOLDEN.read_text(encoding="utf-8").removesuffix("\n")
    return [line.split("\t") for line in text.split("\n")[1:]]


def coco_captions(shared: Path) -> list[str]:
    folder = shared / "data" / "metrics"
    candidates = json.loads((folder / "coco_val2017_candidates.json").read_text())
    references = json.loads((folder / "coco_val2017_references.json").read_text())
    found = [one["caption"] for one in [*candidates, *references["annotations"]]]
    return [caption.replace("\n", " ") for caption in found]


def lines_of(captions: list[str]) -> list[str]:
    """Raw tokens as Java prints them, each caption with what follows it."""
    behind = ["\n".join(captions[n + 1 : n + 4]) for n in range(len(captions) - 1)]
    return [
        " ".join(ptb.tokens(caption, after))
        for caption, after in zip(captions, [*behind, None], strict=True)
    ]


def share(found: list[str], expected: list[str]) -> float:
    same = sum(one == other for one, other in zip(found, expected, strict=True))
    return same / len(expected)


def test_the_golden_vectors_raw_and_filtered() -> None:
    captions, raw, kept = zip(*golden(), strict=True)
    assert len(captions) >= 93
    assert lines_of(list(captions)) == list(raw)
    assert ptb.tokenize(captions) == list(kept)


@pytest.mark.needs("java")
def test_java_still_gives_the_golden_vectors() -> None:
    captions, raw, _ = zip(*golden(), strict=True)
    assert java_lines(captions) == list(raw)


@pytest.mark.needs("shared", "java")
def test_every_caption_of_the_shared_sets_as_java(shared: Path) -> None:
    captions = coco_captions(shared)
    assert len(captions) == 25_014
    expected = java_lines(captions)
    assert lines_of(captions)[:-1] == expected[:-1]
    assert ptb.tokenize(captions) == [filtered(line) for line in expected]
    for name in ("flickr8k/captions_train", "flickr8k/captions_val", "coco-mini/captions_train"):
        file = json.loads((shared / "data" / f"{name}.json").read_text())
        captions = [one["caption"].replace("\n", " ") for one in file["annotations"]]
        assert ptb.tokenize(captions) == [filtered(line) for line in java_lines(captions)]


@pytest.mark.needs("shared")
def test_the_captions_of_coco_in_time(shared: Path) -> None:
    captions = coco_captions(shared)
    start = time.perf_counter()
    lines = ptb.tokenize(captions)
    seconds = time.perf_counter() - start
    assert len(lines) == len(captions)
    # 0.2 s on a quiet core; room for a busy machine
    assert seconds < 3


@pytest.mark.needs("java")
def test_captions_with_slips_of_the_pen_as_java() -> None:
    random = Random(20)
    captions = [natural(random) for _ in range(20_000)]
    assert lines_of(captions)[:-1] == java_lines(captions)[:-1]


@pytest.mark.needs("java")
def test_hostile_strings_as_java() -> None:
    random = Random(21)
    captions = [hostile(random) for _ in range(20_000)]
    expected = java_lines(captions)
    assert share(lines_of(captions), expected) >= 0.999
    assert share(ptb.tokenize(captions), [filtered(line) for line in expected]) >= 0.999


@pytest.mark.needs("java")
def test_every_character_as_java() -> None:
    broken = {10, 11, 12, 13, 0x2028, 0x2029, *range(0xD800, 0xE000)}
    letters = [chr(code) for code in range(1, 0x11000) if code not in broken]
    captions = [f"{letter} a{letter}b 1{letter}2" for letter in letters]
    assert share(lines_of(captions), java_lines(captions)) == 1


# what Java answered to each, once; the second is what `tokenize` gives
PROSE = [
    ("a C++ book, c++11", "a c++ book c++ 11"),
    ("C+++ C/C++ g++ C# F#m", "c++ + c/c + + g + + c# f# m"),
    ("Co. Ltd Co.  Ltd PTY. LTD", "co. ltd co. ltd pty. ltd"),
    ("Ptes. Ltd pvt.  ltd PTY. Limited", "ptes. ltd pvt. ltd pty. limited"),
    ("m⁻¹ x⁺₁₂ ⁺⁺² ₊ a", "m ⁻¹ x ⁺₁₂ ⁺ ⁺² ₊ a"),
    ("S&Ls s&amp;ls m&ms AT&amp;T., 7w.txt\x85s", "s&ls s&ls m & ms at&t. 7w.txt s"),
    (r"\*\*\*\*", r"\*\*\* \*"),
    ("anti- war, (Pro-)x semi- a", "anti- war -lrb- pro- -rrb- x semi a"),
    ("Ltd.B's Jan.a'll x", "ltd.b 's jan.a 'll x"),
    ("a \xa0foo.com \u2003www.foo.com b", "a foo.com www.foo.com b"),
    ("\xa0foo.com a\xa0foo.com", "\xa0foo.com a\xa0foo.com"),
]


@pytest.mark.parametrize(("caption", "expected"), PROSE)
def test_words_of_prose_that_is_no_caption(caption: str, expected: str) -> None:
    assert ptb.tokenize([caption, "x"]) == [expected, "x"]
    assert ptb.tokenize_each([caption]) == [expected]


@pytest.mark.needs("java")
def test_words_of_prose_as_java() -> None:
    captions = [caption for caption, _ in PROSE]
    assert [filtered(line) for line in java_lines(captions)] == [line for _, line in PROSE]


# what differs from Java on purpose or is known to; docs/tokenizer.md gives the reasons


@pytest.mark.parametrize("end", LINE_ENDS)
def test_a_line_end_in_a_caption_is_a_blank(end: str) -> None:
    captions = [f"a red{end}bus", "two dogs", f"{end}a cat{end}"]
    assert ptb.tokenize(captions) == ["a red bus", "two dogs", "a cat"]
    assert ptb.tokens(f"a{end}b") == ptb.tokens("a b")


@pytest.mark.needs("java")
@pytest.mark.parametrize("end", LINE_ENDS.replace("\u2029", ""))
def test_java_loses_its_place_at_a_line_end(end: str) -> None:
    assert len(java_text(f"a red{end}bus\ntwo dogs").split("\n")) == 3


@pytest.mark.needs("java")
def test_a_tag_does_not_reach_into_the_next_caption() -> None:
    captions = ["<a b='x", "y'> z"]
    assert java_lines(captions) == ["<a\xa0b='x", "y'> z"]
    assert lines_of(captions) == ["< a b = ' x", "y ' > z"]


@pytest.mark.needs("java")
def test_the_end_of_the_file_is_seen_by_tokenize_alone() -> None:
    assert java_lines(["a :)"]) == ["a : -rrb-"]
    assert ptb.tokenize(["a :)"]) == ["a -rrb-"]
    assert ptb.tokenize(["a :)", "b"]) == ["a :-rrb-", "b"]
    assert ptb.tokenize_each(["a :)"]) == ["a :-rrb-"]


def test_half_a_surrogate_pair_is_dropped_as_any_emoji_is() -> None:
    assert ptb.tokens("a \ud83d b") == ptb.tokens("a 😀 b") == ["a", "b"]
    assert ptb.tokenize(["a \udc00 b", "http://x.y/\udc00c"]) == ["a b", "http://x.y/\ufffdc"]


def test_the_next_caption_decides_about_a_last_period() -> None:
    captions = ["the letter K.", "The dog"]
    assert ptb.tokenize(captions) == ["the letter k", "the dog"]
    assert ptb.tokenize([captions[0], "dogs"]) == ["the letter k.", "dogs"]
    assert ptb.tokenize_each([captions[0], "dogs"]) == ["the letter k", "dogs"]
    assert ptb.tokens("the letter K.", "The dog")[-2:] == ["k", "."]
    assert ptb.tokens("the letter K.") == ["the", "letter", "k."]


# properties


def test_many_random_strings_lose_no_line() -> None:
    random = Random(22)
    captions = [hostile(random) for _ in range(60_000)]
    captions += [
        "".join(chr(random.randrange(0x110000)) for _ in range(random.randrange(12)))
        for _ in range(40_000)
    ]
    lines = ptb.tokenize(captions)
    assert len(lines) == len(captions)
    assert not any(set(line) & {"\n", "\r", "\v", "\f", "\u2028", "\u2029"} for line in lines)
    assert all(line == line.strip(" ") and "  " not in line for line in lines)


texts = (
    st.text(st.sampled_from("aAbcnotdsI.,'’\"-–&;:()<>/ 015$%@#=!?é\xad\xa0\x85“”😀")) | st.text()
)


@settings(max_examples=500, deadline=None)
@given(st.lists(texts, max_size=5))
def test_the_quick_way_is_the_careful_way(captions: list[str]) -> None:
    alone = ptb.tokenize_each(captions)
    assert alone == [filtered(" ".join(ptb.tokens(caption, "A "))) for caption in captions]
    assert [ptb.tokenize_each([caption])[0] for caption in captions] == alone
    together = ptb.tokenize(captions)
    behind = ["\n".join(captions[n + 1 :]) for n in range(len(captions) - 1)]
    for caption, after, line in zip(captions, behind, together, strict=False):
        assert filtered(" ".join(ptb.tokens(caption, after))) == line


@settings(max_examples=300, deadline=None)
@given(texts)
def test_a_token_has_no_blank_and_blanks_around_do_not_matter(caption: str) -> None:
    found = ptb.tokens(caption)
    assert all(token and not set(token) & set(" \n\r\v\f\u2028\u2029") for token in found)
    assert ptb.tokens(f"  {caption.strip(' ')} ")[:1] == found[:1]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text(string.ascii_letters, min_size=2), max_size=8))
def test_words_are_their_own_tokens_again_and_again(words: list[str]) -> None:
    line = ptb.tokenize([" ".join(words)])[0]
    assert line == ptb.tokenize([line])[0]
    if not {word.lower() for word in words} & SPECIAL_WORDS:
        assert line == " ".join(words).lower()


def test_the_word_shortcut_agrees_with_the_scan() -> None:
    random = Random(23)
    words = sorted(SPECIAL_WORDS)
    words += ["".join(random.choices(string.ascii_letters, k=n % 9 + 2)) for n in range(3000)]
    for word in words:
        for chunk in (word, word.capitalize(), word.upper(), f"{word}.", f"{word.upper()},"):
            for border in ("\n", " ", " a", " T", " \n"):
                quick = ptb._plain(chunk, border)
                found, looked = ptb._lex(chunk, border)
                if quick is not None:
                    assert quick == ptb._joined(found), (chunk, border)
                    assert looked <= len(chunk) + len(border), (chunk, border)


@pytest.mark.parametrize(
    "caption",
    [
        "<b >", "<b > dog", "a <b  > c", "1 1/2 cups", "1  1/2", "412 555 1212", ". . .",
        ". . . .", "a . .", "w/ a", "no. 5", "no.  5", "etc. A", "etc.  a", "Co. Ltd",
        "B. The dog", "'99 was", "the '99", "a. ",
    ],
)  # fmt: skip
def test_tokens_and_rules_that_reach_beyond_a_blank(caption: str) -> None:
    expected = filtered(" ".join(ptb.tokens(caption, "A ")))
    assert ptb.tokenize_each([caption]) == [expected]
    expected = filtered(" ".join(ptb.tokens(caption, "x")))
    assert ptb.tokenize([caption, "x"]) == [expected, "x"]


# every length costs about as much a character: no input makes it quadratic
ENDLESS = [
    "<", "<a ", "<!a ", "<a b='", "</", "(", "((a", "&", "&amp", "&#1", "a.", "A. ", "A.a",
    "1-", "1/", "1 ", "1,", "412 ", "(412) ", "+", "-", "--", "a-", "a-a.", "a'", "'a", "n't",
    "d'a", "o'", "@", "a@", "@a.", "http://", "a.com/", "www.a.", "#", "#a", "_", "a_", ".",
    ". ", "...", "etc. ", "\"", "`", "‘", "’", ":", ":-", "^_", "\\*", "$", "A&", "A+", "\xad",
    "a\xad", "é", "\u0300", "😀", "\xa0", "\t", "   ", "B. \t", "no. ", "etc.  ", "½", "²", "*",
    "!?", "x.txt.", "a!", "cannot",
]  # fmt: skip


@pytest.mark.parametrize("unit", ENDLESS)
def test_the_work_grows_with_the_length(unit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scanner = ptb._scanner()
    scan = type(scanner).scan
    steps = 0

    def counted(self: object, text: str, at: int, failed: object) -> tuple[int, int, int]:
        nonlocal steps
        rule, end, looked = scan(scanner, text, at, failed)  # type: ignore[arg-type]
        steps += looked - at
        return rule, end, looked

    monkeypatch.setattr(type(scanner), "scan", counted)
    caption = unit * (8_000 // len(unit))
    ptb.tokens(caption)
    assert steps < 80 * len(caption)


@pytest.mark.parametrize("unit", ["a dog and a cat, ", "<<", "a.", "(", "x"])
def test_a_caption_of_a_megabyte(unit: str) -> None:
    caption = unit * (1_000_000 // len(unit))
    assert len(ptb.tokenize([caption, "a dog"])) == 2


def test_the_memory_of_chunks_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ptb, "_MOST_CHUNKS", 50)
    ptb._chunks.cache_clear()
    ptb.tokenize([f"word{n} is here" for n in range(500)])
    assert 0 < max(len(ptb._chunks(border)) for border in (" ", "\n", " ?")) <= 50


def test_import_makes_no_automaton() -> None:
    code = (
        "import sys, captune_metrics.ptb as ptb;"
        "assert ptb._scanner.cache_info().currsize == 0;"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
