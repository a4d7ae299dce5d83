from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from tests.datasets import COLOURS, colour_rows, png, save_parquet, save_split, save_splits, table

from captune.captions import match_images, read_captions
from captune.errors import Offline, UserError
from captune.images import dataset, find_images, open_image
from captune.images.dataset import ImageRows, Source, open_dataset, parse_source
from captune.images.decode import hash_image
from captune.images.formats import UnreadableImage
from captune.zeroshot.labels import read_labels, read_truth


@pytest.fixture(autouse=True)
def nothing_opened() -> None:
    dataset.opened.clear()
    dataset._opened_again.cache_clear()


def rows_of(source: str) -> ImageRows:
    asked = parse_source(source)
    assert asked is not None
    found = open_dataset(asked)
    assert isinstance(found, ImageRows)
    return found


def test_an_image_is_its_split_and_row(tmp_path: Path) -> None:
    place = save_splits(tmp_path / "data", train=colour_rows(), validation=colour_rows(3))
    found = find_images([f"{place}#split=val"])
    assert [image.name for image in found.images] == [f"validation/{n}" for n in range(3)]
    assert found.root == place
    assert all(image.path == found.root / image.name for image in found.images)
    picture = open_image(found.images[1].path)
    assert (picture.size, picture.getpixel((0, 0))) == ((41, 30), COLOURS["green"])
    assert hash_image(found.images[0].path, keep_bytes=10_000)[1] == png("red")


def test_a_later_process_finds_the_row_by_its_path(tmp_path: Path) -> None:
    place = save_splits(tmp_path / "data", validation=colour_rows(3))
    assert open_image(place / "validation" / "2").size == (42, 30)
    for path in (place / "validation" / "3", place / "test" / "0", tmp_path / "other" / "0"):
        with pytest.raises(UnreadableImage):
            open_image(path)


@pytest.mark.parametrize("files", [1, 2])
def test_files_of_a_split_run_on(tmp_path: Path, files: int) -> None:
    save_split(tmp_path / "data", colour_rows(6), "train", files)
    rows = rows_of(f"{tmp_path / 'data'}#split=")
    widths = [open_image(rows.root / name).size[0] for name in rows.names]
    assert sorted(widths) == [40, 41, 42, 43, 44, 45]
    assert (widths == sorted(widths)) == (files == 1)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("data/train-00000-of-00001.parquet", "train"),
        ("data/val2017-00000-of-00001.parquet", "val2017"),
        ("validation.parquet", "validation"),
        ("dev/part.parquet", "validation"),
        ("testing-0.parquet", "test"),
        ("photos.parquet", "train"),
    ],
)
def test_parquet_is_read_where_it_lies(tmp_path: Path, name: str, split: str) -> None:
    save_parquet(tmp_path / "data" / name, colour_rows(10))
    before = sorted(path for path in tmp_path.rglob("*"))
    rows = rows_of(f"{tmp_path / 'data'}#split=")
    assert (rows.split, len(rows.names)) == (split, 10)
    assert [open_image(rows.root / one).size[0] for one in rows.names] == list(range(40, 50))
    assert sorted(path for path in tmp_path.rglob("*")) == before


def test_splits_are_asked_for_by_what_people_call_them(tmp_path: Path) -> None:
    place = save_splits(tmp_path / "data", train=colour_rows(2), validation=colour_rows(3))
    for asked in ("val", "dev", "validation"):
        assert rows_of(f"{place}#split={asked}").split == "validation"
    with pytest.raises(UserError, match=r"has several splits; give --split train or validation"):
        rows_of(f"{place}#split=")
    with pytest.raises(UserError, match=r'no split "test"; give --split train or validation'):
        rows_of(f"{place}#split=test")


def test_captions_come_by_the_name_of_their_column(tmp_path: Path) -> None:
    place = save_splits(tmp_path / "data", train=colour_rows(3))
    captions = read_captions(f"{place}#split=train")
    assert captions.form == "dataset"
    assert captions.captions["train/1"] == ["a green wall number 1"] * 2
    images, missing = match_images(captions, find_images([f"{place}#split=train"]))
    assert (len(images), missing) == (3, [])
    with pytest.raises(
        UserError, match=r'--caption-column text: .* it has "image", "caption", "label"'
    ):
        read_captions(f"{place}#split=train&caption=text")


def test_captions_of_a_text_column_may_be_null(tmp_path: Path) -> None:
    import pyarrow as pa

    rows = [row | {"caption": f"wall {n}" if n else None} for n, row in enumerate(colour_rows(3))]
    (tmp_path / "data").mkdir()
    import pyarrow.parquet

    pyarrow.parquet.write_table(
        table(rows, caption=pa.string()), tmp_path / "data" / "train.parquet"
    )
    found = read_captions(f"{tmp_path / 'data'}#split=train&caption=caption")
    assert found.captions == {"train/1": ["wall 1"], "train/2": ["wall 2"]}


def test_labels_and_truth_are_of_the_label_column(tmp_path: Path) -> None:
    rows = colour_rows(6)
    rows[5]["label"] = -1  # a test set's "not known"
    place = save_splits(tmp_path / "data", train=rows)
    source = f"{place}#split=train&label=label"
    labels = read_labels(source)
    assert labels.names == ("red", "green", "blue")
    images = find_images([source]).images
    truth = read_truth(source, images, labels)
    assert truth.indices == {f"train/{n}": n % 3 for n in range(5)}
    assert "1 of 6 images have no truth" in truth.notes[0]


def test_a_bad_image_is_named(tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(png("red"))
    rows = colour_rows(4)
    rows[0]["image"] = None
    rows[1]["image"] = {"bytes": b"not an image", "path": None}
    rows[2]["image"] = {"bytes": None, "path": str(secret)}
    rows[3]["image"] = {"bytes": None, "path": "own.png"}
    place = tmp_path / "data"
    save_parquet(place / "train.parquet", rows)
    (place / "own.png").write_bytes(png("blue"))
    found = find_images([f"{place}#split=train"])
    reasons = []
    for image in found.images:
        try:
            reasons.append(str(open_image(image.path).size))
        except UnreadableImage as error:
            reasons.append(error.reason)
    assert reasons[0] == "the row holds no image"
    assert reasons[1].startswith("not an image")
    assert reasons[2] == "the row names a file outside of the dataset"
    assert reasons[3] == "(40, 30)"


def test_the_image_column_is_asked_for_where_there_are_two(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    (tmp_path / "data").mkdir()
    two = pa.table({"left": [png("red")], "right": [png("blue")], "text": ["a"]})
    pyarrow.parquet.write_table(two, tmp_path / "data" / "train.parquet")
    with pytest.raises(UserError, match=r'--image-column .* may be it: "left", "right"'):
        rows_of(f"{tmp_path / 'data'}#split=")
    rows = rows_of(f"{tmp_path / 'data'}#split=&image=right")
    assert open_image(rows.root / rows.names[0]).getpixel((0, 0)) == COLOURS["blue"]


def write_images(folder: Path, names: list[str]) -> None:
    for n, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png(list(COLOURS)[n % 3], 40 + n))


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_metadata_of_a_folder_of_images(tmp_path: Path, ending: str) -> None:
    """Without the library, where the folder itself is given, and as --dataset."""
    import pyarrow as pa
    import pyarrow.parquet

    folder = tmp_path / "flickr" / "train"
    names = ["a.png", "b/c.png", "d.png"]
    write_images(folder, names)
    rows = [
        {"file_name": name, "text": f"wall {n}", "kind": f"the {n}", "label": colour}
        for n, (name, colour) in enumerate(zip(names, COLOURS, strict=True))
    ]
    if ending == "parquet":
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), folder / "metadata.parquet")
    elif ending == "csv":
        lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
        (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    else:
        (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    captions = read_captions(folder)
    assert captions.form == f"image folder (metadata.{ending})"
    assert captions.captions == {name: [f"wall {n}"] for n, name in enumerate(names)}
    found = find_images([folder])
    assert match_images(captions, found)[1] == []
    labels = read_labels(",".join(COLOURS))
    expected = {name: n for n, name in enumerate(names)}
    assert read_truth(str(folder), found.images, labels).indices == expected
    # the same by --dataset: the folder of the split, and columns by their names
    source = f"{tmp_path / 'flickr'}#split=train"
    assert find_images([source]).images == found.images
    assert read_captions(source).captions == captions.captions
    assert read_captions(f"{source}&caption=kind").captions["b/c.png"] == ["the 1"]
    labelled = f"{source}&label=label"
    assert sorted(read_labels(labelled).names) == sorted(COLOURS)
    assert read_truth(labelled, found.images, labels).indices == expected
    with pytest.raises(UserError, match="no metadata file has"):
        read_captions(f"{source}&caption=nothing")


def test_folders_called_like_classes(tmp_path: Path) -> None:
    write_images(tmp_path / "pets", ["red/1.png", "green/1.png", "blue/1.png"])
    source = f"{tmp_path / 'pets'}#split=&label=label"
    labels = read_labels(source)
    assert labels.names == ("blue", "green", "red")
    truth = read_truth(source, find_images([source]).images, labels)
    assert truth.indices == {"blue/1.png": 0, "green/1.png": 1, "red/1.png": 2}


def test_what_is_damaged_is_one_sentence(tmp_path: Path) -> None:
    save_split(tmp_path / "data", colour_rows(3), "train")
    file = tmp_path / "data" / "data-00000-of-00001.arrow"
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(UserError, match="is damaged"):
        rows_of(f"{tmp_path / 'data'}#split=")
    (tmp_path / "data" / "state.json").write_text('{"_data_files": [{"filename": "../x.arrow"}]}')
    with pytest.raises(UserError, match=r"state\.json names no files of its folder"):
        rows_of(f"{tmp_path / 'data'}#split=")


@pytest.mark.needs("linux")
@pytest.mark.parametrize("name", ["state.json", "data-00000-of-00001.arrow"])
def test_a_pipe_is_never_waited_for(tmp_path: Path, name: str) -> None:
    save_split(tmp_path / "data", colour_rows(3), "train")
    (tmp_path / "data" / name).unlink()
    os.mkfifo(tmp_path / "data" / name)
    with pytest.raises(UserError):
        rows_of(f"{tmp_path / 'data'}#split=x")


def fake_library(monkeypatch: pytest.MonkeyPatch, load: Any) -> SimpleNamespace:
    """In the place of the library `datasets`: what captune calls of it."""
    library: Any = ModuleType("datasets")
    library.exceptions = SimpleNamespace(DatasetsError=KeyError)
    library.config = SimpleNamespace(HF_HUB_OFFLINE=False)
    library.disable_progress_bars = lambda: None
    library.load_dataset = lambda *args: load(library, *args)
    monkeypatch.setitem(sys.modules, "datasets", library)
    return library


def test_a_dataset_of_the_hub_is_read_in_its_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow as pa

    monkeypatch.setenv("CAPTUNE_OFFLINE", "0")
    file = tmp_path / "hub" / "pytest-walls-validation.arrow"
    file.parent.mkdir()
    part = table(colour_rows(3))
    with pa.OSFile(str(file), "wb") as out, pa.ipc.new_stream(out, part.schema) as writer:
        writer.write_table(part)
    asked = []

    def load(library: Any, *args: Any) -> Any:
        asked.append((library.config.HF_HUB_OFFLINE, *args))
        return {"validation": SimpleNamespace(cache_files=[{"filename": str(file)}])}

    library = fake_library(monkeypatch, load)
    found = find_images(["hf:ann/pytest-walls/small#split=val"])
    assert asked == [(False, "ann/pytest-walls", "small")]
    assert found.root == file.parent
    assert open_image(found.images[2].path).size == (42, 30)
    dataset.opened.clear()  # a later process finds it where it lies, without the hub
    assert open_image(found.images[1].path).size == (41, 30)
    monkeypatch.setenv("CAPTUNE_OFFLINE", "1")
    find_images(["hf:ann/pytest-walls#split=val"])
    assert asked[-1] == (True, "ann/pytest-walls", None)
    assert library.config.HF_HUB_OFFLINE is False


def test_offline_a_dataset_that_is_not_here_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(library: Any, *args: Any) -> Any:
        assert library.config.HF_HUB_OFFLINE
        raise ConnectionError("Couldn't reach it")

    fake_library(monkeypatch, load)
    with pytest.raises(Offline, match=r"captune is offline and the dataset ann/walls is not in"):
        find_images(["hf:ann/walls#split=val"])


def test_without_the_library_a_sentence_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"pip install 'captune\[datasets\]'"):
        find_images(["hf:ann/walls#split=val"])


def test_a_file_s_split_is_none_of_a_dataset(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text("{}")
    assert parse_source(tmp_path / "dataset.json#split=test") is None
    assert parse_source("images/") is None
    assert parse_source("hf:a/b#split=x&image=left") == Source("hf:a/b", "x", "left")


@pytest.mark.needs("datasets")
def test_what_the_library_itself_saves(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features(
        {
            "photo": datasets.Image(),
            "text": datasets.Value("string"),
            "label": datasets.ClassLabel(names=list(COLOURS)),
        }
    )
    pictures = [Image.new("RGB", (40 + n, 30), colour) for n, colour in enumerate(COLOURS.values())]
    content = {"photo": pictures, "text": ["a", "b", "c"], "label": [0, 1, 2]}
    made = datasets.Dataset.from_dict(content, features=features)
    datasets.DatasetDict(train=made).save_to_disk(tmp_path / "saved")
    (tmp_path / "flat").mkdir()
    made.to_parquet(tmp_path / "flat" / "test.parquet")
    for place, split in ((tmp_path / "saved", "train"), (tmp_path / "flat", "test")):
        rows = rows_of(f"{place}#split={split}&label=label")
        assert [open_image(rows.root / name).size[0] for name in rows.names] == [40, 41, 42]
        assert read_captions(f"{place}#split={split}").captions[f"{split}/1"] == ["b"]
        assert rows.labels()[0] == list(COLOURS)


@pytest.mark.needs("linux")
def test_rows_that_name_no_file_of_the_dataset(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    (tmp_path / "loop").symlink_to("loop")
    paths = ["a\0b", "loop/x", "../../etc/passwd", "x" * 5000, "pipe"]
    os.mkfifo(tmp_path / "pipe")
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cells = pa.array([{"bytes": None, "path": path} for path in paths], kind)
    pyarrow.parquet.write_table(pa.table({"image": cells}), tmp_path / "train.parquet")
    rows = open_dataset(Source(str(tmp_path), "", "", "", ""))
    assert isinstance(rows, ImageRows)
    for row in range(len(paths)):
        with pytest.raises(OSError, match=r"\w"):
            rows.image_bytes(row)


def test_rows_and_columns_that_no_dataset_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pa = pytest.importorskip("pyarrow")

    for folder, names, told in (
        ("twice", ["image", "image"], 'has the column "image" twice'),
        ("many", ["image", "other"], "has 5 rows; captune takes 4 at most"),
    ):
        (tmp_path / folder).mkdir()
        table = pa.Table.from_arrays([pa.array([b"1"] * 5), pa.array([b"2"] * 5)], names=names)
        with pa.ipc.new_stream(tmp_path / folder / "train.arrow", table.schema) as file:
            file.write_table(table)
        monkeypatch.setattr("captune.images.dataset._MOST_ROWS", 4 if folder == "many" else 9)
        with pytest.raises(UserError, match=told):
            open_dataset(Source(str(tmp_path / folder), "", "", "", ""))


def test_a_damaged_metadata_file_is_one_sentence(tmp_path: Path) -> None:
    write_images(tmp_path, ["a.png"])
    (tmp_path / "metadata.parquet").write_bytes(b"PAR1" * 20)
    with pytest.raises(UserError, match=r"metadata\.parquet is damaged"):
        read_captions(tmp_path)
