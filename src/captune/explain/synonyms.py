"""Words of captions -> the 80 categories of COCO (Lin et al. 2014), by a list that is all here.

Only what names the thing itself is in it: a word that as often means something else ("glasses",
"board", "baseball", which is mostly the game) is left out, for a wrong match would blame a map for
our mistake. A match counts only in a photo that has a box of the category, which settles most of
the rest ("bat", "mouse", "orange", "train").
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Iterator, Sequence
from functools import cache

# category: words for one; a plural stands behind a slash where it is not the word and an s
SYNONYMS: dict[str, str] = {
    "person": "person/people man/men woman/women boy girl child/children kid baby/babies toddler"
    " infant guy lady/ladies gentleman/gentlemen adult teenager teen human player skier surfer"
    " snowboarder skateboarder skater biker bicyclist cyclist motorcyclist rider driver chef cook"
    " batter pitcher catcher umpire worker officer policeman/policemen fireman/firemen soldier"
    " student pedestrian passenger customer tourist bride groom someone male female businessman/"
    "businessmen cowboy athlete swimmer farmer",
    "bicycle": "bicycle bike",
    "car": "car automobile sedan taxi cab suv",
    "motorcycle": "motorcycle motorbike moped scooter",
    "airplane": "airplane plane aeroplane aircraft/aircraft airliner jet jetliner biplane",
    "bus": "bus/buses/busses minibus/minibuses",
    "train": "train locomotive tram trolley",
    "truck": "truck lorry/lorries pickup",
    "boat": "boat ship sailboat canoe kayak ferry/ferries yacht rowboat raft vessel gondola"
    " speedboat motorboat",
    "traffic light": "traffic_light stoplight street_light traffic_signal stop_light",
    "fire hydrant": "fire_hydrant hydrant",
    "stop sign": "stop_sign",
    "parking meter": "parking_meter",
    "bench": "bench/benches",
    "bird": "bird duck seagull gull pigeon goose/geese parrot owl eagle swan chicken hen rooster"
    " crow hawk sparrow flamingo penguin pelican ostrich/ostriches peacock heron",
    "cat": "cat kitten kitty/kitties",
    "dog": "dog puppy/puppies pup",
    "horse": "horse pony/ponies foal stallion mare",
    "sheep": "sheep/sheep lamb ram ewe",
    "cow": "cow cattle/cattle bull calf/calves ox/oxen steer",
    "elephant": "elephant",
    "bear": "bear polar_bear",
    "zebra": "zebra",
    "giraffe": "giraffe",
    "backpack": "backpack knapsack rucksack",
    "umbrella": "umbrella parasol",
    "handbag": "handbag purse pocketbook",
    "tie": "tie necktie bowtie",
    "suitcase": "suitcase luggage/luggage briefcase",
    "frisbee": "frisbee",
    "skis": "ski/skis",
    "snowboard": "snowboard",
    "sports ball": "ball soccer_ball tennis_ball",
    "kite": "kite",
    "baseball bat": "bat baseball_bat",
    "baseball glove": "glove mitt baseball_glove",
    "skateboard": "skateboard",
    "surfboard": "surfboard surf_board",
    "tennis racket": "racket racquet tennis_racket tennis_racquet",
    "bottle": "bottle",
    "wine glass": "wine_glass/wine_glasses wineglass/wineglasses",
    "cup": "cup mug",
    "fork": "fork",
    "knife": "knife/knives",
    "spoon": "spoon",
    "bowl": "bowl",
    "banana": "banana",
    "apple": "apple",
    "sandwich": "sandwich/sandwiches burger hamburger cheeseburger",
    "orange": "orange tangerine",
    "broccoli": "broccoli/broccoli",
    "carrot": "carrot",
    "hot dog": "hot_dog hotdog",
    "pizza": "pizza",
    "donut": "donut doughnut",
    "cake": "cake cupcake cheesecake",
    "chair": "chair armchair",
    "couch": "couch/couches sofa loveseat",
    "potted plant": "potted_plant houseplant house_plant",
    "bed": "bed",
    "dining table": "table dining_table",
    "toilet": "toilet urinal",
    "tv": "tv television televisions",
    "laptop": "laptop notebook_computer",
    "mouse": "mouse/mice computer_mouse",
    "remote": "remote remote_control wiimote",
    "keyboard": "keyboard",
    "cell phone": "phone cell_phone cellphone smartphone mobile_phone",
    "microwave": "microwave microwave_oven",
    "oven": "oven stove",
    "toaster": "toaster",
    "sink": "sink",
    "refrigerator": "refrigerator fridge",
    "book": "book",
    "clock": "clock",
    "vase": "vase",
    "scissors": "scissors/scissors",
    "teddy bear": "teddy_bear teddy stuffed_bear stuffed_animal",
    "hair drier": "hair_drier hair_dryer hairdryer blow_dryer",
    "toothbrush": "toothbrush/toothbrushes",
}
# phrases whose last word would be matched alone, and which are none of the 80
_OTHERS = (
    *("swing_set", "phone_booth", "baseball_player", "baseball_game", "baseball_field"),
    *("cable_car", "train_station", "bus_stop", "bed_frame", "table_cloth", "table_tennis"),
    *("book_shelf", "cat_food", "dog_house", "dog_bed", "pool_table", "coffee_table"),
)


def categories_of(words: Sequence[str], known: Iterable[str] | None = None) -> list[str | None]:
    """Of each word of a caption its category, or None.

    known: the categories of a file of boxes; where it has others than COCO's, their own names and
    those with an s match too. The longest phrase wins: in "a hot dog" no dog is named, and in
    "teddy bear" no bear; the last word of a phrase has its category, the others have none.
    """
    phrases = _phrases(tuple(known) if known is not None else None)
    longest = max(len(phrase) for phrase in phrases)
    bare = [_bare(word) for word in words]
    found: list[str | None] = [None] * len(words)
    place = 0
    while place < len(bare):
        for length in range(min(longest, len(bare) - place), 0, -1):
            phrase = tuple(bare[place : place + length])
            if phrase in phrases:
                found[place + length - 1] = phrases[phrase]
                place += length - 1
                break
        place += 1
    return found


@cache
def _phrases(known: tuple[str, ...] | None) -> dict[tuple[str, ...], str | None]:
    found: dict[tuple[str, ...], str | None] = {
        tuple(phrase.split("_")): None for phrase in _OTHERS
    }
    for category, words in SYNONYMS.items():
        if known is None or category in known:
            found |= dict.fromkeys(_forms(words), category)
            found[tuple(category.split())] = category
    for category in known or ():
        if category not in SYNONYMS:
            name = category.lower().replace("_", " ")
            found |= {tuple(form.split()): category for form in (name, f"{name}s")}
    return found


def _forms(words: str) -> Iterator[tuple[str, ...]]:
    for entry in words.split():
        one, *plurals = entry.split("/")
        for form in (one, *(plurals or [f"{one}s"])):
            yield tuple(form.split("_"))


def _bare(word: str) -> str:
    """Without case, and without the signs around it: `"Dogs,"` is `dogs`, `man's` is `man`."""
    bare = word.lower().strip(string.punctuation + "“”‘’…")
    return bare.removesuffix("'s").removesuffix("’s")
