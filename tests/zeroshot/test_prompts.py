"""Templates and named sets."""

import importlib.util
import random
from pathlib import Path
from types import ModuleType

import pytest

from captune.errors import UserError
from captune.zeroshot.prompts import DEFAULT_TEMPLATE, NAMED_SETS, expand, fill

HW3 = NAMED_SETS["hw3"]


def published_lists() -> ModuleType:
    """The one file of open_clip that holds them: importing the package takes seconds."""
    package = importlib.util.find_spec("open_clip")
    if package is None or package.origin is None:
        pytest.skip("open_clip is not installed")
    path = Path(package.origin).with_name("zero_shot_metadata.py")
    spec = importlib.util.spec_from_file_location("zero_shot_metadata", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_openai_sets_are_the_published_lists():
    metadata = published_lists()
    for name in ("cat", "", "{}", "{object}"):
        for ours, theirs in (
            (NAMED_SETS["openai-80"], metadata.OPENAI_IMAGENET_TEMPLATES),
            (NAMED_SETS["openai-7"], metadata.SIMPLE_IMAGENET_TEMPLATES),
        ):
            assert [fill(template, name) for template in ours] == [each(name) for each in theirs]


def test_named_sets():
    assert {name: len(templates) for name, templates in NAMED_SETS.items()} == {
        "openai-80": 80,
        "openai-7": 7,
        "hw3": 4,
    }
    assert all(len(set(templates)) == len(templates) for templates in NAMED_SETS.values())
    assert set(NAMED_SETS["openai-7"]) <= set(NAMED_SETS["openai-80"])
    for templates in NAMED_SETS.values():
        assert expand(templates) == list(templates)
    assert expand([DEFAULT_TEMPLATE]) == [DEFAULT_TEMPLATE]


def test_the_assignments_four():
    assert [fill(template, "cat") for template in HW3] == [
        "This is a photo of cat",
        "This is not a photo of cat",
        "No cat, no score.",
        "a photo of a cat",
    ]


def test_sets_and_templates_mix_each_once_in_order():
    assert expand(["a {}", "hw3", "a photo of a {}", "a {}"]) == ["a {}", *HW3]
    assert expand("hw3") == list(HW3)
    assert expand([]) == []


@pytest.mark.parametrize(
    ("template", "name", "text"),
    [
        ("{}", "cat", "cat"),
        ("{object}", "cat", "cat"),
        ("a {} and a {object}", "cat", "a cat and a cat"),
        ("a {}", "{}", "a {}"),
        ("a {}", "{object}", "a {object}"),
        ("a {} of {object}", "{object}{}", "a {object}{} of {object}{}"),
        ("a {}", "{0.__class__}", "a {0.__class__}"),
        ("100% {} %s", "50% %d \\1", "100% 50% %d \\1 %s"),
        ("{{}}", "cat", "{cat}"),
        ("{name} {}", "cat", "{name} cat"),
        ("line\n{}", "a\nb", "line\na\nb"),
    ],
)
def test_fill_is_plain_replacement(template, name, text):
    assert expand([template]) == [template]
    assert fill(template, name) == text


def test_fill_keeps_every_character_of_any_name():
    chance = random.Random(0)
    for _ in range(500):
        name = "".join(chance.choice("ab{}0:!.%\\$ objectéñ日😀\n\"'") for _ in range(12))
        assert fill("<{}>", name) == f"<{name}>"
        assert fill("{object}|{}", name) == f"{name}|{name}"


@pytest.mark.parametrize(
    "template",
    ["", "a photo", "a photo of a {label}", "{ }", "{", "}{", "{0}", "{OBJECT}", "openai-8", "%s"],
)
def test_a_template_without_a_place_is_refused(template):
    with pytest.raises(UserError) as refusal:
        expand(["a {}", template])
    assert str(refusal.value) == (
        f'the prompt "{template}" has no place for the label; write {{}} or {{object}} where it'
        " goes, or name a set (openai-80, openai-7, hw3)."
    )
