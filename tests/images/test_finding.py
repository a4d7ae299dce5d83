"""Finding images: folders, files, patterns, lists, links and hostile names."""

import csv
import io
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from captune.errors import UserError
from captune.images import Skipped, find_images, read_image
from captune_metrics.display import printable

ANY_NAME = pytest.mark.skipif(
    sys.platform != "linux", reason="other systems refuse some bytes in a file name"
)


def make(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return folder


def names(found) -> list[str]:
    assert all(image.path == found.root / image.name for image in found.images)
    return [image.name for image in found.images]


def test_folder(tmp_path):
    make(tmp_path, "b.jpg", "a.PNG", "sub/c.webp", "sub/deep/d.heic", "1_10.jpg", "1_2.jpg")
    make(tmp_path, "notes.txt", "Thumbs.db", "desktop.ini", ".hidden.jpg", "._b.jpg")
    make(tmp_path, ".git/e.jpg", "__MACOSX/._b.jpg", "__MACOSX/b.jpg", "@eaDir/b.jpg")
    found = find_images([tmp_path])
    assert found.root == tmp_path
    assert found.skipped == []
    assert names(found) == [
        "1_10.jpg",
        "1_2.jpg",
        "a.PNG",
        "b.jpg",
        "sub/c.webp",
        "sub/deep/d.heic",
    ]


def test_relative_sources(tmp_path, monkeypatch):
    make(tmp_path, "images/a.jpg", "work/x")
    monkeypatch.chdir(tmp_path / "work")
    for source in ("../images", "../images/", "../images/*.jpg", "../images/a.jpg", "./../images"):
        found = find_images([source])
        assert found.root == tmp_path / "images"
        assert names(found) == ["a.jpg"]
    monkeypatch.chdir(tmp_path / "images")
    for source in (".", "*.jpg", "a.jpg", "./a.jpg", "**"):
        assert names(find_images([source])) == ["a.jpg"]


def test_home_is_expanded(tmp_path, monkeypatch):
    make(tmp_path, "images/a.jpg")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert names(find_images(["~/images"])) == ["a.jpg"]


def test_several_sources_share_a_root(tmp_path):
    make(tmp_path, "x/a.jpg", "x/b.jpg", "y/a.jpg")
    found = find_images([tmp_path / "y", tmp_path / "x" / "b.jpg", tmp_path / "x" / "b.jpg"])
    assert found.root == tmp_path
    assert names(found) == ["x/b.jpg", "y/a.jpg"]
    again = find_images([tmp_path / "x", tmp_path / "y", tmp_path / "x"])
    assert names(again) == ["x/a.jpg", "x/b.jpg", "y/a.jpg"]


def test_named_file_is_taken_whatever_its_ending(tmp_path):
    make(tmp_path, "a.dat", ".hidden", "c.txt")
    assert names(find_images([tmp_path / "a.dat"])) == ["a.dat"]
    assert names(find_images([tmp_path / ".hidden"])) == [".hidden"]
    assert names(find_images([str(tmp_path / "*.dat")])) == ["a.dat"]
    with pytest.raises(UserError, match="2 files, none with an image's ending"):
        find_images([tmp_path])


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.jpg", ["a.jpg", "b.jpg"]),
        ("*", ["a.jpg", "b.jpg", "s/c.jpg", "s/t/d.png", "s/t/e.jpg"]),
        ("?.jpg", ["a.jpg", "b.jpg"]),
        ("[ab].jpg", ["a.jpg", "b.jpg"]),
        ("[!a].jpg", ["b.jpg"]),
        ("*/*.jpg", ["s/c.jpg"]),
        ("**/*.jpg", ["a.jpg", "b.jpg", "s/c.jpg", "s/t/e.jpg"]),
        ("**", ["a.jpg", "b.jpg", "s/c.jpg", "s/t/d.png", "s/t/e.jpg"]),
        ("**/t/*", ["s/t/d.png", "s/t/e.jpg"]),
        ("s/**/*.jpg", ["c.jpg", "t/e.jpg"]),
        ("**/s/**/e.jpg", ["s/t/e.jpg"]),
        ("*.[jp][pn]g", ["a.jpg", "b.jpg"]),
        ("**/*.txt", ["s/t/n.txt"]),
    ],
)
def test_patterns(tmp_path, pattern, expected):
    make(tmp_path, "a.jpg", "b.jpg", "s/c.jpg", "s/t/d.png", "s/t/e.jpg", "s/t/n.txt", "s/.h.jpg")
    found = find_images([str(tmp_path / pattern)])
    assert names(found) == expected
    assert found.root == (tmp_path / "s" if pattern.startswith("s/") else tmp_path)


def test_a_file_called_like_a_pattern_wins(tmp_path):
    make(tmp_path, "image [1].jpg", "image 1.jpg", "a*b.jpg", "aXb.jpg", "d[1]/e.jpg", "d1/f.jpg")
    assert names(find_images([str(tmp_path / "image [1].jpg")])) == ["image [1].jpg"]
    assert names(find_images([str(tmp_path / "a*b.jpg")])) == ["a*b.jpg"]
    assert names(find_images([str(tmp_path / "d[1]")])) == ["e.jpg"]
    assert names(find_images([str(tmp_path / "image [12].jpg")])) == ["image 1.jpg"]


def test_loops_of_links_end(tmp_path):
    make(tmp_path, "a.jpg", "s/b.jpg")
    for name in ("loop", "s/up", "s/again"):
        (tmp_path / name).symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "x.jpg").symlink_to(tmp_path / "y.jpg")
    (tmp_path / "y.jpg").symlink_to(tmp_path / "x.jpg")
    for source in (tmp_path, tmp_path / "loop" / "s" / ".."):
        found = find_images([source])
        assert names(found) == ["a.jpg", "s/b.jpg"]
        assert [(item.path, item.reason) for item in found.skipped] == [
            ("x.jpg", "too many levels of symbolic links"),
            ("y.jpg", "too many levels of symbolic links"),
        ]
    assert names(find_images([str(tmp_path / "**" / "*.jpg")])) == ["a.jpg", "s/b.jpg"]


def test_links_are_followed_and_each_real_file_is_named_once(tmp_path):
    outside = make(tmp_path / "outside", "o.jpg", "p.jpg")
    inside = make(tmp_path / "in", "z.jpg")
    (inside / "a.jpg").symlink_to(inside / "z.jpg")
    (inside / "linked").symlink_to(outside, target_is_directory=True)
    (inside / "linked too").symlink_to(outside, target_is_directory=True)
    (inside / "single.jpg").symlink_to(outside / "p.jpg")
    (inside / "dead.jpg").symlink_to(outside / "nothing.jpg")
    assert names(find_images([inside])) == [
        "dead.jpg",
        "linked/o.jpg",
        "single.jpg",
        "z.jpg",
    ]
    both = find_images([inside, outside])
    assert names(both) == ["in/dead.jpg", "in/z.jpg", "outside/o.jpg", "outside/p.jpg"]
    link = tmp_path / "link"
    link.symlink_to(outside, target_is_directory=True)
    found = find_images([link, outside / "o.jpg"])
    assert names(found) == ["link/p.jpg", "outside/o.jpg"]


def test_forbidden_folder_is_named(tmp_path, monkeypatch):
    make(tmp_path, "a.jpg", "closed/b.jpg")
    scan = os.scandir

    def refuse(folder):
        if str(folder).endswith("closed"):
            raise PermissionError(13, "Permission denied", folder)
        return scan(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    found = find_images([tmp_path])
    assert names(found) == ["a.jpg"]
    assert [(item.path, item.reason) for item in found.skipped] == [
        ("closed", "no permission to read it")
    ]
    with pytest.raises(UserError, match="closed: no permission to read it"):
        find_images([tmp_path / "closed"])


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="no such permissions on this system")
def test_really_forbidden_folder():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        make(folder, "a.jpg", "closed/b.jpg")
        (folder / "closed").chmod(0)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)  # root may read everything: look as nobody
        try:
            assert [item.path for item in find_images([folder]).skipped] == ["closed"]
        finally:
            os.seteuid(user)
            (folder / "closed").chmod(0o700)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\0"])
def test_list_on_standard_input(tmp_path, monkeypatch, end):
    make(tmp_path, "a.jpg", "b [1].jpg", "s/c.jpg")
    monkeypatch.chdir(tmp_path)
    lines = ["a.jpg", "", "b [1].jpg", "gone.jpg", "s", "a.jpg", ""]
    found = find_images(["-"], io.StringIO(end.join(lines)))
    assert names(found) == ["a.jpg", "b [1].jpg", "s/c.jpg"]
    assert [(item.path, item.reason) for item in found.skipped] == [("gone.jpg", "no such file")]


def test_paths_come_out_as_they_went_in(tmp_path, monkeypatch):
    make(tmp_path, "big/s/a.jpg", "big/s/deep/b.jpg", "c.jpg")
    monkeypatch.chdir(tmp_path)

    def given(*sources, listed=""):
        found = find_images(sources, io.StringIO(listed))
        return sorted(image.spelled for image in found.images)

    assert given("big") == ["big/s/a.jpg", "big/s/deep/b.jpg"]
    assert given("./big/", "c.jpg") == ["./big/s/a.jpg", "./big/s/deep/b.jpg", "c.jpg"]
    assert given("big/*/*.jpg") == ["big/s/a.jpg"]
    assert given("big/**/b.jpg") == ["big/s/deep/b.jpg"]
    assert given(tmp_path / "big") == [f"{tmp_path}/big/s/a.jpg", f"{tmp_path}/big/s/deep/b.jpg"]
    listed = ["./big/s/a.jpg", "big//s/deep/../deep/b.jpg"]
    assert given("-", listed="\n".join(listed)) == sorted(listed)
    assert names(find_images(["-"], io.StringIO(listed[0]))) == ["a.jpg"]

    found = find_images(["-"], io.StringIO("./big/s/a.jpg\n./big/gone.jpg"))
    skipped = [*found.skipped, Skipped(found.images[0].name, "broken")]
    spelled = [item.path for item in found.as_given(skipped)]
    assert spelled == ["./big/gone.jpg", "./big/s/a.jpg"]
    (address,) = find_images(["-"], io.StringIO("c.jpg\nhttps://x/y.jpg")).skipped
    assert address == Skipped("https://x/y.jpg", "an address, not a file")


@ANY_NAME
def test_standard_input_keeps_any_name(tmp_path, monkeypatch):
    odd = ["new\nline.jpg", "tab\t.jpg", " space .jpg", "q\"u'o,te.jpg", "caf\udce9.jpg"]
    make(tmp_path, *odd)
    monkeypatch.chdir(tmp_path)
    data = b"\0".join(os.fsencode(name) for name in odd)
    found = find_images(["-"], io.TextIOWrapper(io.BytesIO(data), "utf-8"))
    assert names(found) == sorted(odd)


def test_standard_input_of_the_program(tmp_path):
    make(tmp_path, "a.jpg")
    code = "from captune.images import find_images; print(find_images(['-']).images[0].name)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=b"a.jpg\n",
        cwd=tmp_path,
        capture_output=True,
        check=True,
    )
    assert done.stdout == b"a.jpg\n"


def random_name(chance: random.Random) -> str:
    alphabet = (
        "abcXYZ019 _-.,;'\"`$&|<>()[]{}*?!#%~^=+@\\\n\r\t\x01\x1b\x7f"
        "äéßñ日本語😀👩\u200d👧e\u0301\u202e\u2028\udc80\udcff"
    )
    name = "".join(chance.choice(alphabet) for _ in range(chance.randint(1, 40)))
    return name.lstrip(".") or "x"


@ANY_NAME
def test_any_name_survives(tmp_path):
    """Property: folder, file, list, CSV and JSON all give a hostile name back as it was."""
    chance = random.Random(7)
    wanted = sorted({random_name(chance) + ".jpg" for _ in range(150)})
    make(tmp_path, *wanted)
    found = find_images([tmp_path])
    assert names(found) == wanted
    assert find_images([image.path for image in found.images]).images == found.images
    listed = io.StringIO("\0".join(str(image.path) for image in found.images))
    assert find_images(["-"], listed).images == found.images
    assert json.loads(json.dumps(wanted)) == wanted

    table = tmp_path / "answers.csv"
    with table.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        csv.writer(file).writerows([name, "x"] for name in wanted)
    with table.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        assert [row[0] for row in csv.reader(file)] == wanted

    for image in found.images:
        assert read_image(image.path) == b"x"
        shown = printable(image.name)
        assert shown == printable(shown)
        shown.encode()


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("missing", "'missing' does not exist; give a folder"),
        ("missing.jpg", "'missing.jpg' does not exist"),
        ("", "'' does not exist"),
        ("nul\0", r"'nul\x00' does not exist"),
        ("x" * 5000, "does not exist"),
        ("new\nline", r"'new\nline' does not exist"),
        ("empty", "no images in 'empty': it is empty"),
        ("texts", "no images in 'texts': 1 file, none with an image's ending"),
        ("*.jpeg", "the pattern '*.jpeg' matches nothing"),
        ("missing/**/*.jpg", "the pattern 'missing/**/*.jpg' matches nothing"),
        ("image [1].jpg", "the pattern 'image [1].jpg' matches nothing"),
    ],
)
def test_nothing_found_is_one_sentence(tmp_path, monkeypatch, source, sentence):
    make(tmp_path, "texts/a.txt")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as refusal:
        find_images([source])
    assert sentence in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert str(refusal.value).endswith(".")


def test_no_sources_and_empty_lists():
    with pytest.raises(UserError, match="no images were given"):
        find_images([])
    with pytest.raises(UserError, match="no images in standard input: it is empty"):
        find_images(["-"], io.StringIO("\n\n"))
    with pytest.raises(UserError, match=r"no images in standard input: .*gone.*2 such places"):
        find_images(["-"], io.StringIO("/gone/a.jpg\n/gone/b.jpg"))


def test_a_limit_is_the_same_random_sample_every_time(tmp_path):
    make(tmp_path, *(f"{n:02d}.png" for n in range(40)))
    everything = find_images([tmp_path]).images
    some = find_images([tmp_path], limit=5)
    assert [one.name for one in some.images] == sorted(one.name for one in some.images)
    assert len(some.images) == 5
    assert set(some.images) < set(everything)
    assert some.images != everything[:5]
    assert find_images([tmp_path], limit=5) == some
    assert find_images([tmp_path], limit=40).images == everything


def test_deep_and_wide_folders(tmp_path):
    deep = "/".join(["d"] * 300)
    make(tmp_path, f"{deep}/a.jpg")
    assert names(find_images([tmp_path])) == [f"{deep}/a.jpg"]
