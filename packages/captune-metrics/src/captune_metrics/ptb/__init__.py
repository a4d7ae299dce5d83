"""The PTB tokenization that coco-caption's scores are made with, without Java.

pycocoevalcap runs PTBTokenizer of Stanford CoreNLP 3.4.1 (`-preserveLines -lowerCase`) over a file
with a caption a line, then drops punctuation. This gives the same strings: docs/tokenizer.md says
how far that was checked and where the two differ on purpose. The rules are in `rules`.

Most words of a caption do not depend on their neighbours. Those are looked up; only a caption with
another kind of word is scanned as a whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache

from captune_metrics.ptb.automaton import Failures, Scanner
from captune_metrics.ptb.rules import ALPHABET, CHARACTER_KINDS, MACROS, RULES, SPECIAL_WORDS

VERSION = "1"

# coco-caption's list also has -LRB- and its kin, which never match: the tokens are in lower case
PUNCTUATION = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])

# where Java would start another line and give every later caption to the wrong image
_BREAKS = re.compile("[\n\r\v\f\u2028\u2029]")
_HALVES = re.compile("[\ud800-\udfff]")

_WORD_END = re.compile(r"(?:(?![\u2e80-\u9fff])[\w\u0300-\u036f'’.·‐-])+\Z")
_WORD_START = re.compile(r"(?:(?![\u2e80-\u9fff])[\w\u0300-\u036f]|['’.·‐-](?=\w))+")

_MOST_CHUNKS = 100_000
_LONGEST_CHUNK = 64
# what of the next caption can matter to the end of this one: blanks and one word
_NEIGHBOUR = 64

_CONSTANT = {
    "space": "",
    "entity_space": "",
    "dropped": "",
    "amp": "&",
    "lt": "<",
    "gt": ">",
    "dashes": "--",
    "dash_entity": "--",
    "quot_open": "``",
    "quot_close": "''",
    "single_open": "`",
    "single_close": "'",
    "double_close": "''",
    "double_open": "``",
    "back": "`",
    "ellipsis": "...",
    "lrb": "-lrb-",
    "rrb": "-rrb-",
    "lsb": "-lsb-",
    "rsb": "-rsb-",
    "lcb": "-lcb-",
    "rcb": "-rcb-",
    "dollar": "$",
    "pound": "#",
    "cents": "cents",
}
_FRACTIONS = {"¼": "1/4", "½": "1/2", "¾": "3/4", "⅓": "1/3", "⅔": "2/3"}
_QUOTES = {"‘": "`", "‹": "`", "’": "'", "›": "'", "“": "``", "”": "''", "`": "`"}
_STRAIGHT = str.maketrans({"’": "'", "\x92": "'", "‘": "`", "‛": "`", "‹": "`", "\x91": "`"})
# these keep a soft hyphen, and have a no-break space for each blank
_VERBATIM = frozenset(["sgml", "url", "mail", "file", "hashtag"])


def tokens(caption: str, following: str | None = None) -> list[str]:
    """The tokens of one caption, in lower case, with punctuation.

    A token holds no blank, but a no-break space where a tag, a phone number or a fraction has one.
    following: the caption on the next line of the file that Java would read. Its first word may
    decide whether a period that ends this caption belongs to an abbreviation ("the letter A." and
    "The dog"). None: no such word.
    """
    return _lex(caption, "\n" if following is None else "\n" + following)[0]


def tokenize(captions: Iterable[str]) -> list[str]:
    """The tokens of each caption without punctuation, joined by one blank; same order and length.

    It is what pycocoevalcap gives for these captions in this order, where the end of a caption may
    depend on the next one: 3 in 25,014 captions of COCO do.
    """
    captions = captions if isinstance(captions, Sequence) else list(captions)
    lines = _lines(captions, behind=None)
    if captions:
        # at the end of its file Java does not see the line end that some rules ask for
        lines[-1] = _line(_lex(captions[-1], "")[0])[1:]
    return lines


def tokenize_each(captions: Iterable[str]) -> list[str]:
    """As `tokenize`, but whatever the order: as if each caption stood before one that begins "A".

    Scores are made with this, so that an image's score is its own.
    """
    captions = captions if isinstance(captions, Sequence) else list(captions)
    return _lines(captions, behind="\nA ")


def _lines(captions: Sequence[str], behind: str | None) -> list[str]:
    """behind: what follows each caption; None takes the captions that do."""
    middles, ends = _chunks(" "), _chunks("\n")
    lines = []
    for number, caption in enumerate(captions):
        chunks = caption.split(" ")
        last = chunks.pop()
        try:
            line = "".join([middles[chunk] for chunk in chunks]) + ends[last]
        except _OpenError:
            line = _careful(captions, number, behind)
        lines.append(line[1:])
    return lines


def _careful(captions: Sequence[str], number: int, behind: str | None) -> str:
    """The line of a caption with an open chunk, with a blank before each token."""
    pairs, ends = _chunks(" ?"), _chunks("\n")
    chunks = captions[number].split(" ")
    try:
        last = chunks.pop()
        # an empty chunk is another blank, or the line end behind one
        heads = [chunk[:1] or " " for chunk in chunks[1:]] + [last[:1] or "\n"]
        line = [pairs[f"{chunk} {head}"] for chunk, head in zip(chunks, heads, strict=False)]
        return "".join(line) + ends[last]
    except _OpenError:
        if behind is None:
            behind = _behind(captions, number + 1)
        return _line(_lex(captions[number], behind)[0])


def _line(found: list[str]) -> str:
    """`_joined` for a whole caption, of which pycocoevalcap strips the end first."""
    if found:
        found[-1] = found[-1].rstrip()
    return _joined(found)


def _joined(found: list[str]) -> str:
    """The tokens that are no punctuation, each behind a blank."""
    return "".join([" " + token for token in found if token not in PUNCTUATION])


def _behind(captions: Sequence[str], number: int) -> str:
    """What Java sees behind the line before `number`, as far as it matters."""
    behind = ""
    while number < len(captions) and len(behind) < _NEIGHBOUR:
        behind += "\n" + captions[number][:_NEIGHBOUR]
        number += 1
    return behind


class _OpenError(Exception):
    """What stands beside a chunk may change its tokens."""


class _Chunks(dict[str, str]):
    """Chunk between blanks -> its tokens as `_joined` gives them, found when first asked for.

    border: what stands behind the chunk: a blank, a line end, or " ?" where each key ends with the
    blank and the first character of the next chunk.
    Raises _OpenError for a chunk that other text could change: its scan went on beyond the border,
    or it begins with a blank of another kind. No rule looks back.
    """

    def __init__(self, border: str) -> None:
        super().__init__()
        self.border = border
        self.open: set[str] = set()

    def __missing__(self, key: str) -> str:
        if key in self.open or len(key) > _LONGEST_CHUNK:
            raise _OpenError
        # a tab or its like is one with the blank before it; without that it may begin an address
        if key[:1] != " " and key[:1].isspace():
            raise _OpenError
        if len(self) + len(self.open) >= _MOST_CHUNKS:
            self.clear()
            self.open.clear()
        chunk, border = key, self.border
        if border == " ?":
            chunk, border = key[:-2], key[-2:]
        line = _plain(chunk, border)
        if line is None:
            found, looked = _lex(chunk, border)
            # a blank at the end of an address is lost at the end of a caption, and only there
            loses = any(token[-1].isspace() for token in found)
            if loses or looked > len(chunk) + len(border):
                self.open.add(key)
                raise _OpenError
            line = _joined(found)
        self[key] = line
        return line


def _plain(chunk: str, border: str) -> str | None:
    """The line of a word with a comma or period or none, without a scan; None for any other."""
    word = chunk
    if chunk.endswith("."):
        # the periods of ". . ." are one token
        if not (border.endswith("\n") or border[1:].isalpha()):
            return None
        word = chunk[:-1]
    elif chunk.endswith(","):
        word = chunk[:-1]
    if len(word) < 2 or not (word.isascii() and word.isalpha()):
        return None
    word = word.lower()
    return None if word in SPECIAL_WORDS else " " + word


@cache
def _chunks(border: str) -> _Chunks:
    return _Chunks(border)


@cache
def _scanner() -> Scanner:
    return Scanner(RULES, MACROS, ALPHABET)


def _lex(caption: str, behind: str) -> tuple[list[str], int]:
    """The tokens of `caption` where `behind` follows it, and how far any scan looked."""
    caption = _HALVES.sub("\ufffd", _BREAKS.sub(" ", caption))
    scanner = _scanner()
    text = caption + behind
    kinds = text.translate(CHARACTER_KINDS)
    failed: Failures = set()
    found = []
    furthest = at = 0
    stop = len(caption)
    while at < stop:
        rule, end, looked = scanner.scan(kinds, at, failed)
        furthest = max(furthest, looked)
        name = RULES[rule].name if rule >= 0 else ""
        if not name:
            end = at + 1
        elif name in _CONSTANT and not text.startswith("&", at):
            token = _CONSTANT[name]
            if token:
                found.append(token)
        else:
            token = _token(name, text[at:end], kinds[at:end])
            if token:
                found.append(token)
            # the period is also one of its own, as at the end of a sentence
            if name == "relex" or (name == "closer" and end == len(text)):
                end -= 1
        at = end
    # a token that runs on into `behind`
    return found, furthest if at <= stop else len(text) + 1


def _token(name: str, raw: str, kinds: str) -> str:
    """What is written for the text `raw` that rule `name` found; "" for nothing."""
    if name in _CONSTANT:
        # Java knows &quot; and &apos; in any letter case, and writes a quote only for small ones
        written_out = _lower(raw) in ("&quot;", "&apos;") and raw != _lower(raw)
        return _lower(raw) if written_out else _CONSTANT[name]
    if name in _VERBATIM:
        return _lower(raw).replace(" ", "\xa0")
    if name == "quotes":
        return "".join(_QUOTES.get(kind, sign) for kind, sign in zip(kinds, raw, strict=True))
    if name == "glyph_fraction":
        return _FRACTIONS[raw]
    if name in ("suffix", "not"):
        raw = raw.translate(_STRAIGHT).replace("&apos;", "'")
    elif name in ("ampersand", "word_comma"):
        raw = re.sub("(?i)&amp;", "&", raw)
    elif name in ("smile", "face", "phone"):
        raw = raw.replace("(", "-lrb-").replace(")", "-rrb-")
    raw = raw.replace("\xad", "").replace(" ", "\xa0")
    return _lower(raw) or "-"


def _lower(text: str) -> str:
    """Lower case; of a capital sigma as Java has it: final where its word has a letter before it
    and none after it, letters without case and digits being part of the word."""
    if "Σ" not in text:
        return text.lower()
    lower = ""
    at = 0
    for found in re.finditer("Σ", text):
        before = _WORD_END.search(text, 0, found.start())
        after = _WORD_START.match(text, found.end())
        final = any(map(_has_case, before[0] if before else ""))
        final = final and not any(map(_has_case, after[0] if after else ""))
        lower += text[at : found.start()].lower() + ("ς" if final else "σ")
        at = found.end()
    return lower + text[at:].lower()


def _has_case(letter: str) -> bool:
    return letter.isupper() or letter.islower() or letter.istitle()
