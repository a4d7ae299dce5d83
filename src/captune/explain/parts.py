"""Parts of speech, simply: nouns are the words of COCO's categories, the rest goes by lists.

A tagger would know more words and be wrong about some; these lists are short and all here. A noun
that names none of the 80 categories ("beach", "plate") is among the other words, and so are
adjectives and adverbs.
"""

from __future__ import annotations

import string

NOUN, VERB, LITTLE, OTHER = "nouns", "verbs", "little words", "other words"
PARTS = (NOUN, VERB, OTHER, LITTLE)

_LITTLE = """
a an the this that these those some any all both each every another other several many few one
two three four five six his her its their my your our he she it they them him who which what
there here is are was were be been being has have had do does did can and or but as than while
when where then so not no of in on at to by with from for near next into onto over under up down
off out through across along behind beside besides between around against above below about
after before during inside outside atop toward towards within without front back top side bottom
left right very just
"""
# words in -ing that are none of a verb; verbs in -ing need no list
_NO_VERBS = """
building ceiling clothing ring king wing string morning evening painting railing something
nothing anything thing spring wedding frosting icing awning lightning opening pudding crossing
parking dining dressing stuffing topping living
"""
_VERBS = """
sit sits sat seated stand stands stood hold holds held ride rides rode ridden wear wears wore
worn walk walks walked eat eats ate eaten look looks looked play plays played fly flies flew
flown hang hangs hung lie lies lay lays laid jump jumps jumped run runs ran catch catches caught
throw throws threw thrown pose poses posed park parks parked drive drives drove driven drink
drinks drank swing swings swung hit hits kick kicks kicked carry carries carried pull pulls
pulled push pushes pushed climb climbs climbed swim swims swam watch watches watched reach
reaches reached lean leans leaned rest rests rested sleep sleeps slept graze grazes grazed surf
surfs surfed ski skied skate skates skated wait waits waited smile smiles smiled talk talks
talked take takes took taken make makes made prepare prepares prepared cut cuts show shows
showed shown sliced filled covered topped surrounded displayed dressed decorated stacked lined
perched placed attached travel travels traveled travelled cross crosses crossed face faces faced
feature features featured get gets got go goes went come comes came try tries tried put puts
give gives gave use uses used perform performs performed
"""


_LITTLE_WORDS, _NO_VERB, _VERB = (frozenset(text.split()) for text in (_LITTLE, _NO_VERBS, _VERBS))


def part_of(word: str, category: str | None) -> str:
    """One of PARTS for a word as it stands in a caption; category: that of COCO it names."""
    bare = word.lower().strip(string.punctuation + "“”‘’…")
    if category is not None:
        return NOUN
    if bare in _LITTLE_WORDS or not any(sign.isalpha() for sign in bare):
        return LITTLE
    is_participle = bare.endswith("ing") and len(bare) > 4 and bare not in _NO_VERB
    return VERB if bare in _VERB or is_participle else OTHER
