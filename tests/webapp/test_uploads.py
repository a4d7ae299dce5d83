from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.webapp.app_page import HOSTILE_NAME, colour_image

from captune.errors import UserError
from captune.webapp import uploads as uploads_module
from captune.webapp.uploads import Dropped, Uploads


@pytest.fixture
def uploads(tmp_path: Path) -> Uploads:
    folder = tmp_path / "private"
    folder.mkdir()
    return Uploads(folder, most_images=3, most_bytes=100_000)


def dropped(tmp_path: Path, *names: str) -> list[Dropped]:
    found = []
    for number, name in enumerate(names):
        path = colour_image(tmp_path / f"up-{number}.png", (number, 0, 0))
        found.append(Dropped(path, name))
    return found


def test_names_stay_what_people_called_them_and_never_leave_the_folder(
    uploads: Uploads, tmp_path: Path
) -> None:
    names = ["../../etc/passwd.png", HOSTILE_NAME, "a/b\\c.png"]
    found = uploads.add("", dropped(tmp_path, *names))
    assert found.names == sorted(["passwd.png", HOSTILE_NAME, "c.png"])
    for image in found.images:
        assert image.path.parent == found.folder
        assert image.path.is_file()
        assert image.path == found.folder / image.name
    assert uploads.find(found.id) is found
    assert uploads.find("another") is None


@pytest.mark.parametrize("name", ["", "..", "/", "\0", "x" * 500 + ".jpg", "\n.png", ".hidden"])
def test_a_strange_name_becomes_one_that_a_file_can_have(
    uploads: Uploads, tmp_path: Path, name: str
) -> None:
    found = uploads.add("", dropped(tmp_path, name))
    (image,) = found.images
    assert image.path.is_file()
    assert len(image.name.encode()) <= 120


def test_two_images_of_one_name_are_told_apart(uploads: Uploads, tmp_path: Path) -> None:
    found = uploads.add("", dropped(tmp_path, "a.png", "a.png", "a.png"))
    assert found.names == ["a (2).png", "a (3).png", "a.png"]


def test_what_is_no_image_too_large_or_too_many_is_refused_in_a_phrase(
    uploads: Uploads, tmp_path: Path
) -> None:
    text, large = tmp_path / "t.jpg", tmp_path / "l.jpg"
    text.write_text("hello")
    large.write_bytes(b"\xff\xd8\xff" + bytes(200_000))
    files = [Dropped(text, "t.jpg"), Dropped(large, "l.jpg")]
    found = uploads.add("", [*files, *dropped(tmp_path, "a.png", "b.png", "c.png", "d.png")])
    assert found.names == ["a.png", "b.png", "c.png"]
    assert [(one.path, one.reason) for one in found.refused] == [
        ("t.jpg", "not an image: text"),
        ("l.jpg", "0 MB, over the limit of 0 MB"),
        ("d.png", "one image more than the 3 that fit"),
    ]
    assert not text.exists()
    assert len(list(found.folder.iterdir())) == 3


def test_sets_are_forgotten_when_asked_and_the_oldest_when_there_are_many(
    uploads: Uploads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads_module, "SETS_KEPT", 2)
    first = uploads.add("", dropped(tmp_path, "a.png"))
    second = uploads.add("", dropped(tmp_path, "b.png"))
    uploads.find(first.id)  # used since
    third = uploads.add("", dropped(tmp_path, "c.png"))
    assert uploads.find(second.id) is None
    assert not second.folder.exists()
    assert uploads.find(first.id) is first
    uploads.clear(third.id)
    assert not third.folder.exists()
    with pytest.raises(UserError, match="there are no images yet"):
        uploads.images_of(third.id)


def test_more_images_join_those_that_are_there(uploads: Uploads, tmp_path: Path) -> None:
    first = uploads.add("", dropped(tmp_path, "a.png"))
    again = uploads.add(
        first.id, [Dropped(colour_image(tmp_path / "other.png", (0, 0, 9)), "b.png")]
    )
    assert again is first
    assert again.names == ["a.png", "b.png"]
    shutil.rmtree(first.folder)


def test_the_same_bytes_are_one_image_whatever_they_are_called(
    uploads: Uploads, tmp_path: Path
) -> None:
    first = uploads.add("", dropped(tmp_path, "a.png"))
    again = uploads.add(first.id, dropped(tmp_path, "a.png", "a.png"))
    assert again.repeated == ["a.png"]
    again = uploads.add(first.id, dropped(tmp_path, "b.png"))
    assert again.names == ["a (2).png", "a.png"]
    assert again.repeated == ["b.png, the same file as a.png"]
    assert again.refused == []
    assert len(list(first.folder.iterdir())) == 2
    assert not list(tmp_path.glob("up-*"))


def test_one_image_is_removed_and_can_come_again(uploads: Uploads, tmp_path: Path) -> None:
    found = uploads.add("", dropped(tmp_path, "a.png", "b.png"))
    held = found.size_bytes
    uploads.remove(found.id, "a.png")
    assert found.names == ["b.png"]
    assert list(found.thumbnails) == ["b.png"]
    assert [path.name for path in found.folder.iterdir()] == ["b.png"]
    assert 0 < found.size_bytes < held
    # a second click, or one of another page, comes after the first
    assert uploads.remove(found.id, "a.png") is found
    assert uploads.remove("forgotten", "a.png") is None
    again = uploads.add(found.id, dropped(tmp_path, "a.png"))
    assert (again.names, again.repeated, again.size_bytes) == (["a.png", "b.png"], [], held)
