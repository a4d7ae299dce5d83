from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.attribution.woken import woken

from captune.attribution.methods import DefaultMap, LayerHead, choose_map, read_default
from captune.captioning.checkpoint import write_beside
from captune.captioning.settings import EXPLAIN
from captune.errors import UserError

BEST = DefaultMap("attention", 1, 0, {"insertion": 0.71}, "layer 1, head 0, of course")


def test_what_is_stored_is_read_again(tmp_path: Path) -> None:
    assert read_default(tmp_path) is None
    write_beside(tmp_path / EXPLAIN, BEST)
    assert read_default(tmp_path) == BEST
    assert json.loads((tmp_path / EXPLAIN).read_text()) == {
        "schema": 1,
        "method": "attention",
        "layer": 1,
        "head": 0,
        "figures": {"insertion": 0.71},
        "sentence": "layer 1, head 0, of course",
    }
    write_beside(tmp_path / EXPLAIN, DefaultMap("occlusion", None, None))
    assert read_default(tmp_path) == DefaultMap("occlusion", None, None)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("no json", "explain.json: not readable as JSON"),
        ("[]", "explain.json holds a list"),
        ('{"schema": 2}', "schema 2, this captune reads 1"),
        ('{"schema": 1, "method": "attention", "layer": "x", "head": 0}', "layer: expected"),
        ('{"schema": 1, "method": "attention", "layer": 1, "head": true}', "head: expected"),
        ('{"schema": 1, "method": "attention"}', "it has no layer"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / EXPLAIN).write_text(text)
    with pytest.raises(UserError, match=reason) as error:
        read_default(tmp_path)
    assert EXPLAIN in str(error.value)


def test_auto_takes_what_was_stored() -> None:
    captioner = woken()
    method, layer_head = choose_map(captioner, BEST)
    assert (method.name, layer_head) == ("attention", LayerHead(1, 0))
    # of another method its own first one
    method, layer_head = choose_map(captioner, BEST, method="gradient-attention")
    assert (method.name, layer_head) == ("gradient-attention", LayerHead())
    method, layer_head = choose_map(captioner, None)
    assert (method.name, layer_head) == ("attention", LayerHead(2, "mean"))
    # what this captioner does not have counts for nothing
    foreign = DefaultMap("attention", 9, 3)
    assert choose_map(captioner, foreign)[1] == LayerHead(2, "mean")
    assert choose_map(woken(bridge="prefix"), None)[0].name == "gradient"


@pytest.mark.parametrize(
    ("layer", "head", "expected"),
    [
        ("0", "auto", LayerHead(0, 0)),  # the stored head
        ("0", "mean", LayerHead(0, "mean")),
        ("last", "1", LayerHead(2, 1)),
        ("all", "auto", LayerHead(None, "mean")),
        ("auto", "max", LayerHead(1, "max")),
    ],
)
def test_what_is_typed_counts_more(layer: str, head: str, expected: LayerHead) -> None:
    assert choose_map(woken(), BEST, layer=layer, head=head)[1] == expected


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ({"method": "guess"}, "choose among attention, gradient"),
        ({"layer": "3"}, "it has layers 0, 1, 2; all layers at once; heads 0, 1, max, mean"),
        ({"layer": "-1"}, "has no map of layer -1"),
        ({"layer": "deep"}, "layer deep: write a number from 0, last, all, or auto"),
        ({"head": "7"}, "has no map of layer 1, head 7"),
        ({"head": "left"}, "head left: write a number from 0, mean, max, or auto"),
        ({"layer": "all", "head": "1"}, "has no map of all layers, head 1"),
        ({"method": "occlusion", "layer": "1"}, "occlusion has no map of layer 1"),
    ],
)
def test_what_there_is_not_is_one_sentence(words: dict[str, str], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        choose_map(woken(), BEST, **words)
