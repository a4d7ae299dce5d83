"""What the PTB tokenizer of coco-caption takes for a token: rules found by experiment.

Every rule and word list was worked out from what Java's PTBTokenizer (CoreNLP 3.4.1, as
pycocoevalcap runs it) answers to strings made for the question; nothing was read from its source.
The rules see a caption through `ptb_characters`: any letter beyond ASCII is `é` (capital: `É`),
any other digit `٣`, any mark that only goes on inside words `\u0300`, any other sign `§`, and what
is dropped `\x01`.
"""

from __future__ import annotations

from captune.metrics.ptb.automaton import Rule

_TITLES = (
    "adj adm adv alex asst assoc atty attys ave brig capt cf cie cmdr col comdr cpl dept det dr "
    "drs elec ens ft gen gov govs hon insp invt jos lieut lt maj messrs mlle mme mr mrs ms msgr "
    "mt natl pfc ph pres prof profs pvt rep reps rev sen sens sfc sgt spc st ste supt supts"
    " treas vs wm"
)
_CLOSERS = (
    "al ala apr ariz assn aug bhd bldg blvd bros calif co colo conn corp cos ct dak dec esq est "
    "etc ext feb fla fri ga inc ind intl jan jr jul jun kan kans ky ltd mar md mich minn mo mon "
    "mont neb nev nov oct okla penn plc rd rt sep sept seq sq sr sys tel tenn thu thurs tue tues "
    "univ va vt wed wis wisc wyo"
)
_CLOSERS_CAPITAL = "Ark Az Del Ill La Mass Miss Ore Pa Tex Wash"
_BEFORE_NUMBER = "art ca fig figs no nos op p pp prop"
_EXTENSIONS = (
    "bat bmp c cgi class cpp dll doc docx exe gif gz h htm html jar java jpeg jpg mov mp3 pdf php "
    "pl png ppt ps py sql tar txt wav x xml zip"
)
_STARTERS = (
    "A About According Additionally After An As At But Earlier He Her Here However If In It Last "
    "Many More Now Once One Other Our She Since So Some Such That The Their Then There These They "
    "This We What When While Yet You"
)

# a word of two ASCII letters or more that is none of these is one token, with a period or without
SPECIAL_WORDS = frozenset(
    f"cannot gonna wanna gotta lemme gimme {_TITLES} {_CLOSERS} {_CLOSERS_CAPITAL} "
    f"{_BEFORE_NUMBER} mfg mtg pte pty ptes ptys ppte ppty pptes pptys".lower().split()
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
    "closer": "<" + _CLOSERS + "> | <^" + _CLOSERS_CAPITAL + "> | {party}",
    # these take no capital beyond the first letters
    "party": "<p>? <p> [t] (e | y) <s>?",
    "doctor": r"<ph ed> \. <d>",
    "starter": "{blank}+ (<^" + _STARTERS + r"> {blank} | <^Mr Ms> \. {blank} | {sgml} {blank})",
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
    Rule("acronym_number", "<" + _BEFORE_NUMBER + r"> \.", "{blank}? {digit}"),
    Rule("abbreviation", r"<co pvt pte pty> \.", "{ws} <ltd lim>"),
    Rule("abbreviation", "(<" + _TITLES + r"> | <m> [ft] <g>) \."),
    Rule("initial_end", "[A-Za-z]", "\\. {starter}"),
    Rule("abbreviation", r"[A-Za-z] \."),
    Rule("relex", r"[A-Za-z] (\. [A-Za-z])+ \.", "{starter}"),
    Rule("relex", r"{doctor} \.", "{starter}"),
    Rule("acronym", r"([A-Za-z] (\. [A-Za-z])+ | {doctor}) \.?"),
    Rule("site", "{site}", "{apos} <s m d re ve ll>"),
    Rule("site", "{site}"),
    Rule(
        "file",
        r"{wordchar}+ (\. {wordchar}+)* \. <" + _EXTENSIONS + ">",
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
