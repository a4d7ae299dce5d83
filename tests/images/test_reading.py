"""Reading image files: what is none is refused with a reason, and never waited for."""

import hashlib
import os
import socket
from pathlib import Path

import pytest
from tests.image_factory import jpeg

from captune.images import UnreadableImage, open_image, read_image
from captune.images.decode import hash_image, opened_image


def test_read_image_reasons(tmp_path):
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "self.jpg").symlink_to(tmp_path / "self.jpg")
    reasons = {
        "missing.jpg": "no such file",
        "empty.jpg": "0 bytes",
        "gone.jpg": "a link to nothing",
        "self.jpg": "too many levels of symbolic links",
        ".": "a folder, not a file",
        "nul\0.jpg": "not a valid path",
        "x" * 300: "file name too long",
    }
    for name, reason in reasons.items():
        with pytest.raises(UnreadableImage) as refusal:
            read_image(tmp_path / name)
        assert refusal.value.reason == reason


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in this file system")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(UnreadableImage, match="a device, pipe or socket, not a file"):
        read_image(tmp_path / "pipe.jpg")


def test_huge_file_is_not_read(tmp_path):
    path = tmp_path / "huge.jpg"
    with path.open("wb") as file:
        file.truncate(5 * 2**40)  # sparse: takes no space
    with pytest.raises(UnreadableImage, match="GiB, too large for an image"):
        read_image(path)


def test_forbidden_file(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "a.jpg").write_bytes(jpeg())
    # root, who often runs tests, may read everything
    monkeypatch.setattr("captune_metrics.files.os.open", refuse)
    with pytest.raises(UnreadableImage, match="no permission to read it"):
        read_image(tmp_path / "a.jpg")


def test_sockets_and_devices_are_not_opened(tmp_path):
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s.jpg"))
        (tmp_path / "zero.jpg").symlink_to("/dev/zero")
        for name in ("s.jpg", "zero.jpg"):
            with pytest.raises(UnreadableImage, match="a device, pipe or socket, not a file"):
                read_image(tmp_path / name)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="no /proc")
def test_what_a_kernel_makes_up_is_empty(tmp_path):
    (tmp_path / "maps.jpg").symlink_to("/proc/self/maps")
    with pytest.raises(UnreadableImage, match="0 bytes"):
        open_image(tmp_path / "maps.jpg")


def test_a_file_that_grows_is_read_as_far_as_it_was_checked(tmp_path, monkeypatch):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"x" * 10)
    status = os.fstat

    def growing(number):
        found = status(number)
        with path.open("ab") as file:
            file.write(b"y" * 100)
        return found

    monkeypatch.setattr("captune.images.decode.os.fstat", growing)
    assert len(read_image(path)) <= 110


def test_hashes_are_those_of_the_bytes(tmp_path):
    data = jpeg()
    (tmp_path / "a.jpg").write_bytes(data)
    sha256 = hashlib.sha256(data).hexdigest()
    assert hash_image(tmp_path / "a.jpg", keep_bytes=len(data)) == (sha256, data)
    assert hash_image(tmp_path / "a.jpg", keep_bytes=len(data) - 1) == (sha256, None)


def test_a_file_that_changed_is_not_decoded(tmp_path):
    (tmp_path / "a.jpg").write_bytes(jpeg())
    sha256, _ = hash_image(tmp_path / "a.jpg")
    with opened_image(tmp_path / "a.jpg", sha256=sha256) as image:
        assert image.size == (48, 32)
    (tmp_path / "a.jpg").write_bytes(jpeg(1))
    with (
        pytest.raises(UnreadableImage, match="changed while it was read"),
        opened_image(tmp_path / "a.jpg", sha256=sha256),
    ):
        pass
