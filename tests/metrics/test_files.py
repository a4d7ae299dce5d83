from __future__ import annotations

import os
from pathlib import Path

import pytest

from captune_metrics.errors import UserError
from captune_metrics.files import open_regular, read_bytes, read_regular


@pytest.mark.skipif(os.name == "nt", reason="Windows has no named pipes in folders")
def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    link = tmp_path / "link"
    link.symlink_to("/dev/zero")
    for place in (pipe, link, Path("/dev/tty")):
        with pytest.raises(OSError, match="pipe or socket"):
            open_regular(place)
        with pytest.raises(UserError, match="pipe or socket"):
            read_bytes(str(place))
    with pytest.raises(IsADirectoryError, match="a folder"):
        open_regular(tmp_path)


def test_a_file_is_read_up_to_a_limit(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"12345")
    assert read_regular(path, 5) == b"12345"
    with pytest.raises(OSError, match="over the limit"):
        read_regular(path, 4)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system has no /proc")
def test_what_the_kernel_makes_up_is_not_read() -> None:
    assert read_regular("/proc/self/status") == b""


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="this system has no /dev/fd")
def test_a_stream_that_the_shell_names_is_read() -> None:
    reading, writing = os.pipe()
    os.write(writing, b"cat")
    os.close(writing)
    assert read_bytes(f"/dev/fd/{reading}") == b"cat"
    os.close(reading)
