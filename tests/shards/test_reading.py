"""A shard -> its images: every row has an image or a reason."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from captune.errors import UserError
from captune.images import open_image
from captune.images.dataset import opened
from captune.shards.shard import find_shards, open_shard
from tests.shards import toy

RED = toy.picture(toy.COLOURS["red"])


def read(path: Path, **how: str) -> list[tuple[str, str]]:
    """(key, reason, or the colour of its image) of each row."""
    (shard,) = find_shards([str(path)], **how)  # type: ignore[arg-type]
    with open_shard(shard) as found:
        names = {colour: name for name, colour in toy.COLOURS.items()}
        rows = [
            (key, found.refused.get(row) or names[open_image(image.path).getpixel((0, 0))])
            for row, (key, image) in enumerate(zip(found.keys, found.images, strict=True))
        ]
    assert str(path) not in opened  # nothing of it is kept
    return rows


def test_members_of_a_tar_in_their_order_and_keys_may_repeat(tmp_path: Path) -> None:
    members = [
        ("a/b.c.png", RED),
        ("a/b.txt", b"a caption"),
        ("x.PNG", toy.picture(toy.COLOURS["blue"])),
        ("a/b.c.png", toy.picture(toy.COLOURS["green"])),
    ]
    rows = read(toy.write_tar(tmp_path / "0.tar", members))
    assert rows == [("a/b", "red"), ("x", "blue"), ("a/b", "green")]


def test_members_that_are_no_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "0.tar"
    with tarfile.open(path, "w") as archive:
        for kind, name in ((tarfile.SYMTYPE, "s.png"), (tarfile.LNKTYPE, "h.png"),
                           (tarfile.FIFOTYPE, "f.png"), (tarfile.CHRTYPE, "d.png")):  # fmt: skip
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
        archive.addfile(tarfile.TarInfo("empty.png"))
        good = tarfile.TarInfo("../../good.png")
        good.size = len(RED)
        archive.addfile(good, io.BytesIO(RED))
    assert read(path) == [
        ("s", "a link, and captune follows none in a tar"),
        ("h", "a link, and captune follows none in a tar"),
        ("f", "no regular file"),
        ("d", "no regular file"),
        ("empty", "0 bytes"),
        ("../../good", "red"),
    ]


def test_a_tar_that_is_cut_or_damaged_loses_no_row_in_silence(tmp_path: Path) -> None:
    whole = toy.write_tar(tmp_path / "0.tar", [(f"{n}.png", RED) for n in range(3)]).read_bytes()
    cut = tmp_path / "cut.tar"
    cut.write_bytes(whole[: 1024 + 512 + 20])  # in the image of the second
    assert [reason for _, reason in read(cut)] == ["red", "the shard is cut short there"]
    damaged = tmp_path / "damaged.tar"
    damaged.write_bytes(whole[:1024] + b"x" * 512 + whole[1536:])
    rows = read(damaged)
    assert rows[0] == ("0", "red")
    assert "damaged behind here" in rows[1][1]


@pytest.mark.parametrize("content", [b"", b"x" * 2000, b"\x1f\x8b\x08" + b"y" * 1000])
def test_what_is_no_tar_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "0.tar").write_bytes(content)
    with pytest.raises(UserError, match="is not a tar"):
        read(tmp_path / "0.tar")


def test_a_tar_without_images_is_not_done_in_silence(tmp_path: Path) -> None:
    path = toy.write_tar(tmp_path / "0.tar", [("a.txt", b"a caption"), ("b.bin", RED)])
    with pytest.raises(UserError, match=r"0\.tar holds 2 files, none with an image's ending"):
        read(path)
    assert read(toy.write_tar(tmp_path / "1.tar", [])) == []


def test_an_extended_header_cannot_take_all_memory(tmp_path: Path) -> None:
    header = tarfile.TarInfo("huge")
    header.type, header.size = tarfile.XHDTYPE, 2**33
    path = toy.write_tar(tmp_path / "0.tar", [("a.png", RED)])
    data = path.read_bytes()[: 512 + 512]
    path.write_bytes(data + header.tobuf(tarfile.GNU_FORMAT) + b"\0" * 512)
    assert "damaged behind here" in read(path)[1][1]


@pytest.mark.needs("linux")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "0.tar")
    (shard,) = find_shards([str(tmp_path / "0.tar")])
    with pytest.raises(UserError, match="pipe"), open_shard(shard):
        pass


def write_table(path: Path, column: pa.Array, **others: list[object]) -> Path:
    path.parent.mkdir(exist_ok=True)
    table = pa.table({"image": column, **others})
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=2)
    else:
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    return path


@pytest.mark.parametrize("ending", [".parquet", ".arrow"])
def test_rows_of_bytes_and_of_the_struct_of_hugging_face(tmp_path: Path, ending: str) -> None:
    bytes_ = pa.array([RED, None, b"", toy.picture(toy.COLOURS["blue"])])
    path = write_table(tmp_path / f"0{ending}", bytes_, key=["a", "b", "b", "c"])
    assert read(path) == [
        ("a", "red"),
        ("b", "the row holds no image"),
        ("b", "0 bytes"),
        ("c", "blue"),
    ]
    (tmp_path / "one.png").write_bytes(RED)
    struct = pa.array(
        [
            {"bytes": RED, "path": "0.png"},
            {"bytes": None, "path": "one.png"},
            {"bytes": None, "path": "/etc/passwd"},
        ]
    )
    path = write_table(tmp_path / f"1{ending}", struct)
    assert read(path) == [
        ("0", "red"),
        ("1", "red"),
        ("2", "the row names a file outside of the dataset"),
    ]


def test_a_column_is_chosen_where_there_are_two(tmp_path: Path) -> None:
    path = write_table(tmp_path / "0.parquet", pa.array([RED]), mask=[b"no image"])
    with pytest.raises(UserError, match="--image-column"):
        read(path)
    assert read(path, image_column="image") == [("0", "red")]


def test_a_column_of_paths(tmp_path: Path) -> None:
    (tmp_path / "one.png").write_bytes(RED)
    path = write_table(tmp_path / "0.parquet", pa.array(["one.png", "none.png", "/etc/passwd"]))
    assert read(path, image_column="image") == [
        ("0", "red"),
        ("1", "No such file or directory"),
        ("2", "the row names a file outside of the dataset"),
    ]


def test_the_column_to_name_is_asked_for_by_the_file_alone(tmp_path: Path) -> None:
    path = write_table(tmp_path / "0.parquet", pa.array(["a.png"]))
    with pytest.raises(UserError, match=r"/0.parquet: say with --image-column which column"):
        read(path)


def test_keys_of_a_dataset_are_of_its_column_in_every_shard(tmp_path: Path) -> None:
    write_table(tmp_path / "data" / "train.parquet", pa.array([RED] * 3), id=["x", "y", "z"])
    shards = find_shards([f"{tmp_path / 'data'}#split=train"], size=2)
    keys = []
    for shard in shards:
        with open_shard(shard) as found:
            keys += found.keys
    assert keys == ["x", "y", "z"]
