"""What kind of character Java's PTB tokenizer takes each character for.

Measured: each of the 65,536 code units was put into 60 surroundings and the answers compared, so
the kinds are those of the Unicode version that the 2014 tokenizer was made with, whatever version
Python has. Characters that behave alike are one to the rules, which keeps the automaton small.
"""

from __future__ import annotations

import re
from bisect import bisect_right

# one character for each kind: letter, capital letter, digit, mark inside words, sign, sign that
# counts as a capital, dropped, dropped capital, blank
_SAME = dict(zip("ludmscxnb", "éÉ٣\u0300§Ⓐ\x01Ⅷ\u2003", strict=True))

# kind and run length, from U+0080 on; `a` is a pair of capital and small letter
_RUNS = (
    "sx4sx11s4xs2x8s10ls10ls4ls5u23su7l24sl8a27ul2a7ul2a23u2lulul3u2lulu2lu3l2u4lu2lu3l3u2lu2lululu"
    "2lul2ulu2lu3lulu2l3ul7ul2ul2ul2a7ul2a8ul2ul2ulu3la28ul7u2lu2l2ulu4la3ul115m4l12m14l5m7lmlm129u"
    "lul2mulm2l4sx5m2usu3xuxu2lu17xu9l35ul2u3l3a11ul5ulmulu2l2u51l48a17xm5x2a27u2la5ul2a44x9u38x2lm"
    "6xl39xs2x6m45smsm2sm2smx8l27x5l3s2x11s4x2s7x7sm6sx2s2l43m20xd10s4l2ml99slm15l2m7l2d10l3m2ls14x"
    "mlml30m29l89m11lx14d10l33m9l2s3xlx5l22x4lx9lx3lx23l25x71lxl11x83m4l54x2mlm17xlm5x2l10m2s2d10xl"
    "7xl7xm3xl8x2l2x2l22xl7xlx3l4x2mlm7x2m2x2m3lx8mx4l2xl3m2x2d10l2x15m3xl6x4l2x2l22xl7xl2xl2xl2x2m"
    "xm18x9l4xlx7d10x2l3x12m3xl9xl3xl22xl7xl2xl5x2mlm18lx15l2x4d10x21l8x2l2x2l22xl7xl2xl5x3lx30l2xl"
    "3x4d10xlx16mlxl6x3l3xl4x3l2xlxl2x3l2x3l3x3l12x4m5x3m3xm4x2lx21d10x17m3xl8xl3xl23xl10xl5x3lm25x"
    "l2x6l2x4d10x21l8xl3xl23xl10xl5x3lx32lxl2x4d10xl2x18l8xl3xl41x2lm7xm3x5lx17l2x4d10x10l6x5l18x3l"
    "24xl9xlx2l7x58l48ml2m7x4sl7m8sd10x39l2xlx2l2xlx2lx6l4xl7xl3xlxlx2l2xl4ml2m9lx2l5xlxm6x2d10x2l4"
    "x32lx31d10x22l8xl36x27l5x115l43x20ld10x6l6x4l4x3lx3l2x7l3x4l13x12lxd10x6u38xux5ux2l43xl333xl4x"
    "2l7xlxl4x2l41xl4x2l33xl4x2l7xlxl4x2l15xl57xl4x2l67x37l16x16l85x12l620x2l17xl26x5l75x21l13xl4x1"
    "4l18x14l18x14l13xl3x15l52x35lx4lx3d10x38d10x6l88x8l41xlx5l70x10l29x41d10l30x2l5x11l44x21l7x8d1"
    "0x38l23x9l53x43d10x6d10x13lx93l47x17l7x4d10x41l30x13l2d10l44x26l36x28d10x3l3d10l36x107l4xl4x3l"
    "2x9l192x64a74ul9a48ul9u8l6x2u6x2l8u8l8u8l6x2u6x2l8xuxuxuxul8u8l14x2l53xl2u4lslx3l3xl2u4lx3l4x2"
    "l2u4x4l8u5x5l3xl2u4lx3b11x5s2xs17x2sxb2x6s12x2s5xsx43slx2s11ls15xl13x3sx3sx7sx83s2us4us2lu3l2u"
    "3lsus3u5s6usususu4slu4l6s2l2u2s5ul4s4lsx3s12xn16x19ulx11s806c26s1840u47xl47xulu3l2a3u4lul2ul8u"
    "3la48ul2x6ululx3ulx12l38xlx5lx2l56x7lx16l23x9l7xl7xl7xl7xl7xl7xl7xl7x80lx464bs2x2l2x11sx30l5x5"
    "l2x4l86x6l3xl90sl4x5l41x3l94x17l27x53l16x512l6582x74l20941x51l1165x67l46x2l269x3l16d10l2x20a22"
    "ul2x16la12x8l70x49l9x2a6ul3a30ul10ululu2la3ul2x2ululxululx12a5ux77l10xl3xl4xl23x29l52x14l50x28"
    "d10x24l6x3lx4d10l28x10l23x25l29x7l47x28ld10x38l41x23l3xl8x4d10x6l23x3lx5l48xlx3l2x2l5x2lxlx24l"
    "3x2l11x7l3x12l6x2l6x2l6x9l7xl7x145l35x13d10x6l11172x12l23x4l49x8452l366x2l106x38l7x12l5x5lxl10"
    "xl13xl5xlxl2xl2xl108x33l363x18l64x2l54x40l12x116l5xl135x4s15d10s7u26s6l26s11l89x3l6x2l6x2l6x2l"
    "3x3s2x3s2x25"
)

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
        at = 0x80
        for kind, length in re.findall("([a-z])([0-9]*)", "".join(_RUNS)):
            self._starts.append(at)
            self._names.append(kind)
            at += int(length or 1) * (2 if kind == "a" else 1)


KINDS = _Kinds()
