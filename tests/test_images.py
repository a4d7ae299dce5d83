"""Finding, reading and decoding photos."""

import csv
import io
import json
import os
import random
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile, features

from captune.errors import UserError
from captune.images import (
    UnreadablePhoto,
    decode_photo,
    find_photos,
    open_photo,
    printable,
    read_photo,
)
from tests.photo_factory import (
    animation,
    broken_cases,
    cut_out,
    encoded,
    heic,
    jpeg,
    palette_cut_out,
    picture,
    png_header,
    readable_cases,
    turned,
    with_exif,
)

ANY_NAME = pytest.mark.skipif(
    sys.platform != "linux", reason="other systems refuse some bytes in a file name"
)

# Decoding


@pytest.mark.parametrize("case", readable_cases(), ids=lambda case: case.file)
def test_odd_files_become_rgb(case):
    image = decode_photo(case.data, case.file)
    assert image.mode == "RGB"
    assert type(image) is Image.Image
    assert min(image.size) >= 1


@pytest.mark.parametrize("case", broken_cases(), ids=lambda case: case.file)
def test_broken_files_have_a_reason(case):
    with pytest.raises(UnreadablePhoto) as refusal:
        decode_photo(case.data, case.file)
    assert refusal.value.reason == case.reason
    assert str(refusal.value) == f"{case.file}: {case.reason}"


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{"quality": 60}, {"progressive": True}, {"quality": 95}])
def test_jpeg_pixels_are_those_of_pillow(mode, options):
    data = encoded(picture(101, 67, mode=mode), "JPEG", **options)
    expected = Image.open(io.BytesIO(data)).convert("RGB")
    np.testing.assert_array_equal(decode_photo(data), expected)


@pytest.mark.needs("shared")
def test_real_photos_have_the_pixels_of_pillow(shared):
    found = find_photos([shared / "data" / "coco-mini" / "images"])
    assert len(found.photos) > 100
    for photo in found.photos[::20]:
        with Image.open(photo.path) as image:
            np.testing.assert_array_equal(open_photo(photo.path), image.convert("RGB"))


def test_adobe_cmyk_is_not_a_negative():
    white = Image.new("CMYK", (8, 8), (0, 0, 0, 0))
    assert decode_photo(encoded(white, "JPEG")).getpixel((3, 3)) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_honoured(kind, orientation):
    upright = decode_photo(turned(1, kind))
    back = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    image = decode_photo(turned(orientation, kind))
    assert not image.getexif()  # or the next one to honour EXIF turns it again
    stored = image if back is None else image.transpose(back)
    np.testing.assert_array_equal(stored, upright)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_nonsense_orientation_changes_nothing(orientation):
    np.testing.assert_array_equal(decode_photo(turned(orientation)), decode_photo(turned(1)))


@pytest.mark.parametrize(
    "exif",
    [b"", b"Exif\0\0", b"Exif\0\0II*\0\x08\0\0\0\xff\xff", b"Exif\0\0MM", os.urandom(500)],
    ids=["none", "header", "cut", "short", "noise"],
)
def test_broken_exif_does_not_kill(exif):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = decode_photo(with_exif(jpeg(), exif))
    np.testing.assert_array_equal(image, decode_photo(jpeg()))


@pytest.mark.parametrize(
    "data",
    [
        encoded(cut_out(), "PNG"),
        encoded(cut_out("LA"), "PNG"),
        palette_cut_out(),
        encoded(cut_out(), "WEBP", lossless=True),
        encoded(cut_out(), "TIFF"),
    ],
    ids=["RGBA", "LA", "palette", "webp", "tiff"],
)
def test_transparency_becomes_white(data):
    image = decode_photo(data)
    assert image.getpixel((0, 0)) == (255, 255, 255)
    ink = image.getpixel((6, 4))
    assert max(ink) - min(ink) in (0, 255)
    assert ink != (255, 255, 255)


def test_colour_key_transparency_becomes_white():
    image = picture()
    image.paste((1, 2, 3), (0, 0, 10, 10))
    decoded = decode_photo(encoded(image, "PNG", transparency=(1, 2, 3)))
    assert decoded.getpixel((4, 4)) == (255, 255, 255)
    assert decoded.getpixel((20, 20)) == image.getpixel((20, 20))


def test_half_transparent_is_mixed_and_opaque_is_exact():
    half = Image.new("RGBA", (4, 4), (0, 0, 0, 128))
    assert decode_photo(encoded(half, "PNG")).getpixel((0, 0)) == (127, 127, 127)
    opaque = picture().convert("RGBA")
    np.testing.assert_array_equal(decode_photo(encoded(opaque, "PNG")), picture())


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_first_frame(kind):
    red, green, blue = decode_photo(animation(kind)).getpixel((3, 3))
    assert red > 240
    assert max(green, blue) < 10


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bit_grey_keeps_its_range(kind):
    values = np.linspace(0, 65535, 200, dtype=np.uint16).reshape(10, 20)
    decoded = np.asarray(decode_photo(encoded(Image.fromarray(values), kind)))
    np.testing.assert_array_equal(decoded[..., 0], np.rint(values / 257))
    np.testing.assert_array_equal(decoded[..., 0], decoded[..., 2])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 0.5, 1]], np.float32), [0, 128, 255]),
        (np.array([[0, 100, 255]], np.float32), [0, 100, 255]),
        (np.array([[0, 257, 65535]], np.float32), [0, 1, 255]),
        (np.array([[-1, 0, 1]], np.float32), [0, 128, 255]),
        (np.array([[0, 6e5, 1e6]], np.float32), [0, 153, 255]),
        (np.array([[np.nan, 0, 1]], np.float32), [0, 0, 255]),
        (np.array([[np.inf, 0, 1]], np.float32), [0, 0, 255]),
        (np.array([[0, 0, 0]], np.float32), [0, 0, 0]),
        (np.array([[-7, -7, -7]], np.float32), [0, 0, 0]),
        (np.array([[0, 1, 255]], np.int32), [0, 1, 255]),
        (np.array([[0, 257, 65535]], np.int32), [0, 1, 255]),
        (np.array([[-100, 0, 100]], np.int32), [0, 128, 255]),
    ],
)
def test_32_bit_and_float_grey(values, expected):
    decoded = np.asarray(decode_photo(encoded(Image.fromarray(values), "TIFF")))
    np.testing.assert_array_equal(decoded[0, :, 0], expected)


def test_grey_without_any_number_is_refused():
    nothing = np.full((4, 4), np.nan, np.float32)
    with pytest.raises(UnreadablePhoto, match="finite"):
        decode_photo(encoded(Image.fromarray(nothing), "TIFF"))


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_avif():
    data = encoded(picture(64, 64), "AVIF", quality=95)
    difference = np.asarray(decode_photo(data), int) - np.asarray(picture(64, 64), int)
    assert np.abs(difference).mean() < 8


def test_avif_without_support_says_what_to_install(monkeypatch):
    monkeypatch.setattr("PIL.AvifImagePlugin.SUPPORTED", False)
    with pytest.raises(UnreadablePhoto, match="pip install -U pillow"):
        decode_photo(b"\0\0\0\x18ftypavif\0\0\0\0avif" + bytes(100))


def test_heic():
    pytest.importorskip("pillow_heif")
    before = dict(Image.OPEN)
    difference = np.asarray(decode_photo(heic()), int) - np.asarray(picture(64, 64), int)
    assert np.abs(difference).mean() < 8
    assert Image.OPEN.keys() == before.keys()  # nothing was registered for the whole program


def test_heic_without_its_extra_says_what_to_install(monkeypatch):
    pytest.importorskip("pillow_heif")
    data = heic()
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(UnreadablePhoto) as refusal:
        decode_photo(data)
    assert refusal.value.reason == "HEIC needs an extra: pip install 'captune[heic]'"


def test_cut_heic_is_refused():
    pytest.importorskip("pillow_heif")
    data = heic()
    with pytest.raises(UnreadablePhoto, match="HEIC"):
        decode_photo(data[: len(data) // 2])


def test_bomb_costs_nothing():
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for data in (png_header(30_000, 30_000), png_header(30_000, 30_000, bits=1, colour=0)):
        with pytest.raises(UnreadablePhoto, match="30000 x 30000"):
            decode_photo(data)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


def test_pixel_limit_is_a_choice(monkeypatch):
    data = encoded(picture(100, 100), "PNG")
    decode_photo(data, max_megapixels=0.01)
    with pytest.raises(UnreadablePhoto, match=r"over the limit of 0\.0099 megapixels"):
        decode_photo(data, max_megapixels=0.0099)
    monkeypatch.setenv("CAPTUNE_MAX_MEGAPIXELS", "0.001")
    with pytest.raises(UnreadablePhoto, match=r"0\.001 megapixels"):
        decode_photo(data)
    for nonsense in ("many", "-1", "0", "nan", "inf"):
        monkeypatch.setenv("CAPTUNE_MAX_MEGAPIXELS", nonsense)
        with pytest.raises(UserError, match=f"CAPTUNE_MAX_MEGAPIXELS={nonsense} is not"):
            decode_photo(data)


def test_limit_does_not_depend_on_the_host_program(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode_photo(jpeg()).size == (48, 32)
    assert Image.MAX_IMAGE_PIXELS == 10
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def reason_to_refuse(data: bytes) -> str | None:
    try:
        assert decode_photo(data, max_megapixels=1).mode == "RGB"
    except UnreadablePhoto as refusal:
        return refusal.reason
    return None


def test_noise_and_bit_flips_never_escape():
    """Whatever the bytes, the answer is a picture or UnreadablePhoto with one short phrase."""
    chance = random.Random(0)
    files = [case.data for case in readable_cases() if len(case.data) < 20_000]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(600):
            data = bytearray(chance.choice(files))
            for _ in range(chance.randint(1, 12)):
                data[chance.randrange(min(len(data), 400))] = chance.randrange(256)
            if chance.random() < 0.3:
                del data[chance.randrange(len(data)) :]
            reason = reason_to_refuse(bytes(data))
            assert reason is None or 0 < len(reason) < 90
            assert "\n" not in (reason or "")


def test_threads_agree():
    files = [jpeg(seed, 120, 90) for seed in range(8)] + [turned(6), encoded(cut_out(), "PNG")]
    alone = [np.asarray(decode_photo(data)) for data in files]
    barrier = threading.Barrier(4)

    def work(_):
        barrier.wait()
        return [np.asarray(decode_photo(data)) for data in files * 5]

    with ThreadPoolExecutor(4) as pool:
        for result in pool.map(work, range(4)):
            for got, expected in zip(result, alone * 5, strict=True):
                np.testing.assert_array_equal(got, expected)


# Reading


def test_read_photo_reasons(tmp_path):
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
        with pytest.raises(UnreadablePhoto) as refusal:
            read_photo(tmp_path / name)
        assert refusal.value.reason == reason


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in this file system")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(UnreadablePhoto, match="a device, pipe or socket, not a file"):
        read_photo(tmp_path / "pipe.jpg")


def test_huge_file_is_not_read(tmp_path):
    path = tmp_path / "huge.jpg"
    with path.open("wb") as file:
        file.truncate(5 * 2**40)  # sparse: takes no space
    with pytest.raises(UnreadablePhoto, match="GiB, too large for a photo"):
        read_photo(path)


def test_forbidden_file(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "a.jpg").write_bytes(jpeg())
    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(UnreadablePhoto, match="no permission to read it"):
        read_photo(tmp_path / "a.jpg")


# Finding


def make(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return folder


def names(found) -> list[str]:
    assert all(photo.path == found.root / photo.name for photo in found.photos)
    return [photo.name for photo in found.photos]


def test_folder(tmp_path):
    make(tmp_path, "b.jpg", "a.PNG", "sub/c.webp", "sub/deep/d.heic", "1_10.jpg", "1_2.jpg")
    make(tmp_path, "notes.txt", "Thumbs.db", "desktop.ini", ".hidden.jpg", "._b.jpg")
    make(tmp_path, ".git/e.jpg", "__MACOSX/._b.jpg", "__MACOSX/b.jpg", "@eaDir/b.jpg")
    found = find_photos([tmp_path])
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
    make(tmp_path, "photos/a.jpg", "work/x")
    monkeypatch.chdir(tmp_path / "work")
    for source in ("../photos", "../photos/", "../photos/*.jpg", "../photos/a.jpg", "./../photos"):
        found = find_photos([source])
        assert found.root == tmp_path / "photos"
        assert names(found) == ["a.jpg"]
    monkeypatch.chdir(tmp_path / "photos")
    for source in (".", "*.jpg", "a.jpg", "./a.jpg", "**"):
        assert names(find_photos([source])) == ["a.jpg"]


def test_home_is_expanded(tmp_path, monkeypatch):
    make(tmp_path, "photos/a.jpg")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert names(find_photos(["~/photos"])) == ["a.jpg"]


def test_several_sources_share_a_root(tmp_path):
    make(tmp_path, "x/a.jpg", "x/b.jpg", "y/a.jpg")
    found = find_photos([tmp_path / "y", tmp_path / "x" / "b.jpg", tmp_path / "x" / "b.jpg"])
    assert found.root == tmp_path
    assert names(found) == ["x/b.jpg", "y/a.jpg"]
    again = find_photos([tmp_path / "x", tmp_path / "y", tmp_path / "x"])
    assert names(again) == ["x/a.jpg", "x/b.jpg", "y/a.jpg"]


def test_named_file_is_taken_whatever_its_ending(tmp_path):
    make(tmp_path, "a.dat", ".hidden", "c.txt")
    assert names(find_photos([tmp_path / "a.dat"])) == ["a.dat"]
    assert names(find_photos([tmp_path / ".hidden"])) == [".hidden"]
    assert names(find_photos([str(tmp_path / "*.dat")])) == ["a.dat"]
    with pytest.raises(UserError, match="2 files, none with an image's ending"):
        find_photos([tmp_path])


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
    found = find_photos([str(tmp_path / pattern)])
    assert names(found) == expected
    assert found.root == (tmp_path / "s" if pattern.startswith("s/") else tmp_path)


def test_a_file_called_like_a_pattern_wins(tmp_path):
    make(tmp_path, "photo [1].jpg", "photo 1.jpg", "a*b.jpg", "aXb.jpg", "d[1]/e.jpg", "d1/f.jpg")
    assert names(find_photos([str(tmp_path / "photo [1].jpg")])) == ["photo [1].jpg"]
    assert names(find_photos([str(tmp_path / "a*b.jpg")])) == ["a*b.jpg"]
    assert names(find_photos([str(tmp_path / "d[1]")])) == ["e.jpg"]
    assert names(find_photos([str(tmp_path / "photo [12].jpg")])) == ["photo 1.jpg"]


def test_loops_of_links_end(tmp_path):
    make(tmp_path, "a.jpg", "s/b.jpg")
    for name in ("loop", "s/up", "s/again"):
        (tmp_path / name).symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "x.jpg").symlink_to(tmp_path / "y.jpg")
    (tmp_path / "y.jpg").symlink_to(tmp_path / "x.jpg")
    for source in (tmp_path, tmp_path / "loop" / "s" / ".."):
        found = find_photos([source])
        assert names(found) == ["a.jpg", "s/b.jpg"]
        assert [(item.path, item.reason) for item in found.skipped] == [
            ("x.jpg", "too many levels of symbolic links"),
            ("y.jpg", "too many levels of symbolic links"),
        ]
    assert names(find_photos([str(tmp_path / "**" / "*.jpg")])) == ["a.jpg", "s/b.jpg"]


def test_links_are_followed_and_each_real_file_is_named_once(tmp_path):
    outside = make(tmp_path / "outside", "o.jpg", "p.jpg")
    inside = make(tmp_path / "in", "z.jpg")
    (inside / "a.jpg").symlink_to(inside / "z.jpg")
    (inside / "linked").symlink_to(outside, target_is_directory=True)
    (inside / "linked too").symlink_to(outside, target_is_directory=True)
    (inside / "single.jpg").symlink_to(outside / "p.jpg")
    (inside / "dead.jpg").symlink_to(outside / "nothing.jpg")
    assert names(find_photos([inside])) == [
        "dead.jpg",
        "linked/o.jpg",
        "single.jpg",
        "z.jpg",
    ]
    both = find_photos([inside, outside])
    assert names(both) == ["in/dead.jpg", "in/z.jpg", "outside/o.jpg", "outside/p.jpg"]
    link = tmp_path / "link"
    link.symlink_to(outside, target_is_directory=True)
    found = find_photos([link, outside / "o.jpg"])
    assert names(found) == ["link/p.jpg", "outside/o.jpg"]


def test_forbidden_folder_is_named(tmp_path, monkeypatch):
    make(tmp_path, "a.jpg", "closed/b.jpg")
    scan = os.scandir

    def refuse(folder):
        if str(folder).endswith("closed"):
            raise PermissionError(13, "Permission denied", folder)
        return scan(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    found = find_photos([tmp_path])
    assert names(found) == ["a.jpg"]
    assert [(item.path, item.reason) for item in found.skipped] == [
        ("closed", "no permission to read it")
    ]
    with pytest.raises(UserError, match="closed: no permission to read it"):
        find_photos([tmp_path / "closed"])


@pytest.mark.skipif(getattr(os, "geteuid", int)() == 0, reason="root may read everything")
def test_really_forbidden_folder(tmp_path):
    make(tmp_path, "a.jpg", "closed/b.jpg")
    (tmp_path / "closed").chmod(0)
    try:
        assert [item.path for item in find_photos([tmp_path]).skipped] == ["closed"]
    finally:
        (tmp_path / "closed").chmod(0o700)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\0"])
def test_list_on_standard_input(tmp_path, monkeypatch, end):
    make(tmp_path, "a.jpg", "b [1].jpg", "s/c.jpg")
    monkeypatch.chdir(tmp_path)
    lines = ["a.jpg", "", "b [1].jpg", "gone.jpg", "s", "a.jpg", ""]
    found = find_photos(["-"], io.StringIO(end.join(lines)))
    assert names(found) == ["a.jpg", "b [1].jpg", "s/c.jpg"]
    assert [(item.path, item.reason) for item in found.skipped] == [("gone.jpg", "no such file")]


@ANY_NAME
def test_standard_input_keeps_any_name(tmp_path, monkeypatch):
    odd = ["new\nline.jpg", "tab\t.jpg", " space .jpg", "q\"u'o,te.jpg", "caf\udce9.jpg"]
    make(tmp_path, *odd)
    monkeypatch.chdir(tmp_path)
    data = b"\0".join(os.fsencode(name) for name in odd)
    found = find_photos(["-"], io.TextIOWrapper(io.BytesIO(data), "utf-8"))
    assert names(found) == sorted(odd)


def test_standard_input_of_the_program(tmp_path):
    make(tmp_path, "a.jpg")
    code = "from captune.images import find_photos; print(find_photos(['-']).photos[0].name)"
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
    found = find_photos([tmp_path])
    assert names(found) == wanted
    assert find_photos([photo.path for photo in found.photos]).photos == found.photos
    listed = io.StringIO("\0".join(str(photo.path) for photo in found.photos))
    assert find_photos(["-"], listed).photos == found.photos
    assert json.loads(json.dumps(wanted)) == wanted

    table = tmp_path / "answers.csv"
    with table.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        csv.writer(file).writerows([name, "x"] for name in wanted)
    with table.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        assert [row[0] for row in csv.reader(file)] == wanted

    for photo in found.photos:
        assert read_photo(photo.path) == b"x"
        shown = printable(photo.name)
        assert shown.isprintable()
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
        ("empty", "no photos in 'empty': it is empty"),
        ("texts", "no photos in 'texts': 1 file, none with an image's ending"),
        ("*.jpeg", "the pattern '*.jpeg' matches nothing"),
        ("missing/**/*.jpg", "the pattern 'missing/**/*.jpg' matches nothing"),
        ("photo [1].jpg", "the pattern 'photo [1].jpg' matches nothing"),
    ],
)
def test_nothing_found_is_one_sentence(tmp_path, monkeypatch, source, sentence):
    make(tmp_path, "texts/a.txt")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as refusal:
        find_photos([source])
    assert sentence in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert str(refusal.value).endswith(".")


def test_no_sources_and_empty_lists():
    with pytest.raises(UserError, match="no photos were given"):
        find_photos([])
    with pytest.raises(UserError, match="no photos in standard input: it is empty"):
        find_photos(["-"], io.StringIO("\n\n"))
    with pytest.raises(UserError, match=r"no photos in standard input: .*gone.*2 such places"):
        find_photos(["-"], io.StringIO("/gone/a.jpg\n/gone/b.jpg"))


def test_deep_and_wide_folders(tmp_path):
    deep = "/".join(["d"] * 300)
    make(tmp_path, f"{deep}/a.jpg")
    assert names(find_photos([tmp_path])) == [f"{deep}/a.jpg"]
