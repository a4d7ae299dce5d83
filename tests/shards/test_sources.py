"""What was asked for -> shards."""

from __future__ import annotations

from pathlib import Path

import pytest

from captune.errors import UserError
from captune.shards.shard import expanded, find_shards
from tests.shards import toy


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("a{0..2}.tar", ["a0.tar", "a1.tar", "a2.tar"]),
        ("{008..011}", ["008", "009", "010", "011"]),
        ("{2..0}", ["2", "1", "0"]),
        ("{a,b}/{0..1}", ["a/0", "a/1", "b/0", "b/1"]),
        ("{train}.tar", ["{train}.tar"]),
        ("plain.tar", ["plain.tar"]),
    ],
)
def test_braces_are_expanded_as_a_shell_does(word: str, found: list[str]) -> None:
    assert list(expanded(word)) == found


def test_braces_that_stand_for_too_many_are_refused() -> None:
    with pytest.raises(UserError, match="more than 1,000,000"):
        list(expanded("{0..9999999}"))
    with pytest.raises(UserError, match="more than 1,000,000"):
        list(expanded("{0..99999}{0..99999}"))


def test_a_file_of_that_very_name_is_one(tmp_path: Path) -> None:
    file = toy.write_tar(tmp_path / "{0..2}.tar", [])
    assert [shard.address for shard in find_shards([str(file)])] == [str(file)]


def test_equal_stems_get_the_names_of_their_folders(tmp_path: Path) -> None:
    for name in ("a/0.tar", "b/0.tar", "b/1.tar"):
        toy.write_tar(tmp_path / name, [])
    found = find_shards([str(tmp_path / "{a,b}")])
    assert [shard.stem for shard in found] == ["a-0", "b-0", "1"]
    with pytest.raises(UserError, match="give each shard once"):
        find_shards([str(tmp_path / "a/0.tar"), str(tmp_path / "a/0.tar")])


def test_a_folder_of_images_is_cut(colour_images: Path) -> None:
    found = find_shards([str(colour_images)], size=4)
    assert [(shard.stem, len(shard.images)) for shard in found] == [
        ("images-00000", 4),
        ("images-00001", 2),
    ]
    assert found[0].identity != found[1].identity


def test_what_img2dataset_wrote_is_read_as_it_is(tmp_path: Path) -> None:
    toy.write_tars(tmp_path / "wds", 2)
    for stem in ("00000", "00001"):
        (tmp_path / "wds" / f"{stem}.parquet").touch()
        (tmp_path / "wds" / f"{stem}_stats.json").touch()
    assert [Path(s.address).name for s in find_shards([str(tmp_path / "wds")])] == [
        "00000.tar",
        "00001.tar",
    ]
    # of its form `files`, the Parquet has no images
    files = tmp_path / "files"
    (files / "00000").mkdir(parents=True)
    (files / "00000" / "000000000.png").write_bytes(toy.picture((1, 2, 3)))
    for name in ("00000.parquet", "00000_stats.json"):
        (files / name).touch()
    (one,) = find_shards([str(files)])
    assert one.images == ("00000/000000000.png",)


def test_what_is_not_there_is_named() -> None:
    with pytest.raises(UserError, match="does not exist"):
        find_shards(["/nowhere/{0..1}.tar"])


def test_a_folder_of_parquet_alone_is_one_of_shards(tmp_path: Path) -> None:
    for name in ("train-00000-of-00002.parquet", "train-00001-of-00002.parquet", "README.md"):
        (tmp_path / name).touch()
    stems = [shard.stem for shard in find_shards([str(tmp_path)])]
    assert stems == ["train-00000-of-00002", "train-00001-of-00002"]
