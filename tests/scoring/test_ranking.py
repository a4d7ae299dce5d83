from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.score_runs import image_folder, write_run

from captune.errors import UserError
from captune.options.scoring import RankOptions
from captune.runs import DamagedRun, Run
from captune.runs.evaluation import MetricFigure
from captune.scoring.rank import Distribution, Pair, Ranking, Standing, rank_run, write_table
from captune.tables import as_typed

FIGURE = {"name": None, "corpus": 0.5, "interval": None, "recipe": {}}


def rank(folder: Path, by: str = "cider", **options: Any) -> Ranking:
    return rank_run(RankOptions(run=folder, by=by, **options))


def images(pairs: list[Pair]) -> list[str]:
    return [pair.image for pair in pairs]


def ranking_of(values: list[float], top: int) -> Ranking:
    order = sorted(enumerate(values), key=lambda item: -item[1])
    pairs = [
        Pair(rank, str(index), None, "", (), {"cider": value})
        for rank, (index, value) in enumerate(order, 1)
    ]
    run = Run(Path("run"), {}, {})
    return Ranking(
        run, "cider", {"cider": MetricFigure("CIDEr-D[ptb]", None, None, {})}, pairs, top, None
    )


def test_best_first_and_equal_scores_by_image_id(tmp_path: Path) -> None:
    scores = {"c": 1.0, "b": 2.0, "e": 1.0, "a": 1.0, "d": 0.5}
    run = write_run(tmp_path / "run", {image: {"cider": s} for image, s in scores.items()})
    ranking = rank(run, top=2)
    assert images(ranking.pairs) == ["b", "a", "c", "e", "d"]
    assert [pair.rank for pair in ranking.pairs] == [1, 2, 3, 4, 5]
    assert images(ranking.best) == ["b", "a"]
    assert images(ranking.worst) == ["d", "e"]
    assert ranking.label("cider") == "CIDER"


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0]), min_size=1, max_size=12), st.integers(1, 15))
def test_no_pair_is_shown_twice(values: list[float], top: int) -> None:
    ranking = ranking_of(values, top)
    best, worst = images(ranking.best), images(ranking.worst)
    if len(values) == 1:
        assert best == worst == ["0"]
        return
    assert not set(best) & set(worst)
    assert max(len(best), len(worst)) <= top
    assert len(best) + len(worst) == min(2 * top, len(values))
    scores = [ranking.score(pair) for pair in (*ranking.best, *reversed(ranking.worst))]
    assert scores == sorted(scores, reverse=True)


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0]), min_size=1, max_size=12))
def test_standings_count_who_is_above_and_below(values: list[float]) -> None:
    distribution = Distribution("cider", values)
    for value in values:
        standing = distribution.standing(value)
        above = sum(other > value for other in values)
        below = sum(other < value for other in values)
        equal = len(values) - above - below
        assert standing == Standing(above + 1, len(values) - below, len(values))
        assert standing.ties == equal
        if len(values) > 1:
            assert standing.fraction_below == pytest.approx(
                (below + (equal - 1) / 2) / (len(values) - 1)
            )


def test_ties_that_cut_an_end_are_told() -> None:
    ranking = ranking_of([3.0, *[0.0] * 6, 1.0], top=3)
    assert ranking.tie(ranking.best) == (0.0, 6, 1)
    assert ranking.tie(ranking.worst) == (0.0, 6, 3)
    best, worst = ranking.remarks()
    assert best.endswith("1 of the best shown is an arbitrary choice among them")
    assert "6 of 8 images share the score 0.000" in worst
    assert worst.endswith("the 3 worst shown are an arbitrary choice among them")
    # all that share the last score are shown: nothing was chosen
    assert ranking_of([3.0, 2.0, 2.0, 1.0, 1.0, 0.0], top=3).remarks() == []


def test_all_equal_is_no_ranking() -> None:
    (remark,) = ranking_of([1.0] * 5, top=2).remarks()
    assert remark.startswith("all 5 images have the same score")
    assert ranking_of([1.0], top=2).remarks() == []


def test_smoothed_bleu_of_zero_is_a_tie(tmp_path: Path) -> None:
    values = [0.4, 1.1e-4, 9e-5, 2e-4, 0.3]
    run = write_run(tmp_path / "run", {str(i): {"bleu_4": v} for i, v in enumerate(values)})
    ranking = rank(run, "bleu_4", top=1)
    assert ranking.standing(ranking.pairs[-1], "bleu_4") == Standing(3, 5, 5)
    _, remark = ranking.remarks()  # the first says that there are no images
    assert "3 of 5 images share the score 0.000 (smoothing alone tells them apart)" in remark


def test_median() -> None:
    assert Distribution("cider", [3, 1, 2]).median == 2
    assert Distribution("cider", [4, 1, 2, 3]).median == 2.5


def test_at_most_one_bleu_is_quoted(tmp_path: Path) -> None:
    names = ("bleu_1", "bleu_2", "bleu_4", "cider", "rouge_l")
    run = write_run(tmp_path / "run", {"a": dict.fromkeys(names, 1.0)})
    assert rank(run, "cider").quoted == ["bleu_4", "rouge_l"]
    assert rank(run, "bleu_1").quoted == ["cider", "rouge_l"]


def test_the_table_has_every_image_and_every_digit(tmp_path: Path) -> None:
    scores = {"a": {"cider": 1 / 3, "bleu_4": 0.1}, "b": {"cider": 2 / 3, "bleu_4": None}}
    captions = {"a": 'a "quoted",\n=1+1 caption', "b": "half \ud83d of a sign"}
    run = write_run(tmp_path / "run", scores, captions=captions, paths={"a": "x/a.jpg"})
    write_table(rank(run, top=1), tmp_path / "t.csv")
    with (tmp_path / "t.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["rank", "image", "path", "caption", "score", "cider", "bleu_4"]
    assert [row["image"] for row in rows] == ["b", "a"]
    assert float(rows[1]["score"]) == 1 / 3 == float(rows[1]["cider"])
    assert rows[0]["bleu_4"] == ""
    assert as_typed(rows[1]["caption"]) == captions["a"]
    assert rows[0]["caption"] == "half \\ud83d of a sign"
    assert rows[1]["path"] == "x/a.jpg"


def test_images_without_a_score_have_no_rank(tmp_path: Path) -> None:
    scores = {"a": {"cider": 1.0}, "b": {"cider": None}, "c": {"cider": float("nan")}, "d": {}}
    ranking = rank(write_run(tmp_path / "run", scores))
    assert images(ranking.pairs) == ["a"]
    assert [item.path for item in ranking.skipped] == ["b", "c", "d"]
    assert "3 images have no score by cider and no rank" in ranking.notes


@pytest.mark.parametrize("by", ["CIDEr", " cider ", "CIDER", "CIDEr-D"])
def test_the_metric_may_be_written_in_any_case(tmp_path: Path, by: str) -> None:
    assert rank(write_run(tmp_path / "run", {"a": {"cider": 1.0}}), by).by == "cider"


def test_metrics_are_spelled_as_in_papers(tmp_path: Path) -> None:
    names = ("bleu_4", "rouge_l", "clipscore_hw3", "my_metric")
    run = write_run(tmp_path / "run", {"a": dict.fromkeys(names, 1.0)})
    spelled = ("BLEU@4", "ROUGE-L", "CLIPScore (hw3)", "My-Metric")
    assert [rank(run, by).by for by in spelled] == list(names)


def test_a_metric_that_the_run_lacks_is_named_with_the_way_to_it(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {"a": {"cider": 1.0, "bleu_4": 0.1}})
    with pytest.raises(UserError) as refusal:
        rank(run, "clipscore")
    told = str(refusal.value)
    assert "no scores by clipscore, only by cider, bleu_4" in told
    assert "captune score 'my captions.json' --references refs.json" in told
    assert f"--metrics cider,bleu_4,clipscore --images DIR --out {run}" in told


def test_what_is_no_metric_is_not_told_to_be_scored(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {"a": {"cider": 1.0}})
    with pytest.raises(UserError, match=r"by beauty, only by cider; rank by one of these$"):
        rank(run, "beauty")
    with pytest.raises(UserError, match="--metrics cider,bleu"):
        rank(run, "bleu")


def test_only_score_runs_are_ranked(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run of captune baking"):
        rank(write_run(tmp_path / "run", {"a": {"cider": 1.0}}, kind="baking"))
    with pytest.raises(UserError, match="does not exist"):
        rank(tmp_path / "nothing")


@pytest.mark.parametrize(
    "line",
    [
        *("{", "[]", "3", '{"image": "b"}', '{"image": "b", "caption": "", "scores": [1]}'),
        '{"image": "b", "caption": ["a", "b"], "scores": {"cider": 1}}',
        '{"image": "b", "caption": "", "references": [1], "scores": {"cider": 1}}',
        '{"image": 3, "caption": "", "scores": {"cider": 1}}',
        '{"image": ["b"], "caption": "", "scores": {"cider": 1}}',
        '{"image": "b", "caption": "", "scores": {"cider": "1"}}',
        '{"image": "b", "caption": "", "scores": {"cider": 1' + "0" * 400 + "}}",
        '{"image": "b", "caption": "", "scores": {"cider": 1' + "0" * 5000 + "}}",
        '{"image": "b", "caption": "", "path": 3, "scores": {"cider": 1}}',
        "[" * 100_000,
    ],
)
def test_damaged_records_are_one_sentence(tmp_path: Path, line: str) -> None:
    run = write_run(tmp_path / "run", {"a": {"cider": 1.0}})
    with (run / "records.jsonl").open("a") as records:
        records.write(line + "\n")
    with pytest.raises(DamagedRun, match=r"run: records\.jsonl is damaged \(line 2[: ]"):
        rank(run)
    (run / "records.jsonl").unlink()
    with pytest.raises(DamagedRun, match=r"records\.jsonl is damaged \(it is not there"):
        rank(run)


def test_a_run_without_metrics_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {"a": {"cider": 1.0}})
    for content in ({}, {"metrics": {}}, {"metrics": []}):
        (run / "metrics.json").write_text(json.dumps({"images": 1, **content}))
        with pytest.raises(DamagedRun, match=r"it has no metrics|metrics: expected an object"):
            rank(run)


@pytest.mark.parametrize(
    "entry",
    [
        *(None, 3, [], {}, *({**FIGURE, "corpus": corpus} for corpus in ("0.5", 10**400))),
        *({**FIGURE, "name": 3}, {**FIGURE, "recipe": []}),
        *({**FIGURE, "interval": ends} for ends in ("x", [1], 0.5, ["0", "1"])),
    ],
)
def test_damaged_metrics_are_one_sentence(tmp_path: Path, entry: Any) -> None:
    run = write_run(tmp_path / "run", {"a": {"cider": 1.0}})
    (run / "metrics.json").write_text(json.dumps({"images": 1, "metrics": {"cider": entry}}))
    with pytest.raises(DamagedRun, match=r"metrics\.json is damaged \(metrics\.cider[.:\[ ]"):
        rank(run)


@pytest.mark.parametrize(
    "agreement",
    [
        *(3, [], {}, {"pairs": [1]}, {"pairs": None}, {"pairs": [{"metrics": ["a", "b"]}]}),
        {"pairs": [{"metrics": ["a", "b"], "tau": "high", "interval": None}]},
        {"pairs": [{"metrics": ["a", "b"], "tau": 10**400, "interval": None}]},
        {"pairs": [{"metrics": ["a", "b"], "tau": 0.5, "interval": "x"}]},
        {"pairs": [{"metrics": [["a"], "b"], "tau": 0.5, "interval": None}]},
    ],
)
def test_damaged_agreement_is_one_sentence(tmp_path: Path, agreement: Any) -> None:
    run = write_run(tmp_path / "run", {"a": {"cider": 1.0}})
    content = {"images": 1, "metrics": {"cider": FIGURE}, "agreement": agreement}
    (run / "metrics.json").write_text(json.dumps(content))
    with pytest.raises(DamagedRun, match=r"metrics\.json is damaged \(agreement[.: ]"):
        rank(run)


def test_figures_that_are_none_are_unknown(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {"a": {"cider": 1.0}})
    pairs = [
        {"metrics": ["cider", "a"], "tau": None, "interval": None},
        {"metrics": ["b", "cider"], "tau": 0.5, "interval": None},
        {"metrics": ["c", "cider"], "tau": 0.5, "interval": [float("nan"), 1]},
    ]
    entry = {**FIGURE, "corpus": float("nan"), "interval": [0, float("inf")]}
    (run / "metrics.json").write_text(
        json.dumps({"images": 1, "metrics": {"cider": entry}, "agreement": {"pairs": pairs}})
    )
    ranking = rank(run)
    figure = ranking.metrics["cider"]
    assert (figure.name, figure.corpus, figure.ends, figure.recipe) == (None, None, None, {})
    found = [ranking.agreement(metric) for metric in ("a", "b", "c", "d")]
    assert [pair and (pair.tau, pair.ends) for pair in found] == [
        None,
        (0.5, None),
        (0.5, None),
        None,
    ]


@pytest.mark.parametrize("score", [0.5, None])
def test_an_image_that_stands_twice_is_refused(tmp_path: Path, score: float | None) -> None:
    run = write_run(tmp_path / "run", {"a": {"cider": 1.0}, "b": {"cider": score}})
    records = run / "records.jsonl"
    records.write_text(records.read_text() + records.read_text().splitlines()[1] + "\n")
    with pytest.raises(UserError, match=r'records\.jsonl .*line 3: image "b" stands twice'):
        rank(run)


def test_a_path_that_leaves_the_folder_of_the_images_is_not_opened(tmp_path: Path) -> None:
    here = image_folder(tmp_path / "here", "a.jpg", "..b/b..jpg")
    private = image_folder(tmp_path / "private", "p.jpg") / "p.jpg"
    names = {"a": "a.jpg", "b": "..b/b..jpg", "c": str(private), "d": "../private/p.jpg"}
    names |= {"e": "x/../../private/p.jpg", "f": "a\0.jpg"}
    scores = {image: {"cider": 1.0} for image in names}
    ranking = rank(write_run(tmp_path / "run", scores, root=here, paths=names))
    paths = {pair.image: pair.path for pair in ranking.pairs}
    assert paths == {**dict.fromkeys("cdef"), "a": "a.jpg", "b": "..b/b..jpg"}
    (note,) = ranking.notes
    assert note.startswith('images "c", "d", "e" and 1 more: the path of the image leaves')


@pytest.mark.parametrize("root", [".", "", "no/folder", "/" + "x" * 300])
def test_a_root_that_is_no_folder_shows_nothing(tmp_path: Path, root: str) -> None:
    here = image_folder(tmp_path / "here", "a.jpg")
    run = write_run(tmp_path / "run", {"a": {"cider": 1.0}}, root=here, paths={"a": "a.jpg"})
    about = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**about, "root": root}))
    ranking = rank(run)
    assert ranking.root is None
    assert "the images are no longer in" in ranking.notes[0]


def test_no_image_with_a_score_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none of its 1 images"):
        rank(write_run(tmp_path / "run", {"a": {"cider": None}}))


def test_images_come_from_the_run_or_from_the_folder_that_is_named(tmp_path: Path) -> None:
    here = image_folder(tmp_path / "here", "sub/139.jpg")
    moved = image_folder(tmp_path / "moved", "000000000139.jpg")
    run = write_run(tmp_path / "run", {"139": {"cider": 1.0}})
    bare = rank(run)
    assert bare.root is None
    assert "--images DIR shows them" in bare.notes[0]
    found = rank(run, images=moved)
    assert found.root == moved
    assert found.pairs[0].path == "000000000139.jpg"
    run = write_run(
        tmp_path / "b", {"139": {"cider": 1.0}}, root=here, paths={"139": "sub/139.jpg"}
    )
    assert rank(run).root == here
    (here / "sub/139.jpg").unlink()
    (here / "sub").rmdir()
    here.rmdir()
    gone = rank(run)
    assert gone.root is None
    assert f"no longer in {here}" in gone.notes[0]
    image_folder(moved / "deep", "139.jpg")
    assert rank(run, images=moved / "deep").pairs[0].path == "139.jpg"


def test_a_image_that_could_be_several_is_none(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "p", "x/a.jpg", "y/a.jpg", "b.jpg")
    run = write_run(tmp_path / "run", {"a": {"cider": 1.0}, "b": {"cider": 0.5}})
    ranking = rank(run, images=folder)
    assert [pair.path for pair in ranking.pairs] == [None, "b.jpg"]
    assert f'1 of 2 images have no image in {folder}: "a"' in ranking.notes


def test_images_of_something_else_are_refused(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "p", "z.jpg")
    run = write_run(tmp_path / "run", {"a": {"cider": 1.0}})
    with pytest.raises(UserError, match=r"none of its 1 images is one of the run's 1 images"):
        rank(run, images=folder)
    with pytest.raises(UserError, match="does not exist"):
        rank(run, images=tmp_path / "nothing")
