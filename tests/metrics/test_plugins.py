"""Metrics of other packages: found by any spelling, and blamed by name for what they do wrong."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from captune.scoring.score import chosen_metrics
from captune_metrics.catalogue import metric_of, score_with_plugin
from captune_metrics.errors import UserError
from captune_metrics.plugins import plugins_of
from captune_metrics.scores import Scores

C, R = {"x": "a dog", "y": "a cat"}, {"x": ["a dog"], "y": ["one cat"]}


def good(candidates: Any, references: Any) -> Scores:
    """The length of a caption in letters."""
    values = {image: float(len(caption)) for image, caption in candidates.items()}
    return Scores("length", sum(values.values()) / len(values), values, {"unit": "letters"})


Install = Callable[[object], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Make `My-Length` of a package the given object, or the module that a text is."""
    about = tmp_path / "length_pack-1.2.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: length-pack\nVersion: 1.2\n")
    (about / "entry_points.txt").write_text("[captune.metrics]\nMy-Length = length_pack:score\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    def put(content: object) -> None:
        source = content if isinstance(content, str) else "score = None"
        (tmp_path / "length_pack.py").write_text(source)
        sys.modules.pop("length_pack", None)
        if not isinstance(content, str):
            import length_pack  # type: ignore[import-not-found]

            length_pack.score = content

    plugins_of.cache_clear()
    yield put
    sys.modules.pop("length_pack", None)
    plugins_of.cache_clear()


@pytest.mark.parametrize("spelled", ["My-Length", "my_length", "my-length", " MY_LENGTH "])
def test_a_plugin_is_found_however_it_is_spelled(install: Install, spelled: str) -> None:
    install(good)
    assert [m.id for m in chosen_metrics(spelled, references=True, images=False)] == ["my_length"]
    assert metric_of("my_length").kind == "plugin"


def test_package_and_version_stand_in_the_recipe(install: Install) -> None:
    install(good)
    scores = score_with_plugin("my_length", C, R)
    assert (scores.metric, scores.corpus, scores.per_image) == ("my_length", 5.0, {"x": 5, "y": 5})
    assert scores.recipe == {
        "unit": "letters",
        "package": "length-pack",
        "package_version": "1.2",
    }


def test_a_plugin_cannot_change_the_captions_of_others(install: Install) -> None:
    def greedy(candidates: Any, references: Any) -> Scores:
        found = good(candidates, references)
        candidates.clear()
        references["x"].clear()
        return found

    install(greedy)
    candidates, references = dict(C), {image: list(texts) for image, texts in R.items()}
    score_with_plugin("my_length", candidates, references)
    assert (candidates, references) == (C, R)


def test_statistics_that_give_the_figure_are_kept(install: Install) -> None:
    rows = [[5, 1], [5, 1]]

    def score(candidates: Any, references: Any) -> Any:
        return replace(
            good(candidates, references),
            statistics=rows,
            of_sums=lambda sums, n: (sums[:, 0] / sums[:, 1]).tolist(),
        )

    install(score)
    scores = score_with_plugin("my_length", C, R)
    assert scores.statistics is not None
    assert scores.of_sums is not None
    assert scores.of_sums(np.array([[10.0, 2.0]]), 2).tolist() == [5.0]


@pytest.mark.parametrize(
    ("module", "says"),
    [
        ("import no_such_package_at_all", "cannot be loaded .ModuleNotFoundError"),
        ("other = 1", "cannot be loaded .AttributeError"),
        ("score = (", "cannot be loaded .SyntaxError"),
        ("score = 7", "failed .TypeError"),
        ("def score(c, r):\n    raise KeyError('x\\x1b')", "failed .KeyError"),
        ("def score(c, r):\n    return 0.5", "returned float"),
    ],
)
def test_a_plugin_that_cannot_run_is_blamed(install: Install, module: str, says: str) -> None:
    install(module)
    with pytest.raises(UserError, match=says) as caught:
        score_with_plugin("my_length", C, R)
    assert str(caught.value).startswith("metric my_length of length-pack 1.2: ")
    assert str(caught.value).isprintable()


ROWS = np.array([[5.0], [5.0]])


def fails(sums: Any, n: int) -> Any:
    raise ZeroDivisionError


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"per_image": {"x": "5", "y": "5"}}, "not a finite number"),
        ({"per_image": {"x": True, "y": 5.0}}, "not a finite number"),
        ({"per_image": {"x": float("nan"), "y": 5.0}}, "not a finite number"),
        ({"per_image": {"x": 10**400, "y": 5.0}}, "not a finite number"),
        ({"per_image": {"y": 5.0, "x": 5.0}}, "one score per image"),
        ({"per_image": [5.0, 5.0]}, "one score per image"),
        ({"per_image": None}, "one score per image"),
        ({"corpus": None}, "not a finite number"),
        ({"corpus": 6.0}, "not the mean of its images"),
        ({"recipe": {"tokenize": len}}, "not a JSON object"),
        ({"recipe": {"w": float("inf")}}, "not a JSON object"),
        ({"recipe": None}, "not a JSON object"),
        ({"notes": None}, "its notes must be text"),
        ({"notes": "one sentence"}, "its notes must be text"),
        ({"details": (1,)}, "its details must be text"),
        ({"title": None}, "its title must be text"),
        ({"statistics": ROWS}, "belong together"),
        ({"of_sums": fails}, "belong together"),
        ({"statistics": ROWS, "of_sums": fails}, "`of_sums` failed .ZeroDivisionError"),
        ({"statistics": ROWS, "of_sums": 7}, "`of_sums` failed .TypeError"),
        ({"statistics": ROWS[:1], "of_sums": fails}, "2 rows of finite numbers"),
        ({"statistics": "no", "of_sums": fails}, "are not numbers"),
        ({"statistics": ROWS, "of_sums": lambda s, n: s[:, 0]}, "not its corpus score"),
        ({"statistics": ROWS, "of_sums": lambda s, n: s / n}, "one finite figure per row"),
    ],
)
def test_what_is_no_score_is_refused(install: Install, changes: dict[str, Any], says: str) -> None:
    install(lambda candidates, references: replace(good(candidates, references), **changes))
    with pytest.raises(UserError, match=says) as caught:
        score_with_plugin("my_length", C, R)
    assert "length-pack 1.2" in str(caught.value)


def test_our_own_names_cannot_be_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [EntryPoint("CIDEr-D", "other:score", "captune.metrics")]
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: points)
    plugins_of.cache_clear()
    try:
        (metric,) = chosen_metrics("CIDEr-D", references=True, images=False)
        assert (metric.id, metric.kind) == ("cider", "text")
    finally:
        plugins_of.cache_clear()
