"""Strings to try a tokenizer with: captions with slips of the pen, and hostile ones."""

# ruff: noqa: E501, SIM905

from __future__ import annotations

from random import Random

_PLAIN = """A man riding a wave on top of a surfboard.
Two dogs are playing in the snow with a ball .
A woman standing next to an open refrigerator, holding her phone
a red double-decker bus driving down a city street
The train is pulling into the station at 5 p.m. on Main St.
A kitchen with a stove, a microwave and a t.v. on the counter
Several people sit around the table; one is eating pizza.
A cat's tail hangs over the edge of the owner's desk.
a boy in a blue t-shirt doesn't want to eat his vegetables
An old black-and-white image of children playing baseball in 1950""".splitlines()
_WORDS = """a A an the dog Dog DOGS man It I He The B U.S. U.K. e.g. i.e. etc. Mr. St. st. Ave. Blvd.
Inc. Co. Ltd. Ph.D. p.m. a.m. T.V. tv No. no. fig. vs. don't isn't can't cannot gonna wanna gotta
lemme it's man's dogs' 'em 'tis 'twas 'til 'cause 'n' rock'n'roll o'clock O'Brien d'Artagnan l'eau
y'all c'est ma'am Hawai'i ol' black-and-white t-shirt 3-year-old and/or w/ w/o b&w AT&T R&B naïve
café 猫 犬が зеленый ΑΣ Σ İstanbul straße हिन्दी ไทย العربية עברית 한국어 ａｂｃ n’t 'll ’s foo.com
www.foo.com http://x.y/z https://a.b/c?d=e foo@bar.com @user #tag #1 file.txt img_001.jpg don’t
it’s ‘tis ’tis cont'd. nat'l li'l cap'n sign.A end.The yes!No etc.. i.e., co. ltd. Jan. wash. Wash.
art. A. b. I. X Pty. Mfg. zero\u200bwidth soft\xadhyphen e\u0301 C++ C# Pvt. PTY. anti-""".split()
_NUMBERS = """0 1 2 5 12 99 100 1,000 3.14 .5 1/2 3/4 2-1/2 1990s '80s 50's 5:30 10:30AM 1st 2nd 5'10"
10x10 $5 $5.00 US$5 €20 £3 ¥5 5¢ 50% #1 555-1212 (412) 412-555-1212 1-800-555-1212 +1 -5 2014-01-02
1/2/2003 5° ½ 1½ ⅓ ¼ ² ١٢ １２ m⁻¹ 1e5 4x4 v2.0 1.2.3 192.168.0.1 2–3 5- 1⁄2 10,th 6ft 6'""".split()
_SIGNS = """. , ; : ? ! ' " ` `` '' ( ) [ ] { } < > / \\ | - -- --- ---- ----- – — … .. ... .... & && * **
+ = == % $ # ## @ @@ ~ ^ _ __ ?! !? ‘ ’ “ ” « » ‹ › ‚ „ ‛ ′ ″ ´ • · © ™ ° § ¿ ¡ € £ ¥ ¢ ₤ ₹ ¤ − × →
★ ♥ ☺ ‐ ‑ ‒ ― ﹣ － ／ 、 。 「 :) :( :-) ;) :D :P <3 =) XD ^_^ -_- (^_^) T_T :'( >:( o_O""".split()
_TAGS = [
    *("<b>", "</b>", "<br/>", "<br />", '<a href="x y">', "<|endoftext|>", "<s>", "<!-- c -->"),
    *("<a <b c> d>", "&amp;", "&lt;", "&gt;", "&quot;", "&apos;", "&nbsp;", "&#39;", "&mdash;"),
    *("&copy;", "&eacute;", "&AMP;", "&QUOT;", "& amp;"),
]
_STRANGE = [
    *("\t", "\xa0", "\u2003", "\u3000", "\u200b", "\ufeff", "\xad", "\u0301", "\x00", "\x01"),
    *(
        "\x1b",
        "\x7f",
        "\x80",
        "\x91",
        "\x92",
        "\x93",
        "\x97",
        "😀",
        "👍🏽",
        "𝒳",
        "\ufffd",
        "\uffff",
    ),
    *("\u202e", "ﬁ", "Ǆ", "ß", "Ⅷ", "①", "Ⓐ", "ª", "ー", "ｶ", "\u06dd", "\u0e33", "\u02bc", "＇"),
]
_POOLS = (_WORDS, _NUMBERS, _SIGNS, _TAGS, _STRANGE)


def _any_character(random: Random) -> str:
    low, high = random.choice(((1, 0x3000), (0x20, 0x250), (0x3000, 0x20000)))
    code = random.randrange(low, high)
    broken = code in (10, 11, 12, 13, 0x2028, 0x2029) or 0xD800 <= code < 0xE000
    return " " if broken else chr(code)


def hostile(random: Random) -> str:
    """Fragments of every kind, with and without blanks between them; one line."""
    glue = random.choice((0, 0.15, 0.5, 0.9))
    out = []
    for _ in range(random.choice((1, 2, 2, 3, 3, 4, 4, 5, 6, 8, 12))):
        chance = random.random()
        if chance < 0.08:
            piece = "".join(_any_character(random) for _ in range(random.randrange(1, 4)))
        elif chance < 0.12:
            letters = "abcXYZ019 .,'\"-/&@#$%:;!?()<>_=*"
            piece = "".join(random.choice(letters) for _ in range(random.randrange(1, 8)))
        else:
            piece = random.choice(random.choices(_POOLS, (6, 3, 5, 1, 1.5))[0])
            piece = random.choices((piece, piece.upper(), piece.capitalize()), (8, 1, 1))[0]
        out.append(piece)
        if random.random() >= glue:
            out.append(random.choices((" ", "  ", "\t"), (18, 1, 1))[0])
    return "".join(out)


def natural(random: Random) -> str:
    """A caption, mostly with something written into it as people do."""
    words = random.choice(_PLAIN).split(" ")
    for _ in range(random.choice((0, 1, 1, 2, 3))):
        at = random.randrange(len(words))
        word = words[at]
        chance = random.random()
        if chance < 0.45:
            words.insert(at, random.choice(_WORDS if chance < 0.3 else _NUMBERS))
        elif chance < 0.6:
            words[at] += random.choice(". , ; : ? ! ' \" ) ... .. !! - -- .a .The ,and".split())
        elif chance < 0.7:
            words[at] = random.choice("\" ' ( ` “ ‘ [ - $ # *".split()) + word
        elif chance < 0.8 and at + 1 < len(words):
            words[at : at + 2] = [word + random.choice(".,-/&'_") + words[at + 1]]
        elif chance < 0.9:
            words[at] = random.choice((word.upper(), f'"{word}"', f"'{word}'", f"({word})"))
        else:
            cut = random.randrange(len(word) + 1)
            words[at] = word[:cut] + random.choice("abcXYZ.,'-/\" 0123") + word[cut:]
    return " ".join(words)
