"""Shards in, shards out: rows, resuming, errors, the run of it."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from captune import classify, embed
from captune.cli import main
from captune.errors import UserError
from captune.jobs.report import report
from captune.jobs.verify import verify
from captune.runs import read_run
from captune.shards.manifest import Claims, claim_of
from captune.shards.places import Place, StoreError
from tests.shards import toy
from tests.shards.conftest import rows_of

LABELS = ["red", "green", "blue"]


@pytest.mark.usefixtures("in_process")
def test_a_row_for_every_image_in_their_order(tmp_path: Path) -> None:
    tars = toy.write_tars(tmp_path / "in", 2)
    with tarfile.open(tars[0], "a") as archive:
        member = tarfile.TarInfo("broken.png")
        member.size = 4
        archive.addfile(member, __import__("io").BytesIO(b"nope"))
    out = tmp_path / "out"
    result = classify(str(tmp_path / "in" / "{00000..00001}.tar"), LABELS, out=out)
    rows = rows_of(out, "00000")
    assert [row["key"] for row in rows] == [*(f"00000{n:04d}" for n in range(9)), "broken"]
    assert [row["label"] for row in rows] == [*(LABELS * 3), None]
    assert [row["error"] is None for row in rows] == [*([True] * 9), False]
    assert rows[0]["shard"] == "00000"
    assert rows[0]["label_1"] == "red"
    assert result.images == 18
    about = json.loads(pq.read_schema(out / "00000.parquet").metadata[b"captune"])
    assert about["models"][0]["weights_id"] == "c0" * 32
    assert about["models"][0]["preprocessing_id"] == "resize-8"
    assert about["options"]["labels"] == LABELS
    assert about["captune"]
    stats = json.loads((out / "00000_stats.json").read_text())
    assert (stats["rows"], stats["errors"]) == (10, 1)
    assert list(stats["reasons"].values()) == [1]


@pytest.mark.usefixtures("in_process")
def test_it_is_a_run_with_a_page_of_a_sample(tmp_path: Path) -> None:
    toy.write_tars(tmp_path / "in", 2)
    out = tmp_path / "out"
    classify(tmp_path / "in", LABELS, out=out)
    run = read_run(out)
    assert run.metrics["sharded"]["rows"] == 18
    assert len(list(run.records())) == 18
    assert verify(out).holds
    page = report([out], tmp_path / "page.html").written["page"].read_text()
    assert "data:image/jpeg" in page


@pytest.mark.usefixtures("in_process")
def test_the_same_command_does_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toy.write_tars(tmp_path / "in", 3)
    out = tmp_path / "out"
    words = ["classify", str(tmp_path / "in"), "--labels", "red,green,blue", "--out", str(out)]
    assert main(words) == 0
    times = {path.name: path.stat().st_mtime_ns for path in out.glob("*.parquet")}
    before = rows_of(out, "00001")
    (out / "00001.parquet").unlink()
    capsys.readouterr()
    assert main(words) == 0
    assert "2 of 3 shards were there" in capsys.readouterr().err
    assert rows_of(out, "00001") == before
    now = {path.name: path.stat().st_mtime_ns for path in out.glob("*.parquet")}
    assert [name for name in times if times[name] != now[name]] == ["00001.parquet"]
    assert main([*words, "--prompt", "a {}"]) == 2
    assert (
        "was started without --prompt, and this is with --prompt a {};" in capsys.readouterr().err
    )
    assert main(["embed", str(tmp_path / "in"), "--out", str(out)]) == 2
    assert "was started with command classify" in capsys.readouterr().err


@pytest.mark.usefixtures("in_process")
def test_answers_do_not_lie_beside_what_is_read(tmp_path: Path) -> None:
    toy.write_tars(tmp_path / "in", 1)
    with pytest.raises(UserError, match="holds what is read"):
        classify(tmp_path / "in", LABELS, out=tmp_path / "in")
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["00000.tar"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x.parquet").touch()
    with pytest.raises(UserError, match="no captune of shards wrote"):
        classify(tmp_path / "in", LABELS, out=tmp_path / "other")


@pytest.mark.usefixtures("in_process")
def test_rows_that_failed_are_done_again_alone(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for n in range(4):
        (folder / f"{n}.png").write_bytes(toy.picture(toy.COLOURS["red"]))
    (folder / "1.png").write_bytes(b"broken")
    out = tmp_path / "out"
    assert classify(folder, LABELS, out=out, shard_size=2).images == 3
    (folder / "1.png").write_bytes(toy.picture(toy.COLOURS["blue"]))
    (folder / "0.png").write_bytes(toy.picture(toy.COLOURS["green"]))  # which is done, and stays
    assert classify(folder, LABELS, out=out, shard_size=2).images == 3
    assert classify(folder, LABELS, out=out, shard_size=2, retry_errors=True).images == 4
    assert [row["label"] for row in rows_of(out, "images-00000")] == ["red", "blue"]
    with pytest.raises(UserError, match="--shard-size 2"):
        classify(folder, LABELS, out=out, shard_size=3)


@pytest.mark.usefixtures("in_process")
def test_features_and_a_webdataset(tmp_path: Path) -> None:
    toy.write_tars(tmp_path / "in", 1)
    out = tmp_path / "out"
    embed(tmp_path / "in", ["webdataset"], out=out, normalise=True)
    features = np.array([row["features"] for row in rows_of(out, "00000")])
    assert features.shape == (9, 3)
    assert np.allclose(np.linalg.norm(features, axis=1), 1, atol=1e-5)
    with tarfile.open(out / "00000.tar") as archive:
        names = archive.getnames()
        assert names[:3] == ["000000000.png", "000000000.npy", "000000000.json"]
        vector = np.load(__import__("io").BytesIO(archive.extractfile(names[1]).read()))  # type: ignore[union-attr]
    assert np.array_equal(vector, features[0].astype("f4"))


@pytest.mark.usefixtures("in_process")
def test_a_shard_that_fails_is_named_and_the_rest_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toy.write_tars(tmp_path / "in", 2)
    (tmp_path / "in" / "bad.tar").write_bytes(b"no tar at all")
    out = tmp_path / "out"
    words = ["classify", str(tmp_path / "in"), "--labels", "red,green,blue", "--out", str(out)]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "1 of 3 shards failed" in said
    assert "bad.tar is not a tar" in said
    assert len(list(out.glob("*.parquet"))) == 2
    assert main(["shards", "status", str(out), "--json"]) == 0
    told = capsys.readouterr().out
    assert json.loads(told)["shards_of"] == 3
    assert main(["shards", str(out), "--json"]) == 0  # a folder alone means its status
    assert capsys.readouterr().out == told


@pytest.mark.usefixtures("in_process")
def test_parts_together_are_the_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toy.write_tars(tmp_path / "in", 5)
    out = tmp_path / "out"
    for part, shards in (("1/2", 3), ("2/2", 2)):
        result = classify(tmp_path / "in", LABELS, out=out, part=part)
        assert result.summary()["shards_of"] == shards  # of a part its own alone are read
        assert f"{shards} of {shards} shards of part {part} done" in result.sentences()[0]
    assert len(list(out.glob("*.parquet"))) == 5
    assert not (out / "run.json").exists()
    assert main(["shards", "status", str(out), "--table", "md"]) == 0
    assert "there is no table to print:\n" in (said := capsys.readouterr()).err
    assert "5 of 5 shards done" in said.err
    assert said.out == ""
    assert main(["shards", "merge", str(out), "--out", str(tmp_path / "run")]) == 0
    assert main(["shards", "merge", str(out)]) == 0
    assert main(["shards", "merge", str(out), "--overwrite"]) == 0
    assert read_run(tmp_path / "run").metrics["images"] == 45


def test_a_claim_is_taken_over_when_its_process_is_gone(tmp_path: Path) -> None:
    place = Place.of(tmp_path)
    ours, theirs = Claims(place), Claims(place)
    assert ours.take("a") == 0
    assert theirs.take("a") is None
    ours.let_go("a")
    assert theirs.take("a") == 0
    dead = {**(claim_of(place, "a") or {}), "pid": 2**22 + 1, "tries": 1}
    place.write("a.claim", json.dumps(dead).encode())
    assert ours.take("a") == 2
    old = {**dead, "host": "elsewhere", "at": 0}
    place.write("b.claim", json.dumps(old).encode())
    assert ours.take("b") == 2
    ours.close()
    theirs.close()


def test_stores_are_read_and_written(
    tmp_path: Path, in_process: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fsspec

    store = fsspec.filesystem("memory")
    for path in toy.write_tars(tmp_path / "in", 2):
        store.pipe_file(f"/bucket/in/{path.name}", path.read_bytes())
    store.pipe_file("/bucket/loose/a.png", toy.picture(toy.COLOURS["blue"]))
    result: Any = classify(
        "memory://bucket/in/{00000..00002}.tar", LABELS, out="memory://bucket/out"
    )
    assert result.images == 18
    assert list(result.tally.failed) == ["00002"]  # which is not there
    names = {path.rpartition("/")[2] for path in store.ls("/bucket/out", detail=False)}
    assert {"00000.parquet", "00001_stats.json", "_captune.json", "_models.json"} <= names
    assert not any(name.endswith(".claim") for name in names)
    classify("memory://bucket/loose", LABELS, out=tmp_path / "out")
    assert rows_of(tmp_path / "out", "loose-00000")[0]["label"] == "blue"
    store.rm("/bucket", recursive=True)


@pytest.mark.usefixtures("in_process")
def test_answers_are_not_written_among_the_images(tmp_path: Path, colour_images: Path) -> None:
    with pytest.raises(UserError, match="or lies in it"):
        classify(colour_images, LABELS, out=colour_images / "out", shard_size=2)


@pytest.mark.usefixtures("in_process")
def test_a_dataset_is_cut_into_shards(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    images = [toy.picture(toy.COLOURS[name]) for name in LABELS]
    table = pa.table({"image": images, "key": ["a", "b", "c"]})
    pq.write_table(table, tmp_path / "data" / "train-00000-of-00001.parquet")
    out = tmp_path / "out"
    classify((), LABELS, dataset=tmp_path / "data", split="train", out=out, shard_size=2)
    rows = [*rows_of(out, "train-00000"), *rows_of(out, "train-00001")]
    assert [row["label"] for row in rows] == LABELS


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("_captune.json", {"command": "classify", "asked": {}, "options": {}, "shards": 3}),
        ("_captune.json", {"command": "x", "asked": {}, "options": {}, "shards": {}}),
        (
            "_captune.json",
            {"command": "classify", "asked": {}, "options": {}, "shards": {"../../x": ""}},
        ),
        ("_models.json", {"models": "none"}),
        ("00000_stats.json", {"rows": "many"}),
        ("00000_stats.json", []),
    ],
)
def test_what_somebody_else_wrote_there_is_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: object
) -> None:
    toy.write_tars(tmp_path / "in", 1)
    out = tmp_path / "out"
    classify(tmp_path / "in", LABELS, out=out)
    (out / name).write_text(json.dumps(content))
    assert main(["shards", "merge", str(out), "--out", str(tmp_path / "run")]) == 2
    assert f"{name} is damaged" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("in_process")
def test_what_is_done_again_keeps_the_answers_of_the_rest(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for n in range(3):
        (folder / f"{n}.png").write_bytes(toy.picture(toy.COLOURS["red"]))
    (folder / "1.png").write_bytes(b"broken")
    out = tmp_path / "out"
    how: dict[str, Any] = {"out": out, "shard_size": 3, "to": ["webdataset"]}
    classify(folder, LABELS, **how)
    (folder / "1.png").write_bytes(toy.picture(toy.COLOURS["blue"]))
    classify(folder, LABELS, retry_errors=True, **how)
    with tarfile.open(out / "images-00000.tar") as archive:
        texts = {
            member.name: archive.extractfile(member).read()  # type: ignore[union-attr]
            for member in archive
            if member.name.endswith(".txt")
        }
    assert texts == {"row-0.txt": b"red", "row-1.txt": b"blue", "row-2.txt": b"red"}
    assert len(list(read_run(out).records())) == 3


@pytest.mark.usefixtures("in_process")
def test_images_of_one_key_are_samples_of_their_own(tmp_path: Path) -> None:
    red, blue = (toy.picture(toy.COLOURS[name]) for name in ("red", "blue"))
    members = [("a.png", red), ("a.seg.png", blue), ("b.png", red), ("ä.png", blue)]
    toy.write_tar(tmp_path / "in" / "0.tar", members)
    classify(tmp_path / "in", LABELS, out=tmp_path / "out", to=["webdataset"])
    with tarfile.open(tmp_path / "out" / "0.tar") as archive:
        names = [name for name in archive.getnames() if name.endswith(".png")]
    assert names == ["a.png", "a-row-1.png", "b.png", "row-3.png"]


@pytest.mark.usefixtures("in_process")
def test_a_webdataset_asked_for_later_is_not_left_out_in_silence(tmp_path: Path) -> None:
    toy.write_tars(tmp_path / "in", 1)
    classify(tmp_path / "in", LABELS, out=tmp_path / "out")
    with pytest.raises(UserError, match="started without --to, and this is with --to webdataset"):
        classify(tmp_path / "in", LABELS, out=tmp_path / "out", to=["webdataset"])


@pytest.mark.usefixtures("in_process")
def test_the_end_of_a_run_takes_nothing_from_one_at_work(tmp_path: Path) -> None:
    toy.write_tars(tmp_path / "in", 1)
    out = Place.of(tmp_path / "out")
    with out.writing("other.parquet") as file:
        (partial,) = (tmp_path / "out").glob(".*.partial")
        os.utime(partial, (0, 0))
        classify(tmp_path / "in", LABELS, out=tmp_path / "out")
        file.write(b"rows")
    assert out.read("other.parquet") == b"rows"


@pytest.mark.needs("linux")
@pytest.mark.usefixtures("in_process")
def test_places_that_are_no_folders_of_answers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toy.write_tars(tmp_path / "in", 1)
    pipe, run, odd = tmp_path / "pipe", tmp_path / "run", tmp_path / "odd"
    os.mkfifo(pipe)
    run.mkdir()
    (run / "run.json").write_text("{}")
    odd.mkdir()
    os.mkfifo(odd / "_captune.json")
    labels = ["--labels", "red,green,blue"]
    for out, said in (
        (pipe, "is not a folder"),
        (pipe / "below", "choose another place"),
        (run, "no captune of shards wrote"),
        (odd, "a device, pipe or socket"),
        ("/proc/x", "choose another place"),
    ):
        assert main(["classify", str(tmp_path / "in"), *labels, "--out", str(out)]) == 2
        assert said in capsys.readouterr().err
    for place in (pipe, tmp_path / "nowhere", tmp_path / "in", odd):
        assert main(["shards", "status", str(place)]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    assert main(["classify", str(tmp_path / "in"), *labels, "--out", "o", "--overwrite"]) == 2
    assert "--overwrite is not for shards" in capsys.readouterr().err


@pytest.mark.usefixtures("in_process")
def test_ctrl_c_says_that_finished_shards_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("captune.jobs.shards.run_local", stopped)
    tars, out = toy.write_tars(tmp_path / "in", 1), tmp_path / "out"
    assert main(["classify", str(tars[0]), "--labels", "red,green", "--out", str(out)]) == 130
    assert f"finished shards are kept in {out}. Run the same" in capsys.readouterr().err


@pytest.mark.usefixtures("in_process")
def test_a_claim_that_a_store_does_not_take_back_costs_no_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any) -> None:
        raise StoreError("the store failed 4 times")

    monkeypatch.setattr(Place, "remove", refused)
    toy.write_tars(tmp_path / "in", 2)
    assert classify(tmp_path / "in", LABELS, out=tmp_path / "out").images == 18


@pytest.mark.usefixtures("in_process")
def test_where_every_shard_failed_other_options_may_begin(tmp_path: Path) -> None:
    red, data = toy.picture((255, 0, 0)), tmp_path / "0.parquet"
    pq.write_table(pa.table({"image": [red], "mask": [red]}), data)
    out = tmp_path / "out"
    failed = classify(data, LABELS, out=out)
    assert "--image-column" in failed.failure()
    assert list(out.iterdir()) == []
    done = classify(data, LABELS, image_column="image", out=out)
    assert not done.failure()
    assert [row["label"] for row in rows_of(out, "0")] == ["red"]


@pytest.mark.usefixtures("in_process")
def test_two_that_begin_at_once_agree_on_the_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy.write_tars(tmp_path / "in", 2)
    out = tmp_path / "out"
    create = Place.create

    def after_another(place: Place, name: str, data: bytes) -> bool:
        if name == "_captune.json":
            monkeypatch.undo()
            classify(tmp_path / "in", LABELS, out=out, part="1/2")
        return create(place, name, data)

    monkeypatch.setattr(Place, "create", after_another)
    with pytest.raises(UserError, match="was started without --multi-label"):
        classify(tmp_path / "in", LABELS, out=out, multi_label=True)


@pytest.mark.parametrize(
    ("address", "said"), [("s3://bucket", "is in a network"), ("nosuch://bucket", "nosuch")]
)
def test_shards_that_no_store_gives_are_refused_before_a_model_is_loaded(
    tmp_path: Path, address: str, said: str
) -> None:
    out = tmp_path / "out"
    with pytest.raises(UserError, match=said):
        classify(f"{address}/{{000..001}}.tar", LABELS, out=out)
    assert not out.exists()
