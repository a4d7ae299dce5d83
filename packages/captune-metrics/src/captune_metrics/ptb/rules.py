"""What the PTB tokenizer of coco-caption takes for a token: rules found by experiment.

Every rule and word list was worked out from what Java's PTBTokenizer (CoreNLP 3.4.1, as
pycocoevalcap runs it) answers to strings made for the question; nothing was read from its source.
The rules see a caption through `CHARACTER_KINDS`: any letter beyond ASCII is `é` (capital: `É`),
any other digit `٣`, any mark that only goes on inside words `\u0300`, any other sign `§`, and what
is dropped `\x01`.

The kinds of characters were measured: each of the 65,536 code units was put into 60 surroundings
and the answers compared, so they are those of the Unicode version that the 2014 tokenizer was made
with, whatever version Python has. Characters that behave alike are one to the rules, which keeps
the automaton small.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from pathlib import Path

from captune_metrics.ptb.automaton import Rule

_WORDS: dict[str, str] = json.loads(Path(__file__).with_name("words.json").read_bytes())

# a word of two ASCII letters or more that is none of these is one token, with a period or without
SPECIAL_WORDS = frozenset(
    word
    for kind in ("titles", "closers", "capital closers", "before a number", "other special words")
    for word in _WORDS[kind].lower().split()
)

MACROS = {
    "letter": "[A-Za-zéÉ]",
    "digit": "[0-9٣]",
    "ws": r"[\ \t\u2003\xa0]",
    "blank": r"[\ \t\u2003\xa0\n\x85]",
    "apos": "(['’] | & <apos> ;)",
    "anyapos": "(['’`‘] | & <apos> ;)",
    "hyphen": "[\\-‐]",
    "accented": "& <a e i o u> <acute grave uml> ;",
    "wordletter": "([A-Za-zéÉ\u0300\xad] | {accented})",
    "wordchar": "([A-Za-zéÉ0-9٣\u0300\xad] | {accented})",
    "word": "{wordletter} {wordchar}*",
    "alnum": "[A-Za-zéÉ0-9٣]",
    "number": r"[+\-]? ({digit}+ | {digit}* ([.,:٫" "\xad" r"] {digit}+)+)",
    "part": "{alnum}+ (_ {article}? {alnum}+)*",
    "country": r"(\+ \+?)? ([0-9]{2,4} [\-\ \xa0])?",
    "area": r"[0-9]{2,4} [\-\ \xa0]",
    "closer": "<" + _WORDS["closers"] + "> | <^" + _WORDS["capital closers"] + "> | {party}",
    # these take no capital beyond the first letters
    "party": "<p>? <p> [t] (e | y) <s>?",
    "doctor": r"<ph ed> \. <d>",
    "starter": (
        "{blank}+ (<^" + _WORDS["starters"] + r"> {blank} | <^Mr Ms> \. {blank} | {sgml} {blank})"
    ),
    "upper": "{blank} ({blank} | [A-ZÉⒶⅧ] | {sgml})",
    "attribute": r"\ + [A-Za-z] {name}* (\ * = \ * {quoted})?",
    "tag": r"\< ([A-Za-z] {name}* {attribute}* \ * /? | / [A-Za-z] {name}*) \ * \>",
    "sgml": r"({tag} | \< [!?] [A-Za-z\-] [^>\n]* \>)",
    "name": r"[A-Za-z0-9:.\-_]",
    "link": r"[^\ \t\n<>|(){}\"]",
    "path": r"[^\ \t\n<>|()\"]",
    "linkend": r"[^\ \t\n<>|(){}\".,?!\-]",
    "host": r"[^\ \t\n<>|(){}\".,?!]",
    "label": r"[#%&*+~a-z\x7f-\uffff\x01]",
    "mailpart": r"[^\ \t\n\xa0<>|(){}\"]",
    "linkname": r"[^\ \t\n\xa0<>|(){}\".]",
    "quoted": "(\" [^\"\\n]* \" | ' [^'\\n]* ')",
    "site": "{word} ([.!?] {word})+",
    "hyphenated": (
        "[A-Za-z0-9] [A-Za-z0-9\xad.,]* (- ([A-Za-z0-9\xad]+ | {dotted}))+"
        " | {article}? {part} ({hyphen} {article}? {part})+"
    ),
    "article": "<d l o> {anyapos} {alnum}",
    "dotted": r"[A-Za-z] \. ([A-Za-z] \.)+",
    "ampersand": "[A-Z]+ ((& | & <amp> ; | \\+) [A-Z]+)+",
}

RULES = [
    Rule("space", r"[\ \t\u2003\xa0]+ | [\x01Ⅷ]"),
    Rule("newline", r"\n"),
    Rule("entity_space", "& <nbsp> ;"),
    Rule("sgml", "{sgml}"),
    Rule("split", "<can>", "<not>"),
    Rule("split", "<gon wan>", "<na>"),
    Rule("split", "<got>", "<ta>"),
    Rule("split", "<lem gim>", "<me>"),
    Rule("split", "' <t>", "<is was>"),
    Rule("suffix", "{apos} <s m d re ve ll>", "[^A-Za-z]"),
    Rule("not", "<n> {anyapos} <t>"),
    Rule("relex", r"({closer} | {doctor}) \.", "{upper}"),
    Rule(
        "closer",
        r"({closer} | {doctor} | <cont> {apos} <d>) \.",
        "[A-Za-zéÉ\u0300\xad] [^A-Za-z0-9éÉ٣\u0300\xad]? | [^A-Za-zéÉ\u0300\xad@] [^\n]?",
    ),
    Rule("closer", r"({closer} | {doctor} | <cont> {apos} <d>) \."),
    Rule("word_before_not", "[A-Za-z\xad]* [A-MO-Za-mo-z] \xad*", "<n> {anyapos} <t>"),
    Rule("word_before_suffix", "{word}", "{apos} <s m d re ve ll>"),
    Rule("word", "{word}"),
    Rule("alnum", "{article}? {part}"),
    Rule("hyphenated", "{hyphenated}"),
    Rule("hyphenated", "<anti pro> -"),
    Rule(
        "slashed", r"[A-Za-z0-9]+ (- [A-Za-z]+){0,2} (\\? / [A-Za-z0-9]+ (- [A-Za-z]+){0,2}){1,2}"
    ),
    Rule("apostrophe_word", "[A-HJ-XZdlno] {anyapos} {letter} {letter}+"),
    Rule("apostrophe_word", "{letter}+ <a e i o u y> {anyapos} [aeiouA-Z] {letter}*"),
    Rule("apostrophe_word", "<e> {apos} <er> | <c> {apos} <est mon> | <li nat> {apos} <l>"),
    Rule("apostrophe_word", "<cap> {apos} <n> | <o> {anyapos} <o> | <ol dunkin somethin> {apos}"),
    Rule("apostrophe_word", "<j d l> {apos}"),
    Rule("apostrophe_word", "<y> {apos}", "{letter}"),
    Rule("apostrophe_word", "{apos} <em til till cause n> | {apos} <n> {apos}"),
    Rule("decade", "{apos} [2-9] 0 <s>"),
    Rule("year", "{apos} [0-9] [0-9]", "{blank}"),
    Rule("number", "{number}"),
    Rule("fraction", "({digit}{1,4} [- \\ \xa0])? {digit}{1,4} (\\\\? / | ⁄) {digit}{1,4}"),
    Rule("glyph_fraction", "½"),
    Rule("date", "{digit}{1,2} [/\\-] {digit}{1,2} [/\\-] {digit}{2,4}"),
    Rule("phone", r"{country} {area} [0-9]{3,4} [\-\ \xa0]? [0-9]{3,5}"),
    Rule("phone", r"\( [0-9]{2,3} \) [\ \xa0]? [0-9]{3,4} [\-\ \xa0]? [0-9]{3,5}"),
    Rule("phone", r"(\+ \+?)? ([0-9]{2,4} \.)? [0-9]{2,4} \. [0-9]{3,4} \. [0-9]{3,5}"),
    Rule("acronym_number", "<" + _WORDS["before a number"] + r"> \.", "{blank}? {digit}"),
    Rule("abbreviation", r"<co pvt pte pty> \.", "{ws} <ltd lim>"),
    Rule("abbreviation", "(<" + _WORDS["titles"] + r"> | <m> [ft] <g>) \."),
    Rule("initial_end", "[A-Za-z]", "\\. {starter}"),
    Rule("abbreviation", r"[A-Za-z] \."),
    Rule("relex", r"[A-Za-z] (\. [A-Za-z])+ \.", "{starter}"),
    Rule("relex", r"{doctor} \.", "{starter}"),
    Rule("acronym", r"([A-Za-z] (\. [A-Za-z])+ | {doctor}) \.?"),
    Rule("site", "{site}", "{apos} <s m d re ve ll>"),
    Rule("site", "{site}"),
    Rule(
        "file",
        r"{wordchar}+ (\. {wordchar}+)* \. <" + _WORDS["extensions"] + ">",
        r"[!,.?\n\t\ \x85\xa0\u2003]",
    ),
    Rule(
        "word_comma",
        r"({word} | {article} {part} | {part} | {hyphenated} | {site} | {ampersand}) \.",
        "[,:;、]",
    ),
    Rule("url", r"<http https> : / / {link}+ {linkend}"),
    Rule("url", r"<www> \. ({host}+ \.)+ [A-Za-z]{2,4} (/ {path}+ {linkend})?"),
    Rule("url", r"({label}+ \.)+ <com net org edu> (/ {path}+ {linkend})?"),
    Rule(
        "mail",
        r"(\< | & <lt> ;)? (<mailto> :)? [A-Za-z0-9] {mailpart}* @ {linkname}+ (\. {linkname}+)*"
        r" (\> | & <gt> ;)?",
    ),
    Rule("handle", "@ [A-Za-z_] [A-Za-z_0-9]*"),
    Rule("hashtag", r"\# {wordletter}+"),
    Rule("ampersand", "{ampersand} | <s> (& | & <amp> ;) <ls>"),
    Rule("with", "<w>", "/ {blank}"),
    Rule("language", r"[CcFf] \# | [Cc] \+ \+"),
    Rule("currency", "[A-Z]+ \\$"),
    Rule("amp", "& <amp> ;"),
    Rule("lt", "& <lt> ;"),
    Rule("gt", "& <gt> ;"),
    Rule("dash_entity", "& <md mdash ndash> ;"),
    Rule("quot_open", '" | & <quot> ;', "[A-Za-z0-9$]"),
    Rule("quot_close", '" | & <quot> ;'),
    Rule("single_open", "'", "[A-Za-z] [^\\ \\n\\t\xa0]"),
    Rule("suffix", "{apos} <s m d re ve ll>"),
    Rule("single_close", "{apos} | ›"),
    Rule("double_close", "''|’’|”"),
    Rule("double_open", "``|‘‘|“"),
    Rule("quotes", "[‘’‹“”›‚`] [‘’‹“”›‚`]"),
    Rule("back", "‘|‹|`"),
    Rule("reference", r"& ( \# [0-9]+ | <ht lr qc ql qr tl ur cdq odq>) ;"),
    Rule("face", "['~=<>x\\-^] [_] ['~=<>x\\-^]"),
    Rule("face", "\\( (['~=<>x\\-^] [_.]? ['~=<>x\\-^] | ['~=<>x^] - ['~=<>x^]) \\)"),
    Rule("sign", r"(\\ \*){1,3}"),
    Rule("smile", r"[<>]? [:;=] [\-o*']? [()DPdpO\\{@|\[\]]", "[^A-Za-z0-9]"),
    Rule("dashes", "- - -? -? | –"),
    Rule("signs", "- - - - - + | _+ | \\*+ | \\#+ | @@+ | [?!]+"),
    Rule("ellipsis", r"\. \. \. \.? \.? | … | \x85"),
    Rule("signs", "⁺? (²+ | ₂+)"),
    Rule("ellipsis", r"\. ([\ \xa0] \.){2,4}"),
    Rule("lrb", "\\("),
    Rule("rrb", "\\)"),
    Rule("lsb", "\\["),
    Rule("rsb", "\\]"),
    Rule("lcb", "\\{"),
    Rule("rcb", "\\}"),
    Rule("dollar", "€"),
    Rule("pound", "£"),
    Rule("cents", "¢"),
    Rule("dropped", "‐+|٫"),
    Rule("sign", r"\< \< | \> \> | [^\ \t\n\xa0\u2003\x01Ⅷ]"),
]


# one character for each kind: letter, capital letter, digit, mark inside words, sign, sign that
# counts as a capital, dropped, dropped capital, blank
_SAME = dict(zip("ludmscxnb", "éÉ٣\u0300§Ⓐ\x01Ⅷ\u2003", strict=True))

# characters that have rules of their own, and those that they behave like
_OWN = {
    **dict.fromkeys("\x91‘‛", "‘"),
    **dict.fromkeys("\x92’", "’"),
    **dict.fromkeys("\x93«“", "“"),
    **dict.fromkeys("\x94»”", "”"),
    **dict.fromkeys("\x96\x97–—―", "–"),
    **dict.fromkeys("\x80¤₠€", "€"),
    **dict.fromkeys("֊‐‑", "‐"),
    **dict.fromkeys("¼½¾⅓⅔", "½"),
    **dict.fromkeys("٫٬", "٫"),
    **dict.fromkeys("‚„‟", "‚"),
    **dict.fromkeys("¹²³⁰⁴⁵⁶⁷⁸⁹", "²"),
    **dict.fromkeys("₀₁₂₃₄₅₆₇₈₉", "₂"),
    **dict.fromkeys("⁺⁻₊₋", "⁺"),
    **{sign: sign for sign in "、‹›…¢£⁄\x85\xa0\xad"},
}

ALPHABET = frozenset([chr(code) for code in range(0x80)] + [*_SAME.values(), *_OWN.values()])


class _Kinds(dict[int, str]):
    """A table for `str.translate`: code point -> what the rules see; filled as asked for."""

    def __init__(self) -> None:
        super().__init__({code: chr(code) for code in range(0x80)})
        self.update(dict.fromkeys((*range(9), *range(14, 32), 127), "\x01"))
        self.update({ord(sign): like for sign, like in _OWN.items()})
        self._starts: list[int] = []
        self._names: list[str] = []

    def __missing__(self, code: int) -> str:
        if not self._starts:
            self._read()
        # beyond the first 65,536 Java sees two halves, neither of which it knows
        kind = self._names[bisect_right(self._starts, code) - 1] if code < 0x10000 else "x"
        if kind == "a":
            start = self._starts[bisect_right(self._starts, code) - 1]
            kind = "l" if (code - start) % 2 else "u"
        self[code] = found = _SAME[kind]
        return found

    def _read(self) -> None:
        """The kinds from U+0080 on, each with its run length.

        `a` is a pair of capital and small letter.
        """
        text = Path(__file__).with_name("characters.txt").read_text(encoding="ascii")
        runs, at = text.replace("\n", ""), 0x80
        for kind, length in re.findall("([a-z])([0-9]*)", runs):
            self._starts.append(at)
            self._names.append(kind)
            at += int(length or 1) * (2 if kind == "a" else 1)


CHARACTER_KINDS = _Kinds()
